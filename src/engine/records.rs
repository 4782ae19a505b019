//! Attempts to connect: what a client tells of one, with what this shard has seen of it; and peer connections that never
//! came to anything. `src/attempts.rs` keeps the records.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use switchyard_signaling::{
    Code,
    attempt::{Attempt, By, Rung, Verdict},
};

use super::{Entry, Shard, path::Path, peers::Outcome, session::Via};
use crate::attempts::{Record, Seen, Teller};

/// Attempts that a client may tell of at once, and how often one more.
const TOLD: f64 = 20.0;
const TOLD_PER_SECOND: f64 = 20.0 / 60.0;
/// Peer connections of a session that are over, and remembered for when the client tells of them.
const OVER: usize = 4;

/// The session's peer connections that are over, oldest first: their numbers, and what was seen of them.
#[derive(Debug, Default)]
pub(super) struct Over(VecDeque<(u32, Seen)>);

impl Over {
    pub(super) fn note(&mut self, pc: u32, seen: Seen) {
        self.0.retain(|(known, _)| *known != pc);
        if self.0.len() >= OVER {
            self.0.pop_front();
        }
        self.0.push_back((pc, seen));
    }

    fn of(&self, pc: u32) -> Option<Seen> {
        self.0.iter().find(|(known, _)| *known == pc).map(|(_, seen)| *seen)
    }
}

impl Shard {
    /// The next record of an attempt to connect.
    pub fn poll_record(&mut self) -> Option<Record> {
        self.records.pop_front()
    }

    /// A client tells of an attempt. What comes too often is only counted.
    pub(super) fn told_of(&mut self, slot: u32, attempt: Attempt, now: Instant) {
        let Some(entry) = self.entry(slot) else { return };
        if entry.session.take_attempt(TOLD_PER_SECOND, TOLD, now).is_err() {
            return self.router.refused(Code::RateLimited);
        }
        let seen = attempt.pc.filter(|_| attempt.by == By::WebRtc).map(|pc| self.seen(slot, pc));
        self.record(slot, Teller::Client, seen, attempt, now);
    }

    /// A peer connection has come to nothing.
    pub(super) fn note_failure(
        &mut self,
        slot: u32,
        pc: u32,
        outcome: Outcome,
        took: Duration,
        now: Instant,
    ) {
        let (verdict, sentence) = match outcome {
            Outcome::IceTimeout => (
                Verdict::NoPath,
                "The offer was answered, and no check of the client has reached the server.",
            ),
            Outcome::HandshakeTimeout => (
                Verdict::DtlsFailed,
                "Checks of the client have reached the server, and no data channel was opened in time.",
            ),
            Outcome::HandshakeFailed => (
                Verdict::ChannelFailed,
                "The client, or a failure, has ended the handshake before a data channel was open.",
            ),
            Outcome::BadOffer => (Verdict::WebrtcRefused, "The offer could not be used."),
            _ => return,
        };
        let took = took.as_millis() as u64;
        let attempt = Attempt {
            n: 0,
            by: By::WebRtc,
            verdict,
            sentence: sentence.to_owned(),
            began: self.config.logs.clock.unix_ms(now).saturating_sub(took),
            connected_ms: None,
            ended_ms: Some(took),
            cause: None,
            rung: None,
            pc: Some(pc),
            details: None,
        };
        let seen = Some(self.seen(slot, pc));
        self.record(slot, Teller::Server, seen, attempt, now);
    }

    fn record(&mut self, slot: u32, told_by: Teller, seen: Option<Seen>, attempt: Attempt, now: Instant) {
        let Some(entry) = self.sessions.get(slot as usize).and_then(Option::as_ref) else { return };
        let session = &entry.session;
        self.records.push_back(Record {
            at: self.config.logs.clock.unix_ms(now),
            told_by,
            session: session.id,
            tenant: session.tenant.clone(),
            user: session.user.clone(),
            rooms: session.rooms().cloned().collect(),
            now_on: self.rung_of(entry),
            seen,
            attempt,
        });
    }

    /// What this shard has seen of the session's peer connection with this number.
    fn seen(&mut self, slot: u32, pc: u32) -> Seen {
        let Some(entry) = self.sessions.get(slot as usize).and_then(Option::as_ref) else {
            return Seen::Nothing;
        };
        let peer = entry.peer.and_then(|peer| self.peers.get(peer)).filter(|peer| peer.pc == pc);
        peer.map(|peer| peer.seen()).or_else(|| entry.over.of(pc)).unwrap_or(Seen::Nothing)
    }

    /// What the session is on; `None` without a pipe.
    pub(super) fn rung_of(&self, entry: &Entry) -> Option<Rung> {
        let path = entry.peer.filter(|_| entry.session.attached == Via::Channel);
        match path.and_then(|peer| self.peers.current_path(peer)) {
            Some(Path::Udp(_)) => Some(Rung::Udp),
            Some(Path::Tcp(_)) => Some(Rung::Tcp),
            Some(Path::Relay(_)) => Some(Rung::Relay),
            None if entry.session.alone_since.is_some() || entry.socket.is_none() => None,
            None => Some(Rung::WebSocket),
        }
    }
}
