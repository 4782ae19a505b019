//! How good clients' connections are, as they have measured.

use std::time::Duration;

use prometheus::{Histogram, HistogramVec, IntCounter, IntGaugeVec, Registry};
use switchyard_signaling::{attempt::Rung, quality::Score};

use super::{counter, gauges, histogram, histograms};

/// Seconds of a round trip: with the limits of the scores (0.1 and 0.3) among them.
const RTT_BUCKETS: [f64; 10] = [0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0];
/// Shares, with the limits of the scores (0.01 and 0.05) among them.
const LOSS_BUCKETS: [f64; 8] = [0.0, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5];
/// Of a session that has told nothing.
const UNKNOWN: &str = "unknown";

/// See the module.
#[derive(Debug)]
pub struct Quality {
    pub(super) sessions: IntGaugeVec,
    rtt: HistogramVec,
    loss: Histogram,
    pub(super) pairs: IntGaugeVec,
    /// Lossy messages that went past the server.
    pub direct_messages: IntCounter,
}

impl Quality {
    pub(super) fn new(registry: &Registry) -> Self {
        Self {
            sessions: gauges(
                registry,
                "switchyard_sessions_quality",
                "Sessions, by the score that their clients gave their connection last.",
                &["score"],
            ),
            rtt: histograms(
                registry,
                "switchyard_rtt_seconds",
                "Round trips between clients and server, as clients tell of them, by rung.",
                &["rung"],
                &RTT_BUCKETS,
            ),
            loss: histogram(
                registry,
                "switchyard_loss_ratio",
                "Share of what is lost or late on the way, as clients tell of it.",
                &LOSS_BUCKETS,
            ),
            pairs: gauges(
                registry,
                "switchyard_pairs",
                "Members of rooms, by the way that each of the others reaches them, as clients tell.",
                &["way"],
            ),
            direct_messages: counter(
                registry,
                "switchyard_direct_messages_total",
                "Lossy messages that clients have sent each other past the server, each receiver counted.",
            ),
        }
    }

    /// Notes what a client has measured.
    pub fn told(&self, rung: Option<Rung>, rtt: Option<Duration>, loss: Option<f64>) {
        if let Some(rtt) = rtt {
            let rung = rung.unwrap_or(Rung::Other).as_str();
            self.rtt.with_label_values(&[rung]).observe(rtt.as_secs_f64());
        }
        loss.into_iter().for_each(|loss| self.loss.observe(loss));
    }
}

/// The gauge's label.
pub(super) fn label(score: Option<Score>) -> &'static str {
    score.map_or(UNKNOWN, Score::as_str)
}
