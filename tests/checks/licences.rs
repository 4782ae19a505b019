//! Every dependency may be used under a licence that asks for no more than a notice.

use serde_json::Value;

use crate::{
    expect_none,
    packages::{self, Package},
    tree,
};

/// SPDX identifiers.
const ALLOWED: [&str; 8] =
    ["0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MIT", "Unicode-3.0", "Zlib"];

fn findings(packages: &[Package]) -> Vec<String> {
    let refused = packages.iter().filter(|package| !package.licence.as_deref().is_some_and(is_allowed));
    refused
        .map(|package| {
            let licence = package.licence.as_deref().unwrap_or("none");
            format!("{} {} has the licence {licence}", package.name, package.version)
        })
        .collect()
}

/// Dependencies of an npm lock file, which states the licence of each.
fn npm_findings(path: &str, lock: &str) -> Vec<String> {
    let lock: Value = serde_json::from_str(lock).unwrap();
    let packages = lock["packages"].as_object().unwrap();
    let refused = packages
        .iter()
        .filter(|(name, package)| !name.is_empty() && !package["license"].as_str().is_some_and(is_allowed));
    refused.map(|(name, package)| format!("{path}: {name} has the licence {}", package["license"])).collect()
}

/// Whether an SPDX expression can be satisfied with allowed licences. `/` is what `OR` was written as before SPDX.
/// What does not parse is not allowed.
fn is_allowed(expression: &str) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let mut words = spaced.split_whitespace().peekable();
    either(&mut words) == Some(true) && words.next().is_none()
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn either(words: &mut Words<'_>) -> Option<bool> {
    let mut allowed = both(words)?;
    while words.next_if_eq(&"OR").is_some() {
        allowed |= both(words)?;
    }
    Some(allowed)
}

fn both(words: &mut Words<'_>) -> Option<bool> {
    let mut allowed = one(words)?;
    while words.next_if_eq(&"AND").is_some() {
        allowed &= one(words)?;
    }
    Some(allowed)
}

fn one(words: &mut Words<'_>) -> Option<bool> {
    let word = words.next()?;
    if word == "(" {
        let allowed = either(words)?;
        return words.next_if_eq(&")").map(|_| allowed);
    }
    let is_name = !matches!(word, ")" | "AND" | "OR" | "WITH");
    // An exception gives more than the licence, never less.
    if words.next_if_eq(&"WITH").is_some() {
        words.next()?;
    }
    is_name.then(|| ALLOWED.contains(&word))
}

#[test]
fn every_dependency_has_an_allowed_licence() {
    let mut found = findings(packages::all());
    for file in tree::files() {
        if file.path.ends_with("package-lock.json") {
            found.extend(npm_findings(&file.path, &file.text));
        }
    }
    expect_none(&found);
}

#[test]
fn a_dependency_with_another_licence_or_none_is_found() {
    let packages = [
        packages::sample("good", "1.0.0", Some("MIT")),
        packages::sample("copyleft", "1.0.0", Some("MIT AND GPL-3.0-only")),
        packages::sample("silent", "1.0.0", None),
    ];
    let found = findings(&packages).join("\n");
    assert!(found.contains("copyleft") && found.contains("silent") && !found.contains("good"));
    let lock = r#"{"packages": {"": {}, "node_modules/a": {"license": "MIT"}, "node_modules/b": {"license": "SSPL-1.0"}}}"#;
    assert_eq!(npm_findings("lock", lock).len(), 1);
}

#[test]
fn expressions_mean_what_spdx_says() {
    for allowed in [
        "MIT",
        "MIT/Apache-2.0",
        "GPL-2.0-only OR MIT",
        "(MIT OR GPL-3.0-only) AND Unicode-3.0",
        "Apache-2.0 WITH LLVM-exception",
        "LGPL-2.1-or-later OR MIT AND ISC",
    ] {
        assert!(is_allowed(allowed), "{allowed}");
    }
    for refused in [
        "GPL-3.0-only",
        "MIT AND GPL-3.0-only",
        "(MIT OR ISC) AND GPL-3.0-only",
        "GPL-2.0-only OR GPL-3.0-only AND MIT",
        "",
        "MIT OR",
        "(MIT",
        "MIT)",
        "MIT ISC",
        "OR",
    ] {
        assert!(!is_allowed(refused), "{refused}");
    }
}
