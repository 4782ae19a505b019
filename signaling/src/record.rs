//! Records: what LOG frames carry, section 9.2 of `docs/protocol.md`.
//!
//! Reading borrows nothing and copies no body: bodies are slices of the message. A record that is too short or has a
//! name that is not UTF-8 makes the rest of its message unreadable ([`RecordError`]); a record with an unknown tag is
//! skipped. What records *mean* is the business of `writer.rs` and `reader.rs` in a client, and of `src/room/log.rs`
//! in the server.

use bytes::{Buf as _, BufMut, Bytes, BytesMut};

use crate::event::{Content, Event, EventKind, Origin, Position, Submission};

/// Bytes before each record's body.
pub const HEADER_BYTES: usize = 5;

const SUBMIT: u8 = 0x01;
const BEGIN: u8 = 0x02;
const PART: u8 = 0x03;
const EVENT: u8 = 0x81;
const HEAD: u8 = 0x82;
const ACCEPTED: u8 = 0x83;
const REFUSED: u8 = 0x84;
const EXPECTED: u8 = 0x85;
const CONFLICT: u8 = 0x86;
const SNAPSHOT: u8 = 0x87;
const PAGE: u8 = 0x88;
const ANSWER: u8 = 0x89;
const STREAM: u8 = 0x8a;
const TEXT: u8 = 0x8b;
const ENDED: u8 = 0x8c;
const HAVE: u8 = 0x8d;
const STATUS: u8 = 0x8e;

/// Why records do not parse; the code is `bad_frame`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// A length runs past the end.
    #[error("the message ends inside a record")]
    Truncated,
    /// A name, a code or a text is not UTF-8.
    #[error("a name or text in a record is not UTF-8")]
    NotUtf8,
    /// The kind of the content is none of the protocol's.
    #[error("unknown kind of event: {0}")]
    Kind(u8),
}

/// A record from a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientRecord {
    /// A submission to the log.
    Submit(Submission),
    /// Opens a streamed message.
    Begin {
        /// Whose.
        origin: Origin,
        /// Names the stream, once per origin.
        key: u32,
        /// The message without its text.
        content: Content,
    },
    /// A piece of its text.
    Part {
        /// Whose.
        origin: Origin,
        /// Which stream.
        key: u32,
        /// Bytes of text before it.
        offset: u32,
        /// UTF-8.
        text: Bytes,
    },
}

/// A record from the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerRecord {
    /// An entry of the log.
    Event(Event),
    /// The position behind the last event of this message.
    Head(Position),
    /// The submission is this event.
    Accepted {
        /// Whose.
        origin: Origin,
        /// Which.
        cseq: u32,
        /// The event.
        seq: u64,
    },
    /// The submission is refused for good.
    Refused {
        /// Whose.
        origin: Origin,
        /// Which.
        cseq: u32,
        /// Stable.
        code: String,
        /// For people.
        sentence: String,
    },
    /// The writer is to go on from `cseq`, and not before `retry_after_ms`.
    Expected {
        /// Whose.
        origin: Origin,
        /// From here.
        cseq: u32,
        /// Not before.
        retry_after_ms: u32,
        /// Why.
        code: String,
    },
    /// Another submission has this number.
    Conflict {
        /// Whose.
        origin: Origin,
        /// Which.
        cseq: u32,
    },
    /// The newest messages in place of the events before.
    Snapshot(Json),
    /// The answer to a `history`.
    Page(u32, Json),
    /// The events of this message answer a `replay`.
    Answer {
        /// The request.
        id: u32,
        /// Whether these are all.
        last: bool,
    },
    /// A streamed message that is in progress.
    Stream(Stream),
    /// A piece of its text.
    Text {
        /// Which.
        stream: u32,
        /// Bytes of text before it.
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
    /// The author is to send from this offset.
    Have {
        /// Whose.
        origin: Origin,
        /// Which.
        key: u32,
        /// From here.
        offset: u32,
    },
    /// Whether writing works; the code says why it does not.
    Status(Option<String>),
}

/// JSON that may be compressed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Json {
    /// 0: plain. 1: raw DEFLATE.
    pub encoding: u8,
    /// As encoded.
    pub bytes: Bytes,
}

/// A streamed message that is in progress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream {
    /// Names it in the room.
    pub stream: u32,
    /// Whose.
    pub origin: Origin,
    /// The author's name for it.
    pub key: u32,
    /// The author.
    pub user: String,
    /// The author's display name.
    pub name: String,
    /// The message without its text.
    pub content: Content,
    /// What has come so far.
    pub text: Bytes,
}

/// Reads a client's records.
pub fn read_client(message: Bytes) -> Records<ClientRecord> {
    Records { rest: message, decode: decode_client }
}

/// Reads the server's records.
pub fn read_server(message: Bytes) -> Records<ServerRecord> {
    Records { rest: message, decode: decode_server }
}

/// Reads records one after the other; those of unknown kind are left out.
#[derive(Debug)]
pub struct Records<R> {
    rest: Bytes,
    decode: fn(u8, Reader) -> Result<Option<R>, RecordError>,
}

impl<R> Iterator for Records<R> {
    type Item = Result<R, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.rest.is_empty() {
            let result = split(&mut self.rest).and_then(|(tag, body)| (self.decode)(tag, Reader(body)));
            match result {
                Ok(Some(record)) => return Some(Ok(record)),
                Ok(None) => {}
                Err(error) => {
                    self.rest.clear();
                    return Some(Err(error));
                }
            }
        }
        None
    }
}

fn split(rest: &mut Bytes) -> Result<(u8, Bytes), RecordError> {
    if rest.len() < HEADER_BYTES {
        return Err(RecordError::Truncated);
    }
    let (tag, length) = (rest.get_u8(), rest.get_u32() as usize);
    if rest.len() < length {
        return Err(RecordError::Truncated);
    }
    Ok((tag, rest.split_to(length)))
}

fn decode_client(tag: u8, mut reader: Reader) -> Result<Option<ClientRecord>, RecordError> {
    Ok(Some(match tag {
        SUBMIT => {
            let (origin, cseq) = reader.identity()?;
            let (base, nonce) = (reader.u32()?, reader.u32()?);
            let content = reader.content()?.with(reader.0);
            ClientRecord::Submit(Submission { origin, cseq, base, nonce, content })
        }
        BEGIN => {
            let (origin, key) = reader.identity()?;
            ClientRecord::Begin { origin, key, content: reader.content()?.with(reader.0) }
        }
        PART => {
            let (origin, key) = reader.identity()?;
            let offset = reader.u32()?;
            ClientRecord::Part { origin, key, offset, text: reader.text()? }
        }
        _ => return Ok(None),
    }))
}

fn decode_server(tag: u8, mut reader: Reader) -> Result<Option<ServerRecord>, RecordError> {
    Ok(Some(match tag {
        EVENT => {
            let (seq, at) = (reader.u64()?, reader.u64()?);
            let (origin, cseq) = reader.identity()?;
            let content = reader.content()?;
            let (user, name) = (reader.name()?, reader.name()?);
            ServerRecord::Event(Event { seq, at, origin, cseq, user, name, content: content.with(reader.0) })
        }
        HEAD => {
            let (epoch, seq) = (reader.u32()?, reader.u64()?);
            ServerRecord::Head(Position { epoch, seq, digest: reader.u64()?, proof: reader.u64()? })
        }
        ACCEPTED => {
            let (origin, cseq) = reader.identity()?;
            ServerRecord::Accepted { origin, cseq, seq: reader.u64()? }
        }
        REFUSED => {
            let (origin, cseq) = reader.identity()?;
            let code = reader.name()?;
            ServerRecord::Refused { origin, cseq, code, sentence: utf8(&reader.0)?.to_owned() }
        }
        EXPECTED => {
            let (origin, cseq) = reader.identity()?;
            let retry_after_ms = reader.u32()?;
            ServerRecord::Expected { origin, cseq, retry_after_ms, code: reader.name()? }
        }
        CONFLICT => {
            let (origin, cseq) = reader.identity()?;
            ServerRecord::Conflict { origin, cseq }
        }
        SNAPSHOT => ServerRecord::Snapshot(Json { encoding: reader.u8()?, bytes: reader.0 }),
        PAGE => {
            let id = reader.u32()?;
            ServerRecord::Page(id, Json { encoding: reader.u8()?, bytes: reader.0 })
        }
        ANSWER => ServerRecord::Answer { id: reader.u32()?, last: reader.u8()? != 0 },
        STREAM => {
            let stream = reader.u32()?;
            let (origin, key) = reader.identity()?;
            let content = reader.content()?;
            let (user, name) = (reader.name()?, reader.name()?);
            let length = reader.u32()? as usize;
            let content = content.with(reader.take(length)?);
            ServerRecord::Stream(Stream { stream, origin, key, user, name, content, text: reader.text()? })
        }
        TEXT => {
            let (stream, offset) = (reader.u32()?, reader.u32()?);
            ServerRecord::Text { stream, offset, text: reader.text()? }
        }
        ENDED => ServerRecord::Ended { stream: reader.u32()?, seq: reader.u64()? },
        HAVE => {
            let (origin, key) = reader.identity()?;
            ServerRecord::Have { origin, key, offset: reader.u32()? }
        }
        STATUS => {
            let state = reader.u8()?;
            let code = reader.name()?;
            ServerRecord::Status((state != 0).then_some(code))
        }
        _ => return Ok(None),
    }))
}

struct Reader(Bytes);

/// A content whose body comes later in the record.
struct ContentHeader {
    kind: EventKind,
    version: u8,
    flags: u8,
    target: u64,
}

impl ContentHeader {
    fn with(self, body: Bytes) -> Content {
        let Self { kind, version, flags, target } = self;
        Content { kind, version, flags, target, body }
    }
}

impl Reader {
    fn take(&mut self, length: usize) -> Result<Bytes, RecordError> {
        if self.0.len() < length {
            return Err(RecordError::Truncated);
        }
        Ok(self.0.split_to(length))
    }

    fn u8(&mut self) -> Result<u8, RecordError> {
        Ok(self.take(1)?.get_u8())
    }

    fn u32(&mut self) -> Result<u32, RecordError> {
        Ok(self.take(4)?.get_u32())
    }

    fn u64(&mut self) -> Result<u64, RecordError> {
        Ok(self.take(8)?.get_u64())
    }

    fn identity(&mut self) -> Result<(Origin, u32), RecordError> {
        Ok((Origin(self.u64()?), self.u32()?))
    }

    fn content(&mut self) -> Result<ContentHeader, RecordError> {
        let kind = self.u8()?;
        let kind = EventKind::from_wire(kind).ok_or(RecordError::Kind(kind))?;
        Ok(ContentHeader { kind, version: self.u8()?, flags: self.u8()?, target: self.u64()? })
    }

    fn name(&mut self) -> Result<String, RecordError> {
        let length = self.u8()? as usize;
        Ok(utf8(&self.take(length)?)?.to_owned())
    }

    fn text(self) -> Result<Bytes, RecordError> {
        utf8(&self.0)?;
        Ok(self.0)
    }
}

fn utf8(bytes: &[u8]) -> Result<&str, RecordError> {
    std::str::from_utf8(bytes).map_err(|_| RecordError::NotUtf8)
}

impl ClientRecord {
    /// Appends the record.
    pub fn put(&self, out: &mut BytesMut) {
        match self {
            Self::Submit(submission) => {
                let Submission { origin, cseq, base, nonce, content } = submission;
                record(out, SUBMIT, |out| {
                    put_identity(out, *origin, *cseq);
                    out.put_u32(*base);
                    out.put_u32(*nonce);
                    put_content(out, content);
                    out.put_slice(&content.body);
                });
            }
            Self::Begin { origin, key, content } => record(out, BEGIN, |out| {
                put_identity(out, *origin, *key);
                put_content(out, content);
                out.put_slice(&content.body);
            }),
            Self::Part { origin, key, offset, text } => record(out, PART, |out| {
                put_identity(out, *origin, *key);
                out.put_u32(*offset);
                out.put_slice(text);
            }),
        }
    }
}

impl ServerRecord {
    /// Appends the record.
    pub fn put(&self, out: &mut BytesMut) {
        match self {
            Self::Event(event) => put_event(out, event),
            Self::Head(position) => record(out, HEAD, |out| {
                out.put_u32(position.epoch);
                out.put_u64(position.seq);
                out.put_u64(position.digest);
                out.put_u64(position.proof);
            }),
            Self::Accepted { origin, cseq, seq } => record(out, ACCEPTED, |out| {
                put_identity(out, *origin, *cseq);
                out.put_u64(*seq);
            }),
            Self::Refused { origin, cseq, code, sentence } => record(out, REFUSED, |out| {
                put_identity(out, *origin, *cseq);
                put_name(out, code);
                out.put_slice(sentence.as_bytes());
            }),
            Self::Expected { origin, cseq, retry_after_ms, code } => record(out, EXPECTED, |out| {
                put_identity(out, *origin, *cseq);
                out.put_u32(*retry_after_ms);
                put_name(out, code);
            }),
            Self::Conflict { origin, cseq } => {
                record(out, CONFLICT, |out| put_identity(out, *origin, *cseq));
            }
            Self::Snapshot(json) => record(out, SNAPSHOT, |out| put_json(out, json)),
            Self::Page(id, json) => record(out, PAGE, |out| {
                out.put_u32(*id);
                put_json(out, json);
            }),
            Self::Answer { id, last } => record(out, ANSWER, |out| {
                out.put_u32(*id);
                out.put_u8(u8::from(*last));
            }),
            Self::Stream(stream) => record(out, STREAM, |out| {
                out.put_u32(stream.stream);
                put_identity(out, stream.origin, stream.key);
                put_content(out, &stream.content);
                put_name(out, &stream.user);
                put_name(out, &stream.name);
                out.put_u32(stream.content.body.len() as u32);
                out.put_slice(&stream.content.body);
                out.put_slice(&stream.text);
            }),
            Self::Text { stream, offset, text } => record(out, TEXT, |out| {
                out.put_u32(*stream);
                out.put_u32(*offset);
                out.put_slice(text);
            }),
            Self::Ended { stream, seq } => record(out, ENDED, |out| {
                out.put_u32(*stream);
                out.put_u64(*seq);
            }),
            Self::Have { origin, key, offset } => record(out, HAVE, |out| {
                put_identity(out, *origin, *key);
                out.put_u32(*offset);
            }),
            Self::Status(code) => record(out, STATUS, |out| {
                out.put_u8(u8::from(code.is_some()));
                put_name(out, code.as_deref().unwrap_or_default());
            }),
        }
    }
}

/// Appends an EVENT; what a server does for each of thousands a second.
pub fn put_event(out: &mut BytesMut, event: &Event) {
    record(out, EVENT, |out| {
        out.put_u64(event.seq);
        out.put_u64(event.at);
        put_identity(out, event.origin, event.cseq);
        put_content(out, &event.content);
        put_name(out, &event.user);
        put_name(out, &event.name);
        out.put_slice(&event.content.body);
    });
}

/// Bytes that [`put_event`] appends.
pub fn event_len(event: &Event) -> usize {
    HEADER_BYTES + 28 + 11 + 2 + event.user.len() + event.name.len() + event.content.body.len()
}

fn record(out: &mut BytesMut, tag: u8, body: impl FnOnce(&mut BytesMut)) {
    out.put_u8(tag);
    let at = out.len();
    out.put_u32(0);
    body(out);
    let length = (out.len() - at - 4) as u32;
    out[at..at + 4].copy_from_slice(&length.to_be_bytes());
}

fn put_identity(out: &mut BytesMut, origin: Origin, number: u32) {
    out.put_u64(origin.0);
    out.put_u32(number);
}

fn put_content(out: &mut BytesMut, content: &Content) {
    out.put_u8(content.kind as u8);
    out.put_u8(content.version);
    out.put_u8(content.flags);
    out.put_u64(content.target);
}

/// Names have at most [`crate::limits::USER_BYTES`], codes less; a longer one is cut at a character's end.
fn put_name(out: &mut BytesMut, name: &str) {
    let fits = |end: &usize| name.is_char_boundary(*end);
    let name = &name[..(0..=name.len().min(255)).rev().find(fits).unwrap_or(0)];
    out.put_u8(name.len() as u8);
    out.put_slice(name.as_bytes());
}

fn put_json(out: &mut BytesMut, json: &Json) {
    out.put_u8(json.encoding);
    out.put_slice(&json.bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(kind: EventKind) -> Content {
        Content { kind, version: 3, flags: 1, target: 1 << 40, body: Bytes::from_static(b"{}") }
    }

    fn client_records() -> Vec<ClientRecord> {
        let origin = Origin(0xfeed_0000_0000_0001);
        vec![
            ClientRecord::Submit(Submission {
                origin,
                cseq: 7,
                base: 5,
                nonce: 9,
                content: content(EventKind::Edit),
            }),
            ClientRecord::Begin { origin, key: 2, content: content(EventKind::Chat) },
            ClientRecord::Part { origin, key: 2, offset: 10, text: "größer".into() },
        ]
    }

    fn server_records() -> Vec<ServerRecord> {
        let origin = Origin(1);
        let json = Json { encoding: 1, bytes: Bytes::from_static(b"\x03\x00") };
        vec![
            ServerRecord::Event(Event {
                seq: 1 << 33,
                at: 1_700_000_000_000,
                origin,
                cseq: 1,
                user: "ann".into(),
                name: "Ånn".into(),
                content: content(EventKind::Chat),
            }),
            ServerRecord::Head(Position { epoch: 1, seq: 2, digest: 3, proof: u64::MAX }),
            ServerRecord::Accepted { origin, cseq: 1, seq: 2 },
            ServerRecord::Refused { origin, cseq: 1, code: "forbidden".into(), sentence: "no".into() },
            ServerRecord::Expected { origin, cseq: 1, retry_after_ms: 20, code: "loading".into() },
            ServerRecord::Conflict { origin, cseq: 1 },
            ServerRecord::Snapshot(json.clone()),
            ServerRecord::Page(4, json),
            ServerRecord::Answer { id: 4, last: true },
            ServerRecord::Stream(Stream {
                stream: 1,
                origin,
                key: 2,
                user: "ann".into(),
                name: String::new(),
                content: content(EventKind::Chat),
                text: "so far".into(),
            }),
            ServerRecord::Text { stream: 1, offset: 6, text: "!".into() },
            ServerRecord::Ended { stream: 1, seq: 9 },
            ServerRecord::Have { origin, key: 2, offset: 6 },
            ServerRecord::Status(None),
            ServerRecord::Status(Some("storage_unavailable".into())),
        ]
    }

    #[test]
    fn records_read_back_as_they_were_written_and_unknown_ones_are_skipped() {
        let mut out = BytesMut::new();
        for record in client_records() {
            out.put_slice(&[0x70, 0, 0, 0, 2, 1, 2]);
            record.put(&mut out);
        }
        let read: Result<Vec<_>, _> = read_client(out.freeze()).collect();
        assert_eq!(read.unwrap(), client_records());
        let mut out = BytesMut::new();
        for record in server_records() {
            out.put_slice(&[0xf0, 0, 0, 0, 0]);
            record.put(&mut out);
        }
        let read: Result<Vec<_>, _> = read_server(out.freeze()).collect();
        assert_eq!(read.unwrap(), server_records());
    }

    #[test]
    fn an_event_has_the_length_that_is_foretold() {
        let ServerRecord::Event(event) = &server_records()[0] else { unreachable!() };
        let mut out = BytesMut::new();
        put_event(&mut out, event);
        assert_eq!(out.len(), event_len(event));
    }

    #[test]
    fn a_record_that_is_cut_short_ends_the_reading() {
        for record in client_records() {
            let mut out = BytesMut::new();
            record.put(&mut out);
            // The body of a submission may have any length; what is in front of it may not.
            let fixed = HEADER_BYTES + 16;
            for length in 1..fixed {
                let mut cut = out.clone();
                cut.truncate(length);
                if length >= HEADER_BYTES {
                    cut[1..5].copy_from_slice(&((length - HEADER_BYTES) as u32).to_be_bytes());
                }
                let read: Vec<_> = read_client(cut.freeze()).collect();
                assert!(matches!(read[..], [Err(_)]), "{length}: {read:?}");
            }
        }
        let mut out = BytesMut::new();
        record(&mut out, PART, |out| out.put_slice(&[0; 16]));
        assert_eq!(read_client(out.clone().freeze()).count(), 1);
        out.truncate(3);
        assert_eq!(read_client(out.freeze()).last(), Some(Err(RecordError::Truncated)));
    }

    #[test]
    fn a_kind_that_is_none_and_a_text_that_is_not_utf8_are_refused() {
        let mut out = BytesMut::new();
        client_records()[0].put(&mut out);
        out[HEADER_BYTES + 20] = 77;
        assert_eq!(read_client(out.freeze()).last(), Some(Err(RecordError::Kind(77))));
        let mut out = BytesMut::new();
        record(&mut out, PART, |out| out.put_slice(&[0xff; 17]));
        assert_eq!(read_client(out.freeze()).last(), Some(Err(RecordError::NotUtf8)));
    }
}
