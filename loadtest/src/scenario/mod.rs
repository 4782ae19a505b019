//! What is to be run and what must hold, in YAML. `docs/loadtest.md` is the reference of its fields.
//!
//! A [`Scenario`] is what was read and is consistent in itself; [`schedule`] makes users and times of it. Times of
//! events, windows and attacks count from the beginning of the hold.

pub mod bounds;
mod check;
pub mod schedule;
pub mod shipped;

use std::{collections::BTreeMap, fmt, fs, path::Path, str::FromStr, time::Duration};

use serde::Deserialize;

use crate::{
    browser,
    scenario::bounds::Bound,
    units::{Frequency, Size, Time},
};

/// What is to be run and what must hold.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// What the file is called, without folder and ending.
    #[serde(skip)]
    pub name: String,
    /// What it is for.
    pub description: String,
    /// Users arrive over this time.
    #[serde(default = "Scenario::default_ramp")]
    pub ramp: Time,
    /// From the end of the ramp to the beginning of the hold: the last to arrive come into their rooms.
    #[serde(default = "Scenario::default_settle")]
    pub settle: Time,
    /// Users do what they do. Everything that is measured falls into it.
    pub hold: Time,
    /// At most so long is waited for what is under way.
    #[serde(default = "Scenario::default_drain")]
    pub drain: Time,
    /// Who takes part.
    pub groups: Vec<Group>,
    /// What happens meanwhile.
    #[serde(default)]
    pub events: Vec<Event>,
    /// Who attacks the server meanwhile.
    #[serde(default)]
    pub attacks: Vec<Attack>,
    /// Parts of the hold that the report tells of apart.
    #[serde(default)]
    pub windows: BTreeMap<String, Span>,
    /// What must hold.
    #[serde(default)]
    pub bounds: Vec<Bound>,
    /// Settings that the server must have, by their names in its configuration: `limits.participants_per_room: 500`.
    #[serde(default)]
    pub settings: BTreeMap<String, Setting>,
}

/// Users that do the same.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// Its name in the report and in events.
    pub name: String,
    /// How many there are at once; not with `arrivals`.
    #[serde(default)]
    pub users: u32,
    /// What their rooms are called; groups that call theirs the same share them. The group's name if it is not set.
    pub room: Option<String>,
    /// In how many rooms they are.
    pub rooms: Option<u32>,
    /// How many of them are in each room.
    pub per_room: Option<u32>,
    /// Their networks.
    #[serde(default)]
    pub network: Networks,
    /// How they are connected.
    #[serde(default)]
    pub transport: Transport,
    /// What they do.
    #[serde(default)]
    pub does: Vec<Behaviour>,
    /// Users leave, and others come in their place.
    pub churn: Option<Churn>,
    /// Users come one after the other during the hold.
    pub arrivals: Option<Arrivals>,
}

/// Networks with their weights.
#[derive(Clone, Debug, Deserialize)]
#[serde(
    untagged,
    expecting = "a network is a name, a file, or a map of those with weights, such as {lan: 3, lte: 1}"
)]
pub enum Networks {
    /// One for all.
    One(String),
    /// Several: each user has one of them, in these proportions.
    Weighted(BTreeMap<String, u32>),
}

/// How users are connected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// Data channels over UDP, the WebSocket where that cannot be.
    #[default]
    Udp,
    /// The WebSocket alone.
    Websocket,
    /// Every other member of a room the one, the rest the other.
    Mixed,
}

/// One thing that users do.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Behaviour {
    /// Data messages to the whole room.
    Data(Data),
    /// Durable messages, in the room's log.
    Messages(Messages),
    /// Not reading for a while.
    Stall(Stall),
}

/// Data messages to the whole room.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// On which lane.
    #[serde(default)]
    pub lane: Lane,
    /// How often each sender sends.
    #[serde(default)]
    pub rate: Frequency,
    /// Bytes of each message.
    #[serde(default = "Data::default_size")]
    pub size: Size,
    /// How many members of the group in each room send; all, if it is not set.
    pub senders: Option<u32>,
    /// Whether the times between are random, as those of people are.
    #[serde(default)]
    pub random: bool,
}

/// Durable messages.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Messages {
    /// How often each sender writes.
    #[serde(default)]
    pub rate: Frequency,
    /// Bytes of each message's text.
    #[serde(default = "Data::default_size")]
    pub size: Size,
    /// How many members of the group in each room write; all, if it is not set.
    pub senders: Option<u32>,
    /// Whether the times between are random, as those of people are.
    #[serde(default)]
    pub random: bool,
}

/// How data messages are delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Lane {
    /// In order, nothing lost.
    #[default]
    Reliable,
    /// Once or not at all.
    Lossy,
}

/// Not reading for a while.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stall {
    /// When.
    pub at: Time,
    /// How long.
    #[serde(rename = "for")]
    pub length: Time,
    /// From the beginning of one to that of the next, if it is more than once.
    pub every: Option<Time>,
}

/// Users leave, and others come in their place.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Churn {
    /// How long each stays.
    pub stays: Time,
    /// How long its place is empty.
    #[serde(default)]
    pub away: Time,
}

/// Users come one after the other, whatever becomes of those before.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Arrivals {
    /// How many come each second, at random times.
    pub rate: Frequency,
    /// How long each stays.
    pub stays: Time,
}

/// Something that happens during the hold: one of `restart`, `network`, `address` and `outage`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// When.
    pub at: Time,
    /// Users are met one after the other over this time; all at once if it is not set.
    #[serde(default)]
    pub over: Time,
    /// The server is ended and started again.
    pub restart: Option<Restart>,
    /// Users move to another network and get another address.
    pub network: Option<Handover>,
    /// Users get another address.
    pub address: Option<OfGroup>,
    /// Nothing passes for a while.
    pub outage: Option<Outage>,
}

/// The server is ended and started again.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Restart {
    /// How it is ended.
    #[serde(default)]
    pub signal: Signal,
    /// How long it is away, once it has ended.
    #[serde(default)]
    pub down: Time,
}

/// How a server is ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Signal {
    /// Asked to end.
    #[default]
    Term,
    /// Without a chance to do anything.
    Kill,
}

/// Users move to another network.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Handover {
    /// Whose; everybody's if it is not set.
    pub group: Option<String>,
    /// Name or file of the network.
    pub to: String,
}

/// What happens to a group.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OfGroup {
    /// Which; all if it is not set.
    pub group: Option<String>,
}

/// Nothing passes for a while.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outage {
    /// Whose network; everybody's if it is not set.
    pub group: Option<String>,
    /// How long.
    #[serde(rename = "for")]
    pub length: Time,
}

/// Somebody who means the server ill.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attack {
    /// What they do.
    pub kind: AttackKind,
    /// When they begin.
    #[serde(default)]
    pub at: Time,
    /// How long.
    #[serde(rename = "for")]
    pub length: Time,
    /// How many connections, or senders, at once.
    #[serde(default = "Attack::default_connections")]
    pub connections: u32,
    /// What each does a second: messages, connections, datagrams or bytes, by kind.
    #[serde(default = "Attack::default_rate")]
    pub rate: Frequency,
}

/// Ways to mean a server ill.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttackKind {
    /// Valid members of a room of their own that send data far above their limit.
    Flood,
    /// WebSocket messages and UDP datagrams of random bytes.
    Garbage,
    /// WebSocket messages larger than any that is allowed.
    Oversize,
    /// Connections that are opened and left at once.
    ConnectionStorm,
    /// Connections that send their request a byte at a time.
    Slowloris,
}

/// A part of the hold: `10s..30s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Span {
    /// Its beginning, since the hold began.
    pub from: Duration,
    /// Its end.
    pub until: Duration,
}

/// A value of a server's setting.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged, expecting = "a setting is a number, a text, or true or false")]
pub enum Setting {
    /// A number.
    Number(u64),
    /// True or false.
    Bool(bool),
    /// A text.
    Text(String),
}

/// Why there is no scenario.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// There is neither a shipped one nor a file of this name.
    #[error("there is no scenario {name}: it is none of {known}, and as a file it cannot be read: {source}")]
    Unknown {
        /// What was asked for.
        name: String,
        /// The shipped ones.
        known: String,
        /// Why it could not be read as a file.
        source: std::io::Error,
    },
    /// The text is no scenario, or contradicts itself.
    #[error("{name}: {problem}")]
    Wrong {
        /// Which.
        name: String,
        /// What is wrong and where, and what would be right.
        problem: String,
    },
}

impl Scenario {
    fn default_ramp() -> Time {
        Time(Duration::from_secs(5))
    }

    fn default_settle() -> Time {
        Time(Duration::from_secs(2))
    }

    fn default_drain() -> Time {
        Time(Duration::from_secs(5))
    }

    /// A shipped scenario by its name, or one from a file.
    pub fn load(name: &str) -> Result<Self, ScenarioError> {
        let (yaml, name) = text(name)?;
        Self::parse(&name, &yaml)
    }

    /// Reads YAML. The name is for the report and for messages.
    pub fn parse(name: &str, yaml: &str) -> Result<Self, ScenarioError> {
        let wrong = |error: serde_saphyr::Error| ScenarioError::Wrong {
            name: name.to_owned(),
            problem: error.to_string(),
        };
        let mut scenario: Self = serde_saphyr::from_str(yaml).map_err(wrong)?;
        scenario.name = name.to_owned();
        scenario.check()?;
        Ok(scenario)
    }

    /// Refuses what contradicts itself; to be called after a change.
    pub fn check(&self) -> Result<(), ScenarioError> {
        check::scenario(self).map_err(|problem| ScenarioError::Wrong { name: self.name.clone(), problem })
    }

    /// Has so many users at once, in the groups' proportions; rooms stay as large as they are. Arrivals come as often in
    /// proportion.
    pub fn scale(&mut self, users: u32) {
        let before: u32 = self.groups.iter().map(|group| group.users).sum();
        let factor = f64::from(users) / f64::from(before.max(1));
        for group in &mut self.groups {
            let scaled = (f64::from(group.users) * factor).round() as u32;
            group.users = if group.users > 0 { scaled.max(1) } else { 0 };
            if let Some(rooms) = &mut group.rooms {
                *rooms = ((f64::from(*rooms) * factor).round() as u32).max(1);
            }
            if let Some(arrivals) = &mut group.arrivals
                && before > 0
            {
                arrivals.rate.0 *= factor;
            }
        }
    }

    /// When the hold begins and ends, since the run began.
    pub fn hold_span(&self) -> (Duration, Duration) {
        let begin = self.ramp.0 + self.settle.0;
        (begin, begin + self.hold.0)
    }

    /// Names and files of all networks that are used, each once, in order.
    pub fn networks(&self) -> Vec<&str> {
        let of_groups = self.groups.iter().flat_map(|group| group.network.weighted());
        let handovers = self.events.iter().filter_map(|event| event.network.as_ref());
        let mut names: Vec<&str> =
            of_groups.map(|(name, _)| name).chain(handovers.map(|handover| handover.to.as_str())).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Whether the server must be in the harness's hands.
    pub fn restarts_server(&self) -> bool {
        self.events.iter().any(|event| event.restart.is_some())
    }
}

/// The text of a shipped scenario or of a file, and its name.
pub fn text(name: &str) -> Result<(String, String), ScenarioError> {
    if let Some(yaml) = shipped::find(name) {
        return Ok((yaml.to_owned(), name.to_owned()));
    }
    match fs::read_to_string(name) {
        Ok(yaml) => {
            let stem = Path::new(name).file_stem().map(|stem| stem.to_string_lossy().into_owned());
            Ok((yaml, stem.unwrap_or_else(|| name.to_owned())))
        }
        Err(source) => {
            let known = shipped::names().collect::<Vec<_>>().join(", ");
            Err(ScenarioError::Unknown { name: name.to_owned(), known, source })
        }
    }
}

impl Group {
    /// What its rooms are called.
    pub fn room_name(&self) -> &str {
        self.room.as_deref().unwrap_or(&self.name)
    }

    /// How many rooms it is spread over.
    pub fn room_count(&self) -> u32 {
        match (self.rooms, self.per_room) {
            (Some(rooms), _) => rooms.max(1),
            (None, Some(members)) => self.users.div_ceil(members.max(1)).max(1),
            (None, None) => 1,
        }
    }
}

impl Networks {
    /// The networks with their weights, in order of name.
    pub fn weighted(&self) -> Vec<(&str, u32)> {
        match self {
            Self::One(name) => vec![(name, 1)],
            Self::Weighted(weights) => {
                weights.iter().map(|(name, weight)| (name.as_str(), *weight)).collect()
            }
        }
    }
}

/// No network at all: the way to the server as it is.
impl Default for Networks {
    fn default() -> Self {
        Self::One("perfect".to_owned())
    }
}

impl fmt::Display for Networks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(name) => f.write_str(name),
            Self::Weighted(weights) => {
                let parts: Vec<_> = weights.iter().map(|(name, weight)| format!("{name} {weight}")).collect();
                f.write_str(&parts.join(", "))
            }
        }
    }
}

impl FromStr for Transport {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = [Self::Udp, Self::Websocket, Self::Mixed];
        let found = all.into_iter().find(|transport| transport.to_string() == text);
        found.ok_or_else(|| "udp, websocket or mixed is expected".to_owned())
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Udp => "udp",
            Self::Websocket => "websocket",
            Self::Mixed => "mixed",
        })
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Term => "SIGTERM",
            Self::Kill => "SIGKILL",
        })
    }
}

impl fmt::Display for Behaviour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sends = |f: &mut fmt::Formatter<'_>, what, rate: Frequency, size: Size, senders: Option<u32>| {
            if senders == Some(0) || rate.0 == 0.0 {
                return write!(f, "{what}: receives");
            }
            let whom = senders.map_or("each".to_owned(), |count| format!("{count} of each room"));
            write!(f, "{what}: {whom} {}/s of {} B", rate.0, size.0)
        };
        match self {
            Self::Data(Data { lane: Lane::Reliable, rate, size, senders, .. }) => {
                sends(f, "reliable data", *rate, *size, *senders)
            }
            Self::Data(Data { lane: Lane::Lossy, rate, size, senders, .. }) => {
                sends(f, "lossy data", *rate, *size, *senders)
            }
            Self::Messages(Messages { rate, size, senders, .. }) => {
                sends(f, "messages", *rate, *size, *senders)
            }
            Self::Stall(Stall { at, length, every }) => {
                write!(f, "stops reading at {:?} for {:?}", at.0, length.0)?;
                every.map_or(Ok(()), |every| write!(f, " every {:?}", every.0))
            }
        }
    }
}

impl Data {
    fn default_size() -> Size {
        Size(64)
    }
}

impl From<Lane> for browser::Lane {
    fn from(lane: Lane) -> Self {
        match lane {
            Lane::Reliable => Self::Reliable,
            Lane::Lossy => Self::Lossy,
        }
    }
}

impl AttackKind {
    /// As scenarios and reports write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Flood => "flood",
            Self::Garbage => "garbage",
            Self::Oversize => "oversize",
            Self::ConnectionStorm => "connection_storm",
            Self::Slowloris => "slowloris",
        }
    }
}

impl Attack {
    fn default_connections() -> u32 {
        10
    }

    fn default_rate() -> Frequency {
        Frequency(100.0)
    }
}

impl TryFrom<String> for Span {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let span = text.split_once("..").and_then(|(from, until)| {
            let time = |text: &str| text.trim().parse::<Time>().ok().map(|time| time.0);
            Some(Self { from: time(from)?, until: time(until)? })
        });
        span.filter(|span| span.from < span.until).ok_or_else(|| {
            format!("\"{text}\" is no window; two times are expected, the earlier first, such as 10s..30s")
        })
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Bool(value) => write!(f, "{value}"),
            Self::Text(text) => f.write_str(text),
        }
    }
}

#[cfg(test)]
mod tests;
