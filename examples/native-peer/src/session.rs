//! The client's half of a session, without I/O: frames and the two pipes that carry them (section 3 of
//! `docs/protocol.md`). Numbering, replay, acknowledgement and chunks are the work of the crate `switchyard-signaling`.
//!
//! Order of calls: hand in what arrives with [`handle_message`](Session::handle_message) and the passing of time with
//! [`handle_timeout`](Session::handle_timeout); afterwards take what there is from [`poll_event`](Session::poll_event),
//! [`poll_message`](Session::poll_message) and [`poll_lossy`](Session::poll_lossy).

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::{Bytes, BytesMut};
use switchyard_signaling::{
    assembly::{Assembly, Complete},
    frame::{self, ChunkHeader, Frame, Frames, Kind, LossyHeader, Reliable, Target},
    lane::{Arrival, Message, Polled, Receiver, Sender},
    limits::{CHANNEL_MESSAGE_BYTES, CLIENT_ACKS, Limits, SOCKET_MESSAGE_BYTES},
    message::ServerControl,
};

/// A way for frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pipe {
    /// The WebSocket.
    Socket,
    /// The data channels.
    Channel,
}

/// What has come from the room.
#[derive(Debug)]
pub(crate) enum Event {
    /// A control message: who is there, who came, who went, what was refused.
    Control(ServerControl),
    /// A message from another member. Its kind, target and room are as the author gave them.
    Data { reliable: bool, message: Complete },
    /// Frames go over this pipe from now on.
    Attached(Pipe),
}

const PING_EVERY: Duration = Duration::from_secs(2);
const PING_EVERY_WHILE_WAITING: Duration = Duration::from_millis(500);
/// The data channel is left when nothing came for so long after a PING.
const SILENCE: Duration = Duration::from_secs(3);
/// Bytes of messages of which some chunks are missing.
const UNFINISHED_BYTES: usize = 4 << 20;

/// The state of one session.
pub(crate) struct Session {
    /// Where frames go; `None` while a move is under way.
    attached: Option<Pipe>,
    wanted: Pipe,
    generation: u32,
    sender: Sender,
    receiver: Receiver,
    assembly: Assembly,
    /// Frames without a lane, which need not wait for a move: for the WebSocket and for the data channel.
    urgent: [BytesMut; 2],
    lossy: VecDeque<BytesMut>,
    lossy_seq: BTreeMap<(u16, u16), u32>,
    last_ping: Instant,
    /// When the first PING was sent after which nothing came.
    silent_since: Option<Instant>,
    events: VecDeque<Event>,
}

impl Session {
    /// A session whose join goes over the WebSocket, which is thereby pipe generation 1.
    pub(crate) fn new(now: Instant, limits: &Limits) -> Self {
        Self {
            attached: Some(Pipe::Socket),
            wanted: Pipe::Socket,
            generation: 1,
            sender: Sender::new(limits.replay_limit_bytes),
            receiver: Receiver::new(CLIENT_ACKS),
            assembly: Assembly::new(limits.max_message_bytes, UNFINISHED_BYTES),
            urgent: [BytesMut::new(), BytesMut::new()],
            lossy: VecDeque::new(),
            lossy_seq: BTreeMap::new(),
            last_ping: now,
            silent_since: None,
            events: VecDeque::new(),
        }
    }

    /// Asks the server to go on over this pipe. Until it agrees, nothing of the lane is sent.
    pub(crate) fn move_to(&mut self, pipe: Pipe) {
        self.attached = None;
        self.wanted = pipe;
        self.generation += 1;
        self.silent_since = None;
        frame::put_attach(&mut self.urgent[pipe as usize], self.generation, self.receiver.ack());
    }

    /// The data channels are gone, or say nothing.
    pub(crate) fn leave_channel(&mut self) {
        self.urgent[Pipe::Channel as usize].clear();
        if self.wanted == Pipe::Channel {
            self.move_to(Pipe::Socket);
        }
    }

    /// Queues a reliable message; `false` if the server has not acknowledged enough of what was sent before.
    pub(crate) fn send(
        &mut self,
        now: Instant,
        room: u16,
        stream: u16,
        target: Target,
        text: bool,
        payload: Bytes,
    ) -> bool {
        let (kind, sender, at) = (Kind::Data, 0, now);
        self.sender.has_room(payload.len())
            && self
                .sender
                .push(room, Arc::new(Message { kind, text, sender, stream, target, payload, at }))
                .is_ok()
    }

    /// Sends a lossy message; during a move it is lost.
    pub(crate) fn send_lossy(&mut self, room: u16, stream: u16, target: Target, text: bool, payload: &[u8]) {
        if self.attached.is_none() {
            return;
        }
        let seq = self.lossy_seq.entry((room, stream)).or_default();
        *seq = seq.wrapping_add(1);
        let mut message = BytesMut::new();
        frame::put_lossy(
            &mut message,
            &LossyHeader { text, room, sender: 0, stream, seq: *seq, target },
            payload,
        );
        self.lossy.push_back(message);
    }

    /// A binary message has come over this pipe.
    pub(crate) fn handle_message(&mut self, now: Instant, pipe: Pipe, message: Bytes) -> Result<()> {
        if self.attached == Some(pipe) {
            self.silent_since = None;
        }
        for frame in Frames::new(message) {
            match frame.context("the server sent a frame that does not parse")? {
                Frame::Reliable { lane_seq, ack, body } => {
                    self.sender.handle_ack(ack);
                    let bytes = if let Reliable::Chunk(_, payload) = &body { payload.len() } else { 0 };
                    match self.receiver.handle(lane_seq, bytes, now) {
                        Arrival::Next => self.take(body)?,
                        // It came over the pipe before as well.
                        Arrival::Duplicate => {}
                        // The end of a pipe that was left may have holes, which the new pipe fills.
                        Arrival::Ahead => {
                            ensure!(self.attached != Some(pipe), "frame {lane_seq} has come too early")
                        }
                    }
                }
                Frame::Lossy(header, payload) => {
                    let LossyHeader { text, room, sender, stream, target, .. } = header;
                    let message = Complete { kind: Kind::Data, text, room, sender, stream, target, payload };
                    self.events.push_back(Event::Data { reliable: false, message });
                }
                Frame::Attached { generation, ack } if generation == self.generation => {
                    ensure!(self.sender.attach(ack), "the server acknowledges what was never sent");
                    self.attached = Some(self.wanted);
                    self.events.push_back(Event::Attached(self.wanted));
                }
                // Of a move that another one has overtaken.
                Frame::Attached { .. } => {}
                Frame::Ack(ack) => drop(self.sender.handle_ack(ack)),
                Frame::Ping(nonce) => frame::put_pong(&mut self.urgent[pipe as usize], nonce),
                Frame::Pong(_) => {}
                Frame::Attach { .. } => bail!("the server sent ATTACH"),
            }
        }
        Ok(())
    }

    fn take(&mut self, body: Reliable) -> Result<()> {
        let (header, payload): (ChunkHeader, Bytes) = match body {
            Reliable::Chunk(header, payload) => (header, payload),
            Reliable::Gap { room, sender, stream, count } => {
                eprintln!("{count} messages of member {sender} are missing: this program is too slow");
                self.assembly.handle_gap((room, sender, stream));
                return Ok(());
            }
        };
        let Some(message) = self.assembly.handle(header, payload)? else {
            return Ok(());
        };
        self.events.push_back(match message.kind {
            Kind::Control => Event::Control(serde_json::from_slice(&message.payload)?),
            Kind::Data => Event::Data { reliable: true, message },
            Kind::Log => bail!("a log that was not asked for"),
        });
        Ok(())
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub(crate) fn poll_timeout(&self) -> Instant {
        let silent = self.silent_since.map(|since| since + SILENCE);
        [self.receiver.poll_timeout(), silent].into_iter().flatten().fold(self.next_ping(), Instant::min)
    }

    /// Time has passed: an acknowledgement, a PING, or patience with a silent data channel may be due.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if self.silent_since.is_some_and(|since| since + SILENCE <= now) {
            self.leave_channel();
        }
        let Some(pipe) = self.attached else {
            self.last_ping = now;
            return;
        };
        if self.receiver.poll_timeout().is_some_and(|due| due <= now) {
            frame::put_ack(&mut self.urgent[pipe as usize], self.receiver.ack());
            self.receiver.acknowledged();
        }
        if self.next_ping() <= now {
            self.last_ping = now;
            frame::put_ping(&mut self.urgent[pipe as usize], 0);
            if pipe == Pipe::Channel {
                self.silent_since.get_or_insert(now);
            }
        }
    }

    fn next_ping(&self) -> Instant {
        let waits = self.sender.unacknowledged() > 0;
        self.last_ping + if waits { PING_EVERY_WHILE_WAITING } else { PING_EVERY }
    }

    /// What has happened next.
    pub(crate) fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Whether [`poll_message`](Self::poll_message) would give something.
    pub(crate) fn has_message(&self, pipe: Pipe) -> bool {
        !self.urgent[pipe as usize].is_empty() || (self.attached == Some(pipe) && self.sender.is_ready())
    }

    /// The next message for the WebSocket or the ordered data channel. What is not asked for can still move to another pipe.
    pub(crate) fn poll_message(&mut self, pipe: Pipe) -> Option<BytesMut> {
        let mut message = std::mem::take(&mut self.urgent[pipe as usize]);
        if self.attached == Some(pipe) {
            let limit = if pipe == Pipe::Socket { SOCKET_MESSAGE_BYTES } else { CHANNEL_MESSAGE_BYTES };
            let ack = self.receiver.ack();
            while self.sender.poll(ack, limit.saturating_sub(message.len()), &mut message) == Polled::Frame {
                // The acknowledgement rides on every frame.
                self.receiver.acknowledged();
            }
        }
        (!message.is_empty()).then_some(message)
    }

    /// The next lossy message and the pipe to send it on; nothing while a move is under way.
    pub(crate) fn poll_lossy(&mut self) -> Option<(Pipe, BytesMut)> {
        let pipe = self.attached?;
        Some((pipe, self.lossy.pop_front()?))
    }
}
