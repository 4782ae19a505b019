//! Why somebody does not connect, as the tenant's backend is told: what clients tell of their attempts, what the server has
//! seen of them by itself, and what is counted.

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use serde_json::{Value, json};
use switchyard::{Running, config::Config};
use switchyard_loadtest::token;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::{
    api::{Answer, Backend},
    doors::{Raw, SECOND, SECRET, server_with},
};

/// With WebRTC, and little patience with peer connections.
async fn server_with_webrtc(folder: &TempDir) -> Running {
    let text = format!(
        "mode: development\nhttp: {{ port: 0 }}\nturn: {{ mode: off }}\nkeys: {{ app: {{ secret: {SECRET} }} }}\n\
         rtc: {{ bind: [127.0.0.1], udp_port: 0, tcp_enabled: false, shards: 2, handshake_timeout: 1s }}\n\
         store: {{ path: {} }}\n",
        folder.path().join("store.db").display()
    );
    let config = Config::read(Some((Path::new("it.yaml"), &text)), &[], &[]).unwrap();
    switchyard::start(config).await.unwrap()
}

/// An offer of nobody, who never sends a packet.
pub(crate) const OFFER: &str = "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0\r\n\
    m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\nc=IN IP4 0.0.0.0\r\n\
    a=ice-ufrag:abcd\r\na=ice-pwd:0123456789012345678901\r\n\
    a=fingerprint:sha-256 0A:1B:2C:3D:4E:5F:60:71:82:93:A4:B5:C6:D7:E8:F9:0A:1B:2C:3D:4E:5F:60:71:82:93:A4:B5:C6:D7:E8:F9\r\n\
    a=setup:actpass\r\na=mid:0\r\na=sctp-port:5000\r\na=max-message-size:262144\r\n";

fn attempt(n: u32, verdict: &str) -> Value {
    json!({
        "type": "attempt", "n": n, "by": "webrtc", "verdict": verdict, "sentence": "so it was", "began": 1_767_225_600_000_u64,
        "connected_ms": null, "ended_ms": 15_000, "cause": "timeout", "rung": null, "pc": 1, "details": {"pairs": [{"sent": 3}]},
    })
}

async fn ask(server: &Running, query: &str) -> Answer {
    Backend(server.address).json_at("GET", &format!("/v1/attempts{query}"), json!(null)).await
}

async fn records(server: &Running, query: &str) -> Vec<Value> {
    let answer = ask(server, query).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["attempts"].as_array().unwrap().clone()
}

/// The records, when there are so many.
async fn when_there_are(server: &Running, query: &str, count: usize) -> Vec<Value> {
    let deadline = Instant::now() + 20 * SECOND;
    loop {
        let found = records(server, query).await;
        if found.len() == count {
            return found;
        }
        assert!(found.len() < count && Instant::now() < deadline, "{query}: {found:?}");
        sleep(Duration::from_millis(20)).await;
    }
}

async fn metric(server: &Running, series: &str) -> f64 {
    let answer = Backend(server.address).without_key("GET", "/metrics", json!(null)).await;
    let text = String::from_utf8(answer.body).unwrap();
    let line =
        text.lines().find_map(|line| line.strip_prefix(series)).unwrap_or_else(|| panic!("no {series}"));
    line.trim().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_tells_of_an_attempt_is_kept_for_its_tenant_and_counted() {
    let folder = TempDir::new().unwrap();
    let server = server_with(&folder, "turn: { mode: off }\nattempts: { records: 30 }\n").await;
    let mut ann = Raw::connect(server.address, None).await;
    ann.join("lab", "ann").await;
    let mut bob = Raw::connect(server.address, None).await;
    bob.join("hall", "bob").await;
    let connected = json!({
        "type": "attempt", "n": 1, "by": "websocket", "verdict": "connected", "sentence": "open", "began": 5,
        "connected_ms": 300, "ended_ms": null, "rung": "websocket", "pc": null,
    });
    ann.text(&connected.to_string()).await;
    ann.text(&attempt(2, "udp_blocked").to_string()).await;
    when_there_are(&server, "", 2).await;
    bob.text(&attempt(1, "gremlins").to_string()).await;
    let all = when_there_are(&server, "", 3).await;
    let told: Vec<_> =
        all.iter().map(|record| (&record["user"], &record["verdict"], &record["rooms"])).collect();
    let (ann_is, bob_is) = (json!("ann"), json!("bob"));
    assert_eq!(told[0], (&bob_is, &json!("other"), &json!(["hall"])));
    assert_eq!(told[1], (&ann_is, &json!("udp_blocked"), &json!(["lab"])));
    let record = &all[1];
    assert_eq!(
        (&record["told_by"], &record["now_on"], &record["seen"]),
        (&json!("client"), &json!("websocket"), &json!("nothing"))
    );
    assert_eq!((&record["ended_ms"], &record["details"]["pairs"][0]["sent"]), (&json!(15_000), &json!(3)));
    for (query, count) in [
        ("?user=ann", 2),
        ("?verdict=udp_blocked", 1),
        ("?room=hall", 1),
        ("?user=ann&room=hall", 0),
        ("?limit=1", 1),
    ] {
        assert_eq!(records(&server, query).await.len(), count, "{query}");
    }
    let page = ask(&server, "?limit=2").await.json();
    let next = format!("?before={}", page["attempts"][1]["id"]);
    assert_eq!((&page["more"], records(&server, &next).await.len()), (&json!(true), 1));
    for query in ["?verdict=gremlins", "?limit=x", "?tenant=else"] {
        assert_eq!(ask(&server, query).await.refusal(), (400, "malformed".into()), "{query}");
    }
    // Neither a user's token nor no key at all opens the door, and another tenant has records of its own.
    let user = token::mint("app", SECRET, "lab", "ann", SystemTime::now());
    let bearer = format!("GET /v1/attempts HTTP/1.1\r\nAuthorization: Bearer {user}\r\n");
    assert_eq!(crate::api::send(server.address, &bearer, b"").await.refusal().0, 401);
    let other = format!("GET /v1/attempts HTTP/1.1\r\nAuthorization: Bearer else:{SECRET}2\r\n");
    assert_eq!(crate::api::send(server.address, &other, b"").await.json()["attempts"], json!([]));
    for (series, value) in [
        (r#"switchyard_attempts_total{by="webrtc",verdict="udp_blocked"}"#, 1.0),
        (r#"switchyard_attempts_total{by="webrtc",verdict="other"}"#, 1.0),
        (r#"switchyard_attempts_total{by="websocket",verdict="connected"}"#, 1.0),
        (r#"switchyard_connect_seconds_bucket{rung="websocket",le="0.5"}"#, 1.0),
        (r#"switchyard_connect_seconds_bucket{rung="websocket",le="0.25"}"#, 0.0),
    ] {
        assert_eq!(metric(&server, series).await, value, "{series}");
    }
    server.drain().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_tells_too_much_is_not_listened_to() {
    let folder = TempDir::new().unwrap();
    let server = server_with(&folder, "turn: { mode: off }\n").await;
    let mut ann = Raw::connect(server.address, None).await;
    ann.join("lab", "ann").await;
    let begin = Instant::now();
    for n in 1..=40 {
        ann.text(&attempt(n, "unknown").to_string()).await;
    }
    let long = json!({"type": "attempt", "by": "webrtc", "verdict": "unknown", "sentence": "x".repeat(2000), "began": 0});
    ann.text(&long.to_string()).await;
    let deadline = Instant::now() + 20 * SECOND;
    // The count of what is refused is shown twice a second.
    while metric(&server, r#"switchyard_refusals_total{code="rate_limited"}"#).await < 15.0 {
        assert!(Instant::now() < deadline);
        sleep(Duration::from_millis(50)).await;
    }
    let kept = records(&server, "?limit=100").await.len();
    let allowed = 20 + begin.elapsed().as_secs() as usize / 3 + 1;
    assert!((20..=allowed).contains(&kept), "{kept} of 40");
    assert_eq!(records(&server, "?limit=100&verdict=other").await.len(), 0);
    server.drain().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_connection_of_which_nothing_came_leaves_a_record_by_itself() {
    let folder = TempDir::new().unwrap();
    let server = server_with_webrtc(&folder).await;
    let mut ann = Raw::connect(server.address, None).await;
    ann.join("lab", "ann").await;
    for (pc, sdp) in [(1, OFFER), (2, "v=0")] {
        ann.text(&json!({"type": "offer", "pc": pc, "sdp": sdp}).to_string()).await;
    }
    let all = when_there_are(&server, "", 2).await;
    let told: Vec<_> = all
        .iter()
        .map(|record| [&record["pc"], &record["told_by"], &record["verdict"], &record["seen"]])
        .collect();
    assert_eq!(told[0], [&json!(1), &json!("server"), &json!("no_path"), &json!("offer")]);
    assert_eq!(told[1], [&json!(2), &json!("server"), &json!("webrtc_refused"), &json!("refused")]);
    let took = all[0]["ended_ms"].as_u64().unwrap();
    assert!((1000..10_000).contains(&took), "{took}");
    // The client's word on it has what the server has seen, though the peer connection is gone.
    ann.text(&attempt(7, "udp_blocked").to_string()).await;
    let told = when_there_are(&server, "?verdict=udp_blocked", 1).await;
    assert_eq!([&told[0]["seen"], &told[0]["told_by"]], [&json!("offer"), &json!("client")]);
    server.drain().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_connection_that_its_client_gives_up_leaves_a_record_unless_it_had_hardly_begun() {
    let folder = TempDir::new().unwrap();
    let server = server_with_webrtc(&folder).await;
    let mut ann = Raw::connect(server.address, None).await;
    ann.join("lab", "ann").await;
    let offer = |pc: u32| json!({"type": "offer", "pc": pc, "sdp": OFFER}).to_string();
    // What is waited for is time: more than a third of the server's second, and less than all of it.
    let fair = Duration::from_millis(400);
    ann.text(&offer(1)).await;
    sleep(fair).await;
    ann.text(&offer(2)).await;
    ann.text(&offer(3)).await;
    sleep(fair).await;
    drop(ann);
    // The session waits for its client, longer than the deadline of the last one.
    let all = when_there_are(&server, "", 2).await;
    let told: Vec<_> =
        all.iter().map(|record| [&record["pc"], &record["told_by"], &record["verdict"]]).collect();
    assert_eq!(told[0], [&json!(3), &json!("server"), &json!("no_path")]);
    assert_eq!(told[1], [&json!(1), &json!("server"), &json!("no_path")]);
    assert!(all[1]["ended_ms"].as_u64().unwrap() < 1000, "{all:?}");
    // Who leaves takes the peer connection along.
    let mut bob = Raw::connect(server.address, None).await;
    bob.join("lab", "bob").await;
    bob.text(&offer(1)).await;
    sleep(fair).await;
    let (close, code) = (8, 1000_u16);
    bob.write(close, &code.to_be_bytes()).await.unwrap();
    let told = when_there_are(&server, "?user=bob", 1).await;
    assert_eq!([&told[0]["verdict"], &told[0]["seen"]], [&json!("no_path"), &json!("offer")]);
    assert!(told[0]["ended_ms"].as_u64().unwrap() < 1000, "{told:?}");
    server.drain().await.unwrap();
}
