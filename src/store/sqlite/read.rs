//! What is read: each question under one snapshot, which the write-ahead log gives to a transaction.

use std::{fs, path::PathBuf, sync::Arc};

use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, params};
use switchyard_signaling::event::Origin;

use super::{bits, entry, room};
use crate::{
    names::RoomKey,
    store::{
        Entry, KnownMessage, KnownOrigin, Page, PageQuery, Refused, StoreError,
        backend::{EVENTS, ORIGIN_EVENTS, Reader},
        form::{code_from, index, within},
        page,
    },
};

/// Bytes of the write-ahead log at which it is worth the work to move it into the file.
const LOG_BYTES: u64 = 8 << 20;

pub(super) struct SqliteReader {
    connection: Connection,
    log: PathBuf,
}

impl SqliteReader {
    pub(super) fn new(connection: Connection, log: PathBuf) -> Self {
        Self { connection, log }
    }

    /// What several statements read under it fits together.
    fn begin(&mut self) -> rusqlite::Result<Transaction<'_>> {
        self.connection.transaction()
    }
}

impl Reader for SqliteReader {
    fn events(
        &mut self,
        key: &RoomKey,
        after: u64,
        to: u64,
        bytes: usize,
    ) -> Result<Vec<Arc<Entry>>, StoreError> {
        let transaction = self.begin()?;
        let Some(room) = room(&transaction, key)? else { return Ok(Vec::new()) };
        let mut statement = transaction.prepare_cached(
            "SELECT seq, at, origin, cseq, kind, version, flags, target, author, name, body, hash, digest FROM events \
             WHERE room = ?1 AND seq > ?2 AND seq <= ?3 ORDER BY seq LIMIT ?4",
        )?;
        let rows = statement.query_and_then(params![room, index(after), index(to), EVENTS], entry)?;
        within(rows, bytes)
    }

    fn digest(&mut self, key: &RoomKey, seq: u64) -> Result<Option<u64>, StoreError> {
        let transaction = self.begin()?;
        let Some(room) = room(&transaction, key)? else { return Ok(None) };
        let mut statement =
            transaction.prepare_cached("SELECT digest FROM events WHERE room = ?1 AND seq = ?2")?;
        Ok(statement.query_row(params![room, index(seq)], |row| bits(row, 0)).optional()?)
    }

    fn origin(&mut self, key: &RoomKey, origin: Origin) -> Result<KnownOrigin, StoreError> {
        let transaction = self.begin()?;
        let Some(room) = room(&transaction, key)? else { return Ok(KnownOrigin::default()) };
        let mut statement =
            transaction.prepare_cached("SELECT author, last FROM origins WHERE room = ?1 AND origin = ?2")?;
        let mark = statement.query_row(params![room, origin.0.cast_signed()], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, u32>(1)?))
        });
        let Some((user, last)) = mark.optional()? else { return Ok(KnownOrigin::default()) };
        let mut statement = transaction.prepare_cached(
            "SELECT cseq, hash, seq FROM events WHERE room = ?1 AND origin = ?2 ORDER BY cseq DESC LIMIT ?3",
        )?;
        let rows = statement.query_map(params![room, origin.0.cast_signed(), ORIGIN_EVENTS], |row| {
            Ok((row.get(0)?, bits(row, 1)?, bits(row, 2)?))
        })?;
        let mut events = rows.collect::<rusqlite::Result<Vec<_>>>()?;
        events.reverse();
        let mut statement = transaction.prepare_cached(
            "SELECT cseq, hash, code FROM refusals WHERE room = ?1 AND origin = ?2 ORDER BY cseq",
        )?;
        let rows = statement.query_map(params![room, origin.0.cast_signed()], |row| {
            let code: String = row.get(2)?;
            Ok(Refused { origin, cseq: row.get(0)?, hash: bits(row, 1)?, code: code_from(&code) })
        })?;
        let refused = rows.collect::<rusqlite::Result<Vec<_>>>()?;
        Ok(KnownOrigin { user: Some(user.into()), last, events, refused })
    }

    fn message(&mut self, key: &RoomKey, seq: u64) -> Result<Option<KnownMessage>, StoreError> {
        let transaction = self.begin()?;
        let Some(room) = room(&transaction, key)? else { return Ok(None) };
        let mut statement = transaction.prepare_cached(
            "SELECT e.author, m.deleted_at IS NOT NULL FROM messages m \
             JOIN events e ON e.room = m.room AND e.seq = m.seq WHERE m.room = ?1 AND m.seq = ?2",
        )?;
        let known = statement.query_row(params![room, index(seq)], |row| {
            Ok(KnownMessage { user: row.get::<_, String>(0)?.into(), is_deleted: row.get(1)? })
        });
        Ok(known.optional()?)
    }

    fn fields(&mut self, key: &RoomKey) -> Result<Vec<(String, usize)>, StoreError> {
        let transaction = self.begin()?;
        let Some(room) = room(&transaction, key)? else { return Ok(Vec::new()) };
        let fields = fields(&transaction, room)?;
        Ok(fields.into_iter().map(|(name, value)| (name, value.len())).collect())
    }

    fn page(&mut self, query: &PageQuery) -> Result<Page, StoreError> {
        let transaction = self.begin()?;
        let Some(room) = room(&transaction, &query.key)? else {
            return Ok(page::render(query, &[], false, Vec::new(), query.fields.then_some(&[])));
        };
        let mut rows = messages(&transaction, room, query)?;
        let has_more = page::cut(query, &mut rows);
        let reactions = reactions(&transaction, room, query, &rows)?;
        let fields = if query.fields { Some(fields(&transaction, room)?) } else { None };
        drop(transaction);
        Ok(page::render(query, &rows, has_more, reactions, fields.as_deref()))
    }

    fn tidy(&mut self) -> Result<(), StoreError> {
        if fs::metadata(&self.log).is_ok_and(|log| log.len() > LOG_BYTES) {
            // Moves what it can of the log into the file, while the writer goes on.
            self.connection.pragma_update_and_check(None, "wal_checkpoint", "PASSIVE", |_| Ok(()))?;
        }
        Ok(())
    }
}

fn messages(
    transaction: &Transaction<'_>,
    room: i64,
    query: &PageQuery,
) -> Result<Vec<page::Row>, StoreError> {
    const COLUMNS: &str = "SELECT m.seq, e.kind, e.author, e.name, e.at, m.parent, m.version, m.flags, m.edited_at, \
        m.deleted_at IS NOT NULL, m.replies - (SELECT count(*) FROM messages r \
            WHERE r.room = ?1 AND r.parent = m.seq AND r.parent > 0 AND r.seq > ?4), coalesce(m.body, e.body) \
        FROM messages m JOIN events e ON e.room = m.room AND e.seq = m.seq WHERE m.room = ?1";
    let limit = page::rows_for(query);
    let (end, horizon) = (index(page::end_of(query)), index(page::horizon_of(query)));
    let read = |row: &Row<'_>| {
        Ok(page::Row {
            seq: bits(row, 0)?,
            kind: row.get(1)?,
            user: row.get(2)?,
            name: row.get(3)?,
            at: bits(row, 4)?,
            parent: bits(row, 5)?,
            version: row.get(6)?,
            flags: row.get(7)?,
            edited_at: row.get::<_, Option<i64>>(8)?.map(i64::cast_unsigned),
            is_deleted: row.get(9)?,
            replies: bits(row, 10)?,
            body: row.get(11)?,
        })
    };
    let rows = match query.parent {
        None => {
            let sql = format!("{COLUMNS} AND m.seq < ?2 ORDER BY m.seq DESC LIMIT ?3");
            let mut statement = transaction.prepare_cached(&sql)?;
            statement.query_map(params![room, end, limit, horizon], read)?.collect::<rusqlite::Result<_>>()
        }
        Some(parent) => {
            let sql = format!(
                "{COLUMNS} AND m.parent = ?5 AND m.parent > 0 AND m.seq < ?2 ORDER BY m.seq DESC LIMIT ?3"
            );
            let mut statement = transaction.prepare_cached(&sql)?;
            let values = params![room, end, limit, horizon, index(parent)];
            statement.query_map(values, read)?.collect::<rusqlite::Result<_>>()
        }
    };
    Ok(rows?)
}

fn reactions(
    transaction: &Transaction<'_>,
    room: i64,
    query: &PageQuery,
    rows: &[page::Row],
) -> rusqlite::Result<Vec<page::Reaction>> {
    let mut statement = transaction.prepare_cached(
        "SELECT seq, emoji, author FROM reactions WHERE room = ?1 AND message = ?2 AND seq <= ?3",
    )?;
    let horizon = index(page::horizon_of(query));
    let mut reactions = Vec::new();
    for row in rows {
        let message = row.seq;
        let found = statement.query_map(params![room, index(message), horizon], |row| {
            Ok(page::Reaction { message, seq: bits(row, 0)?, emoji: row.get(1)?, user: row.get(2)? })
        })?;
        for reaction in found {
            reactions.push(reaction?);
        }
    }
    Ok(reactions)
}

fn fields(transaction: &Transaction<'_>, room: i64) -> rusqlite::Result<Vec<(String, Vec<u8>)>> {
    let mut statement =
        transaction.prepare_cached("SELECT name, value FROM fields WHERE room = ?1 ORDER BY name")?;
    let rows = statement.query_map([room], |row| Ok((row.get(0)?, row.get(1)?)))?;
    rows.collect()
}
