//! The example as a user runs it, against a real server on real sockets: what a simulated browser sends comes back.

#![cfg(test)]

use std::{
    path::Path,
    process::Stdio,
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use switchyard::{Running, config::Config};
use switchyard_loadtest::{
    browser::{Browser, BrowserConfig, Event, Incoming, Lane, Outgoing, SocketOutput},
    token,
};
use switchyard_signaling::{Code, frame::Target, message::ServerControl};
use tempfile::TempDir;
use tokio::{
    net::TcpStream,
    process::{Child, Command},
    time::{sleep, sleep_until, timeout},
};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async, tungstenite::Message};

const SECRET: &str = "6c1f0d9be27a4583b1c2d3e4f5061728";
const PATIENCE: Duration = Duration::from_secs(20);

async fn server(folder: &TempDir, rtc: &str) -> Running {
    let store = folder.path().join("store.db");
    let text = format!(
        "mode: development\nhttp:\n  port: 0\nrtc:\n  udp_port: 0\n  tcp_port: 0\n  shards: 2\n  {rtc}\n\
         turn:\n  mode: off\nkeys:\n  app:\n    secret: {SECRET}\nstore:\n  path: {}\n",
        store.display()
    );
    let config = Config::read(Some((Path::new("echo.yaml"), &text)), &[], &[]).unwrap();
    switchyard::start(config).await.unwrap()
}

/// The example, which asks the server for its token.
fn native_peer(server: &Running) -> Child {
    Command::new(env!("CARGO_BIN_EXE_native-peer"))
        .args(["--url", &format!("http://{}", server.address), "--room", "echoes"])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

fn signal(child: &Child, name: &str) {
    let id = child.id().unwrap().to_string();
    assert!(std::process::Command::new("kill").args(["-s", name, &id]).status().unwrap().success());
}

/// Waits until the server says that it has so many sessions on this rung.
async fn until_sessions(server: &Running, rung: &str, count: u32) {
    let url = format!("http://{}/metrics", server.address);
    let wanted = format!("switchyard_sessions{{rung=\"{rung}\"}} {count}");
    let found = async {
        loop {
            let url = url.clone();
            let metrics =
                tokio::task::spawn_blocking(|| ureq::get(url).call().unwrap().into_body().read_to_string());
            if metrics.await.unwrap().unwrap().lines().any(|line| line == wanted) {
                return;
            }
            sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(PATIENCE, found).await.unwrap_or_else(|_| panic!("the server never said: {wanted}"));
}

/// A simulated browser on a WebSocket, so that only the example can be on UDP.
struct Client {
    browser: Browser,
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    room: u16,
}

impl Client {
    /// In the room, together with the example.
    async fn joined(server: &Running) -> Self {
        let (socket, _) = connect_async(format!("ws://{}/v1/connect", server.address)).await.unwrap();
        let mut browser = Browser::new(Instant::now(), BrowserConfig::default());
        browser.handle_socket_open(Instant::now());
        let token = token::mint("app", SECRET, "echoes", "ada", SystemTime::now());
        browser.join(Instant::now(), "echoes", &token);
        let mut client = Self { browser, socket, room: 0 };
        let mut is_there = false;
        while client.room == 0 || !is_there {
            match client.next().await {
                Event::Control(room, ServerControl::Joined { members, .. }) => {
                    client.room = room;
                    is_there = members.iter().any(|member| member.user == "echo");
                }
                Event::Control(_, ServerControl::MemberJoined { .. }) => is_there = true,
                _ => {}
            }
        }
        client
    }

    /// What happens next. Panics if nothing does, or if the server or the example breaks the protocol.
    async fn next(&mut self) -> Event {
        let next = async {
            loop {
                match self.browser.poll_event() {
                    Some(event @ (Event::Violation(_) | Event::Refused(_) | Event::Gap { .. })) => {
                        panic!("{event:?}")
                    }
                    Some(event) => return event,
                    None => self.turn().await,
                }
            }
        };
        timeout(PATIENCE, next).await.expect("something happens")
    }

    async fn turn(&mut self) {
        while let Some(output) = self.browser.poll_socket() {
            let message = match output {
                SocketOutput::Text(text) => Message::text(text),
                SocketOutput::Binary(message) => Message::binary(message),
            };
            self.socket.send(message).await.unwrap();
        }
        let due = self.browser.poll_timeout().unwrap_or_else(|| Instant::now() + PATIENCE);
        tokio::select! {
            message = self.socket.next() => match message.unwrap().unwrap() {
                Message::Text(text) => self.browser.handle_text(Instant::now(), &text),
                Message::Binary(message) => self.browser.handle_binary(Instant::now(), message),
                other => panic!("{other:?}"),
            },
            () = sleep_until(due.into()) => self.browser.handle_timeout(Instant::now()),
        }
    }

    fn send(&mut self, lane: Lane, stream: u16, text: bool, payload: Bytes) {
        let (room, target) = (self.room, Target::Room);
        self.browser.send(Instant::now(), Outgoing { room, lane, stream, target, text, payload }).unwrap();
    }

    async fn message(&mut self) -> Incoming {
        loop {
            if let Event::Message(message) = self.next().await {
                return message;
            }
        }
    }

    /// Sends and expects the same back.
    async fn expect_echo(&mut self, stream: u16, text: bool, payload: impl Into<Bytes>) {
        let payload = payload.into();
        self.send(Lane::Reliable, stream, text, payload.clone());
        let echo = self.message().await;
        assert_eq!((echo.lane, echo.stream, echo.text), (Lane::Reliable, stream, text));
        assert!(echo.payload == payload, "{} bytes came back as {:?}", payload.len(), echo.payload);
    }
}

/// Bytes that differ from place to place.
fn pattern(length: usize) -> Bytes {
    (0..length).map(|at| (at * 31 + at / 251) as u8).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_to_a_native_peer_comes_back_over_udp() {
    let folder = TempDir::new().unwrap();
    let server = server(&folder, "enabled: true").await;
    let mut example = native_peer(&server);
    let mut client = Client::joined(&server).await;
    until_sessions(&server, "udp", 1).await;
    until_sessions(&server, "websocket", 1).await;

    client.expect_echo(1, true, "grüß dich").await;
    client.expect_echo(2, false, vec![0, 255, 128]).await;
    client.expect_echo(3, false, Bytes::new()).await;
    // In chunks, the last of which is short.
    client.expect_echo(1, false, pattern(100_000)).await;

    // Many under way, on several streams: in order on each.
    for number in 0..600_u16 {
        client.send(Lane::Reliable, number % 3, false, pattern(1000 + usize::from(number)));
    }
    let mut next = [0, 1, 2];
    for _ in 0..600 {
        let echo = client.message().await;
        let expected = &mut next[usize::from(echo.stream)];
        assert!(echo.payload == pattern(1000 + *expected), "message {expected} of stream {}", echo.stream);
        *expected += 3;
    }

    // One of these arrives, if UDP loses some.
    let lossy = async {
        loop {
            client.send(Lane::Lossy, 7, true, "120,44".into());
            if let Ok(echo) = timeout(Duration::from_millis(500), client.message()).await {
                return echo;
            }
        }
    };
    let echo = timeout(PATIENCE, lossy).await.expect("a lossy echo");
    assert_eq!((echo.lane, echo.stream, &echo.payload[..]), (Lane::Lossy, 7, &b"120,44"[..]));

    signal(&example, "INT");
    let reason = loop {
        if let Event::Control(_, ServerControl::MemberLeft { reason, .. }) = client.next().await {
            break reason;
        }
    };
    assert_eq!(reason, Code::Left);
    assert!(timeout(PATIENCE, example.wait()).await.unwrap().unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_webrtc_it_echoes_over_the_websocket() {
    let folder = TempDir::new().unwrap();
    let server = server(&folder, "enabled: false").await;
    let _example = native_peer(&server);
    let mut client = Client::joined(&server).await;
    until_sessions(&server, "websocket", 2).await;
    client.expect_echo(1, true, "hello").await;
    client.expect_echo(1, false, pattern(100_000)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_connection_that_dies_is_replaced_and_nothing_is_lost_or_doubled() {
    let folder = TempDir::new().unwrap();
    let server = server(&folder, "consent_timeout: 5s").await;
    let example = native_peer(&server);
    let mut client = Client::joined(&server).await;
    until_sessions(&server, "udp", 1).await;

    // It is put to sleep with echoes on their way, until the server has given its peer connection up.
    let numbered = |number| pattern(10_000 + number);
    for number in 0..80 {
        client.send(Lane::Reliable, 1, false, numbered(number));
    }
    let mut echoes = vec![client.message().await.payload];
    signal(&example, "STOP");
    let mut read_on = async || loop {
        echoes.push(client.message().await.payload);
    };
    tokio::select! {
        () = until_sessions(&server, "websocket", 2) => {}
        () = read_on() => {}
    }
    signal(&example, "CONT");
    tokio::select! {
        () = until_sessions(&server, "udp", 1) => {}
        () = read_on() => {}
    }
    while echoes.len() < 80 {
        echoes.push(client.message().await.payload);
    }
    assert!(echoes.iter().enumerate().all(|(number, echo)| *echo == numbered(number)));
    client.expect_echo(1, true, "and on").await;
}
