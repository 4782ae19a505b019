//! Each impairment against its definition.

use super::*;
use crate::{
    netsim::{
        CoDel, GilbertElliott,
        testing::{MS, expect_share},
    },
    rng::for_seeds,
};

/// Sends `count` packets of 1,000 B, one each `gap`, and gives (sent, arrived, number) in order of arrival.
fn run(config: LinkConfig, seed: u64, count: u32, gap: Duration) -> Vec<(Duration, Duration, u32)> {
    let start = Instant::now();
    let mut link = Link::new(config, seed);
    let mut arrivals = Vec::new();
    for number in 0..count {
        let now = start + gap * number;
        link.send(now, 1_000, (gap * number, number));
    }
    while let Some(at) = link.poll_timeout() {
        if let Some((sent, number)) = link.poll(at) {
            arrivals.push((sent, at - start, number));
        }
    }
    arrivals
}

#[test]
fn a_link_without_impairments_delivers_at_once() {
    let arrivals = run(LinkConfig::default(), 1, 10, MS);
    assert_eq!(arrivals.len(), 10);
    assert!(arrivals.iter().all(|(sent, arrived, _)| sent == arrived));
}

#[test]
fn as_many_packets_are_lost_and_doubled_as_configured() {
    for_seeds(3, |seed| {
        let count = |config| run(config, seed, 100_000, MS).len() as u64;
        let lost = 100_000 - count(LinkConfig { loss: 0.05.into(), ..Default::default() });
        expect_share("lost", lost, 100_000, 0.05, 1.0);
        let doubled = count(LinkConfig { duplicate: 0.05, ..Default::default() }) - 100_000;
        expect_share("doubled", doubled, 100_000, 0.05, 1.0);
        let both = LinkConfig { loss: 0.1.into(), duplicate: 0.2, ..Default::default() };
        // What is lost arrives neither once nor twice.
        let arrived = count(both);
        assert!((106_500..109_500).contains(&arrived), "{arrived}");
    });
}

#[test]
fn a_packet_takes_the_delay_and_its_jitter() {
    for_seeds(3, |seed| {
        let config =
            LinkConfig { delay: 50 * MS, jitter: (20 * MS).into(), reorder: true, ..Default::default() };
        let arrivals = run(config, seed, 100_000, MS);
        let delays = arrivals.iter().map(|(sent, arrived, _)| *arrived - *sent);
        assert!(delays.clone().all(|delay| (50 * MS..=70 * MS).contains(&delay)));
        for quarter in 0..4 {
            let (low, high) = (50 * MS + quarter * 5 * MS, 55 * MS + quarter * 5 * MS);
            let count = delays.clone().filter(|&delay| (low..high).contains(&delay)).count() as u64;
            expect_share(&format!("from {low:?}"), count, 100_000, 0.25, 1.0);
        }
    });
}

#[test]
fn jitter_reorders_only_if_it_may() {
    let config = LinkConfig { delay: 10 * MS, jitter: (30 * MS).into(), ..Default::default() };
    let in_order = run(config.clone(), 9, 10_000, MS);
    assert!(in_order.is_sorted_by_key(|(_, _, number)| *number));
    let reordered = run(LinkConfig { reorder: true, ..config }, 9, 10_000, MS);
    assert!(!reordered.is_sorted_by_key(|(_, _, number)| *number));
}

#[test]
fn a_bottleneck_passes_its_rate_within_one_percent() {
    // 1,000 B each ms are 8 Mbit/s; half of it passes.
    let rate = RateLimit { bits_per_second: 4_000_000, burst_bytes: 3_000, queue_bytes: 50_000, codel: None };
    let arrivals = run(LinkConfig { rate: Some(rate), ..Default::default() }, 2, 20_000, MS);
    let last = arrivals.last().unwrap().1;
    let bits = arrivals.len() as f64 * 8_000.0 / last.as_secs_f64();
    assert!((3_960_000.0..4_040_000.0).contains(&bits), "{bits}");
}

#[test]
fn a_full_queue_drops_and_delays_no_longer_than_it_holds() {
    let start = Instant::now();
    let rate = RateLimit { bits_per_second: 8_000_000, burst_bytes: 0, queue_bytes: 10_000, codel: None };
    let mut link = Link::new(LinkConfig { rate: Some(rate), ..Default::default() }, 1);
    let fates: Vec<Fate> = (0..20).map(|number| link.send(start, 1_000, number)).collect();
    assert!(fates[..10].iter().all(|fate| *fate == Fate::Waits));
    assert!(fates[10..].iter().all(|fate| *fate == Fate::QueueFull));
    assert_eq!(link.queued_bytes(), 10_000);
    assert_eq!(link.send(start + 5 * MS, 1_000, 20), Fate::Waits);
    assert_eq!(link.stats().queue_full, 10);
    let arrivals: Vec<_> = std::iter::from_fn(|| {
        let at = link.poll_timeout()?;
        link.poll(at).map(|number| (at - start, number))
    })
    .collect();
    assert_eq!(arrivals[9..], [(10 * MS, 9), (11 * MS, 20)]);
}

#[test]
fn a_burst_passes_at_once_after_a_pause() {
    let start = Instant::now();
    let rate = RateLimit { bits_per_second: 8_000_000, burst_bytes: 3_000, queue_bytes: 10_000, codel: None };
    let mut link = Link::new(LinkConfig { rate: Some(rate), ..Default::default() }, 1);
    let mut burst = |now| (0..4).map(|_| link.send(now, 1_000, ())).collect::<Vec<_>>();
    let at_once = |now| Fate::Arrives(now);
    assert_eq!(burst(start), [at_once(start), at_once(start), at_once(start), Fate::Waits]);
    let later = start + 100 * MS;
    assert_eq!(burst(later)[..3], [at_once(later), at_once(later), at_once(later)]);
}

#[test]
fn the_same_seed_gives_the_same_packets_and_another_seed_others() {
    let config = LinkConfig {
        delay: 20 * MS,
        jitter: (15 * MS).into(),
        reorder: true,
        loss: 0.1.into(),
        duplicate: 0.1,
        mtu: None,
        rate: Some(RateLimit {
            bits_per_second: 20_000_000,
            burst_bytes: 5_000,
            queue_bytes: 50_000,
            codel: None,
        }),
    };
    assert_eq!(run(config.clone(), 5, 5_000, MS), run(config.clone(), 5, 5_000, MS));
    assert_ne!(run(config.clone(), 5, 5_000, MS), run(config, 6, 5_000, MS));
}

/// Each of these, added to the others, must leave alone which packets are lost, doubled, and how late each is.
#[test]
fn an_impairment_that_is_added_changes_nothing_about_the_others() {
    type Add = fn(&mut LinkConfig);
    let loss: Add = |link| link.loss = 0.2.into();
    let bursts: Add = |link| link.loss = Loss::Bursty(GilbertElliott::from_mean(0.1, 4.0));
    let duplicates: Add = |link| link.duplicate = 0.3;
    let jitter: Add = |link| link.jitter = (40 * MS).into();
    let tail: Add = |link| link.jitter = Jitter::Pareto { mean: 4 * MS };
    let delay: Add = |link| link.delay = 30 * MS;
    let big: Add = |link| link.mtu = Some(1_500);
    let fast: Add = |link| {
        link.rate = Some(RateLimit {
            bits_per_second: u64::MAX,
            burst_bytes: 0,
            queue_bytes: 1_000_000,
            codel: None,
        });
    };
    let with = |adds: &[Add]| {
        let mut link = LinkConfig { reorder: true, ..LinkConfig::default() };
        adds.iter().for_each(|add| add(&mut link));
        link
    };
    for_seeds(3, |seed| {
        let how_often = |adds: &[Add]| {
            let mut counts = vec![0; 3_000];
            run(with(adds), seed, 3_000, MS).iter().for_each(|(_, _, number)| counts[*number as usize] += 1);
            counts
        };
        for model in [loss, bursts] {
            let lost = how_often(&[model]);
            for other in [jitter, tail, delay, big, fast] {
                assert_eq!(lost, how_often(&[other, model]));
            }
            let with_duplicates = how_often(&[model, duplicates]);
            assert!(lost.iter().zip(&with_duplicates).all(|(one, other)| (*one == 0) == (*other == 0)));
            let doubled = how_often(&[duplicates]);
            let pairs = doubled.iter().zip(&with_duplicates);
            assert!(pairs.filter(|(_, left)| **left > 0).all(|(all, left)| all == left));
        }
        for kind in [jitter, tail] {
            let delays = |adds: &[Add], less: Duration| {
                let arrivals = run(with(adds), seed, 3_000, MS).into_iter();
                arrivals.map(|(sent, arrived, number)| (number, arrived - sent - less)).collect::<Vec<_>>()
            };
            let mut all = delays(&[kind], Duration::ZERO);
            all.sort();
            assert!(delays(&[kind, loss], Duration::ZERO).iter().all(|one| all.binary_search(one).is_ok()));
            assert!(delays(&[kind, delay], 30 * MS).iter().all(|one| all.binary_search(one).is_ok()));
        }
    });
}

#[test]
fn what_is_larger_than_the_mtu_vanishes() {
    let start = Instant::now();
    let mut link = Link::new(LinkConfig { mtu: Some(1_280), ..Default::default() }, 1);
    assert_eq!(link.send(start, 1_280, 'a'), Fate::Arrives(start));
    assert_eq!(link.send(start, 1_281, 'b'), Fate::TooBig);
    assert_eq!((link.poll(start), link.poll(start)), (Some('a'), None));
    assert_eq!(link.stats().too_big, 1);
}

/// Packets of all sizes, more of them than pass.
#[test]
fn bottlenecks_of_all_speeds_pass_their_rate_within_one_percent() {
    for_seeds(3, |seed| {
        let codel = Some(CoDel::default());
        for (kilobits, codel) in
            [(300, None), (5_000, None), (5_000, codel), (100_000, None), (100_000, codel)]
        {
            let bits_per_second = kilobits * 1_000;
            let rate = RateLimit { bits_per_second, burst_bytes: 3_000, queue_bytes: 60_000, codel };
            let start = Instant::now();
            let mut link = Link::new(LinkConfig { rate: Some(rate), ..Default::default() }, seed);
            let mut sizes = Rng::new(seed);
            let (mut now, mut passed) = (start, 0);
            while now < start + 20_000 * MS {
                let size = 100 + sizes.below(1_400) as usize;
                link.send(now, size, size);
                now += rate.time_for(size).mul_f64(0.8);
                while let Some(size) = link.poll(now) {
                    passed += size;
                }
            }
            let ratio = passed as f64 * 8.0 / (now - start).as_secs_f64() / bits_per_second as f64;
            assert!((0.99..1.01).contains(&ratio), "{kilobits} {codel:?}: {ratio}");
        }
    });
}

/// What is put into a link of 12 Mbit/s, in packets that take 1 ms each, and how long each of them waited.
fn waits(codel: Option<CoDel>, sendings: impl Iterator<Item = Duration>) -> (Vec<Duration>, LinkStats) {
    let start = Instant::now();
    let rate = RateLimit { bits_per_second: 12_000_000, burst_bytes: 0, queue_bytes: 1_500_000, codel };
    let mut link = Link::new(LinkConfig { rate: Some(rate), ..Default::default() }, 1);
    let mut waits = Vec::new();
    let mut until = |link: &mut Link<Instant>, end: Instant| {
        while let Some(at) = link.poll_timeout().filter(|at| *at <= end) {
            waits.extend(link.poll(at).map(|sent| at - sent));
        }
    };
    for sending in sendings {
        until(&mut link, start + sending);
        link.send(start + sending, 1_500, start + sending);
    }
    until(&mut link, start + 1_000_000 * MS);
    (waits, link.stats())
}

#[test]
fn codel_lets_short_bursts_pass_untouched() {
    // Bursts of 60 packets, which take 60 ms, every 200 ms.
    let bursts = || (0..100).flat_map(|burst| std::iter::repeat_n(burst * 200 * MS, 60));
    let (managed, stats) = waits(Some(CoDel::default()), bursts());
    assert_eq!(stats.codel_dropped, 0);
    assert_eq!(managed, waits(None, bursts()).0);
}

#[test]
fn codel_drops_first_after_an_interval_above_the_target_and_then_ever_more_often() {
    let start = Instant::now();
    let rate = RateLimit {
        bits_per_second: 12_000_000,
        burst_bytes: 0,
        queue_bytes: 1_500_000,
        codel: Some(CoDel::default()),
    };
    let mut link = Link::new(LinkConfig { rate: Some(rate), ..Default::default() }, 1);
    let mut drops = Vec::new();
    // Five packets every 4 ms: a quarter too many.
    for tick in 0..500 {
        let now = start + tick * 4 * MS;
        while link.poll(now).is_some() {}
        if link.stats().codel_dropped > drops.len() as u64 {
            drops.push(now - start);
        }
        for _ in 0..5 {
            link.send(now, 1_500, ());
        }
    }
    // The sojourn time passes 5 ms after some 16 ms, and one interval later the first packet goes. The next ones follow
    // after 100 ms / √n (RFC 8289).
    assert!((100 * MS..140 * MS).contains(&drops[0]), "{drops:?}");
    for (number, pair) in drops.windows(2).take(6).enumerate() {
        let expected = (100 * MS).div_f64(((number + 1) as f64).sqrt());
        assert!((pair[1] - pair[0]).abs_diff(expected) <= 5 * MS, "{number}: {drops:?}");
    }
}

#[test]
fn codel_ends_a_standing_queue_and_drop_tail_does_not() {
    // Two percent too much for ten seconds, after a queue of 100 ms was built.
    let steady = || {
        std::iter::repeat_n(Duration::ZERO, 100).chain((0..10_200).map(|n| n * Duration::from_micros(980)))
    };
    let median = |codel| {
        let mut waits = waits(codel, steady()).0.split_off(2_000);
        waits.sort();
        waits[waits.len() / 2]
    };
    assert!(median(None) > 150 * MS);
    assert!(median(Some(CoDel::default())) < 10 * MS, "{:?}", median(Some(CoDel::default())));
}

#[test]
fn what_is_on_a_link_that_is_cut_never_arrives() {
    let start = Instant::now();
    let rate = RateLimit { bits_per_second: 8_000_000, burst_bytes: 0, queue_bytes: 10_000, codel: None };
    let mut link = Link::new(LinkConfig { delay: 10 * MS, rate: Some(rate), ..Default::default() }, 1);
    for number in 0..5 {
        link.send(start, 1_000, number);
    }
    link.cut(start + 2 * MS);
    link.send(start + 2 * MS, 1_000, 9);
    assert_eq!((link.poll(start + 100 * MS), link.poll(start + 100 * MS)), (Some(9), None));
    assert_eq!(link.stats().down, 5);
}

#[test]
fn nothing_enters_a_link_that_is_down_and_what_was_under_way_arrives() {
    let start = Instant::now();
    let mut link = Link::new(LinkConfig { delay: 50 * MS, ..Default::default() }, 1);
    link.take_down(start + 10 * MS, start + 20 * MS);
    assert_eq!(link.send(start + 9 * MS, 100, 'a'), Fate::Arrives(start + 59 * MS));
    assert_eq!(link.send(start + 10 * MS, 100, 'b'), Fate::Down);
    assert_eq!(link.send(start + 19 * MS, 100, 'c'), Fate::Down);
    assert_eq!(link.send(start + 20 * MS, 100, 'd'), Fate::Arrives(start + 70 * MS));
    assert_eq!(link.poll(start + 100 * MS), Some('a'));
    assert_eq!(link.poll(start + 100 * MS), Some('d'));
    assert_eq!(link.poll(start + 100 * MS), None);
}
