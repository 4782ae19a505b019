//! The opening handshake of a WebSocket (RFC 6455 §4.2), and the connection beneath it when HTTP has done with it.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

use super::problem;
use crate::io::{Wire, WireIo};

/// Of every WebSocket (§1.3).
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// A connection that becomes a WebSocket when the client has been told so.
#[derive(Debug)]
pub(super) struct Upgrade(OnUpgrade);

/// Accepts, with one subprotocol for those who offer it; `Err` is the answer to a request that asks for no WebSocket.
pub(super) fn accept(
    request: &mut Request,
    subprotocol: &'static str,
) -> Result<(Response<Body>, Upgrade), Box<Response<Body>>> {
    let headers = request.headers();
    let asks = request.method() == Method::GET
        && lists(headers, &header::CONNECTION, "upgrade")
        && lists(headers, &header::UPGRADE, "websocket");
    let version = headers.get(header::SEC_WEBSOCKET_VERSION).is_some_and(|version| version == "13");
    if !asks || !version {
        let sentence = "this is a WebSocket: ask for an upgrade to one, of version 13";
        let mut answer = problem(StatusCode::UPGRADE_REQUIRED, "upgrade_required", sentence);
        answer.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        answer.headers_mut().insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        return Err(answer.into());
    }
    let refused = |sentence| Box::new(problem(StatusCode::BAD_REQUEST, "bad_request", sentence));
    let key =
        headers.get(header::SEC_WEBSOCKET_KEY).ok_or_else(|| refused("Sec-WebSocket-Key is missing"))?;
    let accept = HeaderValue::try_from(accept_key(key.as_bytes())).expect("base64 is good for a header");
    let offers = lists(headers, &header::SEC_WEBSOCKET_PROTOCOL, subprotocol);
    let upgrade = request.extensions_mut().remove::<OnUpgrade>();
    let upgrade = upgrade.ok_or_else(|| refused("this connection cannot be upgraded"))?;
    let mut answer = Response::new(Body::empty());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = answer.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    if offers {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(subprotocol));
    }
    Ok((answer, Upgrade(upgrade)))
}

impl Upgrade {
    /// The connection, and what has been read from it already; `None` if it broke.
    pub(super) async fn done(self) -> Option<(Arc<Wire>, Bytes)> {
        let parts = self.0.await.ok()?.downcast::<TokioIo<WireIo>>().ok()?;
        Some((parts.io.into_inner().into_wire(), parts.read_buf))
    }
}

/// Whether a header that is a list has this word, in any case.
fn lists(headers: &HeaderMap, name: &header::HeaderName, word: &str) -> bool {
    let words = headers.get_all(name).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    words.map(<[u8]>::trim_ascii).any(|found| found.eq_ignore_ascii_case(word.as_bytes()))
}

/// Proves that the request was understood (§4.2.2).
fn accept_key(key: &[u8]) -> String {
    BASE64_STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key, GUID.as_bytes()].concat()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_answered_as_in_the_rfc() {
        assert_eq!(accept_key(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn words_are_found_in_any_case_and_place() {
        let mut headers = HeaderMap::new();
        headers.append(header::CONNECTION, HeaderValue::from_static("keep-alive, Upgrade"));
        headers.append(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("other"));
        headers.append(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("switchyard.v1"));
        assert!(lists(&headers, &header::CONNECTION, "upgrade"));
        assert!(lists(&headers, &header::SEC_WEBSOCKET_PROTOCOL, "switchyard.v1"));
        assert!(!lists(&headers, &header::SEC_WEBSOCKET_PROTOCOL, "switchyard"));
        assert!(!lists(&headers, &header::UPGRADE, "websocket"));
    }

    #[test]
    fn what_asks_for_no_websocket_is_told_how_to() {
        let mut request = Request::new(Body::empty());
        let answer = accept(&mut request, "switchyard.v1").unwrap_err();
        assert_eq!(answer.status(), StatusCode::UPGRADE_REQUIRED);
        assert_eq!(answer.headers()[header::SEC_WEBSOCKET_VERSION], "13");
    }
}
