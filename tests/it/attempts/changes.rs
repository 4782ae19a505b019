//! Networks that change in mid-session, and a server that starts again: what is sent meanwhile comes, once and in order, and
//! how long it stalls.
//!
//! Two devices write twenty messages a second each into the log of one room, and send each other a bulk stream beside them.
//! The first one's network changes. Pages, browsers and their rules are those of the load program, which are those of the
//! browser client ([`switchyard_loadtest::browser`]); the server, its relay and all protocols are those of the attempts. The
//! checker of logs and that of data judge what came; a stall is the longest time in which nothing of the other's messages came.
//!
//! `SEEDS=n` runs n sessions of each change without and with a bulk stream, `BULK=n` with n kilobytes of it each way;
//! `CHANGE=name` makes those changes alone whose names begin so.

use std::{
    cell::RefCell, collections::BTreeMap, fmt, num::NonZero, panic::resume_unwind, thread, time::Duration,
};

use switchyard_loadtest::{
    browser::{Event, Fault, Lane, LogEvent, Rung, Saved},
    netsim::{Firewall, Happening, LinkConfig, NetworkSpec, ScheduledEvent},
    rng::{Rng, for_seeds},
};

use super::{SHARDS, matrix::behind_nat, room_of};
use crate::world::{Kind, MS, SECOND, Setup, client::What, seats::Seats, wire::WireConfig};

/// When the network changes: both are on UDP by then.
const AT: Duration = Duration::from_secs(8);
const NOW: Duration = Duration::ZERO;
/// How long it goes on after that.
const AFTER: Duration = Duration::from_secs(25);
/// Between two messages.
const EVERY: Duration = Duration::from_millis(50);
/// A message of the bulk stream, and what may wait of it to be sent.
const PIECE: usize = 16 * 1024;
const HELD: usize = 128 * 1024;
/// Kilobytes of bulk each way if nothing else is said.
const BULK_KB: usize = 256;
/// The share of sessions whose stall must be within its bound, in networks that do not stall by themselves.
const SHARE: f64 = 0.95;
/// The same where packets are lost: when TCP tries again after an outage of just so long is chance.
const SHARE_LOSSY: f64 = 0.9;
const HALF_A_SECOND: Duration = Duration::from_millis(500);

type Events = fn(&NetworkSpec) -> Vec<(Duration, Happening)>;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Left {
    /// Another rung of the ladder is up while the change happens.
    AnotherRung,
    /// Every connection is dead.
    Nothing,
}

struct Change {
    name: &'static str,
    /// What happens to the network, and how long after the first of it.
    events: Events,
    /// How long nothing passes at all; for the server: how long it is away.
    away: Duration,
    restarts: bool,
    left: Left,
    /// Where the client is at the end, at least.
    rung: Rung,
}

fn behind(spec: &NetworkSpec, firewall: Firewall) -> Happening {
    Happening::Switch(Box::new(NetworkSpec { firewall, events: Vec::new(), ..spec.clone() }))
}

const fn change(name: &'static str, left: Left, rung: Rung, events: Events) -> Change {
    Change { name, events, away: Duration::ZERO, restarts: false, left, rung }
}

const fn outage(name: &'static str, away: Duration, events: Events) -> Change {
    Change { away, ..change(name, Left::Nothing, Rung::Udp, events) }
}

const CHANGES: [Change; 10] = [
    // What networks do by themselves.
    change("nothing", Left::AnotherRung, Rung::Udp, |_| Vec::new()),
    // By ICE-TCP, or by a relay where a lost SYN made that the first.
    change("UDP blocked", Left::AnotherRung, Rung::RelayTls, |spec| {
        vec![(NOW, behind(spec, Firewall::UdpBlocked))]
    }),
    change("NAT mapping changed", Left::AnotherRung, Rung::Udp, |_| vec![(NOW, Happening::Rebind)]),
    change("address changed", Left::Nothing, Rung::Udp, |_| vec![(NOW, Happening::AddressChange)]),
    outage("link down 1 s", SECOND, |_| vec![(NOW, Happening::Outage(SECOND))]),
    outage("link down 5 s", Duration::from_secs(5), |_| vec![(NOW, Happening::Outage(5 * SECOND))]),
    // The peer connection has been given up by then, and the network is asked for once a second.
    outage("link down 20 s", Duration::from_secs(20), |_| vec![(NOW, Happening::Outage(20 * SECOND))]),
    Change { restarts: true, ..outage("server restarted", SECOND, |_| Vec::new()) },
    change("switch to only TCP 443", Left::Nothing, Rung::RelayTls, |spec| {
        vec![(NOW, behind(spec, Firewall::Only443)), (NOW, Happening::AddressChange)]
    }),
    change("only HTTPS for 10 s", Left::AnotherRung, Rung::Udp, |spec| {
        vec![(NOW, behind(spec, Firewall::OnlyServerSilent)), (10 * SECOND, behind(spec, Firewall::Open))]
    }),
];

impl Left {
    /// How long a stall may be.
    fn bound(self, rtt: Duration) -> Duration {
        match self {
            Left::AnotherRung => HALF_A_SECOND,
            Left::Nothing => 2 * SECOND + 4 * rtt,
        }
    }

    fn words(self) -> &'static str {
        match self {
            Left::AnotherRung => "0.5 s",
            Left::Nothing => "2 s + 4 round trips",
        }
    }
}

/// What became of a session.
#[derive(Clone, Debug)]
struct Outcome {
    /// The longest stall of either device, less the time in which nothing could pass.
    stall: Duration,
    /// How long it may be.
    bound: Duration,
    /// Of the device whose network changes, at the end.
    rung: Rung,
}

impl Outcome {
    fn is_within(&self) -> bool {
        self.stall <= self.bound
    }
}

/// What the networks of a session are like. A seed has one of them.
#[derive(PartialEq)]
struct Ground {
    name: &'static str,
    /// One way, in milliseconds, at least and at most.
    delay: [u64; 2],
    /// On each link.
    loss: f64,
}

const GROUNDS: [Ground; 3] = [
    Ground { name: "near", delay: [3, 15], loss: 0.0 },
    Ground { name: "far", delay: [20, 80], loss: 0.0 },
    Ground { name: "1 % lost", delay: [3, 80], loss: 0.01 },
];

impl Ground {
    fn of(seed: u64) -> &'static Self {
        &GROUNDS[(seed % GROUNDS.len() as u64) as usize]
    }

    /// The network of a device, and its round trip at most.
    fn network(&self, random: &mut Rng) -> (NetworkSpec, Duration) {
        let [least, most] = self.delay;
        let delay = least * 1000 + random.below((most - least) * 1000);
        let delay = Duration::from_micros(delay);
        let jitter = delay / 10 + 2 * MS;
        let loss = self.loss.into();
        let link = LinkConfig { delay, jitter: jitter.into(), loss, ..LinkConfig::default() };
        (behind_nat(link), 2 * (delay + jitter))
    }
}

/// Runs a session through the change. It panics, with the seed, if anything is missing, doubled or out of order.
fn session(change: &Change, seed: u64, bulk: usize, fault: Option<Fault>) -> Outcome {
    let mut random = Rng::stream(seed, 78);
    let ground = Ground::of(seed);
    let ((mut changing, rtt), (other, other_rtt)) =
        (ground.network(&mut random), ground.network(&mut random));
    let rtt = rtt.max(other_rtt);
    let events = (change.events)(&changing).into_iter();
    changing.events =
        events.map(|(after, what)| ScheduledEvent { at: AT + after, every: None, what }).collect();
    let setup = Setup { shards: SHARDS, relays: true, ..Setup::new(seed) };
    let mut seats = Seats::new(setup, &room_of(seed));
    for (number, network) in [changing, other].into_iter().enumerate() {
        // What lies behind the access network is near.
        let wire = WireConfig { delay: MS, ..WireConfig::default() };
        let kind = Kind { access: Some(network), wire, fault, ..Kind::default() };
        seats.add(&format!("u{number}"), &kind, Saved::default());
    }
    let mut next = Duration::ZERO;
    let mut left = [bulk; 2];
    let mut is_restarted = !change.restarts;
    while seats.world.elapsed() < AT + change.away + AFTER {
        seats.pass(10 * MS);
        let now = seats.world.elapsed();
        if !is_restarted && now >= AT {
            is_restarted = true;
            seats.restart(change.away);
        }
        if next <= now && (now >= AT || (0..2).all(|seat| seats.seats[seat].is_joined)) {
            next = now + EVERY;
            (0..2).for_each(|seat| seats.say(seat));
        }
        // So that the change comes in the middle of it.
        if now + 300 * MS > AT {
            (0..2).for_each(|client| send_bulk(&mut seats, client, &mut left[client]));
        }
    }
    let rest = seats.world.elapsed() + if bulk > BULK_KB * 1024 { 1_000 * SECOND } else { 100 * SECOND };
    while !change.restarts && left.iter().any(|left| *left > 0) && seats.world.elapsed() < rest {
        seats.pass(10 * MS);
        (0..2).for_each(|client| send_bulk(&mut seats, client, &mut left[client]));
    }
    let rung = seats.world.clients[0].browser.rung().unwrap_or(Rung::WebSocket);
    let stalls = (0..2).map(|client| stall(&seats, client, AT + change.away + AFTER));
    let stall = stalls.max().unwrap_or_default().saturating_sub(change.away);
    let verdict = seats.judge();
    if verdict.is_err() {
        seats.world.print_histories();
    }
    verdict.unwrap_or_else(|reason| panic!("seed {seed}, {}: {reason}", change.name));
    if !change.restarts {
        seats.world.run_to(60 * SECOND, "all of the bulk comes", |world| world.is_quiet());
        let lost = (0..2).any(|client| seats.world.clients[client].saw(is_lost));
        assert!(!lost, "seed {seed}, {}: a session was lost", change.name);
        seats.world.verdict_among_clients();
    }
    let bound = change.left.bound(rtt);
    let outcome = Outcome { stall, bound, rung };
    if !outcome.is_within() || rung < change.rung {
        seats.world.print_histories();
    }
    outcome
}

fn is_lost(what: &What) -> bool {
    matches!(what, What::Other(Event::SessionLost))
}

fn send_bulk(seats: &mut Seats, client: usize, left: &mut usize) {
    let room = seats.room.clone();
    while *left > 0 && seats.world.clients[client].browser.held_bytes() < HELD {
        if seats.world.send(client, &room, Lane::Reliable, 2, PIECE).is_err() {
            return;
        }
        *left = left.saturating_sub(PIECE);
    }
}

/// The longest time without a message of the other device, from just before the change on.
fn stall(seats: &Seats, client: usize, end: Duration) -> Duration {
    let own = format!("u{client}");
    let times = seats.world.clients[client].history.iter().filter_map(|seen| match &seen.what {
        What::Other(Event::Log(_, LogEvent::Event(event))) if event.user != own => Some(seen.at),
        _ => None,
    });
    let times: Vec<Duration> = times.chain([end]).collect();
    let pairs = times.windows(2).filter(|pair| pair[1] >= AT);
    pairs.map(|pair| pair[1] - pair[0]).max().unwrap_or(end)
}

/// The sessions of one change in networks of one kind.
struct Row<'a> {
    change: &'a Change,
    ground: &'a Ground,
    outcomes: Vec<&'a (u64, Outcome)>,
}

impl Row<'_> {
    /// Whether so many of the sessions are enough; of a few, one may have had bad luck.
    fn is_enough(&self, count: usize, share: f64) -> bool {
        let all = self.outcomes.len();
        count as f64 >= share * all as f64 || all - count <= 1
    }

    fn within(&self) -> usize {
        self.outcomes.iter().filter(|(_, of)| of.is_within()).count()
    }

    fn problems(&self, is_bound: bool) -> Vec<String> {
        let (change, all) = (self.change, self.outcomes.len());
        let at = format!("{}, {}", change.name, self.ground.name);
        let mut problems = Vec::new();
        let share = if self.ground.loss > 0.0 { SHARE_LOSSY } else { SHARE };
        if is_bound && !self.is_enough(self.within(), share) {
            let worst = self.outcomes.iter().max_by_key(|(_, of)| of.stall.saturating_sub(of.bound));
            problems.push(format!("{at}: {} of {all} within the bound; the worst: {worst:?}", self.within()));
        }
        let missed: Vec<_> = self.outcomes.iter().filter(|(_, of)| of.rung < change.rung).collect();
        if !self.is_enough(all - missed.len(), SHARE) {
            problems.push(format!("{at}: not at {:?}: {missed:?}", change.rung));
        }
        problems
    }
}

impl fmt::Display for Row<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut stalls: Vec<f64> = self.outcomes.iter().map(|(_, of)| of.stall.as_secs_f64()).collect();
        stalls.sort_by(f64::total_cmp);
        let at = |share: usize| stalls[(stalls.len() * share / 100).min(stalls.len() - 1)];
        let stalls = format!("{:.2} / {:.2} / {:.2}", at(50), at(95), at(100));
        let mut rungs = BTreeMap::<Rung, usize>::new();
        self.outcomes.iter().for_each(|(_, of)| *rungs.entry(of.rung).or_default() += 1);
        let (all, within) = (self.outcomes.len(), self.within() as f64);
        let share = 100.0 * within / all as f64;
        let bound = self.change.left.words();
        write!(
            f,
            "{:<24} {:<9} {all:>8}  {stalls:<20} {share:>5.1} % {bound:<22} {rungs:?}",
            self.change.name, self.ground.name
        )
    }
}

/// Prints a line for each change and kind of network, and gives what was not as it must be. Bounds are held against networks
/// that lose nothing, without a bulk stream; where nothing is left to go on over, also against those that lose. Half a second is
/// nothing that those hold when nothing changes, as the first row shows: SCTP waits a second and more for its retries. And a
/// bulk stream makes a queue of its own.
fn report(all: &[Vec<(u64, Outcome)>], has_bulk: bool) -> Vec<String> {
    println!("{:<24} {:<9} sessions  longest stall, s       within its bound", "change", "network");
    println!("{:<43} p50 / p95 / max{:>39} rungs at the end", "", "");
    let mut problems = Vec::new();
    for ground in &GROUNDS {
        let mut rows = Vec::new();
        for (change, outcomes) in CHANGES.iter().zip(all) {
            let outcomes: Vec<_> = outcomes.iter().filter(|(seed, _)| Ground::of(*seed) == ground).collect();
            if !outcomes.is_empty() {
                rows.push(Row { change, ground, outcomes });
            }
        }
        for row in &rows {
            println!("{row}");
            let is_bound = !has_bulk && (ground.loss == 0.0 || row.change.left == Left::Nothing);
            problems.extend(row.problems(is_bound));
        }
    }
    problems
}

/// Runs sessions of all changes, or of those whose name begins as `CHANGE` says. Many go over all cores.
fn run(few: u64, bulk: usize) -> Vec<String> {
    let cores = if std::env::var_os("SEEDS").is_some() {
        thread::available_parallelism()
    } else {
        Ok(NonZero::<usize>::MIN)
    };
    let cores = cores.map_or(1, NonZero::get) as u64;
    let wanted = std::env::var("CHANGE").unwrap_or_default();
    let part = |core: u64| {
        let outcomes = RefCell::new(vec![Vec::new(); CHANGES.len()]);
        for_seeds(few, |seed| {
            // Each core has seeds of each kind of network.
            if seed / GROUNDS.len() as u64 % cores != core {
                return;
            }
            for (change, outcomes) in CHANGES.iter().zip(outcomes.borrow_mut().iter_mut()) {
                if change.name.starts_with(&wanted) {
                    outcomes.push((seed, session(change, seed, bulk * 1024, None)));
                }
            }
        });
        outcomes.into_inner()
    };
    let parts: Vec<_> = thread::scope(|scope| {
        let part = &part;
        let threads: Vec<_> = (0..cores).map(|core| scope.spawn(move || part(core))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
    });
    let mut all = vec![Vec::new(); CHANGES.len()];
    for part in parts {
        all.iter_mut().zip(part).for_each(|(all, more): (&mut Vec<_>, _)| all.extend(more));
    }
    report(&all, bulk > 0)
}

#[test]
fn a_network_that_changes_in_mid_session_costs_time_and_no_message() {
    assert_eq!(run(GROUNDS.len() as u64, 0), Vec::<String>::new());
}

#[test]
fn a_bulk_stream_beside_the_messages_is_whole_too() {
    let bulk = std::env::var("BULK").map_or(BULK_KB, |text| text.parse().expect("a number in BULK"));
    assert_eq!(run(GROUNDS.len() as u64, bulk), Vec::<String>::new());
}

/// The judges see what is wrong: a page that stays on a dead channel, that replays nothing, that takes things twice.
#[test]
fn faults_of_a_page_are_noticed() {
    let [_, blocked, ..] = &CHANGES;
    let noticed = |fault, seed| {
        let result = std::panic::catch_unwind(|| session(blocked, seed, 4 * BULK_KB * 1024, fault));
        result.is_err() || result.is_ok_and(|outcome| !outcome.is_within())
    };
    // In a near network, where half a second is the bound.
    assert!(!noticed(None, 3));
    for fault in [Fault::Trusts, Fault::NoReplay, Fault::TakesDuplicates] {
        assert!((1..=12).any(|number| noticed(Some(fault), 3 * number)), "{fault:?}");
    }
}
