//! The public keys with which browsers sign copies of their events for each other (docs/protocol.md, section 4.3). The server
//! signs and verifies nothing with them: whoever joins says its key, and the room tells the members whose it is.

use std::sync::Arc;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use ring::{
    agreement::{ECDH_P256, EphemeralPrivateKey, UnparsedPublicKey, agree_ephemeral},
    rand::SystemRandom,
};

/// An uncompressed point: 0x04 and two coordinates (SEC 1, section 2.3.3).
const BYTES: usize = 65;

/// A point of the curve P-256, for ECDSA with SHA-256.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SigningKey(Arc<str>);

/// What was given is no such key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a signing key is an uncompressed point of P-256, base64url without padding")]
pub struct BadSigningKey;

impl SigningKey {
    /// Reads what a client has sent.
    ///
    /// # Errors
    /// If it is not base64url of a point of the curve.
    pub fn parse(text: &str) -> Result<Self, BadSigningKey> {
        let point = BASE64_URL_SAFE_NO_PAD.decode(text).map_err(|_| BadSigningKey)?;
        if point.len() != BYTES || !is_on_curve(&point) {
            return Err(BadSigningKey);
        }
        Ok(Self(text.into()))
    }

    /// As the client has sent it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// An agreement with a point that is not on the curve fails; ring has no check apart from that.
fn is_on_curve(point: &[u8]) -> bool {
    EphemeralPrivateKey::generate(&ECDH_P256, &SystemRandom::new()).is_ok_and(|private| {
        agree_ephemeral(private, &UnparsedPublicKey::new(&ECDH_P256, point), |_| ()).is_ok()
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn point() -> Vec<u8> {
        let private = EphemeralPrivateKey::generate(&ECDH_P256, &SystemRandom::new()).unwrap();
        private.compute_public_key().unwrap().as_ref().to_vec()
    }

    /// Another one each time.
    pub(crate) fn any() -> SigningKey {
        parse(&point()).unwrap()
    }

    fn parse(bytes: &[u8]) -> Result<SigningKey, BadSigningKey> {
        SigningKey::parse(&BASE64_URL_SAFE_NO_PAD.encode(bytes))
    }

    #[test]
    fn a_point_of_the_curve_is_a_key_and_keeps_its_text() {
        let text = BASE64_URL_SAFE_NO_PAD.encode(point());
        assert_eq!(SigningKey::parse(&text).unwrap().as_str(), text);
    }

    #[test]
    fn what_is_no_point_of_the_curve_is_refused() {
        let good = point();
        let mut beside = good.clone();
        beside[64] ^= 1;
        let mut compressed = good[..33].to_vec();
        compressed[0] = 2 | (good[64] & 1);
        let zero = [&[4][..], &[0; 64]].concat();
        let beyond = [&[4][..], &[0xff; 64]].concat();
        for bytes in [
            &[][..],
            &[0],
            &beside,
            &compressed,
            &good[..64],
            &[good.clone(), vec![0]].concat(),
            &zero,
            &beyond,
        ] {
            assert_eq!(parse(bytes), Err(BadSigningKey), "{bytes:?}");
        }
        let text = BASE64_URL_SAFE_NO_PAD.encode(&good);
        for text in [
            format!("{text}="),
            text.replace(&text[..1], "+"),
            format!(" {text}"),
            "é".repeat(44),
            "A".repeat(60_000),
        ] {
            assert_eq!(SigningKey::parse(&text), Err(BadSigningKey), "{text}");
        }
    }
}
