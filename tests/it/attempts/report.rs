//! What is printed of attempts, and what of it must not be.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use switchyard_loadtest::browser::Rung;

use super::{Condition, Outcome};

/// The share of a network's attempts that must reach the expected rung or a better one.
const LEAST: f64 = 0.99;

/// All attempts, by condition and loss.
#[derive(Default)]
pub(super) struct Report(Vec<Cell>);

struct Cell {
    condition: &'static str,
    loss: f64,
    expected: [Rung; 2],
    /// With their seeds.
    outcomes: Vec<(u64, Outcome)>,
}

impl Report {
    pub(super) fn add(&mut self, condition: &Condition, loss: f64, seed: u64, outcome: Outcome) {
        let is_it = |cell: &Cell| cell.condition == condition.name && cell.loss == loss;
        let index = self.0.iter().position(is_it).unwrap_or_else(|| {
            let (name, expected) = (condition.name, condition.rungs);
            self.0.push(Cell { condition: name, loss, expected, outcomes: Vec::new() });
            self.0.len() - 1
        });
        self.0[index].outcomes.push((seed, outcome));
    }

    /// How many clients are on which rung.
    pub(super) fn rungs(&self) -> BTreeMap<Rung, usize> {
        let mut all = BTreeMap::new();
        for (rung, count) in self.0.iter().flat_map(Cell::rungs) {
            *all.entry(rung).or_default() += count;
        }
        all
    }

    /// Networks in which too few attempts reached their rung.
    pub(super) fn problems(&self) -> Vec<String> {
        let conditions: BTreeSet<_> = self.0.iter().map(|cell| cell.condition).collect();
        let problem = |condition| {
            let cells = || self.0.iter().filter(|cell| cell.condition == condition);
            let all: usize = cells().map(|cell| cell.outcomes.len()).sum();
            let reached: usize = cells().map(Cell::reached).sum();
            // Of a few, one may have had bad luck.
            let is_few = (reached as f64) < LEAST * all as f64 && all - reached > 1;
            is_few.then(|| format!("{condition}: {reached} of {all} reached the expected rung"))
        };
        conditions.into_iter().filter_map(problem).collect()
    }
}

impl Cell {
    fn reached(&self) -> usize {
        self.outcomes.len() - self.missed().count()
    }

    fn missed(&self) -> impl Iterator<Item = &(u64, Outcome)> {
        self.outcomes.iter().filter(|(_, outcome)| !outcome.has_reached(self.expected))
    }

    fn rungs(&self) -> BTreeMap<Rung, usize> {
        let mut rungs = BTreeMap::new();
        for rung in self.outcomes.iter().flat_map(|(_, outcome)| outcome.rungs) {
            *rungs.entry(rung).or_default() += 1;
        }
        rungs
    }

    fn percentiles(&self, of: fn(&Outcome) -> Duration) -> String {
        let mut times: Vec<f64> =
            self.outcomes.iter().map(|(_, outcome)| of(outcome).as_secs_f64()).collect();
        times.sort_by(f64::total_cmp);
        let at = |share: usize| times[times.len() * share / 100];
        format!("{:.2} / {:.2}", at(50), at(95))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<30} {:>4} {:>9} {:>12}  {:<32} {:>13} {:>13}",
            "network", "loss", "attempts", "at its rung", "clients by rung", "first message", "best rung"
        )?;
        for cell in &self.0 {
            let rungs: Vec<String> =
                cell.rungs().iter().rev().map(|(rung, count)| format!("{rung:?} {count}")).collect();
            writeln!(
                f,
                "{:<30} {:>3}% {:>9} {:>12}  {:<32} {:>13} {:>13}",
                cell.condition,
                (cell.loss * 100.0).round(),
                cell.outcomes.len(),
                cell.reached(),
                rungs.join(", "),
                cell.percentiles(|outcome| outcome.first_message),
                cell.percentiles(|outcome| outcome.best_rung),
            )?;
        }
        let all: usize = self.0.iter().map(|cell| cell.outcomes.len()).sum();
        let reached: usize = self.0.iter().map(Cell::reached).sum();
        for cell in &self.0 {
            for (seed, outcome) in cell.missed() {
                let (name, loss) = (cell.condition, cell.loss * 100.0);
                writeln!(f, "not at its rung: {name}, {loss:.0}%, SEED={seed}: {:?}", outcome.rungs)?;
            }
        }
        writeln!(f, "{all} attempts, all connected; {reached} at the expected rung or a better one")?;
        write!(f, "times in seconds until the later client was there, the 50th and 95th percentile")
    }
}
