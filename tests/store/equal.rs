//! Random histories: SQLite, PostgreSQL and the model answer alike, whatever is asked of them in which order.
//!
//! `SEEDS=n` runs n of them, `SEED=x` that one alone.

use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use switchyard::{
    names::RoomKey,
    store::{
        Backend, Batch, Loaded, OriginMark, PageQuery, Postgres, Reader, Refused, Retention, StoreError,
        Writer,
    },
};
use switchyard_loadtest::rng::Rng;
use switchyard_signaling::{
    Code,
    event::{Content, EventKind, Origin},
};

use crate::{
    model::Model,
    postgres_server::Server,
    script::{NOW, Script, key, text_of},
    sqlite::Place,
};

/// Histories of a test run, and steps of each.
const SEEDS: u64 = 8;
const STEPS: usize = 120;
const ROOMS: [&str; 3] = ["lab", "hall", "yard"];
const HOUR: u64 = 3_600_000;

/// A store and its connections.
struct Subject {
    name: &'static str,
    backend: Box<dyn Backend>,
    writer: Option<Box<dyn Writer>>,
    reader: Box<dyn Reader>,
}

impl Subject {
    fn new(name: &'static str, backend: Box<dyn Backend>) -> Self {
        let writer = Some(backend.writer().unwrap());
        let reader = backend.reader().unwrap();
        Self { name, backend, writer, reader }
    }

    fn writer(&mut self) -> &mut dyn Writer {
        self.writer.as_deref_mut().unwrap()
    }
}

struct World {
    rng: Rng,
    seed: u64,
    subjects: Vec<Subject>,
    rooms: Vec<Script>,
    now: u64,
    step: usize,
}

impl World {
    /// What all subjects answer, which is the same.
    fn ask<T: PartialEq + std::fmt::Debug>(&mut self, question: impl Fn(&mut Subject) -> T) -> T {
        let (seed, step) = (self.seed, self.step);
        let mut answers = self.subjects.iter_mut().map(|subject| (subject.name, question(subject)));
        let (_, first) = answers.next().unwrap();
        for (name, answer) in answers {
            assert_eq!(answer, first, "{name} (left) and the model (right), SEED={seed}, step {step}");
        }
        first
    }

    fn below(&mut self, bound: usize) -> usize {
        self.rng.below(bound as u64) as usize
    }

    fn step(&mut self) {
        self.now += self.rng.below(40 * HOUR);
        match self.below(40) {
            0..=17 => self.commit(),
            18..=19 => self.load(),
            20 => self.raise(),
            21 => self.retain(),
            22 => self.reopen(),
            _ => self.read(),
        }
    }

    fn load(&mut self) {
        let keys: Vec<RoomKey> =
            (0..1 + self.below(4)).map(|_| key(ROOMS[self.below(ROOMS.len())])).collect();
        let loads = self.ask(|subject| subject.writer().load(&keys).unwrap());
        for (key, loaded) in keys.iter().zip(loads) {
            self.loaded(key, &loaded);
        }
    }

    fn raise(&mut self) {
        let key = key(ROOMS[self.below(ROOMS.len())]);
        let loaded = self.ask(|subject| subject.writer().raise_epoch(&key).unwrap());
        self.loaded(&key, &loaded);
    }

    fn loaded(&mut self, key: &RoomKey, loaded: &Loaded) {
        let room = self.rooms.iter_mut().find(|room| room.key == *key).unwrap();
        (room.fence, room.head) = (loaded.fence, loaded.head);
    }

    fn commit(&mut self) {
        let batches: Vec<Batch> = (0..1 + self.below(6)).map(|_| self.batch()).collect();
        let now = self.now;
        let results = self.ask(|subject| {
            let results = subject.writer().commit_all(&batches, now);
            // Each says in its own words what it could not understand.
            let plain = |result| match result {
                Err(StoreError::Damaged(_)) => Err(StoreError::Damaged(String::new())),
                other => other,
            };
            results.into_iter().map(plain).collect::<Vec<_>>()
        });
        for (batch, result) in batches.iter().zip(results) {
            if result.is_err() {
                let loaded =
                    self.ask(|subject| subject.writer().load(std::slice::from_ref(&batch.key)).unwrap());
                self.loaded(&batch.key, &loaded[0]);
            }
        }
    }

    fn batch(&mut self) -> Batch {
        let (room, origin) = (self.below(ROOMS.len()), 1 + self.rng.below(3));
        let head = self.rooms[room].head.seq;
        let contents = (0..self.below(7)).map(|_| self.content(head)).collect();
        // Where a batch failed its numbers are left out; the store does not mind.
        let cseq = (self.step * 100 + self.below(50)) as u32;
        let at = self.now;
        let script = &mut self.rooms[room];
        (script.at, script.user) = (at, format!("user{origin}"));
        (script.origin, script.cseq) = (Origin(origin), cseq);
        let mut batch = script.batch(contents);
        let mark = self.rooms[room].mark(1);
        let back = if self.rng.chance(0.3) { 5000 } else { 20 };
        let last = mark.last.saturating_sub(self.rng.below(back) as u32);
        batch.origins =
            vec![OriginMark { last, base: last.saturating_sub(self.rng.below(4) as u32), ..mark }];
        for _ in 0..self.below(3) {
            let cseq = last.saturating_sub(self.rng.below(6) as u32);
            let code = if self.rng.chance(0.5) { Code::Forbidden } else { Code::TooLarge };
            batch.refused.push(Refused { origin: Origin(origin), cseq, hash: self.rng.next_u64(), code });
        }
        match self.below(30) {
            0 => batch.fence -= 1,
            1 => batch.expects.digest ^= 1,
            2 => batch.expects.epoch += 1,
            3 => drop(batch.events.pop()),
            4 => {
                if let [.., before, last] = &mut batch.events[..] {
                    let mut twin = (**last).clone();
                    twin.event.cseq = before.event.cseq;
                    *last = twin.into();
                }
            }
            _ => {}
        }
        batch
    }

    fn content(&mut self, head: u64) -> Content {
        let kinds = &EventKind::ALL[..9];
        // Much of one kind, so that it meets itself.
        let kind = match self.rng.chance(0.4) {
            true => [EventKind::React, EventKind::Unreact][self.below(2)],
            false => kinds[self.below(kinds.len())],
        };
        let flags = if self.rng.chance(0.2) { self.rng.below(4) as u8 } else { 0 };
        let target = match self.below(4) {
            0 => 0,
            1 => (head + 6).saturating_sub(self.rng.below(40)),
            // One that many have to do with.
            _ => head / 20 * 20,
        };
        let number = self.below(100);
        let body = match kind {
            EventKind::React | EventKind::Unreact => ["+1", "🦀", "\u{0}"][self.below(3)].as_bytes().to_vec(),
            EventKind::Fields => self.fields(number),
            EventKind::Custom | EventKind::Delete => vec![number as u8; number],
            _ => format!(r#"{{"text":"{}"}}"#, "x".repeat(number * self.below(9))).into_bytes(),
        };
        Content { kind, version: self.rng.below(3) as u8, flags, target, body: Bytes::from(body) }
    }

    fn fields(&mut self, number: usize) -> Vec<u8> {
        let name = ["a", "b", "c", "é\\u0000"][self.below(4)];
        match self.below(8) {
            0 => b"[1]".to_vec(),
            1 => format!(r#"{{"{name}":null}}"#).into_bytes(),
            2 => format!(r#"{{"{name}":null,"b":{{"n":{number}}}}}"#).into_bytes(),
            3 => format!(r#"{{"{name}":{number}"#).into_bytes(),
            _ => format!(r#"{{ "{name}" : {number}, "{name}":{{"again": [ {number} ]}} }}"#).into_bytes(),
        }
    }

    fn retain(&mut self) {
        let retention = Retention {
            max_age: self.rng.chance(0.5).then(|| Duration::from_secs(3600 * (1 + self.rng.below(2000)))),
            max_events: self.rng.chance(0.5).then(|| 1 + self.rng.below(300)),
        };
        let now = self.now;
        self.ask(|subject| while subject.writer().retain(&retention, now).unwrap() {});
    }

    fn reopen(&mut self) {
        let kindly = self.rng.chance(0.5);
        self.ask(|subject| {
            let writer = subject.writer.take().unwrap();
            if kindly {
                writer.close().unwrap();
            }
            subject.writer = Some(subject.backend.writer().unwrap());
            subject.reader = subject.backend.reader().unwrap();
        });
    }

    fn read(&mut self) {
        let room = self.below(ROOMS.len());
        let (key, head) = (key(ROOMS[room]), self.rooms[room].head.seq);
        let seq = self.rng.below(head + 3);
        let to = if self.rng.chance(0.5) { u64::MAX } else { seq + self.rng.below(20) };
        let bytes = self.below(2000);
        match self.below(6) {
            0 => drop(self.ask(|subject| subject.reader.events(&key, seq, to, bytes).unwrap())),
            1 => drop(self.ask(|subject| subject.reader.digest(&key, seq).unwrap())),
            2 => {
                let origin = Origin(1 + self.rng.below(5));
                self.ask(|subject| subject.reader.origin(&key, origin).unwrap());
            }
            3 => drop(self.ask(|subject| subject.reader.message(&key, seq).unwrap())),
            _ => {
                let query = PageQuery {
                    key,
                    before: self.rng.chance(0.3).then_some(seq),
                    up_to: self.rng.chance(0.5).then(|| head.saturating_sub(self.rng.below(8))),
                    limit: self.below(30),
                    parent: self.rng.chance(0.2).then_some(seq),
                    fields: self.rng.chance(0.5),
                    prefix: r#""id":1,"#.to_owned(),
                };
                self.ask(|subject| {
                    let page = subject.reader.page(&query).unwrap();
                    serde_json::from_str::<Value>(&text_of(&page)).unwrap()
                });
            }
        }
    }
}

fn run(seed: u64, server: &Server) {
    let place = Place::new();
    let mut subjects = vec![
        Subject::new("the model", Box::new(Model::default())),
        Subject::new("SQLite", Box::new(place.open())),
        Subject::new("PostgreSQL", Box::new(Postgres::new(&server.database()).unwrap())),
    ];
    let keys = ROOMS.map(key);
    for subject in &mut subjects {
        subject.writer().load(&keys).unwrap();
    }
    let loaded = Loaded { fence: 1, ..Loaded::default() };
    let rooms = keys.iter().map(|key| Script::of(key.clone(), &loaded)).collect();
    let mut world = World { rng: Rng::new(seed), seed, subjects, rooms, now: NOW, step: 0 };
    for step in 1..=STEPS {
        world.step = step;
        world.step();
    }
    assert!(world.rooms.iter().any(|room| room.head.seq > 50), "something was committed");
}

#[test]
fn any_history_is_answered_alike() {
    let number = |name: &str| std::env::var(name).ok().map(|number| number.parse().unwrap());
    let server = Server::shared();
    let seeds = match number("SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SEEDS").unwrap_or(SEEDS),
    };
    for seed in seeds {
        run(seed, &server);
    }
}
