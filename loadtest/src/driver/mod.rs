//! Gives one simulated user real sockets and the real clock: everything between a [`User`], its [`Access`] network and
//! the server.
//!
//! A user has a UDP socket for each mapping of its NAT, so that the server sees the addresses that a NAT would show it,
//! and a TCP or TLS connection for each WebSocket. What is decided is decided in [`crate::user`] and
//! [`crate::netsim`]; [`pool`] has hundreds of drivers on a few threads, [`crate::run`] says who comes and what happens.
//!
//! Nothing here waits for one thing alone: a driver is one task that polls its sockets, its orders and one timer, and
//! moves what there is until nothing moves any more. tokio's timers are true to a millisecond, which is the least that a
//! driver is late; how late it is each time is recorded.

pub mod pool;
mod socket;

use std::{
    collections::BTreeMap,
    future::{Future, poll_fn},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::{
    io::ReadBuf,
    net::UdpSocket,
    sync::mpsc,
    task::yield_now,
    time::{Sleep, sleep_until},
};

use self::socket::{Carried, Socket};
use crate::{
    account::{Record, Window},
    adapter::{Adapter, Door},
    histogram::Histogram,
    netsim::{
        self, Access, AccessStats, Direction, Failure, Happening, MappingId, NetworkSpec, Output,
        ScheduledEvent, StreamId,
    },
    sockets::REACH,
    target::Target,
    user::{Command, Plan, User},
};

/// A user that comes now.
#[derive(Debug)]
pub struct Assignment {
    /// What it is to do.
    pub plan: Plan,
    /// What it joins with.
    pub token: String,
    /// Its network.
    pub network: Arc<NetworkSpec>,
    /// Decides about its network's chances.
    pub seed: u64,
    /// When it leaves; when it is told to, if it is not set.
    pub leaves: Option<Instant>,
    /// What it is told meanwhile.
    pub orders: mpsc::UnboundedReceiver<Order>,
}

/// What a user is told to do, or what befalls it.
#[derive(Clone, Debug)]
pub enum Order {
    /// Leave.
    Leave,
    /// Be in another network, with another address.
    Network(Arc<NetworkSpec>),
    /// Have another address.
    Address,
    /// Reach nothing for so long.
    Outage(Duration),
}

/// What a driver tells.
#[derive(Debug)]
pub enum Told {
    /// Each second: what has happened since the last time.
    Window(Box<Telling>),
    /// It is gone, and this is what there is of it.
    Done(Box<Done>),
}

/// What a driver tells each second.
#[derive(Debug)]
pub struct Telling {
    /// Whose.
    pub number: u32,
    /// When.
    pub at: Instant,
    /// What the user did and saw since the last time.
    pub window: Window,
    /// How its frames go, as [`User::rung`] says.
    pub rung: &'static str,
    /// Packets that its network has not delivered since it came.
    pub packets_dropped: u64,
    /// How much later than due its driver looked since the last time.
    pub behind: Histogram,
}

/// What there is of a user that is gone.
#[derive(Debug)]
pub struct Done {
    /// What it did and saw.
    pub record: Record,
    /// What its network did.
    pub network: AccessStats,
    /// How often it had another address.
    pub address_changes: u64,
    /// How much later than due its driver looked, since it last told.
    pub behind: Histogram,
}

/// What all drivers of a thread share.
pub(crate) struct Shared {
    target: Target,
    adapter: &'static Adapter,
    epoch: Instant,
    local: IpAddr,
    told: mpsc::UnboundedSender<Told>,
}

/// Datagrams or messages read from one socket before others get a turn.
const BATCH: usize = 32;
/// How often a driver tells.
const TELL: Duration = Duration::from_secs(1);
/// How long a user that is gone waits for its last words to leave the machine.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Ports inside a simulated network; nobody listens there.
const INSIDE_PORTS: std::ops::Range<u16> = 20_000..60_000;
/// So many of them belong to one address.
const ADDRESS_PORTS: u16 = 1_001;

/// A question over HTTP. It is put to the server when the simulated network has let it through.
struct Question {
    /// Until when an answer counts.
    until: Instant,
    /// Whether there was one, whatever it said.
    answer: Option<Pin<Box<dyn Future<Output = bool>>>>,
}

impl Question {
    fn ask(&mut self, target: &Target) {
        let target = target.clone();
        self.answer = Some(Box::pin(async move { target.get("/healthz").await.is_ok() }));
    }
}

pub(crate) struct Driver {
    user: User,
    number: u32,
    access: Access<Carried>,
    door: Door,
    shared: Rc<Shared>,
    mappings: Vec<(MappingId, UdpSocket)>,
    sockets: BTreeMap<StreamId, Socket>,
    /// Those that the user has, by its numbers.
    numbers: BTreeMap<u64, StreamId>,
    /// By the stream that each goes over.
    questions: BTreeMap<StreamId, Question>,
    spec: Arc<NetworkSpec>,
    port: u16,
    address_changes: u64,
    leaves: Option<Instant>,
    orders: Option<mpsc::UnboundedReceiver<Order>>,
    next_tell: Instant,
    timer: Pin<Box<Sleep>>,
    behind: Histogram,
}

/// Drives a user until it is gone.
pub(crate) async fn drive(assignment: Assignment, shared: Rc<Shared>) {
    let mut driver = Driver::new(assignment, shared);
    driver.user.start(Instant::now());
    let mut until = None;
    loop {
        driver.pump(Instant::now());
        if driver.user.is_finished() {
            // Its goodbye may still be on the way out.
            let until = *until.get_or_insert_with(|| Instant::now() + LAST_WORDS);
            if driver.sockets.is_empty() || Instant::now() >= until {
                break;
            }
        }
        driver.wait(until).await;
    }
    driver.finish();
}

impl Driver {
    fn new(assignment: Assignment, shared: Rc<Shared>) -> Self {
        let Assignment { plan, token, network, seed, leaves, orders } = assignment;
        let now = Instant::now();
        let number = plan.number;
        let target = netsim::Target { http: shared.target.address(), tls: shared.target.is_secure() };
        let access = Access::new(now, &network, target, seed);
        let port = INSIDE_PORTS.start;
        let door = (shared.adapter.door)(&plan.room);
        let local = Some(SocketAddr::new(shared.local, port));
        let user = User::new(now, plan, shared.adapter, token, local, shared.epoch);
        Self {
            user,
            number,
            access,
            door,
            shared,
            mappings: Vec::new(),
            sockets: BTreeMap::new(),
            numbers: BTreeMap::new(),
            questions: BTreeMap::new(),
            spec: network,
            port,
            address_changes: 0,
            leaves,
            orders: Some(orders),
            // Users tell one after the other, not all at the turn of a second.
            next_tell: now + TELL.mul_f64(f64::from(number % 64) / 64.0),
            timer: Box::pin(sleep_until(now.into())),
            behind: Histogram::default(),
        }
    }

    /// Moves what there is until nothing moves any more.
    fn pump(&mut self, now: Instant) {
        if self.leaves.is_some_and(|at| at <= now) {
            self.leaves = None;
            self.user.leave(now);
        }
        if self.user.poll_timeout().is_some_and(|at| at <= now) {
            self.user.handle_timeout(now);
        }
        loop {
            let mut moved = false;
            while let Some(command) = self.user.poll_command(now) {
                moved = true;
                self.carry_out(now, command);
            }
            for (&number, &id) in &self.numbers {
                while self.sockets.get(&id).is_some_and(Socket::takes_more)
                    && self.access.can_send(id, Direction::Up)
                    && let Some(output) = self.user.poll_socket(number)
                {
                    moved = true;
                    let item = Carried::from(output);
                    self.access.send(now, id, Direction::Up, item.wire_bytes(), item);
                }
            }
            while let Some(output) = self.access.poll(now) {
                moved = true;
                self.come_out(now, output);
            }
            if !moved {
                break;
            }
        }
        if self.next_tell <= now {
            self.next_tell = now + TELL;
            self.tell(now);
        }
    }

    fn carry_out(&mut self, now: Instant, command: Command) {
        match command {
            Command::OpenSocket(number) => {
                let id = self.access.open_stream(now, self.shared.target.address());
                self.sockets.insert(id, Socket::default());
                self.numbers.insert(number, id);
            }
            Command::CloseSocket(number) => self.close(now, number),
            Command::Ask => {
                let id = self.access.open_stream(now, self.shared.target.address());
                self.questions.insert(id, Question { until: now + REACH, answer: None });
            }
            Command::Datagram(datagram) => {
                // From an address that the device does not have any more nothing leaves.
                if (self.port..self.port + ADDRESS_PORTS).contains(&datagram.from.port()) {
                    self.access.send_datagram(now, datagram);
                }
            }
        }
    }

    /// What was given to a WebSocket before goes out before it is closed.
    fn close(&mut self, now: Instant, number: u64) {
        let Some(id) = self.numbers.remove(&number) else { return };
        match self.sockets.get_mut(&id) {
            Some(socket) if socket.is_open() => {
                self.access.send(now, id, Direction::Up, 2, Carried::Closed(String::new()));
            }
            _ => self.drop_socket(now, id),
        }
    }

    /// What the user calls a WebSocket, unless it has closed it.
    fn number_of(&self, id: StreamId) -> Option<u64> {
        self.numbers.iter().find(|(_, of)| **of == id).map(|(number, _)| *number)
    }

    /// The questions that the server has answered, or that nobody will.
    fn poll_questions(&mut self, context: &mut Context<'_>, now: Instant) -> bool {
        let mut over = Vec::new();
        for (id, question) in &mut self.questions {
            let answer = question.answer.as_mut().map(|answer| answer.as_mut().poll(context));
            match answer {
                Some(Poll::Ready(is_answered)) => over.push((*id, is_answered && now < question.until)),
                _ if now >= question.until => over.push((*id, false)),
                _ => {}
            }
        }
        for &(id, is_answered) in &over {
            self.questions.remove(&id);
            self.access.close_stream(now, id);
            if is_answered {
                self.user.handle_reached(now);
            }
        }
        !over.is_empty()
    }

    fn drop_socket(&mut self, now: Instant, id: StreamId) {
        self.access.close_stream(now, id);
        self.sockets.remove(&id);
    }

    fn come_out(&mut self, now: Instant, output: Output<Carried>) {
        match output {
            Output::Datagram { mapping, to, payload } => self.send(mapping, to, &payload),
            Output::Inside(datagram) => self.user.handle_datagram(now, datagram.from, &datagram.payload),
            Output::MappingClosed(mapping) => self.mappings.retain(|(known, _)| *known != mapping),
            Output::StreamOpen(id) => {
                if let Some(question) = self.questions.get_mut(&id) {
                    question.ask(&self.shared.target);
                }
                if let Some(socket) = self.sockets.get_mut(&id) {
                    socket.connect(&self.shared.target, &self.door);
                }
            }
            Output::StreamFailed(id, failure) => self.stream_failed(now, id, failure),
            Output::StreamItem { id, direction: Direction::Up, item } => {
                if let Some(socket) = self.sockets.get_mut(&id) {
                    socket.give(item);
                }
            }
            Output::StreamItem { id, direction: Direction::Down, item } => {
                let Some(number) = self.number_of(id) else { return };
                match item {
                    Carried::Text(text) => self.user.handle_text(now, number, &text),
                    Carried::Binary(message) => self.user.handle_binary(now, number, message),
                    Carried::Pong(nonce) => self.user.handle_pong(now, number, &nonce),
                    // The library has answered.
                    Carried::Ping(_) => {}
                    Carried::Closed(why) => {
                        self.numbers.remove(&number);
                        self.drop_socket(now, id);
                        self.user.handle_socket_closed(now, number, &why);
                    }
                }
            }
        }
    }

    fn stream_failed(&mut self, now: Instant, id: StreamId, failure: Failure) {
        self.questions.remove(&id);
        let was_open = self.sockets.remove(&id).is_some_and(|socket| socket.is_open());
        let Some(number) = self.number_of(id) else { return };
        self.numbers.remove(&number);
        match (failure, was_open) {
            // The network changed by its own schedule.
            (Failure::AddressChanged, _) => {
                self.numbers.insert(number, id);
                self.readdress(now);
            }
            (Failure::Refused, _) => self.user.handle_socket_failed(now, number, "refused by a firewall"),
            (Failure::TimedOut, false) => self.user.handle_socket_failed(now, number, "timed out"),
            (Failure::TimedOut, true) => self.user.handle_socket_closed(now, number, "timed out"),
        }
    }

    fn send(&mut self, mapping: MappingId, to: SocketAddr, payload: &Bytes) {
        let known = self.mappings.iter().position(|(known, _)| *known == mapping);
        let at = match known {
            Some(at) => at,
            None => match bind(to) {
                Ok(socket) => {
                    self.mappings.push((mapping, socket));
                    self.mappings.len() - 1
                }
                // Out of descriptors or ports; to the user it is a packet that was lost.
                Err(_) => return,
            },
        };
        // What the machine does not take at once is lost, as packets are.
        let _ = self.mappings[at].1.try_send_to(payload, to);
    }

    fn obey(&mut self, now: Instant, order: Order) {
        match order {
            Order::Leave => self.user.leave(now),
            Order::Network(spec) => {
                self.access.set_spec(now, &spec);
                self.spec = spec;
                self.access.change_address(now);
                self.readdress(now);
            }
            Order::Address => {
                self.access.change_address(now);
                self.readdress(now);
            }
            Order::Outage(length) => {
                let outage =
                    ScheduledEvent { at: Duration::ZERO, every: None, what: Happening::Outage(length) };
                let mut spec = NetworkSpec::clone(&self.spec);
                spec.events.push(outage);
                self.access.set_spec(now, &spec);
            }
        }
    }

    /// The operating system closes the connections of the address that is gone.
    fn readdress(&mut self, now: Instant) {
        self.address_changes += 1;
        let next = self.port + ADDRESS_PORTS;
        self.port = if next + ADDRESS_PORTS < INSIDE_PORTS.end { next } else { INSIDE_PORTS.start };
        for (number, id) in std::mem::take(&mut self.numbers) {
            self.drop_socket(now, id);
            self.user.handle_socket_closed(now, number, "the address changed");
        }
        self.user.handle_network_change(now, Some(SocketAddr::new(self.shared.local, self.port)));
    }

    // ---- waiting

    /// Waits until there is something to do.
    async fn wait(&mut self, until: Option<Instant>) {
        let due = [self.user.poll_timeout(), self.access.poll_timeout(), self.leaves, until];
        let due = due.into_iter().flatten().min();
        let wake = due.map_or(self.next_tell, |due| due.min(self.next_tell));
        let now = Instant::now();
        if wake <= now {
            // There is more to do, such as more messages than go at once. What has arrived, and other users, come first.
            poll_fn(|context| Poll::Ready(self.poll(context).is_ready())).await;
            yield_now().await;
            return;
        }
        self.timer.as_mut().reset(wake.into());
        poll_fn(|context| self.poll(context)).await;
        // Only what lay ahead can be missed: some things are due from the moment at which they come up.
        if let Some(late) = due.and_then(|due| Instant::now().checked_duration_since(due)) {
            self.behind.record(late);
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let mut is_ready = self.timer.as_mut().poll(context).is_ready();
        let now = Instant::now();
        while let Some(orders) = &mut self.orders
            && let Poll::Ready(order) = orders.poll_recv(context)
        {
            is_ready = true;
            match order {
                Some(order) => self.obey(now, order),
                // Nobody is there any more to tell it to leave.
                None => {
                    self.orders = None;
                    self.user.leave(now);
                }
            }
        }
        is_ready |= self.poll_datagrams(context, now);
        is_ready |= self.poll_sockets(context, now);
        is_ready |= self.poll_questions(context, now);
        if is_ready { Poll::Ready(()) } else { Poll::Pending }
    }

    fn poll_datagrams(&mut self, context: &mut Context<'_>, now: Instant) -> bool {
        let mut is_ready = false;
        let mut space = [0; 2048];
        for (mapping, socket) in &self.mappings {
            for _ in 0..BATCH {
                let mut buffer = ReadBuf::new(&mut space);
                match socket.poll_recv_from(context, &mut buffer) {
                    Poll::Ready(Ok(from)) => {
                        is_ready = true;
                        let payload = Bytes::copy_from_slice(buffer.filled());
                        self.access.handle_datagram(now, *mapping, from, payload);
                    }
                    // An answer of ICMP; ICE notices a dead path by itself.
                    Poll::Ready(Err(_)) => is_ready = true,
                    Poll::Pending => break,
                }
            }
        }
        is_ready
    }

    fn poll_sockets(&mut self, context: &mut Context<'_>, now: Instant) -> bool {
        let mut is_ready = false;
        let mut gone = Vec::new();
        for (id, socket) in &mut self.sockets {
            let number = self.numbers.iter().find(|(_, of)| *of == id).map(|(number, _)| *number);
            if let Some(result) = socket.poll_connected(context) {
                is_ready = true;
                match (result, number) {
                    (Ok(()), Some(number)) => self.user.handle_socket_open(now, number),
                    (Ok(()), None) => gone.push(*id),
                    (Err(why), number) => {
                        gone.push(*id);
                        if let Some(number) = number {
                            self.numbers.remove(&number);
                            self.user.handle_socket_failed(now, number, &why);
                        }
                    }
                }
            }
            let written = socket.poll_write(context);
            is_ready |= written;
            if socket.is_over() {
                is_ready = true;
                gone.push(*id);
                continue;
            }
            for _ in 0..BATCH {
                let takes = self.access.can_send(*id, Direction::Down) && self.user.reads_socket();
                if number.is_none() || !takes {
                    break;
                }
                let Some(item) = socket.poll_read(context) else { break };
                is_ready = true;
                self.access.send(now, *id, Direction::Down, item.wire_bytes(), item);
            }
        }
        for id in gone {
            self.drop_socket(now, id);
        }
        is_ready
    }

    // ---- telling

    fn packets_dropped(&self) -> u64 {
        let stats = self.access.stats();
        let of = |link: netsim::LinkStats| {
            link.lost + link.queue_full + link.codel_dropped + link.too_big + link.down
        };
        of(stats.up) + of(stats.down) + stats.blocked
    }

    fn tell(&mut self, now: Instant) {
        let (window, rung) = (self.user.take_window(), self.user.rung());
        let (number, packets_dropped) = (self.number, self.packets_dropped());
        let behind = std::mem::take(&mut self.behind);
        let telling = Telling { number, at: now, window, rung, packets_dropped, behind };
        // Nobody listens any more once the run has been given up.
        let _ = self.shared.told.send(Told::Window(Box::new(telling)));
    }

    fn finish(self) {
        let done = Done {
            network: self.access.stats(),
            address_changes: self.address_changes,
            behind: self.behind,
            record: self.user.into_record(Instant::now()),
        };
        // As above.
        let _ = self.shared.told.send(Told::Done(Box::new(done)));
    }
}

/// The address of this machine from which the target is reached.
fn local_towards(target: SocketAddr) -> io::Result<IpAddr> {
    // Connecting a UDP socket sends nothing; it asks the routing table.
    let probe = std::net::UdpSocket::bind((any(target), 0))?;
    probe.connect(target)?;
    Ok(probe.local_addr()?.ip())
}

fn bind(towards: SocketAddr) -> io::Result<UdpSocket> {
    let socket = std::net::UdpSocket::bind((any(towards), 0))?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}

fn any(towards: SocketAddr) -> IpAddr {
    if towards.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
}
