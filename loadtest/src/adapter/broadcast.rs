//! A bare WebSocket server that passes each binary message on to all other connections of the same path: what a dozen
//! lines around a WebSocket library do, such as those in `loadtest/examples/broadcast.mjs`.
//!
//! A user is in its room as long as its WebSocket is open: a new WebSocket is another session. The server says nothing of
//! its own, so that pings show whether it is there, and what of the messages before them it has: it reads them in order.
//! What was sent behind the last ping that it answered, and what is sent while a user is away, may be gone with the
//! connection.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use switchyard_signaling::{frame::Target, lane::OVERHEAD_BYTES, message::ServerControl};

use super::{Adapter, Client, Door, Outbound};
use crate::browser::{Event, Incoming, Lane, Outgoing, Pipe, RoomLog, SendError};

pub(super) static ADAPTER: Adapter = Adapter {
    name: "broadcast",
    about: "any WebSocket server that passes binary messages on to all others at the same path, /ROOM",
    is_switchyard: false,
    door: |room| Door { path: format!("/{room}"), subprotocol: None },
    client: |now, _| Box::new(Broadcast::new(now)),
};

/// Stands for the only room, and for whoever is in it: the server gives neither numbers.
const ROOM: u16 = 1;
const MEMBER: u32 = 0;
/// Before the payload of each message: the number of its stream.
const HEADER_BYTES: usize = 2;
/// Bytes that wait for the WebSocket, beyond which nothing is taken: as much as Switchyard's lane holds.
const QUEUE_BYTES: usize = 1024 * 1024;
/// A ping is sent this long after the last one …
const PING_EVERY: Duration = Duration::from_secs(2);
/// … or this long while the server may not have everything.
const PING_EVERY_HELD: Duration = Duration::from_millis(500);

struct Broadcast {
    room: String,
    is_open: bool,
    is_stalled: bool,
    /// What waits for the WebSocket.
    queue: VecDeque<Outbound>,
    queued_bytes: usize,
    /// Of what was sent, as [`Client::held_bytes`] counts it.
    held_bytes: usize,
    pings: u64,
    pinged_at: Instant,
    /// What the server has once it answers the last ping.
    pinged_bytes: Option<usize>,
    /// When something came last.
    came: Instant,
    /// When something came last, or the page began to read again.
    heard: Instant,
    /// What came while the page did not read. It is bounded by what was under way then.
    inbox: Vec<Bytes>,
    events: VecDeque<Event>,
}

impl Broadcast {
    fn new(now: Instant) -> Self {
        Self {
            room: String::new(),
            is_open: false,
            is_stalled: false,
            queue: VecDeque::new(),
            queued_bytes: 0,
            held_bytes: 0,
            pings: 0,
            pinged_at: now,
            pinged_bytes: None,
            came: now,
            heard: now,
            inbox: Vec::new(),
            events: VecDeque::new(),
        }
    }

    /// A message from somebody. One that is too short for a header is nobody's, as the account will find.
    fn take(&mut self, mut message: Bytes) {
        let stream = message.try_get_u16().unwrap_or_default();
        self.events.push_back(Event::Message(Incoming {
            room: ROOM,
            sender: MEMBER,
            stream,
            lane: Lane::Reliable,
            target: Target::Room,
            text: false,
            payload: message,
        }));
    }

    fn signs(&mut self, now: Instant) {
        (self.came, self.heard) = (now, now);
    }

    /// When the next ping is due. The one before it must have been answered; how long that may take is the user's business.
    fn ping_at(&self) -> Option<Instant> {
        let every = if self.held_bytes > 0 { PING_EVERY_HELD } else { PING_EVERY };
        let can_ping = self.is_open && !self.is_stalled && self.pinged_bytes.is_none();
        can_ping.then(|| self.pinged_at + every)
    }
}

impl Client for Broadcast {
    /// Whoever opens a WebSocket at the room's path is let in.
    fn join(&mut self, _now: Instant, room: &str, _token: &str, _log: Option<RoomLog>) -> u32 {
        self.room = room.to_owned();
        0
    }

    fn join_again(&mut self, now: Instant, room: &str, token: &str) -> u32 {
        self.join(now, room, token, None)
    }

    fn send(&mut self, _now: Instant, message: Outgoing) -> Result<(), SendError> {
        if !self.is_open {
            return Err(SendError::NoSession);
        }
        if self.queued_bytes >= QUEUE_BYTES {
            return Err(SendError::BufferFull);
        }
        let mut bytes = BytesMut::with_capacity(HEADER_BYTES + message.payload.len());
        bytes.put_u16(message.stream);
        bytes.put(message.payload);
        self.queued_bytes += bytes.len();
        self.held_bytes += bytes.len() + OVERHEAD_BYTES;
        self.queue.push_back(Outbound::Binary(bytes.freeze()));
        Ok(())
    }

    fn set_stalled(&mut self, now: Instant, stalled: bool) {
        self.is_stalled = stalled;
        if !stalled {
            self.heard = now;
            std::mem::take(&mut self.inbox).into_iter().for_each(|message| self.take(message));
        }
    }

    fn handle_socket_open(&mut self, now: Instant) {
        self.is_open = true;
        self.pinged_at = now;
        self.signs(now);
        let joined = ServerControl::Joined {
            id: 0,
            room: self.room.clone(),
            handle: ROOM,
            member: MEMBER,
            user: String::new(),
            name: String::new(),
            role: String::new(),
            permissions: Vec::new(),
            topics: Vec::new(),
            members: Vec::new(),
            log: None,
        };
        self.events.extend([Event::Welcome, Event::Attached(Pipe::Socket), Event::Control(ROOM, joined)]);
    }

    fn handle_socket_closed(&mut self, _now: Instant) {
        if self.is_open {
            self.is_open = false;
            self.events.push_back(Event::SessionLost);
        }
    }

    /// What is not binary was sent by nobody of the run: a greeting, perhaps.
    fn handle_text(&mut self, now: Instant, _text: &str) {
        self.signs(now);
    }

    fn handle_binary(&mut self, now: Instant, message: Bytes) {
        self.signs(now);
        if self.is_stalled {
            self.inbox.push(message);
        } else {
            self.take(message);
        }
    }

    fn handle_pong(&mut self, now: Instant, nonce: &[u8]) {
        self.signs(now);
        if nonce == self.pings.to_be_bytes()
            && let Some(bytes) = self.pinged_bytes.take()
        {
            self.held_bytes -= bytes;
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        if self.ping_at().is_some_and(|at| at <= now) {
            self.pings += 1;
            self.pinged_at = now;
            self.pinged_bytes = Some(self.held_bytes);
            let nonce = Bytes::copy_from_slice(&self.pings.to_be_bytes());
            self.queue.push_back(Outbound::Ping(nonce));
        }
    }

    fn poll_timeout(&mut self) -> Option<Instant> {
        self.ping_at()
    }

    fn poll_socket(&mut self) -> Option<Outbound> {
        if !self.is_open || self.is_stalled {
            return None;
        }
        let output = self.queue.pop_front()?;
        if let Outbound::Binary(message) = &output {
            self.queued_bytes -= message.len();
        }
        Some(output)
    }

    fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn reads_socket(&self) -> bool {
        !self.is_stalled
    }

    fn has_session(&self) -> bool {
        self.is_open
    }

    fn attached(&self) -> Option<Pipe> {
        self.is_open.then_some(Pipe::Socket)
    }

    fn last_heard(&self) -> Instant {
        self.came
    }

    fn heard(&self, _pipe: Pipe) -> Instant {
        self.heard
    }

    fn held_bytes(&self) -> usize {
        self.held_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAYLOAD: &[u8] = b"what was said";

    fn open(now: Instant) -> Broadcast {
        let mut client = Broadcast::new(now);
        client.join(now, "hall", "", None);
        client.handle_socket_open(now);
        client
    }

    fn say(client: &mut Broadcast, now: Instant, stream: u16) {
        let payload = Bytes::from_static(PAYLOAD);
        let (room, lane, target) = (ROOM, Lane::Reliable, Target::Room);
        client.send(now, Outgoing { room, lane, stream, target, text: false, payload }).unwrap();
    }

    fn sent(client: &mut Broadcast) -> Vec<Outbound> {
        std::iter::from_fn(|| client.poll_socket()).collect()
    }

    fn heard(client: &mut Broadcast) -> Vec<(u16, Bytes)> {
        let events = std::iter::from_fn(|| client.poll_event());
        events
            .filter_map(|event| match event {
                Event::Message(message) => Some((message.stream, message.payload)),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn what_one_says_the_other_hears_on_the_same_stream() {
        let now = Instant::now();
        let (mut ada, mut ben) = (open(now), open(now));
        say(&mut ada, now, 7);
        for output in sent(&mut ada) {
            let Outbound::Binary(message) = output else { panic!("{output:?}") };
            assert_eq!(message.len(), HEADER_BYTES + PAYLOAD.len());
            ben.handle_binary(now, message);
        }
        assert_eq!(heard(&mut ben), [(7, Bytes::from_static(PAYLOAD))]);
        ben.handle_binary(now, Bytes::from_static(b"?"));
        assert_eq!(heard(&mut ben)[0].0, 0);
    }

    #[test]
    fn what_was_sent_before_a_ping_has_come_when_that_is_answered() {
        let now = Instant::now();
        let mut client = open(now);
        say(&mut client, now, 1);
        let one = client.held_bytes();
        assert!(one >= PAYLOAD.len() + OVERHEAD_BYTES);
        let at = client.poll_timeout().unwrap();
        assert_eq!(at, now + PING_EVERY_HELD);
        client.handle_timeout(at);
        say(&mut client, at, 1);
        let outputs = sent(&mut client);
        let Outbound::Ping(nonce) = &outputs[1] else { panic!("{outputs:?}") };
        client.handle_pong(at, b"another");
        assert_eq!((client.held_bytes(), client.poll_timeout()), (2 * one, None));
        client.handle_pong(at, nonce);
        client.handle_pong(at, nonce);
        assert_eq!((client.held_bytes(), client.last_heard()), (one, at));
        assert_eq!(client.poll_timeout(), Some(at + PING_EVERY_HELD));
    }

    #[test]
    fn a_connection_that_is_gone_takes_the_session_with_it_and_what_may_not_have_come() {
        let now = Instant::now();
        let mut client = open(now);
        say(&mut client, now, 1);
        client.handle_socket_closed(now);
        client.handle_socket_closed(now);
        let lost = std::iter::from_fn(|| client.poll_event()).filter(|of| matches!(of, Event::SessionLost));
        assert_eq!(lost.count(), 1);
        assert!(client.held_bytes() > 0 && client.attached().is_none() && !client.has_session());
        assert_eq!((sent(&mut client), client.poll_timeout()), (Vec::new(), None));
    }

    #[test]
    fn a_page_that_does_not_read_has_it_all_when_it_does() {
        let now = Instant::now();
        let mut client = open(now);
        client.set_stalled(now, true);
        client.handle_binary(now, Bytes::from_static(b"\0\x01first"));
        client.handle_binary(now, Bytes::from_static(b"\0\x02second"));
        assert!(heard(&mut client).is_empty() && !client.reads_socket() && client.poll_timeout().is_none());
        let later = now + Duration::from_secs(9);
        client.set_stalled(later, false);
        assert_eq!(heard(&mut client), [(1, "first".into()), (2, "second".into())]);
        assert_eq!((client.heard(Pipe::Socket), client.last_heard()), (later, now));
    }

    #[test]
    fn more_than_the_queue_holds_is_not_taken() {
        let now = Instant::now();
        let mut client = open(now);
        let message = Outgoing {
            room: ROOM,
            lane: Lane::Reliable,
            stream: 1,
            target: Target::Room,
            text: false,
            payload: vec![0; QUEUE_BYTES / 2].into(),
        };
        assert_eq!([(); 3].map(|()| client.send(now, message.clone()).is_ok()), [true, true, false]);
        client.poll_socket();
        assert_eq!(client.send(now, message), Ok(()));
    }
}
