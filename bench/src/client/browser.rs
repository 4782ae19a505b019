//! A browser of the load test on real sockets: WebSocket, and peer connection if it is to have one.

use std::{
    task::{Context, Poll},
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, bail};
use switchyard_loadtest::{
    browser::{self, BrowserConfig, Event, Outgoing, Pipe, SocketOutput},
    token,
};
use switchyard_signaling::{frame::Target, message::ServerControl};
use tokio_tungstenite::tungstenite::Message;

use super::{Burst, Client, Lane, Socket, number, payload};
use crate::{
    arm::{KEY, SECRET},
    udp::{ReceiveBuffer, Udp},
};

/// Receive calls in one turn.
const RECEIVES: usize = 4;
/// While another arm is measured nobody listens here; after so long the silence must not be blamed on the server.
const AWAY: Duration = Duration::from_millis(500);

/// See the module.
pub(crate) struct Browser {
    browser: browser::Browser,
    udp: Option<Udp>,
    socket: Socket,
    room: Option<u16>,
    sent: [u32; 2],
    received: u64,
    /// The number of the last message, reliable.
    last: u32,
    due: Option<Instant>,
    has_sent: bool,
    turned: Instant,
}

impl Browser {
    /// Connects and asks to join; ready when it has, over the data channel if `channel`.
    pub(crate) async fn connect(port: u16, room: &str, user: &str, channel: bool) -> anyhow::Result<Self> {
        let socket = Socket::connect(port).await?;
        let udp = if channel { Some(Udp::bind()?) } else { None };
        let now = Instant::now();
        let mut browser = browser::Browser::new(
            now,
            BrowserConfig { address: udp.as_ref().map(|udp| udp.local), ..BrowserConfig::default() },
        );
        browser.handle_socket_open(now);
        browser.join(now, room, &token::mint(KEY, SECRET, room, user, SystemTime::now()));
        Ok(Self {
            browser,
            udp,
            socket,
            room: None,
            sent: [0; 2],
            received: 0,
            last: 0,
            due: None,
            has_sent: true,
            turned: now,
        })
    }

    fn read(&mut self, cx: &mut Context<'_>, receive: &mut ReceiveBuffer) -> anyhow::Result<bool> {
        let mut has_read = false;
        if let Some(udp) = &self.udp {
            for _ in 0..RECEIVES {
                if udp.poll_readable(cx).is_pending() {
                    break;
                }
                let now = Instant::now();
                let browser = &mut self.browser;
                has_read |= udp.receive(receive, |from, datagram| {
                    browser.handle_datagram(now, from, datagram);
                }) > 0;
            }
        }
        while let Poll::Ready(message) = self.socket.poll_read(cx) {
            has_read = true;
            let now = Instant::now();
            match message? {
                Message::Text(text) => self.browser.handle_text(now, text.as_str()),
                Message::Binary(message) => self.browser.handle_binary(now, message),
                Message::Close(frame) => bail!("the WebSocket was closed: {frame:?}"),
                _ => {}
            }
        }
        Ok(has_read)
    }

    fn write(&mut self, cx: &mut Context<'_>) -> anyhow::Result<()> {
        while let Some(datagram) = self.browser.poll_datagram() {
            if let Some(udp) = &self.udp {
                let _ = udp.send(datagram.to, datagram.payload.len(), &datagram.payload);
            }
        }
        let browser = &mut self.browser;
        self.socket.write(cx, || browser.poll_socket().map(message))
    }

    fn listen(&mut self) -> anyhow::Result<()> {
        while let Some(event) = self.browser.poll_event() {
            match event {
                Event::Message(message) => {
                    self.received += 1;
                    if message.lane == browser::Lane::Reliable {
                        let number = number(&message.payload);
                        if number != self.last + 1 {
                            bail!("message {number} came after {}", self.last);
                        }
                        self.last = number;
                    }
                }
                Event::Control(handle, ServerControl::Joined { .. }) => self.room = Some(handle),
                Event::Control(_, ServerControl::Refused { code, message, .. }) => {
                    bail!("refused: {code:?}: {message}")
                }
                Event::Refused(refusal) => bail!("refused: {:?}: {}", refusal.code, refusal.message),
                Event::Gap { .. } | Event::PeerLost | Event::SessionLost | Event::Violation(_) => {
                    bail!("{event:?}")
                }
                _ => {}
            }
        }
        Ok(())
    }
}

impl Client for Browser {
    fn turn(&mut self, cx: &mut Context<'_>, receive: &mut ReceiveBuffer) -> anyhow::Result<()> {
        let now = Instant::now();
        if now.duration_since(std::mem::replace(&mut self.turned, now)) > AWAY {
            self.browser.set_stalled(now, false);
        }
        let mut has_work =
            self.read(cx, receive)? | std::mem::take(&mut self.has_sent) | self.socket.is_unflushed();
        if self.due.is_some_and(|due| due <= Instant::now()) {
            self.browser.handle_timeout(Instant::now());
            has_work = true;
        }
        if has_work {
            self.listen()?;
            self.write(cx)?;
            self.due = self.browser.poll_timeout();
        }
        Ok(())
    }

    fn due(&self) -> Option<Instant> {
        self.due
    }

    fn is_ready(&self) -> bool {
        let wanted = if self.udp.is_some() { Pipe::Channel } else { Pipe::Socket };
        self.room.is_some() && self.browser.attached() == Some(wanted)
    }

    fn send(&mut self, burst: Burst) -> anyhow::Result<()> {
        let now = Instant::now();
        let room = self.room.context("not in a room")?;
        let lane = match burst.lane {
            Lane::Reliable => browser::Lane::Reliable,
            Lane::Lossy => browser::Lane::Lossy,
        };
        for _ in 0..burst.count {
            let sent = &mut self.sent[usize::from(burst.lane == Lane::Lossy)];
            *sent += 1;
            let message = Outgoing {
                room,
                lane,
                stream: 1,
                target: Target::Room,
                text: false,
                payload: payload(*sent, burst.size).into(),
            };
            self.browser.send(now, message)?;
        }
        self.has_sent = true;
        Ok(())
    }

    fn received(&self) -> u64 {
        self.received
    }

    fn expects(&self, burst: Burst) -> u64 {
        burst.count as u64
    }
}

/// What a browser has for its WebSocket.
pub(super) fn message(output: SocketOutput) -> Message {
    match output {
        SocketOutput::Text(text) => Message::text(text),
        SocketOutput::Binary(message) => Message::binary(message),
    }
}
