//! `switchyard doctor`: what is typed, and what it means to [`crate::doctor`].

use std::path::PathBuf;
use std::time::Duration;

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use clap::Args;
use serde_json::Value;
use switchyard_signaling::Features;

use super::parse_duration;
use crate::doctor::{Access, Options};
use crate::room::permission::{Overrides, Role};
use crate::token::{self, Grant, Keys, TokenError};

/// How long a token is valid that is made for the tests.
const TTL: Duration = Duration::from_secs(300);

/// `switchyard doctor`.
#[derive(Debug, Args)]
pub struct Doctor {
    /// The server as clients reach it: https://HOST:PORT or http://HOST:PORT, the port where it is not the usual one
    #[arg(long, value_name = "URL")]
    pub url: String,
    /// A token to join its room with
    #[arg(long, value_name = "TOKEN", conflicts_with_all = ["key", "secret"])]
    pub token: Option<String>,
    /// The token's room [default: the one that it names]
    #[arg(long, value_name = "ROOM", requires = "token")]
    pub room: Option<String>,
    /// API key to make a token with, for a room that nobody is in
    #[arg(long, value_name = "KEY", requires = "secret")]
    pub key: Option<String>,
    /// Secret of that API key. Other users of this machine can see it in the list of processes
    #[arg(long, value_name = "SECRET", requires = "key")]
    pub secret: Option<String>,
    /// How long each test may take
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = parse_duration)]
    pub timeout: Duration,
    /// PEM file of authorities to trust besides the system's
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Why nothing can be tested.
#[derive(Debug, thiserror::Error)]
pub enum DoctorError {
    /// The token says nothing.
    #[error("the token names no room; name it by --room")]
    NoRoom,
    /// None could be made.
    #[error(transparent)]
    Token(#[from] TokenError),
}

impl Doctor {
    /// What to look at. `now` is in seconds since 1970, `random` names a room that nobody is in.
    ///
    /// # Errors
    /// For a token without a room, and for a key that no token can be made with.
    pub fn options(&self, now: u64, random: &[u8; 16]) -> Result<Options, DoctorError> {
        let access = match (&self.token, &self.key, &self.secret) {
            (Some(token), ..) => {
                let room = self.room.clone().or_else(|| room_of(token)).ok_or(DoctorError::NoRoom)?;
                Some(Access { token: token.clone(), room })
            }
            (None, Some(key), Some(secret)) => Some(made(key, secret, now, random)?),
            _ => None,
        };
        Ok(Options { url: self.url.clone(), access, patience: self.timeout, ca: self.ca.clone() })
    }
}

fn made(key: &str, secret: &str, now: u64, random: &[u8; 16]) -> Result<Access, TokenError> {
    let id: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    let room = format!("doctor-{id}");
    let grant = Grant {
        user: "doctor".to_owned(),
        name: None,
        room: room.clone(),
        role: Role::Viewer,
        overrides: Overrides::default(),
        features: Features::default(),
        expires_at: now.saturating_add(TTL.as_secs()),
        not_before: None,
        id: Some(id),
    };
    let token = token::mint(&Keys::new([(key, secret.as_bytes())]), key, &grant)?;
    Ok(Access { token, room })
}

/// The room that a token names. Whether it is genuine is the server's to say.
fn room_of(token: &str) -> Option<String> {
    let claims = BASE64_URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let claims: Value = serde_json::from_slice(&claims).ok()?;
    let room = claims["room"]["name"].as_str().or_else(|| claims["video"]["room"].as_str())?;
    Some(room.to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    fn options(line: &str) -> Result<Options, String> {
        let chosen = Cli::try_parse_from(line.split(' ')).map_err(|error| error.to_string())?.chosen();
        let Command::Doctor(args) = chosen else { panic!("{line}") };
        args.options(1_800_000_000, &[7; 16]).map_err(|error| error.to_string())
    }

    #[test]
    fn a_key_and_its_secret_make_a_token_for_a_room_that_nobody_is_in() {
        let options = options("switchyard doctor --url https://a --key app --secret s --timeout 2s").unwrap();
        let Access { token, room } = options.access.unwrap();
        assert_eq!(
            (room.as_str(), options.patience.as_secs()),
            ("doctor-07070707070707070707070707070707", 2)
        );
        let keys = Keys::new([("app", &b"s"[..])]);
        assert_eq!(&*token::verify(&token, &keys, &room, 1_800_000_000).unwrap().user, "doctor");
        assert_eq!(room_of(&token), Some(room));
    }

    #[test]
    fn a_token_is_used_in_the_room_that_it_names() {
        let part = |json: &str| BASE64_URL_SAFE_NO_PAD.encode(json);
        let token = |claims: &str| format!("{}.{}.x", part("{}"), part(claims));
        let room = |token: &str, more: &str| {
            options(&format!("switchyard doctor --url http://a --token {token}{more}"))
                .map(|o| o.access.unwrap().room)
        };
        assert_eq!(room(&token(r#"{"room":{"name":"lab"}}"#), ""), Ok("lab".to_owned()));
        assert_eq!(room(&token(r#"{"video":{"room":"hall"}}"#), ""), Ok("hall".to_owned()));
        assert_eq!(room(&token("{}"), " --room lab"), Ok("lab".to_owned()));
        assert_eq!(room("nonsense", "").unwrap_err(), "the token names no room; name it by --room");
        assert!(options("switchyard doctor --url http://a --key app").unwrap_err().contains("--secret"));
        assert!(options("switchyard doctor --url http://a").unwrap().access.is_none());
    }
}
