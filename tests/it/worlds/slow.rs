//! Receivers that do not read: what they miss is told, and nobody else notices.

use std::time::Duration;

use switchyard_loadtest::{
    browser::{Lane, Pipe},
    netsim::LinkConfig,
};

use crate::world::{Kind, MS, SECOND, Setup, World, client::What};

/// Three senders and four others in a room; client 0 reads nothing for a while if it `stalls`. Returns the world and
/// when the stall ended.
fn world_with(stalls: bool, webrtc: bool, messages: u32, size: usize) -> World {
    let mut setup = Setup::new(11);
    setup.webrtc = webrtc;
    if webrtc {
        setup.step = MS;
    }
    let mut world = World::new(setup);
    let link = LinkConfig { delay: 20 * MS, ..LinkConfig::default() };
    for _ in 0..7 {
        let mut kind = Kind { udp: webrtc.then(|| link.clone()), ..Kind::default() };
        kind.wire.capacity = 64 * 1024;
        let client = world.add_client(&kind);
        world.join(client, "room");
    }
    world.run_to(10 * SECOND, "all are in", |world| world.all_joined("room"));
    if webrtc {
        world.run_to(10 * SECOND, "all are on the data channel", |world| world.all_on(Pipe::Channel));
    }
    world.run(SECOND);
    let now = world.now;
    if stalls {
        world.on(0, |browser| browser.set_stalled(now, true));
    }
    world.held_most = 0;
    for number in 0..messages {
        for sender in 4..7 {
            let stream = (number % 3) as u16;
            world.send(sender, "room", Lane::Reliable, stream, size).unwrap();
            world.send(sender, "room", Lane::Lossy, 9, 200).unwrap();
        }
        world.run(10 * MS);
    }
    world
}

fn delays_of_others(world: &World) -> Vec<Duration> {
    let mut delays: Vec<Duration> = world.clients[1..].iter().flat_map(|client| client.delays()).collect();
    delays.sort();
    delays
}

/// Lets the staller read again, and everything come to rest.
fn awaken(world: &mut World) {
    let now = world.now;
    world.on(0, |browser| browser.set_stalled(now, false));
    world.run(5 * SECOND);
    for sender in 4..7 {
        for stream in 0..3 {
            world.send(sender, "room", Lane::Reliable, stream, 100).unwrap();
        }
    }
    world.run_to(20 * SECOND, "all is quiet", World::is_quiet);
    world.run(SECOND);
}

#[test]
fn a_stalled_websocket_delays_no_other_and_learns_exactly_what_it_missed() {
    let calm = world_with(false, false, 400, 4000);
    let mut world = world_with(true, false, 400, 4000);
    // Modelled pipes repeat exactly: not the distribution alone but every single delay is the same.
    assert_eq!(delays_of_others(&world), delays_of_others(&calm));
    let limit = world.setup.limits.announced.replay_limit_bytes;
    let most = limit + 64 * 1024 + calm.held_most;
    assert!(world.held_most <= most, "{} of {most}", world.held_most);
    awaken(&mut world);
    let verdict = world.verdict();
    assert!(verdict.told > 500 && world.clients[0].told_missing() == verdict.told, "{verdict:?}");
    println!(
        "staller: {} received, {} told missing; held at most {} KiB, {} KiB without it",
        world.clients[0].received(Lane::Reliable),
        verdict.told,
        world.held_most / 1024,
        calm.held_most / 1024
    );
}

#[test]
fn a_stall_within_the_replay_limit_loses_nothing() {
    let mut world = world_with(true, false, 60, 4000);
    awaken(&mut world);
    assert_eq!(world.verdict().told, 0);
}

#[test]
fn more_streams_than_gaps_are_kept_apart_for_are_told_for_the_room() {
    let mut world = world_with(true, false, 1, 100);
    for stream in 100..900 {
        world.send(4, "room", Lane::Reliable, stream, 6000).unwrap();
        world.run(5 * MS);
    }
    awaken(&mut world);
    for stream in 100..900 {
        world.send(4, "room", Lane::Reliable, stream, 20).unwrap();
        world.run(5 * MS);
    }
    world.run_to(20 * SECOND, "all is quiet", World::is_quiet);
    let whole_room = |what: &What| matches!(what, What::Gap { member: 0, stream: 0, .. });
    assert!(world.clients[0].saw(whole_room));
    assert!(world.verdict().told > 500);
}

#[test]
fn a_stalled_data_channel_delays_no_other_and_learns_exactly_what_it_missed() {
    let calm = world_with(false, true, 300, 4000);
    let mut world = world_with(true, true, 300, 4000);
    let [with, without] = [&world, &calm].map(delays_of_others);
    let at = |delays: &[Duration], share: f64| delays[((delays.len() - 1) as f64 * share) as usize];
    println!("delays of the others, with and without a staller:");
    for share in [0.5, 0.95, 0.99, 1.0] {
        println!("  {share}: {:?} {:?}", at(&with, share), at(&without, share));
        // The engine's own random numbers and the steps of time: two of these.
        assert!(at(&with, share) <= at(&without, share) + 2 * MS);
    }
    let limit = world.setup.limits.announced.replay_limit_bytes;
    assert!(world.held_most <= limit + 64 * 1024 + 2 * calm.held_most, "{}", world.held_most);
    awaken(&mut world);
    let verdict = world.verdict();
    assert!(verdict.told > 100, "{verdict:?}");
    println!(
        "staller: {} received, {} told missing; held at most {} KiB, {} KiB without it",
        world.clients[0].received(Lane::Reliable),
        verdict.told,
        world.held_most / 1024,
        calm.held_most / 1024
    );
}
