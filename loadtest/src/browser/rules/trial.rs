//! A channel that was suspected and left has to prove itself before it is used again (`client/src/trial.js`).

use std::time::{Duration, Instant};

const HOLD: Duration = Duration::from_secs(1);
const HOLD_MOST: Duration = Duration::from_secs(60);
/// So long without a false suspicion takes a doubling back.
const FORGET: Duration = Duration::from_secs(60);
/// Answers that a proof has at least.
const ANSWERS: u32 = 4;
/// Probes in a hold, which is their pace while they are answered.
const PROBES_PER_HOLD: u32 = 8;
const PROBE_MOST: Duration = Duration::from_secs(1);

/// How long channels have to prove themselves.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hold {
    doublings: u32,
    since: Option<Instant>,
}

impl Hold {
    pub(crate) fn span(&mut self, now: Instant) -> Duration {
        self.forget(now);
        HOLD_MOST.min(HOLD * (1 << self.doublings))
    }

    /// A suspicion was false: the channel has proven itself.
    pub(crate) fn false_alarm(&mut self, now: Instant) {
        self.forget(now);
        self.since = Some(now);
        if HOLD * (1 << self.doublings) < HOLD_MOST {
            self.doublings += 1;
        }
    }

    fn forget(&mut self, now: Instant) {
        while self.doublings > 0
            && let Some(since) = self.since
            && now.saturating_duration_since(since) >= FORGET
        {
            self.doublings -= 1;
            self.since = Some(since + FORGET);
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Trial {
    pub(crate) began: Instant,
    hold: Duration,
    /// Since when it has answered without a suspicion.
    good_since: Option<Instant>,
    answers: u32,
    is_ordered: bool,
    probed_at: Option<Instant>,
}

impl Trial {
    pub(crate) fn new(now: Instant, hold: Duration) -> Self {
        Self { began: now, hold, good_since: None, answers: 0, is_ordered: false, probed_at: None }
    }

    /// An answer; `is_ordered` if over the ordered channel, which may have long pauses between its retries.
    pub(crate) fn answered(&mut self, now: Instant, is_ordered: bool) {
        self.good_since.get_or_insert(now);
        self.answers += 1;
        self.is_ordered |= is_ordered;
    }

    /// Suspected again.
    pub(crate) fn failed(&mut self) {
        self.good_since = None;
        self.answers = 0;
        self.is_ordered = false;
    }

    pub(crate) fn probed(&mut self, now: Instant) {
        self.probed_at = Some(now);
    }

    /// When a probe is due, while it answers. While it does not, the suspicion says.
    pub(crate) fn probe_at(&self) -> Option<Instant> {
        let good = self.good_since?;
        Some(self.probed_at.map_or(good, |at| at + PROBE_MOST.min(self.hold / PROBES_PER_HOLD)))
    }

    /// Whether the ordered channel is still to answer.
    pub(crate) fn wants_ordered(&self) -> bool {
        self.good_since.is_some() && !self.is_ordered
    }

    pub(crate) fn is_proven(&self, now: Instant) -> bool {
        let is_held = self.good_since.is_some_and(|since| now.saturating_duration_since(since) >= self.hold);
        is_held && self.is_ordered && self.answers >= ANSWERS
    }
}
