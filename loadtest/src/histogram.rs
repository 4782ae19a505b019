//! Durations counted in buckets whose width grows with their value: quantiles within 1.6 %, in bounded memory,
//! and mergeable.

use std::time::Duration;

/// Buckets per power of two.
const STEPS: u64 = 64;
const STEP_BITS: u32 = STEPS.trailing_zeros();
/// Points of a distribution, the last one apart.
const POINTS: f64 = 98.0;

/// A histogram of durations, to the microsecond. It keeps the buckets from the lowest used one to the highest.
#[derive(Clone, Default)]
pub struct Histogram {
    /// The number of the first bucket that is kept.
    first: usize,
    counts: Vec<u64>,
    count: u64,
    sum: Duration,
    max: Duration,
}

impl Histogram {
    /// Counts a duration.
    pub fn record(&mut self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        *self.bucket(bucket(micros)) += 1;
        self.count += 1;
        self.sum = self.sum.saturating_add(duration);
        self.max = self.max.max(duration);
    }

    /// Adds what another has counted.
    pub fn merge(&mut self, other: &Self) {
        for (number, count) in other.used() {
            *self.bucket(number) += count;
        }
        self.count += other.count;
        self.sum = self.sum.saturating_add(other.sum);
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

    /// Their mean, exactly; zero if there are none.
    pub fn mean(&self) -> Duration {
        self.sum.div_f64((self.count as f64).max(1.0))
    }

    /// The duration that this share (0 to 1) of all do not exceed; zero if there are none.
    pub fn quantile(&self, share: f64) -> Duration {
        let rank = ((self.count as f64 * share).ceil() as u64).clamp(1, self.count.max(1));
        let mut seen = 0;
        for (number, count) in self.used() {
            seen += count;
            if seen >= rank {
                return Duration::from_micros(highest(number)).min(self.max);
            }
        }
        self.max
    }

    /// The distribution: durations and the share of all that took no longer, rising in both; at most 100 points.
    pub fn distribution(&self) -> Vec<(Duration, f64)> {
        let (mut points, mut seen, mut last) = (Vec::new(), 0, -1.0);
        for (number, count) in self.used() {
            seen += count;
            let share = seen as f64 / self.count as f64;
            let step = (share * POINTS).floor();
            if step > last || seen == self.count {
                points.push((Duration::from_micros(highest(number)).min(self.max), share));
                last = step;
            }
        }
        points
    }

    /// The buckets with something in them.
    fn used(&self) -> impl Iterator<Item = (usize, u64)> {
        (self.first..).zip(self.counts.iter().copied()).filter(|(_, count)| *count > 0)
    }

    /// A bucket, which is kept from now on.
    fn bucket(&mut self, number: usize) -> &mut u64 {
        if self.counts.is_empty() {
            self.first = number;
        } else if number < self.first {
            // A little more than needed: values seldom come in rising order.
            let first = number - number % 16;
            self.counts.splice(0..0, std::iter::repeat_n(0, self.first - first));
            self.first = first;
        }
        let place = number - self.first;
        if self.counts.len() <= place {
            self.counts.resize(place + 1, 0);
        }
        &mut self.counts[place]
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
    fn values_in_any_order_are_counted_alike_and_narrow_ones_take_little_memory() {
        let mut values: Vec<u64> = (0..5_000).map(|value| value * value % 7_919 + 50_000).collect();
        let mut histogram = Histogram::default();
        values.iter().for_each(|value| histogram.record(Duration::from_micros(*value)));
        values.sort_unstable();
        let exact = values[2_499] as f64;
        assert!((histogram.quantile(0.5).as_micros() as f64 / exact - 1.0).abs() < 0.016);
        let mean = values.iter().sum::<u64>() as f64 / 5_000.0;
        assert!((histogram.mean().as_secs_f64() * 1e6 - mean).abs() < 1.0);
        assert!(histogram.counts.len() < 64, "{}", histogram.counts.len());
    }

    #[test]
    fn a_distribution_rises_to_one_in_at_most_a_hundred_points() {
        let mut histogram = Histogram::default();
        assert!(histogram.distribution().is_empty());
        (1..=50_000).for_each(|micros| histogram.record(Duration::from_micros(micros)));
        let points = histogram.distribution();
        assert!((80..=100).contains(&points.len()), "{}", points.len());
        assert!(points.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 < pair[1].1));
        assert_eq!(points.last(), Some(&(Duration::from_micros(50_000), 1.0)));
    }

    #[test]
    fn every_value_lies_in_its_bucket() {
        let values = (0..200).chain((6..64).flat_map(|bit| [(1 << bit) - 1, 1 << bit, (1 << bit) + 1]));
        for value in values.chain([u64::MAX]) {
            let number = bucket(value);
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
