//! What waits until the store has answered, with what its author sends behind it; and what becomes of a record at all.

use std::time::{Duration, Instant};

use switchyard_signaling::{Code, event::Origin, message::ServerControl, record::ClientRecord};

use super::{
    Author, BackendError, BackendRequest, By, Log, LogTally, PARKED, PARKED_BYTES, PARKED_PER_AUTHOR, Phase,
    RELOAD, Said, Step,
};
use crate::room::Members;

/// A record that waits for the store.
#[derive(Debug)]
pub(super) enum Parked {
    Record(u32, ClientRecord),
    Writer(u32, u32, Origin, u32),
    Backend(BackendRequest),
}

impl Parked {
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Record(_, ClientRecord::Submit(submission)) => submission.content.body.len(),
            Self::Record(_, ClientRecord::Begin { content, .. }) => content.body.len(),
            Self::Record(_, ClientRecord::Part { text, .. }) => text.len(),
            Self::Writer(..) => 0,
            Self::Backend(backend) => backend.act.bytes(),
        }
    }
}

impl Log {
    pub(super) fn take(&mut self, members: &Members, parked: Parked, now: Instant) {
        // What an author sends behind something that waits, waits too.
        let waits_behind = self.parked.iter().any(|other| same_author(other, &parked));
        if (waits_behind || self.decide(members, &parked, now) == Step::Wait) && !self.park(parked, now) {
            self.said.push_back(Said::Count(LogTally::Expected(Code::Overloaded)));
        }
    }

    pub(super) fn park(&mut self, parked: Parked, now: Instant) -> bool {
        let of_author = self.parked.iter().filter(|other| same_author(other, &parked)).count();
        if of_author >= PARKED_PER_AUTHOR
            || self.parked.len() >= PARKED
            || self.parked_bytes + parked.bytes() > PARKED_BYTES
        {
            self.put_off_parked(&parked, Code::Overloaded, Duration::from_millis(100), now);
            return false;
        }
        self.parked_bytes += parked.bytes();
        self.parked.push_back(parked);
        true
    }

    pub(super) fn unpark(&mut self, members: &Members, now: Instant) {
        self.parked_bytes = 0;
        for parked in std::mem::take(&mut self.parked) {
            self.take(members, parked, now);
        }
    }

    /// Everything that waits is told to come again.
    pub(super) fn drop_parked(&mut self, now: Instant) {
        self.parked_bytes = 0;
        for parked in std::mem::take(&mut self.parked) {
            self.put_off_parked(&parked, Code::StorageUnavailable, RELOAD, now);
        }
    }

    pub(super) fn put_off_parked(&mut self, parked: &Parked, code: Code, retry: Duration, now: Instant) {
        match parked {
            Parked::Record(member, ClientRecord::Submit(submission)) => {
                self.expected(By::Member(*member), submission.origin, submission.cseq, (code, retry), now);
            }
            // The author of a stream learns at its end what is missing.
            Parked::Record(..) => {}
            Parked::Writer(member, id, ..) => {
                self.said.push_back(Said::Refuse(*member, *id, code, "not now; try again"));
            }
            Parked::Backend(backend) => {
                self.answer_backend(backend.request, Err(BackendError::NotNow(code, retry)));
            }
        }
    }

    pub(super) fn decide(&mut self, members: &Members, parked: &Parked, now: Instant) -> Step {
        match parked {
            Parked::Backend(backend) => self.decide_backend(backend, now),
            Parked::Record(member, record) => {
                let Some(member_of_room) = members.get(member) else { return Step::Done };
                let grant = &member_of_room.grant;
                let author = Author {
                    by: By::Member(*member),
                    user: grant.user.clone(),
                    name: grant.name.clone(),
                    permissions: Some(grant.permissions),
                };
                match record {
                    ClientRecord::Submit(submission) => self.submit(&author, submission, now),
                    ClientRecord::Begin { origin, key, content } => {
                        let begun = self.begin(&author, (*origin, *key), content, now);
                        self.tell_stream(*member, (*origin, *key), begun);
                        Step::Done
                    }
                    ClientRecord::Part { origin, key, offset, text } => {
                        let taken = self.part(author.by, (*origin, *key), *offset, text, now);
                        self.tell_stream(*member, (*origin, *key), taken);
                        Step::Done
                    }
                }
            }
            Parked::Writer(member, id, origin, base) => {
                let Some(member_of_room) = members.get(member) else { return Step::Done };
                let user = &member_of_room.grant.user.clone();
                match self.phase {
                    Phase::Ready => {}
                    Phase::Failed { .. } => {
                        let told = "the store is not available";
                        self.said.push_back(Said::Refuse(*member, *id, Code::StorageUnavailable, told));
                        return Step::Done;
                    }
                    Phase::Loading | Phase::Raising => return Step::Wait,
                }
                let Some(writer) = self.writer_of(*origin, now) else { return Step::Wait };
                if writer.user != *user {
                    let told = "the origin belongs to another user";
                    self.said.push_back(Said::Refuse(*member, *id, Code::BadOrigin, told));
                    return Step::Done;
                }
                writer.told = None;
                let next = (writer.taken.last() + 1).max(*base);
                let answer = ServerControl::Writer { id: *id, origin: *origin, next };
                self.said.push_back(Said::Control(*member, answer));
                Step::Done
            }
        }
    }
}

fn same_author(one: &Parked, other: &Parked) -> bool {
    match (one, other) {
        (
            Parked::Record(one, _) | Parked::Writer(one, ..),
            Parked::Record(other, _) | Parked::Writer(other, ..),
        ) => one == other,
        (Parked::Backend(one), Parked::Backend(other)) => one.act.origin() == other.act.origin(),
        _ => false,
    }
}
