//! The load program against the real server: what is wrong with the server is found, and named (LOAD2).
//!
//! The server runs in this process, so that faults can be planted in its rooms; sockets, pipes, engine and users are as
//! they are anywhere.

#![cfg(test)]

use std::{net::Ipv4Addr, time::Duration};

use switchyard::{
    Running,
    config::{Config, Key, Mode, Secret},
    room::faults::{self, Fault},
};
use switchyard_loadtest::{
    adapter,
    figures::{Finding, Report},
    run::{Interrupt, Setup, run},
    scenario::Scenario,
    target::{Target, Trust},
    token::TokenSource,
};
use tokio::sync::watch;

const KEY: &str = "load";
const SECRET: &str = "a secret of the tests, on loopback";

/// Twelve users in three rooms: 4,800 messages, each to three others.
const SCENARIO: &str = "
description: a test
ramp: 1s
settle: 2s
hold: 8s
drain: 2s
groups:
  - {name: people, users: 12, per_room: 4, transport: mixed, does: [{data: {rate: 50, size: 100}}]}
bounds:
  - connect.success_share == 1
  - lanes.reliable.received >= 10000
  - lanes.reliable.lost == 0
  - lanes.reliable.doubled == 0
";

/// The same over TLS, with messages that fit into a record and such that do not.
const SECURE: &str = "
description: a test over TLS
ramp: 1s
settle: 1s
hold: 4s
drain: 2s
groups:
  - {name: small, users: 6, per_room: 3, transport: websocket, does: [{data: {rate: 50, size: 100}}]}
  - {name: large, users: 6, per_room: 3, transport: websocket, does: [{data: {rate: 20, size: 40000}}]}
bounds:
  - connect.success_share == 1
  - lanes.reliable.received >= 2500
  - lanes.reliable.lost == 0
  - lanes.reliable.doubled == 0
";

async fn start(folder: &std::path::Path, is_secure: bool) -> Running {
    let mut config = Config { mode: Some(Mode::Development), ..Config::default() };
    config.keys.insert(KEY.to_owned(), Key { secret: Secret::new(SECRET.to_owned()) });
    config.http.bind = Some(Ipv4Addr::LOCALHOST.into());
    config.http.port = 0;
    config.rtc.bind = vec![Ipv4Addr::LOCALHOST.into()];
    config.rtc.advertise_addresses = config.rtc.bind.clone();
    config.rtc.udp_port = 0;
    config.rtc.tcp_enabled = false;
    if is_secure {
        config.turn.listen.bind = vec![Ipv4Addr::LOCALHOST.into()];
        (config.turn.listen.udp_enabled, config.turn.listen.tcp_enabled) = (false, false);
        (config.turn.listen.tls_port, config.turn.listen.https) = (0, true);
        config.turn.relay.bind_v4 = Some(Ipv4Addr::LOCALHOST);
    } else {
        config.turn.mode = switchyard_turn_config::settings::Mode::Off;
    }
    config.store.path = folder.join("store.db");
    switchyard::start(config).await.unwrap()
}

/// What a run shows when this is wrong with the server.
async fn report(fault: Option<Fault>) -> Report {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path(), false).await;
    let url = format!("http://{}", server.address);
    faults::plant(fault);
    let report = load(SCENARIO, Target::open(&url, &Trust::System).await.unwrap()).await;
    faults::plant(None);
    server.drain().await.unwrap();
    report
}

async fn load(scenario: &str, target: Target) -> Report {
    let setup = Setup {
        scenario: Scenario::parse("test", scenario).unwrap(),
        target,
        adapter: adapter::switchyard(),
        tokens: TokenSource::Key { key: KEY.to_owned(), secret: SECRET.to_owned() },
        seed: 1,
        prefix: "load".to_owned(),
        threads: 1,
        server_pid: None,
        own_server: None,
    };
    let (_interrupt, interrupted) = watch::channel(Interrupt::None);
    run(setup, interrupted, |_| {}).await.unwrap()
}

/// The only finding, once what a busy machine makes of the load program itself is set aside.
fn finding(report: &Report) -> &Finding {
    let found: Vec<_> = report.findings.iter().filter(|finding| finding.kind != "harness_behind").collect();
    assert_eq!(found.len(), 1, "{found:#?}");
    found[0]
}

/// One after the other, because what is planted is planted in the whole process.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_the_server_is_found_and_named() {
    let sound = report(None).await;
    assert!(sound.verdict.passed, "{:#?}", sound.verdict);
    assert!(sound.findings.iter().all(|finding| finding.kind == "harness_behind"), "{:#?}", sound.findings);

    assert_eq!(sound.recovery.times.count, 0, "a goodbye is no loss: {:?}", sound.recovery);

    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path(), true).await;
    let url = format!("https://127.0.0.1:{}", server.turn().listen.tls_port);
    let secure = load(SECURE, Target::open(&url, &Trust::Anything).await.unwrap()).await;
    server.drain().await.unwrap();
    assert!(secure.verdict.passed, "{:#?}", secure.verdict);

    let drops = report(Some(Fault::DropsOneIn(1000))).await;
    let found = finding(&drops);
    println!("{}", found.sentence);
    assert_eq!((found.kind.as_str(), drops.verdict.passed), ("lost", false));
    assert!((9..=15).contains(&found.count), "{found:?}");
    assert!(found.sentence.contains("at random"), "{}", found.sentence);

    let doubles = report(Some(Fault::Doubles(2000))).await;
    let found = finding(&doubles);
    println!("{}", found.sentence);
    assert_eq!((found.kind.as_str(), found.count, doubles.verdict.passed), ("doubled", 3, false));
    let twice = doubles.lanes["reliable"].doubled;
    assert_eq!((twice, doubles.lanes["reliable"].lost), (3, 0));

    let delays = report(Some(Fault::Delays("user-5".to_owned(), Duration::from_millis(200)))).await;
    let found = finding(&delays);
    println!("{}", found.sentence);
    assert_eq!(found.kind, "late_sender");
    assert!(found.sentence.contains("user 5"), "{}", found.sentence);
}
