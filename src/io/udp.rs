//! UDP sockets in batches: GRO and recvmmsg on the way in, GSO on the way out (`quinn-udp`). Those of a shard are here;
//! the relay's are in [`super::turn`] and share [`ReceiveBuffer`], [`send`] and [`bind_one`].

use std::{
    io::{self, IoSliceMut},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    task::{Context, Poll},
};

use anyhow::Context as _;
use bytes::BytesMut;
use quinn_udp::{BATCH_SIZE, RecvMeta, UdpSocketState};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{io::Interest, net::UdpSocket};

use crate::{
    config::Rtc,
    engine::{path::Path, peers::Datagram, transmit::Transmit},
};

/// Asked of the kernel, which may give less.
const BUFFER: usize = 4 << 20;
/// Bytes for one coalesced receive: the largest UDP datagram.
const RECEIVE: usize = 65_536;

/// A bound socket.
#[derive(Debug)]
pub(super) struct Udp {
    /// What it is bound to.
    pub(super) local: SocketAddr,
    socket: std::net::UdpSocket,
}

/// A socket in use on a shard's thread.
#[derive(Debug)]
pub(super) struct ActiveUdp {
    local: SocketAddr,
    socket: UdpSocket,
    state: UdpSocketState,
}

/// Memory for receiving, shared by the sockets of a thread.
pub(super) struct ReceiveBuffer {
    bytes: Vec<u8>,
    metas: [RecvMeta; BATCH_SIZE],
}

/// A socket's own way of calling the kernel to receive.
type Recv<'a> = &'a mut dyn FnMut(&mut [IoSliceMut<'_>], &mut [RecvMeta]) -> io::Result<usize>;

/// Binds the sockets of shard `index`: every configured address, else all of IPv4 and of IPv6.
pub(super) fn bind(rtc: &Rtc, index: usize) -> anyhow::Result<Vec<Udp>> {
    let port = if rtc.udp_port == 0 { 0 } else { rtc.udp_port + index as u16 };
    if !rtc.bind.is_empty() {
        let bound = rtc.bind.iter().map(|ip| bind_media(SocketAddr::new(*ip, port)));
        return bound.collect();
    }
    let v4 = bind_media(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port))?;
    let port = v4.local.port();
    let mut sockets = vec![v4];
    // A machine without IPv6 serves IPv4.
    sockets.extend(bind_media(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port)).ok());
    Ok(sockets)
}

fn bind_media(address: SocketAddr) -> anyhow::Result<Udp> {
    let bound = bind_one(address).and_then(|socket| Ok(Udp { local: socket.local_addr()?, socket }));
    bound.with_context(|| format!("cannot bind UDP {address} for media (rtc.udp_port, rtc.bind)"))
}

/// A non-blocking socket with large buffers; one of IPv6 has nothing of IPv4.
pub(super) fn bind_one(address: SocketAddr) -> io::Result<std::net::UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    let _ = socket.set_recv_buffer_size(BUFFER);
    let _ = socket.set_send_buffer_size(BUFFER);
    socket.bind(&address.into())?;
    Ok(socket.into())
}

impl Udp {
    /// Registers the socket with the runtime of this thread.
    pub(super) fn activate(self) -> io::Result<ActiveUdp> {
        let state = UdpSocketState::new((&self.socket).into())?;
        Ok(ActiveUdp { local: self.local, socket: UdpSocket::from_std(self.socket)?, state })
    }
}

/// Which of the bound addresses is reached by whoever sends to `ip`. One outside this machine (1:1 NAT, a container's host)
/// leads to whichever has its family.
pub(super) fn reached(bound: impl Iterator<Item = SocketAddr> + Clone, ip: IpAddr) -> Option<SocketAddr> {
    let mut same_family = bound.filter(|local| local.is_ipv4() == ip.is_ipv4());
    let exact = same_family.clone().find(|local| local.ip() == ip || local.ip().is_unspecified());
    exact.or_else(|| same_family.next())
}

impl ActiveUdp {
    /// What it is bound to.
    pub(super) fn local(&self) -> SocketAddr {
        self.local
    }

    /// Ready when something can be received.
    pub(super) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.socket.poll_recv_ready(cx).map(|_| ())
    }

    /// Takes one batch; returns how many datagrams it had.
    pub(super) fn receive(&self, buffer: &mut ReceiveBuffer, mut handle: impl FnMut(Datagram)) -> usize {
        let mut datagrams = 0;
        let mut recv = |slices: &mut [IoSliceMut<'_>], metas: &mut [RecvMeta]| {
            let receive = || self.state.recv((&self.socket).into(), slices, metas);
            self.socket.try_io(Interest::READABLE, receive)
        };
        let _ = buffer.receive(BATCH_SIZE, &mut recv, |meta, datagram| {
            datagrams += 1;
            handle(Datagram {
                path: Path::Udp(meta.addr),
                source: meta.addr,
                local_ip: meta.dst_ip,
                contents: BytesMut::from(datagram),
            });
        });
        datagrams
    }

    /// Whether a datagram for this far end, from this local address, leaves here.
    pub(super) fn serves(&self, far: SocketAddr, local_ip: Option<IpAddr>) -> bool {
        self.local.is_ipv4() == far.is_ipv4()
            && (self.local.ip().is_unspecified() || local_ip.is_none_or(|ip| ip == self.local.ip()))
    }

    /// Sends; what the kernel does not take is lost, as on any network.
    pub(super) fn send(&self, far: SocketAddr, transmit: &Transmit<'_>) -> io::Result<()> {
        send(&self.state, far, transmit.way.local_ip, transmit, |message| {
            self.socket.try_io(Interest::WRITABLE, || self.state.try_send((&self.socket).into(), message))
        })
    }
}

/// Sends in as few calls as the kernel's GSO allows, by what a socket has for one of them.
pub(super) fn send<W>(
    state: &UdpSocketState,
    far: SocketAddr,
    local_ip: Option<IpAddr>,
    transmit: &Transmit<'_, W>,
    mut call: impl FnMut(&quinn_udp::Transmit<'_>) -> io::Result<()>,
) -> io::Result<()> {
    let mut message = quinn_udp::Transmit {
        destination: far,
        ecn: None,
        contents: transmit.contents,
        segment_size: None,
        src_ip: local_ip,
    };
    let most = state.max_gso_segments().max(1) * transmit.segment;
    if transmit.contents.len() <= transmit.segment {
        return call(&message);
    }
    for contents in transmit.contents.chunks(most) {
        message.contents = contents;
        message.segment_size = (contents.len() > transmit.segment).then_some(transmit.segment);
        call(&message)?;
    }
    Ok(())
}

impl ReceiveBuffer {
    pub(super) fn new() -> Self {
        Self { bytes: vec![0; RECEIVE * BATCH_SIZE], metas: [RecvMeta::default(); BATCH_SIZE] }
    }

    /// Takes one batch of at most `most` messages, of which each may be several datagrams; says how many messages it had.
    /// Fewer than `most` were all that there was.
    pub(super) fn receive(
        &mut self,
        most: usize,
        recv: Recv<'_>,
        mut handle: impl FnMut(&RecvMeta, &[u8]),
    ) -> io::Result<usize> {
        let Self { bytes, metas } = self;
        let mut chunks = bytes.chunks_mut(RECEIVE);
        let mut slices: [IoSliceMut<'_>; BATCH_SIZE] =
            std::array::from_fn(|_| IoSliceMut::new(chunks.next().unwrap_or_default()));
        let count = recv(&mut slices[..most.min(BATCH_SIZE)], metas)?;
        for (meta, bytes) in metas[..count].iter().zip(bytes.chunks(RECEIVE)) {
            if meta.len == 0 {
                handle(meta, &[]);
            }
            for datagram in bytes[..meta.len].chunks(meta.stride.max(1)) {
                handle(meta, datagram);
            }
        }
        Ok(count)
    }
}
