//! Gives one simulated browser a real WebSocket, a real UDP socket and the real clock, lets it send on schedule, and
//! keeps its account. Everything that is decided is decided in [`crate::browser`]; [`crate::run`] starts hundreds of
//! these and puts their results together.

use std::{
    collections::BTreeMap,
    future::poll_fn,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::Poll,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{Sink, Stream};
use switchyard_signaling::{Code, frame::Target, message::ServerControl};
use tokio::{
    net::{TcpStream, UdpSocket},
    sync::{mpsc, watch},
    time::{sleep_until, timeout},
};
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{Message, client::IntoClientRequest, protocol::WebSocketConfig},
};

use crate::{
    account::{Account, Stamp},
    browser::{Browser, BrowserConfig, Event, Lane, Outgoing, Pipe, SendError, SocketOutput},
    histogram::Histogram,
    peer::{Channel, PeerEvent},
};

/// What one peer is to do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Its number in the run; messages are stamped with it.
    pub number: u32,
    /// Where the server listens.
    pub server: SocketAddr,
    /// The room to join.
    pub room: String,
    /// The token to join with.
    pub token: String,
    /// Whether it uses a data channel over UDP, rather than the WebSocket alone.
    pub udp: bool,
    /// What it sends, if it is a sender.
    pub sending: Option<Sending>,
}

/// What a sender sends.
#[derive(Clone, Copy, Debug)]
pub struct Sending {
    /// On which lane.
    pub lane: Lane,
    /// Bytes of each message.
    pub size: usize,
    /// Time from one message to the next.
    pub interval: Duration,
    /// When the first is due, after the start.
    pub offset: Duration,
    /// How many.
    pub count: u64,
}

/// The stream that all messages of a run belong to.
pub const STREAM: u16 = 1;

/// What the run is doing; told to all peers at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Peers connect.
    Connecting,
    /// Senders send; latencies count from this instant.
    Sending(Instant),
    /// Nobody sends; what is under way arrives.
    Draining(Instant),
    /// Peers leave.
    Leaving,
}

/// How far peers are, for the progress line.
#[derive(Debug, Default)]
pub struct Progress {
    /// Peers on the pipe they are to use.
    pub ready: AtomicU64,
    /// Messages sent.
    pub sent: AtomicU64,
    /// Messages received.
    pub received: AtomicU64,
}

/// When each stage of connecting was reached, since connecting began.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stages {
    /// The WebSocket was open.
    pub websocket: Option<Duration>,
    /// The room was joined.
    pub joined: Option<Duration>,
    /// ICE had a pair.
    pub ice: Option<Duration>,
    /// DTLS was up.
    pub dtls: Option<Duration>,
    /// The reliable channel was open.
    pub channel: Option<Duration>,
    /// Frames went over the pipe that the peer is to use.
    pub attached: Option<Duration>,
}

/// What became of one peer.
#[derive(Debug, Default)]
pub struct Outcome {
    /// When it reached what.
    pub stages: Stages,
    /// Messages sent.
    pub sent: u64,
    /// Messages that were due and not sent, because the send buffer was full or the run ended.
    pub unsent: u64,
    /// Lossy messages that a full pipe dropped before sending.
    pub dropped_before_sending: u64,
    /// What it received.
    pub account: Account,
    /// From the scheduled time of sending to receiving.
    pub latency: Histogram,
    /// Refusals, by code.
    pub refusals: BTreeMap<Code, u64>,
    /// The first things that should not have happened, in words.
    pub troubles: Vec<String>,
    /// How many there were of them.
    pub trouble_count: u64,
    /// How often frames changed to another pipe after the peer was ready.
    pub pipe_changes: u64,
}

/// Troubles that are kept in words.
const TROUBLES: usize = 8;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Datagrams read, and messages sent, before the other side gets a turn.
const BATCH: usize = 64;
/// A sender that found its buffer full looks again after this.
const FULL_RETRY: Duration = Duration::from_millis(5);
/// A peer without anything due looks around this often.
const IDLE: Duration = Duration::from_secs(1);

/// Drives one peer through all phases. `ready` gets its number when it is on the pipe it is to use.
pub async fn drive(
    plan: Plan,
    mut phase: watch::Receiver<Phase>,
    ready: mpsc::Sender<u32>,
    progress: Arc<Progress>,
) -> Outcome {
    let mut outcome = Outcome::default();
    match Driver::connect(&plan, &mut outcome).await {
        Ok(mut driver) => driver.run(&mut phase, &ready, &progress).await,
        Err(error) => outcome.trouble(format!("connecting: {error}")),
    }
    outcome
}

impl Outcome {
    fn trouble(&mut self, what: String) {
        self.trouble_count += 1;
        if self.troubles.len() < TROUBLES {
            self.troubles.push(what);
        }
    }
}

struct Driver<'a> {
    plan: &'a Plan,
    outcome: &'a mut Outcome,
    browser: Browser,
    udp: Option<(UdpSocket, SocketAddr)>,
    socket: Option<WebSocketStream<TcpStream>>,
    /// A message was given to the WebSocket and has not left it yet.
    unflushed: bool,
    began: Instant,
    handle: Option<u16>,
    is_ready: bool,
    /// Messages sent so far, and when to look again.
    sent: u64,
    next_send: Option<Instant>,
}

enum Input {
    Text(String),
    Binary(Bytes),
    Flushed,
    SocketClosed(String),
    Datagrams,
    Phase,
    Time,
}

impl<'a> Driver<'a> {
    async fn connect(plan: &'a Plan, outcome: &'a mut Outcome) -> io::Result<Self> {
        let udp = if plan.udp { Some(bind_towards(plan.server).await?) } else { None };
        let began = Instant::now();
        let opening = open_websocket(plan.server);
        let socket = timeout(CONNECT_TIMEOUT, opening).await.map_err(|_| io::ErrorKind::TimedOut)??;
        let now = Instant::now();
        outcome.stages.websocket = Some(now - began);
        let address = udp.as_ref().map(|(_, address)| *address);
        let mut browser = Browser::new(now, BrowserConfig { address, ..BrowserConfig::default() });
        browser.handle_socket_open(now);
        browser.join(now, &plan.room, &plan.token);
        let socket = Some(socket);
        let (unflushed, handle, is_ready, sent, next_send) = (false, None, false, 0, None);
        Ok(Self { plan, outcome, browser, udp, socket, unflushed, began, handle, is_ready, sent, next_send })
    }

    async fn run(
        &mut self,
        phase: &mut watch::Receiver<Phase>,
        ready: &mpsc::Sender<u32>,
        progress: &Progress,
    ) {
        loop {
            let current = *phase.borrow_and_update();
            if current == Phase::Leaving {
                break;
            }
            self.send_what_is_due(current, progress);
            self.move_outputs();
            self.take_events(current, ready, progress);
            if self.socket.is_none() && self.browser.attached().is_none() {
                // Whatever is left to tell stands in the troubles.
                break;
            }
            match self.wait(phase).await {
                Input::Text(text) => self.browser.handle_text(Instant::now(), &text),
                Input::Binary(message) => self.browser.handle_binary(Instant::now(), message),
                Input::Flushed => self.unflushed = false,
                Input::SocketClosed(why) => {
                    self.outcome.trouble(format!("the WebSocket closed: {why}"));
                    self.socket = None;
                    self.browser.handle_socket_closed(Instant::now());
                }
                Input::Datagrams => self.read_datagrams(),
                Input::Phase => {}
                Input::Time => self.browser.handle_timeout(Instant::now()),
            }
        }
        self.leave().await;
        self.outcome.sent = self.sent;
        self.outcome.unsent = self.plan.sending.map_or(0, |sending| sending.count) - self.sent;
        self.outcome.dropped_before_sending = self.browser.lossy_dropped();
    }

    /// Waits for whatever comes first.
    async fn wait(&mut self, phase: &mut watch::Receiver<Phase>) -> Input {
        let due = [self.browser.poll_timeout(), self.next_send].into_iter().flatten().min();
        let due = due.unwrap_or_else(|| Instant::now() + IDLE);
        let (unflushed, reads) = (self.unflushed, self.browser.reads_socket());
        let (socket, udp) = (&mut self.socket, &self.udp);
        tokio::select! {
            input = socket_input(socket, unflushed, reads) => input,
            () = readable(udp) => Input::Datagrams,
            // An end of the other half means that the run is gone; the next turn sees the last phase.
            _ = phase.changed() => Input::Phase,
            () = sleep_until(due.into()) => Input::Time,
        }
    }

    fn send_what_is_due(&mut self, phase: Phase, progress: &Progress) {
        self.next_send = None;
        let (Phase::Sending(start), Some(sending), Some(room)) = (phase, self.plan.sending, self.handle)
        else {
            return;
        };
        for _ in 0..BATCH {
            if self.sent == sending.count {
                return;
            }
            let scheduled = sending.offset + sending.interval.mul_f64(self.sent as f64);
            let now = Instant::now();
            if start + scheduled > now {
                self.next_send = Some(start + scheduled);
                return;
            }
            let stamp = Stamp { sender: self.plan.number, seq: self.sent as u32 + 1, scheduled };
            let (lane, stream, target) = (sending.lane, STREAM, Target::Room);
            let payload = stamp.message(sending.size);
            match self.browser.send(now, Outgoing { room, lane, stream, target, text: false, payload }) {
                Ok(()) => {
                    self.sent += 1;
                    progress.sent.fetch_add(1, Ordering::Relaxed);
                }
                Err(SendError::BufferFull) => {
                    self.next_send = Some(now + FULL_RETRY);
                    return;
                }
                Err(error) => {
                    self.outcome.trouble(format!("sending: {error}"));
                    self.next_send = Some(now + IDLE);
                    return;
                }
            }
        }
        self.next_send = Some(Instant::now());
    }

    /// Takes what the browser has to send; what the network does not take at once is lost if it is a datagram, and
    /// stays in the browser if it is for the WebSocket.
    fn move_outputs(&mut self) {
        while let Some(datagram) = self.browser.poll_datagram() {
            if let Some((udp, _)) = &self.udp {
                let _ = udp.try_send_to(&datagram.payload, datagram.to);
            }
        }
        if self.unflushed {
            return;
        }
        if let Some(socket) = &mut self.socket
            && let Some(output) = self.browser.poll_socket()
        {
            let message = match output {
                SocketOutput::Text(text) => Message::text(text),
                SocketOutput::Binary(message) => Message::binary(message),
            };
            self.unflushed = true;
            // The error comes again when it is flushed.
            let _ = std::pin::Pin::new(socket).start_send(message);
        }
    }

    fn read_datagrams(&mut self) {
        let Some((udp, _)) = &self.udp else { return };
        let mut buffer = [0; 2048];
        for _ in 0..BATCH {
            let Ok((length, from)) = udp.try_recv_from(&mut buffer) else {
                return;
            };
            self.browser.handle_datagram(Instant::now(), from, &buffer[..length]);
        }
    }

    fn take_events(&mut self, phase: Phase, ready: &mpsc::Sender<u32>, progress: &Progress) {
        while let Some(event) = self.browser.poll_event() {
            let since = self.began.elapsed();
            let stages = &mut self.outcome.stages;
            match event {
                Event::Message(message) => {
                    let Some(stamp) = Stamp::of(&message.payload) else {
                        self.outcome.account.received_foreign();
                        continue;
                    };
                    if let Phase::Sending(start) | Phase::Draining(start) = phase {
                        let latency = Instant::now().saturating_duration_since(start + stamp.scheduled);
                        self.outcome.latency.record(latency);
                    }
                    self.outcome.account.received(message.stream, stamp);
                    progress.received.fetch_add(1, Ordering::Relaxed);
                }
                Event::Gap { count, .. } => self.outcome.account.told_missing(count),
                Event::Control(_, ServerControl::Joined { handle, .. }) => {
                    stages.joined.get_or_insert(since);
                    self.handle = Some(handle);
                }
                Event::Control(_, ServerControl::Refused { code, .. }) => {
                    *self.outcome.refusals.entry(code).or_default() += 1;
                }
                Event::Control(_, ServerControl::Left { reason }) => {
                    self.handle = None;
                    self.outcome.trouble(format!("left the room: {reason:?}"));
                }
                Event::Refused(refusal) => {
                    *self.outcome.refusals.entry(refusal.code).or_default() += 1;
                    self.outcome.trouble(format!("refused: {:?}: {}", refusal.code, refusal.message));
                }
                Event::Peer(PeerEvent::IceConnected) => stages.ice = stages.ice.or(Some(since)),
                Event::Peer(PeerEvent::DtlsConnected) => stages.dtls = stages.dtls.or(Some(since)),
                Event::Peer(PeerEvent::Open(Channel::Reliable)) => {
                    stages.channel = stages.channel.or(Some(since))
                }
                Event::Attached(pipe) if self.is_ready => {
                    self.outcome.pipe_changes += 1;
                    self.outcome.trouble(format!("moved to {pipe:?}"));
                }
                Event::PeerLost => self.outcome.trouble("the peer connection was lost".to_owned()),
                Event::SessionLost => self.outcome.trouble("the session was lost".to_owned()),
                Event::Draining => self.outcome.trouble("the server is shutting down".to_owned()),
                Event::Violation(what) => self.outcome.trouble(format!("protocol violation: {what}")),
                // The load program follows no log.
                Event::Log(..)
                | Event::Attached(_)
                | Event::Welcome
                | Event::Session(_)
                | Event::Control(..)
                | Event::Peer(_) => {}
            }
        }
        let wanted = if self.plan.udp { Pipe::Channel } else { Pipe::Socket };
        if !self.is_ready && self.handle.is_some() && self.browser.attached() == Some(wanted) {
            self.is_ready = true;
            self.outcome.stages.attached = Some(self.began.elapsed());
            progress.ready.fetch_add(1, Ordering::Relaxed);
            // The channel has room for every peer of the run.
            let _ = ready.try_send(self.plan.number);
        }
    }

    /// Says goodbye, and does not wait long for an answer.
    async fn leave(&mut self) {
        self.browser.bye();
        let flush = async {
            while self.socket.is_some() {
                self.move_outputs();
                if !self.unflushed {
                    break;
                }
                match socket_input(&mut self.socket, true, false).await {
                    Input::Flushed => self.unflushed = false,
                    _ => break,
                }
            }
        };
        let _ = timeout(Duration::from_secs(1), flush).await;
    }
}

/// A UDP socket on all addresses, and the address of ours that the server is reached from.
async fn bind_towards(server: SocketAddr) -> io::Result<(UdpSocket, SocketAddr)> {
    let any =
        if server.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    // Connecting a UDP socket sends nothing; it asks the routing table.
    let probe = UdpSocket::bind((any, 0)).await?;
    probe.connect(server).await?;
    let local = probe.local_addr()?.ip();
    let socket = UdpSocket::bind((any, 0)).await?;
    let port = socket.local_addr()?.port();
    Ok((socket, SocketAddr::new(local, port)))
}

async fn open_websocket(server: SocketAddr) -> io::Result<WebSocketStream<TcpStream>> {
    let stream = TcpStream::connect(server).await?;
    stream.set_nodelay(true)?;
    let mut request = format!("ws://{server}/v1/connect").into_client_request().map_err(io::Error::other)?;
    let subprotocol = "switchyard.v1".parse().map_err(io::Error::other)?;
    request.headers_mut().insert("sec-websocket-protocol", subprotocol);
    // Nothing is gathered before it is written: the browser has merged what belongs together.
    let config = WebSocketConfig::default().write_buffer_size(0);
    let opened = client_async_with_config(request, stream, Some(config)).await;
    opened.map(|(socket, _)| socket).map_err(io::Error::other)
}

/// What the WebSocket gives next; never, if there is none.
async fn socket_input(
    socket: &mut Option<WebSocketStream<TcpStream>>,
    unflushed: bool,
    reads: bool,
) -> Input {
    let Some(socket) = socket else {
        return std::future::pending().await;
    };
    poll_fn(|context| {
        if unflushed {
            match std::pin::Pin::new(&mut *socket).poll_flush(context) {
                Poll::Ready(Ok(())) => return Poll::Ready(Input::Flushed),
                Poll::Ready(Err(error)) => return Poll::Ready(Input::SocketClosed(error.to_string())),
                Poll::Pending => {}
            }
        }
        if !reads {
            return Poll::Pending;
        }
        loop {
            let Poll::Ready(read) = std::pin::Pin::new(&mut *socket).poll_next(context) else {
                return Poll::Pending;
            };
            return Poll::Ready(match read {
                Some(Ok(Message::Text(text))) => Input::Text(text.as_str().to_owned()),
                Some(Ok(Message::Binary(message))) => Input::Binary(message),
                Some(Ok(Message::Close(frame))) => {
                    let why = frame.map(|frame| format!("{} {}", frame.code, frame.reason));
                    Input::SocketClosed(why.unwrap_or_default())
                }
                // Answers to WebSocket pings are the library's business.
                Some(Ok(_)) => continue,
                Some(Err(error)) => Input::SocketClosed(error.to_string()),
                None => Input::SocketClosed("without a close frame".to_owned()),
            });
        }
    })
    .await
}

/// When the UDP socket may have something; never, if there is none.
async fn readable(udp: &Option<(UdpSocket, SocketAddr)>) {
    match udp {
        // An error shows when reading, where it is passed over: ICE notices a dead path.
        Some((udp, _)) => drop(udp.readable().await),
        None => std::future::pending().await,
    }
}
