//! Sockets towards a TURN server and towards its relayed addresses.
//!
//! What is sent together leaves in one system call: datagrams by segmentation offload (GSO), so that on loopback a server
//! that can take them together gets them together, as from a network card that merges what arrives back to back. What
//! arrives is taken one datagram at a time: a receiver that took several at once would spare the server's kernel the work
//! of cutting them, which a network card without that ability does not.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket as StdUdpSocket},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, BytesMut};
use quinn_udp::{Transmit, UdpSocketState};
use rustix::net::{SendFlags, sockopt::set_socket_recv_buffer_size};
use tokio::{
    io::{AsyncRead as _, AsyncWrite as _, ReadBuf},
    net::UdpSocket,
};

use super::{client::Carrier, framing::next_message, server::TurnServer};
use crate::target::Io;

/// Read from one socket before others have a turn.
const BATCH: usize = 64;
/// Bytes that a socket holds for us, as far as the kernel allows: this program is not to be where datagrams are lost.
const RECEIVE_BUFFER: usize = 1 << 20;
/// Bytes that one system call takes at most.
const TOGETHER: usize = 65_000;

/// A socket.
pub(super) enum Wire {
    /// Connected to whom it talks to.
    Datagrams { socket: UdpSocket, to: SocketAddr },
    /// TCP or TLS.
    Stream { io: Box<dyn Io>, input: BytesMut, output: BytesMut },
}

/// What the kernel does for datagrams that are sent together.
pub(super) fn segmentation() -> io::Result<UdpSocketState> {
    // Of a socket of its own: asking changes how a socket receives.
    let socket = StdUdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    UdpSocketState::new((&socket).into())
}

impl Wire {
    /// Towards the server.
    pub(super) async fn towards(server: &TurnServer) -> io::Result<Self> {
        if let Carrier::Stream = server.carrier() {
            let (io, input, output) = (server.connect().await?, BytesMut::new(), BytesMut::new());
            return Ok(Self::Stream { io, input, output });
        }
        let any: IpAddr = match server.address() {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let mut wire = Self::at(any)?;
        wire.connect(server.address())?;
        Ok(wire)
    }

    /// For datagrams, at a port of this address, and not connected yet.
    pub(super) fn at(address: IpAddr) -> io::Result<Self> {
        let socket = StdUdpSocket::bind((address, 0))?;
        socket.set_nonblocking(true)?;
        // Of less room nobody needs to hear.
        let _ = set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER);
        let to = socket.local_addr()?;
        Ok(Self::Datagrams { socket: UdpSocket::from_std(socket)?, to })
    }

    pub(super) fn is_stream(&self) -> bool {
        matches!(self, Self::Stream { .. })
    }

    /// The socket's own address, for datagrams.
    pub(super) fn local(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Datagrams { socket, .. } => socket.local_addr(),
            Self::Stream { .. } => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Datagrams go there, and come from nowhere else.
    pub(super) fn connect(&mut self, address: SocketAddr) -> io::Result<()> {
        if let Self::Datagrams { socket, to } = self {
            rustix::net::connect(&*socket, &address)?;
            *to = address;
        }
        Ok(())
    }

    /// Sends messages of `size` bytes each, back to back. What the network does not take at once is lost if it is a datagram,
    /// and waits if it is part of a stream: then `cx` is woken when it is time for [`poll_flush`](Self::poll_flush).
    pub(super) fn send(
        &mut self,
        cx: &mut Context<'_>,
        kernel: &UdpSocketState,
        messages: &[u8],
        size: usize,
    ) -> io::Result<()> {
        let (socket, to) = match self {
            Self::Datagrams { socket, to } => (&*socket, *to),
            Self::Stream { output, .. } => {
                output.extend_from_slice(messages);
                return if let Poll::Ready(done) = self.poll_flush(cx) { done } else { Ok(()) };
            }
        };
        let together = kernel.max_gso_segments().min(TOGETHER / size.max(1)).max(1) * size;
        for contents in messages.chunks(together) {
            let transmit =
                Transmit { destination: to, ecn: None, contents, segment_size: Some(size), src_ip: None };
            let is_one = contents.len() <= size;
            if is_one || kernel.try_send(socket.into(), &transmit).is_err() {
                for datagram in contents.chunks(size) {
                    // Refused, full, unreachable: it is missing at the other end, and counted there.
                    let _ = rustix::net::send(socket, datagram, SendFlags::empty());
                }
            }
        }
        Ok(())
    }

    /// Writes what waits.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self::Stream { io, output, .. } = self else { return Poll::Ready(Ok(())) };
        while !output.is_empty() {
            let written = ready!(Pin::new(&mut *io).poll_write(cx, output))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            output.advance(written);
        }
        Pin::new(io).poll_flush(cx)
    }

    /// Hands out the messages that have come; ready if there were some.
    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
        mut handle: impl FnMut(&[u8]),
    ) -> Poll<io::Result<()>> {
        match self {
            Self::Datagrams { socket, .. } => {
                let mut count = 0;
                while count < BATCH {
                    match socket.try_recv(buffer) {
                        Ok(read) => {
                            count += 1;
                            handle(&buffer[..read]);
                        }
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                            match socket.poll_recv_ready(cx) {
                                Poll::Ready(_) => {}
                                Poll::Pending if count == 0 => return Poll::Pending,
                                Poll::Pending => break,
                            }
                        }
                        // An ICMP error about a datagram: it is missing at the other end.
                        Err(_) => count += 1,
                    }
                }
                Poll::Ready(Ok(()))
            }
            Self::Stream { io, input, .. } => {
                let mut read = ReadBuf::new(buffer);
                ready!(Pin::new(io).poll_read(cx, &mut read))?;
                if read.filled().is_empty() {
                    return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                }
                input.extend_from_slice(read.filled());
                loop {
                    match next_message(input) {
                        Ok(Some(message)) => handle(&message),
                        Ok(None) => return Poll::Ready(Ok(())),
                        Err(error) => return Poll::Ready(Err(io::Error::other(error))),
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, io::IoSliceMut, task::Waker};

    use quinn_udp::RecvMeta;

    use super::*;

    const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    /// Datagrams of 1,400 bytes, told apart by their first byte.
    fn datagrams(count: u8) -> Vec<u8> {
        (0..count).flat_map(|number| std::iter::once(number).chain([7; 1399])).collect()
    }

    fn send(wire: &mut Wire, messages: &[u8]) {
        let cx = &mut Context::from_waker(Waker::noop());
        wire.send(cx, &segmentation().unwrap(), messages, 1400).unwrap();
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn what_is_sent_together_arrives_in_one_piece_where_that_can_be_taken() {
        let receiver = StdUdpSocket::bind((LOOPBACK, 0)).unwrap();
        let state = UdpSocketState::new((&receiver).into()).unwrap();
        let mut wire = Wire::at(LOOPBACK).unwrap();
        wire.connect(receiver.local_addr().unwrap()).unwrap();
        send(&mut wire, &datagrams(8));
        let (mut bytes, mut metas) = (vec![0; 1 << 16], [RecvMeta::default()]);
        receiver.set_nonblocking(false).unwrap();
        receiver.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
        let slices = &mut [IoSliceMut::new(&mut bytes)];
        assert_eq!(state.recv((&receiver).into(), slices, &mut metas).unwrap(), 1);
        assert_eq!((metas[0].len, metas[0].stride), (8 * 1400, 1400));
        assert_eq!(bytes[..8 * 1400], datagrams(8));
    }

    #[tokio::test]
    async fn datagrams_are_taken_one_by_one_however_many_are_sent_together() {
        let mut receiver = Wire::at(LOOPBACK).unwrap();
        let mut wire = Wire::at(LOOPBACK).unwrap();
        wire.connect(receiver.local().unwrap()).unwrap();
        // More than one system call takes.
        send(&mut wire, &datagrams(60));
        let (mut buffer, mut arrived) = (vec![0; 1 << 16], Vec::new());
        while arrived.len() < 60 * 1400 {
            let mut take = |datagram: &[u8]| {
                assert_eq!(datagram.len(), 1400);
                arrived.extend_from_slice(datagram);
            };
            let reading = poll_fn(|cx| receiver.poll_read(cx, &mut buffer, &mut take));
            let read = tokio::time::timeout(std::time::Duration::from_secs(5), reading).await;
            read.expect("not all datagrams come").unwrap();
        }
        assert_eq!(arrived, datagrams(60));
    }
}
