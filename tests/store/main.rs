//! The store: one suite for every implementation of its traits, and what belongs to one of them alone.
//!
//! - [`suite`]: what holds for all; run for SQLite, for a PostgreSQL that the tests start, and for the model;
//! - [`equal`]: random histories, answered alike by all three;
//! - [`model`]: the disk of the simulated worlds behind the same traits;
//! - [`sqlite`], [`postgres`]: files, locks, crashes, schemas, lost servers;
//! - [`threads`]: queues, group commit, failures and recovery.
//! - [`figures`]: how fast they are, when asked.

#![cfg(test)]

#[path = "../it/world/disk.rs"]
mod disk;
mod equal;
mod figures;
mod model;
mod postgres;
mod postgres_server;
mod script;
mod sqlite;
mod suite;
mod threads;
