//! How a browser comes by a peer connection, fills it, and gives it up.

use std::time::{Duration, Instant};

use switchyard_signaling::{frame, limits, message::Description};

use super::{Browser, Event, Pipe};
use crate::peer::{Channel, Peer, PeerError, PeerEvent};

/// A peer connection that has not opened by then is given up; a browser's ICE takes as long to fail.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

impl Browser {
    /// A new peer connection and its offer.
    pub(super) fn make_peer(&mut self, now: Instant) -> Option<Description> {
        let address = self.config.address?;
        // The server lets go of the old peer connection when the offer comes, with whatever is on its way there.
        let was_aim = self.pipes.forget(Pipe::Channel);
        self.pipes.renew_channel(now);
        self.given = 0;
        self.open = (false, false);
        if was_aim && self.pipes.pending.is_none() {
            self.fall_back(now);
        }
        self.peer_number += 1;
        self.open = (false, false);
        self.deadline = Some(now + CONNECT_TIMEOUT);
        self.retry = None;
        self.urgent_channel.clear();
        let relays = self.known_relays();
        match Peer::new(now, address) {
            Ok((peer, sdp)) => {
                if let Some(ladder) = &mut self.ladder {
                    ladder.begin(now, address, relays);
                }
                self.peer = Some(peer);
                Some(Description { pc: self.peer_number, sdp })
            }
            Err(error) => {
                self.violation(format!("peer connection: {error}"));
                None
            }
        }
    }

    /// Gives the peer connection up, goes on over the WebSocket, and tries another one later.
    pub(super) fn lose_peer(&mut self, now: Instant) {
        self.peer = None;
        if let Some(ladder) = &mut self.ladder {
            ladder.end(now);
        }
        self.deadline = None;
        self.open = (false, false);
        self.urgent_channel.clear();
        self.events.push_back(Event::PeerLost);
        self.leave(now, Pipe::Channel);
        self.pipes.renew_channel(now);
        let wait = self.pipes.backoff.next(self.pipes.random.unit());
        self.retry = Some(now + wait);
        self.begin_ticking(now);
    }

    /// Takes what the peer connection has, and gives it what it can send.
    pub(super) fn pump(&mut self, now: Instant) {
        self.take_arrivals(now);
        while let Some(event) = self.peer.as_mut().and_then(Peer::poll_event) {
            self.events.push_back(Event::Peer(event));
            match event {
                PeerEvent::Open(Channel::Reliable) => {
                    self.open.0 = true;
                    self.deadline = None;
                    if self.config.moves_by_itself {
                        self.pipes.watch.prove(now);
                    }
                }
                PeerEvent::Open(Channel::Lossy) => self.open.1 = true,
                PeerEvent::Failed if self.try_relays(now) => {}
                PeerEvent::Failed => self.lose_peer(now),
                PeerEvent::IceConnected => {
                    if let Some(ladder) = &mut self.ladder {
                        ladder.reached();
                    }
                }
                PeerEvent::DtlsConnected => {}
            }
        }
        if self.stalled {
            return;
        }
        while let Some((channel, message)) = self.peer.as_mut().and_then(Peer::poll_message) {
            self.take_frames(now, Pipe::Channel, message, channel == Channel::Reliable);
        }
        self.drive_logs(now);
        if self.receiver.poll_timeout().is_some_and(|at| at <= now)
            && let Some(pipe) = self.pipes.attached()
        {
            let ack = self.receiver.ack();
            frame::put_ack(self.urgent(pipe), ack);
            self.receiver.acknowledged();
        }
        // Sending may give the watch something to look at, and that has probes to send.
        for _ in 0..2 {
            if let Err(error) = self.pump_channel(now) {
                self.violation(format!("data channel: {error}"));
                self.lose_peer(now);
            }
            self.watch_channel(now);
            if self.urgent_channel.is_empty() {
                break;
            }
        }
    }

    fn pump_channel(&mut self, now: Instant) -> Result<(), PeerError> {
        while self.open.0
            && let Some(mut peer) = self.peer.take()
        {
            let mut message = std::mem::take(&mut self.urgent_channel);
            if self.pipes.attached() == Some(Pipe::Channel)
                && peer.outstanding_bytes(Channel::Reliable) < limits::PIPE_BYTES
            {
                self.fill(limits::CHANNEL_MESSAGE_BYTES, &mut message);
            }
            self.given += message.len() as u64;
            let sent = if message.is_empty() { Ok(()) } else { peer.send(now, Channel::Reliable, &message) };
            self.peer = Some(peer);
            sent?;
            if message.is_empty() {
                break;
            }
        }
        Ok(())
    }
}
