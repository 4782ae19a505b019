//! The way by which a peer's datagrams reach this server.
//!
//! A [`Path`] names the far end as the shell can send to it: it never opens, closes or looks up anything. The
//! sockets and the relay stand behind `io`; which path a peer uses at the moment is decided in [`super::ice`].

use std::net::SocketAddr;

/// An ICE-TCP connection, numbered by the shell that accepted it and never used again for another one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct TcpId(pub u64);

/// An allocation on the embedded TURN server whose packets for this server are handed over in memory,
/// numbered by the relay and never used again for another one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct AllocationId(pub u64);

/// Where datagrams of a peer come from and where answers to them go.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Path {
    /// The shard's UDP socket; the address is the far end as seen here, behind whatever NAT there is.
    Udp(SocketAddr),
    /// An accepted TCP connection with RFC 4571 framing. Its remote address travels beside the path where it
    /// is needed, because the connection and not the address is what can be written to.
    Tcp(TcpId),
    /// The embedded TURN server; the address that the client reflects on is that of its allocation.
    Relay(AllocationId),
}

impl Path {
    /// The rung's name as a metric's label.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Udp(_) => "udp",
            Self::Tcp(_) => "tcp",
            Self::Relay(_) => "relay",
        }
    }
}
