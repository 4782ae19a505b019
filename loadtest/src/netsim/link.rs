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

    /// The link is up from now on, and no outage is planned any more.
    pub fn end_outages(&mut self) {
        self.outages.clear();
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
mod tests;
