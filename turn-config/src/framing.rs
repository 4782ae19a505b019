//! Messages on a TCP or TLS stream, [RFC 8656 section 12.5](https://www.rfc-editor.org/rfc/rfc8656#section-12.5): where one
//! ends and the next begins, and when a client has been slow for too long.
//!
//! No socket: the owner reads into memory that all its streams share, and gives what was read to [`Stream::handle`], which
//! finds the messages where they lie. What a stream holds itself is one unfinished message at most. The owner asks
//! [`Stream::is_overdue`] at [`Stream::poll_timeout`].

use std::time::{Duration, Instant};

use crate::stun::wire::{HEADER_LEN, MAGIC_COOKIE};

/// Bytes of one message at most: as much as fits a datagram to a peer, with the header of a Send indication.
pub const MAX_MESSAGE: usize = 65_536;
/// How long a message may be unfinished.
pub const MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client may be connected without an allocation.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Bytes that the memory for unfinished messages may keep while there is none.
const KEPT: usize = 4096;

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

/// One connection.
#[derive(Debug)]
pub struct Stream {
    /// The message that has begun and not ended.
    rest: Vec<u8>,
    /// Whether a message has come, which has to be STUN: without it there is no channel.
    has_begun: bool,
    opened: Instant,
    /// Since when a message has been unfinished.
    unfinished: Option<Instant>,
}

impl Stream {
    /// A connection that was accepted just now.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { rest: Vec::new(), has_begun: false, opened: now, unfinished: None }
    }

    /// Gives every whole message to `take`, without its padding, and keeps what is behind the last.
    ///
    /// # Errors
    /// [`NotAMessage`], after which the connection is of no use.
    pub fn handle(
        &mut self,
        now: Instant,
        mut read: &[u8],
        mut take: impl FnMut(&[u8]),
    ) -> Result<(), NotAMessage> {
        // What has begun gets as many bytes as it lacks, and no more: a length that is only claimed takes no memory.
        while !self.rest.is_empty() {
            let lacking = match self.message_length(&self.rest)? {
                Some((length, padded)) if padded == self.rest.len() => {
                    take(&self.rest[..length]);
                    self.finished();
                    break;
                }
                Some((_, padded)) => padded - self.rest.len(),
                None => LENGTH_END - self.rest.len(),
            };
            if read.is_empty() {
                return Ok(());
            }
            let (part, later) = read.split_at(lacking.min(read.len()));
            self.rest.extend_from_slice(part);
            read = later;
        }
        while let Some((length, padded)) = self.message_length(read)?
            && padded <= read.len()
        {
            self.has_begun = true;
            take(&read[..length]);
            read = &read[padded..];
        }
        if !read.is_empty() {
            self.rest.extend_from_slice(read);
            self.unfinished = Some(now);
        }
        Ok(())
    }

    fn finished(&mut self) {
        self.has_begun = true;
        self.unfinished = None;
        self.rest.clear();
        if self.rest.capacity() > KEPT {
            self.rest = Vec::new();
        }
    }

    /// Length of the message at the front, without and with its padding; `None` while that is not to be seen.
    fn message_length(&self, bytes: &[u8]) -> Result<Option<(usize, usize)>, NotAMessage> {
        let length = match bytes.first() {
            None => return Ok(None),
            Some(0x00..0x40) => HEADER_LEN,
            Some(0x40..0x80) if self.has_begun => 4,
            Some(_) => return Err(NotAMessage::Start),
        };
        // So a TLS client that is here by mistake is not waited for.
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

/// Where the length of a message ends.
const LENGTH_END: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(stream: &mut Stream, now: Instant, read: &[u8]) -> Result<Vec<Vec<u8>>, NotAMessage> {
        let mut taken = Vec::new();
        stream.handle(now, read, |message| taken.push(message.to_vec())).map(|()| taken)
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
        let expected =
            [stun(0), channel_data(b"12345"), channel_data(b""), stun(8), channel_data(&[7; 60_000])];
        let mut bytes = Vec::new();
        for message in &expected {
            bytes.extend_from_slice(message);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        for step in [1, 2, 3, 7, 20, 33, 4096, 65_536] {
            let (mut stream, mut taken) = (Stream::new(now), Vec::new());
            for part in bytes.chunks(step) {
                taken.extend(messages(&mut stream, now, part).unwrap());
            }
            assert!(taken == expected, "in steps of {step}");
            assert_eq!(stream.unfinished, None);
            assert!(stream.rest.capacity() <= KEPT, "{} bytes are kept", stream.rest.capacity());
        }
    }

    #[test]
    fn a_length_that_is_only_claimed_takes_no_memory() {
        let now = Instant::now();
        let mut stream = Stream::new(now);
        let message = stun(60_000);
        let mut taken = Vec::new();
        for (part, read) in message.chunks(1000).zip((1000..).step_by(1000)) {
            assert!(taken.is_empty());
            taken = messages(&mut stream, now, part).unwrap();
            assert!(stream.rest.capacity() <= 2 * read, "{} for {read}", stream.rest.capacity());
        }
        assert_eq!(taken, [message]);
    }

    #[test]
    fn what_is_no_message_is_refused_at_once() {
        let now = Instant::now();
        for (bytes, why) in [
            (&b"POST / HTTP/1.1"[..], NotAMessage::Start),
            (b"SSH-2.0", NotAMessage::Start),
            (&[0x80, 0x60], NotAMessage::Start),
            (&[0x16, 3, 1, 2, 0, 1], NotAMessage::Start),
            (&[0, 1, 0xff, 0xf0], NotAMessage::TooLong),
        ] {
            let mut stream = Stream::new(now);
            assert_eq!(messages(&mut stream, now, bytes), Err(why), "{bytes:x?}");
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
            assert_eq!(messages(&mut stream, now, &[*byte]), Ok(Vec::new()));
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
