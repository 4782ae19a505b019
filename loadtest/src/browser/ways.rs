//! The ways of a peer connection that climbs: directly by UDP, by ICE-TCP, and over relays by UDP, TCP and TLS.
//!
//! It carries datagrams between the peer connection and the network, each in what its way wants around it: nothing,
//! the framing of RFC 4571, or TURN. Which way is taken is ICE's business ([`crate::peer`]), when relays are tried
//! [`super::ladder`]'s. Streams are numbered here and opened by whoever drives the browser, who also does the TLS.

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use bytes::{BufMut as _, Bytes, BytesMut};
use switchyard_signaling::message::Ice;

use super::{StreamOutput, ladder::Rung};
use crate::{
    netsim::Datagram,
    peer::Behind,
    turn::{
        client::{Carrier, Credentials, RelayEvent, Relayed},
        server::by_address,
    },
};

/// A relay whose allocation fails is asked again, from another port, so often: for one, somebody else may have had the
/// port before (RFC 8656 §7.5).
const RETRIES: u8 = 2;
/// The port that stands for all those that TCP connections leave from (RFC 6544 §4.5).
const TCP_PORT: u16 = 9;

/// A relay to try.
#[derive(Clone, Debug)]
pub(super) struct Server {
    address: SocketAddr,
    carrier: Carrier,
    tls: bool,
    credentials: Credentials,
}

/// The relays that a server names, by address.
pub(super) fn relays_of(ice: &Ice) -> Vec<Server> {
    let mut relays = Vec::new();
    for server in &ice.ice_servers {
        let (Some(username), Some(password)) = (&server.username, &server.credential) else { continue };
        let credentials = Credentials { username: username.clone(), password: password.clone() };
        relays.extend(server.urls.iter().filter_map(|uri| {
            let (address, carrier, tls) = by_address(uri)?;
            Some(Server { address, carrier, tls, credentials: credentials.clone() })
        }));
    }
    relays
}

/// What has come for the peer connection.
#[derive(Debug)]
pub(super) enum Arrival {
    /// A way is open under this address.
    Way(SocketAddr, Behind, u8),
    /// A datagram at the address of a way; the direct one has none.
    Datagram { at: Option<SocketAddr>, from: SocketAddr, payload: Bytes },
}

#[derive(Debug)]
enum Wire {
    Stream(u64),
    Port(SocketAddr),
}

struct Relay {
    server: Server,
    wire: Wire,
    /// Once its stream is open.
    relayed: Option<Relayed>,
    address: Option<SocketAddr>,
    is_open: bool,
    retries: u8,
}

struct Tcp {
    stream: u64,
    address: SocketAddr,
    input: BytesMut,
}

/// See the module.
#[derive(Default)]
pub(super) struct Ways {
    /// Where the direct datagrams leave from.
    local: Option<SocketAddr>,
    /// The server, by UDP.
    server: Option<SocketAddr>,
    tcp: Option<Tcp>,
    relays: Vec<Relay>,
    next_stream: u64,
    next_port: u16,
    now: Option<Instant>,
    datagrams: VecDeque<Datagram>,
    streams: VecDeque<StreamOutput>,
    arrivals: VecDeque<Arrival>,
}

impl Rung {
    fn of_relay(server: &Server) -> Self {
        match (server.carrier, server.tls) {
            (Carrier::Datagrams, _) => Self::RelayUdp,
            (Carrier::Stream, false) => Self::RelayTcp,
            (Carrier::Stream, true) => Self::RelayTls,
        }
    }
}

impl Ways {
    /// A new peer connection from this address, and the relays it may use.
    pub(super) fn begin(&mut self, now: Instant, local: SocketAddr, relays: Vec<Server>) {
        self.end(now);
        self.local = Some(local);
        for server in relays {
            self.ask(now, server, 0);
        }
    }

    /// The server's answer says where it is.
    pub(super) fn handle_answer(&mut self, now: Instant, sdp: &str) {
        self.now = Some(now);
        let candidates = sdp.lines().filter_map(|line| line.trim_end().strip_prefix("a=candidate:"));
        for candidate in candidates {
            let words: Vec<&str> = candidate.split(' ').collect();
            let [_, _, transport, _, ip, port, ..] = words[..] else { continue };
            let (Ok(ip), Ok(port)) = (ip.parse::<IpAddr>(), port.parse()) else { continue };
            let address = SocketAddr::new(ip, port);
            match transport {
                "udp" if self.server.is_none() => self.server = Some(address),
                "tcp" if self.tcp.is_none() && candidate.ends_with("tcptype passive") => {
                    let Some(local) = self.local else { continue };
                    let stream = self.open(address, false);
                    let own = SocketAddr::new(local.ip(), TCP_PORT);
                    self.tcp = Some(Tcp { stream, address: own, input: BytesMut::new() });
                }
                _ => {}
            }
        }
        // What has been allocated by now waited to know for whom.
        for index in 0..self.relays.len() {
            self.permit(now, index);
        }
    }

    /// The peer connection is gone: streams are closed and allocations given back.
    pub(super) fn end(&mut self, now: Instant) {
        self.now = Some(now);
        for index in 0..self.relays.len() {
            let relay = &mut self.relays[index];
            // Nothing more is asked for, whatever it says.
            relay.is_open = true;
            if let Some(relayed) = &mut relay.relayed {
                relayed.close(now);
            }
            self.drain(now, index);
        }
        let streams = self.relays.iter().filter_map(|relay| match relay.wire {
            Wire::Stream(stream) => Some(stream),
            Wire::Port(_) => None,
        });
        let streams = streams.chain(self.tcp.iter().map(|tcp| tcp.stream));
        self.streams.extend(streams.map(StreamOutput::Close));
        self.relays.clear();
        (self.tcp, self.server) = (None, None);
        self.arrivals.clear();
    }

    /// Direct datagrams leave from another address from now on.
    pub(super) fn change_address(&mut self, address: SocketAddr) {
        self.local = Some(address);
    }

    /// The rung that the peer connection is on, given which of its addresses it uses.
    pub(super) fn rung(&self, selected: SocketAddr) -> Rung {
        if self.tcp.as_ref().is_some_and(|tcp| tcp.address == selected) {
            return Rung::Tcp;
        }
        let relay = self.relays.iter().find(|relay| relay.address == Some(selected));
        relay.map_or(Rung::Udp, |relay| Rung::of_relay(&relay.server))
    }

    // ---- from the peer connection to the network

    /// A datagram of the peer connection.
    pub(super) fn send(&mut self, datagram: Datagram) {
        let Some(now) = self.now else { return };
        if let Some(tcp) = self.tcp.as_ref().filter(|tcp| tcp.address == datagram.from) {
            let mut frame = BytesMut::with_capacity(datagram.payload.len() + 2);
            frame.put_u16(datagram.payload.len() as u16);
            frame.extend_from_slice(&datagram.payload);
            return self.streams.push_back(StreamOutput::Bytes(tcp.stream, frame.freeze()));
        }
        let Some(index) = self.relays.iter().position(|relay| relay.address == Some(datagram.from)) else {
            return self.datagrams.push_back(datagram);
        };
        if let Some(relayed) = &mut self.relays[index].relayed {
            // What cannot be sent is lost, as a datagram may be.
            let _ = relayed.send(now, datagram.to, &datagram.payload);
        }
        self.drain(now, index);
    }

    pub(super) fn poll_datagram(&mut self) -> Option<Datagram> {
        self.datagrams.pop_front()
    }

    pub(super) fn poll_stream(&mut self) -> Option<StreamOutput> {
        self.streams.pop_front()
    }

    // ---- from the network to the peer connection

    /// A datagram has arrived at this port of the browser's.
    pub(super) fn handle_datagram(&mut self, now: Instant, to: SocketAddr, from: SocketAddr, payload: &[u8]) {
        self.now = Some(now);
        let of = |relay: &Relay| {
            matches!(relay.wire, Wire::Port(port) if port.port() == to.port()) && relay.server.address == from
        };
        if let Some(index) = self.relays.iter().position(of) {
            return self.feed(now, index, payload);
        }
        if self.local.is_some_and(|local| local.port() == to.port()) {
            let payload = Bytes::copy_from_slice(payload);
            self.arrivals.push_back(Arrival::Datagram { at: None, from, payload });
        }
    }

    pub(super) fn handle_stream_open(&mut self, now: Instant, stream: u64) {
        self.now = Some(now);
        if let Some(tcp) = self.tcp.as_ref().filter(|tcp| tcp.stream == stream) {
            let way = Arrival::Way(tcp.address, Behind::Tcp, 0);
            return self.arrivals.push_back(way);
        }
        if let Some(index) = self.of_stream(stream) {
            self.allocate(now, index);
        }
    }

    pub(super) fn handle_stream_bytes(&mut self, now: Instant, stream: u64, bytes: &[u8]) {
        self.now = Some(now);
        if let Some(index) = self.of_stream(stream) {
            return self.feed(now, index, bytes);
        }
        let (Some(tcp), Some(server)) = (&mut self.tcp, self.server) else { return };
        if tcp.stream != stream {
            return;
        }
        tcp.input.extend_from_slice(bytes);
        while let Some(&[high, low]) = tcp.input.first_chunk()
            && let length = usize::from(u16::from_be_bytes([high, low]))
            && tcp.input.len() >= length + 2
        {
            let payload = tcp.input.split_to(length + 2).freeze().slice(2..);
            // To ICE both transports of the server are one.
            self.arrivals.push_back(Arrival::Datagram { at: Some(tcp.address), from: server, payload });
        }
    }

    /// The stream could not be opened, or has ended.
    pub(super) fn handle_stream_closed(&mut self, now: Instant, stream: u64) {
        self.now = Some(now);
        if let Some(index) = self.of_stream(stream) {
            self.relays.remove(index);
        }
    }

    pub(super) fn poll_arrival(&mut self) -> Option<Arrival> {
        self.arrivals.pop_front()
    }

    // ---- time

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.now = Some(now);
        for index in (0..self.relays.len()).rev() {
            let Some(relayed) = &mut self.relays[index].relayed else { continue };
            if relayed.poll_timeout().is_some_and(|at| at <= now) {
                relayed.handle_timeout(now);
                self.drain(now, index);
            }
        }
    }

    pub(super) fn poll_timeout(&mut self) -> Option<Instant> {
        self.relays.iter_mut().filter_map(|relay| relay.relayed.as_mut()?.poll_timeout()).min()
    }

    // ---- relays

    fn ask(&mut self, now: Instant, server: Server, retries: u8) {
        let Some(local) = self.local else { return };
        let wire = match server.carrier {
            Carrier::Stream => Wire::Stream(self.open(server.address, server.tls)),
            Carrier::Datagrams => {
                self.next_port = self.next_port % 1000 + 1;
                Wire::Port(SocketAddr::new(local.ip(), local.port().wrapping_add(self.next_port)))
            }
        };
        let is_ready = matches!(wire, Wire::Port(_));
        self.relays.push(Relay { server, wire, relayed: None, address: None, is_open: false, retries });
        if is_ready {
            self.allocate(now, self.relays.len() - 1);
        }
    }

    fn allocate(&mut self, now: Instant, index: usize) {
        let Server { address, carrier, credentials, .. } = self.relays[index].server.clone();
        self.relays[index].relayed = Relayed::new(now, address, carrier, credentials).ok();
        self.drain(now, index);
    }

    fn feed(&mut self, now: Instant, index: usize, bytes: &[u8]) {
        if let Some(relayed) = &mut self.relays[index].relayed {
            relayed.handle_bytes(now, bytes);
        }
        self.drain(now, index);
    }

    /// Takes what a relay has to say and to send.
    fn drain(&mut self, now: Instant, index: usize) {
        loop {
            let Some(relay) = self.relays.get_mut(index) else { return };
            let Some(relayed) = &mut relay.relayed else { return };
            while let Some(payload) = relayed.poll_transmit() {
                match relay.wire {
                    Wire::Stream(stream) => self.streams.push_back(StreamOutput::Bytes(stream, payload)),
                    Wire::Port(from) => {
                        self.datagrams.push_back(Datagram { from, to: relay.server.address, payload })
                    }
                }
            }
            match relayed.poll_event() {
                None => return,
                Some(RelayEvent::Allocated(address)) => {
                    relay.address = Some(address);
                    self.permit(now, index);
                }
                Some(RelayEvent::Permitted(_)) if !relay.is_open => {
                    relay.is_open = true;
                    if let Some(address) = relay.address {
                        let preference = Rung::of_relay(&relay.server) as u8;
                        self.arrivals.push_back(Arrival::Way(address, Behind::Relay, preference));
                    }
                }
                Some(RelayEvent::Data(from, payload)) => {
                    let at = relay.address;
                    self.arrivals.push_back(Arrival::Datagram { at, from, payload });
                }
                Some(RelayEvent::Failed(_)) if !relay.is_open => return self.ask_again(now, index),
                Some(RelayEvent::Permitted(_) | RelayEvent::Bound(_) | RelayEvent::Failed(_)) => {}
            }
        }
    }

    /// Lets the server's datagrams in, if there is an allocation for them and the server is known.
    fn permit(&mut self, now: Instant, index: usize) {
        let Some(server) = self.server else { return };
        let Some(relay) = self.relays.get_mut(index) else { return };
        if let Some(relayed) = relay.relayed.as_mut().filter(|_| relay.address.is_some()) {
            relayed.permit(now, server);
            self.drain(now, index);
        }
    }

    fn ask_again(&mut self, now: Instant, index: usize) {
        let Relay { server, wire, retries, .. } = self.relays.remove(index);
        if let Wire::Stream(stream) = wire {
            self.streams.push_back(StreamOutput::Close(stream));
        }
        if retries < RETRIES {
            self.ask(now, server, retries + 1);
        }
    }

    fn open(&mut self, to: SocketAddr, tls: bool) -> u64 {
        self.next_stream += 1;
        self.streams.push_back(StreamOutput::Open { stream: self.next_stream, to, tls });
        self.next_stream
    }

    fn of_stream(&self, stream: u64) -> Option<usize> {
        self.relays.iter().position(|relay| matches!(relay.wire, Wire::Stream(of) if of == stream))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use switchyard_signaling::message::IceServer;

    use super::*;

    const ANSWER: &str = "a=candidate:1 1 udp 2130706431 192.0.2.1 7882 typ host\r\n\
                          a=candidate:2 1 tcp 1518214911 192.0.2.1 7881 typ host tcptype passive\r\n";

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn relays() -> Vec<Server> {
        let urls = [
            "turn:192.0.2.2:3478?transport=udp",
            "turn:192.0.2.2:3478?transport=tcp",
            "turns:192.0.2.2:443?transport=tcp",
            "turns:a.name.is.not.looked.up:443",
        ];
        let urls = urls.map(str::to_owned).to_vec();
        let (username, credential) = (Some("ada".to_owned()), Some("secret".to_owned()));
        let stun = IceServer { urls: vec!["stun:192.0.2.2".to_owned()], username: None, credential: None };
        let ice_servers = vec![stun, IceServer { urls, username, credential }];
        relays_of(&Ice { ice_servers, ice_ttl_ms: 1 })
    }

    #[test]
    fn the_relays_that_are_named_by_address_are_tried() {
        let rungs: Vec<Rung> = relays().iter().map(Rung::of_relay).collect();
        assert_eq!(rungs, [Rung::RelayUdp, Rung::RelayTcp, Rung::RelayTls]);
    }

    #[test]
    fn datagrams_pass_a_stream_whole_however_it_is_cut() {
        let now = Instant::now();
        for piece in 1..20 {
            let mut ways = Ways::default();
            ways.begin(now, address("10.0.0.1:5000"), Vec::new());
            ways.handle_answer(now, ANSWER);
            let open = StreamOutput::Open { stream: 1, to: address("192.0.2.1:7881"), tls: false };
            assert_eq!(ways.poll_stream(), Some(open));
            ways.handle_stream_open(now, 1);
            let Some(Arrival::Way(way, Behind::Tcp, _)) = ways.poll_arrival() else { panic!("no way") };
            assert_eq!(ways.rung(way), Rung::Tcp);
            for payload in [&b"one"[..], b"another", b""] {
                let payload = Bytes::from_static(payload);
                ways.send(Datagram { from: way, to: address("192.0.2.1:7882"), payload });
            }
            let bytes = std::iter::from_fn(|| match ways.poll_stream() {
                Some(StreamOutput::Bytes(1, bytes)) => Some(bytes),
                _ => None,
            });
            let bytes: Vec<u8> = bytes.flatten().collect();
            bytes.chunks(piece).for_each(|bytes| ways.handle_stream_bytes(now, 1, bytes));
            let come = std::iter::from_fn(|| match ways.poll_arrival() {
                Some(Arrival::Datagram { at, from, payload }) => {
                    assert_eq!((at, from), (Some(way), address("192.0.2.1:7882")));
                    Some(payload)
                }
                _ => None,
            });
            assert_eq!(come.collect::<Vec<_>>(), [&b"one"[..], b"another", b""], "in pieces of {piece}");
        }
    }

    #[test]
    fn a_relay_that_refuses_is_asked_from_two_more_ports_and_no_more() {
        let now = Instant::now();
        let mut ways = Ways::default();
        ways.begin(now, address("10.0.0.1:5000"), relays()[..1].to_vec());
        let mut ports = BTreeSet::new();
        while let Some(request) = ways.poll_datagram() {
            assert!(ports.insert(request.from.port()) && request.from.port() != 5000);
            // An error response without anything to go on with.
            let mut refusal = vec![0x01, 0x13, 0, 8];
            refusal.extend_from_slice(&request.payload[4..20]);
            refusal.extend_from_slice(&[0x00, 0x09, 0, 4, 0, 0, 4, 37]);
            ways.handle_datagram(now, request.from, request.to, &refusal);
        }
        assert_eq!((ports.len(), ways.poll_timeout()), (3, None));
    }

    #[test]
    fn what_has_ended_closes_its_streams_and_asks_for_nothing() {
        let now = Instant::now();
        let mut ways = Ways::default();
        ways.begin(now, address("10.0.0.1:5000"), relays());
        ways.handle_answer(now, ANSWER);
        ways.end(now);
        let streams: Vec<StreamOutput> = std::iter::from_fn(|| ways.poll_stream()).collect();
        let closed = |output: &&StreamOutput| matches!(output, StreamOutput::Close(_));
        assert_eq!((streams.len(), streams.iter().filter(closed).count()), (6, 3));
        ways.handle_stream_open(now, 1);
        assert!(ways.poll_arrival().is_none() && ways.poll_timeout().is_none());
    }
}
