//! Judges what receivers saw by their histories and by what senders were told to send, never by what the server says
//! about itself.
//!
//! Of the reliable lane each receiver must have, for each (sender, stream) of a room that it is in, every message that
//! was sent while it was in the room: once, in order, unchanged, from the member that the frame names; or, at the very
//! place, a gap that counts exactly what is missing. Of the lossy lane, each message at most once.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use switchyard_loadtest::{
    account::{STAMP_BYTES, Stamp},
    browser::{Event, Lane},
};

use super::client::{Client, Seen, What};

/// Messages of one sender on one stream.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SentKey {
    pub(crate) client: usize,
    pub(crate) room: String,
    pub(crate) stream: u16,
    pub(crate) lane: Lane,
}

/// What was sent, and when.
#[derive(Debug, Default)]
pub(crate) struct Sent {
    times: BTreeMap<SentKey, Vec<Duration>>,
    /// Streams whose messages are not for the whole room.
    pub(crate) audience: BTreeMap<u16, BTreeSet<usize>>,
}

impl Sent {
    pub(crate) fn count(&self, key: &SentKey) -> u32 {
        self.times.get(key).map_or(0, |times| times.len() as u32)
    }

    pub(crate) fn add(&mut self, key: SentKey, at: Duration) {
        self.times.entry(key).or_default().push(at);
    }

    /// Messages of a lane.
    pub(crate) fn total(&self, lane: Lane) -> usize {
        let of = self.times.iter().filter(|(key, _)| key.lane == lane);
        of.map(|(_, times)| times.len()).sum()
    }

    fn is_for(&self, key: &SentKey, receiver: usize) -> bool {
        let named = self.audience.get(&key.stream);
        key.client != receiver && named.is_none_or(|named| named.contains(&receiver))
    }
}

/// What was found, when nothing was wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Reliable messages received.
    pub(crate) reliable: u64,
    /// Lossy messages received.
    pub(crate) lossy: u64,
    /// Reliable messages that are missing and told to be.
    pub(crate) told: u64,
}

/// A message of this length: a stamp, and bytes that follow from it.
pub(crate) fn payload(sender: u32, seq: u32, at: Duration, size: usize) -> Bytes {
    let stamp = Stamp { sender, seq, scheduled: at };
    let mut message = BytesMut::from(&stamp.message(size)[..]);
    for (index, byte) in message.iter_mut().enumerate().skip(STAMP_BYTES) {
        *byte = (index as u32 ^ (index as u32 >> 8) ^ seq ^ sender) as u8;
    }
    message.freeze()
}

/// Judges all histories; `complete` says who must have everything that was sent.
pub(crate) fn check(clients: &[Client], sent: &Sent, complete: &[bool]) -> Result<Verdict, String> {
    let histories: Vec<&[Seen]> = clients.iter().map(|client| &client.history[..]).collect();
    check_histories(&histories, sent, complete)
}

/// The same, where members that are no clients sent as well; theirs is left out.
pub(crate) fn check_without_strangers(
    clients: &[Client],
    sent: &Sent,
    complete: &[bool],
) -> Result<Verdict, String> {
    let histories: Vec<&[Seen]> = clients.iter().map(|client| &client.history[..]).collect();
    let owners = owners(&histories);
    let known: BTreeSet<u32> = owners.iter().map(|(_, member, _)| *member).collect();
    let of_clients = |history: &&[Seen]| {
        let is = |seen: &&Seen| match &seen.what {
            What::Message { member, .. } | What::Gap { member, .. } => known.contains(member),
            _ => true,
        };
        history.iter().filter(is).cloned().collect::<Vec<Seen>>()
    };
    let histories: Vec<Vec<Seen>> = histories.iter().map(of_clients).collect();
    let histories: Vec<&[Seen]> = histories.iter().map(|history| &history[..]).collect();
    check_histories(&histories, sent, complete)
}

fn check_histories(histories: &[&[Seen]], sent: &Sent, complete: &[bool]) -> Result<Verdict, String> {
    let owners = owners(histories);
    let mut verdict = Verdict::default();
    for (number, history) in histories.iter().enumerate() {
        let mut receiver = Receiver {
            number,
            owners: &owners,
            sent,
            rooms: BTreeMap::new(),
            streams: BTreeMap::new(),
            lossy: BTreeSet::new(),
            verdict: Verdict::default(),
        };
        for seen in *history {
            receiver.take(seen).map_err(|reason| format!("client {number} at {:?}: {reason}", seen.at))?;
        }
        if complete[number] {
            receiver.finish().map_err(|reason| format!("client {number} at the end: {reason}"))?;
        }
        verdict.reliable += receiver.verdict.reliable;
        verdict.lossy += receiver.verdict.lossy;
        verdict.told += receiver.verdict.told;
    }
    Ok(verdict)
}

/// Who has had which member number in which room: a room that was empty counts from 1 again.
type Owners = BTreeSet<(String, u32, usize)>;

fn owners(histories: &[&[Seen]]) -> Owners {
    let mut owners = Owners::new();
    for (number, history) in histories.iter().enumerate() {
        for seen in *history {
            if let What::Joined { room, member, .. } = &seen.what {
                owners.insert((room.clone(), *member, number));
            }
        }
    }
    owners
}

struct Receiver<'a> {
    number: usize,
    owners: &'a Owners,
    sent: &'a Sent,
    /// By handle.
    rooms: BTreeMap<u16, Membership>,
    /// By handle, sender and stream.
    streams: BTreeMap<(u16, usize, u16), Position>,
    lossy: BTreeSet<(u16, usize, u16, u32)>,
    verdict: Verdict,
}

struct Membership {
    room: String,
    member: u32,
    since: Duration,
    /// Messages missing somewhere in the room, not yet found to be.
    missing: u32,
}

#[derive(Default)]
struct Position {
    last: u32,
    /// Told to be missing after the last one.
    missing: u32,
}

impl Position {
    /// How many are missing up to this message that nobody told of. What was sent `before` the receiver came in may
    /// have come too late for it, or not.
    fn hole(&self, up_to: u32, before: u32) -> Result<i64, String> {
        let missing = i64::from(up_to) - i64::from(self.last) - i64::from(self.missing);
        if missing < 0 {
            return Err(format!("{} were told missing that are not", -missing));
        }
        let excused = if self.last == 0 { i64::from(before) } else { 0 };
        Ok((missing - excused).max(0))
    }
}

impl Receiver<'_> {
    fn take(&mut self, seen: &Seen) -> Result<(), String> {
        match &seen.what {
            What::Joined { room, handle, member, .. } => {
                if self.rooms.get(handle).is_some_and(|old| old.member == *member) {
                    return Ok(());
                }
                let membership =
                    Membership { room: room.clone(), member: *member, since: seen.at, missing: 0 };
                if let Some(old) = self.rooms.insert(*handle, membership) {
                    return Err(format!("handle {handle} was that of {} until now", old.room));
                }
                Ok(())
            }
            What::Left { handle, .. } => {
                self.streams.retain(|key, _| key.0 != *handle);
                self.lossy.retain(|key| key.0 != *handle);
                match self.rooms.remove(handle) {
                    Some(_) => Ok(()),
                    None => Err(format!("left room {handle}, which it was not in")),
                }
            }
            What::Message { room, member, stream, lane, stamp, intact } => {
                self.message((*room, *member, *stream, *lane), *stamp, *intact)
            }
            What::Gap { room, member, stream, count } => self.gap(*room, *member, *stream, *count),
            What::Other(Event::Violation(what)) => Err(format!("the server broke the protocol: {what}")),
            What::Other(Event::SessionLost) => {
                self.rooms.clear();
                self.streams.clear();
                self.lossy.clear();
                Ok(())
            }
            What::Closed(_) | What::Other(_) => Ok(()),
        }
    }

    fn message(
        &mut self,
        (handle, member, stream, lane): (u16, u32, u16, Lane),
        stamp: Option<Stamp>,
        intact: bool,
    ) -> Result<(), String> {
        let stamp = stamp.filter(|_| intact).ok_or("a message is not as it was sent")?;
        let membership = self
            .rooms
            .get_mut(&handle)
            .ok_or_else(|| format!("a message of room {handle}, which it is not in"))?;
        let sender = stamp.sender as usize;
        if !self.owners.contains(&(membership.room.clone(), member, sender)) {
            return Err(format!("member {member} did not send message {} of client {sender}", stamp.seq));
        }
        let key = SentKey { client: sender, room: membership.room.clone(), stream, lane };
        if !self.sent.is_for(&key, self.number) {
            return Err(format!("a message on {key:?} that is not for it"));
        }
        if stamp.seq == 0 || stamp.seq > self.sent.count(&key) {
            return Err(format!("message {} of {key:?} was never sent", stamp.seq));
        }
        if lane == Lane::Lossy {
            self.verdict.lossy += 1;
            return match self.lossy.insert((handle, sender, stream, stamp.seq)) {
                true => Ok(()),
                false => Err(format!("lossy message {} of {key:?} came twice", stamp.seq)),
            };
        }
        self.verdict.reliable += 1;
        let before = before(self.sent, &key, membership.since);
        let position = self.streams.entry((handle, sender, stream)).or_default();
        if stamp.seq <= position.last {
            return Err(format!(
                "message {} of {key:?} came after {}: doubled or out of order",
                stamp.seq, position.last
            ));
        }
        let hole = position
            .hole(stamp.seq - 1, before)
            .map_err(|reason| format!("before message {} of {key:?} {reason}", stamp.seq))?;
        if hole > i64::from(membership.missing) {
            return Err(format!(
                "message {} of {key:?} came after {}, and {hole} between are silently missing",
                stamp.seq, position.last
            ));
        }
        membership.missing -= hole as u32;
        *position = Position { last: stamp.seq, missing: 0 };
        Ok(())
    }

    fn gap(&mut self, handle: u16, member: u32, stream: u16, count: u32) -> Result<(), String> {
        self.verdict.told += u64::from(count);
        let Some(membership) = self.rooms.get_mut(&handle) else {
            return Err(format!("a gap in room {handle}, which it is not in"));
        };
        if count == 0 {
            return Err("a gap of nothing".into());
        }
        if (member, stream) == (0, 0) {
            membership.missing += count;
            return Ok(());
        }
        let room = membership.room.clone();
        let mut owners = self.owners.iter().filter(|owner| (&owner.0, owner.1) == (&room, member));
        let sender = owners.next().ok_or_else(|| format!("a gap of member {member}, who is nobody"))?.2;
        self.streams.entry((handle, sender, stream)).or_default().missing += count;
        Ok(())
    }

    fn finish(&self) -> Result<(), String> {
        for (&handle, membership) in &self.rooms {
            let mut silently = 0;
            let keys = self.sent.times.iter().filter(|(key, _)| {
                key.lane == Lane::Reliable
                    && key.room == membership.room
                    && self.sent.is_for(key, self.number)
            });
            for (key, times) in keys {
                let none = Position::default();
                let position = self.streams.get(&(handle, key.client, key.stream)).unwrap_or(&none);
                let before = before(self.sent, key, membership.since);
                let hole = position
                    .hole(times.len() as u32, before)
                    .map_err(|reason| format!("at the end of {key:?} {reason}"))?;
                if hole > i64::from(membership.missing) {
                    return Err(format!(
                        "of {key:?} the last one is {}, {} were told missing, and {} were sent",
                        position.last,
                        position.missing,
                        times.len()
                    ));
                }
                silently += hole;
            }
            if silently != i64::from(membership.missing) {
                return Err(format!(
                    "in {} {} are told to be missing somewhere, and {silently} are",
                    membership.room, membership.missing
                ));
            }
        }
        Ok(())
    }
}

/// How many messages had been sent when the receiver came in.
fn before(sent: &Sent, key: &SentKey, since: Duration) -> u32 {
    sent.times.get(key).map_or(0, |times| times.partition_point(|at| *at <= since) as u32)
}
