//! The verdicts on attempts to connect: the server's list, the client's and the operator's table are one.

use std::collections::BTreeSet;

use switchyard_signaling::attempt::Verdict;

use crate::tree;

/// The words in quotation marks of the type `Verdict`.
fn of_client(source: &str) -> BTreeSet<&str> {
    let (before, _) = source.split_once("} Verdict").expect("the type is there");
    let (_, list) = before.rsplit_once("@typedef {").expect("it begins");
    list.split('\'').skip(1).step_by(2).collect()
}

/// The first column of the table under the question.
fn of_document(text: &str) -> BTreeSet<&str> {
    let (_, section) =
        text.split_once("\n## Why does a client not connect?\n").expect("the section is there");
    let section = section.split("\n## ").next().unwrap_or_default();
    section.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect()
}

/// Those that the server counts, and nobody finds.
const ONLY_COUNTED: &str = "other";

#[test]
fn the_verdicts_of_server_client_and_document_are_the_same() {
    let files = tree::files();
    let text = |path: &str| &*files.iter().find(|file| file.path == path).expect("the file is there").text;
    let mut server: BTreeSet<_> = Verdict::ALL.iter().map(|verdict| verdict.as_str()).collect();
    assert_eq!(server, of_document(text("docs/operating.md")), "docs/operating.md");
    assert!(server.remove(ONLY_COUNTED));
    assert_eq!(server, of_client(text("client/src/diagnosis.js")), "client/src/diagnosis.js");
}

#[test]
fn a_verdict_that_is_missing_or_too_many_is_found() {
    let client = "/**\n * @typedef {'a' | 'b_c'\n *   | 'd'} Verdict\n *\n * @typedef {'x'} Other\n */";
    assert_eq!(of_client(client), BTreeSet::from(["a", "b_c", "d"]));
    let document = "# T\n\n## Why does a client not connect?\n\n| verdict |\n|---|\n| `a` | `b` |\n| `d` | |\n\n## Next\n\n| `x` | |\n";
    assert_eq!(of_document(document), BTreeSet::from(["a", "d"]));
}
