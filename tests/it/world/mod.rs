//! A world: shards with letters between them, simulated browsers, their WebSockets and the network, under one clock.
//!
//! Nothing in it reads the real clock but [`World::waits`], which measures what a shard's work costs. Whoever
//! drives a world commands its clients and lets time pass with [`World::run`]; [`checker`] judges what they received.

pub(crate) mod access;
pub(crate) mod checker;
pub(crate) mod client;
#[expect(dead_code, reason = "retention is tested in tests/store")]
pub(crate) mod disk;
pub(crate) mod history;
mod lines;
pub(crate) mod relay;
pub(crate) mod seats;
pub(crate) mod storage;
pub(crate) mod verdict;
pub(crate) mod wire;

use std::{
    collections::{BTreeMap, VecDeque},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use switchyard::{
    engine::{
        Command, Shard, ShardConfig, SocketId,
        path::Path,
        peer::Identity,
        peers::{Datagram, PeerTimeouts},
        sdp::HostCandidate,
        session::SessionLimits,
    },
    ice_servers::IceServers,
    names::{RoomKey, ShardId, WallClock},
    room::{LogSettings, Plant, RoomLimits},
    router::Letter,
};
use switchyard_loadtest::{
    browser::{Browser, BrowserConfig, Fault, Lane, Outgoing, Pipe, SendError},
    netsim::{self, HostId, LinkConfig, Network, NetworkSpec},
    rng::Rng,
};
use switchyard_signaling::{frame::Target, limits::Limits, message::ClientControl};
use switchyard_turn_config::settings::{Secret, Turn};

use self::{
    access::{ICE_TCP, Line},
    checker::{Sent, SentKey, Verdict},
    client::{Client, Seen, What},
    relay::Relay,
    storage::Storage,
    wire::{Wire, WireConfig},
};

pub(crate) const MS: Duration = Duration::from_millis(1);
pub(crate) const SECOND: Duration = Duration::from_secs(1);
/// When worlds begin.
const UNIX: u64 = 1_700_000_000;
/// The tenant of every room.
pub(crate) const TENANT: &str = "tenant";

/// What a world is made of.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) seed: u64,
    pub(crate) shards: u16,
    /// Time advances in steps of this length at least: what arrives within one is handled together.
    pub(crate) step: Duration,
    pub(crate) limits: SessionLimits,
    pub(crate) rooms: RoomLimits,
    pub(crate) timeouts: PeerTimeouts,
    /// Letters between shards take up to this long.
    pub(crate) letters: Duration,
    pub(crate) webrtc: bool,
    /// Submissions to a log per minute and at once, 0 for any number.
    pub(crate) writes: (u32, u32),
    /// A reader of a log who is farther behind gets a snapshot.
    pub(crate) resync_events: u64,
    /// How long a step of the disk takes at most.
    pub(crate) disk: Duration,
    /// Whether the server answers ICE-TCP and has its relay.
    pub(crate) relays: bool,
    /// Whether a firewall before the server lets nothing through to its media ports, UDP and ICE-TCP.
    pub(crate) closed_media: bool,
}

impl Setup {
    /// One shard, no limits of rate, time as fine as it comes.
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            seed,
            shards: 1,
            step: Duration::from_micros(50),
            limits: SessionLimits {
                announced: Limits::default(),
                lossy_queue_bytes: 64 * 1024,
                messages_per_second: 0,
                message_burst: 1,
                problems: 20,
            },
            rooms: RoomLimits { participants: 200, topics: 32 },
            timeouts: PeerTimeouts { handshake: Duration::from_secs(15), consent: Duration::from_secs(30) },
            letters: Duration::from_micros(200),
            webrtc: true,
            writes: (0, 0),
            resync_events: 1000,
            disk: 2 * MS,
            relays: false,
            closed_media: false,
        }
    }
}

/// What a client is like.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kind {
    /// Its way for datagrams, both directions; none keeps it on the WebSocket.
    pub(crate) udp: Option<LinkConfig>,
    /// Its access network instead: links, NAT and firewall, for everything. Its browser climbs.
    pub(crate) access: Option<NetworkSpec>,
    pub(crate) wire: WireConfig,
    /// Stays on the WebSocket although it has a data channel.
    pub(crate) stays: bool,
    /// A bug in its page.
    pub(crate) fault: Option<Fault>,
}

/// What a server that starts again has in common with the one before.
struct Server {
    identity: Option<Identity>,
    logs: Arc<LogSettings>,
    ice_servers: Option<Arc<IceServers>>,
    starts: u64,
    plant: Option<Plant>,
}

impl Server {
    fn shard(&self, setup: &Setup, shard: u16) -> Shard {
        let mut candidates = vec![HostCandidate { address: shard_address(shard as usize), tcp: false }];
        candidates.extend(setup.relays.then_some(HostCandidate { address: ICE_TCP, tcp: true }));
        let config = ShardConfig {
            shard: ShardId(shard),
            shards: setup.shards,
            candidates,
            identity: self.identity.clone(),
            timeouts: setup.timeouts,
            sessions: Arc::new(setup.limits.clone()),
            rooms: setup.rooms,
            logs: self.logs.clone(),
            ice_servers: self.ice_servers.clone(),
            max_sessions: 5000,
            max_peers: 5000,
        };
        let mut random = Rng::stream(setup.seed, 1000 + u64::from(shard) + 1_000_000 * self.starts);
        let mut shard = Shard::new(config, Box::new(move || random.next_u64()));
        shard.plant(self.plant);
        shard
    }
}

pub(crate) struct World {
    pub(crate) setup: Setup,
    pub(crate) start: Instant,
    pub(crate) now: Instant,
    pub(crate) rng: Rng,
    pub(crate) shards: Vec<Shard>,
    pub(crate) clients: Vec<Client>,
    pub(crate) network: Network,
    pub(crate) relay: Option<Relay>,
    /// Whose the addresses are that access networks show to the world.
    lines: BTreeMap<IpAddr, usize>,
    next_connection: u64,
    pub(crate) sent: Sent,
    /// How long clients' datagrams waited for shards to be done with them, in real time, if measured.
    pub(crate) waits: Option<Waits>,
    /// The most that shards have held for receivers at any time.
    pub(crate) held_most: usize,
    /// Every batch that left, if they are watched: in which flush, on which path, its bytes.
    pub(crate) batches: Option<Vec<(u64, Path, usize)>>,
    /// Datagrams to addresses that are no client's.
    pub(crate) strays: Vec<(SocketAddr, Vec<u8>)>,
    /// The first DTLS datagram that a client has sent: a ClientHello.
    pub(crate) client_hello: Option<Vec<u8>>,
    /// Whether a client's datagram is among what is handled at this instant.
    serves: bool,
    /// Crashes of the server that the disk was to strike.
    pub(crate) crashes: usize,
    worked: Duration,
    flushes: u64,
    host: HostId,
    server: Server,
    /// Until when nobody reaches the server.
    down: Instant,
    pub(crate) storage: Storage,
    letters: Vec<VecDeque<(Instant, Letter)>>,
    /// WebSockets that the client has lost and the server has not noticed: when it will, and whose it was.
    ghosts: Vec<(Instant, ShardId, SocketId)>,
    next_socket: u64,
    busy: Vec<bool>,
}

/// How long datagrams of clients waited, in real time, for a shard's work.
#[derive(Debug, Default)]
pub(crate) struct Waits {
    waits: Vec<Duration>,
    /// What the shard did for handshakes at the instant before, piece by piece.
    handshakes: Vec<Duration>,
}

impl Waits {
    /// Notes a turn that served clients. In the real world what they sent could have come at any instant since the turn
    /// before, and have found the shard busy with a piece of a handshake, the rest of which it had to wait for.
    fn push(&mut self, turn: Duration, instant: Duration) {
        let mut end = Duration::ZERO;
        let rest = self.handshakes.iter().find_map(|piece| {
            end += *piece;
            end.checked_sub(instant).filter(|rest| rest <= piece)
        });
        self.waits.push(turn + rest.unwrap_or_default());
    }

    pub(crate) fn p99(mut self) -> Duration {
        self.waits.sort();
        self.waits[self.waits.len() * 99 / 100]
    }
}

/// Clients of a world have lower addresses; what comes from higher ones is injected.
const CLIENTS_BELOW: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 99, 0, 0));

/// Where a shard listens.
pub(crate) fn shard_address(shard: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], 7882 + shard as u16))
}

/// Without a relay nobody is there: clients are told and go their own way.
fn turn_settings(has_relay: bool) -> Turn {
    let mut turn = Turn { host: Some("turn.example.com".to_owned()), ..Turn::default() };
    if has_relay {
        turn = relay::settings();
    }
    turn.credentials.secret = Some(Secret::new("a secret of twenty characters and more"));
    turn
}

impl World {
    pub(crate) fn new(setup: Setup) -> Self {
        let start = Instant::now();
        let mut logs = LogSettings::new(WallClock::new(start, UNIX * 1000));
        (logs.writes_per_minute, logs.write_burst) = setup.writes;
        logs.resync_events = setup.resync_events;
        let server = Server {
            identity: setup.webrtc.then(|| Identity::generate().unwrap()),
            logs: Arc::new(logs),
            ice_servers: IceServers::new(turn_settings(setup.relays), UNIX).map(Arc::new),
            starts: 0,
            plant: None,
        };
        let shards: Vec<Shard> = (0..setup.shards).map(|shard| server.shard(&setup, shard)).collect();
        let mut network = Network::new(setup.seed);
        let host = network.add_host(LinkConfig::default(), LinkConfig::default());
        for shard in 0..shards.len() {
            network.bind(host, shard_address(shard));
        }
        Self {
            start,
            now: start,
            rng: Rng::stream(setup.seed, 1),
            clients: Vec::new(),
            network,
            relay: setup.relays.then(|| {
                let sfu = (0..shards.len()).map(shard_address).collect();
                Relay::new(&turn_settings(true), sfu, (start, UNIX), setup.seed)
            }),
            lines: BTreeMap::new(),
            next_connection: 1,
            sent: Sent::default(),
            waits: None,
            held_most: 0,
            batches: None,
            strays: Vec::new(),
            client_hello: None,
            serves: false,
            crashes: 0,
            worked: Duration::ZERO,
            flushes: 0,
            host,
            server,
            down: start,
            storage: Storage::new(setup.seed, setup.disk),
            letters: shards.iter().map(|_| VecDeque::new()).collect(),
            ghosts: Vec::new(),
            next_socket: 1,
            busy: vec![true; shards.len()],
            shards,
            setup,
        }
    }

    /// Since the world began.
    pub(crate) fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    // ---- clients

    /// A client that is connected and has joined nothing.
    pub(crate) fn add_client(&mut self, kind: &Kind) -> usize {
        let number = self.clients.len();
        let address = SocketAddr::from(([10, 1, (number / 250) as u8, (number % 250) as u8 + 1], 5000));
        let host = kind.udp.as_ref().map(|link| {
            let host = self.network.add_host(link.clone(), link.clone());
            self.network.bind(host, address);
            host
        });
        let config = BrowserConfig {
            address: (host.is_some() || kind.access.is_some()).then_some(address),
            moves_by_itself: !kind.stays,
            climbs: kind.access.is_some(),
            seed: self.setup.seed ^ number as u64,
            fault: kind.fault,
        };
        let browser = Browser::new(self.now, config);
        let mut client = Client::new(browser, format!("u{number}"), host, address, kind.wire.clone());
        client.line = kind.access.as_ref().map(|spec| self.add_line(number, address, spec));
        self.clients.push(client);
        self.open(number);
        number
    }

    /// A client joins a room as an editor whose token never ends.
    pub(crate) fn join(&mut self, client: usize, room: &str) -> u32 {
        self.join_as(client, room, "editor", Duration::from_secs(100_000))
    }

    /// A client joins a room; the token ends this long after now.
    pub(crate) fn join_as(&mut self, client: usize, room: &str, role: &str, valid: Duration) -> u32 {
        let token = wire::token(&self.clients[client].name, role, self.elapsed() + valid);
        let now = self.now;
        self.on(client, |browser| browser.join(now, room, &token))
    }

    /// A client joins a room as an editor, with a token that switches something off.
    pub(crate) fn join_without(&mut self, client: usize, room: &str, feature: &str) -> u32 {
        let token = wire::token(&self.clients[client].name, "editor", self.elapsed() + 100_000 * SECOND);
        let now = self.now;
        self.on(client, |browser| browser.join(now, room, &format!("{token} {feature}")))
    }

    /// Does something with a client's browser.
    pub(crate) fn on<T>(&mut self, client: usize, act: impl FnOnce(&mut Browser) -> T) -> T {
        self.clients[client].touched = true;
        act(&mut self.clients[client].browser)
    }

    /// A client leaves a room.
    pub(crate) fn leave(&mut self, client: usize, room: &str) {
        let handle = self.clients[client].rooms[room];
        let now = self.now;
        self.on(client, |browser| {
            let id = browser.request();
            browser.control(now, handle, &ClientControl::Leave { id }).unwrap();
        });
    }

    /// A stamped message to the room, logged if it is taken.
    pub(crate) fn send(
        &mut self,
        client: usize,
        room: &str,
        lane: Lane,
        stream: u16,
        size: usize,
    ) -> Result<(), SendError> {
        self.send_to(client, room, lane, stream, size, Target::Room)
    }

    /// The same to a target; who that is [`Sent::audience`] must know.
    pub(crate) fn send_to(
        &mut self,
        client: usize,
        room: &str,
        lane: Lane,
        stream: u16,
        size: usize,
        target: Target,
    ) -> Result<(), SendError> {
        let Some(&handle) = self.clients[client].rooms.get(room) else {
            return Err(SendError::NoSession);
        };
        let key = SentKey { client, room: room.to_owned(), stream, lane };
        let seq = self.sent.count(&key) + 1;
        let payload = checker::payload(client as u32, seq, self.elapsed(), size);
        let message = Outgoing { room: handle, lane, stream, target, text: false, payload };
        let now = self.now;
        self.on(client, |browser| browser.send(now, message))?;
        self.sent.add(key, now - self.start);
        Ok(())
    }

    /// Opens a WebSocket, in place of the one there may be: that one is lost, and the server finds out later.
    pub(crate) fn open(&mut self, client: usize) {
        if self.clients[client].wire.is_some() {
            self.cut(client, 500 * MS);
        }
        let now = self.now;
        let of = &mut self.clients[client];
        if let Some(line) = &mut of.line {
            of.touched = true;
            return line.open_socket(now, &mut of.browser);
        }
        self.clients[client].wire = Some(self.new_wire(client));
        self.on(client, |browser| browser.handle_socket_open(now));
    }

    fn new_wire(&mut self, client: usize) -> Wire {
        let id = SocketId(self.next_socket);
        self.next_socket += 1;
        Wire::new(id, &self.clients[client].wire_config, self.setup.seed ^ id.0)
    }

    /// The client's WebSocket breaks, and what was in it is gone; the server notices after up to this time.
    pub(crate) fn cut(&mut self, client: usize, noticed: Duration) {
        let Some(wire) = self.clients[client].wire.take() else {
            return;
        };
        self.leave_ghost(&wire, [Duration::ZERO, noticed]);
        let now = self.now;
        self.on(client, |browser| browser.handle_socket_closed(now));
    }

    fn leave_ghost(&mut self, wire: &Wire, [least, most]: [Duration; 2]) {
        if let Some(home) = wire.home {
            let after = Duration::from_nanos(self.rng.below((most - least).as_nanos() as u64 + 1));
            self.ghosts.push((self.now + least + after, home, wire.id));
        }
    }

    /// Datagrams of the client leave from another address, and what is sent to the old one is lost.
    pub(crate) fn rebind(&mut self, client: usize) {
        let old = self.clients[client].address;
        let new = SocketAddr::new(old.ip(), old.port() + 1);
        let host = self.clients[client].host.unwrap();
        self.network.readdress(host, old, new);
        self.clients[client].address = new;
        let now = self.now;
        self.on(client, |browser| browser.change_address(now, new));
    }

    /// Another browser takes the place of a client's: the page was loaded anew, or its session was lost. Its WebSocket is
    /// gone, and the server notices after up to this time.
    pub(crate) fn replace_browser(&mut self, client: usize, noticed: Duration) {
        self.cut(client, noticed);
        let address = self.clients[client].host.map(|_| self.clients[client].address);
        let config = BrowserConfig { address, ..BrowserConfig::default() };
        self.clients[client].browser = Browser::new(self.now, config);
        self.clients[client].rooms.clear();
    }

    /// The server is gone with everything that is not on disk, and all its sockets with it; another one is there at once.
    pub(crate) fn crash(&mut self) {
        self.server.starts += 1;
        for shard in 0..self.shards.len() {
            self.shards[shard] = self.server.shard(&self.setup, shard as u16);
            self.letters[shard].clear();
            self.busy[shard] = true;
        }
        self.storage.crash();
        self.ghosts.clear();
        let now = self.now;
        for client in &mut self.clients {
            client.wires.clear();
            if let Some(line) = &mut client.line {
                line.lose_server(now, &mut client.browser);
                client.touched = true;
            }
            if client.wire.take().is_some() {
                client.browser.handle_socket_closed(now);
                client.touched = true;
            }
        }
    }

    /// The same, and nobody reaches it for so long.
    pub(crate) fn crash_for(&mut self, span: Duration) {
        self.down = self.now + span;
        self.crash();
        self.set_down(true);
    }

    fn is_down(&self) -> bool {
        self.now < self.down
    }

    fn set_down(&mut self, is_down: bool) {
        let lines = self.clients.iter_mut().filter_map(|client| client.line.as_mut());
        lines.for_each(|line| line.is_down = is_down);
    }

    /// Plants a bug in all rooms.
    pub(crate) fn plant(&mut self, plant: Plant) {
        self.server.plant = Some(plant);
        self.shards.iter_mut().for_each(|shard| shard.plant(Some(plant)));
    }

    /// Hands a shard a command of a door of the test's own.
    pub(crate) fn handle_on_shard(&mut self, shard: usize, command: Command) {
        let now = self.now;
        self.turn(shard, |shard| shard.handle_command(command, now));
    }

    /// Hands a shard a datagram from anywhere.
    pub(crate) fn inject(&mut self, shard: usize, from: SocketAddr, contents: &[u8]) {
        let (now, contents) = (self.now, BytesMut::from(contents));
        let datagram = Datagram { path: Path::Udp(from), source: from, local_ip: None, contents };
        self.turn(shard, |shard| shard.handle_datagram(datagram, now));
    }

    // ---- judging

    /// What all clients received, judged. The seed and the reason are in the panic.
    pub(crate) fn verdict(&self) -> Verdict {
        let complete = vec![true; self.clients.len()];
        self.verdict_of(&complete)
    }

    /// The same; `complete` says who must have everything by now.
    pub(crate) fn verdict_of(&self, complete: &[bool]) -> Verdict {
        match checker::check(&self.clients, &self.sent, complete) {
            Ok(verdict) => verdict,
            Err(reason) => {
                self.print_histories();
                panic!("seed {}: {reason}; HISTORY=1 prints what everybody saw", self.setup.seed)
            }
        }
    }

    /// The same where others than clients of the world sent too: what they sent is left out.
    pub(crate) fn verdict_among_clients(&self) -> Verdict {
        let complete = vec![true; self.clients.len()];
        match checker::check_without_strangers(&self.clients, &self.sent, &complete) {
            Ok(verdict) => verdict,
            Err(reason) => panic!("seed {}: {reason}", self.setup.seed),
        }
    }

    /// Prints what everybody saw, if the variable `HISTORY` asks for it.
    pub(crate) fn print_histories(&self) {
        if std::env::var_os("HISTORY").is_none() {
            return;
        }
        for (number, client) in self.clients.iter().enumerate() {
            eprintln!("client {number}, on {:?}:", client.browser.attached());
            for seen in &client.history {
                eprintln!("  {:?} {:?}", seen.at, seen.what);
            }
        }
    }

    /// Bytes that the shards hold for receivers.
    pub(crate) fn held(&self) -> usize {
        self.shards.iter().map(Shard::held_bytes).sum()
    }

    /// Sums of rooms, members, sessions, peers.
    pub(crate) fn population(&self) -> (usize, usize, usize, usize) {
        self.shards
            .iter()
            .map(Shard::population)
            .fold((0, 0, 0, 0), |a, b| (a.0 + b.0, a.1 + b.1, a.2 + b.2, a.3 + b.3))
    }

    // ---- time

    /// Lets this much time pass.
    pub(crate) fn run(&mut self, span: Duration) {
        let end = self.now + span;
        self.run_until(end, |_| false);
    }

    /// Lets time pass until the condition holds; panics if it does not within the span. Returns the time it took.
    pub(crate) fn run_to(
        &mut self,
        span: Duration,
        what: &str,
        condition: impl FnMut(&Self) -> bool,
    ) -> Duration {
        let begin = self.now;
        let reached = self.run_until(begin + span, condition);
        if !reached {
            self.print_histories();
        }
        assert!(reached, "seed {}: not within {span:?}: {what}", self.setup.seed);
        self.now - begin
    }

    fn run_until(&mut self, end: Instant, mut condition: impl FnMut(&Self) -> bool) -> bool {
        loop {
            self.settle();
            if condition(self) {
                return true;
            }
            let next = self.next().map_or(end, |next| next.max(self.now + self.setup.step));
            if next >= end {
                self.now = end;
                return false;
            }
            self.now = next;
            self.fire();
        }
    }

    fn next(&self) -> Option<Instant> {
        let clients = self.clients.iter().flat_map(|client| {
            [client.due, client.wire_due(), client.line.as_ref().and_then(Line::poll_timeout)]
        });
        let shards = self.shards.iter().map(Shard::poll_timeout);
        let letters = self.letters.iter().map(|queue| queue.front().map(|(at, _)| *at));
        let ghosts = self.ghosts.iter().map(|(at, ..)| Some(*at));
        clients
            .chain(shards)
            .chain(letters)
            .chain(ghosts)
            .chain([self.network.poll_timeout(), self.storage.poll_timeout()])
            .chain([self.relay.as_ref().and_then(Relay::poll_timeout)])
            .flatten()
            .min()
    }

    fn fire(&mut self) {
        let now = self.now;
        if !self.is_down() {
            self.set_down(false);
        }
        for client in &mut self.clients {
            if client.due.is_some_and(|due| due <= now) {
                client.browser.handle_timeout(now);
                client.touched = true;
            }
        }
        if let Some(relay) = &mut self.relay {
            relay.handle_timeout(now);
        }
        for shard in 0..self.shards.len() {
            if self.shards[shard].poll_timeout().is_some_and(|due| due <= now) {
                self.turn(shard, |shard| shard.handle_timeout(now));
            }
        }
        let due = |ghost: &(Instant, ShardId, SocketId)| ghost.0 <= now;
        let gone: Vec<_> = self.ghosts.iter().copied().filter(due).collect();
        self.ghosts.retain(|ghost| !due(ghost));
        for (_, home, socket) in gone {
            self.turn(home.0 as usize, |shard| {
                shard.handle_command(Command::Closed { socket, clean: false }, now);
            });
        }
    }

    /// Moves everything that can move at this instant.
    fn settle(&mut self) {
        let mut served = None;
        let mut handshakes = Vec::new();
        for round in 0.. {
            assert!(round < 10_000, "seed {}: the world does not come to rest", self.setup.seed);
            let arrived = self.carry_datagrams() | self.carry_letters();
            let carried = self.carry_lines() | self.carry_relay();
            if arrived | carried | self.carry_wires() | self.flush() | self.carry_storage() {
                continue;
            }
            let worked = std::mem::take(&mut self.worked);
            match served {
                None => served = Some(worked),
                Some(_) => handshakes.push(worked),
            }
            if !self.shake_hands() {
                break;
            }
        }
        for client in &mut self.clients {
            if std::mem::take(&mut client.touched) {
                client.due = client.browser.poll_timeout();
            }
        }
        let serves = std::mem::take(&mut self.serves);
        if let Some(waits) = &mut self.waits {
            if serves {
                let instant = self.rng.below(self.setup.step.as_nanos() as u64);
                waits.push(served.unwrap_or_default(), Duration::from_nanos(instant));
            }
            waits.handshakes = handshakes;
        }
    }

    /// Lets each shard do a little for its handshakes, as the shell does between its turns.
    fn shake_hands(&mut self) -> bool {
        let (mut moved, now) = (false, self.now);
        for shard in 0..self.shards.len() {
            if self.shards[shard].has_handshakes() {
                moved = true;
                self.turn(shard, |shard| shard.handle_handshake(now));
            }
        }
        moved
    }

    fn carry_datagrams(&mut self) -> bool {
        let (now, mut moved) = (self.now, false);
        while let Some((host, datagram)) = self.network.poll(now) {
            moved = true;
            if host == self.host {
                self.serves = true;
                if self.client_hello.is_none() && datagram.payload.first() == Some(&22) {
                    self.client_hello = Some(datagram.payload.to_vec());
                }
                let shard = (datagram.to.port() - shard_address(0).port()) as usize;
                self.inject(shard, datagram.from, &datagram.payload);
            } else if let Some(client) = self.clients.iter_mut().find(|client| client.host == Some(host)) {
                client.browser.handle_datagram(now, datagram.from, &datagram.payload);
                client.touched = true;
            }
        }
        moved
    }

    fn carry_letters(&mut self) -> bool {
        let (now, mut moved) = (self.now, false);
        for shard in 0..self.shards.len() {
            while let Some((_, letter)) = self.letters[shard].pop_front_if(|(at, _)| *at <= now) {
                self.turn(shard, |shard| shard.handle_letter(letter, now));
                moved = true;
            }
        }
        moved
    }

    fn carry_storage(&mut self) -> bool {
        let (now, mut moved) = (self.now, false);
        while let Some(reply) = self.storage.poll(now) {
            moved = true;
            self.turn(reply.to.shard.0 as usize, |shard| shard.handle_stored(reply, now));
        }
        if self.storage.takes_strike() {
            moved = true;
            self.crashes += 1;
            self.crash();
        }
        moved
    }

    fn carry_wires(&mut self) -> bool {
        let (now, mut moved) = (self.now, false);
        let mut commands = Vec::new();
        for client in &mut self.clients {
            if client.touched {
                client.take_events(now - self.start);
                while let Some(datagram) = client.browser.poll_datagram().filter(|_| client.line.is_none()) {
                    self.network.send(now, datagram);
                    moved = true;
                }
            }
            let (times, setup) = ((now, self.start), &self.setup);
            if let Some(line) = &mut client.line {
                let mut ended = Vec::new();
                for (number, wire) in &mut client.wires {
                    let (touched, code) =
                        wire.carry(&mut line.far(*number), times, setup, true, &mut commands);
                    client.touched |= touched;
                    moved |= touched;
                    ended.extend(code.map(|code| (*number, code)));
                }
                for (number, code) in ended {
                    client.wires.remove(&number);
                    client.history.push(Seen { at: now - self.start, what: What::Closed(code) });
                    line.closed_by_server(now, number, &mut client.browser);
                    client.touched = true;
                }
                continue;
            }
            let Some(wire) = &mut client.wire else { continue };
            let (touched, closed) =
                wire.carry(&mut client.browser, times, setup, client.touched, &mut commands);
            client.touched |= touched;
            moved |= touched;
            if let Some(code) = closed {
                client.wire = None;
                client.see(now - self.start, What::Closed(code));
                client.browser.handle_socket_closed(now);
                client.touched = true;
            }
        }
        for (home, command) in commands {
            self.turn(home.0 as usize, |shard| shard.handle_command(command, now));
            moved = true;
        }
        moved
    }

    fn flush(&mut self) -> bool {
        let mut moved = false;
        for from in 0..self.shards.len() {
            if !std::mem::take(&mut self.busy[from]) {
                continue;
            }
            moved = true;
            let now = self.now;
            self.flushes += 1;
            self.turn(from, |shard| shard.flush(now));
            self.busy[from] = false;
            self.held_most = self.held_most.max(self.held());
            let mut others = Vec::new();
            for transmit in self.shards[from].transmits() {
                let path = transmit.way.path;
                let to = match path {
                    Path::Udp(to) if !self.lines.contains_key(&to.ip()) => to,
                    _ => {
                        let datagrams = transmit.contents.chunks(transmit.segment);
                        others.extend(datagrams.map(|datagram| (path, Bytes::copy_from_slice(datagram))));
                        continue;
                    }
                };
                if let Some(batches) = &mut self.batches {
                    batches.push((self.flushes, transmit.way.path, transmit.contents.len()));
                }
                for payload in transmit.contents.chunks(transmit.segment) {
                    if to.ip() > CLIENTS_BELOW {
                        self.strays.push((to, payload.to_vec()));
                        continue;
                    }
                    let datagram =
                        netsim::Datagram { from: shard_address(from), to, payload: payload.to_vec().into() };
                    self.network.send(now, datagram);
                }
            }
            self.shards[from].clear_transmits();
            others.into_iter().for_each(|(path, datagram)| self.send_by(from, path, datagram));
            while let Some(letter) = self.shards[from].poll_store() {
                self.storage.handle(letter, now);
            }
            for to in 0..self.shards.len() {
                let name = ShardId(to as u16);
                while let Some(letter) = self.shards[from].poll_letter(name) {
                    // A full queue now and then: the letter is given back and polled again.
                    if self.rng.chance(0.02) {
                        self.shards[from].return_letter(name, letter);
                        self.busy[from] = true;
                        break;
                    }
                    let delay = self.rng.below(self.setup.letters.as_nanos() as u64 + 1);
                    let earliest = self.letters[to].back().map_or(now, |(at, _)| (*at).max(now));
                    let at = (now + Duration::from_nanos(delay)).max(earliest);
                    self.letters[to].push_back((at, letter));
                }
            }
        }
        moved
    }

    fn turn(&mut self, shard: usize, act: impl FnOnce(&mut Shard)) {
        self.busy[shard] = true;
        if self.waits.is_none() {
            return act(&mut self.shards[shard]);
        }
        let (waited, begin) = (waited(), Instant::now());
        act(&mut self.shards[shard]);
        let took = begin.elapsed();
        self.worked += took.saturating_sub(self::waited() - waited);
    }

    // ---- conditions

    /// Whether these clients are in the room.
    pub(crate) fn all_joined(&self, room: &str) -> bool {
        self.clients.iter().all(|client| client.rooms.contains_key(room))
    }

    /// Whether everybody is on this pipe.
    pub(crate) fn all_on(&self, pipe: Pipe) -> bool {
        self.clients.iter().all(|client| client.browser.attached() == Some(pipe))
    }

    /// Whether nothing is on its way to or from anybody.
    pub(crate) fn is_quiet(&self) -> bool {
        self.held() == 0 && self.clients.iter().all(|client| client.browser.held_bytes() == 0)
    }
}

/// How long this thread has waited for a processor so far, as far as the system tells: on a busy machine that is most
/// of what a clock shows.
fn waited() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = text.split(' ').nth(1).and_then(|word| word.parse().ok());
    Duration::from_nanos(nanos.unwrap_or_default())
}

/// The key of a room of the worlds' tenant.
pub(crate) fn room_key(room: &str) -> RoomKey {
    RoomKey { tenant: TENANT.into(), room: room.into() }
}

/// A room's name that lives on this shard.
pub(crate) fn room_on(shard: u16, shards: u16) -> String {
    (0..)
        .map(|number| format!("room{number}"))
        .find(|name| room_key(name).shard(shards) == ShardId(shard))
        .unwrap()
}
