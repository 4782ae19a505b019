//! What a client of a room's log saw and did, and what its application makes of that: the state of the room.
//!
//! A history is written by the client's application alone: nothing in it comes from the server but over the wire.
//! [`super::verdict`] judges histories.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::Value;
use switchyard_signaling::{
    event::{Content, Event, EventKind, OPAQUE, Origin},
    reader::Snapshot,
};

/// A submission, named by the nonce that its application drew: no other in the world has it.
pub(crate) type Id = u32;

/// Everything of one device: it outlives sessions and pages.
#[derive(Clone, Debug)]
pub(crate) struct History {
    pub(crate) user: String,
    pub(crate) notes: Vec<Noted>,
}

#[derive(Clone, Debug)]
pub(crate) struct Noted {
    /// Since the world began.
    pub(crate) at: Duration,
    pub(crate) note: Note,
}

#[derive(Clone, Debug)]
pub(crate) enum Note {
    /// The application wrote; `wrong` is why the server must refuse it, whatever the writer's role.
    Submitted { id: Id, content: Content, wrong: Option<&'static str> },
    /// This submission, which follows, ends a message that was streamed.
    Streamed(Id),
    /// Submissions of another device that this one has as well: its profile was copied.
    Inherited(Vec<Id>),
    /// Another device has a copy of the profile now, and may have told the server of answers to these.
    Shared(Vec<Id>),
    /// The page was loaded anew with an outbox that is a little old: some of these may have had their answers.
    Resumed(Vec<Id>),
    /// The device does not know any more that it ever wrote these: it lost them in a crash.
    Forgot(Vec<Id>),
    /// A join with this role was sent; it counts from some moment on until the confirmation.
    Asked(Role),
    /// The join was confirmed.
    Confirmed(Role),
    /// The submission is the event `seq`.
    Accepted { id: Id, origin: Origin, cseq: u32, seq: u64 },
    /// It will never be one.
    Refused { id: Id, code: String },
    /// Another wrote with the same origin.
    Conflict,
    /// The next event of the log.
    Event(Event),
    /// It replaces what was read before.
    Snapshot(Snapshot),
    /// Events that were asked for.
    Replayed(Vec<Event>),
    /// The page was loaded anew and knows what it had read up to this `seq`, or nothing.
    Reloaded(Option<u64>),
}

/// The roles of the worlds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Editor,
    Viewer,
}

impl Role {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Editor => "editor",
            Self::Viewer => "viewer",
        }
    }
}

impl History {
    pub(crate) fn new(user: &str) -> Self {
        Self { user: user.to_owned(), notes: Vec::new() }
    }

    pub(crate) fn note(&mut self, at: Duration, note: Note) {
        self.notes.push(Noted { at, note });
    }
}

/// What an application shows of a room.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    /// By `seq`.
    pub(crate) messages: BTreeMap<u64, Shown>,
    pub(crate) fields: BTreeMap<String, Value>,
}

/// A message as shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shown {
    pub(crate) kind: String,
    pub(crate) user: String,
    pub(crate) parent: u64,
    pub(crate) body: Value,
    pub(crate) is_edited: bool,
    pub(crate) is_deleted: bool,
    /// Emoji and user.
    pub(crate) reactions: BTreeSet<(String, String)>,
}

impl State {
    /// As a snapshot has it.
    pub(crate) fn of(snapshot: &Snapshot) -> Self {
        let fields = snapshot.fields.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        let messages = snapshot.messages.iter().map(|message| {
            let text = |field: &str| message[field].as_str().unwrap_or_default().to_owned();
            let reactions = message["reactions"].as_array().into_iter().flatten().flat_map(|reaction| {
                let emoji = reaction["emoji"].as_str().unwrap_or_default().to_owned();
                let users = reaction["users"].as_array().into_iter().flatten();
                users.map(move |user| (emoji.clone(), user.as_str().unwrap_or_default().to_owned()))
            });
            let shown = Shown {
                kind: text("kind"),
                user: text("user"),
                parent: message["parent"].as_u64().unwrap_or_default(),
                body: message["body"].clone(),
                is_edited: !message["edited"].is_null(),
                is_deleted: message["deleted"].as_bool().unwrap_or_default(),
                reactions: reactions.collect(),
            };
            (message["seq"].as_u64().unwrap_or_default(), shown.settled())
        });
        Self { messages: messages.collect(), fields }
    }

    /// What an event does to it. Of messages that are not shown nothing changes.
    pub(crate) fn apply(&mut self, event: &Event) {
        let Content { kind, target, body, .. } = &event.content;
        let text = || String::from_utf8_lossy(body).into_owned();
        let json = || match event.content.flags & OPAQUE {
            0 => serde_json::from_slice(body).unwrap_or_default(),
            _ => BASE64_STANDARD.encode(body).into(),
        };
        if kind.is_message() {
            let shown = Shown {
                kind: kind.name().to_owned(),
                user: event.user.clone(),
                parent: *target,
                body: json(),
                is_edited: false,
                is_deleted: false,
                reactions: BTreeSet::new(),
            };
            self.messages.insert(event.seq, shown);
            return;
        }
        if *kind == EventKind::Fields {
            let Value::Object(changed) = json() else { return };
            for (name, value) in changed {
                match value {
                    Value::Null => self.fields.remove(&name),
                    value => self.fields.insert(name, value),
                };
            }
        }
        let Some(shown) = self.messages.get_mut(target) else { return };
        match kind {
            EventKind::Edit => (shown.body, shown.is_edited) = (json(), true),
            EventKind::Delete => shown.is_deleted = true,
            EventKind::React => drop(shown.reactions.insert((text(), event.user.clone()))),
            EventKind::Unreact => drop(shown.reactions.remove(&(text(), event.user.clone()))),
            _ => {}
        }
        *shown = shown.clone().settled();
    }
}

impl Shown {
    /// Of a deleted message nothing is shown but that it was there.
    fn settled(mut self) -> Self {
        if self.is_deleted {
            self.body = Value::Object(serde_json::Map::new());
            self.is_edited = false;
            self.reactions.clear();
        }
        self
    }
}
