//! From a session to its rooms and from a room to its receivers, across shards.
//!
//! One router per shard: it holds the rooms that live there, hands actions to them, and sorts what they say into
//! deliveries for sessions of this shard and [`Letter`]s to others. It never touches a session or a pipe (that is
//! `src/engine/`) nor a queue between threads (that is `src/io/`): letters are polled, and a shell that cannot pass
//! one on gives it back.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::Instant,
};

use switchyard_signaling::{Code, frame::Kind};

use crate::{
    names::{RoomKey, RoomPlace, SessionId, ShardId},
    room::{
        Action, BackendAnswer, BackendError, BackendRequest, Delivery, Lane, LogSettings, LogTally, Output,
        Receiver, Room, RoomLimits,
    },
    store,
};

/// Letters that may wait for another shard. Beyond it the shard is not keeping up: actions are refused, and deliveries
/// become notices of what is missing.
const LETTERS: usize = 65_536;
/// Such notices that are kept apart by stream; beyond it they are for the room as a whole.
const MISSED_APART: usize = 4096;

/// What one shard tells another.
#[derive(Debug)]
pub enum Letter {
    /// A session asks for admission.
    Join {
        /// The room, made if it is not there.
        room: RoomKey,
        /// Who asks.
        session: SessionId,
        /// A join.
        action: Action,
    },
    /// A member acts.
    Act {
        /// The room.
        place: RoomPlace,
        /// Who acts.
        session: SessionId,
        /// What.
        action: Action,
    },
    /// A room's message for sessions of the receiving shard.
    Deliver(Delivery),
    /// Messages for sessions of the receiving shard were dropped, because it does not keep up.
    Missed(Missed),
    /// A session of the receiving shard is a member now.
    Admitted(Receiver, RoomPlace),
    /// A session of the receiving shard is no member, or none any more.
    Dismissed(Receiver),
}

/// Reliable messages of one stream that did not reach another shard.
#[derive(Clone, Debug)]
pub struct Missed {
    /// Who would have received them.
    pub receivers: Arc<[Receiver]>,
    /// Not this one.
    pub except: Option<SessionId>,
    /// The author's member number; 0 with stream 0 for any of the room.
    pub sender: u32,
    /// The author's stream.
    pub stream: u16,
    /// How many.
    pub count: u32,
}

/// What is counted about rooms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tally {
    /// A session has become a member.
    Joined,
    /// A member has gone.
    Left(Code),
    /// A join, a request or a message was refused.
    Refused(Code),
    /// An action was refused or a delivery dropped because another shard does not keep up.
    ShardBusy,
    /// Something happened in a log.
    Log(LogTally),
}

/// What the router has for the sessions of its own shard.
#[derive(Debug)]
pub enum Arrival {
    /// Bring this to those of the receivers that live here.
    Deliver(Delivery),
    /// Tell those of the receivers that live here what they miss.
    Missed(Missed),
    /// This session is a member now.
    Admitted(Receiver, RoomPlace),
    /// This session is no member, or none any more.
    Dismissed(Receiver),
}

/// The rooms of one shard and the ways to them.
#[derive(Debug)]
pub struct Router {
    shard: ShardId,
    shards: u16,
    limits: RoomLimits,
    settings: Arc<LogSettings>,
    /// Different for each room that is made.
    entropy: u64,
    rooms: Vec<Option<(u32, Room)>>,
    free: Vec<u32>,
    serial: u32,
    by_key: HashMap<RoomKey, u32>,
    timers: BTreeSet<(Instant, u32)>,
    timer_of: HashMap<u32, Instant>,
    arrivals: VecDeque<Arrival>,
    letters: Vec<VecDeque<Letter>>,
    missed: Vec<Vec<Missed>>,
    tallies: BTreeMap<Tally, u64>,
    store_letters: VecDeque<store::Letter>,
    backend_answers: VecDeque<(u64, Result<BackendAnswer, BackendError>)>,
    #[cfg(feature = "plants")]
    plant: Option<crate::room::Plant>,
}

impl Router {
    /// The router of `shard`, one of `shards`. `entropy` is not to be guessed, and another one in each process.
    pub fn new(
        shard: ShardId,
        shards: u16,
        limits: RoomLimits,
        settings: Arc<LogSettings>,
        entropy: u64,
    ) -> Self {
        Self {
            settings,
            entropy,
            store_letters: VecDeque::new(),
            backend_answers: VecDeque::new(),
            #[cfg(feature = "plants")]
            plant: None,
            shard,
            shards,
            limits,
            rooms: Vec::new(),
            free: Vec::new(),
            serial: 0,
            by_key: HashMap::new(),
            timers: BTreeSet::new(),
            timer_of: HashMap::new(),
            arrivals: VecDeque::new(),
            letters: (0..shards).map(|_| VecDeque::new()).collect(),
            missed: vec![Vec::new(); shards.into()],
            tallies: BTreeMap::new(),
        }
    }

    /// A session of this shard wants to join a room, wherever that lives.
    pub fn join(&mut self, session: SessionId, room: RoomKey, action: Action, now: Instant) {
        let shard = room.shard(self.shards);
        self.dispatch(shard, Letter::Join { room, session, action }, now);
    }

    /// A session of this shard acts in a room. `false` if the room's shard does not keep up and the action, a message
    /// or request, was dropped: its author is to be told.
    pub fn act(&mut self, session: SessionId, place: RoomPlace, action: Action, now: Instant) -> bool {
        let may_drop = !matches!(action, Action::Leave { .. });
        if may_drop && place.shard != self.shard && self.waiting(place.shard) >= LETTERS {
            self.tally(Tally::ShardBusy);
            return false;
        }
        self.dispatch(place.shard, Letter::Act { place, session, action }, now);
        true
    }

    /// Takes a letter from another shard.
    pub fn handle_letter(&mut self, letter: Letter, now: Instant) {
        match letter {
            Letter::Join { room, session, action } => {
                let slot = self.slot_of(room, now);
                self.room_acts(slot, session, action, now);
            }
            Letter::Act { place, session, action } => {
                let there = self.rooms.get(place.slot as usize).and_then(Option::as_ref);
                if there.is_some_and(|(serial, _)| *serial == place.serial) {
                    self.room_acts(place.slot, session, action, now);
                }
            }
            Letter::Missed(missed) => self.arrivals.push_back(Arrival::Missed(missed)),
            Letter::Deliver(delivery) => self.arrivals.push_back(Arrival::Deliver(delivery)),
            Letter::Admitted(receiver, place) => self.arrivals.push_back(Arrival::Admitted(receiver, place)),
            Letter::Dismissed(receiver) => self.arrivals.push_back(Arrival::Dismissed(receiver)),
        }
    }

    /// The application's backend acts in a room of this shard, which is made if it is not there.
    pub fn handle_backend(&mut self, room: RoomKey, request: BackendRequest, now: Instant) {
        let slot = self.slot_of(room, now);
        if let Some((_, room)) = &mut self.rooms[slot as usize] {
            room.handle_backend(request, now);
        }
        self.collect(slot, now);
    }

    /// Takes the store's answer to a letter of a room.
    pub fn handle_stored(&mut self, reply: store::Reply, now: Instant) {
        let store::Reply { to, ticket, answer } = reply;
        if let Some(Some((serial, room))) = self.rooms.get_mut(to.slot as usize)
            && *serial == to.serial
        {
            room.handle_answer(ticket, answer, now);
            self.collect(to.slot, now);
        }
    }

    /// What there is for the store.
    pub fn poll_store(&mut self) -> Option<store::Letter> {
        self.store_letters.pop_front()
    }

    /// Answers for the application's backend.
    pub fn poll_backend(&mut self) -> Option<(u64, Result<BackendAnswer, BackendError>)> {
        self.backend_answers.pop_front()
    }

    /// Plants a bug in every room, for the world tests.
    #[cfg(feature = "plants")]
    pub fn plant(&mut self, plant: Option<crate::room::Plant>) {
        self.plant = plant;
    }

    /// Lets rooms do what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(&(at, slot)) = self.timers.first()
            && at <= now
        {
            self.timers.pop_first();
            self.timer_of.remove(&slot);
            if let Some((_, room)) = &mut self.rooms[slot as usize] {
                room.handle_timeout(now);
            }
            self.collect(slot, now);
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// What there is for the sessions of this shard.
    pub fn poll_arrival(&mut self) -> Option<Arrival> {
        self.arrivals.pop_front()
    }

    /// What there is for another shard.
    pub fn poll_letter(&mut self, to: ShardId) -> Option<Letter> {
        let letter = self.letters[to.0 as usize].pop_front();
        // Notices come behind everything that waited when they arose, so at their place in each stream.
        letter.or_else(|| self.missed[to.0 as usize].pop().map(Letter::Missed))
    }

    /// What was counted since the last call.
    pub fn take_tallies(&mut self) -> BTreeMap<Tally, u64> {
        std::mem::take(&mut self.tallies)
    }

    /// A letter that could not be passed on now.
    pub fn return_letter(&mut self, to: ShardId, letter: Letter) {
        self.letters[to.0 as usize].push_front(letter);
    }

    /// Letters that wait for another shard.
    pub fn waiting(&self, to: ShardId) -> usize {
        self.letters[to.0 as usize].len()
    }

    /// Rooms that live here and have members, and those.
    pub fn population(&self) -> (usize, usize) {
        let rooms = self.rooms.iter().flatten().map(|(_, room)| room.len()).filter(|members| *members > 0);
        rooms.fold((0, 0), |(rooms, members), here| (rooms + 1, members + here))
    }

    /// Something of a session was refused, for the count.
    pub fn refused(&mut self, code: Code) {
        self.tally(Tally::Refused(code));
    }

    fn tally(&mut self, tally: Tally) {
        *self.tallies.entry(tally).or_default() += 1;
    }

    fn dispatch(&mut self, to: ShardId, letter: Letter, now: Instant) {
        if to == self.shard {
            self.handle_letter(letter, now);
        } else {
            self.letters[to.0 as usize].push_back(letter);
        }
    }

    fn slot_of(&mut self, key: RoomKey, now: Instant) -> u32 {
        if let Some(&slot) = self.by_key.get(&key) {
            return slot;
        }
        self.serial += 1;
        // Steps of an odd number meet each value once.
        self.entropy = self.entropy.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let room = Room::new(key.clone(), self.limits, self.settings.clone(), self.entropy, now);
        #[cfg(feature = "plants")]
        let room = {
            let mut room = room;
            room.plant(self.plant);
            room
        };
        let room = Some((self.serial, room));
        let slot = match self.free.pop() {
            Some(slot) => {
                self.rooms[slot as usize] = room;
                slot
            }
            None => {
                self.rooms.push(room);
                (self.rooms.len() - 1) as u32
            }
        };
        self.by_key.insert(key, slot);
        slot
    }

    fn room_acts(&mut self, slot: u32, session: SessionId, action: Action, now: Instant) {
        let Some((_, room)) = &mut self.rooms[slot as usize] else {
            return;
        };
        // Only these change who is in the room and when something is due.
        let cheap = matches!(action, Action::Send(..) | Action::Quality(..));
        room.handle(session, action, now);
        #[cfg(feature = "plants")]
        let cheap = cheap && !room.holds_back();
        if cheap { self.outputs(slot) } else { self.collect(slot, now) }
    }

    fn outputs(&mut self, slot: u32) {
        let Some((serial, room)) = &mut self.rooms[slot as usize] else {
            return;
        };
        let place = RoomPlace { shard: self.shard, slot, serial: *serial };
        while let Some(output) = room.poll() {
            match output {
                Output::Deliver(delivery) => {
                    let here = deliver(&mut self.letters, &mut self.missed, self.shard, &delivery);
                    *self.tallies.entry(Tally::ShardBusy).or_default() += here.dropped;
                    if here.is_local {
                        self.arrivals.push_back(Arrival::Deliver(delivery));
                    }
                }
                Output::Store(ticket, request) => {
                    self.store_letters.push_back(store::Letter { from: place, ticket, request });
                }
                Output::Backend(request, result) => self.backend_answers.push_back((request, result)),
                Output::Log(tally) => *self.tallies.entry(Tally::Log(tally)).or_default() += 1,
                Output::Refused(code) => *self.tallies.entry(Tally::Refused(code)).or_default() += 1,
                Output::Admitted(receiver) => {
                    *self.tallies.entry(Tally::Joined).or_default() += 1;
                    if receiver.session.shard == self.shard {
                        self.arrivals.push_back(Arrival::Admitted(receiver, place));
                    } else {
                        self.letters[receiver.session.shard.0 as usize]
                            .push_back(Letter::Admitted(receiver, place));
                    }
                }
                Output::Dismissed(receiver, reason) => {
                    if let Some(reason) = reason {
                        *self.tallies.entry(Tally::Left(reason)).or_default() += 1;
                    }
                    if receiver.session.shard == self.shard {
                        self.arrivals.push_back(Arrival::Dismissed(receiver));
                    } else {
                        self.letters[receiver.session.shard.0 as usize]
                            .push_back(Letter::Dismissed(receiver));
                    }
                }
            }
        }
    }

    /// Takes the outputs and what else an action may have changed: members, timer, the room's end.
    fn collect(&mut self, slot: u32, now: Instant) {
        self.outputs(slot);
        let Some((_, room)) = &self.rooms[slot as usize] else {
            return;
        };
        let due = room.poll_timeout();
        if room.is_over(now) {
            self.by_key.remove(&room.key().clone());
            self.rooms[slot as usize] = None;
            self.free.push(slot);
        }
        let scheduled = self.timer_of.get(&slot).copied();
        if scheduled != due {
            if let Some(at) = scheduled {
                self.timers.remove(&(at, slot));
                self.timer_of.remove(&slot);
            }
            if let Some(at) = due {
                self.timers.insert((at, slot));
                self.timer_of.insert(slot, at);
            }
        }
    }
}

/// What became of a delivery beyond the letters written.
struct Delivered {
    is_local: bool,
    dropped: u64,
}

/// Writes one letter to each other shard where a receiver lives.
fn deliver(
    letters: &mut [VecDeque<Letter>],
    missed: &mut [Vec<Missed>],
    here: ShardId,
    delivery: &Delivery,
) -> Delivered {
    if letters.len() == 1 {
        return Delivered { is_local: true, dropped: 0 };
    }
    let mut delivered = Delivered { is_local: false, dropped: 0 };
    let mut told = 0_u64;
    for receiver in delivery.receivers.iter() {
        let shard = receiver.session.shard;
        if shard == here {
            delivered.is_local = true;
            continue;
        }
        // The configuration allows 64 shards at most.
        let bit = 1 << (shard.0 % 64);
        if told & bit != 0 {
            continue;
        }
        told |= bit;
        let (letters, missed) = (&mut letters[shard.0 as usize], &mut missed[shard.0 as usize]);
        // A stream of which something is missing already must not go on before that has been told.
        let is_data = delivery.message.kind != Kind::Control;
        if is_data && (letters.len() >= LETTERS || (!missed.is_empty() && delivery.lane == Lane::Reliable)) {
            delivered.dropped += 1;
            if delivery.lane == Lane::Reliable {
                note_missed(missed, delivery);
            }
        } else {
            letters.push_back(Letter::Deliver(delivery.clone()));
        }
    }
    delivered
}

fn note_missed(missed: &mut Vec<Missed>, delivery: &Delivery) {
    let Delivery { receivers, except, message, .. } = delivery;
    let is_apart = missed.len() < MISSED_APART;
    let (sender, stream) = if is_apart { (message.sender, message.stream) } else { (0, 0) };
    let except = except.filter(|_| is_apart);
    let same = missed.iter_mut().rev().find(|missed| {
        Arc::ptr_eq(&missed.receivers, receivers)
            && (missed.except, missed.sender, missed.stream) == (except, sender, stream)
    });
    match same {
        Some(same) => same.count = same.count.saturating_add(1),
        None => missed.push(Missed { receivers: receivers.clone(), except, sender, stream, count: 1 }),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use switchyard_signaling::{Code, frame::Target};

    use super::*;
    use crate::room::{Grant, Lane, Outbound, permission::Role};

    const LIMITS: RoomLimits = RoomLimits { participants: 50, topics: 8 };

    fn settings() -> Arc<LogSettings> {
        Arc::new(LogSettings::new(crate::names::WallClock::new(Instant::now(), 0)))
    }

    fn session(shard: u16, slot: u32) -> SessionId {
        SessionId { shard: ShardId(shard), slot, serial: 1 }
    }

    fn join(user: &str, now: Instant) -> Action {
        let role = Role::Editor;
        let expires = now + Duration::from_secs(60);
        let (user, permissions) = (Arc::from(user), role.permissions());
        let grant = Grant { name: Arc::clone(&user), user, role, permissions, expires, signing_key: None };
        Action::Join { handle: 1, id: 1, grant, follow: None }
    }

    fn room_on(shard: u16, shards: u16) -> RoomKey {
        let key = |n: u32| RoomKey { tenant: "t".into(), room: n.to_string().into() };
        (0..).map(key).find(|key| key.shard(shards) == ShardId(shard)).unwrap()
    }

    /// Carries letters between two routers until there are none; returns what arrived at each.
    fn settle(routers: &mut [Router; 2], now: Instant) -> [Vec<Arrival>; 2] {
        loop {
            let mut quiet = true;
            for (from, to) in [(0, 1), (1, 0)] {
                while let Some(letter) = routers[from].poll_letter(ShardId(to as u16)) {
                    routers[to].handle_letter(letter, now);
                    quiet = false;
                }
            }
            if quiet {
                return [0, 1].map(|n| std::iter::from_fn(|| routers[n].poll_arrival()).collect());
            }
        }
    }

    #[test]
    fn a_room_on_another_shard_admits_and_delivers_one_copy_per_shard() {
        let now = Instant::now();
        let mut routers = [0, 1].map(|shard| Router::new(ShardId(shard), 2, LIMITS, settings(), 1));
        let key = room_on(1, 2);
        for slot in 0..3 {
            routers[0].join(session(0, slot), key.clone(), join(&format!("u{slot}"), now), now);
        }
        routers[1].join(session(1, 9), key, join("there", now), now);
        let arrivals = settle(&mut routers, now);
        let places: Vec<RoomPlace> = arrivals[0]
            .iter()
            .filter_map(|arrival| if let Arrival::Admitted(_, place) = arrival { Some(*place) } else { None })
            .collect();
        assert_eq!(places.len(), 3);
        assert_eq!(routers[1].population(), (1, 4));
        let outbound = Outbound {
            text: false,
            stream: 0,
            target: Target::Room,
            payload: Bytes::from_static(b"x"),
            at: now,
        };
        routers[0].act(session(0, 0), places[0], Action::Send(Lane::Reliable, outbound), now);
        let arrivals = settle(&mut routers, now);
        assert_eq!(arrivals.each_ref().map(Vec::len), [1, 1]);
    }

    #[test]
    fn a_room_ends_with_its_last_member_and_its_slot_serves_another_under_a_new_serial() {
        let now = Instant::now();
        let mut router = Router::new(ShardId(0), 1, LIMITS, settings(), 1);
        let key = room_on(0, 1);
        let place = |router: &mut Router| {
            std::iter::from_fn(|| router.poll_arrival())
                .find_map(
                    |arrival| {
                        if let Arrival::Admitted(_, place) = arrival { Some(place) } else { None }
                    },
                )
                .unwrap()
        };
        router.join(session(0, 1), key.clone(), join("a", now), now);
        let first = place(&mut router);
        router.act(session(0, 1), first, Action::Leave { reason: Code::Left, tell: false }, now);
        assert_eq!(router.population(), (0, 0));
        assert_eq!(router.poll_timeout(), None);
        router.join(session(0, 2), key, join("b", now), now);
        let second = place(&mut router);
        assert_eq!(first.slot, second.slot);
        router.act(session(0, 2), first, Action::Leave { reason: Code::Left, tell: false }, now);
        assert_eq!(router.population(), (1, 1));
    }

    #[test]
    fn a_grant_that_ends_is_noticed_without_an_action() {
        let now = Instant::now();
        let mut router = Router::new(ShardId(0), 1, LIMITS, settings(), 1);
        router.join(session(0, 1), room_on(0, 1), join("a", now), now);
        let due = router.poll_timeout().unwrap();
        assert_eq!(due, now + Duration::from_secs(60));
        router.handle_timeout(due);
        assert_eq!(router.population(), (0, 0));
    }

    #[test]
    fn a_shard_that_does_not_keep_up_costs_bounded_memory_and_its_sessions_learn_what_they_miss() {
        let now = Instant::now();
        let mut routers = [0, 1].map(|shard| Router::new(ShardId(shard), 2, LIMITS, settings(), 1));
        let key = room_on(1, 2);
        routers[0].join(session(0, 7), key.clone(), join("far", now), now);
        routers[1].join(session(1, 1), key, join("near", now), now);
        let place = settle(&mut routers, now)[1].iter().find_map(admission).unwrap();
        const EXCESS: usize = 1000;
        for stream in 0..LETTERS + EXCESS {
            let payload = Bytes::from_static(b"x");
            let outbound =
                Outbound { text: false, stream: (stream % 5) as u16, target: Target::Room, payload, at: now };
            routers[1].act(session(1, 1), place, Action::Send(Lane::Reliable, outbound), now);
            while routers[1].poll_arrival().is_some() {}
        }
        assert_eq!(routers[1].waiting(ShardId(0)), LETTERS);
        let (mut delivered, mut missed) = (0, 0);
        for arrival in &settle(&mut routers, now)[0] {
            match arrival {
                Arrival::Deliver(_) => delivered += 1,
                Arrival::Missed(notice) => missed += notice.count as usize,
                _ => {}
            }
        }
        assert_eq!((delivered, missed), (LETTERS, EXCESS));
    }

    fn admission(arrival: &Arrival) -> Option<RoomPlace> {
        if let Arrival::Admitted(_, place) = arrival { Some(*place) } else { None }
    }
}
