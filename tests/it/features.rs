//! What a server, a room's rule or a token switches off, at the real doors; [`crate::worlds::features`] has it over real
//! data channels.

use std::{path::Path, time::SystemTime};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use ring::{
    agreement::{ECDH_P256, EphemeralPrivateKey},
    rand::SystemRandom,
};
use serde_json::{Value, json};
use switchyard::{
    Running,
    config::Config,
    room::permission::{Overrides, Role},
    token::{self, Keys},
};
use switchyard_signaling::{
    Code, Features,
    frame::{Kind, Reliable},
    message::{Ice, ServerControl, ServerText},
};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use crate::{
    api::Backend,
    doors::{Got, Raw, SECOND, SECRET},
};

const ALL: Features = Features { webrtc: true, relay: true, p2p: true, tentative: true };
/// What is on where nothing is said.
const ON: Features = Features::UNASKED;
const NO_WEBRTC: Features = Features { webrtc: false, ..ON };
const NO_RELAY: Features = Features { relay: false, ..ON };
const NO_P2P: Features = Features { p2p: false, ..ON };

/// With WebRTC, and a TURN server elsewhere to be told.
async fn start(folder: &TempDir, settings: &str) -> Running {
    let rtc = if settings.starts_with("rtc:") {
        ""
    } else {
        "rtc: { bind: [127.0.0.1], udp_port: 0, tcp_enabled: false, shards: 2 }\n"
    };
    let text = format!(
        "mode: development\nhttp: {{ port: 0 }}\n{rtc}turn: {{ mode: external, external: {{ urls: [\"turn:turn.example.com\"] }}, \
         credentials: {{ secret: 7d20af9be27a4583b1c2d3e4f5061728 }} }}\n{settings}\nkeys: {{ app: {{ secret: {SECRET} }} }}\n\
         store: {{ path: {} }}\n",
        folder.path().join("store.db").display()
    );
    let config = Config::read(Some((Path::new("it.yaml"), &text)), &[], &[]).unwrap();
    switchyard::start(config).await.unwrap()
}

fn token(room: &str, user: &str, features: Features) -> String {
    let grant = token::Grant {
        user: user.to_owned(),
        name: None,
        room: room.to_owned(),
        role: Role::Editor,
        overrides: Overrides::default(),
        features,
        expires_at: SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs() + 600,
        not_before: None,
        id: None,
    };
    token::mint(&Keys::new([("app", SECRET.as_bytes())]), "app", &grant).unwrap()
}

/// A client that has said hello.
async fn client(server: &Running) -> Raw {
    let mut raw = Raw::connect(server.address, None).await;
    raw.hello().await;
    raw
}

/// Asks to join with an offer that no server can use: what it is answered tells whether it was looked at.
async fn ask(raw: &mut Raw, room: &str, user: &str, features: Features) {
    let token = token(room, user, features);
    let join =
        json!({"type": "join", "id": 1, "room": room, "token": token, "offer": {"pc": 1, "sdp": "v=0"}});
    raw.text(&join.to_string()).await;
}

/// The next text.
async fn text(raw: &mut Raw) -> ServerText {
    let wait = async {
        loop {
            match raw.next().await {
                Got::Text(text) => return serde_json::from_str(&text).unwrap(),
                Got::Binary(_) => {}
                other => panic!("{other:?}"),
            }
        }
    };
    timeout(10 * SECOND, wait).await.expect("the server says something")
}

/// The code with which the next text refuses.
async fn refusal(raw: &mut Raw) -> Code {
    match text(raw).await {
        ServerText::Error(refusal) => refusal.code,
        other => panic!("{other:?}"),
    }
}

/// What a client is told that joins for the first time: what is on, whether servers are named, what becomes of its offer,
/// and whether servers are named when it asks.
async fn told(raw: &mut Raw, room: &str, user: &str, features: Features) -> (Features, bool, Code, bool) {
    ask(raw, room, user, features).await;
    let (features, ice) = match text(raw).await {
        ServerText::Session { features, ice, .. } => (features, ice),
        other => panic!("{other:?}"),
    };
    let code = refusal(raw).await;
    (features, ice.is_some(), code, asked(raw).await != Ice::default())
}

async fn asked(raw: &mut Raw) -> Ice {
    raw.text(r#"{"type":"ice_servers"}"#).await;
    match text(raw).await {
        ServerText::IceServers(ice) => ice,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn server_room_and_token_switch_off_each_for_itself() {
    let rules = "rooms: [{ match: lab-public }, { match: \"lab-*\", features: { webrtc: false } }]";
    for (settings, room, by_token, features) in [
        ("", "lab-7", ON, ON),
        ("", "lab-7", NO_WEBRTC, NO_WEBRTC),
        ("", "lab-7", NO_RELAY, NO_RELAY),
        ("features: { webrtc: false }", "lab-7", ON, NO_WEBRTC),
        ("features: { relay: false }", "lab-7", ON, NO_RELAY),
        ("features: { relay: false }", "lab-7", NO_WEBRTC, NO_WEBRTC.and(NO_RELAY)),
        ("features: { p2p: false }", "lab-7", ON, NO_P2P),
        ("", "lab-7", NO_P2P, NO_P2P),
        ("features: { tentative: true }", "lab-7", ALL, ALL),
        ("features: { tentative: true }", "lab-7", ON, ON),
        (
            "features: { tentative: true }\nrooms: [{ match: lab-7, features: { tentative: false } }]",
            "lab-7",
            ALL,
            ON,
        ),
        ("rooms: [{ match: lab-7, features: { tentative: true } }]", "lab-7", ALL, ON),
        ("rooms: [{ match: \"lab-*\", features: { p2p: false } }]", "lab-7", NO_RELAY, NO_P2P.and(NO_RELAY)),
        (rules, "lab-7", ON, NO_WEBRTC),
        (rules, "lab-7", NO_RELAY, NO_WEBRTC.and(NO_RELAY)),
        (rules, "lab-public", ON, ON),
        (rules, "hall", ON, ON),
        ("rtc: { enabled: false }", "lab-7", ON, NO_WEBRTC),
    ] {
        let folder = TempDir::new().unwrap();
        let running = start(&folder, settings).await;
        let told = told(&mut client(&running).await, room, "ann", by_token).await;
        let code = if features.webrtc { Code::BadOffer } else { Code::WebrtcDisabled };
        let expected = (features, features.relay, code, features.relay);
        assert_eq!(told, expected, "{settings:?} {room} {by_token:?}");
        running.drain().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_webrtc_messages_go_over_the_websocket_and_refused_offers_are_counted() {
    let folder = TempDir::new().unwrap();
    let running = start(&folder, "").await;
    let (mut ann, mut ben) = (client(&running).await, client(&running).await);
    assert_eq!(told(&mut ben, "room", "ben", NO_WEBRTC).await.2, Code::WebrtcDisabled);
    assert_eq!(told(&mut ann, "room", "ann", ON).await.2, Code::BadOffer);
    ben.text(r#"{"type":"offer","pc":2,"sdp":"v=0"}"#).await;
    assert_eq!(refusal(&mut ben).await, Code::WebrtcDisabled);
    ann.send(b"over the WebSocket").await.unwrap();
    let heard = async {
        loop {
            if let Got::Binary(message) = ben.next().await
                && ben.reliable(message).iter().any(|body| {
                    matches!(body, Reliable::Chunk(header, payload)
                        if header.kind == Kind::Data && &payload[..] == b"over the WebSocket")
                })
            {
                return;
            }
        }
    };
    timeout(10 * SECOND, heard).await.expect("Ben hears Ann");
    let counted = "switchyard_webrtc_total{outcome=\"disabled\"} 2\n";
    let mut metrics = String::new();
    for _ in 0..50 {
        let answer = Backend(running.address).without_key("GET", "/metrics", Value::Null).await;
        metrics = String::from_utf8_lossy(&answer.body).into_owned();
        if metrics.contains(counted) {
            break;
        }
        // The shards publish their counts once a second.
        sleep(SECOND / 10).await;
    }
    assert!(metrics.contains(counted), "{metrics}");
    running.drain().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_later_join_takes_away_for_good_and_a_refused_one_does_not() {
    let folder = TempDir::new().unwrap();
    let rules =
        "limits: { rooms_per_session: 2 }\nrooms: [{ match: \"lab-*\", features: { webrtc: false } }]";
    let running = start(&folder, rules).await;
    let mut raw = client(&running).await;
    ask(&mut raw, "hall", "ann", ON).await;
    let ServerText::Session { session, ticket, features, ice: Some(_) } = text(&mut raw).await else {
        panic!()
    };
    assert_eq!((features, refusal(&mut raw).await), (ON, Code::BadOffer));

    // Another user's token is no business of this session.
    ask(&mut raw, "lab-7", "ben", NO_RELAY).await;
    assert_eq!(refusal(&mut raw).await, Code::OtherUser);

    ask(&mut raw, "second", "ann", NO_RELAY).await;
    assert_eq!(text(&mut raw).await, ServerText::Features { features: NO_RELAY });
    assert_eq!((refusal(&mut raw).await, asked(&mut raw).await), (Code::BadOffer, Ice::default()));

    ask(&mut raw, "lab-7", "ann", ON).await;
    assert_eq!(refusal(&mut raw).await, Code::TooManyRooms, "and the rule of that room has taken nothing");

    // A newer token gives nothing back.
    ask(&mut raw, "second", "ann", ON).await;
    assert_eq!((refusal(&mut raw).await, asked(&mut raw).await), (Code::BadOffer, Ice::default()));

    let mut again = Raw::connect(running.address, None).await;
    let resume = json!({"type": "hello", "v": 1, "resume": {"session": session, "ticket": ticket}});
    again.text(&resume.to_string()).await;
    let welcome = text(&mut again).await;
    assert!(
        matches!(welcome, ServerText::Welcome { resumed: true, features: Some(NO_RELAY), ice: None, .. }),
        "{welcome:?}"
    );
    running.drain().await.unwrap();
}

/// Joins with a signing key.
async fn join_with(raw: &mut Raw, room: &str, (user, key): (&str, &str), features: Features) {
    let token = token(room, user, features);
    let join = json!({"type": "join", "id": 1, "room": room, "token": token, "signing_key": key});
    raw.text(&join.to_string()).await;
}

/// The keys of a user, as a member of the room hears of it.
async fn keys_of(user: &str, there: &mut Raw) -> Vec<String> {
    let announced = async {
        loop {
            if let Got::Binary(message) = there.next().await
                && let Some(member) = there.controls(message).into_iter().find_map(|control| match control {
                    ServerControl::MemberJoined { member } if member.user == user => Some(member),
                    _ => None,
                })
            {
                return member.signing_keys;
            }
        }
    };
    timeout(10 * SECOND, announced).await.expect("who is there hears who comes")
}

fn point() -> Vec<u8> {
    let private = EphemeralPrivateKey::generate(&ECDH_P256, &SystemRandom::new()).unwrap();
    private.compute_public_key().unwrap().as_ref().to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signing_key_is_certified_at_the_join_where_copies_are_on_and_refused_if_it_is_none() {
    let mut point = point();
    let key = BASE64_URL_SAFE_NO_PAD.encode(&point);
    point[64] ^= 1;
    let beside = BASE64_URL_SAFE_NO_PAD.encode(&point);
    for (settings, by_token, is_certified) in [
        ("features: { tentative: true }", ALL, true),
        ("features: { tentative: true }", ON, false),
        ("features: { tentative: true }", Features { p2p: false, ..ALL }, false),
        ("features: { tentative: true, webrtc: false }", ALL, false),
        ("", ALL, false),
    ] {
        let folder = TempDir::new().unwrap();
        let running = start(&folder, settings).await;
        let mut ann = client(&running).await;
        ask(&mut ann, "lab", "ann", ALL).await;
        assert!(matches!(text(&mut ann).await, ServerText::Session { .. }));

        let mut ben = client(&running).await;
        join_with(&mut ben, "lab", ("ben", &key), by_token).await;
        let expected: &[String] = if is_certified { std::slice::from_ref(&key) } else { &[] };
        assert_eq!(keys_of("ben", &mut ann).await, expected, "{settings} {by_token:?}");

        let mut cem = client(&running).await;
        join_with(&mut cem, "lab", ("cem", &beside), by_token).await;
        if is_certified {
            assert_eq!(refusal(&mut cem).await, Code::BadKey);
        } else {
            assert_eq!(keys_of("cem", &mut ann).await, [""; 0], "nobody looks at it");
        }
        running.drain().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_from_which_copies_were_taken_has_no_key_certified_in_any_room() {
    let folder = TempDir::new().unwrap();
    let rules = "features: { tentative: true }\nrooms: [{ match: dull, features: { tentative: false } }]";
    let running = start(&folder, rules).await;
    let (mut ann, mut ben) = (client(&running).await, client(&running).await);
    ask(&mut ann, "lab", "ann", ALL).await;
    // She is in the room before Ben, or she would not hear of him coming.
    assert!(matches!(text(&mut ann).await, ServerText::Session { .. }));
    let key = BASE64_URL_SAFE_NO_PAD.encode(point());
    join_with(&mut ben, "dull", ("ben", &key), ALL).await;
    join_with(&mut ben, "lab", ("ben", &key), ALL).await;
    assert_eq!(keys_of("ben", &mut ann).await, [""; 0]);
    running.drain().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_backend_is_told_servers_whatever_sessions_are() {
    let folder = TempDir::new().unwrap();
    let running = start(&folder, "features: { relay: false }").await;
    let answer = Backend(running.address).json_at("POST", "/v1/ice-servers", json!({"user": "ann"})).await;
    assert_eq!(answer.json()["ice_servers"][0]["urls"], json!(["turn:turn.example.com"]));
    running.drain().await.unwrap();
}
