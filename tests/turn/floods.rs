//! Clients that take much, give nothing or never end: they get what is theirs, and a bystander notices nothing.

use std::{
    io::{self, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    process::Command,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use switchyard_loadtest::observe::process::usage;
use switchyard_turn_config::stun::{Builder, Class, method};

use crate::{
    alone,
    bystander::{Bystander, Trips},
    client::{Client, connect, is_closed_within},
    relay::Relay,
};

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// Where the bystander is: attackers are in other networks, as each network has its own share of the doors.
const BYSTANDER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 9, 0, 1));
const CHANNEL: u16 = 0x4000;
const USER_QUOTA: &str = "switchyard_turn_refusals_total{reason=\"user_quota\"}";
const MEGABYTE: u64 = 1 << 20;
/// How long who does not go on is waited for, at a door and within, with a second for the look at them and one for the
/// machine.
const CUT: Duration = Duration::from_secs(12);

/// Resident memory of this process: the server, and those here.
fn memory() -> u64 {
    usage(std::process::id()).unwrap().rss_bytes
}

/// Nothing was lost, and what is quick for nine of ten is what it was, as far as a busy machine shows.
fn expect_undisturbed(before: &[Trips; 2], meanwhile: &[Trips; 2]) {
    for (what, (before, meanwhile)) in ["UDP", "TCP"].into_iter().zip(before.iter().zip(meanwhile)) {
        let [quick, slow] = [before, meanwhile].map(|trips| trips.percentile(90));
        println!("{what}: nine of ten within {quick:?} before, {slow:?} meanwhile");
        assert_eq!(meanwhile.lost, 0, "{what}");
        let most = 3 * quick + Duration::from_millis(20);
        assert!(slow <= most, "{what}: nine of ten within {slow:?}, not {most:?}");
    }
}

/// Bystanders over UDP and TCP.
fn bystanders(relay: &Relay) -> [Bystander; 2] {
    [Bystander::over_udp(BYSTANDER, relay.udp(HERE)), Bystander::over_tcp(BYSTANDER, relay.tcp(HERE))]
}

/// What they see when nothing happens.
fn quiet(relay: &Relay) -> [Trips; 2] {
    let bystanders = bystanders(relay);
    thread::sleep(Duration::from_secs(1));
    bystanders.map(Bystander::stop)
}

/// File descriptors for both ends of so many connections.
fn allow_files(count: u32) {
    let process = std::process::id().to_string();
    let status = Command::new("prlimit").args(["--pid", &process, &format!("--nofile={count}:")]).status();
    assert!(status.is_ok_and(|status| status.success()), "{count} file descriptors cannot be had");
}

#[test]
fn clients_that_drip_or_never_read_harm_nobody() {
    let _alone = alone();
    let relay = Relay::start(&[HERE], |turn| {
        turn.quotas.bytes_per_second = 0;
        turn.quotas.allocations_per_user = 1000;
    });
    let before = quiet(&relay);
    let bystanders = bystanders(&relay);
    let used = memory();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| drip(relay.tcp(HERE)));
        }
        for _ in 0..20 {
            scope.spawn(|| flood_who_never_reads(&relay, &is_over));
        }
        thread::sleep(CUT);
        is_over.store(true, Ordering::Relaxed);
        let meanwhile = bystanders.map(Bystander::stop);
        expect_undisturbed(&before, &meanwhile);
    });
    let dropped = relay.counted("switchyard_turn_drops_total{reason=\"slow_client\"}");
    assert!(dropped > 1000, "{dropped} datagrams were dropped for who does not read");
    let more = memory().saturating_sub(used) / MEGABYTE;
    println!("{dropped} dropped, {more} MB more");
    assert!(more < 40, "{more} MB for forty slow clients");
}

/// A request that comes a byte at a time and never ends, until the server has had enough.
fn drip(server: SocketAddr) {
    let builder = Builder::new(Class::Request, method::BINDING, &[7; 12]);
    let request = builder.attribute(0xc001, &[0; 1000]).finish(false);
    let mut stream = connect(HERE, server).unwrap();
    stream.set_nodelay(true).unwrap();
    let start = Instant::now();
    let is_cut = request.iter().any(|byte| {
        let is_cut =
            stream.write_all(&[*byte]).is_err() || is_closed_within(&mut stream, Duration::from_millis(50));
        is_cut || start.elapsed() > 2 * CUT
    });
    let cut = start.elapsed();
    assert!(
        is_cut && cut > Duration::from_secs(9) && cut < CUT + Duration::from_secs(3),
        "cut after {cut:?}"
    );
}

/// An allocation over TCP whose client stops reading, and another one that sends to it.
fn flood_who_never_reads(relay: &Relay, is_over: &AtomicBool) {
    let mut silent = Client::over_tcp(HERE, relay.tcp(HERE), "silent");
    let mut sender = Client::over_udp(HERE, relay.udp(HERE), "sender");
    let (its, senders) = (silent.allocate(), sender.allocate());
    silent.bind_to(CHANNEL, senders);
    sender.bind_to(CHANNEL, its);
    while !is_over.load(Ordering::Relaxed) {
        for _ in 0..10 {
            // A full buffer of the sender's own is as good as a lost datagram.
            let _ = sender.send_by(CHANNEL, &[7; 1200]);
        }
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn connections_that_say_nothing_are_let_go_and_leave_room_for_others() {
    const NETWORKS: u8 = 10;
    // Fewer than there are places at all, so that it is its own network that the crowd fills.
    const OF_EACH: usize = 150;
    let _alone = alone();
    allow_files(8192);
    let relay = Relay::start(&[HERE], |_| {});
    let before = quiet(&relay);
    let bystanders = bystanders(&relay);
    let used = memory();
    let open =
        |network: u8, server: SocketAddr| connect(Ipv4Addr::new(127, 8, network, 1).into(), server).unwrap();
    let mut silent: Vec<TcpStream> = Vec::new();
    for network in 0..NETWORKS {
        let server = if network % 2 == 0 { relay.tcp(HERE) } else { relay.tls(HERE) };
        silent.extend((0..OF_EACH).map(|_| open(network, server)));
    }
    // From one network there may not be so many at a time.
    let crowd: Vec<TcpStream> = (0..400).map(|_| open(100, relay.tcp(HERE))).collect();
    let began = Instant::now();
    let is_closed = |stream: &TcpStream| {
        stream.set_nonblocking(true).unwrap();
        !matches!(stream.peek(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    };
    let crowded = || crowd.iter().filter(|stream| is_closed(stream)).count();
    while crowded() < 144 && began.elapsed() < Duration::from_secs(5) {
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(crowded(), 144, "256 of 400 have found a place");
    assert!(!silent.iter().any(is_closed), "the others wait");

    let mut newcomer = Client::over_tcp(BYSTANDER, relay.tcp(HERE), "newcomer");
    newcomer.allocate();
    let more = memory().saturating_sub(used) / MEGABYTE;
    println!("{more} MB for {} connections", silent.len() + 256);
    assert!(more < 60, "{more} MB");
    for stream in &mut silent {
        stream.set_nonblocking(false).unwrap();
        let left = (CUT + Duration::from_secs(3)).saturating_sub(began.elapsed());
        assert!(is_closed_within(stream, left), "a connection that says nothing is still there");
    }
    let meanwhile = bystanders.map(Bystander::stop);
    expect_undisturbed(&before, &meanwhile);
}

#[test]
fn a_hundred_thousand_allocations_of_one_user_are_twelve() {
    const SOCKETS: u32 = 50;
    const EACH: u32 = 2000;
    let _alone = alone();
    let relay = Relay::start(&[HERE], |_| {});
    let before = quiet(&relay);
    let bystanders = bystanders(&relay);
    let used = memory();
    let (made, refused) = (AtomicU32::new(0), AtomicU32::new(0));
    let began = Instant::now();
    thread::scope(|scope| {
        for _ in 0..SOCKETS {
            scope.spawn(|| {
                let mut client = Client::over_udp(HERE, relay.udp(HERE), "mallory");
                for _ in 0..EACH {
                    match client.try_allocate(false).code() {
                        200 => made.fetch_add(1, Ordering::Relaxed),
                        // It has one at this address.
                        437 => 0,
                        486 => refused.fetch_add(1, Ordering::Relaxed),
                        code => panic!("{code}"),
                    };
                }
            });
        }
    });
    let took = began.elapsed();
    let meanwhile = bystanders.map(Bystander::stop);
    let more = memory().saturating_sub(used) / MEGABYTE;
    println!("{took:?}, {more} MB more");
    let refusals = (SOCKETS - 12) * EACH;
    assert_eq!((made.into_inner(), refused.into_inner()), (12, refusals));
    assert!(relay.counted_at_last(USER_QUOTA, refusals.into()) >= refusals.into());
    assert!(more < 10, "{more} MB");
    expect_undisturbed(&before, &meanwhile);
}
