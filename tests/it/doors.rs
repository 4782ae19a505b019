//! The real server on real sockets and the real clock, and clients that misuse its signalling door. The WebSocket of
//! these clients is made by hand, so that it can do what no library would.

use std::{
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant, SystemTime},
};

use bytes::{Bytes, BytesMut};
use switchyard::{Running, config::Config};
use switchyard_loadtest::{target::Io, token};
use switchyard_signaling::{
    frame::{self, Frame, Frames, Kind, Reliable, Target},
    message::ServerControl,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpSocket,
    time::{sleep, timeout},
};

pub(crate) const SECRET: &str = "6c1f0d9be27a4583b1c2d3e4f5061728";
pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// A server with two tenants: `app`, and `else`, whose secret is one character longer.
pub(crate) async fn server(folder: &TempDir) -> Running {
    server_with(folder, "turn:\n  mode: off\n").await
}

/// The same, with these settings too.
pub(crate) async fn server_with(folder: &TempDir, settings: &str) -> Running {
    let text = format!(
        "mode: development\nhttp:\n  port: 0\nrtc:\n  enabled: false\n  shards: 2\n{settings}keys:\n  app:\n    secret: {SECRET}\n  else:\n    secret: {SECRET}2\n\
         store:\n  path: {}\n",
        folder.path().join("store.db").display()
    );
    let config = Config::read(Some((Path::new("it.yaml"), &text)), &[], &[]).unwrap();
    switchyard::start(config).await.unwrap()
}

/// A WebSocket, byte by byte.
pub(crate) struct Raw {
    stream: Box<dyn Io>,
    /// The number of its next reliable frame, and of the last one received.
    pub(crate) seq: u32,
    pub(crate) ack: u32,
}

#[derive(Debug, PartialEq)]
pub(crate) enum Got {
    Text(String),
    Binary(Bytes),
    Close(u16),
    /// Answers a ping with this.
    Pong(Bytes),
    /// The connection ended without a word.
    Gone,
}

impl Raw {
    pub(crate) async fn connect(server: SocketAddr, receive_buffer: Option<u32>) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        if let Some(bytes) = receive_buffer {
            socket.set_recv_buffer_size(bytes).unwrap();
        }
        let stream = socket.connect(server).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self::over(Box::new(stream), server).await
    }

    /// Over a connection to this server.
    pub(crate) async fn over(mut stream: Box<dyn Io>, server: SocketAddr) -> Self {
        let request = format!(
            "GET /v1/connect HTTP/1.1\r\nHost: {server}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(stream.read_u8().await.unwrap());
        }
        assert!(answer.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&answer));
        Self { stream, seq: 1, ack: 0 }
    }

    /// Writes a frame with a mask of zeros. `Err` if the server has closed.
    pub(crate) async fn write(&mut self, opcode: u8, payload: &[u8]) -> std::io::Result<()> {
        let mut header = vec![0x80 | opcode];
        match payload.len() {
            length @ 0..126 => header.push(0x80 | length as u8),
            length @ 126..65_536 => {
                header.push(0x80 | 126);
                header.extend_from_slice(&(length as u16).to_be_bytes());
            }
            length => {
                header.push(0x80 | 127);
                header.extend_from_slice(&(length as u64).to_be_bytes());
            }
        }
        header.extend_from_slice(&[0; 4]);
        self.stream.write_all(&header).await?;
        self.stream.write_all(payload).await
    }

    pub(crate) async fn text(&mut self, text: &str) {
        self.write(1, text.as_bytes()).await.unwrap();
    }

    pub(crate) async fn hello(&mut self) {
        self.text(r#"{"type":"hello","v":1}"#).await;
        assert!(matches!(self.next().await, Got::Text(text) if text.contains("welcome")));
    }

    /// Joins as this user and waits until it is in; the handle is 1, since it is the first room.
    pub(crate) async fn join(&mut self, room: &str, user: &str) {
        self.hello().await;
        self.join_greeted(room, user).await;
    }

    pub(crate) async fn ask_to_join(&mut self, room: &str, user: &str) {
        let token = token::mint("app", SECRET, room, user, SystemTime::now());
        self.text(&format!(r#"{{"type":"join","id":1,"room":"{room}","token":"{token}"}}"#)).await;
    }

    async fn join_greeted(&mut self, room: &str, user: &str) {
        self.ask_to_join(room, user).await;
        loop {
            match self.next().await {
                Got::Binary(message) => {
                    if self.controls(message).iter().any(|c| matches!(c, ServerControl::Joined { .. })) {
                        return;
                    }
                }
                Got::Text(text) => assert!(text.contains("session"), "{text}"),
                other => panic!("{other:?}"),
            }
        }
    }

    pub(crate) async fn send(&mut self, payload: &[u8]) -> std::io::Result<()> {
        let mut out = BytesMut::new();
        let first = Some((&Target::Room, payload.len()));
        frame::put_chunk(&mut out, Kind::Data, false, (self.seq, self.ack), 1, 0, 1, first, true, payload);
        self.seq += 1;
        self.write(2, &out).await
    }

    pub(crate) async fn acknowledge(&mut self) -> std::io::Result<()> {
        let mut out = BytesMut::new();
        frame::put_ack(&mut out, self.ack);
        self.write(2, &out).await
    }

    pub(crate) async fn next(&mut self) -> Got {
        self.read().await.unwrap_or(Got::Gone)
    }

    async fn read(&mut self) -> std::io::Result<Got> {
        let opcode = self.stream.read_u8().await? & 0x0f;
        let length = match self.stream.read_u8().await? {
            126 => self.stream.read_u16().await?.into(),
            127 => self.stream.read_u64().await?,
            short => short.into(),
        };
        let mut payload = vec![0; length as usize];
        self.stream.read_exact(&mut payload).await?;
        Ok(match opcode {
            1 => Got::Text(String::from_utf8(payload).unwrap()),
            2 => Got::Binary(payload.into()),
            8 => Got::Close(u16::from_be_bytes([payload[0], payload[1]])),
            10 => Got::Pong(payload.into()),
            other => panic!("opcode {other}"),
        })
    }

    /// The next that is not the session's.
    async fn answer(&mut self) -> Got {
        loop {
            let got = self.next().await;
            if !matches!(got, Got::Binary(_)) {
                return got;
            }
        }
    }

    /// Reads on until the connection ends.
    async fn end(&mut self) -> Got {
        loop {
            let got = self.next().await;
            if matches!(got, Got::Close(_) | Got::Gone) {
                return got;
            }
        }
    }

    /// What comes after the close.
    pub(crate) async fn rest(&mut self) -> std::io::Result<Vec<u8>> {
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).await?;
        Ok(rest)
    }

    pub(crate) fn reliable(&mut self, message: Bytes) -> Vec<Reliable> {
        let mut bodies = Vec::new();
        for frame in Frames::new(message) {
            if let Frame::Reliable { lane_seq, body, .. } = frame.unwrap() {
                self.ack = lane_seq;
                bodies.push(body);
            }
        }
        bodies
    }

    pub(crate) fn controls(&mut self, message: Bytes) -> Vec<ServerControl> {
        let bodies = self.reliable(message).into_iter();
        let parse = |body| match body {
            Reliable::Chunk(header, payload) if header.kind == Kind::Control => {
                serde_json::from_slice(&payload).ok()
            }
            _ => None,
        };
        bodies.filter_map(parse).collect()
    }
}

/// One member sends to another for this long; the time each message took.
async fn latencies(server: SocketAddr, span: Duration) -> Vec<Duration> {
    let (mut a, mut b) = (Raw::connect(server, None).await, Raw::connect(server, None).await);
    a.join("bystanders", "a").await;
    b.join("bystanders", "b").await;
    let begin = Instant::now();
    let mut latencies = Vec::new();
    while begin.elapsed() < span {
        let sent = Instant::now();
        a.send(&(latencies.len() as u64).to_be_bytes()).await.unwrap();
        loop {
            let Got::Binary(message) = b.next().await else { continue };
            let expected = (latencies.len() as u64).to_be_bytes();
            let is = |body: &Reliable| matches!(body, Reliable::Chunk(_, payload) if payload[..] == expected);
            if b.reliable(message).iter().any(is) {
                break;
            }
        }
        latencies.push(sent.elapsed());
        b.acknowledge().await.unwrap();
        sleep(Duration::from_millis(5)).await;
    }
    latencies.sort();
    latencies
}

fn p99(sorted: &[Duration]) -> Duration {
    sorted[sorted.len() * 99 / 100]
}

/// How the connection ended, and after how long.
async fn ends(mut raw: Raw) -> (Got, Duration) {
    let begin = Instant::now();
    let got = timeout(60 * SECOND, raw.end()).await.expect("it is closed in time");
    (got, begin.elapsed())
}

fn assert_closed(what: &str, (got, after): (Got, Duration), code: u16, seconds: std::ops::Range<u32>) {
    println!("{what}: {got:?} after {after:?}");
    assert_eq!(got, Got::Close(code), "{what}");
    assert!((seconds.start * SECOND..seconds.end * SECOND).contains(&after), "{what}: {after:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_misuse_the_door_are_closed_in_time_and_harm_nobody() {
    let folder = TempDir::new().unwrap();
    let running = server(&folder).await;
    let server = running.address;
    let calm = latencies(server, 5 * SECOND).await;

    let silent = async { ends(Raw::connect(server, None).await).await };
    let joinless = async {
        let mut raw = Raw::connect(server, None).await;
        raw.hello().await;
        ends(raw).await
    };
    let half_open = async {
        let mut raw = Raw::connect(server, None).await;
        raw.join("half open", "silent").await;
        ends(raw).await
    };
    let huge = async {
        let mut raw = Raw::connect(server, None).await;
        raw.join("huge", "large").await;
        // It may be closed before all of it is written.
        let _ = raw.write(2, &vec![0; 10 << 20]).await;
        ends(raw).await
    };
    let garbage = async {
        let mut raw = Raw::connect(server, None).await;
        raw.hello().await;
        for _ in 0..25 {
            if raw.write(1, b"{\"type\":").await.is_err() {
                break;
            }
        }
        ends(raw).await
    };
    let slow = async {
        let mut slow = Raw::connect(server, Some(4096)).await;
        slow.join("slow", "never reads").await;
        let mut flood = Raw::connect(server, None).await;
        flood.join("slow", "writes").await;
        let begin = Instant::now();
        for _ in 0..900 {
            flood.send(&[7; 16_000]).await.unwrap();
            sleep(Duration::from_millis(2)).await;
        }
        let left = loop {
            match timeout(SECOND, flood.next()).await {
                Ok(Got::Binary(message)) => {
                    let controls = flood.controls(message);
                    if controls.iter().any(|control| matches!(control, ServerControl::MemberLeft { .. })) {
                        break begin.elapsed();
                    }
                }
                Ok(Got::Text(_)) => {}
                Ok(got) => panic!("{got:?}"),
                Err(_) => flood.text(r#"{"type":"ping","t":1}"#).await,
            }
            // Silence, the closing handshake, and the session's grace.
            assert!(begin.elapsed() < 52 * SECOND, "the reader that does not read is let go");
        };
        (left, slow.end().await)
    };
    let everybody = async { tokio::join!(silent, joinless, half_open, huge, garbage, slow) };
    let (mut meanwhile, (silent, joinless, half_open, huge, garbage, slow)) =
        tokio::join!(latencies(server, 38 * SECOND), everybody);
    meanwhile.sort();
    println!("bystanders' p99: {:?} alone, {:?} meanwhile", p99(&calm), p99(&meanwhile));
    println!("a reader that never reads is gone after {:?}, and finds {:?}", slow.0, slow.1);
    assert_eq!(slow.1, Got::Close(4408));
    assert_closed("nothing is said", silent, 4408, 9..13);
    assert_closed("hello and no join", joinless, 4408, 9..13);
    assert_closed("joined and silent", half_open, 4408, 34..38);
    assert_closed("garbage", garbage, 4400, 0..3);
    assert_closed("a frame of 10 MiB", huge, 1009, 0..3);
    assert!(p99(&meanwhile) <= 2 * p99(&calm) + Duration::from_millis(30));
    running.drain().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_tells_every_client_and_closes_with_its_code() {
    let folder = TempDir::new().unwrap();
    let running = server(&folder).await;
    let mut clients = Vec::new();
    for number in 0..20 {
        let mut raw = Raw::connect(running.address, None).await;
        raw.join(&format!("room{}", number % 5), &format!("u{number}")).await;
        clients.push(raw);
    }
    let mut joinless = Raw::connect(running.address, None).await;
    joinless.hello().await;
    let begin = Instant::now();
    let drained = tokio::spawn(running.drain());
    for mut raw in clients {
        let mut told = false;
        let end = loop {
            match timeout(5 * SECOND, raw.next()).await.unwrap() {
                Got::Text(text) => told |= text.contains("draining"),
                Got::Binary(_) => {}
                end => break end,
            }
        };
        assert_eq!((told, end), (true, Got::Close(4503)));
        let _ = raw.write(8, &4503u16.to_be_bytes()).await;
    }
    println!("all told and closed after {:?}", begin.elapsed());
    assert!(matches!(joinless.next().await, Got::Text(text) if text.contains("draining")));
    assert_eq!(timeout(SECOND, joinless.end()).await.unwrap(), Got::Close(4503), "it has no session");
    let _ = joinless.write(8, &4503u16.to_be_bytes()).await;
    drained.await.unwrap().unwrap();
    println!("drained after {:?}", begin.elapsed());
    assert!(begin.elapsed() < 3 * SECOND);
}

#[tokio::test]
async fn pings_and_closes_are_answered_on_both_sides_of_a_join() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(&folder).await;
    for joins in [false, true] {
        let mut raw = Raw::connect(server.address, None).await;
        raw.hello().await;
        if joins {
            raw.join_greeted("pings", "a").await;
        }
        // In fragments, with the ping between, and in pieces that end within heads.
        let text = br#"{"type":"ping","t":5}"#;
        let parts = [&[0x01, 0x84, 0, 0, 0, 0], &text[..4], &[0x89, 0x82, 1, 2, 3, 4, b'h' ^ 1, b'i' ^ 2]];
        let rest = [
            &[0x80, 0x80 | (text.len() - 4) as u8, 9, 9, 9, 9][..],
            &text[4..].iter().map(|byte| byte ^ 9).collect::<Vec<_>>(),
        ];
        for piece in [parts.concat(), rest.concat()].concat().chunks(3) {
            raw.stream.write_all(piece).await.unwrap();
            sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(raw.answer().await, Got::Pong(Bytes::from("hi")));
        assert!(matches!(raw.answer().await, Got::Text(text) if text.contains("pong")));
        raw.write(8, &[0x03, 0xe9]).await.unwrap();
        assert_eq!(raw.answer().await, Got::Close(1001));
        assert_eq!(raw.answer().await, Got::Gone);
    }
    server.drain().await.unwrap();
}

#[tokio::test]
async fn a_page_that_is_gone_ends_its_session_unless_others_go_on_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(&folder).await;
    let mut watcher = Raw::connect(server.address, None).await;
    watcher.join("tabs", "w").await;
    // Whoever closes first and keeps is still there when the second is gone.
    for (keeps, code) in [(true, 1001_u16), (false, 1001), (true, 1000)] {
        let mut page = Raw::connect(server.address, None).await;
        page.join("tabs", if keeps { "a" } else { "b" }).await;
        if keeps {
            page.text(r#"{"type":"keep","on":true}"#).await;
            page.text(r#"{"type":"ping","t":1}"#).await;
            assert!(matches!(page.answer().await, Got::Text(text) if text.contains("pong")));
        }
        page.write(8, &code.to_be_bytes()).await.unwrap();
        assert_eq!(page.end().await, Got::Close(code));
    }
    let (mut came, mut left) = (Vec::new(), Vec::new());
    while left.len() < 2 {
        let next = timeout(5 * SECOND, watcher.next()).await.expect("two are gone at once");
        let Got::Binary(message) = next else { continue };
        for control in watcher.controls(message) {
            match control {
                ServerControl::MemberJoined { member } => came.push(member.member),
                ServerControl::MemberLeft { member, .. } => left.push(member),
                _ => {}
            }
        }
    }
    assert_eq!(left, came[1..], "the first one is kept");
    server.drain().await.unwrap();
}
