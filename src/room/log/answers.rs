//! What writers are answered: accepted, refused, another's, or come again.

use std::time::{Duration, Instant};

use switchyard_signaling::{Code, event::Origin, origin::Outcome, record::ServerRecord};

use super::{AGAIN, BackendAnswer, BackendError, By, Log, LogTally, Said, TOLD};
use crate::room::content::Refusal;

impl Log {
    pub(super) fn tell_outcome(&mut self, by: By, origin: Origin, cseq: u32, outcome: Outcome) {
        match (outcome, by) {
            // Whoever asked first is answered when it is durable; this one finds that out when it comes again.
            (Outcome::Pending, By::Backend(request)) => {
                self.answer_backend(request, Err(BackendError::NotNow(Code::Loading, AGAIN)));
            }
            (Outcome::Pending, _) => {
                // The answer goes to whoever asked last: the writer may have come back in another session.
                let in_flight = self.in_flight.as_mut().map(|batch| &mut batch.decided.by);
                for pending in [Some(&mut self.open.by), in_flight].into_iter().flatten() {
                    if let Some(asker) = pending.get_mut(&(origin, cseq)) {
                        *asker = by;
                    }
                }
            }
            (Outcome::Accepted(seq), _) => self.accepted(by, (origin, cseq), seq, true),
            (Outcome::Refused(code), _) => self.refused(by, origin, cseq, Refusal(code, sentence_of(code))),
        }
    }

    pub(super) fn accepted(&mut self, by: By, (origin, cseq): (Origin, u32), seq: u64, is_repeated: bool) {
        match by {
            By::Member(member) => self.answer(member, &ServerRecord::Accepted { origin, cseq, seq }),
            By::Backend(request) => {
                self.answer_backend(request, Ok(BackendAnswer::Written { seq, is_repeated }));
            }
            By::Room => {}
        }
    }

    pub(super) fn refused(&mut self, by: By, origin: Origin, cseq: u32, Refusal(code, sentence): Refusal) {
        self.said.push_back(Said::Count(LogTally::Refused(code)));
        match by {
            By::Member(member) => {
                let (code, sentence) = (code.as_str().to_owned(), sentence.to_owned());
                self.answer(member, &ServerRecord::Refused { origin, cseq, code, sentence });
            }
            By::Backend(request) => {
                self.answer_backend(request, Err(BackendError::Refused(code, sentence)));
            }
            By::Room => {}
        }
    }

    pub(super) fn conflict(&mut self, by: By, origin: Origin, cseq: u32) {
        self.said.push_back(Said::Count(LogTally::Conflict));
        match by {
            By::Member(member) => {
                self.answer(member, &ServerRecord::Conflict { origin, cseq });
            }
            By::Backend(request) => {
                self.answer_backend(request, Err(BackendError::Conflict));
            }
            By::Room => {}
        }
    }

    /// Tells a writer where to go on, once: what it had sent before it heard of it is passed over in silence.
    pub(super) fn expected(
        &mut self,
        by: By,
        origin: Origin,
        cseq: u32,
        (code, retry): (Code, Duration),
        now: Instant,
    ) {
        let until = now + retry.max(TOLD);
        if let Some(writer) = self.origins.get_mut(&origin) {
            if code == Code::OutOfOrder
                && writer.told.is_some_and(|(whom, what, until)| (whom, what) == (by, cseq) && now < until)
            {
                return;
            }
            writer.told = Some((by, cseq, until));
        }
        self.said.push_back(Said::Count(LogTally::Expected(code)));
        match by {
            By::Member(member) => {
                let retry_after_ms = u32::try_from(retry.as_millis()).unwrap_or(u32::MAX);
                let code = code.as_str().to_owned();
                self.answer(member, &ServerRecord::Expected { origin, cseq, retry_after_ms, code });
            }
            By::Backend(request) => {
                self.answer_backend(request, Err(BackendError::NotNow(code, retry)));
            }
            By::Room => {}
        }
    }

    pub(super) fn answer(&mut self, member: u32, record: &ServerRecord) {
        record.put(self.answers.entry(member).or_default());
    }

    /// Ends the handling of one input: what was decided goes to the store, what was answered to the members.
    pub(super) fn finish(&mut self, now: Instant) {
        self.commit(now);
        self.say_answers();
    }

    pub(super) fn say_answers(&mut self) {
        for (member, records) in std::mem::take(&mut self.answers) {
            self.said.push_back(Said::To(member, records.freeze()));
        }
    }
}

/// The sentence for a refusal that comes again, for which only the code is stored.
pub(super) fn sentence_of(code: Code) -> &'static str {
    match code {
        Code::Forbidden => "your role in this room does not permit this",
        Code::TooLarge => "the body of an event has at most 64 KiB",
        Code::BadBody => "the body is not what this kind of event asks for",
        Code::NoSuchMessage => "there is no such message, or it was deleted",
        Code::NotAuthor => "only the author may do this",
        Code::NoSuchStream => "the stream has ended without its author",
        Code::BadOrigin => "the origin belongs to another user",
        _ => "the submission is refused",
    }
}
