//! One run of the load program: tokens, peers, sending on schedule, waiting for what is under way, leaving.
//!
//! It prints a line of progress each second to standard error and returns the figures; it judges nothing, that is
//! [`crate::report`]'s.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use switchyard_signaling::Code;
use tokio::{
    sync::{Semaphore, mpsc, watch},
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep, timeout},
};

use crate::{
    account::Totals,
    browser::Lane,
    driver::{Outcome, Phase, Plan, Progress, STREAM, Sending, Stages, drive},
    histogram::Histogram,
    token::{TokenError, TokenSource},
};

/// Which way peers are connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Data channels over UDP.
    Udp,
    /// The WebSocket alone.
    WebSocket,
    /// Every other peer the one, the rest the other.
    Mixed,
}

/// What to run.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Where the server's HTTP port is.
    pub server: SocketAddr,
    /// Where tokens come from.
    pub tokens: TokenSource,
    /// What the rooms' names begin with.
    pub prefix: String,
    /// How many peers.
    pub peers: u32,
    /// In how many rooms.
    pub rooms: u32,
    /// How many of each room's members send.
    pub senders: u32,
    /// How peers are connected.
    pub transport: Transport,
    /// On which lane they send.
    pub lane: Lane,
    /// Bytes of each message.
    pub size: usize,
    /// Messages a second of each sender.
    pub rate: f64,
    /// How long they send.
    pub duration: Duration,
    /// How long all peers together may take to connect.
    pub connect_timeout: Duration,
    /// How long to wait for what is under way.
    pub drain_timeout: Duration,
}

/// Why there are no figures.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// No token.
    #[error("{0}")]
    Token(#[from] TokenError),
    /// Not all peers came as far as sending.
    #[error("only {ready} of {peers} peers were ready in time{}", first_trouble(.troubles))]
    NotReady {
        /// How many were.
        ready: u64,
        /// How many should have been.
        peers: u32,
        /// What peers had to tell.
        troubles: Vec<String>,
    },
    /// Asked to end before all peers were ready.
    #[error("ended before all peers were ready")]
    Interrupted,
    /// The program itself failed.
    #[error("a peer's task failed: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// The figures of a run.
#[derive(Debug, Default)]
pub struct Figures {
    /// Messages sent.
    pub sent: u64,
    /// Messages due and not sent.
    pub unsent: u64,
    /// Lossy messages dropped by a full pipe before sending.
    pub dropped_before_sending: u64,
    /// The balance over all receivers.
    pub totals: Totals,
    /// From the scheduled time of sending to receiving.
    pub latency: Histogram,
    /// Times of connecting, by stage.
    pub stages: Vec<(&'static str, Histogram)>,
    /// Refusals by code.
    pub refusals: BTreeMap<Code, u64>,
    /// Things that should not have happened, in words, the first of each peer.
    pub troubles: Vec<String>,
    /// How many there were.
    pub trouble_count: u64,
    /// Changes of pipe while sending.
    pub pipe_changes: u64,
    /// How long was sent.
    pub sending: Duration,
    /// Whether it was ended early.
    pub interrupted: bool,
}

/// Peers that connect at the same time.
const CONNECTING: usize = 32;
/// Time for all peers to learn that sending begins.
const LEAD: Duration = Duration::from_millis(50);
/// On the lossy lane, what has not come in this time will not come.
const QUIET: Duration = Duration::from_millis(700);
/// Troubles that are shown.
const TROUBLES: usize = 20;

/// Runs the scenario until its end, or until `interrupted` becomes true.
pub async fn run(scenario: &Scenario, mut interrupted: watch::Receiver<bool>) -> Result<Figures, RunError> {
    let plans = plan(scenario).await?;
    let progress = Arc::new(Progress::default());
    let (phase, phases) = watch::channel(Phase::Connecting);
    let (ready_sender, mut ready) = mpsc::channel(plans.len().max(1));
    let mut peers = JoinSet::new();
    let gate = Arc::new(Semaphore::new(CONNECTING));
    spawn_all(&plans, &mut peers, &phases, &ready_sender, &progress, &gate);
    drop((ready_sender, phases));
    let (mut number_ready, mut troubles) = (0, Vec::new());
    let ticker = spawn_ticker(progress.clone(), scenario.peers);

    let deadline = tokio::time::Instant::now() + scenario.connect_timeout;
    while number_ready < scenario.peers {
        tokio::select! {
            number = ready.recv() => match number {
                Some(_) => { gate.add_permits(1); number_ready += 1 }
                None => break,
            },
            // A peer that ends now has failed, and the run with it.
            Some(outcome) = peers.join_next() => {
                troubles.extend(outcome?.1.troubles);
                break;
            }
            _ = interrupted.wait_for(|stop| *stop) => {
                phase.send_replace(Phase::Leaving);
                ticker.abort();
                return Err(RunError::Interrupted);
            }
            () = tokio::time::sleep_until(deadline) => break,
        }
    }
    if number_ready < scenario.peers {
        phase.send_replace(Phase::Leaving);
        gate.close();
        while let Some(outcome) = peers.join_next().await {
            troubles.extend(outcome?.1.troubles);
        }
        ticker.abort();
        return Err(RunError::NotReady { ready: number_ready.into(), peers: scenario.peers, troubles });
    }

    let start = Instant::now() + LEAD;
    phase.send_replace(Phase::Sending(start));
    let sending = sleep(LEAD + scenario.duration);
    let stopped = tokio::select! {
        () = sending => false,
        _ = interrupted.wait_for(|stop| *stop) => true,
    };
    let sent_for = start.elapsed().min(scenario.duration);
    phase.send_replace(Phase::Draining(start));
    drain(scenario, &plans, &progress).await;
    phase.send_replace(Phase::Leaving);
    let mut outcomes = BTreeMap::new();
    while let Some(outcome) = peers.join_next().await {
        let (number, outcome) = outcome?;
        outcomes.insert(number, outcome);
    }
    ticker.abort();
    let mut figures = add_up(&plans, &outcomes);
    figures.sending = sent_for;
    figures.interrupted = stopped;
    Ok(figures)
}

/// Who does what.
async fn plan(scenario: &Scenario) -> Result<Vec<Plan>, TokenError> {
    let interval = Duration::from_secs_f64(1.0 / scenario.rate);
    let count = (scenario.duration.as_secs_f64() * scenario.rate) as u64;
    let mut plans = Vec::new();
    for number in 0..scenario.peers {
        let (room, place) = (number % scenario.rooms, number / scenario.rooms);
        let room = format!("{}-{room}", scenario.prefix);
        let token = scenario.tokens.token(scenario.server, &room, &format!("user-{number}")).await?;
        // Senders are spread over the interval: a thousand clients do not tick together.
        let offset = interval.mul_f64(f64::from(number) / f64::from(scenario.peers));
        let (lane, size) = (scenario.lane, scenario.size);
        let sends = place < scenario.senders && count > 0;
        plans.push(Plan {
            number,
            server: scenario.server,
            room,
            token,
            udp: match scenario.transport {
                Transport::Udp => true,
                Transport::WebSocket => false,
                // By place, so that every room has both.
                Transport::Mixed => place % 2 == 0,
            },
            sending: sends.then_some(Sending { lane, size, interval, offset, count }),
        });
    }
    Ok(plans)
}

fn spawn_all(
    plans: &[Plan],
    peers: &mut JoinSet<(u32, Outcome)>,
    phases: &watch::Receiver<Phase>,
    ready: &mpsc::Sender<u32>,
    progress: &Arc<Progress>,
    gate: &Arc<Semaphore>,
) {
    for plan in plans {
        let (plan, phases, ready) = (plan.clone(), phases.clone(), ready.clone());
        let (progress, gate) = (progress.clone(), gate.clone());
        peers.spawn(async move {
            let number = plan.number;
            match gate.acquire().await {
                // Given back when the peer is ready, which is when the next one may connect.
                Ok(permit) => permit.forget(),
                Err(_) => return (number, Outcome::default()),
            }
            (number, drive(plan, phases, ready, progress).await)
        });
    }
}

fn spawn_ticker(progress: Arc<Progress>, peers: u32) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        let began = Instant::now();
        let mut ticks = interval(Duration::from_secs(1));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        ticks.tick().await;
        let (mut sent_before, mut received_before) = (0, 0);
        loop {
            ticks.tick().await;
            let (ready, sent, received) = progress.read();
            eprintln!(
                "{:>4.0} s  {ready}/{peers} peers ready  sent {sent} (+{})  received {received} (+{})",
                began.elapsed().as_secs_f64(),
                sent - sent_before,
                received - received_before,
            );
            (sent_before, received_before) = (sent, received);
        }
    })
}

impl Progress {
    fn read(&self) -> (u64, u64, u64) {
        let read = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        (read(&self.ready), read(&self.sent), read(&self.received))
    }
}

/// Waits until all has arrived that can.
async fn drain(scenario: &Scenario, plans: &[Plan], progress: &Progress) {
    let mut members: BTreeMap<&str, u64> = BTreeMap::new();
    for plan in plans {
        *members.entry(&plan.room).or_default() += 1;
    }
    // Only exact when all rooms are equally large and all senders sent all; else the quiet decides.
    let receivers = members.values().max().map_or(0, |count| count - 1);
    let waiting = async {
        let (_, _, mut before) = progress.read();
        let mut quiet = Duration::ZERO;
        let step = Duration::from_millis(50);
        while quiet < QUIET || scenario.lane == Lane::Reliable {
            sleep(step).await;
            let (_, sent, received) = progress.read();
            quiet = if received == before { quiet + step } else { Duration::ZERO };
            before = received;
            if received >= sent * receivers {
                // Whoever sends twice is found out in this last moment.
                sleep(2 * step).await;
                return;
            }
            if quiet >= 4 * QUIET {
                return;
            }
        }
    };
    // What has not come by then is lost, as the account will say.
    let _ = timeout(scenario.drain_timeout, waiting).await;
}

fn add_up(plans: &[Plan], outcomes: &BTreeMap<u32, Outcome>) -> Figures {
    let mut figures = Figures::default();
    let mut senders: BTreeMap<&str, Vec<(u32, u64)>> = BTreeMap::new();
    for plan in plans {
        let sent = outcomes.get(&plan.number).map_or(0, |outcome| outcome.sent);
        if sent > 0 {
            senders.entry(&plan.room).or_default().push((plan.number, sent));
        }
    }
    let names = ["WebSocket", "joined", "ICE", "DTLS", "data channel", "ready"];
    figures.stages = names.map(|name| (name, Histogram::default())).into();
    for plan in plans {
        let Some(outcome) = outcomes.get(&plan.number) else {
            continue;
        };
        figures.sent += outcome.sent;
        figures.unsent += outcome.unsent;
        figures.dropped_before_sending += outcome.dropped_before_sending;
        let of_room = senders.get(plan.room.as_str()).map_or(&[][..], |senders| senders);
        let others = of_room.iter().filter(|(number, _)| *number != plan.number);
        figures.totals += outcome.account.balance(others.map(|&(number, sent)| (number, STREAM, sent)));
        figures.latency.merge(&outcome.latency);
        let Stages { websocket, joined, ice, dtls, channel, attached } = outcome.stages;
        let times = [websocket, joined, ice, dtls, channel, attached];
        for ((_, histogram), time) in figures.stages.iter_mut().zip(times) {
            if let Some(time) = time {
                histogram.record(time);
            }
        }
        for (code, count) in &outcome.refusals {
            *figures.refusals.entry(*code).or_default() += count;
        }
        figures.trouble_count += outcome.trouble_count;
        figures.pipe_changes += outcome.pipe_changes;
        if let Some(first) = outcome.troubles.first()
            && figures.troubles.len() < TROUBLES
        {
            figures.troubles.push(format!("peer {}: {first}", plan.number));
        }
    }
    figures
}

fn first_trouble(troubles: &[String]) -> String {
    troubles.first().map_or_else(String::new, |trouble| format!("; the first trouble: {trouble}"))
}

#[cfg(test)]
mod tests {
    use std::{
        collections::HashMap,
        sync::Mutex,
        sync::atomic::{AtomicBool, AtomicU64},
    };

    use futures_util::{SinkExt, StreamExt};
    use switchyard_signaling::limits;
    use tokio::net::{TcpListener, UdpSocket};
    use tokio_tungstenite::{
        accept_hdr_async,
        tungstenite::{
            Message,
            handshake::server::{ErrorResponse, Request, Response},
        },
    };

    use super::*;
    use crate::{
        answerer::Session,
        browser::{Incoming, Pipe},
        netsim::Datagram,
        peer::Channel,
        report::{Bounds, broken},
    };

    /// What the server does wrong, once.
    #[derive(Clone, Copy, PartialEq, Eq)]
    enum Fault {
        None,
        Drop,
        Double,
        Swap,
    }

    /// A relay for one room on real sockets: everybody's messages to everybody else.
    struct Relay {
        fault: Fault,
        passed: AtomicU64,
        held: Mutex<Option<(u32, Incoming)>>,
        sessions: Mutex<HashMap<u32, Arc<Mutex<Session>>>>,
        closed: AtomicBool,
    }

    impl Relay {
        async fn start(fault: Fault) -> (SocketAddr, Arc<Self>) {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let (passed, held, sessions, closed) = Default::default();
            let relay = Arc::new(Self { fault, passed, held, sessions, closed });
            let accepting = relay.clone();
            tokio::spawn(async move {
                for member in 0.. {
                    let (stream, _) = listener.accept().await.unwrap();
                    tokio::spawn(accepting.clone().serve(stream, member));
                }
            });
            (address, relay)
        }

        /// One client: its WebSocket and a UDP socket of its own.
        async fn serve(self: Arc<Self>, stream: tokio::net::TcpStream, member: u32) {
            let mut socket = accept_hdr_async(stream, select_subprotocol).await.unwrap();
            let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            let address = udp.local_addr().unwrap();
            let session = Arc::new(Mutex::new(Session::new()));
            self.sessions.lock().unwrap().insert(member, session.clone());
            let mut buffer = [0; 2048];
            let mut ticks = interval(Duration::from_millis(2));
            while !self.closed.load(Ordering::Relaxed) {
                let mut incoming = Vec::new();
                tokio::select! {
                    message = socket.next() => match message {
                        Some(Ok(Message::Text(text))) => {
                            session.lock().unwrap().take_text(Instant::now(), text.as_str(), member, address);
                        }
                        Some(Ok(Message::Binary(frames))) => {
                            let mut session = session.lock().unwrap();
                            incoming = session.take_frames(Instant::now(), Pipe::Socket, frames);
                        }
                        _ => return,
                    },
                    Ok((length, from)) = udp.recv_from(&mut buffer) => {
                        let payload = buffer[..length].to_vec().into();
                        let mut session = session.lock().unwrap();
                        if let Some(answerer) = &mut session.answerer {
                            answerer.handle_datagram(Instant::now(), &Datagram { from, to: address, payload });
                        }
                    }
                    _ = ticks.tick() => {
                        if let Some(answerer) = &mut session.lock().unwrap().answerer {
                            answerer.handle_timeout(Instant::now());
                        }
                    }
                }
                let (texts, frames, datagrams) = {
                    let mut session = session.lock().unwrap();
                    let messages =
                        session.answerer.as_mut().map(|answerer| std::mem::take(&mut answerer.messages));
                    for (_, frames) in messages.into_iter().flatten() {
                        incoming.extend(session.take_frames(Instant::now(), Pipe::Channel, frames));
                    }
                    Self::outputs(&mut session)
                };
                for text in texts {
                    socket.send(Message::text(text)).await.unwrap();
                }
                for frames in frames {
                    socket.send(Message::binary(frames)).await.unwrap();
                }
                for datagram in datagrams {
                    let _ = udp.send_to(&datagram.payload, datagram.to).await;
                }
                for message in incoming {
                    self.relay(member, message);
                }
            }
        }

        fn outputs(session: &mut Session) -> (Vec<String>, Vec<bytes::Bytes>, Vec<Datagram>) {
            let now = Instant::now();
            let texts = std::mem::take(&mut session.texts);
            let mut frames = Vec::new();
            frames
                .extend(std::iter::from_fn(|| session.fill(now, Pipe::Socket, limits::SOCKET_MESSAGE_BYTES)));
            let lossy = std::mem::take(&mut session.lossy);
            let mut datagrams = Vec::new();
            if let Some(mut answerer) = session.answerer.take() {
                while let Some(frames) = session.fill(now, Pipe::Channel, limits::CHANNEL_MESSAGE_BYTES) {
                    answerer.send(now, Channel::Reliable, &frames);
                }
                if session.attached == Some(Pipe::Channel) {
                    lossy.iter().for_each(|frame| answerer.send(now, Channel::Lossy, frame));
                }
                answerer.drain();
                datagrams.extend(std::iter::from_fn(|| answerer.poll_datagram()));
                session.answerer = Some(answerer);
            }
            if session.attached == Some(Pipe::Socket) {
                frames.extend(lossy);
            }
            (texts, frames, datagrams)
        }

        fn relay(&self, author: u32, message: Incoming) {
            let number = self.passed.fetch_add(1, Ordering::Relaxed);
            let mut held = self.held.lock().unwrap();
            match self.fault {
                Fault::Drop if number == 20 => return,
                Fault::Double if number == 20 => self.pass_on(author, &message),
                Fault::Swap if number == 20 => {
                    *held = Some((author, message));
                    return;
                }
                _ => {}
            }
            self.pass_on(author, &message);
            // The one held back goes behind the next of the same author.
            if let Some((_, earlier)) = held.take_if(|(held_author, _)| *held_author == author) {
                self.pass_on(author, &earlier);
            }
        }

        fn pass_on(&self, author: u32, message: &Incoming) {
            for (member, session) in self.sessions.lock().unwrap().iter() {
                if *member != author {
                    session.lock().unwrap().deliver(Instant::now(), author, message);
                }
            }
        }
    }

    #[expect(clippy::result_large_err, reason = "the library's callback")]
    #[expect(clippy::unnecessary_wraps, reason = "the library's callback")]
    fn select_subprotocol(request: &Request, mut response: Response) -> Result<Response, ErrorResponse> {
        assert_eq!(request.uri().path(), "/v1/connect");
        let offered = request.headers()["sec-websocket-protocol"].clone();
        response.headers_mut().insert("sec-websocket-protocol", offered);
        Ok(response)
    }

    fn scenario(server: SocketAddr) -> Scenario {
        Scenario {
            server,
            tokens: TokenSource::Key { key: "key".to_owned(), secret: "secret".to_owned() },
            prefix: "load".to_owned(),
            peers: 6,
            rooms: 1,
            senders: 2,
            transport: Transport::Mixed,
            lane: Lane::Reliable,
            size: 100,
            rate: 100.0,
            duration: Duration::from_millis(500),
            connect_timeout: Duration::from_secs(20),
            drain_timeout: Duration::from_secs(5),
        }
    }

    async fn figures(scenario: &Scenario) -> Figures {
        run(scenario, watch::channel(false).1).await.unwrap()
    }

    async fn verdict(fault: Fault) -> (Totals, Vec<String>) {
        let (address, _relay) = Relay::start(fault).await;
        let scenario = scenario(address);
        let figures = figures(&scenario).await;
        (figures.totals, broken(&scenario, &Bounds::default(), &figures))
    }

    #[tokio::test]
    async fn a_faultless_relay_on_real_sockets_passes_with_every_message_accounted_for() {
        for transport in [Transport::Udp, Transport::WebSocket, Transport::Mixed] {
            let (address, _relay) = Relay::start(Fault::None).await;
            let scenario = Scenario { transport, ..scenario(address) };
            let figures = figures(&scenario).await;
            let bad = broken(&scenario, &Bounds::default(), &figures);
            assert!(bad.is_empty(), "{transport:?}: {bad:?} {figures:?}");
            assert_eq!(figures.sent, 100);
            assert_eq!(figures.totals, Totals { expected: 500, received: 500, ..Totals::default() });
            assert_eq!(figures.latency.count(), 500);
            let ready = &figures.stages.last().unwrap().1;
            assert_eq!(ready.count(), 6);
        }
    }

    #[tokio::test]
    async fn a_relay_that_drops_one_message_is_found_out() {
        let (totals, broken) = verdict(Fault::Drop).await;
        assert_eq!((totals.lost, totals.doubled, totals.out_of_order), (5, 0, 0));
        assert_eq!(broken, ["5 messages lost on the reliable lane"]);
    }

    #[tokio::test]
    async fn a_relay_that_doubles_one_message_is_found_out() {
        let (totals, broken) = verdict(Fault::Double).await;
        assert_eq!((totals.lost, totals.doubled, totals.out_of_order), (0, 5, 0));
        assert_eq!(broken.len(), 1);
    }

    #[tokio::test]
    async fn a_relay_that_swaps_two_messages_is_found_out() {
        let (totals, broken) = verdict(Fault::Swap).await;
        assert_eq!((totals.lost, totals.doubled, totals.out_of_order), (0, 0, 5));
        assert_eq!(broken.len(), 1);
    }

    #[tokio::test]
    async fn the_lossy_lane_runs_too() {
        let (address, _relay) = Relay::start(Fault::None).await;
        let scenario = Scenario { lane: Lane::Lossy, ..scenario(address) };
        let figures = figures(&scenario).await;
        assert!(broken(&scenario, &Bounds::default(), &figures).is_empty(), "{figures:?}");
        assert!(figures.totals.received > 400, "{figures:?}");
    }

    #[tokio::test]
    async fn without_a_server_it_says_so_at_once() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let error = run(&scenario(address), watch::channel(false).1).await.unwrap_err();
        assert!(
            error.to_string().starts_with("only 0 of 6 peers were ready in time; the first trouble"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn an_early_end_still_gives_figures() {
        let (address, _relay) = Relay::start(Fault::None).await;
        let scenario = Scenario { duration: Duration::from_secs(600), ..scenario(address) };
        let (stop, stopped) = watch::channel(false);
        let running = run(&scenario, stopped);
        let stopping = async {
            sleep(Duration::from_secs(2)).await;
            stop.send_replace(true);
        };
        let (figures, ()) = tokio::join!(running, stopping);
        let figures = figures.unwrap();
        assert!(figures.interrupted && figures.sent > 0);
        assert_eq!(figures.totals.lost, 0);
    }
}
