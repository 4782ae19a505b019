//! Whether a data channel still gets through, from its own evidence (`client/src/suspicion.js`, which says why). The owner
//! says what it sends and hears, and asks again at [`next_at`](Suspicion::next_at).

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use switchyard_signaling::lateness::Lateness;

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// Probes missed in a row that make a suspicion.
const MISSES: usize = 4;
/// Until the first probe.
const QUIET: Duration = ms(100);
const PROBE_LEAST: Duration = ms(40);
const ANSWER_LEAST: Duration = ms(80);
/// For what delays an answer and is not the network.
const ANSWER_SPARE: Duration = ms(40);
/// Without a single answer, though other things are heard.
const UNANSWERED: Duration = ms(1_000);
/// After the suspicion: fast at first.
const SUSPECTED_PROBE: Duration = ms(250);
const FAST_FOR: Duration = ms(3_000);
const SLOW_PROBE: Duration = ms(1_000);
/// A look that comes so late says that the page was busy: what has arrived meanwhile is read first.
const LATE: Duration = ms(30);
const SECOND_LOOK: Duration = ms(30);
/// Before the first answer.
const ASSUMED_RTT: Duration = ms(200);
/// Nonces of these probes, so that the answers to the others are not mixed with them.
const NONCES: u32 = 0x8000_0000;
const OUTSTANDING: usize = 64;

/// Since something last spoke for the channel.
#[derive(Clone, Debug)]
struct Silence {
    /// When probes were sent, at most as many as convict.
    probes: Vec<Instant>,
    /// Until the first.
    patience: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Trusted,
    Suspected,
}

#[derive(Clone, Debug)]
pub(crate) struct Suspicion {
    heard_at: Instant,
    answered_at: Instant,
    /// Since when an answer is awaited.
    since: Option<Instant>,
    /// The other side, or the browser, says that something is wrong: the first probe goes at once.
    is_hinted: bool,
    hearing: Silence,
    answering: Silence,
    probed_at: Option<Instant>,
    nonce: u32,
    /// Nonce, and when it was sent.
    outstanding: VecDeque<(u32, Instant)>,
    variation: Duration,
    lateness: Lateness,
    /// A suspicion that was looked for late is none before.
    not_before: Option<Instant>,
    /// Nor is a doubt.
    no_doubt_before: Option<Instant>,
    /// Smoothed, of these probes alone; none before the first answer.
    rtt: Option<Duration>,
}

impl Suspicion {
    pub(crate) fn new(now: Instant) -> Self {
        let silence = |patience| Silence { probes: Vec::with_capacity(MISSES), patience };
        Self {
            heard_at: now,
            answered_at: now,
            since: None,
            is_hinted: false,
            hearing: silence(QUIET),
            answering: silence(UNANSWERED),
            probed_at: None,
            nonce: 0,
            outstanding: VecDeque::new(),
            variation: ASSUMED_RTT / 2,
            lateness: Lateness::default(),
            not_before: None,
            no_doubt_before: None,
            rtt: None,
        }
    }

    pub(crate) fn rtt(&self) -> Option<Duration> {
        self.rtt
    }

    /// How long nothing has been heard.
    pub(crate) fn quiet_for(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.heard_at)
    }

    /// How long a probe may take to be answered.
    pub(super) fn answer(&self) -> Duration {
        ANSWER_LEAST.max(self.assumed_rtt() + 4 * self.variation + ANSWER_SPARE)
    }

    /// Whether an answer is awaited.
    pub(crate) fn expect(&mut self, now: Instant, awaited: bool) {
        if !awaited && !self.is_hinted {
            self.since = None;
            self.clear();
        } else {
            self.since.get_or_insert(now);
        }
    }

    /// Somebody doubts the channel: see at once.
    pub(crate) fn hint(&mut self, now: Instant) {
        self.is_hinted = true;
        self.since.get_or_insert(now);
    }

    pub(crate) fn heard(&mut self, now: Instant) {
        if let Some(expected) = self.expected_at() {
            self.lateness.came(expected, now);
        }
        self.heard_at = now;
        self.hearing.probes.clear();
        self.relent();
    }

    /// Notes a probe and gives its nonce.
    pub(crate) fn ping(&mut self, now: Instant) -> u32 {
        self.probed_at = Some(now);
        self.nonce = (self.nonce + 1) % NONCES;
        self.outstanding.push_back((self.nonce, now));
        if self.outstanding.len() > OUTSTANDING {
            self.outstanding.pop_front();
        }
        let counts = |silence: &Silence, first: Option<Instant>| {
            first.is_some_and(|first| now >= first) && silence.probes.len() < MISSES
        };
        let hearing = counts(&self.hearing, self.first_at(true));
        let answering = counts(&self.answering, self.first_at(false));
        if hearing {
            self.hearing.probes.push(now);
        }
        if answering {
            self.answering.probes.push(now);
        }
        NONCES + self.nonce
    }

    /// An answer. False for one that is not to a probe of these.
    pub(crate) fn pong(&mut self, nonce: u32, now: Instant) -> bool {
        let of = nonce.wrapping_sub(NONCES);
        let Some(index) = self.outstanding.iter().position(|(nonce, _)| *nonce == of) else { return false };
        if let Some((_, sent)) = self.outstanding.remove(index) {
            self.answered(now, Some(now.saturating_duration_since(sent)));
        }
        true
    }

    /// It got there and back; with its round trip, if nothing but the network took the time.
    pub(crate) fn answered(&mut self, now: Instant, sample: Option<Duration>) {
        self.answered_at = now;
        self.answering.probes.clear();
        self.is_hinted = false;
        self.relent();
        let Some(sample) = sample else { return };
        // As TCP does it (RFC 6298, section 2).
        match self.rtt {
            None => (self.rtt, self.variation) = (Some(sample), sample / 2),
            Some(rtt) => {
                self.variation = (self.variation * 3 + rtt.abs_diff(sample)) / 4;
                self.rtt = Some((rtt * 7 + sample) / 8);
            }
        }
    }

    /// When a probe is due, if nothing is heard.
    pub(crate) fn probe_at(&self) -> Option<Instant> {
        [self.probe_of(true), self.probe_of(false)].into_iter().flatten().min()
    }

    /// When to ask again, while it is trusted.
    pub(crate) fn next_at(&self) -> Option<Instant> {
        let convict = self.convict_at().map(|at| self.not_before.map_or(at, |not_before| at.max(not_before)));
        [self.probe_at(), convict].into_iter().flatten().min()
    }

    /// When what is not acknowledged is to go elsewhere too, if nothing is heard: an answer should have come by then.
    pub(crate) fn doubt_at(&self) -> Option<Instant> {
        self.answer_due_at().map(|at| self.no_doubt_before.map_or(at, |not_before| at.max(not_before)))
    }

    /// Whether it is doubted.
    pub(crate) fn doubts(&mut self, now: Instant) -> bool {
        let Some(due) = self.answer_due_at().filter(|due| *due <= now) else {
            self.no_doubt_before = None;
            return false;
        };
        let is_late = now.saturating_duration_since(due) > LATE;
        let not_before = *self.no_doubt_before.get_or_insert(if is_late { now + SECOND_LOOK } else { due });
        now >= not_before
    }

    fn answer_due_at(&self) -> Option<Instant> {
        Some(self.expected_at()? + (QUIET + ANSWER_SPARE).max(self.lateness.bound()))
    }

    /// When something is to be heard, if nothing is late.
    fn expected_at(&self) -> Option<Instant> {
        let rtt = self.assumed_rtt();
        let first = self.since? + rtt + rtt / 4;
        Some(first.max(self.heard_at + rtt / 4))
    }

    pub(crate) fn verdict(&mut self, now: Instant) -> Verdict {
        let Some(convict) = self.convict_at().filter(|at| *at <= now) else { return Verdict::Trusted };
        match self.not_before {
            Some(not_before) if now < not_before => return Verdict::Trusted,
            None if now.saturating_duration_since(convict) > LATE => {
                self.not_before = Some(now + SECOND_LOOK);
                return Verdict::Trusted;
            }
            _ => {}
        }
        self.not_before = Some(convict);
        Verdict::Suspected
    }

    /// From here on it is to be judged anew: the page slept, or the channel is given a new chance.
    pub(crate) fn acquit(&mut self, now: Instant) {
        self.heard_at = now;
        self.answered_at = now;
        self.since = None;
        self.is_hinted = false;
        self.clear();
    }

    fn clear(&mut self) {
        self.hearing.probes.clear();
        self.answering.probes.clear();
        self.relent();
    }

    fn relent(&mut self) {
        if self.convict_at().is_none() {
            self.not_before = None;
        }
    }

    fn assumed_rtt(&self) -> Duration {
        self.rtt.unwrap_or(ASSUMED_RTT)
    }

    fn silence(&self, is_hearing: bool) -> &Silence {
        if is_hearing { &self.hearing } else { &self.answering }
    }

    fn first_at(&self, is_hearing: bool) -> Option<Instant> {
        let spoke = if is_hearing { self.heard_at } else { self.answered_at };
        let from = self.since?.max(spoke);
        if self.is_hinted && is_hearing {
            return Some(from);
        }
        Some(from + self.silence(is_hearing).patience + self.assumed_rtt() / 2)
    }

    fn probe_of(&self, is_hearing: bool) -> Option<Instant> {
        let probes = &self.silence(is_hearing).probes;
        let (Some(first), Some(last)) = (probes.first(), probes.last()) else {
            return self.first_at(is_hearing);
        };
        if probes.len() < MISSES {
            return Some(*last + PROBE_LEAST.max(self.assumed_rtt() / 2));
        }
        let probed = self.probed_at?;
        let is_fast = probed.saturating_duration_since(*first) < FAST_FOR;
        Some(probed + if is_fast { SUSPECTED_PROBE } else { SLOW_PROBE })
    }

    fn convict_at(&self) -> Option<Instant> {
        let last = [&self.hearing, &self.answering].map(|silence| silence.probes.get(MISSES - 1));
        Some(*last.into_iter().flatten().min()? + self.answer())
    }
}
