//! The store's threads: queues, group commit, what happens when something fails, and how it ends.

use std::{
    fmt::Write as _,
    net::TcpListener,
    process::{Command, Stdio},
    sync::{Arc, Condvar, Mutex, mpsc},
    time::{Duration, Instant},
};

use switchyard::{
    config,
    metrics::Metrics,
    names::{RoomPlace, ShardId},
    store::{
        Answer, Backend, Batch, Letter, Loaded, Note, Postgres, Reader, Reply, Request, Retention, Store,
        StoreError, Writer,
    },
};

use crate::{
    disk::Fault,
    model::Model,
    postgres_server::Server,
    script::{Script, chat, key, query, text_of},
    sqlite::Place,
};

const PLACE: RoomPlace = RoomPlace { shard: ShardId(0), slot: 3, serial: 9 };

/// A store that runs, and a shard's end of it.
struct Running {
    store: Store,
    replies: mpsc::Receiver<Reply>,
    metrics: Arc<Metrics>,
    tickets: u64,
}

impl Running {
    fn start(backend: Box<dyn Backend>) -> Result<Self, StoreError> {
        let metrics = Arc::new(Metrics::new());
        let (sender, replies) = mpsc::channel();
        let reply = Box::new(move |reply| drop(sender.send(reply)));
        let store = Store::start(backend, Retention::default(), metrics.clone(), reply)?;
        Ok(Self { store, replies, metrics, tickets: 0 })
    }

    fn send(&mut self, request: Request) -> u64 {
        self.tickets += 1;
        self.store.send(Letter { from: PLACE, ticket: self.tickets, request }).unwrap();
        self.tickets
    }

    fn next(&self) -> (u64, Answer) {
        let reply = self.replies.recv_timeout(Duration::from_secs(20)).expect("every letter is answered");
        assert_eq!(reply.to, PLACE);
        (reply.ticket, reply.answer)
    }

    fn ask(&mut self, request: Request) -> Answer {
        let ticket = self.send(request);
        let (answered, answer) = self.next();
        assert_eq!(answered, ticket);
        answer
    }

    fn load(&mut self, room: &str) -> Result<Loaded, StoreError> {
        match self.ask(Request::Load(key(room))) {
            Answer::Loaded(loaded) => loaded,
            other => panic!("{other:?}"),
        }
    }

    fn script(&mut self, room: &str) -> Script {
        let loaded = self.load(room).unwrap();
        Script::of(key(room), &loaded)
    }

    fn commit(&mut self, batch: Batch) -> Result<(), StoreError> {
        match self.ask(Request::Commit(batch)) {
            Answer::Committed(result) => result,
            other => panic!("{other:?}"),
        }
    }

    /// Loads until it succeeds, as a room does whose store is away.
    fn recover(&mut self, room: &str) -> Loaded {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            match self.load(room) {
                Ok(loaded) => return loaded,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    #[track_caller]
    fn assert_counted(&self, series: &str) {
        let rendered = self.metrics.render();
        assert!(rendered.lines().any(|line| line == series), "{series} is not in\n{rendered}");
    }
}

fn is_unavailable<T>(result: &Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError::Unavailable(_)))
}

/// A model whose writer stands still while the gate is closed.
#[derive(Clone, Debug, Default)]
struct Gated {
    model: Model,
    gate: Arc<(Mutex<Gate>, Condvar)>,
}

#[derive(Debug, Default)]
struct Gate {
    is_closed: bool,
    is_somebody_there: bool,
}

impl Gated {
    fn close(&self) {
        *self.gate.0.lock().unwrap() = Gate { is_closed: true, is_somebody_there: false };
    }

    fn wait_until_somebody_is_there(&self) {
        let waiting = |gate: &mut Gate| !gate.is_somebody_there;
        drop(self.gate.1.wait_while(self.gate.0.lock().unwrap(), waiting).unwrap());
    }

    fn open(&self) {
        *self.gate.0.lock().unwrap() = Gate::default();
        self.gate.1.notify_all();
    }

    fn pass(&self) {
        let mut gate = self.gate.0.lock().unwrap();
        gate.is_somebody_there = true;
        self.gate.1.notify_all();
        drop(self.gate.1.wait_while(gate, |gate| gate.is_closed).unwrap());
    }
}

impl Backend for Gated {
    fn writer(&self) -> Result<Box<dyn Writer>, StoreError> {
        Ok(Box::new(self.clone()))
    }

    fn reader(&self) -> Result<Box<dyn Reader>, StoreError> {
        self.model.reader()
    }

    fn size(&self) -> Option<u64> {
        None
    }
}

impl Writer for Gated {
    fn load(&mut self, keys: &[switchyard::names::RoomKey]) -> Result<Vec<Loaded>, StoreError> {
        self.pass();
        self.model.load(keys)
    }

    fn raise_epoch(&mut self, key: &switchyard::names::RoomKey) -> Result<Loaded, StoreError> {
        self.model.raise_epoch(key)
    }

    fn try_commit(&mut self, batches: &[Batch], now: u64) -> Result<Vec<Result<(), StoreError>>, StoreError> {
        self.pass();
        self.model.try_commit(batches, now)
    }

    fn note(&mut self, notes: &[Note]) -> Result<(), StoreError> {
        self.model.note(notes)
    }

    fn retain(&mut self, _: &Retention, _: u64) -> Result<bool, StoreError> {
        Ok(false)
    }

    fn close(self: Box<Self>) -> Result<(), StoreError> {
        Ok(())
    }
}

#[test]
fn what_waits_while_the_disk_works_shares_the_next_commit() {
    let gated = Gated::default();
    let mut running = Running::start(Box::new(gated.clone())).unwrap();
    let mut rooms: Vec<Script> = (0..100).map(|n| running.script(&n.to_string())).collect();
    gated.close();
    let first = running.send(Request::Commit(rooms[0].batch(vec![chat("first")])));
    gated.wait_until_somebody_is_there();
    for room in &mut rooms {
        for _ in 0..3 {
            running.send(Request::Commit(room.batch(vec![chat("waits")])));
        }
    }
    // A room that is loaded behind its batches is loaded when they are committed.
    let load = running.send(Request::Load(key("0")));
    gated.open();
    assert_eq!(running.next(), (first, Answer::Committed(Ok(()))));
    for ticket in first + 1..load {
        assert_eq!(running.next(), (ticket, Answer::Committed(Ok(()))));
    }
    let (ticket, Answer::Loaded(Ok(loaded))) = running.next() else { panic!("the load is answered last") };
    assert_eq!((ticket, loaded.head.seq, loaded.fence), (load, 4, 2));
    running.assert_counted("switchyard_store_commits_total 2");
    running.assert_counted("switchyard_store_batches_total 301");
}

#[test]
fn a_batch_that_comes_behind_a_load_is_fenced() {
    let gated = Gated::default();
    let mut running = Running::start(Box::new(gated.clone())).unwrap();
    let mut old = running.script("lab");
    gated.close();
    running.send(Request::Commit(old.batch(vec![chat("one")])));
    gated.wait_until_somebody_is_there();
    running.send(Request::Load(key("lab")));
    running.send(Request::Commit(old.batch(vec![chat("two")])));
    gated.open();
    assert_eq!(running.next().1, Answer::Committed(Ok(())));
    assert!(matches!(running.next().1, Answer::Loaded(Ok(_))));
    assert_eq!(running.next().1, Answer::Committed(Err(StoreError::Fenced)));
}

#[test]
fn a_store_that_cannot_keep_up_gives_letters_back_and_forgets_none_that_it_took() {
    let gated = Gated::default();
    let mut running = Running::start(Box::new(gated.clone())).unwrap();
    let mut room = running.script("lab");
    gated.close();
    running.send(Request::Commit(room.batch(vec![chat("first")])));
    gated.wait_until_somebody_is_there();
    let mut taken = 1;
    let large = "x".repeat(60_000);
    loop {
        let request = Request::Commit(room.batch(vec![chat(&large)]));
        if let Err(letter) = running.store.send(Letter { from: PLACE, ticket: 0, request }) {
            assert!(matches!(letter.request, Request::Commit(_)));
            break;
        }
        taken += 1;
    }
    assert!((500..5000).contains(&taken), "{taken} of 60 KB");
    running.assert_counted(r#"switchyard_store_failures_total{cause="full"} 1"#);
    gated.open();
    running.store.close();
    assert_eq!(
        running.replies.iter().take(taken).filter(|reply| reply.answer == Answer::Committed(Ok(()))).count(),
        taken
    );
    let late = running.store.send(Letter { from: PLACE, ticket: 0, request: Request::Load(key("lab")) });
    assert!(late.is_err(), "a closed store takes nothing");
}

#[test]
fn behind_a_failed_batch_everything_of_its_room_fails_until_it_is_loaded() {
    let model = Model::default();
    let mut running = Running::start(Box::new(model.clone())).unwrap();
    let (mut lab, mut hall) = (running.script("lab"), running.script("hall"));
    assert_eq!(running.commit(lab.batch(vec![chat("one")])), Ok(()));
    let mut missing = lab.batch(vec![chat("two")]);
    missing.expects.seq += 7;
    assert_eq!(running.commit(missing), Err(StoreError::HeadMoved));
    // This one would fit, had the room not been told of a failure.
    lab.head.seq -= 1;
    let fits = Batch { expects: running_head(&mut running), ..lab.batch(vec![chat("three")]) };
    assert_eq!(running.commit(fits), Err(StoreError::HeadMoved));
    assert_eq!(running.commit(hall.batch(vec![chat("another room")])), Ok(()));
    let mut lab = running.script("lab");
    assert_eq!(running.commit(lab.by("ada", 8, 0).batch(vec![chat("again")])), Ok(()));
    drop(model);
}

/// The head of the lab, read beside the room's back.
fn running_head(running: &mut Running) -> switchyard::store::Head {
    let Answer::Digest(Ok(Some(digest))) = running.ask(Request::Digest(key("lab"), 1)) else {
        panic!("the first event is there");
    };
    switchyard::store::Head { epoch: 0, seq: 1, digest }
}

#[test]
fn questions_are_answered_beside_commits_and_see_what_was_committed() {
    let place = Place::new();
    let mut running = Running::start(Box::new(place.open())).unwrap();
    let mut room = running.script("lab");
    for n in 1..=20 {
        assert_eq!(running.commit(room.batch(vec![chat(&n.to_string())])), Ok(()));
        let Answer::Page(Ok(page)) = running.ask(Request::Page(query("lab", 50))) else { panic!("a page") };
        assert_eq!(text_of(&page).matches("\"seq\"").count(), n);
        let events = running.ask(Request::Events { key: key("lab"), after: 0, to: 99, bytes: 1 << 20 });
        assert!(matches!(events, Answer::Events(Ok(events)) if events.len() == n));
    }
    assert!(
        matches!(running.ask(Request::RaiseEpoch(key("lab"))), Answer::Loaded(Ok(l)) if l.head.epoch == 1)
    );
    running.assert_counted(r#"switchyard_store_read_seconds_count{type="page"} 20"#);
}

#[test]
fn what_was_handed_in_is_done_before_the_store_ends() {
    let place = Place::new();
    let mut running = Running::start(Box::new(place.open())).unwrap();
    let mut room = running.script("lab");
    for _ in 0..500 {
        running.send(Request::Commit(room.batch(vec![chat("x")])));
    }
    running.store.close();
    assert_eq!(running.replies.try_iter().filter(|r| r.answer == Answer::Committed(Ok(()))).count(), 500);
    drop(running);
    let mut log = place.path().into_os_string();
    log.push("-wal");
    assert_eq!(std::fs::metadata(log).map_or(0, |log| log.len()), 0, "the log was moved into the file");
    let mut running = Running::start(Box::new(place.open())).unwrap();
    assert_eq!(running.load("lab").unwrap().head, room.head);
}

#[test]
fn a_disk_that_fails_is_told_and_used_again_when_it_works() {
    let model = Model::default();
    let mut running = Running::start(Box::new(Flaky(model.clone()))).unwrap();
    let mut room = running.script("lab");
    model.set_fault(Some(Fault::Full));
    assert!(is_unavailable(&running.commit(room.batch(vec![chat("one")]))));
    let start = Instant::now();
    assert!(is_unavailable(&running.load("lab")));
    assert!(start.elapsed() < Duration::from_secs(1), "nobody waits for what is known to be away");
    model.set_fault(None);
    assert_eq!(running.recover("lab").head.seq, 0);
    let mut room = running.script("lab");
    assert_eq!(running.commit(room.batch(vec![chat("two")])), Ok(()));
}

/// A model that fails as databases do, by its connections.
#[derive(Debug)]
struct Flaky(Model);

impl Backend for Flaky {
    fn writer(&self) -> Result<Box<dyn Writer>, StoreError> {
        match self.0.fault() {
            None => Ok(Box::new(FlakyWriter(self.0.clone()))),
            Some(fault) => Err(StoreError::Unavailable(format!("{fault:?}"))),
        }
    }

    fn reader(&self) -> Result<Box<dyn Reader>, StoreError> {
        self.0.reader()
    }

    fn size(&self) -> Option<u64> {
        None
    }
}

struct FlakyWriter(Model);

impl FlakyWriter {
    fn check(&self) -> Result<(), StoreError> {
        self.0.fault().map_or(Ok(()), |fault| Err(StoreError::Unavailable(format!("{fault:?}"))))
    }
}

impl Writer for FlakyWriter {
    fn load(&mut self, keys: &[switchyard::names::RoomKey]) -> Result<Vec<Loaded>, StoreError> {
        self.check()?;
        self.0.load(keys)
    }

    fn raise_epoch(&mut self, key: &switchyard::names::RoomKey) -> Result<Loaded, StoreError> {
        self.check()?;
        self.0.raise_epoch(key)
    }

    fn try_commit(&mut self, batches: &[Batch], now: u64) -> Result<Vec<Result<(), StoreError>>, StoreError> {
        self.check()?;
        self.0.try_commit(batches, now)
    }

    fn note(&mut self, notes: &[Note]) -> Result<(), StoreError> {
        self.check()?;
        self.0.note(notes)
    }

    fn retain(&mut self, _: &Retention, _: u64) -> Result<bool, StoreError> {
        self.check()?;
        Ok(false)
    }

    fn close(self: Box<Self>) -> Result<(), StoreError> {
        self.check()
    }
}

#[test]
fn a_locked_file_is_told_and_used_again_when_it_is_free() {
    let place = Place::new();
    let mut running = Running::start(Box::new(place.open())).unwrap();
    let mut room = running.script("lab");
    assert_eq!(running.commit(room.batch(vec![chat("one")])), Ok(()));
    let other = rusqlite::Connection::open(place.path()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let error = running.commit(room.batch(vec![chat("two")])).unwrap_err();
    assert_eq!(error.to_string(), "the store is unavailable: another program has locked the file");
    // Reading goes on.
    assert!(matches!(running.ask(Request::Page(query("lab", 5))), Answer::Page(Ok(_))));
    other.execute_batch("ROLLBACK").unwrap();
    assert_eq!(running.recover("lab").head.seq, 1);
}

/// A file system of a few megabytes, if whoever runs the tests may mount one.
struct Small {
    place: Place,
}

impl Small {
    fn mount() -> Option<Self> {
        let place = Place::new();
        std::fs::create_dir(place.path().parent().unwrap()).unwrap();
        let folder = place.path().parent().unwrap().to_owned();
        let mount = ["-t", "tmpfs", "-o", "size=4m", "switchyard-test"];
        let mounted = Command::new("mount").args(mount).arg(folder).stderr(Stdio::null()).status();
        mounted.is_ok_and(|status| status.success()).then_some(Self { place })
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(self.place.path().parent().unwrap()).status();
        assert!(unmounted.unwrap().success());
    }
}

#[test]
fn a_full_disk_is_told_and_used_again_when_there_is_room() {
    let Some(small) = Small::mount() else {
        eprintln!("not run: only root may mount a small file system");
        return;
    };
    let mut running = Running::start(Box::new(small.place.open())).unwrap();
    let mut room = running.script("lab");
    let ballast = small.place.path().with_file_name("ballast");
    std::fs::write(&ballast, vec![1; 2 << 20]).unwrap();
    let large = "x".repeat(60_000);
    let (error, durable) = loop {
        let before = room.head;
        if let Err(error) = running.commit(room.batch(vec![chat(&large)])) {
            break (error, before);
        }
    };
    assert_eq!(error.to_string(), "the store is unavailable: the disk is full");
    assert!(durable.seq > 5);
    assert!(matches!(running.ask(Request::Page(query("lab", 2))), Answer::Page(Ok(_))), "reading goes on");
    std::fs::remove_file(ballast).unwrap();
    assert_eq!(running.recover("lab").head, durable);
    let mut room = running.script("lab");
    assert_eq!(running.commit(room.by("ada", 8, 0).batch(vec![chat(&large)])), Ok(()));
    running.store.close();
}

#[test]
fn notes_are_kept_and_a_session_that_the_server_lost_is_ended_by_the_next() {
    let place = Place::new();
    let mut running = Running::start(Box::new(place.open())).unwrap();
    let joined = |session: &str, at| {
        let (key, session) = (key("lab"), session.to_owned());
        Request::Note(Note::Joined {
            key,
            session,
            user: "ada".into(),
            name: "Ada".into(),
            role: "editor",
            at,
        })
    };
    running.send(joined("a", 5));
    running.send(joined("a", 9));
    running.send(joined("b", 10));
    let (reason, user) = (switchyard_signaling::Code::Left, "ada".into());
    running.send(Request::Note(Note::Left {
        key: key("lab"),
        session: "b".to_owned(),
        user,
        reason,
        at: 20,
    }));
    running.store.close();
    let file = rusqlite::Connection::open(place.path()).unwrap();
    let mut select = file
        .prepare("SELECT session, joined_at, coalesce(left_at, 0), coalesce(reason, '-') FROM sessions")
        .unwrap();
    let mut rows = select.query([]).unwrap();
    let mut told = String::new();
    while let Some(row) = rows.next().unwrap() {
        let (session, joined): (String, i64) = (row.get(0).unwrap(), row.get(1).unwrap());
        let (left, reason): (i64, String) = (row.get(2).unwrap(), row.get(3).unwrap());
        write!(told, "{session} {joined}-{left} {reason}; ").unwrap();
    }
    assert_eq!(told, "a 5-9 lost; a 9-0 -; b 10-20 left; ");
    let last: i64 = file.query_row("SELECT last_at FROM participants", [], |row| row.get(0)).unwrap();
    assert_eq!(last, 20);
}

#[test]
fn a_database_that_ends_is_told_at_once_and_used_again_when_it_is_back() {
    let server = Server::start(true);
    let url = server.database();
    let mut running = Running::start(Box::new(Postgres::new(&url).unwrap())).unwrap();
    let mut room = running.script("lab");
    assert_eq!(running.commit(room.batch(vec![chat("one")])), Ok(()));
    // As a crash of its machine, but for the disk.
    server.stop("QUIT");
    let start = Instant::now();
    assert!(is_unavailable(&running.commit(room.batch(vec![chat("two")]))));
    assert!(is_unavailable(&running.load("lab")));
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    assert!(matches!(running.ask(Request::Digest(key("lab"), 1)), Answer::Digest(Err(_))));
    server.run();
    let loaded = running.recover("lab");
    assert_eq!((loaded.head.seq, loaded.recent.len()), (1, 1));
    let mut room = running.script("lab");
    assert_eq!(running.commit(room.by("ada", 8, 0).batch(vec![chat("two")])), Ok(()));
}

#[test]
fn a_database_that_says_nothing_is_given_up_after_two_seconds() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("postgres://ada:hush@{}/x", silent.local_addr().unwrap());
    let start = Instant::now();
    let error = Running::start(Box::new(Postgres::new(&url).unwrap())).err().unwrap();
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    assert!(!error.to_string().contains("hush"), "{error}");
}

#[test]
fn the_configuration_names_the_database() {
    let place = Place::new();
    let metrics = Arc::new(Metrics::new());
    let mut config = config::Store { path: place.path(), ..config::Store::default() };
    let open = |config: &config::Store| Store::open(config, metrics.clone(), Box::new(|_| {}));
    let store = open(&config).unwrap();
    assert!(place.path().exists());
    let error = open(&config).unwrap_err().to_string();
    assert!(error.contains("another server has") && error.contains("switchyard.db"), "{error}");
    drop(store);
    let server = Server::shared();
    config.url = Some(config::Secret::new(server.database()));
    assert!(format!("{:?}", open(&config).unwrap()).contains("Postgres"));
}
