//! The balance of a fixed set of streams, all of which every receiver is owed from beginning to end: for tests and for
//! runs without churn. [`super::Ledger`] is the account of a run.

use std::collections::BTreeMap;

use super::stamp::{MOST_MESSAGES, Stamp};

/// What one receiver has received.
#[derive(Debug, Default)]
pub struct Account {
    streams: BTreeMap<(u32, u16), Stream>,
    told_missing: u64,
    foreign: u64,
}

#[derive(Debug, Default)]
struct Stream {
    /// A bit for each number received.
    seen: Vec<u64>,
    received: u64,
    highest: u32,
    doubled: u64,
    out_of_order: u64,
}

/// The balance of one or many receivers, in messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// What should have arrived.
    pub expected: u64,
    /// Different messages that arrived.
    pub received: u64,
    /// What did not arrive, whether told or not.
    pub lost: u64,
    /// Second and further arrivals.
    pub doubled: u64,
    /// Arrivals after a later one of the same stream.
    pub out_of_order: u64,
    /// What the server said to be missing.
    pub told_missing: u64,
    /// Messages that are not from this run, or from nobody who sent.
    pub foreign: u64,
}

impl Account {
    /// A message arrived; `stream` is as its frame said.
    pub fn received(&mut self, stream: u16, stamp: Stamp) {
        if stamp.seq == 0 || stamp.seq > MOST_MESSAGES {
            self.foreign += 1;
            return;
        }
        let stream = self.streams.entry((stamp.sender, stream)).or_default();
        let (word, bit) = (stamp.seq as usize / 64, 1 << (stamp.seq % 64));
        if stream.seen.len() <= word {
            stream.seen.resize(word + 1, 0);
        }
        if stream.seen[word] & bit != 0 {
            stream.doubled += 1;
            return;
        }
        stream.seen[word] |= bit;
        stream.received += 1;
        if stamp.seq < stream.highest {
            stream.out_of_order += 1;
        }
        stream.highest = stream.highest.max(stamp.seq);
    }

    /// A message without a stamp arrived.
    pub fn received_foreign(&mut self) {
        self.foreign += 1;
    }

    /// The server told that messages are missing.
    pub fn told_missing(&mut self, count: u32) {
        self.told_missing += u64::from(count);
    }

    /// Different messages received so far.
    pub fn count(&self) -> u64 {
        self.streams.values().map(|stream| stream.received).sum()
    }

    /// Holds what arrived against what was sent to this receiver: (sender, stream, how many).
    pub fn balance(&self, sent: impl IntoIterator<Item = (u32, u16, u64)>) -> Totals {
        let mut totals =
            Totals { told_missing: self.told_missing, foreign: self.foreign, ..Totals::default() };
        let mut known = 0;
        for (sender, stream, count) in sent {
            totals.expected += count;
            let Some(stream) = self.streams.get(&(sender, stream)) else {
                totals.lost += count;
                continue;
            };
            known += 1;
            let beyond = stream.count_above(count);
            let received = stream.received - beyond;
            totals.received += received;
            totals.lost += count - received;
            totals.foreign += beyond;
            totals.doubled += stream.doubled;
            totals.out_of_order += stream.out_of_order;
        }
        if known < self.streams.len() {
            let all: u64 = self.streams.values().map(|stream| stream.received).sum();
            totals.foreign += all - totals.received - (totals.foreign - self.foreign);
        }
        totals
    }
}

impl Stream {
    /// Numbers received that are higher than any sent.
    fn count_above(&self, sent: u64) -> u64 {
        if u64::from(self.highest) <= sent {
            return 0;
        }
        let below: u64 = (1..=sent).filter(|seq| self.has(*seq)).count() as u64;
        self.received - below
    }

    fn has(&self, seq: u64) -> bool {
        self.seen.get(seq as usize / 64).is_some_and(|word| word & (1 << (seq % 64)) != 0)
    }
}

impl std::ops::AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        self.expected += other.expected;
        self.received += other.received;
        self.lost += other.lost;
        self.doubled += other.doubled;
        self.out_of_order += other.out_of_order;
        self.told_missing += other.told_missing;
        self.foreign += other.foreign;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn stamp(sender: u32, seq: u32) -> Stamp {
        Stamp { sender, seq, scheduled: Duration::from_millis(7) }
    }

    fn balance(arrivals: &[(u32, u16, u32)], sent: &[(u32, u16, u64)]) -> Totals {
        let mut account = Account::default();
        for &(sender, stream, seq) in arrivals {
            account.received(stream, stamp(sender, seq));
        }
        account.balance(sent.iter().copied())
    }

    #[test]
    fn what_arrives_whole_and_in_order_balances() {
        let totals =
            balance(&[(1, 0, 1), (2, 0, 1), (1, 0, 2), (1, 5, 1)], &[(1, 0, 2), (2, 0, 1), (1, 5, 1)]);
        assert_eq!(totals, Totals { expected: 4, received: 4, ..Totals::default() });
    }

    #[test]
    fn a_planted_loss_is_found_wherever_it_is() {
        for missing in 1..=3 {
            let arrivals: Vec<_> = (1..=3).filter(|seq| *seq != missing).map(|seq| (1, 0, seq)).collect();
            let expected = Totals { expected: 3, received: 2, lost: 1, ..Totals::default() };
            assert_eq!(balance(&arrivals, &[(1, 0, 3)]), expected, "{missing}");
        }
        assert_eq!(balance(&[], &[(1, 0, 5)]).lost, 5);
    }

    #[test]
    fn a_planted_second_copy_is_found_and_does_not_hide_a_loss() {
        let totals = balance(&[(1, 0, 1), (1, 0, 1), (1, 0, 3)], &[(1, 0, 3)]);
        assert_eq!((totals.doubled, totals.lost, totals.out_of_order), (1, 1, 0));
    }

    #[test]
    fn a_planted_swap_is_found_within_a_stream_only() {
        assert_eq!(balance(&[(1, 0, 2), (1, 0, 1)], &[(1, 0, 2)]).out_of_order, 1);
        let apart = balance(&[(1, 0, 2), (1, 1, 1), (2, 0, 1)], &[(1, 0, 2), (1, 1, 1), (2, 0, 1)]);
        assert_eq!((apart.out_of_order, apart.lost), (0, 1));
    }

    #[test]
    fn what_nobody_sent_is_foreign() {
        let totals = balance(&[(1, 0, 1), (1, 0, 7), (9, 0, 1), (1, 0, 0)], &[(1, 0, 2)]);
        assert_eq!((totals.received, totals.lost, totals.foreign), (1, 1, 3));
    }
}
