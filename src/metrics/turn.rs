//! Counting on the relay's thread: what the server counts itself is shown from time to time, the rest at once.

use prometheus::{IntCounterVec, IntGauge, IntGaugeVec, Registry};
use switchyard_turn_config::server::{Counters, Refusal, Traffic, Transport};

use super::{Arrival, Stream, TurnDoors, TurnDrop, counter, counters, gauge, gauges};

/// The relay (NAT1, NAT2): never a user or an address.
#[derive(Clone, Debug)]
pub struct Turn {
    allocations: IntGaugeVec,
    allocated: IntCounterVec,
    packets: IntCounterVec,
    bytes: IntCounterVec,
    bindings: prometheus::IntCounter,
    refusals: IntCounterVec,
    drops: IntCounterVec,
    sockets: IntGauge,
    streams: IntGaugeVec,
}

impl Turn {
    pub(super) fn new(r: &Registry) -> Self {
        let turn = Self {
            allocations: gauges(
                r,
                "switchyard_turn_allocations",
                "Allocations at the relay now, by the client's transport.",
                &["transport"],
            ),
            allocated: counters(
                r,
                "switchyard_turn_allocations_total",
                "Allocations made, by the client's transport.",
                &["transport"],
            ),
            packets: counters(
                r,
                "switchyard_turn_relayed_packets_total",
                "Datagrams relayed; to_sfu and between_allocations are parts of from_clients.",
                &["direction"],
            ),
            bytes: counters(r, "switchyard_turn_relayed_bytes_total", "Payload of those.", &["direction"]),
            bindings: counter(r, "switchyard_turn_bindings_total", "STUN Binding requests answered."),
            refusals: counters(
                r,
                "switchyard_turn_refusals_total",
                "Requests refused and data dropped by a rule, by reason.",
                &["reason"],
            ),
            drops: counters(
                r,
                "switchyard_turn_drops_total",
                "Datagrams lost on their way out, by reason.",
                &["reason"],
            ),
            sockets: gauge(r, "switchyard_turn_sockets", "Relay sockets that are open."),
            streams: gauges(
                r,
                "switchyard_turn_streams",
                "TCP and TLS connections at the relay, by transport.",
                &["transport"],
            ),
        };
        turn.show_from_the_start();
        turn
    }

    fn show_from_the_start(&self) {
        for transport in Transport::ALL.map(Transport::name) {
            self.allocations.with_label_values(&[transport]);
            self.allocated.with_label_values(&[transport]);
        }
        for direction in ["from_clients", "to_clients", "to_sfu", "between_allocations"] {
            self.packets.with_label_values(&[direction]);
            self.bytes.with_label_values(&[direction]);
        }
        for refusal in Refusal::ALL.map(Refusal::name) {
            self.refusals.with_label_values(&[refusal]);
        }
        for drop in TurnDrop::ALL {
            self.drops.with_label_values(&[drop.as_str()]);
        }
        for stream in Stream::ALL {
            self.streams.with_label_values(&[stream.as_str()]);
        }
    }

    /// Counts datagrams that were lost.
    pub fn dropped(&self, why: TurnDrop, count: u64) {
        self.drops.with_label_values(&[why.as_str()]).inc_by(count);
    }
}

/// What the relay's thread counts.
#[derive(Debug)]
pub struct TurnCounters {
    shared: Turn,
    doors: TurnDoors,
    shown: Counters,
}

impl TurnCounters {
    pub(super) fn new(shared: &Turn, doors: &TurnDoors) -> Self {
        Self { shared: shared.clone(), doors: doors.clone(), shown: Counters::default() }
    }

    /// Whether something has been counted since [`publish`](Self::publish).
    #[must_use]
    pub fn is_behind(&self, now: &Counters) -> bool {
        self.shown != *now
    }

    /// Counts datagrams that were lost.
    pub fn dropped(&self, why: TurnDrop, count: u64) {
        self.shared.dropped(why, count);
    }

    /// Counts a connection that is served from now on.
    pub fn stream_taken(&self, transport: Transport) {
        self.shared.streams.with_label_values(&[transport.name()]).inc();
    }

    /// Counts a connection that a door has handed over, and for which there is no room.
    pub fn stream_refused(&self, transport: Transport) {
        let stream = if transport == Transport::Tls { Stream::Tls } else { Stream::Tcp };
        self.doors.arrived(stream, Arrival::Overloaded);
    }

    /// Counts a connection that was served and is closed.
    pub fn stream_ended(&self, transport: Transport) {
        self.shared.streams.with_label_values(&[transport.name()]).dec();
    }

    /// Shows what the server has counted, and how many relay sockets there are.
    pub fn publish(&mut self, now: &Counters, sockets: usize) {
        let Self { shared, shown, .. } = self;
        for (index, transport) in Transport::ALL.map(Transport::name).into_iter().enumerate() {
            let (made, before) = (now.allocations[index], shown.allocations[index]);
            shared.allocated.with_label_values(&[transport]).inc_by(made - before);
            let here = i64::try_from(now.allocations_now[index]).unwrap_or(i64::MAX);
            shared.allocations.with_label_values(&[transport]).set(here);
        }
        let traffic = |direction: &str, now: Traffic, before: Traffic| {
            shared.packets.with_label_values(&[direction]).inc_by(now.packets - before.packets);
            shared.bytes.with_label_values(&[direction]).inc_by(now.bytes - before.bytes);
        };
        traffic("from_clients", now.from_clients, shown.from_clients);
        traffic("to_clients", now.to_clients, shown.to_clients);
        traffic("to_sfu", now.to_sfu, shown.to_sfu);
        traffic("between_allocations", now.between_allocations, shown.between_allocations);
        shared.bindings.inc_by(now.bindings - shown.bindings);
        for why in Refusal::ALL {
            let more = now.refused(why) - shown.refused(why);
            if more > 0 {
                shared.refusals.with_label_values(&[why.name()]).inc_by(more);
            }
        }
        shared.sockets.set(i64::try_from(sockets).unwrap_or(i64::MAX));
        self.shown = now.clone();
    }
}
