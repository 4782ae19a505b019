//! Load for a bare TURN server (RFC 8656), ours or another: pairs of allocations that send to each other.
//!
//! - [`client`]: one allocation, without sockets;
//! - [`framing`]: STUN messages and channel data in a TCP stream;
//! - [`server`]: where the server is, by the URI that clients are given too;
//! - [`run`]: many pairs on real sockets, and what of their datagrams arrived.
//!
//! A datagram goes from one allocation to the other's relayed address and so passes the server twice. It never looks at
//! what a server says about itself: datagrams are counted where they arrive.

pub mod client;
pub mod framing;
pub mod run;
pub mod server;
