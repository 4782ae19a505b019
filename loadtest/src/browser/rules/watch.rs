//! Watches one data channel: says which probes to send, and when the channel is proven, suspected, or dead
//! (`client/src/watch.js`). Where frames go is the browser's business.

use std::time::{Duration, Instant};

use super::{
    probe::Probe,
    suspicion::{Suspicion, Verdict},
    trial::{Hold, Trial},
};

/// A channel on trial that is silent for so long is replaced.
const DEAD: Duration = Duration::from_secs(3);
/// Between PINGs over the ordered channel, which is what is to be proven.
const PROVE: Duration = Duration::from_millis(500);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed,
    Proving,
    Used,
    Trial,
}

/// A PING to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ping {
    /// On the channel that carries the lane.
    Ordered(u32),
    /// Where a lost one holds up nothing.
    Unordered(u32),
}

/// What a look finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finding {
    /// It works, both ways: for the first time, or again.
    Proven,
    /// While in use: it may be broken.
    Doubted,
    /// While in use: it is.
    Suspected,
    /// On trial.
    Dead,
}

/// The watch of one channel. After every change, and at [`poll_timeout`](Self::poll_timeout), it is to
/// [`look`](Self::look).
#[derive(Clone, Debug)]
pub(crate) struct Watch {
    state: State,
    suspicion: Suspicion,
    /// Of the ordered channel.
    pub(crate) probe: Probe,
    trial: Option<Trial>,
    is_dead: bool,
    is_doubted: bool,
    is_suspected: bool,
    proved_at: Option<Instant>,
    timer: Option<Instant>,
}

impl Watch {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            state: State::Closed,
            suspicion: Suspicion::new(now),
            probe: Probe::new(now),
            trial: None,
            is_dead: false,
            is_doubted: false,
            is_suspected: false,
            proved_at: None,
            timer: None,
        }
    }

    /// Whether it has been left for a suspicion.
    pub(crate) fn on_trial(&self) -> bool {
        self.state == State::Trial
    }

    /// Whether it is in use although it is suspected, there being nothing else.
    pub(crate) fn is_suspected(&mut self, now: Instant) -> bool {
        self.state == State::Used && self.suspicion.verdict(now) == Verdict::Suspected
    }

    /// Whether what is not acknowledged goes elsewhere too.
    pub(crate) fn is_doubted(&self) -> bool {
        self.state == State::Used && self.is_doubted
    }

    /// The channel is open: does it carry anything, there and back?
    pub(crate) fn prove(&mut self, now: Instant) {
        if self.state == State::Closed {
            self.state = State::Proving;
            self.timer = Some(now);
        }
    }

    /// Frames go over it from now on.
    pub(crate) fn take_in_use(&mut self, now: Instant) {
        if self.state != State::Used {
            self.state = State::Used;
            self.trial = None;
            self.acquit(now);
        }
    }

    /// Frames go elsewhere until it has proven itself.
    pub(crate) fn leave(&mut self, now: Instant, hold: &mut Hold) {
        if self.state == State::Used {
            self.state = State::Trial;
            self.trial = Some(Trial::new(now, hold.span(now)));
            self.is_dead = false;
            self.timer = Some(now);
        }
    }

    /// Somebody else doubts it.
    pub(crate) fn hint(&mut self, now: Instant) {
        if self.state == State::Used {
            self.suspicion.hint(now);
            self.timer = Some(now);
        }
    }

    /// Nobody listened: silence before now says nothing.
    pub(crate) fn acquit(&mut self, now: Instant) {
        self.suspicion.acquit(now);
        self.timer = Some(now);
    }

    /// Anything came in; `is_ordered` if over the ordered channel.
    pub(crate) fn heard(&mut self, now: Instant, is_ordered: bool) {
        if is_ordered {
            self.probe.heard(now);
        }
        self.suspicion.heard(now);
        self.is_doubted = false;
    }

    /// A PING was answered. Whether the channel is proven by that.
    pub(crate) fn pong(&mut self, nonce: u32, now: Instant) -> bool {
        let is_ours = self.suspicion.pong(nonce, now);
        let is_probe = !is_ours && self.probe.pong(nonce, now);
        if is_probe {
            let sample = self.suspicion.rtt().is_none().then_some(self.probe.latest());
            self.suspicion.answered(now, sample);
        }
        if let Some(trial) = &mut self.trial
            && (is_ours || is_probe)
        {
            trial.answered(now, is_probe);
        }
        is_probe && self.state == State::Proving
    }

    /// Does what is due: the PINGs go into `pings`. `awaits` says whether an answer is awaited over the channel in use.
    pub(crate) fn look(
        &mut self,
        now: Instant,
        awaits: bool,
        hold: &mut Hold,
        pings: &mut Vec<Ping>,
    ) -> Option<Finding> {
        match self.state {
            State::Closed => {
                self.timer = None;
                None
            }
            State::Proving => {
                self.ping_ordered(now, pings);
                self.timer = self.proved_at.map(|at| at + PROVE);
                None
            }
            State::Used | State::Trial => self.look_for_silence(now, awaits, hold, pings),
        }
    }

    /// When the next look is due.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.timer
    }

    fn ping_ordered(&mut self, now: Instant, pings: &mut Vec<Ping>) {
        if self.proved_at.is_none_or(|at| now >= at + PROVE) {
            self.proved_at = Some(now);
            pings.push(Ping::Ordered(self.probe.ping(now)));
        }
    }

    fn look_for_silence(
        &mut self,
        now: Instant,
        awaits: bool,
        hold: &mut Hold,
        pings: &mut Vec<Ping>,
    ) -> Option<Finding> {
        let is_due = |at: Option<Instant>| at.is_some_and(|at| now >= at);
        self.suspicion.expect(now, self.trial.is_some() || awaits);
        if is_due(self.suspicion.probe_at()) || is_due(self.trial.as_ref().and_then(Trial::probe_at)) {
            if let Some(trial) = &mut self.trial {
                trial.probed(now);
            }
            pings.push(Ping::Unordered(self.suspicion.ping(now)));
        }
        if self.trial.as_ref().is_some_and(Trial::wants_ordered) {
            self.ping_ordered(now, pings);
        }
        let is_suspected = self.suspicion.verdict(now) == Verdict::Suspected;
        let is_new = is_suspected && !self.is_suspected;
        self.is_suspected = is_suspected;
        let is_doubted = self.suspicion.doubts(now);
        let is_doubt = is_doubted && !self.is_doubted;
        self.is_doubted = is_doubted;
        let suspicion = if is_suspected { self.suspicion.probe_at() } else { self.suspicion.next_at() };
        let doubt = self.suspicion.doubt_at().filter(|_| self.trial.is_none() && !is_doubted);
        self.timer =
            [suspicion, doubt, self.trial.as_ref().and_then(Trial::probe_at)].into_iter().flatten().min();
        match &mut self.trial {
            None if is_new => Some(Finding::Suspected),
            None => is_doubt.then_some(Finding::Doubted),
            Some(trial) => {
                if is_suspected {
                    trial.failed();
                }
                self.judge(now, hold)
            }
        }
    }

    fn judge(&mut self, now: Instant, hold: &mut Hold) -> Option<Finding> {
        let trial = self.trial.as_ref()?;
        if trial.is_proven(now) {
            hold.false_alarm(now);
            return Some(Finding::Proven);
        }
        let silent = now.saturating_duration_since(trial.began).min(self.suspicion.quiet_for(now));
        let is_dead = silent >= DEAD;
        let is_new = is_dead && !self.is_dead;
        self.is_dead = is_dead;
        is_new.then_some(Finding::Dead)
    }
}
