//! One round of traffic between the pairs of a [`Crowd`]: who sends, how much, when, and what of it arrived.
//!
//! Latency counts from the time a datagram was due, so a sender that falls behind shows.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    rc::Rc,
    time::{Duration, Instant},
};

use tokio::{
    sync::watch,
    task::yield_now,
    time::{sleep, sleep_until},
};

use super::{
    crowd::{Crowd, Pair},
    run::until_true,
    tally::{SENDERS, Tally},
};
use crate::{account::STAMP_BYTES, histogram::Histogram};

/// What is sent.
#[derive(Clone, Debug)]
pub struct Traffic {
    /// From which end of each pair to which.
    pub direction: Direction,
    /// Bytes of each datagram, at least [`STAMP_BYTES`].
    pub size: usize,
    /// Datagrams that are sent back to back, at least one.
    pub burst: u32,
    /// How fast.
    pub pace: Pace,
    /// How long is sent.
    pub duration: Duration,
    /// When all has arrived, how long second copies are waited for.
    pub grace: Duration,
}

/// Who sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The TURN client; the first of two.
    ToPeer,
    /// Its peer.
    ToClient,
    /// Each.
    Both,
}

/// How fast is sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// So many datagrams a second from each end that sends, whatever has arrived. Pairs take turns, evenly in time.
    Rate {
        /// Datagrams a second.
        rate: f64,
        /// Whether the thread never sleeps: it then sends within microseconds of when it was due and takes a core.
        /// Otherwise it is up to a millisecond late, as tokio's timers are.
        is_precise: bool,
    },
    /// As fast as datagrams arrive: so many of all pairs together are on their way, at least a burst. Pairs take turns.
    /// The thread never sleeps.
    Window(u32),
}

/// What a round has shown.
#[derive(Debug, Default)]
pub struct Round {
    /// Why pairs could not go on.
    pub failures: BTreeMap<String, u64>,
    /// Datagrams given to the kernel.
    pub sent: u64,
    /// Datagrams that arrived at the other end of their pair, each counted once.
    pub received: u64,
    /// Second copies.
    pub doubled: u64,
    /// Datagrams with other contents.
    pub altered: u64,
    /// From due until received.
    pub latency: Histogram,
    /// How late each burst was sent.
    pub late: Histogram,
    /// How long was sent.
    pub sending: Duration,
}

/// What has not come so long after the last was sent will not come.
const DRAIN: Duration = Duration::from_secs(2);
/// Bursts that are sent before others have a turn.
const BATCH: u32 = 16;
/// With nothing arriving for so long, what is on its way has been lost.
const LOST: Duration = Duration::from_millis(50);

/// One end that sends.
type Lane = (Rc<RefCell<Pair>>, usize);

impl Direction {
    fn senders(self) -> std::ops::Range<usize> {
        match self {
            Self::ToPeer => 0..1,
            Self::ToClient => 1..2,
            Self::Both => 0..2,
        }
    }
}

impl Round {
    /// Datagrams that did not arrive.
    pub fn lost(&self) -> u64 {
        self.sent.saturating_sub(self.received)
    }
}

impl Crowd {
    /// Runs a round until its end, or until `interrupted` becomes true.
    pub async fn carry(&mut self, traffic: &Traffic, interrupted: &mut watch::Receiver<bool>) -> Round {
        self.rounds += 1;
        let start = Instant::now();
        let mut lanes: Vec<Lane> = Vec::new();
        for pair in self.pairs.iter().filter(|pair| pair.borrow().failure.is_none()) {
            let mut open = pair.borrow_mut();
            (open.size, open.tallies) = (traffic.size.max(STAMP_BYTES), [None, None]);
            for from in traffic.direction.senders() {
                let sender = self.rounds.wrapping_mul(SENDERS) + lanes.len() as u32;
                open.tallies[from] = Some(Tally::new(start, sender));
                lanes.push((pair.clone(), from));
            }
        }
        let mut round = Round::default();
        let mut sender = Sender { crowd: self, traffic, start, lanes, memory: Vec::new(), bursts: 0 };
        if !sender.lanes.is_empty() {
            let sending = async {
                match traffic.pace {
                    Pace::Rate { rate, is_precise } => {
                        sender.by_rate(rate, is_precise, &mut round.late).await
                    }
                    Pace::Window(window) => sender.by_window(window).await,
                }
            };
            tokio::select! {
                () = sending => {}
                () = until_true(interrupted) => {}
            }
            round.sending = start.elapsed().min(traffic.duration);
            sender.drain(traffic.grace).await;
        }
        self.collect(&mut round);
        round
    }

    fn collect(&self, round: &mut Round) {
        for pair in &self.pairs {
            let pair = &mut *pair.borrow_mut();
            for tally in pair.tallies.iter_mut().filter_map(Option::take) {
                round.sent += tally.sent;
                round.received += tally.received;
                round.doubled += tally.doubled;
                round.altered += tally.altered;
                round.latency.merge(&tally.latency);
            }
            if let Some(why) = &pair.failure {
                *round.failures.entry(why.clone()).or_default() += 1;
            }
        }
    }
}

/// The sending half of a round.
struct Sender<'a> {
    crowd: &'a Crowd,
    traffic: &'a Traffic,
    start: Instant,
    lanes: Vec<Lane>,
    memory: Vec<u8>,
    bursts: u64,
}

impl Sender<'_> {
    /// Sends each burst when it is due.
    async fn by_rate(&mut self, rate: f64, is_precise: bool, late: &mut Histogram) {
        let step = f64::from(self.traffic.burst) / (rate * self.lanes.len() as f64);
        let mut at_once = 0;
        loop {
            let scheduled = Duration::from_secs_f64(step * self.bursts as f64);
            if scheduled >= self.traffic.duration {
                return;
            }
            let (now, due) = (Instant::now(), self.start + scheduled);
            if due <= now && at_once < BATCH {
                at_once += 1;
                late.record(now - due);
                self.send(scheduled);
                continue;
            }
            at_once = 0;
            if is_precise || due <= now {
                yield_now().await;
            } else {
                sleep_until(due.into()).await;
            }
        }
    }

    /// Sends a burst whenever there is room for it.
    async fn by_window(&mut self, window: u32) {
        let burst = u64::from(self.traffic.burst);
        let window = u64::from(window).max(burst);
        let arrived_before = self.crowd.shared.arrived.get();
        let (mut sent, mut lost, mut arrived, mut last) = (0, 0, 0, self.start);
        loop {
            let now = Instant::now();
            if now >= self.start + self.traffic.duration {
                return;
            }
            let more = self.crowd.shared.arrived.get() - arrived_before;
            if more != arrived {
                (arrived, last) = (more, now);
            } else if now > last + LOST {
                (lost, last) = (sent - arrived, now);
            }
            // What was given up and comes after all makes room for nothing.
            while sent + burst <= (arrived + lost).min(sent) + window {
                self.send(now - self.start);
                sent += burst;
            }
            yield_now().await;
        }
    }

    /// The next burst, of the lane whose turn it is.
    fn send(&mut self, scheduled: Duration) {
        let (pair, from) = &self.lanes[(self.bursts % self.lanes.len() as u64) as usize];
        self.bursts += 1;
        let burst = (self.traffic.burst, scheduled);
        pair.borrow_mut().send(*from, &self.crowd.shared, &mut self.memory, burst);
    }

    /// Waits for what is on its way.
    async fn drain(&self, grace: Duration) {
        let until = Instant::now() + DRAIN;
        let is_missing = |(pair, from): &Lane| {
            pair.borrow().tallies[*from].as_ref().is_some_and(|tally| tally.received < tally.sent)
        };
        while self.lanes.iter().any(is_missing) && Instant::now() < until {
            sleep(Duration::from_millis(1)).await;
        }
        sleep(grace).await;
    }
}
