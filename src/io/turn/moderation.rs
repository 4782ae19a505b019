//! When the thread rests, so that more comes together: what a datagram costs is mostly the system calls that it is in,
//! and a thread that takes each datagram as it comes needs the most of them when it is busy. Network cards moderate their
//! interrupts for the same reason.
//!
//! It rests only where there is something to gain, that is after some turns that hardly waited and took little; a thread
//! with much to do finds much in each turn, and one with little to do waits for it.

use std::time::Duration;

/// Whoever waited no longer than this for something to happen has hardly waited: about two datagrams' worth of work.
const HARDLY: Duration = Duration::from_micros(10);
/// A turn with fewer datagrams took little.
const LITTLE: u64 = 64;
/// So many such turns in a row, not counting the first, make a busy thread.
const TURNS: u32 = 2;
/// How long it rests. The kernel adds its slack of timers, 50 µs.
const REST: Duration = Duration::from_micros(50);

/// What is known of the turns so far.
#[derive(Debug, Default)]
pub(super) struct Moderation {
    /// Turns in a row that hardly waited and took little.
    busy: u32,
}

impl Moderation {
    /// How long to rest after a turn, for which the thread waited so long and in which it took so many datagrams.
    pub(super) fn after(&mut self, waited: Duration, taken: u64) -> Option<Duration> {
        if waited > HARDLY || taken >= LITTLE || taken == 0 {
            self.busy = 0;
            return None;
        }
        self.busy += 1;
        if self.busy <= TURNS {
            return None;
        }
        self.busy = 0;
        Some(REST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT_ONCE: Duration = Duration::from_micros(1);

    fn rests(turns: &[(Duration, u64)]) -> usize {
        let mut moderation = Moderation::default();
        turns.iter().filter(|(waited, taken)| moderation.after(*waited, *taken).is_some()).count()
    }

    #[test]
    fn a_thread_that_takes_little_without_waiting_rests_every_third_turn() {
        assert_eq!(rests(&[(AT_ONCE, 5); 9]), 3);
    }

    #[test]
    fn whoever_waits_takes_much_or_takes_nothing_does_not_rest() {
        assert_eq!(rests(&[(Duration::from_micros(100), 1); 9]), 0);
        assert_eq!(rests(&[(AT_ONCE, 64); 9]), 0);
        assert_eq!(rests(&[(AT_ONCE, 0); 9]), 0);
        let broken = [(AT_ONCE, 5), (AT_ONCE, 5), (Duration::from_micros(100), 5)];
        assert_eq!(rests(&broken.repeat(5)), 0);
    }
}
