//! Runs over the adapter `broadcast`, against such a server with a fault that tests plant.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_tungstenite::{
    accept_hdr_async,
    tungstenite::{
        Message,
        handshake::server::{ErrorResponse, Request, Response},
    },
};

use super::{Setup, judged};
use crate::{
    adapter,
    figures::Report,
    run::{Interrupt, run},
    scenario::Scenario,
    target::{Target, Trust},
    token::TokenSource,
};

/// Two rooms of three, all of whom send: 1,800 messages, each to two others.
const SCENARIO: &str = "
description: a test
ramp: 300ms
settle: 1s
hold: 3s
drain: 7s
groups:
  - name: room
    users: 6
    per_room: 3
    transport: websocket
    network: fibre
    does: [{data: {rate: 50, size: 100}}, {data: {rate: 50, size: 100}}]
bounds:
  - connect.success_share == 1
  - lanes.reliable.received >= 3000
  - lanes.reliable.lost == 0
  - lanes.reliable.doubled == 0
  - lanes.reliable.out_of_order == 0
  - lanes.reliable.altered == 0
  - lanes.reliable.foreign == 0
";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// This message reaches nobody.
    Drop(u64),
    /// This message reaches nobody, and its author's connection is cut.
    Cut(u64),
}

#[derive(Default)]
struct State {
    passed: u64,
    connections: u64,
    /// By path and number.
    members: BTreeMap<(String, u64), mpsc::UnboundedSender<Bytes>>,
}

async fn start(fault: Fault) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let state = Arc::new(Mutex::new(State::default()));
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(serve(stream, fault, state.clone()));
        }
    });
    address
}

async fn serve(stream: TcpStream, fault: Fault, state: Arc<Mutex<State>>) {
    let mut path = String::new();
    #[expect(clippy::result_large_err, reason = "the library's callback")]
    let read_path = |request: &Request, response: Response| -> Result<Response, ErrorResponse> {
        path = request.uri().path().to_owned();
        Ok(response)
    };
    // What is no WebSocket looks whether anybody is there, or wants figures.
    let Ok(mut socket) = accept_hdr_async(stream, read_path).await else { return };
    let (sender, mut receiver) = mpsc::unbounded_channel();
    let own = {
        let mut state = state.lock().unwrap();
        state.connections += 1;
        let own = (path, state.connections);
        state.members.insert(own.clone(), sender);
        own
    };
    loop {
        tokio::select! {
            message = socket.next() => match message {
                Some(Ok(Message::Binary(message))) => {
                    let mut state = state.lock().unwrap();
                    state.passed += 1;
                    match fault {
                        Fault::Drop(at) if state.passed == at => continue,
                        Fault::Cut(at) if state.passed == at => break,
                        _ => {}
                    }
                    let others = state.members.iter().filter(|(of, _)| of.0 == own.0 && **of != own);
                    others.for_each(|(_, other)| drop(other.send(message.clone())));
                }
                Some(Ok(Message::Close(_)) | Err(_)) | None => break,
                Some(Ok(_)) => {}
            },
            Some(message) = receiver.recv() => {
                if socket.send(Message::Binary(message)).await.is_err() {
                    break;
                }
            }
        }
    }
    state.lock().unwrap().members.remove(&own);
}

async fn report(fault: Fault) -> Report {
    let address = start(fault).await;
    let setup = Setup {
        scenario: Scenario::parse("test", SCENARIO).unwrap(),
        target: Target::open(&format!("http://{address}"), &Trust::System).await.unwrap(),
        adapter: adapter::find("broadcast").unwrap(),
        tokens: TokenSource::Nowhere,
        seed: 1,
        prefix: "load".to_owned(),
        threads: 1,
        server_pid: None,
        own_server: None,
    };
    let (_interrupt, interrupted) = tokio::sync::watch::channel(Interrupt::None);
    run(setup, interrupted, |_| {}).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_faultless_broadcast_passes_with_every_message_accounted_for() {
    let report = report(Fault::None).await;
    let (broken, findings) = judged(&report);
    assert!(report.verdict.passed && broken.is_empty() && findings.is_empty(), "{report:?}");
    let lane = &report.lanes["reliable"];
    assert_eq!((lane.sent, lane.expected, lane.received), (1_800, 3_600, 3_600));
    assert_eq!((report.users.planned, report.users.joined, report.users.left), (6, 6, 6));
    assert_eq!(report.users.rungs, BTreeMap::from([("websocket".to_owned(), 6)]));
    assert_eq!(report.scenario.adapter, "broadcast");
    assert!(report.errors.is_empty(), "{:?}", report.errors);
    // Over fibre, not straight to the server.
    assert!(report.networks["room"].up["delivered"] > 1_800 && lane.latency.p50_ms > 5.0, "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_a_broadcast_drops_is_found_and_named() {
    let report = report(Fault::Drop(500)).await;
    assert_eq!(report.lanes["reliable"].lost, 2);
    assert_eq!(judged(&report), (vec!["lanes.reliable.lost == 0"], vec!["lost"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_that_a_broadcast_cuts_is_back_and_what_may_not_have_come_is_not_owed() {
    let report = report(Fault::Cut(500)).await;
    let (broken, findings) = judged(&report);
    assert!(broken.is_empty() && findings.is_empty(), "{broken:?} {:?}", report.findings);
    assert_eq!((report.users.sessions_lost, report.users.reconnects), (1, 1));
    assert_eq!((report.recovery.by_cause["session"].count, report.recovery.unrecovered), (1, 0));
    let lane = &report.lanes["reliable"];
    assert!((1_700..=1_800).contains(&lane.sent) && lane.received == lane.expected, "{lane:?}");
}
