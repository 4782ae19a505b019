//! What a run has to do at which time, besides letting users come.

use std::{collections::BTreeMap, time::Duration};

use crate::{driver::Order, scenario::Scenario};

/// Something to do.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// Measuring begins.
    HoldBegins,
    /// Nobody sends any more.
    HoldEnds,
    /// Whatever was under way has arrived or will not.
    DrainEnds,
    /// A second is over.
    Second,
    /// An event of the scenario, by its place.
    Event(usize),
    /// An attack of the scenario, by its place.
    Attack(usize),
    /// A user is told something, if it is there.
    Order(u32, Order),
}

/// Steps in order of time; those of the same time in the order in which they were entered.
#[derive(Debug, Default)]
pub(super) struct Agenda {
    steps: BTreeMap<(Duration, u64), Step>,
    entered: u64,
}

impl Agenda {
    /// What a scenario says.
    pub(super) fn of(scenario: &Scenario) -> Self {
        let mut agenda = Self::default();
        let (begin, end) = scenario.hold_span();
        agenda.enter(begin, Step::HoldBegins);
        for (at, event) in scenario.events.iter().enumerate() {
            agenda.enter(begin + event.at.0, Step::Event(at));
        }
        for (at, attack) in scenario.attacks.iter().enumerate() {
            agenda.enter(begin + attack.at.0, Step::Attack(at));
        }
        agenda.enter(end, Step::HoldEnds);
        agenda.enter(end + scenario.drain.0, Step::DrainEnds);
        agenda.enter(Duration::from_secs(1), Step::Second);
        agenda
    }

    pub(super) fn enter(&mut self, at: Duration, step: Step) {
        self.entered += 1;
        self.steps.insert((at, self.entered), step);
    }

    /// When the next step is due.
    pub(super) fn next(&self) -> Option<Duration> {
        self.steps.keys().next().map(|(at, _)| *at)
    }

    /// A step that is due by now, and when it was.
    pub(super) fn take(&mut self, now: Duration) -> Option<(Duration, Step)> {
        let entry = self.steps.first_entry().filter(|entry| entry.key().0 <= now)?;
        let ((at, _), step) = entry.remove_entry();
        Some((at, step))
    }
}
