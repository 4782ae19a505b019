//! Datagrams of an ICE-validated peer that need not speak DTLS: the guard, and the engine behind it.
//!
//! The input is a list of datagrams, each preceded by its length in two bytes, the last one cut where the input ends;
//! a length of 0 says that the handshake is complete.

use std::{
    sync::LazyLock,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use switchyard::engine::{
    dtls_guard::{Admission, DtlsGuard, FLIGHT_BYTES},
    peer::{Identity, Peer},
    sdp::Offer,
};

use super::{offer, stun};

const RECORD_HEADER: usize = 13;

/// What the guard writes is well-formed and no longer than what it may have held.
pub fn guard(data: &[u8]) {
    let mut guard = DtlsGuard::new();
    for datagram in datagrams(data) {
        if datagram.is_empty() {
            guard.handshake_complete();
            continue;
        }
        if let Ok(Admission::Rewritten(rewritten)) = guard.admit(datagram) {
            assert!(!rewritten.is_empty() && rewritten.len() <= 2 * FLIGHT_BYTES + datagram.len());
            let mut rest = &rewritten[..];
            while !rest.is_empty() {
                let length = RECORD_HEADER + usize::from(u16::from_be_bytes([rest[11], rest[12]]));
                rest = &rest[length..];
            }
        }
    }
}

/// The engine behind the guard takes what it is given, answers a bounded number of times, and can be closed.
pub fn engine(data: &[u8]) {
    static IDENTITY: LazyLock<Identity> = LazyLock::new(|| Identity::generate().expect("a certificate"));
    let mut now = Instant::now();
    let offer = Offer::parse(offer::CHROMIUM, 1024).expect("an offer");
    let mut peer = Peer::new(&offer, &stun::local(), &IDENTITY, now).expect("a peer");
    let mut guard = DtlsGuard::new();
    for datagram in datagrams(data) {
        let admitted = match guard.admit(datagram) {
            Ok(Admission::AsIs) => BytesMut::from(datagram),
            Ok(Admission::Rewritten(rewritten)) => BytesMut::from(&rewritten[..]),
            Ok(Admission::Held) | Err(_) => continue,
        };
        let _ = peer.handle_datagram(admitted, now);
        now += Duration::from_millis(50);
        drain(&mut peer);
        let _ = peer.handle_timeout(now);
        drain(&mut peer);
    }
    peer.close();
    drain(&mut peer);
}

fn drain(peer: &mut Peer) {
    for _ in 0..1000 {
        let sent = peer.poll_transmit().is_some();
        let heard = peer.poll_message().is_some() | peer.poll_event().is_some();
        if !sent && !heard {
            return;
        }
    }
    panic!("the engine does not come to rest");
}

fn datagrams(mut data: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (length, rest) = data.split_first_chunk::<2>()?;
        let length = usize::from(u16::from_be_bytes(*length)).min(rest.len());
        let (datagram, rest) = rest.split_at(length);
        data = rest;
        Some(datagram)
    })
}
