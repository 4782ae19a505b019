//! Binary frames and the pipe messages that hold them: section 3 of `docs/protocol.md`.
//!
//! Reading never allocates for what it has not checked and never panics; writing appends to a buffer that the caller
//! keeps. What a frame *means* is decided in [`crate::lane`] and by the server's session.

use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};

use crate::limits;

/// Bytes of the length before each frame in a pipe message.
pub const LENGTH_BYTES: usize = 2;

/// The nonce of a PING that tells of a doubt: the sender hears nothing on the data channel (section 3.2). Probes begin at 1.
pub const DOUBT_NONCE: u32 = 0;

const DATA: u8 = 0x01;
const CONTROL: u8 = 0x02;
const GAP: u8 = 0x03;
const LOG: u8 = 0x04;
const LOSSY: u8 = 0x10;
const ACK: u8 = 0x20;
const PING: u8 = 0x21;
const PONG: u8 = 0x22;
const ATTACH: u8 = 0x23;
const ATTACHED: u8 = 0x24;

const TEXT: u8 = 1;
const FIRST: u8 = 2;
const LAST: u8 = 4;

/// Why a pipe message or frame does not parse; the code is `bad_frame`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A length runs past the end.
    #[error("the message ends inside a frame")]
    Truncated,
    /// Flags with undefined bits, or a first chunk that is longer than its message.
    #[error("the frame contradicts itself")]
    Contradiction,
    /// A name is not UTF-8.
    #[error("a user or topic is not UTF-8")]
    NotUtf8,
    /// A name, a list of names or a payload is empty or above its limit.
    #[error("a name, a list of names or a payload has a length that is not allowed")]
    Length,
}

/// Where a message goes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Target {
    /// Every member but the sender.
    Room,
    /// All sessions of these users in the room; empty when it has reached one of them.
    Users(Vec<String>),
    /// The members that subscribed to the topic.
    Topic(String),
}

impl Target {
    fn encoded_len(&self) -> usize {
        match self {
            Self::Room => 1,
            Self::Users(users) => 2 + users.iter().map(|user| 1 + user.len()).sum::<usize>(),
            Self::Topic(topic) => 2 + topic.len(),
        }
    }

    fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::Room => out.put_u8(0),
            Self::Users(users) => {
                out.put_u8(1);
                out.put_u8(users.len() as u8);
                for user in users {
                    out.put_u8(user.len() as u8);
                    out.put_slice(user.as_bytes());
                }
            }
            Self::Topic(topic) => {
                out.put_u8(2);
                out.put_u8(topic.len() as u8);
                out.put_slice(topic.as_bytes());
            }
        }
    }

    /// Whether the target can be put into a frame: names of allowed length, not too many of them.
    pub fn is_encodable(&self) -> bool {
        let name = |name: &String, most| (1..=most).contains(&name.len());
        match self {
            Self::Room => true,
            Self::Users(users) => {
                users.len() <= limits::TARGET_USERS && users.iter().all(|user| name(user, limits::USER_BYTES))
            }
            Self::Topic(topic) => name(topic, limits::TOPIC_BYTES),
        }
    }
}

/// Which kind of reliable message a chunk belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// An application's message.
    Data,
    /// A control message, JSON.
    Control,
    /// Records of a room's log.
    Log,
}

impl Kind {
    fn to_wire(self) -> u8 {
        match self {
            Self::Data => DATA,
            Self::Control => CONTROL,
            Self::Log => LOG,
        }
    }
}

/// A chunk of a reliable message, without the payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkHeader {
    /// Data, control or log.
    pub kind: Kind,
    /// The payload is UTF-8.
    pub text: bool,
    /// The room's handle in this session.
    pub room: u16,
    /// Member number of the author; 0 from a client.
    pub sender: u32,
    /// The author's stream.
    pub stream: u16,
    /// On the first chunk: where the message goes and how many bytes it has.
    pub first: Option<(Target, usize)>,
    /// Whether this is the last chunk.
    pub last: bool,
}

/// What a reliable frame carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reliable {
    /// A chunk of a message.
    Chunk(ChunkHeader, Bytes),
    /// `count` messages are missing at this place of the stream.
    Gap {
        /// The room's handle.
        room: u16,
        /// The author of what is missing.
        sender: u32,
        /// The author's stream.
        stream: u16,
        /// How many messages.
        count: u32,
    },
}

/// A lossy message, without the payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LossyHeader {
    /// The payload is UTF-8.
    pub text: bool,
    /// The room's handle.
    pub room: u16,
    /// Member number of the author; 0 from a client.
    pub sender: u32,
    /// The author's stream.
    pub stream: u16,
    /// Counts the author's lossy messages on the stream, so that receivers can tell older from newer.
    pub seq: u32,
    /// Where it goes.
    pub target: Target,
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A frame of the reliable lane.
    Reliable {
        /// Its number in the lane.
        lane_seq: u32,
        /// The last frame of the other direction received in order.
        ack: u32,
        /// What it carries.
        body: Reliable,
    },
    /// A lossy message.
    Lossy(LossyHeader, Bytes),
    /// The last reliable frame received in order.
    Ack(u32),
    /// Round-trip probe.
    Ping(u32),
    /// Its answer.
    Pong(u32),
    /// The client moves to this pipe.
    Attach {
        /// The pipe's generation.
        generation: u32,
        /// The last reliable frame received in order.
        ack: u32,
    },
    /// The server has moved to this pipe.
    Attached {
        /// The pipe's generation.
        generation: u32,
        /// The last reliable frame received in order.
        ack: u32,
    },
}

/// Reads the frames of a pipe message, one after the other; frames of unknown kind are left out and counted.
///
/// Payloads are slices of the message, not copies.
#[derive(Debug)]
pub struct Frames {
    rest: Bytes,
    /// Frames of unknown kind met so far.
    pub unknown: u32,
}

impl Frames {
    /// Frames of one pipe message.
    pub fn new(message: Bytes) -> Self {
        Self { rest: message, unknown: 0 }
    }
}

impl Iterator for Frames {
    type Item = Result<Frame, FrameError>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.rest.is_empty() {
            let Some(length) =
                self.rest.first_chunk::<LENGTH_BYTES>().map(|raw| u16::from_be_bytes(*raw) as usize)
            else {
                self.rest.clear();
                return Some(Err(FrameError::Truncated));
            };
            if self.rest.len() < LENGTH_BYTES + length {
                self.rest.clear();
                return Some(Err(FrameError::Truncated));
            }
            let mut frame = self.rest.split_to(LENGTH_BYTES + length);
            let _ = frame.split_to(LENGTH_BYTES);
            match decode(frame) {
                Ok(Some(frame)) => return Some(Ok(frame)),
                Ok(None) => self.unknown += 1,
                Err(error) => {
                    self.rest.clear();
                    return Some(Err(error));
                }
            }
        }
        None
    }
}

/// Reads one frame, without its length; `None` when its kind is unknown.
pub fn decode(frame: Bytes) -> Result<Option<Frame>, FrameError> {
    let mut reader = Reader { rest: frame };
    let frame = match reader.u8()? {
        kind @ (DATA | CONTROL | LOG) => {
            let flags = reader.flags(TEXT | FIRST | LAST)?;
            let (lane_seq, ack) = (reader.u32()?, reader.u32()?);
            let (room, sender, stream) = (reader.u16()?, reader.u32()?, reader.u16()?);
            let last = flags & LAST != 0;
            let first = if flags & FIRST != 0 {
                let target = reader.target()?;
                let total = if last { None } else { Some(reader.u32()? as usize) };
                let total = total.unwrap_or(reader.rest.len());
                if !last && total <= reader.rest.len() {
                    return Err(FrameError::Contradiction);
                }
                Some((target, total))
            } else {
                None
            };
            if reader.rest.len() > limits::CHUNK_BYTES
                || (reader.rest.is_empty() && (first.is_none() || !last))
            {
                return Err(FrameError::Length);
            }
            let kind = match kind {
                DATA => Kind::Data,
                CONTROL => Kind::Control,
                _ => Kind::Log,
            };
            let header = ChunkHeader { kind, text: flags & TEXT != 0, room, sender, stream, first, last };
            Frame::Reliable { lane_seq, ack, body: Reliable::Chunk(header, reader.rest) }
        }
        GAP => {
            reader.flags(0)?;
            let (lane_seq, ack) = (reader.u32()?, reader.u32()?);
            let (room, sender, stream) = (reader.u16()?, reader.u32()?, reader.u16()?);
            let body = Reliable::Gap { room, sender, stream, count: reader.u32()? };
            Frame::Reliable { lane_seq, ack, body }
        }
        LOSSY => {
            let text = reader.flags(TEXT)? & TEXT != 0;
            let (room, sender, stream, seq) = (reader.u16()?, reader.u32()?, reader.u16()?, reader.u32()?);
            let target = reader.target()?;
            if reader.rest.len() > limits::LOSSY_BYTES {
                return Err(FrameError::Length);
            }
            Frame::Lossy(LossyHeader { text, room, sender, stream, seq, target }, reader.rest)
        }
        ACK => Frame::Ack(reader.u32()?),
        PING => Frame::Ping(reader.u32()?),
        PONG => Frame::Pong(reader.u32()?),
        ATTACH => Frame::Attach { generation: reader.u32()?, ack: reader.u32()? },
        ATTACHED => Frame::Attached { generation: reader.u32()?, ack: reader.u32()? },
        _ => return Ok(None),
    };
    Ok(Some(frame))
}

/// What frames are appended to: a buffer, or something that leaves long payloads where they are.
pub trait Out {
    /// For everything but payloads.
    fn buffer(&mut self) -> &mut BytesMut;

    /// Appends a part of a payload.
    fn put_payload(&mut self, payload: &Bytes, part: Range<usize>);

    /// Bytes so far.
    fn len(&self) -> usize;

    /// Whether there is nothing yet.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Out for BytesMut {
    fn buffer(&mut self) -> &mut BytesMut {
        self
    }

    fn put_payload(&mut self, payload: &Bytes, part: Range<usize>) {
        self.put_slice(&payload[part]);
    }

    fn len(&self) -> usize {
        self.len()
    }
}

/// Appends a chunk with its length; `payload` is the chunk's, `total` the message's.
#[expect(clippy::too_many_arguments, reason = "the fields of the frame in their order, on the hottest path")]
pub fn put_chunk(
    out: &mut BytesMut,
    kind: Kind,
    text: bool,
    numbers: (u32, u32),
    room: u16,
    sender: u32,
    stream: u16,
    first: Option<(&Target, usize)>,
    last: bool,
    payload: &[u8],
) {
    out.reserve(chunk_len(first.map(|(target, _)| target), payload.len()));
    put_chunk_head(out, kind, text, numbers, room, sender, stream, first, last, payload.len());
    out.put_slice(payload);
}

/// Appends what comes before the payload of a chunk; `payload` bytes have to follow.
#[expect(clippy::too_many_arguments, reason = "the fields of the frame in their order, on the hottest path")]
pub fn put_chunk_head(
    out: &mut BytesMut,
    kind: Kind,
    text: bool,
    (lane_seq, ack): (u32, u32),
    room: u16,
    sender: u32,
    stream: u16,
    first: Option<(&Target, usize)>,
    last: bool,
    payload: usize,
) {
    let mut flags = if text { TEXT } else { 0 };
    let mut length = 18 + payload;
    if let Some((target, _)) = first {
        flags |= FIRST;
        length += target.encoded_len() + if last { 0 } else { 4 };
    }
    if last {
        flags |= LAST;
    }
    out.put_u16(length as u16);
    out.put_u8(kind.to_wire());
    out.put_u8(flags);
    out.put_u32(lane_seq);
    out.put_u32(ack);
    out.put_u16(room);
    out.put_u32(sender);
    out.put_u16(stream);
    if let Some((target, total)) = first {
        target.encode(out);
        if !last {
            out.put_u32(total as u32);
        }
    }
}

/// Bytes that [`put_chunk`] appends at most for a chunk with this payload and target.
pub fn chunk_len(first: Option<&Target>, payload: usize) -> usize {
    LENGTH_BYTES + 18 + first.map_or(0, |target| target.encoded_len() + 4) + payload
}

/// Appends a GAP with its length.
pub fn put_gap(
    out: &mut BytesMut,
    (lane_seq, ack): (u32, u32),
    room: u16,
    sender: u32,
    stream: u16,
    count: u32,
) {
    out.put_u16(22);
    out.put_u8(GAP);
    out.put_u8(0);
    out.put_u32(lane_seq);
    out.put_u32(ack);
    out.put_u16(room);
    out.put_u32(sender);
    out.put_u16(stream);
    out.put_u32(count);
}

/// Appends a lossy message with its length; a target of users is written as "to you, by name" by passing none.
pub fn put_lossy(out: &mut BytesMut, header: &LossyHeader, payload: &[u8]) {
    let length = 14 + header.target.encoded_len() + payload.len();
    out.reserve(LENGTH_BYTES + length);
    out.put_u16(length as u16);
    out.put_u8(LOSSY);
    out.put_u8(if header.text { TEXT } else { 0 });
    out.put_u16(header.room);
    out.put_u32(header.sender);
    out.put_u16(header.stream);
    out.put_u32(header.seq);
    header.target.encode(out);
    out.put_slice(payload);
}

/// Bytes that [`put_lossy`] appends.
pub fn lossy_len(target: &Target, payload: usize) -> usize {
    LENGTH_BYTES + 14 + target.encoded_len() + payload
}

/// Appends an ACK with its length.
pub fn put_ack(out: &mut BytesMut, ack: u32) {
    put_word(out, ACK, ack);
}

/// Appends a PING with its length.
pub fn put_ping(out: &mut BytesMut, nonce: u32) {
    put_word(out, PING, nonce);
}

/// Appends a PONG with its length.
pub fn put_pong(out: &mut BytesMut, nonce: u32) {
    put_word(out, PONG, nonce);
}

/// Appends an ATTACH with its length.
pub fn put_attach(out: &mut BytesMut, generation: u32, ack: u32) {
    put_words(out, ATTACH, generation, ack);
}

/// Appends an ATTACHED with its length.
pub fn put_attached(out: &mut BytesMut, generation: u32, ack: u32) {
    put_words(out, ATTACHED, generation, ack);
}

fn put_word(out: &mut BytesMut, kind: u8, word: u32) {
    out.put_u16(5);
    out.put_u8(kind);
    out.put_u32(word);
}

fn put_words(out: &mut BytesMut, kind: u8, first: u32, second: u32) {
    out.put_u16(9);
    out.put_u8(kind);
    out.put_u32(first);
    out.put_u32(second);
}

struct Reader {
    rest: Bytes,
}

impl Reader {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], FrameError> {
        let array = *self.rest.first_chunk::<N>().ok_or(FrameError::Truncated)?;
        let _ = self.rest.split_to(N);
        Ok(array)
    }

    fn u8(&mut self) -> Result<u8, FrameError> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Result<u16, FrameError> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, FrameError> {
        self.array().map(u32::from_be_bytes)
    }

    fn flags(&mut self, defined: u8) -> Result<u8, FrameError> {
        let flags = self.u8()?;
        if flags & !defined == 0 { Ok(flags) } else { Err(FrameError::Contradiction) }
    }

    fn name(&mut self, most: usize) -> Result<String, FrameError> {
        let length = self.u8()? as usize;
        if length == 0 || length > most {
            return Err(FrameError::Length);
        }
        if self.rest.len() < length {
            return Err(FrameError::Truncated);
        }
        let raw = self.rest.split_to(length);
        std::str::from_utf8(&raw).map(str::to_owned).map_err(|_| FrameError::NotUtf8)
    }

    fn target(&mut self) -> Result<Target, FrameError> {
        match self.u8()? {
            0 => Ok(Target::Room),
            1 => {
                let count = self.u8()? as usize;
                if count > limits::TARGET_USERS {
                    return Err(FrameError::Length);
                }
                (0..count).map(|_| self.name(limits::USER_BYTES)).collect::<Result<_, _>>().map(Target::Users)
            }
            2 => self.name(limits::TOPIC_BYTES).map(Target::Topic),
            _ => Err(FrameError::Contradiction),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(message: BytesMut) -> Vec<Frame> {
        Frames::new(message.freeze()).collect::<Result<_, _>>().unwrap()
    }

    #[test]
    fn every_frame_is_read_as_it_was_written_and_several_share_a_message() {
        let mut out = BytesMut::new();
        let target = Target::Topic("cursors".into());
        put_chunk(&mut out, Kind::Data, true, (7, 9), 2, 3, 4, Some((&target, 5)), true, b"hello");
        put_chunk(&mut out, Kind::Control, true, (8, 9), 0, 0, 0, Some((&Target::Room, 40_000)), false, b"{");
        put_chunk(&mut out, Kind::Data, false, (9, 9), 2, 3, 4, None, true, b"tail");
        put_gap(&mut out, (10, 9), 2, 3, 4, 17);
        let lossy = LossyHeader {
            text: false,
            room: 1,
            sender: 2,
            stream: 3,
            seq: 4,
            target: Target::Users(vec!["ann".into(), "bob".into()]),
        };
        put_lossy(&mut out, &lossy, b"");
        put_ack(&mut out, 1);
        put_ping(&mut out, 2);
        put_pong(&mut out, 3);
        put_attach(&mut out, 4, 5);
        put_attached(&mut out, 6, 7);
        let chunk = |kind, text, room, sender, stream, first, last| ChunkHeader {
            kind,
            text,
            room,
            sender,
            stream,
            first,
            last,
        };
        let reliable = |lane_seq, body| Frame::Reliable { lane_seq, ack: 9, body };
        assert_eq!(
            frames(out),
            [
                reliable(
                    7,
                    Reliable::Chunk(
                        chunk(Kind::Data, true, 2, 3, 4, Some((target, 5)), true),
                        "hello".into()
                    )
                ),
                reliable(
                    8,
                    Reliable::Chunk(
                        chunk(Kind::Control, true, 0, 0, 0, Some((Target::Room, 40_000)), false),
                        "{".into()
                    )
                ),
                reliable(9, Reliable::Chunk(chunk(Kind::Data, false, 2, 3, 4, None, true), "tail".into())),
                reliable(10, Reliable::Gap { room: 2, sender: 3, stream: 4, count: 17 }),
                Frame::Lossy(lossy, Bytes::new()),
                Frame::Ack(1),
                Frame::Ping(2),
                Frame::Pong(3),
                Frame::Attach { generation: 4, ack: 5 },
                Frame::Attached { generation: 6, ack: 7 },
            ]
        );
    }

    #[test]
    fn the_length_of_a_chunk_is_never_underestimated() {
        for target in [Target::Room, Target::Users(vec!["é".repeat(64); 16]), Target::Topic("t".into())] {
            let mut out = BytesMut::new();
            put_chunk(&mut out, Kind::Data, true, (1, 1), 1, 1, 1, Some((&target, 9_999)), false, b"abc");
            assert_eq!(out.len(), chunk_len(Some(&target), 3));
            assert!(chunk_len(Some(&target), limits::CHUNK_BYTES) <= limits::CHANNEL_MESSAGE_BYTES);
        }
    }

    #[test]
    fn an_unknown_kind_is_passed_over_and_what_follows_is_read() {
        let mut out = BytesMut::from(&[0, 3, 0x7f, 1, 2][..]);
        put_ack(&mut out, 5);
        let mut frames = Frames::new(out.freeze());
        assert_eq!(frames.next(), Some(Ok(Frame::Ack(5))));
        assert_eq!(frames.unknown, 1);
    }

    #[test]
    fn every_truncation_of_a_message_is_an_error_or_a_shorter_payload_but_never_a_panic() {
        let mut out = BytesMut::new();
        let target = Target::Users(vec!["ann".into()]);
        put_chunk(&mut out, Kind::Data, true, (7, 9), 2, 3, 4, Some((&target, 50)), false, b"hello");
        let frame = out.freeze().slice(LENGTH_BYTES..);
        for length in 0..frame.len() {
            let _ = decode(frame.slice(..length));
            let mut message = BytesMut::new();
            message.put_u16(frame.len() as u16);
            message.put_slice(&frame[..length]);
            assert_eq!(Frames::new(message.freeze()).next(), Some(Err(FrameError::Truncated)));
        }
    }

    #[test]
    fn contradictions_are_refused() {
        let refused = |bytes: &[u8]| decode(Bytes::copy_from_slice(bytes)).unwrap_err();
        let mut chunk = vec![DATA, 0xf0];
        chunk.extend([0; 16]);
        assert_eq!(refused(&chunk), FrameError::Contradiction);
        // A first chunk whose message is no longer than the chunk, yet more is announced.
        let mut chunk = vec![DATA, FIRST];
        chunk.extend([0; 16]);
        chunk.extend([0, 0, 0, 0, 1, b'x']);
        assert_eq!(refused(&chunk), FrameError::Contradiction);
        // A later chunk without payload would be free to repeat.
        let mut chunk = vec![DATA, 0];
        chunk.extend([0; 16]);
        assert_eq!(refused(&chunk), FrameError::Length);
    }
}
