//! The report: what the account says, and what only the run knows.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::time::timeout;

use super::{Progress, Run, Setup};
use crate::{
    account::times,
    figures::{self, EventSummary, NetworkFigures, Report, ScenarioSummary},
    netsim::{AccessStats, LinkStats},
    observe,
    scenario::{Scenario, Signal, schedule},
    view,
};

/// How long the report waits for the server's last metrics.
const LAST_LOOK: Duration = Duration::from_secs(2);

impl<F: FnMut(Progress)> Run<F> {
    pub(super) async fn report(mut self) -> Report {
        if self.metrics.1.is_none() {
            let last = timeout(LAST_LOOK, observe::metrics(&self.setup.target)).await;
            self.metrics.1 = last.ok().flatten();
        }
        self.end_attacks.send_replace(true);
        let mut attacks = std::mem::take(&mut self.attacks).join_all().await;
        attacks.sort_by(|a, b| a.at_s.total_cmp(&b.at_s));
        if let Some(mut server) = self.setup.own_server.take() {
            // It is gone when it is dropped, whatever it says.
            let _ = server.end(Signal::Term).await;
        }
        let hold = self.hold();
        let networks = self.network_figures();
        let records = self.gone.into_iter().map(|done| done.record).collect();
        let mut report = self.ledger.finish(&self.plans, records);
        let delivered = report.lanes.values().map(|lane| lane.received).sum();
        self.looks.set_metrics(self.metrics.0, self.metrics.1);
        for (cause, count) in self.errors {
            *report.errors.entry(cause).or_default() += count;
        }
        for (known, second) in self.seconds.iter().zip(&mut report.timeline) {
            complete(second, known);
        }
        self.events.sort_by(|a, b| a.at_s.total_cmp(&b.at_s));
        report.schema = figures::SCHEMA;
        report.program = concat!(env!("CARGO_PKG_NAME"), " ", env!("CARGO_PKG_VERSION")).to_owned();
        report.started_unix_ms = unix_ms(self.started);
        report.scenario = summary(&self.setup, self.events);
        report.users.rungs = self.rungs;
        report.networks = networks;
        report.attacks = attacks;
        report.server = self.looks.server(hold, delivered);
        report.harness = self.looks.harness(hold, times(&self.behind));
        // Whoever reads the others must know this first.
        report.findings.splice(..0, view::harness_behind(&report));
        report.verdict = verdict(&self.setup.scenario, &report, self.interrupted);
        report
    }

    /// The hold as it was.
    fn hold(&self) -> (Duration, Duration) {
        let (begin, end) = self.setup.scenario.hold_span();
        (begin, if self.interrupted { end.min(self.now()) } else { end })
    }

    fn network_figures(&self) -> BTreeMap<String, NetworkFigures> {
        let mut networks: BTreeMap<String, NetworkFigures> = BTreeMap::new();
        for done in &self.gone {
            let group = &self.setup.scenario.groups[done.record.group].name;
            let of = networks.entry(group.clone()).or_default();
            add(of, &done.network);
            of.address_changes += done.address_changes;
        }
        networks
    }
}

fn add(figures: &mut NetworkFigures, stats: &AccessStats) {
    let of_link = |link: LinkStats| {
        [
            ("delivered", link.delivered),
            ("lost", link.lost),
            ("queue_full", link.queue_full + link.codel_dropped),
            ("too_large", link.too_big),
            ("down", link.down),
            ("duplicated", link.duplicated),
        ]
    };
    let up = of_link(stats.up).into_iter().chain([("blocked", stats.blocked)]);
    for (fate, count) in up {
        *figures.up.entry(fate.to_owned()).or_default() += count;
    }
    for (fate, count) in of_link(stats.down).into_iter().chain([("blocked", stats.filtered)]) {
        *figures.down.entry(fate.to_owned()).or_default() += count;
    }
}

/// Adds to a second what the ledger does not know.
pub(super) fn complete(second: &mut figures::Second, known: &figures::Second) {
    second.rungs.clone_from(&known.rungs);
    second.server_cpu = known.server_cpu;
    second.server_rss_bytes = known.server_rss_bytes;
    second.harness_cpu = known.harness_cpu;
    second.packets_dropped = known.packets_dropped;
}

/// What is to be run, as the report and the live view show it.
pub fn summary(setup: &Setup, events: Vec<EventSummary>) -> ScenarioSummary {
    let scenario = &setup.scenario;
    ScenarioSummary {
        name: scenario.name.clone(),
        description: scenario.description.clone(),
        seed: setup.seed,
        target: setup.target.url("http"),
        adapter: setup.adapter.name.to_owned(),
        ramp_s: (scenario.ramp.0 + scenario.settle.0).as_secs_f64(),
        hold_s: scenario.hold.0.as_secs_f64(),
        drain_s: scenario.drain.0.as_secs_f64(),
        groups: schedule::summaries(scenario),
        events,
    }
}

fn verdict(scenario: &Scenario, report: &Report, interrupted: bool) -> figures::Verdict {
    let json = serde_json::to_value(report).unwrap_or_default();
    let bounds: Vec<figures::Bound> = scenario.bounds.iter().map(|bound| bound.judge(&json)).collect();
    figures::Verdict { passed: bounds.iter().all(|bound| bound.held), interrupted, bounds }
}

fn unix_ms(at: SystemTime) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
