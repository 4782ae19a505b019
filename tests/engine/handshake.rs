//! Real handshakes through the guard over bad networks.

use std::time::Duration;

use switchyard::engine::demux::{self, Kind};

use crate::pair::{Pair, Random};

const RECORD_HEADER: usize = 13;
const FRAGMENT_HEADER: usize = 12;

/// Splits the plain handshake messages in a datagram into fragments of `size`, each in a datagram of its own.
/// All plain records are numbered anew, which nothing authenticates.
fn split_anew(datagram: &[u8], size: usize, number: &mut u32) -> Vec<Vec<u8>> {
    let mut datagrams = Vec::new();
    let mut push = |header: &[u8], body: &[u8], is_plain: bool| {
        let mut bytes = header.to_vec();
        if is_plain {
            bytes[7..11].copy_from_slice(&number.to_be_bytes());
            *number += 1;
        }
        bytes[11..13].copy_from_slice(&u16::try_from(body.len()).unwrap().to_be_bytes());
        bytes.extend_from_slice(body);
        datagrams.push(bytes);
    };
    let mut rest = datagram;
    while !rest.is_empty() {
        let length = usize::from(u16::from_be_bytes([rest[11], rest[12]]));
        let (header, body) = (&rest[..RECORD_HEADER], &rest[RECORD_HEADER..RECORD_HEADER + length]);
        rest = &rest[RECORD_HEADER + length..];
        let is_plain = header[3..5] == [0, 0];
        if header[0] != 22 || !is_plain || body.len() == FRAGMENT_HEADER {
            push(header, body, is_plain);
            continue;
        }
        let (message, content) = body.split_at(FRAGMENT_HEADER);
        for (index, piece) in content.chunks(size).enumerate() {
            let mut fragment = message.to_vec();
            fragment[6..9].copy_from_slice(&u32::try_from(index * size).unwrap().to_be_bytes()[1..]);
            fragment[9..12].copy_from_slice(&u32::try_from(piece.len()).unwrap().to_be_bytes()[1..]);
            fragment.extend_from_slice(piece);
            push(header, &fragment, true);
        }
    }
    datagrams
}

/// Connects with the DTLS of both sides split by `size`, and a share of the datagrams lost, doubled and delayed.
fn connects(seed: u64, server_waits: bool, size: impl Fn(u32) -> usize, percent: u64) -> bool {
    let mut random = Random::new(seed);
    let mut pair = Pair::new(server_waits);
    pair.activate().unwrap();
    let (mut numbers, mut batches) = ([0, 0], 0);
    let mut delayed: [Vec<Vec<u8>>; 2] = Default::default();
    pair.run(Duration::from_secs(100), |to, sent| {
        let mut arriving = std::mem::take(&mut delayed[to as usize]);
        for datagram in sent {
            if demux::classify(&datagram) != Kind::Dtls {
                arriving.push(datagram);
                continue;
            }
            batches += 1;
            for piece in split_anew(&datagram, size(batches), &mut numbers[to as usize]) {
                match random.below(100) {
                    chance if chance < percent => {}
                    chance if chance < 2 * percent => arriving.extend([piece.clone(), piece]),
                    chance if chance < 3 * percent => delayed[to as usize].push(piece),
                    _ => arriving.push(piece),
                }
            }
        }
        random.shuffle(&mut arriving);
        arriving
    });
    !pair.client_heard.opened.is_empty() && !pair.server.heard.opened.is_empty()
}

#[test]
fn a_handshake_passes_untouched_over_a_good_network() {
    for server_waits in [true, false] {
        let mut pair = Pair::new(server_waits);
        pair.activate().unwrap();
        pair.run(Duration::from_secs(2), |_, sent| sent);
        assert_eq!((pair.server.refusals.as_slice(), pair.client_heard.opened.len()), (&[][..], 1));
    }
}

#[test]
fn a_handshake_of_small_fragments_completes_in_either_role() {
    for server_waits in [true, false] {
        for size in [40, 100, 203] {
            assert!(connects(1, server_waits, |_| size, 0), "server waits {server_waits}, size {size}");
        }
    }
}

#[test]
fn a_handshake_completes_although_fragments_are_lost_doubled_and_reordered() {
    for seed in 1..=20 {
        assert!(connects(seed, seed % 2 == 0, |_| 120, 10), "seed {seed}");
    }
}

#[test]
fn a_handshake_completes_although_retransmissions_are_split_anew() {
    for seed in 1..=20 {
        assert!(connects(seed, seed % 2 == 0, |batch| [150, 70, 110][batch as usize % 3], 10), "seed {seed}");
    }
}
