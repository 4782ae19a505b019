//! The server as a whole: worlds in simulated time, the engine's traps, hostile clients, and the real doors.
//!
//! - [`world`]: shards, browsers, WebSockets and a network under one clock, and the checker of what was received.
//!   Logs have theirs: devices ([`world::seats`]) with histories, a disk that can be struck ([`world::storage`]), and a judge
//!   of histories ([`world::verdict`]);
//! - [`worlds`]: what must hold in them whatever the seed;
//! - [`attempts`]: how browsers come up the ladder in networks that block and lose;
//! - [`traps`]: what the WebRTC engine would get wrong if nobody looked after it;
//! - [`hostile`]: floods and half-finished handshakes, and what bystanders notice of them;
//! - [`doors`]: the real server on real sockets, and clients that misuse them;
//! - [`impostors`]: clients that use what is another's: a name, a room, a ticket, a time that is over;
//! - [`api`]: the same server's door for an application's backend;
//! - [`records`]: what it is told of attempts to connect, has seen of them, and tells the backend;
//! - [`quality`]: how good members' connections are, as others are told;
//! - [`doctor`]: the program that looks at a server from outside;
//! - [`https`]: the same server at one TLS port, which it shares with TURN;
//! - [`features`]: what it, a room's rule or a token switches off;
//! - [`ice_servers`]: what a server with TURN tells both of it.
//!
//! `SEEDS=n` runs n seeds of each world, `SEED=x` that one alone.

#![cfg(test)]

mod api;
mod attempts;
mod doctor;
mod doors;
mod features;
mod hostile;
mod https;
mod ice_servers;
mod impostors;
mod quality;
mod records;
mod traps;
mod world;
mod worlds;
