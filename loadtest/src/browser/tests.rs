//! Browsers against a server as small as it can be, in virtual time over [`crate::netsim`].

use std::time::{Duration, Instant};

use switchyard_signaling::message::ServerControl;

use super::*;
use crate::{
    account::{Account, STAMP_BYTES, Stamp},
    answerer::{Answerer, Session},
    netsim::{HostId, Link, LinkConfig, Network},
    rng::Rng,
};

const MS: Duration = Duration::from_millis(1);
const SERVER: &str = "10.0.0.1:7882";

struct Client {
    browser: Browser,
    host: HostId,
    session: Session,
    /// What is on its way over the WebSocket, to the server and to the client.
    up: Link<SocketOutput>,
    down: Link<SocketOutput>,
    socket: bool,
    events: Vec<(Duration, Event)>,
    account: Account,
    sent: u32,
}

struct World {
    start: Instant,
    now: Instant,
    network: Network,
    server: HostId,
    clients: Vec<Client>,
    /// How often time moved on.
    wakeups: u32,
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

impl World {
    fn new(link: &LinkConfig, seed: u64, webrtc: &[bool]) -> Self {
        let now = Instant::now();
        let mut network = Network::new(seed);
        let server = network.add_host(LinkConfig::default(), LinkConfig::default());
        network.bind(server, address(SERVER));
        let clients = (0..webrtc.len())
            .map(|number| {
                let host = network.add_host(link.clone(), link.clone());
                let local = SocketAddr::from(([10, 0, 1, number as u8], 5000));
                network.bind(host, local);
                let socket = LinkConfig { delay: link.delay, ..LinkConfig::default() };
                let config =
                    BrowserConfig { address: webrtc[number].then_some(local), ..BrowserConfig::default() };
                Client {
                    browser: Browser::new(now, config),
                    host,
                    session: Session::new(),
                    up: Link::new(socket.clone(), 0),
                    down: Link::new(socket, 0),
                    socket: false,
                    events: Vec::new(),
                    account: Account::default(),
                    sent: 0,
                }
            })
            .collect();
        let mut world = Self { start: now, now, network, server, clients, wakeups: 0 };
        for number in 0..webrtc.len() {
            world.open_socket(number);
            world.clients[number].browser.join(now, "room", "token");
        }
        world
    }

    fn open_socket(&mut self, client: usize) {
        let client = &mut self.clients[client];
        client.socket = true;
        client.browser.handle_socket_open(self.now);
    }

    fn cut_socket(&mut self, client: usize) {
        let client = &mut self.clients[client];
        client.socket = false;
        let delay = LinkConfig { delay: 20 * MS, ..LinkConfig::default() };
        (client.up, client.down) = (Link::new(delay.clone(), 0), Link::new(delay, 0));
        client.browser.handle_socket_closed(self.now);
        client.session.texts.clear();
        client.session.urgent[0].clear();
        if client.session.attached == Some(Pipe::Socket) {
            client.session.attached = None;
        }
    }

    /// Runs for a while; every `gap` each client sends a stamped message to the others.
    fn run_sending(&mut self, span: Duration, gap: Duration, size: usize) {
        let end = self.now + span;
        while self.now < end {
            for client in 0..self.clients.len() {
                self.send(client, Lane::Reliable, size).unwrap();
            }
            self.run(gap);
        }
    }

    fn send(&mut self, client: usize, lane: Lane, size: usize) -> Result<(), SendError> {
        let scheduled = self.now - self.start;
        let stamp = Stamp { sender: client as u32, seq: self.clients[client].sent + 1, scheduled };
        let payload = stamp.message(size);
        let message = Outgoing { room: 1, lane, stream: 3, target: Target::Room, text: false, payload };
        self.clients[client].browser.send(self.now, message)?;
        self.clients[client].sent += 1;
        Ok(())
    }

    fn run(&mut self, span: Duration) {
        let end = self.now + span;
        loop {
            while self.step() {}
            let clients = self.clients.iter_mut().flat_map(|client| {
                let ack = client.session.attached.and(client.session.receiver.poll_timeout());
                let answerer = client.session.answerer.as_mut().and_then(Answerer::poll_timeout);
                let read = client.browser.reads_socket();
                let down = client.down.poll_timeout().filter(|_| read);
                [client.browser.poll_timeout(), answerer, ack, client.up.poll_timeout(), down]
            });
            let next = clients.chain([self.network.poll_timeout()]).flatten().min().unwrap_or(end);
            // Something that is due and does not go away would hold the time: never less than a step onwards.
            let next = next.max(self.now + MS / 100);
            if next >= end {
                self.now = end;
                return;
            }
            self.now = next;
            self.wakeups += 1;
            for client in &mut self.clients {
                client.browser.handle_timeout(next);
                if let Some(answerer) = &mut client.session.answerer {
                    answerer.handle_timeout(next);
                }
            }
        }
    }

    /// Moves everything that can move now; whether anything did.
    fn step(&mut self) -> bool {
        let (now, mut moved) = (self.now, false);
        for client in &mut self.clients {
            while client.socket
                && let Some(output) = client.browser.poll_socket()
            {
                client.up.send(now, 0, output);
                moved = true;
            }
            while let Some(datagram) = client.browser.poll_datagram() {
                self.network.send(now, datagram);
                moved = true;
            }
            while let Some(event) = client.browser.poll_event() {
                if let Event::Message(message) = &event {
                    client.account.received(message.stream, Stamp::of(&message.payload).unwrap());
                }
                client.events.push((now - self.start, event));
            }
            while client.browser.reads_socket()
                && let Some(output) = client.down.poll(now)
            {
                moved = true;
                match output {
                    SocketOutput::Text(text) => client.browser.handle_text(now, &text),
                    SocketOutput::Binary(message) => client.browser.handle_binary(now, message),
                }
            }
        }
        while let Some((host, datagram)) = self.network.poll(now) {
            moved = true;
            if host == self.server {
                // Each client has its own answerer; the one whose path or address it is takes it.
                let sender = self.clients.iter_mut().find(|client| {
                    client.browser.peer.as_ref().is_some_and(|peer| peer.local_address() == datagram.from)
                });
                if let Some(answerer) = sender.and_then(|client| client.session.answerer.as_mut()) {
                    answerer.handle_datagram(now, &datagram);
                }
            } else if let Some(client) = self.clients.iter_mut().find(|client| client.host == host) {
                client.browser.handle_datagram(now, datagram.from, &datagram.payload);
            }
        }
        for number in 0..self.clients.len() {
            moved |= self.step_session(number);
        }
        moved
    }

    fn step_session(&mut self, number: usize) -> bool {
        let (now, mut moved, mut incoming) = (self.now, false, Vec::new());
        let client = &mut self.clients[number];
        let session = &mut client.session;
        while let Some(output) = client.up.poll(now) {
            moved = true;
            match output {
                SocketOutput::Binary(message) => {
                    incoming.extend(session.take_frames(now, Pipe::Socket, message));
                }
                SocketOutput::Text(text) => session.take_text(now, &text, number as u32, address(SERVER)),
            }
        }
        if let Some(answerer) = &mut session.answerer {
            answerer.drain();
            for (_, message) in std::mem::take(&mut answerer.messages) {
                moved = true;
                incoming.extend(session.take_frames(now, Pipe::Channel, message));
            }
        }
        for message in incoming {
            self.relay(number, &message);
        }
        let client = &mut self.clients[number];
        let session = &mut client.session;
        if client.socket {
            for text in std::mem::take(&mut session.texts) {
                moved = true;
                client.down.send(now, 0, SocketOutput::Text(text));
            }
            // As a server with backpressure: nothing more while the client does not read.
            while client.browser.reads_socket()
                && let Some(message) = session.fill(now, Pipe::Socket, limits::SOCKET_MESSAGE_BYTES)
            {
                moved = true;
                client.down.send(now, 0, SocketOutput::Binary(message));
            }
            if session.attached == Some(Pipe::Socket) {
                for lossy in session.lossy.drain(..) {
                    client.down.send(now, 0, SocketOutput::Binary(lossy));
                }
            }
        }
        if let Some(mut answerer) = session.answerer.take() {
            while answerer.outstanding_bytes() < limits::PIPE_BYTES
                && let Some(message) = session.fill(now, Pipe::Channel, limits::CHANNEL_MESSAGE_BYTES)
            {
                moved = true;
                answerer.send(now, Channel::Reliable, &message);
            }
            if session.attached == Some(Pipe::Channel) {
                for lossy in session.lossy.drain(..) {
                    answerer.send(now, Channel::Lossy, &lossy);
                }
            }
            while let Some(datagram) = answerer.poll_datagram() {
                moved = true;
                self.network.send(now, datagram);
            }
            session.answerer = Some(answerer);
        }
        moved
    }

    fn relay(&mut self, author: usize, message: &Incoming) {
        for (number, client) in self.clients.iter_mut().enumerate() {
            if number != author && client.session.joined {
                client.session.deliver(self.now, author as u32, message);
            }
        }
    }

    /// Nothing lost, doubled, out of order or told missing, and the protocol kept.
    fn assert_whole(&self) {
        for (number, client) in self.clients.iter().enumerate() {
            let sent = self.clients.iter().enumerate().filter(|(other, _)| *other != number);
            let sent: Vec<_> =
                sent.map(|(other, client)| (other as u32, 3, u64::from(client.sent))).collect();
            let totals = client.account.balance(sent);
            assert_eq!(
                (totals.received, totals.lost, totals.doubled, totals.out_of_order, totals.told_missing),
                (totals.expected, 0, 0, 0, 0),
                "client {number}: {totals:?}"
            );
            assert!(totals.expected > 0);
            for (at, event) in &client.events {
                assert!(!matches!(event, Event::Violation(_)), "client {number} at {at:?}: {event:?}");
            }
        }
    }

    fn when(&self, client: usize, what: impl Fn(&Event) -> bool) -> Option<Duration> {
        self.clients[client].events.iter().rev().find(|(_, event)| what(event)).map(|(at, _)| *at)
    }
}

fn link() -> LinkConfig {
    LinkConfig { delay: 20 * MS, ..LinkConfig::default() }
}

fn lossy_link() -> LinkConfig {
    LinkConfig {
        delay: 20 * MS,
        jitter: (15 * MS).into(),
        reorder: true,
        loss: 0.03.into(),
        ..LinkConfig::default()
    }
}

#[test]
fn browsers_talk_at_once_over_the_websocket_and_move_to_the_data_channel() {
    let mut world = World::new(&link(), 1, &[true, true]);
    world.run(85 * MS);
    assert!(
        world.when(0, |event| matches!(event, Event::Control(1, ServerControl::Joined { .. }))).is_some()
    );
    assert_eq!(world.clients[0].browser.attached(), Some(Pipe::Socket));
    world.run_sending(3000 * MS, 10 * MS, 100);
    world.run(500 * MS);
    assert_eq!(world.clients[0].browser.attached(), Some(Pipe::Channel));
    assert_eq!(world.clients[0].session.attached, Some(Pipe::Channel));
    world.assert_whole();
}

#[test]
fn a_browser_without_webrtc_stays_on_the_websocket_and_sees_no_difference() {
    let mut world = World::new(&link(), 1, &[true, false]);
    world.run(1000 * MS);
    world.run_sending(3000 * MS, 10 * MS, 100);
    world.run(500 * MS);
    assert_eq!(world.clients[0].browser.attached(), Some(Pipe::Channel));
    assert_eq!(world.clients[1].browser.attached(), Some(Pipe::Socket));
    world.assert_whole();
}

#[test]
fn pipe_changes_at_random_instants_lose_and_double_nothing() {
    for seed in 0..5 {
        let mut world = World::new(&lossy_link(), seed, &[true, true, true]);
        world.run(3000 * MS);
        let mut rng = Rng::new(seed);
        for _ in 0..60 {
            let client = rng.below(3) as usize;
            let pipe = if rng.chance(0.5) { Pipe::Socket } else { Pipe::Channel };
            let now = world.now;
            world.clients[client].browser.attach(now, pipe);
            world.run_sending(MS * (1 + rng.below(150) as u32), 3 * MS, 500);
        }
        world.run(10_000 * MS);
        world.assert_whole();
        let moves = world.clients[0].events.iter().filter(|(_, event)| matches!(event, Event::Attached(_)));
        assert!(moves.count() > 5, "seed {seed}");
    }
}

#[test]
fn a_silent_data_channel_is_left_within_five_seconds_and_comes_back() {
    let mut world = World::new(&link(), 1, &[true, true]);
    world.run(2000 * MS);
    assert_eq!(world.clients[0].browser.attached(), Some(Pipe::Channel));
    let (down, host) = (world.now, world.clients[0].host);
    world.network.take_down(host, down, down + 20_000 * MS);
    world.run_sending(6000 * MS, 50 * MS, 100);
    assert_eq!(world.clients[0].browser.attached(), Some(Pipe::Socket));
    let left = world.when(0, |event| matches!(event, Event::Attached(Pipe::Socket))).unwrap();
    assert!(left <= down - world.start + 5000 * MS, "{left:?}");
    world.run_sending(60_000 * MS, 100 * MS, 100);
    world.run(1000 * MS);
    assert_eq!(world.clients[0].browser.attached(), Some(Pipe::Channel));
    world.assert_whole();
}

#[test]
fn a_changed_address_costs_no_message_and_no_offer() {
    let mut world = World::new(&link(), 1, &[true, true]);
    world.run(2000 * MS);
    for last in 1..=3 {
        let (host, now) = (world.clients[0].host, world.now);
        let old = world.clients[0].browser.config.address.unwrap();
        let new = SocketAddr::from(([10, 7, 7, last], 40_000));
        world.network.readdress(host, old, new);
        world.clients[0].browser.change_address(now, new);
        world.run_sending(2000 * MS, 10 * MS, 100);
    }
    world.run(2000 * MS);
    assert_eq!(world.clients[0].browser.attached(), Some(Pipe::Channel));
    assert_eq!(world.clients[0].browser.peer_number, 1);
    world.assert_whole();
}

#[test]
fn a_lost_websocket_is_resumed_without_loss() {
    let mut world = World::new(&link(), 1, &[false, false]);
    world.run(1000 * MS);
    for _ in 0..10 {
        world.run_sending(330 * MS, 7 * MS, 2000);
        world.cut_socket(0);
        world.run_sending(500 * MS, 7 * MS, 2000);
        world.open_socket(0);
    }
    world.run(3000 * MS);
    assert_eq!(world.clients[0].browser.attached(), Some(Pipe::Socket));
    world.assert_whole();
}

#[test]
fn a_stalled_browser_takes_nothing_and_everything_later() {
    for webrtc in [true, false] {
        let mut world = World::new(&link(), 1, &[webrtc, true]);
        world.run(2000 * MS);
        let now = world.now;
        world.clients[0].browser.set_stalled(now, true);
        let before = world.clients[0].account.count();
        for _ in 0..50 {
            world.send(1, Lane::Reliable, 10_000).unwrap();
            world.run(20 * MS);
        }
        world.run(1000 * MS);
        assert_eq!(world.clients[0].account.count(), before);
        assert!(world.clients[0].session.sender.held_bytes() > 500_000, "the server holds it");
        let now = world.now;
        world.clients[0].browser.set_stalled(now, false);
        world.run(5000 * MS);
        assert_eq!(world.clients[0].account.count(), 50);
        world.send(0, Lane::Reliable, 100).unwrap();
        world.run(1000 * MS);
        world.assert_whole();
    }
}

#[test]
fn long_messages_arrive_whole_over_both_pipes() {
    let mut world = World::new(&link(), 1, &[true, false]);
    world.run(2000 * MS);
    for client in [0, 1] {
        world.send(client, Lane::Reliable, 256 * 1024).unwrap();
        world.send(client, Lane::Reliable, STAMP_BYTES).unwrap();
        let too_large = world.send(client, Lane::Reliable, 256 * 1024 + 1);
        assert_eq!(too_large, Err(SendError::TooLarge { len: 256 * 1024 + 1, limit: 256 * 1024 }));
    }
    world.run(5000 * MS);
    world.assert_whole();
    for client in &world.clients {
        let sizes: Vec<usize> = client
            .events
            .iter()
            .filter_map(|(_, event)| if let Event::Message(m) = event { Some(m.payload.len()) } else { None })
            .collect();
        assert_eq!(sizes, [256 * 1024, STAMP_BYTES]);
    }
}

#[test]
fn a_full_send_buffer_refuses_instead_of_dropping() {
    let mut world = World::new(&link(), 1, &[false, false]);
    world.run(1000 * MS);
    let refused = (0..100).filter(|_| world.send(0, Lane::Reliable, 100_000).is_err()).count();
    assert_eq!(refused, 90);
    assert!(world.clients[0].browser.held_bytes() <= 1 << 20);
    world.send(1, Lane::Reliable, 100).unwrap();
    world.run(3000 * MS);
    world.assert_whole();
}

#[test]
fn the_lossy_lane_loses_some_and_doubles_none() {
    for webrtc in [true, false] {
        let link = if webrtc { LinkConfig { loss: 0.05.into(), ..link() } } else { link() };
        let mut world = World::new(&link, 3, &[webrtc, webrtc]);
        world.run(3000 * MS);
        for _ in 0..1000 {
            world.send(0, Lane::Lossy, 100).unwrap();
            world.run(5 * MS);
        }
        world.run(1000 * MS);
        let totals = world.clients[1].account.balance([(0, 3, 1000)]);
        let expected = if webrtc { 850..950 } else { 1000..1001 };
        assert!(expected.contains(&totals.received), "{totals:?}");
        assert_eq!((totals.doubled, totals.foreign), (0, 0));
    }
}

#[test]
fn an_idle_browser_wakes_seldom() {
    for webrtc in [true, false] {
        let mut world = World::new(&link(), 1, &[webrtc]);
        world.run(5_000 * MS);
        world.wakeups = 0;
        world.run(10_000 * MS);
        // Probes, checks of the pair, and what they cause at the other end.
        assert!(world.wakeups < 200, "webrtc {webrtc}: {}", world.wakeups);
        let host = world.clients[0].host;
        let (now, later) = (world.now, world.now + 60_000 * MS);
        world.network.take_down(host, now, later);
        world.cut_socket(0);
        world.wakeups = 0;
        world.run(10_000 * MS);
        assert!(world.wakeups < 400, "cut off, webrtc {webrtc}: {}", world.wakeups);
    }
}
