//! The TURN server from outside: what the RFCs ask of it, what it refuses, and other people's clients and servers.
//!
//! Everything but `coturn` is in simulated time and memory. `SEEDS=n` runs n histories against the model.

#![cfg(test)]

mod attacks;
mod authentication;
mod coturn;
mod data;
mod interop;
mod model;
mod requests;
mod world;
