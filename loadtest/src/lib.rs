//! Simulated browsers on simulated or real networks: the load program's parts, which the server's world tests use too.
//!
//! Without sockets and clocks, for both:
//!
//! - [`netsim`]: a network as a pure function of its seed;
//! - [`browser`]: a simulated browser: session, WebSocket and peer connection;
//! - [`adapter`]: kinds of servers, and what users speak with each;
//! - [`peer`]: its peer connection with the two data channels;
//! - [`sockets`]: when a page opens WebSockets, and gives them up;
//! - [`user`]: a simulated user: a browser that comes, does something, reconnects and leaves;
//! - [`account`]: what was sent, and what of it was lost, doubled, out of order, altered or late;
//! - [`figures`]: the figures of a run, with a stable JSON schema;
//! - [`histogram`]: latencies, counted in a bounded number of buckets;
//! - [`rng`]: the seeded random numbers beneath;
//! - [`units`]: quantities as people write them.
//!
//! The load program, on real sockets:
//!
//! - [`scenario`]: what is to be run and what must hold, in YAML;
//! - [`run`]: one run of a scenario, from the first user's coming to the report;
//! - [`driver`]: users on real sockets;
//! - [`attack`]: those who mean the server ill;
//! - [`target`]: the server's URL, connections and requests;
//! - [`token`]: tokens for the simulated users;
//! - [`observe`]: what the server and this program use;
//! - [`turn`]: load for a bare TURN server;
//! - [`view`]: what people see of a run.

pub mod account;
pub mod adapter;
pub mod attack;
pub mod browser;
pub mod driver;
pub mod figures;
pub mod histogram;
pub mod netsim;
pub mod observe;
pub mod peer;
pub mod rng;
pub mod run;
pub mod scenario;
pub mod sockets;
pub mod target;
pub mod token;
pub mod turn;
pub mod units;
pub mod user;
pub mod view;

#[cfg(test)]
mod answerer;
