//! Faults in passing data messages on, for the load program to find: planted by a test in the server that runs in its own
//! process, and compiled into no other.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::{Delivery, Output};

/// What goes wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// One in so many messages goes to nobody.
    DropsOneIn(u64),
    /// The message with this number, counted over all rooms, comes twice.
    Doubles(u64),
    /// Whatever this user sends waits for so long.
    Delays(String, Duration),
}

static PLANTED: Mutex<Option<Fault>> = Mutex::new(None);
static PASSED: AtomicU64 = AtomicU64::new(0);

/// Plants a fault in every room of this process, or takes it out, and begins to count anew.
pub fn plant(fault: Option<Fault>) {
    PASSED.store(0, Ordering::Relaxed);
    *PLANTED.lock().unwrap_or_else(PoisonError::into_inner) = fault;
}

/// Deliveries that a room holds back.
#[derive(Debug, Default)]
pub(super) struct Late(VecDeque<(Instant, Delivery)>);

impl Late {
    /// Does to a user's message what was planted.
    pub(super) fn pass(
        &mut self,
        user: &str,
        delivery: Delivery,
        now: Instant,
        outputs: &mut VecDeque<Output>,
    ) {
        let number = PASSED.fetch_add(1, Ordering::Relaxed) + 1;
        match &*PLANTED.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(Fault::DropsOneIn(every)) if number.is_multiple_of(*every) => return,
            Some(Fault::Doubles(which)) if number == *which => {
                outputs.push_back(Output::Deliver(delivery.clone()));
            }
            Some(Fault::Delays(whose, by)) if whose == user => {
                return self.0.push_back((now + *by, delivery));
            }
            _ => {}
        }
        outputs.push_back(Output::Deliver(delivery));
    }

    /// Lets go what is due.
    pub(super) fn handle_timeout(&mut self, now: Instant, outputs: &mut VecDeque<Output>) {
        while self.poll_timeout().is_some_and(|at| at <= now)
            && let Some((_, delivery)) = self.0.pop_front()
        {
            outputs.push_back(Output::Deliver(delivery));
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.0.front().map(|(at, _)| *at)
    }
}
