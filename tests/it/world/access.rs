//! A client's access network in a world: links, NAT and firewall, and the modelled TCP of its WebSocket, of ICE-TCP and
//! of relays by TCP and TLS; and the server's ends of those streams, as `src/io/` has them.
//!
//! Beyond the access network there is nothing but the server: what comes out has arrived. Of TLS there are the round trip
//! of its handshake and the bytes that it adds.

use std::{
    collections::{BTreeMap, VecDeque},
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4},
    time::Instant,
};

use bytes::{Bytes, BytesMut};
use switchyard::engine::{
    demux,
    path::{Path, TcpId},
    peers,
};
use switchyard_loadtest::{
    adapter::Outbound,
    browser::{Browser, SocketOutput, StreamOutput},
    netsim::{Access, Direction, Failure, MappingId, NetworkSpec, Output, StreamId, Target},
    sockets::{Order, REACH, Sockets},
};
use switchyard_turn_config::server::{Link, Transport};

use super::{relay, shard_address, wire::Far};

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
/// Where the server answers HTTPS.
pub(crate) const HTTP: SocketAddr = SocketAddr::V4(SocketAddrV4::new(SERVER, 443));
/// Where it answers ICE-TCP.
pub(crate) const ICE_TCP: SocketAddr = SocketAddr::V4(SocketAddrV4::new(SERVER, 7881));
/// A WebSocket frame's header.
const FRAME_HEADER: usize = 8;
/// What the NAT's first mapping shows.
const FIRST_PORT: u16 = 20_000;

/// What passes a stream.
#[derive(Clone, Debug)]
pub(crate) enum Item {
    /// Of the WebSocket, from the browser.
    FromBrowser(SocketOutput),
    /// Of the WebSocket, to the browser.
    Text(String),
    Binary(Bytes),
    /// Of another stream.
    Bytes(Bytes),
}

/// What has come to the server.
pub(crate) enum Said {
    ToShard(usize, peers::Datagram),
    PathClosed(Path),
    ToRelay(Link, Bytes),
    RelayClosed(Link),
}

/// The server's end of a stream.
#[derive(Debug)]
enum End {
    IceTcp {
        connection: TcpId,
        input: BytesMut,
        shard: Option<usize>,
    },
    Relay(Link),
    /// Nothing listens there.
    Nobody,
}

/// What a WebSocket has become.
pub(crate) enum Turned {
    Open(u64),
    /// Given up or failed, and the server has not been told.
    Abandoned(u64),
}

/// A WebSocket of a page.
struct Socket {
    stream: StreamId,
    is_open: bool,
    /// Come to the server.
    arrived: VecDeque<SocketOutput>,
}

pub(crate) struct Line {
    pub(crate) access: Access<Item>,
    /// When WebSockets are opened.
    pub(crate) page: Sockets,
    public: IpAddr,
    ports: BTreeMap<MappingId, u16>,
    next_port: u16,
    /// By the page's numbers.
    sockets: BTreeMap<u64, Socket>,
    /// Questions over HTTP, and until when an answer counts.
    questions: BTreeMap<StreamId, Instant>,
    pub(super) turned: Vec<Turned>,
    /// The device's own address.
    inside: SocketAddr,
    /// The server does not answer.
    pub(super) is_down: bool,
    /// The others, and how the browser calls them.
    streams: BTreeMap<StreamId, (u64, End)>,
    /// The time, for what is asked without one.
    now: Instant,
}

impl Line {
    pub(super) fn new(
        now: Instant,
        spec: &NetworkSpec,
        (inside, public): (SocketAddr, IpAddr),
        seed: u64,
    ) -> Self {
        Self {
            page: Sockets::new(seed),
            inside,
            is_down: false,
            access: Access::new(now, spec, Target { http: HTTP, tls: true }, seed),
            public,
            ports: BTreeMap::new(),
            next_port: FIRST_PORT,
            sockets: BTreeMap::new(),
            questions: BTreeMap::new(),
            turned: Vec::new(),
            streams: BTreeMap::new(),
            now,
        }
    }

    /// The page wants a WebSocket now; another one, if it has one.
    pub(super) fn open_socket(&mut self, now: Instant, browser: &mut Browser) {
        self.page.renew(now, browser);
    }

    /// The server is gone, and says so to everybody who is connected.
    pub(super) fn lose_server(&mut self, now: Instant, browser: &mut Browser) {
        for (number, socket) in std::mem::take(&mut self.sockets) {
            self.access.close_stream(now, socket.stream);
            self.page.handle_closed(now, number, browser);
        }
        for (id, (name, _)) in std::mem::take(&mut self.streams) {
            self.access.close_stream(now, id);
            browser.handle_stream_closed(now, name);
        }
    }

    /// The server has closed a WebSocket.
    pub(super) fn closed_by_server(&mut self, now: Instant, number: u64, browser: &mut Browser) {
        if let Some(socket) = self.sockets.remove(&number) {
            self.access.close_stream(now, socket.stream);
            self.page.handle_closed(now, number, browser);
        }
    }

    /// The page's end of a WebSocket, for the server's.
    pub(super) fn far(&mut self, number: u64) -> FarSocket<'_> {
        FarSocket { line: self, number }
    }

    /// Whether the server may write into a WebSocket.
    pub(super) fn reads(&self, number: u64) -> bool {
        self.sockets.get(&number).is_some_and(|socket| self.access.can_send(socket.stream, Direction::Down))
    }

    fn number_of(&self, id: StreamId) -> Option<u64> {
        self.sockets.iter().find(|(_, socket)| socket.stream == id).map(|(number, _)| *number)
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        [self.access.poll_timeout(), self.page.poll_timeout()].into_iter().flatten().min()
    }

    /// Moves what can move, as far as the browser and the server. Returns whether the browser has to do with it.
    pub(super) fn carry(
        &mut self,
        browser: &mut Browser,
        now: Instant,
        touched: bool,
        next_connection: &mut u64,
        said: &mut Vec<Said>,
    ) -> bool {
        self.now = now;
        let mut moved = self.obey(browser);
        if touched {
            self.take_from(browser, next_connection, said);
        }
        while let Some(output) = self.access.poll(now) {
            moved = true;
            match output {
                Output::Datagram { mapping, to, payload } => self.leave(mapping, to, &payload, said),
                Output::Inside(datagram) => {
                    browser.handle_datagram_to(now, datagram.to, datagram.from, &datagram.payload);
                }
                Output::MappingClosed(mapping) => {
                    self.ports.remove(&mapping);
                }
                Output::StreamOpen(id) => self.stream_open(browser, id),
                Output::StreamFailed(id, failure) => self.stream_failed(browser, (id, failure), said),
                Output::StreamItem { id, direction, item } => self.pass(browser, (id, direction), item, said),
            }
            // What the browser answers goes into the network at the same instant.
            self.obey(browser);
            self.take_from(browser, next_connection, said);
        }
        moved
    }

    /// Does what the page wants of WebSockets; whether it wanted anything.
    fn obey(&mut self, browser: &mut Browser) -> bool {
        let now = self.now;
        let mut has_ordered = false;
        self.page.handle_timeout(now, browser);
        while let Some(order) = self.page.poll_order() {
            has_ordered = true;
            match order {
                Order::Open(number) => {
                    let stream = self.access.open_stream(now, HTTP);
                    self.sockets.insert(number, Socket { stream, is_open: false, arrived: VecDeque::new() });
                }
                Order::Close(number) => {
                    if let Some(socket) = self.sockets.remove(&number) {
                        self.access.close_stream(now, socket.stream);
                        self.turned.push(Turned::Abandoned(number));
                    }
                }
                Order::Ask => {
                    let id = self.access.open_stream(now, HTTP);
                    self.questions.insert(id, now + REACH);
                }
            }
            self.page.handle_timeout(now, browser);
        }
        has_ordered
    }

    fn stream_open(&mut self, browser: &mut Browser, id: StreamId) {
        let now = self.now;
        if let Some(until) = self.questions.remove(&id) {
            self.access.close_stream(now, id);
            if now < until && !self.is_down {
                self.page.reached(now, browser);
            }
        } else if let Some(number) = self.number_of(id) {
            if self.is_down {
                return self.closed_by_server(now, number, browser);
            }
            if let Some(socket) = self.sockets.get_mut(&number) {
                socket.is_open = true;
            }
            self.turned.push(Turned::Open(number));
            self.page.handle_open(now, number, browser);
        } else if let Some((name, _)) = self.streams.get(&id) {
            browser.handle_stream_open(now, *name);
        }
    }

    fn stream_failed(
        &mut self,
        browser: &mut Browser,
        (id, failure): (StreamId, Failure),
        said: &mut Vec<Said>,
    ) {
        let now = self.now;
        self.questions.remove(&id);
        if let Some(number) = self.number_of(id) {
            self.sockets.remove(&number);
            self.turned.push(Turned::Abandoned(number));
            self.page.handle_closed(now, number, browser);
            if failure == Failure::AddressChanged {
                // Its operating system tells the page of the network, and gives no packet from the old address out.
                let ip = match self.inside.ip() {
                    IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits() + (1 << 16)),
                    IpAddr::V6(_) => return,
                };
                self.inside.set_ip(ip.into());
                browser.handle_network_change(now, self.inside);
            }
        }
        if let Some((name, end)) = self.streams.remove(&id) {
            said.extend(closed(&end));
            browser.handle_stream_closed(now, name);
        }
    }

    fn take_from(&mut self, browser: &mut Browser, next_connection: &mut u64, said: &mut Vec<Said>) {
        let now = self.now;
        while let Some(datagram) = browser.poll_datagram() {
            if datagram.from.ip() == self.inside.ip() {
                self.access.send_datagram(now, datagram);
            }
        }
        while let Some(output) = browser.poll_stream() {
            match output {
                StreamOutput::Open { stream, to, tls } => {
                    let connection = *next_connection;
                    *next_connection += 1;
                    let id = self.access.connect(now, to, tls);
                    let end = self.end_at(to, connection);
                    self.streams.insert(id, (stream, end));
                }
                StreamOutput::Bytes(stream, bytes) => {
                    if let Some(id) = self.id_of(stream) {
                        self.access.send(now, id, Direction::Up, bytes.len(), Item::Bytes(bytes));
                    }
                }
                StreamOutput::Close(stream) => {
                    if let Some(id) = self.id_of(stream)
                        && let Some((_, end)) = self.streams.remove(&id)
                    {
                        self.access.close_stream(now, id);
                        said.extend(closed(&end));
                    }
                }
            }
        }
        for (&number, socket) in &self.sockets {
            while socket.is_open
                && self.access.can_send(socket.stream, Direction::Up)
                && let Some(output) = self.page.poll_socket(number, browser)
            {
                let output = match output {
                    Outbound::Text(text) => SocketOutput::Text(text),
                    Outbound::Binary(message) => SocketOutput::Binary(message),
                    Outbound::Ping(_) => continue,
                };
                let size = match &output {
                    SocketOutput::Text(text) => text.len(),
                    SocketOutput::Binary(message) => message.len(),
                };
                let item = Item::FromBrowser(output);
                self.access.send(now, socket.stream, Direction::Up, size + FRAME_HEADER, item);
            }
        }
    }

    fn end_at(&mut self, to: SocketAddr, connection: u64) -> End {
        if to == ICE_TCP {
            return End::IceTcp { connection: TcpId(connection), input: BytesMut::new(), shard: None };
        }
        let Some(transport) = relay::stream_at(to) else { return End::Nobody };
        let remote = SocketAddr::new(self.public, self.port());
        End::Relay(Link { transport, connection, remote, local: to })
    }

    fn id_of(&self, stream: u64) -> Option<StreamId> {
        self.streams.iter().find(|(_, (name, _))| *name == stream).map(|(id, _)| *id)
    }

    fn port(&mut self) -> u16 {
        self.next_port += 1;
        self.next_port
    }

    /// A datagram has left the NAT for the server.
    fn leave(&mut self, mapping: MappingId, to: SocketAddr, payload: &Bytes, said: &mut Vec<Said>) {
        let port = match self.ports.get(&mapping) {
            Some(port) => *port,
            None => {
                let port = self.port();
                *self.ports.entry(mapping).or_insert(port)
            }
        };
        let from = SocketAddr::new(self.public, port);
        if to.ip() == IpAddr::V4(SERVER) {
            let shard = usize::from(to.port().wrapping_sub(shard_address(0).port()));
            said.push(Said::ToShard(shard, datagram(Path::Udp(from), from, payload)));
        } else if to == relay::UDP {
            let link = Link { transport: Transport::Udp, connection: 0, remote: from, local: to };
            said.push(Said::ToRelay(link, payload.clone()));
        }
    }

    /// Something has passed a stream.
    fn pass(
        &mut self,
        browser: &mut Browser,
        (id, direction): (StreamId, Direction),
        item: Item,
        said: &mut Vec<Said>,
    ) {
        let (item, now) = match item {
            Item::FromBrowser(output) => {
                let mut sockets = self.sockets.values_mut();
                if let Some(socket) = sockets.find(|socket| socket.stream == id) {
                    socket.arrived.push_back(output);
                }
                return;
            }
            Item::Text(text) => {
                let Some(number) = self.number_of(id) else { return };
                return self.page.handle_text(self.now, number, &text, browser);
            }
            Item::Binary(message) => {
                let Some(number) = self.number_of(id) else { return };
                return self.page.handle_binary(self.now, number, message, browser);
            }
            Item::Bytes(bytes) => (bytes, self.now),
        };
        let Some((name, end)) = self.streams.get_mut(&id) else { return };
        match end {
            _ if direction == Direction::Down => browser.handle_stream_bytes(now, *name, &item),
            End::IceTcp { connection, input, shard } => {
                input.extend_from_slice(&item);
                while let Some(&[high, low]) = input.first_chunk()
                    && let length = usize::from(u16::from_be_bytes([high, low]))
                    && input.len() >= length + 2
                {
                    let frame = input.split_to(length + 2).freeze().slice(2..);
                    let of = || demux::ufrag_of(&frame).and_then(demux::shard_of_ufrag).map(usize::from);
                    *shard = shard.or_else(of);
                    let Some(shard) = *shard else { continue };
                    let source = SocketAddr::new(self.public, FIRST_PORT);
                    said.push(Said::ToShard(shard, datagram(Path::Tcp(*connection), source, &frame)));
                }
            }
            End::Relay(link) => said.push(Said::ToRelay(*link, item)),
            End::Nobody => {}
        }
    }

    // ---- from the server

    /// A datagram comes to the NAT.
    pub(super) fn handle_datagram(&mut self, now: Instant, from: SocketAddr, to: SocketAddr, payload: Bytes) {
        let mapping = self.ports.iter().find(|(_, port)| **port == to.port()).map(|(mapping, _)| *mapping);
        if let Some(mapping) = mapping {
            self.access.handle_datagram(now, mapping, from, payload);
        }
    }

    /// A datagram for an ICE-TCP connection; false if that is not here.
    pub(super) fn handle_ice_tcp(&mut self, now: Instant, connection: TcpId, payload: &[u8]) -> bool {
        let is_it = |end: &End| matches!(end, End::IceTcp { connection: of, .. } if *of == connection);
        let Some((&id, _)) = self.streams.iter().find(|(_, (_, end))| is_it(end)) else { return false };
        let mut frame = (payload.len() as u16).to_be_bytes().to_vec();
        frame.extend_from_slice(payload);
        self.access.send(now, id, Direction::Down, frame.len(), Item::Bytes(frame.into()));
        true
    }

    /// What the relay has for a client.
    pub(super) fn handle_relay(&mut self, now: Instant, link: &Link, bytes: Bytes) {
        if link.transport == Transport::Udp {
            return self.handle_datagram(now, link.local, link.remote, bytes);
        }
        let is_it = |end: &End| matches!(end, End::Relay(of) if of == link);
        if let Some((&id, _)) = self.streams.iter().find(|(_, (_, end))| is_it(end)) {
            self.access.send(now, id, Direction::Down, bytes.len(), Item::Bytes(bytes));
        }
    }
}

/// The server's end of a WebSocket talks to the browser through the network.
pub(super) struct FarSocket<'a> {
    line: &'a mut Line,
    number: u64,
}

impl Far for FarSocket<'_> {
    fn poll_socket(&mut self) -> Option<SocketOutput> {
        self.line.sockets.get_mut(&self.number)?.arrived.pop_front()
    }

    fn reads_socket(&self) -> bool {
        self.line.reads(self.number)
    }

    fn handle_text(&mut self, now: Instant, text: &str) {
        self.send(now, text.len(), Item::Text(text.to_owned()));
    }

    fn handle_binary(&mut self, now: Instant, message: Bytes) {
        self.send(now, message.len(), Item::Binary(message));
    }
}

impl FarSocket<'_> {
    fn send(&mut self, now: Instant, size: usize, item: Item) {
        if let Some(socket) = self.line.sockets.get(&self.number) {
            self.line.access.send(now, socket.stream, Direction::Down, size + FRAME_HEADER, item);
        }
    }
}

fn datagram(path: Path, source: SocketAddr, payload: &[u8]) -> peers::Datagram {
    peers::Datagram { path, source, local_ip: None, contents: BytesMut::from(payload) }
}

/// What the server learns when a stream ends.
fn closed(end: &End) -> Option<Said> {
    match end {
        End::IceTcp { connection, .. } => Some(Said::PathClosed(Path::Tcp(*connection))),
        End::Relay(link) => Some(Said::RelayClosed(*link)),
        End::Nobody => None,
    }
}
