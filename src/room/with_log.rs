//! A room's dealings with its log: members that follow it and write to it, and what it says to them.
//!
//! The log ([`super::log`]) knows members by their numbers; who they are, and that they may be here, is the room's.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use switchyard_signaling::{
    Code,
    frame::{Kind, Target},
    lane::Message,
    message::Follow,
    record,
};

use super::{
    Member, Members, Output, Receiver, Refused, Room,
    log::{Log, Said},
    permission::Permission,
};
use crate::{
    names::SessionId,
    store::{Note, Request},
};

impl Room {
    /// Tells a member that it is one, and then where the log stands.
    pub(super) fn welcome(&mut self, number: u32, id: u32, follow: Option<Follow>, now: Instant) {
        let Some(follow) = follow else { return self.tell_joined(number, id, now) };
        self.open_log();
        if let (Some(log), Some(member)) = (&mut self.log, self.members.get_mut(&number)) {
            member.origin = Some(log.fresh_origin());
        }
        self.tell_joined(number, id, now);
        self.note_joined(number, now);
        if let Some(log) = &mut self.log {
            log.follow(number, follow, now);
        }
    }

    pub(super) fn open_log(&mut self) {
        if self.log.is_none() {
            let log = Log::new(self.key.clone(), self.settings.clone(), self.entropy);
            self.log = Some(Box::new(log));
            #[cfg(feature = "plants")]
            self.plant(self.plant);
        }
    }

    pub(super) fn note_joined(&mut self, number: u32, now: Instant) {
        let Member { receiver, grant, .. } = &self.members[&number];
        let note = Note::Joined {
            key: self.key.clone(),
            session: receiver.session.to_wire(),
            user: grant.user.clone(),
            name: grant.name.clone(),
            role: grant.role.name(),
            at: self.settings.clock.unix_ms(now),
        };
        self.outputs.push_back(Output::Store(0, Request::Note(note)));
    }

    pub(super) fn note_left(&mut self, member: &Member, reason: Code, now: Instant) {
        let note = Note::Left {
            key: self.key.clone(),
            session: member.receiver.session.to_wire(),
            user: member.grant.user.clone(),
            reason,
            at: self.settings.clock.unix_ms(now),
        };
        self.outputs.push_back(Output::Store(0, Request::Note(note)));
    }

    /// The log, for a member that follows it.
    pub(super) fn reader(&mut self, session: SessionId) -> Result<(&mut Log, &Members, u32), Refused> {
        const NOT_FOLLOWING: Refused = Refused(Code::NotFollowing, "the join did not ask for the log");
        let member = self.permit(session, Permission::Read)?;
        if self.members[&member].origin.is_none() {
            return Err(NOT_FOLLOWING);
        }
        let log = self.log.as_mut().ok_or(NOT_FOLLOWING)?;
        Ok((log, &self.members, member))
    }

    /// What it may write is decided in [`super::content`], with the author's permissions.
    pub(super) fn records(&mut self, session: SessionId, records: Bytes, now: Instant) {
        let result = self.reader(session).and_then(|(log, members, member)| {
            let mut error = None;
            let records =
                record::read_client(records).map_while(|record| record.map_err(|e| error = Some(e)).ok());
            log.handle_records(members, member, records, now);
            error.map_or(Ok(()), |_| Err(Refused(Code::BadFrame, "a record does not parse")))
        });
        if let Err(refused) = result {
            self.refuse_session(session, None, Some(0), refused, now);
        }
    }

    /// Brings on what the log says.
    pub(super) fn hear_log(&mut self, now: Instant) {
        while let Some(said) = self.log.as_mut().and_then(|log| log.poll()) {
            match said {
                Said::To(member, records) => {
                    if let Some(member) = self.members.get(&member) {
                        let receivers = Arc::new([member.receiver]);
                        self.deliver(receivers, log_message(records, now));
                    }
                }
                Said::Live(records) => {
                    let receivers = self.live();
                    if !receivers.is_empty() {
                        self.deliver(receivers, log_message(records, now));
                    }
                }
                Said::Control(member, control) => {
                    if let Some(member) = self.members.get(&member) {
                        self.tell(member.receiver, &control, now);
                    }
                }
                Said::Refuse(member, id, code, sentence) => {
                    if let Some(member) = self.members.get(&member) {
                        let (id, stream) = if id == 0 { (None, Some(0)) } else { (Some(id), None) };
                        self.refuse(member.receiver, id, stream, Refused(code, sentence), now);
                    }
                }
                Said::Store(ticket, request) => self.outputs.push_back(Output::Store(ticket, request)),
                Said::Backend(request, result) => self.outputs.push_back(Output::Backend(request, result)),
                Said::Count(tally) => self.outputs.push_back(Output::Log(tally)),
            }
        }
    }

    /// The live followers; one list for as long as they are the same.
    pub(super) fn live(&mut self) -> Arc<[Receiver]> {
        let Some(log) = &self.log else { return Arc::new([]) };
        if !log.live().eq(self.live.0.iter().copied()) {
            let live: Vec<u32> = log.live().collect();
            let receivers = live.iter().filter_map(|member| self.members.get(member));
            let receivers = receivers.map(|member| member.receiver).collect();
            self.live = (live, receivers);
        }
        self.live.1.clone()
    }
}

/// Records on their way to sessions.
fn log_message(records: Bytes, now: Instant) -> Arc<Message> {
    Arc::new(Message {
        kind: Kind::Log,
        text: false,
        sender: 0,
        stream: 0,
        target: Target::Room,
        payload: records,
        at: now,
    })
}
