//! A browser's half of one room's log: what it writes and what it reads, section 9 of the protocol's document.
//!
//! The delivery rules are `switchyard_signaling::writer` and `reader`; this puts them together with origins, control
//! messages and streamed messages, as `client/src/` does. A [`RoomLog`] outlives the session: [`RoomLog::detach`] takes
//! it out of one and a later join puts it into another, and [`Saved`] is what a page keeps beyond its end.

use std::{
    collections::{BTreeMap, VecDeque},
    io::Read as _,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use serde_json::Value;
use switchyard_signaling::{
    Code,
    event::{Content, Event, EventKind, Origin, Position},
    message::{ClientControl, Follow, Log, ServerControl},
    reader::{Item, News, Reader, Snapshot},
    record::{self, ClientRecord, Json, RecordError, ServerRecord, Stream},
    writer::{Outbox, Told, Unanswered, Writer},
};

/// Bytes of an inflated snapshot or page.
const INFLATED_BYTES: u64 = 16 * 1024 * 1024;
/// Bytes of records in one message to the server, unless a single one is longer.
const MESSAGE_BYTES: usize = 60 * 1024;
/// Bytes of text in one PART.
const PART_BYTES: usize = 4 * 1024;
/// A text that was just sent is not sent again from its beginning: what is asked for was asked before it came.
const BEGIN_AGAIN: Duration = Duration::from_secs(1);
/// When a fresh origin was refused without saying when to ask again.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// What a log tells.
#[derive(Clone, Debug, PartialEq)]
pub enum LogEvent {
    /// The next event.
    Event(Event),
    /// What was read before is replaced.
    Snapshot(Snapshot),
    /// The answer to a `replay`.
    Answered {
        /// The request.
        id: u32,
        /// Whether these are all.
        last: bool,
        /// In order.
        events: Vec<Event>,
    },
    /// The answer to a `history`.
    Page(u32, Value),
    /// A submission is this event.
    Accepted {
        /// The submission.
        nonce: u32,
        /// With which it was written.
        origin: Origin,
        /// Its number.
        cseq: u32,
        /// The event.
        seq: u64,
    },
    /// A submission will never be one.
    Refused {
        /// The submission.
        nonce: u32,
        /// Why.
        code: String,
    },
    /// Writing takes longer, for this reason.
    Waits(String),
    /// Another writes with the same origin: this submission is made anew with a fresh one.
    Conflict(u32),
    /// A streamed message is in progress.
    Stream(Stream),
    /// A piece of its text.
    Text {
        /// Which.
        stream: u32,
        /// Bytes before it.
        offset: u32,
        /// UTF-8.
        text: Bytes,
    },
    /// It has ended.
    Ended {
        /// Which.
        stream: u32,
        /// The event, or 0.
        seq: u64,
    },
    /// Writing works, or why it does not.
    Status(Option<String>),
}

/// What a page keeps beyond its end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Saved {
    /// What has been given a number.
    pub outbox: Option<Outbox>,
    /// What has not.
    pub waiting: Vec<Unanswered>,
    /// Streamed messages that are being written.
    pub texts: BTreeMap<u32, Text>,
    /// To be kept together with what was read up to there.
    pub position: Option<Position>,
}

/// One room's log as a browser has it.
#[derive(Debug, Default)]
pub struct RoomLog {
    handle: Option<u16>,
    writer: Option<Writer>,
    /// Submissions that wait for an origin.
    waiting: VecDeque<Unanswered>,
    /// Submissions that met a conflict, by their numbers: they come before those.
    given_back: BTreeMap<u32, Unanswered>,
    /// A fresh origin that is not needed yet.
    spare: Option<Origin>,
    /// The request for an origin, or to use the one of before.
    asked: Option<u32>,
    ask_at: Option<Instant>,
    reader: Reader,
    texts: BTreeMap<u32, Text>,
    /// When each of them was last begun.
    begun: BTreeMap<u32, Instant>,
    now: Option<Instant>,
    /// Control messages and records that are to be sent.
    controls: VecDeque<ClientControl>,
    records: VecDeque<ClientRecord>,
    next_request: u32,
}

/// A streamed message that is being written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// The message without its text.
    pub content: Content,
    /// What there is of it.
    pub text: String,
    /// The submission that ends it, if it has been made.
    pub end: Option<u32>,
}

impl RoomLog {
    /// Goes on with what was kept.
    pub fn restore(saved: Saved) -> Self {
        Self {
            writer: saved.outbox.map(Writer::restore),
            waiting: saved.waiting.into(),
            // A page that is gone writes no more; what it had ended goes on.
            texts: saved.texts.into_iter().filter(|(_, text)| text.end.is_some()).collect(),
            reader: saved.position.map_or_else(Reader::default, Reader::restore),
            ..Self::default()
        }
    }

    /// What has to be kept now.
    pub fn saved(&self) -> Saved {
        let outbox = self.writer.as_ref().map(Writer::outbox);
        // Those that the outbox has again meet their conflict again.
        let base = outbox.as_ref().map_or(u32::MAX, |outbox| outbox.base);
        let given_back = self.given_back.range(..base).map(|(_, unanswered)| unanswered);
        Saved {
            waiting: given_back.chain(&self.waiting).cloned().collect(),
            outbox,
            texts: self.texts.clone(),
            position: self.reader.position(),
        }
    }

    /// The last event that was given out.
    pub fn taken(&self) -> u64 {
        self.reader.taken()
    }

    /// The last position that the server confirmed.
    pub fn position(&self) -> Option<Position> {
        self.reader.position()
    }

    /// With which it writes.
    pub fn origin(&self) -> Option<Origin> {
        self.writer.as_ref().map(Writer::origin)
    }

    /// Changes whenever [`saved`](Self::saved) must not lag behind: the origin, up to where the server was told that there
    /// are answers, and what waits.
    pub fn must_save(&self) -> (Option<Origin>, u32, usize) {
        let told = self.writer.as_ref().map_or(0, Writer::told_base);
        (self.origin(), told, self.given_back.len() + self.waiting.len())
    }

    /// Submissions without an answer.
    pub fn unanswered(&self) -> usize {
        let written = self.writer.as_ref().map_or(0, |writer| (writer.next() - writer.base()) as usize);
        written + self.given_back.len() + self.waiting.len()
    }

    /// Whether nothing is known to be missing.
    pub fn is_up_to_date(&self) -> bool {
        self.handle.is_some() && !self.reader.is_behind()
    }

    /// Writes; the nonce names the submission in what is told of it.
    pub fn submit(&mut self, nonce: u32, content: Content) {
        self.waiting.push_back(Unanswered { nonce, content });
        self.flush();
    }

    /// Opens a streamed message under a key that this log has not used.
    pub fn begin(&mut self, key: u32, content: Content) {
        self.texts.insert(key, Text { content, text: String::new(), end: None });
        self.begin_stream(key);
    }

    /// Adds to its text.
    pub fn part(&mut self, key: u32, text: &str) {
        if let Some(author) = self.texts.get_mut(&key) {
            let offset = author.text.len();
            author.text.push_str(text);
            self.send_text(key, offset);
        }
    }

    /// Ends it.
    pub fn end(&mut self, key: u32, nonce: u32) {
        if let Some(author) = self.texts.get_mut(&key) {
            author.end = Some(nonce);
            let body = Bytes::copy_from_slice(&(author.text.len() as u32).to_be_bytes());
            let (kind, target) = (EventKind::End, key.into());
            self.submit(nonce, Content { kind, version: 0, flags: 0, target, body });
        }
    }

    /// There is no session any more.
    pub fn detach(&mut self) {
        (self.handle, self.spare, self.asked, self.ask_at) = (None, None, None, None);
        self.controls.clear();
        self.records.clear();
        self.begun.clear();
        self.reader.detach();
        if let Some(writer) = &mut self.writer {
            writer.detach();
        }
    }

    // ---- for the browser

    pub(super) fn follow(&self) -> Follow {
        self.reader.position().map_or(Follow::New, Follow::From)
    }

    pub(super) fn handle(&self) -> Option<u16> {
        self.handle
    }

    pub(super) fn joined(&mut self, now: Instant, handle: u16, log: Log) {
        if self.handle == Some(handle) {
            // A refreshed token: nothing changes, and the origin is the one that was given before.
            return;
        }
        self.detach();
        (self.handle, self.now) = (Some(handle), Some(now));
        self.reader.attach(now);
        self.spare = Some(log.origin);
        match &mut self.writer {
            Some(writer) if !writer.is_idle() => {
                let (origin, base) = (Some(writer.origin()), Some(writer.base()));
                writer.attach();
                let id = self.request();
                self.asked = Some(id);
                self.controls.push_back(ClientControl::Writer { id, origin, base });
                self.flush();
                self.begin_streams();
            }
            _ => self.begin_anew(),
        }
    }

    /// Whether the message was for the log.
    pub(super) fn handle_control(&mut self, now: Instant, control: &ServerControl) -> bool {
        self.now = Some(now);
        match control {
            ServerControl::Writer { id, origin, .. } if self.asked == Some(*id) => {
                self.asked = None;
                let is_known = self.writer.as_ref().is_some_and(|writer| writer.origin() == *origin);
                if !is_known {
                    self.spare = Some(*origin);
                }
                self.replace_writer();
                true
            }
            ServerControl::Refused { id: Some(id), code, retry_after_ms, .. } if self.asked == Some(*id) => {
                self.asked = None;
                if *code == Code::BadOrigin {
                    // Whatever was written with it, another user has it now.
                    if let Some(writer) = self.writer.take() {
                        let Outbox { base, unanswered, .. } = writer.outbox();
                        self.given_back.extend((base..).zip(unanswered));
                    }
                    self.begin_anew();
                } else {
                    let wait = retry_after_ms.map_or(ASK_AGAIN, Duration::from_millis);
                    self.ask_at = Some(now + wait);
                }
                true
            }
            _ => false,
        }
    }

    pub(super) fn handle_gap(&mut self) {
        self.reader.handle_gap();
    }

    pub(super) fn handle_message(
        &mut self,
        now: Instant,
        message: Bytes,
        told: &mut Vec<LogEvent>,
    ) -> Result<(), LogError> {
        self.now = Some(now);
        let mut items = Vec::new();
        let mut rest = Vec::new();
        for record in record::read_server(message) {
            let record = record?;
            self.write(now, &record, told);
            match record {
                ServerRecord::Event(event) => items.push(Item::Event(event)),
                ServerRecord::Head(position) => items.push(Item::Head(position)),
                ServerRecord::Answer { id, last } => items.push(Item::Answer { id, last }),
                ServerRecord::Snapshot(json) => {
                    items.push(Item::Snapshot(serde_json::from_slice(&inflate(&json)?)?));
                }
                ServerRecord::Page(id, json) => {
                    rest.push(LogEvent::Page(id, serde_json::from_slice(&inflate(&json)?)?));
                }
                ServerRecord::Stream(stream) => rest.push(LogEvent::Stream(stream)),
                ServerRecord::Text { stream, offset, text } => {
                    rest.push(LogEvent::Text { stream, offset, text });
                }
                ServerRecord::Ended { stream, seq } => rest.push(LogEvent::Ended { stream, seq }),
                ServerRecord::Status(code) => rest.push(LogEvent::Status(code)),
                ServerRecord::Have { origin, key, offset } => self.have(origin, key, offset as usize),
                _ => {}
            }
        }
        for news in self.reader.handle(items) {
            told.push(match news {
                News::Event(event) => LogEvent::Event(event),
                News::Snapshot(snapshot) => LogEvent::Snapshot(snapshot),
                News::Answered { id, last, events } => LogEvent::Answered { id, last, events },
            });
        }
        told.append(&mut rest);
        Ok(())
    }

    /// The next control message to send.
    pub(super) fn poll_control(&mut self, now: Instant) -> Option<ClientControl> {
        self.handle?;
        if self.ask_at.is_some_and(|at| at <= now) {
            self.ask_at = None;
            self.ask();
        }
        if let Some(after) = self.reader.poll(now) {
            let id = self.request();
            self.controls.push_back(ClientControl::Pull { id, after });
        }
        self.controls.pop_front()
    }

    /// The next LOG message to send.
    pub(super) fn poll_message(&mut self, now: Instant) -> Option<Bytes> {
        self.handle?;
        let mut message = BytesMut::new();
        while message.len() < MESSAGE_BYTES {
            let submission = || self.writer.as_mut()?.poll(now).map(ClientRecord::Submit);
            let Some(record) = self.records.pop_front().or_else(submission) else { break };
            record.put(&mut message);
        }
        (!message.is_empty()).then(|| message.freeze())
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.handle?;
        let writer = self.writer.as_ref().and_then(Writer::poll_timeout);
        [writer, self.reader.poll_timeout(), self.ask_at].into_iter().flatten().min()
    }

    // ---- writing

    fn write(&mut self, now: Instant, record: &ServerRecord, told: &mut Vec<LogEvent>) {
        let Some(writer) = &mut self.writer else { return };
        let origin = writer.origin();
        match writer.handle(now, record) {
            None => {}
            Some(Told::Accepted { cseq, nonce, seq }) => {
                told.push(LogEvent::Accepted { nonce, origin, cseq, seq });
                self.texts.retain(|_, text| text.end != Some(nonce));
            }
            Some(Told::Refused { nonce, code, .. }) => {
                told.push(LogEvent::Refused { nonce, code });
                self.texts.retain(|_, text| text.end != Some(nonce));
            }
            Some(Told::Waits { code, .. }) => told.push(LogEvent::Waits(code)),
            Some(Told::Conflict { cseq, unanswered }) => {
                told.push(LogEvent::Conflict(unanswered.nonce));
                self.given_back.insert(cseq, unanswered);
            }
        }
        self.replace_writer();
    }

    /// After a conflict, when everything else has its answer: what was given back is written anew.
    fn replace_writer(&mut self) {
        let is_done = self.writer.as_ref().is_none_or(|writer| writer.is_closed() && writer.is_idle());
        if is_done && self.handle.is_some() && self.asked.is_none() {
            self.begin_anew();
        }
    }

    /// Gives what waits to the writer, if that takes it.
    fn flush(&mut self) {
        let Some(writer) = self.writer.as_mut().filter(|writer| !writer.is_closed()) else { return };
        while let Some(Unanswered { nonce, content }) = self.waiting.pop_front() {
            if writer.submit(nonce, content.clone()).is_none() {
                return self.waiting.push_front(Unanswered { nonce, content });
            }
        }
    }

    /// Writes with a fresh origin, or asks for one.
    fn begin_anew(&mut self) {
        let Some(origin) = self.spare.take() else {
            return self.ask();
        };
        for (_, unanswered) in std::mem::take(&mut self.given_back).into_iter().rev() {
            self.waiting.push_front(unanswered);
        }
        let mut writer = Writer::new(origin);
        writer.attach();
        self.writer = Some(writer);
        // A stream belongs to its origin.
        self.begin_streams();
        self.flush();
    }

    fn ask(&mut self) {
        let id = self.request();
        self.asked = Some(id);
        let writer = self.writer.as_ref().filter(|writer| !writer.is_closed() || !writer.is_idle());
        let (origin, base) = (writer.map(Writer::origin), writer.map(Writer::base));
        self.controls.push_back(ClientControl::Writer { id, origin, base });
    }

    /// Numbers of its own, apart from those that the browser gives to others.
    fn request(&mut self) -> u32 {
        self.next_request = self.next_request.wrapping_add(1);
        self.next_request | 1 << 31
    }

    // ---- streams

    /// Those that go on. One that only waits for its end is sent when the server asks for it: only a few may be open.
    fn begin_streams(&mut self) {
        let open = self.texts.iter().filter(|(_, text)| text.end.is_none());
        for key in open.map(|(key, _)| *key).collect::<Vec<_>>() {
            self.begin_stream(key);
        }
    }

    fn begin_stream(&mut self, key: u32) {
        let Some(origin) = self.origin().filter(|_| self.handle.is_some()) else { return };
        if let Some(author) = self.texts.get(&key) {
            let content = author.content.clone();
            self.begun.extend(self.now.map(|now| (key, now)));
            self.records.push_back(ClientRecord::Begin { origin, key, content });
            self.send_text(key, 0);
        }
    }

    fn have(&mut self, origin: Origin, key: u32, offset: usize) {
        let is_short = self.texts.get(&key).is_some_and(|author| offset < author.text.len());
        if self.origin() == Some(origin) && is_short {
            let begun = self.begun.get(&key).copied();
            let is_late = self.now.zip(begun).is_none_or(|(now, begun)| now >= begun + BEGIN_AGAIN);
            match offset {
                0 if is_late => self.begin_stream(key),
                0 => {}
                offset => self.send_text(key, offset),
            }
        }
    }

    fn send_text(&mut self, key: u32, offset: usize) {
        let Some(author) = self.texts.get(&key) else { return };
        let Some(origin) = self.origin().filter(|_| self.handle.is_some()) else { return };
        let mut offset = offset;
        while offset < author.text.len() {
            let mut end = author.text.len().min(offset + PART_BYTES);
            while !author.text.is_char_boundary(end) {
                end -= 1;
            }
            let Some(text) = author.text.get(offset..end) else { return };
            let text = Bytes::copy_from_slice(text.as_bytes());
            self.records.push_back(ClientRecord::Part { origin, key, offset: offset as u32, text });
            offset = end;
        }
    }
}

/// Why a LOG message could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// A record does not parse.
    #[error("record: {0}")]
    Record(#[from] RecordError),
    /// It does not inflate.
    #[error("compressed JSON: {0}")]
    Inflate(#[from] std::io::Error),
    /// It is not the JSON of the protocol.
    #[error("JSON: {0}")]
    Json(#[from] serde_json::Error),
}

fn inflate(json: &Json) -> Result<Bytes, LogError> {
    if json.encoding == 0 {
        return Ok(json.bytes.clone());
    }
    let mut out = Vec::new();
    flate2::read::DeflateDecoder::new(&json.bytes[..]).take(INFLATED_BYTES).read_to_end(&mut out)?;
    Ok(out.into())
}
