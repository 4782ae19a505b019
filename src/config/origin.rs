//! Which web pages may open a connection.

use serde::{Deserialize, Deserializer, Serialize, de::Error};

/// A web origin (`https://app.example.com`, with a port if it is not the scheme's own), or `*` for any.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct AllowedOrigin(String);

impl AllowedOrigin {
    /// Whether a request's `Origin` header is this one.
    #[must_use]
    pub fn matches(&self, origin: &str) -> bool {
        self.0 == "*" || self.0.eq_ignore_ascii_case(origin)
    }
}

impl<'de> Deserialize<'de> for AllowedOrigin {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.as_str() {
            "*" => Ok(Self(text)),
            _ if authority(&text).is_some_and(is_authority) => Ok(Self(text)),
            _ => Err(D::Error::custom("expected an origin such as https://app.example.com (no path), or *")),
        }
    }
}

/// Whether the page comes from the very host that it asks. The scheme is left aside, because TLS may end at
/// a proxy in front.
pub(super) fn is_same(origin: &str, host: &str) -> bool {
    authority(origin).is_some_and(|authority| authority.eq_ignore_ascii_case(host))
}

fn authority(origin: &str) -> Option<&str> {
    origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"))
}

fn is_authority(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b':' | b'[' | b']'))
}
