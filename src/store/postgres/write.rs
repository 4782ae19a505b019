//! What changes. Rows of one kind go as arrays in one statement, whatever their number.

use std::{collections::BTreeMap, future::poll_fn, pin::Pin, task::Poll};

use switchyard_signaling::event::OPAQUE;
use tokio_postgres::{Client, Statement, types::ToSql};

use super::{Connection, bits, read, short, storable};
use crate::{
    names::RoomKey,
    store::{
        Batch, Head, Loaded, Note, StoreError,
        backend::{self, EVENTS, RECENT_BYTES, Retention, Writer},
        form::{index, within},
        plan::{self, Plan, Standing},
    },
};

pub(super) struct PostgresWriter {
    connection: Connection,
    statements: Statements,
    /// The room that retention looked at last.
    retained: i64,
}

/// One after the other, as they are sent.
pub(super) struct Statements {
    take: Statement,
    recent: Statement,
    standings: Statement,
    events: Statement,
    messages: Statement,
    replies: Statement,
    edits: Statement,
    keep: Statement,
    renew: Statement,
    remove: Statement,
    deletes: Statement,
    deleted_reactions: Statement,
    set: Statement,
    unset: Statement,
    refusals: Statement,
    marks: Statement,
    seen_refusals: Statement,
    abandoned: Statement,
    heads: Statement,
}

impl Statements {
    pub(super) async fn prepare(client: &Client) -> Result<Self, StoreError> {
        let prepare = async |sql: &str| client.prepare(sql).await;
        Ok(Self {
            take: prepare(
                "INSERT INTO rooms (tenant, name, fence, epoch, head, digest, first) \
                 SELECT tenant, name, times, $4, 0, 0, 1 FROM unnest($1::text[], $2::text[], $3::bigint[]) \
                     AS k (tenant, name, times) ORDER BY tenant, name \
                 ON CONFLICT (tenant, name) DO UPDATE SET fence = rooms.fence + excluded.fence, \
                     epoch = rooms.epoch + excluded.epoch \
                 RETURNING tenant, name, id, fence, epoch, head, digest, first",
            )
            .await?,
            recent: prepare(&format!(
                "SELECT {event} FROM (SELECT *, \
                     sum(octet_length(body) + octet_length(author) + octet_length(name)) OVER (ORDER BY seq DESC) AS total, \
                     row_number() OVER (ORDER BY seq DESC) AS place FROM (SELECT * FROM events \
                     WHERE room = $1 AND seq <= $2 ORDER BY seq DESC LIMIT $4) AS few) AS summed \
                 WHERE total <= $3 OR place = 1 ORDER BY seq DESC",
                event = read::EVENT
            ))
            .await?,
            standings: prepare(
                "SELECT r.tenant, r.name, r.id, r.fence, r.epoch, r.head, r.digest FROM rooms r \
                 JOIN unnest($1::text[], $2::text[]) AS k (tenant, name) ON r.tenant = k.tenant AND r.name = k.name \
                 ORDER BY r.id FOR UPDATE OF r",
            )
            .await?,
            events: prepare(
                "INSERT INTO events \
                     (room, seq, at, origin, cseq, kind, version, flags, target, author, name, body, hash, digest) \
                 SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], \
                     $6::smallint[], $7::smallint[], $8::smallint[], $9::bigint[], $10::text[], $11::text[], \
                     $12::bytea[], $13::bigint[], $14::bigint[])",
            )
            .await?,
            messages: prepare(
                "INSERT INTO messages (room, seq, parent, version, flags, replies) \
                 SELECT *, 0 FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::smallint[], $5::smallint[])",
            )
            .await?,
            replies: prepare(
                "UPDATE messages m SET replies = m.replies + u.replies \
                 FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS u (room, seq, replies) \
                 WHERE m.room = u.room AND m.seq = u.seq",
            )
            .await?,
            edits: prepare(
                "UPDATE messages m SET edited_at = u.at, version = u.version, flags = (m.flags & ~$7::smallint) | u.flags, \
                     body = u.body \
                 FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::smallint[], $5::smallint[], $6::bytea[]) \
                     AS u (room, seq, at, version, flags, body) \
                 WHERE m.room = u.room AND m.seq = u.seq AND m.deleted_at IS NULL",
            )
            .await?,
            keep: prepare(
                "INSERT INTO reactions (room, message, emoji, author, seq) \
                 SELECT u.room, u.message, u.emoji, u.author, u.seq \
                 FROM unnest($1::bigint[], $2::bigint[], $3::bytea[], $4::text[], $5::bigint[]) \
                     AS u (room, message, emoji, author, seq) \
                 JOIN messages m ON m.room = u.room AND m.seq = u.message AND m.deleted_at IS NULL \
                 ON CONFLICT DO NOTHING",
            )
            .await?,
            renew: prepare(
                "INSERT INTO reactions (room, message, emoji, author, seq) \
                 SELECT u.room, u.message, u.emoji, u.author, u.seq \
                 FROM unnest($1::bigint[], $2::bigint[], $3::bytea[], $4::text[], $5::bigint[]) \
                     AS u (room, message, emoji, author, seq) \
                 JOIN messages m ON m.room = u.room AND m.seq = u.message AND m.deleted_at IS NULL \
                 ON CONFLICT (room, message, emoji, author) DO UPDATE SET seq = excluded.seq",
            )
            .await?,
            remove: prepare(
                "DELETE FROM reactions r USING unnest($1::bigint[], $2::bigint[], $3::bytea[], $4::text[]) \
                     AS u (room, message, emoji, author) \
                 WHERE r.room = u.room AND r.message = u.message AND r.emoji = u.emoji AND r.author = u.author",
            )
            .await?,
            deletes: prepare(
                "UPDATE messages m SET deleted_at = u.at, body = '', flags = m.flags & ~$4::smallint \
                 FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS u (room, seq, at) \
                 WHERE m.room = u.room AND m.seq = u.seq AND m.deleted_at IS NULL",
            )
            .await?,
            deleted_reactions: prepare(
                "DELETE FROM reactions r USING unnest($1::bigint[], $2::bigint[]) AS u (room, message) \
                 WHERE r.room = u.room AND r.message = u.message",
            )
            .await?,
            set: prepare(
                "INSERT INTO fields (room, name, value) SELECT * FROM unnest($1::bigint[], $2::bytea[], $3::bytea[]) \
                 ON CONFLICT (room, name) DO UPDATE SET value = excluded.value",
            )
            .await?,
            unset: prepare(
                "DELETE FROM fields f USING unnest($1::bigint[], $2::bytea[]) AS u (room, name) \
                 WHERE f.room = u.room AND f.name = u.name",
            )
            .await?,
            refusals: prepare(
                "INSERT INTO refusals (room, origin, cseq, hash, code, at) \
                 SELECT *, $6 FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::text[]) \
                 ON CONFLICT DO NOTHING",
            )
            .await?,
            marks: prepare(
                "INSERT INTO origins (room, origin, author, last, base, used_at) \
                 SELECT *, $6 FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::bigint[], $5::bigint[]) \
                 ON CONFLICT (room, origin) DO UPDATE SET last = greatest(origins.last, excluded.last), \
                     base = greatest(origins.base, excluded.base), used_at = excluded.used_at",
            )
            .await?,
            seen_refusals: prepare(
                "DELETE FROM refusals r USING origins o, unnest($1::bigint[], $2::bigint[]) AS u (room, origin) \
                 WHERE o.room = u.room AND o.origin = u.origin AND r.room = u.room AND r.origin = u.origin \
                     AND r.cseq < o.base",
            )
            .await?,
            abandoned: prepare(
                "INSERT INTO abandoned (room, origin, first, last, at) \
                 SELECT *, $5 FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[]) \
                 ON CONFLICT DO NOTHING",
            )
            .await?,
            heads: prepare(
                "UPDATE rooms r SET epoch = u.epoch, head = u.head, digest = u.digest \
                 FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[]) AS u (id, epoch, head, digest) \
                 WHERE r.id = u.id",
            )
            .await?,
        })
    }
}

impl PostgresWriter {
    pub(super) fn new(connection: Connection, statements: Statements) -> Self {
        Self { connection, statements, retained: 0 }
    }

    fn take(&mut self, keys: &[RoomKey], epochs: i64) -> Result<Vec<Loaded>, StoreError> {
        let Statements { take, recent, .. } = &self.statements;
        let mut times = BTreeMap::<&RoomKey, i64>::new();
        for key in keys {
            *times.entry(key).or_default() += 1;
        }
        let tenants: Vec<&str> = times.keys().map(|key| &*key.tenant).collect();
        let names: Vec<&str> = times.keys().map(|key| &*key.room).collect();
        let counts: Vec<i64> = times.values().copied().collect();
        let mut taken = self.connection.run(async |client| {
            let rows = client.query(take, &[&tenants, &names, &counts, &epochs]).await?;
            let mut taken = BTreeMap::new();
            for row in &rows {
                let key = RoomKey {
                    tenant: row.try_get::<_, &str>(0)?.into(),
                    room: row.try_get::<_, &str>(1)?.into(),
                };
                let head = Head { epoch: short(row, 4)?, seq: bits(row, 5)?, digest: bits(row, 6)? };
                let values: [&(dyn ToSql + Sync); 4] = [
                    &row.try_get::<_, i64>(2)?,
                    &index(head.seq),
                    &index(RECENT_BYTES as u64),
                    &i64::from(EVENTS),
                ];
                let newest = client.query(recent, &values).await?;
                let mut newest = within(newest.iter().map(read::entry), RECENT_BYTES)?;
                newest.reverse();
                let loaded = Loaded { fence: bits(row, 3)?, head, first: bits(row, 7)?, recent: newest };
                taken.insert(key, loaded);
            }
            Ok(taken)
        })?;
        // A room that was taken several times got as many fences at once.
        let mut loads: Vec<Loaded> = Vec::with_capacity(keys.len());
        for key in keys.iter().rev() {
            let room =
                taken.get_mut(key).ok_or_else(|| StoreError::Damaged("a room cannot be made".to_owned()))?;
            loads.push(room.clone());
            room.fence -= 1;
        }
        loads.reverse();
        Ok(loads)
    }
}

impl Writer for PostgresWriter {
    fn load(&mut self, keys: &[RoomKey]) -> Result<Vec<Loaded>, StoreError> {
        self.take(keys, 0)
    }

    fn raise_epoch(&mut self, key: &RoomKey) -> Result<Loaded, StoreError> {
        let mut loads = self.take(std::slice::from_ref(key), 1)?;
        loads.pop().ok_or_else(|| StoreError::Damaged("a room cannot be made".to_owned()))
    }

    fn try_commit(&mut self, batches: &[Batch], now: u64) -> Result<Vec<Result<(), StoreError>>, StoreError> {
        let statements = &self.statements;
        let keys: BTreeMap<&RoomKey, ()> = batches.iter().map(|batch| (&batch.key, ())).collect();
        let tenants: Vec<&str> = keys.keys().map(|key| &*key.tenant).collect();
        let names: Vec<&str> = keys.keys().map(|key| &*key.room).collect();
        self.connection.run(async |client| {
            let which: [&(dyn ToSql + Sync); 2] = [&tenants, &names];
            let (_, rows) = tokio::try_join!(
                biased;
                client.batch_execute("BEGIN"),
                client.query(&statements.standings, &which),
            )?;
            let mut rooms = BTreeMap::new();
            for row in &rows {
                let key = RoomKey {
                    tenant: row.try_get::<_, &str>(0)?.into(),
                    room: row.try_get::<_, &str>(1)?.into(),
                };
                let head = Head { epoch: short(row, 4)?, seq: bits(row, 5)?, digest: bits(row, 6)? };
                if let Some((&key, ())) = keys.get_key_value(&key) {
                    rooms.insert(key, Standing { id: row.try_get(2)?, fence: bits(row, 3)?, head });
                }
            }
            let (plan, results) = Plan::of(batches, rooms);
            match plan.is_empty() {
                true => client.batch_execute("ROLLBACK").await?,
                false => carry_out(client, statements, &plan, now).await?,
            }
            Ok(results)
        })
    }

    fn note(&mut self, notes: &[Note]) -> Result<(), StoreError> {
        self.connection.run(async |client| {
            client.batch_execute("BEGIN").await?;
            for note in notes {
                write_note(client, note).await?;
            }
            Ok(client.batch_execute("COMMIT").await?)
        })
    }

    fn retain(&mut self, retention: &Retention, now: u64) -> Result<bool, StoreError> {
        let after = self.retained;
        let (last, has_more) = self.connection.run(async |client| {
            client.batch_execute("BEGIN").await?;
            let step = retain(client, retention, now, after).await?;
            client.batch_execute("COMMIT").await?;
            Ok(step)
        })?;
        self.retained = last;
        Ok(has_more)
    }

    fn close(self: Box<Self>) -> Result<(), StoreError> {
        self.connection.close();
        Ok(())
    }
}

/// Statements that are sent one behind the other without waiting for answers.
#[derive(Default)]
struct Pipeline<'a>(Vec<(&'a Statement, Vec<Value<'a>>)>);

type Value<'a> = Box<dyn ToSql + Sync + 'a>;
type Sending<'a> = Pin<Box<dyn Future<Output = Result<(), tokio_postgres::Error>> + 'a>>;

impl<'a> Pipeline<'a> {
    /// Adds a statement, unless it is for no rows.
    fn add(&mut self, statement: &'a Statement, rows: usize, values: Vec<Value<'a>>) {
        if rows > 0 {
            self.0.push((statement, values));
        }
    }

    /// Sends all, and `COMMIT`. Where one statement fails those behind it do, and `COMMIT` rolls back.
    async fn commit(self, client: &Client) -> Result<(), StoreError> {
        let statements = self.0.iter().map(|(statement, values)| {
            Box::pin(async move {
                let values: Vec<&(dyn ToSql + Sync)> = values.iter().map(|value| &**value as _).collect();
                client.execute(*statement, &values).await.map(drop)
            }) as Sending<'_>
        });
        let commit = Box::pin(client.batch_execute("COMMIT")) as Sending<'_>;
        let mut sent: Vec<Option<Sending<'_>>> = statements.chain([commit]).map(Some).collect();
        // A statement is sent when its future is polled for the first time.
        let all = poll_fn(|context| {
            let mut is_done = true;
            for slot in &mut sent {
                match slot.as_mut().map(|sending| sending.as_mut().poll(context)) {
                    Some(Poll::Ready(Ok(()))) => *slot = None,
                    Some(Poll::Ready(Err(error))) => return Poll::Ready(Err(error)),
                    Some(Poll::Pending) => is_done = false,
                    None => {}
                }
            }
            if is_done { Poll::Ready(Ok(())) } else { Poll::Pending }
        });
        Ok(all.await?)
    }
}

/// Values of one column.
fn column<'a, T: 'a, U: ToSql + Sync + 'a>(
    rows: impl IntoIterator<Item = T>,
    value: impl FnMut(T) -> U,
) -> Value<'a> {
    Box::new(rows.into_iter().map(value).collect::<Vec<U>>())
}

async fn carry_out(
    client: &Client,
    statements: &Statements,
    plan: &Plan<'_>,
    now: u64,
) -> Result<(), StoreError> {
    let mut pipeline = Pipeline::default();
    append(&mut pipeline, statements, plan);
    change(&mut pipeline, statements, plan);
    react(&mut pipeline, statements, plan);
    delete(&mut pipeline, statements, plan);
    set_fields(&mut pipeline, statements, plan);
    mark(&mut pipeline, statements, plan, index(now));
    let rows = &plan.heads;
    let values = vec![
        column(rows, |(room, _)| *room),
        column(rows, |(_, head)| i64::from(head.epoch)),
        column(rows, |(_, head)| index(head.seq)),
        column(rows, |(_, head)| head.digest.cast_signed()),
    ];
    pipeline.add(&statements.heads, rows.len(), values);
    pipeline.commit(client).await
}

fn append<'a>(pipeline: &mut Pipeline<'a>, statements: &'a Statements, plan: &'a Plan<'_>) {
    let rows = &plan.events;
    let values = vec![
        column(rows, |(room, _)| *room),
        column(rows, |(_, entry)| index(entry.event.seq)),
        column(rows, |(_, entry)| index(entry.event.at)),
        column(rows, |(_, entry)| entry.event.origin.0.cast_signed()),
        column(rows, |(_, entry)| i64::from(entry.event.cseq)),
        column(rows, |(_, entry)| entry.event.content.kind as i16),
        column(rows, |(_, entry)| i16::from(entry.event.content.version)),
        column(rows, |(_, entry)| i16::from(entry.event.content.flags)),
        column(rows, |(_, entry)| index(entry.event.content.target)),
        column(rows, |(_, entry)| storable(&entry.event.user)),
        column(rows, |(_, entry)| storable(&entry.event.name)),
        column(rows, |(_, entry)| &*entry.event.content.body),
        column(rows, |(_, entry)| entry.hash.cast_signed()),
        column(rows, |(_, entry)| entry.digest.cast_signed()),
    ];
    pipeline.add(&statements.events, rows.len(), values);
    let rows = &plan.messages;
    let values = vec![
        column(rows, |(room, _)| *room),
        column(rows, |(_, entry)| index(entry.event.seq)),
        column(rows, |(_, entry)| index(entry.event.content.target)),
        column(rows, |(_, entry)| i16::from(entry.event.content.version)),
        column(rows, |(_, entry)| i16::from(plan::message_flags(entry))),
    ];
    pipeline.add(&statements.messages, rows.len(), values);
}

fn change<'a>(pipeline: &mut Pipeline<'a>, statements: &'a Statements, plan: &'a Plan<'_>) {
    let rows = &plan.replies;
    let values = vec![
        column(rows, |((room, _), _)| *room),
        column(rows, |((_, seq), _)| index(*seq)),
        column(rows, |(_, replies)| index(*replies)),
    ];
    pipeline.add(&statements.replies, rows.len(), values);
    let rows = &plan.edits;
    let values = vec![
        column(rows, |((room, _), _)| *room),
        column(rows, |((_, seq), _)| index(*seq)),
        column(rows, |(_, edit)| index(edit.at)),
        column(rows, |(_, edit)| i16::from(edit.version)),
        column(rows, |(_, edit)| i16::from(edit.flags)),
        column(rows, |(_, edit)| edit.body),
        Box::new(i16::from(OPAQUE)),
    ];
    pipeline.add(&statements.edits, rows.len(), values);
}

fn react<'a>(pipeline: &mut Pipeline<'a>, statements: &'a Statements, plan: &'a Plan<'_>) {
    let (mut kept, mut renewed, mut removed) = (Vec::new(), Vec::new(), Vec::new());
    for (key, reaction) in &plan.reactions {
        match *reaction {
            plan::Reaction::Keep(seq) => kept.push((key, seq)),
            plan::Reaction::Renew(seq) => renewed.push((key, seq)),
            plan::Reaction::Remove => removed.push((key, 0)),
        }
    }
    for (statement, rows) in
        [(&statements.keep, kept), (&statements.renew, renewed), (&statements.remove, removed)]
    {
        let mut values = vec![
            column(rows.iter().copied(), |(((room, _), ..), _)| *room),
            column(rows.iter().copied(), |(((_, seq), ..), _)| index(*seq)),
            column(rows.iter().copied(), |((_, emoji, _), _)| emoji.as_bytes()),
            column(rows.iter().copied(), |((.., author), _)| storable(author)),
        ];
        if statement.params().len() > values.len() {
            values.push(column(rows.iter().copied(), |(_, seq)| index(seq)));
        }
        pipeline.add(statement, rows.len(), values);
    }
}

fn delete<'a>(pipeline: &mut Pipeline<'a>, statements: &'a Statements, plan: &'a Plan<'_>) {
    let rows = &plan.deletes;
    let ids = || vec![column(rows, |((room, _), _)| *room), column(rows, |((_, seq), _)| index(*seq))];
    let mut values = ids();
    values.push(column(rows, |(_, at)| index(*at)));
    values.push(Box::new(i16::from(OPAQUE)));
    pipeline.add(&statements.deletes, rows.len(), values);
    pipeline.add(&statements.deleted_reactions, rows.len(), ids());
}

fn set_fields<'a>(pipeline: &mut Pipeline<'a>, statements: &'a Statements, plan: &'a Plan<'_>) {
    let set: Vec<_> = plan.fields.iter().filter_map(|(key, value)| Some((key, value.as_ref()?))).collect();
    let values = vec![
        column(set.iter().copied(), |((room, _), _)| *room),
        column(set.iter().copied(), |((_, name), _)| name.as_bytes()),
        column(set.iter().copied(), |(_, value)| value.get().as_bytes()),
    ];
    pipeline.add(&statements.set, set.len(), values);
    let unset: Vec<_> = plan.fields.iter().filter(|(_, value)| value.is_none()).map(|(key, _)| key).collect();
    let values = vec![
        column(unset.iter().copied(), |(room, _)| *room),
        column(unset.iter().copied(), |(_, name)| name.as_bytes()),
    ];
    pipeline.add(&statements.unset, unset.len(), values);
}

fn mark<'a>(pipeline: &mut Pipeline<'a>, statements: &'a Statements, plan: &'a Plan<'_>, now: i64) {
    let rows = &plan.refused;
    let values = vec![
        column(rows, |(room, _)| *room),
        column(rows, |(_, refused)| refused.origin.0.cast_signed()),
        column(rows, |(_, refused)| i64::from(refused.cseq)),
        column(rows, |(_, refused)| refused.hash.cast_signed()),
        column(rows, |(_, refused)| refused.code.as_str()),
        Box::new(now),
    ];
    pipeline.add(&statements.refusals, rows.len(), values);
    let rows = &plan.marks;
    let ids = || {
        vec![column(rows, |((room, _), _)| *room), column(rows, |((_, origin), _)| origin.0.cast_signed())]
    };
    let mut values = ids();
    values.push(column(rows, |(_, mark)| storable(mark.user)));
    values.push(column(rows, |(_, mark)| i64::from(mark.last)));
    values.push(column(rows, |(_, mark)| i64::from(mark.base)));
    values.push(Box::new(now));
    pipeline.add(&statements.marks, rows.len(), values);
    pipeline.add(&statements.seen_refusals, rows.len(), ids());
    let rows = &plan.abandoned;
    let values = vec![
        column(rows, |(room, ..)| *room),
        column(rows, |(_, origin, ..)| origin.0.cast_signed()),
        column(rows, |(.., first, _)| i64::from(*first)),
        column(rows, |(.., last)| i64::from(*last)),
        Box::new(now),
    ];
    pipeline.add(&statements.abandoned, rows.len(), values);
}

async fn write_note(client: &Client, note: &Note) -> Result<(), tokio_postgres::Error> {
    const END: &str = "UPDATE sessions SET left_at = $3, reason = $4 \
        WHERE room = $1 AND session = $2 AND left_at IS NULL";
    let (Note::Joined { key, .. } | Note::Left { key, .. }) = note;
    let insert = "INSERT INTO rooms (tenant, name, fence, epoch, head, digest, first) \
        VALUES ($1, $2, 0, 0, 0, 0, 1) ON CONFLICT DO NOTHING";
    client.execute(insert, &[&&*key.tenant, &&*key.room]).await?;
    let select = "SELECT id FROM rooms WHERE tenant = $1 AND name = $2";
    let room: i64 = client.query_one(select, &[&&*key.tenant, &&*key.room]).await?.try_get(0)?;
    match note {
        Note::Joined { session, user, name, role, at, .. } => {
            let (user, name, at) = (storable(user), storable(name), index(*at));
            client.execute(END, &[&room, session, &at, &"lost"]).await?;
            let insert = "INSERT INTO sessions (room, session, member, joined_at) VALUES ($1, $2, $3, $4) \
                ON CONFLICT DO NOTHING";
            client.execute(insert, &[&room, session, &user, &at]).await?;
            let insert = "INSERT INTO participants (room, member, name, role, first_at, last_at) \
                VALUES ($1, $2, $3, $4, $5, $5) ON CONFLICT (room, member) DO UPDATE SET name = excluded.name, \
                role = excluded.role, last_at = greatest(participants.last_at, excluded.last_at)";
            client.execute(insert, &[&room, &user, &name, role, &at]).await?;
        }
        Note::Left { session, user, reason, at, .. } => {
            let (user, at) = (storable(user), index(*at));
            client.execute(END, &[&room, session, &at, &reason.as_str()]).await?;
            let update =
                "UPDATE participants SET last_at = greatest(last_at, $3) WHERE room = $1 AND member = $2";
            client.execute(update, &[&room, &user, &at]).await?;
        }
    }
    Ok(())
}

/// One step from the room behind `after` on. The room to go on behind, and whether to go on now.
async fn retain(
    client: &Client,
    retention: &Retention,
    now: u64,
    after: i64,
) -> Result<(i64, bool), StoreError> {
    let select = "SELECT id, first, head, (SELECT at FROM events WHERE room = rooms.id AND seq = rooms.first) \
        FROM rooms WHERE id > $1 ORDER BY id LIMIT $2";
    let rooms = client.query(select, &[&after, &i64::from(Retention::ROOMS)]).await?;
    let ids = rooms.iter().map(|row| row.try_get(0)).collect::<Result<Vec<i64>, _>>()?;
    forget(client, &ids, retention, now).await?;
    let mut last = after;
    for row in &rooms {
        let (room, first, head) = (row.try_get::<_, i64>(0)?, bits(row, 1)?, bits(row, 2)?);
        let first_at = row.try_get::<_, Option<i64>>(3)?.map(i64::cast_unsigned);
        let end = first.saturating_add(Retention::EVENTS).min(head + 1);
        let mut keep = retention.first(head).clamp(first, end);
        if let Some(oldest) =
            retention.oldest(now).filter(|oldest| first_at.is_some_and(|at| at < *oldest) || keep > first)
        {
            let select = "SELECT seq FROM events WHERE room = $1 AND seq >= $2 AND seq < $3 AND at >= $4 \
                ORDER BY seq LIMIT 1";
            let young = client.query_opt(select, &[&room, &index(keep), &index(end), &index(oldest)]).await?;
            keep = young.map_or(Ok(end), |row| bits(&row, 0))?;
        }
        if keep > first {
            for sql in [
                "DELETE FROM events WHERE room = $1 AND seq < $2",
                "DELETE FROM messages WHERE room = $1 AND seq < $2",
                "DELETE FROM reactions WHERE room = $1 AND message < $2",
                "UPDATE rooms SET first = $2 WHERE id = $1",
            ] {
                client.execute(sql, &[&room, &index(keep)]).await?;
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

/// Removes what is known of origins that have nothing in the log, of refusals, and of sessions, when it is too old.
async fn forget(
    client: &Client,
    rooms: &[i64],
    retention: &Retention,
    now: u64,
) -> Result<(), tokio_postgres::Error> {
    let oldest = index(backend::oldest_origin(now));
    for sql in [
        "DELETE FROM origins o WHERE room = ANY ($1) AND used_at < $2 \
         AND NOT EXISTS (SELECT 1 FROM events e WHERE e.room = o.room AND e.origin = o.origin)",
        "DELETE FROM refusals WHERE room = ANY ($1) AND at < $2",
        "DELETE FROM abandoned WHERE room = ANY ($1) AND at < $2",
    ] {
        client.execute(sql, &[&rooms, &oldest]).await?;
    }
    if let Some(oldest) = retention.oldest(now) {
        let sql = "DELETE FROM sessions WHERE room = ANY ($1) AND left_at < $2";
        client.execute(sql, &[&rooms, &index(oldest)]).await?;
    }
    Ok(())
}
