//! All of a run: what users tell while it goes on, and what their records say when it is over.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::{
    Record, Window,
    chronicle::{Chronicle, Logged},
    findings::{self, Users},
    latency::{OfLane, Sides, times},
    record::{Ended, Sample},
    trace::{GRACE, Traced, trace},
};
use crate::{browser::Lane, figures, histogram::Histogram, user::Plan};

/// What the account has to know of a scenario. Times are since the run began.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// The groups' names, in the scenario's order.
    pub groups: Vec<String>,
    /// Windows of time to be looked at by themselves: name, from, until.
    pub windows: Vec<(String, Duration, Duration)>,
    /// When the hold begins and ends.
    pub hold: (Duration, Duration),
}

/// The account of a run. Take [`Window`]s as long as it goes on, then [`finish`](Self::finish) with everybody's
/// [`Record`].
#[derive(Debug)]
pub struct Ledger {
    epoch: Instant,
    settings: Settings,
    seconds: BTreeMap<u32, Second>,
    lanes: BTreeMap<OfLane, OneLane>,
    accepted_after: Histogram,
    windows: Vec<(Histogram, BTreeMap<usize, Histogram>)>,
    sides: Sides,
    /// By room.
    chronicles: BTreeMap<String, Chronicle>,
}

/// Of a run that goes on for longer, the last second takes the rest.
const MOST_SECONDS: u32 = 7 * 24 * 3600;

#[derive(Debug, Default)]
struct Second {
    joins: u64,
    sent: u64,
    received: u64,
    errors: u64,
    /// Of messages that were due in it.
    latency: Histogram,
}

#[derive(Debug, Default)]
struct OneLane {
    latency: Histogram,
    /// Received during the hold.
    in_hold: u64,
}

impl Ledger {
    /// An account in which nothing has happened; all times count from `epoch`.
    pub fn new(epoch: Instant, settings: Settings) -> Self {
        Self {
            epoch,
            windows: vec![Default::default(); settings.windows.len()],
            settings,
            seconds: BTreeMap::new(),
            lanes: BTreeMap::new(),
            accepted_after: Histogram::default(),
            sides: Sides::default(),
            chronicles: BTreeMap::new(),
        }
    }

    /// Takes what a user of this group has told, at the time at which it was asked.
    pub fn window(&mut self, at: Instant, group: usize, window: Window) {
        self.take(at.saturating_duration_since(self.epoch), group, window);
    }

    /// A second of the run as it is known so far, counted from 0: for the live view. Rungs, the server and the networks
    /// are for others to fill in.
    pub fn second(&self, second: u32) -> figures::Second {
        let at_s = f64::from(second) + 1.0;
        let Some(of) = self.seconds.get(&second) else {
            return figures::Second { at_s, ..figures::Second::default() };
        };
        let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
        let quantile = |share| (of.latency.count() > 0).then(|| ms(of.latency.quantile(share)));
        figures::Second {
            at_s,
            joins: of.joins,
            sent: of.sent,
            received: of.received,
            errors: of.errors,
            p50_ms: quantile(0.5),
            p95_ms: quantile(0.95),
            p99_ms: quantile(0.99),
            max_ms: quantile(1.0),
            ..figures::Second::default()
        }
    }

    /// Holds everything against each other: users, connecting, recovery, lanes, windows, errors, findings and the
    /// timeline's counts and latencies. The other parts of the report, rungs among them, are left empty.
    pub fn finish(mut self, plans: &[Plan], mut records: Vec<Record>) -> figures::Report {
        records.sort_by_key(|record| record.number);
        for record in &mut records {
            let rest = std::mem::take(&mut record.rest);
            self.take(record.ended_at, record.group, rest);
        }
        let mut rooms: BTreeMap<&str, Vec<&Record>> = BTreeMap::new();
        for record in &records {
            rooms.entry(&record.room).or_default().push(record);
        }
        let data = [Lane::Reliable, Lane::Lossy].map(|lane| (lane, trace(&rooms, lane)));
        let mut logged = Logged::default();
        for (room, members) in &rooms {
            let chronicle = self.chronicles.remove(*room).unwrap_or_default();
            chronicle.judge(room, members, &mut logged);
        }
        let users = Users::new(&records);
        let mut findings: Vec<figures::Finding> =
            data.iter().flat_map(|(lane, traced)| findings::of_lane(*lane, traced, &users)).collect();
        findings.extend(findings::of_log(&logged));
        findings.extend(findings::of_server(&records));
        findings.extend(findings::of_latencies(&self.sides, &users));
        findings::sort(&mut findings);

        let dropped = records.iter().map(|record| record.dropped_before_sending).sum();
        let of_data = data.iter().map(|(lane, traced)| (Some(*lane), self.data_lane(*lane, traced, dropped)));
        let lanes = of_data.chain([(None, self.log_lane(&logged))]);
        let lanes = lanes.filter(|(_, lane)| *lane != figures::Lane::default());
        figures::Report {
            users: users_of(plans, &records),
            connect: connect(&records),
            recovery: recovery(&records),
            lanes: lanes.map(|(lane, of)| (findings::lane_name(lane).to_owned(), of)).collect(),
            windows: self.named_windows(),
            errors: errors(&records),
            findings,
            timeline: self.timeline(),
            ..figures::Report::default()
        }
    }

    fn take(&mut self, at: Duration, group: usize, window: Window) {
        let Window { joins, sent, received, errors, user, room, samples, read, accepted } = window;
        let second = self.seconds.entry(second_of(at)).or_default();
        second.joins += joins;
        second.sent += sent;
        second.received += received;
        second.errors += errors;
        for sample in samples {
            self.sample(user, group, sample);
        }
        if read.is_empty() && accepted.is_empty() {
            return;
        }
        let chronicle = self.chronicles.entry(room).or_default();
        for accepted in accepted {
            self.accepted_after.record(accepted.after);
            chronicle.accepted(&accepted);
        }
        for read in read {
            chronicle.read(read.at, user, read);
        }
    }

    fn sample(&mut self, receiver: u32, group: usize, sample: Sample) {
        let Sample { lane, due, after, .. } = sample;
        self.seconds.entry(second_of(due)).or_default().latency.record(after);
        let lane = self.lanes.entry(lane).or_default();
        lane.latency.record(after);
        let (from, until) = self.settings.hold;
        lane.in_hold += u64::from((from..until).contains(&(due + after)));
        for ((_, from, until), (all, groups)) in self.settings.windows.iter().zip(&mut self.windows) {
            if (*from..*until).contains(&due) {
                all.record(after);
                groups.entry(group).or_default().record(after);
            }
        }
        self.sides.count(receiver, sample);
    }

    /// Received each second of the hold, and the latency.
    fn times_of(&self, lane: OfLane) -> (f64, figures::Times) {
        let (from, until) = self.settings.hold;
        let hold = until.saturating_sub(from).as_secs_f64();
        let Some(of) = self.lanes.get(&lane) else { return (0.0, figures::Times::default()) };
        let per_second = if hold > 0.0 { of.in_hold as f64 / hold } else { 0.0 };
        (per_second, times(&of.latency))
    }

    fn data_lane(&self, lane: Lane, traced: &Traced, dropped: u64) -> figures::Lane {
        let (received_per_s, latency) = self.times_of(Some(lane));
        figures::Lane {
            sent: traced.sent,
            unsent: traced.unsent,
            dropped_before_sending: if lane == Lane::Lossy { dropped } else { 0 },
            expected: traced.expected,
            received: traced.received,
            lost: traced.lost.count,
            loss_share: share(traced.lost.count, traced.expected),
            doubled: traced.doubled.count,
            out_of_order: traced.reordered.count,
            altered: traced.altered.count,
            foreign: traced.foreign.count,
            told_missing: traced.told_missing,
            received_bytes: traced.bytes,
            received_per_s,
            latency,
            ..figures::Lane::default()
        }
    }

    fn log_lane(&self, logged: &Logged) -> figures::Lane {
        let (received_per_s, latency) = self.times_of(None);
        let lost = logged.lost.count + logged.vanished.count;
        figures::Lane {
            sent: logged.sent,
            unsent: logged.unsent,
            accepted: logged.accepted,
            refused: logged.refused,
            expected: logged.expected,
            received: logged.received,
            lost,
            loss_share: share(lost, logged.expected),
            doubled: logged.doubled.count,
            out_of_order: logged.reordered.count,
            altered: logged.altered.count + logged.differing.count,
            foreign: logged.foreign.count,
            told_missing: logged.told_missing,
            received_bytes: logged.bytes,
            received_per_s,
            latency,
            accepted_after: times(&self.accepted_after),
            ..figures::Lane::default()
        }
    }

    fn named_windows(&self) -> BTreeMap<String, figures::Window> {
        let named = self.settings.windows.iter().zip(&self.windows);
        let window =
            |((name, from, until), (all, groups)): (&(String, Duration, Duration), &(Histogram, _))| {
                let groups: &BTreeMap<usize, Histogram> = groups;
                let group = |(place, of): (&usize, &Histogram)| {
                    let name = self.settings.groups.get(*place).cloned();
                    (name.unwrap_or_else(|| place.to_string()), times(of))
                };
                let window = figures::Window {
                    from_s: from.as_secs_f64(),
                    until_s: until.as_secs_f64(),
                    received: all.count(),
                    latency: times(all),
                    groups: groups.iter().map(group).collect(),
                };
                (name.clone(), window)
            };
        named.map(window).collect()
    }

    fn timeline(&self) -> Vec<figures::Second> {
        let last = self.seconds.keys().next_back().map_or(0, |last| last + 1);
        (0..last).map(|second| self.second(second)).collect()
    }
}

fn second_of(at: Duration) -> u32 {
    u32::try_from(at.as_secs()).unwrap_or(u32::MAX).min(MOST_SECONDS)
}

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

fn users_of(plans: &[Plan], records: &[Record]) -> figures::Users {
    let sum = |of: fn(&Record) -> u64| records.iter().map(of).sum();
    figures::Users {
        planned: plans.len() as u64,
        joined: sum(|record| u64::from(!record.memberships.is_empty())),
        failed: sum(|record| {
            let never_came = record.started.is_some() && record.memberships.is_empty();
            u64::from(never_came || record.ended == Ended::GaveUp)
        }),
        left: sum(|record| u64::from(record.ended == Ended::Left && !record.memberships.is_empty())),
        sessions_lost: sum(|record| record.sessions_lost),
        reconnects: sum(|record| record.reconnects),
        rung_changes: sum(|record| record.rung_changes),
        ..figures::Users::default()
    }
}

fn connect(records: &[Record]) -> figures::Connect {
    let mut stages: BTreeMap<&str, Histogram> = BTreeMap::new();
    let mut connect = figures::Connect::default();
    for record in records.iter().filter(|record| record.started.is_some()) {
        connect.attempts += 1;
        for (stage, after) in &record.stages {
            stages.entry(stage).or_default().record(*after);
        }
        if record.memberships.is_empty() {
            let cause = record.failure.clone().unwrap_or_else(|| "no answer".to_owned());
            *connect.failures.entry(cause).or_default() += 1;
        } else {
            connect.succeeded += 1;
        }
    }
    connect.success_share = share(connect.succeeded, connect.attempts);
    connect.stages = stages.into_iter().map(|(stage, of)| (stage.to_owned(), times(&of))).collect();
    connect
}

fn recovery(records: &[Record]) -> figures::Recovery {
    let mut all = Histogram::default();
    let mut causes: BTreeMap<&str, Histogram> = BTreeMap::new();
    // Who leaves as planned a moment after its connection broke has not failed to come back.
    let is_lost = |record: &&Record| {
        record.outage.is_some_and(|outage| {
            record.ended == Ended::There || record.ended_at.saturating_sub(outage.since) >= GRACE
        })
    };
    for (cause, after) in records.iter().flat_map(|record| &record.recoveries) {
        all.record(*after);
        causes.entry(cause.name()).or_default().record(*after);
    }
    figures::Recovery {
        times: times(&all),
        by_cause: causes.into_iter().map(|(cause, of)| (cause.to_owned(), times(&of))).collect(),
        unrecovered: records.iter().filter(is_lost).count() as u64,
    }
}

fn errors(records: &[Record]) -> BTreeMap<String, u64> {
    let mut errors = BTreeMap::new();
    for (cause, count) in records.iter().flat_map(|record| &record.errors) {
        *errors.entry(cause.clone()).or_default() += count;
    }
    errors
}
