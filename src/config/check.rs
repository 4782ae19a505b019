//! What the types cannot say: ranges, settings that have to fit together, and what is safe to serve with.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use switchyard_signaling::limits;
use switchyard_turn_config::settings::{self as turn, Problem};
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
const WELL_KNOWN_SECRETS: [&str; 14] = [
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
    "replace-me-too-with-the-output-of-openssl-rand-hex-32",
    "what-the-secret-was-before-it-was-replaced",
    "0123456789abcdef0123456789abcdef",
];

/// How to make one that is good.
const MAKE_A_SECRET: &str = "make one with `openssl rand -hex 32`";
const WELL_KNOWN: &str = "this secret is well known; make one with `openssl rand -hex 32`";
const NOT_RANDOM: &str = "this secret was not drawn at random; make one with `openssl rand -hex 32`";

pub(super) fn check(config: &Config, tree: &Node) -> Result<(), ConfigError> {
    let rules = Rules { config, tree };
    rules.ranges()?;
    rules.ports()?;
    rules.rooms()?;
    rules.sizes()?;
    rules.store()?;
    rules.turn()?;
    rules.turn_ports()?;
    rules.log_filter()?;
    rules.mode()?;
    rules.secrets()?;
    rules.turn_secrets()
}

struct Rules<'a> {
    config: &'a Config,
    tree: &'a Node,
}

impl Rules<'_> {
    fn ranges(&self) -> Result<(), ConfigError> {
        let Config { rtc, limits, attempts, .. } = self.config;
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
            ("attempts.records", attempts.records, 0, 100_000),
        ] {
            self.within(path, value.into(), least, most)?;
        }
        let age = attempts.max_age;
        if age < Duration::from_secs(60) || age > Duration::from_secs(30 * 24 * 3600) {
            return Err(self.refuse("attempts.max_age", "expected a duration from 1m to 720h"));
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

    fn turn(&self) -> Result<(), ConfigError> {
        let turn = &self.config.turn;
        // A server that relays itself makes the secret that nobody gives.
        let is_made = |problem: &Problem| {
            problem.field == "turn.credentials.secret"
                && turn.credentials.secret.is_none()
                && turn.mode == turn::Mode::Embedded
        };
        let problems = turn.check().err().unwrap_or_default();
        if let Some(Problem { field, value, advice }) = problems.iter().find(|problem| !is_made(problem)) {
            return Err(self.refuse_in_words(field, &format!("`{field}` is {value}: {advice}")));
        }
        let listen = &turn.listen;
        if turn.mode == turn::Mode::Embedded && listen.https {
            if !listen.tls_enabled {
                let problem = "HTTPS is answered at the port of TLS, and `turn.listen.tls_enabled` is false";
                return Err(self.refuse("turn.listen.https", problem));
            }
            if self.config.mode() == Mode::Production && listen.tls_certificate.is_none() {
                let problem = "name a certificate: `turn.listen.tls_certificate` and `turn.listen.tls_key`";
                return Err(self.refuse("turn.listen.https", problem));
            }
        }
        Ok(())
    }

    /// Ports are one's own: of HTTP, of the SFU, of TURN, and of its relay.
    fn turn_ports(&self) -> Result<(), ConfigError> {
        let Config { http, rtc, turn, .. } = self.config;
        if turn.mode != turn::Mode::Embedded {
            return Ok(());
        }
        let listen = &turn.listen;
        let http_address = [self.config.http_address().ip()];
        let mut taken = vec![("HTTP", "http.port", http.port, &http_address[..])];
        if rtc.enabled && rtc.tcp_enabled {
            taken.push(("ICE-TCP", "rtc.tcp_port", rtc.tcp_port, &rtc.bind));
        }
        for (path, is_enabled, port) in [
            ("turn.listen.tcp_port", listen.tcp_enabled, listen.tcp_port),
            ("turn.listen.tls_port", listen.tls_enabled, listen.tls_port),
        ] {
            let other = taken.iter().find(|(_, _, other, bind)| {
                is_enabled && port != 0 && port == *other && meet(bind, &listen.bind)
            });
            if let Some((name, key, ..)) = other {
                return Err(self.refuse(path, &format!("this is the port of {name} (`{key}`)")));
            }
        }
        if !rtc.enabled || rtc.udp_port == 0 {
            return Ok(());
        }
        let (first, last) = (rtc.udp_port, rtc.udp_port.saturating_add(self.config.shards() - 1));
        if listen.udp_enabled && (first..=last).contains(&listen.udp_port) && meet(&rtc.bind, &listen.bind) {
            let problem = format!("the shards have the ports {first}–{last} (`rtc.udp_port`)");
            return Err(self.refuse("turn.listen.udp_port", &problem));
        }
        let relay = &turn.relay;
        if first <= relay.max_port && relay.min_port <= last {
            let problem = format!(
                "the shards have the ports {first}–{last}, and the relay those from {} to {} \
                 (`turn.relay.min_port`, `turn.relay.max_port`)",
                relay.min_port, relay.max_port
            );
            return Err(self.refuse("rtc.udp_port", &problem));
        }
        Ok(())
    }

    /// A rule behind one that means its rooms too would never decide anything.
    fn rooms(&self) -> Result<(), ConfigError> {
        let rules = &self.config.rooms;
        for (index, rule) in rules.iter().enumerate() {
            if let Some(first) = rules[..index].iter().find(|first| first.pattern.covers(&rule.pattern)) {
                let problem = format!(
                    "`rooms`: the rule for `{}` is never used, because the one for `{}` stands before it and the first \
                     that matches decides",
                    rule.pattern.as_str(),
                    first.pattern.as_str()
                );
                return Err(self.refuse_in_words(&format!("rooms.{index}"), &problem));
            }
        }
        Ok(())
    }

    fn sizes(&self) -> Result<(), ConfigError> {
        let limits = &self.config.limits;
        let gibibyte = 1 << 30;
        self.within("limits.max_message_bytes", limits.max_message_bytes as u64, 1024, 16 << 20)?;
        let kept = self.config.attempts.max_bytes as u64;
        self.within("attempts.max_bytes", kept, 64 << 10, gibibyte)?;
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
                WELL_KNOWN.to_owned()
            } else if secret.len() < MIN_SECRET_BYTES {
                let length = secret.len();
                format!(
                    "this secret has {length} bytes, and production asks for {MIN_SECRET_BYTES}; {MAKE_A_SECRET}"
                )
            } else if is_monotonous(secret) {
                NOT_RANDOM.to_owned()
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

    /// How long they are is checked in any mode, by [`Rules::turn`].
    fn turn_secrets(&self) -> Result<(), ConfigError> {
        let credentials = &self.config.turn.credentials;
        if self.config.mode() != Mode::Production || self.config.turn.mode == turn::Mode::Off {
            return Ok(());
        }
        for (path, secret) in [
            ("turn.credentials.secret", &credentials.secret),
            ("turn.credentials.previous_secret", &credentials.previous_secret),
        ] {
            let Some(secret) = secret.as_ref().map(|secret| secret.as_str().as_bytes()) else { continue };
            let owner = self.config.keys.iter().find(|(_, key)| key.secret.expose() == secret);
            let problem = if is_well_known(secret) {
                WELL_KNOWN.to_owned()
            } else if is_monotonous(secret) {
                NOT_RANDOM.to_owned()
            } else if let Some((name, _)) = owner {
                format!(
                    "key `{name}` has the same secret, so who makes credentials could sign tokens; {MAKE_A_SECRET}"
                )
            } else {
                continue;
            };
            return Err(self.refuse(path, &problem));
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
        self.refuse_in_words(path, &format!("`{path}`: {problem}"))
    }

    /// [`Rules::refuse`] in a sentence that names the setting.
    fn refuse_in_words(&self, path: &str, sentence: &str) -> ConfigError {
        let default = default_of(path).map_or_else(String::new, |default| format!("; default {default}"));
        let problem = format!("{sentence}{default}");
        match self.tree.find(path).and_then(|node| node.place.clone()) {
            Some(place) => ConfigError::Written { place, problem },
            None => ConfigError::Refused(problem),
        }
    }
}

/// Whether a port at the one and the same port at the other is one port.
fn meet(one: &[IpAddr], other: &[IpAddr]) -> bool {
    let is_one = |a: &IpAddr, b: &IpAddr| {
        a == b || (a.is_ipv4() == b.is_ipv4() && (a.is_unspecified() || b.is_unspecified()))
    };
    one.iter().any(|a| other.iter().any(|b| is_one(a, b)))
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
