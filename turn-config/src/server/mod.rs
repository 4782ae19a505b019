//! The STUN and TURN server as a state machine: [RFC 8489](https://www.rfc-editor.org/rfc/rfc8489),
//! [RFC 8656](https://www.rfc-editor.org/rfc/rfc8656).
//!
//! It opens no socket, reads no clock and draws no random number. After every call of a `handle_*` take everything from
//! [`Server::poll_output`], and call [`Server::handle_timeout`] at [`Server::poll_timeout`]. Data is passed on at once and
//! without a copy: [`Server::handle_client`], [`Server::handle_peer`] and [`Server::handle_sfu`] return a [`Forward`] that
//! borrows from their input.
//!
//! # What is particular about it
//!
//! - A relay port is reserved by an Allocate, and its socket is opened when a peer *outside* gets the first permission;
//!   the answer to that request waits for the socket, and is 508 if it cannot be had. A client that only talks to the local
//!   SFU or to other allocations costs no socket.
//! - The server's own addresses lead to two places: the SFU's ports ([`Forward::Sfu`]) and live allocations
//!   (relay to relay, a [`Forward::Client`] for the other client, whose permission it needs). Both are reached in memory, and
//!   this is decided before the lists of networks ([`crate::peers`]). Anything else there is refused or dropped.
//! - Strangers get small and few answers. To a Binding request the answer is at most 24 bytes longer than the request, to
//!   any other at most [`MAX_CHALLENGE`] bytes and the realm. With the default realm that is, on the wire, two and a half
//!   times the shortest request at most. One network gets no more of them than the settings allow.
//! - Everything is bounded: allocations, permissions and channels by the settings, requests that wait by [`MAX_WAITING`],
//!   reserved ports by the quota of their user. What a client can make the server remember, it needs a credential for.
//!
//! Not served: relayed TCP (RFC 6062) and mobility (RFC 8016); clients are told so as the RFCs say.

mod allocation;
mod answers;
mod auth;
mod counters;
mod ports;
mod requests;
mod types;
mod users;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use ring::hmac;
use rustc_hash::FxHashMap;

use self::{
    allocation::{Allocation, Channel, Route, Socket},
    answers::Answers,
    auth::Authenticator,
    ports::Ports,
    users::Users,
};
pub use self::{
    counters::{Counters, Refusal, Traffic},
    requests::{MAX_CHALLENGE, MAX_WAITING},
    types::{AllocationId, Family, Forward, Header, Link, Output, RelaySocket, Transport},
};
use crate::{
    credentials::{self, Keyring},
    peers::{Policy, Reach},
    settings::{Lifetimes, Mode, Problem, Quotas, Turn},
    stun::{self, MAX_DATA_HEADER, Transaction},
};

/// What the server has to know of the machine it runs on.
#[derive(Clone, Debug, Default)]
pub struct Host {
    /// Where the local SFU listens, as its candidates say; these are reached in memory.
    pub sfu: Vec<SocketAddr>,
    /// All addresses of the machine, those that the relay and the SFU advertise included or not.
    pub addresses: Vec<IpAddr>,
    /// Whether relay sockets can forbid fragmentation for a datagram. If not, a client that asks for it is told so.
    pub can_forbid_fragments: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Server {
    lifetimes: Lifetimes,
    quotas: Quotas,
    sfu: Vec<SocketAddr>,
    can_forbid_fragments: bool,
    relays: [Option<Relay>; 2],
    policy: Policy,
    authenticator: Authenticator,
    answers: Answers,
    random: Random,
    clock: (Instant, u64),
    allocations: Vec<Option<Box<Allocation>>>,
    vacant: Vec<u32>,
    serial: u32,
    /// Never iterated over: its order depends on hashing. Only who has a credential gets into it.
    by_link: FxHashMap<Link, u32>,
    users: Users,
    reservations: BTreeMap<[u8; 8], Reservation>,
    timers: BTreeSet<(Instant, Timer)>,
    outputs: VecDeque<Output>,
    indications: (u32, u64),
    counters: Counters,
    /// Seconds.
    credential_ttl: u64,
    /// Users who were shut out; their credentials that expire at this Unix time or before are void.
    void: BTreeMap<Box<[u8]>, u64>,
}

/// The relayed addresses of a family.
#[derive(Debug)]
struct Relay {
    bind: IpAddr,
    advertised: IpAddr,
    ports: Ports,
}

/// A port that was reserved with its lower neighbour.
#[derive(Debug)]
struct Reservation {
    family: Family,
    port: u16,
    user: u32,
    until: Instant,
}

/// What ends.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Timer {
    Allocation(u32),
    Reservation([u8; 8]),
    User(u32),
}

/// Random numbers that cannot be guessed, as a function of a seed.
#[derive(Debug)]
struct Random {
    key: hmac::Key,
    drawn: u64,
}

impl Random {
    fn bytes(&mut self) -> [u8; 8] {
        self.drawn += 1;
        let tag = hmac::sign(&self.key, &self.drawn.to_be_bytes());
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&tag.as_ref()[..8]);
        bytes
    }

    fn number(&mut self) -> u64 {
        u64::from_be_bytes(self.bytes())
    }
}

impl Server {
    /// A server for these settings, on this machine. `unix` is the Unix time in seconds at `now`, for credentials. The seed
    /// is to be drawn at random for each start.
    ///
    /// # Errors
    /// What is wrong with the settings.
    pub fn new(
        turn: &Turn,
        host: &Host,
        now: Instant,
        unix: u64,
        seed: [u8; 32],
    ) -> Result<Self, Vec<Problem>> {
        turn.check()?;
        let missing = |field, advice: &str| {
            vec![Problem { field, value: "missing".to_owned(), advice: advice.to_owned() }]
        };
        if turn.mode != Mode::Embedded {
            let advice = "set it to embedded; another server relays, or none".to_owned();
            return Err(vec![Problem { field: "turn.mode", value: format!("{:?}", turn.mode), advice }]);
        }
        let Some(secret) = &turn.credentials.secret else {
            return Err(missing("turn.credentials.secret", "write one"));
        };
        let relay = &turn.relay;
        let relays = [
            (relay.bind_v4.map(IpAddr::from), relay.advertise_v4.map(IpAddr::from)),
            (relay.bind_v6.map(IpAddr::from), relay.advertise_v6.map(IpAddr::from)),
        ];
        if relays.iter().all(|(bind, _)| bind.is_none()) {
            return Err(missing("turn.relay.bind_v4", "name an address of this machine, here or as bind_v6"));
        }
        let own = host.addresses.iter().copied();
        let own = own.chain(host.sfu.iter().map(SocketAddr::ip));
        let own = own.chain(relays.iter().flat_map(|(bind, advertise)| [*bind, *advertise]).flatten());
        let policy = Policy::new(own, &turn.allow, &turn.deny);

        let seed = hmac::Key::new(hmac::HMAC_SHA256, &seed);
        let keyring =
            Keyring::new(secret, turn.credentials.previous_secret.as_ref(), unix, turn.credentials.overlap);
        let nonce_seed = hmac::sign(&seed, b"nonces");
        let nonce_lifetime = turn.lifetimes.nonce;
        let authenticator =
            Authenticator::new(&turn.realm, keyring, nonce_seed.as_ref(), nonce_lifetime, now);
        let mut random = Random { key: seed, drawn: 0 };
        let quotas = turn.quotas.clone();
        Ok(Self {
            sfu: host.sfu.iter().map(|address| canonical(*address)).collect(),
            can_forbid_fragments: host.can_forbid_fragments,
            relays: relays.map(|(bind, advertise)| {
                bind.map(|bind| Relay {
                    bind,
                    advertised: advertise.unwrap_or(bind),
                    ports: Ports::new(relay.min_port, relay.max_port),
                })
            }),
            policy,
            authenticator,
            answers: Answers::new(quotas.answers_per_second, quotas.answers_burst, random.number(), now),
            clock: (now, unix),
            allocations: Vec::new(),
            vacant: Vec::new(),
            serial: 0,
            by_link: FxHashMap::default(),
            users: Users::new(quotas.bytes_per_second, quotas.bytes_burst),
            reservations: BTreeMap::new(),
            timers: BTreeSet::new(),
            outputs: VecDeque::new(),
            indications: (random.number() as u32, random.number()),
            counters: Counters::default(),
            credential_ttl: turn.credentials.ttl.as_secs(),
            void: BTreeMap::new(),
            lifetimes: turn.lifetimes.clone(),
            quotas,
            random,
        })
    }

    /// A message from a client: a datagram, or one message of its stream.
    pub fn handle_client<'a>(&mut self, now: Instant, link: &Link, bytes: &'a [u8]) -> Option<Forward<'a>> {
        match bytes.first() {
            // RFC 8656 section 12 ends them at 0x4fff, to be told from other protocols on one port, which are not here. Clients
            // that keep to RFC 5766 take any up to 0x7fff.
            Some(0x40..0x80) => self.handle_channel_data(now, link, bytes),
            Some(0x00..0x40) => self.handle_message(now, link, bytes),
            _ => self.drop_data(Refusal::Malformed),
        }
    }

    /// A datagram that came to a relay socket.
    pub fn handle_peer<'a>(
        &mut self,
        now: Instant,
        relay: RelaySocket,
        peer: SocketAddr,
        payload: &'a [u8],
    ) -> Option<Forward<'a>> {
        let allocation = self.allocation(relay.allocation)?;
        if allocation.relayed(relay.family)?.port != relay.port {
            return None;
        }
        self.pass_to_client(now, relay.allocation.slot, canonical(peer), Arrival::Outside, payload)
    }

    /// What the local SFU sends from `from`, one of its addresses, to an allocation.
    pub fn handle_sfu<'a>(
        &mut self,
        now: Instant,
        allocation: AllocationId,
        from: SocketAddr,
        payload: &'a [u8],
    ) -> Option<Forward<'a>> {
        self.allocation(allocation)?;
        self.pass_to_client(now, allocation.slot, canonical(from), Arrival::Inside, payload)
    }

    /// A socket that was asked for is there, or cannot be had, or has failed since.
    pub fn handle_opened(&mut self, now: Instant, relay: RelaySocket, is_open: bool) {
        self.socket_changed(now, relay, is_open);
    }

    /// A client's stream has ended.
    pub fn handle_closed(&mut self, now: Instant, link: &Link) {
        if let Some(&slot) = self.by_link.get(link) {
            self.end(now, slot);
        }
    }

    /// Ends all allocations of a user, as [`crate::credentials`] names them, and voids the credentials that were issued to
    /// them until now. Those that are issued later are good.
    pub fn shut_out(&mut self, now: Instant, user: &[u8]) {
        let is_theirs = |allocation: &Allocation| {
            credentials::user_of(&allocation.username).is_some_and(|name| name == user)
        };
        for slot in 0..self.allocations.len() {
            if self.allocations[slot].as_deref().is_some_and(is_theirs) {
                self.end(now, slot as u32);
            }
        }
        let unix = self.unix(now);
        // What has expired anyway need not be remembered.
        self.void.retain(|_, expiry| *expiry > unix);
        self.void.insert(user.into(), unix.saturating_add(self.credential_ttl));
    }

    /// The machine's clock was set: the Unix time in seconds at `now`.
    pub fn set_clock(&mut self, now: Instant, unix: u64) {
        self.clock = (now, unix);
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(&(at, timer)) = self.timers.first()
            && at <= now
        {
            self.timers.pop_first();
            match timer {
                Timer::Allocation(slot) => self.end(now, slot),
                Timer::Reservation(token) => {
                    if let Some(reservation) = self.reservations.remove(&token) {
                        self.free_port(reservation.family, reservation.port);
                        self.release_user(reservation.user, now);
                    }
                }
                Timer::User(slot) => self.users.forget(slot, at),
            }
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// What is to be done.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// What has been counted.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Whether a client has an allocation; see [`crate::framing`].
    #[must_use]
    pub fn has_allocation(&self, link: &Link) -> bool {
        self.by_link.contains_key(link)
    }

    /// How many slots there are for allocations; it grows and never shrinks.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.allocations.len()
    }

    /// Users who are remembered.
    #[must_use]
    pub fn users(&self) -> usize {
        self.users.len()
    }

    fn handle_channel_data<'a>(&mut self, now: Instant, link: &Link, bytes: &'a [u8]) -> Option<Forward<'a>> {
        let message = bytes.split_first_chunk().and_then(|(&[n0, n1, l0, l1], rest)| {
            // What follows is padding, which is allowed in datagrams too.
            let payload = rest.get(..usize::from(u16::from_be_bytes([l0, l1])))?;
            Some((u16::from_be_bytes([n0, n1]), payload))
        });
        let Some((number, payload)) = message else { return self.drop_data(Refusal::Malformed) };
        let Some(&slot) = self.by_link.get(link) else { return self.drop_data(Refusal::NoAllocation) };
        let Some(allocation) = live(&mut self.allocations, slot, now) else {
            return self.drop_data(Refusal::NoAllocation);
        };
        let Some(&Channel { peer, route, .. }) = allocation.peers.by_number(number, now) else {
            return self.drop_data(Refusal::NoPermission);
        };
        self.pass_to_peer(now, slot, peer, route, payload, false)
    }

    /// Data of a client that has been found to have a permission for it.
    fn pass_to_peer<'a>(
        &mut self,
        now: Instant,
        slot: u32,
        peer: SocketAddr,
        route: Route,
        payload: &'a [u8],
        dont_fragment: bool,
    ) -> Option<Forward<'a>> {
        let family = Family::of(peer.ip());
        let allocation = self.allocations[slot as usize].as_deref()?;
        let (id, user, relayed) = (allocation.id, allocation.user, allocation.relayed(family)?);
        if !self.users.take(user, payload.len(), now) {
            return self.drop_data(Refusal::Bandwidth);
        }
        self.counters.from_clients.add(payload.len());
        match route {
            Route::Outside if relayed.socket == Socket::Open => {
                let relay = RelaySocket { allocation: id, family, port: relayed.port };
                Some(Forward::Peer { relay, peer, payload, dont_fragment })
            }
            Route::Outside => self.drop_data(Refusal::NoPermission),
            Route::Sfu => {
                self.counters.to_sfu.add(payload.len());
                let from = self.relayed_address(family, relayed.port)?;
                Some(Forward::Sfu { allocation: id, from, to: peer, payload })
            }
            Route::Relay(family) => {
                let relay = self.relays[family as usize].as_ref()?;
                let from = SocketAddr::new(relay.advertised, relayed.port);
                let Some(other) = relay.ports.allocation(peer.port()) else {
                    return self.drop_data(Refusal::NothingThere);
                };
                let forward = self.pass_to_client(now, other, from, Arrival::Inside, payload)?;
                self.counters.between_allocations.add(payload.len());
                Some(forward)
            }
        }
    }

    /// Data for a client, which needs a permission for where it comes from.
    fn pass_to_client<'a>(
        &mut self,
        now: Instant,
        slot: u32,
        from: SocketAddr,
        arrival: Arrival,
        payload: &'a [u8],
    ) -> Option<Forward<'a>> {
        let Some(allocation) = live(&mut self.allocations, slot, now) else {
            return self.drop_data(Refusal::NoAllocation);
        };
        let (link, user) = (allocation.link, allocation.user);
        let channel = allocation.peers.by_peer(from, now).map(|channel| (channel.number, channel.route));
        let arrival_of = |is_outside| if is_outside { Arrival::Outside } else { Arrival::Inside };
        let permitted = match channel {
            Some((_, route)) => Some(arrival_of(route == Route::Outside)),
            None => {
                let reach = allocation.peers.permission(from.ip(), now);
                reach.map(|reach| arrival_of(reach == Reach::Outside))
            }
        };
        // What comes from outside and bears an address of ours is forged.
        if permitted != Some(arrival) {
            return self.drop_data(Refusal::NoPermission);
        }
        if !self.users.take(user, payload.len(), now) {
            return self.drop_data(Refusal::Bandwidth);
        }
        let mut header = Header { bytes: [0; MAX_DATA_HEADER], length: 4 };
        let mut padding = 0;
        let length = u16::try_from(payload.len()).ok()?;
        match channel {
            Some((number, _)) => {
                header.bytes[..2].copy_from_slice(&number.to_be_bytes());
                header.bytes[2..4].copy_from_slice(&length.to_be_bytes());
            }
            None => {
                let transaction = self.indication();
                let length = stun::data_indication(&mut header.bytes, &transaction, from, payload.len())?;
                header.length = length as u8;
            }
        }
        if channel.is_none() || link.transport.is_stream() {
            padding = payload.len().next_multiple_of(4) - payload.len();
        }
        self.counters.to_clients.add(payload.len());
        Some(Forward::Client { link, header, payload, padding })
    }

    /// A transaction for an indication, which nobody answers: it only has to be another one each time.
    fn indication(&mut self) -> Transaction {
        let (prefix, number) = &mut self.indications;
        *number = number.wrapping_add(1);
        let mut transaction = Transaction::default();
        transaction[..4].copy_from_slice(&prefix.to_be_bytes());
        transaction[4..].copy_from_slice(&number.to_be_bytes());
        transaction
    }

    fn drop_data<'a>(&mut self, why: Refusal) -> Option<Forward<'a>> {
        self.counters.refuse(why);
        None
    }

    fn allocation(&self, id: AllocationId) -> Option<&Allocation> {
        self.allocations.get(id.slot as usize)?.as_deref().filter(|allocation| allocation.id == id)
    }

    /// The address that peers see.
    fn relayed_address(&self, family: Family, port: u16) -> Option<SocketAddr> {
        self.relays[family as usize].as_ref().map(|relay| SocketAddr::new(relay.advertised, port))
    }

    fn unix(&self, now: Instant) -> u64 {
        let (at, unix) = self.clock;
        unix.saturating_add(now.saturating_duration_since(at).as_secs())
    }

    /// Ends an allocation, whatever the reason.
    fn end(&mut self, now: Instant, slot: u32) {
        let Some(allocation) = self.allocations[slot as usize].take() else { return };
        self.by_link.remove(&allocation.link);
        self.timers.remove(&(allocation.expires, Timer::Allocation(slot)));
        self.vacant.push(slot);
        for family in allocation.families() {
            self.end_relayed(&allocation, family);
        }
        self.release_user(allocation.user, now);
        self.counters.allocations_now[allocation.link.transport as usize] -= 1;
        self.outputs.push_back(Output::Ended { allocation: allocation.id, link: allocation.link });
    }

    fn end_relayed(&mut self, allocation: &Allocation, family: Family) {
        let Some(relayed) = allocation.relayed(family) else { return };
        self.free_port(family, relayed.port);
        if relayed.socket != Socket::Closed {
            let relay = RelaySocket { allocation: allocation.id, family, port: relayed.port };
            self.outputs.push_back(Output::Close { relay });
        }
    }

    fn free_port(&mut self, family: Family, port: u16) {
        if let Some(relay) = &mut self.relays[family as usize] {
            relay.ports.free(port);
        }
    }

    fn release_user(&mut self, user: u32, now: Instant) {
        if let Some(at) = self.users.release(user, now) {
            self.timers.insert((at, Timer::User(user)));
        }
    }
}

/// Which way data comes to an allocation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Arrival {
    /// Through its relay socket.
    Outside,
    /// In memory, from the SFU or another allocation.
    Inside,
}

fn live(allocations: &mut [Option<Box<Allocation>>], slot: u32, now: Instant) -> Option<&mut Allocation> {
    allocations.get_mut(slot as usize)?.as_deref_mut().filter(|allocation| now < allocation.expires)
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
