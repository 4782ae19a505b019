//! Writes durable messages on schedule and reads the room's log, with the delivery rules of the protocol's section 9.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use switchyard_signaling::event::{Content, Event as Entry, EventKind};

use super::{
    behaviour::{Behaviour, Context},
    plan::Messages,
    schedule::Schedule,
};
use crate::{
    account::{Accepted, Answer, Read, Reading, Sample, Stamp, Written, body, stamp_of_body},
    browser::{Event, LogEvent},
    rng::Rng,
};

/// Submissions that may wait for their answers; what is due beyond waits. The browser client has the same limit.
const MOST_WAITING: usize = 10_000;
/// How soon a user with so many looks again.
const FULL_RETRY: Duration = Duration::from_millis(100);

pub(super) struct Writing {
    messages: Messages,
    schedule: Option<Schedule>,
    has_joined: bool,
    is_leaving: bool,
    next: Option<Instant>,
    written: Written,
    reading: Reading,
    /// When the submissions without an answer were due, oldest first.
    due: VecDeque<(u32, Instant)>,
}

impl Writing {
    pub(super) fn new(messages: Messages, rng: Rng) -> Self {
        let schedule = messages.pace.map(|pace| Schedule::new(pace, rng));
        Self {
            messages,
            schedule,
            has_joined: false,
            is_leaving: false,
            next: None,
            written: Written::default(),
            reading: Reading::default(),
            due: VecDeque::new(),
        }
    }

    /// Submits what is due; when to look again.
    fn submit_due(&mut self, context: &mut Context<'_>) -> Option<Instant> {
        // A page that does not read does not run; one without a network writes all the same.
        if !self.has_joined || self.is_leaving || !context.client.reads_socket() {
            return None;
        }
        loop {
            let due = self.schedule.as_ref()?.next()?;
            if due > context.now {
                return Some(due);
            }
            if self.due.len() >= MOST_WAITING {
                return Some(context.now + FULL_RETRY);
            }
            let number = self.written.next();
            let scheduled = due.saturating_duration_since(context.epoch);
            let stamp = Stamp { sender: context.number, seq: number, scheduled };
            let body = body(stamp, self.messages.size);
            let content = Content { kind: EventKind::Chat, version: 0, flags: 0, target: 0, body };
            context.client.submit(context.now, context.room, number, content)?;
            self.written.submitted(context.at());
            self.due.push_back((number, due));
            context.window.sent += 1;
            self.schedule.as_mut()?.advance();
        }
    }

    fn answered(&mut self, context: &mut Context<'_>, number: u32, answer: Answer) {
        if !self.written.answered(number, answer) {
            return;
        }
        let place = self.due.iter().position(|(waiting, _)| *waiting == number);
        let due = place.and_then(|place| self.due.remove(place)).map(|(_, due)| due);
        if let (Answer::Accepted(seq), Some(due)) = (answer, due) {
            let after = context.now.saturating_duration_since(due);
            context.window.accepted(Accepted { at: context.at(), number, seq, after });
        }
    }

    fn read(&mut self, context: &mut Context<'_>, event: &Entry) {
        let at = context.at();
        let stamp = stamp_of_body(&event.content.body);
        self.reading.event(at, event.seq, event.content.body.len(), stamp.is_some());
        let submission = stamp.map(|(stamp, _)| (stamp.sender, stamp.seq));
        let is_intact = stamp.is_some_and(|(_, is_intact)| is_intact);
        context.window.read(Read { at, seq: event.seq, submission, is_intact });
        if let Some((stamp, true)) = stamp {
            let (sender, due) = (stamp.sender, stamp.scheduled);
            context.window.sample(Sample { sender, lane: None, due, after: at.saturating_sub(due) });
        }
    }
}

impl Behaviour for Writing {
    fn joined(&mut self, context: &mut Context<'_>) {
        if let Some(schedule) = self.schedule.as_mut().filter(|_| !self.has_joined) {
            schedule.skip(context.now);
        }
        self.has_joined = true;
    }

    fn event(&mut self, context: &mut Context<'_>, event: &Event) {
        let Event::Log(_, event) = event else { return };
        match event {
            LogEvent::Event(event) => self.read(context, event),
            LogEvent::Snapshot(snapshot) => {
                if snapshot.reason != "new" {
                    context.error(format!("log: {}", snapshot.reason));
                }
                self.reading.snapshot(context.at(), snapshot.position.seq);
            }
            LogEvent::Accepted { nonce, seq, .. } => self.answered(context, *nonce, Answer::Accepted(*seq)),
            LogEvent::Refused { nonce, code } => {
                context.error(format!("refused: {code}"));
                self.answered(context, *nonce, Answer::Refused);
            }
            LogEvent::Conflict(_) => self.written.conflicts += 1,
            LogEvent::Waits(code) => context.error(format!("waits: {code}")),
            LogEvent::Status(Some(code)) => context.error(format!("log: {code}")),
            LogEvent::Answered { .. }
            | LogEvent::Page(..)
            | LogEvent::Stream(_)
            | LogEvent::Text { .. }
            | LogEvent::Ended { .. }
            | LogEvent::Status(None) => {}
        }
    }

    fn act(&mut self, context: &mut Context<'_>) {
        self.next = self.submit_due(context);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.next
    }

    fn leave(&mut self, context: &mut Context<'_>) {
        self.is_leaving = true;
        if let Some(schedule) = self.schedule.as_mut().filter(|_| self.has_joined) {
            self.written.unsent += schedule.skip(context.now);
        }
    }

    fn is_idle(&mut self, context: &mut Context<'_>) -> bool {
        context.client.unanswered(context.room) == 0
    }

    fn end(&mut self, context: &mut Context<'_>) {
        if !self.is_leaving {
            self.leave(context);
        }
        context.record.written =
            Some(std::mem::take(&mut self.written)).filter(|_| self.messages.pace.is_some());
        context.record.reading = Some(std::mem::take(&mut self.reading));
    }
}
