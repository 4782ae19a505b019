//! The trait that databases implement: [`Backend`] opens connections, a [`Writer`] changes, a [`Reader`] reads.
//!
//! Both block, belong to one thread each, and know nothing of rooms' tickets, queues or time-outs; that is
//! [`super::threads`]'s. A call that answers [`StoreError::Unavailable`] leaves the connection in an unknown state, and
//! perhaps, where the answer to a commit got lost, something durable that nobody was told of: the caller drops the
//! connection and opens another one. One suite in `tests/store` holds for every implementation.

use std::{fmt, sync::Arc, time::Duration};

use switchyard_signaling::event::Origin;

use super::{Batch, Entry, KnownMessage, KnownOrigin, Loaded, Note, Page, PageQuery, StoreError};
use crate::names::RoomKey;

/// Bytes of bodies and names that [`Loaded::recent`] has at most.
pub const RECENT_BYTES: usize = 256 * 1024;
/// Events that one answer has at most.
pub const EVENTS: u32 = 1000;
/// Submissions of an origin that are told at most.
pub const ORIGIN_EVENTS: u32 = 4096;
/// An origin that has nothing in the log, and a refusal, are forgotten when they were not used for so long.
pub const ORIGIN_AGE: Duration = Duration::from_secs(30 * 86_400);

/// A database.
pub trait Backend: fmt::Debug + Send + Sync {
    /// Opens the connection that changes things, and brings the schema up to date.
    ///
    /// # Errors
    /// If it cannot be reached, or its schema is one of a later version.
    fn writer(&self) -> Result<Box<dyn Writer>, StoreError>;

    /// Opens a connection that reads.
    ///
    /// # Errors
    /// If it cannot be reached.
    fn reader(&self) -> Result<Box<dyn Reader>, StoreError>;

    /// Bytes on disk, where that is cheap to know.
    fn size(&self) -> Option<u64>;
}

/// The connection that changes things. Each call is one transaction, durable when it returns.
pub trait Writer: Send {
    /// Takes rooms: raises their fences and says how their logs stand, in the same order. A room that is not there is
    /// made.
    ///
    /// # Errors
    /// Of all rooms together.
    fn load(&mut self, keys: &[RoomKey]) -> Result<Vec<Loaded>, StoreError>;

    /// Raises a room's epoch, because its log has lost its end, and its fence.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    fn raise_epoch(&mut self, key: &RoomKey) -> Result<Loaded, StoreError>;

    /// Commits what can be committed, all in one transaction. The answers are in the order of the batches: one that is
    /// fenced, or whose room's log does not end where it expects, fails alone. Several batches of a room follow each
    /// other.
    ///
    /// # Errors
    /// If nothing was committed. [`StoreError::Damaged`] says that the database refused what some batch says.
    fn try_commit(&mut self, batches: &[Batch], now: u64) -> Result<Vec<Result<(), StoreError>>, StoreError>;

    /// Notes who came and went.
    ///
    /// # Errors
    /// If nothing was noted.
    fn note(&mut self, notes: &[Note]) -> Result<(), StoreError>;

    /// Removes a little of what is older than it has to be, and says whether there may be more.
    ///
    /// # Errors
    /// If nothing was removed.
    fn retain(&mut self, retention: &Retention, now: u64) -> Result<bool, StoreError>;

    /// Ends the connection, with everything where it belongs.
    ///
    /// # Errors
    /// If something is left for the next one to do.
    fn close(self: Box<Self>) -> Result<(), StoreError>;

    /// [`try_commit`](Self::try_commit); where the database refuses what some batch says, each is committed alone, so
    /// that one batch's fault is not another's. `now` is in milliseconds since 1970.
    fn commit_all(&mut self, batches: &[Batch], now: u64) -> Vec<Result<(), StoreError>> {
        let all = |error: StoreError| batches.iter().map(|_| Err(error.clone())).collect();
        match self.try_commit(batches, now) {
            Ok(results) => results,
            Err(StoreError::Damaged(_)) if batches.len() > 1 => {
                let mut results = Vec::with_capacity(batches.len());
                for batch in batches {
                    let result = self.try_commit(std::slice::from_ref(batch), now);
                    results.push(result.and_then(|mut results| results.pop().unwrap_or(Ok(()))));
                    // What follows would only wait for the same time-out.
                    if let Some(Err(error @ StoreError::Unavailable(_))) = results.last().cloned() {
                        results.resize(batches.len(), Err(error));
                        break;
                    }
                }
                results
            }
            Err(error) => all(error),
        }
    }
}

/// A connection that reads. It sees every commit that was answered before the call.
pub trait Reader: Send {
    /// Events behind `after`, up to `to`, in order: at most `bytes` of bodies and names and [`EVENTS`] of them, but one
    /// at least if there is one. They begin later than `after + 1` where that is no longer kept.
    ///
    /// # Errors
    /// If the database cannot be read.
    fn events(
        &mut self,
        key: &RoomKey,
        after: u64,
        to: u64,
        bytes: usize,
    ) -> Result<Vec<Arc<Entry>>, StoreError>;

    /// The digest of the event with this `seq`, if it is kept.
    ///
    /// # Errors
    /// If the database cannot be read.
    fn digest(&mut self, key: &RoomKey, seq: u64) -> Result<Option<u64>, StoreError>;

    /// What is known of an origin.
    ///
    /// # Errors
    /// If the database cannot be read.
    fn origin(&mut self, key: &RoomKey, origin: Origin) -> Result<KnownOrigin, StoreError>;

    /// The room's fields: their names, and how many bytes their values have.
    ///
    /// # Errors
    /// If the database cannot be read.
    fn fields(&mut self, key: &RoomKey) -> Result<Vec<(String, usize)>, StoreError>;

    /// What is known of a message, if it is kept.
    ///
    /// # Errors
    /// If the database cannot be read.
    fn message(&mut self, key: &RoomKey, seq: u64) -> Result<Option<KnownMessage>, StoreError>;

    /// A page of messages.
    ///
    /// # Errors
    /// If the database cannot be read.
    fn page(&mut self, query: &PageQuery) -> Result<Page, StoreError>;

    /// Keeps files in shape while others write; called a few times a second, and cheap if there is nothing to do.
    ///
    /// # Errors
    /// If the database cannot be reached.
    fn tidy(&mut self) -> Result<(), StoreError>;
}

/// What may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Retention {
    /// Events older than this.
    pub max_age: Option<Duration>,
    /// Events of a room beyond so many newer ones.
    pub max_events: Option<u64>,
}

impl Retention {
    /// Rooms that one step looks at.
    pub(super) const ROOMS: u32 = 64;
    /// Events that one step removes from a room.
    pub(super) const EVENTS: u64 = 500;

    /// What was before this time, in milliseconds since 1970, may go.
    pub(super) fn oldest(&self, now: u64) -> Option<u64> {
        self.max_age.map(|age| now.saturating_sub(millis(age)))
    }

    /// The first event that has to stay for the number's sake.
    pub(super) fn first(&self, head: u64) -> u64 {
        self.max_events.map_or(0, |most| (head + 1).saturating_sub(most))
    }
}

/// Origins and refusals that were last used before this time may go.
pub(super) fn oldest_origin(now: u64) -> u64 {
    now.saturating_sub(millis(ORIGIN_AGE))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
