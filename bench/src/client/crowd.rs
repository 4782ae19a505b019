//! Members of rooms who write to the rooms' logs and read them, all of one arm; and an account of what they said and
//! heard, from which it can be told that nothing was lost or doubled and that everybody heard the same in the same
//! order.
//!
//! Each member is a task with a WebSocket. Switchyard's are the load test's browsers, whose writing and reading halves
//! are those of `switchyard-signaling`; the floor's know only how many bytes a message has.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    future::poll_fn,
    pin::pin,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, bail, ensure};
use switchyard_loadtest::{
    browser::{self, BrowserConfig, Event, LogEvent, RoomLog},
    token,
};
use switchyard_signaling::{
    event::{Content, EventKind},
    limits,
    message::ServerControl,
};
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message;

use super::{
    browser::message,
    socket::{Socket, framed},
};
use crate::arm::{Arm, EVENT_BYTES, HEAD_BYTES, KEY, Kind, SECRET, SUBMIT_BYTES, SUBMIT_HEAD_BYTES};

/// What is still on its way when writing ends has arrived within this, or is lost.
const SETTLED: Duration = Duration::from_secs(20);
/// Of one member, to have joined.
const JOINED: Duration = Duration::from_secs(30);
/// Bytes of a message's body.
const BODY_BYTES: usize = 100;
/// Where the number is in a body.
const NUMBER: std::ops::Range<usize> = 9..19;

/// How many rooms of how many members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) rooms: usize,
    pub(crate) members: usize,
}

/// See the module. Members of a room follow each other in number.
pub(crate) struct Crowd {
    shape: Shape,
    shared: Rc<Shared>,
    tasks: Vec<JoinHandle<()>>,
}

/// What was said and heard so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    /// Messages handed over.
    pub(crate) said: u64,
    /// Messages whose writer has its answer.
    pub(crate) acknowledged: u64,
    /// Messages received, by all.
    pub(crate) heard: u64,
    /// Times that a writer was asked for patience.
    pub(crate) waits: u64,
}

struct Shared {
    shape: Shape,
    /// Unanswered messages that each writer keeps up; 0: it writes only what it is told to.
    window: Cell<usize>,
    tally: Cell<Tally>,
    seats: RefCell<Vec<Seat>>,
    sent: RefCell<Vec<Sent>>,
    /// From sending to the last receiver.
    latencies: RefCell<Vec<Duration>>,
    failed: RefCell<Option<anyhow::Error>>,
}

/// What concerns one member.
#[derive(Default)]
struct Seat {
    /// Messages that it is to write.
    orders: VecDeque<u32>,
    waker: Option<Waker>,
    is_ready: bool,
    /// Of all numbers it has heard, in their order.
    transcript: u64,
}

/// A message.
struct Sent {
    at: Instant,
    /// Members that have not heard it.
    left: usize,
}

impl Crowd {
    /// Connects everybody and waits until all have joined. Must be called on a `LocalSet`.
    pub(crate) async fn connect(arm: &Arm, shape: Shape) -> anyhow::Result<Self> {
        let count = shape.rooms * shape.members;
        let shared = Rc::new(Shared {
            shape,
            window: Cell::new(0),
            tally: Cell::default(),
            seats: RefCell::new((0..count).map(|_| Seat::default()).collect()),
            sent: RefCell::default(),
            latencies: RefCell::default(),
            failed: RefCell::default(),
        });
        let mut crowd = Self { shape, shared, tasks: Vec::with_capacity(count) };
        for index in 0..count {
            let member = Member::connect(arm, index, shape).await?;
            let shared = crowd.shared.clone();
            crowd.tasks.push(tokio::task::spawn_local(async move {
                if let Err(error) = member.run(&shared).await {
                    shared.failed.borrow_mut().get_or_insert(error);
                }
            }));
            crowd.until(JOINED, |shared| shared.seats.borrow()[index].is_ready).await?;
        }
        Ok(crowd)
    }

    /// So far.
    pub(crate) fn tally(&self) -> Tally {
        self.shared.tally.get()
    }

    /// From now on everybody keeps so many messages unanswered.
    pub(crate) fn write(&self, window: usize) {
        self.shared.window.set(window);
        for seat in &mut *self.shared.seats.borrow_mut() {
            if let Some(waker) = seat.waker.take() {
                waker.wake();
            }
        }
    }

    /// Has somebody write one message, by turns in every room; `at` is when it counts as sent.
    pub(crate) fn say(&self, turn: usize, at: Instant) {
        let Shape { rooms, members } = self.shape;
        let (room, member) = (turn % rooms, turn / rooms % members);
        let number = self.shared.number(at);
        let seat = &mut self.shared.seats.borrow_mut()[room * members + member];
        seat.orders.push_back(number);
        if let Some(waker) = seat.waker.take() {
            waker.wake();
        }
    }

    /// Sleeps; fails if a member has.
    pub(crate) async fn sleep(&self, time: Duration) -> anyhow::Result<()> {
        tokio::time::sleep(time).await;
        self.shared.failed.take().map_or(Ok(()), Err)
    }

    /// Nobody writes any more. Waits until everything is answered and heard by everybody, and checks that it was heard
    /// once and in one order.
    pub(crate) async fn settle(&self) -> anyhow::Result<()> {
        self.write(0);
        let all = self.shape.members as u64;
        let is_settled = |shared: &Shared| {
            let Tally { said, acknowledged, heard, .. } = shared.tally.get();
            acknowledged == said && heard == said * all
        };
        let settled = self.until(SETTLED, is_settled).await;
        let Tally { said, acknowledged, heard, .. } = self.tally();
        settled.with_context(|| format!("of {said} messages, {acknowledged} answered and {heard} heard"))?;
        for room in self.shared.seats.borrow().chunks(self.shape.members) {
            let same = room.iter().all(|seat| seat.transcript == room[0].transcript);
            ensure!(same, "the members of a room have heard different things");
        }
        Ok(())
    }

    /// Times from sending to the last receiver, of all that was received since the last call.
    pub(crate) fn take_latencies(&self) -> Vec<Duration> {
        self.shared.latencies.take()
    }

    async fn until(&self, limit: Duration, done: impl Fn(&Shared) -> bool) -> anyhow::Result<()> {
        let end = Instant::now() + limit;
        while !done(&self.shared) {
            self.sleep(Duration::from_millis(1)).await?;
            ensure!(Instant::now() < end, "not in time");
        }
        Ok(())
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Shared {
    /// The number of a new message.
    fn number(&self, at: Instant) -> u32 {
        self.count(|tally| tally.said += 1);
        let sent = &mut *self.sent.borrow_mut();
        sent.push(Sent { at, left: self.shape.members });
        sent.len() as u32 - 1
    }

    fn count(&self, change: impl FnOnce(&mut Tally)) {
        let mut tally = self.tally.get();
        change(&mut tally);
        self.tally.set(tally);
    }

    fn heard(&self, index: usize, number: u32, now: Instant) -> anyhow::Result<()> {
        self.count(|tally| tally.heard += 1);
        let mut sent = self.sent.borrow_mut();
        let message = sent.get_mut(number as usize).context("a message that nobody wrote")?;
        message.left = message.left.checked_sub(1).context("a message came twice")?;
        if message.left == 0 {
            self.latencies.borrow_mut().push(now.saturating_duration_since(message.at));
        }
        let transcript = &mut self.seats.borrow_mut()[index].transcript;
        *transcript = transcript.wrapping_mul(0x0000_0100_0000_01b3) ^ u64::from(number);
        Ok(())
    }
}

struct Member {
    index: usize,
    socket: Socket,
    half: Half,
}

enum Half {
    Switchyard { room: String, browser: Box<browser::Browser>, has_joined: bool },
    Floor(Floor),
}

/// A member of the floor.
struct Floor {
    room: usize,
    index: usize,
    is_known: bool,
    /// To be sent.
    orders: Vec<u32>,
    unanswered: usize,
}

impl Member {
    async fn connect(arm: &Arm, index: usize, shape: Shape) -> anyhow::Result<Self> {
        let socket = Socket::connect(arm.port).await?;
        let room = index / shape.members;
        let half = if arm.kind == Kind::Switchyard {
            let room = format!("log-{room}");
            let browser = Box::new(join(&room, &format!("u{index:04}")));
            Half::Switchyard { room, browser, has_joined: false }
        } else {
            Half::Floor(Floor { room, index, is_known: false, orders: Vec::new(), unanswered: 0 })
        };
        Ok(Self { index, socket, half })
    }

    async fn run(mut self, shared: &Shared) -> anyhow::Result<()> {
        let mut sleep = pin!(tokio::time::sleep(Duration::ZERO));
        poll_fn(|cx| {
            loop {
                if let Err(error) = self.turn(cx, shared) {
                    return Poll::Ready(Err(error));
                }
                let Half::Switchyard { browser, .. } = &mut self.half else { return Poll::Pending };
                let Some(due) = browser.poll_timeout() else { return Poll::Pending };
                if sleep.deadline().into_std() != due {
                    sleep.as_mut().reset(due.into());
                }
                if sleep.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                browser.handle_timeout(Instant::now());
            }
        })
        .await
    }

    /// Reads, writes what is to be written, and registers for being woken.
    fn turn(&mut self, cx: &mut Context<'_>, shared: &Shared) -> anyhow::Result<()> {
        while let Poll::Ready(message) = self.socket.poll_read(cx) {
            let message = message?;
            self.half.take(self.index, Instant::now(), message, shared)?;
        }
        let seat = &mut shared.seats.borrow_mut()[self.index];
        seat.waker = Some(cx.waker().clone());
        let now = Instant::now();
        let window = if self.half.is_ready() { shared.window.get() } else { 0 };
        let ordered = std::iter::from_fn(|| seat.orders.pop_front());
        let more = window.saturating_sub(self.half.unanswered());
        let fresh = (0..more).map(|_| shared.number(now));
        self.half.submit(now, ordered.chain(fresh));
        let half = &mut self.half;
        self.socket.write(cx, || half.poll())?;
        seat.is_ready = half.is_ready();
        Ok(())
    }
}

impl Half {
    fn is_ready(&self) -> bool {
        match self {
            Self::Switchyard { room, browser, has_joined } => {
                *has_joined && browser.room_log(room).is_some_and(RoomLog::is_up_to_date)
            }
            Self::Floor(floor) => floor.is_known,
        }
    }

    fn unanswered(&self) -> usize {
        match self {
            Self::Switchyard { room, browser, .. } => browser.room_log(room).map_or(0, RoomLog::unanswered),
            Self::Floor(floor) => floor.unanswered,
        }
    }

    fn submit(&mut self, now: Instant, numbers: impl Iterator<Item = u32>) {
        match self {
            Self::Switchyard { room, browser, .. } => {
                let mut numbers = numbers.peekable();
                if numbers.peek().is_some() {
                    browser
                        .log(now, room, |log| numbers.for_each(|number| log.submit(number, content(number))));
                }
            }
            Self::Floor(floor) => {
                let before = floor.orders.len();
                floor.orders.extend(numbers);
                floor.unanswered += floor.orders.len() - before;
            }
        }
    }

    fn poll(&mut self) -> Option<Message> {
        match self {
            Self::Switchyard { browser, .. } => browser.poll_socket().map(message),
            Self::Floor(floor) => floor.poll().map(Message::binary),
        }
    }

    fn take(&mut self, index: usize, now: Instant, message: Message, shared: &Shared) -> anyhow::Result<()> {
        match (self, message) {
            (Self::Floor(floor), Message::Binary(message)) => floor.take(now, &message, shared),
            (Self::Switchyard { browser, has_joined, .. }, message) => {
                hand_over(browser, now, message)?;
                while let Some(event) = browser.poll_event() {
                    listen(event, index, now, has_joined, shared)?;
                }
                Ok(())
            }
            (Self::Floor(_), _) => Ok(()),
        }
    }
}

impl Floor {
    /// First which room it is in; then as many submissions as there are, and as a LOG message takes.
    fn poll(&mut self) -> Option<Vec<u8>> {
        if !self.is_known {
            self.is_known = true;
            return Some((self.room as u16).to_be_bytes().to_vec());
        }
        if self.orders.is_empty() {
            return None;
        }
        let count = self.orders.len().min(limits::SUBMISSIONS);
        let mut message = vec![0x5a; SUBMIT_HEAD_BYTES + count * SUBMIT_BYTES];
        let places = message[SUBMIT_HEAD_BYTES..].chunks_mut(SUBMIT_BYTES);
        for (place, number) in places.zip(self.orders.drain(..count)) {
            place[..4].copy_from_slice(&number.to_be_bytes());
            place[4..8].copy_from_slice(&(self.index as u32).to_be_bytes());
        }
        Some(message)
    }

    fn take(&mut self, now: Instant, message: &[u8], shared: &Shared) -> anyhow::Result<()> {
        let events = message.get(HEAD_BYTES..).context("a message without head")?;
        ensure!(events.len() % EVENT_BYTES == 0, "half an event");
        for event in events.chunks(EVENT_BYTES) {
            let word = |at: usize| event[at..].first_chunk().map_or(0, |word| u32::from_be_bytes(*word));
            shared.heard(self.index, word(0), now)?;
            if word(4) == self.index as u32 {
                self.unanswered -= 1;
                shared.count(|tally| tally.acknowledged += 1);
            }
        }
        Ok(())
    }
}

/// A browser that asks to join and to read the log.
fn join(room: &str, user: &str) -> browser::Browser {
    let now = Instant::now();
    let mut browser = browser::Browser::new(now, BrowserConfig::default());
    browser.handle_socket_open(now);
    browser.join_log(now, room, &token::mint(KEY, SECRET, room, user, SystemTime::now()), RoomLog::default());
    browser
}

fn hand_over(browser: &mut browser::Browser, now: Instant, message: Message) -> anyhow::Result<()> {
    match message {
        Message::Text(text) => browser.handle_text(now, text.as_str()),
        Message::Binary(message) => browser.handle_binary(now, message),
        Message::Close(frame) => bail!("the WebSocket was closed: {frame:?}"),
        _ => {}
    }
    Ok(())
}

fn listen(
    event: Event,
    index: usize,
    now: Instant,
    has_joined: &mut bool,
    shared: &Shared,
) -> anyhow::Result<()> {
    match event {
        Event::Control(_, ServerControl::Joined { .. }) => *has_joined = true,
        Event::Log(_, event) => match event {
            LogEvent::Event(event) => {
                let number =
                    event.content.body.get(NUMBER).and_then(|number| std::str::from_utf8(number).ok());
                let number =
                    number.and_then(|number| number.parse().ok()).context("a body of somebody else")?;
                shared.heard(index, number, now)?;
            }
            LogEvent::Accepted { .. } => shared.count(|tally| tally.acknowledged += 1),
            LogEvent::Waits(_) => shared.count(|tally| tally.waits += 1),
            LogEvent::Snapshot(snapshot) if snapshot.reason == "new" => {}
            event => bail!("{event:?}"),
        },
        Event::Control(_, ServerControl::Refused { code, message, .. }) => {
            bail!("refused: {code:?}: {message}")
        }
        Event::Refused(refusal) => bail!("refused: {:?}: {}", refusal.code, refusal.message),
        Event::PeerLost | Event::SessionLost | Event::Violation(_) => bail!("{event:?}"),
        _ => {}
    }
    Ok(())
}

/// A chat message with a number.
fn content(number: u32) -> Content {
    let mut body = format!(r#"{{"text":"{number:010} "#).into_bytes();
    body.resize(BODY_BYTES - 2, b'x');
    body.extend_from_slice(b"\"}");
    Content { kind: EventKind::Chat, version: 0, flags: 0, target: 0, body: body.into() }
}

/// What a reader that comes for a snapshot and goes got for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Visit {
    /// From asking to join to the snapshot.
    pub(crate) time: Duration,
    /// On the WebSocket, up to and with the snapshot.
    pub(crate) bytes: usize,
    /// In the snapshot.
    pub(crate) messages: usize,
}

/// Joins a room, waits for the snapshot, and goes.
pub(crate) async fn visit(arm: &Arm, room: &str, user: &str) -> anyhow::Result<Visit> {
    let mut socket = Socket::connect(arm.port).await?;
    let mut browser = join(room, user);
    let mut asked = Instant::now();
    let mut bytes = 0;
    let visit = poll_fn(|cx| {
        loop {
            if let Err(error) = socket.write(cx, || browser.poll_socket().map(message)) {
                return Poll::Ready(Err(error));
            }
            let Poll::Ready(received) = socket.poll_read(cx) else { return Poll::Pending };
            let now = Instant::now();
            let received = match received {
                Ok(received) => received,
                Err(error) => return Poll::Ready(Err(error)),
            };
            bytes += framed(received.len());
            if let Err(error) = hand_over(&mut browser, now, received) {
                return Poll::Ready(Err(error));
            }
            while let Some(event) = browser.poll_event() {
                match event {
                    Event::Welcome => asked = now,
                    Event::Log(_, LogEvent::Snapshot(snapshot)) => {
                        let messages = snapshot.messages.len();
                        return Poll::Ready(Ok(Visit { time: now - asked, bytes, messages }));
                    }
                    Event::Refused(refusal) => return Poll::Ready(Err(anyhow::anyhow!("{refusal:?}"))),
                    _ => {}
                }
            }
        }
    });
    let visit = tokio::time::timeout(JOINED, visit).await.context("no snapshot in time")??;
    browser.bye();
    // The server closes the WebSocket when it has heard it.
    let closed = poll_fn(|cx| {
        if socket.write(cx, || browser.poll_socket().map(message)).is_err() {
            return Poll::Ready(());
        }
        while let Poll::Ready(received) = socket.poll_read(cx) {
            if !matches!(received, Ok(Message::Text(_) | Message::Binary(_))) {
                return Poll::Ready(());
            }
        }
        Poll::Pending
    });
    let _ = tokio::time::timeout(Duration::from_secs(1), closed).await;
    Ok(visit)
}
