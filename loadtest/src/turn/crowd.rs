//! Pairs of ends on real sockets, all on one thread, that stay for several rounds of traffic.
//!
//! Every allocation has a socket of its own, because a TURN server tells allocations apart by address, and so has every peer
//! outside. Whoever wants to measure a server beside this program has one thread to reckon with.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    future::poll_fn,
    net::{IpAddr, SocketAddr, UdpSocket},
    rc::Rc,
    time::{Duration, Instant},
};

use tokio::{
    sync::Semaphore,
    task::{JoinSet, yield_now},
    time::{interval, sleep, timeout},
};

use super::{
    client::Credentials,
    end::{End, Shared},
    server::TurnServer,
    tally::{SENDERS, Tally},
};
use crate::{histogram::Histogram, run::limits};

/// Pairs that allocate at the same time.
const ALLOCATING: usize = 32;
/// Pairs that leave at the same time, and how long they take.
const LEAVING: usize = 32;
const LEAVE: Duration = Duration::from_millis(2);
/// How often requests are looked after, and channels.
const TICK: Duration = Duration::from_millis(250);
const CHANNEL: Duration = Duration::from_secs(60);

/// The pairs to be.
#[derive(Clone, Debug)]
pub struct Pairs {
    /// The TURN server.
    pub server: TurnServer,
    /// Whose allocations they are: taken in turn by the pairs, so that quotas of a user are no quotas of a load.
    pub credentials: Vec<Credentials>,
    /// How many, at most 8,192.
    pub count: u32,
    /// The other end of each.
    pub far: Far,
    /// Whether channels are bound; otherwise indications are sent.
    pub channels: bool,
    /// How long allocating may take.
    pub patience: Duration,
}

/// The end of a pair that is not the TURN client; the first always is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Far {
    /// A second allocation, so that each datagram passes the server twice.
    Relay,
    /// A plain UDP socket at this address, or at the one that this machine has towards the server.
    Outside(Option<IpAddr>),
}

/// What allocating has shown.
#[derive(Debug, Default)]
pub struct Opening {
    /// Why pairs could not be opened.
    pub failures: BTreeMap<String, u64>,
    /// From connecting until the relayed address was there.
    pub allocating: Histogram,
}

/// Pairs that are open. It lives in a [`tokio::task::LocalSet`].
pub struct Crowd {
    pub(super) pairs: Vec<Rc<RefCell<Pair>>>,
    pub(super) shared: Rc<Shared>,
    pub(super) rounds: u32,
    tasks: JoinSet<()>,
}

/// Two ends, and what is counted of what each sends.
pub(super) struct Pair {
    pub(super) ends: [End; 2],
    pub(super) tallies: [Option<Tally>; 2],
    /// Bytes of a datagram of this round.
    pub(super) size: usize,
    pub(super) failure: Option<String>,
}

impl Crowd {
    /// Opens pairs: those that can be opened in time are in it.
    ///
    /// # Errors
    /// If the system does not give what all of them need.
    pub async fn open(asked: &Pairs) -> Result<(Self, Opening), String> {
        limits::raise("pairs", asked.count.into())?;
        if asked.credentials.is_empty() {
            return Err("there are no credentials".to_owned());
        }
        let shared = Rc::new(Shared::new().map_err(|error| format!("a socket: {error}"))?);
        let asked = Rc::new(asked.clone());
        let gate = Rc::new(Semaphore::new(ALLOCATING));
        let (mut opened, mut opening) = (JoinSet::new(), Opening::default());
        for number in 0..asked.count.min(SENDERS / 2) {
            let (asked, shared, gate) = (asked.clone(), shared.clone(), gate.clone());
            opened.spawn_local(async move {
                let _turn = gate.acquire().await;
                let pair = timeout(asked.patience, Pair::open(&asked, number as usize, &shared)).await;
                pair.unwrap_or_else(|_| Err("not ready in time".to_owned()))
            });
        }
        let mut crowd = Self { pairs: Vec::new(), shared, rounds: 0, tasks: JoinSet::new() };
        while let Some(pair) = opened.join_next().await {
            match pair.unwrap_or_else(|error| Err(error.to_string())) {
                Ok((pair, times)) => {
                    times.into_iter().for_each(|time| opening.allocating.record(time));
                    crowd.pairs.push(Rc::new(RefCell::new(pair)));
                }
                Err(why) => *opening.failures.entry(why).or_default() += 1,
            }
        }
        crowd.begin();
        Ok((crowd, opening))
    }

    /// How many pairs there are.
    pub fn len(&self) -> usize {
        self.pairs.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// Gives all allocations back.
    pub async fn close(mut self) {
        for pairs in self.pairs.chunks(LEAVING) {
            for pair in pairs {
                pair.borrow_mut().ends.iter_mut().for_each(|end| end.leave(&self.shared));
            }
            // A server that is told by too many at once hears few of them.
            sleep(LEAVE).await;
        }
        self.tasks.shutdown().await;
    }

    /// Reads from now on, and keeps up what there is.
    fn begin(&mut self) {
        for pair in &self.pairs {
            for end in 0..2 {
                self.tasks.spawn_local(listen(pair.clone(), end, self.shared.clone()));
            }
        }
        self.tasks.spawn_local(keep(self.pairs.clone(), self.shared.clone()));
    }
}

impl Pair {
    /// Both ends, each of which has the other's leave, and the times that allocating took.
    async fn open(asked: &Pairs, number: usize, shared: &Shared) -> Result<(Self, Vec<Duration>), String> {
        let credentials = &asked.credentials[number % asked.credentials.len()];
        let allocate = || End::allocate(shared, &asked.server, credentials.clone());
        let (mut near, took) = allocate().await?;
        let mut times = vec![took];
        let mut far = match asked.far {
            Far::Relay => {
                let (end, took) = allocate().await?;
                times.push(took);
                end
            }
            Far::Outside(address) => End::outside(address.map_or_else(|| own(asked.server.address()), Ok)?)?,
        };
        near.meet(shared, far.address(), asked.channels).await?;
        far.meet(shared, near.address(), asked.channels).await?;
        Ok((Self { ends: [near, far], tallies: [None, None], size: 0, failure: None }, times))
    }

    /// Sends a burst from one end to the other.
    pub(super) fn send(
        &mut self,
        from: usize,
        shared: &Shared,
        memory: &mut Vec<u8>,
        (burst, scheduled): (u32, Duration),
    ) {
        let Some(tally) = &mut self.tallies[from] else { return };
        let fill = |payload: &mut [u8]| tally.send(scheduled).fill(payload);
        let sent = self.ends[from].send(shared, memory, (burst, self.size), fill);
        self.note(sent);
    }

    fn note(&mut self, done: Result<(), String>) -> bool {
        if let Err(why) = done {
            self.failure.get_or_insert(why);
        }
        self.failure.is_none()
    }
}

/// The address that this machine has towards another.
fn own(server: SocketAddr) -> Result<IpAddr, String> {
    let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    // Connecting a UDP socket sends nothing; it asks the routing table.
    let probe =
        UdpSocket::bind(any).and_then(|socket| socket.connect(server).and_then(|()| socket.local_addr()));
    probe.map(|address| address.ip()).map_err(|error| format!("no way to {server}: {error}"))
}

/// Counts what comes to one end of a pair, until it fails.
async fn listen(pair: Rc<RefCell<Pair>>, end: usize, shared: Rc<Shared>) {
    loop {
        let read = poll_fn(|cx| {
            let Pair { ends, tallies, size, .. } = &mut *pair.borrow_mut();
            let mut tally = tallies[1 - end].as_mut();
            let before = tally.as_ref().map_or(0, |tally| tally.received);
            let read = ends[end].poll(&shared, cx, |payload| {
                if let Some(tally) = &mut tally {
                    tally.receive(payload, *size);
                }
            });
            let more = tally.map_or(0, |tally| tally.received) - before;
            shared.arrived.set(shared.arrived.get() + more);
            read
        });
        let read = read.await;
        if !pair.borrow_mut().note(read) {
            return;
        }
    }
}

/// Repeats requests, refreshes allocations, permissions and channels.
async fn keep(pairs: Vec<Rc<RefCell<Pair>>>, shared: Rc<Shared>) {
    let (mut ticks, mut channels) = (interval(TICK), Instant::now());
    loop {
        ticks.tick().await;
        let now = Instant::now();
        let is_time_for_channels = now >= channels + CHANNEL;
        for pair in &pairs {
            let pair = &mut *pair.borrow_mut();
            for end in 0..2 {
                if is_time_for_channels && pair.ends[end].has_channel() {
                    pair.ends[end].keep_channel(now);
                }
                let kept = pair.ends[end].handle_timeout(&shared, now);
                pair.note(kept);
            }
        }
        if is_time_for_channels {
            channels = now;
            // Others have a turn, however many there are.
            yield_now().await;
        }
    }
}
