//! When things are due. A schedule stands before anything is done and does not wait for it, so that a slow sender hides
//! no latency (coordinated omission).

use std::time::{Duration, Instant};

use super::plan::Pace;
use crate::rng::Rng;

/// The times of one pace, one after the other.
#[derive(Debug)]
pub(super) struct Schedule {
    pace: Pace,
    rng: Rng,
    next: Option<Instant>,
}

impl Schedule {
    pub(super) fn new(pace: Pace, rng: Rng) -> Self {
        let next = (pace.start < pace.end).then_some(pace.start);
        Self { pace, rng, next }
    }

    /// The first time that was not taken; none after the last.
    pub(super) fn next(&self) -> Option<Instant> {
        self.next
    }

    /// That time is taken.
    pub(super) fn advance(&mut self) {
        let Some(due) = self.next else { return };
        let share = if self.pace.random {
            // The inverse of the exponential distribution; 1 − u is never 0.
            -(1.0 - self.rng.unit()).ln()
        } else {
            1.0
        };
        // Never two at one instant: an interval of nothing would have no end.
        let step = self.pace.interval.mul_f64(share).max(Duration::from_micros(1));
        self.next = Some(due + step).filter(|next| *next < self.pace.end);
    }

    /// Passes over what is due before this; how many they are.
    pub(super) fn skip(&mut self, before: Instant) -> u64 {
        let mut skipped = 0;
        while self.next.is_some_and(|due| due < before) {
            self.advance();
            skipped += 1;
        }
        skipped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(random: bool, seed: u64) -> Vec<f64> {
        let start = Instant::now();
        let end = start + Duration::from_secs(1000);
        let pace = Pace { start, interval: Duration::from_millis(100), random, end };
        let mut schedule = Schedule::new(pace, Rng::new(seed));
        std::iter::from_fn(|| {
            let due = schedule.next()?;
            schedule.advance();
            Some((due - start).as_secs_f64())
        })
        .collect()
    }

    #[test]
    fn a_fixed_pace_is_exact_and_ends_before_its_end() {
        let times = times(false, 1);
        assert_eq!(times.len(), 10_000);
        assert!((times[9_999] - 999.9).abs() < 1e-6);
    }

    #[test]
    fn a_random_pace_has_the_mean_and_the_spread_of_people() {
        let times = times(true, 7);
        assert!((9_700..10_300).contains(&times.len()), "{}", times.len());
        let gaps: Vec<f64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let long = gaps.iter().filter(|gap| **gap > 0.2).count() as f64 / gaps.len() as f64;
        assert!((long - (-2.0f64).exp()).abs() < 0.01, "{long}");
        assert_ne!(times, self::times(true, 8));
    }

    #[test]
    fn what_is_skipped_is_counted() {
        let start = Instant::now();
        let ms = Duration::from_millis;
        let pace = Pace { start, interval: ms(10), random: false, end: start + ms(100) };
        let mut schedule = Schedule::new(pace, Rng::new(1));
        assert_eq!(schedule.skip(start + ms(35)), 4);
        assert_eq!(schedule.next(), Some(start + ms(40)));
        assert_eq!(schedule.skip(start + ms(1000)), 6);
        assert_eq!(schedule.next(), None);
    }
}
