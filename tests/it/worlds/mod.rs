//! What must hold in any world, whatever the seed.
//!
//! [`sockets`], [`rooms`] and [`log`] have modelled pipes alone, but for one world, and are functions of their seed; [`webrtc`] has the
//! real engine at both ends, which draws random numbers of its own, so that its worlds repeat in kind; so has
//! [`features`]. [`slow`] has both.

pub(crate) mod features;
mod log;
mod rooms;
mod slow;
mod sockets;
pub(crate) mod webrtc;
