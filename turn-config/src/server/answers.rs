//! How many answers a network gets that has not shown a credential. Whoever forges source addresses can have this server
//! send no more than this to anybody.

use std::{
    hash::{Hash as _, Hasher as _},
    net::IpAddr,
    time::Instant,
};

use rustc_hash::FxHasher;

/// Networks that are told apart; any two of them share an allowance with this probability.
const SLOTS: usize = 8192;

/// See the module. Memory is fixed: a network is a slot of a table, by a seeded hash.
#[derive(Debug)]
pub(super) struct Answers {
    per_second: f32,
    burst: f32,
    seed: u64,
    start: Instant,
    slots: Vec<Slot>,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    left: f32,
    /// Milliseconds since the start; wraps after seven weeks, which gives a network a fuller allowance once.
    at: u32,
}

impl Answers {
    pub(super) fn new(per_second: u32, burst: u32, seed: u64, now: Instant) -> Self {
        let burst = burst as f32;
        let slots = vec![Slot { left: burst, at: 0 }; SLOTS];
        Self { per_second: per_second as f32, burst, seed, start: now, slots }
    }

    /// Whether one more answer may go there; it counts if it may.
    pub(super) fn take(&mut self, to: IpAddr, now: Instant) -> bool {
        let at = now.saturating_duration_since(self.start).as_millis() as u32;
        let slot = self.slot(to);
        let slot = &mut self.slots[slot];
        let passed = at.wrapping_sub(slot.at) as f32 / 1000.0;
        slot.left = (slot.left + passed * self.per_second).min(self.burst);
        slot.at = at;
        let may = slot.left >= 1.0;
        if may {
            slot.left -= 1.0;
        }
        may
    }

    fn slot(&self, address: IpAddr) -> usize {
        let network = match address.to_canonical() {
            IpAddr::V4(address) => u64::from(u32::from(address) >> 8),
            IpAddr::V6(address) => 1 << 63 | (u128::from(address) >> 72) as u64,
        };
        let mut hasher = FxHasher::default();
        (self.seed, network).hash(&mut hasher);
        // The upper bits are the better mixed ones.
        (hasher.finish() >> 40) as usize % SLOTS
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_network_gets_its_burst_and_then_its_rate() {
        let start = Instant::now();
        let mut answers = Answers::new(10, 100, 7, start);
        let to = |last: u8| IpAddr::from([192, 0, 2, last]);
        let got = |answers: &mut Answers, now| (0..=255).filter(|last| answers.take(to(*last), now)).count();
        assert_eq!(got(&mut answers, start), 100);
        assert_eq!(got(&mut answers, start + Duration::from_secs(2)), 20);
        assert_eq!(got(&mut answers, start + Duration::from_secs(1000)), 100);
        assert!(answers.take("::ffff:198.51.100.1".parse().unwrap(), start), "another network");
        assert!(answers.take("2001:db8::1".parse().unwrap(), start), "another network");
    }
}
