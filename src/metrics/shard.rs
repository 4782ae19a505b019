//! Counting on a shard: plain memory of one thread, added to what everybody sees once in a while.

use std::time::Duration;

use prometheus::local::LocalHistogram;
use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use switchyard_signaling::quality::{Pairs, Score};

use super::{DatagramDrop, Direction, DropCause, Lane, Messages, Metrics, Queue, Rung, quality};

/// The scores, and none.
const SCORES: usize = Score::ALL.len() + 1;

/// What one shard counts. It belongs to the shard's thread; others see it after [`ShardCounters::publish`].
#[derive(Debug)]
pub struct ShardCounters {
    messages: [[LocalCounter; Direction::COUNT]; Lane::COUNT],
    bytes: [[LocalCounter; Direction::COUNT]; Lane::COUNT],
    drops: [[LocalCounter; DropCause::COUNT]; Lane::COUNT],
    delivery: LocalHistogram,
    turn: LocalHistogram,
    datagrams: [LocalCounter; Direction::COUNT],
    datagram_bytes: [LocalCounter; Direction::COUNT],
    datagram_drops: [LocalCounter; DatagramDrop::COUNT],
    sessions: [LocalGauge; Rung::COUNT],
    /// In the order of [`Score::ALL`], and those that have told nothing.
    scores: [LocalGauge; SCORES],
    pairs: [LocalGauge; Pairs::WAYS.len()],
    queues: [LocalGauge; Queue::COUNT],
    rooms: LocalGauge,
    participants: LocalGauge,
    peers: LocalGauge,
}

impl ShardCounters {
    pub(super) fn new(metrics: &Metrics, index: usize) -> Self {
        let shard = &*index.to_string();
        let Messages { count, bytes, drops, delivery } = &metrics.messages;
        let of_shard = |vec: &IntGaugeVec| LocalGauge::new(vec.with_label_values(&[shard]));
        Self {
            messages: by(Lane::ALL, |lane| {
                by(Direction::ALL, |way| local(count, &[lane.as_str(), way.as_str()]))
            }),
            bytes: by(Lane::ALL, |lane| {
                by(Direction::ALL, |way| local(bytes, &[lane.as_str(), way.as_str()]))
            }),
            drops: by(Lane::ALL, |lane| {
                by(DropCause::ALL, |cause| local(drops, &[lane.as_str(), cause.as_str()]))
            }),
            delivery: delivery.local(),
            turn: metrics.shards.turn.with_label_values(&[shard]).local(),
            datagrams: by(Direction::ALL, |way| local(&metrics.shards.datagrams, &[shard, way.as_str()])),
            datagram_bytes: by(Direction::ALL, |way| {
                local(&metrics.shards.datagram_bytes, &[shard, way.as_str()])
            }),
            datagram_drops: by(DatagramDrop::ALL, |cause| {
                local(&metrics.shards.datagram_drops, &[cause.as_str()])
            }),
            sessions: by(Rung::ALL, |rung| {
                LocalGauge::new(metrics.sessions.with_label_values(&[rung.as_str()]))
            }),
            scores: std::array::from_fn(|index| {
                let score = quality::label(Score::ALL.get(index).copied());
                LocalGauge::new(metrics.quality.sessions.with_label_values(&[score]))
            }),
            pairs: Pairs::WAYS.map(|way| LocalGauge::new(metrics.quality.pairs.with_label_values(&[way]))),
            queues: by(Queue::ALL, |queue| {
                LocalGauge::new(metrics.shards.queue.with_label_values(&[shard, queue.as_str()]))
            }),
            rooms: of_shard(&metrics.shards.rooms),
            participants: of_shard(&metrics.shards.participants),
            peers: of_shard(&metrics.shards.peers),
        }
    }

    /// Counts a data message of `bytes` payload; each receiver counts as one message out.
    #[inline]
    pub fn message(&mut self, lane: Lane, direction: Direction, bytes: usize) {
        self.messages_of(lane, direction, 1, bytes);
    }

    /// Counts `count` data messages with `bytes` of payload together.
    #[inline]
    pub fn messages_of(&mut self, lane: Lane, direction: Direction, count: usize, bytes: usize) {
        self.messages[lane as usize][direction as usize].add(count as u64);
        self.bytes[lane as usize][direction as usize].add(bytes as u64);
    }

    /// Notes how long a message took from the sender's pipe to one receiver's.
    #[inline]
    pub fn delivered_after(&mut self, took: Duration) {
        self.delivery.observe(took.as_secs_f64());
    }

    /// Counts messages that one receiver will not get.
    #[inline]
    pub fn dropped(&mut self, lane: Lane, cause: DropCause, count: usize) {
        self.drops[lane as usize][cause as usize].add(count as u64);
    }

    /// Counts a batch of datagrams.
    #[inline]
    pub fn datagrams(&mut self, direction: Direction, count: usize, bytes: usize) {
        self.datagrams[direction as usize].add(count as u64);
        self.datagram_bytes[direction as usize].add(bytes as u64);
    }

    /// Counts a datagram that was thrown away.
    #[inline]
    pub fn datagram_dropped(&mut self, cause: DatagramDrop) {
        self.datagrams_dropped(cause, 1);
    }

    /// Counts datagrams that were thrown away.
    pub fn datagrams_dropped(&mut self, cause: DatagramDrop, count: usize) {
        self.datagram_drops[cause as usize].add(count as u64);
    }

    /// Notes how long a turn of the loop worked.
    #[inline]
    pub fn turned_in(&mut self, worked: Duration) {
        self.turn.observe(worked.as_secs_f64());
    }

    /// Notes how many sessions of this shard are on a way through the network.
    pub fn sessions_on(&mut self, rung: Rung, sessions: usize) {
        self.sessions[rung as usize].set(sessions);
    }

    /// Notes how many sessions of this shard have told each score, in the order of [`Score::ALL`], and how many none.
    pub fn sessions_scored(&mut self, sessions: [usize; SCORES]) {
        self.scores.iter_mut().zip(sessions).for_each(|(gauge, sessions)| gauge.set(sessions));
    }

    /// Notes how many members are reached which way, in the order of [`Pairs::WAYS`].
    pub fn pairs(&mut self, pairs: [usize; Pairs::WAYS.len()]) {
        self.pairs.iter_mut().zip(pairs).for_each(|(gauge, pairs)| gauge.set(pairs));
    }

    /// Notes how many entries wait in a queue.
    #[inline]
    pub fn queue_depth(&mut self, queue: Queue, entries: usize) {
        self.queues[queue as usize].set(entries);
    }

    /// Notes how many rooms of this shard have somebody in them, and how many participants those are.
    pub fn occupancy(&mut self, rooms: usize, participants: usize) {
        self.rooms.set(rooms);
        self.participants.set(participants);
    }

    /// Notes how many WebRTC peers the shard has.
    pub fn peers(&mut self, peers: usize) {
        self.peers.set(peers);
    }

    /// Shows everybody what was counted since the last time: once a second is often enough.
    pub fn publish(&mut self) {
        let counters = self.messages.iter_mut().chain(&mut self.bytes).flatten();
        let counters = counters.chain(self.drops.iter_mut().flatten());
        let counters = counters.chain(&mut self.datagrams).chain(&mut self.datagram_bytes);
        for counter in counters.chain(&mut self.datagram_drops) {
            counter.publish();
        }
        let gauges =
            self.sessions.iter_mut().chain(&mut self.scores).chain(&mut self.pairs).chain(&mut self.queues);
        for gauge in gauges.chain([&mut self.rooms, &mut self.participants, &mut self.peers]) {
            gauge.publish();
        }
        self.delivery.flush();
        self.turn.flush();
    }
}

/// Counted here, added to the shared counter when published.
#[derive(Debug)]
struct LocalCounter {
    pending: u64,
    shared: IntCounter,
}

impl LocalCounter {
    fn new(shared: IntCounter) -> Self {
        Self { pending: 0, shared }
    }

    #[inline]
    fn add(&mut self, count: u64) {
        self.pending += count;
    }

    fn publish(&mut self) {
        if self.pending > 0 {
            self.shared.inc_by(std::mem::take(&mut self.pending));
        }
    }
}

/// This shard's part of a gauge to which several may add.
#[derive(Debug)]
struct LocalGauge {
    value: i64,
    published: i64,
    shared: IntGauge,
}

impl LocalGauge {
    fn new(shared: IntGauge) -> Self {
        Self { value: 0, published: 0, shared }
    }

    #[inline]
    fn set(&mut self, value: usize) {
        self.value = i64::try_from(value).unwrap_or(i64::MAX);
    }

    fn publish(&mut self) {
        if self.value != self.published {
            self.shared.add(self.value - self.published);
            self.published = self.value;
        }
    }
}

/// One entry for each value of a label.
fn by<L: Copy, T, const N: usize>(values: &[L; N], entry: impl Fn(L) -> T) -> [T; N] {
    values.map(entry)
}

fn local(counters: &IntCounterVec, labels: &[&str]) -> LocalCounter {
    LocalCounter::new(counters.with_label_values(labels))
}
