//! The browser client and the demo application, as they are in `client/`: nothing stands between the source and the
//! browser, and the server needs no folder beside it. A debug build reads them where they were when it was built, so
//! that whoever works on them need not build anything.

use std::sync::Arc;

use axum::{
    Router,
    extract::Path,
    http::{HeaderName, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};

use super::{App, no_such_door};

#[cfg(not(debug_assertions))]
mod folders {
    use std::borrow::Cow;

    use include_dir::{Dir, include_dir};

    pub(super) type Folder = Dir<'static>;

    pub(super) static CLIENT: Folder = include_dir!("$CARGO_MANIFEST_DIR/client/src");
    pub(super) static DEMO: Folder = include_dir!("$CARGO_MANIFEST_DIR/client/demo");

    pub(super) fn read(folder: &Folder, path: &str) -> Option<Cow<'static, [u8]>> {
        folder.get_file(path).map(|file| file.contents().into())
    }
}

#[cfg(debug_assertions)]
mod folders {
    use std::{
        borrow::Cow,
        fs,
        path::{Component, Path},
    };

    pub(super) type Folder = &'static str;

    pub(super) static CLIENT: Folder = concat!(env!("CARGO_MANIFEST_DIR"), "/client/src");
    pub(super) static DEMO: Folder = concat!(env!("CARGO_MANIFEST_DIR"), "/client/demo");

    pub(super) fn read(folder: &Folder, path: &str) -> Option<Cow<'static, [u8]>> {
        let path = Path::new(path);
        let is_within = path.components().all(|part| matches!(part, Component::Normal(_)));
        is_within.then(|| fs::read(Path::new(folder).join(path)).ok()).flatten().map(Cow::Owned)
    }
}

use folders::{CLIENT, DEMO, Folder, read};

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

async fn file(folder: &'static Folder, path: &str) -> Response {
    let Some(contents) = read(folder, path) else {
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
    (StatusCode::OK, headers, contents).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_outside_the_folders_is_served() {
        assert!(read(&CLIENT, "index.js").is_some());
        for path in ["../package.json", "/etc/hostname", "./../package.json", "nothing.js", "", ".", ".."] {
            assert!(read(&CLIENT, path).is_none(), "{path}");
        }
    }
}
