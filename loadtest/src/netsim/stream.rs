//! A TCP connection as a model: how long its messages take over two links that lose, delay and queue packets.
//!
//! Messages are cut into segments, and segments and acknowledgements go over the links as packets among all others.
//! The model has sequence numbers, cumulative and selective acknowledgement, retransmission after three segments sent
//! later have arrived (RFC 6675, counted in order of sending, as RFC 8985 has it) or by time-out (RFC 6298), slow start
//! from ten segments and congestion avoidance with halving (RFC 5681, 6928), a receive window, a bounded send buffer,
//! and an end after two minutes without progress.
//!
//! Opening takes the round trips of TCP, of TLS 1.3 if the server has it, and of the HTTP upgrade if it is for a WebSocket.
//!
//! What it leaves out: both ends are in one place here, so that an item needs no bytes; every segment is acknowledged
//! at once (no delayed acknowledgements); no tail loss probes, no CUBIC or BBR, no restart after idling, no Nagle;
//! readers read at once; no FIN, which costs no message time; NATs forget no connection; path MTU discovery is taken
//! to have succeeded.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::Direction;

/// Why a stream ended other than by [`close_stream`](super::Access::close_stream).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The firewall refused the connection.
    Refused,
    /// Nothing got through for too long.
    TimedOut,
    /// The browser's address changed, and its operating system told it so.
    AddressChanged,
}

/// Bytes that a segment carries in an Ethernet packet: 1,500 less the headers of IPv4 and TCP with time stamps.
const MOST_SEGMENT_BYTES: usize = 1_448;
/// Headers of IPv4 and of TCP with time stamps.
pub(super) const HEADER_BYTES: usize = 52;
/// What may be under way.
const RECEIVE_WINDOW: u64 = 1024 * 1024;
/// What may be written and not sent before [`Stream::can_send`] says no.
const SEND_BUFFER: u64 = 64 * 1024;
const INITIAL_WINDOW_SEGMENTS: f64 = 10.0;
/// RFC 6298 section 2.
const INITIAL_RTO: Duration = Duration::from_secs(1);
/// The least that a time-out is above the round trip, as in Linux; RFC 6298 asks for time-outs of 1 s.
const LEAST_MARGIN: Duration = Duration::from_millis(200);
const MOST_RTO: Duration = Duration::from_secs(60);
/// RFC 1122 section 4.2.3.5 asks for 100 s at least (R2).
const GIVE_UP: Duration = Duration::from_secs(120);
/// A segment is lost if so many that were sent later have arrived.
const LATER_ARRIVALS: usize = 3;

/// A segment on a link.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    start: u64,
    end: u64,
    /// Rises with every transmission: what time stamps are to TCP.
    order: u64,
    sent: Instant,
}

impl Segment {
    pub(super) fn wire_bytes(&self) -> usize {
        (self.end - self.start) as usize + HEADER_BYTES
    }
}

/// An acknowledgement on a link.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ack {
    received: u64,
    /// The segment that it answers.
    echo: Segment,
}

/// One direction of a connection, with both its ends, for messages that carry an `M`.
#[derive(Debug)]
struct Flow<M> {
    /// Where each message that has not arrived ends in the sequence of bytes.
    messages: VecDeque<(u64, M)>,
    written: u64,
    /// The first byte that was never sent.
    next: u64,
    acknowledged: u64,
    outstanding: VecDeque<Outstanding>,
    /// Bytes of segments that are taken to be under way.
    in_flight: u64,
    lost: usize,
    order: u64,
    /// The greatest orders that were acknowledged, falling.
    arrived: [u64; LATER_ARRIVALS],
    window: f64,
    threshold: f64,
    /// Whether the window held something back when segments were last sent.
    is_limited: bool,
    /// Loss recovery goes on until this is acknowledged.
    recover: Option<u64>,
    rtt: Option<(Duration, Duration)>,
    backoff: u32,
    timer: Option<Instant>,
    /// Since when nothing was acknowledged although something was outstanding.
    stuck_since: Option<Instant>,
    retransmitted: u64,
    /// The receiver has everything below this, and these ranges above it, start to end.
    received: u64,
    ahead: BTreeMap<u64, u64>,
}

#[derive(Clone, Copy, Debug)]
struct Outstanding {
    segment: Segment,
    state: State,
    is_first_sending: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    UnderWay,
    Arrived,
    Lost,
}

impl<M> Flow<M> {
    fn new() -> Self {
        Self {
            messages: VecDeque::new(),
            written: 0,
            next: 0,
            acknowledged: 0,
            outstanding: VecDeque::new(),
            in_flight: 0,
            lost: 0,
            order: 0,
            arrived: [0; LATER_ARRIVALS],
            window: INITIAL_WINDOW_SEGMENTS * MOST_SEGMENT_BYTES as f64,
            threshold: f64::INFINITY,
            is_limited: false,
            recover: None,
            rtt: None,
            backoff: 0,
            timer: None,
            stuck_since: None,
            retransmitted: 0,
            received: 0,
            ahead: BTreeMap::new(),
        }
    }

    fn write(&mut self, size: usize, message: M) {
        self.written += size.max(1) as u64;
        self.messages.push_back((self.written, message));
    }

    fn unsent(&self) -> u64 {
        self.written - self.next
    }

    /// The next segment to send, if there is one and the windows let it go.
    fn poll_segment(&mut self, now: Instant, most: usize) -> Option<Segment> {
        self.is_limited = self.in_flight > 0 && (self.in_flight + most as u64) as f64 > self.window;
        if self.is_limited {
            return None;
        }
        let (start, end, index) = if self.lost > 0 {
            let index = self.outstanding.iter().position(|sent| sent.state == State::Lost)?;
            let segment = self.outstanding[index].segment;
            (segment.start, segment.end, Some(index))
        } else {
            let end = self.written.min(self.next + most as u64);
            if end == self.next || end - self.acknowledged > RECEIVE_WINDOW {
                return None;
            }
            (self.next, end, None)
        };
        self.order += 1;
        let segment = Segment { start, end, order: self.order, sent: now };
        let sent = Outstanding { segment, state: State::UnderWay, is_first_sending: index.is_none() };
        if let Some(index) = index {
            self.outstanding[index] = sent;
            self.lost -= 1;
            self.retransmitted += 1;
        } else {
            self.outstanding.push_back(sent);
            self.next = end;
        }
        self.in_flight += end - start;
        self.stuck_since.get_or_insert(now);
        if self.timer.is_none() {
            self.timer = Some(now + self.timeout());
        }
        Some(segment)
    }

    /// A segment arrives at the far end, which answers it.
    fn handle_segment(&mut self, segment: Segment) -> Ack {
        if segment.end > self.received {
            let end = self.ahead.entry(segment.start).or_insert(segment.end);
            *end = (*end).max(segment.end);
        }
        while let Some(entry) = self.ahead.first_entry()
            && *entry.key() <= self.received
        {
            self.received = self.received.max(entry.remove());
        }
        Ack { received: self.received, echo: segment }
    }

    /// The next message that has arrived whole and in order.
    fn poll_message(&mut self) -> Option<M> {
        let (end, _) = self.messages.front()?;
        if *end > self.received {
            return None;
        }
        self.messages.pop_front().map(|(_, message)| message)
    }

    fn handle_ack(&mut self, now: Instant, ack: Ack) {
        self.measure(now.saturating_duration_since(ack.echo.sent));
        let before = self.acknowledged;
        self.acknowledged = before.max(ack.received);
        while let Some(front) = self.outstanding.front()
            && front.segment.end <= self.acknowledged
        {
            let front = *front;
            self.leave_state(&front);
            self.outstanding.pop_front();
        }
        let index = self.outstanding.partition_point(|sent| sent.segment.start < ack.echo.start);
        if let Some(sent) = self.outstanding.get_mut(index)
            && sent.segment.start == ack.echo.start
        {
            let was = *sent;
            sent.state = State::Arrived;
            self.leave_state(&was);
        }
        if self.note_arrival(ack.echo.order) {
            self.find_lost();
        }
        let progress = self.acknowledged - before;
        if progress > 0 {
            self.backoff = 0;
            self.stuck_since = (!self.outstanding.is_empty()).then_some(now);
            self.timer = (!self.outstanding.is_empty()).then(|| now + self.timeout());
            self.grow(progress);
        }
    }

    /// The retransmission timer: whether it was due.
    fn handle_timeout(&mut self, now: Instant) -> bool {
        if self.timer.is_none_or(|due| due > now) {
            return false;
        }
        self.threshold = (self.in_flight as f64 / 2.0).max(2.0 * MOST_SEGMENT_BYTES as f64);
        self.window = MOST_SEGMENT_BYTES as f64;
        self.recover = None;
        for sent in &mut self.outstanding {
            if sent.state == State::UnderWay {
                sent.state = State::Lost;
                self.lost += 1;
            }
        }
        self.in_flight = 0;
        self.backoff += 1;
        self.timer = Some(now + self.timeout());
        true
    }

    fn is_dead(&self, now: Instant) -> bool {
        self.stuck_since.is_some_and(|since| now.saturating_duration_since(since) >= GIVE_UP)
    }

    fn timeout(&self) -> Duration {
        let base = self
            .rtt
            .map_or(INITIAL_RTO, |(smoothed, variation)| smoothed + (4 * variation).max(LEAST_MARGIN));
        base.saturating_mul(1 << self.backoff.min(10)).min(MOST_RTO)
    }

    /// RFC 6298 section 2.
    fn measure(&mut self, rtt: Duration) {
        self.rtt = Some(match self.rtt {
            None => (rtt, rtt / 2),
            Some((smoothed, variation)) => {
                ((smoothed * 7 + rtt) / 8, (variation * 3 + smoothed.abs_diff(rtt)) / 4)
            }
        });
    }

    fn leave_state(&mut self, sent: &Outstanding) {
        match sent.state {
            State::UnderWay => self.in_flight -= sent.segment.end - sent.segment.start,
            State::Lost => self.lost -= 1,
            State::Arrived => {}
        }
    }

    /// Whether this tells more about what was lost.
    fn note_arrival(&mut self, order: u64) -> bool {
        let Some(place) = self.arrived.iter().position(|&arrived| order >= arrived) else {
            return false;
        };
        if self.arrived[place] == order {
            return false;
        }
        self.arrived[place..].rotate_right(1);
        self.arrived[place] = order;
        true
    }

    fn find_lost(&mut self) {
        let later = self.arrived[LATER_ARRIVALS - 1];
        let mut found = false;
        for sent in &mut self.outstanding {
            if sent.state == State::UnderWay && sent.segment.order < later {
                sent.state = State::Lost;
                self.in_flight -= sent.segment.end - sent.segment.start;
                self.lost += 1;
                found = true;
            } else if sent.is_first_sending && sent.segment.order >= later {
                // Whatever follows was sent later still.
                break;
            }
        }
        if found && self.recover.is_none() {
            self.recover = Some(self.next);
            self.window = (self.window / 2.0).max(2.0 * MOST_SEGMENT_BYTES as f64);
            self.threshold = self.window;
        }
    }

    fn grow(&mut self, progress: u64) {
        if let Some(recover) = self.recover {
            if self.acknowledged < recover {
                return;
            }
            self.recover = None;
        } else if self.window < self.threshold {
            if self.is_limited {
                self.window += progress as f64;
            }
        } else if self.is_limited {
            self.window += MOST_SEGMENT_BYTES as f64 * progress as f64 / self.window;
        }
    }
}

/// What a stream carries in a direction.
#[derive(Debug)]
enum Message<T> {
    Handshake,
    Item(T),
}

/// Bytes of the handshake's messages, in turns, the browser's first. SYN and SYN-ACK count a byte as they do in the
/// sequence space; the TLS figures are those of a ClientHello with a hybrid key share, and of a chain of two
/// certificates; the rest is about what browsers and this server send.
const HANDSHAKE: [usize; 4] = [1, 1, 600, 250];
const HANDSHAKE_TLS: [usize; 6] = [1, 1, 1_800, 4_000, 700, 300];
/// The same without HTTP.
const BARE_HANDSHAKE: [usize; 2] = [1, 1];
const BARE_HANDSHAKE_TLS: [usize; 4] = [1, 1, 1_800, 4_000];
/// What a record of TLS 1.3 adds.
const TLS_RECORD_BYTES: usize = 22;

/// What happened on a stream.
#[derive(Debug)]
pub(super) enum Event<T> {
    Open,
    Item(Direction, T),
}

/// What a stream wants sent.
#[derive(Clone, Copy, Debug)]
pub(super) enum Transmit {
    Segment(Direction, Segment),
    /// In the direction that it travels.
    Ack(Direction, Ack),
}

/// A connection between the browser and a server.
#[derive(Debug)]
pub(super) struct Stream<T> {
    pub(super) to: SocketAddr,
    tls: bool,
    handshake: &'static [usize],
    /// How many messages of the handshake have arrived.
    step: usize,
    is_open: bool,
    up: Flow<Message<T>>,
    down: Flow<Message<T>>,
    acks: VecDeque<(Direction, Ack)>,
}

impl<T> Stream<T> {
    /// A connection for a WebSocket, which begins to open.
    pub(super) fn new(to: SocketAddr, tls: bool) -> Self {
        Self::open(to, tls, if tls { &HANDSHAKE_TLS } else { &HANDSHAKE })
    }

    /// The same for something else that begins to talk at once.
    pub(super) fn bare(to: SocketAddr, tls: bool) -> Self {
        Self::open(to, tls, if tls { &BARE_HANDSHAKE_TLS } else { &BARE_HANDSHAKE })
    }

    fn open(to: SocketAddr, tls: bool, handshake: &'static [usize]) -> Self {
        let mut stream = Self {
            to,
            tls,
            handshake,
            step: 0,
            is_open: false,
            up: Flow::new(),
            down: Flow::new(),
            acks: VecDeque::new(),
        };
        stream.write_handshake();
        stream
    }

    pub(super) fn is_open(&self) -> bool {
        self.is_open
    }

    /// Opens at once: for links that do nothing.
    pub(super) fn open_at_once(&mut self) {
        self.is_open = true;
        (self.up, self.down) = (Flow::new(), Flow::new());
    }

    /// Whether nothing is under way in this direction.
    pub(super) fn is_idle(&self, direction: Direction) -> bool {
        self.is_open && self.flow(direction).acknowledged == self.flow(direction).written
    }

    pub(super) fn can_send(&self, direction: Direction) -> bool {
        self.is_open && self.flow(direction).unsent() < SEND_BUFFER
    }

    pub(super) fn send(&mut self, direction: Direction, size: usize, item: T) {
        let record = if self.tls { TLS_RECORD_BYTES } else { 0 };
        self.flow_mut(direction).write(size + record, Message::Item(item));
    }

    pub(super) fn handle_segment(&mut self, direction: Direction, segment: Segment) {
        let ack = self.flow_mut(direction).handle_segment(segment);
        self.acks.push_back((direction.reverse(), ack));
    }

    /// An acknowledgement that travelled in this direction has arrived.
    pub(super) fn handle_ack(&mut self, now: Instant, direction: Direction, ack: Ack) {
        self.flow_mut(direction.reverse()).handle_ack(now, ack);
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        [self.up.timer, self.down.timer].into_iter().flatten().min()
    }

    /// Gives how the stream failed, if it did by now.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> Option<Failure> {
        let was_due = [self.up.handle_timeout(now), self.down.handle_timeout(now)];
        (was_due.contains(&true) && (self.up.is_dead(now) || self.down.is_dead(now)))
            .then_some(Failure::TimedOut)
    }

    /// What has happened since; to be taken until there is nothing, before [`poll_transmit`](Self::poll_transmit).
    pub(super) fn poll(&mut self) -> Option<Event<T>> {
        loop {
            let (direction, message) = if let Some(message) = self.up.poll_message() {
                (Direction::Up, message)
            } else {
                (Direction::Down, self.down.poll_message()?)
            };
            match message {
                Message::Item(item) => return Some(Event::Item(direction, item)),
                Message::Handshake => {
                    self.step += 1;
                    if !self.write_handshake() {
                        self.is_open = true;
                        return Some(Event::Open);
                    }
                }
            }
        }
    }

    /// What is to be sent next. `most` is the largest packet that passes each way, up and down.
    pub(super) fn poll_transmit(&mut self, now: Instant, most: [Option<usize>; 2]) -> Option<Transmit> {
        if let Some((direction, ack)) = self.acks.pop_front() {
            return Some(Transmit::Ack(direction, ack));
        }
        let [up, down] = most.map(|mtu| {
            mtu.map_or(MOST_SEGMENT_BYTES, |mtu| {
                MOST_SEGMENT_BYTES.min(mtu.saturating_sub(HEADER_BYTES)).max(1)
            })
        });
        if let Some(segment) = self.up.poll_segment(now, up) {
            return Some(Transmit::Segment(Direction::Up, segment));
        }
        self.down.poll_segment(now, down).map(|segment| Transmit::Segment(Direction::Down, segment))
    }

    /// Segments sent again so far, up and down.
    pub(super) fn retransmitted(&self, direction: Direction) -> u64 {
        self.flow(direction).retransmitted
    }

    /// Writes the next message of the handshake; not if there is none.
    fn write_handshake(&mut self) -> bool {
        let Some(&size) = self.handshake.get(self.step) else {
            return false;
        };
        let direction = if self.step.is_multiple_of(2) { Direction::Up } else { Direction::Down };
        self.flow_mut(direction).write(size, Message::Handshake);
        true
    }

    fn flow(&self, direction: Direction) -> &Flow<Message<T>> {
        match direction {
            Direction::Up => &self.up,
            Direction::Down => &self.down,
        }
    }

    fn flow_mut(&mut self, direction: Direction) -> &mut Flow<Message<T>> {
        match direction {
            Direction::Up => &mut self.up,
            Direction::Down => &mut self.down,
        }
    }
}
