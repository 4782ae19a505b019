//! The peer connection of a simulated browser, and nothing above it.

use std::{net::SocketAddr, task::Context, time::Instant};

use anyhow::{Context as _, bail};
use switchyard_loadtest::peer::{Channel, Peer, PeerEvent};

use super::{Burst, Client, Lane, number, payload};
use crate::{
    arm::{Answer, Arm, Offer},
    udp::{ReceiveBuffer, Udp},
};

const RECEIVES: usize = 4;

/// See the module.
pub(crate) struct Bare {
    peer: Peer,
    udp: Udp,
    open: (bool, bool),
    sent: [u32; 2],
    received: u64,
    last: u32,
    due: Option<Instant>,
    has_work: bool,
}

impl Bare {
    /// Exchanges descriptions; ready when both channels are open.
    pub(crate) fn connect(arm: &mut Arm, group: usize) -> anyhow::Result<Self> {
        let udp = Udp::bind()?;
        let now = Instant::now();
        let (mut peer, sdp) = Peer::new(now, udp.local)?;
        let answer: Answer = arm.ask(&Offer { group, sdp })?;
        peer.handle_answer(now, &answer.sdp)?;
        Ok(Self {
            peer,
            udp,
            open: (false, false),
            sent: [0; 2],
            received: 0,
            last: 0,
            due: None,
            has_work: true,
        })
    }
}

impl Client for Bare {
    fn turn(&mut self, cx: &mut Context<'_>, receive: &mut ReceiveBuffer) -> anyhow::Result<()> {
        let mut has_work = std::mem::take(&mut self.has_work);
        for _ in 0..RECEIVES {
            if self.udp.poll_readable(cx).is_pending() {
                break;
            }
            let now = Instant::now();
            let peer = &mut self.peer;
            has_work |= self.udp.receive(receive, |from: SocketAddr, datagram| {
                peer.handle_datagram(now, from, datagram);
            }) > 0;
        }
        if self.due.is_some_and(|due| due <= Instant::now()) {
            self.peer.handle_timeout(Instant::now());
            has_work = true;
        }
        if !has_work {
            return Ok(());
        }
        while let Some(event) = self.peer.poll_event() {
            match event {
                PeerEvent::Open(Channel::Reliable) => self.open.0 = true,
                PeerEvent::Open(Channel::Lossy) => self.open.1 = true,
                PeerEvent::Failed => bail!("a peer connection failed"),
                PeerEvent::IceConnected | PeerEvent::DtlsConnected => {}
            }
        }
        while let Some((channel, message)) = self.peer.poll_message() {
            self.received += 1;
            if channel == Channel::Reliable {
                let number = number(&message);
                if number != self.last + 1 {
                    bail!("message {number} came after {}", self.last);
                }
                self.last = number;
            }
        }
        while let Some(datagram) = self.peer.poll_datagram() {
            let _ = self.udp.send(datagram.to, datagram.payload.len(), &datagram.payload);
        }
        self.due = self.peer.poll_timeout();
        Ok(())
    }

    fn due(&self) -> Option<Instant> {
        self.due
    }

    fn is_ready(&self) -> bool {
        self.open == (true, true)
    }

    fn send(&mut self, burst: Burst) -> anyhow::Result<()> {
        let now = Instant::now();
        let channel = match burst.lane {
            Lane::Reliable => Channel::Reliable,
            Lane::Lossy => Channel::Lossy,
        };
        for _ in 0..burst.count {
            let sent = &mut self.sent[usize::from(burst.lane == Lane::Lossy)];
            *sent += 1;
            let message = payload(*sent, burst.size);
            self.peer.send(now, channel, &message).context("sending")?;
        }
        self.has_work = true;
        Ok(())
    }

    fn received(&self) -> u64 {
        self.received
    }

    fn expects(&self, burst: Burst) -> u64 {
        burst.count as u64
    }
}
