//! A network as a pure function of its seed.
//!
//! A [`Link`] is one direction of a path: delay, jitter, loss, duplication, a rate with a bounded drop-tail queue,
//! and times at which nothing passes. A [`Network`] joins hosts, each behind one link up and one link down, and
//! delivers their datagrams.
//!
//! Nothing here reads a clock, opens a socket or starts a thread: `now` is an argument, and only the seed decides.
//! Each impairment draws from a random stream of its own, so that adding jitter to a network does not change which
//! packets it loses.
//!
//! The calling order is `send`, then `poll` until it gives nothing, then wait until `poll_timeout`. `now` must not
//! run backwards.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BinaryHeap, VecDeque},
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;

use crate::rng::Rng;

/// What a link does to packets. The default does nothing at all to them.
#[derive(Clone, Debug, Default)]
pub struct LinkConfig {
    /// The least time that a packet needs.
    pub delay: Duration,
    /// Up to this much is added to the delay, evenly distributed.
    pub jitter: Duration,
    /// Whether jitter may let a packet overtake another. If not, packets bunch up behind a late one.
    pub reorder: bool,
    /// The probability that a packet is lost, 0 to 1.
    pub loss: f64,
    /// The probability that a packet arrives twice, 0 to 1.
    pub duplicate: f64,
    /// The bottleneck, if there is one.
    pub rate: Option<RateLimit>,
}

/// A token bucket with a bounded drop-tail queue before it.
#[derive(Clone, Copy, Debug)]
pub struct RateLimit {
    /// The long-run rate.
    pub bits_per_second: u64,
    /// What may pass at once after a pause.
    pub burst_bytes: usize,
    /// What may wait; a packet that does not fit is dropped.
    pub queue_bytes: usize,
}

/// Why a packet that entered a link did or did not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It will arrive at this time.
    Arrives(Instant),
    /// It will arrive at these two times.
    ArrivesTwice(Instant, Instant),
    /// Chance took it.
    Lost,
    /// The queue before the bottleneck was full.
    QueueFull,
    /// The link was down.
    Down,
}

/// What a link has done so far, in packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkStats {
    /// Packets that entered.
    pub sent: u64,
    /// Packets that came out, second copies included.
    pub delivered: u64,
    /// Packets lost by chance.
    pub lost: u64,
    /// Packets dropped before the bottleneck.
    pub queue_full: u64,
    /// Packets that entered while the link was down.
    pub down: u64,
    /// Second copies made.
    pub duplicated: u64,
}

/// One direction of a path, for packets that carry a `P`.
#[derive(Debug)]
pub struct Link<P> {
    config: LinkConfig,
    loss: Rng,
    jitter: Rng,
    duplicate: Rng,
    /// Orders packets that arrive at the same instant.
    entered: u64,
    in_flight: BinaryHeap<InFlight<P>>,
    /// The latest arrival so far: the floor of the next one on a link that keeps order.
    last_arrival: Option<Instant>,
    /// When the bottleneck would have passed everything so far, without its burst.
    busy_until: Option<Instant>,
    /// What waits before the bottleneck: when each packet leaves it, and its size.
    queue: VecDeque<(Instant, usize)>,
    queued_bytes: usize,
    outages: Vec<(Instant, Instant)>,
    stats: LinkStats,
}

impl<P: Clone> Link<P> {
    /// A link that behaves as configured, with chance decided by the seed.
    pub fn new(config: LinkConfig, seed: u64) -> Self {
        Self {
            config,
            loss: Rng::stream(seed, 1),
            jitter: Rng::stream(seed, 2),
            duplicate: Rng::stream(seed, 3),
            entered: 0,
            in_flight: BinaryHeap::new(),
            last_arrival: None,
            busy_until: None,
            queue: VecDeque::new(),
            queued_bytes: 0,
            outages: Vec::new(),
            stats: LinkStats::default(),
        }
    }

    /// Another behaviour for the packets sent from now on. What is in flight arrives as it would have.
    pub fn set_config(&mut self, config: LinkConfig) {
        self.config = config;
    }

    /// What enters the link from `from` until just before `until` is lost. What is in flight by then arrives.
    pub fn take_down(&mut self, from: Instant, until: Instant) {
        self.outages.push((from, until));
    }

    /// A packet of `size` bytes enters the link.
    pub fn send(&mut self, now: Instant, size: usize, packet: P) -> Fate {
        // Every packet draws as often, whatever becomes of it: one impairment must not shift another's chances.
        let lost = self.loss.chance(self.config.loss);
        let twice = self.duplicate.chance(self.config.duplicate);
        let first_jitter = self.draw_jitter();
        let second_jitter = self.draw_jitter();

        self.stats.sent += 1;
        self.outages.retain(|&(_, until)| until > now);
        if self.outages.iter().any(|&(from, _)| from <= now) {
            self.stats.down += 1;
            return Fate::Down;
        }
        let Some(departure) = self.pass_bottleneck(now, size) else {
            self.stats.queue_full += 1;
            return Fate::QueueFull;
        };
        // Lost after the bottleneck: a packet that chance takes has used the rate, as it does on a radio link.
        if lost {
            self.stats.lost += 1;
            return Fate::Lost;
        }
        let first = self.launch(departure + self.config.delay + first_jitter, packet.clone());
        if !twice {
            return Fate::Arrives(first);
        }
        self.stats.duplicated += 1;
        let second = self.launch(departure + self.config.delay + second_jitter, packet);
        Fate::ArrivesTwice(first, second)
    }

    /// The next packet that has arrived by now.
    pub fn poll(&mut self, now: Instant) -> Option<P> {
        if self.in_flight.peek()?.arrival > now {
            return None;
        }
        self.stats.delivered += 1;
        self.in_flight.pop().map(|arrived| arrived.packet)
    }

    /// When the next packet arrives.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.in_flight.peek().map(|next| next.arrival)
    }

    /// What has become of the packets so far.
    pub fn stats(&self) -> LinkStats {
        self.stats
    }

    /// Bytes that wait before the bottleneck.
    pub fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    fn draw_jitter(&mut self) -> Duration {
        let nanos = u64::try_from(self.config.jitter.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.jitter.below(nanos.saturating_add(1)))
    }

    /// When the packet leaves the bottleneck; `None` if the queue before it is full.
    fn pass_bottleneck(&mut self, now: Instant, size: usize) -> Option<Instant> {
        let Some(limit) = self.config.rate else {
            return Some(now);
        };
        while let Some(&(departure, waiting)) = self.queue.front()
            && departure <= now
        {
            self.queued_bytes -= waiting;
            self.queue.pop_front();
        }
        let start = self.busy_until.map_or(now, |busy| busy.max(now));
        let done = start + limit.time_for(size);
        let departure = done.checked_sub(limit.time_for(limit.burst_bytes)).map_or(now, |at| at.max(now));
        if departure > now {
            if self.queued_bytes + size > limit.queue_bytes {
                return None;
            }
            self.queued_bytes += size;
            self.queue.push_back((departure, size));
        }
        self.busy_until = Some(done);
        Some(departure)
    }

    fn launch(&mut self, arrival: Instant, packet: P) -> Instant {
        let arrival = match self.last_arrival {
            Some(last) if !self.config.reorder => arrival.max(last),
            _ => arrival,
        };
        self.last_arrival = self.last_arrival.max(Some(arrival));
        self.entered += 1;
        self.in_flight.push(InFlight { arrival, number: self.entered, packet });
        arrival
    }
}

impl RateLimit {
    fn time_for(&self, bytes: usize) -> Duration {
        let nanos = bytes as u128 * 8 * 1_000_000_000 / u128::from(self.bits_per_second.max(1));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

/// A UDP datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// The address it was sent from.
    pub from: SocketAddr,
    /// The address it is sent to.
    pub to: SocketAddr,
    /// What it carries.
    pub payload: Bytes,
}

/// Names a host of a [`Network`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostId(usize);

/// Hosts that exchange datagrams, each behind a link up and a link down of its own.
#[derive(Debug)]
pub struct Network {
    seed: u64,
    hosts: Vec<Host>,
    addresses: BTreeMap<SocketAddr, HostId>,
}

#[derive(Debug)]
struct Host {
    up: Link<Datagram>,
    down: Link<Datagram>,
}

/// IPv4 and UDP headers, counted against a link's rate.
const HEADER_BYTES: usize = 28;

impl Network {
    /// A network without hosts.
    pub fn new(seed: u64) -> Self {
        Self { seed, hosts: Vec::new(), addresses: BTreeMap::new() }
    }

    /// A new host, without an address yet, behind these links.
    pub fn add_host(&mut self, up: LinkConfig, down: LinkConfig) -> HostId {
        let number = self.hosts.len() as u64;
        self.hosts.push(Host {
            up: Link::new(up, Rng::stream(self.seed, 2 * number).next_u64()),
            down: Link::new(down, Rng::stream(self.seed, 2 * number + 1).next_u64()),
        });
        HostId(self.hosts.len() - 1)
    }

    /// The host receives what is sent to this address from now on. A host may have several.
    pub fn bind(&mut self, host: HostId, address: SocketAddr) {
        self.addresses.insert(address, host);
    }

    /// Nobody receives what is sent to this address any more, not even what is under way to it.
    pub fn unbind(&mut self, address: SocketAddr) {
        self.addresses.remove(&address);
    }

    /// The host moves from one address to another, as from Wi-Fi to mobile.
    pub fn readdress(&mut self, host: HostId, old: SocketAddr, new: SocketAddr) {
        self.unbind(old);
        self.bind(host, new);
    }

    /// The link from this host into the network.
    pub fn up(&mut self, host: HostId) -> &mut Link<Datagram> {
        &mut self.hosts[host.0].up
    }

    /// The link from the network to this host.
    pub fn down(&mut self, host: HostId) -> &mut Link<Datagram> {
        &mut self.hosts[host.0].down
    }

    /// Both links of the host are down for this time.
    pub fn take_down(&mut self, host: HostId, from: Instant, until: Instant) {
        self.up(host).take_down(from, until);
        self.down(host).take_down(from, until);
    }

    /// A datagram leaves the host that has the address `datagram.from`; from any other address it vanishes.
    pub fn send(&mut self, now: Instant, datagram: Datagram) {
        if let Some(&sender) = self.addresses.get(&datagram.from) {
            self.hosts[sender.0].up.send(now, datagram.payload.len() + HEADER_BYTES, datagram);
        }
    }

    /// The next datagram that has arrived by now, and whose it is.
    pub fn poll(&mut self, now: Instant) -> Option<(HostId, Datagram)> {
        loop {
            let (at, host, direction) = self.next_arrival()?;
            if at > now {
                return None;
            }
            match direction {
                // It entered the second link when it left the first, however late somebody looks.
                Direction::Up => {
                    let Some(datagram) = self.hosts[host.0].up.poll(at) else {
                        continue;
                    };
                    if let Some(&receiver) = self.addresses.get(&datagram.to) {
                        let size = datagram.payload.len() + HEADER_BYTES;
                        self.hosts[receiver.0].down.send(at, size, datagram);
                    }
                }
                Direction::Down => {
                    let Some(datagram) = self.hosts[host.0].down.poll(at) else {
                        continue;
                    };
                    if self.addresses.get(&datagram.to) == Some(&host) {
                        return Some((host, datagram));
                    }
                }
            }
        }
    }

    /// When something next moves.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.next_arrival().map(|(at, _, _)| at)
    }

    /// What moves next. Arrivals into the network come before arrivals from it at the same instant, so that a
    /// path without delay is passed in one call of `poll`.
    fn next_arrival(&self) -> Option<(Instant, HostId, Direction)> {
        self.hosts
            .iter()
            .enumerate()
            .flat_map(|(number, host)| {
                let up = host.up.poll_timeout().map(|at| (at, Direction::Up, number));
                let down = host.down.poll_timeout().map(|at| (at, Direction::Down, number));
                [up, down].into_iter().flatten()
            })
            .min()
            .map(|(at, direction, number)| (at, HostId(number), direction))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Direction {
    Up,
    Down,
}

#[derive(Debug)]
struct InFlight<P> {
    arrival: Instant,
    number: u64,
    packet: P,
}

impl<P> Ord for InFlight<P> {
    /// The earliest is the greatest: `BinaryHeap` gives the greatest first.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.arrival, other.number).cmp(&(self.arrival, self.number))
    }
}

impl<P> PartialOrd for InFlight<P> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<P> PartialEq for InFlight<P> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<P> Eq for InFlight<P> {}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Sends `count` packets of 1,000 B, one each `gap`, and gives (sent, arrived, number) in order of arrival.
    fn run(config: LinkConfig, seed: u64, count: u32, gap: Duration) -> Vec<(Duration, Duration, u32)> {
        let start = Instant::now();
        let mut link = Link::new(config, seed);
        let mut arrivals = Vec::new();
        for number in 0..count {
            let now = start + gap * number;
            link.send(now, 1_000, (gap * number, number));
        }
        while let Some(at) = link.poll_timeout() {
            let (sent, number) = link.poll(at).unwrap();
            arrivals.push((sent, at - start, number));
        }
        arrivals
    }

    #[test]
    fn a_link_without_impairments_delivers_at_once() {
        let arrivals = run(LinkConfig::default(), 1, 10, MS);
        assert_eq!(arrivals.len(), 10);
        assert!(arrivals.iter().all(|(sent, arrived, _)| sent == arrived));
    }

    #[test]
    fn as_many_packets_are_lost_and_doubled_as_configured() {
        for seed in 0..5 {
            let arrivals = run(LinkConfig { loss: 0.05, ..Default::default() }, seed, 100_000, MS);
            assert!((94_700..95_300).contains(&arrivals.len()), "seed {seed}: {}", arrivals.len());
            let arrivals = run(LinkConfig { duplicate: 0.05, ..Default::default() }, seed, 100_000, MS);
            assert!((104_700..105_300).contains(&arrivals.len()), "seed {seed}: {}", arrivals.len());
        }
    }

    #[test]
    fn delays_are_spread_evenly_between_the_delay_and_the_delay_with_jitter() {
        let config = LinkConfig { delay: 50 * MS, jitter: 20 * MS, reorder: true, ..Default::default() };
        let delays: Vec<Duration> =
            run(config, 4, 100_000, MS).iter().map(|(sent, arrived, _)| *arrived - *sent).collect();
        assert!(delays.iter().all(|&delay| (50 * MS..=70 * MS).contains(&delay)));
        for quarter in 0..4 {
            let (low, high) = (50 * MS + quarter * 5 * MS, 55 * MS + quarter * 5 * MS);
            let share = delays.iter().filter(|&&delay| (low..high).contains(&delay)).count();
            assert!((24_500..25_500).contains(&share), "{low:?}: {share}");
        }
    }

    #[test]
    fn jitter_reorders_only_if_it_may() {
        let config = LinkConfig { delay: 10 * MS, jitter: 30 * MS, ..Default::default() };
        let in_order = run(config.clone(), 9, 10_000, MS);
        assert!(in_order.is_sorted_by_key(|(_, _, number)| *number));
        let reordered = run(LinkConfig { reorder: true, ..config }, 9, 10_000, MS);
        assert!(!reordered.is_sorted_by_key(|(_, _, number)| *number));
    }

    #[test]
    fn a_bottleneck_passes_its_rate_within_one_percent() {
        // 1,000 B each ms are 8 Mbit/s; half of it passes.
        let rate = RateLimit { bits_per_second: 4_000_000, burst_bytes: 3_000, queue_bytes: 50_000 };
        let arrivals = run(LinkConfig { rate: Some(rate), ..Default::default() }, 2, 20_000, MS);
        let last = arrivals.last().unwrap().1;
        let bits = arrivals.len() as f64 * 8_000.0 / last.as_secs_f64();
        assert!((3_960_000.0..4_040_000.0).contains(&bits), "{bits}");
    }

    #[test]
    fn a_full_queue_drops_and_delays_no_longer_than_it_holds() {
        let start = Instant::now();
        let rate = RateLimit { bits_per_second: 8_000_000, burst_bytes: 0, queue_bytes: 10_000 };
        let mut link = Link::new(LinkConfig { rate: Some(rate), ..Default::default() }, 1);
        let fates: Vec<Fate> = (0..20).map(|number| link.send(start, 1_000, number)).collect();
        assert!(fates[..10].iter().all(|fate| matches!(fate, Fate::Arrives(_))));
        assert!(fates[10..].iter().all(|fate| *fate == Fate::QueueFull));
        assert_eq!(fates[9], Fate::Arrives(start + 10 * MS));
        assert_eq!(link.queued_bytes(), 10_000);
        assert_eq!(link.send(start + 5 * MS, 1_000, 20), Fate::Arrives(start + 11 * MS));
        assert_eq!(link.stats().queue_full, 10);
    }

    #[test]
    fn a_burst_passes_at_once_after_a_pause() {
        let start = Instant::now();
        let rate = RateLimit { bits_per_second: 8_000_000, burst_bytes: 3_000, queue_bytes: 10_000 };
        let mut link = Link::new(LinkConfig { rate: Some(rate), ..Default::default() }, 1);
        let mut burst = |now| (0..4).map(|_| link.send(now, 1_000, ())).collect::<Vec<_>>();
        let at_once = |now| Fate::Arrives(now);
        assert_eq!(burst(start), [at_once(start), at_once(start), at_once(start), at_once(start + MS)]);
        let later = start + 100 * MS;
        assert_eq!(burst(later)[..3], [at_once(later), at_once(later), at_once(later)]);
    }

    #[test]
    fn the_same_seed_gives_the_same_packets_and_another_seed_others() {
        let config = LinkConfig {
            delay: 20 * MS,
            jitter: 15 * MS,
            reorder: true,
            loss: 0.1,
            duplicate: 0.1,
            rate: Some(RateLimit { bits_per_second: 20_000_000, burst_bytes: 5_000, queue_bytes: 50_000 }),
        };
        assert_eq!(run(config.clone(), 5, 5_000, MS), run(config.clone(), 5, 5_000, MS));
        assert_ne!(run(config.clone(), 5, 5_000, MS), run(config, 6, 5_000, MS));
    }

    #[test]
    fn adding_jitter_changes_no_packets_fate() {
        let lossy = LinkConfig { loss: 0.2, ..Default::default() };
        let numbers = |config| {
            let mut numbers: Vec<u32> = run(config, 11, 2_000, MS).iter().map(|(_, _, n)| *n).collect();
            numbers.sort_unstable();
            numbers
        };
        let jittery = LinkConfig { jitter: 40 * MS, reorder: true, ..lossy.clone() };
        assert_eq!(numbers(lossy), numbers(jittery));
    }

    #[test]
    fn nothing_enters_a_link_that_is_down_and_what_was_under_way_arrives() {
        let start = Instant::now();
        let mut link = Link::new(LinkConfig { delay: 50 * MS, ..Default::default() }, 1);
        link.take_down(start + 10 * MS, start + 20 * MS);
        assert_eq!(link.send(start + 9 * MS, 100, 'a'), Fate::Arrives(start + 59 * MS));
        assert_eq!(link.send(start + 10 * MS, 100, 'b'), Fate::Down);
        assert_eq!(link.send(start + 19 * MS, 100, 'c'), Fate::Down);
        assert_eq!(link.send(start + 20 * MS, 100, 'd'), Fate::Arrives(start + 70 * MS));
        assert_eq!(link.poll(start + 100 * MS), Some('a'));
        assert_eq!(link.poll(start + 100 * MS), Some('d'));
        assert_eq!(link.poll(start + 100 * MS), None);
    }

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn datagram(from: SocketAddr, to: SocketAddr, payload: &'static str) -> Datagram {
        Datagram { from, to, payload: Bytes::from_static(payload.as_bytes()) }
    }

    #[test]
    fn a_datagram_passes_the_senders_and_the_receivers_link() {
        let start = Instant::now();
        let mut network = Network::new(1);
        let link = |delay| LinkConfig { delay, ..Default::default() };
        let (alice, bob) = (address("10.0.0.1:1"), address("10.0.0.2:2"));
        let a = network.add_host(link(10 * MS), link(1000 * MS));
        let b = network.add_host(link(1000 * MS), link(5 * MS));
        network.bind(a, alice);
        network.bind(b, bob);
        network.send(start, datagram(alice, bob, "hello"));
        assert_eq!(network.poll(start + 14 * MS), None);
        assert_eq!(network.poll_timeout(), Some(start + 15 * MS));
        assert_eq!(network.poll(start + 15 * MS), Some((b, datagram(alice, bob, "hello"))));
        assert_eq!(network.poll_timeout(), None);
    }

    #[test]
    fn a_host_that_moved_is_reached_at_its_new_address_only() {
        let start = Instant::now();
        let mut network = Network::new(1);
        let (server, old, new) = (address("10.0.0.1:1"), address("10.0.0.2:2"), address("10.0.0.3:3"));
        let perfect = LinkConfig::default;
        let s = network.add_host(perfect(), perfect());
        let c = network.add_host(perfect(), LinkConfig { delay: 10 * MS, ..Default::default() });
        network.bind(s, server);
        network.bind(c, old);
        network.send(start, datagram(server, old, "under way"));
        assert_eq!(network.poll(start), None);
        network.readdress(c, old, new);
        network.send(start, datagram(server, old, "too late"));
        network.send(start, datagram(old, server, "from an address it has no more"));
        network.send(start, datagram(server, new, "found"));
        network.send(start, datagram(new, server, "here I am"));
        let now = start + 20 * MS;
        assert_eq!(network.poll(now), Some((s, datagram(new, server, "here I am"))));
        assert_eq!(network.poll(now), Some((c, datagram(server, new, "found"))));
        assert_eq!(network.poll(now), None);
    }
}
