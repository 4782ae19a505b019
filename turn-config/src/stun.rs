//! STUN messages ([RFC 8489](https://www.rfc-editor.org/rfc/rfc8489)) as TURN
//! ([RFC 8656](https://www.rfc-editor.org/rfc/rfc8656)) uses them: with long-term credentials.
//!
//! [`Message::parse`] walks a message once and borrows from it; [`Builder`] writes one. Nothing here keeps state, decides,
//! or knows of allocations: that is [`crate::server`]. Parsing never allocates, and integrity is compared in constant time.
//! User names and passwords are compared as bytes: those that [`crate::credentials`] makes are ASCII, which the
//! preparations of RFC 8489 (OpaqueString) leave as it is.

pub mod attribute;
mod crc32;
pub mod samples;
pub mod wire;

use std::net::SocketAddr;

use md5::{Digest as _, Md5};
use ring::{digest, hmac};

use self::wire::{
    Attributes, Header, Unknown, error_code, exact, is_fingerprint_right, is_signed, mask, unmask,
};
pub use self::wire::{Builder, Class, HEADER_LEN, MAX_SIGNED, Malformed, Transaction};

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
    fn algorithm(self) -> hmac::Algorithm {
        match self {
            Self::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            Self::Sha256 => hmac::HMAC_SHA256,
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

    fn hmac(&self, integrity: Integrity) -> hmac::Key {
        hmac::Key::new(integrity.algorithm(), &self.0)
    }
}

impl std::fmt::Debug for Key {
    /// Says nothing: it would end up in a log.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Key")
    }
}

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
    unknown: Unknown,
    integrity: [Option<usize>; 2],
    fingerprint_at: Option<usize>,
}

impl<'a> Message<'a> {
    /// Reads what holds one message and nothing else.
    ///
    /// # Errors
    /// [`Malformed`] says what is wrong with it.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let Header { class, method, transaction } = Header::parse(bytes)?;
        let mut message = Self {
            bytes,
            class,
            method,
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
            unknown: Unknown::default(),
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
            attribute::ERROR_CODE => first(&mut self.error, error_code(value)?),
            attribute::UNKNOWN_ATTRIBUTES | 0x8000.. => {}
            unknown => self.unknown.note(unknown),
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
        self.unknown.as_slice()
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
        let Some(at) = self.integrity[usize::from(integrity == Integrity::Sha256)] else { return false };
        is_signed(self.bytes, at, &key.hmac(integrity))
    }

    /// Whether `FINGERPRINT` is right; `None` where there is none.
    #[must_use]
    pub fn verify_fingerprint(&self) -> Option<bool> {
        self.fingerprint_at.map(|at| is_fingerprint_right(self.bytes, at))
    }
}

impl Builder {
    /// Appends integrity.
    #[must_use]
    pub fn sign(self, integrity: Integrity, key: &Key) -> Self {
        self.sign_with(&key.hmac(integrity))
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
    let header = Header { class: Class::Indication, method: method::DATA, transaction: *transaction };
    target[..HEADER_LEN].copy_from_slice(&header.to_bytes(stun_length));
    target[20..22].copy_from_slice(&attribute::XOR_PEER_ADDRESS.to_be_bytes());
    target[22..24].copy_from_slice(&u16::try_from(length).ok()?.to_be_bytes());
    target[24..24 + length].copy_from_slice(&value[..length]);
    let data = &mut target[24 + length..28 + length];
    data[..2].copy_from_slice(&attribute::DATA.to_be_bytes());
    data[2..].copy_from_slice(&u16::try_from(payload).ok()?.to_be_bytes());
    Some(28 + length)
}

fn first<T>(slot: &mut Option<T>, value: T) {
    slot.get_or_insert(value);
}

#[cfg(test)]
mod tests;
