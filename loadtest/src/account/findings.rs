//! What the account shows to be wrong, in words: how much, whose, and where it probably happens.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    Record,
    chronicle::{Cases, Logged},
    latency::{self, Late, OfLane, Sides},
    trace::{Losses, Lost, Occurrences, Traced},
};
use crate::{browser::Lane, figures::Finding, histogram::Histogram};

/// Examples of a finding.
const EXAMPLES: usize = 5;
/// Users that a sentence names.
const NAMES: usize = 5;
/// A share of all losses that belongs together …
const CONCENTRATED: f64 = 0.9;
/// … if this share of what was owed, at most, could have been lost there.
const ELSEWHERE: f64 = 0.5;

/// Who is in which room and of which kind.
pub(super) struct Users<'a> {
    records: BTreeMap<u32, &'a Record>,
}

impl<'a> Users<'a> {
    pub(super) fn new(records: &'a [Record]) -> Self {
        Self { records: records.iter().map(|record| (record.number, record)).collect() }
    }

    fn room(&self, user: u32) -> &'a str {
        self.records.get(&user).map_or("", |record| &record.room)
    }
}

// ---- messages

/// What became of a lane's data messages.
pub(super) fn of_lane(lane: Lane, traced: &Traced, users: &Users<'_>) -> Vec<Finding> {
    let name = lane_name(Some(lane));
    let mut findings = lost(name, lane == Lane::Reliable, &traced.lost, users);
    findings.extend(doubled(name, &traced.doubled));
    let occurred =
        |kind, what: &str, of: &Occurrences| occurred(kind, &format!("on the {name} lane {what}"), of);
    findings.extend(occurred("altered", "arrived with other contents than were sent", &traced.altered));
    findings.extend(occurred("foreign", "arrived that nobody in the room had sent", &traced.foreign));
    if lane == Lane::Reliable {
        let what = "arrived after a later one of the same sender";
        findings.extend(occurred("reordered", what, &traced.reordered));
        findings.extend(told(traced));
    }
    findings
}

/// Who lost what: all of a room, a sender or a receiver, most of one, or something here and there.
fn lost(lane: &str, is_reliable: bool, losses: &Losses, users: &Users<'_>) -> Vec<Finding> {
    let mut pairs = losses.pairs.clone();
    let mut findings = Vec::new();
    let kinds: [(&str, Side); 3] =
        [("in room", Side::Room), ("sent by user", Side::Sender), ("for user", Side::Receiver)];
    for (what, side) in kinds {
        let totals = totals(&pairs, side, users);
        let has_others = totals.len() > 1;
        let whole = totals.into_iter().filter(|(_, (owed, lost))| has_others && *owed > 0 && owed == lost);
        for (who, (_, lost)) in whole {
            let sentence =
                format!("all {} messages {what} {who} were lost on the {lane} lane", grouped(lost));
            findings.push(finding("lost", lost, sentence, of_side(losses, side, &who, users)));
            pairs.retain(|pair, _| side.of(*pair, users) != who);
        }
    }
    let (owed, lost) = pairs.values().fold((0, 0), |sum, pair| (sum.0 + pair.0, sum.1 + pair.1));
    // The other lane may lose what it likes, but not all of anybody's.
    if lost == 0 || !is_reliable {
        return findings;
    }
    let mut sentence = format!(
        "{} of {} messages on the {lane} lane {} lost, about 1 in {}",
        grouped(lost),
        grouped(owed),
        were(lost),
        grouped((owed as f64 / lost as f64).round() as u64)
    );
    let concentrated = kinds.iter().rev().find_map(|(what, side)| {
        let totals = totals(&pairs, *side, users);
        let (who, (of, most)) = totals.into_iter().max_by_key(|(_, (_, lost))| *lost)?;
        let is_one = most as f64 >= lost as f64 * CONCENTRATED && of as f64 <= owed as f64 * ELSEWHERE;
        (is_one && lost > 1).then(|| (format!(", {} of them {what} {who}", all_of(most, lost)), *side, who))
    });
    if let Some((of, side, who)) = concentrated {
        sentence += &of;
        sentence += &fan_out(losses, &pairs);
        sentence += &burst(losses);
        findings.push(finding("lost", lost, sentence, of_side(losses, side, &who, users)));
        return findings;
    }
    let hit = |side| totals(&pairs, side, users).into_values().filter(|(_, lost)| *lost > 0).count();
    let all = |side| totals(&pairs, side, users).len();
    let over = |side, what: &str| {
        let (hit, all) = (hit(side), all(side));
        if hit == all && all > 1 { format!("all {what}s") } else { plural(hit as u64, what) }
    };
    sentence += &format!(", over {} and {}", over(Side::Sender, "sender"), over(Side::Receiver, "receiver"));
    let (fan_out, burst) = (fan_out(losses, &pairs), burst(losses));
    sentence += &fan_out;
    sentence += &burst;
    if burst.is_empty() {
        sentence += ": the server or the way to it drops them at random";
    }
    sentence += &refusals(losses, users);
    findings.push(finding("lost", lost, sentence, losses.first.iter().map(example)));
    findings
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Sender,
    Receiver,
    Room,
}

impl Side {
    fn of(self, (sender, receiver): (u32, u32), users: &Users<'_>) -> String {
        match self {
            Self::Sender => sender.to_string(),
            Self::Receiver => receiver.to_string(),
            Self::Room => users.room(receiver).to_owned(),
        }
    }
}

/// Owed and lost by one side of the pairs.
fn totals(
    pairs: &BTreeMap<(u32, u32), (u64, u64)>,
    side: Side,
    users: &Users<'_>,
) -> BTreeMap<String, (u64, u64)> {
    let mut totals: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for (pair, (owed, lost)) in pairs.iter().filter(|(_, (owed, _))| *owed > 0) {
        let total = totals.entry(side.of(*pair, users)).or_default();
        (total.0, total.1) = (total.0 + owed, total.1 + lost);
    }
    totals
}

fn of_side<'a>(
    losses: &'a Losses,
    side: Side,
    who: &'a str,
    users: &'a Users<'_>,
) -> impl Iterator<Item = String> + 'a {
    let is = move |lost: &&Lost| side.of((lost.sender, lost.receiver), users) == who;
    losses.first.iter().filter(is).map(example)
}

fn example(lost: &Lost) -> String {
    let Lost { sender, receiver, number, sent } = *lost;
    format!("user {sender}'s number {number}, sent at {}, never reached user {receiver}", seconds(sent))
}

/// Whether messages are missing at all of their receivers or at one each.
fn fan_out(losses: &Losses, pairs: &BTreeMap<(u32, u32), (u64, u64)>) -> String {
    let mut receivers: BTreeMap<u32, u64> = BTreeMap::new();
    for ((sender, _), (owed, _)) in pairs {
        *receivers.entry(*sender).or_default() += u64::from(*owed > 0);
    }
    let counts =
        || losses.messages.iter().map(|((sender, ..), count)| (u64::from(*count), receivers.get(sender)));
    let several = |of: Option<&u64>| of.copied().unwrap_or(0) > 1;
    if losses.messages.is_empty() || !counts().all(|(_, of)| several(of)) {
        String::new()
    } else if counts().all(|(count, of)| Some(&count) == of) {
        ", each at all of its receivers".to_owned()
    } else if counts().all(|(count, _)| count == 1) {
        ", each at one of its receivers".to_owned()
    } else {
        String::new()
    }
}

/// Whether they were all sent within a short time.
fn burst(losses: &Losses) -> String {
    let several = losses.messages.len() >= 3;
    match losses.span {
        Some((first, last)) if several && last - first <= Duration::from_secs(2) => {
            format!(
                ", all sent between {} and {}",
                seconds(first),
                seconds(last + Duration::from_millis(250))
            )
        }
        _ => String::new(),
    }
}

fn refusals(losses: &Losses, users: &Users<'_>) -> String {
    let senders: BTreeSet<u32> = losses.messages.keys().map(|key| key.0).collect();
    let refused: u64 =
        senders.iter().filter_map(|sender| users.records.get(sender)).map(|record| record.refused_data).sum();
    match refused {
        0 => String::new(),
        refused => format!("; it refused {} of their senders", plural(refused, "message")),
    }
}

fn doubled(lane: &str, of: &Occurrences) -> Option<Finding> {
    let messages: BTreeSet<_> = of.first.iter().map(|(_, fault)| (fault.stream, fault.number)).collect();
    let receivers = plural(of.receivers.len() as u64, "receiver");
    let sentence = match (messages.first(), messages.len()) {
        (Some(((sender, ..), number)), 1) => {
            let each = of.count == of.receivers.len() as u64;
            let often = if each { "twice".to_owned() } else { format!("{} times too often", of.count) };
            format!("1 message was received {often} by {receivers}: user {sender}'s number {number}")
        }
        _ => format!(
            "{} more than once on the {lane} lane, of {}, at {receivers}",
            plural(of.count, "message") + " " + was(of.count) + " received",
            named("user", of.senders.keys().copied())
        ),
    };
    (of.count > 0).then(|| finding("doubled", of.count, sentence, faults(of)))
}

fn occurred(kind: &str, what: &str, of: &Occurrences) -> Option<Finding> {
    let mut sentence = format!("{} {what}", plural(of.count, "message"));
    if !of.senders.is_empty() {
        sentence += &format!(
            ": of {}, at {}",
            named("user", of.senders.keys().copied()),
            named("user", of.receivers.keys().copied())
        );
    }
    (of.count > 0).then(|| finding(kind, of.count, sentence, faults(of)))
}

fn faults(of: &Occurrences) -> impl Iterator<Item = String> + '_ {
    of.first.iter().map(|(receiver, fault)| {
        let at = if fault.at.is_zero() { String::new() } else { format!(" at {}", seconds(fault.at)) };
        format!("user {}'s number {} at user {receiver}{at}", fault.stream.0, fault.number)
    })
}

fn told(traced: &Traced) -> Option<Finding> {
    let sentence = format!(
        "the server told {} that it had dropped {} for them",
        named("user", traced.told.keys().copied()),
        plural(traced.told_missing, "message"),
    );
    let examples = traced.told.iter().map(|(user, count)| format!("user {user}: {count}"));
    (traced.told_missing > 0).then(|| finding("told_missing", traced.told_missing, sentence, examples))
}

// ---- the log

/// What became of durable messages.
pub(super) fn of_log(logged: &Logged) -> Vec<Finding> {
    let cases = [
        ("lost", "acknowledged as durable and not in the log as acknowledged", &logged.vanished),
        ("lost", "of the log never reached a reader", &logged.lost),
        ("doubled", "more than once in the log", &logged.doubled),
        ("altered", "of the log arrived with other contents than were written", &logged.altered),
        ("altered", "of the log read differently by readers", &logged.differing),
        ("foreign", "of the log that nobody has written", &logged.foreign),
        ("reordered", "of the log out of order", &logged.reordered),
        ("unanswered", "never answered", &logged.unanswered),
        (
            "broken_protocol",
            "answered in contradiction to the log or to the first answer",
            &logged.contradicted,
        ),
    ];
    let found = |(kind, what, Cases { count, first }): &(&str, &str, &Cases)| {
        let sentence = format!("{} {what}", plural(*count, "durable message"));
        (*count > 0).then(|| finding(kind, *count, sentence, first.iter().cloned()))
    };
    let mut findings: Vec<Finding> = cases.iter().filter_map(found).collect();
    if logged.told_missing > 0 {
        let sentence = format!(
            "readers were sent a snapshot in place of {} that they were behind",
            plural(logged.told_missing, "event")
        );
        findings.push(finding("told_missing", logged.told_missing, sentence, []));
    }
    findings
}

// ---- what the server said

/// Refusals by code, and how the protocol was broken.
pub(super) fn of_server(records: &[Record]) -> Vec<Finding> {
    let mut refused: BTreeMap<&str, (u64, BTreeSet<u32>)> = BTreeMap::new();
    let (mut count, mut examples) = (0, Vec::new());
    for record in records {
        for (cause, errors) in &record.errors {
            if let Some(code) = cause.strip_prefix("refused: ") {
                let of = refused.entry(code).or_default();
                of.0 += errors;
                of.1.insert(record.number);
            }
        }
        count += record.errors.get(crate::user::BROKEN_PROTOCOL).copied().unwrap_or(0);
        let told = record.violations.iter();
        examples.extend(told.map(|(at, what)| format!("user {} at {}: {what}", record.number, seconds(*at))));
    }
    let mut findings = Vec::new();
    if count > 0 {
        let sentence = format!("the server broke the protocol {}", plural(count, "time"));
        findings.push(finding("broken_protocol", count, sentence, examples));
    }
    for (code, (count, users)) in refused {
        let users = named("user", users.into_iter());
        let sentence = format!(
            "{} refused with {code}: {users}",
            plural(count, "request or message") + " " + was(count)
        );
        findings.push(finding("refused", count, sentence, []));
    }
    findings
}

// ---- lateness

/// Whose messages are late, who gets all late, and where everything is.
pub(super) fn of_latencies(sides: &Sides, users: &Users<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let lanes: BTreeSet<OfLane> = sides.senders.keys().map(|key| key.0).collect();
    for lane in lanes {
        let rooms = late_rooms(lane, sides, users);
        let in_late_room = |user: u32| rooms.iter().any(|late| users.room(user) == late.who);
        for late in &rooms {
            findings.push(late_finding("late_room", &format!("in room {}", late.who), lane, late));
        }
        let senders = late_of_kind(lane, &sides.senders, users, &in_late_room);
        for late in &senders {
            findings.push(late_finding("late_sender", &format!("of user {}", late.who), lane, late));
        }
        // Where late senders have most of a room's messages, its receivers are not to blame.
        let mut shares: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
        for ((_, sender), histogram) in sides.senders.iter().filter(|(key, _)| key.0 == lane) {
            let share = shares.entry(users.room(*sender)).or_default();
            share.1 += histogram.count();
            share.0 += if senders.iter().any(|late| late.who == *sender) { histogram.count() } else { 0 };
        }
        let is_excused = |user: u32| {
            let (late, all) = shares.get(users.room(user)).copied().unwrap_or_default();
            in_late_room(user) || late * 5 > all * 2
        };
        for late in late_of_kind(lane, &sides.receivers, users, &is_excused) {
            findings.push(late_finding("late_receiver", &format!("to user {}", late.who), lane, &late));
        }
    }
    findings
}

/// Rooms all of whose senders, two at least, are late beside those of other rooms.
fn late_rooms<'a>(lane: OfLane, sides: &Sides, users: &Users<'a>) -> Vec<Late<&'a str>> {
    let mut rooms: BTreeMap<&str, (Histogram, u32)> = BTreeMap::new();
    let mut kinds: BTreeMap<(usize, usize), BTreeSet<&str>> = BTreeMap::new();
    for ((_, sender), histogram) in sides.senders.iter().filter(|(key, _)| key.0 == lane) {
        let Some(record) = users.records.get(sender) else { continue };
        let of = rooms.entry(&record.room).or_default();
        of.0.merge(histogram);
        of.1 += 1;
        kinds.entry((record.group, record.network)).or_default().insert(&record.room);
    }
    let of_kind = |names: &BTreeSet<&'a str>| {
        let all: Vec<(&'a str, &Histogram)> = names.iter().map(|name| (*name, &rooms[name].0)).collect();
        latency::late(&all).into_iter().filter(|late| rooms[late.who].1 >= 2).collect::<Vec<_>>()
    };
    let late: BTreeMap<&str, Late<&str>> =
        kinds.values().flat_map(of_kind).map(|late| (late.who, late)).collect();
    // One late sender makes a small room late: then it is that one.
    let mut own: Vec<Late<&str>> = late.into_values().collect();
    own.retain(|late| {
        let senders =
            sides.senders.iter().filter(|((of, sender), _)| *of == lane && users.room(*sender) == late.who);
        let medians: Vec<Duration> = senders.map(|(_, histogram)| histogram.quantile(0.5)).collect();
        medians.iter().all(|median| *median > (late.others + late.median) / 2)
    });
    own
}

fn late_of_kind(
    lane: OfLane,
    histograms: &BTreeMap<(OfLane, u32), Histogram>,
    users: &Users<'_>,
    is_excused: &dyn Fn(u32) -> bool,
) -> Vec<Late<u32>> {
    let mut kinds: BTreeMap<(usize, usize), Vec<(u32, &Histogram)>> = BTreeMap::new();
    for ((_, user), histogram) in histograms.iter().filter(|(key, _)| key.0 == lane) {
        if let Some(record) = users.records.get(user).filter(|record| !record.is_stalling) {
            kinds.entry((record.group, record.network)).or_default().push((*user, histogram));
        }
    }
    let late = kinds.values().flat_map(|all| latency::late(all));
    late.filter(|late| !is_excused(late.who)).collect()
}

fn late_finding<T>(kind: &str, whose: &str, lane: OfLane, late: &Late<T>) -> Finding {
    let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
    let sentence = format!(
        "messages {whose} take {:.0} ms at the median on the {} lane, those of others {:.0} ms",
        ms(late.median),
        lane_name(lane),
        ms(late.others)
    );
    finding(kind, late.count, sentence, [])
}

// ---- words

pub(super) fn lane_name(lane: OfLane) -> &'static str {
    match lane {
        Some(Lane::Reliable) => "reliable",
        Some(Lane::Lossy) => "lossy",
        None => "messages",
    }
}

fn finding(kind: &str, count: u64, sentence: String, examples: impl IntoIterator<Item = String>) -> Finding {
    let examples = examples.into_iter().take(EXAMPLES).collect();
    Finding { kind: kind.to_owned(), count, sentence, examples }
}

fn seconds(at: Duration) -> String {
    format!("{:.2} s", at.as_secs_f64())
}

fn were(count: u64) -> &'static str {
    if count == 1 { "was" } else { "were" }
}

fn was(count: u64) -> &'static str {
    were(count)
}

fn all_of(part: u64, whole: u64) -> String {
    if part == whole { "all".to_owned() } else { grouped(part) }
}

fn plural(count: u64, what: &str) -> String {
    format!("{} {what}{}", grouped(count), if count == 1 { "" } else { "s" })
}

/// The first few by name, the rest by number.
fn named(what: &str, users: impl ExactSizeIterator<Item = u32>) -> String {
    let count = users.len();
    let names: Vec<String> = users.take(NAMES).map(|user| user.to_string()).collect();
    let more = if count > NAMES { format!(" and {} more", count - NAMES) } else { String::new() };
    format!("{what}{} {}{more}", if count == 1 { "" } else { "s" }, names.join(", "))
}

/// A number with a comma between groups of three digits.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// The worst first.
pub(super) fn sort(findings: &mut [Finding]) {
    const ORDER: [&str; 12] = [
        "lost",
        "doubled",
        "altered",
        "foreign",
        "reordered",
        "unanswered",
        "broken_protocol",
        "told_missing",
        "late_room",
        "late_sender",
        "late_receiver",
        "refused",
    ];
    findings.sort_by_key(|finding| ORDER.iter().position(|kind| *kind == finding.kind));
}
