//! The writing half of a log: section 9.3 of `docs/protocol.md`, for one origin.
//!
//! A [`Writer`] keeps what its user wants in the log until there is an answer to it, sends no more of it at once than
//! the window allows, and sends it again when a session, an answer or the server's memory was lost. It never opens a
//! connection, reads a clock or draws a number: `now` and nonces are arguments, submissions and answers are return
//! values. Its other half is the server's `src/room/log.rs`; the browser client has the same in `client/src/`, held to
//! the same `vectors/delivery.json`. [`crate::reader`] is the reading half.
//!
//! Order of calls. [`submit`](Writer::submit) at any time; [`attach`](Writer::attach) when a session has begun in which
//! the origin may be used, [`detach`](Writer::detach) when it has ended; [`handle`](Writer::handle) for each record;
//! then [`poll`](Writer::poll) until it has nothing more, and again when [`poll_timeout`](Writer::poll_timeout) is due.
//!
//! [`outbox`](Writer::outbox) is what has to be kept so that it survives the end of the program: save it before what
//! `submit` has queued is sent, and before a submission is sent that has a higher `base`, and everything in it ends in the
//! log once, whichever of it was sent before.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::{
    event::{Content, Event, Origin, Submission},
    limits,
    record::ServerRecord,
};

/// When nothing at all is answered for so long, everything is sent again.
pub const SILENCE: Duration = Duration::from_secs(5);
/// A demand to begin again at the same number is about what was sent before the last one was met, unless so long has
/// passed.
pub const AGAIN: Duration = Duration::from_secs(1);

/// What is written with one origin.
#[derive(Clone, Debug)]
pub struct Writer {
    origin: Origin,
    /// The `cseq` of the first in the queue: all below have their answers.
    base: u32,
    /// In order of `cseq`, without a hole. One in the middle that has its answer stays, for after a loss the server
    /// may have to be told again of all that follow `base`.
    queue: VecDeque<Queued>,
    /// How many of the queue have been sent, from its front.
    sent: usize,
    /// Bodies of those.
    sent_bytes: usize,
    /// How many may be sent and unanswered. After the server has asked for patience one, and one more for each answer:
    /// what comes behind one that is not taken is sent in vain.
    window: usize,
    /// The `base` that was last sent.
    told_base: u32,
    is_attached: bool,
    /// The origin belongs to another writer as well: nothing more is queued.
    is_closed: bool,
    not_before: Option<Instant>,
    /// Where the server last asked to begin again, and when that was allowed.
    returned: Option<(u32, Instant)>,
    /// The last answer, or when what waits for one was sent.
    heard: Option<Instant>,
}

#[derive(Clone, Debug)]
struct Queued {
    nonce: u32,
    content: Content,
    is_answered: bool,
}

/// What is kept of a writer beyond the end of the program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outbox {
    /// Whose.
    pub origin: Origin,
    /// The `cseq` of the first unanswered submission, or of the next one.
    pub base: u32,
    /// What is to be said from there on.
    pub unanswered: Vec<Unanswered>,
}

/// A submission that has no answer yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unanswered {
    /// Drawn once for it.
    pub nonce: u32,
    /// What it says.
    pub content: Content,
}

/// What an answer means for whoever submitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// The submission is this event.
    Accepted {
        /// Which.
        cseq: u32,
        /// The number that was drawn for it.
        nonce: u32,
        /// The event.
        seq: u64,
    },
    /// The submission will never be one.
    Refused {
        /// Which.
        cseq: u32,
        /// The number that was drawn for it.
        nonce: u32,
        /// Why.
        code: String,
        /// Why, for people.
        sentence: String,
    },
    /// From here on it takes longer, for this reason.
    Waits {
        /// Which.
        cseq: u32,
        /// Why.
        code: String,
    },
    /// Another writer uses the origin and has said something else under this number. The submission is given back, to be
    /// submitted to another writer with an origin of its own when this one, which takes nothing more, has all its
    /// answers: what comes behind may have been said by the other writer likewise.
    Conflict {
        /// Which.
        cseq: u32,
        /// What was not taken.
        unanswered: Unanswered,
    },
}

impl Writer {
    /// A writer with an origin that was never used.
    pub fn new(origin: Origin) -> Self {
        Self::restore(Outbox { origin, base: 1, unanswered: Vec::new() })
    }

    /// Goes on where another left off.
    pub fn restore(outbox: Outbox) -> Self {
        let queued = |Unanswered { nonce, content }| Queued { nonce, content, is_answered: false };
        Self {
            origin: outbox.origin,
            base: outbox.base,
            queue: outbox.unanswered.into_iter().map(queued).collect(),
            sent: 0,
            sent_bytes: 0,
            window: limits::SUBMISSIONS,
            told_base: outbox.base,
            is_attached: false,
            is_closed: false,
            not_before: None,
            returned: None,
            heard: None,
        }
    }

    /// What has to be kept. An answer that came out of order is forgotten; it comes again.
    pub fn outbox(&self) -> Outbox {
        let unanswered =
            |queued: &Queued| Unanswered { nonce: queued.nonce, content: queued.content.clone() };
        Outbox {
            origin: self.origin,
            base: self.base,
            unanswered: self.queue.iter().map(unanswered).collect(),
        }
    }

    /// With which it writes.
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// The first `cseq` without an answer.
    pub fn base(&self) -> u32 {
        self.base
    }

    /// Up to where the server has been told that there are answers: what is kept must not lag behind this.
    pub fn told_base(&self) -> u32 {
        self.told_base
    }

    /// The `cseq` of the next submission.
    pub fn next(&self) -> u32 {
        self.base.saturating_add(self.queue.len() as u32)
    }

    /// Whether everything has its answer.
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty()
    }

    /// Whether it takes nothing more, after a conflict.
    pub fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Queues a submission and returns its `cseq`. `None` if the origin can take no more: the writer is closed after a
    /// conflict, or has counted to its end.
    pub fn submit(&mut self, nonce: u32, content: Content) -> Option<u32> {
        let cseq = self.next();
        if self.is_closed || cseq == u32::MAX {
            return None;
        }
        self.queue.push_back(Queued { nonce, content, is_answered: false });
        Some(cseq)
    }

    /// A session has begun in which the origin may be used: everything without an answer is sent in it.
    pub fn attach(&mut self) {
        self.is_attached = true;
        self.not_before = None;
        self.window = limits::SUBMISSIONS;
        self.rewind(0);
    }

    /// There is no session.
    pub fn detach(&mut self) {
        self.is_attached = false;
        self.heard = None;
        self.rewind(0);
    }

    /// Takes any record of a LOG message. What does not answer this origin is ignored.
    pub fn handle(&mut self, now: Instant, record: &ServerRecord) -> Option<Told> {
        match record {
            ServerRecord::Event(event) => self.handle_event(now, event),
            ServerRecord::Accepted { origin, cseq, seq } if self.is_mine(*origin) => {
                self.heard = Some(now);
                let nonce = self.answer(*cseq)?;
                Some(Told::Accepted { cseq: *cseq, nonce, seq: *seq })
            }
            ServerRecord::Refused { origin, cseq, code, sentence } if self.is_mine(*origin) => {
                self.heard = Some(now);
                let nonce = self.answer(*cseq)?;
                let (code, sentence) = (code.clone(), sentence.clone());
                Some(Told::Refused { cseq: *cseq, nonce, code, sentence })
            }
            ServerRecord::Expected { origin, cseq, retry_after_ms, code } if self.is_mine(*origin) => {
                self.heard = Some(now);
                let retry = Duration::from_millis((*retry_after_ms).into());
                self.begin_again(now, *cseq, retry).map(|cseq| Told::Waits { cseq, code: code.clone() })
            }
            ServerRecord::Conflict { origin, cseq } if self.is_mine(*origin) => {
                self.heard = Some(now);
                let Queued { nonce, content, .. } = self.queued(*cseq)?.clone();
                self.answer(*cseq)?;
                self.is_closed = true;
                Some(Told::Conflict { cseq: *cseq, unanswered: Unanswered { nonce, content } })
            }
            _ => None,
        }
    }

    /// The next submission to send.
    pub fn poll(&mut self, now: Instant) -> Option<Submission> {
        if !self.is_attached {
            return None;
        }
        if self.silence_ends().is_some_and(|at| at <= now) {
            self.rewind(0);
        }
        if self.not_before.is_some_and(|at| now < at) {
            return None;
        }
        self.not_before = None;
        let Queued { nonce, content, .. } = self.queue.get(self.sent)?;
        let bytes = self.sent_bytes + content.body.len();
        if self.sent >= self.window || (self.sent > 0 && bytes > limits::SUBMISSION_BYTES) {
            return None;
        }
        let submission = Submission {
            origin: self.origin,
            cseq: self.base + self.sent as u32,
            base: self.base,
            nonce: *nonce,
            content: content.clone(),
        };
        if self.sent == 0 {
            self.heard = Some(now);
        }
        self.sent += 1;
        self.sent_bytes = bytes;
        self.told_base = self.base;
        Some(submission)
    }

    /// When [`poll`](Self::poll) may have something that it does not have now.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if !self.is_attached || self.queue.is_empty() {
            return None;
        }
        let waits = self.not_before.filter(|_| self.sent < self.queue.len());
        [self.silence_ends(), waits].into_iter().flatten().min()
    }

    /// An event is an answer if it says what was submitted under its name: with a cloned profile somebody else's may
    /// have it.
    fn handle_event(&mut self, now: Instant, event: &Event) -> Option<Told> {
        if !self.is_mine(event.origin) {
            return None;
        }
        // The event of a streamed message never says what its end did: that is answered apart.
        if self.queued(event.cseq)?.content != event.content {
            return None;
        }
        self.heard = Some(now);
        let nonce = self.answer(event.cseq)?;
        Some(Told::Accepted { cseq: event.cseq, nonce, seq: event.seq })
    }

    fn is_mine(&self, origin: Origin) -> bool {
        self.origin == origin
    }

    fn queued(&self, cseq: u32) -> Option<&Queued> {
        self.queue.get(cseq.checked_sub(self.base)? as usize)
    }

    /// The nonce of what is answered, if this is the first answer.
    fn answer(&mut self, cseq: u32) -> Option<u32> {
        let queued = self.queue.get_mut(cseq.checked_sub(self.base)? as usize)?;
        let nonce = (!std::mem::replace(&mut queued.is_answered, true)).then_some(queued.nonce);
        if nonce.is_some() {
            self.window = limits::SUBMISSIONS.min(self.window + 1);
        }
        while self.queue.front().is_some_and(|queued| queued.is_answered)
            && let Some(first) = self.queue.pop_front()
        {
            self.base += 1;
            if self.sent > 0 {
                self.sent -= 1;
                self.sent_bytes -= first.content.body.len();
            }
        }
        nonce
    }

    /// Returns where it begins again, if that is news.
    fn begin_again(&mut self, now: Instant, cseq: u32, retry: Duration) -> Option<u32> {
        let place = (cseq.saturating_sub(self.base) as usize).min(self.sent);
        let cseq = self.base + place as u32;
        let is_stale = retry.is_zero()
            && self.returned.is_some_and(|(returned, since)| returned == cseq && now < since + AGAIN);
        if is_stale {
            return None;
        }
        self.rewind(place);
        self.not_before = self.not_before.max(Some(now + retry));
        if !retry.is_zero() {
            self.window = 1;
        }
        self.returned = self.not_before.map(|since| (cseq, since));
        Some(cseq)
    }

    /// Forgets that anything from this place of the queue on was sent.
    fn rewind(&mut self, place: usize) {
        self.sent = place;
        self.sent_bytes = self.queue.iter().take(place).map(|queued| queued.content.body.len()).sum();
        self.returned = None;
    }

    fn silence_ends(&self) -> Option<Instant> {
        self.heard.filter(|_| self.sent > 0).map(|heard| heard + SILENCE)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::event::EventKind;

    const ORIGIN: Origin = Origin(7);

    fn said(text: &str) -> Content {
        let body = Bytes::copy_from_slice(text.as_bytes());
        Content { kind: EventKind::Chat, version: 0, flags: 0, target: 0, body }
    }

    fn writer(count: u32) -> Writer {
        let mut writer = Writer::new(ORIGIN);
        for number in 1..=count {
            assert_eq!(writer.submit(number, said(&number.to_string())), Some(number));
        }
        writer.attach();
        writer
    }

    fn sent(writer: &mut Writer, now: Instant) -> Vec<u32> {
        std::iter::from_fn(|| writer.poll(now)).map(|submission| submission.cseq).collect()
    }

    fn accepted(cseq: u32) -> ServerRecord {
        ServerRecord::Accepted { origin: ORIGIN, cseq, seq: u64::from(cseq) + 100 }
    }

    fn expected(cseq: u32, retry_after_ms: u32) -> ServerRecord {
        ServerRecord::Expected { origin: ORIGIN, cseq, retry_after_ms, code: "out_of_order".into() }
    }

    #[test]
    fn a_large_body_is_sent_alone_and_never_stays_behind() {
        let now = Instant::now();
        let mut writer = Writer::new(ORIGIN);
        let large = "x".repeat(limits::SUBMISSION_BYTES + 1);
        writer.submit(1, said(&large));
        writer.submit(2, said("small"));
        writer.attach();
        assert_eq!(sent(&mut writer, now), [1]);
        writer.handle(now, &accepted(1));
        assert_eq!(sent(&mut writer, now), [2]);
    }

    #[test]
    fn demands_to_begin_again_for_each_of_a_window_cost_one_window() {
        let now = Instant::now();
        let mut writer = writer(64);
        assert_eq!(sent(&mut writer, now).len(), 64);
        let mut again = 0;
        for _ in 0..63 {
            writer.handle(now, &expected(2, 0));
            again += sent(&mut writer, now).len();
        }
        assert_eq!(again, 63);
    }

    #[test]
    fn an_answer_that_overtakes_another_does_not_move_the_base() {
        let now = Instant::now();
        let mut writer = writer(3);
        sent(&mut writer, now);
        assert!(writer.handle(now, &accepted(2)).is_some());
        assert_eq!((writer.base(), writer.next()), (1, 4));
        // Another session begins with the base and goes up one by one.
        writer.attach();
        assert_eq!(sent(&mut writer, now), [1, 2, 3]);
        assert_eq!(writer.handle(now, &accepted(2)), None);
        writer.handle(now, &accepted(1));
        assert_eq!(writer.base(), 3);
    }

    #[test]
    fn what_a_clone_wrote_is_no_answer_to_what_this_one_did() {
        let now = Instant::now();
        let mut writer = writer(1);
        sent(&mut writer, now);
        let event = |text: &str| {
            let content = said(text);
            let (user, name) = (String::new(), String::new());
            ServerRecord::Event(Event { seq: 9, at: 0, origin: ORIGIN, cseq: 1, user, name, content })
        };
        assert_eq!(writer.handle(now, &event("another")), None);
        assert_eq!(writer.base(), 1);
        assert_eq!(writer.handle(now, &event("1")), Some(Told::Accepted { cseq: 1, nonce: 1, seq: 9 }));
    }

    #[test]
    fn numbers_from_outside_never_overflow() {
        let now = Instant::now();
        let mut writer = writer(2);
        sent(&mut writer, now);
        for cseq in [0, 1, 3, 70, u32::MAX] {
            writer.handle(now, &expected(cseq, u32::MAX));
            writer.handle(now, &ServerRecord::Accepted { origin: ORIGIN, cseq, seq: u64::MAX });
        }
        assert_eq!(writer.base(), 2);
        let last = Outbox { origin: ORIGIN, base: u32::MAX, unanswered: Vec::new() };
        assert_eq!(Writer::restore(last).submit(1, said("too late")), None);
    }
}
