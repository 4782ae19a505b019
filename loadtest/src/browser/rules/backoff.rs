//! Exponential backoff with full jitter: each delay is random between `least` and a bound that doubles
//! (`client/src/backoff.js`).

use std::time::Duration;

#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    attempt: u32,
    least: Duration,
    first: Duration,
    most: Duration,
}

impl Backoff {
    pub(crate) fn new(least: Duration, first: Duration, most: Duration) -> Self {
        Self { attempt: 0, least, first, most }
    }

    /// How long to wait before the next attempt, given a random number in `[0, 1)`.
    pub(crate) fn next(&mut self, random: f64) -> Duration {
        let bound = self.first.saturating_mul(1 << self.attempt.min(30)).min(self.most);
        self.attempt += 1;
        self.least + bound.saturating_sub(self.least).mul_f64(random)
    }

    /// An attempt was good.
    pub(crate) fn reset(&mut self) {
        self.attempt = 0;
    }
}
