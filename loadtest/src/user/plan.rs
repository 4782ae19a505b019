//! What one simulated user is to do. The run makes plans from a scenario; [`super::User`] carries one out.

use std::time::{Duration, Instant};

use crate::browser::Lane;

/// What one simulated user is to do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Its number in the run; messages are stamped with it.
    pub number: u32,
    /// Its group's place in the scenario.
    pub group: usize,
    /// The place of its network among those of the scenario. Users behind different ones are expected to differ in their
    /// latencies.
    pub network: usize,
    /// The room to join.
    pub room: String,
    /// Whether it uses data channels over UDP, rather than the WebSocket alone.
    pub udp: bool,
    /// Decides about its think times and the like.
    pub seed: u64,
    /// What it does once it is in its room.
    pub does: Vec<Does>,
}

/// One thing that a user does. Each has a module of the same shape in [`super`].
#[derive(Clone, Debug, PartialEq)]
pub enum Does {
    /// Sends and receives data messages.
    Data(Data),
    /// Writes to and reads the room's log.
    Messages(Messages),
    /// Stops reading for a while, as a page in a busy tab does.
    Stall(Stall),
}

/// Data messages to the whole room.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Data {
    /// On which lane.
    pub lane: Lane,
    /// The stream that they belong to; two behaviours of one user have different ones.
    pub stream: u16,
    /// Bytes of each.
    pub size: usize,
    /// When they are due; nobody who only listens has one.
    pub pace: Option<Pace>,
}

/// Durable messages.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Messages {
    /// Bytes of each body.
    pub size: usize,
    /// When they are due; nobody who only reads has one.
    pub pace: Option<Pace>,
}

/// When messages are due. The schedule stands before anything is sent, and latency counts from it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    /// The first, if the user is in its room by then; what was due before that is not owed.
    pub start: Instant,
    /// The mean time from one to the next.
    pub interval: Duration,
    /// Whether the times between are exponentially distributed, as those of people are, or all the same.
    pub random: bool,
    /// None is due from here on.
    pub end: Instant,
}

/// Not reading: neither the WebSocket nor the data channels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stall {
    /// The first time.
    pub at: Instant,
    /// How long.
    pub length: Duration,
    /// From the beginning of one to that of the next, if it is more than once.
    pub every: Option<Duration>,
}
