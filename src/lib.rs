//! Switchyard: one server for live collaboration. The map of the crate is in `docs/architecture.md`.

pub mod config;
pub mod metrics;
pub mod names;
pub mod room;
pub mod router;
pub mod token;
