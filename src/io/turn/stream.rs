//! TURN's clients that come by TCP and TLS: reading, decrypting and cutting into messages; collecting what is for them and
//! writing it once a turn.
//!
//! What a client does not read is dropped, as a slow network drops it, and it is let go when nothing moves for long.

use std::{
    io::{self, Read as _, Write as _},
    mem,
    net::TcpStream,
    os::fd::AsRawFd as _,
    time::{Duration, Instant},
};

use mio::{Interest, Registry, Token, unix::SourceFd};
use rustc_hash::FxHashMap;
use switchyard_turn_config::{
    framing::Stream as Framing,
    server::{Link, Server},
};
use tokio_rustls::rustls::ServerConnection;

use super::Connected;

/// Bytes that may wait for a client; data above it is dropped.
const WAITING: usize = 128 * 1024;
/// Bytes that answers, which are not dropped, may add.
const ANSWERS: usize = 64 * 1024;
/// Memory that a client may keep when nothing waits for it.
const KEPT: usize = 4096;
/// How long a client that reads nothing is waited for.
const STALLED: Duration = Duration::from_secs(30);
/// How long the last answer of a client whose allocation has ended may take.
const LEAVING: Duration = Duration::from_secs(2);
/// Bytes read from one client before others have a turn.
const BUDGET: usize = 128 * 1024;
/// Bytes read at once.
const READ: usize = 64 * 1024;
/// More than a record of TLS has, of which all but the end may have come before.
const RECORD: usize = 18 * 1024;

/// One client.
#[derive(Debug)]
pub(super) struct Stream {
    link: Link,
    socket: TcpStream,
    tls: Option<Box<ServerConnection>>,
    framing: Option<Framing>,
    waiting: Vec<u8>,
    /// Since when something has waited without any of it leaving.
    stalled: Option<Instant>,
    /// It ends when everything has left, or then.
    leaving: Option<Instant>,
    is_dirty: bool,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Streams {
    slots: Vec<Option<Box<Stream>>>,
    vacant: Vec<usize>,
    by_connection: FxHashMap<u64, usize>,
    dirty: Vec<usize>,
    /// Messages that clients were too slow for.
    dropped: u64,
    /// Of the turn.
    now: Option<Instant>,
}

/// Memory that they are read into.
#[derive(Debug)]
pub(super) struct Buffers {
    raw: Box<[u8]>,
    plain: Box<[u8]>,
}

/// How reading has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReadOut {
    /// There is nothing more.
    Drained,
    /// There may be more.
    More,
    /// The connection has ended, or is of no use.
    Ended,
}

impl Buffers {
    pub(super) fn new() -> Self {
        Self { raw: vec![0; READ].into(), plain: vec![0; READ + RECORD].into() }
    }
}

impl Streams {
    /// A turn begins.
    pub(super) fn begin(&mut self, now: Instant) {
        self.now = Some(now);
    }

    /// Messages that clients were too slow for, since this was last asked.
    pub(super) fn take_dropped(&mut self) -> u64 {
        mem::take(&mut self.dropped)
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.vacant.len()
    }

    /// Takes a connection over, whose events are to have this token; `None` if it cannot be watched.
    pub(super) fn add(
        &mut self,
        registry: &Registry,
        token: impl FnOnce(usize) -> Token,
        connected: Connected,
        now: Instant,
    ) -> Option<usize> {
        let Connected { link, socket, tls, .. } = connected;
        let index = self.vacant.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        let interest = Interest::READABLE | Interest::WRITABLE;
        if registry.register(&mut SourceFd(&socket.as_raw_fd()), token(index), interest).is_err() {
            self.vacant.push(index);
            return None;
        }
        self.by_connection.insert(link.connection, index);
        self.slots[index] = Some(Box::new(Stream {
            link,
            socket,
            tls,
            framing: Some(Framing::new(now)),
            waiting: Vec::new(),
            stalled: None,
            leaving: None,
            is_dirty: false,
        }));
        Some(index)
    }

    /// Adds a message, in parts, to what leaves at the end of the turn; data is dropped if too much waits already.
    pub(super) fn queue(&mut self, link: &Link, parts: &[&[u8]], is_data: bool) {
        let Some(&index) = self.by_connection.get(&link.connection) else { return };
        let Some(stream) = self.slots[index].as_deref_mut() else { return };
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let most = if is_data { WAITING } else { WAITING + ANSWERS };
        if stream.waiting.len() + length > most
            && let Some(now) = self.now
        {
            // It may be the turn that is long, and not the client that is slow. Who broke is found at the turn's end.
            let _ = stream.flush(now);
        }
        if stream.waiting.len() + length > most {
            self.dropped += 1;
            return;
        }
        parts.iter().for_each(|part| stream.waiting.extend_from_slice(part));
        self.mark(index);
    }

    /// Something may leave.
    pub(super) fn mark(&mut self, index: usize) {
        if let Some(stream) = self.slots.get_mut(index).and_then(Option::as_deref_mut)
            && !mem::replace(&mut stream.is_dirty, true)
        {
            self.dirty.push(index);
        }
    }

    /// Writes what waits for those that are marked; gives those that broke or were to end.
    pub(super) fn flush(&mut self, now: Instant, ended: &mut Vec<usize>) {
        let mut dirty = mem::take(&mut self.dirty);
        for index in dirty.drain(..) {
            let Some(stream) = self.slots[index].as_deref_mut() else { continue };
            stream.is_dirty = false;
            let is_well = stream.flush(now).is_ok();
            if !is_well || stream.leaving.is_some() && stream.is_quiet() {
                ended.push(index);
            }
        }
        self.dirty = dirty;
    }

    /// The client's allocation has ended: it ends when what waits for it has left.
    pub(super) fn let_go(&mut self, link: &Link, now: Instant) {
        if let Some(&index) = self.by_connection.get(&link.connection)
            && let Some(stream) = self.slots[index].as_deref_mut()
        {
            stream.leaving.get_or_insert(now + LEAVING);
            self.mark(index);
        }
    }

    /// Those that have taken too long, for a message, for an allocation, or for reading.
    pub(super) fn overdue(&self, now: Instant, server: &Server) -> Vec<usize> {
        let is_overdue = |stream: &Stream| {
            let is_late = |framing: &Framing| framing.is_overdue(now, server.has_allocation(&stream.link));
            stream.framing.as_ref().is_some_and(is_late)
                || stream.stalled.is_some_and(|since| now.saturating_duration_since(since) >= STALLED)
                || stream.leaving.is_some_and(|until| until <= now)
        };
        let all = self.slots.iter().enumerate();
        all.filter_map(|(index, stream)| stream.as_deref().filter(|s| is_overdue(s)).map(|_| index)).collect()
    }

    /// Closes a connection, with a word of farewell where TLS has one.
    pub(super) fn close(&mut self, index: usize) -> Option<Link> {
        let mut stream = self.slots.get_mut(index)?.take()?;
        self.vacant.push(index);
        self.by_connection.remove(&stream.link.connection);
        if let Some(tls) = &mut stream.tls {
            tls.send_close_notify();
            // Who does not take it now will not miss it.
            let _ = tls.write_tls(&mut stream.socket);
        }
        Some(stream.link)
    }

    /// Reads what has come, and gives each message to `take`. What `read` holds was read before, in the clear.
    pub(super) fn read(
        &mut self,
        index: usize,
        buffers: &mut Buffers,
        mut take: impl FnMut(&mut Self, &Link, &[u8]),
        (now, read): (Instant, &[u8]),
    ) -> ReadOut {
        let Some(stream) = self.get(index) else { return ReadOut::Drained };
        let link = stream.link;
        let Some(mut framing) = self.slots[index].as_deref_mut().and_then(|stream| stream.framing.take())
        else {
            return ReadOut::Drained;
        };
        let mut left = BUDGET;
        let mut is_well = framing.handle(now, read, |message| take(self, &link, message)).is_ok();
        let ended = loop {
            let Some(stream) = self.slots[index].as_deref_mut() else { return ReadOut::Ended };
            let (bytes, outcome) = stream.fill(buffers);
            is_well = is_well && framing.handle(now, bytes, |message| take(self, &link, message)).is_ok();
            left = left.saturating_sub(bytes.len());
            match outcome {
                _ if !is_well => break ReadOut::Ended,
                ReadOut::More if left > 0 => {}
                outcome => break outcome,
            }
        };
        if let Some(stream) = self.slots[index].as_deref_mut() {
            stream.framing = Some(framing);
            // TLS may have something to say by itself.
            if stream.tls.as_ref().is_some_and(|tls| tls.wants_write()) {
                self.mark(index);
            }
        }
        ended
    }

    fn get(&self, index: usize) -> Option<&Stream> {
        self.slots.get(index)?.as_deref()
    }
}

impl Stream {
    fn is_quiet(&self) -> bool {
        self.waiting.is_empty() && self.tls.as_ref().is_none_or(|tls| !tls.wants_write())
    }

    /// Reads once, and decrypts: the bytes, and whether there is more. Fewer bytes than there was room for were all.
    fn fill<'a>(&mut self, buffers: &'a mut Buffers) -> (&'a [u8], ReadOut) {
        let Buffers { raw, plain } = buffers;
        let (read, outcome) = match self.socket.read(raw) {
            Ok(0) => (0, ReadOut::Ended),
            Ok(read) => (read, if read == raw.len() { ReadOut::More } else { ReadOut::Drained }),
            Err(error) => (0, after(&error)),
        };
        match &mut self.tls {
            None => (&raw[..read], outcome),
            Some(tls) => match decrypt(tls, &raw[..read], plain) {
                Ok((filled, is_over)) => (&plain[..filled], if is_over { ReadOut::Ended } else { outcome }),
                Err(_) => (&[], ReadOut::Ended),
            },
        }
    }

    fn flush(&mut self, now: Instant) -> io::Result<()> {
        let mut sent = 0;
        let outcome = loop {
            let rest = &self.waiting[sent..];
            let wrote = match &mut self.tls {
                None if rest.is_empty() => break Ok(()),
                None => self.socket.write(rest).map(|wrote| sent += wrote),
                Some(tls) => {
                    if !tls.wants_write() {
                        if rest.is_empty() {
                            break Ok(());
                        }
                        sent += tls.writer().write(rest)?;
                    }
                    tls.write_tls(&mut self.socket).map(drop)
                }
            };
            match wrote {
                Ok(()) => self.stalled = None,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.stalled.get_or_insert(now);
                    break Ok(());
                }
                Err(error) => break Err(error),
            }
        };
        self.waiting.drain(..sent);
        if self.waiting.is_empty() && self.waiting.capacity() > KEPT {
            self.waiting = Vec::new();
        }
        outcome
    }
}

/// Decrypts all of `raw`, and what was decrypted before: how many bytes that is, and whether the client has said that nothing
/// more comes.
fn decrypt(tls: &mut ServerConnection, mut raw: &[u8], plain: &mut [u8]) -> io::Result<(usize, bool)> {
    let mut filled = 0;
    loop {
        match tls.reader().read(&mut plain[filled..]) {
            Ok(0) => return Ok((filled, true)),
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && !raw.is_empty() => {
                tls.read_tls(&mut raw)?;
                tls.process_new_packets().map_err(io::Error::other)?;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok((filled, false)),
            Err(error) => return Err(error),
        }
    }
}

fn after(error: &io::Error) -> ReadOut {
    match error.kind() {
        io::ErrorKind::WouldBlock => ReadOut::Drained,
        io::ErrorKind::Interrupted => ReadOut::More,
        _ => ReadOut::Ended,
    }
}
