//! Judges histories of a room's log, by them alone and by what its operator knows: when backups were taken and
//! restored.
//!
//! The last history is that of an observer who came when all was over and had the whole log replayed: that is the
//! log. Against it and against each other:
//!
//! - a submission is in the log at most once, and as it was written;
//! - what was acknowledged is there, once, as the event that was named, unless a restored backup lost it;
//! - any two devices saw the same event under a number, in the order of the numbers, without a hole but where a
//!   snapshot said so;
//! - what one origin wrote is there in the order in which it was written;
//! - what was refused is not there, nothing was refused or taken that should not have been;
//! - everything that a device still knew of at the end was answered;
//! - all devices have the whole log and show the same.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use switchyard_signaling::event::{Content, Event, EventKind, INCOMPLETE, Origin};

use super::history::{History, Id, Note, Role, State};

/// A backup that was restored.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Restored {
    pub(crate) taken: Duration,
    pub(crate) restored: Duration,
}

/// What was found, when nothing was wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Events of the log.
    pub(crate) events: usize,
    /// Submissions acknowledged.
    pub(crate) accepted: usize,
    /// And refused.
    pub(crate) refused: usize,
    /// Acknowledged, and lost with a restored backup.
    pub(crate) lost: usize,
    /// Snapshots that took the place of events.
    pub(crate) resyncs: usize,
    /// Origins that had two writers.
    pub(crate) conflicts: usize,
}

/// Judges; the last history is the observer's.
pub(crate) fn judge(histories: &[History], restored: &[Restored]) -> Result<Verdict, String> {
    let log = the_log(histories.last().expect("there is an observer"))?;
    let world = Known::new(histories, restored, &log)?;
    let mut verdict = Verdict { events: log.len(), ..Verdict::default() };
    let mut views = BTreeMap::new();
    for (number, history) in histories.iter().enumerate() {
        let told = |reason| format!("device {number} ({}): {reason}", history.user);
        let mut device = Device { world: &world, ..Device::new(&world, history) };
        device.read(&mut views).map_err(told)?;
        device.finish().map_err(told)?;
        verdict.accepted += device.accepted.len();
        verdict.refused += device.refused.len();
        verdict.lost += device.lost;
        verdict.resyncs += device.resyncs;
        verdict.conflicts += device.conflicts;
    }
    Ok(verdict)
}

/// The whole log as the observer had it replayed.
fn the_log(observer: &History) -> Result<Vec<Event>, String> {
    let mut log: Vec<Event> = Vec::new();
    for noted in &observer.notes {
        if let Note::Replayed(events) = &noted.note {
            log.extend(events.iter().cloned());
        }
    }
    match log.iter().zip(1..).find(|(event, seq)| event.seq != *seq) {
        Some((event, seq)) => Err(format!("the replayed log has event {} where {seq} belongs", event.seq)),
        None => Ok(log),
    }
}

/// What a submission says; no other in the world says the same.
pub(crate) type Said = (String, EventKind, u64, u8, Vec<u8>);

pub(crate) fn said(user: &str, content: &Content) -> Said {
    let Content { kind, target, version, body, .. } = content;
    (user.to_owned(), *kind, *target, *version, body.to_vec())
}

/// What is known of all histories together.
struct Known<'a> {
    restored: &'a [Restored],
    log: &'a [Event],
    state: State,
    /// By what it says: for a streamed message by its text.
    submitted: BTreeMap<Said, Id>,
    /// Where each submission is in the log.
    places: BTreeMap<Id, u64>,
    wrong: BTreeMap<Id, &'static str>,
    /// Submissions that end a streamed message.
    streamed: BTreeSet<Id>,
    /// Submissions that more than one device has.
    shared: BTreeSet<Id>,
    /// Targets that somebody wanted to delete.
    deleted: BTreeSet<u64>,
}

impl<'a> Known<'a> {
    fn new(histories: &[History], restored: &'a [Restored], log: &'a [Event]) -> Result<Self, String> {
        let mut known = Self {
            restored,
            log,
            state: State::default(),
            submitted: BTreeMap::new(),
            places: BTreeMap::new(),
            wrong: BTreeMap::new(),
            streamed: BTreeSet::new(),
            shared: BTreeSet::new(),
            deleted: BTreeSet::new(),
        };
        for history in histories {
            for noted in &history.notes {
                known.take(history, &noted.note);
            }
        }
        let mut last_of: BTreeMap<Origin, u32> = BTreeMap::new();
        for event in log {
            known.state.apply(event);
            let seq = event.seq;
            let last = last_of.entry(event.origin).or_default();
            // The server ends a stream by itself, under no number of the author's.
            let is_ended = event.content.flags & INCOMPLETE != 0;
            if !is_ended && std::mem::replace(last, event.cseq) >= event.cseq {
                return Err(format!("event {seq}: its origin's submissions are out of order"));
            }
            if is_ended {
                continue;
            }
            let Some(id) = known.id_of(event) else {
                return Err(format!("event {seq} was written by nobody: {:?}", event.content));
            };
            if let Some(first) = known.places.insert(id, seq) {
                return Err(format!("submission {id} is in the log twice: {first} and {seq}"));
            }
            if known.wrong.contains_key(&id) && restored.is_empty() {
                return Err(format!("submission {id} was taken and should have been refused"));
            }
        }
        Ok(known)
    }

    fn take(&mut self, history: &History, note: &Note) {
        match note {
            Note::Submitted { id, content, wrong } => {
                self.submitted.insert(said(&history.user, content), *id);
                let Content { kind, target, .. } = content;
                self.wrong.extend(wrong.map(|code| (*id, code)));
                if *kind == EventKind::Delete {
                    self.deleted.insert(*target);
                }
            }
            Note::Streamed(id) => {
                self.streamed.insert(*id);
            }
            Note::Inherited(ids) | Note::Shared(ids) => self.shared.extend(ids),
            _ => {}
        }
    }

    fn id_of(&self, event: &Event) -> Option<Id> {
        self.submitted.get(&said(&event.user, &event.content)).copied()
    }

    /// Counts the backups that had been restored by then.
    fn era(&self, at: Duration) -> usize {
        self.restored.iter().filter(|restored| restored.restored <= at).count()
    }

    /// Whether a restored backup may have lost what happened then.
    fn may_be_lost(&self, at: Duration) -> bool {
        self.restored.iter().any(|restored| restored.taken <= at && at <= restored.restored)
    }
}

/// What devices saw under a number in an era.
type Views = BTreeMap<(usize, u64), Event>;

struct Device<'a> {
    world: &'a Known<'a>,
    history: &'a History,
    /// The last event read; none before the first snapshot or event.
    last: Option<u64>,
    read: BTreeMap<u64, Event>,
    state: State,
    submitted: BTreeMap<Id, (Duration, Vec<Role>)>,
    unanswered: BTreeSet<Id>,
    accepted: BTreeMap<Id, u64>,
    refused: BTreeSet<Id>,
    /// Roles that it may have now: one, or two while a change is under way.
    roles: Vec<Role>,
    written: BTreeMap<Origin, Vec<(u32, u64)>>,
    lost: usize,
    resyncs: usize,
    conflicts: usize,
}

impl<'a> Device<'a> {
    fn new(world: &'a Known<'a>, history: &'a History) -> Self {
        Self {
            world,
            history,
            last: None,
            read: BTreeMap::new(),
            state: State::default(),
            submitted: BTreeMap::new(),
            unanswered: BTreeSet::new(),
            accepted: BTreeMap::new(),
            refused: BTreeSet::new(),
            roles: Vec::new(),
            written: BTreeMap::new(),
            lost: 0,
            resyncs: 0,
            conflicts: 0,
        }
    }

    fn read(&mut self, views: &mut Views) -> Result<(), String> {
        for noted in &self.history.notes {
            self.take(noted.at, &noted.note, views)
                .map_err(|reason| format!("at {:?}: {reason}", noted.at))?;
        }
        Ok(())
    }

    fn take(&mut self, at: Duration, note: &Note, views: &mut Views) -> Result<(), String> {
        match note {
            Note::Submitted { id, .. } => {
                self.submitted.insert(*id, (at, self.roles.clone()));
                self.unanswered.insert(*id);
            }
            Note::Inherited(ids) => {
                for id in ids {
                    self.submitted.insert(*id, (at, vec![Role::Editor, Role::Viewer]));
                    self.unanswered.insert(*id);
                }
            }
            Note::Streamed(_) | Note::Shared(_) => {}
            Note::Resumed(ids) => self.unanswered = ids.iter().copied().collect(),
            Note::Forgot(ids) => self.unanswered.retain(|id| !ids.contains(id)),
            Note::Asked(role) => {
                self.roles.push(*role);
                for (_, roles) in
                    self.submitted.iter_mut().filter(|(id, _)| self.unanswered.contains(id)).map(|(_, of)| of)
                {
                    roles.push(*role);
                }
            }
            Note::Confirmed(role) => self.roles = vec![*role],
            Note::Accepted { id, origin, cseq, seq } => self.accept(at, *id, (*origin, *cseq), *seq)?,
            Note::Refused { id, code } => self.refuse(at, *id, code)?,
            Note::Conflict => self.conflicts += 1,
            Note::Event(event) => self.event(at, event, views)?,
            Note::Replayed(events) => {
                for event in events {
                    agree(views, self.world.era(at), event)?;
                }
            }
            Note::Snapshot(snapshot) => {
                let seq = snapshot.position.seq;
                match snapshot.reason.as_str() {
                    "new" => self.read.clear(),
                    "behind" => self.resyncs += 1,
                    "mismatch" | "restored" => {
                        self.resyncs += 1;
                        // A reader that has read nothing yet and asks for a snapshot is told so too.
                        if self.world.restored.is_empty() && self.last.is_some() {
                            return Err(format!("told {} without a restored backup", snapshot.reason));
                        }
                        self.read.clear();
                    }
                    other => return Err(format!("a snapshot for no known reason: {other}")),
                }
                if self.last.is_some_and(|last| seq < last) && self.world.restored.is_empty() {
                    return Err(format!("a snapshot of {seq} after event {:?}", self.last));
                }
                self.last = Some(seq);
                self.state = State::of(snapshot);
            }
            Note::Reloaded(position) => {
                self.last = *position;
                match position {
                    None => self.read.clear(),
                    Some(last) => self.read.retain(|seq, _| seq <= last),
                }
            }
        }
        Ok(())
    }

    fn event(&mut self, at: Duration, event: &Event, views: &mut Views) -> Result<(), String> {
        let expected = self.last.unwrap_or(0) + 1;
        if event.seq != expected {
            return Err(format!("event {} came where {expected} was to come", event.seq));
        }
        self.last = Some(event.seq);
        agree(views, self.world.era(at), event)?;
        self.state.apply(event);
        self.read.insert(event.seq, event.clone());
        let is_final = !self.world.may_be_lost(at);
        if is_final && self.world.log.get(event.seq as usize - 1) != Some(event) {
            return Err(format!("event {} was read and is not in the log", event.seq));
        }
        Ok(())
    }

    fn accept(
        &mut self,
        at: Duration,
        id: Id,
        (origin, cseq): (Origin, u32),
        seq: u64,
    ) -> Result<(), String> {
        if !self.submitted.contains_key(&id) {
            return Err(format!("submission {id} was accepted and never made"));
        }
        self.unanswered.remove(&id);
        if self.accepted.get(&id).is_some_and(|first| *first != seq) && self.world.restored.is_empty() {
            return Err(format!("submission {id} was accepted as {:?} and as {seq}", self.accepted.get(&id)));
        }
        if self.refused.contains(&id) && !self.world.shared.contains(&id) && self.world.restored.is_empty() {
            return Err(format!("submission {id} was refused, then accepted"));
        }
        self.accepted.insert(id, seq);
        self.written.entry(origin).or_default().push((cseq, seq));
        match self.world.places.get(&id) {
            Some(place) if *place == seq => {}
            _ if self.world.may_be_lost(at) => self.lost += 1,
            Some(place) => return Err(format!("submission {id} was accepted as {seq} and is {place}")),
            None => return Err(format!("submission {id} was accepted as {seq} and is not in the log")),
        }
        let (_, roles) = &self.submitted[&id];
        let is_own = !self.world.shared.contains(&id);
        if is_own && !roles.is_empty() && roles.iter().all(|role| *role == Role::Viewer) {
            return Err(format!("submission {id} of a viewer was accepted"));
        }
        Ok(())
    }

    fn refuse(&mut self, at: Duration, id: Id, code: &str) -> Result<(), String> {
        let Some((_, roles)) = self.submitted.get(&id) else {
            return Err(format!("submission {id} was refused and never made"));
        };
        self.unanswered.remove(&id);
        self.refused.insert(id);
        if self.world.shared.contains(&id) {
            return Ok(());
        }
        let was_accepted = self.accepted.contains_key(&id) && self.world.restored.is_empty();
        if was_accepted || (self.world.places.contains_key(&id) && !self.world.may_be_lost(at)) {
            return Err(format!("submission {id} was refused ({code}) and is in the log"));
        }
        let of =
            |wanted: Id| self.world.submitted.iter().find(|(_, id)| **id == wanted).map(|(said, _)| said);
        let (kind, target) = of(id).map_or((EventKind::End, 0), |said| (said.1, said.2));
        let restored = !self.world.restored.is_empty();
        let is_right = match code {
            _ if self.world.wrong.get(&id) == Some(&code) => true,
            "forbidden" => roles.contains(&Role::Viewer),
            // The author of a streamed message was away for too long: the room has ended it.
            "no_such_stream" => self.world.streamed.contains(&id),
            "no_such_message" => target != 0 && (restored || self.world.deleted.contains(&target)),
            "not_author" => matches!(kind, EventKind::Edit | EventKind::Delete) && restored,
            _ => false,
        };
        if is_right { Ok(()) } else { Err(format!("submission {id} was refused wrongly: {code}")) }
    }

    fn finish(&self) -> Result<(), String> {
        if let Some(id) = self.unanswered.first() {
            return Err(format!("submission {id} was never answered ({} of them)", self.unanswered.len()));
        }
        let end = self.world.log.len() as u64;
        if self.last.unwrap_or(0) != end {
            return Err(format!("at the end it has read to {:?} of {end}", self.last));
        }
        for (seq, event) in &self.read {
            if self.world.log.get(*seq as usize - 1) != Some(event) {
                return Err(format!("at the end it has another event {seq} than the log"));
            }
        }
        for written in self.written.values() {
            let mut written = written.clone();
            written.sort_unstable();
            if self.world.restored.is_empty() && !written.is_sorted_by_key(|(_, seq)| *seq) {
                return Err("what it wrote with one origin is out of order".to_owned());
            }
        }
        if self.state.fields != self.world.state.fields {
            let (own, all) = (&self.state.fields, &self.world.state.fields);
            return Err(format!("it shows the fields {own:?} and the log says {all:?}"));
        }
        for (seq, shown) in &self.state.messages {
            let said = self.world.state.messages.get(seq);
            if said != Some(shown) {
                return Err(format!("it shows message {seq} as {shown:?} and the log says {said:?}"));
            }
        }
        let newest = self.world.state.messages.last_key_value();
        match newest {
            Some((seq, _)) if !self.state.messages.contains_key(seq) => {
                Err(format!("it does not show message {seq}"))
            }
            _ => Ok(()),
        }
    }
}

/// Nobody has seen another event under this number.
fn agree(views: &mut Views, era: usize, event: &Event) -> Result<(), String> {
    let seq = event.seq;
    match views.entry((era, seq)) {
        std::collections::btree_map::Entry::Vacant(entry) => drop(entry.insert(event.clone())),
        std::collections::btree_map::Entry::Occupied(entry) if entry.get() == event => {}
        std::collections::btree_map::Entry::Occupied(entry) => {
            return Err(format!("event {seq} is {:?} here and {:?} elsewhere", event, entry.get()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use switchyard_signaling::{event::Position, reader::Snapshot};

    use super::*;

    const ORIGIN: Origin = Origin(1);

    fn content(text: &str) -> Content {
        let body = json!({"text": text}).to_string().into();
        Content { kind: EventKind::Chat, version: 0, flags: 0, target: 0, body }
    }

    fn event(seq: u64, cseq: u32, text: &str) -> Event {
        let (user, name) = ("ann".to_owned(), "Ann".to_owned());
        Event { seq, at: 1, origin: ORIGIN, cseq, user, name, content: content(text) }
    }

    fn submitted(id: Id, text: &str) -> Note {
        Note::Submitted { id, content: content(text), wrong: None }
    }

    fn accepted(id: Id, cseq: u32, seq: u64) -> Note {
        Note::Accepted { id, origin: ORIGIN, cseq, seq }
    }

    fn snapshot(reason: &str, seq: u64, texts: &[(u64, &str)]) -> Note {
        let message = |(seq, text): &(u64, &str)| json!({"seq": seq, "kind": "chat", "user": "ann", "name": "Ann", "at": 1, "body": {"text": text}});
        let reason = reason.to_owned();
        let position = Position { seq, ..Position::default() };
        let messages = texts.iter().map(message).collect();
        Note::Snapshot(Snapshot { reason, position, fields: serde_json::Map::new(), messages, more: false })
    }

    /// Ann writes three messages, of which the second is refused for its role; Ben reads all along, and then there is the
    /// observer. Nothing is wrong.
    fn world() -> [Vec<Note>; 3] {
        let ann = vec![
            Note::Asked(Role::Editor),
            Note::Confirmed(Role::Editor),
            snapshot("new", 0, &[]),
            submitted(10, "one"),
            accepted(10, 1, 1),
            Note::Event(event(1, 1, "one")),
            Note::Asked(Role::Viewer),
            submitted(11, "two"),
            Note::Refused { id: 11, code: "forbidden".into() },
            Note::Asked(Role::Editor),
            Note::Confirmed(Role::Editor),
            submitted(12, "three"),
            Note::Event(event(2, 3, "three")),
            accepted(12, 3, 2),
        ];
        let ben = vec![snapshot("new", 1, &[(1, "one")]), Note::Event(event(2, 3, "three"))];
        let observer = vec![
            snapshot("new", 2, &[(1, "one"), (2, "three")]),
            Note::Replayed(vec![event(1, 1, "one"), event(2, 3, "three")]),
        ];
        [ann, ben, observer]
    }

    fn judged(notes: [Vec<Note>; 3], restored: &[Restored]) -> Result<Verdict, String> {
        let history = |(user, notes): (&str, Vec<Note>)| {
            let mut history = History::new(user);
            for (at, note) in notes.into_iter().enumerate() {
                history.note(Duration::from_secs(at as u64), note);
            }
            history
        };
        let users = ["ann", "ben", "observer"];
        let histories: Vec<History> = users.into_iter().zip(notes).map(history).collect();
        judge(&histories, restored)
    }

    #[test]
    fn a_world_without_faults_is_found_to_have_none() {
        let verdict = judged(world(), &[]).unwrap();
        assert_eq!((verdict.events, verdict.accepted, verdict.refused, verdict.lost), (2, 2, 1, 0));
    }

    #[test]
    fn each_fault_is_found() {
        type Fault = fn(&mut [Vec<Note>; 3]);
        let faults: [(&str, Fault); 20] = [
            ("in the log twice", |[_, ben, observer]| {
                ben.push(Note::Event(event(3, 4, "one")));
                observer[1] =
                    Note::Replayed(vec![event(1, 1, "one"), event(2, 3, "three"), event(3, 4, "one")]);
            }),
            ("written by nobody", |[.., observer]| {
                observer[1] = Note::Replayed(vec![event(1, 1, "one"), event(2, 3, "altered")]);
            }),
            ("out of order", |[.., observer]| {
                observer[1] = Note::Replayed(vec![event(1, 3, "one"), event(2, 1, "three")]);
            }),
            ("event 2 was read and is not in the log", |[.., observer]| {
                observer[1] = Note::Replayed(vec![event(1, 1, "one")]);
            }),
            ("accepted as 2 and is not in the log", |[ann, ben, observer]| {
                ann.remove(12);
                ben.pop();
                observer[1] = Note::Replayed(vec![event(1, 1, "one")]);
            }),
            ("accepted as 9 and is 2", |[ann, ..]| ann[13] = accepted(12, 3, 9)),
            ("never answered", |[ann, ..]| drop(ann.pop())),
            ("never made", |[ann, ..]| ann.push(accepted(99, 4, 2))),
            ("refused (forbidden) and is in the log", |[ann, ..]| {
                ann.insert(9, Note::Refused { id: 10, code: "forbidden".into() });
            }),
            ("refused wrongly", |[ann, ..]| drop(ann.remove(6))),
            ("refused wrongly", |[ann, ..]| {
                ann[8] = Note::Refused { id: 11, code: "rate_limited".into() };
            }),
            ("of a viewer was accepted", |[ann, ..]| {
                ann[9] = Note::Asked(Role::Viewer);
                ann[10] = Note::Confirmed(Role::Viewer);
            }),
            ("should have been refused", |[ann, ..]| {
                ann[3] = Note::Submitted { id: 10, content: content("one"), wrong: Some("bad_body") };
            }),
            ("came where 2 was to come", |[_, ben, _]| ben[1] = Note::Event(event(3, 3, "three"))),
            ("came where 3 was to come", |[_, ben, _]| ben.push(Note::Event(event(2, 3, "three")))),
            ("elsewhere", |[_, ben, _]| ben[1] = Note::Event(event(2, 3, "another"))),
            ("it has read to", |[_, ben, _]| drop(ben.pop())),
            ("without a restored backup", |[_, ben, _]| {
                ben.push(snapshot("restored", 2, &[(2, "three")]));
            }),
            ("it shows message 2", |[_, ben, _]| ben.push(snapshot("behind", 2, &[(2, "stale")]))),
            ("does not show message 2", |[_, ben, _]| ben.push(snapshot("behind", 2, &[(1, "one")]))),
        ];
        for (expected, fault) in faults {
            let mut notes = world();
            fault(&mut notes);
            let reason = judged(notes, &[]).expect_err(expected);
            assert!(reason.contains(expected), "{expected}: {reason}");
        }
    }

    #[test]
    fn a_restored_backup_excuses_what_happened_since_it_was_taken_and_nothing_else() {
        let [ann, ben, _] = world();
        let at = |seconds| Duration::from_secs(seconds);
        let lost = |taken, restored| {
            let (mut ann, mut ben) = (ann.clone(), ben.clone());
            ann.push(snapshot("restored", 1, &[(1, "one")]));
            ben.push(snapshot("restored", 1, &[(1, "one")]));
            let observer = vec![snapshot("new", 1, &[(1, "one")]), Note::Replayed(vec![event(1, 1, "one")])];
            judged([ann, ben, observer], &[Restored { taken, restored }])
        };
        assert_eq!(lost(at(1), at(13)).unwrap().lost, 1);
        assert!(lost(at(1), at(11)).is_err(), "acknowledged after the backup was back");
        assert!(lost(at(13), at(14)).is_err(), "acknowledged and read before it was taken");
        let deaf = judged(
            [
                [ann.clone(), vec![snapshot("restored", 1, &[(1, "one")])]].concat(),
                ben.clone(),
                vec![snapshot("new", 1, &[(1, "one")]), Note::Replayed(vec![event(1, 1, "one")])],
            ],
            &[Restored { taken: at(0), restored: at(13) }],
        );
        assert!(deaf.is_err(), "one was never told");
    }
}
