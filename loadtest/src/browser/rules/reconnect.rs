//! How long an attempt to open a WebSocket may take, and how long to wait before the next (`client/src/reconnect.js`, which
//! says why).

use std::time::{Duration, Instant};

use super::backoff::Backoff;

const OPEN: Duration = Duration::from_secs(6);
const OPEN_LEAST: Duration = Duration::from_secs(2);
const OPEN_LATER: Duration = Duration::from_secs(4);
const QUICK_ATTEMPTS: u32 = 4;
const QUICK_REFUSALS: u32 = 3;
const STALE: Duration = Duration::from_millis(400);
const STALE_UNKNOWN: Duration = Duration::from_secs(1);
const REPLACEMENTS: u32 = 3;
const AWAY: Duration = Duration::from_secs(30);
const PAUSE_LEAST: Duration = Duration::from_secs(4);
const PAUSE: Duration = Duration::from_secs(2);
const REFUSED_PAUSE_LEAST: Duration = Duration::from_secs(8);
const REFUSED_PAUSE: Duration = Duration::from_secs(4);

#[derive(Clone, Debug)]
pub(crate) struct Reconnect {
    backoff: Backoff,
    failing_since: Option<Instant>,
    failures: u32,
    found: u32,
}

impl Default for Reconnect {
    fn default() -> Self {
        let backoff = Backoff::new(Duration::ZERO, Duration::from_millis(200), Duration::from_secs(20));
        Self { backoff, failing_since: None, failures: 0, found: 0 }
    }
}

impl Reconnect {
    /// How long the next attempt may take, given the round trip as last known.
    pub(crate) fn patience(&self, now: Instant, rtt: Option<Duration>) -> Duration {
        let is_away = self.failing_since.is_some() && !self.is_recent(now);
        let Some(rtt) = rtt.filter(|_| !is_away) else { return OPEN };
        let least = if self.failures < QUICK_ATTEMPTS { OPEN_LEAST } else { OPEN_LATER };
        OPEN.min(least + 4 * rtt)
    }

    /// An attempt that began then failed, or a connection ended; `silent` says whether nothing at all was answered. Gives how
    /// long to wait before the next.
    pub(crate) fn failed(&mut self, now: Instant, began: Instant, silent: bool, random: f64) -> Duration {
        let since = *self.failing_since.get_or_insert(now);
        self.failures += 1;
        let wait = self.backoff.next(random);
        if !self.asks(now, silent) {
            return wait;
        }
        if !silent {
            let is_first = self.failures == QUICK_REFUSALS + 1;
            let rest = if is_first { Duration::ZERO } else { (since + AWAY).saturating_duration_since(now) };
            return rest.max(REFUSED_PAUSE_LEAST) + REFUSED_PAUSE.mul_f64(random);
        }
        if self.is_recent(now) {
            return PAUSE_LEAST + PAUSE.mul_f64(random);
        }
        wait.saturating_sub(now.saturating_duration_since(began))
    }

    /// Whether somebody is to ask, after a failure, if the network is back.
    pub(crate) fn asks(&self, now: Instant, silent: bool) -> bool {
        silent || (self.failures > QUICK_REFUSALS && self.found == 0 && self.is_recent(now))
    }

    /// It is: who is refused then is refused by somebody.
    pub(crate) fn found(&mut self) {
        self.found += 1;
    }

    /// Whether to ask on, in case that the WebSocket which is opened then hangs.
    pub(crate) fn asks_on(&self) -> bool {
        self.found <= REPLACEMENTS
    }

    /// Whether a WebSocket that has been being opened for so long would be sooner there if it were begun anew.
    pub(crate) fn is_stale(age: Duration, rtt: Option<Duration>) -> bool {
        age > rtt.map_or(STALE_UNKNOWN, |rtt| STALE + 4 * rtt)
    }

    fn is_recent(&self, now: Instant) -> bool {
        self.failing_since.is_some_and(|since| now.saturating_duration_since(since) < AWAY)
    }

    /// The server has answered.
    pub(crate) fn reset(&mut self) {
        self.failing_since = None;
        self.failures = 0;
        self.found = 0;
        self.backoff.reset();
    }
}
