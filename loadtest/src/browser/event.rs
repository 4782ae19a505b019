//! What goes into a simulated browser and comes out of it: its settings, messages, events and errors.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use switchyard_signaling::{
    frame::Target,
    message::{Refusal, ServerControl},
};

use super::log::LogEvent;
use crate::peer::PeerEvent;

/// What a simulated browser is like.
#[derive(Clone, Debug)]
pub struct BrowserConfig {
    /// The local address of its peer connections; without one it stays on the WebSocket.
    pub address: Option<SocketAddr>,
    /// Whether it moves to the data channel as soon as that is open.
    pub moves_by_itself: bool,
    /// Whether it tries more than UDP: ICE-TCP, and the relays that the server names. Whoever drives it opens streams then
    /// ([`Browser::poll_stream`](super::Browser::poll_stream)), and says which port a datagram came to.
    pub climbs: bool,
    /// Decides about its delays, which are random so that many browsers do not come at once.
    pub seed: u64,
    /// A bug that a test plants.
    pub fault: Option<Fault>,
}

/// What a browser may do wrong, for tests that must notice it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It stays on a data channel that it suspects.
    Trusts,
    /// After a move it goes on where it was, whatever the server has received.
    NoReplay,
    /// It takes a frame that comes twice as a new one.
    TakesDuplicates,
}

impl Default for BrowserConfig {
    fn default() -> Self {
        Self { address: None, moves_by_itself: true, climbs: false, seed: 0, fault: None }
    }
}

/// A way for frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pipe {
    /// The WebSocket.
    Socket,
    /// The data channels.
    Channel,
}

/// How a message is delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// In order per stream, nothing lost.
    Reliable,
    /// Once or not at all.
    Lossy,
}

/// A message to send.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// The room's handle, as `joined` gave it.
    pub room: u16,
    /// How it is delivered.
    pub lane: Lane,
    /// Which order it belongs to.
    pub stream: u16,
    /// Who shall get it.
    pub target: Target,
    /// Whether the payload is UTF-8.
    pub text: bool,
    /// What it carries.
    pub payload: Bytes,
}

/// A message received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incoming {
    /// The room's handle.
    pub room: u16,
    /// The author's member number.
    pub sender: u32,
    /// The author's stream.
    pub stream: u16,
    /// How it was delivered.
    pub lane: Lane,
    /// How it was addressed.
    pub target: Target,
    /// Whether the payload is UTF-8.
    pub text: bool,
    /// What it carries.
    pub payload: Bytes,
}

/// What a browser tells whoever drives it.
#[derive(Clone, Debug)]
pub enum Event {
    /// The server has answered `hello`.
    Welcome,
    /// The first join has made this session.
    Session(String),
    /// A control message concerning the room with this handle.
    Control(u16, ServerControl),
    /// A message from another member.
    Message(Incoming),
    /// Messages are missing at this place of a stream.
    Gap {
        /// The room's handle.
        room: u16,
        /// The author of what is missing; 0 for all of the room.
        sender: u32,
        /// The author's stream.
        stream: u16,
        /// How many.
        count: u32,
    },
    /// Of the log of the room with this handle.
    Log(u16, LogEvent),
    /// A request was refused.
    Refused(Refusal),
    /// Frames go over this pipe now.
    Attached(Pipe),
    /// The peer connection has come this far.
    Peer(PeerEvent),
    /// The peer connection was given up: it was silent, failed, or could not be made.
    PeerLost,
    /// The session is gone at the server: begin anew with another `Browser`.
    SessionLost,
    /// The server is shutting down: come back after a random part of this.
    Draining(Duration),
    /// The server broke the protocol.
    Violation(String),
}

/// Why a message was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// There is no session yet.
    #[error("no session yet")]
    NoSession,
    /// Longer than the server allows.
    #[error("the message has {len} bytes, {limit} are allowed")]
    TooLarge {
        /// Its length.
        len: usize,
        /// What is allowed.
        limit: usize,
    },
    /// The target cannot be put into a frame.
    #[error("the target has too many names, or one that is empty or too long")]
    BadTarget,
    /// Too much is waiting or unacknowledged.
    #[error("the send buffer is full")]
    BufferFull,
}

/// What the WebSocket shall send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SocketOutput {
    /// A text message.
    Text(String),
    /// A binary message.
    Binary(Bytes),
}

/// What is to be done with a stream of a browser that climbs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamOutput {
    /// Connect.
    Open {
        /// What to call it.
        stream: u64,
        /// To where.
        to: SocketAddr,
        /// Whether its bytes go within TLS.
        tls: bool,
    },
    /// Send bytes.
    Bytes(u64, Bytes),
    /// It is not wanted any more; nothing more of it is to be given to the browser.
    Close(u64),
}
