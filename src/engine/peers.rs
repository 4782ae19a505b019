//! The peers of a shard: from a datagram to the peer it belongs to, and back to the path it is sent on.
//!
//! A connectivity check finds its peer by the ufrag in it, anything else by the path it came on, and a path is learned
//! from an authenticated check alone. So a datagram from an address that has not proven itself leaves no trace,
//! whatever it says (RFC 7983, RFC 8445 §7.3).

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use bytes::BytesMut;

use super::{
    demux::{self, Kind},
    dtls_guard::{Admission, DtlsGuard},
    ice::{Credentials, IceLite, Verdict},
    path::Path,
    peer::{Channel, Peer},
    transmit::TransmitQueue,
};
use crate::attempts::Seen;

/// A datagram and where it came from.
#[derive(Debug)]
pub struct Datagram {
    /// The path it came on.
    pub path: Path,
    /// The far end's address, which the client learns as its own.
    pub source: SocketAddr,
    /// The local address it was sent to.
    pub local_ip: Option<IpAddr>,
    /// What it says.
    pub contents: BytesMut,
}

/// Deadlines of a peer's life.
#[derive(Clone, Copy, Debug)]
pub struct PeerTimeouts {
    /// From the offer to open data channels.
    pub handshake: Duration,
    /// From the last connectivity check to the end: consent (RFC 7675).
    pub consent: Duration,
}

/// What became of an offer, or of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// The data channels opened.
    Opened,
    /// No genuine check came in time, or until the client gave it up.
    IceTimeout,
    /// Checks came, and no data channel opened until then.
    HandshakeTimeout,
    /// The client or its failure ended the handshake.
    HandshakeFailed,
    /// An open connection fell silent.
    ConsentLost,
    /// The client ended an open connection.
    ClosedByClient,
    /// The offer could not be used.
    BadOffer,
    /// The offer was refused because WebRTC is switched off.
    Disabled,
}

/// What is to be done about a datagram.
#[derive(Debug)]
pub(super) enum Handled {
    /// Nothing more.
    Done,
    /// The peer in this slot has something to do now.
    Peer(u32),
    /// It belongs to a handshake, which can wait until others are served.
    Handshake(Datagram),
}

/// What became of datagrams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerCounts {
    /// Datagrams taken, and their bytes.
    pub received: u64,
    /// See `received`.
    pub received_bytes: u64,
    /// From paths that no peer has proven.
    pub unknown: u64,
    /// Connectivity checks for no peer, or not genuine.
    pub refused_checks: u64,
    /// Handshake records above what a handshake needs.
    pub refused_handshake: u64,
    /// Datagrams that are neither STUN nor DTLS.
    pub other: u64,
    /// Current paths that changed without a new offer.
    pub moved: u64,
}

/// A peer with what Switchyard itself does for it.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) peer: Peer,
    /// Slot of the session it belongs to.
    pub(super) session: u32,
    /// The client's number for it.
    pub(super) pc: u32,
    pub(super) is_open: bool,
    pub(super) is_dirty: bool,
    pub(super) timer: Option<Instant>,
    ice: IceLite,
    guard: DtlsGuard,
    local: Credentials,
    remote: Credentials,
    /// Names in `by_ufrag`: of the current and the previous generation.
    ufrags: Vec<String>,
    /// Names in `by_path`.
    paths: Vec<Path>,
    local_ip: Option<IpAddr>,
    since: Instant,
    /// When the last packet of its own came.
    heard: Instant,
    /// A DTLS datagram came by a path of its own.
    has_dtls: bool,
}

/// The peers.
#[derive(Debug)]
pub(super) struct Peers {
    slots: Vec<Option<Entry>>,
    free: Vec<u32>,
    by_ufrag: HashMap<String, u32>,
    by_path: HashMap<Path, u32>,
    timeouts: PeerTimeouts,
    pub(super) counts: PeerCounts,
}

impl Peers {
    pub(super) fn new(timeouts: PeerTimeouts) -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            by_ufrag: HashMap::new(),
            by_path: HashMap::new(),
            timeouts,
            counts: PeerCounts::default(),
        }
    }

    pub(super) fn insert(
        &mut self,
        (session, pc): (u32, u32),
        peer: Peer,
        (local, remote): (Credentials, Credentials),
        now: Instant,
    ) -> u32 {
        let entry = Entry {
            peer,
            session,
            pc,
            is_open: false,
            is_dirty: false,
            timer: None,
            ice: IceLite::new(&local, &remote),
            guard: DtlsGuard::default(),
            ufrags: vec![local.ufrag.clone()],
            paths: Vec::new(),
            local,
            remote,
            local_ip: None,
            since: now,
            heard: now,
            has_dtls: false,
        };
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            (self.slots.len() - 1) as u32
        });
        self.by_ufrag.insert(entry.local.ufrag.clone(), slot);
        self.slots[slot as usize] = Some(entry);
        slot
    }

    pub(super) fn get(&mut self, slot: u32) -> Option<&mut Entry> {
        self.slots.get_mut(slot as usize)?.as_mut()
    }

    /// Lets the peer say goodbye and forgets it.
    pub(super) fn remove(&mut self, slot: u32, transmits: &mut TransmitQueue) {
        let Some(mut entry) = self.slots.get_mut(slot as usize).and_then(Option::take) else {
            return;
        };
        entry.peer.close();
        entry.transmit(transmits);
        for ufrag in &entry.ufrags {
            self.by_ufrag.remove(ufrag);
        }
        for path in &entry.paths {
            // The same address may have proven itself to another peer since.
            if self.by_path.get(path) == Some(&slot) {
                self.by_path.remove(path);
            }
        }
        self.free.push(slot);
    }

    /// New credentials for an ICE restart, unless the offer repeats the ones it has; returns the local ones to answer
    /// with.
    pub(super) fn restart(
        &mut self,
        slot: u32,
        remote: &Credentials,
        fresh: Credentials,
    ) -> Option<Credentials> {
        let entry = self.slots.get_mut(slot as usize)?.as_mut()?;
        if entry.remote != *remote {
            entry.ice.restart(&fresh, remote);
            entry.remote = remote.clone();
            // A restart that was never used is void; the generation in use stays known.
            if entry.ufrags.len() > 1
                && let Some(unused) = entry.ufrags.pop()
            {
                self.by_ufrag.remove(&unused);
            }
            entry.ufrags.push(fresh.ufrag.clone());
            self.by_ufrag.insert(fresh.ufrag.clone(), slot);
            entry.local = fresh;
        }
        Some(entry.local.clone())
    }

    /// Takes a datagram.
    pub(super) fn handle(
        &mut self,
        datagram: Datagram,
        now: Instant,
        transmits: &mut TransmitQueue,
    ) -> Handled {
        self.counts.received += 1;
        self.counts.received_bytes += datagram.contents.len() as u64;
        match demux::classify(&datagram.contents) {
            Kind::Stun => {
                self.check(&datagram, now, transmits);
                Handled::Done
            }
            Kind::Dtls => {
                let Some(&slot) = self.by_path.get(&datagram.path) else {
                    self.counts.unknown += 1;
                    return Handled::Done;
                };
                let entry = self.slots[slot as usize].as_ref().expect("by_path names peers");
                if entry.is_open {
                    self.feed(slot, datagram.contents, now)
                } else {
                    Handled::Handshake(datagram)
                }
            }
            _ => {
                self.counts.other += 1;
                Handled::Done
            }
        }
    }

    /// Takes a datagram that was put off before, if its path still belongs to a peer.
    pub(super) fn handle_handshake(&mut self, datagram: Datagram, now: Instant) -> Handled {
        match self.by_path.get(&datagram.path) {
            Some(&slot) => self.feed(slot, datagram.contents, now),
            None => Handled::Done,
        }
    }

    fn feed(&mut self, slot: u32, datagram: BytesMut, now: Instant) -> Handled {
        let entry = self.slots[slot as usize].as_mut().expect("by_path names peers");
        entry.has_dtls = true;
        let contents = match entry.guard.admit(&datagram) {
            Ok(Admission::AsIs) => datagram,
            Ok(Admission::Rewritten(contents)) => BytesMut::from(&contents[..]),
            Ok(Admission::Held) => return Handled::Done,
            Err(reason) => {
                self.counts.refused_handshake += 1;
                tracing::trace!(%reason, "refused a DTLS datagram");
                return Handled::Done;
            }
        };
        entry.heard = now;
        if let Err(error) = entry.peer.handle_datagram(contents, now) {
            tracing::debug!(%error, "the engine refused a datagram");
        }
        Handled::Peer(slot)
    }

    /// The path is gone; its peer goes on with another one, if it has one.
    pub(super) fn forget_path(&mut self, path: Path) {
        if let Some(slot) = self.by_path.remove(&path)
            && let Some(entry) = self.get(slot)
        {
            entry.paths.retain(|known| *known != path);
            entry.ice.forget(&path);
        }
    }

    /// Whether the peer's time is over.
    pub(super) fn is_expired(&self, slot: u32, now: Instant) -> bool {
        self.slots[slot as usize].as_ref().is_some_and(|entry| entry.deadline(self.timeouts) <= now)
    }

    /// When the peer next has something to do.
    pub(super) fn due(&mut self, slot: u32, now: Instant) -> Option<Instant> {
        let timeouts = self.timeouts;
        let entry = self.get(slot)?;
        let deadline = entry.deadline(timeouts);
        Some(entry.peer.poll_timeout(now).map_or(deadline, |due| due.min(deadline)))
    }

    /// When the last packet of DTLS came, with data or only with SCTP's acknowledgements.
    pub(super) fn heard(&self, slot: u32) -> Option<Instant> {
        self.slots.get(slot as usize)?.as_ref().map(Entry::heard)
    }

    /// Paths on which peers are, for the connections-by-rung gauge.
    pub(super) fn current_path(&self, slot: u32) -> Option<Path> {
        self.slots.get(slot as usize)?.as_ref()?.ice.current()
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    fn check(&mut self, datagram: &Datagram, now: Instant, transmits: &mut TransmitQueue) {
        let slot = demux::ufrag_of(&datagram.contents).and_then(|ufrag| self.by_ufrag.get(ufrag)).copied();
        let Some(slot) = slot else {
            self.counts.refused_checks += 1;
            return;
        };
        let entry = self.slots[slot as usize].as_mut().expect("by_ufrag names peers");
        match entry.ice.handle(now, datagram.path, datagram.source, &datagram.contents) {
            Verdict::Accepted(accepted) => {
                transmits.push(datagram.path, datagram.local_ip, &accepted.response);
                if let Some(evicted) = accepted.evicted {
                    entry.paths.retain(|path| *path != evicted);
                    if self.by_path.get(&evicted) == Some(&slot) {
                        self.by_path.remove(&evicted);
                    }
                }
                // The path is whoever's proved it last: a client may give its port to a new peer connection.
                if self.by_path.get(&datagram.path) != Some(&slot) {
                    self.by_path.insert(datagram.path, slot);
                    if !entry.paths.contains(&datagram.path) {
                        entry.paths.push(datagram.path);
                    }
                }
                if accepted.switched {
                    tracing::debug!(peer = slot, path = ?datagram.path, "goes by another path");
                    self.counts.moved += u64::from(entry.is_open);
                    entry.local_ip = datagram.local_ip;
                }
                if accepted.restarted && entry.ufrags.len() > 1 {
                    let void = entry.ufrags.remove(0);
                    self.by_ufrag.remove(&void);
                }
            }
            Verdict::Refused { response, .. } => {
                self.counts.refused_checks += 1;
                transmits.push(datagram.path, datagram.local_ip, &response);
            }
            Verdict::Ignored(reason) => {
                self.counts.refused_checks += 1;
                tracing::trace!(%reason, "ignored a connectivity check");
            }
        }
    }
}

impl Entry {
    /// Data channels are open: the handshake is over.
    pub(super) fn opened(&mut self) {
        self.is_open = true;
        self.guard.handshake_complete();
    }

    /// Moves what the engine has to send to the queue. Without a path it is dropped, as on a network that loses it.
    pub(super) fn transmit(&mut self, transmits: &mut TransmitQueue) -> u64 {
        let path = self.ice.current();
        let mut datagrams = 0;
        while let Some(datagram) = self.peer.poll_transmit() {
            if let Some(path) = path {
                transmits.push(path, self.local_ip, &datagram);
                datagrams += 1;
            }
        }
        datagrams
    }

    /// Bytes that the reliable channel takes now.
    pub(super) fn room(&mut self, channel: Channel) -> usize {
        if self.is_open { self.peer.room(channel) } else { 0 }
    }

    /// What its end means now; `expired` by its deadline.
    pub(super) fn outcome(&self, expired: bool) -> Outcome {
        match (self.is_open, expired) {
            (true, true) => Outcome::ConsentLost,
            (true, false) => Outcome::ClosedByClient,
            (false, false) => Outcome::HandshakeFailed,
            (false, true) if self.ice.last_seen().is_none() => Outcome::IceTimeout,
            (false, true) => Outcome::HandshakeTimeout,
        }
    }

    /// How far it has come.
    pub(super) fn seen(&self) -> Seen {
        match (self.is_open, self.has_dtls, self.ice.last_seen()) {
            (true, ..) => Seen::Open,
            (_, true, _) => Seen::Dtls,
            (.., Some(_)) => Seen::Checks,
            (.., None) => Seen::Offer,
        }
    }

    /// When the last packet of DTLS came.
    pub(super) fn heard(&self) -> Instant {
        self.heard
    }

    /// How long ago its offer came.
    pub(super) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.since)
    }

    fn deadline(&self, timeouts: PeerTimeouts) -> Instant {
        if self.is_open {
            self.ice.last_seen().unwrap_or(self.since) + timeouts.consent
        } else {
            self.since + timeouts.handshake
        }
    }
}
