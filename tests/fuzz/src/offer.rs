//! A session description of a client: what is read of it here, and the engine that reads the rest.

use std::{sync::LazyLock, time::Instant};

use switchyard::engine::{
    peer::{Identity, Peer},
    sdp::{self, HostCandidate, Offer},
};

use super::stun;

/// An offer for data channels as a browser writes it.
pub(crate) const CHROMIUM: &str = include_str!("../corpus/offer/chromium");

/// An offer that can be used leads to an answer without anything that the client has not to know.
pub fn target(data: &[u8]) {
    static IDENTITY: LazyLock<Identity> = LazyLock::new(|| Identity::generate().expect("a certificate"));
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(offer) = Offer::parse(text, 1024) else { return };
    assert!(!offer.for_engine.contains("\na=candidate:"));
    let Ok(peer) = Peer::new(&offer, &stun::local(), &IDENTITY, Instant::now()) else { return };
    let candidate = HostCandidate { address: ([192, 0, 2, 1], 7882).into(), tcp: false };
    let answer = sdp::answer(peer.answer(), &stun::local(), &[candidate]);
    assert!(answer.contains("a=ice-ufrag:AAAserver\r\n") && answer.ends_with("a=end-of-candidates\r\n"));
    assert!(peer.is_same_client(&offer));
}
