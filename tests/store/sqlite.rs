//! SQLite: the suite, and what files are good and bad for.

use switchyard::store::{Backend, Sqlite};
use tempfile::TempDir;

use crate::suite::suite;

/// A store in a folder of its own, which goes with it.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) folder: TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self) -> std::path::PathBuf {
        self.folder.path().join("deep/switchyard.db")
    }

    pub(crate) fn open(&self) -> Sqlite {
        Sqlite::new(&self.path()).unwrap()
    }
}

suite!(|test: fn(&dyn Backend)| test(&Place::new().open()));
