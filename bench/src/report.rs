//! The rows, printed as they come and written as JSON at the end.

use std::{fs, path::Path};

use anyhow::Context as _;
use serde::Serialize;

/// One measurement.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    /// What was measured; stable from run to run.
    pub(crate) name: String,
    /// The figure.
    pub(crate) value: f64,
    /// Its unit.
    pub(crate) unit: &'static str,
    /// Times the floor's figure.
    pub(crate) floor_ratio: Option<f64>,
    /// Times the bare engine's figure.
    pub(crate) engine_ratio: Option<f64>,
    /// Times the figure of another product measured in the same run.
    pub(crate) peer_ratio: Option<f64>,
}

/// All measurements.
#[derive(Debug)]
pub(crate) struct Report {
    rows: Vec<Row>,
}

impl Report {
    /// An empty one; prints the table's head.
    pub(crate) fn new() -> Self {
        println!(
            "{:<46} {:>10} {:<14} {:>8} {:>8} {:>8}",
            "", "value", "unit", "× floor", "× engine", "× peer"
        );
        Self { rows: Vec::new() }
    }

    /// Adds and prints a row.
    pub(crate) fn add(&mut self, row: Row) {
        let ratio = |ratio: Option<f64>| ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"));
        println!(
            "{:<46} {:>10.2} {:<14} {:>8} {:>8} {:>8}",
            row.name,
            row.value,
            row.unit,
            ratio(row.floor_ratio),
            ratio(row.engine_ratio),
            ratio(row.peer_ratio)
        );
        self.rows.push(row);
    }

    /// Writes all rows as a JSON array.
    pub(crate) fn write(&self, path: &Path) -> anyhow::Result<()> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let json = serde_json::to_string_pretty(&self.rows)?;
        fs::write(path, json + "\n").with_context(|| format!("cannot write {}", path.display()))
    }
}

/// The middle one; the lower of two.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get((values.len().max(1) - 1) / 2).copied().unwrap_or(f64::NAN)
}
