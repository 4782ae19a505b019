//! The TURN load against coturn, as Debian has it.

#![cfg(test)]

mod coturn;
mod proxy;

use std::{
    io::Write as _,
    net::{Ipv4Addr, UdpSocket},
    sync::atomic::Ordering,
    time::Duration,
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use switchyard_loadtest::{
    target::Trust,
    turn::{
        crowd::{Crowd, Far, Pairs},
        run::{Figures, run},
        server::TurnServer,
        traffic::{Direction, Pace, Traffic},
    },
};
use tempfile::NamedTempFile;
use tokio::{sync::watch, task::LocalSet};

use coturn::{Coturn, credentials, credentials_with};
use proxy::{Faults, Proxy};

const OUTSIDE: Far = Far::Outside(None);

async fn pairs(uri: &str) -> Pairs {
    pairs_trusting(uri, &Trust::System).await
}

async fn pairs_trusting(uri: &str, trust: &Trust) -> Pairs {
    Pairs {
        server: TurnServer::open(uri, trust).await.unwrap(),
        credentials: credentials(),
        count: 4,
        far: OUTSIDE,
        channels: true,
        patience: Duration::from_secs(10),
    }
}

/// 200 datagrams from each end that sends, in bursts.
fn traffic(direction: Direction) -> Traffic {
    Traffic {
        direction,
        size: 101,
        burst: 4,
        pace: Pace::Rate { rate: 800.0, is_precise: false },
        duration: Duration::from_millis(250),
        grace: Duration::from_millis(30),
    }
}

async fn figures(pairs: &Pairs, traffic: &Traffic) -> Figures {
    let (_interrupt, interrupted) = watch::channel(false);
    run(pairs, traffic, interrupted, || ()).await.unwrap()
}

fn assert_all_arrived(what: &str, figures: &Figures, sent: u64) {
    let round = &figures.round;
    assert_eq!((figures.ready, figures.failures().count()), (4, 0), "{what}: {figures:?}");
    assert_eq!((round.sent, round.received), (sent, sent), "{what}: {figures:?}");
    assert_eq!((round.doubled, round.altered), (0, 0), "{what}: {figures:?}");
    assert_eq!(round.latency.count(), sent, "{what}");
}

#[tokio::test]
async fn every_datagram_through_coturn_arrives_in_each_direction_by_each_way() {
    let coturn = Coturn::start();
    for transport in ["udp", "tcp"] {
        for (far, allocations) in [(OUTSIDE, 4), (Far::Relay, 8)] {
            for (direction, sent) in
                [(Direction::ToPeer, 800), (Direction::ToClient, 800), (Direction::Both, 1600)]
            {
                for channels in [true, false] {
                    let uri = format!("turn:{}?transport={transport}", coturn.address);
                    let pairs = Pairs { far, channels, ..pairs(&uri).await };
                    let figures = figures(&pairs, &traffic(direction)).await;
                    let what = format!("{transport} {far:?} {direction:?} channels: {channels}");
                    assert_all_arrived(&what, &figures, sent);
                    assert_eq!(figures.opening.allocating.count(), allocations, "{what}");
                }
            }
        }
    }
}

#[tokio::test]
async fn what_is_lost_doubled_or_altered_on_the_way_is_counted_so() {
    let coturn = Coturn::start();
    let uri = |proxy: &Proxy| format!("turn:{}", proxy.address);
    let (lose, double) =
        (Faults { lose: true, ..Faults::default() }, Faults { double: true, ..Faults::default() });
    let (alter, all) =
        (Faults { alter: true, ..Faults::default() }, Faults { lose: true, double: true, alter: true });
    let none = Faults::default();
    for (to_server, to_client, direction, channels) in [
        (lose, none, Direction::ToPeer, true),
        (double, none, Direction::ToPeer, true),
        (alter, none, Direction::ToPeer, true),
        (none, all, Direction::ToClient, true),
        (none, all, Direction::ToClient, false),
        (all, all, Direction::Both, true),
    ] {
        let proxy = Proxy::start(coturn.address, to_server, to_client);
        let pairs = Pairs { channels, ..pairs(&uri(&proxy)).await };
        // The last copies may come late on a busy machine.
        let traffic = Traffic { grace: Duration::from_millis(300), ..traffic(direction) };
        let figures = figures(&pairs, &traffic).await;
        let [lost, doubled, altered] = [&proxy.done.lost, &proxy.done.doubled, &proxy.done.altered]
            .map(|count| count.load(Ordering::Relaxed));
        let round = &figures.round;
        let what = format!("{to_server:?} {to_client:?} {direction:?}: {figures:?}");
        assert!(lost + doubled + altered >= 70, "the proxy did little: {what}");
        assert_eq!(round.doubled, doubled, "{what}");
        assert_eq!(round.altered, altered, "{what}");
        assert_eq!(round.lost(), lost + altered, "{what}");
        let indications = proxy.done.indications.load(Ordering::Relaxed);
        assert_eq!(indications, if channels { 0 } else { round.sent }, "{what}");
        assert_eq!(round.sent, if direction == Direction::Both { 1600 } else { 800 }, "{what}");
    }
}

#[tokio::test]
async fn a_window_keeps_so_many_on_their_way_and_goes_on_when_some_are_lost() {
    let coturn = Coturn::start();
    let lose = Faults { lose: true, ..Faults::default() };
    let proxy = Proxy::start(coturn.address, lose, Faults::default());
    let traffic = Traffic { pace: Pace::Window(8), ..traffic(Direction::ToPeer) };
    let figures = figures(&pairs(&format!("turn:{}", proxy.address)).await, &traffic).await;
    let round = &figures.round;
    let lost = proxy.done.lost.load(Ordering::Relaxed);
    assert_eq!((round.lost(), round.altered, round.doubled), (lost, 0, 0), "{figures:?}");
    // After eight were lost nothing would be sent any more.
    assert!(round.lost() > 8 && round.received > round.lost(), "{figures:?}");
    // Nothing waits long behind eight others: in an open loop the queue would grow.
    assert!(round.latency.quantile(0.5) < Duration::from_millis(50), "{figures:?}");
}

#[tokio::test]
async fn pairs_carry_one_round_after_another_and_count_each_for_itself() {
    let coturn = Coturn::start();
    let pairs = pairs(&format!("turn:{}", coturn.address)).await;
    let rounds = async {
        let (mut crowd, _) = Crowd::open(&pairs).await.unwrap();
        let (_interrupt, mut interrupted) = watch::channel(false);
        let mut received = Vec::new();
        for direction in [Direction::Both, Direction::ToPeer, Direction::ToClient] {
            let round = crowd.carry(&traffic(direction), &mut interrupted).await;
            assert_eq!((round.lost(), round.altered, round.doubled), (0, 0, 0), "{direction:?} {round:?}");
            received.push(round.received);
        }
        crowd.close().await;
        received
    };
    assert_eq!(LocalSet::new().run_until(rounds).await, [1600, 800, 800]);
}

#[tokio::test]
async fn a_round_that_is_interrupted_ends() {
    let coturn = Coturn::start();
    let pairs = pairs(&format!("turn:{}", coturn.address)).await;
    let traffic = Traffic { duration: Duration::from_secs(3600), ..traffic(Direction::ToPeer) };
    let (interrupt, interrupted) = watch::channel(false);
    let running = run(&pairs, &traffic, interrupted, || {
        interrupt.send_replace(true);
    });
    let figures = tokio::time::timeout(Duration::from_secs(20), running).await.expect("it goes on").unwrap();
    assert_eq!(figures.round.lost(), 0, "{figures:?}");
    assert!(figures.round.sending < Duration::from_secs(10), "{figures:?}");
}

fn file(pem: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(pem.as_bytes()).unwrap();
    file
}

/// An authority's PEM file.
fn authority() -> (CertifiedIssuer<'static, KeyPair>, NamedTempFile) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let pem = file(&authority.pem());
    (authority, pem)
}

#[tokio::test]
async fn every_datagram_arrives_over_tls_from_whom_is_trusted_and_nobody_else_is() {
    let (authority, authority_file) = authority();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let certificate = file(&params.signed_by(&key, &authority).unwrap().pem());
    let coturn = Coturn::start_with_tls(certificate.path(), file(&key.serialize_pem()).path());
    let uri = format!("turns:{}", coturn.tls);
    for trust in [Trust::Authorities(authority_file.path().to_owned()), Trust::Anything] {
        let pairs = pairs_trusting(&uri, &trust).await;
        let figures = figures(&pairs, &traffic(Direction::Both)).await;
        assert_all_arrived("TLS", &figures, 1600);
    }
    let (_, other) = self::authority();
    for trust in [Trust::Authorities(other.path().to_owned()), Trust::System] {
        let pairs = pairs_trusting(&uri, &trust).await;
        let figures = figures(&pairs, &traffic(Direction::Both)).await;
        assert_eq!((figures.ready, figures.round.sent), (0, 0));
        let (why, count) = figures.failures().next().unwrap();
        assert!(why.contains("invalid peer certificate") && count == 4, "{why}");
    }
}

#[tokio::test]
async fn a_self_signed_certificate_is_trusted_as_its_own_authority() {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let certificate = file(&params.self_signed(&key).unwrap().pem());
    let coturn = Coturn::start_with_tls(certificate.path(), file(&key.serialize_pem()).path());
    let trust = Trust::Authorities(certificate.path().to_owned());
    let pairs = pairs_trusting(&format!("turns:{}", coturn.tls), &trust).await;
    assert_all_arrived("self-signed", &figures(&pairs, &traffic(Direction::Both)).await, 1600);
}

#[tokio::test]
async fn what_the_server_refuses_is_told_in_its_words() {
    let coturn = Coturn::start();
    let pairs = Pairs {
        credentials: credentials_with("another"),
        ..pairs(&format!("turn:{}", coturn.address)).await
    };
    let figures = figures(&pairs, &traffic(Direction::ToPeer)).await;
    assert_eq!((figures.ready, figures.round.sent), (0, 0));
    let (why, count) = figures.failures().next().unwrap();
    assert!(why.contains("401") && count == 4, "{why}");
}

#[tokio::test]
async fn without_a_server_it_says_so() {
    let address = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    for (transport, patience, expected) in [("tcp", 10, "connecting: "), ("udp", 1, "not ready in time")] {
        let uri = format!("turn:{address}?transport={transport}");
        let pairs = Pairs { patience: Duration::from_secs(patience), ..pairs(&uri).await };
        let figures = figures(&pairs, &traffic(Direction::ToPeer)).await;
        assert!(figures.failures().next().unwrap().0.starts_with(expected), "{figures:?}");
    }
}
