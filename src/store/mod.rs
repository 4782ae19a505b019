//! What survives: rooms' logs, messages, origins, participants and sessions (STO1–STO3).
//!
//! A room hands its batches over one after the other, and acknowledges and fans out an event when the store has said
//! that it is durable. [`Request`] and [`Reply`] are all that rooms know of a store; they never wait for one. Behind
//! them [`Backend`] is the trait with its implementations, and [`Store`] the threads that drive one of them: one
//! writer that commits the batches of many rooms in one transaction, and readers apart.

pub mod backend;
mod form;
mod page;
mod plan;
mod postgres;
mod queue;
mod sqlite;
mod threads;

pub use backend::{Backend, Reader, Retention, Writer};
pub use postgres::Postgres;
pub use sqlite::Sqlite;
pub use threads::{Replies, Store};

use std::sync::Arc;

use bytes::Bytes;
use switchyard_signaling::{
    Code,
    event::{Event, Origin},
};

use crate::names::{RoomKey, RoomPlace};

/// The end of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Head {
    /// Counts restored backups.
    pub epoch: u32,
    /// The last event; 0 for none.
    pub seq: u64,
    /// Its chained digest; 0 for none.
    pub digest: u64,
}

/// An event with what is stored beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The event.
    pub event: Event,
    /// Of the submission: tells a repetition from another one with the same number.
    pub hash: u64,
    /// Chained over the log up to here.
    pub digest: u64,
}

/// A permanent refusal, kept until its writer has seen it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Whose submission.
    pub origin: Origin,
    /// Which one.
    pub cseq: u32,
    /// Of the submission.
    pub hash: u64,
    /// Why.
    pub code: Code,
}

/// What is to be known of an origin after a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OriginMark {
    /// Which one.
    pub origin: Origin,
    /// Whose it is.
    pub user: Arc<str>,
    /// The last submission that was taken or refused.
    pub last: u32,
    /// Refusals below are forgotten.
    pub base: u32,
    /// Submissions `from..=to` were acknowledged once and are not in this log: it was restored from a backup.
    pub abandoned: Option<(u32, u32)>,
}

/// Changes of a room that belong together: all or nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Which room.
    pub key: RoomKey,
    /// The token that the room got when it was loaded; a later loading, by whomever, has a higher one.
    pub fence: u64,
    /// The end of the log that the batch was decided against.
    pub expects: Head,
    /// The end of the log after it.
    pub head: Head,
    /// In order of `seq`, from `expects.seq + 1`. What they do to messages, reactions and fields is done in the same
    /// transaction.
    pub events: Vec<Arc<Entry>>,
    /// In no order.
    pub refused: Vec<Refused>,
    /// One for each origin that the batch concerns.
    pub origins: Vec<OriginMark>,
}

/// Why the store did not do it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Somebody else has the room.
    #[error("another server has loaded this room")]
    Fenced,
    /// The log does not end where the batch expects.
    #[error("the log does not end where the batch expects")]
    HeadMoved,
    /// Disk full, file locked, database away: later perhaps.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// What is stored cannot be understood.
    #[error("the store is damaged: {0}")]
    Damaged(String),
}

/// What a room asks.
#[derive(Debug)]
pub enum Request {
    /// Take the room: raise its fence and say how its log stands. A room that is not there is made.
    Load(RoomKey),
    /// Make this durable.
    Commit(Batch),
    /// Raise the epoch: the log has lost its end. Answered like a load.
    RaiseEpoch(RoomKey),
    /// Events behind `after`, at most this many bytes of bodies and 1,000 events, at least one if there is one.
    Events {
        /// Which room.
        key: RoomKey,
        /// Behind this `seq`.
        after: u64,
        /// To this one.
        to: u64,
        /// Bytes of bodies and names.
        bytes: usize,
    },
    /// The digest of the event with this `seq`.
    Digest(RoomKey, u64),
    /// What is known of an origin: its mark, its last events and its refusals.
    Origin(RoomKey, Origin),
    /// Kind, author and state of a message.
    Message(RoomKey, u64),
    /// The room's fields: their names, and how long their values are.
    Fields(RoomKey),
    /// A page of messages, ready to be sent.
    Page(PageQuery),
    /// Who came and went; nobody waits for it.
    Note(Note),
}

impl Request {
    /// The answer that this is not done; none to a request that nobody waits for.
    pub fn failed(&self, error: StoreError) -> Option<Answer> {
        Some(match self {
            Self::Load(_) | Self::RaiseEpoch(_) => Answer::Loaded(Err(error)),
            Self::Commit(_) => Answer::Committed(Err(error)),
            Self::Events { .. } => Answer::Events(Err(error)),
            Self::Digest(..) => Answer::Digest(Err(error)),
            Self::Origin(..) => Answer::Origin(Err(error)),
            Self::Message(..) => Answer::Message(Err(error)),
            Self::Fields(_) => Answer::Fields(Err(error)),
            Self::Page(_) => Answer::Page(Err(error)),
            Self::Note(_) => return None,
        })
    }
}

/// Which messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageQuery {
    /// Which room.
    pub key: RoomKey,
    /// Before this `seq`; none for the newest.
    pub before: Option<u64>,
    /// Not beyond this `seq`: the snapshot's own.
    pub up_to: Option<u64>,
    /// At most.
    pub limit: usize,
    /// Of this thread alone.
    pub parent: Option<u64>,
    /// With the room's fields, for a snapshot.
    pub fields: bool,
    /// JSON members, with a comma behind each, that the answer begins with.
    pub prefix: String,
}

/// What is noted of sessions and participants (STO2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// A session became a member.
    Joined {
        /// Which room.
        key: RoomKey,
        /// The session as clients name it.
        session: String,
        /// The user.
        user: Arc<str>,
        /// Display name.
        name: Arc<str>,
        /// Role.
        role: &'static str,
        /// Milliseconds since 1970.
        at: u64,
    },
    /// It left.
    Left {
        /// Which room.
        key: RoomKey,
        /// The session as clients name it.
        session: String,
        /// The user.
        user: Arc<str>,
        /// Why.
        reason: Code,
        /// Milliseconds since 1970.
        at: u64,
    },
}

/// What a room is answered.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// To a load, and to a raised epoch.
    Loaded(Result<Loaded, StoreError>),
    /// To a commit. After a failure every later batch of the room fails, until it is loaded again.
    Committed(Result<(), StoreError>),
    /// To a question for events: in order, contiguous.
    Events(Result<Vec<Arc<Entry>>, StoreError>),
    /// To a question for a digest; none if the event is not there (any more).
    Digest(Result<Option<u64>, StoreError>),
    /// To a question for an origin.
    Origin(Result<KnownOrigin, StoreError>),
    /// To a question for a message; none if there is none.
    Message(Result<Option<KnownMessage>, StoreError>),
    /// To a question for the fields: names, and bytes of the values.
    Fields(Result<Vec<(String, usize)>, StoreError>),
    /// To a question for a page.
    Page(Result<Page, StoreError>),
}

/// How a room's log stands.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Loaded {
    /// Goes into every batch.
    pub fence: u64,
    /// The end.
    pub head: Head,
    /// The first event that is kept; `head.seq + 1` when none is.
    pub first: u64,
    /// The newest events, in order, at most 256 KiB of them: what most readers miss.
    pub recent: Vec<Arc<Entry>>,
}

/// An origin, as far as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct KnownOrigin {
    /// None if it is not known.
    pub user: Option<Arc<str>>,
    /// The last submission that was taken or refused; 0 for none.
    pub last: u32,
    /// `(cseq, hash, seq)` of its events, newest last, at most 4,096.
    pub events: Vec<(u32, u64, u64)>,
    /// Its refusals that its writer may not have seen.
    pub refused: Vec<Refused>,
}

/// A message, as far as it matters for what others do to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownMessage {
    /// Who wrote it.
    pub user: Arc<str>,
    /// Whether it was deleted.
    pub is_deleted: bool,
}

/// Messages as they are sent (sections 9.4 and 9.5 of the protocol).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// 0: `json` is plain. 1: it is compressed, raw DEFLATE.
    pub encoding: u8,
    /// `{` prefix, `"messages":[…],"more":…` and, if asked for, `,"fields":{…}` `}`.
    pub json: Bytes,
}

/// A request and who asks.
#[derive(Debug)]
pub struct Letter {
    /// The room that is answered.
    pub from: RoomPlace,
    /// Chosen by the room, repeated in the answer.
    pub ticket: u64,
    /// What is asked.
    pub request: Request,
}

/// An answer and whom it is for. A [`Note`] has none.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    /// The room.
    pub to: RoomPlace,
    /// Of the letter.
    pub ticket: u64,
    /// The answer.
    pub answer: Answer,
}
