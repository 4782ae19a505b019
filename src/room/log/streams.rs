//! Messages that are being written (MSG6): a text that grows, seen by everybody, and one event at its end.
//!
//! The text is in memory alone; what is durable is the event. An author that comes back after the server was restarted
//! is told to send from the beginning.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use switchyard_signaling::{
    Code,
    event::{Content, EventKind, Origin, Submission},
    limits,
    record::{ServerRecord, Stream},
};

use super::{Author, By, Log, Refusal, Said, content};

/// Streams that one member may have open.
const PER_MEMBER: usize = 4;
/// Streams that the application's backend may have open in a room.
const PER_BACKEND: usize = 16;
/// Streams that a room may have open.
const PER_ROOM: usize = 64;
/// An author that has sent nothing for so long is gone.
const SILENCE: Duration = Duration::from_secs(60);
/// Ended streams that are remembered, so that a late author learns that its stream has ended without it.
const REMEMBERED: usize = 256;

type Name = (Origin, u32);

/// The open streams of a room.
#[derive(Debug, Default)]
pub(super) struct Streams {
    open: BTreeMap<Name, Open>,
    /// Ended by the room.
    given_up: BTreeMap<u64, Name>,
    next: u32,
    ends: u64,
}

#[derive(Debug)]
struct Open {
    stream: u32,
    by: By,
    user: Arc<str>,
    name: Arc<str>,
    content: Content,
    text: String,
    /// Bytes of the text as a JSON string.
    escaped: usize,
    heard: Instant,
    /// Its end is decided, and perhaps not committed.
    is_ending: bool,
}

impl Open {
    fn describe(&self, (origin, key): Name) -> ServerRecord {
        ServerRecord::Stream(Stream {
            stream: self.stream,
            origin,
            key,
            user: self.user.to_string(),
            name: self.name.to_string(),
            content: self.content.clone(),
            text: Bytes::copy_from_slice(self.text.as_bytes()),
        })
    }
}

impl Streams {
    pub(super) fn any(&self) -> bool {
        !self.open.is_empty()
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.open.values().filter(|open| !open.is_ending).map(|open| open.heard + SILENCE).min()
    }

    /// Streams whose author is silent.
    pub(super) fn stale(&self, now: Instant) -> Vec<Name> {
        self.names(|open| open.heard + SILENCE <= now)
    }

    /// Streams of an author.
    pub(super) fn of(&self, by: By) -> Vec<Name> {
        self.names(|open| open.by == by)
    }

    /// Whether there is such a stream, and its end is not decided.
    pub(super) fn is_open(&self, name: Name) -> bool {
        self.open.get(&name).is_some_and(|open| !open.is_ending)
    }

    /// Whether this author has as many streams as it may have.
    fn is_full(&self, by: By) -> bool {
        let is_backend = |open: &Open| matches!(open.by, By::Backend(_));
        self.open.len() >= PER_ROOM
            || match by {
                By::Backend(_) => self.names(is_backend).len() >= PER_BACKEND,
                By::Member(_) | By::Room => self.of(by).len() >= PER_MEMBER,
            }
    }

    fn names(&self, which: impl Fn(&Open) -> bool) -> Vec<Name> {
        let open = self.open.iter().filter(|(_, open)| !open.is_ending && which(open));
        open.map(|(name, _)| *name).collect()
    }

    /// Appends every stream with its text so far, as far as a message holds them.
    pub(super) fn put_open(&self, out: &mut BytesMut) {
        for (name, open) in &self.open {
            if out.len() + open.text.len() + open.content.body.len() + 512 <= limits::LOG_BYTES {
                open.describe(*name).put(out);
            }
        }
    }

    /// The end of this stream is durable.
    pub(super) fn close(&mut self, stream: u32) {
        self.open.retain(|_, open| open.stream != stream);
    }

    /// The end of this stream was not committed.
    pub(super) fn reopen(&mut self, stream: u32, now: Instant) {
        for open in self.open.values_mut().filter(|open| open.stream == stream) {
            (open.is_ending, open.heard) = (false, now);
        }
    }

    fn was_given_up(&self, name: Name) -> bool {
        self.given_up.values().any(|other| *other == name)
    }
}

impl Log {
    /// An author begins a message. Returned is how much of its text is there, if it had been begun before.
    pub(super) fn begin(
        &mut self,
        author: &Author,
        name: Name,
        begin: &Content,
        now: Instant,
    ) -> Result<Option<u32>, Refusal> {
        if let Some(open) = self.streams.open.get_mut(&name) {
            if open.user != author.user || open.is_ending {
                return Ok(None);
            }
            // The author is back, perhaps in another session.
            (open.by, open.heard) = (author.by, now);
            return Ok(Some(open.text.len() as u32));
        }
        let refusal = if !matches!(begin.kind, EventKind::Chat | EventKind::Comment) || begin.flags != 0 {
            Some(Refusal(Code::BadBody, "a streamed message is a chat or a comment, and not opaque"))
        } else if self.streams.was_given_up(name) {
            Some(Refusal(Code::NoSuchStream, "the stream has ended without its author"))
        } else if self.streams.is_full(author.by) {
            Some(Refusal(Code::TooManyStreams, "too many messages are being written"))
        } else {
            let whole = content::with_text(begin, "", true);
            let permissions = author.permissions;
            let checked = match permissions {
                Some(permissions) => content::check(&whole, permissions),
                None => content::well_formed(&whole),
            };
            checked.err()
        };
        if let Some(refusal) = refusal {
            return Err(refusal);
        }
        self.streams.next += 1;
        let open = Open {
            stream: self.streams.next,
            by: author.by,
            user: author.user.clone(),
            name: author.name.clone(),
            content: begin.clone(),
            text: String::new(),
            escaped: 0,
            heard: now,
            is_ending: false,
        };
        let mut message = BytesMut::new();
        open.describe(name).put(&mut message);
        self.streams.open.insert(name, open);
        self.said.push_back(Said::Live(message.freeze()));
        Ok(None)
    }

    /// A piece of its text. Returned is where its author has to go on, if it is elsewhere.
    pub(super) fn part(
        &mut self,
        by: By,
        name: Name,
        offset: u32,
        text: &Bytes,
        now: Instant,
    ) -> Result<Option<u32>, Refusal> {
        let Some(open) = self.streams.open.get_mut(&name).filter(|open| open.by == by) else {
            return Ok(if self.streams.was_given_up(name) { None } else { Some(0) });
        };
        if open.is_ending {
            return Ok(None);
        }
        open.heard = now;
        let have = open.text.len();
        let Ok(text) = std::str::from_utf8(text) else { return Ok(None) };
        // What is known already is passed over.
        let known = have.saturating_sub(offset as usize);
        if offset as usize > have || !text.is_char_boundary(known.min(text.len())) {
            return Ok(Some(have as u32));
        }
        let new = text.get(known..).unwrap_or_default();
        if new.is_empty() {
            return Ok(None);
        }
        let escaped = serde_json::to_string(new).map_or(0, |json| json.len());
        if open.content.body.len() + open.escaped + escaped > limits::STREAM_BYTES {
            return Err(Refusal(Code::TooLarge, "a streamed message has at most 192 KiB"));
        }
        open.escaped += escaped;
        open.text.push_str(new);
        let (stream, text) = (open.stream, Bytes::copy_from_slice(new.as_bytes()));
        let mut message = BytesMut::new();
        ServerRecord::Text { stream, offset: have as u32, text }.put(&mut message);
        self.said.push_back(Said::Live(message.freeze()));
        Ok(None)
    }

    /// What a member is told of its stream.
    pub(super) fn tell_stream(
        &mut self,
        member: u32,
        (origin, key): Name,
        result: Result<Option<u32>, Refusal>,
    ) {
        match result {
            Ok(Some(offset)) => self.answer(member, &ServerRecord::Have { origin, key, offset }),
            Ok(None) => {}
            Err(Refusal(code, sentence)) => self.said.push_back(Said::Refuse(member, 0, code, sentence)),
        }
    }

    /// The author's submission that ends a message: what it becomes. `None` when the text is not whole and the author has
    /// been told so.
    pub(super) fn ended(
        &mut self,
        by: By,
        submission: &Submission,
        now: Instant,
    ) -> Option<Result<(u32, Content), Refusal>> {
        let Submission { origin, cseq, content, .. } = submission;
        let key = key_of(content);
        let name = (*origin, key);
        if self.streams.was_given_up(name) {
            return Some(Err(Refusal(Code::NoSuchStream, "the stream has ended without its author")));
        }
        let length = content.body.first_chunk().map_or(0, |length| u32::from_be_bytes(*length));
        let have = match self.streams.open.get_mut(&name) {
            Some(open) if open.text.len() == length as usize => {
                open.is_ending = true;
                return Some(Ok((open.stream, content::with_text(&open.content, &open.text, true))));
            }
            Some(open) => {
                (open.by, open.heard) = (by, now);
                if open.text.len() > length as usize {
                    let told = "the stream has more text than its end says";
                    return Some(Err(Refusal(Code::BadBody, told)));
                }
                open.text.len() as u32
            }
            None => 0,
        };
        if let By::Member(member) = by {
            self.answer(member, &ServerRecord::Have { origin: *origin, key, offset: have });
        }
        self.expected(by, *origin, *cseq, (Code::StreamBehind, Duration::ZERO), now);
        None
    }

    /// The end of a message that had been written before: what was streamed again is that event.
    pub(super) fn ended_before(&mut self, name: Name, seq: u64) {
        if let Some(Open { stream, .. }) = self.streams.open.remove(&name) {
            let mut message = BytesMut::new();
            ServerRecord::Ended { stream, seq }.put(&mut message);
            self.said.push_back(Said::Live(message.freeze()));
        }
    }

    /// The author is gone: what there is becomes an event that says so, if it is to be kept, or nothing.
    pub(super) fn give_up(&mut self, name: Name, keep: bool, now: Instant) {
        let Some(open) = self.streams.open.get_mut(&name).filter(|open| !open.is_ending) else { return };
        let stream = open.stream;
        let is_ready = matches!(self.phase, super::Phase::Ready);
        let keep = keep && !open.text.is_empty();
        if keep && !is_ready {
            // Nothing can be decided now; it is looked at again.
            (open.by, open.heard) = (By::Room, now);
            return;
        }
        while self.streams.given_up.len() >= REMEMBERED {
            self.streams.given_up.pop_first();
        }
        self.streams.ends += 1;
        self.streams.given_up.insert(self.streams.ends, name);
        if !keep {
            self.streams.open.remove(&name);
            let mut message = BytesMut::new();
            ServerRecord::Ended { stream, seq: 0 }.put(&mut message);
            self.said.push_back(Said::Live(message.freeze()));
            return;
        }
        open.is_ending = true;
        let content = content::with_text(&open.content, &open.text, false);
        let (user, display) = (open.user.clone(), open.name.clone());
        let author = Author { by: By::Room, user, name: display, permissions: None };
        // An origin of its own, so that nobody's numbers are touched.
        let origin = self.fresh_origin();
        let seq = self.append(&author, (origin, 1), 0, content, now);
        self.open.ended.push((stream, seq));
    }
}

/// The stream that an end ends.
pub(super) fn key_of(end: &Content) -> u32 {
    u32::try_from(end.target).unwrap_or(u32::MAX)
}
