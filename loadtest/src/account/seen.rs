//! Which numbers of a stream have come: a bitmap whose whole beginning costs nothing.

use std::ops::RangeInclusive;

/// A set of numbers that mostly grows by the next one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// The least of them. Bits below it are set in the words, where there are some, so that a word can be full.
    least: u32,
    /// The first word that is kept or full.
    first: u32,
    /// Words from there on in which every bit is set.
    full: u32,
    /// The words behind them.
    words: Vec<u64>,
    highest: u32,
    count: u32,
}

impl Seen {
    /// Adds a number above 0; whether it is new.
    pub(super) fn insert(&mut self, number: u32) -> bool {
        if self.contains(number) {
            return false;
        }
        if self.count == 0 {
            (self.least, self.first) = (number, number / 64);
            self.words = vec![below(number)];
        } else if number < self.least {
            self.begin_earlier(number);
        }
        self.count += 1;
        self.highest = self.highest.max(number);
        let word = (number / 64 - self.first - self.full) as usize;
        if self.words.len() <= word {
            self.words.resize(word + 1, 0);
        }
        self.words[word] |= 1 << (number % 64);
        let full = self.words.iter().take_while(|word| **word == u64::MAX).count();
        if full > 0 {
            self.words.drain(..full);
            self.full += full as u32;
        }
        true
    }

    pub(super) fn contains(&self, number: u32) -> bool {
        if self.count == 0 || number < self.least || number > self.highest {
            return false;
        }
        let word = number / 64 - self.first;
        match word.checked_sub(self.full) {
            None => true,
            Some(word) => self.words.get(word as usize).is_some_and(|word| word >> (number % 64) & 1 == 1),
        }
    }

    /// The least and the highest number.
    pub(super) fn hull(&self) -> Option<(u32, u32)> {
        (self.count > 0).then_some((self.least, self.highest))
    }

    pub(super) fn highest(&self) -> u32 {
        self.highest
    }

    pub(super) fn count(&self) -> u32 {
        self.count
    }

    /// The ranges in this one of which nothing was seen, in order.
    pub(super) fn missing(&self, within: RangeInclusive<u32>) -> Vec<RangeInclusive<u32>> {
        let (mut at, end) = (*within.start(), *within.end());
        let mut missing: Vec<RangeInclusive<u32>> = Vec::new();
        let mut add = |from: u32, to: u32| {
            if from > to {
                return;
            }
            match missing.last_mut() {
                Some(last) if *last.end() + 1 == from => *last = *last.start()..=to,
                _ => missing.push(from..=to),
            }
        };
        while at <= end {
            if self.count == 0 || at > self.highest {
                add(at, end);
                break;
            }
            if at < self.least {
                add(at, end.min(self.least - 1));
                at = self.least;
                continue;
            }
            let word = at / 64 - self.first;
            let Some(word) = word.checked_sub(self.full) else {
                at = (self.first + self.full) * 64;
                continue;
            };
            let bits = self.words.get(word as usize).copied().unwrap_or(0) | below(at);
            let gap = bits.trailing_ones();
            if gap == 64 {
                at = (at / 64 + 1) * 64;
                continue;
            }
            let from = at / 64 * 64 + gap;
            let length = (bits >> gap).trailing_zeros().min(64 - gap);
            add(from, end.min(from + length - 1));
            at = from + length;
        }
        missing
    }

    /// How many of the range were seen.
    pub(super) fn count_in(&self, within: RangeInclusive<u32>) -> u32 {
        let all = (*within.end() + 1).saturating_sub(*within.start());
        let missing = self.missing(within);
        all - missing.iter().map(|range| range.end() - range.start() + 1).sum::<u32>()
    }

    /// How many numbers both have.
    pub(super) fn count_common(&self, other: &Self) -> u32 {
        let (Some((a, b)), Some((c, d))) = (self.hull(), other.hull()) else { return 0 };
        (a.max(c)..=b.min(d)).filter(|number| self.contains(*number) && other.contains(*number)).count()
            as u32
    }

    /// Makes room for a number below the least.
    fn begin_earlier(&mut self, number: u32) {
        // Nothing stays full below the old beginning: all words are kept from here on.
        let mut words = vec![u64::MAX; self.full as usize];
        words.append(&mut self.words);
        words[0] &= !below(self.least);
        let earlier = self.first - number / 64;
        self.words = vec![0; earlier as usize];
        self.words.append(&mut words);
        self.words[0] |= below(number);
        (self.least, self.first, self.full) = (number, number / 64, 0);
    }
}

/// A word with all bits below that of the number.
fn below(number: u32) -> u64 {
    (1 << (number % 64)) - 1
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::rng::Rng;

    #[test]
    fn it_is_the_set_of_what_was_inserted_in_whatever_order() {
        for seed in 0..200 {
            let mut rng = Rng::new(seed);
            let (mut seen, mut set) = (Seen::default(), BTreeSet::new());
            let begin = 1 + rng.below(400) as u32;
            for step in 0..rng.below(700) as u32 {
                let number = match rng.below(20) {
                    0 => 1 + rng.below(1000) as u32,
                    1 => continue,
                    _ => begin + step,
                };
                assert_eq!(seen.insert(number), set.insert(number), "seed {seed}");
            }
            assert_eq!(seen.hull(), set.first().copied().zip(set.last().copied()), "seed {seed}");
            assert_eq!(seen.count() as usize, set.len());
            assert!((1..1300).all(|number| seen.contains(number) == set.contains(&number)), "seed {seed}");
            let (from, to) = (1 + rng.below(600) as u32, 300 + rng.below(1000) as u32);
            let missing: Vec<u32> = seen.missing(from..=to).into_iter().flatten().collect();
            let expected: Vec<u32> = (from..=to).filter(|number| !set.contains(number)).collect();
            assert_eq!(missing, expected, "seed {seed}");
            assert_eq!(
                seen.count_in(from..=to) as usize,
                set.iter().filter(|n| (from..=to).contains(*n)).count()
            );
        }
    }

    #[test]
    fn ranges_are_whole_and_what_is_complete_takes_no_memory() {
        let mut seen = Seen::default();
        (70..=100_000).for_each(|number| assert!(seen.insert(number)));
        assert!(seen.words.len() <= 1 && seen.words.capacity() < 8, "{}", seen.words.capacity());
        assert_eq!(seen.missing(1..=100_010), [1..=69, 100_001..=100_010]);
        let mut holes = Seen::default();
        (1..=1000)
            .filter(|number| !(100..=300).contains(number))
            .for_each(|number| assert!(holes.insert(number)));
        assert_eq!(holes.missing(1..=1000), vec![100..=300]);
        assert_eq!(holes.count_common(&seen), 30 + 700);
    }
}
