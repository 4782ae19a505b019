//! What stands at the far end of an access network: a NAT, by the terms of RFC 4787, and a firewall.
//!
//! A mapping stands for one outside port. Which port that is does not matter here: whoever drives this opens one real
//! socket for each mapping. Every browser is behind a NAT of its own, so nobody else's mappings are behind it and
//! there is no hairpinning.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

/// On what part of the remote address a NAT's decision depends (RFC 4787 sections 4.1 and 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// On none of it.
    EndpointIndependent,
    /// On the IP address.
    AddressDependent,
    /// On IP address and port.
    AddressAndPortDependent,
}

impl Behaviour {
    /// What of a remote address counts.
    fn part(self, remote: SocketAddr) -> Part {
        match self {
            Self::EndpointIndependent => (None, None),
            Self::AddressDependent => (Some(remote.ip()), None),
            Self::AddressAndPortDependent => (Some(remote.ip()), Some(remote.port())),
        }
    }
}

type Part = (Option<IpAddr>, Option<u16>);

/// How a NAT maps and filters UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NatConfig {
    /// When two destinations share a mapping. Address-and-port-dependent mapping is what ICE calls symmetric.
    pub mapping: Behaviour,
    /// From whom a mapping lets datagrams in: from everybody, or from where something was sent to before.
    pub filtering: Behaviour,
    /// A mapping ends when nothing was sent through it for so long. What is received does not refresh it.
    pub timeout: Duration,
}

/// What the network lets out. A blocked UDP datagram vanishes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Firewall {
    /// Everything.
    #[default]
    Open,
    /// TCP only, to anywhere.
    UdpBlocked,
    /// TCP only, and that to port 443 and to the server's HTTP address, which in production is at port 443. Other
    /// connections are refused.
    Only443,
    /// Only TCP to the server's HTTP address. Other connections are refused.
    OnlyServer,
    /// Only TCP to the server's HTTP address. Other connections are silently dropped.
    OnlyServerSilent,
}

/// What a firewall does with an attempt to connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Passes,
    Refused,
    Vanishes,
}

impl Firewall {
    pub(super) fn lets_udp_out(self) -> bool {
        self == Self::Open
    }

    pub(super) fn judge_tcp(self, to: SocketAddr, server: SocketAddr) -> Verdict {
        let passes = match self {
            Self::Open | Self::UdpBlocked => true,
            Self::Only443 => to == server || to.port() == 443,
            Self::OnlyServer | Self::OnlyServerSilent => to == server,
        };
        match self {
            _ if passes => Verdict::Passes,
            Self::OnlyServerSilent => Verdict::Vanishes,
            _ => Verdict::Refused,
        }
    }
}

/// Names a mapping of an [`Access`](super::Access). No number is used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MappingId(pub u64);

/// The mappings of one browser.
#[derive(Debug)]
pub(super) struct Nat {
    /// Without it: one mapping for each inside address, open to everybody, for good.
    config: Option<NatConfig>,
    mappings: BTreeMap<MappingId, Mapping>,
    by_key: BTreeMap<(SocketAddr, Part), MappingId>,
    next: u64,
}

#[derive(Debug)]
struct Mapping {
    key: (SocketAddr, Part),
    /// What of the remote addresses counts, of all that something was sent to.
    reached: BTreeSet<Part>,
    last_sent: Instant,
}

impl Nat {
    pub(super) fn new(config: Option<NatConfig>) -> Self {
        Self { config, mappings: BTreeMap::new(), by_key: BTreeMap::new(), next: 0 }
    }

    /// A datagram goes out. Expired mappings must have been taken with [`expire`](Self::expire).
    pub(super) fn outbound(&mut self, now: Instant, from: SocketAddr, to: SocketAddr) -> MappingId {
        let mapping = self.config.map_or(Behaviour::EndpointIndependent, |config| config.mapping);
        let filtering = self.config.map_or(Behaviour::EndpointIndependent, |config| config.filtering);
        let key = (from, mapping.part(to));
        let next = &mut self.next;
        let id = *self.by_key.entry(key).or_insert_with(|| {
            *next += 1;
            MappingId(*next - 1)
        });
        let mapping = self.mappings.entry(id).or_insert_with(|| Mapping {
            key,
            reached: BTreeSet::new(),
            last_sent: now,
        });
        mapping.last_sent = now;
        mapping.reached.insert(filtering.part(to));
        id
    }

    /// The inside address that a datagram to a mapping is for, if the mapping is there and lets it in.
    pub(super) fn inbound(&self, id: MappingId, from: SocketAddr) -> Option<SocketAddr> {
        let filtering = self.config.map_or(Behaviour::EndpointIndependent, |config| config.filtering);
        let mapping = self.mappings.get(&id)?;
        mapping.reached.contains(&filtering.part(from)).then_some(mapping.key.0)
    }

    /// When the next mapping ends.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        let timeout = self.config?.timeout;
        self.mappings.values().map(|mapping| mapping.last_sent + timeout).min()
    }

    /// The next mapping that has ended by now.
    pub(super) fn expire(&mut self, now: Instant) -> Option<MappingId> {
        let timeout = self.config?.timeout;
        let (&id, _) = self.mappings.iter().find(|(_, mapping)| mapping.last_sent + timeout <= now)?;
        self.remove(id);
        Some(id)
    }

    /// All mappings end; gives them. What is sent from now on gets new ones.
    pub(super) fn rebind(&mut self) -> Vec<MappingId> {
        self.by_key.clear();
        std::mem::take(&mut self.mappings).into_keys().collect()
    }

    /// Another NAT, if it is another; gives the mappings that end with the old one.
    pub(super) fn set_config(&mut self, config: Option<NatConfig>) -> Vec<MappingId> {
        if self.config == config {
            return Vec::new();
        }
        self.config = config;
        self.rebind()
    }

    fn remove(&mut self, id: MappingId) {
        if let Some(mapping) = self.mappings.remove(&id) {
            self.by_key.remove(&mapping.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        Behaviour::{AddressAndPortDependent, AddressDependent, EndpointIndependent},
        *,
    };
    use crate::netsim::testing::MS;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn inside() -> SocketAddr {
        address("10.0.0.2:5000")
    }

    /// Where the browser has sent something, another port of that host, and another host.
    fn remotes() -> [SocketAddr; 3] {
        ["192.0.2.1:1000", "192.0.2.1:2000", "198.51.100.1:1000"].map(address)
    }

    fn nat(mapping: Behaviour, filtering: Behaviour) -> Nat {
        Nat::new(Some(NatConfig { mapping, filtering, timeout: 30_000 * MS }))
    }

    /// RFC 4787 section 4.1: to whom the mapping of the first remote address is used again.
    #[test]
    fn a_mapping_is_shared_as_its_behaviour_has_it() {
        let table = [
            (EndpointIndependent, [true, true, true]),
            (AddressDependent, [true, true, false]),
            (AddressAndPortDependent, [true, false, false]),
        ];
        for (mapping, shared) in table {
            let now = Instant::now();
            let mut nat = nat(mapping, EndpointIndependent);
            let first = nat.outbound(now, inside(), remotes()[0]);
            assert_eq!(remotes().map(|to| nat.outbound(now, inside(), to) == first), shared, "{mapping:?}");
            let other_port = nat.outbound(now, address("10.0.0.2:5001"), remotes()[0]);
            assert_ne!(other_port, first, "{mapping:?}");
        }
    }

    /// RFC 4787 section 5: who may reach the browser through the mapping of the first remote address.
    #[test]
    fn a_mapping_lets_in_whom_its_filtering_lets_in_whatever_the_mapping() {
        let table = [
            (EndpointIndependent, [true, true, true]),
            (AddressDependent, [true, true, false]),
            (AddressAndPortDependent, [true, false, false]),
        ];
        for mapping in [EndpointIndependent, AddressDependent, AddressAndPortDependent] {
            for (filtering, reached) in table {
                let mut nat = nat(mapping, filtering);
                let id = nat.outbound(Instant::now(), inside(), remotes()[0]);
                let expected = reached.map(|passes| passes.then_some(inside()));
                assert_eq!(
                    remotes().map(|from| nat.inbound(id, from)),
                    expected,
                    "{mapping:?} {filtering:?}"
                );
            }
        }
    }

    #[test]
    fn nobody_reaches_a_mapping_that_was_never_made() {
        assert_eq!(nat(EndpointIndependent, EndpointIndependent).inbound(MappingId(0), remotes()[0]), None);
    }

    #[test]
    fn a_mapping_is_kept_by_what_is_sent_and_not_by_what_is_received() {
        let start = Instant::now();
        let at = |seconds: u32| start + seconds * 1_000 * MS;
        let mut nat = nat(EndpointIndependent, EndpointIndependent);
        let id = nat.outbound(at(0), inside(), remotes()[0]);
        assert_eq!(nat.outbound(at(20), inside(), remotes()[1]), id);
        assert_eq!(nat.next_expiry(), Some(at(50)));
        assert_eq!(nat.inbound(id, remotes()[2]), Some(inside()));
        assert_eq!(nat.expire(at(50) - MS), None);
        assert_eq!(nat.expire(at(50)), Some(id));
        assert_eq!((nat.inbound(id, remotes()[0]), nat.expire(at(99))), (None, None));
        assert_ne!(nat.outbound(at(51), inside(), remotes()[0]), id);
    }

    #[test]
    fn without_a_nat_there_is_one_mapping_for_good() {
        let now = Instant::now();
        let mut nat = Nat::new(None);
        let id = nat.outbound(now, inside(), remotes()[0]);
        assert_eq!(remotes().map(|to| nat.outbound(now, inside(), to)), [id; 3]);
        assert_eq!(remotes().map(|from| nat.inbound(id, from)), [Some(inside()); 3]);
        assert_eq!(nat.next_expiry(), None);
    }

    #[test]
    fn rebinding_makes_every_mapping_new() {
        let now = Instant::now();
        let mut nat = nat(AddressAndPortDependent, EndpointIndependent);
        let before = remotes().map(|to| nat.outbound(now, inside(), to));
        assert_eq!(nat.rebind(), before);
        let after = remotes().map(|to| nat.outbound(now, inside(), to));
        assert!(after.iter().all(|id| !before.contains(id)));
        assert_eq!(before.map(|id| nat.inbound(id, remotes()[0])), [None; 3]);
    }

    #[test]
    fn mappings_stay_if_the_nat_is_of_the_same_kind_only() {
        let now = Instant::now();
        let mut nat = nat(EndpointIndependent, AddressDependent);
        let config = nat.config;
        let id = nat.outbound(now, inside(), remotes()[0]);
        assert_eq!(nat.set_config(config), []);
        assert_eq!(nat.outbound(now, inside(), remotes()[0]), id);
        assert_eq!(nat.set_config(None), [id]);
    }

    #[test]
    fn a_firewall_lets_out_what_its_kind_lets_out() {
        use Verdict::{Passes, Refused, Vanishes};
        let server = address("192.0.2.1:7880");
        let tries =
            [server, address("192.0.2.1:7881"), address("198.51.100.1:443"), address("198.51.100.1:5349")];
        let table = [
            (Firewall::Open, true, [Passes, Passes, Passes, Passes]),
            (Firewall::UdpBlocked, false, [Passes, Passes, Passes, Passes]),
            (Firewall::Only443, false, [Passes, Refused, Passes, Refused]),
            (Firewall::OnlyServer, false, [Passes, Refused, Refused, Refused]),
            (Firewall::OnlyServerSilent, false, [Passes, Vanishes, Vanishes, Vanishes]),
        ];
        for (firewall, udp, tcp) in table {
            assert_eq!(firewall.lets_udp_out(), udp, "{firewall:?}");
            assert_eq!(tries.map(|to| firewall.judge_tcp(to, server)), tcp, "{firewall:?}");
        }
    }
}
