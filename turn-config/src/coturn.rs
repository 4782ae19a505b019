//! A `turnserver.conf` for [coturn](https://github.com/coturn/coturn) 4.6 that serves the clients that these settings
//! serve: the same ports, credentials, quotas and networks that are closed (NAT3).
//!
//! Four things coturn does otherwise: it opens a relay socket for every allocation at once; its byte limit is one for each
//! session and not for each user; it knows no bound for answers to strangers; and it reaches no loopback address, allowed or
//! not. It takes all secrets that it is given,
//! for as long as they stand there.

use std::{
    fmt::{Display, Write as _},
    net::{IpAddr, Ipv6Addr},
};

use crate::{peers, settings::Turn};

/// The file. It holds the secrets.
#[must_use]
pub fn turnserver_conf(turn: &Turn) -> String {
    let mut file = File(String::new());
    file.comment(
        "Made by `switchyard turn-config --coturn`. It holds secrets: readable for coturn's user alone.",
    );
    file.comment("What clients connect to");
    for address in turn.listen.bind.iter().filter(|address| !address.is_unspecified()) {
        file.set("listening-ip", address);
    }
    listeners(turn, &mut file);

    file.comment("What peers see");
    let relay = &turn.relay;
    for bind in [relay.bind_v4.map(IpAddr::from), relay.bind_v6.map(IpAddr::from)].into_iter().flatten() {
        file.set("relay-ip", bind);
    }
    if let (Some(bind), Some(advertise)) = (relay.bind_v4, relay.advertise_v4) {
        file.set("external-ip", format_args!("{advertise}/{bind}"));
    }
    if let (Some(bind), Some(advertise)) = (relay.bind_v6, relay.advertise_v6) {
        file.set("external-ip", format_args!("{advertise}/{bind}"));
    }
    file.set("min-port", relay.min_port);
    file.set("max-port", relay.max_port);

    file.comment("Credentials");
    file.flag("use-auth-secret");
    for secret in [&turn.credentials.secret, &turn.credentials.previous_secret].into_iter().flatten() {
        file.set("static-auth-secret", secret.as_str());
    }
    file.set("realm", &turn.realm);
    file.set("stale-nonce", turn.lifetimes.nonce.as_secs());
    file.flag("fingerprint");

    file.comment("Quotas and lifetimes");
    file.set("user-quota", turn.quotas.allocations_per_user);
    file.set("total-quota", turn.quotas.allocations);
    if turn.quotas.bytes_per_second > 0 {
        file.set("max-bps", turn.quotas.bytes_per_second);
    }
    file.set("max-allocate-lifetime", turn.lifetimes.allocation_max.as_secs());
    file.set("channel-lifetime", turn.lifetimes.channel.as_secs());
    file.set("permission-lifetime", turn.lifetimes.permission.as_secs());

    file.comment("Networks that may be reached, and those that may not");
    for network in &turn.allow {
        let (first, last) = network.range();
        file.set("allowed-peer-ip", format_args!("{first}-{last}"));
    }
    for network in peers::denied_by_default().chain(turn.deny.iter().copied()) {
        let (first, last) = network.range();
        // To coturn a range that begins with :: begins before every address, and IPv4 before IPv6.
        let first =
            if first == IpAddr::V6(Ipv6Addr::UNSPECIFIED) { Ipv6Addr::LOCALHOST.into() } else { first };
        file.set("denied-peer-ip", format_args!("{first}-{last}"));
    }
    file.flag("no-multicast-peers");
    file.flag("no-tcp-relay");

    file.comment("No doors of its own");
    file.flag("no-cli");
    file.flag("no-rfc5780");
    file.flag("no-software-attribute");
    file.0
}

fn listeners(turn: &Turn, file: &mut File) {
    let listen = &turn.listen;
    // coturn has one port for UDP and TCP, and listens to both unless told otherwise.
    let plain = if listen.udp_enabled { listen.udp_port } else { listen.tcp_port };
    file.set("listening-port", plain);
    if listen.udp_enabled && listen.tcp_enabled && listen.tcp_port != listen.udp_port {
        file.comment(&format!("coturn has one port for UDP and TCP: TCP is not on {}", listen.tcp_port));
    }
    if !listen.udp_enabled {
        file.flag("no-udp");
    }
    if !listen.tcp_enabled {
        file.flag("no-tcp");
    }
    file.flag("no-dtls");
    match (&listen.tls_certificate, &listen.tls_key) {
        (Some(certificate), Some(key)) if listen.tls_enabled => {
            file.set("tls-listening-port", listen.tls_port);
            file.set("cert", certificate.display());
            file.set("pkey", key.display());
        }
        // coturn makes no certificate.
        _ => file.flag("no-tls"),
    }
    file.flag("no-tlsv1");
    file.flag("no-tlsv1_1");
}

struct File(String);

impl File {
    fn comment(&mut self, text: &str) {
        let gap = if self.0.is_empty() { "" } else { "\n" };
        self.line(format_args!("{gap}# {text}"));
    }

    fn flag(&mut self, name: &str) {
        self.line(format_args!("{name}"));
    }

    fn set(&mut self, name: &str, value: impl Display) {
        self.line(format_args!("{name}={value}"));
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "{line}");
    }
}
