//! What the types cannot say: ranges, settings that have to fit together, and what is safe to serve with.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use switchyard_signaling::limits;
use tracing_subscriber::EnvFilter;

use super::de::default_of;
use super::source::Node;
use super::{Config, ConfigError, Mode, Store};

/// More event loops than any machine this is meant for has cores.
pub(super) const MAX_SHARDS: u16 = 64;

/// Bytes that a secret has in production: as many as the HMAC's output (RFC 7518, section 3.2).
const MIN_SECRET_BYTES: usize = 32;

/// A secret with fewer different characters was not drawn at random.
const MIN_DISTINCT_CHARACTERS: usize = 8;

/// Secrets that stand in documentation, examples and habits, this project's own among them.
const WELL_KNOWN_SECRETS: [&str; 12] = [
    "secret",
    "devsecret",
    "dev-secret",
    "changeme",
    "change-me",
    "password",
    "test",
    "your-256-bit-secret",
    "your-secret-key",
    "a-string-secret-at-least-256-bits-long",
    "replace-me-with-the-output-of-openssl-rand-hex-32",
    "0123456789abcdef0123456789abcdef",
];

/// How to make one that is good.
const MAKE_A_SECRET: &str = "make one with `openssl rand -hex 32`";

pub(super) fn check(config: &Config, tree: &Node) -> Result<(), ConfigError> {
    let rules = Rules { config, tree };
    rules.ranges()?;
    rules.ports()?;
    rules.sizes()?;
    rules.store()?;
    rules.log_filter()?;
    rules.mode()?;
    rules.secrets()
}

struct Rules<'a> {
    config: &'a Config,
    tree: &'a Node,
}

impl Rules<'_> {
    fn ranges(&self) -> Result<(), ConfigError> {
        let Config { rtc, limits, .. } = self.config;
        if let Some(shards) = rtc.shards {
            self.within("rtc.shards", shards.into(), 1, MAX_SHARDS.into())?;
        }
        for (path, value, least, most) in [
            ("rtc.max_peers", rtc.max_peers, 1, 1_000_000),
            ("limits.participants_per_room", limits.participants_per_room, 1, 100_000),
            ("limits.rooms_per_session", limits.rooms_per_session, 1, 1024),
            ("limits.topics_per_member", limits.topics_per_member, 0, 1024),
            ("limits.sessions_max", limits.sessions_max, 1, 10_000_000),
            ("limits.signals_burst", limits.signals_burst, 1, 1_000_000),
            ("limits.messages_burst", limits.messages_burst, 1, 1_000_000),
            ("limits.malformed_before_close", limits.malformed_before_close, 1, 1_000_000),
        ] {
            self.within(path, value.into(), least, most)?;
        }
        let (second, hour) = (Duration::from_secs(1), Duration::from_secs(3600));
        for (path, value, least) in [
            ("rtc.consent_timeout", rtc.consent_timeout, second * 5),
            ("rtc.handshake_timeout", rtc.handshake_timeout, second),
            ("limits.resume_grace", limits.resume_grace, Duration::ZERO),
            ("limits.idle_room", limits.idle_room, second),
            ("drain.timeout", self.config.drain.timeout, Duration::ZERO),
        ] {
            if value < least || value > hour {
                return Err(
                    self.refuse(path, &format!("expected a duration from {}s to 1h", least.as_secs()))
                );
            }
        }
        Ok(())
    }

    fn ports(&self) -> Result<(), ConfigError> {
        let Config { http, rtc, .. } = self.config;
        let last = u32::from(rtc.udp_port) + u32::from(self.config.shards()) - 1;
        if rtc.udp_port != 0 && last > u16::MAX.into() {
            let problem =
                format!("{} shards need the ports up to {last}, and 65535 is the last", self.config.shards());
            return Err(self.refuse("rtc.udp_port", &problem));
        }
        if rtc.enabled && rtc.tcp_enabled && rtc.tcp_port != 0 && rtc.tcp_port == http.port {
            return Err(self.refuse("rtc.tcp_port", "this is the port of HTTP (`http.port`)"));
        }
        if rtc.enabled && rtc.bind.is_empty() {
            return Err(self.refuse("rtc.bind", "at least one address is needed while `rtc.enabled` is true"));
        }
        match rtc.advertise_addresses.iter().find(|address| address.is_unspecified()) {
            Some(address) => Err(self
                .refuse("rtc.advertise_addresses", &format!("{address} is no address a client can reach"))),
            None => Ok(()),
        }
    }

    fn sizes(&self) -> Result<(), ConfigError> {
        let limits = &self.config.limits;
        let gibibyte = 1 << 30;
        self.within("limits.max_message_bytes", limits.max_message_bytes as u64, 1024, 16 << 20)?;
        self.within("limits.replay_limit_bytes", limits.replay_limit_bytes as u64, 64 << 10, gibibyte)?;
        self.within(
            "limits.lossy_queue_bytes",
            limits.lossy_queue_bytes as u64,
            limits::LOSSY_BYTES as u64,
            gibibyte,
        )?;
        if limits.replay_limit_bytes < limits.max_message_bytes {
            let problem = "a buffer smaller than one message (`limits.max_message_bytes`) could replay none";
            return Err(self.refuse("limits.replay_limit_bytes", problem));
        }
        Ok(())
    }

    fn store(&self) -> Result<(), ConfigError> {
        let Store { path, url, retention } = &self.config.store;
        if path.as_os_str().is_empty() {
            return Err(self.refuse("store.path", "expected the name of a file"));
        }
        if let Some(url) = url {
            postgres(url.expose_text()).map_err(|problem| self.refuse("store.url", &problem))?;
        }
        if retention.max_age.is_some_and(|age| age < Duration::from_secs(3600)) {
            return Err(self.refuse("store.retention.max_age", "expected a duration of at least 1h"));
        }
        match retention.max_events {
            Some(events) => self.within("store.retention.max_events", events, 100, 1 << 40),
            None => Ok(()),
        }
    }

    fn log_filter(&self) -> Result<(), ConfigError> {
        match EnvFilter::try_new(&self.config.log.filter) {
            Ok(_) => Ok(()),
            Err(_) => Err(self.refuse(
                "log.filter",
                "expected off, error, warn, info, debug, trace, or directives such as info,switchyard::room=debug",
            )),
        }
    }

    fn mode(&self) -> Result<(), ConfigError> {
        if self.config.mode.is_some() {
            return Ok(());
        }
        if !self.config.keys.is_empty() {
            return Err(self.refuse(
                "keys",
                "API keys are given, but the mode is not: add `mode: production`, or `mode: development` to \
                 allow weak secrets and any web page",
            ));
        }
        let address: IpAddr = self.config.http_address().ip();
        if !address.is_loopback() {
            return Err(self.refuse(
                "http.bind",
                &format!(
                    "{address} lets other machines in, and no mode is given: add `mode: production` and an API \
                     key, or `mode: development` if that is what you want"
                ),
            ));
        }
        Ok(())
    }

    fn secrets(&self) -> Result<(), ConfigError> {
        let keys = &self.config.keys;
        if let Some((name, _)) = keys.iter().find(|(_, key)| key.secret.expose().is_empty()) {
            return Err(
                self.refuse(&format!("keys.{name}.secret"), &format!("the secret is empty; {MAKE_A_SECRET}"))
            );
        }
        if self.config.mode() != Mode::Production {
            return Ok(());
        }
        if keys.is_empty() {
            return Err(ConfigError::Refused(format!(
                "production needs at least one API key: {MAKE_A_SECRET} and set it as `keys.<name>.secret`, or as \
                 environment variable SWITCHYARD__KEYS__<NAME>__SECRET"
            )));
        }
        let mut owners: BTreeMap<&[u8], &str> = BTreeMap::new();
        for (name, key) in keys {
            let secret = key.secret.expose();
            let problem = if is_well_known(secret) {
                format!("this secret is well known; {MAKE_A_SECRET}")
            } else if secret.len() < MIN_SECRET_BYTES {
                let length = secret.len();
                format!(
                    "this secret has {length} bytes, and production asks for {MIN_SECRET_BYTES}; {MAKE_A_SECRET}"
                )
            } else if is_monotonous(secret) {
                format!("this secret was not drawn at random; {MAKE_A_SECRET}")
            } else if let Some(other) = owners.insert(secret, name) {
                format!(
                    "key `{other}` has the same secret, so either tenant could sign for the other; {MAKE_A_SECRET}"
                )
            } else {
                continue;
            };
            return Err(self.refuse(&format!("keys.{name}.secret"), &problem));
        }
        Ok(())
    }

    fn within(&self, path: &str, value: u64, least: u64, most: u64) -> Result<(), ConfigError> {
        if (least..=most).contains(&value) {
            return Ok(());
        }
        Err(self.refuse(path, &format!("expected {least}–{most}, got {value}")))
    }

    /// The refusal of the setting at `path`, with the place where it, or what holds it, was written.
    fn refuse(&self, path: &str, problem: &str) -> ConfigError {
        let default = default_of(path).map_or_else(String::new, |default| format!("; default {default}"));
        let problem = format!("`{path}`: {problem}{default}");
        match self.tree.find(path).and_then(|node| node.place.clone()) {
            Some(place) => ConfigError::Written { place, problem },
            None => ConfigError::Refused(problem),
        }
    }
}

/// What is wrong with the URL of a PostgreSQL database; never the URL, which has a password in it.
fn postgres(url: &str) -> Result<(), String> {
    let expected = "expected postgres://user:password@host/database";
    if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
        return Err(expected.to_owned());
    }
    let config: tokio_postgres::Config = url.parse().map_err(|_| expected.to_owned())?;
    if config.get_hosts().is_empty() {
        return Err(format!("{expected}, and no host is named"));
    }
    if config.get_ssl_mode() == tokio_postgres::config::SslMode::Require {
        return Err(
            "TLS to the database is not supported: put it on this machine or on a private network, or a \
                    tunnel between (stunnel, WireGuard), and leave `sslmode=require` out"
                .to_owned(),
        );
    }
    Ok(())
}

fn is_well_known(secret: &[u8]) -> bool {
    WELL_KNOWN_SECRETS.iter().any(|known| known.as_bytes().eq_ignore_ascii_case(secret))
}

fn is_monotonous(secret: &[u8]) -> bool {
    let mut distinct = secret.to_vec();
    distinct.sort_unstable();
    distinct.dedup();
    distinct.len() < MIN_DISTINCT_CHARACTERS
}
