//! World tests: a shard of the server, simulated browsers and their networks in one process and in virtual time.
//!
//! The engine and the browsers are the real ones, down to DTLS and SCTP; the WebSocket and the network are simulated.
//! Seeds decide about the network; the WebRTC library draws random numbers of its own, so a run repeats in kind.

mod world;

use std::time::Duration;

use switchyard_loadtest::{
    browser::{Event, Lane, Pipe},
    netsim::LinkConfig,
    rng::Rng,
};

use world::World;

const MS: Duration = Duration::from_millis(1);

fn link() -> LinkConfig {
    LinkConfig { delay: 20 * MS, ..LinkConfig::default() }
}

fn bad_link() -> LinkConfig {
    LinkConfig { delay: 20 * MS, jitter: 15 * MS, reorder: true, loss: 0.05, ..LinkConfig::default() }
}

#[test]
fn fifty_peers_in_a_room_at_five_percent_loss_miss_nothing() {
    let mut world = World::new(&bad_link(), 1, &[true; 50]);
    world.run(8_000 * MS);
    for _ in 0..40 {
        for client in 0..50 {
            world.send(client, Lane::Reliable, 100).unwrap();
        }
        world.run(100 * MS);
    }
    world.run(15_000 * MS);
    world.assert_whole();
}

#[test]
fn pipe_changes_at_random_instants_lose_and_double_nothing() {
    for seed in 0..3 {
        let mut world = World::new(&bad_link(), seed, &[true, true, true, false]);
        world.run(5_000 * MS);
        let mut rng = Rng::new(seed);
        for _ in 0..60 {
            let pipe = if rng.chance(0.5) { Pipe::Socket } else { Pipe::Channel };
            world.attach(rng.below(3) as usize, pipe);
            world.run_sending(MS * (1 + rng.below(150) as u32), 5 * MS, 500);
        }
        world.run(15_000 * MS);
        world.assert_whole();
    }
}

#[test]
fn one_stalled_receiver_delays_no_other() {
    let mut world = World::new(&link(), 1, &[true, true, true, false]);
    world.run(2_000 * MS);
    world.set_stalled(1, true);
    world.set_stalled(3, true);
    for _ in 0..200 {
        world.send(0, Lane::Reliable, 2_000).unwrap();
        world.run(10 * MS);
        world.assert_received(2, world.sent(0).saturating_sub(8));
    }
    world.set_stalled(1, false);
    world.set_stalled(3, false);
    world.run(10_000 * MS);
    world.send(1, Lane::Reliable, 100).unwrap();
    world.run(1_000 * MS);
    world.assert_whole();
}

#[test]
fn traffic_follows_a_changed_address_without_an_offer() {
    let mut world = World::new(&link(), 1, &[true, true]);
    world.run(2_000 * MS);
    for last in 1..=3 {
        world.change_address(0, ([10, 7, 7, last], 40_000).into());
        world.run_sending(3_000 * MS, 20 * MS, 100);
    }
    world.run(3_000 * MS);
    assert_eq!(world.attached(0), Some(Pipe::Channel));
    assert!(!world.saw(0, |event| matches!(event, Event::PeerLost)));
    world.assert_whole();
}

#[test]
fn a_silent_data_channel_is_left_and_taken_again() {
    let mut world = World::new(&link(), 1, &[true, true]);
    world.run(2_000 * MS);
    world.block_udp(0, 20_000 * MS);
    world.run_sending(6_000 * MS, 50 * MS, 100);
    assert_eq!(world.attached(0), Some(Pipe::Socket));
    world.run_sending(60_000 * MS, 200 * MS, 100);
    world.run(2_000 * MS);
    assert_eq!(world.attached(0), Some(Pipe::Channel));
    world.assert_whole();
}

#[test]
fn a_lost_websocket_is_resumed_without_loss() {
    let mut world = World::new(&link(), 1, &[false, false]);
    world.run(1_000 * MS);
    for _ in 0..5 {
        world.run_sending(330 * MS, 10 * MS, 1_000);
        world.cut_socket(0);
        world.run_sending(500 * MS, 10 * MS, 1_000);
        world.open_socket(0);
    }
    world.run(3_000 * MS);
    world.assert_whole();
}
