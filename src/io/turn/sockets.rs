//! The relay's UDP sockets: those that clients send to, and one for each allocation with a peer outside.
//!
//! Datagrams that lie together for one far end leave with GSO, single ones of many clients with `sendmmsg`, and each call
//! carries the control data that it needs, for most of what a datagram costs here is the system call.

use std::{
    io::{self, IoSlice},
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::AsRawFd as _,
};

use mio::{Interest, Registry, Token, unix::SourceFd};
use nix::{
    libc::{in_addr, in_pktinfo, in6_addr, in6_pktinfo},
    sys::socket::{
        self, ControlMessage, MsgFlags, MultiHeaders, SockaddrStorage, cmsg_space, setsockopt,
        sockopt::{Ipv4PacketInfo, Ipv6RecvPacketInfo, ReceiveTimestampns},
    },
};
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

/// A datagram to the far end of this address.
pub(super) type Single<'a> = (SocketAddr, &'a [u8]);

/// Those of one call, at most.
const MOST: usize = 64;

impl Socket {
    /// Takes a bound socket; an event for it is to have this token.
    pub(super) fn new(socket: UdpSocket, registry: &Registry, token: Token) -> io::Result<Self> {
        let state = UdpSocketState::new((&socket).into())?;
        let socket = Self { local: socket.local_addr()?, socket, state };
        // That state lets nothing be fragmented. Whoever relays does not know what its clients count on.
        socket.forbid_fragments(false)?;
        socket.ask_for_less()?;
        registry.register(&mut SourceFd(&socket.socket.as_raw_fd()), token, Interest::READABLE)?;
        Ok(socket)
    }

    /// Switches off what would come along with each datagram (time and class of service, and the address that it was sent
    /// to, where there is but one) and is not looked at here.
    fn ask_for_less(&self) -> io::Result<()> {
        let is_bound = !self.local.ip().is_unspecified();
        setsockopt(&self.socket, ReceiveTimestampns, &false)?;
        if self.local.is_ipv4() {
            sockopt::set_ip_recvtos(&self.socket, false)?;
            setsockopt(&self.socket, Ipv4PacketInfo, &!is_bound)?;
        } else {
            sockopt::set_ipv6_recvtclass(&self.socket, false)?;
            setsockopt(&self.socket, Ipv6RecvPacketInfo, &!is_bound)?;
        }
        Ok(())
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
        if local_ip.is_none() && transmit.contents.len() <= transmit.segment {
            return self.socket.send_to(transmit.contents, far).map(drop);
        }
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

    /// Sends a datagram to each of these, from this address; how many the kernel did not take.
    pub(super) fn send_each(&self, local_ip: Option<IpAddr>, singles: &[Single<'_>]) -> u64 {
        let local_ip = local_ip.filter(|_| self.local.ip().is_unspecified());
        singles.chunks(MOST).map(|singles| self.send_some(local_ip, singles)).sum()
    }

    fn send_some(&self, local_ip: Option<IpAddr>, singles: &[Single<'_>]) -> u64 {
        let from: Source = local_ip.into();
        let control = from.control();
        let control = control.as_slice();
        let contents: Vec<_> = singles.iter().map(|(_, contents)| [IoSlice::new(contents)]).collect();
        let far: Vec<_> = singles.iter().map(|(far, _)| Some(SockaddrStorage::from(*far))).collect();
        let mut headers = MultiHeaders::preallocate(singles.len(), from.space());
        let (mut done, mut lost) = (0, 0);
        while done < singles.len() {
            let (contents, far, flags) = (&contents[done..], &far[done..], MsgFlags::empty());
            match socket::sendmmsg(self.socket.as_raw_fd(), &mut headers, contents, far, control, flags) {
                Ok(sent) => done += sent.count().max(1),
                // It is the first of them that is not taken.
                Err(_) => (done, lost) = (done + 1, lost + 1),
            }
        }
        lost
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

/// The address that datagrams are to leave from, in the kernel's words.
enum Source {
    Any,
    V4(in_pktinfo),
    V6(in6_pktinfo),
}

impl Source {
    fn control(&self) -> Option<ControlMessage<'_>> {
        match self {
            Self::Any => None,
            Self::V4(info) => Some(ControlMessage::Ipv4PacketInfo(info)),
            Self::V6(info) => Some(ControlMessage::Ipv6PacketInfo(info)),
        }
    }

    /// Room for that.
    fn space(&self) -> Option<Vec<u8>> {
        match self {
            Self::Any => None,
            Self::V4(_) => Some(vec![0; cmsg_space::<in_pktinfo>()]),
            Self::V6(_) => Some(vec![0; cmsg_space::<in6_pktinfo>()]),
        }
    }
}

impl From<Option<IpAddr>> for Source {
    fn from(ip: Option<IpAddr>) -> Self {
        match ip {
            None => Self::Any,
            Some(IpAddr::V4(ip)) => Self::V4(in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: in_addr { s_addr: u32::from_ne_bytes(ip.octets()) },
                ipi_addr: in_addr { s_addr: 0 },
            }),
            Some(IpAddr::V6(ip)) => {
                Self::V6(in6_pktinfo { ipi6_addr: in6_addr { s6_addr: ip.octets() }, ipi6_ifindex: 0 })
            }
        }
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use mio::Poll;

    use super::*;

    fn socket(address: &str) -> Socket {
        let poll = Poll::new().unwrap();
        Socket::new(udp::bind_one(address.parse().unwrap()).unwrap(), poll.registry(), Token(0)).unwrap()
    }

    fn receiver(address: &str) -> (UdpSocket, SocketAddr) {
        let socket = UdpSocket::bind(address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let local = socket.local_addr().unwrap();
        (socket, local)
    }

    #[test]
    fn each_gets_its_own_in_order_from_the_address_asked_for() {
        for (listen, to, from) in [
            ("0.0.0.0:0", "127.0.0.1:0", "127.0.0.5"),
            ("127.0.0.1:0", "127.0.0.1:0", "127.0.0.1"),
            ("[::]:0", "[::1]:0", "::1"),
        ] {
            let sender = socket(listen);
            let receivers = [receiver(to), receiver(to)];
            let contents: Vec<_> = (0..150u8).map(|number| [number; 3]).collect();
            let singles: Vec<Single<'_>> = contents
                .iter()
                .enumerate()
                .map(|(at, contents)| (receivers[at % 2].1, &contents[..]))
                .collect();
            let source: IpAddr = from.parse().unwrap();
            assert_eq!(sender.send_each(Some(source), &singles), 0);
            for (at, contents) in contents.iter().enumerate() {
                let mut buffer = [0; 9];
                let (length, came_from) = receivers[at % 2].0.recv_from(&mut buffer).unwrap();
                assert_eq!(&buffer[..length], contents);
                assert_eq!(came_from, SocketAddr::new(source, sender.local().port()));
            }
        }
    }

    #[test]
    fn one_that_the_kernel_refuses_is_counted_and_holds_up_no_other() {
        let sender = socket("127.0.0.1:0");
        let (receiver, local) = receiver("127.0.0.1:0");
        // Nobody has port 0.
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let singles: [Single<'_>; 5] =
            [(nowhere, b"a"), (local, b"b"), (nowhere, b"c"), (nowhere, b"d"), (local, b"e")];
        assert_eq!(sender.send_each(None, &singles), 3);
        let mut buffer = [0; 9];
        for expected in [b'b', b'e'] {
            assert_eq!(receiver.recv(&mut buffer).unwrap(), 1);
            assert_eq!(buffer[0], expected);
        }
    }
}
