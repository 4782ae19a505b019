//! Clients that do harm, and what bystanders notice: nothing. Virtual time, except that the shards' work is measured
//! in real time where the question is how long bystanders wait for it.

use std::{
    net::SocketAddr,
    sync::Arc,
    task::{Poll, Waker},
    time::Duration,
};

use bytes::{BufMut as _, Bytes, BytesMut};
use switchyard::{
    engine::{
        Command, JoinRequest, SocketId,
        ice::nominating_request,
        outbox::{Outbox, Outgoing},
    },
    room::{Grant, permission::Role},
};
use switchyard_loadtest::{
    browser::{Lane, Pipe},
    netsim::LinkConfig,
};
use switchyard_signaling::{
    Features,
    frame::{self, Kind as FrameKind, Target},
    message::{ClientControl, Description, ServerText, to_json},
};

use crate::{
    world::{Kind, MS, SECOND, Setup, Waits, World, room_key},
    worlds::webrtc::{credentials, with_credentials},
};

/// Bystanders in one room, on data channels.
fn bystanders(setup: Setup, count: usize) -> World {
    let mut world = World::new(setup);
    for _ in 0..count {
        let link = LinkConfig { delay: 5 * MS, ..LinkConfig::default() };
        let client = world.add_client(&Kind { udp: Some(link), ..Kind::default() });
        world.join(client, "room");
    }
    world.run_to(10 * SECOND, "all are on the data channel", |world| world.all_on(Pipe::Channel));
    world.run(SECOND);
    world
}

fn coarse(seed: u64) -> Setup {
    Setup { step: MS, ..Setup::new(seed) }
}

/// The bystanders talk for some seconds; in each millisecond something else may happen.
fn talk(world: &mut World, span: Duration, mut meanwhile: impl FnMut(&mut World)) {
    let end = world.elapsed() + span;
    let mut turn = 0;
    while world.elapsed() < end {
        let client = turn % world.clients.len();
        if turn % 3 == 0 {
            world.send(client, "room", Lane::Reliable, 1, 200).unwrap();
        }
        meanwhile(world);
        world.run(MS);
        turn += 1;
    }
    world.run(500 * MS);
}

/// A WebSocket of ours to shard 0, and its session.
struct Attacker {
    socket: SocketId,
    outbox: Arc<Outbox>,
    /// The number of its next reliable frame.
    seq: u32,
}

impl Attacker {
    fn join(world: &mut World, number: u64, room: &str, offer: Option<Description>) -> Self {
        let attacker = Self { socket: SocketId(1_000_000 + number), outbox: Arc::default(), seq: 1 };
        attacker.join_again(world, room, offer);
        attacker
    }

    fn join_again(&self, world: &mut World, room: &str, offer: Option<Description>) {
        let user: Arc<str> = format!("attacker{}", self.socket.0).into();
        let grant = Grant {
            name: user.clone(),
            user,
            role: Role::Editor,
            permissions: Role::Editor.permissions(),
            expires: world.now + 1000 * SECOND,
            signing_key: None,
        };
        let request = JoinRequest {
            id: 1,
            room: room_key(room),
            grant,
            features: Features::default(),
            offer,
            follow: None,
        };
        let (socket, outbox) = (self.socket, self.outbox.clone());
        world.handle_on_shard(0, Command::Join { socket, outbox, request });
    }

    fn frames(&self, world: &mut World, frames: impl Into<Bytes>) {
        world.handle_on_shard(0, Command::Frames(self.socket, frames.into()));
    }

    /// A chunk of a message to the room with this handle.
    fn chunk(&mut self, world: &mut World, handle: u16, stream: u16, (total, payload): (usize, &[u8])) {
        let mut out = BytesMut::new();
        let last = total == payload.len();
        let first = Some((&Target::Room, total));
        let numbers = (self.seq, 0);
        frame::put_chunk(&mut out, FrameKind::Data, false, numbers, handle, 0, stream, first, last, payload);
        self.seq += 1;
        self.frames(world, out);
    }

    fn control(&mut self, world: &mut World, handle: u16, control: &ClientControl) {
        let (mut out, json) = (BytesMut::new(), to_json(control));
        let first = Some((&Target::Room, json.len()));
        let (numbers, json) = ((self.seq, 0), json.as_bytes());
        frame::put_chunk(&mut out, FrameKind::Control, true, numbers, handle, 0, 0, first, true, json);
        self.seq += 1;
        self.frames(world, out);
    }

    /// Reads what is there, as long as somebody reads.
    fn read(&self, world: &mut World) -> Vec<String> {
        let mut texts = Vec::new();
        while let Poll::Ready(outgoing) = self.outbox.poll(Waker::noop()) {
            match outgoing {
                Outgoing::Text(text) => texts.push(text),
                Outgoing::Frames(_) | Outgoing::Drain => {}
                Outgoing::Close(_) => {
                    let socket = self.socket;
                    world.handle_on_shard(0, Command::Closed { socket, clean: false });
                    break;
                }
            }
            if self.outbox.written() {
                world.handle_on_shard(0, Command::Writable(self.socket));
            }
        }
        texts
    }
}

#[test]
fn ten_thousand_client_hellos_from_unknown_addresses_leave_no_trace() {
    let mut world = bystanders(coarse(1), 2);
    let hello = world.client_hello.clone().unwrap();
    let before = (world.population(), world.held(), world.shards[0].take_counts().peers.unknown);
    let mut number = 0u16;
    talk(&mut world, 2 * SECOND, |world| {
        for _ in 0..5 {
            number = number.wrapping_add(1);
            world.inject(0, ([10, 201, (number >> 8) as u8, number as u8], 1000 + number % 7).into(), &hello);
        }
    });
    assert!(number >= 10_000);
    assert_eq!(world.population(), before.0);
    assert_eq!(world.held(), before.1);
    assert_eq!(world.shards[0].take_counts().peers.unknown, u64::from(number));
    assert!(world.strays.is_empty(), "nothing is sent to addresses that have proven nothing");
    world.verdict();
}

/// Datagrams of the first flight of DTLS, as bad as they come.
fn bad_flights(hello: &[u8]) -> Vec<Vec<u8>> {
    let body = &hello[25..];
    let fragment = |record: u64, offset: usize, bytes: &[u8]| {
        let mut out = vec![22, 254, 255, 0, 0];
        out.extend_from_slice(&record.to_be_bytes()[2..]);
        out.put_u16(12 + bytes.len() as u16);
        out.push(1);
        out.extend_from_slice(&(body.len() as u32).to_be_bytes()[1..]);
        out.extend_from_slice(&[0, 0]);
        out.extend_from_slice(&(offset as u32).to_be_bytes()[1..]);
        out.extend_from_slice(&(bytes.len() as u32).to_be_bytes()[1..]);
        out.extend_from_slice(bytes);
        out
    };
    let mut flights = vec![hello.to_vec()];
    // One byte each, never all of them; overlapping halves; the same one again and again.
    flights.extend((0..body.len() - 1).map(|at| fragment(at as u64, at, &body[at..=at])));
    flights.extend((0..60).map(|at| fragment(1000 + at as u64, at, &body[at..body.len() / 2 + at])));
    flights.extend((0..40).map(|at| fragment(2000 + at, 0, &body[..10])));
    flights
}

/// The 99th percentile of what clients wait while this goes on: the least of some spans, because whatever else the
/// machine does only ever adds.
fn least_p99(world: &mut World, mut meanwhile: impl FnMut(&mut World)) -> Duration {
    let spans = (0..5).map(|_| {
        world.waits = Some(Waits::default());
        talk(world, 2 * SECOND, &mut meanwhile);
        world.waits.take().unwrap().p99()
    });
    spans.min().unwrap()
}

#[test]
fn a_thousand_validated_peers_that_stall_or_send_fragments_at_most_double_what_bystanders_wait() {
    const PEERS: u64 = 1000;
    let mut world = bystanders(coarse(2), 10);
    let hello = world.client_hello.clone().unwrap();
    let calm = least_p99(&mut world, |_| {});

    let template = world.clients[0].wire.as_ref().unwrap().offer.clone().unwrap();
    let mut validated: Vec<SocketAddr> = Vec::new();
    let mut attackers = Vec::new();
    for number in 0..PEERS {
        let mut remote = credentials(&template.sdp);
        remote.ufrag = format!("attacker{number}");
        let offer = Description { pc: 1, sdp: with_credentials(&template.sdp, &remote) };
        let attacker = Attacker::join(&mut world, number, &format!("theirs{}", number / 40), Some(offer));
        let texts = attacker.read(&mut world);
        let answer = texts.iter().find_map(|text| match serde_json::from_str(text) {
            Ok(ServerText::Answer(answer)) => Some(answer.sdp),
            _ => None,
        });
        let local = credentials(&answer.unwrap());
        let from = SocketAddr::from(([10, 202, (number >> 8) as u8, number as u8], 9));
        world.inject(0, from, &nominating_request(&local, &remote, b"twelve bytes"));
        validated.push(from);
        attackers.push(attacker);
        if number % 20 == 0 {
            world.run(MS);
        }
    }
    world.run(MS);
    assert_eq!(world.population().3, 1010);
    assert_eq!(world.strays.iter().filter(|(_, datagram)| datagram[..2] == [1, 1]).count(), PEERS as usize);

    let flights = bad_flights(&hello);
    let mut sent = 0;
    let attacked = least_p99(&mut world, |world| {
        for _ in 0..5 {
            // A quarter of them stalls after its first datagram.
            let peer = sent % validated.len();
            let round = sent / validated.len();
            if !peer.is_multiple_of(4) || round == 0 {
                let flight =
                    &flights[if round == 0 { 0 } else { 1 + (peer * 7 + round) % (flights.len() - 1) }];
                world.inject(0, validated[peer], flight);
            }
            sent += 1;
        }
        world.strays.clear();
    });
    println!(
        "bystanders' p99: {calm:?} alone, {attacked:?} ({:.2} times) with {PEERS} such peers and {sent} of their datagrams",
        attacked.as_secs_f64() / calm.as_secs_f64()
    );
    assert!(attacked <= 2 * calm, "more than double");
    for attacker in &attackers {
        attacker.read(&mut world);
    }
    world.run(8 * SECOND);
    assert_eq!(world.population().3, 10, "those that never connect are given up in time");
    world.verdict();
}

#[test]
fn a_client_that_floods_harms_nobody_and_costs_bounded_memory() {
    let mut setup = coarse(3);
    setup.limits.messages_per_second = 1000;
    setup.limits.message_burst = 2000;
    let mut world = bystanders(setup, 4);
    let before = world.population();
    let alone = world.held();
    let mut attackers: Vec<Attacker> =
        (0..8).map(|number| Attacker::join(&mut world, number, "room", None)).collect();
    world.run(MS);
    world.held_most = 0;
    let mut tick = 0u32;
    talk(&mut world, 4 * SECOND, |world| {
        tick += 1;
        let tick16 = tick as u16;
        let noise = [tick as u8; 64];
        // Garbage, acknowledgements of what was never sent, numbers far ahead.
        attackers[0].frames(world, noise.to_vec());
        let mut out = BytesMut::new();
        frame::put_ack(&mut out, 0x7000_0000 + tick);
        frame::put_attach(&mut out, tick, 0xffff_0000);
        attackers[1].frames(world, out);
        attackers[2].seq = tick * 1000;
        attackers[2].chunk(world, 1, 1, (10, &[0; 10]));
        // A message on each of thousands of streams.
        for stream in 0..4 {
            attackers[3].chunk(world, 1, tick16.wrapping_mul(4) + stream, (64, &noise));
        }
        // Messages that never end, on new streams.
        attackers[4].chunk(world, 1, tick16, (200_000, &[1; 16_000]));
        // In and out.
        let leave = ClientControl::Leave { id: tick };
        let handle = attackers[5].handle(tick);
        attackers[5].control(world, handle, &leave);
        attackers[5].join_again(world, &format!("loop{}", tick % 40), None);
        // As many as it can, to everybody.
        for _ in 0..20 {
            attackers[6].chunk(world, 1, 5, (100, &[2; 100]));
        }
        // Number 7 reads nothing at all; the others do.
        for attacker in &attackers[..7] {
            attacker.read(world);
        }
    });
    println!("held at most {} KiB for {} sessions", world.held_most / 1024, before.2 + 8);
    // The one that reads nothing may cost its replay limit; so may, in a burst, those that do not acknowledge.
    let each = world.setup.limits.announced.replay_limit_bytes + 2 * 64 * 1024;
    assert!(world.held_most <= alone + 8 * each);
    for attacker in &attackers {
        let socket = attacker.socket;
        world.handle_on_shard(0, Command::Closed { socket, clean: true });
    }
    world.run(SECOND);
    assert_eq!(world.population(), before, "nothing is left of them");
    for client in 0..4 {
        world.send(client, "room", Lane::Reliable, 1, 100).unwrap();
    }
    world.run(SECOND);
    world.verdict_among_clients();
}

impl Attacker {
    /// Any handle that it may have.
    fn handle(&self, tick: u32) -> u16 {
        (tick % 50) as u16
    }
}
