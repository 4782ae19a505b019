//! Latencies of a run: by lane, second, named window, sender and receiver; and who is later than the others.

use std::{collections::BTreeMap, time::Duration};

use super::record::Sample;
use crate::{browser::Lane, figures, histogram::Histogram};

/// Medians of fewer messages say nothing.
const LEAST_MESSAGES: u64 = 20;
/// Fewer users of a kind have no "others".
const LEAST_USERS: usize = 3;
/// Robust standard deviations from the median of all at which one is no part of them.
const DEVIATIONS: f64 = 8.0;
/// The median absolute deviation of a normal distribution is so much less than its standard deviation.
const TO_DEVIATION: f64 = 1.4826;
/// The share of messages that are quickest: they are late too, if the sender or receiver is always late.
const QUICKEST: f64 = 0.1;
/// A difference below this is nobody's concern.
const LEAST_DIFFERENCE: Duration = Duration::from_millis(20);

/// The durations of a report.
pub fn times(histogram: &Histogram) -> figures::Times {
    let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
    figures::Times {
        count: histogram.count(),
        mean_ms: ms(histogram.mean()),
        p50_ms: ms(histogram.quantile(0.5)),
        p95_ms: ms(histogram.quantile(0.95)),
        p99_ms: ms(histogram.quantile(0.99)),
        max_ms: ms(histogram.max()),
        cdf: histogram.distribution().into_iter().map(|(duration, share)| (ms(duration), share)).collect(),
    }
}

/// A lane, or none for the log.
pub(super) type OfLane = Option<Lane>;

/// By sender and by receiver.
#[derive(Debug, Default)]
pub(super) struct Sides {
    pub(super) senders: BTreeMap<(OfLane, u32), Histogram>,
    pub(super) receivers: BTreeMap<(OfLane, u32), Histogram>,
}

impl Sides {
    pub(super) fn count(&mut self, receiver: u32, sample: Sample) {
        self.senders.entry((sample.lane, sample.sender)).or_default().record(sample.after);
        self.receivers.entry((sample.lane, receiver)).or_default().record(sample.after);
    }
}

/// One that is later than the others of its kind.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Late<T> {
    pub(super) who: T,
    pub(super) median: Duration,
    /// The median of the others' medians.
    pub(super) others: Duration,
    pub(super) count: u64,
}

/// Those of one kind whose median is far beyond that of most. Robust: as long as they are fewer than half, the late ones do
/// not hide each other. Where they are half there are two kinds, and nobody can say which is the right one.
pub(super) fn late<T: Copy>(all: &[(T, &Histogram)]) -> Vec<Late<T>> {
    let enough = all.iter().filter(|(_, histogram)| histogram.count() >= LEAST_MESSAGES);
    let medians: Vec<(&(T, &Histogram), Duration)> = enough.map(|one| (one, one.1.quantile(0.5))).collect();
    if medians.len() < LEAST_USERS {
        return Vec::new();
    }
    let center = median(medians.iter().map(|(_, median)| *median));
    let deviation = median(medians.iter().map(|(_, median)| median.abs_diff(center)));
    let spread = deviation.mul_f64(TO_DEVIATION * DEVIATIONS);
    let bound = center + spread.max(LEAST_DIFFERENCE).max(center / 2);
    // Who was away for most of the time has many late messages, and some that are not.
    let is_late = |((who, histogram), median): (&(T, &Histogram), Duration)| {
        let is_always = histogram.quantile(QUICKEST) > bound;
        (is_always && median > bound).then(|| Late {
            who: *who,
            median,
            others: center,
            count: histogram.count(),
        })
    };
    let number = medians.len();
    let late: Vec<Late<T>> = medians.into_iter().filter_map(is_late).collect();
    if late.len() * 2 < number { late } else { Vec::new() }
}

/// The lower median; zero of nothing.
fn median(values: impl Iterator<Item = Duration>) -> Duration {
    let mut values: Vec<Duration> = values.collect();
    values.sort_unstable();
    values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    fn histograms(milliseconds: &[u64], seed: u64) -> Vec<Histogram> {
        let mut rng = Rng::new(seed);
        let one = |ms: &u64| {
            let mut histogram = Histogram::default();
            (0..100).for_each(|_| histogram.record(Duration::from_micros(ms * 1000 + rng.below(3000))));
            histogram
        };
        milliseconds.iter().map(one).collect()
    }

    fn found(milliseconds: &[u64], seed: u64) -> Vec<usize> {
        let histograms = histograms(milliseconds, seed);
        let all: Vec<(usize, &Histogram)> = histograms.iter().enumerate().collect();
        late(&all).into_iter().map(|late| late.who).collect()
    }

    #[test]
    fn one_that_is_late_is_found_and_nobody_where_all_are_alike_or_spread() {
        for seed in 0..100 {
            assert_eq!(found(&[2, 2, 2, 252, 2, 2], seed), [3]);
            assert_eq!(found(&[2, 2, 90, 40, 2, 2, 2], seed), [2, 3]);
            assert_eq!(found(&[2, 3, 2, 4, 2, 15], seed), [0; 0]);
            assert_eq!(found(&[20, 40, 60, 80, 100, 120], seed), [0; 0]);
            assert_eq!(found(&[2, 2, 2, 200, 200, 200], seed), [0; 0]);
            assert_eq!(found(&[2, 2, 2, 2, 200, 200, 200], seed), [4, 5, 6]);
            assert_eq!(found(&[2, 300], seed), [0; 0]);
        }
    }

    #[test]
    fn a_few_messages_are_no_sample() {
        let mut histograms = histograms(&[2, 2, 2], 1);
        let mut few = Histogram::default();
        (0..LEAST_MESSAGES - 1).for_each(|_| few.record(Duration::from_secs(1)));
        histograms.push(few);
        let all: Vec<(usize, &Histogram)> = histograms.iter().enumerate().collect();
        assert!(late(&all).is_empty());
        histograms[3].record(Duration::from_secs(1));
        let all: Vec<(usize, &Histogram)> = histograms.iter().enumerate().collect();
        assert_eq!(late(&all).len(), 1);
    }
}
