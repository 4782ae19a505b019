//! A client of a world: a simulated browser and the history of what it saw.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use switchyard_loadtest::{
    account::Stamp,
    browser::{Browser, Event, Lane},
    netsim::HostId,
};
use switchyard_signaling::{Code, message::ServerControl};

use super::{
    access::Line,
    checker,
    wire::{Wire, WireConfig},
};

/// Something that a client saw.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// Since the world began.
    pub(crate) at: Duration,
    pub(crate) what: What,
}

#[derive(Clone, Debug)]
pub(crate) enum What {
    /// It is in a room, or its token was refreshed.
    Joined { room: String, handle: u16, member: u32, role: String },
    /// It is not in a room any more.
    Left { handle: u16, code: Code },
    /// A message: who says to have sent it, who it says that it is from, and whether its content is as it was.
    Message { room: u16, member: u32, stream: u16, lane: Lane, stamp: Option<Stamp>, intact: bool },
    /// Messages are missing.
    Gap { room: u16, member: u32, stream: u16, count: u32 },
    /// The server closed the WebSocket.
    Closed(#[expect(dead_code, reason = "for whoever prints the history")] Code),
    /// Anything else.
    Other(Event),
}

pub(crate) struct Client {
    pub(crate) browser: Browser,
    pub(crate) name: String,
    pub(crate) history: Vec<Seen>,
    /// Rooms it is in, and their handles.
    pub(crate) rooms: BTreeMap<String, u16>,
    pub(crate) wire: Option<Wire>,
    /// Of a client with an access network, whose page may have two: by the page's numbers.
    pub(super) wires: BTreeMap<u64, Wire>,
    pub(crate) wire_config: WireConfig,
    pub(crate) address: SocketAddr,
    pub(super) host: Option<HostId>,
    /// Its access network, if it has one of its own.
    pub(crate) line: Option<Line>,
    pub(super) due: Option<Instant>,
    /// Something happened to the browser: it may have something to say.
    pub(super) touched: bool,
}

impl Client {
    pub(super) fn new(
        browser: Browser,
        name: String,
        host: Option<HostId>,
        address: SocketAddr,
        wire_config: WireConfig,
    ) -> Self {
        Self {
            browser,
            name,
            history: Vec::new(),
            rooms: BTreeMap::new(),
            wire: None,
            wires: BTreeMap::new(),
            wire_config,
            address,
            host,
            line: None,
            due: None,
            touched: true,
        }
    }

    /// When its WebSocket has something for either end.
    pub(super) fn wire_due(&self) -> Option<Instant> {
        if let Some(line) = &self.line {
            return self.wires.iter().filter_map(|(number, wire)| wire.due(line.reads(*number))).min();
        }
        self.wire.as_ref()?.due(self.browser.reads_socket())
    }

    /// Whether it has a WebSocket.
    pub(crate) fn is_connected(&self) -> bool {
        self.wire.is_some() || !self.wires.is_empty()
    }

    pub(super) fn see(&mut self, at: Duration, what: What) {
        self.history.push(Seen { at, what });
    }

    pub(super) fn take_events(&mut self, at: Duration) {
        while let Some(event) = self.browser.poll_event() {
            let what = self.understand(event);
            self.see(at, what);
        }
    }

    fn understand(&mut self, event: Event) -> What {
        match event {
            Event::Control(_, ServerControl::Joined { room, handle, member, role, .. }) => {
                self.rooms.insert(room.clone(), handle);
                What::Joined { room, handle, member, role }
            }
            Event::Control(handle, ServerControl::Left { reason: code }) => {
                self.rooms.retain(|_, known| *known != handle);
                What::Left { handle, code }
            }
            Event::Message(message) => {
                let stamp = Stamp::of(&message.payload);
                let intact = stamp.is_some_and(|stamp| {
                    message.payload
                        == checker::payload(stamp.sender, stamp.seq, stamp.scheduled, message.payload.len())
                });
                What::Message {
                    room: message.room,
                    member: message.sender,
                    stream: message.stream,
                    lane: message.lane,
                    stamp,
                    intact,
                }
            }
            Event::Gap { room, sender: member, stream, count } => What::Gap { room, member, stream, count },
            event => What::Other(event),
        }
    }

    /// Its place in the network.
    pub(crate) fn host(&self) -> HostId {
        self.host.unwrap()
    }

    // ---- reading the history

    /// Whether something like this was seen.
    pub(crate) fn saw(&self, like: impl Fn(&What) -> bool) -> bool {
        self.history.iter().any(|seen| like(&seen.what))
    }

    /// When something like this was first seen at or after a time.
    pub(crate) fn first(&self, after: Duration, like: impl Fn(&What) -> bool) -> Option<Duration> {
        let mut seen = self.history.iter().filter(|seen| seen.at >= after);
        seen.find(|seen| like(&seen.what)).map(|seen| seen.at)
    }

    /// Codes of refusals that were told, of both kinds.
    pub(crate) fn refusals(&self) -> Vec<Code> {
        let code = |seen: &Seen| match &seen.what {
            What::Other(Event::Refused(refusal)) => Some(refusal.code),
            What::Other(Event::Control(_, ServerControl::Refused { code, .. })) => Some(*code),
            _ => None,
        };
        self.history.iter().filter_map(code).collect()
    }

    /// Messages missing as told.
    pub(crate) fn told_missing(&self) -> u64 {
        let count = |seen: &Seen| match seen.what {
            What::Gap { count, .. } => u64::from(count),
            _ => 0,
        };
        self.history.iter().map(count).sum()
    }

    /// From sending to receiving, of every reliable message.
    pub(crate) fn delays(&self) -> Vec<Duration> {
        let delay = |seen: &Seen| match seen.what {
            What::Message { lane: Lane::Reliable, stamp: Some(stamp), .. } => Some(seen.at - stamp.scheduled),
            _ => None,
        };
        self.history.iter().filter_map(delay).collect()
    }

    /// Messages of a lane received.
    pub(crate) fn received(&self, of: Lane) -> usize {
        let is = |seen: &&Seen| matches!(seen.what, What::Message { lane, .. } if lane == of);
        self.history.iter().filter(is).count()
    }
}
