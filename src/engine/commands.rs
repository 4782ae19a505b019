//! What WebSocket tasks ask of a shard: joins, resumption, offers, and the end of a socket. See [`super::Command`].

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use switchyard_signaling::{
    Code, Features, limits,
    message::{self, Description, Refusal, ServerText},
};

use super::{
    Entry, JoinRequest, Shard, SocketId,
    ice::Credentials,
    outbox::Outbox,
    peer::{Identity, Peer},
    peers::Outcome,
    records::Over,
    sdp::{self, Offer},
    session::{Session, UNKNOWN_SESSION, Via},
    welcome, welcome_back,
};
use crate::{attempts::Seen, names::SessionId, room::Action};

impl Shard {
    pub(super) fn join(&mut self, socket: SocketId, outbox: Arc<Outbox>, request: JoinRequest, now: Instant) {
        let JoinRequest { id, room, mut grant, features, offer, follow } = request;
        let slot = match self.sockets.get(&socket) {
            Some(&slot) => slot,
            None if self.draining || self.sessions.len() - self.free.len() >= self.config.max_sessions => {
                let mut refusal =
                    Refusal::new(Some(id), Code::Overloaded, "the server cannot take more sessions now");
                refusal.retry_after_ms = Some(5000);
                return outbox.push_text(message::to_json(&ServerText::Error(refusal)));
            }
            None => {
                self.new_session((socket, outbox), (room.tenant.clone(), grant.user.clone()), features, now)
            }
        };
        let Some(entry) = self.entry(slot) else { return };
        if entry.session.tenant != room.tenant || entry.session.user != grant.user {
            return entry.refuse(
                Some(id),
                Code::OtherUser,
                "the token names another tenant or user than the session's",
            );
        }
        match entry.session.handle_for(&room) {
            Ok(handle) => {
                let session = entry.session.id;
                self.take_away(slot, features, now);
                if !self.entry(slot).is_some_and(|entry| entry.features.lets_copies()) {
                    grant.signing_key = None;
                }
                self.router.join(session, room, Action::Join { handle, id, grant, follow }, now);
                self.settle(now);
                if let Some(offer) = offer {
                    self.offer(slot, &offer, now);
                }
            }
            Err(code) => entry.refuse(Some(id), code, "the session is in as many rooms as it may be"),
        }
    }

    fn new_session(
        &mut self,
        (socket, outbox): (SocketId, Arc<Outbox>),
        owner: (Arc<str>, Arc<str>),
        features: Features,
        now: Instant,
    ) -> u32 {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.sessions.push(None);
            (self.sessions.len() - 1) as u32
        });
        self.serial = self.serial.wrapping_add(1);
        let id = SessionId { shard: self.config.shard, slot, serial: self.serial };
        let secret: Vec<u8> = (0..4).flat_map(|_| (self.random)().to_be_bytes()).collect();
        let session = Session::new(id, owner, &secret, self.config.sessions.clone(), now);
        let features = self.config.features().and(features);
        let ice = self.config.ice(&session, features, now);
        let ticket = session.first_ticket();
        let text = ServerText::Session { session: id.to_wire(), ticket, ice, features };
        let entry = Entry {
            session,
            socket: Some((socket, outbox)),
            peer: None,
            over: Over::default(),
            quality: None,
            pairs: [0; 3],
            features,
            is_going: false,
            is_dirty: false,
            timer: None,
        };
        entry.text(&text);
        self.sockets.insert(socket, slot);
        self.sessions[slot as usize] = Some(entry);
        slot
    }

    pub(super) fn resume(
        &mut self,
        (socket, outbox): (SocketId, Arc<Outbox>),
        session: SessionId,
        ticket: &str,
        takes_over: bool,
        now: Instant,
    ) {
        let limits = self.config.sessions.announced.clone();
        let entry = self.sessions.get_mut(session.slot as usize).and_then(Option::as_mut);
        let shown = match entry.filter(|entry| entry.session.id == session) {
            Some(entry) => entry.session.resume(ticket, now).map(|()| entry),
            None => Err(UNKNOWN_SESSION),
        };
        let entry = match shown {
            Ok(entry) => entry,
            Err((code, sentence)) => {
                self.router.refused(code);
                outbox.push_text(message::to_json(&ServerText::Error(Refusal::new(None, code, sentence))));
                return outbox.push_text(message::to_json(&welcome(limits)));
            }
        };
        let ice = self.config.ice(&entry.session, entry.features, now);
        let ack = entry.session.received();
        outbox.push_text(message::to_json(&welcome_back(limits, ice, entry.features, ack)));
        entry.is_going = false;
        if let Some((replaced, old)) = entry.socket.replace((socket, outbox)) {
            old.close(Code::Replaced);
            self.sockets.remove(&replaced);
        }
        self.sockets.insert(socket, session.slot);
        if takes_over {
            // The new page goes on behind the `ack` that it is told here. A frame of the last one that came later would
            // take the number of one of its own.
            self.drop_peer(session.slot, now);
        }
        let Some(entry) = self.entry(session.slot) else { return };
        if entry.session.attached == Via::Socket {
            // What the client has is not known before its ATTACH; what it has not acknowledged is a safe guess, for it
            // drops what it has.
            entry.session.alone_since = None;
            entry.session.fall_back(Via::Socket);
        }
        self.mark_session(session.slot);
        self.schedule_session(session.slot, now);
    }

    pub(super) fn tell_ice_servers(&mut self, slot: u32, now: Instant) {
        let Some(entry) = self.sessions.get(slot as usize).and_then(Option::as_ref) else { return };
        let ice = self.config.ice(&entry.session, entry.features, now);
        entry.text(&ServerText::IceServers(ice.unwrap_or_default()));
    }

    pub(super) fn offer(&mut self, slot: u32, offer: &Description, now: Instant) {
        let Some(entry) = self.entry(slot) else { return };
        let is_on = entry.features.webrtc;
        let Some(identity) = self.config.identity.clone().filter(|_| is_on) else {
            self.refuse_webrtc(slot);
            return;
        };
        if let Some(entry) = self.entry(slot)
            && let Err(retry) = entry.session.take_offer(now)
        {
            let mut refusal = Refusal::new(None, Code::RateLimited, "too many offers");
            refusal.retry_after_ms = Some(retry.as_millis() as u64 + 1);
            return entry.text(&ServerText::Error(refusal));
        }
        let fresh = Credentials::generate(self.config.shard.0, &mut self.random);
        let result = Offer::parse(&offer.sdp, limits::CHANNEL_MESSAGE_BYTES)
            .map_err(|error| error.to_string())
            .and_then(|parsed| self.answer(slot, offer.pc, &parsed, fresh, &identity, now));
        let Some(entry) = self.entry(slot) else { return };
        match result {
            Ok(sdp) => entry.text(&ServerText::Answer(Description { pc: offer.pc, sdp })),
            Err(sentence) => {
                entry.refuse(None, Code::BadOffer, &sentence);
                entry.over.note(offer.pc, Seen::Refused);
                self.note(Outcome::BadOffer);
                self.note_failure(slot, offer.pc, Outcome::BadOffer, Duration::ZERO, now);
            }
        }
    }

    fn refuse_webrtc(&mut self, slot: u32) {
        self.note(Outcome::Disabled);
        if let Some(entry) = self.entry(slot) {
            let sentence = "WebRTC is switched off, for this server, a room of the session or its token";
            entry.refuse(None, Code::WebrtcDisabled, sentence);
        }
    }

    /// What a further join leaves on, the session keeps: nothing is ever switched on again.
    fn take_away(&mut self, slot: u32, features: Features, now: Instant) {
        let Some(entry) = self.entry(slot) else { return };
        let features = entry.features.and(features);
        if features == entry.features {
            return;
        }
        entry.features = features;
        // Before the peer says goodbye, so that the client knows why, and does not try again.
        entry.text(&ServerText::Features { features });
        if !features.webrtc {
            self.drop_peer(slot, now);
        }
    }

    /// The answer to an offer: of the peer that is there for an ICE restart, else of a new one.
    fn answer(
        &mut self,
        slot: u32,
        pc: u32,
        offer: &Offer,
        fresh: Credentials,
        identity: &Identity,
        now: Instant,
    ) -> Result<String, String> {
        let current = self.entry(slot).and_then(|entry| entry.peer);
        if let Some(peer) = current
            && let Some(entry) = self.peers.get(peer)
            && entry.pc == pc
        {
            if !entry.peer.is_same_client(offer) {
                return Err(
                    "the offer has another certificate; a new peer connection needs a new pc".to_owned()
                );
            }
            let template = entry.peer.answer().to_owned();
            let local = self.peers.restart(peer, &offer.credentials, fresh).expect("found above");
            return Ok(sdp::answer(&template, &local, &self.config.candidates));
        }
        if current.is_none() && self.peers.len() >= self.config.max_peers {
            return Err("the server cannot take more peer connections now".to_owned());
        }
        let peer = Peer::new(offer, &fresh, identity, now).map_err(|error| error.to_string())?;
        if current.is_some() {
            self.note_given_up(slot, now);
            self.drop_peer(slot, now);
        }
        let sdp = sdp::answer(peer.answer(), &fresh, &self.config.candidates);
        let peer = self.peers.insert((slot, pc), peer, (fresh, offer.credentials.clone()), now);
        if let Some(entry) = self.entry(slot) {
            entry.peer = Some(peer);
        }
        self.mark_peer(peer);
        Ok(sdp)
    }

    pub(super) fn socket_closed(&mut self, socket: SocketId, clean: bool, now: Instant) {
        let Some(slot) = self.sockets.remove(&socket) else {
            return;
        };
        let Some(entry) = self.entry(slot) else { return };
        entry.socket = None;
        if entry.session.attached == Via::Channel {
            // Browsers do not always give a page the time to say goodbye.
            entry.is_going = clean;
            return;
        }
        if clean {
            return self.end_session(slot, Code::Left, Code::Bye, now);
        }
        entry.session.alone_since = Some(now);
        self.no_quality(slot, now);
        self.schedule_session(slot, now);
    }

    pub(super) fn drain(&mut self, retry_after: Duration, now: Instant) {
        self.draining = true;
        let text = ServerText::Draining { retry_after_ms: retry_after.as_millis() as u64 };
        for slot in 0..self.sessions.len() as u32 {
            if let Some(entry) = self.entry(slot) {
                entry.text(&text);
                self.end_session(slot, Code::RoomClosed, Code::Draining, now);
            }
        }
    }
}
