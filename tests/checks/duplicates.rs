//! One version of each dependency, and one cryptographic library: both cost build time, and the second one trust.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    expect_none,
    packages::{self, Package},
};

/// Duplicates that are let be, each with the reason. All are small, and none of ours to change: the versions are
/// chosen by dependencies of ours that have not met yet.
const LET_BE: [(&str, &str); 16] = [
    ("base64", "pem 4, under rcgen, has moved on; the rest is at 0.22"),
    ("block-buffer", "follows digest"),
    ("cpufeatures", "a few lines; chacha20 (rand) has moved on, aes and sha1 have not"),
    ("crypto-common", "follows digest"),
    ("digest", "postgres-protocol (SCRAM) is at 0.11; rtc-crypto is at 0.10"),
    ("fallible-iterator", "one trait; tokio-postgres is at 0.2, rusqlite at 0.3"),
    ("getrandom", "a system call; ring, rand 0.9 and rand 0.10 each have theirs"),
    ("hmac", "follows digest"),
    ("md-5", "follows digest"),
    ("pem", "rtc and rcgen disagree"),
    ("rand", "tungstenite is at 0.9, rtc at 0.10"),
    ("rand_core", "traits only; RustCrypto's ciphers, rand 0.9 and rand 0.10 each have theirs"),
    ("syn", "asn1-rs, under rtc's x509-parser, is at 2; serde and the rest are at 3"),
    ("synstructure", "follows syn"),
    ("thiserror", "asn1-rs, under rtc's x509-parser, is at 1"),
    ("thiserror-impl", "follows thiserror"),
];

/// Cryptographic and TLS libraries beside `ring`, most of which compile C for minutes.
const OTHER_STACKS: [&str; 9] = [
    "aws-lc-fips-sys",
    "aws-lc-rs",
    "aws-lc-sys",
    "boring",
    "boring-sys",
    "mbedtls",
    "native-tls",
    "openssl",
    "openssl-sys",
];

fn duplicates(packages: &[Package], let_be: &[&str]) -> Vec<String> {
    let mut versions = BTreeMap::<&str, BTreeSet<&str>>::new();
    for package in packages {
        versions.entry(&package.name).or_default().insert(&package.version);
    }
    let (doubled, single): (Vec<_>, Vec<_>) =
        versions.into_iter().partition(|(_, versions)| versions.len() > 1);
    let refused = doubled
        .into_iter()
        .filter(|(name, _)| !let_be.contains(name))
        .map(|(name, versions)| format!("{name} is there in several versions: {versions:?}"));
    let stale = single
        .into_iter()
        .filter(|(name, _)| let_be.contains(name))
        .map(|(name, _)| format!("{name} is there once; it need not be let be any more"));
    refused.chain(stale).collect()
}

fn stacks(packages: &[Package]) -> Vec<String> {
    packages
        .iter()
        .filter(|package| OTHER_STACKS.contains(&&*package.name))
        .map(|package| format!("{} is a second cryptographic library", package.name))
        .collect()
}

#[test]
fn no_dependency_is_there_twice_without_a_reason() {
    expect_none(&duplicates(packages::all(), &LET_BE.map(|(name, _)| name)));
}

#[test]
fn there_is_one_cryptographic_library() {
    assert!(packages::all().iter().any(|package| package.name == "ring"));
    expect_none(&stacks(packages::all()));
}

#[test]
fn a_duplicate_is_found_and_so_is_a_reason_that_is_gone() {
    let sample = |name, version| packages::sample(name, version, None);
    let packages = [
        sample("axum", "0.7.9"),
        sample("axum", "0.8.9"),
        sample("pem", "4.0.0"),
        sample("rand", "0.9.5"),
        sample("rand", "0.10.3"),
    ];
    let found = duplicates(&packages, &["pem", "rand"]);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].contains("axum") && found[1].contains("pem"));
}

#[test]
fn a_second_cryptographic_library_is_found() {
    let packages = [packages::sample("ring", "0.17.14", None), packages::sample("aws-lc-rs", "1.0.0", None)];
    assert_eq!(stacks(&packages).len(), 1);
}
