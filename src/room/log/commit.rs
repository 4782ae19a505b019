//! Between the log and the store: batches out, what is durable in, and what is done when the store fails.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Instant,
};

use bytes::BytesMut;
use switchyard_signaling::{
    Code,
    event::{Event, Origin, Position},
    limits,
    origin::Outcome,
    record::{self, ServerRecord},
};

use super::{
    Asked, By, Decided, HEAD_BYTES, InFlight, Log, LogTally, Phase, RECENT, RECENT_BYTES, RELOAD, Said,
    Writer, answers::sentence_of,
};
use crate::{
    room::content::Refusal,
    store::{Batch, Entry, Head, Loaded, OriginMark, Refused, Request, StoreError},
};

impl Log {
    pub(super) fn ask(&mut self, asked: Asked, request: Request) {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.asked.insert(ticket, asked);
        self.said.push_back(Said::Store(ticket, request));
    }

    pub(super) fn commit(&mut self, now: Instant) {
        if self.in_flight.is_some() || !matches!(self.phase, Phase::Ready | Phase::Raising) {
            return;
        }
        if self.open.is_empty() {
            if matches!(self.phase, Phase::Raising)
                && !self.asked.values().any(|asked| matches!(asked, Asked::Raise))
            {
                self.ask(Asked::Raise, Request::RaiseEpoch(self.key.clone()));
            }
            return;
        }
        let decided = std::mem::take(&mut self.open);
        let origins = decided.origins.iter().filter_map(|origin| {
            let Writer { user, taken, .. } = self.origins.get(origin)?;
            Some(OriginMark {
                origin: *origin,
                user: user.clone(),
                last: taken.last(),
                base: taken.base(),
                abandoned: decided.abandoned.get(origin).copied(),
            })
        });
        let batch = Batch {
            key: self.key.clone(),
            fence: self.fence,
            expects: self.head,
            head: self.decided_head,
            events: decided.events.clone(),
            refused: decided.refused.clone(),
            origins: origins.collect(),
        };
        self.in_flight = Some(InFlight { head: self.decided_head, decided });
        self.ask(Asked::Commit, Request::Commit(batch));
        #[cfg(feature = "plants")]
        if self.plant == Some(crate::room::Plant::AcknowledgedEarly) {
            self.committed(now);
        }
        #[cfg(not(feature = "plants"))]
        let _ = now;
    }

    pub(super) fn committed(&mut self, now: Instant) {
        let Some(InFlight { mut decided, head }) = self.in_flight.take() else { return };
        self.head = head;
        let encoded = std::mem::take(&mut decided.encoded);
        for entry in &decided.events {
            let Event { seq, origin, cseq, content, .. } = &entry.event;
            self.said.push_back(Said::Count(LogTally::Event(content.kind)));
            if let Some(writer) = self.origins.get_mut(origin) {
                writer.taken.settle(*cseq, Outcome::Accepted(*seq));
            }
            self.keep(entry.clone());
        }
        self.say_live(&decided, encoded);
        for (stream, _) in &decided.ended {
            self.streams.close(*stream);
        }
        let is_end = |seq| decided.ended.iter().any(|(_, ended)| *ended == seq);
        for entry in &decided.events {
            let Event { seq, origin, cseq, .. } = entry.event;
            match decided.by.get(&(origin, cseq)).copied() {
                // A live follower has it by the event itself, unless that says something else than what was submitted.
                Some(By::Member(member)) if self.is_live(member) && !is_end(seq) => {}
                Some(by) => self.accepted(by, (origin, cseq), seq, false),
                None => {}
            }
        }
        for refused in &decided.refused {
            let Refused { origin, cseq, code, .. } = *refused;
            if let Some(writer) = self.origins.get_mut(&origin) {
                writer.taken.settle(cseq, Outcome::Refused(code));
            }
            let by = decided.by.get(&(origin, cseq)).copied().unwrap_or(By::Room);
            self.refused(by, origin, cseq, Refusal(code, sentence_of(code)));
        }
        self.commit(now);
    }

    /// Events for all live followers, as many to a message as fit; nearly always that is all of them.
    pub(super) fn say_live(&mut self, decided: &Decided, mut encoded: BytesMut) {
        if decided.events.is_empty() {
            return;
        }
        let (mut begin, mut before) = (0, None);
        for (entry, &end) in decided.events.iter().zip(&decided.ends) {
            if let Some((last, head)) = before
                && end - begin + HEAD_BYTES > limits::LOG_BYTES
            {
                let mut message = encoded.split_to(last - begin);
                begin = last;
                self.put_head(head, &mut message);
                self.said.push_back(Said::Live(message.freeze()));
            }
            before = Some((end, Head { seq: entry.event.seq, digest: entry.digest, ..self.head }));
        }
        self.put_head(self.head, &mut encoded);
        for (stream, seq) in &decided.ended {
            ServerRecord::Ended { stream: *stream, seq: *seq }.put(&mut encoded);
        }
        self.said.push_back(Said::Live(encoded.freeze()));
    }

    pub(super) fn put_head(&self, head: Head, out: &mut BytesMut) {
        ServerRecord::Head(self.position(head)).put(out);
    }

    pub(super) fn position(&self, head: Head) -> Position {
        let Head { epoch, seq, digest } = head;
        Position { epoch, seq, digest, proof: self.proof_key.proof(&self.key, head) }
    }

    pub(super) fn keep(&mut self, entry: Arc<Entry>) {
        self.recent_bytes += record::event_len(&entry.event);
        self.recent.push_back(entry);
        while self.recent.len() > RECENT || self.recent_bytes > RECENT_BYTES {
            let Some(oldest) = self.recent.pop_front() else { break };
            self.recent_bytes -= record::event_len(&oldest.event);
        }
    }

    /// The store has failed, or somebody else has the room: nothing that is not durable was said, so it is forgotten, and
    /// who waits for it comes again.
    pub(super) fn failed(&mut self, error: &StoreError, now: Instant) {
        tracing::warn!(room = %self.key.room, tenant = %self.key.tenant, %error, "the log cannot be written");
        self.said.push_back(Said::Count(LogTally::Failed));
        let code = Code::StorageUnavailable;
        let (pause, was_failed) = match self.phase {
            Phase::Failed { pause, .. } => (pause, true),
            _ => (RELOAD, false),
        };
        self.phase = Phase::Failed { retry: now + pause, pause, code };
        let mut pending: BTreeMap<Origin, (u32, By)> = BTreeMap::new();
        let in_flight = self.in_flight.take().map(|batch| batch.decided);
        for decided in in_flight.into_iter().chain([std::mem::take(&mut self.open)]) {
            for ((origin, cseq), by) in decided.by {
                pending.entry(origin).or_insert((cseq, by));
            }
            for (stream, _) in decided.ended {
                self.streams.reopen(stream, now);
            }
        }
        self.origins.clear();
        self.messages.clear();
        self.fields = None;
        self.decided_head = self.head;
        for (origin, (cseq, by)) in pending {
            self.expected(by, origin, cseq, (code, pause + RELOAD), now);
        }
        self.drop_parked(now);
        if !was_failed {
            self.say_status(Some(code));
        }
    }

    pub(super) fn loaded(&mut self, loaded: Loaded, now: Instant) {
        let Loaded { fence, head, first, recent } = loaded;
        self.said.push_back(Said::Count(LogTally::Loaded));
        let was_failed = matches!(self.phase, Phase::Failed { .. });
        let before = std::mem::replace(&mut self.head, head);
        let is_first = self.fence == 0;
        (self.fence, self.first, self.decided_head, self.phase) = (fence, first, head, Phase::Ready);
        self.origins.clear();
        self.messages.clear();
        self.fields = None;
        let goes_on = before.epoch == head.epoch
            && before.seq <= head.seq
            && (before.seq < head.seq || before.digest == head.digest);
        if is_first || !goes_on {
            (self.recent, self.recent_bytes) = (VecDeque::new(), 0);
            recent.into_iter().for_each(|entry| self.keep(entry));
            if !is_first {
                self.resync("restored", now);
            }
        } else {
            // A commit whose answer was lost had succeeded: what it committed is new to everybody.
            let new = recent.into_iter().filter(|entry| entry.event.seq > before.seq).collect::<Vec<_>>();
            self.go_on(before, new);
        }
        if was_failed {
            self.say_status(None);
        }
        self.follow_loaded(now);
    }

    pub(super) fn say_status(&mut self, code: Option<Code>) {
        let mut message = BytesMut::new();
        ServerRecord::Status(code.map(|code| code.as_str().to_owned())).put(&mut message);
        let message = message.freeze();
        for &member in self.followers.keys() {
            self.said.push_back(Said::To(member, message.clone()));
        }
    }
}
