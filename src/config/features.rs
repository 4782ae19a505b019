//! What is switched off, for the whole server and for rooms by their names.

use serde::{Deserialize, Deserializer, Serialize, de::Error};
use switchyard_signaling::{Features, limits};

/// A rule of section `rooms`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoomRule {
    /// The rooms that it is for, of any tenant. No default.
    #[serde(rename = "match")]
    pub pattern: RoomPattern,
    /// What is left on in them. Default: everything.
    #[serde(default, deserialize_with = "strict")]
    pub features: Features,
}

/// The name of a room, or how names begin: `lab-*`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct RoomPattern(String);

impl RoomPattern {
    /// Whether a room of this name is meant.
    #[must_use]
    pub fn matches(&self, room: &str) -> bool {
        match self.0.strip_suffix('*') {
            Some(prefix) => room.starts_with(prefix),
            None => room == self.0,
        }
    }

    /// Whether every room that `other` means is meant.
    pub(super) fn covers(&self, other: &Self) -> bool {
        match other.0.strip_suffix('*') {
            // A prefix means names without end, which one name does not cover.
            Some(prefix) => self.0.ends_with('*') && self.matches(prefix),
            None => self.matches(&other.0),
        }
    }

    /// As it was written.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for RoomPattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let name = text.strip_suffix('*').unwrap_or(&text);
        let is_name = name.len() <= limits::ROOM_NAME_BYTES
            && !name.contains('*')
            && !name.chars().any(char::is_control);
        if text.is_empty() || !is_name {
            return Err(D::Error::custom(format!(
                "expected the name of a room (1–{} bytes, no control characters), or the beginning of names with one * \
                 at its end",
                limits::ROOM_NAME_BYTES
            )));
        }
        Ok(Self(text))
    }
}

/// For `deserialize_with`: where an operator writes, a name that is not known is a mistake. This is what a rule leaves on.
pub(super) fn strict<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Features, D::Error> {
    Said::deserialize(deserializer).map(|said| said.over(Features::default()))
}

/// As [`strict`], for the whole server.
pub(super) fn strict_server<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Features, D::Error> {
    Said::deserialize(deserializer).map(|said| said.over(Features::UNASKED))
}

/// What is written of features.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Said {
    webrtc: Option<bool>,
    relay: Option<bool>,
    p2p: Option<bool>,
    tentative: Option<bool>,
}

impl Said {
    fn over(&self, unsaid: Features) -> Features {
        Features {
            webrtc: self.webrtc.unwrap_or(unsaid.webrtc),
            relay: self.relay.unwrap_or(unsaid.relay),
            p2p: self.p2p.unwrap_or(unsaid.p2p),
            tentative: self.tentative.unwrap_or(unsaid.tentative),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> RoomPattern {
        serde_json::from_value(text.into()).unwrap()
    }

    #[test]
    fn a_name_means_one_room_and_a_prefix_all_that_begin_so() {
        for (text, room, matches) in [
            ("lab", "lab", true),
            ("lab", "lab-1", false),
            ("lab-*", "lab-1", true),
            ("lab-*", "lab-", true),
            ("lab-*", "lab", false),
            ("lab-*", "my lab-1", false),
            ("*", "anything", true),
        ] {
            assert_eq!(pattern(text).matches(room), matches, "{text} {room}");
        }
    }

    #[test]
    fn a_pattern_covers_those_that_mean_no_other_rooms() {
        for (one, other, covers) in [
            ("*", "lab-*", true),
            ("*", "*", true),
            ("lab-*", "lab-1*", true),
            ("lab-*", "lab-1", true),
            ("lab-*", "lab*", false),
            ("lab-*", "lab", false),
            ("lab", "lab", true),
            ("lab", "lab*", false),
        ] {
            assert_eq!(pattern(one).covers(&pattern(other)), covers, "{one} {other}");
        }
    }
}
