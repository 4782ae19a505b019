//! STUN and TURN on real sockets (NAT1): one thread around [`switchyard_turn_config::server`], and the doors before it.
//!
//! ```text
//! client ─ UDP ───────────────────────► thread ─► peers, by relay sockets
//! client ─ TCP ─► doors ─┐                │  ▲
//! client ─ TLS ─► doors ─┴─ Connected ────┤  │
//!                          └─ HTTPS ─► http  └──► shards, in memory (path `Relay`)
//! ```
//!
//! - [`doors`]: on the runtime's workers, what is slow or may be waited for: accepting, PROXY protocol, TLS handshakes;
//! - [`thread`] takes over connections that stand ([`stream`]), and from then on nobody else touches them;
//! - [`sockets`]: UDP, of the relay and of its allocations;
//! - [`mod@mailbox`]: how other threads reach this one.

mod doors;
mod mailbox;
mod moderation;
mod sockets;
mod stream;
mod thread;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    ops::RangeInclusive,
    sync::Arc,
    thread::JoinHandle,
    time::Instant,
};

use anyhow::Context as _;
use mio::Poll;
use ring::rand::{SecureRandom as _, SystemRandom};
use switchyard_turn_config::{
    server::{Host, Link, Server},
    settings::{Listen, Mode, Problem, Turn},
};
use tokio::sync::mpsc;
use tokio_rustls::rustls::ServerConnection;

pub(super) use self::mailbox::{Datagrams, Mailbox};
use self::{
    doors::{Doors, Patience, Within},
    mailbox::{Inbox, Letter, mailbox},
    sockets::Socket,
    thread::{BELL_TOKEN, Shards, Thread, listener_token},
};
use super::{Input, WireIo, udp};
use crate::{config::Config, metrics::Metrics, tls::Certificates};

/// Connections beyond one for each allocation: those that have not asked for it yet.
const NEWCOMERS: usize = 1024;
/// Ports that the system offers before one of the relay's is taken.
const TRIES: usize = 64;
/// Nobody's, by which the machine says from where it would send there (RFC 5737, RFC 3849).
const ELSEWHERE: [SocketAddr; 2] = [
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 9),
    SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)), 9),
];

/// A client's connection that stands: TLS is done, and it speaks TURN.
#[derive(Debug)]
pub(super) struct Connected {
    /// Who it is. The remote address is the one that the PROXY protocol names, where that is spoken.
    pub(super) link: Link,
    /// Non-blocking, without Nagle's delay, and no longer watched by tokio.
    pub(super) socket: TcpStream,
    /// What decrypts it.
    pub(super) tls: Option<Box<ServerConnection>>,
    /// What has been read from it already, in the clear.
    pub(super) read: Vec<u8>,
}

/// The relay, with its sockets bound.
#[derive(Debug)]
pub(super) struct Bound {
    settings: Turn,
    sockets: Vec<UdpSocket>,
    doors: Doors,
    poll: Poll,
    mailbox: Mailbox,
    inbox: Inbox,
}

/// Where the local SFU is to be reached in memory.
#[derive(Debug)]
pub(super) struct Sfu {
    /// Its addresses, as clients are told.
    pub(super) addresses: Vec<SocketAddr>,
    /// The UDP ports of each shard.
    pub(super) ports: Vec<Vec<u16>>,
    /// Into each shard.
    pub(super) inputs: Vec<mpsc::Sender<Input>>,
}

/// The relay's thread.
#[derive(Debug)]
pub(super) struct Relay {
    doors: Doors,
    mailbox: Mailbox,
    thread: JoinHandle<()>,
}

impl Bound {
    /// Binds what the configuration asks for; `None` if this server is to be no relay. Addresses and ports that it leaves
    /// open are filled in. Connections that speak HTTP go to `http`.
    pub(super) fn bind(
        config: &Config,
        metrics: &Arc<Metrics>,
        http: mpsc::Sender<WireIo>,
    ) -> anyhow::Result<Option<Self>> {
        if config.turn.mode != Mode::Embedded {
            return Ok(None);
        }
        let mut settings = settled(config)?;
        let sockets = listen(&mut settings)?;
        let poll = Poll::new().context("cannot make the relay's event queue")?;
        let (mailbox, inbox) =
            mailbox(poll.registry(), BELL_TOKEN).context("cannot make the relay's event queue")?;
        let within = Within { turn: mailbox.clone(), http, metrics: metrics.clone() };
        let doors = open_doors(config, &mut settings, within)?;
        Ok(Some(Self { settings, sockets, doors, poll, mailbox, inbox }))
    }

    /// What holds: the configuration, with what it leaves open.
    pub(super) fn settings(&self) -> &Turn {
        &self.settings
    }

    /// How to reach the thread.
    pub(super) fn mailbox(&self) -> &Mailbox {
        &self.mailbox
    }

    /// Starts the thread.
    pub(super) fn start(self, sfu: Sfu, metrics: &Metrics) -> anyhow::Result<Relay> {
        let Self { settings, sockets, doors, poll, mailbox, inbox } = self;
        let machine = if_addrs::get_if_addrs().context("cannot ask for the machine's addresses")?;
        let host = Host {
            sfu: sfu.addresses,
            addresses: machine.iter().map(if_addrs::Interface::ip).collect(),
            can_forbid_fragments: true,
        };
        let now = Instant::now();
        let server = Server::new(&settings, &host, now, super::unix_ms() / 1000, random()?)
            .map_err(|problems| wrong(&problems))?;
        let activate = |(index, socket)| Socket::new(socket, poll.registry(), listener_token(index));
        let listeners = sockets.into_iter().enumerate().map(activate).collect::<io::Result<Vec<_>>>();
        let listeners = listeners.context("cannot use the relay's sockets")?;
        let by_port = sfu.ports.iter().enumerate();
        let by_port = by_port.flat_map(|(shard, ports)| ports.iter().map(move |port| (*port, shard)));
        let shards = Shards::new(by_port.collect(), sfu.inputs);
        let max_streams = settings.quotas.allocations as usize + NEWCOMERS;
        let thread = Thread::new(poll, server, listeners, shards, inbox, metrics.turn(), max_streams);
        let thread = std::thread::Builder::new().name("turn".to_owned()).spawn(move || run_or_abort(thread));
        Ok(Relay { doors, mailbox, thread: thread.context("cannot start the relay's thread")? })
    }
}

impl Relay {
    /// Lets nobody in any more who is not here.
    pub(super) fn drain(&self) {
        self.doors.drain();
    }

    /// Ends the thread; blocks until it has.
    pub(super) fn stop(self) -> bool {
        // A full queue is worked off soon.
        while !self.thread.is_finished() && !self.mailbox.send(Letter::Stop) {
            std::thread::yield_now();
        }
        self.thread.join().is_ok()
    }
}

/// A relay that panics has lost its clients; better all of it is started anew than served by half.
fn run_or_abort(thread: Thread) {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| thread.run())) {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::error!(%error, "the relay cannot wait for its sockets");
            std::process::abort();
        }
        Err(_) => {
            tracing::error!("the relay has panicked; this is a defect of the server");
            std::process::abort();
        }
    }
}

/// The configuration with what it leaves to the machine: addresses, and the secret.
pub(super) fn settled(config: &Config) -> anyhow::Result<Turn> {
    let mut with_secret = config.clone();
    with_secret.add_turn_secret(&random()?);
    let mut turn = with_secret.turn;
    // Where the SFU is, the relay is too: bound to the same addresses, and told as the same.
    let bound = config.rtc.bind.iter().copied().filter(|ip| !ip.is_unspecified());
    let own: Vec<IpAddr> =
        bound.chain(ELSEWHERE.iter().filter_map(|there| address_towards(*there))).collect();
    let own = own.into_iter().chain(super::advertised(config)?.into_iter().filter(|ip| is_local(*ip)));
    let (v4, v6) = by_family(own);
    let (told_v4, told_v6) = by_family(config.rtc.advertise_addresses.iter().copied());
    let relay = &mut turn.relay;
    if relay.bind_v4.is_none() {
        relay.bind_v4 = v4;
        relay.advertise_v4 = v4.and(told_v4);
    }
    if relay.bind_v6.is_none() {
        relay.bind_v6 = v6;
        relay.advertise_v6 = v6.and(told_v6);
    }
    Ok(turn)
}

/// The first of each family.
fn by_family(addresses: impl Iterator<Item = IpAddr> + Clone) -> (Option<Ipv4Addr>, Option<Ipv6Addr>) {
    let v4 = addresses.clone().find_map(|ip| if let IpAddr::V4(ip) = ip { Some(ip) } else { None });
    let mut addresses = addresses;
    (v4, addresses.find_map(|ip| if let IpAddr::V6(ip) = ip { Some(ip) } else { None }))
}

/// From where the machine would send there. Nothing is sent.
fn address_towards(there: SocketAddr) -> Option<IpAddr> {
    let anywhere: IpAddr =
        if there.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind(SocketAddr::new(anywhere, 0)).ok()?;
    socket.connect(there).ok()?;
    Some(socket.local_addr().ok()?.ip()).filter(|ip| !ip.is_unspecified())
}

/// Whether a socket can be bound to it.
fn is_local(ip: IpAddr) -> bool {
    UdpSocket::bind(SocketAddr::new(ip, 0)).is_ok()
}

/// Binds the UDP sockets that clients send to; the port that was taken is noted.
fn listen(settings: &mut Turn) -> anyhow::Result<Vec<UdpSocket>> {
    let relay = settings.relay.range();
    let listen = &mut settings.listen;
    let mut sockets: Vec<UdpSocket> = Vec::new();
    if !listen.udp_enabled {
        return Ok(sockets);
    }
    let is_default = listen.bind == Listen::default().bind;
    for ip in listen.bind.clone() {
        let address = SocketAddr::new(ip, listen.udp_port);
        match bind_outside(address, &relay) {
            Ok(socket) => {
                listen.udp_port = socket.local_addr().context("cannot ask for the relay's port")?.port();
                sockets.push(socket);
            }
            // A machine without IPv6 serves IPv4.
            Err(_) if is_default && ip.is_ipv6() => {}
            Err(error) => {
                let settings = "turn.listen.udp_port, turn.listen.bind; turn.mode: off does without a relay";
                let sentence = format!("cannot bind UDP {address} for STUN and TURN ({settings})");
                return Err(error).context(sentence);
            }
        }
    }
    Ok(sockets)
}

/// A socket whose port, where any will do, is none of the relay's.
fn bind_outside(address: SocketAddr, relay: &RangeInclusive<u16>) -> io::Result<UdpSocket> {
    // What is in the range is held until there is another one, so that it is not taken again.
    let mut held = Vec::new();
    loop {
        let socket = udp::bind_one(address)?;
        if address.port() != 0 || held.len() == TRIES || !relay.contains(&socket.local_addr()?.port()) {
            return Ok(socket);
        }
        held.push(socket);
    }
}

/// Opens TCP and TLS; the ports that were taken are noted, and whether there is TLS.
fn open_doors(config: &Config, settings: &mut Turn, within: Within) -> anyhow::Result<Doors> {
    let certificates = if settings.listen.tls_enabled {
        let (v4, v6) = settings.relay.advertised();
        let addresses: Vec<IpAddr> = v4.map(IpAddr::from).into_iter().chain(v6.map(IpAddr::from)).collect();
        Certificates::open(config, &addresses)?.map(Arc::new)
    } else {
        None
    };
    let doors = Doors::start(&settings.listen, certificates, within, Patience::default())?;
    let listen = &mut settings.listen;
    listen.tcp_port = doors.tcp.first().map_or(listen.tcp_port, SocketAddr::port);
    listen.tls_port = doors.tls.first().map_or(listen.tls_port, SocketAddr::port);
    listen.tls_enabled = !doors.tls.is_empty();
    Ok(doors)
}

fn wrong(problems: &[Problem]) -> anyhow::Error {
    let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
    anyhow::anyhow!(problems.join("; "))
}

fn random() -> anyhow::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    SystemRandom::new().fill(&mut bytes).ok().context("the system has no random numbers")?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
