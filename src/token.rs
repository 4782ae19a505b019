//! Who somebody is and what they may do in a room, as their application states it in a signed token (ACL1).
//!
//! A token is a JWT, signed with HS256 and the secret of one of the server's API keys. Its claims:
//!
//! | claim | |
//! |---|---|
//! | `iss` | the API key, which is the tenant (ACL10) |
//! | `sub` | the user: 1–128 bytes, no control characters |
//! | `name` | optional: what others see; the user's id if absent |
//! | `exp` | when the token ends, in seconds since 1970 |
//! | `nbf` | optional: when it begins |
//! | `jti` | optional: an id of the token |
//! | `aud` | optional: if present it has to be, or to contain, `switchyard` |
//! | `room` | the grants |
//!
//! ```json
//! "room": { "name": "design-review", "role": "commenter",
//!           "permissions": { "allow": ["publish_media"], "deny": ["react"] },
//!           "features": { "webrtc": false } }
//! ```
//!
//! `role` is one of viewer, commenter, editor and admin; `permissions`, which may be absent, adds to it and
//! takes from it ([`crate::room::permission`]); `features`, which may be absent too, switches off what the server
//! offers. An unknown key in `room` is refused, because a misspelt restriction that is passed over would be none.
//! An unknown feature is not: the application may mint tokens for newer servers as well.
//!
//! A token without `room` may instead carry the grants of LiveKit, which applications already mint:
//! `"video": { "room": …, "roomJoin": true, "canPublish", "canPublishData", "canSubscribe", "roomAdmin" }`.
//! There an absent `can…` permits. `roomAdmin` is an admin; who may publish media or data is an editor, else
//! a viewer; what is forbidden is denied. A list in `canPublishSources` narrows what may be published in a
//! way that is not understood here, so it denies publishing media.
//!
//! This module reads no clock and no configuration: time is an argument, and [`Keys`] are given to it.
//! Whether a user is let in for other reasons (limits, a full room) is decided elsewhere.

mod ring_provider;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use switchyard_signaling::{Code, Features, limits};

use crate::config::Config;
use crate::room::permission::{Overrides, Permission, Permissions, Role};

/// By how many seconds the clocks of the application and of this server may differ.
pub const LEEWAY_SECONDS: u64 = 5;

/// What `aud` names when a token has one.
const AUDIENCE: &str = "switchyard";

/// What a sentence about wrong claims quotes at most, in characters.
const MAX_QUOTE: usize = 160;

/// Somebody whose token was good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// The API key that signed.
    pub tenant: Arc<str>,
    /// The user, unique within the tenant.
    pub user: Arc<str>,
    /// What others see.
    pub name: Arc<str>,
    /// The room that the token is for.
    pub room: Arc<str>,
    /// The role in that room.
    pub role: Role,
    /// What the token adds to the role and takes from it.
    pub overrides: Overrides,
    /// What the token leaves on.
    pub features: Features,
    /// From this second on (since 1970) the session has no right to be there. The leeway is included.
    pub expires_at: u64,
    /// The token's own id.
    pub id: Option<String>,
}

impl Verified {
    /// What the user may do in the room.
    #[must_use]
    pub fn permissions(&self) -> Permissions {
        self.overrides.apply(self.role)
    }
}

/// Why a token is refused. Each has a code of its own, which is part of the protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Longer than [`limits::TOKEN_BYTES`].
    #[error("the token is larger than {} bytes", limits::TOKEN_BYTES)]
    TooLarge,
    /// No JWT.
    #[error("this is no JWT: three parts of base64url with dots between, the first two JSON objects")]
    Malformed,
    /// Signed in another way than its API key signs, or not at all.
    #[error("the token has to be signed with HS256")]
    Algorithm,
    /// Signed by nobody this server knows.
    #[error("`iss` names no API key of this server")]
    UnknownKey,
    /// Not signed by its API key, or changed since.
    #[error("the signature does not match: the token was signed with another secret, or changed")]
    Signature,
    /// Too old.
    #[error("the token expired at {0} (seconds since 1970)")]
    Expired(u64),
    /// Too young.
    #[error("the token is valid from {0} (seconds since 1970) on; are the clocks right?")]
    NotYetValid(u64),
    /// Good, but for another room.
    #[error("the token is for another room")]
    OtherRoom,
    /// Well signed, but a claim is missing or wrong.
    #[error("the token's claims are wrong: {0}")]
    Claims(String),
}

impl TokenError {
    /// The error's stable name on the wire.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::TooLarge => Code::TokenTooLarge,
            Self::Malformed => Code::TokenMalformed,
            Self::Algorithm => Code::TokenAlgorithm,
            Self::UnknownKey => Code::TokenUnknownKey,
            Self::Signature => Code::TokenSignature,
            Self::Expired(_) => Code::TokenExpired,
            Self::NotYetValid(_) => Code::TokenNotYetValid,
            Self::OtherRoom => Code::TokenOtherRoom,
            Self::Claims(_) => Code::TokenClaims,
        }
    }
}

/// The API keys of a server, each with what verifies and signs for it.
#[derive(Clone)]
pub struct Keys(BTreeMap<Arc<str>, Pair>);

#[derive(Clone)]
struct Pair {
    decoding: DecodingKey,
    encoding: EncodingKey,
}

impl Keys {
    /// Takes names and secrets.
    pub fn new<'a>(secrets: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Self {
        ring_provider::install();
        let pair = |secret| Pair {
            decoding: DecodingKey::from_secret(secret),
            encoding: EncodingKey::from_secret(secret),
        };
        Self(secrets.into_iter().map(|(name, secret)| (name.into(), pair(secret))).collect())
    }

    /// The keys of a configuration.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        Self::new(config.keys.iter().map(|(name, key)| (name.as_str(), key.secret.expose())))
    }

    /// The names of the keys, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(AsRef::as_ref)
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// Checks that `token` lets its bearer into `room` at `now` (seconds since 1970).
///
/// # Errors
/// In this order: size, form, algorithm, key, signature, claims, times, room. Nothing that the token says
/// about its bearer is believed before the signature holds.
pub fn verify(token: &str, keys: &Keys, room: &str, now: u64) -> Result<Verified, TokenError> {
    if token.len() > limits::TOKEN_BYTES {
        return Err(TokenError::TooLarge);
    }
    refuse_other_algorithms(token)?;
    let issuer: Issuer =
        jsonwebtoken::dangerous::insecure_decode_claims(token).map_err(|_| TokenError::Malformed)?;
    let issuer = issuer.iss.ok_or_else(|| TokenError::Claims("`iss` is missing".to_owned()))?;
    let (tenant, key) = keys.0.get_key_value(issuer.as_str()).ok_or(TokenError::UnknownKey)?;
    let claims = match jsonwebtoken::decode::<Claims>(token, &key.decoding, &validation()) {
        Ok(data) => data.claims,
        Err(error) => {
            return Err(match error.kind() {
                ErrorKind::InvalidSignature => TokenError::Signature,
                ErrorKind::InvalidAlgorithm | ErrorKind::UnsupportedAlgorithm => TokenError::Algorithm,
                ErrorKind::Json(error) => claims_error(error),
                _ => TokenError::Malformed,
            });
        }
    };
    admit(claims, tenant, room, now)
}

/// What goes into a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The user: `sub`.
    pub user: String,
    /// What others see.
    pub name: Option<String>,
    /// The room.
    pub room: String,
    /// The role in it.
    pub role: Role,
    /// What is added to the role and taken from it.
    pub overrides: Overrides,
    /// What is left on; a token cannot switch on what the server has off.
    pub features: Features,
    /// When the token ends, in seconds since 1970.
    pub expires_at: u64,
    /// When it begins.
    pub not_before: Option<u64>,
    /// The token's own id.
    pub id: Option<String>,
}

/// Signs a token with the API key `key`.
///
/// # Errors
/// [`TokenError::UnknownKey`], and [`TokenError::Claims`] for a grant that would not be accepted.
pub fn mint(keys: &Keys, key: &str, grant: &Grant) -> Result<String, TokenError> {
    let pair = keys.0.get(key).ok_or(TokenError::UnknownKey)?;
    check_name("sub", &grant.user, limits::USER_BYTES)?;
    check_name("room.name", &grant.room, limits::ROOM_NAME_BYTES)?;
    if let Some(name) = &grant.name {
        check_name("name", name, limits::USER_BYTES)?;
    }
    let claims = MintedClaims {
        iss: key,
        sub: &grant.user,
        name: grant.name.as_deref(),
        exp: grant.expires_at,
        nbf: grant.not_before,
        jti: grant.id.as_deref(),
        room: RoomGrant {
            name: grant.room.clone(),
            role: grant.role,
            permissions: grant.overrides,
            features: grant.features,
        },
    };
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &pair.encoding)
        .map_err(|error| TokenError::Claims(error.to_string()))
}

/// `alg: none` and every algorithm but HS256 are refused before the token's claims are so much as decoded.
/// So is `crit`: it lists extensions that have to be understood (RFC 7515, section 4.1.11), and none is.
fn refuse_other_algorithms(token: &str) -> Result<(), TokenError> {
    #[derive(Deserialize)]
    struct Head {
        alg: String,
        crit: Option<IgnoredAny>,
    }
    let mut parts = token.split('.');
    let (Some(head), Some(_), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(TokenError::Malformed);
    };
    let head = URL_SAFE_NO_PAD.decode(head).map_err(|_| TokenError::Malformed)?;
    let head: Head = serde_json::from_slice(&head).map_err(|_| TokenError::Malformed)?;
    match head.alg.as_str() {
        "HS256" if head.crit.is_none() => Ok(()),
        "HS256" => Err(TokenError::Malformed),
        _ => Err(TokenError::Algorithm),
    }
}

/// Signature and algorithm are the library's to check; times are not, because it reads the clock itself.
fn validation() -> Validation {
    let mut validation = Validation::new(Algorithm::HS256);
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_aud = false;
    validation
}

/// Believed only as far as which key is to verify it.
#[derive(Deserialize)]
struct Issuer {
    iss: Option<String>,
}

#[derive(Deserialize)]
struct Claims {
    sub: Option<String>,
    name: Option<String>,
    exp: Option<Seconds>,
    nbf: Option<Seconds>,
    jti: Option<String>,
    aud: Option<Audience>,
    room: Option<RoomGrant>,
    video: Option<VideoGrant>,
}

#[derive(Serialize)]
struct MintedClaims<'a> {
    iss: &'a str,
    sub: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    exp: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    nbf: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    jti: Option<&'a str>,
    room: RoomGrant,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RoomGrant {
    name: String,
    role: Role,
    #[serde(default, skip_serializing_if = "Overrides::is_empty")]
    permissions: Overrides,
    #[serde(default, skip_serializing_if = "Features::is_all")]
    features: Features,
}

/// The part of LiveKit's grants that concerns taking part in a room.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct VideoGrant {
    room: Option<String>,
    #[serde(default)]
    room_join: bool,
    #[serde(default)]
    room_admin: bool,
    can_publish: Option<bool>,
    can_publish_data: Option<bool>,
    can_subscribe: Option<bool>,
    #[serde(default)]
    can_publish_sources: Vec<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

/// A NumericDate (RFC 7519, section 2), which may have a fraction.
#[derive(Clone, Copy, Deserialize)]
#[serde(try_from = "serde_json::Number")]
struct Seconds(u64);

impl TryFrom<serde_json::Number> for Seconds {
    type Error = &'static str;

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "the range is checked, and a fraction of a second does not matter"
    )]
    fn try_from(number: serde_json::Number) -> Result<Self, &'static str> {
        match (number.as_u64(), number.as_f64()) {
            (Some(seconds), _) => Ok(Self(seconds)),
            (None, Some(seconds)) if (0.0..u64::MAX as f64).contains(&seconds) => Ok(Self(seconds as u64)),
            _ => Err("a time is a number of seconds since 1970"),
        }
    }
}

fn admit(claims: Claims, tenant: &Arc<str>, room: &str, now: u64) -> Result<Verified, TokenError> {
    let wrong = |sentence: &str| Err(TokenError::Claims(sentence.to_owned()));
    let Some(user) = claims.sub else {
        return wrong("`sub` is missing");
    };
    check_name("sub", &user, limits::USER_BYTES)?;
    let name = match claims.name {
        Some(name) if !name.is_empty() => name,
        _ => user.clone(),
    };
    check_name("name", &name, limits::USER_BYTES)?;
    let Some(Seconds(expires)) = claims.exp else {
        return wrong("`exp` is missing");
    };
    let audience_is_wrong = match claims.aud {
        None => false,
        Some(Audience::One(audience)) => audience != AUDIENCE,
        Some(Audience::Many(audiences)) => !audiences.iter().any(|audience| audience == AUDIENCE),
    };
    if audience_is_wrong {
        return wrong("`aud` does not name `switchyard`");
    }
    let grant = match (claims.room, claims.video) {
        (Some(grant), _) => grant,
        (None, Some(video)) => video.into_room_grant()?,
        (None, None) => return wrong("`room` is missing"),
    };
    check_name("room.name", &grant.name, limits::ROOM_NAME_BYTES)?;

    let expires_at = expires.saturating_add(LEEWAY_SECONDS);
    if now >= expires_at {
        return Err(TokenError::Expired(expires));
    }
    if let Some(Seconds(begins)) = claims.nbf
        && now.saturating_add(LEEWAY_SECONDS) < begins
    {
        return Err(TokenError::NotYetValid(begins));
    }
    if grant.name != room {
        return Err(TokenError::OtherRoom);
    }
    Ok(Verified {
        tenant: tenant.clone(),
        user: user.into(),
        name: name.into(),
        room: grant.name.into(),
        role: grant.role,
        overrides: grant.permissions,
        features: grant.features,
        expires_at,
        id: claims.jti,
    })
}

impl VideoGrant {
    fn into_room_grant(self) -> Result<RoomGrant, TokenError> {
        let wrong = |sentence: &str| TokenError::Claims(sentence.to_owned());
        if !self.room_join {
            return Err(wrong("`video.roomJoin` is not true"));
        }
        let name = self.room.ok_or_else(|| wrong("`video.room` is missing"))?;
        let publish = self.can_publish.unwrap_or(true);
        let publish_data = self.can_publish_data.unwrap_or(publish);
        let role = match () {
            () if self.room_admin => Role::Admin,
            () if publish || publish_data => Role::Editor,
            () => Role::Viewer,
        };
        let mut deny = Permissions::NONE;
        if !publish || !self.can_publish_sources.is_empty() {
            deny = deny | Permission::PublishMedia;
        }
        if !publish_data {
            deny = deny | Permission::Write | Permission::Comment | Permission::React;
        }
        if !self.can_subscribe.unwrap_or(true) {
            deny = deny | Permission::Read;
        }
        let permissions = Overrides { allow: Permissions::NONE, deny };
        Ok(RoomGrant { name, role, permissions, features: Features::default() })
    }
}

fn check_name(claim: &str, name: &str, most: usize) -> Result<(), TokenError> {
    let problem = match name {
        "" => "is empty".to_owned(),
        _ if name.len() > most => format!("is longer than {most} bytes"),
        _ if name.chars().any(char::is_control) => "has control characters".to_owned(),
        _ => return Ok(()),
    };
    Err(TokenError::Claims(format!("`{claim}` {problem}")))
}

/// serde quotes what it met; that is cut short, and cannot break a line of the log.
fn claims_error(error: &serde_json::Error) -> TokenError {
    let sentence = error.to_string();
    TokenError::Claims(sentence.chars().take(MAX_QUOTE).flat_map(char::escape_debug).collect())
}

#[cfg(test)]
mod tests;
