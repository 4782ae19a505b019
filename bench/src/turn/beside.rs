//! The whole server beside coturn: the same client sends the same traffic through both by turns.
//!
//! At first as fast as they go, so that a server is never without work: a window of datagrams is on its way, and a new one
//! leaves when an old one has arrived. Then 5,000 datagrams a second, each of which finds the server asleep.

use std::time::Duration;

use anyhow::Context as _;
use switchyard_loadtest::turn::{
    crowd::Far,
    traffic::{Direction, Pace, Traffic},
};

use super::contender::{Contender, Cost, Transport, outside};
use crate::{
    Depth,
    fanout::rounds,
    is_set,
    report::{Report, Row, median},
};

/// On their way at once: fewer than the receive buffer of a socket holds without privileges.
const WINDOW: u32 = 96;
/// How long is sent in a round, as fast as the server goes, and evenly.
const BUSY: Duration = Duration::from_millis(100);
const EVEN: Duration = Duration::from_millis(250);
/// Datagrams a second of all pairs together.
const EVEN_RATE: u32 = 5000;
/// Rounds that are sent evenly, for each of the others: they are short, so that what else a machine does for a moment is
/// in few of them.
const EVEN_ROUNDS: usize = 4;
/// For second copies.
const GRACE: Duration = Duration::from_millis(2);

/// One kind of traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Case {
    transport: Transport,
    is_relay: bool,
    /// Pairs, each of one allocation with a peer outside, or of two allocations.
    pairs: usize,
    size: usize,
    pattern: Pattern,
    direction: Direction,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pattern {
    /// As fast as it goes, so many datagrams of a pair back to back.
    Busy(u32),
    /// At [`EVEN_RATE`], one by one.
    Even,
}

impl Case {
    pub(super) fn name(&self) -> String {
        let Self { transport, is_relay, pairs, size, pattern, direction } = self;
        let (transport, far) = (transport.name(), if *is_relay { "relay" } else { "outside" });
        let pattern = match pattern {
            Pattern::Busy(1) => "scattered".to_owned(),
            Pattern::Busy(burst) => format!("burst-{burst}"),
            Pattern::Even => format!("{EVEN_RATE}-a-second"),
        };
        let direction = match direction {
            Direction::Both => "both",
            Direction::ToPeer => "to-peer",
            Direction::ToClient => "to-client",
        };
        format!("turn/{transport}/{far}/{pairs}/{size}B/{pattern}/{direction}")
    }

    fn traffic(&self) -> Traffic {
        let senders = if self.direction == Direction::Both { 2 } else { 1 };
        let (burst, pace, duration) = match self.pattern {
            Pattern::Busy(burst) => (burst, Pace::Window(WINDOW), BUSY),
            Pattern::Even => {
                let rate = f64::from(EVEN_RATE) / (self.pairs * senders) as f64;
                (1, Pace::Rate { rate, is_precise: true }, EVEN)
            }
        };
        Traffic { direction: self.direction, size: self.size, burst, pace, duration, grace: GRACE }
    }

    /// How often a datagram is relayed on its way.
    fn passes(&self) -> u64 {
        if self.is_relay { 2 } else { 1 }
    }

    /// Whether the same pairs can be used.
    fn is_of_the_same_pairs(&self, other: &Self) -> bool {
        let pairs = |case: &Self| (case.transport, case.is_relay, case.pairs);
        pairs(self) == pairs(other)
    }
}

/// What is measured, those with the same pairs one after the other.
pub(super) fn cases(depth: Depth) -> Vec<Case> {
    let is_all = is_set("FULL");
    let all = [Transport::Udp, Transport::Tcp].into_iter().flat_map(|transport| {
        [(false, 10), (false, 1), (false, 100), (true, 10)]
            .into_iter()
            .flat_map(move |(is_relay, pairs)| of_pairs(transport, is_relay, pairs))
    });
    let wanted = all.filter(|case| match depth {
        Depth::Quick => case.is_of_the_quick(),
        Depth::Full => is_all || case.is_usual(),
    });
    wanted.collect()
}

fn of_pairs(transport: Transport, is_relay: bool, pairs: usize) -> impl Iterator<Item = Case> {
    let directions = [Direction::Both, Direction::ToPeer, Direction::ToClient];
    directions.into_iter().flat_map(move |direction| {
        [100, 1200].into_iter().flat_map(move |size| {
            [Pattern::Busy(1), Pattern::Busy(8), Pattern::Busy(32), Pattern::Even].map(|pattern| Case {
                transport,
                is_relay,
                pairs,
                size,
                pattern,
                direction,
            })
        })
    })
}

impl Case {
    /// In each run of the benchmarks.
    fn is_usual(&self) -> bool {
        let is_large = self.size == 1200;
        self.direction == Direction::Both
            && match (self.pairs, self.is_relay, self.pattern) {
                (10, false, Pattern::Even) => is_large,
                (10, false, Pattern::Busy(burst)) => self.transport == Transport::Udp || burst < 32,
                (_, true, Pattern::Busy(1 | 8)) => is_large && self.transport == Transport::Udp,
                (_, false, Pattern::Busy(1 | 8)) => is_large && self.transport == Transport::Udp,
                _ => false,
            }
    }

    fn is_of_the_quick(&self) -> bool {
        self.is_usual() && self.pairs == 10 && !self.is_relay && self.size == 1200
    }
}

/// Rows of all these cases.
pub(super) async fn measure(
    depth: Depth,
    cases: &[Case],
    contenders: &mut [Contender; 2],
    report: &mut Report,
) -> anyhow::Result<()> {
    for cases in cases.chunk_by(Case::is_of_the_same_pairs) {
        let Some(first) = cases.first() else { continue };
        let far = if first.is_relay { Far::Relay } else { outside() };
        for contender in &mut *contenders {
            let name = contender.name();
            contender.gather(first.transport, far, first.pairs).await.context(name)?;
        }
        for case in cases {
            compare(depth, case, contenders, report).await.with_context(|| case.name())?;
        }
    }
    for contender in contenders {
        contender.dismiss().await;
    }
    Ok(())
}

/// By turns, round by round.
async fn compare(
    depth: Depth,
    case: &Case,
    contenders: &mut [Contender; 2],
    report: &mut Report,
) -> anyhow::Result<()> {
    let traffic = case.traffic();
    let is_even = case.pattern == Pattern::Even;
    let rounds = if is_even { rounds(depth) * EVEN_ROUNDS } else { rounds(depth) };
    let mut costs: [Vec<Cost>; 2] = [Vec::new(), Vec::new()];
    for round in 0..=rounds {
        for (contender, costs) in contenders.iter_mut().zip(&mut costs) {
            // The first round warms caches.
            let warm = Traffic { duration: BUSY, ..traffic.clone() };
            let cost = contender.carry(if round == 0 { &warm } else { &traffic }).await?;
            if round > 0 {
                costs.push(cost);
            }
        }
    }
    let figures = Figures { case, costs: &costs };
    let cpu = |cost: &Cost| cost.cpu.as_secs_f64() * 1e6 / (cost.round.received * case.passes()) as f64;
    let rate = |cost: &Cost| (cost.round.received * case.passes()) as f64 / cost.round.sending.as_secs_f64();
    report.add(figures.row("cpu", "µs/packet", cpu, least, false));
    if is_even {
        let quantile = |share| move |cost: &Cost| cost.round.latency.quantile(share).as_secs_f64() * 1e6;
        report.add(figures.row("p50", "µs", quantile(0.5), median, false));
        report.add(figures.row("p99", "µs", quantile(0.99), median, false));
    } else {
        report.add(figures.row("rate", "packets/s", rate, median, true));
    }
    for (contender, costs) in contenders.iter().zip(&costs) {
        let of = |figure: &dyn Fn(&Cost) -> f64| median(costs.iter().map(figure).collect());
        let cores = of(&|cost| cost.cpu.as_secs_f64() / cost.round.sending.as_secs_f64());
        eprintln!(
            "    {:<10} {:>6.2} µs a packet, {:>7.0} packets a second, {cores:.2} cores, sent {:.0} µs late at p99",
            contender.name(),
            of(&cpu),
            of(&rate),
            of(&|cost| cost.round.late.quantile(0.99).as_secs_f64() * 1e6),
        );
    }
    Ok(())
}

/// The rounds of a case, ours and coturn's.
struct Figures<'a> {
    case: &'a Case,
    costs: &'a [Vec<Cost>; 2],
}

impl Figures<'_> {
    /// Of a rate, the ratio is coturn's to ours: below 1 is better, as it is for a cost.
    fn row(
        &self,
        what: &str,
        unit: &'static str,
        figure: impl Fn(&Cost) -> f64,
        summary: impl Fn(Vec<f64>) -> f64,
        is_rate: bool,
    ) -> Row {
        let [ours, coturns] = self.costs;
        let ratios = ours.iter().zip(coturns).map(|(ours, coturns)| {
            let ratio = figure(ours) / figure(coturns);
            if is_rate { 1.0 / ratio } else { ratio }
        });
        Row {
            name: format!("{}/{what}", self.case.name()),
            value: summary(ours.iter().map(&figure).collect()),
            unit,
            floor_ratio: None,
            engine_ratio: None,
            peer_ratio: Some(median(ratios.collect())),
        }
    }
}

fn least(values: Vec<f64>) -> f64 {
    values.into_iter().fold(f64::INFINITY, f64::min)
}
