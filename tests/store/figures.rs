//! How fast the stores are on this machine's disk: `cargo test --release --test store figures -- --ignored --nocapture`.
//! Nothing is asserted but that all was done.

use std::{
    io::Write as _,
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use switchyard::{
    metrics::Metrics,
    names::{RoomPlace, ShardId},
    store::{Answer, Backend, Letter, Postgres, Reply, Request, Retention, Store},
};

use crate::{
    postgres_server::Server,
    script::{Script, chat, key, query},
    sqlite::Place,
};

const RUN: Duration = Duration::from_secs(5);

/// Rooms that each have one batch with the store at a time, of so many events.
fn load(backend: Box<dyn Backend>, rooms: usize, events: usize) -> String {
    let (sender, replies) = mpsc::channel::<Reply>();
    let reply = Box::new(move |reply| drop(sender.send(reply)));
    let metrics = Arc::new(Metrics::new());
    let store = Store::start(backend, Retention::default(), metrics.clone(), reply).unwrap();
    let text =
        "a message of a hundred bytes or so, as people write them when they are at work with each other";
    let place = |slot: usize| RoomPlace { shard: ShardId(0), slot: slot as u32, serial: 1 };
    let send = |slot, request| store.send(Letter { from: place(slot), ticket: 0, request }).unwrap();
    let mut scripts = Vec::new();
    for slot in 0..rooms {
        send(slot, Request::Load(key(&slot.to_string())));
        let Answer::Loaded(Ok(loaded)) = replies.recv().unwrap().answer else { panic!("not loaded") };
        scripts.push(Script::of(key(&slot.to_string()), &loaded));
    }
    let start = Instant::now();
    for (slot, script) in scripts.iter_mut().enumerate() {
        send(slot, Request::Commit(script.batch(vec![chat(text); events])));
    }
    let (mut sent, mut done) = (vec![start; rooms], 0);
    let mut took = Vec::new();
    while start.elapsed() < RUN {
        let reply = replies.recv().unwrap();
        assert_eq!(reply.answer, Answer::Committed(Ok(())));
        let slot = reply.to.slot as usize;
        took.push(sent[slot].elapsed());
        sent[slot] = Instant::now();
        done += events;
        send(slot, Request::Commit(scripts[slot].batch(vec![chat(text); events])));
    }
    let seconds = start.elapsed().as_secs_f64();
    took.sort_unstable();
    let counted = |name: &str| -> f64 {
        let rendered = metrics.render();
        let line = rendered.lines().find(|line| line.starts_with(name)).unwrap();
        line.rsplit_once(' ').unwrap().1.parse().unwrap()
    };
    format!(
        "{rooms:>4} rooms, {events:>2} events a batch: {:>7.0} events/s, {:>5.0} commits/s, p50 {:?}, p99 {:?}, {} MB",
        done as f64 / seconds,
        counted("switchyard_store_commits_total") / seconds,
        took[took.len() / 2],
        took[took.len() * 99 / 100],
        counted("switchyard_store_bytes") as u64 >> 20,
    )
}

fn pages(backend: &dyn Backend) -> String {
    let mut writer = backend.writer().unwrap();
    let mut reader = backend.reader().unwrap();
    let mut room = Script::load(&mut *writer, "lab");
    let mut told = String::new();
    for messages in [100, 100_000] {
        while room.head.seq < messages {
            room.commit(&mut *writer, vec![chat("a message as people write them, more or less"); 100]);
        }
        let mut times: Vec<Duration> = (0..300)
            .map(|_| {
                let start = Instant::now();
                reader.page(&query("lab", 50)).unwrap();
                start.elapsed()
            })
            .collect();
        times.sort_unstable();
        told += &format!("page of 50 of {messages}: p50 {:?}, p99 {:?}; ", times[150], times[297]);
        let start = Instant::now();
        room.fence = crate::script::load(&mut *writer, "lab").fence;
        told += &format!("load {:?}; ", start.elapsed());
    }
    told
}

/// One room as fast as the disk lets it; many, with as much to say as there are members; one that says much.
const LOADS: [(usize, usize); 5] = [(1, 1), (500, 1), (500, 8), (500, 40), (1, 256)];

#[test]
#[ignore = "measures, and takes half a minute"]
fn figures_of_sqlite() {
    let place = Place::new();
    let mut file = std::fs::File::create(place.folder.path().join("floor")).unwrap();
    let (start, mut syncs) = (Instant::now(), 0);
    while start.elapsed() < Duration::from_secs(2) {
        file.write_all(&[0; 4096]).unwrap();
        file.sync_data().unwrap();
        syncs += 1;
    }
    println!("floor: {} appends of 4 KiB with fdatasync a second", syncs / 2);
    for (rooms, events) in LOADS {
        println!("SQLite      {}", load(Box::new(Place::new().open()), rooms, events));
    }
    println!("SQLite      {}", pages(&Place::new().open()));
}

#[test]
#[ignore = "measures, and takes half a minute"]
fn figures_of_postgres() {
    let server = Server::start(true);
    println!("PostgreSQL  {}", pages(&Postgres::new(&server.database()).unwrap()));
    for (rooms, events) in LOADS {
        println!("PostgreSQL  {}", load(Box::new(Postgres::new(&server.database()).unwrap()), rooms, events));
    }
}
