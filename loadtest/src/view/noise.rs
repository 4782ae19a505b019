//! How much a figure varies by itself: what a difference between two runs has to exceed.

use crate::figures::{Report, Second, Times};

/// Parts of a span of time, and the fewest that show how much a figure varies by itself.
const PARTS: usize = 10;
const FEWEST_PARTS: usize = 5;

/// The change as a share of the first value.
pub(super) fn relative(a: f64, b: f64) -> f64 {
    if a == b { 0.0 } else { (b - a).abs() / a.abs() }
}

/// The seconds in which all users were there.
pub(super) fn hold(report: &Report) -> &[Second] {
    seconds(report, report.scenario.ramp_s, report.scenario.ramp_s + report.scenario.hold_s)
}

/// The seconds of this span of time.
pub(super) fn seconds(report: &Report, from_s: f64, until_s: f64) -> &[Second] {
    let start = report.timeline.partition_point(|second| second.at_s <= from_s);
    let end = report.timeline.partition_point(|second| second.at_s <= until_s);
    report.timeline.get(start..end).unwrap_or_default()
}

/// The standard error of the mean difference between the two, from the differences of their equal parts; nothing if too
/// few parts have values in both.
pub(super) fn paired_error([a, b]: [&[Second]; 2], of: impl Fn(&Second) -> Option<f64>) -> Option<f64> {
    let parts = PARTS.min(a.len()).min(b.len());
    let part = |seconds: &[Second], number: usize| {
        let bounds = [number, number + 1].map(|edge| edge * seconds.len() / parts);
        mean(&seconds[bounds[0]..bounds[1]].iter().filter_map(&of).collect::<Vec<_>>())
    };
    let differences: Vec<f64> =
        (0..parts).filter_map(|number| Some(part(b, number)? - part(a, number)?)).collect();
    if differences.len() < FEWEST_PARTS {
        return None;
    }
    let (middle, number) = (mean(&differences)?, differences.len() as f64);
    let variance = differences.iter().map(|part| (part - middle).powi(2)).sum::<f64>() / (number - 1.0);
    Some((variance / number).sqrt())
}

/// The mean; nothing of nothing.
pub(super) fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// The duration at a rank (0 to 1), between the known points of the distribution; nothing outside of it.
pub(super) fn at_rank(times: &Times, rank: f64) -> Option<f64> {
    let known =
        [(0.0, 0.0), (times.p50_ms, 0.5), (times.p95_ms, 0.95), (times.p99_ms, 0.99), (times.max_ms, 1.0)];
    let points = if times.cdf.is_empty() { &known[..] } else { &times.cdf };
    if !(0.0..1.0).contains(&rank) {
        return None;
    }
    let after = points.partition_point(|(_, share)| *share < rank);
    let (to, upper) = points.get(after).copied().unwrap_or((times.max_ms, 1.0));
    let Some((from, lower)) = after.checked_sub(1).and_then(|before| points.get(before)).copied() else {
        return Some(to);
    };
    Some(if upper > lower { from + (to - from) * ((rank - lower) / (upper - lower)) } else { to })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(values: impl Iterator<Item = u64>) -> Vec<Second> {
        values.map(|received| Second { received, ..Second::default() }).collect()
    }

    fn error(a: &[Second], b: &[Second]) -> Option<f64> {
        paired_error([a, b], |second| Some(second.received as f64))
    }

    #[test]
    fn the_error_of_a_difference_is_that_of_its_parts() {
        let (still, waves) = (rate([5; 100].into_iter()), rate((0..100).map(|second| second / 10 % 2)));
        assert_eq!(error(&waves, &waves), Some(0.0));
        // Ten parts, each 0.5 from the mean: a deviation of 0.527, over the root of ten.
        assert!((error(&still, &waves).unwrap() - 0.1667).abs() < 0.001);
        assert_eq!(error(&still[..4], &waves[..4]), None);
        assert_eq!(error(&[], &waves), None);
    }

    #[test]
    fn a_rank_lies_between_the_points_that_are_known() {
        let times = Times { p50_ms: 10.0, p95_ms: 100.0, p99_ms: 200.0, max_ms: 300.0, ..Times::default() };
        assert_eq!(
            [0.5, 0.725, 0.995].map(|rank| at_rank(&times, rank).unwrap().round()),
            [10.0, 55.0, 250.0]
        );
        assert_eq!([-0.1, 1.0].map(|rank| at_rank(&times, rank)), [None, None]);
        let times = Times { cdf: vec![(1.0, 0.2), (2.0, 0.6), (4.0, 1.0)], ..times };
        assert_eq!([0.1, 0.4, 0.8].map(|rank| at_rank(&times, rank)), [Some(1.0), Some(1.5), Some(3.0)]);
    }
}
