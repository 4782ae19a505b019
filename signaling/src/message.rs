//! The JSON messages: text messages of the WebSocket ([`ClientText`], [`ServerText`]), which concern a session and
//! its pipes, and control messages of the reliable lane ([`ClientControl`], [`ServerControl`]), which concern rooms.
//!
//! These are shapes only. What a message may do is decided where it arrives: the server's `src/http/connect.rs` and
//! `src/room/`.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    attempt::Attempt,
    code::Code,
    event::{Origin, Position},
    features::Features,
    limits,
    limits::Limits,
    quality::{self, Quality},
};

/// A text message from a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ClientText {
    /// First message of a WebSocket.
    Hello {
        /// Protocol version, [`limits::VERSION`].
        v: u32,
        /// Free text that names the client, for logs.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        client: Option<String>,
        /// The session that this WebSocket is to serve.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        resume: Option<Resume>,
    },
    /// Join a room, or refresh the token of one.
    Join {
        /// Chosen by the client, named in the answer.
        id: u32,
        /// The room's name.
        room: String,
        /// A JWT.
        token: String,
        /// The first offer, bound to the join.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        offer: Option<Description>,
        /// The room's log is wanted, from here.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        follow: Option<Follow>,
        /// The public key with which the client signs copies of its events, base64url.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signing_key: Option<String>,
    },
    /// Offer for a new peer connection, a renegotiation or an ICE restart.
    Offer(Description),
    /// Trickled candidate; empty at the end of candidates.
    Candidate {
        /// The peer connection's number.
        pc: u32,
        /// The candidate's attribute value (RFC 8839 §5.1).
        candidate: String,
    },
    /// Round-trip probe.
    Ping {
        /// Echoed.
        t: u64,
    },
    /// Fresh credentials for STUN and TURN are wanted.
    IceServers {},
    /// What became of an attempt to connect.
    Attempt(Box<Attempt>),
    /// How good the connection is.
    Quality(Quality),
    /// Whether others (tabs of the same browser) would go on with the session if this page went away.
    Keep {
        /// Whether there are any.
        on: bool,
    },
    /// The session ends now.
    Bye,
}

/// From where the log is wanted: `{}` by a new reader, else the members of its position.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Follow {
    /// Behind this event.
    From(Position),
    /// With a snapshot.
    #[default]
    #[serde(with = "empty")]
    New,
}

/// An object without members; those that it has are ignored.
mod empty {
    use serde::{Deserialize as _, Deserializer, Serializer, de::IgnoredAny, ser::SerializeMap as _};

    pub(super) fn serialize<S: Serializer>(serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_map(Some(0))?.end()
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<(), D::Error> {
        std::collections::BTreeMap::<String, IgnoredAny>::deserialize(deserializer).map(|_| ())
    }
}

/// What a room tells a new follower of its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Log {
    /// For a new writer.
    pub origin: Origin,
}

/// An SDP for a peer connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// The peer connection's number, chosen by the client.
    pub pc: u32,
    /// The SDP (RFC 8866).
    pub sdp: String,
}

/// The session to resume and the proof of owning it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resume {
    /// As in [`ServerText::Session`].
    pub session: String,
    /// The newest of [`ServerText::Session`] and [`ServerControl::Ticket`].
    pub ticket: String,
    /// Whether another page goes on with the session: what is still under way on the pipes of the last one is void.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub takes_over: bool,
}

/// A text message from the server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ServerText {
    /// Answer to `hello`.
    Welcome {
        /// Protocol version.
        v: u32,
        /// Whether the session was found.
        resumed: bool,
        /// What the operator set.
        limits: Limits,
        /// How often the client should ping, in milliseconds.
        ping_interval_ms: u64,
        /// For a session that goes on, if there are servers.
        #[serde(flatten, skip_serializing_if = "Option::is_none")]
        ice: Option<Ice>,
        /// What is on, for a session that goes on.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        features: Option<Features>,
        /// What the server has received on the reliable lane of a session that goes on: where the client goes on.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ack: Option<u32>,
    },
    /// The session that the first join made.
    Session {
        /// Names the session.
        session: String,
        /// Proves ownership when resuming, until a [`ServerControl::Ticket`] takes its place.
        ticket: String,
        /// If there are servers.
        #[serde(flatten, skip_serializing_if = "Option::is_none")]
        ice: Option<Ice>,
        /// What is on.
        #[serde(default)]
        features: Features,
    },
    /// A later join has taken something away.
    Features {
        /// What is left.
        features: Features,
    },
    /// Answer to [`ClientText::IceServers`]. Empty if there are none.
    IceServers(Ice),
    /// Answer to an offer.
    Answer(Description),
    /// A new offer is wanted.
    Renegotiate {
        /// What it should carry: `data`.
        wanted: Vec<String>,
        /// Why.
        reason: Code,
    },
    /// Answer to a ping.
    Pong {
        /// As in the ping.
        t: u64,
    },
    /// A refusal.
    Error(Refusal),
    /// The server is shutting down.
    Draining {
        /// Reconnect after a random part of this time, in milliseconds.
        retry_after_ms: u64,
    },
}

/// STUN and TURN servers, and how long their credentials are good for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ice {
    /// In the order in which they are worth trying.
    pub ice_servers: Vec<IceServer>,
    /// From now, in milliseconds.
    pub ice_ttl_ms: u64,
}

/// A server as browsers take it (`RTCIceServer` of the W3C).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IceServer {
    /// Where it is, several ways to one server.
    pub urls: Vec<String>,
    /// For TURN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// For TURN: the password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<String>,
}

/// A refusal with its stable code and a sentence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The request refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u32>,
    /// Stable.
    pub code: Code,
    /// For people.
    pub message: String,
    /// When to try again, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// Whether the connection closes.
    #[serde(default)]
    pub fatal: bool,
}

impl Refusal {
    /// A refusal after which the connection lives on.
    pub fn new(id: Option<u32>, code: Code, message: impl Into<String>) -> Self {
        Self { id, code, message: message.into(), retry_after_ms: None, fatal: false }
    }

    /// The same, closing the connection.
    pub fn fatal(mut self) -> Self {
        self.fatal = true;
        self
    }
}

/// One session in one room, as others see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Unique in the room, never used again.
    pub member: u32,
    /// The token's `sub`.
    pub user: String,
    /// Display name.
    pub name: String,
    /// viewer, commenter, editor, admin.
    pub role: String,
    /// Whether the member may send data. Who is connected to it directly takes none where the server would not.
    #[serde(default = "yes", skip_serializing_if = "Clone::clone")]
    pub write: bool,
    /// How good its connection is, once that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quality: Option<quality::Seen>,
    /// The public keys of its tabs, certified when they joined.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub signing_keys: Vec<String>,
}

fn yes() -> bool {
    true
}

/// A control message from the server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ServerControl {
    /// The join succeeded.
    Joined {
        /// The request.
        id: u32,
        /// The room's name.
        room: String,
        /// Names the room in frames of this session.
        handle: u16,
        /// One's own number.
        member: u32,
        /// One's own user id.
        user: String,
        /// One's own display name.
        name: String,
        /// One's role.
        role: String,
        /// What one may do.
        permissions: Vec<String>,
        /// Topics subscribed to.
        topics: Vec<String>,
        /// The others.
        members: Vec<Member>,
        /// If the log was wanted.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        log: Option<Log>,
    },
    /// A writer may begin.
    Writer {
        /// The request.
        id: u32,
        /// With which it writes.
        origin: Origin,
        /// The submission that is expected next.
        next: u32,
    },
    /// Topics were added or removed.
    Subscribed {
        /// The request.
        id: u32,
        /// All that the member has now.
        topics: Vec<String>,
    },
    /// No longer in the room.
    Left {
        /// Why.
        reason: Code,
    },
    /// Someone came.
    MemberJoined {
        /// Who.
        member: Member,
    },
    /// Someone went.
    MemberLeft {
        /// Who.
        member: u32,
        /// Why.
        reason: Code,
    },
    /// A member's connection is another.
    Quality {
        /// Whose.
        member: u32,
        /// How good it is.
        #[serde(flatten)]
        quality: quality::Seen,
    },
    /// The session's next resume ticket; of no room (handle 0). The acknowledgement of its frame consumes the last one.
    Ticket {
        /// Proves ownership when resuming.
        ticket: String,
    },
    /// A signal from a user of the room.
    Signal {
        /// The sender's member number, stamped by the server.
        from: u32,
        /// The sender's user id, stamped by the server.
        user: String,
        /// Whatever the sender gave.
        data: Value,
    },
    /// A request or message was refused in this room.
    Refused {
        /// The request.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<u32>,
        /// The stream of the message refused.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stream: Option<u16>,
        /// Stable.
        code: Code,
        /// For people.
        message: String,
        /// When to try again, in milliseconds.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_after_ms: Option<u64>,
    },
}

/// A control message from a client.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ClientControl {
    /// Leave the room.
    Leave {
        /// Chosen by the client.
        id: u32,
    },
    /// Add topics.
    Subscribe {
        /// Chosen by the client.
        id: u32,
        /// 1–64 bytes each.
        topics: Vec<String>,
    },
    /// Remove topics.
    Unsubscribe {
        /// Chosen by the client.
        id: u32,
        /// 1–64 bytes each.
        topics: Vec<String>,
    },
    /// Signal to a user or a member of the room.
    Signal {
        /// Chosen by the client.
        id: u32,
        /// All sessions of this user in the room.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        to: Option<String>,
        /// This member alone.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        to_member: Option<u32>,
        /// At most [`limits::SIGNAL_BYTES`].
        data: Value,
    },
    /// Begins to write with an origin of before, or with a fresh one.
    Writer {
        /// Chosen by the client.
        id: u32,
        /// The origin of before.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        origin: Option<Origin>,
        /// The first submission of it that has no answer.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        base: Option<u32>,
    },
    /// The events behind this one are wanted.
    Pull {
        /// Chosen by the client.
        id: u32,
        /// The last event that the reader has.
        after: u64,
    },
    /// A page of messages is wanted.
    History {
        /// Chosen by the client.
        id: u32,
        /// Those before this `seq`; the newest if absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        before: Option<u64>,
        /// At most so many.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        limit: Option<usize>,
        /// Those of one thread.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        parent: Option<u64>,
    },
    /// A span of the log is wanted, beside what is live.
    Replay {
        /// Chosen by the client.
        id: u32,
        /// The first event.
        from: u64,
        /// The last; the end of the log if absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        to: Option<u64>,
    },
}

/// Why a text could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum ParseError {
    /// Above its limit.
    #[error("{what} has {len} bytes; at most {limit} are allowed")]
    TooLarge {
        /// The field.
        what: &'static str,
        /// Its length in bytes.
        len: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// Not JSON, or not a message.
    #[error("{0}")]
    Malformed(#[from] serde_json::Error),
}

impl ParseError {
    /// The stable code.
    pub fn code(&self) -> Code {
        match self {
            Self::TooLarge { .. } => Code::TooLarge,
            Self::Malformed(_) => Code::Malformed,
        }
    }
}

impl ClientText {
    /// Parses a text message and checks the sizes of its fields.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        at_most("message", text.len(), limits::TEXT_BYTES)?;
        let message = serde_json::from_str(text)?;
        match &message {
            Self::Hello { client, .. } => {
                at_most("client", client.as_ref().map_or(0, String::len), limits::USER_BYTES)?;
            }
            Self::Join { token, offer, .. } => {
                at_most("token", token.len(), limits::TOKEN_BYTES)?;
                at_most("sdp", offer.as_ref().map_or(0, |offer| offer.sdp.len()), limits::SDP_BYTES)?;
            }
            Self::Offer(offer) => at_most("sdp", offer.sdp.len(), limits::SDP_BYTES)?,
            Self::Candidate { candidate, .. } => {
                at_most("candidate", candidate.len(), limits::CANDIDATE_BYTES)?;
            }
            Self::Attempt(attempt) => {
                at_most("sentence", attempt.sentence.len(), limits::SENTENCE_BYTES)?;
                at_most("cause", attempt.cause.as_ref().map_or(0, String::len), limits::CAUSE_BYTES)?;
                let details = attempt.details.as_ref().map_or(0, |details| to_json(details).len());
                at_most("details", details, limits::DETAILS_BYTES)?;
            }
            Self::Ping { .. } | Self::IceServers {} | Self::Keep { .. } | Self::Quality(_) | Self::Bye => {}
        }
        Ok(message)
    }
}

impl ClientControl {
    /// The request's number.
    pub fn id(&self) -> u32 {
        match self {
            Self::Leave { id }
            | Self::Subscribe { id, .. }
            | Self::Unsubscribe { id, .. }
            | Self::Signal { id, .. }
            | Self::Writer { id, .. }
            | Self::Pull { id, .. }
            | Self::History { id, .. }
            | Self::Replay { id, .. } => *id,
        }
    }

    /// Parses a control message and checks the size of a signal's data.
    pub fn parse(json: &[u8]) -> Result<Self, ParseError> {
        at_most("control message", json.len(), limits::CONTROL_BYTES)?;
        let message = serde_json::from_slice(json)?;
        if let Self::Signal { data, .. } = &message {
            at_most("data", to_json(data).len(), limits::SIGNAL_BYTES)?;
        }
        Ok(message)
    }
}

/// The message as JSON.
pub fn to_json<T: Serialize>(message: &T) -> String {
    serde_json::to_string(message).expect("messages have string keys and no failing serialisers")
}

fn at_most(what: &'static str, len: usize, limit: usize) -> Result<(), ParseError> {
    if len > limit { Err(ParseError::TooLarge { what, len, limit }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attempt::Verdict;

    #[test]
    fn a_join_with_an_offer_parses_and_unknown_fields_are_ignored() {
        let text =
            r#"{"type":"join","id":7,"room":"r","token":"t","offer":{"pc":1,"sdp":"v=0"},"later":true}"#;
        let expected = ClientText::Join {
            id: 7,
            room: "r".into(),
            token: "t".into(),
            offer: Some(Description { pc: 1, sdp: "v=0".into() }),
            follow: None,
            signing_key: None,
        };
        assert_eq!(ClientText::parse(text).unwrap(), expected);
    }

    #[test]
    fn a_join_follows_the_log_from_the_beginning_or_from_a_position() {
        let follow = |json: &str| {
            let text = format!(r#"{{"type":"join","id":7,"room":"r","token":"t","follow":{json}}}"#);
            match ClientText::parse(&text) {
                Ok(ClientText::Join { follow, .. }) => follow,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(follow("{}"), Some(Follow::New));
        let json = r#"{"epoch":1,"seq":5,"digest":"00000000000000ff","proof":"ffffffffffffffff"}"#;
        let position = Position { epoch: 1, seq: 5, digest: 255, proof: u64::MAX };
        assert_eq!(follow(json), Some(Follow::From(position)));
        assert_eq!(to_json(&Follow::From(position)), json);
        assert_eq!(to_json(&Follow::New), "{}");
    }

    #[test]
    fn ice_servers_stand_in_a_message_as_browsers_take_them() {
        let server = IceServer {
            urls: vec!["turn:a".into()],
            username: Some("1:ada".into()),
            credential: Some("x".into()),
        };
        let ice = Ice { ice_servers: vec![server], ice_ttl_ms: 1000 };
        let list =
            r#""ice_servers":[{"urls":["turn:a"],"username":"1:ada","credential":"x"}],"ice_ttl_ms":1000"#;
        let features = Features::default();
        let session = |ice| ServerText::Session { session: "s".into(), ticket: "k".into(), ice, features };
        let on = r#""features":{"webrtc":true,"relay":true,"p2p":true,"tentative":true}"#;
        for (message, json) in [
            (session(None), format!(r#"{{"type":"session","session":"s","ticket":"k",{on}}}"#)),
            (
                session(Some(ice.clone())),
                format!(r#"{{"type":"session","session":"s","ticket":"k",{list},{on}}}"#),
            ),
            (ServerText::IceServers(ice), format!(r#"{{"type":"ice_servers",{list}}}"#)),
        ] {
            assert_eq!(to_json(&message), json);
            assert_eq!(serde_json::from_str::<ServerText>(&json).unwrap(), message);
        }
        assert_eq!(ClientText::parse(r#"{"type":"ice_servers"}"#).unwrap(), ClientText::IceServers {});
        assert_eq!(ClientText::parse(r#"{"type":"keep","on":true}"#).unwrap(), ClientText::Keep { on: true });
    }

    #[test]
    fn what_is_no_message_is_malformed() {
        for text in ["", "[]", "{}", r#"{"type":"dance"}"#, r#"{"type":"ping","t":-1}"#, "\"hello\"", "nul"] {
            assert_eq!(ClientText::parse(text).unwrap_err().code(), Code::Malformed, "{text}");
        }
    }

    #[test]
    fn a_field_above_its_limit_is_too_large() {
        let token = "x".repeat(limits::TOKEN_BYTES + 1);
        let text = format!(r#"{{"type":"join","id":1,"room":"r","token":"{token}"}}"#);
        assert_eq!(ClientText::parse(&text).unwrap_err().code(), Code::TooLarge);
    }

    #[test]
    fn an_attempt_is_told_with_whatever_else_is_known_of_it() {
        let told = |verdict: &str, sentence: &str, details: &str| {
            ClientText::parse(&format!(
                r#"{{"type":"attempt","n":3,"by":"webrtc","verdict":"{verdict}","sentence":"{sentence}","began":1,"connected_ms":null,"ended_ms":15000,"pc":2,"details":{details}}}"#
            ))
        };
        let Ok(ClientText::Attempt(attempt)) = told("dtls_failed", "so", r#"{"pairs":[{"sent":3}]}"#) else {
            panic!()
        };
        assert_eq!(
            (attempt.n, attempt.verdict, attempt.ended_ms, attempt.pc),
            (3, Verdict::DtlsFailed, Some(15_000), Some(2))
        );
        let message = ClientText::Attempt(attempt);
        assert_eq!(ClientText::parse(&to_json(&message)).unwrap(), message);
        assert!(
            matches!(told("novel", "so", "{}"), Ok(ClientText::Attempt(told)) if told.verdict == Verdict::Other)
        );
        let long = format!(r#"{{"x":"{}"}}"#, "x".repeat(limits::DETAILS_BYTES));
        for refused in
            [told("unknown", &"x".repeat(limits::SENTENCE_BYTES + 1), "{}"), told("unknown", "so", &long)]
        {
            assert_eq!(refused.unwrap_err().code(), Code::TooLarge);
        }
        assert_eq!(told("unknown", "so", "[]").unwrap_err().code(), Code::Malformed);
    }

    #[test]
    fn a_signal_with_too_much_data_is_too_large() {
        let signal = |bytes: usize| {
            let data = "x".repeat(bytes - 2);
            ClientControl::parse(
                format!(r#"{{"type":"signal","id":1,"to":"bob","data":"{data}"}}"#).as_bytes(),
            )
        };
        assert!(signal(limits::SIGNAL_BYTES).is_ok());
        assert_eq!(signal(limits::SIGNAL_BYTES + 1).unwrap_err().code(), Code::TooLarge);
    }
}
