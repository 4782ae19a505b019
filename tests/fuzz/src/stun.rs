//! One datagram from an unknown address: demultiplexing, the STUN parser, and an agent that has never seen it.

use std::time::Instant;

use switchyard::engine::{
    demux::{self, Kind},
    ice::{Credentials, IceLite, Verdict},
    path::Path,
    stun::{Key, Message},
};

/// The response to an authentic check: header, mapped address, integrity and fingerprint.
const MOST: usize = 20 + 24 + 24 + 8;

/// The server's side, whose password the samples of the corpus are signed with.
pub(crate) fn local() -> Credentials {
    Credentials { ufrag: "AAAserver".to_owned(), pwd: "the password of the server".to_owned() }
}

/// The client's side.
pub(crate) fn remote() -> Credentials {
    Credentials { ufrag: "client".to_owned(), pwd: "the password of the client".to_owned() }
}

/// Whatever it says, the answer is small, and no more than one for each request.
pub fn target(data: &[u8]) {
    let kind = demux::classify(data);
    if let Some(ufrag) = demux::ufrag_of(data) {
        assert_eq!(kind, Kind::Stun);
        assert!(data.windows(ufrag.len()).any(|part| part == ufrag.as_bytes()));
        let _ = demux::shard_of_ufrag(ufrag);
    }
    if let Ok(message) = Message::parse(data) {
        let _ = message.verify_integrity(&Key::short_term(&local().pwd));
        let _ = message.verify_fingerprint();
        assert!(message.unknown().len() <= data.len() / 4);
    }
    let address = "[2001:db8::1]:9".parse().expect("an address");
    let mut ice = IceLite::new(&local(), &remote());
    match ice.handle(Instant::now(), Path::Udp(address), address, data) {
        Verdict::Accepted(accepted) => {
            assert!(accepted.response.len() <= MOST && accepted.newly_validated);
            assert!(ice.is_validated(&Path::Udp(address)));
        }
        Verdict::Refused { response, .. } => {
            assert!(response.len() <= data.len() + MOST);
            assert!(!ice.is_validated(&Path::Udp(address)));
        }
        Verdict::Ignored(_) => assert!(!ice.is_validated(&Path::Udp(address))),
    }
}
