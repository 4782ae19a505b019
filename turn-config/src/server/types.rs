//! What goes into the server and comes out of it.

use std::{
    hash::{Hash, Hasher},
    net::{IpAddr, SocketAddr},
};

use crate::stun::MAX_DATA_HEADER;

/// How a client reaches the server. What is relayed is always UDP.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Transport {
    /// Datagrams.
    Udp,
    /// A stream.
    Tcp,
    /// A stream within TLS.
    Tls,
}

impl Transport {
    /// All of them, in the order of [`Counters::allocations`](super::Counters::allocations).
    pub const ALL: [Self; 3] = [Self::Udp, Self::Tcp, Self::Tls];

    /// As a label.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
        }
    }

    /// Whether channel data is padded there.
    #[must_use]
    pub fn is_stream(self) -> bool {
        self != Self::Udp
    }
}

/// A client's 5-tuple ([RFC 8656 section 2](https://www.rfc-editor.org/rfc/rfc8656#section-2)), which is what an allocation
/// is known by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Link {
    /// How it is reached.
    pub transport: Transport,
    /// Which stream it is, so that one that is opened from the same port is another client; 0 for UDP.
    pub connection: u64,
    /// The client.
    pub remote: SocketAddr,
    /// Where it sends to. One value for each listening socket is enough.
    pub local: SocketAddr,
}

impl Link {
    /// All of it as bytes, in pieces of fixed length.
    pub(super) fn feed(&self, mut take: impl FnMut(&[u8])) {
        take(&[self.transport as u8]);
        take(&self.connection.to_be_bytes());
        for address in [self.remote, self.local] {
            match address.ip() {
                IpAddr::V4(ip) => take(&ip.to_ipv6_mapped().octets()),
                IpAddr::V6(ip) => take(&ip.octets()),
            }
            take(&address.port().to_be_bytes());
        }
    }
}

impl Hash for Link {
    /// In few large pieces: it is hashed once for each datagram.
    fn hash<H: Hasher>(&self, state: &mut H) {
        for address in [self.remote, self.local] {
            match address.ip() {
                IpAddr::V4(ip) => state.write_u64(u64::from(u32::from(ip)) << 16 | u64::from(address.port())),
                IpAddr::V6(ip) => {
                    state.write_u128(ip.into());
                    state.write_u16(address.port());
                }
            }
        }
        state.write_u64(self.connection << 2 | self.transport as u64);
    }
}

/// An address family, of relayed addresses and peers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Family {
    /// IPv4
    V4,
    /// IPv6
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// That of an address in its canonical form.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    pub(super) fn from_wire(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::V4),
            2 => Some(Self::V6),
            _ => None,
        }
    }
}

/// An allocation: a slot, and the serial number of its occupant, so that what comes late never reaches the next one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct AllocationId {
    /// Slot, below [`Server::slots`](super::Server::slots): an index for what the owner keeps beside it.
    pub slot: u32,
    /// Counts the allocations, from 1.
    pub serial: u32,
}

/// A relay socket of an allocation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct RelaySocket {
    /// Whose it is.
    pub allocation: AllocationId,
    /// Its address family.
    pub family: Family,
    /// Its port.
    pub port: u16,
}

/// A datagram on its way, borrowed from the input: what to send where, at once.
#[derive(Clone, Copy, Debug)]
pub enum Forward<'a> {
    /// To a client: header, payload and padding, as one datagram or as the next bytes of its stream.
    Client {
        /// To whom.
        link: Link,
        /// What precedes the payload.
        header: Header,
        /// A peer's datagram.
        payload: &'a [u8],
        /// How many zero bytes follow.
        padding: usize,
    },
    /// To a peer, through a relay socket.
    Peer {
        /// The socket, which is open.
        relay: RelaySocket,
        /// To whom.
        peer: SocketAddr,
        /// The datagram.
        payload: &'a [u8],
        /// Whether routers may not fragment it.
        dont_fragment: bool,
    },
    /// To the local SFU, in memory.
    Sfu {
        /// Where answers go to, by [`Server::handle_sfu`](super::Server::handle_sfu).
        allocation: AllocationId,
        /// What the SFU shall see as the sender: the relayed address.
        from: SocketAddr,
        /// Which of the SFU's addresses it was sent to.
        to: SocketAddr,
        /// The datagram.
        payload: &'a [u8],
    },
}

/// What precedes the payload of a message to a client.
#[derive(Clone, Copy)]
pub struct Header {
    pub(super) bytes: [u8; MAX_DATA_HEADER],
    pub(super) length: u8,
}

impl Header {
    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

impl std::fmt::Debug for Header {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Header({:x?})", self.as_bytes())
    }
}

/// What the server wants done, besides passing data on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Send this message to a client.
    Send {
        /// To whom.
        link: Link,
        /// A whole message, padded.
        bytes: Vec<u8>,
    },
    /// Open a UDP socket, and say how that went by [`Server::handle_opened`](super::Server::handle_opened).
    Open {
        /// What to call it.
        relay: RelaySocket,
        /// What to bind it to.
        bind: SocketAddr,
    },
    /// Close a socket that was to be opened.
    Close {
        /// Which.
        relay: RelaySocket,
    },
    /// An allocation has ended. A stream that it was on is of no use any more.
    Ended {
        /// Which.
        allocation: AllocationId,
        /// Whose.
        link: Link,
    },
}
