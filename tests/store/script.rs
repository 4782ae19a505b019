//! What a room would hand to the store: batches that follow each other.

use std::{io::Read as _, sync::Arc};

use bytes::Bytes;
use flate2::read::DeflateDecoder;
use switchyard::{
    names::RoomKey,
    store::{Batch, Entry, Head, Loaded, OriginMark, Page, PageQuery, Reader, StoreError, Writer},
};
use switchyard_signaling::event::{Content, Event, EventKind, Origin};

/// Some time of the year 2023.
pub(crate) const NOW: u64 = 1_700_000_000_000;

pub(crate) fn key(room: &str) -> RoomKey {
    RoomKey { tenant: "tenant".into(), room: room.into() }
}

/// A room as its sequencer sees it.
pub(crate) struct Script {
    pub(crate) key: RoomKey,
    pub(crate) fence: u64,
    pub(crate) head: Head,
    pub(crate) origin: Origin,
    pub(crate) cseq: u32,
    pub(crate) user: String,
    pub(crate) at: u64,
}

impl Script {
    pub(crate) fn load(writer: &mut dyn Writer, room: &str) -> Self {
        Self::of(key(room), &load(writer, room))
    }

    pub(crate) fn of(key: RoomKey, loaded: &Loaded) -> Self {
        let Loaded { fence, head, .. } = *loaded;
        Self { key, fence, head, origin: Origin(7), cseq: 0, user: "ada".to_owned(), at: NOW }
    }

    /// A batch of these events by one writer.
    pub(crate) fn batch(&mut self, contents: Vec<Content>) -> Batch {
        let expects = self.head;
        let events: Vec<_> = contents.into_iter().map(|content| self.entry(content)).collect();
        Batch {
            key: self.key.clone(),
            fence: self.fence,
            expects,
            head: self.head,
            events,
            refused: Vec::new(),
            origins: vec![self.mark(1)],
        }
    }

    pub(crate) fn mark(&self, base: u32) -> OriginMark {
        let Self { origin, ref user, cseq: last, .. } = *self;
        OriginMark { origin, user: user.as_str().into(), last, base, abandoned: None }
    }

    fn entry(&mut self, content: Content) -> Arc<Entry> {
        self.cseq += 1;
        self.head.seq += 1;
        self.head.digest = self.head.digest.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(!self.head.seq);
        self.at += 1;
        let event = Event {
            seq: self.head.seq,
            at: self.at,
            origin: self.origin,
            cseq: self.cseq,
            user: self.user.clone(),
            name: format!("{} \"L\"", self.user),
            content,
        };
        Arc::new(Entry { hash: u64::MAX - u64::from(self.cseq), digest: self.head.digest, event })
    }

    /// Goes on with another writer.
    pub(crate) fn by(&mut self, user: &str, origin: u64, cseq: u32) -> &mut Self {
        self.user = user.to_owned();
        self.origin = Origin(origin);
        self.cseq = cseq;
        self
    }

    /// Commits one batch, which has to succeed.
    pub(crate) fn commit(&mut self, writer: &mut dyn Writer, contents: Vec<Content>) {
        let batch = self.batch(contents);
        assert_eq!(commit(writer, &[batch]), [Ok(())]);
    }
}

pub(crate) fn load(writer: &mut dyn Writer, room: &str) -> Loaded {
    writer.load(&[key(room)]).unwrap().pop().unwrap()
}

pub(crate) fn commit(writer: &mut dyn Writer, batches: &[Batch]) -> Vec<Result<(), StoreError>> {
    writer.commit_all(batches, NOW)
}

pub(crate) fn content(kind: EventKind, target: u64, body: &[u8]) -> Content {
    Content { kind, version: 0, flags: 0, target, body: Bytes::copy_from_slice(body) }
}

pub(crate) fn chat(text: &str) -> Content {
    content(EventKind::Chat, 0, format!(r#"{{"text":"{text}"}}"#).as_bytes())
}

pub(crate) fn query(room: &str, limit: usize) -> PageQuery {
    PageQuery {
        key: key(room),
        before: None,
        up_to: None,
        limit,
        parent: None,
        fields: false,
        prefix: String::new(),
    }
}

pub(crate) fn page(reader: &mut dyn Reader, query: &PageQuery) -> serde_json::Value {
    serde_json::from_str(&text_of(&reader.page(query).unwrap())).unwrap()
}

pub(crate) fn text_of(page: &Page) -> String {
    match page.encoding {
        0 => String::from_utf8(page.json.to_vec()).unwrap(),
        1 => {
            let mut text = String::new();
            DeflateDecoder::new(&*page.json).read_to_string(&mut text).unwrap();
            text
        }
        encoding => panic!("there is no encoding {encoding}"),
    }
}
