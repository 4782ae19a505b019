//! The relay's UDP sockets: those that clients send to, and one for each allocation with a peer outside.

use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::AsRawFd as _,
};

use mio::{Interest, Registry, Token, unix::SourceFd};
use quinn_udp::UdpSocketState;
use rustix::net::sockopt::{self, Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery};
use switchyard_turn_config::server::{AllocationId, Family, Link, RelaySocket};

use crate::{
    engine::transmit::Transmit,
    io::udp::{self, ReceiveBuffer},
};

/// A socket of either kind.
#[derive(Debug)]
pub(super) struct Socket {
    local: SocketAddr,
    socket: UdpSocket,
    state: UdpSocketState,
}

impl Socket {
    /// Takes a bound socket; an event for it is to have this token.
    pub(super) fn new(socket: UdpSocket, registry: &Registry, token: Token) -> io::Result<Self> {
        let state = UdpSocketState::new((&socket).into())?;
        let socket = Self { local: socket.local_addr()?, socket, state };
        // That state lets nothing be fragmented. Whoever relays does not know what its clients count on.
        socket.forbid_fragments(false)?;
        registry.register(&mut SourceFd(&socket.socket.as_raw_fd()), token, Interest::READABLE)?;
        Ok(socket)
    }

    /// What it is bound to.
    pub(super) fn local(&self) -> SocketAddr {
        self.local
    }

    /// Takes one batch of at most `most` messages; whether there may be more.
    pub(super) fn receive(
        &self,
        buffer: &mut ReceiveBuffer,
        most: usize,
        mut handle: impl FnMut(SocketAddr, Option<IpAddr>, &[u8]),
    ) -> bool {
        let received = buffer.receive(
            most,
            &mut |slices, metas| self.state.recv((&self.socket).into(), slices, metas),
            |meta, datagram| handle(meta.addr, meta.dst_ip, datagram),
        );
        match received {
            Ok(count) => count == most,
            // An error is a peer's (an ICMP message for what was sent), and there may be datagrams behind it.
            Err(error) => error.kind() != io::ErrorKind::WouldBlock,
        }
    }

    /// Sends; what the kernel does not take is lost, as on any network.
    pub(super) fn send<W>(
        &self,
        far: SocketAddr,
        local_ip: Option<IpAddr>,
        transmit: &Transmit<'_, W>,
    ) -> io::Result<()> {
        let local_ip = local_ip.filter(|_| self.local.ip().is_unspecified());
        udp::send(&self.state, far, local_ip, transmit, |message| {
            self.state.try_send((&self.socket).into(), message)
        })
    }

    /// The same, where routers may not fragment it (RFC 8656 §12). Few ask for it, so it may cost two calls more.
    pub(super) fn send_whole<W>(&self, far: SocketAddr, transmit: &Transmit<'_, W>) -> io::Result<()> {
        self.forbid_fragments(true)?;
        let sent = self.send(far, None, transmit);
        self.forbid_fragments(false)?;
        sent
    }

    fn forbid_fragments(&self, forbid: bool) -> io::Result<()> {
        if self.local.is_ipv4() {
            let value = if forbid { Ipv4PathMtuDiscovery::DO } else { Ipv4PathMtuDiscovery::DONT };
            return Ok(sockopt::set_ip_mtu_discover(&self.socket, value)?);
        }
        // Only hosts fragment IPv6, so this is about what leaves here.
        let value = if forbid { Ipv6PathMtuDiscovery::DO } else { Ipv6PathMtuDiscovery::DONT };
        Ok(sockopt::set_ipv6_mtu_discover(&self.socket, value)?)
    }
}

/// The sockets of allocations.
#[derive(Debug, Default)]
pub(super) struct Relays(Vec<[Option<Relay>; 2]>);

#[derive(Debug)]
struct Relay {
    of: RelaySocket,
    socket: Socket,
}

impl Relays {
    /// Opens one. Its events have the token that belongs to its [index](Self::index).
    pub(super) fn open(
        &mut self,
        relay: RelaySocket,
        bind: SocketAddr,
        registry: &Registry,
        token: Token,
    ) -> io::Result<()> {
        let slot = relay.allocation.slot as usize;
        if self.0.len() <= slot {
            self.0.resize_with(slot + 1, Default::default);
        }
        let socket = Socket::new(udp::bind_one(bind)?, registry, token)?;
        self.0[slot][relay.family as usize] = Some(Relay { of: relay, socket });
        Ok(())
    }

    /// Closes one.
    pub(super) fn close(&mut self, relay: RelaySocket) {
        let sockets = self.0.get_mut(relay.allocation.slot as usize);
        if let Some(place) = sockets.map(|sockets| &mut sockets[relay.family as usize])
            && place.as_ref().is_some_and(|found| found.of == relay)
        {
            *place = None;
        }
    }

    /// A number below 2³³ for it, unlike that of any other that is open.
    pub(super) fn index(relay: RelaySocket) -> usize {
        relay.allocation.slot as usize * 2 + relay.family as usize
    }

    /// The one with this number.
    pub(super) fn at(&self, index: usize) -> Option<(RelaySocket, &Socket)> {
        let relay = self.0.get(index / 2)?[index % 2].as_ref()?;
        Some((relay.of, &relay.socket))
    }

    /// This one, if it is open.
    pub(super) fn get(&self, allocation: AllocationId, family: Family) -> Option<&Socket> {
        let (relay, socket) = self.at(allocation.slot as usize * 2 + family as usize)?;
        (relay.allocation == allocation).then_some(socket)
    }

    /// How many are open.
    pub(super) fn len(&self) -> usize {
        self.0.iter().flatten().flatten().count()
    }
}

/// The listening socket that a client's datagrams come to.
pub(super) fn listener_of(listeners: &[Socket], link: &Link) -> Option<usize> {
    listeners.iter().position(|listener| {
        let local = listener.local;
        local.is_ipv4() == link.local.is_ipv4()
            && local.port() == link.local.port()
            && (local.ip().is_unspecified() || local.ip() == link.local.ip())
    })
}
