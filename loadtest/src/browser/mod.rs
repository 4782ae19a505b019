//! A simulated browser: one session of the protocol with its WebSocket and its peer connection, without sockets.
//!
//! It does what the browser client in `client/src/` does, over the same wire, and uses the lane of
//! `switchyard-signaling` as it is. It never opens a socket or reads a clock, and it keeps no account of what it
//! received: that is [`crate::account`]'s.
//!
//! Order of calls. Give it what happens: [`handle_socket_open`](Browser::handle_socket_open),
//! [`handle_text`](Browser::handle_text), [`handle_binary`](Browser::handle_binary),
//! [`handle_datagram`](Browser::handle_datagram) and so on, [`handle_timeout`](Browser::handle_timeout) when
//! [`poll_timeout`](Browser::poll_timeout) is due, and commands such as [`join`](Browser::join) and
//! [`send`](Browser::send). After each, or after a batch of them, take everything from
//! [`poll_event`](Browser::poll_event) and [`poll_datagram`](Browser::poll_datagram), and from
//! [`poll_socket`](Browser::poll_socket) as long as the WebSocket can take more.

mod choice;
mod event;
mod frames;
mod ladder;
mod log;
mod pipes;
pub(crate) mod rules;
mod ways;
mod webrtc;

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use switchyard_signaling::{
    Code,
    assembly::Assembly,
    frame::{self, Kind, LossyHeader, Target},
    lane::{Message, Overflow, Receiver, Sender},
    limits::{self, Limits},
    message::{ClientControl, ClientText, Ice, Resume, ServerText, to_json},
};

pub use self::event::{
    BrowserConfig, Event, Fault, Incoming, Lane, Outgoing, Pipe, SendError, SocketOutput, StreamOutput,
};
pub use self::ladder::Rung;
pub use self::log::{LogError, LogEvent, RoomLog, Saved, Text};
pub use self::pipes::Wish;

use self::{ladder::Ladder, pipes::Pipes};
use crate::{
    netsim::Datagram,
    peer::{Channel, Peer},
};

/// A simulated browser with one session.
pub struct Browser {
    config: BrowserConfig,
    limits: Limits,
    socket: Socket,
    session: Option<Resume>,
    /// The session is gone at the server.
    is_lost: bool,
    joins: VecDeque<ClientText>,
    /// Joins that were sent before there was a session: if the WebSocket breaks they were for nothing.
    first_joins: VecDeque<ClientText>,
    next_request: u32,
    peer: Option<Peer>,
    peer_number: u32,
    /// Of a browser that climbs.
    ladder: Option<Ladder>,
    /// Which of the channels are open, reliable and lossy.
    open: (bool, bool),
    /// Until when the peer connection must have opened its reliable channel.
    deadline: Option<Instant>,
    retry: Option<Instant>,
    pipes: Pipes,
    /// Bytes that the reliable channel was given.
    given: u64,
    sender: Sender,
    receiver: Receiver,
    assembly: Assembly,
    /// Frames without a lane for each pipe: they go before the lane's.
    urgent_socket: BytesMut,
    urgent_channel: BytesMut,
    lossy_seq: BTreeMap<(u16, u16), u32>,
    /// By room.
    logs: BTreeMap<String, RoomLog>,
    /// Lossy frames that wait for the WebSocket.
    lossy_waiting: VecDeque<Bytes>,
    lossy_waiting_bytes: usize,
    lossy_dropped: u64,
    ice: Option<Ice>,
    stalled: bool,
    inbox: VecDeque<FromSocket>,
    inbox_bytes: usize,
    events: VecDeque<Event>,
}

#[derive(Debug, Default)]
struct Socket {
    open: bool,
    welcomed: bool,
    texts: VecDeque<String>,
    ping_interval: Option<Duration>,
    next_ping: Option<Instant>,
    /// The ticket that the server was shown on it.
    shown: Option<String>,
    /// That ticket was good no more, and there is a better one.
    is_stale: bool,
}

#[derive(Debug)]
enum FromSocket {
    Text(String),
    Binary(Bytes),
}

/// What a stalled browser holds of a WebSocket that was read on all the same: more than a replay limit.
const INBOX_BYTES: usize = 4 * 1024 * 1024;
/// PONGs and the like that wait for a pipe; more of them are left out.
const URGENT_BYTES: usize = 4 * 1024;
/// Before looking again for a WebSocket to offer over.
const RETRY: Duration = Duration::from_secs(2);
/// Bytes of unfinished messages.
const ASSEMBLY_BYTES: usize = 4 * 1024 * 1024;

impl Browser {
    /// A browser that has not connected yet.
    pub fn new(now: Instant, config: BrowserConfig) -> Self {
        let limits = Limits::default();
        Self {
            ladder: config.climbs.then(Ladder::default),
            socket: Socket::default(),
            session: None,
            is_lost: false,
            joins: VecDeque::new(),
            first_joins: VecDeque::new(),
            next_request: 1,
            peer: None,
            peer_number: 0,
            open: (false, false),
            deadline: None,
            retry: None,
            pipes: Pipes::new(now, config.seed),
            given: 0,
            sender: Sender::new(limits.replay_limit_bytes),
            receiver: Receiver::new(limits::CLIENT_ACKS),
            assembly: Assembly::new(limits.max_message_bytes, ASSEMBLY_BYTES),
            limits,
            urgent_socket: BytesMut::new(),
            urgent_channel: BytesMut::new(),
            lossy_seq: BTreeMap::new(),
            logs: BTreeMap::new(),
            lossy_waiting: VecDeque::new(),
            lossy_waiting_bytes: 0,
            lossy_dropped: 0,
            ice: None,
            stalled: false,
            inbox: VecDeque::new(),
            inbox_bytes: 0,
            events: VecDeque::new(),
            config,
        }
    }

    // ---- commands ----

    /// Asks to join a room, as soon as there is a WebSocket. The first join carries the first offer. Returns the
    /// request's number, which `joined` or a refusal repeats.
    pub fn join(&mut self, now: Instant, room: &str, token: &str) -> u32 {
        let id = self.request();
        let join = ClientText::Join {
            id,
            room: room.to_owned(),
            token: token.to_owned(),
            offer: None,
            follow: None,
            signing_key: None,
        };
        self.joins.push_back(join);
        self.send_joins(now);
        id
    }

    /// Asks to join a room and to follow its log, going on with what the browser had of it in a session before, if it had.
    pub fn join_log(&mut self, now: Instant, room: &str, token: &str, log: RoomLog) -> u32 {
        self.logs.insert(room.to_owned(), log);
        self.join_again(now, room, token)
    }

    /// Asks again, where the answer to [`join_log`](Self::join_log) may have been lost, or with another token.
    pub fn join_again(&mut self, now: Instant, room: &str, token: &str) -> u32 {
        let (id, follow) = (self.request(), self.logs.get(room).map(RoomLog::follow));
        let (room, token) = (room.to_owned(), token.to_owned());
        self.joins.push_back(ClientText::Join { id, room, token, offer: None, follow, signing_key: None });
        self.send_joins(now);
        id
    }

    /// Does something with the log of a room that was joined with one.
    pub fn log<T>(&mut self, now: Instant, room: &str, act: impl FnOnce(&mut RoomLog) -> T) -> Option<T> {
        let result = self.logs.get_mut(room).map(act);
        self.pump(now);
        result
    }

    /// The log of a room that was joined with one.
    pub fn room_log(&self, room: &str) -> Option<&RoomLog> {
        self.logs.get(room)
    }

    /// The log of a room, to be joined with anew.
    pub fn take_log(&mut self, room: &str) -> Option<RoomLog> {
        let mut log = self.logs.remove(room)?;
        log.detach();
        Some(log)
    }

    /// All logs, for the next session; this one has ended.
    pub fn take_logs(&mut self) -> BTreeMap<String, RoomLog> {
        let mut logs = std::mem::take(&mut self.logs);
        logs.values_mut().for_each(RoomLog::detach);
        logs
    }

    /// Sends a message to members of a room.
    pub fn send(&mut self, now: Instant, message: Outgoing) -> Result<(), SendError> {
        if self.session.is_none() {
            return Err(SendError::NoSession);
        }
        let len = message.payload.len();
        let limit = match message.lane {
            Lane::Reliable => self.limits.max_message_bytes,
            Lane::Lossy => self.limits.max_lossy_bytes,
        };
        if len > limit {
            return Err(SendError::TooLarge { len, limit });
        }
        if !message.target.is_encodable() {
            return Err(SendError::BadTarget);
        }
        match message.lane {
            Lane::Lossy => self.send_lossy(now, message),
            Lane::Reliable => {
                let Outgoing { room, stream, target, text, payload, .. } = message;
                let (kind, at) = (Kind::Data, now);
                self.push(room, Message { kind, text, sender: 0, stream, target, payload, at })?;
            }
        }
        self.pump(now);
        Ok(())
    }

    /// Leaves a room, changes its topics, or signals: a control message, in order with the rest.
    pub fn control(&mut self, now: Instant, room: u16, control: &ClientControl) -> Result<(), SendError> {
        if self.session.is_none() {
            return Err(SendError::NoSession);
        }
        let payload = Bytes::from(to_json(control));
        let (kind, target) = (Kind::Control, Target::Room);
        self.push(room, Message { kind, text: true, sender: 0, stream: 0, target, payload, at: now })?;
        self.pump(now);
        Ok(())
    }

    /// A number for a request, never used before.
    pub fn request(&mut self) -> u32 {
        let id = self.next_request;
        self.next_request += 1;
        id
    }

    /// Makes a new peer connection in place of the old one.
    pub fn offer(&mut self, now: Instant) {
        if !self.socket.welcomed {
            // There is nobody to offer to: look again later.
            self.retry = Some(now + RETRY);
        } else if let Some(offer) = self.make_peer(now) {
            self.socket.texts.push_back(to_json(&ClientText::Offer(offer)));
        }
    }

    /// The session is lost: another one begins on the WebSocket that there is, with the next join. Gives the logs for that.
    pub fn begin_anew(&mut self, now: Instant) -> BTreeMap<String, RoomLog> {
        let logs = self.take_logs();
        let mut fresh = Self::new(now, self.config.clone());
        std::mem::swap(&mut fresh.socket, &mut self.socket);
        // The server has answered, if only that it knows no such session.
        fresh.socket.welcomed = fresh.socket.open;
        std::mem::swap(&mut fresh.events, &mut self.events);
        (fresh.limits, fresh.next_request) = (self.limits.clone(), self.next_request);
        (fresh.stalled, fresh.lossy_dropped) = (self.stalled, self.lossy_dropped);
        fresh.sender = Sender::new(fresh.limits.replay_limit_bytes);
        fresh.assembly = Assembly::new(fresh.limits.max_message_bytes, ASSEMBLY_BYTES);
        fresh.pipes.keep_round_trip(&self.pipes);
        if let Some(mut peer) = self.peer.take() {
            peer.close();
        }
        if let (Some(old), Some(new)) = (&mut self.ladder, &mut fresh.ladder) {
            old.end(now);
            std::mem::swap(&mut old.ways, &mut new.ways);
        }
        *self = fresh;
        logs
    }

    /// The device has another address from now on, as where it comes into another network; what leaves from the old one is
    /// lost. The peer connection that there is does not learn of it.
    pub fn handle_network_change(&mut self, now: Instant, address: SocketAddr) {
        if self.config.address.is_some() {
            self.config.address = Some(address);
        }
        self.hurry(now);
        self.pump(now);
    }

    /// From now on its datagrams leave from another address. No new offer is made.
    pub fn change_address(&mut self, now: Instant, address: SocketAddr) {
        if self.config.address.is_some() {
            self.config.address = Some(address);
        }
        if let Some(ladder) = &mut self.ladder {
            ladder.ways.change_address(address);
        }
        if let Some(peer) = &mut self.peer {
            peer.change_address(now, address);
        }
    }

    /// A stalled page reads nothing and says nothing, while ICE, DTLS and SCTP go on beneath it until the receive
    /// window is closed. While it is stalled the WebSocket should not be read: see [`reads_socket`](Self::reads_socket).
    pub fn set_stalled(&mut self, now: Instant, stalled: bool) {
        self.stalled = stalled;
        if stalled {
            return;
        }
        self.pipes.wake(now);
        self.inbox_bytes = 0;
        for input in std::mem::take(&mut self.inbox) {
            match input {
                FromSocket::Text(text) => self.take_text(now, &text),
                FromSocket::Binary(message) => self.take_frames(now, Pipe::Socket, message, true),
            }
        }
        if self.open.0 && self.config.moves_by_itself && self.pipes.attached() == Some(Pipe::Socket) {
            self.attach(now, Pipe::Channel);
        }
        self.pump(now);
    }

    /// Ends the session.
    pub fn bye(&mut self) {
        self.socket.texts.push_back(to_json(&ClientText::Bye));
        if let Some(peer) = &mut self.peer {
            peer.close();
        }
    }

    // ---- inputs ----

    /// A WebSocket to `/v1/connect` is open. With a session it is offered as a further pipe.
    pub fn handle_socket_open(&mut self, now: Instant) {
        self.socket = Socket { open: true, ..Socket::default() };
        self.urgent_socket.clear();
        self.pipes.socket.wake(now);
        self.socket.shown = self.session.as_ref().map(|session| session.ticket.clone());
        let hello = self.hello();
        self.socket.texts.push_back(hello);
        self.pump(now);
    }

    /// What the server is to be told first on a WebSocket.
    pub fn hello(&self) -> String {
        to_json(&ClientText::Hello {
            v: limits::VERSION,
            client: Some("switchyard-loadtest".to_owned()),
            resume: self.session.clone(),
        })
    }

    /// The WebSocket is gone.
    pub fn handle_socket_closed(&mut self, now: Instant) {
        self.socket = Socket::default();
        self.first_joins.append(&mut self.joins);
        std::mem::swap(&mut self.joins, &mut self.first_joins);
        self.inbox.clear();
        self.inbox_bytes = 0;
        self.pipes.forget(Pipe::Socket);
        if self.pipes.aim().is_none() {
            self.fall_back(now);
        }
        self.pump(now);
    }

    /// Another WebSocket, on which the server has been told [`hello`](Self::hello) and is about to answer, takes the place
    /// of the one in use.
    pub fn handle_socket_replaced(&mut self, now: Instant) {
        self.socket = Socket { open: true, ..Socket::default() };
        self.urgent_socket.clear();
        self.inbox.clear();
        self.inbox_bytes = 0;
        self.pipes.forget(Pipe::Socket);
        self.pipes.socket.wake(now);
    }

    /// A text message has arrived.
    pub fn handle_text(&mut self, now: Instant, text: &str) {
        if self.stalled {
            self.keep(text.len(), FromSocket::Text(text.to_owned()));
        } else {
            self.take_text(now, text);
            self.pump(now);
        }
    }

    /// A binary message has arrived.
    pub fn handle_binary(&mut self, now: Instant, message: Bytes) {
        if self.stalled {
            self.keep(message.len(), FromSocket::Binary(message));
        } else {
            self.take_frames(now, Pipe::Socket, message, true);
            self.pump(now);
        }
    }

    /// A datagram has arrived at the browser's one port.
    pub fn handle_datagram(&mut self, now: Instant, from: SocketAddr, payload: &[u8]) {
        if let Some(to) = self.config.address.filter(|_| self.ladder.is_some()) {
            return self.handle_datagram_to(now, to, from, payload);
        }
        if let Some(peer) = &mut self.peer {
            peer.handle_datagram(now, from, payload);
            self.pump(now);
        }
    }

    /// A datagram has arrived at one of the ports that datagrams were sent from: a browser that climbs has several.
    pub fn handle_datagram_to(&mut self, now: Instant, to: SocketAddr, from: SocketAddr, payload: &[u8]) {
        match &mut self.ladder {
            Some(ladder) => {
                ladder.ways.handle_datagram(now, to, from, payload);
                self.pump(now);
            }
            None => self.handle_datagram(now, from, payload),
        }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        if let Some(peer) = &mut self.peer
            && peer.poll_timeout().is_some_and(|at| at <= now)
        {
            peer.handle_timeout(now);
        }
        if !self.stalled {
            self.tick(now);
        }
        self.climb(now);
        self.pump(now);
    }

    // ---- outputs ----

    /// When `handle_timeout` is due.
    pub fn poll_timeout(&mut self) -> Option<Instant> {
        let ladder = self.ladder.as_mut().and_then(Ladder::poll_timeout);
        let peer = self.peer.as_mut().and_then(Peer::poll_timeout);
        let peer = [peer, ladder].into_iter().flatten().min();
        if self.stalled {
            return peer;
        }
        let ack = self.pipes.attached().and(self.receiver.poll_timeout());
        let logs = self.logs.values().filter_map(RoomLog::poll_timeout).min();
        let own = [self.pipes.next_tick, self.pipes.watch.poll_timeout(), ack, logs];
        own.into_iter().chain([peer]).flatten().min()
    }

    /// The next datagram to send.
    pub fn poll_datagram(&mut self) -> Option<Datagram> {
        self.hand_over();
        match &mut self.ladder {
            Some(ladder) => ladder.ways.poll_datagram(),
            None => self.peer.as_mut()?.poll_datagram(),
        }
    }

    /// The next message for the WebSocket. Ask only as long as the WebSocket can take it: what is not asked for
    /// stays in the lane, where it can still move to another pipe.
    pub fn poll_socket(&mut self) -> Option<SocketOutput> {
        if !self.socket.open || self.stalled {
            return None;
        }
        if let Some(text) = self.socket.texts.pop_front() {
            return Some(SocketOutput::Text(text));
        }
        let mut message = std::mem::take(&mut self.urgent_socket);
        if self.pipes.attached() == Some(Pipe::Socket) {
            self.fill(limits::SOCKET_MESSAGE_BYTES, &mut message);
            while let Some(lossy) = self.lossy_waiting.front()
                && message.len() + lossy.len() <= limits::SOCKET_MESSAGE_BYTES
            {
                message.extend_from_slice(lossy);
                self.lossy_waiting_bytes -= lossy.len();
                self.lossy_waiting.pop_front();
            }
        } else if self.copies() {
            self.fill_copies(limits::SOCKET_MESSAGE_BYTES, &mut message);
        }
        (!message.is_empty()).then(|| SocketOutput::Binary(message.freeze()))
    }

    /// What has happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Whether the WebSocket should be read.
    pub fn reads_socket(&self) -> bool {
        !self.stalled
    }

    /// Whether it has a session, as far as it knows.
    pub fn has_session(&self) -> bool {
        self.session.is_some()
    }

    /// What the server said of STUN and TURN. Only a browser that climbs does something with it.
    pub fn ice(&self) -> Option<&Ice> {
        self.ice.as_ref()
    }

    /// The pipe that frames go over.
    pub fn attached(&self) -> Option<Pipe> {
        self.pipes.attached()
    }

    /// When the last frames came, over whichever pipe; before there were any, when the browser was made.
    pub fn last_frames(&self) -> Instant {
        self.pipes.came_at()
    }

    /// Since when this pipe has been silent: when its last frames came, or when somebody began to listen.
    pub fn heard(&self, pipe: Pipe) -> Instant {
        self.pipes.probe(pipe).heard_at()
    }

    /// The last round trip of a PING, on whichever pipe.
    pub fn round_trip(&self) -> Option<Duration> {
        self.pipes.round_trip()
    }

    /// The same of the pipe in use, smoothed.
    pub fn smoothed_round_trip(&self) -> Option<Duration> {
        self.pipes.last_rtt()
    }

    /// Bytes in the reliable lane, waiting or unacknowledged.
    pub fn held_bytes(&self) -> usize {
        self.sender.held_bytes()
    }

    /// Lossy messages dropped before sending because the pipe was full.
    pub fn lossy_dropped(&self) -> u64 {
        self.lossy_dropped
    }

    // ---- the session ----

    fn take_text(&mut self, now: Instant, text: &str) {
        let message = match serde_json::from_str(text) {
            Ok(message) => message,
            Err(error) => return self.violation(format!("text message: {error}")),
        };
        match message {
            ServerText::Welcome { resumed, limits, ping_interval_ms, ice, ack, .. } => {
                self.ice = ice.or(self.ice.take());
                self.welcome(now, resumed, limits, Duration::from_millis(ping_interval_ms));
                if let Some(ack) = ack {
                    self.attached_already(now, ack);
                }
            }
            ServerText::Session { session, ticket, ice, .. } => {
                self.ice = ice;
                self.events.push_back(Event::Session(session.clone()));
                self.session = Some(Resume { session, ticket, takes_over: false });
                self.first_joins.clear();
                self.pipes.first(now);
                self.begin_ticking(now);
                self.events.push_back(Event::Attached(Pipe::Socket));
            }
            ServerText::Answer(answer) => {
                if answer.pc == self.peer_number
                    && let Some(peer) = &mut self.peer
                {
                    if let Err(error) = peer.handle_answer(now, &answer.sdp) {
                        self.violation(format!("answer: {error}"));
                        self.lose_peer(now);
                    } else if let Some(ladder) = &mut self.ladder {
                        ladder.handle_answer(now, &answer.sdp);
                    }
                }
            }
            ServerText::Renegotiate { .. } => {
                // The server has left the data channel already; an ATTACH makes the WebSocket ours too.
                if self.config.address.is_some() {
                    self.lose_peer(now);
                    self.offer(now);
                }
            }
            ServerText::IceServers(ice) => self.ice = Some(ice),
            ServerText::Pong { .. } => {}
            ServerText::Error(refusal) => {
                match refusal.code {
                    // It is about a move that a later one overtook on another pipe; the later one stands.
                    Code::StaleAttach => {}
                    Code::TicketUsed if self.has_another_ticket() => self.socket.is_stale = true,
                    Code::UnknownSession | Code::TicketUsed | Code::TicketExpired => self.lose_session(),
                    Code::BadOffer => self.lose_peer(now),
                    Code::WebrtcDisabled => self.stay_on_the_socket(now),
                    _ => {}
                }
                self.events.push_back(Event::Refused(refusal));
            }
            ServerText::Features { features } => {
                if !features.webrtc {
                    self.stay_on_the_socket(now);
                }
            }
            ServerText::Draining { retry_after_ms } => {
                self.events.push_back(Event::Draining(Duration::from_millis(retry_after_ms)));
            }
        }
    }

    fn stay_on_the_socket(&mut self, now: Instant) {
        self.config.address = None;
        self.lose_peer(now);
        self.retry = None;
    }

    fn welcome(&mut self, now: Instant, resumed: bool, limits: Limits, ping_interval: Duration) {
        self.socket.welcomed = true;
        // A server that wants no pings says 0.
        self.socket.ping_interval = (!ping_interval.is_zero()).then_some(ping_interval);
        self.socket.next_ping = self.socket.ping_interval.map(|interval| now + interval);
        self.events.push_back(Event::Welcome);
        match (self.session.is_some(), resumed) {
            (false, _) => {
                self.sender = Sender::new(limits.replay_limit_bytes);
                self.assembly = Assembly::new(limits.max_message_bytes, ASSEMBLY_BYTES);
                self.limits = limits;
                self.send_joins(now);
            }
            (true, true) => self.resumed(now),
            (true, false) if self.socket.is_stale => {
                self.socket.welcomed = false;
                self.pipes.wishes.insert(Wish::Renew);
            }
            (true, false) => self.lose_session(),
        }
    }

    /// Whether the next ticket came while the one shown on this WebSocket was on its way.
    fn has_another_ticket(&self) -> bool {
        let session = self.session.as_ref();
        session.zip(self.socket.shown.as_ref()).is_some_and(|(session, shown)| session.ticket != *shown)
    }

    /// The server says so twice: it refuses to resume, and answers the greeting.
    fn lose_session(&mut self) {
        if !std::mem::replace(&mut self.is_lost, true) {
            self.events.push_back(Event::SessionLost);
        }
    }

    fn resumed(&mut self, now: Instant) {
        // What was copied to the WebSocket before may be lost with that.
        self.sender.copy_anew();
        if self.pipes.watch.is_suspected(now) {
            self.suspected(now);
        } else if self.pipes.aim().is_none() || self.pipes.watch.on_trial() {
            self.attach(now, Pipe::Socket);
        }
        self.repair(now);
    }

    /// Where the server's lane stands is known from its welcome: the move to the WebSocket need not wait for ATTACHED.
    fn attached_already(&mut self, now: Instant, ack: u32) {
        let Some(pending) = self.pipes.pending.filter(|pending| pending.to == Pipe::Socket) else { return };
        self.take_attached(now, Pipe::Socket, pending.generation, ack);
    }

    fn send_joins(&mut self, now: Instant) {
        if !self.socket.welcomed {
            return;
        }
        while let Some(mut join) = self.joins.pop_front() {
            if let ClientText::Join { offer, .. } = &mut join
                && self.peer_number == 0
            {
                *offer = self.make_peer(now);
            }
            self.socket.texts.push_back(to_json(&join));
            if self.session.is_none() {
                self.first_joins.push_back(join);
            }
        }
    }

    /// Puts what the logs have to say into the lane, as long as that has room.
    fn drive_logs(&mut self, now: Instant) {
        if self.session.is_none() {
            return;
        }
        let mut logs = std::mem::take(&mut self.logs);
        for log in logs.values_mut() {
            let Some(room) = log.handle() else { continue };
            while let Some(control) = log.poll_control(now) {
                let payload = Bytes::from(to_json(&control));
                self.push_log(now, room, Kind::Control, payload);
            }
            while (self.sender.held_bytes() == 0 || self.sender.has_room(limits::SUBMISSION_BYTES))
                && let Some(payload) = log.poll_message(now)
            {
                self.push_log(now, room, Kind::Log, payload);
            }
        }
        self.logs = logs;
    }

    fn push_log(&mut self, now: Instant, room: u16, kind: Kind, payload: Bytes) {
        let text = kind == Kind::Control;
        let message = Message { kind, text, sender: 0, stream: 0, target: Target::Room, payload, at: now };
        // What finds no room all the same is sent again: by the writer when it hears nothing, by the reader likewise.
        let _ = self.push(room, message);
    }

    fn push(&mut self, room: u16, message: Message) -> Result<(), SendError> {
        if !self.sender.has_room(message.payload.len()) {
            return Err(SendError::BufferFull);
        }
        self.sender.push(room, Arc::new(message)).map_err(|Overflow| SendError::BufferFull)
    }

    fn send_lossy(&mut self, now: Instant, message: Outgoing) {
        let Outgoing { room, stream, target, text, payload, .. } = message;
        let seq = self.lossy_seq.entry((room, stream)).or_default();
        *seq = seq.wrapping_add(1);
        let header = LossyHeader { text, room, sender: 0, stream, seq: *seq, target };
        let mut frame = BytesMut::new();
        frame::put_lossy(&mut frame, &header, &payload);
        let mut open = self.peer.as_mut().filter(|_| self.open.1);
        let has_room =
            open.as_mut().is_some_and(|peer| peer.outstanding_bytes(Channel::Lossy) < limits::PIPE_BYTES);
        match (self.pipes.attached(), open.filter(|_| has_room)) {
            (Some(Pipe::Socket), _) => {
                self.lossy_waiting_bytes += frame.len();
                self.lossy_waiting.push_back(frame.freeze());
                while self.lossy_waiting_bytes > limits::PIPE_BYTES
                    && let Some(oldest) = self.lossy_waiting.pop_front()
                {
                    self.lossy_waiting_bytes -= oldest.len();
                    self.lossy_dropped += 1;
                }
            }
            (Some(Pipe::Channel), Some(peer)) => {
                if peer.send(now, Channel::Lossy, &frame).is_err() {
                    self.lossy_dropped += 1;
                }
            }
            _ => self.lossy_dropped += 1,
        }
    }

    fn violation(&mut self, what: String) {
        self.events.push_back(Event::Violation(what));
    }

    fn keep(&mut self, bytes: usize, input: FromSocket) {
        self.inbox_bytes += bytes;
        if self.inbox_bytes > INBOX_BYTES {
            self.violation("a stalled page was sent more than it can hold".to_owned());
            self.inbox.clear();
            self.socket = Socket::default();
            self.pipes.forget(Pipe::Socket);
        } else {
            self.inbox.push_back(input);
        }
    }
}

#[cfg(test)]
mod tests;
