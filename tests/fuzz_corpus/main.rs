//! The fuzz targets of `tests/fuzz` on a stable toolchain: over their corpus, and over seeded mutations of it.
//!
//! `SEEDS=n` runs n mutations of each file instead of the usual number.

#![cfg(test)]

#[expect(unreachable_pub, reason = "the same file is the library of the fuzz crate")]
#[path = "../fuzz/src/lib.rs"]
mod targets;

use std::{fs, panic, path::Path};

use switchyard_loadtest::rng::Rng;

/// Mutations of a corpus, divided among its files.
const MUTATIONS: usize = 20_000;
/// The same for targets that make a WebRTC peer for each input.
const MUTATIONS_OF_PEERS: usize = 600;
/// Values that lengths, types and counts trip over.
const EDGES: [u8; 10] = [0, 1, 4, 8, 12, 13, 0x7f, 0x80, 0xfe, 0xff];

struct Sample {
    name: String,
    bytes: Vec<u8>,
}

fn corpus(target: &str) -> Vec<Sample> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target);
    let mut samples: Vec<_> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| Sample {
            name: entry.file_name().to_string_lossy().into_owned(),
            bytes: fs::read(entry.path()).unwrap(),
        })
        .collect();
    samples.sort_by(|a, b| a.name.cmp(&b.name));
    samples
}

/// Changes, cuts, repeats, inserts, and takes over a part of another sample.
fn mutated(random: &mut Rng, bytes: &[u8], other: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..=random.below(5) {
        if bytes.is_empty() {
            break;
        }
        let at = random.below(bytes.len() as u64) as usize;
        let end = (at + random.below(40) as usize).min(bytes.len());
        match random.below(8) {
            0 => bytes[at] = random.below(256) as u8,
            1 => bytes[at] = EDGES[random.below(EDGES.len() as u64) as usize],
            2 => bytes[at] ^= 1 << random.below(8),
            3 => bytes.truncate(at),
            4 => bytes.insert(at, random.below(256) as u8),
            5 => {
                bytes.drain(at..end);
            }
            6 => {
                let part = bytes[at..end].to_vec();
                bytes.splice(at..at, part);
            }
            _ => {
                let from = random.below(other.len() as u64 + 1) as usize;
                let part = &other[from..(from + random.below(80) as usize).min(other.len())];
                bytes.splice(at..end, part.iter().copied());
            }
        }
    }
    bytes
}

/// Runs `target`, and names the input if it does not hold.
fn holds(name: &str, target: targets::Target, input: &[u8]) {
    if let Err(cause) = panic::catch_unwind(|| target(input)) {
        eprintln!("{name}, with the input {}", input.escape_ascii());
        panic::resume_unwind(cause);
    }
}

#[test]
fn every_target_has_a_corpus_and_takes_it() {
    for (target, run) in targets::TARGETS {
        let samples = corpus(target);
        assert!(samples.len() >= 3, "{target} has {} samples", samples.len());
        run(&[]);
        for sample in samples {
            assert!(sample.bytes.len() <= 4096, "{target}/{} is not small", sample.name);
            holds(&format!("{target}/{}", sample.name), run, &sample.bytes);
        }
    }
}

#[test]
fn every_target_takes_mutations_of_its_corpus() {
    let seeds = std::env::var("SEEDS").ok().and_then(|seeds| seeds.parse().ok());
    for (index, (target, run)) in targets::TARGETS.into_iter().enumerate() {
        let samples = corpus(target);
        let all = if matches!(target, "dtls_engine" | "offer") { MUTATIONS_OF_PEERS } else { MUTATIONS };
        let mut random = Rng::stream(0x5eed, index as u64);
        for sample in &samples {
            for number in 0..seeds.unwrap_or(all / samples.len()) {
                let other = &samples[random.below(samples.len() as u64) as usize];
                let input = mutated(&mut random, &sample.bytes, &other.bytes);
                holds(&format!("{target}/{}, mutation {number}", sample.name), run, &input);
            }
        }
    }
}

#[test]
fn a_target_that_does_not_hold_is_noticed() {
    let caught =
        panic::catch_unwind(|| holds("planted", |input| assert!(input.len() < 3, "planted"), b"abc"));
    assert!(caught.is_err());
}
