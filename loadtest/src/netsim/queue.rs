//! The bottleneck of a link: a token bucket with a bounded queue before it, plain or managed by CoDel.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// A token bucket and the queue before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// The long-run rate.
    pub bits_per_second: u64,
    /// What may pass at once after a pause.
    pub burst_bytes: usize,
    /// What may wait; a packet that does not fit is dropped.
    pub queue_bytes: usize,
    /// Whether the queue is kept short before it is full, and how.
    pub codel: Option<CoDel>,
}

/// Controlled delay (RFC 8289): a queue that has kept packets waiting for longer than `target` all through an
/// `interval` drops one, and then more and more often until it does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CoDel {
    /// The waiting time that is let be.
    pub target: Duration,
    /// How long it may be exceeded: a usual round-trip time.
    pub interval: Duration,
}

impl Default for CoDel {
    /// The values that RFC 8289 has for the open Internet.
    fn default() -> Self {
        Self { target: Duration::from_millis(5), interval: Duration::from_millis(100) }
    }
}

impl RateLimit {
    /// How long the bottleneck needs for so much.
    pub fn time_for(&self, bytes: usize) -> Duration {
        let nanos = bytes as u128 * 8 * 1_000_000_000 / u128::from(self.bits_per_second.max(1));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// What passes in so much time.
    pub fn bytes_in(bits_per_second: u64, time: Duration) -> usize {
        let bytes = u128::from(bits_per_second) * time.as_nanos() / 8_000_000_000;
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }
}

/// What became of a packet that came to the bottleneck.
pub(super) enum Entry<P> {
    /// Nothing held it.
    Passes(P),
    Waits,
    Full,
}

#[derive(Debug)]
pub(super) struct Bottleneck<P> {
    /// When the bucket would have passed everything so far, without its burst.
    busy_until: Option<Instant>,
    /// The packet at the head, and when it leaves.
    serving: Option<(Instant, Waiting<P>)>,
    waiting: VecDeque<Waiting<P>>,
    bytes: usize,
    control: Control,
    dropped: u64,
}

#[derive(Debug)]
struct Waiting<P> {
    entered: Instant,
    size: usize,
    packet: P,
}

impl<P> Bottleneck<P> {
    pub(super) fn new() -> Self {
        Self {
            busy_until: None,
            serving: None,
            waiting: VecDeque::new(),
            bytes: 0,
            control: Control::default(),
            dropped: 0,
        }
    }

    /// A packet comes. Everything that leaves by now must have been taken with [`leave`](Self::leave).
    pub(super) fn enter(
        &mut self,
        now: Instant,
        limit: Option<&RateLimit>,
        size: usize,
        packet: P,
    ) -> Entry<P> {
        if self.serving.is_none() {
            let (departure, busy) = self.pass(now, limit, size);
            if departure > now && limit.is_some_and(|limit| size > limit.queue_bytes) {
                return Entry::Full;
            }
            self.busy_until = busy;
            // It is at the head at once, which ends whatever CoDel had observed.
            self.control.first_above = None;
            self.control.is_dropping = false;
            if departure <= now {
                return Entry::Passes(packet);
            }
            self.serving = Some((departure, Waiting { entered: now, size, packet }));
        } else {
            if limit.is_some_and(|limit| self.bytes + size > limit.queue_bytes) {
                return Entry::Full;
            }
            self.waiting.push_back(Waiting { entered: now, size, packet });
        }
        self.bytes += size;
        Entry::Waits
    }

    /// The next packet that has left by now, and when.
    pub(super) fn leave(&mut self, now: Instant, limit: Option<&RateLimit>) -> Option<(Instant, P)> {
        if self.serving.as_ref()?.0 > now {
            return None;
        }
        let (departure, left) = self.serving.take()?;
        self.bytes -= left.size;
        if let Some(next) = self.head(departure, limit) {
            let (next_departure, busy) = self.pass(departure, limit, next.size);
            self.busy_until = busy;
            self.serving = Some((next_departure, next));
        }
        Some((departure, left.packet))
    }

    /// When the packet at the head leaves.
    pub(super) fn next_departure(&self) -> Option<Instant> {
        self.serving.as_ref().map(|(departure, _)| *departure)
    }

    /// What waits, the packet at the head included.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Packets that CoDel has dropped.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Whatever waits is gone; gives how many packets that were.
    pub(super) fn clear(&mut self) -> u64 {
        let count = self.waiting.len() + usize::from(self.serving.take().is_some());
        self.waiting.clear();
        self.bytes = 0;
        self.busy_until = None;
        self.control = Control::default();
        count as u64
    }

    /// When a packet that is at the head from `at` leaves, and until when that keeps the bucket busy.
    fn pass(&self, at: Instant, limit: Option<&RateLimit>, size: usize) -> (Instant, Option<Instant>) {
        let Some(limit) = limit else {
            return (at, self.busy_until);
        };
        let start = self.busy_until.map_or(at, |busy| busy.max(at));
        let done = start + limit.time_for(size);
        let departure =
            done.checked_sub(limit.time_for(limit.burst_bytes)).map_or(at, |earliest| earliest.max(at));
        (departure, Some(done))
    }

    /// Takes the next packet that goes on from the queue: "deque" in the pseudocode of RFC 8289 section 5.
    fn head(&mut self, now: Instant, limit: Option<&RateLimit>) -> Option<Waiting<P>> {
        let Some(codel) = limit.and_then(|limit| limit.codel) else {
            return self.waiting.pop_front();
        };
        let (mut head, mut may_drop) = self.take(now, &codel);
        if self.control.is_dropping {
            self.control.is_dropping = may_drop;
            while self.control.is_dropping && self.control.drop_next.is_some_and(|due| now >= due) {
                self.drop(head.take());
                self.control.count += 1;
                (head, may_drop) = self.take(now, &codel);
                self.control.is_dropping = may_drop;
                if may_drop {
                    let due = self.control.drop_next.unwrap_or(now);
                    self.control.drop_next = Some(self.control.next_after(due, codel.interval));
                }
            }
        } else if may_drop {
            self.control.begin(now, codel.interval);
            self.drop(head.take());
            (head, _) = self.take(now, &codel);
        }
        head
    }

    /// The packet at the head of the queue, and whether it may be dropped: "dodeque" there.
    fn take(&mut self, now: Instant, codel: &CoDel) -> (Option<Waiting<P>>, bool) {
        let Some(head) = self.waiting.pop_front() else {
            self.control.first_above = None;
            return (None, false);
        };
        let behind = self.bytes - head.size;
        let waited = now.saturating_duration_since(head.entered);
        let may_drop = if waited < codel.target || behind <= MAX_PACKET {
            self.control.first_above = None;
            false
        } else {
            now >= *self.control.first_above.get_or_insert(now + codel.interval)
        };
        (Some(head), may_drop)
    }

    fn drop(&mut self, packet: Option<Waiting<P>>) {
        if let Some(packet) = packet {
            self.bytes -= packet.size;
            self.dropped += 1;
        }
    }
}

/// What lies behind the head when it is no standing queue.
const MAX_PACKET: usize = 1_500;

/// CoDel's memory, by the names of that pseudocode.
#[derive(Debug, Default)]
struct Control {
    first_above: Option<Instant>,
    drop_next: Option<Instant>,
    is_dropping: bool,
    count: u32,
    last_count: u32,
}

impl Control {
    /// Dropping begins; if it ended not long ago, at about the frequency that it ended with.
    fn begin(&mut self, now: Instant, interval: Duration) {
        let recently = self.drop_next.is_some_and(|due| now.saturating_duration_since(due) < 16 * interval);
        let before = self.count.saturating_sub(self.last_count);
        self.is_dropping = true;
        self.count = if recently && before > 1 { before } else { 1 };
        self.drop_next = Some(self.next_after(now, interval));
        self.last_count = self.count;
    }

    fn next_after(&self, at: Instant, interval: Duration) -> Instant {
        at + interval.div_f64(f64::from(self.count.max(1)).sqrt())
    }
}
