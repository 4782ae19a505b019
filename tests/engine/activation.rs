//! The engine's own ICE agent is connected by an exchange in memory, and ours decides about paths.

use std::time::Duration;

use rtc::peer_connection::configuration::RTCOfferOptions;
use rtc::peer_connection::state::RTCIceConnectionState;
use switchyard::engine::demux::{self, Kind};
use switchyard::engine::ice::{self, ActivationError, Credentials};
use switchyard::engine::path::Path;

use crate::pair::{Pair, credentials};

#[test]
fn the_engine_is_connected_within_the_instant_of_activation() {
    let mut pair = Pair::new(true);
    pair.server.drain();
    assert!(!pair.server.heard.ice.contains(&RTCIceConnectionState::Connected));
    pair.activate().unwrap();
    assert_eq!(pair.server.heard.ice.last(), Some(&RTCIceConnectionState::Connected));
}

#[test]
fn a_client_hello_is_answered_after_activation_and_not_before() {
    for active in [false, true] {
        let mut pair = Pair::new(true);
        if active {
            pair.activate().unwrap();
        }
        // The client's own ICE runs against our agent; its first DTLS datagram is the ClientHello.
        let mut hello = None;
        for _ in 0..200 {
            for datagram in pair.client_writes() {
                match demux::classify(&datagram) {
                    Kind::Dtls => hello = Some(datagram),
                    _ => pair.server.receive(pair.now, pair.client_at, &datagram),
                }
            }
            for datagram in std::mem::take(&mut pair.server.out) {
                pair.client_receives(&datagram);
            }
            pair.now += Duration::from_millis(10);
            rtc::sansio::Protocol::handle_timeout(&mut pair.client, pair.now).unwrap();
        }
        pair.server.receive(pair.now, pair.client_at, &hello.unwrap());
        let answered = pair.server.out.iter().any(|datagram| demux::classify(datagram) == Kind::Dtls);
        assert_eq!(answered, active);
        assert_eq!(pair.server.ice.current(), Some(Path::Udp(pair.client_at)));
    }
}

#[test]
fn an_engine_with_other_credentials_is_not_activated() {
    let mut pair = Pair::new(true);
    let right = pair.engine_credentials.clone();
    pair.engine_credentials = Credentials { pwd: "wrong".repeat(6), ..right.clone() };
    assert_eq!(pair.activate(), Err(ActivationError::NoCheck));
    pair.engine_credentials = right;
    let client = pair.client_credentials.clone();
    pair.client_credentials = Credentials { pwd: "wrong".repeat(6), ..client };
    assert_eq!(pair.activate(), Err(ActivationError::NotSelected));
}

#[test]
fn a_data_channel_opens_in_either_dtls_role_and_outlives_a_silent_minute() {
    for server_waits in [true, false] {
        let mut pair = Pair::new(server_waits);
        pair.activate().unwrap();
        pair.run(Duration::from_secs(3), |_, sent| sent);
        assert_eq!((pair.client_heard.opened.len(), pair.server.heard.opened.len()), (1, 1));
        assert_eq!(pair.server.refusals, []);
        pair.run(Duration::from_secs(60), |_, sent| sent);
        assert_eq!(pair.server.heard.ice.last(), Some(&RTCIceConnectionState::Connected));
        pair.client.data_channel(pair.channel).unwrap().send_text(pair.now, "still here".to_owned()).unwrap();
        pair.run(Duration::from_millis(100), |_, sent| sent);
        assert_eq!(pair.server.heard.messages, [b"still here"]);
    }
}

#[test]
fn the_client_may_move_without_the_engine_noticing() {
    let mut pair = Pair::new(true);
    pair.activate().unwrap();
    pair.run(Duration::from_secs(3), |_, sent| sent);
    let before = pair.server.heard.ice.len();
    pair.client_at = "203.0.113.77:5".parse().unwrap();
    // This client nominates only once: its move is known by the silence on the old path.
    pair.run(ice::SILENCE + Duration::from_secs(3), |_, sent| sent);
    assert_eq!(pair.server.ice.current(), Some(Path::Udp(pair.client_at)));
    assert_eq!(pair.server.heard.ice.len(), before);
    pair.client.data_channel(pair.channel).unwrap().send_text(pair.now, "moved".to_owned()).unwrap();
    pair.run(Duration::from_millis(100), |_, sent| sent);
    assert_eq!(pair.server.heard.messages, [b"moved"]);
}

#[test]
fn dtls_and_sctp_outlive_an_ice_restart() {
    let mut pair = Pair::new(true);
    pair.activate().unwrap();
    pair.run(Duration::from_secs(3), |_, sent| sent);
    let offer = pair.client.create_offer(Some(RTCOfferOptions { ice_restart: true })).unwrap();
    assert_ne!(credentials(&offer), pair.client_credentials);
    pair.negotiate(&offer);
    pair.server.ice.restart(&pair.engine_credentials, &pair.client_credentials);
    pair.activate().unwrap();
    pair.run(Duration::from_secs(3), |_, sent| sent);
    assert_eq!(pair.server.heard.ice.last(), Some(&RTCIceConnectionState::Connected));
    pair.client.data_channel(pair.channel).unwrap().send_text(pair.now, "restarted".to_owned()).unwrap();
    pair.run(Duration::from_millis(500), |_, sent| sent);
    assert_eq!(pair.server.heard.messages, [b"restarted"]);
}
