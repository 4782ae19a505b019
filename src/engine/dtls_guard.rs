//! What stands between one peer's DTLS datagrams and the engine's DTLS endpoint.
//!
//! The endpoint trusts its input more than a server may: it reassembles handshake messages recursively, keeps
//! every fragment it is sent, and queues records that it cannot decrypt yet without limit. And it takes a
//! fragmented message only if the fragments meet end to end: a client that sends smaller fragments after a loss
//! (Firefox does) would never be understood. So the guard reassembles itself: the endpoint sees each handshake
//! message whole and once, in a record of its own, and little else before the handshake is complete.
//!
//! The guard reads headers only ([RFC 6347](https://www.rfc-editor.org/rfc/rfc6347#section-4), DTLS 1.0 and 1.2
//! as WebRTC uses them, no renegotiation). It never decrypts, answers or keeps time. Whoever feeds it tells it
//! when the handshake is complete; the endpoint stays the judge of everything that the messages say.
//!
//! # Limits while the handshake runs
//!
//! A *flight* is what the far end sends before it must hear from this side. It begins only when the one before
//! it has been understood, so the incomplete messages that are held at any moment belong to one flight, and the
//! limits of a flight are limits of what is held: [`FLIGHT_FRAGMENTS`] and [`FLIGHT_BYTES`]. A fragment that
//! adds nothing to what is held is dropped. Complete messages are handed on and not held, so neither a
//! retransmission nor the next flight finds the room taken.
//!
//! Work is bounded over the life of the peer by [`LIFE_FRAGMENTS`] and [`LIFE_BYTES`], several times a bad
//! handshake; whoever exceeds it is refused for good ([`Refusal::Exhausted`]). A message that comes again while the
//! handshake runs is dropped, except the first ClientHello before the second: the endpoint stops its
//! retransmission timer at any message that does not complete a flight, and would wait forever. Records that the
//! endpoint may have to queue, that is ChangeCipherSpec and everything encrypted, are limited to
//! [`EARLY_RECORDS`]; the room is given again when the messages have come that let it make the keys. What is
//! dropped here comes again, as after any loss.
//!
//! Afterwards records pass as they are, except those of a handshake: the far end repeats its last flight if it has
//! lost ours, and the endpoint is to see that, [`REPEATS`] times.

/// Fragments of incomplete messages that are held at once.
pub const FLIGHT_FRAGMENTS: usize = 64;
/// Bytes of incomplete messages that are held at once; no message can be longer.
pub const FLIGHT_BYTES: usize = 32 * 1024;
/// Handshake fragments that are looked at in a peer's life.
pub const LIFE_FRAGMENTS: usize = 1024;
/// Bytes of handshake records that are looked at in a peer's life.
pub const LIFE_BYTES: usize = 256 * 1024;
/// Records of repeated handshake messages, plain or encrypted, that are passed on in a peer's life.
pub const REPEATS: u32 = 64;
/// Records that the endpoint may have to queue until it has keys.
pub const EARLY_RECORDS: u32 = EARLY.change_cipher_spec + EARLY.handshake + EARLY.other;

/// Separate rooms, so that early data cannot take that of the message which ends the handshake.
const EARLY: Early = Early { change_cipher_spec: 4, handshake: 8, other: 4 };
/// How often the room for early records is given again.
const EARLY_REFILLS: u32 = 2;
/// A handshake of DTLS 1.2 has fewer than ten messages from either side.
const MESSAGES: u16 = 16;
/// An encrypted Finished takes 40 to 100 bytes. Anything longer could hide many fragments.
const MAX_ENCRYPTED_HANDSHAKE: usize = 128;
/// 2^14 bytes of plaintext and what protection may add to it.
const MAX_RECORD: usize = (1 << 14) + 2048;

const RECORD_HEADER: usize = 13;
const FRAGMENT_HEADER: usize = 12;

/// What to feed to the endpoint in place of a datagram.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Admission {
    /// The datagram itself.
    AsIs,
    /// This one.
    Rewritten(Vec<u8>),
    /// Nothing: it carried pieces of messages that are not complete yet, or nothing new.
    Held,
}

/// Why a datagram is kept from the endpoint.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum Refusal {
    /// Lengths, types or versions are not those of DTLS 1.2.
    #[error("malformed DTLS record")]
    Malformed,
    /// A fragment without content, of a message that has some.
    #[error("empty handshake fragment")]
    EmptyFragment,
    /// Two fragments disagree on what message they belong to.
    #[error("contradictory handshake fragments")]
    Contradiction,
    /// A message that no handshake has: too long, too late or numbered too high.
    #[error("handshake message that no handshake has")]
    Message,
    /// More is incomplete at once than a flight can have.
    #[error("too many incomplete handshake messages")]
    Flight,
    /// More has been sent than any handshake needs. It will not get better: the peer can be dropped.
    #[error("handshake budget exhausted")]
    Exhausted,
    /// Too many records that cannot be decrypted yet.
    #[error("too many early records")]
    Early,
    /// Too many repetitions of handshake messages.
    #[error("too many repeated handshake messages")]
    Repeats,
}

impl Refusal {
    /// The reason as a metric's label.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::EmptyFragment => "empty_fragment",
            Self::Contradiction => "contradiction",
            Self::Message => "message",
            Self::Flight => "flight",
            Self::Exhausted => "exhausted",
            Self::Early => "early",
            Self::Repeats => "repeats",
        }
    }
}

/// The guard of one peer, for either role.
#[derive(Debug)]
pub struct DtlsGuard {
    complete: bool,
    /// A bit for each message that was handed on.
    delivered: u32,
    /// Messages of which pieces are held.
    partial: Vec<Partial>,
    held_fragments: usize,
    held_bytes: usize,
    fragments_left: usize,
    bytes_left: usize,
    repeats_left: u32,
    early_left: Early,
    refills_left: u32,
}

impl Default for DtlsGuard {
    fn default() -> Self {
        Self::new()
    }
}

impl DtlsGuard {
    /// A guard before the first datagram.
    #[must_use]
    pub fn new() -> Self {
        Self {
            complete: false,
            delivered: 0,
            partial: Vec::new(),
            held_fragments: 0,
            held_bytes: 0,
            fragments_left: LIFE_FRAGMENTS,
            bytes_left: LIFE_BYTES,
            repeats_left: REPEATS,
            early_left: EARLY,
            refills_left: EARLY_REFILLS,
        }
    }

    /// The endpoint has keys and both sides are authenticated: records pass from now on.
    pub fn handshake_complete(&mut self) {
        self.complete = true;
        self.partial = Vec::new();
        (self.held_fragments, self.held_bytes) = (0, 0);
    }

    /// Judges a datagram whose first byte is that of DTLS.
    ///
    /// # Errors
    ///
    /// [`Refusal`] says why nothing of it may reach the endpoint.
    pub fn admit(&mut self, datagram: &[u8]) -> Result<Admission, Refusal> {
        let survey = Survey::of(datagram)?;
        if survey.is_data && self.complete {
            return Ok(Admission::AsIs);
        }
        if survey.fragments > self.fragments_left || survey.handshake_bytes > self.bytes_left {
            // What is left is taken away, so that the refusal is final.
            (self.fragments_left, self.bytes_left) = (0, 0);
            self.partial = Vec::new();
            return Err(Refusal::Exhausted);
        }
        self.fragments_left -= survey.fragments;
        self.bytes_left -= survey.handshake_bytes;

        let mut out = Vec::new();
        let mut refusal = None;
        for record in Records(datagram) {
            let record = record?;
            let admitted = match (record.kind, record.epoch) {
                (ContentType::Handshake, 0) => self.admit_handshake(&record, &mut out),
                _ => self.admit_whole(&record, &mut out),
            };
            refusal = refusal.or(admitted.err());
        }
        match refusal {
            Some(refusal) if out.is_empty() => Err(refusal),
            _ if out.is_empty() => Ok(Admission::Held),
            _ if out == datagram => Ok(Admission::AsIs),
            _ => Ok(Admission::Rewritten(out)),
        }
    }

    /// A record that is passed on as it is or not at all.
    fn admit_whole(&mut self, record: &Record<'_>, out: &mut Vec<u8>) -> Result<(), Refusal> {
        let (room, refusal) = match (self.complete, record.kind) {
            (true, ContentType::Handshake | ContentType::ChangeCipherSpec) => {
                (Some(&mut self.repeats_left), Refusal::Repeats)
            }
            (true, _) => (None, Refusal::Early),
            (false, ContentType::ChangeCipherSpec) => {
                (Some(&mut self.early_left.change_cipher_spec), Refusal::Early)
            }
            (false, ContentType::Handshake) => (Some(&mut self.early_left.handshake), Refusal::Early),
            (false, _) => (Some(&mut self.early_left.other), Refusal::Early),
        };
        if let Some(room) = room {
            *room = room.checked_sub(1).ok_or(refusal)?;
        }
        out.extend_from_slice(record.bytes);
        Ok(())
    }

    /// A record of plain handshake fragments: appends one with what they complete, if anything.
    fn admit_handshake(&mut self, record: &Record<'_>, out: &mut Vec<u8>) -> Result<(), Refusal> {
        let begin = out.len();
        out.extend_from_slice(&record.bytes[..RECORD_HEADER]);
        let mut repeated = None;
        let mut refusal = None;
        for fragment in Fragments(record.body) {
            let fragment = fragment?;
            let is_repeated = self.delivered & 1 << fragment.message != 0 && !self.awaits_again(&fragment);
            if is_repeated {
                // The end of a message stands for all of it: the endpoint needs to see that it came again.
                if fragment.is_last() && self.complete {
                    repeated = Some(fragment.bytes);
                }
            } else if self.complete {
                refusal = Some(Refusal::Message);
            } else {
                match self.collect(&fragment, out) {
                    Ok(true) => self.delivered(&fragment),
                    Ok(false) => {}
                    Err(why) => refusal = Some(why),
                }
            }
        }
        if let Some(repeated) = repeated {
            match self.repeats_left.checked_sub(1) {
                Some(left) => {
                    self.repeats_left = left;
                    // Behind everything else: the endpoint takes an incomplete message to fill its record.
                    out.extend_from_slice(repeated);
                }
                None => refusal = Some(Refusal::Repeats),
            }
        }
        let body = out.len() - begin - RECORD_HEADER;
        match u16::try_from(body) {
            Ok(0) | Err(_) => out.truncate(begin),
            Ok(length) => {
                out[begin + RECORD_HEADER - 2..begin + RECORD_HEADER].copy_from_slice(&length.to_be_bytes())
            }
        }
        refusal.map_or(Ok(()), Err)
    }

    /// Whether this is of the first ClientHello while the second is still to come. The endpoint needs it again as
    /// often as it comes, because it sends its HelloVerifyRequest only in answer and never by a timer.
    fn awaits_again(&self, fragment: &Fragment<'_>) -> bool {
        const CLIENT_HELLO: u8 = 1;
        fragment.kind == CLIENT_HELLO && fragment.message == 0 && self.delivered == 1 && !self.complete
    }

    /// Appends the message to `out` if this fragment completes it, and tells whether it does.
    fn collect(&mut self, fragment: &Fragment<'_>, out: &mut Vec<u8>) -> Result<bool, Refusal> {
        let index = self.partial.iter().position(|partial| partial.message == fragment.message);
        if let Some(partial) = index.map(|index| &self.partial[index]) {
            if (partial.kind, partial.length) != (fragment.kind, fragment.length) {
                return Err(Refusal::Contradiction);
            }
            if partial.covers(fragment.offset, fragment.end()) {
                return Ok(false);
            }
        }
        if fragment.content().len() == fragment.length {
            out.extend_from_slice(fragment.bytes);
            return Ok(true);
        }
        if self.held_fragments >= FLIGHT_FRAGMENTS
            || self.held_bytes + fragment.content().len() > FLIGHT_BYTES
        {
            return Err(Refusal::Flight);
        }
        self.held_fragments += 1;
        self.held_bytes += fragment.content().len();
        let index = index.unwrap_or_else(|| {
            self.partial.push(Partial::of(fragment));
            self.partial.len() - 1
        });
        let partial = &mut self.partial[index];
        partial.insert(fragment);
        let completes = partial.covers(0, partial.length);
        if completes {
            partial.append_to(out);
        }
        Ok(completes)
    }

    /// Notes that a message was handed on, and lets go what is held of all that were.
    fn delivered(&mut self, fragment: &Fragment<'_>) {
        /// ServerHelloDone, CertificateVerify and ClientKeyExchange: with these the endpoint makes its keys and
        /// empties its queue.
        const KEY_MESSAGES: std::ops::RangeInclusive<u8> = 14..=16;
        self.delivered |= 1 << fragment.message;
        self.partial.retain(|partial| self.delivered & 1 << partial.message == 0);
        self.held_fragments = self.partial.iter().map(|partial| partial.pieces.len()).sum();
        self.held_bytes =
            self.partial.iter().flat_map(|partial| &partial.pieces).map(|(_, piece)| piece.len()).sum();
        if KEY_MESSAGES.contains(&fragment.kind) && self.refills_left > 0 {
            self.refills_left -= 1;
            self.early_left = EARLY;
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Early {
    change_cipher_spec: u32,
    handshake: u32,
    other: u32,
}

/// Pieces of a handshake message, sorted by offset.
#[derive(Debug)]
struct Partial {
    message: u16,
    kind: u8,
    length: usize,
    pieces: Vec<(usize, Box<[u8]>)>,
}

impl Partial {
    fn of(fragment: &Fragment<'_>) -> Self {
        Self { message: fragment.message, kind: fragment.kind, length: fragment.length, pieces: Vec::new() }
    }

    fn insert(&mut self, fragment: &Fragment<'_>) {
        let index = self.pieces.partition_point(|(offset, _)| *offset <= fragment.offset);
        self.pieces.insert(index, (fragment.offset, fragment.content().into()));
    }

    fn covers(&self, begin: usize, end: usize) -> bool {
        let reached = self.pieces.iter().fold(begin, |reached, (offset, piece)| {
            if *offset <= reached { reached.max(offset + piece.len()) } else { reached }
        });
        reached >= end
    }

    /// Appends the message, which is complete, as one fragment.
    fn append_to(&self, out: &mut Vec<u8>) {
        let length = u32::try_from(self.length).unwrap_or(u32::MAX).to_be_bytes();
        out.push(self.kind);
        out.extend_from_slice(&length[1..]);
        out.extend_from_slice(&self.message.to_be_bytes());
        out.extend_from_slice(&[0; 3]);
        out.extend_from_slice(&length[1..]);
        let begin = out.len();
        out.resize(begin + self.length, 0);
        for (offset, piece) in &self.pieces {
            out[begin + offset..begin + offset + piece.len()].copy_from_slice(piece);
        }
    }
}

/// What a datagram costs, once it is known to be well formed.
struct Survey {
    /// Nothing in it belongs to a handshake.
    is_data: bool,
    fragments: usize,
    handshake_bytes: usize,
}

impl Survey {
    fn of(datagram: &[u8]) -> Result<Self, Refusal> {
        let mut survey = Self { is_data: true, fragments: 0, handshake_bytes: 0 };
        if datagram.is_empty() {
            return Err(Refusal::Malformed);
        }
        for record in Records(datagram) {
            let record = record?;
            survey.is_data &= !matches!(record.kind, ContentType::Handshake | ContentType::ChangeCipherSpec);
            if record.kind != ContentType::Handshake {
                continue;
            }
            survey.handshake_bytes += record.body.len();
            if record.epoch == 0 {
                for fragment in Fragments(record.body) {
                    fragment?;
                    survey.fragments += 1;
                }
            }
        }
        Ok(survey)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum ContentType {
    ChangeCipherSpec,
    Alert,
    Handshake,
    ApplicationData,
}

#[derive(Debug)]
struct Record<'a> {
    kind: ContentType,
    epoch: u16,
    /// Header and body.
    bytes: &'a [u8],
    body: &'a [u8],
}

impl<'a> Record<'a> {
    /// The record at the beginning, and what follows it.
    fn split(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let &[kind, major, minor, e0, e1, _, _, _, _, _, _, l0, l1] = bytes.first_chunk::<RECORD_HEADER>()?;
        let kind = match kind {
            20 => ContentType::ChangeCipherSpec,
            21 => ContentType::Alert,
            22 => ContentType::Handshake,
            23 => ContentType::ApplicationData,
            _ => return None,
        };
        let (epoch, length) = (u16::from_be_bytes([e0, e1]), usize::from(u16::from_be_bytes([l0, l1])));
        let fits_epoch = match kind {
            ContentType::ChangeCipherSpec => epoch == 0 && length == 1,
            ContentType::Alert => epoch == 1 || (epoch == 0 && length == 2),
            ContentType::Handshake => epoch == 0 || (epoch == 1 && length <= MAX_ENCRYPTED_HANDSHAKE),
            ContentType::ApplicationData => epoch == 1,
        };
        let is_sane = major == 0xfe && matches!(minor, 0xff | 0xfd) && (1..=MAX_RECORD).contains(&length);
        if !fits_epoch || !is_sane {
            return None;
        }
        let (record, rest) = bytes.split_at_checked(RECORD_HEADER + length)?;
        Some((Self { kind, epoch, bytes: record, body: &record[RECORD_HEADER..] }, rest))
    }
}

/// The records of a datagram, to the first that is malformed.
struct Records<'a>(&'a [u8]);

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, Refusal>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let split = Record::split(self.0);
        self.0 = split.as_ref().map_or(&[], |(_, rest)| rest);
        Some(split.map(|(record, _)| record).ok_or(Refusal::Malformed))
    }
}

#[derive(Debug)]
struct Fragment<'a> {
    kind: u8,
    /// Of the whole message.
    length: usize,
    /// Which message of its sender it is.
    message: u16,
    offset: usize,
    /// Header and content.
    bytes: &'a [u8],
}

impl<'a> Fragment<'a> {
    /// The fragment at the beginning, and what follows it.
    fn split(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), Refusal> {
        let number = |b: [u8; 3]| usize::from(b[0]) << 16 | usize::from(b[1]) << 8 | usize::from(b[2]);
        let &[kind, a0, a1, a2, m0, m1, o0, o1, o2, c0, c1, c2] =
            bytes.first_chunk::<FRAGMENT_HEADER>().ok_or(Refusal::Malformed)?;
        let (length, message) = (number([a0, a1, a2]), u16::from_be_bytes([m0, m1]));
        let (offset, content) = (number([o0, o1, o2]), number([c0, c1, c2]));
        let (bytes, rest) = bytes.split_at_checked(FRAGMENT_HEADER + content).ok_or(Refusal::Malformed)?;
        if offset + content > length {
            return Err(Refusal::Malformed);
        }
        if content == 0 && length > 0 {
            return Err(Refusal::EmptyFragment);
        }
        if length > FLIGHT_BYTES || message >= MESSAGES {
            return Err(Refusal::Message);
        }
        Ok((Self { kind, length, message, offset, bytes }, rest))
    }

    fn content(&self) -> &'a [u8] {
        &self.bytes[FRAGMENT_HEADER..]
    }

    fn end(&self) -> usize {
        self.offset + self.content().len()
    }

    fn is_last(&self) -> bool {
        self.end() == self.length
    }
}

/// The fragments in a handshake record, to the first that is malformed.
struct Fragments<'a>(&'a [u8]);

impl<'a> Iterator for Fragments<'a> {
    type Item = Result<Fragment<'a>, Refusal>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let split = Fragment::split(self.0);
        self.0 = split.as_ref().map_or(&[], |(_, rest)| rest);
        Some(split.map(|(fragment, _)| fragment))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT_HELLO: u8 = 1;
    const CERTIFICATE: u8 = 11;
    const CERTIFICATE_VERIFY: u8 = 15;

    fn record(kind: u8, epoch: u16, number: u32, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![kind, 0xfe, 0xfd];
        bytes.extend_from_slice(&epoch.to_be_bytes());
        bytes.extend_from_slice(&[0, 0]);
        bytes.extend_from_slice(&number.to_be_bytes());
        bytes.extend_from_slice(&u16::try_from(body.len()).unwrap().to_be_bytes());
        bytes.extend_from_slice(body);
        bytes
    }

    fn fragment(kind: u8, message: u16, length: usize, offset: usize, content: &[u8]) -> Vec<u8> {
        let number = |number: usize| u32::try_from(number).unwrap().to_be_bytes();
        let mut bytes = vec![kind];
        bytes.extend_from_slice(&number(length)[1..]);
        bytes.extend_from_slice(&message.to_be_bytes());
        bytes.extend_from_slice(&number(offset)[1..]);
        bytes.extend_from_slice(&number(content.len())[1..]);
        bytes.extend_from_slice(content);
        bytes
    }

    fn whole(kind: u8, message: u16, content: &[u8]) -> Vec<u8> {
        fragment(kind, message, content.len(), 0, content)
    }

    /// One datagram for each piece of `size`.
    fn pieces(kind: u8, message: u16, content: &[u8], size: usize) -> Vec<Vec<u8>> {
        let piece =
            |(index, piece): (usize, &[u8])| fragment(kind, message, content.len(), index * size, piece);
        content.chunks(size).enumerate().map(piece).map(|piece| record(22, 0, 0, &piece)).collect()
    }

    fn text(length: usize) -> Vec<u8> {
        (0..length).map(|index| (index * 31 % 251) as u8).collect()
    }

    fn shuffle<T>(items: &mut [T], random: &mut impl FnMut() -> u64) {
        for index in (1..items.len()).rev() {
            items.swap(index, (random() % (index as u64 + 1)) as usize);
        }
    }

    fn xorshift(mut state: u64) -> impl FnMut() -> u64 {
        move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        }
    }

    #[test]
    fn a_handshake_of_whole_messages_passes_untouched() {
        let mut guard = DtlsGuard::new();
        let mut last_flight = record(22, 0, 2, &whole(CERTIFICATE, 2, &text(400)));
        last_flight.extend(record(22, 0, 3, &whole(16, 3, &text(66))));
        last_flight.extend(record(22, 0, 4, &whole(CERTIFICATE_VERIFY, 4, &text(76))));
        last_flight.extend(record(20, 0, 5, &[1]));
        last_flight.extend(record(22, 1, 0, &text(48)));
        for datagram in [
            record(22, 0, 0, &whole(CLIENT_HELLO, 0, &text(200))),
            record(22, 0, 1, &whole(CLIENT_HELLO, 1, &text(220))),
            last_flight,
        ] {
            assert_eq!(guard.admit(&datagram), Ok(Admission::AsIs));
        }
        guard.handshake_complete();
        assert_eq!(guard.admit(&record(23, 1, 1, &text(1200))), Ok(Admission::AsIs));
    }

    #[test]
    fn a_fragmented_hello_is_handed_on_whole_in_any_order() {
        let hello = text(1700);
        for seed in 1..200 {
            let mut random = xorshift(seed);
            let mut datagrams = pieces(CLIENT_HELLO, 1, &hello, 30 + (seed as usize * 13) % 1200);
            // Some come twice.
            for index in 0..datagrams.len() / 4 {
                datagrams.push(datagrams[index].clone());
            }
            shuffle(&mut datagrams, &mut random);
            let mut guard = DtlsGuard::new();
            let handed_on: Vec<_> = datagrams.iter().map(|datagram| guard.admit(datagram).unwrap()).collect();
            let expected = Admission::Rewritten(record(22, 0, 0, &whole(CLIENT_HELLO, 1, &hello)));
            assert_eq!(handed_on.iter().filter(|&one| *one == expected).count(), 1, "seed {seed}");
            assert_eq!((guard.held_bytes, guard.held_fragments, guard.partial.len()), (0, 0, 0));
        }
    }

    #[test]
    fn fragments_of_another_size_after_a_loss_fill_the_gaps() {
        let hello = text(1700);
        let mut guard = DtlsGuard::new();
        assert_eq!(guard.admit(&pieces(CLIENT_HELLO, 0, &hello, 1150)[0]), Ok(Admission::Held));
        let mut completed = 0;
        for datagram in pieces(CLIENT_HELLO, 0, &hello, 203) {
            if guard.admit(&datagram).unwrap() != Admission::Held {
                completed += 1;
            }
        }
        assert_eq!(completed, 1);
    }

    #[test]
    fn a_lossy_handshake_of_small_fragments_completes_within_the_budget() {
        for seed in 1..100 {
            let mut random = xorshift(seed);
            let mut guard = DtlsGuard::new();
            for (kind, message, length) in
                [(1, 0, 1700), (1, 1, 1720), (CERTIFICATE, 2, 900), (16, 3, 66), (15, 4, 80)]
            {
                let mut rounds = 0;
                while guard.delivered & 1 << message == 0 {
                    rounds += 1;
                    assert!(rounds <= 12, "seed {seed}: message {message} is lost");
                    for datagram in pieces(kind, message, &text(length), if rounds > 2 { 203 } else { 1150 })
                    {
                        if random() % 10 >= 3 {
                            guard.admit(&datagram).unwrap();
                        }
                    }
                    let _ = guard.admit(&record(22, 1, rounds, &text(48)));
                }
            }
            assert_eq!(guard.admit(&record(20, 0, 90, &[1])), Ok(Admission::AsIs));
            assert_eq!(guard.admit(&record(22, 1, 91, &text(48))), Ok(Admission::AsIs));
        }
    }

    #[test]
    fn a_record_of_an_end_and_a_beginning_is_taken_apart() {
        let certificate = text(1000);
        let mut guard = DtlsGuard::new();
        let first = record(22, 0, 0, &fragment(CERTIFICATE, 2, 1000, 0, &certificate[..700]));
        assert_eq!(guard.admit(&first), Ok(Admission::Held));
        let mut body = fragment(CERTIFICATE, 2, 1000, 700, &certificate[700..]);
        body.extend(whole(16, 3, &text(66)));
        body.extend(fragment(CERTIFICATE_VERIFY, 4, 80, 0, &text(40)));
        let mut expected = whole(CERTIFICATE, 2, &certificate);
        expected.extend(whole(16, 3, &text(66)));
        assert_eq!(
            guard.admit(&record(22, 0, 1, &body)),
            Ok(Admission::Rewritten(record(22, 0, 1, &expected)))
        );
    }

    #[test]
    fn a_repeated_message_is_reported_a_bounded_number_of_times() {
        let mut guard = DtlsGuard::new();
        let hello = record(22, 0, 0, &whole(CLIENT_HELLO, 0, &text(200)));
        guard.admit(&hello).unwrap();
        guard.handshake_complete();
        let results: Vec<_> = (0..200).map(|_| guard.admit(&hello)).collect();
        assert_eq!(results.iter().filter(|result| **result == Ok(Admission::AsIs)).count(), REPEATS as usize);
        assert_eq!(results.last(), Some(&Err(Refusal::Repeats)));
    }

    #[test]
    fn a_repeated_message_is_not_reported_while_the_endpoint_waits_for_another() {
        let mut guard = DtlsGuard::new();
        let hello = |message| record(22, 0, 0, &whole(CLIENT_HELLO, message, &text(200)));
        guard.admit(&hello(0)).unwrap();
        assert_eq!(guard.admit(&hello(0)), Ok(Admission::AsIs), "the answer may be lost");
        guard.admit(&pieces(CLIENT_HELLO, 0, &text(200), 150)[0]).unwrap();
        assert_eq!(guard.held_bytes, 150, "it may come in pieces");
        guard.admit(&hello(1)).unwrap();
        assert_eq!((guard.held_bytes, guard.held_fragments), (0, 0));
        assert_eq!(guard.admit(&hello(0)), Ok(Admission::Held));
        assert_eq!(guard.admit(&hello(1)), Ok(Admission::Held));
        guard.handshake_complete();
        assert_eq!(guard.admit(&hello(1)), Ok(Admission::AsIs), "so may the last flight");
    }

    #[test]
    fn endless_retransmission_ends_in_exhaustion_for_good() {
        let mut guard = DtlsGuard::new();
        let half = record(22, 0, 0, &fragment(CLIENT_HELLO, 0, 1700, 0, &text(1000)));
        let passed = (0..10_000).take_while(|_| guard.admit(&half) == Ok(Admission::Held)).count();
        assert_eq!(passed, LIFE_BYTES / 1012);
        assert_eq!(guard.admit(&half), Err(Refusal::Exhausted));
        assert_eq!(
            guard.admit(&record(22, 0, 1, &whole(CLIENT_HELLO, 1, &text(9)))),
            Err(Refusal::Exhausted)
        );
        assert!(guard.partial.is_empty());
    }

    #[test]
    fn forty_thousand_one_byte_fragments_cost_nothing() {
        let length = 30_000;
        for together in [1, 50, 1000] {
            let mut guard = DtlsGuard::new();
            let begin = std::time::Instant::now();
            let mut offset = 0;
            for _ in 0..40_000 / together {
                let mut body = Vec::new();
                for _ in 0..together {
                    body.extend(fragment(CLIENT_HELLO, 0, length, offset % length, &[7]));
                    offset += 1;
                }
                let admitted = guard.admit(&record(22, 0, 0, &body));
                assert!(!matches!(admitted, Ok(Admission::AsIs | Admission::Rewritten(_))));
                assert!(guard.held_fragments <= FLIGHT_FRAGMENTS);
            }
            assert_eq!(guard.admit(&record(22, 0, 0, &whole(1, 0, b"hello"))), Err(Refusal::Exhausted));
            // About a millisecond where it was written; the margin is for a busy machine.
            assert!(begin.elapsed().as_millis() < 500);
        }
    }

    #[test]
    fn overlapping_fragments_are_bounded_like_any_others() {
        let mut guard = DtlsGuard::new();
        let length = 20_000;
        let mut held = 0;
        for offset in 0..500 {
            let datagram = record(22, 0, 0, &fragment(CLIENT_HELLO, 0, length, offset, &text(1000)));
            held += usize::from(guard.admit(&datagram) == Ok(Admission::Held));
            assert!(guard.held_bytes <= FLIGHT_BYTES && guard.held_fragments <= FLIGHT_FRAGMENTS);
        }
        assert_eq!(held, FLIGHT_BYTES / 1000);
    }

    #[test]
    fn many_begun_messages_share_one_flights_room() {
        let mut guard = DtlsGuard::new();
        for number in 0..500_u16 {
            let datagram =
                record(22, 0, 0, &fragment(CERTIFICATE, number % MESSAGES, 900, usize::from(number), &[1]));
            let _ = guard.admit(&datagram);
        }
        assert!(guard.held_fragments <= FLIGHT_FRAGMENTS && guard.partial.len() <= usize::from(MESSAGES));
    }

    #[test]
    fn early_records_are_bounded_and_data_does_not_take_the_room_of_finished() {
        let mut guard = DtlsGuard::new();
        let passes = |guard: &mut DtlsGuard, datagram: &[u8]| {
            (0..40).filter(|_| guard.admit(datagram) == Ok(Admission::AsIs)).count() as u32
        };
        let data = passes(&mut guard, &record(23, 1, 0, &text(100)));
        let finished = passes(&mut guard, &record(22, 1, 0, &text(48)));
        let change = passes(&mut guard, &record(20, 0, 0, &[1]));
        assert!(data > 0 && finished > 0 && change > 0);
        assert_eq!(data + finished + change, EARLY_RECORDS);
        assert_eq!(EARLY_RECORDS, 16);
        assert_eq!(guard.admit(&record(22, 1, 0, &text(48))), Err(Refusal::Early));

        // With the messages that make the keys there is room again, a bounded number of times.
        let mut all = 0;
        for number in 0..MESSAGES {
            guard.admit(&record(22, 0, 0, &whole(CERTIFICATE_VERIFY, number, &text(80)))).unwrap();
            all += passes(&mut guard, &record(22, 1, 0, &text(48)));
        }
        assert_eq!(all, EARLY_REFILLS * EARLY.handshake);
    }

    #[test]
    fn a_message_passes_although_the_early_records_beside_it_do_not() {
        let mut guard = DtlsGuard::new();
        while guard.admit(&record(22, 1, 0, &text(48))).is_ok() {}
        let message = record(22, 0, 0, &whole(CERTIFICATE, 2, &text(80)));
        let mut datagram = message.clone();
        datagram.extend(record(22, 1, 0, &text(48)));
        assert_eq!(guard.admit(&datagram), Ok(Admission::Rewritten(message)));
    }

    #[test]
    fn after_the_handshake_handshake_records_are_bounded() {
        let mut guard = DtlsGuard::new();
        let hello = record(22, 0, 0, &whole(CLIENT_HELLO, 0, &text(200)));
        guard.admit(&hello).unwrap();
        guard.handshake_complete();
        assert_eq!(
            guard.admit(&record(22, 0, 1, &whole(CLIENT_HELLO, 6, &text(200)))),
            Err(Refusal::Message)
        );
        let mut passed = 0;
        for _ in 0..40_000 {
            passed += u32::from(guard.admit(&record(22, 1, 0, &text(48))).is_ok());
            passed += u32::from(guard.admit(&hello).is_ok());
        }
        assert_eq!(passed, REPEATS);
        assert_eq!(
            guard.admit(&record(23, 1, 1, &text(1200))),
            Ok(Admission::AsIs),
            "data passes all the same"
        );
        assert_eq!(
            guard.admit(&record(22, 1, 0, &text(500))),
            Err(Refusal::Malformed),
            "could hide fragments"
        );
    }

    #[test]
    fn lengths_types_versions_and_epochs_that_lie_are_refused() {
        let hello = whole(CLIENT_HELLO, 0, &text(20));
        let good = record(22, 0, 0, &hello);
        for cut in 0..good.len() {
            assert_eq!(DtlsGuard::new().admit(&good[..cut]), Err(Refusal::Malformed), "{cut}");
        }
        let changed = |at: usize, value: u8| {
            let mut datagram = good.clone();
            datagram[at] = value;
            DtlsGuard::new().admit(&datagram)
        };
        for (at, value) in
            [(0, 19), (0, 24), (0, 23), (1, 3), (2, 0), (4, 2), (12, 31), (12, 33), (24, 21), (21, 1)]
        {
            assert_eq!(changed(at, value), Err(Refusal::Malformed), "{at}: {value}");
        }
        let refused = |fragment: &[u8]| DtlsGuard::new().admit(&record(22, 0, 0, fragment));
        assert_eq!(refused(&fragment(1, 0, 20, 5, &[])), Err(Refusal::EmptyFragment));
        assert_eq!(refused(&fragment(1, MESSAGES, 20, 0, &text(20))), Err(Refusal::Message));
        assert_eq!(refused(&fragment(1, 0, FLIGHT_BYTES + 1, 0, &text(20))), Err(Refusal::Message));
        assert_eq!(refused(&whole(14, 0, &[])), Ok(Admission::AsIs), "ServerHelloDone is empty");
        assert_eq!(DtlsGuard::new().admit(&record(20, 1, 0, &[1])), Err(Refusal::Malformed));
        assert_eq!(DtlsGuard::new().admit(&record(23, 2, 0, &[1])), Err(Refusal::Malformed));
    }

    #[test]
    fn fragments_that_contradict_each_other_are_refused() {
        let mut guard = DtlsGuard::new();
        guard.admit(&record(22, 0, 0, &fragment(1, 0, 100, 0, &text(50)))).unwrap();
        for other in [fragment(1, 0, 101, 50, &text(50)), fragment(2, 0, 100, 50, &text(50))] {
            assert_eq!(guard.admit(&record(22, 0, 0, &other)), Err(Refusal::Contradiction));
        }
    }
}
