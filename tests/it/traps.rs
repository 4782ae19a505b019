//! What the WebRTC engine would get wrong if nobody looked after it, shown with the real engine at both ends: the
//! numbered traps of the design. Number 12, a path that changes without an ICE restart, is in `worlds/webrtc.rs`;
//! number 13, fragments without bound, in `hostile.rs`.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use switchyard::{
    engine::{demux, ice::nominating_request, path::Path},
    names::ShardId,
};
use switchyard_loadtest::{
    browser::{Event, Lane, Pipe},
    netsim::LinkConfig,
    peer::{Channel, PeerEvent},
};

use crate::{
    world::{Kind, MS, SECOND, Setup, World, client::What, room_on},
    worlds::webrtc::credentials,
};

fn link(delay: Duration) -> LinkConfig {
    LinkConfig { delay, ..LinkConfig::default() }
}

fn kind(delay: Duration) -> Kind {
    let mut kind = Kind { udp: Some(link(delay)), ..Kind::default() };
    kind.wire.delay = delay;
    kind
}

/// How long after its WebSocket opened each step was done.
fn stages(world: &World, client: usize) -> [Duration; 4] {
    let first = |like: fn(&PeerEvent) -> bool| {
        let like = |what: &What| matches!(what, What::Other(Event::Peer(event)) if like(event));
        world.clients[client].first(Duration::ZERO, like).unwrap()
    };
    let attached = |what: &What| matches!(what, What::Other(Event::Attached(Pipe::Channel)));
    [
        first(|event| *event == PeerEvent::IceConnected),
        first(|event| *event == PeerEvent::DtlsConnected),
        first(|event| *event == PeerEvent::Open(Channel::Reliable)),
        world.clients[client].first(Duration::ZERO, attached).unwrap(),
    ]
}

fn connect(delay: Duration, edit_offer: Option<fn(String) -> String>) -> World {
    let mut setup = Setup::new(1);
    setup.step = Duration::from_micros(100);
    let mut world = World::new(setup);
    let mut kind = kind(delay);
    kind.wire.edit_offer = edit_offer;
    let client = world.add_client(&kind);
    world.join(client, "room");
    world.run_to(5 * SECOND, "the data channel is attached", |world| world.all_on(Pipe::Channel));
    world
}

/// Trap 1. Eleven round trips: hello, join, a check and its nomination, three of DTLS with its cookie, two of SCTP, a PING that
/// proves the channel, ATTACH.
#[test]
fn a_client_that_waits_for_the_answer_to_its_check_connects_by_round_trips_alone() {
    for delay in [5 * MS, 50 * MS] {
        let world = connect(delay, None);
        let [ice, dtls, open, attached] = stages(&world, 0);
        println!(
            "one way {delay:?}: ICE {ice:?}, DTLS {dtls:?}, channel open {open:?}, attached {attached:?}"
        );
        let trip = 2 * delay;
        assert!(ice <= 4 * trip + 2 * MS);
        assert!(attached <= 11 * trip + 2 * MS);
    }
}

/// Trap 1 again: the response leaves in the very turn that took the check.
#[test]
fn a_nominating_check_is_answered_at_once_and_dtls_is_taken_from_then_on() {
    let mut world = connect(MS, None);
    let wire = world.clients[0].wire.as_ref().unwrap();
    let [local, remote] =
        [wire.answer.as_ref().unwrap(), &wire.offer.as_ref().unwrap().sdp].map(|sdp| credentials(sdp));
    let from: SocketAddr = ([10, 200, 0, 1], 1).into();
    world.inject(0, from, &nominating_request(&local, &remote, b"twelve bytes"));
    world.run(Duration::from_nanos(1));
    let responses = world.strays.iter().filter(|(to, datagram)| *to == from && datagram[..2] == [0x01, 0x01]);
    assert_eq!(responses.count(), 1);
}

/// Trap 2, and what it is about: messages as long as the announced size pass both ways.
#[test]
fn answers_announce_the_message_size_and_long_messages_pass_both_ways() {
    let mut setup = Setup::new(2);
    setup.step = MS;
    let mut world = World::new(setup);
    for _ in 0..2 {
        let client = world.add_client(&kind(5 * MS));
        world.join(client, "room");
    }
    world.run_to(5 * SECOND, "both are on the data channel", |world| world.all_on(Pipe::Channel));
    let answer = world.clients[0].wire.as_ref().unwrap().answer.clone().unwrap();
    assert!(answer.lines().any(|line| line.trim() == "a=max-message-size:20480"), "{answer}");
    for client in 0..2 {
        world.send(client, "room", Lane::Reliable, 1, 256 * 1024).unwrap();
        world.send(client, "room", Lane::Lossy, 1, 15 * 1024).unwrap();
    }
    world.run(3 * SECOND);
    let verdict = world.verdict();
    assert_eq!((verdict.reliable, verdict.lossy), (2, 2));
}

/// Trap 3: no name is looked up, so none is waited for.
#[test]
fn an_offer_with_names_for_candidates_takes_no_longer() {
    let with_names = |sdp: String| {
        let names = (0..20).map(|number| {
            format!(
                "a=candidate:{number} 1 udp 2113937151 0c1d3b1e-57ab-4d77-8f4b-0000000000{number:02}.local 5353 typ host\r\n"
            )
        });
        sdp.lines().map(|line| format!("{line}\r\n")).chain(names).collect()
    };
    let (plain, named) = (connect(10 * MS, None), connect(10 * MS, Some(with_names)));
    assert!(named.clients[0].wire.as_ref().unwrap().offer.as_ref().unwrap().sdp.contains(".local"));
    let [plain, named] = [&plain, &named].map(|world| stages(world, 0)[3]);
    println!("attached after {plain:?}, with names after {named:?}");
    assert!(named <= plain + 2 * MS);
}

/// Trap 4: the engine would take whatever it is given.
#[test]
fn what_is_sent_to_a_peer_that_acknowledges_nothing_stays_bounded() {
    let mut setup = Setup::new(4);
    setup.step = MS;
    let mut world = World::new(setup);
    for _ in 0..3 {
        let client = world.add_client(&kind(5 * MS));
        world.join(client, "room");
    }
    world.run_to(5 * SECOND, "all are on the data channel", |world| world.all_on(Pipe::Channel));
    world.run(SECOND);
    // Its WebSocket too, so that there is nowhere to go; and the session lives for longer than the test.
    world.cut(0, Duration::ZERO);
    let (host, now) = (world.clients[0].host(), world.now);
    world.network.take_down(host, now, now + 1000 * SECOND);
    world.batches = Some(Vec::new());
    world.held_most = 0;
    for _ in 0..400 {
        world.send(1, "room", Lane::Reliable, 1, 16_000).unwrap();
        world.run(10 * MS);
    }
    let gone = Path::Udp(world.clients[0].address);
    let on_wire: usize =
        world.batches.iter().flatten().filter(|(_, path, _)| *path == gone).map(|(.., bytes)| bytes).sum();
    println!("6.1 MiB sent; {} KiB went out, held at most {} KiB", on_wire / 1024, world.held_most / 1024);
    let limit = world.setup.limits.announced.replay_limit_bytes;
    assert!(world.held_most < limit + 256 * 1024);
    // One SCTP queue and its retransmissions.
    assert!(on_wire < 256 * 1024);
    world.run(SECOND);
    world.verdict_of(&[false, true, true]);
}

/// Trap 7: a datagram that comes to the wrong shard can be told whose it is.
#[test]
fn the_ufrag_in_an_answer_names_the_shard() {
    for shard in 0..3 {
        let mut setup = Setup::new(7);
        setup.shards = 3;
        let mut world = World::new(setup);
        let client = world.add_client(&kind(MS));
        world.join(client, &room_on(shard, 3));
        world.run_to(5 * SECOND, "the data channel is attached", |world| world.all_on(Pipe::Channel));
        let answer = world.clients[0].wire.as_ref().unwrap().answer.clone().unwrap();
        let ufrag = credentials(&answer).ufrag;
        assert_eq!(demux::shard_of_ufrag(&ufrag).map(ShardId), Some(ShardId(shard)), "{ufrag}");
    }
}

/// Trap 8: what one turn has for a peer leaves in one piece, however the messages for the peers interleave.
#[test]
fn the_packets_for_one_peer_lie_together_after_a_burst() {
    let mut setup = Setup::new(8);
    setup.step = MS;
    let mut world = World::new(setup);
    for _ in 0..12 {
        let client = world.add_client(&kind(5 * MS));
        world.join(client, "room");
    }
    world.run_to(5 * SECOND, "all are on the data channel", |world| world.all_on(Pipe::Channel));
    world.run(2 * SECOND);
    world.batches = Some(Vec::new());
    for _ in 0..8 {
        world.send(0, "room", Lane::Reliable, 1, 900).unwrap();
        world.send(1, "room", Lane::Lossy, 1, 900).unwrap();
    }
    world.run(100 * MS);
    let batches = world.batches.take().unwrap();
    let flushes: BTreeSet<u64> = batches.iter().map(|(flush, ..)| *flush).collect();
    let mut largest = 0;
    for flush in flushes {
        let paths = batches.iter().filter(|(of, ..)| *of == flush).map(|(_, path, _)| *path);
        let mut runs: Vec<Path> = paths.collect();
        runs.dedup();
        let different: BTreeSet<Path> = runs.iter().copied().collect();
        assert_eq!(runs.len(), different.len(), "a peer's packets lie apart: {runs:?}");
        largest = largest.max(different.len());
    }
    assert!(largest >= 10, "the burst reached {largest} peers in one flush");
    world.verdict();
}
