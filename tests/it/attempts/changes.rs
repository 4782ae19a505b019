//! Networks that change in mid-session: what is sent meanwhile comes, once and in order, and how long it stalls.
//!
//! The first client's network changes while both send twenty messages a second. The page is here what `client/src/link.js`
//! is: it opens a WebSocket again that has failed or has been silent. The server, its relay and all protocols are those of the
//! attempts.

use std::{cell::RefCell, collections::BTreeMap, time::Duration};

use switchyard_loadtest::{
    browser::{Lane, Pipe, Rung},
    netsim::{Firewall, Happening, LinkConfig, NetworkSpec, ScheduledEvent},
    rng::{Rng, for_seeds},
};

use super::{SHARDS, matrix::behind_nat, room_of};
use crate::world::{Kind, MS, SECOND, Setup, World, client::What};

/// When the network changes: both are on UDP by then.
const AT: Duration = Duration::from_secs(10);
const NOW: Duration = Duration::ZERO;
/// How long it goes on after that.
const AFTER: Duration = Duration::from_secs(40);
/// A failed WebSocket is opened again after this, one that is in use and silent after that.
const REOPEN: Duration = Duration::from_millis(200);
const SILENT: Duration = Duration::from_secs(6);
/// How much longer than the network itself a stall may be.
const STALL: Duration = Duration::from_secs(10);

type Events = fn(&NetworkSpec) -> Vec<(Duration, Happening)>;

struct Change {
    name: &'static str,
    /// What happens, and how long after the first of it.
    events: Events,
    /// How long nothing passes at all.
    away: Duration,
    /// Where the client is at the end, at least.
    rung: Rung,
}

fn behind(spec: &NetworkSpec, firewall: Firewall) -> Happening {
    Happening::Switch(Box::new(NetworkSpec { firewall, events: Vec::new(), ..spec.clone() }))
}

const fn outage(name: &'static str, away: Duration, events: Events) -> Change {
    Change { name, events, away, rung: Rung::Udp }
}

const fn change(name: &'static str, rung: Rung, events: Events) -> Change {
    Change { name, events, away: Duration::ZERO, rung }
}

const CHANGES: [Change; 8] = [
    // By ICE-TCP, or by a relay where a lost SYN made that the first.
    change("UDP blocked", Rung::RelayTls, |spec| vec![(NOW, behind(spec, Firewall::UdpBlocked))]),
    change("NAT mapping changed", Rung::Udp, |_| vec![(NOW, Happening::Rebind)]),
    change("address changed", Rung::Udp, |_| vec![(NOW, Happening::AddressChange)]),
    outage("link down 1 s", SECOND, |_| vec![(NOW, Happening::Outage(SECOND))]),
    outage("link down 5 s", Duration::from_secs(5), |_| vec![(NOW, Happening::Outage(5 * SECOND))]),
    outage("link down 20 s", Duration::from_secs(20), |_| vec![(NOW, Happening::Outage(20 * SECOND))]),
    change("network with only TCP 443", Rung::RelayTls, |spec| {
        vec![(NOW, behind(spec, Firewall::Only443)), (NOW, Happening::AddressChange)]
    }),
    change("only HTTPS for 10 s", Rung::Udp, |spec| {
        vec![(NOW, behind(spec, Firewall::OnlyServerSilent)), (10 * SECOND, behind(spec, Firewall::Open))]
    }),
];

/// Runs a session through the change: the longest stall of either client, and the rung of the first at the end.
fn session(change: &Change, seed: u64) -> (Duration, Rung) {
    let mut random = Rng::stream(seed, 78);
    let mut network = || {
        let delay = Duration::from_micros(5_000 + random.below(75_000));
        let jitter = delay / 10 + 2 * MS;
        behind_nat(LinkConfig { delay, jitter: jitter.into(), loss: 0.01.into(), ..LinkConfig::default() })
    };
    let (mut changing, other) = (network(), network());
    let events = (change.events)(&changing);
    let events = events.into_iter();
    changing.events =
        events.map(|(after, what)| ScheduledEvent { at: AT + after, every: None, what }).collect();
    let mut world = World::new(Setup { shards: SHARDS, relays: true, ..Setup::new(seed) });
    for network in [changing, other] {
        world.add_client(&Kind { access: Some(network), ..Kind::default() });
    }
    let room = &room_of(seed);
    for client in 0..2 {
        world.join(client, room);
    }
    let mut page = Page::default();
    let mut next = Duration::ZERO;
    while world.elapsed() < AT + change.away + AFTER {
        page.run(&mut world, 10 * MS);
        if next <= world.elapsed() && world.all_joined(room) {
            next = world.elapsed() + 50 * MS;
            for client in 0..2 {
                world.send(client, room, Lane::Reliable, 1, 100).unwrap();
            }
        }
    }
    let rest = world.elapsed() + 60 * SECOND;
    while !world.is_quiet() {
        page.run(&mut world, 10 * MS);
        if world.elapsed() > rest {
            world.print_histories();
            panic!("seed {seed}, {}: not all messages come", change.name);
        }
    }
    world.verdict();
    let rung = world.clients[0].browser.rung().unwrap_or(Rung::WebSocket);
    if rung < change.rung {
        world.print_histories();
    }
    ((0..2).map(|client| stall(&world, client)).max().unwrap_or_default(), rung)
}

/// The longest time without a message around and after the change.
fn stall(world: &World, client: usize) -> Duration {
    let history = &world.clients[client].history;
    let messages = history.iter().filter(|seen| matches!(seen.what, What::Message { .. }));
    let times: Vec<Duration> = messages.map(|seen| seen.at).collect();
    let pairs = times.windows(2).filter(|pair| pair[1] >= AT);
    pairs.map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
}

/// What the page does by itself.
#[derive(Default)]
struct Page {
    /// When which client opens its WebSocket again.
    reopen: [Option<Duration>; 2],
    opened: [Duration; 2],
}

impl Page {
    fn run(&mut self, world: &mut World, span: Duration) {
        world.run(span);
        let now = world.elapsed();
        for client in 0..2 {
            let browser = &world.clients[client].browser;
            let since = browser.heard(Pipe::Socket).saturating_duration_since(world.start);
            let is_needed = browser.attached() != Some(Pipe::Channel) && browser.has_session();
            let is_silent = is_needed && now > since.max(self.opened[client]) + SILENT;
            let is_gone = world.clients[client].line.as_ref().is_some_and(|line| !line.has_socket());
            if is_gone {
                self.reopen[client].get_or_insert(now + REOPEN);
            }
            if is_silent || self.reopen[client].take_if(|at| *at <= now).is_some() {
                self.opened[client] = now;
                self.reopen[client] = None;
                world.open(client);
            }
        }
    }
}

#[test]
fn a_network_that_changes_in_mid_session_costs_time_and_no_message() {
    let all = RefCell::new(BTreeMap::<&str, Vec<(Duration, Rung)>>::new());
    let missed = RefCell::new(Vec::new());
    for_seeds(2, |seed| {
        for change in &CHANGES {
            let (stall, rung) = session(change, seed);
            all.borrow_mut().entry(change.name).or_default().push((stall, rung));
            if rung < change.rung || stall > change.away + STALL {
                missed.borrow_mut().push(format!("{}, SEED={seed}: {rung:?}, {stall:?}", change.name));
            }
        }
    });
    println!("{:<28} {:>8}  {:<28} rungs at the end", "change", "sessions", "longest stall p50/p95/max");
    for change in &CHANGES {
        let mut sessions = all.borrow().get(change.name).cloned().unwrap_or_default();
        sessions.sort();
        let at =
            |share: usize| sessions[(sessions.len() * share / 100).min(sessions.len() - 1)].0.as_secs_f64();
        let stalls = format!("{:.2} / {:.2} / {:.2} s", at(50), at(95), at(100));
        let mut rungs = BTreeMap::<Rung, usize>::new();
        sessions.iter().for_each(|(_, rung)| *rungs.entry(*rung).or_default() += 1);
        println!("{:<28} {:>8}  {stalls:<28} {rungs:?}", change.name, sessions.len());
    }
    assert_eq!(missed.into_inner(), Vec::<String>::new());
}
