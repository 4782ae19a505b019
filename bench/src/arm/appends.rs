//! The floor of a log: what comes over a WebSocket is appended to a file, synced together with everything else that has
//! come since the last sync, and then written to all members of the room, in one message for each member and sync. No
//! sessions, permissions, sequences, digests, deduplication, index, acknowledgements or replay: the bytes and the policy
//! of syncing are the same, everything else is missing.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fs::File,
    future::poll_fn,
    io::Write as _,
    net::Ipv4Addr,
    path::Path,
    rc::Rc,
    sync::mpsc,
    task::{Poll, Waker, ready},
};

use anyhow::Context as _;
use tokio::{
    net::{TcpListener, TcpStream},
    task::LocalSet,
};
use tokio_tungstenite::accept_async;

use super::{Up, hear, say};

/// Bytes of a submission as Switchyard's clients send it, with a body of 100 bytes.
pub(crate) const SUBMIT_BYTES: usize = 136;
/// Bytes of the frame around the submissions of one message.
pub(crate) const SUBMIT_HEAD_BYTES: usize = 21;
/// Bytes of an event of that, as Switchyard sends it.
pub(crate) const EVENT_BYTES: usize = 156;
/// Bytes of the frame around the events of one message, and of the position behind them.
pub(crate) const HEAD_BYTES: usize = 54;

/// Bytes of a masked WebSocket message's header at most (RFC 6455 §5.2).
const HEADER_BYTES: usize = 14;
const BINARY: u8 = 0x82;
const CLOSE: u8 = 0x88;

struct Member {
    stream: TcpStream,
    /// What the socket did not take.
    unsent: RefCell<Vec<u8>>,
    /// Of the task that writes it when the socket takes more.
    waker: RefCell<Option<Waker>>,
}

#[derive(Default)]
struct State {
    rooms: BTreeMap<u16, Vec<Rc<Member>>>,
    /// What came since the last sync began: events, and whose.
    events: Vec<u8>,
    of: Vec<u16>,
    is_syncing: bool,
}

pub(super) fn run(store: &Path) -> anyhow::Result<()> {
    let mut file = File::create(store).context("the floor's file")?;
    let (to_disk, batches) = mpsc::channel::<(Vec<u8>, Vec<u16>)>();
    let (synced, mut from_disk) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for (events, of) in batches {
            let done = file.write_all(&events).and_then(|()| file.sync_data());
            if done.is_err() || synced.send((events, of)).is_err() {
                return;
            }
        }
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        while let Ok(Some(())) = hear() {}
        let _ = ended.0.send(());
    });
    runtime.block_on(LocalSet::new().run_until(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        say(&Up { port: listener.local_addr()?.port() })?;
        let state = Rc::new(RefCell::new(State::default()));
        let accepting = (state.clone(), to_disk.clone());
        tokio::task::spawn_local(async move {
            let (state, to_disk) = accepting;
            while let Ok((stream, _)) = listener.accept().await {
                let (state, to_disk) = (state.clone(), to_disk.clone());
                tokio::task::spawn_local(async move { serve(stream, &state, &to_disk).await });
            }
        });
        tokio::task::spawn_local(async move {
            while let Some((events, of)) = from_disk.recv().await {
                deliver(&state.borrow(), &events, &of);
                state.borrow_mut().is_syncing = false;
                sync(&state, &to_disk);
            }
        });
        let _ = ended.1.await;
        anyhow::Ok(())
    }))
}

/// One connection: its first message says which room it is in, all others are submissions.
async fn serve(
    stream: TcpStream,
    state: &RefCell<State>,
    to_disk: &mpsc::Sender<(Vec<u8>, Vec<u16>)>,
) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    // The client waits for the answer before it says anything, so that nothing is left in the reader.
    let stream = accept_async(stream).await.ok()?.into_inner();
    let member = Rc::new(Member { stream, unsent: RefCell::default(), waker: RefCell::default() });
    let (mut buffer, mut filled) = (vec![0; 64 * 1024], 0);
    let mut room = None;
    loop {
        let count = poll_fn(|cx| {
            // A member that did not take everything gets the rest.
            *member.waker.borrow_mut() = Some(cx.waker().clone());
            while !member.unsent.borrow().is_empty() && member.stream.poll_write_ready(cx).is_ready() {
                let unsent = std::mem::take(&mut *member.unsent.borrow_mut());
                member.write(&unsent);
            }
            loop {
                ready!(member.stream.poll_read_ready(cx)).ok();
                match member.stream.try_read(&mut buffer[filled..]) {
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                    result => return Poll::Ready(result),
                }
            }
        });
        filled += count.await.ok().filter(|count| *count > 0)?;
        let mut start = 0;
        while let Some((payload, end)) = unmask(&mut buffer[start..filled]) {
            let message = &buffer[start..filled][payload];
            start += end;
            let mut state = state.borrow_mut();
            let State { rooms, events, of, .. } = &mut *state;
            let Some(room) = room else {
                let group = u16::from_be_bytes(*message.first_chunk()?);
                rooms.entry(group).or_default().push(member.clone());
                room = Some(group);
                continue;
            };
            for submission in message.get(SUBMIT_HEAD_BYTES..)?.chunks(SUBMIT_BYTES) {
                events.extend_from_slice(submission);
                events.resize(events.len() + EVENT_BYTES - submission.len(), 0);
                of.push(room);
            }
        }
        buffer.copy_within(start..filled, 0);
        filled -= start;
        sync(state, to_disk);
    }
}

/// Hands what has come to the disk, unless that is busy.
fn sync(state: &RefCell<State>, to_disk: &mpsc::Sender<(Vec<u8>, Vec<u16>)>) {
    let state = &mut *state.borrow_mut();
    if !state.is_syncing && !state.of.is_empty() {
        let batch = (std::mem::take(&mut state.events), std::mem::take(&mut state.of));
        state.is_syncing = to_disk.send(batch).is_ok();
    }
}

/// Writes what is durable to everybody.
fn deliver(state: &State, events: &[u8], of: &[u16]) {
    let mut messages: BTreeMap<u16, Vec<u8>> = BTreeMap::new();
    for (event, room) in events.chunks(EVENT_BYTES).zip(of) {
        messages.entry(*room).or_insert_with(|| vec![0; HEAD_BYTES]).extend_from_slice(event);
    }
    let mut framed = Vec::new();
    for (room, message) in messages {
        framed.clear();
        framed.push(BINARY);
        match message.len() {
            length @ 0..126 => framed.push(length as u8),
            length @ 126..65_536 => {
                framed.push(126);
                framed.extend_from_slice(&(length as u16).to_be_bytes());
            }
            length => {
                framed.push(127);
                framed.extend_from_slice(&(length as u64).to_be_bytes());
            }
        }
        framed.extend_from_slice(&message);
        for member in state.rooms.get(&room).into_iter().flatten() {
            member.write(&framed);
            if !member.unsent.borrow().is_empty()
                && let Some(waker) = member.waker.take()
            {
                waker.wake();
            }
        }
    }
}

impl Member {
    /// Writes, or keeps what the socket does not take; the member's task goes on with it.
    fn write(&self, bytes: &[u8]) {
        let unsent = &mut *self.unsent.borrow_mut();
        let taken = if unsent.is_empty() { self.stream.try_write(bytes).unwrap_or(0) } else { 0 };
        unsent.extend_from_slice(&bytes[taken..]);
    }
}

/// Where the first message's payload is, unmasked, and where the message ends; none if it is not whole.
fn unmask(bytes: &mut [u8]) -> Option<(std::ops::Range<usize>, usize)> {
    let (kind, length) = (*bytes.first()?, *bytes.get(1)? & 0x7f);
    let (length, mut start) = match length {
        126 => (usize::from(u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?)), 4),
        127 => (usize::try_from(u64::from_be_bytes(*bytes.get(2..)?.first_chunk()?)).ok()?, 10),
        short => (usize::from(short), 2),
    };
    let mask: [u8; 4] = *bytes.get(start..)?.first_chunk()?;
    start += mask.len();
    let end = start.checked_add(length)?;
    let payload = bytes.get_mut(start..end)?;
    debug_assert!(start <= HEADER_BYTES && (kind == BINARY || kind == CLOSE), "no other messages are sent");
    payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
    Some((start..end, end))
}
