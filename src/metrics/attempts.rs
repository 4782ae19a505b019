//! Attempts to connect, as clients tell of them.

use std::time::Duration;

use prometheus::{HistogramVec, IntCounterVec, Registry};
use switchyard_signaling::attempt::{By, Rung, Verdict};

use super::{counters, histograms};

/// Seconds until data could be carried: from a good network to the last moment before a client gives up.
const CONNECT_BUCKETS: [f64; 10] = [0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0];

/// How clients fare.
#[derive(Debug)]
pub struct Attempts {
    verdicts: IntCounterVec,
    seconds: HistogramVec,
}

impl Attempts {
    pub(super) fn new(registry: &Registry) -> Self {
        let verdicts = counters(
            registry,
            "switchyard_attempts_total",
            "Attempts to connect that clients told of, when they connected and when they failed or broke, by verdict.",
            &["by", "verdict"],
        );
        for by in By::ALL {
            for verdict in Verdict::ALL {
                verdicts.with_label_values(&[by.as_str(), verdict.as_str()]);
            }
        }
        let seconds = histograms(
            registry,
            "switchyard_connect_seconds",
            "Time from a client's first step until data could be carried, by what was reached.",
            &["rung"],
            &CONNECT_BUCKETS,
        );
        Self { verdicts, seconds }
    }

    /// Counts what was told.
    pub fn told(&self, by: By, verdict: Verdict) {
        self.verdicts.with_label_values(&[by.as_str(), verdict.as_str()]).inc();
    }

    /// Notes how long it took to connect.
    pub fn connected(&self, rung: Rung, took: Duration) {
        self.seconds.with_label_values(&[rung.as_str()]).observe(took.as_secs_f64());
    }
}
