//! Load for a bare TURN server (RFC 8656), ours or another: pairs that send to each other through it.
//!
//! - [`client`]: one allocation, without sockets;
//! - [`framing`]: STUN messages and channel data in a TCP stream;
//! - [`wrapping`]: what a datagram is wrapped in between client and server;
//! - [`server`]: where the server is, by the URI that clients are given too;
//! - [`crowd`]: many pairs on real sockets (`wire`: a socket, `end`: an end of a pair);
//! - [`traffic`]: a round of traffic between them (`tally`: what of it arrived);
//! - [`run`]: both, one after the other.
//!
//! One end of a pair is an allocation, the other one too, or a peer outside. It never looks at what a server says about
//! itself: datagrams are counted where they arrive.

pub mod client;
pub mod crowd;
mod end;
pub mod framing;
pub mod run;
pub mod server;
mod tally;
pub mod traffic;
mod wire;
pub mod wrapping;
