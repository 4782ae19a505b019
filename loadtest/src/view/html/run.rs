//! One run: the verdict, what was found, charts over time, distributions, tables.

use std::collections::BTreeMap;

use super::{
    embedded,
    markup::{Cell, Markup, classed, number, text},
    page,
};
use crate::{
    figures::{NetworkFigures, Report, Times},
    view::{
        assess::{self, Trust},
        words::{self, bytes, count, ms, percent, short},
    },
};

/// A finished run as an HTML file.
pub fn html(report: &Report) -> String {
    let mut out = Markup::default();
    out.raw("<main>\n");
    head(&mut out, report);
    tiles(&mut out, report);
    findings(&mut out, report);
    bounds(&mut out, report);
    timelines(&mut out, report);
    distributions(&mut out, report);
    tables(&mut out, report);
    out.raw("</main>\n<footer>");
    out.element("p", &format!("Written by {}, schema {}.", report.program, report.schema));
    out.raw("<p>All figures are in this file, as JSON in the element <code>report</code>.</p></footer>\n");
    let title = format!("{}: {}", assess::verdict_word(report), report.scenario.name);
    page(&title, out, &[("report", embedded(report))])
}

fn head(out: &mut Markup, report: &Report) {
    let scenario = &report.scenario;
    out.raw("<header>\n").element("h1", &scenario.name).element("p class=\"lead\"", &scenario.description);
    out.element(
        "p class=\"quiet\"",
        &format!(
            "{} · {} at {} · seed {} · ramp {}, hold {}, drain {}",
            words::utc(report.started_unix_ms),
            scenario.adapter,
            scenario.target,
            scenario.seed,
            words::seconds(scenario.ramp_s),
            words::seconds(scenario.hold_s),
            words::seconds(scenario.drain_s),
        ),
    );
    out.raw("</header>\n");
    out.raw(match (report.verdict.passed, report.verdict.interrupted) {
        (false, _) => "<section class=\"verdict bad\" aria-label=\"Verdict\">\n",
        (true, true) => "<section class=\"verdict wait\" aria-label=\"Verdict\">\n",
        (true, false) => "<section class=\"verdict good\" aria-label=\"Verdict\">\n",
    });
    out.element("h2", assess::verdict_word(report)).element("p", &assess::verdict_sentence(report));
    let (trust, sentence) = assess::trust(report);
    let tag = match trust {
        Trust::Good => "p class=\"quiet\"",
        Trust::Doubtful | Trust::Bottleneck => "p class=\"warning\"",
    };
    out.element(tag, &sentence).raw("</section>\n");
}

/// The figures that are asked for first.
fn tiles(out: &mut Markup, report: &Report) {
    let mut tiles: Vec<(String, String, String)> = Vec::new();
    let connect = &report.connect;
    tiles.push((
        "Connected".into(),
        percent(connect.success_share),
        format!("{} of {}", count(connect.succeeded), count(connect.attempts)),
    ));
    let rate: f64 = report.lanes.values().map(|lane| lane.received_per_s).sum();
    let received: u64 = report.lanes.values().map(|lane| lane.received).sum();
    tiles.push(("Received".into(), format!("{}/s", short(rate)), format!("{} in all", count(received))));
    for name in assess::lane_names(report) {
        let lane = &report.lanes[name];
        tiles.push((
            format!("p95, {name}"),
            ms(lane.latency.p95_ms),
            format!("p50 {}, p99 {}", ms(lane.latency.p50_ms), ms(lane.latency.p99_ms)),
        ));
        tiles.push((
            format!("Lost, {name}"),
            if name == "lossy" { percent(lane.loss_share) } else { count(lane.lost) },
            format!("of {} owed", count(lane.expected)),
        ));
    }
    if let Some(cost) = report.server.cpu_us_per_delivery {
        let memory =
            report.server.rss_max_bytes.map_or_else(String::new, |most| bytes(most as f64) + " at most");
        tiles.push(("Server, a delivery".into(), format!("{} µs", words::digits(cost)), memory));
    }
    out.raw("<dl class=\"tiles\">\n");
    for (name, value, more) in tiles {
        out.raw("<div>").element("dt", &name).element("dd class=\"value\"", &value);
        out.element("dd", &more).raw("</div>\n");
    }
    out.raw("</dl>\n");
}

fn findings(out: &mut Markup, report: &Report) {
    if report.findings.is_empty() {
        return;
    }
    out.raw("<section>\n<h2>Findings</h2>\n<ul class=\"findings\">\n");
    for finding in &report.findings {
        out.raw("<li>").element("strong", &finding.sentence);
        out.element("span class=\"tag\"", &format!("{} × {}", count(finding.count), finding.kind));
        if !finding.examples.is_empty() {
            out.raw("<details><summary>The first cases</summary><ul>\n");
            for example in &finding.examples {
                out.element("li", example);
            }
            out.raw("</ul></details>");
        }
        out.raw("</li>\n");
    }
    out.raw("</ul>\n</section>\n");
}

fn bounds(out: &mut Markup, report: &Report) {
    let rows = assess::bounds(report).into_iter().map(|bound| {
        vec![
            text(&*bound.bound),
            if bound.held { classed("✓ held", "good") } else { classed("✗ broken", "bad") },
            number(bound.value.map_or_else(|| "nothing".to_owned(), words::exact)),
            number(bound.limit.map_or_else(String::new, words::exact)),
            classed(&*bound.sentence, "words"),
        ]
    });
    let rows: Vec<_> = rows.collect();
    if !rows.is_empty() {
        out.raw("<section class=\"alone\">\n<h2>Bounds</h2>\n");
        out.table("Bounds", &["bound", "", "measured", "limit", "in words"], &rows).raw("</section>\n");
    }
}

fn timelines(out: &mut Markup, report: &Report) {
    out.raw("<section>\n<h2>Over time</h2>\n");
    out.raw(
        "<noscript><p class=\"warning\">Charts need JavaScript; the tables below do not.</p></noscript>\n",
    );
    marks(out, report);
    out.raw("<div class=\"charts\">\n");
    out.chart(
        "messages",
        "Messages a second",
        "Sent and received, all lanes. One message to three receivers is received three times.",
    );
    out.chart(
        "latency",
        "Latency",
        "From the time at which a message was due until it was received. Logarithmic.",
    );
    out.chart("users", "Users by rung", "Users in their rooms, by the pipe they were on; none: between two.");
    out.chart("errors", "Errors and refusals", "Each second.");
    out.chart("cpu", "CPU", "Cores used by the server and by the harness.");
    out.chart("memory", "Memory of the server", "Resident.");
    if report.timeline.iter().any(|second| second.packets_dropped > 0) {
        out.chart("packets", "Packets dropped by simulated networks", "Each second.");
    }
    if report.timeline.iter().any(|second| second.joins > 0) {
        out.chart("joins", "Users that joined", "Each second.");
    }
    out.raw("</div>\n</section>\n");
}

/// More marks than these are shown when they are asked for.
const MARKS: usize = 8;

/// The key to what is marked in all charts over time.
fn marks(out: &mut Markup, report: &Report) {
    let scenario = &report.scenario;
    let events = scenario.events.iter().enumerate().map(|(number, event)| {
        vec![text((number + 1).to_string()), self::number(words::seconds(event.at_s)), text(&*event.what)]
    });
    let windows = report.windows.iter().zip('A'..='Z').map(|((name, window), letter)| {
        let span = format!("{} to {}", words::seconds(window.from_s), words::seconds(window.until_s));
        vec![text(letter.to_string()), number(span), text(name)]
    });
    let rows: Vec<_> = events.chain(windows).collect();
    out.raw("<p class=\"quiet\">Grey: users arriving and leaving. Pale, in long runs: what single seconds reached.");
    out.raw(if rows.is_empty() {
        "</p>\n"
    } else {
        " Numbers: what the scenario did. Letters: its windows of time.</p>\n"
    });
    let is_long = rows.len() > MARKS;
    out.raw(if is_long {
        "<details class=\"alone\"><summary>Marks</summary>\n"
    } else {
        "<div class=\"alone\">\n"
    });
    out.table("Marks", &["mark", "time", "what"], &rows);
    out.raw(if is_long { "</details>\n" } else { "</div>\n" });
}

fn distributions(out: &mut Markup, report: &Report) {
    let has_cdf = |times: &Times| times.cdf.len() > 1;
    let charts = [
        (
            report.lanes.values().any(|lane| has_cdf(&lane.latency)),
            "latency-cdf",
            "Latency by lane",
            "The share of messages that took no longer. The scale stretches the slowest.",
        ),
        (
            report.connect.stages.values().any(has_cdf),
            "connect-cdf",
            "Connecting, by stage",
            "The share of users that had come so far, since they began to connect.",
        ),
        (
            report.recovery.by_cause.values().any(has_cdf),
            "recovery-cdf",
            "Recovery, by what was lost",
            "From the loss of the way to the server until frames went again.",
        ),
        (
            report.windows.values().any(|window| has_cdf(&window.latency)),
            "windows-cdf",
            "Latency by window",
            "Messages that were due in each window of time.",
        ),
    ];
    if !charts.iter().any(|(is_there, ..)| *is_there) {
        return;
    }
    out.raw("<section>\n<h2>Distributions</h2>\n<div class=\"charts\">\n");
    for (_, name, title, note) in charts.iter().filter(|(is_there, ..)| *is_there) {
        out.chart(name, title, note);
    }
    out.raw("</div>\n</section>\n");
}

fn tables(out: &mut Markup, report: &Report) {
    out.raw("<section class=\"tables\">\n<h2>Messages</h2>\n");
    lanes(out, report);
    out.table("Latency", &TIMES, &latencies(report)).raw("</section>\n");
    out.raw("<section class=\"tables\">\n<h2>Users</h2>\n");
    users(out, report);
    let stages = assess::stage_names(report).into_iter();
    let stages = stages.map(|stage| times(&stage.replace('_', " "), &report.connect.stages[stage]));
    out.table("Connecting, by stage", &TIMES, &stages.collect::<Vec<_>>());
    out.table("Why connections failed", &["cause", "users"], &counts(&report.connect.failures));
    let causes = report.recovery.by_cause.iter().map(|(cause, lost)| times(cause, lost));
    let all = (report.recovery.times.count > 0).then(|| times("all", &report.recovery.times));
    out.table("Recovery, by what was lost", &TIMES, &causes.chain(all).collect::<Vec<_>>());
    out.table("Errors and refusals", &["cause", "times"], &counts(&report.errors)).raw("</section>\n");
    out.raw("<section class=\"tables\">\n<h2>Server and harness</h2>\n");
    machines(out, report);
    out.raw("</section>\n");
    if !report.networks.is_empty() {
        out.raw("<section class=\"tables\">\n<h2>Simulated networks</h2>\n");
        networks(out, &report.networks);
        out.raw("</section>\n");
    }
    out.raw("<section class=\"alone\">\n<h2>Groups of users</h2>\n");
    let groups = report.scenario.groups.iter().map(|group| {
        vec![
            text(&*group.name),
            number(count(group.users.into())),
            number(count(group.rooms.into())),
            text(&*group.network),
            text(&*group.transport),
            classed(group.does.join("\n"), "words"),
        ]
    });
    out.table(
        "Groups",
        &["group", "users", "rooms", "network", "transport", "does"],
        &groups.collect::<Vec<_>>(),
    );
    out.raw("</section>\n");
}

const TIMES: [&str; 7] = ["", "count", "mean", "p50", "p95", "p99", "max"];

fn times(name: &str, times: &Times) -> Vec<Cell> {
    let cells = [times.mean_ms, times.p50_ms, times.p95_ms, times.p99_ms, times.max_ms];
    let cells = cells.map(|value| number(if times.count > 0 { ms(value) } else { "–".to_owned() }));
    [text(name), number(count(times.count))].into_iter().chain(cells).collect()
}

fn counts(counts: &BTreeMap<String, u64>) -> Vec<Vec<Cell>> {
    let mut counts: Vec<_> = counts.iter().collect();
    counts.sort_by_key(|(_, times)| std::cmp::Reverse(**times));
    counts.into_iter().map(|(cause, times)| vec![text(cause), number(count(*times))]).collect()
}

/// A row for each figure, a column for each lane: few lanes, many figures.
fn lanes(out: &mut Markup, report: &Report) {
    let names = assess::lane_names(report);
    let head: Vec<&str> = [""].into_iter().chain(names.iter().copied()).collect();
    let lanes: Vec<_> = names.iter().map(|name| (*name, &report.lanes[*name])).collect();
    let mut rows = Vec::new();
    let mut row = |what: &str, of: &dyn Fn(&crate::figures::Lane) -> u64, is_fault: bool| {
        let cells = lanes.iter().map(|(name, lane)| {
            let value = of(lane);
            let is_bad = is_fault && value > 0 && *name != "lossy";
            classed(count(value), if is_bad { "n bad" } else { "n" })
        });
        rows.push([text(what)].into_iter().chain(cells).collect());
    };
    row("sent", &|lane| lane.sent, false);
    row("due and not sent", &|lane| lane.unsent, false);
    row("dropped before sending", &|lane| lane.dropped_before_sending, false);
    row("accepted as durable", &|lane| lane.accepted, false);
    row("refused", &|lane| lane.refused, false);
    row("owed to receivers", &|lane| lane.expected, false);
    row("received", &|lane| lane.received, false);
    row("lost", &|lane| lane.lost, true);
    row("doubled", &|lane| lane.doubled, true);
    row("out of order", &|lane| lane.out_of_order, true);
    row("altered", &|lane| lane.altered, true);
    row("foreign", &|lane| lane.foreign, true);
    row("told missing", &|lane| lane.told_missing, false);
    let wide = |what: &str, of: &dyn Fn(&crate::figures::Lane) -> String| -> Vec<Cell> {
        let cells = lanes.iter().map(|(_, lane)| number(of(lane)));
        [text(what)].into_iter().chain(cells).collect()
    };
    rows.push(wide("lost, share", &|lane| percent(lane.loss_share)));
    rows.push(wide("received, bytes", &|lane| bytes(lane.received_bytes as f64)));
    rows.push(wide("received each second", &|lane| short(lane.received_per_s)));
    if !lanes.is_empty() {
        out.table("Messages by lane", &head, &rows);
    }
}

fn latencies(report: &Report) -> Vec<Vec<Cell>> {
    let mut rows = Vec::new();
    for name in assess::lane_names(report) {
        let lane = &report.lanes[name];
        rows.push(times(name, &lane.latency));
        if lane.accepted_after.count > 0 {
            rows.push(times(&format!("{name}: until accepted"), &lane.accepted_after));
        }
    }
    for (name, window) in &report.windows {
        rows.push(times(&format!("while {name}"), &window.latency));
        for (group, received) in &window.groups {
            rows.push(times(&format!("while {name}, {group}"), received));
        }
    }
    rows
}

fn users(out: &mut Markup, report: &Report) {
    let users = &report.users;
    let rows = [
        ("planned", users.planned),
        ("joined", users.joined),
        ("gave up", users.failed),
        ("left as planned", users.left),
        ("sessions lost", users.sessions_lost),
        ("WebSockets opened again", users.reconnects),
        ("changes of rung", users.rung_changes),
        ("not recovered at the end", report.recovery.unrecovered),
    ];
    let rows = rows.map(|(what, users)| vec![text(what), number(count(users))]);
    out.table("Who came and went", &["", "users"], &rows);
    out.table("Rungs when the hold ended", &["rung", "users"], &counts(&users.rungs));
}

fn machines(out: &mut Markup, report: &Report) {
    let (server, harness) = (&report.server, &report.harness);
    if let Some(why) = &server.unavailable {
        out.element("p class=\"warning\"", &format!("No figures of the server: {why}"));
    }
    let mut rows = Vec::new();
    let mut row = |what: &str, value: Option<String>| {
        rows.extend(value.map(|value| vec![text(what), number(value)]));
    };
    let size = |value: Option<u64>| value.map(|value| bytes(value as f64));
    row("CPU until the end of the hold", server.cpu_s.map(|s| format!("{} s", words::digits(s))));
    row("CPU for a delivery", server.cpu_us_per_delivery.map(|us| format!("{} µs", words::digits(us))));
    row("memory when the hold began", size(server.rss_begin_bytes));
    row("memory when the hold ended", size(server.rss_end_bytes));
    row("memory, most", size(server.rss_max_bytes));
    row("memory, growth", server.rss_slope_bytes_per_s.map(|slope| format!("{}/s", bytes(slope))));
    out.table("Server", &["", "value"], &rows);
    let rows = vec![
        vec![text("threads"), number(harness.threads.to_string())],
        vec![text("CPU during the hold"), number(format!("{} s", words::digits(harness.cpu_s)))],
        vec![text("busiest thread, share of a core"), number(percent(harness.busiest_thread_share))],
        vec![text("memory, most"), number(bytes(harness.rss_max_bytes as f64))],
    ];
    out.table("Harness", &["", "value"], &rows);
    out.table("How late the harness was", &TIMES, &[times("late", &harness.behind)]);
    let metrics = server.metrics.iter().map(|(name, (begin, end))| {
        let change = end - begin;
        vec![text(name), number(short(*begin)), number(short(*end)), number(short(change))]
    });
    out.raw("<details><summary>Metrics of the server</summary>\n");
    out.table(
        "Metrics of the server",
        &["name", "hold began", "hold ended", "change"],
        &metrics.collect::<Vec<_>>(),
    );
    out.raw("</details>\n");
}

fn networks(out: &mut Markup, networks: &BTreeMap<String, NetworkFigures>) {
    let fates: std::collections::BTreeSet<&str> =
        networks.values().flat_map(|net| net.up.keys().chain(net.down.keys())).map(String::as_str).collect();
    let head: Vec<&str> = ["group", "way"].into_iter().chain(fates.iter().copied()).collect();
    let rows = networks.iter().flat_map(|(group, network)| {
        [("up", &network.up), ("down", &network.down)].map(|(way, packets)| {
            let cells = fates.iter().map(|fate| number(count(packets.get(*fate).copied().unwrap_or(0))));
            [text(group), text(way)].into_iter().chain(cells).collect()
        })
    });
    out.table("Packets by fate", &head, &rows.collect::<Vec<_>>());
    let changes = networks.iter().filter(|(_, network)| network.address_changes > 0);
    let changes = changes.map(|(group, network)| vec![text(group), number(count(network.address_changes))]);
    out.table("Changes of address", &["group", "times"], &changes.collect::<Vec<_>>());
}
