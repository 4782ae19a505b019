//! The bytes of STUN ([RFC 8489](https://www.rfc-editor.org/rfc/rfc8489)) beneath whoever speaks it: TURN in [`super`], ICE in
//! the server's engine.
//!
//! The header, how attributes follow each other, masked addresses, the fingerprint, and integrity with a key that somebody
//! else has made. What messages there are, what their attributes mean, how long they may be and which keys are right is
//! for those above. Reading never allocates, and integrity is compared in constant time.

use std::net::{IpAddr, SocketAddr};

use ring::hmac;

use super::{attribute, crc32::crc32};

/// Length of the fixed header.
pub const HEADER_LEN: usize = 20;
/// In every header, at its fifth byte.
pub const MAGIC_COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
/// Bytes of a signed message at most: those of known clients have a few hundred.
pub const MAX_SIGNED: usize = 1500;

const FINGERPRINT_XOR: u32 = 0x5354_554e;
/// An error response lists no more unknown attributes than these, so that it stays small.
const MAX_UNKNOWN: usize = 8;

/// A transaction's identifier.
pub type Transaction = [u8; 12];

/// What kind of message it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// Wants a response.
    Request,
    /// Wants none.
    Indication,
    /// Answers a request.
    Success,
    /// Refuses a request.
    Error,
}

impl Class {
    fn bits(self) -> u16 {
        match self {
            Self::Request => 0x000,
            Self::Indication => 0x010,
            Self::Success => 0x100,
            Self::Error => 0x110,
        }
    }

    fn of(kind: u16) -> Self {
        match kind & 0x110 {
            0x000 => Self::Request,
            0x010 => Self::Indication,
            0x100 => Self::Success,
            _ => Self::Error,
        }
    }
}

/// Why bytes are no STUN message.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum Malformed {
    /// Wrong length, first bits or magic cookie.
    #[error("not a STUN header")]
    Header,
    /// An attribute runs over the end. To ICE also: it has not the length that its type demands.
    #[error("a STUN attribute has a wrong length")]
    Attribute,
    /// An attribute follows FINGERPRINT.
    #[error("a STUN attribute follows the fingerprint")]
    Order,
}

/// What a message begins with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// What kind of message it is.
    pub class: Class,
    /// What it is about.
    pub method: u16,
    /// Which exchange it belongs to.
    pub transaction: Transaction,
}

impl Header {
    /// Reads the header of what holds one message and nothing else.
    ///
    /// # Errors
    /// [`Malformed::Header`], also if it does not fit the length of the bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let head = bytes.first_chunk::<HEADER_LEN>().ok_or(Malformed::Header)?;
        let kind = u16::from_be_bytes([head[0], head[1]]);
        let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
        let fits = bytes.len() == HEADER_LEN + length && length.is_multiple_of(4);
        if kind >= 0x4000 || head[4..8] != MAGIC_COOKIE || !fits {
            return Err(Malformed::Header);
        }
        let mut transaction = Transaction::default();
        transaction.copy_from_slice(&head[8..]);
        let method = (kind & 0x000f) | ((kind & 0x00e0) >> 1) | ((kind & 0x3e00) >> 2);
        Ok(Self { class: Class::of(kind), method, transaction })
    }

    /// As it is written, before `length` bytes of attributes.
    #[must_use]
    pub fn to_bytes(self, length: u16) -> [u8; HEADER_LEN] {
        let Self { class, method, transaction } = self;
        let kind = (method & 0x000f) | ((method & 0x0070) << 1) | ((method & 0x0f80) << 2) | class.bits();
        let mut bytes = [0; HEADER_LEN];
        bytes[..2].copy_from_slice(&kind.to_be_bytes());
        bytes[2..4].copy_from_slice(&length.to_be_bytes());
        bytes[4..8].copy_from_slice(&MAGIC_COOKIE);
        bytes[8..].copy_from_slice(&transaction);
        bytes
    }
}

/// The attributes of a message whose header has been read: the offset at which each begins, its type and its value.
#[derive(Clone, Debug)]
pub struct Attributes<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Attributes<'a> {
    /// Those of this message.
    #[must_use]
    pub fn of(message: &'a [u8]) -> Self {
        Self { bytes: message, at: HEADER_LEN }
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Result<(usize, u16, &'a [u8]), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        let at = self.at;
        let rest = self.bytes.get(at..).filter(|rest| !rest.is_empty())?;
        let Some(&[k0, k1, l0, l1]) = rest.first_chunk() else {
            self.at = self.bytes.len();
            return Some(Err(Malformed::Attribute));
        };
        let length = usize::from(u16::from_be_bytes([l0, l1]));
        // The padding belongs to the message too: its length is a multiple of four.
        let Some(padded) = rest.get(4..4 + length.next_multiple_of(4)) else {
            self.at = self.bytes.len();
            return Some(Err(Malformed::Attribute));
        };
        self.at = at + 4 + padded.len();
        Some(Ok((at, u16::from_be_bytes([k0, k1]), &padded[..length])))
    }
}

/// A value of a fixed length, or `None`.
#[must_use]
pub fn exact<const N: usize>(value: &[u8]) -> Option<[u8; N]> {
    value.try_into().ok()
}

/// The code in the value of an `ERROR-CODE`.
#[must_use]
pub fn error_code(value: &[u8]) -> Option<u16> {
    let [_, _, class, number, ..] = *value else { return None };
    Some(u16::from(class & 7) * 100 + u16::from(number))
}

/// Types of attributes that must be understood and are not; the first eight of them.
#[derive(Clone, Debug, Default)]
pub struct Unknown {
    kinds: [u16; MAX_UNKNOWN],
    count: usize,
}

impl Unknown {
    /// Another one.
    pub fn note(&mut self, kind: u16) {
        if let Some(slot) = self.kinds.get_mut(self.count) {
            *slot = kind;
            self.count += 1;
        }
    }

    /// Those that were noted.
    #[must_use]
    pub fn as_slice(&self) -> &[u16] {
        &self.kinds[..self.count]
    }
}

/// Whether the integrity that begins at `at` was written by someone who knows the key; the key's algorithm is that of the
/// attribute. Compares in constant time. False for what is longer than [`MAX_SIGNED`].
#[must_use]
pub fn is_signed(message: &[u8], at: usize, key: &hmac::Key) -> bool {
    let end = at + 4 + key.algorithm().digest_algorithm().output_len();
    let mut signed = [0; MAX_SIGNED];
    let (Some(signed), Some(tag)) = (signed.get_mut(..at), message.get(at + 4..end)) else { return false };
    if at < HEADER_LEN {
        return false;
    }
    signed.copy_from_slice(&message[..at]);
    // The HMAC covers the message as if it ended with this attribute.
    write_length(signed, end);
    hmac::verify(key, signed, tag).is_ok()
}

/// The value of the `FINGERPRINT` that follows these bytes.
#[must_use]
pub fn fingerprint(bytes: &[u8]) -> [u8; 4] {
    (crc32(bytes) ^ FINGERPRINT_XOR).to_be_bytes()
}

/// Whether the `FINGERPRINT` that begins at `at` is right.
#[must_use]
pub fn is_fingerprint_right(message: &[u8], at: usize) -> bool {
    message.get(at + 4..at + 8).is_some_and(|value| value == fingerprint(&message[..at]))
}

/// Writes the length field of a message that will be `total` bytes long.
fn write_length(message: &mut [u8], total: usize) {
    let length = u16::try_from(total - HEADER_LEN).unwrap_or(u16::MAX);
    message[2..4].copy_from_slice(&length.to_be_bytes());
}

/// Writes a message.
#[derive(Debug)]
pub struct Builder {
    bytes: Vec<u8>,
}

impl Builder {
    /// Begins a message.
    #[must_use]
    pub fn new(class: Class, method: u16, transaction: &Transaction) -> Self {
        let mut bytes = Vec::with_capacity(160);
        bytes.extend_from_slice(&Header { class, method, transaction: *transaction }.to_bytes(0));
        Self { bytes }
    }

    /// Appends an attribute.
    #[must_use]
    pub fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(value.len()).unwrap_or(u16::MAX);
        let value = &value[..usize::from(length)];
        self.bytes.extend_from_slice(&kind.to_be_bytes());
        self.bytes.extend_from_slice(&length.to_be_bytes());
        self.bytes.extend_from_slice(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self
    }

    /// Appends an address, masked as `XOR-…-ADDRESS` are. An IPv4 address in IPv6 clothes, as a dual-stack socket shows
    /// it, is written as the IPv4 address that it is.
    #[must_use]
    pub fn address(self, kind: u16, address: SocketAddr) -> Self {
        let mut transaction = Transaction::default();
        transaction.copy_from_slice(&self.bytes[8..HEADER_LEN]);
        let (value, length) = mask(address, &transaction);
        self.attribute(kind, &value[..length])
    }

    /// Appends `ERROR-CODE` without a reason phrase: it is for people, and nobody sees it.
    #[must_use]
    pub fn error(self, code: u16) -> Self {
        let [class, number] = [code / 100, code % 100].map(|part| u8::try_from(part).unwrap_or(0));
        self.attribute(attribute::ERROR_CODE, &[0, 0, class, number])
    }

    /// Appends `UNKNOWN-ATTRIBUTES`.
    #[must_use]
    pub fn unknown(self, kinds: &[u16]) -> Self {
        let value: Vec<u8> = kinds.iter().flat_map(|kind| kind.to_be_bytes()).collect();
        self.attribute(attribute::UNKNOWN_ATTRIBUTES, &value)
    }

    /// Appends integrity, made with the key: `MESSAGE-INTEGRITY`, or `MESSAGE-INTEGRITY-SHA256` if the key is of that
    /// algorithm.
    #[must_use]
    pub fn sign_with(mut self, key: &hmac::Key) -> Self {
        let algorithm = key.algorithm();
        let kind = if algorithm == hmac::HMAC_SHA256 {
            attribute::MESSAGE_INTEGRITY_SHA256
        } else {
            attribute::MESSAGE_INTEGRITY
        };
        let total = self.bytes.len() + 4 + algorithm.digest_algorithm().output_len();
        write_length(&mut self.bytes, total);
        let tag = hmac::sign(key, &self.bytes);
        self.attribute(kind, tag.as_ref())
    }

    /// Ends the message, with or without a fingerprint.
    #[must_use]
    pub fn finish(mut self, has_fingerprint: bool) -> Vec<u8> {
        if has_fingerprint {
            let total = self.bytes.len() + 8;
            write_length(&mut self.bytes, total);
            let value = fingerprint(&self.bytes);
            self = self.attribute(attribute::FINGERPRINT, &value);
        }
        let total = self.bytes.len();
        write_length(&mut self.bytes, total);
        self.bytes
    }
}

fn address_mask(transaction: &Transaction) -> [u8; 16] {
    let mut mask = [0; 16];
    mask[..4].copy_from_slice(&MAGIC_COOKIE);
    mask[4..].copy_from_slice(transaction);
    mask
}

fn xor_into(target: &mut [u8], source: &[u8], mask: &[u8]) {
    for ((target, source), mask) in target.iter_mut().zip(source).zip(mask) {
        *target = source ^ mask;
    }
}

/// An address as `XOR-…-ADDRESS` have it, and how many of the bytes count.
#[must_use]
pub fn mask(address: SocketAddr, transaction: &Transaction) -> ([u8; 20], usize) {
    let mask = address_mask(transaction);
    let port = (address.port() ^ u16::from_be_bytes([MAGIC_COOKIE[0], MAGIC_COOKIE[1]])).to_be_bytes();
    let mut value = [0; 20];
    value[2..4].copy_from_slice(&port);
    let length = match address.ip().to_canonical() {
        IpAddr::V4(ip) => {
            value[1] = 1;
            xor_into(&mut value[4..8], &ip.octets(), &mask);
            8
        }
        IpAddr::V6(ip) => {
            value[1] = 2;
            xor_into(&mut value[4..20], &ip.octets(), &mask);
            20
        }
    };
    (value, length)
}

/// The address that such a value stands for.
#[must_use]
pub fn unmask(value: &[u8], transaction: &Transaction) -> Option<SocketAddr> {
    let (&[_, family, p0, p1], masked) = value.split_first_chunk()?;
    let port = u16::from_be_bytes([p0 ^ MAGIC_COOKIE[0], p1 ^ MAGIC_COOKIE[1]]);
    let mask = address_mask(transaction);
    let ip = match (family, masked.len()) {
        (1, 4) => {
            let mut octets = [0; 4];
            xor_into(&mut octets, masked, &mask);
            IpAddr::from(octets)
        }
        (2, 16) => {
            let mut octets = [0; 16];
            xor_into(&mut octets, masked, &mask);
            IpAddr::from(octets)
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::{
        super::samples::{PASSWORD, REQUEST, RESPONSE_V4, RESPONSE_V6},
        *,
    };

    const TRANSACTION: Transaction = *b"twelve bytes";

    fn key(password: &str) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, password.as_bytes())
    }

    /// Offset and value of the first attribute of this type.
    fn find(message: &[u8], kind: u16) -> (usize, &[u8]) {
        let mut attributes = Attributes::of(message).map(Result::unwrap);
        let (at, _, value) = attributes.find(|&(_, other, _)| other == kind).unwrap();
        (at, value)
    }

    #[test]
    fn the_samples_are_signed_and_have_a_fingerprint() {
        for sample in [REQUEST, RESPONSE_V4, RESPONSE_V6] {
            let (at, _) = find(sample, attribute::MESSAGE_INTEGRITY);
            assert!(is_signed(sample, at, &key(PASSWORD)));
            assert!(!is_signed(sample, at, &key("another password")));
            assert!(is_fingerprint_right(sample, find(sample, attribute::FINGERPRINT).0));
        }
    }

    #[test]
    fn the_addresses_of_the_samples_are_unmasked_and_masked() {
        for (sample, address) in
            [(RESPONSE_V4, "192.0.2.1:32853"), (RESPONSE_V6, "[2001:db8:1234:5678:11:2233:4455:6677]:32853")]
        {
            let (address, Header { transaction, .. }) =
                (address.parse().unwrap(), Header::parse(sample).unwrap());
            let (_, value) = find(sample, attribute::XOR_MAPPED_ADDRESS);
            assert_eq!(unmask(value, &transaction), Some(address));
            let (masked, length) = mask(address, &transaction);
            assert_eq!(masked[..length], *value);
        }
    }

    #[test]
    fn an_address_of_a_dual_stack_socket_is_told_as_ipv4() {
        let (value, length) = mask("[::ffff:192.0.2.7]:4000".parse().unwrap(), &TRANSACTION);
        assert_eq!(unmask(&value[..length], &TRANSACTION), Some("192.0.2.7:4000".parse().unwrap()));
    }

    #[test]
    fn a_header_is_read_as_it_is_written() {
        for class in [Class::Request, Class::Indication, Class::Success, Class::Error] {
            for bit in 0..12 {
                let header = Header { class, method: 1 << bit, transaction: TRANSACTION };
                assert_eq!(Header::parse(&header.to_bytes(0)), Ok(header));
            }
        }
    }

    #[test]
    fn lengths_that_lie_are_refused() {
        for length in [0, 1, 4, 0x57, 0x54, 0x5c, 0xffff_u16] {
            let mut bytes = REQUEST.to_vec();
            bytes[2..4].copy_from_slice(&length.to_be_bytes());
            assert_eq!(Header::parse(&bytes).unwrap_err(), Malformed::Header, "{length:#x}");
        }
        let mut bytes = REQUEST[..REQUEST.len() - 2].to_vec();
        bytes[2..4].copy_from_slice(&0x56_u16.to_be_bytes());
        assert_eq!(Header::parse(&bytes).unwrap_err(), Malformed::Header, "no multiple of four");
        let mut bytes = REQUEST.to_vec();
        bytes[22..24].copy_from_slice(&0x59_u16.to_be_bytes());
        assert_eq!(Attributes::of(&bytes).last(), Some(Err(Malformed::Attribute)));
    }

    #[test]
    fn integrity_and_fingerprint_that_are_not_there_are_not_right() {
        for at in [0, HEADER_LEN - 1, REQUEST.len() - 4, REQUEST.len(), MAX_SIGNED + 1] {
            assert!(!is_signed(REQUEST, at, &key(PASSWORD)), "{at}");
            assert!(!is_fingerprint_right(REQUEST, at), "{at}");
        }
    }

    #[test]
    fn a_message_that_is_too_long_is_not_believed() {
        let signed = |payload| {
            let builder = Builder::new(Class::Request, 1, &TRANSACTION);
            builder.attribute(attribute::DATA, &vec![0; payload]).sign_with(&key(PASSWORD)).finish(false)
        };
        let is_believed = |message: &[u8]| {
            is_signed(message, find(message, attribute::MESSAGE_INTEGRITY).0, &key(PASSWORD))
        };
        assert!(is_believed(&signed(MAX_SIGNED - HEADER_LEN - 4)));
        assert!(!is_believed(&signed(MAX_SIGNED - HEADER_LEN)));
    }
}
