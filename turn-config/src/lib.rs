//! TURN without I/O: what an operator sets, the credentials, the server as a state machine, and the same settings for
//! [coturn](https://github.com/coturn/coturn).
//!
//! Nothing here opens a socket, starts a thread, reads a clock or draws a random number: bytes, `now` and a seed come in,
//! bytes and decisions go out. Sockets, TLS and threads are the binary's, in `src/io`. This crate imports nothing of ours.
//!
//! - [`settings`]: every setting, its default and its unit; [`Turn::check`](settings::Turn::check) says what to change;
//! - [`credentials`]: short-lived user names and passwords, made and verified;
//! - [`ice_servers`]: what a browser is told;
//! - [`coturn`]: a `turnserver.conf` that serves the same clients;
//! - [`peers`]: which addresses the relay may reach;
//! - [`server`]: STUN and TURN, [RFC 8489](https://www.rfc-editor.org/rfc/rfc8489) and
//!   [RFC 8656](https://www.rfc-editor.org/rfc/rfc8656);
//! - [`framing`]: messages on TCP and TLS streams;
//! - [`stun`]: the messages; [`stun::wire`]: their bytes, on which ICE's in the server's engine stand too.

pub mod coturn;
pub mod credentials;
pub mod framing;
pub mod ice_servers;
pub mod peers;
pub mod server;
pub mod settings;
pub mod stun;
