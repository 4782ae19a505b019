//! A finished run, and two of them side by side, as text: less than 60 lines of at most 80 columns, the verdict first.

use std::collections::BTreeMap;

use console::{Alignment, measure_text_width, pad_str, truncate_str};

use super::{
    assess,
    compare::{Comparison, Judgement},
    words::{self, count, ms, percent, short},
};
use crate::figures::{Lane, Report, Times};

const WIDTH: usize = 80;
/// So many of each, the worst first; the rest is counted. The HTML report has all.
const BOUNDS: usize = 5;
const FINDINGS: usize = 3;
const WINDOWS: usize = 2;
const LANES: usize = 3;
const STAGES: usize = 7;
const CAUSES: usize = 4;

/// The table of a finished run.
pub fn text(report: &Report) -> String {
    let mut out = Lines::default();
    head(&mut out, report);
    bounds(&mut out, report);
    findings(&mut out, report);
    lanes(&mut out, report);
    times(&mut out, report);
    people(&mut out, report);
    machines(&mut out, report);
    out.text
}

/// Two runs side by side: what differs by more than noise first.
pub fn comparison_text(comparison: &Comparison) -> String {
    let mut out = Lines::default();
    out.wrapped("", &comparison.sentence());
    for warning in &comparison.warnings {
        out.wrapped("  ! ", warning);
    }
    out.blank();
    out.row("", &[("A", 12), ("B", 12), ("B/A", 8), ("", 9)]);
    let is_telling = |judgement| matches!(judgement, Judgement::Better | Judgement::Worse);
    let (telling, mut rest): (Vec<_>, Vec<_>) =
        comparison.rows.iter().partition(|row| is_telling(row.judgement));
    // Of what is the same, that is left out which says little.
    rest.retain(|row| {
        !row.name.ends_with(" p50") && !row.name.ends_with(" p99") && [row.a, row.b] != [Some(0.0); 2]
    });
    for row in telling.iter().chain(&rest) {
        let (a, b) = (row.unit.show(row.a), row.unit.show(row.b));
        let ratio = row.ratio().map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.2}"));
        out.row(&row.name, &[(&a, 12), (&b, 12), (&ratio, 8), (row.judgement.word(), 9)]);
    }
    out.blank();
    out.wrapped("", &comparison.rule());
    out.text
}

fn head(out: &mut Lines, report: &Report) {
    let scenario = &report.scenario;
    out.wrapped("", &format!("{}: {}", assess::verdict_word(report), assess::verdict_sentence(report)));
    out.line(&format!("{} · {}", scenario.name, scenario.description));
    let (ramp, hold, drain) = (scenario.ramp_s, scenario.hold_s, scenario.drain_s);
    let [ramp, hold, drain] = [ramp, hold, drain].map(words::seconds);
    out.line(&format!(
        "{}, seed {} · ramp {ramp}, hold {hold}, drain {drain}",
        words::utc(report.started_unix_ms),
        scenario.seed
    ));
    out.line(&format!("{} at {} · {}", scenario.adapter, scenario.target, report.program));
}

fn bounds(out: &mut Lines, report: &Report) {
    let bounds = assess::bounds(report);
    if bounds.is_empty() {
        return;
    }
    out.blank();
    out.row("bounds", &[("measured", 12)]);
    for bound in bounds.iter().take(BOUNDS) {
        let value = bound.value.map_or_else(|| "nothing".to_owned(), words::exact);
        let mark = if bound.held { "  ok     " } else { "  BROKEN " };
        out.row(&format!("{mark}{}", bound.bound), &[(&value, 12)]);
    }
    let left = &bounds[bounds.len().min(BOUNDS)..];
    let broken = left.iter().filter(|bound| !bound.held).count();
    match (left.len(), broken) {
        (0, _) => {}
        (left, 0) => out.line(&format!("  and {left} more that held")),
        (left, broken) => out.line(&format!("  and {left} more, {broken} of them BROKEN")),
    }
}

fn findings(out: &mut Lines, report: &Report) {
    if report.findings.is_empty() {
        return;
    }
    out.blank();
    out.line("findings");
    for finding in report.findings.iter().take(FINDINGS) {
        let sentence = truncate_str(&plain(&finding.sentence), 2 * WIDTH - 20, "…").into_owned();
        out.wrapped("  ! ", &sentence);
    }
    if let Some(example) = report.findings.first().and_then(|finding| finding.examples.first()) {
        out.line(&format!("    the first case: {example}"));
    }
    if report.findings.len() > FINDINGS {
        out.line(&format!("  and {} more", report.findings.len() - FINDINGS));
    }
}

fn lanes(out: &mut Lines, report: &Report) {
    if report.lanes.is_empty() {
        return;
    }
    out.blank();
    let names = ["sent", "expected", "received", "lost", "doubled", "disorder", "/s"];
    out.row("lanes", &names.map(|name| (name, 9)));
    for name in assess::lane_names(report).into_iter().take(LANES) {
        let Lane { sent, expected, received, lost, doubled, out_of_order, received_per_s, .. } =
            &report.lanes[name];
        let cells = [sent, expected, received].map(|number| large(*number));
        // Faults are counted to the last one.
        let faults = [lost, doubled, out_of_order].map(|number| count(*number));
        let rate = short(*received_per_s);
        let cells: Vec<_> =
            cells.iter().chain(&faults).chain([&rate]).map(|cell| (cell.as_str(), 9)).collect();
        out.row(&format!("  {name}"), &cells);
    }
    for name in assess::lane_names(report).into_iter().take(LANES) {
        let lane = &report.lanes[name];
        let rare = [
            ("not sent in time", lane.unsent),
            ("dropped before sending", lane.dropped_before_sending),
            ("refused", lane.refused),
            ("altered", lane.altered),
            ("foreign", lane.foreign),
            ("told missing", lane.told_missing),
        ];
        let rare: Vec<_> =
            rare.iter().filter(|(_, n)| *n > 0).map(|(what, n)| format!("{} {what}", count(*n))).collect();
        if !rare.is_empty() {
            out.line(&format!("  {name}: {}", rare.join(", ")));
        }
    }
}

fn times(out: &mut Lines, report: &Report) {
    out.blank();
    out.row("times", &["count", "p50", "p95", "p99", "max"].map(|name| (name, 10)));
    let mut row = |name: String, times: &Times| {
        if times.count > 0 {
            let cells = [times.p50_ms, times.p95_ms, times.p99_ms, times.max_ms].map(ms);
            let total = large(times.count);
            let cells: Vec<_> = [&total].into_iter().chain(&cells).map(|cell| (cell.as_str(), 10)).collect();
            out.row(&name, &cells);
        }
    };
    for name in assess::lane_names(report).into_iter().take(LANES) {
        row(format!("  latency, {name}"), &report.lanes[name].latency);
        row(format!("  accepted, {name}"), &report.lanes[name].accepted_after);
    }
    for (name, window) in report.windows.iter().take(WINDOWS) {
        row(format!("  while {name}"), &window.latency);
    }
    for name in assess::stage_names(report).into_iter().take(STAGES) {
        row(format!("  connect: {}", name.replace('_', " ")), &report.connect.stages[name]);
    }
    row("  recovery".to_owned(), &report.recovery.times);
    row("  harness late".to_owned(), &report.harness.behind);
}

fn people(out: &mut Lines, report: &Report) {
    let (users, connect) = (&report.users, &report.connect);
    out.blank();
    out.wrapped(
        "users    ",
        &format!(
            "{} planned, {} joined, {} failed, {} left; {} of {} first connections made",
            count(users.planned),
            count(users.joined),
            count(users.failed),
            count(users.left),
            percent(connect.success_share),
            count(connect.attempts),
        ),
    );
    let rungs = in_words(&report.users.rungs);
    out.wrapped(
        "rungs    ",
        &format!(
            "{rungs}; {} changes, {} reconnects, {} sessions lost, {} unrecovered",
            count(users.rung_changes),
            count(users.reconnects),
            count(users.sessions_lost),
            count(report.recovery.unrecovered),
        ),
    );
    if !connect.failures.is_empty() {
        out.wrapped("failures ", &in_words(&connect.failures));
    }
    if !report.errors.is_empty() {
        out.wrapped("errors   ", &in_words(&report.errors));
    }
}

fn machines(out: &mut Lines, report: &Report) {
    let server = &report.server;
    let mut said = Vec::new();
    if let Some(cpu) = server.cpu_s {
        said.push(format!("{} s of CPU", words::digits(cpu)));
    }
    if let Some(cost) = server.cpu_us_per_delivery {
        said.push(format!("{} µs a delivery", words::digits(cost)));
    }
    if let Some(most) = server.rss_max_bytes {
        said.push(format!("{} at most", words::bytes(most as f64)));
    }
    if let Some(slope) = server.rss_slope_bytes_per_s {
        let sign = if slope < 0.0 { "" } else { "+" };
        said.push(format!("{sign}{}/s", words::bytes(slope)));
    }
    if let Some(why) = &server.unavailable {
        said.push(format!("no figures: {why}"));
    }
    out.wrapped("server   ", &if said.is_empty() { "no figures".to_owned() } else { said.join(", ") });
    out.wrapped("harness  ", &assess::trust(report).1);
}

/// `12 udp, 3 websocket`, the most frequent first; the rest is counted.
pub(super) fn in_words(counts: &BTreeMap<String, u64>) -> String {
    let mut counts: Vec<_> = counts.iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let (first, rest) = counts.split_at(counts.len().min(CAUSES));
    let mut words: Vec<_> =
        first.iter().map(|(name, number)| format!("{} {name}", count(**number))).collect();
    if !rest.is_empty() {
        words.push(format!(
            "{} of {} other kinds",
            count(rest.iter().map(|(_, count)| **count).sum()),
            rest.len()
        ));
    }
    if words.is_empty() { "none".to_owned() } else { words.join(", ") }
}

/// To the last one as long as that fits into a column.
fn large(number: u64) -> String {
    if number < 1_000_000 { count(number) } else { short(number as f64) }
}

/// Text from outside without what could steer a terminal or break a line.
pub(super) fn plain(text: &str) -> String {
    text.chars().map(|sign| if sign.is_control() { '\u{fffd}' } else { sign }).collect()
}

#[derive(Default)]
struct Lines {
    text: String,
}

impl Lines {
    fn blank(&mut self) {
        self.text.push('\n');
    }

    /// A line, cut where it gets too long.
    fn line(&mut self, line: &str) {
        self.text.push_str(truncate_str(&plain(line), WIDTH, "…").trim_end());
        self.text.push('\n');
    }

    /// A name, and cells to the right of it, each with its width.
    fn row(&mut self, name: &str, cells: &[(&str, usize)]) {
        let room = WIDTH - cells.iter().map(|(_, width)| width).sum::<usize>();
        let mut line = pad_str(&plain(name), room, Alignment::Left, Some("… ")).into_owned();
        for (cell, width) in cells {
            line.push_str(&pad_str(cell, *width, Alignment::Right, Some("…")));
        }
        self.line(&line);
    }

    /// A paragraph; its further lines begin where the first one's text does.
    fn wrapped(&mut self, start: &str, paragraph: &str) {
        let indent = " ".repeat(measure_text_width(start));
        let mut line = start.to_owned();
        let mut is_empty = true;
        for word in plain(paragraph).split_whitespace() {
            if !is_empty && measure_text_width(&line) + 1 + measure_text_width(word) > WIDTH {
                self.line(&line);
                line.clone_from(&indent);
                is_empty = true;
            }
            if !is_empty {
                line.push(' ');
            }
            line.push_str(word);
            is_empty = false;
        }
        self.line(&line);
    }
}
