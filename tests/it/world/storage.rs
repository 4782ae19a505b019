//! A disk that takes its time: what rooms ask of the store goes to [`super::disk`], through the steps in which a real one
//! could be struck. One writer, in order; readers apart.
//!
//! A change is taken, written, synced and answered, at seeded times one after the other. [`Storage::crash`] keeps what
//! was synced, and perhaps some of what was written. Disks fail, fill and are slow for a while; backups are taken and
//! restored.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use switchyard::store::{Answer, Letter, Reply, Request};
use switchyard_loadtest::rng::Rng;

use super::disk::{Backup, Disk, Fault};

/// What the disk is like for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    /// As it should be.
    Well,
    /// Everything takes this much longer.
    Slow(Duration),
    /// No change is taken.
    Full,
    /// Nothing is answered but that it is away.
    Away,
    /// Changes are made, and their answers say that they were not.
    Lying,
}

/// A fault of the disk's own, planted to see that it is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plant {
    /// Commits are answered before they are written.
    AnswersEarly,
    /// Refusals are not stored.
    ForgetsRefusals,
    /// What was taken from an origin is not stored.
    ForgetsOrigins,
}

/// A step of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Step {
    Taken,
    Written,
    Synced,
    Answered,
}

#[derive(Debug)]
struct Change {
    letter: Letter,
    answer: Option<Answer>,
    /// When each step is done, and which one comes next.
    times: [Instant; 3],
    next: Step,
    told: bool,
}

pub(crate) struct Storage {
    disk: Disk,
    changes: VecDeque<Change>,
    reads: Vec<(Instant, Letter)>,
    replies: VecDeque<Reply>,
    mood: Mood,
    pub(crate) plant: Option<Plant>,
    /// A crash of the server is due as soon as some change has come so far.
    pub(crate) strike: Option<Step>,
    struck: bool,
    /// How long a step takes at most.
    latency: Duration,
    rng: Rng,
}

impl Storage {
    pub(crate) fn new(seed: u64, latency: Duration) -> Self {
        Self {
            disk: Disk::default(),
            changes: VecDeque::new(),
            reads: Vec::new(),
            replies: VecDeque::new(),
            mood: Mood::Well,
            plant: None,
            strike: None,
            struck: false,
            latency,
            rng: Rng::stream(seed, 77),
        }
    }

    /// What the disk is like from now on.
    pub(crate) fn set_mood(&mut self, mood: Mood) {
        self.mood = mood;
        self.disk.set_fault(match mood {
            Mood::Well | Mood::Slow(_) => None,
            Mood::Full => Some(Fault::Full),
            Mood::Away => Some(Fault::Away),
            Mood::Lying => Some(Fault::AnswersLost),
        });
    }

    /// A room asks.
    pub(crate) fn handle(&mut self, letter: Letter, now: Instant) {
        let is_change = match &letter.request {
            Request::Note(_) => return,
            Request::Load(_) | Request::Commit(_) | Request::RaiseEpoch(_) => true,
            Request::Events { .. }
            | Request::Digest(..)
            | Request::Origin(..)
            | Request::Message(..)
            | Request::Fields(_)
            | Request::Page(_) => false,
        };
        if !is_change {
            let at = now + self.draw();
            return self.reads.push((at, letter));
        }
        let mut at = self.changes.back().map_or(now, |last| last.times[2].max(now));
        let times = [(); 3].map(|()| {
            at += self.draw();
            at
        });
        let mut change = Change { letter, answer: None, times, next: Step::Written, told: false };
        if self.plant == Some(Plant::AnswersEarly) && matches!(change.letter.request, Request::Commit(_)) {
            let Letter { from: to, ticket, .. } = change.letter;
            self.replies.push_back(Reply { to, ticket, answer: Answer::Committed(Ok(())) });
            change.told = true;
        }
        self.changes.push_back(change);
        self.reach(Step::Taken);
    }

    /// When something is due.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let change = self.changes.front().map(Change::due);
        let read = self.reads.iter().map(|(at, _)| *at).min().filter(|_| !self.is_torn());
        let reply = self.replies.front().and(self.changes.front().map(Change::due));
        [change, read, reply].into_iter().flatten().min()
    }

    /// The next answer that is due. A strike stops everything at its step.
    pub(crate) fn poll(&mut self, now: Instant) -> Option<Reply> {
        while !self.struck
            && self.replies.is_empty()
            && let Some(change) = self.changes.front_mut()
            && change.due() <= now
        {
            self.advance();
        }
        if self.struck && self.strike != Some(Step::Answered) {
            return None;
        }
        if let Some(reply) = self.replies.pop_front() {
            return Some(reply);
        }
        if self.is_torn() {
            return None;
        }
        let at =
            self.reads.iter().enumerate().filter(|(_, (at, _))| *at <= now).min_by_key(|(_, (at, _))| *at)?.0;
        let (_, Letter { from: to, ticket, request }) = self.reads.remove(at);
        let answer = self.disk.handle(&request, 0)?;
        Some(Reply { to, ticket, answer })
    }

    /// Whether the strike has come that was asked for; the server is to crash now.
    pub(crate) fn takes_strike(&mut self) -> bool {
        let struck = std::mem::take(&mut self.struck);
        if struck {
            self.strike = None;
        }
        struck
    }

    /// The server is gone with everything that was not synced, or perhaps a part of that survives.
    pub(crate) fn crash(&mut self) {
        let kept = self.rng.below(self.disk.unsynced() as u64 + 1) as usize;
        self.disk.crash(kept);
        self.changes.clear();
        self.reads.clear();
        self.replies.clear();
        self.struck = false;
    }

    /// A copy that can be put back later.
    pub(crate) fn backup(&self) -> Backup {
        self.disk.backup()
    }

    /// Puts a copy back; the server must have crashed.
    pub(crate) fn restore(&mut self, backup: &Backup) {
        self.disk.restore(backup);
    }

    /// Whether nothing is under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.changes.is_empty() && self.reads.is_empty() && self.replies.is_empty()
    }

    /// Whether something is written and not synced: it is there for readers when it is.
    fn is_torn(&self) -> bool {
        self.changes.front().is_some_and(|change| change.next == Step::Synced)
    }

    fn draw(&mut self) -> Duration {
        let most = self.latency.as_nanos() as u64;
        // Mostly quick, now and then at the most.
        let some = if self.rng.chance(0.1) { most } else { most / 4 };
        let extra = if let Mood::Slow(extra) = self.mood { extra } else { Duration::ZERO };
        Duration::from_nanos(self.rng.below(some + 1)) + extra
    }

    /// Takes the first change one step further.
    fn advance(&mut self) {
        let Some(change) = self.changes.front_mut() else { return };
        match change.next {
            Step::Taken | Step::Written => {
                change.next = Step::Synced;
                if let Request::Commit(batch) = &mut change.letter.request {
                    match self.plant {
                        Some(Plant::ForgetsRefusals) => batch.refused.clear(),
                        Some(Plant::ForgetsOrigins) => batch.origins.clear(),
                        _ => {}
                    }
                }
                change.answer = self.disk.handle(&change.letter.request, 0);
                self.reach(Step::Written);
            }
            Step::Synced => {
                change.next = Step::Answered;
                self.disk.sync();
                self.reach(Step::Synced);
            }
            Step::Answered => {
                let Some(Change { letter, answer: Some(answer), told, .. }) = self.changes.pop_front() else {
                    return;
                };
                if !told {
                    self.replies.push_back(Reply { to: letter.from, ticket: letter.ticket, answer });
                    self.reach(Step::Answered);
                }
            }
        }
    }

    fn reach(&mut self, step: Step) {
        self.struck |= self.strike == Some(step);
    }
}

impl Change {
    fn due(&self) -> Instant {
        match self.next {
            Step::Taken | Step::Written => self.times[0],
            Step::Synced => self.times[1],
            Step::Answered => self.times[2],
        }
    }
}
