//! TLS over the connection of a [`Wire`](super::Wire), driven by hand, because two read and write it: the socket's task and
//! the session's shard.
//!
//! What the kernel does not take of a message stays with the TLS library, encrypted, and nothing else is encrypted before
//! it has left: so there is never more than one message there. Of what has come, it holds a record at most.

use std::{
    io::{self, BufRead as _, IoSlice, Read, Write},
    pin::Pin,
    task::{Context, Poll, ready},
};

use socket2::SockRef;
use tokio::{
    io::{AsyncRead as _, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::rustls::ServerConnection;

use super::{PARTS, Taken, would_block};

/// More than a record of TLS has (RFC 8446 §5.2, RFC 5246 §6.2.3). So much of one may have come before.
const RECORD: usize = 18 * 1024;
/// Bytes that are encrypted at once where whoever writes has more.
pub(super) const CHUNK: usize = 64 * 1024;

/// See the module.
#[derive(Debug)]
pub(super) struct Tls(ServerConnection);

impl Tls {
    /// Of a connection whose handshake is done.
    pub(super) fn new(mut connection: ServerConnection) -> Self {
        // A message is taken as a whole or not at all, and that is the bound.
        connection.set_buffer_limit(None);
        Self(connection)
    }

    /// Reads what has come, decrypted, at most as much as the buffer holds: 0 bytes at the end.
    pub(super) fn poll_read(
        &mut self,
        stream: &mut TcpStream,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            match self.0.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // What is carried knows its own end, so one that nobody has announced is no worse.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Poll::Ready(Ok(0)),
                read => return Poll::Ready(read),
            }
            // Reading in small pieces would take a system call for each.
            let read = if buffer.len() >= 2 * RECORD {
                ready!(self.poll_receive(stream, cx, buffer))
            } else {
                let read = self.0.read_tls(&mut Receiving { stream, cx });
                if read.as_ref().is_err_and(would_block) {
                    return Poll::Pending;
                }
                read.and_then(|_| self.decrypt(stream)).map(|()| 0)
            };
            match read {
                Ok(0) => {}
                read => return Poll::Ready(read),
            }
        }
    }

    /// Receives once, into the buffer itself: what is encrypted behind, and what is decrypted in front, where a record that
    /// has begun before has room. The bytes in front; none is no end.
    fn poll_receive(
        &mut self,
        stream: &mut TcpStream,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut room = ReadBuf::new(&mut buffer[RECORD..]);
        ready!(Pin::new(&mut *stream).poll_read(cx, &mut room))?;
        let (mut begin, end) = (RECORD, RECORD + room.filled().len());
        let mut filled = 0;
        loop {
            // With no bytes, if none were received: then it knows of the end.
            let read = self.0.read_tls(&mut &buffer[begin..end])?;
            begin += read;
            self.decrypt(stream)?;
            while let Ok(count @ 1..) = self.0.reader().read(&mut buffer[filled..begin]) {
                filled += count;
            }
            if begin == end || read == 0 {
                return Poll::Ready(Ok(filled));
            }
        }
    }

    fn decrypt(&mut self, stream: &TcpStream) -> io::Result<()> {
        let decrypted = self.0.process_new_packets();
        // An alert, if there is anything. What does not leave now leaves before whatever is written next.
        let _ = self.flush(stream);
        decrypted.map(drop).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }

    /// Ready when [`poll_read`](Self::poll_read) may have something.
    pub(super) fn poll_readable(&mut self, stream: &TcpStream, cx: &mut Context<'_>) -> Poll<()> {
        match self.0.reader().fill_buf() {
            Err(error) if would_block(&error) => stream.poll_read_ready(cx).map(drop),
            _ => Poll::Ready(()),
        }
    }

    /// Takes all of these bytes, or none if others have to leave first.
    pub(super) fn take(&mut self, stream: &TcpStream, parts: &[&[u8]]) -> io::Result<Taken> {
        if !self.flush(stream)? {
            return Ok(Taken::Nothing);
        }
        if parts.len() <= PARTS {
            let mut slices = [IoSlice::new(&[]); PARTS];
            for (slice, part) in slices.iter_mut().zip(parts) {
                *slice = IoSlice::new(part);
            }
            self.encrypt(&slices[..parts.len()])?;
        } else {
            self.encrypt(&parts.iter().map(|part| IoSlice::new(part)).collect::<Vec<_>>())?;
        }
        Ok(if self.flush(stream)? { Taken::Written } else { Taken::Kept })
    }

    fn encrypt(&mut self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        match self.0.writer().write_vectored(parts)? {
            taken if taken == length => Ok(()),
            _ => Err(io::Error::other("TLS takes a part of a message")),
        }
    }

    /// Ready when nothing is kept any more.
    pub(super) fn poll_drain(&mut self, stream: &TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.flush(stream)? {
            ready!(stream.poll_write_ready(cx))?;
        }
        Poll::Ready(Ok(()))
    }

    /// Says that nothing comes any more; once.
    pub(super) fn say_goodbye(&mut self, stream: &TcpStream) {
        self.0.send_close_notify();
        // It may be gone already.
        let _ = self.flush(stream);
    }

    /// Writes what there is; `false` if the kernel does not take all of it now.
    fn flush(&mut self, stream: &TcpStream) -> io::Result<bool> {
        while self.0.wants_write() {
            match self.0.write_tls(&mut Sending { stream }) {
                Ok(_) => {}
                Err(error) if would_block(&error) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Whether something is kept.
    #[cfg(test)]
    pub(super) fn has_rest(&self) -> bool {
        self.0.wants_write()
    }
}

/// What the TLS library reads from.
struct Receiving<'a, 'b> {
    stream: &'a mut TcpStream,
    cx: &'a mut Context<'b>,
}

impl Read for Receiving<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut buffer = ReadBuf::new(buffer);
        match Pin::new(&mut *self.stream).poll_read(self.cx, &mut buffer) {
            Poll::Ready(read) => read.map(|()| buffer.filled().len()),
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

/// What it writes to.
struct Sending<'a> {
    stream: &'a TcpStream,
}

impl Write for Sending<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        super::noted(self.stream, SockRef::from(self.stream).send(bytes))
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let socket = SockRef::from(self.stream);
        let sent = if let [only] = parts { socket.send(only) } else { socket.send_vectored(parts) };
        super::noted(self.stream, sent)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
