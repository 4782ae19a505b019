//! Attempts to connect, in pairs, over the networks of the ladder: which rung each reaches, and after how long.
//!
//! An attempt is a world of its own with two browsers that climb, the real engine, the real sans-IO TURN server and
//! modelled links with loss, delay and jitter; both send numbered messages from the moment they are in the room. It is
//! connected when all of them have come, once and in order. `SEEDS=n` makes n attempts of each cell of the matrix.

mod changes;
mod matrix;
mod report;

use std::{cell::RefCell, collections::BTreeMap, time::Duration};

use switchyard_loadtest::{
    browser::{Lane, Rung},
    netsim::{Happening, NetworkSpec, ScheduledEvent},
    rng::{Rng, for_seeds},
};

use self::{
    matrix::{CONDITIONS, Condition, LOSSES, ONLY_443, OPEN_BEHIND_NATS},
    report::Report,
};
use crate::world::{Kind, MS, SECOND, Setup, World, client::What, relay::Fault, room_on};

/// How long an attempt may take to reach its rung.
const LIMIT: Duration = Duration::from_secs(15);
const SHARDS: u16 = 2;

/// A room that lives on the shard that the seed says.
fn room_of(seed: u64) -> String {
    room_on((seed % u64::from(SHARDS)) as u16, SHARDS)
}

/// What became of an attempt.
#[derive(Clone, Debug)]
struct Outcome {
    /// Of both clients, at the end of the time.
    rungs: [Rung; 2],
    /// Until both had a message of the other.
    first_message: Duration,
    /// Until both were on the best rung that they reached.
    best_rung: Duration,
}

impl Outcome {
    fn has_reached(&self, expected: [Rung; 2]) -> bool {
        self.rungs.iter().zip(expected).all(|(rung, expected)| *rung >= expected)
    }
}

/// One attempt. It panics, with the seed, if the clients do not connect or a message is missing, doubled or out of order.
fn attempt(condition: &Condition, networks: [NetworkSpec; 2], fault: Option<Fault>, seed: u64) -> Outcome {
    let (closed_media, expected) = (condition.closed_media, condition.rungs);
    let mut world = World::new(Setup { shards: SHARDS, relays: true, closed_media, ..Setup::new(seed) });
    world.relay.as_mut().unwrap().fault = fault;
    for network in networks {
        world.add_client(&Kind { access: Some(network), ..Kind::default() });
    }
    let room = &room_of(seed);
    for client in 0..2 {
        world.join(client, room);
    }
    let mut rungs = [(Rung::WebSocket, Duration::ZERO); 2];
    let mut left = 10;
    let mut next = Duration::ZERO;
    while left > 0 {
        world.run(10 * MS);
        let now = world.elapsed();
        for (client, best) in rungs.iter_mut().enumerate() {
            let rung = world.clients[client].browser.rung();
            if rung != Some(best.0) {
                *best = (rung.unwrap_or(Rung::WebSocket), now);
            }
        }
        let is_up = rungs.iter().zip(expected).all(|((rung, _), expected)| *rung >= expected);
        // On the bottom rung it is to be seen that nothing else comes.
        let is_over = now >= LIMIT || (is_up && expected != [Rung::WebSocket; 2]);
        if next <= now && world.all_joined(room) {
            next = now + 50 * MS;
            left -= usize::from(is_over);
            for client in 0..2 {
                world.send(client, room, Lane::Reliable, 1, 100).unwrap();
            }
        }
        assert!(now < 4 * LIMIT, "seed {seed}: the clients have not come into the room");
    }
    world.run_to(60 * SECOND, "all messages come", World::is_quiet);
    world.verdict();
    if rungs.iter().zip(expected).any(|((rung, _), expected)| *rung < expected) {
        world.print_histories();
    }
    let first = |client: usize| {
        let is_message = |what: &What| matches!(what, What::Message { .. });
        world.clients[client].first(Duration::ZERO, is_message).expect("all have come")
    };
    Outcome {
        rungs: rungs.map(|(rung, _)| rung),
        first_message: first(0).max(first(1)),
        best_rung: rungs[0].1.max(rungs[1].1),
    }
}

/// An attempt in a condition with each loss.
fn attempt_all(condition: &Condition, fault: Option<Fault>, seed: u64, report: &mut Report) {
    for loss in LOSSES {
        let name = condition.name.bytes().chain([(loss * 100.0) as u8]);
        let own_seed = name.fold(seed, |seed, byte| Rng::stream(seed, u64::from(byte)).next_u64());
        let outcome = attempt(condition, condition.networks(loss, own_seed), fault, own_seed);
        report.add(condition, loss, seed, outcome);
    }
}

#[test]
fn in_every_network_the_best_rung_that_it_lets_through_is_reached() {
    let report = RefCell::new(Report::default());
    for_seeds(4, |seed| {
        for condition in &CONDITIONS {
            attempt_all(condition, None, seed, &mut report.borrow_mut());
        }
    });
    println!("{}", report.borrow());
    assert_eq!(report.borrow().problems(), Vec::<String>::new());
}

/// The judge sees what is wrong: with a relay that does not work, a client that needs it stays on the WebSocket, which
/// carries everything all the same.
#[test]
fn a_relay_that_does_not_work_is_noticed() {
    for fault in [Fault::LosesAnswers, Fault::RefusesAllocations, Fault::DropsHandOver] {
        let mut report = Report::default();
        attempt_all(&ONLY_443, Some(fault), 1, &mut report);
        assert_eq!(report.problems().len(), 1, "{fault:?}: {report}");
        assert_eq!(report.rungs(), BTreeMap::from([(Rung::WebSocket, 8)]), "{fault:?}");
    }
}

/// The same of a NAT that forgets before anything can be agreed.
#[test]
fn a_nat_that_forgets_at_once_is_noticed() {
    let mut report = Report::default();
    for seed in 1..=4 {
        let mut networks = OPEN_BEHIND_NATS.networks(0.0, seed);
        for network in &mut networks {
            let every = Some(50 * MS);
            network.events.push(ScheduledEvent { at: 50 * MS, every, what: Happening::Rebind });
        }
        let outcome = attempt(&OPEN_BEHIND_NATS, networks, None, seed);
        report.add(&OPEN_BEHIND_NATS, 0.0, seed, outcome);
    }
    assert_eq!(report.problems().len(), 1, "{report}");
}
