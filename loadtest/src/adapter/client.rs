//! What a simulated user needs of what it speaks with a server, without sockets and clocks. What only some can do has an
//! answer here.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use switchyard_signaling::event::Content;

use crate::{
    browser::{Event, Outgoing, Pipe, RoomLog, SendError, SocketOutput, Wish},
    netsim::Datagram,
};

/// What the WebSocket shall send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outbound {
    /// A text message.
    Text(String),
    /// A binary message.
    Binary(Bytes),
    /// A ping (RFC 6455 §5.5.2), which any server answers with the same bytes.
    Ping(Bytes),
}

impl From<SocketOutput> for Outbound {
    fn from(output: SocketOutput) -> Self {
        match output {
            SocketOutput::Text(text) => Self::Text(text),
            SocketOutput::Binary(message) => Self::Binary(message),
        }
    }
}

/// A client of a server, for one session: when that is lost, the user takes another one.
///
/// The order of calls is that of [`crate::browser::Browser`], and so is what each means: `handle_*` and commands in;
/// after each, everything from `poll_*` out.
pub trait Client: Send {
    // ---- commands

    /// Asks to be let in, as soon as there is a WebSocket; with a log, if that is to be followed. The request's number,
    /// which the answer repeats.
    fn join(&mut self, now: Instant, room: &str, token: &str, log: Option<RoomLog>) -> u32;

    /// Asks again.
    fn join_again(&mut self, now: Instant, room: &str, token: &str) -> u32;

    /// Sends a message to members of the room.
    fn send(&mut self, now: Instant, message: Outgoing) -> Result<(), SendError>;

    /// Writes a durable message; nothing where there is no log.
    fn submit(&mut self, _now: Instant, _room: &str, _nonce: u32, _content: Content) -> Option<()> {
        None
    }

    /// Reads nothing and says nothing, or does again.
    fn set_stalled(&mut self, now: Instant, stalled: bool);

    /// The device has another address; what it had open is dead, and its WebSocket's end is told apart.
    fn handle_network_change(&mut self, _now: Instant, _address: SocketAddr) {}

    /// The session is lost: begins anew on the WebSocket that there is, with the logs for the next join. Nothing where another
    /// client is to be made for that.
    fn begin_anew(&mut self, _now: Instant) -> Option<BTreeMap<String, RoomLog>> {
        None
    }

    /// Says goodbye; whether the server will answer that by closing the WebSocket.
    fn bye(&mut self) -> bool {
        false
    }

    /// All logs, for the next session.
    fn take_logs(&mut self) -> BTreeMap<String, RoomLog> {
        BTreeMap::new()
    }

    // ---- inputs

    /// A WebSocket is open.
    fn handle_socket_open(&mut self, now: Instant);

    /// It is gone, or could not be opened.
    fn handle_socket_closed(&mut self, now: Instant);

    /// A WebSocket on which the server was told [`hello`](Self::hello), and is about to answer, takes the place of the one
    /// that there was.
    fn handle_socket_replaced(&mut self, now: Instant) {
        self.handle_socket_open(now);
    }

    /// A text message has arrived.
    fn handle_text(&mut self, now: Instant, text: &str);

    /// A binary message has arrived.
    fn handle_binary(&mut self, now: Instant, message: Bytes);

    /// A ping was answered.
    fn handle_pong(&mut self, _now: Instant, _nonce: &[u8]) {}

    /// A datagram has arrived.
    fn handle_datagram(&mut self, _now: Instant, _from: SocketAddr, _payload: &[u8]) {}

    /// Time has passed.
    fn handle_timeout(&mut self, now: Instant);

    // ---- outputs

    /// What the server is told first on a further WebSocket of a session; nothing where a session has only one.
    fn hello(&self) -> Option<String> {
        None
    }

    /// What it wants of its WebSockets.
    fn poll_wish(&mut self) -> Option<Wish> {
        None
    }

    /// When `handle_timeout` is due.
    fn poll_timeout(&mut self) -> Option<Instant>;

    /// The next datagram to send.
    fn poll_datagram(&mut self) -> Option<Datagram> {
        None
    }

    /// The next message for the WebSocket; asked for only as long as that takes more.
    fn poll_socket(&mut self) -> Option<Outbound>;

    /// What has happened.
    fn poll_event(&mut self) -> Option<Event>;

    // ---- what there is

    /// The round trip to the server as last known.
    fn round_trip(&self) -> Option<Duration> {
        None
    }

    /// Whether the WebSocket should be read.
    fn reads_socket(&self) -> bool;

    /// Whether it has a session, as far as it knows.
    fn has_session(&self) -> bool;

    /// The pipe that messages go over.
    fn attached(&self) -> Option<Pipe>;

    /// The last sign of life from the server; before there was any, when the client was made.
    fn last_heard(&self) -> Instant;

    /// Since when this pipe has been silent: when something came last, or when somebody began to listen.
    fn heard(&self, pipe: Pipe) -> Instant;

    /// Bytes of messages that the server may not have yet. Each counts at least
    /// [`OVERHEAD_BYTES`](switchyard_signaling::lane::OVERHEAD_BYTES) more than its payload.
    fn held_bytes(&self) -> usize;

    /// Lossy messages dropped before sending.
    fn lossy_dropped(&self) -> u64 {
        0
    }

    /// Durable messages without an answer.
    fn unanswered(&self, _room: &str) -> usize {
        0
    }
}
