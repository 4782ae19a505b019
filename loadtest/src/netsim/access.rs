//! One browser's access network: what lies between the browser and a real network.
//!
//! Inside is the browser, simulated; outside are real sockets, which whoever drives this opens. Datagrams pass a link
//! and a NAT with a firewall, and are sent from a real UDP socket for each mapping; so real sockets are behind the last
//! hop, and a real server sees real packets from the addresses that a NAT would show it. WebSockets are passed through
//! as messages over a [model of TCP](super::stream) on the same links, because the kernel's own TCP connection lies
//! beneath: upwards, a message is written to the real socket when it comes out here; downwards, a message that was
//! read from the real socket is put in here, and reaches the browser when it comes out.
//!
//! It never opens a socket or reads a clock, and never looks into what it carries.
//!
//! # Order of calls
//!
//! Give it what happens: [`send_datagram`](Access::send_datagram) what the browser sends,
//! [`handle_datagram`](Access::handle_datagram) what a mapping's socket receives,
//! [`open_stream`](Access::open_stream), [`send`](Access::send) and [`close_stream`](Access::close_stream) for
//! WebSockets ([`connect`](Access::connect) for other streams), and commands such as [`change_address`](Access::change_address). After each, or after a batch of them
//! with the same `now`, take everything from [`poll`](Access::poll). Then wait until
//! [`poll_timeout`](Access::poll_timeout), and `poll` again. `now` must not run backwards.
//!
//! - [`Output::Datagram`]: send it from the socket of its mapping; if the mapping is new, open one (port 0) first.
//! - [`Output::MappingClosed`]: close that socket.
//! - [`Output::StreamOpen`]: connect the real WebSocket now. The model has taken the time that opening takes.
//! - [`Output::StreamItem`] upwards: write it to the real WebSocket; downwards: give it to the browser.
//! - [`Output::StreamFailed`]: the stream is gone, as for [`close_stream`](Access::close_stream). Tell the browser, and
//!   drop the real WebSocket; one that is dropped at once tells the server sooner than a dead network would.
//!
//! The end of the real WebSocket is an item downwards like others, so that it comes after what was sent before it.
//!
//! While [`can_send`](Access::can_send) says no upwards, leave the browser's messages with the browser; downwards,
//! do not read the real socket, so that the server feels it.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    time::Instant,
};

use bytes::Bytes;

use super::{
    Datagram, Direction, Failure, Link, LinkStats, MappingId, NetworkSpec,
    nat::{Firewall, Nat, Verdict},
    spec::{Happening, ScheduledEvent},
    stream::{self, Ack, Event, Segment, Stream, Transmit},
};
use crate::rng::Rng;

/// The server, as far as a network must know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Where it answers HTTP and WebSockets.
    pub http: SocketAddr,
    /// Whether that is over TLS, which makes opening a round trip longer.
    pub tls: bool,
}

/// Names a stream of an [`Access`]. No number is used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);

/// What comes out of an [`Access`]. See the [module](self) for what to do with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output<T> {
    /// A datagram goes out to the real network.
    Datagram {
        /// From which of the browser's outside ports.
        mapping: MappingId,
        /// To where.
        to: SocketAddr,
        /// What it carries.
        payload: Bytes,
    },
    /// A datagram reaches the browser. `to` is the inside address.
    Inside(Datagram),
    /// Nothing more comes from this mapping, nor goes to it.
    MappingClosed(MappingId),
    /// The stream is open.
    StreamOpen(StreamId),
    /// The stream could not be opened, or has broken. Nothing more comes of it.
    StreamFailed(StreamId, Failure),
    /// An item has passed the stream.
    StreamItem {
        /// Which stream.
        id: StreamId,
        /// Which way it went.
        direction: Direction,
        /// The item.
        item: T,
    },
}

/// What an access network has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AccessStats {
    /// Packets from the browser, datagrams and those of streams.
    pub up: LinkStats,
    /// Packets to the browser.
    pub down: LinkStats,
    /// Datagrams that the firewall dropped.
    pub blocked: u64,
    /// Datagrams to the browser that had no mapping or were filtered.
    pub filtered: u64,
    /// Segments of streams that were sent again, from the browser.
    pub retransmitted_up: u64,
    /// Segments of streams that were sent again, to the browser.
    pub retransmitted_down: u64,
}

/// The access network of one browser, whose streams carry a `T`.
#[derive(Debug)]
pub struct Access<T> {
    target: Target,
    up: Link<Packet>,
    down: Link<Packet>,
    nat: Nat,
    firewall: Firewall,
    streams: BTreeMap<StreamId, Stream<T>>,
    next_stream: u64,
    schedule: Vec<(Instant, ScheduledEvent)>,
    outputs: VecDeque<Output<T>>,
    stats: AccessStats,
}

#[derive(Clone, Debug)]
enum Packet {
    Datagram(Datagram),
    /// A segment of the flow in the link's direction.
    Segment(StreamId, Segment),
    /// An acknowledgement of the flow in the other direction.
    Ack(StreamId, Ack),
    /// The firewall's answer to an attempt to connect.
    Reset(StreamId),
}

/// What can be due, in the order that it is done at the same instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Schedule,
    Up,
    Down,
    Stream(StreamId),
    Mapping,
}

impl<T> Access<T> {
    /// A browser's access as specified, with chance decided by the seed. Scheduled events count from `now`.
    pub fn new(now: Instant, spec: &NetworkSpec, target: Target, seed: u64) -> Self {
        Self {
            target,
            up: Link::new(spec.up.clone(), Rng::stream(seed, 0).next_u64()),
            down: Link::new(spec.down.clone(), Rng::stream(seed, 1).next_u64()),
            nat: Nat::new(spec.nat),
            firewall: spec.firewall,
            streams: BTreeMap::new(),
            next_stream: 0,
            schedule: spec.events.iter().map(|event| (now + event.at, event.clone())).collect(),
            outputs: VecDeque::new(),
            stats: AccessStats::default(),
        }
    }

    /// The browser sends a datagram, from whichever inside address it likes.
    pub fn send_datagram(&mut self, now: Instant, datagram: Datagram) {
        self.advance(now);
        self.up.send(now, datagram.wire_bytes(), Packet::Datagram(datagram));
    }

    /// The socket of a mapping has received a datagram.
    pub fn handle_datagram(&mut self, now: Instant, mapping: MappingId, from: SocketAddr, payload: Bytes) {
        self.advance(now);
        if !self.firewall.lets_udp_out() {
            // What was let in is the answer to what was let out.
            self.stats.blocked += 1;
            return;
        }
        let Some(to) = self.nat.inbound(mapping, from) else {
            self.stats.filtered += 1;
            return;
        };
        let datagram = Datagram { from, to, payload };
        self.down.send(now, datagram.wire_bytes(), Packet::Datagram(datagram));
    }

    /// The browser opens a WebSocket. [`Output::StreamOpen`] or [`Output::StreamFailed`] says what becomes of it.
    pub fn open_stream(&mut self, now: Instant, to: SocketAddr) -> StreamId {
        self.open(now, Stream::new(to, self.target.tls && to == self.target.http))
    }

    /// The browser connects by TCP, or by TLS, for something other than a WebSocket.
    pub fn connect(&mut self, now: Instant, to: SocketAddr, tls: bool) -> StreamId {
        self.open(now, Stream::bare(to, tls))
    }

    fn open(&mut self, now: Instant, mut stream: Stream<T>) -> StreamId {
        self.advance(now);
        let (id, to) = (StreamId(self.next_stream), stream.to);
        self.next_stream += 1;
        if self.is_transparent(now) && self.firewall.judge_tcp(to, self.target.http) == Verdict::Passes {
            stream.open_at_once();
            self.outputs.push_back(Output::StreamOpen(id));
        }
        self.streams.insert(id, stream);
        self.serve(now, id);
        id
    }

    /// Whether a stream is open and may be given more. In a direction, at most 1 MiB is under way, and 64 KiB and an item
    /// wait.
    pub fn can_send(&self, id: StreamId, direction: Direction) -> bool {
        self.streams.get(&id).is_some_and(|stream| stream.can_send(direction))
    }

    /// Puts an item of `size` bytes, framing included, into an open stream. On one that is not open, it is dropped.
    pub fn send(&mut self, now: Instant, id: StreamId, direction: Direction, size: usize, item: T) {
        self.advance(now);
        let is_transparent = self.is_transparent(now);
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| stream.is_open()) else {
            return;
        };
        if is_transparent && stream.is_idle(direction) {
            self.outputs.push_back(Output::StreamItem { id, direction, item });
        } else {
            stream.send(direction, size, item);
            self.serve(now, id);
        }
    }

    /// The stream is not wanted any more; nothing more comes of it.
    pub fn close_stream(&mut self, now: Instant, id: StreamId) {
        self.advance(now);
        self.forget(id);
        self.outputs.retain(|output| match output {
            Output::StreamOpen(of) | Output::StreamFailed(of, _) | Output::StreamItem { id: of, .. } => {
                *of != id
            }
            Output::Datagram { .. } | Output::Inside(_) | Output::MappingClosed(_) => true,
        });
    }

    /// The browser gets another address, as from Wi-Fi to mobile: what is under way is lost, all mappings are new, and
    /// streams fail at once, as browsers close the sockets of an address that is gone.
    pub fn change_address(&mut self, now: Instant) {
        self.advance(now);
        self.readdress(now);
    }

    /// The NAT forgets its mappings, as after a restart of it; what is sent from now on gets new ones.
    pub fn rebind(&mut self, now: Instant) {
        self.advance(now);
        self.forget_mappings();
    }

    /// Another network from now on, with its own scheduled events; an outage of the old one is over. What is under way
    /// arrives as it would have. Mappings stay if the NAT is of the same kind, and streams stay: call
    /// [`change_address`](Self::change_address) too if they should not.
    pub fn set_spec(&mut self, now: Instant, spec: &NetworkSpec) {
        self.advance(now);
        self.schedule = spec.events.iter().map(|event| (now + event.at, event.clone())).collect();
        self.become_like(now, spec);
    }

    /// The next thing that has come out by now.
    pub fn poll(&mut self, now: Instant) -> Option<Output<T>> {
        self.advance(now);
        self.outputs.pop_front()
    }

    /// When to poll again, once `poll` has given nothing.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.next_due().map(|(at, _)| at)
    }

    /// What has been done so far.
    pub fn stats(&self) -> AccessStats {
        let (mut up, mut down) = (self.stats.retransmitted_up, self.stats.retransmitted_down);
        for stream in self.streams.values() {
            up += stream.retransmitted(Direction::Up);
            down += stream.retransmitted(Direction::Down);
        }
        AccessStats {
            up: self.up.stats(),
            down: self.down.stats(),
            retransmitted_up: up,
            retransmitted_down: down,
            ..self.stats
        }
    }

    fn is_transparent(&self, now: Instant) -> bool {
        self.up.is_transparent(now) && self.down.is_transparent(now)
    }

    fn next_due(&self) -> Option<(Instant, Due)> {
        let schedule = self.schedule.iter().map(|(at, _)| *at).min().map(|at| (at, Due::Schedule));
        let up = self.up.poll_timeout().map(|at| (at, Due::Up));
        let down = self.down.poll_timeout().map(|at| (at, Due::Down));
        let mapping = self.nat.next_expiry().map(|at| (at, Due::Mapping));
        let streams =
            self.streams.iter().filter_map(|(id, stream)| Some((stream.poll_timeout()?, Due::Stream(*id))));
        streams.chain([schedule, up, down, mapping].into_iter().flatten()).min()
    }

    /// Does everything that is due by now, each thing at its own time, however late somebody looks.
    fn advance(&mut self, now: Instant) {
        while let Some((at, due)) = self.next_due()
            && at <= now
        {
            match due {
                Due::Schedule => self.happen(at),
                Due::Up => {
                    if let Some(packet) = self.up.poll(at) {
                        self.leave(at, packet);
                    }
                }
                Due::Down => {
                    if let Some(packet) = self.down.poll(at) {
                        self.arrive(at, packet);
                    }
                }
                Due::Stream(id) => {
                    let failure = self.streams.get_mut(&id).and_then(|stream| stream.handle_timeout(at));
                    match failure {
                        Some(failure) => self.fail(id, failure),
                        None => self.serve(at, id),
                    }
                }
                Due::Mapping => {
                    let ended = self.nat.expire(at);
                    self.outputs.extend(ended.map(Output::MappingClosed));
                }
            }
        }
    }

    /// A packet comes to the far end of the link up.
    fn leave(&mut self, now: Instant, packet: Packet) {
        match packet {
            Packet::Datagram(Datagram { from, to, payload }) => {
                if self.firewall.lets_udp_out() {
                    let mapping = self.nat.outbound(now, from, to);
                    self.outputs.push_back(Output::Datagram { mapping, to, payload });
                } else {
                    self.stats.blocked += 1;
                }
            }
            Packet::Segment(id, segment) => {
                let Some(stream) = self.streams.get_mut(&id) else {
                    return;
                };
                match self.firewall.judge_tcp(stream.to, self.target.http) {
                    Verdict::Passes => {
                        stream.handle_segment(Direction::Up, segment);
                        self.serve(now, id);
                    }
                    Verdict::Refused => {
                        self.down.send(now, stream::HEADER_BYTES, Packet::Reset(id));
                    }
                    Verdict::Vanishes => {}
                }
            }
            Packet::Ack(id, ack) => self.acknowledge(now, id, Direction::Up, ack),
            Packet::Reset(_) => {}
        }
    }

    /// A packet comes to the browser.
    fn arrive(&mut self, now: Instant, packet: Packet) {
        match packet {
            Packet::Datagram(datagram) => self.outputs.push_back(Output::Inside(datagram)),
            Packet::Segment(id, segment) => {
                if let Some(stream) = self.streams.get_mut(&id) {
                    stream.handle_segment(Direction::Down, segment);
                    self.serve(now, id);
                }
            }
            Packet::Ack(id, ack) => self.acknowledge(now, id, Direction::Down, ack),
            Packet::Reset(id) => self.fail(id, Failure::Refused),
        }
    }

    fn acknowledge(&mut self, now: Instant, id: StreamId, direction: Direction, ack: Ack) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.handle_ack(now, direction, ack);
            self.serve(now, id);
        }
    }

    /// Takes out of a stream what has happened on it, and puts on the links what it wants sent.
    fn serve(&mut self, now: Instant, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        while let Some(event) = stream.poll() {
            match event {
                Event::Open => self.outputs.push_back(Output::StreamOpen(id)),
                Event::Item(direction, item) => {
                    self.outputs.push_back(Output::StreamItem { id, direction, item });
                }
            }
        }
        let most = [self.up.config().mtu, self.down.config().mtu];
        while let Some(transmit) = stream.poll_transmit(now, most) {
            let (direction, size, packet) = match transmit {
                Transmit::Segment(direction, segment) => {
                    (direction, segment.wire_bytes(), Packet::Segment(id, segment))
                }
                Transmit::Ack(direction, ack) => (direction, stream::HEADER_BYTES, Packet::Ack(id, ack)),
            };
            match direction {
                Direction::Up => self.up.send(now, size, packet),
                Direction::Down => self.down.send(now, size, packet),
            };
        }
    }

    fn fail(&mut self, id: StreamId, failure: Failure) {
        if self.forget(id) {
            self.outputs.push_back(Output::StreamFailed(id, failure));
        }
    }

    /// Removes a stream, if it is there, and keeps what it adds to the figures.
    fn forget(&mut self, id: StreamId) -> bool {
        let Some(stream) = self.streams.remove(&id) else {
            return false;
        };
        self.stats.retransmitted_up += stream.retransmitted(Direction::Up);
        self.stats.retransmitted_down += stream.retransmitted(Direction::Down);
        true
    }

    /// The next scheduled event, which is due.
    fn happen(&mut self, at: Instant) {
        let Some(index) = self.schedule.iter().position(|(due, _)| *due <= at) else {
            return;
        };
        let what = match self.schedule[index].1.every {
            Some(every) => {
                self.schedule[index].0 = at + every;
                self.schedule[index].1.what.clone()
            }
            None => self.schedule.remove(index).1.what,
        };
        match what {
            Happening::Outage(length) => {
                self.up.take_down(at, at + length);
                self.down.take_down(at, at + length);
            }
            Happening::AddressChange => self.readdress(at),
            Happening::Rebind => self.forget_mappings(),
            Happening::Switch(spec) => self.become_like(at, &spec),
        }
    }

    fn readdress(&mut self, now: Instant) {
        self.up.cut(now);
        self.down.cut(now);
        self.forget_mappings();
        let streams: Vec<StreamId> = self.streams.keys().copied().collect();
        for id in streams {
            self.fail(id, Failure::AddressChanged);
        }
    }

    fn forget_mappings(&mut self) {
        let ended = self.nat.rebind();
        self.outputs.extend(ended.into_iter().map(Output::MappingClosed));
    }

    fn become_like(&mut self, now: Instant, spec: &NetworkSpec) {
        self.up.set_config(now, spec.up.clone());
        self.down.set_config(now, spec.down.clone());
        self.up.end_outages();
        self.down.end_outages();
        self.firewall = spec.firewall;
        let ended = self.nat.set_config(spec.nat);
        self.outputs.extend(ended.into_iter().map(Output::MappingClosed));
    }
}

#[cfg(test)]
mod tests;
