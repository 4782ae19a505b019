//! Which pipe a browser's frames go over: generations, a move under way, probes and silence (section 3.2 of the
//! protocol's document, the client's half). It decides; the browser sends.

use std::time::{Duration, Instant};

use super::Pipe;

/// A probe is due this long after the last one …
const PING_EVERY: Duration = Duration::from_secs(2);
/// … or this long while frames wait for acknowledgement.
const PING_EVERY_WAITING: Duration = Duration::from_millis(500);
/// A data channel that has been silent this long, with a probe unanswered, is left.
const SILENCE: Duration = Duration::from_secs(3);
/// A move that is not confirmed in this time is given up.
const ATTACH_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Pipes {
    attached: Option<Pipe>,
    generation: u32,
    moving: Option<Move>,
    heard_socket: Instant,
    heard_channel: Instant,
    /// When the last frames came, over whichever.
    came: Instant,
    last_ping: Instant,
    nonce: u32,
    /// The pipe and number of the last probe, and when it was sent, until it is answered.
    unanswered: Option<(Pipe, u32, Instant)>,
    /// When the first probe of the attached pipe was sent after which nothing came.
    unanswered_since: Option<Instant>,
    round_trip: Option<Duration>,
}

#[derive(Debug)]
struct Move {
    to: Pipe,
    generation: u32,
    until: Instant,
}

impl Pipes {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            attached: None,
            generation: 0,
            moving: None,
            heard_socket: now,
            heard_channel: now,
            came: now,
            last_ping: now,
            nonce: 0,
            unanswered: None,
            unanswered_since: None,
            round_trip: None,
        }
    }

    pub(super) fn attached(&self) -> Option<Pipe> {
        self.attached
    }

    pub(super) fn came_at(&self) -> Instant {
        self.came
    }

    pub(super) fn heard_at(&self, pipe: Pipe) -> Instant {
        match pipe {
            Pipe::Socket => self.heard_socket,
            Pipe::Channel => self.heard_channel,
        }
    }

    pub(super) fn round_trip(&self) -> Option<Duration> {
        self.round_trip
    }

    /// The first join has attached the WebSocket as generation 1.
    pub(super) fn first(&mut self, now: Instant) {
        self.generation = 1;
        self.attach(now, Pipe::Socket);
    }

    /// A move to this pipe begins; the generation goes into the ATTACH.
    pub(super) fn begin(&mut self, now: Instant, to: Pipe) -> u32 {
        self.generation += 1;
        self.moving = Some(Move { to, generation: self.generation, until: now + ATTACH_TIMEOUT });
        self.generation
    }

    /// ATTACHED came: the pipe that is attached now, if this was the move under way.
    pub(super) fn confirmed(&mut self, now: Instant, generation: u32) -> Option<Pipe> {
        let moving = self.moving.take_if(|moving| moving.generation == generation)?;
        self.attach(now, moving.to);
        Some(moving.to)
    }

    /// The move under way has taken too long: where it was to go.
    pub(super) fn expired(&mut self, now: Instant) -> Option<Pipe> {
        self.moving.take_if(|moving| moving.until <= now).map(|moving| moving.to)
    }

    /// The pipe is gone.
    pub(super) fn lost(&mut self, pipe: Pipe) {
        if self.attached == Some(pipe) {
            self.attached = None;
        }
        self.moving.take_if(|moving| moving.to == pipe);
        if self.unanswered.take_if(|(on, _, _)| *on == pipe).is_some() {
            self.unanswered_since = None;
        }
    }

    pub(super) fn heard(&mut self, now: Instant, pipe: Pipe) {
        self.came = now;
        match pipe {
            Pipe::Socket => self.heard_socket = now,
            Pipe::Channel => self.heard_channel = now,
        }
        if self.attached == Some(pipe) {
            self.unanswered_since = None;
        }
    }

    /// Nobody listened until now, so that silence begins now.
    pub(super) fn heard_all(&mut self, now: Instant) {
        self.heard_socket = now;
        self.heard_channel = now;
        self.unanswered = None;
        self.unanswered_since = None;
    }

    pub(super) fn pong(&mut self, now: Instant, nonce: u32) {
        if let Some((_, _, sent)) = self.unanswered.take_if(|(_, expected, _)| *expected == nonce) {
            self.round_trip = Some(now.saturating_duration_since(sent));
        }
    }

    /// Whether the data channel must be left.
    pub(super) fn is_silent(&self, now: Instant) -> bool {
        self.silent_at().is_some_and(|at| at <= now)
    }

    /// The probe to send now, and on which pipe.
    pub(super) fn ping(&mut self, now: Instant, waiting: bool) -> Option<(Pipe, u32)> {
        let pipe = self.attached?;
        if self.ping_at(waiting) > now {
            return None;
        }
        self.last_ping = now;
        self.nonce = self.nonce.wrapping_add(1);
        self.unanswered = Some((pipe, self.nonce, now));
        self.unanswered_since = self.unanswered_since.or(Some(now));
        Some((pipe, self.nonce))
    }

    /// When something is due; silence only matters if the data channel `can_be_left`.
    pub(super) fn poll_timeout(&self, waiting: bool, can_be_left: bool) -> Option<Instant> {
        let ping = self.attached.map(|_| self.ping_at(waiting));
        let moving = self.moving.as_ref().map(|moving| moving.until);
        let silent = self.silent_at().filter(|_| can_be_left);
        [ping, moving, silent].into_iter().flatten().min()
    }

    fn attach(&mut self, now: Instant, pipe: Pipe) {
        self.attached = Some(pipe);
        self.unanswered = None;
        self.unanswered_since = None;
        self.last_ping = now;
        self.heard(now, pipe);
    }

    fn ping_at(&self, waiting: bool) -> Instant {
        self.last_ping + if waiting { PING_EVERY_WAITING } else { PING_EVERY }
    }

    /// When the data channel will have been silent too long, if a probe is out: counted from the first one that was not
    /// answered, for what it asks may have to be sent again beneath (SCTP waits a second before it does).
    fn silent_at(&self) -> Option<Instant> {
        let since = self.unanswered_since.filter(|_| self.attached == Some(Pipe::Channel))?;
        Some(since.max(self.heard_channel) + SILENCE)
    }
}
