//! The doors on port 7880 (axum): the signalling socket, health, metrics, the browser client and the demo.
//!
//! Nothing here knows what a room is: [`connect`] checks tokens and hands commands to shards, [`api`] does the same for the
//! application's backend, the rest reads state that others publish.

mod api;
mod connect;
mod files;
mod serve;
mod upgrade;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use axum::{
    Json, Router,
    extract::{MatchedPath, Query, Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use serde::{Deserialize, Serialize};
use switchyard_signaling::{Code, Features};
use tokio::sync::watch;

use self::serve::Port;
pub use self::serve::{Sources, serve};
use crate::{
    config::{Config, DEVELOPMENT_KEY, Mode},
    io::Shards,
    metrics::{Door, Metrics},
    room::permission::{Overrides, Role},
    token::{self, Keys},
};

/// How long a token of the development door lasts.
const DEVELOPMENT_TTL: Duration = Duration::from_secs(24 * 3600);

/// What all doors share.
#[derive(Debug)]
pub struct App {
    /// As loaded.
    pub config: Config,
    /// To verify tokens.
    pub keys: Keys,
    /// Everything that is counted.
    pub metrics: Arc<Metrics>,
    /// The shards.
    pub shards: Shards,
    api: api::Api,
    next_socket: AtomicU64,
    sockets: AtomicU64,
    draining: watch::Sender<bool>,
}

impl App {
    /// Doors to these shards.
    pub fn new(config: Config, metrics: Arc<Metrics>, shards: Shards) -> Self {
        Self {
            keys: Keys::of(&config),
            api: api::Api::new(&config),
            config,
            metrics,
            shards,
            next_socket: AtomicU64::new(1),
            sockets: AtomicU64::new(0),
            draining: watch::Sender::new(false),
        }
    }

    /// From now on `/readyz` says no and no new socket is accepted.
    pub fn begin_drain(&self) {
        self.draining.send_replace(true);
    }

    /// WebSockets that are open.
    pub fn open_sockets(&self) -> u64 {
        self.sockets.load(Ordering::Relaxed)
    }

    fn is_draining(&self) -> bool {
        *self.draining.borrow()
    }
}

/// All routes.
pub fn routes(app: Arc<App>) -> Router {
    let mut routes = Router::new()
        .route("/v1/connect", get(connect::upgrade))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .merge(files::routes())
        .merge(api::routes(&app));
    if app.config.mode() == Mode::Development {
        routes = routes.route("/v1/dev/token", get(development_token));
    }
    let counted = middleware::from_fn_with_state(app.clone(), count);
    routes.fallback(no_such_door).method_not_allowed_fallback(no_such_method).layer(counted).with_state(app)
}

/// The body of an error outside the WebSocket.
#[derive(Debug, Serialize)]
struct Problem {
    code: &'static str,
    message: String,
}

fn problem(status: StatusCode, code: &'static str, message: impl Into<String>) -> Response {
    (status, Json(Problem { code, message: message.into() })).into_response()
}

async fn no_such_door() -> Response {
    problem(StatusCode::NOT_FOUND, "not_found", "there is nothing here; the signalling socket is /v1/connect")
}

async fn no_such_method() -> Response {
    problem(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "this door does not take this method")
}

async fn ready(State(app): State<Arc<App>>) -> Response {
    if app.is_draining() {
        return problem(
            StatusCode::SERVICE_UNAVAILABLE,
            Code::Draining.as_str(),
            "the server is shutting down",
        );
    }
    "ready\n".into_response()
}

/// For whoever reaches the port of HTTP: the world is told nothing.
async fn metrics(State(app): State<Arc<App>>, request: Request) -> Response {
    if request.extensions().get() == Some(&Port::Tls) {
        return no_such_door().await;
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], app.metrics.render())
        .into_response()
}

async fn count(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let door = match request.extensions().get::<MatchedPath>().map(MatchedPath::as_str) {
        Some("/v1/connect") => Door::Connect,
        Some(path) if path.ends_with("/streams") => Door::Streams,
        Some("/v1/ice-servers" | "/v1/attempts") => Door::Api,
        Some(path) if path.starts_with("/v1/rooms/") => Door::Api,
        Some("/metrics") => Door::Metrics,
        Some("/healthz" | "/readyz") => Door::Health,
        Some(path) if path == "/" || path.starts_with("/client") || path.starts_with("/demo") => Door::Files,
        _ => Door::Other,
    };
    let start = Instant::now();
    let response = next.run(request).await;
    app.metrics.http.request(door, response.status().as_u16(), start.elapsed());
    response
}

#[derive(Debug, Deserialize)]
struct DevelopmentToken {
    room: String,
    user: String,
    name: Option<String>,
    role: Option<Role>,
}

#[derive(Debug, Serialize)]
struct Token {
    token: String,
}

/// A token for whoever asks: what makes the demo work at once on a developer's machine.
async fn development_token(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    Query(wanted): Query<DevelopmentToken>,
) -> Response {
    // A page of another name that resolves to this machine could ask for tokens as if it were ours.
    if !headers.get(header::HOST).and_then(|host| host.to_str().ok()).is_some_and(is_local_name) {
        return problem(StatusCode::FORBIDDEN, "forbidden", "ask by IP address or as localhost");
    }
    let key = if app.keys.names().any(|key| key == DEVELOPMENT_KEY) {
        DEVELOPMENT_KEY.to_owned()
    } else {
        app.keys.names().next().unwrap_or_default().to_owned()
    };
    let grant = token::Grant {
        name: wanted.name.or_else(|| Some(wanted.user.clone())),
        user: wanted.user,
        room: wanted.room,
        role: wanted.role.unwrap_or(Role::Editor),
        overrides: Overrides::default(),
        features: Features::default(),
        expires_at: unix_now() + DEVELOPMENT_TTL.as_secs(),
        not_before: None,
        id: None,
    };
    match token::mint(&app.keys, &key, &grant) {
        Ok(token) => Json(Token { token }).into_response(),
        Err(error) => problem(StatusCode::BAD_REQUEST, error.code().as_str(), error.to_string()),
    }
}

fn is_local_name(host: &str) -> bool {
    host.parse::<SocketAddr>().is_ok()
        || host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok()
        || host.rsplit_once(':').map_or(host, |(name, _)| name) == "localhost"
}

/// Seconds since 1970.
fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
