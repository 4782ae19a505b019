//! What is switched off, and for whom.

use super::*;

const RULES: &str = "features: { relay: false }
rooms:
  - match: lab-public
  - match: lab-*
    features:
      webrtc: false
";

#[test]
fn everything_is_on_until_somebody_switches_it_off() {
    assert_eq!(Config::default().features_of("lab"), Features::UNASKED);
    for text in ["features:\n", "features: {}\n", "rooms:\n", "rooms: []\n", "features: { webrtc: true }\n"] {
        assert_eq!(read(text).unwrap(), Config::default(), "{text:?}");
    }
}

#[test]
fn the_first_rule_that_matches_decides_and_only_takes_away() {
    let config = read(RULES).unwrap();
    let of = |webrtc, relay| Features { webrtc, relay, ..Features::UNASKED };
    assert_eq!(config.features_of("hall"), of(true, false));
    assert_eq!(config.features_of("lab-public"), of(true, false), "the exception stands first");
    assert_eq!(config.features_of("lab-7"), of(false, false));
    let generous =
        read("features: { webrtc: false }\nrooms: [{ match: lab, features: { webrtc: true } }]\n").unwrap();
    assert_eq!(generous.features_of("lab"), of(false, true));
}

#[test]
fn copies_of_events_are_off_until_the_server_has_them_on_and_rules_can_switch_them_off_again() {
    let asked =
        read("features: { tentative: true }\nrooms: [{ match: lab, features: { tentative: false } }]\n")
            .unwrap();
    assert!(asked.features_of("hall").is_all());
    assert_eq!(asked.features_of("lab"), Features::UNASKED);
    let ruled = read("rooms: [{ match: lab, features: { tentative: true } }]\n").unwrap();
    assert_eq!(ruled.features_of("lab"), Features::UNASKED, "a rule switches nothing on");
    let config = with_environment("", &[("SWITCHYARD__FEATURES__TENTATIVE", "true")]).unwrap();
    assert!(config.features.is_all());
}

#[test]
fn one_environment_variable_rolls_back_to_the_websocket() {
    for (text, relay) in [("", true), (RULES, false)] {
        let config = with_environment(text, &[("SWITCHYARD__FEATURES__WEBRTC", "false")]).unwrap();
        assert_eq!(config.features, Features { webrtc: false, relay, ..Features::UNASKED });
        assert!(config.rtc.enabled, "the sockets are another matter");
    }
}

#[test]
fn mistakes_are_refused_with_their_place_and_what_is_allowed() {
    for (text, message) in [
        (
            "features:\n  webtrc: false\n",
            "switchyard.yaml:2:3: unknown key `features.webtrc`; did you mean `webrtc`? Allowed here: webrtc, relay, p2p, \
             tentative",
        ),
        (
            "features:\n  relay: no\n",
            "switchyard.yaml:2:10: `features.relay`: expected true or false, got \"no\"; default true",
        ),
        ("features: off\n", "switchyard.yaml:1:11: `features`: expected a section of keys, got \"off\""),
        (
            "rooms:\n  - lab\n",
            "switchyard.yaml:2:5: `rooms`: expected a section of keys, got \"lab\"; default none",
        ),
        ("rooms:\n  - features: {}\n", "switchyard.yaml:2:5: `rooms` lacks the key `match`"),
        (
            "rooms:\n  - match: lab\n    feature: {}\n",
            "switchyard.yaml:3:5: unknown key `rooms.feature`; did you mean `features`? Allowed here: match, features",
        ),
        (
            "rooms:\n  - match: a\n  - match: lab\n    features: { sfu: false }\n",
            "switchyard.yaml:4:17: unknown key `rooms.features.sfu`; allowed here: webrtc, relay, p2p, tentative",
        ),
        (
            "rooms:\n  - match: \"*-lab\"\n",
            "switchyard.yaml:2:12: `rooms.match`: expected the name of a room (1–128 bytes, no control characters), or \
             the beginning of names with one * at its end, got \"*-lab\"",
        ),
        (
            "rooms:\n  - match: lab-*\n  - match: lab-7\n    features: { relay: false }\n",
            "switchyard.yaml:3:5: `rooms`: the rule for `lab-7` is never used, because the one for `lab-*` stands before \
             it and the first that matches decides",
        ),
    ] {
        assert_refused(read(text), message);
    }
    for pattern in ["\"\"", "lab-**", "\"a\\tb\"", &"x".repeat(129)] {
        let error = read(&format!("rooms: [{{ match: {pattern} }}]\n")).unwrap_err().to_string();
        assert!(error.contains("expected the name of a room"), "{pattern}: {error}");
    }
    assert_refused(
        with_environment("", &[("SWITCHYARD__ROOMS", "lab")]),
        "environment variable SWITCHYARD__ROOMS: `rooms`: expected a section of keys, got \"lab\"; default none",
    );
}
