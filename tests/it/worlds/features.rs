//! A join that takes the data channel away from a session that is on it, over the real engine.

use switchyard::engine::Command;
use switchyard_loadtest::{
    browser::{Lane, Pipe},
    netsim::LinkConfig,
};
use switchyard_signaling::{Code, message::Description};

use crate::world::{Kind, MS, SECOND, Setup, World};

fn world() -> World {
    let mut world = World::new(Setup { step: MS, ..Setup::new(1) });
    for _ in 0..2 {
        let link = LinkConfig { delay: 20 * MS, ..LinkConfig::default() };
        let client = world.add_client(&Kind { udp: Some(link), ..Kind::default() });
        world.join(client, "room");
    }
    world.run_to(20 * SECOND, "both are on the data channel", |world| {
        world.all_joined("room") && world.all_on(Pipe::Channel)
    });
    world
}

/// Both talk all the time; in the middle the first joins with a token that leaves this much less on.
fn talk_through(world: &mut World, room: &str, without: &str) {
    for round in 0..200 {
        if round == 100 {
            world.join_without(0, room, without);
        }
        for client in 0..2 {
            let size = if round % 20 == 0 { 40_000 } else { 200 };
            world.send(client, "room", Lane::Reliable, 1, size).unwrap();
        }
        world.run(7 * MS);
    }
    world.run_to(60 * SECOND, "all is quiet", World::is_quiet);
    world.run(SECOND);
    let verdict = world.verdict();
    assert_eq!((verdict.reliable, verdict.told), (400, 0), "nothing is lost");
}

fn pipes(world: &World) -> Vec<Option<Pipe>> {
    world.clients.iter().map(|client| client.browser.attached()).collect()
}

#[test]
fn a_join_that_takes_webrtc_away_moves_the_session_to_the_websocket_and_loses_nothing() {
    for room in ["room", "another"] {
        let mut world = world();
        talk_through(&mut world, room, "webrtc");
        assert_eq!(
            pipes(&world),
            [Some(Pipe::Socket), Some(Pipe::Channel)],
            "the other one is not concerned"
        );
        assert_eq!(world.population().3, 1, "peers at the server");
        assert_eq!(world.clients[0].refusals(), []);
        // A client that does not believe it is refused.
        let wire = world.clients[0].wire.as_ref().unwrap();
        let (socket, Description { pc, sdp }) = (wire.id, wire.offer.clone().unwrap());
        world.handle_on_shard(0, Command::Offer(socket, Description { pc: pc + 1, sdp }));
        world.run(SECOND);
        assert_eq!(world.clients[0].refusals(), [Code::WebrtcDisabled]);
        assert_eq!(world.population().3, 1, "peers at the server");
    }
}

#[test]
fn a_join_that_takes_relays_away_leaves_the_data_channel() {
    let mut world = world();
    talk_through(&mut world, "room", "relay");
    assert_eq!(pipes(&world), [Some(Pipe::Channel); 2]);
    let now = world.now;
    world.on(0, |browser| browser.offer(now));
    world.run(SECOND);
    assert!(!world.clients[0].refusals().contains(&Code::WebrtcDisabled));
}
