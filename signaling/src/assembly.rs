//! Chunks back to messages. The lane has put the chunks in order ([`crate::lane::Receiver`]), so the chunks of one
//! stream lie one behind the other; those of different streams interleave.
//!
//! Memory is taken for bytes that have arrived, never for bytes that were announced.

use std::collections::{BTreeMap, btree_map::Entry};

use bytes::{Bytes, BytesMut};

use crate::{
    frame::{ChunkHeader, Kind, Target},
    lane::StreamKey,
    limits,
};

/// Unfinished messages that one session may have.
const UNFINISHED: usize = 64;

/// A whole message as it was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complete {
    /// Data, control or log.
    pub kind: Kind,
    /// The payload is UTF-8 (checked).
    pub text: bool,
    /// The room's handle.
    pub room: u16,
    /// The author as the frame named it.
    pub sender: u32,
    /// The author's stream.
    pub stream: u16,
    /// Where it goes.
    pub target: Target,
    /// What the author gave.
    pub payload: Bytes,
}

/// Why a chunk was not taken. The message it belongs to is passed over to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AssemblyError {
    /// The message is longer than allowed.
    #[error("the message has {0} bytes, more than allowed")]
    TooLarge(usize),
    /// Too many unfinished messages, or too many bytes in them.
    #[error("too many unfinished messages")]
    TooMany,
    /// A first chunk inside a message, a later chunk without a first one, or not as long as announced.
    #[error("the chunks of a message do not fit together")]
    Contradiction,
    /// A text message that is not UTF-8.
    #[error("a text message is not UTF-8")]
    NotUtf8,
}

/// The unfinished messages of one direction of a session.
#[derive(Debug)]
pub struct Assembly {
    max_message: usize,
    max_held: usize,
    unfinished: BTreeMap<(Kind, StreamKey), Unfinished>,
    held: usize,
}

#[derive(Debug)]
enum Unfinished {
    Message { text: bool, target: Target, total: usize, payload: BytesMut },
    PassedOver,
}

impl Assembly {
    /// For data messages of at most `max_message` bytes, with at most `max_held` bytes in unfinished ones.
    pub fn new(max_message: usize, max_held: usize) -> Self {
        Self { max_message, max_held, unfinished: BTreeMap::new(), held: 0 }
    }

    /// Takes the next chunk; returns the message that it completes.
    pub fn handle(&mut self, header: ChunkHeader, payload: Bytes) -> Result<Option<Complete>, AssemblyError> {
        let ChunkHeader { kind, text, room, sender, stream, first, last } = header;
        let key = (kind, (room, sender, stream));
        let (text, target, payload) = if let Some((target, total)) = first {
            if !self.unfinished.is_empty() && self.forget(&key) {
                self.pass_over(key, last);
                return Err(AssemblyError::Contradiction);
            }
            let limit = match kind {
                Kind::Data => self.max_message,
                Kind::Control => limits::CONTROL_BYTES.max(self.max_message),
                Kind::Log => limits::LOG_BYTES,
            };
            if total > limit {
                self.pass_over(key, last);
                return Err(AssemblyError::TooLarge(total));
            }
            if !last {
                return self.begin(key, text, target, (total, &payload)).map(|()| None);
            }
            (text, target, payload)
        } else {
            match self.go_on(key, last, &payload)? {
                Some(whole) => whole,
                None => return Ok(None),
            }
        };
        if text && std::str::from_utf8(&payload).is_err() {
            return Err(AssemblyError::NotUtf8);
        }
        Ok(Some(Complete { kind, text, room, sender, stream, target, payload }))
    }

    /// Messages of this stream are missing, the unfinished one among them.
    pub fn handle_gap(&mut self, stream: StreamKey) {
        if stream.1 == 0 {
            self.forget_room(stream.0);
        } else {
            self.forget(&(Kind::Data, stream));
        }
    }

    /// Forgets the unfinished messages of a room that was left.
    pub fn forget_room(&mut self, room: u16) {
        let keys: Vec<_> = self
            .unfinished
            .keys()
            .filter(|(kind, stream)| *kind != Kind::Control && stream.0 == room)
            .copied()
            .collect();
        for key in keys {
            self.forget(&key);
        }
    }

    /// Bytes in unfinished messages.
    pub fn held_bytes(&self) -> usize {
        self.held
    }

    fn begin(
        &mut self,
        key: (Kind, StreamKey),
        text: bool,
        target: Target,
        (total, payload): (usize, &[u8]),
    ) -> Result<(), AssemblyError> {
        if self.held + payload.len() > self.max_held || self.unfinished.len() >= UNFINISHED {
            self.pass_over(key, false);
            return Err(AssemblyError::TooMany);
        }
        self.held += payload.len();
        let payload = BytesMut::from(payload);
        self.unfinished.insert(key, Unfinished::Message { text, target, total, payload });
        Ok(())
    }

    fn go_on(
        &mut self,
        key: (Kind, StreamKey),
        last: bool,
        chunk: &[u8],
    ) -> Result<Option<(bool, Target, Bytes)>, AssemblyError> {
        let Entry::Occupied(mut entry) = self.unfinished.entry(key) else {
            return Err(AssemblyError::Contradiction);
        };
        let Unfinished::Message { total, payload, .. } = entry.get_mut() else {
            if last {
                entry.remove();
            }
            return Ok(None);
        };
        let length = payload.len() + chunk.len();
        let error = if (last && length != *total) || (!last && length >= *total) {
            Some(AssemblyError::Contradiction)
        } else if self.held + chunk.len() > self.max_held {
            Some(AssemblyError::TooMany)
        } else {
            None
        };
        if let Some(error) = error {
            self.forget(&key);
            self.pass_over(key, last);
            return Err(error);
        }
        payload.extend_from_slice(chunk);
        if !last {
            self.held += chunk.len();
            return Ok(None);
        }
        self.held -= length - chunk.len();
        let Unfinished::Message { text, target, payload, .. } = entry.remove() else {
            unreachable!("matched above")
        };
        Ok(Some((text, target, payload.freeze())))
    }

    fn forget(&mut self, key: &(Kind, StreamKey)) -> bool {
        let unfinished = self.unfinished.remove(key);
        if let Some(Unfinished::Message { payload, .. }) = &unfinished {
            self.held -= payload.len();
        }
        unfinished.is_some()
    }

    /// Swallows the rest of a refused message. Beyond the bound its chunks are refused one by one instead.
    fn pass_over(&mut self, key: (Kind, StreamKey), last: bool) {
        if !last && self.unfinished.len() < 2 * UNFINISHED {
            self.unfinished.insert(key, Unfinished::PassedOver);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(stream: u16, total: Option<usize>, last: bool) -> ChunkHeader {
        let first = total.map(|total| (Target::Room, total));
        ChunkHeader { kind: Kind::Data, text: false, room: 1, sender: 0, stream, first, last }
    }

    fn assembly() -> Assembly {
        Assembly::new(1000, 2000)
    }

    #[test]
    fn interleaved_streams_come_together() {
        let mut assembly = assembly();
        assert_eq!(assembly.handle(chunk(1, Some(6), false), "abc".into()), Ok(None));
        assert_eq!(assembly.handle(chunk(2, Some(4), false), "xy".into()), Ok(None));
        let first = assembly.handle(chunk(1, None, true), "def".into()).unwrap().unwrap();
        let second = assembly.handle(chunk(2, None, true), "zz".into()).unwrap().unwrap();
        assert_eq!((&first.payload[..], &second.payload[..]), (&b"abcdef"[..], &b"xyzz"[..]));
        assert_eq!(assembly.held_bytes(), 0);
    }

    #[test]
    fn a_message_that_is_too_large_is_refused_at_its_first_chunk_and_passed_over() {
        let mut assembly = assembly();
        assert_eq!(
            assembly.handle(chunk(1, Some(1001), false), "abc".into()),
            Err(AssemblyError::TooLarge(1001))
        );
        assert_eq!(assembly.handle(chunk(1, None, false), "def".into()), Ok(None));
        assert_eq!(assembly.handle(chunk(1, None, true), "ghi".into()), Ok(None));
        assert!(assembly.handle(chunk(1, Some(2), true), "ok".into()).unwrap().is_some());
    }

    #[test]
    fn what_does_not_fit_together_is_refused_and_leaves_nothing_behind() {
        let mut assembly = assembly();
        assert_eq!(assembly.handle(chunk(1, None, true), "abc".into()), Err(AssemblyError::Contradiction));
        assembly.handle(chunk(1, Some(6), false), "abc".into()).unwrap();
        assert_eq!(
            assembly.handle(chunk(1, Some(6), false), "abc".into()),
            Err(AssemblyError::Contradiction)
        );
        assert_eq!(assembly.handle(chunk(1, None, true), "abc".into()), Ok(None));
        assembly.handle(chunk(1, Some(6), false), "abc".into()).unwrap();
        assert_eq!(assembly.handle(chunk(1, None, true), "de".into()), Err(AssemblyError::Contradiction));
        assert_eq!(assembly.held_bytes(), 0);
    }

    #[test]
    fn unfinished_messages_are_bounded_in_number_and_bytes() {
        let mut assembly = assembly();
        let refused = (0..1000)
            .filter(|&stream| assembly.handle(chunk(stream, Some(900), false), vec![0; 100].into()).is_err())
            .count();
        assert_eq!(refused, 1000 - 20);
        assert!(assembly.held_bytes() <= 2000);
        assert!(assembly.unfinished.len() <= 2 * UNFINISHED);
    }

    #[test]
    fn a_gap_discards_the_unfinished_message_of_its_stream() {
        let mut assembly = assembly();
        let mut header = chunk(1, Some(6), false);
        header.sender = 7;
        assembly.handle(header, "abc".into()).unwrap();
        assembly.handle_gap((1, 7, 1));
        assert_eq!(assembly.held_bytes(), 0);
    }

    #[test]
    fn text_is_checked() {
        let mut header = chunk(1, Some(2), true);
        header.text = true;
        assert_eq!(assembly().handle(header, Bytes::from_static(b"\xff\xfe")), Err(AssemblyError::NotUtf8));
    }
}
