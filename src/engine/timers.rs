//! Deadlines of many things, of which few change at a time: a heap of what was scheduled, where an entry that no
//! longer holds is found out when it comes up. Each thing remembers the instant it is scheduled for.

use std::{cmp::Reverse, collections::BinaryHeap, time::Instant};

/// What has a deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// The session in this slot.
    Session(u32),
    /// The peer in this slot.
    Peer(u32),
}

/// The deadlines.
#[derive(Debug, Default)]
pub(super) struct Timers {
    heap: BinaryHeap<Reverse<(Instant, Timer)>>,
}

impl Timers {
    /// Schedules `timer` for `due` unless it comes up before that anyway; `scheduled` is the thing's memory.
    pub(super) fn schedule(&mut self, timer: Timer, due: Option<Instant>, scheduled: &mut Option<Instant>) {
        if let Some(due) = due
            && scheduled.is_none_or(|at| due < at)
        {
            *scheduled = Some(due);
            self.heap.push(Reverse((due, timer)));
        }
    }

    /// The next that has come up, with the instant it was scheduled for. The owner clears its memory if that is the
    /// instant remembered there, and ignores the call otherwise.
    pub(super) fn pop(&mut self, now: Instant) -> Option<(Instant, Timer)> {
        if self.heap.peek()?.0.0 > now {
            return None;
        }
        self.heap.pop().map(|Reverse(entry)| entry)
    }

    /// When the next comes up.
    pub(super) fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((due, _))| *due)
    }
}
