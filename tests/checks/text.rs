//! What no file of the repository contains, and what every module begins with.

use crate::{
    expect_none,
    tree::{self, File},
};

/// Lock files name where packages were found; nothing else needs to.
const LOCK_FILES: [&str; 2] = ["Cargo.lock", "package-lock.json"];

/// Registries' hosts and folders of somebody's machine, in two halves, so that this file does not contain them.
const NOWHERE: [(&str, &str); 13] = [
    ("crates", ".io"),
    ("npmjs", ".org"),
    ("npmjs", ".com"),
    ("yarnpkg", ".com"),
    ("pypi", ".org"),
    ("pythonhosted", ".org"),
    ("proxy.golang", ".org"),
    ("registry", "-1.docker"),
    ("/ho", "me/"),
    ("/ro", "ot/"),
    ("/Use", "rs/"),
    ("/wo", "rk/"),
    (":\\Use", "rs\\"),
];

fn unwanted(file: &File) -> Vec<String> {
    if LOCK_FILES.iter().any(|name| file.path.rsplit('/').next() == Some(name)) {
        return Vec::new();
    }
    let mut found = Vec::new();
    for (number, line) in file.text.lines().enumerate() {
        for text in NOWHERE.map(|(start, end)| format!("{start}{end}")) {
            if line.contains(&text) {
                found.push(format!("{}:{}: contains {text}", file.path, number + 1));
            }
        }
    }
    found
}

/// A file says what it is before anything else.
fn without_opening(file: &File) -> Option<String> {
    let is_open = file.text.starts_with("//! ");
    (file.path.ends_with(".rs") && !is_open).then(|| format!("{}: does not open with `//!`", file.path))
}

#[test]
fn no_file_names_a_registry_or_a_folder_of_a_developers_machine() {
    let found: Vec<_> = tree::files().iter().flat_map(unwanted).collect();
    expect_none(&found);
}

#[test]
fn every_module_opens_with_what_it_is() {
    let found: Vec<_> = tree::files().iter().filter_map(without_opening).collect();
    expect_none(&found);
}

#[test]
fn a_registry_and_a_developers_folder_are_found_with_their_line() {
    for (start, end) in NOWHERE {
        let mut file = File { path: "docs/a.md".to_owned(), text: format!("one\ntwo {start}{end}ada/x\n") };
        assert_eq!(unwanted(&file).len(), 1);
        assert!(unwanted(&file)[0].starts_with("docs/a.md:2: "));
        file.path = "client/package-lock.json".to_owned();
        assert_eq!(unwanted(&file).len(), 0);
    }
}

#[test]
fn a_module_without_an_opening_is_found() {
    let file = |path: &str, text: &str| File { path: path.to_owned(), text: text.to_owned() };
    assert!(without_opening(&file("src/a.rs", "use std::fs;\n//! late\n")).is_some());
    assert!(without_opening(&file("src/a.rs", "//! What it is.\n")).is_none());
    assert!(without_opening(&file("a.md", "text")).is_none());
}
