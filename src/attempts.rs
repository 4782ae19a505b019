//! Records of attempts to connect, for the tenant whose users they are (OPS3): the newest of each, in memory, bounded in
//! number, bytes and age. The shards bring them, `src/http/api/attempts.rs` hands them out.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

use serde::Serialize;
use switchyard_signaling::attempt::{Attempt, Rung, Verdict};

use crate::names::SessionId;

/// Bytes that a record costs beside its text.
const OVERHEAD: usize = 256;
/// Names of rooms in a record.
const ROOMS: usize = 8;

/// What of each tenant is kept.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Records.
    pub records: usize,
    /// Bytes of them.
    pub bytes: usize,
    /// Milliseconds.
    pub age_ms: u64,
}

/// What the server has seen of a peer connection, as far as it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Seen {
    /// Not even its offer.
    Nothing,
    /// Its offer, which was refused.
    Refused,
    /// Its offer, and no genuine check.
    Offer,
    /// Checks, and no DTLS.
    Checks,
    /// DTLS, and no data channel.
    Dtls,
    /// Its data channel.
    Open,
}

/// Who tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Teller {
    /// The client, whose record it is.
    Client,
    /// The server, which has given a peer connection up.
    Server,
}

/// An attempt, and what the server knows of it by itself.
#[derive(Clone, Debug)]
pub struct Record {
    /// Milliseconds since 1970.
    pub at: u64,
    /// Who tells.
    pub told_by: Teller,
    /// The session that it was told in.
    pub session: SessionId,
    /// The tenant of that.
    pub tenant: Arc<str>,
    /// The user of that.
    pub user: Arc<str>,
    /// The rooms of that.
    pub rooms: Vec<Arc<str>>,
    /// What that is on now.
    pub now_on: Option<Rung>,
    /// Of a peer connection.
    pub seen: Option<Seen>,
    /// What it was.
    pub attempt: Attempt,
}

/// Which records are wanted.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Of this user.
    pub user: Option<String>,
    /// With this verdict.
    pub verdict: Option<Verdict>,
    /// Of a session in this room.
    pub room: Option<String>,
    /// Older than this one.
    pub before: Option<u64>,
    /// At most so many.
    pub limit: usize,
}

/// Records as JSON, newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// One object each.
    pub records: Vec<Arc<str>>,
    /// Whether there are older ones.
    pub more: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Attempts {
    limits: Limits,
    tenants: Mutex<BTreeMap<Arc<str>, Kept>>,
}

/// Of one tenant.
#[derive(Debug, Default)]
struct Kept {
    /// Oldest first.
    entries: VecDeque<Entry>,
    bytes: usize,
    last_id: u64,
}

#[derive(Debug)]
struct Entry {
    id: u64,
    at: u64,
    told_by: Teller,
    session: SessionId,
    n: u32,
    user: Arc<str>,
    rooms: Vec<Arc<str>>,
    verdict: Verdict,
    json: Arc<str>,
}

/// A record as the application's backend gets it.
#[derive(Serialize)]
struct Line<'a> {
    id: u64,
    at: u64,
    told_by: Teller,
    session: String,
    user: &'a str,
    rooms: Vec<&'a str>,
    now_on: Option<Rung>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seen: Option<Seen>,
    #[serde(flatten)]
    attempt: &'a Attempt,
}

impl Attempts {
    /// None yet.
    pub fn new(limits: Limits) -> Self {
        Self { limits, tenants: Mutex::default() }
    }

    /// Keeps a record. What a client tells of an attempt takes the place of what it had told of it before.
    pub fn add(&self, mut record: Record) {
        record.rooms.truncate(ROOMS);
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        tenants.entry(record.tenant.clone()).or_default().add(record, self.limits);
    }

    /// The tenant's records that are wanted, as of `now` in milliseconds since 1970.
    pub fn find(&self, tenant: &str, wanted: &Wanted, now: u64) -> Found {
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(kept) = tenants.get_mut(tenant) else { return Found::default() };
        kept.trim(self.limits, now);
        let mut found = kept.entries.iter().rev().filter(|entry| wanted.means(entry));
        let records = found.by_ref().take(wanted.limit).map(|entry| entry.json.clone()).collect();
        Found { records, more: found.next().is_some() }
    }
}

impl Wanted {
    fn means(&self, entry: &Entry) -> bool {
        self.before.is_none_or(|before| entry.id < before)
            && self.verdict.is_none_or(|verdict| entry.verdict == verdict)
            && self.user.as_ref().is_none_or(|user| **user == *entry.user)
            && self.room.as_ref().is_none_or(|room| entry.rooms.iter().any(|known| **known == **room))
    }
}

impl Kept {
    fn add(&mut self, record: Record, limits: Limits) {
        let Record { at, told_by, session, user, rooms, now_on, seen, attempt, .. } = record;
        let same = |entry: &Entry| {
            (entry.session, entry.n, entry.told_by) == (session, attempt.n, Teller::Client) && attempt.n > 0
        };
        if told_by == Teller::Client
            && let Some(index) = self.entries.iter().rposition(same)
            && let Some(before) = self.entries.remove(index)
        {
            self.bytes -= before.cost();
        }
        self.last_id += 1;
        let line = Line {
            id: self.last_id,
            at,
            told_by,
            session: session.to_wire(),
            user: &user,
            rooms: rooms.iter().map(|room| &**room).collect(),
            now_on,
            seen,
            attempt: &attempt,
        };
        let json = serde_json::to_string(&line).expect("a record is JSON, and memory takes it").into();
        let (n, verdict) = (attempt.n, attempt.verdict);
        let entry = Entry { id: self.last_id, at, told_by, session, n, user, rooms, verdict, json };
        self.bytes += entry.cost();
        self.entries.push_back(entry);
        self.trim(limits, at);
    }

    /// The oldest go until all limits hold.
    fn trim(&mut self, limits: Limits, now: u64) {
        while let Some(oldest) = self.entries.front()
            && (self.entries.len() > limits.records
                || self.bytes > limits.bytes
                || oldest.at.saturating_add(limits.age_ms) < now)
        {
            self.bytes -= oldest.cost();
            self.entries.pop_front();
        }
    }
}

impl Entry {
    fn cost(&self) -> usize {
        OVERHEAD + self.json.len()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use switchyard_signaling::attempt::By;

    use super::*;
    use crate::names::ShardId;

    const LIMITS: Limits = Limits { records: 5, bytes: 1 << 20, age_ms: 1000 };

    fn record(at: u64, user: &str, n: u32, verdict: Verdict) -> Record {
        let attempt = Attempt {
            n,
            by: By::WebRtc,
            verdict,
            sentence: "so".into(),
            began: at,
            connected_ms: None,
            ended_ms: Some(7),
            cause: None,
            rung: None,
            pc: Some(1),
            details: None,
        };
        let session = SessionId { shard: ShardId(0), slot: 1, serial: 1 };
        let (tenant, rooms) = ("app".into(), vec![format!("room of {user}").into()]);
        let (now_on, seen, told_by) = (Some(Rung::WebSocket), Some(Seen::Checks), Teller::Client);
        Record { at, told_by, session, tenant, user: user.into(), rooms, now_on, seen, attempt }
    }

    fn ids(found: &Found) -> Vec<u64> {
        let id = |json: &Arc<str>| serde_json::from_str::<Value>(json).unwrap()["id"].as_u64().unwrap();
        found.records.iter().map(id).collect()
    }

    fn all() -> Wanted {
        Wanted { limit: 100, ..Wanted::default() }
    }

    #[test]
    fn a_tenant_gets_its_own_records_newest_first_by_user_verdict_room_and_page() {
        let attempts = Attempts::new(LIMITS);
        for (n, (user, verdict)) in [
            ("ann", Verdict::DtlsFailed),
            ("bob", Verdict::DtlsFailed),
            ("ann", Verdict::Connected),
            ("ann", Verdict::DtlsFailed),
        ]
        .into_iter()
        .enumerate()
        {
            attempts.add(record(10, user, n as u32 + 1, verdict));
        }
        let find = |wanted: &Wanted| attempts.find("app", wanted, 10);
        assert_eq!(ids(&find(&all())), [4, 3, 2, 1]);
        assert_eq!(attempts.find("else", &all(), 10), Found::default());
        attempts.add(Record { tenant: "else".into(), ..record(10, "eve", 1, Verdict::Connected) });
        assert_eq!(
            (ids(&find(&all())), attempts.find("else", &all(), 10).records.len()),
            (vec![4, 3, 2, 1], 1)
        );
        let ann = Wanted { user: Some("ann".into()), ..all() };
        assert_eq!(ids(&find(&ann)), [4, 3, 1]);
        assert_eq!(ids(&find(&Wanted { verdict: Some(Verdict::DtlsFailed), ..ann.clone() })), [4, 1]);
        assert_eq!(ids(&find(&Wanted { room: Some("room of bob".into()), ..all() })), [2]);
        let page = find(&Wanted { limit: 2, ..ann.clone() });
        assert_eq!((ids(&page), page.more), (vec![4, 3], true));
        let next = find(&Wanted { limit: 2, before: Some(3), ..ann });
        assert_eq!((ids(&next), next.more), (vec![1], false));
    }

    #[test]
    fn a_record_says_what_the_client_and_the_server_know() {
        let attempts = Attempts::new(LIMITS);
        attempts.add(record(10, "ann", 3, Verdict::DtlsFailed));
        let found = attempts.find("app", &all(), 10);
        let expected = json!({
            "id": 1, "at": 10, "told_by": "client", "session": "00000000000100000001", "user": "ann",
            "rooms": ["room of ann"], "now_on": "websocket", "seen": "checks", "n": 3, "by": "webrtc",
            "verdict": "dtls_failed", "sentence": "so", "began": 10, "ended_ms": 7, "pc": 1,
        });
        assert_eq!(serde_json::from_str::<Value>(&found.records[0]).unwrap(), expected);
    }

    #[test]
    fn what_is_told_of_an_attempt_again_takes_the_place_of_what_was_told_before() {
        let attempts = Attempts::new(LIMITS);
        attempts.add(record(10, "ann", 1, Verdict::Connected));
        attempts.add(record(11, "ann", 2, Verdict::Connected));
        attempts.add(record(12, "ann", 1, Verdict::PathLost));
        // The server's word stands beside it.
        attempts.add(Record { told_by: Teller::Server, ..record(13, "ann", 0, Verdict::NoPath) });
        attempts.add(Record { told_by: Teller::Server, ..record(13, "ann", 0, Verdict::NoPath) });
        assert_eq!(ids(&attempts.find("app", &all(), 13)), [5, 4, 3, 2]);
    }

    #[test]
    fn no_more_is_kept_than_is_allowed() {
        let attempts = Attempts::new(LIMITS);
        (1..=7).for_each(|n| attempts.add(record(10 * u64::from(n), "ann", n, Verdict::Unknown)));
        assert_eq!(ids(&attempts.find("app", &all(), 70)), [7, 6, 5, 4, 3]);
        assert_eq!(ids(&attempts.find("app", &all(), 1055)), [7, 6]);
        let size = attempts.tenants.lock().unwrap()["app"].bytes;
        let small = Attempts::new(Limits { bytes: size, ..LIMITS });
        (1..=5).for_each(|n| small.add(record(1000, "ann", n, Verdict::Unknown)));
        assert!(small.tenants.lock().unwrap()["app"].bytes <= size);
        assert!(small.find("app", &all(), 1000).records.len() <= 2);
        let none = Attempts::new(Limits { records: 0, ..LIMITS });
        none.add(record(1, "ann", 1, Verdict::Unknown));
        assert_eq!(none.find("app", &all(), 1), Found::default());
        assert_eq!(none.tenants.lock().unwrap()["app"].bytes, 0);
    }
}
