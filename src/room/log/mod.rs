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
//! - this file: submissions, batches, answers; [`follow`]: who reads, from where; [`streams`]: messages being written;
//!   [`backend`]: the application's backend as an author.
//!
//! It knows members by their number in the room and never a session, a pipe or a disk.

mod backend;
mod follow;
mod streams;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use ring::{digest, hmac};
use switchyard_signaling::{
    Code,
    event::{Content, Event, EventKind, Origin, Position, Submission},
    limits,
    message::ServerControl,
    origin::{Judgement, Outcome, Taken},
    record::{self, ClientRecord, ServerRecord},
};

pub use self::backend::{
    BackendAct, BackendAnswer, BackendError, BackendRequest, BackendStream, BackendWrite,
};
use self::{
    follow::{Asked as AskedToFollow, Follower},
    streams::Streams,
};
use super::{
    Members,
    content::{self, FieldSizes, Needs, Refusal},
    permission::Permissions,
};
use crate::{
    bucket::Bucket,
    names::{RoomKey, WallClock},
    store::{
        Answer, Batch, Entry, Head, KnownMessage, KnownOrigin, Loaded, OriginMark, Refused, Request,
        StoreError,
    },
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

/// A record that waits for the store.
#[derive(Debug)]
enum Parked {
    Record(u32, ClientRecord),
    Writer(u32, u32, Origin, u32),
    Backend(BackendRequest),
}

impl Parked {
    fn bytes(&self) -> usize {
        match self {
            Self::Record(_, ClientRecord::Submit(submission)) => submission.content.body.len(),
            Self::Record(_, ClientRecord::Begin { content, .. }) => content.body.len(),
            Self::Record(_, ClientRecord::Part { text, .. }) => text.len(),
            Self::Writer(..) => 0,
            Self::Backend(backend) => backend.act.bytes(),
        }
    }
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

    // ---- submissions

    fn take(&mut self, members: &Members, parked: Parked, now: Instant) {
        // What an author sends behind something that waits, waits too.
        let waits_behind = self.parked.iter().any(|other| same_author(other, &parked));
        if (waits_behind || self.decide(members, &parked, now) == Step::Wait) && !self.park(parked, now) {
            self.said.push_back(Said::Count(LogTally::Expected(Code::Overloaded)));
        }
    }

    fn park(&mut self, parked: Parked, now: Instant) -> bool {
        let of_author = self.parked.iter().filter(|other| same_author(other, &parked)).count();
        if of_author >= PARKED_PER_AUTHOR
            || self.parked.len() >= PARKED
            || self.parked_bytes + parked.bytes() > PARKED_BYTES
        {
            self.put_off_parked(&parked, Code::Overloaded, Duration::from_millis(100), now);
            return false;
        }
        self.parked_bytes += parked.bytes();
        self.parked.push_back(parked);
        true
    }

    fn unpark(&mut self, members: &Members, now: Instant) {
        self.parked_bytes = 0;
        for parked in std::mem::take(&mut self.parked) {
            self.take(members, parked, now);
        }
    }

    /// Everything that waits is told to come again.
    fn drop_parked(&mut self, now: Instant) {
        self.parked_bytes = 0;
        for parked in std::mem::take(&mut self.parked) {
            self.put_off_parked(&parked, Code::StorageUnavailable, RELOAD, now);
        }
    }

    fn put_off_parked(&mut self, parked: &Parked, code: Code, retry: Duration, now: Instant) {
        match parked {
            Parked::Record(member, ClientRecord::Submit(submission)) => {
                self.expected(By::Member(*member), submission.origin, submission.cseq, (code, retry), now);
            }
            // The author of a stream learns at its end what is missing.
            Parked::Record(..) => {}
            Parked::Writer(member, id, ..) => {
                self.said.push_back(Said::Refuse(*member, *id, code, "not now; try again"));
            }
            Parked::Backend(backend) => {
                self.answer_backend(backend.request, Err(BackendError::NotNow(code, retry)));
            }
        }
    }

    fn decide(&mut self, members: &Members, parked: &Parked, now: Instant) -> Step {
        match parked {
            Parked::Backend(backend) => self.decide_backend(backend, now),
            Parked::Record(member, record) => {
                let Some(member_of_room) = members.get(member) else { return Step::Done };
                let grant = &member_of_room.grant;
                let author = Author {
                    by: By::Member(*member),
                    user: grant.user.clone(),
                    name: grant.name.clone(),
                    permissions: Some(grant.permissions),
                };
                match record {
                    ClientRecord::Submit(submission) => self.submit(&author, submission, now),
                    ClientRecord::Begin { origin, key, content } => {
                        let begun = self.begin(&author, (*origin, *key), content, now);
                        self.tell_stream(*member, (*origin, *key), begun);
                        Step::Done
                    }
                    ClientRecord::Part { origin, key, offset, text } => {
                        let taken = self.part(author.by, (*origin, *key), *offset, text, now);
                        self.tell_stream(*member, (*origin, *key), taken);
                        Step::Done
                    }
                }
            }
            Parked::Writer(member, id, origin, base) => {
                let Some(member_of_room) = members.get(member) else { return Step::Done };
                let user = &member_of_room.grant.user.clone();
                match self.phase {
                    Phase::Ready => {}
                    Phase::Failed { .. } => {
                        let told = "the store is not available";
                        self.said.push_back(Said::Refuse(*member, *id, Code::StorageUnavailable, told));
                        return Step::Done;
                    }
                    Phase::Loading | Phase::Raising => return Step::Wait,
                }
                let Some(writer) = self.writer_of(*origin, now) else { return Step::Wait };
                if writer.user != *user {
                    let told = "the origin belongs to another user";
                    self.said.push_back(Said::Refuse(*member, *id, Code::BadOrigin, told));
                    return Step::Done;
                }
                writer.told = None;
                let next = (writer.taken.last() + 1).max(*base);
                let answer = ServerControl::Writer { id: *id, origin: *origin, next };
                self.said.push_back(Said::Control(*member, answer));
                Step::Done
            }
        }
    }

    fn submit(&mut self, author: &Author, submission: &Submission, now: Instant) -> Step {
        let Submission { origin, cseq, base, nonce, .. } = *submission;
        match &self.phase {
            Phase::Ready => {}
            Phase::Failed { retry, code, .. } => {
                let (code, retry) = (*code, retry.saturating_duration_since(now).min(RELOAD_MOST));
                self.expected(author.by, origin, cseq, (code, retry + RELOAD), now);
                return Step::Done;
            }
            Phase::Loading | Phase::Raising => return Step::Wait,
        }
        let hash = hash_of(nonce, &backend::hashed(author.by, &submission.content));
        let Some(writer) = self.writer_of(origin, now) else { return Step::Wait };
        if writer.user != author.user {
            let told = Refusal(Code::BadOrigin, "the origin belongs to another user");
            self.refused(author.by, origin, cseq, told);
            return Step::Done;
        }
        if let Some(lost) = writer.taken.answered(base.min(cseq)) {
            tracing::warn!(room = %self.key.room, from = lost.0, to = lost.1, "acknowledged submissions are lost");
            self.open.abandoned.insert(origin, lost);
            self.open.origins.insert(origin);
            self.said.push_back(Said::Count(LogTally::Abandoned));
        }
        match self.judge(origin, cseq, hash) {
            Judgement::Next => return self.next(author, submission, hash, now),
            Judgement::Repeated(outcome) => {
                self.said.push_back(Said::Count(LogTally::Repeated));
                if let (EventKind::End, Outcome::Accepted(seq)) = (submission.content.kind, outcome) {
                    self.ended_before((origin, streams::key_of(&submission.content)), seq);
                }
                self.tell_outcome(author.by, origin, cseq, outcome);
            }
            // What the other one wrote may come to nothing, and this one, if it is sent again, be taken in its place.
            Judgement::Conflict if self.is_pending(origin, cseq) => return Step::Wait,
            Judgement::Conflict => self.conflict(author.by, origin, cseq),
            Judgement::OutOfOrder(expected) => {
                self.expected(author.by, origin, expected, (Code::OutOfOrder, Duration::ZERO), now);
            }
            Judgement::Forgotten => {
                // An honest writer has an answer to this; only a cloned one asks again.
                let forgotten = |asked: &&Asked| matches!(asked, Asked::Forgotten(..));
                if self.asked.values().filter(forgotten).count() >= PARKED_PER_AUTHOR {
                    let retry = (Code::Overloaded, Duration::from_millis(100));
                    self.expected(author.by, origin, cseq, retry, now);
                    return Step::Done;
                }
                let asked = Asked::Forgotten(author.clone(), submission.clone(), hash);
                self.ask(asked, Request::Origin(self.key.clone(), origin));
            }
        }
        Step::Done
    }

    /// Whether what was decided under this number is not durable yet.
    fn is_pending(&self, origin: Origin, cseq: u32) -> bool {
        let in_flight = self.in_flight.as_ref().map(|batch| &batch.decided.by);
        [Some(&self.open.by), in_flight].into_iter().flatten().any(|by| by.contains_key(&(origin, cseq)))
    }

    fn judge(&self, origin: Origin, cseq: u32, hash: u64) -> Judgement {
        let judgement = self.origins[&origin].taken.judge(cseq, hash);
        #[cfg(feature = "plants")]
        if self.plant == Some(super::Plant::NoDedupe)
            && matches!(judgement, Judgement::Repeated(Outcome::Accepted(_)))
        {
            return Judgement::Next;
        }
        judgement
    }

    /// The next submission of its origin: whether it is taken.
    fn next(&mut self, author: &Author, submission: &Submission, hash: u64, now: Instant) -> Step {
        let Submission { origin, cseq, .. } = *submission;
        if self.decided_events() >= DECIDED || self.decided_bytes() >= DECIDED_BYTES {
            let retry = (Code::Overloaded, Duration::from_millis(50));
            self.expected(author.by, origin, cseq, retry, now);
            return Step::Done;
        }
        if let (Some((rate, most)), Some(_)) = (self.rate(), author.permissions)
            && let Err(retry) = self.bucket(&author.user, most, now).check(rate, most, now)
        {
            self.expected(author.by, origin, cseq, (Code::RateLimited, retry), now);
            #[cfg(feature = "plants")]
            if self.plant == Some(super::Plant::RateConsumes) {
                let writer = self.origins.get_mut(&origin).expect("found before");
                writer.taken.take(hash, Outcome::Refused(Code::RateLimited));
            }
            return Step::Done;
        }
        let checked = match author.permissions {
            Some(permissions) => content::check(&submission.content, permissions),
            None => content::well_formed(&submission.content),
        };
        let result = match checked {
            Ok(needs) => match self.fulfils(needs, author, &submission.content) {
                Some(result) => result,
                None => return Step::Wait,
            },
            Err(refusal) => Err(refusal),
        };
        let result = match result {
            Ok(()) if submission.content.kind == EventKind::End => {
                match self.ended(author.by, submission, now) {
                    Some(result) => result.map(|(stream, content)| (Some(stream), content)),
                    None => return Step::Done,
                }
            }
            Ok(()) => Ok((None, submission.content.clone())),
            Err(refusal) => Err(refusal),
        };
        if let (Some((rate, most)), Some(_)) = (self.rate(), author.permissions) {
            let _ = self.bucket(&author.user, most, now).take(rate, most, now);
        }
        let writer = self.origins.get_mut(&origin).expect("found before");
        writer.told = None;
        writer.taken.take(hash, Outcome::Pending);
        self.open.origins.insert(origin);
        self.open.by.insert((origin, cseq), author.by);
        match result {
            Ok((stream, content)) => {
                let seq = self.append(author, (origin, cseq), hash, content, now);
                if let Some(stream) = stream {
                    self.open.ended.push((stream, seq));
                }
            }
            Err(Refusal(code, _)) => self.open.refused.push(Refused { origin, cseq, hash, code }),
        }
        Step::Done
    }

    /// An event at the end of what is decided.
    fn append(
        &mut self,
        author: &Author,
        (origin, cseq): (Origin, u32),
        hash: u64,
        content: Content,
        now: Instant,
    ) -> u64 {
        let seq = self.decided_head.seq + 1;
        let (kind, target) = (content.kind, content.target);
        let event = Event {
            seq,
            at: self.settings.clock.unix_ms(now),
            origin,
            cseq,
            user: author.user.to_string(),
            name: author.name.to_string(),
            content,
        };
        let encoded = &mut self.open.encoded;
        let start = encoded.len();
        // With what comes behind the last one.
        encoded.reserve(record::event_len(&event) + HEAD_BYTES);
        record::put_event(encoded, &event);
        let digest = digest_of(self.decided_head.digest, &encoded[start..]);
        self.open.ends.push(encoded.len());
        if kind.is_message() {
            self.know_message(seq, KnownMessage { user: author.user.clone(), is_deleted: false });
        } else if kind == EventKind::Delete
            && let Some(message) = self.messages.get_mut(&target)
        {
            message.is_deleted = true;
        } else if kind == EventKind::Fields
            && let Some(sizes) = &self.fields
        {
            self.fields = content::change_fields(sizes, &event.content.body).ok();
        }
        self.decided_head = Head { seq, digest, ..self.decided_head };
        self.open.events.push(Arc::new(Entry { event, hash, digest }));
        seq
    }

    /// Whether the target is what it has to be; `None` while that is being asked.
    fn fulfils(&mut self, needs: Needs, author: &Author, content: &Content) -> Option<Result<(), Refusal>> {
        const NONE: Refusal = Refusal(Code::NoSuchMessage, "there is no such message, or it was deleted");
        let target = content.target;
        match needs {
            Needs::Nothing => return Some(Ok(())),
            Needs::Fields => return self.fields_fit(&content.body),
            Needs::Message | Needs::Own(_) => {}
        }
        if target == 0 || target > self.decided_head.seq {
            return Some(Err(NONE));
        }
        let Some(message) = self.messages.get(&target) else {
            if !self.asked.values().any(|asked| matches!(asked, Asked::Message(seq) if *seq == target)) {
                self.ask(Asked::Message(target), Request::Message(self.key.clone(), target));
            }
            return None;
        };
        if message.is_deleted {
            return Some(Err(NONE));
        }
        let may = match needs {
            Needs::Own(or) => {
                let permitted = |permission| author.permissions.is_none_or(|all| all.contains(permission));
                message.user == author.user || author.permissions.is_none() || or.is_some_and(permitted)
            }
            Needs::Nothing | Needs::Fields | Needs::Message => true,
        };
        Some(if may { Ok(()) } else { Err(Refusal(Code::NotAuthor, "only the author may do this")) })
    }

    fn fields_fit(&mut self, body: &[u8]) -> Option<Result<(), Refusal>> {
        if let Some(sizes) = &self.fields {
            return Some(content::change_fields(sizes, body).map(|_| ()));
        }
        if !self.asked.values().any(|asked| matches!(asked, Asked::Fields)) {
            self.ask(Asked::Fields, Request::Fields(self.key.clone()));
        }
        None
    }

    /// The origin, if it is in memory; it is asked for otherwise.
    fn writer_of(&mut self, origin: Origin, now: Instant) -> Option<&mut Writer> {
        if self.origins.contains_key(&origin) {
            let writer = self.origins.get_mut(&origin)?;
            writer.used = now;
            return Some(writer);
        }
        if !self.asked.values().any(|asked| matches!(asked, Asked::Origin(other) if *other == origin)) {
            self.ask(Asked::Origin(origin), Request::Origin(self.key.clone(), origin));
        }
        None
    }

    fn know_origin(&mut self, members: &Members, origin: Origin, known: KnownOrigin, now: Instant) {
        let Some(user) = known.user.or_else(|| self.first_user_of(members, origin)) else { return };
        let accepted = known.events.iter().map(|(cseq, hash, seq)| (*cseq, *hash, Outcome::Accepted(*seq)));
        let refused =
            known.refused.iter().map(|refused| (refused.cseq, refused.hash, Outcome::Refused(refused.code)));
        #[cfg(feature = "plants")]
        let forgets = self.plant == Some(super::Plant::RefusalsForgotten);
        #[cfg(not(feature = "plants"))]
        let forgets = false;
        let answers: Vec<_> = accepted.chain(refused.filter(|_| !forgets)).collect();
        let last =
            if forgets { answers.iter().map(|(cseq, ..)| *cseq).max().unwrap_or(0) } else { known.last };
        let taken = Taken::restore(last, answers);
        self.make_room_for_origin();
        let writer = Writer { user, taken, told: None, used: now };
        self.origins.entry(origin).or_insert(writer);
    }

    /// Whoever is the first to use an origin that is not known has it.
    fn first_user_of(&self, members: &Members, origin: Origin) -> Option<Arc<str>> {
        let user = |member| members.get(member).map(|member| member.grant.user.clone());
        self.parked.iter().find_map(|parked| match parked {
            Parked::Backend(backend) => {
                let write = backend.act.write().filter(|write| write.origin == origin);
                write.map(|write| write.user.clone())
            }
            Parked::Record(member, ClientRecord::Submit(submission)) if submission.origin == origin => {
                user(member)
            }
            Parked::Writer(member, _, other, _) if *other == origin => user(member),
            _ => None,
        })
    }

    fn make_room_for_origin(&mut self) {
        while self.origins.len() >= KEPT {
            let busy = |origin: &Origin| {
                self.open.origins.contains(origin)
                    || self.in_flight.as_ref().is_some_and(|batch| batch.decided.origins.contains(origin))
            };
            let oldest =
                self.origins.iter().filter(|(origin, _)| !busy(origin)).min_by_key(|(_, writer)| writer.used);
            let Some((&oldest, _)) = oldest else { break };
            self.origins.remove(&oldest);
        }
    }

    fn know_message(&mut self, seq: u64, message: KnownMessage) {
        while self.messages.len() >= KEPT {
            self.messages.pop_first();
        }
        self.messages.insert(seq, message);
    }

    /// A submission of which only the store knows what became of it.
    fn remember(&mut self, author: &Author, submission: &Submission, hash: u64, known: &KnownOrigin) {
        let Submission { origin, cseq, .. } = *submission;
        let event = known.events.iter().find(|(number, ..)| *number == cseq);
        let refusal = known.refused.iter().find(|refused| refused.cseq == cseq);
        match (event, refusal) {
            (Some((_, same, seq)), _) if *same == hash => {
                self.tell_outcome(author.by, origin, cseq, Outcome::Accepted(*seq));
            }
            (_, Some(refused)) if refused.hash == hash => {
                self.tell_outcome(author.by, origin, cseq, Outcome::Refused(refused.code));
            }
            _ => self.conflict(author.by, origin, cseq),
        }
    }

    // ---- answers

    fn tell_outcome(&mut self, by: By, origin: Origin, cseq: u32, outcome: Outcome) {
        match (outcome, by) {
            // Whoever asked first is answered when it is durable; this one finds that out when it comes again.
            (Outcome::Pending, By::Backend(request)) => {
                self.answer_backend(request, Err(BackendError::NotNow(Code::Loading, AGAIN)));
            }
            (Outcome::Pending, _) => {
                // The answer goes to whoever asked last: the writer may have come back in another session.
                let in_flight = self.in_flight.as_mut().map(|batch| &mut batch.decided.by);
                for pending in [Some(&mut self.open.by), in_flight].into_iter().flatten() {
                    if let Some(asker) = pending.get_mut(&(origin, cseq)) {
                        *asker = by;
                    }
                }
            }
            (Outcome::Accepted(seq), _) => self.accepted(by, (origin, cseq), seq, true),
            (Outcome::Refused(code), _) => self.refused(by, origin, cseq, Refusal(code, sentence_of(code))),
        }
    }

    fn accepted(&mut self, by: By, (origin, cseq): (Origin, u32), seq: u64, is_repeated: bool) {
        match by {
            By::Member(member) => self.answer(member, &ServerRecord::Accepted { origin, cseq, seq }),
            By::Backend(request) => {
                self.answer_backend(request, Ok(BackendAnswer::Written { seq, is_repeated }));
            }
            By::Room => {}
        }
    }

    fn refused(&mut self, by: By, origin: Origin, cseq: u32, Refusal(code, sentence): Refusal) {
        self.said.push_back(Said::Count(LogTally::Refused(code)));
        match by {
            By::Member(member) => {
                let (code, sentence) = (code.as_str().to_owned(), sentence.to_owned());
                self.answer(member, &ServerRecord::Refused { origin, cseq, code, sentence });
            }
            By::Backend(request) => {
                self.answer_backend(request, Err(BackendError::Refused(code, sentence)));
            }
            By::Room => {}
        }
    }

    fn conflict(&mut self, by: By, origin: Origin, cseq: u32) {
        self.said.push_back(Said::Count(LogTally::Conflict));
        match by {
            By::Member(member) => {
                self.answer(member, &ServerRecord::Conflict { origin, cseq });
            }
            By::Backend(request) => {
                self.answer_backend(request, Err(BackendError::Conflict));
            }
            By::Room => {}
        }
    }

    /// Tells a writer where to go on, once: what it had sent before it heard of it is passed over in silence.
    fn expected(&mut self, by: By, origin: Origin, cseq: u32, (code, retry): (Code, Duration), now: Instant) {
        let until = now + retry.max(TOLD);
        if let Some(writer) = self.origins.get_mut(&origin) {
            if code == Code::OutOfOrder
                && writer.told.is_some_and(|(whom, what, until)| (whom, what) == (by, cseq) && now < until)
            {
                return;
            }
            writer.told = Some((by, cseq, until));
        }
        self.said.push_back(Said::Count(LogTally::Expected(code)));
        match by {
            By::Member(member) => {
                let retry_after_ms = u32::try_from(retry.as_millis()).unwrap_or(u32::MAX);
                let code = code.as_str().to_owned();
                self.answer(member, &ServerRecord::Expected { origin, cseq, retry_after_ms, code });
            }
            By::Backend(request) => {
                self.answer_backend(request, Err(BackendError::NotNow(code, retry)));
            }
            By::Room => {}
        }
    }

    fn answer(&mut self, member: u32, record: &ServerRecord) {
        record.put(self.answers.entry(member).or_default());
    }

    /// Ends the handling of one input: what was decided goes to the store, what was answered to the members.
    fn finish(&mut self, now: Instant) {
        self.commit(now);
        self.say_answers();
    }

    fn say_answers(&mut self) {
        for (member, records) in std::mem::take(&mut self.answers) {
            self.said.push_back(Said::To(member, records.freeze()));
        }
    }

    // ---- the store

    fn ask(&mut self, asked: Asked, request: Request) {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.asked.insert(ticket, asked);
        self.said.push_back(Said::Store(ticket, request));
    }

    fn commit(&mut self, now: Instant) {
        if self.in_flight.is_some() || !matches!(self.phase, Phase::Ready | Phase::Raising) {
            return;
        }
        if self.open.is_empty() {
            if matches!(self.phase, Phase::Raising)
                && !self.asked.values().any(|asked| matches!(asked, Asked::Raise))
            {
                self.ask(Asked::Raise, Request::RaiseEpoch(self.key.clone()));
            }
            return;
        }
        let decided = std::mem::take(&mut self.open);
        let origins = decided.origins.iter().filter_map(|origin| {
            let Writer { user, taken, .. } = self.origins.get(origin)?;
            Some(OriginMark {
                origin: *origin,
                user: user.clone(),
                last: taken.last(),
                base: taken.base(),
                abandoned: decided.abandoned.get(origin).copied(),
            })
        });
        let batch = Batch {
            key: self.key.clone(),
            fence: self.fence,
            expects: self.head,
            head: self.decided_head,
            events: decided.events.clone(),
            refused: decided.refused.clone(),
            origins: origins.collect(),
        };
        self.in_flight = Some(InFlight { head: self.decided_head, decided });
        self.ask(Asked::Commit, Request::Commit(batch));
        #[cfg(feature = "plants")]
        if self.plant == Some(super::Plant::AcknowledgedEarly) {
            self.committed(now);
        }
        #[cfg(not(feature = "plants"))]
        let _ = now;
    }

    fn committed(&mut self, now: Instant) {
        let Some(InFlight { mut decided, head }) = self.in_flight.take() else { return };
        self.head = head;
        let encoded = std::mem::take(&mut decided.encoded);
        for entry in &decided.events {
            let Event { seq, origin, cseq, content, .. } = &entry.event;
            self.said.push_back(Said::Count(LogTally::Event(content.kind)));
            if let Some(writer) = self.origins.get_mut(origin) {
                writer.taken.settle(*cseq, Outcome::Accepted(*seq));
            }
            self.keep(entry.clone());
        }
        self.say_live(&decided, encoded);
        for (stream, _) in &decided.ended {
            self.streams.close(*stream);
        }
        let is_end = |seq| decided.ended.iter().any(|(_, ended)| *ended == seq);
        for entry in &decided.events {
            let Event { seq, origin, cseq, .. } = entry.event;
            match decided.by.get(&(origin, cseq)).copied() {
                // A live follower has it by the event itself, unless that says something else than what was submitted.
                Some(By::Member(member)) if self.is_live(member) && !is_end(seq) => {}
                Some(by) => self.accepted(by, (origin, cseq), seq, false),
                None => {}
            }
        }
        for refused in &decided.refused {
            let Refused { origin, cseq, code, .. } = *refused;
            if let Some(writer) = self.origins.get_mut(&origin) {
                writer.taken.settle(cseq, Outcome::Refused(code));
            }
            let by = decided.by.get(&(origin, cseq)).copied().unwrap_or(By::Room);
            self.refused(by, origin, cseq, Refusal(code, sentence_of(code)));
        }
        self.commit(now);
    }

    /// Events for all live followers, as many to a message as fit; nearly always that is all of them.
    fn say_live(&mut self, decided: &Decided, mut encoded: BytesMut) {
        if decided.events.is_empty() {
            return;
        }
        let (mut begin, mut before) = (0, None);
        for (entry, &end) in decided.events.iter().zip(&decided.ends) {
            if let Some((last, head)) = before
                && end - begin + HEAD_BYTES > limits::LOG_BYTES
            {
                let mut message = encoded.split_to(last - begin);
                begin = last;
                self.put_head(head, &mut message);
                self.said.push_back(Said::Live(message.freeze()));
            }
            before = Some((end, Head { seq: entry.event.seq, digest: entry.digest, ..self.head }));
        }
        self.put_head(self.head, &mut encoded);
        for (stream, seq) in &decided.ended {
            ServerRecord::Ended { stream: *stream, seq: *seq }.put(&mut encoded);
        }
        self.said.push_back(Said::Live(encoded.freeze()));
    }

    fn put_head(&self, head: Head, out: &mut BytesMut) {
        ServerRecord::Head(self.position(head)).put(out);
    }

    fn position(&self, head: Head) -> Position {
        let Head { epoch, seq, digest } = head;
        Position { epoch, seq, digest, proof: self.proof_key.proof(&self.key, head) }
    }

    fn keep(&mut self, entry: Arc<Entry>) {
        self.recent_bytes += record::event_len(&entry.event);
        self.recent.push_back(entry);
        while self.recent.len() > RECENT || self.recent_bytes > RECENT_BYTES {
            let Some(oldest) = self.recent.pop_front() else { break };
            self.recent_bytes -= record::event_len(&oldest.event);
        }
    }

    /// The store has failed, or somebody else has the room: nothing that is not durable was said, so it is forgotten, and
    /// who waits for it comes again.
    fn failed(&mut self, error: &StoreError, now: Instant) {
        tracing::warn!(room = %self.key.room, tenant = %self.key.tenant, %error, "the log cannot be written");
        self.said.push_back(Said::Count(LogTally::Failed));
        let code = Code::StorageUnavailable;
        let (pause, was_failed) = match self.phase {
            Phase::Failed { pause, .. } => (pause, true),
            _ => (RELOAD, false),
        };
        self.phase = Phase::Failed { retry: now + pause, pause, code };
        let mut pending: BTreeMap<Origin, (u32, By)> = BTreeMap::new();
        let in_flight = self.in_flight.take().map(|batch| batch.decided);
        for decided in in_flight.into_iter().chain([std::mem::take(&mut self.open)]) {
            for ((origin, cseq), by) in decided.by {
                pending.entry(origin).or_insert((cseq, by));
            }
            for (stream, _) in decided.ended {
                self.streams.reopen(stream, now);
            }
        }
        self.origins.clear();
        self.messages.clear();
        self.fields = None;
        self.decided_head = self.head;
        for (origin, (cseq, by)) in pending {
            self.expected(by, origin, cseq, (code, pause + RELOAD), now);
        }
        self.drop_parked(now);
        if !was_failed {
            self.say_status(Some(code));
        }
    }

    fn loaded(&mut self, loaded: Loaded, now: Instant) {
        let Loaded { fence, head, first, recent } = loaded;
        self.said.push_back(Said::Count(LogTally::Loaded));
        let was_failed = matches!(self.phase, Phase::Failed { .. });
        let before = std::mem::replace(&mut self.head, head);
        let is_first = self.fence == 0;
        (self.fence, self.first, self.decided_head, self.phase) = (fence, first, head, Phase::Ready);
        self.origins.clear();
        self.messages.clear();
        self.fields = None;
        let goes_on = before.epoch == head.epoch
            && before.seq <= head.seq
            && (before.seq < head.seq || before.digest == head.digest);
        if is_first || !goes_on {
            (self.recent, self.recent_bytes) = (VecDeque::new(), 0);
            recent.into_iter().for_each(|entry| self.keep(entry));
            if !is_first {
                self.resync("restored", now);
            }
        } else {
            // A commit whose answer was lost had succeeded: what it committed is new to everybody.
            let new = recent.into_iter().filter(|entry| entry.event.seq > before.seq).collect::<Vec<_>>();
            self.go_on(before, new);
        }
        if was_failed {
            self.say_status(None);
        }
        self.follow_loaded(now);
    }

    fn say_status(&mut self, code: Option<Code>) {
        let mut message = BytesMut::new();
        ServerRecord::Status(code.map(|code| code.as_str().to_owned())).put(&mut message);
        let message = message.freeze();
        for &member in self.followers.keys() {
            self.said.push_back(Said::To(member, message.clone()));
        }
    }

    // ---- small things

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

fn same_author(one: &Parked, other: &Parked) -> bool {
    match (one, other) {
        (
            Parked::Record(one, _) | Parked::Writer(one, ..),
            Parked::Record(other, _) | Parked::Writer(other, ..),
        ) => one == other,
        (Parked::Backend(one), Parked::Backend(other)) => one.act.origin() == other.act.origin(),
        _ => false,
    }
}

/// Tells a repetition of a submission from another one with its number.
fn hash_of(nonce: u32, content: &Content) -> u64 {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(&nonce.to_be_bytes());
    context.update(&[content.kind as u8, content.version, content.flags]);
    context.update(&content.target.to_be_bytes());
    context.update(&content.body);
    first_u64(context.finish().as_ref())
}

/// Sums up the log to an event.
fn digest_of(before: u64, encoded: &[u8]) -> u64 {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(&before.to_be_bytes());
    context.update(encoded);
    first_u64(context.finish().as_ref())
}

fn first_u64(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

/// The sentence for a refusal that comes again, for which only the code is stored.
fn sentence_of(code: Code) -> &'static str {
    match code {
        Code::Forbidden => "your role in this room does not permit this",
        Code::TooLarge => "the body of an event has at most 64 KiB",
        Code::BadBody => "the body is not what this kind of event asks for",
        Code::NoSuchMessage => "there is no such message, or it was deleted",
        Code::NotAuthor => "only the author may do this",
        Code::NoSuchStream => "the stream has ended without its author",
        Code::BadOrigin => "the origin belongs to another user",
        _ => "the submission is refused",
    }
}
