//! Attempts to connect, in pairs, over the networks of the ladder: which rung each reaches, and after how long.
//!
//! An attempt is a world of its own with two browsers that climb, the real engine, the real sans-IO TURN server and
//! modelled links with loss, delay and jitter; both send numbered messages from the moment they are in the room. It is
//! connected when all of them have come, once and in order. `SEEDS=n` makes n attempts of each cell of the matrix.

mod matrix;
mod report;

use std::time::Duration;

use switchyard_loadtest::{
    browser::{Lane, Rung},
    netsim::NetworkSpec,
    rng::Rng,
};

use self::{
    matrix::{CONDITIONS, Condition, LOSSES},
    report::Report,
};
use crate::world::{Kind, MS, SECOND, Setup, World, client::What, relay::Fault};

/// How long an attempt may take to reach its rung.
const LIMIT: Duration = Duration::from_secs(15);
const ROOM: &str = "room";

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
    fn has_reached(&self, condition: &Condition) -> bool {
        self.rungs.iter().zip(condition.rungs).all(|(rung, expected)| *rung >= expected)
    }
}

/// One attempt. It panics, with the seed, if the clients do not connect or a message is missing, doubled or out of order.
fn attempt(networks: [NetworkSpec; 2], expected: [Rung; 2], fault: Option<Fault>, seed: u64) -> Outcome {
    let mut world = World::new(Setup { relays: true, ..Setup::new(seed) });
    world.relay.as_mut().unwrap().fault = fault;
    for network in networks {
        world.add_client(&Kind { access: Some(network), ..Kind::default() });
    }
    for client in 0..2 {
        world.join(client, ROOM);
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
        if next <= now && world.all_joined(ROOM) {
            next = now + 50 * MS;
            left -= usize::from(is_over);
            for client in 0..2 {
                world.send(client, ROOM, Lane::Reliable, 1, 100).unwrap();
            }
        }
        assert!(now < 4 * LIMIT, "seed {seed}: the clients have not come into the room");
    }
    world.run_to(60 * SECOND, "all messages come", World::is_quiet);
    world.verdict();
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

/// The outcomes of a number of attempts in a condition with this loss.
fn attempts(condition: &Condition, loss: f64, fault: Option<Fault>, count: u64, seed: u64) -> Vec<Outcome> {
    let each = |number| {
        let seed = Rng::stream(seed, number).next_u64();
        attempt(condition.networks(loss, seed), condition.rungs, fault, seed)
    };
    (0..count).map(each).collect()
}

#[test]
fn in_every_network_the_best_rung_that_it_lets_through_is_reached() {
    let count = std::env::var("SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(5);
    let mut report = Report::default();
    for (number, condition) in CONDITIONS.iter().enumerate() {
        for (loss_number, loss) in LOSSES.into_iter().enumerate() {
            let seed = (number * LOSSES.len() + loss_number) as u64 + 1;
            report.add(condition, loss, attempts(condition, loss, None, count, seed));
        }
    }
    println!("{report}");
    assert_eq!(report.problems(), Vec::<String>::new());
}
