//! Devices that write and read the log of one room, and what befalls them: the application above the simulated browsers,
//! with its pages, profiles and histories.
//!
//! [`Seats`] is driven by a test: it commands, and [`Seats::pass`] lets time pass and does what an application does by
//! itself: connect again, join anew when the session is lost, note what it sees.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use bytes::Bytes;
use serde_json::json;
use switchyard_loadtest::{
    browser::{Event as Happened, LogEvent, Pipe, RoomLog, Saved},
    rng::Rng,
};
use switchyard_signaling::{
    event::{Content, Event, EventKind, OPAQUE, Origin},
    limits,
    message::{ClientControl, ServerControl},
};

use super::{
    Kind, MS, SECOND, Setup, World,
    client::What,
    disk::Backup,
    history::{History, Id, Note, Role},
    verdict::{self, Restored, Said, Verdict},
    wire,
};

/// Time passes in steps of at most this length, after each of which the applications act.
const SLICE: Duration = Duration::from_millis(20);
/// How long everything may take to come to rest.
const REST: Duration = Duration::from_secs(90);

/// A device.
pub(crate) struct Seat {
    /// Its client in the world.
    client: usize,
    pub(crate) history: History,
    pub(crate) role: Role,
    /// How much of the client's history has been read.
    read: usize,
    /// Roles of the joins that were not confirmed yet.
    joins: Vec<Role>,
    pub(crate) is_joined: bool,
    /// It does not connect before; none while its page is closed.
    connects: Option<Instant>,
    /// Of a closed page.
    saved: Option<Saved>,
    unanswered: BTreeSet<Id>,
    /// What was last written to the device's own disk, and of which state.
    kept: (Saved, (Option<Origin>, u32, usize)),
    /// Messages that it has seen, and their authors.
    known: BTreeMap<u64, String>,
    /// The streamed message that it is writing: its key, which is the submission of its end, and the text so far.
    streaming: Option<(Id, String)>,
    /// Its reactions: message, emoji.
    reacted: Vec<(u64, Bytes)>,
    written: u32,
    /// The request of a replay, and from where it went.
    replay: Option<u32>,
    replayed: Option<u64>,
}

pub(crate) struct Seats {
    pub(crate) world: World,
    pub(crate) seats: Vec<Seat>,
    pub(crate) room: String,
    restored: Vec<Restored>,
    /// Until when the server is down.
    down: Instant,
    crashes: usize,
    has_streams: bool,
    /// Everything that was ever written, so that no two submissions say the same.
    said: BTreeSet<Said>,
}

impl Seats {
    pub(crate) fn new(setup: Setup, room: &str) -> Self {
        let world = World::new(setup);
        let down = world.now;
        Self {
            world,
            seats: Vec::new(),
            room: room.to_owned(),
            restored: Vec::new(),
            down,
            crashes: 0,
            has_streams: false,
            said: BTreeSet::new(),
        }
    }

    /// A device of a user, which goes on with what was saved on another one, if anything.
    pub(crate) fn add(&mut self, user: &str, kind: &Kind, saved: Saved) -> usize {
        let client = self.world.add_client(kind);
        self.seats.push(Seat {
            client,
            history: History::new(user),
            role: Role::Editor,
            read: 0,
            joins: Vec::new(),
            is_joined: false,
            connects: Some(self.world.now),
            saved: None,
            unanswered: BTreeSet::new(),
            kept: (Saved::default(), (None, 0, 0)),
            known: BTreeMap::new(),
            streaming: None,
            reacted: Vec::new(),
            written: 0,
            replay: None,
            replayed: None,
        });
        let seat = self.seats.len() - 1;
        self.enter(seat, RoomLog::restore(saved));
        seat
    }

    /// Another device with a copy of everything that this one has saved. `None` where nothing could tell what both write
    /// from what one of them writes twice: something has no number yet, or a third one has a copy, so that two may meet a
    /// conflict under the same number with the same submission.
    pub(crate) fn clone_profile(&mut self, of: usize, kind: &Kind) -> Option<usize> {
        let Saved { outbox, waiting, texts, .. } = self.log(of)?.saved();
        if !waiting.is_empty() {
            return None;
        }
        let user = self.seats[of].history.user.clone();
        if self.seats.iter().filter(|seat| seat.history.user == user).count() > 1 {
            return None;
        }
        let ids: Vec<Id> =
            outbox.iter().flat_map(|outbox| outbox.unanswered.iter().map(|one| one.nonce)).collect();
        let role = self.seats[of].role;
        let mine = (0..self.seats[of].written).map(|number| (of as u32 + 1) * 100_000 + number).collect();
        let at = self.world.elapsed();
        self.seats[of].history.note(at, Note::Shared(mine));
        let client = self.add(&user, kind, Saved { outbox, texts, ..Saved::default() });
        let at = self.world.elapsed();
        self.seats[client].history.note(at, Note::Inherited(ids.clone()));
        self.seats[client].unanswered.extend(ids);
        self.set_role(client, role);
        Some(client)
    }

    // ---- what befalls them

    /// The network of a device is away for so long; what was in the pipe is lost.
    pub(crate) fn part(&mut self, seat: usize, span: Duration) {
        self.world.cut(self.seats[seat].client, 3 * SECOND);
        self.seats[seat].connects = Some(self.world.now + span);
    }

    /// A second WebSocket takes the place of the first.
    pub(crate) fn switch(&mut self, seat: usize) {
        if self.is_open(seat) && self.world.now >= self.down {
            self.world.open(self.seats[seat].client);
        }
    }

    /// It moves to this pipe, if that is there.
    pub(crate) fn attach(&mut self, seat: usize, pipe: Pipe) {
        let now = self.world.now;
        self.world.on(self.seats[seat].client, |browser| browser.attach(now, pipe));
    }

    /// Its datagrams come from another address.
    pub(crate) fn rebind(&mut self, seat: usize) {
        self.world.rebind(self.seats[seat].client);
    }

    /// The page reads nothing, or reads again.
    pub(crate) fn stall(&mut self, seat: usize, stalled: bool) {
        let now = self.world.now;
        self.world.on(self.seats[seat].client, |browser| browser.set_stalled(now, stalled));
    }

    /// The page is gone without a word and comes back after so long, with what it had saved.
    pub(crate) fn reload(&mut self, seat: usize, away: Duration, keeps: Keeps) {
        let Some(saved) = self.log(seat).map(RoomLog::saved) else { return };
        let at = self.world.elapsed();
        // The page that was writing it is gone; a part of it may stay without an end.
        self.seats[seat].streaming = None;
        let mut kept = Saved::default();
        if keeps.outbox {
            // Answers may have come since it was written.
            let saved = if keeps.stale { self.seats[seat].kept.0.clone() } else { saved.clone() };
            (kept.outbox, kept.waiting, kept.texts) = (saved.outbox, saved.waiting, saved.texts);
            let numbered = kept.outbox.iter().flat_map(|outbox| &outbox.unanswered);
            let ids: Vec<Id> = numbered.chain(&kept.waiting).map(|one| one.nonce).collect();
            self.seats[seat].unanswered = ids.iter().copied().collect();
            self.seats[seat].history.note(at, Note::Resumed(ids));
        } else {
            let forgotten = std::mem::take(&mut self.seats[seat].unanswered);
            self.seats[seat].history.note(at, Note::Forgot(forgotten.into_iter().collect()));
        }
        if keeps.transcript {
            kept.position = saved.position;
        } else {
            self.seats[seat].known.clear();
        }
        self.seats[seat].history.note(at, Note::Reloaded(kept.position.map(|position| position.seq)));
        self.world.replace_browser(self.seats[seat].client, 3 * SECOND);
        let of = &mut self.seats[seat];
        (of.saved, of.is_joined, of.connects) = (Some(kept), false, Some(self.world.now + away));
        of.read = self.world.clients[of.client].history.len();
    }

    /// A newer token with another role.
    pub(crate) fn set_role(&mut self, seat: usize, role: Role) {
        self.seats[seat].role = role;
        self.ask(seat);
    }

    /// The same for devices with access networks of their own: nobody reaches the server meanwhile.
    pub(crate) fn restart(&mut self, down: Duration) {
        self.world.crash_for(down);
    }

    /// The server is gone and comes back after so long.
    pub(crate) fn crash(&mut self, down: Duration) {
        self.world.crash();
        self.is_down(down);
    }

    /// The operator puts a backup back that was taken then.
    pub(crate) fn restore(&mut self, taken: Duration, backup: &Backup, down: Duration) {
        self.crash(down);
        self.world.storage.restore(backup);
        self.restored.push(Restored { taken, restored: self.world.elapsed() });
    }

    fn is_down(&mut self, down: Duration) {
        self.down = self.world.now + down;
        for seat in &mut self.seats {
            if let Some(connects) = &mut seat.connects {
                // Not all in the same instant.
                let spread = Duration::from_nanos(self.world.rng.below(200_000_000));
                *connects = (*connects).max(self.down + spread);
            }
        }
    }

    // ---- writing

    /// A device writes something, mostly what it may.
    pub(crate) fn write(&mut self, seat: usize, size: usize, rng: &mut Rng) {
        let of = &self.seats[seat];
        let id = (seat as u32 + 1) * 100_000 + of.written;
        let text = format!("#{id}#{}", "x".repeat(size));
        let (any, own) = self.targets(seat, rng);
        let choice = rng.below(100);
        let (kind, target, body, wrong): (_, _, Bytes, _) = match (choice, any, own) {
            (0..8, _, Some(own)) => (EventKind::Edit, own, json!({"text": text}).to_string().into(), None),
            (8..12, _, Some(own)) => (EventKind::Delete, own, Bytes::new(), None),
            (12..20, Some(any), _) => (EventKind::React, any, format!("#{id}#").into(), None),
            (20..24, ..) if !of.reacted.is_empty() => {
                let last = self.seats[seat].reacted.pop();
                let (target, emoji) = last.unwrap_or_default();
                (EventKind::Unreact, target, emoji, None)
            }
            (24..32, ..) => {
                let field = format!("f{}", rng.below(4));
                let value = if rng.chance(0.3) { json!(null) } else { json!(id) };
                (EventKind::Fields, 0, json!({field: value, format!("w{seat}"): id}).to_string().into(), None)
            }
            (32..38, ..) => (EventKind::Custom, rng.below(100), text.into(), None),
            (38..46, Some(any), _) => (EventKind::Chat, any, json!({"text": text}).to_string().into(), None),
            (46..49, ..) => (EventKind::Chat, 0, json!({"html": text}).to_string().into(), Some("bad_body")),
            (49..51, ..) => {
                let nowhere = 1_000_000_000 + u64::from(id);
                (EventKind::React, nowhere, format!("#{id}#").into(), Some("no_such_message"))
            }
            (51..53, Some(any), _) if of.known.get(&any) != Some(&of.history.user) => {
                (EventKind::Edit, any, json!({"text": text}).to_string().into(), Some("not_author"))
            }
            (53, ..) => {
                let body = vec![b'x'; limits::EVENT_BYTES + 1];
                (EventKind::Custom, id.into(), body.into(), Some("too_large"))
            }
            _ => (EventKind::Chat, 0, json!({"text": text}).to_string().into(), None),
        };
        let opaque = kind == EventKind::Chat && wrong.is_none() && rng.chance(0.1);
        let content =
            Content { kind, version: id as u8, flags: if opaque { OPAQUE } else { 0 }, target, body };
        self.submit(seat, id, content, wrong);
    }

    fn submit(&mut self, seat: usize, id: Id, content: Content, wrong: Option<&'static str>) {
        if !self.said.insert(verdict::said(&self.seats[seat].history.user, &content)) {
            return;
        }
        let (now, at, room) = (self.world.now, self.world.elapsed(), self.room.clone());
        let client = self.seats[seat].client;
        let submitted = content.clone();
        if self.world.on(client, |browser| browser.log(now, &room, |log| log.submit(id, submitted))).is_some()
        {
            let of = &mut self.seats[seat];
            of.written += 1;
            of.unanswered.insert(id);
            if content.kind == EventKind::React && wrong.is_none() {
                of.reacted.push((content.target, content.body.clone()));
            }
            of.history.note(at, Note::Submitted { id, content, wrong });
            self.keep(seat, true);
        }
    }

    /// A device writes a message of a hundred bytes.
    pub(crate) fn say(&mut self, seat: usize) {
        let id = (seat as u32 + 1) * 100_000 + self.seats[seat].written;
        let body = json!({"text": format!("#{id}#{}", "x".repeat(80))}).to_string().into();
        let content = Content { kind: EventKind::Chat, version: id as u8, flags: 0, target: 0, body };
        self.submit(seat, id, content, None);
    }

    /// A device goes on with a streamed message, or begins one.
    pub(crate) fn stream(&mut self, seat: usize, size: usize, rng: &mut Rng) {
        let (now, at, room) = (self.world.now, self.world.elapsed(), self.room.clone());
        let of = &mut self.seats[seat];
        let id = (seat as u32 + 1) * 100_000 + of.written;
        let content = |text: &str| {
            let body = json!({"text": text}).to_string().into();
            Content { kind: EventKind::Chat, version: 0, flags: 0, target: 0, body }
        };
        let is_there = of.saved.is_none();
        self.has_streams = true;
        match of.streaming.take().filter(|_| is_there) {
            None if is_there => {
                of.written += 1;
                let text = format!("#{id}#");
                let part = text.clone();
                of.streaming = Some((id, text));
                self.world.on(of.client, |browser| {
                    browser.log(now, &room, |log| {
                        log.begin(id, content(""));
                        log.part(id, &part);
                    })
                });
            }
            None => {}
            Some((key, mut text)) if rng.chance(0.7) => {
                let part = "é".repeat(1 + size / 2);
                text += &part;
                of.streaming = Some((key, text));
                self.world.on(of.client, |browser| browser.log(now, &room, |log| log.part(key, &part)));
            }
            Some((key, text)) => {
                of.unanswered.insert(key);
                of.history.note(at, Note::Streamed(key));
                of.history.note(at, Note::Submitted { id: key, content: content(&text), wrong: None });
                self.world.on(of.client, |browser| browser.log(now, &room, |log| log.end(key, key)));
            }
        }
        self.keep(seat, true);
    }

    /// Any message and one's own, of those that were seen.
    fn targets(&self, seat: usize, rng: &mut Rng) -> (Option<u64>, Option<u64>) {
        let Seat { known, history, .. } = &self.seats[seat];
        let pick = |of: Vec<u64>, rng: &mut Rng| of.get(rng.below(of.len() as u64) as usize).copied();
        let newest = known.iter().rev().take(20);
        let own = newest.clone().filter(|(_, user)| **user == history.user).map(|(seq, _)| *seq).collect();
        let any = pick(newest.map(|(seq, _)| *seq).collect(), rng);
        (any, pick(own, rng))
    }

    // ---- time

    /// Lets time pass; the applications do what they do.
    pub(crate) fn pass(&mut self, span: Duration) {
        let end = self.world.now + span;
        while self.world.now < end {
            self.world.run(SLICE.min(end - self.world.now));
            self.attend();
        }
    }

    /// Lets everything come to rest, with everybody there and everything well.
    pub(crate) fn calm(&mut self) -> Result<(), String> {
        self.world.storage.set_mood(super::storage::Mood::Well);
        self.world.storage.strike = None;
        for seat in 0..self.seats.len() {
            self.stall(seat, false);
            let connects = self.seats[seat].connects;
            self.seats[seat].connects = Some(connects.map_or(self.world.now, |at| at.min(self.world.now)));
        }
        let end = self.world.now + REST;
        while self.world.now < end {
            self.pass(100 * MS);
            let restless = (0..self.seats.len()).find(|seat| !self.is_at_rest(*seat));
            let taken: BTreeSet<u64> = (0..self.seats.len()).map(|seat| self.taken(seat)).collect();
            if restless.is_none() && taken.len() <= 1 && self.world.storage.is_idle() {
                return Ok(());
            }
        }
        let tell = |seat: usize| {
            let log = self.log(seat);
            let unanswered = log.map_or(0, RoomLog::unanswered);
            let (joined, up) = (self.seats[seat].is_joined, log.is_some_and(RoomLog::is_up_to_date));
            format!(
                "device {seat}: joined {joined}, unanswered {unanswered}, up to date {up}, taken {}",
                self.taken(seat)
            )
        };
        let told: Vec<String> = (0..self.seats.len()).map(tell).collect();
        Err(format!("no rest within {REST:?}: {}", told.join("; ")))
    }

    /// Brings everything to rest, has an observer read the whole log, and judges.
    pub(crate) fn judge(&mut self) -> Result<Verdict, String> {
        self.calm()?;
        if self.has_streams {
            // The room ends those that nobody goes on with.
            self.pass(75 * SECOND);
            self.calm()?;
        }
        let observer = self.add("observer", &Kind::default(), Saved::default());
        self.calm()?;
        self.ask_replay(observer, 1);
        let end = self.world.now + REST;
        while self.seats[observer].replay.is_some() {
            self.pass(100 * MS);
            if self.world.now > end {
                return Err("the observer's replay was not answered".to_owned());
            }
        }
        let histories: Vec<History> = self.seats.iter().map(|seat| seat.history.clone()).collect();
        verdict::judge(&histories, &self.restored)
    }

    fn is_at_rest(&self, seat: usize) -> bool {
        let is_done = |log: &RoomLog| log.unanswered() == 0 && log.is_up_to_date();
        self.seats[seat].is_joined && self.log(seat).is_some_and(is_done)
    }

    fn taken(&self, seat: usize) -> u64 {
        self.log(seat).map_or(0, RoomLog::taken)
    }

    pub(crate) fn log(&self, seat: usize) -> Option<&RoomLog> {
        self.world.clients[self.seats[seat].client].browser.room_log(&self.room)
    }

    /// Whether it has a WebSocket.
    pub(crate) fn is_open(&self, seat: usize) -> bool {
        self.world.clients[self.seats[seat].client].is_connected()
    }

    fn attend(&mut self) {
        if self.world.crashes > self.crashes {
            self.crashes = self.world.crashes;
            let down = Duration::from_nanos(self.world.rng.below(1_000_000_000));
            self.is_down(down);
        }
        for seat in 0..self.seats.len() {
            let client = self.seats[seat].client;
            let new = self.world.clients[client].history.split_off(self.seats[seat].read);
            for seen in &new {
                self.understand(seat, seen.at, &seen.what);
            }
            self.world.clients[client].history.extend(new);
            self.seats[seat].read = self.world.clients[client].history.len();
            self.keep(seat, false);
            self.connect(seat);
        }
    }

    /// Writes to the device's own disk what must not be lost.
    fn keep(&mut self, seat: usize, anyway: bool) {
        let Some(log) = self.log(seat) else { return };
        let state = log.must_save();
        if anyway || state != self.seats[seat].kept.1 {
            self.seats[seat].kept = (log.saved(), state);
        }
    }

    fn connect(&mut self, seat: usize) {
        let now = self.world.now;
        let is_due = self.seats[seat].connects.is_some_and(|at| at <= now);
        let client = self.seats[seat].client;
        // In an access network of its own the page looks after its WebSockets by itself.
        if self.is_open(seat) || !is_due || now < self.down || self.world.clients[client].line.is_some() {
            return;
        }
        if let Some(saved) = self.seats[seat].saved.take() {
            self.enter(seat, RoomLog::restore(saved));
        }
        self.world.open(client);
        // Should it fail at once: not in the same instant again.
        self.seats[seat].connects = Some(now + 100 * MS);
    }

    fn understand(&mut self, seat: usize, at: Duration, what: &What) {
        let client = self.seats[seat].client;
        match what {
            What::Joined { role, .. } => {
                let of = &mut self.seats[seat];
                of.is_joined = true;
                // Which one was confirmed is clear where all are for the same role.
                if role == of.role.name() && of.joins.iter().all(|join| *join == of.role) {
                    of.joins.clear();
                    of.history.note(at, Note::Confirmed(of.role));
                } else if !of.joins.is_empty() {
                    of.joins.remove(0);
                }
            }
            What::Left { .. } => {
                self.seats[seat].is_joined = false;
                if let Some(log) = self.world.clients[client].browser.take_log(&self.room) {
                    self.enter(seat, log);
                }
            }
            What::Other(Happened::SessionLost) => {
                self.seats[seat].is_joined = false;
                let now = self.world.now;
                let log = if self.world.clients[client].line.is_some() {
                    self.world.clients[client].rooms.clear();
                    self.world.on(client, |browser| browser.begin_anew(now)).remove(&self.room)
                } else {
                    let log = self.world.clients[client].browser.take_logs().remove(&self.room);
                    self.world.replace_browser(client, SECOND);
                    log
                };
                if let Some(log) = log {
                    self.enter(seat, log);
                }
            }
            // A join is no frame: it may have been lost with the WebSocket.
            What::Other(Happened::Welcome)
                if !self.seats[seat].joins.is_empty() && self.world.clients[client].browser.has_session() =>
            {
                self.ask_again(seat);
            }
            What::Other(Happened::Log(_, event)) => self.note(seat, at, event),
            What::Other(Happened::Violation(what)) => {
                panic!("seed {}: device {seat}: the server broke the protocol: {what}", self.world.setup.seed)
            }
            What::Other(Happened::Control(_, ServerControl::Refused { id: Some(id), .. }))
                if self.seats[seat].replay == Some(*id) =>
            {
                let from = self.seats[seat].replayed.unwrap_or(1);
                self.ask_replay(seat, from);
            }
            _ => {}
        }
    }

    fn note(&mut self, seat: usize, at: Duration, event: &LogEvent) {
        let of = &mut self.seats[seat];
        let note = match event {
            LogEvent::Event(event) => {
                know(&mut of.known, event);
                Note::Event(event.clone())
            }
            LogEvent::Snapshot(snapshot) => {
                of.known = snapshot
                    .messages
                    .iter()
                    .map(|message| {
                        let user = message["user"].as_str().unwrap_or_default().to_owned();
                        (message["seq"].as_u64().unwrap_or_default(), user)
                    })
                    .collect();
                Note::Snapshot(snapshot.clone())
            }
            LogEvent::Accepted { nonce, origin, cseq, seq } => {
                of.unanswered.remove(nonce);
                Note::Accepted { id: *nonce, origin: *origin, cseq: *cseq, seq: *seq }
            }
            LogEvent::Refused { nonce, code } => {
                of.unanswered.remove(nonce);
                Note::Refused { id: *nonce, code: code.clone() }
            }
            LogEvent::Conflict(_) => Note::Conflict,
            LogEvent::Answered { id, last, events } => {
                if of.replay == Some(*id) {
                    of.replay = None;
                    let next = events.last().map(|event| event.seq + 1);
                    of.history.note(at, Note::Replayed(events.clone()));
                    if let (false, Some(next)) = (*last, next) {
                        self.ask_replay(seat, next);
                    }
                }
                return;
            }
            _ => return,
        };
        of.history.note(at, note);
    }

    // ---- asking

    fn token(&self, seat: usize) -> String {
        let Seat { history, role, .. } = &self.seats[seat];
        wire::token(&history.user, role.name(), self.world.elapsed() + 100_000 * SECOND)
    }

    /// Joins the room.
    fn enter(&mut self, seat: usize, log: RoomLog) {
        let (now, room, token) = (self.world.now, self.room.clone(), self.token(seat));
        self.world.on(self.seats[seat].client, |browser| browser.join_log(now, &room, &token, log));
        self.seats[seat].joins = vec![self.seats[seat].role];
        self.note_asked(seat);
    }

    /// Refreshes the token.
    fn ask(&mut self, seat: usize) {
        if !self.seats[seat].is_joined {
            // The role comes with the next session, unless a join is under way with the old one.
            self.note_asked(seat);
            let role = self.seats[seat].role;
            self.seats[seat].joins.push(role);
            return;
        }
        self.ask_again(seat);
    }

    fn ask_again(&mut self, seat: usize) {
        let (now, room, token) = (self.world.now, self.room.clone(), self.token(seat));
        self.world.on(self.seats[seat].client, |browser| browser.join_again(now, &room, &token));
        let role = self.seats[seat].role;
        self.seats[seat].joins.push(role);
        self.note_asked(seat);
    }

    fn note_asked(&mut self, seat: usize) {
        let at = self.world.elapsed();
        let role = self.seats[seat].role;
        self.seats[seat].history.note(at, Note::Asked(role));
    }

    fn ask_replay(&mut self, seat: usize, from: u64) {
        let (now, room) = (self.world.now, self.room.clone());
        let client = self.seats[seat].client;
        let Some(&handle) = self.world.clients[client].rooms.get(&room) else { return };
        let id = self.world.on(client, |browser| {
            let id = browser.request();
            browser.control(now, handle, &ClientControl::Replay { id, from, to: None }).map(|()| id)
        });
        self.seats[seat].replay = id.ok();
        self.seats[seat].replayed = Some(from);
    }
}

/// What of a page survives its end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keeps {
    pub(crate) outbox: bool,
    /// Not the newest one.
    pub(crate) stale: bool,
    pub(crate) transcript: bool,
}

fn know(known: &mut BTreeMap<u64, String>, event: &Event) {
    if event.content.kind.is_message() {
        known.insert(event.seq, event.user.clone());
    } else if event.content.kind == EventKind::Delete {
        known.remove(&event.content.target);
    }
}
