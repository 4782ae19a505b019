//! Pages of messages as they are sent: sections 9.4 and 9.5 of `docs/protocol.md`. Bodies and fields' values are put in
//! as they were stored, byte for byte.

use std::io::Write as _;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use flate2::{Compression, write::DeflateEncoder};
use switchyard_signaling::event::{EventKind, INCOMPLETE, OPAQUE};

use super::{Page, PageQuery};

/// Messages of a page at most, whatever is asked.
pub(super) const MESSAGES: usize = 100;
/// Bytes of bodies of a page; one message is there at least. What does not compress at all, opaque bodies as base64, has
/// room in a LOG message all the same.
pub(super) const BYTES: usize = 128 * 1024;
/// Users that are named of those who reacted alike.
const USERS: usize = 50;
/// Users that are named in all reactions to one message, and different reactions that are told of.
const NAMED: usize = 200;
/// See [`NAMED`].
const EMOJIS: usize = 64;
/// JSON above is compressed.
const PLAIN_BYTES: usize = 1024;
/// miniz's levels from 1 to 9: text of a chat gets little smaller above, and takes three times as long.
const LEVEL: u32 = 3;

/// A message, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) seq: u64,
    pub(super) kind: u8,
    pub(super) user: String,
    pub(super) name: String,
    pub(super) at: u64,
    pub(super) parent: u64,
    pub(super) version: u8,
    pub(super) flags: u8,
    pub(super) edited_at: Option<u64>,
    pub(super) is_deleted: bool,
    pub(super) replies: u64,
    pub(super) body: Vec<u8>,
}

/// A reaction to a message.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Reaction {
    pub(super) message: u64,
    /// The event that added it.
    pub(super) seq: u64,
    pub(super) emoji: String,
    pub(super) user: String,
}

/// How many rows to read for a query: one more tells whether there are more.
pub(super) fn rows_for(query: &PageQuery) -> u32 {
    query.limit.min(MESSAGES) as u32 + 1
}

/// The first `seq` that is not on the page any more.
pub(super) fn end_of(query: &PageQuery) -> u64 {
    let up_to = query.up_to.map_or(u64::MAX, |seq| seq.saturating_add(1));
    query.before.unwrap_or(u64::MAX).min(up_to).min(i64::MAX as u64)
}

/// Reactions and replies of events behind this one are not told: they come as events.
pub(super) fn horizon_of(query: &PageQuery) -> u64 {
    query.up_to.unwrap_or(u64::MAX).min(i64::MAX as u64)
}

/// Cuts rows, newest first, to what the page has, and says whether there are more.
pub(super) fn cut(query: &PageQuery, rows: &mut Vec<Row>) -> bool {
    let (mut bytes, read) = (0, rows.len());
    let fit = rows.iter().take(query.limit.min(MESSAGES)).enumerate().take_while(|(index, row)| {
        bytes += row.body.len();
        bytes <= BYTES || *index == 0
    });
    let fit = fit.count();
    rows.truncate(fit);
    read > fit
}

/// The page. Rows are newest first, reactions in any order.
pub(super) fn render(
    query: &PageQuery,
    rows: &[Row],
    has_more: bool,
    mut reactions: Vec<Reaction>,
    fields: Option<&[(String, Vec<u8>)]>,
) -> Page {
    reactions.sort_unstable();
    let mut json = Vec::with_capacity(1024 + rows.iter().map(|row| 256 + row.body.len()).sum::<usize>());
    json.push(b'{');
    json.extend_from_slice(query.prefix.as_bytes());
    json.extend_from_slice(b"\"messages\":[");
    for (index, row) in rows.iter().rev().enumerate() {
        if index > 0 {
            json.push(b',');
        }
        let start = reactions.partition_point(|reaction| reaction.message < row.seq);
        let end = reactions.partition_point(|reaction| reaction.message <= row.seq);
        message(&mut json, row, &reactions[start..end]);
    }
    json.extend_from_slice(if has_more { b"],\"more\":true" } else { b"],\"more\":false" });
    if let Some(fields) = fields {
        json.extend_from_slice(b",\"fields\":{");
        for (index, (name, value)) in fields.iter().enumerate() {
            if index > 0 {
                json.push(b',');
            }
            text(&mut json, name);
            json.push(b':');
            json.extend_from_slice(value);
        }
        json.push(b'}');
    }
    json.push(b'}');
    compress(json)
}

fn message(json: &mut Vec<u8>, row: &Row, reactions: &[Reaction]) {
    let kind = EventKind::from_wire(row.kind).map_or("custom", EventKind::name);
    number(json, "{\"seq\":", row.seq);
    json.extend_from_slice(b",\"kind\":\"");
    json.extend_from_slice(kind.as_bytes());
    json.extend_from_slice(b"\",\"user\":");
    text(json, &row.user);
    json.extend_from_slice(b",\"name\":");
    text(json, &row.name);
    number(json, ",\"at\":", row.at);
    if row.parent > 0 {
        number(json, ",\"parent\":", row.parent);
    }
    json.extend_from_slice(b",\"body\":");
    let is_opaque = row.flags & OPAQUE != 0 && !row.is_deleted;
    if row.is_deleted || (row.body.is_empty() && !is_opaque) {
        json.extend_from_slice(b"{}");
    } else if is_opaque {
        json.push(b'"');
        json.extend_from_slice(BASE64_STANDARD.encode(&row.body).as_bytes());
        json.push(b'"');
    } else {
        json.extend_from_slice(&row.body);
    }
    if row.version > 0 {
        number(json, ",\"version\":", row.version.into());
    }
    if is_opaque {
        json.extend_from_slice(b",\"opaque\":true");
    }
    if let Some(at) = row.edited_at {
        number(json, ",\"edited\":", at);
    }
    if row.is_deleted {
        json.extend_from_slice(b",\"deleted\":true");
    }
    if row.flags & INCOMPLETE != 0 {
        json.extend_from_slice(b",\"incomplete\":true");
    }
    if !reactions.is_empty() {
        json.extend_from_slice(b",\"reactions\":");
        reacted(json, reactions);
    }
    if row.replies > 0 {
        number(json, ",\"replies\":", row.replies);
    }
    json.push(b'}');
}

/// Emojis in the order of their oldest reaction, users in that of theirs.
fn reacted(json: &mut Vec<u8>, reactions: &[Reaction]) {
    let mut emojis: Vec<(&str, Vec<&str>)> = Vec::new();
    let mut index = std::collections::BTreeMap::new();
    for reaction in reactions {
        let at = *index.entry(&*reaction.emoji).or_insert_with(|| {
            emojis.push((&reaction.emoji, Vec::new()));
            emojis.len() - 1
        });
        emojis[at].1.push(&reaction.user);
    }
    let mut left = NAMED;
    for (index, (emoji, users)) in emojis.iter().take(EMOJIS).enumerate() {
        json.extend_from_slice(if index == 0 { b"[{\"emoji\":" } else { b",{\"emoji\":" });
        text(json, emoji);
        number(json, ",\"count\":", users.len() as u64);
        json.extend_from_slice(b",\"users\":[");
        let named = users.len().min(USERS).min(left);
        left -= named;
        for (index, user) in users.iter().take(named).enumerate() {
            if index > 0 {
                json.push(b',');
            }
            text(json, user);
        }
        json.extend_from_slice(b"]}");
    }
    json.push(b']');
}

fn number(json: &mut Vec<u8>, before: &str, number: u64) {
    json.extend_from_slice(before.as_bytes());
    json.extend_from_slice(number.to_string().as_bytes());
}

fn text(json: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(json, text).expect("text is JSON, and memory takes it");
}

fn compress(json: Vec<u8>) -> Page {
    if json.len() <= PLAIN_BYTES {
        return Page { encoding: 0, json: json.into() };
    }
    let mut encoder = DeflateEncoder::new(Vec::with_capacity(json.len() / 3), Compression::new(LEVEL));
    match encoder.write_all(&json).and_then(|()| encoder.finish()) {
        Ok(compressed) => Page { encoding: 1, json: compressed.into() },
        Err(_) => Page { encoding: 0, json: Bytes::from(json) },
    }
}
