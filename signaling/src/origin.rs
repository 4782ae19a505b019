//! The server's half of writing: what was taken from one origin, section 9.3 of `docs/protocol.md`.
//!
//! [`Taken`] tells whether a submission is the next one, a repetition, another one under a number that is used, or out of
//! order. It knows neither what a submission says nor whether it is permitted, and nothing of disks: the owner
//! (`src/room/log.rs`) tells it what became of a submission, and makes a new one from what is stored when a commit has
//! failed. The other half is a client's writer.

use std::collections::VecDeque;

use crate::code::Code;

/// Answers that are remembered beyond the window of a writer, so that a repetition is always recognised.
const REMEMBERED: usize = 2 * crate::limits::SUBMISSIONS;

/// What became of a submission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is being committed: the answer comes by itself.
    Pending,
    /// It is this event.
    Accepted(u64),
    /// It was refused for good.
    Refused(Code),
}

/// What a submission is, seen from its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// The next one.
    Next,
    /// The same was taken before.
    Repeated(Outcome),
    /// Another one was taken under its number.
    Conflict,
    /// One that comes before it is missing: this one.
    OutOfOrder(u32),
    /// It is so old that what became of it is known to the store alone.
    Forgotten,
}

/// What was taken from one origin.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Taken {
    last: u32,
    base: u32,
    /// Of consecutive numbers, the last one is that of `last`.
    answers: VecDeque<(u64, Outcome)>,
}

impl Taken {
    /// From what is stored: the last number, and `(cseq, hash, outcome)` in any order. Only an unbroken row of answers up
    /// to `last` is of use.
    pub fn restore(last: u32, mut stored: Vec<(u32, u64, Outcome)>) -> Self {
        stored.sort_by_key(|(cseq, ..)| std::cmp::Reverse(*cseq));
        let mut answers = VecDeque::new();
        for (cseq, hash, outcome) in stored {
            if cseq != last.wrapping_sub(answers.len() as u32) {
                break;
            }
            answers.push_front((hash, outcome));
        }
        Self { last, base: 1, answers }
    }

    /// The last submission that was taken; 0 for none.
    pub fn last(&self) -> u32 {
        self.last
    }

    /// The writer has an answer to everything below.
    pub fn base(&self) -> u32 {
        self.base
    }

    /// Judges the submission with this number and hash.
    pub fn judge(&self, cseq: u32, hash: u64) -> Judgement {
        if cseq > self.last {
            let expected = self.last + 1;
            return if cseq == expected { Judgement::Next } else { Judgement::OutOfOrder(expected) };
        }
        let age = (self.last - cseq) as usize;
        match self.answers.len().checked_sub(age + 1).map(|index| self.answers[index]) {
            Some((same, outcome)) if same == hash => Judgement::Repeated(outcome),
            Some(_) => Judgement::Conflict,
            None => Judgement::Forgotten,
        }
    }

    /// Takes the next submission.
    pub fn take(&mut self, hash: u64, outcome: Outcome) {
        self.last += 1;
        self.answers.push_back((hash, outcome));
        if self.answers.len() > REMEMBERED {
            self.answers.pop_front();
        }
    }

    /// A submission that was pending is durable.
    pub fn settle(&mut self, cseq: u32, outcome: Outcome) {
        let age = self.last.wrapping_sub(cseq) as usize;
        if let Some(index) = self.answers.len().checked_sub(age.saturating_add(1)) {
            self.answers[index].1 = outcome;
        }
    }

    /// The writer has answers to everything below `base`. If that is more than was ever taken, acknowledged submissions
    /// are lost: they are passed over, and which ones is returned.
    pub fn answered(&mut self, base: u32) -> Option<(u32, u32)> {
        self.base = self.base.max(base);
        if base <= self.last.saturating_add(1) {
            return None;
        }
        let lost = (self.last + 1, base - 1);
        self.last = base - 1;
        self.answers.clear();
        Some(lost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(count: u32) -> Taken {
        let mut taken = Taken::default();
        for cseq in 1..=count {
            assert_eq!(taken.judge(cseq, cseq.into()), Judgement::Next);
            taken.take(cseq.into(), Outcome::Pending);
        }
        taken
    }

    #[test]
    fn numbers_go_up_one_by_one() {
        let taken = taken(3);
        assert_eq!(taken.judge(4, 4), Judgement::Next);
        assert_eq!(taken.judge(6, 6), Judgement::OutOfOrder(4));
        assert_eq!(taken.judge(u32::MAX, 6), Judgement::OutOfOrder(4));
    }

    #[test]
    fn a_repetition_is_answered_as_before_and_another_submission_is_a_conflict() {
        let mut taken = taken(3);
        assert_eq!(taken.judge(2, 2), Judgement::Repeated(Outcome::Pending));
        taken.settle(2, Outcome::Accepted(70));
        taken.settle(3, Outcome::Refused(Code::Forbidden));
        assert_eq!(taken.judge(2, 2), Judgement::Repeated(Outcome::Accepted(70)));
        assert_eq!(taken.judge(3, 3), Judgement::Repeated(Outcome::Refused(Code::Forbidden)));
        assert_eq!(taken.judge(3, 2), Judgement::Conflict);
    }

    #[test]
    fn every_number_of_a_window_is_remembered_and_the_oldest_are_not() {
        let taken = taken(1000);
        assert_eq!(taken.judge(1000 - REMEMBERED as u32, 1), Judgement::Forgotten);
        let oldest = 1001 - REMEMBERED as u32;
        assert_eq!(taken.judge(oldest, oldest.into()), Judgement::Repeated(Outcome::Pending));
        assert_eq!(taken.judge(0, 0), Judgement::Forgotten);
    }

    #[test]
    fn what_is_stored_restores_as_far_as_it_is_unbroken() {
        let stored =
            vec![(5, 50, Outcome::Accepted(9)), (2, 20, Outcome::Accepted(2)), (4, 40, Outcome::Accepted(8))];
        let taken = Taken::restore(5, stored);
        assert_eq!(taken.judge(4, 40), Judgement::Repeated(Outcome::Accepted(8)));
        assert_eq!(taken.judge(3, 30), Judgement::Forgotten);
        assert_eq!(taken.judge(2, 20), Judgement::Forgotten);
        assert_eq!(taken.judge(6, 60), Judgement::Next);
        assert_eq!(Taken::restore(5, Vec::new()).judge(5, 50), Judgement::Forgotten);
    }

    #[test]
    fn a_writer_that_has_answers_to_what_was_never_taken_shows_what_is_lost() {
        let mut taken = taken(3);
        assert_eq!(taken.answered(2), None);
        assert_eq!(taken.answered(4), None);
        assert_eq!(taken.answered(8), Some((4, 7)));
        assert_eq!(taken.judge(8, 8), Judgement::Next);
        assert_eq!(taken.judge(3, 3), Judgement::Forgotten);
    }
}
