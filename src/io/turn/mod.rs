//! STUN and TURN on real sockets (NAT1): one thread around [`switchyard_turn_config::server`], and the doors before it.
//!
//! ```text
//! client ─ UDP ───────────────────────► thread ─► peers, by relay sockets
//! client ─ TCP ─► doors ─┐                │  ▲
//! client ─ TLS ─► doors ─┴─ Connected ────┤  │
//!                          └─ HTTPS ─► http  └──► shards, in memory (path `Relay`)
//! ```
//!
//! - [`doors`]: on the runtime's workers, what is slow or may be waited for: accepting, PROXY protocol, TLS handshakes;
//! - the thread takes over connections that stand, and from then on nobody else touches them.

#![expect(dead_code, reason = "the thread comes next")]

mod doors;
mod mailbox;

use std::net::TcpStream;

use switchyard_turn_config::server::Link;
use tokio_rustls::rustls::ServerConnection;

/// A client's connection that stands: TLS is done, and it speaks TURN.
#[derive(Debug)]
pub(super) struct Connected {
    /// Who it is. The remote address is the one that the PROXY protocol names, where that is spoken.
    pub(super) link: Link,
    /// Non-blocking, without Nagle's delay, and no longer watched by tokio.
    pub(super) socket: TcpStream,
    /// What decrypts it.
    pub(super) tls: Option<Box<ServerConnection>>,
    /// What has been read from it already, in the clear.
    pub(super) read: Vec<u8>,
}
