//! Every limit of the protocol that both ends must agree on. What an operator may change is in [`Limits`], which the
//! server announces in its `welcome`; the rest is fixed by the version of the protocol.

use serde::{Deserialize, Serialize};

/// The protocol's version, as in `hello.v`.
pub const VERSION: u32 = 1;
/// Bytes of payload in one chunk of a reliable message.
pub const CHUNK_BYTES: usize = 16 * 1024;
/// Bytes of payload in a lossy message: with its header it fits one data-channel message.
pub const LOSSY_BYTES: usize = 15 * 1024;
/// Bytes of one data-channel message: a chunk, its header, and a target of [`TARGET_USERS`] long names.
pub const CHANNEL_MESSAGE_BYTES: usize = 20 * 1024;
/// Bytes of one binary WebSocket message.
pub const SOCKET_MESSAGE_BYTES: usize = 64 * 1024;
/// Bytes of one text message on the WebSocket.
pub const TEXT_BYTES: usize = 64 * 1024;
/// Bytes of an SDP.
pub const SDP_BYTES: usize = 32 * 1024;
/// Bytes of a trickled candidate.
pub const CANDIDATE_BYTES: usize = 1024;
/// Bytes of the sentence on an attempt to connect.
pub const SENTENCE_BYTES: usize = 1024;
/// Bytes of the word for why an attempt ended.
pub const CAUSE_BYTES: usize = 32;
/// Bytes of the details of an attempt, as JSON text.
pub const DETAILS_BYTES: usize = 6 * 1024;
/// Bytes of a token.
pub const TOKEN_BYTES: usize = 8 * 1024;
/// Bytes of a room's name.
pub const ROOM_NAME_BYTES: usize = 128;
/// Bytes of a user id or a display name.
pub const USER_BYTES: usize = 128;
/// Bytes of a topic.
pub const TOPIC_BYTES: usize = 64;
/// Messages that a sender may have begun and not finished on one lane.
pub const OPEN_MESSAGES: usize = 16;
/// Users that one message can name.
pub const TARGET_USERS: usize = 16;
/// Bytes of a control message from a client, a signal's data included.
pub const CONTROL_BYTES: usize = 20 * 1024;
/// Bytes of the `data` of a signal, as JSON text.
pub const SIGNAL_BYTES: usize = 16 * 1024;
/// Bytes of a LOG message, either way.
pub const LOG_BYTES: usize = 256 * 1024;
/// Bytes of an event's body in a submission.
pub const EVENT_BYTES: usize = 64 * 1024;
/// Bytes of a streamed message: its body, and its text as JSON.
pub const STREAM_BYTES: usize = 192 * 1024;
/// Submissions of one origin that may be unanswered.
pub const SUBMISSIONS: usize = 64;
/// Bytes of body in them.
pub const SUBMISSION_BYTES: usize = 128 * 1024;
/// Bytes of an emoji.
pub const EMOJI_BYTES: usize = 32;
/// Messages in a snapshot, and in a page at most.
pub const SNAPSHOT_MESSAGES: usize = 50;
/// See [`SNAPSHOT_MESSAGES`].
pub const PAGE_MESSAGES: usize = 100;
/// Bytes that may wait in a pipe's own queue (SCTP or socket) before the scheduler above it holds back.
pub const PIPE_BYTES: usize = 64 * 1024;

/// Bytes of frames that go over another pipe, too, for one doubt: on a path that is slow and not broken they are wasted.
pub const COPY_BYTES: usize = 256 * 1024;

/// When an acknowledgement is sent alone: after so many frames, so many bytes or so many milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acks {
    /// Frames received and not acknowledged.
    pub frames: u32,
    /// Bytes of payload in them.
    pub bytes: usize,
    /// How long the first of them has waited.
    pub delay_ms: u64,
}

/// The server's acknowledgements: a client may be waiting for them.
pub const SERVER_ACKS: Acks = Acks { frames: 32, bytes: 64 * 1024, delay_ms: 100 };
/// A client's: nobody waits for them, and each costs the server a message. A quarter of the replay limit.
pub const CLIENT_ACKS: Acks = Acks { frames: 256, bytes: 256 * 1024, delay_ms: 400 };

/// What the operator sets and the server announces; see section 6 of the protocol's document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes of a reliable message.
    pub max_message_bytes: usize,
    /// Bytes of a lossy message.
    pub max_lossy_bytes: usize,
    /// Bytes of a chunk; fixed.
    pub chunk_bytes: usize,
    /// Bytes kept for a receiver of the reliable lane, sent and waiting.
    pub replay_limit_bytes: usize,
    /// Rooms that one session may be in.
    pub rooms_per_session: usize,
    /// Topics that one member may subscribe to.
    pub topics_per_member: usize,
    /// Milliseconds that a session without a pipe lives on.
    pub resume_grace_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_message_bytes: 256 * 1024,
            max_lossy_bytes: LOSSY_BYTES,
            chunk_bytes: CHUNK_BYTES,
            replay_limit_bytes: 1024 * 1024,
            rooms_per_session: 32,
            topics_per_member: 32,
            resume_grace_ms: 10_000,
        }
    }
}
