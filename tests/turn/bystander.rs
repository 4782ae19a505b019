//! Somebody who minds their own business meanwhile: two allocations that send to each other.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::client::Client;

/// From the arrival of one datagram to the sending of the next.
const PAUSE: Duration = Duration::from_millis(3);
/// A datagram that has not come by then is lost.
const LOST: Duration = Duration::from_secs(5);
/// Datagrams that are sent at least.
const LEAST: usize = 20;
const CHANNEL: u16 = 0x4000;

/// Runs until it is stopped.
pub(crate) struct Bystander {
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<Trips>,
}

/// What it has seen.
#[derive(Debug)]
pub(crate) struct Trips {
    pub(crate) lost: usize,
    /// Of those that came, from the shortest to the longest.
    times: Vec<Duration>,
}

impl Bystander {
    /// The two have their allocations when this returns.
    pub(crate) fn start(open: impl Fn() -> Client) -> Self {
        let mut ends = [open(), open()];
        let relayed = ends.each_mut().map(Client::allocate);
        ends[0].bind_to(CHANNEL, relayed[1]);
        ends[1].bind_to(CHANNEL, relayed[0]);
        let is_over = Arc::new(AtomicBool::new(false));
        let told = is_over.clone();
        Self { is_over, thread: thread::spawn(move || travel(&mut ends, &told)) }
    }

    /// Over UDP.
    pub(crate) fn over_udp(from: IpAddr, server: SocketAddr) -> Self {
        Self::start(|| Client::over_udp(from, server, "bystander"))
    }

    /// Over TCP.
    pub(crate) fn over_tcp(from: IpAddr, server: SocketAddr) -> Self {
        Self::start(|| Client::over_tcp(from, server, "bystander"))
    }

    pub(crate) fn stop(self) -> Trips {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

impl Trips {
    /// So many of a hundred took no longer.
    pub(crate) fn percentile(&self, percent: usize) -> Duration {
        self.times[(self.times.len() - 1) * percent / 100]
    }
}

fn travel(ends: &mut [Client; 2], is_over: &AtomicBool) -> Trips {
    let mut trips = Trips { lost: 0, times: Vec::new() };
    let mut number = 0_u32;
    while !is_over.load(Ordering::Relaxed) || trips.times.len() + trips.lost < LEAST {
        number += 1;
        let start = Instant::now();
        let is_sent = ends[0].send_by(CHANNEL, &number.to_be_bytes()).is_ok();
        match is_sent && arrives(&mut ends[1], number, start + LOST) {
            true => trips.times.push(start.elapsed()),
            false => trips.lost += 1,
        }
        thread::sleep(PAUSE);
    }
    trips.times.sort();
    trips
}

/// Whether this number comes in time; those before it are late.
fn arrives(end: &mut Client, number: u32, until: Instant) -> bool {
    while let Some(left) = until.checked_duration_since(Instant::now()) {
        match end.hear(left) {
            Some(message) if message[4..] == number.to_be_bytes() => return true,
            Some(_) => {}
            None => return false,
        }
    }
    false
}
