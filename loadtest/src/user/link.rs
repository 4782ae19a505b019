//! When a user's WebSocket is opened, given up and opened again: exponential backoff with full jitter, as in the
//! browser client's `link.js`. It decides; the user commands.

use std::time::{Duration, Instant};

use crate::rng::Rng;

/// The bound of the first delay; it doubles with each attempt in a row …
const FIRST: Duration = Duration::from_millis(200);
/// … up to this.
const MOST: Duration = Duration::from_secs(20);
/// Before coming back to a server that is shutting down, if it did not say, a random part of this.
const DRAINING: Duration = Duration::from_secs(5);
/// A WebSocket that does not get as far as the welcome in this time is given up.
const OPENING: Duration = Duration::from_secs(10);

/// The life of a user's WebSockets.
#[derive(Debug)]
pub(super) struct Link {
    state: State,
    /// Failed attempts and losses in a row.
    failures: u32,
    is_draining: bool,
    is_open: bool,
    /// How many have been open.
    opened: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// None is wanted before this time; none at all without one.
    Closed(Option<Instant>),
    /// Under way, to be given up then. It may be open already and lack the welcome.
    Opening(Instant),
    /// The server has answered.
    Welcomed,
}

impl Link {
    pub(super) fn new() -> Self {
        Self { state: State::Closed(None), failures: 0, is_draining: false, is_open: false, opened: 0 }
    }

    /// One is wanted now.
    pub(super) fn want(&mut self, now: Instant) {
        self.failures = 0;
        self.is_open = false;
        self.state = State::Closed(Some(now));
    }

    /// None is wanted any more.
    pub(super) fn stop(&mut self) {
        self.is_open = false;
        self.state = State::Closed(None);
    }

    /// Whether one is to be opened now; it is then on its way.
    pub(super) fn opens(&mut self, now: Instant) -> bool {
        let is_due = matches!(self.state, State::Closed(Some(at)) if at <= now);
        if is_due {
            self.state = State::Opening(now + OPENING);
        }
        is_due
    }

    /// Whether the one that is on its way takes too long.
    pub(super) fn is_overdue(&self, now: Instant) -> bool {
        matches!(self.state, State::Opening(until) if until <= now)
    }

    /// Whether there is one, or one on its way.
    pub(super) fn is_up(&self) -> bool {
        !matches!(self.state, State::Closed(_))
    }

    /// Whether it is open. What one that was given up had still to say does not count.
    pub(super) fn is_open(&self) -> bool {
        self.is_open
    }

    /// Whether the server has answered on it.
    pub(super) fn is_welcomed(&self) -> bool {
        self.state == State::Welcomed
    }

    /// The WebSocket is open: which one this is, counted from 1.
    pub(super) fn opened(&mut self) -> u64 {
        self.opened += 1;
        self.is_open = true;
        self.opened
    }

    /// The server has answered.
    pub(super) fn welcomed(&mut self) {
        self.state = State::Welcomed;
        self.failures = 0;
        self.is_draining = false;
    }

    /// The server is shutting down.
    pub(super) fn draining(&mut self) {
        self.is_draining = true;
    }

    /// It could not be opened, or was lost.
    pub(super) fn lost(&mut self, now: Instant, rng: &mut Rng) {
        let bound = if self.is_draining {
            DRAINING
        } else {
            FIRST.saturating_mul(1 << self.failures.min(16)).min(MOST)
        };
        self.failures += 1;
        self.is_open = false;
        self.state = State::Closed(Some(now + bound.mul_f64(rng.unit())));
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        match self.state {
            State::Closed(at) => at,
            State::Opening(until) => Some(until),
            State::Welcomed => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_are_spread_from_nothing_to_a_bound_that_doubles_up_to_its_most() {
        let now = Instant::now();
        let longest = |failures: usize| {
            let delays = (0..500).map(|seed| {
                let (mut link, mut rng) = (Link::new(), Rng::new(seed));
                link.want(now);
                (0..failures).for_each(|_| link.lost(now, &mut rng));
                link.poll_timeout().unwrap() - now
            });
            let delays: Vec<Duration> = delays.collect();
            let (least, most) = (delays.iter().min().unwrap(), delays.iter().max().unwrap());
            assert!(*least < most.mul_f64(0.05), "{failures}: {least:?} to {most:?}");
            *most
        };
        for (failures, bound) in [(1, 0.2), (2, 0.4), (5, 3.2), (8, 20.0), (40, 20.0)] {
            let most = longest(failures).as_secs_f64();
            assert!(most <= bound && most > bound * 0.95, "{failures}: {most}");
        }
    }

    #[test]
    fn a_welcome_begins_the_delays_anew_and_a_change_of_network_waits_for_none() {
        let now = Instant::now();
        let (mut link, mut rng) = (Link::new(), Rng::new(1));
        (0..10).for_each(|_| link.lost(now, &mut rng));
        link.want(now);
        assert!(link.opens(now) && !link.opens(now));
        link.welcomed();
        link.lost(now, &mut rng);
        assert!(link.poll_timeout().unwrap() - now <= FIRST);
    }

    #[test]
    fn an_attempt_without_an_answer_is_given_up() {
        let now = Instant::now();
        let mut link = Link::new();
        assert!(!link.opens(now));
        link.want(now);
        assert!(link.opens(now) && link.is_up());
        assert!(!link.is_overdue(now + OPENING / 2) && link.is_overdue(now + OPENING));
    }
}
