//! A server, its clients and its sockets, in memory and in simulated time.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    time::{Duration, Instant},
};

use switchyard_turn_config::{
    credentials::{Credential, Keyring},
    server::{AllocationId, Forward, Host, Link, Output, RelaySocket, Server, Transport},
    settings::{Secret, Turn},
    stun::{Builder, Class, Integrity, Key, Message, PasswordAlgorithm, attribute, method},
};

pub(crate) const SECRET: &str = "a secret that is shared with nobody";
pub(crate) const REALM: &str = "example.org";
pub(crate) const SFU: &str = "192.0.2.1:7882";
/// Unix time at the start.
pub(crate) const UNIX: u64 = 1_800_000_000;
pub(crate) const SECOND: Duration = Duration::from_secs(1);

pub(crate) fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// Settings of a server at 192.0.2.1 and 2001:db8::1.
pub(crate) fn settings() -> Turn {
    let mut turn = Turn { realm: REALM.to_owned(), ..Turn::default() };
    turn.credentials.secret = Some(Secret::new(SECRET));
    turn.relay.bind_v4 = Some("10.0.0.1".parse().unwrap());
    turn.relay.advertise_v4 = Some("192.0.2.1".parse().unwrap());
    turn.relay.bind_v6 = Some("2001:db8::1".parse().unwrap());
    turn
}

/// What becomes of a socket that the server asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Opening {
    AtOnce,
    Never,
    /// The test says.
    ByHand,
}

/// A [`Forward`], put together and kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Moved {
    Client(Link, Vec<u8>),
    Peer { relay: RelaySocket, peer: SocketAddr, payload: Vec<u8>, dont_fragment: bool },
    Sfu { allocation: AllocationId, from: SocketAddr, to: SocketAddr, payload: Vec<u8> },
}

fn moved(forward: Forward<'_>) -> Moved {
    match forward {
        Forward::Client { link, header, payload, padding } => {
            let mut bytes = [header.as_bytes(), payload].concat();
            bytes.resize(bytes.len() + padding, 0);
            Moved::Client(link, bytes)
        }
        Forward::Peer { relay, peer, payload, dont_fragment } => {
            Moved::Peer { relay, peer, payload: payload.to_vec(), dont_fragment }
        }
        Forward::Sfu { allocation, from, to, payload } => {
            Moved::Sfu { allocation, from, to, payload: payload.to_vec() }
        }
    }
}

pub(crate) struct World {
    pub(crate) server: Server,
    pub(crate) now: Instant,
    start: Instant,
    pub(crate) opening: Opening,
    /// Those that are open, or have been asked for.
    pub(crate) sockets: BTreeSet<RelaySocket>,
    pub(crate) sent: Vec<(Link, Vec<u8>)>,
    pub(crate) ended: Vec<AllocationId>,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut Turn)) -> Self {
        let mut turn = settings();
        change(&mut turn);
        let host = Host {
            sfu: vec![address(SFU)],
            addresses: vec!["192.0.2.7".parse().unwrap()],
            can_forbid_fragments: true,
        };
        let start = Instant::now();
        let server = Server::new(&turn, &host, start, UNIX, [7; 32]).unwrap();
        Self {
            server,
            now: start,
            start,
            opening: Opening::AtOnce,
            sockets: BTreeSet::new(),
            sent: Vec::new(),
            ended: Vec::new(),
        }
    }

    /// Unix time.
    pub(crate) fn unix(&self) -> u64 {
        UNIX + (self.now - self.start).as_secs()
    }

    /// Lets time pass, as the owner of a server does: its timers fire when they are due.
    pub(crate) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.server.poll_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.server.handle_timeout(self.now);
            self.drain();
            assert!(self.server.poll_timeout().is_none_or(|next| next > self.now), "a timer that stays");
        }
        self.now = end;
    }

    fn drain(&mut self) {
        while let Some(output) = self.server.poll_output() {
            match output {
                Output::Send { link, bytes } => self.sent.push((link, bytes)),
                Output::Open { relay, bind } => {
                    assert_eq!(bind.port(), relay.port);
                    assert!(["10.0.0.1", "2001:db8::1"].contains(&&*bind.ip().to_string()), "{bind}");
                    let is_new = self.sockets.insert(relay);
                    assert!(is_new, "a socket is asked for twice: {relay:?}");
                    match self.opening {
                        Opening::AtOnce => self.server.handle_opened(self.now, relay, true),
                        Opening::Never => self.open(relay, false),
                        Opening::ByHand => {}
                    }
                }
                Output::Close { relay } => {
                    assert!(self.sockets.remove(&relay), "a socket is closed that is not there: {relay:?}");
                }
                Output::Ended { allocation, .. } => self.ended.push(allocation),
            }
        }
    }

    pub(crate) fn open(&mut self, relay: RelaySocket, is_open: bool) {
        if !is_open {
            self.sockets.remove(&relay);
        }
        self.server.handle_opened(self.now, relay, is_open);
        self.drain();
    }

    pub(crate) fn by_client(&mut self, link: &Link, bytes: &[u8]) -> Option<Moved> {
        let forward = self.server.handle_client(self.now, link, bytes).map(moved);
        self.drain();
        forward
    }

    pub(crate) fn by_peer(&mut self, relay: RelaySocket, peer: &str, payload: &[u8]) -> Option<Moved> {
        self.server.handle_peer(self.now, relay, address(peer), payload).map(moved)
    }

    pub(crate) fn by_sfu(&mut self, to: AllocationId, from: &str, payload: &[u8]) -> Option<Moved> {
        self.server.handle_sfu(self.now, to, address(from), payload).map(moved)
    }

    pub(crate) fn closed(&mut self, link: &Link) {
        self.server.handle_closed(self.now, link);
        self.drain();
    }

    /// The socket of a relayed address, if it is there.
    pub(crate) fn socket(&self, port: u16) -> Option<RelaySocket> {
        self.sockets.iter().copied().find(|relay| relay.port == port)
    }

    /// What was sent to a client last, since this was asked last.
    pub(crate) fn answer(&mut self, link: &Link) -> Option<Answer> {
        let at = self.sent.iter().rposition(|(to, _)| to == link)?;
        Some(Answer(self.sent.remove(at).1))
    }
}

/// A message from the server.
#[derive(Clone, Debug)]
pub(crate) struct Answer(pub(crate) Vec<u8>);

impl Answer {
    pub(crate) fn message(&self) -> Message<'_> {
        Message::parse(&self.0).unwrap()
    }

    /// 200, or the code of the error.
    pub(crate) fn code(&self) -> u16 {
        let message = self.message();
        match message.class {
            Class::Success => 200,
            Class::Error => message.error.unwrap(),
            class => panic!("an answer is a {class:?}"),
        }
    }
}

/// A client, who signs what it asks.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub(crate) link: Link,
    pub(crate) credential: Credential,
    pub(crate) realm: String,
    pub(crate) algorithm: Option<PasswordAlgorithm>,
    pub(crate) integrity: Integrity,
    pub(crate) nonce: Vec<u8>,
    transactions: u64,
}

impl Client {
    pub(crate) fn new(world: &World, user: &str, remote: &str) -> Self {
        Self::by(world, user, remote, Transport::Udp)
    }

    pub(crate) fn by(world: &World, user: &str, remote: &str, transport: Transport) -> Self {
        Self::with_secret(world, user, remote, transport, SECRET)
    }

    pub(crate) fn with_secret(
        world: &World,
        user: &str,
        remote: &str,
        transport: Transport,
        secret: &str,
    ) -> Self {
        let keyring = Keyring::new(&Secret::new(secret), None, 0, Duration::ZERO);
        let link = Link {
            transport,
            connection: u64::from(transport.is_stream()),
            remote: address(remote),
            local: address("192.0.2.1:3478"),
        };
        Self {
            link,
            credential: keyring.issue(user, world.unix(), Duration::from_secs(3600)),
            realm: REALM.to_owned(),
            algorithm: None,
            integrity: Integrity::Sha1,
            nonce: Vec::new(),
            transactions: 0,
        }
    }

    pub(crate) fn key(&self) -> Key {
        let algorithm = self.algorithm.unwrap_or(PasswordAlgorithm::Md5);
        let Credential { username, password } = &self.credential;
        Key::long_term(algorithm, username.as_bytes(), self.realm.as_bytes(), password.as_bytes())
    }

    pub(crate) fn transaction(&mut self) -> [u8; 12] {
        self.transactions += 1;
        let mut transaction = [0; 12];
        transaction[..8].copy_from_slice(&self.transactions.to_be_bytes());
        transaction[8..10].copy_from_slice(&self.link.remote.port().to_be_bytes());
        transaction
    }

    /// A signed request.
    pub(crate) fn signed(&mut self, method: u16, build: impl FnOnce(Builder) -> Builder) -> Vec<u8> {
        let transaction = self.transaction();
        let mut builder = build(Builder::new(Class::Request, method, &transaction))
            .attribute(attribute::USERNAME, self.credential.username.as_bytes())
            .attribute(attribute::REALM, self.realm.as_bytes())
            .attribute(attribute::NONCE, &self.nonce);
        if let Some(algorithm) = self.algorithm {
            builder = builder
                .attribute(attribute::PASSWORD_ALGORITHMS, &PasswordAlgorithm::LIST)
                .attribute(attribute::PASSWORD_ALGORITHM, &algorithm.to_wire());
        }
        builder.sign(self.integrity, &self.key()).finish(true)
    }

    /// Asks, once more with a nonce if it is challenged, and checks that the answer is signed. `None` if there is no answer.
    pub(crate) fn try_ask(
        &mut self,
        world: &mut World,
        method: u16,
        build: impl Fn(Builder) -> Builder,
    ) -> Option<Answer> {
        for _ in 0..2 {
            let request = if self.nonce.is_empty() {
                // A client does not know how to sign yet.
                let transaction = self.transaction();
                build(Builder::new(Class::Request, method, &transaction)).finish(true)
            } else {
                self.signed(method, &build)
            };
            let forward = world.by_client(&self.link, &request);
            assert_eq!(forward, None, "a request moves data");
            let answer = world.answer(&self.link)?;
            let message = answer.message();
            assert_eq!((message.method, &message.transaction[..]), (method, &request[8..20]));
            assert_eq!(message.verify_fingerprint(), Some(true));
            match (message.error, message.nonce) {
                (Some(401), Some(nonce)) if self.nonce.is_empty() => self.nonce = nonce.to_vec(),
                (Some(438), Some(nonce)) => self.nonce = nonce.to_vec(),
                (Some(401), _) => return Some(answer),
                _ => {
                    let is_signed =
                        message.integrity() == Some(self.integrity) && message.verify(&self.key());
                    assert!(is_signed, "an answer is not signed as the request was");
                    return Some(answer);
                }
            }
        }
        world
            .answer(&self.link)
            .or(Some(Answer(Builder::new(Class::Error, method, &[0; 12]).error(401).finish(false))))
    }

    pub(crate) fn ask(
        &mut self,
        world: &mut World,
        method: u16,
        build: impl Fn(Builder) -> Builder,
    ) -> Answer {
        self.try_ask(world, method, build).expect("an answer")
    }

    pub(crate) fn allocate_with(&mut self, world: &mut World, build: impl Fn(Builder) -> Builder) -> Answer {
        self.ask(world, method::ALLOCATE, |builder| {
            build(builder.attribute(attribute::REQUESTED_TRANSPORT, &[17, 0, 0, 0]))
        })
    }

    /// An allocation, and its relayed address.
    pub(crate) fn allocate(&mut self, world: &mut World) -> SocketAddr {
        let answer = self.allocate_with(world, |builder| builder);
        assert_eq!(answer.code(), 200);
        answer.message().relayed.unwrap()
    }

    pub(crate) fn refresh(&mut self, world: &mut World, seconds: u32) -> Answer {
        self.ask(world, method::REFRESH, |builder| {
            builder.attribute(attribute::LIFETIME, &seconds.to_be_bytes())
        })
    }

    pub(crate) fn permit(&mut self, world: &mut World, peers: &[&str]) -> Answer {
        self.ask(world, method::CREATE_PERMISSION, |builder| {
            peers
                .iter()
                .fold(builder, |builder, peer| builder.address(attribute::XOR_PEER_ADDRESS, address(peer)))
        })
    }

    pub(crate) fn bind(&mut self, world: &mut World, number: u16, peer: &str) -> Answer {
        let [high, low] = number.to_be_bytes();
        self.ask(world, method::CHANNEL_BIND, |builder| {
            builder
                .attribute(attribute::CHANNEL_NUMBER, &[high, low, 0, 0])
                .address(attribute::XOR_PEER_ADDRESS, address(peer))
        })
    }

    /// Sends to a peer by a Send indication.
    pub(crate) fn send(&mut self, world: &mut World, peer: &str, payload: &[u8]) -> Option<Moved> {
        let transaction = self.transaction();
        let bytes = Builder::new(Class::Indication, method::SEND, &transaction)
            .address(attribute::XOR_PEER_ADDRESS, address(peer))
            .attribute(attribute::DATA, payload)
            .finish(false);
        world.by_client(&self.link, &bytes)
    }

    /// Sends by a channel.
    pub(crate) fn send_by(&mut self, world: &mut World, number: u16, payload: &[u8]) -> Option<Moved> {
        let length = u16::try_from(payload.len()).unwrap();
        let bytes = [&number.to_be_bytes()[..], &length.to_be_bytes(), payload].concat();
        world.by_client(&self.link, &bytes)
    }
}

/// Peer and payload of a Data indication to this client.
pub(crate) fn data(moved: Option<Moved>, to: &Client) -> Option<(SocketAddr, Vec<u8>)> {
    let Some(Moved::Client(link, bytes)) = moved else { return None };
    assert_eq!(link, to.link);
    let message = Message::parse(&bytes).ok()?;
    assert_eq!((message.class, message.method), (Class::Indication, method::DATA));
    Some((message.peer?, message.data?.to_vec()))
}

/// Bytes of a message to this client.
pub(crate) fn bytes(moved: Option<Moved>, to: &Client) -> Option<Vec<u8>> {
    let Some(Moved::Client(link, bytes)) = moved else { return None };
    assert_eq!(link, to.link);
    Some(bytes)
}

/// Peer and payload of a datagram for the outside.
pub(crate) fn outside(moved: Option<Moved>) -> Option<(SocketAddr, Vec<u8>)> {
    match moved {
        Some(Moved::Peer { peer, payload, .. }) => Some((peer, payload)),
        _ => None,
    }
}
