//! Which settings cannot be, and what to change.

use std::{net::IpAddr, time::Duration};

use super::{Listen, Mode, Secret, Turn, units::write_duration};

/// Bytes of a secret: as many as the HMAC's output.
const MIN_SECRET: usize = 20;
/// Bytes of a realm: the answer to strangers stays small.
const MAX_REALM: usize = 64;
/// Relay ports that an allocation of two families and a reservation take, at least.
const MIN_PORTS: u16 = 4;
const DAY: Duration = Duration::from_secs(86_400);

/// A setting that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} is {value}: {advice}")]
pub struct Problem {
    /// Its path, such as `turn.relay.min_port`.
    pub field: &'static str,
    /// What it is, or `missing`. Never a secret.
    pub value: String,
    /// What is allowed, or what to change.
    pub advice: String,
}

#[expect(clippy::needless_pass_by_value, reason = "numbers and literals, written where they are used")]
fn problem(field: &'static str, value: impl ToString, advice: impl Into<String>) -> Problem {
    Problem { field, value: value.to_string(), advice: advice.into() }
}

impl Turn {
    /// Everything that is wrong, in the order of the settings.
    ///
    /// # Errors
    /// At least one [`Problem`].
    pub fn check(&self) -> Result<(), Vec<Problem>> {
        let mut found = Vec::new();
        match self.mode {
            Mode::Off => {}
            Mode::External => self.external(&mut found),
            Mode::Embedded => {
                self.names(&mut found);
                self.listen(&mut found);
                self.relay(&mut found);
                self.lifetimes(&mut found);
                self.quotas(&mut found);
                self.secrets(&mut found);
            }
        }
        if found.is_empty() { Ok(()) } else { Err(found) }
    }

    fn names(&self, found: &mut Vec<Problem>) {
        let is_plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\' | b':');
        if self.realm.is_empty() || self.realm.len() > MAX_REALM || !self.realm.bytes().all(is_plain) {
            found.push(problem(
                "turn.realm",
                format!("{:?}", self.realm),
                "write 1 to 64 letters, digits and punctuation, without quotes, colons and spaces",
            ));
        }
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b':' | b'_');
        if let Some(host) = &self.host
            && (host.is_empty() || !host.bytes().all(is_name))
        {
            found.push(problem(
                "turn.host",
                format!("{host:?}"),
                "write a name or an address, without port and scheme, such as turn.example.com",
            ));
        }
    }

    fn listen(&self, found: &mut Vec<Problem>) {
        let listen = &self.listen;
        if !(listen.udp_enabled || listen.tcp_enabled || listen.tls_enabled) {
            found.push(problem(
                "turn.listen.udp_enabled",
                "false",
                "TCP and TLS are off too; switch one on, or set turn.mode to off",
            ));
        }
        if listen.bind.is_empty() {
            found.push(problem(
                "turn.listen.bind",
                "empty",
                "name an address, or leave it out to listen on all",
            ));
        }
        if listen.tcp_enabled
            && listen.tls_enabled
            && listen.tcp_port == listen.tls_port
            && listen.tcp_port != 0
        {
            found.push(problem(
                "turn.listen.tls_port",
                listen.tls_port,
                "it is that of TCP; two listeners need two ports",
            ));
        }
        match (&listen.tls_certificate, &listen.tls_key) {
            (Some(_), None) => found.push(problem(
                "turn.listen.tls_key",
                "missing",
                "name the file with the private key of turn.listen.tls_certificate",
            )),
            (None, Some(_)) => found.push(problem(
                "turn.listen.tls_certificate",
                "missing",
                "name the file with the certificate of turn.listen.tls_key",
            )),
            _ => {}
        }
    }

    fn relay(&self, found: &mut Vec<Problem>) {
        let relay = &self.relay;
        let addresses: [(&str, Option<IpAddr>); 4] = [
            ("turn.relay.bind_v4", relay.bind_v4.map(IpAddr::from)),
            ("turn.relay.advertise_v4", relay.advertise_v4.map(IpAddr::from)),
            ("turn.relay.bind_v6", relay.bind_v6.map(IpAddr::from)),
            ("turn.relay.advertise_v6", relay.advertise_v6.map(IpAddr::from)),
        ];
        for (field, address) in addresses {
            if let Some(address) =
                address.filter(|address| address.is_unspecified() || address.is_multicast())
            {
                found.push(problem(field, address, "write an address that peers can send to"));
            }
        }
        for (field, bind, advertise) in [
            ("turn.relay.bind_v4", relay.bind_v4.is_some(), relay.advertise_v4.is_some()),
            ("turn.relay.bind_v6", relay.bind_v6.is_some(), relay.advertise_v6.is_some()),
        ] {
            if advertise && !bind {
                found.push(problem(
                    field,
                    "missing",
                    "name the machine's address that the advertised one leads to",
                ));
            }
        }
        if relay.min_port < 1024 {
            found.push(problem("turn.relay.min_port", relay.min_port, "write 1024 to 65532"));
        }
        if relay.max_port < relay.min_port || relay.max_port - relay.min_port < MIN_PORTS - 1 {
            found.push(problem(
                "turn.relay.max_port",
                relay.max_port,
                format!("leave at least {MIN_PORTS} ports from turn.relay.min_port ({}) on", relay.min_port),
            ));
        }
        let Listen { udp_enabled, udp_port, .. } = self.listen;
        if udp_enabled && relay.range().contains(&udp_port) {
            found.push(problem(
                "turn.listen.udp_port",
                udp_port,
                format!("it is one of the relay's, {} to {}; move one", relay.min_port, relay.max_port),
            ));
        }
    }

    fn lifetimes(&self, found: &mut Vec<Problem>) {
        let lifetimes = &self.lifetimes;
        let second = Duration::from_secs(1);
        for (field, value, least, most) in [
            ("turn.lifetimes.allocation", lifetimes.allocation, 60 * second, DAY),
            ("turn.lifetimes.allocation_max", lifetimes.allocation_max, lifetimes.allocation, DAY),
            ("turn.lifetimes.permission", lifetimes.permission, 60 * second, DAY),
            ("turn.lifetimes.channel", lifetimes.channel, 60 * second, DAY),
            ("turn.lifetimes.nonce", lifetimes.nonce, 60 * second, DAY),
            ("turn.credentials.ttl", self.credentials.ttl, 60 * second, 30 * DAY),
            ("turn.credentials.overlap", self.credentials.overlap, Duration::ZERO, 60 * DAY),
        ] {
            if !(least..=most.max(least)).contains(&value) {
                let (least, most) = (write_duration(least), write_duration(most));
                found.push(problem(field, write_duration(value), format!("write {least} to {most}")));
            }
        }
    }

    fn quotas(&self, found: &mut Vec<Problem>) {
        let quotas = &self.quotas;
        for (field, value, most) in [
            ("turn.quotas.allocations_per_user", quotas.allocations_per_user, 100_000),
            ("turn.quotas.allocations", quotas.allocations, 1_000_000),
            ("turn.quotas.permissions_per_allocation", quotas.permissions_per_allocation, 1024),
            ("turn.quotas.channels_per_allocation", quotas.channels_per_allocation, 1024),
            ("turn.quotas.answers_per_second", quotas.answers_per_second, 1_000_000),
            ("turn.quotas.answers_burst", quotas.answers_burst, 1_000_000),
        ] {
            if !(1..=most).contains(&value) {
                found.push(problem(field, value, format!("write 1 to {most}")));
            }
        }
        // A burst has to hold a packet, or nothing would ever pass.
        if quotas.bytes_per_second > 0 && quotas.bytes_burst < 65_536 {
            found.push(problem(
                "turn.quotas.bytes_burst",
                quotas.bytes_burst,
                "write 65536 or more, or set turn.quotas.bytes_per_second to 0 for no limit",
            ));
        }
    }

    fn secrets(&self, found: &mut Vec<Problem>) {
        let advice = "write at least 20 characters; make one with `openssl rand -hex 32`";
        let is_short = |secret: &Secret| secret.as_str().len() < MIN_SECRET;
        match &self.credentials.secret {
            None => found.push(problem("turn.credentials.secret", "missing", advice)),
            Some(secret) if is_short(secret) => {
                found.push(problem("turn.credentials.secret", "too short", advice));
            }
            Some(_) => {}
        }
        if self.credentials.previous_secret.as_ref().is_some_and(is_short) {
            found.push(problem("turn.credentials.previous_secret", "too short", advice));
        }
        if self.credentials.secret.is_some() && self.credentials.previous_secret == self.credentials.secret {
            found.push(problem(
                "turn.credentials.previous_secret",
                "the same as turn.credentials.secret",
                "leave it out, or write the one before",
            ));
        }
    }

    fn external(&self, found: &mut Vec<Problem>) {
        let external = &self.external;
        if external.urls.is_empty() {
            found.push(problem(
                "turn.external.urls",
                "empty",
                "name the server, such as turn:turn.example.com:3478?transport=udp",
            ));
        }
        let schemes = ["stun:", "stuns:", "turn:", "turns:"];
        for url in &external.urls {
            if !schemes.iter().any(|scheme| url.strip_prefix(scheme).is_some_and(|rest| !rest.is_empty())) {
                found.push(problem(
                    "turn.external.urls",
                    format!("{url:?}"),
                    "begin with stun:, turn: or turns:, such as turn:turn.example.com:3478?transport=udp",
                ));
            }
        }
        match (&external.username, &external.password) {
            (Some(_), None) => {
                found.push(problem(
                    "turn.external.password",
                    "missing",
                    "write that of turn.external.username",
                ));
            }
            (None, Some(_)) => {
                found.push(problem(
                    "turn.external.username",
                    "missing",
                    "write that of turn.external.password",
                ));
            }
            (None, None) if external.urls.iter().any(|url| url.starts_with("turn")) => self.secrets(found),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Turn {
        let mut turn = Turn::default();
        turn.credentials.secret = Some(Secret::new("a secret of twenty characters and more"));
        turn
    }

    fn problems(change: impl FnOnce(&mut Turn)) -> Vec<String> {
        let mut turn = good();
        change(&mut turn);
        turn.check().unwrap_err().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_defaults_with_a_secret_are_good() {
        assert_eq!(good().check(), Ok(()));
        let off = Turn { mode: Mode::Off, ..Turn::default() };
        assert_eq!(off.check(), Ok(()));
    }

    #[test]
    fn every_problem_names_its_setting_and_what_to_change() {
        type Change = fn(&mut Turn);
        let cases: [(&str, Change); 24] = [
            ("turn.realm is \"\": write", |turn| turn.realm.clear()),
            ("turn.realm is \"a b\": write", |turn| "a b".clone_into(&mut turn.realm)),
            ("turn.host is \"turn:example.com/\": write", |turn| {
                turn.host = Some("turn:example.com/".into())
            }),
            ("turn.listen.udp_enabled is false: TCP and TLS are off too", |turn| {
                (turn.listen.udp_enabled, turn.listen.tcp_enabled, turn.listen.tls_enabled) =
                    (false, false, false);
            }),
            ("turn.listen.bind is empty: name", |turn| turn.listen.bind.clear()),
            ("turn.listen.tls_port is 3478: it is that of TCP", |turn| turn.listen.tls_port = 3478),
            ("turn.listen.tls_key is missing: name", |turn| turn.listen.tls_certificate = Some("a".into())),
            ("turn.listen.tls_certificate is missing: name", |turn| turn.listen.tls_key = Some("a".into())),
            ("turn.relay.bind_v4 is 0.0.0.0: write", |turn| turn.relay.bind_v4 = Some(Ipv4::UNSPECIFIED)),
            ("turn.relay.bind_v4 is missing: name", |turn| turn.relay.advertise_v4 = Some(Ipv4::LOCALHOST)),
            ("turn.relay.min_port is 80: write 1024", |turn| {
                (turn.relay.min_port, turn.relay.max_port) = (80, 90)
            }),
            ("turn.relay.max_port is 49153: leave at least 4", |turn| turn.relay.max_port = 49153),
            ("turn.listen.udp_port is 50000: it is one of the relay's", |turn| turn.listen.udp_port = 50000),
            ("turn.lifetimes.allocation is 1s: write 1m to 1d", |turn| turn.lifetimes.allocation = SECOND),
            ("turn.lifetimes.allocation_max is 1m: write 10m to 1d", |turn| {
                turn.lifetimes.allocation_max = 60 * SECOND;
            }),
            ("turn.lifetimes.nonce is 0s: write", |turn| turn.lifetimes.nonce = Duration::ZERO),
            ("turn.quotas.allocations_per_user is 0: write 1", |turn| turn.quotas.allocations_per_user = 0),
            ("turn.quotas.bytes_burst is 1200: write 65536", |turn| turn.quotas.bytes_burst = 1200),
            ("turn.credentials.ttl is 1s: write 1m to 30d", |turn| turn.credentials.ttl = SECOND),
            ("turn.credentials.secret is missing: write", |turn| turn.credentials.secret = None),
            ("turn.credentials.secret is too short: write", |turn| {
                turn.credentials.secret = Some(Secret::new("swordfish"));
            }),
            ("turn.credentials.previous_secret is too short: write", |turn| {
                turn.credentials.previous_secret = Some(Secret::new("swordfish"));
            }),
            ("turn.credentials.previous_secret is the same as turn.credentials.secret: leave", |turn| {
                turn.credentials.previous_secret = turn.credentials.secret.clone();
            }),
            ("turn.external.urls is empty: name", |turn| turn.mode = Mode::External),
        ];
        for (expected, change) in cases {
            let found = problems(change);
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].starts_with(expected), "{} for {expected}", found[0]);
            assert!(!found[0].contains("swordfish"), "a secret is told");
        }
    }

    use std::net::Ipv4Addr as Ipv4;
    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn an_external_server_needs_addresses_and_a_credential() {
        let external = |urls: &[&str], username: Option<&str>, password: Option<&str>| {
            problems(|turn| {
                turn.mode = Mode::External;
                turn.external.urls = urls.iter().map(|&url| url.to_owned()).collect();
                turn.external.username = username.map(str::to_owned);
                turn.external.password = password.map(Secret::new);
            })
        };
        assert!(external(&["https://turn.example.com"], None, None)[0].contains("begin with"));
        assert!(
            external(&["turn:a"], Some("user"), None)[0].starts_with("turn.external.password is missing")
        );
        assert!(
            external(&["turn:a"], None, Some("password"))[0].starts_with("turn.external.username is missing")
        );
        let mut turn = good();
        turn.mode = Mode::External;
        turn.external.urls = vec!["turn:turn.example.com".to_owned()];
        assert_eq!(turn.check(), Ok(()));
        turn.credentials.secret = None;
        assert!(turn.check().is_err(), "no credential at all");
        turn.external.urls = vec!["stun:stun.example.com".to_owned()];
        assert_eq!(turn.check(), Ok(()), "STUN needs none");
    }

    #[test]
    fn settings_are_read_back_as_they_are_written() {
        let text = r#"{"realm": "example", "deny": ["9.9.9.0/24"], "lifetimes": {"nonce": "10m"},
                       "credentials": {"secret": "a secret of twenty characters and more"}}"#;
        let turn: Turn = serde_json::from_str(text).unwrap();
        assert_eq!((turn.realm.as_str(), turn.lifetimes.nonce), ("example", 600 * SECOND));
        let written = serde_json::to_string(&turn).unwrap();
        assert!(written.contains("9.9.9.0/24") && !written.contains("twenty"), "{written}");
        let unknown = serde_json::from_str::<Turn>(r#"{"relm": "example"}"#).unwrap_err();
        assert!(unknown.to_string().contains("unknown field `relm`"));
    }
}
