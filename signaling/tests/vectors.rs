//! The vectors in `vectors/`, to which the browser client is held as well (`client/test/vectors.test.js`). The first
//! field of each file explains its format.

#![expect(clippy::unwrap_used, reason = "a vector that does not read is a failed test")]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use serde_json::Value;
use switchyard_signaling::{
    event::{Content, Event, EventKind, Origin, Position, Submission},
    frame::{self, Frame, Frames, Kind, Reliable, Target},
    lane::{Arrival, Message, Polled, Receiver, Sender},
    reader::{Item, News, Reader, Snapshot},
    record::ServerRecord,
    writer::{Told, Unanswered, Writer},
};

const DATA_ROOM: u64 = 1;

#[test]
fn frames_decode_and_encode_as_the_vectors_say() {
    let vectors = load(include_str!("../vectors/frames.json"));
    for vector in list(&vectors["frames"]) {
        let name = text(&vector["name"]);
        let raw = unhex(&vector["hex"]);
        let decoded = frame::decode(raw.clone()).unwrap_or_else(|error| panic!("{name}: {error}"));
        let described = decoded.as_ref().map_or_else(
            || serde_json::json!({"kind": "unknown", "code": raw[0]}),
            |decoded| describe(decoded, &raw),
        );
        assert_eq!(described, expand(&vector["frame"]), "{name}");
        if let Some(decoded) = decoded {
            let mut out = BytesMut::new();
            put(&decoded, &mut out);
            assert_eq!(out[2..], raw[..], "{name}, encoded");
            assert_eq!(out[..2], u16::try_from(raw.len()).unwrap().to_be_bytes(), "{name}, length");
        }
    }
    for vector in list(&vectors["more_frames"]) {
        let raw = unhex(&vector["hex"]);
        let decoded = frame::decode(raw.clone()).unwrap().unwrap();
        assert_eq!(describe(&decoded, &raw), expand(&vector["frame"]), "{}", vector["name"]);
    }
    for vector in list(&vectors["bad_frames"]) {
        assert!(frame::decode(unhex(&vector["hex"])).is_err(), "{}", vector["name"]);
    }
}

#[test]
fn pipe_messages_split_as_the_vectors_say() {
    let vectors = load(include_str!("../vectors/frames.json"));
    for (field, good) in [("pipe_messages", true), ("bad_pipe_messages", false)] {
        for vector in list(&vectors[field]) {
            let name = text(&vector["name"]);
            let expected: Vec<Frame> =
                list(&vector["frames"]).iter().filter_map(|hex| frame::decode(unhex(hex)).unwrap()).collect();
            let mut split = Frames::new(unhex(&vector["hex"]));
            let frames: Vec<Frame> = split.by_ref().map_while(Result::ok).collect();
            assert_eq!(frames, expected, "{name}");
            let whole = Frames::new(unhex(&vector["hex"])).all(|frame| frame.is_ok());
            assert_eq!(whole, good, "{name}");
        }
    }
}

#[test]
fn the_lane_behaves_as_the_vectors_say() {
    let vectors = load(include_str!("../vectors/lane.json"));
    for scenario in list(&vectors["scenarios"]) {
        let limit = scenario["options"]["limit"].as_u64().unwrap_or(1_048_576);
        let mut lane = Lane {
            sender: Sender::new(usize::try_from(limit).unwrap()),
            receiver: Receiver::default(),
            begin: Instant::now(),
        };
        for step in list(&scenario["steps"]) {
            for _ in 0..step["times"].as_u64().unwrap_or(1) {
                for step in step["repeat"].as_array().unwrap_or(&vec![step.clone()]) {
                    lane.step(step, &format!("{}: {step}", scenario["name"]));
                }
            }
        }
    }
}

/// Both halves of one end.
struct Lane {
    sender: Sender,
    receiver: Receiver,
    begin: Instant,
}

impl Lane {
    fn step(&mut self, step: &Value, label: &str) {
        let expect = &step["expect"];
        match text(&step["do"]) {
            "offer" => assert_eq!(self.offer(step), text(expect), "{label}"),
            "next" => self.next(expect, label),
            "ack" => {
                self.sender.handle_ack(number(&step["ack"]));
            }
            "replay" => {
                let possible = self.sender.attach(number(&step["ack"]));
                assert_eq!(if possible { "ok" } else { "impossible" }, text(expect), "{label}");
            }
            "receive" => {
                let arrival = self.receive(number(&step["seq"]), step);
                let arrival = match arrival {
                    Arrival::Next => "next",
                    Arrival::Duplicate => "duplicate",
                    Arrival::Ahead => "lane_gap",
                };
                assert_eq!(arrival, text(expect), "{label}");
            }
            "receive_more" => {
                for _ in 0..number(&step["count"]) {
                    let seq = self.receiver.ack().wrapping_add(1);
                    assert_eq!(self.receive(seq, step), Arrival::Next, "{label}");
                }
            }
            "ack_due" => {
                let now = self.at(step);
                let due = self.receiver.poll_timeout().is_some_and(|due| due <= now);
                let ack = due.then(|| {
                    self.receiver.acknowledged();
                    self.receiver.ack()
                });
                assert_eq!(ack.map(u64::from), expect.as_u64(), "{label}");
            }
            "held" => assert_eq!(self.sender.held_bytes() as u64, expect.as_u64().unwrap(), "{label}"),
            "unacknowledged" => {
                assert_eq!(self.sender.unacknowledged() as u64, expect.as_u64().unwrap(), "{label}");
            }
            other => panic!("unknown step {other}"),
        }
    }

    /// As a client offers: refused rather than told as a gap.
    fn offer(&mut self, step: &Value) -> &'static str {
        let length = usize::try_from(step["length"].as_u64().unwrap()).unwrap();
        if !self.sender.has_room(length) {
            return "buffer_full";
        }
        let control = step["kind"].as_str() == Some("control");
        let message = Message {
            kind: if control { Kind::Control } else { Kind::Data },
            text: false,
            sender: 0,
            stream: u16::try_from(step["stream"].as_u64().unwrap_or(0)).unwrap(),
            target: target(&step["target"]),
            payload: vec![0; length].into(),
            at: self.begin,
        };
        let room = step["room"].as_u64().unwrap_or(DATA_ROOM);
        self.sender.push(u16::try_from(room).unwrap(), Arc::new(message)).unwrap();
        "ok"
    }

    fn next(&mut self, expect: &Value, label: &str) {
        let mut out = BytesMut::new();
        let polled = self.sender.poll(self.receiver.ack(), usize::MAX, &mut out);
        if expect.is_null() {
            assert_eq!(polled, Polled::Empty, "{label}");
            return;
        }
        assert_eq!(polled, Polled::Frame, "{label}");
        self.receiver.acknowledged();
        let raw = out.freeze().slice(2..);
        let decoded = frame::decode(raw.clone()).unwrap().unwrap();
        let mut seen = describe(&decoded, &raw);
        if let Frame::Reliable { body: Reliable::Chunk(_, payload), .. } = &decoded {
            seen["length"] = payload.len().into();
        }
        seen["bytes"] = raw.len().into();
        for (field, value) in expect.as_object().unwrap() {
            assert_eq!(&seen[field], value, "{label}, {field}");
        }
    }

    fn receive(&mut self, seq: u32, step: &Value) -> Arrival {
        let now = self.at(step);
        self.receiver.handle(seq, number(&step["bytes"]) as usize, now)
    }

    fn at(&self, step: &Value) -> Instant {
        self.begin + Duration::from_millis(step["now"].as_u64().unwrap())
    }
}

#[test]
fn a_log_is_written_as_the_vectors_say() {
    let vectors = load(include_str!("../vectors/delivery.json"));
    for scenario in list(&vectors["writers"]) {
        let mut clock = Clock::default();
        let mut writer = Writer::new(Origin(7));
        for step in list(&scenario["steps"]) {
            let now = clock.at(step);
            let seen = write(&mut writer, (now, clock.begin), step);
            assert_eq!(seen, step["expect"], "{}: {step}", scenario["name"]);
        }
    }
}

fn write(writer: &mut Writer, (now, begin): (Instant, Instant), step: &Value) -> Value {
    match text(&step["do"]) {
        "submit" => {
            let times = step["times"].as_u64().unwrap_or(1) as u32;
            let cseqs =
                (0..times).map(|further| writer.submit(number(&step["nonce"]) + further, content(step)));
            cseqs.last().flatten().into()
        }
        "attach" => {
            writer.attach();
            Value::Null
        }
        "detach" => {
            writer.detach();
            Value::Null
        }
        "restore" => {
            *writer = Writer::restore(writer.outbox());
            Value::Null
        }
        "send" => {
            let sent: Vec<Submission> = std::iter::from_fn(|| writer.poll(now)).collect();
            let (Some(first), Some(last)) = (sent.first(), sent.last()) else {
                return Value::Null;
            };
            assert!(sent.iter().all(|submission| submission.base == first.base));
            assert_eq!((last.cseq - first.cseq) as usize, sent.len() - 1);
            serde_json::json!({"from": first.cseq, "to": last.cseq, "base": first.base})
        }
        "due" => millis(writer.poll_timeout(), begin),
        "outbox" => {
            let outbox = writer.outbox();
            serde_json::json!({"base": outbox.base, "unanswered": unanswered(&outbox.unanswered)})
        }
        _ => match writer.handle(now, &answer(step)) {
            None => Value::Null,
            Some(Told::Accepted { cseq, seq, .. }) => serde_json::json!({"accepted": [cseq, seq]}),
            Some(Told::Refused { cseq, code, .. }) => serde_json::json!({"refused": [cseq, code]}),
            Some(Told::Waits { cseq, code }) => serde_json::json!({"waits": [cseq, code]}),
            Some(Told::Conflict { cseq, unanswered: Unanswered { nonce, content } }) => {
                serde_json::json!({"conflict": [cseq, std::str::from_utf8(&content.body).unwrap(), nonce]})
            }
        },
    }
}

fn content(step: &Value) -> Content {
    let body = match step["length"].as_u64() {
        Some(length) => vec![0; length as usize].into(),
        None => Bytes::copy_from_slice(text(&step["text"]).as_bytes()),
    };
    let kind = if step["kind"].as_str() == Some("end") { EventKind::End } else { EventKind::Chat };
    Content { kind, version: 0, flags: step["flags"].as_u64().unwrap_or(0) as u8, target: 0, body }
}

fn answer(step: &Value) -> ServerRecord {
    let origin = step["origin"].as_str().map_or(Origin(7), |hex| Origin::from_hex(hex).unwrap());
    let cseq = number(&step["cseq"]);
    let code = step["code"].as_str().unwrap_or_default().to_owned();
    match text(&step["do"]) {
        "accepted" => ServerRecord::Accepted { origin, cseq, seq: step["seq"].as_u64().unwrap() },
        "refused" => ServerRecord::Refused { origin, cseq, code, sentence: String::new() },
        "expected" => {
            ServerRecord::Expected { origin, cseq, retry_after_ms: number(&step["retry_after_ms"]), code }
        }
        "conflict" => ServerRecord::Conflict { origin, cseq },
        "event" => {
            let event = event(step["seq"].as_u64().unwrap());
            ServerRecord::Event(Event { origin, cseq, content: content(step), ..event })
        }
        other => panic!("unknown step {other}"),
    }
}

fn event(seq: u64) -> Event {
    let (user, name) = ("u".to_owned(), "U".to_owned());
    let content = Content { kind: EventKind::Chat, version: 0, flags: 0, target: 0, body: Bytes::new() };
    Event { seq, at: 0, origin: Origin(1), cseq: 1, user, name, content }
}

fn unanswered(list: &[Unanswered]) -> Value {
    let body = |content: &Content| String::from_utf8(content.body.to_vec()).unwrap();
    list.iter().map(|one| serde_json::json!([body(&one.content), one.nonce])).collect()
}

#[test]
fn a_log_is_read_as_the_vectors_say() {
    let vectors = load(include_str!("../vectors/delivery.json"));
    for scenario in list(&vectors["readers"]) {
        let mut clock = Clock::default();
        let begins_at = scenario["position"].as_array();
        let mut reader =
            begins_at.map_or_else(Reader::default, |begin| Reader::restore(position(&begin[0], &begin[1])));
        for step in list(&scenario["steps"]) {
            let now = clock.at(step);
            let seen = read(&mut reader, (now, clock.begin), step);
            assert_eq!(seen, step["expect"], "{}: {step}", scenario["name"]);
        }
    }
}

fn read(reader: &mut Reader, (now, begin): (Instant, Instant), step: &Value) -> Value {
    match text(&step["do"]) {
        "attach" => {
            reader.attach(now);
            Value::Null
        }
        "detach" => {
            reader.detach();
            Value::Null
        }
        "gap" => {
            reader.handle_gap();
            Value::Null
        }
        "pull" => reader.poll(now).into(),
        "due" => millis(reader.poll_timeout(), begin),
        "position" => reader.position().map(|position| vec![u64::from(position.epoch), position.seq]).into(),
        "message" => {
            let seqs = |events: &[Event]| events.iter().map(|event| event.seq).collect::<Vec<_>>();
            let news = reader.handle(items(step)).into_iter().map(|news| match news {
                News::Event(event) => event.seq.into(),
                News::Snapshot(snapshot) => serde_json::json!({"snapshot": snapshot.reason}),
                News::Answered { id, last, events } => {
                    serde_json::json!({"answered": [id, last, seqs(&events)]})
                }
            });
            news.collect()
        }
        other => panic!("unknown step {other}"),
    }
}

fn items(step: &Value) -> Vec<Item> {
    let mut items = Vec::new();
    if let Some(answer) = step["answer"].as_array() {
        items.push(Item::Answer { id: number(&answer[0]), last: answer[1].as_bool().unwrap() });
    }
    if let Some(snapshot) = step["snapshot"].as_array() {
        items.push(Item::Snapshot(Snapshot {
            reason: text(&snapshot[0]).to_owned(),
            position: position(&snapshot[1], &snapshot[2]),
            fields: serde_json::Map::new(),
            messages: Vec::new(),
            more: false,
        }));
    }
    let events = step["events"].as_array().into_iter().flatten();
    items.extend(events.map(|seq| Item::Event(event(seq.as_u64().unwrap()))));
    if let Some(head) = step["head"].as_array() {
        items.push(Item::Head(position(&head[0], &head[1])));
    }
    items
}

fn position(epoch: &Value, seq: &Value) -> Position {
    let seq = seq.as_u64().unwrap();
    Position { epoch: number(epoch), seq, digest: seq, proof: seq }
}

/// The time of steps; one that names none happens with the one before.
struct Clock {
    begin: Instant,
    now: Instant,
}

impl Default for Clock {
    fn default() -> Self {
        let begin = Instant::now();
        Self { begin, now: begin }
    }
}

impl Clock {
    fn at(&mut self, step: &Value) -> Instant {
        if let Some(now) = step["now"].as_u64() {
            self.now = self.begin + Duration::from_millis(now);
        }
        self.now
    }
}

fn millis(at: Option<Instant>, begin: Instant) -> Value {
    at.map(|at| (at - begin).as_millis() as u64).into()
}

/// A frame in the words of the vectors. The flags are read from the raw bytes, for the types name them otherwise.
fn describe(frame: &Frame, raw: &Bytes) -> Value {
    match frame {
        Frame::Reliable { lane_seq, ack, body: Reliable::Chunk(header, payload) } => {
            let mut value = serde_json::json!({
                "kind": match header.kind {
                    Kind::Data => "data",
                    Kind::Control => "control",
                    Kind::Log => "log",
                },
                "flags": raw[1], "lane_seq": lane_seq, "ack": ack, "room": header.room,
                "sender": header.sender, "stream": header.stream, "payload": hex(payload),
            });
            assert_eq!(header.text, raw[1] & 1 != 0);
            assert_eq!(header.last, raw[1] & 4 != 0);
            if let Some((target, total)) = &header.first {
                value["target"] = describe_target(target);
                if !header.last {
                    value["total"] = (*total).into();
                }
            }
            value
        }
        Frame::Reliable { lane_seq, ack, body: Reliable::Gap { room, sender, stream, count } } => {
            serde_json::json!({
                "kind": "gap", "lane_seq": lane_seq, "ack": ack, "room": room, "sender": sender, "stream": stream,
                "count": count,
            })
        }
        Frame::Lossy(header, payload) => serde_json::json!({
            "kind": "lossy", "flags": u8::from(header.text), "room": header.room, "sender": header.sender,
            "stream": header.stream, "seq": header.seq, "target": describe_target(&header.target),
            "payload": hex(payload),
        }),
        Frame::Ack(ack) => serde_json::json!({"kind": "ack", "ack": ack}),
        Frame::Ping(nonce) => serde_json::json!({"kind": "ping", "nonce": nonce}),
        Frame::Pong(nonce) => serde_json::json!({"kind": "pong", "nonce": nonce}),
        Frame::Attach { generation, ack } => {
            serde_json::json!({"kind": "attach", "gen": generation, "ack": ack})
        }
        Frame::Attached { generation, ack } => {
            serde_json::json!({"kind": "attached", "gen": generation, "ack": ack})
        }
    }
}

fn put(frame: &Frame, out: &mut BytesMut) {
    match frame {
        Frame::Reliable { lane_seq, ack, body: Reliable::Chunk(header, payload) } => frame::put_chunk(
            out,
            header.kind,
            header.text,
            (*lane_seq, *ack),
            header.room,
            header.sender,
            header.stream,
            header.first.as_ref().map(|(target, total)| (target, *total)),
            header.last,
            payload,
        ),
        Frame::Reliable { lane_seq, ack, body: Reliable::Gap { room, sender, stream, count } } => {
            frame::put_gap(out, (*lane_seq, *ack), *room, *sender, *stream, *count);
        }
        Frame::Lossy(header, payload) => frame::put_lossy(out, header, payload),
        Frame::Ack(ack) => frame::put_ack(out, *ack),
        Frame::Ping(nonce) => frame::put_ping(out, *nonce),
        Frame::Pong(nonce) => frame::put_pong(out, *nonce),
        Frame::Attach { generation, ack } => frame::put_attach(out, *generation, *ack),
        Frame::Attached { generation, ack } => frame::put_attached(out, *generation, *ack),
    }
}

fn describe_target(target: &Target) -> Value {
    match target {
        Target::Room => "room".into(),
        Target::Users(users) => serde_json::json!({"users": users}),
        Target::Topic(topic) => serde_json::json!({"topic": topic}),
    }
}

fn target(value: &Value) -> Target {
    if let Some(topic) = value["topic"].as_str() {
        return Target::Topic(topic.to_owned());
    }
    value["users"]
        .as_array()
        .map_or(Target::Room, |users| Target::Users(users.iter().map(|user| text(user).to_owned()).collect()))
}

/// The frame of a vector, its payload written out.
fn expand(frame: &Value) -> Value {
    let mut frame = frame.clone();
    if frame["payload"].is_string() {
        frame["payload"] = hex(&unhex(&frame["payload"])).into();
    }
    frame
}

fn load(file: &str) -> Value {
    serde_json::from_str(file).unwrap()
}

fn list(value: &Value) -> &Vec<Value> {
    value.as_array().unwrap()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn number(value: &Value) -> u32 {
    u32::try_from(value.as_u64().unwrap()).unwrap()
}

/// Words of hex digits, each perhaps repeated: `ab*3`.
fn unhex(value: &Value) -> Bytes {
    let mut out = Vec::new();
    for word in text(value).split(' ') {
        let (digits, times) = word.split_once('*').unwrap_or((word, "1"));
        let bytes: Vec<u8> = (0..digits.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap())
            .collect();
        for _ in 0..times.parse().unwrap() {
            out.extend_from_slice(&bytes);
        }
    }
    out.into()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
