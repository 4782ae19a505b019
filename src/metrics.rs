//! Everything the server counts: each metric's name, help and labels, one struct per subject (OPS2).
//!
//! No label ever holds a room, user, tenant, peer or address, and none can hold text from outside: label
//! values are `&'static str` or an enum of this module, so that the number of series is bounded by the
//! program, not by its users.
//!
//! Shards count in [`ShardCounters`], which is plain memory of their own thread, and publish it once in a
//! while; nothing on the path of a packet touches an atomic. What happens seldom or elsewhere (joins,
//! requests) is counted directly. [`Metrics::render`] is what `/metrics` answers; serving it is the business
//! of `http`.

mod attempts;
mod doors;
mod label;
mod quality;
mod shard;
mod turn;

use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

pub use attempts::Attempts;
pub use doors::{Tls, TurnDoors};
pub use label::{
    Arrival, Connect, DatagramDrop, Direction, Door, DropCause, Lane, Queue, Reload, Rung, StoreFailure,
    StoreQueue, StoreRead, Stream, TurnDrop,
};
pub use quality::Quality;
pub use shard::ShardCounters;
pub use turn::{Turn, TurnCounters};

/// Seconds from sender to receiver: fine where the aims lie (100 and 200 ms), coarse beyond.
const DELIVERY_BUCKETS: [f64; 13] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 2.5, 10.0];

/// Seconds of one turn of a shard's loop: from an idle turn to one that every peer of the shard feels.
const LOOP_BUCKETS: [f64; 11] =
    [0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 1.0];

/// Seconds of one HTTP request.
const HTTP_BUCKETS: [f64; 8] = [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0];

/// Seconds of one commit, or one answer, of the store: from memory to a disk that is too slow.
const STORE_BUCKETS: [f64; 12] =
    [0.000_1, 0.000_25, 0.000_5, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.5];

/// The registry and all subjects.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Who is here.
    pub rooms: Rooms,
    /// What clients ask on the signalling socket.
    pub signalling: Signalling,
    /// WebRTC connections.
    pub webrtc: WebRtc,
    /// Attempts to connect, as clients tell of them.
    pub attempts: Attempts,
    /// How good connections are, as clients have measured.
    pub quality: Quality,
    /// The HTTP side.
    pub http: Http,
    /// What survives.
    pub store: Store,
    /// Rooms' logs.
    pub logs: Logs,
    /// The relay.
    pub turn: Turn,
    /// The doors of TURN.
    pub turn_doors: TurnDoors,
    /// The certificate.
    pub tls: Tls,
    messages: Messages,
    shards: Shards,
    sessions: IntGaugeVec,
}

/// Joins, leaves and refusals.
#[derive(Debug)]
pub struct Rooms {
    /// Successful joins.
    pub joins: IntCounter,
    leaves: IntCounterVec,
    refusals: IntCounterVec,
}

impl Rooms {
    /// Counts participants who left; `reason` is a code of the protocol.
    pub fn left(&self, reason: &'static str, count: u64) {
        self.leaves.with_label_values(&[reason]).inc_by(count);
    }

    /// Counts refusals; `code` is a code of the protocol.
    pub fn refused(&self, code: &'static str, count: u64) {
        self.refusals.with_label_values(&[code]).inc_by(count);
    }
}

/// Messages on the signalling socket.
#[derive(Debug)]
pub struct Signalling {
    messages: IntCounterVec,
    /// Messages that did not parse.
    pub malformed: IntCounter,
    /// Sessions that a further WebSocket has resumed.
    pub resumes: IntCounter,
}

impl Signalling {
    /// Counts a client's message; `kind` is a message type of the protocol.
    pub fn message(&self, kind: &'static str) {
        self.messages.with_label_values(&[kind]).inc();
    }
}

/// How WebRTC connections fare.
#[derive(Debug)]
pub struct WebRtc {
    outcomes: IntCounterVec,
    /// Connections that moved to another path without an ICE restart.
    pub path_changes: IntCounter,
    moves: IntCounterVec,
    /// Questions over a WebSocket whether the data channel beside it works.
    pub doubts: IntCounter,
    /// Frames copied to the WebSocket meanwhile.
    pub copies: IntCounter,
}

impl WebRtc {
    /// Counts outcomes.
    pub fn outcome(&self, outcome: Connect, count: u64) {
        self.outcomes.with_label_values(&[outcome.as_str()]).inc_by(count);
    }

    /// Counts sessions that their clients moved to the WebSocket and to the data channel.
    pub fn moved(&self, [to_socket, to_channel]: [u64; 2]) {
        for (to, count) in [("websocket", to_socket), ("datachannel", to_channel)] {
            self.moves.with_label_values(&[to]).inc_by(count);
        }
    }
}

/// Requests and sockets.
#[derive(Debug)]
pub struct Http {
    requests: IntCounterVec,
    seconds: Histogram,
    /// Open WebSockets.
    pub websockets: IntGauge,
}

impl Http {
    /// Counts a request that was answered with `status` after `took`.
    pub fn request(&self, door: Door, status: u16, took: Duration) {
        let class = match status {
            100..=199 => "1xx",
            200..=299 => "2xx",
            300..=399 => "3xx",
            400..=499 => "4xx",
            _ => "5xx",
        };
        self.requests.with_label_values(&[door.as_str(), class]).inc();
        // A stream takes as long as its author does.
        if door != Door::Streams {
            self.seconds.observe(took.as_secs_f64());
        }
    }
}

/// What becomes of submissions to logs, and of those who read them.
#[derive(Debug)]
pub struct Logs {
    events: IntCounterVec,
    submissions: IntCounterVec,
    snapshots: IntCounterVec,
    incidents: IntCounterVec,
}

impl Logs {
    /// Counts events that were committed, by kind.
    pub fn committed(&self, kind: &'static str, count: u64) {
        self.events.with_label_values(&[kind]).inc_by(count);
    }

    /// Counts submissions that became no event now, by outcome and code.
    pub fn submission(&self, outcome: &'static str, code: &'static str, count: u64) {
        self.submissions.with_label_values(&[outcome, code]).inc_by(count);
    }

    /// Counts snapshots sent, by reason.
    pub fn snapshot(&self, reason: &'static str, count: u64) {
        self.snapshots.with_label_values(&[reason]).inc_by(count);
    }

    /// Counts what happens to a log as a whole.
    pub fn incident(&self, incident: &'static str, count: u64) {
        self.incidents.with_label_values(&[incident]).inc_by(count);
    }
}

/// Commits and questions of the store.
#[derive(Debug)]
pub struct Store {
    commits: IntCounter,
    batches: IntCounter,
    events: IntCounter,
    commit: Histogram,
    reads: HistogramVec,
    failures: IntCounterVec,
    queue: IntGaugeVec,
    bytes: IntGauge,
    up: IntGauge,
}

impl Store {
    /// Counts a transaction with so many batches that were taken, and events in all.
    pub fn committed(&self, batches: usize, events: usize, took: Duration) {
        self.commits.inc();
        self.batches.inc_by(batches as u64);
        self.events.inc_by(events as u64);
        self.commit.observe(took.as_secs_f64());
    }

    /// Counts an answer.
    pub fn read(&self, kind: StoreRead, took: Duration) {
        self.reads.with_label_values(&[kind.as_str()]).observe(took.as_secs_f64());
    }

    /// Counts what was not done.
    pub fn failed(&self, cause: StoreFailure) {
        self.failures.with_label_values(&[cause.as_str()]).inc();
    }

    /// Notes how much waits.
    pub fn waiting(&self, queue: StoreQueue, letters: usize) {
        self.queue.with_label_values(&[queue.as_str()]).set(i64::try_from(letters).unwrap_or(i64::MAX));
    }

    /// Notes how large the database is on disk.
    pub fn bytes(&self, bytes: u64) {
        self.bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// Notes whether the database can be written to, as far as is known.
    pub fn is_up(&self, is_up: bool) {
        self.up.set(is_up.into());
    }
}

#[derive(Debug)]
struct Messages {
    count: IntCounterVec,
    bytes: IntCounterVec,
    drops: IntCounterVec,
    delivery: Histogram,
}

#[derive(Debug)]
struct Shards {
    turn: HistogramVec,
    queue: IntGaugeVec,
    rooms: IntGaugeVec,
    participants: IntGaugeVec,
    peers: IntGaugeVec,
    datagrams: IntCounterVec,
    datagram_bytes: IntCounterVec,
    datagram_drops: IntCounterVec,
}

impl Metrics {
    /// Registers everything.
    #[must_use]
    pub fn new() -> Self {
        let registry = Registry::new();
        let r = &registry;
        let build = gauges(r, "switchyard_build_info", "The version that runs; always 1.", &["version"]);
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let rooms = Rooms {
            joins: counter(r, "switchyard_joins_total", "Participants let into a room."),
            leaves: counters(r, "switchyard_leaves_total", "Participants gone, by reason.", &["reason"]),
            refusals: counters(r, "switchyard_refusals_total", "Requests refused, by code.", &["code"]),
        };
        let signalling = Signalling {
            messages: counters(
                r,
                "switchyard_signals_total",
                "Messages that clients sent on the signalling socket, by type.",
                &["type"],
            ),
            malformed: counter(
                r,
                "switchyard_signals_malformed_total",
                "Signalling messages that did not parse.",
            ),
            resumes: counter(
                r,
                "switchyard_resumes_total",
                "Sessions that a further WebSocket has resumed with a ticket.",
            ),
        };
        let webrtc = WebRtc {
            outcomes: counters(
                r,
                "switchyard_webrtc_total",
                "WebRTC connections opened and failed, by cause.",
                &["outcome"],
            ),
            path_changes: counter(
                r,
                "switchyard_path_changes_total",
                "Connections that moved to another path without an ICE restart.",
            ),
            moves: counters(
                r,
                "switchyard_pipe_moves_total",
                "Sessions moved by their clients to another pipe.",
                &["to"],
            ),
            doubts: counter(
                r,
                "switchyard_channel_doubts_total",
                "Questions over a WebSocket whether the data channel beside it works.",
            ),
            copies: counter(
                r,
                "switchyard_channel_copies_total",
                "Frames sent over a WebSocket too, because the data channel beside it was doubted.",
            ),
        };
        let http = Http {
            requests: counters(
                r,
                "switchyard_http_requests_total",
                "HTTP requests, by door and class of status.",
                &["door", "status"],
            ),
            seconds: histogram(
                r,
                "switchyard_http_request_seconds",
                "Time to answer an HTTP request.",
                &HTTP_BUCKETS,
            ),
            websockets: gauge(r, "switchyard_websockets", "Open WebSockets."),
        };
        let logs = Logs {
            events: counters(
                r,
                "switchyard_log_events_total",
                "Events committed to logs, by type.",
                &["type"],
            ),
            submissions: counters(
                r,
                "switchyard_log_submissions_total",
                "Submissions that became no event: refused, put off, repeated, in conflict; by code.",
                &["outcome", "code"],
            ),
            snapshots: counters(
                r,
                "switchyard_log_snapshots_total",
                "Snapshots sent in place of events, by reason.",
                &["reason"],
            ),
            incidents: counters(
                r,
                "switchyard_log_incidents_total",
                "Logs loaded, writes that failed, acknowledged submissions lost with a restored backup.",
                &["cause"],
            ),
        };
        let store = Store {
            commits: counter(
                r,
                "switchyard_store_commits_total",
                "Transactions that committed rooms' batches.",
            ),
            batches: counter(
                r,
                "switchyard_store_batches_total",
                "Batches in them: by commits, how many rooms share one wait for the disk.",
            ),
            events: counter(r, "switchyard_store_events_total", "Events in them."),
            commit: histogram(
                r,
                "switchyard_store_commit_seconds",
                "Time of such a transaction, until it is on disk.",
                &STORE_BUCKETS,
            ),
            reads: histograms(
                r,
                "switchyard_store_read_seconds",
                "Time to answer a question from the database, by type.",
                &["type"],
                &STORE_BUCKETS,
            ),
            failures: counters(
                r,
                "switchyard_store_failures_total",
                "What the store was asked and did not do, by cause.",
                &["cause"],
            ),
            queue: gauges(
                r,
                "switchyard_store_queue",
                "Requests found waiting when a thread of the store became free.",
                &["queue"],
            ),
            bytes: gauge(
                r,
                "switchyard_store_bytes",
                "Bytes of the database file and its write-ahead log; 0 for PostgreSQL.",
            ),
            up: gauge(r, "switchyard_store_up", "1 while the database takes writes, as far as is known."),
        };
        let messages = Messages {
            count: counters(
                r,
                "switchyard_messages_total",
                "Data messages, by lane and direction; out counts each receiver.",
                &["lane", "direction"],
            ),
            bytes: counters(
                r,
                "switchyard_message_bytes_total",
                "Payload of data messages, by lane and direction.",
                &["lane", "direction"],
            ),
            drops: counters(
                r,
                "switchyard_drops_total",
                "Data messages that did not reach a receiver, by lane and cause.",
                &["lane", "cause"],
            ),
            delivery: histogram(
                r,
                "switchyard_delivery_seconds",
                "Time from a message's arrival at the server to its handing over to a receiver's pipe.",
                &DELIVERY_BUCKETS,
            ),
        };
        let shards = Shards {
            turn: histograms(
                r,
                "switchyard_shard_loop_seconds",
                "Time of one turn of a shard's loop, waiting excluded.",
                &["shard"],
                &LOOP_BUCKETS,
            ),
            queue: gauges(
                r,
                "switchyard_shard_queue",
                "Entries waiting in a shard's queues.",
                &["shard", "queue"],
            ),
            rooms: gauges(r, "switchyard_rooms", "Rooms with somebody in them.", &["shard"]),
            participants: gauges(r, "switchyard_participants", "Participants in rooms.", &["shard"]),
            peers: gauges(r, "switchyard_peers", "WebRTC peers, connected or connecting.", &["shard"]),
            datagrams: counters(
                r,
                "switchyard_datagrams_total",
                "UDP datagrams, and packets of ICE-TCP, by shard and direction.",
                &["shard", "direction"],
            ),
            datagram_bytes: counters(
                r,
                "switchyard_datagram_bytes_total",
                "Bytes in those, by shard and direction.",
                &["shard", "direction"],
            ),
            datagram_drops: counters(
                r,
                "switchyard_datagram_drops_total",
                "Datagrams thrown away, by cause.",
                &["cause"],
            ),
        };
        let sessions = gauges(
            r,
            "switchyard_sessions",
            "Sessions, by the way through the network that they use now.",
            &["rung"],
        );
        let turn = Turn::new(r);
        let (attempts, quality) = (Attempts::new(r), Quality::new(r));
        let (turn_doors, tls) = (TurnDoors::new(r), Tls::new(r));
        let metrics = Self {
            registry,
            rooms,
            signalling,
            webrtc,
            attempts,
            quality,
            http,
            store,
            logs,
            turn,
            turn_doors,
            tls,
            messages,
            shards,
            sessions,
        };
        metrics.show_from_the_start();
        metrics
    }

    /// The counters of shard `index`, to be kept by its thread.
    #[must_use]
    pub fn shard(&self, index: usize) -> ShardCounters {
        ShardCounters::new(self, index)
    }

    /// The counters of the relay, to be kept by its thread.
    #[must_use]
    pub fn turn(&self) -> TurnCounters {
        TurnCounters::new(&self.turn, &self.turn_doors)
    }

    /// All metrics in Prometheus' text format.
    #[must_use]
    pub fn render(&self) -> String {
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_default()
    }

    /// Makes series whose labels are known appear as 0 before the first event, because a rate over a series
    /// that is born with its first failure misses that failure.
    fn show_from_the_start(&self) {
        for outcome in Connect::ALL {
            self.webrtc.outcomes.with_label_values(&[outcome.as_str()]);
        }
        for cause in StoreFailure::ALL {
            self.store.failures.with_label_values(&[cause.as_str()]);
        }
        for queue in StoreQueue::ALL {
            self.store.waiting(*queue, 0);
        }
        for code in switchyard_signaling::Code::ALL {
            self.rooms.refusals.with_label_values(&[code.as_str()]);
        }
        for incident in ["abandoned", "failed", "loaded"] {
            self.logs.incidents.with_label_values(&[incident]);
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

fn counter(registry: &Registry, name: &str, help: &str) -> IntCounter {
    register(registry, IntCounter::new(name, help))
}

fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    register(registry, IntCounterVec::new(Opts::new(name, help), labels))
}

fn gauge(registry: &Registry, name: &str, help: &str) -> IntGauge {
    register(registry, IntGauge::new(name, help))
}

fn gauges(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    register(registry, IntGaugeVec::new(Opts::new(name, help), labels))
}

fn histogram(registry: &Registry, name: &str, help: &str, buckets: &[f64]) -> Histogram {
    register(registry, Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec())))
}

fn histograms(registry: &Registry, name: &str, help: &str, labels: &[&str], buckets: &[f64]) -> HistogramVec {
    register(registry, HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), labels))
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, metric: prometheus::Result<C>) -> C {
    let metric =
        metric.expect("names, labels and buckets are constants of this file that Prometheus accepts");
    registry.register(Box::new(metric.clone())).expect("no two metrics of this file have one name");
    metric
}

#[cfg(test)]
mod tests;
