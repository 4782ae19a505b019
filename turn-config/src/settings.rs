//! Every TURN setting: its default, its unit and why it is there.
//!
//! These are plain values for a configuration file to be read into; [`Turn::check`] says which of them cannot be, and what
//! to change. Where a file has lines, whoever reads it knows them: a [`Problem`] names its setting.

mod check;
pub mod units;
pub mod values;

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
    path::PathBuf,
    time::Duration,
};

use serde::{Deserialize, Serialize};

pub use check::Problem;

use crate::peers::Cidr;

/// Section `turn`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Turn {
    /// Who relays. Default: `embedded`.
    pub mode: Mode,
    /// What credentials are good for, told to clients and signed with. Default: `switchyard`. Every byte above twelve
    /// makes the answer to strangers larger.
    pub realm: String,
    /// Name or address that clients reach the server by. TLS needs a name, that of the certificate. Default: none, which
    /// takes an advertised address of `relay`.
    pub host: Option<String>,
    /// What clients connect to.
    pub listen: Listen,
    /// What peers see.
    pub relay: Relay,
    /// How long things live.
    pub lifetimes: Lifetimes,
    /// How much one user, and all together, may have.
    pub quotas: Quotas,
    /// Networks that may be reached although they are on the list of [`crate::peers::DENIED`]. Default: none.
    pub allow: Vec<Cidr>,
    /// Networks that may not be reached, besides those. Default: none.
    pub deny: Vec<Cidr>,
    /// What credentials are made with.
    pub credentials: Credentials,
    /// The server to name instead, with `mode: external`.
    pub external: External,
}

impl Default for Turn {
    fn default() -> Self {
        Self {
            mode: Mode::Embedded,
            realm: "switchyard".to_owned(),
            host: None,
            listen: Listen::default(),
            relay: Relay::default(),
            lifetimes: Lifetimes::default(),
            quotas: Quotas::default(),
            allow: Vec::new(),
            deny: Vec::new(),
            credentials: Credentials::default(),
            external: External::default(),
        }
    }
}

/// Who relays (NAT3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// This server.
    Embedded,
    /// Another one, which clients are sent to.
    External,
    /// Nobody.
    Off,
}

/// Section `turn.listen`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Listen {
    /// Addresses to listen on. Default: all, IPv4 and IPv6.
    #[serde(deserialize_with = "values::addresses")]
    pub bind: Vec<IpAddr>,
    /// Whether to listen on UDP. Default: true.
    pub udp_enabled: bool,
    /// UDP port. Default: 3478; 0 takes any free one.
    #[serde(deserialize_with = "values::port")]
    pub udp_port: u16,
    /// Whether to listen on TCP, for networks that block UDP. Default: true.
    pub tcp_enabled: bool,
    /// TCP port. Default: 3478; 0 takes any free one.
    #[serde(deserialize_with = "values::port")]
    pub tcp_port: u16,
    /// Whether to listen on TLS, for networks that let only TLS out. Default: true.
    pub tls_enabled: bool,
    /// TLS port. Default: 5349; 443 gets through most firewalls; 0 takes any free one.
    #[serde(deserialize_with = "values::port")]
    pub tls_port: u16,
    /// PEM file with the certificate and its chain. Default: none; a self-signed one in development.
    pub tls_certificate: Option<PathBuf>,
    /// PEM file with its private key. Default: none.
    pub tls_key: Option<PathBuf>,
    /// Whether the TLS port answers HTTPS too, told apart by the first bytes within TLS: one port, 443, for everything.
    /// Default: false.
    pub https: bool,
    /// Networks of load balancers that stand before TCP and TLS. A connection from there has to begin with a PROXY
    /// protocol header, version 2, and the client is the one that it names; others must not. Default: none.
    pub proxy_protocol: Vec<Cidr>,
}

impl Default for Listen {
    fn default() -> Self {
        Self {
            bind: vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
            udp_enabled: true,
            udp_port: 3478,
            tcp_enabled: true,
            tcp_port: 3478,
            tls_enabled: true,
            tls_port: 5349,
            tls_certificate: None,
            tls_key: None,
            https: false,
            proxy_protocol: Vec::new(),
        }
    }
}

/// Section `turn.relay`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Relay {
    /// IPv4 address that relay sockets are bound to. Default: none, which is the machine's own.
    #[serde(deserialize_with = "values::address")]
    pub bind_v4: Option<Ipv4Addr>,
    /// The address under which the world reaches it, where a 1:1 NAT stands before. Default: `bind_v4`.
    #[serde(deserialize_with = "values::address")]
    pub advertise_v4: Option<Ipv4Addr>,
    /// IPv6 address that relay sockets are bound to. Default: none, which is the machine's own.
    #[serde(deserialize_with = "values::address")]
    pub bind_v6: Option<Ipv6Addr>,
    /// The address under which the world reaches it. Default: `bind_v6`.
    #[serde(deserialize_with = "values::address")]
    pub advertise_v6: Option<Ipv6Addr>,
    /// Lowest relay port. Default: 49152.
    pub min_port: u16,
    /// Highest relay port. Default: 65535. An allocation has a port of its own while it lives.
    pub max_port: u16,
}

impl Default for Relay {
    fn default() -> Self {
        Self {
            bind_v4: None,
            advertise_v4: None,
            bind_v6: None,
            advertise_v6: None,
            min_port: 49152,
            max_port: 65535,
        }
    }
}

impl Relay {
    /// The relay's ports.
    #[must_use]
    pub fn range(&self) -> RangeInclusive<u16> {
        self.min_port..=self.max_port
    }

    /// The addresses that clients are told, IPv4 first.
    #[must_use]
    pub fn advertised(&self) -> (Option<Ipv4Addr>, Option<Ipv6Addr>) {
        (self.advertise_v4.or(self.bind_v4), self.advertise_v6.or(self.bind_v6))
    }
}

/// Section `turn.lifetimes`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Lifetimes {
    /// Of an allocation whose client asks for nothing else. Default: 10m, as RFC 8656 has it.
    #[serde(with = "units::duration")]
    pub allocation: Duration,
    /// Of an allocation at most. Default: 1h.
    #[serde(with = "units::duration")]
    pub allocation_max: Duration,
    /// Of a permission. Default: 5m, as RFC 8656 has it; clients count on it.
    #[serde(with = "units::duration")]
    pub permission: Duration,
    /// Of a channel. Default: 10m, as RFC 8656 has it; clients count on it.
    #[serde(with = "units::duration")]
    pub channel: Duration,
    /// Of a nonce, after which a client is given another. Default: 1h.
    #[serde(with = "units::duration")]
    pub nonce: Duration,
}

impl Default for Lifetimes {
    fn default() -> Self {
        let minute = Duration::from_secs(60);
        Self {
            allocation: 10 * minute,
            allocation_max: 60 * minute,
            permission: 5 * minute,
            channel: 10 * minute,
            nonce: 60 * minute,
        }
    }
}

/// Section `turn.quotas` (NAT2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Quotas {
    /// Allocations of one user. Default: 12: three tabs with two networks and two address families.
    pub allocations_per_user: u32,
    /// Allocations of all users. Default: 10000.
    pub allocations: u32,
    /// Peers' addresses that one allocation may have permissions for. Default: 64.
    pub permissions_per_allocation: u32,
    /// Channels of one allocation. Default: 64.
    pub channels_per_allocation: u32,
    /// Bytes a second that one user may have relayed, both ways and all allocations together; more is dropped, as a
    /// network drops it. Default: 2500000 (20 Mbit/s); 0 is no limit.
    #[serde(with = "units::size")]
    pub bytes_per_second: u64,
    /// Bytes that may come at once after a pause. Default: 2500000.
    #[serde(with = "units::size")]
    pub bytes_burst: u64,
    /// Answers a second to one network (/24, /56) that has not shown a credential; what is above it is not answered.
    /// Default: 200.
    pub answers_per_second: u32,
    /// Answers at once after a pause. Default: 1000: an office whose clients all come back together.
    pub answers_burst: u32,
}

impl Default for Quotas {
    fn default() -> Self {
        Self {
            allocations_per_user: 12,
            allocations: 10_000,
            permissions_per_allocation: 64,
            channels_per_allocation: 64,
            bytes_per_second: 2_500_000,
            bytes_burst: 2_500_000,
            answers_per_second: 200,
            answers_burst: 1000,
        }
    }
}

/// Section `turn.credentials`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Credentials {
    /// What credentials are made and verified with. Default: one made at each start; set it when several servers share
    /// it, when the application makes credentials itself, and for an external server.
    pub secret: Option<Secret>,
    /// The secret before, which is accepted for `overlap` after the start. Default: none.
    pub previous_secret: Option<Secret>,
    /// How long the previous secret is accepted. Default: 2h: the longest a credential lives, twice, so that servers that
    /// share the secret can be restarted one after the other.
    #[serde(with = "units::duration")]
    pub overlap: Duration,
    /// How long a credential is good for. An allocation that is kept alive outlives it. Default: 1h.
    #[serde(with = "units::duration")]
    pub ttl: Duration,
}

impl Default for Credentials {
    fn default() -> Self {
        Self {
            secret: None,
            previous_secret: None,
            overlap: Duration::from_secs(2 * 3600),
            ttl: Duration::from_secs(3600),
        }
    }
}

/// Section `turn.external` (NAT3).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct External {
    /// `stun:`, `turn:` and `turns:` addresses, as clients are told them. Default: none.
    pub urls: Vec<String>,
    /// A user name that does not expire. Default: none; credentials are made with `credentials.secret`.
    pub username: Option<String>,
    /// Its password.
    pub password: Option<Secret>,
}

/// Text that appears in no log.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps it.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Unwraps it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret")
    }
}

impl Serialize for Secret {
    /// As a placeholder: settings that are shown are seen by others.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("(secret)")
    }
}
