//! What each message says about itself, and how to see that it is as it was sent.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};

/// What a message says about itself, at its beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Which sender of the run.
    pub sender: u32,
    /// 1, 2, 3 … for each (sender, stream).
    pub seq: u32,
    /// When it was to be sent, since the run began.
    pub scheduled: Duration,
}

/// The least size of a message that carries a stamp.
pub const STAMP_BYTES: usize = 24;
/// Messages of one stream that are told apart. A higher number is not from this run.
pub(super) const MOST_MESSAGES: u32 = 1 << 24;

impl Stamp {
    /// A message of `size` bytes, at least [`STAMP_BYTES`]: see [`Stamp::fill`].
    pub fn message(&self, size: usize) -> Bytes {
        let mut message = vec![0; size.max(STAMP_BYTES)];
        self.fill(&mut message);
        message.into()
    }

    /// Makes a message of so many bytes, at least [`STAMP_BYTES`]: the stamp, a check over it and the length, and the check
    /// again and again to the end, so that no byte is free.
    pub fn fill(&self, message: &mut [u8]) {
        debug_assert!(message.len() >= STAMP_BYTES, "a stamp does not fit");
        let check = self.check(message.len()).to_be_bytes();
        let identity = u64::from(self.sender) << 32 | u64::from(self.seq);
        let (stamp, rest) = message.split_at_mut(2 * check.len());
        stamp[..check.len()].copy_from_slice(&identity.to_be_bytes());
        stamp[check.len()..].copy_from_slice(&self.nanos().to_be_bytes());
        // Whole words apart: a load of datagrams spends most of its time here otherwise.
        let mut words = rest.chunks_exact_mut(check.len());
        words.by_ref().for_each(|word| word.copy_from_slice(&check));
        let last = words.into_remainder();
        last.copy_from_slice(&check[..last.len()]);
    }

    /// The stamp of a message; `None` if it is too short. It may have been altered: see [`Stamp::is_intact`].
    pub fn of(message: &[u8]) -> Option<Self> {
        let (sender, rest) = message.split_first_chunk()?;
        let (seq, rest) = rest.split_first_chunk()?;
        let (nanos, rest) = rest.split_first_chunk()?;
        let _: &[u8; 8] = rest.first_chunk()?;
        Some(Self {
            sender: u32::from_be_bytes(*sender),
            seq: u32::from_be_bytes(*seq),
            scheduled: Duration::from_nanos(u64::from_be_bytes(*nanos)),
        })
    }

    /// Whether everything behind the stamp, and the length, is what the stamp says.
    pub fn is_intact(&self, message: &[u8]) -> bool {
        let check = self.check(message.len()).to_be_bytes();
        let words = message.get(16..).unwrap_or_default().chunks_exact(check.len());
        let last = words.remainder();
        message.len() >= STAMP_BYTES
            && last == &check[..last.len()]
            && words.into_iter().all(|word| word == check)
    }

    /// Whether the stamp itself, and the length, are as they were sent: whatever else is wrong, this is that message.
    pub fn is_legible(&self, message: &[u8]) -> bool {
        message.get(16..STAMP_BYTES) == Some(&self.check(message.len()).to_be_bytes())
    }

    fn nanos(&self) -> u64 {
        u64::try_from(self.scheduled.as_nanos()).unwrap_or(u64::MAX)
    }

    /// A number in which each bit of what it sums up counts.
    fn check(&self, size: usize) -> u64 {
        let identity = u64::from(self.sender) << 32 | u64::from(self.seq);
        [identity, self.nanos(), size as u64].into_iter().fold(0x5377_6974_6368_7964, mix)
    }
}

/// Where a text begins and ends in the body of a durable message (section 9.7 of the protocol's document).
const TEXT: (&str, &str) = ("{\"text\":\"", "\"}");

/// The body of a durable message of about `size` bytes: its text is the stamped message in hexadecimal digits.
pub(crate) fn body(stamp: Stamp, size: usize) -> Bytes {
    let message = stamp.message(size.saturating_sub(TEXT.0.len() + TEXT.1.len()) / 2);
    let mut body = BytesMut::with_capacity(TEXT.0.len() + message.len() * 2 + TEXT.1.len());
    body.put_slice(TEXT.0.as_bytes());
    for byte in message {
        body.put_slice(&[
            b"0123456789abcdef"[usize::from(byte >> 4)],
            b"0123456789abcdef"[usize::from(byte & 15)],
        ]);
    }
    body.put_slice(TEXT.1.as_bytes());
    body.freeze()
}

/// The stamp of such a body, and whether the body is as it was written; `None` if it is none.
pub(crate) fn stamp_of_body(body: &[u8]) -> Option<(Stamp, bool)> {
    let text = body.strip_prefix(TEXT.0.as_bytes())?.strip_suffix(TEXT.1.as_bytes())?;
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let message: Option<Vec<u8>> =
        text.chunks(2).map(|pair| Some((digit(pair[0])? * 16 + digit(*pair.get(1)?)?) as u8)).collect();
    let message = message?;
    let stamp = Stamp::of(&message)?;
    Some((stamp, stamp.is_intact(&message)))
}

/// The finalizer of MurmurHash3, chained.
fn mix(state: u64, word: u64) -> u64 {
    let mut mixed = (state ^ word).wrapping_mul(0xff51_afd7_ed55_8ccd);
    mixed = (mixed ^ (mixed >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    mixed ^ (mixed >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(sender: u32, seq: u32) -> Stamp {
        Stamp { sender, seq, scheduled: Duration::from_millis(7) }
    }

    #[test]
    fn a_stamp_survives_the_way_through_a_message() {
        for size in [STAMP_BYTES, 25, 64, 10_000] {
            let message = stamp(3, 99).message(size);
            assert_eq!(message.len(), size);
            assert_eq!(Stamp::of(&message), Some(stamp(3, 99)));
            assert!(stamp(3, 99).is_intact(&message));
        }
        assert_eq!(stamp(3, 99).message(0).len(), STAMP_BYTES);
        let message = stamp(3, 99).message(0);
        assert_eq!(Stamp::of(&message[..STAMP_BYTES - 1]), None);
    }

    #[test]
    fn a_body_is_json_of_the_size_asked_for_and_shows_every_change() {
        for size in [0, 80, 1000] {
            let body = body(stamp(3, 99), size);
            assert!(size == 0 || body.len().abs_diff(size) <= 1, "{size}: {}", body.len());
            let json: serde_json::Value = serde_json::from_slice(&body).unwrap();
            assert!(json["text"].is_string());
            assert_eq!(stamp_of_body(&body), Some((stamp(3, 99), true)));
            let mut altered = body.to_vec();
            altered[40] = if altered[40] == b'0' { b'1' } else { b'0' };
            assert!(!stamp_of_body(&altered).unwrap().1);
        }
        assert_eq!(stamp_of_body(b"{\"text\":\"hello\"}"), None);
        assert_eq!(stamp_of_body(b"{}"), None);
    }

    #[test]
    fn every_altered_bit_and_every_other_length_is_noticed() {
        let message = stamp(3, 99).message(61);
        for bit in 0..message.len() * 8 {
            let mut altered = message.to_vec();
            altered[bit / 8] ^= 1 << (bit % 8);
            let stamp = Stamp::of(&altered).unwrap();
            assert!(!stamp.is_intact(&altered), "bit {bit}");
            assert_eq!(stamp.is_legible(&altered), bit >= STAMP_BYTES * 8, "bit {bit}");
        }
        for length in STAMP_BYTES..message.len() {
            assert!(!stamp(3, 99).is_intact(&message[..length]), "{length}");
        }
        let longer = [&message[..], &message[16..24]].concat();
        assert!(!stamp(3, 99).is_intact(&longer));
    }
}
