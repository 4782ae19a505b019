//! What a client tells of an attempt to connect (`docs/protocol.md`, section 2.3), and the words that it is told in. They
//! are a closed list, so that they can be counted; one that is not in it becomes `other`.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// An enum of words, the last of which stands for every other.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident {
        $($(#[$word_doc:meta])* $word:ident = $text:literal,)+
    }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(from = "String", into = "&'static str")]
        pub enum $name {
            $($(#[$word_doc])* $word,)+
            /// One that is not known here.
            Other,
        }

        impl $name {
            /// Every one, in order.
            pub const ALL: &[Self] = &[$(Self::$word,)+ Self::Other];

            /// As it is written.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$word => $text,)+
                    Self::Other => "other",
                }
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                match text {
                    $($text => Self::$word,)+
                    _ => Self::Other,
                }
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                text.as_str().into()
            }
        }

        impl From<$name> for &'static str {
            fn from(word: $name) -> Self {
                word.as_str()
            }
        }
    };
}

words! {
    /// What an attempt came to. The words are those of `client/src/diagnosis.js`, which finds them, and of the table in
    /// `docs/operating.md`; a test keeps the three equal.
    Verdict {
        /// Data goes over what was wanted.
        Connected = "connected",
        /// Too early to tell.
        Trying = "trying",
        /// Checks over UDP are not answered, from nowhere.
        UdpBlocked = "udp_blocked",
        /// Checks of the server's own UDP port are not answered, those of a relay are.
        PortBlocked = "port_blocked",
        /// No TURN server answers.
        RelayUnreachable = "relay_unreachable",
        /// The TURN server refuses.
        RelayRefused = "relay_refused",
        /// Only relays are wanted, and there is none.
        NoRelay = "no_relay",
        /// The server does not answer, through a relay either.
        NoPath = "no_path",
        /// The browser has no address to connect from.
        NoCandidates = "no_candidates",
        /// The server has not answered the offer.
        NoAnswer = "no_answer",
        /// Checks are answered, DTLS does not end.
        DtlsFailed = "dtls_failed",
        /// DTLS succeeds, the data channel does not open.
        ChannelFailed = "channel_failed",
        /// A data channel that worked has ended.
        PathLost = "path_lost",
        /// The server takes no offer.
        WebrtcRefused = "webrtc_refused",
        /// The operator has switched it off.
        SwitchedOff = "switched_off",
        /// The browser has no WebRTC, or forbids it.
        NoWebrtc = "no_webrtc",
        /// The server answers, and the WebSocket is refused.
        WebsocketRefused = "websocket_refused",
        /// A WebSocket that worked has ended.
        WebsocketLost = "websocket_lost",
        /// Nothing answers at the server's address.
        ServerUnreachable = "server_unreachable",
        /// The device has no network.
        Offline = "offline",
        /// The page or the server wanted it no more.
        Abandoned = "abandoned",
        /// Nothing says why.
        Unknown = "unknown",
    }
}

words! {
    /// A way through the network.
    Rung {
        /// A data channel over UDP.
        Udp = "udp",
        /// A data channel over ICE-TCP.
        Tcp = "tcp",
        /// A data channel over a TURN relay.
        Relay = "relay",
        /// The WebSocket.
        WebSocket = "websocket",
    }
}

/// What was attempted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum By {
    /// A WebSocket.
    WebSocket,
    /// A peer connection with its ICE restarts.
    WebRtc,
}

impl By {
    /// Every one, in order.
    pub const ALL: &[Self] = &[Self::WebSocket, Self::WebRtc];

    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::WebSocket => "websocket",
            Self::WebRtc => "webrtc",
        }
    }
}

/// An attempt that has connected, or has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// The client's number for it, from 1.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub n: u32,
    /// What was attempted.
    pub by: By,
    /// What it came to.
    pub verdict: Verdict,
    /// For people, with the evidence. At most [`SENTENCE_BYTES`](crate::limits::SENTENCE_BYTES).
    pub sentence: String,
    /// Milliseconds since 1970, by the client's clock.
    pub began: u64,
    /// Milliseconds from the beginning until data could be carried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connected_ms: Option<u64>,
    /// Milliseconds from the beginning to the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_ms: Option<u64>,
    /// Why it ended. At most [`CAUSE_BYTES`](crate::limits::CAUSE_BYTES).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// What was reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rung: Option<Rung>,
    /// The peer connection's number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pc: Option<u32>,
    /// Whatever else is known of it. At most [`DETAILS_BYTES`](crate::limits::DETAILS_BYTES).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<Map<String, Value>>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_survives_the_wire_and_an_unknown_one_is_other() {
        for verdict in Verdict::ALL {
            let json = serde_json::to_string(verdict).unwrap();
            assert_eq!(json, format!("\"{}\"", verdict.as_str()));
            assert_eq!(serde_json::from_str::<Verdict>(&json).unwrap(), *verdict);
        }
        assert_eq!(serde_json::from_str::<Verdict>("\"cosmic_rays\"").unwrap(), Verdict::Other);
        assert!(serde_json::from_str::<Verdict>("7").is_err());
        for by in By::ALL {
            assert_eq!(serde_json::to_string(by).unwrap(), format!("\"{}\"", by.as_str()));
        }
    }
}
