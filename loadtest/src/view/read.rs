//! A report back from its JSON.

use serde_json::Value;

use crate::figures::{Report, SCHEMA};

/// Why a text is not a report that this program can show.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Not JSON at all, or cut short.
    #[error("this is not JSON: {0}")]
    NotJson(#[source] serde_json::Error),
    /// JSON, but of something else.
    #[error("this is JSON, but no report of a run: {0}")]
    NotAReport(&'static str),
    /// Written by a later version of this program.
    #[error(
        "this report has schema {found}, written by {program}; this program knows schemas up to {SCHEMA}"
    )]
    Newer {
        /// The report's schema.
        found: u64,
        /// The program that wrote it, as it names itself.
        program: String,
    },
    /// A field is not what it should be.
    #[error("this report is damaged: {0}")]
    Damaged(#[source] serde_json::Error),
}

/// Reads a report. Fields that an earlier program did not write have their defaults; unknown ones are passed over.
pub fn read(json: &str) -> Result<Report, ReadError> {
    let value: Value = serde_json::from_str(json).map_err(ReadError::NotJson)?;
    let Some(object) = value.as_object() else {
        return Err(ReadError::NotAReport("it is not an object"));
    };
    let schema =
        object.get("schema").and_then(Value::as_u64).ok_or(ReadError::NotAReport("it has no `schema`"))?;
    let program =
        object.get("program").and_then(Value::as_str).ok_or(ReadError::NotAReport("it has no `program`"))?;
    if schema > u64::from(SCHEMA) {
        return Err(ReadError::Newer { found: schema, program: super::table::plain(program) });
    }
    if !["scenario", "verdict", "lanes"].iter().all(|key| object.contains_key(*key)) {
        return Err(ReadError::NotAReport("it has no scenario, verdict or lanes"));
    }
    // From the text again, because these errors say line and column.
    serde_json::from_str(json).map_err(ReadError::Damaged)
}
