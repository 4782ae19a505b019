//! The TCP connection beneath a WebSocket, written to by two: the socket's task and the session's shard.
//!
//! Most of what a session sends are frames that are ready on its shard. Waking the socket's task for each of them costs
//! more than the write itself, so [`Wire`] lets the shard write a WebSocket message at once when nothing is in the way;
//! everything else, and what the connection does not take at once, is the task's, through [`WireIo`].
//!
//! A connection is watched by one runtime at a time, and [`Wire::move_to`] gives it to another one.
//!
//! Messages never mix because a write is all or nothing here: what the kernel does not take is kept, and nobody else
//! writes before it has left. It never parses what it carries.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, BytesMut};
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
    runtime::Handle,
};

use crate::engine::outbox::{Direct, Taken};

/// See the module.
#[derive(Debug)]
pub(super) struct Wire(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    stream: TcpStream,
    /// What the kernel has not taken yet of a message that counts as written.
    rest: BytesMut,
}

/// A message of at most so many bytes is written as one part.
const SHORT: usize = 1536;

/// The connection as HTTP and the WebSocket library see it.
#[derive(Debug)]
pub(super) struct WireIo(Arc<Wire>);

/// For handlers: the connection that a request came on.
#[derive(Clone, Debug)]
pub(super) struct ConnectionWire(pub(super) Arc<Wire>);

impl Wire {
    /// Lets this runtime watch the connection. Whoever waits for it has to ask again, there.
    pub(super) fn move_to(&self, runtime: &Handle) -> io::Result<()> {
        let mut inner = self.lock();
        // By a second descriptor: there is a connection at any time, and if this fails it stays where it is.
        let stream = SockRef::from(&inner.stream).try_clone()?;
        let _entered = runtime.enter();
        inner.stream = TcpStream::from_std(stream.into())?;
        Ok(())
    }

    /// Takes all of these bytes, or none if others have to leave first.
    fn take(&self, parts: &[&[u8]]) -> io::Result<Taken> {
        let Inner { stream, rest } = &mut *self.lock();
        if !rest.is_empty() {
            return Ok(Taken::Nothing);
        }
        let written = match write(stream, parts) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
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
    pub(super) fn poll_drain(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let Inner { stream, rest } = &mut *self.lock();
            if rest.is_empty() {
                return Poll::Ready(Ok(()));
            }
            match stream.try_write(rest) {
                Ok(count) => rest.advance(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
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
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Direct for Wire {
    fn write_message(&self, parts: &[&[u8]]) -> Taken {
        let mut header = [0; 10];
        let header = binary_header(parts.iter().map(|part| part.len()).sum(), &mut header);
        // An error shows to the task as well, which ends the connection.
        let taken = match parts {
            [message] => self.take(&[header, message]),
            _ => self.take(&[&[header], parts].concat()),
        };
        taken.unwrap_or(Taken::Nothing)
    }
}

/// Writes as much as the kernel takes at once.
fn write(stream: &TcpStream, parts: &[&[u8]]) -> io::Result<usize> {
    if let [only] = parts {
        return stream.try_write(only);
    }
    let length: usize = parts.iter().map(|part| part.len()).sum();
    if length > SHORT {
        let slices: Vec<_> = parts.iter().map(|part| IoSlice::new(part)).collect();
        // Not `writev`, which takes a detour through the kernel's file system.
        return stream.try_io(Interest::WRITABLE, || SockRef::from(stream).send_vectored(&slices));
    }
    // Putting a short message together takes less than the kernel needs for parts.
    let mut whole = [0; SHORT];
    let mut end = 0;
    for part in parts {
        whole[end..end + part.len()].copy_from_slice(part);
        end += part.len();
    }
    stream.try_write(&whole[..end])
}

/// The header of an unfragmented, unmasked binary message (RFC 6455 §5.2).
fn binary_header(length: usize, header: &mut [u8; 10]) -> &[u8] {
    header[0] = 0x82;
    if length < 126 {
        header[1] = length as u8;
        &header[..2]
    } else if let Ok(length) = u16::try_from(length) {
        header[1] = 126;
        header[2..4].copy_from_slice(&length.to_be_bytes());
        &header[..4]
    } else {
        header[1] = 127;
        header[2..].copy_from_slice(&(length as u64).to_be_bytes());
        &header[..]
    }
}

impl WireIo {
    /// Takes the connection over.
    pub(super) fn new(stream: TcpStream) -> Self {
        // Frames are merged before they are written, and must not wait after that.
        let _ = stream.set_nodelay(true);
        Self(Arc::new(Wire(Mutex::new(Inner { stream, rest: BytesMut::new() }))))
    }

    /// The other way in.
    pub(super) fn wire(&self) -> ConnectionWire {
        ConnectionWire(self.0.clone())
    }
}

impl AsyncRead for WireIo {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.lock().stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for WireIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_drain(cx))?;
            if self.0.take(&[bytes])? != Taken::Nothing {
                return Poll::Ready(Ok(bytes.len()));
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_drain(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.0.poll_drain(cx))?;
        Poll::Ready(SockRef::from(&self.0.lock().stream).shutdown(std::net::Shutdown::Write))
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
            let mut header = [0; 10];
            let header = binary_header(whole.len(), &mut header);
            let mut read = vec![0; header.len() + whole.len()];
            far.read_exact(&mut read).await.unwrap();
            assert_eq!(read, [header, &whole[..]].concat());
        }
    }

    #[test]
    fn a_header_has_the_shortest_form_for_its_length() {
        let header = |length| binary_header(length, &mut [0; 10]).to_vec();
        assert_eq!(header(125), [0x82, 125]);
        assert_eq!(header(126), [0x82, 126, 0, 126]);
        assert_eq!(header(65_535), [0x82, 126, 0xff, 0xff]);
        assert_eq!(header(65_536), [0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]);
    }
}
