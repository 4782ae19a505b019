//! The command line: what can be typed, and what it means.
//!
//! `main` carries the commands out; nothing here prints, binds a port or reads a clock, so that tests can
//! run every command. Flags that set something become [`Flag`]s and are read and refused like the rest of
//! the [configuration](crate::config).

mod doctor;
mod turn;

use std::ffi::OsString;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand};
use switchyard_signaling::Features;

use crate::config::{Config, ConfigError, Flag, Mode, Sources, parse_duration};
use crate::room::permission::{Overrides, Role};
use crate::token::{self, Grant, Keys, TokenError};

pub use doctor::{Doctor, DoctorError};
pub use turn::{IceServersOf, TurnConfig, TurnError};

/// What is typed.
#[derive(Debug, Parser)]
#[command(
    name = "switchyard",
    version,
    about = "One server for live collaboration: WebRTC SFU and data mesh, WebSocket relay, rooms",
    after_help = "Without a command, `switchyard` is `switchyard serve`.\n\n\
        Examples:\n  \
        switchyard\n  \
        switchyard --config /etc/switchyard.yaml\n  \
        switchyard token --config /etc/switchyard.yaml --room lab --user ada\n\n\
        Each command has more with --help.",
    args_conflicts_with_subcommands = true
)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: Serve,
}

impl Cli {
    /// The command, which is to serve if none is typed.
    #[must_use]
    pub fn chosen(self) -> Command {
        self.command.unwrap_or(Command::Serve(self.serve))
    }
}

/// What can be asked of the program.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the server (what `switchyard` alone does)
    #[command(
        long_about = "Run the server.\n\n\
        Without any configuration it runs in development mode: on loopback, with an API key that it makes \
        itself and links that let you in. Production mode has to be asked for, and refuses to start with a \
        missing, short or well-known secret.\n\n\
        Messages are kept in an SQLite file, or in PostgreSQL if the configuration names one.\n\n\
        SIGTERM and SIGINT drain: clients are told, and leave cleanly.",
        after_long_help = "Examples:\n  \
        switchyard\n  \
        switchyard serve --port 8080 --store /tmp/try.db\n  \
        switchyard serve --config /etc/switchyard.yaml\n  \
        SWITCHYARD__MODE=production SWITCHYARD__KEYS__MYAPP__SECRET=$(openssl rand -hex 32) switchyard serve\n\n\
        Every setting, with its default and reason, is in switchyard.example.yaml. Each is also an \
        environment variable, SWITCHYARD__SECTION__KEY, which wins over the file; flags win over both."
    )]
    Serve(Serve),
    /// Print a token that lets a user into a room
    #[command(
        long_about = "Print a token that lets a user into a room.\n\n\
        The token is signed with an API key, which has to be one that the server knows: from the \
        configuration file, from the environment, or given as --api-key and --secret.",
        after_long_help = "Examples:\n  \
        switchyard token --config switchyard.yaml --room lab --user ada\n  \
        switchyard token --config switchyard.yaml --room lab --user bob --role viewer --ttl 15m --url\n  \
        switchyard token --config switchyard.yaml --room lab --user cem --without p2p,tentative\n  \
        switchyard token --api-key myapp --secret \"$SECRET\" --room lab --user ada --url=https://live.example.com\n\n\
        With a development server, give both the same key:\n  \
        export SWITCHYARD__MODE=development SWITCHYARD__KEYS__DEV__SECRET=$(openssl rand -hex 32)\n  \
        switchyard serve &\n  \
        switchyard token --room lab --user ada --url"
    )]
    Token(Token),
    /// Ask a running server whether it is well
    #[command(
        long_about = "Ask a running server whether it is well.\n\n\
        It is asked at its HTTP address, /healthz, or /readyz with --ready. The answer is the exit status, with the \
        reason if it is no. This is what a container's health check runs.",
        after_long_help = "Examples:\n  \
        switchyard health\n  \
        switchyard health --ready --config /etc/switchyard.yaml\n  \
        switchyard health --address 10.0.0.7:7880"
    )]
    Health(Health),
    /// Print the settings of STUN and TURN that hold, or a coturn configuration made of them
    #[command(
        long_about = "Print the settings of STUN and TURN that hold, or a coturn configuration made of them.\n\n\
        They come from the configuration file, the environment and the defaults. Secrets are left out, but for coturn, \
        whose file needs them: keep that readable for coturn's user alone.",
        after_long_help = "Examples:\n  \
        switchyard turn-config\n  \
        switchyard turn-config --config /etc/switchyard.yaml --coturn > /etc/turnserver.conf"
    )]
    TurnConfig(TurnConfig),
    /// Print STUN and TURN servers with a credential for a user
    #[command(
        long_about = "Print STUN and TURN servers with a credential for a user.\n\n\
        It is the `iceServers` of an RTCPeerConnection, as sessions and the application's backend get it from the server. \
        The credential is made with turn.credentials.secret, so that has to be set.",
        after_long_help = "Examples:\n  \
        switchyard ice-servers --config switchyard.yaml --user ada\n  \
        switchyard ice-servers --config switchyard.yaml --user ada --api-key myapp --ttl 10m\n\n\
        With a development server, give both the same secret:\n  \
        export SWITCHYARD__TURN__CREDENTIALS__SECRET=$(openssl rand -hex 32)\n  \
        switchyard serve &\n  \
        switchyard ice-servers --user ada"
    )]
    IceServers(IceServersOf),
    /// Look at a server from outside: every address, port and certificate that it tells clients of
    #[command(
        long_about = "Look at a server from outside: every address, port and certificate that it tells clients of.\n\n\
        To be run where clients are, not on the server. One line a test: the name, HTTP, the WebSocket; with a token, or an \
        API key that makes one, also a join to a room that nobody is in, each address of the server over UDP and TCP, \
        and STUN and TURN over UDP, TCP and TLS. What fails says what to change; the exit status is 1 then.",
        after_long_help = "Examples:\n  \
        switchyard doctor --url https://live.example.com\n  \
        switchyard doctor --url https://live.example.com --key myapp --secret \"$SECRET\"\n  \
        switchyard doctor --url http://10.0.0.7:7880 --token \"$TOKEN\" --json"
    )]
    Doctor(Doctor),
}

/// `switchyard serve`.
#[derive(Debug, Default, Args)]
pub struct Serve {
    /// Configuration file (YAML)
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Address for HTTP and WebSocket [default: 127.0.0.1 in development, 0.0.0.0 in production]
    #[arg(long, value_name = "ADDRESS")]
    pub bind: Option<String>,
    /// TCP port for HTTP and WebSocket; 0 takes any free one [default: 7880]
    #[arg(long, value_name = "PORT")]
    pub port: Option<String>,
    /// SQLite file for what survives; its folder is made [default: data/switchyard.db]
    #[arg(long, value_name = "FILE")]
    pub store: Option<String>,
}

impl Serve {
    /// The configuration to serve with. A development server without keys gets one made of `random`.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn configuration(
        &self,
        environment: Vec<(OsString, OsString)>,
        random: &[u8; 32],
    ) -> Result<Config, ConfigError> {
        let flags = [
            ("--bind", "http.bind", &self.bind),
            ("--port", "http.port", &self.port),
            ("--store", "store.path", &self.store),
        ];
        let flags = flags
            .into_iter()
            .filter_map(|(name, key, value)| Some(Flag { name, key, value: value.clone()? }))
            .collect();
        let mut config = Config::load(&Sources { file: self.config.clone(), environment, flags })?;
        config.add_development_key(random);
        Ok(config)
    }
}

/// `switchyard token`.
#[derive(Debug, Args)]
pub struct Token {
    /// Room that the token is for
    #[arg(long, value_name = "ROOM")]
    pub room: String,
    /// Id of the user
    #[arg(long, value_name = "USER")]
    pub user: String,
    /// Name that others see [default: the id]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Role in the room
    #[arg(long, value_name = "ROLE", default_value = "editor", value_parser = roles())]
    pub role: Role,
    /// Features that the token switches off: webrtc, relay, p2p, tentative
    #[arg(long, value_name = "FEATURE,…", value_delimiter = ',', value_parser = features())]
    pub without: Vec<String>,
    /// How long the token is valid: 500ms, 30s, 5m, 1h, 7d
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = parse_duration)]
    pub ttl: Duration,
    /// API key that signs; needed if the configuration has several
    #[arg(long, value_name = "KEY")]
    pub api_key: Option<String>,
    /// Secret of that API key; the configuration is not read then. Other users of this machine can see it
    /// in the list of processes
    #[arg(long, value_name = "SECRET", requires = "api_key", conflicts_with = "config")]
    pub secret: Option<String>,
    /// Configuration file (YAML)
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print a link to the demo instead, on this server [default: the configured address]
    #[arg(long, value_name = "BASE", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    pub url: Option<String>,
}

/// `switchyard health`.
#[derive(Debug, Args)]
pub struct Health {
    /// Ask whether new sessions are welcome: not while the server drains
    #[arg(long)]
    pub ready: bool,
    /// Where the server listens for HTTP [default: as configured, on this machine]
    #[arg(long, value_name = "IP:PORT", conflicts_with = "config")]
    pub address: Option<SocketAddr>,
    /// Configuration file (YAML)
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// How long to wait for an answer
    #[arg(long, value_name = "DURATION", default_value = "3s", value_parser = parse_duration)]
    pub timeout: Duration,
}

impl Health {
    /// Whom to ask, and at which door.
    ///
    /// # Errors
    /// As [`Config::load`], which is not called if an address is given.
    pub fn door(
        &self,
        environment: Vec<(OsString, OsString)>,
    ) -> Result<(SocketAddr, &'static str), ConfigError> {
        let address = match self.address {
            Some(address) => address,
            None => {
                let sources = Sources { file: self.config.clone(), environment, flags: Vec::new() };
                local_address(&Config::load(&sources)?)
            }
        };
        Ok((address, if self.ready { "/readyz" } else { "/healthz" }))
    }
}

/// Why no token was made.
#[derive(Debug, thiserror::Error)]
pub enum MintError {
    /// The configuration was refused.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Nothing to sign with.
    #[error(
        "there is no API key to sign with; give one that the server has too:\n  \
         - a configuration file with `keys`: --config FILE\n  \
         - the environment, for this command and for the server alike:\n      \
         export SWITCHYARD__MODE=development SWITCHYARD__KEYS__DEV__SECRET=$(openssl rand -hex 32)\n  \
         - flags: --api-key KEY --secret SECRET\n\
         A development server without keys makes its own, which only it knows; it prints a link that lets you in."
    )]
    NoKey,
    /// Several keys, and no choice.
    #[error("there are several API keys; choose one: --api-key {}", .0.join(" | "))]
    WhichKey(Vec<String>),
    /// A key that the configuration lacks.
    #[error("the configuration has no API key `{asked}`; it has: {}", .known.join(", "))]
    NoSuchKey {
        /// What `--api-key` says.
        asked: String,
        /// What there is.
        known: Vec<String>,
    },
    /// The token would not be accepted.
    #[error(transparent)]
    Token(#[from] TokenError),
}

impl Token {
    /// What to print: a token, or a link that carries one. `now` is in seconds since 1970, `random` makes
    /// the token's id.
    ///
    /// # Errors
    /// Without a usable key, and for claims that a server would refuse.
    pub fn mint(
        &self,
        environment: Vec<(OsString, OsString)>,
        now: u64,
        random: &[u8; 16],
    ) -> Result<String, MintError> {
        let config = match self.secret {
            Some(_) => Config::default(),
            None => Config::load(&Sources { file: self.config.clone(), environment, flags: Vec::new() })?,
        };
        let (keys, key) = self.signer(&config)?;
        let grant = Grant {
            user: self.user.clone(),
            name: self.name.clone(),
            room: self.room.clone(),
            role: self.role,
            overrides: Overrides::default(),
            features: self.features(),
            expires_at: now.saturating_add(self.ttl.as_secs().max(1)),
            not_before: Some(now),
            id: Some(random.iter().map(|byte| format!("{byte:02x}")).collect()),
        };
        let token = token::mint(&keys, &key, &grant)?;
        Ok(match self.url.as_deref() {
            None => token,
            Some("") => join_link(&local_base(&config), &self.room, &token),
            Some(base) => join_link(base, &self.room, &token),
        })
    }

    /// What the token leaves on.
    fn features(&self) -> Features {
        let is_on = |name: &str| !self.without.iter().any(|without| without == name);
        Features {
            webrtc: is_on("webrtc"),
            relay: is_on("relay"),
            p2p: is_on("p2p"),
            tentative: is_on("tentative"),
        }
    }

    /// The keys to sign with, and the one to use.
    fn signer(&self, config: &Config) -> Result<(Keys, String), MintError> {
        if let (Some(key), Some(secret)) = (&self.api_key, &self.secret) {
            return Ok((Keys::new([(key.as_str(), secret.as_bytes())]), key.clone()));
        }
        let keys = Keys::of(config);
        let key = choose_key(keys.names().map(str::to_owned).collect(), self.api_key.as_ref())?;
        Ok((keys, key))
    }
}

/// The API key that is meant.
fn choose_key(known: Vec<String>, asked: Option<&String>) -> Result<String, MintError> {
    match (asked, known.as_slice()) {
        (_, []) => Err(MintError::NoKey),
        (Some(asked), known) if known.contains(asked) => Ok(asked.clone()),
        (Some(asked), _) => Err(MintError::NoSuchKey { asked: asked.clone(), known }),
        (None, [only]) => Ok(only.clone()),
        (None, _) => Err(MintError::WhichKey(known)),
    }
}

/// The address of a server on this machine, for a browser on it.
#[must_use]
pub fn local_base(config: &Config) -> String {
    format!("http://{}", local_address(config))
}

fn local_address(config: &Config) -> SocketAddr {
    let mut address = config.http_address();
    if address.ip().is_unspecified() {
        address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    }
    address
}

/// A link that opens the demo in a room. The token stands behind `#`, which browsers keep to themselves, so
/// that it appears in no log of a server or proxy.
#[must_use]
pub fn join_link(base: &str, room: &str, token: &str) -> String {
    let mut link = format!("{}/#room=", base.trim_end_matches('/'));
    for byte in room.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            link.push(byte.into());
        } else {
            // Writing to a string does not fail.
            let _ = write!(link, "%{byte:02X}");
        }
    }
    link + "&token=" + token
}

/// What to tell somebody who has just started a server, in one line for the log.
#[must_use]
pub fn describe(config: &Config) -> &'static str {
    match (config.mode(), config.mode) {
        (Mode::Production, _) => "production mode",
        (Mode::Development, Some(_)) => "development mode: weak secrets and any web page are accepted",
        (Mode::Development, None) => "development mode, because no mode and no keys are configured",
    }
}

fn roles() -> impl TypedValueParser<Value = Role> {
    PossibleValuesParser::new(Role::ALL.map(Role::name)).try_map(|name| name.parse::<Role>())
}

fn features() -> PossibleValuesParser {
    PossibleValuesParser::new(["webrtc", "relay", "p2p", "tentative"])
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::config::DEVELOPMENT_KEY;

    const NOW: u64 = 1_800_000_000;
    const SECRET: &str = "6c1f0d9be27a4583b1c2d3e4f5061728";

    fn parse(line: &str) -> Command {
        Cli::try_parse_from(line.split(' ')).unwrap().chosen()
    }

    fn serve(line: &str) -> Result<Config, ConfigError> {
        match parse(line) {
            Command::Serve(serve) => serve.configuration(Vec::new(), &[7; 32]),
            other => panic!("{other:?}"),
        }
    }

    fn mint(line: &str, environment: &[(&str, &str)]) -> Result<String, MintError> {
        let environment = environment.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        match parse(line) {
            Command::Token(token) => token.mint(environment, NOW, &[1; 16]),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn no_command_serves_and_takes_the_flags_of_serving() {
        for line in ["switchyard --port 8080", "switchyard serve --port 8080"] {
            let config = serve(line).unwrap();
            assert_eq!(config.http_address(), "127.0.0.1:8080".parse::<std::net::SocketAddr>().unwrap());
            assert!(config.keys.contains_key(DEVELOPMENT_KEY));
        }
    }

    #[test]
    fn a_wrong_flag_is_refused_in_the_words_of_the_configuration() {
        assert_eq!(
            serve("switchyard serve --port eighty").unwrap_err().to_string(),
            "--port: `http.port`: expected a port number 1–65535, or 0 for any free one, got \"eighty\"; default 7880"
        );
        assert_eq!(
            serve("switchyard --bind 0.0.0.0").unwrap_err().to_string(),
            "--bind: `http.bind`: 0.0.0.0 lets other machines in, and no mode is given: add `mode: production` and \
             an API key, or `mode: development` if that is what you want"
        );
    }

    #[test]
    fn a_token_is_signed_by_the_only_key_of_the_configuration() {
        let environment = [("SWITCHYARD__MODE", "production"), ("SWITCHYARD__KEYS__APP__SECRET", SECRET)];
        let token =
            mint("switchyard token --room lab --user ada --role viewer --ttl 5m", &environment).unwrap();
        let keys = Keys::new([("app", SECRET.as_bytes())]);
        let verified = token::verify(&token, &keys, "lab", NOW).unwrap();
        assert_eq!((&*verified.tenant, &*verified.user, verified.role), ("app", "ada", Role::Viewer));
        assert_eq!(verified.expires_at, NOW + 300 + token::LEEWAY_SECONDS);
        assert_eq!(verified.id.as_deref(), Some("01010101010101010101010101010101"));
    }

    #[test]
    fn a_key_and_secret_on_the_command_line_need_no_configuration() {
        let line = format!("switchyard token --room lab --user ada --api-key k --secret {SECRET}");
        let token = mint(&line, &[("SWITCHYARD__NONSENSE", "1")]).unwrap();
        assert!(token::verify(&token, &Keys::new([("k", SECRET.as_bytes())]), "lab", NOW).is_ok());
        let without_key = line.replace("--api-key k ", "");
        assert!(Cli::try_parse_from(without_key.split(' ')).is_err());
    }

    #[test]
    fn without_a_key_the_error_says_where_one_may_come_from() {
        let error = mint("switchyard token --room lab --user ada", &[]).unwrap_err().to_string();
        for way in ["--config FILE", "SWITCHYARD__KEYS__DEV__SECRET", "--api-key KEY --secret SECRET"] {
            assert!(error.contains(way), "{error}");
        }
    }

    #[test]
    fn health_is_asked_where_the_server_is_configured_to_listen() {
        let door = |line: &str, environment: &[(&str, &str)]| {
            let environment =
                environment.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
            match parse(line) {
                Command::Health(health) => health.door(environment),
                other => panic!("{other:?}"),
            }
        };
        let at = |address: &str| address.parse::<SocketAddr>().unwrap();
        assert_eq!(door("switchyard health", &[]).unwrap(), (at("127.0.0.1:7880"), "/healthz"));
        let production = [
            ("SWITCHYARD__MODE", "production"),
            ("SWITCHYARD__HTTP__PORT", "8080"),
            ("SWITCHYARD__KEYS__APP__SECRET", SECRET),
        ];
        let (address, path) = door("switchyard health --ready", &production).unwrap();
        assert_eq!((address, path), (at("127.0.0.1:8080"), "/readyz"));
        // Whoever knows the address needs no configuration that the server would take.
        let (address, _) = door("switchyard health --address 10.0.0.7:80", &production[..1]).unwrap();
        assert_eq!(address, at("10.0.0.7:80"));
    }

    #[test]
    fn among_several_keys_one_has_to_be_chosen_and_has_to_exist() {
        let environment = [
            ("SWITCHYARD__MODE", "development"),
            ("SWITCHYARD__KEYS__A__SECRET", "x"),
            ("SWITCHYARD__KEYS__B__SECRET", "y"),
        ];
        let line = "switchyard token --room lab --user ada";
        assert_eq!(
            mint(line, &environment).unwrap_err().to_string(),
            "there are several API keys; choose one: --api-key a | b"
        );
        assert_eq!(
            mint(&format!("{line} --api-key c"), &environment).unwrap_err().to_string(),
            "the configuration has no API key `c`; it has: a, b"
        );
        let token = mint(&format!("{line} --api-key b"), &environment).unwrap();
        assert!(token::verify(&token, &Keys::new([("b", &b"y"[..])]), "lab", NOW).is_ok());
    }

    #[test]
    fn a_link_carries_room_and_token_where_no_server_sees_them() {
        let environment = [("SWITCHYARD__MODE", "development"), ("SWITCHYARD__KEYS__A__SECRET", "x")];
        let line = "switchyard token --room a/b&c=ü --user ada";
        let link = mint(&format!("{line} --url"), &environment).unwrap();
        assert!(link.starts_with("http://127.0.0.1:7880/#room=a%2Fb%26c%3D%C3%BC&token=ey"), "{link}");
        let link = mint(&format!("{line} --url=https://live.example.com/"), &environment).unwrap();
        assert!(link.starts_with("https://live.example.com/#room="), "{link}");
    }

    #[test]
    fn a_user_that_no_server_would_accept_gets_no_token() {
        let environment = [("SWITCHYARD__MODE", "development"), ("SWITCHYARD__KEYS__A__SECRET", "x")];
        let line = format!("switchyard token --room lab --user {}", "u".repeat(200));
        let error = mint(&line, &environment).unwrap_err().to_string();
        assert_eq!(error, "the token's claims are wrong: `sub` is longer than 128 bytes");
    }

    #[test]
    fn a_token_switches_off_the_features_that_are_named_and_no_others() {
        let minted = |flags: &str| {
            let line =
                format!("switchyard token --api-key app --secret {SECRET} --room lab --user ada{flags}");
            let keys = Keys::new([("app", SECRET.as_bytes())]);
            token::verify(&mint(&line, &[]).unwrap(), &keys, "lab", NOW).unwrap().features
        };
        assert!(minted("").is_all());
        assert_eq!(minted(" --without tentative"), Features::UNASKED);
        let two = Features { webrtc: false, relay: false, ..Features::default() };
        assert_eq!(minted(" --without webrtc,relay"), two);
        let p2p = Features { p2p: false, ..Features::default() };
        assert_eq!(minted(" --without p2p"), p2p);
        let error = Cli::try_parse_from("switchyard token --room r --user u --without sfu".split(' '));
        assert!(error.unwrap_err().to_string().contains("webrtc, relay, p2p, tentative"));
    }

    #[test]
    fn roles_and_durations_that_do_not_exist_are_refused_with_those_that_do() {
        let try_parse = |line: &str| Cli::try_parse_from(line.split(' ')).unwrap_err().to_string();
        let error = try_parse("switchyard token --room r --user u --role owner");
        assert!(error.contains("viewer, commenter, editor, admin"), "{error}");
        let error = try_parse("switchyard token --room r --user u --ttl 5");
        assert!(error.contains("expected a duration such as 500ms"), "{error}");
    }

    #[test]
    fn every_flag_and_command_is_explained_with_examples() {
        let mut root = Cli::command();
        root.build();
        for command in root.get_subcommands_mut().filter(|command| command.get_name() != "help") {
            let help = command.render_long_help().to_string();
            assert!(help.contains("Examples:\n  "), "{help}");
            assert!(help.contains(".\n\n"), "no paragraph says more than the summary: {help}");
            for flag in command.get_arguments() {
                assert!(flag.get_help().is_some(), "{} {}", command.get_name(), flag.get_id());
            }
        }
    }
}
