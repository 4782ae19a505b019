//! Users: how many allocations each has, and how much each has had relayed (NAT2).

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// Bytes that may pass, as of an instant.
#[derive(Clone, Copy, Debug)]
struct Allowance {
    bytes: f64,
    at: Instant,
}

#[derive(Debug)]
struct User {
    name: Box<[u8]>,
    /// Allocations, and ports that are reserved for it.
    holdings: u32,
    allowance: Allowance,
    /// When the allowance is full, as of the last release.
    full: Instant,
}

/// All users who have an allocation, or had one so lately that a new one must not bring them a new allowance.
#[derive(Debug)]
pub(super) struct Users {
    bytes_per_second: f64,
    burst: f64,
    slots: Vec<Option<User>>,
    vacant: Vec<u32>,
    by_name: BTreeMap<Box<[u8]>, u32>,
}

impl Users {
    /// A rate of 0 is no limit.
    pub(super) fn new(bytes_per_second: u64, burst: u64) -> Self {
        Self {
            bytes_per_second: bytes_per_second as f64,
            burst: burst as f64,
            slots: Vec::new(),
            vacant: Vec::new(),
            by_name: BTreeMap::new(),
        }
    }

    /// How many allocations and reservations a user has.
    pub(super) fn holdings(&self, name: &[u8]) -> u32 {
        let slot = self.by_name.get(name);
        slot.and_then(|slot| self.slots[*slot as usize].as_ref()).map_or(0, |user| user.holdings)
    }

    /// Whether the user in this slot has this name.
    pub(super) fn is(&self, slot: u32, name: &[u8]) -> bool {
        self.by_name.get(name) == Some(&slot)
    }

    /// One more for a user, whose slot it returns.
    pub(super) fn hold(&mut self, name: &[u8], now: Instant) -> u32 {
        let slot = self.by_name.get(name).copied().unwrap_or_else(|| {
            let allowance = Allowance { bytes: self.burst, at: now };
            let user = Some(User { name: name.into(), holdings: 0, allowance, full: now });
            let slot = self.vacant.pop().unwrap_or(self.slots.len() as u32);
            match self.slots.get_mut(slot as usize) {
                Some(vacant) => *vacant = user,
                None => self.slots.push(user),
            }
            self.by_name.insert(name.into(), slot);
            slot
        });
        if let Some(user) = &mut self.slots[slot as usize] {
            user.holdings += 1;
        }
        slot
    }

    /// One less. Says when to call [`forget`](Self::forget) if it was the last.
    pub(super) fn release(&mut self, slot: u32, now: Instant) -> Option<Instant> {
        let user = self.slots[slot as usize].as_mut()?;
        user.holdings = user.holdings.saturating_sub(1);
        (user.holdings == 0).then(|| {
            let missing = self.burst - user.allowance.bytes;
            let refill = if self.bytes_per_second > 0.0 { missing / self.bytes_per_second } else { 0.0 };
            user.full = now + Duration::try_from_secs_f64(refill).unwrap_or_default();
            user.full
        })
    }

    /// Forgets a user who has nothing any more, not even a debt.
    pub(super) fn forget(&mut self, slot: u32, now: Instant) {
        let user = &mut self.slots[slot as usize];
        if let Some(User { name, holdings: 0, full, .. }) = user
            && *full <= now
        {
            self.by_name.remove(name);
            *user = None;
            self.vacant.push(slot);
        }
    }

    /// Whether so many bytes may pass; they count if they may.
    pub(super) fn take(&mut self, slot: u32, bytes: usize, now: Instant) -> bool {
        if self.bytes_per_second == 0.0 {
            return true;
        }
        let Some(user) = &mut self.slots[slot as usize] else { return false };
        let Allowance { bytes: left, at } = &mut user.allowance;
        if now > *at {
            *left = (*left + (now - *at).as_secs_f64() * self.bytes_per_second).min(self.burst);
            *at = now;
        }
        let wanted = bytes as f64;
        let may = wanted <= *left;
        if may {
            *left -= wanted;
        }
        may
    }

    /// How many are remembered.
    pub(super) fn len(&self) -> usize {
        self.by_name.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn an_allowance_is_one_for_all_allocations_and_survives_them() {
        let now = Instant::now();
        let mut users = Users::new(1000, 5000);
        let slot = users.hold(b"alice", now);
        assert_eq!((users.hold(b"alice", now), users.hold(b"bob", now)), (slot, 1));
        assert_eq!(users.holdings(b"alice"), 2);
        assert!(users.take(slot, 5000, now) && !users.take(slot, 1, now));
        assert!(users.take(1, 5000, now), "bob's is another");
        assert!(users.take(slot, 1000, now + SECOND) && !users.take(slot, 1, now + SECOND));

        assert_eq!(users.release(slot, now + SECOND), None);
        assert_eq!(users.release(slot, now + SECOND), Some(now + 6 * SECOND), "when it is full again");
        assert_eq!(users.hold(b"alice", now + 2 * SECOND), slot);
        assert!(!users.take(slot, 1001, now + 2 * SECOND), "no new allowance");
        users.forget(slot, now + 6 * SECOND);
        assert_eq!(users.len(), 2, "alice has an allocation again");
        assert!(users.take(slot, 1000, now + 6 * SECOND));
        assert_eq!(users.release(slot, now + 6 * SECOND), Some(now + 7 * SECOND));
        users.forget(slot, now + 6 * SECOND);
        assert_eq!(users.len(), 2, "alice has a debt");
        users.forget(slot, now + 7 * SECOND);
        assert_eq!((users.len(), users.holdings(b"alice")), (1, 0));
        assert_eq!(users.hold(b"carol", now), slot, "the slot is used again");
    }

    #[test]
    fn without_a_rate_everything_passes() {
        let now = Instant::now();
        let mut users = Users::new(0, 0);
        let slot = users.hold(b"alice", now);
        assert!(users.take(slot, usize::MAX, now));
        assert_eq!(users.release(slot, now), Some(now));
    }
}
