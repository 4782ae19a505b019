//! A UDP socket in batches, the same for arms and clients: recvmmsg and GRO on the way in, GSO on the way out.

use std::{
    io::{self, IoSliceMut},
    net::{Ipv4Addr, SocketAddr},
    task::{Context, Poll},
};

use quinn_udp::{BATCH_SIZE, RecvMeta, UdpSocketState};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{io::Interest, net::UdpSocket};

const BUFFER: usize = 4 << 20;
const RECEIVE: usize = 65_536;

/// A socket on loopback.
pub(crate) struct Udp {
    socket: UdpSocket,
    state: UdpSocketState,
    pub(crate) local: SocketAddr,
}

/// Memory for receiving; one serves many sockets.
pub(crate) struct ReceiveBuffer {
    bytes: Vec<u8>,
    metas: [RecvMeta; BATCH_SIZE],
}

impl ReceiveBuffer {
    pub(crate) fn new() -> Self {
        Self { bytes: vec![0; RECEIVE * BATCH_SIZE], metas: [RecvMeta::default(); BATCH_SIZE] }
    }
}

impl Udp {
    pub(crate) fn bind() -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_nonblocking(true)?;
        socket.set_recv_buffer_size(BUFFER)?;
        socket.set_send_buffer_size(BUFFER)?;
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
        let socket = std::net::UdpSocket::from(socket);
        let local = socket.local_addr()?;
        let state = UdpSocketState::new((&socket).into())?;
        let socket = UdpSocket::from_std(socket)?;
        Ok(Self { socket, state, local })
    }

    pub(crate) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.socket.poll_recv_ready(cx).map(|_| ())
    }

    /// Takes one batch; returns how many datagrams it had.
    pub(crate) fn receive(
        &self,
        buffer: &mut ReceiveBuffer,
        mut handle: impl FnMut(SocketAddr, &[u8]),
    ) -> usize {
        let ReceiveBuffer { bytes, metas } = buffer;
        let mut slices: Vec<IoSliceMut<'_>> = bytes.chunks_mut(RECEIVE).map(IoSliceMut::new).collect();
        let received = self
            .socket
            .try_io(Interest::READABLE, || self.state.recv((&self.socket).into(), &mut slices, metas));
        let Ok(count) = received else { return 0 };
        let mut datagrams = 0;
        for (meta, bytes) in metas[..count].iter().zip(bytes.chunks(RECEIVE)) {
            for datagram in bytes[..meta.len].chunks(meta.stride.max(1)) {
                datagrams += 1;
                handle(meta.addr, datagram);
            }
        }
        datagrams
    }

    /// Sends `contents`, cut into datagrams of `segment` bytes.
    pub(crate) fn send(&self, to: SocketAddr, segment: usize, contents: &[u8]) -> io::Result<()> {
        let most = self.state.max_gso_segments().max(1) * segment;
        for contents in contents.chunks(most) {
            let message = quinn_udp::Transmit {
                destination: to,
                ecn: None,
                contents,
                segment_size: (contents.len() > segment).then_some(segment),
                src_ip: None,
            };
            self.socket
                .try_io(Interest::WRITABLE, || self.state.try_send((&self.socket).into(), &message))?;
        }
        Ok(())
    }
}
