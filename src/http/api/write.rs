//! Events, one request each. A body is checked here before the room sees it, so that what is malformed uses up no
//! `Idempotency-Key`.

use std::sync::Arc;

use axum::{
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, StatusCode, Uri},
    response::Response,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use switchyard_signaling::{
    event::{Content, EventKind},
    limits,
};

use super::{App, Author, BODY_BYTES, Failure, Patience, Place, act, body, json, query, written};
use crate::room::{
    BackendAct, BackendWrite,
    content::{self, Refusal},
};

/// A message as the backend gives it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Message<'a> {
    #[serde(default)]
    kind: Option<MessageKind>,
    #[serde(default)]
    user: Option<String>,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    parent: Option<u64>,
    #[serde(default)]
    version: u8,
    #[serde(borrow, default)]
    text: Option<&'a RawValue>,
    #[serde(borrow, default)]
    mentions: Option<&'a RawValue>,
    #[serde(borrow, default)]
    code: Option<&'a RawValue>,
    #[serde(borrow, default)]
    annotation: Option<&'a RawValue>,
    #[serde(borrow, default)]
    meta: Option<&'a RawValue>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum MessageKind {
    Chat,
    Comment,
    System,
}

/// The event's body: section 9.7 of the protocol.
#[derive(Serialize)]
struct MessageBody<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mentions: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    annotation: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    meta: Option<&'a RawValue>,
}

impl Message<'_> {
    /// The event that this message is, of `default` kind if it names none.
    fn content(&self, default: EventKind) -> Result<Content, Failure> {
        let kind = match self.kind {
            Some(MessageKind::Chat) => EventKind::Chat,
            Some(MessageKind::Comment) => EventKind::Comment,
            Some(MessageKind::System) => EventKind::System,
            None => default,
        };
        let target = self.parent.unwrap_or(0);
        if kind == EventKind::System && target != 0 {
            return Err(Failure::malformed("a system message has no `parent`; give a `kind`"));
        }
        let Self { text, mentions, code, annotation, meta, .. } = *self;
        let body = MessageBody { text, mentions, code, annotation, meta };
        let body = serde_json::to_vec(&body).map_err(|_| Failure::internal())?;
        Ok(Content { kind, version: self.version, flags: 0, target, body: body.into() })
    }

    /// What is streamed: all but the text.
    pub(super) fn textless(self, place: &Place) -> Result<(Author, Content), Failure> {
        if self.text.is_some() {
            return Err(Failure::malformed(
                "the text of a streamed message comes behind the line with its head",
            ));
        }
        let content = self.content(EventKind::Chat)?;
        if content.kind == EventKind::System {
            return Err(Failure::malformed("a streamed message is a chat or a comment"));
        }
        Ok((Author::new(&place.room, self.user, self.name)?, content))
    }
}

/// Who writes, where the body has no place for it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct By {
    user: Option<String>,
    name: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CustomQuery {
    user: Option<String>,
    name: Option<String>,
    #[serde(default)]
    version: u8,
    #[serde(default)]
    target: u64,
}

/// `POST …/messages`
pub(super) async fn message(
    State(app): State<Arc<App>>,
    place: Place,
    headers: HeaderMap,
    given: Body,
) -> Result<Response, Failure> {
    let given = body(&headers, given, BODY_BYTES).await?;
    let message: Message<'_> = json(&given)?;
    let content = message.content(EventKind::System)?;
    let author = Author::new(&place.room, message.user, message.name)?;
    write(&app, &place, &headers, author, content, StatusCode::CREATED).await
}

/// `PATCH …/messages/{seq}`
pub(super) async fn edit(
    State(app): State<Arc<App>>,
    place: Place,
    headers: HeaderMap,
    given: Body,
) -> Result<Response, Failure> {
    let given = body(&headers, given, BODY_BYTES).await?;
    let message: Message<'_> = json(&given)?;
    if message.kind.is_some() || message.parent.is_some() {
        return Err(Failure::malformed("an edit changes neither `kind` nor `parent`"));
    }
    let content = Content { target: place.seq, ..message.content(EventKind::Edit)? };
    let author = Author::new(&place.room, message.user, message.name)?;
    write(&app, &place, &headers, author, content, StatusCode::OK).await
}

/// `DELETE …/messages/{seq}`
pub(super) async fn delete(
    State(app): State<Arc<App>>,
    place: Place,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, Failure> {
    about(&app, &place, &headers, &uri, EventKind::Delete).await
}

/// `PUT …/messages/{seq}/reactions/{emoji}`
pub(super) async fn react(
    State(app): State<Arc<App>>,
    place: Place,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, Failure> {
    about(&app, &place, &headers, &uri, EventKind::React).await
}

/// `DELETE …/messages/{seq}/reactions/{emoji}`
pub(super) async fn unreact(
    State(app): State<Arc<App>>,
    place: Place,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, Failure> {
    about(&app, &place, &headers, &uri, EventKind::Unreact).await
}

/// `POST …/events`
pub(super) async fn custom(
    State(app): State<Arc<App>>,
    place: Place,
    headers: HeaderMap,
    uri: Uri,
    given: Body,
) -> Result<Response, Failure> {
    let CustomQuery { user, name, version, target } = query(&uri)?;
    let body = body(&headers, given, limits::EVENT_BYTES).await?;
    let content = Content { kind: EventKind::Custom, version, flags: 0, target, body };
    let author = Author::new(&place.room, user, name)?;
    write(&app, &place, &headers, author, content, StatusCode::CREATED).await
}

/// `PATCH …/fields`
pub(super) async fn fields(
    State(app): State<Arc<App>>,
    place: Place,
    headers: HeaderMap,
    uri: Uri,
    given: Body,
) -> Result<Response, Failure> {
    let By { user, name } = query(&uri)?;
    let body = body(&headers, given, limits::EVENT_BYTES).await?;
    let content = Content { kind: EventKind::Fields, version: 0, flags: 0, target: 0, body };
    let author = Author::new(&place.room, user, name)?;
    write(&app, &place, &headers, author, content, StatusCode::OK).await
}

/// What is done to a message and says nothing but an emoji.
async fn about(
    app: &App,
    place: &Place,
    headers: &HeaderMap,
    uri: &Uri,
    kind: EventKind,
) -> Result<Response, Failure> {
    let By { user, name } = query(uri)?;
    let body = Bytes::copy_from_slice(place.emoji.as_bytes());
    let content = Content { kind, version: 0, flags: 0, target: place.seq, body };
    let author = Author::new(&place.room, user, name)?;
    write(app, place, headers, author, content, StatusCode::OK).await
}

async fn write(
    app: &App,
    place: &Place,
    headers: &HeaderMap,
    author: Author,
    content: Content,
    created: StatusCode,
) -> Result<Response, Failure> {
    content::well_formed(&content).map_err(|Refusal(code, sentence)| Failure::refused(code, sentence))?;
    let origin = app.api.origin(&place.room, headers)?;
    let Author { user, name } = author;
    let write = BackendAct::Write(BackendWrite { user, name, origin, nonce: 0, content });
    written(&act(app, &place.room, &write, Patience::Short).await?, created)
}
