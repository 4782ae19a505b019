//! The browser's half of section 3 of the protocol's document: what a frame does to the lane and the pipes.

use std::time::Instant;

use bytes::{Bytes, BytesMut};
use switchyard_signaling::{
    frame::{self, DOUBT_NONCE, Frame, Frames, Kind, LossyHeader, Reliable},
    lane::{Arrival, Polled},
    message::ServerControl,
};

use super::{Browser, Event, Fault, Incoming, Lane, Pipe, RoomLog, URGENT_BYTES};

impl Browser {
    /// Takes a message of a pipe, `is_ordered` unless it came over the unordered channel.
    pub(super) fn take_frames(&mut self, now: Instant, pipe: Pipe, message: Bytes, is_ordered: bool) {
        self.pipes.heard(now, pipe, is_ordered);
        for frame in Frames::new(message) {
            match frame {
                Ok(frame) => self.take_frame(now, pipe, frame),
                Err(error) => return self.violation(format!("frame: {error}")),
            }
        }
        if pipe == Pipe::Channel {
            self.repaired();
            self.heard_on_trial(now);
        }
    }

    fn take_frame(&mut self, now: Instant, pipe: Pipe, frame: Frame) {
        match frame {
            Frame::Reliable { lane_seq, ack, body } => {
                self.take_ack(ack);
                let bytes = if let Reliable::Chunk(_, payload) = &body { payload.len() } else { 0 };
                match self.receiver.handle(lane_seq, bytes, now) {
                    Arrival::Next => self.take_body(now, body),
                    Arrival::Duplicate if self.config.fault == Some(Fault::TakesDuplicates) => {
                        self.take_body(now, body);
                    }
                    Arrival::Duplicate => {}
                    // A pipe that was left may have a hole at its end, which the new pipe fills.
                    Arrival::Ahead if self.pipes.attached() != Some(pipe) || self.pipes.pending.is_some() => {
                    }
                    Arrival::Ahead => {
                        let last = self.receiver.ack();
                        self.violation(format!("lane gap: frame {lane_seq} came after {last}"));
                    }
                }
            }
            Frame::Lossy(header, payload) => {
                let LossyHeader { text, room, sender, stream, target, .. } = header;
                let lane = Lane::Lossy;
                self.events.push_back(Event::Message(Incoming {
                    room,
                    sender,
                    stream,
                    lane,
                    target,
                    text,
                    payload,
                }));
            }
            Frame::Ack(ack) => self.take_ack(ack),
            Frame::Ping(nonce) => {
                if pipe == Pipe::Socket && self.pipes.attached() != Some(pipe) {
                    // The server misses acknowledgements.
                    self.pipes.watch.hint(now);
                }
                let urgent = self.urgent(pipe);
                if urgent.len() < URGENT_BYTES {
                    frame::put_pong(urgent, nonce);
                }
            }
            Frame::Pong(nonce) => {
                if self.pipes.pong(now, pipe, nonce) && self.config.moves_by_itself {
                    self.attach(now, Pipe::Channel);
                }
            }
            Frame::Attached { generation, ack } => self.take_attached(now, pipe, generation, ack),
            Frame::Attach { .. } => self.violation("the server sent ATTACH".to_owned()),
        }
    }

    /// The server has moved to this pipe, or will when it reads what was sent before.
    pub(super) fn take_attached(&mut self, now: Instant, pipe: Pipe, generation: u32, ack: u32) {
        if !self.pipes.confirmed(now, pipe, generation) {
            // Frames that came behind the ATTACH are acknowledged by nothing else.
            return self.take_ack(ack);
        }
        if self.config.fault != Some(Fault::NoReplay) && !self.sender.attach(ack) {
            self.violation(format!("ATTACHED acknowledges {ack}, which was never sent"));
        }
        if pipe == Pipe::Channel {
            self.lossy_waiting.clear();
            self.lossy_waiting_bytes = 0;
        }
        self.events.push_back(Event::Attached(pipe));
    }

    fn take_ack(&mut self, ack: u32) {
        if !self.sender.handle_ack(ack) {
            self.violation(format!("acknowledgement of {ack}, which was never sent"));
        }
    }

    fn take_body(&mut self, now: Instant, body: Reliable) {
        let (header, payload) = match body {
            Reliable::Chunk(header, payload) => (header, payload),
            Reliable::Gap { room, sender, stream, count } => {
                self.assembly.handle_gap((room, sender, stream));
                if (sender, stream) == (0, 0)
                    && let Some(log) = self.log_of(room)
                {
                    log.handle_gap();
                }
                return self.events.push_back(Event::Gap { room, sender, stream, count });
            }
        };
        let complete = match self.assembly.handle(header, payload) {
            Ok(Some(complete)) => complete,
            Ok(None) => return,
            Err(error) => return self.violation(format!("chunk: {error}")),
        };
        let room = complete.room;
        if complete.kind == Kind::Data {
            return self.events.push_back(Event::Message(Incoming {
                room,
                sender: complete.sender,
                stream: complete.stream,
                lane: Lane::Reliable,
                target: complete.target,
                text: complete.text,
                payload: complete.payload,
            }));
        }
        if complete.kind == Kind::Log {
            return self.take_records(now, room, complete.payload);
        }
        match serde_json::from_slice(&complete.payload) {
            Ok(control) => {
                self.take_control(now, room, &control);
                self.events.push_back(Event::Control(room, control));
            }
            Err(error) => self.violation(format!("control message: {error}")),
        }
    }

    fn take_control(&mut self, now: Instant, handle: u16, control: &ServerControl) {
        match control {
            ServerControl::Ticket { ticket } => {
                if let Some(session) = &mut self.session {
                    session.ticket.clone_from(ticket);
                }
            }
            ServerControl::Left { .. } => {
                self.assembly.forget_room(handle);
                self.sender.forget_room(handle);
                self.lossy_seq.retain(|stream, _| stream.0 != handle);
                if let Some(log) = self.log_of(handle) {
                    log.detach();
                }
            }
            ServerControl::Joined { room, handle, log: Some(news), .. } => {
                if let Some(log) = self.logs.get_mut(room) {
                    log.joined(now, *handle, *news);
                }
            }
            control => {
                if let Some(log) = self.log_of(handle) {
                    log.handle_control(now, control);
                }
            }
        }
    }

    fn take_records(&mut self, now: Instant, handle: u16, message: Bytes) {
        let Some(log) = self.log_of(handle) else {
            return self.violation("a LOG message of a room whose log is not followed".to_owned());
        };
        let mut told = Vec::new();
        let result = log.handle_message(now, message, &mut told);
        self.events.extend(told.into_iter().map(|event| Event::Log(handle, event)));
        if let Err(error) = result {
            self.violation(format!("LOG message: {error}"));
        }
    }

    fn log_of(&mut self, handle: u16) -> Option<&mut RoomLog> {
        self.logs.values_mut().find(|log| log.handle() == Some(handle))
    }

    pub(super) fn urgent(&mut self, pipe: Pipe) -> &mut BytesMut {
        match pipe {
            Pipe::Socket => &mut self.urgent_socket,
            Pipe::Channel => &mut self.urgent_channel,
        }
    }

    /// Whether what is not acknowledged goes over the WebSocket, too.
    pub(super) fn copies(&self) -> bool {
        let is_doubted = self.pipes.attached() == Some(Pipe::Channel) && self.pipes.watch.is_doubted();
        is_doubted && self.socket.welcomed && self.config.fault != Some(Fault::Trusts)
    }

    /// Appends copies of what is not acknowledged up to this length, behind a PING: that the data channel is doubted.
    pub(super) fn fill_copies(&mut self, length: usize, message: &mut BytesMut) {
        if !self.sender.has_copies() {
            return;
        }
        let ack = self.receiver.ack();
        frame::put_ping(message, DOUBT_NONCE);
        while self.sender.copy(ack, length.saturating_sub(message.len()), message) == Polled::Frame {}
    }

    /// Appends frames of the lane up to this length.
    pub(super) fn fill(&mut self, length: usize, message: &mut BytesMut) {
        let ack = self.receiver.ack();
        let mut any = false;
        while self.sender.poll(ack, length.saturating_sub(message.len()), message) == Polled::Frame {
            any = true;
        }
        if any {
            self.receiver.acknowledged();
        }
    }
}
