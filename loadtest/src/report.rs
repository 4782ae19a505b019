//! What a run has shown: a table for people, JSON for programs, and the bounds that decide about the exit code.

use std::{fmt::Write, time::Duration};

use serde_json::{Value, json};

use crate::{
    browser::Lane,
    histogram::Histogram,
    run::{Figures, Scenario, Transport},
};

/// What must hold, besides that nothing is doubled, and nothing lost or out of order on the reliable lane.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bounds {
    /// The 95th percentile of the one-way latency must be below this.
    pub p95_below: Option<Duration>,
}

/// The bounds that were broken, in words.
pub fn broken(scenario: &Scenario, bounds: &Bounds, figures: &Figures) -> Vec<String> {
    let totals = &figures.totals;
    let mut broken = Vec::new();
    let mut none = |count: u64, what: &str| {
        if count > 0 {
            broken.push(format!("{count} {what}"));
        }
    };
    if scenario.lane == Lane::Reliable {
        none(totals.lost, "messages lost on the reliable lane");
        none(totals.out_of_order, "messages out of order on the reliable lane");
        none(totals.told_missing, "messages that the server dropped for slow receivers, as it told them");
    }
    none(totals.doubled, "messages received more than once");
    none(totals.foreign, "messages received that nobody of this run has sent");
    none(figures.trouble_count, "troubles");
    if totals.received == 0 {
        broken.push("nothing was received".to_owned());
    }
    if let Some(bound) = bounds.p95_below {
        let p95 = figures.latency.quantile(0.95);
        if p95 >= bound {
            broken.push(format!(
                "p95 of the latency is {}, not below {}",
                milliseconds(p95),
                milliseconds(bound)
            ));
        }
    }
    broken
}

/// The table.
pub fn table(scenario: &Scenario, figures: &Figures, broken: &[String]) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write_table(&mut out, scenario, figures, broken);
    out
}

/// The same as JSON; times are in milliseconds.
pub fn json(scenario: &Scenario, figures: &Figures, broken: &[String]) -> Value {
    let totals = &figures.totals;
    let stages: serde_json::Map<String, Value> = figures
        .stages
        .iter()
        .filter(|(_, times)| times.count() > 0)
        .map(|(name, times)| ((*name).to_owned(), json_times(times)))
        .collect();
    let refusals: serde_json::Map<String, Value> =
        figures.refusals.iter().map(|(code, count)| (format!("{code:?}"), json!(count))).collect();
    json!({
        "scenario": {
            "peers": scenario.peers,
            "rooms": scenario.rooms,
            "senders_per_room": scenario.senders,
            "transport": transport(scenario.transport),
            "lane": lane(scenario.lane),
            "size_bytes": scenario.size,
            "rate_per_sender": scenario.rate,
            "duration_s": scenario.duration.as_secs_f64(),
        },
        "interrupted": figures.interrupted,
        "sending_s": figures.sending.as_secs_f64(),
        "sent": figures.sent,
        "unsent": figures.unsent,
        "dropped_before_sending": figures.dropped_before_sending,
        "expected": totals.expected,
        "received": totals.received,
        "lost": totals.lost,
        "doubled": totals.doubled,
        "out_of_order": totals.out_of_order,
        "told_missing": totals.told_missing,
        "foreign": totals.foreign,
        "received_per_second": per_second(figures),
        "latency": json_times(&figures.latency),
        "connect": stages,
        "pipe_changes": figures.pipe_changes,
        "refusals": refusals,
        "trouble_count": figures.trouble_count,
        "troubles": figures.troubles,
        "broken": broken,
    })
}

fn write_table(
    out: &mut String,
    scenario: &Scenario,
    figures: &Figures,
    broken: &[String],
) -> std::fmt::Result {
    let totals = &figures.totals;
    writeln!(
        out,
        "{} peers in {} rooms, {} senders each, {} lane over {}, {} B, {} messages/s a sender, {:.1} s{}",
        scenario.peers,
        scenario.rooms,
        scenario.senders,
        lane(scenario.lane),
        transport(scenario.transport),
        scenario.size,
        scenario.rate,
        figures.sending.as_secs_f64(),
        if figures.interrupted { " (ended early)" } else { "" },
    )?;
    writeln!(out, "\nmessages")?;
    let rows = [
        ("sent", figures.sent),
        ("due, not sent", figures.unsent),
        ("dropped before sending", figures.dropped_before_sending),
        ("expected", totals.expected),
        ("received", totals.received),
        ("lost", totals.lost),
        ("doubled", totals.doubled),
        ("out of order", totals.out_of_order),
        ("told missing", totals.told_missing),
        ("foreign", totals.foreign),
    ];
    for (name, count) in rows {
        writeln!(out, "  {name:<24}{count:>12}")?;
    }
    writeln!(out, "  {:<24}{:>12.0}", "received per second", per_second(figures))?;
    writeln!(out, "\n{:<18}{:>10}{:>12}{:>12}{:>12}{:>12}", "ms", "count", "p50", "p95", "p99", "max")?;
    let latency = [("latency", &figures.latency)];
    let stages = figures.stages.iter().map(|(name, times)| (*name, times));
    for (name, times) in latency.into_iter().chain(stages).filter(|(_, times)| times.count() > 0) {
        write!(out, "{name:<18}{:>10}", times.count())?;
        for quantile in [times.quantile(0.5), times.quantile(0.95), times.quantile(0.99), times.max()] {
            write!(out, "{:>12.2}", quantile.as_secs_f64() * 1e3)?;
        }
        writeln!(out)?;
    }
    if !figures.refusals.is_empty() {
        writeln!(out, "\nrefusals")?;
        for (code, count) in &figures.refusals {
            writeln!(out, "  {:<24}{count:>12}", format!("{code:?}"))?;
        }
    }
    if figures.trouble_count > 0 {
        writeln!(out, "\n{} troubles; the first of each peer:", figures.trouble_count)?;
        for trouble in &figures.troubles {
            writeln!(out, "  {trouble}")?;
        }
    }
    match broken {
        [] => writeln!(out, "\nall bounds held"),
        broken => broken.iter().try_for_each(|bound| writeln!(out, "\nBROKEN: {bound}")),
    }
}

fn json_times(times: &Histogram) -> Value {
    let ms = |time: Duration| json!(time.as_secs_f64() * 1e3);
    json!({
        "count": times.count(),
        "p50_ms": ms(times.quantile(0.5)),
        "p95_ms": ms(times.quantile(0.95)),
        "p99_ms": ms(times.quantile(0.99)),
        "max_ms": ms(times.max()),
    })
}

fn per_second(figures: &Figures) -> f64 {
    let seconds = figures.sending.as_secs_f64();
    if seconds > 0.0 { figures.totals.received as f64 / seconds } else { 0.0 }
}

fn milliseconds(duration: Duration) -> String {
    format!("{:.2} ms", duration.as_secs_f64() * 1e3)
}

fn lane(lane: Lane) -> &'static str {
    match lane {
        Lane::Reliable => "reliable",
        Lane::Lossy => "lossy",
    }
}

fn transport(transport: Transport) -> &'static str {
    match transport {
        Transport::Udp => "udp",
        Transport::WebSocket => "websocket",
        Transport::Mixed => "mixed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{account::Totals, token::TokenSource};

    fn scenario(lane: Lane) -> Scenario {
        Scenario {
            server: ([127, 0, 0, 1], 7880).into(),
            tokens: TokenSource::Development,
            prefix: "load".to_owned(),
            peers: 10,
            rooms: 1,
            senders: 2,
            transport: Transport::Mixed,
            lane,
            size: 64,
            rate: 10.0,
            duration: Duration::from_secs(1),
            connect_timeout: Duration::from_secs(1),
            drain_timeout: Duration::from_secs(1),
        }
    }

    fn figures(totals: Totals) -> Figures {
        let mut latency = Histogram::default();
        latency.record(Duration::from_millis(5));
        Figures { totals, latency, ..Figures::default() }
    }

    fn broken_by(lane: Lane, totals: Totals) -> usize {
        broken(&scenario(lane), &Bounds::default(), &figures(totals)).len()
    }

    #[test]
    fn every_fault_breaks_a_bound_of_the_reliable_lane() {
        let good = Totals { expected: 3, received: 3, ..Totals::default() };
        assert_eq!(broken_by(Lane::Reliable, good), 0);
        assert_eq!(broken_by(Lane::Reliable, Totals { lost: 1, ..good }), 1);
        assert_eq!(broken_by(Lane::Reliable, Totals { doubled: 1, ..good }), 1);
        assert_eq!(broken_by(Lane::Reliable, Totals { out_of_order: 1, ..good }), 1);
        assert_eq!(broken_by(Lane::Reliable, Totals { told_missing: 1, ..good }), 1);
        assert_eq!(broken_by(Lane::Reliable, Totals { foreign: 1, ..good }), 1);
        assert_eq!(broken_by(Lane::Reliable, Totals::default()), 1);
    }

    #[test]
    fn the_lossy_lane_may_lose_and_reorder_but_not_double() {
        let totals = Totals { expected: 9, received: 3, lost: 6, out_of_order: 2, ..Totals::default() };
        assert_eq!(broken_by(Lane::Lossy, totals), 0);
        assert_eq!(broken_by(Lane::Lossy, Totals { doubled: 1, ..totals }), 1);
    }

    #[test]
    fn a_latency_above_its_bound_is_told() {
        let figures = figures(Totals { expected: 1, received: 1, ..Totals::default() });
        let check = |below| {
            let bounds = Bounds { p95_below: Some(Duration::from_millis(below)) };
            broken(&scenario(Lane::Reliable), &bounds, &figures)
        };
        assert!(check(6).is_empty());
        assert_eq!(check(5), ["p95 of the latency is 5.00 ms, not below 5.00 ms"]);
    }

    #[test]
    fn table_and_json_have_the_figures_and_the_verdict() {
        let figures = figures(Totals { expected: 8, received: 7, lost: 1, ..Totals::default() });
        let broken = broken(&scenario(Lane::Reliable), &Bounds::default(), &figures);
        let table = table(&scenario(Lane::Reliable), &figures, &broken);
        assert!(table.contains("BROKEN: 1 messages lost on the reliable lane"), "{table}");
        let json = json(&scenario(Lane::Reliable), &figures, &broken);
        assert_eq!((&json["lost"], &json["scenario"]["transport"]), (&json!(1), &json!("mixed")));
    }
}
