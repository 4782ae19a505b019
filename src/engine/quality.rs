//! How good clients' connections are: what they tell, for the others in their rooms and for the count.

use std::time::Instant;

use switchyard_signaling::{
    Code,
    quality::{Pairs, Quality, Score, Seen},
};

use super::Shard;
use crate::room::Action;

/// A client tells every 5 s at most; a few at once, because its clock and the network's delays are not ours.
const TOLD: f64 = 3.0;
const TOLD_PER_SECOND: f64 = 0.2;
/// What is believed of a client: it can have so many direct connections, and send so much by them in the time between
/// two reports.
const PAIRS: u16 = 256;
const DIRECT_MESSAGES: u32 = 1_000_000;

impl Shard {
    /// A client tells how good its connection is. What comes too often is only counted.
    pub(super) fn told_quality(&mut self, slot: u32, mut quality: Quality, now: Instant) {
        let Some(entry) = self.entry(slot) else { return };
        if entry.session.take_quality(TOLD_PER_SECOND, TOLD, now).is_err() {
            return self.router.refused(Code::RateLimited);
        }
        if let Some(pairs) = quality.pairs {
            entry.pairs = pairs.counts().map(|count| count.min(PAIRS));
        }
        quality.direct_messages = quality.direct_messages.map(|count| count.min(DIRECT_MESSAGES));
        self.qualities.push(quality);
        self.set_quality(slot, quality.into(), now);
    }

    /// How sessions reach the members of their rooms, as they have told last, in the order of [`Pairs::WAYS`].
    pub fn pairs(&self) -> [usize; Pairs::WAYS.len()] {
        let mut sum = [0; Pairs::WAYS.len()];
        for entry in self.sessions.iter().flatten() {
            sum.iter_mut().zip(entry.pairs).for_each(|(sum, count)| *sum += usize::from(count));
        }
        sum
    }

    /// The session has no pipe: its client cannot tell.
    pub(super) fn no_quality(&mut self, slot: u32, now: Instant) {
        // Of a client that never tells, its silence says nothing.
        let Some(entry) = self.entry(slot) else { return };
        entry.pairs = [0; Pairs::WAYS.len()];
        if entry.quality.is_some() {
            self.set_quality(slot, Seen { score: Score::Lost, rung: None }, now);
        }
    }

    fn set_quality(&mut self, slot: u32, seen: Seen, now: Instant) {
        let Some(entry) = self.entry(slot) else { return };
        if entry.quality.replace(seen) == Some(seen) {
            return;
        }
        let session = entry.session.id;
        for place in entry.session.places().collect::<Vec<_>>() {
            self.router.act(session, place, Action::Quality(seen), now);
        }
        self.settle(now);
    }
}
