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

use std::time::Duration;

use prometheus::core::Collector;
use prometheus::local::LocalHistogram;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

/// Seconds from sender to receiver: fine where the aims lie (100 and 200 ms), coarse beyond.
const DELIVERY_BUCKETS: [f64; 13] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 2.5, 10.0,
];

/// Seconds of one turn of a shard's loop: from an idle turn to one that every peer of the shard feels.
const LOOP_BUCKETS: [f64; 11] = [
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 1.0,
];

/// Seconds of one HTTP request.
const HTTP_BUCKETS: [f64; 8] = [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0];

/// An enum whose variants are the values of one label.
macro_rules! label {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$variant_doc])* $variant,)+ }

        impl $name {
            /// Every value, in order.
            pub const ALL: &[Self; Self::COUNT] = &[$(Self::$variant),+];

            /// How many there are.
            pub const COUNT: usize = [$($text),+].len();

            /// The label's text.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }
    };
}

label! {
    /// The way through the network that a session uses (LAD1).
    Rung {
        /// A data channel over UDP.
        Udp = "udp",
        /// A data channel over ICE-TCP.
        Tcp = "tcp",
        /// A data channel over a TURN relay.
        Relay = "relay",
        /// The WebSocket.
        WebSocket = "websocket",
        /// No pipe for the moment: the session waits to be resumed.
        None = "none",
    }
}

label! {
    /// How a message is carried.
    Lane {
        /// In order, buffered, replayed.
        Reliable = "reliable",
        /// Newest wins; dropped when late.
        Lossy = "lossy",
    }
}

label! {
    /// Seen from the server.
    Direction {
        /// From a client.
        In = "in",
        /// To a client.
        Out = "out",
    }
}

label! {
    /// Why a message reached somebody not.
    DropCause {
        /// The receiver was too slow, and its queue full.
        ReceiverSlow = "receiver_slow",
        /// The receiver had no pipe, or none that carries the lane.
        NoPipe = "no_pipe",
        /// The queue to another shard was full.
        ShardBusy = "shard_busy",
        /// The sender sent faster than its limit.
        RateLimited = "rate_limited",
        /// A chunk of a lossy message did not arrive, or did not fit.
        Incomplete = "incomplete",
    }
}

label! {
    /// Queues of a shard.
    Queue {
        /// Work from other shards.
        Shards = "shards",
        /// Work from HTTP.
        Http = "http",
        /// Datagrams ready to be sent.
        Datagrams = "datagrams",
    }
}

label! {
    /// What became of a WebRTC connection attempt, or of a connection (SIG5).
    Connect {
        /// The data channel opened.
        Opened = "opened",
        /// No authenticated ICE check came in time.
        IceTimeout = "ice_timeout",
        /// ICE checks came, the DTLS handshake was not finished in time.
        DtlsTimeout = "dtls_timeout",
        /// The DTLS handshake failed or broke a limit.
        DtlsFailed = "dtls_failed",
        /// DTLS was done, no data channel opened in time.
        SctpTimeout = "sctp_timeout",
        /// The offer could not be used.
        BadOffer = "bad_offer",
        /// An open connection fell silent.
        ConsentLost = "consent_lost",
        /// The server had no room for another peer.
        PeersFull = "peers_full",
    }
}

label! {
    /// Why a datagram was thrown away unread.
    DatagramDrop {
        /// From an address that belongs to no peer, and no valid ICE check.
        Unknown = "unknown",
        /// Not STUN, DTLS, RTP or RTCP.
        Malformed = "malformed",
        /// Above a limit that protects a peer's handshake.
        Flood = "flood",
        /// The socket did not take it.
        SendFailed = "send_failed",
    }
}

label! {
    /// Doors of the HTTP side.
    Door {
        /// The signalling socket.
        Connect = "connect",
        /// The client's files and the demo.
        Files = "files",
        /// `/metrics`.
        Metrics = "metrics",
        /// `/healthz` and `/readyz`.
        Health = "health",
        /// Everything else.
        Other = "other",
    }
}

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
    /// The HTTP side.
    pub http: Http,
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
    /// Counts a participant who left; `reason` is a code of the protocol.
    pub fn left(&self, reason: &'static str) {
        self.leaves.with_label_values(&[reason]).inc();
    }

    /// Counts a refusal; `code` is a code of the protocol.
    pub fn refused(&self, code: &'static str) {
        self.refusals.with_label_values(&[code]).inc();
    }
}

/// Messages on the signalling socket.
#[derive(Debug)]
pub struct Signalling {
    messages: IntCounterVec,
    /// Messages that did not parse.
    pub malformed: IntCounter,
}

impl Signalling {
    /// Counts a message; `kind` is a message type of the protocol.
    pub fn message(&self, direction: Direction, kind: &'static str) {
        self.messages.with_label_values(&[direction.as_str(), kind]).inc();
    }
}

/// How WebRTC connections fare.
#[derive(Debug)]
pub struct WebRtc {
    outcomes: IntCounterVec,
    /// Connections that moved to another path without an ICE restart.
    pub path_changes: IntCounter,
}

impl WebRtc {
    /// Counts an outcome.
    pub fn outcome(&self, outcome: Connect) {
        self.outcomes.with_label_values(&[outcome.as_str()]).inc();
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
        self.seconds.observe(took.as_secs_f64());
    }
}

#[derive(Debug)]
struct Messages {
    count: IntCounterVec,
    bytes: IntCounterVec,
    drops: IntCounterVec,
    gaps: IntCounter,
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
        let build = gauges(
            r,
            "switchyard_build_info",
            "The version that runs; always 1.",
            &["version"],
        );
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let rooms = Rooms {
            joins: counter(r, "switchyard_joins_total", "Participants let into a room."),
            leaves: counters(
                r,
                "switchyard_leaves_total",
                "Participants gone, by reason.",
                &["reason"],
            ),
            refusals: counters(
                r,
                "switchyard_refusals_total",
                "Requests refused, by code.",
                &["code"],
            ),
        };
        let signalling = Signalling {
            messages: counters(
                r,
                "switchyard_signals_total",
                "Messages on the signalling socket, by direction and type.",
                &["direction", "type"],
            ),
            malformed: counter(
                r,
                "switchyard_signals_malformed_total",
                "Signalling messages that did not parse.",
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
            gaps: counter(
                r,
                "switchyard_gaps_total",
                "Receivers told that reliable messages are missing.",
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
            peers: gauges(
                r,
                "switchyard_peers",
                "WebRTC peers, connected or connecting.",
                &["shard"],
            ),
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
        let metrics = Self {
            registry,
            rooms,
            signalling,
            webrtc,
            http,
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
        let shard = &*index.to_string();
        let Messages {
            count,
            bytes,
            drops,
            gaps,
            delivery,
        } = &self.messages;
        let of_shard = |vec: &IntGaugeVec| LocalGauge::new(vec.with_label_values(&[shard]));
        ShardCounters {
            messages: by(Lane::ALL, |lane| {
                by(Direction::ALL, |way| local(count, &[lane.as_str(), way.as_str()]))
            }),
            bytes: by(Lane::ALL, |lane| {
                by(Direction::ALL, |way| local(bytes, &[lane.as_str(), way.as_str()]))
            }),
            drops: by(Lane::ALL, |lane| {
                by(DropCause::ALL, |cause| {
                    local(drops, &[lane.as_str(), cause.as_str()])
                })
            }),
            gaps: LocalCounter::new(gaps.clone()),
            delivery: delivery.local(),
            turn: self.shards.turn.with_label_values(&[shard]).local(),
            datagrams: by(Direction::ALL, |way| {
                local(&self.shards.datagrams, &[shard, way.as_str()])
            }),
            datagram_bytes: by(Direction::ALL, |way| {
                local(&self.shards.datagram_bytes, &[shard, way.as_str()])
            }),
            datagram_drops: by(DatagramDrop::ALL, |cause| {
                local(&self.shards.datagram_drops, &[cause.as_str()])
            }),
            sessions: by(Rung::ALL, |rung| {
                LocalGauge::new(self.sessions.with_label_values(&[rung.as_str()]))
            }),
            queues: by(Queue::ALL, |queue| {
                LocalGauge::new(self.shards.queue.with_label_values(&[shard, queue.as_str()]))
            }),
            rooms: of_shard(&self.shards.rooms),
            participants: of_shard(&self.shards.participants),
            peers: of_shard(&self.shards.peers),
        }
    }

    /// All metrics in Prometheus' text format.
    #[must_use]
    pub fn render(&self) -> String {
        TextEncoder::new()
            .encode_to_string(&self.registry.gather())
            .unwrap_or_default()
    }

    /// Makes series whose labels are known appear as 0 before the first event, because a rate over a series
    /// that is born with its first failure misses that failure.
    fn show_from_the_start(&self) {
        for outcome in Connect::ALL {
            self.webrtc.outcomes.with_label_values(&[outcome.as_str()]);
        }
        for code in switchyard_signaling::Code::ALL {
            self.rooms.refusals.with_label_values(&[code.as_str()]);
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// What one shard counts. It belongs to the shard's thread; others see it after [`ShardCounters::publish`].
#[derive(Debug)]
pub struct ShardCounters {
    messages: [[LocalCounter; Direction::COUNT]; Lane::COUNT],
    bytes: [[LocalCounter; Direction::COUNT]; Lane::COUNT],
    drops: [[LocalCounter; DropCause::COUNT]; Lane::COUNT],
    gaps: LocalCounter,
    delivery: LocalHistogram,
    turn: LocalHistogram,
    datagrams: [LocalCounter; Direction::COUNT],
    datagram_bytes: [LocalCounter; Direction::COUNT],
    datagram_drops: [LocalCounter; DatagramDrop::COUNT],
    sessions: [LocalGauge; Rung::COUNT],
    queues: [LocalGauge; Queue::COUNT],
    rooms: LocalGauge,
    participants: LocalGauge,
    peers: LocalGauge,
}

impl ShardCounters {
    /// Counts a data message of `bytes` payload; each receiver counts as one message out.
    #[inline]
    pub fn message(&mut self, lane: Lane, direction: Direction, bytes: usize) {
        self.messages_of(lane, direction, 1, bytes);
    }

    /// Counts `count` data messages with `bytes` of payload together.
    #[inline]
    pub fn messages_of(&mut self, lane: Lane, direction: Direction, count: usize, bytes: usize) {
        self.messages[lane as usize][direction as usize].add(count as u64);
        self.bytes[lane as usize][direction as usize].add(bytes as u64);
    }

    /// Notes how long a message took from the sender's pipe to one receiver's.
    #[inline]
    pub fn delivered_after(&mut self, took: Duration) {
        self.delivery.observe(took.as_secs_f64());
    }

    /// Counts messages that one receiver will not get.
    #[inline]
    pub fn dropped(&mut self, lane: Lane, cause: DropCause, count: usize) {
        self.drops[lane as usize][cause as usize].add(count as u64);
    }

    /// Counts a receiver that was told of missing reliable messages.
    #[inline]
    pub fn gap(&mut self) {
        self.gaps.add(1);
    }

    /// Counts a batch of datagrams.
    #[inline]
    pub fn datagrams(&mut self, direction: Direction, count: usize, bytes: usize) {
        self.datagrams[direction as usize].add(count as u64);
        self.datagram_bytes[direction as usize].add(bytes as u64);
    }

    /// Counts a datagram that was thrown away.
    #[inline]
    pub fn datagram_dropped(&mut self, cause: DatagramDrop) {
        self.datagram_drops[cause as usize].add(1);
    }

    /// Notes how long a turn of the loop worked.
    #[inline]
    pub fn turned_in(&mut self, worked: Duration) {
        self.turn.observe(worked.as_secs_f64());
    }

    /// Notes that a session changed its way through the network; without `from` it is new, without `to` gone.
    pub fn session_moved(&mut self, from: Option<Rung>, to: Option<Rung>) {
        if let Some(rung) = from {
            self.sessions[rung as usize].value -= 1;
        }
        if let Some(rung) = to {
            self.sessions[rung as usize].value += 1;
        }
    }

    /// Notes how many entries wait in a queue.
    #[inline]
    pub fn queue_depth(&mut self, queue: Queue, entries: usize) {
        self.queues[queue as usize].set(entries);
    }

    /// Notes how many rooms of this shard have somebody in them, and how many participants those are.
    pub fn occupancy(&mut self, rooms: usize, participants: usize) {
        self.rooms.set(rooms);
        self.participants.set(participants);
    }

    /// Notes how many WebRTC peers the shard has.
    pub fn peers(&mut self, peers: usize) {
        self.peers.set(peers);
    }

    /// Shows everybody what was counted since the last time: once a second is often enough.
    pub fn publish(&mut self) {
        let counters = self.messages.iter_mut().chain(&mut self.bytes).flatten();
        let counters = counters
            .chain(self.drops.iter_mut().flatten())
            .chain([&mut self.gaps]);
        let counters = counters
            .chain(&mut self.datagrams)
            .chain(&mut self.datagram_bytes);
        for counter in counters.chain(&mut self.datagram_drops) {
            counter.publish();
        }
        let gauges = self.sessions.iter_mut().chain(&mut self.queues);
        for gauge in gauges.chain([&mut self.rooms, &mut self.participants, &mut self.peers]) {
            gauge.publish();
        }
        self.delivery.flush();
        self.turn.flush();
    }
}

/// Counted here, added to the shared counter when published.
#[derive(Debug)]
struct LocalCounter {
    pending: u64,
    shared: IntCounter,
}

impl LocalCounter {
    fn new(shared: IntCounter) -> Self {
        Self { pending: 0, shared }
    }

    #[inline]
    fn add(&mut self, count: u64) {
        self.pending += count;
    }

    fn publish(&mut self) {
        if self.pending > 0 {
            self.shared.inc_by(std::mem::take(&mut self.pending));
        }
    }
}

/// This shard's part of a gauge to which several may add.
#[derive(Debug)]
struct LocalGauge {
    value: i64,
    published: i64,
    shared: IntGauge,
}

impl LocalGauge {
    fn new(shared: IntGauge) -> Self {
        Self {
            value: 0,
            published: 0,
            shared,
        }
    }

    #[inline]
    fn set(&mut self, value: usize) {
        self.value = i64::try_from(value).unwrap_or(i64::MAX);
    }

    fn publish(&mut self) {
        if self.value != self.published {
            self.shared.add(self.value - self.published);
            self.published = self.value;
        }
    }
}

/// One entry for each value of a label.
fn by<L: Copy, T, const N: usize>(values: &[L; N], entry: impl Fn(L) -> T) -> [T; N] {
    values.map(entry)
}

fn local(counters: &IntCounterVec, labels: &[&str]) -> LocalCounter {
    LocalCounter::new(counters.with_label_values(labels))
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
    register(
        registry,
        Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec())),
    )
}

fn histograms(registry: &Registry, name: &str, help: &str, labels: &[&str], buckets: &[f64]) -> HistogramVec {
    register(
        registry,
        HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), labels),
    )
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, metric: prometheus::Result<C>) -> C {
    let metric =
        metric.expect("names, labels and buckets are constants of this file that Prometheus accepts");
    registry
        .register(Box::new(metric.clone()))
        .expect("no two metrics of this file have one name");
    metric
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    /// The text format, read as strictly as Prometheus reads it.
    struct Scrape {
        types: BTreeMap<String, String>,
        /// Name with labels, as it stands, to value.
        samples: BTreeMap<String, f64>,
    }

    impl Scrape {
        fn of(metrics: &Metrics) -> Self {
            let (mut types, mut samples) = (BTreeMap::new(), BTreeMap::new());
            let mut helped = BTreeSet::new();
            for line in metrics.render().lines() {
                if let Some(rest) = line.strip_prefix("# HELP ") {
                    let (name, help) = rest.split_once(' ').unwrap();
                    assert!(help.ends_with('.'), "{line}");
                    assert!(helped.insert(name.to_owned()), "{name} is explained twice");
                } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                    let (name, kind) = rest.split_once(' ').unwrap();
                    assert!(helped.contains(name), "{name} has no help");
                    types.insert(name.to_owned(), kind.to_owned());
                } else {
                    let (series, value) = line.rsplit_once(' ').unwrap();
                    let before = samples.insert(series.to_owned(), value.parse().unwrap());
                    assert!(before.is_none(), "{series} appears twice");
                }
            }
            Self { types, samples }
        }

        #[track_caller]
        fn assert(&self, series: &str, value: f64) {
            assert_eq!(self.samples.get(series), Some(&value), "{series}");
        }
    }

    /// Everything counted once, so that every series with a label exists.
    fn busy() -> (Metrics, ShardCounters) {
        let metrics = Metrics::new();
        metrics.rooms.joins.inc();
        metrics.rooms.left("timeout");
        metrics.rooms.refused("room_full");
        metrics.signalling.message(Direction::In, "join");
        metrics.webrtc.outcome(Connect::Opened);
        metrics.http.request(Door::Metrics, 200, Duration::from_millis(3));
        let mut shard = metrics.shard(0);
        shard.message(Lane::Reliable, Direction::In, 100);
        shard.messages_of(Lane::Reliable, Direction::Out, 50, 5000);
        shard.dropped(Lane::Lossy, DropCause::ReceiverSlow, 2);
        shard.gap();
        shard.delivered_after(Duration::from_millis(30));
        shard.turned_in(Duration::from_micros(80));
        shard.datagrams(Direction::In, 4, 4000);
        shard.datagram_dropped(DatagramDrop::Unknown);
        shard.session_moved(None, Some(Rung::WebSocket));
        shard.session_moved(Some(Rung::WebSocket), Some(Rung::Udp));
        shard.queue_depth(Queue::Http, 7);
        shard.occupancy(2, 9);
        shard.peers(3);
        (metrics, shard)
    }

    #[test]
    fn what_a_shard_counts_is_seen_once_it_is_published_and_only_once() {
        let (metrics, mut shard) = busy();
        let out = r#"switchyard_messages_total{direction="out",lane="reliable"}"#;
        Scrape::of(&metrics).assert(out, 0.0);
        for _ in 0..3 {
            shard.publish();
        }
        let scrape = Scrape::of(&metrics);
        for (series, value) in [
            (out, 50.0),
            (
                r#"switchyard_message_bytes_total{direction="out",lane="reliable"}"#,
                5000.0,
            ),
            (
                r#"switchyard_drops_total{cause="receiver_slow",lane="lossy"}"#,
                2.0,
            ),
            ("switchyard_gaps_total", 1.0),
            (r#"switchyard_delivery_seconds_bucket{le="0.025"}"#, 0.0),
            (r#"switchyard_delivery_seconds_bucket{le="0.05"}"#, 1.0),
            ("switchyard_delivery_seconds_count", 1.0),
            (
                r#"switchyard_shard_loop_seconds_bucket{shard="0",le="0.0001"}"#,
                1.0,
            ),
            (r#"switchyard_datagrams_total{direction="in",shard="0"}"#, 4.0),
            (
                r#"switchyard_datagram_bytes_total{direction="in",shard="0"}"#,
                4000.0,
            ),
            (r#"switchyard_datagram_drops_total{cause="unknown"}"#, 1.0),
            (r#"switchyard_sessions{rung="udp"}"#, 1.0),
            (r#"switchyard_sessions{rung="websocket"}"#, 0.0),
            (r#"switchyard_shard_queue{queue="http",shard="0"}"#, 7.0),
            (r#"switchyard_rooms{shard="0"}"#, 2.0),
            (r#"switchyard_participants{shard="0"}"#, 9.0),
            (r#"switchyard_peers{shard="0"}"#, 3.0),
        ] {
            scrape.assert(series, value);
        }
    }

    #[test]
    fn shards_add_up_in_a_gauge_that_they_share() {
        let metrics = Metrics::new();
        let mut shards = [metrics.shard(0), metrics.shard(1)];
        for shard in &mut shards {
            shard.session_moved(None, Some(Rung::Udp));
            shard.session_moved(None, Some(Rung::Udp));
            shard.publish();
        }
        Scrape::of(&metrics).assert(r#"switchyard_sessions{rung="udp"}"#, 4.0);
        shards[0].session_moved(Some(Rung::Udp), Some(Rung::None));
        shards[1].session_moved(Some(Rung::Udp), None);
        shards.iter_mut().for_each(ShardCounters::publish);
        let scrape = Scrape::of(&metrics);
        scrape.assert(r#"switchyard_sessions{rung="udp"}"#, 2.0);
        scrape.assert(r#"switchyard_sessions{rung="none"}"#, 1.0);
    }

    #[test]
    fn what_is_counted_directly_is_seen_at_once() {
        let (metrics, _) = busy();
        let scrape = Scrape::of(&metrics);
        for (series, value) in [
            ("switchyard_joins_total", 1.0),
            (r#"switchyard_leaves_total{reason="timeout"}"#, 1.0),
            (r#"switchyard_refusals_total{code="room_full"}"#, 1.0),
            (r#"switchyard_signals_total{direction="in",type="join"}"#, 1.0),
            (r#"switchyard_webrtc_total{outcome="opened"}"#, 1.0),
            (
                r#"switchyard_http_requests_total{door="metrics",status="2xx"}"#,
                1.0,
            ),
            ("switchyard_http_request_seconds_count", 1.0),
        ] {
            scrape.assert(series, value);
        }
    }

    #[test]
    fn failures_are_there_as_zero_before_the_first() {
        let scrape = Scrape::of(&Metrics::new());
        scrape.assert(r#"switchyard_webrtc_total{outcome="dtls_failed"}"#, 0.0);
        scrape.assert(r#"switchyard_refusals_total{code="token_expired"}"#, 0.0);
    }

    #[test]
    fn names_follow_the_conventions_of_prometheus() {
        let (metrics, _shard) = busy();
        let scrape = Scrape::of(&metrics);
        for (name, kind) in &scrape.types {
            let plain = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
            assert!(
                name.starts_with("switchyard_") && name.bytes().all(plain),
                "{name}"
            );
            assert_eq!(kind == "counter", name.ends_with("_total"), "{name} is a {kind}");
            assert_eq!(
                kind == "histogram",
                name.ends_with("_seconds"),
                "{name} is a {kind}"
            );
        }
        assert!(scrape.types.len() > 20, "{}", scrape.types.len());
    }

    #[test]
    fn every_label_is_one_of_a_few_that_name_nobody() {
        let allowed = BTreeSet::from([
            "cause",
            "code",
            "direction",
            "door",
            "lane",
            "le",
            "outcome",
            "queue",
            "reason",
            "rung",
            "shard",
            "status",
            "type",
            "version",
        ]);
        let (metrics, _shard) = busy();
        for series in Scrape::of(&metrics).samples.keys() {
            let labels = series
                .split_once('{')
                .map_or("", |(_, labels)| labels.trim_end_matches('}'));
            for label in labels.split(',').filter(|label| !label.is_empty()) {
                let (name, _) = label.split_once('=').unwrap();
                assert!(allowed.contains(name), "{series}");
            }
        }
    }
}
