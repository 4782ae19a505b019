//! Allocate, Refresh, CreatePermission and ChannelBind, as RFC 8656 has them.

use std::time::Instant;

use switchyard_turn_config::{
    server::{Host, Refusal, Server, Transport},
    settings::{Mode, Turn},
    stun::{Builder, Class, Message, attribute, method},
};

use crate::world::{Answer, Client, Moved, Opening, SECOND, World, address, data, outside, settings};

const PEER: &str = "9.9.9.9:5000";

fn even(builder: Builder, with_next: bool) -> Builder {
    builder.attribute(attribute::EVEN_PORT, &[u8::from(with_next) << 7])
}

fn lifetime(answer: &Answer) -> u32 {
    answer.message().lifetime.unwrap()
}

fn token(answer: &Answer) -> [u8; 8] {
    answer.message().reservation.unwrap()
}

#[test]
fn binding_tells_the_address_that_the_server_sees() {
    let mut world = World::new();
    for remote in ["198.51.100.1:1000", "[2001:db8:1::1]:1000", "[::ffff:198.51.100.1]:1000"] {
        let client = Client::new(&world, "alice", remote);
        for has_fingerprint in [false, true] {
            let request = Builder::new(Class::Request, method::BINDING, &[3; 12]).finish(has_fingerprint);
            world.by_client(&client.link, &request);
            let answer = world.answer(&client.link).unwrap();
            let message = answer.message();
            let seen = message.mapped.unwrap();
            assert_eq!((seen.ip(), seen.port()), (address(remote).ip().to_canonical(), 1000));
            assert_eq!(message.verify_fingerprint(), has_fingerprint.then_some(true));
            assert_eq!(message.transaction, [3; 12]);
        }
    }
    assert_eq!(world.server.counters().bindings, 6);
}

#[test]
fn a_server_needs_an_address_and_settings_that_can_be() {
    type Change = fn(&mut Turn);
    let cases: [(Change, &str); 4] = [
        (
            |turn| (turn.relay.bind_v4, turn.relay.advertise_v4, turn.relay.bind_v6) = (None, None, None),
            "turn.relay.bind_v4",
        ),
        (|turn| turn.credentials.secret = None, "turn.credentials.secret"),
        (|turn| turn.mode = Mode::Off, "turn.mode"),
        (|turn| turn.relay.max_port = 1, "turn.relay.max_port"),
    ];
    for (change, field) in cases {
        let mut turn = settings();
        change(&mut turn);
        let refused = Server::new(&turn, &Host::default(), Instant::now(), 0, [0; 32]).unwrap_err();
        assert_eq!(refused[0].field, field);
    }
}

#[test]
fn an_allocation_has_a_relayed_address_and_a_lifetime() {
    let mut world = World::new();
    for transport in Transport::ALL {
        let mut client = Client::by(&world, "alice", "198.51.100.1:1000", transport);
        let answer = client.allocate_with(&mut world, |builder| builder);
        let message = answer.message();
        let relayed = message.relayed.unwrap();
        assert_eq!(relayed.ip(), address("192.0.2.1:1").ip());
        assert!(relayed.port() >= 49152);
        assert_eq!(message.mapped, Some(client.link.remote));
        assert_eq!(lifetime(&answer), 600);
        assert!(world.server.has_allocation(&client.link));
    }
    assert_eq!(world.server.counters().allocations, [1, 1, 1]);
    assert!(world.sockets.is_empty(), "nobody outside has a permission yet");
}

#[test]
fn a_repeated_request_is_answered_alike_and_another_is_a_mismatch() {
    let mut world = World::new();
    let mut client = Client::new(&world, "alice", "198.51.100.1:1000");
    let relayed = client.allocate(&mut world);
    let again = client.allocate_with(&mut world, |builder| builder);
    assert_eq!(again.code(), 437);

    let mut other = Client::new(&world, "alice", "198.51.100.1:1001");
    other.nonce = {
        other.allocate_with(&mut world, |builder| even(builder, true));
        other.nonce.clone()
    };
    assert_eq!(other.refresh(&mut world, 0).code(), 200);
    let request = other.signed(method::ALLOCATE, |builder| {
        even(builder.attribute(attribute::REQUESTED_TRANSPORT, &[17, 0, 0, 0]), true)
    });
    let answers = [0, 1].map(|_| {
        world.by_client(&other.link, &request);
        world.answer(&other.link).unwrap()
    });
    assert_eq!(answers[0].0, answers[1].0);
    assert_ne!(answers[0].message().relayed, Some(relayed));
    assert_eq!(world.server.counters().allocations_now, [2, 0, 0]);
}

#[test]
fn lifetimes_are_kept_within_their_bounds() {
    let mut world = World::new();
    for (wanted, given) in [(1_u32, 600), (600, 600), (1800, 1800), (100_000, 3600), (u32::MAX, 3600)] {
        let mut client = Client::new(&world, "alice", "198.51.100.1:1000");
        let answer = client.allocate_with(&mut world, |builder| {
            builder.attribute(attribute::LIFETIME, &wanted.to_be_bytes())
        });
        assert_eq!(lifetime(&answer), given);
        assert_eq!(lifetime(&client.refresh(&mut world, wanted)), given);
        assert_eq!(lifetime(&client.refresh(&mut world, 0)), 0);
        assert!(!world.server.has_allocation(&client.link));
        assert_eq!(client.refresh(&mut world, 0).code(), 437);
    }
}

#[test]
fn an_allocation_refreshed_in_time_does_not_expire() {
    let mut world = World::new();
    let mut client = Client::new(&world, "alice", "198.51.100.1:1000");
    client.allocate(&mut world);
    for _ in 0..3 {
        world.pass(599 * SECOND);
        assert_eq!(client.refresh(&mut world, 600).code(), 200);
    }
    world.pass(599 * SECOND);
    assert!(world.server.has_allocation(&client.link) && world.ended.is_empty());
    world.pass(SECOND);
    assert!(!world.server.has_allocation(&client.link));
    assert_eq!(world.ended.len(), 1);
    assert_eq!(world.server.counters().allocations_now, [0; 3]);
}

#[test]
fn an_allocation_that_has_expired_is_gone_though_the_timer_is_late() {
    let mut world = World::new();
    let mut client = Client::new(&world, "alice", "198.51.100.1:1000");
    client.allocate(&mut world);
    client.bind(&mut world, 0x4000, PEER);
    world.now += 600 * SECOND;
    assert_eq!(client.send_by(&mut world, 0x4000, b"late"), None);
    assert_eq!(client.refresh(&mut world, 600).code(), 437);
    client.allocate(&mut world);
}

#[test]
fn an_address_family_is_the_one_that_is_asked_for() {
    let mut world = World::new();
    let mut client = Client::new(&world, "alice", "198.51.100.1:1000");
    let family = |number: u8| {
        move |builder: Builder| builder.attribute(attribute::REQUESTED_ADDRESS_FAMILY, &[number, 0, 0, 0])
    };
    let answer = client.allocate_with(&mut world, family(2));
    assert_eq!(answer.message().relayed.unwrap().ip(), address("[2001:db8::1]:1").ip());
    assert_eq!(client.permit(&mut world, &[PEER]).code(), 443);
    assert_eq!(client.bind(&mut world, 0x4000, PEER).code(), 443);
    assert_eq!(client.permit(&mut world, &["[2a00::1]:5000"]).code(), 200);
    assert_eq!(client.ask(&mut world, method::REFRESH, family(1)).code(), 443);
    assert_eq!(client.ask(&mut world, method::REFRESH, family(2)).code(), 200);

    let mut other = Client::new(&world, "alice", "198.51.100.1:1001");
    assert_eq!(other.allocate_with(&mut world, family(3)).code(), 440);
    let mut world = World::with(|turn| turn.relay.bind_v6 = None);
    let mut client = Client::new(&world, "alice", "198.51.100.1:1000");
    assert_eq!(client.allocate_with(&mut world, family(2)).code(), 440);
}

#[test]
fn an_allocation_can_have_both_families() {
    let additional =
        |builder: Builder| builder.attribute(attribute::ADDITIONAL_ADDRESS_FAMILY, &[2, 0, 0, 0]);
    let mut world = World::new();
    let mut client = Client::new(&world, "alice", "198.51.100.1:1000");
    assert_eq!(client.allocate_with(&mut world, additional).code(), 200);
    assert_eq!(client.permit(&mut world, &[PEER, "[2a00::1]:5000"]).code(), 200);
    assert_eq!(world.sockets.len(), 2);
    assert!(outside(client.send(&mut world, PEER, b"4")).is_some());
    assert!(outside(client.send(&mut world, "[2a00::1]:5000", b"6")).is_some());
    // One of the two ends.
    let answer = client.ask(&mut world, method::REFRESH, |builder| {
        builder
            .attribute(attribute::LIFETIME, &[0; 4])
            .attribute(attribute::REQUESTED_ADDRESS_FAMILY, &[1, 0, 0, 0])
    });
    assert_eq!((answer.code(), world.sockets.len()), (200, 1));
    assert!(outside(client.send(&mut world, PEER, b"4")).is_none());
    assert!(outside(client.send(&mut world, "[2a00::1]:5000", b"6")).is_some());
    assert_eq!(client.refresh(&mut world, 0).code(), 200);
    assert!(world.sockets.is_empty() && !world.server.has_allocation(&client.link));

    let mut world = World::with(|turn| turn.relay.bind_v6 = None);
    let mut client = Client::new(&world, "alice", "198.51.100.1:1000");
    let answer = client.allocate_with(&mut world, additional);
    assert_eq!(answer.code(), 200);
    let error = [&attribute::ADDRESS_ERROR_CODE.to_be_bytes()[..], &[0, 4, 2, 0, 4, 40]].concat();
    assert!(answer.0.windows(error.len()).any(|part| part == error), "440 for the family that is not there");
}

#[test]
fn an_even_port_can_have_its_next_one_reserved() {
    let mut world = World::new();
    let mut first = Client::new(&world, "alice", "198.51.100.1:1000");
    let answer = first.allocate_with(&mut world, |builder| even(builder, true));
    let port = answer.message().relayed.unwrap().port();
    assert!(port.is_multiple_of(2));
    let token = token(&answer);
    let with_token = |builder: Builder| builder.attribute(attribute::RESERVATION_TOKEN, &token);

    let mut stranger = Client::new(&world, "mallory", "198.51.100.2:1000");
    assert_eq!(stranger.allocate_with(&mut world, with_token).code(), 508, "another user's token");
    let mut second = Client::new(&world, "alice", "198.51.100.1:1001");
    let answer = second.allocate_with(&mut world, with_token);
    assert_eq!(answer.message().relayed.unwrap().port(), port + 1);
    let mut third = Client::new(&world, "alice", "198.51.100.1:1002");
    assert_eq!(third.allocate_with(&mut world, with_token).code(), 508, "used already");

    let reserved = super::requests::token(&third.allocate_with(&mut world, |builder| even(builder, true)));
    world.pass(30 * SECOND);
    let mut fourth = Client::new(&world, "alice", "198.51.100.1:1003");
    let late = fourth
        .allocate_with(&mut world, |builder| builder.attribute(attribute::RESERVATION_TOKEN, &reserved));
    assert_eq!(late.code(), 508, "expired");
}

#[test]
fn requests_that_contradict_themselves_are_bad() {
    let mut world = World::new();
    let mut client = Client::new(&world, "alice", "198.51.100.1:1000");
    let (token, v4, v6) = ([0; 8], [1, 0, 0, 0], [2, 0, 0, 0]);
    type Change<'a> = &'a dyn Fn(Builder) -> Builder;
    let cases: [(Change<'_>, u16); 8] = [
        (&|b| even(b.attribute(attribute::RESERVATION_TOKEN, &token), false), 400),
        (
            &|b| {
                b.attribute(attribute::RESERVATION_TOKEN, &token)
                    .attribute(attribute::REQUESTED_ADDRESS_FAMILY, &v4)
            },
            400,
        ),
        (
            &|b| {
                b.attribute(attribute::REQUESTED_ADDRESS_FAMILY, &v4)
                    .attribute(attribute::ADDITIONAL_ADDRESS_FAMILY, &v6)
            },
            400,
        ),
        (&|b| even(b.attribute(attribute::ADDITIONAL_ADDRESS_FAMILY, &v6), true), 400),
        (&|b| b.attribute(attribute::ADDITIONAL_ADDRESS_FAMILY, &v4), 400),
        (&|b| b.attribute(attribute::LIFETIME, &[1]), 400),
        (&|b| b.attribute(0x7abc, &[1]), 420),
        (&|b| b.attribute(attribute::USERHASH, &[0; 32]), 420),
    ];
    for (change, code) in cases {
        assert_eq!(client.allocate_with(&mut world, change).code(), code);
    }
    let answer = client.allocate_with(&mut world, |b| b.attribute(0x7abc, &[]));
    assert!(answer.0.windows(6).any(|part| part == [0, 0x0a, 0, 2, 0x7a, 0xbc]), "UNKNOWN-ATTRIBUTES");
    for (transport, code) in [(None, 400), (Some(6), 442), (Some(17), 200)] {
        let answer = client.ask(&mut world, method::ALLOCATE, |builder| match transport {
            Some(number) => builder.attribute(attribute::REQUESTED_TRANSPORT, &[number, 0, 0, 0]),
            None => builder,
        });
        assert_eq!(answer.code(), code);
    }
}

#[test]
fn a_permission_lives_five_minutes() {
    let mut world = World::new();
    let mut client = Client::new(&world, "alice", "198.51.100.1:1000");
    let port = client.allocate(&mut world).port();
    assert_eq!(client.send(&mut world, PEER, b"no permission"), None);
    assert_eq!(client.permit(&mut world, &[PEER]).code(), 200);
    let relay = world.socket(port).unwrap();
    // By address, whatever the port.
    let payload = b"hello".to_vec();
    assert_eq!(
        outside(client.send(&mut world, "9.9.9.9:1", b"hello")),
        Some((address("9.9.9.9:1"), payload.clone()))
    );
    let back = world.by_peer(relay, "9.9.9.9:77", b"hello");
    assert_eq!(data(back, &client), Some((address("9.9.9.9:77"), payload)));
    assert_eq!(world.by_peer(relay, "9.9.9.8:77", b"no permission"), None);
    world.pass(299 * SECOND);
    assert!(client.send(&mut world, PEER, b"").is_some());
    assert!(world.by_peer(relay, PEER, b"").is_some());
    world.pass(SECOND);
    assert_eq!(client.send(&mut world, PEER, b""), None);
    assert_eq!(world.by_peer(relay, PEER, b""), None);
    assert_eq!(client.permit(&mut world, &[PEER]).code(), 200);
    assert!(world.by_peer(relay, PEER, b"").is_some());
}

#[test]
fn all_peers_of_a_request_are_permitted_or_none() {
    let mut world = World::new();
    let mut client = Client::new(&world, "alice", "198.51.100.1:1000");
    client.allocate(&mut world);
    assert_eq!(client.permit(&mut world, &[PEER, "10.0.0.5:1"]).code(), 403);
    assert_eq!(client.send(&mut world, PEER, b""), None);
    assert_eq!(client.permit(&mut world, &[]).code(), 400);
    assert_eq!(client.permit(&mut world, &[PEER, "8.8.8.8:1"]).code(), 200);
    assert!(
        client.send(&mut world, PEER, b"").is_some() && client.send(&mut world, "8.8.8.8:2", b"").is_some()
    );
}

#[test]
fn a_channel_lives_ten_minutes_and_its_permission_five() {
    let mut world = World::new();
    let mut client = Client::new(&world, "alice", "198.51.100.1:1000");
    let port = client.allocate(&mut world).port();
    assert_eq!(client.send_by(&mut world, 0x4000, b"unbound"), None);
    assert_eq!(client.bind(&mut world, 0x4000, PEER).code(), 200);
    let relay = world.socket(port).unwrap();
    assert_eq!(
        client.send_by(&mut world, 0x4000, b"hello"),
        Some(Moved::Peer { relay, peer: address(PEER), payload: b"hello".to_vec(), dont_fragment: false })
    );
    let link = client.link;
    let to_client = |bytes: &[u8]| Some(Moved::Client(link, bytes.to_vec()));
    assert_eq!(world.by_peer(relay, PEER, b"hello"), to_client(b"\x40\x00\x00\x05hello"));
    world.pass(300 * SECOND);
    assert_eq!(client.send_by(&mut world, 0x4000, b""), None, "the permission is gone");
    assert_eq!(world.by_peer(relay, PEER, b""), None);
    assert_eq!(client.permit(&mut world, &[PEER]).code(), 200);
    assert_eq!(world.by_peer(relay, PEER, b"x"), to_client(b"\x40\x00\x00\x01x"), "the channel is not");
    assert_eq!(client.refresh(&mut world, 3600).code(), 200);
    world.pass(299 * SECOND);
    assert_eq!(client.permit(&mut world, &[PEER]).code(), 200);
    world.pass(SECOND);
    assert_eq!(client.send_by(&mut world, 0x4000, b""), None, "the channel is gone");
    let back = world.by_peer(relay, PEER, b"hello");
    assert_eq!(data(back, &client), Some((address(PEER), b"hello".to_vec())), "the permission is not");
}

#[test]
fn a_number_and_a_peer_belong_together() {
    let mut world = World::new();
    let mut client = Client::new(&world, "alice", "198.51.100.1:1000");
    client.allocate(&mut world);
    for number in [0, 0x3fff, 0x8000, 0xffff] {
        assert_eq!(client.bind(&mut world, number, PEER).code(), 400, "{number:#x}");
    }
    assert_eq!(client.bind(&mut world, 0x4000, PEER).code(), 200);
    assert_eq!(client.bind(&mut world, 0x4000, PEER).code(), 200, "renewed");
    assert_eq!(client.bind(&mut world, 0x4000, "9.9.9.9:5001").code(), 400, "the number is taken");
    assert_eq!(client.bind(&mut world, 0x4001, PEER).code(), 400, "the peer has one");
    assert_eq!(client.bind(&mut world, 0x7fff, "9.9.9.9:5001").code(), 200);
    world.pass(599 * SECOND);
    client.refresh(&mut world, 600);
    world.pass(SECOND);
    assert_eq!(client.bind(&mut world, 0x4000, "9.9.9.9:5001").code(), 200, "both are free again");
}

#[test]
fn a_socket_is_opened_for_the_first_peer_outside_and_closed_with_the_allocation() {
    let mut world = World::new();
    let mut client = Client::new(&world, "alice", "198.51.100.1:1000");
    let port = client.allocate(&mut world).port();
    assert_eq!(client.permit(&mut world, &["192.0.2.1:7882"]).code(), 200);
    assert!(world.sockets.is_empty(), "the SFU is inside");
    world.opening = Opening::ByHand;
    assert!(
        client
            .try_ask(&mut world, method::CREATE_PERMISSION, |builder| {
                builder.address(attribute::XOR_PEER_ADDRESS, address(PEER))
            })
            .is_none(),
        "answered when the socket is there"
    );
    let relay = world.socket(port).unwrap();
    assert_eq!(client.send(&mut world, PEER, b"early"), None);
    // Repeated requests wait too, a bounded number of them.
    for _ in 0..20 {
        let request = client.signed(method::CREATE_PERMISSION, |builder| {
            builder.address(attribute::XOR_PEER_ADDRESS, address(PEER))
        });
        world.by_client(&client.link, &request);
        world.by_client(&client.link, &request);
    }
    world.open(relay, true);
    assert_eq!(world.sent.len(), switchyard_turn_config::server::MAX_WAITING);
    assert!(world.sent.iter().all(|(_, bytes)| Message::parse(bytes).unwrap().class == Class::Success));
    world.sent.clear();
    assert!(outside(client.send(&mut world, PEER, b"now")).is_some());
    assert_eq!(client.refresh(&mut world, 0).code(), 200);
    assert!(world.sockets.is_empty());
    // What was still on its way reaches nobody.
    assert_eq!(world.by_peer(relay, PEER, b"late"), None);
    world.open(relay, true);
}

#[test]
fn without_a_socket_there_is_no_capacity() {
    let mut world = World::new();
    let mut client = Client::new(&world, "alice", "198.51.100.1:1000");
    let port = client.allocate(&mut world).port();
    world.opening = Opening::Never;
    assert_eq!(client.permit(&mut world, &[PEER]).code(), 508);
    assert_eq!(client.bind(&mut world, 0x4000, PEER).code(), 508);
    assert_eq!(world.server.counters().refused(Refusal::Socket), 2);
    assert_eq!(client.permit(&mut world, &["192.0.2.1:7882"]).code(), 200, "inside none is needed");
    world.opening = Opening::AtOnce;
    assert_eq!(client.bind(&mut world, 0x4000, PEER).code(), 200);
    // A socket that fails later takes its peers with it.
    let relay = world.socket(port).unwrap();
    world.open(relay, false);
    assert_eq!(client.send_by(&mut world, 0x4000, b""), None);
    assert!(client.send(&mut world, "192.0.2.1:7882", b"").is_some());
    assert_eq!(client.bind(&mut world, 0x4000, PEER).code(), 200, "opened anew");
}

#[test]
fn a_user_has_so_many_allocations_and_the_server_so_many() {
    let mut world = World::with(|turn| (turn.quotas.allocations_per_user, turn.quotas.allocations) = (3, 5));
    let mut clients: Vec<_> =
        (1..=4).map(|port| Client::new(&world, "alice", &format!("198.51.100.1:{port}"))).collect();
    for client in &mut clients[..2] {
        client.allocate(&mut world);
    }
    let both = clients[2].allocate_with(&mut world, |builder| even(builder, true));
    assert_eq!(both.code(), 486, "a reserved port counts");
    clients[2].allocate(&mut world);
    assert_eq!(clients[3].allocate_with(&mut world, |builder| builder).code(), 486);
    clients[0].refresh(&mut world, 0);
    clients[3].allocate(&mut world);

    let mut bobs: Vec<_> =
        (1..=3).map(|port| Client::new(&world, "bob", &format!("198.51.100.2:{port}"))).collect();
    bobs[0].allocate(&mut world);
    bobs[1].allocate(&mut world);
    assert_eq!(bobs[2].allocate_with(&mut world, |builder| builder).code(), 508);
    assert_eq!(world.server.counters().refused(Refusal::UserQuota), 2);
    assert_eq!(world.server.counters().refused(Refusal::Capacity), 1);
}

#[test]
fn an_allocation_has_so_many_permissions_and_channels() {
    let mut world = World::with(|turn| {
        (turn.quotas.permissions_per_allocation, turn.quotas.channels_per_allocation) = (3, 2);
    });
    let mut client = Client::new(&world, "alice", "198.51.100.1:1000");
    client.allocate(&mut world);
    assert_eq!(client.permit(&mut world, &["9.9.9.1:1", "9.9.9.1:2", "9.9.9.2:1"]).code(), 200);
    assert_eq!(client.permit(&mut world, &["9.9.9.3:1", "9.9.9.4:1"]).code(), 508);
    assert_eq!(client.send(&mut world, "9.9.9.3:1", b""), None, "all or none");
    assert_eq!(client.bind(&mut world, 0x4000, "9.9.9.1:1").code(), 200);
    assert_eq!(client.bind(&mut world, 0x4001, "9.9.9.3:1").code(), 200);
    assert_eq!(client.bind(&mut world, 0x4002, "9.9.9.1:3").code(), 508);
    assert_eq!(client.permit(&mut world, &["9.9.9.4:1"]).code(), 508);
    world.pass(300 * SECOND);
    assert_eq!(client.permit(&mut world, &["9.9.9.4:1"]).code(), 200);
}

#[test]
fn ports_run_out() {
    let mut world = World::with(|turn| (turn.relay.min_port, turn.relay.max_port) = (50_000, 50_003));
    let mut clients: Vec<_> =
        (1..=5).map(|port| Client::new(&world, "alice", &format!("198.51.100.1:{port}"))).collect();
    let mut ports: Vec<_> =
        clients[..4].iter_mut().map(|client| client.allocate(&mut world).port()).collect();
    ports.sort_unstable();
    assert_eq!(ports, [50_000, 50_001, 50_002, 50_003]);
    assert_eq!(clients[4].allocate_with(&mut world, |builder| builder).code(), 508);
    clients[1].refresh(&mut world, 0);
    clients[4].allocate(&mut world);
}
