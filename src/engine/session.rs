//! One session: the state a device has here, whatever pipe it is on (D4). It turns pipe messages into actions for
//! rooms, and deliveries into pipe messages; it numbers, acknowledges, replays, and drops what a slow receiver cannot
//! take. The delivery rules themselves are `switchyard_signaling::lane`.
//!
//! It never writes to a pipe: `src/engine/mod.rs` asks [`Session::fill`] for pipe messages as long as the attached
//! pipe has room. It never decides what a user may do: that is the room's.

mod lossy;
mod round_trip;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use switchyard_signaling::{
    Code,
    assembly::{Assembly, AssemblyError, Complete},
    frame::{self, ChunkHeader, DOUBT_NONCE, Frame, Frames, Kind, LossyHeader, Out, Reliable, Target},
    lane,
    limits::Limits,
    message::{ClientControl, ServerControl},
};

use crate::{
    bucket::Bucket,
    names::{RoomKey, RoomPlace, SessionId},
    room::{Action, Lane, Outbound, control_message},
};

use super::{
    doubt::Doubt,
    ticket::{Shown, Tickets},
};
use lossy::LossyQueue;
use round_trip::RoundTrip;

/// A data channel from which nothing came for so long while frames wait for acknowledgement is left, if there is a
/// WebSocket: the client would have answered two probes.
const CHANNEL_SILENCE: Duration = Duration::from_secs(5);
/// Refusals of messages that may be told in a row before they are only counted, and how often one more is allowed.
const REFUSALS: f64 = 32.0;
const REFUSALS_PER_SECOND: f64 = 4.0;
/// Offers that a client may make at once, and how often one more: each may cost a peer connection.
const OFFERS: f64 = 6.0;
const OFFERS_PER_SECOND: f64 = 0.5;
/// A resume ticket lives so long at least, and so many times as long as a session without a pipe.
const TICKET_LIFE: Duration = Duration::from_secs(120);
const TICKET_GRACES: u32 = 8;
/// More than the message that carries one.
const TICKET_BYTES: usize = 256;
/// How fast wrong frames are forgiven.
const PROBLEMS_PER_SECOND: f64 = 1.0 / 60.0;

/// What the operator allows a session.
#[derive(Clone, Debug)]
pub struct SessionLimits {
    /// Announced to the client.
    pub announced: Limits,
    /// Bytes of lossy messages that wait for a slow receiver; the oldest are dropped.
    pub lossy_queue_bytes: usize,
    /// Messages per second that a session may send, 0 for any number.
    pub messages_per_second: u32,
    /// Messages that it may send at once.
    pub message_burst: u32,
    /// Frames and messages that do not parse before the session is ended.
    pub problems: u32,
}

/// A kind of pipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// The WebSocket.
    Socket,
    /// The data channels of the session's peer connection.
    Channel,
}

/// How a pipe message came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Came {
    /// Over the WebSocket.
    Socket,
    /// Over the ordered data channel.
    Ordered,
    /// Over the unordered one, where probes are answered that must not wait for what was lost before them.
    Unordered,
}

impl Came {
    fn via(self) -> Via {
        if self == Self::Socket { Via::Socket } else { Via::Channel }
    }
}

/// What a pipe message asks for beyond the session.
#[derive(Debug)]
pub enum Event {
    /// An action in a room.
    Act(RoomPlace, Action),
    /// The client moved to the pipe on which the message came.
    Attached,
    /// A probe of what is not the lane's way: to be answered where it came, at once.
    Pong(u32),
    /// The message or its pipe is wrong; the client is told by a text.
    Problem(Code, String),
}

/// A refusal: its code and a sentence.
pub type Refused = (Code, &'static str);

/// There is no such session, or none that this client could know.
pub const UNKNOWN_SESSION: Refused = (Code::UnknownSession, "the session to resume is gone; join anew");

/// What is counted; read and reset by the owner.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Data messages for this session, gaps included, and lossy ones given to its pipe.
    pub delivered: [u64; 2],
    /// Their bytes.
    pub delivered_bytes: [u64; 2],
    /// Data messages received: reliable, lossy.
    pub received: [u64; 2],
    /// Their bytes.
    pub received_bytes: [u64; 2],
    /// Lossy messages dropped because the receiver was slow.
    pub lossy_dropped: u64,
    /// Messages refused because of the rate limit.
    pub rate_limited: u64,
    /// Frames of unknown kind.
    pub unknown_frames: u64,
    /// Reliable frames that had been received before.
    pub duplicates: u64,
    /// Moves by ATTACH: to the WebSocket, to the data channel.
    pub moves: [u64; 2],
    /// Questions over the WebSocket whether the data channel works.
    pub doubts: u64,
    /// Frames of which a copy went over the WebSocket, because the data channel was doubted.
    pub copies: u64,
    /// WebSockets that have resumed the session.
    pub resumes: u64,
}

/// A session.
///
/// Order of calls: any `handle_*`, [`push`](Self::push) or [`push_lossy`](Self::push_lossy); then
/// [`fill`](Self::fill) and [`fill_lossy`](Self::fill_lossy) while the pipe has room.
#[derive(Debug)]
pub struct Session {
    /// Its name.
    pub id: SessionId,
    /// The tenant of its tokens.
    pub tenant: Arc<str>,
    /// The user of its tokens.
    pub user: Arc<str>,
    /// The pipe to send on.
    pub attached: Via,
    /// Since when there has been no pipe at all.
    pub alone_since: Option<Instant>,
    /// What is counted.
    pub counts: Counts,
    limits: Arc<SessionLimits>,
    tickets: Tickets,
    generation: u32,
    rooms: BTreeMap<u16, Membership>,
    next_handle: u16,
    out: lane::Sender,
    arrivals: lane::Receiver,
    assembly: Assembly,
    lossy: LossyQueue,
    say_attached: bool,
    pong: Option<u32>,
    round_trip: RoundTrip,
    heard_on_channel: Instant,
    doubt: Doubt,
    /// Since when frames have been waiting for acknowledgement without a pause.
    waiting_since: Option<Instant>,
    /// A delivery's latency, since it was last asked for.
    sample: Option<Duration>,
    messages: Bucket,
    refusals: Bucket,
    offers: Bucket,
    attempts: Bucket,
    qualities: Bucket,
    problems: Bucket,
}

#[derive(Debug)]
struct Membership {
    key: RoomKey,
    place: Option<RoomPlace>,
    /// Joins that the room has not answered.
    joins: u32,
}

impl Session {
    /// A session on its first WebSocket, attached as generation 1. `secret` must not be guessable.
    pub fn new(
        id: SessionId,
        (tenant, user): (Arc<str>, Arc<str>),
        secret: &[u8],
        limits: Arc<SessionLimits>,
        now: Instant,
    ) -> Self {
        let announced = &limits.announced;
        let grace = Duration::from_millis(announced.resume_grace_ms);
        let life = TICKET_LIFE.max(grace.saturating_mul(TICKET_GRACES));
        let held = announced.max_message_bytes.max(announced.replay_limit_bytes);
        let burst = f64::from(limits.message_burst.max(1));
        Self {
            id,
            tenant,
            user,
            attached: Via::Socket,
            alone_since: None,
            counts: Counts::default(),
            tickets: Tickets::new(secret, life, now),
            generation: 1,
            rooms: BTreeMap::new(),
            next_handle: 1,
            out: lane::Sender::new(announced.replay_limit_bytes),
            arrivals: lane::Receiver::default(),
            assembly: Assembly::new(announced.max_message_bytes, held),
            lossy: LossyQueue::new(limits.lossy_queue_bytes),
            say_attached: false,
            pong: None,
            round_trip: RoundTrip::default(),
            heard_on_channel: now,
            doubt: Doubt::default(),
            waiting_since: None,
            sample: None,
            messages: Bucket::new(burst, now),
            refusals: Bucket::new(REFUSALS, now),
            offers: Bucket::new(OFFERS, now),
            // Filled by the first to take one.
            attempts: Bucket::new(f64::INFINITY, now),
            qualities: Bucket::new(f64::INFINITY, now),
            problems: Bucket::new(f64::from(limits.problems), now),
            limits,
        }
    }

    /// A handle for a room that is being asked to take the session in, the one it has if the session is in it
    /// already; `Err` with the code otherwise.
    pub fn handle_for(&mut self, key: &RoomKey) -> Result<u16, Code> {
        if let Some((&handle, membership)) =
            self.rooms.iter_mut().find(|(_, membership)| membership.key == *key)
        {
            membership.joins += 1;
            return Ok(handle);
        }
        if self.rooms.len() >= self.limits.announced.rooms_per_session {
            return Err(Code::TooManyRooms);
        }
        // Handles are not used again soon, so that a late frame for a room that was left meets no other room.
        while self.next_handle == 0 || self.rooms.contains_key(&self.next_handle) {
            self.next_handle = self.next_handle.wrapping_add(1);
        }
        let handle = self.next_handle;
        self.next_handle = handle.wrapping_add(1);
        self.rooms.insert(handle, Membership { key: key.clone(), place: None, joins: 1 });
        Ok(handle)
    }

    /// The room has taken the session in. `false` if the session has not asked for it, or no longer.
    pub fn admitted(&mut self, handle: u16, place: RoomPlace) -> bool {
        let membership = self.rooms.get_mut(&handle);
        if let Some(membership) = membership {
            membership.place = Some(place);
            membership.joins = membership.joins.saturating_sub(1);
            return true;
        }
        false
    }

    /// The session is not in the room, or no longer. The handle stays while another join is under way, which the
    /// room may have taken after the membership ended.
    pub fn dismissed(&mut self, handle: u16) {
        if let Some(membership) = self.rooms.get_mut(&handle) {
            if membership.place.take().is_none() {
                membership.joins = membership.joins.saturating_sub(1);
            }
            if membership.joins == 0 {
                self.rooms.remove(&handle);
            }
        }
        self.assembly.forget_room(handle);
        self.lossy.forget_room(handle);
    }

    /// The ticket with which the client, told of it now, may resume the session first.
    pub fn first_ticket(&self) -> String {
        self.tickets.first()
    }

    /// A client shows a ticket. A valid one has a successor from now on.
    pub fn resume(&mut self, ticket: &str, now: Instant) -> Result<(), Refused> {
        match self.tickets.show(ticket, now) {
            Shown::Valid => {}
            Shown::Used => {
                return Err((Code::TicketUsed, "the ticket has been used; the last one given is good"));
            }
            Shown::Expired => return Err((Code::TicketExpired, "the ticket has expired; join anew")),
            Shown::Unknown => return Err(UNKNOWN_SESSION),
        }
        self.counts.resumes += 1;
        // What was copied to the WebSocket before may be lost with that.
        self.doubt.end();
        self.renew_ticket(now);
        Ok(())
    }

    /// Sends the next ticket, if that is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.tickets.renew_at().is_some_and(|due| due <= now) {
            self.renew_ticket(now);
        }
    }

    /// Sends the next ticket unless one is on its way; later if nothing should be dropped for it.
    fn renew_ticket(&mut self, now: Instant) {
        let Some(ticket) = self.tickets.next() else { return };
        if self.out.has_room(TICKET_BYTES) && self.tell(0, &ServerControl::Ticket { ticket }, now).is_ok() {
            self.tickets.sent(self.out.last_control_seq(), now);
        } else {
            self.tickets.put_off(now);
        }
    }

    /// Takes the right to tell of one attempt to connect.
    pub fn take_attempt(&mut self, per_second: f64, most: f64, now: Instant) -> Result<(), Duration> {
        self.attempts.take(per_second, most, now)
    }

    /// Takes the right to tell once how good the connection is.
    pub fn take_quality(&mut self, per_second: f64, most: f64, now: Instant) -> Result<(), Duration> {
        self.qualities.take(per_second, most, now)
    }

    /// The names of the rooms that it is in, or joins.
    pub fn rooms(&self) -> impl Iterator<Item = &Arc<str>> {
        self.rooms.values().map(|membership| &membership.key.room)
    }

    /// Where its rooms are.
    pub fn places(&self) -> impl Iterator<Item = RoomPlace> {
        self.rooms.values().filter_map(|membership| membership.place)
    }

    /// Whether it is in no room and waits for none.
    pub fn is_roomless(&self) -> bool {
        self.rooms.is_empty()
    }

    /// Takes a pipe message; what it asks for is added to `events`.
    pub fn handle_message(&mut self, came: Came, message: Bytes, now: Instant, events: &mut Vec<Event>) {
        if came != Came::Socket {
            self.heard_on_channel = now;
        }
        let mut frames = Frames::new(message);
        for frame in frames.by_ref() {
            match frame {
                Ok(frame) => self.handle_frame(came, frame, now, events),
                Err(error) => events.push(Event::Problem(Code::BadFrame, error.to_string())),
            }
        }
        self.counts.unknown_frames += u64::from(frames.unknown);
    }

    /// Takes a reliable delivery. `Err` when the session is so far behind that it cannot go on.
    pub fn push(&mut self, handle: u16, message: &Arc<lane::Message>) -> Result<(), lane::Overflow> {
        if message.kind != Kind::Control {
            if !self.rooms.contains_key(&handle) {
                return Ok(());
            }
            self.counts.delivered[0] += 1;
            self.counts.delivered_bytes[0] += message.payload.len() as u64;
        }
        self.out.push(handle, message.clone())
    }

    /// Reliable messages of a stream did not reach this shard; the client is told by a gap.
    pub fn miss(&mut self, handle: u16, sender: u32, stream: u16, count: u32) {
        if self.rooms.contains_key(&handle) {
            self.out.note_gap((handle, sender, stream), count);
        }
    }

    /// Takes a lossy delivery; the oldest are dropped when too much waits.
    pub fn push_lossy(&mut self, handle: u16, seq: u32, message: &Arc<lane::Message>) {
        self.counts.lossy_dropped += self.lossy.push(handle, seq, message);
    }

    /// Tells the session something about a room, or about none (handle 0).
    pub fn tell(&mut self, handle: u16, control: &ServerControl, now: Instant) -> Result<(), lane::Overflow> {
        self.out.push(handle, control_message(control, now))
    }

    /// Appends the next pipe message of reliable and lane-less frames to the empty `out`: frames until `enough`
    /// bytes, and a single longer one of at most `most`. Returns whether there was anything.
    pub fn fill(&mut self, (enough, most): (usize, usize), now: Instant, out: &mut impl Out) -> bool {
        self.put_words(now, out.buffer());
        let ack = self.arrivals.ack();
        loop {
            let room = if out.is_empty() { most } else { enough.saturating_sub(out.len()) };
            if self.out.poll(ack, room, out) != lane::Polled::Frame {
                break;
            }
            self.arrivals.acknowledged();
        }
        if self.out.unacknowledged() > 0 && self.waiting_since.is_none() {
            self.waiting_since = Some(now);
        }
        if self.attached == Via::Channel && !out.is_empty() {
            self.doubt.sent(now);
        }
        if self.sample.is_none()
            && let Some(message) = self.out.completed()
            && message.kind == Kind::Data
        {
            self.sample = Some(now.saturating_duration_since(message.at) + self.round_trip.half());
        }
        !out.is_empty()
    }

    /// One delivery's latency from sender to receiver, if there was one since the last call: half a round trip of each
    /// pipe, and the time in between.
    pub fn take_sample(&mut self) -> Option<Duration> {
        self.sample.take()
    }

    /// Appends lossy messages likewise.
    pub fn fill_lossy(&mut self, (enough, most): (usize, usize), out: &mut BytesMut) -> bool {
        loop {
            let room = if out.is_empty() { most } else { enough.saturating_sub(out.len()) };
            let Some(length) = self.lossy.poll(room, out) else { break };
            self.counts.delivered[1] += 1;
            self.counts.delivered_bytes[1] += length as u64;
        }
        !out.is_empty()
    }

    /// Whether frames wait for room in the pipe.
    pub fn is_ready(&self) -> bool {
        self.out.is_ready() || !self.lossy.is_empty() || self.pong.is_some() || self.say_attached
    }

    /// Whether the client may do something costly now, such as make an offer.
    pub fn take_offer(&mut self, now: Instant) -> Result<(), Duration> {
        self.offers.take(OFFERS_PER_SECOND, OFFERS, now)
    }

    /// Notes that the client sent something wrong. `true` when it was once too often.
    pub fn is_abusive(&mut self, now: Instant) -> bool {
        self.problems.take(PROBLEMS_PER_SECOND, f64::from(self.limits.problems), now).is_err()
    }

    /// The last frame of the reliable lane that has come.
    pub fn received(&self) -> u32 {
        self.arrivals.ack()
    }

    /// Goes on over this pipe without the client having asked: the other one is dead. Everything that is not
    /// acknowledged is sent again.
    pub fn fall_back(&mut self, via: Via) {
        self.attached = via;
        self.out.attach(self.acknowledged());
        self.round_trip.forget_probe();
    }

    /// The data channel is attached and has been silent for too long.
    pub fn channel_is_silent(&self, now: Instant) -> bool {
        self.silent_from().is_some_and(|from| from <= now)
    }

    /// Packets may have come over the data channel; the last one was `heard` then.
    pub fn heard(&mut self, heard: Instant) {
        let waiting_since = self.waiting_since.filter(|_| self.attached == Via::Channel);
        self.doubt.heard(waiting_since, heard, self.round_trip.smoothed());
    }

    /// When the client is to be asked over the WebSocket whether the data channel works, if no packet comes over that:
    /// the last one was `heard` then.
    pub fn doubt_at(&self, heard: Instant) -> Option<Instant> {
        let waiting_since = self.waiting_since.filter(|_| self.attached == Via::Channel)?;
        Some(self.doubt.due(waiting_since, heard, self.round_trip.smoothed()))
    }

    /// The question, for the WebSocket. Copies follow it.
    pub fn ask(&mut self, now: Instant, out: &mut BytesMut) {
        self.counts.doubts += 1;
        if self.doubt.ask(now) {
            self.out.copy_anew();
        }
        frame::put_ping(out, DOUBT_NONCE);
    }

    /// Appends, for the WebSocket, what is not acknowledged, as long as the data channel is doubted. Its last packet was
    /// `heard` then. Returns whether there is more than there was `room` for.
    pub fn fill_copies(&mut self, heard: Instant, now: Instant, room: usize, out: &mut impl Out) -> bool {
        if self.attached != Via::Channel {
            self.doubt.end();
        }
        if !self.doubt.goes_on(heard, now) {
            return false;
        }
        let ack = self.arrivals.ack();
        loop {
            match self.out.copy(ack, room.saturating_sub(out.len()), out) {
                lane::Polled::Frame => self.counts.copies += 1,
                polled => return polled == lane::Polled::TooLong,
            }
        }
    }

    /// When an acknowledgement or a probe is due, or, if there `is_another` pipe to go to, a check of the channel.
    pub fn poll_timeout(&self, is_another: bool) -> Option<Instant> {
        let silence = self.silent_from().filter(|_| is_another);
        let probe = self.round_trip.due().filter(|_| self.out.unacknowledged() > 0);
        [self.arrivals.poll_timeout(), probe, silence, self.tickets.renew_at()].into_iter().flatten().min()
    }

    /// Bytes held for the client: sent and unacknowledged, and waiting.
    pub fn held_bytes(&self) -> usize {
        self.out.held_bytes() + self.lossy.bytes()
    }

    /// Reliable messages dropped because too much waited, each told by a gap.
    pub fn gaps(&self) -> u64 {
        self.out.dropped()
    }

    /// From when on the attached data channel counts as silent, if nothing comes.
    fn silent_from(&self) -> Option<Instant> {
        let waiting_since = self.waiting_since.filter(|_| self.attached == Via::Channel)?;
        Some(waiting_since.max(self.heard_on_channel) + CHANNEL_SILENCE)
    }

    /// When a message that came now left its sender, as far as the pipe is known.
    fn sent_at(&self, now: Instant) -> Instant {
        now.checked_sub(self.round_trip.half()).unwrap_or(now)
    }

    fn acknowledged(&self) -> u32 {
        self.out.next_seq().wrapping_sub(self.out.unacknowledged() as u32).wrapping_sub(1)
    }

    /// Frames without a lane: ATTACHED, PONG, ACK, PING.
    fn put_words(&mut self, now: Instant, out: &mut BytesMut) {
        if std::mem::take(&mut self.say_attached) {
            frame::put_attached(out, self.generation, self.arrivals.ack());
            self.arrivals.acknowledged();
        }
        if let Some(nonce) = self.pong.take() {
            frame::put_pong(out, nonce);
        }
        if self.arrivals.poll_timeout().is_some_and(|due| due <= now) && !self.out.is_ready() {
            frame::put_ack(out, self.arrivals.ack());
            self.arrivals.acknowledged();
        }
        let awaits = self.out.unacknowledged() > 0;
        if let Some(nonce) = self.round_trip.poll(awaits, self.out.is_ready(), now) {
            frame::put_ping(out, nonce);
        }
    }

    fn handle_frame(&mut self, came: Came, frame: Frame, now: Instant, events: &mut Vec<Event>) {
        let via = came.via();
        match frame {
            Frame::Reliable { lane_seq, ack, body } => {
                self.handle_ack(ack, events);
                self.handle_reliable(via, lane_seq, body, now, events);
            }
            Frame::Lossy(header, payload) => self.handle_lossy(header, payload, now, events),
            Frame::Ack(ack) => self.handle_ack(ack, events),
            Frame::Ping(nonce) if via == self.attached && came != Came::Unordered => self.pong = Some(nonce),
            Frame::Ping(nonce) => {
                let is_doubt = nonce == DOUBT_NONCE && (self.attached, via) == (Via::Channel, Via::Socket);
                if is_doubt && self.doubt.request(now) {
                    self.out.copy_anew();
                }
                events.push(Event::Pong(nonce));
            }
            Frame::Pong(nonce) => self.round_trip.answered(nonce, now),
            Frame::Attach { generation, ack } => {
                if generation <= self.generation {
                    let told = format!("generation {generation} is not above {}", self.generation);
                    return events.push(Event::Problem(Code::StaleAttach, told));
                }
                self.generation = generation;
                self.say_attached = true;
                self.counts.moves[usize::from(via == Via::Channel)] += 1;
                self.round_trip.forget_probe();
                if (self.attached, via) == (Via::Socket, Via::Socket) {
                    // Whatever the client does not have is on its way over this WebSocket already, in order.
                    self.out.handle_ack(ack);
                } else {
                    self.attached = via;
                    self.out.attach(ack);
                }
                self.tickets.acknowledged(self.acknowledged());
                events.push(Event::Attached);
            }
            Frame::Attached { .. } => {
                events.push(Event::Problem(Code::BadFrame, "only the server says ATTACHED".into()));
            }
        }
    }

    fn handle_ack(&mut self, ack: u32, events: &mut Vec<Event>) {
        if !self.out.handle_ack(ack) {
            events.push(Event::Problem(Code::BadFrame, "an ack of what was never sent".into()));
        }
        self.tickets.acknowledged(self.acknowledged());
        if self.out.unacknowledged() == 0 {
            self.waiting_since = None;
        }
    }

    fn handle_reliable(
        &mut self,
        via: Via,
        lane_seq: u32,
        body: Reliable,
        now: Instant,
        events: &mut Vec<Event>,
    ) {
        let bytes = if let Reliable::Chunk(_, payload) = &body { payload.len() } else { 0 };
        match self.arrivals.handle(lane_seq, bytes, now) {
            lane::Arrival::Next => {}
            lane::Arrival::Duplicate => {
                self.counts.duplicates += 1;
                return;
            }
            // The pipe that was left lost something and delivers on; all of it is replayed on the attached one.
            lane::Arrival::Ahead if via != self.attached => return,
            lane::Arrival::Ahead => {
                let told = format!("expected {}, got {lane_seq}", self.arrivals.ack().wrapping_add(1));
                return events.push(Event::Problem(Code::LaneGap, told));
            }
        }
        match body {
            Reliable::Chunk(header, payload) => self.handle_chunk(header, payload, now, events),
            Reliable::Gap { room, sender, stream, .. } => self.assembly.handle_gap((room, sender, stream)),
        }
    }

    fn handle_chunk(&mut self, header: ChunkHeader, payload: Bytes, now: Instant, events: &mut Vec<Event>) {
        if header.sender != 0 {
            return events.push(Event::Problem(Code::BadFrame, STAMPED.into()));
        }
        let (room, stream) = (header.room, header.stream);
        match self.assembly.handle(header, payload) {
            Ok(Some(Complete { kind: Kind::Control, payload, .. })) => {
                self.handle_control(room, &payload, now, events);
            }
            Ok(Some(Complete { kind: Kind::Log, payload, .. })) => self.log(room, payload, now, events),
            Ok(Some(Complete { text, target, payload, .. })) => {
                self.counts.received[0] += 1;
                self.counts.received_bytes[0] += payload.len() as u64;
                let outbound = Outbound { text, stream, target, payload, at: self.sent_at(now) };
                self.send(room, Lane::Reliable, outbound, now, events);
            }
            Ok(None) => {}
            Err(error) => {
                let code = match error {
                    AssemblyError::TooLarge(_) => Code::TooLarge,
                    AssemblyError::TooMany => Code::Overloaded,
                    AssemblyError::Contradiction | AssemblyError::NotUtf8 => Code::BadFrame,
                };
                self.refuse((room, None, Some(stream)), code, error.to_string(), None, now);
            }
        }
    }

    fn handle_control(&mut self, room: u16, json: &[u8], now: Instant, events: &mut Vec<Event>) {
        let control = match ClientControl::parse(json) {
            Ok(control) => control,
            Err(error) => return events.push(Event::Problem(error.code(), error.to_string())),
        };
        if let Err(retry) = self.take_message(now) {
            let told = "too many messages".to_owned();
            return self.refuse((room, Some(control.id()), None), Code::RateLimited, told, Some(retry), now);
        }
        match self.place(room) {
            Some(place) => events.push(Event::Act(place, Action::Control(control))),
            None => self.refuse((room, Some(control.id()), None), Code::NotInRoom, not_in(room), None, now),
        }
    }

    /// Records for a room's log. Those that are refused here are sent again by their writer.
    fn log(&mut self, room: u16, records: Bytes, now: Instant, events: &mut Vec<Event>) {
        let about = (room, None, Some(0));
        if let Err(retry) = self.take_message(now) {
            self.counts.rate_limited += 1;
            return self.refuse(about, Code::RateLimited, "too many messages".into(), Some(retry), now);
        }
        match self.place(room) {
            Some(place) => events.push(Event::Act(place, Action::Records(records))),
            None => self.refuse(about, Code::NotInRoom, not_in(room), None, now),
        }
    }

    fn handle_lossy(&mut self, header: LossyHeader, payload: Bytes, now: Instant, events: &mut Vec<Event>) {
        self.counts.received[1] += 1;
        self.counts.received_bytes[1] += payload.len() as u64;
        let LossyHeader { text, room, sender, stream, seq, target } = header;
        if sender != 0 {
            return events.push(Event::Problem(Code::BadFrame, STAMPED.into()));
        }
        let outbound = Outbound { text, stream, target, payload, at: self.sent_at(now) };
        self.send(room, Lane::Lossy { seq }, outbound, now, events);
    }

    fn send(&mut self, room: u16, lane: Lane, outbound: Outbound, now: Instant, events: &mut Vec<Event>) {
        let about = (room, None, Some(outbound.stream));
        if outbound.target == Target::Users(Vec::new()) {
            return self.refuse(about, Code::NoSuchUser, "the message names no user".into(), None, now);
        }
        if let Err(retry) = self.take_message(now) {
            self.counts.rate_limited += 1;
            return self.refuse(about, Code::RateLimited, "too many messages".into(), Some(retry), now);
        }
        match self.place(room) {
            Some(place) => events.push(Event::Act(place, Action::Send(lane, outbound))),
            None => self.refuse(about, Code::NotInRoom, not_in(room), None, now),
        }
    }

    fn place(&self, room: u16) -> Option<RoomPlace> {
        self.rooms.get(&room).and_then(|membership| membership.place)
    }

    fn take_message(&mut self, now: Instant) -> Result<(), Duration> {
        let SessionLimits { messages_per_second, message_burst, .. } = *self.limits;
        if messages_per_second == 0 {
            return Ok(());
        }
        self.messages.take(f64::from(messages_per_second), f64::from(message_burst.max(1)), now)
    }

    /// Tells of a refusal in the lane; a flood of them is cut short, for the sender has been told.
    fn refuse(
        &mut self,
        (room, id, stream): (u16, Option<u32>, Option<u16>),
        code: Code,
        message: String,
        retry: Option<Duration>,
        now: Instant,
    ) {
        if self.refusals.take(REFUSALS_PER_SECOND, REFUSALS, now).is_err() {
            return;
        }
        let retry_after_ms = retry.map(|retry| retry.as_millis() as u64 + 1);
        // No room in the lane: the client reads nothing, so it would not read this either.
        let _ = self.tell(room, &ServerControl::Refused { id, stream, code, message, retry_after_ms }, now);
    }
}

/// The sentence for a client that names a sender (SIG4).
const STAMPED: &str = "a client writes 0 as the sender; the server stamps who it is";

fn not_in(room: u16) -> String {
    format!("handle {room} names no room of this session")
}

#[cfg(test)]
mod tests;
