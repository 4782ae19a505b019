//! The application's backend as an author (MSG6, MSG7): it writes in whoever's name it likes, without being a member.
//!
//! Every act is answered once, by the number of its request, when what it did is durable. HTTP is `src/http/api/`'s; here an
//! `Idempotency-Key` is an origin that has one submission.

use super::{
    Arc, Author, By, Bytes, Code, Content, Duration, EventKind, Instant, Log, Origin, Phase, Refusal, Said,
    Step, Submission,
};

/// What the application's backend asks of a room.
#[derive(Clone, Debug)]
pub struct BackendRequest {
    /// Named in the answer.
    pub request: u64,
    /// What it is to do.
    pub act: BackendAct,
}

/// What a backend does in a room.
#[derive(Clone, Debug)]
pub enum BackendAct {
    /// Writes an event. With [`EventKind::End`], whose target is the stream's key, it is the stream's message.
    Write(BackendWrite),
    /// Begins a message whose text comes in parts; the content is the message without it.
    Begin(BackendWrite),
    /// Brings text of a stream.
    Part {
        /// Which one.
        stream: BackendStream,
        /// Bytes of text before it.
        offset: u32,
        /// UTF-8.
        text: Bytes,
    },
    /// Goes away from a stream.
    GiveUp {
        /// Which one.
        stream: BackendStream,
        /// Whether the text so far becomes a message, marked as incomplete.
        keep: bool,
    },
}

/// An event, or the beginning of one.
#[derive(Clone, Debug)]
pub struct BackendWrite {
    /// In whose name.
    pub user: Arc<str>,
    /// Display name.
    pub name: Arc<str>,
    /// Makes a retry harmless; each has one submission.
    pub origin: Origin,
    /// Part of what a retry has to say again.
    pub nonce: u32,
    /// What.
    pub content: Content,
}

/// A stream that a backend has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackendStream {
    /// Of the write that began it.
    pub origin: Origin,
    /// Another one for each stream that is begun, be it with the same origin.
    pub key: u32,
}

/// What a backend's act came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackendAnswer {
    /// It is this event, and durable.
    Written {
        /// Its place in the log.
        seq: u64,
        /// It was written before.
        is_repeated: bool,
    },
    /// The stream is open.
    Begun(BackendStream),
    /// The stream's message, or another one, has been written already: its end will tell.
    Ended,
    /// The text was taken, or the stream let go.
    Done,
}

/// Why the backend's request came to nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackendError {
    /// For good.
    Refused(Code, &'static str),
    /// The same `Idempotency-Key` was used for something else.
    Conflict,
    /// Later perhaps.
    NotNow(Code, Duration),
}

impl BackendAct {
    /// The write that uses the origin, if this one does.
    pub(super) fn write(&self) -> Option<&BackendWrite> {
        match self {
            Self::Write(write) | Self::Begin(write) => Some(write),
            Self::Part { .. } | Self::GiveUp { .. } => None,
        }
    }

    pub(super) fn origin(&self) -> Origin {
        match self {
            Self::Write(write) | Self::Begin(write) => write.origin,
            Self::Part { stream, .. } | Self::GiveUp { stream, .. } => stream.origin,
        }
    }

    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Write(write) | Self::Begin(write) => write.content.body.len(),
            Self::Part { text, .. } => text.len(),
            Self::GiveUp { .. } => 0,
        }
    }
}

impl BackendStream {
    /// The author of what is streamed under this key.
    fn by(self) -> By {
        By::Backend(self.key.into())
    }
}

impl Log {
    /// Says what became of a request.
    pub(super) fn answer_backend(&mut self, request: u64, answer: Result<BackendAnswer, BackendError>) {
        self.said.push_back(Said::Backend(request, answer));
    }

    pub(super) fn decide_backend(&mut self, backend: &BackendRequest, now: Instant) -> Step {
        let BackendRequest { request, act } = backend;
        const GONE: BackendError =
            BackendError::Refused(Code::NoSuchStream, "the stream has ended without its author");
        match act {
            BackendAct::Write(write) => {
                let content = write.content.clone();
                let (origin, nonce) = (write.origin, write.nonce);
                let submission = Submission { origin, cseq: 1, base: 1, nonce, content };
                self.submit(&author(By::Backend(*request), write), &submission, now)
            }
            BackendAct::Begin(write) => self.begin_of_backend(*request, write, now),
            BackendAct::Part { stream, offset, text } => {
                let BackendStream { origin, key } = *stream;
                let answer = if !self.streams.is_open((origin, key)) {
                    Err(GONE)
                } else {
                    match self.part(stream.by(), (origin, key), *offset, text, now) {
                        Ok(None) => Ok(BackendAnswer::Done),
                        Ok(Some(_)) => Err(GONE),
                        Err(Refusal(code, sentence)) => Err(BackendError::Refused(code, sentence)),
                    }
                };
                self.answer_backend(*request, answer);
                Step::Done
            }
            BackendAct::GiveUp { stream, keep } => {
                self.give_up((stream.origin, stream.key), *keep, now);
                self.answer_backend(*request, Ok(BackendAnswer::Done));
                Step::Done
            }
        }
    }

    fn begin_of_backend(&mut self, request: u64, write: &BackendWrite, now: Instant) -> Step {
        match &self.phase {
            Phase::Ready => {}
            Phase::Failed { retry, code, .. } => {
                let not_now = BackendError::NotNow(*code, retry.saturating_duration_since(now));
                self.answer_backend(request, Err(not_now));
                return Step::Done;
            }
            Phase::Loading | Phase::Raising => return Step::Wait,
        }
        let Some(writer) = self.writer_of(write.origin, now) else { return Step::Wait };
        let (is_theirs, is_used) = (writer.user == write.user, writer.taken.last() > 0);
        // The lower half of a shard's count of requests comes again after 2^32 of them.
        let stream = BackendStream { origin: write.origin, key: request as u32 };
        let answer = if !is_theirs {
            Err(BackendError::Conflict)
        } else if is_used {
            Ok(BackendAnswer::Ended)
        } else {
            match self.begin(&author(stream.by(), write), (stream.origin, stream.key), &write.content, now) {
                Ok(_) => Ok(BackendAnswer::Begun(stream)),
                Err(Refusal(code, sentence)) => Err(BackendError::Refused(code, sentence)),
            }
        };
        self.answer_backend(request, answer);
        Step::Done
    }
}

/// What is hashed of a submission. A streamed message that is sent again is another stream, so its key says nothing.
pub(super) fn hashed(by: By, content: &Content) -> Content {
    let is_end = content.kind == EventKind::End && matches!(by, By::Backend(_));
    Content { target: if is_end { 0 } else { content.target }, ..content.clone() }
}

fn author(by: By, write: &BackendWrite) -> Author {
    Author { by, user: write.user.clone(), name: write.name.clone(), permissions: None }
}
