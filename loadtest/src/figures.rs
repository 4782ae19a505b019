//! The figures of a run: what `--json` writes, the HTML report shows, bounds are held against and `compare` compares.
//!
//! The schema is stable: fields are added, never renamed or given another meaning; [`SCHEMA`] grows when that cannot be
//! helped. Times are milliseconds with the suffix `_ms`, or seconds with `_s`; shares are 0 to 1; sizes are bytes. Maps
//! are ordered, so that two runs' files can be compared by eye. Nothing is computed here: [`crate::account`] counts.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The version of this schema.
pub const SCHEMA: u32 = 1;

/// Everything that a run has shown.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// [`SCHEMA`] of the program that wrote it.
    pub schema: u32,
    /// Name and version of that program.
    pub program: String,
    /// When the run began, milliseconds since 1970.
    pub started_unix_ms: u64,
    /// What was run.
    pub scenario: ScenarioSummary,
    /// Whether the bounds held.
    pub verdict: Verdict,
    /// What was found to be wrong or odd, in words, the worst first.
    pub findings: Vec<Finding>,
    /// Who came and went.
    pub users: Users,
    /// How connecting went.
    pub connect: Connect,
    /// From the loss of a user's way to the server until frames went again.
    pub recovery: Recovery,
    /// By lane: `reliable` and `lossy` data messages, `messages` of the log.
    pub lanes: BTreeMap<String, Lane>,
    /// Latency of all lanes within the scenario's named windows of time.
    pub windows: BTreeMap<String, Window>,
    /// Errors and refusals by cause.
    pub errors: BTreeMap<String, u64>,
    /// What simulated networks did to packets, by group.
    pub networks: BTreeMap<String, NetworkFigures>,
    /// The server, where it could be looked at.
    pub server: Server,
    /// Those who meant the server ill.
    #[serde(default)]
    pub attacks: Vec<AttackFigures>,
    /// This program itself: whether the figures can be trusted.
    pub harness: Harness,
    /// One entry for each second.
    pub timeline: Vec<Second>,
}

/// What was run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ScenarioSummary {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// The seed of networks and users.
    pub seed: u64,
    /// The address of the server, without credentials.
    pub target: String,
    /// The kind of server, `switchyard` unless another adapter was chosen.
    pub adapter: String,
    /// The time of arriving, holding and draining.
    pub ramp_s: f64,
    /// See `ramp_s`.
    pub hold_s: f64,
    /// See `ramp_s`.
    pub drain_s: f64,
    /// The groups of users.
    pub groups: Vec<GroupSummary>,
    /// What the scenario did besides, in order of time.
    pub events: Vec<EventSummary>,
}

/// A group of users that do the same.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GroupSummary {
    /// Its name.
    pub name: String,
    /// How many at once.
    pub users: u32,
    /// In how many rooms.
    pub rooms: u32,
    /// The networks' names.
    pub network: String,
    /// `udp`, `websocket` or `mixed`.
    pub transport: String,
    /// What they do, a line each.
    pub does: Vec<String>,
}

/// Something that the scenario did at a time: for marks in charts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EventSummary {
    /// Since the run began.
    pub at_s: f64,
    /// In a few words: `server restarted`, `writers: handover to lte`.
    pub what: String,
}

/// Whether the bounds held.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Verdict {
    /// All held.
    pub passed: bool,
    /// The run was ended early.
    pub interrupted: bool,
    /// Each bound.
    pub bounds: Vec<Bound>,
}

/// One bound.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Bound {
    /// As the scenario states it: `lanes.reliable.lost <= 0`.
    pub bound: String,
    /// What was measured; nothing if there was nothing to measure, which breaks the bound.
    pub value: Option<f64>,
    /// What it was held against.
    pub limit: Option<f64>,
    /// Whether it held.
    pub held: bool,
    /// A sentence for people.
    pub sentence: String,
}

/// Something wrong or odd that the account shows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Finding {
    /// A stable code: `lost`, `doubled`, `reordered`, `altered`, `foreign`, `told_missing`, `late_sender`,
    /// `late_receiver`, `late_room`, `refused`, `broken_protocol`, `server_memory_grows`, `harness_behind`.
    pub kind: String,
    /// How many messages or users it is about.
    pub count: u64,
    /// A sentence: what, how often, whose.
    pub sentence: String,
    /// The first few cases, each with sender, receiver, number and time.
    pub examples: Vec<String>,
}

/// Who came and went.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Users {
    /// Users that were to come, all of churn included.
    pub planned: u64,
    /// Users that came as far as their first frame.
    pub joined: u64,
    /// Users that gave up.
    pub failed: u64,
    /// Users that left as planned.
    pub left: u64,
    /// Sessions begun anew by users that had one.
    pub sessions_lost: u64,
    /// WebSockets opened again.
    pub reconnects: u64,
    /// Changes of rung.
    pub rung_changes: u64,
    /// The rungs of those that were there, when the hold ended.
    pub rungs: BTreeMap<String, u64>,
}

/// How connecting went.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Connect {
    /// First connections tried.
    pub attempts: u64,
    /// Those that came as far as the first frame.
    pub succeeded: u64,
    /// `succeeded / attempts`.
    pub success_share: f64,
    /// Since connecting began: `websocket` (open), `joined`, `first_message` (the first frame over any rung), `ice`,
    /// `dtls`, `channel` (SCTP and the data channel), `ready` (on the rung it is to use).
    pub stages: BTreeMap<String, Times>,
    /// Why others failed.
    pub failures: BTreeMap<String, u64>,
}

/// From the loss of a user's way to the server until frames went again.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Recovery {
    /// All of them.
    pub times: Times,
    /// By what was lost: `socket`, `channel`, `session`.
    pub by_cause: BTreeMap<String, Times>,
    /// Those that had not recovered when the run ended.
    pub unrecovered: u64,
}

/// Durations.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Times {
    /// How many.
    pub count: u64,
    /// Their mean.
    pub mean_ms: f64,
    /// Percentiles.
    pub p50_ms: f64,
    /// See `p50_ms`.
    pub p95_ms: f64,
    /// See `p50_ms`.
    pub p99_ms: f64,
    /// The longest.
    pub max_ms: f64,
    /// The distribution: (milliseconds, share that took no longer), rising in both; at most 100 points.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cdf: Vec<(f64, f64)>,
}

/// Messages of one lane. One message to three receivers is one sent and three expected.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Lane {
    /// Given to the lane.
    pub sent: u64,
    /// Due and not sent: the pipe was full, or there was none.
    pub unsent: u64,
    /// Lossy messages dropped by the sender's own full pipe.
    pub dropped_before_sending: u64,
    /// Of the log: acknowledged as durable.
    pub accepted: u64,
    /// Of the log: refused for good.
    pub refused: u64,
    /// Owed to receivers.
    pub expected: u64,
    /// Received, first copies.
    pub received: u64,
    /// Owed and never received.
    pub lost: u64,
    /// `lost / expected`.
    pub loss_share: f64,
    /// Further copies received.
    pub doubled: u64,
    /// Received after a later one of the same sender and stream.
    pub out_of_order: u64,
    /// Received with other contents than were sent.
    pub altered: u64,
    /// Received though nobody sent it.
    pub foreign: u64,
    /// Missing, as the server told the receiver with a gap.
    pub told_missing: u64,
    /// Bytes of contents received.
    pub received_bytes: u64,
    /// Received each second of the hold.
    pub received_per_s: f64,
    /// From the time at which it was due to be sent until it was received: no omission is hidden by a slow sender.
    pub latency: Times,
    /// Of the log: from being due until acknowledged as durable.
    pub accepted_after: Times,
}

/// A named window of time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Window {
    /// Since the run began.
    pub from_s: f64,
    /// See `from_s`.
    pub until_s: f64,
    /// Received, of messages that were due in the window.
    pub received: u64,
    /// From due until received.
    pub latency: Times,
    /// By group of the receiver.
    pub groups: BTreeMap<String, Times>,
}

/// What simulated networks did to packets.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkFigures {
    /// Packets, up and down, by fate: `delivered`, `lost`, `queue_full`, `too_large`, `down`, `blocked`, `duplicated`.
    pub up: BTreeMap<String, u64>,
    /// See `up`.
    pub down: BTreeMap<String, u64>,
    /// Changes of address.
    pub address_changes: u64,
}

/// The server, where it could be looked at.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Server {
    /// The process looked at, if it is local.
    pub pid: Option<u32>,
    /// CPU seconds used from the beginning to the end of the hold.
    pub cpu_s: Option<f64>,
    /// Resident memory when the hold began, when it ended, and the most of it.
    pub rss_begin_bytes: Option<u64>,
    /// See `rss_begin_bytes`.
    pub rss_end_bytes: Option<u64>,
    /// See `rss_begin_bytes`.
    pub rss_max_bytes: Option<u64>,
    /// The slope of the resident memory over the second half of the hold, bytes a second, by least squares.
    pub rss_slope_bytes_per_s: Option<f64>,
    /// CPU microseconds of the server for each message received by somebody.
    pub cpu_us_per_delivery: Option<f64>,
    /// From `/metrics`: values at the beginning and the end of the hold, summed over labels unless the name has some.
    pub metrics: BTreeMap<String, (f64, f64)>,
    /// Why there are no figures, if there are none.
    pub unavailable: Option<String>,
}

/// An attack.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AttackFigures {
    /// `flood`, `garbage`, `oversize`, `connection_storm` or `slowloris`.
    pub kind: String,
    /// When it began, since the run began.
    pub at_s: f64,
    /// How long it took.
    pub for_s: f64,
    /// Connections that were opened.
    pub connections: u64,
    /// Messages, datagrams or, from those who are slow on purpose, bytes that were sent.
    pub sent: u64,
    /// Their bytes.
    pub sent_bytes: u64,
    /// What the server answered: codes, and how it ended connections.
    pub answers: BTreeMap<String, u64>,
}

/// This program itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Harness {
    /// Threads.
    pub threads: u32,
    /// CPU seconds used during the hold.
    pub cpu_s: f64,
    /// The busiest thread's share of one core during the hold: near 1 the harness is the bottleneck.
    pub busiest_thread_share: f64,
    /// How much later than due this program sent and looked: its own part in every latency.
    pub behind: Times,
    /// Resident memory at its most.
    pub rss_max_bytes: u64,
}

/// A second of the run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Second {
    /// Its end, since the run began.
    pub at_s: f64,
    /// Users that are in their rooms, by rung: `udp`, `websocket`, `none` (between rungs).
    pub rungs: BTreeMap<String, u64>,
    /// Joined in this second.
    pub joins: u64,
    /// Messages sent, all lanes.
    pub sent: u64,
    /// Messages received, all lanes.
    pub received: u64,
    /// Errors and refusals.
    pub errors: u64,
    /// Latency of messages that were due in this second; nothing if none was received.
    pub p50_ms: Option<f64>,
    /// See `p50_ms`.
    pub p95_ms: Option<f64>,
    /// See `p50_ms`.
    pub p99_ms: Option<f64>,
    /// See `p50_ms`.
    pub max_ms: Option<f64>,
    /// CPU share of the server, 1 is one core.
    pub server_cpu: Option<f64>,
    /// Resident memory of the server.
    pub server_rss_bytes: Option<u64>,
    /// CPU share of this program.
    pub harness_cpu: Option<f64>,
    /// Packets that simulated networks did not deliver.
    pub packets_dropped: u64,
}
