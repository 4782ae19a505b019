//! Two runs side by side: what the second does better or worse than the first, and by what rule that is more than noise.
//!
//! A difference has to be large enough to matter and too large to be chance:
//!
//! - *Latencies, rates, CPU*: the change exceeds the tolerance and three standard errors. The hold of each run is cut
//!   into ten equal parts; what the first part of one differs from the first part of the other, and so on, shows how
//!   much the difference varies by itself, whatever the scenario did in which part. The percentile of a lane is taken
//!   to vary as that of all lanes does, by factors; a window is cut as the hold is, into five parts at least. A latency
//!   has to exceed what the next rule asks for, too, as a rare message's percentile is also a matter of few samples.
//! - *Connecting and recovery*: the change exceeds the tolerance and what the percentiles may be wrong by, which is
//!   read from the distribution at the ranks three standard errors away. Each user counts as one independent sample. A
//!   percentile with too few samples beyond it to say how wrong it may be is the same.
//! - *Shares and counts* of what may happen: the change exceeds the tolerance and three standard errors of binomial and
//!   Poisson counts.
//! - *Faults* that must not happen at all, such as lost messages: each further one is worse.
//! - *Single values*, such as memory, have no spread within a run: the change exceeds twice the tolerance.

use super::{
    assess::{self, Trust},
    noise::{at_rank, hold, mean, paired_error, relative, seconds},
    words,
};
use crate::figures::{Report, Second, Times};

/// Changes up to this share do not matter, unless another tolerance is chosen.
pub const TOLERANCE: f64 = 0.1;

/// Standard errors that a difference by chance hardly exceeds: 1 in 70 of ten parts, 1 in 370 of many samples.
const ERRORS: f64 = 3.0;

/// Two runs side by side.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// What both runs can be held against, in the report's order.
    pub rows: Vec<Row>,
    /// Why the two may not be comparable, in words.
    pub warnings: Vec<String>,
    /// The share beyond which a change matters.
    pub tolerance: f64,
}

/// One figure of both runs.
#[derive(Clone, Debug)]
pub struct Row {
    /// What it is: `latency p95, reliable`.
    pub name: String,
    /// How it is written.
    pub unit: Unit,
    /// Of the first run; nothing if that has no such figure.
    pub a: Option<f64>,
    /// Of the second run.
    pub b: Option<f64>,
    /// What the change means.
    pub judgement: Judgement,
}

/// How a figure is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// How many.
    Count,
    /// How many each second.
    PerSecond,
    /// 0 to 1.
    Share,
    /// Milliseconds.
    Milliseconds,
    /// Microseconds.
    Microseconds,
    /// Bytes.
    Bytes,
    /// Bytes more or less each second.
    BytesPerSecond,
}

/// What a change means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// Better by more than noise.
    Better,
    /// Worse by more than noise.
    Worse,
    /// The same, or different by no more than noise.
    Same,
    /// Neither is better than the other, or one of the runs has no such figure.
    Unjudged,
}

/// The second run against the first, with [`TOLERANCE`].
pub fn compare(a: &Report, b: &Report) -> Comparison {
    compare_within(a, b, TOLERANCE)
}

/// The second run against the first; changes up to `tolerance` (0.1: 10 %) do not matter.
pub fn compare_within(a: &Report, b: &Report, tolerance: f64) -> Comparison {
    let mut judge = Judge { a, b, tolerance, rows: Vec::new() };
    judge.verdict();
    judge.lanes();
    judge.windows();
    judge.users();
    judge.machines();
    Comparison { rows: judge.rows, warnings: warnings(a, b), tolerance }
}

impl Comparison {
    /// Whether the second run is worse than the first in anything, beyond the tolerance and beyond noise.
    pub fn is_worse(&self) -> bool {
        self.count(Judgement::Worse) > 0
    }

    fn count(&self, judgement: Judgement) -> usize {
        self.rows.iter().filter(|row| row.judgement == judgement).count()
    }

    /// What it comes to, for people.
    pub fn sentence(&self) -> String {
        match (self.count(Judgement::Worse), self.count(Judgement::Better)) {
            (0, 0) => "SAME: B differs from A by no more than noise.".to_owned(),
            (0, better) => format!("BETTER: B is better than A in {better} figures, worse in none."),
            (worse, 0) => format!("WORSE: B is worse than A in {worse} figures, better in none."),
            (worse, better) => format!("WORSE: B is worse than A in {worse} figures, better in {better}."),
        }
    }

    /// By what rule differences were judged, for people.
    pub fn rule(&self) -> String {
        format!(
            "Better and worse: more than {} apart, and more than noise, that is three standard errors: of latencies, rates \
             and CPU as the tenths of the hold vary, of all times by their number, of shares and counts as chance \
             has it. Memory and CPU for a delivery have one value a run and are judged from {} on. Each further message \
             lost, doubled, altered or out of order on a lane that promises otherwise is worse.",
            words::percent(self.tolerance),
            words::percent(2.0 * self.tolerance),
        )
    }
}

impl Row {
    /// The second value over the first, if there are both and that says something.
    pub fn ratio(&self) -> Option<f64> {
        match (self.a, self.b) {
            (Some(a), Some(b)) if a > 0.0 && b >= 0.0 => Some(b / a),
            _ => None,
        }
    }
}

impl Judgement {
    /// In a word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Better => "better",
            Self::Worse => "WORSE",
            Self::Same => "same",
            Self::Unjudged => "",
        }
    }
}

impl Unit {
    /// A value as people read it.
    pub fn show(self, value: Option<f64>) -> String {
        let Some(value) = value.filter(|value| value.is_finite()) else {
            return "–".to_owned();
        };
        match self {
            Self::Count => words::short(value),
            Self::PerSecond => format!("{}/s", words::short(value)),
            Self::Share => words::percent(value),
            Self::Milliseconds => words::ms(value),
            Self::Microseconds => format!("{} µs", words::digits(value)),
            Self::Bytes => words::bytes(value),
            Self::BytesPerSecond => format!("{}/s", words::bytes(value)),
        }
    }
}

/// Which change is the better one.
#[derive(Clone, Copy)]
enum Good {
    Less,
    More,
}

struct Judge<'a> {
    a: &'a Report,
    b: &'a Report,
    tolerance: f64,
    rows: Vec<Row>,
}

impl Judge<'_> {
    fn verdict(&mut self) {
        let broken =
            |report: &Report| report.verdict.bounds.iter().filter(|bound| !bound.held).count() as u64;
        self.fault("bounds broken", broken(self.a), broken(self.b));
    }

    fn lanes(&mut self) {
        let (a, b) = (self.a, self.b);
        for lane in assess::lane_names(a).into_iter().filter(|lane| b.lanes.contains_key(*lane)) {
            let (x, y) = (&a.lanes[lane], &b.lanes[lane]);
            let shares = [(x.lost, x.expected), (y.lost, y.expected)];
            if lane == "lossy" {
                self.share("lost, lossy", Good::Less, shares);
            } else {
                self.fault(&format!("lost, {lane}"), x.lost, y.lost);
                self.fault(&format!("out of order, {lane}"), x.out_of_order, y.out_of_order);
            }
            self.fault(&format!("doubled, {lane}"), x.doubled, y.doubled);
            self.fault(&format!("altered or foreign, {lane}"), x.altered + x.foreign, y.altered + y.foreign);
            self.share(
                &format!("not sent in time, {lane}"),
                Good::Less,
                [(x.unsent, x.sent + x.unsent), (y.unsent, y.sent + y.unsent)],
            );
            let holds = [a, b].map(hold);
            self.latencies(&format!("latency, {lane}"), [&x.latency, &y.latency], holds);
            self.latencies(&format!("accepted, {lane}"), [&x.accepted_after, &y.accepted_after], holds);
        }
        self.rate("received", Unit::PerSecond, Good::More, |second| Some(second.received as f64));
    }

    fn windows(&mut self) {
        let (a, b) = (self.a, self.b);
        for (name, x) in &a.windows {
            if let Some(y) = b.windows.get(name) {
                let seconds = [seconds(a, x.from_s, x.until_s), seconds(b, y.from_s, y.until_s)];
                self.latencies(&format!("latency while {name}"), [&x.latency, &y.latency], seconds);
            }
        }
    }

    fn users(&mut self) {
        let (a, b) = (self.a, self.b);
        self.share("connected", Good::More, [a, b].map(|r| (r.connect.succeeded, r.connect.attempts)));
        for stage in assess::stage_names(a) {
            if let Some(y) = b.connect.stages.get(stage) {
                let name = format!("connect, {}", stage.replace('_', " "));
                self.percentiles(&name, [&a.connect.stages[stage], y]);
            }
        }
        self.percentiles("recovery", [&a.recovery.times, &b.recovery.times]);
        self.fault("unrecovered", a.recovery.unrecovered, b.recovery.unrecovered);
        self.count("sessions lost", a.users.sessions_lost, b.users.sessions_lost);
        self.count("reconnects", a.users.reconnects, b.users.reconnects);
        self.count("errors and refusals", a.errors.values().sum(), b.errors.values().sum());
    }

    fn machines(&mut self) {
        let (a, b) = (self.a, self.b);
        self.rate("server CPU, cores", Unit::Share, Good::Less, |second| second.server_cpu);
        let memory = [a, b].map(|report| report.server.rss_max_bytes.map(|bytes| bytes as f64));
        self.single("server memory, most", Unit::Bytes, memory);
        let cost = [a, b].map(|report| report.server.cpu_us_per_delivery);
        self.single("server CPU for a delivery", Unit::Microseconds, cost);
        let slope = [a, b].map(|report| report.server.rss_slope_bytes_per_s);
        self.push("server memory, growth", Unit::BytesPerSecond, slope, Judgement::Unjudged);
        let busy = [a, b].map(|report| Some(report.harness.busiest_thread_share));
        self.push("harness, busiest thread", Unit::Share, busy, Judgement::Unjudged);
        let behind = [a, b].map(|report| Some(report.harness.behind.p99_ms));
        self.push("harness late, p99", Unit::Milliseconds, behind, Judgement::Unjudged);
    }

    fn push(&mut self, name: &str, unit: Unit, [a, b]: [Option<f64>; 2], judgement: Judgement) {
        if a.is_some() || b.is_some() {
            self.rows.push(Row { name: name.to_owned(), unit, a, b, judgement });
        }
    }

    /// Pushes a figure that differs by more than noise or does not.
    fn judged(&mut self, name: &str, unit: Unit, good: Good, [a, b]: [f64; 2], is_more_than_noise: bool) {
        let judgement = match good {
            _ if !is_more_than_noise || relative(a, b) <= self.tolerance => Judgement::Same,
            Good::Less if b > a => Judgement::Worse,
            Good::More if b < a => Judgement::Worse,
            _ => Judgement::Better,
        };
        self.push(name, unit, [Some(a), Some(b)], judgement);
    }

    fn fault(&mut self, name: &str, a: u64, b: u64) {
        let judgement = match a.cmp(&b) {
            std::cmp::Ordering::Less => Judgement::Worse,
            std::cmp::Ordering::Equal => Judgement::Same,
            std::cmp::Ordering::Greater => Judgement::Better,
        };
        self.push(name, Unit::Count, [a, b].map(|count| Some(count as f64)), judgement);
    }

    fn count(&mut self, name: &str, a: u64, b: u64) {
        let (a, b) = (a as f64, b as f64);
        self.judged(name, Unit::Count, Good::Less, [a, b], (a - b).abs() > ERRORS * (a + b).sqrt());
    }

    fn share(&mut self, name: &str, good: Good, [(x, of_x), (y, of_y)]: [(u64, u64); 2]) {
        let share = |part: u64, of: u64| (of > 0).then(|| part as f64 / of as f64);
        let (a, b) = (share(x, of_x), share(y, of_y));
        let (Some(p), Some(q)) = (a, b) else {
            return self.push(name, Unit::Share, [a, b], Judgement::Unjudged);
        };
        let pooled = (x + y) as f64 / (of_x + of_y) as f64;
        let error = (pooled * (1.0 - pooled) * (1.0 / of_x as f64 + 1.0 / of_y as f64)).sqrt();
        // A share that should be 1 is judged by what is missing of it: from 99 % to 98 % is twice as bad.
        let is_large = match good {
            Good::More => relative(1.0 - p, 1.0 - q) > self.tolerance,
            Good::Less => relative(p, q) > self.tolerance,
        };
        let judgement = match good {
            _ if !is_large || (p - q).abs() <= ERRORS * error => Judgement::Same,
            Good::Less if q > p => Judgement::Worse,
            Good::More if q < p => Judgement::Worse,
            _ => Judgement::Better,
        };
        self.push(name, Unit::Share, [a, b], judgement);
    }

    /// Durations of independent users.
    fn percentiles(&mut self, name: &str, [a, b]: [&Times; 2]) {
        self.times(name, [a, b], |rank, x, y| Some(are_apart([a, b], rank, x, y)));
    }

    /// Durations within these seconds of both runs.
    fn latencies(&mut self, name: &str, [a, b]: [&Times; 2], seconds: [&[Second]; 2]) {
        self.times(name, [a, b], |rank, x, y| {
            let of = |second: &Second| {
                let of_all = match rank {
                    low if low < 0.9 => second.p50_ms,
                    middle if middle < 0.98 => second.p95_ms,
                    _ => second.p99_ms,
                };
                of_all.filter(|ms| *ms > 0.0).map(f64::ln)
            };
            let error = paired_error(seconds, of)?;
            let is_more_than_parts_vary = x > 0.0 && y > 0.0 && (y / x).ln().abs() > ERRORS * error;
            Some(is_more_than_parts_vary && are_apart([a, b], rank, x, y))
        });
    }

    /// `is_more_than_noise` of a rank and the two values there; nothing if it cannot be known.
    fn times(
        &mut self,
        name: &str,
        [a, b]: [&Times; 2],
        is_more_than_noise: impl Fn(f64, f64, f64) -> Option<bool>,
    ) {
        if a.count == 0 && b.count == 0 {
            return;
        }
        let ranks = [
            ("p50", 0.5, a.p50_ms, b.p50_ms),
            ("p95", 0.95, a.p95_ms, b.p95_ms),
            ("p99", 0.99, a.p99_ms, b.p99_ms),
        ];
        for (percentile, rank, x, y) in ranks {
            let name = format!("{name} {percentile}");
            let are_there = a.count > 0 && b.count > 0;
            match is_more_than_noise(rank, x, y).filter(|_| are_there) {
                Some(is_more) => self.judged(&name, Unit::Milliseconds, Good::Less, [x, y], is_more),
                None => {
                    let values = [(a, x), (b, y)].map(|(times, value)| (times.count > 0).then_some(value));
                    self.push(&name, Unit::Milliseconds, values, Judgement::Unjudged);
                }
            }
        }
    }

    fn rate(&mut self, name: &str, unit: Unit, good: Good, of: impl Fn(&Second) -> Option<f64>) {
        let holds = [self.a, self.b].map(hold);
        let means = holds.map(|hold| mean(&hold.iter().filter_map(&of).collect::<Vec<_>>()));
        match (means, paired_error(holds, &of)) {
            ([Some(a), Some(b)], Some(error)) => {
                self.judged(name, unit, good, [a, b], (a - b).abs() > ERRORS * error);
            }
            (means, _) => self.push(name, unit, means, Judgement::Unjudged),
        }
    }

    fn single(&mut self, name: &str, unit: Unit, values: [Option<f64>; 2]) {
        match values {
            [Some(a), Some(b)] => {
                self.judged(name, unit, Good::Less, [a, b], relative(a, b) > 2.0 * self.tolerance);
            }
            values => self.push(name, unit, values, Judgement::Unjudged),
        }
    }
}

/// Whether the percentiles of this rank, which are `x` and `y`, are further apart than they may be wrong towards each other.
fn are_apart([a, b]: [&Times; 2], rank: f64, x: f64, y: f64) -> bool {
    let reach = |times: &Times| ERRORS * (rank * (1.0 - rank) / times.count as f64).sqrt();
    let (lower, upper) = if x < y { (a, b) } else { (b, a) };
    let up = at_rank(lower, rank + reach(lower)).map_or(f64::INFINITY, |most| most - x.min(y));
    let down = x.max(y) - at_rank(upper, rank - reach(upper)).unwrap_or(0.0);
    (x - y).abs() > up.hypot(down)
}

/// Why two runs may not be comparable.
fn warnings(a: &Report, b: &Report) -> Vec<String> {
    let mut warnings = Vec::new();
    let (x, y) = (&a.scenario, &b.scenario);
    let mut differ = |what: &str, a: &str, b: &str| {
        if a != b {
            warnings.push(format!("The {what} differs: {a}, then {b}."));
        }
    };
    differ("scenario", &x.name, &y.name);
    differ("seed", &x.seed.to_string(), &y.seed.to_string());
    differ("kind of server", &x.adapter, &y.adapter);
    differ("program", &a.program, &b.program);
    for (what, a, b) in
        [("ramp", x.ramp_s, y.ramp_s), ("hold", x.hold_s, y.hold_s), ("drain", x.drain_s, y.drain_s)]
    {
        differ(&format!("length of the {what}"), &words::seconds(a), &words::seconds(b));
    }
    let names = |report: &Report| {
        report.scenario.groups.iter().map(|group| group.name.as_str()).collect::<Vec<_>>().join(", ")
    };
    differ("list of groups", &names(a), &names(b));
    for group in &x.groups {
        let Some(other) = y.groups.iter().find(|other| other.name == group.name) else { continue };
        let of = |what: &str| format!("{what} of group {}", group.name);
        differ(&of("number of users"), &group.users.to_string(), &other.users.to_string());
        differ(&of("number of rooms"), &group.rooms.to_string(), &other.rooms.to_string());
        differ(&of("network"), &group.network, &other.network);
        differ(&of("transport"), &group.transport, &other.transport);
        differ(&of("work"), &group.does.join("; "), &other.does.join("; "));
    }
    for (name, report) in [("A", a), ("B", b)] {
        if report.verdict.interrupted {
            warnings.push(format!("{name} was ended early."));
        }
        match assess::trust(report) {
            (Trust::Good, _) => {}
            (_, sentence) => warnings.push(format!("{name}: {sentence}")),
        }
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(count: u64, scale: f64) -> Times {
        let cdf = (1..=100).map(|step| (f64::from(step) * scale, f64::from(step) / 100.0)).collect();
        Times {
            count,
            p50_ms: 50.0 * scale,
            p95_ms: 95.0 * scale,
            p99_ms: 99.0 * scale,
            max_ms: 100.0 * scale,
            cdf,
            ..Times::default()
        }
    }

    fn judgement(a: &Times, b: &Times) -> [Judgement; 3] {
        let report = Report::default();
        let mut judge = Judge { a: &report, b: &report, tolerance: TOLERANCE, rows: Vec::new() };
        judge.percentiles("times", [a, b]);
        [0, 1, 2].map(|row| judge.rows[row].judgement)
    }

    #[test]
    fn percentiles_of_many_users_differ_and_those_of_few_are_not_known_well_enough() {
        use Judgement::{Better, Same, Worse};
        assert_eq!(judgement(&times(100_000, 1.0), &times(100_000, 1.3)), [Worse; 3]);
        assert_eq!(judgement(&times(100_000, 1.3), &times(100_000, 1.0)), [Better; 3]);
        assert_eq!(judgement(&times(100_000, 1.0), &times(100_000, 1.05)), [Same; 3]);
        assert_eq!(judgement(&times(30, 1.0), &times(30, 1.3)), [Same; 3]);
        // Nothing lies beyond the last of them that could say how long it might have been.
        assert_eq!(judgement(&times(100, 1.0), &times(100, 2.0)), [Worse, Same, Same]);
        let without_points = |times| Times { cdf: Vec::new(), ..times };
        let few_points = [times(100_000, 1.0), times(100_000, 1.5)].map(without_points);
        assert_eq!(judgement(&few_points[0], &few_points[1])[0], Worse);
    }

    fn rate(values: impl Iterator<Item = u64>) -> Report {
        let timeline =
            values.zip(1..).map(|(received, at)| Second { at_s: at.into(), received, ..Second::default() });
        let mut report = Report { timeline: timeline.collect(), ..Report::default() };
        report.scenario.hold_s = report.timeline.len() as f64;
        report
    }

    fn received(a: &Report, b: &Report) -> Judgement {
        let rows = compare(a, b).rows;
        rows.iter().find(|row| row.name == "received").unwrap().judgement
    }

    #[test]
    fn what_both_runs_do_at_the_same_time_is_no_noise_and_what_they_do_apart_is() {
        let waves = |scale: u64| rate((0..100).map(move |second| scale * (100 + 900 * (second / 10 % 2))));
        assert_eq!(received(&waves(10), &waves(8)), Judgement::Worse);
        assert_eq!(received(&waves(10), &waves(13)), Judgement::Better);
        let shifted = rate((0..100).map(|second| 8 * (100 + 900 * ((second / 10 + 1) % 2))));
        assert_eq!(received(&waves(10), &shifted), Judgement::Same);
        assert_eq!(received(&rate([5; 4].into_iter()), &rate([1; 4].into_iter())), Judgement::Unjudged);
    }

    #[test]
    fn a_further_fault_is_worse_and_a_count_has_to_differ_by_more_than_chance() {
        let lane = |lost| crate::figures::Lane { lost, expected: 1_000_000, ..Default::default() };
        let run = |lost, errors| {
            let mut report = Report::default();
            report.lanes.insert("reliable".into(), lane(lost));
            report.errors.insert("overloaded".into(), errors);
            report
        };
        assert!(!compare(&run(0, 100), &run(0, 120)).is_worse());
        assert!(compare(&run(0, 100), &run(0, 190)).is_worse());
        assert!(compare(&run(0, 100), &run(1, 100)).is_worse());
        assert!(!compare(&run(1, 100), &run(0, 100)).is_worse());
        assert!(!compare_within(&run(0, 100), &run(0, 190), 1.0).is_worse());
    }

    #[test]
    fn a_share_that_should_be_one_is_judged_by_what_is_missing_of_it() {
        let run = |succeeded| {
            let mut report = Report::default();
            (report.connect.attempts, report.connect.succeeded) = (10_000, succeeded);
            report
        };
        assert!(compare(&run(9_990), &run(9_950)).is_worse());
        assert!(!compare(&run(9_990), &run(9_985)).is_worse());
        assert!(!compare(&run(10), &run(30)).is_worse());
    }

    #[test]
    fn what_makes_two_runs_different_experiments_is_told() {
        let mut a = Report::default();
        let group =
            |network: &str| crate::figures::GroupSummary { network: network.into(), ..Default::default() };
        a.harness.behind.count = 1;
        a.scenario.groups.push(group("wifi"));
        let mut b = a.clone();
        assert!(compare(&a, &b).warnings.is_empty());
        b.scenario.groups = vec![group("lte")];
        b.scenario.seed = 7;
        b.scenario.adapter = "other".into();
        b.harness.busiest_thread_share = 0.99;
        b.verdict.interrupted = true;
        let told = compare(&a, &b).warnings.join("\n");
        for word in ["network", "seed", "kind of server", "bottleneck", "ended early"] {
            assert!(told.contains(word), "{word}: {told}");
        }
    }
}
