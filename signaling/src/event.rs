//! What the log is made of: events and submissions, sections 9.1 to 9.3 of `docs/protocol.md`. Plain values; their form
//! on the wire is [`crate::record`]'s, and what becomes of them is decided by the server's `room::log`.

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A writer of one room, named by the server. On the wire in JSON: 16 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Origin(pub u64);

impl Origin {
    /// As JSON has it.
    pub fn to_hex(self) -> String {
        to_hex(self.0)
    }

    /// Reads what [`to_hex`](Self::to_hex) wrote.
    pub fn from_hex(hex: &str) -> Option<Self> {
        from_hex(hex).map(Self)
    }
}

impl Serialize for Origin {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        hex::serialize(&self.0, serializer)
    }
}

impl<'de> Deserialize<'de> for Origin {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        hex::deserialize(deserializer).map(Self)
    }
}

/// For `#[serde(with)]`: a number of 64 bits that is no count.
mod hex {
    use serde::de::Error as _;

    use super::{Deserialize, Deserializer, Serializer, from_hex, to_hex};

    pub(super) fn serialize<S: Serializer>(number: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&to_hex(*number))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        let text = String::deserialize(deserializer)?;
        from_hex(&text).ok_or_else(|| D::Error::custom("not 16 hexadecimal digits"))
    }
}

/// A number of 64 bits as JSON has it: 16 hexadecimal digits.
pub fn to_hex(number: u64) -> String {
    format!("{number:016x}")
}

/// Reads what [`to_hex`] wrote.
pub fn from_hex(hex: &str) -> Option<u64> {
    let is_hex = hex.len() == 16 && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hex.then(|| u64::from_str_radix(hex, 16).ok()).flatten()
}

/// What an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum EventKind {
    /// A chat message.
    Chat = 1,
    /// A comment on something.
    Comment = 2,
    /// A message of the application itself.
    System = 3,
    /// Replaces a message's body.
    Edit = 4,
    /// Takes a message away; its place stays.
    Delete = 5,
    /// Adds the author's reaction.
    React = 6,
    /// Takes it back.
    Unreact = 7,
    /// Changes fields of the room.
    Fields = 8,
    /// The application's own.
    Custom = 9,
    /// Ends a streamed message; in submissions alone, the event is a chat or comment.
    End = 10,
}

impl EventKind {
    /// Every kind.
    pub const ALL: [Self; 10] = [
        Self::Chat,
        Self::Comment,
        Self::System,
        Self::Edit,
        Self::Delete,
        Self::React,
        Self::Unreact,
        Self::Fields,
        Self::Custom,
        Self::End,
    ];

    /// The kind with this number.
    pub fn from_wire(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == number)
    }

    /// Whether it makes a message that others can answer, edit and react to.
    pub fn is_message(self) -> bool {
        matches!(self, Self::Chat | Self::Comment | Self::System)
    }

    /// The name of a kind of message.
    pub fn name(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Comment => "comment",
            Self::System => "system",
            Self::Edit => "edit",
            Self::Delete => "delete",
            Self::React => "react",
            Self::Unreact => "unreact",
            Self::Fields => "fields",
            Self::Custom => "custom",
            Self::End => "end",
        }
    }
}

/// The body is not JSON but bytes that only clients understand (ACL11).
pub const OPAQUE: u8 = 1;
/// The author of a streamed message went before its end.
pub const INCOMPLETE: u8 = 2;

/// What is the same in a submission, a stream and an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// What it is.
    pub kind: EventKind,
    /// The application's.
    pub version: u8,
    /// [`OPAQUE`], [`INCOMPLETE`].
    pub flags: u8,
    /// The `seq` it refers to, or 0; see the table of section 9.2.
    pub target: u64,
    /// Untouched.
    pub body: Bytes,
}

/// What a writer wants in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submission {
    /// Whose.
    pub origin: Origin,
    /// Counts the origin's submissions from 1.
    pub cseq: u32,
    /// The first of the origin that has no answer yet.
    pub base: u32,
    /// Drawn once; makes two submissions differ that say the same.
    pub nonce: u32,
    /// What it says.
    pub content: Content,
}

/// An entry of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its place, from 1.
    pub seq: u64,
    /// When it was taken, milliseconds since 1970.
    pub at: u64,
    /// Who wrote it, with `cseq`.
    pub origin: Origin,
    /// See `origin`.
    pub cseq: u32,
    /// The author.
    pub user: String,
    /// The author's display name then.
    pub name: String,
    /// What it says.
    pub content: Content,
}

/// A place in the log, as a reader remembers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Position {
    /// Counts restored backups.
    pub epoch: u32,
    /// The last event.
    pub seq: u64,
    /// Sums up the log to there.
    #[serde(with = "hex")]
    pub digest: u64,
    /// Shows that the server said so.
    #[serde(with = "hex")]
    pub proof: u64,
}
