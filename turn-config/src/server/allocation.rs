//! One allocation: its relayed addresses, and which peers it may exchange data with.

use std::{
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use super::{AllocationId, Family, Link, requests::Waiting};
use crate::{
    peers::Reach,
    stun::{Key, PasswordAlgorithm, Transaction},
};

/// What is behind a relay port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Socket {
    /// Nothing: no outside peer has a permission.
    Closed,
    /// It has been asked for.
    Opening,
    /// It is there.
    Open,
}

/// A relayed address.
#[derive(Clone, Copy, Debug)]
pub(super) struct Relayed {
    pub(super) port: u16,
    pub(super) socket: Socket,
}

#[derive(Debug)]
pub(super) struct Allocation {
    pub(super) id: AllocationId,
    pub(super) link: Link,
    pub(super) user: u32,
    pub(super) username: Box<[u8]>,
    pub(super) key: Key,
    pub(super) algorithm: PasswordAlgorithm,
    /// That of the request that made it, which may come again.
    pub(super) transaction: Transaction,
    pub(super) expires: Instant,
    relayed: [Option<Relayed>; 2],
    /// What the next port is reserved under.
    pub(super) token: Option<[u8; 8]>,
    pub(super) peers: Peers,
    /// Requests whose answer depends on a socket.
    pub(super) waiting: Vec<Waiting>,
}

impl Allocation {
    pub(super) fn new(
        id: AllocationId,
        link: Link,
        user: u32,
        username: &[u8],
        sender: super::auth::Sender,
        transaction: Transaction,
        expires: Instant,
    ) -> Self {
        Self {
            id,
            link,
            user,
            username: username.into(),
            key: sender.key,
            algorithm: sender.algorithm,
            transaction,
            expires,
            relayed: [None; 2],
            token: None,
            peers: Peers::default(),
            waiting: Vec::new(),
        }
    }

    pub(super) fn relayed(&self, family: Family) -> Option<Relayed> {
        self.relayed[family as usize]
    }

    pub(super) fn relayed_mut(&mut self, family: Family) -> &mut Option<Relayed> {
        &mut self.relayed[family as usize]
    }

    /// Families that it has a relayed address of.
    pub(super) fn families(&self) -> impl Iterator<Item = Family> + use<> {
        let relayed = self.relayed;
        Family::ALL.into_iter().filter(move |family| relayed[*family as usize].is_some())
    }
}

/// Where data for a peer goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Route {
    Outside,
    Sfu,
    /// To whichever allocation has the port at the moment.
    Relay(Family),
}

/// An address that may send, and be sent to, by any port.
#[derive(Clone, Copy, Debug)]
struct Permission {
    address: IpAddr,
    reach: Reach,
    until: Instant,
}

/// A number that stands for a peer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Channel {
    pub(super) number: u16,
    pub(super) peer: SocketAddr,
    pub(super) route: Route,
    until: Instant,
    /// A copy of the permission's, so that data looks at one entry.
    permitted_until: Instant,
}

impl Channel {
    fn is_live(&self, now: Instant) -> bool {
        now < self.until
    }

    /// Whether data may pass: a channel without a permission is bound, and carries nothing.
    pub(super) fn carries(&self, now: Instant) -> bool {
        now < self.until && now < self.permitted_until
    }
}

/// Permissions and channels. Both lists are short, and looked through: what is used is moved to the front, so that the
/// peer that sends most costs least.
#[derive(Debug, Default)]
pub(super) struct Peers {
    permissions: Vec<Permission>,
    channels: Vec<Channel>,
}

impl Peers {
    /// The channel of this number that carries data now.
    pub(super) fn by_number(&mut self, number: u16, now: Instant) -> Option<&Channel> {
        let at = self.channels.iter().position(|channel| channel.number == number)?;
        self.front(at, now)
    }

    /// The channel of this peer that carries data now.
    pub(super) fn by_peer(&mut self, peer: SocketAddr, now: Instant) -> Option<&Channel> {
        let at = self.channels.iter().position(|channel| channel.peer == peer)?;
        self.front(at, now)
    }

    /// One step: two peers that send in turn do not chase each other through the list.
    fn front(&mut self, at: usize, now: Instant) -> Option<&Channel> {
        let at = if at > 0 {
            self.channels.swap(at - 1, at);
            at - 1
        } else {
            at
        };
        self.channels.get(at).filter(|channel| channel.carries(now))
    }

    /// How an address that has a permission is reached.
    pub(super) fn permission(&self, address: IpAddr, now: Instant) -> Option<Reach> {
        let permission = self.permissions.iter().find(|permission| permission.address == address)?;
        (now < permission.until).then_some(permission.reach)
    }

    /// Whether these addresses still fit among at most `most`.
    pub(super) fn have_room(&mut self, addresses: &[IpAddr], most: usize, now: Instant) -> bool {
        self.permissions.retain(|permission| now < permission.until);
        let is_new = |address: &&IpAddr| !self.permissions.iter().any(|known| known.address == **address);
        let mut new: Vec<_> = addresses.iter().filter(is_new).collect();
        new.sort_unstable();
        new.dedup();
        self.permissions.len() + new.len() <= most
    }

    /// Makes or renews a permission.
    pub(super) fn permit(&mut self, address: IpAddr, reach: Reach, until: Instant) {
        match self.permissions.iter_mut().find(|permission| permission.address == address) {
            Some(permission) => (permission.reach, permission.until) = (reach, until),
            None => self.permissions.push(Permission { address, reach, until }),
        }
        for channel in self.channels.iter_mut().filter(|channel| channel.peer.ip() == address) {
            channel.permitted_until = until;
        }
    }

    /// Whether this number may stand for this peer, with at most `most` channels. A number stands for one peer and a peer
    /// has one number, as long as the binding lives.
    pub(super) fn can_bind(
        &mut self,
        number: u16,
        peer: SocketAddr,
        most: usize,
        now: Instant,
    ) -> Result<(), Unbindable> {
        self.channels.retain(|channel| channel.is_live(now));
        match self.channels.iter().find(|channel| channel.number == number || channel.peer == peer) {
            Some(channel) if channel.number == number && channel.peer == peer => Ok(()),
            Some(_) => Err(Unbindable::Taken),
            None if self.channels.len() >= most => Err(Unbindable::TooMany),
            None => Ok(()),
        }
    }

    /// Makes or renews a channel. Its permission is a matter of its own.
    pub(super) fn bind(&mut self, number: u16, peer: SocketAddr, route: Route, until: Instant) {
        let permission = self.permissions.iter().find(|permission| permission.address == peer.ip());
        let permitted_until = permission.map_or(until, |permission| permission.until);
        self.channels.retain(|channel| channel.number != number && channel.peer != peer);
        self.channels.push(Channel { number, peer, route, until, permitted_until });
    }

    /// Forgets all peers of a family.
    pub(super) fn forget_family(&mut self, family: Family) {
        self.permissions.retain(|permission| Family::of(permission.address) != family);
        self.channels.retain(|channel| Family::of(channel.peer.ip()) != family);
    }

    /// Forgets the peers of a family that are reached through a socket, which is gone.
    pub(super) fn forget_outside(&mut self, family: Family) {
        self.permissions.retain(|permission| {
            permission.reach != Reach::Outside || Family::of(permission.address) != family
        });
        self.channels
            .retain(|channel| channel.route != Route::Outside || Family::of(channel.peer.ip()) != family);
    }
}

/// Why a channel cannot be bound.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Unbindable {
    /// The number or the peer has another one.
    Taken,
    TooMany,
}
