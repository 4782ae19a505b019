//! Worlds whose only pipes are modelled WebSockets: a function of their seed, and quick.

use switchyard_loadtest::{browser::Lane, rng::for_seeds};

use crate::world::{
    Kind, MS, SECOND, Setup, World, checker,
    client::{Seen, What},
    room_on,
};

/// Clients in one or two rooms on two shards, whose WebSockets break, are replaced and come back at random.
fn restless(seed: u64) -> World {
    let mut setup = Setup::new(seed);
    setup.shards = 2;
    setup.webrtc = false;
    let rooms = [room_on(0, 2), room_on(1, 2)];
    let mut world = World::new(setup);
    let clients = 3 + world.rng.below(3) as usize;
    for _ in 0..clients {
        let mut kind = Kind::default();
        kind.wire.delay = MS * (1 + world.rng.below(60) as u32);
        kind.wire.jitter = MS * world.rng.below(20) as u32;
        kind.wire.capacity = 2000 << world.rng.below(8);
        kind.wire.direct = world.rng.chance(0.5);
        let client = world.add_client(&kind);
        let first = world.rng.below(2) as usize;
        world.join(client, &rooms[first]);
        world.join(client, &rooms[1 - first]);
    }
    world.run_to(5 * SECOND, "everybody is in both rooms", |world| {
        rooms.iter().all(|room| world.all_joined(room))
    });
    for _ in 0..400 {
        let client = world.rng.below(clients as u64) as usize;
        match world.rng.below(20) {
            0 => world.cut(client, 3 * SECOND),
            1 => world.open(client),
            2 | 3 if world.clients[client].wire.is_none() => world.open(client),
            _ => {
                let room = &rooms[world.rng.below(2) as usize];
                let stream = world.rng.below(3) as u16;
                let size = match world.rng.below(10) {
                    0 => 16 + world.rng.below(60_000) as usize,
                    _ => 16 + world.rng.below(300) as usize,
                };
                let lane = if world.rng.chance(0.2) { Lane::Lossy } else { Lane::Reliable };
                let lossy_size = size.min(1000);
                let size = if lane == Lane::Lossy { lossy_size } else { size };
                let _ = world.send(client, room, lane, stream, size);
            }
        }
        let pause = world.rng.below(30_000);
        world.run(std::time::Duration::from_micros(pause));
        // Nobody stays away for longer than a session lives.
        if world.rng.chance(0.1) {
            for client in 0..clients {
                if world.clients[client].wire.is_none() && world.rng.chance(0.5) {
                    world.open(client);
                }
            }
        }
    }
    for client in 0..clients {
        if world.clients[client].wire.is_none() {
            world.open(client);
        }
    }
    world.run_to(30 * SECOND, "all is quiet", World::is_quiet);
    world.run(SECOND);
    world
}

#[test]
fn websockets_that_break_and_resume_at_random_lose_and_double_nothing() {
    let counted = std::cell::Cell::new((0, 0));
    for_seeds(150, |seed| {
        let world = restless(seed);
        let verdict = world.verdict();
        assert_eq!(verdict.told, 0, "seed {seed}: nothing was beyond the replay limit");
        counted.set((counted.get().0 + 1, counted.get().1 + verdict.reliable));
    });
    let (worlds, messages) = counted.get();
    println!("{worlds} worlds, {messages} reliable messages received, none lost or doubled");
}

#[test]
fn a_session_is_told_credentials_of_the_hour_when_it_is_made_and_when_it_resumes() {
    let expiry = |world: &World| {
        let ice = world.clients[0].browser.ice().expect("servers were told");
        let (expiry, user) = ice.ice_servers[1].username.as_ref().unwrap().split_once(':').unwrap();
        assert_eq!((user, ice.ice_ttl_ms), ("tenant:u0", 3_600_000));
        expiry.parse::<u64>().unwrap() - 3600
    };
    let mut world = World::new(Setup { webrtc: false, ..Setup::new(1) });
    let client = world.add_client(&Kind::default());
    world.join(client, "room");
    world.run_to(SECOND, "the client is in the room", |world| world.all_joined("room"));
    assert_eq!(expiry(&world), 1_700_000_000);
    world.run(1000 * SECOND);
    world.cut(client, SECOND);
    world.run(2 * SECOND);
    world.open(client);
    world.run(SECOND);
    assert!((1_700_001_000..1_700_001_010).contains(&expiry(&world)), "{}", expiry(&world));
}

#[test]
fn a_world_of_modelled_pipes_is_a_function_of_its_seed() {
    let tell = |seed| {
        let world = restless(seed);
        let histories: Vec<String> =
            world.clients.iter().map(|client| format!("{:?}", client.history)).collect();
        histories
    };
    assert_eq!(tell(7), tell(7));
    assert_ne!(tell(7), tell(8));
}

#[test]
fn the_checker_finds_each_fault_in_a_history() {
    type Fault = fn(&mut Vec<Seen>, usize);
    let faults: [(&str, Fault); 6] = [
        ("lost", |history, at| drop(history.remove(at))),
        ("doubled", |history, at| history.insert(at, history[at].clone())),
        ("doubled much later", |history, at| history.push(history[at].clone())),
        ("altered", |history, at| {
            if let What::Message { intact, .. } = &mut history[at].what {
                *intact = false;
            }
        }),
        ("from another member", |history, at| {
            if let What::Message { member, .. } = &mut history[at].what {
                *member += 1;
            }
        }),
        ("told missing and there", |history, at| {
            if let What::Message { room, member, stream, .. } = history[at].what {
                let gap = What::Gap { room, member, stream, count: 1 };
                history.insert(at, Seen { at: history[at].at, what: gap });
            }
        }),
    ];
    let mut world = restless(3);
    world.verdict();
    let complete = vec![true; world.clients.len()];
    let is_message = |seen: &Seen| matches!(seen.what, What::Message { lane: Lane::Reliable, .. });
    for client in 0..world.clients.len() {
        let whole = world.clients[client].history.clone();
        let messages: Vec<usize> = (0..whole.len()).filter(|&at| is_message(&whole[at])).collect();
        let last = whole.len() - 1;
        for at in messages.into_iter().step_by(9).filter(|&at| at != last) {
            for (name, fault) in faults {
                fault(&mut world.clients[client].history, at);
                let found = checker::check(&world.clients, &world.sent, &complete);
                assert!(found.is_err(), "client {client}, {at}: {name}");
                world.clients[client].history.clone_from(&whole);
            }
        }
    }
}
