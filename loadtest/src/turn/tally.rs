//! What of one direction's datagrams arrived: each is numbered, and its contents follow from its number.

use std::time::{Duration, Instant};

use crate::{account::Stamp, histogram::Histogram};

/// Senders of one round; numbers of the next are higher.
pub(super) const SENDERS: u32 = 1 << 14;

/// The datagrams from one end of a pair to the other in one round.
#[derive(Debug)]
pub(super) struct Tally {
    /// When the round began to send.
    start: Instant,
    /// Who sends: no other one of this round or another has this number.
    sender: u32,
    pub(super) sent: u64,
    /// Arrived, each counted once.
    pub(super) received: u64,
    pub(super) doubled: u64,
    pub(super) altered: u64,
    /// From due until received.
    pub(super) latency: Histogram,
    /// A bit for each number received.
    seen: Vec<u64>,
}

impl Tally {
    pub(super) fn new(start: Instant, sender: u32) -> Self {
        let (sent, received, doubled, altered) = (0, 0, 0, 0);
        let (latency, seen) = (Histogram::default(), Vec::new());
        Self { start, sender, sent, received, doubled, altered, latency, seen }
    }

    /// The stamp of the next datagram, which is sent.
    pub(super) fn send(&mut self, scheduled: Duration) -> Stamp {
        self.sent += 1;
        Stamp { sender: self.sender, seq: u32::try_from(self.sent).unwrap_or(u32::MAX), scheduled }
    }

    /// Counts what has arrived; `size` is what was sent.
    pub(super) fn receive(&mut self, payload: &[u8], size: usize) {
        let stamp = Stamp::of(payload).filter(|stamp| payload.len() == size && stamp.is_intact(payload));
        let Some(stamp) = stamp else {
            self.altered += 1;
            return;
        };
        if self.is_of_an_earlier_round(stamp) {
            return;
        }
        if stamp.sender != self.sender || u64::from(stamp.seq) > self.sent {
            self.altered += 1;
            return;
        }
        let (word, bit) = (stamp.seq as usize / 64, 1 << (stamp.seq % 64));
        if self.seen.len() <= word {
            self.seen.resize(word + 1, 0);
        }
        if self.seen[word] & bit != 0 {
            self.doubled += 1;
            return;
        }
        self.seen[word] |= bit;
        self.received += 1;
        self.latency.record(self.start.elapsed().saturating_sub(stamp.scheduled));
    }

    /// It was counted as lost then.
    fn is_of_an_earlier_round(&self, stamp: Stamp) -> bool {
        stamp.sender % SENDERS == self.sender % SENDERS && stamp.sender < self.sender
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: usize = 100;

    fn tally() -> (Tally, Vec<Vec<u8>>) {
        let mut tally = Tally::new(Instant::now(), SENDERS + 3);
        let datagrams = (0..200).map(|_| tally.send(Duration::ZERO).message(SIZE).to_vec()).collect();
        (tally, datagrams)
    }

    fn counts(tally: &Tally) -> (u64, u64, u64) {
        (tally.received, tally.doubled, tally.altered)
    }

    #[test]
    fn datagrams_in_any_order_count_once_and_second_copies_apart() {
        let (mut tally, datagrams) = tally();
        datagrams.iter().rev().for_each(|datagram| tally.receive(datagram, SIZE));
        assert_eq!(counts(&tally), (200, 0, 0));
        datagrams.iter().step_by(2).for_each(|datagram| tally.receive(datagram, SIZE));
        assert_eq!(counts(&tally), (200, 100, 0));
    }

    #[test]
    fn what_was_not_sent_so_is_altered() {
        let (mut tally, mut datagrams) = tally();
        datagrams[0][50] ^= 1;
        tally.receive(&datagrams[0], SIZE);
        tally.receive(&datagrams[1][..SIZE - 1], SIZE);
        tally.receive(b"", SIZE);
        let of_another = Stamp { sender: SENDERS + 4, seq: 1, scheduled: Duration::ZERO };
        tally.receive(&of_another.message(SIZE), SIZE);
        let not_sent = Stamp { sender: SENDERS + 3, seq: 201, scheduled: Duration::ZERO };
        tally.receive(&not_sent.message(SIZE), SIZE);
        let of_another_size = Stamp { sender: SENDERS + 3, seq: 1, scheduled: Duration::ZERO };
        tally.receive(&of_another_size.message(SIZE + 1), SIZE);
        assert_eq!(counts(&tally), (0, 0, 6));
    }

    #[test]
    fn what_comes_late_from_the_round_before_counts_for_nothing() {
        let (mut tally, _) = tally();
        let earlier = Stamp { sender: 3, seq: 1, scheduled: Duration::ZERO };
        tally.receive(&earlier.message(SIZE), SIZE);
        assert_eq!(counts(&tally), (0, 0, 0));
    }
}
