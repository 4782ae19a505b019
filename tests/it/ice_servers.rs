//! What a server with TURN tells of it: sessions by the signalling socket, the application's backend by its door.

use serde_json::{Value, json};
use switchyard_signaling::{
    Code,
    message::{Ice, ServerText},
};
use switchyard_turn_config::{credentials::Keyring, settings::Secret};
use tempfile::TempDir;

use crate::{
    api::Backend,
    doors::{Got, Raw, SECOND, server, server_with},
};

const TURN_SECRET: &str = "7d20af9be27a4583b1c2d3e4f5061728";

const SETTINGS: &str = "turn:\n  host: turn.example.com\n  listen:\n    bind: [127.0.0.1]\n    udp_port: 0\n    tcp_enabled: false\n    \
                        tls_enabled: false\n  relay:\n    bind_v4: 127.0.0.1\n    min_port: 32768\n    max_port: 50000\n  credentials:\n    ttl: 5m\n    \
                        secret: 7d20af9be27a4583b1c2d3e4f5061728\n";

fn unix() -> u64 {
    std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs()
}

/// The user that a list was made for; its credential has to be one of the secret that ends within these seconds.
#[track_caller]
fn user_of(ice: &Ice, ends_within: std::ops::RangeInclusive<u64>) -> String {
    let [stun, turn] = &ice.ice_servers[..] else { panic!("{ice:?}") };
    let port = stun.urls[0].strip_prefix("stun:turn.example.com:").expect("the name of the settings");
    // Any free one, which has to be told, and which must not be one that the relay may give away.
    let number: u16 = port.parse().unwrap();
    assert!(number != 0 && !(32_768..=50_000).contains(&number), "{port}");
    assert_eq!(turn.urls, [format!("turn:turn.example.com:{port}?transport=udp")]);
    let (username, password) = (turn.username.as_ref().unwrap(), turn.credential.as_ref().unwrap());
    let keyring = Keyring::new(&Secret::new(TURN_SECRET), None, unix(), SECOND);
    keyring.verify(username, password, unix()).unwrap();
    let (expiry, user) = username.split_once(':').unwrap();
    let left = expiry.parse::<u64>().unwrap().saturating_sub(unix());
    assert!(ends_within.contains(&left), "{left} s are left");
    user.to_owned()
}

/// The next text of this kind, which has to be the next text.
async fn text(raw: &mut Raw, is_it: impl Fn(&ServerText) -> bool) -> ServerText {
    loop {
        match raw.next().await {
            Got::Text(text) => {
                let text: ServerText = serde_json::from_str(&text).unwrap();
                assert!(is_it(&text), "{text:?}");
                return text;
            }
            Got::Binary(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_told_the_servers_when_it_is_made_when_it_resumes_and_when_it_asks() {
    let folder = TempDir::new().unwrap();
    let running = server_with(&folder, SETTINGS).await;
    let mut raw = Raw::connect(running.address, None).await;
    raw.hello().await;
    raw.text(r#"{"type":"ice_servers"}"#).await;
    assert!(matches!(raw.next().await, Got::Text(text) if text.contains("join_first")));
    raw.ask_to_join("room", "ann").await;
    let session = text(&mut raw, |text| matches!(text, ServerText::Session { .. })).await;
    let ServerText::Session { session, ticket, ice: Some(ice), .. } = session else { panic!("{session:?}") };
    assert_eq!(ice.ice_ttl_ms, 300_000);
    assert_eq!(user_of(&ice, 298..=300), "app:ann");

    raw.text(r#"{"type":"ice_servers"}"#).await;
    let asked = text(&mut raw, |text| matches!(text, ServerText::IceServers(_))).await;
    let ServerText::IceServers(ice) = asked else { unreachable!() };
    assert_eq!((user_of(&ice, 298..=300).as_str(), ice.ice_ttl_ms), ("app:ann", 300_000));

    let mut again = Raw::connect(running.address, None).await;
    let resume = json!({"type": "hello", "v": 1, "resume": {"session": session, "ticket": ticket}});
    again.text(&resume.to_string()).await;
    let welcome = text(&mut again, |text| matches!(text, ServerText::Welcome { resumed: true, .. })).await;
    let ServerText::Welcome { ice: Some(ice), .. } = welcome else { panic!("{welcome:?}") };
    assert_eq!(user_of(&ice, 298..=300), "app:ann");

    let mut stranger = Raw::connect(running.address, None).await;
    stranger.text(r#"{"type":"hello","v":1,"resume":{"session":"gone","ticket":"x"}}"#).await;
    let refusal = text(&mut stranger, |text| matches!(text, ServerText::Error(_))).await;
    assert!(format!("{refusal:?}").contains("UnknownSession"));
    let welcome = text(&mut stranger, |text| matches!(text, ServerText::Welcome { .. })).await;
    assert!(
        matches!(welcome, ServerText::Welcome { ice: None, .. }),
        "who has no session gets no credential"
    );
    running.drain().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_for_servers_count_as_signalling_messages() {
    let folder = TempDir::new().unwrap();
    let settings = format!("{SETTINGS}limits:\n  signals_per_second: 1\n  signals_burst: 5\n");
    let running = server_with(&folder, &settings).await;
    let mut raw = Raw::connect(running.address, None).await;
    raw.hello().await;
    raw.ask_to_join("room", "ann").await;
    text(&mut raw, |text| matches!(text, ServerText::Session { .. })).await;
    const ASKED: usize = 20;
    for _ in 0..ASKED {
        raw.text(r#"{"type":"ice_servers"}"#).await;
    }
    let (mut answered, mut refused) = (0, 0);
    while answered + refused < ASKED {
        match text(&mut raw, |_| true).await {
            ServerText::IceServers(_) => answered += 1,
            ServerText::Error(refusal) => {
                assert_eq!(refusal.code, Code::RateLimited);
                refused += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    // `hello` and `join` have taken two of five, and a slow machine lets a few more through.
    assert!((3..10).contains(&answered), "{answered} were answered");
    running.drain().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_is_told_the_servers_for_any_of_its_users() {
    let folder = TempDir::new().unwrap();
    let running = server_with(&folder, SETTINGS).await;
    let backend = Backend(running.address);
    let answer = backend.json_at("POST", "/v1/ice-servers", json!({"user": "ann"})).await;
    assert_eq!((answer.status, answer.header("cache-control")), (200, Some("no-store")), "{answer:?}");
    let mut told = answer.json();
    assert_eq!(told["ttl_s"], json!(300));
    let ice_servers = serde_json::from_value(told["ice_servers"].take()).unwrap();
    assert_eq!(user_of(&Ice { ice_servers, ice_ttl_ms: 0 }, 298..=300), "app:ann");
    for wrong in [
        json!({}),
        json!({"user": ""}),
        json!({"user": "a\nb"}),
        json!({"user": "u".repeat(129)}),
        json!([]),
        json!({"user": "a", "ttl": 1}),
    ] {
        let answer = backend.json_at("POST", "/v1/ice-servers", wrong.clone()).await;
        assert_eq!(answer.refusal(), (400, "malformed".to_owned()), "{wrong}");
    }
    assert_eq!(backend.json_at("GET", "/v1/ice-servers", Value::Null).await.status, 405);
    let nobody = backend.without_key("POST", "/v1/ice-servers", json!({"user": "ann"})).await;
    assert_eq!(nobody.refusal(), (401, "unauthorized".to_owned()));
    running.drain().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_turn_tells_of_none() {
    let folder = TempDir::new().unwrap();
    let running = server(&folder).await;
    let mut raw = Raw::connect(running.address, None).await;
    raw.hello().await;
    raw.ask_to_join("room", "ann").await;
    let session = text(&mut raw, |text| matches!(text, ServerText::Session { .. })).await;
    assert!(matches!(session, ServerText::Session { ice: None, .. }), "{session:?}");
    raw.text(r#"{"type":"ice_servers"}"#).await;
    let asked = text(&mut raw, |text| matches!(text, ServerText::IceServers(_))).await;
    assert_eq!(asked, ServerText::IceServers(Ice::default()));
    let answer = Backend(running.address).json_at("POST", "/v1/ice-servers", json!({"user": "ann"})).await;
    assert_eq!(answer.json(), json!({"ice_servers": [], "ttl_s": 0}));
    running.drain().await.unwrap();
}
