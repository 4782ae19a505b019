//! The part of STUN ([RFC 8489](https://www.rfc-editor.org/rfc/rfc8489)) that ICE connectivity checks need:
//! Binding messages with short-term credentials.
//!
//! [`Message::parse`] walks a datagram once and borrows from it; [`binding`] begins one and [`Key::seal`] ends it. Nothing
//! here keeps state, decides, or knows of peers: that is [`super::ice`]. The bytes are
//! [`wire`]'s, which TURN's messages stand on too.
//!
//! Parsing never allocates. A message's integrity is compared in constant time.

use std::net::SocketAddr;

use ring::hmac;
use switchyard_turn_config::stun::wire::{self, Attributes, Header, Unknown, error_code, exact, unmask};
pub use switchyard_turn_config::stun::{
    attribute,
    method::BINDING,
    wire::{Builder, Class, Malformed, Transaction},
};

/// A longer message is no connectivity check: those of known agents have a few hundred bytes.
pub const MAX_LEN: usize = wire::MAX_SIGNED;

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

    /// Appends integrity and fingerprint, and ends the message.
    #[must_use]
    pub fn seal(&self, message: Builder) -> Vec<u8> {
        message.sign_with(&self.0).finish(true)
    }
}

/// Begins a Binding message, the only kind that ICE uses.
#[must_use]
pub fn binding(class: Class, transaction: &Transaction) -> Builder {
    Builder::new(class, BINDING, transaction)
}

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
    unknown: Unknown,
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
        let Header { class, method, transaction } = header(bytes)?;
        let mut message = Self {
            bytes,
            class,
            method,
            transaction,
            username: None,
            priority: None,
            use_candidate: false,
            controlled: false,
            controlling: false,
            mapped: None,
            error: None,
            unknown: Unknown::default(),
            integrity_at: None,
            fingerprint_at: None,
        };
        for attribute in Attributes::of(bytes) {
            let (at, kind, value) = attribute?;
            if message.fingerprint_at.is_some() {
                return Err(Malformed::Order);
            }
            message.take(at, kind, value).ok_or(Malformed::Attribute)?;
        }
        Ok(message)
    }

    /// `None` if the value has not the form that its type demands.
    fn take(&mut self, at: usize, kind: u16, value: &'a [u8]) -> Option<()> {
        if kind == attribute::FINGERPRINT {
            exact::<4>(value)?;
            self.fingerprint_at = Some(at);
            return Some(());
        }
        if self.integrity_at.is_some() {
            return Some(());
        }
        match kind {
            attribute::MESSAGE_INTEGRITY => {
                exact::<20>(value)?;
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
                let address = unmask(value, &self.transaction)?;
                self.mapped.get_or_insert(address);
            }
            attribute::ERROR_CODE => {
                let code = error_code(value)?;
                self.error.get_or_insert(code);
            }
            attribute::MAPPED_ADDRESS
            | attribute::UNKNOWN_ATTRIBUTES
            | attribute::REALM
            | attribute::NONCE
            | attribute::MESSAGE_INTEGRITY_SHA256
            | attribute::PASSWORD_ALGORITHM
            | attribute::USERHASH
            | 0x8000.. => {}
            unknown => self.unknown.note(unknown),
        }
        Some(())
    }

    /// Types of attributes that must be understood and are not; the first eight of them.
    #[must_use]
    pub fn unknown(&self) -> &[u16] {
        self.unknown.as_slice()
    }

    /// Whether there is a `MESSAGE-INTEGRITY` at all.
    #[must_use]
    pub fn has_integrity(&self) -> bool {
        self.integrity_at.is_some()
    }

    /// Whether the message was written by someone who knows the key. Compares in constant time.
    #[must_use]
    pub fn verify_integrity(&self, key: &Key) -> bool {
        self.integrity_at.is_some_and(|at| wire::is_signed(self.bytes, at, &key.0))
    }

    /// Whether `FINGERPRINT` is right; `None` where there is none.
    #[must_use]
    pub fn verify_fingerprint(&self) -> Option<bool> {
        self.fingerprint_at.map(|at| wire::is_fingerprint_right(self.bytes, at))
    }
}

/// The `USERNAME` of a Binding request, found without a look at anything else, or `None`.
#[must_use]
pub fn username_of_request(bytes: &[u8]) -> Option<&[u8]> {
    let Header { class, method, .. } = header(bytes).ok()?;
    if (class, method) != (Class::Request, BINDING) {
        return None;
    }
    Attributes::of(bytes)
        .map_while(Result::ok)
        .find(|&(_, kind, _)| kind == attribute::USERNAME)
        .map(|(_, _, value)| value)
}

fn header(bytes: &[u8]) -> Result<Header, Malformed> {
    if bytes.len() > MAX_LEN { Err(Malformed::Header) } else { Header::parse(bytes) }
}

#[cfg(test)]
mod tests {
    use switchyard_turn_config::stun::samples;

    use super::*;

    const TRANSACTION: Transaction = *b"twelve bytes";

    #[test]
    fn the_sample_request_is_read_and_verified() {
        let message = Message::parse(samples::REQUEST).unwrap();
        assert_eq!((message.class, message.method), (Class::Request, BINDING));
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
            let bytes = key
                .seal(binding(Class::Success, &TRANSACTION).address(attribute::XOR_MAPPED_ADDRESS, address));
            let message = Message::parse(&bytes).unwrap();
            assert_eq!((message.class, message.mapped), (Class::Success, Some(address)));
            assert!(message.verify_integrity(&key));
            assert_eq!(message.verify_fingerprint(), Some(true));
        }
        let bytes = key.seal(binding(Class::Error, &TRANSACTION).error(487).unknown(&[0x7001]));
        let message = Message::parse(&bytes).unwrap();
        assert_eq!((message.class, message.error), (Class::Error, Some(487)));
    }

    #[test]
    fn what_follows_the_integrity_is_not_believed() {
        let key = Key::short_term("a password");
        let bytes = binding(Class::Request, &TRANSACTION)
            .sign_with(&key.0)
            .attribute(attribute::USE_CANDIDATE, &[])
            .attribute(attribute::USERNAME, b"forged")
            .finish(false);
        let message = Message::parse(&bytes).unwrap();
        assert!(message.verify_integrity(&key));
        assert!(!message.use_candidate && message.username.is_none());
    }

    #[test]
    fn a_value_of_the_wrong_form_is_refused() {
        let parse = |kind, value: &[u8]| {
            let bytes = binding(Class::Request, &TRANSACTION).attribute(kind, value).finish(false);
            Message::parse(&bytes).map(|_| ())
        };
        assert_eq!(parse(attribute::PRIORITY, &[0; 4]), Ok(()));
        for kind in [
            attribute::PRIORITY,
            attribute::MESSAGE_INTEGRITY,
            attribute::ICE_CONTROLLED,
            attribute::ICE_CONTROLLING,
            attribute::XOR_MAPPED_ADDRESS,
            attribute::ERROR_CODE,
            attribute::FINGERPRINT,
        ] {
            assert_eq!(parse(kind, &[0; 3]), Err(Malformed::Attribute), "{kind:#x}");
        }
    }

    #[test]
    fn what_is_too_long_for_a_check_is_refused() {
        let bytes = |payload: usize| {
            binding(Class::Request, &TRANSACTION).attribute(0xc057, &vec![0; payload]).finish(false)
        };
        let most = MAX_LEN - wire::HEADER_LEN - 4;
        assert!(Message::parse(&bytes(most)).is_ok());
        assert_eq!(Message::parse(&bytes(most + 1)).unwrap_err(), Malformed::Header);
        let check = binding(Class::Request, &TRANSACTION).attribute(attribute::USERNAME, b"a:b");
        assert!(username_of_request(&check.attribute(0xc057, &[0; MAX_LEN]).finish(false)).is_none());
    }
}
