//! What clients ask for: Binding, Allocate, Refresh, CreatePermission, ChannelBind, and the Send indication.

use std::{net::IpAddr, time::Duration, time::Instant};

use super::{
    Allocation, AllocationId, Family, Forward, Link, Output, Refusal, RelaySocket, Reservation, Route,
    Server, Socket, Timer,
    allocation::{Relayed, Unbindable},
    auth::{Denied, Known, NONCE, Sender},
    canonical, live,
};
use crate::{
    credentials,
    peers::Reach,
    stun::{self, Builder, Class, Integrity, Key, MAX_SIGNED, Message, Transaction, attribute, method},
};

/// Requests of one allocation that wait for a socket. More are dropped; clients repeat them.
pub const MAX_WAITING: usize = 8;
/// Bytes of a challenge, besides the realm with its padding: header, error, realm's head, nonce, algorithms, fingerprint.
pub const MAX_CHALLENGE: usize = stun::HEADER_LEN + 8 + 4 + (4 + NONCE.next_multiple_of(4)) + 12 + 8;

/// UDP, as `REQUESTED-TRANSPORT` has it.
const UDP: u8 = 17;
/// How long a reserved port is kept.
const RESERVATION: Duration = Duration::from_secs(30);
const SOFTWARE: &[u8] = b"switchyard";

/// A refusal of an authenticated request.
type Refused = (u16, Refusal);

/// What is needed to answer a request.
#[derive(Clone, Copy, Debug)]
struct Asked {
    method: u16,
    transaction: Transaction,
    integrity: Integrity,
    has_fingerprint: bool,
}

/// A request whose answer depends on sockets.
#[derive(Debug)]
pub(super) struct Waiting {
    asked: Asked,
    /// By family.
    needs: [bool; 2],
    effect: Effect,
}

/// What a request does once it may.
#[derive(Debug)]
enum Effect {
    Permit(Vec<(IpAddr, Reach)>),
    Bind { number: u16, peer: std::net::SocketAddr, reach: Reach, route: Route },
}

impl Effect {
    /// The families whose sockets it needs.
    fn needs(&self) -> [bool; 2] {
        let mut needs = [false; 2];
        let mut need = |address: IpAddr, reach: Reach| {
            needs[Family::of(address) as usize] |= reach == Reach::Outside;
        };
        match self {
            Self::Permit(addresses) => addresses.iter().for_each(|(address, reach)| need(*address, *reach)),
            Self::Bind { peer, reach, .. } => need(peer.ip(), *reach),
        }
        needs
    }
}

/// What comes of a request.
enum Outcome {
    /// It is done, and this is the answer.
    Done(Builder),
    /// It waits.
    Later,
}

impl Server {
    pub(super) fn handle_message<'a>(
        &mut self,
        now: Instant,
        link: &Link,
        bytes: &'a [u8],
    ) -> Option<Forward<'a>> {
        let message = match Message::parse(bytes) {
            Ok(message) if message.verify_fingerprint() != Some(false) => message,
            _ => return self.drop_data(Refusal::Malformed),
        };
        match (message.class, message.method) {
            (Class::Indication, method::SEND) => return self.handle_send(now, link, &message),
            // Keeps a NAT's binding alive.
            (Class::Indication, method::BINDING) => {}
            (Class::Request, method::BINDING) => self.handle_binding(now, link, &message),
            (
                Class::Request,
                method::ALLOCATE | method::REFRESH | method::CREATE_PERMISSION | method::CHANNEL_BIND,
            ) if bytes.len() <= MAX_SIGNED => self.handle_request(now, link, &message),
            _ => return self.drop_data(Refusal::Unexpected),
        }
        None
    }

    /// RFC 8656 section 11.
    fn handle_send<'a>(&mut self, now: Instant, link: &Link, message: &Message<'a>) -> Option<Forward<'a>> {
        let dont_fragment = message.dont_fragment;
        let (Some(peer), Some(payload)) = (message.peer.map(canonical), message.data) else {
            return self.drop_data(Refusal::BadRequest);
        };
        if !message.unknown().is_empty() || (dont_fragment && !self.can_forbid_fragments) {
            return self.drop_data(Refusal::UnknownAttribute);
        }
        let Some(&slot) = self.by_link.get(link) else { return self.drop_data(Refusal::NoAllocation) };
        let Some(allocation) = live(&mut self.allocations, slot, now) else {
            return self.drop_data(Refusal::NoAllocation);
        };
        let Some(reach) = allocation.peers.permission(peer.ip(), now) else {
            return self.drop_data(Refusal::NoPermission);
        };
        let Some(route) = self.route(peer, reach) else { return self.drop_data(Refusal::NothingThere) };
        self.pass_to_peer(now, slot, peer, route, payload, dont_fragment)
    }

    /// Where data for a peer goes. `None` if there is nothing at that port.
    fn route(&self, peer: std::net::SocketAddr, reach: Reach) -> Option<Route> {
        let family = Family::of(peer.ip());
        match reach {
            Reach::Outside => Some(Route::Outside),
            Reach::Forbidden => None,
            Reach::Own if self.sfu.contains(&peer) => Some(Route::Sfu),
            Reach::Own => self.relays[family as usize]
                .as_ref()
                .filter(|relay| relay.advertised == peer.ip())
                .filter(|relay| relay.ports.allocation(peer.port()).is_some())
                .map(|_| Route::Relay(family)),
        }
    }

    /// RFC 8489 section 12. Without credentials, and so within the limits for strangers.
    fn handle_binding(&mut self, now: Instant, link: &Link, message: &Message<'_>) {
        if !self.answers.take(link.remote.ip(), now) {
            return self.counters.refuse(Refusal::AnswerRate);
        }
        let builder = if message.unknown().is_empty() {
            self.counters.bindings += 1;
            Builder::new(Class::Success, method::BINDING, &message.transaction)
                .address(attribute::XOR_MAPPED_ADDRESS, link.remote)
        } else {
            self.counters.refuse(Refusal::UnknownAttribute);
            Builder::new(Class::Error, method::BINDING, &message.transaction)
                .error(420)
                .unknown(message.unknown())
        };
        let bytes = builder.finish(message.verify_fingerprint().is_some());
        self.outputs.push_back(Output::Send { link: *link, bytes });
    }

    fn handle_request(&mut self, now: Instant, link: &Link, message: &Message<'_>) {
        let mut slot = self.by_link.get(link).copied();
        if let Some(expired) = slot.filter(|slot| live(&mut self.allocations, *slot, now).is_none()) {
            self.end(now, expired);
            slot = None;
        }
        let allocation = slot.and_then(|slot| self.allocations[slot as usize].as_deref());
        let known = allocation.map(|allocation| Known {
            username: &allocation.username,
            key: &allocation.key,
            algorithm: allocation.algorithm,
        });
        let unix = self.unix(now);
        let sender = match self.authenticator.authenticate(message, link, known, now, unix) {
            Ok(sender) => sender,
            Err(denied) => return self.deny(now, link, message, denied),
        };
        let asked = Asked {
            method: message.method,
            transaction: message.transaction,
            integrity: message.integrity().unwrap_or(Integrity::Sha1),
            has_fingerprint: message.verify_fingerprint().is_some(),
        };
        let key = sender.key.clone();
        let outcome = match self.unknown(message) {
            unknown if !unknown.is_empty() => {
                self.counters.refuse(Refusal::UnknownAttribute);
                Ok(Outcome::Done(refusal(&asked, 420).unknown(&unknown)))
            }
            _ if message.has_bad_value => Err((400, Refusal::BadRequest)),
            _ => self.act(now, link, slot, message, asked, sender),
        };
        match outcome {
            Ok(Outcome::Done(builder)) => self.answer(link, &asked, &key, builder),
            Ok(Outcome::Later) => {}
            Err((code, why)) => {
                self.counters.refuse(why);
                self.answer(link, &asked, &key, refusal(&asked, code));
            }
        }
    }

    fn act(
        &mut self,
        now: Instant,
        link: &Link,
        slot: Option<u32>,
        message: &Message<'_>,
        asked: Asked,
        sender: Sender,
    ) -> Result<Outcome, Refused> {
        let mismatch = (437, Refusal::Mismatch);
        if message.method == method::ALLOCATE {
            return match slot {
                None => self.allocate(now, link, message, sender).map(Outcome::Done),
                // The answer was lost, and the request comes again.
                Some(slot) if self.is_repeated(slot, message) => {
                    self.allocated(now, slot, message).map(Outcome::Done)
                }
                Some(_) => Err(mismatch),
            };
        }
        let slot = slot.ok_or(mismatch)?;
        let allocation = self.allocations[slot as usize].as_deref().ok_or(mismatch)?;
        if message.username != Some(&*allocation.username) {
            return Err((441, Refusal::WrongUser));
        }
        let effect = match message.method {
            method::REFRESH => return self.refresh(now, slot, message).map(Outcome::Done),
            method::CREATE_PERMISSION => self.permissions(slot, message)?,
            _ => self.channel(slot, message)?,
        };
        self.take_effect(now, slot, asked, effect)
    }

    /// Attributes that must be understood and are not.
    fn unknown(&self, message: &Message<'_>) -> Vec<u16> {
        let mut unknown = message.unknown().to_vec();
        if message.dont_fragment && !self.can_forbid_fragments {
            unknown.push(attribute::DONT_FRAGMENT);
        }
        unknown
    }

    fn deny(&mut self, now: Instant, link: &Link, message: &Message<'_>, denied: Denied) {
        if let Some(why) = denied.why {
            self.counters.refuse(why);
        }
        if !self.answers.take(link.remote.ip(), now) {
            return self.counters.refuse(Refusal::AnswerRate);
        }
        let mut builder = Builder::new(Class::Error, message.method, &message.transaction).error(denied.code);
        if denied.is_challenge() {
            builder = self.authenticator.challenge(builder, link, now);
        }
        let bytes = builder.finish(message.verify_fingerprint().is_some());
        self.outputs.push_back(Output::Send { link: *link, bytes });
    }

    fn answer(&mut self, link: &Link, asked: &Asked, key: &Key, builder: Builder) {
        let bytes = builder.sign(asked.integrity, key).finish(asked.has_fingerprint);
        self.outputs.push_back(Output::Send { link: *link, bytes });
    }

    fn is_repeated(&self, slot: u32, message: &Message<'_>) -> bool {
        self.allocations[slot as usize]
            .as_deref()
            .is_some_and(|allocation| allocation.transaction == message.transaction)
    }

    /// RFC 8656 section 7.2.
    fn allocate(
        &mut self,
        now: Instant,
        link: &Link,
        message: &Message<'_>,
        sender: Sender,
    ) -> Result<Builder, Refused> {
        let bad = (400, Refusal::BadRequest);
        match message.transport {
            None => return Err(bad),
            Some(UDP) => {}
            Some(_) => return Err((442, Refusal::UnsupportedTransport)),
        }
        let reserves = message.even_port == Some(true);
        let is_contradictory = match (message.reservation, message.additional_family) {
            (Some(_), _) => {
                message.even_port.is_some() || message.family.is_some() || message.additional_family.is_some()
            }
            (None, Some(additional)) => {
                message.family.is_some() || reserves || Family::from_wire(additional) != Some(Family::V6)
            }
            (None, None) => false,
        };
        if is_contradictory {
            return Err(bad);
        }
        let username = message.username.ok_or(bad)?;
        let user = credentials::user_of(username).ok_or((401, Refusal::UnknownUser))?;
        if self.void.get(user).is_some_and(|until| credentials::expiry_of(username) <= Some(*until)) {
            return Err((403, Refusal::ShutOut));
        }
        let family = match message.family {
            None => Family::V4,
            Some(family) => Family::from_wire(family).ok_or((440, Refusal::UnsupportedFamily))?,
        };

        let (family, port, next) = match message.reservation {
            Some(token) => {
                let (family, port) = self.redeem(now, token, user)?;
                (family, port, None)
            }
            None => {
                self.check_quotas(user, 1 + u32::from(reserves))?;
                let (port, next) = self.find_port(family, message.even_port)?;
                (family, port, next)
            }
        };
        let user = self.users.hold(user, now);

        let slot = self.vacant.pop().unwrap_or(self.allocations.len() as u32);
        self.serial = self.serial.wrapping_add(1).max(1);
        let id = AllocationId { slot, serial: self.serial };
        let expires = now + self.lifetime(message.lifetime);
        let transaction = message.transaction;
        let mut allocation = Allocation::new(id, *link, user, username, sender, transaction, expires);
        self.give_port(&mut allocation, family, port);
        if message.additional_family.is_some()
            && let Ok((port, _)) = self.find_port(Family::V6, None)
        {
            self.give_port(&mut allocation, Family::V6, port);
        }
        if let Some(next) = next {
            allocation.token = Some(self.reserve(now, family, next, user, username));
        }
        match self.allocations.get_mut(slot as usize) {
            Some(vacant) => *vacant = Some(Box::new(allocation)),
            None => self.allocations.push(Some(Box::new(allocation))),
        }
        self.by_link.insert(*link, slot);
        self.timers.insert((expires, Timer::Allocation(slot)));
        self.counters.allocations[link.transport as usize] += 1;
        self.counters.allocations_now[link.transport as usize] += 1;
        self.allocated(now, slot, message)
    }

    fn check_quotas(&self, user: &[u8], wanted: u32) -> Result<(), Refused> {
        if self.users.holdings(user) + wanted > self.quotas.allocations_per_user {
            return Err((486, Refusal::UserQuota));
        }
        let all = self.by_link.len() + self.reservations.len();
        if all as u64 + u64::from(wanted) > u64::from(self.quotas.allocations) {
            return Err((508, Refusal::Capacity));
        }
        Ok(())
    }

    /// A port, and the next one if it is to be reserved.
    fn find_port(&mut self, family: Family, even: Option<bool>) -> Result<(u16, Option<u16>), Refused> {
        let random = self.random.number();
        let relay = self.relays[family as usize].as_ref().ok_or((440, Refusal::UnsupportedFamily))?;
        let reserves = even == Some(true);
        let port = relay.ports.find(random, even.is_some(), reserves).ok_or((508, Refusal::Capacity))?;
        Ok((port, reserves.then(|| port.wrapping_add(1))))
    }

    fn give_port(&mut self, allocation: &mut Allocation, family: Family, port: u16) {
        if let Some(relay) = &mut self.relays[family as usize] {
            relay.ports.give(port, allocation.id.slot);
            *allocation.relayed_mut(family) = Some(Relayed { port, socket: Socket::Closed });
        }
    }

    /// Keeps a port for whoever of this user shows the token that this returns.
    fn reserve(&mut self, now: Instant, family: Family, port: u16, user: u32, username: &[u8]) -> [u8; 8] {
        let token = self.random.bytes();
        let until = now + RESERVATION;
        if let Some(relay) = &mut self.relays[family as usize] {
            relay.ports.reserve(port);
        }
        if let Some(name) = credentials::user_of(username) {
            self.users.hold(name, now);
        }
        self.reservations.insert(token, Reservation { family, port, user, until });
        self.timers.insert((until, Timer::Reservation(token)));
        token
    }

    /// The port that is kept for a token, if the token is this user's. It is kept no longer.
    fn redeem(&mut self, now: Instant, token: [u8; 8], user: &[u8]) -> Result<(Family, u16), Refused> {
        let is_theirs =
            |reservation: &&Reservation| self.users.is(reservation.user, user) && now < reservation.until;
        let reservation = self.reservations.get(&token).filter(is_theirs);
        let &Reservation { family, port, user, until } = reservation.ok_or((508, Refusal::Capacity))?;
        self.reservations.remove(&token);
        self.timers.remove(&(until, Timer::Reservation(token)));
        self.release_user(user, now);
        Ok((family, port))
    }

    fn lifetime(&self, wanted: Option<u32>) -> Duration {
        let wanted = wanted.map_or(Duration::ZERO, |seconds| Duration::from_secs(seconds.into()));
        wanted.min(self.lifetimes.allocation_max).max(self.lifetimes.allocation)
    }

    /// The answer to a request that made an allocation.
    fn allocated(&self, now: Instant, slot: u32, message: &Message<'_>) -> Result<Builder, Refused> {
        let mismatch = (437, Refusal::Mismatch);
        let allocation = self.allocations[slot as usize].as_deref().ok_or(mismatch)?;
        let mut builder = Builder::new(Class::Success, message.method, &message.transaction);
        for family in allocation.families() {
            let port = allocation.relayed(family).map_or(0, |relayed| relayed.port);
            let address = self.relayed_address(family, port).ok_or(mismatch)?;
            builder = builder.address(attribute::XOR_RELAYED_ADDRESS, address);
        }
        if message.additional_family.is_some() && allocation.relayed(Family::V6).is_none() {
            let number = if self.relays[Family::V6 as usize].is_none() { 40 } else { 8 };
            let class = if number == 40 { 4 } else { 5 };
            builder = builder.attribute(attribute::ADDRESS_ERROR_CODE, &[2, 0, class, number]);
        }
        if let Some(token) = allocation.token {
            builder = builder.attribute(attribute::RESERVATION_TOKEN, &token);
        }
        Ok(builder
            .attribute(attribute::LIFETIME, &seconds(allocation.expires.saturating_duration_since(now)))
            .address(attribute::XOR_MAPPED_ADDRESS, allocation.link.remote)
            .attribute(attribute::SOFTWARE, SOFTWARE))
    }

    /// RFC 8656 section 8.2.
    fn refresh(&mut self, now: Instant, slot: u32, message: &Message<'_>) -> Result<Builder, Refused> {
        let mismatch = (437, Refusal::Mismatch);
        let allocation = self.allocations[slot as usize].as_deref_mut().ok_or(mismatch)?;
        let family = match message.family {
            None => None,
            Some(number) => {
                let family = Family::from_wire(number).filter(|family| allocation.relayed(*family).is_some());
                Some(family.ok_or((443, Refusal::FamilyMismatch))?)
            }
        };
        let builder = Builder::new(Class::Success, message.method, &message.transaction);
        if message.lifetime == Some(0) {
            match family.filter(|_| allocation.families().count() > 1) {
                None => self.end(now, slot),
                Some(family) => self.end_family(slot, family),
            }
            return Ok(builder.attribute(attribute::LIFETIME, &seconds(Duration::ZERO)));
        }
        let lifetime = self.lifetime(message.lifetime);
        if let Some(allocation) = self.allocations[slot as usize].as_deref_mut() {
            self.timers.remove(&(allocation.expires, Timer::Allocation(slot)));
            allocation.expires = now + lifetime;
            self.timers.insert((allocation.expires, Timer::Allocation(slot)));
        }
        Ok(builder.attribute(attribute::LIFETIME, &seconds(lifetime)))
    }

    /// Ends one relayed address of two.
    fn end_family(&mut self, slot: u32, family: Family) {
        let Some(mut allocation) = self.allocations[slot as usize].take() else { return };
        self.end_relayed(&allocation, family);
        *allocation.relayed_mut(family) = None;
        allocation.peers.forget_family(family);
        allocation.waiting.retain(|waiting| !waiting.needs[family as usize]);
        self.allocations[slot as usize] = Some(allocation);
    }

    /// A peer that this allocation may reach, and how. By address alone: RFC 8656 section 9.
    fn reach(&self, slot: u32, address: IpAddr) -> Result<Reach, Refused> {
        let allocation = self.allocations[slot as usize].as_deref().ok_or((437, Refusal::Mismatch))?;
        if allocation.relayed(Family::of(address)).is_none() {
            return Err((443, Refusal::FamilyMismatch));
        }
        let reach = self.policy.judge(address);
        let is_served = || {
            let is_relay = self.relays.iter().flatten().any(|relay| relay.advertised == address);
            is_relay || self.sfu.iter().any(|sfu| sfu.ip() == address)
        };
        match reach {
            Reach::Outside => Ok(reach),
            Reach::Own if is_served() => Ok(reach),
            Reach::Own | Reach::Forbidden => Err((403, Refusal::Forbidden)),
        }
    }

    /// RFC 8656 section 10.2: all the peers of a request, or none.
    fn permissions(&self, slot: u32, message: &Message<'_>) -> Result<Effect, Refused> {
        let mut addresses = Vec::new();
        for peer in message.peers() {
            let address = peer.ip().to_canonical();
            addresses.push((address, self.reach(slot, address)?));
        }
        if addresses.is_empty() { Err((400, Refusal::BadRequest)) } else { Ok(Effect::Permit(addresses)) }
    }

    /// RFC 8656 section 12.2.
    fn channel(&self, slot: u32, message: &Message<'_>) -> Result<Effect, Refused> {
        let (Some(number @ 0x4000..=0x7fff), Some(peer)) = (message.channel, message.peer.map(canonical))
        else {
            return Err((400, Refusal::BadRequest));
        };
        let reach = self.reach(slot, peer.ip())?;
        let route = self.route(peer, reach).ok_or((403, Refusal::Forbidden))?;
        Ok(Effect::Bind { number, peer, reach, route })
    }

    /// Does what is asked for, now or when the sockets are there that it needs.
    fn take_effect(
        &mut self,
        now: Instant,
        slot: u32,
        asked: Asked,
        effect: Effect,
    ) -> Result<Outcome, Refused> {
        let needs = effect.needs();
        let mismatch = (437, Refusal::Mismatch);
        let allocation = self.allocations[slot as usize].as_deref_mut().ok_or(mismatch)?;
        if has_sockets(allocation, needs) {
            self.apply(now, slot, effect)?;
            return Ok(Outcome::Done(success(&asked)));
        }
        let is_there = |waiting: &Waiting| waiting.asked.transaction == asked.transaction;
        if allocation.waiting.iter().any(is_there) || allocation.waiting.len() >= MAX_WAITING {
            return Ok(Outcome::Later);
        }
        allocation.waiting.push(Waiting { asked, needs, effect });
        for family in Family::ALL.into_iter().filter(|family| needs[*family as usize]) {
            let id = allocation.id;
            if let Some(relayed) = allocation.relayed_mut(family)
                && relayed.socket == Socket::Closed
                && let Some(relay) = &self.relays[family as usize]
            {
                relayed.socket = Socket::Opening;
                let bind = std::net::SocketAddr::new(relay.bind, relayed.port);
                let relay = RelaySocket { allocation: id, family, port: relayed.port };
                self.outputs.push_back(Output::Open { relay, bind });
            }
        }
        Ok(Outcome::Later)
    }

    fn apply(&mut self, now: Instant, slot: u32, effect: Effect) -> Result<(), Refused> {
        let allocation = self.allocations[slot as usize].as_deref_mut().ok_or((437, Refusal::Mismatch))?;
        let peers = &mut allocation.peers;
        let too_many = (508, Refusal::AllocationQuota);
        let most = self.quotas.permissions_per_allocation as usize;
        let until = now + self.lifetimes.permission;
        match effect {
            Effect::Permit(addresses) => {
                let plain: Vec<_> = addresses.iter().map(|(address, _)| *address).collect();
                if !peers.have_room(&plain, most, now) {
                    return Err(too_many);
                }
                addresses.into_iter().for_each(|(address, reach)| peers.permit(address, reach, until));
            }
            Effect::Bind { number, peer, reach, route } => {
                let channels = self.quotas.channels_per_allocation as usize;
                peers.can_bind(number, peer, channels, now).map_err(|why| match why {
                    Unbindable::Taken => (400, Refusal::BadRequest),
                    Unbindable::TooMany => too_many,
                })?;
                if !peers.have_room(&[peer.ip()], most, now) {
                    return Err(too_many);
                }
                peers.permit(peer.ip(), reach, until);
                peers.bind(number, peer, route, now + self.lifetimes.channel);
            }
        }
        Ok(())
    }

    /// A relay socket is there, or is not: what waited for it is answered.
    pub(super) fn socket_changed(&mut self, now: Instant, relay: RelaySocket, is_open: bool) {
        let RelaySocket { allocation: id, family, port } = relay;
        let slot = id.slot;
        let allocation = self.allocations.get_mut(slot as usize).and_then(Option::as_deref_mut);
        let Some(allocation) = allocation.filter(|allocation| allocation.id == id) else { return };
        match allocation.relayed_mut(family) {
            Some(relayed) if relayed.port == port => {
                relayed.socket = if is_open { Socket::Open } else { Socket::Closed };
            }
            _ => return,
        }
        if !is_open {
            allocation.peers.forget_outside(family);
        }
        let (link, key) = (allocation.link, allocation.key.clone());
        let waiting = std::mem::take(&mut allocation.waiting);
        for Waiting { asked, needs, effect } in waiting {
            let Some(allocation) = self.allocations[slot as usize].as_deref_mut() else { return };
            let outcome = if !is_open && needs[family as usize] {
                Err((508, Refusal::Socket))
            } else if has_sockets(allocation, needs) {
                self.apply(now, slot, effect)
            } else {
                allocation.waiting.push(Waiting { asked, needs, effect });
                continue;
            };
            let builder = match outcome {
                Ok(()) => success(&asked),
                Err((code, why)) => {
                    self.counters.refuse(why);
                    refusal(&asked, code)
                }
            };
            self.answer(&link, &asked, &key, builder);
        }
    }
}

fn has_sockets(allocation: &Allocation, needs: [bool; 2]) -> bool {
    Family::ALL
        .into_iter()
        .filter(|family| needs[*family as usize])
        .all(|family| allocation.relayed(family).is_some_and(|relayed| relayed.socket == Socket::Open))
}

fn success(asked: &Asked) -> Builder {
    Builder::new(Class::Success, asked.method, &asked.transaction)
}

fn refusal(asked: &Asked, code: u16) -> Builder {
    Builder::new(Class::Error, asked.method, &asked.transaction).error(code)
}

fn seconds(duration: Duration) -> [u8; 4] {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX).to_be_bytes()
}
