//! The store of a world: what `switchyard::store` promises, as plainly as it can be said, in memory.
//!
//! It has two states: what was written, and what would be there after a crash. [`Disk::handle`] answers as the real
//! stores do, [`Disk::sync`] makes durable what was written, [`Disk::crash`] forgets the rest. An answer to a commit may
//! be passed on after [`Disk::sync`] only; a world that does otherwise plants a fault. `tests/store` holds it against
//! SQLite and PostgreSQL, so that what is found with it is true of them.
//!
//! Effects are applied event by event, pages are built as JSON values: it shares no code with the real ones.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Map, Value, json};
use switchyard::{
    names::RoomKey,
    store::{
        Answer, Batch, Entry, Head, KnownMessage, KnownOrigin, Loaded, Note, Page, PageQuery, Refused,
        Request, Retention, StoreError,
        backend::{EVENTS, ORIGIN_AGE, ORIGIN_EVENTS, RECENT_BYTES},
    },
};
use switchyard_signaling::event::{EventKind, INCOMPLETE, OPAQUE, Origin};

/// A disk with a store on it.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    written: State,
    durable: State,
    /// What was written since the last sync.
    unsynced: Vec<Change>,
    /// Rooms of which a batch has failed since they were loaded.
    failed: BTreeSet<RoomKey>,
    fault: Option<Fault>,
}

/// What is wrong with a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing can be written; reading goes on: the disk is full.
    Full,
    /// Nothing is answered but that it is away.
    Away,
    /// Commits are done, and reported as failed: the connection went before the answer came.
    AnswersLost,
}

/// A copy of what was durable at some time.
#[derive(Clone, Debug, Default)]
pub(crate) struct Backup(State);

#[derive(Clone, Debug)]
enum Change {
    Load(RoomKey, u32),
    Commit(Batch, u64),
    Note(Note),
    Retain(Retention, u64),
}

impl Disk {
    /// Answers a request. What it changes is written, and durable after [`sync`](Self::sync). `now` is in milliseconds
    /// since 1970. A note has no answer.
    pub(crate) fn handle(&mut self, request: &Request, now: u64) -> Option<Answer> {
        let is_change = matches!(
            request,
            Request::Load(_) | Request::Commit(_) | Request::RaiseEpoch(_) | Request::Note(_)
        );
        let failing = match self.fault {
            Some(Fault::Away) => true,
            Some(Fault::Full) => is_change,
            _ => false,
        };
        if failing {
            let error = StoreError::Unavailable("as the test wants".to_owned());
            if let Request::Commit(batch) = request {
                self.failed.insert(batch.key.clone());
            }
            return request.failed(error);
        }
        Some(match request {
            Request::Load(key) => Answer::Loaded(Ok(self.load(key, 0))),
            Request::RaiseEpoch(key) => Answer::Loaded(Ok(self.load(key, 1))),
            Request::Commit(batch) => Answer::Committed(self.commit(batch, now)),
            Request::Events { key, after, to, bytes } => {
                Answer::Events(Ok(self.written.room(key).events(*after, *to, *bytes)))
            }
            Request::Digest(key, seq) => {
                Answer::Digest(Ok(self.written.room(key).events.get(seq).map(|entry| entry.digest)))
            }
            Request::Origin(key, origin) => Answer::Origin(Ok(self.written.room(key).origin(*origin))),
            Request::Message(key, seq) => {
                let message = self.written.room(key).messages.get(seq).map(Message::known);
                Answer::Message(Ok(message))
            }
            Request::Fields(key) => {
                let fields = self.written.room(key).fields.iter();
                Answer::Fields(Ok(fields
                    .map(|(name, value)| (name.clone(), value.to_string().len()))
                    .collect()))
            }
            Request::Page(query) => Answer::Page(Ok(self.written.room(&query.key).page(query))),
            Request::Note(note) => {
                self.apply(Change::Note(note.clone()));
                return None;
            }
        })
    }

    /// [`Request::Load`], or with 1 [`Request::RaiseEpoch`].
    pub(crate) fn load(&mut self, key: &RoomKey, epochs: u32) -> Loaded {
        self.failed.remove(key);
        self.apply(Change::Load(key.clone(), epochs));
        self.written.room(key).loaded()
    }

    fn commit(&mut self, batch: &Batch, now: u64) -> Result<(), StoreError> {
        if self.failed.contains(&batch.key) {
            return Err(StoreError::HeadMoved);
        }
        let mut result = self.commit_alone(batch, now);
        if result.is_ok() && self.fault == Some(Fault::AnswersLost) {
            result = Err(StoreError::Unavailable("the answer was lost".to_owned()));
        }
        if result.is_err() {
            self.failed.insert(batch.key.clone());
        }
        result
    }

    /// A commit as one connection does it, which remembers no failures.
    pub(crate) fn commit_alone(&mut self, batch: &Batch, now: u64) -> Result<(), StoreError> {
        self.written.rooms.get(&batch.key).ok_or(StoreError::Fenced)?.admits(batch)?;
        self.apply(Change::Commit(batch.clone(), now));
        Ok(())
    }

    /// Removes everything that may go.
    pub(crate) fn retain(&mut self, retention: Retention, now: u64) {
        self.apply(Change::Retain(retention, now));
    }

    /// Makes durable what was written.
    pub(crate) fn sync(&mut self) {
        for change in self.unsynced.drain(..) {
            self.durable.apply(&change);
        }
    }

    /// Forgets what was not durable. Of the changes since the last sync the first `kept` happen to have reached the disk.
    pub(crate) fn crash(&mut self, kept: usize) {
        self.unsynced.truncate(kept);
        self.sync();
        self.written = self.durable.clone();
        self.failed.clear();
    }

    /// How many changes a crash could lose.
    pub(crate) fn unsynced(&self) -> usize {
        self.unsynced.len()
    }

    /// What is durable, to be restored later.
    pub(crate) fn backup(&self) -> Backup {
        Backup(self.durable.clone())
    }

    /// Puts back what was there when the backup was made. Whoever uses the disk has to be started anew.
    pub(crate) fn restore(&mut self, backup: &Backup) {
        self.durable = backup.0.clone();
        self.crash(0);
    }

    /// Makes the disk fail from now on, or work again.
    pub(crate) fn set_fault(&mut self, fault: Option<Fault>) {
        self.fault = fault;
    }

    /// What is wrong with the disk.
    pub(crate) fn fault(&self) -> Option<Fault> {
        self.fault
    }

    fn apply(&mut self, change: Change) {
        self.written.apply(&change);
        self.unsynced.push(change);
    }
}

#[derive(Clone, Debug, Default)]
struct State {
    rooms: BTreeMap<RoomKey, Room>,
    nowhere: Room,
}

#[derive(Clone, Debug)]
struct Room {
    fence: u64,
    head: Head,
    first: u64,
    events: BTreeMap<u64, Arc<Entry>>,
    messages: BTreeMap<u64, Message>,
    fields: BTreeMap<String, Value>,
    origins: BTreeMap<Origin, Mark>,
    refused: BTreeMap<(Origin, u32), (Refused, u64)>,
}

impl Default for Room {
    fn default() -> Self {
        Self {
            fence: 0,
            head: Head::default(),
            first: 1,
            events: BTreeMap::new(),
            messages: BTreeMap::new(),
            fields: BTreeMap::new(),
            origins: BTreeMap::new(),
            refused: BTreeMap::new(),
        }
    }
}

#[derive(Clone, Debug)]
struct Mark {
    user: Arc<str>,
    last: u32,
    base: u32,
    used_at: u64,
}

#[derive(Clone, Debug)]
struct Message {
    entry: Arc<Entry>,
    version: u8,
    is_opaque: bool,
    body: Vec<u8>,
    edited: Option<u64>,
    is_deleted: bool,
    /// By emoji and user, the event that added it.
    reactions: BTreeMap<(String, String), u64>,
}

impl Message {
    fn known(&self) -> KnownMessage {
        KnownMessage { user: self.entry.event.user.as_str().into(), is_deleted: self.is_deleted }
    }
}

impl State {
    fn room(&self, key: &RoomKey) -> &Room {
        self.rooms.get(key).unwrap_or(&self.nowhere)
    }

    fn apply(&mut self, change: &Change) {
        match change {
            Change::Load(key, epochs) => {
                let room = self.rooms.entry(key.clone()).or_default();
                room.fence += 1;
                room.head.epoch += epochs;
            }
            Change::Commit(batch, now) => {
                self.rooms.entry(batch.key.clone()).or_default().commit(batch, *now)
            }
            Change::Note(Note::Joined { key, .. } | Note::Left { key, .. }) => {
                self.rooms.entry(key.clone()).or_default();
            }
            Change::Retain(retention, now) => {
                for room in self.rooms.values_mut() {
                    room.retain(retention, *now);
                }
            }
        }
    }
}

impl Room {
    fn admits(&self, batch: &Batch) -> Result<(), StoreError> {
        let mut seqs = batch.events.iter().map(|entry| entry.event.seq);
        let mut identities = batch.events.iter().map(|entry| (entry.event.origin, entry.event.cseq));
        let mut seen: BTreeSet<_> =
            self.events.values().map(|entry| (entry.event.origin, entry.event.cseq)).collect();
        if batch.fence != self.fence {
            Err(StoreError::Fenced)
        } else if batch.expects != self.head {
            Err(StoreError::HeadMoved)
        } else if !(self.head.seq + 1..=batch.head.seq).eq(&mut seqs)
            || !identities.all(|identity| seen.insert(identity))
        {
            Err(StoreError::Damaged("not a batch".to_owned()))
        } else {
            Ok(())
        }
    }

    fn commit(&mut self, batch: &Batch, now: u64) {
        for entry in &batch.events {
            self.events.insert(entry.event.seq, entry.clone());
            self.effect(entry);
        }
        self.head = batch.head;
        for refused in &batch.refused {
            let key = (refused.origin, refused.cseq);
            self.refused.entry(key).or_insert_with(|| (refused.clone(), now));
        }
        for mark in &batch.origins {
            let user = mark.user.clone();
            let known =
                self.origins.entry(mark.origin).or_insert(Mark { user, last: 0, base: 0, used_at: now });
            known.last = known.last.max(mark.last);
            known.base = known.base.max(mark.base);
            known.used_at = now;
            let base = known.base;
            self.refused.retain(|(origin, cseq), _| *origin != mark.origin || *cseq >= base);
        }
    }

    fn effect(&mut self, entry: &Arc<Entry>) {
        let event = &entry.event;
        let content = &event.content;
        let is_opaque = content.flags & OPAQUE != 0;
        if content.kind.is_message() {
            let message = Message {
                entry: entry.clone(),
                version: content.version,
                is_opaque,
                body: content.body.to_vec(),
                edited: None,
                is_deleted: false,
                reactions: BTreeMap::new(),
            };
            self.messages.insert(event.seq, message);
        }
        if content.kind == EventKind::Fields
            && let Ok(Value::Object(fields)) = serde_json::from_slice(&content.body)
        {
            for (name, value) in fields {
                match value {
                    Value::Null => drop(self.fields.remove(&name)),
                    value => drop(self.fields.insert(name, value)),
                }
            }
        }
        if content.target >= event.seq {
            return;
        }
        let Some(message) = self.messages.get_mut(&content.target).filter(|message| !message.is_deleted)
        else {
            return;
        };
        let emoji = std::str::from_utf8(&content.body).map(|emoji| (emoji.to_owned(), event.user.clone()));
        match (content.kind, emoji) {
            (EventKind::Edit, _) => {
                message.edited = Some(event.at);
                message.version = content.version;
                message.is_opaque = is_opaque;
                message.body = content.body.to_vec();
            }
            (EventKind::Delete, _) => {
                message.is_deleted = true;
                message.is_opaque = false;
                message.reactions.clear();
            }
            (EventKind::React, Ok(reaction)) => {
                message.reactions.entry(reaction).or_insert(event.seq);
            }
            (EventKind::Unreact, Ok(reaction)) => {
                message.reactions.remove(&reaction);
            }
            _ => {}
        }
    }

    fn retain(&mut self, retention: &Retention, now: u64) {
        let age = |age: std::time::Duration| now.saturating_sub(age.as_millis() as u64);
        let mut first = self.first;
        if let Some(most) = retention.max_events {
            first = first.max((self.head.seq + 1).saturating_sub(most));
        }
        if let Some(oldest) = retention.max_age.map(age) {
            while self.events.get(&first).is_some_and(|entry| entry.event.at < oldest) {
                first += 1;
            }
        }
        self.first = first;
        self.events = self.events.split_off(&first);
        self.messages = self.messages.split_off(&first);
        let oldest = age(ORIGIN_AGE);
        let events = &self.events;
        self.origins.retain(|origin, mark| {
            mark.used_at >= oldest || events.values().any(|entry| entry.event.origin == *origin)
        });
        self.refused.retain(|_, (_, at)| *at >= oldest);
    }

    fn loaded(&self) -> Loaded {
        let mut recent = within(self.events.values().rev(), RECENT_BYTES);
        recent.reverse();
        Loaded { fence: self.fence, head: self.head, first: self.first, recent }
    }

    fn events(&self, after: u64, to: u64, bytes: usize) -> Vec<Arc<Entry>> {
        if after >= to {
            return Vec::new();
        }
        within(self.events.range(after + 1..=to).map(|(_, entry)| entry), bytes)
    }

    fn origin(&self, origin: Origin) -> KnownOrigin {
        let Some(mark) = self.origins.get(&origin) else { return KnownOrigin::default() };
        let own = self.events.values().filter(|entry| entry.event.origin == origin);
        let mut events: Vec<_> = own.map(|entry| (entry.event.cseq, entry.hash, entry.event.seq)).collect();
        events.sort_unstable();
        events.drain(..events.len().saturating_sub(ORIGIN_EVENTS as usize));
        let refused = self.refused.range((origin, 0)..=(origin, u32::MAX));
        KnownOrigin {
            user: Some(mark.user.clone()),
            last: mark.last,
            events,
            refused: refused.map(|(_, (refused, _))| refused.clone()).collect(),
        }
    }

    fn page(&self, query: &PageQuery) -> Page {
        let end = query.before.unwrap_or(u64::MAX).min(query.up_to.map_or(u64::MAX, |seq| seq + 1));
        let horizon = query.up_to.unwrap_or(u64::MAX);
        let wanted = |message: &Message| {
            let Some(parent) = query.parent else { return true };
            parent > 0 && message.entry.event.content.target == parent
        };
        let mut older = self.messages.range(..end).rev().filter(|(_, message)| wanted(message));
        let (mut messages, mut bytes, mut more) = (Vec::new(), 0, false);
        for (_, message) in older.by_ref() {
            bytes += if message.is_deleted { 0 } else { message.body.len() };
            let is_full =
                messages.len() >= query.limit.min(100) || (bytes > 128 * 1024 && !messages.is_empty());
            if is_full {
                more = true;
                break;
            }
            messages.push(self.message(message, horizon));
        }
        messages.reverse();
        let mut page: Map<String, Value> =
            serde_json::from_str(&format!("{{{}\"messages\":null}}", query.prefix))
                .expect("a prefix of members");
        page.insert("messages".to_owned(), messages.into());
        page.insert("more".to_owned(), more.into());
        if query.fields {
            page.insert("fields".to_owned(), Value::Object(self.fields.clone().into_iter().collect()));
        }
        Page { encoding: 0, json: serde_json::to_vec(&page).expect("values are JSON").into() }
    }

    fn message(&self, message: &Message, horizon: u64) -> Value {
        let event = &message.entry.event;
        let body = match (message.is_deleted, message.is_opaque) {
            (true, _) => json!({}),
            (false, true) => BASE64_STANDARD.encode(&message.body).into(),
            (false, false) => serde_json::from_slice(&message.body).unwrap_or_else(|_| json!({})),
        };
        let mut json = json!({
            "seq": event.seq, "kind": event.content.kind.name(), "user": event.user, "name": event.name,
            "at": event.at, "body": body,
        });
        let mut set = |name: &str, is_there: bool, value: Value| {
            if is_there {
                json[name] = value;
            }
        };
        set("parent", event.content.target > 0, event.content.target.into());
        set("version", message.version > 0, message.version.into());
        set("opaque", message.is_opaque, true.into());
        set("edited", message.edited.is_some(), message.edited.into());
        set("deleted", message.is_deleted, true.into());
        set("incomplete", event.content.flags & INCOMPLETE != 0, true.into());
        let replies = self
            .messages
            .range(event.seq + 1..)
            .filter(|(seq, reply)| **seq <= horizon && reply.entry.event.content.target == event.seq);
        let replies = replies.count();
        set("replies", replies > 0, replies.into());
        let mut reactions: Vec<_> = message
            .reactions
            .iter()
            .filter(|(_, seq)| **seq <= horizon)
            .map(|(key, seq)| (seq, key))
            .collect();
        reactions.sort_unstable();
        let mut emojis: Vec<(&str, Vec<&str>)> = Vec::new();
        for (_, (emoji, user)) in reactions {
            match emojis.iter_mut().find(|(known, _)| known == emoji) {
                Some((_, users)) => users.push(user),
                None => emojis.push((emoji, vec![user])),
            }
        }
        let emojis: Vec<_> = emojis
            .into_iter()
            .map(|(emoji, users)| {
                json!({ "emoji": emoji, "count": users.len(), "users": users[..users.len().min(50)] })
            })
            .collect();
        set("reactions", !emojis.is_empty(), emojis.into());
        json
    }
}

fn within<'a>(entries: impl Iterator<Item = &'a Arc<Entry>>, bytes: usize) -> Vec<Arc<Entry>> {
    let (mut taken, mut sum) = (Vec::new(), 0);
    for entry in entries.take(EVENTS as usize) {
        let event = &entry.event;
        sum += event.content.body.len() + event.user.len() + event.name.len();
        if sum > bytes && !taken.is_empty() {
            break;
        }
        taken.push(entry.clone());
    }
    taken
}
