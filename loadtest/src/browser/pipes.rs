//! Which pipe a browser's frames go over: generations, a move under way, what each pipe was last heard to do, and the repair
//! of a data channel (section 3.2 of the protocol's document, the client's half). It remembers; `choice.rs` decides.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use super::{
    Pipe,
    rules::{backoff::Backoff, probe::Probe, trial::Hold, watch::Watch},
};
use crate::rng::Rng;

/// Before a new peer connection after one that failed.
const PEER_LEAST: Duration = Duration::from_secs(2);
const PEER_FIRST: Duration = Duration::from_secs(4);
const PEER_MOST: Duration = Duration::from_secs(60);

/// What a browser wants of its WebSockets. Whoever opens them may not be able to: the browser goes on without.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wish {
    /// The one in use is silent for good, or broken: another one in its place.
    Renew,
    /// A second one beside the one in use, which is silent.
    Beside,
    /// The network may be another one: whatever waits shall wait no longer.
    Hurry,
}

/// An ATTACH that is not answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Move {
    pub(super) to: Pipe,
    pub(super) generation: u32,
    pub(super) since: Instant,
}

#[derive(Debug)]
pub(super) struct Pipes {
    attached: Option<Pipe>,
    generation: u32,
    pub(super) pending: Option<Move>,
    /// Of the WebSocket; the data channel's is its watch's.
    pub(super) socket: Probe,
    /// Of the peer connection that there is, if any.
    pub(super) watch: Watch,
    pub(super) hold: Hold,
    /// Whether frames have gone over the peer connection that there is.
    pub(super) is_used: bool,
    /// Since when the peer connection is to be replaced, unless it speaks before that can be.
    pub(super) repair: Option<Instant>,
    pub(super) channel_since: Instant,
    pub(super) backoff: Backoff,
    /// Decides about delays.
    pub(super) random: Rng,
    /// Was silent at the last tick.
    pub(super) suspect: Option<Pipe>,
    pub(super) next_tick: Option<Instant>,
    pub(super) wishes: BTreeSet<Wish>,
    /// When the last frames came, over whichever.
    came: Instant,
    /// As measured last, on whatever pipe.
    last_rtt: Option<Duration>,
    latest: Option<Duration>,
    /// As at the last look: bytes that the channel had not had acknowledged, and bytes that it had.
    queued: u64,
    gone: u64,
}

impl Pipes {
    pub(super) fn new(now: Instant, seed: u64) -> Self {
        Self {
            attached: None,
            generation: 0,
            pending: None,
            socket: Probe::new(now),
            watch: Watch::new(now),
            hold: Hold::default(),
            is_used: false,
            repair: None,
            channel_since: now,
            backoff: Backoff::new(PEER_LEAST, PEER_FIRST, PEER_MOST),
            random: Rng::stream(seed, 40),
            suspect: None,
            next_tick: None,
            wishes: BTreeSet::new(),
            came: now,
            last_rtt: None,
            latest: None,
            queued: 0,
            gone: 0,
        }
    }

    pub(super) fn attached(&self) -> Option<Pipe> {
        self.attached
    }

    pub(super) fn came_at(&self) -> Instant {
        self.came
    }

    pub(super) fn probe(&self, pipe: Pipe) -> &Probe {
        match pipe {
            Pipe::Socket => &self.socket,
            Pipe::Channel => &self.watch.probe,
        }
    }

    pub(super) fn probe_mut(&mut self, pipe: Pipe) -> &mut Probe {
        match pipe {
            Pipe::Socket => &mut self.socket,
            Pipe::Channel => &mut self.watch.probe,
        }
    }

    /// The last round trip of a PING, on whichever pipe, as it was.
    pub(super) fn round_trip(&self) -> Option<Duration> {
        self.latest
    }

    /// The same, smoothed.
    pub(super) fn last_rtt(&self) -> Option<Duration> {
        self.last_rtt
    }

    /// The way to the server is as long as it was in the session before.
    pub(super) fn keep_round_trip(&mut self, before: &Self) {
        (self.last_rtt, self.latest) = (before.last_rtt, before.latest);
        self.random = before.random.clone();
    }

    /// Where frames go, or are to go when the server has agreed.
    pub(super) fn aim(&self) -> Option<Pipe> {
        self.pending.map(|pending| pending.to).or(self.attached)
    }

    /// Whether nothing has come over a pipe since a PING that long ago.
    pub(super) fn is_silent(&self, pipe: Pipe, now: Instant, span: Duration) -> bool {
        self.probe(pipe).is_silent(now, span)
    }

    /// The first join has attached the WebSocket as generation 1.
    pub(super) fn first(&mut self, now: Instant) {
        self.generation = 1;
        self.confirm(now, Pipe::Socket);
    }

    /// A move to this pipe begins; the generation goes into the ATTACH.
    pub(super) fn begin(&mut self, now: Instant, to: Pipe) -> u32 {
        self.generation += 1;
        self.pending = Some(Move { to, generation: self.generation, since: now });
        self.probe_mut(to).wake(now);
        if to == Pipe::Channel {
            self.is_used = true;
            self.watch.take_in_use(now);
        }
        self.generation
    }

    /// ATTACHED came on this pipe: whether that was the move under way.
    pub(super) fn confirmed(&mut self, now: Instant, pipe: Pipe, generation: u32) -> bool {
        let pending = self.pending.take_if(|pending| pending.to == pipe && pending.generation == generation);
        if pending.is_some() {
            self.confirm(now, pipe);
        }
        pending.is_some()
    }

    fn confirm(&mut self, now: Instant, pipe: Pipe) {
        self.attached = Some(pipe);
        self.pending = None;
        if pipe == Pipe::Channel {
            self.channel_since = now;
            self.repair = None;
        }
    }

    /// The pipe is not to be used any more. Whether it was, or was to be.
    pub(super) fn forget(&mut self, pipe: Pipe) -> bool {
        let was_pending = self.pending.take_if(|pending| pending.to == pipe).is_some();
        let was_attached = self.attached.take_if(|attached| *attached == pipe).is_some();
        was_pending || was_attached
    }

    /// There is another peer connection, or none.
    pub(super) fn renew_channel(&mut self, now: Instant) {
        self.watch = Watch::new(now);
        (self.is_used, self.repair) = (false, None);
        (self.queued, self.gone) = (0, 0);
    }

    /// Anything came over a pipe.
    pub(super) fn heard(&mut self, now: Instant, pipe: Pipe, is_ordered: bool) {
        self.came = now;
        match pipe {
            Pipe::Socket => self.socket.heard(now),
            Pipe::Channel => self.watch.heard(now, is_ordered),
        }
    }

    /// Nobody listened until now, so that silence begins now.
    pub(super) fn wake(&mut self, now: Instant) {
        self.socket.wake(now);
        self.watch.probe.wake(now);
        self.watch.acquit(now);
        if let Some(pending) = &mut self.pending {
            pending.since = now;
        }
    }

    /// A PING was answered. Whether the data channel is proven by that.
    pub(super) fn pong(&mut self, now: Instant, pipe: Pipe, nonce: u32) -> bool {
        let is_proof = match pipe {
            Pipe::Socket => {
                self.socket.pong(nonce, now);
                false
            }
            Pipe::Channel => self.watch.pong(nonce, now),
        };
        let probe = self.probe(pipe);
        if let Some(rtt) = probe.rtt() {
            (self.last_rtt, self.latest) = (Some(rtt), Some(probe.latest()));
        }
        is_proof
    }

    /// What the channel has not had acknowledged, of how much it was given: whether a long queue has become shorter since
    /// the last look, for then SCTP hears what the page does not.
    pub(super) fn is_draining(&mut self, queued: u64, given: u64) -> bool {
        /// A queue so long is not passed to the network at once.
        const QUEUE_BYTES: u64 = 4_096;
        let gone = given.saturating_sub(queued);
        let is_draining = self.queued > QUEUE_BYTES && gone > self.gone;
        (self.queued, self.gone) = (queued, gone);
        is_draining
    }
}
