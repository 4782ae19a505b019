//! The way of a message through a shard: pipe → session → router → room → deliveries → sessions → pipes.

use std::time::Instant;

use bytes::{Bytes, BytesMut};
use switchyard_signaling::{
    Code,
    frame::{self, Out as _},
    limits,
};

use super::{
    CHANNEL_BATCH, LATENCIES, Shard,
    gather::Gather,
    outbox::Outbox,
    peer::{Channel, PeerEvent},
    peers::{self, Outcome},
    session::{Came, Event, Session, Via},
    timers::Timer,
};
use crate::{
    names::RoomPlace,
    room::{Action, Delivery, Lane, Receiver},
    router::{Arrival, Missed},
};

impl Shard {
    pub(super) fn session_message(&mut self, slot: u32, came: Came, message: Bytes, now: Instant) {
        let mut events = std::mem::take(&mut self.events);
        let Some(entry) = self.entry(slot) else { return };
        entry.session.handle_message(came, message, now, &mut events);
        let session = entry.session.id;
        for event in events.drain(..) {
            match event {
                Event::Act(place, action) => {
                    if !self.router.act(session, place, action, now)
                        && let Some(entry) = self.entry(slot)
                    {
                        entry.refuse(
                            None,
                            Code::Overloaded,
                            "the room's shard does not keep up; the message was dropped",
                        );
                    }
                    self.settle(now);
                }
                Event::Pong(nonce) => self.pong(slot, came, nonce, now),
                Event::Attached => {
                    if let Some(entry) = self.entry(slot) {
                        entry.session.alone_since = None;
                    }
                }
                Event::Problem(code, sentence) => {
                    let Some(entry) = self.entry(slot) else { break };
                    entry.refuse(None, code, &sentence);
                    // A late ATTACH is a race that honest clients lose now and then.
                    if code != Code::StaleAttach && entry.session.is_abusive(now) {
                        self.end_session(slot, Code::Removed, Code::Abuse, now);
                        break;
                    }
                }
            }
        }
        self.events = events;
        self.mark_session(slot);
    }

    /// Answers a probe where it came.
    fn pong(&mut self, slot: u32, came: Came, nonce: u32, now: Instant) {
        let mut pong = BytesMut::new();
        frame::put_pong(&mut pong, nonce);
        let Some(entry) = self.sessions.get_mut(slot as usize).and_then(Option::as_mut) else { return };
        let channel = if came == Came::Unordered { Channel::Lossy } else { Channel::Reliable };
        match (came, &entry.socket, entry.peer) {
            (Came::Socket, Some((_, outbox)), _) if outbox.room() >= pong.len() => {
                outbox.push_frames(&[&pong], false)
            }
            (Came::Ordered | Came::Unordered, _, Some(peer)) => {
                if let Some(entry) = self.peers.get(peer)
                    && entry.room(channel) >= pong.len()
                {
                    let _ = entry.peer.send(channel, pong, now);
                }
                self.mark_peer(peer);
            }
            _ => {}
        }
    }

    pub(super) fn read_peers(&mut self, now: Instant) {
        // Reading marks sessions, not peers; peers that are written to are marked when pipes are filled.
        for index in 0..self.dirty_peers.len() {
            let peer = self.dirty_peers[index];
            self.read_peer(peer, now);
        }
    }

    pub(super) fn read_peer(&mut self, peer: u32, now: Instant) {
        let _span = tracing::debug_span!("peer", id = peer).entered();
        while let Some(entry) = self.peers.get(peer) {
            let slot = entry.session;
            match entry.peer.poll_event() {
                Some(PeerEvent::Open) => {
                    entry.opened();
                    tracing::debug!(session = slot, "data channels open");
                    self.note(Outcome::Opened);
                    self.mark_session(slot);
                }
                Some(PeerEvent::Closed) => return self.peer_lost(peer, false, now),
                None => break,
            }
        }
        // Before what came with them ends the waiting.
        if let Some((slot, heard)) = self.peers.get(peer).map(|entry| (entry.session, entry.heard()))
            && let Some(entry) = self.entry(slot)
        {
            entry.session.heard(heard);
        }
        while let Some(entry) = self.peers.get(peer) {
            let slot = entry.session;
            let Some((channel, message)) = entry.peer.poll_message() else {
                break;
            };
            let came = if channel == Channel::Lossy { Came::Unordered } else { Came::Ordered };
            self.session_message(slot, came, message, now);
        }
        // Acknowledgements that came in may have made room in the channel; its session is asked first, for it knows at
        // once whether something waits.
        let Some(slot) = self.peers.get(peer).map(|peer| peer.session) else { return };
        let waits = self
            .entry(slot)
            .is_some_and(|entry| entry.session.attached == Via::Channel && entry.session.is_ready());
        if waits && self.peers.get(peer).is_some_and(|peer| peer.room(Channel::Reliable) > 0) {
            self.mark_session(slot);
        }
    }

    /// Brings what rooms say to the sessions of this shard. What that makes rooms say goes the same way: one loop, not
    /// a call within a call for each session that ends.
    pub(super) fn settle(&mut self, now: Instant) {
        if std::mem::replace(&mut self.is_settling, true) {
            return;
        }
        loop {
            if let Some(arrival) = self.router.poll_arrival() {
                self.take_arrival(arrival, now);
            } else if let Some(slot) = self.behind.pop() {
                self.counts.overflows += 1;
                self.end_session(slot, Code::Timeout, Code::Overloaded, now);
            } else {
                break;
            }
        }
        self.is_settling = false;
    }

    fn take_arrival(&mut self, arrival: Arrival, now: Instant) {
        match arrival {
            Arrival::Deliver(delivery) => self.deliver(&delivery),
            Arrival::Missed(missed) => self.missed(&missed),
            Arrival::Admitted(receiver, place) => self.admitted(receiver, place, now),
            Arrival::Dismissed(receiver) => {
                if let Some(entry) = self.session(receiver.session) {
                    entry.session.dismissed(receiver.handle);
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
            let leave = Action::Leave { reason: Code::Timeout, tell: false };
            self.router.act(receiver.session, place, leave, now);
        } else if let Some(seen) = self.session(receiver.session).and_then(|entry| entry.quality) {
            self.router.act(receiver.session, place, Action::Quality(seen), now);
        }
    }

    fn missed(&mut self, missed: &Missed) {
        for receiver in missed.receivers.iter().filter(|receiver| Some(receiver.session) != missed.except) {
            if receiver.session.shard == self.config.shard
                && let Some(entry) = self.session(receiver.session)
            {
                entry.session.miss(receiver.handle, missed.sender, missed.stream, missed.count);
                self.mark_session(receiver.session.slot);
            }
        }
    }

    fn deliver(&mut self, delivery: &Delivery) {
        let Delivery { receivers, except, lane, message } = delivery;
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
                        self.behind.push(session.slot);
                    }
                }
                Lane::Lossy { seq } => entry.session.push_lossy(receiver.handle, *seq, message),
            }
            if !entry.is_dirty {
                entry.is_dirty = true;
                self.dirty_sessions.push(session.slot);
            }
        }
    }

    pub(super) fn fill_pipe(&mut self, slot: u32, now: Instant) {
        let Some(Some(entry)) = self.sessions.get_mut(slot as usize) else {
            return;
        };
        entry.is_dirty = false;
        let gaps = entry.session.gaps();
        match (entry.session.attached, &entry.socket, entry.peer) {
            (Via::Socket, Some((_, outbox)), _) => {
                fill_socket(&mut entry.session, outbox, now, &mut self.gather);
            }
            (Via::Channel, socket, Some(peer)) => {
                if let Some(peer_entry) = self.peers.get(peer) {
                    fill_channels(&mut entry.session, peer_entry, now, &mut self.buffer);
                }
                if let (Some((_, outbox)), Some(heard)) = (socket, self.peers.heard(peer)) {
                    fill_copies(&mut entry.session, outbox, (heard, now), &mut self.gather);
                }
                self.mark_peer(peer);
            }
            _ => {}
        }
        self.after_fill(slot, gaps, now);
    }

    fn after_fill(&mut self, slot: u32, gaps: u64, now: Instant) {
        if let Some(entry) = self.entry(slot) {
            let more = entry.session.gaps() - gaps;
            let sample = entry.session.take_sample();
            self.counts.gaps += more;
            if self.latencies.len() < LATENCIES {
                self.latencies.extend(sample);
            }
        }
        self.schedule_session(slot, now);
    }

    pub(super) fn write_peers(&mut self, now: Instant) {
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
}

fn fill_socket(session: &mut Session, outbox: &Outbox, now: Instant, message: &mut Gather) {
    let room = outbox.room();
    session.fill((room, room), now, message);
    let left = room.saturating_sub(message.len());
    session.fill_lossy((room, left), message.buffer());
    let starved = session.is_ready();
    if !message.is_empty() {
        message.with_parts(|parts| outbox.push_frames(parts, starved));
        message.clear();
    } else if starved {
        outbox.set_starved();
    }
}

/// The WebSocket beside a data channel that is doubted.
fn fill_copies(
    session: &mut Session,
    outbox: &Outbox,
    (heard, now): (Instant, Instant),
    message: &mut Gather,
) {
    let waits = session.fill_copies(heard, now, outbox.room(), message);
    if !message.is_empty() {
        message.with_parts(|parts| outbox.push_frames(parts, waits));
        message.clear();
    } else if waits {
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
