//! The WebSockets of a shard's sessions, read by the shard itself: whichever has become readable is read in the shard's
//! turn, into one buffer for all, and frames go to their session without a task or a queue between.
//!
//! What is not for the session (texts, pings, the close) is posted to the socket's task, and the socket is not read
//! until the task has taken it.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, Wake, Waker},
    time::Instant,
};

use bytes::Bytes;
use rustc_hash::FxHashMap;

use super::{
    websocket::{Message, Reader},
    wire::{Incoming, Wire},
};
use crate::engine::SocketId;

/// Bytes of one socket read at once.
const BUFFER: usize = 64 * 1024;
/// Sockets read in one turn; the others are read in the next.
const TURN: usize = 64;

/// See the module.
pub(super) struct Sockets {
    open: FxHashMap<SocketId, Reading>,
    bell: Arc<Bell>,
    ringing: Vec<SocketId>,
    buffer: Box<[u8]>,
}

struct Reading {
    wire: Arc<Wire>,
    reader: Reader,
    waker: Waker,
    /// The task has been posted something that it may not have taken yet.
    has_posted: bool,
}

/// Which sockets are to be read.
#[derive(Debug, Default)]
struct Bell(Mutex<Rung>);

#[derive(Debug, Default)]
struct Rung {
    ids: Vec<SocketId>,
    shard: Option<Waker>,
}

/// Rings for one socket.
struct Rope {
    id: SocketId,
    bell: Arc<Bell>,
}

impl Sockets {
    pub(super) fn new() -> Self {
        Self {
            open: FxHashMap::default(),
            bell: Arc::default(),
            ringing: Vec::new(),
            buffer: vec![0; BUFFER].into(),
        }
    }

    /// From now on this socket is read here.
    pub(super) fn add(&mut self, id: SocketId, wire: Arc<Wire>, reader: Reader) {
        let waker = Waker::from(Arc::new(Rope { id, bell: self.bell.clone() }));
        waker.wake_by_ref();
        self.open.insert(id, Reading { wire, reader, waker, has_posted: false });
    }

    /// The socket's task has ended.
    pub(super) fn remove(&mut self, id: SocketId) {
        self.open.remove(&id);
    }

    /// Ready when there is something for [`read`](Self::read).
    pub(super) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut rung = self.bell.lock();
        if !rung.ids.is_empty() {
            return Poll::Ready(());
        }
        match &mut rung.shard {
            Some(waker) => waker.clone_from(cx.waker()),
            shard => *shard = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// Reads those that are readable; `false` if some are left.
    pub(super) fn read(&mut self, now: Instant, mut handle: impl FnMut(SocketId, Bytes)) -> bool {
        let Self { open, bell, ringing, buffer } = self;
        {
            let mut rung = bell.lock();
            let count = rung.ids.len().min(TURN);
            ringing.extend(rung.ids.drain(..count));
        }
        for id in ringing.drain(..) {
            if let Some(reading) = open.get_mut(&id)
                && !reading.read(buffer, now, |frames| handle(id, frames))
            {
                open.remove(&id);
            }
        }
        bell.lock().ids.is_empty()
    }
}

impl Reading {
    /// `false` if there is nothing more to be read, ever.
    fn read(&mut self, buffer: &mut [u8], now: Instant, mut handle: impl FnMut(Bytes)) -> bool {
        let Self { wire, reader, waker, has_posted } = self;
        if *has_posted && wire.has_mail(waker) {
            return true;
        }
        *has_posted = false;
        let mut cx = Context::from_waker(waker);
        let mut unread = match wire.poll_read(&mut cx, buffer, now) {
            Poll::Ready(Ok(count @ 1..)) => &buffer[..count],
            Poll::Ready(_) => {
                wire.post(Incoming::End);
                return false;
            }
            Poll::Pending => return true,
        };
        loop {
            match reader.read(&mut unread) {
                Ok(Some(Message::Binary(frames))) => handle(frames),
                Ok(Some(Message::Pong)) => {}
                Ok(Some(message)) => {
                    let is_last = matches!(message, Message::Close(_));
                    *has_posted = true;
                    wire.post(Incoming::Message(message));
                    if is_last {
                        return false;
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    wire.post(Incoming::Error(error));
                    return false;
                }
            }
        }
        // Asks to be woken, or is at once: then the others have their turn first.
        match *has_posted {
            true if wire.has_mail(waker) => {}
            _ if wire.poll_readable(&mut cx).is_pending() => {}
            _ => waker.wake_by_ref(),
        }
        true
    }
}

impl Bell {
    fn lock(&self) -> MutexGuard<'_, Rung> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Wake for Rope {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let shard = {
            let mut rung = self.bell.lock();
            rung.ids.push(self.id);
            rung.shard.take()
        };
        if let Some(shard) = shard {
            shard.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, io::Write as _, time::Duration};

    use tokio::{
        net::{TcpListener, TcpStream},
        time::timeout,
    };

    use super::*;
    use crate::io::{
        WireIo,
        websocket::{self, Opcode},
    };

    const ID: SocketId = SocketId(7);

    /// A frame of a client whose mask changes nothing.
    fn frame(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
        [&[0x80 | opcode as u8, 0x80 | payload.len() as u8, 0, 0, 0, 0], payload].concat()
    }

    async fn connected() -> (Sockets, Arc<Wire>, std::net::TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let far = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap().into_std().unwrap();
        let wire = WireIo::new(listener.accept().await.unwrap().0).into_wire();
        let mut sockets = Sockets::new();
        sockets.add(ID, wire.clone(), Reader::new(1000));
        (sockets, wire, far)
    }

    /// What a turn has for the session; none if nobody rings.
    async fn turn(sockets: &mut Sockets) -> Option<Vec<Bytes>> {
        timeout(Duration::from_millis(50), poll_fn(|cx| sockets.poll_readable(cx))).await.ok()?;
        let mut read = Vec::new();
        sockets.read(Instant::now(), |id, frames| {
            assert_eq!(id, ID);
            read.push(frames);
        });
        Some(read)
    }

    #[tokio::test]
    async fn frames_are_for_the_session_and_a_socket_waits_for_its_task_with_the_rest() {
        let (mut sockets, wire, mut far) = connected().await;
        // A new socket rings once, for what came before.
        turn(&mut sockets).await;
        let parts =
            [(Opcode::Binary, "a"), (Opcode::Text, "text"), (Opcode::Ping, "ping"), (Opcode::Binary, "b")];
        let parts = parts.map(|(opcode, payload)| frame(opcode, payload.as_bytes()));
        far.write_all(&parts.concat()).unwrap();
        assert_eq!(turn(&mut sockets).await, Some(vec![Bytes::from("a"), Bytes::from("b")]));
        far.write_all(&frame(Opcode::Binary, b"c")).unwrap();
        assert_eq!(turn(&mut sockets).await, None, "the task has not taken the text");
        let text = Incoming::Message(Message::Text("text".into()));
        assert_eq!(poll_fn(|cx| wire.poll_mail(cx)).await, text);
        assert_eq!(turn(&mut sockets).await, None, "nor the ping");
        let ping = Incoming::Message(Message::Ping(Bytes::from("ping")));
        assert_eq!(poll_fn(|cx| wire.poll_mail(cx)).await, ping);
        assert_eq!(turn(&mut sockets).await, Some(vec![Bytes::from("c")]));
        assert_eq!(turn(&mut sockets).await, None);
    }

    #[tokio::test]
    async fn the_end_is_the_last_that_is_posted() {
        for (last, posted) in [
            (frame(Opcode::Close, &[3, 232]), Incoming::Message(Message::Close(Some(1000)))),
            (vec![0x82, 0], Incoming::Error(websocket::Error::Malformed("a frame without a mask"))),
            (Vec::new(), Incoming::End),
        ] {
            let (mut sockets, wire, mut far) = connected().await;
            turn(&mut sockets).await;
            far.write_all(&last).unwrap();
            drop(far);
            while turn(&mut sockets).await.is_some() {}
            assert_eq!(poll_fn(|cx| wire.poll_mail(cx)).await, posted);
            assert!(sockets.open.is_empty());
        }
    }

    #[tokio::test]
    async fn a_socket_that_has_more_lets_the_others_go_first() {
        let (mut sockets, _wire, mut far) = connected().await;
        turn(&mut sockets).await;
        let many = frame(Opcode::Binary, b"x").repeat(2 * BUFFER / 7);
        far.write_all(&many).unwrap();
        let mut total = 0;
        while let Some(read) = turn(&mut sockets).await {
            assert!(read.len() <= BUFFER / 7 + 1);
            total += read.len();
        }
        assert_eq!(total, 2 * BUFFER / 7);
    }
}
