//! When the numbers of a stream were reached, to a quarter of a second: its size grows with time, not with messages.

use std::time::Duration;

/// The width of a slot of time.
const SLOT: Duration = Duration::from_millis(250);

/// A count that grew, and how far it was at the end of each slot of time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Marks {
    slots: Vec<(u32, u32)>,
}

impl Marks {
    /// It is this far now. Neither runs backwards.
    pub(super) fn note(&mut self, at: Duration, count: u32) {
        let slot = slot(at);
        match self.slots.last_mut() {
            Some(last) if last.1 >= count => {}
            Some(last) if last.0 == slot => last.1 = count,
            _ => self.slots.push((slot, count)),
        }
    }

    /// The most that it may have been at that time: what is above came later for certain.
    pub(super) fn at_most(&self, at: Duration) -> u32 {
        self.up_to(slot(at))
    }

    /// The least that it can have been at that time: so much had come before for certain.
    pub(super) fn at_least(&self, at: Duration) -> u32 {
        slot(at).checked_sub(1).map_or(0, |before| self.up_to(before))
    }

    /// About when it came to this number.
    pub(super) fn when(&self, number: u32) -> Option<Duration> {
        let place = self.slots.partition_point(|(_, count)| *count < number);
        self.slots.get(place).map(|(slot, _)| SLOT * *slot)
    }

    fn up_to(&self, slot: u32) -> u32 {
        let place = self.slots.partition_point(|(of, _)| *of <= slot);
        place.checked_sub(1).map_or(0, |place| self.slots[place].1)
    }
}

fn slot(at: Duration) -> u32 {
    u32::try_from(at.as_millis() / SLOT.as_millis()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn what_it_may_have_been_encloses_what_it_was() {
        let mut marks = Marks::default();
        (0..10_000).for_each(|number| marks.note(MS * number * 3, number + 1));
        for at in (0..30_000).step_by(7) {
            let exact = at / 3 + 1;
            let (least, most) = (marks.at_least(MS * at), marks.at_most(MS * at));
            assert!(least <= exact && exact <= most && most - least <= 250, "{at}: {least} {exact} {most}");
        }
        assert_eq!((marks.at_least(MS * 249), marks.at_most(Duration::ZERO)), (0, 84));
        assert_eq!(marks.slots.len(), 120);
        assert_eq!(marks.when(1000), Some(MS * 2750));
        assert_eq!(marks.when(10_001), None);
    }

    #[test]
    fn quiet_times_cost_nothing() {
        let mut marks = Marks::default();
        (0..100_000).for_each(|at| marks.note(MS * at, 1));
        assert_eq!(marks.slots, [(0, 1)]);
        assert_eq!((marks.at_least(MS * 100), marks.at_least(MS * 300)), (0, 1));
    }
}
