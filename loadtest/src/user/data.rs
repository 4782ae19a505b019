//! Sends data messages to the room, on schedule. What is due while the pipe is full, or while there is none, is sent later
//! and still counts from when it was due; on the lossy lane what is due while there is no pipe is passed over.

use std::time::{Duration, Instant};

use switchyard_signaling::{frame::Target, lane::OVERHEAD_BYTES};

use super::{
    behaviour::{Behaviour, Context},
    plan::Data,
    schedule::Schedule,
};
use crate::{
    account::Stamp,
    browser::{Lane, Outgoing, SendError},
    rng::Rng,
};

/// A sender that found its buffer full looks again after this.
const FULL_RETRY: Duration = Duration::from_millis(5);
/// Messages sent before others get a turn.
const BATCH: usize = 64;

pub(super) struct DataSender {
    data: Data,
    schedule: Option<Schedule>,
    has_joined: bool,
    is_leaving: bool,
    /// When to look again, if something can be sent at all.
    next: Option<Instant>,
}

impl DataSender {
    pub(super) fn new(data: Data, rng: Rng) -> Self {
        let schedule = data.pace.map(|pace| Schedule::new(pace, rng));
        Self { data, schedule, has_joined: false, is_leaving: false, next: None }
    }

    /// At most so many messages of the stream are not acknowledged: each counts its own bytes and more in what is held.
    fn unacknowledged(&self, context: &Context<'_>) -> usize {
        match self.data.lane {
            Lane::Reliable => context.client.held_bytes().div_ceil(self.data.size.max(1) + OVERHEAD_BYTES),
            Lane::Lossy => 0,
        }
    }

    fn send(&mut self, context: &mut Context<'_>, room: u16, due: Instant) -> Result<(), SendError> {
        let Data { lane, stream, size, .. } = self.data;
        let at = context.at();
        let of = context.record.sent.entry((lane, stream)).or_default();
        let scheduled = due.saturating_duration_since(context.epoch);
        let stamp = Stamp { sender: context.number, seq: of.next(), scheduled };
        let payload = stamp.message(size);
        let message = Outgoing { room, lane, stream, target: Target::Room, text: false, payload };
        context.client.send(context.now, message)?;
        of.sent(at);
        context.window.sent += 1;
        Ok(())
    }

    /// Sends what is due; when to look again.
    fn send_due(&mut self, context: &mut Context<'_>) -> Option<Instant> {
        let room = context.handle?;
        // A page that does not read does not run.
        if !context.client.reads_socket() || self.is_leaving {
            return None;
        }
        for _ in 0..BATCH {
            let due = self.schedule.as_ref()?.next()?;
            if due > context.now {
                return Some(due);
            }
            // What is given to a lane without a pipe is lost with the session, if that does not come back.
            let has_pipe = context.client.attached().is_some();
            let result = if has_pipe { self.send(context, room, due) } else { Err(SendError::NoSession) };
            match result {
                Ok(()) => {}
                Err(SendError::BufferFull) => return Some(context.now + FULL_RETRY),
                Err(SendError::NoSession) if self.data.lane == Lane::Reliable => return None,
                Err(error) => {
                    let key = (self.data.lane, self.data.stream);
                    context.record.sent.entry(key).or_default().unsent(1);
                    if error != SendError::NoSession {
                        context.error(format!("sending: {error}"));
                    }
                }
            }
            self.schedule.as_mut()?.advance();
        }
        Some(context.now)
    }
}

impl Behaviour for DataSender {
    fn joined(&mut self, context: &mut Context<'_>) {
        if let Some(schedule) = self.schedule.as_mut().filter(|_| !self.has_joined) {
            schedule.skip(context.now);
        }
        self.has_joined = true;
    }

    fn parted(&mut self, context: &mut Context<'_>) {
        let (at, but) = (context.at(), self.unacknowledged(context));
        if let Some(sent) = context.record.sent.get_mut(&(self.data.lane, self.data.stream)) {
            sent.acknowledged(at, but);
            sent.session_lost();
        }
        self.next = None;
    }

    fn act(&mut self, context: &mut Context<'_>) {
        if self.schedule.is_none() {
            return;
        }
        self.next = self.send_due(context);
        let (at, but) = (context.at(), self.unacknowledged(context));
        if let Some(sent) = context.record.sent.get_mut(&(self.data.lane, self.data.stream)) {
            sent.acknowledged(at, but);
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.next
    }

    fn leave(&mut self, context: &mut Context<'_>) {
        self.is_leaving = true;
        if let Some(schedule) = self.schedule.as_mut().filter(|_| self.has_joined) {
            let unsent = schedule.skip(context.now);
            if unsent > 0 {
                context.record.sent.entry((self.data.lane, self.data.stream)).or_default().unsent(unsent);
            }
        }
    }

    fn end(&mut self, context: &mut Context<'_>) {
        if !self.is_leaving {
            self.leave(context);
        }
        self.parted(context);
    }
}
