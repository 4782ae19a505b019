//! A disk that forgets what was not synced when the machine fails: a library that is loaded before the C library into
//! the server (`unsynced.c`), built here.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// Such a disk.
pub(crate) struct Unsynced {
    library: PathBuf,
    cache: PathBuf,
}

impl Unsynced {
    /// Builds the library into the folder.
    pub(crate) fn build(folder: &Path) -> Self {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/crash/unsynced.c");
        let library = folder.join("unsynced.so");
        let built = Command::new("cc")
            .args(["-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o"])
            .arg(&library)
            .arg(source)
            .args(["-ldl", "-lpthread"])
            .status()
            .expect("there is a C compiler");
        assert!(built.success(), "unsynced.c does not compile");
        let cache = folder.join("cache");
        std::fs::create_dir_all(&cache).expect("the folder can be written");
        Self { library, cache }
    }

    /// Variables of a process whose files in `folder` are on such a disk.
    pub(crate) fn settings(&self, folder: &Path) -> Vec<(String, String)> {
        let path = |path: &Path| path.display().to_string();
        vec![
            ("LD_PRELOAD".to_owned(), path(&self.library)),
            ("UNSYNCED_DISK".to_owned(), path(folder)),
            ("UNSYNCED_CACHE".to_owned(), path(&self.cache)),
        ]
    }

    /// The machine fails: what is in the cache is gone.
    pub(crate) fn crash(&self) {
        for file in std::fs::read_dir(&self.cache).expect("it was made").flatten() {
            std::fs::remove_file(file.path()).expect("the file can be removed");
        }
    }
}
