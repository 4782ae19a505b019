//! The log of a room: whatever befalls networks, pages, disks and servers, every message once, in one order.
//!
//! What holds is in [`crate::world::verdict`], and read from the histories of the devices alone.

use std::time::Duration;

use switchyard::room::Plant;
use switchyard_loadtest::{
    browser::{Pipe, Saved},
    netsim::LinkConfig,
    rng::{Rng, for_seeds},
};

use crate::world::{
    Kind, MS, SECOND, Setup,
    history::Role,
    seats::{Keeps, Seats},
    storage::{self, Mood, Step},
};

/// What may befall a world, and how much of it.
#[derive(Clone, Copy, Debug)]
struct Fate {
    devices: u64,
    actions: u64,
    /// Mostly this long between two of them, at most four times as long.
    pause: Duration,
    /// Of 1,000 actions, so many are …
    networks: u64,
    pages: u64,
    servers: u64,
    disks: u64,
    profiles: u64,
    roles: u64,
    backups: u64,
    /// Of 1,000 writes, so many belong to streamed messages.
    streams: u64,
    /// Bytes of text, at most.
    text: u64,
    /// Bytes kept for a receiver.
    replay_limit: usize,
    /// Submissions per minute and at once, 0 for any number.
    writes: (u32, u32),
}

const ALL: Fate = Fate {
    devices: 6,
    actions: 250,
    pause: Duration::from_millis(70),
    networks: 90,
    pages: 40,
    servers: 15,
    disks: 20,
    profiles: 15,
    roles: 15,
    backups: 0,
    streams: 0,
    text: 300,
    replay_limit: 1 << 20,
    writes: (0, 0),
};

/// Users write faster than they may.
const HASTY: Fate = Fate { writes: (600, 5), pages: 20, ..ALL };

/// Users become viewers and editors again.
const FICKLE: Fate = Fate { devices: 3, roles: 150, pages: 150, servers: 80, networks: 20, disks: 0, ..ALL };

/// Backups are put back.
const OLD: Fate = Fate { backups: 30, profiles: 0, roles: 0, ..ALL };

/// Messages are streamed while they are written.
const STREAMED: Fate = Fate { streams: 500, ..ALL };

/// More is written than is kept for a page that does not read.
const LOUD: Fate = Fate { networks: 200, servers: 5, pages: 10, text: 9000, replay_limit: 300 * 1024, ..ALL };

/// Many devices, and little else than networks.
const CROWD: Fate =
    Fate { devices: 50, actions: 400, pause: Duration::from_millis(10), servers: 4, disks: 4, ..ALL };

/// A world of this seed, before it has come to rest.
fn befall(seed: u64, fate: Fate, plant: impl FnOnce(&mut Seats)) -> Seats {
    let mut setup = Setup::new(seed);
    setup.webrtc = false;
    let mut rng = Rng::stream(seed, 5);
    setup.resync_events = 10 + rng.below(100);
    setup.disk = MS * (1 + rng.below(40) as u32);
    setup.writes = fate.writes;
    setup.limits.announced.replay_limit_bytes = fate.replay_limit;
    let mut seats = Seats::new(setup, "room");
    plant(&mut seats);
    let devices = 2 + rng.below(fate.devices - 1);
    for device in 0..devices.div_ceil(2) {
        seats.add(&format!("u{device}"), &kind(&mut rng), Saved::default());
    }
    seats.pass(MS * rng.below(300) as u32);
    let mut backup = None;
    for action in 0..fate.actions {
        let seat = rng.below(seats.seats.len() as u64) as usize;
        let mut luck = rng.below(1000);
        let mut is = |share: u64| {
            let hit = luck < share;
            luck = luck.wrapping_sub(share);
            hit
        };
        if action * devices / fate.actions > seats.seats.len() as u64 {
            seats.add(&format!("u{action}"), &kind(&mut rng), Saved::default());
        } else if is(fate.networks) {
            network(&mut seats, seat, &mut rng);
        } else if is(fate.pages) {
            let keeps =
                Keeps { outbox: rng.chance(0.8), stale: rng.chance(0.5), transcript: rng.chance(0.7) };
            let most = if rng.chance(0.2) { 15_000 } else { 800 };
            let away = MS * rng.below(most) as u32;
            seats.reload(seat, away, keeps);
        } else if is(fate.servers) {
            let steps = [Step::Taken, Step::Written, Step::Synced, Step::Answered];
            let step = steps[rng.below(4) as usize];
            if rng.chance(0.6) {
                seats.world.storage.strike = Some(step);
            } else {
                seats.crash(MS * rng.below(2000) as u32);
            }
        } else if is(fate.disks) {
            let moods = [
                Mood::Well,
                Mood::Well,
                Mood::Slow(MS * rng.below(800) as u32),
                Mood::Full,
                Mood::Away,
                Mood::Lying,
            ];
            let mood = moods[rng.below(moods.len() as u64) as usize];
            seats.world.storage.set_mood(mood);
        } else if is(fate.profiles) {
            seats.clone_profile(seat, &kind(&mut rng));
        } else if is(fate.roles) {
            let role = if rng.chance(0.5) { Role::Viewer } else { Role::Editor };
            seats.set_role(seat, role);
        } else if is(fate.backups) {
            match backup.take() {
                None => backup = Some((seats.world.elapsed(), seats.world.storage.backup())),
                Some((taken, copy)) => seats.restore(taken, &copy, MS * rng.below(2000) as u32),
            }
        } else {
            for _ in 0..=rng.below(3) {
                if rng.below(1000) < fate.streams {
                    seats.stream(seat, rng.below(fate.text) as usize, &mut rng);
                    continue;
                }
                let size = if rng.chance(0.05) { fate.text * 10 } else { fate.text };
                seats.write(seat, rng.below(size + 1).min(60_000) as usize, &mut rng);
            }
        }
        let most = fate.pause.as_nanos() as u64 * if rng.chance(0.1) { 4 } else { 1 };
        seats.pass(Duration::from_nanos(rng.below(most + 1)));
    }
    seats
}

fn kind(rng: &mut Rng) -> Kind {
    let mut kind = Kind::default();
    kind.wire.delay = MS * (1 + rng.below(80) as u32);
    kind.wire.jitter = MS * rng.below(20) as u32;
    kind.wire.capacity = 4000 << rng.below(7);
    kind.wire.direct = rng.chance(0.5);
    kind
}

fn network(seats: &mut Seats, seat: usize, rng: &mut Rng) {
    match rng.below(10) {
        0..4 => seats.part(seat, MS * rng.below(1000) as u32),
        4 => seats.part(seat, MS * rng.below(20_000) as u32),
        5 | 6 => seats.switch(seat),
        7 => seats.stall(seat, true),
        _ => seats.stall(seat, false),
    }
}

/// Devices with real peer connections over a network that loses, doubles and reorders; they move between their pipes.
fn over_channels(seed: u64) -> Seats {
    let mut setup = Setup::new(seed);
    setup.resync_events = 40;
    let mut seats = Seats::new(setup, "room");
    let mut rng = Rng::stream(seed, 6);
    for device in 0..3 {
        let mut kind = kind(&mut rng);
        let loss = f64::from(rng.below(30) as u32) / 1000.0;
        let (delay, jitter) = (MS * (5 + rng.below(30) as u32), MS * rng.below(15) as u32);
        kind.udp = Some(LinkConfig {
            delay,
            jitter: jitter.into(),
            loss: loss.into(),
            duplicate: 0.02,
            ..LinkConfig::default()
        });
        seats.add(&format!("u{device}"), &kind, Saved::default());
    }
    seats.pass(2 * SECOND);
    for _ in 0..120 {
        let seat = rng.below(3) as usize;
        match rng.below(40) {
            0 => seats.part(seat, MS * rng.below(1000) as u32),
            1 => seats.attach(seat, Pipe::Socket),
            2 => seats.attach(seat, Pipe::Channel),
            3 => seats.stall(seat, true),
            4 => seats.stall(seat, false),
            5 => seats.rebind(seat),
            _ => seats.write(seat, rng.below(2000) as usize, &mut rng),
        }
        seats.pass(Duration::from_micros(rng.below(60_000)));
    }
    seats
}

/// The bugs that are planted.
#[derive(Clone, Copy, Debug)]
enum Planted {
    InTheServer(Plant),
    InTheDisk(storage::Plant),
}

/// The first seed at which a world with this bug is found to be wrong.
fn found(planted: Planted, fate: Fate) -> u64 {
    for seed in 1..=200 {
        let result = std::panic::catch_unwind(|| {
            let mut seats = befall(seed, fate, |seats| match planted {
                Planted::InTheServer(plant) => seats.world.plant(plant),
                Planted::InTheDisk(plant) => seats.world.storage.plant = Some(plant),
            });
            seats.judge()
        });
        match result {
            Ok(Ok(_)) => {}
            Ok(Err(reason)) => {
                println!("{planted:?} is found at seed {seed}: {reason}");
                return seed;
            }
            Err(_) => {
                println!("{planted:?} is found at seed {seed}: it panics");
                return seed;
            }
        }
    }
    panic!("{planted:?} is not found within 200 seeds");
}

fn judge(mut seats: Seats) {
    let seed = seats.world.setup.seed;
    let verdict = seats.judge().unwrap_or_else(|reason| {
        if std::env::var_os("HISTORY").is_some() {
            for (number, client) in seats.world.clients.iter().enumerate() {
                eprintln!("client {number}: {:?} {}", client.browser.attached(), client.wire.is_some());
                client.history.iter().for_each(|seen| eprintln!("  {:?} {:?}", seen.at, seen.what));
            }
            for (number, seat) in seats.seats.iter().enumerate() {
                eprintln!("device {number}, {}:", seat.history.user);
                seat.history.notes.iter().for_each(|noted| eprintln!("  {:?} {:?}", noted.at, noted.note));
            }
        }
        panic!("seed {seed}: {reason}; HISTORY=1 prints what everybody did and saw")
    });
    println!("seed {seed}: {verdict:?}");
}

#[test]
fn every_message_once_in_one_order_whatever_befalls() {
    for_seeds(300, |seed| judge(befall(seed, ALL, |_| {})));
}

#[test]
fn writers_that_are_held_back_lose_nothing_and_double_nothing() {
    for_seeds(60, |seed| judge(befall(seed, HASTY, |_| {})));
}

#[test]
fn a_restored_backup_loses_what_came_after_it_and_nobody_believes_otherwise() {
    for_seeds(80, |seed| judge(befall(seed, OLD, |_| {})));
}

#[test]
fn who_becomes_a_viewer_and_an_editor_again_is_refused_what_it_was_refused() {
    for_seeds(60, |seed| judge(befall(seed, FICKLE, |_| {})));
}

#[test]
fn streamed_messages_end_as_one_event_or_are_told_to_be_incomplete() {
    for_seeds(60, |seed| judge(befall(seed, STREAMED, |_| {})));
}

#[test]
fn pages_that_do_not_read_miss_nothing_when_they_read_again() {
    for_seeds(20, |seed| judge(befall(seed, LOUD, |_| {})));
}

#[test]
fn fifty_devices_have_one_log() {
    for_seeds(10, |seed| judge(befall(seed, CROWD, |_| {})));
}

#[test]
fn a_log_over_data_channels_is_as_whole_as_over_websockets() {
    for_seeds(6, |seed| judge(over_channels(seed)));
}

#[test]
fn a_world_of_logs_is_a_function_of_its_seed() {
    let tell = |seed| {
        let seats = befall(seed, ALL, |_| {});
        seats.seats.iter().map(|seat| format!("{:?}", seat.history.notes)).collect::<Vec<_>>()
    };
    assert_eq!(tell(7), tell(7));
    assert_ne!(tell(7), tell(8));
}

#[test]
fn planted_bugs_are_found() {
    let bugs = [
        (Planted::InTheServer(Plant::NoDedupe), ALL),
        (Planted::InTheServer(Plant::AcknowledgedEarly), ALL),
        (Planted::InTheServer(Plant::RefusalsForgotten), FICKLE),
        (Planted::InTheServer(Plant::RateConsumes), HASTY),
        (Planted::InTheServer(Plant::DigestUnchecked), OLD),
        (Planted::InTheDisk(storage::Plant::AnswersEarly), ALL),
        (Planted::InTheDisk(storage::Plant::ForgetsRefusals), FICKLE),
        (Planted::InTheDisk(storage::Plant::ForgetsOrigins), ALL),
    ];
    for (planted, fate) in bugs {
        found(planted, fate);
    }
}
