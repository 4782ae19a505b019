//! What is read. What several statements read is read under one snapshot.

use std::sync::Arc;

use bytes::Bytes;
use switchyard_signaling::event::{Content, Event, EventKind, Origin};
use tokio_postgres::{Client, Row, Statement, types::ToSql};

use super::{Connection, bits, byte, short, text};
use crate::{
    names::RoomKey,
    store::{
        Entry, KnownMessage, KnownOrigin, Page, PageQuery, Refused, StoreError,
        backend::{EVENTS, ORIGIN_EVENTS, Reader},
        form::{code_from, index, within},
        page,
    },
};

/// Begins a snapshot.
const SNAPSHOT: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

pub(super) struct PostgresReader {
    connection: Connection,
    statements: Statements,
}

pub(super) struct Statements {
    events: Statement,
    digest: Statement,
    origin: Statement,
    origin_events: Statement,
    refusals: Statement,
    message: Statement,
    messages: Statement,
    thread: Statement,
    reactions: Statement,
    fields: Statement,
}

/// Columns of an event, as [`entry`] reads them.
pub(super) const EVENT: &str =
    "seq, at, origin, cseq, kind, version, flags, target, author, name, body, hash, digest";

impl Statements {
    pub(super) async fn prepare(client: &Client) -> Result<Self, StoreError> {
        const ROOM: &str = "(SELECT id FROM rooms WHERE tenant = $1 AND name = $2)";
        let messages = |which: &str| {
            format!(
                "SELECT m.seq, e.kind, e.author, e.name, e.at, m.parent, m.version, m.flags, m.edited_at, \
                 m.deleted_at IS NOT NULL, m.replies - (SELECT count(*) FROM messages r \
                     WHERE r.room = m.room AND r.parent = m.seq AND r.parent > 0 AND r.seq > $5), \
                 coalesce(m.body, e.body) FROM messages m JOIN events e ON e.room = m.room AND e.seq = m.seq \
                 WHERE m.room = {ROOM} AND m.seq < $3 {which} ORDER BY m.seq DESC LIMIT $4"
            )
        };
        let prepare = async |sql: &str| client.prepare(sql).await;
        // Bytes are summed up where they are: a thousand large bodies would be much to send for the first few.
        let events = format!(
            "SELECT {EVENT} FROM (SELECT *, \
                 sum(octet_length(body) + octet_length(author) + octet_length(name)) OVER (ORDER BY seq) AS total, \
                 row_number() OVER (ORDER BY seq) AS place FROM (SELECT * FROM events \
                 WHERE room = {ROOM} AND seq > $3 AND seq <= $4 ORDER BY seq LIMIT $6) AS few) AS summed \
             WHERE total <= $5 OR place = 1 ORDER BY seq"
        );
        Ok(Self {
            events: prepare(&events).await?,
            digest: prepare(&format!("SELECT digest FROM events WHERE room = {ROOM} AND seq = $3")).await?,
            origin: prepare(&format!("SELECT author, last FROM origins WHERE room = {ROOM} AND origin = $3"))
                .await?,
            origin_events: prepare(&format!(
                "SELECT cseq, hash, seq FROM events WHERE room = {ROOM} AND origin = $3 ORDER BY cseq DESC LIMIT $4"
            ))
            .await?,
            refusals: prepare(&format!(
                "SELECT cseq, hash, code FROM refusals WHERE room = {ROOM} AND origin = $3 ORDER BY cseq"
            ))
            .await?,
            message: prepare(&format!(
                "SELECT e.author, m.deleted_at IS NOT NULL FROM messages m \
                 JOIN events e ON e.room = m.room AND e.seq = m.seq WHERE m.room = {ROOM} AND m.seq = $3"
            ))
            .await?,
            messages: prepare(&messages("")).await?,
            thread: prepare(&messages("AND m.parent = $6 AND m.parent > 0")).await?,
            reactions: prepare(&format!(
                "SELECT message, seq, emoji, author FROM reactions \
                 WHERE room = {ROOM} AND message = ANY ($3) AND seq <= $4"
            ))
            .await?,
            fields: prepare(&format!("SELECT name, value FROM fields WHERE room = {ROOM} ORDER BY name")).await?,
        })
    }
}

impl PostgresReader {
    pub(super) fn new(connection: Connection, statements: Statements) -> Self {
        Self { connection, statements }
    }
}

impl Reader for PostgresReader {
    fn events(
        &mut self,
        key: &RoomKey,
        after: u64,
        to: u64,
        bytes: usize,
    ) -> Result<Vec<Arc<Entry>>, StoreError> {
        let (after, to, most) = (index(after), index(to), index(bytes as u64));
        let statement = &self.statements.events;
        let rows = self.connection.run(async |client| {
            let values: [&(dyn ToSql + Sync); 6] =
                [&&*key.tenant, &&*key.room, &after, &to, &most, &i64::from(EVENTS)];
            Ok(client.query(statement, &values).await?)
        })?;
        within(rows.iter().map(entry), bytes)
    }

    fn digest(&mut self, key: &RoomKey, seq: u64) -> Result<Option<u64>, StoreError> {
        let statement = &self.statements.digest;
        let row = self.connection.run(async |client| {
            Ok(client.query_opt(statement, &[&&*key.tenant, &&*key.room, &index(seq)]).await?)
        })?;
        row.map(|row| bits(&row, 0)).transpose()
    }

    fn origin(&mut self, key: &RoomKey, origin: Origin) -> Result<KnownOrigin, StoreError> {
        let Statements { origin: mark, origin_events, refusals, .. } = &self.statements;
        let (tenant, room, number) = (&*key.tenant, &*key.room, origin.0.cast_signed());
        let most = i64::from(ORIGIN_EVENTS);
        let (mark, events, refused) = self.connection.run(async |client| {
            let which: [&(dyn ToSql + Sync); 3] = [&tenant, &room, &number];
            let newest: [&(dyn ToSql + Sync); 4] = [&tenant, &room, &number, &most];
            let (_, mark, events, refused, _) = tokio::try_join!(
                biased;
                client.batch_execute(SNAPSHOT),
                client.query_opt(mark, &which),
                client.query(origin_events, &newest),
                client.query(refusals, &which),
                client.batch_execute("COMMIT"),
            )?;
            Ok((mark, events, refused))
        })?;
        let Some(mark) = mark else { return Ok(KnownOrigin::default()) };
        let mut events = events
            .iter()
            .map(|row| Ok((short(row, 0)?, bits(row, 1)?, bits(row, 2)?)))
            .collect::<Result<Vec<_>, StoreError>>()?;
        events.reverse();
        let refused = refused.iter().map(|row| {
            let code = code_from(row.try_get(2)?);
            Ok(Refused { origin, cseq: short(row, 0)?, hash: bits(row, 1)?, code })
        });
        Ok(KnownOrigin {
            user: Some(mark.try_get::<_, &str>(0)?.into()),
            last: short(&mark, 1)?,
            events,
            refused: refused.collect::<Result<_, StoreError>>()?,
        })
    }

    fn message(&mut self, key: &RoomKey, seq: u64) -> Result<Option<KnownMessage>, StoreError> {
        let statement = &self.statements.message;
        let row = self.connection.run(async |client| {
            Ok(client.query_opt(statement, &[&&*key.tenant, &&*key.room, &index(seq)]).await?)
        })?;
        let known = |row: Row| {
            Ok(KnownMessage { user: row.try_get::<_, &str>(0)?.into(), is_deleted: row.try_get(1)? })
        };
        row.map(known).transpose()
    }

    fn fields(&mut self, key: &RoomKey) -> Result<Vec<(String, usize)>, StoreError> {
        let statement = &self.statements.fields;
        let rows = self
            .connection
            .run(async |client| Ok(client.query(statement, &[&&*key.tenant, &&*key.room]).await?))?;
        rows.iter().map(|row| Ok((text(row, 0)?, row.try_get::<_, &[u8]>(1)?.len()))).collect()
    }

    fn page(&mut self, query: &PageQuery) -> Result<Page, StoreError> {
        let (tenant, room) = (&*query.key.tenant, &*query.key.room);
        let (end, horizon) = (index(page::end_of(query)), index(page::horizon_of(query)));
        let limit = i64::from(page::rows_for(query));
        let Statements { messages, thread, reactions, fields, .. } = &self.statements;
        let (rows, has_more, reacted, fields) = self.connection.run(async |client| {
            let messages = async {
                match query.parent.map(index) {
                    None => client.query(messages, &[&tenant, &room, &end, &limit, &horizon]).await,
                    Some(parent) => {
                        client.query(thread, &[&tenant, &room, &end, &limit, &horizon, &parent]).await
                    }
                }
            };
            let fields = async {
                match query.fields {
                    true => client.query(fields, &[&tenant, &room]).await.map(Some),
                    false => Ok(None),
                }
            };
            let (_, rows, fields) =
                tokio::try_join!(biased; client.batch_execute(SNAPSHOT), messages, fields)?;
            let mut rows = rows.iter().map(message).collect::<Result<Vec<_>, _>>()?;
            let has_more = page::cut(query, &mut rows);
            let seqs: Vec<i64> = rows.iter().map(|row| index(row.seq)).collect();
            let which: [&(dyn ToSql + Sync); 4] = [&tenant, &room, &seqs, &horizon];
            let (reacted, _) = tokio::try_join!(
                biased;
                client.query(reactions, &which),
                client.batch_execute("COMMIT"),
            )?;
            Ok((rows, has_more, reacted, fields))
        })?;
        let reacted = reacted.iter().map(reaction).collect::<Result<Vec<_>, _>>()?;
        let field = |row: &Row| Ok((text(row, 0)?, row.try_get(1)?));
        let fields = fields.map(|rows| rows.iter().map(field).collect::<Result<Vec<_>, StoreError>>());
        Ok(page::render(query, &rows, has_more, reacted, fields.transpose()?.as_deref()))
    }

    fn tidy(&mut self) -> Result<(), StoreError> {
        // The database does that itself.
        Ok(())
    }
}

fn message(row: &Row) -> Result<page::Row, StoreError> {
    Ok(page::Row {
        seq: bits(row, 0)?,
        kind: byte(row, 1)?,
        user: row.try_get(2)?,
        name: row.try_get(3)?,
        at: bits(row, 4)?,
        parent: bits(row, 5)?,
        version: byte(row, 6)?,
        flags: byte(row, 7)?,
        edited_at: row.try_get::<_, Option<i64>>(8)?.map(i64::cast_unsigned),
        is_deleted: row.try_get(9)?,
        replies: bits(row, 10)?,
        body: row.try_get(11)?,
    })
}

fn reaction(row: &Row) -> Result<page::Reaction, StoreError> {
    Ok(page::Reaction {
        message: bits(row, 0)?,
        seq: bits(row, 1)?,
        emoji: text(row, 2)?,
        user: row.try_get(3)?,
    })
}

/// A row of the columns [`EVENT`].
pub(super) fn entry(row: &Row) -> Result<Entry, StoreError> {
    let kind = byte(row, 4)?;
    let kind = EventKind::from_wire(kind)
        .ok_or_else(|| StoreError::Damaged(format!("there is no event of kind {kind}")))?;
    let content = Content {
        kind,
        version: byte(row, 5)?,
        flags: byte(row, 6)?,
        target: bits(row, 7)?,
        body: Bytes::from(row.try_get::<_, Vec<u8>>(10)?),
    };
    let event = Event {
        seq: bits(row, 0)?,
        at: bits(row, 1)?,
        origin: Origin(bits(row, 2)?),
        cseq: short(row, 3)?,
        user: row.try_get(8)?,
        name: row.try_get(9)?,
        content,
    };
    Ok(Entry { event, hash: bits(row, 11)?, digest: bits(row, 12)? })
}
