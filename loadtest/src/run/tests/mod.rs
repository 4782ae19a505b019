//! Runs on real sockets against a relay that does one thing wrong: each fault must be found out, and named.

mod broadcast;
mod relay;

use std::net::SocketAddr;

use self::relay::{Fault, Relay};
use super::*;
use crate::{adapter::switchyard, target::Trust};

/// Six users in one room, four of whom send: 1,200 messages, 6,000 deliveries.
const SCENARIO: &str = "
description: a test
ramp: 300ms
settle: 2s
hold: 3s
drain: 1s
groups:
  - {name: room, users: 6, transport: TRANSPORT, does: [{data: {rate: 100, size: 100, senders: 4}}]}
bounds:
  - connect.success_share == 1
  - lanes.reliable.received >= 5000
  - lanes.reliable.lost == 0
  - lanes.reliable.doubled == 0
  - lanes.reliable.out_of_order == 0
  - lanes.reliable.altered == 0
  - lanes.reliable.foreign == 0
";

async fn setup(address: SocketAddr, yaml: &str) -> Setup {
    Setup {
        scenario: Scenario::parse("test", yaml).unwrap(),
        target: Target::open(&format!("http://{address}"), &Trust::System).await.unwrap(),
        adapter: switchyard(),
        tokens: TokenSource::Key { key: "key".to_owned(), secret: "secret".to_owned() },
        seed: 1,
        prefix: "load".to_owned(),
        threads: 1,
        server_pid: None,
        own_server: None,
    }
}

async fn report(fault: Fault, transport: &str) -> Report {
    let address = Relay::start(fault).await;
    let setup = setup(address, &SCENARIO.replace("TRANSPORT", transport)).await;
    let (_interrupt, interrupted) = watch::channel(Interrupt::None);
    run(setup, interrupted, |_| {}).await.unwrap()
}

/// The bounds that were broken, and the kinds of findings but for what a busy machine makes of the program itself.
fn judged(report: &Report) -> (Vec<&str>, Vec<&str>) {
    let broken = report.verdict.bounds.iter().filter(|bound| !bound.held);
    let findings = report.findings.iter().map(|finding| finding.kind.as_str());
    let findings = findings.filter(|kind| *kind != "harness_behind");
    (broken.map(|bound| bound.bound.as_str()).collect(), findings.collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_faultless_relay_passes_with_every_message_accounted_for() {
    for transport in ["udp", "websocket", "mixed"] {
        let report = report(Fault::None, transport).await;
        let (broken, findings) = judged(&report);
        assert!(
            report.verdict.passed && broken.is_empty(),
            "{transport}: {broken:?} {findings:?} {report:?}"
        );
        let lane = &report.lanes["reliable"];
        assert_eq!((lane.sent, lane.expected, lane.received), (1_200, 6_000, 6_000), "{transport}");
        assert_eq!(lane.latency.count, 6_000);
        assert_eq!((report.users.planned, report.users.joined, report.users.left), (6, 6, 6));
        let rungs = report.users.rungs.values().sum::<u64>();
        assert_eq!(rungs, 6, "{:?}", report.users.rungs);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_message_of_a_thousand_that_is_dropped_is_found_and_named() {
    let report = report(Fault::Drop(1_000), "mixed").await;
    assert_eq!(report.lanes["reliable"].lost, 5);
    let (broken, findings) = judged(&report);
    assert_eq!(broken, ["lanes.reliable.lost == 0"]);
    assert!(findings.contains(&"lost"), "{findings:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_message_of_a_thousand_that_is_doubled_is_found_and_named() {
    let report = report(Fault::Double(1_000), "mixed").await;
    assert_eq!((report.lanes["reliable"].doubled, report.lanes["reliable"].lost), (5, 0));
    let (broken, findings) = judged(&report);
    assert_eq!(broken, ["lanes.reliable.doubled == 0"]);
    assert!(findings.contains(&"doubled"), "{findings:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_messages_that_are_swapped_are_found_and_named() {
    let report = report(Fault::Swap(500), "mixed").await;
    assert_eq!((report.lanes["reliable"].out_of_order, report.lanes["reliable"].lost), (5, 0));
    let (broken, findings) = judged(&report);
    assert_eq!(broken, ["lanes.reliable.out_of_order == 0"]);
    assert!(findings.contains(&"reordered"), "{findings:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_message_of_a_thousand_that_is_altered_is_found_and_named() {
    let report = report(Fault::Alter(1_000), "mixed").await;
    let (broken, findings) = judged(&report);
    assert!(broken.contains(&"lanes.reliable.altered == 0"), "{broken:?}");
    assert!(findings.contains(&"altered"), "{findings:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_whose_messages_are_late_is_named() {
    let report = report(Fault::Late(1, Duration::from_millis(300)), "udp").await;
    let late = report.findings.iter().find(|finding| finding.kind == "late_sender");
    let late = late.unwrap_or_else(|| panic!("{:?}", report.findings));
    assert!(late.sentence.contains("user 1"), "{}", late.sentence);
    assert_eq!(report.lanes["reliable"].lost, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_server_it_says_so_at_once() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let setup = setup(address, &SCENARIO.replace("TRANSPORT", "udp")).await;
    let (_interrupt, interrupted) = watch::channel(Interrupt::None);
    let error = run(setup, interrupted, |_| {}).await.unwrap_err().to_string();
    assert!(error.starts_with(&format!("cannot connect to http://{address}")), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_without_a_server_of_its_own_is_refused_with_what_is_missing() {
    let address = Relay::start(Fault::None).await;
    let yaml = SCENARIO.replace("TRANSPORT", "udp") + "events: [{at: 1s, restart: {}}]\n";
    let (_interrupt, interrupted) = watch::channel(Interrupt::None);
    let error = run(setup(address, &yaml).await, interrupted, |_| {}).await.unwrap_err().to_string();
    assert!(error.contains("--server-command"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_early_end_still_gives_a_report_and_a_second_one_does_not() {
    for urgency in [Interrupt::Early, Interrupt::Now] {
        let address = Relay::start(Fault::None).await;
        let yaml = SCENARIO.replace("TRANSPORT", "mixed").replace("hold: 3s", "hold: 600s");
        let (interrupt, interrupted) = watch::channel(Interrupt::None);
        let running = run(setup(address, &yaml).await, interrupted, |_| {});
        let stopping = async {
            tokio::time::sleep(Duration::from_secs(4)).await;
            interrupt.send_replace(urgency);
        };
        let (report, ()) = tokio::join!(running, stopping);
        match urgency {
            Interrupt::Early => {
                let report = report.unwrap();
                assert!(report.verdict.interrupted && report.lanes["reliable"].received > 0);
                assert_eq!(report.lanes["reliable"].lost, 0, "{:?}", report.findings);
            }
            _ => assert!(matches!(report, Err(RunError::Abandoned))),
        }
    }
}
