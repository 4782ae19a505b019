//! A pipe message for a WebSocket, as the parts that it is written from.
//!
//! Everybody in a room gets the same payload behind a head of their own. Copying a long one for each of them costs more
//! than anything else that is done for it here; so it stays where it is, shared, until the kernel copies it.

use std::ops::Range;

use bytes::{BufMut as _, Bytes, BytesMut};
use switchyard_signaling::frame::Out;

/// Bytes from which on a payload is not copied; below it a part costs more than a copy.
const LONG: usize = 4096;

/// See the module. One is used for many messages, one after the other.
#[derive(Debug, Default)]
pub(super) struct Gather {
    bytes: BytesMut,
    /// Long payloads, each with its place in `bytes`.
    long: Vec<(usize, Bytes)>,
    long_bytes: usize,
}

impl Gather {
    /// Forgets the message, for the next one.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.long.clear();
        self.long_bytes = 0;
    }

    /// Shows the message, in parts to be written one behind the other.
    pub(super) fn with_parts<R>(&self, show: impl FnOnce(&[&[u8]]) -> R) -> R {
        if self.long.is_empty() {
            return show(&[&self.bytes]);
        }
        let mut parts: Vec<&[u8]> = Vec::with_capacity(2 * self.long.len() + 1);
        let mut start = 0;
        for (place, payload) in &self.long {
            parts.extend([&self.bytes[start..*place], payload]);
            start = *place;
        }
        parts.push(&self.bytes[start..]);
        show(&parts)
    }
}

impl Out for Gather {
    fn buffer(&mut self) -> &mut BytesMut {
        &mut self.bytes
    }

    fn put_payload(&mut self, payload: &Bytes, part: Range<usize>) {
        if part.len() < LONG {
            return self.bytes.put_slice(&payload[part]);
        }
        self.long_bytes += part.len();
        self.long.push((self.bytes.len(), payload.slice(part)));
    }

    fn len(&self) -> usize {
        self.bytes.len() + self.long_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_in_order_and_long_payloads_are_not_copied() {
        let (short, long) = (Bytes::from_static(b"short"), Bytes::from(vec![7; 2 * LONG]));
        let mut gather = Gather::default();
        gather.put_payload(&long, LONG..2 * LONG);
        gather.buffer().put_slice(b"head");
        gather.put_payload(&short, 1..3);
        gather.put_payload(&long, 0..LONG);
        gather.put_payload(&long, 0..LONG + 1);
        gather.buffer().put_slice(b"end");
        let whole = [&long[..LONG], b"headho", &long[..LONG], &long[..LONG + 1], b"end"].concat();
        gather.with_parts(|parts| {
            assert_eq!(parts.concat(), whole);
            assert!(parts.iter().any(|part| std::ptr::eq(*part, &long[..LONG])));
        });
        assert_eq!(gather.len(), whole.len());
        gather.clear();
        assert!(gather.is_empty() && gather.with_parts(|parts| parts.concat().is_empty()));
    }
}
