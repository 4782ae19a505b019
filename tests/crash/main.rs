//! The real server, killed with SIGKILL at any moment under load: nothing acknowledged is lost, nothing is doubled, and
//! all see one order (STO2, LAD2).
//!
//! Clients write without a pause while the server is killed and started again. When it has been killed often enough they
//! stop, wait until everything is answered, and their histories are judged as those of the world tests are: by
//! `tests/it/world/verdict.rs`, which reads histories alone.
//!
//! `make kills KILLS=400` kills as often as that.

#![cfg(test)]

mod client;
mod disk;
mod server;

#[path = "../it/world/history.rs"]
#[expect(dead_code, reason = "the worlds of tests/it use all of it")]
mod history;
#[path = "../store/postgres_server.rs"]
#[expect(dead_code, reason = "tests/store uses all of it")]
mod postgres_server;
#[path = "../it/world/verdict.rs"]
mod verdict;

use std::time::{Duration, Instant};

use switchyard_loadtest::rng::Rng;
use tempfile::TempDir;
use tokio::sync::watch;

use self::{
    client::Device,
    disk::Unsynced,
    history::History,
    server::{Server, Storage},
    verdict::{Verdict, judge},
};

/// Devices that write.
const DEVICES: u32 = 6;
/// From one kill to the next, at least and at most.
const LIFE: (Duration, Duration) = (Duration::from_millis(60), Duration::from_millis(500));

fn kills() -> u32 {
    std::env::var("KILLS").map_or(20, |kills| kills.parse().expect("KILLS is a number"))
}

/// Kills a server under load so often, and judges what its clients saw.
async fn survive(storage: &Storage, kills: u32, seed: u64) -> Result<Verdict, String> {
    let mut rng = Rng::new(seed);
    let mut server = Server::start(storage, 0).await;
    let address = server.address;
    let began = Instant::now();
    let (writes, writing) = watch::channel(true);
    let devices: Vec<_> = (1..=DEVICES)
        .map(|number| tokio::spawn(Device::new(number, began).run(address, writing.clone())))
        .collect();
    for _ in 0..kills {
        let life = LIFE.0 + Duration::from_micros(rng.below((LIFE.1 - LIFE.0).as_micros() as u64));
        tokio::time::sleep(life).await;
        server.kill().await;
        storage.crashed();
        server = Server::start(storage, address.port()).await;
    }
    tokio::time::sleep(LIFE.1).await;
    let _ = writes.send(false);
    let mut histories: Vec<History> = Vec::new();
    for device in devices {
        histories.push(device.await.map_err(|error| error.to_string())??);
    }
    histories.push(Device::new(DEVICES + 1, began).observe(address).await?);
    server.stop().await;
    judge(&histories, &[])
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

#[test]
fn a_server_with_sqlite_that_is_killed_loses_and_doubles_nothing() {
    let folder = TempDir::new().unwrap();
    let storage = Storage::sqlite(folder.path());
    let verdict = runtime().block_on(survive(&storage, kills(), 1)).unwrap();
    println!("SQLite, {} kills: {verdict:?}", kills());
    assert!(verdict.accepted > 100, "{verdict:?}");
}

#[test]
fn a_server_with_postgresql_that_is_killed_loses_and_doubles_nothing() {
    let postgres = postgres_server::Server::start(true);
    let storage = Storage::postgres(&postgres.database());
    let verdict = runtime().block_on(survive(&storage, kills(), 4)).unwrap();
    println!("PostgreSQL, {} kills: {verdict:?}", kills());
    assert!(verdict.accepted > 100, "{verdict:?}");
}

#[test]
fn a_disk_that_forgets_what_was_not_synced_loses_nothing_that_was_acknowledged() {
    let folder = TempDir::new().unwrap();
    let storage = Storage::sqlite(folder.path()).on(Unsynced::build(folder.path()));
    let verdict = runtime().block_on(survive(&storage, kills().min(20), 2)).unwrap();
    println!("SQLite on a disk that drops unsynced writes, {} kills: {verdict:?}", kills().min(20));
    assert!(verdict.accepted > 100, "{verdict:?}");
}

#[test]
fn a_store_that_does_not_sync_is_caught_by_such_a_disk() {
    let folder = TempDir::new().unwrap();
    let storage = Storage::sqlite(folder.path()).on(Unsynced::build(folder.path())).without_sync();
    let verdict = runtime().block_on(survive(&storage, 20, 3));
    println!("with synchronous=OFF: {verdict:?}");
    assert!(verdict.is_err(), "{verdict:?}");
}
