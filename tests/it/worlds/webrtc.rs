//! Worlds over the real engine at both ends: DTLS, SCTP and ICE in virtual time.

use std::{
    sync::Arc,
    task::{Poll, Waker},
    time::Duration,
};

use bytes::BytesMut;
use switchyard::{
    engine::{
        Command, SocketId,
        ice::{Credentials, nominating_request},
        outbox::{Outbox, Outgoing},
    },
    names::SessionId,
};
use switchyard_loadtest::{
    browser::{Event, Lane, Pipe},
    netsim::LinkConfig,
    rng::for_seeds,
};
use switchyard_signaling::{
    frame::{self, Target},
    message::{ClientText, Description, ServerText},
};

use crate::world::{Kind, MS, SECOND, Setup, World, client::What, room_on};

fn link(delay: u32, loss: f64) -> LinkConfig {
    LinkConfig {
        delay: delay * MS,
        jitter: ((delay / 2) * MS).into(),
        reorder: true,
        loss: loss.into(),
        ..LinkConfig::default()
    }
}

fn setup(seed: u64) -> Setup {
    Setup { step: MS, ..Setup::new(seed) }
}

/// Clients in one room, all on the data channel.
fn on_channels(setup: Setup, link: &LinkConfig, clients: usize, room: &str) -> World {
    let mut world = World::new(setup);
    for _ in 0..clients {
        let kind = Kind { udp: Some(link.clone()), ..Kind::default() };
        let client = world.add_client(&kind);
        world.join(client, room);
    }
    world.run_to(20 * SECOND, "all are on the data channel", |world| {
        world.all_joined(room) && world.all_on(Pipe::Channel)
    });
    world
}

#[test]
fn fifty_peers_in_a_room_at_five_percent_loss_miss_nothing() {
    let mut world = World::new(setup(1));
    for _ in 0..50 {
        let kind = Kind { udp: Some(link(20, 0.05)), ..Kind::default() };
        let client = world.add_client(&kind);
        world.join(client, "room");
    }
    world.run_to(10 * SECOND, "all have been on the data channel", |world| {
        let attached = |what: &What| matches!(what, What::Other(Event::Attached(Pipe::Channel)));
        world.clients.iter().all(|client| client.saw(attached))
    });
    for number in 0..12 {
        for client in 0..50 {
            let size = if (number + client) % 25 == 0 { 20_000 } else { 120 };
            world.send(client, "room", Lane::Reliable, (client % 3) as u16, size).unwrap();
            world.send(client, "room", Lane::Lossy, 1, 80).unwrap();
            if client % 10 == 0 {
                world.run(10 * MS);
            }
        }
        world.run(50 * MS);
    }
    world.run_to(60 * SECOND, "all is quiet", World::is_quiet);
    world.run(SECOND);
    let verdict = world.verdict();
    assert_eq!((verdict.reliable, verdict.told), (50 * 49 * 12, 0));
    let sent = 49 * world.sent.total(Lane::Lossy) as u64;
    let lost = |what: &What| matches!(what, What::Other(Event::PeerLost));
    let left: usize = world
        .clients
        .iter()
        .map(|client| client.history.iter().filter(|seen| lost(&seen.what)).count())
        .sum();
    println!("data channels left in {:?}: {left} of 50", world.elapsed());
    let share = verdict.lossy as f64 / sent as f64;
    println!(
        "reliable {} of {}; lossy {} of {sent}: {share:.3} (0.95² = 0.9025)",
        verdict.reliable,
        50 * 49 * 12,
        verdict.lossy
    );
    assert!((0.85..0.94).contains(&share));
}

#[test]
fn pipe_changes_at_random_instants_lose_and_double_nothing() {
    for_seeds(6, |seed| {
        let mut setup = setup(seed);
        setup.shards = 2;
        let room = room_on((seed % 2) as u16, 2);
        let mut world = on_channels(setup, &link(20, 0.02), 4, &room);
        // One session's home is the other shard than the room's.
        let far = world.add_client(&Kind { udp: Some(link(10, 0.0)), ..Kind::default() });
        world.join(far, &room_on(1 - (seed % 2) as u16, 2));
        world.run(SECOND);
        world.join(far, &room);
        world.run(SECOND);
        let mut moves = [0; 5];
        for _ in 0..250 {
            let (client, now) = (world.rng.below(5) as usize, world.now);
            let action = world.rng.below(24) as usize;
            match action {
                0 => world.on(client, |browser| browser.attach(now, Pipe::Socket)),
                1 => world.on(client, |browser| browser.attach(now, Pipe::Channel)),
                2 => world.open(client),
                3 => {
                    // Both at once.
                    world.open(client);
                    world.on(client, |browser| browser.attach(now, Pipe::Channel));
                }
                4 => world.on(client, |browser| browser.offer(now)),
                _ => {
                    let size = if world.rng.chance(0.1) { 40_000 } else { 300 };
                    let stream = world.rng.below(3) as u16;
                    let _ = world.send(client, &room, Lane::Reliable, stream, size);
                }
            }
            if action < 5 {
                moves[action] += 1;
            }
            let pause = world.rng.below(25_000);
            world.run(Duration::from_micros(pause));
        }
        world.run_to(60 * SECOND, "all is quiet", World::is_quiet);
        world.run(SECOND);
        let verdict = world.verdict();
        assert_eq!(verdict.told, 0, "seed {seed}");
        println!("seed {seed}: {moves:?} moves, {} messages received", verdict.reliable);
    });
}

#[test]
fn a_stall_across_pipe_changes_beyond_the_limit_is_told_exactly() {
    let mut world = on_channels(setup(3), &link(10, 0.0), 3, "room");
    let now = world.now;
    world.on(0, |browser| browser.set_stalled(now, true));
    for number in 0..600 {
        world.send(1, "room", Lane::Reliable, number % 4, 4000).unwrap();
        world.run(5 * MS);
    }
    world.cut(0, Duration::ZERO);
    world.open(0);
    let now = world.now;
    world.on(0, |browser| browser.set_stalled(now, false));
    world.run(2 * SECOND);
    for stream in 0..4 {
        world.send(1, "room", Lane::Reliable, stream, 100).unwrap();
    }
    world.run_to(30 * SECOND, "all is quiet", World::is_quiet);
    let verdict = world.verdict();
    assert!(verdict.told > 50, "{verdict:?}");
}

/// When a message sent now each way has arrived, both.
fn round(world: &mut World, a: usize, b: usize) -> Duration {
    let begin = world.elapsed();
    for client in [a, b] {
        world.send(client, "room", Lane::Reliable, 1, 100).unwrap();
    }
    let came = move |world: &World, client: usize| {
        let like = |what: &What| matches!(what, What::Message { lane: Lane::Reliable, stamp: Some(stamp), .. } if stamp.scheduled >= begin);
        world.clients[client].saw(like)
    };
    world.run_to(8 * SECOND, "traffic follows in both directions", move |world| {
        came(world, a) && came(world, b)
    })
}

#[test]
fn traffic_follows_a_rebound_nat_both_ways_within_a_check_interval() {
    let mut world = on_channels(setup(4), &link(20, 0.0), 2, "room");
    world.run(3 * SECOND);
    for _ in 0..4 {
        let usual = round(&mut world, 0, 1);
        world.rebind(0);
        let after = round(&mut world, 0, 1);
        println!("both ways in {usual:?}, after the address changed in {after:?}");
        // Chromium checks its pair every 2.5 s; the simulated browser at once.
        assert!(after < 2500 * MS);
        world.run(700 * MS);
    }
    for client in &world.clients {
        assert!(!client.saw(|what| matches!(what, What::Other(Event::PeerLost))));
        assert_eq!(client.browser.attached(), Some(Pipe::Channel));
    }
    world.verdict();
}

#[test]
fn an_ice_restart_keeps_dtls_and_sctp() {
    let mut world = on_channels(setup(5), &link(20, 0.0), 2, "room");
    world.run(SECOND);
    let wire = world.clients[0].wire.as_mut().unwrap();
    let (socket, first) = (wire.id, wire.answer.clone().unwrap());
    wire.answers = Some(Vec::new());
    let offer = wire.offer.clone().unwrap();
    let peers = world.population().3;
    let remote = Credentials { ufrag: "restarted".into(), pwd: "a password of more than 22 bytes".into() };
    let fresh = with_credentials(&offer.sdp, &remote);
    let offer = Description { pc: offer.pc, sdp: fresh };
    world.handle_on_shard(0, Command::Offer(socket, offer));
    world.run(100 * MS);
    let second = world.clients[0].wire.as_mut().unwrap().answers.take().unwrap().pop().unwrap();
    let [old, new] = [&first, &second].map(|sdp| credentials(sdp));
    assert_ne!(old.ufrag, new.ufrag);
    let fingerprint =
        |sdp: &str| sdp.lines().find(|line| line.starts_with("a=fingerprint")).unwrap().to_owned();
    assert_eq!(fingerprint(&first), fingerprint(&second));
    // Until the first check of the new generation everything goes the old way.
    round(&mut world, 0, 1);
    // What is lost on the way to the old address would come a second later; the acknowledgements are to be through.
    world.run(SECOND);
    // The browser goes on at another address, and its checks carry the new credentials.
    world.rebind(0);
    let from = world.clients[0].address;
    let check = nominating_request(&new, &remote, b"twelve bytes");
    world.inject(0, from, &check);
    let took = round(&mut world, 0, 1);
    println!("both ways {took:?} after an ICE restart");
    assert!(took < 500 * MS);
    assert_eq!(world.population().3, peers);
    let connected = |what: &What| {
        matches!(what, What::Other(Event::Peer(switchyard_loadtest::peer::PeerEvent::DtlsConnected)))
    };
    let handshakes = world.clients[0].history.iter().filter(|seen| connected(&seen.what)).count();
    assert_eq!(handshakes, 1);
    world.verdict();
}

/// The credentials in a description.
pub(crate) fn credentials(sdp: &str) -> Credentials {
    let value = |name: &str| sdp.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    Credentials { ufrag: value("a=ice-ufrag:"), pwd: value("a=ice-pwd:") }
}

/// A description with other credentials.
pub(crate) fn with_credentials(sdp: &str, credentials: &Credentials) -> String {
    let line = |line: &str| {
        if line.starts_with("a=ice-ufrag:") {
            format!("a=ice-ufrag:{}\r\n", credentials.ufrag)
        } else if line.starts_with("a=ice-pwd:") {
            format!("a=ice-pwd:{}\r\n", credentials.pwd)
        } else {
            format!("{line}\r\n")
        }
    };
    sdp.lines().map(line).collect()
}

#[test]
fn a_silent_data_channel_is_left_for_the_websocket_and_taken_again() {
    let mut world = on_channels(setup(6), &link(20, 0.0), 2, "room");
    let host = world.clients[0].host();
    let until = world.now + 20 * SECOND;
    world.network.take_down(host, world.now, until);
    let begin = world.now;
    let mut longest = Duration::ZERO;
    while world.now < begin + 12 * SECOND {
        longest = longest.max(round(&mut world, 0, 1));
        world.run(100 * MS);
    }
    println!("longest interruption while UDP was blocked: {longest:?}");
    assert!(longest < 6 * SECOND);
    assert_eq!(world.clients[0].browser.attached(), Some(Pipe::Socket));
    world.run_to(60 * SECOND, "the data channel is back", |world| {
        world.clients[0].browser.attached() == Some(Pipe::Channel)
    });
    round(&mut world, 0, 1);
    world.run(SECOND);
    world.verdict();
}

/// Another page goes on with the session while frames of the last one are under way on its data channel: their numbers are
/// those of what the new page sends, which must not be taken for repetitions (LAD6, MSG1).
#[test]
fn what_the_last_page_has_under_way_is_void_when_another_takes_the_session_over() {
    let mut world = on_channels(setup(8), &link(100, 0.0), 2, "room");
    let ClientText::Hello { resume: Some(resume), .. } =
        ClientText::parse(&world.clients[0].browser.hello()).unwrap()
    else {
        panic!("a session");
    };
    let before = world.clients[1].received(Lane::Reliable);
    world.send(0, "room", Lane::Reliable, 1, 100).unwrap();
    world.run(20 * MS);

    let session = SessionId::from_wire(&resume.session).unwrap();
    let (outbox, socket) = (Arc::new(Outbox::default()), SocketId(1 << 40));
    let command =
        Command::Resume { socket, outbox: outbox.clone(), session, ticket: resume.ticket, takes_over: true };
    world.handle_on_shard(0, command);
    let Poll::Ready(Outgoing::Text(welcome)) = outbox.poll(Waker::noop()) else { panic!("a welcome") };
    let ServerText::Welcome { resumed: true, ack: Some(ack), .. } = serde_json::from_str(&welcome).unwrap()
    else {
        panic!("{welcome}");
    };
    let mut frames = BytesMut::new();
    frame::put_attach(&mut frames, 65_536, 0);
    world.handle_on_shard(0, Command::Frames(socket, frames.split().freeze()));
    world.run(SECOND);
    assert_eq!(world.clients[1].received(Lane::Reliable), before, "what came of the last page is void");

    let payload = b"of the new page";
    let handle = world.clients[0].rooms["room"];
    let first = Some((&Target::Room, payload.len()));
    frame::put_chunk(&mut frames, frame::Kind::Data, true, (ack + 1, 0), handle, 0, 1, first, true, payload);
    world.handle_on_shard(0, Command::Frames(socket, frames.freeze()));
    world.run(SECOND);
    assert_eq!(
        world.clients[1].received(Lane::Reliable),
        before + 1,
        "what the new page sends is no repetition"
    );
}
