//! Messages on a TCP or TLS stream, [RFC 8656 section 12.5](https://www.rfc-editor.org/rfc/rfc8656#section-12.5): where one
//! ends and the next begins, and when a client has been slow for too long.
//!
//! No socket: the owner reads into [`Stream::space`], says how much with [`Stream::handle_read`], takes every message from
//! [`Stream::next_message`], and asks [`Stream::is_overdue`] at [`Stream::poll_timeout`]. What is held is one unfinished
//! message at most, and what was read behind it.

use std::time::{Duration, Instant};

use crate::stun::wire::{HEADER_LEN, MAGIC_COOKIE};

/// Bytes of one message at most: as much as fits a datagram to a peer, with the header of a Send indication.
pub const MAX_MESSAGE: usize = 65_536;
/// How long a message may be unfinished.
pub const MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client may be connected without an allocation.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Bytes held from the start, and read at once.
const CAPACITY: usize = 4096;

/// Bytes that are no message; nothing that follows on the stream can be found any more.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum NotAMessage {
    /// Neither STUN nor channel data begins so.
    #[error("neither STUN nor channel data begins so")]
    Start,
    /// Longer than [`MAX_MESSAGE`].
    #[error("the message is too long")]
    TooLong,
}

/// What has been read from a connection and not been taken.
#[derive(Debug)]
pub struct Stream {
    buffer: Vec<u8>,
    /// Taken up to here.
    start: usize,
    /// Read up to here.
    end: usize,
    opened: Instant,
    /// Since when a message has been unfinished.
    unfinished: Option<Instant>,
}

impl Stream {
    /// A connection that was accepted just now.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { buffer: Vec::new(), start: 0, end: 0, opened: now, unfinished: None }
    }

    /// Where to read into; never empty, as long as every message is taken before it is called.
    pub fn space(&mut self) -> &mut [u8] {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        // Room for the rest of the message that has begun, but no more than for what has come already: a length that is only
        // claimed takes no memory.
        let wanted = match message_length(&self.buffer[..self.end]) {
            Ok(Some((_, padded))) => padded.min(2 * self.end).max(CAPACITY),
            _ => CAPACITY,
        };
        if self.buffer.len() < wanted.max(self.end + 1) {
            self.buffer.resize(wanted.max(self.end + 1), 0);
        } else if self.end == 0 && self.buffer.len() > CAPACITY {
            self.buffer.truncate(CAPACITY);
            self.buffer.shrink_to_fit();
        }
        &mut self.buffer[self.end..]
    }

    /// So many bytes were read into [`space`](Self::space).
    pub fn handle_read(&mut self, read: usize) {
        self.end = (self.end + read).min(self.buffer.len());
    }

    /// The next whole message, without its padding.
    ///
    /// # Errors
    /// [`NotAMessage`], after which the connection is of no use.
    pub fn next_message(&mut self, now: Instant) -> Result<Option<&[u8]>, NotAMessage> {
        let held = self.end - self.start;
        let Some((length, padded)) = message_length(&self.buffer[self.start..self.end])? else {
            self.wait(now, held);
            return Ok(None);
        };
        if padded > held {
            self.wait(now, held);
            return Ok(None);
        }
        self.unfinished = None;
        let at = self.start;
        self.start += padded;
        Ok(Some(&self.buffer[at..at + length]))
    }

    fn wait(&mut self, now: Instant, held: usize) {
        self.unfinished = (held > 0).then(|| self.unfinished.unwrap_or(now));
    }

    /// When to ask [`is_overdue`](Self::is_overdue), if nothing is read before.
    #[must_use]
    pub fn poll_timeout(&self, has_allocation: bool) -> Option<Instant> {
        let idle = (!has_allocation).then(|| self.opened + IDLE_TIMEOUT);
        [self.unfinished.map(|since| since + MESSAGE_TIMEOUT), idle].into_iter().flatten().min()
    }

    /// Whether the client has taken too long: for one message, or for asking for an allocation. A connection whose
    /// allocation ended is closed by its owner.
    #[must_use]
    pub fn is_overdue(&self, now: Instant, has_allocation: bool) -> bool {
        self.poll_timeout(has_allocation).is_some_and(|at| at <= now)
    }
}

/// Length of the message at the front, without and with its padding; `None` while that is not to be seen.
fn message_length(bytes: &[u8]) -> Result<Option<(usize, usize)>, NotAMessage> {
    let length = match bytes.first() {
        None => return Ok(None),
        Some(0x00..0x40) => HEADER_LEN,
        Some(0x40..0x50) => 4,
        Some(_) => return Err(NotAMessage::Start),
    };
    // So a TLS or SSH client that is here by mistake is not waited for.
    let cookie = bytes.iter().skip(4).zip(&MAGIC_COOKIE);
    if length == HEADER_LEN && cookie.into_iter().any(|(byte, expected)| byte != expected) {
        return Err(NotAMessage::Start);
    }
    let Some(&[_, _, high, low]) = bytes.first_chunk() else { return Ok(None) };
    let length = length + usize::from(u16::from_be_bytes([high, low]));
    let padded = length.next_multiple_of(4);
    // A STUN message's length is a multiple of four by itself; one that is not is refused by its parser.
    if padded > MAX_MESSAGE { Err(NotAMessage::TooLong) } else { Ok(Some((length, padded))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(stream: &mut Stream, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let space = stream.space();
            let part = space.len().min(bytes.len());
            space[..part].copy_from_slice(&bytes[..part]);
            stream.handle_read(part);
            bytes = &bytes[part..];
        }
    }

    fn stun(payload: usize) -> Vec<u8> {
        let mut message = vec![0; HEADER_LEN + payload];
        message[2..4].copy_from_slice(&u16::try_from(payload).unwrap().to_be_bytes());
        message[4..8].copy_from_slice(&MAGIC_COOKIE);
        message
    }

    fn channel_data(payload: &[u8]) -> Vec<u8> {
        let mut message = vec![0x40, 0x01];
        message.extend_from_slice(&u16::try_from(payload.len()).unwrap().to_be_bytes());
        message.extend_from_slice(payload);
        message
    }

    #[test]
    fn messages_are_found_however_the_stream_is_cut() {
        let now = Instant::now();
        let messages =
            [stun(0), channel_data(b"12345"), channel_data(b""), stun(8), channel_data(&[7; 60_000])];
        let mut bytes = Vec::new();
        for message in &messages {
            bytes.extend_from_slice(message);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        for step in [1, 2, 3, 7, 20, 33, 4096, 65_536] {
            let (mut stream, mut taken) = (Stream::new(now), Vec::new());
            for part in bytes.chunks(step) {
                push(&mut stream, part);
                while let Some(message) = stream.next_message(now).unwrap() {
                    taken.push(message.to_vec());
                }
            }
            assert!(taken == messages, "in steps of {step}");
            assert_eq!(stream.unfinished, None);
            stream.space();
            assert!(stream.buffer.capacity() <= 2 * CAPACITY, "{} bytes are kept", stream.buffer.capacity());
        }
    }

    #[test]
    fn a_length_that_is_only_claimed_takes_no_memory() {
        let now = Instant::now();
        let mut stream = Stream::new(now);
        let message = channel_data(&[7; 60_000]);
        for part in message.chunks(1000) {
            assert_eq!(stream.next_message(now), Ok(None));
            push(&mut stream, part);
            assert!(stream.buffer.len() <= (2 * stream.end).max(CAPACITY));
        }
        assert_eq!(stream.next_message(now), Ok(Some(&*message)));
    }

    #[test]
    fn what_is_no_message_is_refused_at_once() {
        let now = Instant::now();
        for (bytes, why) in [
            (&b"POST / HTTP/1.1"[..], NotAMessage::Start),
            (b"SSH-2.0", NotAMessage::Start),
            (&[0x80, 0x60], NotAMessage::Start),
            (&[0x16, 3, 1, 2, 0, 1], NotAMessage::Start),
            (&[0x40, 0, 0xff, 0xff], NotAMessage::TooLong),
            (&[0, 1, 0xff, 0xf0], NotAMessage::TooLong),
        ] {
            let mut stream = Stream::new(now);
            push(&mut stream, bytes);
            assert_eq!(stream.next_message(now), Err(why), "{bytes:x?}");
        }
    }

    #[test]
    fn a_client_that_drips_a_message_is_overdue() {
        let start = Instant::now();
        let mut stream = Stream::new(start);
        let message = stun(400);
        for (second, byte) in (0..).zip(&message) {
            let now = start + Duration::from_secs(second);
            assert_eq!(stream.is_overdue(now, true), second >= 10, "at {second} s");
            if second == 10 {
                break;
            }
            push(&mut stream, &[*byte]);
            assert_eq!(stream.next_message(now), Ok(None));
            assert_eq!(stream.poll_timeout(true), Some(start + MESSAGE_TIMEOUT));
        }
    }

    #[test]
    fn a_client_that_only_connects_is_overdue() {
        let start = Instant::now();
        let stream = Stream::new(start);
        assert!(!stream.is_overdue(start + IDLE_TIMEOUT - Duration::from_millis(1), false));
        assert!(stream.is_overdue(start + IDLE_TIMEOUT, false));
        assert!(!stream.is_overdue(start + IDLE_TIMEOUT, true));
        assert_eq!(stream.poll_timeout(true), None);
    }
}
