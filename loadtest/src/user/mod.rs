//! One simulated user from coming to leaving, without sockets and clocks: a [`Client`], and another one when its session
//! is lost; WebSockets that are opened again; what the user does; and the record of it all.
//!
//! It never opens anything, reads a clock or judges: the load program's shell gives it sockets and the time,
//! [`crate::account`] judges its [`Record`]. What a user does is in modules of one shape, the trait `Behaviour`: [`Plan`]
//! says which.
//!
//! Order of calls. [`start`](User::start); then whatever happens, by `handle_*`, [`handle_timeout`](User::handle_timeout)
//! when [`poll_timeout`](User::poll_timeout) is due. After each, or after a batch of them, carry out everything from
//! [`poll_command`](User::poll_command), and from [`poll_socket`](User::poll_socket) as long as the WebSocket takes more.
//! In the end [`leave`](User::leave), go on until [`is_finished`](User::is_finished), and
//! [`into_record`](User::into_record).

mod behaviour;
mod data;
mod messages;
mod outage;
mod plan;
mod schedule;
mod stall;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use serde_json::Value;
use switchyard_signaling::{
    Code,
    message::{Refusal, ServerControl},
};

pub use self::plan::{Data, Does, Messages, Pace, Plan, Stall};

use self::{
    behaviour::{Behaviour, Context},
    outage::Ways,
};
use crate::{
    account::{Ended, Record, Sample, Window},
    adapter::{Adapter, Client, Outbound},
    browser::{Event, Pipe, RoomLog},
    netsim::Datagram,
    peer::{Channel, PeerEvent},
    rng::Rng,
    sockets::{Order, Sockets},
};

/// How long a user that leaves waits for what is under way.
const LEAVING: Duration = Duration::from_secs(5);
/// How long it waits for the server to answer its goodbye.
const BYE: Duration = Duration::from_secs(1);
/// A WebSocket with frames on it that has been silent for so long is given up: three probes came back without an answer. A
/// client that finds that out by itself says so before.
const SILENCE: Duration = Duration::from_secs(7);
/// What a page that reads again has before it from the time when it did not is read by then.
const WAKING: Duration = Duration::from_secs(10);
/// Before asking again to be let in, when the server did not say; doubled with each refusal in a row, up to 16 times.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// The error that a violation of the protocol by the server counts as.
pub(crate) const BROKEN_PROTOCOL: &str = "broken protocol";

/// What the shell shall do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Open a WebSocket to the server with this number, and say [`User::handle_socket_open`] or
    /// [`User::handle_socket_failed`].
    OpenSocket(u64),
    /// Close the WebSocket, or give up opening it. Nothing more is to be said of it.
    CloseSocket(u64),
    /// Ask the server something over HTTP, and say [`User::handle_reached`] if anything answers.
    Ask,
    /// Send this.
    Datagram(Datagram),
}

/// One simulated user.
pub struct User {
    plan: Plan,
    token: String,
    address: Option<SocketAddr>,
    epoch: Instant,
    rng: Rng,
    adapter: &'static Adapter,
    client: Box<dyn Client>,
    sockets: Sockets,
    /// How many WebSockets have been open.
    opened: u64,
    ways: Ways,
    phase: Phase,
    /// The room's handle, as long as it is a member.
    room: Option<u16>,
    /// The join that was not answered yet.
    asked: Option<u32>,
    ask_at: Option<Instant>,
    refusals: u32,
    is_ready: bool,
    /// Whether its first peer connection came to nothing.
    fell_back: bool,
    /// When the page last stopped reading, and when it went on, if it has.
    slept: Option<(Instant, Option<Instant>)>,
    behaviours: Vec<Box<dyn Behaviour>>,
    record: Record,
    window: Window,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Idle,
    Running,
    /// What is under way comes to its end, until then at most.
    Leaving(Instant),
    /// It has said goodbye.
    Bye(Instant),
    Finished,
}

impl User {
    /// A user of that kind of server, that has not come yet. `address` is the local one of its peer connections; all
    /// times of its record count from `epoch`, the beginning of the run.
    pub fn new(
        now: Instant,
        plan: Plan,
        adapter: &'static Adapter,
        token: String,
        address: Option<SocketAddr>,
        epoch: Instant,
    ) -> Self {
        let address = address.filter(|_| plan.udp);
        let behaviours = plan
            .does
            .iter()
            .zip(1..)
            .map(|(does, number)| behaviour::of(does, Rng::stream(plan.seed, number)));
        let behaviours = behaviours.collect();
        let (record, window) = (Record::of(&plan), Window::of(&plan));
        let mut user = Self {
            rng: Rng::stream(plan.seed, 0),
            sockets: Sockets::new(plan.seed),
            plan,
            token,
            address,
            epoch,
            adapter,
            client: (adapter.client)(now, address),
            opened: 0,
            ways: Ways::default(),
            phase: Phase::Idle,
            room: None,
            asked: None,
            ask_at: None,
            refusals: 0,
            is_ready: false,
            fell_back: false,
            slept: None,
            behaviours,
            record,
            window,
        };
        user.act(now, |behaviour, context| behaviour.begin(context));
        user
    }

    // ---- inputs

    /// It comes.
    pub fn start(&mut self, now: Instant) {
        if self.phase == Phase::Idle {
            self.phase = Phase::Running;
            self.record.started = Some(self.since(now));
            self.sockets.open(now, self.client.as_ref());
            self.enter(now, BTreeMap::new());
            self.pump(now);
        }
    }

    /// A WebSocket that was asked for is open.
    pub fn handle_socket_open(&mut self, now: Instant, number: u64) {
        if self.sockets.is_current(number) {
            self.stage(now, "websocket");
            self.opened += 1;
            self.record.reconnects += u64::from(self.opened > 1);
        }
        self.sockets.handle_open(now, number, self.client.as_mut());
        self.pump(now);
    }

    /// It could not be opened.
    pub fn handle_socket_failed(&mut self, now: Instant, number: u64, cause: &str) {
        self.socket_gone(now, number, format!("socket: {cause}"));
    }

    /// It was open and is gone.
    pub fn handle_socket_closed(&mut self, now: Instant, number: u64, why: &str) {
        if matches!(self.phase, Phase::Bye(_)) && self.sockets.is_current(number) {
            self.sockets.stop();
            self.finish(now, Ended::Left);
            return;
        }
        self.socket_gone(now, number, format!("socket closed: {why}"));
    }

    /// A text message has arrived.
    pub fn handle_text(&mut self, now: Instant, number: u64, text: &str) {
        self.sockets.handle_text(now, number, text, self.client.as_mut());
        self.pump(now);
    }

    /// A binary message has arrived.
    pub fn handle_binary(&mut self, now: Instant, number: u64, message: Bytes) {
        self.sockets.handle_binary(now, number, message, self.client.as_mut());
        self.pump(now);
    }

    /// A ping of the WebSocket was answered.
    pub fn handle_pong(&mut self, now: Instant, number: u64, nonce: &[u8]) {
        if self.sockets.is_current(number) {
            self.client.handle_pong(now, nonce);
            self.pump(now);
        }
    }

    /// A question over HTTP was answered.
    pub fn handle_reached(&mut self, now: Instant) {
        self.sockets.reached(now, self.client.as_mut());
        self.pump(now);
    }

    /// A datagram has arrived.
    pub fn handle_datagram(&mut self, now: Instant, from: SocketAddr, payload: &[u8]) {
        self.client.handle_datagram(now, from, payload);
        self.pump(now);
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.client.handle_timeout(now);
        self.pump(now);
    }

    /// The device is in another network now, or has another address: connections that it had are dead. Its data channel
    /// finds that out by itself; a WebSocket is opened again at once.
    pub fn handle_network_change(&mut self, now: Instant, address: Option<SocketAddr>) {
        if let Some(address) = address.filter(|_| self.plan.udp) {
            self.address = Some(address);
            self.client.handle_network_change(now, address);
            self.ways.changed(self.since(now), &mut self.record);
        }
        if self.is_here() {
            self.sockets.hurry(now, self.client.as_mut());
        }
        self.pump(now);
    }

    /// The token for the next join.
    pub fn set_token(&mut self, token: String) {
        self.token = token;
    }

    /// It begins nothing new, waits a little for what is under way, and says goodbye.
    pub fn leave(&mut self, now: Instant) {
        match self.phase {
            Phase::Idle => self.finish(now, Ended::There),
            Phase::Running => {
                self.phase = Phase::Leaving(now + LEAVING);
                self.act(now, |behaviour, context| behaviour.leave(context));
                self.pump(now);
            }
            Phase::Leaving(_) | Phase::Bye(_) | Phase::Finished => {}
        }
    }

    // ---- outputs

    /// What to do next.
    pub fn poll_command(&mut self, now: Instant) -> Option<Command> {
        self.look_after_sockets(now);
        let order = self.sockets.poll_order().map(|order| match order {
            Order::Open(number) => Command::OpenSocket(number),
            Order::Close(number) => Command::CloseSocket(number),
            Order::Ask => Command::Ask,
        });
        order.or_else(|| self.client.poll_datagram().map(Command::Datagram))
    }

    /// The next message for a WebSocket. Ask only as long as that takes more.
    pub fn poll_socket(&mut self, number: u64) -> Option<Outbound> {
        self.sockets.poll_socket(number, self.client.as_mut())
    }

    /// Whether the WebSocket should be read.
    pub fn reads_socket(&self) -> bool {
        self.client.reads_socket()
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due, and [`poll_command`](Self::poll_command) with it.
    pub fn poll_timeout(&mut self) -> Option<Instant> {
        let phase = match self.phase {
            Phase::Idle | Phase::Finished => return None,
            Phase::Running => None,
            Phase::Leaving(until) | Phase::Bye(until) => Some(until),
        };
        let behaviours = match self.phase {
            Phase::Bye(_) => None,
            _ => self.behaviours.iter().filter_map(|behaviour| behaviour.poll_timeout()).min(),
        };
        let silent = self.silent_at();
        let own =
            [self.client.poll_timeout(), self.sockets.poll_timeout(), self.ask_at, behaviours, phase, silent];
        own.into_iter().flatten().min()
    }

    /// Whether it is in its room and on the way that it is to use, or has found that it cannot have that.
    pub fn is_ready(&self) -> bool {
        self.is_ready
    }

    /// Whether nothing more will happen.
    pub fn is_finished(&self) -> bool {
        self.phase == Phase::Finished
    }

    /// The way that its frames go: `udp`, `websocket`, or `none` as long as it is not in its room or there is no way.
    pub fn rung(&self) -> &'static str {
        match self.client.attached().filter(|_| self.room.is_some()) {
            Some(Pipe::Channel) => "udp",
            Some(Pipe::Socket) => "websocket",
            None => "none",
        }
    }

    /// What has happened since the last call, for [`crate::account::Ledger::window`].
    pub fn take_window(&mut self) -> Window {
        self.window.take()
    }

    /// What it did and saw.
    pub fn into_record(mut self, now: Instant) -> Record {
        if self.phase != Phase::Finished {
            self.finish(now, Ended::There);
        }
        self.record.rest = self.window.take();
        self.record
    }

    // ---- coming and going

    fn since(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.epoch)
    }

    fn is_here(&self) -> bool {
        matches!(self.phase, Phase::Running | Phase::Leaving(_))
    }

    fn stage(&mut self, now: Instant, stage: &'static str) {
        if let Some(started) = self.record.started {
            let after = self.since(now).saturating_sub(started);
            self.record.stages.entry(stage).or_insert(after);
        }
    }

    /// Asks to be let in, for the first time in a session of the client.
    fn enter(&mut self, now: Instant, mut logs: BTreeMap<String, RoomLog>) {
        let follows = self.plan.does.iter().any(|does| matches!(does, Does::Messages(_)));
        let room = &self.plan.room;
        let log = follows.then(|| logs.remove(room).unwrap_or_default());
        self.asked = Some(self.client.join(now, room, &self.token, log));
        self.ask_at = None;
    }

    fn ask_again(&mut self, now: Instant) {
        self.ask_at = None;
        self.asked = Some(self.client.join_again(now, &self.plan.room, &self.token));
    }

    fn error(&mut self, cause: String) {
        self.window.errors += 1;
        self.record.error(cause);
    }

    /// Something failed that is the reason for not being here, if it is not.
    fn failed(&mut self, cause: String) {
        if self.record.memberships.is_empty() {
            self.record.failure = Some(cause.clone());
        }
        self.error(cause);
    }

    fn socket_gone(&mut self, now: Instant, number: u64, cause: String) {
        if self.sockets.is_current(number) {
            self.failed(cause);
        }
        self.sockets.handle_closed(now, number, self.client.as_mut());
        if !self.is_here() {
            self.sockets.stop();
        }
        self.pump(now);
    }

    /// Does what is due for the WebSockets, and what the client wishes of them.
    fn look_after_sockets(&mut self, now: Instant) {
        if !matches!(self.phase, Phase::Idle | Phase::Finished) {
            self.sockets.handle_timeout(now, self.client.as_mut());
        }
    }

    /// The membership is over; what was under way may have been lost with it.
    fn part(&mut self, now: Instant) {
        if self.room.take().is_some() {
            let heard = self.heard();
            self.record.parted(heard);
            self.act(now, |behaviour, context| behaviour.parted(context));
        }
    }

    /// The last sign of life from the server. What is read after a pause was sent before or during it: that shows nothing.
    fn heard(&self) -> Duration {
        let heard = self.client.last_heard();
        self.since(match self.slept {
            Some((slept, woke)) if woke.is_none_or(|woke| heard < woke + WAKING) => heard.min(slept),
            _ => heard,
        })
    }

    fn look_asleep(&mut self, now: Instant) {
        match (self.client.reads_socket(), self.slept) {
            (false, None | Some((_, Some(_)))) => self.slept = Some((now, None)),
            (true, Some((slept, None))) => self.slept = Some((slept, Some(now))),
            _ => {}
        }
    }

    fn session_lost(&mut self, now: Instant) {
        self.record.sessions_lost += 1;
        self.part(now);
        self.ways.session_lost(self.since(now), &mut self.record);
        self.record.dropped_before_sending += self.client.lossy_dropped();
        self.sockets.welcomed();
        if let Some(logs) = self.client.begin_anew(now) {
            return self.enter(now, logs);
        }
        let logs = self.client.take_logs();
        self.client = (self.adapter.client)(now, self.address);
        self.enter(now, logs);
        // The new client begins with another WebSocket. Where the session went with the old one, the next one comes when it
        // was to come.
        if self.sockets.is_up() {
            self.sockets.stop();
            self.sockets.open(now, self.client.as_ref());
        }
    }

    fn finish(&mut self, now: Instant, how: Ended) {
        self.sockets.stop();
        let heard = self.heard();
        self.record.parted(heard);
        self.act(now, |behaviour, context| behaviour.end(context));
        self.record.dropped_before_sending += self.client.lossy_dropped();
        (self.record.ended, self.record.ended_at) = (how, self.since(now));
        self.phase = Phase::Finished;
    }

    // ---- what happens

    /// Lets everything act that can, until nothing happens any more.
    fn pump(&mut self, now: Instant) {
        if matches!(self.phase, Phase::Idle | Phase::Finished) {
            return;
        }
        if self.silent_at().is_some_and(|at| at <= now) {
            self.failed("socket: silent".to_owned());
            self.sockets.renew(now, self.client.as_mut());
        }
        self.look_after_sockets(now);
        if self.ask_at.is_some_and(|at| at <= now) {
            self.ask_again(now);
        }
        loop {
            while let Some(event) = self.client.poll_event() {
                self.take(now, &event);
                if self.phase == Phase::Finished {
                    return;
                }
            }
            // What the server closes after a goodbye is no loss.
            if self.is_here() {
                let at = self.since(now);
                self.ways.look(at, self.client.as_ref(), self.epoch, &mut self.record);
                self.act(now, |behaviour, context| behaviour.act(context));
            }
            // What they did may have made something happen.
            match self.client.poll_event() {
                Some(event) => self.take(now, &event),
                None => break,
            }
        }
        self.look_asleep(now);
        self.look_ready(now);
        self.look_left(now);
    }

    fn act(&mut self, now: Instant, mut act: impl FnMut(&mut dyn Behaviour, &mut Context<'_>)) {
        let mut context = Context {
            now,
            epoch: self.epoch,
            number: self.plan.number,
            room: &self.plan.room,
            handle: self.room,
            client: self.client.as_mut(),
            record: &mut self.record,
            window: &mut self.window,
        };
        for behaviour in &mut self.behaviours {
            act(behaviour.as_mut(), &mut context);
        }
    }

    /// When the WebSocket will have been silent for too long, if frames go over it.
    fn silent_at(&self) -> Option<Instant> {
        let is_used = self.client.attached() == Some(Pipe::Socket) && self.client.reads_socket();
        (is_used && self.is_here()).then(|| self.client.heard(Pipe::Socket) + SILENCE)
    }

    fn look_ready(&mut self, now: Instant) {
        let wanted = if self.address.is_some() { Pipe::Channel } else { Pipe::Socket };
        let attached = self.client.attached().filter(|_| self.room.is_some());
        if attached == Some(wanted) {
            self.stage(now, "ready");
            self.is_ready = true;
        }
        self.is_ready |= attached.is_some() && self.fell_back;
    }

    fn look_left(&mut self, now: Instant) {
        match self.phase {
            Phase::Leaving(until) => {
                let mut is_idle = self.client.held_bytes() == 0;
                self.act(now, |behaviour, context| is_idle &= behaviour.is_idle(context));
                let can_say = self.sockets.is_welcomed() && self.client.has_session();
                if !can_say && (until <= now || !self.client.has_session()) {
                    self.finish(now, Ended::Left);
                } else if (is_idle || until <= now) && can_say {
                    match self.client.bye() {
                        true => self.phase = Phase::Bye(now + BYE),
                        false => self.finish(now, Ended::Left),
                    }
                }
            }
            Phase::Bye(until) if until <= now => self.finish(now, Ended::Left),
            _ => {}
        }
    }

    fn take(&mut self, now: Instant, event: &Event) {
        let at = self.since(now);
        match event {
            Event::Message(message) => {
                let Some(membership) = self.record.memberships.last_mut() else { return };
                if let Some(stamp) = membership.receipts.message(at, message) {
                    let (sender, lane, due) = (stamp.sender, Some(message.lane), stamp.scheduled);
                    let after = at.saturating_sub(due);
                    self.window.sample(Sample { sender, lane, due, after });
                }
                return;
            }
            Event::Gap { sender, stream, count, .. } => {
                if let Some(membership) = self.record.memberships.last_mut() {
                    membership.receipts.gap(*sender, *stream, *count);
                }
                return;
            }
            Event::Welcome => {
                self.sockets.welcomed();
                if self.room.is_none() && self.client.has_session() && self.ask_at.is_none() {
                    // A join is no frame: it may have been lost with the WebSocket.
                    self.ask_again(now);
                }
            }
            Event::Control(_, ServerControl::Joined { room, handle, member, .. })
                if *room == self.plan.room =>
            {
                self.joined(now, *handle, *member);
            }
            Event::Control(handle, ServerControl::Left { reason }) if self.room == Some(*handle) => {
                let reason = *reason;
                self.error(format!("left: {}", name(reason)));
                self.part(now);
                self.join_later(now, None);
            }
            Event::Control(_, ServerControl::Refused { id, stream, code, retry_after_ms, .. }) => {
                let (id, code, wait) = (*id, *code, *retry_after_ms);
                self.record.refused_data += u64::from(stream.is_some());
                self.refused(now, id, code, wait);
            }
            Event::Refused(Refusal { id, code, retry_after_ms, .. }) => {
                self.refused(now, *id, *code, *retry_after_ms);
            }
            Event::Attached(pipe) if self.is_here() => self.ways.attached(at, *pipe, &mut self.record),
            Event::Peer(PeerEvent::IceConnected) => self.stage(now, "ice"),
            Event::Peer(PeerEvent::DtlsConnected) => self.stage(now, "dtls"),
            Event::Peer(PeerEvent::Open(Channel::Reliable)) => self.stage(now, "channel"),
            Event::PeerLost => self.fell_back = true,
            Event::SessionLost => self.session_lost(now),
            Event::Draining(spread) => self.sockets.draining(*spread),
            Event::Violation(what) => {
                self.record.violation(at, what.clone());
                self.error(BROKEN_PROTOCOL.to_owned());
            }
            Event::Attached(_) | Event::Control(..) | Event::Log(..) | Event::Peer(_) | Event::Session(_) => {
            }
        }
        if self.phase != Phase::Finished {
            self.act(now, |behaviour, context| behaviour.event(context, event));
        }
    }

    fn joined(&mut self, now: Instant, handle: u16, member: u32) {
        self.asked = None;
        self.refusals = 0;
        self.stage(now, "joined");
        self.stage(now, "first_message");
        if self.room == Some(handle) {
            // The token was refreshed.
            return;
        }
        self.part(now);
        let at = self.since(now);
        self.room = Some(handle);
        self.record.joined(at, member);
        self.record.failure = None;
        self.window.joins += 1;
        self.ways.joined(at, &mut self.record);
        self.act(now, |behaviour, context| behaviour.joined(context));
    }

    fn refused(&mut self, now: Instant, id: Option<u32>, code: Code, retry_after_ms: Option<u64>) {
        if matches!(code, Code::StaleAttach | Code::UnknownSession) {
            // The client deals with both.
            return;
        }
        let is_join = id.is_some() && id == self.asked;
        let cause = format!("refused: {}", name(code));
        if is_join {
            self.failed(cause)
        } else {
            self.error(cause)
        }
        if is_join && is_final(code) {
            self.finish(now, Ended::GaveUp);
        } else if is_join {
            self.asked = None;
            self.join_later(now, retry_after_ms.map(Duration::from_millis));
        }
    }

    fn join_later(&mut self, now: Instant, wait: Option<Duration>) {
        let doubled = ASK_AGAIN.saturating_mul(1 << self.refusals.min(4));
        self.refusals += 1;
        self.ask_at = Some(now + wait.unwrap_or_else(|| doubled.mul_f64(0.5 + self.rng.unit())));
    }
}

/// Whether asking again with the same token cannot help.
fn is_final(code: Code) -> bool {
    use Code::{
        Forbidden, OtherUser, RoomName, TokenAlgorithm, TokenClaims, TokenMalformed, TokenOtherRoom,
        TokenSignature, TokenTooLarge, TokenUnknownKey, UnsupportedVersion,
    };
    matches!(
        code,
        Forbidden
            | OtherUser
            | RoomName
            | TokenAlgorithm
            | TokenClaims
            | TokenMalformed
            | TokenOtherRoom
            | TokenSignature
            | TokenTooLarge
            | TokenUnknownKey
            | UnsupportedVersion
    )
}

/// A code as it is on the wire.
fn name(code: Code) -> String {
    match serde_json::to_value(code) {
        Ok(Value::String(name)) => name,
        _ => format!("{code:?}"),
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod world;
