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

    /// Streams of a member.
    pub(super) fn of_member(&self, member: u32) -> Vec<Name> {
        self.names(|open| open.by == By::Member(member))
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
    /// An author begins a message.
    pub(super) fn begin(&mut self, member: u32, author: &Author, name: Name, begin: &Content, now: Instant) {
        let (origin, key) = name;
        if let Some(open) = self.streams.open.get_mut(&name) {
            if open.user == author.user && !open.is_ending {
                // The author is back, perhaps in another session.
                (open.by, open.heard) = (author.by, now);
                let offset = open.text.len() as u32;
                self.answer(member, &ServerRecord::Have { origin, key, offset });
            }
            return;
        }
        let refusal = if !matches!(begin.kind, EventKind::Chat | EventKind::Comment) || begin.flags != 0 {
            Some(Refusal(Code::BadBody, "a streamed message is a chat or a comment, and not opaque"))
        } else if self.streams.was_given_up(name) {
            Some(Refusal(Code::NoSuchStream, "the stream has ended without its author"))
        } else if self.streams.of_member(member).len() >= PER_MEMBER || self.streams.open.len() >= PER_ROOM {
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
        if let Some(Refusal(code, sentence)) = refusal {
            self.said.push_back(Said::Refuse(member, 0, code, sentence));
            return;
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
    }

    /// A piece of its text.
    pub(super) fn part(&mut self, member: u32, name: Name, offset: u32, text: &Bytes, now: Instant) {
        let (origin, key) = name;
        let Some(open) = self.streams.open.get_mut(&name).filter(|open| open.by == By::Member(member)) else {
            if !self.streams.was_given_up(name) {
                self.answer(member, &ServerRecord::Have { origin, key, offset: 0 });
            }
            return;
        };
        if open.is_ending {
            return;
        }
        open.heard = now;
        let have = open.text.len();
        let Ok(text) = std::str::from_utf8(text) else { return };
        // What is known already is passed over.
        let known = have.saturating_sub(offset as usize);
        if offset as usize > have || !text.is_char_boundary(known.min(text.len())) {
            self.answer(member, &ServerRecord::Have { origin, key, offset: have as u32 });
            return;
        }
        let new = text.get(known..).unwrap_or_default();
        if new.is_empty() {
            return;
        }
        let escaped = serde_json::to_string(new).map_or(0, |json| json.len());
        if open.content.body.len() + open.escaped + escaped > limits::STREAM_BYTES {
            let told = "a streamed message has at most 192 KiB";
            self.said.push_back(Said::Refuse(member, 0, Code::TooLarge, told));
            return;
        }
        open.escaped += escaped;
        open.text.push_str(new);
        let (stream, text) = (open.stream, Bytes::copy_from_slice(new.as_bytes()));
        let mut message = BytesMut::new();
        ServerRecord::Text { stream, offset: have as u32, text }.put(&mut message);
        self.said.push_back(Said::Live(message.freeze()));
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
        let key = u32::try_from(content.target).unwrap_or(u32::MAX);
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

    /// The author is gone: what there is becomes an event that says so, or nothing.
    pub(super) fn give_up(&mut self, name: Name, now: Instant) {
        let Some(open) = self.streams.open.get_mut(&name) else { return };
        let stream = open.stream;
        let is_ready = matches!(self.phase, super::Phase::Ready);
        if !open.text.is_empty() && !is_ready {
            // Nothing can be decided now; it is looked at again.
            (open.by, open.heard) = (By::Room, now);
            return;
        }
        while self.streams.given_up.len() >= REMEMBERED {
            self.streams.given_up.pop_first();
        }
        self.streams.ends += 1;
        self.streams.given_up.insert(self.streams.ends, name);
        if open.text.is_empty() {
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
