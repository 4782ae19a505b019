//! What a network is like: one value that says everything about a browser's access.

use std::time::Duration;

use super::{Firewall, LinkConfig, NatConfig};

/// A browser's network. The default is perfect: no delay, no loss, no NAT, no firewall.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NetworkSpec {
    /// From the browser.
    pub up: LinkConfig,
    /// To the browser.
    pub down: LinkConfig,
    /// The NAT, if there is one.
    pub nat: Option<NatConfig>,
    /// What is let out.
    pub firewall: Firewall,
    /// What happens to it, after the start of the browser that has it.
    pub events: Vec<ScheduledEvent>,
}

/// Something that happens once or again and again.
#[derive(Clone, Debug, PartialEq)]
pub struct ScheduledEvent {
    /// When it first happens.
    pub at: Duration,
    /// After how long it happens again, if it does.
    pub every: Option<Duration>,
    /// What happens.
    pub what: Happening,
}

/// What can happen to a network.
#[derive(Clone, Debug, PartialEq)]
pub enum Happening {
    /// Nothing passes for so long.
    Outage(Duration),
    /// The browser gets another address.
    AddressChange,
    /// The NAT forgets its mappings.
    Rebind,
    /// The browser is in another network from now on. Only its links, NAT and firewall count, not its events.
    Switch(Box<NetworkSpec>),
}
