//! One room: who is in it, what they may do, and who receives what. A state machine without sockets, threads or
//! clocks: [`Room::handle`] and [`Room::handle_timeout`] in, [`Room::poll`] out.
//!
//! A room never touches a peer or a pipe. It knows sessions by name only and says "deliver this to those"; finding
//! them is the work of `src/router.rs`, and bringing it over is that of `src/engine/session.rs`. Every action is
//! checked here, in one function, whatever door it came through (D10); what may stand in the log, by [`content`].

pub mod content;
#[cfg(feature = "plants")]
pub mod faults;
mod log;
pub mod permission;
mod with_log;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::Instant,
};

use bytes::Bytes;
use rustc_hash::FxBuildHasher;
use switchyard_signaling::{
    Code,
    event::Origin,
    frame::{Kind, Target},
    lane::Message,
    limits,
    message::{self, ClientControl, Follow, ServerControl},
    quality,
};

pub use self::log::{
    BackendAct, BackendAnswer, BackendError, BackendRequest, BackendStream, BackendWrite, LogSettings,
    LogTally,
};
use self::{
    log::Log,
    permission::{Permission, Permissions, Role},
};
use crate::{
    names::{RoomKey, SessionId},
    signing_key::SigningKey,
    store::{Answer, Request},
};

/// Sessions that one user may have in a room.
const SESSIONS_PER_USER: usize = 16;
/// Signing keys of a member: the tabs that share a session have one each. Past that the oldest gives way.
const SIGNING_KEYS: usize = 8;

/// What a verified token grants in one room.
#[derive(Clone, Debug)]
pub struct Grant {
    /// The token's `sub`.
    pub user: Arc<str>,
    /// Display name.
    pub name: Arc<str>,
    /// The role, for showing.
    pub role: Role,
    /// What is permitted; this decides.
    pub permissions: Permissions,
    /// When the grant ends.
    pub expires: Instant,
    /// With which the session signs copies of its events, where that is on: the others are told that it is the member's.
    pub signing_key: Option<SigningKey>,
}

/// What the operator allows in a room.
#[derive(Clone, Copy, Debug)]
pub struct RoomLimits {
    /// Users at the same time.
    pub participants: usize,
    /// Topics that a member may subscribe to.
    pub topics: usize,
}

/// What a session asks of a room.
#[derive(Debug)]
pub enum Action {
    /// Come in, or, for a member, replace the grant.
    Join {
        /// The session's handle for this room.
        handle: u16,
        /// The request, named in the answer.
        id: u32,
        /// From the token.
        grant: Grant,
        /// Whether the log is wanted, and from where.
        follow: Option<Follow>,
    },
    /// Go.
    Leave {
        /// Told to the others.
        reason: Code,
        /// Whether the session is to be told: it is not when it is gone.
        tell: bool,
    },
    /// A data message.
    Send(Lane, Outbound),
    /// A control message.
    Control(ClientControl),
    /// Records for the log.
    Records(Bytes),
    /// How good its connection is.
    Quality(quality::Seen),
}

/// A data message as its author's session hands it over; the room stamps the author.
#[derive(Debug)]
pub struct Outbound {
    /// The payload is UTF-8.
    pub text: bool,
    /// The author's stream.
    pub stream: u16,
    /// Where it goes.
    pub target: Target,
    /// Untouched.
    pub payload: Bytes,
    /// When its author sent it, as far as is known.
    pub at: Instant,
}

/// Which lane a message takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Ordered, replayed on the next pipe.
    Reliable,
    /// Unordered, never repeated; `seq` is the author's count on the stream.
    Lossy {
        /// Passed on as it is.
        seq: u32,
    },
}

/// A session that is to receive something, and its handle for the room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receiver {
    /// Who.
    pub session: SessionId,
    /// The room's handle there.
    pub handle: u16,
}

/// A message for many.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Who receives it; shared between the messages of a room as long as nobody comes or goes.
    pub receivers: Arc<[Receiver]>,
    /// Not this one.
    pub except: Option<SessionId>,
    /// On which lane.
    pub lane: Lane,
    /// One copy for all.
    pub message: Arc<Message>,
}

/// What a room says.
#[derive(Debug)]
pub enum Output {
    /// Bring this to those.
    Deliver(Delivery),
    /// The join succeeded, be it a member's for a newer token; messages under this handle may come.
    Admitted(Receiver),
    /// The join was refused, or membership ended for this reason: the handle is free. Comes after what told the
    /// session so.
    Dismissed(Receiver, Option<Code>),
    /// Something was refused, for the count.
    Refused(Code),
    /// Something is asked of the store; the answer carries the ticket.
    Store(u64, Request),
    /// A request of the application's backend is answered.
    Backend(u64, Result<BackendAnswer, BackendError>),
    /// Something happened in the log, for the count.
    Log(LogTally),
}

/// A bug to be found by the world tests.
#[cfg(feature = "plants")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plant {
    /// A submission that comes again is taken again.
    NoDedupe,
    /// What is not durable yet is acknowledged.
    AcknowledgedEarly,
    /// Refusals are not remembered.
    RefusalsForgotten,
    /// A rate limit uses up a number.
    RateConsumes,
    /// A reader's digest is believed.
    DigestUnchecked,
}

/// A room with its members.
///
/// Order of calls: [`handle`](Self::handle) or [`handle_timeout`](Self::handle_timeout), then
/// [`poll`](Self::poll) until `None`.
#[derive(Debug)]
pub struct Room {
    key: RoomKey,
    limits: RoomLimits,
    next_member: u32,
    members: Members,
    by_session: HashMap<SessionId, u32, FxBuildHasher>,
    by_user: BTreeMap<Arc<str>, BTreeSet<u32>>,
    by_topic: BTreeMap<String, BTreeSet<u32>>,
    expiry: BTreeSet<(Instant, u32)>,
    everyone: Option<Arc<[Receiver]>>,
    /// The members that get what is committed, and the receivers made of them.
    live: (Vec<u32>, Arc<[Receiver]>),
    log: Option<Box<Log>>,
    settings: Arc<LogSettings>,
    entropy: u64,
    /// Since when nobody has been here.
    empty_since: Instant,
    outputs: VecDeque<Output>,
    #[cfg(feature = "plants")]
    plant: Option<Plant>,
    #[cfg(feature = "plants")]
    late: faults::Late,
}

#[derive(Debug)]
struct Member {
    receiver: Receiver,
    grant: Grant,
    topics: BTreeSet<String>,
    /// For writing to the log.
    origin: Option<Origin>,
    quality: Option<quality::Seen>,
    signing_keys: Vec<SigningKey>,
}

impl Member {
    fn new(receiver: Receiver, mut grant: Grant) -> Self {
        let signing_keys = grant.signing_key.take().into_iter().collect();
        Self { receiver, grant, topics: BTreeSet::new(), origin: None, quality: None, signing_keys }
    }

    /// Another of its tabs has joined, or the same one again. Whether the key is new.
    fn certify(&mut self, key: SigningKey) -> bool {
        if self.signing_keys.contains(&key) {
            return false;
        }
        if self.signing_keys.len() == SIGNING_KEYS {
            self.signing_keys.remove(0);
        }
        self.signing_keys.push(key);
        true
    }
}

type Members = BTreeMap<u32, Member>;

/// A request that was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Refused(Code, &'static str);

impl Room {
    /// An empty room. `entropy` is different for each room that was ever made, and not to be guessed.
    pub fn new(
        key: RoomKey,
        limits: RoomLimits,
        settings: Arc<LogSettings>,
        entropy: u64,
        now: Instant,
    ) -> Self {
        Self {
            key,
            limits,
            settings,
            entropy,
            empty_since: now,
            live: (Vec::new(), Arc::new([])),
            log: None,
            #[cfg(feature = "plants")]
            plant: None,
            #[cfg(feature = "plants")]
            late: faults::Late::default(),
            next_member: 1,
            members: BTreeMap::new(),
            by_session: HashMap::default(),
            by_user: BTreeMap::new(),
            by_topic: BTreeMap::new(),
            expiry: BTreeSet::new(),
            everyone: None,
            outputs: VecDeque::new(),
        }
    }

    /// Takes an action of a session.
    pub fn handle(&mut self, session: SessionId, action: Action, now: Instant) {
        let _span = tracing::debug_span!("room", id = %self.key.room, tenant = %self.key.tenant).entered();
        match action {
            Action::Join { handle, id, grant, follow } => {
                self.join(Receiver { session, handle }, id, (grant, follow), now);
            }
            Action::Leave { reason, tell } => {
                if let Some(member) = self.by_session.get(&session).copied() {
                    self.leave(member, reason, tell, now);
                }
            }
            Action::Send(lane, message) => self.send(session, lane, message, now),
            Action::Control(control) => self.control(session, control, now),
            Action::Records(records) => self.records(session, records, now),
            Action::Quality(seen) => self.quality(session, seen, now),
        }
        self.hear_log(now);
    }

    /// Takes the store's answer.
    pub fn handle_answer(&mut self, ticket: u64, answer: Answer, now: Instant) {
        if let Some(log) = &mut self.log {
            log.handle_answer(&self.members, ticket, answer, now);
        }
        self.hear_log(now);
    }

    /// The application's backend acts; [`Output::Backend`] answers.
    pub fn handle_backend(&mut self, request: BackendRequest, now: Instant) {
        self.open_log();
        if self.is_empty() {
            self.empty_since = now;
        }
        if let Some(log) = &mut self.log {
            log.backend(&self.members, request, now);
        }
        self.hear_log(now);
    }

    /// Ends memberships whose grant has ended (ACL1).
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(&(at, member)) = self.expiry.first()
            && at <= now
        {
            self.leave(member, Code::TokenExpired, true, now);
        }
        #[cfg(feature = "plants")]
        self.late.handle_timeout(now, &mut self.outputs);
        if let Some(log) = &mut self.log {
            log.handle_timeout(now);
        }
        self.hear_log(now);
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do, or the room is over.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let expiry = self.expiry.first().map(|(at, _)| *at);
        #[cfg(feature = "plants")]
        let expiry = [expiry, self.late.poll_timeout()].into_iter().flatten().min();
        let log = self.log.as_ref().and_then(|log| log.poll_timeout());
        // What is under way ends first, and has times of its own.
        let is_idle = self.is_empty() && self.log.as_ref().is_some_and(|log| log.is_quiet());
        let idle = is_idle.then(|| self.empty_since + self.settings.idle);
        [expiry, log, idle].into_iter().flatten().min()
    }

    /// Whether nobody is here and nothing is under way: it can be forgotten. A log is kept in memory for a while (STO3).
    pub fn is_over(&self, now: Instant) -> bool {
        let is_idle = |log: &Log| log.is_quiet() && self.empty_since + self.settings.idle <= now;
        self.is_empty() && self.log.as_ref().is_none_or(|log| is_idle(log))
    }

    /// Plants a bug, for the world tests.
    #[cfg(feature = "plants")]
    pub fn plant(&mut self, plant: Option<Plant>) {
        self.plant = plant;
        if let Some(log) = &mut self.log {
            log.plant = plant;
        }
    }

    /// Whether a planted fault keeps messages for later.
    #[cfg(feature = "plants")]
    pub(crate) fn holds_back(&self) -> bool {
        self.late.poll_timeout().is_some()
    }

    /// What the room says next.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Its name.
    pub fn key(&self) -> &RoomKey {
        &self.key
    }

    /// Members: sessions, not users.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether nobody is in it.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// The one place where it is decided what a session may do (D10).
    fn permit(&self, session: SessionId, permission: Permission) -> Result<u32, Refused> {
        let member = *self.by_session.get(&session).ok_or(Refused(Code::NotInRoom, "not in this room"))?;
        if self.members[&member].grant.permissions.contains(permission) {
            Ok(member)
        } else {
            Err(Refused(Code::Forbidden, "your role in this room does not permit this"))
        }
    }

    fn join(&mut self, receiver: Receiver, id: u32, (grant, follow): (Grant, Option<Follow>), now: Instant) {
        if let Some(&number) = self.by_session.get(&receiver.session) {
            let member = self.members.get_mut(&number).expect("by_session names members");
            self.expiry.remove(&(member.grant.expires, number));
            self.expiry.insert((grant.expires, number));
            let could_write = member.grant.permissions.contains(Permission::Write);
            member.grant = grant;
            let has_new_key = member.grant.signing_key.take().is_some_and(|key| member.certify(key));
            let changed = has_new_key || could_write != member.grant.permissions.contains(Permission::Write);
            let follow = follow.filter(|_| member.origin.is_none());
            self.outputs.push_back(Output::Admitted(receiver));
            self.welcome(number, id, follow, now);
            // Whoever is connected to the member directly goes by it.
            if changed {
                let member = self.describe(number);
                self.announce(Some(receiver.session), &ServerControl::MemberJoined { member }, now);
            }
            return;
        }
        if let Err(Refused(code, sentence)) = self.admits(&grant) {
            self.refuse(receiver, Some(id), None, Refused(code, sentence), now);
            self.outputs.push_back(Output::Dismissed(receiver, None));
            return;
        }
        let number = self.next_member;
        self.next_member += 1;
        tracing::debug!(member = number, user = %grant.user, role = grant.role.name(), "joined");
        self.by_session.insert(receiver.session, number);
        self.by_user.entry(grant.user.clone()).or_default().insert(number);
        self.expiry.insert((grant.expires, number));
        self.members.insert(number, Member::new(receiver, grant));
        self.everyone = None;
        self.outputs.push_back(Output::Admitted(receiver));
        self.welcome(number, id, follow, now);
        let member = self.describe(number);
        self.announce(Some(receiver.session), &ServerControl::MemberJoined { member }, now);
    }

    fn admits(&self, grant: &Grant) -> Result<(), Refused> {
        if !grant.permissions.contains(Permission::Read) {
            return Err(Refused(Code::Forbidden, "your token does not permit reading this room"));
        }
        match self.by_user.get(&grant.user) {
            Some(sessions) if sessions.len() >= SESSIONS_PER_USER => {
                Err(Refused(Code::RoomFull, "you are in this room with too many sessions"))
            }
            None if self.by_user.len() >= self.limits.participants => {
                Err(Refused(Code::RoomFull, "the room has its maximum of participants"))
            }
            _ => Ok(()),
        }
    }

    fn leave(&mut self, number: u32, reason: Code, tell: bool, now: Instant) {
        let Some(member) = self.members.remove(&number) else {
            return;
        };
        tracing::debug!(member = number, user = %member.grant.user, %reason, "left");
        self.by_session.remove(&member.receiver.session);
        self.expiry.remove(&(member.grant.expires, number));
        remove_from(&mut self.by_user, &member.grant.user, number);
        for topic in &member.topics {
            remove_from(&mut self.by_topic, topic, number);
        }
        self.everyone = None;
        if tell {
            self.tell(member.receiver, &ServerControl::Left { reason }, now);
        }
        self.outputs.push_back(Output::Dismissed(member.receiver, Some(reason)));
        if let Some(log) = &mut self.log {
            log.forget_member(number, now);
            if member.origin.is_some() {
                self.note_left(&member, reason, now);
            }
        }
        if self.members.is_empty() {
            self.empty_since = now;
        }
        self.announce(None, &ServerControl::MemberLeft { member: number, reason }, now);
    }

    fn send(&mut self, session: SessionId, lane: Lane, outbound: Outbound, now: Instant) {
        let stream = outbound.stream;
        let result = self.permit(session, Permission::Write).and_then(|sender| {
            let (receivers, target) = self.receivers(session, outbound.target)?;
            let Outbound { text, stream, payload, at, .. } = outbound;
            let message = Arc::new(Message { kind: Kind::Data, text, sender, stream, target, payload, at });
            let except = Some(session);
            let delivery = Delivery { receivers, except, lane, message };
            #[cfg(feature = "plants")]
            self.late.pass(&self.members[&sender].grant.user, delivery, now, &mut self.outputs);
            #[cfg(not(feature = "plants"))]
            self.outputs.push_back(Output::Deliver(delivery));
            Ok(())
        });
        if let Err(refused) = result {
            self.refuse_session(session, None, Some(stream), refused, now);
        }
    }

    /// Who receives a message, and the target as they see it.
    fn receivers(&mut self, sender: SessionId, target: Target) -> Result<(Arc<[Receiver]>, Target), Refused> {
        match target {
            Target::Room => Ok((self.everyone(), Target::Room)),
            Target::Users(users) => {
                let mut members = BTreeSet::new();
                for user in &users {
                    let sessions = self.by_user.get(user.as_str()).ok_or(NO_SUCH_USER)?;
                    members.extend(sessions);
                }
                Ok((self.named(&members, sender), Target::Users(Vec::new())))
            }
            Target::Topic(topic) => {
                let receivers = match self.by_topic.get(&topic) {
                    Some(members) => self.named(members, sender),
                    None => Arc::new([]),
                };
                Ok((receivers, Target::Topic(topic)))
            }
        }
    }

    fn named(&self, members: &BTreeSet<u32>, sender: SessionId) -> Arc<[Receiver]> {
        let receivers = members.iter().map(|member| self.members[member].receiver);
        receivers.filter(|receiver| receiver.session != sender).collect()
    }

    fn everyone(&mut self) -> Arc<[Receiver]> {
        let members = &self.members;
        self.everyone.get_or_insert_with(|| members.values().map(|member| member.receiver).collect()).clone()
    }

    fn control(&mut self, session: SessionId, control: ClientControl, now: Instant) {
        let (id, result) = match control {
            ClientControl::Leave { id } => {
                let result = self.permit(session, Permission::Read);
                (id, result.map(|member| self.leave(member, Code::Left, true, now)))
            }
            ClientControl::Subscribe { id, topics } => (id, self.subscribe(session, id, topics, now)),
            ClientControl::Unsubscribe { id, topics } => (id, self.unsubscribe(session, id, &topics, now)),
            ClientControl::Signal { id, to, to_member, data } => {
                (id, self.signal(session, to.as_deref(), to_member, data, now))
            }
            ClientControl::Writer { id, origin, base } => {
                let result = self.reader(session);
                let writer = (origin, base.unwrap_or(1).max(1));
                (id, result.map(|(log, members, member)| log.writer(members, (member, id), writer, now)))
            }
            ClientControl::Pull { id, after } => {
                (id, self.reader(session).map(|(log, _, member)| log.pull(member, after, now)))
            }
            ClientControl::History { id, before, limit, parent } => {
                let result = self.reader(session);
                (id, result.map(|(log, _, member)| log.history((member, id), (before, limit, parent))))
            }
            ClientControl::Replay { id, from, to } => {
                let result = self.reader(session);
                (id, result.map(|(log, _, member)| log.replay((member, id), (from, to), now)))
            }
        };
        if let Err(refused) = result {
            self.refuse_session(session, Some(id), None, refused, now);
        }
    }

    fn subscribe(
        &mut self,
        session: SessionId,
        id: u32,
        topics: Vec<String>,
        now: Instant,
    ) -> Result<(), Refused> {
        let number = self.permit(session, Permission::Read)?;
        if topics.iter().any(|topic| topic.is_empty() || topic.len() > limits::TOPIC_BYTES) {
            return Err(Refused(Code::BadTopic, "a topic has 1 to 64 bytes"));
        }
        let member = self.members.get_mut(&number).expect("permitted sessions are members");
        let new: BTreeSet<String> =
            topics.into_iter().filter(|topic| !member.topics.contains(topic)).collect();
        if member.topics.len() + new.len() > self.limits.topics {
            return Err(Refused(Code::TooManyTopics, "the member has as many topics as it may have"));
        }
        for topic in new {
            self.by_topic.entry(topic.clone()).or_default().insert(number);
            member.topics.insert(topic);
        }
        self.tell_subscribed(number, id, now);
        Ok(())
    }

    fn unsubscribe(
        &mut self,
        session: SessionId,
        id: u32,
        topics: &[String],
        now: Instant,
    ) -> Result<(), Refused> {
        let number = self.permit(session, Permission::Read)?;
        let member = self.members.get_mut(&number).expect("permitted sessions are members");
        for topic in topics {
            if member.topics.remove(topic) {
                remove_from(&mut self.by_topic, topic, number);
            }
        }
        self.tell_subscribed(number, id, now);
        Ok(())
    }

    /// The others learn of a member's connection when it has become another.
    fn quality(&mut self, session: SessionId, seen: quality::Seen, now: Instant) {
        let Some(&number) = self.by_session.get(&session) else { return };
        let member = self.members.get_mut(&number).expect("by_session names members");
        if member.quality.replace(seen) != Some(seen) {
            self.announce(Some(session), &ServerControl::Quality { member: number, quality: seen }, now);
        }
    }

    /// Signals reach only users of this room, with the sender stamped (SIG4).
    fn signal(
        &mut self,
        session: SessionId,
        to: Option<&str>,
        to_member: Option<u32>,
        data: serde_json::Value,
        now: Instant,
    ) -> Result<(), Refused> {
        let from = self.permit(session, Permission::Comment)?;
        let named = match (to, to_member) {
            (Some(user), None) => self.by_user.get(user).cloned(),
            (None, Some(member)) => self.members.contains_key(&member).then(|| BTreeSet::from([member])),
            _ => {
                return Err(Refused(Code::Malformed, "a signal names either `to` or `to_member`"));
            }
        };
        let receivers = self.named(&named.ok_or(NO_SUCH_USER)?, session);
        let user = self.members[&from].grant.user.to_string();
        let message = control_message(&ServerControl::Signal { from, user, data }, now);
        self.outputs.push_back(Output::Deliver(Delivery {
            receivers,
            except: None,
            lane: Lane::Reliable,
            message,
        }));
        Ok(())
    }

    fn tell_joined(&mut self, number: u32, id: u32, now: Instant) {
        let Member { receiver, grant, topics, origin, .. } = &self.members[&number];
        let receiver = *receiver;
        let joined = ServerControl::Joined {
            id,
            room: self.key.room.to_string(),
            handle: receiver.handle,
            member: number,
            user: grant.user.to_string(),
            name: grant.name.to_string(),
            role: grant.role.name().to_owned(),
            permissions: grant.permissions.iter().map(permission_name).collect(),
            topics: topics.iter().cloned().collect(),
            members: self
                .members
                .keys()
                .filter(|&&other| other != number)
                .map(|&other| self.describe(other))
                .collect(),
            log: origin.map(|origin| message::Log { origin }),
        };
        self.tell(receiver, &joined, now);
    }

    fn tell_subscribed(&mut self, number: u32, id: u32, now: Instant) {
        let Member { receiver, topics, .. } = &self.members[&number];
        let (receiver, topics) = (*receiver, topics.iter().cloned().collect());
        self.tell(receiver, &ServerControl::Subscribed { id, topics }, now);
    }

    fn describe(&self, number: u32) -> message::Member {
        let Member { grant, quality, signing_keys, .. } = &self.members[&number];
        message::Member {
            member: number,
            user: grant.user.to_string(),
            name: grant.name.to_string(),
            role: grant.role.name().to_owned(),
            write: grant.permissions.contains(Permission::Write),
            quality: *quality,
            signing_keys: signing_keys.iter().map(|key| key.as_str().to_owned()).collect(),
        }
    }

    fn refuse_session(
        &mut self,
        session: SessionId,
        id: Option<u32>,
        stream: Option<u16>,
        refused: Refused,
        now: Instant,
    ) {
        // A session that is not a member has left before its message came; it was told that.
        if let Some(member) = self.by_session.get(&session) {
            self.refuse(self.members[member].receiver, id, stream, refused, now);
        }
    }

    fn refuse(&mut self, to: Receiver, id: Option<u32>, stream: Option<u16>, refused: Refused, now: Instant) {
        let Refused(code, message) = refused;
        self.outputs.push_back(Output::Refused(code));
        let message = message.to_owned();
        self.tell(to, &ServerControl::Refused { id, stream, code, message, retry_after_ms: None }, now);
    }

    fn tell(&mut self, receiver: Receiver, control: &ServerControl, now: Instant) {
        self.deliver_control(Arc::new([receiver]), None, control, now);
    }

    fn announce(&mut self, except: Option<SessionId>, control: &ServerControl, now: Instant) {
        let everyone = self.everyone();
        self.deliver_control(everyone, except, control, now);
    }

    fn deliver_control(
        &mut self,
        receivers: Arc<[Receiver]>,
        except: Option<SessionId>,
        control: &ServerControl,
        now: Instant,
    ) {
        let message = control_message(control, now);
        self.outputs.push_back(Output::Deliver(Delivery {
            receivers,
            except,
            lane: Lane::Reliable,
            message,
        }));
    }

    fn deliver(&mut self, receivers: Arc<[Receiver]>, message: Arc<Message>) {
        let (except, lane) = (None, Lane::Reliable);
        self.outputs.push_back(Output::Deliver(Delivery { receivers, except, lane, message }));
    }
}

/// A control message on its way to sessions.
pub fn control_message(control: &ServerControl, now: Instant) -> Arc<Message> {
    Arc::new(Message {
        kind: Kind::Control,
        text: true,
        sender: 0,
        stream: 0,
        target: Target::Room,
        payload: message::to_json(control).into(),
        at: now,
    })
}

const NO_SUCH_USER: Refused = Refused(Code::NoSuchUser, "no such user or member in this room");

fn permission_name(permission: Permission) -> String {
    let name = serde_json::to_value(permission).expect("a permission is a plain name");
    name.as_str().unwrap_or_default().to_owned()
}

fn remove_from<K: Ord + ?Sized, O: Ord + std::borrow::Borrow<K>>(
    sets: &mut BTreeMap<O, BTreeSet<u32>>,
    key: &K,
    number: u32,
) {
    if let Some(set) = sets.get_mut(key) {
        set.remove(&number);
        if set.is_empty() {
            sets.remove(key);
        }
    }
}

#[cfg(test)]
mod tests;
