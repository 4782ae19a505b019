//! Somebody else's client, that of the crate `rtc-turn`, by datagrams and by a stream.

use std::time::Duration;

use switchyard_loadtest::turn::client::{Carrier, Credentials, RelayEvent, Relayed};
use switchyard_turn_config::{framing::Stream, server::Transport};

use crate::world::{Client, Moved, SECRET, SFU, UNIX, World, address, outside};

/// The client, and the server's end of its connection.
struct Foreign {
    relayed: Relayed,
    link: switchyard_turn_config::server::Link,
    stream: Stream,
}

impl Foreign {
    fn new(world: &World, remote: &str, transport: Transport) -> Self {
        let carrier = if transport.is_stream() { Carrier::Stream } else { Carrier::Datagrams };
        let link = Client::by(world, "alice", remote, transport).link;
        let credentials = Credentials::from_secret(SECRET, "alice", UNIX + 100_000);
        let relayed = Relayed::new(world.now, link.local, carrier, credentials).unwrap();
        Self { relayed, link, stream: Stream::new(world.now) }
    }

    /// Exchanges all that there is, and returns what the server passed on.
    fn exchange(&mut self, world: &mut World) -> Vec<Moved> {
        let mut forwarded = Vec::new();
        loop {
            let mut was_quiet = true;
            while let Some(bytes) = self.relayed.poll_transmit() {
                was_quiet = false;
                if !self.link.transport.is_stream() {
                    forwarded.extend(world.by_client(&self.link, &bytes));
                    continue;
                }
                // In pieces, as streams come.
                for piece in bytes.chunks(7) {
                    let (stream, link, now) = (&mut self.stream, &self.link, world.now);
                    stream
                        .handle(now, piece, |message| forwarded.extend(world.by_client(link, message)))
                        .unwrap();
                }
            }
            for (link, bytes) in std::mem::take(&mut world.sent) {
                was_quiet = false;
                assert_eq!(link, self.link);
                self.relayed.handle_bytes(world.now, &bytes);
            }
            if was_quiet {
                return forwarded;
            }
        }
    }

    fn event(&mut self) -> RelayEvent {
        self.relayed.poll_event().expect("an event")
    }

    fn receive(&mut self, world: &World, moved: Option<Moved>) -> RelayEvent {
        let Some(Moved::Client(link, bytes)) = moved else { panic!("{moved:?}") };
        assert_eq!(link, self.link);
        self.relayed.handle_bytes(world.now, &bytes);
        self.event()
    }
}

#[test]
fn a_foreign_client_allocates_exchanges_refreshes_and_leaves() {
    for (transport, peer) in Transport::ALL.into_iter().flat_map(|t| [(t, "9.9.9.9:5000"), (t, SFU)]) {
        let mut world = World::new();
        let mut client = Foreign::new(&world, "198.51.100.1:1000", transport);
        client.exchange(&mut world);
        let RelayEvent::Allocated(relayed) = client.event() else { panic!("no allocation") };
        assert_eq!(relayed.ip(), address("192.0.2.1:1").ip());
        client.relayed.permit(world.now, address(peer));
        client.exchange(&mut world);
        assert_eq!(client.event(), RelayEvent::Permitted(address(peer)));

        let mut ways = std::collections::BTreeSet::new();
        for number in 0..10_u8 {
            // The first goes as a Send indication, and asks for a channel by the way.
            let payload = vec![number; 1 + usize::from(number)];
            client.relayed.send(world.now, address(peer), &payload).unwrap();
            let forwarded = client.exchange(&mut world);
            assert_eq!(forwarded.len(), 1, "{transport:?} to {peer}, datagram {number}");
            if number == 0 {
                assert!(matches!(client.event(), RelayEvent::Bound(_)), "a channel was asked for");
            }
            let back = match &forwarded[0] {
                Moved::Peer { relay, payload: passed, .. } => {
                    assert_eq!(*passed, payload);
                    let relay = *relay;
                    world.by_peer(relay, peer, passed)
                }
                Moved::Sfu { allocation, payload: passed, .. } => {
                    assert_eq!(*passed, payload);
                    let allocation = *allocation;
                    world.by_sfu(allocation, peer, passed)
                }
                other => panic!("{other:?}"),
            };
            if let Some(Moved::Client(_, bytes)) = &back {
                ways.insert(bytes[0] >= 0x40);
            }
            let event = client.receive(&world, back);
            assert_eq!(event, RelayEvent::Data(address(peer), payload.into()));
        }
        assert!(ways.contains(&true), "a channel was used");

        // Fifty minutes, in which the client refreshes what it has. When a nonce expires, after an hour, this client takes
        // the new one and does not repeat its request, so that its allocation ends.
        for _ in 0..3000 {
            world.pass(Duration::from_secs(1));
            while client.relayed.poll_timeout().is_some_and(|at| at <= world.now) {
                client.relayed.handle_timeout(world.now);
                client.exchange(&mut world);
            }
        }
        assert!(world.server.has_allocation(&client.link), "{transport:?}");
        client.relayed.send(world.now, address(peer), b"still").unwrap();
        let forwarded = client.exchange(&mut world);
        assert_eq!(forwarded.len(), 1, "{transport:?} to {peer}, after fifty minutes");
        if transport == Transport::Udp && peer != SFU {
            assert_eq!(outside(forwarded.into_iter().next()).unwrap().1, b"still");
        }
        client.relayed.close(world.now);
        client.exchange(&mut world);
        assert!(!world.server.has_allocation(&client.link));
        assert!(world.sockets.is_empty());
    }
}
