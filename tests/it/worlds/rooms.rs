//! Rooms on two shards: who comes, goes, is refused and is forgotten.

use std::time::Duration;

use switchyard_loadtest::{
    browser::{Event, Lane},
    rng::for_seeds,
};
use switchyard_signaling::{
    Code,
    frame::Target,
    message::{ClientControl, ServerControl},
};

use crate::world::{Kind, MS, SECOND, Setup, World, client::What, room_on};

fn world(seed: u64) -> World {
    let mut setup = Setup::new(seed);
    setup.shards = 2;
    setup.webrtc = false;
    // Far longer than between two threads, so that much happens while a letter is under way.
    setup.letters = 30 * MS;
    World::new(setup)
}

fn near() -> Kind {
    let mut kind = Kind::default();
    kind.wire.delay = MS;
    kind
}

fn left(code: Code) -> impl Fn(&What) -> bool {
    move |what| matches!(what, What::Left { code: told, .. } if *told == code)
}

#[test]
fn one_session_is_in_rooms_on_two_shards_and_leaves_one_of_them() {
    let mut world = world(1);
    let rooms = [room_on(0, 2), room_on(1, 2), format!("{}b", room_on(1, 2))];
    for _ in 0..3 {
        let client = world.add_client(&near());
        for room in &rooms {
            world.join(client, room);
        }
    }
    world.run_to(SECOND, "all are in", |world| rooms.iter().all(|room| world.all_joined(room)));
    assert_eq!(world.population(), (3, 9, 3, 0));
    for client in 0..3 {
        for room in &rooms {
            world.send(client, room, Lane::Reliable, 1, 100).unwrap();
            world.send(client, room, Lane::Lossy, 1, 100).unwrap();
        }
    }
    world.run(SECOND);
    world.leave(0, &rooms[1]);
    world.run_to(SECOND, "it has left", |world| world.clients[0].saw(left(Code::Left)));
    for client in 1..3 {
        world.send(client, &rooms[1], Lane::Reliable, 1, 100).unwrap();
    }
    world.send(0, &rooms[2], Lane::Reliable, 1, 100).unwrap();
    world.run(SECOND);
    let verdict = world.verdict();
    assert_eq!((verdict.reliable, verdict.lossy), (18 + 2 + 2, 18));
    assert_eq!(world.population(), (3, 8, 3, 0));
}

#[test]
fn messages_to_users_and_topics_reach_those_and_nobody_else() {
    let mut world = world(2);
    let room = room_on(1, 2);
    for _ in 0..4 {
        let client = world.add_client(&near());
        world.join(client, &room);
    }
    world.run_to(SECOND, "all are in", |world| world.all_joined(&room));
    let now = world.now;
    let handle = world.clients[2].rooms[&room];
    world.on(2, |browser| {
        let topics = vec!["news".to_owned()];
        let id = browser.request();
        browser.control(now, handle, &ClientControl::Subscribe { id, topics }).unwrap();
    });
    world.run(200 * MS);
    world.sent.audience.insert(7, [1, 3].into());
    world.sent.audience.insert(8, [2].into());
    let users = Target::Users(vec!["u1".into(), "u3".into()]);
    world.send_to(0, &room, Lane::Reliable, 7, 50, users.clone()).unwrap();
    world.send_to(0, &room, Lane::Lossy, 7, 50, users).unwrap();
    world.send_to(0, &room, Lane::Reliable, 8, 50_000, Target::Topic("news".into())).unwrap();
    world.run(SECOND);
    let verdict = world.verdict();
    assert_eq!((verdict.reliable, verdict.lossy), (3, 2));
}

#[test]
fn a_viewer_is_refused_and_reads_on() {
    let mut world = world(3);
    let room = room_on(1, 2);
    let [viewer, editor] = [0, 1].map(|_| world.add_client(&near()));
    world.join_as(viewer, &room, "viewer", 60 * SECOND);
    world.join(editor, &room);
    world.run_to(SECOND, "both are in", |world| world.all_joined(&room));
    // Not logged as sent: nobody must receive it.
    let audience = std::collections::BTreeSet::new();
    world.sent.audience.insert(9, audience);
    world.send(viewer, &room, Lane::Reliable, 9, 100).unwrap();
    world.send(editor, &room, Lane::Reliable, 1, 100).unwrap();
    world.run(SECOND);
    assert_eq!(world.clients[viewer].refusals(), [Code::Forbidden]);
    assert_eq!(world.verdict().reliable, 1);
}

#[test]
fn membership_ends_with_the_token_unless_a_newer_one_came() {
    for refreshed in [false, true] {
        let mut world = world(4);
        let room = room_on(1, 2);
        let [short, other] = [0, 1].map(|_| world.add_client(&near()));
        // The home shard of both is that of another room.
        for client in [short, other] {
            world.join(client, &room_on(0, 2));
        }
        world.run(200 * MS);
        world.join_as(short, &room, "editor", 2 * SECOND);
        world.join(other, &room);
        world.run(SECOND);
        if refreshed {
            world.join_as(short, &room, "editor", 60 * SECOND);
        }
        world.run(3 * SECOND);
        assert_eq!(world.clients[short].saw(left(Code::TokenExpired)), !refreshed);
        world.send(other, &room, Lane::Reliable, 1, 100).unwrap();
        world.run(SECOND);
        assert_eq!(world.verdict().reliable, u64::from(refreshed));
    }
}

#[test]
fn a_token_refreshed_at_the_very_end_leaves_no_doubt_about_who_is_in() {
    for_seeds(150, |seed| {
        let mut world = world(seed);
        let room = room_on(1, 2);
        let [short, other] = [0, 1].map(|_| world.add_client(&near()));
        for client in [short, other] {
            world.join(client, &room_on(0, 2));
        }
        world.run(200 * MS);
        world.join_as(short, &room, "editor", SECOND);
        world.join(other, &room);
        let until_end = SECOND + 10 * MS - Duration::from_micros(world.rng.below(80_000));
        world.run(until_end);
        world.join_as(short, &room, "editor", 60 * SECOND);
        world.run(500 * MS);
        assert_in_or_out(&mut world, short, other, &room);
    });
}

#[test]
fn leaving_and_joining_at_once_leaves_no_doubt_about_who_is_in() {
    for_seeds(150, |seed| {
        let mut world = world(seed);
        let room = room_on(1, 2);
        let [restless, other] = [0, 1].map(|_| world.add_client(&near()));
        for client in [restless, other] {
            world.join(client, &room_on(0, 2));
            world.run(100 * MS);
            world.join(client, &room);
        }
        world.run(500 * MS);
        for _ in 0..world.rng.below(4) + 1 {
            if world.clients[restless].rooms.contains_key(&room) {
                world.leave(restless, &room);
            }
            let pause = world.rng.below(60_000);
            world.run(Duration::from_micros(pause));
            world.join(restless, &room);
            let pause = world.rng.below(60_000);
            world.run(Duration::from_micros(pause));
        }
        world.run(500 * MS);
        assert_in_or_out(&mut world, restless, other, &room);
    });
}

/// The client believes to be in the room exactly if it is.
fn assert_in_or_out(world: &mut World, client: usize, other: usize, room: &str) {
    let seed = world.setup.seed;
    let is_in = world.clients[client].rooms.contains_key(room);
    let before = world.clients[client].history.len();
    world.send(other, room, Lane::Reliable, 1, 100).unwrap();
    world.run(500 * MS);
    let news = &world.clients[client].history[before..];
    let got = news.iter().any(|seen| matches!(seen.what, What::Message { .. }));
    assert_eq!(is_in, got, "seed {seed}: the client believes the first, the second is true");
    let (_, members, ..) = world.population();
    assert_eq!(members, 3 + usize::from(is_in), "seed {seed}: members of both rooms");
    world.verdict();
}

#[test]
fn a_session_that_ends_while_its_join_is_under_way_leaves_no_ghost_member() {
    for_seeds(150, |seed| {
        let mut world = world(seed);
        let (home, room) = (room_on(0, 2), room_on(1, 2));
        let witness = world.add_client(&near());
        world.join(witness, &room);
        let guest = world.add_client(&near());
        world.join(guest, &home);
        world.run(100 * MS);
        world.join(guest, &room);
        let pause = world.rng.below(70_000);
        world.run(Duration::from_micros(pause));
        world.on(guest, switchyard_loadtest::browser::Browser::bye);
        world.run(SECOND);
        assert_eq!(world.population(), (1, 1, 1, 0), "seed {seed}");
        let count = |like: fn(&ServerControl) -> bool| {
            let is = |what: &What| matches!(what, What::Other(Event::Control(_, control)) if like(control));
            world.clients[witness].history.iter().filter(|seen| is(&seen.what)).count()
        };
        let came = count(|control| matches!(control, ServerControl::MemberJoined { .. }));
        let went = count(|control| matches!(control, ServerControl::MemberLeft { .. }));
        assert_eq!(came, went, "seed {seed}: the others saw it come as often as go");
    });
}

#[test]
fn sessions_that_lose_their_pipes_are_forgotten_after_the_grace() {
    let mut world = world(5);
    let room = room_on(1, 2);
    for _ in 0..3 {
        let client = world.add_client(&near());
        world.join(client, &room);
    }
    world.run_to(SECOND, "all are in", |world| world.all_joined(&room));
    world.cut(0, Duration::ZERO);
    world.run(9 * SECOND);
    assert_eq!(world.population().1, 3);
    world.run(2 * SECOND);
    assert_eq!(world.population(), (1, 2, 2, 0));
    world.open(0);
    world.run(SECOND);
    assert!(world.clients[0].saw(|what| matches!(what, What::Other(Event::SessionLost))));
    world.verdict();
}
