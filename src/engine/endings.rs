//! What is due, and how peers, pipes and sessions end.

use std::time::{Duration, Instant};

use bytes::BytesMut;
use switchyard_signaling::{Code, message::ServerText};

use super::{Shard, session::Via};
use crate::room::Action;

/// A peer connection has had a fair chance after this part of the time that it has to open.
const FAIR: u32 = 3;

impl Shard {
    pub(super) fn session_due(&mut self, slot: u32, now: Instant) {
        let grace = Duration::from_millis(self.config.sessions.announced.resume_grace_ms);
        let Some(entry) = self.entry(slot) else { return };
        if entry.session.alone_since.is_some_and(|since| since + grace <= now) {
            return self.end_session(slot, Code::Timeout, Code::Timeout, now);
        }
        if entry.session.channel_is_silent(now) {
            self.leave_channel(slot, now);
        }
        self.doubt_channel(slot, now);
        if let Some(entry) = self.entry(slot) {
            entry.session.handle_timeout(now);
        }
        // Scheduled again when the pipe has been filled.
        self.mark_session(slot);
    }

    /// Asks the client over the WebSocket, if the data channel has been silent for long enough.
    fn doubt_channel(&mut self, slot: u32, now: Instant) {
        let Some(entry) = self.sessions.get_mut(slot as usize).and_then(Option::as_mut) else { return };
        let Some((_, outbox)) = &entry.socket else { return };
        let heard = entry.peer.and_then(|peer| self.peers.heard(peer));
        if heard.and_then(|heard| entry.session.doubt_at(heard)).is_none_or(|due| due > now) {
            return;
        }
        let mut question = BytesMut::new();
        entry.session.ask(now, &mut question);
        if outbox.room() >= question.len() {
            outbox.push_frames(&[&question], false);
        }
    }

    pub(super) fn peer_due(&mut self, peer: u32, now: Instant) {
        if self.peers.is_expired(peer, now) {
            return self.peer_lost(peer, true, now);
        }
        if let Some(entry) = self.peers.get(peer)
            && let Err(error) = entry.peer.handle_timeout(now)
        {
            tracing::debug!(%error, "the engine's timers");
        }
        self.mark_peer(peer);
    }

    /// The peer is gone: by the client's will, by timeout, by failure.
    pub(super) fn peer_lost(&mut self, peer: u32, expired: bool, now: Instant) {
        let Some(entry) = self.peers.get(peer) else { return };
        let (slot, was_open, outcome) = (entry.session, entry.is_open, entry.outcome(expired));
        let (pc, took) = (entry.pc, entry.age(now));
        tracing::debug!(peer, session = slot, ?outcome, "ended");
        self.note(outcome);
        self.note_failure(slot, pc, outcome, took, now);
        self.drop_peer(slot, now);
        if was_open && let Some(entry) = self.entry(slot) {
            entry.text(&ServerText::Renegotiate { wanted: vec!["data".to_owned()], reason: Code::PipeLost });
        }
    }

    /// The client goes on without its peer connection or with another, or goes altogether. If that has come to nothing in a
    /// fair time the client has given it up, most likely before the deadline here.
    pub(super) fn note_given_up(&mut self, slot: u32, now: Instant) {
        let Some(peer) = self.entry(slot).and_then(|entry| entry.peer) else { return };
        let Some(entry) = self.peers.get(peer) else { return };
        let (pc, outcome, took) = (entry.pc, entry.outcome(true), entry.age(now));
        if entry.is_open || took < self.config.timeouts.handshake / FAIR {
            return;
        }
        self.note(outcome);
        self.note_failure(slot, pc, outcome, took, now);
    }

    pub(super) fn drop_peer(&mut self, slot: u32, now: Instant) {
        let Some(peer) = self.entry(slot).and_then(|entry| entry.peer.take()) else {
            return;
        };
        if let Some((pc, seen)) = self.peers.get(peer).map(|entry| (entry.pc, entry.seen()))
            && let Some(entry) = self.entry(slot)
        {
            entry.over.note(pc, seen);
        }
        self.peers.remove(peer, &mut self.transmits);
        if self.entry(slot).is_some_and(|entry| entry.session.attached == Via::Channel) {
            self.leave_channel(slot, now);
        }
    }

    /// The data channel is dead: on over the WebSocket, or wait for the client.
    pub(super) fn leave_channel(&mut self, slot: u32, now: Instant) {
        let Some(entry) = self.entry(slot) else { return };
        if entry.socket.is_some() {
            entry.session.fall_back(Via::Socket);
        } else if entry.peer.is_none() && entry.is_going {
            return self.end_session(slot, Code::Left, Code::Bye, now);
        } else if entry.peer.is_none() {
            entry.session.attached = Via::Socket;
            entry.session.alone_since = entry.session.alone_since.or(Some(now));
            self.no_quality(slot, now);
        }
        self.mark_session(slot);
        self.schedule_session(slot, now);
    }

    pub(super) fn end_session(&mut self, slot: u32, told_others: Code, told_client: Code, now: Instant) {
        self.note_given_up(slot, now);
        let Some(mut entry) = self.sessions.get_mut(slot as usize).and_then(Option::take) else {
            return;
        };
        self.counts.sessions.add(entry.session.counts);
        let leave = || Action::Leave { reason: told_others, tell: false };
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
}
