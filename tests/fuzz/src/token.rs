//! A token: as it comes, and as claims that an application has signed without looking at them.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::hmac;
use switchyard::token::{self, Keys, Verified};
use switchyard_signaling::limits;

const SECRET: &[u8] = b"a secret of thirty-two bytes ...";
const NOW: u64 = 1_700_000_000;
const ROOM: &str = "lab";

/// Nobody gets in but a user with a sensible name, into the room that was asked for, before the token's end.
pub fn target(data: &[u8]) {
    let keys = Keys::new([("dev", SECRET)]);
    if let Ok(token) = std::str::from_utf8(data) {
        check(token, &keys);
    }
    let head = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","typ":"JWT"}"#);
    let signed = format!("{head}.{}", URL_SAFE_NO_PAD.encode(data));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET), signed.as_bytes());
    check(&format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag)), &keys);
}

fn check(token: &str, keys: &Keys) {
    match token::verify(token, keys, ROOM, NOW) {
        Ok(verified) => {
            let Verified { tenant, user, name, room, expires_at, .. } = &verified;
            assert!(&**tenant == "dev" && &**room == ROOM && *expires_at > NOW);
            for text in [user, name] {
                assert!(
                    (1..=limits::USER_BYTES).contains(&text.len()) && !text.chars().any(char::is_control)
                );
            }
            let _ = verified.permissions();
        }
        Err(error) => assert!(error.to_string().len() < 2048 && !error.code().as_str().is_empty()),
    }
}
