//! A network as a pure function of its seed.
//!
//! A [`Link`] is one direction of a path: delay, jitter, loss, duplication, a bottleneck with a queue, an MTU, and
//! times at which nothing passes. Two things are made of links:
//!
//! - a [`Network`] joins hosts, each behind one link up and one link down, and delivers their datagrams: all of it is
//!   simulated;
//! - an [`Access`] is what one browser has between itself and a real network: a link up, a link down, a NAT, a firewall
//!   and the TCP connections through them. Whoever drives it puts what comes out on real sockets.
//!
//! A [`NetworkSpec`] says what an access is like. It is read from YAML, and there are [presets](presets()) by name;
//! `docs/networks.md` describes both.
//!
//! Nothing here reads a clock, opens a socket or starts a thread: `now` is an argument, and only the seed decides.
//! Each impairment draws from a random stream of its own, so that adding jitter to a network does not change which
//! packets it loses.
//!
//! `now` must not run backwards.

mod access;
mod jitter;
mod link;
mod loss;
mod nat;
mod network;
mod presets;
mod queue;
mod spec;
mod stream;
#[cfg(test)]
mod testing;

use std::net::SocketAddr;

use bytes::Bytes;

pub use self::{
    access::{Access, AccessStats, Output, StreamId, Target},
    jitter::Jitter,
    link::{Fate, Link, LinkConfig, LinkStats},
    loss::{GilbertElliott, Loss},
    nat::{Behaviour, Firewall, MappingId, NatConfig},
    network::{HostId, Network},
    presets::{load, preset, presets},
    queue::{CoDel, RateLimit},
    spec::{Happening, NetworkSpec, ScheduledEvent, SpecError},
    stream::Failure,
};

/// A UDP datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// The address it was sent from.
    pub from: SocketAddr,
    /// The address it is sent to.
    pub to: SocketAddr,
    /// What it carries.
    pub payload: Bytes,
}

/// IPv4 and UDP headers, counted against a link's rate.
const HEADER_BYTES: usize = 28;

impl Datagram {
    fn wire_bytes(&self) -> usize {
        self.payload.len() + HEADER_BYTES
    }
}

/// Which way something goes, seen from the browser.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// From the browser into the network.
    Up,
    /// From the network to the browser.
    Down,
}

impl Direction {
    /// The other way.
    pub fn reverse(self) -> Self {
        match self {
            Self::Up => Self::Down,
            Self::Down => Self::Up,
        }
    }
}
