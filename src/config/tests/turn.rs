//! Golden messages of section `turn`.

use switchyard_turn_config::settings;

use super::*;

/// What a setting of TURN says when it is wrong: its place, what is expected, the default.
#[test]
fn a_wrong_setting_of_turn_is_refused_like_any_other() {
    for (text, message) in [
        (
            "turn:\n  listen:\n    udp_prot: 1\n",
            "switchyard.yaml:3:5: unknown key `turn.listen.udp_prot`; did you mean `udp_port`? Allowed here: bind, \
             udp_enabled, udp_port, tcp_enabled, tcp_port, tls_enabled, tls_port, tls_certificate, tls_key, https, \
             proxy_protocol",
        ),
        (
            "turn:\n  mode: on\n",
            "switchyard.yaml:2:9: `turn.mode`: expected embedded, external or off, got \"on\"; default embedded",
        ),
        (
            "turn:\n  listen:\n    tls_port: 65536\n",
            "switchyard.yaml:3:15: `turn.listen.tls_port`: expected a port number 1–65535, or 0 for any free one, \
             got \"65536\"; default 5349",
        ),
        (
            "turn:\n  listen:\n    bind: [all]\n",
            "switchyard.yaml:3:12: `turn.listen.bind`: expected an IP address such as 192.0.2.7 or 2001:db8::7, \
             got \"all\"; default 0.0.0.0, ::",
        ),
        (
            "turn:\n  relay:\n    bind_v4: \"::1\"\n",
            "switchyard.yaml:3:14: `turn.relay.bind_v4`: expected an IPv4 address such as 192.0.2.7, got \"::1\"",
        ),
        (
            "turn:\n  relay:\n    advertise_v6: 10.0.0.1\n",
            "switchyard.yaml:3:19: `turn.relay.advertise_v6`: expected an IPv6 address such as 2001:db8::7, got \
             \"10.0.0.1\"",
        ),
        (
            "turn:\n  lifetimes:\n    nonce: 1 hour\n",
            "switchyard.yaml:3:12: `turn.lifetimes.nonce`: expected a duration such as 500ms, 30s, 5m, 1h or 7d, got \
             \"1 hour\"; default 1h",
        ),
        (
            "turn:\n  quotas:\n    bytes_per_second: 20Mbit\n",
            "switchyard.yaml:3:23: `turn.quotas.bytes_per_second`: expected a size such as 65536, 64KiB or 1MiB, got \
             \"20Mbit\"; default 2500000",
        ),
        (
            "turn:\n  deny:\n    - 10.0.0.1/8\n",
            "switchyard.yaml:3:7: `turn.deny`: expected a network such as 10.0.0.0/8, 2001:db8::/32 or one address, \
             with no bits set after the prefix, got \"10.0.0.1/8\"; default none",
        ),
        (
            "turn:\n  lifetimes:\n    allocation: 1s\n",
            "switchyard.yaml:3:17: `turn.lifetimes.allocation` is 1s: write 1m to 1d; default 10m",
        ),
        (
            "turn:\n  relay: { min_port: 2000, max_port: 2001 }\n",
            "switchyard.yaml:2:38: `turn.relay.max_port` is 2001: leave at least 4 ports from turn.relay.min_port (2000) \
             on; default 65535",
        ),
        (
            "turn:\n  credentials: { secret: hush-hush }\n",
            "switchyard.yaml:2:26: `turn.credentials.secret` is too short: write at least 20 characters; make one \
             with `openssl rand -hex 32`",
        ),
        (
            "turn:\n  mode: external\n  external: { urls: [\"turn:a\"] }\n",
            "`turn.credentials.secret` is missing: write at least 20 characters; make one with `openssl rand -hex 32`",
        ),
        (
            "turn:\n  listen: { https: true, tls_enabled: false }\n",
            "switchyard.yaml:2:20: `turn.listen.https`: HTTPS is answered at the port of TLS, and \
             `turn.listen.tls_enabled` is false; default false",
        ),
    ] {
        assert_refused(read(text), message);
    }
}

#[test]
fn every_setting_of_turn_can_be_set_in_the_environment() {
    for (name, value) in [
        ("MODE", "off"),
        ("REALM", "example"),
        ("HOST", "turn.example.com"),
        ("LISTEN__BIND", "127.0.0.1, ::1"),
        ("LISTEN__UDP_ENABLED", "false"),
        ("LISTEN__UDP_PORT", "0"),
        ("LISTEN__TCP_ENABLED", "false"),
        ("LISTEN__TCP_PORT", "0"),
        ("LISTEN__TLS_ENABLED", "false"),
        ("LISTEN__TLS_PORT", "443"),
        ("LISTEN__HTTPS", "true"),
        ("LISTEN__PROXY_PROTOCOL", "10.0.0.0/8,fd00::/8"),
        ("RELAY__BIND_V4", "10.0.0.1"),
        ("RELAY__BIND_V6", "2001:db8::1"),
        ("RELAY__MIN_PORT", "40000"),
        ("RELAY__MAX_PORT", "50000"),
        ("LIFETIMES__ALLOCATION", "20m"),
        ("LIFETIMES__ALLOCATION_MAX", "2h"),
        ("LIFETIMES__PERMISSION", "6m"),
        ("LIFETIMES__CHANNEL", "11m"),
        ("LIFETIMES__NONCE", "30m"),
        ("QUOTAS__ALLOCATIONS_PER_USER", "3"),
        ("QUOTAS__ALLOCATIONS", "4"),
        ("QUOTAS__PERMISSIONS_PER_ALLOCATION", "5"),
        ("QUOTAS__CHANNELS_PER_ALLOCATION", "6"),
        ("QUOTAS__BYTES_PER_SECOND", "1MiB"),
        ("QUOTAS__BYTES_BURST", "131072"),
        ("QUOTAS__ANSWERS_PER_SECOND", "7"),
        ("QUOTAS__ANSWERS_BURST", "8"),
        ("ALLOW", "10.1.0.0/16"),
        ("DENY", "9.9.9.9, 8.8.8.0/24"),
        ("CREDENTIALS__SECRET", GOOD_SECRET),
        ("CREDENTIALS__PREVIOUS_SECRET", GOOD_SECRET),
        ("CREDENTIALS__OVERLAP", "0s"),
        ("CREDENTIALS__TTL", "5m"),
        ("EXTERNAL__URLS", "turn:a, stun:b"),
    ] {
        let config = with_environment("", &[(&format!("SWITCHYARD__TURN__{name}"), value)])
            .unwrap_or_else(|problem| panic!("{problem}"));
        assert_ne!(config.turn, Turn::default(), "{name}");
    }
    // These four are nothing alone.
    let config = with_environment(
        "turn: { relay: { bind_v4: 10.0.0.1, bind_v6: \"2001:db8::1\" } }",
        &[
            ("SWITCHYARD__TURN__LISTEN__TLS_CERTIFICATE", "a.pem"),
            ("SWITCHYARD__TURN__LISTEN__TLS_KEY", "b.pem"),
            ("SWITCHYARD__TURN__RELAY__ADVERTISE_V4", "192.0.2.7"),
            ("SWITCHYARD__TURN__RELAY__ADVERTISE_V6", "2001:db8::7"),
            ("SWITCHYARD__TURN__EXTERNAL__USERNAME", "ada"),
            ("SWITCHYARD__TURN__EXTERNAL__PASSWORD", "hush"),
        ],
    )
    .unwrap();
    assert_eq!(config.turn.listen.tls_key, Some("b.pem".into()));
    assert_eq!(config.turn.relay.advertised().0, Some(Ipv4Addr::new(192, 0, 2, 7)));
    assert_eq!(config.turn.external.username.as_deref(), Some("ada"));
}

#[test]
fn a_port_is_not_given_twice() {
    for (text, message) in [
        (
            "turn:\n  listen:\n    tls_port: 7881\n",
            "switchyard.yaml:3:15: `turn.listen.tls_port`: this is the port of ICE-TCP (`rtc.tcp_port`); default 5349",
        ),
        (
            "mode: development\nhttp: { port: 443, bind: 0.0.0.0 }\nturn: { listen: { tls_port: 443 } }\n",
            "switchyard.yaml:3:29: `turn.listen.tls_port`: this is the port of HTTP (`http.port`); default 5349",
        ),
        (
            "turn: { listen: { udp_port: 7883 } }\nrtc: { shards: 2 }\n",
            "switchyard.yaml:1:29: `turn.listen.udp_port`: the shards have the ports 7882–7883 (`rtc.udp_port`); \
             default 3478",
        ),
        (
            "rtc: { udp_port: 49151, shards: 2 }\n",
            "switchyard.yaml:1:18: `rtc.udp_port`: the shards have the ports 49151–49152, and the relay those from 49152 \
             to 65535 (`turn.relay.min_port`, `turn.relay.max_port`); default 7882",
        ),
    ] {
        assert_refused(read(text), message);
    }
    for text in [
        "mode: development\nhttp: { port: 443, bind: 10.0.0.1 }\nturn: { listen: { bind: [10.0.0.2], tls_port: 443 } }",
        "turn: { listen: { tls_port: 7881, tls_enabled: false } }",
        "turn: { mode: off, listen: { tls_port: 7881 } }",
        "turn: { listen: { udp_port: 0, tcp_port: 0, tls_port: 0 } }",
        "rtc: { enabled: false, udp_port: 50000 }",
        "rtc: { udp_port: 0 }",
    ] {
        read(text).unwrap_or_else(|problem| panic!("{text}: {problem}"));
    }
}

#[test]
fn production_refuses_a_secret_for_turn_that_others_know() {
    let production = |turn: &str| {
        read(&format!("mode: production\nkeys: {{ app: {{ secret: {GOOD_SECRET} }} }}\nturn: {turn}\n"))
    };
    for (turn, message) in [
        (
            "{ credentials: { secret: abababababababababababab } }",
            "switchyard.yaml:3:32: `turn.credentials.secret`: this secret was not drawn at random; make one with \
             `openssl rand -hex 32`",
        ),
        (
            "{ credentials: { secret: a-string-secret-at-least-256-bits-long } }",
            "switchyard.yaml:3:32: `turn.credentials.secret`: this secret is well known; make one with \
             `openssl rand -hex 32`",
        ),
        (
            "{ credentials: { previous_secret: a-string-secret-at-least-256-bits-long } }",
            "switchyard.yaml:3:41: `turn.credentials.previous_secret`: this secret is well known; make one with \
             `openssl rand -hex 32`",
        ),
        (
            "{ credentials: { secret: 6c1f0d9be27a4583b1c2d3e4f5061728 } }",
            "switchyard.yaml:3:32: `turn.credentials.secret`: key `app` has the same secret, so who makes credentials \
             could sign tokens; make one with `openssl rand -hex 32`",
        ),
        (
            "{ listen: { https: true } }",
            "switchyard.yaml:3:26: `turn.listen.https`: name a certificate: `turn.listen.tls_certificate` and \
             `turn.listen.tls_key`; default false",
        ),
    ] {
        assert_refused(production(turn), message);
    }
    for turn in ["{}", "{ credentials: { secret: 7d20af9be27a4583b1c2 } }"] {
        production(turn).unwrap_or_else(|problem| panic!("{turn}: {problem}"));
    }
    read("turn: { credentials: { secret: abababababababababababab } }").unwrap();
}

#[test]
fn a_server_that_relays_itself_makes_the_secret_that_it_lacks() {
    let mut config = Config { mode: Some(Mode::Production), ..Config::default() };
    assert!(config.add_turn_secret(&[0xab; 32]));
    assert_eq!(config.turn.credentials.secret, Some(settings::Secret::new("ab".repeat(32))));
    assert_eq!(config.turn.check(), Ok(()));
    assert!(!config.add_turn_secret(&[1; 32]), "it has one now");
    for mode in [settings::Mode::Off, settings::Mode::External] {
        let mut config = Config::default();
        config.turn.mode = mode;
        assert!(!config.add_turn_secret(&[1; 32]), "{mode:?}");
    }
}
