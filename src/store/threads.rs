//! The store's threads: one that writes, two that read, and the queues before them.
//!
//! Shards hand letters in without ever waiting, and get replies through a function that must not block either. The
//! writer takes everything that waits, up to a bound, and commits it in one transaction: the more there is to do, the
//! more shares one wait for the disk. Loads are done on the same thread behind the commits that came before them.
//!
//! After a batch of a room has failed, every later one of that room fails, until the room is loaded again. The head of
//! the log would see to that alone, but for one case: a commit whose answer was lost is durable and reported as failed,
//! and the batch behind it would fit.
//!
//! A connection that fails is dropped, and another one is opened when some time has passed. Until then everything is
//! answered at once with what went wrong.

use std::{
    collections::{BTreeSet, VecDeque},
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime},
};

use super::{
    Answer, Batch, Letter, Loaded, Note, Postgres, Reply, Request, Sqlite, StoreError,
    backend::{Backend, Reader, Retention, Writer},
    queue::{Bounds, Queue, Waited},
};
use crate::{
    config,
    metrics::{Metrics, StoreFailure, StoreQueue, StoreRead},
    names::{RoomKey, RoomPlace},
};

/// What may wait to be written: what one commit takes, some times over.
const WRITES: Bounds = Bounds { letters: 32_768, bytes: 64 << 20 };
/// What may wait to be read.
const READS: Bounds = Bounds { letters: 8192, bytes: 16 << 20 };
/// Events that one transaction takes.
const COMMIT_EVENTS: usize = 4096;
/// Bytes of their bodies.
const COMMIT_BYTES: usize = 8 << 20;
/// Rooms that one transaction loads: what each answers is read then and there.
const LOADS: usize = 64;
/// Notes that wait at most; more push out the oldest.
const NOTES: usize = 8192;
/// Notes that one transaction takes.
const NOTES_AT_ONCE: usize = 512;
/// How long notes wait for company.
const NOTES_WAIT: Duration = Duration::from_millis(200);
/// How often the store looks for what may go, when it has found nothing the last time.
const RETAIN_EVERY: Duration = Duration::from_secs(300);
/// How often it removes a little, when there is more but also other work.
const RETAIN_BUSY: Duration = Duration::from_secs(1);
/// How often files are kept in shape.
const TIDY_EVERY: Duration = Duration::from_millis(250);
/// How long after a connection failed another one is tried, first and at most.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// Threads that read.
const READERS: usize = 2;

/// What takes replies: called on the store's threads, must not block.
pub type Replies = dyn Fn(Reply) + Send + Sync;

/// A store that runs.
pub struct Store {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

struct Shared {
    backend: Box<dyn Backend>,
    writes: Queue,
    reads: Queue,
    retention: Retention,
    metrics: Arc<Metrics>,
    replies: Box<Replies>,
}

impl Store {
    /// [`start`](Self::start) with the database that the configuration names.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn open(
        config: &config::Store,
        metrics: Arc<Metrics>,
        replies: Box<Replies>,
    ) -> Result<Self, StoreError> {
        let config::Retention { max_age, max_events } = config.retention;
        let backend: Box<dyn Backend> = match &config.url {
            Some(url) => Box::new(Postgres::new(url.expose_text())?),
            None => Box::new(Sqlite::new(&config.path)?),
        };
        Self::start(backend, Retention { max_age, max_events }, metrics, replies)
    }

    /// Connects, brings the schema up to date and starts the threads.
    ///
    /// # Errors
    /// If the database cannot be reached, or is not one of this server's.
    pub fn start(
        backend: Box<dyn Backend>,
        retention: Retention,
        metrics: Arc<Metrics>,
        replies: Box<Replies>,
    ) -> Result<Self, StoreError> {
        let (writes, reads) = (Queue::new(WRITES), Queue::new(READS));
        let shared = Arc::new(Shared { backend, writes, reads, retention, metrics, replies });
        let store = Self { shared: shared.clone(), threads: Mutex::default() };
        // Each connection is opened on the thread that it belongs to. The writer's comes first: it makes the schema.
        store.spawn("store-writer", |backend| backend.writer(), {
            let shared = shared.clone();
            move |writer| Writing::new(shared, writer).run()
        })?;
        for index in 0..READERS {
            let shared = shared.clone();
            store.spawn(
                "store-reader",
                |backend| backend.reader(),
                move |reader| {
                    Reading { connection: Link::with(reader), shared, tidies: index == 0 }.run();
                },
            )?;
        }
        Ok(store)
    }

    /// Starts a thread, which opens a connection and works with it. Waits until it has opened it.
    fn spawn<C: ?Sized + 'static>(
        &self,
        name: &str,
        open: fn(&dyn Backend) -> Result<Box<C>, StoreError>,
        work: impl FnOnce(Box<C>) + Send + 'static,
    ) -> Result<(), StoreError> {
        let (opened, outcome) = mpsc::sync_channel(1);
        let shared = self.shared.clone();
        let run = move || match open(&*shared.backend) {
            Ok(connection) => {
                let _ = opened.send(Ok(()));
                // Half a store is worse than none: rooms would wait for it for ever.
                if catch_unwind(AssertUnwindSafe(|| work(connection))).is_err() {
                    tracing::error!("a thread of the store has panicked; this is a defect of the server");
                    std::process::abort();
                }
            }
            Err(error) => drop(opened.send(Err(error))),
        };
        let thread = thread::Builder::new().name(name.to_owned()).spawn(run);
        let thread =
            thread.map_err(|error| StoreError::Unavailable(format!("cannot start a thread: {error}")))?;
        self.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
        let gone = || StoreError::Unavailable("a thread of the store has ended".to_owned());
        outcome.recv().map_err(|_| gone())?
    }

    /// Hands a letter in, without waiting. Gives it back if too much waits already, or the store was closed: then
    /// nothing was done, and nothing will be answered.
    #[expect(clippy::result_large_err, reason = "the sender goes on with the letter")]
    pub fn send(&self, letter: Letter) -> Result<(), Letter> {
        let queue = match letter.request {
            Request::Load(_) | Request::Commit(_) | Request::RaiseEpoch(_) | Request::Note(_) => {
                &self.shared.writes
            }
            _ => &self.shared.reads,
        };
        queue.push(letter).inspect_err(|_| self.shared.metrics.store.failed(StoreFailure::Full))
    }

    /// Does what was handed in, answers it, and ends the threads. Blocks meanwhile.
    pub fn close(&self) {
        self.shared.reads.close();
        self.shared.writes.close();
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            // A thread that panics aborts the process.
            let _ = thread.join();
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.close();
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("backend", &self.shared.backend).finish_non_exhaustive()
    }
}

impl Shared {
    fn reply(&self, to: RoomPlace, ticket: u64, answer: Answer) {
        (self.replies)(Reply { to, ticket, answer });
    }

    fn count<T>(&self, result: &Result<T, StoreError>) {
        let cause = match result {
            Ok(_) => return,
            Err(StoreError::Fenced) => StoreFailure::Fenced,
            Err(StoreError::HeadMoved) => StoreFailure::HeadMoved,
            Err(StoreError::Unavailable(_)) => StoreFailure::Unavailable,
            Err(StoreError::Damaged(_)) => StoreFailure::Damaged,
        };
        self.metrics.store.failed(cause);
    }
}

/// A connection that may be down.
struct Link<C: ?Sized> {
    connection: Option<Box<C>>,
    trouble: StoreError,
    backoff: Duration,
    retry_at: Instant,
}

impl<C: ?Sized> Link<C> {
    fn with(connection: Box<C>) -> Self {
        let trouble = StoreError::Unavailable("it has not been reached yet".to_owned());
        Self { connection: Some(connection), trouble, backoff: BACKOFF.0, retry_at: Instant::now() }
    }

    /// Does something with the connection, which is opened if it is down and enough time has passed. If it fails in a
    /// way that leaves its state unknown it is dropped.
    fn with_connection<T>(
        &mut self,
        open: impl FnOnce() -> Result<Box<C>, StoreError>,
        work: impl FnOnce(&mut C) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        if self.connection.is_none() {
            if Instant::now() < self.retry_at {
                return Err(self.trouble.clone());
            }
            match open() {
                Ok(connection) => self.connection = Some(connection),
                Err(error) => return Err(self.lost(error)),
            }
        }
        let connection = self.connection.as_mut().expect("it was opened above");
        match work(connection) {
            Ok(value) => {
                self.backoff = BACKOFF.0;
                Ok(value)
            }
            Err(error @ StoreError::Unavailable(_)) => Err(self.lost(error)),
            Err(error) => Err(error),
        }
    }

    fn lost(&mut self, error: StoreError) -> StoreError {
        tracing::warn!(%error, retry_in = ?self.backoff, "the store's connection is dropped");
        self.connection = None;
        self.retry_at = Instant::now() + self.backoff;
        self.backoff = (self.backoff * 2).min(BACKOFF.1);
        self.trouble = error.clone();
        error
    }

    fn is_up(&self) -> bool {
        self.connection.is_some()
    }
}

/// The thread that writes.
struct Writing {
    shared: Arc<Shared>,
    connection: Link<dyn Writer>,
    /// Taken from the queue and not yet done.
    letters: VecDeque<Letter>,
    /// Rooms of which a batch has failed.
    failed: BTreeSet<RoomKey>,
    notes: VecDeque<Note>,
    /// When the first of the notes came.
    noted_at: Instant,
    retain_at: Instant,
}

/// What goes into one transaction, and who asked.
#[derive(Default)]
struct Turn {
    batches: Vec<Batch>,
    committers: Vec<(RoomPlace, u64)>,
    events: usize,
    bytes: usize,
    loads: Vec<RoomKey>,
    loaders: Vec<(RoomPlace, u64)>,
}

impl Writing {
    fn new(shared: Arc<Shared>, writer: Box<dyn Writer>) -> Self {
        let now = Instant::now();
        Self {
            shared,
            connection: Link::with(writer),
            letters: VecDeque::new(),
            failed: BTreeSet::new(),
            notes: VecDeque::new(),
            noted_at: now,
            retain_at: now,
        }
    }

    fn run(mut self) {
        loop {
            match self.shared.writes.wait(self.until_next()) {
                Waited::Letters => self.letters = self.shared.writes.take_all(),
                Waited::Nothing => {}
                Waited::Closed => break,
            }
            let gauges = &self.shared.metrics.store;
            gauges.waiting(StoreQueue::Writes, self.letters.len());
            while !self.letters.is_empty() {
                self.turn();
            }
            self.note(false);
            self.retain();
            self.shared.metrics.store.is_up(self.connection.is_up());
        }
        self.note(true);
        if let Some(writer) = self.connection.connection.take()
            && let Err(error) = writer.close()
        {
            tracing::warn!(%error, "the store was not closed in good order; nothing is lost");
        }
    }

    fn until_next(&self) -> Duration {
        let now = Instant::now();
        let retain = self.retain_at.saturating_duration_since(now);
        match self.notes.is_empty() {
            true => retain,
            false => retain.min((self.noted_at + NOTES_WAIT).saturating_duration_since(now)),
        }
    }

    /// One transaction of commits, then one of loads.
    fn turn(&mut self) {
        let mut turn = Turn::default();
        while let Some(letter) = self.letters.pop_front() {
            let Letter { from, ticket, request } = letter;
            match request {
                Request::Commit(batch)
                    if self.failed.contains(&batch.key) && !turn.loads.contains(&batch.key) =>
                {
                    let result = Err(StoreError::HeadMoved);
                    self.shared.count(&result);
                    self.shared.reply(from, ticket, Answer::Committed(result));
                }
                Request::Commit(batch) if turn.has_room_for(&batch) => turn.commit(from, ticket, batch),
                Request::Load(key) if turn.loads.len() < LOADS => {
                    turn.loads.push(key);
                    turn.loaders.push((from, ticket));
                }
                Request::RaiseEpoch(key) if turn.is_empty() => {
                    self.raise_epoch(from, ticket, &key);
                    return;
                }
                Request::Note(note) => self.take_note(note),
                request @ (Request::Commit(_) | Request::Load(_) | Request::RaiseEpoch(_)) => {
                    self.letters.push_front(Letter { from, ticket, request });
                    break;
                }
                // Reads have a queue of their own.
                _ => {}
            }
        }
        self.commit(&turn);
        self.load(&turn);
    }

    fn commit(&mut self, turn: &Turn) {
        if turn.batches.is_empty() {
            return;
        }
        let (shared, start) = (self.shared.clone(), Instant::now());
        let committed = self.connection.with_connection(
            || shared.backend.writer(),
            |writer| Ok(writer.commit_all(&turn.batches, now())),
        );
        let results = match committed {
            Ok(results) => results,
            Err(error) => turn.batches.iter().map(|_| Err(error.clone())).collect(),
        };
        // Where batches were committed one by one some may be durable although the connection went.
        if self.connection.is_up()
            && let Some(error) =
                results.iter().filter_map(|result| result.as_ref().err()).find(|e| is_down(e))
        {
            self.connection.lost(error.clone());
        }
        let taken = turn.batches.iter().zip(&results).filter(|(_, result)| result.is_ok());
        let (batches, events) =
            taken.fold((0, 0), |(batches, events), (batch, _)| (batches + 1, events + batch.events.len()));
        shared.metrics.store.committed(batches, events, start.elapsed());
        for ((batch, &(to, ticket)), result) in turn.batches.iter().zip(&turn.committers).zip(results) {
            shared.count(&result);
            if let Err(error) = &result {
                tracing::debug!(room = %batch.key.room, %error, "a batch was not committed");
                self.failed.insert(batch.key.clone());
            }
            shared.reply(to, ticket, Answer::Committed(result));
        }
    }

    fn load(&mut self, turn: &Turn) {
        if turn.loads.is_empty() {
            return;
        }
        let loaded = self.load_all(&turn.loads);
        if matches!(loaded, Err(StoreError::Damaged(_))) && turn.loads.len() > 1 {
            // One room's damage is not another's.
            for (key, &loader) in turn.loads.iter().zip(&turn.loaders) {
                let loaded = self.load_all(std::slice::from_ref(key));
                self.loaded(std::slice::from_ref(key), &[loader], loaded);
            }
        } else {
            self.loaded(&turn.loads, &turn.loaders, loaded);
        }
    }

    fn load_all(&mut self, keys: &[RoomKey]) -> Result<Vec<Loaded>, StoreError> {
        let shared = self.shared.clone();
        let loaded = self.connection.with_connection(|| shared.backend.writer(), |writer| writer.load(keys));
        shared.count(&loaded);
        loaded
    }

    fn loaded(
        &mut self,
        keys: &[RoomKey],
        loaders: &[(RoomPlace, u64)],
        loaded: Result<Vec<Loaded>, StoreError>,
    ) {
        match loaded {
            Ok(loaded) => {
                for ((key, &(to, ticket)), loaded) in keys.iter().zip(loaders).zip(loaded) {
                    self.failed.remove(key);
                    self.shared.reply(to, ticket, Answer::Loaded(Ok(loaded)));
                }
            }
            Err(error) => {
                for &(to, ticket) in loaders {
                    self.shared.reply(to, ticket, Answer::Loaded(Err(error.clone())));
                }
            }
        }
    }

    fn raise_epoch(&mut self, to: RoomPlace, ticket: u64, key: &RoomKey) {
        let shared = self.shared.clone();
        let raised =
            self.connection.with_connection(|| shared.backend.writer(), |writer| writer.raise_epoch(key));
        shared.count(&raised);
        if raised.is_ok() {
            self.failed.remove(key);
        }
        shared.reply(to, ticket, Answer::Loaded(raised));
    }

    fn take_note(&mut self, note: Note) {
        if self.notes.is_empty() {
            self.noted_at = Instant::now();
        }
        if self.notes.len() == NOTES {
            self.notes.pop_front();
            self.shared.metrics.store.failed(StoreFailure::NoteLost);
        }
        self.notes.push_back(note);
    }

    /// Writes notes down that have waited long enough, or are enough; all of them at the end.
    fn note(&mut self, is_last: bool) {
        while !self.notes.is_empty() {
            let is_due = self.noted_at.elapsed() >= NOTES_WAIT || self.notes.len() >= NOTES_AT_ONCE;
            if !is_due && !is_last {
                return;
            }
            let shared = self.shared.clone();
            let count = self.notes.len().min(NOTES_AT_ONCE);
            let notes = &self.notes.make_contiguous()[..count];
            let noted =
                self.connection.with_connection(|| shared.backend.writer(), |writer| writer.note(notes));
            shared.count(&noted);
            match noted {
                Err(StoreError::Unavailable(_)) => {
                    self.noted_at = Instant::now();
                    return;
                }
                // What the database refuses today it refuses tomorrow.
                _ => drop(self.notes.drain(..count)),
            }
        }
    }

    /// Removes a little of what may go, if nothing waits or it was some time ago.
    fn retain(&mut self) {
        if Instant::now() < self.retain_at {
            return;
        }
        let shared = self.shared.clone();
        loop {
            let retained = self.connection.with_connection(
                || shared.backend.writer(),
                |writer| writer.retain(&shared.retention, now()),
            );
            shared.count(&retained);
            let wait = match retained {
                Ok(true) if shared.writes.len() == 0 => continue,
                Ok(true) => RETAIN_BUSY,
                _ => RETAIN_EVERY,
            };
            self.retain_at = Instant::now() + wait;
            return;
        }
    }
}

impl Turn {
    fn is_empty(&self) -> bool {
        self.batches.is_empty() && self.loads.is_empty()
    }

    /// A room that is loaded in this turn commits in a later one: loads come last.
    fn has_room_for(&self, batch: &Batch) -> bool {
        let is_first = self.batches.is_empty();
        let fits =
            self.events + batch.events.len() <= COMMIT_EVENTS && self.bytes + bytes_of(batch) <= COMMIT_BYTES;
        (is_first || fits) && !self.loads.contains(&batch.key)
    }

    fn commit(&mut self, from: RoomPlace, ticket: u64, batch: Batch) {
        self.events += batch.events.len().max(1);
        self.bytes += bytes_of(&batch);
        self.batches.push(batch);
        self.committers.push((from, ticket));
    }
}

fn bytes_of(batch: &Batch) -> usize {
    batch.events.iter().map(|entry| entry.event.content.body.len()).sum()
}

fn is_down(error: &StoreError) -> bool {
    matches!(error, StoreError::Unavailable(_))
}

/// Milliseconds since 1970.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A thread that reads.
struct Reading {
    shared: Arc<Shared>,
    connection: Link<dyn Reader>,
    /// Whether it keeps the files in shape between the letters.
    tidies: bool,
}

impl Reading {
    fn run(mut self) {
        let mut tidy_at = Instant::now();
        loop {
            let most = match self.tidies {
                true => tidy_at.saturating_duration_since(Instant::now()),
                false => Duration::from_secs(60),
            };
            match self.shared.reads.wait(most) {
                Waited::Letters => {
                    self.shared.metrics.store.waiting(StoreQueue::Reads, self.shared.reads.len());
                    if let Some(letter) = self.shared.reads.take_one() {
                        self.answer(letter);
                    }
                }
                Waited::Nothing => {}
                Waited::Closed => return,
            }
            if self.tidies && Instant::now() >= tidy_at {
                self.tidy();
                tidy_at = Instant::now() + TIDY_EVERY;
            }
        }
    }

    fn answer(&mut self, letter: Letter) {
        let (shared, start) = (self.shared.clone(), Instant::now());
        let Letter { from, ticket, request } = letter;
        let open = || shared.backend.reader();
        let connection = &mut self.connection;
        let (kind, answer) = match request {
            Request::Events { key, after, to, bytes } => {
                let events = connection.with_connection(open, |reader| reader.events(&key, after, to, bytes));
                shared.count(&events);
                (StoreRead::Events, Answer::Events(events))
            }
            Request::Digest(key, seq) => {
                let digest = connection.with_connection(open, |reader| reader.digest(&key, seq));
                shared.count(&digest);
                (StoreRead::Digest, Answer::Digest(digest))
            }
            Request::Origin(key, origin) => {
                let known = connection.with_connection(open, |reader| reader.origin(&key, origin));
                shared.count(&known);
                (StoreRead::Origin, Answer::Origin(known))
            }
            // Like a message: what a submission is decided by.
            Request::Fields(key) => {
                let fields = connection.with_connection(open, |reader| reader.fields(&key));
                shared.count(&fields);
                (StoreRead::Message, Answer::Fields(fields))
            }
            Request::Message(key, seq) => {
                let known = connection.with_connection(open, |reader| reader.message(&key, seq));
                shared.count(&known);
                (StoreRead::Message, Answer::Message(known))
            }
            Request::Page(query) => {
                let page = connection.with_connection(open, |reader| reader.page(&query));
                shared.count(&page);
                (StoreRead::Page, Answer::Page(page))
            }
            // What changes something has a queue of its own.
            Request::Load(_) | Request::Commit(_) | Request::RaiseEpoch(_) | Request::Note(_) => return,
        };
        shared.metrics.store.read(kind, start.elapsed());
        shared.reply(from, ticket, answer);
    }

    fn tidy(&mut self) {
        let shared = self.shared.clone();
        let tidied = self.connection.with_connection(|| shared.backend.reader(), |reader| reader.tidy());
        shared.count(&tidied);
        if let Some(bytes) = shared.backend.size() {
            shared.metrics.store.bytes(bytes);
        }
    }
}
