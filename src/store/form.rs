//! How values are stored, whatever the database.

use std::sync::Arc;

use switchyard_signaling::Code;

use super::{Entry, StoreError};

/// As many as fit, but one at least.
pub(super) fn within(
    rows: impl Iterator<Item = Result<Entry, StoreError>>,
    bytes: usize,
) -> Result<Vec<Arc<Entry>>, StoreError> {
    let (mut entries, mut sum) = (Vec::new(), 0);
    for entry in rows {
        let entry = entry?;
        sum += entry.event.content.body.len() + entry.event.user.len() + entry.event.name.len();
        if sum > bytes && !entries.is_empty() {
            break;
        }
        entries.push(Arc::new(entry));
    }
    Ok(entries)
}

/// The code that was stored; of a later version's it is known only that it was a refusal.
pub(super) fn code_from(text: &str) -> Code {
    Code::ALL.iter().copied().find(|code| code.as_str() == text).unwrap_or(Code::Forbidden)
}

/// A number that is compared, and never reaches 2^63.
pub(super) fn index(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// What is said of a schema that a later version has made.
pub(super) fn newer(version: u32, known: usize) -> String {
    format!(
        "the schema has version {version}, and this server knows those up to {known}: a later version of it has \
         written here"
    )
}
