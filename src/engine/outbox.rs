//! What a shard has for one WebSocket: frames and texts, handed from the shard's thread to the socket's task.
//!
//! Frames that come while the task is still writing lie together and leave as one message (MSG8), so merging grows
//! with load and costs no delay. The outbox is bounded by its writer: the session asks [`Outbox::room`] before it
//! adds frames. It knows neither WebSocket nor runtime; the task registers a [`Waker`].

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard},
    task::{Poll, Waker},
};

use bytes::BytesMut;
use switchyard_signaling::{Code, limits};

/// Texts that may wait; beyond it the reader is gone or hostile.
const TEXTS: usize = 256;

/// One WebSocket's outgoing side.
#[derive(Debug, Default)]
pub struct Outbox {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    frames: BytesMut,
    texts: VecDeque<String>,
    close: Option<Code>,
    /// Bytes taken by the task and not yet written.
    writing: usize,
    /// The session has more than there was room for.
    starved: bool,
    waker: Option<Waker>,
}

/// What the task is to do next.
#[derive(Debug, PartialEq, Eq)]
pub enum Outgoing {
    /// Write a text message.
    Text(String),
    /// Write one binary message.
    Frames(BytesMut),
    /// Close with this code; nothing follows.
    Close(Code),
}

impl Outbox {
    /// Bytes of frames that still find room.
    pub fn room(&self) -> usize {
        let inner = self.lock();
        limits::PIPE_BYTES.saturating_sub(inner.frames.len() + inner.writing)
    }

    /// Adds whole frames with their lengths. `starved` says that the session has more, and wants to hear of room.
    pub fn push_frames(&self, frames: &[u8], starved: bool) {
        let mut inner = self.lock();
        inner.frames.extend_from_slice(frames);
        inner.starved = starved;
        inner.wake();
    }

    /// The session has frames that found no room.
    pub fn set_starved(&self) {
        self.lock().starved = true;
    }

    /// Adds a text message; a reader that lets too many wait is closed.
    pub fn push_text(&self, text: String) {
        let mut inner = self.lock();
        if inner.texts.len() >= TEXTS {
            inner.close = inner.close.or(Some(Code::Overloaded));
        } else {
            inner.texts.push_back(text);
        }
        inner.wake();
    }

    /// Closes after what is there has been written.
    pub fn close(&self, code: Code) {
        let mut inner = self.lock();
        inner.close = inner.close.or(Some(code));
        inner.wake();
    }

    /// The task has written what it took; returns whether the session wants to hear that there is room.
    pub fn written(&self) -> bool {
        let mut inner = self.lock();
        inner.writing = 0;
        std::mem::take(&mut inner.starved)
    }

    /// The next thing to write: texts first, then frames, then the close.
    pub fn poll(&self, waker: &Waker) -> Poll<Outgoing> {
        let mut inner = self.lock();
        if let Some(text) = inner.texts.pop_front() {
            return Poll::Ready(Outgoing::Text(text));
        }
        if !inner.frames.is_empty() {
            let frames = std::mem::take(&mut inner.frames);
            inner.writing = frames.len();
            return Poll::Ready(Outgoing::Frames(frames));
        }
        if let Some(code) = inner.close {
            return Poll::Ready(Outgoing::Close(code));
        }
        inner.waker = Some(waker.clone());
        Poll::Pending
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Inner {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn poll(outbox: &Outbox) -> Poll<Outgoing> {
        outbox.poll(Waker::noop())
    }

    #[test]
    fn frames_that_come_while_the_task_writes_leave_together() {
        let outbox = Outbox::default();
        outbox.push_frames(b"ab", false);
        assert_eq!(poll(&outbox), Poll::Ready(Outgoing::Frames(BytesMut::from("ab"))));
        outbox.push_frames(b"cd", false);
        outbox.push_frames(b"ef", true);
        assert_eq!(outbox.room(), limits::PIPE_BYTES - 6);
        assert!(outbox.written());
        assert_eq!(poll(&outbox), Poll::Ready(Outgoing::Frames(BytesMut::from("cdef"))));
        assert!(!outbox.written());
        assert_eq!(poll(&outbox), Poll::Pending);
    }

    #[test]
    fn texts_go_before_frames_and_a_close_goes_last() {
        let outbox = Outbox::default();
        outbox.close(Code::Bye);
        outbox.push_frames(b"ab", false);
        outbox.push_text("t".into());
        assert_eq!(poll(&outbox), Poll::Ready(Outgoing::Text("t".into())));
        assert_eq!(poll(&outbox), Poll::Ready(Outgoing::Frames(BytesMut::from("ab"))));
        assert_eq!(poll(&outbox), Poll::Ready(Outgoing::Close(Code::Bye)));
    }

    #[test]
    fn a_reader_that_lets_texts_pile_up_is_closed() {
        let outbox = Outbox::default();
        for _ in 0..10_000 {
            outbox.push_text("t".into());
        }
        let texts = std::iter::from_fn(|| match poll(&outbox) {
            Poll::Ready(Outgoing::Text(text)) => Some(text),
            _ => None,
        });
        assert_eq!(texts.count(), TEXTS);
        assert_eq!(poll(&outbox), Poll::Ready(Outgoing::Close(Code::Overloaded)));
    }
}
