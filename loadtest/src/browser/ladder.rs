//! How a browser climbs, as `client/src/link.js` has it: the WebSocket carries data at once; beside it a peer connection
//! tries UDP and ICE-TCP, and when after a second nothing has got through, another one in its place tries relays too. The
//! best way that works is taken. When none does in time the WebSocket keeps the data, and the next try comes later, with
//! relays from its beginning.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use switchyard_signaling::message::{ClientText, to_json};

use super::{
    Browser, Pipe, StreamOutput,
    ways::{Arrival, Server, Ways, relays_of},
};

/// How long a network may take to let packets through before relays are tried too.
const RELAYS_AFTER: Duration = Duration::from_secs(1);

/// What frames go over, the best last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rung {
    /// The WebSocket.
    WebSocket,
    /// A data channel over a relay that is reached by TLS.
    RelayTls,
    /// The same by TCP.
    RelayTcp,
    /// The same by UDP.
    RelayUdp,
    /// A data channel over ICE-TCP.
    Tcp,
    /// A data channel over UDP.
    Udp,
}

/// A browser's climbing.
#[derive(Default)]
pub(super) struct Ladder {
    pub(super) ways: Ways,
    /// Whether the peer connection tries relays.
    has_relays: bool,
    /// When relays are tried, unless something gets through before.
    relays_at: Option<Instant>,
    /// ICE has selected a pair.
    is_reached: bool,
}

impl Ladder {
    pub(super) fn poll_timeout(&mut self) -> Option<Instant> {
        [self.relays_at, self.ways.poll_timeout()].into_iter().flatten().min()
    }

    /// A peer connection begins.
    pub(super) fn begin(&mut self, now: Instant, local: SocketAddr, relays: Vec<Server>) {
        self.has_relays = !relays.is_empty();
        (self.relays_at, self.is_reached) = (None, false);
        self.ways.begin(now, local, relays);
    }

    /// It has ended.
    pub(super) fn end(&mut self, now: Instant) {
        self.relays_at = None;
        self.ways.end(now);
    }

    pub(super) fn handle_answer(&mut self, now: Instant, sdp: &str) {
        self.ways.handle_answer(now, sdp);
        if !self.has_relays {
            self.relays_at = Some(now + RELAYS_AFTER);
        }
    }

    pub(super) fn reached(&mut self) {
        self.is_reached = true;
        self.relays_at = None;
    }
}

impl Browser {
    /// What frames go over; nothing while no pipe is attached.
    pub fn rung(&self) -> Option<Rung> {
        match self.pipes.attached()? {
            Pipe::Socket => Some(Rung::WebSocket),
            Pipe::Channel => {
                let selected = self.peer.as_ref()?.selected()?;
                Some(self.ladder.as_ref().map_or(Rung::Udp, |ladder| ladder.ways.rung(selected)))
            }
        }
    }

    /// A stream that was asked for is open.
    pub fn handle_stream_open(&mut self, now: Instant, stream: u64) {
        self.with_ladder(now, |ladder| ladder.ways.handle_stream_open(now, stream));
    }

    /// Bytes have come on a stream.
    pub fn handle_stream_bytes(&mut self, now: Instant, stream: u64, bytes: &[u8]) {
        self.with_ladder(now, |ladder| ladder.ways.handle_stream_bytes(now, stream, bytes));
    }

    /// A stream could not be opened, or has ended.
    pub fn handle_stream_closed(&mut self, now: Instant, stream: u64) {
        self.with_ladder(now, |ladder| ladder.ways.handle_stream_closed(now, stream));
    }

    /// What is to be done with streams. Only a browser that climbs has some.
    pub fn poll_stream(&mut self) -> Option<StreamOutput> {
        self.hand_over();
        self.ladder.as_mut()?.ways.poll_stream()
    }

    fn with_ladder(&mut self, now: Instant, act: impl FnOnce(&mut Ladder)) {
        if let Some(ladder) = &mut self.ladder {
            act(ladder);
            self.pump(now);
        }
    }

    /// Gives the peer connection what has come for it over its ways.
    pub(super) fn take_arrivals(&mut self, now: Instant) {
        let (Some(ladder), Some(peer)) = (&mut self.ladder, &mut self.peer) else { return };
        let mut failure = None;
        while let Some(arrival) = ladder.ways.poll_arrival() {
            match arrival {
                Arrival::Way(address, behind, preference) => {
                    failure = peer.add_candidate(address, behind, preference).err().or(failure);
                }
                Arrival::Datagram { at: None, from, payload } => peer.handle_datagram(now, from, &payload),
                Arrival::Datagram { at: Some(at), from, payload } => {
                    peer.handle_datagram_at(now, at, from, &payload);
                }
            }
        }
        if let Some(error) = failure {
            self.violation(format!("a further candidate: {error}"));
        }
    }

    /// Gives the ways what the peer connection has to send.
    pub(super) fn hand_over(&mut self) {
        let (Some(ladder), Some(peer)) = (&mut self.ladder, &mut self.peer) else { return };
        while let Some(datagram) = peer.poll_datagram() {
            ladder.ways.send(datagram);
        }
    }

    /// Relays, if it is time for them and there are some.
    pub(super) fn climb(&mut self, now: Instant) {
        let Some(ladder) = &mut self.ladder else { return };
        ladder.ways.handle_timeout(now);
        if ladder.relays_at.take_if(|at| *at <= now).is_some() && self.socket.welcomed {
            self.try_relays(now);
        }
    }

    /// Another peer connection in place of one that gets nothing through: false if it has tried relays, or there are none.
    pub(super) fn try_relays(&mut self, now: Instant) -> bool {
        let has_tried = self.ladder.as_ref().is_none_or(|ladder| ladder.has_relays || ladder.is_reached);
        if has_tried || self.open.0 || self.known_relays().is_empty() {
            return false;
        }
        if let Some(offer) = self.make_peer(now) {
            self.socket.texts.push_back(to_json(&ClientText::Offer(offer)));
        }
        true
    }

    pub(super) fn known_relays(&self) -> Vec<Server> {
        self.ice.as_ref().map(relays_of).unwrap_or_default()
    }
}
