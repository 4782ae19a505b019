//! How bytes move: threads, sockets, queues and clocks around the pure shards.
//!
//! One thread per shard runs [`shard`]: its UDP sockets, its timers, its queues and its sessions' WebSockets ([`sockets`]
//! reads them, [`wire`] is the connection, [`websocket`] the format), and beside it the tasks of those WebSockets, which
//! the doors bring ([`Shards::runtime`]). ICE-TCP connections are accepted by [`ice_tcp`] on the shared runtime and handed
//! to the shard their first check names. The relay has a thread of its own ([`turn`]). Nothing is decided here.

mod ice_tcp;
mod listeners;
pub mod proxy_protocol;
mod shard;
mod sockets;
mod storage;
mod turn;
mod udp;
pub mod websocket;
mod wire;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::Context as _;
use ring::rand::{SecureRandom as _, SystemRandom};
use switchyard_signaling::limits::{CHUNK_BYTES, LOSSY_BYTES, Limits};
use switchyard_turn_config::settings::Turn;
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
};

use crate::{
    attempts::{self, Attempts},
    config::{Config, Mode},
    engine::{
        Command, Shard, ShardConfig, SocketId, path::TcpId, peer::Identity, peers::Datagram,
        peers::PeerTimeouts, sdp::HostCandidate, session::SessionLimits,
    },
    ice_servers::IceServers,
    metrics::Metrics,
    names::{RoomKey, ShardId, WallClock},
    room::{BackendAct, BackendAnswer, BackendError, LogSettings, RoomLimits},
    router::Letter,
    store::{Answer, Entry, Page, PageQuery, Request, Store, StoreError},
};

pub use ice_tcp::IceTcp;
use storage::Questions;
use websocket::Reader;
pub use wire::{Incoming, Wire, WireIo};

/// Commands and ICE-TCP datagrams that may wait for a shard; who sends more waits.
const INPUTS: usize = 1024;
/// Letters of one shard that may wait for another; more stay with the sender.
const LETTERS: usize = 8192;
/// Connections that speak HTTP at the relay's TLS port and may wait to be served.
const HTTPS: usize = 64;
/// Bytes of events that the store is asked for at once.
const EVENT_BYTES: usize = 256 * 1024;

/// What a shard's thread is told.
#[derive(Debug)]
pub(crate) enum Input {
    /// By a WebSocket's task.
    Command(Command),
    /// A WebSocket of a session that lives here: what comes by it is read by the shard.
    Socket(SocketId, Arc<Wire>, Reader),
    /// A datagram of an ICE-TCP connection.
    Datagram(Datagram),
    /// An ICE-TCP connection; what is sent into the queue is written to it.
    TcpOpened(TcpId, mpsc::Sender<bytes::Bytes>),
    /// Datagrams of clients behind allocations of the relay.
    Relayed(Vec<Datagram>),
    /// Finish: send what is left and end the thread.
    Stop,
    /// The application's backend acts in a room that lives here.
    Backend(RoomKey, BackendAct, BackendReply),
}

/// Where the answer to the application's backend goes.
pub type BackendReply = oneshot::Sender<Result<BackendAnswer, BackendError>>;

/// The shards' threads, seen from the doors.
#[derive(Debug)]
pub struct Shards {
    inputs: Vec<mpsc::Sender<Input>>,
    runtimes: Vec<Handle>,
    sessions: Arc<AtomicUsize>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    store: Arc<Store>,
    questions: Arc<Questions>,
    /// ICE-TCP, if it is offered.
    pub ice_tcp: Option<IceTcp>,
    relay: Mutex<Option<turn::Relay>>,
    https: Mutex<Option<mpsc::Receiver<WireIo>>>,
    ice_servers: Option<Arc<IceServers>>,
    attempts: Arc<Attempts>,
    turn: Turn,
    limits: Limits,
}

impl Shards {
    /// Binds all sockets, then starts all threads.
    pub fn start(config: &Config, metrics: &Arc<Metrics>) -> anyhow::Result<Self> {
        let count = usize::from(config.shards().max(1));
        let sessions = Arc::new(session_limits(config));
        let identity = config.rtc.enabled.then(Identity::generate).transpose()?;
        let (inputs, receivers): (Vec<_>, Vec<_>) = (0..count).map(|_| mpsc::channel(INPUTS)).unzip();
        let ice_tcp = if config.rtc.enabled && config.rtc.tcp_enabled {
            Some(IceTcp::bind(config, inputs.clone())?)
        } else {
            None
        };
        let addresses = advertised(config)?;
        let mut sockets = Vec::new();
        for index in 0..count {
            sockets.push(if config.rtc.enabled { udp::bind(&config.rtc, index)? } else { Vec::new() });
        }
        let (https, https_connections) = mpsc::channel(HTTPS);
        let relay = turn::Bound::bind(config, metrics, https)?;
        let turn = relay.as_ref().map_or_else(|| config.turn.clone(), |relay| relay.settings().clone());
        let ice_servers = IceServers::new(turn.clone(), unix_ms() / 1000).map(Arc::new);
        let (letters, mut letter_receivers): (Vec<_>, Vec<_>) =
            (0..count).map(|_| mpsc::channel(LETTERS)).unzip();
        let logs = Arc::new(log_settings(config));
        let attempts = Arc::new(Attempts::new(attempts::Limits {
            records: config.attempts.records as usize,
            bytes: config.attempts.max_bytes,
            age_ms: config.attempts.max_age.as_millis() as u64,
        }));
        let questions = Arc::new(Questions::default());
        let (store, mut replies) =
            storage::open(config, metrics, count, questions.clone()).context("cannot open the store")?;
        replies.reverse();
        let population = Arc::new(AtomicUsize::new(0));
        let (mut threads, mut runtimes) = (Vec::new(), Vec::new());
        letter_receivers.reverse();
        let mut sfu = turn::Sfu { addresses: Vec::new(), ports: Vec::new(), inputs: inputs.clone() };
        for ((index, inputs), sockets) in receivers.into_iter().enumerate().zip(sockets) {
            let udp = sockets.iter().map(|socket| socket.local).collect::<Vec<_>>();
            let shard = ShardConfig {
                shard: ShardId(index as u16),
                shards: count as u16,
                candidates: candidates(&addresses, &udp, ice_tcp.as_ref().map_or(&[], |tcp| &tcp.local)),
                identity: identity.clone(),
                timeouts: PeerTimeouts {
                    handshake: config.rtc.handshake_timeout,
                    consent: config.rtc.consent_timeout,
                },
                sessions: sessions.clone(),
                rooms: RoomLimits {
                    participants: config.limits.participants_per_room as usize,
                    topics: config.limits.topics_per_member as usize,
                },
                logs: logs.clone(),
                ice_servers: ice_servers.clone(),
                max_sessions: (config.limits.sessions_max as usize).div_ceil(count),
                max_peers: (config.rtc.max_peers as usize).div_ceil(count),
            };
            let reached = shard.candidates.iter().filter(|candidate| !candidate.tcp);
            sfu.addresses.extend(reached.map(|candidate| candidate.address));
            sfu.ports.push(udp.iter().map(SocketAddr::port).collect());
            tracing::debug!(shard = index, candidates = ?shard.candidates, "starting");
            let shell = shard::Shell {
                shard: Shard::new(shard, Box::new(random())),
                sockets,
                inputs,
                letters_in: letter_receivers.pop().expect("one for each shard"),
                letters_out: letters.clone(),
                relay: relay.as_ref().map(|relay| relay.mailbox().clone()),
                store: store.clone(),
                replies: replies.pop().expect("one for each shard"),
                clock: logs.clock.clone(),
                counters: metrics.shard(index),
                metrics: metrics.clone(),
                attempts: attempts.clone(),
                population: population.clone(),
            };
            let thread = std::thread::Builder::new().name(format!("shard-{index}"));
            let (tell, told) = std::sync::mpsc::channel();
            let running = thread.spawn(move || run_or_abort(shell, &tell));
            threads.push(running.context("cannot start a shard's thread")?);
            runtimes.push(told.recv().context("cannot start a shard's event loop")?);
        }
        let relay = relay.map(|relay| relay.start(sfu, metrics)).transpose()?;
        Ok(Self {
            inputs,
            runtimes,
            sessions: population,
            threads: Mutex::new(threads),
            store,
            questions,
            ice_tcp,
            relay: Mutex::new(relay),
            https: Mutex::new(Some(https_connections)),
            ice_servers,
            attempts,
            turn,
            limits: sessions.announced.clone(),
        })
    }

    /// What clients are told of STUN and TURN; `None` if nothing.
    pub fn ice_servers(&self) -> Option<&IceServers> {
        self.ice_servers.as_deref()
    }

    /// What is known of attempts to connect.
    pub fn attempts(&self) -> &Attempts {
        &self.attempts
    }

    /// How clients reach a relay: as configured, with the addresses, ports and secret that were taken.
    pub fn turn(&self) -> &Turn {
        &self.turn
    }

    /// Connections to the relay's TLS port that speak HTTP; `None` to all but the first who asks.
    pub fn take_https(&self) -> Option<mpsc::Receiver<WireIo>> {
        self.https.lock().ok()?.take()
    }

    /// How many there are.
    pub fn count(&self) -> u16 {
        self.inputs.len() as u16
    }

    /// Where the WebSockets of this shard's sessions run: a socket that is readable there wakes the shard's thread and no
    /// other. Tasks take turns with the shard, so each turn has to be short; they end when the shard does.
    pub(crate) fn runtime(&self, shard: ShardId) -> Option<&Handle> {
        self.runtimes.get(shard.0 as usize)
    }

    /// What clients are told.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Sessions on all shards, as of the last second.
    pub fn sessions(&self) -> usize {
        self.sessions.load(Ordering::Relaxed)
    }

    /// Hands a command to a shard, waiting while its queue is full. `false` once it has ended.
    pub async fn send(&self, shard: ShardId, command: Command) -> bool {
        match self.inputs.get(shard.0 as usize) {
            Some(inputs) => inputs.send(Input::Command(command)).await.is_ok(),
            None => false,
        }
    }

    /// Lets a shard read a WebSocket from now on. What the task has read has to be with the shard before.
    pub(crate) async fn read(&self, shard: ShardId, id: SocketId, wire: Arc<Wire>, reader: Reader) {
        if let Some(inputs) = self.inputs.get(shard.0 as usize) {
            // A shard that has ended takes its runtime with it, and the task.
            let _ = inputs.send(Input::Socket(id, wire, reader)).await;
        }
    }

    /// The application's backend acts in a room.
    ///
    /// # Errors
    /// [`BackendError`], or `None` when the shard has ended: what was asked may have been done.
    pub async fn act(&self, room: &RoomKey, act: BackendAct) -> Result<BackendAnswer, Option<BackendError>> {
        let (reply, answer) = oneshot::channel();
        let inputs = self.inputs.get(room.shard(self.count()).0 as usize).ok_or(None)?;
        inputs.send(Input::Backend(room.clone(), act, reply)).await.map_err(|_| None)?;
        answer.await.map_err(|_| None)?.map_err(Some)
    }

    /// Events of a room behind `after` and up to `to`, in order, as many as one answer of the store has; none at the end.
    /// What the store shows is durable.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn events(&self, room: RoomKey, after: u64, to: u64) -> Result<Vec<Arc<Entry>>, StoreError> {
        let request = Request::Events { key: room, after, to, bytes: EVENT_BYTES };
        match self.questions.ask(&self.store, request).await? {
            Answer::Events(events) => events,
            _ => Err(StoreError::Unavailable("it answered something else".to_owned())),
        }
    }

    /// A page of a room's messages.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn page(&self, query: PageQuery) -> Result<Page, StoreError> {
        match self.questions.ask(&self.store, Request::Page(query)).await? {
            Answer::Page(page) => page,
            _ => Err(StoreError::Unavailable("it answered something else".to_owned())),
        }
    }

    /// Tells every client that the server shuts down, and lets go of it.
    pub async fn drain(&self, retry_after: Duration) {
        if let Ok(Some(relay)) = self.relay.lock().as_deref() {
            relay.drain();
        }
        for shard in 0..self.count() {
            self.send(ShardId(shard), Command::Drain { retry_after }).await;
        }
    }

    /// Ends the threads when they have sent what is left.
    pub async fn stop(&self) {
        for inputs in &self.inputs {
            let _ = inputs.send(Input::Stop).await;
        }
        let threads =
            self.threads.lock().map(|mut threads| std::mem::take(&mut *threads)).unwrap_or_default();
        let relay = self.relay.lock().ok().and_then(|mut relay| relay.take());
        let store = self.store.clone();
        let joined = tokio::task::spawn_blocking(move || {
            let joined = threads.into_iter().all(|thread| thread.join().is_ok());
            // What the shards have sent last goes through it.
            let joined = relay.is_none_or(turn::Relay::stop) && joined;
            // What the shards have handed in is done.
            store.close();
            joined
        });
        if !joined.await.unwrap_or(false) {
            tracing::error!("a thread has panicked");
        }
    }
}

/// The TURN settings with the addresses that they leave to the machine.
///
/// # Errors
/// If the machine does not tell its addresses.
pub fn settled_turn(config: &Config) -> anyhow::Result<Turn> {
    turn::settled(config)
}

/// A shard that panics has lost its sessions and would leave the server half alive: better all of it is started anew.
fn run_or_abort(shell: shard::Shell, tell: &std::sync::mpsc::Sender<Handle>) {
    if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| shell.run(tell))).is_err() {
        tracing::error!("a shard has panicked; this is a defect of the server");
        std::process::abort();
    }
}

/// Which addresses clients are told: as configured, else those of the interfaces.
fn advertised(config: &Config) -> io::Result<Vec<IpAddr>> {
    if !config.rtc.advertise_addresses.is_empty() {
        return Ok(config.rtc.advertise_addresses.clone());
    }
    let mut addresses: Vec<IpAddr> = if_addrs::get_if_addrs()?.iter().map(if_addrs::Interface::ip).collect();
    // A client on this machine reaches loopback; Firefox gathers no loopback candidate of its own and needs another.
    let development = config.mode() == Mode::Development;
    addresses.retain(|ip| (development || !ip.is_loopback()) && !is_link_local(ip));
    addresses.sort_by_key(|ip| (ip.is_loopback(), ip.is_ipv6(), *ip));
    addresses.dedup();
    addresses.truncate(16);
    Ok(addresses)
}

fn is_link_local(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

fn candidates(addresses: &[IpAddr], udp: &[SocketAddr], tcp: &[SocketAddr]) -> Vec<HostCandidate> {
    let reached = |bound: &[SocketAddr], tcp| -> Vec<HostCandidate> {
        let candidate = |ip: &IpAddr| {
            let local = udp::reached(bound.iter().copied(), *ip)?;
            Some(HostCandidate { address: SocketAddr::new(*ip, local.port()), tcp })
        };
        addresses.iter().filter_map(candidate).collect()
    };
    [reached(udp, false), reached(tcp, true)].concat()
}

/// Milliseconds since 1970.
fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

fn log_settings(config: &Config) -> LogSettings {
    let secrets = config.keys.iter().map(|(key, secret)| (key.clone(), secret.secret.expose().to_vec()));
    LogSettings {
        writes_per_minute: config.limits.writes_per_minute,
        write_burst: config.limits.write_burst,
        resync_events: config.limits.resync_events.into(),
        idle: config.limits.idle_room,
        secrets: secrets.collect(),
        clock: WallClock::new(Instant::now(), unix_ms()),
    }
}

fn session_limits(config: &Config) -> SessionLimits {
    let limits = &config.limits;
    SessionLimits {
        announced: Limits {
            max_message_bytes: limits.max_message_bytes,
            max_lossy_bytes: LOSSY_BYTES,
            chunk_bytes: CHUNK_BYTES,
            replay_limit_bytes: limits.replay_limit_bytes,
            rooms_per_session: limits.rooms_per_session as usize,
            topics_per_member: limits.topics_per_member as usize,
            resume_grace_ms: limits.resume_grace.as_millis() as u64,
        },
        lossy_queue_bytes: limits.lossy_queue_bytes,
        messages_per_second: limits.messages_per_second,
        message_burst: limits.messages_burst,
        problems: limits.malformed_before_close.max(1),
    }
}

/// Random numbers of the system, some at a time.
fn random() -> impl FnMut() -> u64 + Send {
    let system = SystemRandom::new();
    let mut pool = [0; 512];
    let mut used = pool.len();
    move || {
        if used == pool.len() {
            system.fill(&mut pool).expect("the system has random numbers: it had them at the start");
            used = 0;
        }
        let number = u64::from_ne_bytes(pool[used..used + 8].try_into().expect("eight bytes"));
        pool[used..used + 8].fill(0);
        used += 8;
        number
    }
}

/// A letter on its way between threads.
type Letters = mpsc::Sender<Letter>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_is_a_candidate_where_a_socket_of_its_family_listens() {
        let addresses = ["203.0.113.5", "2001:db8::5"].map(|ip| ip.parse().unwrap());
        let bound = |list: &[&str]| list.iter().map(|address| address.parse().unwrap()).collect::<Vec<_>>();
        let told = |udp: &[&str], tcp: &[&str]| {
            let candidates = candidates(&addresses, &bound(udp), &bound(tcp));
            candidates
                .iter()
                .map(|candidate| (candidate.address.to_string(), candidate.tcp))
                .collect::<Vec<_>>()
        };
        let both = told(&["0.0.0.0:7882", "[::]:7882"], &["0.0.0.0:7881"]);
        let expected =
            [("203.0.113.5:7882", false), ("[2001:db8::5]:7882", false), ("203.0.113.5:7881", true)];
        assert_eq!(both, expected.map(|(address, tcp)| (address.to_owned(), tcp)));
        // Behind 1:1 NAT the address told is not the one bound.
        assert_eq!(told(&["10.0.0.7:7882"], &[]), [("203.0.113.5:7882".to_owned(), false)]);
    }
}
