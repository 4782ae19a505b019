//! The TURN server: a message from anybody, a stream cut anyhow, and a client that may sign whatever it likes.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use switchyard_turn_config::{
    credentials::{Credential, Keyring},
    framing::Stream,
    peers::{Policy, Reach},
    server::{AllocationId, Forward, Host, Link, MAX_CHALLENGE, Output, RelaySocket, Server, Transport},
    settings::{Secret, Turn},
    stun::{Builder, Class, Integrity, Key, Message, PasswordAlgorithm, attribute, method},
};

const SECRET: &str = "a secret that is shared with nobody";
const REALM: &str = "example.org";
const SFU: ([u8; 4], u16) = ([192, 0, 2, 1], 7882);
const UNIX: u64 = 1_800_000_000;
/// Allocations of the one user.
const ALLOCATIONS: u32 = 2;
const PORTS: (u16, u16) = (50_000, 50_007);

/// A client's attributes, by number.
const ATTRIBUTES: [u16; 12] = [
    attribute::REQUESTED_TRANSPORT,
    attribute::LIFETIME,
    attribute::XOR_PEER_ADDRESS,
    attribute::CHANNEL_NUMBER,
    attribute::DATA,
    attribute::REQUESTED_ADDRESS_FAMILY,
    attribute::ADDITIONAL_ADDRESS_FAMILY,
    attribute::EVEN_PORT,
    attribute::RESERVATION_TOKEN,
    attribute::DONT_FRAGMENT,
    0x7abc,
    0x8abc,
];

fn server(now: Instant) -> Server {
    let mut turn = Turn { realm: REALM.to_owned(), ..Turn::default() };
    turn.credentials.secret = Some(Secret::new(SECRET));
    turn.relay.bind_v4 = Some(SFU.0.into());
    (turn.relay.min_port, turn.relay.max_port) = PORTS;
    turn.quotas.allocations_per_user = ALLOCATIONS;
    let host = Host { sfu: vec![SFU.into()], addresses: Vec::new(), can_forbid_fragments: true };
    Server::new(&turn, &host, now, UNIX, [7; 32]).expect("good settings")
}

fn link(number: u8) -> Link {
    let is_stream = number % 2 == 1;
    Link {
        transport: if is_stream { Transport::Tcp } else { Transport::Udp },
        connection: number.into(),
        remote: (Ipv4Addr::new(198, 51, 100, number), 1000).into(),
        local: (Ipv4Addr::from(SFU.0), 3478).into(),
    }
}

/// Whatever a stranger says, the answer is small and nothing is passed on or kept.
pub fn message(data: &[u8]) {
    if let Ok(message) = Message::parse(data) {
        let key = Key::long_term(PasswordAlgorithm::Md5, b"1900000000:alice", REALM.as_bytes(), b"password");
        assert!(!message.verify(&key) || message.integrity().is_some());
        assert!(message.peers().count() <= data.len() / 12);
        assert!(message.unknown().len() <= data.len() / 4);
        assert!(message.data.is_none_or(|payload| payload.len() < data.len()));
    }
    let now = Instant::now();
    let mut server = server(now);
    assert!(server.handle_client(now, &link(0), data).is_none());
    let mut answers = 0;
    while let Some(output) = server.poll_output() {
        let Output::Send { bytes, .. } = output else { panic!("{output:?}") };
        let most = (MAX_CHALLENGE + REALM.len().next_multiple_of(4)).max(data.len() + 24);
        assert!(bytes.len() <= most, "{} bytes", bytes.len());
        Message::parse(&bytes).expect("an answer is a message");
        answers += 1;
    }
    assert!(answers <= 1);
    assert_eq!((server.slots(), server.users(), server.poll_timeout()), (0, 0, None));
}

/// However a stream is cut, the same messages are found, and no more than was read. The first byte says how to cut.
pub fn stream(data: &[u8]) {
    let Some((&step, data)) = data.split_first() else { return };
    let now = Instant::now();
    let whole = messages(data, data.len().max(1), now);
    let cut = messages(data, usize::from(step).max(1), now);
    assert_eq!(whole, cut);
    assert!(whole.0.iter().map(Vec::len).sum::<usize>() <= data.len());
}

fn messages(data: &[u8], step: usize, now: Instant) -> (Vec<Vec<u8>>, bool) {
    let mut stream = Stream::new(now);
    let mut found = Vec::new();
    for part in data.chunks(step) {
        if stream.handle(now, part, |message| found.push(message.to_vec())).is_err() {
            return (found, true);
        }
    }
    (found, false)
}

/// Takes bytes from the front of the input.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or(0)
    }

    fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (bytes, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        bytes
    }
}

/// What a client that has a credential does.
struct Session {
    server: Server,
    now: Instant,
    sockets: BTreeSet<RelaySocket>,
    asked_for: Vec<RelaySocket>,
    allocations: BTreeSet<AllocationId>,
    nonces: [Vec<u8>; 4],
    credential: Credential,
    policy: Policy,
    transactions: u8,
}

impl Session {
    fn request(&mut self, number: u8, method: u16, input: &mut Input<'_>) {
        self.transactions = self.transactions.wrapping_add(1);
        let class = if method == method::SEND { Class::Indication } else { Class::Request };
        let mut builder = Builder::new(class, method, &[self.transactions; 12]);
        for _ in 0..input.byte() % 8 {
            let kind = ATTRIBUTES[usize::from(input.byte()) % ATTRIBUTES.len()];
            let length = input.byte();
            let value = input.bytes(length.into());
            // Six bytes of an address are one in the clear.
            builder = match (kind, value) {
                (attribute::XOR_PEER_ADDRESS, &[a, b, c, d, high, low]) => {
                    builder.address(kind, (Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([high, low])).into())
                }
                _ => builder.attribute(kind, value),
            };
        }
        if method != method::SEND {
            let Credential { username, password } = &self.credential;
            let key = Key::long_term(
                PasswordAlgorithm::Md5,
                username.as_bytes(),
                REALM.as_bytes(),
                password.as_bytes(),
            );
            builder = builder
                .attribute(attribute::USERNAME, username.as_bytes())
                .attribute(attribute::REALM, REALM.as_bytes())
                .attribute(attribute::NONCE, &self.nonces[usize::from(number)])
                .sign(Integrity::Sha1, &key);
        }
        self.client_says(number, &builder.finish(false));
    }

    fn client_says(&mut self, number: u8, bytes: &[u8]) {
        if let Some(forward) = self.server.handle_client(self.now, &link(number), bytes) {
            check(&forward, &self.sockets, &self.policy);
        }
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(output) = self.server.poll_output() {
            match output {
                Output::Send { link, bytes } => {
                    let message = Message::parse(&bytes).expect("an answer is a message");
                    if let Some(nonce) = message.nonce {
                        self.nonces[link.connection as usize] = nonce.to_vec();
                    }
                }
                Output::Open { relay, .. } => {
                    assert!(self.sockets.insert(relay), "asked for twice");
                    self.asked_for.push(relay);
                }
                Output::Close { relay } => {
                    assert!(self.sockets.remove(&relay), "closed, and never asked for")
                }
                Output::Ended { allocation, .. } => {
                    self.allocations.insert(allocation);
                    assert!(self.sockets.iter().all(|relay| relay.allocation != allocation), "left open");
                }
            }
        }
        let now: u64 = self.server.counters().allocations_now.iter().sum();
        assert!(now <= ALLOCATIONS.into() && self.server.slots() <= ALLOCATIONS as usize);
    }
}

/// Nothing goes where it may not go.
fn check(forward: &Forward<'_>, sockets: &BTreeSet<RelaySocket>, policy: &Policy) {
    match forward {
        Forward::Peer { relay, peer, .. } => {
            assert!(sockets.contains(relay), "there is no such socket");
            assert_eq!(policy.judge(peer.ip()), Reach::Outside, "{peer}");
        }
        Forward::Sfu { from, to, .. } => {
            assert_eq!(*to, SocketAddr::from(SFU));
            assert!((PORTS.0..=PORTS.1).contains(&from.port()));
        }
        Forward::Client { link, header, payload, padding } => {
            let bytes = [header.as_bytes(), payload, &[0; 4][..*padding]].concat();
            if bytes[0] < 0x40 {
                let message = Message::parse(&bytes).expect("a Data indication");
                assert_eq!(message.data, Some(*payload));
            } else {
                assert_eq!(usize::from(u16::from_be_bytes([bytes[2], bytes[3]])), payload.len());
                assert!(!link.transport.is_stream() || bytes.len().is_multiple_of(4));
            }
        }
    }
}

/// The input is a list of steps: what is done, by which of four clients, and with what.
pub fn signed(data: &[u8]) {
    let now = Instant::now();
    let keyring = Keyring::new(&Secret::new(SECRET), None, UNIX, Duration::ZERO);
    let mut session = Session {
        server: server(now),
        now,
        sockets: BTreeSet::new(),
        asked_for: Vec::new(),
        allocations: BTreeSet::new(),
        nonces: Default::default(),
        credential: keyring.issue("alice", UNIX, Duration::from_secs(1_000_000)),
        policy: Policy::new([SFU.0.into()], &[], &[]),
        transactions: 0,
    };
    for number in 0..4 {
        let challenged = Builder::new(Class::Request, method::ALLOCATE, &[0; 12]).finish(false);
        session.client_says(number, &challenged);
    }
    let mut input = Input(data);
    while !input.0.is_empty() {
        let (what, number) = (input.byte(), input.byte() % 4);
        match what % 12 {
            0 => session.request(number, method::ALLOCATE, &mut input),
            1 => session.request(number, method::REFRESH, &mut input),
            2 => session.request(number, method::CREATE_PERMISSION, &mut input),
            3 => session.request(number, method::CHANNEL_BIND, &mut input),
            4 => session.request(number, method::SEND, &mut input),
            5 | 6 => {
                let length = input.byte();
                session.client_says(number, input.bytes(length.into()));
            }
            7 | 8 => {
                let Some(&relay) = session.sockets.iter().nth(number.into()) else { continue };
                let (peer, port, length) = (input.bytes(4), input.byte(), input.byte());
                let Ok(peer) = <[u8; 4]>::try_from(peer) else { continue };
                let (peer, payload) = ((peer, port.into()).into(), input.bytes(length.into()));
                let forward = if what % 12 == 7 {
                    session.server.handle_peer(session.now, relay, peer, payload)
                } else {
                    session.server.handle_sfu(session.now, relay.allocation, SFU.into(), payload)
                };
                if let Some(forward) = forward {
                    check(&forward, &session.sockets, &session.policy);
                }
            }
            9 => {
                session.now += Duration::from_secs(u64::from(input.byte()) * 5);
                session.server.handle_timeout(session.now);
                session.drain();
            }
            10 => {
                let is_open = input.byte() % 4 != 0;
                if let Some(relay) = session.asked_for.pop() {
                    if !is_open {
                        session.sockets.remove(&relay);
                    }
                    session.server.handle_opened(session.now, relay, is_open);
                    session.drain();
                }
            }
            _ => {
                session.server.handle_closed(session.now, &link(number));
                session.drain();
            }
        }
    }
    // Everything ends by itself.
    session.server.handle_timeout(session.now + Duration::from_secs(7200));
    session.drain();
    assert!(session.sockets.is_empty());
    assert_eq!(session.server.counters().allocations_now, [0; 3]);
}
