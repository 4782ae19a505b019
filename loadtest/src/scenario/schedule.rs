//! Users and times out of a scenario: a pure function of it and the seed. [`crate::run`] carries it out.

use std::time::{Duration, Instant};

use super::{Arrivals, Behaviour, Data, Group, Messages, Scenario, Stall, Transport};
use crate::{
    browser,
    figures::GroupSummary,
    rng::Rng,
    user::{self, Does, Pace, Plan},
};

/// A user that comes, and perhaps leaves before the run ends. Times count from the beginning of the run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coming {
    /// When it comes.
    pub at: Duration,
    /// When it leaves; at the end of the run if it is not set.
    pub leaves: Option<Duration>,
    /// Its number in the run.
    pub number: u32,
    /// Its group's place in the scenario.
    pub group: usize,
    /// Which of the group's rooms it is in.
    pub room: u32,
    /// Which member of the group in that room it is.
    pub place: u32,
    /// Which of the group's networks it is in, as [`super::Networks::weighted`] lists them.
    pub network: usize,
}

/// A user stops sending so long before it leaves, so that what it sent can be owed to the others.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// More users than this are not planned, however long a run with arrivals takes.
const MOST: usize = 1_000_000;

/// Everybody who comes, in order of time, numbered in that order.
pub fn coming(scenario: &Scenario, seed: u64) -> Vec<Coming> {
    let mut all = Vec::new();
    for (at, group) in scenario.groups.iter().enumerate() {
        let mut slots = Slots::new(at, group, Rng::stream(seed, at as u64));
        match group.arrivals {
            Some(arrivals) => arriving(scenario, group, arrivals, &mut slots, &mut all),
            None => staying(scenario, group, &mut slots, &mut all),
        }
    }
    all.truncate(MOST);
    all.sort_by_key(|coming| (coming.at, coming.group, coming.room, coming.place));
    for (number, coming) in all.iter_mut().enumerate() {
        coming.number = u32::try_from(number).unwrap_or(u32::MAX);
    }
    all
}

/// Who is there from the ramp on, and who comes in the place of one that has left.
fn staying(scenario: &Scenario, group: &Group, slots: &mut Slots<'_>, all: &mut Vec<Coming>) {
    let (begin, end) = scenario.hold_span();
    for index in 0..group.users {
        let mut at = scenario.ramp.0.mul_f64(f64::from(index) / f64::from(group.users.max(1)));
        let Some(churn) = group.churn else {
            all.push(slots.take(index, at, None));
            continue;
        };
        // The first are cut short, each by another part, so that the group does not leave as one.
        let mut leaves = begin + churn.stays.0.mul_f64(slots.rng.unit());
        loop {
            let leaving = (leaves < end).then_some(leaves);
            all.push(slots.take(index, at, leaving));
            at = leaves + churn.away.0;
            leaves = at + churn.stays.0;
            if leaving.is_none() || at >= end || all.len() >= MOST {
                break;
            }
        }
    }
}

/// Who comes at random times, as people do: the times between have an exponential distribution.
fn arriving(
    scenario: &Scenario,
    group: &Group,
    arrivals: Arrivals,
    slots: &mut Slots<'_>,
    all: &mut Vec<Coming>,
) {
    let (begin, end) = scenario.hold_span();
    let there = (arrivals.rate.0 * arrivals.stays.0.as_secs_f64()).ceil().max(1.0) as u32;
    let members = there.div_ceil(group.room_count()) * group.room_count();
    let mut at = begin;
    for index in 0.. {
        at += Duration::from_secs_f64(-(1.0 - slots.rng.unit()).ln() / arrivals.rate.0);
        if at >= end || all.len() >= MOST {
            return;
        }
        let leaves = at + arrivals.stays.0;
        all.push(slots.take(index % members, at, (leaves < end).then_some(leaves)));
    }
}

/// Hands out places in rooms, and networks: of as many users as the weights come to, exactly as many have each network
/// as its weight says.
struct Slots<'a> {
    group_at: usize,
    group: &'a Group,
    rng: Rng,
    /// Networks not handed out of the current lot.
    lot: Vec<usize>,
}

impl<'a> Slots<'a> {
    fn new(group_at: usize, group: &'a Group, rng: Rng) -> Self {
        Self { group_at, group, rng, lot: Vec::new() }
    }

    fn take(&mut self, index: u32, at: Duration, leaves: Option<Duration>) -> Coming {
        let rooms = self.group.room_count();
        let network = self.network();
        let (room, place) = (index % rooms, index / rooms);
        Coming { at, leaves, number: 0, group: self.group_at, room, place, network }
    }

    fn network(&mut self) -> usize {
        if self.lot.is_empty() {
            let weights = self.group.network.weighted();
            let networks = weights.iter().enumerate();
            self.lot =
                networks.flat_map(|(at, (_, weight))| std::iter::repeat_n(at, *weight as usize)).collect();
        }
        let drawn = self.rng.below(self.lot.len() as u64) as usize;
        if self.lot.is_empty() { 0 } else { self.lot.swap_remove(drawn) }
    }
}

impl Coming {
    /// What it is to do, in a run that began at `epoch` and whose rooms' names begin with `prefix`.
    pub fn plan(&self, scenario: &Scenario, seed: u64, epoch: Instant, prefix: &str) -> Plan {
        let group = &scenario.groups[self.group];
        let (begin, end) = scenario.hold_span();
        let end = self.leaves.map_or(end, |leaves| leaves.saturating_sub(LAST_WORDS).min(end));
        let pace = |rate: f64, senders: Option<u32>, random: bool| {
            let sends = rate > 0.0 && senders.is_none_or(|senders| self.place < senders);
            let interval = Duration::from_secs_f64(1.0 / rate.max(1e-3));
            // Senders are spread over the interval: a thousand people do not tick together.
            let start = epoch + begin + interval.mul_f64(spread(self.number));
            sends.then_some(Pace { start, interval, random, end: epoch + end })
        };
        let mut streams = 0..;
        let does = group.does.iter().map(|behaviour| match *behaviour {
            Behaviour::Data(Data { lane, rate, size, senders, random }) => Does::Data(user::Data {
                lane: browser::Lane::from(lane),
                stream: streams.next().unwrap_or_default() + 1,
                size: size.0,
                pace: pace(rate.0, senders, random),
            }),
            Behaviour::Messages(Messages { rate, size, senders, random }) => {
                Does::Messages(user::Messages { size: size.0, pace: pace(rate.0, senders, random) })
            }
            Behaviour::Stall(Stall { at, length, every }) => Does::Stall(user::Stall {
                at: epoch + begin + at.0,
                length: length.0,
                every: every.map(|every| every.0),
            }),
        });
        Plan {
            number: self.number,
            group: self.group,
            network: scenario
                .networks()
                .iter()
                .position(|name| *name == self.network_name(scenario))
                .unwrap_or_default(),
            room: self.room_name(scenario, prefix),
            udp: match group.transport {
                Transport::Udp => true,
                Transport::Websocket => false,
                // By place, so that every room has both.
                Transport::Mixed => self.place.is_multiple_of(2),
            },
            seed: Rng::stream(seed, u64::from(self.number)).next_u64(),
            does: does.collect(),
        }
    }

    /// Name or file of its network.
    pub fn network_name<'a>(&self, scenario: &'a Scenario) -> &'a str {
        scenario.groups[self.group].network.weighted()[self.network].0
    }

    /// The name of its room.
    pub fn room_name(&self, scenario: &Scenario, prefix: &str) -> String {
        format!("{prefix}-{}-{}", scenario.groups[self.group].room_name(), self.room)
    }
}

/// What the report says of the groups.
pub fn summaries(scenario: &Scenario) -> Vec<GroupSummary> {
    let summary = |group: &Group| GroupSummary {
        name: group.name.clone(),
        users: group.users,
        rooms: group.room_count(),
        network: group.network.to_string(),
        transport: group.transport.to_string(),
        does: group.does.iter().map(Behaviour::to_string).chain(comes_and_goes(group)).collect(),
    };
    scenario.groups.iter().map(summary).collect()
}

fn comes_and_goes(group: &Group) -> Option<String> {
    let churn = group.churn.map(|churn| format!("churn: stays {:?}, away {:?}", churn.stays.0, churn.away.0));
    let arrivals =
        |arrivals: Arrivals| format!("arrivals: {}/s, stay {:?}", arrivals.rate.0, arrivals.stays.0);
    churn.or(group.arrivals.map(arrivals))
}

/// Numbers in a row lie far apart in `[0, 1)`, and any number of them evenly: multiples of the golden ratio.
fn spread(number: u32) -> f64 {
    const GOLDEN: f64 = 0.618_033_988_749_894_9;
    (f64::from(number) * GOLDEN).fract()
}
