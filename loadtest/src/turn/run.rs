//! Pairs of allocations on real sockets: one end of each pair sends on schedule, the other counts what arrives.
//!
//! Every allocation has a socket of its own, because a TURN server tells allocations apart by address. Latency counts from
//! the time a datagram was due, so a sender that falls behind shows.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use futures_util::FutureExt as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf, split},
    net::UdpSocket,
    sync::{Semaphore, mpsc, watch},
    task::JoinSet,
    time::{sleep, sleep_until, timeout},
};

use super::{
    client::{Carrier, Credentials, RelayEvent, Relayed},
    server::TurnServer,
};
use crate::{
    account::{STAMP_BYTES, Stamp},
    histogram::Histogram,
    target::Io,
};

/// What to run.
#[derive(Clone, Debug)]
pub struct Load {
    /// The TURN server.
    pub server: TurnServer,
    /// For all allocations.
    pub credentials: Credentials,
    /// Pairs of allocations.
    pub pairs: u32,
    /// Bytes of each datagram, at least [`STAMP_BYTES`].
    pub size: usize,
    /// Datagrams a second of each pair.
    pub rate: f64,
    /// Datagrams that are sent back to back.
    pub burst: u32,
    /// How long is sent.
    pub duration: Duration,
    /// How long allocating may take.
    pub patience: Duration,
}

/// What it has shown.
#[derive(Debug, Default)]
pub struct Figures {
    /// Pairs that were ready to send.
    pub ready: u32,
    /// Why others were not.
    pub failures: BTreeMap<String, u64>,
    /// From connecting until the relayed address was there.
    pub allocating: Histogram,
    /// Datagrams given to the server.
    pub sent: u64,
    /// Datagrams that arrived at the other end of their pair.
    pub received: u64,
    /// Second copies.
    pub doubled: u64,
    /// Datagrams with other contents.
    pub altered: u64,
    /// From due until received.
    pub latency: Histogram,
    /// How long was sent.
    pub sending: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Allocating,
    Sending(Instant),
    Draining,
    Leaving,
}

/// Pairs that allocate at the same time.
const ALLOCATING: usize = 32;
/// What has not come so long after the last was sent will not come.
const DRAIN: Duration = Duration::from_millis(700);
/// For giving allocations back.
const LEAVE: Duration = Duration::from_millis(50);
/// Datagrams read or sent before others have a turn.
const BATCH: usize = 64;
/// Time for all pairs to learn that sending begins.
const LEAD: Duration = Duration::from_millis(50);

/// Runs until the end, or until `interrupted` becomes true.
pub async fn run(load: &Load, mut interrupted: watch::Receiver<bool>) -> Figures {
    let (phase, phases) = watch::channel(Phase::Allocating);
    let (ready_sender, mut ready) = mpsc::channel(load.pairs.max(1) as usize);
    let gate = Arc::new(Semaphore::new(ALLOCATING));
    let mut pairs = JoinSet::new();
    for number in 0..load.pairs {
        let (load, phases, ready, gate) = (load.clone(), phases.clone(), ready_sender.clone(), gate.clone());
        pairs.spawn(async move {
            let _turn = gate.acquire().await;
            let mut outcome = Outcome::default();
            let opened = timeout(load.patience, Pair::open(&load, number, &mut outcome)).await;
            match opened.unwrap_or_else(|_| Err("not ready in time".to_owned())) {
                Ok(mut pair) => {
                    drop(_turn);
                    // The channel has room for every pair.
                    let _ = ready.try_send(());
                    if let Err(why) = pair.carry(&load, phases, &mut outcome).await {
                        outcome.failure = Some(why);
                    }
                }
                Err(why) => outcome.failure = Some(why),
            }
            outcome
        });
    }
    drop((ready_sender, phases));
    let mut figures = Figures::default();
    let gathering = async {
        while ready.recv().await.is_some() {
            figures.ready += 1;
            if figures.ready == load.pairs {
                break;
            }
        }
    };
    tokio::select! {
        () = gathering => {}
        _ = interrupted.wait_for(|stop| *stop) => {}
        () = sleep(load.patience) => {}
    }
    let start = Instant::now() + LEAD;
    if figures.ready > 0 {
        phase.send_replace(Phase::Sending(start));
        tokio::select! {
            () = sleep(LEAD + load.duration) => {}
            _ = interrupted.wait_for(|stop| *stop) => {}
        }
        figures.sending = start.elapsed().min(load.duration);
        phase.send_replace(Phase::Draining);
        sleep(DRAIN).await;
    }
    phase.send_replace(Phase::Leaving);
    while let Some(outcome) = pairs.join_next().await {
        match outcome {
            Ok(outcome) => figures.add(outcome),
            Err(error) => *figures.failures.entry(error.to_string()).or_default() += 1,
        }
    }
    figures
}

impl Figures {
    /// Datagrams that did not arrive.
    pub fn lost(&self) -> u64 {
        self.sent.saturating_sub(self.received)
    }

    fn add(&mut self, outcome: Outcome) {
        self.allocating.merge(&outcome.allocating);
        self.latency.merge(&outcome.latency);
        self.sent += outcome.sent;
        self.received += outcome.received;
        self.doubled += outcome.doubled;
        self.altered += outcome.altered;
        if let Some(why) = outcome.failure {
            *self.failures.entry(why).or_default() += 1;
        }
    }
}

/// What one pair has shown.
#[derive(Debug, Default)]
struct Outcome {
    failure: Option<String>,
    allocating: Histogram,
    latency: Histogram,
    sent: u64,
    received: u64,
    doubled: u64,
    altered: u64,
    /// A bit for each number received.
    seen: Vec<u64>,
}

impl Outcome {
    fn receive(&mut self, start: Instant, number: u32, payload: &[u8]) {
        let stamp = Stamp::of(payload).filter(|stamp| {
            stamp.sender == number
                && u64::from(stamp.seq) <= self.sent
                && payload == stamp.message(payload.len())
        });
        let Some(stamp) = stamp else {
            self.altered += 1;
            return;
        };
        let (word, bit) = (stamp.seq as usize / 64, 1 << (stamp.seq % 64));
        if self.seen.len() <= word {
            self.seen.resize(word + 1, 0);
        }
        if self.seen[word] & bit != 0 {
            self.doubled += 1;
            return;
        }
        self.seen[word] |= bit;
        self.received += 1;
        self.latency.record(start.elapsed().saturating_sub(stamp.scheduled));
    }
}

/// Two allocations: the first sends to the second.
struct Pair {
    number: u32,
    ends: [End; 2],
    start: Option<Instant>,
}

impl Pair {
    async fn open(load: &Load, number: u32, outcome: &mut Outcome) -> Result<Self, String> {
        let ends = [End::open(load, outcome).await?, End::open(load, outcome).await?];
        let mut pair = Self { number, ends, start: None };
        for from in 0..2 {
            let peer = pair.ends[1 - from].relayed_address;
            pair.ends[from].relayed.permit(Instant::now(), peer);
            while !pair.ends[from].permitted {
                pair.ends[from].step(None).await?;
            }
        }
        Ok(pair)
    }

    async fn carry(
        &mut self,
        load: &Load,
        mut phases: watch::Receiver<Phase>,
        outcome: &mut Outcome,
    ) -> Result<(), String> {
        let interval = Duration::from_secs_f64(f64::from(load.burst) / load.rate);
        // Pairs are spread over the interval: a hundred do not tick together.
        let offset = interval.mul_f64(f64::from(self.number) / f64::from(load.pairs));
        let (mut bursts, mut due) = (0u32, None);
        loop {
            match *phases.borrow_and_update() {
                Phase::Allocating => {}
                Phase::Sending(start) => {
                    self.start = Some(start);
                    let scheduled = offset + interval.mul_f64(bursts.into());
                    due = (scheduled < load.duration).then_some((start + scheduled, scheduled));
                }
                Phase::Draining => due = None,
                Phase::Leaving => break,
            }
            if let Some((at, scheduled)) = due
                && at <= Instant::now()
            {
                bursts += 1;
                for _ in 0..load.burst {
                    self.send(load, scheduled, outcome)?;
                }
                self.ends[0].flush()?;
                continue;
            }
            let [sender, receiver] = &mut self.ends;
            tokio::select! {
                stepped = sender.step(due.map(|(at, _)| at)) => stepped?,
                stepped = receiver.step(None) => stepped?,
                _ = phases.changed() => {}
            }
            for payload in self.ends[1].inbox.drain(..) {
                if let Some(start) = self.start {
                    outcome.receive(start, self.number, &payload);
                }
            }
        }
        self.ends.iter_mut().for_each(|end| end.relayed.close(Instant::now()));
        for end in &mut self.ends {
            end.flush()?;
            // The answer, so that the library does not repeat the request; nobody waits for more.
            let _ = timeout(LEAVE, end.step(None)).await;
        }
        Ok(())
    }

    fn send(&mut self, load: &Load, scheduled: Duration, outcome: &mut Outcome) -> Result<(), String> {
        let stamp = Stamp { sender: self.number, seq: outcome.sent as u32 + 1, scheduled };
        let peer = self.ends[1].relayed_address;
        self.ends[0].relayed.send(Instant::now(), peer, &stamp.message(load.size.max(STAMP_BYTES)))?;
        outcome.sent += 1;
        Ok(())
    }
}

/// One allocation and its socket.
struct End {
    relayed: Relayed,
    relayed_address: SocketAddr,
    permitted: bool,
    socket: Socket,
    buffer: Vec<u8>,
    inbox: Vec<bytes::Bytes>,
}

enum Socket {
    Udp(UdpSocket),
    Stream { reading: ReadHalf<Box<dyn Io>>, writing: WriteHalf<Box<dyn Io>>, waiting: BytesMut },
}

impl End {
    async fn open(load: &Load, outcome: &mut Outcome) -> Result<Self, String> {
        let began = Instant::now();
        let socket = Socket::open(load).await.map_err(|error| format!("connecting: {error}"))?;
        let server = load.server.address();
        let relayed = Relayed::new(began, server, load.server.carrier(), load.credentials.clone())?;
        let (relayed_address, permitted, inbox) = (server, false, Vec::new());
        let mut end = Self { relayed, relayed_address, permitted, socket, buffer: vec![0; 64 * 1024], inbox };
        while end.relayed_address == server {
            end.step(None).await?;
        }
        outcome.allocating.record(began.elapsed());
        Ok(end)
    }

    /// Moves what is to be moved, waits for the next thing to happen or for `until`, and takes it.
    async fn step(&mut self, until: Option<Instant>) -> Result<(), String> {
        self.flush()?;
        let due = [self.relayed.poll_timeout(), until].into_iter().flatten().min();
        let due = due.unwrap_or_else(|| Instant::now() + Duration::from_secs(1));
        let read = tokio::select! {
            read = self.socket.turn(&mut self.buffer) => read.map_err(|error| broken(&error))?,
            () = sleep_until(due.into()) => 0,
        };
        let now = Instant::now();
        if read > 0 {
            self.relayed.handle_bytes(now, &self.buffer[..read]);
        }
        for _ in 0..BATCH {
            let Some(read) = self.socket.read_more(&mut self.buffer) else { break };
            self.relayed.handle_bytes(now, &self.buffer[..read]);
        }
        if self.relayed.poll_timeout().is_some_and(|at| at <= now) {
            self.relayed.handle_timeout(now);
        }
        while let Some(event) = self.relayed.poll_event() {
            match event {
                RelayEvent::Allocated(address) => self.relayed_address = address,
                RelayEvent::Permitted(_) => self.permitted = true,
                RelayEvent::Data(_, payload) => self.inbox.push(payload),
                RelayEvent::Failed(why) => return Err(why),
            }
        }
        self.flush()
    }

    fn flush(&mut self) -> Result<(), String> {
        while let Some(bytes) = self.relayed.poll_transmit() {
            self.socket.write(&bytes);
        }
        self.socket.flush().map_err(|error| broken(&error))
    }
}

fn broken(error: &io::Error) -> String {
    format!("the connection to the server: {error}")
}

impl Socket {
    async fn open(load: &Load) -> io::Result<Self> {
        if let Carrier::Stream = load.server.carrier() {
            let (reading, writing) = split(load.server.connect().await?);
            return Ok(Self::Stream { reading, writing, waiting: BytesMut::new() });
        }
        let server = load.server.address();
        let any: IpAddr =
            if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind((any, 0)).await?;
        socket.connect(server).await?;
        Ok(Self::Udp(socket))
    }

    /// The bytes that have come, or 0 when some that were waiting have been written.
    async fn turn(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Udp(socket) => match socket.recv(buffer).await {
                // An ICMP error about a datagram; the request is repeated.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(0),
                read => read,
            },
            Self::Stream { reading, writing, waiting } => {
                tokio::select! {
                    read = reading.read(buffer) => match read? {
                        0 => Err(io::ErrorKind::UnexpectedEof.into()),
                        read => Ok(read),
                    },
                    written = writing.write_all_buf(waiting), if !waiting.is_empty() => written.map(|()| 0),
                }
            }
        }
    }

    /// A further datagram that is there already. Streams give many at once anyway.
    fn read_more(&self, buffer: &mut [u8]) -> Option<usize> {
        match self {
            Self::Udp(socket) => socket.try_recv(buffer).ok(),
            Self::Stream { .. } => None,
        }
    }

    /// What the network does not take at once is lost if it is a datagram, and waits if it is part of a stream.
    fn write(&mut self, bytes: &[u8]) {
        match self {
            Self::Udp(socket) => drop(socket.try_send(bytes)),
            Self::Stream { waiting, .. } => waiting.extend_from_slice(bytes),
        }
    }

    /// Writes as much as the connection takes at once.
    fn flush(&mut self) -> io::Result<()> {
        if let Self::Stream { writing, waiting, .. } = self
            && !waiting.is_empty()
        {
            let writing = async {
                writing.write_all_buf(waiting).await?;
                writing.flush().await
            };
            return writing.now_or_never().unwrap_or(Ok(()));
        }
        Ok(())
    }
}
