//! STUN and TURN for a user's own peer connections: the list that sessions get, for an application that hands it on itself.

use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::{Extension, State},
    http::{HeaderMap, header},
    response::{IntoResponse as _, Response},
};
use serde::{Deserialize, Serialize};
use switchyard_signaling::message::IceServer;

use super::{App, Authenticated, BODY_BYTES, Failure, body, is_name, json};
use crate::http::unix_now;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    user: String,
}

#[derive(Debug, Serialize)]
struct Told {
    ice_servers: Vec<IceServer>,
    ttl_s: u64,
}

/// `POST /v1/ice-servers`
pub(super) async fn ice_servers(
    State(app): State<Arc<App>>,
    Extension(Authenticated(tenant)): Extension<Authenticated>,
    headers: HeaderMap,
    given: Body,
) -> Result<Response, Failure> {
    let Wanted { user } = json(&body(&headers, given, BODY_BYTES).await?)?;
    if !is_name(&user) {
        return Err(Failure::malformed("`user` has 1 to 128 bytes and no control characters"));
    }
    let told = match app.shards.ice_servers() {
        Some(servers) => Told {
            ice_servers: servers.of_user(&tenant, &user, unix_now()).ice_servers,
            ttl_s: servers.ttl().as_secs(),
        },
        None => Told { ice_servers: Vec::new(), ttl_s: 0 },
    };
    // It holds a password.
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(told)).into_response())
}
