//! What is counted before a connection is anybody's: at the doors of TURN, and of its certificate.

use prometheus::{IntCounterVec, IntGauge, Registry};

use super::{
    counters, gauge,
    label::{Arrival, Reload, Stream},
};

/// Connections to the TCP and TLS doors of TURN.
#[derive(Clone, Debug)]
pub struct TurnDoors {
    connections: IntCounterVec,
}

impl TurnDoors {
    pub(super) fn new(registry: &Registry) -> Self {
        let connections = counters(
            registry,
            "switchyard_turn_connections_total",
            "TCP and TLS connections to TURN's ports, by what became of them.",
            &["transport", "outcome"],
        );
        for transport in Stream::ALL {
            for outcome in Arrival::ALL {
                connections.with_label_values(&[transport.as_str(), outcome.as_str()]);
            }
        }
        Self { connections }
    }

    /// Counts a connection.
    pub fn arrived(&self, transport: Stream, outcome: Arrival) {
        self.connections.with_label_values(&[transport.as_str(), outcome.as_str()]).inc();
    }

    /// How many there were.
    #[must_use]
    pub fn count(&self, transport: Stream, outcome: Arrival) -> u64 {
        self.connections.with_label_values(&[transport.as_str(), outcome.as_str()]).get()
    }
}

/// The certificate.
#[derive(Debug)]
pub struct Tls {
    /// When the one in use expires, in seconds since 1970; 0 without one.
    pub expiry: IntGauge,
    reloads: IntCounterVec,
}

impl Tls {
    pub(super) fn new(registry: &Registry) -> Self {
        let reloads = counters(
            registry,
            "switchyard_tls_reloads_total",
            "Times that the certificate's files had changed, by whether they were good.",
            &["outcome"],
        );
        for outcome in Reload::ALL {
            reloads.with_label_values(&[outcome.as_str()]);
        }
        let expiry = gauge(
            registry,
            "switchyard_tls_certificate_expiry_seconds",
            "When the certificate in use expires, in seconds since 1970; 0 without one.",
        );
        Self { expiry, reloads }
    }

    /// Counts a change of the files.
    pub fn reloaded(&self, outcome: Reload) {
        self.reloads.with_label_values(&[outcome.as_str()]).inc();
    }

    /// How many there were.
    #[must_use]
    pub fn reloads(&self, outcome: Reload) -> u64 {
        self.reloads.with_label_values(&[outcome.as_str()]).get()
    }
}
