//! Why users of the tenant do not connect: the records of their attempts (OPS3).

use std::sync::Arc;

use axum::{
    extract::{Extension, State},
    http::{HeaderValue, Uri, header},
    response::{IntoResponse as _, Response},
};
use serde::Deserialize;
use switchyard_signaling::attempt::Verdict;

use super::{App, Authenticated, Failure, query};
use crate::{attempts::Wanted, http::unix_now};

/// Records in one answer, where none are wanted by number and at most.
const PAGE: usize = 50;
const PAGE_MOST: usize = 100;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    user: Option<String>,
    verdict: Option<String>,
    room: Option<String>,
    limit: Option<usize>,
    before: Option<u64>,
}

/// `GET /v1/attempts`
pub(super) async fn attempts(
    State(app): State<Arc<App>>,
    Extension(Authenticated(tenant)): Extension<Authenticated>,
    uri: Uri,
) -> Result<Response, Failure> {
    let Asked { user, verdict, room, limit, before } = query(&uri)?;
    let known = |word: String| {
        let verdict = Verdict::from(word.as_str());
        let is_known = verdict.as_str() == word;
        is_known.then_some(verdict).ok_or_else(|| Failure::malformed("`verdict` is none that there is"))
    };
    let verdict = verdict.map(known).transpose()?;
    let limit = limit.unwrap_or(PAGE).clamp(1, PAGE_MOST);
    let wanted = Wanted { user, verdict, room, before, limit };
    let found = app.shards.attempts().find(&tenant, &wanted, unix_now() * 1000);
    let json = format!("{{\"attempts\":[{}],\"more\":{}}}", found.records.join(","), found.more);
    let kind = HeaderValue::from_static("application/json");
    let not_kept = HeaderValue::from_static("no-store");
    Ok(([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, not_kept)], json).into_response())
}
