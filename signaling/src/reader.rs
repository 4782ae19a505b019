//! The reading half of a log: section 9.4 of `docs/protocol.md`.
//!
//! A [`Reader`] takes LOG messages as they come and gives out events in the order of the log, each once; where one is
//! missing it says what to pull, and where a snapshot takes the place of events it says so. It never opens a
//! connection, reads a clock, inflates or interprets bodies, and it keeps no event: what came out of it is the
//! application's. Its other half is the server's `src/room/log.rs`; the browser client has the same in `client/src/`,
//! held to the same `vectors/delivery.json`. [`crate::writer`] is the writing half.
//!
//! Order of calls. [`attach`](Reader::attach) when a join with [`position`](Reader::position) has succeeded;
//! [`handle`](Reader::handle) for each LOG message and [`handle_gap`](Reader::handle_gap) for each GAP of the whole
//! room; after each of them, and when [`poll_timeout`](Reader::poll_timeout) is due, [`poll`](Reader::poll).

use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::event::{Event, Position};

/// A pull that was not answered for so long is repeated.
pub const UNANSWERED: Duration = Duration::from_secs(2);
/// A pull behind this `seq`, which no log has, asks for a snapshot. The largest number that every JSON reader keeps.
pub const SNAPSHOT: u64 = (1 << 53) - 1;

/// What of a LOG message concerns a reader, in the message's order.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    /// An entry of the log.
    Event(Event),
    /// The position behind the message's last event.
    Head(Position),
    /// What takes the place of events; inflated and parsed.
    Snapshot(Snapshot),
    /// The message's events answer a `replay`.
    Answer {
        /// The request.
        id: u32,
        /// Whether these are all.
        last: bool,
    },
}

/// What a reader must know of a SNAPSHOT; its messages and fields are for the application.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Snapshot {
    /// `new`, `behind`, `mismatch` or `restored`.
    pub reason: String,
    /// Where the reader is now.
    #[serde(flatten)]
    pub position: Position,
    /// The room's fields.
    #[serde(default)]
    pub fields: serde_json::Map<String, serde_json::Value>,
    /// The newest messages, oldest first.
    #[serde(default)]
    pub messages: Vec<serde_json::Value>,
    /// Whether there are older ones.
    #[serde(default)]
    pub more: bool,
}

/// What the application is told.
#[derive(Clone, Debug, PartialEq)]
pub enum News {
    /// The next event of the log.
    Event(Event),
    /// What was read so far is to be replaced. Unless the reason is `new`, what lies between is not told event by event
    /// (`sync_required`).
    Snapshot(Snapshot),
    /// Events that were asked for, apart from the others.
    Answered {
        /// The request.
        id: u32,
        /// Whether these are all.
        last: bool,
        /// In order.
        events: Vec<Event>,
    },
}

/// What is read of one room's log.
#[derive(Clone, Debug, Default)]
pub struct Reader {
    position: Option<Position>,
    /// The last event that was given out.
    taken: u64,
    is_attached: bool,
    lacks: Option<Lack>,
    /// When the last pull was sent, or the join, as long as that has not been answered.
    asked: Option<Instant>,
}

/// What is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Lack {
    Events,
    /// The log is another one than the reader has read.
    Snapshot,
}

impl Reader {
    /// Goes on behind a position.
    pub fn restore(position: Position) -> Self {
        Self { taken: position.seq, position: Some(position), ..Self::default() }
    }

    /// What a join says in `follow`; none for a new reader.
    pub fn position(&self) -> Option<Position> {
        self.position
    }

    /// The last event that was given out.
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// Whether something is known to be missing, or was asked for and has not come.
    pub fn is_behind(&self) -> bool {
        self.lacks.is_some() || self.asked.is_some()
    }

    /// The join has succeeded: its answer follows.
    pub fn attach(&mut self, now: Instant) {
        (self.is_attached, self.lacks, self.asked) = (true, None, Some(now));
    }

    /// There is no session.
    pub fn detach(&mut self) {
        (self.is_attached, self.lacks, self.asked) = (false, None, None);
    }

    /// Takes a LOG message.
    pub fn handle(&mut self, items: Vec<Item>) -> Vec<News> {
        if let Some(&Item::Answer { id, last }) = items.first() {
            let events = items.into_iter().filter_map(|item| match item {
                Item::Event(event) => Some(event),
                _ => None,
            });
            return vec![News::Answered { id, last, events: events.collect() }];
        }
        if self.is_of_another_log(&items) {
            if self.lacks != Some(Lack::Snapshot) {
                // What was asked before was answered by this, or does not help.
                self.asked = None;
            }
            self.lacks = Some(Lack::Snapshot);
            return Vec::new();
        }
        let (mut news, mut head, mut end) = (Vec::new(), None, None);
        for item in items {
            match item {
                Item::Event(event) => {
                    end = Some(event.seq);
                    if event.seq == self.taken + 1 {
                        self.taken = event.seq;
                        news.push(News::Event(event));
                    } else if event.seq > self.taken {
                        self.lack_events();
                    }
                }
                Item::Head(position) => head = Some(position),
                Item::Snapshot(snapshot) => {
                    self.position = Some(snapshot.position);
                    self.taken = snapshot.position.seq;
                    end = Some(self.taken);
                    (self.lacks, self.asked) = (None, None);
                    news.push(News::Snapshot(snapshot));
                }
                Item::Answer { .. } => {}
            }
        }
        if let Some(position) = head {
            self.take_head(position, end, !news.is_empty());
        }
        news
    }

    /// LOG messages are missing: the server had no room for them. If a pull is under way its answer may be among them, or
    /// take the room that the next answer would not find: that is waited for.
    pub fn handle_gap(&mut self) {
        self.lack_events();
    }

    /// The event behind which to pull now. Each pull must be sent: it is repeated when no answer comes.
    pub fn poll(&mut self, now: Instant) -> Option<u64> {
        let is_due = match self.asked {
            Some(asked) => asked + UNANSWERED <= now,
            None => self.lacks.is_some(),
        };
        if !is_due || !self.is_attached {
            return None;
        }
        self.asked = Some(now);
        // A new reader does not want the whole log one by one.
        let is_snapshot_wanted = self.lacks == Some(Lack::Snapshot) || self.position.is_none();
        Some(if is_snapshot_wanted { SNAPSHOT } else { self.taken })
    }

    /// When [`poll`](Self::poll) may have something that it does not have now.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.asked.filter(|_| self.is_attached).map(|asked| asked + UNANSWERED)
    }

    /// `end` is the last event of the message, if it has any.
    fn take_head(&mut self, position: Position, end: Option<u64>, any_news: bool) {
        // The server says that there is more than it has sent, and sends nothing until it is asked, whatever came else.
        let is_cut = end.is_some_and(|end| end < position.seq);
        if position.seq == self.taken {
            self.position = Some(position);
            self.lacks = None;
        }
        let was_asked = self.asked.is_some();
        if position.seq == self.taken || is_cut && (any_news || position.seq < self.taken) {
            self.asked = None;
        }
        // An answer that ends at its message's end may have more behind it: only one without anything new has not.
        if position.seq > self.taken || is_cut || (position.seq == self.taken && was_asked && any_news) {
            self.lack_events();
        }
    }

    fn lack_events(&mut self) {
        self.lacks = self.lacks.max(Some(Lack::Events));
    }

    /// Whether the end of the message is in another epoch and no snapshot told of it: its numbers mean other events.
    fn is_of_another_log(&self, items: &[Item]) -> bool {
        let epochs = items.iter().filter_map(|item| match item {
            Item::Head(position) => Some(position.epoch),
            _ => None,
        });
        let has_snapshot = items.iter().any(|item| matches!(item, Item::Snapshot(_)));
        let own = self.position.map(|position| position.epoch);
        !has_snapshot && own.is_some_and(|own| epochs.into_iter().any(|epoch| epoch != own))
    }
}
