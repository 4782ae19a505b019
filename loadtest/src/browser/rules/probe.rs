//! Whether a pipe is alive, and its round-trip time: PINGs sent, PONGs and everything else heard (`client/src/probe.js`).

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// PINGs whose answers are waited for, at most.
const OUTSTANDING: usize = 64;

#[derive(Clone, Debug)]
pub(crate) struct Probe {
    heard_at: Instant,
    pinged_at: Option<Instant>,
    nonce: u32,
    /// Sent and not answered: nonce and when.
    outstanding: VecDeque<(u32, Instant)>,
    /// Smoothed; none before the first answer.
    rtt: Option<Duration>,
    /// The last answer's round trip as it was.
    latest: Duration,
}

impl Probe {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            heard_at: now,
            pinged_at: None,
            nonce: 0,
            outstanding: VecDeque::new(),
            rtt: None,
            latest: Duration::ZERO,
        }
    }

    pub(crate) fn rtt(&self) -> Option<Duration> {
        self.rtt
    }

    pub(crate) fn latest(&self) -> Duration {
        self.latest
    }

    /// When anything last came in.
    pub(crate) fn heard_at(&self) -> Instant {
        self.heard_at
    }

    /// Anything came in.
    pub(crate) fn heard(&mut self, now: Instant) {
        self.heard_at = now;
    }

    /// Whether a PING is due.
    pub(crate) fn is_due(&self, now: Instant, interval: Duration) -> bool {
        self.pinged_at.is_none_or(|at| now.saturating_duration_since(at) >= interval)
    }

    /// Notes a PING and gives its nonce.
    pub(crate) fn ping(&mut self, now: Instant) -> u32 {
        self.pinged_at = Some(now);
        self.nonce = self.nonce.wrapping_add(1);
        self.outstanding.push_back((self.nonce, now));
        if self.outstanding.len() > OUTSTANDING {
            self.outstanding.pop_front();
        }
        self.nonce
    }

    /// An answer. Older PINGs are taken as lost. False for one that was not asked for.
    pub(crate) fn pong(&mut self, nonce: u32, now: Instant) -> bool {
        let Some(&(_, sent)) = self.outstanding.iter().find(|(of, _)| *of == nonce) else { return false };
        self.outstanding.retain(|(_, at)| *at > sent);
        let sample = now.saturating_duration_since(sent);
        self.latest = sample;
        self.rtt = Some(self.rtt.map_or(sample, |rtt| (rtt * 3 + sample) / 4));
        true
    }

    /// Nothing heard for this long since a PING that waits for its answer. Time before the PING does not count: a lost one is
    /// sent again beneath, by SCTP after a second, and that must not look like a dead pipe.
    pub(crate) fn is_silent(&self, now: Instant, span: Duration) -> bool {
        let oldest = self.outstanding.front();
        oldest.is_some_and(|(_, at)| now.saturating_duration_since((*at).max(self.heard_at)) >= span)
    }

    /// Silence before now says nothing: the page slept, or nobody listened.
    pub(crate) fn wake(&mut self, now: Instant) {
        self.heard_at = now;
        self.outstanding.clear();
        self.pinged_at = None;
    }
}
