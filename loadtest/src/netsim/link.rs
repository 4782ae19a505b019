//! One direction of a path.

use std::{
    cmp::Ordering,
    collections::BinaryHeap,
    time::{Duration, Instant},
};

use super::{
    jitter::Jitter,
    loss::{Loss, LossProcess},
    queue::{Bottleneck, Entry, RateLimit},
};
use crate::rng::Rng;

/// What a link does to packets. The default does nothing at all to them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LinkConfig {
    /// The least time that a packet needs.
    pub delay: Duration,
    /// What is added to the delay.
    pub jitter: Jitter,
    /// Whether jitter may let a packet overtake another. If not, packets bunch up behind a late one.
    pub reorder: bool,
    /// Which packets are lost.
    pub loss: Loss,
    /// The probability that a packet arrives twice, 0 to 1.
    pub duplicate: f64,
    /// The bottleneck, if there is one.
    pub rate: Option<RateLimit>,
    /// The largest packet that passes, headers included. Larger ones vanish, as with DF set and no ICMP.
    pub mtu: Option<usize>,
}

impl LinkConfig {
    /// Whether packets come out as they went in, at once.
    pub fn is_transparent(&self) -> bool {
        *self == Self::default()
    }
}

/// What becomes of a packet, as far as it is decided when it enters a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It will arrive at this time.
    Arrives(Instant),
    /// It will arrive at these two times.
    ArrivesTwice(Instant, Instant),
    /// It waits before the bottleneck.
    Waits,
    /// Chance took it.
    Lost,
    /// The queue before the bottleneck was full.
    QueueFull,
    /// It was larger than the MTU.
    TooBig,
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
    /// Packets dropped before the bottleneck because the queue was full.
    pub queue_full: u64,
    /// Packets that CoDel dropped.
    pub codel_dropped: u64,
    /// Packets larger than the MTU.
    pub too_big: u64,
    /// Packets that entered while the link was down, or were on it when it was cut.
    pub down: u64,
    /// Second copies made.
    pub duplicated: u64,
}

/// One direction of a path, for packets that carry a `P`.
///
/// Call [`send`](Self::send), then [`poll`](Self::poll) until it gives nothing, then wait until
/// [`poll_timeout`](Self::poll_timeout). `now` must not run backwards.
#[derive(Debug)]
pub struct Link<P> {
    config: LinkConfig,
    loss: LossProcess,
    jitter: Rng,
    duplicate: Rng,
    /// Orders packets that arrive at the same instant.
    entered: u64,
    bottleneck: Bottleneck<Chances<P>>,
    in_flight: BinaryHeap<InFlight<P>>,
    /// The latest arrival so far: the floor of the next one on a link that keeps order.
    last_arrival: Option<Instant>,
    outages: Vec<(Instant, Instant)>,
    stats: LinkStats,
}

/// A packet, and what chance has in store for it once it is past the bottleneck.
#[derive(Debug)]
struct Chances<P> {
    packet: P,
    lost: bool,
    twice: bool,
    jitter: [Duration; 2],
}

impl<P: Clone> Link<P> {
    /// A link that behaves as configured, with chance decided by the seed.
    pub fn new(config: LinkConfig, seed: u64) -> Self {
        Self {
            config,
            loss: LossProcess::new(Rng::stream(seed, 1), Rng::stream(seed, 4)),
            jitter: Rng::stream(seed, 2),
            duplicate: Rng::stream(seed, 3),
            entered: 0,
            bottleneck: Bottleneck::new(),
            in_flight: BinaryHeap::new(),
            last_arrival: None,
            outages: Vec::new(),
            stats: LinkStats::default(),
        }
    }

    /// How the link behaves.
    pub fn config(&self) -> &LinkConfig {
        &self.config
    }

    /// Another behaviour from now on. What waits before the bottleneck passes at the new rate, and what is past it
    /// arrives as it would have.
    pub fn set_config(&mut self, now: Instant, config: LinkConfig) {
        self.advance(now);
        self.config = config;
    }

    /// What enters the link from `from` until just before `until` is lost. What is in flight by then arrives.
    pub fn take_down(&mut self, from: Instant, until: Instant) {
        self.outages.push((from, until));
    }

    /// Whatever is on the link is lost, as when it is exchanged for another.
    pub fn cut(&mut self, now: Instant) {
        self.advance(now);
        self.stats.down += self.bottleneck.clear() + self.in_flight.len() as u64;
        self.in_flight.clear();
        self.last_arrival = None;
    }

    /// A packet of `size` bytes enters the link.
    pub fn send(&mut self, now: Instant, size: usize, packet: P) -> Fate {
        // Every packet draws as often, whatever becomes of it: one impairment must not shift another's chances.
        let chances = Chances {
            packet,
            lost: self.loss.takes(&self.config.loss),
            twice: self.duplicate.chance(self.config.duplicate),
            jitter: std::array::from_fn(|_| self.config.jitter.draw(&mut self.jitter)),
        };
        self.advance(now);
        self.stats.sent += 1;
        if self.config.mtu.is_some_and(|mtu| size > mtu) {
            self.stats.too_big += 1;
            return Fate::TooBig;
        }
        self.outages.retain(|&(_, until)| until > now);
        if self.is_down(now) {
            self.stats.down += 1;
            return Fate::Down;
        }
        match self.bottleneck.enter(now, self.config.rate.as_ref(), size, chances) {
            Entry::Passes(chances) => self.launch(now, chances),
            Entry::Waits => Fate::Waits,
            Entry::Full => {
                self.stats.queue_full += 1;
                Fate::QueueFull
            }
        }
    }

    /// The next packet that has arrived by now.
    pub fn poll(&mut self, now: Instant) -> Option<P> {
        self.advance(now);
        if self.in_flight.peek()?.arrival > now {
            return None;
        }
        self.stats.delivered += 1;
        self.in_flight.pop().map(|arrived| arrived.packet)
    }

    /// When to look for a packet again. One may arrive then, and none arrives before.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let arrival = self.in_flight.peek().map(|next| next.arrival);
        let earliest = self.bottleneck.next_departure().map(|departure| departure + self.config.delay);
        [arrival, earliest].into_iter().flatten().min()
    }

    /// Whether a packet that is sent now comes out at once, in order and for certain.
    pub fn is_transparent(&self, now: Instant) -> bool {
        self.config.is_transparent()
            && self.in_flight.is_empty()
            && self.bottleneck.next_departure().is_none()
            && !self.is_down(now)
    }

    /// Whether nothing that enters now arrives.
    pub fn is_down(&self, now: Instant) -> bool {
        self.outages.iter().any(|&(from, until)| from <= now && now < until)
    }

    /// What has become of the packets so far.
    pub fn stats(&self) -> LinkStats {
        LinkStats { codel_dropped: self.bottleneck.dropped(), ..self.stats }
    }

    /// Bytes that wait before the bottleneck.
    pub fn queued_bytes(&self) -> usize {
        self.bottleneck.bytes()
    }

    /// Lets what has left the bottleneck by now travel on.
    fn advance(&mut self, now: Instant) {
        while let Some((departure, chances)) = self.bottleneck.leave(now, self.config.rate.as_ref()) {
            self.launch(departure, chances);
        }
    }

    fn launch(&mut self, departure: Instant, chances: Chances<P>) -> Fate {
        // Lost after the bottleneck: a packet that chance takes has used the rate, as it does on a radio link.
        if chances.lost {
            self.stats.lost += 1;
            return Fate::Lost;
        }
        let [first, second] = chances.jitter.map(|jitter| departure + self.config.delay + jitter);
        if !chances.twice {
            return Fate::Arrives(self.travel(first, chances.packet));
        }
        self.stats.duplicated += 1;
        let first = self.travel(first, chances.packet.clone());
        Fate::ArrivesTwice(first, self.travel(second, chances.packet))
    }

    fn travel(&mut self, arrival: Instant, packet: P) -> Instant {
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
            if let Some((sent, number)) = link.poll(at) {
                arrivals.push((sent, at - start, number));
            }
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
            let arrivals = run(LinkConfig { loss: 0.05.into(), ..Default::default() }, seed, 100_000, MS);
            assert!((94_700..95_300).contains(&arrivals.len()), "seed {seed}: {}", arrivals.len());
            let arrivals = run(LinkConfig { duplicate: 0.05, ..Default::default() }, seed, 100_000, MS);
            assert!((104_700..105_300).contains(&arrivals.len()), "seed {seed}: {}", arrivals.len());
        }
    }

    #[test]
    fn delays_are_spread_evenly_between_the_delay_and_the_delay_with_jitter() {
        let config =
            LinkConfig { delay: 50 * MS, jitter: (20 * MS).into(), reorder: true, ..Default::default() };
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
        let config = LinkConfig { delay: 10 * MS, jitter: (30 * MS).into(), ..Default::default() };
        let in_order = run(config.clone(), 9, 10_000, MS);
        assert!(in_order.is_sorted_by_key(|(_, _, number)| *number));
        let reordered = run(LinkConfig { reorder: true, ..config }, 9, 10_000, MS);
        assert!(!reordered.is_sorted_by_key(|(_, _, number)| *number));
    }

    #[test]
    fn a_bottleneck_passes_its_rate_within_one_percent() {
        // 1,000 B each ms are 8 Mbit/s; half of it passes.
        let rate =
            RateLimit { bits_per_second: 4_000_000, burst_bytes: 3_000, queue_bytes: 50_000, codel: None };
        let arrivals = run(LinkConfig { rate: Some(rate), ..Default::default() }, 2, 20_000, MS);
        let last = arrivals.last().unwrap().1;
        let bits = arrivals.len() as f64 * 8_000.0 / last.as_secs_f64();
        assert!((3_960_000.0..4_040_000.0).contains(&bits), "{bits}");
    }

    #[test]
    fn a_full_queue_drops_and_delays_no_longer_than_it_holds() {
        let start = Instant::now();
        let rate = RateLimit { bits_per_second: 8_000_000, burst_bytes: 0, queue_bytes: 10_000, codel: None };
        let mut link = Link::new(LinkConfig { rate: Some(rate), ..Default::default() }, 1);
        let fates: Vec<Fate> = (0..20).map(|number| link.send(start, 1_000, number)).collect();
        assert!(fates[..10].iter().all(|fate| *fate == Fate::Waits));
        assert!(fates[10..].iter().all(|fate| *fate == Fate::QueueFull));
        assert_eq!(link.queued_bytes(), 10_000);
        assert_eq!(link.send(start + 5 * MS, 1_000, 20), Fate::Waits);
        assert_eq!(link.stats().queue_full, 10);
        let arrivals: Vec<_> = std::iter::from_fn(|| {
            let at = link.poll_timeout()?;
            link.poll(at).map(|number| (at - start, number))
        })
        .collect();
        assert_eq!(arrivals[9..], [(10 * MS, 9), (11 * MS, 20)]);
    }

    #[test]
    fn a_burst_passes_at_once_after_a_pause() {
        let start = Instant::now();
        let rate =
            RateLimit { bits_per_second: 8_000_000, burst_bytes: 3_000, queue_bytes: 10_000, codel: None };
        let mut link = Link::new(LinkConfig { rate: Some(rate), ..Default::default() }, 1);
        let mut burst = |now| (0..4).map(|_| link.send(now, 1_000, ())).collect::<Vec<_>>();
        let at_once = |now| Fate::Arrives(now);
        assert_eq!(burst(start), [at_once(start), at_once(start), at_once(start), Fate::Waits]);
        let later = start + 100 * MS;
        assert_eq!(burst(later)[..3], [at_once(later), at_once(later), at_once(later)]);
    }

    #[test]
    fn the_same_seed_gives_the_same_packets_and_another_seed_others() {
        let config = LinkConfig {
            delay: 20 * MS,
            jitter: (15 * MS).into(),
            reorder: true,
            loss: 0.1.into(),
            duplicate: 0.1,
            mtu: None,
            rate: Some(RateLimit {
                bits_per_second: 20_000_000,
                burst_bytes: 5_000,
                queue_bytes: 50_000,
                codel: None,
            }),
        };
        assert_eq!(run(config.clone(), 5, 5_000, MS), run(config.clone(), 5, 5_000, MS));
        assert_ne!(run(config.clone(), 5, 5_000, MS), run(config, 6, 5_000, MS));
    }

    #[test]
    fn adding_jitter_changes_no_packets_fate() {
        let lossy = LinkConfig { loss: 0.2.into(), ..Default::default() };
        let numbers = |config| {
            let mut numbers: Vec<u32> = run(config, 11, 2_000, MS).iter().map(|(_, _, n)| *n).collect();
            numbers.sort_unstable();
            numbers
        };
        let jittery = LinkConfig { jitter: (40 * MS).into(), reorder: true, ..lossy.clone() };
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
}
