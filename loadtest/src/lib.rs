//! Simulated browsers on simulated or real networks: the load program's parts, which the server's world tests use too.
//!
//! - [`netsim`]: a network as a pure function of its seed.
//! - [`rng`]: the seeded random numbers beneath it.
//! - [`peer`]: a browser's peer connection with its two data channels, without sockets.

pub mod netsim;
pub mod peer;
pub mod rng;

#[cfg(test)]
mod answerer;
