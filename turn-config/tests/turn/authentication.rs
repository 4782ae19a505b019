//! Who may ask, and how they show it: RFC 8489 section 9.2.

use switchyard_turn_config::{
    credentials::user_of_tenant,
    server::{Link, Refusal, Transport},
    settings::Secret,
    stun::{Integrity, PasswordAlgorithm, attribute, method},
};

use crate::world::{Client, SECOND, World, address};

const OLD: &str = "the secret that was there before this one";

#[test]
fn a_client_chooses_how_it_signs() {
    let mut world = World::new();
    for (number, algorithm) in
        [None, Some(PasswordAlgorithm::Md5), Some(PasswordAlgorithm::Sha256)].into_iter().enumerate()
    {
        for (other, integrity) in [Integrity::Sha1, Integrity::Sha256].into_iter().enumerate() {
            let mut client = Client::new(&world, "alice", &format!("198.51.100.{number}:{}", other + 1));
            (client.algorithm, client.integrity) = (algorithm, integrity);
            client.allocate(&mut world);
            assert_eq!(client.permit(&mut world, &["9.9.9.9:1"]).code(), 200);
        }
    }
}

#[test]
fn a_list_of_algorithms_that_somebody_has_shortened_is_noticed() {
    let mut world = World::new();
    let mut client = Client::new(&world, "alice", "198.51.100.1:1000");
    let with = |list: &'static [u8], chosen: &'static [u8]| {
        move |builder: switchyard_turn_config::stun::Builder| {
            let builder = if list.is_empty() {
                builder
            } else {
                builder.attribute(attribute::PASSWORD_ALGORITHMS, list)
            };
            if chosen.is_empty() { builder } else { builder.attribute(attribute::PASSWORD_ALGORITHM, chosen) }
        }
    };
    // A first exchange, for the nonce.
    client.allocate(&mut world);
    for (list, chosen) in [
        (&[0, 1, 0, 0][..], &[0, 1, 0, 0][..]),
        (&PasswordAlgorithm::LIST, &[]),
        (&[], &[0, 1, 0, 0]),
        (&PasswordAlgorithm::LIST, &[0, 3, 0, 0]),
        (&PasswordAlgorithm::LIST, &[0, 1, 0, 1, 0]),
    ] {
        let request = client.signed(method::REFRESH, with(list, chosen));
        world.by_client(&client.link, &request);
        assert_eq!(world.answer(&client.link).unwrap().code(), 400, "{list:?} {chosen:?}");
    }
}

#[test]
fn a_wrong_password_a_wrong_realm_and_a_wrong_name_are_refused() {
    let mut world = World::new();
    let good = Client::new(&world, "alice", "198.51.100.1:1000");
    let mut wrong_password = good.clone();
    wrong_password.credential.password = "guessed".to_owned();
    let mut wrong_realm = good.clone();
    wrong_realm.realm = "example.com".to_owned();
    let mut wrong_name = good.clone();
    wrong_name.credential.username = "alice".to_owned();
    let mut another_name = good.clone();
    another_name.credential.username = another_name.credential.username.replace("alice", "bob");
    for (mut client, why) in [
        (wrong_password, Refusal::WrongPassword),
        (wrong_realm, Refusal::WrongRealm),
        (wrong_name, Refusal::UnknownUser),
        (another_name, Refusal::WrongPassword),
    ] {
        let before = world.server.counters().refused(why);
        let answer = client.allocate_with(&mut world, |builder| builder);
        assert_eq!(answer.code(), 401);
        assert!(world.server.counters().refused(why) > before, "{why:?}");
        assert!(!world.server.has_allocation(&client.link));
    }
}

#[test]
fn a_credential_expires_and_the_allocation_made_with_it_lives_on() {
    let mut world = World::new();
    let mut client = Client::new(&world, "alice", "198.51.100.1:1000");
    client.allocate(&mut world);
    client.refresh(&mut world, 3600);
    for _ in 0..4 {
        world.pass(1000 * SECOND);
        if world.unix() < crate::world::UNIX + 3600 {
            assert_eq!(client.refresh(&mut world, 3600).code(), 200);
        }
    }
    assert_eq!(client.refresh(&mut world, 3600).code(), 200, "the credential has expired");
    assert_eq!(client.permit(&mut world, &["9.9.9.9:1"]).code(), 200);
    let mut other = client.clone();
    other.link.connection = 9;
    assert_eq!(other.allocate_with(&mut world, |builder| builder).code(), 401);
    assert!(world.server.counters().refused(Refusal::Expired) > 0);
}

#[test]
fn the_clock_can_be_set() {
    let mut world = World::new();
    let mut client = Client::new(&world, "alice", "198.51.100.1:1000");
    world.server.set_clock(world.now, crate::world::UNIX + 3600);
    assert_eq!(client.allocate_with(&mut world, |builder| builder).code(), 401);
    world.server.set_clock(world.now, crate::world::UNIX);
    client.allocate(&mut world);
}

#[test]
fn a_rotated_secret_is_good_for_the_overlap() {
    let mut world = World::with(|turn| {
        turn.credentials.previous_secret = Some(Secret::new(OLD));
        turn.credentials.overlap = 100 * SECOND;
    });
    let client = |world: &World, port: u16, secret| {
        Client::with_secret(world, "alice", &format!("198.51.100.1:{port}"), Transport::Udp, secret)
    };
    client(&world, 1, OLD).allocate(&mut world);
    client(&world, 2, crate::world::SECRET).allocate(&mut world);
    world.pass(100 * SECOND);
    assert_eq!(client(&world, 3, OLD).allocate_with(&mut world, |builder| builder).code(), 401);
    client(&world, 4, crate::world::SECRET).allocate(&mut world);
}

#[test]
fn a_nonce_expires_and_a_new_one_comes_with_the_refusal() {
    let mut world = World::with(|turn| turn.lifetimes.nonce = 300 * SECOND);
    let mut client = Client::new(&world, "alice", "198.51.100.1:1000");
    client.allocate(&mut world);
    world.pass(300 * SECOND);
    let request = client.signed(method::REFRESH, |builder| builder);
    world.by_client(&client.link, &request);
    let answer = world.answer(&client.link).unwrap();
    assert_eq!(answer.code(), 438);
    assert_ne!(answer.message().nonce, Some(&*client.nonce));
    assert_eq!(client.refresh(&mut world, 600).code(), 200);
}

#[test]
fn another_users_allocation_cannot_be_used() {
    let mut world = World::new();
    let mut alice = Client::new(&world, "alice", "198.51.100.1:1000");
    alice.allocate(&mut world);
    let mut bob = Client::new(&world, "bob", "198.51.100.1:1000");
    assert_eq!(bob.refresh(&mut world, 0).code(), 441);
    assert_eq!(bob.permit(&mut world, &["9.9.9.9:1"]).code(), 441);
    assert_eq!(bob.bind(&mut world, 0x4000, "9.9.9.9:1").code(), 441);
    assert!(world.server.has_allocation(&alice.link));
}

#[test]
fn users_of_two_tenants_with_one_name_have_quotas_of_their_own() {
    let mut world = World::with(|turn| turn.quotas.allocations_per_user = 1);
    for (port, tenant) in (1..).zip(["one", "two"]) {
        let name = user_of_tenant(tenant, "alice");
        Client::new(&world, &name, &format!("198.51.100.1:{port}")).allocate(&mut world);
    }
    let mut third = Client::new(&world, &user_of_tenant("one", "alice"), "198.51.100.1:3");
    assert_eq!(third.allocate_with(&mut world, |builder| builder).code(), 486);
}

#[test]
fn what_a_user_has_ends_at_once_when_the_user_is_shut_out() {
    let mut world = World::new();
    let mut alices: Vec<_> =
        (1..=3).map(|port| Client::new(&world, "alice", &format!("198.51.100.1:{port}"))).collect();
    for client in &mut alices {
        client.allocate(&mut world);
    }
    let mut bob = Client::new(&world, "bob", "198.51.100.2:1");
    bob.allocate(&mut world);
    world.server.shut_out(world.now, b"alice");
    assert!(alices.iter().all(|client| !world.server.has_allocation(&client.link)));
    assert!(world.server.has_allocation(&bob.link));
    assert_eq!(world.server.counters().allocations_now, [1, 0, 0]);
    assert_eq!(alices[0].allocate_with(&mut world, |builder| builder).code(), 403, "nor with what they hold");
    world.pass(SECOND);
    Client::new(&world, "alice", "198.51.100.1:4").allocate(&mut world);
    assert_eq!(alices[0].allocate_with(&mut world, |builder| builder).code(), 403, "issued before");
    assert_eq!(bob.refresh(&mut world, 600).code(), 200);
}

#[test]
fn an_allocation_ends_with_its_stream() {
    let mut world = World::new();
    let mut client = Client::by(&world, "alice", "198.51.100.1:1000", Transport::Tls);
    client.allocate(&mut world);
    client.permit(&mut world, &["9.9.9.9:1"]);
    world.closed(&Link { connection: 2, ..client.link });
    assert!(world.server.has_allocation(&client.link), "another stream from the same port");
    world.closed(&client.link);
    assert!(!world.server.has_allocation(&client.link) && world.sockets.is_empty());
    assert_eq!(address("192.0.2.1:3478"), client.link.local);
}
