//! Which kind of server is loaded: where it takes WebSockets, and what users speak there.
//!
//! Everything else is the same for all kinds, so that two servers can be compared side by side: scenarios, the simulated
//! network between, the account, the figures and the report.
//!
//! Another kind is a file beside [`broadcast`]: an [`Adapter`], whose client speaks what that server understands and tells
//! what happens in the events of [`crate::browser`]; and its place in [`ALL`].

mod broadcast;
mod client;
mod switchyard;

use std::{net::SocketAddr, time::Instant};

pub use self::client::{Client, Outbound};

use crate::scenario::{Behaviour, Data, Group, Lane, Scenario, Transport};

/// A kind of server.
#[derive(Debug)]
pub struct Adapter {
    /// What `--adapter` and the report call it.
    pub name: &'static str,
    /// In a few words.
    pub about: &'static str,
    /// Whether it speaks Switchyard's protocol, and so asks for tokens and carries everything that a scenario can have. Any
    /// other carries data messages on the reliable lane, over WebSocket.
    pub is_switchyard: bool,
    /// Where a room's users open their WebSockets.
    pub door: fn(room: &str) -> Door,
    /// What a user has; with the local address of its peer connections, if it is to have any.
    pub client: fn(now: Instant, address: Option<SocketAddr>) -> Box<dyn Client>,
}

/// Where a WebSocket is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Door {
    /// The path in the server's URL.
    pub path: String,
    /// The subprotocol that is asked for.
    pub subprotocol: Option<&'static str>,
}

/// All kinds.
pub static ALL: [&Adapter; 2] = [&switchyard::ADAPTER, &broadcast::ADAPTER];

/// This project's own server.
pub fn switchyard() -> &'static Adapter {
    &switchyard::ADAPTER
}

/// The kind of this name.
pub fn find(name: &str) -> Result<&'static Adapter, String> {
    let known = || ALL.map(|adapter| adapter.name).join(" or ");
    ALL.into_iter().find(|adapter| adapter.name == name).ok_or_else(|| format!("{} is expected", known()))
}

impl Adapter {
    /// How all users are connected, if there is one way only.
    pub fn only_transport(&self) -> Option<Transport> {
        (!self.is_switchyard).then_some(Transport::Websocket)
    }

    /// Refuses a scenario that has what this kind of server cannot carry.
    pub fn check(&self, scenario: &Scenario) -> Result<(), String> {
        if self.is_switchyard {
            return Ok(());
        }
        let of_group = |group| not_plain(group).map(|what| format!("group {} has {what}", group.name));
        let mut refused = scenario.groups.iter().filter_map(of_group);
        let attacks = || (!scenario.attacks.is_empty()).then(|| "the scenario has attacks".to_owned());
        let restarts = || scenario.restarts_server().then(|| "the scenario restarts the server".to_owned());
        match refused.next().or_else(attacks).or_else(restarts) {
            Some(what) => Err(format!(
                "the adapter {} carries data on the reliable lane over WebSocket, and nothing else: {what}",
                self.name
            )),
            None => Ok(()),
        }
    }
}

/// What a group has beyond reliable data over WebSocket.
fn not_plain(group: &Group) -> Option<String> {
    let does = group.does.iter().find_map(|behaviour| match behaviour {
        Behaviour::Messages(_) => Some("messages".to_owned()),
        Behaviour::Data(Data { lane: Lane::Lossy, .. }) => Some("data on the lossy lane".to_owned()),
        Behaviour::Data(_) | Behaviour::Stall(_) => None,
    });
    let transport = || {
        let is_other = group.transport != Transport::Websocket;
        is_other.then(|| format!("the transport {}", group.transport))
    };
    does.or_else(transport)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(does: &str, rest: &str) -> Option<String> {
        let yaml = format!(
            "{{description: d, hold: 10s, groups: [{{name: g, users: 2, transport: websocket, does: [{does}]}}] {rest}}}"
        );
        find("broadcast").unwrap().check(&Scenario::parse("test", &yaml).unwrap()).err()
    }

    #[test]
    fn kinds_are_found_by_their_names() {
        for adapter in ALL {
            assert_eq!(find(adapter.name).unwrap().name, adapter.name);
        }
        assert_eq!(find("pigeon").unwrap_err(), "switchyard or broadcast is expected");
        assert!(switchyard().is_switchyard);
    }

    #[test]
    fn reliable_data_can_be_carried_by_any_server_and_the_rest_is_refused_with_what_can() {
        assert_eq!(refusal("{data: {rate: 1}}, {stall: {at: 1s, for: 1s}}", ""), None);
        for (does, rest, what) in [
            ("{data: {rate: 1}}, {messages: {rate: 1}}", "", "group g has messages"),
            ("{data: {lane: lossy, rate: 1}}", "", "group g has data on the lossy lane"),
            ("{data: {rate: 1}}", ", attacks: [{kind: flood, for: 1s}]", "the scenario has attacks"),
            ("{data: {rate: 1}}", ", events: [{at: 1s, restart: {}}]", "the scenario restarts the server"),
        ] {
            let sentence = refusal(does, rest).unwrap();
            assert!(sentence.contains("carries data on the reliable lane over WebSocket"), "{sentence}");
            assert!(sentence.ends_with(what), "{sentence}");
        }
    }

    #[test]
    fn data_channels_are_refused_where_there_are_none() {
        let mut scenario = Scenario::load("thousand").unwrap();
        let adapter = find("broadcast").unwrap();
        assert!(adapter.check(&scenario).unwrap_err().ends_with("group crowd has the transport udp"));
        for group in &mut scenario.groups {
            group.transport = adapter.only_transport().unwrap();
        }
        assert_eq!(adapter.check(&scenario), Ok(()));
        assert_eq!(switchyard().check(&Scenario::load("smoke").unwrap()), Ok(()));
    }
}
