//! What the TURN server costs a datagram in user space: the state machine alone, no sockets, one thread.
//!
//! System calls cost many times that; these rows are there so that it stays so.

use std::{
    hint::black_box,
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow};
use switchyard_turn_config::{
    credentials::{Credential, Keyring},
    server::{Forward, Host, Link, Output, RelaySocket, Server, Transport},
    settings::{Secret, Turn},
    stun::{Builder, Class, Integrity, Key, Message, PasswordAlgorithm, attribute, method},
};

use crate::{
    Depth,
    report::{Report, Row},
};

const SECRET: &str = "a secret of the benchmark alone";
const REALM: &str = "switchyard";
const SFU: (Ipv4Addr, u16) = (Ipv4Addr::new(192, 0, 2, 1), 7882);
const PEER: (Ipv4Addr, u16) = (Ipv4Addr::new(9, 9, 9, 9), 5000);
const UNIX: u64 = 1_800_000_000;
const PAYLOAD: usize = 1200;
/// Datagrams of one round, spread over all allocations.
const DATAGRAMS: usize = 20_000;
const ROUNDS: usize = 100;

/// Nanoseconds for each datagram, and for each request of an allocation's life.
pub(super) fn measure(depth: Depth, report: &mut Report) -> anyhow::Result<()> {
    for &count in counts(depth) {
        let mut bench = Bench::new(count)?;
        let mut row = |name: &str, nanoseconds: f64, unit| {
            report.add(Row {
                name: format!("turn/{count}/{name}"),
                value: nanoseconds,
                unit,
                floor_ratio: None,
                engine_ratio: None,
                peer_ratio: None,
            });
        };
        row("allocate", bench.allocating, "ns/allocation");
        let mut channel_data = vec![0x40, 0];
        channel_data.extend_from_slice(&(PAYLOAD as u16).to_be_bytes());
        channel_data.resize(4 + PAYLOAD, 0);
        let mut to_sfu = channel_data.clone();
        to_sfu[1] = 1;
        let mut to_next = channel_data.clone();
        to_next[1] = 2;
        let send = Builder::new(Class::Indication, method::SEND, &[9; 12])
            .address(attribute::XOR_PEER_ADDRESS, PEER.into())
            .attribute(attribute::DATA, &[0; PAYLOAD])
            .finish(false);
        let other: SocketAddr = (PEER.0, PEER.1 + 1).into();
        let payload = [0; PAYLOAD];
        row(
            "channel-to-peer",
            bench.run(|server, now, client| server.handle_client(now, &client.link, &channel_data))?,
            "ns/datagram",
        );
        row(
            "channel-to-sfu",
            bench.run(|server, now, client| server.handle_client(now, &client.link, &to_sfu))?,
            "ns/datagram",
        );
        row(
            "channel-to-allocation",
            bench.run(|server, now, client| server.handle_client(now, &client.link, &to_next))?,
            "ns/datagram",
        );
        row(
            "send-to-peer",
            bench.run(|server, now, client| server.handle_client(now, &client.link, &send))?,
            "ns/datagram",
        );
        row(
            "peer-to-channel",
            bench.run(|server, now, client| server.handle_peer(now, client.relay, PEER.into(), &payload))?,
            "ns/datagram",
        );
        row(
            "peer-to-data",
            bench.run(|server, now, client| server.handle_peer(now, client.relay, other, &payload))?,
            "ns/datagram",
        );
    }
    Ok(())
}

/// What the names of the rows begin with.
pub(super) fn names(depth: Depth) -> impl Iterator<Item = String> {
    counts(depth).iter().map(|count| format!("turn/{count}"))
}

fn counts(depth: Depth) -> &'static [usize] {
    match depth {
        Depth::Full => &[1, 100, 10_000],
        Depth::Quick => &[100],
    }
}

struct Client {
    link: Link,
    relay: RelaySocket,
}

struct Bench {
    server: Server,
    now: Instant,
    clients: Vec<Client>,
    /// Nanoseconds, the four requests together.
    allocating: f64,
}

impl Bench {
    /// So many allocations, each with three channels: to a peer outside, to the SFU, and to its own relayed address.
    fn new(count: usize) -> anyhow::Result<Self> {
        let mut turn = Turn { realm: REALM.to_owned(), ..Turn::default() };
        turn.credentials.secret = Some(Secret::new(SECRET));
        turn.relay.bind_v4 = Some(SFU.0);
        turn.relay.min_port = 20_000;
        turn.quotas.allocations_per_user = 100_000;
        turn.quotas.allocations = 100_000;
        turn.quotas.bytes_per_second = 1 << 40;
        turn.quotas.bytes_burst = 1 << 50;
        (turn.quotas.answers_per_second, turn.quotas.answers_burst) = (1_000_000, 1_000_000);
        let host = Host { sfu: vec![SFU.into()], addresses: Vec::new(), can_forbid_fragments: true };
        let now = Instant::now();
        let server = Server::new(&turn, &host, now, UNIX, [7; 32])
            .map_err(|problems| anyhow!("settings: {problems:?}"))?;
        let mut bench = Self { server, now, clients: Vec::new(), allocating: 0.0 };
        let start = Instant::now();
        for number in 0..count {
            bench.open(number)?;
        }
        bench.allocating = start.elapsed().as_nanos() as f64 / count as f64;
        Ok(bench)
    }

    fn open(&mut self, number: usize) -> anyhow::Result<()> {
        let link = Link {
            transport: Transport::Udp,
            connection: 0,
            remote: (Ipv4Addr::from(0x0800_0000 + number as u32 / 50), 1000 + number as u16 % 50).into(),
            local: (SFU.0, 3478).into(),
        };
        let keyring = Keyring::new(&Secret::new(SECRET), None, UNIX, Duration::ZERO);
        let Credential { username, password } = keyring.issue("bench", UNIX, Duration::from_secs(86_400));
        let key = Key::long_term(
            PasswordAlgorithm::Md5,
            username.as_bytes(),
            REALM.as_bytes(),
            password.as_bytes(),
        );
        let unsigned = Builder::new(Class::Request, method::ALLOCATE, &[0; 12]).finish(false);
        let challenge = self.ask(&link, &unsigned)?.0.context("no challenge")?;
        let nonce = Message::parse(&challenge)?.nonce.context("no nonce")?.to_vec();
        let sign = |builder: Builder| {
            builder
                .attribute(attribute::USERNAME, username.as_bytes())
                .attribute(attribute::REALM, REALM.as_bytes())
                .attribute(attribute::NONCE, &nonce)
                .sign(Integrity::Sha1, &key)
                .finish(false)
        };
        let transport = [17, 0, 0, 0];
        let allocate = sign(
            Builder::new(Class::Request, method::ALLOCATE, &[1; 12])
                .attribute(attribute::REQUESTED_TRANSPORT, &transport),
        );
        let allocated = self.ask(&link, &allocate)?.0.context("no allocation")?;
        let relayed = Message::parse(&allocated)?.relayed.context("no relayed address")?;
        let mut relay = None;
        for (number, peer) in [(0, PEER.into()), (1, SFU.into()), (2, relayed)] {
            let bind = sign(
                Builder::new(Class::Request, method::CHANNEL_BIND, &[2 + number; 12])
                    .attribute(attribute::CHANNEL_NUMBER, &[0x40, number, 0, 0])
                    .address(attribute::XOR_PEER_ADDRESS, peer),
            );
            let (answer, opened) = self.ask(&link, &bind)?;
            let answer = answer.context("no channel")?;
            anyhow::ensure!(Message::parse(&answer)?.class == Class::Success, "a channel is refused");
            relay = relay.or(opened);
        }
        self.clients.push(Client { link, relay: relay.context("no socket")? });
        Ok(())
    }

    fn ask(&mut self, link: &Link, request: &[u8]) -> anyhow::Result<(Option<Vec<u8>>, Option<RelaySocket>)> {
        anyhow::ensure!(self.server.handle_client(self.now, link, request).is_none());
        let (mut answer, mut opened) = (None, None);
        while let Some(output) = self.server.poll_output() {
            match output {
                Output::Send { bytes, .. } => answer = Some(bytes),
                Output::Open { relay, .. } => {
                    opened = Some(relay);
                    self.server.handle_opened(self.now, relay, true);
                }
                Output::Close { .. } | Output::Ended { .. } => {}
            }
        }
        Ok((answer, opened))
    }

    /// Nanoseconds for each call, in the round that was disturbed least.
    fn run<'a>(
        &mut self,
        call: impl Fn(&mut Server, Instant, &Client) -> Option<Forward<'a>>,
    ) -> anyhow::Result<f64> {
        let mut least = f64::INFINITY;
        for _ in 0..ROUNDS {
            let start = Instant::now();
            let mut passed = 0;
            for datagram in 0..DATAGRAMS {
                let client = &self.clients[datagram % self.clients.len()];
                passed +=
                    usize::from(black_box(call(&mut self.server, self.now, black_box(client))).is_some());
            }
            let taken = start.elapsed();
            anyhow::ensure!(passed == DATAGRAMS, "{} of {DATAGRAMS} were dropped", DATAGRAMS - passed);
            least = least.min(taken.as_nanos() as f64 / DATAGRAMS as f64);
        }
        Ok(least)
    }
}
