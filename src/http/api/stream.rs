//! A message that grows while it is being written (MSG6): the request's body is a line of JSON, the message without its
//! text, and behind it the text, in pieces as they come. Followers of the room see each; at the end of the body the
//! message is committed and its `seq` returned.
//!
//! The work is a task of its own: a connection that breaks ends the request, and the stream still has to be given up.

use std::{sync::Arc, time::Duration};

use axum::{
    body::{Body, BodyDataStream, Bytes},
    extract::State,
    http::{HeaderMap, StatusCode},
    response::Response,
};
use bytes::BytesMut;
use futures_util::StreamExt as _;
use ring::digest::{Context, SHA256};
use switchyard_signaling::{
    Code,
    event::{Content, EventKind, Origin},
    limits,
};
use tokio::time::{Instant, timeout, timeout_at};

use super::{App, Author, BODY_BYTES, Failure, Patience, Place, act, json, permit, write::Message, written};
use crate::{
    names::RoomKey,
    room::{BackendAct, BackendAnswer, BackendStream, BackendWrite},
};

/// For the first line to come.
const HEAD: Duration = Duration::from_secs(10);
/// A body of which nothing more comes for so long has been given up by its author.
const SILENCE: Duration = Duration::from_secs(60);
/// From the first line to the end.
const LONGEST: Duration = Duration::from_secs(3600);
/// What comes within this time is passed on together.
const TICK: Duration = Duration::from_millis(20);
/// Or as soon as it has so many bytes.
const PART_BYTES: usize = 16 * 1024;

/// `POST …/streams`
pub(super) async fn stream(
    State(app): State<Arc<App>>,
    place: Place,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Failure> {
    let permit = permit(&app.api.streams)?;
    let origin = app.api.origin(&place.room, &headers)?;
    let writing = async move {
        let _permit = permit;
        write(&app, place, origin, Input::new(body)).await
    };
    tokio::spawn(writing).await.unwrap_or_else(|_| Err(Failure::internal()))
}

async fn write(app: &App, place: Place, origin: Origin, mut input: Input) -> Result<Response, Failure> {
    let late = |_| Failure::refused(Code::Timeout, "the line with the message's head did not come in time");
    let head = timeout(HEAD, input.head()).await.map_err(late)??;
    let message: Message<'_> = json(&head)?;
    let (Author { user, name }, content) = message.textless(&place)?;
    let mut says = Context::new(&SHA256);
    says.update(&[content.kind as u8, content.version]);
    says.update(&content.target.to_be_bytes());
    says.update(&content.body);
    let begin = BackendWrite { user, name, origin, nonce: 0, content };
    let room = place.room;
    let stream = match act(app, &room, &BackendAct::Begin(begin.clone()), Patience::Short).await? {
        BackendAnswer::Begun(stream) => Some(stream),
        // It is compared with what was written, and shown to nobody a second time.
        _ => None,
    };
    let mut text = Text { app, room: &room, stream, says, sent: 0, waiting: String::new() };
    let result = match text.copy(&mut input).await {
        Ok(()) if text.sent == 0 => Err(Failure::refused(Code::BadBody, "there is no text behind the head")),
        Ok(()) => end(app, &room, begin, text).await,
        Err(failure) => Err(failure),
    };
    if let (Err(failure), Some(stream)) = (&result, stream) {
        tracing::debug!(room = %room.room, code = failure.code, "a streamed message is given up");
        // Another message was written under the same key: this one is none.
        let keep = failure.status != StatusCode::UNPROCESSABLE_ENTITY;
        // Should that not reach the room either, the room gives it up when it has been silent.
        let _ = act(app, &room, &BackendAct::GiveUp { stream, keep }, Patience::Short).await;
    }
    result
}

async fn end(app: &App, room: &RoomKey, begin: BackendWrite, text: Text<'_>) -> Result<Response, Failure> {
    let nonce = text.says.finish().as_ref().first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes));
    let target = text.stream.map_or(0, |stream| stream.key.into());
    let body = Bytes::copy_from_slice(&text.sent.to_be_bytes());
    let content = Content { kind: EventKind::End, version: 0, flags: 0, target, body };
    let end = BackendAct::Write(BackendWrite { nonce, content, ..begin });
    written(&act(app, room, &end, Patience::Long).await?, StatusCode::CREATED)
}

/// The text on its way from the body to the room.
struct Text<'a> {
    app: &'a App,
    room: &'a RoomKey,
    /// None: it has been written already.
    stream: Option<BackendStream>,
    /// Sums up what the message says.
    says: Context,
    sent: u32,
    waiting: String,
}

impl Text<'_> {
    /// Until the body ends.
    async fn copy(&mut self, input: &mut Input) -> Result<(), Failure> {
        let mut draining = self.app.draining.subscribe();
        let end = Instant::now() + LONGEST;
        let (mut heard, mut passed_on) = (Instant::now(), None::<Instant>);
        loop {
            let tick = passed_on.map_or(heard, |at| at + TICK);
            let until = if self.waiting.is_empty() { (heard + SILENCE).min(end) } else { tick };
            let read = tokio::select! {
                _ = draining.wait_for(|is_draining| *is_draining) => Err(Failure::draining()),
                read = timeout_at(until, input.text()) => match read {
                    Ok(read) => read,
                    Err(_) if !self.waiting.is_empty() => Ok(Some(String::new())),
                    Err(_) => Err(Failure::refused(Code::Timeout, "nothing more came for too long")),
                },
            };
            if let Ok(Some(text)) = &read
                && !text.is_empty()
            {
                heard = Instant::now();
                self.waiting.push_str(text);
            }
            let is_over = !matches!(read, Ok(Some(_)));
            let is_due = self.waiting.len() >= PART_BYTES || tick <= Instant::now();
            if !self.waiting.is_empty() && (is_over || is_due) {
                self.pass_on().await?;
                passed_on = Some(Instant::now());
            }
            if read?.is_none() {
                return Ok(());
            }
        }
    }

    async fn pass_on(&mut self) -> Result<(), Failure> {
        let text = Bytes::from(std::mem::take(&mut self.waiting));
        if self.sent as usize + text.len() > limits::STREAM_BYTES {
            return Err(Failure::refused(Code::TooLarge, "a streamed message has at most 192 KiB"));
        }
        self.says.update(&text);
        let offset = self.sent;
        self.sent += text.len() as u32;
        if let Some(stream) = self.stream {
            act(self.app, self.room, &BackendAct::Part { stream, offset, text }, Patience::Long).await?;
        }
        Ok(())
    }
}

/// The request's body: a line, then text that is cut anywhere.
struct Input {
    body: BodyDataStream,
    /// Behind the line, or the beginning of a character.
    rest: BytesMut,
}

impl Input {
    fn new(body: Body) -> Self {
        Self { body: body.into_data_stream(), rest: BytesMut::new() }
    }

    async fn head(&mut self) -> Result<BytesMut, Failure> {
        let mut searched = 0;
        loop {
            if let Some(length) = self.rest[searched..].iter().position(|byte| *byte == b'\n') {
                let mut head = self.rest.split_to(searched + length + 1);
                head.truncate(searched + length);
                return Ok(head);
            }
            searched = self.rest.len();
            if searched > BODY_BYTES {
                return Err(Failure::refused(Code::TooLarge, "the line with the message's head is too long"));
            }
            let Some(bytes) = self.next().await? else {
                let told = "the body is a line of JSON, and the text behind it";
                return Err(Failure::malformed(told));
            };
            self.rest.extend_from_slice(&bytes);
        }
    }

    /// More of the text, perhaps nothing yet; `None` at its end. What it has read is not lost when it is dropped.
    async fn text(&mut self) -> Result<Option<String>, Failure> {
        let no_text = || Failure::refused(Code::BadBody, "the text is not UTF-8");
        if !self.rest.is_empty()
            && let Some(text) = self.characters()?
        {
            return Ok(Some(text));
        }
        match self.next().await? {
            Some(bytes) => {
                self.rest.extend_from_slice(&bytes);
                Ok(Some(self.characters()?.unwrap_or_default()))
            }
            None if self.rest.is_empty() => Ok(None),
            None => Err(no_text()),
        }
    }

    /// The whole characters that are there.
    fn characters(&mut self) -> Result<Option<String>, Failure> {
        let length = match std::str::from_utf8(&self.rest) {
            Ok(text) => text.len(),
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            Err(_) => return Err(Failure::refused(Code::BadBody, "the text is not UTF-8")),
        };
        let text = String::from_utf8_lossy(&self.rest.split_to(length)).into_owned();
        Ok(if text.is_empty() { None } else { Some(text) })
    }

    async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        let broken = |_| Failure::malformed("the body ended before its end");
        self.body.next().await.transpose().map_err(broken)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    fn input(pieces: &'static [&'static [u8]]) -> Input {
        let pieces = futures_util::stream::iter(
            pieces.iter().map(|piece| Ok::<_, Infallible>(Bytes::from_static(piece))),
        );
        Input::new(Body::from_stream(pieces))
    }

    async fn texts(input: &mut Input) -> (Vec<String>, Option<&'static str>) {
        let mut texts = Vec::new();
        loop {
            match input.text().await {
                Ok(Some(text)) => texts.push(text),
                Ok(None) => return (texts, None),
                Err(failure) => return (texts, Some(failure.code)),
            }
        }
    }

    #[tokio::test]
    async fn the_head_is_a_line_and_the_text_is_cut_between_characters_wherever_the_body_is() {
        let mut whole = input(&[b"{}", b"\nso ", b"gro\xc3", b"\x9f", b"\xf0\x9f", b"\x91", b"\x8d!\n"]);
        assert_eq!(&whole.head().await.unwrap()[..], b"{}");
        let (texts, end) = texts(&mut whole).await;
        assert_eq!((texts.concat().as_str(), end), ("so groß👍!\n", None));
    }

    #[tokio::test]
    async fn what_is_not_utf8_or_ends_within_a_character_is_no_text() {
        const CASES: [&[&[u8]]; 3] = [&[b"{}\nab\xffcd"], &[b"{}\nab\xc3", b""], &[b"{}\nab\xc3", b"\xc3"]];
        for pieces in CASES {
            let mut input = input(pieces);
            input.head().await.unwrap();
            assert_eq!(texts(&mut input).await.1, Some("bad_body"), "{pieces:?}");
        }
    }

    #[tokio::test]
    async fn a_head_without_end_is_not_read_for_ever() {
        assert_eq!(input(&[b"{}"]).head().await.unwrap_err().code, "malformed");
        const LONG: &[u8] = &[b' '; 40_000];
        let mut long = input(&[LONG, LONG, LONG]);
        assert_eq!(long.head().await.unwrap_err().code, "too_large");
    }
}
