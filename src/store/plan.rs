//! What a transaction does, worked out from its batches before the database is told: which batches are taken, and what
//! their events together do to messages, reactions and fields. Pure, and the same for every database.
//!
//! Effects of one transaction are folded, so that a database is told each only once, whatever the number of events:
//! first all messages are made, then replies counted, then bodies replaced, then reactions set and removed, then
//! messages deleted. That gives what doing them one by one gives, because an event acts only on messages before it and
//! nothing acts on a deleted message. What acts on nothing does nothing.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;
use switchyard_signaling::event::{EventKind, INCOMPLETE, OPAQUE, Origin};

use super::{Batch, Entry, Head, OriginMark, Refused, StoreError};
use crate::names::RoomKey;

/// How a room stands at the begin of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    /// Its number in the database.
    pub(super) id: i64,
    /// Who may write to it.
    pub(super) fence: u64,
    /// The end of its log.
    pub(super) head: Head,
}

/// A message of a room: the room's number and `seq`.
pub(super) type MessageId = (i64, u64);

/// What a message's body becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Edit<'a> {
    /// When.
    pub(super) at: u64,
    /// The application's.
    pub(super) version: u8,
    /// Whether it is [`OPAQUE`].
    pub(super) flags: u8,
    /// Bytes.
    pub(super) body: &'a [u8],
}

/// What a user's reaction to a message becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reaction {
    /// It is there, by this event if it was not before.
    Keep(u64),
    /// It is there, by this event, whatever was before.
    Renew(u64),
    /// It is not there.
    Remove,
}

/// What an origin's mark becomes: `last` and `base` at least these.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mark<'a> {
    /// Whose it is, if it is new.
    pub(super) user: &'a str,
    /// See [`OriginMark::last`].
    pub(super) last: u32,
    /// See [`OriginMark::base`].
    pub(super) base: u32,
}

/// What a transaction does. Rooms are named by their numbers.
#[derive(Debug, Default)]
pub(super) struct Plan<'a> {
    /// Where logs end afterwards.
    pub(super) heads: BTreeMap<i64, Head>,
    /// To be appended, in order.
    pub(super) events: Vec<(i64, &'a Entry)>,
    /// Those of them that are messages.
    pub(super) messages: Vec<(i64, &'a Entry)>,
    /// How many replies messages get.
    pub(super) replies: BTreeMap<MessageId, u64>,
    /// Bodies that are replaced.
    pub(super) edits: BTreeMap<MessageId, Edit<'a>>,
    /// By message, emoji and user.
    pub(super) reactions: BTreeMap<(MessageId, &'a str, &'a str), Reaction>,
    /// Messages that are deleted, and when.
    pub(super) deletes: BTreeMap<MessageId, u64>,
    /// Fields that get a value, or none.
    pub(super) fields: BTreeMap<(i64, String), Option<Box<RawValue>>>,
    /// Refusals to be kept; forgotten again if they are below their origin's base.
    pub(super) refused: Vec<(i64, &'a Refused)>,
    /// Origins' marks.
    pub(super) marks: BTreeMap<(i64, Origin), Mark<'a>>,
    /// Submissions that are lost: origin, first, last.
    pub(super) abandoned: Vec<(i64, Origin, u32, u32)>,
}

impl<'a> Plan<'a> {
    /// Takes the batches that fit to how the rooms stand, one after the other, and says of each whether it was taken.
    /// A room without standing was never loaded.
    pub(super) fn of(
        batches: &'a [Batch],
        mut rooms: BTreeMap<&RoomKey, Standing>,
    ) -> (Self, Vec<Result<(), StoreError>>) {
        let mut plan = Self::default();
        let results = batches
            .iter()
            .map(|batch| {
                let room = rooms.get_mut(&batch.key).ok_or(StoreError::Fenced)?;
                admit(batch, room)?;
                room.head = batch.head;
                plan.heads.insert(room.id, batch.head);
                plan.take(room.id, batch);
                Ok(())
            })
            .collect();
        (plan, results)
    }

    /// Whether there is anything to do.
    pub(super) fn is_empty(&self) -> bool {
        self.heads.is_empty()
    }

    fn take(&mut self, room: i64, batch: &'a Batch) {
        for entry in &batch.events {
            self.events.push((room, entry));
            self.effect(room, entry);
        }
        self.refused.extend(batch.refused.iter().map(|refused| (room, refused)));
        for mark in &batch.origins {
            let OriginMark { origin, ref user, last, base, abandoned } = *mark;
            let known = self.marks.entry((room, origin)).or_insert(Mark { user, last: 0, base: 0 });
            known.last = known.last.max(last);
            known.base = known.base.max(base);
            self.abandoned.extend(abandoned.map(|(from, to)| (room, origin, from, to)));
        }
    }

    fn effect(&mut self, room: i64, entry: &'a Entry) {
        let event = &entry.event;
        let content = &event.content;
        let target = (room, content.target);
        let acts = content.target > 0 && content.target < event.seq;
        match content.kind {
            EventKind::Chat | EventKind::Comment | EventKind::System => {
                self.messages.push((room, entry));
                if acts {
                    *self.replies.entry(target).or_default() += 1;
                }
            }
            EventKind::Edit if acts && !self.deletes.contains_key(&target) => {
                let edit = Edit {
                    at: event.at,
                    version: content.version,
                    flags: content.flags & OPAQUE,
                    body: &content.body,
                };
                self.edits.insert(target, edit);
            }
            EventKind::Delete if acts => {
                self.deletes.entry(target).or_insert(event.at);
            }
            EventKind::React | EventKind::Unreact if acts && !self.deletes.contains_key(&target) => {
                if let Ok(emoji) = std::str::from_utf8(&content.body) {
                    self.react((target, emoji, &event.user), event.seq, content.kind == EventKind::React);
                }
            }
            EventKind::Fields => {
                let Ok(Fields(fields)) = serde_json::from_slice(&content.body) else { return };
                for (name, value) in fields {
                    self.fields.insert((room, name), Some(value).filter(|value| value.get() != "null"));
                }
            }
            _ => {}
        }
    }

    fn react(&mut self, key: (MessageId, &'a str, &'a str), seq: u64, is_on: bool) {
        let next = match (self.reactions.get(&key), is_on) {
            (_, false) => Reaction::Remove,
            (None, true) => Reaction::Keep(seq),
            (Some(Reaction::Remove), true) => Reaction::Renew(seq),
            (Some(&before), true) => before,
        };
        self.reactions.insert(key, next);
    }
}

/// The flags that a message begins with.
pub(super) fn message_flags(entry: &Entry) -> u8 {
    entry.event.content.flags & (OPAQUE | INCOMPLETE)
}

/// A JSON object, its values untouched. Of a name that is given twice the later value holds.
#[derive(Deserialize)]
struct Fields(BTreeMap<String, Box<RawValue>>);

fn admit(batch: &Batch, room: &Standing) -> Result<(), StoreError> {
    if batch.fence != room.fence {
        return Err(StoreError::Fenced);
    }
    if batch.expects != room.head {
        return Err(StoreError::HeadMoved);
    }
    let fits = batch.events.iter().zip(batch.expects.seq + 1..).all(|(entry, seq)| entry.event.seq == seq);
    if !fits || batch.head.seq != batch.expects.seq + batch.events.len() as u64 {
        return Err(StoreError::Damaged("the numbers of a batch do not follow each other".to_owned()));
    }
    Ok(())
}
