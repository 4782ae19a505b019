//! Who sends a request: the long-term credential mechanism,
//! [RFC 8489 section 9.2](https://www.rfc-editor.org/rfc/rfc8489#section-9.2).
//!
//! A nonce holds when it ends and is signed with that and the client's addresses, so nothing is kept for it, and one that
//! was seen on the network is of no use from elsewhere. It also says that clients may choose how passwords become keys
//! (section 9.2.1), MD5 or SHA-256; and a client may sign with either HMAC. The server does not hide user names
//! (`USERHASH`): it could not find a name that it never stored.

use std::time::{Duration, Instant};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use ring::hmac;

use super::{Link, Refusal};
use crate::{
    credentials::{Keyring, Refused},
    stun::{Builder, Key, Message, PasswordAlgorithm, attribute},
};

/// Marks a nonce that speaks of features, and the features: password algorithms, no anonymity of user names.
const COOKIE: &[u8] = b"obMatJos2gAAA";
/// Bytes of the signature in a nonce.
const TAG: usize = 8;
/// Bytes of a nonce: cookie, and base64 of expiry and signature.
pub(super) const NONCE: usize = COOKIE.len() + (4 + TAG) * 4 / 3;

/// What a refusal is answered with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Denied {
    pub(super) code: u16,
    /// `None` for the first request, which has no credentials yet and is refused to everybody.
    pub(super) why: Option<Refusal>,
}

impl Denied {
    fn new(code: u16, why: Refusal) -> Self {
        Self { code, why: Some(why) }
    }

    /// Whether the answer invites to try (again), with a nonce.
    pub(super) fn is_challenge(self) -> bool {
        matches!(self.code, 401 | 438)
    }
}

/// The sender of a request, who has shown to know the password.
#[derive(Debug)]
pub(super) struct Sender {
    pub(super) key: Key,
    pub(super) algorithm: PasswordAlgorithm,
}

/// A sender that is known by its allocation.
#[derive(Clone, Copy)]
pub(super) struct Known<'a> {
    pub(super) username: &'a [u8],
    pub(super) key: &'a Key,
    pub(super) algorithm: PasswordAlgorithm,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Authenticator {
    realm: Box<[u8]>,
    keyring: Keyring,
    nonce_key: hmac::Key,
    nonce_lifetime: Duration,
    start: Instant,
}

impl Authenticator {
    pub(super) fn new(
        realm: &str,
        keyring: Keyring,
        nonce_seed: &[u8],
        nonce_lifetime: Duration,
        start: Instant,
    ) -> Self {
        let nonce_key = hmac::Key::new(hmac::HMAC_SHA256, nonce_seed);
        Self { realm: realm.as_bytes().into(), keyring, nonce_key, nonce_lifetime, start }
    }

    /// Appends what a client needs to sign its next request.
    pub(super) fn challenge(&self, builder: Builder, link: &Link, now: Instant) -> Builder {
        builder
            .attribute(attribute::REALM, &self.realm)
            .attribute(attribute::NONCE, &self.nonce(link, now))
            .attribute(attribute::PASSWORD_ALGORITHMS, &PasswordAlgorithm::LIST)
    }

    /// Verifies a request that came by `link`. A client that has an allocation keeps its credential for it, though it has
    /// expired or its secret is gone: calls last longer than credentials.
    pub(super) fn authenticate(
        &self,
        message: &Message<'_>,
        link: &Link,
        known: Option<Known<'_>>,
        now: Instant,
        unix: u64,
    ) -> Result<Sender, Denied> {
        if message.integrity().is_none() {
            return Err(Denied { code: 401, why: None });
        }
        let (Some(username), Some(realm), Some(nonce)) = (message.username, message.realm, message.nonce)
        else {
            return Err(Denied::new(400, Refusal::BadRequest));
        };
        if !self.is_good(nonce, link, now) {
            return Err(Denied::new(438, Refusal::StaleNonce));
        }
        let algorithm = algorithm(message).ok_or(Denied::new(400, Refusal::BadRequest))?;
        if *realm != *self.realm {
            return Err(Denied::new(401, Refusal::WrongRealm));
        }
        if let Some(known) = known.filter(|known| known.username == username && known.algorithm == algorithm)
        {
            return if message.verify(known.key) {
                Ok(Sender { key: known.key.clone(), algorithm })
            } else {
                Err(Denied::new(401, Refusal::WrongPassword))
            };
        }
        let passwords = self.keyring.passwords(username, unix).map_err(|refused| {
            Denied::new(
                401,
                if refused == Refused::Expired { Refusal::Expired } else { Refusal::UnknownUser },
            )
        })?;
        passwords
            .map(|password| Key::long_term(algorithm, username, realm, password.as_bytes()))
            .find(|key| message.verify(key))
            .map(|key| Sender { key, algorithm })
            .ok_or(Denied::new(401, Refusal::WrongPassword))
    }

    fn nonce(&self, link: &Link, now: Instant) -> [u8; NONCE] {
        let ends = now.saturating_duration_since(self.start) + self.nonce_lifetime;
        self.nonce_ending(link, u32::try_from(ends.as_secs()).unwrap_or(u32::MAX))
    }

    fn nonce_ending(&self, link: &Link, ends: u32) -> [u8; NONCE] {
        let ends = ends.to_be_bytes();
        let mut context = hmac::Context::with_key(&self.nonce_key);
        context.update(&ends);
        link.feed(|bytes| context.update(bytes));
        let mut raw = [0; 4 + TAG];
        raw[..4].copy_from_slice(&ends);
        raw[4..].copy_from_slice(&context.sign().as_ref()[..TAG]);
        let mut nonce = [0; NONCE];
        nonce[..COOKIE.len()].copy_from_slice(COOKIE);
        // Twelve bytes are sixteen characters, for which there is room.
        let _ = BASE64_URL_SAFE_NO_PAD.encode_slice(raw, &mut nonce[COOKIE.len()..]);
        nonce
    }

    fn is_good(&self, nonce: &[u8], link: &Link, now: Instant) -> bool {
        let Some(text) = nonce.strip_prefix(COOKIE) else { return false };
        let mut raw = [0; 4 + TAG];
        if BASE64_URL_SAFE_NO_PAD.decode_slice(text, &mut raw) != Ok(raw.len()) {
            return false;
        }
        let ends = u32::from_be_bytes([raw[0], raw[1], raw[2], raw[3]]);
        let is_ours = is_equal(&self.nonce_ending(link, ends), nonce);
        is_ours && now.saturating_duration_since(self.start) < Duration::from_secs(ends.into())
    }
}

/// How the client makes its key. `None` if what it says is not what it was offered: somebody on the way may have taken the
/// stronger algorithm from the list (section 9.2.4).
fn algorithm(message: &Message<'_>) -> Option<PasswordAlgorithm> {
    match (message.password_algorithm, message.password_algorithms) {
        (None, None) => Some(PasswordAlgorithm::Md5),
        (Some(chosen), Some(offered)) if offered == PasswordAlgorithm::LIST => chosen,
        _ => None,
    }
}

/// In constant time for a given length.
fn is_equal(a: &[u8], b: &[u8]) -> bool {
    let difference = a.iter().zip(b).fold(0, |difference, (a, b)| std::hint::black_box(difference | (a ^ b)));
    a.len() == b.len() && difference == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{server::Transport, settings::Secret};

    fn authenticator(start: Instant) -> Authenticator {
        let keyring = Keyring::new(&Secret::new("secret"), None, 0, Duration::ZERO);
        Authenticator::new("realm", keyring, b"seed", Duration::from_secs(60), start)
    }

    fn link(remote: &str) -> Link {
        Link {
            transport: Transport::Udp,
            connection: 0,
            remote: remote.parse().unwrap(),
            local: "192.0.2.1:3478".parse().unwrap(),
        }
    }

    #[test]
    fn a_nonce_is_good_for_its_client_until_it_ends() {
        let start = Instant::now();
        let authenticator = authenticator(start);
        let (client, now) = (link("198.51.100.1:1000"), start + Duration::from_secs(100));
        let nonce = authenticator.nonce(&client, now);
        assert!(authenticator.is_good(&nonce, &client, now));
        assert!(authenticator.is_good(&nonce, &client, now + Duration::from_millis(59_999)));
        assert!(!authenticator.is_good(&nonce, &client, now + Duration::from_secs(60)));
        for other in [
            link("198.51.100.1:1001"),
            link("198.51.100.2:1000"),
            Link { transport: Transport::Tcp, ..client },
            Link { connection: 1, ..client },
            Link { local: "192.0.2.1:3479".parse().unwrap(), ..client },
        ] {
            assert!(!authenticator.is_good(&nonce, &other, now), "{other:?}");
        }
    }

    #[test]
    fn a_changed_nonce_is_not_good() {
        let start = Instant::now();
        let authenticator = authenticator(start);
        let client = link("198.51.100.1:1000");
        let nonce = authenticator.nonce(&client, start);
        for at in 0..nonce.len() * 8 {
            let mut changed = nonce;
            changed[at / 8] ^= 1 << (at % 8);
            assert!(!authenticator.is_good(&changed, &client, start), "bit {at}");
        }
        for length in 0..nonce.len() {
            assert!(!authenticator.is_good(&nonce[..length], &client, start));
        }
        assert!(!authenticator.is_good(&[&nonce[..], b"A"].concat(), &client, start));
    }
}
