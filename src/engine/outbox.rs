//! What a shard has for one WebSocket: frames and texts, handed from the shard's thread to the socket's task.
//!
//! Frames leave at once from the shard's thread, through [`Direct`], while nothing is in the way. Those that come while
//! something is still being written lie together and leave as one message (MSG8), so merging grows with load and costs
//! no delay. The outbox is bounded by its writer: the session asks [`Outbox::room`] before it adds frames. It knows
//! neither WebSocket nor runtime; the task registers a [`Waker`].

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, MutexGuard},
    task::{Poll, Waker},
};

use bytes::BytesMut;
use switchyard_signaling::{Code, limits};

/// Texts that may wait; beyond it the reader is gone or hostile.
const TEXTS: usize = 256;

/// A way to write without the task.
pub trait Direct: fmt::Debug + Send + Sync {
    /// Writes one binary message, given in parts, or does not begin with it. It never waits.
    fn write_message(&self, parts: &[&[u8]]) -> Taken;
}

/// What became of a message given to [`Direct`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It is on its way.
    Written,
    /// A part of it is kept, which the task has to see off.
    Kept,
    /// Something else has to leave first.
    Nothing,
}

/// One WebSocket's outgoing side.
#[derive(Debug, Default)]
pub struct Outbox {
    direct: Option<Arc<dyn Direct>>,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    frames: BytesMut,
    texts: VecDeque<String>,
    close: Option<Code>,
    /// Bytes of frames taken and not yet written.
    writing: usize,
    /// The task is writing: whatever comes goes behind it.
    is_writing: bool,
    /// The task has to see off what a direct write has left, and to tell of the room.
    is_behind: bool,
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
    /// Wait until what was written directly has left.
    Drain,
    /// Close with this code; nothing follows.
    Close(Code),
}

impl Outbox {
    /// One whose frames go past the task while they can.
    pub fn direct(direct: Arc<dyn Direct>) -> Self {
        Self { direct: Some(direct), inner: Mutex::default() }
    }

    /// Bytes of frames that still find room.
    pub fn room(&self) -> usize {
        let inner = self.lock();
        limits::PIPE_BYTES.saturating_sub(inner.frames.len() + inner.writing)
    }

    /// Adds whole frames with their lengths, in parts that end anywhere. `starved` says that the session has more, and wants to hear of room.
    pub fn push_frames(&self, parts: &[&[u8]], starved: bool) {
        let mut inner = self.lock();
        inner.starved = starved;
        let taken = match &self.direct {
            Some(direct) if inner.is_quiet() => direct.write_message(parts),
            _ => Taken::Nothing,
        };
        match taken {
            Taken::Written if !starved => return,
            Taken::Written => inner.is_behind = true,
            Taken::Kept => {
                inner.is_behind = true;
                inner.writing = parts.iter().map(|part| part.len()).sum();
            }
            Taken::Nothing => parts.iter().for_each(|part| inner.frames.extend_from_slice(part)),
        }
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
        inner.is_writing = false;
        std::mem::take(&mut inner.starved)
    }

    /// The next thing to write: texts first, then frames, then the close. After each but the close the task calls
    /// [`written`](Self::written).
    pub fn poll(&self, waker: &Waker) -> Poll<Outgoing> {
        let mut inner = self.lock();
        if std::mem::take(&mut inner.is_behind) {
            inner.is_writing = true;
            return Poll::Ready(Outgoing::Drain);
        }
        if let Some(text) = inner.texts.pop_front() {
            inner.is_writing = true;
            return Poll::Ready(Outgoing::Text(text));
        }
        if !inner.frames.is_empty() {
            let frames = std::mem::take(&mut inner.frames);
            inner.writing = frames.len();
            inner.is_writing = true;
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
    /// Nothing is being written and nothing waits to be.
    fn is_quiet(&self) -> bool {
        !self.is_writing
            && !self.is_behind
            && self.texts.is_empty()
            && self.frames.is_empty()
            && self.close.is_none()
    }

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
        outbox.push_frames(&[b"ab"], false);
        assert_eq!(poll(&outbox), Poll::Ready(Outgoing::Frames(BytesMut::from("ab"))));
        outbox.push_frames(&[b"cd"], false);
        outbox.push_frames(&[b"ef"], true);
        assert_eq!(outbox.room(), limits::PIPE_BYTES - 6);
        assert!(outbox.written());
        assert_eq!(poll(&outbox), Poll::Ready(Outgoing::Frames(BytesMut::from("cdef"))));
        assert!(!outbox.written());
        assert_eq!(poll(&outbox), Poll::Pending);
    }

    /// Takes as many messages as it says, and a part of the next one.
    #[derive(Debug, Default)]
    struct Socket {
        takes: usize,
        written: Mutex<Vec<Vec<u8>>>,
    }

    impl Direct for Socket {
        fn write_message(&self, parts: &[&[u8]]) -> Taken {
            let mut written = self.written.lock().unwrap();
            written.push(parts.concat());
            if written.len() <= self.takes { Taken::Written } else { Taken::Kept }
        }
    }

    #[test]
    fn frames_pass_the_task_until_something_is_in_the_way() {
        let socket = Arc::new(Socket { takes: 2, ..Socket::default() });
        let outbox = Outbox::direct(socket.clone());
        let written = || socket.written.lock().unwrap().concat();
        outbox.push_frames(&[b"a"], false);
        assert_eq!((poll(&outbox), written()), (Poll::Pending, b"a".to_vec()));
        outbox.push_text("t".into());
        outbox.push_frames(&[b"b"], false);
        assert_eq!(poll(&outbox), Poll::Ready(Outgoing::Text("t".into())));
        outbox.push_frames(&[b"c"], false);
        assert_eq!(written(), b"a", "frames do not overtake a text that is being written");
        assert!(!outbox.written());
        assert_eq!(poll(&outbox), Poll::Ready(Outgoing::Frames(BytesMut::from("bc"))));
        assert!(!outbox.written());
        outbox.push_frames(&[b"d"], true);
        assert_eq!((poll(&outbox), written()), (Poll::Ready(Outgoing::Drain), b"ad".to_vec()));
        assert!(outbox.written(), "a session that has more hears of the room");
        outbox.push_frames(&[b"e"], false);
        outbox.push_frames(&[b"f"], false);
        assert_eq!(outbox.room(), limits::PIPE_BYTES - 2);
        assert_eq!((poll(&outbox), written()), (Poll::Ready(Outgoing::Drain), b"ade".to_vec()));
        assert!(!outbox.written());
        assert_eq!(poll(&outbox), Poll::Ready(Outgoing::Frames(BytesMut::from("f"))));
    }

    #[test]
    fn texts_go_before_frames_and_a_close_goes_last() {
        let outbox = Outbox::default();
        outbox.close(Code::Bye);
        outbox.push_frames(&[b"ab"], false);
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
