//! Reports as runs give them, from a seed: for tests of the views, and to look at.

use std::collections::BTreeMap;

use serde_json::Value;
use switchyard_loadtest::{figures::*, rng::Rng};

/// A run of some minutes in which the server was restarted and the network of one group became bad: 120 users over
/// `hold_s` seconds, a little loss, broken bounds. `slower` stretches all latencies.
pub(crate) fn report(seed: u64, hold_s: u32, slower: f64) -> Report {
    let mut rng = Rng::new(seed);
    let (ramp_s, drain_s) = (15.0, 5.0);
    let hold = f64::from(hold_s);
    let (restart, bad, worse_until) = (ramp_s + hold * 0.4, ramp_s + hold * 0.6, ramp_s + hold * 0.75);
    let mut timeline = Vec::new();
    let mut rss = 48.0 * 1_048_576.0;
    for second in 1..=hold_s + 20 {
        let at_s = f64::from(second);
        let here = (at_s / ramp_s).min(1.0).min(((ramp_s + hold + drain_s - at_s) / drain_s).clamp(0.0, 1.0));
        let users = (120.0 * here).round() as u64;
        let is_restart = (restart..restart + 3.0).contains(&at_s);
        let is_bad = (bad..worse_until).contains(&at_s);
        let lost_udp = if is_restart {
            users
        } else if is_bad {
            users / 4
        } else {
            users / 30
        };
        let websocket = if is_restart { users / 3 } else { lost_udp };
        let rungs = [("udp", users - lost_udp), ("websocket", websocket), ("none", lost_udp - websocket)];
        let sent = (f64::from(users as u32) * 5.0 * (0.94 + 0.12 * rng.unit())) as u64;
        let received = if is_restart { sent } else { sent * 19 };
        let base = slower * (1.2 + 0.5 * rng.unit()) * if is_bad { 6.0 } else { 1.0 };
        let tail = if is_restart { 900.0 } else { 4.0 + 3.0 * rng.unit() };
        let has_latency = users > 0 && sent > 0;
        rss += 40_000.0 * rng.unit();
        timeline.push(Second {
            at_s,
            rungs: rungs.into_iter().map(|(rung, users)| (rung.to_owned(), users)).collect(),
            joins: if at_s <= ramp_s { 8 } else { 0 },
            sent,
            received,
            errors: if is_restart { rng.below(40) } else { u64::from(rng.chance(0.03)) },
            p50_ms: has_latency.then_some(base),
            p95_ms: has_latency.then_some(base * tail.sqrt() * 1.6),
            p99_ms: has_latency.then_some(base * tail),
            max_ms: has_latency.then_some(base * tail * (1.5 + rng.unit())),
            server_cpu: Some((0.05 + received as f64 * 4.2e-6 * slower) * (0.9 + 0.2 * rng.unit())),
            server_rss_bytes: Some(rss as u64),
            harness_cpu: Some(0.1 + received as f64 * 6e-6 * (0.9 + 0.2 * rng.unit())),
            packets_dropped: if is_bad { 30 + rng.below(40) } else { 0 },
        });
    }
    let received: u64 = timeline.iter().map(|second| second.received).sum();
    let sent: u64 = timeline.iter().map(|second| second.sent).sum();
    let latency = |rng: &mut Rng, count, scale: f64| times(rng, count, 1.4 * scale * slower, 0.55);
    let lanes = BTreeMap::from([
        (
            "reliable".to_owned(),
            Lane {
                sent: sent / 2,
                expected: received / 2 + 3,
                received: received / 2,
                lost: 3,
                loss_share: 3.0 / (received / 2 + 3) as f64,
                received_bytes: received * 128,
                received_per_s: received as f64 / 2.0 / hold,
                latency: latency(&mut rng, received / 2, 1.0),
                ..Lane::default()
            },
        ),
        (
            "lossy".to_owned(),
            Lane {
                sent: sent / 2,
                unsent: 212,
                dropped_before_sending: 1_840,
                expected: received / 2 + 9_400,
                received: received / 2,
                lost: 9_400,
                loss_share: 9_400.0 / (received / 2 + 9_400) as f64,
                out_of_order: 1_204,
                received_bytes: received * 40,
                received_per_s: received as f64 / 2.0 / hold,
                latency: latency(&mut rng, received / 2, 0.9),
                ..Lane::default()
            },
        ),
        (
            "messages".to_owned(),
            Lane {
                sent: 7_200,
                accepted: 7_196,
                refused: 4,
                expected: 7_196 * 19,
                received: 7_196 * 19,
                received_bytes: 7_196 * 19 * 180,
                received_per_s: 7_196.0 * 19.0 / hold,
                latency: latency(&mut rng, 7_196 * 19, 5.0),
                accepted_after: latency(&mut rng, 7_196, 4.2),
                ..Lane::default()
            },
        ),
    ]);
    let stages = [("websocket", 3.0), ("joined", 6.0), ("first_message", 7.5), ("ice", 14.0), ("dtls", 22.0)];
    let stages = stages.into_iter().chain([("channel", 31.0), ("ready", 36.0)]);
    let windows = BTreeMap::from([
        ("server restarted".to_owned(), window(&mut rng, restart, restart + 10.0, 12_000, 30.0 * slower)),
        ("writers on a bad LTE".to_owned(), window(&mut rng, bad, worse_until, 80_000, 9.0 * slower)),
    ]);
    let report = Report {
        attacks: Vec::new(),
        schema: SCHEMA,
        program: "switchyard-loadtest 0.1.0".to_owned(),
        started_unix_ms: 1_795_187_045_000,
        scenario: scenario(seed, hold, [ramp_s, drain_s], [restart, bad, worse_until]),
        verdict: verdict(slower),
        findings: vec![Finding {
            kind: "lost".to_owned(),
            count: 3,
            sentence: "3 messages on the reliable lane were never received, all of them sent by 1 user within 0.4 s of \
                       the server's restart."
                .to_owned(),
            examples: vec![
                "writers-17 → writers-03, number 412, due at 75.2 s".to_owned(),
                "writers-17 → writers-04, number 412, due at 75.2 s".to_owned(),
                "writers-17 → readers-11, number 412, due at 75.2 s".to_owned(),
            ],
        }],
        users: Users {
            planned: 120,
            joined: 120,
            left: 118,
            sessions_lost: 2,
            reconnects: 131,
            rung_changes: 312,
            rungs: [("udp", 116), ("websocket", 4)].map(|(rung, users)| (rung.to_owned(), users)).into(),
            ..Users::default()
        },
        connect: Connect {
            attempts: 124,
            succeeded: 120,
            success_share: 120.0 / 124.0,
            stages: stages.map(|(name, ms)| (name.to_owned(), times(&mut rng, 120, ms, 0.4))).collect(),
            failures: [("websocket: refused".to_owned(), 3), ("dtls: timed out".to_owned(), 1)].into(),
        },
        recovery: Recovery {
            times: times(&mut rng, 151, 700.0, 0.6),
            by_cause: [("socket", 131, 800.0), ("channel", 18, 350.0), ("session", 2, 2_100.0)]
                .map(|(cause, count, ms)| (cause.to_owned(), times(&mut rng, count, ms, 0.5)))
                .into(),
            unrecovered: 0,
        },
        lanes,
        windows,
        errors: [("overloaded", 31), ("rate_limited", 4), ("websocket closed: 1006", 120)]
            .map(|(cause, count)| (cause.to_owned(), count))
            .into(),
        networks: [("writers", 52_110u64, 402_118u64), ("readers", 20_031, 391_201)]
            .map(|(group, up, down)| (group.to_owned(), network(up, down)))
            .into(),
        server: Server {
            pid: Some(4_711),
            cpu_s: Some(hold * 0.11 * slower),
            rss_begin_bytes: Some(50_331_648),
            rss_end_bytes: Some(rss as u64),
            rss_max_bytes: Some(rss as u64 + 400_000),
            rss_slope_bytes_per_s: Some(19_800.0),
            cpu_us_per_delivery: Some(9.1 * slower),
            metrics: [("switchyard_messages_total", 12.0, 1.2e6), ("switchyard_peers", 120.0, 120.0)]
                .map(|(name, begin, end)| (name.to_owned(), (begin, end)))
                .into(),
            unavailable: None,
        },
        harness: Harness {
            threads: 2,
            cpu_s: hold * 0.3,
            busiest_thread_share: 0.34,
            behind: times(&mut rng, 40_000, 0.08, 0.8),
            rss_max_bytes: 190_000_000,
        },
        timeline,
    };
    rounded(&report)
}

/// To the microsecond, as measured: such numbers are read exactly as they were written, others to the last bit or so.
fn rounded(report: &Report) -> Report {
    fn walk(value: &mut Value) {
        match value {
            Value::Number(number) if number.is_f64() => {
                *value = number.as_f64().map(|number| (number * 1e6).round() / 1e6).into();
            }
            Value::Array(values) => values.iter_mut().for_each(walk),
            Value::Object(values) => values.values_mut().for_each(walk),
            _ => {}
        }
    }
    let mut value = serde_json::to_value(report).expect("a report can be written");
    walk(&mut value);
    serde_json::from_value(value).expect("a report can be read")
}

fn scenario(seed: u64, hold_s: f64, [ramp_s, drain_s]: [f64; 2], at: [f64; 3]) -> ScenarioSummary {
    let group = |name: &str, users, network: &str, does: &[&str]| GroupSummary {
        name: name.to_owned(),
        users,
        rooms: 6,
        network: network.to_owned(),
        transport: "mixed".to_owned(),
        does: does.iter().map(|&line| line.to_owned()).collect(),
    };
    let event = |at_s, what: &str| EventSummary { at_s, what: what.to_owned() };
    ScenarioSummary {
        name: "rough-day".to_owned(),
        description: "Six rooms of 20 over Wi-Fi and LTE; the server is restarted once".to_owned(),
        seed,
        target: "http://127.0.0.1:7880".to_owned(),
        adapter: "switchyard".to_owned(),
        ramp_s,
        hold_s,
        drain_s,
        groups: vec![
            group("writers", 40, "wifi, then lte", &["data reliable 5/s of 256 B", "message every 2 s"]),
            group("readers", 80, "wifi", &["data lossy 5/s of 80 B"]),
        ],
        events: vec![
            event(at[0], "server restarted"),
            event(at[1], "writers: handover to a bad lte"),
            event(at[2], "writers: back to wifi"),
        ],
    }
}

fn verdict(slower: f64) -> Verdict {
    let bound = |name: &str, value: f64, limit: f64, is_least: bool, what: &str| {
        let held = if is_least { value >= limit } else { value <= limit };
        Bound {
            bound: format!("{name} {} {limit}", if is_least { ">=" } else { "<=" }),
            value: Some(value),
            limit: Some(limit),
            held,
            sentence: what.to_owned(),
        }
    };
    let bounds = vec![
        bound(
            "lanes.reliable.lost",
            3.0,
            0.0,
            false,
            "3 messages were lost on the reliable lane; none may be.",
        ),
        bound("lanes.reliable.doubled", 0.0, 0.0, false, "No message of the reliable lane came twice."),
        bound("lanes.messages.lost", 0.0, 0.0, false, "No message of the log was lost."),
        bound("lanes.messages.latency.p95_ms", 17.4 * slower, 100.0, false, "95 % within 100 ms."),
        bound(
            "connect.success_share",
            0.967_74,
            0.99,
            true,
            "96.8 % of first connections were made; 99 % must be.",
        ),
        bound("recovery.times.p95_ms", 1_880.0, 5_000.0, false, "95 % recovered within 5 s."),
    ];
    Verdict { passed: bounds.iter().all(|bound| bound.held), interrupted: false, bounds }
}

fn window(rng: &mut Rng, from_s: f64, until_s: f64, received: u64, median_ms: f64) -> Window {
    let groups =
        ["readers", "writers"].map(|group| (group.to_owned(), times(rng, received / 2, median_ms, 0.7)));
    Window { from_s, until_s, received, latency: times(rng, received, median_ms, 0.7), groups: groups.into() }
}

fn network(up: u64, down: u64) -> NetworkFigures {
    let fates = |packets: u64| {
        BTreeMap::from([
            ("delivered".to_owned(), packets),
            ("lost".to_owned(), packets / 90),
            ("queue_full".to_owned(), packets / 800),
            ("down".to_owned(), 44),
        ])
    };
    NetworkFigures { up: fates(up), down: fates(down), address_changes: 40 }
}

/// Durations of a lognormal distribution, the form that latencies have.
pub(crate) fn times(rng: &mut Rng, count: u64, median_ms: f64, spread: f64) -> Times {
    let mut drawn: Vec<f64> = (0..count.clamp(1, 4_000))
        .map(|_| {
            let normal = (0..12).map(|_| rng.unit()).sum::<f64>() - 6.0;
            median_ms * (normal * spread).exp()
        })
        .collect();
    drawn.sort_by(f64::total_cmp);
    let at = |share: f64| drawn[((drawn.len() as f64 * share).ceil() as usize).clamp(1, drawn.len()) - 1];
    let shares = (1..=90).map(|step| f64::from(step) / 91.0).chain([0.992, 0.994, 0.996, 0.998, 0.999, 1.0]);
    Times {
        count,
        mean_ms: drawn.iter().sum::<f64>() / drawn.len() as f64,
        p50_ms: at(0.5),
        p95_ms: at(0.95),
        p99_ms: at(0.99),
        max_ms: at(1.0),
        cdf: shares.map(|share| (at(share), share)).collect(),
    }
}
