//! What lies between a world's clients and its shards where clients have access networks of their own ([`super::access`])
//! and the server its relay ([`super::relay`]).

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use bytes::Bytes;
use switchyard::engine::{Command, path::Path};
use switchyard_loadtest::{netsim::NetworkSpec, rng::Rng};

use super::{
    World,
    access::{Line, Said, Turned},
    shard_address,
};

/// How long after a WebSocket was given up in a network that is gone, or another one, the server knows, at least and at most.
const NOTICED: [Duration; 2] = [Duration::from_secs(20), Duration::from_secs(30)];

impl World {
    /// A client's access network, at an address that is its alone.
    pub(super) fn add_line(&mut self, client: usize, inside: SocketAddr, spec: &NetworkSpec) -> Line {
        let public = IpAddr::from([10, 2, (client / 250) as u8, (client % 250) as u8 + 1]);
        self.lines.insert(public, client);
        let seed = Rng::stream(self.setup.seed, 2000 + client as u64).next_u64();
        Line::new(self.now, spec, (inside, public), seed)
    }

    /// Moves what is on its way in the access networks, and hands the server what comes out of them.
    pub(super) fn carry_lines(&mut self) -> bool {
        let (now, mut moved) = (self.now, false);
        let (mut said, mut turned) = (Vec::new(), Vec::new());
        for (number, client) in self.clients.iter_mut().enumerate() {
            let Some(line) = &mut client.line else { continue };
            let has_moved =
                line.carry(&mut client.browser, now, client.touched, &mut self.next_connection, &mut said);
            client.touched |= has_moved;
            moved |= has_moved;
            turned.extend(line.turned.drain(..).map(|turned| (number, turned)));
        }
        moved |= !said.is_empty() || !turned.is_empty();
        for (client, turned) in turned {
            match turned {
                Turned::Open(number) => {
                    let wire = self.new_wire(client);
                    self.clients[client].wires.insert(number, wire);
                }
                Turned::Abandoned(number) => {
                    // A network that is gone, or another one: the server waits for it long.
                    if let Some(wire) = self.clients[client].wires.remove(&number) {
                        self.leave_ghost(&wire, NOTICED);
                    }
                }
            }
        }
        for said in said {
            match said {
                Said::ToShard(..) if self.setup.closed_media || self.is_down() => {}
                Said::ToShard(shard, datagram) => {
                    self.serves = true;
                    self.turn(shard, |shard| shard.handle_datagram(datagram, now));
                }
                Said::PathClosed(path) => self.close_path(path),
                Said::ToRelay(link, bytes) => {
                    if let Some(relay) = &mut self.relay {
                        relay.handle_client(now, &link, &bytes);
                    }
                }
                Said::RelayClosed(link) => {
                    if let Some(relay) = &mut self.relay {
                        relay.handle_closed(now, &link);
                    }
                }
            }
        }
        moved
    }

    /// Carries what the relay has for clients and shards.
    pub(super) fn carry_relay(&mut self) -> bool {
        let Some(relay) = &mut self.relay else { return false };
        let (now, closed) = (self.now, relay.take_closed());
        let (for_shards, for_clients) = (relay.take_for_shards(), relay.take_for_clients());
        let moved = !(for_shards.is_empty() && for_clients.is_empty() && closed.is_empty());
        for (link, bytes) in for_clients {
            if let Some(line) = self.line_at(link.remote.ip()) {
                line.handle_relay(now, &link, bytes);
            }
        }
        for (shard, datagram) in for_shards {
            self.turn(shard, |shard| shard.handle_datagram(datagram, now));
        }
        closed.into_iter().for_each(|path| self.close_path(path));
        moved
    }

    fn close_path(&mut self, path: Path) {
        let now = self.now;
        for shard in 0..self.shards.len() {
            self.turn(shard, |shard| shard.handle_command(Command::PathClosed(path), now));
        }
    }

    fn line_at(&mut self, public: IpAddr) -> Option<&mut Line> {
        let client = *self.lines.get(&public)?;
        self.clients[client].line.as_mut()
    }

    /// Sends a datagram of a shard's to a client behind an access network, or to the relay.
    pub(super) fn send_by(&mut self, shard: usize, path: Path, datagram: Bytes) {
        let (now, from) = (self.now, shard_address(shard));
        match path {
            Path::Udp(to) => {
                if let Some(line) = self.line_at(to.ip()) {
                    line.handle_datagram(now, from, to, datagram);
                }
            }
            Path::Tcp(connection) => {
                let mut lines = self.clients.iter_mut().filter_map(|client| client.line.as_mut());
                lines.any(|line| line.handle_ice_tcp(now, connection, &datagram));
            }
            Path::Relay(allocation) => {
                if let Some(relay) = &mut self.relay {
                    relay.handle_sfu(now, allocation, from, &datagram);
                }
            }
        }
    }
}
