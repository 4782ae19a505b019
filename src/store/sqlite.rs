//! [`Backend`] over SQLite, in one file with its write-ahead log and a lock file beside it.
//!
//! `synchronous=FULL`: a transaction is on disk when `COMMIT` returns. Readers have connections of their own, which the
//! write-ahead log lets read while the writer writes. Checkpoints, which move the log into the file, are
//! a reader's work between its answers ([`Reader::tidy`]), since a commit that touches hundreds of rooms touches a page of
//! each. The writer moves the rest and begins the log anew when it has 64 MiB.

mod read;
mod write;

use std::{
    fs::{self, File, OpenOptions},
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use rusqlite::{
    Connection, ErrorCode, OpenFlags, OptionalExtension as _, Row, Transaction, TransactionBehavior, params,
};
use switchyard_signaling::event::{Content, Event, EventKind, Origin};

use super::{
    Entry, StoreError,
    backend::{Backend, Reader, Writer},
    form,
};
use crate::names::RoomKey;

use read::SqliteReader;
use write::SqliteWriter;

/// In order; the version of a schema is how many were applied.
const MIGRATIONS: [&str; 1] = [include_str!("migrations/sqlite/0001_log.sql")];
/// Marks the file as ours.
const APPLICATION: i32 = 0x5357_5944;
/// How long a lock of somebody else's is waited for: a backup program holds it for less.
const BUSY: Duration = Duration::from_millis(500);
/// Pages of 4 KiB in the write-ahead log at which a commit checkpoints by itself.
const LOG_PAGES: u32 = 16_384;
/// Statements kept ready by a connection: more than there are.
const STATEMENTS: usize = 64;

/// A file.
#[derive(Debug)]
pub struct Sqlite {
    path: PathBuf,
    /// Held as long as the store is open: two servers with one file would fence each other's rooms in turns.
    _lock: File,
}

impl Sqlite {
    /// Makes the folder if need be, and takes the file for this process alone.
    ///
    /// # Errors
    /// If the folder cannot be made or written to, or another process has the file.
    pub fn new(path: &Path) -> Result<Self, StoreError> {
        let lock_path = beside(path, ".lock");
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs::create_dir_all(folder).map_err(|error| cannot("make the folder", folder, &error))?;
        }
        let lock = OpenOptions::new().write(true).create(true).truncate(false).open(&lock_path);
        let lock = lock.map_err(|error| cannot("open", &lock_path, &error))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(fs::TryLockError::WouldBlock) => Err(StoreError::Unavailable(format!(
                "another server has {} open; each needs a file of its own",
                path.display()
            ))),
            Err(fs::TryLockError::Error(error)) => Err(cannot("lock", &lock_path, &error)),
        }
    }

    fn connect(&self, flags: OpenFlags) -> Result<Connection, StoreError> {
        let connection = Connection::open_with_flags(&self.path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        connection.busy_timeout(BUSY)?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS);
        connection.pragma_update(None, "synchronous", "FULL")?;
        // A bug for tests/crash to find.
        #[cfg(feature = "plants")]
        if std::env::var_os("SWITCHYARD_PLANT").is_some_and(|plant| plant == "unsynced") {
            connection.pragma_update(None, "synchronous", "OFF")?;
        }
        connection.pragma_update(None, "cache_size", -32 * 1024)?;
        connection.pragma_update(None, "temp_store", "MEMORY")?;
        Ok(connection)
    }
}

impl Backend for Sqlite {
    fn writer(&self) -> Result<Box<dyn Writer>, StoreError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
        let mut connection = self.connect(flags)?;
        let mode: String =
            connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
        if mode != "wal" {
            return Err(StoreError::Unavailable(format!(
                "{} is on a file system that cannot share memory between processes",
                self.path.display()
            )));
        }
        connection.pragma_update(None, "wal_autocheckpoint", LOG_PAGES)?;
        connection.pragma_update(None, "journal_size_limit", i64::from(LOG_PAGES) * 4096)?;
        migrate(&mut connection, &self.path)?;
        Ok(Box::new(SqliteWriter::new(connection)))
    }

    fn reader(&self) -> Result<Box<dyn Reader>, StoreError> {
        // One that may only read could not move the log into the file.
        let connection = self.connect(OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        connection.pragma_update(None, "query_only", true)?;
        Ok(Box::new(SqliteReader::new(connection, beside(&self.path, "-wal"))))
    }

    fn size(&self) -> Option<u64> {
        let size = |path: &Path| fs::metadata(path).map(|metadata| metadata.len());
        Some(size(&self.path).ok()? + size(&beside(&self.path, "-wal")).unwrap_or(0))
    }
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

fn cannot(what: &str, path: &Path, error: &io::Error) -> StoreError {
    StoreError::Unavailable(format!("cannot {what} {}: {error}", path.display()))
}

fn migrate(connection: &mut Connection, path: &Path) -> Result<(), StoreError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let application: i32 = transaction.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let tables: i64 = transaction.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if application != APPLICATION && tables > 0 {
        return Err(StoreError::Damaged(format!("{} is another program's database", path.display())));
    }
    let version: u32 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let Some(missing) = MIGRATIONS.get(version as usize..) else {
        return Err(StoreError::Damaged(form::newer(version, MIGRATIONS.len())));
    };
    if missing.is_empty() {
        return Ok(());
    }
    for migration in missing {
        transaction.execute_batch(migration)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION)?;
    transaction.pragma_update(None, "user_version", MIGRATIONS.len() as u32)?;
    Ok(transaction.commit()?)
}

fn room(transaction: &Transaction<'_>, key: &RoomKey) -> rusqlite::Result<Option<i64>> {
    let mut statement = transaction.prepare_cached("SELECT id FROM rooms WHERE tenant = ?1 AND name = ?2")?;
    statement.query_row(params![key.tenant, key.room], |row| row.get(0)).optional()
}

fn entry(row: &Row<'_>) -> Result<Entry, StoreError> {
    let kind: u8 = row.get(4)?;
    let kind = EventKind::from_wire(kind)
        .ok_or_else(|| StoreError::Damaged(format!("there is no event of kind {kind}")))?;
    let content = Content {
        kind,
        version: row.get(5)?,
        flags: row.get(6)?,
        target: bits(row, 7)?,
        body: Bytes::from(row.get::<_, Vec<u8>>(10)?),
    };
    let event = Event {
        seq: bits(row, 0)?,
        at: bits(row, 1)?,
        origin: Origin(bits(row, 2)?),
        cseq: row.get(3)?,
        user: row.get(8)?,
        name: row.get(9)?,
        content,
    };
    Ok(Entry { event, hash: bits(row, 11)?, digest: bits(row, 12)? })
}

/// A number of 64 bits without sign.
fn bits(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(column).map(i64::cast_unsigned)
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        let unavailable = |what: &str| Self::Unavailable(what.to_owned());
        match error.sqlite_error_code() {
            None => Self::Damaged(error.to_string()),
            Some(ErrorCode::ConstraintViolation | ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                Self::Damaged(error.to_string())
            }
            Some(ErrorCode::DiskFull) => unavailable("the disk is full"),
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                unavailable("another program has locked the file")
            }
            Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
                unavailable("the file, or the folder it is in, cannot be written to")
            }
            Some(ErrorCode::CannotOpen) => unavailable("the file cannot be opened"),
            Some(_) => Self::Unavailable(error.to_string()),
        }
    }
}
