//! Names of things that cross shards: shards, sessions, rooms and where they are. No state, no behaviour beyond hashing a room to its
//! shard.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

/// A shard: one thread with its own UDP port, peers, sessions and rooms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShardId(pub u16);

/// A session: a slot on its home shard, and the serial number of its occupant, so that a late message never reaches
/// the slot's next one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId {
    /// Home shard.
    pub shard: ShardId,
    /// Slot on the home shard.
    pub slot: u32,
    /// Counts the sessions of the shard, from 1.
    pub serial: u32,
}

impl SessionId {
    /// The session as clients name it.
    pub fn to_wire(self) -> String {
        format!("{:04x}{:08x}{:08x}", self.shard.0, self.slot, self.serial)
    }

    /// Reads what [`to_wire`](Self::to_wire) wrote.
    pub fn from_wire(wire: &str) -> Option<Self> {
        if wire.len() != 20 || !wire.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        Some(Self {
            shard: ShardId(u16::from_str_radix(&wire[..4], 16).ok()?),
            slot: u32::from_str_radix(&wire[4..12], 16).ok()?,
            serial: u32::from_str_radix(&wire[12..], 16).ok()?,
        })
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.shard.0, self.slot, self.serial)
    }
}

/// Where a room lives, once a session has been admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RoomPlace {
    /// The room's shard.
    pub shard: ShardId,
    /// Its slot there, and the serial number of the slot's occupant.
    pub slot: u32,
    /// See `slot`.
    pub serial: u32,
}

/// A room of a tenant (ACL10).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RoomKey {
    /// The API key.
    pub tenant: Arc<str>,
    /// The room's name.
    pub room: Arc<str>,
}

impl RoomKey {
    /// The shard where the room lives, the same in every process with as many shards.
    pub fn shard(&self, shards: u16) -> ShardId {
        // FNV-1a, with a byte between the parts that occurs in neither.
        let bytes = self.tenant.bytes().chain([0xff]).chain(self.room.bytes());
        let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        // FNV leaves the bits of short, similar names too regular for a modulus.
        let mixed = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        ShardId(((mixed >> 33) % u64::from(shards.max(1))) as u16)
    }
}

/// What time it is for people: milliseconds since 1970 at an instant. The shell keeps it right.
#[derive(Clone, Debug)]
pub struct WallClock {
    start: Instant,
    at_start: Arc<AtomicU64>,
}

impl WallClock {
    /// At `now` it is `unix_ms`.
    pub fn new(now: Instant, unix_ms: u64) -> Self {
        Self { start: now, at_start: Arc::new(AtomicU64::new(unix_ms)) }
    }

    /// At `now` it is `unix_ms` after all.
    pub fn set(&self, now: Instant, unix_ms: u64) {
        let passed = now.saturating_duration_since(self.start).as_millis() as u64;
        self.at_start.store(unix_ms.saturating_sub(passed), Ordering::Relaxed);
    }

    /// Milliseconds since 1970.
    pub fn unix_ms(&self, now: Instant) -> u64 {
        self.at_start.load(Ordering::Relaxed) + now.saturating_duration_since(self.start).as_millis() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_id_survives_the_wire_and_garbage_is_none() {
        let id = SessionId { shard: ShardId(3), slot: 70_000, serial: u32::MAX };
        assert_eq!(SessionId::from_wire(&id.to_wire()), Some(id));
        for garbage in ["", "xyz", "00030001117effffffffff", "+0030001117effffffff", "ééééééééée"] {
            assert_eq!(SessionId::from_wire(garbage), None, "{garbage}");
        }
    }

    #[test]
    fn rooms_spread_over_the_shards() {
        let mut count = [0; 4];
        for n in 0..4000 {
            count[RoomKey { tenant: "t".into(), room: n.to_string().into() }.shard(4).0 as usize] += 1;
        }
        assert!(count.iter().all(|&rooms| (800..1200).contains(&rooms)), "{count:?}");
    }
}
