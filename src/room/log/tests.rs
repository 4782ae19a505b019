//! A log seen from outside: members' records in, records for members out, with a store that answers when it is told to.

use std::time::Duration;

use switchyard_signaling::{
    event::{OPAQUE, Position},
    limits,
    message::Follow,
    record::{self, Json, ServerRecord, read_server},
};

use super::{
    super::{Grant, Member, permission::Role},
    *,
};
use crate::{
    names::{SessionId, ShardId, WallClock},
    room::Receiver,
    store::{KnownOrigin, Loaded, OriginMark, Page, StoreError},
};

const ANN: u32 = 1;
const BOB: u32 = 2;
/// An author that says nothing for so long is gone.
const SILENT: Duration = Duration::from_secs(60);

/// What is durable, and what is asked.
#[derive(Default)]
struct Disk {
    head: Head,
    fence: u64,
    entries: Vec<Arc<Entry>>,
    origins: BTreeMap<Origin, OriginMark>,
    refused: Vec<Refused>,
    fails: bool,
}

impl Disk {
    fn answer(&mut self, request: Request) -> Option<Answer> {
        if self.fails {
            return request.failed(StoreError::Unavailable("full".into()));
        }
        Some(match request {
            Request::Load(_) => self.load(),
            Request::RaiseEpoch(_) => {
                self.head.epoch += 1;
                self.load()
            }
            Request::Commit(batch) => {
                assert_eq!((batch.fence, batch.expects), (self.fence, self.head), "batches come in order");
                for entry in batch.events {
                    assert_eq!(entry.event.seq, self.entries.len() as u64 + 1);
                    self.entries.push(entry);
                }
                self.head = batch.head;
                self.refused.extend(batch.refused);
                self.origins.extend(batch.origins.into_iter().map(|mark| (mark.origin, mark)));
                Answer::Committed(Ok(()))
            }
            Request::Events { after, to, .. } => {
                let entries = self.entries.iter().filter(|entry| (after + 1..=to).contains(&entry.event.seq));
                Answer::Events(Ok(entries.cloned().collect()))
            }
            Request::Digest(_, seq) => {
                Answer::Digest(Ok(self.entries.get(seq as usize - 1).map(|entry| entry.digest)))
            }
            Request::Origin(_, origin) => Answer::Origin(Ok(self.origin(origin))),
            Request::Message(_, seq) => {
                let entry =
                    self.entries.get(seq as usize - 1).filter(|entry| entry.event.content.kind.is_message());
                let user = |entry: &Arc<Entry>| entry.event.user.as_str().into();
                Answer::Message(Ok(entry.map(|entry| KnownMessage { user: user(entry), is_deleted: false })))
            }
            Request::Fields(_) => Answer::Fields(Ok(vec![("status".into(), 6)])),
            Request::Page(query) => {
                let json = format!("{{{}\"messages\":[],\"more\":false}}", query.prefix);
                Answer::Page(Ok(Page { encoding: 0, json: json.into() }))
            }
            Request::Note(_) => return None,
        })
    }

    fn load(&mut self) -> Answer {
        self.fence += 1;
        let recent = self.entries.clone();
        Answer::Loaded(Ok(Loaded { fence: self.fence, head: self.head, first: 1, recent }))
    }

    fn origin(&self, origin: Origin) -> KnownOrigin {
        let Some(mark) = self.origins.get(&origin) else { return KnownOrigin::default() };
        let events = self.entries.iter().filter(|entry| entry.event.origin == origin);
        KnownOrigin {
            user: Some(mark.user.clone()),
            last: mark.last,
            events: events.map(|entry| (entry.event.cseq, entry.hash, entry.event.seq)).collect(),
            refused: self.refused.iter().filter(|refused| refused.origin == origin).cloned().collect(),
        }
    }
}

struct World {
    log: Log,
    members: Members,
    disk: Disk,
    /// Requests that the disk has not answered; held back while it is `slow`.
    asked: VecDeque<(u64, Request)>,
    is_slow: bool,
    now: Instant,
    heard: BTreeMap<u32, Vec<ServerRecord>>,
    controls: Vec<ServerControl>,
    backend: Vec<(u64, Result<BackendAnswer, BackendError>)>,
}

fn settings(now: Instant) -> LogSettings {
    LogSettings { resync_events: 5, ..LogSettings::new(WallClock::new(now, 1000)) }
}

impl World {
    fn new() -> Self {
        Self::with(Disk::default(), |_| {})
    }

    fn with(disk: Disk, change: impl FnOnce(&mut LogSettings)) -> Self {
        let now = Instant::now();
        let mut settings = settings(now);
        change(&mut settings);
        let key = RoomKey { tenant: "t".into(), room: "r".into() };
        let mut world = Self {
            log: Log::new(key, Arc::new(settings), 7),
            members: Members::new(),
            disk,
            asked: VecDeque::new(),
            is_slow: false,
            now,
            heard: BTreeMap::new(),
            controls: Vec::new(),
            backend: Vec::new(),
        };
        world.member(ANN, "ann", Role::Editor);
        world.member(BOB, "bob", Role::Editor);
        world.settle();
        world
    }

    /// A server that starts on what this one has left.
    fn restart(self) -> Self {
        Self::with(self.disk, |_| {})
    }

    fn member(&mut self, number: u32, user: &str, role: Role) {
        let session = SessionId { shard: ShardId(0), slot: number, serial: 1 };
        let grant = Grant {
            user: user.into(),
            name: user.into(),
            role,
            permissions: role.permissions(),
            expires: self.now + Duration::from_secs(1000),
            signing_key: None,
        };
        let receiver = Receiver { session, handle: 1 };
        self.members.insert(number, Member::new(receiver, grant));
    }

    fn follow(&mut self, member: u32, follow: Follow) {
        self.log.follow(member, follow, self.now);
        self.settle();
    }

    fn submit(&mut self, member: u32, submissions: &[Submission]) {
        let records = submissions.iter().cloned().map(ClientRecord::Submit).collect::<Vec<_>>();
        self.records(member, records);
    }

    fn records(&mut self, member: u32, records: Vec<ClientRecord>) {
        self.log.handle_records(&self.members, member, records.into_iter(), self.now);
        self.settle();
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        if self.log.poll_timeout().is_some_and(|due| due <= self.now) {
            self.log.handle_timeout(self.now);
        }
        self.settle();
    }

    fn settle(&mut self) {
        loop {
            while let Some(said) = self.log.poll() {
                match said {
                    Said::To(member, records) => self.hear(member, records),
                    Said::Live(records) => {
                        for member in self.log.live().collect::<Vec<_>>() {
                            self.hear(member, records.clone());
                        }
                    }
                    Said::Control(_, control) => self.controls.push(control),
                    Said::Store(ticket, request) => self.asked.push_back((ticket, request)),
                    Said::Backend(request, result) => self.backend.push((request, result)),
                    Said::Refuse(..) | Said::Count(_) => {}
                }
            }
            if self.is_slow {
                return;
            }
            let Some((ticket, request)) = self.asked.pop_front() else { return };
            if let Some(answer) = self.disk.answer(request) {
                self.log.handle_answer(&self.members, ticket, answer, self.now);
            }
        }
    }

    fn hear(&mut self, member: u32, records: Bytes) {
        let records: Result<Vec<_>, _> = read_server(records).collect();
        self.heard.entry(member).or_default().extend(records.unwrap());
    }

    fn heard(&mut self, member: u32) -> Vec<ServerRecord> {
        self.heard.remove(&member).unwrap_or_default()
    }

    /// What a member has heard, in short.
    fn short(&mut self, member: u32) -> Vec<String> {
        self.heard(member).iter().map(short).collect()
    }
}

fn short(record: &ServerRecord) -> String {
    match record {
        ServerRecord::Event(event) => format!("event {} {}", event.seq, text(&event.content.body)),
        ServerRecord::Head(position) => format!("head {}.{}", position.epoch, position.seq),
        ServerRecord::Accepted { cseq, seq, .. } => format!("accepted {cseq} {seq}"),
        ServerRecord::Refused { cseq, code, .. } => format!("refused {cseq} {code}"),
        ServerRecord::Expected { cseq, retry_after_ms, code, .. } => {
            format!("expected {cseq} {code} {retry_after_ms}")
        }
        ServerRecord::Conflict { cseq, .. } => format!("conflict {cseq}"),
        ServerRecord::Snapshot(Json { bytes, .. }) => {
            let json: serde_json::Value = serde_json::from_slice(bytes).unwrap();
            format!("snapshot {} {}.{}", json["reason"].as_str().unwrap(), json["epoch"], json["seq"])
        }
        ServerRecord::Stream(stream) => format!("stream {} {}", stream.stream, text(&stream.text)),
        ServerRecord::Text { offset, text: more, .. } => format!("text {offset} {}", text(more)),
        ServerRecord::Ended { stream, seq } => format!("ended {stream} {seq}"),
        ServerRecord::Have { offset, .. } => format!("have {offset}"),
        ServerRecord::Status(code) => format!("status {}", code.as_deref().unwrap_or("ok")),
        other => format!("{other:?}"),
    }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn says(word: &str) -> Content {
    let body = Bytes::from(word.to_owned());
    Content { kind: EventKind::Chat, version: 0, flags: OPAQUE, target: 0, body }
}

fn submission(origin: u64, cseq: u32, word: &str) -> Submission {
    Submission { origin: Origin(origin), cseq, base: 1, nonce: cseq, content: says(word) }
}

#[test]
fn an_event_reaches_every_live_follower_and_the_author_by_the_event_itself() {
    let mut world = World::new();
    world.follow(ANN, Follow::New);
    world.follow(BOB, Follow::New);
    assert_eq!(world.short(BOB), ["snapshot new 0.0", "head 0.0"]);
    world.heard(ANN);
    world.submit(ANN, &[submission(5, 1, "a"), submission(5, 2, "b")]);
    assert_eq!(world.short(ANN), ["event 1 a", "event 2 b", "head 0.2"]);
    assert_eq!(world.short(BOB), ["event 1 a", "event 2 b", "head 0.2"]);
}

#[test]
fn nothing_is_said_before_it_is_durable_and_what_comes_meanwhile_shares_a_commit() {
    let mut world = World::new();
    world.follow(BOB, Follow::New);
    world.heard(BOB);
    world.submit(ANN, &[submission(5, 1, "first")]);
    assert_eq!(world.short(ANN), ["accepted 1 1"], "who does not follow is told apart");
    assert_eq!(world.short(BOB), ["event 1 first", "head 0.1"]);
    world.is_slow = true;
    for cseq in 2..=4 {
        world.submit(ANN, &[submission(5, cseq, "x")]);
    }
    assert_eq!((world.short(ANN), world.short(BOB)), (vec![], vec![]));
    assert_eq!(world.asked.len(), 1, "one batch is with the store");
    world.is_slow = false;
    world.settle();
    assert_eq!(world.short(ANN), ["accepted 2 2", "accepted 3 3", "accepted 4 4"]);
    assert_eq!(
        world.short(BOB),
        ["event 2 x", "head 0.2", "event 3 x", "event 4 x", "head 0.4"],
        "two commits, two messages"
    );
}

#[test]
fn a_batch_that_does_not_fit_one_message_is_several_and_each_ends_with_its_position() {
    let mut world = World::new();
    world.follow(BOB, Follow::New);
    world.submit(ANN, &[submission(5, 1, "first")]);
    world.heard(BOB);
    let long = "x".repeat(60_000);
    let submissions = (2..=7).map(|cseq| submission(5, cseq, &long)).collect::<Vec<_>>();
    world.submit(ANN, &submissions);
    let (mut bytes, mut last, mut heads) = (0, 1, Vec::new());
    for record in world.heard(BOB) {
        match record {
            ServerRecord::Event(event) => {
                assert_eq!(event.seq, last + 1);
                (bytes, last) = (bytes + record::event_len(&event), event.seq);
            }
            ServerRecord::Head(position) => {
                assert!(bytes + HEAD_BYTES <= limits::LOG_BYTES, "a message of {bytes} bytes");
                let entry = &world.disk.entries[last as usize - 1];
                assert_eq!((position.seq, position.digest), (last, entry.digest));
                heads.push(last);
                bytes = 0;
            }
            _ => {}
        }
    }
    assert_eq!(heads, [5, 7]);
}

#[test]
fn a_repetition_gets_its_old_answer_across_a_restart_too() {
    let mut world = World::new();
    world.submit(ANN, &[submission(5, 1, "a"), submission(5, 2, "b")]);
    world.heard(ANN);
    world.submit(ANN, &[submission(5, 1, "a")]);
    assert_eq!(world.short(ANN), ["accepted 1 1"]);
    let mut world = world.restart();
    world.submit(ANN, &[submission(5, 2, "b"), submission(5, 3, "c")]);
    assert_eq!(world.short(ANN), ["accepted 2 2", "accepted 3 3"]);
    assert_eq!(world.disk.entries.len(), 3);
}

#[test]
fn another_submission_under_a_used_number_is_a_conflict_of_that_one_alone() {
    let mut world = World::new();
    world.submit(ANN, &[submission(5, 1, "a"), submission(5, 2, "b")]);
    world.heard(ANN);
    world.submit(ANN, &[submission(5, 1, "other"), submission(5, 2, "b"), submission(5, 3, "next")]);
    assert_eq!(world.short(ANN), ["conflict 1", "accepted 2 2", "accepted 3 3"]);
    let mut again = submission(5, 1, "a");
    again.nonce += 1;
    world.submit(ANN, &[again]);
    assert_eq!(world.short(ANN), ["conflict 1"]);
}

#[test]
fn a_conflict_waits_until_what_was_taken_before_it_is_durable() {
    let mut world = World::new();
    world.submit(ANN, &[submission(5, 1, "a")]);
    world.heard(ANN);
    world.is_slow = true;
    world.submit(ANN, &[submission(5, 2, "b")]);
    world.submit(ANN, &[submission(5, 2, "other")]);
    assert_eq!(world.short(ANN), [""; 0], "if the commit fails, the other one is taken");
    world.is_slow = false;
    world.settle();
    assert_eq!(world.short(ANN), ["accepted 2 2", "conflict 2"]);
}

#[test]
fn an_origin_is_its_first_users_alone() {
    let mut world = World::new();
    world.submit(ANN, &[submission(5, 1, "a")]);
    world.submit(BOB, &[submission(5, 2, "b")]);
    assert_eq!(world.short(BOB), ["refused 2 bad_origin"]);
    let mut world = world.restart();
    world.submit(BOB, &[submission(5, 2, "b")]);
    assert_eq!(world.short(BOB), ["refused 2 bad_origin"]);
    world.submit(ANN, &[submission(5, 2, "b")]);
    assert_eq!(world.short(ANN), ["accepted 2 2"]);
}

#[test]
fn a_refusal_uses_its_number_up_and_comes_again_until_it_was_seen() {
    let mut world = World::new();
    world.member(ANN, "ann", Role::Viewer);
    world.submit(ANN, &[submission(5, 1, "a")]);
    assert_eq!(world.short(ANN), ["refused 1 forbidden"]);
    let mut world = world.restart();
    world.submit(ANN, &[submission(5, 1, "a"), submission(5, 2, "b")]);
    assert_eq!(world.short(ANN), ["refused 1 forbidden", "accepted 2 1"], "although she may write by now");
}

#[test]
fn a_hole_is_told_once_and_a_rate_limit_uses_nothing_up() {
    let mut world = World::with(Disk::default(), |settings| {
        (settings.writes_per_minute, settings.write_burst) = (60, 2);
    });
    world.submit(ANN, &[submission(5, 3, "c"), submission(5, 4, "d")]);
    world.submit(ANN, &[submission(5, 5, "e")]);
    assert_eq!(world.short(ANN), ["expected 1 out_of_order 0"]);
    let all: Vec<_> = (1..=4).map(|cseq| submission(5, cseq, "x")).collect();
    world.submit(ANN, &all);
    assert_eq!(world.short(ANN), ["expected 3 rate_limited 1000", "accepted 1 1", "accepted 2 2"]);
    world.pass(Duration::from_secs(1));
    world.submit(ANN, &all[2..3]);
    assert_eq!(world.short(ANN), ["accepted 3 3"]);
}

#[test]
fn a_failed_commit_is_forgotten_and_its_writers_come_again() {
    let mut world = World::new();
    world.follow(BOB, Follow::New);
    world.submit(ANN, &[submission(5, 1, "a")]);
    world.heard(ANN);
    world.heard(BOB);
    world.disk.fails = true;
    world.submit(ANN, &[submission(5, 2, "b"), submission(5, 3, "c")]);
    assert_eq!(world.short(ANN), ["expected 2 storage_unavailable 1000"]);
    assert_eq!(world.short(BOB), ["status storage_unavailable"]);
    world.pass(Duration::from_millis(500));
    world.submit(ANN, &[submission(5, 2, "b")]);
    assert_eq!(world.short(ANN).len(), 1);
    world.disk.fails = false;
    world.pass(Duration::from_secs(1));
    assert_eq!(world.short(BOB), ["status ok"]);
    world.submit(ANN, &[submission(5, 2, "b"), submission(5, 3, "c")]);
    assert_eq!(world.short(ANN), ["accepted 2 2", "accepted 3 3"]);
    assert_eq!(world.short(BOB), ["event 2 b", "event 3 c", "head 0.3"]);
}

#[test]
fn a_commit_that_succeeded_although_its_answer_was_lost_is_passed_on() {
    let mut world = World::new();
    world.follow(BOB, Follow::New);
    world.heard(BOB);
    world.is_slow = true;
    world.submit(ANN, &[submission(5, 1, "a")]);
    let (origin, request) = world.asked.pop_front().unwrap();
    assert!(matches!(request, Request::Origin(..)));
    let answer = world.disk.answer(request).unwrap();
    world.log.handle_answer(&world.members, origin, answer, world.now);
    world.settle();
    let (ticket, request) = world.asked.pop_front().unwrap();
    assert_eq!(world.disk.answer(request), Some(Answer::Committed(Ok(()))));
    let lost = Answer::Committed(Err(StoreError::Unavailable("connection lost".into())));
    world.log.handle_answer(&world.members, ticket, lost, world.now);
    world.is_slow = false;
    world.settle();
    assert_eq!(world.short(ANN), ["expected 1 storage_unavailable 1000"]);
    world.pass(Duration::from_secs(1));
    assert_eq!(world.short(BOB), ["status storage_unavailable", "event 1 a", "head 0.1", "status ok"]);
    world.submit(ANN, &[submission(5, 1, "a")]);
    assert_eq!(world.short(ANN), ["accepted 1 1"]);
}

fn position(records: &[ServerRecord]) -> Position {
    let heads = records.iter().filter_map(|record| match record {
        ServerRecord::Head(position) => Some(*position),
        _ => None,
    });
    heads.last().unwrap()
}

#[test]
fn a_reader_goes_on_from_its_position_or_gets_a_snapshot_that_says_why() {
    let mut world = World::new();
    world.follow(BOB, Follow::New);
    world.submit(ANN, &[submission(5, 1, "a")]);
    let seen = position(&world.heard(BOB));
    world.follow(BOB, Follow::From(seen));
    assert_eq!(world.short(BOB), ["head 0.1"]);
    world.log.forget_member(BOB, world.now);
    world.submit(ANN, &[submission(5, 2, "b")]);
    world.follow(BOB, Follow::From(seen));
    assert_eq!(world.short(BOB), ["event 2 b", "head 0.2"]);
    world.follow(BOB, Follow::From(Position { digest: seen.digest ^ 1, ..seen }));
    assert_eq!(world.short(BOB), ["snapshot mismatch 0.2", "head 0.2"]);
    let all: Vec<_> = (3..=8).map(|cseq| submission(5, cseq, "x")).collect();
    world.submit(ANN, &all);
    world.heard(BOB);
    world.follow(BOB, Follow::From(seen));
    assert_eq!(world.short(BOB), ["snapshot behind 0.8", "head 0.8"], "more than five behind");
}

#[test]
fn a_reader_that_was_ahead_of_a_restored_log_raises_the_epoch_for_all_and_a_liar_does_not() {
    let mut world = World::new();
    world.follow(BOB, Follow::New);
    world.submit(ANN, &[submission(5, 1, "a"), submission(5, 2, "b")]);
    let seen = position(&world.heard(BOB));
    let mut world = World::with(Disk::default(), |_| {});
    world.follow(ANN, Follow::New);
    world.heard(ANN);
    world.follow(BOB, Follow::From(Position { proof: seen.proof ^ 1, ..seen }));
    assert_eq!(world.short(BOB), ["snapshot mismatch 0.0", "head 0.0"]);
    world.follow(BOB, Follow::From(seen));
    assert_eq!(world.short(BOB), ["snapshot restored 1.0", "head 1.0"]);
    assert_eq!(world.short(ANN), ["snapshot restored 1.0", "head 1.0"]);
    // What its writer knows to have been acknowledged is passed over.
    let mut next = submission(5, 3, "c");
    next.base = 3;
    world.submit(ANN, &[next]);
    assert_eq!(world.short(ANN), ["event 1 c", "head 1.1"]);
    assert_eq!(world.disk.origins[&Origin(5)].abandoned, Some((1, 2)));
}

#[test]
fn a_streamed_message_grows_for_everybody_and_ends_as_one_event() {
    let mut world = World::new();
    world.follow(BOB, Follow::New);
    world.heard(BOB);
    let (origin, key) = (Origin(5), 4);
    let content = Content { flags: 0, body: "{\"meta\":1}".into(), ..says("") };
    let part = |offset, text: &'static str| ClientRecord::Part { origin, key, offset, text: text.into() };
    let begin = ClientRecord::Begin { origin, key, content: content.clone() };
    world.records(ANN, vec![begin.clone(), part(0, "say "), part(4, "hi")]);
    assert_eq!(world.short(BOB), ["stream 1 ", "text 0 say ", "text 4 hi"]);
    world.records(ANN, vec![part(9, "hole"), part(2, "y hi!")]);
    assert_eq!((world.short(ANN), world.short(BOB)), (vec!["have 6".into()], vec!["text 6 !".into()]));
    world.follow(ANN, Follow::New);
    assert_eq!(world.short(ANN), ["snapshot new 0.0", "head 0.0", "stream 1 say hi!"]);
    let end = |length: u32| {
        let body = Bytes::copy_from_slice(&length.to_be_bytes());
        let content = Content { kind: EventKind::End, version: 0, flags: 0, target: key.into(), body };
        Submission { origin, cseq: 1, base: 1, nonce: 1, content }
    };
    world.submit(ANN, &[end(9)]);
    assert_eq!(world.short(ANN), ["have 7", "expected 1 stream_behind 0"]);
    world.submit(ANN, &[end(7)]);
    assert_eq!(world.short(BOB), [r#"event 1 {"meta":1,"text":"say hi!"}"#, "head 0.1", "ended 1 1"]);
    world.submit(ANN, &[end(7)]);
    assert_eq!(world.short(ANN).last().unwrap(), "accepted 1 1");
}

#[test]
fn a_stream_whose_author_is_gone_ends_incomplete() {
    let mut world = World::new();
    world.follow(BOB, Follow::New);
    world.heard(BOB);
    let (origin, content) = (Origin(5), Content { flags: 0, body: "{}".into(), ..says("") });
    let begin = |key| ClientRecord::Begin { origin, key, content: content.clone() };
    let text = Bytes::from_static(b"half");
    world.records(ANN, vec![begin(1), begin(2), ClientRecord::Part { origin, key: 1, offset: 0, text }]);
    world.heard(BOB);
    world.log.forget_member(ANN, world.now);
    world.settle();
    assert_eq!(world.short(BOB), ["ended 2 0", r#"event 1 {"text":"half"}"#, "head 0.1", "ended 1 1"]);
    assert_eq!(world.disk.entries[0].event.content.flags, switchyard_signaling::event::INCOMPLETE);
}

#[test]
fn only_the_author_edits_and_what_was_deleted_stays_so() {
    let mut world = World::new();
    world.submit(ANN, &[submission(5, 1, "a")]);
    let mut world = world.restart();
    let act = |origin, cseq, kind| {
        let flags = if kind == EventKind::Edit { OPAQUE } else { 0 };
        let body = if kind == EventKind::Edit { Bytes::from_static(b"new") } else { Bytes::new() };
        let content = Content { kind, version: 0, flags, target: 1, body };
        Submission { origin: Origin(origin), cseq, base: 1, nonce: 0, content }
    };
    world.submit(BOB, &[act(6, 1, EventKind::Edit), act(6, 2, EventKind::Delete)]);
    assert_eq!(world.short(BOB), ["refused 1 not_author", "refused 2 not_author"]);
    world
        .submit(ANN, &[act(5, 2, EventKind::Edit), act(5, 3, EventKind::Delete), act(5, 4, EventKind::Edit)]);
    assert_eq!(world.short(ANN), ["accepted 2 2", "accepted 3 3", "refused 4 no_such_message"]);
}

fn write(origin: u64, nonce: u32, content: Content) -> BackendWrite {
    BackendWrite { user: "bot".into(), name: "Bot".into(), origin: Origin(origin), nonce, content }
}

/// What the backend is answered at once, with a store that answers at once.
fn backend(world: &mut World, act: BackendAct) -> Result<BackendAnswer, BackendError> {
    let request = world.backend.len() as u64 + 1;
    world.log.backend(&world.members, BackendRequest { request, act }, world.now);
    world.settle();
    let (answered, answer) = world.backend.last().cloned().unwrap();
    assert_eq!(answered, request);
    answer
}

fn written(seq: u64, is_repeated: bool) -> Result<BackendAnswer, BackendError> {
    Ok(BackendAnswer::Written { seq, is_repeated })
}

#[test]
fn the_backend_is_answered_once_however_often_it_asks() {
    let mut world = World::new();
    let say = |word| BackendAct::Write(write(77, 0, says(word)));
    assert_eq!(backend(&mut world, say("a")), written(1, false));
    assert_eq!(backend(&mut world, say("a")), written(1, true));
    assert_eq!(backend(&mut world, say("b")), Err(BackendError::Conflict));
    let mut world = world.restart();
    assert_eq!(backend(&mut world, say("a")), written(1, true));
    assert_eq!(world.disk.entries.len(), 1);
}

#[test]
fn a_backend_that_asks_again_before_its_write_is_durable_gets_an_answer_to_both() {
    let mut world = World::new();
    world.settle();
    world.is_slow = true;
    let say = BackendRequest { request: 1, act: BackendAct::Write(write(77, 0, says("a"))) };
    for request in 1..=3 {
        world.log.backend(&world.members, BackendRequest { request, ..say.clone() }, world.now);
        world.settle();
    }
    world.is_slow = false;
    world.settle();
    let mut answers = world.backend.clone();
    answers.sort_by_key(|(request, _)| *request);
    assert_eq!(answers.iter().map(|(request, _)| *request).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(answers.iter().filter(|(_, answer)| *answer == written(1, false)).count(), 1, "{answers:?}");
    assert_eq!(world.disk.entries.len(), 1);
}

fn textless() -> Content {
    Content { flags: 0, body: "{}".into(), ..says("") }
}

fn begun(world: &mut World, origin: u64) -> BackendStream {
    match backend(world, BackendAct::Begin(write(origin, 0, textless()))) {
        Ok(BackendAnswer::Begun(stream)) => stream,
        other => panic!("{other:?}"),
    }
}

fn part(stream: BackendStream, offset: u32, text: &'static str) -> BackendAct {
    BackendAct::Part { stream, offset, text: text.into() }
}

fn end(stream: BackendStream, nonce: u32, length: u32) -> BackendAct {
    let body = Bytes::copy_from_slice(&length.to_be_bytes());
    let content = Content { kind: EventKind::End, version: 0, flags: 0, target: stream.key.into(), body };
    BackendAct::Write(write(stream.origin.0, nonce, content))
}

#[test]
fn a_backend_streams_and_a_retry_of_the_whole_stream_is_no_second_message() {
    let mut world = World::new();
    world.follow(BOB, Follow::New);
    world.heard(BOB);
    let stream = begun(&mut world, 77);
    let other = begun(&mut world, 77);
    assert_ne!(stream, other);
    assert_eq!(backend(&mut world, part(stream, 0, "hi")), Ok(BackendAnswer::Done));
    assert_eq!(backend(&mut world, part(other, 0, "hi")), Ok(BackendAnswer::Done));
    assert_eq!(backend(&mut world, end(stream, 5, 2)), written(1, false));
    world.heard(BOB);
    assert_eq!(backend(&mut world, end(other, 5, 2)), written(1, true));
    assert_eq!(world.short(BOB), ["ended 2 1"], "its followers need not wait for it");
    let begin = BackendAct::Begin(write(77, 0, textless()));
    assert_eq!(backend(&mut world, begin), Ok(BackendAnswer::Ended));
    let late = BackendStream { key: 0, ..stream };
    assert_eq!(backend(&mut world, end(late, 5, 2)), written(1, true));
    assert_eq!(backend(&mut world, end(late, 6, 2)), Err(BackendError::Conflict));
    world.pass(SILENT);
    assert_eq!(world.disk.entries.len(), 1);
    assert!(!world.log.streams.any());
}

#[test]
fn a_backend_that_goes_away_leaves_an_incomplete_message_or_none_as_it_says() {
    let mut world = World::new();
    let [kept, dropped, silent] = [1, 2, 3].map(|origin| begun(&mut world, origin));
    for stream in [kept, dropped, silent] {
        assert_eq!(backend(&mut world, part(stream, 0, "half")), Ok(BackendAnswer::Done));
    }
    let give_up = |stream, keep| BackendAct::GiveUp { stream, keep };
    assert_eq!(backend(&mut world, give_up(kept, true)), Ok(BackendAnswer::Done));
    assert_eq!(backend(&mut world, give_up(dropped, false)), Ok(BackendAnswer::Done));
    assert_eq!(world.disk.entries.len(), 1);
    world.pass(SILENT);
    assert_eq!(world.disk.entries.len(), 2);
    let gone = |answer| matches!(answer, Err(BackendError::Refused(Code::NoSuchStream, _)));
    assert!(gone(backend(&mut world, part(silent, 4, "more"))));
    assert!(gone(backend(&mut world, end(silent, 0, 4))));
    assert!(
        world
            .disk
            .entries
            .iter()
            .all(|entry| entry.event.content.flags == switchyard_signaling::event::INCOMPLETE)
    );
}

#[test]
fn a_backend_has_a_share_of_a_rooms_streams_and_members_the_rest() {
    let mut world = World::new();
    for origin in 0..16 {
        begun(&mut world, origin);
    }
    let begin = BackendAct::Begin(write(99, 0, textless()));
    let refused = backend(&mut world, begin);
    assert!(matches!(refused, Err(BackendError::Refused(Code::TooManyStreams, _))), "{refused:?}");
    world.follow(BOB, Follow::New);
    world.heard(BOB);
    world.records(ANN, vec![ClientRecord::Begin { origin: Origin(500), key: 1, content: textless() }]);
    assert_eq!(world.short(BOB), ["stream 17 "]);
}

#[test]
fn the_end_of_a_stream_that_was_durable_although_its_answer_was_lost_is_no_second_message() {
    let mut world = World::new();
    let stream = begun(&mut world, 77);
    assert_eq!(backend(&mut world, part(stream, 0, "hi")), Ok(BackendAnswer::Done));
    world.is_slow = true;
    let request = 50;
    world.log.backend(&world.members, BackendRequest { request, act: end(stream, 5, 2) }, world.now);
    world.settle();
    let (ticket, commit) = world.asked.pop_front().unwrap();
    assert!(world.disk.answer(commit).is_some());
    let lost = Answer::Committed(Err(StoreError::Unavailable("gone".into())));
    world.log.handle_answer(&world.members, ticket, lost, world.now);
    world.is_slow = false;
    world.pass(RELOAD);
    assert_eq!(backend(&mut world, end(stream, 5, 2)), written(1, true));
    world.pass(SILENT);
    assert_eq!(world.disk.entries.len(), 1);
}

#[test]
fn a_room_has_only_so_much_in_its_fields() {
    let mut world = World::new();
    let change = |cseq, body: String| {
        let content = Content { kind: EventKind::Fields, version: 0, flags: 0, target: 0, body: body.into() };
        Submission { origin: Origin(5), cseq, base: 1, nonce: cseq, content }
    };
    let long = "x".repeat(40 * 1024);
    world
        .submit(ANN, &[change(1, format!(r#"{{"a":"{long}"}}"#)), change(2, format!(r#"{{"b":"{long}"}}"#))]);
    assert_eq!(world.short(ANN), ["accepted 1 1", "refused 2 too_large"]);
    world.submit(ANN, &[change(3, r#"{"a":null}"#.into()), change(4, format!(r#"{{"b":"{long}"}}"#))]);
    assert_eq!(world.short(ANN), ["accepted 3 2", "accepted 4 3"]);
}
