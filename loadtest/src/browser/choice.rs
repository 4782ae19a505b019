//! The decision which of its pipes a browser uses, as `client/src/link.js` takes it: what a look at the data channel, a tick
//! or the end of a pipe leads to.
//!
//! Where the browser client repairs a peer connection by an ICE restart, this one makes a new peer connection in its
//! place, and only if the old one is silent still when there is a WebSocket to offer over.

use std::time::{Duration, Instant};

use switchyard_signaling::{frame, message::ClientText, message::to_json};

use super::{
    Browser, Fault, Pipe,
    pipes::Wish,
    rules::watch::{Finding, Ping},
};
use crate::peer::Channel;

const TICK: Duration = Duration::from_millis(250);
const PING: Duration = Duration::from_secs(2);
const PING_WAITING: Duration = Duration::from_millis(500);
/// A data channel silent for so long is left for the WebSocket, where one is at hand.
const CHANNEL_SILENT: Duration = Duration::from_secs(3);
/// A WebSocket silent for so long is closed and opened anew.
const SOCKET_SILENT: Duration = Duration::from_secs(6);
/// A pipe on which frames wait for acknowledgement is stalled after this and four round trips.
const STALLED: Duration = Duration::from_millis(1_200);
const ATTACH: Duration = Duration::from_secs(4);
/// How long a repair may take before the peer connection is given up.
const REPAIR: Duration = Duration::from_secs(16);
/// A data channel that has served for so long had a good network: the next try may come soon.
const PEER_GOOD: Duration = Duration::from_secs(30);
/// Unordered bytes on their way beyond which no probe is added to them.
const QUEUE_BYTES: usize = 4_096;

impl Browser {
    /// Moves to this pipe now, if it is there.
    pub fn attach(&mut self, now: Instant, pipe: Pipe) {
        if self.session.is_none() || self.stalled || !self.has(pipe) {
            return;
        }
        let generation = self.pipes.begin(now, pipe);
        let (ack, nonce) = (self.receiver.ack(), self.pipes.probe_mut(pipe).ping(now));
        let urgent = self.urgent(pipe);
        frame::put_attach(urgent, generation, ack);
        frame::put_ping(urgent, nonce);
    }

    fn has(&self, pipe: Pipe) -> bool {
        match pipe {
            Pipe::Socket => self.socket.welcomed,
            Pipe::Channel => self.open.0,
        }
    }

    /// What a browser wants of its WebSockets, one after the other.
    pub fn poll_wish(&mut self) -> Option<Wish> {
        self.pipes.wishes.pop_first()
    }

    /// The network is said to be back, or another one.
    pub fn hurry(&mut self, now: Instant) {
        self.pipes.wishes.insert(Wish::Hurry);
        if self.socket.welcomed && self.pipes.is_silent(Pipe::Socket, now, STALLED) {
            self.pipes.wishes.insert(Wish::Beside);
        }
        self.pipes.watch.hint(now);
    }

    // ---- the data channel

    /// Looks whether the data channel still works, and does what follows.
    pub(super) fn watch_channel(&mut self, now: Instant) {
        let (mut queued, mut lossy) = (0, 0);
        if let Some(peer) = &mut self.peer {
            (queued, lossy) =
                (peer.outstanding_bytes(Channel::Reliable), peer.outstanding_bytes(Channel::Lossy));
        }
        if self.pipes.is_draining(queued as u64, self.given) {
            self.pipes.watch.heard(now, false);
        }
        let is_aim = self.pipes.pending.is_some_and(|pending| pending.to == Pipe::Channel);
        let awaits = self.sender.unacknowledged() > 0 || is_aim || lossy > 0;
        let mut pings = Vec::new();
        let finding = self.pipes.watch.look(now, awaits, &mut self.pipes.hold, &mut pings);
        for ping in pings {
            self.send_ping(now, ping, lossy);
        }
        match finding {
            None => {}
            Some(Finding::Proven) => self.attach(now, Pipe::Channel),
            Some(Finding::Doubted) => self.sender.copy_anew(),
            Some(Finding::Suspected) => self.suspected(now),
            Some(Finding::Dead) => self.peer_troubled(now),
        }
    }

    fn send_ping(&mut self, now: Instant, ping: Ping, lossy: usize) {
        let nonce = match ping {
            Ping::Unordered(nonce) if self.open.1 && lossy <= QUEUE_BYTES => {
                let mut message = bytes::BytesMut::new();
                frame::put_ping(&mut message, nonce);
                if let Some(peer) = &mut self.peer {
                    // A channel on its way down says so itself.
                    let _ = peer.send(now, Channel::Lossy, &message);
                }
                return;
            }
            Ping::Unordered(_) if self.open.1 => return,
            Ping::Ordered(nonce) | Ping::Unordered(nonce) => nonce,
        };
        frame::put_ping(&mut self.urgent_channel, nonce);
    }

    /// The data goes elsewhere, if there is elsewhere; the channel may prove itself meanwhile.
    pub(super) fn suspected(&mut self, now: Instant) {
        if self.pipes.aim() != Some(Pipe::Channel) && self.pipes.attached() != Some(Pipe::Channel)
            || self.pipes.pending.is_some_and(|pending| pending.to == Pipe::Socket)
        {
            return;
        }
        if self.socket.welcomed && self.session.is_some() && self.config.fault != Some(Fault::Trusts) {
            self.pipes.watch.leave(now, &mut self.pipes.hold);
            self.attach(now, Pipe::Socket);
        } else {
            self.hurry(now);
        }
    }

    /// Something came over a channel on trial: it need not prove itself where the other pipe is worse.
    pub(super) fn heard_on_trial(&mut self, now: Instant) {
        if self.pipes.watch.on_trial()
            && self
                .pipes
                .aim()
                .is_none_or(|aim| aim != Pipe::Channel && self.pipes.is_silent(aim, now, STALLED))
        {
            self.attach(now, Pipe::Channel);
        }
    }

    /// Packets have stayed away for long.
    fn peer_troubled(&mut self, now: Instant) {
        if !self.pipes.is_used && self.pipes.repair.is_none() {
            if !self.try_relays(now) {
                self.lose_peer(now);
            }
            return;
        }
        self.pipes.repair.get_or_insert(now);
        self.leave(now, Pipe::Channel);
        self.repair(now);
    }

    /// Replaces a peer connection in trouble, if there is somebody to offer to.
    pub(super) fn repair(&mut self, now: Instant) {
        if self.pipes.repair.is_some() && self.socket.welcomed && self.session.is_some() {
            self.pipes.repair = None;
            self.offer(now);
        }
    }

    /// Something came over the channel: what was to be repaired works.
    pub(super) fn repaired(&mut self) {
        self.pipes.repair = None;
    }

    // ---- pipes that end

    /// The pipe is not to be used any more.
    pub(super) fn leave(&mut self, now: Instant, pipe: Pipe) {
        if pipe == Pipe::Channel {
            self.pipes.watch.leave(now, &mut self.pipes.hold);
            let is_good = now.saturating_duration_since(self.pipes.channel_since) > PEER_GOOD;
            if self.pipes.attached() == Some(pipe) && is_good {
                self.pipes.backoff.reset();
            }
        }
        // Also when the pipe before is in use still: the server may have taken the ATTACH and moved.
        if self.pipes.forget(pipe) && self.pipes.pending.is_none() {
            self.fall_back(now);
        }
    }

    /// To whatever is left.
    pub(super) fn fall_back(&mut self, now: Instant) {
        if self.socket.welcomed {
            self.attach(now, Pipe::Socket);
        } else if self.open.0 && self.pipes.repair.is_none() && self.pipes.attached() != Some(Pipe::Channel) {
            self.attach(now, Pipe::Channel);
        }
    }

    // ---- time

    /// Does what is due four times a second while there is a session.
    pub(super) fn tick(&mut self, now: Instant) {
        if self.pipes.next_tick.is_none_or(|at| at > now) {
            return;
        }
        self.pipes.next_tick = Some(now + TICK);
        self.tick_pipe(now);
        self.tick_socket(now);
        self.tick_peer(now);
        let is_late = |since: Instant| now.saturating_duration_since(since) > ATTACH;
        match self.pipes.pending.filter(|pending| is_late(pending.since)).map(|pending| pending.to) {
            Some(Pipe::Channel) => self.lose_peer(now),
            Some(Pipe::Socket) => self.renew_socket(),
            None => {}
        }
    }

    /// Ticks from now on.
    pub(super) fn begin_ticking(&mut self, now: Instant) {
        self.pipes.next_tick.get_or_insert(now + TICK);
    }

    fn renew_socket(&mut self) {
        self.pipes.wishes.insert(Wish::Renew);
    }

    fn tick_pipe(&mut self, now: Instant) {
        let Some(pipe) = self.pipes.aim() else { return };
        let is_awaited = self.sender.unacknowledged() > 0 || self.pipes.pending.is_some();
        let interval = if is_awaited { PING_WAITING } else { PING };
        if self.has(pipe) && self.pipes.probe(pipe).is_due(now, interval) {
            let nonce = self.pipes.probe_mut(pipe).ping(now);
            frame::put_ping(self.urgent(pipe), nonce);
        }
        let span = if pipe == Pipe::Channel { CHANNEL_SILENT } else { SOCKET_SILENT };
        let is_silent = self.pipes.is_silent(pipe, now, span);
        // Twice in a row: after a busy moment a tick may come before the messages that are already here.
        if is_silent && self.pipes.suspect == Some(pipe) {
            match pipe {
                Pipe::Channel => self.peer_troubled(now),
                Pipe::Socket => self.renew_socket(),
            }
        }
        self.pipes.suspect = is_silent.then_some(pipe);
        let patience = STALLED + 4 * self.pipes.last_rtt().unwrap_or(STALLED);
        if !is_awaited || self.session.is_none() || !self.pipes.is_silent(pipe, now, patience) {
            return;
        }
        match pipe {
            Pipe::Socket => _ = self.pipes.wishes.insert(Wish::Beside),
            // The unordered channel may work while the ordered one waits for its next retry.
            Pipe::Channel if self.socket.welcomed => self.suspected(now),
            Pipe::Channel => {}
        }
    }

    /// A WebSocket that frames do not go over.
    fn tick_socket(&mut self, now: Instant) {
        let Some(interval) = self.socket.ping_interval.filter(|_| self.socket.welcomed) else { return };
        if self.pipes.attached() == Some(Pipe::Socket) {
            return;
        }
        if self.socket.next_ping.is_none_or(|at| at <= now) {
            self.socket.next_ping = Some(now + interval);
            self.socket.texts.push_back(to_json(&ClientText::Ping { t: 0 }));
        }
        if now.saturating_duration_since(self.pipes.socket.heard_at()) > 2 * interval {
            self.renew_socket();
        }
    }

    fn tick_peer(&mut self, now: Instant) {
        let is_over = |since: Instant| now.saturating_duration_since(since) > REPAIR;
        if self.pipes.repair.is_some_and(is_over)
            || (!self.pipes.is_used && self.deadline.is_some_and(|at| at <= now))
        {
            self.lose_peer(now);
        }
        if self.retry.is_some_and(|at| at <= now) {
            self.retry = None;
            self.offer(now);
        }
    }
}
