//! Every refusal and reason that crosses the wire, as a stable code; the sentence beside it is for people and may
//! change. The table for readers is section 7 of `docs/protocol.md`.

use serde::{Deserialize, Serialize};

/// A stable code. On the wire it is the variant's name in snake case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// Not JSON, an unknown type, or a missing or ill-typed field.
    Malformed,
    /// Too many malformed messages on one connection.
    Abuse,
    /// The protocol version is not spoken here.
    UnsupportedVersion,
    /// Another message came before `hello`.
    HelloFirst,
    /// The message needs a session, which the first join makes.
    JoinFirst,
    /// No hello or join in time, or silence for too long.
    Timeout,
    /// A message or field is above its limit.
    TooLarge,
    /// A binary message does not parse.
    BadFrame,
    /// A reliable frame was not the next one.
    LaneGap,
    /// The generation of an ATTACH is not higher than the current one.
    StaleAttach,
    /// The session to resume is gone.
    UnknownSession,
    /// The resume ticket has been consumed: a later one took its place.
    TicketUsed,
    /// The resume ticket was not shown in time.
    TicketExpired,
    /// The token is no JWT.
    TokenMalformed,
    /// The token's algorithm is not the key's.
    TokenAlgorithm,
    /// The token's issuer is no API key of this server.
    TokenUnknownKey,
    /// The token's signature is wrong.
    TokenSignature,
    /// The token has expired.
    TokenExpired,
    /// The token is not valid yet.
    TokenNotYetValid,
    /// The token is for another room.
    TokenOtherRoom,
    /// A required claim is missing or ill-typed.
    TokenClaims,
    /// The token is longer than 8 KiB.
    TokenTooLarge,
    /// The token names another tenant or user than the session's.
    OtherUser,
    /// The room has its maximum of participants.
    RoomFull,
    /// The room's name is empty, too long or has control characters.
    RoomName,
    /// The session is in as many rooms as it may be.
    TooManyRooms,
    /// The member has as many topics as it may have.
    TooManyTopics,
    /// The topic is empty or too long.
    BadTopic,
    /// The handle names no room of this session.
    NotInRoom,
    /// The role does not permit the action.
    Forbidden,
    /// A named user or member is not in the room.
    NoSuchUser,
    /// Too much at once; retry later.
    RateLimited,
    /// The SDP cannot be used.
    BadOffer,
    /// The signing key is no point of its curve.
    BadKey,
    /// The server runs without WebRTC.
    WebrtcDisabled,
    /// The server cannot take more now.
    Overloaded,
    /// The server is shutting down.
    Draining,
    /// The client said bye.
    Bye,
    /// The session resumed on another WebSocket.
    Replaced,
    /// The member left.
    Left,
    /// The member was removed.
    Removed,
    /// The room ended.
    RoomClosed,
    /// The peer connection is dead.
    PipeLost,
    /// A submission came before the one that is expected.
    OutOfOrder,
    /// What is needed to decide is being read.
    Loading,
    /// The store does not take writes now.
    StorageUnavailable,
    /// The end of a streamed message came before its text.
    StreamBehind,
    /// The origin belongs to another user.
    BadOrigin,
    /// The body is not what its kind asks for.
    BadBody,
    /// The target is no message, or was deleted.
    NoSuchMessage,
    /// Only the author may do this.
    NotAuthor,
    /// The join did not ask for the log.
    NotFollowing,
    /// The member has opened no such stream.
    NoSuchStream,
    /// As many streamed messages are open as may be.
    TooManyStreams,
    /// A snapshot has taken the place of events.
    SyncRequired,
}

impl Code {
    /// Every code, in the order of the document.
    pub const ALL: &[Code] = &[
        Code::Malformed,
        Code::Abuse,
        Code::UnsupportedVersion,
        Code::HelloFirst,
        Code::JoinFirst,
        Code::Timeout,
        Code::TooLarge,
        Code::BadFrame,
        Code::LaneGap,
        Code::StaleAttach,
        Code::UnknownSession,
        Code::TicketUsed,
        Code::TicketExpired,
        Code::TokenMalformed,
        Code::TokenAlgorithm,
        Code::TokenUnknownKey,
        Code::TokenSignature,
        Code::TokenExpired,
        Code::TokenNotYetValid,
        Code::TokenOtherRoom,
        Code::TokenClaims,
        Code::TokenTooLarge,
        Code::OtherUser,
        Code::RoomFull,
        Code::RoomName,
        Code::TooManyRooms,
        Code::TooManyTopics,
        Code::BadTopic,
        Code::NotInRoom,
        Code::Forbidden,
        Code::NoSuchUser,
        Code::RateLimited,
        Code::BadOffer,
        Code::BadKey,
        Code::WebrtcDisabled,
        Code::Overloaded,
        Code::Draining,
        Code::Bye,
        Code::Replaced,
        Code::Left,
        Code::Removed,
        Code::RoomClosed,
        Code::PipeLost,
        Code::OutOfOrder,
        Code::Loading,
        Code::StorageUnavailable,
        Code::StreamBehind,
        Code::BadOrigin,
        Code::BadBody,
        Code::NoSuchMessage,
        Code::NotAuthor,
        Code::NotFollowing,
        Code::NoSuchStream,
        Code::TooManyStreams,
        Code::SyncRequired,
    ];

    /// The code as it stands on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Code::Malformed => "malformed",
            Code::Abuse => "abuse",
            Code::UnsupportedVersion => "unsupported_version",
            Code::HelloFirst => "hello_first",
            Code::JoinFirst => "join_first",
            Code::Timeout => "timeout",
            Code::TooLarge => "too_large",
            Code::BadFrame => "bad_frame",
            Code::LaneGap => "lane_gap",
            Code::StaleAttach => "stale_attach",
            Code::UnknownSession => "unknown_session",
            Code::TicketUsed => "ticket_used",
            Code::TicketExpired => "ticket_expired",
            Code::TokenMalformed => "token_malformed",
            Code::TokenAlgorithm => "token_algorithm",
            Code::TokenUnknownKey => "token_unknown_key",
            Code::TokenSignature => "token_signature",
            Code::TokenExpired => "token_expired",
            Code::TokenNotYetValid => "token_not_yet_valid",
            Code::TokenOtherRoom => "token_other_room",
            Code::TokenClaims => "token_claims",
            Code::TokenTooLarge => "token_too_large",
            Code::OtherUser => "other_user",
            Code::RoomFull => "room_full",
            Code::RoomName => "room_name",
            Code::TooManyRooms => "too_many_rooms",
            Code::TooManyTopics => "too_many_topics",
            Code::BadTopic => "bad_topic",
            Code::NotInRoom => "not_in_room",
            Code::Forbidden => "forbidden",
            Code::NoSuchUser => "no_such_user",
            Code::RateLimited => "rate_limited",
            Code::BadOffer => "bad_offer",
            Code::BadKey => "bad_key",
            Code::WebrtcDisabled => "webrtc_disabled",
            Code::Overloaded => "overloaded",
            Code::Draining => "draining",
            Code::Bye => "bye",
            Code::Replaced => "replaced",
            Code::Left => "left",
            Code::Removed => "removed",
            Code::RoomClosed => "room_closed",
            Code::PipeLost => "pipe_lost",
            Code::OutOfOrder => "out_of_order",
            Code::Loading => "loading",
            Code::StorageUnavailable => "storage_unavailable",
            Code::StreamBehind => "stream_behind",
            Code::BadOrigin => "bad_origin",
            Code::BadBody => "bad_body",
            Code::NoSuchMessage => "no_such_message",
            Code::NotAuthor => "not_author",
            Code::NotFollowing => "not_following",
            Code::NoSuchStream => "no_such_stream",
            Code::TooManyStreams => "too_many_streams",
            Code::SyncRequired => "sync_required",
        }
    }

    /// The code with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.as_str() == name)
    }

    /// The WebSocket close code for a connection that ends with this code.
    pub fn close_code(self) -> u16 {
        match self {
            Code::Bye => 1000,
            Code::TooLarge => 1009,
            Code::Abuse => 4400,
            Code::Timeout => 4408,
            Code::Replaced => 4409,
            Code::Overloaded => 4429,
            Code::Draining => 4503,
            _ => 4401,
        }
    }
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serde_and_as_str_agree_and_the_document_lists_every_code() {
        let document = include_str!("../../docs/protocol.md");
        for code in Code::ALL {
            assert_eq!(serde_json::to_string(code).unwrap(), format!("\"{code}\""));
            assert!(document.contains(&format!("`{code}`")), "{code} is not in docs/protocol.md");
        }
    }
}
