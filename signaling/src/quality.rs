//! What a client tells of its connection, and what the others in its rooms are told of it (`docs/protocol.md`, section 2.4).

use serde::{Deserialize, Serialize};

use crate::attempt::Rung;

/// How good a connection is; `client/src/quality.js` says by which measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Score {
    /// Everything goes well over it.
    Excellent,
    /// Everything goes over it.
    Good,
    /// What is large or must be quick does not.
    Poor,
    /// Nothing does.
    Lost,
}

impl Score {
    /// Every one, in order.
    pub const ALL: &[Self] = &[Self::Excellent, Self::Good, Self::Poor, Self::Lost];

    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Excellent => "excellent",
            Self::Good => "good",
            Self::Poor => "poor",
            Self::Lost => "lost",
        }
    }
}

/// What a client has measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quality {
    /// All in all.
    pub score: Score,
    /// What it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rung: Option<Rung>,
    /// Round trip, smoothed, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtt_ms: Option<u32>,
    /// How much that varies, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jitter_ms: Option<u32>,
    /// What is lost, or comes late, of a thousand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_permille: Option<u16>,
    /// How long what is to be sent waits in the browser, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue_ms: Option<u32>,
    /// Bits a second that the browser believes it can send.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bitrate: Option<u64>,
    /// How it reaches the members of its rooms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pairs: Option<Pairs>,
    /// Lossy messages that it has sent past the server since it told last, each receiver counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direct_messages: Option<u32>,
}

/// How many members of its rooms a client reaches by which way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pairs {
    /// By a connection of the two.
    #[serde(default)]
    pub direct: u16,
    /// By such a connection over a TURN relay.
    #[serde(default)]
    pub relay: u16,
    /// Through the server.
    #[serde(default)]
    pub server: u16,
}

impl Pairs {
    /// The ways, as [`Self::counts`] gives them.
    pub const WAYS: [&str; 3] = ["direct", "relay", "server"];

    /// In the order of [`Self::WAYS`].
    pub fn counts(self) -> [u16; 3] {
        [self.direct, self.relay, self.server]
    }
}

/// What others are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// All in all.
    pub score: Score,
    /// What it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rung: Option<Rung>,
}

impl From<Quality> for Seen {
    fn from(Quality { score, rung, .. }: Quality) -> Self {
        Self { score, rung }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_the_words_of_the_client_and_no_others() {
        for score in Score::ALL {
            let json = serde_json::to_string(score).unwrap();
            assert_eq!(json, format!("\"{}\"", score.as_str()));
            assert_eq!(serde_json::from_str::<Score>(&json).unwrap(), *score);
        }
        assert!(serde_json::from_str::<Score>("\"splendid\"").is_err());
    }
}
