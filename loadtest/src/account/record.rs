//! What one user did and saw: the material of the account. [`crate::user`] writes it, [`super::Ledger`] reads it.

use std::{collections::BTreeMap, time::Duration};

use super::{marks::Marks, receipts::Receipts};
use crate::{browser::Lane, user::Plan};

/// What one user did and saw, from beginning to end. Times are since the run began.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// Its number in the run.
    pub number: u32,
    /// Its group's place in the scenario.
    pub group: usize,
    pub(crate) room: String,
    pub(crate) network: usize,
    /// Whether it was slow on purpose.
    pub(crate) is_stalling: bool,
    /// When connecting began, if it did.
    pub(crate) started: Option<Duration>,
    /// When which stage of connecting was reached, since it began.
    pub(crate) stages: BTreeMap<&'static str, Duration>,
    /// The last reason why it did not come further, until it was joined.
    pub(crate) failure: Option<String>,
    pub(crate) ended: Ended,
    pub(crate) ended_at: Duration,
    pub(crate) reconnects: u64,
    pub(crate) sessions_lost: u64,
    pub(crate) rung_changes: u64,
    pub(crate) recoveries: Vec<(Cause, Duration)>,
    /// The way to the server that was lost and not found again.
    pub(crate) outage: Option<Outage>,
    pub(crate) errors: BTreeMap<String, u64>,
    /// How the server broke the protocol: the first times.
    pub(crate) violations: Vec<(Duration, String)>,
    /// Data messages that the server refused.
    pub(crate) refused_data: u64,
    pub(crate) memberships: Vec<Membership>,
    pub(crate) sent: BTreeMap<(Lane, u16), Sent>,
    pub(crate) dropped_before_sending: u64,
    pub(crate) written: Option<Written>,
    pub(crate) reading: Option<Reading>,
    /// What no [`Window`] has told yet.
    pub(crate) rest: Window,
}

/// How it ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Ended {
    /// It was still there.
    #[default]
    There,
    /// As planned.
    Left,
    /// It was refused for good.
    GaveUp,
}

/// What was lost of the way to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Cause {
    Socket,
    Channel,
    Session,
}

impl Cause {
    /// As [`crate::figures::Recovery`] calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Socket => "socket",
            Self::Channel => "channel",
            Self::Session => "session",
        }
    }
}

/// No frames go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outage {
    pub(crate) cause: Cause,
    pub(crate) since: Duration,
}

/// Being a member of the room, in one session.
#[derive(Clone, Debug, Default)]
pub(crate) struct Membership {
    /// The number that the server gave it.
    pub(crate) member: u32,
    /// It was one for certain from here on …
    pub(crate) from: Duration,
    /// … until the last sign of life, if it is over.
    pub(crate) until: Option<Duration>,
    pub(crate) receipts: Receipts,
}

/// What was sent on one stream.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sent {
    pub(super) count: u32,
    /// Due and not sent.
    pub(super) unsent: u64,
    /// When it was given to the lane.
    pub(super) given: Marks,
    /// When the server had it for certain.
    pub(super) acknowledged: Marks,
    acknowledged_count: u32,
    /// Of these nobody can tell whether the server got them: first and last.
    pub(super) uncertain: Vec<(u32, u32)>,
}

impl Sent {
    /// The number of the next one.
    pub(crate) fn next(&self) -> u32 {
        self.count + 1
    }

    /// One was given to the lane.
    pub(crate) fn sent(&mut self, at: Duration) {
        self.count += 1;
        self.given.note(at, self.count);
    }

    /// So many were due and not sent.
    pub(crate) fn unsent(&mut self, count: u64) {
        self.unsent += count;
    }

    /// The server has all but the last ones, of which there are at most so many.
    pub(crate) fn acknowledged(&mut self, at: Duration, but: usize) {
        let but = u32::try_from(but).unwrap_or(u32::MAX);
        let count = self.count.saturating_sub(but).max(self.acknowledged_count);
        self.acknowledged_count = count;
        self.acknowledged.note(at, count);
    }

    /// The session is gone, and with it what the server did not have.
    pub(crate) fn session_lost(&mut self) {
        if self.acknowledged_count < self.count {
            self.uncertain.push((self.acknowledged_count + 1, self.count));
            self.acknowledged_count = self.count;
        }
    }
}

/// What was written to the log.
#[derive(Clone, Debug, Default)]
pub(crate) struct Written {
    /// What became of each submission, in order.
    pub(super) answers: Vec<Answer>,
    /// Due and not written.
    pub(crate) unsent: u64,
    /// Given again under another origin.
    pub(crate) conflicts: u64,
    /// Answers that contradict the first one: submission, then both.
    pub(super) contradictions: Vec<(u32, Answer, Answer)>,
    /// When they were made.
    pub(super) given: Marks,
}

/// What became of a submission.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Nothing yet.
    #[default]
    None,
    /// It is this event.
    Accepted(u64),
    /// It never will be one.
    Refused,
}

impl Written {
    /// The number of the next submission.
    pub(crate) fn next(&self) -> u32 {
        self.answers.len() as u32 + 1
    }

    pub(crate) fn submitted(&mut self, at: Duration) {
        self.answers.push(Answer::None);
        self.given.note(at, self.answers.len() as u32);
    }

    /// The server has answered; whether that is the first answer.
    pub(crate) fn answered(&mut self, number: u32, answer: Answer) -> bool {
        let Some(known) = (number as usize).checked_sub(1).and_then(|place| self.answers.get_mut(place))
        else {
            self.contradictions.push((number, Answer::None, answer));
            return false;
        };
        match *known {
            Answer::None => {
                *known = answer;
                return true;
            }
            same if same == answer => {}
            other if self.contradictions.len() < 64 => self.contradictions.push((number, other, answer)),
            _ => {}
        }
        false
    }
}

/// What was read of the log.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reading {
    /// Where it began, once it has.
    pub(super) begun: Option<u64>,
    /// The last one read.
    pub(super) taken: u64,
    pub(super) count: u64,
    pub(super) bytes: u64,
    /// Passed over by a snapshot, as the server told.
    pub(super) skipped: u64,
    /// What came where another was to come: time, what was to come, what came.
    pub(super) breaks: Vec<(Duration, u64, u64)>,
    /// Events that nobody of this run has written.
    pub(super) foreign: u64,
}

impl Reading {
    /// The next event; of one that nobody of this run has written only the place is known.
    pub(crate) fn event(&mut self, at: Duration, seq: u64, bytes: usize, is_ours: bool) {
        let expected = self.taken + 1;
        if self.begun.is_none() {
            self.begun = Some(seq - 1);
        } else if seq != expected && self.breaks.len() < 64 {
            self.breaks.push((at, expected, seq));
        }
        self.taken = self.taken.max(seq);
        self.count += 1;
        self.bytes += bytes as u64;
        self.foreign += u64::from(!is_ours);
    }

    /// A snapshot has taken the place of what was read, and of what lies between.
    pub(crate) fn snapshot(&mut self, at: Duration, seq: u64) {
        match self.begun {
            None => self.begun = Some(seq),
            Some(_) if seq < self.taken && self.breaks.len() < 64 => {
                self.breaks.push((at, self.taken + 1, seq + 1));
            }
            Some(_) => self.skipped += seq.saturating_sub(self.taken),
        }
        self.taken = seq;
    }
}

/// What one user did and saw since the last look.
#[derive(Clone, Debug, Default)]
pub struct Window {
    /// Joins that were confirmed.
    pub joins: u64,
    /// Messages sent, all lanes.
    pub sent: u64,
    /// Messages received, first copies, all lanes.
    pub received: u64,
    /// Errors and refusals.
    pub errors: u64,
    pub(super) user: u32,
    pub(super) room: String,
    pub(super) samples: Vec<Sample>,
    pub(super) read: Vec<Read>,
    pub(super) accepted: Vec<Accepted>,
}

/// The latency of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sample {
    /// Whose message.
    pub(crate) sender: u32,
    /// None for the log.
    pub(crate) lane: Option<Lane>,
    /// When it was due to be sent.
    pub(crate) due: Duration,
    pub(crate) after: Duration,
}

/// An event that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Read {
    pub(crate) at: Duration,
    pub(crate) seq: u64,
    /// Its writer and the number of the submission; none if nobody of this run has written it.
    pub(crate) submission: Option<(u32, u32)>,
    /// Whether its contents are what was written.
    pub(crate) is_intact: bool,
}

/// A submission that was acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Accepted {
    pub(crate) at: Duration,
    pub(crate) number: u32,
    pub(crate) seq: u64,
    /// From being due.
    pub(crate) after: Duration,
}

impl Window {
    pub(crate) fn of(plan: &Plan) -> Self {
        Self { user: plan.number, room: plan.room.clone(), ..Self::default() }
    }

    /// What there is, and an empty one in its place.
    pub(crate) fn take(&mut self) -> Self {
        let (user, room) = (self.user, self.room.clone());
        std::mem::replace(self, Self { user, room, ..Self::default() })
    }

    pub(crate) fn sample(&mut self, sample: Sample) {
        self.received += 1;
        self.samples.push(sample);
    }

    pub(crate) fn read(&mut self, read: Read) {
        self.read.push(read);
    }

    pub(crate) fn accepted(&mut self, accepted: Accepted) {
        self.accepted.push(accepted);
    }
}

/// Causes that are told apart.
const CAUSES: usize = 64;
/// Violations that are kept in words.
const VIOLATIONS: usize = 8;

impl Record {
    pub(crate) fn of(plan: &Plan) -> Self {
        Self {
            number: plan.number,
            group: plan.group,
            room: plan.room.clone(),
            network: plan.network,
            rest: Window::of(plan),
            ..Self::default()
        }
    }

    pub(crate) fn error(&mut self, cause: String) {
        let is_known = self.errors.len() < CAUSES || self.errors.contains_key(&cause);
        let cause = if is_known { cause } else { "other".to_owned() };
        *self.errors.entry(cause).or_default() += 1;
    }

    pub(crate) fn violation(&mut self, at: Duration, what: String) {
        if self.violations.len() < VIOLATIONS {
            self.violations.push((at, what));
        }
    }

    /// It is a member.
    pub(crate) fn joined(&mut self, at: Duration, member: u32) {
        self.memberships.push(Membership { member, from: at, ..Membership::default() });
    }

    /// The membership is over; its last sign of life came then.
    pub(crate) fn parted(&mut self, heard: Duration) {
        if let Some(last) = self.memberships.last_mut() {
            last.until.get_or_insert(heard.max(last.from));
        }
    }
}
