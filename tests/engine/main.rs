//! Our doors before the WebRTC engine, shown with the real engine on both sides.

mod activation;
mod handshake;
mod mutation;
mod pair;
