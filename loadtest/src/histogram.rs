//! Durations counted in buckets whose width grows with their value: quantiles within 1.6 %, in bounded memory,
//! and mergeable.

use std::time::Duration;

/// Buckets per power of two.
const STEPS: u64 = 64;
const STEP_BITS: u32 = STEPS.trailing_zeros();
/// Enough for any number of microseconds that a `u64` holds.
const BUCKETS: usize = (64 - STEP_BITS as usize + 1) * STEPS as usize;

/// A histogram of durations, to the microsecond.
#[derive(Clone)]
pub struct Histogram {
    counts: Vec<u64>,
    count: u64,
    max: Duration,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: Vec::new(), count: 0, max: Duration::ZERO }
    }
}

impl Histogram {
    /// Counts a duration.
    pub fn record(&mut self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        if self.counts.is_empty() {
            self.counts = vec![0; BUCKETS];
        }
        self.counts[bucket(micros)] += 1;
        self.count += 1;
        self.max = self.max.max(duration);
    }

    /// Adds what another has counted.
    pub fn merge(&mut self, other: &Self) {
        if self.counts.is_empty() {
            self.counts = vec![0; BUCKETS];
        }
        for (own, others) in self.counts.iter_mut().zip(&other.counts) {
            *own += others;
        }
        self.count += other.count;
        self.max = self.max.max(other.max);
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The longest.
    pub fn max(&self) -> Duration {
        self.max
    }

    /// The duration that this share (0 to 1) of all do not exceed; zero if there are none.
    pub fn quantile(&self, share: f64) -> Duration {
        let rank = ((self.count as f64 * share).ceil() as u64).clamp(1, self.count.max(1));
        let mut seen = 0;
        for (number, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return Duration::from_micros(highest(number)).min(self.max);
            }
        }
        self.max
    }
}

impl std::fmt::Debug for Histogram {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (p50, p99) = (self.quantile(0.5), self.quantile(0.99));
        write!(f, "Histogram({} values, p50 {p50:?}, p99 {p99:?}, max {:?})", self.count, self.max)
    }
}

fn bucket(value: u64) -> usize {
    // Values below STEPS have a bucket each; above, the STEP_BITS bits after the leading one choose.
    let exponent = (u64::BITS - (value | (STEPS - 1)).leading_zeros()).saturating_sub(STEP_BITS);
    let offset = if exponent == 0 { value } else { (value >> (exponent - 1)) & (STEPS - 1) };
    if exponent == 0 { offset as usize } else { (u64::from(exponent) * STEPS + offset) as usize }
}

/// The highest value of a bucket.
fn highest(bucket: usize) -> u64 {
    let (exponent, offset) = (bucket as u64 / STEPS, bucket as u64 % STEPS);
    if exponent == 0 {
        return offset;
    }
    let shift = exponent - 1;
    let lowest = (STEPS + offset) << shift;
    lowest + ((1 << shift) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_exact_within_the_width_of_a_bucket() {
        let mut histogram = Histogram::default();
        for micros in 1..=100_000 {
            histogram.record(Duration::from_micros(micros));
        }
        for (share, expected) in [(0.5, 50_000.0), (0.95, 95_000.0), (0.99, 99_000.0), (1.0, 100_000.0)] {
            let found = histogram.quantile(share).as_micros() as f64;
            assert!((found / expected - 1.0).abs() < 0.016, "{share}: {found}");
        }
        assert_eq!(histogram.max(), Duration::from_micros(100_000));
    }

    #[test]
    fn every_value_lies_in_its_bucket_and_none_is_out_of_range() {
        let values = (0..200).chain((6..64).flat_map(|bit| [(1 << bit) - 1, 1 << bit, (1 << bit) + 1]));
        for value in values.chain([u64::MAX]) {
            let number = bucket(value);
            assert!(number < BUCKETS, "{value}");
            assert!(highest(number) >= value, "{value}");
            assert!(number == 0 || highest(number - 1) < value, "{value}");
        }
    }

    #[test]
    fn merging_is_counting_together() {
        let (mut all, mut odd, mut even) = (Histogram::default(), Histogram::default(), Histogram::default());
        for micros in 0..1000 {
            let duration = Duration::from_micros(micros * micros);
            all.record(duration);
            if micros % 2 == 0 { even.record(duration) } else { odd.record(duration) }
        }
        odd.merge(&even);
        assert_eq!((odd.count(), odd.max()), (all.count(), all.max()));
        assert_eq!(odd.quantile(0.7), all.quantile(0.7));
    }

    #[test]
    fn an_empty_histogram_has_no_durations() {
        assert_eq!(Histogram::default().quantile(0.99), Duration::ZERO);
    }
}
