//! One room's log as its readers have told it, held against what its writers were told: each acknowledged submission is
//! there once, as written, in its writer's order; all readers have the same event under a number; nobody lacks any.

use std::{collections::BTreeMap, time::Duration};

use super::{
    Record,
    record::{Accepted, Answer, Read},
    seen::Seen,
    trace::GRACE,
};

/// Events that are kept together.
const BLOCK: u64 = 256;
/// Cases that are kept one by one.
const FIRST: usize = 16;
const UNKNOWN: (u32, u32) = (0, 0);
const NOBODYS: (u32, u32) = (u32::MAX, 0);

/// The log of one room.
#[derive(Debug, Default)]
pub(super) struct Chronicle {
    /// By `seq / BLOCK`: writer and number of the submission.
    blocks: BTreeMap<u64, Box<[(u32, u32)]>>,
    /// How far the log had come, by tenth of a second at which somebody knew it.
    heads: BTreeMap<u32, u64>,
    /// Of events that readers have differently: what else somebody read.
    versions: BTreeMap<u64, Vec<(u32, u32)>>,
    differing: Cases,
    altered: Cases,
}

/// Cases of one kind: how many, and the first of them in words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Cases {
    pub(super) count: u64,
    pub(super) first: Vec<String>,
}

impl Cases {
    pub(super) fn add(&mut self, count: u64, case: impl FnOnce() -> String) {
        if count > 0 {
            self.count += count;
            if self.first.len() < FIRST {
                self.first.push(case());
            }
        }
    }

    fn merge(&mut self, other: Self) {
        self.count += other.count;
        self.first.extend(other.first);
        self.first.truncate(FIRST);
    }
}

/// What the logs of all rooms have shown.
#[derive(Debug, Default)]
pub(super) struct Logged {
    pub(super) sent: u64,
    pub(super) unsent: u64,
    pub(super) accepted: u64,
    pub(super) refused: u64,
    pub(super) expected: u64,
    pub(super) received: u64,
    pub(super) bytes: u64,
    pub(super) out_of_order: u64,
    /// Passed over by a snapshot, as the reader was told.
    pub(super) told_missing: u64,
    /// Acknowledged submissions that are not where the server said.
    pub(super) vanished: Cases,
    /// Events that a reader never got.
    pub(super) lost: Cases,
    pub(super) doubled: Cases,
    pub(super) reordered: Cases,
    pub(super) altered: Cases,
    /// Readers that have different events under one number.
    pub(super) differing: Cases,
    pub(super) foreign: Cases,
    /// Answers that contradict each other, or the log.
    pub(super) contradicted: Cases,
    pub(super) unanswered: Cases,
}

impl Chronicle {
    /// Somebody read an event at this time.
    pub(super) fn read(&mut self, at: Duration, reader: u32, read: Read) {
        self.head(at, read.seq);
        let submission = read.submission.unwrap_or(NOBODYS);
        let block =
            self.blocks.entry(read.seq / BLOCK).or_insert_with(|| vec![UNKNOWN; BLOCK as usize].into());
        let entry = &mut block[(read.seq % BLOCK) as usize];
        let seq = read.seq;
        if *entry == UNKNOWN {
            *entry = submission;
        } else if *entry != submission {
            let (other, own) = (name(*entry), name(submission));
            let versions = self.versions.entry(seq).or_default();
            let is_first = versions.is_empty();
            if !versions.contains(&submission) {
                versions.push(submission);
            }
            self.differing.add(u64::from(is_first), || {
                format!("event {seq}: user {reader} read {own}, another {other}")
            });
        }
        if let Some((writer, number)) = read.submission.filter(|_| !read.is_intact) {
            self.altered.add(1, || format!("event {seq}, user {writer}'s number {number}, at user {reader}"));
        }
    }

    /// A writer was told that its submission is in the log.
    pub(super) fn accepted(&mut self, accepted: &Accepted) {
        self.head(accepted.at, accepted.seq);
    }

    fn head(&mut self, at: Duration, seq: u64) {
        let head = self.heads.entry(tenth(at)).or_default();
        *head = (*head).max(seq);
    }

    /// How far the log had come for certain at that time.
    fn head_at(&self, at: Duration) -> u64 {
        self.heads.range(..tenth(at)).map(|(_, head)| *head).max().unwrap_or(0)
    }

    fn at(&self, seq: u64) -> (u32, u32) {
        self.blocks.get(&(seq / BLOCK)).map_or(UNKNOWN, |block| block[(seq % BLOCK) as usize])
    }

    fn entries(&self) -> impl Iterator<Item = (u64, (u32, u32))> {
        let of = |(number, entries): (u64, &[(u32, u32)])| {
            (number * BLOCK..).zip(entries.to_vec()).filter(|(_, entry)| *entry != UNKNOWN)
        };
        self.blocks.iter().map(|(number, block)| (*number, &block[..])).flat_map(of)
    }

    /// Holds it against what the room's members did and saw.
    pub(super) fn judge(mut self, room: &str, members: &[&Record], logged: &mut Logged) {
        self.settle(members);
        self.judge_entries(room, members, logged);
        for member in members {
            self.judge_writer(room, member, members, logged);
            self.judge_reader(room, member, logged);
        }
        logged.differing.merge(self.differing);
        logged.altered.merge(self.altered);
    }

    /// Where readers differ, what a writer was told counts.
    fn settle(&mut self, members: &[&Record]) {
        for member in members {
            let answers = member.written.iter().flat_map(|written| written.answers.iter().zip(1..));
            for (answer, number) in answers.filter(|_| !self.versions.is_empty()) {
                let submission = (member.number, number);
                if let Answer::Accepted(seq) = *answer
                    && self.versions.get(&seq).is_some_and(|versions| versions.contains(&submission))
                    && let Some(block) = self.blocks.get_mut(&(seq / BLOCK))
                {
                    block[(seq % BLOCK) as usize] = submission;
                }
            }
        }
    }

    /// Each submission once, in its writer's order, by somebody.
    fn judge_entries(&self, room: &str, members: &[&Record], logged: &mut Logged) {
        let written = members.iter().filter_map(|member| Some((member.number, member.written.as_ref()?)));
        let written: BTreeMap<u32, _> = written.collect();
        let mut seen: BTreeMap<u32, Seen> = BTreeMap::new();
        for (seq, entry @ (writer, number)) in self.entries() {
            let answers = written.get(&writer).map(|written| &written.answers);
            let Some(answer) = answers.and_then(|answers| answers.get(number.checked_sub(1)? as usize))
            else {
                logged.foreign.add(1, || format!("event {seq} of room {room}: {}", name(entry)));
                continue;
            };
            if *answer == Answer::Refused {
                logged
                    .contradicted
                    .add(1, || format!("event {seq} of room {room}: {} was refused", name(entry)));
            }
            let of = seen.entry(writer).or_default();
            let highest = of.highest();
            if !of.insert(number) {
                logged.doubled.add(1, || format!("event {seq} of room {room}: {} once more", name(entry)));
            } else if number < highest {
                logged.out_of_order += 1;
                let case =
                    || format!("event {seq} of room {room}: {} behind its number {highest}", name(entry));
                logged.reordered.add(1, case);
            }
        }
    }

    fn judge_writer(&self, room: &str, writer: &Record, members: &[&Record], logged: &mut Logged) {
        let Some(written) = &writer.written else { return };
        let is_read = |seq: u64| {
            let mut readings = members.iter().filter_map(|member| member.reading.as_ref());
            readings.any(|reading| reading.begun.is_some_and(|begun| begun < seq) && seq <= reading.taken)
        };
        logged.sent += written.answers.len() as u64;
        logged.unsent += written.unsent;
        for (&answer, number) in written.answers.iter().zip(1..) {
            let submission = (writer.number, number);
            match answer {
                Answer::None => {}
                Answer::Refused => logged.refused += 1,
                Answer::Accepted(seq) => {
                    logged.accepted += 1;
                    let there = self.at(seq);
                    // What a snapshot of all readers passed over nobody can tell.
                    let is_gone = there == UNKNOWN && is_read(seq) && !self.is_skipped(members);
                    if is_gone || there != UNKNOWN && there != submission {
                        let name = name(submission);
                        logged
                            .vanished
                            .add(1, || format!("{name} of room {room}, acknowledged as event {seq}"));
                    }
                }
            }
        }
        let until = writer.memberships.last().and_then(|last| last.until).unwrap_or_default();
        let owed = written.given.at_least(until.saturating_sub(GRACE)) as usize;
        let waiting = written.answers.iter().take(owed).filter(|answer| **answer == Answer::None).count();
        logged
            .unanswered
            .add(waiting as u64, || format!("{waiting} of user {} in room {room}", writer.number));
        for (number, first, second) in &written.contradictions {
            let case = || format!("{}: {first:?}, then {second:?}", name((writer.number, *number)));
            logged.contradicted.add(1, case);
        }
    }

    fn is_skipped(&self, members: &[&Record]) -> bool {
        members.iter().filter_map(|member| member.reading.as_ref()).any(|reading| reading.skipped > 0)
    }

    /// Everything from where it began to where the log had come when it was last there.
    fn judge_reader(&self, room: &str, reader: &Record, logged: &mut Logged) {
        let Some(reading) = &reader.reading else { return };
        let Some(last) = reader.memberships.last() else { return };
        let lag = last.receipts.lag * 2;
        let head = self.head_at(last.until.unwrap_or_default().saturating_sub(GRACE + lag));
        let user = reader.number;
        for (at, expected, came) in &reading.breaks {
            let at = at.as_secs_f64();
            let case = || format!("user {user} read event {came} where {expected} was to come, at {at:.1} s");
            logged.reordered.add(1, case);
        }
        logged.received += reading.count;
        logged.bytes += reading.bytes;
        logged.told_missing += reading.skipped;
        let Some(begun) = reading.begun else {
            let had_time = last.until.is_some_and(|until| until > last.from + GRACE * 2);
            logged
                .lost
                .add(u64::from(had_time), || format!("user {user} of room {room} got nothing of the log"));
            return;
        };
        let owed = head.max(reading.taken).saturating_sub(begun + reading.skipped);
        logged.expected += owed.max(reading.count);
        let lost = owed.saturating_sub(reading.count);
        let taken = reading.taken;
        let case =
            || format!("user {user} of room {room} has {lost} too few; the last it has is {taken} of {head}");
        logged.lost.add(lost, case);
    }
}

fn tenth(at: Duration) -> u32 {
    u32::try_from(at.as_millis() / 100).unwrap_or(u32::MAX)
}

fn name(submission: (u32, u32)) -> String {
    match submission {
        NOBODYS => "what nobody of this run has written".to_owned(),
        (writer, number) => format!("user {writer}'s number {number}"),
    }
}
