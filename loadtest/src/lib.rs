//! Simulated browsers on simulated or real networks: the load program's parts, which the server's world tests use too.
//!
//! - [`browser`]: a whole simulated browser: session, WebSocket and peer connection, without sockets.
//! - [`account`]: what was sent, and what of it was lost, doubled or out of order.
//! - [`histogram`]: latencies, counted in a bounded number of buckets.
//! - [`netsim`]: a network as a pure function of its seed.
//! - [`rng`]: the seeded random numbers beneath it.
//! - [`peer`]: a browser's peer connection with its two data channels, without sockets.

pub mod account;
pub mod browser;
pub mod histogram;
pub mod netsim;
pub mod peer;
pub mod rng;

#[cfg(test)]
mod answerer;
