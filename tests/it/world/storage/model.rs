//! What a store answers, in memory: the plainest thing that does what `src/store` promises.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write as _,
    sync::Arc,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use serde_json::{Value, json};
use switchyard::{
    names::RoomKey,
    store::{
        Answer, Batch, Entry, Head, KnownMessage, KnownOrigin, Loaded, Page, PageQuery, Refused, Request,
        StoreError,
    },
};
use switchyard_signaling::event::{Event, EventKind, INCOMPLETE, OPAQUE, Origin};

use super::Plant;

const RECENT_BYTES: usize = 256 * 1024;

#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    rooms: BTreeMap<RoomKey, Room>,
}

#[derive(Clone, Debug, Default)]
struct Room {
    fence: u64,
    epoch: u32,
    entries: Vec<Arc<Entry>>,
    origins: BTreeMap<Origin, (Arc<str>, u32, u32)>,
    refused: BTreeMap<(Origin, u32), Refused>,
    messages: BTreeMap<u64, Message>,
    fields: BTreeMap<String, Value>,
}

#[derive(Clone, Debug)]
struct Message {
    event: Event,
    body: Bytes,
    flags: u8,
    version: u8,
    edited: Option<u64>,
    is_deleted: bool,
    /// By emoji, in order.
    reactions: BTreeMap<String, BTreeSet<String>>,
    replies: u64,
}

/// The room that a request is about.
pub(super) fn key_of(request: &Request) -> &RoomKey {
    match request {
        Request::Load(key)
        | Request::RaiseEpoch(key)
        | Request::Events { key, .. }
        | Request::Digest(key, _)
        | Request::Origin(key, _)
        | Request::Message(key, _) => key,
        Request::Commit(batch) => &batch.key,
        Request::Page(query) => &query.key,
        Request::Note(_) => panic!("a note is about no answer"),
    }
}

/// The answer of a disk that is away.
pub(super) fn unavailable(request: &Request) -> Answer {
    let error = StoreError::Unavailable("the world's disk does not take it now".into());
    match request {
        Request::Load(_) | Request::RaiseEpoch(_) => Answer::Loaded(Err(error)),
        Request::Commit(_) => Answer::Committed(Err(error)),
        Request::Events { .. } => Answer::Events(Err(error)),
        Request::Digest(..) => Answer::Digest(Err(error)),
        Request::Origin(..) => Answer::Origin(Err(error)),
        Request::Message(..) => Answer::Message(Err(error)),
        Request::Page(_) => Answer::Page(Err(error)),
        Request::Note(_) => panic!("a note has no answer"),
    }
}

pub(super) fn is_failure(answer: &Answer) -> bool {
    matches!(answer, Answer::Committed(Err(_)) | Answer::Loaded(Err(_)))
}

impl Model {
    /// Makes a change.
    pub(super) fn change(&mut self, request: &Request, plant: Option<Plant>) -> Answer {
        let room = self.rooms.entry(key_of(request).clone()).or_default();
        match request {
            Request::Load(_) => {
                room.fence += 1;
                Answer::Loaded(Ok(room.loaded()))
            }
            Request::RaiseEpoch(_) => {
                room.fence += 1;
                room.epoch += 1;
                Answer::Loaded(Ok(room.loaded()))
            }
            Request::Commit(batch) => Answer::Committed(room.commit(batch, plant)),
            other => panic!("not a change: {other:?}"),
        }
    }

    /// Looks something up.
    pub(super) fn read(&self, request: &Request) -> Answer {
        let empty = Room::default();
        let room = self.rooms.get(key_of(request)).unwrap_or(&empty);
        match request {
            Request::Events { after, to, bytes, .. } => Answer::Events(Ok(room.events(*after, *to, *bytes))),
            Request::Digest(_, seq) => {
                let entry = seq.checked_sub(1).and_then(|at| room.entries.get(at as usize));
                Answer::Digest(Ok(entry.map(|entry| entry.digest)))
            }
            Request::Origin(_, origin) => Answer::Origin(Ok(room.origin(*origin))),
            Request::Message(_, seq) => {
                let known = room.messages.get(seq).map(|message| KnownMessage {
                    user: message.event.user.as_str().into(),
                    is_deleted: message.is_deleted,
                });
                Answer::Message(Ok(known))
            }
            Request::Page(query) => Answer::Page(Ok(room.page(query))),
            other => panic!("not a question: {other:?}"),
        }
    }
}

impl Room {
    fn head(&self) -> Head {
        let last = self.entries.last();
        Head {
            epoch: self.epoch,
            seq: last.map_or(0, |entry| entry.event.seq),
            digest: last.map_or(0, |entry| entry.digest),
        }
    }

    fn loaded(&self) -> Loaded {
        let mut bytes = 0;
        let fits = |entry: &&Arc<Entry>| {
            bytes += entry.event.content.body.len();
            bytes <= RECENT_BYTES
        };
        let mut recent: Vec<Arc<Entry>> = self.entries.iter().rev().take_while(fits).cloned().collect();
        recent.reverse();
        let first = self.entries.first().map_or(1, |entry| entry.event.seq);
        Loaded { fence: self.fence, head: self.head(), first, recent }
    }

    fn commit(&mut self, batch: &Batch, plant: Option<Plant>) -> Result<(), StoreError> {
        if batch.fence != self.fence {
            return Err(StoreError::Fenced);
        }
        if batch.expects != self.head() {
            return Err(StoreError::HeadMoved);
        }
        for entry in &batch.events {
            assert_eq!(entry.event.seq, self.head().seq + 1, "events of a batch follow each other");
            self.entries.push(entry.clone());
            self.take(&entry.event);
        }
        assert_eq!(self.head(), batch.head, "a batch ends where it says");
        if plant != Some(Plant::ForgetsOrigins) {
            for mark in &batch.origins {
                let known = self.origins.entry(mark.origin).or_insert((mark.user.clone(), 0, 0));
                assert_eq!(known.0, mark.user, "an origin belongs to one user");
                (known.1, known.2) = (known.1.max(mark.last), known.2.max(mark.base));
                let base = known.2;
                self.refused.retain(|(origin, cseq), _| *origin != mark.origin || *cseq >= base);
            }
        }
        if plant != Some(Plant::ForgetsRefusals) {
            for refused in &batch.refused {
                self.refused.insert((refused.origin, refused.cseq), refused.clone());
            }
        }
        Ok(())
    }

    fn take(&mut self, event: &Event) {
        let content = &event.content;
        if content.kind.is_message() {
            if let Some(parent) = self.messages.get_mut(&content.target) {
                parent.replies += 1;
            }
            let (body, flags, version) = (content.body.clone(), content.flags, content.version);
            let message = Message {
                event: event.clone(),
                body,
                flags,
                version,
                edited: None,
                is_deleted: false,
                reactions: BTreeMap::new(),
                replies: 0,
            };
            self.messages.insert(event.seq, message);
            return;
        }
        if content.kind == EventKind::Fields {
            let changed: BTreeMap<String, Value> = serde_json::from_slice(&content.body).unwrap();
            for (name, value) in changed {
                match value {
                    Value::Null => self.fields.remove(&name),
                    value => self.fields.insert(name, value),
                };
            }
        }
        let Some(message) = self.messages.get_mut(&content.target) else { return };
        let emoji = || String::from_utf8(content.body.to_vec()).unwrap();
        match content.kind {
            EventKind::Edit => {
                message.body = content.body.clone();
                message.edited = Some(event.at);
                message.version = content.version;
                message.flags = content.flags & OPAQUE | message.flags & !OPAQUE;
            }
            EventKind::Delete => message.is_deleted = true,
            EventKind::React => {
                message.reactions.entry(emoji()).or_default().insert(event.user.clone());
            }
            EventKind::Unreact => {
                let emoji = emoji();
                if let Some(users) = message.reactions.get_mut(&emoji) {
                    users.remove(&event.user);
                    message.reactions.retain(|_, users| !users.is_empty());
                }
            }
            _ => {}
        }
    }

    fn events(&self, after: u64, to: u64, bytes: usize) -> Vec<Arc<Entry>> {
        let mut sum = 0;
        let wanted = self.entries.iter().filter(|entry| (after + 1..=to).contains(&entry.event.seq));
        let fits = |entry: &&Arc<Entry>| {
            let is_first = sum == 0;
            sum += entry.event.content.body.len() + entry.event.user.len() + entry.event.name.len();
            is_first || sum <= bytes
        };
        wanted.take(1000).take_while(fits).cloned().collect()
    }

    fn origin(&self, origin: Origin) -> KnownOrigin {
        let Some((user, last, base)) = self.origins.get(&origin) else {
            return KnownOrigin::default();
        };
        let own = self.entries.iter().filter(|entry| entry.event.origin == origin);
        let events = own.map(|entry| (entry.event.cseq, entry.hash, entry.event.seq)).collect();
        let refused = self.refused.iter().filter(|((of, cseq), _)| *of == origin && cseq >= base);
        let refused = refused.map(|(_, refused)| refused.clone()).collect();
        KnownOrigin { user: Some(user.clone()), last: *last, events, refused }
    }

    fn page(&self, query: &PageQuery) -> Page {
        let before = query.before.unwrap_or(u64::MAX);
        let up_to = query.up_to.unwrap_or(u64::MAX);
        let of =
            |message: &&Message| query.parent.is_none_or(|parent| message.event.content.target == parent);
        let wanted = self.messages.values().rev();
        let mut wanted =
            wanted.filter(|message| message.event.seq < before && message.event.seq <= up_to).filter(of);
        let mut page: Vec<Value> = wanted.by_ref().take(query.limit).map(Message::shown).collect();
        page.reverse();
        let more = wanted.next().is_some();
        let mut json = format!("{{{}\"messages\":{},\"more\":{more}", query.prefix, Value::from(page));
        if query.fields {
            json += &format!(",\"fields\":{}", json!(self.fields));
        }
        json += "}";
        if json.len() <= 1024 {
            return Page { encoding: 0, json: json.into() };
        }
        let mut deflate = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
        deflate.write_all(json.as_bytes()).unwrap();
        Page { encoding: 1, json: deflate.finish().unwrap().into() }
    }
}

impl Message {
    fn shown(&self) -> Value {
        let Event { seq, user, name, at, content, .. } = &self.event;
        let is_opaque = self.flags & OPAQUE != 0;
        let body: Value = match (self.is_deleted, is_opaque) {
            (true, _) => json!({}),
            (false, true) => BASE64_STANDARD.encode(&self.body).into(),
            (false, false) => serde_json::from_slice(&self.body).unwrap(),
        };
        let mut shown = json!({
            "seq": seq, "kind": content.kind.name(), "user": user, "name": name, "at": at, "body": body,
        });
        let mut put = |field: &str, value: Value, is_there: bool| {
            if is_there {
                shown[field] = value;
            }
        };
        put("parent", content.target.into(), content.target != 0);
        put("version", self.version.into(), self.version != 0);
        put("edited", self.edited.into(), self.edited.is_some());
        put("opaque", true.into(), is_opaque && !self.is_deleted);
        put("deleted", true.into(), self.is_deleted);
        put("incomplete", true.into(), self.flags & INCOMPLETE != 0);
        put("replies", self.replies.into(), self.replies != 0);
        let reactions = self.reactions.iter();
        let reactions =
            reactions.map(|(emoji, users)| json!({"emoji": emoji, "count": users.len(), "users": users}));
        put("reactions", reactions.collect(), !self.reactions.is_empty());
        shown
    }
}
