//! Who reads the log, and from where (section 9.4 of the protocol).
//!
//! A follower waits until its position has been compared with the log, is live, or is behind: a live one gets what is
//! committed as it is committed, one that is behind pulls until it has reached the end. What is too far away is a
//! snapshot.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use switchyard_signaling::{
    Code,
    event::{Position, to_hex},
    limits,
    message::Follow,
    reader::SNAPSHOT,
    record::{self, Json, ServerRecord},
};

use super::{Asked as AskedOfStore, Log, LogTally, Phase, Said};
use crate::store::{Answer, Entry, Head, Page, PageQuery, Request};

/// Bytes of events in one answer to a reader; the rest of a LOG message is for what goes with them.
const ANSWER_BYTES: usize = limits::LOG_BYTES - 8 * 1024;
/// A follower for whom the store had no answer is served again after this time.
const RETRY: Duration = Duration::from_secs(1);
/// Questions to the store that one member may have open.
const OPEN: usize = 4;

/// A member that reads.
#[derive(Debug)]
pub(super) struct Follower {
    state: State,
    /// It has never shown a position.
    is_new: bool,
    /// History, replays.
    open: usize,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// Where it stands is to be found out.
    New(Follow),
    /// The store is asked for what it needs.
    Asking,
    /// The store had no answer.
    Retry(Follow, Instant),
    /// It gets what is committed.
    Live,
    /// It pulls.
    Behind,
    /// It has pulled behind this event, and the store had no answer.
    Later(u64, Instant),
}

/// What the store was asked for, and what it is needed for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Asked {
    /// The digest at a position.
    Digest(u32, Position),
    /// The page of a snapshot as of this end of the log.
    Snapshot(u32, &'static str, Head),
    /// Events behind a position, from a log of this epoch.
    Events(u32, u64, u32),
    /// A page of history.
    Page(u32, u32),
    /// A span.
    Replay { member: u32, id: u32, to: u64 },
}

impl Log {
    /// A member wants the log.
    pub(in crate::room) fn follow(&mut self, member: u32, follow: Follow, now: Instant) {
        let open = self.followers.get(&member).map_or(0, |follower| follower.open);
        let is_new = matches!(follow, Follow::New);
        self.followers.insert(member, Follower { state: State::New(follow), is_new, open });
        if matches!(self.phase, Phase::Failed { .. }) {
            let code = Code::StorageUnavailable.as_str().to_owned();
            self.answer(member, &ServerRecord::Status(Some(code)));
        }
        self.begin_following(member, now);
        self.finish(now);
    }

    /// A follower wants what is behind `after`.
    pub(in crate::room) fn pull(&mut self, member: u32, after: u64, now: Instant) {
        let Some(follower) = self.followers.get_mut(&member) else { return };
        // What is on its way to it answers this too.
        if matches!(follower.state, State::Live | State::Behind | State::Later(..)) {
            follower.state = State::Behind;
            follower.is_new &= after == SNAPSHOT;
            if matches!(self.phase, Phase::Failed { .. }) && self.fence == 0 {
                follower.state = State::Later(after, now + RETRY);
                return;
            }
            self.catch_up(member, after, now);
        }
        self.finish(now);
    }

    /// A page of messages.
    pub(in crate::room) fn history(
        &mut self,
        (member, id): (u32, u32),
        (before, limit, parent): (Option<u64>, Option<usize>, Option<u64>),
    ) {
        if !self.opens(member, id) {
            return;
        }
        let limit = limit.unwrap_or(limits::SNAPSHOT_MESSAGES).clamp(1, limits::PAGE_MESSAGES);
        let key = self.key.clone();
        let query =
            PageQuery { key, before, up_to: None, limit, parent, fields: false, prefix: String::new() };
        self.ask(AskedOfStore::Follow(Asked::Page(member, id)), Request::Page(query));
    }

    /// A span of events (MSG5).
    pub(in crate::room) fn replay(
        &mut self,
        (member, id): (u32, u32),
        (from, to): (u64, Option<u64>),
        now: Instant,
    ) {
        if !self.opens(member, id) {
            return;
        }
        // What is not durable is not shown to anybody.
        let to = to.unwrap_or(u64::MAX).min(self.head.seq);
        let after = from.saturating_sub(1);
        let asked = Asked::Replay { member, id, to };
        if after >= to {
            self.follow_answered(asked, Answer::Events(Ok(Vec::new())), now);
            return self.finish(now);
        }
        let request = Request::Events { key: self.key.clone(), after, to, bytes: ANSWER_BYTES };
        self.ask(AskedOfStore::Follow(asked), request);
    }

    fn opens(&mut self, member: u32, id: u32) -> bool {
        let Some(follower) = self.followers.get_mut(&member) else {
            self.said.push_back(Said::Refuse(
                member,
                id,
                Code::NotFollowing,
                "the join did not ask for the log",
            ));
            return false;
        };
        if follower.open >= OPEN {
            let told = "too many questions at once; wait for the answers";
            self.said.push_back(Said::Refuse(member, id, Code::Overloaded, told));
            return false;
        }
        follower.open += 1;
        true
    }

    pub(in crate::room) fn is_live(&self, member: u32) -> bool {
        self.followers.get(&member).is_some_and(|follower| matches!(follower.state, State::Live))
    }

    /// Who gets what is committed.
    pub(in crate::room) fn live(&self) -> impl Iterator<Item = u32> {
        let live = self.followers.iter().filter(|(_, follower)| matches!(follower.state, State::Live));
        live.map(|(member, _)| *member)
    }

    /// The log has been loaded: who has been waiting for it is served.
    pub(super) fn follow_loaded(&mut self, now: Instant) {
        for member in self.followers.keys().copied().collect::<Vec<_>>() {
            self.begin_following(member, now);
        }
    }

    pub(super) fn retry_followers_at(&self) -> Option<Instant> {
        let due = |follower: &Follower| match follower.state {
            State::Retry(_, at) | State::Later(_, at) => Some(at),
            _ => None,
        };
        self.followers.values().filter_map(due).min()
    }

    pub(super) fn retry_followers(&mut self, now: Instant) {
        for member in self.followers.keys().copied().collect::<Vec<_>>() {
            let Some(follower) = self.followers.get_mut(&member) else { continue };
            if let State::Retry(follow, at) = follower.state
                && at <= now
            {
                follower.state = State::New(follow);
                self.begin_following(member, now);
            } else if let State::Later(after, at) = follower.state
                && at <= now
            {
                follower.state = State::Behind;
                self.catch_up(member, after, now);
            }
        }
    }

    /// The log is another one than before: everybody begins anew.
    pub(super) fn resync(&mut self, reason: &'static str, now: Instant) {
        for member in self.followers.keys().copied().collect::<Vec<_>>() {
            self.snapshot(member, reason, now);
        }
    }

    /// The log is longer than was known: `new` is what is known of that, perhaps not all.
    pub(super) fn go_on(&mut self, before: Head, new: Vec<Arc<Entry>>) {
        if before.seq == self.head.seq {
            return;
        }
        let is_whole = new.first().is_some_and(|entry| entry.event.seq == before.seq + 1);
        let mut message = BytesMut::new();
        if is_whole && new.iter().map(|entry| record::event_len(&entry.event)).sum::<usize>() <= ANSWER_BYTES
        {
            new.iter().for_each(|entry| record::put_event(&mut message, &entry.event));
            new.into_iter().for_each(|entry| self.keep(entry));
            self.put_head(self.head, &mut message);
            self.said.push_back(Said::Live(message.freeze()));
            return;
        }
        (self.recent, self.recent_bytes) = (VecDeque::new(), 0);
        new.into_iter().for_each(|entry| self.keep(entry));
        for member in self.live().collect::<Vec<_>>() {
            self.send(member, BytesMut::new());
        }
    }

    fn begin_following(&mut self, member: u32, now: Instant) {
        if !matches!(self.phase, Phase::Ready) {
            return;
        }
        let Some(Follower { state: State::New(follow), .. }) = self.followers.get(&member) else { return };
        let follow = *follow;
        let Follow::From(position) = follow else { return self.snapshot(member, "new", now) };
        let Head { epoch, seq, digest } = self.head;
        let claims = Head { epoch: position.epoch, seq: position.seq, digest: position.digest };
        let is_ahead = (position.epoch, position.seq) > (epoch, seq) && position.epoch >= epoch;
        if is_ahead {
            // The end of the log is lost: whoever has read it must not take other events for those.
            if position.proof == self.proof_key.proof(&self.key, claims) {
                tracing::warn!(
                    room = %self.key.room, tenant = %self.key.tenant, seen = position.seq, have = seq,
                    "the log has lost its end: was a backup restored?"
                );
                self.phase = Phase::Raising;
                return;
            }
            return self.snapshot(member, "mismatch", now);
        }
        #[cfg(feature = "plants")]
        if self.plant == Some(crate::room::Plant::DigestUnchecked) {
            return self.catch_up(member, position.seq, now);
        }
        if position.epoch < epoch {
            return self.snapshot(member, "restored", now);
        }
        let known = if position.seq == seq {
            Some(digest)
        } else if position.seq == 0 {
            Some(0)
        } else {
            self.recent_from(position.seq).and_then(|mut entries| entries.next()).map(|entry| entry.digest)
        };
        match known {
            Some(known) if known == position.digest => self.catch_up(member, position.seq, now),
            Some(_) => self.snapshot(member, "mismatch", now),
            None if self.is_too_far(position.seq) => self.snapshot(member, "behind", now),
            None => {
                let asked = AskedOfStore::Follow(Asked::Digest(member, position));
                self.ask(asked, Request::Digest(self.key.clone(), position.seq));
                self.set(member, State::Asking);
            }
        }
    }

    fn is_too_far(&self, after: u64) -> bool {
        after + 1 < self.first || self.head.seq.saturating_sub(after) > self.settings.resync_events
    }

    /// Committed events in memory from `seq` on, if that one is there.
    fn recent_from(&self, seq: u64) -> Option<impl Iterator<Item = &Arc<Entry>>> {
        let first = self.recent.front()?.event.seq;
        let skipped = usize::try_from(seq.checked_sub(first)?).ok()?;
        (skipped < self.recent.len()).then(|| self.recent.iter().skip(skipped))
    }

    /// Brings a follower from `after` towards the end.
    fn catch_up(&mut self, member: u32, after: u64, now: Instant) {
        if after > self.head.seq {
            let is_new = self.followers.get(&member).is_some_and(|follower| follower.is_new);
            return self.snapshot(member, if is_new { "new" } else { "mismatch" }, now);
        }
        if after == self.head.seq {
            return self.arrive(member, BytesMut::new(), self.head);
        }
        if self.is_too_far(after) {
            return self.snapshot(member, "behind", now);
        }
        if self.recent_from(after + 1).is_some() {
            let before = Head { seq: after, ..self.head };
            return self.catch_up_from_memory(member, before, BytesMut::new());
        }
        let asked = AskedOfStore::Follow(Asked::Events(member, after, self.head.epoch));
        let (key, to) = (self.key.clone(), self.head.seq);
        self.ask(asked, Request::Events { key, after, to, bytes: ANSWER_BYTES });
        self.set(member, State::Asking);
    }

    /// Sends what fits behind what the message has already.
    fn catch_up_from_memory(&mut self, member: u32, before: Head, mut message: BytesMut) {
        let mut head = before;
        let mut is_whole = true;
        for entry in self.recent_from(before.seq + 1).into_iter().flatten() {
            if !message.is_empty() && message.len() + record::event_len(&entry.event) > ANSWER_BYTES {
                is_whole = false;
                break;
            }
            record::put_event(&mut message, &entry.event);
            head = Head { seq: entry.event.seq, digest: entry.digest, ..self.head };
        }
        if is_whole { self.arrive(member, message, head) } else { self.send(member, message) }
    }

    /// The follower has everything: from now on it gets what is committed.
    fn arrive(&mut self, member: u32, mut message: BytesMut, head: Head) {
        self.put_head(head, &mut message);
        self.streams.put_open(&mut message);
        self.say_answers();
        self.said.push_back(Said::To(member, message.freeze()));
        self.set(member, State::Live);
    }

    /// There is more: the follower sees from the position, which is beyond what it has got, that it has to pull.
    fn send(&mut self, member: u32, mut message: BytesMut) {
        self.put_head(self.head, &mut message);
        self.said.push_back(Said::To(member, message.freeze()));
        self.set(member, State::Behind);
    }

    fn snapshot(&mut self, member: u32, reason: &'static str, _now: Instant) {
        self.said.push_back(Said::Count(LogTally::Snapshot(reason)));
        let Position { epoch, seq, digest, proof } = self.position(self.head);
        let prefix = format!(
            r#""reason":"{reason}","epoch":{epoch},"seq":{seq},"digest":"{}","proof":"{}","#,
            to_hex(digest),
            to_hex(proof)
        );
        let query = PageQuery {
            key: self.key.clone(),
            before: None,
            up_to: Some(seq),
            limit: limits::SNAPSHOT_MESSAGES,
            parent: None,
            fields: true,
            prefix,
        };
        self.ask(AskedOfStore::Follow(Asked::Snapshot(member, reason, self.head)), Request::Page(query));
        self.set(member, State::Asking);
    }

    fn set(&mut self, member: u32, state: State) {
        if let Some(follower) = self.followers.get_mut(&member) {
            follower.state = state;
        }
    }

    pub(super) fn follow_answered(&mut self, asked: Asked, answer: Answer, now: Instant) {
        match (asked, answer) {
            (Asked::Digest(member, position), Answer::Digest(Ok(digest))) => {
                if self.is_asking(member) {
                    match digest {
                        Some(digest) if digest == position.digest => self.catch_up(member, position.seq, now),
                        Some(_) => self.snapshot(member, "mismatch", now),
                        None => self.snapshot(member, "behind", now),
                    }
                }
            }
            (Asked::Snapshot(member, reason, head), Answer::Page(Ok(page))) => {
                self.snapshot_ready(member, (reason, head), page, now);
            }
            (Asked::Events(member, after, epoch), Answer::Events(Ok(entries))) => {
                if self.is_asking(member) {
                    self.events_ready(member, (after, epoch), &entries, now);
                }
            }
            (Asked::Page(member, id), Answer::Page(Ok(page))) => {
                self.close(member);
                let Page { encoding, json } = page;
                self.answer(member, &ServerRecord::Page(id, Json { encoding, bytes: json }));
            }
            (Asked::Replay { member, id, to }, Answer::Events(Ok(entries))) => {
                self.close(member);
                self.replayed(member, (id, to), &entries);
            }
            (Asked::Page(member, id) | Asked::Replay { member, id, .. }, _) => {
                self.close(member);
                let told = "the store is not available; try again";
                self.said.push_back(Said::Refuse(member, id, Code::StorageUnavailable, told));
            }
            (Asked::Digest(member, position), _) => {
                self.set(member, State::Retry(Follow::From(position), now + RETRY));
            }
            // It may take something else for the answer and not ask again.
            (Asked::Events(member, after, _), _) => self.set(member, State::Later(after, now + RETRY)),
            (Asked::Snapshot(member, ..), _) => self.set(member, State::Retry(Follow::New, now + RETRY)),
        }
    }

    fn is_asking(&self, member: u32) -> bool {
        self.followers.get(&member).is_some_and(|follower| matches!(follower.state, State::Asking))
    }

    fn close(&mut self, member: u32) {
        if let Some(follower) = self.followers.get_mut(&member) {
            follower.open = follower.open.saturating_sub(1);
        }
    }

    fn snapshot_ready(
        &mut self,
        member: u32,
        (reason, head): (&'static str, Head),
        page: Page,
        now: Instant,
    ) {
        if !self.is_asking(member) {
            return;
        }
        if head.epoch != self.head.epoch {
            return self.snapshot(member, reason, now);
        }
        let Page { encoding, json } = page;
        let mut message = BytesMut::new();
        ServerRecord::Snapshot(Json { encoding, bytes: json }).put(&mut message);
        // What was committed while the page was being made comes behind it.
        if head.seq == self.head.seq {
            self.arrive(member, message, self.head);
        } else if self.recent_from(head.seq + 1).is_some() {
            self.catch_up_from_memory(member, head, message);
        } else {
            self.send(member, message);
        }
    }

    fn events_ready(
        &mut self,
        member: u32,
        (after, epoch): (u64, u32),
        entries: &[Arc<Entry>],
        now: Instant,
    ) {
        let is_next = entries.first().is_some_and(|entry| entry.event.seq == after + 1);
        if epoch != self.head.epoch {
            return self.snapshot(member, "restored", now);
        }
        let (true, Some(last)) = (is_next, entries.last()) else {
            // Retention has taken them.
            return self.snapshot(member, "behind", now);
        };
        let mut message = BytesMut::new();
        let mut head = Head { seq: last.event.seq, digest: last.digest, epoch };
        for entry in entries {
            if !message.is_empty() && message.len() + record::event_len(&entry.event) > ANSWER_BYTES {
                break;
            }
            record::put_event(&mut message, &entry.event);
            head = Head { seq: entry.event.seq, digest: entry.digest, epoch };
        }
        if head.seq == self.head.seq {
            self.arrive(member, message, head);
        } else if head.seq == last.event.seq && self.recent_from(head.seq + 1).is_some() {
            self.catch_up_from_memory(member, head, message);
        } else {
            self.send(member, message);
        }
    }

    fn replayed(&mut self, member: u32, (id, to): (u32, u64), entries: &[Arc<Entry>]) {
        let mut events = BytesMut::new();
        let mut reached = None;
        for entry in entries {
            if !events.is_empty() && events.len() + record::event_len(&entry.event) > ANSWER_BYTES {
                break;
            }
            record::put_event(&mut events, &entry.event);
            reached = Some(entry.event.seq);
        }
        let last = reached.is_none_or(|reached| reached >= to);
        let mut message = BytesMut::new();
        ServerRecord::Answer { id, last }.put(&mut message);
        message.extend_from_slice(&events);
        self.said.push_back(Said::To(member, message.freeze()));
    }
}
