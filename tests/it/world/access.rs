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
    browser::{Browser, SocketOutput, StreamOutput},
    netsim::{Access, Direction, MappingId, NetworkSpec, Output, StreamId, Target},
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

pub(crate) struct Line {
    pub(crate) access: Access<Item>,
    public: IpAddr,
    ports: BTreeMap<MappingId, u16>,
    next_port: u16,
    /// The WebSocket's, and whether it is open.
    socket: Option<(StreamId, bool)>,
    /// The others, and how the browser calls them.
    streams: BTreeMap<StreamId, (u64, End)>,
    /// Of the WebSocket, come to the server.
    arrived: VecDeque<SocketOutput>,
    /// The time, for what is asked without one.
    now: Instant,
}

impl Line {
    pub(super) fn new(now: Instant, spec: &NetworkSpec, public: IpAddr, seed: u64) -> Self {
        Self {
            access: Access::new(now, spec, Target { http: HTTP, tls: true }, seed),
            public,
            ports: BTreeMap::new(),
            next_port: FIRST_PORT,
            socket: None,
            streams: BTreeMap::new(),
            arrived: VecDeque::new(),
            now,
        }
    }

    pub(super) fn open_socket(&mut self, now: Instant) {
        self.close_socket(now);
        self.socket = Some((self.access.open_stream(now, HTTP), false));
    }

    pub(super) fn close_socket(&mut self, now: Instant) {
        if let Some((id, _)) = self.socket.take() {
            self.access.close_stream(now, id);
        }
        self.arrived.clear();
    }

    /// Whether the WebSocket is open.
    pub(super) fn is_open(&self) -> bool {
        self.socket.is_some_and(|(_, is_open)| is_open)
    }

    /// Whether there is a WebSocket, open or about to be.
    pub(crate) fn has_socket(&self) -> bool {
        self.socket.is_some()
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.access.poll_timeout()
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
        if touched {
            self.take_from(browser, next_connection, said);
        }
        let mut moved = false;
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
                Output::StreamOpen(id) => match &mut self.socket {
                    Some((socket, is_open)) if *socket == id => *is_open = true,
                    _ => {
                        if let Some((name, _)) = self.streams.get(&id) {
                            browser.handle_stream_open(now, *name);
                        }
                    }
                },
                Output::StreamFailed(id, _) => {
                    self.socket.take_if(|(socket, _)| *socket == id);
                    if let Some((name, end)) = self.streams.remove(&id) {
                        said.extend(closed(&end));
                        browser.handle_stream_closed(now, name);
                    }
                }
                Output::StreamItem { id, direction, item } => self.pass(browser, (id, direction), item, said),
            }
            // What the browser answers goes into the network at the same instant.
            self.take_from(browser, next_connection, said);
        }
        moved
    }

    fn take_from(&mut self, browser: &mut Browser, next_connection: &mut u64, said: &mut Vec<Said>) {
        let now = self.now;
        while let Some(datagram) = browser.poll_datagram() {
            self.access.send_datagram(now, datagram);
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
        while let Some((id, true)) = self.socket
            && self.access.can_send(id, Direction::Up)
            && let Some(output) = browser.poll_socket()
        {
            let size = match &output {
                SocketOutput::Text(text) => text.len(),
                SocketOutput::Binary(message) => message.len(),
            };
            self.access.send(now, id, Direction::Up, size + FRAME_HEADER, Item::FromBrowser(output));
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
            Item::FromBrowser(output) => return self.arrived.push_back(output),
            Item::Text(text) => return browser.handle_text(self.now, &text),
            Item::Binary(message) => return browser.handle_binary(self.now, message),
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

/// The server's end of the WebSocket talks to the browser through the network.
impl Far for Line {
    fn poll_socket(&mut self) -> Option<SocketOutput> {
        self.arrived.pop_front()
    }

    fn reads_socket(&self) -> bool {
        self.socket.is_some_and(|(id, _)| self.access.can_send(id, Direction::Down))
    }

    fn handle_text(&mut self, now: Instant, text: &str) {
        if let Some((id, _)) = self.socket {
            let size = text.len() + FRAME_HEADER;
            self.access.send(now, id, Direction::Down, size, Item::Text(text.to_owned()));
        }
    }

    fn handle_binary(&mut self, now: Instant, message: Bytes) {
        if let Some((id, _)) = self.socket {
            let size = message.len() + FRAME_HEADER;
            self.access.send(now, id, Direction::Down, size, Item::Binary(message));
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
