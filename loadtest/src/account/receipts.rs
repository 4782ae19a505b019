//! What one member received while it was one: its half of the account of data messages.

use std::{collections::BTreeMap, time::Duration};

use super::{
    seen::Seen,
    stamp::{MOST_MESSAGES, Stamp},
};
use crate::browser::{Incoming, Lane};

/// Whose message it is, on which lane and stream.
pub(super) type StreamKey = (u32, Lane, u16);

/// What has come in the messages of everybody.
#[derive(Clone, Debug, Default)]
pub(crate) struct Receipts {
    pub(super) streams: BTreeMap<StreamKey, Stream>,
    /// What the server told to be missing, by member number and stream; (0, 0) is anybody's.
    pub(super) told: BTreeMap<(u32, u16), u64>,
    pub(super) doubled: Faults,
    pub(super) reordered: Faults,
    pub(super) altered: Faults,
    /// The stamp itself is broken; the key is what it claims.
    pub(super) illegible: Faults,
    /// Without a stamp.
    pub(super) foreign: u64,
    /// How late the last reliable message was.
    pub(super) lag: Duration,
}

/// What has come of one stream.
#[derive(Clone, Debug, Default)]
pub(super) struct Stream {
    pub(super) seen: Seen,
    pub(super) bytes: u64,
}

/// Faults of one kind: how many of which stream, and the first of them.
#[derive(Clone, Debug, Default)]
pub(super) struct Faults {
    pub(super) counts: BTreeMap<StreamKey, u64>,
    pub(super) first: Vec<Fault>,
}

/// One message with a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Fault {
    pub(super) at: Duration,
    pub(super) stream: StreamKey,
    pub(super) number: u32,
}

/// Faults that are kept one by one.
const FIRST: usize = 64;
/// Streams that are told apart; an altered stamp may claim any.
const MOST_STREAMS: usize = 1 << 16;

impl Receipts {
    /// A message has come. Its stamp, if it is the first copy and its latency counts.
    pub(crate) fn message(&mut self, at: Duration, message: &Incoming) -> Option<Stamp> {
        let Some(stamp) = Stamp::of(&message.payload) else {
            self.foreign += 1;
            return None;
        };
        let stream = (stamp.sender, message.lane, message.stream);
        let fault = Fault { at, stream, number: stamp.seq };
        let is_known = self.streams.len() < MOST_STREAMS || self.streams.contains_key(&stream);
        if !stamp.is_legible(&message.payload) || stamp.seq == 0 || stamp.seq > MOST_MESSAGES || !is_known {
            self.illegible.note(fault);
            return None;
        }
        if !stamp.is_intact(&message.payload) {
            self.altered.note(fault);
        }
        let of = self.streams.entry(stream).or_default();
        let highest = of.seen.highest();
        if !of.seen.insert(stamp.seq) {
            self.doubled.note(fault);
            return None;
        }
        if message.lane == Lane::Reliable {
            self.lag = at.saturating_sub(stamp.scheduled);
        }
        of.bytes += message.payload.len() as u64;
        if stamp.seq < highest {
            self.reordered.note(fault);
        }
        Some(stamp)
    }

    /// The server told that messages are missing.
    pub(crate) fn gap(&mut self, member: u32, stream: u16, count: u32) {
        *self.told.entry((member, stream)).or_default() += u64::from(count);
    }
}

impl Faults {
    pub(super) fn note(&mut self, fault: Fault) {
        if self.counts.len() < MOST_STREAMS {
            *self.counts.entry(fault.stream).or_default() += 1;
        }
        if self.first.len() < FIRST {
            self.first.push(fault);
        }
    }
}
