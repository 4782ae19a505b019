//! The rules by which the browser client chooses between its pipes and opens its WebSockets, as `client/src/` has them:
//! the same names, the same constants, the same order of decisions, so that what simulated browsers take is what real ones
//! would. Pure, without sockets, clocks or a peer connection.
//!
//! `signaling/vectors/rules.json` has what both halves must say, step by step: `client/test/rules.test.js` plays it to the
//! client's modules, the tests here to these.

pub(crate) mod backoff;
pub(crate) mod probe;
pub(crate) mod reconnect;
pub(crate) mod suspicion;
pub(crate) mod trial;
pub(crate) mod watch;

#[cfg(test)]
mod tests;
