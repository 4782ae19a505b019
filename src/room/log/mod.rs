//! A room's log: the sequencer (D3). It decides which submission becomes which event, hands batches to the store, and
//! acknowledges and passes on only what the store says is durable.
//!
//! ```text
//! submission ─► is it new? (origin) ─► may it? (content) ─► decided ─► batch ─► store
//!                                                                               │
//! followers ◄─ EVENTs and HEAD ◄─ committed ◄───────────────────────────────────┘
//! ```
//!
//! Decisions are made against *decided* state: what is committed and what is on its way there. One batch is with the
//! store at a time; what comes meanwhile makes the next one, so batches grow with load. When a commit fails, everything
//! decided and not committed is forgotten, its writers are told to come again, and the log is loaded anew.
//!
//! What has to be looked up first (the log itself, an origin, a message that is edited) is asked of the store, and the
//! submission is *parked*, with all that its author sends after it.
//!
//! - this file: the log's state and the ways in; [`parked`] and [`submit`]: from a record to an event; [`answers`]: what
//!   writers are told; [`commit`]: to the store and back;
//! - [`follow`]: who reads, from where; [`streams`]: messages being written; [`backend`]: the application's backend as an
//!   author.
//!
//! It knows members by their number in the room and never a session, a pipe or a disk.

mod answers;
mod backend;
mod commit;
mod follow;
mod parked;
mod streams;
mod submit;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use ring::hmac;
use switchyard_signaling::{
    Code,
    event::{Content, EventKind, Origin, Submission},
    message::ServerControl,
    origin::Taken,
    record::ClientRecord,
};

pub use self::backend::{
    BackendAct, BackendAnswer, BackendError, BackendRequest, BackendStream, BackendWrite,
};
use self::{
    follow::{Asked as AskedToFollow, Follower},
    parked::Parked,
    streams::Streams,
};
use super::{
    Members,
    content::{self, FieldSizes, Refusal},
    permission::Permissions,
};
use crate::{
    bucket::Bucket,
    names::{RoomKey, WallClock},
    store::{Answer, Entry, Head, KnownMessage, Refused, Request},
};

/// Committed events that are kept for readers who missed a little.
const RECENT: usize = 1024;
/// Their bytes.
const RECENT_BYTES: usize = 256 * 1024;
/// Events that may be decided and not committed, and bytes of bodies in them. Beyond it writers are told to come again.
const DECIDED: usize = 4096;
/// See [`DECIDED`].
const DECIDED_BYTES: usize = 4 * 1024 * 1024;
/// Bytes for the position behind the events of a message.
const HEAD_BYTES: usize = 64;
/// Records that may be parked, and bytes in them.
const PARKED: usize = 1024;
/// See [`PARKED`].
const PARKED_BYTES: usize = 1024 * 1024;
/// Records of one author that may be parked, and questions that they may lead to: nobody takes all the room.
const PARKED_PER_AUTHOR: usize = 128;
/// Origins and messages that are kept in memory; others are asked for again.
const KEPT: usize = 1024;
/// From one attempt to load the log to the next, after a failure.
const RELOAD: Duration = Duration::from_millis(500);
/// At most.
const RELOAD_MOST: Duration = Duration::from_secs(10);
/// A writer that is told once what is expected is not told again for so long.
const TOLD: Duration = Duration::from_secs(1);
/// When a backend may ask again what is being committed.
const AGAIN: Duration = Duration::from_millis(20);

/// What the operator allows, and what the server knows.
#[derive(Clone, Debug)]
pub struct LogSettings {
    /// Submissions per minute and user; 0 for any number.
    pub writes_per_minute: u32,
    /// Submissions at once.
    pub write_burst: u32,
    /// A reader who is farther behind gets a snapshot.
    pub resync_events: u64,
    /// A log without members is closed after this time (STO3).
    pub idle: Duration,
    /// Secrets of tenants, from which proofs of positions are made.
    pub secrets: BTreeMap<String, Vec<u8>>,
    /// What time it is.
    pub clock: WallClock,
}

impl LogSettings {
    /// Without limits and secrets.
    pub fn new(clock: WallClock) -> Self {
        Self {
            writes_per_minute: 0,
            write_burst: 0,
            resync_events: 1000,
            idle: Duration::from_secs(30 * 60),
            secrets: BTreeMap::new(),
            clock,
        }
    }
}

/// What a log says.
#[derive(Debug)]
pub(super) enum Said {
    /// Records for one member.
    To(u32, Bytes),
    /// Records for every live follower.
    Live(Bytes),
    /// A control message for one member.
    Control(u32, ServerControl),
    /// A member's request is refused.
    Refuse(u32, u32, Code, &'static str),
    /// The store is asked.
    Store(u64, Request),
    /// A request of the backend is answered.
    Backend(u64, Result<BackendAnswer, BackendError>),
    /// Something to count.
    Count(LogTally),
}

/// What is counted about logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogTally {
    /// An event was committed.
    Event(EventKind),
    /// A submission was refused.
    Refused(Code),
    /// A submission was put off.
    Expected(Code),
    /// A submission was one that had been taken before.
    Repeated,
    /// Two writers used one origin.
    Conflict,
    /// A follower got a snapshot.
    Snapshot(&'static str),
    /// Submissions that had been acknowledged are not in the log.
    Abandoned,
    /// A log was loaded.
    Loaded,
    /// The store failed.
    Failed,
}

/// Who writes.
#[derive(Clone, Debug)]
struct Author {
    by: By,
    user: Arc<str>,
    name: Arc<str>,
    /// None: everything.
    permissions: Option<Permissions>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Member(u32),
    Backend(u64),
    Room,
}

#[derive(Debug)]
enum Phase {
    /// The store has been asked.
    Loading,
    /// Decisions can be made.
    Ready,
    /// What is decided is being committed, and then the epoch is raised.
    Raising,
    /// The store has failed; it is asked again then.
    Failed { retry: Instant, pause: Duration, code: Code },
}

/// An origin in memory.
#[derive(Debug)]
struct Writer {
    user: Arc<str>,
    taken: Taken,
    /// What the writer has been told to send next, to whom and until when that holds.
    told: Option<(By, u32, Instant)>,
    used: Instant,
}

/// Decided, and not committed.
#[derive(Debug, Default)]
struct Decided {
    events: Vec<Arc<Entry>>,
    /// The events as followers get them, one behind the other, and where each ends.
    encoded: BytesMut,
    ends: Vec<usize>,
    /// Streams that end with an event of these.
    ended: Vec<(u32, u64)>,
    refused: Vec<Refused>,
    abandoned: BTreeMap<Origin, (u32, u32)>,
    origins: BTreeSet<Origin>,
    by: BTreeMap<(Origin, u32), By>,
}

impl Decided {
    fn is_empty(&self) -> bool {
        self.events.is_empty() && self.refused.is_empty() && self.abandoned.is_empty()
    }
}

#[derive(Debug)]
struct InFlight {
    decided: Decided,
    head: Head,
}

/// What the store was asked for.
#[derive(Debug)]
enum Asked {
    Load,
    Commit,
    Raise,
    Origin(Origin),
    /// What became of a submission that only the store remembers.
    Forgotten(Author, Submission, u64),
    Message(u64),
    Fields,
    Follow(AskedToFollow),
}

/// Whether something has been dealt with, or waits for the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Done,
    Wait,
}

/// The log of one room.
#[derive(Debug)]
pub(super) struct Log {
    key: RoomKey,
    settings: Arc<LogSettings>,
    proof_key: ProofKey,
    phase: Phase,
    fence: u64,
    /// The end of what is durable.
    head: Head,
    /// The first event that is kept.
    first: u64,
    /// The end of what is decided.
    decided_head: Head,
    open: Decided,
    in_flight: Option<InFlight>,
    recent: VecDeque<Arc<Entry>>,
    recent_bytes: usize,
    origins: BTreeMap<Origin, Writer>,
    messages: BTreeMap<u64, KnownMessage>,
    /// How long the room's fields are, once somebody has changed one.
    fields: Option<FieldSizes>,
    asked: BTreeMap<u64, Asked>,
    next_ticket: u64,
    parked: VecDeque<Parked>,
    parked_bytes: usize,
    followers: BTreeMap<u32, Follower>,
    streams: Streams,
    rates: BTreeMap<Arc<str>, Bucket>,
    issued: u64,
    /// Records for members, put together while one input is handled.
    answers: BTreeMap<u32, BytesMut>,
    said: VecDeque<Said>,
    #[cfg(feature = "plants")]
    pub(super) plant: Option<super::Plant>,
}

/// Makes and checks proofs; it shows nothing of itself.
struct ProofKey(hmac::Key);

impl std::fmt::Debug for ProofKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ProofKey")
    }
}

impl ProofKey {
    /// Shows that this server, or one with the same secrets, has said so.
    fn proof(&self, key: &RoomKey, head: Head) -> u64 {
        self.number(&[
            b"position",
            key.tenant.as_bytes(),
            &[0xff],
            key.room.as_bytes(),
            &[0xff],
            &head.epoch.to_be_bytes(),
            &head.seq.to_be_bytes(),
            &head.digest.to_be_bytes(),
        ])
    }

    fn number(&self, parts: &[&[u8]]) -> u64 {
        let mut context = hmac::Context::with_key(&self.0);
        for part in parts {
            context.update(part);
        }
        first_u64(context.sign().as_ref())
    }
}

impl Log {
    /// A log that is being loaded. `entropy` must not be guessable: origins are made of it.
    pub(super) fn new(key: RoomKey, settings: Arc<LogSettings>, entropy: u64) -> Self {
        let secret = settings.secrets.get(&*key.tenant).map_or(&[][..], |secret| secret);
        let proof_key = ProofKey(hmac::Key::new(hmac::HMAC_SHA256, secret));
        let mut log = Self {
            proof_key,
            phase: Phase::Loading,
            fence: 0,
            head: Head::default(),
            first: 1,
            decided_head: Head::default(),
            open: Decided::default(),
            in_flight: None,
            recent: VecDeque::new(),
            recent_bytes: 0,
            origins: BTreeMap::new(),
            messages: BTreeMap::new(),
            fields: None,
            asked: BTreeMap::new(),
            next_ticket: 1,
            parked: VecDeque::new(),
            parked_bytes: 0,
            followers: BTreeMap::new(),
            streams: Streams::default(),
            rates: BTreeMap::new(),
            issued: entropy,
            answers: BTreeMap::new(),
            said: VecDeque::new(),
            #[cfg(feature = "plants")]
            plant: None,
            key,
            settings,
        };
        log.ask(Asked::Load, Request::Load(log.key.clone()));
        log
    }

    /// What the log says next.
    pub(super) fn poll(&mut self) -> Option<Said> {
        self.said.pop_front()
    }

    /// Whether nothing is under way to the store or from it.
    pub(super) fn is_quiet(&self) -> bool {
        self.asked.is_empty() && self.open.is_empty() && !self.streams.any()
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let retry = match self.phase {
            Phase::Failed { retry, .. } => Some(retry),
            _ => None,
        };
        [retry, self.streams.poll_timeout(), self.retry_followers_at()].into_iter().flatten().min()
    }

    /// Does what is due.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if let Phase::Failed { retry, pause, code } = self.phase
            && retry <= now
        {
            // The answer tells how it went on; until then it has failed.
            let pause = (pause * 2).min(RELOAD_MOST);
            self.phase = Phase::Failed { retry: now + RELOAD_MOST * 3, pause, code };
            self.ask(Asked::Load, Request::Load(self.key.clone()));
        }
        for stream in self.streams.stale(now) {
            self.give_up(stream, true, now);
        }
        self.retry_followers(now);
        self.finish(now);
    }

    /// Records of a member; those of one message.
    pub(super) fn handle_records(
        &mut self,
        members: &Members,
        member: u32,
        records: impl Iterator<Item = ClientRecord>,
        now: Instant,
    ) {
        for record in records {
            self.take(members, Parked::Record(member, record), now);
        }
        self.finish(now);
    }

    /// A member wants to write: with a fresh origin, or with one of before.
    pub(super) fn writer(
        &mut self,
        members: &Members,
        (member, id): (u32, u32),
        (origin, base): (Option<Origin>, u32),
        now: Instant,
    ) {
        match origin {
            None => {
                let origin = self.fresh_origin();
                self.said.push_back(Said::Control(member, ServerControl::Writer { id, origin, next: 1 }));
            }
            Some(origin) => self.take(members, Parked::Writer(member, id, origin, base), now),
        }
        self.finish(now);
    }

    /// The backend acts.
    pub(super) fn backend(&mut self, members: &Members, request: BackendRequest, now: Instant) {
        self.take(members, Parked::Backend(request), now);
        self.finish(now);
    }

    /// A member is gone.
    pub(super) fn forget_member(&mut self, member: u32, now: Instant) {
        self.followers.remove(&member);
        for stream in self.streams.of(By::Member(member)) {
            self.give_up(stream, true, now);
        }
        self.finish(now);
    }

    /// A number that names a new writer; not to be guessed.
    pub(super) fn fresh_origin(&mut self) -> Origin {
        self.issued = self.issued.wrapping_add(1);
        Origin(self.proof_key.number(&[b"origin", self.key.room.as_bytes(), &self.issued.to_be_bytes()]))
    }

    /// The store's answer.
    pub(super) fn handle_answer(&mut self, members: &Members, ticket: u64, answer: Answer, now: Instant) {
        let Some(asked) = self.asked.remove(&ticket) else { return };
        match (asked, answer) {
            (Asked::Load | Asked::Raise, Answer::Loaded(Ok(loaded))) => self.loaded(loaded, now),
            (Asked::Load, Answer::Loaded(Err(error))) => self.failed(&error, now),
            (Asked::Raise, Answer::Loaded(Err(error))) => self.failed(&error, now),
            (Asked::Commit, Answer::Committed(Ok(()))) => self.committed(now),
            (Asked::Commit, Answer::Committed(Err(error))) => self.failed(&error, now),
            (Asked::Origin(origin), Answer::Origin(Ok(known))) => {
                self.know_origin(members, origin, known, now);
            }
            (Asked::Forgotten(author, submission, hash), Answer::Origin(Ok(known))) => {
                self.remember(&author, &submission, hash, &known);
            }
            (Asked::Fields, Answer::Fields(Ok(fields))) => self.fields = Some(fields.into_iter().collect()),
            (Asked::Message(seq), Answer::Message(Ok(known))) => {
                // Nothing that was decided meanwhile is overwritten: a message that is asked for is not known.
                let gone = KnownMessage { user: "".into(), is_deleted: true };
                self.messages.entry(seq).or_insert(known.unwrap_or(gone));
            }
            (Asked::Follow(asked), answer) => self.follow_answered(asked, answer, now),
            (Asked::Forgotten(author, submission, _), _) => {
                let later = (Code::StorageUnavailable, RELOAD);
                self.expected(author.by, submission.origin, submission.cseq, later, now);
                self.drop_parked(now);
            }
            // A question that failed: who waits comes again.
            _ => self.drop_parked(now),
        }
        self.unpark(members, now);
        self.finish(now);
    }

    fn decided_events(&self) -> usize {
        self.open.events.len() + self.in_flight.as_ref().map_or(0, |batch| batch.decided.events.len())
    }

    fn decided_bytes(&self) -> usize {
        self.open.encoded.len() + self.in_flight.as_ref().map_or(0, |batch| batch.decided.encoded.len())
    }

    /// Submissions per second and at once, unless any number is allowed.
    fn rate(&self) -> Option<(f64, f64)> {
        let LogSettings { writes_per_minute, write_burst, .. } = *self.settings;
        (writes_per_minute > 0).then(|| (f64::from(writes_per_minute) / 60.0, f64::from(write_burst.max(1))))
    }

    fn bucket(&mut self, user: &Arc<str>, most: f64, now: Instant) -> &mut Bucket {
        if self.rates.len() >= KEPT && !self.rates.contains_key(user) {
            // A user that comes and goes gains nothing: a bucket is only forgotten when it is full again.
            let per_second = self.rate().map_or(0.0, |(rate, _)| rate);
            self.rates
                .retain(|_, bucket| bucket.check(per_second, most, now).is_err() || !bucket.is_full(most));
        }
        self.rates.entry(user.clone()).or_insert_with(|| Bucket::new(most, now))
    }
}

fn first_u64(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}
