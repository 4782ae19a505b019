//! The networks, and the rungs that they let a client reach.

use std::time::Duration;

use switchyard_loadtest::{
    browser::Rung,
    netsim::{Behaviour, Firewall, LinkConfig, NatConfig, NetworkSpec},
    rng::Rng,
};

use crate::world::{MS, SECOND};

/// The share of packets that each link loses.
pub(super) const LOSSES: [f64; 4] = [0.0, 0.01, 0.03, 0.05];

/// One way of a link, at least and at most.
const DELAYS: [Duration; 2] = [Duration::from_millis(5), Duration::from_millis(150)];

/// A pair of networks.
#[derive(Debug)]
pub(super) struct Condition {
    pub(super) name: &'static str,
    nat: Nat,
    firewalls: [Firewall; 2],
    /// Whether a firewall before the server leaves only its relay.
    pub(super) closed_media: bool,
    pub(super) rungs: [Rung; 2],
}

#[derive(Clone, Copy, Debug)]
enum Nat {
    None,
    PortRestricted,
    Symmetric,
}

const fn condition(name: &'static str, nat: Nat, firewalls: [Firewall; 2], rungs: [Rung; 2]) -> Condition {
    Condition { name, nat, firewalls, closed_media: false, rungs }
}

/// Any relay will do: the best one is taken unless a packet of its was lost and another was there first.
const fn closed_media(name: &'static str, firewall: Firewall) -> Condition {
    let (firewalls, rungs) = ([firewall; 2], [Rung::RelayTls; 2]);
    Condition { name, nat: Nat::PortRestricted, firewalls, closed_media: true, rungs }
}

const OPEN: [Firewall; 2] = [Firewall::Open; 2];

pub(super) const OPEN_BEHIND_NATS: Condition =
    condition("port-restricted NAT both", Nat::PortRestricted, OPEN, [Rung::Udp; 2]);
pub(super) const ONLY_443: Condition =
    condition("only TCP 443 both", Nat::PortRestricted, [Firewall::Only443; 2], [Rung::RelayTls; 2]);

pub(super) const CONDITIONS: [Condition; 8] = [
    condition("open", Nat::None, OPEN, [Rung::Udp; 2]),
    OPEN_BEHIND_NATS,
    condition("symmetric NAT both", Nat::Symmetric, OPEN, [Rung::Udp; 2]),
    condition(
        "one side UDP blocked",
        Nat::PortRestricted,
        [Firewall::UdpBlocked, Firewall::Open],
        [Rung::Tcp, Rung::Udp],
    ),
    ONLY_443,
    condition(
        "only HTTPS to the server both",
        Nat::PortRestricted,
        [Firewall::OnlyServer, Firewall::OnlyServerSilent],
        [Rung::WebSocket; 2],
    ),
    closed_media("server's media ports closed", Firewall::Open),
    closed_media("the same, UDP blocked both", Firewall::UdpBlocked),
];

impl Condition {
    /// Both clients' networks, with a delay that the seed chooses.
    pub(super) fn networks(&self, loss: f64, seed: u64) -> [NetworkSpec; 2] {
        let mut random = Rng::stream(seed, 77);
        self.firewalls.map(|firewall| {
            let [least, most] = DELAYS;
            let delay = least + Duration::from_micros(random.below((most - least).as_micros() as u64 + 1));
            // A tenth of the delay, and a little: cables and Wi-Fi.
            let jitter = delay / 10 + 2 * MS;
            let link =
                LinkConfig { delay, jitter: jitter.into(), loss: loss.into(), ..LinkConfig::default() };
            NetworkSpec {
                up: link.clone(),
                down: link,
                nat: self.nat.config(),
                firewall,
                ..NetworkSpec::default()
            }
        })
    }
}

/// A network with a common NAT and without a firewall.
pub(super) fn behind_nat(link: LinkConfig) -> NetworkSpec {
    let nat = Nat::PortRestricted.config();
    NetworkSpec { up: link.clone(), down: link, nat, ..NetworkSpec::default() }
}

impl Nat {
    fn config(self) -> Option<NatConfig> {
        use Behaviour::{AddressAndPortDependent, EndpointIndependent};
        let (mapping, filtering) = match self {
            Self::None => return None,
            Self::PortRestricted => (EndpointIndependent, AddressAndPortDependent),
            Self::Symmetric => (AddressAndPortDependent, AddressAndPortDependent),
        };
        Some(NatConfig { mapping, filtering, timeout: 30 * SECOND })
    }
}
