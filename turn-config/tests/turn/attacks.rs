//! What is tried against a relay, and comes to nothing.

use std::collections::BTreeSet;

use switchyard_turn_config::{
    server::{Link, MAX_CHALLENGE, Refusal, Transport},
    stun::{Builder, Class, attribute, method},
};

use crate::world::{Client, Moved, REALM, SECOND, SFU, World, address};

/// Bytes of IP and UDP headers, which both a question and its answer have.
const LOWER: usize = 28;

#[test]
fn no_address_of_the_operators_network_can_be_reached() {
    let mut world = World::new();
    let additional =
        |builder: Builder| builder.attribute(attribute::ADDITIONAL_ADDRESS_FAMILY, &[2, 0, 0, 0]);
    let mut client = Client::new(&world, "mallory", "198.51.100.1:1000");
    assert_eq!(client.allocate_with(&mut world, additional).code(), 200);
    for peer in [
        "0.0.0.0:80",
        "127.0.0.1:80",
        "127.255.255.254:80",
        "10.0.0.1:80",
        "10.255.255.255:80",
        "100.64.0.1:80",
        "169.254.169.254:80",
        "172.16.0.1:80",
        "172.31.255.255:80",
        "192.168.0.1:80",
        "224.0.0.1:80",
        "239.255.255.255:80",
        "255.255.255.255:80",
        "[::]:80",
        "[::1]:80",
        "[::ffff:127.0.0.1]:80",
        "[::ffff:169.254.169.254]:80",
        "[64:ff9b::a00:1]:80",
        "[2002:a9fe:a9fe::1]:80",
        "[fe80::1]:80",
        "[febf:ffff::1]:80",
        "[fd00::1]:80",
        "[ff02::1]:80",
        // The server's own, where neither the SFU nor an allocation is.
        "192.0.2.1:22",
        "192.0.2.1:3478",
        "192.0.2.1:7881",
        "192.0.2.1:65535",
        "[::ffff:192.0.2.1]:22",
        "192.0.2.7:7882",
        "[2001:db8::1]:22",
        "10.0.0.1:7882",
    ] {
        assert_eq!(client.bind(&mut world, 0x4000, peer).code(), 403, "{peer}");
        // A permission is for an address; some of the server's own ports may be reached, so it may be given.
        let is_served =
            ["192.0.2.1", "2001:db8::1"].contains(&&*address(peer).ip().to_canonical().to_string());
        let code = client.permit(&mut world, &[peer]).code();
        assert_eq!(code, if is_served { 200 } else { 403 }, "{peer}");
        assert_eq!(client.send(&mut world, peer, b"GET /latest/meta-data/"), None, "{peer}");
        assert_eq!(client.send_by(&mut world, 0x4000, b"GET /latest/meta-data/"), None, "{peer}");
    }
    assert!(world.sockets.is_empty());
    assert!(matches!(client.send(&mut world, SFU, b"x"), Some(Moved::Sfu { .. })), "the SFU can be reached");
}

#[test]
fn an_address_of_ours_that_comes_from_outside_is_forged() {
    let mut world = World::new();
    let mut client = Client::new(&world, "alice", "198.51.100.1:1000");
    let port = client.allocate(&mut world).port();
    client.permit(&mut world, &["9.9.9.9:1"]);
    client.bind(&mut world, 0x4000, SFU);
    let relay = world.socket(port).unwrap();
    assert_eq!(world.by_peer(relay, SFU, b"forged"), None);
    assert_eq!(world.by_peer(relay, "192.0.2.1:50000", b"forged"), None);
    assert_eq!(world.by_sfu(relay.allocation, "9.9.9.9:1", b"not the SFU"), None);
    assert!(world.by_sfu(relay.allocation, SFU, b"the SFU").is_some());
}

#[test]
fn what_was_seen_on_the_network_is_of_no_use_from_elsewhere() {
    let mut world = World::new();
    let mut client = Client::new(&world, "alice", "198.51.100.1:1000");
    client.allocate(&mut world);
    let seen = [
        client.signed(method::REFRESH, |builder| builder.attribute(attribute::LIFETIME, &[0; 4])),
        client.signed(method::ALLOCATE, |builder| {
            builder.attribute(attribute::REQUESTED_TRANSPORT, &[17, 0, 0, 0])
        }),
    ];
    for link in [
        Link { remote: address("198.51.100.1:1001"), ..client.link },
        Link { remote: address("198.51.100.2:1000"), ..client.link },
        Link { transport: Transport::Tcp, connection: 1, ..client.link },
        Link { local: address("192.0.2.1:5349"), ..client.link },
    ] {
        for request in &seen {
            world.by_client(&link, request);
            assert_eq!(world.answer(&link).unwrap().code(), 438);
            assert!(!world.server.has_allocation(&link));
        }
    }
    assert!(world.server.has_allocation(&client.link));
    assert_eq!(world.server.counters().refused(Refusal::StaleNonce), 8);
}

#[test]
fn a_message_that_is_cut_or_changed_does_nothing() {
    let mut world = World::with(|turn| turn.quotas.answers_burst = 1_000_000);
    let mut client = Client::new(&world, "alice", "198.51.100.1:1000");
    client.allocate(&mut world);
    let request = client.signed(method::REFRESH, |builder| builder.attribute(attribute::LIFETIME, &[0; 4]));
    for length in 0..request.len() {
        assert_eq!(world.by_client(&client.link, &request[..length]), None);
        assert!(world.answer(&client.link).is_none(), "{length} bytes are answered");
    }
    // The type of the fingerprint is no part of what is signed: without one the message is as good.
    let fingerprint = request.len() - 8;
    for bit in (0..request.len() * 8).filter(|bit| !(fingerprint..fingerprint + 2).contains(&(bit / 8))) {
        let mut changed = request.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        world.by_client(&client.link, &changed);
        assert!(world.server.has_allocation(&client.link), "bit {bit}");
    }
    world.by_client(&client.link, &request);
    assert!(!world.server.has_allocation(&client.link), "unchanged, it ends the allocation");
}

#[test]
fn a_request_that_is_too_long_is_not_looked_at() {
    let mut world = World::new();
    let mut client = Client::new(&world, "alice", "198.51.100.1:1000");
    client.allocate(&mut world);
    for length in [2000, 60_000] {
        let request = client.signed(method::REFRESH, |builder| builder.attribute(0x8abc, &vec![0; length]));
        assert_eq!(world.by_client(&client.link, &request), None);
        assert!(world.answer(&client.link).is_none());
    }
    // As many peers as fit are within the limits of an allocation.
    let peers: Vec<String> = (0..100).map(|last| format!("9.9.9.{last}:1")).collect();
    let peers: Vec<&str> = peers.iter().map(String::as_str).collect();
    assert_eq!(client.permit(&mut world, &peers).code(), 508);
}

#[test]
fn a_hundred_thousand_allocations_of_one_user_are_twelve() {
    let mut world = World::with(|turn| {
        (turn.quotas.answers_per_second, turn.quotas.answers_burst) = (1_000_000, 1_000_000);
    });
    let mut mallory = Client::new(&world, "mallory", "198.51.100.1:1");
    let mut made = 0;
    for number in 0..100_000_u32 {
        mallory.link.remote =
            format!("198.51.{}.{}:{}", number >> 16, number >> 8 & 0xff, number % 256 + 1).parse().unwrap();
        let code = mallory.allocate_with(&mut world, |builder| builder).code();
        made += usize::from(code == 200);
        assert!(code == 200 || code == 486, "{code}");
    }
    assert_eq!(made, 12);
    assert_eq!((world.server.slots(), world.server.users()), (12, 1), "nothing grows");
    assert_eq!(world.server.counters().refused(Refusal::UserQuota), 100_000 - 12);
    // Nobody else is kept out.
    Client::new(&world, "alice", "198.51.100.9:1").allocate(&mut world);
}

#[test]
fn strangers_get_answers_that_are_little_larger_than_what_they_sent() {
    let mut world = World::new();
    let link = Client::new(&world, "x", "[2001:db8:1::1]:1000").link;
    let mut largest: f64 = 0.0;
    for method in 0..0x100 {
        for attributes in [0, 1, 3] {
            let mut builder = Builder::new(Class::Request, method, &[1; 12]);
            for number in 0..attributes {
                builder = builder.attribute(0x7000 + number, &[]);
            }
            let request = builder.finish(false);
            world.by_client(&link, &request);
            let Some(answer) = world.answer(&link) else { continue };
            let most = if method == method::BINDING {
                request.len() + 24
            } else {
                MAX_CHALLENGE + REALM.len().next_multiple_of(4)
            };
            assert!(answer.0.len() <= most, "{} bytes for {}", answer.0.len(), request.len());
            largest = largest.max((answer.0.len() + LOWER) as f64 / (request.len() + LOWER) as f64);
        }
    }
    assert!(largest > 1.0 && largest <= 2.5, "{largest}");
}

#[test]
fn strangers_get_few_answers() {
    let mut world = World::with(|turn| {
        (turn.quotas.answers_per_second, turn.quotas.answers_burst) = (10, 100);
    });
    let mut regular = Client::new(&world, "alice", "203.0.113.9:1000");
    regular.allocate(&mut world);
    let flood = |world: &mut World| {
        for number in 0..5000_u32 {
            let remote = format!("203.0.113.{}:{}", number % 256, number + 1).parse().unwrap();
            let method = if number % 2 == 0 { method::BINDING } else { method::ALLOCATE };
            let request = Builder::new(Class::Request, method, &[1; 12]).finish(false);
            world.by_client(&Link { remote, ..regular.link }, &request);
        }
        std::mem::take(&mut world.sent).len()
    };
    assert!(flood(&mut world) < 100);
    world.pass(5 * SECOND);
    assert_eq!(flood(&mut world), 50);
    assert_eq!(regular.refresh(&mut world, 600).code(), 200, "who has a credential is not held up");
    Client::new(&world, "bob", "198.18.0.1:1").allocate(&mut world);
}

#[test]
fn relay_ports_cannot_be_foreseen() {
    let mut world = World::with(|turn| turn.quotas.allocations_per_user = 100);
    let mut ports = BTreeSet::new();
    let mut steps = BTreeSet::new();
    let mut last = 0_u16;
    for port in 1..=64 {
        let given = Client::new(&world, "alice", &format!("198.51.100.1:{port}")).allocate(&mut world).port();
        steps.insert(given.wrapping_sub(last));
        ports.insert(given);
        last = given;
    }
    assert_eq!((ports.len(), steps.len()), (64, 64));
}
