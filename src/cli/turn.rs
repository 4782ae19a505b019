//! `switchyard turn-config` and `switchyard ice-servers`: what the TURN settings come to, for coturn and for one user.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde_json::Value;
use switchyard_turn_config::coturn::turnserver_conf;
use switchyard_turn_config::settings::{Mode as TurnMode, Turn};

use super::{MintError, choose_key, parse_duration};
use crate::config::{Config, ConfigError, DEVELOPMENT_KEY, Mode, Sources};
use crate::ice_servers::IceServers;

/// `switchyard turn-config`.
#[derive(Debug, Args)]
pub struct TurnConfig {
    /// Configuration file (YAML)
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print a turnserver.conf for coturn instead; it holds the secret
    #[arg(long)]
    pub coturn: bool,
}

/// `switchyard ice-servers`.
#[derive(Debug, Args)]
pub struct IceServersOf {
    /// Id of the user
    #[arg(long, value_name = "USER")]
    pub user: String,
    /// API key that the user belongs to; needed if the configuration has several
    #[arg(long, value_name = "KEY")]
    pub api_key: Option<String>,
    /// Configuration file (YAML)
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// How long the credential is good for: 30m, 1h, 7d [default: turn.credentials.ttl]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub ttl: Option<Duration>,
}

/// Why there is nothing to print.
#[derive(Debug, thiserror::Error)]
pub enum TurnError {
    /// The configuration was refused.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Nothing to make credentials with.
    #[error(
        "there is no secret to make credentials with; give one that the server has too, in the configuration as \
         turn.credentials.secret, or in the environment, for this command and for the server alike:\n  \
         export SWITCHYARD__TURN__CREDENTIALS__SECRET=$(openssl rand -hex 32)\n\
         A server without one makes its own at each start, which only it knows."
    )]
    NoSecret,
    /// Nobody relays.
    #[error("STUN and TURN are switched off: turn.mode is off")]
    Off,
    /// The port is known to the server alone.
    #[error(
        "{0} is 0, so only the running server knows the port: set one, or ask it, by POST /v1/ice-servers"
    )]
    AnyPort(&'static str),
    /// Nothing that a client could be told.
    #[error("there is no address to tell: set turn.host, or turn.relay.bind_v4")]
    NoAddress,
    /// Which tenant's user it is.
    #[error(transparent)]
    Key(#[from] MintError),
    /// What the machine does not say.
    #[error("{0}")]
    Machine(String),
}

fn load(file: Option<&PathBuf>, environment: Vec<(OsString, OsString)>) -> Result<Config, ConfigError> {
    Config::load(&Sources { file: file.cloned(), environment, flags: Vec::new() })
}

impl TurnConfig {
    /// What to print: the section `turn` with what holds, or coturn's file.
    ///
    /// # Errors
    /// As [`Config::load`], and for coturn without a secret.
    pub fn render(&self, environment: Vec<(OsString, OsString)>) -> Result<String, TurnError> {
        let turn = load(self.config.as_ref(), environment)?.turn;
        if !self.coturn {
            let settings =
                serde_json::to_value(&turn).map_err(|error| TurnError::Machine(error.to_string()))?;
            let mut text = "turn:\n".to_owned();
            write_section(&settings, 1, &mut text);
            return Ok(text);
        }
        match turn.credentials.secret {
            Some(_) => Ok(turnserver_conf(&turn)),
            None => Err(TurnError::NoSecret),
        }
    }
}

/// Writes YAML. What is not set is a comment.
fn write_section(section: &Value, depth: usize, out: &mut String) {
    let indent = "  ".repeat(depth);
    for (key, value) in section.as_object().into_iter().flatten() {
        // Writing to a string does not fail.
        let _ = match value {
            Value::Object(_) => {
                let _ = writeln!(out, "{indent}{key}:");
                write_section(value, depth + 1, out);
                Ok(())
            }
            Value::Null => writeln!(out, "{indent}#{key}:"),
            // Text of JSON is text of YAML, and a list of them a list.
            _ => writeln!(out, "{indent}{key}: {value}"),
        };
    }
}

impl IceServersOf {
    /// What to print: a list for an `RTCPeerConnection`. `now` is in seconds since 1970; `settle` fills in the addresses
    /// that are left to the machine.
    ///
    /// # Errors
    /// If TURN is off, or what is needed is not set.
    pub fn list(
        &self,
        environment: Vec<(OsString, OsString)>,
        now: u64,
        settle: impl FnOnce(&Config) -> Result<Turn, String>,
    ) -> Result<String, TurnError> {
        let config = load(self.config.as_ref(), environment)?;
        let tenant = self.tenant(&config)?;
        let is_embedded = match config.turn.mode {
            TurnMode::Off => return Err(TurnError::Off),
            TurnMode::External => false,
            TurnMode::Embedded => true,
        };
        let mut turn = config.turn.clone();
        if is_embedded {
            if turn.credentials.secret.is_none() {
                return Err(TurnError::NoSecret);
            }
            turn = settle(&config).map_err(TurnError::Machine)?;
            // As the server does.
            turn.listen.tls_enabled &=
                turn.listen.tls_certificate.is_some() || config.mode() == Mode::Development;
            check_ports(&turn)?;
        }
        turn.credentials.ttl = self.ttl.unwrap_or(turn.credentials.ttl);
        let servers = IceServers::new(turn, now).ok_or(TurnError::NoAddress)?;
        let list = servers.of_user(&tenant, &self.user, now).ice_servers;
        serde_json::to_string_pretty(&list).map_err(|error| TurnError::Machine(error.to_string()))
    }

    fn tenant(&self, config: &Config) -> Result<String, MintError> {
        let known: Vec<String> = config.keys.keys().cloned().collect();
        if known.is_empty() {
            return Ok(self.api_key.clone().unwrap_or_else(|| DEVELOPMENT_KEY.to_owned()));
        }
        choose_key(known, self.api_key.as_ref())
    }
}

fn check_ports(turn: &Turn) -> Result<(), TurnError> {
    let listen = &turn.listen;
    for (key, is_enabled, port) in [
        ("turn.listen.udp_port", listen.udp_enabled, listen.udp_port),
        ("turn.listen.tcp_port", listen.tcp_enabled, listen.tcp_port),
        ("turn.listen.tls_port", listen.tls_enabled, listen.tls_port),
    ] {
        if is_enabled && port == 0 {
            return Err(TurnError::AnyPort(key));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use switchyard_turn_config::{credentials::Keyring, settings::Secret};

    use super::*;
    use crate::cli::{Cli, Command};

    const NOW: u64 = 1_800_000_000;
    const SECRET: &str = "7d20af9be27a4583b1c2d3e4f5061728";
    const WITH_SECRET: (&str, &str) = ("SWITCHYARD__TURN__CREDENTIALS__SECRET", SECRET);

    fn run(line: &str, environment: &[(&str, &str)]) -> Result<String, TurnError> {
        let environment = environment.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        match Cli::try_parse_from(line.split(' ')).unwrap().chosen() {
            Command::TurnConfig(args) => args.render(environment),
            Command::IceServers(args) => args.list(environment, NOW, |config| {
                let mut turn = config.turn.clone();
                turn.relay.bind_v4 = Some("192.0.2.7".parse().unwrap());
                Ok(turn)
            }),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_settings_that_hold_are_printed_as_they_can_be_written_and_no_secret_is() {
        let text = run(
            "switchyard turn-config",
            &[
                WITH_SECRET,
                ("SWITCHYARD__TURN__LISTEN__TLS_PORT", "443"),
                ("SWITCHYARD__TURN__DENY", "9.9.9.9"),
                ("SWITCHYARD__TURN__HOST", "turn.example.com"),
            ],
        )
        .unwrap();
        assert!(!text.contains(SECRET), "{text}");
        for line in [
            "turn:\n",
            "  host: \"turn.example.com\"\n",
            "  listen:\n",
            "    tls_port: 443\n",
            "    bind: [\"0.0.0.0\",\"::\"]\n",
            "    #tls_certificate:\n",
            "  deny: [\"9.9.9.9/32\"]\n",
            "    allocation: \"10m\"\n",
            "    secret: \"(secret)\"\n",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
        let again = text.replace("(secret)", SECRET);
        let read = Config::read(Some((std::path::Path::new("again.yaml"), &again)), &[], &[]).unwrap();
        assert_eq!((read.turn.listen.tls_port, read.turn.deny.len()), (443, 1));
    }

    #[test]
    fn coturn_gets_the_secret_and_needs_one() {
        let conf = run("switchyard turn-config --coturn", &[WITH_SECRET]).unwrap();
        assert!(conf.contains(&format!("static-auth-secret={SECRET}\n")), "{conf}");
        let error = run("switchyard turn-config --coturn", &[]).unwrap_err().to_string();
        assert!(error.contains("turn.credentials.secret"), "{error}");
    }

    #[test]
    fn a_user_gets_a_list_for_a_peer_connection() {
        let line = "switchyard ice-servers --user ada --ttl 5m";
        let json: Value = serde_json::from_str(&run(line, &[WITH_SECRET]).unwrap()).unwrap();
        assert_eq!(json[0], serde_json::json!({ "urls": ["stun:192.0.2.7:3478"] }));
        assert_eq!(json[1]["urls"].as_array().unwrap().len(), 3);
        let (username, password) =
            (json[1]["username"].as_str().unwrap(), json[1]["credential"].as_str().unwrap());
        assert_eq!(username, "1800000300:dev:ada");
        let keyring = Keyring::new(&Secret::new(SECRET), None, NOW, Duration::ZERO);
        assert_eq!(keyring.verify(username, password, NOW), Ok(()));
    }

    #[test]
    fn the_user_is_one_of_an_api_keys() {
        let keys = [
            WITH_SECRET,
            ("SWITCHYARD__MODE", "production"),
            ("SWITCHYARD__KEYS__A__SECRET", "6c1f0d9be27a4583b1c2d3e4f5061728"),
            ("SWITCHYARD__KEYS__B__SECRET", "5b0e1c8ad1693472a0b1c2d3e4f50617"),
        ];
        let line = "switchyard ice-servers --user ada";
        assert_eq!(
            run(line, &keys).unwrap_err().to_string(),
            "there are several API keys; choose one: --api-key a | b"
        );
        let list = run(&format!("{line} --api-key b"), &keys).unwrap();
        assert!(list.contains("1800003600:b:ada"), "{list}");
        assert!(!list.contains("turns:"), "production without a certificate has no TLS: {list}");
        assert!(run(line, &keys[..3]).unwrap().contains("1800003600:a:ada"));
        let error = run(&format!("{line} --api-key c"), &keys).unwrap_err().to_string();
        assert_eq!(error, "the configuration has no API key `c`; it has: a, b");
    }

    #[test]
    fn what_is_missing_is_named_with_where_to_set_it() {
        let line = "switchyard ice-servers --user ada";
        for (environment, expected) in [
            (&[][..], "SWITCHYARD__TURN__CREDENTIALS__SECRET"),
            (&[("SWITCHYARD__TURN__MODE", "off")], "turn.mode is off"),
            (&[WITH_SECRET, ("SWITCHYARD__TURN__LISTEN__TCP_PORT", "0")], "turn.listen.tcp_port is 0"),
            (&[("SWITCHYARD__TURN__MODE", "external")], "turn.external.urls"),
        ] {
            let error = run(line, environment).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn an_external_server_is_named_without_asking_the_machine() {
        let list = run(
            "switchyard ice-servers --user ada",
            &[
                ("SWITCHYARD__TURN__MODE", "external"),
                ("SWITCHYARD__TURN__EXTERNAL__URLS", "turn:turn.example.com"),
                WITH_SECRET,
            ],
        )
        .unwrap();
        assert!(list.contains("turn:turn.example.com") && list.contains("1800003600:dev:ada"), "{list}");
    }
}
