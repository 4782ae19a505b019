//! The files of the repository, as a checkout has them: without what is built, installed or written by a run.

use std::{fs, path::Path};

/// A file that is text, or is read as if it were.
pub(crate) struct File {
    /// From the repository's root, with `/`.
    pub(crate) path: String,
    pub(crate) text: String,
}

/// Folders that no checkout has.
const NOT_OURS: [&str; 6] = [".git", "target", "node_modules", "data", "artifacts", "coverage"];

/// All files.
pub(crate) fn files() -> Vec<File> {
    let mut files = Vec::new();
    walk(Path::new(env!("CARGO_MANIFEST_DIR")), "", &mut files);
    assert!(files.len() > 50, "the repository has more than {} files", files.len());
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

/// The Rust files.
pub(crate) fn rust_files() -> Vec<File> {
    let mut files = files();
    files.retain(|file| file.path.ends_with(".rs"));
    files
}

fn walk(folder: &Path, prefix: &str, files: &mut Vec<File>) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let (name, kind) = (entry.file_name(), entry.file_type().unwrap());
        let name = name.to_string_lossy();
        let path = format!("{prefix}{name}");
        if kind.is_dir() && !NOT_OURS.contains(&&*name) {
            walk(&entry.path(), &format!("{path}/"), files);
        } else if kind.is_file() && name != ".git" && !name.ends_with(".log") {
            let bytes = fs::read(entry.path()).unwrap();
            let text = String::from_utf8_lossy(&bytes).into_owned();
            files.push(File { path, text });
        }
    }
}
