//! SQLite: the suite, and what files are good and bad for.

use switchyard::store::{Backend, Sqlite, StoreError};
use tempfile::TempDir;

use crate::{
    script::{Script, chat, load, page, query},
    suite::suite,
};

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

#[test]
fn a_file_belongs_to_one_server_at_a_time() {
    let place = Place::new();
    let first = place.open();
    let error = Sqlite::new(&place.path()).unwrap_err();
    assert!(error.to_string().contains("another server has"), "{error}");
    drop(first);
    place.open();
}

#[test]
fn a_schema_of_a_later_version_is_refused_and_so_is_another_programs_file() {
    let place = Place::new();
    drop(place.open().writer().unwrap());
    let file = rusqlite::Connection::open(place.path()).unwrap();
    file.pragma_update(None, "user_version", 99).unwrap();
    let error = place.open().writer().err().unwrap().to_string();
    assert_eq!(
        error,
        "the store is damaged: the schema has version 99, and this server knows those up to 1: a later version of it \
         has written here"
    );
    let place = Place::new();
    let sqlite = place.open();
    let file = rusqlite::Connection::open(place.path()).unwrap();
    file.execute_batch("CREATE TABLE songs (title TEXT)").unwrap();
    let error = sqlite.writer().err().unwrap().to_string();
    assert!(error.contains("is another program's database"), "{error}");
    let place = Place::new();
    let sqlite = place.open();
    std::fs::write(place.path(), "Dear diary, today I was no database. ".repeat(200)).unwrap();
    let error = sqlite.writer().err().unwrap();
    assert!(matches!(error, StoreError::Damaged(_)), "{error}");
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let place = Place::new();
    std::fs::write(place.folder.path().join("deep"), "a file").unwrap();
    let error = Sqlite::new(&place.path()).unwrap_err().to_string();
    assert!(error.starts_with("the store is unavailable: cannot make the folder "), "{error}");
}

/// What the file and its log hold at the moment that a commit is answered is all of it: a copy taken then, as a crash
/// leaves it, has every commit.
#[test]
fn a_crash_right_after_an_answer_loses_nothing() {
    let place = Place::new();
    let sqlite = place.open();
    let mut writer = sqlite.writer().unwrap();
    let mut room = Script::load(&mut *writer, "lab");
    for n in 1..=30 {
        room.commit(&mut *writer, vec![chat("x"); n % 4]);
        let after = Place::new();
        std::fs::create_dir(after.path().parent().unwrap()).unwrap();
        for ending in ["", "-wal"] {
            let beside =
                |path: std::path::PathBuf| std::path::PathBuf::from(format!("{}{ending}", path.display()));
            std::fs::copy(beside(place.path()), beside(after.path())).unwrap();
        }
        let mut found = after.open().writer().unwrap();
        assert_eq!(load(&mut *found, "lab").head, room.head);
    }
}

#[test]
fn a_page_of_a_large_room_costs_what_one_of_a_small_room_costs() {
    let place = Place::new();
    let sqlite = place.open();
    let mut writer = sqlite.writer().unwrap();
    let mut room = Script::load(&mut *writer, "lab");
    let mut reader = sqlite.reader().unwrap();
    let mut cost = |messages: usize| {
        for _ in 0..messages / 500 {
            room.commit(&mut *writer, vec![chat("some text that is said"); 500]);
        }
        for _ in 0..3 {
            page(&mut *reader, &query("lab", 50));
        }
        let quickest = (0..20).map(|_| {
            let start = std::time::Instant::now();
            reader.page(&query("lab", 50)).unwrap();
            start.elapsed()
        });
        quickest.min().unwrap()
    };
    let (small, large) = (cost(500), cost(20_000));
    assert!(large < small * 3, "{small:?} for 500 messages, {large:?} for 20,500");
}

suite!(|test: fn(&dyn Backend)| test(&Place::new().open()));
