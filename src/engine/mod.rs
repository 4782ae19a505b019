//! One shard, sans-IO: its peers, sessions and rooms, and everything between a datagram coming in and datagrams going
//! out.
//!
//! ```text
//! datagram ─► peers (path → peer) ─► session (frames) ─► router ─► room
//!                                                                    │
//! datagrams ◄─ peers ◄─ session (lanes, scheduler) ◄─ deliveries ◄───┘
//! ```
//!
//! [`Shard`] never opens a socket, reads a clock or waits: `src/io/` feeds it and carries off what it has, on one
//! thread, and the world tests do the same in virtual time. Letters between shards and WebSocket outboxes are all it
//! shares with other threads.
//!
//! - [`peer`]: the WebRTC engine; [`ice`], [`stun`], [`dtls_guard`], [`demux`], [`sdp`]: what we do in front of it;
//! - [`records`]: what is known of attempts to connect; [`mod@quality`]: how good connections are;
//! - [`peers`]: datagram → path → peer; [`session`]: frames, lanes, rooms of a device; [`outbox`]: its WebSocket, and [`gather`] a message for it.

mod commands;
pub mod demux;
mod doubt;
pub mod dtls_guard;
mod endings;
mod gather;
pub mod ice;
pub mod outbox;
pub mod path;
pub mod peer;
pub mod peers;
mod quality;
mod records;
pub mod sdp;
pub mod session;
pub mod stun;
pub mod ticket;
mod timers;
mod traffic;
pub mod transmit;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use switchyard_signaling::{
    Code, Features,
    attempt::{Attempt, Rung},
    limits::{Limits, VERSION},
    message::{self, Description, Follow, Ice, Refusal, ServerText},
    quality::{Pairs, Quality, Score, Seen},
};

use self::{
    gather::Gather,
    outbox::Outbox,
    path::Path,
    peer::Identity,
    peers::{Datagram, Handled, Outcome, PeerCounts, PeerTimeouts, Peers},
    records::Over,
    sdp::HostCandidate,
    session::{Came, Counts, Event, Session, SessionLimits, Via},
    timers::{Timer, Timers},
    transmit::{Transmit, TransmitQueue},
};
use crate::{
    attempts::Record,
    ice_servers::IceServers,
    names::{RoomKey, SessionId, ShardId},
    room::{BackendAnswer, BackendError, BackendRequest, Grant, LogSettings, RoomLimits},
    router::{Letter, Router, Tally},
    store,
};

/// A data-channel message that holds several frames has about as many bytes, so that it fits one SCTP DATA chunk in
/// one packet; a longer frame goes alone.
const CHANNEL_BATCH: usize = 1100;

/// How often a client should ping its WebSocket.
pub const PING_INTERVAL: Duration = Duration::from_secs(10);

/// Everything that a shard is told once.
#[derive(Clone, Debug)]
pub struct ShardConfig {
    /// Which one.
    pub shard: ShardId,
    /// Of how many.
    pub shards: u16,
    /// Where its peers reach it; none when WebRTC is off.
    pub candidates: Vec<HostCandidate>,
    /// The DTLS certificate; `None` when WebRTC is off.
    pub identity: Option<Identity>,
    /// Of peers.
    pub timeouts: PeerTimeouts,
    /// Of sessions.
    pub sessions: Arc<SessionLimits>,
    /// Of rooms.
    pub rooms: RoomLimits,
    /// Of their logs.
    pub logs: Arc<LogSettings>,
    /// What sessions are told of STUN and TURN; `None` if nothing.
    pub ice_servers: Option<Arc<IceServers>>,
    /// Sessions on this shard at the same time.
    pub max_sessions: usize,
    /// Peers on this shard at the same time.
    pub max_peers: usize,
}

impl ShardConfig {
    /// What there is to be switched off.
    fn features(&self) -> Features {
        Features { webrtc: self.identity.is_some(), relay: self.ice_servers.is_some(), ..Features::default() }
    }

    /// What a session is told of STUN and TURN.
    fn ice(&self, session: &Session, features: Features, now: Instant) -> Option<Ice> {
        let servers = self.ice_servers.as_ref().filter(|_| features.relay)?;
        Some(servers.of_user(&session.tenant, &session.user, self.logs.clock.unix_ms(now) / 1000))
    }
}

/// A WebSocket, numbered by the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SocketId(pub u64);

/// A verified request to join.
#[derive(Debug)]
pub struct JoinRequest {
    /// Chosen by the client.
    pub id: u32,
    /// The room.
    pub room: RoomKey,
    /// What the token grants.
    pub grant: Grant,
    /// What server, room and token leave on.
    pub features: Features,
    /// The offer bound to the join.
    pub offer: Option<Description>,
    /// Whether the room's log is wanted, and from where.
    pub follow: Option<Follow>,
}

/// What a WebSocket's task tells the shard of its session.
#[derive(Debug)]
pub enum Command {
    /// Join a room. The first one of a socket makes its session here.
    Join {
        /// The socket.
        socket: SocketId,
        /// Its outgoing side.
        outbox: Arc<Outbox>,
        /// What was asked and granted.
        request: JoinRequest,
    },
    /// Serve a running session with this socket.
    Resume {
        /// The socket.
        socket: SocketId,
        /// Its outgoing side.
        outbox: Arc<Outbox>,
        /// The session.
        session: SessionId,
        /// The proof of owning it.
        ticket: String,
        /// Whether all its other pipes are another page's.
        takes_over: bool,
    },
    /// An offer.
    Offer(SocketId, Description),
    /// Fresh credentials for STUN and TURN.
    IceServers(SocketId),
    /// What became of an attempt to connect.
    Attempt(SocketId, Box<Attempt>),
    /// How good the client's connection is.
    Quality(SocketId, Quality),
    /// A pipe message.
    Frames(SocketId, Bytes),
    /// There is room again in the socket's outbox.
    Writable(SocketId),
    /// The session ends now.
    Bye(SocketId),
    /// The socket is closed; `clean` if by a closing handshake that says the page went away.
    Closed {
        /// The socket.
        socket: SocketId,
        /// Whether on purpose.
        clean: bool,
    },
    /// A path is gone.
    PathClosed(Path),
    /// Every client is told that the server shuts down, and let go.
    Drain {
        /// Told to the clients.
        retry_after: Duration,
    },
}

/// What a shard has counted since it was last asked.
#[derive(Clone, Copy, Debug, Default)]
pub struct ShardCounts {
    /// Of sessions.
    pub sessions: Counts,
    /// Of peers.
    pub peers: PeerCounts,
    /// Reliable messages dropped for slow receivers and told as gaps.
    pub gaps: u64,
    /// Sessions ended because they were too far behind for control messages.
    pub overflows: u64,
    /// Datagrams sent.
    pub sent: u64,
}

/// What was counted by kind.
pub type Tallies<K> = BTreeMap<K, u64>;

/// How many sessions are on which rung.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rungs {
    /// Data channel over UDP.
    pub udp: usize,
    /// Data channel over ICE-TCP.
    pub tcp: usize,
    /// Data channel over a relay.
    pub relay: usize,
    /// WebSocket.
    pub websocket: usize,
    /// No pipe at the moment.
    pub none: usize,
}

/// A shard.
///
/// Order of calls: any number of `handle_*`, then [`flush`](Self::flush), then [`transmits`](Self::transmits) and
/// [`poll_letter`](Self::poll_letter), [`poll_store`](Self::poll_store), [`poll_backend`](Self::poll_backend) and
/// [`poll_record`](Self::poll_record) until empty. Flushing once after many inputs is what makes datagrams of one
/// peer leave together. [`handle_handshake`](Self::handle_handshake) has rounds of its own behind those.
pub struct Shard {
    config: ShardConfig,
    router: Router,
    peers: Peers,
    sessions: Vec<Option<Entry>>,
    free: Vec<u32>,
    serial: u32,
    sockets: HashMap<SocketId, u32>,
    timers: Timers,
    dirty_peers: Vec<u32>,
    dirty_sessions: Vec<u32>,
    transmits: TransmitQueue,
    random: Box<dyn FnMut() -> u64 + Send>,
    counts: ShardCounts,
    latencies: Vec<Duration>,
    /// Sessions too far behind to go on; they end when what is being delivered has been.
    behind: Vec<u32>,
    is_settling: bool,
    outcomes: Tallies<Outcome>,
    events: Vec<Event>,
    records: VecDeque<Record>,
    qualities: Vec<Quality>,
    buffer: BytesMut,
    gather: Gather,
    /// What waits until everybody who is connected has been served.
    handshakes: VecDeque<Handshake>,
    draining: bool,
}

/// Something to do for a peer that is not connected yet.
#[derive(Debug)]
enum Handshake {
    Datagram(Datagram),
    /// The timer of the peer in this slot has come up.
    Due(u32),
}

impl fmt::Debug for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shard").field("shard", &self.config.shard).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Entry {
    session: Session,
    socket: Option<(SocketId, Arc<Outbox>)>,
    peer: Option<u32>,
    /// Those of before.
    over: Over,
    /// As its client has told last.
    quality: Option<Seen>,
    /// How many members it reaches which way, as it has told, in the order of [`Pairs::WAYS`].
    pairs: [u16; Pairs::WAYS.len()],
    /// What all its joins have left on.
    features: Features,
    /// The WebSocket's last words were that the page goes away, while the data channel was in use.
    is_going: bool,
    is_dirty: bool,
    timer: Option<Instant>,
}

/// A session that could not do what was due is looked at again after this time at the latest.
const RETRY: Duration = Duration::from_millis(10);
/// Datagrams of handshakes that wait at the same time: a second's work.
const HANDSHAKES: usize = 4096;
/// Sampled deliveries whose latency is kept until it is asked for.
const LATENCIES: usize = 4096;

impl Shard {
    /// A shard without anybody. `random` must not be guessable: credentials and resume tickets are made of it.
    pub fn new(config: ShardConfig, mut random: Box<dyn FnMut() -> u64 + Send>) -> Self {
        Self {
            router: Router::new(config.shard, config.shards, config.rooms, config.logs.clone(), random()),
            peers: Peers::new(config.timeouts),
            sessions: Vec::new(),
            free: Vec::new(),
            serial: 0,
            sockets: HashMap::new(),
            timers: Timers::default(),
            dirty_peers: Vec::new(),
            dirty_sessions: Vec::new(),
            transmits: TransmitQueue::default(),
            random,
            counts: ShardCounts::default(),
            latencies: Vec::new(),
            behind: Vec::new(),
            is_settling: false,
            outcomes: Tallies::new(),
            events: Vec::new(),
            records: VecDeque::new(),
            qualities: Vec::new(),
            buffer: BytesMut::new(),
            gather: Gather::default(),
            handshakes: VecDeque::new(),
            draining: false,
            config,
        }
    }

    /// Takes a datagram from the network.
    pub fn handle_datagram(&mut self, datagram: Datagram, now: Instant) {
        match self.peers.handle(datagram, now, &mut self.transmits) {
            Handled::Done => {}
            Handled::Peer(slot) => self.mark_peer(slot),
            Handled::Handshake(datagram) => self.put_off(Handshake::Datagram(datagram)),
        }
    }

    /// Takes a command of a WebSocket's task.
    pub fn handle_command(&mut self, command: Command, now: Instant) {
        match command {
            Command::Join { socket, outbox, request } => self.join(socket, outbox, request, now),
            Command::Resume { socket, outbox, session, ticket, takes_over } => {
                self.resume((socket, outbox), session, &ticket, takes_over, now);
            }
            Command::Offer(socket, offer) => {
                if let Some(slot) = self.slot_of(socket, None) {
                    self.offer(slot, &offer, now);
                }
            }
            Command::IceServers(socket) => {
                if let Some(slot) = self.slot_of(socket, None) {
                    self.tell_ice_servers(slot, now);
                }
            }
            Command::Attempt(socket, attempt) => {
                if let Some(slot) = self.slot_of(socket, None) {
                    self.told_of(slot, *attempt, now);
                }
            }
            Command::Quality(socket, quality) => {
                if let Some(slot) = self.slot_of(socket, None) {
                    self.told_quality(slot, quality, now);
                }
            }
            Command::Frames(socket, message) => {
                if let Some(slot) = self.slot_of(socket, None) {
                    self.session_message(slot, Came::Socket, message, now);
                }
            }
            Command::Writable(socket) => {
                if let Some(&slot) = self.sockets.get(&socket) {
                    self.mark_session(slot);
                }
            }
            Command::Bye(socket) => {
                if let Some(&slot) = self.sockets.get(&socket) {
                    self.end_session(slot, Code::Left, Code::Bye, now);
                }
            }
            Command::Closed { socket, clean } => self.socket_closed(socket, clean, now),
            Command::PathClosed(path) => self.peers.forget_path(path),
            Command::Drain { retry_after } => self.drain(retry_after, now),
        }
        self.settle(now);
    }

    /// Takes a letter of another shard.
    pub fn handle_letter(&mut self, letter: Letter, now: Instant) {
        self.router.handle_letter(letter, now);
        self.settle(now);
    }

    /// Takes an answer of the store.
    pub fn handle_stored(&mut self, reply: store::Reply, now: Instant) {
        self.router.handle_stored(reply, now);
        self.settle(now);
    }

    /// The application's backend acts in a room that lives here.
    pub fn handle_backend(&mut self, room: RoomKey, request: BackendRequest, now: Instant) {
        self.router.handle_backend(room, request, now);
        self.settle(now);
    }

    /// What rooms ask of the store.
    pub fn poll_store(&mut self) -> Option<store::Letter> {
        self.router.poll_store()
    }

    /// What the application's backend is answered.
    pub fn poll_backend(&mut self) -> Option<(u64, Result<BackendAnswer, BackendError>)> {
        self.router.poll_backend()
    }

    /// Plants a bug in every room that is made from now on, for the world tests.
    #[cfg(feature = "plants")]
    pub fn plant(&mut self, plant: Option<crate::room::Plant>) {
        self.router.plant(plant);
    }

    /// Does a little of what handshakes have waiting: one datagram or timer of a peer that is not connected yet.
    /// Called while [`has_handshakes`](Self::has_handshakes), each time after everybody else has been served, so that
    /// neither a storm of joins nor clients that never finish hold up those who talk.
    pub fn handle_handshake(&mut self, now: Instant) {
        match self.handshakes.pop_front() {
            Some(Handshake::Datagram(datagram)) => {
                if let Handled::Peer(slot) = self.peers.handle_handshake(datagram, now) {
                    self.mark_peer(slot);
                    // The engine opens its channels when it is asked for events, and drops what comes on them before
                    // that: the first message may come before the next flush.
                    if self.peers.get(slot).is_some_and(|peer| !peer.is_open) {
                        self.read_peer(slot, now);
                    }
                }
            }
            Some(Handshake::Due(slot)) => self.peer_due(slot, now),
            None => {}
        }
        self.settle(now);
    }

    /// Whether there is something for [`handle_handshake`](Self::handle_handshake).
    pub fn has_handshakes(&self) -> bool {
        !self.handshakes.is_empty()
    }

    fn put_off(&mut self, work: Handshake) {
        // Timers are as many as there are peers; datagrams come again, as after any loss.
        if self.handshakes.len() < HANDSHAKES || matches!(work, Handshake::Due(_)) {
            self.handshakes.push_back(work);
        } else {
            self.peers.counts.refused_handshake += 1;
        }
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((at, timer)) = self.timers.pop(now) {
            match timer {
                Timer::Session(slot) => {
                    if let Some(entry) = self.entry(slot)
                        && entry.timer == Some(at)
                    {
                        entry.timer = None;
                        self.session_due(slot, now);
                    }
                }
                Timer::Peer(slot) => {
                    if let Some(entry) = self.peers.get(slot)
                        && entry.timer == Some(at)
                    {
                        entry.timer = None;
                        if entry.is_open {
                            self.peer_due(slot, now);
                        } else {
                            self.put_off(Handshake::Due(slot));
                        }
                    }
                }
            }
        }
        self.router.handle_timeout(now);
        self.settle(now);
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        [self.timers.next(), self.router.poll_timeout()].into_iter().flatten().min()
    }

    /// Carries everything that came in through to the pipes.
    pub fn flush(&mut self, now: Instant) {
        self.read_peers(now);
        for index in 0..self.dirty_sessions.len() {
            let slot = self.dirty_sessions[index];
            self.fill_pipe(slot, now);
        }
        self.dirty_sessions.clear();
        self.write_peers(now);
    }

    /// Datagrams to send; [`clear_transmits`](Self::clear_transmits) when they are.
    pub fn transmits(&self) -> impl Iterator<Item = Transmit<'_>> {
        self.transmits.iter()
    }

    /// The datagrams have been sent, or lost.
    pub fn clear_transmits(&mut self) {
        self.transmits.clear();
    }

    /// The next letter for another shard.
    pub fn poll_letter(&mut self, to: ShardId) -> Option<Letter> {
        self.router.poll_letter(to)
    }

    /// A letter that could not be passed on now; it will be polled again.
    pub fn return_letter(&mut self, to: ShardId, letter: Letter) {
        self.router.return_letter(to, letter);
    }

    /// Letters that wait for another shard.
    pub fn waiting_letters(&self, to: ShardId) -> usize {
        self.router.waiting(to)
    }

    /// What was counted since the last call.
    pub fn take_counts(&mut self) -> ShardCounts {
        let mut counts = std::mem::take(&mut self.counts);
        counts.peers = std::mem::take(&mut self.peers.counts);
        for entry in self.sessions.iter_mut().flatten() {
            counts.sessions.add(std::mem::take(&mut entry.session.counts));
        }
        counts
    }

    /// What became of offers and connections since the last call.
    pub fn take_outcomes(&mut self) -> Tallies<Outcome> {
        std::mem::take(&mut self.outcomes)
    }

    /// What was counted about rooms since the last call.
    pub fn take_tallies(&mut self) -> Tallies<Tally> {
        self.router.take_tallies()
    }

    /// Sampled latencies from sender to receiver since the last call; see [`Session::take_sample`].
    pub fn take_latencies(&mut self) -> Vec<Duration> {
        std::mem::take(&mut self.latencies)
    }

    /// Which sessions are on which rung.
    pub fn rungs(&self) -> Rungs {
        let mut rungs = Rungs::default();
        for entry in self.sessions.iter().flatten() {
            *match self.rung_of(entry) {
                Some(Rung::Udp) => &mut rungs.udp,
                Some(Rung::Tcp) => &mut rungs.tcp,
                Some(Rung::Relay) => &mut rungs.relay,
                Some(Rung::WebSocket) => &mut rungs.websocket,
                Some(Rung::Other) | None => &mut rungs.none,
            } += 1;
        }
        rungs
    }

    /// How many sessions have told each score, in the order of [`Score::ALL`], and how many none.
    pub fn scores(&self) -> [usize; Score::ALL.len() + 1] {
        let mut scores = [0; Score::ALL.len() + 1];
        for entry in self.sessions.iter().flatten() {
            scores[entry.quality.map_or(Score::ALL.len(), |seen| seen.score as usize)] += 1;
        }
        scores
    }

    /// What clients have told of their connections since the last call.
    pub fn take_qualities(&mut self) -> Vec<Quality> {
        std::mem::take(&mut self.qualities)
    }

    /// Rooms that live here, their members, sessions, peers.
    pub fn population(&self) -> (usize, usize, usize, usize) {
        let (rooms, members) = self.router.population();
        (rooms, members, self.sessions.len() - self.free.len(), self.peers.len())
    }

    /// Bytes held for receivers that have not acknowledged them or not taken them yet.
    pub fn held_bytes(&self) -> usize {
        self.sessions.iter().flatten().map(|entry| entry.session.held_bytes()).sum()
    }

    fn entry(&mut self, slot: u32) -> Option<&mut Entry> {
        self.sessions.get_mut(slot as usize)?.as_mut()
    }

    fn session(&mut self, id: SessionId) -> Option<&mut Entry> {
        self.entry(id.slot).filter(|entry| entry.session.id == id)
    }

    /// The session of a socket; the client is told when there is none.
    fn slot_of(&mut self, socket: SocketId, outbox: Option<&Outbox>) -> Option<u32> {
        let slot = self.sockets.get(&socket).copied();
        if slot.is_none()
            && let Some(outbox) = outbox
        {
            let refusal =
                Refusal::new(None, Code::JoinFirst, "this message needs a session: join a room first");
            outbox.push_text(message::to_json(&ServerText::Error(refusal)));
        }
        slot
    }

    fn note(&mut self, outcome: Outcome) {
        *self.outcomes.entry(outcome).or_default() += 1;
    }

    fn mark_peer(&mut self, peer: u32) {
        if let Some(entry) = self.peers.get(peer)
            && !entry.is_dirty
        {
            entry.is_dirty = true;
            self.dirty_peers.push(peer);
        }
    }

    fn mark_session(&mut self, slot: u32) {
        if let Some(entry) = self.sessions.get_mut(slot as usize).and_then(Option::as_mut)
            && !entry.is_dirty
        {
            entry.is_dirty = true;
            self.dirty_sessions.push(slot);
        }
    }

    fn schedule_session(&mut self, slot: u32, now: Instant) {
        let grace = Duration::from_millis(self.config.sessions.announced.resume_grace_ms);
        let Some(entry) = self.sessions.get_mut(slot as usize).and_then(Option::as_mut) else {
            return;
        };
        let alone = entry.session.alone_since.map(|since| since + grace);
        let heard = entry.peer.filter(|_| entry.socket.is_some()).and_then(|peer| self.peers.heard(peer));
        let doubt = heard.and_then(|heard| entry.session.doubt_at(heard));
        // What was due and could not be sent now waits for the pipe, which says when it has room.
        let due = entry
            .session
            .poll_timeout(entry.socket.is_some())
            .filter(|_| entry.has_pipe())
            .map(|due| due.max(now + RETRY));
        let due = [alone, due, doubt].into_iter().flatten().min();
        self.timers.schedule(Timer::Session(slot), due, &mut entry.timer);
    }
}

impl Entry {
    fn has_pipe(&self) -> bool {
        match self.session.attached {
            Via::Socket => self.socket.is_some(),
            Via::Channel => self.peer.is_some(),
        }
    }

    fn text(&self, text: &ServerText) {
        if let Some((_, outbox)) = &self.socket {
            outbox.push_text(message::to_json(text));
        }
    }

    fn refuse(&self, id: Option<u32>, code: Code, sentence: &str) {
        self.text(&ServerText::Error(Refusal::new(id, code, sentence)));
    }
}

impl Counts {
    fn add(&mut self, other: Self) {
        for lane in 0..2 {
            self.delivered[lane] += other.delivered[lane];
            self.delivered_bytes[lane] += other.delivered_bytes[lane];
            self.received[lane] += other.received[lane];
            self.received_bytes[lane] += other.received_bytes[lane];
        }
        self.lossy_dropped += other.lossy_dropped;
        self.rate_limited += other.rate_limited;
        self.unknown_frames += other.unknown_frames;
        self.duplicates += other.duplicates;
        self.doubts += other.doubts;
        self.copies += other.copies;
        self.resumes += other.resumes;
        for to in 0..2 {
            self.moves[to] += other.moves[to];
        }
    }
}

/// The answer to `hello`, for who has no session.
pub fn welcome(limits: Limits) -> ServerText {
    let ping_interval_ms = PING_INTERVAL.as_millis() as u64;
    ServerText::Welcome {
        v: VERSION,
        resumed: false,
        limits,
        ping_interval_ms,
        ice: None,
        features: None,
        ack: None,
    }
}

/// The answer to `hello`, for who has one.
fn welcome_back(limits: Limits, ice: Option<Ice>, features: Features, ack: u32) -> ServerText {
    let ping_interval_ms = PING_INTERVAL.as_millis() as u64;
    let (features, ack) = (Some(features), Some(ack));
    ServerText::Welcome { v: VERSION, resumed: true, limits, ping_interval_ms, ice, features, ack }
}
