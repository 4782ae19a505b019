//! Users and the account of them in simulated time: what a faultless relay gives no finding, and every planted fault is
//! named.

use std::time::{Duration, Instant};

use super::{
    Data, Does, Messages, Pace, Plan, Stall,
    world::{Fault, MS, SECOND, World},
};
use crate::{account::Settings, browser::Lane, figures::Report, rng::Rng};

/// Everybody has come by then …
const BEGIN: Duration = Duration::from_secs(3);

struct Scenario {
    rooms: u32,
    users: u32,
    lane: Lane,
    gap: Duration,
    span: Duration,
    messages: bool,
    udp: bool,
}

impl Default for Scenario {
    fn default() -> Self {
        Self {
            rooms: 2,
            users: 12,
            lane: Lane::Reliable,
            gap: 50 * MS,
            span: 20 * SECOND,
            messages: false,
            udp: false,
        }
    }
}

impl Scenario {
    fn pace(&self, start: Instant) -> Pace {
        let end = start + BEGIN + self.span;
        Pace { start: start + BEGIN, interval: self.gap, random: true, end }
    }

    fn plan(&self, start: Instant, seed: u64, number: u32) -> Plan {
        let pace = Some(self.pace(start));
        let does = if self.messages {
            Does::Messages(Messages { size: 120, pace })
        } else {
            Does::Data(Data { lane: self.lane, stream: 1, size: 64, pace })
        };
        let room = format!("room-{}", number % self.rooms);
        let (udp, seed) = (self.udp, seed * 1000 + u64::from(number));
        Plan { number, group: 0, network: 0, room, udp, seed, does: vec![does] }
    }

    fn world(&self, seed: u64) -> World {
        let start = Instant::now();
        let hold = (BEGIN, BEGIN + self.span);
        let windows = vec![("first half".to_owned(), BEGIN, BEGIN + self.span / 2)];
        let mut world = World::new(seed, start, Settings { groups: vec!["all".to_owned()], windows, hold });
        for number in 0..self.users {
            world.add(self.plan(start, seed, number), MS * 10 * number, None);
        }
        world
    }

    fn report(&self, seed: u64, fault: Fault) -> Report {
        let mut world = self.world(seed);
        world.fault = fault;
        world.run(BEGIN + self.span + 2 * SECOND);
        world.finish()
    }
}

fn report(fault: Fault) -> Report {
    Scenario::default().report(1, fault)
}

/// The only finding.
fn named(report: &Report) -> (&str, &str) {
    let [finding] = &report.findings[..] else { panic!("{:#?}", report.findings) };
    (&finding.kind, &finding.sentence)
}

#[test]
fn without_a_fault_every_message_is_accounted_for_and_nothing_is_found() {
    for seed in 0..5 {
        let scenario =
            Scenario { lane: [Lane::Reliable, Lane::Lossy][seed as usize % 2], ..Scenario::default() };
        let report = scenario.report(seed, Fault::default());
        assert!(report.findings.is_empty(), "seed {seed}: {:#?}", report.findings);
        let lane = report.lanes.values().next().unwrap();
        assert!(
            lane.sent > 4000 && lane.expected == lane.sent * 5 && lane.received == lane.expected,
            "{lane:?}"
        );
        assert_eq!((lane.unsent, lane.lost), (0, 0));
        assert_eq!(lane.latency.count, lane.received);
        assert!((2.0..4.5).contains(&lane.latency.p50_ms), "{:?}", lane.latency);
        assert_eq!((report.users.planned, report.users.joined, report.users.left), (12, 12, 12));
        assert_eq!((report.connect.attempts, report.connect.succeeded), (12, 12));
        assert!(report.errors.is_empty(), "{:?}", report.errors);
        let (sent, received): (u64, u64) =
            report.timeline.iter().fold((0, 0), |sum, second| (sum.0 + second.sent, sum.1 + second.received));
        assert_eq!((sent, received), (lane.sent, lane.received));
        let window = &report.windows["first half"];
        assert!(window.received.abs_diff(lane.received / 2) < 1500 && window.groups["all"] == window.latency);
    }
}

#[test]
fn a_server_that_drops_one_message_in_a_thousand_is_named() {
    let report = report(Fault { drop_every: Some(1000), ..Fault::default() });
    let (kind, sentence) = named(&report);
    let lane = &report.lanes["reliable"];
    assert_eq!((kind, lane.lost), ("lost", lane.sent / 1000 * 5), "{lane:?}");
    assert!(
        sentence.contains(&format!("{} of 2", lane.lost)) && sentence.contains("about 1 in 1,"),
        "{sentence}"
    );
    assert!(sentence.contains("and all receivers, each at all of its receivers"), "{sentence}");
    assert!(sentence.ends_with("the server or the way to it drops them at random"), "{sentence}");
    assert!(report.findings[0].examples[0].starts_with("user "), "{:?}", report.findings[0].examples);
}

#[test]
fn losses_behind_the_fan_out_are_told_from_those_before_it() {
    let report = report(Fault { drop_behind: Some(1000), ..Fault::default() });
    let (kind, sentence) = named(&report);
    assert_eq!(kind, "lost");
    assert!(sentence.contains("each at one of its receivers: the server"), "{sentence}");
}

#[test]
fn all_of_one_sender_receiver_or_room_lost_is_named_as_that() {
    for lane in [Lane::Reliable, Lane::Lossy] {
        let scenario = Scenario { lane, ..Scenario::default() };
        let from = scenario.report(1, Fault { drop_from: Some(7), ..Fault::default() });
        let (_, sentence) = named(&from);
        assert!(
            sentence.starts_with("all ") && sentence.contains("messages sent by user 7 were lost"),
            "{sentence}"
        );
        let room = scenario.report(1, Fault { drop_room: Some("room-1".to_owned()), ..Fault::default() });
        let (_, sentence) = named(&room);
        assert!(sentence.contains("messages in room room-1 were lost"), "{sentence}");
    }
    let to = report(Fault { drop_to: Some(7), ..Fault::default() });
    let (_, sentence) = named(&to);
    assert!(
        sentence.contains("lost, about 1 in ") && sentence.contains("all of them for user 7"),
        "{sentence}"
    );
}

#[test]
fn losses_within_a_short_time_are_named_with_it() {
    let report = report(Fault { drop_between: Some((10 * SECOND, 11 * SECOND)), ..Fault::default() });
    let (kind, sentence) = named(&report);
    assert_eq!(kind, "lost");
    assert!(
        sentence.contains("all sent between 9.75 s and 11.")
            || sentence.contains("all sent between 10.00 s and 11."),
        "{sentence}"
    );
    assert!(!sentence.contains("at random"), "{sentence}");
}

#[test]
fn a_message_passed_on_twice_is_named_with_its_number() {
    for lane in [Lane::Reliable, Lane::Lossy] {
        let report = Scenario { lane, ..Scenario::default() }
            .report(1, Fault { double: Some(500), ..Fault::default() });
        let (kind, sentence) = named(&report);
        assert_eq!(kind, "doubled");
        let expected = "1 message was received twice by 5 receivers: user ";
        assert!(sentence.starts_with(expected) && sentence.contains("'s number "), "{sentence}");
    }
}

#[test]
fn two_messages_passed_on_the_wrong_way_round_are_named_on_the_reliable_lane() {
    let fault = Fault { swap: Some(500), ..Fault::default() };
    let found = report(fault.clone());
    let (kind, sentence) = named(&found);
    assert_eq!((kind, found.lanes["reliable"].out_of_order), ("reordered", 5), "{sentence}");
    let lossy = Scenario { lane: Lane::Lossy, ..Scenario::default() }.report(1, fault);
    assert_eq!((lossy.findings.len(), lossy.lanes["lossy"].out_of_order), (0, 5));
}

#[test]
fn an_altered_message_and_one_that_strays_into_another_room_are_named() {
    let altered = report(Fault { alter: Some(500), ..Fault::default() });
    let (kind, sentence) = named(&altered);
    assert_eq!((kind, altered.lanes["reliable"].altered), ("altered", 5), "{sentence}");
    let strayed = report(Fault { stray: Some(500), ..Fault::default() });
    let (kind, sentence) = named(&strayed);
    assert_eq!((kind, strayed.lanes["reliable"].foreign), ("foreign", 6), "{sentence}");
}

#[test]
fn a_sender_a_receiver_and_a_room_that_are_delayed_are_named() {
    let delay = 250 * MS;
    for lane in [Lane::Reliable, Lane::Lossy] {
        let report = |fault| {
            Scenario { lane, rooms: 4, users: 24, span: 10 * SECOND, ..Scenario::default() }.report(1, fault)
        };
        let sender = report(Fault { delay_from: Some((3, delay)), ..Fault::default() });
        let (kind, sentence) = named(&sender);
        assert_eq!(kind, "late_sender");
        assert!(sentence.starts_with("messages of user 3 take 25"), "{sentence}");
        assert!(
            sentence.contains(" ms at the median") && sentence.contains("those of others "),
            "{sentence}"
        );
        let receiver = report(Fault { delay_to: Some((3, delay)), ..Fault::default() });
        let (kind, sentence) = named(&receiver);
        assert_eq!(kind, "late_receiver");
        assert!(sentence.starts_with("messages to user 3 take 25"), "{sentence}");
        let room = report(Fault { delay_room: Some(("room-2".to_owned(), delay)), ..Fault::default() });
        let (kind, sentence) = named(&room);
        assert_eq!(kind, "late_room");
        assert!(sentence.starts_with("messages in room room-2 take 25"), "{sentence}");
    }
}

// ---- the log

fn log_report(fault: Fault) -> Report {
    Scenario { messages: true, span: 10 * SECOND, ..Scenario::default() }.report(1, fault)
}

#[test]
fn without_a_fault_every_durable_message_is_in_the_log_once_and_with_every_reader() {
    for seed in 0..3 {
        let scenario = Scenario { messages: true, span: 10 * SECOND, ..Scenario::default() };
        let report = scenario.report(seed, Fault::default());
        assert!(report.findings.is_empty(), "seed {seed}: {:#?}", report.findings);
        let lane = &report.lanes["messages"];
        assert!(lane.sent > 2000 && lane.accepted == lane.sent && lane.refused == 0, "{lane:?}");
        // The author reads its own as well.
        assert_eq!((lane.expected, lane.received), (lane.sent * 6, lane.sent * 6));
        assert_eq!((lane.accepted_after.count, lane.latency.count), (lane.accepted, lane.received));
    }
}

#[test]
fn faults_of_the_log_are_named() {
    type Of = fn(&crate::figures::Lane) -> u64;
    let faults: [(Fault, &str, &str, Of, u64); 7] = [
        (
            Fault { vanish: Some(300), ..Fault::default() },
            "lost",
            "1 durable message acknowledged as durable and not in the log as acknowledged",
            |lane| lane.lost,
            1,
        ),
        (
            Fault { commit_twice: Some(300), ..Fault::default() },
            "doubled",
            "1 durable message more than once in the log",
            |lane| lane.doubled,
            1,
        ),
        (
            Fault { show_altered: Some(300), ..Fault::default() },
            "altered",
            "2 durable messages of the log arrived with other contents than were written",
            |lane| lane.altered,
            2,
        ),
        (
            Fault { show_other: Some(300), ..Fault::default() },
            "altered",
            "2 durable messages of the log read differently by readers",
            |lane| lane.altered,
            2,
        ),
        (
            Fault { hide_from: Some((4, 300)), ..Fault::default() },
            "lost",
            "never reached a reader",
            |lane| u64::from(lane.lost > 100),
            1,
        ),
        (
            Fault { ignore: Some(4), ..Fault::default() },
            "unanswered",
            "never answered",
            |lane| u64::from(lane.sent - lane.accepted > 100),
            1,
        ),
        (Fault::default(), "", "", |lane| lane.lost + lane.altered + lane.doubled, 0),
    ];
    for (fault, kind, words, of, count) in faults {
        let report = log_report(fault.clone());
        let lane = &report.lanes["messages"];
        assert_eq!(of(lane), count, "{fault:?}: {lane:?}");
        if !kind.is_empty() {
            // A writer that gets no events lacks the answers that they are, too.
            let others = usize::from(fault.hide_from.is_some());
            assert_eq!(report.findings.len(), 1 + others, "{fault:?}: {:#?}", report.findings);
            let worst = &report.findings[0];
            assert!(worst.kind == kind && worst.sentence.contains(words), "{fault:?}: {worst:?}");
            assert!(!worst.examples.is_empty());
        }
    }
}

// ---- what befalls users

#[test]
fn what_the_server_drops_for_a_slow_receiver_is_missing_as_told_and_not_lost() {
    let scenario = Scenario { rooms: 1, users: 6, gap: 20 * MS, span: 25 * SECOND, ..Scenario::default() };
    let (start, seed) = (Instant::now(), 3);
    let mut world = World::new(seed, start, Settings::default());
    for number in 0..scenario.users {
        let mut plan = scenario.plan(start, seed, number);
        let Does::Data(data) = &mut plan.does[0] else { unreachable!() };
        (data.size, data.pace) = (2000, data.pace.filter(|_| number > 0));
        if number == 0 {
            plan.does.push(Does::Stall(Stall { at: start + 5 * SECOND, length: 12 * SECOND, every: None }));
        }
        world.add(plan, Duration::ZERO, None);
    }
    world.run(40 * SECOND);
    let report = world.finish();
    let lane = &report.lanes["reliable"];
    let (kind, sentence) = named(&report);
    assert_eq!(kind, "told_missing");
    let expected = format!("the server told user 0 that it had dropped {},", lane.told_missing / 1000);
    assert!(sentence.starts_with(&expected), "{sentence}");
    assert!(lane.told_missing > 1000 && lane.lost == 0, "{lane:?}");
    assert_eq!(lane.expected, lane.received + lane.told_missing);
    assert!((11_000.0..12_500.0).contains(&lane.latency.max_ms), "{:?}", lane.latency);
}

#[test]
fn latency_counts_from_when_a_message_was_due_and_what_could_not_be_sent_is_counted() {
    let scenario = Scenario { rooms: 1, users: 2, ..Scenario::default() };
    for (back, lane) in [(true, Lane::Reliable), (false, Lane::Reliable), (true, Lane::Lossy)] {
        let scenario = Scenario { lane, ..scenario };
        let mut world = scenario.world(1);
        world.run(BEGIN + 5 * SECOND);
        world.forget(0);
        // The relay takes nobody for a while: what is due has no session to go to.
        world.restart(if back { 6 * SECOND } else { 60 * SECOND });
        world.run(BEGIN + scenario.span + 8 * SECOND);
        let report = world.finish();
        let of = report.lanes.values().next().unwrap();
        assert!(report.findings.is_empty(), "{:#?}", report.findings);
        let due = of.sent + of.unsent;
        assert!((650..950).contains(&due), "{of:?}");
        match (back, lane) {
            (true, Lane::Reliable) => assert!(of.unsent == 0 && of.latency.max_ms > 5_000.0, "{of:?}"),
            (true, Lane::Lossy) => assert!(of.latency.max_ms < 100.0, "{of:?}"),
            (false, _) => assert!(of.unsent > 450 && report.recovery.unrecovered == 2, "{of:?}"),
        }
    }
}

#[test]
fn recovery_counts_from_the_loss_until_frames_go_again_and_by_what_was_lost() {
    for udp in [false, true] {
        let mut world = Scenario { rooms: 1, users: 2, udp, ..Scenario::default() }.world(1);
        world.run(BEGIN + SECOND);
        assert_eq!(world.seats[0].user.rung(), if udp { "udp" } else { "websocket" });
        assert!(world.seats[0].user.is_ready());
        world.cut(0);
        world.run(BEGIN + 4 * SECOND);
        world.forget(1);
        world.run(BEGIN + 8 * SECOND);
        world.change_address(0);
        world.run(BEGIN + 12 * SECOND);
        world.take_away(0, 8 * SECOND);
        world.run(BEGIN + 35 * SECOND);
        let report = world.finish();
        assert!(report.findings.is_empty(), "{:#?}", report.findings);
        let causes: Vec<&str> = report.recovery.by_cause.keys().map(String::as_str).collect();
        let times = |cause| &report.recovery.by_cause[cause];
        if udp {
            // The address was changed, and the network was away: neither costs the session anything. Whichever pipe was in
            // use when that was noticed is the one that was lost.
            assert!(causes.contains(&"channel") && causes.contains(&"session"), "{causes:?}");
            assert!((2..=4).contains(&report.recovery.times.count), "{:?}", report.recovery);
            assert!((7_500.0..14_000.0).contains(&report.recovery.times.max_ms), "{:?}", report.recovery);
        } else {
            assert_eq!(causes, ["session", "socket"]);
            // Broken, with a new address, and away.
            assert_eq!(times("socket").count, 3, "{:?}", report.recovery);
            assert!((7_500.0..14_000.0).contains(&times("socket").max_ms), "{:?}", report.recovery);
        }
        assert_eq!((times("session").count, report.users.sessions_lost), (1, 1));
        assert!(times("session").max_ms < 20_000.0 && report.recovery.unrecovered == 0);
        let stages = &report.connect.stages;
        let expected = if udp { 7 } else { 4 };
        assert_eq!(stages.len(), expected, "{:?}", stages.keys());
        assert!(stages.values().all(|times| times.count == 2));
        assert!(stages["websocket"].p50_ms < stages["joined"].p50_ms);
        assert!(stages["joined"].p50_ms <= stages["ready"].p50_ms);
    }
}

#[test]
fn a_user_whose_server_is_not_there_tries_until_it_leaves() {
    let mut world = Scenario { rooms: 1, users: 2, ..Scenario::default() }.world(1);
    world.restart(3600 * SECOND);
    world.run(BEGIN + 20 * SECOND);
    let report = world.finish();
    assert_eq!((report.connect.attempts, report.connect.succeeded, report.users.failed), (2, 0, 2));
    assert_eq!(report.connect.failures.get("socket: connection refused"), Some(&2), "{:?}", report.connect);
    let tries = report.errors["socket: connection refused"];
    assert!((10..30).contains(&tries), "backing off: {tries}");
}

/// Churn, broken and silent connections, lost sessions, changed addresses, stalls and restarts, at random.
fn troubled(scenario: &Scenario, seed: u64, fault: Fault) -> Report {
    let mut world = scenario.world(seed);
    let (start, mut rng) = (world.start, Rng::new(seed));
    // Some come late, some leave early, one stalls.
    for number in scenario.users..scenario.users + 6 {
        let mut plan = scenario.plan(start, seed, number);
        let comes = BEGIN + MS * rng.below(12_000) as u32;
        let stays = MS * (4_000 + rng.below(10_000) as u32);
        if number % 3 == 0 {
            let (at, length) = (start + comes + SECOND, MS * (100 + rng.below(4_000) as u32));
            plan.does.push(Does::Stall(Stall { at, length, every: Some(length * 2) }));
        }
        world.add(plan, comes, Some(comes + stays));
    }
    world.fault = fault;
    world.run(BEGIN);
    let end = BEGIN + scenario.span;
    while world.now - start < end {
        let seat = rng.below(world.seats.len() as u64) as usize;
        match rng.below(20) {
            0..8 => world.cut(seat),
            8..11 => world.take_away(seat, MS * rng.below(9_000) as u32),
            11..14 => world.forget(seat),
            14..19 => world.change_address(seat),
            _ => world.restart(MS * rng.below(2_000) as u32),
        }
        let pause = MS * (50 + rng.below(800) as u32);
        let until = world.now - start + pause;
        world.run(until);
    }
    // Whoever is away when all is over is not judged for what came last: there is time to come back.
    let until = world.now - start + 45 * SECOND;
    world.run(until);
    let there = &world.seats[..scenario.users as usize];
    assert!(
        there.iter().all(|seat| seat.user.record.outage.is_none()),
        "seed {seed}: everybody has come back"
    );
    world.finish()
}

#[test]
fn no_trouble_of_users_looks_like_a_fault_of_the_server() {
    let (mut lost, mut recovered) = (0, 0);
    for seed in 0..20 {
        let lane = [Lane::Reliable, Lane::Reliable, Lane::Lossy][seed as usize % 3];
        let scenario = Scenario { lane, udp: seed % 5 == 4, messages: seed % 4 == 3, ..Scenario::default() };
        let report = troubled(&scenario, seed, Fault::default());
        assert!(report.findings.is_empty(), "seed {seed}: {:#?}", report.findings);
        assert!(report.recovery.times.count > 10, "seed {seed}: {:?}", report.recovery);
        lost += report.users.sessions_lost;
        recovered += report.recovery.times.count;
    }
    assert!(lost > 60 && recovered > 300, "{lost} {recovered}");
}

#[test]
fn a_fault_is_found_among_all_troubles() {
    for seed in 0..6 {
        let report =
            troubled(&Scenario::default(), seed, Fault { drop_every: Some(500), ..Fault::default() });
        let (kind, _) = named(&report);
        assert_eq!(kind, "lost", "seed {seed}");
        let lane = &report.lanes["reliable"];
        let dropped = lane.sent / 500;
        // At the edges of memberships nobody can tell; that is a small part.
        assert!(
            (dropped * 2..dropped * 9).contains(&lane.lost),
            "seed {seed}: {} of {dropped} messages",
            lane.lost
        );
        let report = troubled(&Scenario::default(), seed, Fault { double: Some(2000), ..Fault::default() });
        assert_eq!(named(&report).0, "doubled", "seed {seed}");
    }
}
