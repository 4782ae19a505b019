//! [`Backend`] over PostgreSQL: all tables in a schema `switchyard` of the database that the URL names.
//!
//! Each connection has a runtime of its own, which runs while the store's thread waits for an answer. Statements are
//! sent without waiting for each other: a commit is two exchanges, one that locks the rooms and learns how they stand,
//! one with all that changes and `COMMIT`. Nothing is waited for longer than [`ANSWER`].

mod read;
mod write;

use std::{borrow::Cow, fmt, time::Duration};

use tokio::{
    runtime::{self, Runtime},
    time::timeout,
};
use tokio_postgres::{Client, Config, NoTls, Row, error::SqlState};

use super::{
    StoreError,
    backend::{Backend, Reader, Writer},
    form,
};

use read::PostgresReader;
use write::PostgresWriter;

/// In order; the version of a schema is how many were applied.
const MIGRATIONS: [&str; 1] = [include_str!("migrations/postgres/0001_log.sql")];
/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(2);
/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(8);
/// Said to each connection. A lock of a server that is gone is waited for, a hanging one given up; a database that would
/// acknowledge what is not on disk is told otherwise. Every statement finds its rows by an index; the planner, which knows
/// nothing of tables that have just been filled, is not asked for other ways, nor more than once.
const SETTINGS: &str = "SET search_path = switchyard; SET lock_timeout = '3s'; SET statement_timeout = '7s'; \
    SET idle_in_transaction_session_timeout = '10s'; SET plan_cache_mode = force_generic_plan; SET jit = off; \
    SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_bitmapscan = off; \
    SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'";
/// Servers that start at the same time migrate one after the other.
const MIGRATION_LOCK: i64 = 0x5357_5944;

/// A database.
pub struct Postgres {
    config: Config,
}

impl Postgres {
    /// The database with this URL. Nothing is opened.
    ///
    /// # Errors
    /// If it is no URL of a PostgreSQL database.
    pub fn new(url: &str) -> Result<Self, StoreError> {
        // What is wrong with it is not said: there may be a password in it.
        let mut config: Config =
            url.parse().map_err(|_| StoreError::Unavailable("this is no URL of PostgreSQL".to_owned()))?;
        config.connect_timeout(CONNECT).tcp_user_timeout(ANSWER);
        if config.get_application_name().is_none() {
            config.application_name("switchyard");
        }
        Ok(Self { config })
    }
}

impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Postgres")
            .field("hosts", &self.config.get_hosts())
            .field("database", &self.config.get_dbname())
            .finish_non_exhaustive()
    }
}

impl Backend for Postgres {
    fn writer(&self) -> Result<Box<dyn Writer>, StoreError> {
        let connection = Connection::open(&self.config)?;
        connection.run(async |client| migrate(client).await)?;
        let statements = connection.run(async |client| write::Statements::prepare(client).await)?;
        Ok(Box::new(PostgresWriter::new(connection, statements)))
    }

    fn reader(&self) -> Result<Box<dyn Reader>, StoreError> {
        let connection = Connection::open(&self.config)?;
        let statements = connection.run(async |client| read::Statements::prepare(client).await)?;
        Ok(Box::new(PostgresReader::new(connection, statements)))
    }

    fn size(&self) -> Option<u64> {
        None
    }
}

/// A connection and what drives it.
struct Connection {
    runtime: Runtime,
    client: Client,
}

impl Connection {
    fn open(config: &Config) -> Result<Self, StoreError> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        let runtime =
            runtime.map_err(|error| StoreError::Unavailable(format!("cannot make a runtime: {error}")))?;
        let client = runtime.block_on(async {
            // The time-out of the configuration is for each address that a host has.
            let connected = timeout(CONNECT, config.connect(NoTls)).await;
            let (client, connection) = connected.map_err(|_| silent(CONNECT))??;
            tokio::spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "a connection to PostgreSQL has ended");
                }
            });
            timeout(ANSWER, client.batch_execute(SETTINGS)).await.map_err(|_| silent(ANSWER))??;
            Ok::<_, StoreError>(client)
        })?;
        Ok(Self { runtime, client })
    }

    /// Does something, and gives up when it takes too long. What it began is rolled back if it fails.
    fn run<'a, T>(
        &'a self,
        work: impl AsyncFnOnce(&'a Client) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.runtime.block_on(async {
            match timeout(ANSWER, work(&self.client)).await {
                Ok(Err(error @ StoreError::Damaged(_))) => {
                    let rolled_back = timeout(ANSWER, self.client.batch_execute("ROLLBACK")).await;
                    rolled_back.map_err(|_| silent(ANSWER))??;
                    Err(error)
                }
                Ok(result) => result,
                Err(_) => Err(silent(ANSWER)),
            }
        })
    }

    /// Takes leave of the server.
    fn close(self) {
        let Self { runtime, client } = self;
        drop(client);
        // The connection's task ends when it has said so.
        runtime.block_on(async { tokio::time::sleep(Duration::from_millis(10)).await });
    }
}

fn silent(waited: Duration) -> StoreError {
    StoreError::Unavailable(format!("PostgreSQL has not answered for {} s", waited.as_secs()))
}

async fn migrate(client: &Client) -> Result<(), StoreError> {
    client.batch_execute("BEGIN").await?;
    client.execute("SELECT pg_advisory_xact_lock($1)", &[&MIGRATION_LOCK]).await?;
    let row = client.query_one("SELECT to_regclass('switchyard.migrations') IS NOT NULL", &[]).await?;
    if !row.try_get::<_, bool>(0)? {
        client
            .batch_execute(
                "CREATE SCHEMA IF NOT EXISTS switchyard; \
                 CREATE TABLE switchyard.migrations (version INT PRIMARY KEY, at TIMESTAMPTZ NOT NULL DEFAULT now())",
            )
            .await?;
    }
    let row = client.query_one("SELECT coalesce(max(version), 0) FROM migrations", &[]).await?;
    let version = u32::try_from(row.try_get::<_, i32>(0)?).unwrap_or(0);
    let Some(missing) = MIGRATIONS.get(version as usize..) else {
        return Err(StoreError::Damaged(form::newer(version, MIGRATIONS.len())));
    };
    for (migration, version) in missing.iter().zip(version + 1..) {
        client.batch_execute(migration).await?;
        let version = i32::try_from(version).unwrap_or(i32::MAX);
        client.execute("INSERT INTO migrations (version) VALUES ($1)", &[&version]).await?;
    }
    client.batch_execute("COMMIT").await?;
    let row = client.query_one("SELECT current_setting('fsync')", &[]).await?;
    if row.try_get::<_, &str>(0)? == "off" {
        tracing::warn!(
            "PostgreSQL runs with fsync = off: what is acknowledged may be lost when its machine fails"
        );
    }
    Ok(())
}

/// A number of 64 bits without sign.
fn bits(row: &Row, column: usize) -> Result<u64, StoreError> {
    Ok(row.try_get::<_, i64>(column)?.cast_unsigned())
}

/// A number of 32 bits without sign.
fn short(row: &Row, column: usize) -> Result<u32, StoreError> {
    let number = row.try_get::<_, i64>(column)?;
    u32::try_from(number).map_err(|_| StoreError::Damaged(format!("{number} is out of range")))
}

/// A number of 8 bits.
fn byte(row: &Row, column: usize) -> Result<u8, StoreError> {
    let number = row.try_get::<_, i16>(column)?;
    u8::try_from(number).map_err(|_| StoreError::Damaged(format!("{number} is out of range")))
}

/// Text that may have been meant as bytes.
fn text(row: &Row, column: usize) -> Result<String, StoreError> {
    let bytes = row.try_get::<_, Vec<u8>>(column)?;
    String::from_utf8(bytes).map_err(|_| StoreError::Damaged("text is not UTF-8".to_owned()))
}

/// As `TEXT` can hold it.
fn storable(text: &str) -> Cow<'_, str> {
    match text.contains('\0') {
        true => text.replace('\0', "\u{fffd}").into(),
        false => text.into(),
    }
}

impl From<tokio_postgres::Error> for StoreError {
    fn from(error: tokio_postgres::Error) -> Self {
        let Some(told) = error.as_db_error() else {
            // The source says what the message does not.
            let source = std::error::Error::source(&error).map(|source| format!(": {source}"));
            return Self::Unavailable(format!("{error}{}", source.unwrap_or_default()));
        };
        let message = told.message().to_owned();
        match *told.code() {
            SqlState::DISK_FULL => Self::Unavailable("the disk of PostgreSQL is full".to_owned()),
            // Constraints, data, and names that are not there: no later attempt fares better.
            ref code if ["22", "23", "42"].iter().any(|class| code.code().starts_with(class)) => {
                Self::Damaged(message)
            }
            _ => Self::Unavailable(message),
        }
    }
}
