//! An access network from both sides.

use std::time::Duration;

use super::*;
use crate::{
    netsim::{CoDel, Jitter, LinkConfig, RateLimit, preset, presets, testing::MS},
    rng::for_seeds,
};

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

/// The same link each way.
fn both(link: LinkConfig) -> NetworkSpec {
    NetworkSpec { up: link.clone(), down: link, ..NetworkSpec::default() }
}

/// The same delay each way.
fn delayed(delay: Duration) -> NetworkSpec {
    both(LinkConfig { delay, ..LinkConfig::default() })
}

/// A stream that is open, and when that was.
fn opened(access: &mut Access<u32>, start: Instant) -> (StreamId, Instant) {
    let id = access.open_stream(start, server());
    while let Some(at) = access.poll_timeout() {
        if all(access, at).contains(&Output::StreamOpen(id)) {
            return (id, at);
        }
    }
    panic!("the stream did not open");
}

/// Sends as fast as the stream takes it for so long, in items of 1,448 bytes, and gives the rate of what came out, in
/// bits a second.
fn throughput(access: &mut Access<u32>, (id, start): (StreamId, Instant), length: Duration) -> f64 {
    let (mut sent, mut received, mut now) = (0, 0, start);
    while now < start + length {
        while access.can_send(id, Direction::Down) {
            access.send(now, id, Direction::Down, 1_448, sent);
            sent += 1;
        }
        now = access.poll_timeout().unwrap();
        for output in all(access, now) {
            assert_eq!(output, Output::StreamItem { id, direction: Direction::Down, item: received });
            received += 1;
        }
    }
    f64::from(received) * 1_448.0 * 8.0 / length.as_secs_f64()
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

#[test]
fn a_silent_firewall_lets_connecting_time_out_and_another_refuses_at_once() {
    let start = Instant::now();
    for (firewall, at, failure) in [
        (Firewall::OnlyServer, 40 * MS, Failure::Refused),
        (Firewall::Only443, 40 * MS, Failure::Refused),
        (Firewall::OnlyServerSilent, 123_000 * MS, Failure::TimedOut),
    ] {
        let spec = NetworkSpec { firewall, ..delayed(20 * MS) };
        let mut access = access(&spec, start);
        let allowed = access.open_stream(start, server());
        assert_eq!(run(&mut access, start + 80 * MS), [(start + 80 * MS, Output::StreamOpen(allowed))]);
        let start = start + 80 * MS;
        let id = access.open_stream(start, address("192.0.2.1:7881"));
        let outputs = run(&mut access, start + 1_000_000 * MS);
        assert_eq!(outputs, [(start + at, Output::StreamFailed(id, failure))], "{firewall:?}");
        access.send_datagram(start + 2_000_000 * MS, datagram("blocked"));
        assert_eq!(run(&mut access, start + 3_000_000 * MS), []);
        assert_eq!(access.stats().blocked, 1);
    }
}

#[test]
fn whatever_the_network_does_items_come_out_once_and_in_order() {
    let evil = LinkConfig {
        delay: 20 * MS,
        jitter: Jitter::Pareto { mean: 10 * MS },
        reorder: true,
        loss: 0.15.into(),
        duplicate: 0.1,
        rate: Some(RateLimit {
            bits_per_second: 3_000_000,
            burst_bytes: 3_000,
            queue_bytes: 20_000,
            codel: None,
        }),
        mtu: Some(1_280),
    };
    for_seeds(5, |seed| {
        let start = Instant::now();
        let mut access = Access::new(start, &both(evil.clone()), Target { http: server(), tls: true }, seed);
        let (id, mut now) = opened(&mut access, start);
        let mut sizes = Rng::new(seed);
        let mut sent = [0, 0];
        let mut received = [0, 0];
        while received != [300, 300] {
            for direction in [Direction::Up, Direction::Down] {
                let sent = &mut sent[direction as usize];
                if *sent < 300 && access.can_send(id, direction) {
                    access.send(now, id, direction, sizes.below(6_000) as usize, *sent);
                    *sent += 1;
                }
            }
            for output in all(&mut access, now) {
                let Output::StreamItem { direction, item, .. } = output else {
                    panic!("{output:?}");
                };
                assert_eq!(item, received[direction as usize]);
                received[direction as usize] += 1;
            }
            now = access.poll_timeout().unwrap_or(now);
            assert!(now < start + 600_000 * MS);
        }
        let stats = access.stats();
        assert!(stats.retransmitted_up > 0 && stats.retransmitted_down > 0);
    });
}

#[test]
fn the_same_seed_gives_the_same_outputs_and_another_seed_others() {
    let outputs = |name: &str, start: Instant, seed| {
        let mut access =
            Access::new(start, &preset(name).unwrap(), Target { http: server(), tls: true }, seed);
        let id = access.open_stream(start, server());
        let mut outputs = Vec::new();
        for tick in 0..1_000 {
            let now = start + tick * 10 * MS;
            outputs.extend(run(&mut access, now));
            access.send(now, id, Direction::Up, 2_000, tick);
            access.send_datagram(now, datagram("up"));
            access.handle_datagram(now, MappingId(0), media(), Bytes::from_static(b"down"));
        }
        outputs
    };
    let start = Instant::now();
    for (name, _) in presets() {
        let one = outputs(name, start, 1);
        assert_eq!(one, outputs(name, start, 1), "{name}");
        if preset(name).unwrap().up.loss.mean() > 0.0 {
            assert_ne!(one, outputs(name, start, 2), "{name}");
        }
    }
}

#[test]
fn when_somebody_looks_changes_nothing() {
    let start = Instant::now();
    let outputs = |pause: Duration| {
        let mut access =
            Access::new(start, &preset("train").unwrap(), Target { http: server(), tls: true }, 3);
        let id = access.open_stream(start, server());
        let mut outputs = Vec::new();
        for tick in 0..2_000 {
            let now = start + tick * 10 * MS;
            access.send(now, id, Direction::Down, 2_000, tick);
            let mut looked = now;
            while looked < now + 10 * MS {
                outputs.extend(all(&mut access, looked));
                looked += pause;
            }
        }
        outputs.extend(all(&mut access, start + 30_000 * MS));
        outputs
    };
    assert_eq!(outputs(10 * MS), outputs(Duration::from_micros(900)));
}

/// Mathis et al. (1997): a rate of MSS / RTT · √(3 / 2p) for losses of p, without delayed acknowledgements.
#[test]
fn a_stream_is_as_fast_as_its_losses_and_its_round_trip_allow() {
    for_seeds(3, |seed| {
        for (loss, rtt) in
            [(0.002, 50 * MS), (0.005, 100 * MS), (0.01, 50 * MS), (0.01, 200 * MS), (0.02, 100 * MS)]
        {
            let start = Instant::now();
            let mut spec = delayed(rtt / 2);
            spec.down.loss = loss.into();
            let mut access = Access::new(start, &spec, Target { http: server(), tls: false }, seed);
            let stream = opened(&mut access, start);
            // The beginning is slow start's.
            let rate = throughput(&mut access, stream, 3_000 * rtt);
            let expected = 1_448.0 * 8.0 / rtt.as_secs_f64() * (1.5 / loss).sqrt();
            let ratio = rate / expected;

            assert!((0.75..1.35).contains(&ratio), "{loss} {rtt:?}: {ratio}");
        }
    });
}

#[test]
fn a_stream_fills_a_bottleneck_and_what_waits_there_is_what_the_queue_holds() {
    let bottleneck = |codel| {
        let rate = RateLimit { bits_per_second: 10_000_000, burst_bytes: 3_000, queue_bytes: 250_000, codel };
        let mut spec = delayed(20 * MS);
        spec.down.rate = Some(rate);
        let start = Instant::now();
        let mut access = access(&spec, start);
        let (id, start) = opened(&mut access, start);
        access.send_datagram(start, datagram("hole"));
        let (mut sent, mut received, mut delays, mut now) = (0, 0, Vec::new(), start);
        for tick in 0..6_000 {
            let end = start + tick * 10 * MS;
            while let Some(at) = access.poll_timeout().filter(|at| *at <= end) {
                now = at;
                for output in all(&mut access, at) {
                    match output {
                        Output::StreamItem { .. } => received += 1,
                        Output::Inside(probe) => {
                            let sent = u32::from_be_bytes(probe.payload[..].try_into().unwrap());
                            delays.push(at - (start + sent * 10 * MS) - 20 * MS);
                        }
                        _ => {}
                    }
                }
                while access.can_send(id, Direction::Down) {
                    access.send(at, id, Direction::Down, 1_448, sent);
                    sent += 1;
                }
            }
            if access.can_send(id, Direction::Down) {
                access.send(end, id, Direction::Down, 1_448, sent);
            }
            let probe = Bytes::copy_from_slice(&tick.to_be_bytes());
            access.handle_datagram(end, MappingId(0), media(), probe);
        }
        delays.sort();
        let bits = f64::from(received) * 1_500.0 * 8.0 / (now - start).as_secs_f64();
        (bits / 10e6, delays[delays.len() / 2])
    };
    let (tail_use, tail_delay) = bottleneck(None);
    let (codel_use, codel_delay) = bottleneck(Some(CoDel::default()));
    assert!(tail_use > 0.97 && codel_use > 0.85, "{tail_use} {codel_use}");
    assert!(tail_delay > 80 * MS && codel_delay < 10 * MS, "{tail_delay:?} {codel_delay:?}");
}

/// What one item takes if the network takes its `lost`th packet downwards.
fn with_one_loss(items: u32, lost: u32) -> Vec<Duration> {
    let start = Instant::now();
    let mut access = access(&delayed(50 * MS), start);
    let (id, start) = opened(&mut access, start);
    let start = start + 1_000 * MS;
    let mut arrivals = Vec::new();
    for item in 0..items {
        let now = start + item * MS;
        arrivals.extend(run(&mut access, now));
        if item == lost {
            access.down.take_down(now, now + MS / 2);
        }
        access.send(now, id, Direction::Down, 1_000, item);
    }
    arrivals.extend(run(&mut access, start + 60_000 * MS));
    arrivals.iter().enumerate().map(|(item, (at, _))| *at - (start + item as u32 * MS)).collect()
}

#[test]
fn a_lost_segment_is_sent_again_after_a_round_trip_if_others_follow_and_after_a_timeout_if_none_do() {
    let arrivals = with_one_loss(9, 5);
    assert_eq!(arrivals[..5], [50 * MS; 5]);
    // Three later ones are acknowledged 1, 2 and 3 ms later, 100 ms after they were sent; then it takes 50 ms.
    assert_eq!(arrivals[5..], [153 * MS, 152 * MS, 151 * MS, 150 * MS]);
    let tail = with_one_loss(5, 4);
    assert_eq!(tail[..4], [50 * MS; 4]);
    // The time-out is 200 ms above a round trip, and counts from the last acknowledgement, 99 ms after it was sent.
    assert_eq!(tail[4], 449 * MS);
}

#[test]
fn a_stream_survives_an_outage_and_not_one_that_lasts_too_long() {
    for (length, survives) in [(5_000 * MS, true), (60_000 * MS, true), (200_000 * MS, false)] {
        let start = Instant::now();
        let mut access = access(&delayed(20 * MS), start);
        let (id, now) = opened(&mut access, start);
        access.up.take_down(now, now + length);
        access.down.take_down(now, now + length);
        access.send(now, id, Direction::Up, 100, 7);
        let outputs = run(&mut access, now + 1_000_000 * MS);
        let [(at, output)] = &outputs[..] else {
            panic!("{outputs:?}");
        };
        if survives {
            assert_eq!(*output, Output::StreamItem { id, direction: Direction::Up, item: 7 });
            // Time-outs double, so that it comes within twice the outage and 60 s.
            assert!(
                *at > now + length && *at < now + length.min(60_000 * MS) * 2 + 200 * MS,
                "{length:?}: {:?}",
                *at - now
            );
        } else {
            assert_eq!(*output, Output::StreamFailed(id, Failure::TimedOut));
            assert!(*at >= now + 120_000 * MS && *at < now + 180_000 * MS, "{:?}", *at - now);
        }
    }
}

#[test]
fn a_stream_takes_no_more_than_its_buffer_until_some_of_it_has_passed() {
    let start = Instant::now();
    let mut spec = delayed(20 * MS);
    spec.up.rate =
        Some(RateLimit { bits_per_second: 1_000_000, burst_bytes: 0, queue_bytes: 50_000, codel: None });
    let mut access = access(&spec, start);
    let unopened = access.open_stream(start, server());
    assert!(!access.can_send(unopened, Direction::Up));
    let (id, now) = opened(&mut access, start);
    let mut sent = 0;
    while access.can_send(id, Direction::Up) {
        access.send(now, id, Direction::Up, 10_000, sent);
        sent += 1;
    }
    // Ten segments go at once, and 64 KiB wait.
    assert_eq!(sent, 8);
    assert!(access.can_send(id, Direction::Down));
    run(&mut access, now + 500 * MS);
    assert!(access.can_send(id, Direction::Up));
    access.close_stream(now + 500 * MS, id);
    assert!(!access.can_send(id, Direction::Up));
}

#[test]
fn nothing_comes_of_a_stream_that_was_closed() {
    let start = Instant::now();
    let mut access = access(&NetworkSpec::default(), start);
    let id = access.open_stream(start, server());
    access.send(start, id, Direction::Up, 10, 1);
    access.close_stream(start, id);
    access.send(start, id, Direction::Up, 10, 2);
    assert_eq!(all(&mut access, start), []);
}

#[test]
fn a_mapping_ends_in_time_and_a_late_answer_is_filtered() {
    let start = Instant::now();
    let spec = NetworkSpec { nat: preset("symmetric-nat").unwrap().nat, ..NetworkSpec::default() };
    let mut access = access(&spec, start);
    access.send_datagram(start, datagram("up"));
    assert!(matches!(all(&mut access, start)[..], [Output::Datagram { mapping: MappingId(0), .. }]));
    let answer = |access: &mut Access<u32>, now, from| {
        access.handle_datagram(now, MappingId(0), from, Bytes::from_static(b"answer"));
        all(access, now)
    };
    assert_eq!(answer(&mut access, start, media()).len(), 1);
    assert_eq!(answer(&mut access, start, server()), []);
    assert_eq!(access.stats().filtered, 1);
    let end = start + 30_000 * MS;
    assert_eq!(run(&mut access, end), [(end, Output::MappingClosed(MappingId(0)))]);
    assert_eq!(answer(&mut access, end, media()), []);
    assert_eq!(access.poll_timeout(), None);
}

#[test]
fn scheduled_events_happen_in_their_time() {
    let start = Instant::now();
    let yaml = "both: {delay: 10ms}\nevents:\n  - {at: 1s, every: 2s, outage: 500ms}\n  - {at: 4s, rebind: true}\n  \
                - {at: 6s, change_address: true}\n  - {at: 8s, switch_to: perfect}";
    let mut access = access(&NetworkSpec::from_yaml(yaml).unwrap(), start);
    let mut out = Vec::new();
    for tenth in 0..100 {
        let now = start + tenth * 100 * MS;
        out.extend(run(&mut access, now).into_iter().filter_map(|(at, output)| match output {
            Output::Datagram { mapping, .. } => Some((at - start, mapping.0)),
            Output::MappingClosed(_) => None,
            output => panic!("{output:?}"),
        }));
        // In the middle between events.
        access.send_datagram(now + 50 * MS, datagram("tick"));
    }
    let expected: Vec<(Duration, u64)> = (0..99)
        .map(|tenth| tenth * 100 + 50)
        .filter(|sent| sent % 2_000 < 1_000 || sent % 2_000 >= 1_500)
        .map(|sent| {
            (
                sent,
                if sent < 4_000 {
                    0
                } else if sent < 6_000 {
                    1
                } else {
                    2
                },
            )
        })
        .map(|(sent, mapping)| ((sent + if sent < 8_000 { 10 } else { 0 }) * MS, mapping))
        .collect();
    assert_eq!(out, expected);
}

#[test]
fn another_network_is_another_from_then_on() {
    let start = Instant::now();
    let mut access = access(&delayed(50 * MS), start);
    let (id, now) = opened(&mut access, start);
    access.send_datagram(now, datagram("before"));
    access.set_spec(now, &delayed(5 * MS));
    let mut outputs = run(&mut access, now + 60 * MS);
    access.send_datagram(now + 60 * MS, datagram("after"));
    access.send(now + 60 * MS, id, Direction::Up, 10, 1);
    outputs.extend(run(&mut access, now + 1_000 * MS));
    let times: Vec<Duration> = outputs.iter().map(|(at, _)| *at - now).collect();
    assert_eq!(times, [50 * MS, 65 * MS, 65 * MS]);
}

#[test]
fn an_outage_holds_in_both_directions_until_it_or_its_network_ends() {
    let start = Instant::now();
    let spec = NetworkSpec::from_yaml("events: [{at: 1s, outage: 10s}]").unwrap();
    let mut access = access(&spec, start);
    access.send_datagram(start, datagram("hole"));
    assert_eq!(all(&mut access, start).len(), 1);
    let arrived = |access: &mut Access<u32>, now| {
        access.send_datagram(now, datagram("up"));
        access.handle_datagram(now, MappingId(0), media(), Bytes::from_static(b"down"));
        all(access, now).len()
    };
    assert_eq!(arrived(&mut access, start + 999 * MS), 2);
    assert_eq!(arrived(&mut access, start + 1_000 * MS), 0);
    access.send_datagram(start + 1_000 * MS, datagram("up"));
    assert_eq!((access.stats().up.down, access.stats().down.down), (2, 1));
    access.set_spec(start + 2_000 * MS, &NetworkSpec::default());
    assert_eq!(arrived(&mut access, start + 2_000 * MS), 2);
    access.set_spec(start + 3_000 * MS, &spec);
    assert_eq!(arrived(&mut access, start + 13_999 * MS), 0);
    assert_eq!(arrived(&mut access, start + 14_000 * MS), 2);
}
