//! Hosts that exchange datagrams in virtual time: the network of the worlds.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Instant,
};

use super::{Datagram, Direction, Link, LinkConfig};
use crate::rng::Rng;

/// Names a host of a [`Network`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostId(usize);

/// Hosts that exchange datagrams, each behind a link up and a link down of its own.
#[derive(Debug)]
pub struct Network {
    seed: u64,
    hosts: Vec<Host>,
    addresses: BTreeMap<SocketAddr, HostId>,
    /// When to look at which link. Links up come before links down at the same instant, so that a path without delay
    /// is passed in one call of [`poll`](Network::poll).
    due: BTreeSet<(Instant, Direction, HostId)>,
}

#[derive(Debug)]
struct Host {
    up: Link<Datagram>,
    down: Link<Datagram>,
    /// What stands in [`Network::due`] for the two.
    due: [Option<Instant>; 2],
}

impl Network {
    /// A network without hosts.
    pub fn new(seed: u64) -> Self {
        Self { seed, hosts: Vec::new(), addresses: BTreeMap::new(), due: BTreeSet::new() }
    }

    /// A new host, without an address yet, behind these links.
    pub fn add_host(&mut self, up: LinkConfig, down: LinkConfig) -> HostId {
        let number = self.hosts.len() as u64;
        let [up_seed, down_seed] = [0, 1].map(|way| Rng::stream(self.seed, 2 * number + way).next_u64());
        self.hosts.push(Host {
            up: Link::new(up, up_seed),
            down: Link::new(down, down_seed),
            due: [None; 2],
        });
        HostId(self.hosts.len() - 1)
    }

    /// The host receives what is sent to this address from now on. A host may have several.
    pub fn bind(&mut self, host: HostId, address: SocketAddr) {
        self.addresses.insert(address, host);
    }

    /// Nobody receives what is sent to this address any more, not even what is under way to it.
    pub fn unbind(&mut self, address: SocketAddr) {
        self.addresses.remove(&address);
    }

    /// The host moves from one address to another, as from Wi-Fi to mobile.
    pub fn readdress(&mut self, host: HostId, old: SocketAddr, new: SocketAddr) {
        self.unbind(old);
        self.bind(host, new);
    }

    /// The link from this host into the network.
    pub fn up(&self, host: HostId) -> &Link<Datagram> {
        &self.hosts[host.0].up
    }

    /// The link from the network to this host.
    pub fn down(&self, host: HostId) -> &Link<Datagram> {
        &self.hosts[host.0].down
    }

    /// Other links for the host from now on, as [`Link::set_config`] has it.
    pub fn set_links(&mut self, now: Instant, host: HostId, up: LinkConfig, down: LinkConfig) {
        self.hosts[host.0].up.set_config(now, up);
        self.hosts[host.0].down.set_config(now, down);
        self.note(host, Direction::Up);
        self.note(host, Direction::Down);
    }

    /// Both links of the host are down for this time.
    pub fn take_down(&mut self, host: HostId, from: Instant, until: Instant) {
        self.hosts[host.0].up.take_down(from, until);
        self.hosts[host.0].down.take_down(from, until);
    }

    /// A datagram leaves the host that has the address `datagram.from`; from any other address it vanishes.
    pub fn send(&mut self, now: Instant, datagram: Datagram) {
        if let Some(&sender) = self.addresses.get(&datagram.from) {
            self.hosts[sender.0].up.send(now, datagram.wire_bytes(), datagram);
            self.note(sender, Direction::Up);
        }
    }

    /// The next datagram that has arrived by now, and whose it is.
    pub fn poll(&mut self, now: Instant) -> Option<(HostId, Datagram)> {
        loop {
            let &(at, direction, host) = self.due.first()?;
            if at > now {
                return None;
            }
            let link = match direction {
                Direction::Up => &mut self.hosts[host.0].up,
                Direction::Down => &mut self.hosts[host.0].down,
            };
            let arrived = link.poll(at);
            self.note(host, direction);
            let Some(datagram) = arrived else {
                continue;
            };
            let receiver = self.addresses.get(&datagram.to).copied();
            match (direction, receiver) {
                // It enters the second link when it leaves the first, however late somebody looks.
                (Direction::Up, Some(receiver)) => {
                    self.hosts[receiver.0].down.send(at, datagram.wire_bytes(), datagram);
                    self.note(receiver, Direction::Down);
                }
                (Direction::Down, Some(receiver)) if receiver == host => return Some((host, datagram)),
                _ => {}
            }
        }
    }

    /// When to poll again. Something may move then, and nothing moves before.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.due.first().map(|(at, _, _)| *at)
    }

    /// Notes when a link is to be looked at, after something was done to it.
    fn note(&mut self, HostId(number): HostId, direction: Direction) {
        let host = &mut self.hosts[number];
        let (link, noted) = match direction {
            Direction::Up => (&host.up, &mut host.due[0]),
            Direction::Down => (&host.down, &mut host.due[1]),
        };
        let next = link.poll_timeout();
        if *noted == next {
            return;
        }
        if let Some(at) = std::mem::replace(noted, next) {
            self.due.remove(&(at, direction, HostId(number)));
        }
        if let Some(at) = next {
            self.due.insert((at, direction, HostId(number)));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;

    use super::*;
    use crate::netsim::RateLimit;

    const MS: Duration = Duration::from_millis(1);

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn datagram(from: SocketAddr, to: SocketAddr, payload: &'static str) -> Datagram {
        Datagram { from, to, payload: Bytes::from_static(payload.as_bytes()) }
    }

    #[test]
    fn a_datagram_passes_the_senders_and_the_receivers_link() {
        let start = Instant::now();
        let mut network = Network::new(1);
        let link = |delay| LinkConfig { delay, ..Default::default() };
        let (alice, bob) = (address("10.0.0.1:1"), address("10.0.0.2:2"));
        let a = network.add_host(link(10 * MS), link(1000 * MS));
        let b = network.add_host(link(1000 * MS), link(5 * MS));
        network.bind(a, alice);
        network.bind(b, bob);
        network.send(start, datagram(alice, bob, "hello"));
        assert_eq!(network.poll(start + 14 * MS), None);
        assert_eq!(network.poll_timeout(), Some(start + 15 * MS));
        assert_eq!(network.poll(start + 15 * MS), Some((b, datagram(alice, bob, "hello"))));
        assert_eq!(network.poll_timeout(), None);
    }

    #[test]
    fn a_host_that_moved_is_reached_at_its_new_address_only() {
        let start = Instant::now();
        let mut network = Network::new(1);
        let (server, old, new) = (address("10.0.0.1:1"), address("10.0.0.2:2"), address("10.0.0.3:3"));
        let perfect = LinkConfig::default;
        let s = network.add_host(perfect(), perfect());
        let c = network.add_host(perfect(), LinkConfig { delay: 10 * MS, ..Default::default() });
        network.bind(s, server);
        network.bind(c, old);
        network.send(start, datagram(server, old, "under way"));
        assert_eq!(network.poll(start), None);
        network.readdress(c, old, new);
        network.send(start, datagram(server, old, "too late"));
        network.send(start, datagram(old, server, "from an address it has no more"));
        network.send(start, datagram(server, new, "found"));
        network.send(start, datagram(new, server, "here I am"));
        let now = start + 20 * MS;
        assert_eq!(network.poll(now), Some((s, datagram(new, server, "here I am"))));
        assert_eq!(network.poll(now), Some((c, datagram(server, new, "found"))));
        assert_eq!(network.poll(now), None);
    }

    #[test]
    fn other_links_hold_for_what_waits_and_for_what_comes() {
        let start = Instant::now();
        let mut network = Network::new(1);
        let (alice, bob) = (address("10.0.0.1:1"), address("10.0.0.2:2"));
        // Each datagram of 33 bytes takes 264 ms.
        let rate = RateLimit { bits_per_second: 1_000, burst_bytes: 0, queue_bytes: 10_000, codel: None };
        let slow = LinkConfig { delay: 1_000 * MS, rate: Some(rate), ..LinkConfig::default() };
        let a = network.add_host(slow, LinkConfig::default());
        let b = network.add_host(LinkConfig::default(), LinkConfig::default());
        network.bind(a, alice);
        network.bind(b, bob);
        for _ in 0..3 {
            network.send(start, datagram(alice, bob, "hello"));
        }
        assert_eq!(network.poll_timeout(), Some(start + 1_264 * MS));
        network.set_links(start + 100 * MS, a, LinkConfig::default(), LinkConfig::default());
        assert_eq!(network.poll_timeout(), Some(start + 264 * MS));
        assert_eq!(std::iter::from_fn(|| network.poll(start + 264 * MS)).count(), 3);
        assert_eq!(network.poll_timeout(), None);
    }
}
