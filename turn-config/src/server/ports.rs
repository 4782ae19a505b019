//! The relay ports of one address family: which are free, and whose the others are.

/// Who has a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Holder {
    Nobody,
    /// Kept for whoever shows the token.
    Reservation,
    /// The allocation in this slot.
    Allocation(u32),
}

/// A range of ports. Ports are chosen at random, so that neither the next one nor one that was free a moment ago can be
/// foreseen ([RFC 8656 section 7.2](https://www.rfc-editor.org/rfc/rfc8656#section-7.2)).
#[derive(Debug)]
pub(super) struct Ports {
    first: u16,
    holders: Vec<Holder>,
    free: usize,
}

impl Ports {
    pub(super) fn new(first: u16, last: u16) -> Self {
        let holders = vec![Holder::Nobody; usize::from(last.saturating_sub(first)) + 1];
        Self { first, free: holders.len(), holders }
    }

    /// A free port, even if `even`, whose next one is free too if `with_next`. Nothing is taken.
    pub(super) fn find(&self, random: u64, even: bool, with_next: bool) -> Option<u16> {
        if self.free == 0 {
            return None;
        }
        let count = self.holders.len();
        let from = (random % count as u64) as usize;
        let suits = |at: &usize| {
            let next_is_free = || self.holders.get(at + 1) == Some(&Holder::Nobody);
            self.holders[*at] == Holder::Nobody
                && (!even || self.port(*at).is_multiple_of(2))
                && (!with_next || next_is_free())
        };
        (from..count).chain(0..from).find(suits).map(|at| self.port(at))
    }

    fn port(&self, at: usize) -> u16 {
        // The range ends at 65535 at most.
        self.first.wrapping_add(at as u16)
    }

    pub(super) fn give(&mut self, port: u16, slot: u32) {
        self.set(port, Holder::Allocation(slot));
    }

    pub(super) fn reserve(&mut self, port: u16) {
        self.set(port, Holder::Reservation);
    }

    pub(super) fn free(&mut self, port: u16) {
        self.set(port, Holder::Nobody);
    }

    fn set(&mut self, port: u16, to: Holder) {
        let Some(holder) = self.holders.get_mut(usize::from(port.wrapping_sub(self.first))) else { return };
        self.free += usize::from(*holder != Holder::Nobody);
        *holder = to;
        self.free -= usize::from(to != Holder::Nobody);
    }

    /// The slot of the allocation that has the port.
    pub(super) fn allocation(&self, port: u16) -> Option<u32> {
        match self.holders.get(usize::from(port.wrapping_sub(self.first)))? {
            Holder::Allocation(slot) => Some(*slot),
            Holder::Nobody | Holder::Reservation => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_port_of_the_range_is_given_once() {
        let mut ports = Ports::new(65_526, 65_535);
        let mut given = Vec::new();
        while let Some(port) = ports.find(u64::MAX - 7, false, false) {
            ports.give(port, 3);
            given.push(port);
        }
        given.sort_unstable();
        assert_eq!(given, (65_526..=65_535).collect::<Vec<_>>());
        assert_eq!((ports.allocation(65_530), ports.allocation(65_525)), (Some(3), None));
        ports.free(65_530);
        assert_eq!((ports.find(0, false, false), ports.allocation(65_530)), (Some(65_530), None));
    }

    #[test]
    fn an_even_port_comes_with_its_next_if_that_is_wanted() {
        let mut ports = Ports::new(50_001, 50_005);
        assert_eq!(ports.find(0, true, true), Some(50_002));
        ports.reserve(50_003);
        assert_eq!(ports.find(0, true, true), Some(50_004));
        assert_eq!(ports.find(0, true, false), Some(50_002));
        assert_eq!(ports.allocation(50_003), None);
        ports.give(50_005, 1);
        assert_eq!(ports.find(0, true, true), None);
    }
}
