//! What is printed of attempts, and what of it must not be.

use std::{collections::BTreeMap, fmt, time::Duration};

use switchyard_loadtest::browser::Rung;

use super::{Condition, Outcome};

/// The share of attempts that reach the expected rung or a better one, over all of them.
const LEAST: f64 = 0.99;

/// All attempts, by condition and loss.
#[derive(Default)]
pub(super) struct Report(Vec<Cell>);

struct Cell {
    condition: &'static str,
    loss: f64,
    reached: usize,
    rungs: BTreeMap<Rung, usize>,
    first_message: Vec<Duration>,
    best_rung: Vec<Duration>,
}

impl Report {
    pub(super) fn add(&mut self, condition: &Condition, loss: f64, outcomes: Vec<Outcome>) {
        let mut rungs = BTreeMap::new();
        for rung in outcomes.iter().flat_map(|outcome| outcome.rungs) {
            *rungs.entry(rung).or_default() += 1;
        }
        let sorted = |of: fn(&Outcome) -> Duration| {
            let mut times: Vec<Duration> = outcomes.iter().map(of).collect();
            times.sort();
            times
        };
        self.0.push(Cell {
            condition: condition.name,
            loss,
            reached: outcomes.iter().filter(|outcome| outcome.has_reached(condition)).count(),
            rungs,
            first_message: sorted(|outcome| outcome.first_message),
            best_rung: sorted(|outcome| outcome.best_rung),
        });
    }

    /// What is below the bounds: in one network, or over all.
    pub(super) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let conditions: std::collections::BTreeSet<_> = self.0.iter().map(|cell| cell.condition).collect();
        for condition in conditions {
            let cells = || self.0.iter().filter(|cell| cell.condition == condition);
            let all: usize = cells().map(|cell| cell.first_message.len()).sum();
            let reached: usize = cells().map(|cell| cell.reached).sum();
            // A handful may have one that did not.
            if (reached as f64) < LEAST * all as f64 && all - reached > 1 {
                problems.push(format!("{condition}: {reached} of {all} reached the expected rung"));
            }
        }
        problems
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<30} {:>4}  {:>8}  {:>12}  {:<34} {:>13} {:>13}",
            "network", "loss", "attempts", "at its rung", "rungs of clients", "first message", "best rung"
        )?;
        for cell in &self.0 {
            let rungs: Vec<String> =
                cell.rungs.iter().rev().map(|(rung, count)| format!("{rung:?} {count}")).collect();
            let count = cell.first_message.len();
            writeln!(
                f,
                "{:<30} {:>3}%  {count:>8}  {:>12}  {:<34} {:>13} {:>13}",
                cell.condition,
                (cell.loss * 100.0).round(),
                cell.reached,
                rungs.join(", "),
                percentiles(&cell.first_message),
                percentiles(&cell.best_rung),
            )?;
        }
        let all: usize = self.0.iter().map(|cell| cell.first_message.len()).sum();
        let reached: usize = self.0.iter().map(|cell| cell.reached).sum();
        writeln!(f, "{all} attempts, all connected; {reached} at the expected rung or a better one")?;
        write!(f, "times are the 50th and the 95th percentile in seconds, of the later of the two clients")
    }
}

fn percentiles(sorted: &[Duration]) -> String {
    let at = |share: usize| sorted.get(sorted.len() * share / 100).map_or(0.0, Duration::as_secs_f64);
    format!("{:.2} / {:.2}", at(50), at(95))
}
