//! Switchyard: one server for live collaboration. The map of the crate is in `docs/architecture.md`.
#![allow(missing_docs)]

pub mod names;
pub mod room;
pub mod router;
