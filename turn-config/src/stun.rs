//! STUN messages ([RFC 8489](https://www.rfc-editor.org/rfc/rfc8489)) as TURN
//! ([RFC 8656](https://www.rfc-editor.org/rfc/rfc8656)) uses them: with long-term credentials.
//!
//! [`Message::parse`] walks a message once and borrows from it; [`Builder`] writes one. Nothing here keeps state, decides,
//! or knows of allocations: that is [`crate::server`]. Parsing never allocates, and integrity is compared in constant time.
//! User names and passwords are compared as bytes: those that [`crate::credentials`] makes are ASCII, which the
//! preparations of RFC 8489 (OpaqueString) leave as it is.

pub mod attribute;
mod crc32;

use std::net::{IpAddr, SocketAddr};

use md5::{Digest as _, Md5};
use ring::{digest, hmac};

use self::crc32::crc32;

/// Length of the fixed header.
pub const HEADER_LEN: usize = 20;
/// Bytes of a signed message at most: those of known clients have a few hundred.
pub const MAX_SIGNED: usize = 1500;

pub(crate) const MAGIC_COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
const FINGERPRINT_XOR: u32 = 0x5354_554e;
/// An error response lists no more unknown attributes than these, so that it stays small.
const MAX_UNKNOWN: usize = 8;

/// What a message is about, [RFC 8656 section 17](https://www.rfc-editor.org/rfc/rfc8656#section-17).
pub mod method {
    /// Which address does the server see?
    pub const BINDING: u16 = 0x001;
    /// A relayed address is wanted.
    pub const ALLOCATE: u16 = 0x003;
    /// It is to live on, or to end.
    pub const REFRESH: u16 = 0x004;
    /// Data for a peer.
    pub const SEND: u16 = 0x006;
    /// Data from a peer.
    pub const DATA: u16 = 0x007;
    /// Peers may send.
    pub const CREATE_PERMISSION: u16 = 0x008;
    /// A number stands for a peer.
    pub const CHANNEL_BIND: u16 = 0x009;
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
    /// An attribute runs over the end.
    #[error("a STUN attribute runs over the end of its message")]
    Attribute,
    /// An attribute follows FINGERPRINT.
    #[error("a STUN attribute follows the fingerprint")]
    Order,
}

/// The hash that a password is made a key with,
/// [RFC 8489 section 18.5](https://www.rfc-editor.org/rfc/rfc8489#section-18.5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PasswordAlgorithm {
    /// What every client knows.
    Md5,
    /// What newer ones prefer.
    Sha256,
}

impl PasswordAlgorithm {
    /// All of them as `PASSWORD-ALGORITHMS` lists them, the preferred one first.
    pub const LIST: [u8; 8] = [0, 2, 0, 0, 0, 1, 0, 0];

    fn from_wire(value: &[u8]) -> Option<Self> {
        // Neither takes parameters.
        match value {
            [0, 1, 0, 0] => Some(Self::Md5),
            [0, 2, 0, 0] => Some(Self::Sha256),
            _ => None,
        }
    }

    /// As `PASSWORD-ALGORITHM` has it.
    #[must_use]
    pub fn to_wire(self) -> [u8; 4] {
        match self {
            Self::Md5 => [0, 1, 0, 0],
            Self::Sha256 => [0, 2, 0, 0],
        }
    }
}

/// The hash that a message is signed with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Integrity {
    /// `MESSAGE-INTEGRITY`
    Sha1,
    /// `MESSAGE-INTEGRITY-SHA256`, untruncated
    Sha256,
}

impl Integrity {
    fn parts(self) -> (u16, usize, hmac::Algorithm) {
        match self {
            Self::Sha1 => (attribute::MESSAGE_INTEGRITY, 20, hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY),
            Self::Sha256 => (attribute::MESSAGE_INTEGRITY_SHA256, 32, hmac::HMAC_SHA256),
        }
    }
}

/// What messages are signed with.
#[derive(Clone)]
pub struct Key(Box<[u8]>);

impl Key {
    /// The key of a long-term credential,
    /// [RFC 8489 section 9.2.2](https://www.rfc-editor.org/rfc/rfc8489#section-9.2.2).
    #[must_use]
    pub fn long_term(algorithm: PasswordAlgorithm, username: &[u8], realm: &[u8], password: &[u8]) -> Self {
        let parts = [username, b":", realm, b":", password];
        Self(match algorithm {
            PasswordAlgorithm::Md5 => {
                let mut hash = Md5::new();
                parts.iter().for_each(|part| hash.update(part));
                hash.finalize().as_slice().into()
            }
            PasswordAlgorithm::Sha256 => {
                let mut hash = digest::Context::new(&digest::SHA256);
                parts.iter().for_each(|part| hash.update(part));
                hash.finish().as_ref().into()
            }
        })
    }

    /// The key of a short-term credential, section 9.1.1: the password.
    #[must_use]
    pub fn short_term(password: &[u8]) -> Self {
        Self(password.into())
    }
}

impl std::fmt::Debug for Key {
    /// Says nothing: it would end up in a log.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Key")
    }
}

/// A transaction's identifier.
pub type Transaction = [u8; 12];

/// A message that is well formed, and of which nothing has been verified.
///
/// Of an attribute that occurs more than once the first counts, and what follows the integrity is not seen, except
/// stronger integrity and the fingerprint.
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
    /// `REALM`
    pub realm: Option<&'a [u8]>,
    /// `NONCE`
    pub nonce: Option<&'a [u8]>,
    /// `PASSWORD-ALGORITHM`; the inner `None` is one that is not known.
    pub password_algorithm: Option<Option<PasswordAlgorithm>>,
    /// `PASSWORD-ALGORITHMS`
    pub password_algorithms: Option<&'a [u8]>,
    /// The protocol in `REQUESTED-TRANSPORT`
    pub transport: Option<u8>,
    /// `REQUESTED-ADDRESS-FAMILY`
    pub family: Option<u8>,
    /// `ADDITIONAL-ADDRESS-FAMILY`
    pub additional_family: Option<u8>,
    /// `EVEN-PORT`, and whether the next port is to be reserved.
    pub even_port: Option<bool>,
    /// `RESERVATION-TOKEN`
    pub reservation: Option<[u8; 8]>,
    /// `DONT-FRAGMENT`
    pub dont_fragment: bool,
    /// `LIFETIME`, in seconds
    pub lifetime: Option<u32>,
    /// `CHANNEL-NUMBER`
    pub channel: Option<u16>,
    /// The first `XOR-PEER-ADDRESS`; [`peers`](Self::peers) has all.
    pub peer: Option<SocketAddr>,
    /// `DATA`
    pub data: Option<&'a [u8]>,
    /// `XOR-MAPPED-ADDRESS`
    pub mapped: Option<SocketAddr>,
    /// The first `XOR-RELAYED-ADDRESS`
    pub relayed: Option<SocketAddr>,
    /// The code in `ERROR-CODE`
    pub error: Option<u16>,
    /// Whether an attribute has not the form that its type demands. It counts as missing.
    pub has_bad_value: bool,
    unknown: [u16; MAX_UNKNOWN],
    unknown_count: usize,
    integrity: [Option<usize>; 2],
    fingerprint_at: Option<usize>,
}

impl<'a> Message<'a> {
    /// Reads what holds one message and nothing else.
    ///
    /// # Errors
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
            realm: None,
            nonce: None,
            password_algorithm: None,
            password_algorithms: None,
            transport: None,
            family: None,
            additional_family: None,
            even_port: None,
            reservation: None,
            dont_fragment: false,
            lifetime: None,
            channel: None,
            peer: None,
            data: None,
            mapped: None,
            relayed: None,
            error: None,
            has_bad_value: false,
            unknown: [0; MAX_UNKNOWN],
            unknown_count: 0,
            integrity: [None; 2],
            fingerprint_at: None,
        };
        for attribute in Attributes::of(bytes) {
            let (at, kind, value) = attribute?;
            if message.fingerprint_at.is_some() {
                return Err(Malformed::Order);
            }
            if message.take(at, kind, value).is_none() {
                message.has_bad_value = true;
            }
        }
        Ok(message)
    }

    /// `None` if the value has not the form that its type demands.
    fn take(&mut self, at: usize, kind: u16, value: &'a [u8]) -> Option<()> {
        match kind {
            attribute::FINGERPRINT => {
                exact::<4>(value)?;
                self.fingerprint_at = Some(at);
                return Some(());
            }
            attribute::MESSAGE_INTEGRITY_SHA256 => {
                exact::<32>(value)?;
                self.integrity[1].get_or_insert(at);
                return Some(());
            }
            _ if self.integrity.iter().any(Option::is_some) => return Some(()),
            attribute::MESSAGE_INTEGRITY => {
                exact::<20>(value)?;
                self.integrity[0] = Some(at);
            }
            attribute::USERNAME => first(&mut self.username, value),
            attribute::REALM => first(&mut self.realm, value),
            attribute::NONCE => first(&mut self.nonce, value),
            attribute::PASSWORD_ALGORITHM => {
                first(&mut self.password_algorithm, PasswordAlgorithm::from_wire(value));
            }
            attribute::PASSWORD_ALGORITHMS => first(&mut self.password_algorithms, value),
            attribute::REQUESTED_TRANSPORT => first(&mut self.transport, exact::<4>(value)?[0]),
            attribute::REQUESTED_ADDRESS_FAMILY => first(&mut self.family, exact::<4>(value)?[0]),
            attribute::ADDITIONAL_ADDRESS_FAMILY => {
                first(&mut self.additional_family, exact::<4>(value)?[0]);
            }
            attribute::EVEN_PORT => first(&mut self.even_port, exact::<1>(value)?[0] & 0x80 != 0),
            attribute::RESERVATION_TOKEN => first(&mut self.reservation, exact(value)?),
            attribute::DONT_FRAGMENT => self.dont_fragment = true,
            attribute::LIFETIME => first(&mut self.lifetime, u32::from_be_bytes(exact(value)?)),
            attribute::CHANNEL_NUMBER => {
                let [high, low, _, _] = exact(value)?;
                first(&mut self.channel, u16::from_be_bytes([high, low]));
            }
            attribute::XOR_PEER_ADDRESS => first(&mut self.peer, unmask(value, &self.transaction)?),
            attribute::DATA => first(&mut self.data, value),
            attribute::XOR_MAPPED_ADDRESS => first(&mut self.mapped, unmask(value, &self.transaction)?),
            attribute::XOR_RELAYED_ADDRESS => first(&mut self.relayed, unmask(value, &self.transaction)?),
            attribute::ERROR_CODE => {
                let [_, _, class, number, ..] = *value else { return None };
                first(&mut self.error, u16::from(class & 7) * 100 + u16::from(number));
            }
            attribute::UNKNOWN_ATTRIBUTES | 0x8000.. => {}
            unknown => {
                if let Some(slot) = self.unknown.get_mut(self.unknown_count) {
                    *slot = unknown;
                    self.unknown_count += 1;
                }
            }
        }
        Some(())
    }

    /// All `XOR-PEER-ADDRESS`, in the order in which they were written. None of those that follow the integrity.
    pub fn peers(&self) -> impl Iterator<Item = SocketAddr> + use<'a> {
        let (end, transaction) = (self.signed_end(), self.transaction);
        Attributes::of(self.bytes)
            .map_while(Result::ok)
            .take_while(move |&(at, _, _)| at < end)
            .filter(|&(_, kind, _)| kind == attribute::XOR_PEER_ADDRESS)
            .filter_map(move |(_, _, value)| unmask(value, &transaction))
    }

    fn signed_end(&self) -> usize {
        self.integrity.iter().flatten().copied().min().unwrap_or(self.bytes.len())
    }

    /// Types of attributes that must be understood and are not; the first eight of them.
    #[must_use]
    pub fn unknown(&self) -> &[u16] {
        &self.unknown[..self.unknown_count]
    }

    /// How it is signed: by the stronger hash if there are two.
    #[must_use]
    pub fn integrity(&self) -> Option<Integrity> {
        match self.integrity {
            [_, Some(_)] => Some(Integrity::Sha256),
            [Some(_), None] => Some(Integrity::Sha1),
            [None, None] => None,
        }
    }

    /// Whether the message was written by someone who knows the key, by its stronger integrity. Compares in constant
    /// time. False for what is longer than [`MAX_SIGNED`].
    #[must_use]
    pub fn verify(&self, key: &Key) -> bool {
        let Some(integrity) = self.integrity() else { return false };
        let (_, length, algorithm) = integrity.parts();
        let Some(at) = self.integrity[usize::from(integrity == Integrity::Sha256)] else { return false };
        // The HMAC covers the message as if it ended with this attribute.
        let mut signed = [0; MAX_SIGNED];
        let Some(signed) = signed.get_mut(..at) else { return false };
        signed.copy_from_slice(&self.bytes[..at]);
        write_length(signed, at + 4 + length);
        let key = hmac::Key::new(algorithm, &key.0);
        hmac::verify(&key, signed, &self.bytes[at + 4..at + 4 + length]).is_ok()
    }

    /// Whether `FINGERPRINT` is right; `None` where there is none.
    #[must_use]
    pub fn verify_fingerprint(&self) -> Option<bool> {
        let at = self.fingerprint_at?;
        let expected = (crc32(&self.bytes[..at]) ^ FINGERPRINT_XOR).to_be_bytes();
        Some(self.bytes[at + 4..at + 8] == expected)
    }
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
        bytes.extend_from_slice(&kind(class, method).to_be_bytes());
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

    /// Appends integrity.
    #[must_use]
    pub fn sign(mut self, integrity: Integrity, key: &Key) -> Self {
        let (kind, length, algorithm) = integrity.parts();
        let total = self.bytes.len() + 4 + length;
        write_length(&mut self.bytes, total);
        let tag = hmac::sign(&hmac::Key::new(algorithm, &key.0), &self.bytes);
        self.attribute(kind, tag.as_ref())
    }

    /// Ends the message, with or without a fingerprint.
    #[must_use]
    pub fn finish(mut self, has_fingerprint: bool) -> Vec<u8> {
        if has_fingerprint {
            let total = self.bytes.len() + 8;
            write_length(&mut self.bytes, total);
            let fingerprint = crc32(&self.bytes) ^ FINGERPRINT_XOR;
            self = self.attribute(attribute::FINGERPRINT, &fingerprint.to_be_bytes());
        }
        let total = self.bytes.len();
        write_length(&mut self.bytes, total);
        self.bytes
    }
}

/// Longest result of [`data_indication`]: header, an IPv6 peer and the head of `DATA`.
pub(crate) const MAX_DATA_HEADER: usize = HEADER_LEN + 24 + 4;

/// Writes everything of a Data indication that precedes its payload, and says how many bytes that are. Without
/// allocating: this is how data goes to a client that has bound no channel. `None` if the payload is too long.
pub(crate) fn data_indication(
    target: &mut [u8; MAX_DATA_HEADER],
    transaction: &Transaction,
    peer: SocketAddr,
    payload: usize,
) -> Option<usize> {
    let (value, length) = mask(peer, transaction);
    let total = HEADER_LEN + 4 + length + 4 + payload.next_multiple_of(4);
    let stun_length = u16::try_from(total - HEADER_LEN).ok()?;
    target[..2].copy_from_slice(&kind(Class::Indication, method::DATA).to_be_bytes());
    target[2..4].copy_from_slice(&stun_length.to_be_bytes());
    target[4..8].copy_from_slice(&MAGIC_COOKIE);
    target[8..20].copy_from_slice(transaction);
    target[20..22].copy_from_slice(&attribute::XOR_PEER_ADDRESS.to_be_bytes());
    target[22..24].copy_from_slice(&u16::try_from(length).ok()?.to_be_bytes());
    target[24..24 + length].copy_from_slice(&value[..length]);
    let data = &mut target[24 + length..28 + length];
    data[..2].copy_from_slice(&attribute::DATA.to_be_bytes());
    data[2..].copy_from_slice(&u16::try_from(payload).ok()?.to_be_bytes());
    Some(28 + length)
}

fn kind(class: Class, method: u16) -> u16 {
    (method & 0x000f) | ((method & 0x0070) << 1) | ((method & 0x0f80) << 2) | class.bits()
}

/// Type and transaction, if the bytes begin with a header that fits their length.
fn header(bytes: &[u8]) -> Option<(u16, Transaction)> {
    let head = bytes.first_chunk::<HEADER_LEN>()?;
    let kind = u16::from_be_bytes([head[0], head[1]]);
    let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
    let fits = bytes.len() == HEADER_LEN + length && length.is_multiple_of(4);
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

fn first<T>(slot: &mut Option<T>, value: T) {
    slot.get_or_insert(value);
}

fn exact<const N: usize>(value: &[u8]) -> Option<[u8; N]> {
    value.try_into().ok()
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

/// An address as `XOR-…-ADDRESS` have it, and how many of the bytes count.
fn mask(address: SocketAddr, transaction: &Transaction) -> ([u8; 20], usize) {
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

#[cfg(test)]
mod tests;
