//! What a scenario must be beyond its form. Each refusal says what is wrong, where, and what would be right.

use switchyard_signaling::limits::Limits;

use super::{Behaviour, Data, Event, Group, Lane, Scenario};
use crate::account::STAMP_BYTES;

/// The most users that a scenario may have at once.
const USERS: u32 = 20_000;
/// The most messages a second of one sender.
const RATE: f64 = 100_000.0;

/// What is wrong with it, if anything is.
pub(super) fn scenario(scenario: &Scenario) -> Result<(), String> {
    if scenario.hold.0.is_zero() {
        return Err("hold is 0; it is the time in which everything is measured".to_owned());
    }
    if scenario.groups.is_empty() {
        return Err("groups is empty; at least one is expected".to_owned());
    }
    for (at, group) in scenario.groups.iter().enumerate() {
        self::group(group).map_err(|problem| format!("group {}: {problem}", group.name))?;
        if scenario.groups[..at].iter().any(|other| other.name == group.name) {
            return Err(format!("group {}: there are two of this name", group.name));
        }
    }
    let users: u32 = scenario.groups.iter().map(|group| group.users).fold(0, u32::saturating_add);
    if users > USERS {
        return Err(format!("there are {users} users; up to {USERS} are possible"));
    }
    for (at, event) in scenario.events.iter().enumerate() {
        self::event(scenario, event).map_err(|problem| format!("events, number {}: {problem}", at + 1))?;
    }
    for (name, window) in &scenario.windows {
        if window.until > scenario.hold.0 {
            return Err(format!("windows.{name} ends after the hold, which takes {:?}", scenario.hold.0));
        }
    }
    for attack in &scenario.attacks {
        if attack.at.0 + attack.length.0 > scenario.hold.0 {
            return Err(format!("an attack ends after the hold, which takes {:?}", scenario.hold.0));
        }
        if !(1..=10_000).contains(&attack.connections) || !(0.01..=RATE).contains(&attack.rate.0) {
            return Err("an attack has connections from 1 to 10000 and a rate from 0.01 to 100000".to_owned());
        }
    }
    Ok(())
}

fn group(group: &Group) -> Result<(), String> {
    // Names become parts of rooms' names, which go into URLs as they are.
    for name in [&group.name, group.room_name()] {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if name.is_empty() || name.len() > 48 || !name.chars().all(is_plain) {
            return Err(format!(
                "the name \"{name}\"; 1 to 48 letters, digits, hyphens and underscores are expected"
            ));
        }
    }
    match (&group.churn, &group.arrivals, group.users) {
        (Some(_), Some(_), _) => return Err("churn and arrivals are two ways; choose one".to_owned()),
        (_, Some(_), 1..) => {
            return Err("with arrivals there are no users at the beginning: leave users out".to_owned());
        }
        (_, None, 0) => return Err("users is 0 or missing".to_owned()),
        _ => {}
    }
    if group.rooms.is_some() && group.per_room.is_some() {
        return Err("rooms and per_room are two ways to say the same; choose one".to_owned());
    }
    if group.rooms == Some(0) || group.per_room == Some(0) {
        return Err("rooms and per_room begin at 1".to_owned());
    }
    if group.churn.is_some_and(|churn| churn.stays.0.is_zero()) {
        return Err("churn.stays is 0".to_owned());
    }
    if let Some(arrivals) = group.arrivals
        && (!(0.01..=1_000.0).contains(&arrivals.rate.0) || arrivals.stays.0.is_zero())
    {
        return Err("arrivals have a rate from 0.01 to 1000 a second and stay longer than 0".to_owned());
    }
    if group.network.weighted().iter().all(|(_, weight)| *weight == 0) {
        return Err("network has no weight above 0".to_owned());
    }
    group.does.iter().try_for_each(behaviour)
}

fn behaviour(behaviour: &Behaviour) -> Result<(), String> {
    let limits = Limits::default();
    let (what, rate, size, most) = match behaviour {
        Behaviour::Data(Data { lane: Lane::Reliable, rate, size, .. }) => {
            ("data", rate, size, limits.max_message_bytes)
        }
        Behaviour::Data(Data { lane: Lane::Lossy, rate, size, .. }) => {
            ("data", rate, size, limits.max_lossy_bytes)
        }
        Behaviour::Messages(messages) => {
            ("messages", &messages.rate, &messages.size, switchyard_signaling::limits::SUBMISSION_BYTES / 2)
        }
        Behaviour::Stall(stall) => {
            let is_too_often = stall.every.is_some_and(|every| every.0 <= stall.length.0);
            return match is_too_often {
                true => Err("stall.every is not longer than stall.for: it would never read".to_owned()),
                false => Ok(()),
            };
        }
    };
    if !(STAMP_BYTES..=most).contains(&size.0) {
        return Err(format!("{what}.size is {}; from {STAMP_BYTES} to {most} are possible", size.0));
    }
    if rate.0 > RATE {
        return Err(format!("{what}.rate is {}; up to {RATE} a second are possible", rate.0));
    }
    Ok(())
}

fn event(scenario: &Scenario, event: &Event) -> Result<(), String> {
    let Event { at, over, restart, network, address, outage } = event;
    let kinds = [restart.is_some(), network.is_some(), address.is_some(), outage.is_some()];
    if kinds.into_iter().filter(|is_set| *is_set).count() != 1 {
        return Err("exactly one of restart, network, address and outage is expected".to_owned());
    }
    if at.0 + over.0 > scenario.hold.0 {
        return Err(format!("it is after the hold, which takes {:?}", scenario.hold.0));
    }
    let groups = [
        network.as_ref().and_then(|handover| handover.group.as_ref()),
        address.as_ref().and_then(|address| address.group.as_ref()),
        outage.as_ref().and_then(|outage| outage.group.as_ref()),
    ];
    for name in groups.into_iter().flatten() {
        if !scenario.groups.iter().any(|group| group.name == *name) {
            return Err(format!("there is no group {name}"));
        }
    }
    Ok(())
}
