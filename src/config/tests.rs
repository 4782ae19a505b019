//! Golden messages, and the example file.

mod features;
mod turn;

use super::*;

const EXAMPLE: &str = include_str!("../../switchyard.example.yaml");
const GOOD_SECRET: &str = "6c1f0d9be27a4583b1c2d3e4f5061728";

fn read(text: &str) -> Result<Config, ConfigError> {
    Config::read(Some((Path::new("switchyard.yaml"), text)), &[], &[])
}

fn with_environment(text: &str, variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let variables: Vec<_> = variables.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    Config::read(Some((Path::new("switchyard.yaml"), text)), &variables, &[])
}

fn flag(name: &'static str, key: &'static str, value: &str) -> Flag {
    Flag { name, key, value: value.to_owned() }
}

#[track_caller]
fn assert_refused(result: Result<Config, ConfigError>, message: &str) {
    match result {
        Ok(_) => panic!("accepted, but expected: {message}"),
        Err(error) => assert_eq!(error.to_string(), message),
    }
}

#[test]
fn without_any_source_it_is_development_on_loopback() {
    let config = Config::read(None, &[], &[]).unwrap();
    assert_eq!(config, Config::default());
    assert_eq!(config.mode(), Mode::Development);
    assert_eq!(config.http_address(), "127.0.0.1:7880".parse::<std::net::SocketAddr>().unwrap());
    assert!((1..=256).contains(&config.shards()));
}

#[test]
fn an_empty_file_and_empty_sections_are_the_defaults() {
    for text in ["", "# nothing\n", "---\n", "http:\nrtc: {}\nkeys:\n", "\u{feff}"] {
        assert_eq!(read(text).unwrap(), Config::default(), "{text:?}");
    }
}

#[test]
fn the_example_file_holds_the_defaults() {
    assert_eq!(read(EXAMPLE).unwrap(), Config::default());
}

/// Takes the mark off lines that are commented-out keys: no space follows it.
fn uncommented_example() -> String {
    let uncomment = |line: &str| match line.trim_start().strip_prefix('#') {
        Some(rest) if rest.starts_with(|first: char| first.is_ascii_lowercase()) => line.replacen('#', "", 1),
        _ => line.to_owned(),
    };
    EXAMPLE.lines().map(|line| uncomment(line) + "\n").collect()
}

#[test]
fn the_example_file_uncommented_is_refused_for_its_secrets_alone() {
    let mut text = uncommented_example();
    for (key, column, placeholder, good) in [
        ("keys.myapp.secret", 13, "replace-me-with-the-output-of-openssl-rand-hex-32", GOOD_SECRET),
        (
            "turn.credentials.secret",
            13,
            "replace-me-too-with-the-output-of-openssl-rand-hex-32",
            "7d20af9be27a4583b1c2",
        ),
        (
            "turn.credentials.previous_secret",
            22,
            "what-the-secret-was-before-it-was-replaced",
            "8e31b0acf38b5694c2d3",
        ),
    ] {
        assert_refused(
            read(&text),
            &format!(
                "switchyard.yaml:{}:{column}: `{key}`: this secret is well known; make one with `openssl rand -hex 32`",
                1 + text.lines().position(|line| line.contains(placeholder)).unwrap()
            ),
        );
        text = text.replace(placeholder, good);
    }
    let config = read(&text).unwrap();
    assert_eq!(config.mode, Some(Mode::Production));
    assert_eq!(config.keys["myapp"].secret.expose(), GOOD_SECRET.as_bytes());
}

#[test]
fn the_example_file_has_every_key() {
    let tree = source::merge(Some((Path::new("x"), &uncommented_example())), &[], &[]).unwrap();
    let defaults = serde_json::to_value(Config::default()).unwrap();
    let mut missing = Vec::new();
    missing_keys(&tree, "", &defaults, &mut missing);
    assert!(missing.is_empty(), "{missing:?}");
    missing_keys(&source::merge(None, &[], &[]).unwrap(), "", &defaults, &mut missing);
    assert!(missing.iter().any(|key| key == "turn.listen.udp_port"), "keys of inner sections count");
}

fn missing_keys(tree: &source::Node, path: &str, defaults: &serde_json::Value, missing: &mut Vec<String>) {
    for (key, value) in defaults.as_object().into_iter().flatten() {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        if tree.find(&path).is_none() {
            missing.push(path.clone());
        }
        missing_keys(tree, &path, value, missing);
    }
}

#[test]
fn each_key_of_the_example_is_explained_above_it() {
    let lines: Vec<_> = EXAMPLE.lines().collect();
    let second_of_a_pair = ["  signals_burst: 100", "  messages_burst: 2000", "  #myapp:"];
    for (index, line) in lines.iter().enumerate() {
        let is_setting =
            line.starts_with("  ") && line.contains(": ") && !line.trim_start().starts_with("# ");
        if is_setting && !second_of_a_pair.contains(line) && !line.trim_start().starts_with("#secret") {
            assert!(lines[index - 1].trim_start().starts_with("# "), "{line}");
        }
    }
}

#[test]
fn a_wrong_key_is_refused_with_its_place_and_what_is_allowed() {
    for (text, message) in [
        (
            "# my server\nhttp:\n  prot: 80\n",
            "switchyard.yaml:3:3: unknown key `http.prot`; did you mean `port`? \
             Allowed here: bind, port, allowed_origins",
        ),
        (
            "web:\n  port: 80\n",
            "switchyard.yaml:1:1: unknown key `web`; allowed here: mode, http, rtc, turn, features, rooms, limits, attempts, keys, store, \
             log, drain",
        ),
        (
            "drain: { time_out: 3s }\n",
            "switchyard.yaml:1:10: unknown key `drain.time_out`; did you mean `timeout`? Allowed here: timeout",
        ),
        (
            "mode: production\nkeys:\n  app:\n    secert: x\n",
            "switchyard.yaml:4:5: unknown key `keys.app.secert`; did you mean `secret`? Allowed here: secret",
        ),
    ] {
        assert_refused(read(text), message);
    }
}

#[test]
fn a_wrong_value_is_refused_with_its_place_what_is_allowed_and_the_default() {
    for (text, message) in [
        (
            "rtc:\n  udp_port: abc\n",
            "switchyard.yaml:2:13: `rtc.udp_port`: expected a port number 1–65535, or 0 for any free one, \
             got \"abc\"; default 7882",
        ),
        (
            "http:\n  port: 70000\n",
            "switchyard.yaml:2:9: `http.port`: expected a port number 1–65535, or 0 for any free one, \
             got \"70000\"; default 7880",
        ),
        (
            "http:\n  port:\n",
            "switchyard.yaml:2:7: `http.port`: expected a port number 1–65535, or 0 for any free one, got nothing; default 7880",
        ),
        (
            "http:\n  bind: localhost\n",
            "switchyard.yaml:2:9: `http.bind`: expected an IP address such as 192.0.2.7 or 2001:db8::7, \
             got \"localhost\"",
        ),
        (
            "http:\n  allowed_origins:\n    - https://a.example\n    - b.example\n",
            "switchyard.yaml:4:7: `http.allowed_origins`: expected an origin such as https://app.example.com \
             (no path), or *, got \"b.example\"; default none",
        ),
        (
            "http:\n  allowed_origins: https://a.example\n",
            "switchyard.yaml:2:20: `http.allowed_origins`: expected a list, got \"https://a.example\"; default none",
        ),
        (
            "rtc:\n  enabled: maybe\n",
            "switchyard.yaml:2:12: `rtc.enabled`: expected true or false, got \"maybe\"; default true",
        ),
        (
            "rtc:\n  max_peers: -1\n",
            "switchyard.yaml:2:14: `rtc.max_peers`: expected a whole number 0–4294967295, got \"-1\"; default 5000",
        ),
        (
            "rtc:\n  shards: [1, 2]\n",
            "switchyard.yaml:2:11: `rtc.shards`: expected a whole number 0–65535, got a list",
        ),
        (
            "rtc:\n  consent_timeout: 30\n",
            "switchyard.yaml:2:20: `rtc.consent_timeout`: expected a duration such as 500ms, 30s, 5m, 1h or 7d, \
             got \"30\"; default 30s",
        ),
        (
            "limits:\n  lossy_queue_bytes: 64KB\n",
            "switchyard.yaml:2:22: `limits.lossy_queue_bytes`: expected a size such as 65536, 64KiB or 1MiB, \
             got \"64KB\"; default 64KiB",
        ),
        (
            "log:\n  format: xml\n",
            "switchyard.yaml:2:11: `log.format`: expected text or json, got \"xml\"; default text",
        ),
        ("mode: prod\n", "switchyard.yaml:1:7: `mode`: expected development or production, got \"prod\""),
        ("http: 7880\n", "switchyard.yaml:1:7: `http`: expected a section of keys, got \"7880\""),
        ("mode: production\nkeys:\n  app: {}\n", "switchyard.yaml:3:8: `keys.app` lacks the key `secret`"),
        (
            "mode: production\nkeys:\n  App: { secret: hush }\n",
            "switchyard.yaml:3:3: `keys`: an API key has 1–64 of the characters a–z, 0–9, `-` and single `_`",
        ),
    ] {
        assert_refused(read(text), message);
    }
}

#[test]
fn what_is_not_plain_yaml_is_refused_with_its_place() {
    for (text, message) in [
        ("http:\n  port: 1\n  port: 2\n", "switchyard.yaml:3:3: `port` is given twice in this section"),
        (
            "mode: development\n---\nmode: production\n",
            "switchyard.yaml:2:1: a second YAML document begins here; one file holds one",
        ),
        ("http: &a\n  port: 1\n", "switchyard.yaml:1:7: anchors, aliases and tags are not understood here"),
        (
            "mode: !!str production\n",
            "switchyard.yaml:1:7: anchors, aliases and tags are not understood here",
        ),
        ("[[[[[[[[[[1]]]]]]]]]]\n", "switchyard.yaml:1:10: nested deeper than any setting"),
        ("[a, b]: c\n", "switchyard.yaml:1:1: expected a key"),
        ("- http\n", "switchyard.yaml:1:1: expected a section of keys, got a list"),
    ] {
        assert_refused(read(text), message);
    }
    let error = read("http:\n  port: [1\nrtc: }\n").unwrap_err().to_string();
    assert!(error.starts_with("switchyard.yaml:3:"), "{error}");
    assert!(error.contains("this is not YAML"), "{error}");
}

#[test]
fn a_value_out_of_range_or_at_odds_with_another_is_refused() {
    for (text, message) in [
        ("rtc:\n  shards: 0\n", "switchyard.yaml:2:11: `rtc.shards`: expected 1–64, got 0"),
        (
            "limits:\n  participants_per_room: 0\n",
            "switchyard.yaml:2:26: `limits.participants_per_room`: expected 1–100000, got 0; default 50",
        ),
        (
            "rtc:\n  consent_timeout: 1s\n",
            "switchyard.yaml:2:20: `rtc.consent_timeout`: expected a duration from 5s to 1h; default 30s",
        ),
        (
            "drain:\n  timeout: 1d\n",
            "switchyard.yaml:2:12: `drain.timeout`: expected a duration from 0s to 1h; default 5s",
        ),
        (
            "rtc:\n  shards: 4\n  udp_port: 65534\n",
            "switchyard.yaml:3:13: `rtc.udp_port`: 4 shards need the ports up to 65537, and 65535 is the last; \
             default 7882",
        ),
        ("http:\n  port: 7881\n", "`rtc.tcp_port`: this is the port of HTTP (`http.port`); default 7881"),
        (
            "rtc:\n  bind: []\n",
            "switchyard.yaml:2:9: `rtc.bind`: at least one address is needed while `rtc.enabled` is true; \
             default 0.0.0.0, ::",
        ),
        (
            "rtc:\n  advertise_addresses: [\"::\"]\n",
            "switchyard.yaml:2:24: `rtc.advertise_addresses`: :: is no address a client can reach; default none",
        ),
        (
            "attempts:\n  max_age: 10s\n",
            "switchyard.yaml:2:12: `attempts.max_age`: expected a duration from 1m to 720h; default 1d",
        ),
        (
            "limits:\n  max_message_bytes: 10\n",
            "switchyard.yaml:2:22: `limits.max_message_bytes`: expected 1024–16777216, got 10; default 256KiB",
        ),
        (
            "limits:\n  replay_limit_bytes: 128KiB\n",
            "switchyard.yaml:2:23: `limits.replay_limit_bytes`: a buffer smaller than one message \
             (`limits.max_message_bytes`) could replay none; default 1MiB",
        ),
        (
            "store:\n  path: \"\"\n",
            "switchyard.yaml:2:9: `store.path`: expected the name of a file; default data/switchyard.db",
        ),
        (
            "store:\n  url: mysql://root:hush@db/x\n",
            "switchyard.yaml:2:8: `store.url`: expected postgres://user:password@host/database",
        ),
        (
            "store:\n  url: postgres://ada:hush@db/x?colour=red\n",
            "switchyard.yaml:2:8: `store.url`: expected postgres://user:password@host/database",
        ),
        (
            "store:\n  url: postgres:///x\n",
            "switchyard.yaml:2:8: `store.url`: expected postgres://user:password@host/database, and no host is named",
        ),
        (
            "store:\n  url: postgres://ada:hush@db/x?sslmode=require\n",
            "switchyard.yaml:2:8: `store.url`: TLS to the database is not supported: put it on this machine or on a \
             private network, or a tunnel between (stunnel, WireGuard), and leave `sslmode=require` out",
        ),
        (
            "store:\n  retention:\n    max_age: 30s\n",
            "switchyard.yaml:3:14: `store.retention.max_age`: expected a duration of at least 1h",
        ),
        (
            "store:\n  retention:\n    max_events: 10\n",
            "switchyard.yaml:3:17: `store.retention.max_events`: expected 100–1099511627776, got 10",
        ),
        (
            "log:\n  filter: \"switchyard=loud\"\n",
            "switchyard.yaml:2:11: `log.filter`: expected off, error, warn, info, debug, trace, or directives \
             such as info,switchyard::room=debug; default info",
        ),
    ] {
        assert_refused(read(text), message);
    }
}

#[test]
fn production_refuses_missing_short_well_known_and_shared_secrets() {
    for (keys, message) in [
        (
            "",
            "production needs at least one API key: make one with `openssl rand -hex 32` and set it as \
             `keys.<name>.secret`, or as environment variable SWITCHYARD__KEYS__<NAME>__SECRET",
        ),
        (
            "keys: { app: { secret: \"\" } }",
            "switchyard.yaml:2:24: `keys.app.secret`: the secret is empty; make one with `openssl rand -hex 32`",
        ),
        (
            "keys: { app: { secret: DevSecret } }",
            "switchyard.yaml:2:24: `keys.app.secret`: this secret is well known; make one with `openssl rand -hex 32`",
        ),
        (
            "keys: { app: { secret: 6c1f0d9be27a4583b1c2d3e4f506172 } }",
            "switchyard.yaml:2:24: `keys.app.secret`: this secret has 31 bytes, and production asks for 32; \
             make one with `openssl rand -hex 32`",
        ),
        (
            "keys: { app: { secret: abababababababababababababababababab } }",
            "switchyard.yaml:2:24: `keys.app.secret`: this secret was not drawn at random; \
             make one with `openssl rand -hex 32`",
        ),
        (
            "keys: { a: { secret: 6c1f0d9be27a4583b1c2d3e4f5061728 }, b: { secret: 6c1f0d9be27a4583b1c2d3e4f5061728 } }",
            "switchyard.yaml:2:71: `keys.b.secret`: key `a` has the same secret, so either tenant could sign for \
             the other; make one with `openssl rand -hex 32`",
        ),
    ] {
        assert_refused(read(&format!("mode: production\n{keys}\n")), message);
    }
    let config = read(&format!("mode: production\nkeys: {{ app: {{ secret: {GOOD_SECRET} }} }}\n")).unwrap();
    assert_eq!(config.http_address(), "0.0.0.0:7880".parse::<std::net::SocketAddr>().unwrap());
}

#[test]
fn the_mode_has_to_be_stated_with_keys_or_beyond_loopback() {
    assert_refused(
        read("keys:\n  app:\n    secret: x\n"),
        "switchyard.yaml:2:3: `keys`: API keys are given, but the mode is not: add `mode: production`, or \
         `mode: development` to allow weak secrets and any web page",
    );
    assert_refused(
        read("http:\n  bind: 0.0.0.0\n"),
        "switchyard.yaml:2:9: `http.bind`: 0.0.0.0 lets other machines in, and no mode is given: add \
         `mode: production` and an API key, or `mode: development` if that is what you want",
    );
    assert!(read("http:\n  bind: ::1\n").is_ok());
    assert!(read("mode: development\nhttp:\n  bind: 0.0.0.0\nkeys:\n  app:\n    secret: x\n").is_ok());
}

#[test]
fn the_environment_overrides_the_file_and_flags_override_both() {
    let text = "http:\n  port: 1\nrtc:\n  udp_port: 2\n  tcp_port: 3\n";
    let config = Config::read(
        Some((Path::new("switchyard.yaml"), text)),
        &[
            ("SWITCHYARD__HTTP__PORT".into(), "10".into()),
            ("SWITCHYARD__RTC__UDP_PORT".into(), "20".into()),
            ("SWITCHYARD_PORT".into(), "tcp://10.0.0.1:7880".into()),
            ("PATH".into(), "/bin".into()),
        ],
        &[flag("--port", "http.port", "100")],
    )
    .unwrap();
    assert_eq!((config.http.port, config.rtc.udp_port, config.rtc.tcp_port), (100, 20, 3));
}

#[test]
fn the_environment_spells_lists_keys_and_sections_that_the_file_lacks() {
    let config = with_environment(
        "rtc:\n",
        &[
            ("SWITCHYARD__MODE", "production"),
            ("SWITCHYARD__KEYS__APP__SECRET", GOOD_SECRET),
            ("SWITCHYARD__RTC__ADVERTISE_ADDRESSES", "192.0.2.1, 2001:db8::1"),
            ("SWITCHYARD__HTTP__ALLOWED_ORIGINS", ""),
            ("SWITCHYARD__DRAIN__TIMEOUT", "1m"),
        ],
    )
    .unwrap();
    assert_eq!(config.rtc.advertise_addresses.len(), 2);
    assert_eq!(config.drain.timeout, Duration::from_secs(60));
    assert_eq!(config.keys["app"].secret.expose(), GOOD_SECRET.as_bytes());
}

#[test]
fn a_mistake_in_the_environment_or_a_flag_is_refused_by_its_name() {
    for (name, value, message) in [
        (
            "SWITCHYARD__HTTP__PROT",
            "80",
            "environment variable SWITCHYARD__HTTP__PROT: unknown key `http.prot`; did you mean `port`? \
             Allowed here: bind, port, allowed_origins",
        ),
        (
            "SWITCHYARD__RTC__BIND",
            "0.0.0.0,here",
            "environment variable SWITCHYARD__RTC__BIND: `rtc.bind`: expected an IP address such as 192.0.2.7 or \
             2001:db8::7, got \"here\"; default 0.0.0.0, ::",
        ),
        (
            "SWITCHYARD__LOG",
            "debug",
            "environment variable SWITCHYARD__LOG: `log`: expected a section of keys, got \"debug\"",
        ),
        (
            "SWITCHYARD__MODE__X",
            "y",
            "switchyard.yaml:1:7: a value stands here, but environment variable SWITCHYARD__MODE__X sets a key \
             beneath it",
        ),
    ] {
        assert_refused(with_environment("mode: development\n", &[(name, value)]), message);
    }
    assert_refused(
        Config::read(None, &[], &[flag("--port", "http.port", "abc")]),
        "--port: `http.port`: expected a port number 1–65535, or 0 for any free one, got \"abc\"; default 7880",
    );
}

#[test]
fn no_message_and_no_debug_output_shows_a_secret() {
    let config = read(
        "mode: development\nkeys: { app: { secret: hush-hush } }\nstore: { url: \"postgres://a:hush-hush@b/c\" }\n\
         turn: { credentials: { secret: hush-hush-hush-hush-hush }, external: { password: hush } }\n",
    )
    .unwrap();
    assert!(!format!("{config:?}").contains("hush"));
    assert!(!serde_json::to_string(&config).unwrap().contains("hush"));
    for text in [
        "mode: production\nkeys: { app: { secret: hush-hush } }\n",
        "mode: production\nkeys: { app: hush-hush }\n",
        "mode: production\nkeys: { app: { secret: [hush-hush] } }\n",
        "mode: production\nkeys: hush-hush\n",
        "store: { url: \"postgres://a:hush-hush@b:port/c\" }\n",
        "store: { url: [\"postgres://a:hush-hush@b/c\"] }\n",
        "turn: hush-hush\n",
        "turn: { credentials: hush-hush }\n",
        "turn: { credentials: { secret: hush-hush } }\n",
        "turn: { credentials: { secret: [hush-hush] } }\n",
        "turn: { credentials: { previous_secret: hush-hush } }\n",
        "turn: { external: hush-hush }\n",
        "turn: { external: { password: [hush-hush] } }\n",
        "turn: { mode: external, external: { urls: [\"turn:a\"], password: hush-hush } }\n",
    ] {
        assert!(!read(text).unwrap_err().to_string().contains("hush"), "{text}");
    }
}

#[test]
fn a_missing_file_is_named() {
    let sources = Sources { file: Some("/nowhere/switchyard.yaml".into()), ..Sources::default() };
    let error = Config::load(&sources).unwrap_err().to_string();
    assert!(error.starts_with("cannot read the configuration file /nowhere/switchyard.yaml: "), "{error}");
}

#[test]
fn the_environment_names_the_file_where_the_command_line_does_not() {
    let environment = vec![("SWITCHYARD_CONFIG".into(), "/nowhere/e.yaml".into())];
    let named = Sources { environment, ..Sources::default() };
    let error = Config::load(&named).unwrap_err().to_string();
    assert!(error.contains("/nowhere/e.yaml"), "{error}");
    let both = Sources { file: Some("/nowhere/f.yaml".into()), ..named };
    let error = Config::load(&both).unwrap_err().to_string();
    assert!(error.contains("/nowhere/f.yaml"), "{error}");
    let empty = vec![("SWITCHYARD_CONFIG".into(), "".into())];
    Config::load(&Sources { environment: empty, ..Sources::default() }).unwrap();
}

#[test]
fn pages_of_this_server_and_listed_ones_may_connect() {
    let text = format!(
        "mode: production\nkeys: {{ app: {{ secret: {GOOD_SECRET} }} }}\nhttp: {{ allowed_origins: [\"https://app.example\"] }}\n"
    );
    let config = read(&text).unwrap();
    let host = Some("live.example:7880");
    for (origin, allowed) in [
        (None, true),
        (Some("https://app.example"), true),
        (Some("https://APP.example"), true),
        (Some("https://live.example:7880"), true),
        (Some("https://live.example"), false),
        (Some("https://app.example.evil.example"), false),
        (Some("http://app.example"), false),
        (Some("null"), false),
        (Some(""), false),
    ] {
        assert_eq!(config.allows_origin(origin, host), allowed, "{origin:?}");
    }
    assert!(!config.allows_origin(Some("https://live.example"), None));
    let development = Config::default();
    assert!(development.allows_origin(Some("https://anywhere.example"), host));
}

#[test]
fn only_a_development_server_without_keys_makes_its_own() {
    let mut config = Config::default();
    assert!(config.add_development_key(&[0xab; 32]));
    assert_eq!(config.keys[DEVELOPMENT_KEY].secret.expose(), "ab".repeat(32).as_bytes());
    assert!(!config.add_development_key(&[1; 32]), "it has one now");
    let mut production = Config { mode: Some(Mode::Production), ..Config::default() };
    assert!(!production.add_development_key(&[1; 32]));
}
