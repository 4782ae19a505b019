//! Letters that wait for one of the store's threads: bounded in number and in bytes, and never waited for by who sends.

use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{Letter, Request};

/// What may wait.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) letters: usize,
    pub(super) bytes: usize,
}

#[derive(Debug)]
pub(super) struct Queue {
    bounds: Bounds,
    state: Mutex<State>,
    arrived: Condvar,
}

#[derive(Debug, Default)]
struct State {
    letters: VecDeque<Letter>,
    bytes: usize,
    is_closed: bool,
}

/// What a wait for letters gave.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Waited {
    /// There are letters.
    Letters,
    /// There were none in that time.
    Nothing,
    /// There are none, and none will come.
    Closed,
}

impl Queue {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self { bounds, state: Mutex::default(), arrived: Condvar::new() }
    }

    /// Puts a letter at the end; gives it back if there is no room, or nobody will take it.
    #[expect(clippy::result_large_err, reason = "who sends goes on with the letter")]
    pub(super) fn push(&self, letter: Letter) -> Result<(), Letter> {
        let bytes = size_of_letter(&letter);
        let mut state = self.lock();
        let has_room = state.letters.len() < self.bounds.letters
            && state.bytes.saturating_add(bytes) <= self.bounds.bytes;
        // One that is larger than all the room there is goes alone.
        if state.is_closed || !(has_room || state.letters.is_empty()) {
            return Err(letter);
        }
        state.bytes += bytes;
        state.letters.push_back(letter);
        drop(state);
        self.arrived.notify_one();
        Ok(())
    }

    /// Waits for letters, at most this long.
    pub(super) fn wait(&self, most: Duration) -> Waited {
        let waiting = |state: &mut State| state.letters.is_empty() && !state.is_closed;
        let waited = self.arrived.wait_timeout_while(self.lock(), most, waiting);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        match (state.letters.is_empty(), state.is_closed) {
            (false, _) => Waited::Letters,
            (true, true) => Waited::Closed,
            (true, false) => Waited::Nothing,
        }
    }

    /// Everything that is there.
    pub(super) fn take_all(&self) -> VecDeque<Letter> {
        let mut state = self.lock();
        state.bytes = 0;
        std::mem::take(&mut state.letters)
    }

    /// The first letter.
    pub(super) fn take_one(&self) -> Option<Letter> {
        let mut state = self.lock();
        let letter = state.letters.pop_front()?;
        state.bytes = state.bytes.saturating_sub(size_of_letter(&letter));
        Some(letter)
    }

    pub(super) fn len(&self) -> usize {
        self.lock().letters.len()
    }

    /// Takes no more letters; those that are there are still given out.
    pub(super) fn close(&self) {
        self.lock().is_closed = true;
        self.arrived.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// About what a letter holds on to.
fn size_of_letter(letter: &Letter) -> usize {
    let payload = match &letter.request {
        Request::Commit(batch) => {
            let entries = batch.events.iter();
            entries.map(|entry| 256 + entry.event.content.body.len()).sum::<usize>()
                + 64 * (batch.refused.len() + batch.origins.len())
        }
        _ => 0,
    };
    size_of::<Letter>() + payload
}
