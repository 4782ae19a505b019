//! Clients of the floor: they send bytes in the packets that the protocols would make of them, and count what comes.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    task::Context,
    time::Instant,
};

use anyhow::bail;
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use super::{Burst, Client, socket::framed};
use crate::{
    arm::{Arm, Register},
    udp::{ReceiveBuffer, Udp},
};

/// Bytes of an SCTP packet at most, and of the header in it (RFC 9260 §3; the engine's own limit).
const SCTP_PACKET: usize = 1191;
const SCTP_HEADER: usize = 12;
/// Before each message or part of one.
const DATA_HEADER: usize = 16;
/// DTLS 1.2 with AES-GCM: header, explicit nonce, tag.
const DTLS: usize = 37;
/// A Switchyard frame of a message to the room, with its length.
const FRAME: usize = 23;

/// A UDP socket.
pub(crate) struct Datagrams {
    udp: Udp,
    arm: SocketAddr,
    received: u64,
    batch: Vec<Vec<u8>>,
}

impl Datagrams {
    pub(crate) fn connect(arm: &mut Arm, group: usize) -> anyhow::Result<Self> {
        let udp = Udp::bind()?;
        let port = udp.local.port();
        arm.ask::<()>(&Register { group, port })?;
        Ok(Self { udp, arm: (Ipv4Addr::LOCALHOST, arm.port).into(), received: 0, batch: Vec::new() })
    }
}

/// Lengths of the datagrams that a burst fits in, messages bundled as SCTP bundles them.
fn packets(burst: Burst) -> Vec<usize> {
    let most = SCTP_PACKET - SCTP_HEADER;
    let mut packets = Vec::new();
    let mut left = 0;
    let mut add = |chunk: usize| {
        if left < chunk {
            packets.push(SCTP_HEADER + DTLS);
            left = most;
        }
        left -= chunk;
        if let Some(packet) = packets.last_mut() {
            *packet += chunk;
        }
    };
    for _ in 0..burst.count {
        let mut rest = burst.size;
        while rest > 0 {
            let part = rest.min(most - DATA_HEADER);
            add(part + DATA_HEADER);
            rest -= part;
        }
    }
    packets
}

impl Client for Datagrams {
    fn turn(&mut self, cx: &mut Context<'_>, receive: &mut ReceiveBuffer) -> anyhow::Result<()> {
        for packet in self.batch.drain(..) {
            self.udp.send(self.arm, packet.len(), &packet)?;
        }
        while self.udp.poll_readable(cx).is_ready() {
            let received = &mut self.received;
            self.udp.receive(receive, |_, datagram| *received += datagram.len() as u64);
        }
        Ok(())
    }

    fn due(&self) -> Option<Instant> {
        None
    }

    fn is_ready(&self) -> bool {
        true
    }

    fn send(&mut self, burst: Burst) -> anyhow::Result<()> {
        self.batch = packets(burst).into_iter().map(|length| vec![0x5a; length]).collect();
        Ok(())
    }

    fn received(&self) -> u64 {
        self.received
    }

    fn expects(&self, burst: Burst) -> u64 {
        packets(burst).iter().sum::<usize>() as u64
    }
}

/// A TCP connection.
pub(crate) struct Stream {
    stream: TcpStream,
    received: u64,
    buffer: Vec<u8>,
    unsent: Vec<u8>,
}

impl Stream {
    /// Connects; the first of a group is the one that sends.
    pub(crate) async fn connect(arm: &Arm, group: u8) -> anyhow::Result<Self> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, arm.port)).await?;
        stream.set_nodelay(true)?;
        stream.write_all(&[group]).await?;
        Ok(Self { stream, received: 0, buffer: vec![0; 64 * 1024], unsent: Vec::new() })
    }

    /// Bytes of a WebSocket message with one frame in it.
    fn framed(size: usize) -> usize {
        framed(size + FRAME)
    }
}

impl Client for Stream {
    fn turn(&mut self, cx: &mut Context<'_>, _: &mut ReceiveBuffer) -> anyhow::Result<()> {
        while !self.unsent.is_empty() {
            match self.stream.try_write(&self.unsent) {
                Ok(count) => drop(self.unsent.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if self.stream.poll_write_ready(cx)?.is_pending() {
                        break;
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        while self.stream.poll_read_ready(cx)?.is_ready() {
            match self.stream.try_read(&mut self.buffer) {
                Ok(0) => bail!("the floor has closed a connection"),
                Ok(count) => self.received += count as u64,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn due(&self) -> Option<Instant> {
        None
    }

    fn is_ready(&self) -> bool {
        true
    }

    fn send(&mut self, burst: Burst) -> anyhow::Result<()> {
        let length = Self::framed(burst.size) - 4;
        for _ in 0..burst.count {
            self.unsent.extend_from_slice(&(length as u32).to_be_bytes());
            self.unsent.resize(self.unsent.len() + length, 0x5a);
        }
        Ok(())
    }

    fn received(&self) -> u64 {
        self.received
    }

    fn expects(&self, burst: Burst) -> u64 {
        (Self::framed(burst.size) * burst.count) as u64
    }
}
