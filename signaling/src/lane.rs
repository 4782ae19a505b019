//! The reliable lane of one session in one direction: section 3.1 of `docs/protocol.md`.
//!
//! [`Sender`] numbers frames, keeps what is not acknowledged for the next pipe, cuts messages into chunks and decides
//! which chunk goes next; [`Receiver`] says which frames are new and when an acknowledgement is due. Neither knows
//! what a pipe is: the owner asks the sender for frames as long as its pipe has room, and tells it when the pipe
//! has changed. Chunks become messages again in [`crate::assembly`].
//!
//! Which goes next: replayed frames, then control messages, then notices of gaps, then messages of one chunk in the
//! order of their arrival, between them, for every 16 KiB of those, one chunk of the longer messages, stream by
//! stream in turn. A message never overtakes another of its own stream.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;

use crate::{
    frame::{self, Kind, Out, Target},
    limits::{Acks, CHUNK_BYTES, COPY_BYTES, OPEN_MESSAGES, SERVER_ACKS},
};

/// Bytes that a held frame or message counts beyond its payload, so that empty ones are bounded too.
pub const OVERHEAD_BYTES: usize = 64;

/// Streams with untold gaps that are kept apart; beyond it gaps are told for the room as a whole.
const GAPS_APART: usize = 256;

/// Notices of gaps that may wait for acknowledgement. A receiver that takes everything and acknowledges nothing would
/// else be told of each message that it misses, and every notice kept for it.
const GAPS_SENT: usize = 1024;

/// A whole message on its way to one or many receivers; shared between them.
#[derive(Debug)]
pub struct Message {
    /// Data or control.
    pub kind: Kind,
    /// The payload is UTF-8.
    pub text: bool,
    /// Member number of the author; 0 from a client.
    pub sender: u32,
    /// The author's stream.
    pub stream: u16,
    /// Where it goes.
    pub target: Target,
    /// What the author gave.
    pub payload: Bytes,
    /// When its author sent it, as far as is known here.
    pub at: Instant,
}

impl Message {
    fn is_one_chunk(&self) -> bool {
        self.payload.len() <= CHUNK_BYTES
    }
}

/// A stream as a receiver sees it: room handle, author, author's stream.
pub type StreamKey = (u16, u32, u16);

/// A control message found no room: its receiver is so far behind that it must start anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the receiver is too far behind")]
pub struct Overflow;

/// What [`Sender::poll`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Polled {
    /// One frame was appended.
    Frame,
    /// The next frame is longer than the room given.
    TooLong,
    /// There is nothing to send.
    Empty,
}

/// The sending half.
///
/// Order of calls: [`push`](Self::push) whatever is to be sent, [`poll`](Self::poll) until the pipe is full or
/// nothing is left, [`handle_ack`](Self::handle_ack) on every acknowledgement, [`attach`](Self::attach) when the pipe
/// has changed.
#[derive(Debug)]
pub struct Sender {
    limit: usize,
    next_seq: u32,
    /// Unacknowledged frames; the last one has number `next_seq - 1`.
    sent: VecDeque<Sent>,
    /// How many of `sent`, from the front, are on the current pipe.
    on_pipe: usize,
    /// How many of those have gone over another pipe too.
    copied: usize,
    /// Bytes copied for this doubt.
    copied_bytes: usize,
    held: usize,
    control: VecDeque<(u16, Arc<Message>)>,
    control_offset: usize,
    small: VecDeque<(u16, Arc<Message>)>,
    bulk: BTreeMap<StreamKey, Bulk>,
    /// Streams of `bulk` that take turns, at most [`OPEN_MESSAGES`]: so few messages are begun and not finished.
    turns: VecDeque<StreamKey>,
    /// The other streams of `bulk`.
    later: VecDeque<StreamKey>,
    since_bulk: usize,
    gaps: BTreeMap<StreamKey, u32>,
    /// Notices of gaps in `sent`.
    gaps_sent: usize,
    dropped: u64,
}

#[derive(Debug)]
enum Sent {
    Chunk { room: u16, message: Arc<Message>, offset: u32 },
    Gap { stream: StreamKey, count: u32 },
}

#[derive(Debug, Default)]
struct Bulk {
    messages: VecDeque<Arc<Message>>,
    offset: usize,
}

impl Sender {
    /// A sender that holds at most `limit` bytes, counting [`OVERHEAD_BYTES`] for each frame and message.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            next_seq: 1,
            sent: VecDeque::new(),
            on_pipe: 0,
            copied: 0,
            copied_bytes: 0,
            held: 0,
            control: VecDeque::new(),
            control_offset: 0,
            small: VecDeque::new(),
            bulk: BTreeMap::new(),
            turns: VecDeque::new(),
            later: VecDeque::new(),
            since_bulk: 0,
            gaps: BTreeMap::new(),
            gaps_sent: 0,
            dropped: 0,
        }
    }

    /// Whether a message of this many bytes can be pushed without anything being dropped.
    pub fn has_room(&self, bytes: usize) -> bool {
        self.held + bytes + OVERHEAD_BYTES <= self.limit
    }

    /// Takes a message for the room with this handle.
    ///
    /// When the limit is passed, waiting data messages are dropped and their streams are told by a gap; a control
    /// message that still finds no room is an [`Overflow`].
    pub fn push(&mut self, room: u16, message: Arc<Message>) -> Result<(), Overflow> {
        let bytes = message.payload.len();
        let control = message.kind == Kind::Control;
        if !self.has_room(bytes) {
            self.drop_waiting();
            if !self.has_room(bytes) {
                if control {
                    return Err(Overflow);
                }
                self.note_gap((room, message.sender, message.stream), 1);
                return Ok(());
            }
        }
        self.held += bytes + OVERHEAD_BYTES;
        let stream = (room, message.sender, message.stream);
        if control {
            self.control.push_back((room, message));
        } else if message.is_one_chunk() && (self.bulk.is_empty() || !self.bulk.contains_key(&stream)) {
            self.small.push_back((room, message));
        } else {
            let bulk = self.bulk.entry(stream).or_default();
            if bulk.messages.is_empty() {
                self.later.push_back(stream);
            }
            bulk.messages.push_back(message);
            self.admit();
        }
        Ok(())
    }

    /// Appends the next frame, with its length, if it is no longer than `room` bytes. `ack` goes with it.
    pub fn poll(&mut self, ack: u32, room: usize, out: &mut impl Out) -> Polled {
        if self.on_pipe < self.sent.len() {
            return self.replay(ack, room, out);
        }
        // A message of one chunk must not overtake the longer ones of its stream that were pushed before it, and
        // cannot: it is queued behind them. The longer one may overtake shorter ones of its stream, so those that
        // wait in `small` go first when it is its turn.
        let bulk_is_due = !self.bulk.is_empty() && (self.small.is_empty() || self.since_bulk >= CHUNK_BYTES);
        let chunk = if let Some((handle, message)) = self.control.front() {
            (*handle, message.clone(), self.control_offset)
        } else if self.gaps_wait() {
            return Polled::Empty;
        } else if let Some((&stream, &count)) = self.gaps.first_key_value() {
            return self.send_gap(stream, count, (ack, room), out);
        } else if let Some(stream) =
            self.turns.front().copied().filter(|stream| bulk_is_due && !self.waits(stream))
        {
            let bulk = &self.bulk[&stream];
            (stream.0, bulk.messages[0].clone(), bulk.offset)
        } else if let Some((handle, message)) = self.small.front() {
            (*handle, message.clone(), 0)
        } else {
            return Polled::Empty;
        };
        self.send_chunk(chunk, (ack, room), out)
    }

    /// Whether [`poll`](Self::poll) would have something, given room.
    pub fn is_ready(&self) -> bool {
        self.on_pipe < self.sent.len()
            || !self.control.is_empty()
            || (!self.gaps_wait()
                && (!self.small.is_empty() || !self.turns.is_empty() || !self.gaps.is_empty()))
    }

    /// Forgets what the receiver has; an acknowledgement of what was never sent is ignored and `false` returned.
    pub fn handle_ack(&mut self, ack: u32) -> bool {
        let first = self.next_seq.wrapping_sub(self.sent.len() as u32);
        let count = ack.wrapping_sub(first).wrapping_add(1);
        if count as usize > self.sent.len() {
            // An old acknowledgement wraps to a huge count as well; it tells nothing new.
            return (1..1 << 31).contains(&first.wrapping_sub(ack));
        }
        for sent in self.sent.drain(..count as usize) {
            self.held -= sent.cost();
            self.gaps_sent -= usize::from(matches!(sent, Sent::Gap { .. }));
        }
        self.on_pipe = self.on_pipe.saturating_sub(count as usize);
        self.copied = self.copied.saturating_sub(count as usize);
        true
    }

    /// The pipe has changed: what the receiver does not have is sent again.
    pub fn attach(&mut self, ack: u32) -> bool {
        let known = self.handle_ack(ack);
        self.on_pipe = 0;
        self.copied = 0;
        known
    }

    /// From the oldest on, [`copy`](Self::copy) gives what is not acknowledged, up to [`COPY_BYTES`].
    pub fn copy_anew(&mut self) {
        (self.copied, self.copied_bytes) = (0, 0);
    }

    /// Whether [`copy`](Self::copy) would give something, given room.
    pub fn has_copies(&self) -> bool {
        self.copied < self.on_pipe && self.copied_bytes < COPY_BYTES
    }

    /// Appends the next frame that is on the pipe and not acknowledged, for another pipe, if it is no longer than `room`
    /// bytes: in order, each once, for the receiver takes what is next and drops the other copy.
    pub fn copy(&mut self, ack: u32, room: usize, out: &mut impl Out) -> Polled {
        if !self.has_copies() {
            return Polled::Empty;
        }
        let bytes = self.sent[self.copied].frame_len();
        let polled = self.put_sent(self.copied, ack, room, out);
        if polled == Polled::Frame {
            self.copied += 1;
            self.copied_bytes += bytes;
        }
        polled
    }

    /// Forgets what waits for a room that was left. What has a number stays, for the lane must not have holes.
    pub fn forget_room(&mut self, handle: u16) {
        let mut freed = 0;
        self.small.retain(|(room, message)| {
            let keep = *room != handle;
            freed += if keep { 0 } else { message.payload.len() + OVERHEAD_BYTES };
            keep
        });
        self.bulk.retain(|stream, bulk| {
            let keep = stream.0 != handle;
            freed += if keep { 0 } else { bulk.cost() };
            keep
        });
        self.turns.retain(|stream| stream.0 != handle);
        self.later.retain(|stream| stream.0 != handle);
        self.admit();
        self.gaps.retain(|stream, _| stream.0 != handle);
        self.held -= freed;
    }

    /// Bytes sent and not acknowledged, bytes waiting; overhead included.
    pub fn held_bytes(&self) -> usize {
        self.held
    }

    /// Frames sent and not acknowledged.
    pub fn unacknowledged(&self) -> usize {
        self.sent.len()
    }

    /// The message of which a chunk was sent last, if none of its chunks is left to be sent.
    pub fn completed(&self) -> Option<&Message> {
        match self.sent.back() {
            Some(sent @ Sent::Chunk { message, .. }) if sent.is_last() && self.on_pipe == self.sent.len() => {
                Some(message)
            }
            _ => None,
        }
    }

    /// The number of the next new frame.
    pub fn next_seq(&self) -> u32 {
        self.next_seq
    }

    /// The number that the last frame of what now waits of control messages gets: they go before all else. That of the
    /// last frame sent if none waits.
    pub fn last_control_seq(&self) -> u32 {
        let chunks = |bytes: usize| bytes.div_ceil(CHUNK_BYTES).max(1);
        let waiting: usize = self.control.iter().map(|(_, message)| chunks(message.payload.len())).sum();
        let begun = self.control_offset / CHUNK_BYTES;
        self.next_seq.wrapping_add((waiting - begun) as u32).wrapping_sub(1)
    }

    /// Messages dropped so far.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Whether gaps are untold and must wait; data waits behind them, for it must not overtake them.
    fn gaps_wait(&self) -> bool {
        !self.gaps.is_empty() && self.gaps_sent >= GAPS_SENT
    }

    /// Whether a shorter message of the stream waits in front of the long ones.
    fn waits(&self, stream: &StreamKey) -> bool {
        self.small.iter().any(|(room, message)| (*room, message.sender, message.stream) == *stream)
    }

    fn replay(&mut self, ack: u32, room: usize, out: &mut impl Out) -> Polled {
        let polled = self.put_sent(self.on_pipe, ack, room, out);
        self.on_pipe += usize::from(polled == Polled::Frame);
        polled
    }

    fn put_sent(&self, index: usize, ack: u32, room: usize, out: &mut impl Out) -> Polled {
        let lane_seq = self.next_seq.wrapping_sub((self.sent.len() - index) as u32);
        let sent = &self.sent[index];
        if sent.frame_len() > room {
            return Polled::TooLong;
        }
        sent.put((lane_seq, ack), out);
        Polled::Frame
    }

    fn send_gap(
        &mut self,
        stream: StreamKey,
        count: u32,
        (ack, room): (u32, usize),
        out: &mut impl Out,
    ) -> Polled {
        let sent = Sent::Gap { stream, count };
        if sent.frame_len() > room {
            return Polled::TooLong;
        }
        self.gaps.remove(&stream);
        self.gaps_sent += 1;
        self.held += sent.cost();
        self.send(sent, ack, out);
        Polled::Frame
    }

    fn send_chunk(
        &mut self,
        (handle, message, offset): (u16, Arc<Message>, usize),
        (ack, room): (u32, usize),
        out: &mut impl Out,
    ) -> Polled {
        let (kind, one_chunk) = (message.kind, message.is_one_chunk());
        let stream = (handle, message.sender, message.stream);
        let sent = Sent::Chunk { room: handle, message, offset: offset as u32 };
        if sent.frame_len() > room {
            return Polled::TooLong;
        }
        let end = sent.end();
        let (payload, last) = (end - offset, sent.is_last());
        // What waited as a message is held as frames: one overhead each.
        self.held += if last { 0 } else { OVERHEAD_BYTES };
        if kind == Kind::Control {
            self.control_offset = if last { 0 } else { end };
            if last {
                self.control.pop_front();
            }
        } else if offset == 0 && one_chunk && !self.is_turn_of(&stream, &sent) {
            self.small.pop_front();
            self.since_bulk += payload + OVERHEAD_BYTES;
        } else {
            self.since_bulk = 0;
            self.turns.pop_front();
            let bulk = self.bulk.get_mut(&stream).expect("a stream in turns is in bulk");
            bulk.offset = if last { 0 } else { end };
            if last {
                bulk.messages.pop_front();
            }
            if bulk.messages.is_empty() {
                self.bulk.remove(&stream);
            } else if last {
                self.later.push_back(stream);
            } else {
                self.turns.push_back(stream);
            }
            self.admit();
        }
        self.send(sent, ack, out);
        Polled::Frame
    }

    fn admit(&mut self) {
        while self.turns.len() < OPEN_MESSAGES
            && let Some(stream) = self.later.pop_front()
        {
            self.turns.push_back(stream);
        }
    }

    /// Whether a message of one chunk comes from behind a longer one of its stream rather than from `small`.
    fn is_turn_of(&self, stream: &StreamKey, sent: &Sent) -> bool {
        let Sent::Chunk { message, .. } = sent else {
            return false;
        };
        self.turns.front() == Some(stream)
            && self.bulk.get(stream).is_some_and(|bulk| Arc::ptr_eq(&bulk.messages[0], message))
    }

    fn send(&mut self, sent: Sent, ack: u32, out: &mut impl Out) {
        sent.put((self.next_seq, ack), out);
        self.sent.push_back(sent);
        self.on_pipe += 1;
        self.next_seq = self.next_seq.wrapping_add(1);
    }

    fn drop_waiting(&mut self) {
        for (room, message) in std::mem::take(&mut self.small) {
            self.held -= message.payload.len() + OVERHEAD_BYTES;
            self.note_gap((room, message.sender, message.stream), 1);
        }
        self.turns.clear();
        self.later.clear();
        for (stream, bulk) in std::mem::take(&mut self.bulk) {
            self.held -= bulk.cost();
            self.note_gap(stream, bulk.messages.len() as u32);
        }
    }

    /// Notes that `count` messages of a stream are missing at this place.
    pub fn note_gap(&mut self, stream: StreamKey, count: u32) {
        self.dropped += u64::from(count);
        let whole_room = self.gaps.len() >= GAPS_APART && !self.gaps.contains_key(&stream);
        let stream = if whole_room { (stream.0, 0, 0) } else { stream };
        let told = self.gaps.entry(stream).or_default();
        *told = told.saturating_add(count);
    }
}

impl Sent {
    fn end(&self) -> usize {
        match self {
            Self::Chunk { message, offset, .. } => message.payload.len().min(*offset as usize + CHUNK_BYTES),
            Self::Gap { .. } => 0,
        }
    }

    fn is_last(&self) -> bool {
        matches!(self, Self::Chunk { message, .. } if self.end() == message.payload.len())
    }

    fn cost(&self) -> usize {
        match self {
            Self::Chunk { offset, .. } => self.end() - *offset as usize + OVERHEAD_BYTES,
            Self::Gap { .. } => OVERHEAD_BYTES,
        }
    }

    fn frame_len(&self) -> usize {
        match self {
            Self::Chunk { message, offset, .. } => {
                let target = (*offset == 0).then_some(&message.target);
                frame::chunk_len(target, self.end() - *offset as usize)
            }
            Self::Gap { .. } => frame::chunk_len(None, 4),
        }
    }

    fn put(&self, numbers: (u32, u32), out: &mut impl Out) {
        match self {
            Self::Chunk { room, message, offset } => {
                let offset = *offset as usize;
                let end = self.end();
                frame::put_chunk_head(
                    out.buffer(),
                    message.kind,
                    message.text,
                    numbers,
                    *room,
                    message.sender,
                    message.stream,
                    (offset == 0).then_some((&message.target, message.payload.len())),
                    self.is_last(),
                    end - offset,
                );
                out.put_payload(&message.payload, offset..end);
            }
            Self::Gap { stream: (room, sender, stream), count } => {
                frame::put_gap(out.buffer(), numbers, *room, *sender, *stream, *count);
            }
        }
    }
}

impl Bulk {
    /// Bytes held: the first message without the chunks already sent.
    fn cost(&self) -> usize {
        let bytes: usize = self.messages.iter().map(|message| message.payload.len() + OVERHEAD_BYTES).sum();
        bytes - self.offset
    }
}

/// What to do with a reliable frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// It is the next one: take it.
    Next,
    /// It was taken before: drop it.
    Duplicate,
    /// Frames before it are missing; the pipe is broken (`lane_gap`).
    Ahead,
}

/// The receiving half.
#[derive(Debug)]
pub struct Receiver {
    acks: Acks,
    last: u32,
    frames: u32,
    bytes: usize,
    due: Option<Instant>,
}

impl Default for Receiver {
    /// The server's.
    fn default() -> Self {
        Self::new(SERVER_ACKS)
    }
}

impl Receiver {
    /// A receiver that has nothing yet.
    pub fn new(acks: Acks) -> Self {
        Self { acks, last: 0, frames: 0, bytes: 0, due: None }
    }

    /// Judges a frame by its number; `bytes` is its payload.
    pub fn handle(&mut self, lane_seq: u32, bytes: usize, now: Instant) -> Arrival {
        let ahead = lane_seq.wrapping_sub(self.last);
        if ahead == 0 || ahead >= 1 << 31 {
            // The sender repeats itself, so it does not know what arrived.
            self.due = Some(now);
            return Arrival::Duplicate;
        }
        if ahead > 1 {
            return Arrival::Ahead;
        }
        self.last = lane_seq;
        self.frames += 1;
        self.bytes += bytes;
        let full = self.frames >= self.acks.frames || self.bytes >= self.acks.bytes;
        let due =
            if full { now } else { self.due.unwrap_or(now + Duration::from_millis(self.acks.delay_ms)) };
        self.due = Some(due);
        Arrival::Next
    }

    /// The acknowledgement to send: the last frame received in order.
    pub fn ack(&self) -> u32 {
        self.last
    }

    /// The acknowledgement has been sent, alone or with a frame.
    pub fn acknowledged(&mut self) {
        self.frames = 0;
        self.bytes = 0;
        self.due = None;
    }

    /// When an acknowledgement must be sent alone.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.due
    }
}

#[cfg(test)]
mod tests;
