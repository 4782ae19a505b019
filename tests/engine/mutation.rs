//! Mutated datagrams: whatever comes, nothing panics. The parsers' fuzz targets take the same entry points.

use std::time::{Duration, Instant};

use switchyard::engine::demux;
use switchyard::engine::dtls_guard::DtlsGuard;
use switchyard::engine::ice::{Credentials, IceLite, Verdict, nominating_request};
use switchyard::engine::path::Path;
use switchyard::engine::stun::Message;

use crate::pair::{Pair, Random, To};

const INPUTS: usize = 20_000;

/// Changes, removes, repeats and inserts bytes, mostly near values that lengths and types have.
fn mutate(random: &mut Random, seed: &[u8]) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=random.below(5) {
        if bytes.is_empty() {
            break;
        }
        let at = random.below(bytes.len() as u64) as usize;
        match random.below(6) {
            0 => bytes[at] = random.below(256) as u8,
            1 => bytes[at] = [0, 1, 4, 8, 12, 13, 0x7f, 0x80, 0xff][random.below(9) as usize],
            2 => bytes[at] ^= 1 << random.below(8),
            3 => bytes.truncate(at),
            4 => bytes.insert(at, random.below(256) as u8),
            _ => {
                let end = (at + random.below(40) as usize).min(bytes.len());
                let part = bytes[at..end].to_vec();
                bytes.splice(at..at, part);
            }
        }
    }
    bytes
}

/// A STUN datagram's length field made right, so that what lies behind it is reached.
fn with_right_length(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.truncate(bytes.len() / 4 * 4);
    if bytes.len() >= 20 {
        let length = u16::try_from(bytes.len() - 20).unwrap();
        bytes[2..4].copy_from_slice(&length.to_be_bytes());
    }
    bytes
}

#[test]
fn no_mutated_check_makes_the_agent_panic() {
    let mut random = Random::new(0x5eed_1ce0);
    let [local, remote] = ["AAAserver", "client"]
        .map(|ufrag| Credentials { ufrag: ufrag.to_owned(), pwd: format!("the password of {ufrag}") });
    let seed = nominating_request(&local, &remote, b"twelve bytes");
    let (mut ice, now, at) = (IceLite::new(&local, &remote), Instant::now(), "192.0.2.1:9".parse().unwrap());
    let mut parsed = 0;
    for index in 0..INPUTS {
        let bytes = mutate(&mut random, &seed);
        let bytes = if index % 2 == 0 { with_right_length(bytes) } else { bytes };
        let _ = demux::classify(&bytes);
        parsed += usize::from(Message::parse(&bytes).is_ok());
        let ufrag = demux::ufrag_of(&bytes);
        assert!(
            ufrag.is_none_or(|ufrag| { bytes.windows(ufrag.len()).any(|window| window == ufrag.as_bytes()) })
        );
        let verdict = ice.handle(now, Path::Udp(at), at, &bytes);
        if let Verdict::Accepted(accepted) = verdict {
            assert!(accepted.response.len() <= bytes.len());
        }
    }
    assert!(parsed > INPUTS / 50, "the mutations reach beyond the header: {parsed}");
}

#[test]
fn no_mutated_record_makes_the_guard_panic() {
    let mut random = Random::new(0x5eed_d715);
    let mut pair = Pair::new(true);
    pair.activate().unwrap();
    let mut corpus = Vec::new();
    pair.run(Duration::from_secs(2), |to, sent| {
        let is_dtls = |datagram: &&Vec<u8>| demux::classify(datagram) == demux::Kind::Dtls;
        if to == To::Server {
            corpus.extend(sent.iter().filter(is_dtls).cloned());
        }
        sent
    });
    corpus.truncate(6);
    assert!(corpus.len() >= 3);
    let mut guard = DtlsGuard::new();
    let mut admitted = 0;
    for index in 0..INPUTS {
        // A guard that is exhausted looks at nothing more.
        if index % 50 == 0 {
            guard = DtlsGuard::new();
        }
        if random.below(200) == 0 {
            guard.handshake_complete();
        }
        let seed = &corpus[random.below(corpus.len() as u64) as usize];
        admitted += usize::from(guard.admit(&mutate(&mut random, seed)).is_ok());
    }
    assert!(admitted > INPUTS / 50, "the mutations reach beyond the header: {admitted}");
}
