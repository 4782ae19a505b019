//! Traces data messages from their senders to their receivers: what each member was owed, and what it has.
//!
//! A member is owed what was sent while it was one for certain: from when it learned that it is in the room until its
//! last sign of life, less [`GRACE`]. At both edges it may have a message or not; but from the first to the last
//! message of a stream that it has, the reliable lane has no holes. What a sender's lost session took with it before the
//! server had it is owed to nobody. What the server told to be missing is missing, and not lost.

use std::{collections::BTreeMap, ops::RangeInclusive, time::Duration};

use super::{
    Record,
    receipts::{Fault, Faults, Receipts, StreamKey},
    record::{Membership, Sent},
    seen::Seen,
};
use crate::browser::Lane;

/// What the server had this long before a member's last sign of life had reached that member, or was lost; to it comes
/// twice the delay that the member's messages had in the end.
pub(super) const GRACE: Duration = Duration::from_secs(5);
/// Lost messages that are told apart.
const MOST_LOST: usize = 1 << 18;

/// What has become of all messages of one lane.
#[derive(Debug, Default)]
pub(super) struct Traced {
    pub(super) sent: u64,
    pub(super) unsent: u64,
    pub(super) expected: u64,
    pub(super) received: u64,
    pub(super) bytes: u64,
    pub(super) told_missing: u64,
    pub(super) lost: Losses,
    pub(super) doubled: Occurrences,
    pub(super) reordered: Occurrences,
    pub(super) altered: Occurrences,
    pub(super) foreign: Occurrences,
    /// Members that were told of missing messages, and of how many.
    pub(super) told: BTreeMap<u32, u64>,
}

/// What is owed and was never received.
#[derive(Debug, Default)]
pub(super) struct Losses {
    pub(super) count: u64,
    /// By sender and receiver, of all pairs: owed and lost.
    pub(super) pairs: BTreeMap<(u32, u32), (u64, u64)>,
    /// Sender, stream and number, and how many receivers miss it.
    pub(super) messages: BTreeMap<(u32, u16, u32), u32>,
    /// The first of them.
    pub(super) first: Vec<Lost>,
    /// When the first and the last of them were sent, about.
    pub(super) span: Option<(Duration, Duration)>,
}

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lost {
    pub(super) sender: u32,
    pub(super) receiver: u32,
    pub(super) number: u32,
    pub(super) sent: Duration,
}

/// Messages with one kind of fault.
#[derive(Debug, Default)]
pub(super) struct Occurrences {
    pub(super) count: u64,
    pub(super) senders: BTreeMap<u32, u64>,
    pub(super) receivers: BTreeMap<u32, u64>,
    /// The first, with the receiver.
    pub(super) first: Vec<(u32, Fault)>,
}

impl Occurrences {
    fn add(&mut self, receiver: u32, sender: u32, count: u64) {
        if count > 0 {
            self.count += count;
            *self.senders.entry(sender).or_default() += count;
            *self.receivers.entry(receiver).or_default() += count;
        }
    }

    /// Takes faults of a lane, as far as their senders are `known`, or as far as they are not.
    fn take(&mut self, receiver: u32, lane: Lane, faults: &Faults, wanted: impl Fn(&StreamKey) -> bool) {
        let is_wanted = |stream: &StreamKey| stream.1 == lane && wanted(stream);
        for (stream, count) in faults.counts.iter().filter(|(stream, _)| is_wanted(stream)) {
            self.add(receiver, stream.0, *count);
        }
        let first = faults.first.iter().filter(|fault| is_wanted(&fault.stream));
        self.first.extend(first.map(|fault| (receiver, *fault)));
    }
}

/// Traces the messages of one lane among the members of all rooms.
pub(super) fn trace(rooms: &BTreeMap<&str, Vec<&Record>>, lane: Lane) -> Traced {
    let mut traced = Traced::default();
    for members in rooms.values() {
        let senders: BTreeMap<u32, &Record> = members
            .iter()
            .filter(|member| member.sent.keys().any(|key| key.0 == lane))
            .map(|member| (member.number, *member))
            .collect();
        for sent in members.iter().flat_map(|member| member.sent.iter().filter(|(key, _)| key.0 == lane)) {
            traced.sent += u64::from(sent.1.count);
            traced.unsent += sent.1.unsent;
        }
        for receiver in members {
            trace_receiver(&mut traced, lane, receiver, &senders);
        }
    }
    traced
}

fn trace_receiver(traced: &mut Traced, lane: Lane, receiver: &Record, senders: &BTreeMap<u32, &Record>) {
    let own = receiver.number;
    let is_known = |(sender, lane, stream): &StreamKey| {
        *sender != own
            && senders.get(sender).is_some_and(|sender| sender.sent.contains_key(&(*lane, *stream)))
    };
    for (place, membership) in receiver.memberships.iter().enumerate() {
        let receipts = &membership.receipts;
        traced.doubled.take(own, lane, &receipts.doubled, is_known);
        traced.reordered.take(own, lane, &receipts.reordered, is_known);
        traced.altered.take(own, lane, &receipts.altered, is_known);
        // Whose stamp is broken is that message altered, if it could be one, or nobody's.
        traced.altered.take(own, lane, &receipts.illegible, is_known);
        traced.foreign.take(own, lane, &receipts.illegible, |stream| !is_known(stream));
        if lane == Lane::Reliable {
            traced.foreign.count += receipts.foreign;
            let told = receipts.told.values().sum::<u64>();
            if told > 0 {
                traced.told_missing += told;
                *traced.told.entry(own).or_default() += told;
            }
        }
        for (stream, of) in receipts.streams.iter().filter(|(stream, _)| stream.1 == lane) {
            traced.bytes += of.bytes;
            if !is_known(stream) {
                foreign(traced, own, *stream, &of.seen, 0);
            }
        }
        // What the server told of nobody in particular excuses what is missing of anybody.
        let mut excuse = Excuse::new(receipts, lane);
        for sender in senders.values().filter(|sender| sender.number != own) {
            for (key, sent) in sender.sent.iter().filter(|(key, _)| key.0 == lane) {
                let stream = (sender.number, lane, key.1);
                let empty = Seen::default();
                let seen = receipts.streams.get(&stream).map_or(&empty, |of| &of.seen);
                foreign(traced, own, stream, seen, sent.count);
                for earlier in &receiver.memberships[..place] {
                    if let Some(earlier) = earlier.receipts.streams.get(&stream) {
                        traced.doubled.add(own, sender.number, u64::from(earlier.seen.count_common(seen)));
                    }
                }
                let Some(owed) = owed(membership, sent, seen) else { continue };
                let mut missing = missing(sent, seen, &owed);
                let uncertain: u32 = missing.uncertain;
                let length = owed.end() - owed.start() + 1 - uncertain;
                let count = missing.ranges.iter().map(|range| range.end() - range.start() + 1).sum::<u32>();
                traced.expected += u64::from(length);
                traced.received += u64::from(length - count);
                let lost = excuse.apply(&sender.memberships, key.1, &mut missing.ranges);
                let pair = traced.lost.pairs.entry((sender.number, own)).or_default();
                (pair.0, pair.1) = (pair.0 + u64::from(length), pair.1 + lost);
                traced.lost.count += lost;
                let who = (sender.number, own, key.1);
                for range in &missing.ranges {
                    traced.lost.note(who, range.clone(), sent);
                }
            }
        }
    }
}

/// What the member was owed of the stream: first and last number.
fn owed(membership: &Membership, sent: &Sent, seen: &Seen) -> Option<RangeInclusive<u32>> {
    let until = membership.until?.saturating_sub(GRACE + membership.receipts.lag * 2);
    let certain = (sent.given.at_most(membership.from) + 1, sent.acknowledged.at_least(until));
    let (first, last) = match seen.hull() {
        Some((least, highest)) if certain.0 <= certain.1 => (least.min(certain.0), highest.max(certain.1)),
        Some(hull) => hull,
        None => certain,
    };
    let last = last.min(sent.count);
    (first <= last).then_some(first..=last)
}

struct Missing {
    ranges: Vec<RangeInclusive<u32>>,
    /// Not seen either, and owed to nobody.
    uncertain: u32,
}

fn missing(sent: &Sent, seen: &Seen, owed: &RangeInclusive<u32>) -> Missing {
    let mut missing = Missing { ranges: Vec::new(), uncertain: 0 };
    for range in seen.missing(owed.clone()) {
        let (mut from, to) = (*range.start(), *range.end());
        for &(first, last) in &sent.uncertain {
            if first > to || last < from {
                continue;
            }
            if first > from {
                missing.ranges.push(from..=first - 1);
            }
            missing.uncertain += last.min(to) + 1 - first.max(from);
            from = last + 1;
        }
        if from <= to {
            missing.ranges.push(from..=to);
        }
    }
    missing
}

/// What was received of numbers that were never sent.
fn foreign(traced: &mut Traced, receiver: u32, stream: StreamKey, seen: &Seen, sent: u32) {
    let beyond = if sent == 0 { seen.count() } else { seen.count() - seen.count_in(1..=sent) };
    if beyond > 0 {
        traced.foreign.add(receiver, stream.0, u64::from(beyond));
        let fault = Fault { at: Duration::ZERO, stream, number: seen.highest() };
        traced.foreign.first.push((receiver, fault));
    }
}

/// What the server told to be missing.
struct Excuse {
    told: BTreeMap<(u32, u16), u64>,
}

impl Excuse {
    fn new(receipts: &Receipts, lane: Lane) -> Self {
        Self { told: if lane == Lane::Reliable { receipts.told.clone() } else { BTreeMap::new() } }
    }

    /// Takes what was told off the missing ranges of a stream, from their beginning; how many are lost all the same.
    fn apply(
        &mut self,
        memberships: &[Membership],
        stream: u16,
        missing: &mut Vec<RangeInclusive<u32>>,
    ) -> u64 {
        let lost: u64 = missing.iter().map(|range| u64::from(range.end() - range.start()) + 1).sum();
        let mut excused = 0;
        for key in memberships.iter().map(|of| (of.member, stream)).chain([(0, 0)]) {
            if let Some(told) = self.told.get_mut(&key) {
                let taken = (*told).min(lost - excused);
                *told -= taken;
                excused += taken;
            }
        }
        let mut left = excused;
        missing.retain_mut(|range| {
            let length = u64::from(range.end() - range.start()) + 1;
            let taken = left.min(length);
            left -= taken;
            // Less than the length of a range of 32-bit numbers, or it is not kept.
            let kept = taken < length;
            if kept {
                *range = range.start() + taken as u32..=*range.end();
            }
            kept
        });
        lost - excused
    }
}

impl Losses {
    fn note(&mut self, (sender, receiver, stream): (u32, u32, u16), range: RangeInclusive<u32>, of: &Sent) {
        let times = [*range.start(), *range.end()].map(|number| of.given.when(number).unwrap_or_default());
        let span = self.span.get_or_insert((times[0], times[1]));
        *span = (span.0.min(times[0]), span.1.max(times[1]));
        for number in range {
            if self.messages.len() >= MOST_LOST {
                return;
            }
            *self.messages.entry((sender, stream, number)).or_default() += 1;
            if self.first.len() < 64 {
                let sent = of.given.when(number).unwrap_or_default();
                self.first.push(Lost { sender, receiver, number, sent });
            }
        }
    }
}
