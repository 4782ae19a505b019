//! Views of whole reports, as they are made from a run's figures and from JSON that somebody else may have written.

#![cfg(test)]

mod sample;

use switchyard_loadtest::{
    figures::{Bound, Finding, Report, SCHEMA, Second, Window},
    view::{self, ReadError, live::Live, live::Phase, live::Snapshot},
};

const EVIL: &str =
    "</script><script>alert(1)</script><img src=x onerror=alert(1)>\u{1b}[2J\u{1b}]0;title\u{7}";

/// Every text that comes from outside says [`EVIL`].
fn evil() -> Report {
    let mut report = sample::report(1, 30, 1.0);
    let scenario = &mut report.scenario;
    for text in [&mut scenario.name, &mut scenario.description, &mut scenario.target, &mut scenario.adapter] {
        EVIL.clone_into(text);
    }
    for group in &mut scenario.groups {
        (group.name, group.network, group.does) = (EVIL.into(), EVIL.into(), vec![EVIL.into()]);
    }
    EVIL.clone_into(&mut scenario.events[0].what);
    EVIL.clone_into(&mut report.program);
    report.findings =
        vec![Finding { kind: EVIL.into(), count: 1, sentence: EVIL.into(), examples: vec![EVIL.into()] }];
    report.verdict.bounds[0] = Bound { bound: EVIL.into(), sentence: EVIL.into(), ..Bound::default() };
    report.server.unavailable = Some(EVIL.into());
    let (lane, network) = (report.lanes["reliable"].clone(), report.networks["writers"].clone());
    let times = lane.latency.clone();
    report.lanes.insert(EVIL.into(), lane);
    report.networks.insert(EVIL.into(), network);
    report
        .windows
        .insert(EVIL.into(), Window { groups: [(EVIL.into(), times.clone())].into(), ..Window::default() });
    report.connect.stages.insert(EVIL.into(), times.clone());
    report.recovery.by_cause.insert(EVIL.into(), times);
    for counts in [&mut report.errors, &mut report.connect.failures, &mut report.users.rungs] {
        counts.insert(EVIL.into(), 1);
    }
    report.server.metrics.insert(EVIL.into(), (0.0, 1.0));
    for second in &mut report.timeline {
        second.rungs.insert(EVIL.into(), 1);
    }
    report
}

fn snapshot(second: &Second) -> Snapshot {
    let report = sample::report(1, 30, 1.0);
    Snapshot {
        phase: Phase::Holding,
        left_s: Some(12.0),
        second: second.clone(),
        planned: 120,
        joined: 118,
        failed: 2,
        sent: 38_000,
        received: 720_000,
        recent: report.lanes["reliable"].latency.clone(),
        all: report.lanes["messages"].latency.clone(),
        connect_failures: report.connect.failures,
        errors: report.errors,
        lost: Some(3),
        doubled: Some(0),
        behind: report.harness.behind,
        busiest_thread_share: 0.95,
    }
}

fn live(report: &Report) -> Live {
    let mut live = Live::new(&report.scenario);
    for second in &report.timeline[..report.timeline.len().min(90)] {
        live.update(snapshot(second));
    }
    live
}

#[test]
fn a_report_is_the_same_after_it_was_written_and_read() {
    let report = sample::report(1, 60, 1.0);
    let json = serde_json::to_string(&report).unwrap();
    assert_eq!(view::read(&json).unwrap(), report);
}

#[test]
fn a_report_of_an_earlier_program_lacks_fields_and_is_read() {
    let json = r#"{"schema": 1, "program": "old", "scenario": {"name": "n"}, "verdict": {}, "lanes": {"reliable": {"lost": 2}}}"#;
    let report = view::read(json).unwrap();
    assert_eq!((report.scenario.name.as_str(), report.lanes["reliable"].lost), ("n", 2));
}

#[test]
fn what_is_no_report_of_this_schema_is_refused_with_its_reason() {
    let refused = |json: &str| view::read(json).unwrap_err();
    assert!(matches!(refused("{\"schema\": 1"), ReadError::NotJson(_)));
    assert!(matches!(refused("[1, 2]"), ReadError::NotAReport(_)));
    assert!(matches!(refused(r#"{"name": "package", "version": "1"}"#), ReadError::NotAReport(_)));
    assert!(matches!(refused(r#"{"schema": 1, "program": "other"}"#), ReadError::NotAReport(_)));
    let newer = refused(&format!(r#"{{"schema": {}, "program": "loadtest 9"}}"#, SCHEMA + 1)).to_string();
    assert!(newer.contains("schema 2") && newer.contains("loadtest 9"), "{newer}");
    let damaged = r#"{"schema": 1, "program": "p", "scenario": {}, "verdict": {"passed": 3}, "lanes": {}}"#;
    assert!(refused(damaged).to_string().contains("line 1 column"), "{}", refused(damaged));
}

#[test]
fn the_table_says_the_verdict_first_and_fits_a_terminal() {
    let mut report = sample::report(1, 60, 1.0);
    assert!(view::text(&report).starts_with("FAILED: 2 of 6 bounds were broken. 1 finding below.\n"));
    // As much of everything as a large scenario gives.
    for number in 0..30 {
        report.verdict.bounds.push(report.verdict.bounds[number % 6].clone());
        report
            .findings
            .push(Finding { sentence: "A long sentence of many words. ".repeat(20), ..Finding::default() });
        report.windows.insert(format!("window {number}"), report.windows["server restarted"].clone());
        report.errors.insert(format!("error {number}"), 1);
        report.connect.failures.insert(format!("failure {number}"), 1);
        report.recovery.by_cause.insert(format!("cause {number}"), report.recovery.times.clone());
        report.lanes.insert(format!("lane {number}"), report.lanes["lossy"].clone());
    }
    let text = view::text(&report);
    assert!(text.lines().count() < 60, "{} lines:\n{text}", text.lines().count());
    let widest = text.lines().map(console::measure_text_width).max().unwrap();
    assert!(widest <= 80, "{widest} columns:\n{text}");
    assert_eq!(
        text.lines().filter(|line| line.trim_start() != *line && line.contains("BROKEN")).count(),
        6,
        "{text}"
    );
}

#[test]
fn the_table_of_nothing_is_a_table() {
    let text = view::text(&Report::default());
    assert!(text.starts_with("FAILED") && !text.contains("NaN"), "{text}");
}

#[test]
fn nothing_from_outside_steers_a_terminal() {
    let report = evil();
    let comparison = view::compare(&report, &sample::report(1, 30, 1.0));
    let live = live(&report);
    let frame = live.frame(200, 100, false).join("\n");
    for text in [view::text(&report), view::comparison_text(&comparison), frame, live.line()] {
        assert!(text.contains("script") && !text.contains(['\u{1b}', '\u{7}']), "{text:?}");
    }
}

#[test]
fn nothing_from_outside_becomes_html() {
    let report = evil();
    let comparison = view::compare(&report, &report);
    for page in [view::html(&report), view::comparison_html(&comparison, &report, &report)] {
        assert!(!page.contains("<img") && !page.contains("<script>"), "markup from a report");
        // The scripts of the page itself: its data, and the one that the policy names.
        let scripts = page.matches("<script").count();
        assert_eq!(scripts, page.matches("</script>").count());
        assert_eq!(page.matches("<script type=\"application/json\"").count() + 1, scripts);
        assert!(page.contains("default-src 'none'") && !page.contains("unsafe-"));
    }
}

#[test]
fn a_page_holds_its_report_whole() {
    let report = evil();
    let page = view::html(&report);
    let json = page.split("id=\"report\">").nth(1).and_then(|rest| rest.split("</script>").next()).unwrap();
    assert_eq!(view::read(json).unwrap(), report);
}

#[test]
fn a_page_asks_for_nothing() {
    let report = sample::report(1, 30, 1.0);
    let page = view::html(&report);
    let own = page.replace(&report.scenario.target, "").replace("http://www.w3.org/2000/svg", "");
    for asking in ["http://", "https://", "src=", "href=", "url(", "@import"] {
        assert!(!own.contains(asking), "{asking}");
    }
}

#[test]
fn two_runs_of_different_seeds_are_the_same_and_a_slower_one_is_worse() {
    let first = sample::report(1, 120, 1.0);
    for seed in 2..6 {
        let comparison = view::compare(&first, &sample::report(seed, 120, 1.0));
        assert!(!comparison.is_worse(), "seed {seed}:\n{}", view::comparison_text(&comparison));
    }
    let comparison = view::compare(&first, &sample::report(2, 120, 1.5));
    assert!(comparison.is_worse());
    let text = view::comparison_text(&comparison);
    assert!(text.starts_with("WORSE") && text.contains("The seed differs"), "{text}");
    let worse: Vec<_> = text.lines().filter(|line| line.ends_with("WORSE")).collect();
    assert!(worse.iter().any(|line| line.starts_with("latency, reliable p95")), "{text}");
    assert!(!worse.iter().any(|line| line.starts_with("connect")), "{text}");
    assert!(!view::compare(&sample::report(2, 120, 1.5), &first).is_worse());
}

#[test]
fn frames_fit_terminals_of_all_widths() {
    let live = live(&sample::report(1, 120, 1.0));
    for columns in [20, 40, 60, 80, 100, 200] {
        for has_colours in [false, true] {
            let frame = live.frame(columns, 50, has_colours);
            let widest = frame.iter().map(|line| console::measure_text_width(line)).max().unwrap();
            assert!(widest <= columns, "{widest} of {columns}:\n{}", frame.join("\n"));
            assert_eq!(has_colours, frame.join("").contains('\u{1b}'));
            let text = frame.join("\n");
            let text = console::strip_ansi_codes(&text);
            assert!(columns < 40 || text.contains("THE HARNESS IS THE BOTTLENECK"), "{text}");
        }
    }
    assert_eq!(live.frame(80, 4, false).len(), 4);
}

#[test]
fn a_frame_of_eighty_columns_shows_how_the_run_stands() {
    let frame = live(&sample::report(1, 120, 1.0)).frame(80, 50, false).join("\n");
    assert_eq!(frame, include_str!("frame.txt").trim_end(), "\n{frame}");
}

#[test]
fn a_plain_line_is_made_of_names_and_values() {
    let report = sample::report(1, 120, 1.0);
    let line = live(&report).line();
    assert!(line.starts_with("t=90s phase=holding left=12s users=120/120 udp="), "{line}");
    assert!(line.split(' ').all(|pair| pair.split('=').count() == 2), "{line}");
    assert!(line.ends_with("warning=harness_is_the_bottleneck"), "{line}");
    assert!(Live::new(&report.scenario).line().starts_with("t=0s phase=ramping users=0/0 failed=0 sent=0/s"));
}
