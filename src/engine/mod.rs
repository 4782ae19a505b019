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
//! - [`peers`]: datagram → path → peer; [`session`]: frames, lanes, rooms of a device; [`outbox`]: its WebSocket.

pub mod demux;
pub mod dtls_guard;
pub mod ice;
pub mod outbox;
pub mod path;
pub mod peer;
pub mod peers;
pub mod sdp;
pub mod session;
pub mod stun;
mod timers;
pub mod transmit;

use std::{
    collections::HashMap,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use switchyard_signaling::{
    Code,
    frame::Kind,
    lane,
    limits::{self, Limits, VERSION},
    message::{self, Description, Refusal, ServerText},
};

use self::{
    ice::Credentials,
    outbox::Outbox,
    path::Path,
    peer::{Channel, Identity, Peer, PeerEvent},
    peers::{Datagram, PeerCounts, PeerTimeouts, Peers},
    sdp::{HostCandidate, Offer},
    session::{Counts, Event, Session, SessionLimits, Via},
    timers::{Timer, Timers},
    transmit::{Transmit, TransmitQueue},
};
use crate::{
    names::{RoomKey, SessionId, ShardId},
    room::{Action, Delivery, Grant, Lane, Receiver, RoomLimits},
    router::{Arrival, Letter, RoomPlace, Router},
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
    /// Sessions on this shard at the same time.
    pub max_sessions: usize,
    /// Peers on this shard at the same time.
    pub max_peers: usize,
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
    /// The offer bound to the join.
    pub offer: Option<Description>,
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
        key: String,
    },
    /// An offer.
    Offer(SocketId, Description),
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
/// [`poll_letter`](Self::poll_letter) until empty. Flushing once after many inputs is what makes datagrams of one
/// peer leave together.
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
    events: Vec<Event>,
    buffer: BytesMut,
    draining: bool,
}

impl fmt::Debug for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shard")
            .field("shard", &self.config.shard)
            .finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Entry {
    session: Session,
    socket: Option<(SocketId, Arc<Outbox>)>,
    peer: Option<u32>,
    is_dirty: bool,
    timer: Option<Instant>,
}

/// A session that could not do what was due is looked at again after this time at the latest.
const RETRY: Duration = Duration::from_millis(10);
/// Sampled deliveries whose latency is kept until it is asked for.
const LATENCIES: usize = 4096;

impl Shard {
    /// A shard without anybody. `random` must not be guessable: credentials and session keys are made of it.
    pub fn new(config: ShardConfig, random: Box<dyn FnMut() -> u64 + Send>) -> Self {
        Self {
            router: Router::new(config.shard, config.shards, config.rooms),
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
            events: Vec::new(),
            buffer: BytesMut::new(),
            draining: false,
            config,
        }
    }

    /// Takes a datagram from the network.
    pub fn handle_datagram(&mut self, datagram: Datagram, now: Instant) {
        if let Some(slot) = self.peers.handle(datagram, now, &mut self.transmits) {
            self.mark_peer(slot);
        }
    }

    /// Takes a command of a WebSocket's task.
    pub fn handle_command(&mut self, command: Command, now: Instant) {
        match command {
            Command::Join {
                socket,
                outbox,
                request,
            } => self.join(socket, outbox, request, now),
            Command::Resume {
                socket,
                outbox,
                session,
                key,
            } => self.resume(socket, outbox, session, &key),
            Command::Offer(socket, offer) => {
                if let Some(slot) = self.slot_of(socket, None) {
                    self.offer(slot, None, &offer, now);
                }
            }
            Command::Frames(socket, message) => {
                if let Some(slot) = self.slot_of(socket, None) {
                    self.session_message(slot, Via::Socket, message, now);
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
                        self.peer_due(slot, now);
                    }
                }
            }
        }
        self.router.handle_timeout(now);
        self.settle(now);
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        [self.timers.next(), self.router.poll_timeout()]
            .into_iter()
            .flatten()
            .min()
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

    /// Sampled latencies from sender to receiver since the last call: the way of the sender's pipe, the time in here
    /// and the way of the receiver's pipe, ways being half of measured round trips.
    pub fn take_latencies(&mut self) -> Vec<Duration> {
        std::mem::take(&mut self.latencies)
    }

    /// Which sessions are on which rung.
    pub fn rungs(&self) -> Rungs {
        let mut rungs = Rungs::default();
        for entry in self.sessions.iter().flatten() {
            let path = entry.peer.filter(|_| entry.session.attached == Via::Channel);
            let rung = match path.and_then(|peer| self.peers.current_path(peer)) {
                Some(Path::Udp(_)) => &mut rungs.udp,
                Some(Path::Tcp(_)) => &mut rungs.tcp,
                Some(Path::Relay(_)) => &mut rungs.relay,
                None if entry.session.alone_since.is_some() || entry.socket.is_none() => &mut rungs.none,
                None => &mut rungs.websocket,
            };
            *rung += 1;
        }
        rungs
    }

    /// Rooms that live here, their members, sessions, peers.
    pub fn population(&self) -> (usize, usize, usize, usize) {
        let (rooms, members) = self.router.population();
        (
            rooms,
            members,
            self.sessions.len() - self.free.len(),
            self.peers.len(),
        )
    }

    /// Bytes held for receivers that have not acknowledged them or not taken them yet.
    pub fn held_bytes(&self) -> usize {
        self.sessions
            .iter()
            .flatten()
            .map(|entry| entry.session.held_bytes())
            .sum()
    }

    // ---- commands

    fn join(&mut self, socket: SocketId, outbox: Arc<Outbox>, request: JoinRequest, now: Instant) {
        let JoinRequest {
            id,
            room,
            grant,
            offer,
        } = request;
        let slot = match self.sockets.get(&socket) {
            Some(&slot) => slot,
            None if self.draining || self.sessions.len() - self.free.len() >= self.config.max_sessions => {
                let mut refusal = Refusal::new(
                    Some(id),
                    Code::Overloaded,
                    "the server cannot take more sessions now",
                );
                refusal.retry_after_ms = Some(5000);
                return outbox.push_text(message::to_json(&ServerText::Error(refusal)));
            }
            None => self.new_session(socket, outbox, (room.tenant.clone(), grant.user.clone()), now),
        };
        let Some(entry) = self.entry(slot) else { return };
        if entry.session.tenant != room.tenant || entry.session.user != grant.user {
            return entry.refuse(
                Some(id),
                Code::OtherUser,
                "the token names another tenant or user than the session's",
            );
        }
        match entry.session.handle_for(&room) {
            Ok(handle) => {
                let session = entry.session.id;
                self.router
                    .join(session, room, Action::Join { handle, id, grant }, now);
                self.settle(now);
                if let Some(offer) = offer {
                    self.offer(slot, Some(id), &offer, now);
                }
            }
            Err(code) => entry.refuse(Some(id), code, "the session is in as many rooms as it may be"),
        }
    }

    fn new_session(
        &mut self,
        socket: SocketId,
        outbox: Arc<Outbox>,
        owner: (Arc<str>, Arc<str>),
        now: Instant,
    ) -> u32 {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.sessions.push(None);
            (self.sessions.len() - 1) as u32
        });
        self.serial = self.serial.wrapping_add(1);
        let id = SessionId {
            shard: self.config.shard,
            slot,
            serial: self.serial,
        };
        let key = format!("{:016x}{:016x}", (self.random)(), (self.random)());
        let text = ServerText::Session {
            session: id.to_wire(),
            key: key.clone(),
        };
        let session = Session::new(id, owner, key.into(), self.config.sessions.clone(), now);
        let entry = Entry {
            session,
            socket: Some((socket, outbox)),
            peer: None,
            is_dirty: false,
            timer: None,
        };
        entry.text(&text);
        self.sockets.insert(socket, slot);
        self.sessions[slot as usize] = Some(entry);
        slot
    }

    fn resume(&mut self, socket: SocketId, outbox: Arc<Outbox>, session: SessionId, key: &str) {
        let limits = self.config.sessions.announced.clone();
        let entry = self
            .sessions
            .get_mut(session.slot as usize)
            .and_then(Option::as_mut);
        let entry = entry.filter(|entry| {
            entry.session.id == session
                && rtc::crypto::constant_time_eq(entry.session.key.as_bytes(), key.as_bytes())
        });
        let Some(entry) = entry else {
            let refusal = Refusal::new(
                None,
                Code::UnknownSession,
                "the session to resume is gone; join anew",
            );
            outbox.push_text(message::to_json(&ServerText::Error(refusal)));
            return outbox.push_text(message::to_json(&welcome(false, limits)));
        };
        outbox.push_text(message::to_json(&welcome(true, limits)));
        if let Some((replaced, old)) = entry.socket.replace((socket, outbox)) {
            old.close(Code::Replaced);
            self.sockets.remove(&replaced);
        }
        self.sockets.insert(socket, session.slot);
    }

    fn offer(&mut self, slot: u32, id: Option<u32>, offer: &Description, now: Instant) {
        let Some(identity) = self.config.identity.clone() else {
            if let Some(entry) = self.entry(slot) {
                entry.refuse(id, Code::WebrtcDisabled, "this server runs without WebRTC");
            }
            return;
        };
        let fresh = Credentials::generate(self.config.shard.0, &mut self.random);
        let result = Offer::parse(&offer.sdp, limits::CHANNEL_MESSAGE_BYTES)
            .map_err(|error| error.to_string())
            .and_then(|parsed| self.answer(slot, offer.pc, &parsed, fresh, &identity, now));
        let Some(entry) = self.entry(slot) else { return };
        match result {
            Ok(sdp) => entry.text(&ServerText::Answer(Description { pc: offer.pc, sdp })),
            Err(sentence) => entry.refuse(id, Code::BadOffer, &sentence),
        }
    }

    /// The answer to an offer: of the peer that is there for an ICE restart, else of a new one.
    fn answer(
        &mut self,
        slot: u32,
        pc: u32,
        offer: &Offer,
        fresh: Credentials,
        identity: &Identity,
        now: Instant,
    ) -> Result<String, String> {
        let current = self.entry(slot).and_then(|entry| entry.peer);
        if let Some(peer) = current
            && let Some(entry) = self.peers.get(peer)
            && entry.pc == pc
        {
            if !entry.peer.is_same_client(offer) {
                return Err(
                    "the offer has another certificate; a new peer connection needs a new pc".to_owned(),
                );
            }
            let template = entry.peer.answer().to_owned();
            let local = self
                .peers
                .restart(peer, &offer.credentials, fresh)
                .unwrap_or_else(|| unreachable!());
            return Ok(sdp::answer(&template, &local, &self.config.candidates));
        }
        if current.is_none() && self.peers.len() >= self.config.max_peers {
            return Err("the server cannot take more peer connections now".to_owned());
        }
        let peer = Peer::new(offer, &fresh, identity, now).map_err(|error| error.to_string())?;
        if current.is_some() {
            self.drop_peer(slot, now);
        }
        let sdp = sdp::answer(peer.answer(), &fresh, &self.config.candidates);
        let peer = self
            .peers
            .insert((slot, pc), peer, (fresh, offer.credentials.clone()), now);
        if let Some(entry) = self.entry(slot) {
            entry.peer = Some(peer);
        }
        self.mark_peer(peer);
        Ok(sdp)
    }

    fn socket_closed(&mut self, socket: SocketId, clean: bool, now: Instant) {
        let Some(slot) = self.sockets.remove(&socket) else {
            return;
        };
        let Some(entry) = self.entry(slot) else { return };
        entry.socket = None;
        if entry.session.attached == Via::Channel {
            return;
        }
        if clean {
            return self.end_session(slot, Code::Left, Code::Bye, now);
        }
        entry.session.alone_since = Some(now);
        self.schedule_session(slot, now);
    }

    fn drain(&mut self, retry_after: Duration, now: Instant) {
        self.draining = true;
        let text = ServerText::Draining {
            retry_after_ms: retry_after.as_millis() as u64,
        };
        for slot in 0..self.sessions.len() as u32 {
            if let Some(entry) = self.entry(slot) {
                entry.text(&text);
                self.end_session(slot, Code::RoomClosed, Code::Draining, now);
            }
        }
    }

    // ---- what comes in over pipes

    fn session_message(&mut self, slot: u32, via: Via, message: Bytes, now: Instant) {
        let mut events = std::mem::take(&mut self.events);
        let Some(entry) = self.entry(slot) else { return };
        entry.session.handle_message(via, message, now, &mut events);
        let session = entry.session.id;
        for event in events.drain(..) {
            match event {
                Event::Act(place, action) => {
                    self.router.act(session, place, action, now);
                    self.settle(now);
                }
                Event::Attached => {
                    if let Some(entry) = self.entry(slot) {
                        entry.session.alone_since = None;
                    }
                }
                Event::Problem(code, sentence) => {
                    if let Some(entry) = self.entry(slot) {
                        entry.refuse(None, code, &sentence);
                    }
                }
            }
        }
        self.events = events;
        self.mark_session(slot);
    }

    fn read_peers(&mut self, now: Instant) {
        // Reading marks sessions, not peers; peers that are written to are marked when pipes are filled.
        for index in 0..self.dirty_peers.len() {
            let peer = self.dirty_peers[index];
            self.read_peer(peer, now);
        }
    }

    fn read_peer(&mut self, peer: u32, now: Instant) {
        while let Some(entry) = self.peers.get(peer) {
            let slot = entry.session;
            match entry.peer.poll_event() {
                Some(PeerEvent::Open) => {
                    entry.opened();
                    self.mark_session(slot);
                }
                Some(PeerEvent::Closed) => return self.peer_lost(peer, now),
                None => break,
            }
        }
        while let Some(entry) = self.peers.get(peer) {
            let slot = entry.session;
            let Some((_, message)) = entry.peer.poll_message() else {
                break;
            };
            self.session_message(slot, Via::Channel, message, now);
        }
        // Acknowledgements that came in may have made room in the channel.
        if let Some(entry) = self.peers.get(peer)
            && entry.room(Channel::Reliable) > 0
        {
            let slot = entry.session;
            if self
                .entry(slot)
                .is_some_and(|entry| entry.session.attached == Via::Channel && entry.session.is_ready())
            {
                self.mark_session(slot);
            }
        }
    }

    /// Brings what rooms say to the sessions of this shard.
    fn settle(&mut self, now: Instant) {
        while let Some(arrival) = self.router.poll_arrival() {
            match arrival {
                Arrival::Deliver(delivery) => self.deliver(&delivery, now),
                Arrival::Admitted(receiver, place) => self.admitted(receiver, place, now),
                Arrival::Dismissed(receiver) => {
                    if let Some(entry) = self.session(receiver.session) {
                        entry.session.dismissed(receiver.handle);
                    }
                }
            }
        }
    }

    fn admitted(&mut self, receiver: Receiver, place: RoomPlace, now: Instant) {
        let known = self
            .session(receiver.session)
            .is_some_and(|entry| entry.session.admitted(receiver.handle, place));
        if !known {
            // It ended while the join was on its way.
            let leave = Action::Leave {
                reason: Code::Timeout,
                tell: false,
            };
            self.router.act(receiver.session, place, leave, now);
        }
    }

    fn deliver(&mut self, delivery: &Delivery, now: Instant) {
        let Delivery {
            receivers,
            except,
            lane,
            message,
        } = delivery;
        let mut behind = Vec::new();
        for receiver in receivers.iter() {
            let session = receiver.session;
            if session.shard != self.config.shard || Some(session) == *except {
                continue;
            }
            let Some(Some(entry)) = self.sessions.get_mut(session.slot as usize) else {
                continue;
            };
            if entry.session.id != session {
                continue;
            }
            match lane {
                Lane::Reliable => {
                    if entry.session.push(receiver.handle, message).is_err() {
                        behind.push(session.slot);
                    }
                }
                Lane::Lossy { seq } => entry.session.push_lossy(receiver.handle, *seq, message),
            }
            if !entry.is_dirty {
                entry.is_dirty = true;
                self.dirty_sessions.push(session.slot);
            }
        }
        self.sample(message, now);
        for slot in behind {
            self.counts.overflows += 1;
            self.end_session(slot, Code::Timeout, Code::Overloaded, now);
        }
    }

    // ---- what goes out

    fn fill_pipe(&mut self, slot: u32, now: Instant) {
        let Some(Some(entry)) = self.sessions.get_mut(slot as usize) else {
            return;
        };
        entry.is_dirty = false;
        let mut buffer = std::mem::take(&mut self.buffer);
        let gaps = entry.session.gaps();
        match (entry.session.attached, &entry.socket, entry.peer) {
            (Via::Socket, Some((_, outbox)), _) => fill_socket(&mut entry.session, outbox, now, &mut buffer),
            (Via::Channel, _, Some(peer)) => {
                if let Some(peer_entry) = self.peers.get(peer) {
                    fill_channels(&mut entry.session, peer_entry, now, &mut buffer);
                }
                self.buffer = buffer;
                self.mark_peer(peer);
                return self.after_fill(slot, gaps, now);
            }
            _ => {}
        }
        self.buffer = buffer;
        self.after_fill(slot, gaps, now);
    }

    fn after_fill(&mut self, slot: u32, gaps: u64, now: Instant) {
        if let Some(entry) = self.entry(slot) {
            let more = entry.session.gaps() - gaps;
            self.counts.gaps += more;
        }
        self.schedule_session(slot, now);
    }

    fn write_peers(&mut self, now: Instant) {
        let mut dirty = std::mem::take(&mut self.dirty_peers);
        for peer in dirty.drain(..) {
            let Some(entry) = self.peers.get(peer) else {
                continue;
            };
            entry.is_dirty = false;
            let sent = entry.transmit(&mut self.transmits);
            self.counts.sent += sent;
            let due = self.peers.due(peer, now);
            if let Some(entry) = self.peers.get(peer) {
                self.timers.schedule(Timer::Peer(peer), due, &mut entry.timer);
            }
        }
        self.dirty_peers = dirty;
    }

    // ---- time

    fn session_due(&mut self, slot: u32, now: Instant) {
        let grace = Duration::from_millis(self.config.sessions.announced.resume_grace_ms);
        let Some(entry) = self.entry(slot) else { return };
        if entry
            .session
            .alone_since
            .is_some_and(|since| since + grace <= now)
        {
            return self.end_session(slot, Code::Timeout, Code::Timeout, now);
        }
        if entry.session.channel_is_silent(now) {
            self.leave_channel(slot, now);
        }
        // Scheduled again when the pipe has been filled.
        self.mark_session(slot);
    }

    fn peer_due(&mut self, peer: u32, now: Instant) {
        if self.peers.is_expired(peer, now) {
            return self.peer_lost(peer, now);
        }
        if let Some(entry) = self.peers.get(peer)
            && let Err(error) = entry.peer.handle_timeout(now)
        {
            tracing::debug!(%error, "the engine's timers");
        }
        self.mark_peer(peer);
    }

    // ---- ends

    /// The peer is gone: by the client's will, by timeout, by failure.
    fn peer_lost(&mut self, peer: u32, now: Instant) {
        let Some(entry) = self.peers.get(peer) else { return };
        let (slot, was_open) = (entry.session, entry.is_open);
        self.drop_peer(slot, now);
        if was_open && let Some(entry) = self.entry(slot) {
            entry.text(&ServerText::Renegotiate {
                wanted: vec!["data".to_owned()],
                reason: Code::PipeLost,
            });
        }
    }

    fn drop_peer(&mut self, slot: u32, now: Instant) {
        let Some(peer) = self.entry(slot).and_then(|entry| entry.peer.take()) else {
            return;
        };
        self.peers.remove(peer, &mut self.transmits);
        if self
            .entry(slot)
            .is_some_and(|entry| entry.session.attached == Via::Channel)
        {
            self.leave_channel(slot, now);
        }
    }

    /// The data channel is dead: on over the WebSocket, or wait for the client.
    fn leave_channel(&mut self, slot: u32, now: Instant) {
        let Some(entry) = self.entry(slot) else { return };
        if entry.socket.is_some() {
            entry.session.fall_back(Via::Socket);
        } else if entry.peer.is_none() {
            entry.session.attached = Via::Socket;
            entry.session.alone_since = entry.session.alone_since.or(Some(now));
        }
        self.mark_session(slot);
        self.schedule_session(slot, now);
    }

    fn end_session(&mut self, slot: u32, told_others: Code, told_client: Code, now: Instant) {
        let Some(mut entry) = self.sessions.get_mut(slot as usize).and_then(Option::take) else {
            return;
        };
        self.counts.sessions.add(entry.session.counts);
        let leave = || Action::Leave {
            reason: told_others,
            tell: false,
        };
        for place in entry.session.places().collect::<Vec<_>>() {
            self.router.act(entry.session.id, place, leave(), now);
        }
        if let Some(peer) = entry.peer.take() {
            self.peers.remove(peer, &mut self.transmits);
        }
        if let Some((socket, outbox)) = entry.socket {
            outbox.close(told_client);
            self.sockets.remove(&socket);
        }
        self.free.push(slot);
        self.settle(now);
    }

    // ---- small things

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
            let refusal = Refusal::new(
                None,
                Code::JoinFirst,
                "this message needs a session: join a room first",
            );
            outbox.push_text(message::to_json(&ServerText::Error(refusal)));
        }
        slot
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
        // What was due and could not be sent now waits for the pipe, which says when it has room.
        let due = entry
            .session
            .poll_timeout()
            .filter(|_| entry.has_pipe())
            .map(|due| due.max(now + RETRY));
        let due = [alone, due].into_iter().flatten().min();
        self.timers.schedule(Timer::Session(slot), due, &mut entry.timer);
    }

    fn sample(&mut self, message: &lane::Message, now: Instant) {
        if message.kind == Kind::Data && self.latencies.len() < LATENCIES {
            self.latencies.push(now.saturating_duration_since(message.at));
        }
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
    }
}

/// The answer to `hello`.
pub fn welcome(resumed: bool, limits: Limits) -> ServerText {
    ServerText::Welcome {
        v: VERSION,
        resumed,
        limits,
        ping_interval_ms: PING_INTERVAL.as_millis() as u64,
    }
}

fn fill_socket(session: &mut Session, outbox: &Outbox, now: Instant, buffer: &mut BytesMut) {
    buffer.clear();
    let room = outbox.room();
    session.fill((room, room), now, buffer);
    let left = room.saturating_sub(buffer.len());
    session.fill_lossy((room, left), buffer);
    let starved = session.is_ready();
    if !buffer.is_empty() {
        outbox.push_frames(buffer, starved);
    } else if starved {
        outbox.set_starved();
    }
}

fn fill_channels(session: &mut Session, peer: &mut peers::Entry, now: Instant, buffer: &mut BytesMut) {
    // Frames that cannot be written are not lost: they are unacknowledged, and replayed on the next pipe.
    let write = |peer: &mut peers::Entry, channel, buffer: &mut BytesMut| {
        if let Err(error) = peer.peer.send(channel, buffer.split(), now) {
            tracing::debug!(%error, "the engine refused a message");
        }
    };
    buffer.clear();
    while peer.room(Channel::Reliable) > 0
        && session.fill((CHANNEL_BATCH, limits::CHANNEL_MESSAGE_BYTES), now, buffer)
    {
        write(peer, Channel::Reliable, buffer);
    }
    while peer.room(Channel::Lossy) > 0
        && session.fill_lossy((CHANNEL_BATCH, limits::CHANNEL_MESSAGE_BYTES), buffer)
    {
        write(peer, Channel::Lossy, buffer);
    }
}
