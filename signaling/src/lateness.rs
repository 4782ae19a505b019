//! How much later than expected answers come: mean and variation, as TCP keeps those of round trips (RFC 6298, section 2).
//! Whoever doubts a path because nothing comes waits for as long as that happens anyway. Pure.

use std::time::{Duration, Instant};

/// What comes this soon after a sample came with it.
const BUNCH: Duration = Duration::from_millis(10);
/// The path was away then, which says nothing of how it is.
const MOST: Duration = Duration::from_millis(400);

/// Forgets a long silence within some twenty answers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lateness {
    mean: Duration,
    variation: Duration,
    sampled: Option<Instant>,
}

impl Lateness {
    /// Something has come that was `expected` then.
    pub fn came(&mut self, expected: Instant, now: Instant) {
        if self.sampled.is_some_and(|sampled| now < sampled + BUNCH) {
            return;
        }
        self.sampled = Some(now);
        let late = now.saturating_duration_since(expected).min(MOST);
        self.variation = (self.variation * 3 + self.mean.abs_diff(late)) / 4;
        self.mean = (self.mean * 7 + late) / 8;
    }

    /// What is later than that is so for a reason.
    pub fn bound(&self) -> Duration {
        (self.mean + 4 * self.variation).min(MOST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn the_bound_is_above_what_happens_and_a_long_silence_is_forgotten() {
        let start = Instant::now();
        let mut lateness = Lateness::default();
        let mut now = start;
        let mut after = |late, times| {
            for _ in 0..times {
                now += ms(200);
                lateness.came(now - ms(late), now);
                // The rest of the bunch.
                lateness.came(now, now + ms(9));
            }
            lateness.bound()
        };
        assert_eq!(after(0, 10), ms(0));
        assert!((ms(40)..ms(42)).contains(&after(40, 60)));
        assert_eq!(after(5_000, 1), MOST);
        assert!(after(40, 20) < ms(90));
        for _ in 0..40 {
            after(0, 1);
            after(120, 1);
        }
        assert!((ms(250)..=ms(400)).contains(&after(0, 1)));
    }
}
