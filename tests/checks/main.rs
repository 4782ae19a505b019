//! What no compiler checks about this repository: licences and versions of dependencies, who imports whom, and what
//! no file may contain.
//!
//! Each rule is a function from text to findings. One test applies it to the repository, another to a sample with a
//! planted fault, so that a rule that finds nothing is known to be able to.

#![cfg(test)]

mod container;
mod duplicates;
mod imports;
mod licences;
mod packages;
mod text;
mod tokens;
mod tree;
mod verdicts;

/// Fails with everything that a rule has found.
fn expect_none(findings: &[String]) {
    assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
}
