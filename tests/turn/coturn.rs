//! coturn's own client tools, from Debian, against this server: over UDP, TCP and TLS, with channels and with Send
//! indications, IPv4 and IPv6, from relay to relay and to a peer outside that echoes. Nothing may be lost.

use std::{
    fs,
    net::IpAddr,
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    thread,
    time::{Duration, Instant},
};

use switchyard_turn_config::server::Transport;

use crate::{
    alone,
    ground::{Ground, free_ports},
    relay::{Relay, SECRET},
};

/// Allocations of one run.
const CLIENTS: u64 = 4;
/// Messages of each.
const EACH: u64 = 250;
const SENT: u64 = CLIENTS * EACH;
/// Bytes of one.
const LENGTH: u64 = 1000;
/// Milliseconds from one to the next.
const GAP: u64 = 10;

/// One run of `turnutils_uclient`.
#[derive(Clone, Copy, Debug)]
struct Run {
    transport: Transport,
    /// Instead of channels.
    has_send: bool,
    /// Index into the ground's addresses.
    family: usize,
    /// To a peer that echoes, instead of to one another.
    is_outside: bool,
}

/// All of a transport, at the same time, each with a server of its own: what that has counted is of this run.
fn run_all(transport: Transport) {
    let _alone = alone();
    let ground = Ground::new();
    let runs = [false, true].into_iter().flat_map(|has_send| {
        [0, 1].into_iter().flat_map(move |family| {
            [false, true].map(|is_outside| Run { transport, has_send, family, is_outside })
        })
    });
    let can_be = |run: &Run| !run.is_outside || ground.outside[run.family].is_some();
    let losses: Vec<String> = thread::scope(|scope| {
        let (runs, ground) = (runs.filter(can_be), &ground);
        let running: Vec<_> = runs.map(|run| scope.spawn(move || run.go(ground))).collect();
        running.into_iter().filter_map(|run| run.join().unwrap().err()).collect()
    });
    assert!(losses.is_empty(), "{}", losses.join("\n"));
}

impl Run {
    /// `Err` says what was lost.
    fn go(self, ground: &Ground) -> Result<(), String> {
        let relay = Relay::start(&ground.server, |turn| {
            turn.allow = ground.outside.iter().flatten().map(|ip| ip.to_string().parse().unwrap()).collect();
            turn.quotas.bytes_per_second = 0;
        });
        let output = self.run(ground, &relay);
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{self:?}\n{text}");
        let figures = Figures::read(&text).unwrap_or_else(|| panic!("{self:?}\n{text}"));
        assert_eq!(figures.sent, SENT, "{self:?}");

        let inside = if self.is_outside { 0 } else { SENT };
        let relayed = [("from_clients", SENT), ("to_clients", SENT), ("between_allocations", inside)];
        let relayed = relayed.map(|(direction, expected)| {
            let series = format!("switchyard_turn_relayed_packets_total{{direction=\"{direction}\"}}");
            relay.counted_at_last(&series, expected)
        });
        let drop = |reason| relay.counted(&format!("switchyard_turn_drops_total{{reason=\"{reason}\"}}"));
        let dropped = drop("send_failed") + drop("slow_client");
        let is_whole = if self.transport == Transport::Tls {
            // Within TLS the client takes what comes with one read to be one message, and counts as lost what comes in one
            // with the message before it; over TCP it looks where a message ends. So its own count is of no use there.
            figures.read == SENT * self.framed()
        } else {
            (figures.received, figures.lost) == (SENT, 0)
        };
        if is_whole && relayed == [SENT, SENT, inside] && dropped == 0 {
            return Ok(());
        }
        Err(format!("{self:?}: {figures:?}, relayed {relayed:?}, dropped {dropped}"))
    }

    /// Bytes of a message on its way to a client.
    fn framed(self) -> u64 {
        let address = [8, 20][self.family];
        if self.has_send { 20 + (4 + address) + 4 + LENGTH } else { 4 + LENGTH }
    }

    fn run(self, ground: &Ground, relay: &Relay) -> Output {
        let server = ground.server[self.family];
        let mut command = ground.command("turnutils_uclient");
        command.args(["-v", "-c", "-u", "somebody", "-W", SECRET]);
        for (flag, number) in [("-m", CLIENTS), ("-n", EACH), ("-l", LENGTH), ("-z", GAP)] {
            command.args([flag, &number.to_string()]);
        }
        let port = match self.transport {
            Transport::Udp => relay.udp(server).port(),
            Transport::Tcp => relay.tcp(server).port(),
            Transport::Tls => relay.tls(server).port(),
        };
        command.args(["-p", &port.to_string()]);
        if self.transport != Transport::Udp {
            command.arg("-t");
        }
        if self.transport == Transport::Tls {
            command.args(["-S", "-E"]).arg(&relay.certificate);
        }
        if self.has_send {
            command.arg("-s");
        }
        if self.family == 1 {
            command.arg("-x");
        }
        let echo = self.is_outside.then(|| Echo::start(ground, ground.outside[self.family].unwrap()));
        match &echo {
            None => command.arg("-y"),
            Some(echo) => command.args(["-e", &echo.ip.to_string(), "-r", &echo.port.to_string()]),
        };
        output(command.arg(server.to_string()))
    }
}

/// What `turnutils_uclient` says in the end.
#[derive(Debug)]
struct Figures {
    sent: u64,
    received: u64,
    lost: u64,
    /// Bytes read within TLS, since the first message came: answers to requests have all come before.
    read: u64,
}

impl Figures {
    fn read(text: &str) -> Option<Self> {
        let number_behind = |name: &str| {
            let (_, rest) = text.rsplit_once(name)?;
            rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
        };
        let reads = text
            .lines()
            .filter_map(|line| line.rsplit_once("response received: size=")?.1.parse::<u64>().ok());
        Some(Self {
            sent: number_behind("tot_send_msgs=")?,
            received: number_behind("tot_recv_msgs=")?,
            lost: number_behind("Total lost packets ")?,
            read: reads.skip_while(|read| *read < LENGTH).sum(),
        })
    }
}

/// A `turnutils_peer`.
struct Echo {
    ip: IpAddr,
    port: u16,
    child: Child,
}

impl Echo {
    fn start(ground: &Ground, ip: IpAddr) -> Self {
        // It takes the port above, too.
        static NEXT: AtomicU16 = AtomicU16::new(3480);
        let port = if ground.has_namespace() { NEXT.fetch_add(2, Ordering::Relaxed) } else { free_ports(ip) };
        let mut command = ground.command("turnutils_peer");
        command.args(["-L", &ip.to_string(), "-p", &port.to_string()]);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let echo = Self { ip, port, child: child.expect("turnutils_peer, from Debian's package coturn") };
        let start = Instant::now();
        while !echo.is_there() {
            assert!(start.elapsed() < Duration::from_secs(10), "turnutils_peer does not bind {ip}:{port}");
            thread::sleep(Duration::from_millis(10));
        }
        echo
    }

    /// Whether its port is bound, in its namespace.
    fn is_there(&self) -> bool {
        let port = format!(":{:04X} ", self.port);
        ["udp", "udp6"].into_iter().any(|table| {
            let table = format!("/proc/{}/net/{table}", self.child.id());
            // The column of local addresses comes first.
            fs::read_to_string(table).is_ok_and(|table| table.lines().any(|line| line.contains(&port)))
        })
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn output(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().expect("coturn's tools, from Debian's package coturn")
}

#[test]
fn coturns_clients_lose_nothing_over_udp() {
    run_all(Transport::Udp);
}

#[test]
fn coturns_clients_lose_nothing_over_tcp() {
    run_all(Transport::Tcp);
}

#[test]
fn coturns_clients_lose_nothing_over_tls() {
    run_all(Transport::Tls);
}

#[test]
fn coturns_stun_client_is_told_its_address() {
    let _alone = alone();
    let ground = Ground::new();
    let relay = Relay::start(&ground.server, |_| {});
    for family in 0..2 {
        let server = ground.server[family];
        let mut command = ground.command("turnutils_stunclient");
        let output = output(command.args(["-p", &relay.udp(server).port().to_string(), &server.to_string()]));
        let text = String::from_utf8_lossy(&output.stdout);
        let client = if ground.has_namespace() { ground.outside[family].unwrap() } else { server };
        assert!(text.contains(&format!("UDP reflexive addr: {client}:")), "{text}");
    }
}
