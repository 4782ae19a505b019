//! The part of STUN ([RFC 8489](https://www.rfc-editor.org/rfc/rfc8489)) that ICE connectivity checks need:
//! Binding messages with short-term credentials.
//!
//! [`Message::parse`] walks a datagram once and borrows from it; [`Builder`] writes one. Nothing here keeps
//! state, decides, or knows of peers: that is [`super::ice`]. TURN's messages have their own codec elsewhere.
//!
//! Parsing never allocates. A message's integrity is compared in constant time.

use std::net::{IpAddr, SocketAddr};

use ring::hmac;

/// Length of the fixed header.
pub const HEADER_LEN: usize = 20;
/// A longer message is no connectivity check: those of known agents have a few hundred bytes.
pub const MAX_LEN: usize = 1500;
/// The method Binding, the only one ICE uses.
pub const METHOD_BINDING: u16 = 0x001;

const MAGIC_COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
const INTEGRITY_LEN: usize = 20;
const FINGERPRINT_XOR: u32 = 0x5354_554e;
/// An error response lists no more unknown attributes than these, so that it stays smaller than a request.
const MAX_UNKNOWN: usize = 8;

/// Attribute types, [RFC 8489 section 18.3](https://www.rfc-editor.org/rfc/rfc8489#section-18.3) and
/// [RFC 8445 section 20.1](https://www.rfc-editor.org/rfc/rfc8445#section-20.1).
pub mod attribute {
    /// `MAPPED-ADDRESS`
    pub const MAPPED_ADDRESS: u16 = 0x0001;
    /// `USERNAME`
    pub const USERNAME: u16 = 0x0006;
    /// `MESSAGE-INTEGRITY`
    pub const MESSAGE_INTEGRITY: u16 = 0x0008;
    /// `ERROR-CODE`
    pub const ERROR_CODE: u16 = 0x0009;
    /// `UNKNOWN-ATTRIBUTES`
    pub const UNKNOWN_ATTRIBUTES: u16 = 0x000a;
    /// `REALM`
    pub const REALM: u16 = 0x0014;
    /// `NONCE`
    pub const NONCE: u16 = 0x0015;
    /// `MESSAGE-INTEGRITY-SHA256`
    pub const MESSAGE_INTEGRITY_SHA256: u16 = 0x001c;
    /// `PASSWORD-ALGORITHM`
    pub const PASSWORD_ALGORITHM: u16 = 0x001d;
    /// `USERHASH`
    pub const USERHASH: u16 = 0x001e;
    /// `XOR-MAPPED-ADDRESS`
    pub const XOR_MAPPED_ADDRESS: u16 = 0x0020;
    /// `PRIORITY`
    pub const PRIORITY: u16 = 0x0024;
    /// `USE-CANDIDATE`
    pub const USE_CANDIDATE: u16 = 0x0025;
    /// `FINGERPRINT`
    pub const FINGERPRINT: u16 = 0x8028;
    /// `ICE-CONTROLLED`
    pub const ICE_CONTROLLED: u16 = 0x8029;
    /// `ICE-CONTROLLING`
    pub const ICE_CONTROLLING: u16 = 0x802a;
}

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
}

/// Why bytes are no STUN message.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum Malformed {
    /// Wrong length, first bits or magic cookie.
    #[error("not a STUN header")]
    Header,
    /// An attribute runs over the end, or has not the length its type demands.
    #[error("a STUN attribute has a wrong length")]
    Attribute,
    /// An attribute follows FINGERPRINT.
    #[error("a STUN attribute follows the fingerprint")]
    Order,
}

/// A short-term credential's key.
#[derive(Clone, Debug)]
pub struct Key(hmac::Key);

impl Key {
    /// The key for an ICE password. Its characters are those of RFC 8839, for which OpaqueString preparation
    /// changes nothing.
    #[must_use]
    pub fn short_term(password: &str) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, password.as_bytes()))
    }
}

/// A transaction's identifier.
pub type Transaction = [u8; 12];

/// A message that is well formed, and of which nothing has been verified.
///
/// Of an attribute that occurs more than once the first counts, and what follows the integrity is not seen,
/// except the fingerprint.
#[derive(Clone, Debug)]
pub struct Message<'a> {
    bytes: &'a [u8],
    /// What kind of message it is.
    pub class: Class,
    /// What it is about.
    pub method: u16,
    /// Which exchange it belongs to.
    pub transaction: Transaction,
    /// `USERNAME`
    pub username: Option<&'a [u8]>,
    /// `PRIORITY`
    pub priority: Option<u32>,
    /// `USE-CANDIDATE`
    pub use_candidate: bool,
    /// Whether `ICE-CONTROLLED` is there.
    pub controlled: bool,
    /// Whether `ICE-CONTROLLING` is there.
    pub controlling: bool,
    /// `XOR-MAPPED-ADDRESS`
    pub mapped: Option<SocketAddr>,
    /// The code in `ERROR-CODE`
    pub error: Option<u16>,
    unknown: [u16; MAX_UNKNOWN],
    unknown_count: usize,
    integrity_at: Option<usize>,
    fingerprint_at: Option<usize>,
}

impl<'a> Message<'a> {
    /// Reads a datagram that holds one message and nothing else.
    ///
    /// # Errors
    ///
    /// [`Malformed`] says what is wrong with it.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (kind, transaction) = header(bytes).ok_or(Malformed::Header)?;
        let mut message = Self {
            bytes,
            class: match kind & 0x110 {
                0x000 => Class::Request,
                0x010 => Class::Indication,
                0x100 => Class::Success,
                _ => Class::Error,
            },
            method: (kind & 0x000f) | ((kind & 0x00e0) >> 1) | ((kind & 0x3e00) >> 2),
            transaction,
            username: None,
            priority: None,
            use_candidate: false,
            controlled: false,
            controlling: false,
            mapped: None,
            error: None,
            unknown: [0; MAX_UNKNOWN],
            unknown_count: 0,
            integrity_at: None,
            fingerprint_at: None,
        };
        for attribute in Attributes::of(bytes) {
            let (at, kind, value) = attribute?;
            if message.fingerprint_at.is_some() {
                return Err(Malformed::Order);
            }
            message.take(at, kind, value)?;
        }
        Ok(message)
    }

    fn take(&mut self, at: usize, kind: u16, value: &'a [u8]) -> Result<(), Malformed> {
        if kind == attribute::FINGERPRINT {
            exact::<4>(value)?;
            self.fingerprint_at = Some(at);
            return Ok(());
        }
        if self.integrity_at.is_some() {
            return Ok(());
        }
        match kind {
            attribute::MESSAGE_INTEGRITY => {
                exact::<INTEGRITY_LEN>(value)?;
                self.integrity_at = Some(at);
            }
            attribute::USERNAME => {
                self.username.get_or_insert(value);
            }
            attribute::PRIORITY => {
                let priority = u32::from_be_bytes(exact(value)?);
                self.priority.get_or_insert(priority);
            }
            attribute::USE_CANDIDATE => self.use_candidate = true,
            attribute::ICE_CONTROLLED => {
                exact::<8>(value)?;
                self.controlled = true;
            }
            attribute::ICE_CONTROLLING => {
                exact::<8>(value)?;
                self.controlling = true;
            }
            attribute::XOR_MAPPED_ADDRESS => {
                let address = unmask(value, &self.transaction).ok_or(Malformed::Attribute)?;
                self.mapped.get_or_insert(address);
            }
            attribute::ERROR_CODE => {
                let [_, _, class, number, ..] = *value else {
                    return Err(Malformed::Attribute);
                };
                self.error.get_or_insert(u16::from(class & 7) * 100 + u16::from(number));
            }
            attribute::MAPPED_ADDRESS
            | attribute::UNKNOWN_ATTRIBUTES
            | attribute::REALM
            | attribute::NONCE
            | attribute::MESSAGE_INTEGRITY_SHA256
            | attribute::PASSWORD_ALGORITHM
            | attribute::USERHASH
            | 0x8000.. => {}
            unknown => {
                if let Some(slot) = self.unknown.get_mut(self.unknown_count) {
                    *slot = unknown;
                    self.unknown_count += 1;
                }
            }
        }
        Ok(())
    }

    /// Types of attributes that must be understood and are not; the first eight of them.
    #[must_use]
    pub fn unknown(&self) -> &[u16] {
        &self.unknown[..self.unknown_count]
    }

    /// Whether there is a `MESSAGE-INTEGRITY` at all.
    #[must_use]
    pub fn has_integrity(&self) -> bool {
        self.integrity_at.is_some()
    }

    /// Whether the message was written by someone who knows the key. Compares in constant time.
    #[must_use]
    pub fn verify_integrity(&self, key: &Key) -> bool {
        let Some(at) = self.integrity_at else { return false };
        // The HMAC covers the message as if it ended with this attribute.
        let mut signed = [0; MAX_LEN];
        let Some(signed) = signed.get_mut(..at) else {
            return false;
        };
        signed.copy_from_slice(&self.bytes[..at]);
        write_length(signed, at + 4 + INTEGRITY_LEN);
        hmac::verify(&key.0, signed, &self.bytes[at + 4..at + 4 + INTEGRITY_LEN]).is_ok()
    }

    /// Whether `FINGERPRINT` is right; `None` where there is none.
    #[must_use]
    pub fn verify_fingerprint(&self) -> Option<bool> {
        let at = self.fingerprint_at?;
        let expected = (crc32(&self.bytes[..at]) ^ FINGERPRINT_XOR).to_be_bytes();
        Some(self.bytes[at + 4..at + 8] == expected)
    }
}

/// The `USERNAME` of a Binding request, found without a look at anything else, or `None`.
#[must_use]
pub fn username_of_request(bytes: &[u8]) -> Option<&[u8]> {
    let (kind, _) = header(bytes)?;
    if kind != METHOD_BINDING | Class::Request.bits() {
        return None;
    }
    Attributes::of(bytes)
        .map_while(Result::ok)
        .find(|&(_, kind, _)| kind == attribute::USERNAME)
        .map(|(_, _, value)| value)
}

/// Writes a message.
#[derive(Debug)]
pub struct Builder {
    bytes: Vec<u8>,
}

impl Builder {
    /// Begins a Binding message.
    #[must_use]
    pub fn binding(class: Class, transaction: &Transaction) -> Self {
        let mut bytes = Vec::with_capacity(128);
        bytes.extend_from_slice(&(METHOD_BINDING | class.bits()).to_be_bytes());
        bytes.extend_from_slice(&[0, 0]);
        bytes.extend_from_slice(&MAGIC_COOKIE);
        bytes.extend_from_slice(transaction);
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

    /// Appends `XOR-MAPPED-ADDRESS`. An IPv4 address in IPv6 clothes, as a dual-stack socket shows it, is
    /// written as the IPv4 address that it is.
    #[must_use]
    pub fn mapped(self, address: SocketAddr) -> Self {
        let transaction: Transaction =
            self.bytes[8..HEADER_LEN].try_into().expect("twelve bytes of the header");
        let mask = address_mask(&transaction);
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
        self.attribute(attribute::XOR_MAPPED_ADDRESS, &value[..length])
    }

    /// Appends `ERROR-CODE` without a reason phrase.
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

    /// Appends integrity and fingerprint, and ends the message.
    #[must_use]
    pub fn finish(mut self, key: &Key) -> Vec<u8> {
        let length = self.bytes.len() + 4 + INTEGRITY_LEN;
        write_length(&mut self.bytes, length);
        let tag = hmac::sign(&key.0, &self.bytes);
        self = self.attribute(attribute::MESSAGE_INTEGRITY, tag.as_ref());
        let length = self.bytes.len() + 8;
        write_length(&mut self.bytes, length);
        let fingerprint = crc32(&self.bytes) ^ FINGERPRINT_XOR;
        self.attribute(attribute::FINGERPRINT, &fingerprint.to_be_bytes()).bytes
    }
}

/// Type and transaction, if the datagram begins with a header that fits its length.
fn header(bytes: &[u8]) -> Option<(u16, Transaction)> {
    let head = bytes.first_chunk::<HEADER_LEN>()?;
    let kind = u16::from_be_bytes([head[0], head[1]]);
    let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
    let fits = bytes.len() <= MAX_LEN && bytes.len() == HEADER_LEN + length && length.is_multiple_of(4);
    (kind < 0x4000 && head[4..8] == MAGIC_COOKIE && fits).then(|| {
        let mut transaction = [0; 12];
        transaction.copy_from_slice(&head[8..]);
        (kind, transaction)
    })
}

/// Attributes with the offset at which each begins.
struct Attributes<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Attributes<'a> {
    fn of(message: &'a [u8]) -> Self {
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

fn exact<const N: usize>(value: &[u8]) -> Result<[u8; N], Malformed> {
    value.try_into().map_err(|_| Malformed::Attribute)
}

/// Writes the length field of a message that will be `total` bytes long.
fn write_length(message: &mut [u8], total: usize) {
    let length = u16::try_from(total - HEADER_LEN).unwrap_or(u16::MAX);
    message[2..4].copy_from_slice(&length.to_be_bytes());
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

fn unmask(value: &[u8], transaction: &Transaction) -> Option<SocketAddr> {
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

/// CRC-32 as in ISO-HDLC, the one FINGERPRINT is made of.
fn crc32(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut index = 0;
        while index < 256 {
            let mut value = index as u32;
            let mut bit = 0;
            while bit < 8 {
                value = (value >> 1) ^ (0xedb8_8320 & (value & 1).wrapping_neg());
                bit += 1;
            }
            table[index] = value;
            index += 1;
        }
        table
    };
    !bytes.iter().fold(!0, |crc: u32, &byte| (crc >> 8) ^ TABLE[usize::from(crc as u8 ^ byte)])
}

/// The samples of [RFC 5769](https://www.rfc-editor.org/rfc/rfc5769), sections 2.1 to 2.3.
#[cfg(test)]
pub(crate) mod samples {
    pub(crate) const PASSWORD: &str = "VOkJxbRl1RmTxUk/WvJxBt";
    pub(crate) const REQUEST: &[u8] =
        b"\x00\x01\x00\x58\x21\x12\xa4\x42\xb7\xe7\xa7\x01\xbc\x34\xd6\x86\xfa\x87\xdf\xae\
        \x80\x22\x00\x10STUN test client\x00\x24\x00\x04\x6e\x00\x01\xff\
        \x80\x29\x00\x08\x93\x2f\xf9\xb1\x51\x26\x3b\x36\x00\x06\x00\x09evtj:h6vY\x20\x20\x20\
        \x00\x08\x00\x14\x9a\xea\xa7\x0c\xbf\xd8\xcb\x56\x78\x1e\xf2\xb5\xb2\xd3\xf2\x49\xc1\xb5\x71\xa2\
        \x80\x28\x00\x04\xe5\x7a\x3b\xcf";
    pub(crate) const RESPONSE_V4: &[u8] =
        b"\x01\x01\x00\x3c\x21\x12\xa4\x42\xb7\xe7\xa7\x01\xbc\x34\xd6\x86\xfa\x87\xdf\xae\
        \x80\x22\x00\x0btest vector\x20\x00\x20\x00\x08\x00\x01\xa1\x47\xe1\x12\xa6\x43\
        \x00\x08\x00\x14\x2b\x91\xf5\x99\xfd\x9e\x90\xc3\x8c\x74\x89\xf9\x2a\xf9\xba\x53\xf0\x6b\xe7\xd7\
        \x80\x28\x00\x04\xc0\x7d\x4c\x96";
    pub(crate) const RESPONSE_V6: &[u8] =
        b"\x01\x01\x00\x48\x21\x12\xa4\x42\xb7\xe7\xa7\x01\xbc\x34\xd6\x86\xfa\x87\xdf\xae\
        \x80\x22\x00\x0btest vector\x20\x00\x20\x00\x14\x00\x02\xa1\x47\x01\x13\xa9\xfa\xa5\xd3\xf1\x79\
        \xbc\x25\xf4\xb5\xbe\xd2\xb9\xd9\
        \x00\x08\x00\x14\xa3\x82\x95\x4e\x4b\xe6\x7b\xf1\x17\x84\xc9\x7c\x82\x92\xc2\x75\xbf\xe3\xed\x41\
        \x80\x28\x00\x04\xc8\xfb\x0b\x4c";
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRANSACTION: Transaction = *b"twelve bytes";

    #[test]
    fn the_sample_request_is_read_and_verified() {
        let message = Message::parse(samples::REQUEST).unwrap();
        assert_eq!((message.class, message.method), (Class::Request, METHOD_BINDING));
        assert_eq!(message.username, Some(&b"evtj:h6vY"[..]));
        assert_eq!(message.priority, Some(0x6e00_01ff));
        assert!(message.controlled && !message.controlling && !message.use_candidate);
        assert!(message.verify_integrity(&Key::short_term(samples::PASSWORD)));
        assert!(!message.verify_integrity(&Key::short_term("another password of the length")));
        assert_eq!(message.verify_fingerprint(), Some(true));
        assert!(message.unknown().is_empty());
    }

    #[test]
    fn the_sample_responses_are_read_and_verified() {
        for (sample, address) in [
            (samples::RESPONSE_V4, "192.0.2.1:32853"),
            (samples::RESPONSE_V6, "[2001:db8:1234:5678:11:2233:4455:6677]:32853"),
        ] {
            let message = Message::parse(sample).unwrap();
            assert_eq!(message.class, Class::Success);
            assert_eq!(message.mapped, Some(address.parse().unwrap()));
            assert!(message.verify_integrity(&Key::short_term(samples::PASSWORD)));
            assert_eq!(message.verify_fingerprint(), Some(true));
        }
    }

    #[test]
    fn any_changed_bit_of_a_sample_is_noticed() {
        let key = Key::short_term(samples::PASSWORD);
        for sample in [samples::REQUEST, samples::RESPONSE_V4, samples::RESPONSE_V6] {
            for bit in 0..sample.len() * 8 {
                let mut changed = sample.to_vec();
                changed[bit / 8] ^= 1 << (bit % 8);
                let passes = Message::parse(&changed).is_ok_and(|message| {
                    message.verify_integrity(&key) && message.verify_fingerprint() == Some(true)
                });
                assert!(!passes, "bit {bit}");
            }
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let key = Key::short_term("a password");
        for address in ["192.0.2.7:1", "[2001:db8::7]:65535"] {
            let address = address.parse().unwrap();
            let bytes = Builder::binding(Class::Success, &TRANSACTION).mapped(address).finish(&key);
            let message = Message::parse(&bytes).unwrap();
            assert_eq!((message.class, message.mapped), (Class::Success, Some(address)));
            assert!(message.verify_integrity(&key));
            assert_eq!(message.verify_fingerprint(), Some(true));
        }
        let bytes = Builder::binding(Class::Error, &TRANSACTION).error(487).unknown(&[0x7001]).finish(&key);
        let message = Message::parse(&bytes).unwrap();
        assert_eq!((message.class, message.error), (Class::Error, Some(487)));
    }

    #[test]
    fn an_address_of_a_dual_stack_socket_is_told_as_ipv4() {
        let key = Key::short_term("a password");
        let bytes = Builder::binding(Class::Success, &TRANSACTION)
            .mapped("[::ffff:192.0.2.7]:4000".parse().unwrap())
            .finish(&key);
        assert_eq!(Message::parse(&bytes).unwrap().mapped, Some("192.0.2.7:4000".parse().unwrap()));
    }

    #[test]
    fn what_follows_the_integrity_is_not_believed() {
        let key = Key::short_term("a password");
        let signed = Builder::binding(Class::Request, &TRANSACTION).finish(&key);
        let without_fingerprint = &signed[..signed.len() - 8];
        let forged = Builder { bytes: without_fingerprint.to_vec() }
            .attribute(attribute::USE_CANDIDATE, &[])
            .attribute(attribute::USERNAME, b"forged");
        let mut bytes = forged.bytes;
        let total = bytes.len();
        write_length(&mut bytes, total);
        let message = Message::parse(&bytes).unwrap();
        assert!(message.verify_integrity(&key));
        assert!(!message.use_candidate && message.username.is_none());
    }

    #[test]
    fn lengths_that_lie_are_refused() {
        for length in [0, 1, 4, 0x57, 0x54, 0x5c, 0xffff_u16] {
            let mut bytes = samples::REQUEST.to_vec();
            bytes[2..4].copy_from_slice(&length.to_be_bytes());
            assert_eq!(Message::parse(&bytes).unwrap_err(), Malformed::Header, "{length:#x}");
        }
        let mut bytes = samples::REQUEST.to_vec();
        bytes[22..24].copy_from_slice(&0x59_u16.to_be_bytes());
        assert_eq!(Message::parse(&bytes).unwrap_err(), Malformed::Attribute);
    }
}
