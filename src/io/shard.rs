//! The thread of one shard: waits for a datagram, a queue or a deadline, takes everything that is there, lets the
//! shard work once, and carries off what it has.

use std::{
    collections::HashMap,
    future::poll_fn,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::Sender,
    },
    task::Poll,
    time::{Duration, Instant},
};

use bytes::{BufMut, Bytes, BytesMut};
use switchyard_signaling::quality::Quality;
use tokio::{
    runtime::Handle,
    sync::mpsc::{self, error::TrySendError},
    task::yield_now,
    time::{Sleep, sleep_until},
};

use super::{
    BackendReply, Input, Letters,
    sockets::Sockets,
    storage,
    turn::{Datagrams, Mailbox},
    udp::{self, ActiveUdp, ReceiveBuffer, Udp},
};
use crate::{
    attempts::{Attempts, Record, Teller},
    engine::{
        Command, Shard,
        path::{Path, TcpId},
        peers::Outcome,
        transmit::Transmit,
    },
    metrics::{
        Connect, DatagramDrop, Direction, DropCause, Lane, Logs, Metrics, Queue, Rung, ShardCounters,
        TurnDrop,
    },
    names::{ShardId, WallClock},
    room::{BackendRequest, LogTally},
    router::{Letter, Tally},
    store::{Reply, Store},
};

/// Inputs and letters taken before the shard works: enough for batches to form, few enough for deadlines to hold.
const TAKEN: usize = 512;
/// Receive calls before the shard works.
const RECEIVES: usize = 4;
/// How often what was counted is shown.
const PUBLISH: Duration = Duration::from_millis(500);

/// Everything that one thread owns.
pub(super) struct Shell {
    pub(super) shard: Shard,
    pub(super) sockets: Vec<Udp>,
    pub(super) inputs: mpsc::Receiver<Input>,
    pub(super) letters_in: mpsc::Receiver<Letter>,
    pub(super) letters_out: Vec<Letters>,
    pub(super) relay: Option<Mailbox>,
    pub(super) store: Arc<Store>,
    pub(super) replies: mpsc::UnboundedReceiver<Reply>,
    pub(super) clock: WallClock,
    pub(super) counters: ShardCounters,
    pub(super) metrics: Arc<Metrics>,
    pub(super) attempts: Arc<Attempts>,
    pub(super) population: Arc<AtomicUsize>,
}

struct Loop {
    shard: Shard,
    sockets: Vec<ActiveUdp>,
    websockets: Sockets,
    inputs: mpsc::Receiver<Input>,
    letters_in: mpsc::Receiver<Letter>,
    letters_out: Vec<Letters>,
    relay: Option<Mailbox>,
    relayed: Datagrams,
    store: Arc<Store>,
    replies: mpsc::UnboundedReceiver<Reply>,
    clock: WallClock,
    /// The application's backend waits for these.
    backend: HashMap<u64, BackendReply>,
    backend_requests: u64,
    tcp: HashMap<TcpId, mpsc::Sender<Bytes>>,
    receive: ReceiveBuffer,
    counters: ShardCounters,
    metrics: Arc<Metrics>,
    attempts: Arc<Attempts>,
    population: Arc<AtomicUsize>,
    counted: usize,
    published: Instant,
    is_stopping: bool,
}

impl Shell {
    /// Tells of its runtime, and runs until it is told to stop.
    pub(super) fn run(self, tell: &Sender<Handle>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = match runtime {
            Ok(runtime) => runtime,
            Err(error) => return tracing::error!(%error, "cannot start a shard's event loop"),
        };
        // Whoever starts the shard has gone: then nobody needs it.
        let _ = tell.send(runtime.handle().clone());
        // The shard is a task like those of the WebSockets beside it: they wake each other without a system call.
        let shard = runtime.spawn(self.serve());
        if let Err(error) = runtime.block_on(shard)
            && let Ok(panic) = error.try_into_panic()
        {
            std::panic::resume_unwind(panic);
        }
    }

    async fn serve(self) {
        let sockets = self.sockets.into_iter().map(Udp::activate).collect::<Result<Vec<_>, _>>();
        let sockets = match sockets {
            Ok(sockets) => sockets,
            Err(error) => return tracing::error!(%error, "cannot use a shard's sockets"),
        };
        let mut shard = Loop {
            shard: self.shard,
            sockets,
            websockets: Sockets::new(),
            inputs: self.inputs,
            letters_in: self.letters_in,
            letters_out: self.letters_out,
            relay: self.relay,
            relayed: Datagrams::default(),
            store: self.store,
            replies: self.replies,
            clock: self.clock,
            backend: HashMap::new(),
            backend_requests: 0,
            tcp: HashMap::new(),
            receive: ReceiveBuffer::new(),
            counters: self.counters,
            metrics: self.metrics,
            attempts: self.attempts,
            population: self.population,
            counted: 0,
            published: Instant::now(),
            is_stopping: false,
        };
        let sleep = sleep_until(shard.published.into());
        tokio::pin!(sleep);
        while !shard.is_stopping {
            if shard.shard.has_handshakes() {
                // The runtime looks what has become readable, and does not wait for it. Then a little of what handshakes
                // have waiting, and a turn for everybody else again.
                yield_now().await;
                shard.shard.handle_handshake(Instant::now());
            } else {
                shard.wait(sleep.as_mut()).await;
            }
            if shard.turn() == Left::Something {
                // However much comes in by one way, the WebSockets' tasks have their turns too.
                yield_now().await;
            }
        }
    }
}

/// Whether a turn has taken everything that was there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    Nothing,
    Something,
}

/// What ended the wait, and already taken from its queue.
enum Woken {
    Input(Input),
    Letter(Letter),
    Reply(Reply),
    Other,
}

impl Loop {
    async fn wait(&mut self, mut sleep: Pin<&mut Sleep>) {
        let publish = self.published + PUBLISH;
        let due = self.shard.poll_timeout().map_or(publish, |due| due.min(publish));
        if sleep.deadline().into_std() != due {
            sleep.as_mut().reset(due.into());
        }
        let Self { inputs, letters_in, replies, sockets, websockets, .. } = self;
        let woken = poll_fn(|cx| {
            if websockets.poll_readable(cx).is_ready() {
                return Poll::Ready(Woken::Other);
            }
            if sockets.iter().any(|socket| socket.poll_readable(cx).is_ready()) {
                return Poll::Ready(Woken::Other);
            }
            if let Poll::Ready(input) = inputs.poll_recv(cx) {
                return Poll::Ready(Woken::Input(input.unwrap_or(Input::Stop)));
            }
            if let Poll::Ready(Some(letter)) = letters_in.poll_recv(cx) {
                return Poll::Ready(Woken::Letter(letter));
            }
            if let Poll::Ready(Some(reply)) = replies.poll_recv(cx) {
                return Poll::Ready(Woken::Reply(reply));
            }
            sleep.as_mut().poll(cx).map(|()| Woken::Other)
        });
        match woken.await {
            Woken::Input(input) => self.handle(input, Instant::now()),
            Woken::Letter(letter) => self.shard.handle_letter(letter, Instant::now()),
            Woken::Reply(reply) => self.shard.handle_stored(reply, Instant::now()),
            Woken::Other => {}
        }
    }

    fn turn(&mut self) -> Left {
        let now = Instant::now();
        for _ in 0..TAKEN {
            let Ok(input) = self.inputs.try_recv() else { break };
            self.handle(input, now);
        }
        for _ in 0..TAKEN {
            let Ok(letter) = self.letters_in.try_recv() else {
                break;
            };
            self.shard.handle_letter(letter, now);
        }
        for _ in 0..TAKEN {
            let Ok(reply) = self.replies.try_recv() else { break };
            self.shard.handle_stored(reply, now);
        }
        let Self { sockets, websockets, shard, receive, .. } = self;
        let read =
            websockets.read(now, |socket, frames| shard.handle_command(Command::Frames(socket, frames), now));
        let mut is_drained =
            read && self.inputs.is_empty() && self.letters_in.is_empty() && self.replies.is_empty();
        for socket in sockets.iter() {
            is_drained &= (0..RECEIVES)
                .any(|_| socket.receive(receive, |datagram| shard.handle_datagram(datagram, now)) == 0);
        }
        if self.shard.poll_timeout().is_some_and(|due| due <= now) {
            self.shard.handle_timeout(now);
        }
        for reply in storage::post(&mut self.shard, &self.store) {
            self.shard.handle_stored(reply, now);
        }
        self.shard.flush(now);
        self.transmit();
        self.post();
        self.counters.turned_in(now.elapsed());
        if now.saturating_duration_since(self.published) >= PUBLISH {
            self.publish(now);
        }
        if is_drained { Left::Nothing } else { Left::Something }
    }

    fn handle(&mut self, input: Input, now: Instant) {
        match input {
            Input::Command(command) => {
                match &command {
                    Command::PathClosed(Path::Tcp(id)) => drop(self.tcp.remove(id)),
                    Command::Closed { socket, .. } => self.websockets.remove(*socket),
                    _ => {}
                }
                self.shard.handle_command(command, now);
            }
            Input::Datagram(datagram) => self.shard.handle_datagram(datagram, now),
            Input::Relayed(datagrams) => {
                datagrams.into_iter().for_each(|datagram| self.shard.handle_datagram(datagram, now));
            }
            Input::TcpOpened(id, writer) => {
                self.tcp.insert(id, writer);
            }
            Input::Socket(id, wire, reader) => self.websockets.add(id, wire, reader),
            Input::Stop => self.is_stopping = true,
            Input::Backend(room, act, reply) => {
                self.backend_requests += 1;
                let request = self.backend_requests;
                self.backend.insert(request, reply);
                self.shard.handle_backend(room, BackendRequest { request, act }, now);
            }
        }
    }

    fn transmit(&mut self) {
        let (mut sent, mut bytes) = (0, 0);
        for transmit in self.shard.transmits() {
            let count = transmit.contents.len().div_ceil(transmit.segment.max(1));
            let taken = match transmit.way.path {
                Path::Udp(far) => {
                    let socket = self.sockets.iter().find(|socket| socket.serves(far, transmit.way.local_ip));
                    socket.is_some_and(|socket| socket.send(far, &transmit).is_ok())
                }
                Path::Tcp(id) => self.tcp.get(&id).is_some_and(|writer| write_tcp(writer, &transmit)),
                Path::Relay(id) => {
                    self.relay.is_some() && {
                        let local_ip = transmit.way.local_ip;
                        let from =
                            local_ip.and_then(|ip| Some(SocketAddr::new(ip, port_of(&self.sockets, ip)?)));
                        from.map(|from| self.relayed.push(id, from, &transmit)).is_some()
                    }
                }
            };
            if taken {
                sent += count;
                bytes += transmit.contents.len();
            } else {
                self.counters.datagram_dropped(DatagramDrop::SendFailed);
            }
        }
        self.shard.clear_transmits();
        if let Some(relay) = &self.relay
            && let Some(datagrams) = self.relayed.take()
            && let Err(lost) = relay.send_datagrams(datagrams)
        {
            self.metrics.turn.dropped(TurnDrop::RelayBusy, lost);
        }
        self.counters.datagrams(Direction::Out, sent, bytes);
    }

    fn post(&mut self) {
        while let Some((request, result)) = self.shard.poll_backend() {
            // Whoever asked may have gone.
            let _ = self.backend.remove(&request).map(|reply| reply.send(result));
        }
        while let Some(record) = self.shard.poll_record() {
            count_attempt(&self.metrics, &record);
            self.attempts.add(record);
        }
        for (index, queue) in self.letters_out.iter().enumerate() {
            let to = ShardId(index as u16);
            while let Some(letter) = self.shard.poll_letter(to) {
                if let Err(TrySendError::Full(letter) | TrySendError::Closed(letter)) = queue.try_send(letter)
                {
                    self.shard.return_letter(to, letter);
                    break;
                }
            }
        }
    }

    fn publish(&mut self, now: Instant) {
        self.published = now;
        self.clock.set(now, super::unix_ms());
        let counts = self.shard.take_counts();
        let (sessions, peers) = (counts.sessions, counts.peers);
        for (lane, index) in [(Lane::Reliable, 0), (Lane::Lossy, 1)] {
            let [received, delivered] =
                [sessions.received, sessions.delivered].map(|counts| counts[index] as usize);
            let bytes =
                [sessions.received_bytes, sessions.delivered_bytes].map(|counts| counts[index] as usize);
            self.counters.messages_of(lane, Direction::In, received, bytes[0]);
            self.counters.messages_of(lane, Direction::Out, delivered, bytes[1]);
        }
        self.counters.dropped(Lane::Lossy, DropCause::ReceiverSlow, sessions.lossy_dropped as usize);
        self.counters.dropped(Lane::Reliable, DropCause::ReceiverSlow, counts.gaps as usize);
        self.counters.dropped(Lane::Reliable, DropCause::RateLimited, sessions.rate_limited as usize);
        self.counters.datagrams(Direction::In, peers.received as usize, peers.received_bytes as usize);
        self.counters
            .datagrams_dropped(DatagramDrop::Unknown, (peers.unknown + peers.refused_checks) as usize);
        self.counters.datagrams_dropped(DatagramDrop::Malformed, peers.other as usize);
        self.counters.datagrams_dropped(DatagramDrop::Flood, peers.refused_handshake as usize);
        self.metrics.webrtc.path_changes.inc_by(peers.moved);
        self.metrics.webrtc.moved(sessions.moves);
        self.metrics.webrtc.doubts.inc_by(sessions.doubts);
        self.metrics.webrtc.copies.inc_by(sessions.copies);
        self.metrics.signalling.resumes.inc_by(sessions.resumes);
        for (outcome, count) in self.shard.take_outcomes() {
            self.metrics.webrtc.outcome(label_of(outcome), count);
        }
        for (tally, count) in self.shard.take_tallies() {
            match tally {
                Tally::Joined => self.metrics.rooms.joins.inc_by(count),
                Tally::Left(code) => self.metrics.rooms.left(code.as_str(), count),
                Tally::Refused(code) => self.metrics.rooms.refused(code.as_str(), count),
                Tally::ShardBusy => {
                    self.counters.dropped(Lane::Reliable, DropCause::ShardBusy, count as usize);
                }
                Tally::Log(tally) => count_log(&self.metrics.logs, tally, count),
            }
        }
        for latency in self.shard.take_latencies() {
            self.counters.delivered_after(latency);
        }
        for Quality { rung, rtt_ms, loss_permille, direct_messages, .. } in self.shard.take_qualities() {
            let rtt = rtt_ms.map(|ms| Duration::from_millis(ms.into()));
            let loss = loss_permille.map(|permille| f64::from(permille.min(1000)) / 1000.0);
            self.metrics.quality.told(rung, rtt, loss);
            self.metrics.quality.direct_messages.inc_by(direct_messages.unwrap_or_default().into());
        }
        self.counters.pairs(self.shard.pairs());
        self.counters.sessions_scored(self.shard.scores());
        let rungs = self.shard.rungs();
        let rungs = [rungs.udp, rungs.tcp, rungs.relay, rungs.websocket, rungs.none];
        for (rung, count) in Rung::ALL.iter().zip(rungs) {
            self.counters.sessions_on(*rung, count);
        }
        let (rooms, members, here, webrtc) = self.shard.population();
        self.counters.occupancy(rooms, members);
        self.counters.peers(webrtc);
        let before = std::mem::replace(&mut self.counted, here);
        self.population.fetch_add(here.wrapping_sub(before), Ordering::Relaxed);
        self.counters.queue_depth(Queue::Http, self.inputs.len());
        self.counters.queue_depth(Queue::Shards, self.letters_in.len());
        self.counters.publish();
    }
}

/// What the server itself has seen is counted by `switchyard_webrtc_total`.
fn count_attempt(metrics: &Metrics, Record { told_by, attempt, .. }: &Record) {
    if *told_by == Teller::Server {
        return;
    }
    metrics.attempts.told(attempt.by, attempt.verdict);
    // One that has connected is told of twice, if it breaks.
    if let (Some(took), Some(rung), None) = (attempt.connected_ms, attempt.rung, attempt.ended_ms) {
        metrics.attempts.connected(rung, Duration::from_millis(took));
    }
}

fn count_log(logs: &Logs, tally: LogTally, count: u64) {
    match tally {
        LogTally::Event(kind) => logs.committed(kind.name(), count),
        LogTally::Refused(code) => logs.submission("refused", code.as_str(), count),
        LogTally::Expected(code) => logs.submission("put_off", code.as_str(), count),
        LogTally::Repeated => logs.submission("repeated", "", count),
        LogTally::Conflict => logs.submission("conflict", "", count),
        LogTally::Snapshot(reason) => logs.snapshot(reason, count),
        LogTally::Abandoned => logs.incident("abandoned", count),
        LogTally::Loaded => logs.incident("loaded", count),
        LogTally::Failed => logs.incident("failed", count),
    }
}

fn label_of(outcome: Outcome) -> Connect {
    match outcome {
        Outcome::Opened => Connect::Opened,
        Outcome::IceTimeout => Connect::IceTimeout,
        Outcome::HandshakeTimeout => Connect::HandshakeTimeout,
        Outcome::HandshakeFailed => Connect::HandshakeFailed,
        Outcome::ConsentLost => Connect::ConsentLost,
        Outcome::ClosedByClient => Connect::Closed,
        Outcome::BadOffer => Connect::BadOffer,
        Outcome::Disabled => Connect::Disabled,
    }
}

/// The port of the socket that clients who send to this address reach.
fn port_of(sockets: &[ActiveUdp], ip: IpAddr) -> Option<u16> {
    udp::reached(sockets.iter().map(ActiveUdp::local), ip).map(|local| local.port())
}

/// Frames datagrams (RFC 4571) into the connection's queue; a full queue loses them, as a full router would.
fn write_tcp(writer: &mpsc::Sender<Bytes>, transmit: &Transmit<'_>) -> bool {
    let mut framed = BytesMut::with_capacity(transmit.contents.len() + 64);
    for datagram in transmit.contents.chunks(transmit.segment.max(1)) {
        framed.put_u16(datagram.len() as u16);
        framed.put_slice(datagram);
    }
    writer.try_send(framed.freeze()).is_ok()
}
