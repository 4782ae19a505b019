//! What a report comes to, in a sentence: its verdict, and whether the harness itself stood in the way.

use std::collections::BTreeMap;

use super::words::{self, ms, percent};
use crate::figures::{Bound, Finding, Report, Times};

/// From this share of one core on, a thread has no room left for a burst.
const BUSY: f64 = 0.9;
const NEARLY_BUSY: f64 = 0.7;
/// A program that is this late sends bunches instead of the load that was asked for.
const LATE_MS: f64 = 50.0;
/// One that is this late in one case of twenty had to wait for a core: its threads may show nothing of it, where other
/// programs have the machine.
const STARVED_MS: f64 = 20.0;
/// The harness's own part of a latency that can be passed over, whatever the latency is.
const NEGLIGIBLE_MS: f64 = 2.0;
/// The harness's own part of a latency that can be passed over.
const NEGLIGIBLE_SHARE: f64 = 0.2;

/// Whether the figures speak of the server or of the harness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// The harness had time to spare.
    Good,
    /// Its own part shows in the figures.
    Doubtful,
    /// It was the bottleneck: the figures are its own.
    Bottleneck,
}

/// Whether the harness is the bottleneck, and a sentence that says why.
///
/// It is if its busiest thread used 90 % of a core or it was 50 ms late in one case of a hundred. There is doubt from
/// 70 % on, or if it was 20 ms late in one case of twenty, or in one of a hundred later than 2 ms and a fifth of the
/// quickest lane's p99, or if it never looked.
pub fn trust(report: &Report) -> (Trust, String) {
    let harness = &report.harness;
    if harness.behind.count == 0 {
        return (Trust::Doubtful, "The harness did not measure itself.".to_owned());
    }
    let quickest = report
        .lanes
        .values()
        .filter(|lane| lane.latency.count > 0)
        .map(|lane| lane.latency.p99_ms)
        .fold(f64::INFINITY, f64::min);
    let trust = of(harness.busiest_thread_share, &harness.behind, quickest);
    let starved = match harness.behind.p95_ms > STARVED_MS {
        true => format!(", 95 % no more than {}", ms(harness.behind.p95_ms)),
        false => String::new(),
    };
    let why = format!(
        "its busiest thread used {} of a core, and 99 % of its work was no more than {} late{starved}",
        percent(harness.busiest_thread_share),
        ms(harness.behind.p99_ms),
    );
    let sentence = match trust {
        Trust::Good => format!("The harness had time to spare: {why}."),
        Trust::Doubtful => format!("The harness's own part shows in these figures: {why}."),
        Trust::Bottleneck => format!("The harness was the bottleneck, so these figures are its own: {why}."),
    };
    (trust, sentence)
}

/// The finding that the harness stood in the way, if it did: it was the bottleneck, or had no core when it needed one.
pub fn harness_behind(report: &Report) -> Option<Finding> {
    let (trust, sentence) = trust(report);
    let is_behind = trust == Trust::Bottleneck || report.harness.behind.p95_ms > STARVED_MS;
    is_behind.then(|| Finding {
        kind: "harness_behind".to_owned(),
        count: report.users.joined,
        sentence,
        examples: Vec::new(),
    })
}

/// See [`trust`], for figures of any span of time.
pub(super) fn of(busiest_thread_share: f64, behind: &Times, latency_p99_ms: f64) -> Trust {
    if busiest_thread_share >= BUSY || behind.p99_ms >= LATE_MS {
        Trust::Bottleneck
    } else if busiest_thread_share >= NEARLY_BUSY
        || behind.p95_ms > STARVED_MS
        || (behind.p99_ms > NEGLIGIBLE_MS && behind.p99_ms > NEGLIGIBLE_SHARE * latency_p99_ms)
    {
        Trust::Doubtful
    } else {
        Trust::Good
    }
}

/// One word: `PASSED`, `FAILED`, `INTERRUPTED`.
pub(super) fn verdict_word(report: &Report) -> &'static str {
    match (report.verdict.passed, report.verdict.interrupted) {
        (false, _) => "FAILED",
        (true, true) => "INTERRUPTED",
        (true, false) => "PASSED",
    }
}

/// What the word means here.
pub(super) fn verdict_sentence(report: &Report) -> String {
    let bounds = &report.verdict.bounds;
    let total = words::plural(bounds.len() as u64, "bound");
    let broken = bounds.iter().filter(|bound| !bound.held).count();
    let mut sentence = match (bounds.len(), broken) {
        (0, _) if report.verdict.passed => "No bounds were set, so nothing could break.".to_owned(),
        (_, 0) if report.verdict.passed => format!("{total} held."),
        (_, 0) => "The run failed, though no bound was broken.".to_owned(),
        (1, _) => "The only bound was broken.".to_owned(),
        (_, broken) if broken == bounds.len() => format!("All of {total} were broken."),
        (_, 1) => format!("1 of {total} was broken."),
        (_, broken) => format!("{broken} of {total} were broken."),
    };
    if report.verdict.interrupted {
        let after = report.timeline.last().map_or(0.0, |second| second.at_s);
        sentence.push_str(&format!(" The run was ended early, after {}.", words::seconds(after)));
    }
    let findings = match report.findings.len() as u64 {
        0 => " Nothing was found to be wrong or odd.".to_owned(),
        number => format!(" {} below.", words::plural(number, "finding")),
    };
    sentence + &findings
}

/// The bounds, the broken ones first.
pub(super) fn bounds(report: &Report) -> Vec<&Bound> {
    let (held, mut broken): (Vec<_>, Vec<_>) = report.verdict.bounds.iter().partition(|bound| bound.held);
    broken.extend(held);
    broken
}

/// The order of lanes: as people think of them, others after them.
pub(super) fn lane_names(report: &Report) -> Vec<&str> {
    in_order(report.lanes.keys(), &["reliable", "lossy", "messages"])
}

/// The stages of connecting in the order in which they pass.
pub(super) fn stage_names(report: &Report) -> Vec<&str> {
    in_order(
        report.connect.stages.keys(),
        &["websocket", "joined", "first_message", "ice", "dtls", "channel", "ready"],
    )
}

/// The rungs, the best first.
pub(super) fn rung_names(rungs: &BTreeMap<String, u64>) -> Vec<&str> {
    in_order(rungs.keys(), &["udp", "websocket", "none"])
}

fn in_order<'a>(keys: impl Iterator<Item = &'a String>, order: &[&str]) -> Vec<&'a str> {
    let mut names: Vec<&str> = keys.map(String::as_str).collect();
    names.sort_by_key(|name| order.iter().position(|known| known == name).unwrap_or(order.len()));
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_harness_that_is_busy_or_late_is_not_trusted() {
        let cases = [
            (0.3, (0.2, 0.4), 20.0, Trust::Good),
            (0.3, (0.9, 1.9), 1.0, Trust::Good),
            (0.3, (2.0, 5.0), 20.0, Trust::Doubtful),
            (0.3, (2.0, 5.0), 200.0, Trust::Good),
            (0.3, (21.0, 40.0), 2_000.0, Trust::Doubtful),
            (0.75, (0.2, 0.4), 20.0, Trust::Doubtful),
            (0.95, (0.2, 0.4), 20.0, Trust::Bottleneck),
            (0.3, (2.0, 60.0), 2_000.0, Trust::Bottleneck),
        ];
        for (share, (p95_ms, p99_ms), latency, expected) in cases {
            let behind = Times { count: 1, p95_ms, p99_ms, ..Times::default() };
            assert_eq!(of(share, &behind, latency), expected, "{share} {behind:?} {latency}");
        }
    }

    #[test]
    fn a_harness_that_had_no_core_when_it_needed_one_is_a_finding() {
        let mut report = Report::default();
        report.users.joined = 7;
        report.harness.behind = Times { count: 1, p95_ms: 19.0, p99_ms: 30.0, ..Times::default() };
        assert_eq!(harness_behind(&report), None);
        report.harness.behind.p95_ms = 21.0;
        let finding = harness_behind(&report).unwrap();
        assert_eq!((finding.kind.as_str(), finding.count), ("harness_behind", 7));
        assert!(finding.sentence.contains("30 ms late, 95 % no more than 21 ms"), "{}", finding.sentence);
        report.harness.busiest_thread_share = 0.95;
        report.harness.behind.p95_ms = 1.0;
        assert!(harness_behind(&report).unwrap().sentence.contains("bottleneck"));
        report.harness.behind.count = 0;
        assert_eq!(harness_behind(&report), None);
    }

    #[test]
    fn a_harness_that_did_not_look_is_not_trusted() {
        let mut report = Report::default();
        assert_eq!(trust(&report).0, Trust::Doubtful);
        report.harness.behind.count = 1;
        assert_eq!(trust(&report).0, Trust::Good);
    }

    #[test]
    fn the_verdict_says_what_broke() {
        let bound = |held| Bound { held, ..Bound::default() };
        let mut report = Report::default();
        report.verdict.passed = true;
        assert!(verdict_sentence(&report).starts_with("No bounds were set"));
        report.verdict.bounds = vec![bound(true), bound(true)];
        assert_eq!(verdict_sentence(&report), "2 bounds held. Nothing was found to be wrong or odd.");
        report.verdict.passed = false;
        report.verdict.bounds.push(bound(false));
        assert!(verdict_sentence(&report).starts_with("1 of 3 bounds was broken."));
        assert!(!bounds(&report)[0].held);
        report.verdict.interrupted = true;
        assert!(verdict_sentence(&report).contains("ended early"));
        assert_eq!(verdict_word(&report), "FAILED");
    }
}
