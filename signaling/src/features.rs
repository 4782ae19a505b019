//! What can be switched off: for a server, for a room, by a token (`docs/protocol.md`, section 2.2).

use serde::{Deserialize, Serialize};

/// What is on. Everything is, where nobody has switched it off; a name that is not known here is ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Features {
    /// Data channels to the server. Without them everything goes over the WebSocket.
    pub webrtc: bool,
    /// Being told STUN and TURN servers.
    pub relay: bool,
    /// Connections between members. The server only says so: it does not look into the signals that make them.
    pub p2p: bool,
    /// Signed copies of events from member to member, ahead of the log. A server has them off unless it is asked for them.
    pub tentative: bool,
}

impl Default for Features {
    fn default() -> Self {
        Self { webrtc: true, relay: true, p2p: true, tentative: true }
    }
}

impl Features {
    /// What a server has on that says nothing of it.
    pub const UNASKED: Self = Self { webrtc: true, relay: true, p2p: true, tentative: false };

    /// What both leave on.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            webrtc: self.webrtc && other.webrtc,
            relay: self.relay && other.relay,
            p2p: self.p2p && other.p2p,
            tentative: self.tentative && other.tentative,
        }
    }

    /// Whether copies may be sent: they go over connections between members, for which `webrtc` has to be on too.
    #[must_use]
    pub fn lets_copies(self) -> bool {
        self.tentative && self.p2p && self.webrtc
    }

    /// Whether nothing is switched off.
    #[must_use]
    pub fn is_all(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_either_switches_off_is_off_and_nothing_else_is() {
        let of = |webrtc, relay, p2p| Features { webrtc, relay, p2p, tentative: true };
        assert_eq!(of(true, false, true).and(of(false, true, true)), of(false, false, true));
        assert_eq!(of(true, false, true).and(of(true, true, false)), of(true, false, false));
        assert_eq!(of(true, false, true).and(Features::default()), of(true, false, true));
        assert_eq!(Features::default().and(of(false, true, true)), of(false, true, true));
        assert!(Features::default().and(Features::default()).is_all());
        assert_eq!(Features::UNASKED.and(Features::default()), Features::UNASKED);
    }

    #[test]
    fn copies_need_connections_between_members() {
        let on = Features::default();
        assert!(on.lets_copies());
        for off in [
            Features { tentative: false, ..on },
            Features { p2p: false, ..on },
            Features { webrtc: false, ..on },
        ] {
            assert!(!off.lets_copies(), "{off:?}");
        }
    }

    #[test]
    fn what_is_not_said_is_on_and_what_is_not_known_is_ignored() {
        let features: Features = serde_json::from_str(r#"{"webrtc":false,"telepathy":true}"#).unwrap();
        assert_eq!(features, Features { webrtc: false, ..Features::default() });
        assert_eq!(
            serde_json::to_string(&features).unwrap(),
            r#"{"webrtc":false,"relay":true,"p2p":true,"tentative":true}"#
        );
        assert!(serde_json::from_str::<Features>(r#"{"webrtc":"no"}"#).is_err());
    }
}
