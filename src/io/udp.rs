//! UDP sockets of a shard, in batches: GRO and recvmmsg on the way in, GSO on the way out (`quinn-udp`).

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

/// Memory for receiving, shared by the sockets of a shard.
pub(super) struct ReceiveBuffer {
    bytes: Vec<u8>,
    metas: [RecvMeta; BATCH_SIZE],
}

/// Binds the sockets of shard `index`: every configured address, else all of IPv4 and of IPv6.
pub(super) fn bind(rtc: &Rtc, index: usize) -> anyhow::Result<Vec<Udp>> {
    let port = if rtc.udp_port == 0 { 0 } else { rtc.udp_port + index as u16 };
    if !rtc.bind.is_empty() {
        let bound = rtc.bind.iter().map(|ip| bind_one(SocketAddr::new(*ip, port)));
        return bound.collect();
    }
    let v4 = bind_one(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port))?;
    let port = v4.local.port();
    let mut sockets = vec![v4];
    // A machine without IPv6 serves IPv4.
    sockets.extend(bind_one(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port)).ok());
    Ok(sockets)
}

fn bind_one(address: SocketAddr) -> anyhow::Result<Udp> {
    let bind = || -> io::Result<Udp> {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.set_nonblocking(true)?;
        let _ = socket.set_recv_buffer_size(BUFFER);
        let _ = socket.set_send_buffer_size(BUFFER);
        socket.bind(&address.into())?;
        let socket = std::net::UdpSocket::from(socket);
        Ok(Udp { local: socket.local_addr()?, socket })
    };
    bind().with_context(|| format!("cannot bind UDP {address} for media (rtc.udp_port, rtc.bind)"))
}

impl Udp {
    /// Registers the socket with the runtime of this thread.
    pub(super) fn activate(self) -> io::Result<ActiveUdp> {
        let state = UdpSocketState::new((&self.socket).into())?;
        Ok(ActiveUdp { local: self.local, socket: UdpSocket::from_std(self.socket)?, state })
    }
}

impl ActiveUdp {
    /// Ready when something can be received.
    pub(super) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.socket.poll_recv_ready(cx).map(|_| ())
    }

    /// Takes one batch; returns how many datagrams it had.
    pub(super) fn receive(&self, buffer: &mut ReceiveBuffer, mut handle: impl FnMut(Datagram)) -> usize {
        let ReceiveBuffer { bytes, metas } = buffer;
        let received = self.socket.try_io(Interest::READABLE, || {
            let mut slices: Vec<IoSliceMut<'_>> = bytes.chunks_mut(RECEIVE).map(IoSliceMut::new).collect();
            self.state.recv((&self.socket).into(), &mut slices, metas)
        });
        let Ok(count) = received else { return 0 };
        let mut datagrams = 0;
        for (meta, bytes) in metas[..count].iter().zip(bytes.chunks(RECEIVE)) {
            for datagram in bytes[..meta.len].chunks(meta.stride.max(1)) {
                datagrams += 1;
                handle(Datagram {
                    path: Path::Udp(meta.addr),
                    source: meta.addr,
                    local_ip: meta.dst_ip,
                    contents: BytesMut::from(datagram),
                });
            }
        }
        datagrams
    }

    /// Whether a datagram for this far end, from this local address, leaves here.
    pub(super) fn serves(&self, far: SocketAddr, local_ip: Option<IpAddr>) -> bool {
        self.local.is_ipv4() == far.is_ipv4()
            && (self.local.ip().is_unspecified() || local_ip.is_none_or(|ip| ip == self.local.ip()))
    }

    /// Sends; what the kernel does not take is lost, as on any network.
    pub(super) fn send(&self, far: SocketAddr, transmit: &Transmit<'_>) -> io::Result<()> {
        let most = self.state.max_gso_segments().max(1) * transmit.segment;
        for contents in transmit.contents.chunks(most) {
            let message = quinn_udp::Transmit {
                destination: far,
                ecn: None,
                contents,
                segment_size: (contents.len() > transmit.segment).then_some(transmit.segment),
                src_ip: transmit.local_ip,
            };
            self.socket
                .try_io(Interest::WRITABLE, || self.state.try_send((&self.socket).into(), &message))?;
        }
        Ok(())
    }
}

impl ReceiveBuffer {
    pub(super) fn new() -> Self {
        Self { bytes: vec![0; RECEIVE * BATCH_SIZE], metas: [RecvMeta::default(); BATCH_SIZE] }
    }
}
