//! What changes: transactions of the one connection that writes.

use std::{
    collections::{BTreeMap, btree_map},
    sync::Arc,
};

use rusqlite::{
    CachedStatement, Connection, OptionalExtension as _, Transaction, TransactionBehavior, params,
};
use switchyard_signaling::event::{Content, Event, OPAQUE};

use super::{bits, entry, room};
use crate::{
    names::RoomKey,
    store::{
        Batch, Entry, Head, Loaded, Note, Refused, StoreError,
        backend::{self, EVENTS, RECENT_BYTES, Retention, Writer},
        form::{index, within},
        plan::{self, Plan, Standing},
    },
};

pub(super) struct SqliteWriter {
    connection: Connection,
    /// The room that retention looked at last.
    retained: i64,
}

impl SqliteWriter {
    pub(super) fn new(connection: Connection) -> Self {
        Self { connection, retained: 0 }
    }

    fn begin(&mut self) -> rusqlite::Result<Transaction<'_>> {
        self.connection.transaction_with_behavior(TransactionBehavior::Immediate)
    }

    fn take(&mut self, keys: &[RoomKey], epochs: u32) -> Result<Vec<Loaded>, StoreError> {
        let transaction = self.begin()?;
        let mut loaded = Vec::with_capacity(keys.len());
        for key in keys {
            loaded.push(take(&transaction, key, epochs)?);
        }
        transaction.commit()?;
        let mut loads = Vec::with_capacity(keys.len());
        for (room, mut load) in loaded {
            load.recent = recent(&self.connection, room, load.head.seq)?;
            loads.push(load);
        }
        Ok(loads)
    }
}

impl Writer for SqliteWriter {
    fn load(&mut self, keys: &[RoomKey]) -> Result<Vec<Loaded>, StoreError> {
        self.take(keys, 0)
    }

    fn raise_epoch(&mut self, key: &RoomKey) -> Result<Loaded, StoreError> {
        let mut loads = self.take(std::slice::from_ref(key), 1)?;
        loads.pop().ok_or_else(|| StoreError::Damaged("a room cannot be made".to_owned()))
    }

    fn try_commit(&mut self, batches: &[Batch], now: u64) -> Result<Vec<Result<(), StoreError>>, StoreError> {
        let transaction = self.begin()?;
        let mut rooms = BTreeMap::new();
        for batch in batches {
            if let btree_map::Entry::Vacant(vacant) = rooms.entry(&batch.key)
                && let Some(standing) = standing(&transaction, &batch.key)?
            {
                vacant.insert(standing);
            }
        }
        let (plan, results) = Plan::of(batches, rooms);
        if !plan.is_empty() {
            carry_out(&transaction, &plan, now)?;
            transaction.commit()?;
        }
        Ok(results)
    }

    fn note(&mut self, notes: &[Note]) -> Result<(), StoreError> {
        let transaction = self.begin()?;
        for note in notes {
            write_note(&transaction, note)?;
        }
        Ok(transaction.commit()?)
    }

    fn retain(&mut self, retention: &Retention, now: u64) -> Result<bool, StoreError> {
        let after = self.retained;
        let transaction = self.begin()?;
        let (last, has_more) = retain(&transaction, retention, now, after)?;
        transaction.commit()?;
        self.retained = last;
        Ok(has_more)
    }

    fn close(self: Box<Self>) -> Result<(), StoreError> {
        // Moves the log into the file, and answers whether somebody was in the way, which is no harm.
        self.connection.pragma_update_and_check(None, "wal_checkpoint", "TRUNCATE", |_| Ok(()))?;
        self.connection.close().map_err(|(_, error)| error.into())
    }
}

fn take(transaction: &Transaction<'_>, key: &RoomKey, epochs: u32) -> rusqlite::Result<(i64, Loaded)> {
    let mut statement = transaction.prepare_cached(
        "INSERT INTO rooms (tenant, name, fence, epoch, head, digest, first) VALUES (?1, ?2, 1, ?3, 0, 0, 1) \
         ON CONFLICT (tenant, name) DO UPDATE SET fence = fence + 1, epoch = epoch + ?3 \
         RETURNING id, fence, epoch, head, digest, first",
    )?;
    statement.query_row(params![key.tenant, key.room, epochs], |row| {
        let head = Head { epoch: row.get(2)?, seq: bits(row, 3)?, digest: bits(row, 4)? };
        let loaded = Loaded { fence: bits(row, 1)?, head, first: bits(row, 5)?, recent: Vec::new() };
        Ok((row.get(0)?, loaded))
    })
}

/// The newest events, in order.
fn recent(connection: &Connection, room: i64, head: u64) -> Result<Vec<Arc<Entry>>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT seq, at, origin, cseq, kind, version, flags, target, author, name, body, hash, digest FROM events \
         WHERE room = ?1 AND seq <= ?2 ORDER BY seq DESC LIMIT ?3",
    )?;
    let rows = statement.query_and_then(params![room, index(head), EVENTS], entry)?;
    let mut entries = within(rows, RECENT_BYTES)?;
    entries.reverse();
    Ok(entries)
}

fn standing(transaction: &Transaction<'_>, key: &RoomKey) -> rusqlite::Result<Option<Standing>> {
    let mut statement = transaction
        .prepare_cached("SELECT id, fence, epoch, head, digest FROM rooms WHERE tenant = ?1 AND name = ?2")?;
    let standing = statement.query_row(params![key.tenant, key.room], |row| {
        let head = Head { epoch: row.get(2)?, seq: bits(row, 3)?, digest: bits(row, 4)? };
        Ok(Standing { id: row.get(0)?, fence: bits(row, 1)?, head })
    });
    standing.optional()
}

fn carry_out(transaction: &Transaction<'_>, plan: &Plan<'_>, now: u64) -> rusqlite::Result<()> {
    let prepare = |sql: &str| transaction.prepare_cached(sql);
    append(
        &mut prepare(
            "INSERT INTO events (room, seq, at, origin, cseq, kind, version, flags, target, author, name, body, hash, digest) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
        )?,
        plan,
    )?;
    let mut statement = prepare(
        "INSERT INTO messages (room, seq, parent, version, flags, replies) VALUES (?1, ?2, ?3, ?4, ?5, 0)",
    )?;
    for &(room, entry) in &plan.messages {
        let (event, flags) = (&entry.event, plan::message_flags(entry));
        let parent = index(event.content.target);
        statement.execute(params![room, index(event.seq), parent, event.content.version, flags])?;
    }
    let mut statement = prepare("UPDATE messages SET replies = replies + ?3 WHERE room = ?1 AND seq = ?2")?;
    for (&(room, message), &replies) in &plan.replies {
        statement.execute(params![room, index(message), index(replies)])?;
    }
    let mut statement = prepare(
        "UPDATE messages SET edited_at = ?3, version = ?4, flags = (flags & ~?5) | ?6, body = ?7 \
         WHERE room = ?1 AND seq = ?2 AND deleted_at IS NULL",
    )?;
    for (&(room, message), edit) in &plan.edits {
        let at = index(edit.at);
        statement.execute(params![room, index(message), at, edit.version, OPAQUE, edit.flags, edit.body])?;
    }
    react(transaction, plan)?;
    let mut statement = prepare(
        "UPDATE messages SET deleted_at = ?3, body = x'', flags = flags & ~?4 \
         WHERE room = ?1 AND seq = ?2 AND deleted_at IS NULL",
    )?;
    let mut reactions = prepare("DELETE FROM reactions WHERE room = ?1 AND message = ?2")?;
    for (&(room, message), &at) in &plan.deletes {
        statement.execute(params![room, index(message), index(at), OPAQUE])?;
        reactions.execute(params![room, index(message)])?;
    }
    let mut set = prepare(
        "INSERT INTO fields (room, name, value) VALUES (?1, ?2, ?3) \
         ON CONFLICT (room, name) DO UPDATE SET value = excluded.value",
    )?;
    let mut unset = prepare("DELETE FROM fields WHERE room = ?1 AND name = ?2")?;
    for ((room, name), value) in &plan.fields {
        match value {
            Some(value) => set.execute(params![room, name, value.get().as_bytes()])?,
            None => unset.execute(params![room, name])?,
        };
    }
    mark(transaction, plan, now)?;
    let mut statement = prepare("UPDATE rooms SET epoch = ?2, head = ?3, digest = ?4 WHERE id = ?1")?;
    for (room, head) in &plan.heads {
        statement.execute(params![room, head.epoch, index(head.seq), head.digest.cast_signed()])?;
    }
    Ok(())
}

fn append(statement: &mut CachedStatement<'_>, plan: &Plan<'_>) -> rusqlite::Result<()> {
    for (room, entry) in &plan.events {
        let Event { seq, at, origin, cseq, user, name, content } = &entry.event;
        let Content { kind, version, flags, target, body } = content;
        statement.execute(params![
            room,
            index(*seq),
            index(*at),
            origin.0.cast_signed(),
            cseq,
            *kind as u8,
            version,
            flags,
            index(*target),
            user,
            name,
            &**body,
            entry.hash.cast_signed(),
            entry.digest.cast_signed(),
        ])?;
    }
    Ok(())
}

fn react(transaction: &Transaction<'_>, plan: &Plan<'_>) -> rusqlite::Result<()> {
    let mut keep = transaction.prepare_cached(
        "INSERT INTO reactions (room, message, emoji, author, seq) SELECT room, seq, ?3, ?4, ?5 FROM messages \
         WHERE room = ?1 AND seq = ?2 AND deleted_at IS NULL ON CONFLICT DO NOTHING",
    )?;
    let mut renew = transaction.prepare_cached(
        "INSERT INTO reactions (room, message, emoji, author, seq) SELECT room, seq, ?3, ?4, ?5 FROM messages \
         WHERE room = ?1 AND seq = ?2 AND deleted_at IS NULL \
         ON CONFLICT (room, message, emoji, author) DO UPDATE SET seq = excluded.seq",
    )?;
    let mut remove = transaction.prepare_cached(
        "DELETE FROM reactions WHERE room = ?1 AND message = ?2 AND emoji = ?3 AND author = ?4",
    )?;
    for (&((room, message), emoji, user), reaction) in &plan.reactions {
        let message = index(message);
        match *reaction {
            plan::Reaction::Keep(seq) => keep.execute(params![room, message, emoji, user, index(seq)])?,
            plan::Reaction::Renew(seq) => renew.execute(params![room, message, emoji, user, index(seq)])?,
            plan::Reaction::Remove => remove.execute(params![room, message, emoji, user])?,
        };
    }
    Ok(())
}

fn mark(transaction: &Transaction<'_>, plan: &Plan<'_>, now: u64) -> rusqlite::Result<()> {
    let mut statement = transaction.prepare_cached(
        "INSERT INTO refusals (room, origin, cseq, hash, code, at) VALUES (?1, ?2, ?3, ?4, ?5, ?6) \
         ON CONFLICT DO NOTHING",
    )?;
    for (room, refused) in &plan.refused {
        let Refused { origin, cseq, hash, code } = refused;
        let (origin, hash) = (origin.0.cast_signed(), hash.cast_signed());
        statement.execute(params![room, origin, cseq, hash, code.as_str(), index(now)])?;
    }
    let mut marks = transaction.prepare_cached(
        "INSERT INTO origins (room, origin, author, last, base, used_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6) \
         ON CONFLICT (room, origin) DO UPDATE SET last = max(last, excluded.last), base = max(base, excluded.base), \
         used_at = excluded.used_at RETURNING base",
    )?;
    let mut forget =
        transaction.prepare_cached("DELETE FROM refusals WHERE room = ?1 AND origin = ?2 AND cseq < ?3")?;
    // There are nearly never any in the whole file, and there is a mark for each writer of each transaction.
    let any_refused = transaction
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM refusals)")?
        .query_row([], |row| row.get::<_, bool>(0))?;
    for (&(room, origin), mark) in &plan.marks {
        let origin = origin.0.cast_signed();
        let values = params![room, origin, mark.user, mark.last, mark.base, index(now)];
        let base: u32 = marks.query_row(values, |row| row.get(0))?;
        if any_refused {
            forget.execute(params![room, origin, base])?;
        }
    }
    let mut statement = transaction.prepare_cached(
        "INSERT INTO abandoned (room, origin, first, last, at) VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO NOTHING",
    )?;
    for &(room, origin, first, last) in &plan.abandoned {
        statement.execute(params![room, origin.0.cast_signed(), first, last, index(now)])?;
    }
    Ok(())
}

fn write_note(transaction: &Transaction<'_>, note: &Note) -> rusqlite::Result<()> {
    let (Note::Joined { key, .. } | Note::Left { key, .. }) = note;
    let mut statement = transaction.prepare_cached(
        "INSERT INTO rooms (tenant, name, fence, epoch, head, digest, first) VALUES (?1, ?2, 0, 0, 0, 0, 1) \
         ON CONFLICT DO NOTHING",
    )?;
    statement.execute(params![key.tenant, key.room])?;
    let Some(room) = room(transaction, key)? else { return Ok(()) };
    let mut end = transaction.prepare_cached(
        "UPDATE sessions SET left_at = ?3, reason = ?4 WHERE room = ?1 AND session = ?2 AND left_at IS NULL",
    )?;
    match note {
        Note::Joined { session, user, name, role, at, .. } => {
            end.execute(params![room, session, index(*at), "lost"])?;
            let mut statement = transaction.prepare_cached(
                "INSERT INTO sessions (room, session, member, joined_at) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING",
            )?;
            statement.execute(params![room, session, user, index(*at)])?;
            let mut statement = transaction.prepare_cached(
                "INSERT INTO participants (room, member, name, role, first_at, last_at) VALUES (?1, ?2, ?3, ?4, ?5, ?5) \
                 ON CONFLICT (room, member) DO UPDATE SET name = excluded.name, role = excluded.role, \
                 last_at = max(last_at, excluded.last_at)",
            )?;
            statement.execute(params![room, user, name, role, index(*at)])?;
        }
        Note::Left { session, user, reason, at, .. } => {
            end.execute(params![room, session, index(*at), reason.as_str()])?;
            let mut statement = transaction.prepare_cached(
                "UPDATE participants SET last_at = max(last_at, ?3) WHERE room = ?1 AND member = ?2",
            )?;
            statement.execute(params![room, user, index(*at)])?;
        }
    }
    Ok(())
}

/// One step from the room behind `after` on. The room to go on behind, and whether to go on now.
fn retain(
    transaction: &Transaction<'_>,
    retention: &Retention,
    now: u64,
    after: i64,
) -> rusqlite::Result<(i64, bool)> {
    let mut statement =
        transaction.prepare_cached("SELECT id, first, head FROM rooms WHERE id > ?1 ORDER BY id LIMIT ?2")?;
    let rows = statement.query_map(params![after, Retention::ROOMS], |row| {
        Ok((row.get::<_, i64>(0)?, bits(row, 1)?, bits(row, 2)?))
    })?;
    let rooms = rows.collect::<rusqlite::Result<Vec<_>>>()?;
    let mut last = after;
    for &(room, first, head) in &rooms {
        forget_origins(transaction, room, backend::oldest_origin(now))?;
        let end = first.saturating_add(Retention::EVENTS).min(head + 1);
        let mut keep = retention.first(head).clamp(first, end);
        if let Some(oldest) = retention.oldest(now) {
            keep = first_since(transaction, room, keep, end, oldest)?;
            let mut statement =
                transaction.prepare_cached("DELETE FROM sessions WHERE room = ?1 AND left_at < ?2")?;
            statement.execute(params![room, index(oldest)])?;
        }
        if keep > first {
            for sql in [
                "DELETE FROM events WHERE room = ?1 AND seq < ?2",
                "DELETE FROM messages WHERE room = ?1 AND seq < ?2",
                "DELETE FROM reactions WHERE room = ?1 AND message < ?2",
                "UPDATE rooms SET first = ?2 WHERE id = ?1",
            ] {
                transaction.prepare_cached(sql)?.execute(params![room, index(keep)])?;
            }
        }
        if keep == end && end <= head {
            // There is more in this room, and this was enough for one transaction.
            return Ok((last, true));
        }
        last = room;
    }
    Ok(if rooms.len() < Retention::ROOMS as usize { (0, false) } else { (last, true) })
}

/// The first event from `first` to `end` that is not older; `end` if all are.
fn first_since(
    transaction: &Transaction<'_>,
    room: i64,
    first: u64,
    end: u64,
    oldest: u64,
) -> rusqlite::Result<u64> {
    let mut statement = transaction.prepare_cached(
        "SELECT seq FROM events WHERE room = ?1 AND seq >= ?2 AND seq < ?3 AND at >= ?4 ORDER BY seq LIMIT 1",
    )?;
    let seq = statement.query_row(params![room, index(first), index(end), index(oldest)], |row| bits(row, 0));
    Ok(seq.optional()?.unwrap_or(end))
}

fn forget_origins(transaction: &Transaction<'_>, room: i64, oldest: u64) -> rusqlite::Result<()> {
    for sql in [
        "DELETE FROM origins WHERE room = ?1 AND used_at < ?2 \
         AND NOT EXISTS (SELECT 1 FROM events e WHERE e.room = ?1 AND e.origin = origins.origin)",
        "DELETE FROM refusals WHERE room = ?1 AND at < ?2",
        "DELETE FROM abandoned WHERE room = ?1 AND at < ?2",
    ] {
        transaction.prepare_cached(sql)?.execute(params![room, index(oldest)])?;
    }
    Ok(())
}
