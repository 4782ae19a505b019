//! The TCP connection beneath a WebSocket, used by two: the socket's task and the session's shard.
//!
//! Most of what a session sends are frames that are ready on its shard. Waking the socket's task for each of them costs
//! more than the write itself, so [`Wire`] lets the shard write a WebSocket message at once when nothing is in the way;
//! everything else, and what the connection does not take at once, is the task's. Likewise most of what a client sends
//! are frames: once the session has its home, the shard reads the connection (`sockets`), and [posts](Wire::post) to the
//! task what is not for the session.
//!
//! A connection is watched by one runtime at a time, and [`Wire::move_to`] gives it to another one. It may be one over
//! TLS ([`tls`]).
//!
//! Messages never mix because a write is all or nothing here: what the kernel does not take is kept, and nobody else
//! writes before it has left. It never parses what it carries.

mod tls;

use std::{
    collections::VecDeque,
    future::poll_fn,
    io::{self, IoSlice},
    net::Shutdown,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker, ready},
    time::Instant,
};

use bytes::{Buf as _, BytesMut};
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
    runtime::Handle,
};
use tokio_rustls::rustls::ServerConnection;

use self::tls::Tls;
use super::websocket::{self, Opcode};
use crate::engine::outbox::{Direct, Taken};

/// See the module.
#[derive(Debug)]
pub struct Wire {
    inner: Mutex<Inner>,
    mail: Mutex<Mail>,
}

#[derive(Debug)]
struct Inner {
    stream: TcpStream,
    tls: Option<Box<Tls>>,
    /// What the kernel has not taken yet of a message that counts as written, where there is no TLS.
    rest: BytesMut,
    /// When something was read last.
    heard: Instant,
}

/// What the shard has read for the task.
#[derive(Debug, Default)]
struct Mail {
    waiting: VecDeque<Incoming>,
    task: Option<Waker>,
    /// Reading goes on when the task has taken everything.
    reader: Option<Waker>,
}

/// What comes by a WebSocket.
#[derive(Debug, PartialEq, Eq)]
pub enum Incoming {
    /// A message.
    Message(websocket::Message),
    /// Something that is none; nothing comes after it.
    Error(websocket::Error),
    /// The connection has ended.
    End,
}

/// A message of at most so many bytes is written as one part.
const SHORT: usize = 1536;
/// Parts of a message that are written as they are; more are rare.
const PARTS: usize = 8;

/// The connection as HTTP sees it.
#[derive(Debug)]
pub struct WireIo(Arc<Wire>);

impl Wire {
    /// Lets this runtime watch the connection. Whoever waits for it has to ask again, there.
    ///
    /// # Errors
    /// If the system has no descriptor to spare; it stays where it is.
    pub fn move_to(&self, runtime: &Handle) -> io::Result<()> {
        let mut inner = self.lock();
        // By a second descriptor: there is a connection at any time, and if this fails it stays where it is.
        let stream = SockRef::from(&inner.stream).try_clone()?;
        let _entered = runtime.enter();
        inner.stream = TcpStream::from_std(stream.into())?;
        Ok(())
    }

    /// Reads what has come, at most as much as the buffer holds: 0 bytes at the end of the connection.
    pub fn poll_read(
        &self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
        now: Instant,
    ) -> Poll<io::Result<usize>> {
        let Inner { stream, tls, heard, .. } = &mut *self.lock();
        if let Some(tls) = tls {
            let count = ready!(tls.poll_read(stream, cx, buffer))?;
            *heard = now;
            return Poll::Ready(Ok(count));
        }
        let mut buffer = ReadBuf::new(buffer);
        // It leaves the socket unreadable when less came than there was room for: then nobody has to ask in vain.
        ready!(Pin::new(stream).poll_read(cx, &mut buffer))?;
        *heard = now;
        Poll::Ready(Ok(buffer.filled().len()))
    }

    /// Ready when [`poll_read`](Self::poll_read) may have something.
    pub(super) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        let Inner { stream, tls, .. } = &mut *self.lock();
        match tls {
            Some(tls) => tls.poll_readable(stream, cx),
            None => stream.poll_read_ready(cx).map(drop),
        }
    }

    /// When something was read last.
    pub fn heard(&self) -> Instant {
        self.lock().heard
    }

    /// Leaves something for the task.
    pub(super) fn post(&self, incoming: Incoming) {
        let mut mail = self.mail();
        mail.waiting.push_back(incoming);
        if let Some(task) = mail.task.take() {
            task.wake();
        }
    }

    /// Whether the task has not taken everything; then the reader is woken when it has.
    pub(super) fn has_mail(&self, reader: &Waker) -> bool {
        let mut mail = self.mail();
        let waits = !mail.waiting.is_empty();
        if waits {
            mail.reader = Some(reader.clone());
        }
        waits
    }

    /// What the shard has posted.
    pub fn poll_mail(&self, cx: &mut Context<'_>) -> Poll<Incoming> {
        let mut mail = self.mail();
        let Some(incoming) = mail.waiting.pop_front() else {
            mail.task = Some(cx.waker().clone());
            return Poll::Pending;
        };
        if mail.waiting.is_empty() {
            mail.waiting = VecDeque::new();
            if let Some(reader) = mail.reader.take() {
                reader.wake();
            }
        }
        Poll::Ready(incoming)
    }

    /// Writes a message of the task's when all before it has left, and waits until it has left itself.
    ///
    /// # Errors
    /// If the connection is broken.
    pub async fn send(&self, opcode: Opcode, payload: &[u8]) -> io::Result<()> {
        let mut head = [0; 10];
        let head = websocket::head(opcode, payload.len(), &mut head);
        poll_fn(|cx| self.poll_write(cx, &[head, payload])).await?;
        poll_fn(|cx| self.poll_drain(cx)).await
    }

    /// Answers the client's close with its code, if nothing is in the way.
    pub fn write_close(&self, code: Option<u16>) {
        let code = code.map(u16::to_be_bytes);
        let payload = code.as_ref().map_or(&[][..], |code| code);
        let mut head = [0; 10];
        let _ = self.take(&[websocket::head(Opcode::Close, payload.len(), &mut head), payload]);
    }

    /// Nothing is written after this; what is on its way arrives.
    pub fn shut_down(&self) {
        // It may be gone already.
        let _ = self.lock().shut_down();
    }

    fn poll_write(&self, cx: &mut Context<'_>, parts: &[&[u8]]) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_drain(cx))?;
            if self.take(parts)? != Taken::Nothing {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Takes all of these bytes, or none if others have to leave first.
    fn take(&self, parts: &[&[u8]]) -> io::Result<Taken> {
        let Inner { stream, tls, rest, .. } = &mut *self.lock();
        if let Some(tls) = tls {
            return tls.take(stream, parts);
        }
        if !rest.is_empty() {
            return Ok(Taken::Nothing);
        }
        let written = match write(stream, parts) {
            Ok(count) => count,
            Err(error) if would_block(&error) => 0,
            Err(error) => return Err(error),
        };
        let mut skip = written;
        for part in parts {
            let taken = skip.min(part.len());
            rest.extend_from_slice(&part[taken..]);
            skip -= taken;
        }
        Ok(if rest.is_empty() { Taken::Written } else { Taken::Kept })
    }

    /// Ready when nothing is kept any more.
    ///
    /// # Errors
    /// If the connection is broken.
    pub fn poll_drain(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let Inner { stream, tls, rest, .. } = &mut *self.lock();
            if let Some(tls) = tls {
                return tls.poll_drain(stream, cx);
            }
            if rest.is_empty() {
                return Poll::Ready(Ok(()));
            }
            match stream.try_write(rest) {
                Ok(count) => rest.advance(count),
                Err(error) if would_block(&error) => {
                    ready!(stream.poll_write_ready(cx))?;
                }
                Err(error) => {
                    rest.clear();
                    return Poll::Ready(Err(error));
                }
            }
            if rest.is_empty() {
                // A slow reader's leftovers are rare; an idle connection holds no memory for them.
                *rest = BytesMut::new();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn mail(&self) -> MutexGuard<'_, Mail> {
        self.mail.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn shut_down(&mut self) -> io::Result<()> {
        if let Some(tls) = &mut self.tls {
            tls.say_goodbye(&self.stream);
        }
        SockRef::from(&self.stream).shutdown(Shutdown::Write)
    }
}

impl Drop for Inner {
    /// TCP says by itself that it ends; TLS takes an end without a goodbye for one that somebody has cut off.
    fn drop(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.say_goodbye(&self.stream);
        }
    }
}

impl Direct for Wire {
    fn write_message(&self, parts: &[&[u8]]) -> Taken {
        let mut head = [0; 10];
        let head = websocket::head(Opcode::Binary, parts.iter().map(|part| part.len()).sum(), &mut head);
        // An error shows to the task as well, which ends the connection.
        let taken = match *parts {
            [message] => self.take(&[head, message]),
            [one, two] => self.take(&[head, one, two]),
            [one, two, three] => self.take(&[head, one, two, three]),
            _ => self.take(&[&[head], parts].concat()),
        };
        taken.unwrap_or(Taken::Nothing)
    }
}

/// Writes as much as the kernel takes at once.
fn write(stream: &TcpStream, parts: &[&[u8]]) -> io::Result<usize> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let socket = SockRef::from(stream);
    let written = if let [only] = parts {
        socket.send(only)
    } else if length <= SHORT {
        // Putting a short message together takes less than the kernel needs for parts.
        let mut whole = [0; SHORT];
        let mut end = 0;
        for part in parts {
            whole[end..end + part.len()].copy_from_slice(part);
            end += part.len();
        }
        socket.send(&whole[..end])
    } else if parts.len() <= PARTS {
        let mut slices = [IoSlice::new(&[]); PARTS];
        for (slice, part) in slices.iter_mut().zip(parts) {
            *slice = IoSlice::new(part);
        }
        // Not `writev`, which takes a detour through the kernel's file system.
        socket.send_vectored(&slices[..parts.len()])
    } else {
        let slices: Vec<_> = parts.iter().map(|part| IoSlice::new(part)).collect();
        socket.send_vectored(&slices)
    };
    noted(stream, written)
}

/// Writing goes past the runtime, which need not know of a write that succeeds. One that does not is what it waits after.
fn noted(stream: &TcpStream, written: io::Result<usize>) -> io::Result<usize> {
    match written {
        Err(error) if would_block(&error) => stream.try_io(Interest::WRITABLE, || Err(error)),
        written => written,
    }
}

fn would_block(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}

impl WireIo {
    /// Takes the connection over.
    pub fn new(stream: TcpStream) -> Self {
        Self::of(stream, None)
    }

    /// Takes a connection over that has agreed on TLS.
    pub fn over_tls(stream: TcpStream, connection: ServerConnection) -> Self {
        Self::of(stream, Some(Tls::new(connection).into()))
    }

    fn of(stream: TcpStream, tls: Option<Box<Tls>>) -> Self {
        // Frames are merged before they are written, and must not wait after that.
        let _ = stream.set_nodelay(true);
        let inner = Inner { stream, tls, rest: BytesMut::new(), heard: Instant::now() };
        Self(Arc::new(Wire { inner: Mutex::new(inner), mail: Mutex::default() }))
    }

    /// The connection itself, when HTTP has done with it.
    pub fn into_wire(self) -> Arc<Wire> {
        self.0
    }
}

impl AsyncRead for WireIo {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Inner { stream, tls, .. } = &mut *self.0.lock();
        let Some(tls) = tls else {
            return Pin::new(stream).poll_read(cx, buffer);
        };
        let count = ready!(tls.poll_read(stream, cx, buffer.initialize_unfilled()))?;
        buffer.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for WireIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        // What is encrypted is a copy: not of a whole file.
        let is_secure = self.0.lock().tls.is_some();
        let bytes = if is_secure { &bytes[..bytes.len().min(tls::CHUNK)] } else { bytes };
        self.0.poll_write(cx, &[bytes]).map_ok(|()| bytes.len())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_drain(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.0.poll_drain(cx))?;
        Poll::Ready(self.0.lock().shut_down())
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    async fn connection() -> (WireIo, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let far = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (WireIo::new(listener.accept().await.unwrap().0), far)
    }

    #[tokio::test]
    async fn what_a_slow_reader_does_not_take_is_kept_and_nothing_overtakes_it() {
        let (mut near, mut far) = connection().await;
        let wire = near.0.clone();
        let message = vec![7; 60_000];
        let mut written = 0;
        while wire.lock().rest.is_empty() {
            assert_ne!(wire.write_message(&[&message]), Taken::Nothing);
            written += 1;
        }
        assert_eq!(wire.write_message(&[&message]), Taken::Nothing);
        let reader = tokio::spawn(async move {
            let mut all = Vec::new();
            far.read_to_end(&mut all).await.unwrap();
            all
        });
        near.write_all(b"the task's").await.unwrap();
        near.shutdown().await.unwrap();
        let all = reader.await.unwrap();
        let framed = 4 + message.len();
        assert_eq!(all.len(), written * framed + b"the task's".len());
        assert!(all.ends_with(b"the task's"));
        assert!(all[..written * framed].chunks(framed).all(|one| one[..4] == [0x82, 126, 0xea, 0x60]));
    }

    #[test]
    fn a_connection_that_has_moved_needs_its_first_runtime_no_more() {
        let [first, second] =
            [(); 2].map(|()| tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap());
        let (mut near, mut far) = first.block_on(async {
            let (near, far) = connection().await;
            (near, far.into_std().unwrap())
        });
        io::Write::write_all(&mut far, b"before").unwrap();
        near.0.move_to(second.handle()).unwrap();
        drop(first);
        io::Write::write_all(&mut far, b" and after").unwrap();
        second.block_on(async {
            let mut read = [0; 16];
            near.read_exact(&mut read).await.unwrap();
            assert_eq!(&read, b"before and after");
            near.write_all(b"back").await.unwrap();
        });
        far.set_nonblocking(false).unwrap();
        let mut read = [0; 4];
        io::Read::read_exact(&mut far, &mut read).unwrap();
        assert_eq!(&read, b"back");
    }

    #[tokio::test]
    async fn a_message_in_many_parts_arrives_whole() {
        let (near, mut far) = connection().await;
        for long in [3, 2 * SHORT] {
            let long = vec![9; long];
            assert_eq!(near.0.write_message(&[b"one", &long, b"", b"two"]), Taken::Written);
            let whole = [b"one", &long[..], b"two"].concat();
            let mut head = [0; 10];
            let head = websocket::head(Opcode::Binary, whole.len(), &mut head);
            let mut read = vec![0; head.len() + whole.len()];
            far.read_exact(&mut read).await.unwrap();
            assert_eq!(read, [head, &whole[..]].concat());
        }
    }
}
