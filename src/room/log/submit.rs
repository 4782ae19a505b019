//! A submission: whether it is new, whether it is permitted, and the event that it becomes.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use ring::digest;
use switchyard_signaling::{
    Code,
    event::{Content, Event, EventKind, Origin, Submission},
    origin::{Judgement, Outcome, Taken},
    record::{self, ClientRecord},
};

use super::{
    Asked, Author, DECIDED, DECIDED_BYTES, HEAD_BYTES, KEPT, Log, LogTally, PARKED_PER_AUTHOR, Phase, RELOAD,
    RELOAD_MOST, Said, Step, Writer, backend, first_u64, parked::Parked, streams,
};
use crate::{
    room::{
        Members,
        content::{self, Needs, Refusal},
    },
    store::{Entry, Head, KnownMessage, KnownOrigin, Refused, Request},
};

impl Log {
    pub(super) fn submit(&mut self, author: &Author, submission: &Submission, now: Instant) -> Step {
        let Submission { origin, cseq, base, nonce, .. } = *submission;
        match &self.phase {
            Phase::Ready => {}
            Phase::Failed { retry, code, .. } => {
                let (code, retry) = (*code, retry.saturating_duration_since(now).min(RELOAD_MOST));
                self.expected(author.by, origin, cseq, (code, retry + RELOAD), now);
                return Step::Done;
            }
            Phase::Loading | Phase::Raising => return Step::Wait,
        }
        let hash = hash_of(nonce, &backend::hashed(author.by, &submission.content));
        let Some(writer) = self.writer_of(origin, now) else { return Step::Wait };
        if writer.user != author.user {
            let told = Refusal(Code::BadOrigin, "the origin belongs to another user");
            self.refused(author.by, origin, cseq, told);
            return Step::Done;
        }
        if let Some(lost) = writer.taken.answered(base.min(cseq)) {
            tracing::warn!(room = %self.key.room, from = lost.0, to = lost.1, "acknowledged submissions are lost");
            self.open.abandoned.insert(origin, lost);
            self.open.origins.insert(origin);
            self.said.push_back(Said::Count(LogTally::Abandoned));
        }
        match self.judge(origin, cseq, hash) {
            Judgement::Next => return self.next(author, submission, hash, now),
            Judgement::Repeated(outcome) => {
                self.said.push_back(Said::Count(LogTally::Repeated));
                if let (EventKind::End, Outcome::Accepted(seq)) = (submission.content.kind, outcome) {
                    self.ended_before((origin, streams::key_of(&submission.content)), seq);
                }
                self.tell_outcome(author.by, origin, cseq, outcome);
            }
            // What the other one wrote may come to nothing, and this one, if it is sent again, be taken in its place.
            Judgement::Conflict if self.is_pending(origin, cseq) => return Step::Wait,
            Judgement::Conflict => self.conflict(author.by, origin, cseq),
            Judgement::OutOfOrder(expected) => {
                self.expected(author.by, origin, expected, (Code::OutOfOrder, Duration::ZERO), now);
            }
            Judgement::Forgotten => {
                // An honest writer has an answer to this; only a cloned one asks again.
                let forgotten = |asked: &&Asked| matches!(asked, Asked::Forgotten(..));
                if self.asked.values().filter(forgotten).count() >= PARKED_PER_AUTHOR {
                    let retry = (Code::Overloaded, Duration::from_millis(100));
                    self.expected(author.by, origin, cseq, retry, now);
                    return Step::Done;
                }
                let asked = Asked::Forgotten(author.clone(), submission.clone(), hash);
                self.ask(asked, Request::Origin(self.key.clone(), origin));
            }
        }
        Step::Done
    }

    /// Whether what was decided under this number is not durable yet.
    pub(super) fn is_pending(&self, origin: Origin, cseq: u32) -> bool {
        let in_flight = self.in_flight.as_ref().map(|batch| &batch.decided.by);
        [Some(&self.open.by), in_flight].into_iter().flatten().any(|by| by.contains_key(&(origin, cseq)))
    }

    pub(super) fn judge(&self, origin: Origin, cseq: u32, hash: u64) -> Judgement {
        let judgement = self.origins[&origin].taken.judge(cseq, hash);
        #[cfg(feature = "plants")]
        if self.plant == Some(crate::room::Plant::NoDedupe)
            && matches!(judgement, Judgement::Repeated(Outcome::Accepted(_)))
        {
            return Judgement::Next;
        }
        judgement
    }

    /// The next submission of its origin: whether it is taken.
    pub(super) fn next(&mut self, author: &Author, submission: &Submission, hash: u64, now: Instant) -> Step {
        let Submission { origin, cseq, .. } = *submission;
        if self.decided_events() >= DECIDED || self.decided_bytes() >= DECIDED_BYTES {
            let retry = (Code::Overloaded, Duration::from_millis(50));
            self.expected(author.by, origin, cseq, retry, now);
            return Step::Done;
        }
        if let (Some((rate, most)), Some(_)) = (self.rate(), author.permissions)
            && let Err(retry) = self.bucket(&author.user, most, now).check(rate, most, now)
        {
            self.expected(author.by, origin, cseq, (Code::RateLimited, retry), now);
            #[cfg(feature = "plants")]
            if self.plant == Some(crate::room::Plant::RateConsumes) {
                let writer = self.origins.get_mut(&origin).expect("found before");
                writer.taken.take(hash, Outcome::Refused(Code::RateLimited));
            }
            return Step::Done;
        }
        let checked = match author.permissions {
            Some(permissions) => content::check(&submission.content, permissions),
            None => content::well_formed(&submission.content),
        };
        let result = match checked {
            Ok(needs) => match self.fulfils(needs, author, &submission.content) {
                Some(result) => result,
                None => return Step::Wait,
            },
            Err(refusal) => Err(refusal),
        };
        let result = match result {
            Ok(()) if submission.content.kind == EventKind::End => {
                match self.ended(author.by, submission, now) {
                    Some(result) => result.map(|(stream, content)| (Some(stream), content)),
                    None => return Step::Done,
                }
            }
            Ok(()) => Ok((None, submission.content.clone())),
            Err(refusal) => Err(refusal),
        };
        if let (Some((rate, most)), Some(_)) = (self.rate(), author.permissions) {
            let _ = self.bucket(&author.user, most, now).take(rate, most, now);
        }
        let writer = self.origins.get_mut(&origin).expect("found before");
        writer.told = None;
        writer.taken.take(hash, Outcome::Pending);
        self.open.origins.insert(origin);
        self.open.by.insert((origin, cseq), author.by);
        match result {
            Ok((stream, content)) => {
                let seq = self.append(author, (origin, cseq), hash, content, now);
                if let Some(stream) = stream {
                    self.open.ended.push((stream, seq));
                }
            }
            Err(Refusal(code, _)) => self.open.refused.push(Refused { origin, cseq, hash, code }),
        }
        Step::Done
    }

    /// An event at the end of what is decided.
    pub(super) fn append(
        &mut self,
        author: &Author,
        (origin, cseq): (Origin, u32),
        hash: u64,
        content: Content,
        now: Instant,
    ) -> u64 {
        let seq = self.decided_head.seq + 1;
        let (kind, target) = (content.kind, content.target);
        let event = Event {
            seq,
            at: self.settings.clock.unix_ms(now),
            origin,
            cseq,
            user: author.user.to_string(),
            name: author.name.to_string(),
            content,
        };
        let encoded = &mut self.open.encoded;
        let start = encoded.len();
        // With what comes behind the last one.
        encoded.reserve(record::event_len(&event) + HEAD_BYTES);
        record::put_event(encoded, &event);
        let digest = digest_of(self.decided_head.digest, &encoded[start..]);
        self.open.ends.push(encoded.len());
        if kind.is_message() {
            self.know_message(seq, KnownMessage { user: author.user.clone(), is_deleted: false });
        } else if kind == EventKind::Delete
            && let Some(message) = self.messages.get_mut(&target)
        {
            message.is_deleted = true;
        } else if kind == EventKind::Fields
            && let Some(sizes) = &self.fields
        {
            self.fields = content::change_fields(sizes, &event.content.body).ok();
        }
        self.decided_head = Head { seq, digest, ..self.decided_head };
        self.open.events.push(Arc::new(Entry { event, hash, digest }));
        seq
    }

    /// Whether the target is what it has to be; `None` while that is being asked.
    pub(super) fn fulfils(
        &mut self,
        needs: Needs,
        author: &Author,
        content: &Content,
    ) -> Option<Result<(), Refusal>> {
        const NONE: Refusal = Refusal(Code::NoSuchMessage, "there is no such message, or it was deleted");
        let target = content.target;
        match needs {
            Needs::Nothing => return Some(Ok(())),
            Needs::Fields => return self.fields_fit(&content.body),
            Needs::Message | Needs::Own(_) => {}
        }
        if target == 0 || target > self.decided_head.seq {
            return Some(Err(NONE));
        }
        let Some(message) = self.messages.get(&target) else {
            if !self.asked.values().any(|asked| matches!(asked, Asked::Message(seq) if *seq == target)) {
                self.ask(Asked::Message(target), Request::Message(self.key.clone(), target));
            }
            return None;
        };
        if message.is_deleted {
            return Some(Err(NONE));
        }
        let may = match needs {
            Needs::Own(or) => {
                let permitted = |permission| author.permissions.is_none_or(|all| all.contains(permission));
                message.user == author.user || author.permissions.is_none() || or.is_some_and(permitted)
            }
            Needs::Nothing | Needs::Fields | Needs::Message => true,
        };
        Some(if may { Ok(()) } else { Err(Refusal(Code::NotAuthor, "only the author may do this")) })
    }

    pub(super) fn fields_fit(&mut self, body: &[u8]) -> Option<Result<(), Refusal>> {
        if let Some(sizes) = &self.fields {
            return Some(content::change_fields(sizes, body).map(|_| ()));
        }
        if !self.asked.values().any(|asked| matches!(asked, Asked::Fields)) {
            self.ask(Asked::Fields, Request::Fields(self.key.clone()));
        }
        None
    }

    /// The origin, if it is in memory; it is asked for otherwise.
    pub(super) fn writer_of(&mut self, origin: Origin, now: Instant) -> Option<&mut Writer> {
        if self.origins.contains_key(&origin) {
            let writer = self.origins.get_mut(&origin)?;
            writer.used = now;
            return Some(writer);
        }
        if !self.asked.values().any(|asked| matches!(asked, Asked::Origin(other) if *other == origin)) {
            self.ask(Asked::Origin(origin), Request::Origin(self.key.clone(), origin));
        }
        None
    }

    pub(super) fn know_origin(
        &mut self,
        members: &Members,
        origin: Origin,
        known: KnownOrigin,
        now: Instant,
    ) {
        let Some(user) = known.user.or_else(|| self.first_user_of(members, origin)) else { return };
        let accepted = known.events.iter().map(|(cseq, hash, seq)| (*cseq, *hash, Outcome::Accepted(*seq)));
        let refused =
            known.refused.iter().map(|refused| (refused.cseq, refused.hash, Outcome::Refused(refused.code)));
        #[cfg(feature = "plants")]
        let forgets = self.plant == Some(crate::room::Plant::RefusalsForgotten);
        #[cfg(not(feature = "plants"))]
        let forgets = false;
        let answers: Vec<_> = accepted.chain(refused.filter(|_| !forgets)).collect();
        let last =
            if forgets { answers.iter().map(|(cseq, ..)| *cseq).max().unwrap_or(0) } else { known.last };
        let taken = Taken::restore(last, answers);
        self.make_room_for_origin();
        let writer = Writer { user, taken, told: None, used: now };
        self.origins.entry(origin).or_insert(writer);
    }

    /// Whoever is the first to use an origin that is not known has it.
    pub(super) fn first_user_of(&self, members: &Members, origin: Origin) -> Option<Arc<str>> {
        let user = |member| members.get(member).map(|member| member.grant.user.clone());
        self.parked.iter().find_map(|parked| match parked {
            Parked::Backend(backend) => {
                let write = backend.act.write().filter(|write| write.origin == origin);
                write.map(|write| write.user.clone())
            }
            Parked::Record(member, ClientRecord::Submit(submission)) if submission.origin == origin => {
                user(member)
            }
            Parked::Writer(member, _, other, _) if *other == origin => user(member),
            _ => None,
        })
    }

    pub(super) fn make_room_for_origin(&mut self) {
        while self.origins.len() >= KEPT {
            let busy = |origin: &Origin| {
                self.open.origins.contains(origin)
                    || self.in_flight.as_ref().is_some_and(|batch| batch.decided.origins.contains(origin))
            };
            let oldest =
                self.origins.iter().filter(|(origin, _)| !busy(origin)).min_by_key(|(_, writer)| writer.used);
            let Some((&oldest, _)) = oldest else { break };
            self.origins.remove(&oldest);
        }
    }

    pub(super) fn know_message(&mut self, seq: u64, message: KnownMessage) {
        while self.messages.len() >= KEPT {
            self.messages.pop_first();
        }
        self.messages.insert(seq, message);
    }

    /// A submission of which only the store knows what became of it.
    pub(super) fn remember(
        &mut self,
        author: &Author,
        submission: &Submission,
        hash: u64,
        known: &KnownOrigin,
    ) {
        let Submission { origin, cseq, .. } = *submission;
        let event = known.events.iter().find(|(number, ..)| *number == cseq);
        let refusal = known.refused.iter().find(|refused| refused.cseq == cseq);
        match (event, refusal) {
            (Some((_, same, seq)), _) if *same == hash => {
                self.tell_outcome(author.by, origin, cseq, Outcome::Accepted(*seq));
            }
            (_, Some(refused)) if refused.hash == hash => {
                self.tell_outcome(author.by, origin, cseq, Outcome::Refused(refused.code));
            }
            _ => self.conflict(author.by, origin, cseq),
        }
    }
}

/// Tells a repetition of a submission from another one with its number.
fn hash_of(nonce: u32, content: &Content) -> u64 {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(&nonce.to_be_bytes());
    context.update(&[content.kind as u8, content.version, content.flags]);
    context.update(&content.target.to_be_bytes());
    context.update(&content.body);
    first_u64(context.finish().as_ref())
}

/// Sums up the log to an event.
pub(super) fn digest_of(before: u64, encoded: &[u8]) -> u64 {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(&before.to_be_bytes());
    context.update(encoded);
    first_u64(context.finish().as_ref())
}
