//! Every setting: its default, its unit and why it is there.
//!
//! Settings come from a YAML file, are overridden by the environment (`SWITCHYARD__SECTION__KEY`) and then
//! by command-line flags. All three become one tree that remembers where each value was written
//! (`source.rs`), are read by one deserializer (`de.rs`) and checked once (`check.rs`), so a mistake is
//! reported in the same words wherever it was made, with its place, what is allowed and the default.
//! Nothing here opens a socket or reads a clock; a [`Config`] that exists has been checked.
//!
//! The file `switchyard.example.yaml` lists every key; a test keeps the two equal.

mod check;
mod de;
mod features;
mod origin;
mod source;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use switchyard_signaling::Features;
use switchyard_turn_config::settings::{self as turn, Turn, units, values};

pub use features::{RoomPattern, RoomRule};
pub use origin::AllowedOrigin;
pub use source::{Flag, Place};
pub use switchyard_turn_config::settings::units::{BadDuration, parse_duration};

/// What begins the name of every environment variable that is a setting.
///
/// Two underscores, because Kubernetes gives every pod variables such as `SWITCHYARD_PORT` when a service
/// has the name `switchyard`.
pub const ENVIRONMENT_PREFIX: &str = "SWITCHYARD__";

/// The environment variable that names the configuration file where `--config` does not.
pub const ENVIRONMENT_FILE: &str = "SWITCHYARD_CONFIG";

/// The API key of the development mode, whose secret is made at each start.
pub const DEVELOPMENT_KEY: &str = "dev";

/// All settings of one server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `development` or `production`. Unset, and without keys, it is development on loopback; whoever
    /// gives keys, or listens to other machines, has to say which of the two they mean.
    pub mode: Option<Mode>,
    /// The web side: signalling, the WebSocket relay, metrics, the client's files.
    pub http: Http,
    /// WebRTC: ports, addresses, shards, patience.
    pub rtc: Rtc,
    /// STUN and TURN: this server's own, another one, or none.
    pub turn: Turn,
    /// What is on, for the whole server: each feature can be switched off (LAD7). Default: everything is on but
    /// `tentative`.
    #[serde(deserialize_with = "features::strict_server")]
    pub features: Features,
    /// What is switched off in some rooms; the first rule that matches a room's name decides. Default: nothing is.
    pub rooms: Vec<RoomRule>,
    /// What one session, room or server may use at most.
    pub limits: Limits,
    /// What is kept of attempts to connect, for who asks why somebody does not.
    pub attempts: Attempts,
    /// The API keys, each of which is a tenant: key to secret.
    #[serde(deserialize_with = "de::keys")]
    pub keys: BTreeMap<String, Key>,
    /// Where what survives is kept: rooms' logs, messages, participants.
    pub store: Store,
    /// What is logged, and how.
    pub log: Log,
    /// How the server ends.
    pub drain: Drain,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            mode: None,
            http: Http::default(),
            rtc: Rtc::default(),
            turn: Turn::default(),
            features: Features::UNASKED,
            rooms: Vec::new(),
            limits: Limits::default(),
            attempts: Attempts::default(),
            keys: BTreeMap::new(),
            store: Store::default(),
            log: Log::default(),
            drain: Drain::default(),
        }
    }
}

/// How careful the server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// For one machine: makes its own API key, listens on loopback, accepts any web page.
    Development,
    /// For others: refuses to start with a missing, short or well-known secret.
    Production,
}

/// Section `http`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Http {
    /// Address to listen on. Default: 127.0.0.1 in development, 0.0.0.0 in production.
    #[serde(deserialize_with = "values::address")]
    pub bind: Option<IpAddr>,
    /// TCP port. Default: 7880; 0 takes any free one.
    #[serde(deserialize_with = "values::port")]
    pub port: u16,
    /// Web pages, besides those of this server itself, that may connect: `https://app.example.com`, or
    /// `*` for any. Default: none in production; any in development.
    ///
    /// The token in the first message is what admits a client, and no cookie is read, so a foreign page
    /// has nothing to steal a ride on; the list keeps it from spending the server's connections.
    pub allowed_origins: Vec<AllowedOrigin>,
}

impl Default for Http {
    fn default() -> Self {
        Self { bind: None, port: 7880, allowed_origins: Vec::new() }
    }
}

/// Section `rtc`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rtc {
    /// Whether there are sockets for WebRTC. Default: true. Without them everything goes over the WebSocket, as with
    /// `features.webrtc: false`, which leaves them open.
    pub enabled: bool,
    /// Addresses that the media sockets are bound to. Default: all, IPv4 and IPv6.
    #[serde(deserialize_with = "values::addresses")]
    pub bind: Vec<IpAddr>,
    /// UDP port of the first shard; shard n has the port n above it. Default: 7882; 0 takes any free
    /// ports.
    #[serde(deserialize_with = "values::port")]
    pub udp_port: u16,
    /// Whether ICE-TCP is offered, for networks that block UDP. Default: true.
    pub tcp_enabled: bool,
    /// TCP port of ICE-TCP. Default: 7881; 0 takes any free one.
    #[serde(deserialize_with = "values::port")]
    pub tcp_port: u16,
    /// Addresses told to clients in place of the machine's own: the public one behind 1:1 NAT, the host's
    /// outside a container. Default: none, which tells those of the interfaces (loopback only in
    /// development).
    #[serde(deserialize_with = "values::addresses")]
    pub advertise_addresses: Vec<IpAddr>,
    /// Event loops, each a thread with a UDP port of its own. Default: one per core.
    pub shards: Option<u16>,
    /// How long a peer may be silent before it is given up. Default: 30s, as RFC 7675 has it.
    #[serde(with = "units::duration")]
    pub consent_timeout: Duration,
    /// How long ICE and DTLS may take before a peer that never connected is given up: as long as the browser
    /// client gives an attempt. A session has one peer at most. Default: 15s.
    #[serde(with = "units::duration")]
    pub handshake_timeout: Duration,
    /// WebRTC peers on this server; an idle one costs about 150 KB. Default: 5000.
    pub max_peers: u32,
}

impl Default for Rtc {
    fn default() -> Self {
        Self {
            enabled: true,
            bind: vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
            udp_port: 7882,
            tcp_enabled: true,
            tcp_port: 7881,
            advertise_addresses: Vec::new(),
            shards: None,
            consent_timeout: Duration::from_secs(30),
            handshake_timeout: Duration::from_secs(15),
            max_peers: 5000,
        }
    }
}

/// Section `limits`. What exceeds one is refused with an error that names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Largest data message, in bytes. Default: 256KiB.
    #[serde(with = "units::size")]
    pub max_message_bytes: usize,
    /// Reliable traffic kept per session until it is acknowledged, in bytes: what a change of pipe can
    /// replay. Past it the receiver is told of a gap. Default: 1MiB.
    #[serde(with = "units::size")]
    pub replay_limit_bytes: usize,
    /// Lossy traffic waiting for one slow receiver, in bytes; past it the oldest is dropped. Default:
    /// 64KiB.
    #[serde(with = "units::size")]
    pub lossy_queue_bytes: usize,
    /// Participants in one room. Default: 50.
    pub participants_per_room: u32,
    /// Rooms that one session may be in at once. Default: 32.
    pub rooms_per_session: u32,
    /// Topics that one member of a room may subscribe to. Default: 32.
    pub topics_per_member: u32,
    /// Sessions on this server; an idle one on the WebSocket costs about 10 KB. Default: 10000.
    pub sessions_max: u32,
    /// Signalling messages a session may send per second, in the long run; 0 is no limit. Default: 20.
    pub signals_per_second: u32,
    /// Signalling messages a session may send at once; joining with all its candidates takes about 20.
    /// Default: 100.
    pub signals_burst: u32,
    /// Data messages a session may send per second, in the long run; 0 is no limit. Default: 1000.
    pub messages_per_second: u32,
    /// Data messages a session may send at once. Default: 2000.
    pub messages_burst: u32,
    /// Chat messages, comments, edits, reactions and other writes to the log that one user may make per
    /// minute in a room, in the long run; 0 is no limit. Default: 100.
    pub writes_per_minute: u32,
    /// Writes that one user may make at once; what is queued offline comes back at this rate. Default: 50.
    pub write_burst: u32,
    /// A reader of the log who is more events behind gets a snapshot in their place. Default: 1000.
    pub resync_events: u32,
    /// A room in which nobody has been for so long is closed: its log leaves memory. Default: 30m.
    #[serde(with = "units::duration")]
    pub idle_room: Duration,
    /// Messages that do not parse, before the connection is closed as abuse. Default: 20.
    pub malformed_before_close: u32,
    /// How long a session outlives its last pipe, so that a reconnecting client resumes it. Default: 10s.
    #[serde(with = "units::duration")]
    pub resume_grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_message_bytes: 256 * 1024,
            replay_limit_bytes: 1024 * 1024,
            lossy_queue_bytes: 64 * 1024,
            participants_per_room: 50,
            rooms_per_session: 32,
            topics_per_member: 32,
            sessions_max: 10_000,
            signals_per_second: 20,
            signals_burst: 100,
            messages_per_second: 1000,
            messages_burst: 2000,
            writes_per_minute: 100,
            write_burst: 50,
            resync_events: 1000,
            idle_room: Duration::from_secs(30 * 60),
            malformed_before_close: 20,
            resume_grace: Duration::from_secs(10),
        }
    }
}

/// Section `attempts`. Records are in memory, the newest of each tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Attempts {
    /// Records of each tenant; 0 keeps none. Default: 1000.
    pub records: u32,
    /// Bytes of them; one has about 2 KB. Default: 4MiB.
    #[serde(with = "units::size")]
    pub max_bytes: usize,
    /// Older ones go. Default: 24h.
    #[serde(with = "units::duration")]
    pub max_age: Duration,
}

impl Default for Attempts {
    fn default() -> Self {
        Self { records: 1000, max_bytes: 4 << 20, max_age: Duration::from_secs(24 * 3600) }
    }
}

/// One API key of section `keys`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Key {
    /// What the tenant's tokens are signed with; in production at least 32 bytes. No default.
    pub secret: Secret,
}

/// Text that appears in no log, no error and no debug output.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Takes `text` out of sight.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The bytes to sign and verify with.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// The text, to be handed to what needs it.
    #[must_use]
    pub fn expose_text(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Serialize for Secret {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("(hidden)")
    }
}

/// Section `store`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Store {
    /// The SQLite file; its folder is made. Default: data/switchyard.db, in the folder that the server is started in.
    pub path: PathBuf,
    /// PostgreSQL in place of the file: `postgres://user:password@host/database`. No default.
    pub url: Option<Secret>,
    /// What may go.
    pub retention: Retention,
}

impl Default for Store {
    fn default() -> Self {
        Self { path: "data/switchyard.db".into(), url: None, retention: Retention::default() }
    }
}

/// Section `store.retention`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retention {
    /// Events and messages older than this go. Default: none do.
    #[serde(with = "units::optional_duration")]
    pub max_age: Option<Duration>,
    /// Of each room so many of the newest events stay, with the messages among them. Default: all.
    pub max_events: Option<u64>,
}

/// Section `log`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// What is logged: a level, or directives such as `info,switchyard::room=debug`. Addresses appear from
    /// `debug` on, packets at `trace`. Default: info.
    pub filter: String,
    /// `text` for people, `json` for machines. Default: text.
    pub format: LogFormat,
}

impl Default for Log {
    fn default() -> Self {
        Self { filter: "info".to_owned(), format: LogFormat::Text }
    }
}

/// How a line of the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// One line of text.
    Text,
    /// One JSON object a line.
    Json,
}

/// Section `drain`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Drain {
    /// How long a terminated server waits for clients to take their leave. Default: 5s.
    #[serde(with = "units::duration")]
    pub timeout: Duration,
}

impl Default for Drain {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(5) }
    }
}

/// Why there is no configuration to start with.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {}: {source}", path.display())]
    Read {
        /// The file named by `--config` or [`ENVIRONMENT_FILE`].
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// Something written in the file, the environment or a flag is wrong.
    #[error("{place}: {problem}")]
    Written {
        /// Where it is written.
        place: Place,
        /// What is wrong, what is allowed, and the default.
        problem: String,
    },
    /// The settings, as a whole or by something missing, are not safe or do not fit together.
    #[error("{0}")]
    Refused(String),
}

/// Where settings come from, the later overriding the earlier.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The YAML file, if the command line names one; else [`ENVIRONMENT_FILE`] may.
    pub file: Option<PathBuf>,
    /// The environment; what does not begin with [`ENVIRONMENT_PREFIX`] is ignored.
    pub environment: Vec<(OsString, OsString)>,
    /// Settings given as command-line flags.
    pub flags: Vec<Flag>,
}

impl Sources {
    /// The environment of this process, and what the command line gives.
    #[must_use]
    pub fn of_process(file: Option<PathBuf>, flags: Vec<Flag>) -> Self {
        Self { file, environment: std::env::vars_os().collect(), flags }
    }
}

impl Config {
    /// Reads all `sources` and checks what they say.
    ///
    /// # Errors
    /// On a file that cannot be read, on any key or value that is not understood, and on settings that
    /// are not safe to serve with.
    pub fn load(sources: &Sources) -> Result<Self, ConfigError> {
        let named =
            sources.environment.iter().find(|(name, value)| name == ENVIRONMENT_FILE && !value.is_empty());
        let file = sources.file.clone().or_else(|| named.map(|(_, path)| path.into()));
        let text = match &file {
            None => None,
            Some(path) => match std::fs::read_to_string(path) {
                Ok(text) => Some((path.as_path(), text)),
                Err(source) => {
                    return Err(ConfigError::Read { path: path.clone(), source });
                }
            },
        };
        let file = text.as_ref().map(|(path, text)| (*path, text.as_str()));
        Self::read(file, &sources.environment, &sources.flags)
    }

    /// [`Config::load`] without touching the file system: `file` is a name and its content.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn read(
        file: Option<(&Path, &str)>,
        environment: &[(OsString, OsString)],
        flags: &[Flag],
    ) -> Result<Self, ConfigError> {
        let tree = source::merge(file, environment, flags)?;
        let config = de::from_tree(&tree)?;
        check::check(&config, &tree)?;
        Ok(config)
    }

    /// The mode that holds, whether stated or not.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode.unwrap_or(Mode::Development)
    }

    /// Where HTTP listens.
    #[must_use]
    pub fn http_address(&self) -> SocketAddr {
        let otherwise = match self.mode() {
            Mode::Development => Ipv4Addr::LOCALHOST,
            Mode::Production => Ipv4Addr::UNSPECIFIED,
        };
        SocketAddr::new(self.http.bind.unwrap_or(otherwise.into()), self.http.port)
    }

    /// How many shards run: as set, else one per core.
    #[must_use]
    pub fn shards(&self) -> u16 {
        self.rtc.shards.unwrap_or_else(|| {
            let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
            u16::try_from(cores).unwrap_or(u16::MAX).min(check::MAX_SHARDS)
        })
    }

    /// Whether a request with these `Origin` and `Host` headers may open a connection.
    ///
    /// A request without `Origin` comes from no web page and is judged by its token alone.
    #[must_use]
    pub fn allows_origin(&self, origin: Option<&str>, host: Option<&str>) -> bool {
        let Some(origin) = origin else { return true };
        let listed = &self.http.allowed_origins;
        (self.mode() == Mode::Development && listed.is_empty())
            || listed.iter().any(|allowed| allowed.matches(origin))
            || host.is_some_and(|host| origin::is_same(origin, host))
    }

    /// What is on in a room, whatever tokens say.
    #[must_use]
    pub fn features_of(&self, room: &str) -> Features {
        let rule = self.rooms.iter().find(|rule| rule.pattern.matches(room));
        rule.map_or(self.features, |rule| self.features.and(rule.features))
    }

    /// Gives a development server without keys the key [`DEVELOPMENT_KEY`], with a secret made of
    /// `random` that lives in memory only. Says whether it did.
    pub fn add_development_key(&mut self, random: &[u8; 32]) -> bool {
        if self.mode() != Mode::Development || !self.keys.is_empty() {
            return false;
        }
        self.keys.insert(DEVELOPMENT_KEY.to_owned(), Key { secret: Secret(hex(random)) });
        true
    }

    /// Gives a server that relays itself, and has no secret to make credentials with, one made of `random` that lives
    /// in memory only. Says whether it did.
    pub fn add_turn_secret(&mut self, random: &[u8; 32]) -> bool {
        if self.turn.mode != turn::Mode::Embedded || self.turn.credentials.secret.is_some() {
            return false;
        }
        self.turn.credentials.secret = Some(turn::Secret::new(hex(random)));
        true
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
