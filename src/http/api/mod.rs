//! The application backend's door, `/v1/rooms/…`, `/v1/ice-servers` and `/v1/attempts`: publish, stream, update and read by HTTP with an API key (MSG3, MSG5–MSG7).
//! The document for its users is `docs/http-api.md`.
//!
//! Whoever has the key and its secret is the tenant: may write in any user's name, in all rooms of the tenant and in no
//! others (ACL10). Users' tokens open nothing here. What is written is decided by the room, like everything else; what is
//! read is asked of the store, so that it is durable and no room has to be loaded for it.
//!
//! - this file: who may come in, how much at once, what is answered when something is wrong;
//! - [`mod@write`]: events, one request each; [`stream`]: a message that grows; [`read`]: pages and replays; [`ice`]: STUN
//!   and TURN for a user; [`attempts`]: why users do not connect.

mod attempts;
mod ice;
mod read;
mod stream;
mod write;

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use axum::{
    Extension, Router,
    body::{Body, Bytes},
    extract::{FromRequestParts, Query, RawPathParams, Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header, request::Parts},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, patch, post, put},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use futures_util::StreamExt as _;
use ring::{
    hmac,
    rand::{SecureRandom as _, SystemRandom},
};
use serde::{Serialize, de::DeserializeOwned};
use switchyard_signaling::{Code, event::Origin, limits};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep, timeout, timeout_at},
};

use super::{App, problem};
use crate::{
    RETRY_AFTER,
    config::Config,
    names::RoomKey,
    room::{BackendAct, BackendAnswer, BackendError},
    store::StoreError,
};

/// Requests that are being answered at the same time, without the two below.
const REQUESTS: usize = 512;
/// Replays that are being sent at the same time.
const REPLAYS: usize = 64;
/// Messages that are being streamed at the same time.
const STREAMS: usize = 512;
/// Bytes of a request's body: an event's, and what is beside it.
const BODY_BYTES: usize = limits::EVENT_BYTES + 4 * 1024;
/// For the body of a request to come.
const BODY: Duration = Duration::from_secs(10);
/// For the room to answer.
const ANSWER: Duration = Duration::from_secs(10);
/// Between two attempts, when the room has said "not now".
const PAUSE: Duration = Duration::from_millis(10);
/// Bytes of an `Idempotency-Key`.
const IDEMPOTENCY_KEY_BYTES: usize = 128;

/// What the door keeps: the tenants' secrets, and how much is going on.
pub(super) struct Api {
    tenants: BTreeMap<Arc<str>, Tenant>,
    /// Secrets are compared by their tags under a key of this process, so that how long it takes shows nothing.
    comparing: hmac::Key,
    nobody: hmac::Tag,
    requests: Arc<Semaphore>,
    replays: Arc<Semaphore>,
    streams: Arc<Semaphore>,
    random: SystemRandom,
}

struct Tenant {
    secret: hmac::Tag,
    /// Makes origins of idempotency keys; a client that does not have the secret cannot meet one on purpose.
    origins: hmac::Key,
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Api").field("tenants", &self.tenants.keys()).finish_non_exhaustive()
    }
}

impl Api {
    pub(super) fn new(config: &Config) -> Self {
        let random = SystemRandom::new();
        let comparing = hmac::Key::generate(hmac::HMAC_SHA256, &random)
            .expect("the system has random numbers: it had them for the certificate");
        let tenants = config.keys.iter().map(|(name, key)| {
            let secret = hmac::sign(&comparing, key.secret.expose());
            let origins = hmac::Key::new(hmac::HMAC_SHA256, key.secret.expose());
            (name.as_str().into(), Tenant { secret, origins })
        });
        Self {
            tenants: tenants.collect(),
            nobody: hmac::sign(&comparing, b""),
            comparing,
            requests: Arc::new(Semaphore::new(REQUESTS)),
            replays: Arc::new(Semaphore::new(REPLAYS)),
            streams: Arc::new(Semaphore::new(STREAMS)),
            random,
        }
    }

    /// The tenant whose key and secret these are: `Bearer KEY:SECRET`, or Basic with the same.
    fn tenant(&self, authorization: &str) -> Option<Arc<str>> {
        let (scheme, credentials) = authorization.split_once(' ')?;
        let credentials = match scheme {
            _ if scheme.eq_ignore_ascii_case("bearer") => credentials.trim().as_bytes().to_vec(),
            _ if scheme.eq_ignore_ascii_case("basic") => BASE64_STANDARD.decode(credentials.trim()).ok()?,
            _ => return None,
        };
        let colon = credentials.iter().position(|byte| *byte == b':')?;
        let (name, secret) = (std::str::from_utf8(&credentials[..colon]).ok()?, &credentials[colon + 1..]);
        let known = self.tenants.get_key_value(name);
        let expected = known.map_or(&self.nobody, |(_, tenant)| &tenant.secret);
        let is_it = hmac::verify(&self.comparing, secret, expected.as_ref()).is_ok();
        known.filter(|_| is_it).map(|(name, _)| name.clone())
    }

    /// The origin of a request: always the same for an `Idempotency-Key` in a room, another one for each without.
    fn origin(&self, room: &RoomKey, headers: &HeaderMap) -> Result<Origin, Failure> {
        let Some(key) = headers.get("idempotency-key") else {
            let mut number = [0; 8];
            self.random.fill(&mut number).map_err(|_| Failure::internal())?;
            return Ok(Origin(u64::from_be_bytes(number)));
        };
        let key = key.as_bytes();
        let is_printable = key.iter().all(|byte| (0x20..0x7f).contains(byte));
        if !(1..=IDEMPOTENCY_KEY_BYTES).contains(&key.len()) || !is_printable {
            return Err(Failure::malformed("an Idempotency-Key has 1 to 128 printable bytes of ASCII"));
        }
        let tenant = self.tenants.get(&room.tenant).ok_or_else(Failure::internal)?;
        let mut context = hmac::Context::with_key(&tenant.origins);
        // None of the parts but the last has a byte 0xff.
        for part in [b"idempotency", room.tenant.as_bytes(), room.room.as_bytes(), key] {
            context.update(part);
            context.update(&[0xff]);
        }
        let number = context.sign().as_ref().first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
        Ok(Origin(number))
    }
}

pub(super) fn routes(app: &Arc<App>) -> Router<Arc<App>> {
    let short = Router::new()
        .route("/v1/rooms/{room}/messages", post(write::message).get(read::messages))
        .route("/v1/rooms/{room}/messages/{seq}", patch(write::edit).delete(write::delete))
        .route("/v1/rooms/{room}/messages/{seq}/reactions/{emoji}", put(write::react).delete(write::unreact))
        .route("/v1/rooms/{room}/events", post(write::custom).get(read::events))
        .route("/v1/rooms/{room}/fields", patch(write::fields).get(read::fields))
        .route("/v1/ice-servers", post(ice::ice_servers))
        .route("/v1/attempts", get(attempts::attempts))
        .layer(middleware::from_fn_with_state(app.clone(), one_of_many));
    let long = Router::new().route("/v1/rooms/{room}/streams", post(stream::stream));
    short.merge(long).layer(middleware::from_fn_with_state(app.clone(), authenticate))
}

/// The tenant of a request, for those behind.
#[derive(Clone, Debug)]
struct Authenticated(Arc<str>);

async fn authenticate(
    State(app): State<Arc<App>>,
    mut request: Request,
    next: Next,
) -> Result<Response, Failure> {
    let authorization = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let tenant = authorization.and_then(|authorization| app.api.tenant(authorization));
    let tenant = tenant.ok_or(Failure {
        status: StatusCode::UNAUTHORIZED,
        code: "unauthorized",
        message: "this door is opened by `Authorization: Bearer KEY:SECRET`, with an API key and its secret"
            .into(),
        retry: None,
    })?;
    if app.is_draining() {
        return Err(Failure::draining());
    }
    request.extensions_mut().insert(Authenticated(tenant));
    Ok(next.run(request).await)
}

async fn one_of_many(State(app): State<Arc<App>>, request: Request, next: Next) -> Result<Response, Failure> {
    let _permit = permit(&app.api.requests)?;
    Ok(next.run(request).await)
}

fn permit(semaphore: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, Failure> {
    semaphore.clone().try_acquire_owned().map_err(|_| Failure::overloaded("too many requests at once"))
}

/// The room, and what else the path names.
#[derive(Debug)]
struct Place {
    room: RoomKey,
    /// 0 where the path has none.
    seq: u64,
    emoji: String,
}

impl FromRequestParts<Arc<App>> for Place {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Failure> {
        let Extension(Authenticated(tenant)) =
            Extension::from_request_parts(parts, app).await.map_err(|_| Failure::internal())?;
        let names = RawPathParams::from_request_parts(parts, app).await;
        let names = names.map_err(|_| Failure::malformed("the path is not UTF-8"))?;
        let (mut room, mut seq, mut emoji) = (Arc::<str>::default(), 0, String::new());
        for (name, value) in &names {
            match name {
                "room" => room = value.into(),
                "seq" => {
                    let number = value.parse().ok().filter(|number| *number > 0);
                    seq = number.ok_or_else(|| Failure::malformed("a message is named by its `seq`"))?;
                }
                _ => value.clone_into(&mut emoji),
            }
        }
        if room.is_empty() || room.len() > limits::ROOM_NAME_BYTES || room.chars().any(char::is_control) {
            return Err(Failure {
                status: StatusCode::BAD_REQUEST,
                code: Code::RoomName.as_str(),
                message: "a room's name has 1 to 128 bytes and no control characters".into(),
                retry: None,
            });
        }
        Ok(Self { room: RoomKey { tenant, room }, seq, emoji })
    }
}

/// In whose name something is written.
#[derive(Debug)]
struct Author {
    user: Arc<str>,
    name: Arc<str>,
}

impl Author {
    /// The API key is the author where no user is named, and the user's id is shown where no name is.
    fn new(room: &RoomKey, user: Option<String>, name: Option<String>) -> Result<Self, Failure> {
        let user: Arc<str> = user.map_or_else(|| room.tenant.clone(), Into::into);
        let name = name.map_or_else(|| user.clone(), Into::into);
        for text in [&user, &name] {
            if !is_name(text) {
                let told = "`user` and `name` have 1 to 128 bytes and no control characters";
                return Err(Failure::malformed(told));
            }
        }
        Ok(Self { user, name })
    }
}

/// Whether it can be a user's id or a display name.
fn is_name(text: &str) -> bool {
    (1..=limits::USER_BYTES).contains(&text.len()) && !text.chars().any(char::is_control)
}

/// What is said of a request that came to nothing: `{code, message}`.
#[derive(Debug)]
struct Failure {
    status: StatusCode,
    code: &'static str,
    message: String,
    retry: Option<Duration>,
}

impl Failure {
    fn malformed(message: impl Into<String>) -> Self {
        let (status, code) = (StatusCode::BAD_REQUEST, Code::Malformed.as_str());
        Self { status, code, message: message.into(), retry: None }
    }

    fn refused(code: Code, message: impl Into<String>) -> Self {
        let status = match code {
            Code::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Code::NoSuchMessage => StatusCode::NOT_FOUND,
            Code::Forbidden | Code::NotAuthor => StatusCode::FORBIDDEN,
            Code::NoSuchStream => StatusCode::CONFLICT,
            Code::TooManyStreams => StatusCode::TOO_MANY_REQUESTS,
            Code::Timeout => StatusCode::REQUEST_TIMEOUT,
            _ => StatusCode::BAD_REQUEST,
        };
        let retry = (code == Code::TooManyStreams).then_some(RETRY_AFTER);
        Self { status, code: code.as_str(), message: message.into(), retry }
    }

    fn conflict() -> Self {
        Self {
            status: StatusCode::UNPROCESSABLE_ENTITY,
            code: "idempotency_conflict",
            message: "this Idempotency-Key was used in this room for something else".into(),
            retry: None,
        }
    }

    fn not_now(code: Code, message: impl Into<String>, retry: Duration) -> Self {
        let (status, code) = (StatusCode::SERVICE_UNAVAILABLE, code.as_str());
        Self { status, code, message: message.into(), retry: Some(retry) }
    }

    fn overloaded(message: &str) -> Self {
        Self::not_now(Code::Overloaded, message, Duration::from_secs(1))
    }

    fn draining() -> Self {
        Self::not_now(Code::Draining, "the server is shutting down", RETRY_AFTER)
    }

    fn store(error: &StoreError) -> Self {
        tracing::debug!(%error, "a question of an application's backend is not answered");
        Self::not_now(Code::StorageUnavailable, "the store is not available", Duration::from_secs(1))
    }

    fn internal() -> Self {
        Self {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            code: "internal",
            message: "this is a defect of the server".into(),
            retry: None,
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = problem(self.status, self.code, self.message);
        if self.status == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static("Bearer realm=\"switchyard\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        if let Some(retry) = self.retry {
            let seconds = retry.as_millis().div_ceil(1000).clamp(1, 3600) as u32;
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}

/// What follows the `?`; what is not known there is refused.
fn query<T: DeserializeOwned>(uri: &Uri) -> Result<T, Failure> {
    match Query::try_from_uri(uri) {
        Ok(Query(query)) => Ok(query),
        Err(error) => Err(Failure::malformed(format!("the query: {}", error.body_text()))),
    }
}

/// The whole body, if it is small and comes in time.
async fn body(headers: &HeaderMap, body: Body, most: usize) -> Result<Bytes, Failure> {
    let too_large = || Failure::refused(Code::TooLarge, format!("the body has at most {most} bytes"));
    let length = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if length.is_some_and(|length: u64| length > most as u64) {
        return Err(too_large());
    }
    let reading = async {
        let (mut stream, mut whole) = (body.into_data_stream(), Vec::new());
        while let Some(bytes) = stream.next().await {
            let bytes = bytes.map_err(|_| Failure::malformed("the body ended before its end"))?;
            if whole.len() + bytes.len() > most {
                return Err(too_large());
            }
            whole.extend_from_slice(&bytes);
        }
        Ok(whole.into())
    };
    let late = || Failure::refused(Code::Timeout, "the body did not come in time");
    timeout(BODY, reading).await.unwrap_or_else(|_| Err(late()))
}

fn json<'a, T: serde::Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Failure> {
    serde_json::from_slice(bytes).map_err(|error| Failure::malformed(format!("the body: {error}")))
}

/// Whether a failure of the store is waited out too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Patience {
    /// The caller has what it needs to try again.
    Short,
    /// The caller would have to begin from the beginning.
    Long,
}

/// Lets the room do it. Whatever it says "not now" to is asked again for a while: a request has one origin, so it is
/// harmless.
async fn act(
    app: &App,
    room: &RoomKey,
    act: &BackendAct,
    patience: Patience,
) -> Result<BackendAnswer, Failure> {
    let deadline = Instant::now() + ANSWER;
    let unknown = || {
        let told =
            "there was no answer in time; it may have been written, so try again with an Idempotency-Key";
        Failure::not_now(Code::StorageUnavailable, told, Duration::from_secs(1))
    };
    loop {
        let answer = timeout_at(deadline, app.shards.act(room, act.clone())).await.map_err(|_| unknown())?;
        let (code, pause) = match answer {
            Ok(answer) => return Ok(answer),
            Err(None) => return Err(Failure::draining()),
            Err(Some(BackendError::Conflict | BackendError::Refused(Code::BadOrigin, _))) => {
                return Err(Failure::conflict());
            }
            Err(Some(BackendError::Refused(code, sentence))) => return Err(Failure::refused(code, sentence)),
            Err(Some(BackendError::NotNow(Code::StreamBehind, _))) => {
                let told = "the stream has ended without its author";
                return Err(Failure::refused(Code::NoSuchStream, told));
            }
            Err(Some(BackendError::NotNow(code, pause))) => (code, pause),
        };
        let is_soon = matches!(code, Code::Loading | Code::Overloaded) || patience == Patience::Long;
        let pause = pause.max(PAUSE);
        if !is_soon || Instant::now() + pause >= deadline {
            return Err(Failure::not_now(code, "it cannot be written now; nothing was", pause));
        }
        sleep(pause).await;
    }
}

/// The answer to what was written.
fn written(answer: &BackendAnswer, created: StatusCode) -> Result<Response, Failure> {
    #[derive(Serialize)]
    struct Written {
        seq: u64,
    }
    let BackendAnswer::Written { seq, is_repeated } = *answer else { return Err(Failure::internal()) };
    let status = if is_repeated { StatusCode::OK } else { created };
    let mut response = (status, axum::Json(Written { seq })).into_response();
    if is_repeated {
        response.headers_mut().insert("idempotency-replayed", HeaderValue::from_static("true"));
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn api() -> Api {
        let text = "mode: development\nkeys:\n  app:\n    secret: s:3cret\n  other:\n    secret: else\n";
        Api::new(&Config::read(Some((Path::new("t.yaml"), text)), &[], &[]).unwrap())
    }

    #[test]
    fn a_key_and_its_secret_open_the_door_and_nothing_else_does() {
        let api = api();
        let basic = format!("basic {}", BASE64_STANDARD.encode("app:s:3cret"));
        for good in ["Bearer app:s:3cret", "bearer  app:s:3cret", &basic] {
            assert_eq!(api.tenant(good).as_deref(), Some("app"), "{good}");
        }
        for bad in [
            "",
            "Bearer",
            "Bearer app",
            "Bearer app:",
            "Bearer app:s",
            "Bearer app:else",
            "Bearer :",
            "Bearer nobody:",
            "Bearer nobody:s:3cret",
            "Bearer other:s:3cret",
            "Digest app:s:3cret",
            "Basic app:s:3cret",
            "app:s:3cret",
        ] {
            assert_eq!(api.tenant(bad), None, "{bad}");
        }
    }

    #[test]
    fn an_idempotency_key_is_an_origin_of_its_own_in_each_room_of_each_tenant() {
        let api = api();
        let origin = |tenant: &str, room: &str, key: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("idempotency-key", HeaderValue::from_str(key).unwrap());
            api.origin(&RoomKey { tenant: tenant.into(), room: room.into() }, &headers)
        };
        let one = origin("app", "r", "k").unwrap();
        assert_eq!(origin("app", "r", "k").unwrap(), one);
        for other in [origin("other", "r", "k"), origin("app", "rk", "k"), origin("app", "r", "kk")] {
            assert_ne!(other.unwrap(), one);
        }
        assert!(origin("app", "r", &"k".repeat(128)).is_ok());
        for bad in ["", &"k".repeat(129), "a\tb"] {
            assert_eq!(origin("app", "r", bad).unwrap_err().status, StatusCode::BAD_REQUEST, "{bad:?}");
        }
        let key = RoomKey { tenant: "app".into(), room: "r".into() };
        let fresh = || api.origin(&key, &HeaderMap::new()).unwrap();
        assert_ne!(fresh(), fresh());
    }
}
