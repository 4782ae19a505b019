//! Short-lived credentials by the REST convention that every WebRTC stack and coturn understand: the user name is
//! `expiry:user` with the expiry in Unix seconds, the password is base64 of the HMAC-SHA1 of the user name under a secret
//! that the issuer and the TURN server share. Nothing is stored, and no clock is read.
//!
//! What follows the first colon names the user to whom quotas apply. Users of different tenants are told apart by
//! [`user_of_tenant`].
//!
//! The secret is rotated by making a new one and keeping the old as `previous`: it verifies for a while, and makes nothing.
//! Whoever holds a password proves it by signing a message, so what is compared in constant time is the signature
//! ([`Message::verify`](crate::stun::Message::verify)); [`verify`](Keyring::verify) is for issuers that see the password.

use std::time::Duration;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use ring::hmac;

use crate::settings::Secret;

/// Bytes of a user name, [RFC 8489 section 14.3](https://www.rfc-editor.org/rfc/rfc8489#section-14.3).
pub const MAX_USERNAME: usize = 508;

/// What a client signs with.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    /// `expiry:user`
    pub username: String,
    /// See the module.
    pub password: String,
}

impl std::fmt::Debug for Credential {
    /// Leaves the password out: it would end up in a log.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Credential").field("username", &self.username).finish_non_exhaustive()
    }
}

/// Why a user name is refused.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum Refused {
    /// It has not the form `expiry:user`, or is too long.
    #[error("the user name is not `expiry:user`")]
    Form,
    /// It was good once.
    #[error("the credential has expired")]
    Expired,
    /// The password belongs to another user name or another secret.
    #[error("the password is wrong")]
    Password,
}

/// The name under which a user of a tenant appears in credentials. Tenant and user are separated by a colon, and colons
/// and percent signs in the tenant are escaped, so that no two pairs have one name.
#[must_use]
pub fn user_of_tenant(tenant: &str, user: &str) -> String {
    format!("{}:{user}", tenant.replace('%', "%25").replace(':', "%3A"))
}

/// The secrets.
#[derive(Clone, Debug)]
pub struct Keyring {
    current: hmac::Key,
    previous: Option<(hmac::Key, u64)>,
}

impl Keyring {
    /// Makes with `current`, verifies with both. `previous` verifies until `overlap` after `unix`, the Unix time in
    /// seconds at which it was read, so that one that is forgotten in the settings does not stay good.
    #[must_use]
    pub fn new(current: &Secret, previous: Option<&Secret>, unix: u64, overlap: Duration) -> Self {
        let key =
            |secret: &Secret| hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret.as_str().as_bytes());
        let until = unix.saturating_add(overlap.as_secs());
        Self { current: key(current), previous: previous.map(|secret| (key(secret), until)) }
    }

    /// Makes a credential for `user` that is good for `ttl` from `unix`, the Unix time in seconds.
    #[must_use]
    pub fn issue(&self, user: &str, unix: u64, ttl: Duration) -> Credential {
        let username = format!("{}:{user}", unix.saturating_add(ttl.as_secs()));
        let password = password(&self.current, username.as_bytes());
        Credential { username, password }
    }

    /// The passwords that a user name may have at `unix`: at most two, the current secret's first.
    ///
    /// # Errors
    /// When there is none.
    pub fn passwords(&self, username: &[u8], unix: u64) -> Result<impl Iterator<Item = String>, Refused> {
        let (expiry, _) = split(username).ok_or(Refused::Form)?;
        if expiry <= unix {
            return Err(Refused::Expired);
        }
        let previous = self.previous.iter().filter(move |(_, until)| unix < *until).map(|(key, _)| key);
        let keys = std::iter::once(&self.current).chain(previous);
        Ok(keys.map(move |key| password(key, username)))
    }

    /// Verifies a credential, in constant time for a given user name.
    ///
    /// # Errors
    /// [`Refused`] says why.
    pub fn verify(&self, username: &str, password: &str, unix: u64) -> Result<(), Refused> {
        let (expiry, _) = split(username.as_bytes()).ok_or(Refused::Form)?;
        let tag = BASE64_STANDARD.decode(password).map_err(|_| Refused::Password)?;
        let is_good = |key: &hmac::Key| hmac::verify(key, username.as_bytes(), &tag).is_ok();
        let by_previous = self.previous.as_ref().is_some_and(|(key, until)| unix < *until && is_good(key));
        if !(is_good(&self.current) || by_previous) {
            return Err(Refused::Password);
        }
        if expiry <= unix { Err(Refused::Expired) } else { Ok(()) }
    }
}

/// The user that a user name belongs to.
#[must_use]
pub fn user_of(username: &[u8]) -> Option<&[u8]> {
    split(username).map(|(_, user)| user)
}

/// The Unix time in seconds at which a user name expires.
#[must_use]
pub fn expiry_of(username: &[u8]) -> Option<u64> {
    split(username).map(|(expiry, _)| expiry)
}

fn split(username: &[u8]) -> Option<(u64, &[u8])> {
    let colon = username.iter().position(|&byte| byte == b':')?;
    let (expiry, user) = (&username[..colon], &username[colon + 1..]);
    let is_well_formed =
        username.len() <= MAX_USERNAME && !user.is_empty() && expiry.iter().all(u8::is_ascii_digit);
    let expiry = std::str::from_utf8(expiry).ok()?.parse().ok()?;
    is_well_formed.then_some((expiry, user))
}

fn password(key: &hmac::Key, username: &[u8]) -> String {
    BASE64_STANDARD.encode(hmac::sign(key, username))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_000;
    const HOUR: Duration = Duration::from_secs(3600);

    fn keyring(current: &str, previous: Option<&str>) -> Keyring {
        let secret = |text: &str| Secret::new(text);
        Keyring::new(&secret(current), previous.map(secret).as_ref(), NOW, HOUR)
    }

    #[test]
    fn a_credential_is_the_one_that_others_make() {
        // openssl: printf '1700000000:alice' | openssl dgst -sha1 -hmac secret -binary | base64
        let credential = keyring("secret", None).issue("alice", NOW - 3600, HOUR);
        assert_eq!(credential.username, "1700000000:alice");
        assert_eq!(credential.password, "d8soP47RbdIKLDUOpnJPVQyq5Ts=");
    }

    #[test]
    fn what_is_issued_verifies_until_it_expires() {
        let keyring = keyring("secret", None);
        let Credential { username, password } = keyring.issue("tenant:alice", NOW, HOUR);
        assert_eq!(keyring.verify(&username, &password, NOW + 3599), Ok(()));
        assert_eq!(keyring.verify(&username, &password, NOW + 3600), Err(Refused::Expired));
        assert_eq!(user_of(username.as_bytes()), Some(&b"tenant:alice"[..]));
        assert_eq!(keyring.passwords(username.as_bytes(), NOW).unwrap().collect::<Vec<_>>(), [password]);
        assert!(matches!(keyring.passwords(username.as_bytes(), NOW + 3600), Err(Refused::Expired)));
    }

    #[test]
    fn what_was_changed_does_not_verify() {
        let keyring = keyring("secret", None);
        let Credential { username, password } = keyring.issue("alice", NOW, HOUR);
        for (username, password, why) in [
            (username.replace("alice", "bob"), password.clone(), Refused::Password),
            (username.replace('1', "2"), password.clone(), Refused::Password),
            (username.clone(), String::new(), Refused::Password),
            (username.clone(), password.to_lowercase(), Refused::Password),
            ("alice".to_owned(), password.clone(), Refused::Form),
            (":alice".to_owned(), password.clone(), Refused::Form),
            ("1:".to_owned(), password.clone(), Refused::Form),
            ("+1700000000:alice".to_owned(), password.clone(), Refused::Form),
            (format!("99999999999999999999999:{username}"), password.clone(), Refused::Form),
            (format!("1700000000:{}", "a".repeat(MAX_USERNAME)), password, Refused::Form),
        ] {
            assert_eq!(keyring.verify(&username, &password, NOW), Err(why), "{username}");
        }
    }

    #[test]
    fn a_rotated_secret_verifies_for_the_overlap_and_makes_nothing() {
        let before = keyring("old", None).issue("alice", NOW, 10 * HOUR);
        let after = keyring("new", Some("old"));
        assert_eq!(after.verify(&before.username, &before.password, NOW + 3599), Ok(()));
        assert_eq!(after.verify(&before.username, &before.password, NOW + 3600), Err(Refused::Password));
        assert_eq!(after.passwords(before.username.as_bytes(), NOW).unwrap().count(), 2);
        assert_eq!(after.passwords(before.username.as_bytes(), NOW + 3600).unwrap().count(), 1);
        let Credential { username, password } = after.issue("alice", NOW, HOUR);
        assert_eq!(keyring("new", None).verify(&username, &password, NOW), Ok(()));
        assert_eq!(keyring("old", None).verify(&username, &password, NOW), Err(Refused::Password));
    }

    #[test]
    fn no_two_users_of_tenants_have_one_name() {
        let names = [("a:b", "c"), ("a", "b:c"), ("a%3Ab", "c"), ("a%3A", "b:c")]
            .map(|(tenant, user)| user_of_tenant(tenant, user));
        for (at, name) in names.iter().enumerate() {
            assert!(!names[at + 1..].contains(name), "{name}");
        }
    }
}
