//! An access network from both sides.

use std::time::Duration;

use super::*;
use crate::netsim::LinkConfig;

const MS: Duration = Duration::from_millis(1);

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn server() -> SocketAddr {
    address("192.0.2.1:7880")
}

fn media() -> SocketAddr {
    address("192.0.2.1:7882")
}

fn inside() -> SocketAddr {
    address("10.0.0.2:5000")
}

fn access(spec: &NetworkSpec, now: Instant) -> Access<u32> {
    Access::new(now, spec, Target { http: server(), tls: false }, 1)
}

/// The same delay each way.
fn delayed(delay: Duration) -> NetworkSpec {
    let link = LinkConfig { delay, ..LinkConfig::default() };
    NetworkSpec { up: link.clone(), down: link, ..NetworkSpec::default() }
}

fn all(access: &mut Access<u32>, now: Instant) -> Vec<Output<u32>> {
    std::iter::from_fn(|| access.poll(now)).collect()
}

/// What comes out until the given time, with the time.
fn run(access: &mut Access<u32>, until: Instant) -> Vec<(Instant, Output<u32>)> {
    let mut outputs = Vec::new();
    while let Some(at) = access.poll_timeout().filter(|at| *at <= until) {
        outputs.extend(all(access, at).into_iter().map(|output| (at, output)));
    }
    outputs
}

fn datagram(payload: &'static str) -> Datagram {
    Datagram { from: inside(), to: media(), payload: Bytes::from_static(payload.as_bytes()) }
}

#[test]
fn a_perfect_network_passes_everything_in_the_same_poll() {
    let now = Instant::now();
    let mut access = access(&NetworkSpec::default(), now);
    let id = access.open_stream(now, server());
    access.send(now, id, Direction::Up, 100_000, 1);
    access.send(now, id, Direction::Down, 100_000, 2);
    access.send_datagram(now, datagram("up"));
    access.handle_datagram(now, MappingId(0), media(), Bytes::from_static(b"down"));
    let outputs = all(&mut access, now);
    assert_eq!(
        outputs,
        [
            Output::StreamOpen(id),
            Output::StreamItem { id, direction: Direction::Up, item: 1 },
            Output::StreamItem { id, direction: Direction::Down, item: 2 },
            Output::Datagram { mapping: MappingId(0), to: media(), payload: Bytes::from_static(b"up") },
            Output::Inside(Datagram { from: media(), to: inside(), payload: Bytes::from_static(b"down") }),
        ]
    );
    assert_eq!(access.poll_timeout(), None);
}

#[test]
fn a_stream_opens_after_its_round_trips_and_an_item_takes_the_delay() {
    for (tls, round_trips) in [(false, 2), (true, 3)] {
        let start = Instant::now();
        let mut access = Access::new(start, &delayed(20 * MS), Target { http: server(), tls }, 1);
        let id = access.open_stream(start, server());
        let open = start + round_trips * 40 * MS;
        assert_eq!(run(&mut access, open), [(open, Output::StreamOpen(id))]);
        assert!(access.can_send(id, Direction::Up));
        access.send(open, id, Direction::Up, 3_000, 7);
        access.send(open, id, Direction::Down, 10, 8);
        let item = |direction, item| (open + 20 * MS, Output::StreamItem { id, direction, item });
        let outputs = run(&mut access, open + 1000 * MS);
        assert_eq!(outputs, [item(Direction::Up, 7), item(Direction::Down, 8)]);
    }
}

#[test]
fn an_address_change_ends_mappings_and_streams_at_once() {
    let start = Instant::now();
    let mut access = access(&delayed(20 * MS), start);
    let id = access.open_stream(start, server());
    access.send_datagram(start, datagram("before"));
    let now = start + 100 * MS;
    assert_eq!(run(&mut access, now).len(), 2);
    access.send_datagram(now, datagram("under way"));
    access.change_address(now);
    let ended = [Output::MappingClosed(MappingId(0)), Output::StreamFailed(id, Failure::AddressChanged)];
    assert_eq!(all(&mut access, now), ended);
    access.send_datagram(now, datagram("after"));
    let outputs = run(&mut access, now + 1000 * MS);
    let payload = Bytes::from_static(b"after");
    assert_eq!(outputs, [(now + 20 * MS, Output::Datagram { mapping: MappingId(1), to: media(), payload })]);
}
