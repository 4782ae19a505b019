//! The round trip of the attached pipe, measured by PING and PONG while frames wait for acknowledgement.

use std::time::{Duration, Instant};

/// While frames wait for acknowledgement, the receiver is probed this often.
pub(super) const INTERVAL: Duration = Duration::from_secs(2);

/// What is known of it.
#[derive(Debug, Default)]
pub(super) struct RoundTrip {
    smoothed: Option<Duration>,
    /// The last probe's nonce, and when it was sent.
    probe: Option<(u32, Instant)>,
    next: Option<Instant>,
}

impl RoundTrip {
    /// Smoothed; `None` before the first answer.
    pub(super) fn smoothed(&self) -> Option<Duration> {
        self.smoothed
    }

    /// Half of it, as far as it is known.
    pub(super) fn half(&self) -> Duration {
        self.smoothed.unwrap_or_default() / 2
    }

    /// When the next probe is due, if frames wait for acknowledgement until then.
    pub(super) fn due(&self) -> Option<Instant> {
        self.next
    }

    /// A pipe message is about to be written. Returns the nonce of the probe that is to go with it: `awaits`, frames wait for
    /// acknowledgement; `follows`, this message brings the first that will.
    pub(super) fn poll(&mut self, awaits: bool, follows: bool, now: Instant) -> Option<u32> {
        if !awaits {
            // However often everything is acknowledged in between: a probe costs the client an answer.
            let earliest = self.probe.map_or(now, |(_, sent)| now.max(sent + INTERVAL));
            self.next = follows.then_some(earliest);
            return None;
        }
        if self.next.is_some_and(|due| due > now) {
            return None;
        }
        let nonce = self.probe.map_or(1, |(nonce, _)| nonce.wrapping_add(1));
        self.probe = Some((nonce, now));
        self.next = Some(now + INTERVAL);
        Some(nonce)
    }

    /// An answer has come; of the last probe, or it counts for nothing.
    pub(super) fn answered(&mut self, nonce: u32, now: Instant) {
        if let Some((expected, sent)) = self.probe
            && expected == nonce
        {
            let sample = now.saturating_duration_since(sent);
            self.smoothed = Some(self.smoothed.map_or(sample, |rtt| (rtt * 7 + sample) / 8));
        }
    }

    /// The pipe is another: an answer to what was asked on the old one says nothing of it.
    pub(super) fn forget_probe(&mut self) {
        self.probe = None;
    }

    #[cfg(test)]
    pub(super) fn set(&mut self, smoothed: Duration) {
        self.smoothed = Some(smoothed);
    }
}
