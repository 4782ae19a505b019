//! A new reader comes to a room with a short log, and to one with a long log: the snapshot must cost the same.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::ensure;
use bytes::Bytes;
use switchyard::{
    names::RoomKey,
    store::{Backend as _, Batch, Entry, Head, OriginMark, Sqlite, Writer},
};
use switchyard_signaling::event::{Content, Event, EventKind, Origin};

use super::row;
use crate::{
    Depth,
    arm::{Arm, KEY, Kind},
    client::visit,
    report::{Report, median},
};

/// Events of a batch when the log is made.
const BATCH: u64 = 1000;
/// Joins between two looks at the CPU time.
const JOINS: usize = 20;
/// For what the server does after a member has gone.
const SETTLE: Duration = Duration::from_millis(20);

/// What joining one room cost, of each round.
#[derive(Default)]
struct Costs {
    bytes: Vec<f64>,
    cpu: Vec<f64>,
    times: Vec<f64>,
}

pub(super) async fn measure(depth: Depth, report: &mut Report) -> anyhow::Result<()> {
    let (long, rounds) = if depth == Depth::Full { (100_000, 30) } else { (10_000, 3) };
    let rooms = [("short".to_owned(), 100), ("long".to_owned(), long)];
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("store.db");
    fill(&path, &rooms)?;
    let arm = Arm::start_on(Kind::Switchyard, Some(&path), None)?;
    let mut costs = [Costs::default(), Costs::default()];
    for round in 0..=rounds {
        for ((room, _), costs) in rooms.iter().zip(&mut costs) {
            let cost = joins(&arm, room, round).await?;
            // The first round loads the log.
            if round > 0 {
                costs.add(cost);
            }
        }
    }
    let [short, long_costs] = costs;
    let mut add = |what: &str, unit, figures: fn(&Costs) -> &Vec<f64>| {
        for (events, costs) in [(100, &short), (long, &long_costs)] {
            let value = median(figures(costs).clone());
            report.add(row(format!("log/join/{events}/{what}"), value, unit, None));
        }
        let ratios = figures(&long_costs).iter().zip(figures(&short)).map(|(long, short)| long / short);
        report.add(row(format!("log/join/{long}-to-100/{what}"), median(ratios.collect()), "times", None));
    };
    add("bytes", "B/join", |costs| &costs.bytes);
    add("cpu", "µs/join", |costs| &costs.cpu);
    add("time-p50", "ms", |costs| &costs.times);
    Ok(())
}

/// Bytes, CPU time in microseconds, and time in milliseconds, of one of several joins.
async fn joins(arm: &Arm, room: &str, round: usize) -> anyhow::Result<(f64, f64, f64)> {
    let before = arm.cpu()?;
    let (mut bytes, mut times) = (0, Vec::with_capacity(JOINS));
    for join in 0..JOINS {
        let visit = visit(arm, room, &format!("r{round:03}-{join:03}")).await?;
        ensure!(visit.messages == 50, "the snapshot has {} messages", visit.messages);
        bytes += visit.bytes;
        times.push(visit.time.as_secs_f64() * 1e3);
    }
    tokio::time::sleep(SETTLE).await;
    let cpu = (arm.cpu()? - before).as_secs_f64() * 1e6 / JOINS as f64;
    Ok((bytes as f64 / JOINS as f64, cpu, median(times)))
}

impl Costs {
    fn add(&mut self, (bytes, cpu, time): (f64, f64, f64)) {
        self.bytes.push(bytes);
        self.cpu.push(cpu);
        self.times.push(time);
    }
}

/// Writes logs of so many messages straight into the store, in batches.
fn fill(path: &Path, rooms: &[(String, u64)]) -> anyhow::Result<()> {
    let mut writer = Sqlite::new(path)?.writer()?;
    for (room, events) in rooms {
        let key = RoomKey { tenant: KEY.into(), room: room.as_str().into() };
        write(&mut *writer, &key, *events)?;
    }
    Ok(writer.close()?)
}

fn write(writer: &mut dyn Writer, key: &RoomKey, events: u64) -> anyhow::Result<()> {
    let loaded = writer.load(std::slice::from_ref(key))?;
    let fence = loaded.first().map_or(0, |loaded| loaded.fence);
    let (origin, user): (_, Arc<str>) = (Origin(7), "author".into());
    let mut head = Head::default();
    while head.seq < events {
        let expects = head;
        let entries: Vec<Arc<Entry>> = (head.seq + 1..=events.min(head.seq + BATCH))
            .map(|seq| {
                let entry = message(seq, origin, &user);
                head = Head { seq, digest: entry.digest, ..head };
                Arc::new(entry)
            })
            .collect();
        let mark = OriginMark { origin, user: user.clone(), last: head.seq as u32, base: 1, abandoned: None };
        let batch = Batch {
            key: key.clone(),
            fence,
            expects,
            head,
            events: entries,
            refused: Vec::new(),
            origins: vec![mark],
        };
        for result in writer.commit_all(&[batch], 0) {
            result?;
        }
    }
    Ok(())
}

/// A message of some hundred bytes. Its digest is no digest: nobody reads the log from a position of before.
fn message(seq: u64, origin: Origin, user: &str) -> Entry {
    let body =
        Bytes::from(format!(r#"{{"text":"message {seq:08}, {:0>70}"}}"#, seq.wrapping_mul(0x9e37_79b9_7f4a)));
    let content = Content { kind: EventKind::Chat, version: 0, flags: 0, target: 0, body };
    let event = Event {
        seq,
        at: 1_700_000_000_000 + seq,
        origin,
        cseq: seq as u32,
        user: user.to_owned(),
        name: "An author".to_owned(),
        content,
    };
    Entry { event, hash: seq, digest: seq | 1 << 63 }
}
