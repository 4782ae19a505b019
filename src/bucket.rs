//! A token bucket: how often something may be done, and how much of it at once. The rate and the size are the caller's,
//! so that a bucket is small.

use std::time::{Duration, Instant};

/// Tokens left, as of an instant.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Bucket {
    /// A bucket with so many tokens.
    pub fn new(tokens: f64, now: Instant) -> Self {
        Self { tokens, at: now }
    }

    /// Takes one token, or says when there will be one.
    ///
    /// # Errors
    /// How long it takes until there is a token; an hour if there never will be.
    pub fn take(&mut self, per_second: f64, most: f64, now: Instant) -> Result<(), Duration> {
        self.check(per_second, most, now)?;
        self.tokens -= 1.0;
        Ok(())
    }

    /// Whether there is a token to take.
    ///
    /// # Errors
    /// As [`take`](Self::take).
    pub fn check(&mut self, per_second: f64, most: f64, now: Instant) -> Result<(), Duration> {
        let passed = now.saturating_duration_since(self.at);
        self.at = self.at.max(now);
        self.tokens = (self.tokens + passed.as_secs_f64() * per_second).min(most);
        if self.tokens >= 1.0 {
            return Ok(());
        }
        let wait = (1.0 - self.tokens) / per_second;
        Err(Duration::try_from_secs_f64(wait).map_or(NEVER, |wait| wait.min(NEVER)))
    }

    /// Whether it holds all it can, as of the last call.
    pub fn is_full(&self, most: f64) -> bool {
        self.tokens >= most
    }
}

const NEVER: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_what_it_holds_and_then_one_by_one() {
        let start = Instant::now();
        let mut bucket = Bucket::new(2.0, start);
        assert_eq!(bucket.take(4.0, 2.0, start), Ok(()));
        assert_eq!(bucket.check(4.0, 2.0, start), Ok(()));
        assert_eq!(bucket.take(4.0, 2.0, start), Ok(()));
        assert_eq!(bucket.take(4.0, 2.0, start), Err(Duration::from_millis(250)));
        assert_eq!(bucket.take(4.0, 2.0, start + Duration::from_millis(250)), Ok(()));
        assert_eq!(bucket.take(0.0, 2.0, start + Duration::from_millis(250)), Err(NEVER));
    }
}
