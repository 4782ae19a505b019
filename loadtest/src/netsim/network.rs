//! Hosts that exchange datagrams in virtual time: the network of the worlds.

use std::{collections::BTreeMap, net::SocketAddr, time::Instant};

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
}

#[derive(Debug)]
struct Host {
    up: Link<Datagram>,
    down: Link<Datagram>,
}

impl Network {
    /// A network without hosts.
    pub fn new(seed: u64) -> Self {
        Self { seed, hosts: Vec::new(), addresses: BTreeMap::new() }
    }

    /// A new host, without an address yet, behind these links.
    pub fn add_host(&mut self, up: LinkConfig, down: LinkConfig) -> HostId {
        let number = self.hosts.len() as u64;
        self.hosts.push(Host {
            up: Link::new(up, Rng::stream(self.seed, 2 * number).next_u64()),
            down: Link::new(down, Rng::stream(self.seed, 2 * number + 1).next_u64()),
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
    pub fn up(&mut self, host: HostId) -> &mut Link<Datagram> {
        &mut self.hosts[host.0].up
    }

    /// The link from the network to this host.
    pub fn down(&mut self, host: HostId) -> &mut Link<Datagram> {
        &mut self.hosts[host.0].down
    }

    /// Both links of the host are down for this time.
    pub fn take_down(&mut self, host: HostId, from: Instant, until: Instant) {
        self.up(host).take_down(from, until);
        self.down(host).take_down(from, until);
    }

    /// A datagram leaves the host that has the address `datagram.from`; from any other address it vanishes.
    pub fn send(&mut self, now: Instant, datagram: Datagram) {
        if let Some(&sender) = self.addresses.get(&datagram.from) {
            self.hosts[sender.0].up.send(now, datagram.wire_bytes(), datagram);
        }
    }

    /// The next datagram that has arrived by now, and whose it is.
    pub fn poll(&mut self, now: Instant) -> Option<(HostId, Datagram)> {
        loop {
            let (at, host, direction) = self.next_arrival()?;
            if at > now {
                return None;
            }
            match direction {
                // It entered the second link when it left the first, however late somebody looks.
                Direction::Up => {
                    let Some(datagram) = self.hosts[host.0].up.poll(at) else {
                        continue;
                    };
                    if let Some(&receiver) = self.addresses.get(&datagram.to) {
                        let size = datagram.wire_bytes();
                        self.hosts[receiver.0].down.send(at, size, datagram);
                    }
                }
                Direction::Down => {
                    let Some(datagram) = self.hosts[host.0].down.poll(at) else {
                        continue;
                    };
                    if self.addresses.get(&datagram.to) == Some(&host) {
                        return Some((host, datagram));
                    }
                }
            }
        }
    }

    /// When something next moves.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.next_arrival().map(|(at, _, _)| at)
    }

    /// What moves next. Arrivals into the network come before arrivals from it at the same instant, so that a
    /// path without delay is passed in one call of `poll`.
    fn next_arrival(&self) -> Option<(Instant, HostId, Direction)> {
        self.hosts
            .iter()
            .enumerate()
            .flat_map(|(number, host)| {
                let up = host.up.poll_timeout().map(|at| (at, Direction::Up, number));
                let down = host.down.poll_timeout().map(|at| (at, Direction::Down, number));
                [up, down].into_iter().flatten()
            })
            .min()
            .map(|(at, direction, number)| (at, HostId(number), direction))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;

    use super::*;

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
}
