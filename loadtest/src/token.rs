//! Tokens for simulated users: minted here with a key of the server (section 5 of the protocol's document), or asked
//! from a development server. The server's half is `src/token.rs`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD as BASE64URL};
use ring::hmac;
use serde_json::{Value, json};

use crate::target::{Answer, Target};

/// Where tokens come from.
#[derive(Clone, Debug)]
pub enum TokenSource {
    /// Minted with an API key and its secret.
    Key {
        /// The API key: `iss`.
        key: String,
        /// Its secret.
        secret: String,
    },
    /// Asked from `GET /v1/dev/token` of a development server.
    Development,
    /// Nowhere: the server asks for none.
    Nowhere,
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The server cannot be talked to.
    #[error("GET /v1/dev/token: {0}")]
    Io(#[from] std::io::Error),
    /// The server refuses.
    #[error("GET /v1/dev/token: the server answers {0}; is it in development mode?")]
    Refused(u16),
    /// The answer is not what was expected.
    #[error("GET /v1/dev/token: the answer has no \"token\"")]
    NoToken,
}

/// An editor's token is valid this long.
const VALID: Duration = Duration::from_secs(6 * 3600);

impl TokenSource {
    /// A token for this user in this room.
    pub async fn token(&self, target: &Target, room: &str, user: &str) -> Result<String, TokenError> {
        match self {
            Self::Key { key, secret } => Ok(mint(key, secret, room, user, SystemTime::now())),
            Self::Nowhere => Ok(String::new()),
            // Names made by the load program need no escaping.
            Self::Development => {
                read_answer(&target.get(&format!("/v1/dev/token?room={room}&user={user}")).await?)
            }
        }
    }
}

/// A JWT signed with HS256.
pub fn mint(key: &str, secret: &str, room: &str, user: &str, now: SystemTime) -> String {
    let expires = now.duration_since(UNIX_EPOCH).unwrap_or_default() + VALID;
    let claims = json!({
        "iss": key,
        "sub": user,
        "name": user,
        "exp": expires.as_secs(),
        "room": { "name": room, "role": "editor" },
    });
    sign(&json!({ "alg": "HS256", "typ": "JWT" }), &claims, secret.as_bytes())
}

fn sign(header: &Value, claims: &Value, secret: &[u8]) -> String {
    let encode = |value: &Value| BASE64URL.encode(value.to_string());
    let signed = format!("{}.{}", encode(header), encode(claims));
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), signed.as_bytes());
    format!("{signed}.{}", BASE64URL.encode(signature))
}

fn read_answer((status, body): &Answer) -> Result<String, TokenError> {
    if *status != 200 {
        return Err(TokenError::Refused(*status));
    }
    let value: Value = serde_json::from_slice(body).map_err(|_| TokenError::NoToken)?;
    value["token"].as_str().map(str::to_owned).ok_or(TokenError::NoToken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_that_of_the_example_of_rfc_7515() {
        // RFC 7515 A.1: its header and claims have line breaks, so the signing input is given as it is there.
        let key = "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow";
        let input = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
        let secret = BASE64URL.decode(key.as_bytes()).unwrap();
        let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &secret), input.as_bytes());
        let expected = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
        assert_eq!(BASE64URL.encode(signature), expected);
    }

    #[test]
    fn a_minted_token_names_the_room_and_the_user_and_verifies() {
        let token = mint("devkey", "secret", "room-1", "user-2", UNIX_EPOCH);
        let parts: Vec<&str> = token.split('.').collect();
        let claims: Value = serde_json::from_slice(&BASE64URL.decode(parts[1].as_bytes()).unwrap()).unwrap();
        assert_eq!((&claims["iss"], &claims["sub"]), (&json!("devkey"), &json!("user-2")));
        assert_eq!(claims["room"], json!({ "name": "room-1", "role": "editor" }));
        assert_eq!(claims["exp"], 6 * 3600);
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"secret");
        let signature = BASE64URL.decode(parts[2].as_bytes()).unwrap();
        hmac::verify(&key, format!("{}.{}", parts[0], parts[1]).as_bytes(), &signature).unwrap();
    }

    #[test]
    fn an_answer_is_read_and_a_refusal_is_told() {
        assert_eq!(read_answer(&(200, "{\"token\":\"a.b.c\"}".into())).unwrap(), "a.b.c");
        assert!(matches!(read_answer(&(404, "".into())), Err(TokenError::Refused(404))));
        assert!(matches!(read_answer(&(200, "{}".into())), Err(TokenError::NoToken)));
        assert!(matches!(read_answer(&(200, "".into())), Err(TokenError::NoToken)));
    }
}
