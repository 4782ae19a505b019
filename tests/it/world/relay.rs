//! The relay of a world: the real sans-IO TURN server at an address of its own, and the hand-over to the shards in
//! memory, as `src/io/turn/thread.rs` does it. Peers outside are not reached: no client of a world asks for one.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    time::Instant,
};

use bytes::{Bytes, BytesMut};
use switchyard::engine::{path, path::Path, peers::Datagram};
use switchyard_turn_config::{
    framing::Stream,
    server::{AllocationId, Forward, Host, Link, Output, Server, Transport},
    settings::Turn,
};

use super::shard_address;

const IP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
/// Where it listens.
/// By UDP and by TCP.
pub(crate) const UDP: SocketAddr = SocketAddr::V4(SocketAddrV4::new(IP, 3478));
const TLS: SocketAddr = SocketAddr::V4(SocketAddrV4::new(IP, 443));

/// Something that is wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Its answers to requests get lost.
    LosesAnswers,
    /// It says that every allocation is somebody else's: error 437.
    RefusesAllocations,
    /// What is for the shards never gets there.
    DropsHandOver,
}

pub(crate) struct Relay {
    server: Server,
    pub(crate) fault: Option<Fault>,
    /// By connection: what has come of an unfinished message.
    streams: BTreeMap<u64, Stream>,
    for_clients: Vec<(Link, Bytes)>,
    for_shards: Vec<(usize, Datagram)>,
    /// Allocations that have ended.
    closed: Vec<Path>,
}

/// What clients are told, and the server is made of.
pub(crate) fn settings() -> Turn {
    let mut turn = Turn { host: Some(IP.to_string()), ..Turn::default() };
    turn.relay.bind_v4 = Some(IP);
    turn.listen.tls_port = TLS.port();
    turn
}

/// What listens for streams at an address.
pub(super) fn stream_at(address: SocketAddr) -> Option<Transport> {
    [(UDP, Transport::Tcp), (TLS, Transport::Tls)]
        .into_iter()
        .find(|(listens, _)| *listens == address)
        .map(|(_, transport)| transport)
}

impl Relay {
    pub(super) fn new(turn: &Turn, sfu: Vec<SocketAddr>, (now, unix): (Instant, u64), seed: u64) -> Self {
        let host = Host { addresses: vec![IP.into()], sfu, can_forbid_fragments: true };
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_be_bytes());
        let server = Server::new(turn, &host, now, unix, bytes).expect("the settings are right");
        Self {
            server,
            fault: None,
            streams: BTreeMap::new(),
            for_clients: Vec::new(),
            for_shards: Vec::new(),
            closed: Vec::new(),
        }
    }

    /// A datagram of a client, or the next bytes of its stream.
    pub(super) fn handle_client(&mut self, now: Instant, link: &Link, bytes: &[u8]) {
        if !link.transport.is_stream() {
            return self.handle_message(now, link, bytes);
        }
        let mut messages = Vec::new();
        let stream = self.streams.entry(link.connection).or_insert_with(|| Stream::new(now));
        let read = stream.handle(now, bytes, |message| messages.push(message.to_vec()));
        assert_eq!(read, Ok(()), "a client of the world writes what is no message");
        for message in messages {
            self.handle_message(now, link, &message);
        }
    }

    /// A client's stream has ended.
    pub(super) fn handle_closed(&mut self, now: Instant, link: &Link) {
        self.streams.remove(&link.connection);
        self.server.handle_closed(now, link);
        self.drain(now);
    }

    /// What a shard sends to an allocation.
    pub(super) fn handle_sfu(
        &mut self,
        now: Instant,
        path::AllocationId(id): path::AllocationId,
        from: SocketAddr,
        payload: &[u8],
    ) {
        let allocation = AllocationId { slot: id as u32, serial: (id >> 32) as u32 };
        if let Some(forward) = self.server.handle_sfu(now, allocation, from, payload) {
            self.pass_on(&forward);
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if self.poll_timeout().is_some_and(|at| at <= now) {
            self.server.handle_timeout(now);
            self.drain(now);
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.server.poll_timeout()
    }

    pub(super) fn take_for_clients(&mut self) -> Vec<(Link, Bytes)> {
        std::mem::take(&mut self.for_clients)
    }

    pub(super) fn take_for_shards(&mut self) -> Vec<(usize, Datagram)> {
        std::mem::take(&mut self.for_shards)
    }

    pub(super) fn take_closed(&mut self) -> Vec<Path> {
        std::mem::take(&mut self.closed)
    }

    fn handle_message(&mut self, now: Instant, link: &Link, message: &[u8]) {
        if let Some(forward) = self.server.handle_client(now, link, message) {
            self.pass_on(&forward);
        }
        self.drain(now);
    }

    fn pass_on(&mut self, forward: &Forward<'_>) {
        match *forward {
            Forward::Client { link, header, payload, padding } => {
                let parts = [header.as_bytes(), payload, &[0; 3][..padding]];
                self.for_clients.push((link, parts.concat().into()));
            }
            Forward::Sfu { .. } if self.fault == Some(Fault::DropsHandOver) => {}
            Forward::Sfu { allocation, from, to, payload } => {
                let shard = usize::from(to.port() - shard_address(0).port());
                let datagram = Datagram {
                    path: path_of(allocation),
                    source: from,
                    local_ip: Some(to.ip()),
                    contents: BytesMut::from(payload),
                };
                self.for_shards.push((shard, datagram));
            }
            Forward::Peer { peer, .. } => panic!("a client of the world has asked for the peer {peer}"),
        }
    }

    fn drain(&mut self, now: Instant) {
        while let Some(output) = self.server.poll_output() {
            match output {
                Output::Send { .. } if self.fault == Some(Fault::LosesAnswers) => {}
                Output::Send { link, bytes } => {
                    let bytes = match self.fault {
                        Some(Fault::RefusesAllocations) => refused(bytes),
                        _ => bytes,
                    };
                    self.for_clients.push((link, bytes.into()));
                }
                // Nobody is outside.
                Output::Open { relay, .. } => self.server.handle_opened(now, relay, false),
                Output::Close { .. } => {}
                Output::Ended { allocation, .. } => self.closed.push(path_of(allocation)),
            }
        }
    }
}

fn path_of(allocation: AllocationId) -> Path {
    Path::Relay(path::AllocationId(u64::from(allocation.serial) << 32 | u64::from(allocation.slot)))
}

/// An answer that grants an allocation, turned into error 437.
fn refused(answer: Vec<u8>) -> Vec<u8> {
    if answer[..2] != [0x01, 0x03] {
        return answer;
    }
    let mut refusal = vec![0x01, 0x13, 0, 8];
    refusal.extend_from_slice(&answer[4..20]);
    refusal.extend_from_slice(&[0x00, 0x09, 0, 4, 0, 0, 4, 37]);
    refusal
}
