//! The relay's thread: waits for a socket, a letter or a deadline, takes what is there, lets the server decide, and sends
//! once what has come together.

use std::{
    collections::VecDeque,
    io,
    net::{IpAddr, SocketAddr},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bytes::BytesMut;
use mio::{Events, Poll, Token};
use quinn_udp::BATCH_SIZE;
use rustc_hash::{FxHashMap, FxHashSet};
use switchyard_turn_config::server::{
    AllocationId, Family, Forward, Link, Output, RelaySocket, Server, Transport,
};
use tokio::sync::mpsc::{self, error::TrySendError};

use super::{
    Connected,
    mailbox::{Datagrams, Inbox, Letter},
    moderation::Moderation,
    sockets::{Relays, Single, Socket, listener_of},
    stream::{Buffers, ReadOut, Streams},
};
use crate::{
    engine::{Command, path, path::Path, peers::Datagram, transmit::TransmitQueue},
    io::{Input, udp::ReceiveBuffer},
    metrics::{TurnCounters, TurnDrop},
};

/// Events that are taken at once.
const EVENTS: usize = 256;
/// Messages that the receive calls on a socket ask for, one call after the other while each gets all it asked for; then
/// others have a turn. To ask for many costs something, and most sockets have few.
const LISTENER_BATCHES: [usize; 4] = [8, BATCH_SIZE, BATCH_SIZE, BATCH_SIZE];
const RELAY_BATCHES: [usize; 2] = [4, BATCH_SIZE];
/// Letters taken in a turn.
const TAKEN: usize = 256;
/// How often what was counted is shown, and the machine's clock looked at.
const PUBLISH: Duration = Duration::from_millis(500);
/// How often it is looked for connections that have taken too long.
const SWEEP: Duration = Duration::from_secs(1);
/// Zeros, to pad channel data with.
const PADDING: [u8; 3] = [0; 3];

/// What an event is about, in the upper bits of its token.
const KIND_SHIFT: u32 = 40;
const BELL: usize = 0;
const LISTENER: usize = 1;
const RELAY: usize = 2;
const STREAM: usize = 3;

/// That of the bell.
pub(super) const BELL_TOKEN: Token = token(BELL, 0);

/// That of a listening socket.
pub(super) const fn listener_token(index: usize) -> Token {
    token(LISTENER, index)
}

const fn token(kind: usize, index: usize) -> Token {
    Token(kind << KIND_SHIFT | index)
}

/// Everything that the thread owns.
pub(super) struct Thread {
    poll: Poll,
    server: Server,
    listeners: Vec<Socket>,
    relays: Relays,
    outward: Outward,
    inbox: Inbox,
    receive: ReceiveBuffer,
    buffers: Buffers,
    /// What has not been drained, each once.
    again: VecDeque<Token>,
    is_again: FxHashSet<Token>,
    counters: TurnCounters,
    max_streams: usize,
    /// Datagrams of this turn.
    taken: u64,
    moderation: Moderation,
    published: Instant,
    swept: Instant,
    is_stopping: bool,
}

/// What is on its way out.
struct Outward {
    queue: TransmitQueue<To>,
    streams: Streams,
    shards: Shards,
}

/// Datagrams that leave together: single ones for clients, from one listener and address.
struct Singles<'a> {
    from: Option<(usize, IpAddr)>,
    waiting: Vec<Single<'a>>,
}

/// Where a datagram goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum To {
    Client { link: Link },
    Peer { allocation: AllocationId, family: Family, peer: SocketAddr, dont_fragment: bool },
}

/// The shards, as the relay sees them.
pub(super) struct Shards {
    /// By the ports of their UDP sockets.
    pub(super) by_port: FxHashMap<u16, usize>,
    /// Into each of them.
    pub(super) inputs: Vec<mpsc::Sender<Input>>,
    /// For each, what it is handed at the turn's end.
    waiting: Vec<Vec<Datagram>>,
    /// By the slots of allocations, a bit for each shard that one has sent to.
    talked: Vec<(u32, u64)>,
    dropped: u64,
}

impl Thread {
    /// A relay with these listening sockets.
    pub(super) fn new(
        poll: Poll,
        server: Server,
        listeners: Vec<Socket>,
        shards: Shards,
        inbox: Inbox,
        counters: TurnCounters,
        max_streams: usize,
    ) -> Self {
        let now = Instant::now();
        Self {
            poll,
            server,
            listeners,
            relays: Relays::default(),
            outward: Outward { queue: TransmitQueue::default(), streams: Streams::default(), shards },
            inbox,
            receive: ReceiveBuffer::new(),
            buffers: Buffers::new(),
            again: VecDeque::new(),
            is_again: FxHashSet::default(),
            counters,
            max_streams,
            taken: 0,
            moderation: Moderation::default(),
            published: now,
            swept: now,
            is_stopping: false,
        }
    }

    /// Serves until it is told to stop.
    pub(super) fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS);
        while !self.is_stopping {
            let (wait, before) = (self.patience(), Instant::now());
            match self.poll.poll(&mut events, wait) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            let waited = before.elapsed();
            self.taken = 0;
            self.turn(&events);
            if let Some(rest) = self.moderation.after(waited, self.taken) {
                thread::sleep(rest);
            }
        }
        let now = Instant::now();
        self.outward.streams.flush(now, &mut Vec::new());
        self.publish(now);
        Ok(())
    }

    /// How long nothing can happen by itself.
    fn patience(&self) -> Option<Duration> {
        if !self.again.is_empty() {
            return Some(Duration::ZERO);
        }
        let sweep = (self.outward.streams.len() > 0).then(|| self.swept + SWEEP);
        let publish = self.counters.is_behind(self.server.counters()).then(|| self.published + PUBLISH);
        let due = [self.server.poll_timeout(), sweep, publish].into_iter().flatten().min()?;
        // Whole milliseconds are what is waited for: not just short of it, many times.
        Some(due.saturating_duration_since(Instant::now()) + Duration::from_millis(1))
    }

    fn turn(&mut self, events: &Events) {
        let now = Instant::now();
        self.outward.streams.begin(now);
        if now.saturating_duration_since(self.published) >= PUBLISH {
            self.publish(now);
        }
        let left_over = self.again.len();
        for event in events {
            if event.is_writable() && kind(event.token()) == STREAM {
                self.outward.streams.mark(index(event.token()));
            }
            let is_readable = event.is_readable() || event.is_error() || event.is_read_closed();
            // What is left over has its turn below.
            if is_readable && (left_over == 0 || !self.is_again.contains(&event.token())) {
                self.read(event.token(), now);
            }
        }
        for _ in 0..left_over {
            let Some(token) = self.again.pop_front() else { break };
            self.is_again.remove(&token);
            self.read(token, now);
        }
        if self.server.poll_timeout().is_some_and(|due| due <= now) {
            self.server.handle_timeout(now);
        }
        if now.saturating_duration_since(self.swept) >= SWEEP {
            self.swept = now;
            for index in self.outward.streams.overdue(now, &self.server) {
                self.close(index, now);
            }
        }
        self.carry_out(now);
        self.send(now);
    }

    /// Takes what is there, or a part of it.
    fn read(&mut self, token: Token, now: Instant) {
        let is_drained = match kind(token) {
            BELL => self.take_letters(now),
            LISTENER => self.read_listener(index(token), now),
            RELAY => self.read_relay(index(token), now),
            _ => self.read_stream(index(token), now, &[]),
        };
        if !is_drained {
            self.read_again(token);
        }
    }

    fn read_again(&mut self, token: Token) {
        if self.is_again.insert(token) {
            self.again.push_back(token);
        }
    }

    fn read_listener(&mut self, index: usize, now: Instant) -> bool {
        let Self { server, listeners, outward, receive, taken, .. } = self;
        let Some(listener) = listeners.get(index) else { return true };
        let port = listener.local().port();
        LISTENER_BATCHES.into_iter().any(|most| {
            !listener.receive(receive, most, |remote, local_ip, datagram| {
                *taken += 1;
                let local = SocketAddr::new(local_ip.unwrap_or(listener.local().ip()), port);
                let link = Link { transport: Transport::Udp, connection: 0, remote, local };
                if let Some(forward) = server.handle_client(now, &link, datagram) {
                    outward.forward(forward);
                }
            })
        })
    }

    fn read_relay(&mut self, index: usize, now: Instant) -> bool {
        let Self { server, relays, outward, receive, taken, .. } = self;
        let Some((relay, socket)) = relays.at(index) else { return true };
        RELAY_BATCHES.into_iter().any(|most| {
            !socket.receive(receive, most, |peer, _, datagram| {
                *taken += 1;
                if let Some(forward) = server.handle_peer(now, relay, peer, datagram) {
                    outward.forward(forward);
                }
            })
        })
    }

    /// What `read` holds was read before.
    fn read_stream(&mut self, index: usize, now: Instant, read: &[u8]) -> bool {
        let Self { server, outward, buffers, taken, .. } = self;
        let Outward { queue, streams, shards, .. } = outward;
        let take = |streams: &mut Streams, link: &Link, message: &[u8]| {
            *taken += 1;
            if let Some(forward) = server.handle_client(now, link, message) {
                pass_on(queue, streams, shards, forward);
            }
        };
        let outcome = streams.read(index, buffers, take, (now, read));
        // Answers before it is closed, or the next client's request.
        self.carry_out(now);
        if outcome == ReadOut::Ended {
            self.close(index, now);
        }
        outcome != ReadOut::More
    }

    fn close(&mut self, index: usize, now: Instant) {
        if let Some(link) = self.outward.streams.close(index) {
            self.server.handle_closed(now, &link);
            self.counters.stream_ended(link.transport);
        }
    }

    fn take_letters(&mut self, now: Instant) -> bool {
        self.inbox.heard();
        for _ in 0..TAKEN {
            match self.inbox.take() {
                Some(Letter::Connected(connected)) => self.adopt(connected, now),
                Some(Letter::Datagrams(datagrams)) => self.take_datagrams(&datagrams, now),
                Some(Letter::Stop) => self.is_stopping = true,
                None => return true,
            }
        }
        false
    }

    fn adopt(&mut self, mut connected: Connected, now: Instant) {
        let transport = connected.link.transport;
        if self.outward.streams.len() >= self.max_streams {
            return self.counters.stream_refused(transport);
        }
        let read = std::mem::take(&mut connected.read);
        let token = |index| token(STREAM, index);
        match self.outward.streams.add(self.poll.registry(), token, connected, now) {
            Some(index) => {
                self.counters.stream_taken(transport);
                if !self.read_stream(index, now, &read) {
                    self.read_again(token(index));
                }
            }
            None => self.counters.stream_refused(transport),
        }
    }

    fn take_datagrams(&mut self, datagrams: &Datagrams, now: Instant) {
        let mut start = 0;
        for run in &datagrams.runs {
            let allocation = relay_id(run.allocation);
            for payload in datagrams.bytes[start..start + run.length].chunks(run.segment.max(1)) {
                if let Some(forward) = self.server.handle_sfu(now, allocation, run.from, payload) {
                    self.outward.forward(forward);
                }
            }
            start += run.length;
        }
    }

    /// Does what the server wants done.
    fn carry_out(&mut self, now: Instant) {
        while let Some(output) = self.server.poll_output() {
            match output {
                Output::Send { link, bytes } if link.transport.is_stream() => {
                    self.outward.streams.queue(&link, &[&bytes], false);
                }
                Output::Send { link, bytes } => self.outward.queue.push_parts(To::Client { link }, &[&bytes]),
                Output::Open { relay, bind } => {
                    let is_open = self.open(relay, bind);
                    self.server.handle_opened(now, relay, is_open);
                }
                Output::Close { relay } => self.relays.close(relay),
                Output::Ended { allocation, link } => {
                    self.outward.shards.ended(allocation);
                    if link.transport.is_stream() {
                        self.outward.streams.let_go(&link, now);
                    }
                }
            }
        }
    }

    fn open(&mut self, relay: RelaySocket, bind: SocketAddr) -> bool {
        let token = token(RELAY, Relays::index(relay));
        match self.relays.open(relay, bind, self.poll.registry(), token) {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(%error, port = bind.port(), "cannot open a relay socket");
                false
            }
        }
    }

    /// Sends everything.
    fn send(&mut self, now: Instant) {
        let mut singles = Singles { from: None, waiting: Vec::new() };
        let mut lost = 0;
        for transmit in self.outward.queue.iter() {
            let sent = match transmit.way {
                To::Client { link } => listener_of(&self.listeners, &link).map(|index| {
                    let from = (index, link.local.ip());
                    let is_single = transmit.contents.len() <= transmit.segment;
                    // Those of a client leave in order, so what leaves otherwise waits for what is ahead.
                    if !is_single || singles.from != Some(from) {
                        lost += singles.send(&self.listeners);
                    }
                    if is_single {
                        singles.from = Some(from);
                        singles.waiting.push((link.remote, transmit.contents));
                        return Ok(());
                    }
                    self.listeners[index].send(link.remote, Some(link.local.ip()), &transmit)
                }),
                To::Peer { allocation, family, peer, dont_fragment } => {
                    let socket = self.relays.get(allocation, family);
                    socket.map(|socket| match dont_fragment {
                        false => socket.send(peer, None, &transmit),
                        true => socket.send_whole(peer, &transmit),
                    })
                }
            };
            if !matches!(sent, Some(Ok(()))) {
                lost += 1;
            }
        }
        lost += singles.send(&self.listeners);
        self.counters.dropped(TurnDrop::SendFailed, lost);
        self.outward.queue.clear();
        let mut ended = Vec::new();
        self.outward.streams.flush(now, &mut ended);
        ended.into_iter().for_each(|index| self.close(index, now));
        self.outward.shards.post();
        // What closing has left to do; nothing of it is sent.
        self.carry_out(now);
    }

    fn publish(&mut self, now: Instant) {
        self.published = now;
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        self.server.set_clock(now, unix);
        self.counters.dropped(TurnDrop::SlowClient, self.outward.streams.take_dropped());
        self.counters.dropped(TurnDrop::ShardBusy, std::mem::take(&mut self.outward.shards.dropped));
        self.counters.publish(self.server.counters(), self.relays.len());
    }
}

impl Singles<'_> {
    /// Sends those that wait; how many were lost.
    fn send(&mut self, listeners: &[Socket]) -> u64 {
        let Some((listener, ip)) = self.from.take() else { return 0 };
        let lost = listeners[listener].send_each(Some(ip), &self.waiting);
        self.waiting.clear();
        lost
    }
}

impl Outward {
    fn forward(&mut self, forward: Forward<'_>) {
        pass_on(&mut self.queue, &mut self.streams, &mut self.shards, forward);
    }
}

fn pass_on(queue: &mut TransmitQueue<To>, streams: &mut Streams, shards: &mut Shards, forward: Forward<'_>) {
    match forward {
        Forward::Client { link, header, payload, padding } => {
            let parts = [header.as_bytes(), payload, &PADDING[..padding]];
            if link.transport.is_stream() {
                streams.queue(&link, &parts, true);
            } else {
                queue.push_parts(To::Client { link }, &parts);
            }
        }
        Forward::Peer { relay, peer, payload, dont_fragment } => {
            let RelaySocket { allocation, family, .. } = relay;
            queue.push_parts(To::Peer { allocation, family, peer, dont_fragment }, &[payload]);
        }
        Forward::Sfu { allocation, from, to, payload } => shards.take(allocation, from, to, payload),
    }
}

impl Shards {
    /// Those whose sockets have these ports, in the order of `inputs`.
    pub(super) fn new(by_port: FxHashMap<u16, usize>, inputs: Vec<mpsc::Sender<Input>>) -> Self {
        let waiting = inputs.iter().map(|_| Vec::new()).collect();
        Self { by_port, inputs, waiting, talked: Vec::new(), dropped: 0 }
    }

    fn take(&mut self, allocation: AllocationId, from: SocketAddr, to: SocketAddr, payload: &[u8]) {
        let Some(&shard) = self.by_port.get(&to.port()) else { return };
        let slot = allocation.slot as usize;
        if self.talked.len() <= slot {
            self.talked.resize(slot + 1, (0, 0));
        }
        let (serial, shards) = &mut self.talked[slot];
        if *serial != allocation.serial {
            (*serial, *shards) = (allocation.serial, 0);
        }
        *shards |= 1 << shard;
        self.waiting[shard].push(Datagram {
            path: Path::Relay(path_id(allocation)),
            source: from,
            local_ip: Some(to.ip()),
            contents: BytesMut::from(payload),
        });
    }

    /// Hands over what has come together. A shard that does not keep up loses it, as its socket would.
    fn post(&mut self) {
        for (waiting, input) in self.waiting.iter_mut().zip(&self.inputs) {
            if waiting.is_empty() {
                continue;
            }
            let batch = Input::Relayed(std::mem::take(waiting));
            if let Err(TrySendError::Full(Input::Relayed(batch))) = input.try_send(batch) {
                self.dropped += batch.len() as u64;
            }
        }
    }

    /// Tells those that it has talked to. One that does not keep up learns it by its peer's silence.
    fn ended(&mut self, allocation: AllocationId) {
        let Some((serial, shards)) = self.talked.get_mut(allocation.slot as usize) else { return };
        if *serial != allocation.serial {
            return;
        }
        let shards = std::mem::take(shards);
        for (index, input) in self.inputs.iter().enumerate() {
            if shards & 1 << index != 0 {
                let closed = Command::PathClosed(Path::Relay(path_id(allocation)));
                let _ = input.try_send(Input::Command(closed));
            }
        }
    }
}

/// As the engine knows it.
fn path_id(allocation: AllocationId) -> path::AllocationId {
    path::AllocationId(u64::from(allocation.serial) << 32 | u64::from(allocation.slot))
}

/// As the relay knows it.
fn relay_id(path::AllocationId(id): path::AllocationId) -> AllocationId {
    AllocationId { slot: id as u32, serial: (id >> 32) as u32 }
}

fn kind(Token(token): Token) -> usize {
    token >> KIND_SHIFT
}

fn index(Token(token): Token) -> usize {
    token & ((1 << KIND_SHIFT) - 1)
}
