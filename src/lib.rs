//! The server.

pub mod engine;
