//! Tests of scenarios: that shipped ones are read, that mistakes are named, and who comes when.

use std::time::Instant;

use super::{
    schedule::{Coming, coming},
    *,
};
use crate::user::Does;

fn scenario(yaml: &str) -> Scenario {
    Scenario::parse("test", yaml).unwrap_or_else(|error| panic!("{error}"))
}

fn error(yaml: &str) -> String {
    Scenario::parse("test", yaml).unwrap_err().to_string()
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn shipped_scenarios_are_read_and_people_come() {
    for name in shipped::names() {
        let scenario = Scenario::load(name).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(scenario.name, name);
        assert!(!scenario.bounds.is_empty() && !scenario.description.is_empty(), "{name}");
        let users: u32 = scenario.groups.iter().map(|group| group.users).sum();
        assert!(coming(&scenario, 1).len() >= users as usize, "{name}");
    }
}

#[test]
fn a_scenario_that_is_not_there_is_answered_with_those_that_are() {
    let error = Scenario::load("50-readers").unwrap_err().to_string();
    assert!(error.contains("there is no scenario 50-readers") && error.contains("50-writers"), "{error}");
}

#[test]
fn a_mistake_in_form_is_named_with_its_place() {
    for (yaml, words) in [
        ("description: a\nhold: 10s\nrump: 5s\ngroups: []\n", &["rump", "ramp"][..]),
        ("description: a\nhold: 10\ngroups: []\n", &["10 is no time", "a number with"]),
        ("description: a\nhold: 1s\ngroups:\n  - {name: a, users: -1}\n", &["3"]),
        (
            "description: a\nhold: 1s\ngroups:\n  - {name: a, users: 1, transport: pigeon}\n",
            &["pigeon", "websocket"],
        ),
        ("description: a\nhold: 1s\ngroups: []\nwindows: {a: 5s..1s}\n", &["5s..1s", "10s..30s"]),
        ("description: a\nhold: 1s\ngroups: []\nbounds: [a = 0]\n", &["one of <, <=", "before \"= 0\""]),
        ("hold: 1s\ngroups: []\n", &["description"]),
    ] {
        let error = error(yaml);
        assert!(words.iter().all(|word| error.contains(word)), "{yaml}: {error}");
    }
}

#[test]
fn a_contradiction_is_named_with_what_would_be_right() {
    let with = |groups: &str, rest: &str| format!("description: a\nhold: 10s\ngroups: [{groups}]\n{rest}");
    for (yaml, words) in [
        (with("", ""), "groups is empty"),
        (with("{name: a}", ""), "group a: users is 0"),
        (with("{name: a, users: 1}, {name: a, users: 1}", ""), "there are two of this name"),
        (with("{name: a/b, users: 1}", ""), "letters, digits, hyphens"),
        (with("{name: a, users: 4, rooms: 2, per_room: 2}", ""), "choose one"),
        (with("{name: a, users: 4, arrivals: {rate: 1, stays: 1s}}", ""), "leave users out"),
        (with("{name: a, users: 4, does: [{data: {rate: 1, size: 1MB}}]}", ""), "data.size is 1000000"),
        (
            with("{name: a, users: 4, does: [{data: {lane: lossy, rate: 1, size: 16KiB}}]}", ""),
            "data.size is 16384",
        ),
        (with("{name: a, users: 4, does: [{stall: {at: 1s, for: 2s, every: 1s}}]}", ""), "stall.every"),
        (with("{name: a, users: 1}", "events: [{at: 1s}]"), "exactly one of restart"),
        (with("{name: a, users: 1}", "events: [{at: 11s, restart: {}}]"), "after the hold"),
        (with("{name: a, users: 1}", "events: [{at: 1s, address: {group: b}}]"), "there is no group b"),
        (with("{name: a, users: 1}", "windows: {late: 5s..11s}"), "windows.late ends after the hold"),
        (with("{name: a, users: 1}", "attacks: [{kind: flood, for: 20s}]"), "an attack ends after"),
    ] {
        let error = error(&yaml);
        assert!(error.contains(words), "{yaml}: {error}");
    }
}

#[test]
fn users_fill_rooms_evenly_and_arrive_over_the_ramp() {
    let scenario = scenario(
        "{description: a, ramp: 10s, settle: 1s, hold: 20s, groups: [{name: a, users: 10, per_room: 4}]}",
    );
    let all = coming(&scenario, 1);
    let of_room = |room| all.iter().filter(|coming| coming.room == room).count();
    assert_eq!([of_room(0), of_room(1), of_room(2)], [4, 3, 3]);
    let times: Vec<_> = all.iter().map(|coming| coming.at).collect();
    assert_eq!(times, (0..10).map(|second| second * SECOND).collect::<Vec<_>>());
    assert!(all.iter().enumerate().all(|(at, coming)| coming.number == at as u32 && coming.leaves.is_none()));
    assert_eq!(scenario.hold_span(), (11 * SECOND, 31 * SECOND));
}

#[test]
fn the_same_seed_gives_the_same_people() {
    let churn = Scenario::load("churn").unwrap();
    assert_eq!(coming(&churn, 7), coming(&churn, 7));
    assert_ne!(coming(&churn, 7), coming(&churn, 8));
}

#[test]
fn churn_replaces_whoever_leaves_in_the_same_place() {
    let scenario = scenario(
        "{description: a, ramp: 0s, settle: 0s, hold: 60s, \
         groups: [{name: a, users: 2, churn: {stays: 10s, away: 2s}}]}",
    );
    for place in 0..2 {
        let stays: Vec<Coming> =
            coming(&scenario, 3).into_iter().filter(|coming| coming.place == place).collect();
        assert!((5..=7).contains(&stays.len()), "{stays:?}");
        for pair in stays.windows(2) {
            assert_eq!(pair[1].at - pair[0].leaves.unwrap(), 2 * SECOND);
        }
        assert!(stays[0].leaves.unwrap() <= 10 * SECOND);
        assert_eq!(stays.iter().filter(|coming| coming.leaves.is_none()).count(), 1);
    }
}

#[test]
fn arrivals_come_at_their_rate_and_share_rooms_with_whoever_is_there() {
    let scenario = scenario(
        "{description: a, ramp: 0s, settle: 0s, hold: 100s, \
         groups: [{name: a, rooms: 5, arrivals: {rate: 20, stays: 5s}}]}",
    );
    let all = coming(&scenario, 3);
    assert!((1_800..2_200).contains(&all.len()), "{}", all.len());
    let there = |at: Duration, room| {
        let is_there = |coming: &&Coming| coming.at <= at && coming.leaves.is_none_or(|leaves| leaves > at);
        all.iter().filter(is_there).filter(|coming| coming.room == room).count()
    };
    assert!((0..5).all(|room| (5..45).contains(&there(50 * SECOND, room))));
}

#[test]
fn networks_are_handed_out_by_weight() {
    let scenario = scenario(
        "{description: a, hold: 1s, groups: [{name: a, users: 40, rooms: 10, network: {fibre: 3, lte: 1}}]}",
    );
    let all = coming(&scenario, 1);
    assert_eq!(all.iter().filter(|coming| coming.network == 1).count(), 10);
    // Not the same one in each room.
    let rooms: std::collections::BTreeSet<_> =
        all.iter().filter(|coming| coming.network == 1).map(|coming| coming.room).collect();
    assert!((2..10).contains(&rooms.len()), "{rooms:?}");
}

#[test]
fn a_plan_says_who_sends_what_and_until_when() {
    let scenario = scenario(
        "{description: a, ramp: 0s, settle: 2s, hold: 10s, groups: [{name: a, users: 4, transport: mixed, does: \
         [{data: {rate: 10, senders: 1}}, {data: {lane: lossy, rate: 4}}, {messages: {senders: 0}}]}]}",
    );
    let epoch = Instant::now();
    let plans: Vec<_> =
        coming(&scenario, 1).iter().map(|coming| coming.plan(&scenario, 1, epoch, "load")).collect();
    assert!(plans.iter().all(|plan| plan.room == "load-a-0"));
    assert_eq!(plans.iter().filter(|plan| plan.udp).count(), 2);
    let mut senders = 0;
    for plan in &plans {
        let [Does::Data(reliable), Does::Data(lossy), Does::Messages(messages)] = &plan.does[..] else {
            panic!("{plan:?}")
        };
        senders += usize::from(reliable.pace.is_some());
        assert!(reliable.stream != lossy.stream && messages.pace.is_none());
        let pace = lossy.pace.unwrap();
        assert_eq!(pace.interval, SECOND / 4);
        assert!((2 * SECOND..2 * SECOND + pace.interval).contains(&(pace.start - epoch)));
        assert_eq!(pace.end - epoch, 12 * SECOND);
    }
    assert_eq!(senders, 1);
}
