//! One shard's view of its peers, without sockets, threads or clocks.

pub mod demux;
pub mod dtls_guard;
pub mod ice;
pub mod path;
pub mod stun;
