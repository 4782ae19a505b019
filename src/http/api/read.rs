//! Pages of messages, the room's fields, and replays of its events (MSG2, MSG5). All of it comes from the store: a room that
//! nobody is in need not be loaded to be read, and one that does not exist is an empty one.

use std::{io::Read as _, sync::Arc};

use axum::{
    body::Body,
    extract::State,
    http::{HeaderValue, Uri, header},
    response::{IntoResponse, Response},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use flate2::read::DeflateDecoder;
use futures_util::stream;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use switchyard_signaling::{
    event::{Event, EventKind, INCOMPLETE, OPAQUE},
    limits,
};
use tokio::sync::OwnedSemaphorePermit;

use super::{App, Failure, Place, permit, query};
use crate::{
    names::RoomKey,
    store::{Entry, Page, PageQuery, StoreError},
};

/// A page that is inflated is not longer than this: bodies of 256 KiB, and what is said of the messages and their reactions.
const PAGE_BYTES: u64 = 16 << 20;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Messages {
    before: Option<u64>,
    limit: Option<usize>,
    parent: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Events {
    from: Option<u64>,
    to: Option<u64>,
}

/// `GET …/messages`
pub(super) async fn messages(
    State(app): State<Arc<App>>,
    place: Place,
    uri: Uri,
) -> Result<Response, Failure> {
    let Messages { before, limit, parent } = query(&uri)?;
    let limit = limit.unwrap_or(limits::SNAPSHOT_MESSAGES).clamp(1, limits::PAGE_MESSAGES);
    let json = page(&app, place.room, (before, limit, parent), false).await?;
    Ok(([(header::CONTENT_TYPE, "application/json")], json).into_response())
}

/// `GET …/fields`
pub(super) async fn fields(State(app): State<Arc<App>>, place: Place) -> Result<Response, Failure> {
    #[derive(Deserialize)]
    struct WithFields<'a> {
        #[serde(borrow)]
        fields: &'a RawValue,
    }
    let json = page(&app, place.room, (None, 1, None), true).await?;
    let WithFields { fields } = serde_json::from_slice(&json).map_err(|_| Failure::internal())?;
    Ok(([(header::CONTENT_TYPE, "application/json")], fields.get().to_owned()).into_response())
}

async fn page(
    app: &App,
    key: RoomKey,
    (before, limit, parent): (Option<u64>, usize, Option<u64>),
    fields: bool,
) -> Result<Bytes, Failure> {
    let query = PageQuery { key, before, up_to: None, limit, parent, fields, prefix: String::new() };
    let Page { encoding, json } = app.shards.page(query).await.map_err(|error| Failure::store(&error))?;
    if encoding == 0 {
        return Ok(json);
    }
    let mut plain = Vec::with_capacity(json.len() * 4);
    let read = DeflateDecoder::new(&json[..]).take(PAGE_BYTES).read_to_end(&mut plain);
    read.map_err(|_| Failure::internal())?;
    Ok(plain.into())
}

/// `GET …/events`
pub(super) async fn events(State(app): State<Arc<App>>, place: Place, uri: Uri) -> Result<Response, Failure> {
    let Events { from, to } = query(&uri)?;
    let permit = permit(&app.api.replays)?;
    let (after, to) = (from.unwrap_or(1).saturating_sub(1), to.unwrap_or(u64::MAX));
    let mut replay = Replay { app, room: place.room, after, to, _permit: permit };
    // An error of the first page can still be told.
    let first = replay.next().await.map_err(|error| Failure::store(&error))?;
    let lines = stream::try_unfold((replay, first), |(mut replay, ready)| async move {
        let Some(lines) = ready else { return Ok::<_, StoreError>(None) };
        let ready = replay.next().await?;
        Ok(Some((lines, (replay, ready))))
    });
    let kind = HeaderValue::from_static("application/x-ndjson");
    Ok(([(header::CONTENT_TYPE, kind)], Body::from_stream(lines)).into_response())
}

/// A replay under way; it is asked for more when the connection has taken what there was.
struct Replay {
    app: Arc<App>,
    room: RoomKey,
    after: u64,
    to: u64,
    _permit: OwnedSemaphorePermit,
}

impl Replay {
    async fn next(&mut self) -> Result<Option<Bytes>, StoreError> {
        if self.after >= self.to {
            return Ok(None);
        }
        let entries = self.app.shards.events(self.room.clone(), self.after, self.to).await?;
        let Some(last) = entries.last() else { return Ok(None) };
        self.after = last.event.seq;
        Ok(Some(lines(&entries).into()))
    }
}

/// An event as a line of JSON.
#[derive(Serialize)]
struct Line<'a> {
    seq: u64,
    at: u64,
    kind: &'static str,
    user: &'a str,
    name: &'a str,
    #[serde(skip_serializing_if = "is_zero")]
    target: u64,
    #[serde(skip_serializing_if = "is_zero")]
    version: u64,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    opaque: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    incomplete: bool,
    /// None if it is empty.
    #[serde(flatten)]
    body: Option<LineBody<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum LineBody<'a> {
    /// It is JSON, and stands there as it was given.
    Body(&'a RawValue),
    /// Of a reaction.
    Emoji(&'a str),
    /// Anything else.
    Base64(String),
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

fn lines(entries: &[Arc<Entry>]) -> Vec<u8> {
    let mut out = Vec::new();
    for entry in entries {
        let start = out.len();
        serde_json::to_writer(&mut out, &line(&entry.event)).expect("a line is JSON, and memory takes it");
        // A body may be JSON of several lines; between its values a space says the same.
        out[start..].iter_mut().filter(|byte| matches!(byte, b'\n' | b'\r')).for_each(|byte| *byte = b' ');
        out.push(b'\n');
    }
    out
}

fn line(event: &Event) -> Line<'_> {
    let content = &event.content;
    let opaque = content.flags & OPAQUE != 0;
    let emoji = || std::str::from_utf8(&content.body).ok().map(LineBody::Emoji);
    let json = || serde_json::from_slice(&content.body).ok().map(LineBody::Body);
    let base64 = || LineBody::Base64(BASE64_STANDARD.encode(&content.body));
    let body = match content.kind {
        EventKind::React | EventKind::Unreact => emoji(),
        _ if opaque => None,
        _ => json(),
    };
    Line {
        seq: event.seq,
        at: event.at,
        kind: content.kind.name(),
        user: &event.user,
        name: &event.name,
        target: content.target,
        version: content.version.into(),
        opaque,
        incomplete: content.flags & INCOMPLETE != 0,
        body: body.or_else(|| (!content.body.is_empty()).then(base64)),
    }
}

#[cfg(test)]
mod tests {
    use switchyard_signaling::event::{Content, Origin};

    use super::*;

    fn event(kind: EventKind, flags: u8, body: &'static [u8]) -> Arc<Entry> {
        let content = Content { kind, version: 0, flags, target: 3, body: Bytes::from_static(body) };
        let (user, name) = ("ann".into(), "Ann".into());
        let event = Event { seq: 9, at: 5, origin: Origin(1), cseq: 1, user, name, content };
        Arc::new(Entry { event, hash: 0, digest: 0 })
    }

    #[test]
    fn an_event_is_one_line_whatever_its_body() {
        let start = r#"{"seq":9,"at":5,"kind":""#;
        let author = r#"","user":"ann","name":"Ann","target":3,"#;
        for (kind, flags, body, said) in [
            (EventKind::Chat, 0, &b"{\"text\":\r\n \"a\\nb\"}"[..], r#""body":{"text":   "a\nb"}"#),
            (EventKind::Chat, 1, b"{}", r#""opaque":true,"base64":"e30=""#),
            (EventKind::Comment, 2, b"{}", r#""incomplete":true,"body":{}"#),
            (EventKind::React, 0, b"5", r#""emoji":"5""#),
            (EventKind::Custom, 0, b"\xff\n", r#""base64":"/wo=""#),
            (EventKind::Custom, 0, b"[1,\n2]", r#""body":[1, 2]"#),
        ] {
            let line = String::from_utf8(lines(&[event(kind, flags, body)])).unwrap();
            assert_eq!(line, format!("{start}{}{author}{said}}}\n", kind.name()));
        }
        let nothing = String::from_utf8(lines(&[event(EventKind::Delete, 0, b"")])).unwrap();
        assert!(nothing.ends_with("\"target\":3}\n"), "{nothing}");
    }
}
