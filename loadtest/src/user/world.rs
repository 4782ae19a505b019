//! For tests: users in simulated time, and a relay for all of them with a fault that a test plants.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use switchyard_signaling::{
    event::{Event, Origin, Position, Submission},
    limits,
    message::Follow,
    record::{self, ClientRecord, Json, ServerRecord},
};

use super::{Command, Plan, User};
use crate::{
    account::{Ledger, Record, Settings},
    adapter::{Outbound, switchyard},
    answerer::{Answerer, Session},
    browser::{Incoming, Pipe, SocketOutput},
    figures::Report,
    netsim::Datagram,
    peer::Channel,
    rng::Rng,
};

pub(super) const MS: Duration = Duration::from_millis(1);
pub(super) const SECOND: Duration = Duration::from_secs(1);

/// One way between a user and the relay.
const DELAY: Duration = MS;
/// Where the relay's datagrams come from.
const SERVER: ([u8; 4], u16) = ([10, 0, 0, 1], 7882);

/// What the relay does wrong.
#[derive(Clone, Debug, Default)]
pub(super) struct Fault {
    /// Drops every so many messages before they are passed on.
    pub(super) drop_every: Option<u64>,
    /// Drops one in so many to one receiver at a time, at random.
    pub(super) drop_behind: Option<u64>,
    /// Drops all of this user.
    pub(super) drop_from: Option<u32>,
    /// Drops one in two to this user.
    pub(super) drop_to: Option<u32>,
    /// Drops all in this room.
    pub(super) drop_room: Option<String>,
    /// Drops all between these times.
    pub(super) drop_between: Option<(Duration, Duration)>,
    /// Passes this message on twice.
    pub(super) double: Option<u64>,
    /// Passes this message on behind the author's next one.
    pub(super) swap: Option<u64>,
    /// Alters this message.
    pub(super) alter: Option<u64>,
    /// Passes this message on to another room as well.
    pub(super) stray: Option<u64>,
    /// Keeps the messages of this user for so long.
    pub(super) delay_from: Option<(u32, Duration)>,
    /// Keeps all messages to this user for so long.
    pub(super) delay_to: Option<(u32, Duration)>,
    /// Keeps everything in this room for so long.
    pub(super) delay_room: Option<(String, Duration)>,
    /// Acknowledges this submission and does not write it.
    pub(super) vanish: Option<u64>,
    /// Writes this submission twice.
    pub(super) commit_twice: Option<u64>,
    /// Shows one reader another body of this event.
    pub(super) show_altered: Option<u64>,
    /// Shows one reader the event before in place of this one.
    pub(super) show_other: Option<u64>,
    /// Shows this user no events any more from there on.
    pub(super) hide_from: Option<(u32, u64)>,
    /// Does not answer any submission of this user.
    pub(super) ignore: Option<u32>,
}

pub(super) struct Seat {
    pub(super) user: User,
    pub(super) plan: Plan,
    session: Session,
    socket: Socket,
    /// Its number, and that of one beside it, which is not opened before the first is gone.
    number: u64,
    beside: Option<u64>,
    up: VecDeque<(Instant, Outbound)>,
    down: VecDeque<(Instant, SocketOutput)>,
    /// To the relay and to the user.
    datagrams: [VecDeque<(Instant, Datagram)>; 2],
    address: SocketAddr,
    /// The user's network is away until then.
    away: Instant,
    starts: Instant,
    leaves: Option<Instant>,
    /// What the relay keeps of what it has for the user.
    kept: Vec<(Instant, u32, Incoming)>,
    /// When the user's question over HTTP is answered.
    asked: Option<Instant>,
    due: Option<Instant>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Socket {
    Closed,
    Opening(Instant),
    Open,
}

pub(super) struct World {
    pub(super) start: Instant,
    pub(super) now: Instant,
    pub(super) seats: Vec<Seat>,
    pub(super) fault: Fault,
    pub(super) ledger: Option<Ledger>,
    rng: Rng,
    passed: u64,
    swapped: Option<(usize, Incoming)>,
    logs: BTreeMap<String, Vec<Event>>,
    committed: u64,
    next_look: Instant,
    /// Until when the relay takes no connections.
    down: Instant,
}

impl World {
    pub(super) fn new(seed: u64, start: Instant, settings: Settings) -> Self {
        Self {
            start,
            now: start,
            seats: Vec::new(),
            fault: Fault::default(),
            ledger: Some(Ledger::new(start, settings)),
            rng: Rng::new(seed),
            passed: 0,
            swapped: None,
            logs: BTreeMap::new(),
            committed: 0,
            next_look: start,
            down: start,
        }
    }

    /// A user that comes and leaves then, since the world began.
    pub(super) fn add(&mut self, plan: Plan, comes: Duration, leaves: Option<Duration>) {
        let number = self.seats.len();
        let address = SocketAddr::from(([10, 1, (number / 256) as u8, number as u8], 5000));
        let token = "token".to_owned();
        let user = User::new(self.now, plan.clone(), switchyard(), token, Some(address), self.start);
        let origin = Some(Origin(1 + number as u64));
        self.seats.push(Seat {
            user,
            plan,
            session: Session { origin, ..Session::new() },
            socket: Socket::Closed,
            number: 0,
            beside: None,
            up: VecDeque::new(),
            down: VecDeque::new(),
            datagrams: [VecDeque::new(), VecDeque::new()],
            address,
            away: self.now,
            starts: self.start + comes,
            leaves: leaves.map(|leaves| self.start + leaves),
            kept: Vec::new(),
            asked: None,
            due: None,
        });
    }

    // ---- what befalls them

    /// The user's WebSocket breaks.
    pub(super) fn cut(&mut self, seat: usize) {
        let (now, seat) = (self.now, &mut self.seats[seat]);
        if seat.socket == Socket::Open {
            seat.close();
            let number = seat.number;
            seat.user.handle_socket_closed(now, number, "cut");
            seat.due = Some(now);
        }
    }

    /// Nothing passes between the user and the relay for so long, and nobody is told.
    pub(super) fn take_away(&mut self, seat: usize, span: Duration) {
        self.seats[seat].away = self.now + span;
    }

    /// The relay forgets the user's session; its connection breaks.
    pub(super) fn forget(&mut self, seat: usize) {
        self.seats[seat].renew();
        self.cut(seat);
    }

    /// The relay is gone with all it knew, but for the logs, and comes back after so long.
    pub(super) fn restart(&mut self, span: Duration) {
        self.down = self.now + span;
        (0..self.seats.len()).for_each(|seat| self.forget(seat));
    }

    pub(super) fn change_address(&mut self, seat: usize) {
        let now = self.now;
        let seat = &mut self.seats[seat];
        let mut address = seat.address;
        address.set_port(address.port() + 1);
        seat.address = address;
        seat.datagrams.iter_mut().for_each(VecDeque::clear);
        if seat.socket != Socket::Closed {
            seat.close();
            let number = seat.number;
            seat.user.handle_socket_closed(now, number, "the address changed");
        }
        seat.user.handle_network_change(now, Some(address));
        seat.due = Some(now);
    }

    // ---- running

    /// Runs until this time, since the world began.
    pub(super) fn run(&mut self, until: Duration) {
        let end = self.start + until;
        while self.now < end {
            self.turn();
            let now = self.now;
            let dues = self.seats.iter_mut().filter_map(|seat| seat.next(now));
            let next = dues.min().unwrap_or(end).min(self.next_look).min(end);
            self.now = next.max(self.now + MS / 10);
        }
        self.turn();
    }

    /// Everybody leaves; the account of it all.
    pub(super) fn finish(&mut self) -> Report {
        let now = self.now;
        for seat in &mut self.seats {
            seat.leaves = Some(seat.leaves.map_or(now, |leaves| leaves.min(now)));
        }
        self.run(now + 8 * SECOND - self.start);
        let plans: Vec<Plan> = self.seats.iter().map(|seat| seat.plan.clone()).collect();
        let records: Vec<Record> = self.seats.drain(..).map(|seat| seat.user.into_record(self.now)).collect();
        self.ledger.take().unwrap().finish(&plans, records)
    }

    fn turn(&mut self) {
        let now = self.now;
        for number in 0..self.seats.len() {
            let seat = &mut self.seats[number];
            if seat.starts <= now {
                seat.user.start(now);
            }
            if seat.leaves.is_some_and(|at| at <= now) {
                seat.user.leave(now);
            }
            let is_down = self.down > now;
            seat.drive(now, is_down);
            let incoming = seat.serve(now, number as u32);
            for message in incoming {
                self.relay(number, message);
            }
            self.answer_log(number);
        }
        for seat in &mut self.seats {
            let (ready, kept) = std::mem::take(&mut seat.kept).into_iter().partition(|(at, ..)| *at <= now);
            seat.kept = kept;
            let ready: Vec<(Instant, u32, Incoming)> = ready;
            for (_, author, message) in ready {
                seat.deliver(now, author, &message);
            }
            seat.flush(now);
        }
        if self.next_look <= now {
            self.next_look = now + SECOND / 2;
            let ledger = self.ledger.as_mut().unwrap();
            for seat in &mut self.seats {
                ledger.window(now, seat.plan.group, seat.user.take_window());
            }
        }
    }

    // ---- the relay

    fn relay(&mut self, author: usize, mut message: Incoming) {
        self.passed += 1;
        let (number, fault) = (self.passed, self.fault.clone());
        let plan = self.seats[author].plan.clone();
        let at = self.now - self.start;
        if fault.drop_every.is_some_and(|every| number % every == 0)
            || fault.drop_from == Some(plan.number)
            || fault.drop_room.as_ref() == Some(&plan.room)
            || fault.drop_between.is_some_and(|(from, until)| (from..until).contains(&at))
        {
            return;
        }
        if fault.alter == Some(number) {
            let mut payload = message.payload.to_vec();
            *payload.last_mut().unwrap() ^= 1;
            message.payload = payload.into();
        }
        if fault.swap == Some(number) {
            self.swapped = Some((author, message));
            return;
        }
        self.pass_on(author, &message, &plan.room);
        if fault.double == Some(number) {
            self.pass_on(author, &message, &plan.room);
        }
        if fault.stray == Some(number) {
            let other = self.seats.iter().map(|seat| seat.plan.room.clone()).find(|room| *room != plan.room);
            self.pass_on(author, &message, &other.unwrap());
        }
        if let Some((_, earlier)) = self.swapped.take_if(|(of, _)| *of == author) {
            self.pass_on(author, &earlier, &plan.room);
        }
    }

    fn pass_on(&mut self, author: usize, message: &Incoming, room: &str) {
        let (now, fault) = (self.now, self.fault.clone());
        for (number, seat) in self.seats.iter_mut().enumerate() {
            if number == author || seat.plan.room != room || !seat.session.joined {
                continue;
            }
            let is_dropped = fault.drop_behind.is_some_and(|every| self.rng.below(every) == 0)
                || fault.drop_to == Some(seat.plan.number) && self.rng.chance(0.5);
            if is_dropped {
                continue;
            }
            let mut delay = Duration::ZERO;
            for (who, by) in [(fault.delay_from, author), (fault.delay_to, number)] {
                delay +=
                    who.filter(|(user, _)| *user == by as u32).map_or(Duration::ZERO, |(_, delay)| delay);
            }
            if let Some((of, by)) = &fault.delay_room {
                delay += if of == room { *by } else { Duration::ZERO };
            }
            if delay.is_zero() {
                seat.deliver(now, author as u32, message);
            } else {
                seat.kept.push((now + delay, author as u32, message.clone()));
                seat.due = Some(seat.due.map_or(now + delay, |due| due.min(now + delay)));
            }
        }
    }

    fn answer_log(&mut self, number: usize) {
        let now = self.now;
        let room = self.seats[number].plan.room.clone();
        let log = self.logs.entry(room.clone()).or_default();
        if let Some(follow) = self.seats[number].session.asks.take() {
            let head = position(log.len() as u64);
            let session = &mut self.seats[number].session;
            match follow {
                Follow::New => {
                    let mut snapshot = serde_json::to_value(head).unwrap();
                    snapshot["reason"] = "new".into();
                    let json = Json { encoding: 0, bytes: snapshot.to_string().into() };
                    session.tell(now, &[ServerRecord::Snapshot(json)]);
                }
                Follow::From(position) if position == head => session.tell(now, &[ServerRecord::Head(head)]),
                Follow::From(from) => {
                    for events in log[from.seq as usize..].chunks(500) {
                        let last = position(events.last().unwrap().seq);
                        let events = events.iter().cloned().map(ServerRecord::Event);
                        let records: Vec<ServerRecord> = events.chain([ServerRecord::Head(last)]).collect();
                        session.tell(now, &records);
                    }
                }
            }
        }
        for message in std::mem::take(&mut self.seats[number].session.records) {
            for record in record::read_client(message) {
                if let ClientRecord::Submit(submission) = record.unwrap() {
                    self.commit(number, &room, &submission);
                }
            }
        }
    }

    fn commit(&mut self, author: usize, room: &str, submission: &Submission) {
        let (now, fault) = (self.now, self.fault.clone());
        let log = self.logs.get_mut(room).unwrap();
        let (origin, cseq) = (submission.origin, submission.cseq);
        if fault.ignore == Some(author as u32) {
            return;
        }
        if let Some(known) = log.iter().find(|event| (event.origin, event.cseq) == (origin, cseq)) {
            let accepted = ServerRecord::Accepted { origin, cseq, seq: known.seq };
            return self.seats[author].session.tell(now, &[accepted]);
        }
        self.committed += 1;
        if fault.vanish == Some(self.committed) {
            // It says what is true of the next one.
            let seq = log.len() as u64 + 1;
            let accepted = ServerRecord::Accepted { origin, cseq, seq };
            return self.seats[author].session.tell(now, &[accepted]);
        }
        let mut members = self.seats.iter().enumerate().filter(|(_, seat)| seat.plan.room == room);
        let victim = members.find(|(number, _)| *number != author).map(|(number, _)| number);
        let times = if fault.commit_twice == Some(self.committed) { 2 } else { 1 };
        for _ in 0..times {
            let log = self.logs.get_mut(room).unwrap();
            let seq = log.len() as u64 + 1;
            let (user, name) = (format!("user {author}"), String::new());
            let content = submission.content.clone();
            let event = Event { seq, at: 0, origin, cseq, user, name, content };
            log.push(event.clone());
            let before = (seq as usize).checked_sub(2).map(|place| log[place].clone());
            for (number, seat) in self.seats.iter_mut().enumerate().filter(|(_, seat)| seat.plan.room == room)
            {
                let is_follower = seat.session.joined;
                let is_hidden =
                    fault.hide_from.is_some_and(|(user, from)| user == number as u32 && seq >= from);
                if !is_follower || is_hidden {
                    continue;
                }
                let mut shown = event.clone();
                let is_victim = Some(number) == victim;
                if fault.show_altered == Some(seq) && is_victim {
                    let mut body = shown.content.body.to_vec();
                    let digit = body.len() - 3;
                    body[digit] = if body[digit] == b'0' { b'1' } else { b'0' };
                    shown.content.body = Bytes::from(body);
                }
                if let Some(other) = before.clone().filter(|_| fault.show_other == Some(seq) && is_victim) {
                    shown.content = other.content;
                }
                seat.session.tell(now, &[ServerRecord::Event(shown), ServerRecord::Head(position(seq))]);
                seat.due = Some(now);
            }
        }
    }
}

fn position(seq: u64) -> Position {
    Position { epoch: 0, seq, digest: seq, proof: seq }
}

impl Seat {
    /// When something is due: what is overdue now, unless it has to wait for something else.
    fn next(&mut self, now: Instant) -> Option<Instant> {
        let is_away = self.away > now;
        let opening = match self.socket {
            Socket::Opening(at) => Some(at),
            _ => None,
        };
        let up = self.up.front().map(|of| of.0);
        let down = self.down.front().map(|of| of.0).filter(|_| self.user.reads_socket());
        let waiting = [opening, up, down].into_iter().flatten().filter(|_| !is_away);
        let acks = self.session.attached.and(self.session.receiver.poll_timeout());
        let answerer = self.session.answerer.as_mut().and_then(Answerer::poll_timeout);
        let datagrams = self.datagrams.iter().filter_map(|queue| queue.front().map(|of| of.0)).min();
        let kept = self.kept.iter().map(|of| of.0).min();
        let own = [acks, answerer, datagrams, kept, self.asked, self.user.poll_timeout(), self.due.take()];
        let once =
            [Some(self.starts), self.leaves, Some(self.away)].into_iter().flatten().filter(|at| *at > now);
        waiting.chain(own.into_iter().flatten()).chain(once).min()
    }

    /// The session is over; the next one has another origin.
    fn renew(&mut self) {
        let id = self.session.id + 1;
        let origin = self.session.origin.map(|Origin(before)| Origin(before + 1_000_000));
        self.session = Session { id, origin, ..Session::new() };
        self.kept.clear();
    }

    fn close(&mut self) {
        self.socket = Socket::Closed;
        self.up.clear();
        self.down.clear();
        self.session.texts.clear();
        self.session.urgent[0].clear();
        if self.session.attached == Some(Pipe::Socket) {
            self.session.attached = None;
        }
    }

    /// Does what the user commands and gives it what has come.
    fn drive(&mut self, now: Instant, is_down: bool) {
        if self.user.poll_timeout().is_some_and(|at| at <= now) {
            self.user.handle_timeout(now);
        }
        let is_away = self.away > now;
        if self.asked.take_if(|at| *at <= now).is_some() && !is_away && !is_down {
            self.user.handle_reached(now);
        }
        if let Socket::Opening(at) = self.socket
            && at <= now
            && !is_away
        {
            if is_down {
                self.socket = Socket::Closed;
                self.user.handle_socket_failed(now, self.number, "connection refused");
            } else {
                self.socket = Socket::Open;
                self.user.handle_socket_open(now, self.number);
            }
        }
        while self.socket == Socket::Open
            && !is_away
            && self.user.reads_socket()
            && self.down.front().is_some_and(|(at, _)| *at <= now)
            && let Some((_, output)) = self.down.pop_front()
        {
            match output {
                SocketOutput::Text(text) => self.user.handle_text(now, self.number, &text),
                SocketOutput::Binary(message) => self.user.handle_binary(now, self.number, message),
            }
        }
        while self.datagrams[1].front().is_some_and(|(at, _)| *at <= now)
            && let Some((_, datagram)) = self.datagrams[1].pop_front()
        {
            if !is_away {
                self.user.handle_datagram(now, datagram.from, &datagram.payload);
            }
        }
        while let Some(command) = self.user.poll_command(now) {
            match command {
                Command::OpenSocket(number) if self.socket == Socket::Closed => {
                    (self.number, self.socket) = (number, Socket::Opening(now + DELAY));
                }
                Command::OpenSocket(number) => self.beside = Some(number),
                Command::CloseSocket(number) if number == self.number => {
                    self.close();
                    if let Some(beside) = self.beside.take() {
                        (self.number, self.socket) = (beside, Socket::Opening(now + DELAY));
                    }
                }
                Command::CloseSocket(number) => _ = self.beside.take_if(|beside| *beside == number),
                Command::Ask => self.asked = Some(now + 2 * DELAY),
                // From an address that it does not have any more nothing leaves.
                Command::Datagram(datagram) if datagram.from != self.address => {}
                Command::Datagram(datagram) => self.datagrams[0].push_back((now + DELAY, datagram)),
            }
        }
        while self.socket == Socket::Open
            && let Some(output) = self.user.poll_socket(self.number)
        {
            self.up.push_back((now + DELAY, output));
        }
    }

    /// The relay's end: what it has got from the user.
    fn serve(&mut self, now: Instant, number: u32) -> Vec<Incoming> {
        let is_away = self.away > now;
        let mut incoming = Vec::new();
        while !is_away
            && self.up.front().is_some_and(|(at, _)| *at <= now)
            && let Some((_, output)) = self.up.pop_front()
        {
            match output {
                Outbound::Text(text) if text.contains("\"bye\"") => {
                    self.renew();
                    self.close();
                    self.user.handle_socket_closed(now, self.number, "1000 bye");
                    return incoming;
                }
                Outbound::Text(text) if text.contains("\"hello\"") && !text.contains("\"resume\"") => {
                    // Whoever resumes nothing begins anew.
                    if self.session.joined {
                        self.renew();
                    }
                    self.session.take_text(now, &text, number + 1, SERVER.into());
                }
                Outbound::Text(text) => self.session.take_text(now, &text, number + 1, SERVER.into()),
                Outbound::Ping(_) => {}
                Outbound::Binary(message) => {
                    incoming.extend(self.session.take_frames(now, Pipe::Socket, message));
                }
            }
        }
        while self.datagrams[0].front().is_some_and(|(at, _)| *at <= now)
            && let Some((_, datagram)) = self.datagrams[0].pop_front()
        {
            if let Some(answerer) = self.session.answerer.as_mut().filter(|_| !is_away) {
                answerer.handle_datagram(now, &datagram);
            }
        }
        if let Some(mut answerer) = self.session.answerer.take() {
            answerer.handle_timeout(now);
            answerer.drain();
            for (_, message) in std::mem::take(&mut answerer.messages) {
                incoming.extend(self.session.take_frames(now, Pipe::Channel, message));
            }
            self.session.answerer = Some(answerer);
        }
        incoming
    }

    /// As the server does: what finds no room is dropped, and the receiver told.
    fn deliver(&mut self, now: Instant, author: u32, message: &Incoming) {
        if self.session.joined {
            self.session.deliver(now, author + 1, message);
            self.due = Some(now);
        }
    }

    /// What the relay has for the user.
    fn flush(&mut self, now: Instant) {
        if self.socket == Socket::Open {
            for text in std::mem::take(&mut self.session.texts) {
                self.down.push_back((now + DELAY, SocketOutput::Text(text)));
            }
            let is_blocked = self.down.len() > 64;
            while !is_blocked
                && let Some(frames) = self.session.fill(now, Pipe::Socket, limits::SOCKET_MESSAGE_BYTES)
            {
                self.down.push_back((now + DELAY, SocketOutput::Binary(frames)));
            }
        }
        let lossy = std::mem::take(&mut self.session.lossy);
        if let Some(mut answerer) = self.session.answerer.take() {
            while answerer.outstanding_bytes() < limits::PIPE_BYTES
                && let Some(frames) = self.session.fill(now, Pipe::Channel, limits::CHANNEL_MESSAGE_BYTES)
            {
                answerer.send(now, Channel::Reliable, &frames);
            }
            if self.session.attached == Some(Pipe::Channel) {
                lossy.iter().for_each(|frame| answerer.send(now, Channel::Lossy, frame));
            }
            answerer.drain();
            while let Some(datagram) = answerer.poll_datagram() {
                self.datagrams[1].push_back((now + DELAY, datagram));
            }
            self.session.answerer = Some(answerer);
        }
        if self.session.attached == Some(Pipe::Socket) && self.socket == Socket::Open {
            for frame in lossy {
                self.down.push_back((now + DELAY, SocketOutput::Binary(frame)));
            }
        }
    }
}
