//! The application backend's door on a real server with real sockets: what it writes, streams and reads, and what happens
//! to requests that are wrong, doubled, slow or broken off.

use std::{
    net::SocketAddr,
    time::{Duration, Instant, SystemTime},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use switchyard_loadtest::token;
use switchyard_signaling::{
    frame::{Kind, Reliable},
    record::{ServerRecord, read_server},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{sleep, timeout},
};

use crate::doors::{Got, Raw, SECOND, SECRET, server};

const TICK: Duration = Duration::from_millis(30);

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        lines.into_iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("{self:?}"))
    }

    fn lines(&self) -> Vec<Value> {
        let lines = self.body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines.map(|line| serde_json::from_slice(line).unwrap()).collect()
    }

    /// What it was refused with.
    pub(crate) fn refusal(&self) -> (u16, String) {
        let json = self.json();
        assert!(json["message"].is_string(), "{json}");
        (self.status, json["code"].as_str().unwrap().to_owned())
    }
}

/// A request of which the body is still to come.
struct Open(TcpStream);

impl Open {
    async fn begin(server: SocketAddr, head: &str) -> Self {
        let mut stream = TcpStream::connect(server).await.unwrap();
        stream.set_nodelay(true).unwrap();
        stream.write_all(format!("{head}Host: {server}\r\nConnection: close\r\n").as_bytes()).await.unwrap();
        Self(stream)
    }

    async fn chunked(server: SocketAddr, head: &str) -> Self {
        let mut open = Self::begin(server, head).await;
        open.0.write_all(b"Transfer-Encoding: chunked\r\n\r\n").await.unwrap();
        open
    }

    async fn chunk(&mut self, bytes: &[u8]) {
        let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
        chunk.extend_from_slice(bytes);
        chunk.extend_from_slice(b"\r\n");
        // The server may have answered and closed.
        let _ = self.0.write_all(&chunk).await;
    }

    async fn end(mut self) -> Answer {
        self.chunk(b"").await;
        self.answer().await
    }

    async fn answer(mut self) -> Answer {
        let mut all = Vec::new();
        let read = timeout(70 * SECOND, self.0.read_to_end(&mut all)).await.expect("an answer in time");
        let end = all.windows(4).position(|four| four == b"\r\n\r\n");
        let end = end.unwrap_or_else(|| panic!("no answer: {read:?} {}", String::from_utf8_lossy(&all)));
        let head = String::from_utf8(all[..end].to_vec()).unwrap();
        let mut answer = Answer { status: head[9..12].parse().unwrap(), head, body: all.split_off(end + 4) };
        if answer.header("transfer-encoding") == Some("chunked") {
            answer.body = unchunk(&answer.body);
        }
        answer
    }
}

fn unchunk(mut chunked: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let line = chunked.windows(2).position(|two| two == b"\r\n").expect("the last chunk was sent");
        let length = usize::from_str_radix(std::str::from_utf8(&chunked[..line]).unwrap(), 16).unwrap();
        if length == 0 {
            return body;
        }
        body.extend_from_slice(&chunked[line + 2..line + 2 + length]);
        chunked = &chunked[line + 2 + length + 2..];
    }
}

/// What the backend has: the key `app`.
#[derive(Clone, Copy)]
pub(crate) struct Backend(pub(crate) SocketAddr);

impl Backend {
    fn head(method: &str, path: &str, headers: &str) -> String {
        format!("{method} /v1/rooms/{path} HTTP/1.1\r\nAuthorization: Bearer app:{SECRET}\r\n{headers}")
    }

    async fn ask(self, method: &str, path: &str, headers: &str, body: &[u8]) -> Answer {
        send(self.0, &Self::head(method, path, headers), body).await
    }

    async fn json(self, method: &str, path: &str, body: Value) -> Answer {
        self.ask(method, path, "", body.to_string().as_bytes()).await
    }

    /// At a door that is no room's.
    pub(crate) async fn json_at(self, method: &str, path: &str, body: Value) -> Answer {
        let head = format!("{method} {path} HTTP/1.1\r\nAuthorization: Bearer app:{SECRET}\r\n");
        send(self.0, &head, body.to_string().as_bytes()).await
    }

    pub(crate) async fn without_key(self, method: &str, path: &str, body: Value) -> Answer {
        send(self.0, &format!("{method} {path} HTTP/1.1\r\n"), body.to_string().as_bytes()).await
    }

    async fn get(self, path: &str) -> Answer {
        self.ask("GET", path, "", b"").await
    }

    async fn stream(self, room: &str, headers: &str) -> Open {
        Open::chunked(self.0, &Self::head("POST", &format!("{room}/streams"), headers)).await
    }

    /// The messages of a room, when there are so many.
    async fn messages(self, room: &str, count: usize) -> Vec<Value> {
        for _ in 0..100 {
            let messages = self.get(&format!("{room}/messages")).await.json()["messages"].take();
            let messages = messages.as_array().unwrap().clone();
            if messages.len() >= count {
                assert_eq!(messages.len(), count, "{messages:?}");
                return messages;
            }
            sleep(TICK).await;
        }
        panic!("there are not {count} messages");
    }
}

pub(crate) async fn send(server: SocketAddr, head: &str, body: &[u8]) -> Answer {
    let mut open = Open::begin(server, head).await;
    let length = format!("Content-Length: {}\r\n\r\n", body.len());
    open.0.write_all(length.as_bytes()).await.unwrap();
    // It may be refused before all of it is written.
    let _ = open.0.write_all(body).await;
    open.answer().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_writes_edits_reacts_and_reads_what_it_wrote() {
    let folder = TempDir::new().unwrap();
    let running = server(&folder).await;
    let backend = Backend(running.address);
    let wrote = |answer: Answer, status, seq: u64| {
        assert_eq!((answer.status, answer.json()), (status, json!({"seq": seq})), "{answer:?}");
        assert_eq!(answer.header("idempotency-replayed"), None);
    };
    let message = json!({"text": "deployed", "meta": {"build": 7}});
    wrote(backend.json("POST", "a%20room/messages", message).await, 201, 1);
    let message = json!({"kind": "comment", "user": "ann", "name": "Ann", "parent": 1, "text": "so", "version": 3,
        "mentions": ["bob"], "code": {"file": "a.rs", "line": 3}, "annotation": {"message": 1}});
    wrote(backend.json("POST", "a%20room/messages", message).await, 201, 2);
    wrote(backend.json("PATCH", "a%20room/messages/2", json!({"text": "edited"})).await, 200, 3);
    wrote(backend.ask("PUT", "a%20room/messages/1/reactions/%F0%9F%91%8D?user=bob", "", b"").await, 200, 4);
    wrote(backend.ask("PUT", "a%20room/messages/1/reactions/no?user=bob", "", b"").await, 200, 5);
    wrote(backend.ask("DELETE", "a%20room/messages/1/reactions/no?user=bob", "", b"").await, 200, 6);
    wrote(
        backend.json("PATCH", "a%20room/fields", json!({"tokens": 41, "health": "good", "x": 1})).await,
        200,
        7,
    );
    wrote(backend.json("PATCH", "a%20room/fields", json!({"tokens": 42, "x": null})).await, 200, 8);
    wrote(backend.ask("POST", "a%20room/events?version=2&target=9&user=ci", "", b"\xff\x00").await, 201, 9);
    wrote(backend.ask("POST", "a%20room/events", "", b"{\"build\":\n 8}").await, 201, 10);
    wrote(backend.json("POST", "a%20room/messages", json!({"kind": "chat", "text": "oops"})).await, 201, 11);
    wrote(backend.ask("DELETE", "a%20room/messages/11", "", b"").await, 200, 12);

    assert_eq!(backend.get("a%20room/fields").await.json(), json!({"tokens": 42, "health": "good"}));
    let mut messages = backend.messages("a%20room", 3).await;
    for message in &mut messages {
        assert!(message["at"].take().as_u64().unwrap() > 1_700_000_000_000);
        assert!(message["edited"].take().is_u64() == (message["seq"] == 2));
    }
    let first = json!({"seq": 1, "kind": "system", "user": "app", "name": "app", "at": null, "edited": null,
        "body": {"text": "deployed", "meta": {"build": 7}}, "replies": 1,
        "reactions": [{"emoji": "👍", "count": 1, "users": ["bob"]}]});
    assert_eq!(messages[0], first);
    assert_eq!((&messages[1]["name"], &messages[1]["body"]), (&json!("Ann"), &json!({"text": "edited"})));
    assert_eq!((&messages[2]["deleted"], &messages[2]["body"]), (&json!(true), &json!({})));
    let page = backend.get("a%20room/messages?before=3&limit=1").await.json();
    assert_eq!((&page["messages"][0]["seq"], &page["more"]), (&json!(2), &json!(true)));
    let thread = backend.get("a%20room/messages?parent=1").await.json();
    assert_eq!((thread["messages"].as_array().unwrap().len(), &thread["messages"][0]["seq"]), (1, &json!(2)));

    let events = backend.get("a%20room/events").await;
    assert_eq!(events.header("content-type"), Some("application/x-ndjson"));
    let kinds = "system comment edit react react unreact fields fields custom custom chat delete";
    assert!(events.lines().iter().map(|line| line["kind"].as_str().unwrap()).eq(kinds.split(' ')));
    let span = backend.get("a%20room/events?from=9&to=10").await.lines();
    assert_eq!((span.len(), &span[1]["body"]), (2, &json!({"build": 8})));
    assert_eq!((&span[0]["base64"], &span[0]["version"]), (&json!("/wA="), &json!(2)));
    assert_eq!((&span[0]["target"], &span[0]["user"]), (&json!(9), &json!("ci")));

    assert_eq!(backend.get("nowhere/messages").await.json(), json!({"messages": [], "more": false}));
    assert_eq!(backend.get("nowhere/events").await.lines(), [json!(null); 0]);
    running.drain().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_with_its_idempotency_key_is_harmless_even_at_once_and_after_a_restart() {
    let folder = TempDir::new().unwrap();
    let mut running = server(&folder).await;
    let key = "Idempotency-Key: order 66\r\n";
    let say = |server, text| async move {
        Backend(server).ask("POST", "r/messages", key, json!({"text": text}).to_string().as_bytes()).await
    };
    let at_once: Vec<_> = (0..8).map(|_| tokio::spawn(say(running.address, "hi"))).collect();
    let mut statuses = Vec::new();
    for answer in at_once {
        let answer = answer.await.unwrap();
        assert_eq!(answer.json(), json!({"seq": 1}));
        assert_eq!(answer.header("idempotency-replayed").is_some(), answer.status == 200);
        statuses.push(answer.status);
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 200, 200, 200, 200, 200, 201]);
    for restarts in 0..2 {
        let backend = Backend(running.address);
        assert_eq!(say(running.address, "hi").await.status, 200);
        assert_eq!(say(running.address, "other").await.refusal(), (422, "idempotency_conflict".into()));
        let edit = backend.ask("PATCH", "r/messages/1", key, br#"{"text":"hi"}"#).await;
        assert_eq!(edit.refusal(), (422, "idempotency_conflict".into()));
        let other_author = br#"{"text":"hi","user":"ann"}"#;
        let other_author = backend.ask("POST", "r/messages", key, other_author).await;
        assert_eq!(other_author.refusal(), (422, "idempotency_conflict".into()));
        let malformed = backend.ask("POST", "r/messages", "Idempotency-Key: m\r\n", b"{}").await;
        assert_eq!(malformed.refusal(), (400, "bad_body".into()));
        let in_order = backend.ask("POST", "r/messages", "Idempotency-Key: m\r\n", br#"{"text":"m"}"#).await;
        assert_eq!(in_order.json(), json!({"seq": 2}), "a malformed request has not used its key up");
        let elsewhere = backend.ask("POST", "r2/messages", key, br#"{"text":"other"}"#).await;
        assert_eq!((elsewhere.status, elsewhere.json()), (201 - restarts, json!({"seq": 1})));
        backend.messages("r", 2).await;
        running.drain().await.unwrap();
        running = server(&folder).await;
    }
    Backend(running.address).messages("r", 2).await;
    running.drain().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_door_opens_to_an_api_key_and_its_secret_and_only_to_that_tenants_rooms() {
    let folder = TempDir::new().unwrap();
    let running = server(&folder).await;
    let backend = Backend(running.address);
    assert_eq!(backend.json("POST", "r/messages", json!({"text": "secret"})).await.status, 201);
    let jwt = token::mint("app", SECRET, "r", "ann", SystemTime::now());
    let basic = |text: String| format!("Authorization: Basic {}\r\n", BASE64_STANDARD.encode(text));
    for wrong in [
        String::new(),
        format!("Authorization: Bearer {jwt}\r\n"),
        format!("Authorization: Bearer app:{}\r\n", &SECRET[1..]),
        format!("Authorization: Bearer other:{SECRET}\r\n"),
        format!("Authorization: Bearer {SECRET}\r\n"),
        basic("app:".into()),
        basic(format!("nobody:{SECRET}")),
    ] {
        for (method, path) in
            [("GET", "messages"), ("POST", "messages"), ("POST", "streams"), ("PUT", "fields")]
        {
            let head = format!("{method} /v1/rooms/r/{path} HTTP/1.1\r\n{wrong}");
            let answer = send(running.address, &head, b"{}").await;
            if method == "PUT" {
                assert_eq!(answer.refusal(), (405, "method_not_allowed".into()));
                continue;
            }
            assert_eq!(answer.refusal(), (401, "unauthorized".into()), "{wrong}");
            assert_eq!(answer.header("www-authenticate"), Some("Bearer realm=\"switchyard\""));
        }
    }
    let other = |path: &str| format!("GET /v1/rooms/{path} HTTP/1.1\r\n{}", basic(format!("else:{SECRET}2")));
    let answer = send(running.address, &other("r/messages"), b"").await;
    assert_eq!((answer.status, answer.json()), (200, json!({"messages": [], "more": false})));
    assert_eq!(send(running.address, &other("r/events"), b"").await.lines(), [json!(null); 0]);
    for (path, refusal) in [
        ("r/nothing", (404, "not_found")),
        ("%FF/messages", (400, "malformed")),
        ("a%0Ab/messages", (400, "room_name")),
        ("r/messages?befor=3", (400, "malformed")),
        ("r/messages?before=x", (400, "malformed")),
        ("r/streams", (405, "method_not_allowed")),
    ] {
        assert_eq!(backend.get(path).await.refusal(), (refusal.0, refusal.1.into()), "{path}");
    }
    let metrics = send(running.address, "GET /metrics HTTP/1.1\r\n", b"").await;
    let metrics = String::from_utf8(metrics.body).unwrap();
    for (door, least) in [("api", 18), ("streams", 8)] {
        let start = format!("switchyard_http_requests_total{{door=\"{door}\",status=\"4xx\"}} ");
        let counted = metrics.lines().find_map(|line| line.strip_prefix(&start)?.parse::<u32>().ok());
        assert!(counted.is_some_and(|counted| counted >= least), "{door}: {counted:?}");
    }
    running.drain().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_are_wrong_slow_or_broken_off_write_nothing_and_are_told_why() {
    let folder = TempDir::new().unwrap();
    let running = server(&folder).await;
    let backend = Backend(running.address);
    let long = format!(r#"{{"text":"{}"}}"#, "x".repeat(65_537));
    let huge = vec![b' '; 4 << 20];
    for (method, path, body, refusal) in [
        ("POST", "r/messages", &b"not json"[..], (400, "malformed")),
        ("POST", "r/messages", br#"{"text":"a","html":"b"}"#, (400, "malformed")),
        ("POST", "r/messages", br#"{"text":"a","parent":4}"#, (400, "malformed")),
        ("POST", "r/messages", br#"{"text":"a","user":""}"#, (400, "malformed")),
        ("POST", "r/messages", br#"{"text":5}"#, (400, "bad_body")),
        ("POST", "r/messages", br#"{"kind":"chat","text":"a","parent":4}"#, (404, "no_such_message")),
        ("POST", "r/messages", long.as_bytes(), (413, "too_large")),
        ("POST", "r/messages", &huge, (413, "too_large")),
        ("POST", "r/events", &huge, (413, "too_large")),
        ("POST", "r/events?version=256", b"", (400, "malformed")),
        ("PATCH", "r/messages/7", br#"{"text":"a"}"#, (404, "no_such_message")),
        ("PATCH", "r/messages/x", br#"{"text":"a"}"#, (400, "malformed")),
        ("PATCH", "r/messages/7", br#"{"text":"a","kind":"chat"}"#, (400, "malformed")),
        ("DELETE", "r/messages/7", b"", (404, "no_such_message")),
        ("PUT", "r/messages/7/reactions/a%20b", b"", (400, "bad_body")),
        ("PATCH", "r/fields", b"[]", (400, "bad_body")),
        ("PATCH", "r/fields", b"{}", (400, "bad_body")),
        ("POST", "r/streams", b"{}", (400, "malformed")),
        ("POST", "r/streams", b"{\"text\":\"a\"}\nb", (400, "malformed")),
        ("POST", "r/streams", b"{\"kind\":\"system\"}\nb", (400, "malformed")),
        ("POST", "r/streams", b"{\"mentions\":5}\nb", (400, "bad_body")),
        ("POST", "r/streams", b"{}\n", (400, "bad_body")),
    ] {
        let answer = backend.ask(method, path, "", body).await;
        assert_eq!(answer.refusal(), (refusal.0, refusal.1.into()), "{method} {path}");
    }
    let answer = backend.ask("POST", "r/messages", "Idempotency-Key: \u{fc}\r\n", br#"{"text":"a"}"#).await;
    assert_eq!(answer.refusal(), (400, "malformed".into()));
    let begin = Instant::now();
    let slow = async {
        let mut slow = Open::begin(running.address, &Backend::head("POST", "r/messages", "")).await;
        slow.0.write_all(b"Content-Length: 12\r\n\r\n{\"tex").await.unwrap();
        slow.answer().await
    };
    let headless = async {
        let mut headless = backend.stream("r", "").await;
        headless.chunk(b"{\"user\":").await;
        headless.answer().await
    };
    let broken = async {
        let mut broken = Open::begin(running.address, &Backend::head("POST", "r/messages", "")).await;
        broken.0.write_all(b"Content-Length: 12\r\n\r\n{\"text\":\"a\"").await.unwrap();
        drop(broken);
    };
    let (slow, headless, ()) = tokio::join!(slow, headless, broken);
    assert_eq!((slow.refusal(), headless.refusal()), ((408, "timeout".into()), (408, "timeout".into())));
    println!("slow bodies were refused after {:?}", begin.elapsed());
    assert!((9 * SECOND..13 * SECOND).contains(&begin.elapsed()));
    backend.messages("r", 0).await;
    running.drain().await.unwrap();
}

/// A member that follows the log: what it sees, as text.
struct Follower(Raw);

impl Follower {
    async fn join(server: SocketAddr, room: &str) -> Self {
        let mut raw = Raw::connect(server, None).await;
        raw.hello().await;
        let token = token::mint("app", SECRET, room, "watcher", SystemTime::now());
        raw.text(&format!(r#"{{"type":"join","id":1,"room":"{room}","token":"{token}","follow":{{}}}}"#))
            .await;
        let mut follower = Self(raw);
        while !follower.next().await.iter().any(|seen| seen.starts_with("head")) {}
        follower
    }

    async fn next(&mut self) -> Vec<String> {
        let got = timeout(5 * SECOND, self.0.next()).await.expect("it is told");
        let Got::Binary(message) = got else { return Vec::new() };
        let mut seen = Vec::new();
        for body in self.0.reliable(message) {
            let Reliable::Chunk(header, payload) = body else { continue };
            if header.kind == Kind::Log {
                seen.extend(read_server(payload).filter_map(|record| short(&record.unwrap())));
            }
        }
        self.0.acknowledge().await.unwrap();
        seen
    }

    /// Reads until this is seen; what was seen until then.
    async fn until(&mut self, end: &str) -> Vec<String> {
        let mut all: Vec<String> = Vec::new();
        while !all.iter().any(|seen| seen.starts_with(end)) {
            all.extend(self.next().await);
        }
        all
    }
}

fn short(record: &ServerRecord) -> Option<String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Some(match record {
        ServerRecord::Stream(stream) => {
            format!("stream {} {} {}", stream.user, stream.name, text(&stream.text))
        }
        ServerRecord::Text { offset, text: part, .. } => format!("text {offset} {}", text(part)),
        ServerRecord::Ended { seq, .. } => format!("ended {seq}"),
        ServerRecord::Event(event) => format!("event {} {}", event.seq, text(&event.content.body)),
        ServerRecord::Head(_) => "head".to_owned(),
        _ => return None,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_seen_while_it_is_streamed_and_is_one_message_in_the_end() {
    let folder = TempDir::new().unwrap();
    let running = server(&folder).await;
    let backend = Backend(running.address);
    let mut follower = Follower::join(running.address, "r").await;
    let key = "Idempotency-Key: answer\r\n";
    let mut open = backend.stream("r", key).await;
    open.chunk(b"{\"user\":\"ai\",\"name\":\"AI\",\"meta\":{\"model\":1}}\nIt is gr").await;
    assert_eq!(follower.until("text").await, ["stream ai AI ", "text 0 It is gr"]);
    // Cut within a character.
    open.chunk(b"\xc3").await;
    open.chunk(b"\xb6\xc3\x9fer").await;
    assert_eq!(follower.until("text").await, ["text 8 \u{f6}\u{df}er"]);
    let mut late = Follower::join(running.address, "r").await;
    open.chunk(b", \"yes\"\n").await;
    assert_eq!(
        late.until("text").await,
        ["text 14 , \"yes\"\n"],
        "it has had the text so far with its first HEAD"
    );
    let answer = open.end().await;
    assert_eq!((answer.status, answer.json()), (201, json!({"seq": 1})));
    let event = r#"event 1 {"meta":{"model":1},"text":"It is größer, \"yes\"\n"}"#;
    assert_eq!(follower.until("ended").await, ["text 14 , \"yes\"\n", event, "head", "ended 1"]);

    let again = |text: &'static str| async move {
        let mut open = backend.stream("r", key).await;
        open.chunk(b"{\"user\":\"ai\",\"name\":\"AI\",\"meta\":{\"model\":1}}\n").await;
        open.chunk(text.as_bytes()).await;
        open.end().await
    };
    let retried = again("It is gr\u{f6}\u{df}er, \"yes\"\n").await;
    assert_eq!((retried.status, retried.json()), (200, json!({"seq": 1})));
    assert_eq!(retried.header("idempotency-replayed"), Some("true"));
    assert_eq!(
        again("It is gr\u{f6}\u{df}er, \"no!\"\n").await.refusal(),
        (422, "idempotency_conflict".into())
    );

    // Two at the same time, the same and another.
    let key = "Idempotency-Key: at once\r\n";
    let mut opens = Vec::new();
    for text in ["same", "same", "else"] {
        let mut open = backend.stream("r", key).await;
        open.chunk(format!("{{}}\n{text}").as_bytes()).await;
        follower.until("text").await;
        opens.push(open);
    }
    let mut statuses = Vec::new();
    for open in opens {
        statuses.push(open.end().await.status);
    }
    assert_eq!(statuses, [201, 200, 422]);
    let seen = follower.until("ended 0").await;
    assert_eq!(seen.iter().filter(|seen| seen.starts_with("event")).count(), 1, "{seen:?}");
    assert_eq!(seen.iter().filter(|seen| seen.starts_with("ended")).count(), 3, "{seen:?}");
    let messages = backend.messages("r", 2).await;
    assert!(messages.iter().all(|message| message["incomplete"].is_null()));
    running.drain().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_breaks_off_is_marked_incomplete_and_its_retry_is_another_message() {
    let folder = TempDir::new().unwrap();
    let running = server(&folder).await;
    let backend = Backend(running.address);
    let key = "Idempotency-Key: k\r\n";
    let mut broken = backend.stream("broken", key).await;
    broken.chunk(b"{}\nhalf an ans").await;
    let mut follower = Follower::join(running.address, "broken").await;
    drop(broken);
    let seen = follower.until("ended 1").await;
    assert!(
        seen.ends_with(&[r#"event 1 {"text":"half an ans"}"#, "head", "ended 1"].map(String::from)),
        "{seen:?}"
    );
    let messages = backend.messages("broken", 1).await;
    assert_eq!((&messages[0]["incomplete"], &messages[0]["kind"]), (&json!(true), &json!("chat")));
    let mut retry = backend.stream("broken", key).await;
    retry.chunk(b"{}\nhalf an answer").await;
    assert_eq!(retry.end().await.json(), json!({"seq": 2}));
    assert!(backend.messages("broken", 2).await[1]["incomplete"].is_null());

    let mut long = backend.stream("long", "").await;
    long.chunk(b"{}\n").await;
    for _ in 0..20 {
        long.chunk(&[b'x'; 10_000]).await;
    }
    assert_eq!(long.answer().await.refusal(), (413, "too_large".into()));
    assert_eq!(backend.messages("long", 1).await[0]["incomplete"], json!(true));

    let mut bytes = backend.stream("bytes", "").await;
    bytes.chunk(b"{}\ntext and \xff").await;
    assert_eq!(bytes.answer().await.refusal(), (400, "bad_body".into()));

    let mut many = Vec::new();
    for _ in 0..16 {
        let mut open = backend.stream("many", "").await;
        open.chunk(b"{}\na").await;
        many.push(open);
    }
    let mut follower = Follower::join(running.address, "many").await;
    let one_more = loop {
        let mut open = backend.stream("many", "").await;
        open.chunk(b"{}\na").await;
        match timeout(SECOND, open.answer()).await {
            Ok(answer) => break answer,
            // Those before had not all begun.
            Err(_) => continue,
        }
    };
    assert_eq!(one_more.refusal(), (429, "too_many_streams".into()));
    assert!(one_more.header("retry-after").is_some());
    drop(many);
    follower.until("ended").await;

    let begin = Instant::now();
    let mut silent = backend.stream("silent", "").await;
    silent.chunk(b"{}\nwell").await;
    assert_eq!(silent.answer().await.refusal(), (408, "timeout".into()));
    println!("a silent author was let go after {:?}", begin.elapsed());
    assert!((59 * SECOND..63 * SECOND).contains(&begin.elapsed()));
    assert_eq!(backend.messages("silent", 1).await[0]["incomplete"], json!(true));
    running.drain().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_ends_what_is_being_streamed_and_a_restart_finds_it() {
    let folder = TempDir::new().unwrap();
    let running = server(&folder).await;
    let mut open = Backend(running.address).stream("r", "").await;
    open.chunk(b"{}\nso far").await;
    let mut follower = Follower::join(running.address, "r").await;
    open.chunk(b" so good").await;
    while !follower.next().await.iter().any(|seen| seen.ends_with("so good")) {}
    let begin = Instant::now();
    let drained = tokio::spawn(running.drain());
    let answer = open.answer().await;
    assert_eq!(answer.refusal(), (503, "draining".into()));
    assert_eq!(answer.header("retry-after"), Some("5"));
    drop(follower);
    drained.await.unwrap().unwrap();
    println!("drained after {:?}", begin.elapsed());
    let running = server(&folder).await;
    let messages = Backend(running.address).messages("r", 1).await;
    assert_eq!(
        (&messages[0]["body"]["text"], &messages[0]["incomplete"]),
        (&json!("so far so good"), &json!(true))
    );
    running.drain().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_of_more_than_the_store_answers_at_once_is_whole_and_in_order() {
    let folder = TempDir::new().unwrap();
    let running = server(&folder).await;
    let backend = Backend(running.address);
    let mut writers = Vec::new();
    for writer in 0..4 {
        writers.push(tokio::spawn(async move {
            for number in 0..40 {
                let body = format!("[{writer},{number},\"{}\"]", "x".repeat(8000));
                assert_eq!(backend.ask("POST", "r/events", "", body.as_bytes()).await.status, 201);
            }
        }));
    }
    for writer in writers {
        writer.await.unwrap();
    }
    let replay = backend.get("r/events").await;
    println!("{} bytes replayed", replay.body.len());
    let lines = replay.lines();
    assert!(lines.iter().map(|line| line["seq"].as_u64().unwrap()).eq(1..=160));
    for writer in 0..4 {
        let of_writer = lines.iter().filter(|line| line["body"][0] == writer);
        assert!(of_writer.map(|line| line["body"][1].as_u64().unwrap()).eq(0..40));
    }
    let span = backend.get("r/events?from=40&to=120").await.lines();
    assert!(span.iter().map(|line| line["seq"].as_u64().unwrap()).eq(40..=120));
    running.drain().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_store_takes_no_writes_the_backend_is_told_when_to_come_again() {
    let folder = TempDir::new().unwrap();
    let running = server(&folder).await;
    let backend = Backend(running.address);
    let key = "Idempotency-Key: k\r\n";
    let say = || async move { backend.ask("POST", "r/messages", key, br#"{"text":"hi"}"#).await };
    assert_eq!(backend.json("POST", "r/messages", json!({"text": "before"})).await.status, 201);
    let other = rusqlite::Connection::open(folder.path().join("store.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let refused = say().await;
    assert_eq!(refused.refusal(), (503, "storage_unavailable".into()));
    assert!(refused.header("retry-after").unwrap().parse::<u32>().unwrap() >= 1);
    assert_eq!(backend.messages("r", 1).await[0]["seq"], 1, "what is durable can be read");
    other.execute_batch("COMMIT").unwrap();
    let begin = Instant::now();
    while say().await.status == 503 {
        assert!(begin.elapsed() < 30 * SECOND);
        sleep(TICK).await;
    }
    println!("it writes again after {:?}", begin.elapsed());
    let answer = say().await;
    assert_eq!((answer.status, answer.json()), (200, json!({"seq": 2})));
    backend.messages("r", 2).await;
    running.drain().await.unwrap();
}
