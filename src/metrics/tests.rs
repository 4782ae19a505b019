//! What `/metrics` would answer, read as strictly as Prometheus reads it.

use std::collections::{BTreeMap, BTreeSet};

use switchyard_signaling::attempt::{By, Rung as SignalledRung, Verdict};

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
    metrics.rooms.left("timeout", 1);
    metrics.rooms.refused("room_full", 1);
    metrics.signalling.message("join");
    metrics.webrtc.outcome(Connect::Opened, 1);
    metrics.attempts.told(By::WebRtc, Verdict::UdpBlocked);
    metrics.attempts.connected(SignalledRung::Tcp, Duration::from_millis(300));
    metrics.http.request(Door::Metrics, 200, Duration::from_millis(3));
    metrics.store.committed(3, 5, Duration::from_millis(4));
    metrics.store.read(StoreRead::Page, Duration::from_millis(1));
    metrics.store.failed(StoreFailure::Unavailable);
    metrics.store.waiting(StoreQueue::Writes, 6);
    metrics.store.bytes(4096);
    metrics.store.is_up(true);
    metrics.turn_doors.arrived(Stream::Tls, Arrival::Turn);
    metrics.tls.reloaded(Reload::Done);
    metrics.tls.expiry.set(1_800_000_000);
    let mut shard = metrics.shard(0);
    shard.message(Lane::Reliable, Direction::In, 100);
    shard.messages_of(Lane::Reliable, Direction::Out, 50, 5000);
    shard.dropped(Lane::Lossy, DropCause::ReceiverSlow, 2);
    shard.delivered_after(Duration::from_millis(30));
    shard.turned_in(Duration::from_micros(80));
    shard.datagrams(Direction::In, 4, 4000);
    shard.datagram_dropped(DatagramDrop::Unknown);
    shard.sessions_on(Rung::WebSocket, 0);
    shard.sessions_on(Rung::Udp, 1);
    shard.sessions_scored([1, 0, 2, 0, 3]);
    shard.pairs([4, 0, 2]);
    metrics.quality.direct_messages.inc_by(17);
    metrics.quality.told(Some(SignalledRung::Udp), Some(Duration::from_millis(40)), Some(0.03));
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
        (r#"switchyard_message_bytes_total{direction="out",lane="reliable"}"#, 5000.0),
        (r#"switchyard_drops_total{cause="receiver_slow",lane="lossy"}"#, 2.0),
        (r#"switchyard_delivery_seconds_bucket{le="0.025"}"#, 0.0),
        (r#"switchyard_delivery_seconds_bucket{le="0.05"}"#, 1.0),
        ("switchyard_delivery_seconds_count", 1.0),
        (r#"switchyard_shard_loop_seconds_bucket{shard="0",le="0.0001"}"#, 1.0),
        (r#"switchyard_datagrams_total{direction="in",shard="0"}"#, 4.0),
        (r#"switchyard_datagram_bytes_total{direction="in",shard="0"}"#, 4000.0),
        (r#"switchyard_datagram_drops_total{cause="unknown"}"#, 1.0),
        (r#"switchyard_sessions{rung="udp"}"#, 1.0),
        (r#"switchyard_sessions{rung="websocket"}"#, 0.0),
        (r#"switchyard_sessions_quality{score="poor"}"#, 2.0),
        (r#"switchyard_sessions_quality{score="unknown"}"#, 3.0),
        (r#"switchyard_pairs{way="direct"}"#, 4.0),
        (r#"switchyard_pairs{way="server"}"#, 2.0),
        ("switchyard_direct_messages_total", 17.0),
        (r#"switchyard_rtt_seconds_bucket{rung="udp",le="0.05"}"#, 1.0),
        (r#"switchyard_loss_ratio_bucket{le="0.02"}"#, 0.0),
        (r#"switchyard_loss_ratio_bucket{le="0.05"}"#, 1.0),
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
        shard.sessions_on(Rung::Udp, 2);
        shard.publish();
    }
    Scrape::of(&metrics).assert(r#"switchyard_sessions{rung="udp"}"#, 4.0);
    shards[0].sessions_on(Rung::Udp, 1);
    shards[0].sessions_on(Rung::None, 1);
    shards[1].sessions_on(Rung::Udp, 1);
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
        (r#"switchyard_signals_total{type="join"}"#, 1.0),
        (r#"switchyard_webrtc_total{outcome="opened"}"#, 1.0),
        (r#"switchyard_attempts_total{by="webrtc",verdict="udp_blocked"}"#, 1.0),
        (r#"switchyard_connect_seconds_bucket{rung="tcp",le="0.5"}"#, 1.0),
        (r#"switchyard_http_requests_total{door="metrics",status="2xx"}"#, 1.0),
        ("switchyard_http_request_seconds_count", 1.0),
        ("switchyard_store_batches_total", 3.0),
        ("switchyard_store_events_total", 5.0),
        (r#"switchyard_store_commit_seconds_bucket{le="0.005"}"#, 1.0),
        (r#"switchyard_store_read_seconds_count{type="page"}"#, 1.0),
        (r#"switchyard_store_failures_total{cause="unavailable"}"#, 1.0),
        (r#"switchyard_store_queue{queue="writes"}"#, 6.0),
        ("switchyard_store_bytes", 4096.0),
        ("switchyard_store_up", 1.0),
        (r#"switchyard_turn_connections_total{outcome="turn",transport="tls"}"#, 1.0),
        (r#"switchyard_tls_reloads_total{outcome="done"}"#, 1.0),
        ("switchyard_tls_certificate_expiry_seconds", 1_800_000_000.0),
    ] {
        scrape.assert(series, value);
    }
}

#[test]
fn failures_are_there_as_zero_before_the_first() {
    let scrape = Scrape::of(&Metrics::new());
    scrape.assert(r#"switchyard_webrtc_total{outcome="handshake_failed"}"#, 0.0);
    scrape.assert(r#"switchyard_refusals_total{code="token_expired"}"#, 0.0);
    scrape.assert(r#"switchyard_turn_connections_total{outcome="handshake",transport="tls"}"#, 0.0);
    scrape.assert(r#"switchyard_tls_reloads_total{outcome="failed"}"#, 0.0);
    scrape.assert(r#"switchyard_attempts_total{by="websocket",verdict="server_unreachable"}"#, 0.0);
}

#[test]
fn names_follow_the_conventions_of_prometheus() {
    let (metrics, _shard) = busy();
    let scrape = Scrape::of(&metrics);
    for (name, kind) in &scrape.types {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
        assert!(name.starts_with("switchyard_") && name.bytes().all(plain), "{name}");
        assert_eq!(kind == "counter", name.ends_with("_total"), "{name} is a {kind}");
        // A point in time is the one thing in seconds that is no duration.
        let is_duration = name.ends_with("_seconds") && !name.ends_with("_expiry_seconds");
        let is_measured = is_duration || name.ends_with("_ratio");
        assert_eq!(kind == "histogram", is_measured, "{name} is a {kind}");
    }
    assert!(scrape.types.len() > 20, "{}", scrape.types.len());
}

#[test]
fn every_label_is_one_of_a_few_that_name_nobody() {
    let allowed = BTreeSet::from([
        "by",
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
        "score",
        "shard",
        "status",
        "transport",
        "type",
        "verdict",
        "version",
        "way",
    ]);
    let (metrics, _shard) = busy();
    for series in Scrape::of(&metrics).samples.keys() {
        let labels = series.split_once('{').map_or("", |(_, labels)| labels.trim_end_matches('}'));
        for label in labels.split(',').filter(|label| !label.is_empty()) {
            let (name, _) = label.split_once('=').unwrap();
            assert!(allowed.contains(name), "{series}");
        }
    }
}
