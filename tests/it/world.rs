//! The world: who there is, and how everything moves in virtual time.

use std::{
    net::SocketAddr,
    sync::Arc,
    task::{Poll, Waker},
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use switchyard::{
    engine::{
        Command, JoinRequest, Shard, ShardConfig, SocketId,
        outbox::{Outbox, Outgoing as FromOutbox},
        path::Path,
        peer::Identity,
        peers::{Datagram as Incoming, PeerTimeouts},
        sdp::HostCandidate,
        session::SessionLimits,
    },
    names::{RoomKey, SessionId, ShardId},
    room::{Grant, RoomLimits, permission::Role},
};
use switchyard_loadtest::{
    account::{Account, Stamp},
    browser::{Browser, BrowserConfig, Event, Lane, Outgoing, Pipe, SendError, SocketOutput},
    netsim::{Datagram, HostId, Link, LinkConfig, Network},
    rng::Rng,
};
use switchyard_signaling::{
    frame::Target,
    limits::Limits,
    message::{ClientText, ServerText, to_json},
};

const MS: Duration = Duration::from_millis(1);
const STREAM: u16 = 3;

/// A shard, its clients and the network between them.
pub(crate) struct World {
    start: Instant,
    now: Instant,
    network: Network,
    server: HostId,
    server_address: SocketAddr,
    shard: Shard,
    clients: Vec<Client>,
    next_socket: u64,
}

struct Client {
    browser: Browser,
    host: HostId,
    address: SocketAddr,
    delay: Duration,
    socket: Option<Socket>,
    /// The handle of the room, once joined.
    room: Option<u16>,
    events: Vec<(Duration, Event)>,
    account: Account,
    sent: u32,
}

/// A WebSocket: what is on its way in both directions.
struct Socket {
    id: SocketId,
    outbox: Arc<Outbox>,
    up: Link<SocketOutput>,
    down: Link<SocketOutput>,
}

impl World {
    /// A client for each entry of `webrtc`, all joining one room; those with `true` use data channels.
    pub(crate) fn new(link: &LinkConfig, seed: u64, webrtc: &[bool]) -> Self {
        let now = Instant::now();
        let server_address = SocketAddr::from(([10, 0, 0, 1], 7882));
        let mut network = Network::new(seed);
        let server = network.add_host(LinkConfig::default(), LinkConfig::default());
        network.bind(server, server_address);
        let mut rng = Rng::new(seed);
        let shard = Shard::new(config(server_address), Box::new(move || rng.next_u64()));
        let clients = webrtc.iter().enumerate().map(|(number, webrtc)| {
            let host = network.add_host(link.clone(), link.clone());
            let address = SocketAddr::from(([10, 0, 1, number as u8], 5000));
            network.bind(host, address);
            let config = BrowserConfig { address: webrtc.then_some(address), ..BrowserConfig::default() };
            let mut browser = Browser::new(now, config);
            browser.join(now, "room", &format!("user-{number}"));
            Client {
                browser,
                host,
                address,
                delay: link.delay,
                socket: None,
                room: None,
                events: Vec::new(),
                account: Account::default(),
                sent: 0,
            }
        });
        let clients: Vec<Client> = clients.collect();
        let mut world =
            Self { start: now, now, network, server, server_address, shard, clients, next_socket: 0 };
        for number in 0..webrtc.len() {
            world.open_socket(number);
        }
        world
    }

    pub(crate) fn open_socket(&mut self, client: usize) {
        self.next_socket += 1;
        let client = &mut self.clients[client];
        let config = LinkConfig { delay: client.delay, ..LinkConfig::default() };
        client.socket = Some(Socket {
            id: SocketId(self.next_socket),
            outbox: Arc::default(),
            up: Link::new(config.clone(), 0),
            down: Link::new(config, 0),
        });
        client.browser.handle_socket_open(self.now);
    }

    /// The WebSocket breaks, and what was on its way with it.
    pub(crate) fn cut_socket(&mut self, client: usize) {
        let client = &mut self.clients[client];
        if let Some(Socket { id: socket, .. }) = client.socket.take() {
            client.browser.handle_socket_closed(self.now);
            self.shard.handle_command(Command::Closed { socket, clean: false }, self.now);
        }
    }

    /// Nothing passes the client's links for this time; the WebSocket is not touched.
    pub(crate) fn block_udp(&mut self, client: usize, span: Duration) {
        self.network.take_down(self.clients[client].host, self.now, self.now + span);
    }

    pub(crate) fn change_address(&mut self, client: usize, new: SocketAddr) {
        let client = &mut self.clients[client];
        self.network.readdress(client.host, client.address, new);
        client.address = new;
        client.browser.change_address(self.now, new);
    }

    pub(crate) fn set_stalled(&mut self, client: usize, stalled: bool) {
        self.clients[client].browser.set_stalled(self.now, stalled);
    }

    pub(crate) fn attach(&mut self, client: usize, pipe: Pipe) {
        self.clients[client].browser.attach(self.now, pipe);
    }

    pub(crate) fn attached(&self, client: usize) -> Option<Pipe> {
        self.clients[client].browser.attached()
    }

    pub(crate) fn saw(&self, client: usize, what: impl Fn(&Event) -> bool) -> bool {
        self.clients[client].events.iter().any(|(_, event)| what(event))
    }

    pub(crate) fn sent(&self, client: usize) -> u64 {
        self.clients[client].sent.into()
    }

    /// Sends a stamped message to the room.
    pub(crate) fn send(&mut self, client: usize, lane: Lane, size: usize) -> Result<(), SendError> {
        let number = client as u32;
        let client = &mut self.clients[client];
        let scheduled = self.now - self.start;
        let payload = Stamp { sender: number, seq: client.sent + 1, scheduled }.message(size);
        let room = client.room.expect("the client has joined");
        let (stream, target) = (STREAM, Target::Room);
        client.browser.send(self.now, Outgoing { room, lane, stream, target, text: false, payload })?;
        client.sent += 1;
        Ok(())
    }

    /// Runs for a while; every `gap` each client sends to the room.
    pub(crate) fn run_sending(&mut self, span: Duration, gap: Duration, size: usize) {
        let end = self.now + span;
        while self.now < end {
            for client in 0..self.clients.len() {
                self.send(client, Lane::Reliable, size).unwrap();
            }
            self.run(gap);
        }
    }

    pub(crate) fn run(&mut self, span: Duration) {
        let end = self.now + span;
        loop {
            while self.step() {}
            let clients = self.clients.iter_mut().flat_map(|client| {
                let reads = client.browser.reads_socket();
                let up = client.socket.as_ref().and_then(|socket| socket.up.poll_timeout());
                let down = client.socket.as_ref().and_then(|socket| socket.down.poll_timeout());
                [client.browser.poll_timeout(), up, down.filter(|_| reads)]
            });
            let others = [self.network.poll_timeout(), self.shard.poll_timeout()];
            let next = clients.chain(others).flatten().min().unwrap_or(end);
            // Timers are served in steps, as by an event loop.
            let next = next.max(self.now + MS / 10);
            if next >= end {
                self.now = end;
                return;
            }
            self.now = next;
            for client in &mut self.clients {
                if client.browser.poll_timeout().is_some_and(|at| at <= next) {
                    client.browser.handle_timeout(next);
                }
            }
            self.shard.handle_timeout(next);
        }
    }

    /// Moves everything that can move now; whether anything did.
    fn step(&mut self) -> bool {
        let (now, mut moved) = (self.now, false);
        for number in 0..self.clients.len() {
            moved |= self.step_client(number);
        }
        while let Some((host, datagram)) = self.network.poll(now) {
            moved = true;
            if host == self.server {
                let incoming = Incoming {
                    path: Path::Udp(datagram.from),
                    source: datagram.from,
                    local_ip: None,
                    contents: BytesMut::from(&datagram.payload[..]),
                };
                self.shard.handle_datagram(incoming, now);
            } else if let Some(client) = self.clients.iter_mut().find(|client| client.host == host) {
                client.browser.handle_datagram(now, datagram.from, &datagram.payload);
            }
        }
        self.shard.flush(now);
        for transmit in self.shard.transmits() {
            moved = true;
            let Path::Udp(to) = transmit.path else { continue };
            for payload in transmit.contents.chunks(transmit.segment.max(1)) {
                let (from, payload) = (self.server_address, Bytes::copy_from_slice(payload));
                self.network.send(now, Datagram { from, to, payload });
            }
        }
        self.shard.clear_transmits();
        moved
    }

    fn step_client(&mut self, number: usize) -> bool {
        let (now, mut moved) = (self.now, false);
        let client = &mut self.clients[number];
        while let Some(datagram) = client.browser.poll_datagram() {
            moved = true;
            self.network.send(now, datagram);
        }
        while let Some(event) = client.browser.poll_event() {
            match &event {
                Event::Message(message) => {
                    client.account.received(message.stream, Stamp::of(&message.payload).unwrap());
                }
                Event::Control(room, _) => client.room = client.room.or(Some(*room)),
                _ => {}
            }
            client.events.push((now - self.start, event));
        }
        let Some(socket) = &mut client.socket else {
            return moved;
        };
        while let Some(output) = client.browser.poll_socket() {
            moved = true;
            socket.up.send(now, 0, output);
        }
        while let Some(input) = socket.up.poll(now) {
            moved = true;
            if let Some(command) = commands(socket, input, now) {
                self.shard.handle_command(command, now);
            }
        }
        while client.browser.reads_socket()
            && let Poll::Ready(output) = socket.outbox.poll(Waker::noop())
        {
            moved = true;
            match output {
                FromOutbox::Text(text) => drop(socket.down.send(now, 0, SocketOutput::Text(text))),
                FromOutbox::Frames(frames) => {
                    socket.down.send(now, 0, SocketOutput::Binary(frames.freeze()));
                    if socket.outbox.written() {
                        self.shard.handle_command(Command::Writable(socket.id), now);
                    }
                }
                FromOutbox::Close(code) => {
                    client.events.push((now - self.start, Event::Violation(format!("closed: {code:?}"))));
                    break;
                }
            }
        }
        while client.browser.reads_socket()
            && let Some(input) = socket.down.poll(now)
        {
            moved = true;
            match input {
                SocketOutput::Text(text) => client.browser.handle_text(now, &text),
                SocketOutput::Binary(message) => client.browser.handle_binary(now, message),
            }
        }
        moved
    }

    /// The client has received at least so many messages.
    pub(crate) fn assert_received(&self, client: usize, at_least: u64) {
        let count = self.clients[client].account.count();
        assert!(count >= at_least, "client {client} has {count} of {at_least} messages");
    }

    /// Nothing lost, doubled, out of order or told missing, and the protocol kept.
    pub(crate) fn assert_whole(&self) {
        for (number, client) in self.clients.iter().enumerate() {
            for (at, event) in &client.events {
                let bad = matches!(event, Event::Violation(_) | Event::SessionLost | Event::Gap { .. });
                assert!(!bad, "client {number} at {at:?}: {event:?}");
            }
            let others = self.clients.iter().enumerate().filter(|(other, _)| *other != number);
            let sent = others.map(|(other, client)| (other as u32, STREAM, u64::from(client.sent)));
            let totals = client.account.balance(sent);
            let faults = (totals.lost, totals.doubled, totals.out_of_order, totals.foreign);
            assert_eq!(faults, (0, 0, 0, 0), "client {number}: {totals:?}");
            assert!(totals.expected > 0);
        }
    }
}

fn config(address: SocketAddr) -> ShardConfig {
    ShardConfig {
        shard: ShardId(0),
        shards: 1,
        candidates: vec![HostCandidate { address, tcp: false }],
        identity: Some(Identity::generate().unwrap()),
        timeouts: PeerTimeouts { handshake: Duration::from_secs(30), consent: Duration::from_secs(30) },
        sessions: Arc::new(SessionLimits {
            announced: Limits::default(),
            lossy_queue_bytes: 64 * 1024,
            messages_per_second: 0,
            message_burst: 0,
            problems: 20,
        }),
        rooms: RoomLimits { participants: 100, topics: 32 },
        max_sessions: 1000,
        max_peers: 1000,
    }
}

/// What the door in `src/http/` makes of a message; the token is the user's name.
fn commands(socket: &Socket, input: SocketOutput, now: Instant) -> Option<Command> {
    let (id, outbox) = (socket.id, socket.outbox.clone());
    let text = match input {
        SocketOutput::Binary(message) => return Some(Command::Frames(id, message)),
        SocketOutput::Text(text) => text,
    };
    match ClientText::parse(&text).unwrap() {
        ClientText::Hello { resume: Some(resume), .. } => {
            let session = SessionId::from_wire(&resume.session).unwrap();
            Some(Command::Resume { socket: id, outbox, session, key: resume.key })
        }
        ClientText::Hello { .. } => {
            let (v, resumed, limits, ping_interval_ms) = (1, false, Limits::default(), 10_000);
            outbox.push_text(to_json(&ServerText::Welcome { v, resumed, limits, ping_interval_ms }));
            None
        }
        ClientText::Join { id: request, room, token, offer } => {
            let user: Arc<str> = token.into();
            let grant = Grant {
                name: user.clone(),
                user,
                role: Role::Editor,
                permissions: Role::Editor.permissions(),
                expires: now + Duration::from_secs(3600),
            };
            let room = RoomKey { tenant: "tenant".into(), room: room.into() };
            let request = JoinRequest { id: request, room, grant, offer };
            Some(Command::Join { socket: id, outbox, request })
        }
        ClientText::Offer(offer) => Some(Command::Offer(id, offer)),
        ClientText::Ping { .. } | ClientText::Candidate { .. } => None,
        ClientText::Bye => Some(Command::Bye(id)),
    }
}
