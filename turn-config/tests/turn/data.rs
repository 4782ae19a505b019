//! Where data goes: outside, to the local SFU, from one allocation to another; and what of it counts.

use switchyard_turn_config::{
    server::{Refusal, Traffic, Transport},
    stun::{Builder, Class, attribute, method},
};

use crate::world::{Client, Moved, SECOND, SFU, World, address, bytes, data, outside};

#[test]
fn the_sfu_is_reached_in_memory_and_answers() {
    let mut world = World::new();
    let mut client = Client::new(&world, "alice", "198.51.100.1:1000");
    let relayed = client.allocate(&mut world);
    assert_eq!(client.send(&mut world, SFU, b"no permission"), None);
    assert_eq!(client.permit(&mut world, &[SFU]).code(), 200);
    let Some(Moved::Sfu { allocation, from, to, payload }) = client.send(&mut world, SFU, b"hello") else {
        panic!("not handed over");
    };
    assert_eq!((from, to, &*payload), (relayed, address(SFU), &b"hello"[..]));
    let back = world.by_sfu(allocation, SFU, b"hi");
    assert_eq!(data(back, &client), Some((address(SFU), b"hi".to_vec())));
    assert_eq!(client.bind(&mut world, 0x4abc, SFU).code(), 200);
    assert!(matches!(client.send_by(&mut world, 0x4abc, b"x"), Some(Moved::Sfu { .. })));
    let back = world.by_sfu(allocation, SFU, b"hi");
    assert_eq!(bytes(back, &client), Some(b"\x4a\xbc\x00\x02hi".to_vec()));
    assert!(world.sockets.is_empty());
    assert_eq!(world.server.counters().to_sfu, Traffic { packets: 2, bytes: 6 });

    // The next one in the slot is not mistaken for it.
    client.refresh(&mut world, 0);
    client.allocate(&mut world);
    client.permit(&mut world, &[SFU]);
    assert_eq!(world.by_sfu(allocation, SFU, b"late"), None);
}

#[test]
fn two_allocations_reach_each_other_in_memory() {
    let mut world = World::new();
    let mut alice = Client::new(&world, "alice", "198.51.100.1:1000");
    let mut bob = Client::by(&world, "bob", "198.51.100.2:1000", Transport::Tcp);
    let (a, b) = (alice.allocate(&mut world), bob.allocate(&mut world));
    assert_eq!(alice.permit(&mut world, &[&b.to_string()]).code(), 200);
    assert_eq!(alice.send(&mut world, &b.to_string(), b"hi"), None, "bob permits nobody");
    assert_eq!(bob.permit(&mut world, &[&a.to_string()]).code(), 200);
    let moved = alice.send(&mut world, &b.to_string(), b"hi");
    assert_eq!(data(moved, &bob), Some((a, b"hi".to_vec())), "it comes from the relayed address");
    assert_eq!(bob.bind(&mut world, 0x4001, &a.to_string()).code(), 200);
    let moved = alice.send(&mut world, &b.to_string(), b"hi");
    assert_eq!(bytes(moved, &bob), Some(b"\x40\x01\x00\x02hi\0\0".to_vec()), "padded on a stream");
    let moved = bob.send_by(&mut world, 0x4001, b"yo");
    assert_eq!(data(moved, &alice), Some((b, b"yo".to_vec())));
    assert!(world.sockets.is_empty());
    assert_eq!(world.server.counters().between_allocations, Traffic { packets: 3, bytes: 6 });
    // To itself, too.
    assert_eq!(alice.permit(&mut world, &[&a.to_string()]).code(), 200);
    let moved = alice.send(&mut world, &a.to_string(), b"me");
    assert_eq!(data(moved, &alice), Some((a, b"me".to_vec())));

    bob.refresh(&mut world, 0);
    assert_eq!(alice.send(&mut world, &b.to_string(), b"gone"), None);
    assert!(world.server.counters().refused(Refusal::NothingThere) > 0);
}

#[test]
fn channel_data_may_be_padded_and_may_not_be_cut() {
    let mut world = World::new();
    let mut client = Client::new(&world, "alice", "198.51.100.1:1000");
    client.allocate(&mut world);
    client.bind(&mut world, 0x4000, "9.9.9.9:1");
    for (message, payload) in [
        (&b"\x40\x00\x00\x00"[..], Some(&b""[..])),
        (b"\x40\x00\x00\x02hi", Some(b"hi")),
        (b"\x40\x00\x00\x02hi\0\0", Some(b"hi")),
        (b"\x40\x00\x00\x03hi", None),
        (b"\x40\x00\x00", None),
        (b"\x40\x01\x00\x00", None),
        (b"\x50\x00\x00\x00", None),
        (b"\x80\x00\x00\x00", None),
        (b"", None),
    ] {
        let moved = world.by_client(&client.link, message);
        assert_eq!(outside(moved).map(|(_, payload)| payload), payload.map(<[u8]>::to_vec), "{message:x?}");
    }
}

#[test]
fn a_datagram_can_forbid_fragments_if_the_machine_can() {
    let mut world = World::new();
    let mut client = Client::new(&world, "alice", "198.51.100.1:1000");
    client.allocate(&mut world);
    client.permit(&mut world, &["9.9.9.9:1"]);
    for forbids in [false, true] {
        let builder = Builder::new(Class::Indication, method::SEND, &[1; 12])
            .address(attribute::XOR_PEER_ADDRESS, address("9.9.9.9:1"))
            .attribute(attribute::DATA, b"x");
        let builder = if forbids { builder.attribute(attribute::DONT_FRAGMENT, &[]) } else { builder };
        let Some(Moved::Peer { dont_fragment, .. }) = world.by_client(&client.link, &builder.finish(false))
        else {
            panic!("not passed on");
        };
        assert_eq!(dont_fragment, forbids);
    }
}

#[test]
fn a_user_has_so_many_bytes_a_second_over_all_allocations() {
    let mut world = World::with(|turn| {
        (turn.quotas.bytes_per_second, turn.quotas.bytes_burst) = (10_000, 100_000);
    });
    let mut clients = [1, 2].map(|port| Client::new(&world, "alice", &format!("198.51.100.1:{port}")));
    let mut ports = Vec::new();
    for client in &mut clients {
        ports.push(client.allocate(&mut world).port());
        client.bind(&mut world, 0x4000, "9.9.9.9:1");
    }
    let relay = world.socket(ports[1]).unwrap();
    let payload = [0; 1000];
    let run = |world: &mut World, clients: &mut [Client; 2]| {
        let mut passed = 0;
        for _ in 0..100 {
            passed += usize::from(clients[0].send_by(world, 0x4000, &payload).is_some());
            passed += usize::from(world.by_peer(relay, "9.9.9.9:1", &payload).is_some());
        }
        passed
    };
    assert_eq!(run(&mut world, &mut clients), 100, "both ways count");
    world.pass(SECOND);
    assert_eq!(run(&mut world, &mut clients), 10);
    assert_eq!(world.server.counters().refused(Refusal::Bandwidth), 290);
    let (sent, received) = (world.server.counters().from_clients, world.server.counters().to_clients);
    assert_eq!((sent.packets + received.packets, sent.bytes + received.bytes), (110, 110_000));
    // A new allocation brings no new allowance.
    for client in &mut clients {
        client.refresh(&mut world, 0);
    }
    clients[0].allocate(&mut world);
    clients[0].bind(&mut world, 0x4000, "9.9.9.9:1");
    assert_eq!(clients[0].send_by(&mut world, 0x4000, &payload), None);
    // And nobody is remembered for ever.
    clients[0].refresh(&mut world, 0);
    world.pass(10 * SECOND);
    assert_eq!(world.server.users(), 0);
}
