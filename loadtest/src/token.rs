//! Tokens for simulated users: minted here with a key of the server (section 5 of the protocol's document), or asked
//! from a development server. The server's half is `src/token.rs`.

use std::{
    net::SocketAddr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD as BASE64URL};
use ring::hmac;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

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
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The server cannot be talked to.
    #[error("GET /v1/dev/token: {0}")]
    Io(#[from] std::io::Error),
    /// The server takes too long.
    #[error("GET /v1/dev/token: no answer in time")]
    TimedOut,
    /// The server refuses.
    #[error("GET /v1/dev/token: the server answers \"{0}\"; is it in development mode?")]
    Refused(String),
    /// The answer is not what was expected.
    #[error("GET /v1/dev/token: the answer has no \"token\"")]
    NoToken,
}

/// An editor's token is valid this long.
const VALID: Duration = Duration::from_secs(6 * 3600);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of an answer that are read.
const ANSWER_BYTES: u64 = 64 * 1024;

impl TokenSource {
    /// A token for this user in this room.
    pub async fn token(&self, server: SocketAddr, room: &str, user: &str) -> Result<String, TokenError> {
        match self {
            Self::Key { key, secret } => Ok(mint(key, secret, room, user, SystemTime::now())),
            Self::Development => {
                timeout(ANSWER_TIMEOUT, ask(server, room, user)).await.map_err(|_| TokenError::TimedOut)?
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

/// One request on one connection; names made by the load program need no escaping.
async fn ask(server: SocketAddr, room: &str, user: &str) -> Result<String, TokenError> {
    let mut stream = TcpStream::connect(server).await?;
    let request = format!(
        "GET /v1/dev/token?room={room}&user={user} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES).read_to_end(&mut answer).await?;
    read_answer(&String::from_utf8_lossy(&answer))
}

fn read_answer(answer: &str) -> Result<String, TokenError> {
    let status = answer.lines().next().unwrap_or_default();
    if status.split(' ').nth(1) != Some("200") {
        return Err(TokenError::Refused(status.to_owned()));
    }
    // The body may be chunked: the object is what lies between the outermost braces.
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let object = body.find('{').zip(body.rfind('}')).map_or("", |(start, end)| &body[start..=end]);
    let value: Value = serde_json::from_str(object).map_err(|_| TokenError::NoToken)?;
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
    fn an_answer_is_read_whether_chunked_or_not_and_a_refusal_is_told() {
        let plain = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{\"token\":\"a.b.c\"}";
        assert_eq!(read_answer(plain).unwrap(), "a.b.c");
        let chunked =
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n11\r\n{\"token\":\"a.b.c\"}\r\n0\r\n\r\n";
        assert_eq!(read_answer(chunked).unwrap(), "a.b.c");
        assert!(matches!(read_answer("HTTP/1.1 404 Not Found\r\n\r\n"), Err(TokenError::Refused(_))));
        assert!(matches!(read_answer("HTTP/1.1 200 OK\r\n\r\n{}"), Err(TokenError::NoToken)));
        assert!(read_answer("").is_err());
    }
}
