//! The browser client and the demo application, as they are in `client/`: nothing stands between the source and the
//! browser, and the server needs no folder beside it.

use std::sync::Arc;

use axum::{
    Router,
    extract::Path,
    http::{HeaderName, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use include_dir::{Dir, include_dir};

use super::{App, no_such_door};

static CLIENT: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/client/src");
static DEMO: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/client/demo");

/// The demo loads nothing from elsewhere and runs nothing written into the page; it may connect anywhere, because an
/// application's server may be elsewhere.
const POLICY: &str = "default-src 'self'; connect-src *; img-src 'self' data: blob:; frame-ancestors 'self'; \
                      base-uri 'none'; form-action 'self'";

pub(super) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/", get(|| file(&DEMO, "index.html")))
        .route("/demo/{*path}", get(|Path(path): Path<String>| async move { file(&DEMO, &path).await }))
        .route("/client/{*path}", get(|Path(path): Path<String>| async move { file(&CLIENT, &path).await }))
}

async fn file(folder: &'static Dir<'static>, path: &str) -> Response {
    let Some(file) = folder.get_file(path) else {
        return no_such_door().await;
    };
    let kind = match path.rsplit_once('.').map(|(_, ending)| ending) {
        Some("html") => "text/html; charset=utf-8",
        Some("js" | "mjs") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("json") => "application/json",
        _ => "application/octet-stream",
    };
    let headers: [(HeaderName, &str); 5] = [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, "no-cache"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    (StatusCode::OK, headers, file.contents()).into_response()
}
