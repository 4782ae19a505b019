//! The command line: what can be asked for, and the commands that run nothing.

pub(crate) mod run;
pub(crate) mod turn;

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use switchyard_loadtest::{
    adapter,
    figures::Report,
    netsim,
    scenario::{self, Scenario, shipped},
    view,
};

/// Exit code of a run that did not take place.
pub(crate) const COULD_NOT_RUN: u8 = 2;

/// Loads a Switchyard server with simulated browsers, each on a network of its own, and accounts for every message.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true, after_help = EXAMPLES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXAMPLES: &str = "\
Examples:
  switchyard-loadtest run smoke                          a development server on this machine
  switchyard-loadtest run 50-writers --server-command target/release/switchyard
  switchyard-loadtest run mine.yaml --target https://sync.example.org --token-key KEY --token-secret SECRET
  switchyard-loadtest run lecture --network lte --json lecture.json --html lecture.html
  switchyard-loadtest run thousand --adapter broadcast --target http://127.0.0.1:8080
  switchyard-loadtest turn turn:turn.example.org --secret SECRET --pairs 10 --rate 500
  switchyard-loadtest show 50-writers > mine.yaml        a scenario to begin with

docs/loadtest.md has a tutorial and describes every field of a scenario and of a report.";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Runs a scenario and reports what it has shown
    ///
    /// Progress goes to standard error, the report to standard output. Ctrl-C ends the run early and still reports;
    /// a second one ends it at once. Latency is counted from the time at which a message was due, so a sender that
    /// falls behind shows.
    ///
    /// Exit code: 0 if all bounds of the scenario held, 1 if one was broken (the report says which), 2 if the scenario
    /// could not be run.
    Run(Box<run::RunArgs>),
    /// Loads a bare TURN server, ours or another: pairs of allocations that send to each other
    ///
    /// Exit code: 0 if all pairs allocated and all that was sent has arrived, unaltered and once; 1 if not; 2 if nothing
    /// could be sent.
    Turn(Box<turn::TurnArgs>),
    /// Lists the scenarios, networks and adapters that come with this program
    List,
    /// Prints a scenario's YAML
    Show {
        /// Its name, or a file
        name: String,
    },
    /// Shows a report again, from its JSON
    Report(ReportArgs),
    /// Says what is better and what is worse in the second of two reports
    ///
    /// Exit code: 0 if nothing is worse by more than noise and the tolerance, 1 if something is, 2 if they cannot be
    /// compared.
    Compare(CompareArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    /// The report, as `run --json` wrote it
    report: PathBuf,
    /// Write it as a page with charts to this file
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct CompareArgs {
    /// The first report, as `run --json` wrote it
    a: PathBuf,
    /// The second one
    b: PathBuf,
    /// Write the comparison as a page with charts to this file
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Differences up to this share do not matter
    #[arg(long, value_name = "SHARE", default_value_t = 0.1)]
    tolerance: f64,
}

pub(crate) fn list() -> anyhow::Result<bool> {
    let mut text = "Scenarios\n".to_owned();
    for name in shipped::names() {
        let scenario = Scenario::load(name)?;
        text += &format!("  {name:<20} {}\n", scenario.description);
    }
    text += "\nNetworks\n";
    for (name, about) in netsim::presets() {
        text += &format!("  {name:<20} {about}\n");
    }
    text += "\nAdapters\n";
    for adapter in adapter::ALL {
        text += &format!("  {:<20} {}\n", adapter.name, adapter.about);
    }
    print(&text)
}

pub(crate) fn show(name: &str) -> anyhow::Result<bool> {
    let (text, _) = scenario::text(name)?;
    print(&text)
}

pub(crate) fn report(args: &ReportArgs) -> anyhow::Result<bool> {
    let report = read(&args.report)?;
    if let Some(file) = &args.html {
        write(file, &view::html(&report))?;
    }
    print(&view::text(&report))
}

pub(crate) fn compare(args: &CompareArgs) -> anyhow::Result<bool> {
    let (a, b) = (read(&args.a)?, read(&args.b)?);
    let comparison = view::compare::compare_within(&a, &b, args.tolerance);
    if let Some(file) = &args.html {
        write(file, &view::comparison_html(&comparison, &a, &b))?;
    }
    print(&view::comparison_text(&comparison))?;
    Ok(!comparison.is_worse())
}

fn read(file: &Path) -> anyhow::Result<Report> {
    let json = fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    view::read(&json).with_context(|| format!("reading {}", file.display()))
}

fn write(file: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(file, text).with_context(|| format!("writing {}", file.display()))
}

fn print(text: &str) -> anyhow::Result<bool> {
    match io::stdout().write_all(text.as_bytes()) {
        // Whoever reads has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(true),
        result => result.map(|()| true).context("writing to standard output"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn every_example_of_the_help_is_understood() {
        let lines = EXAMPLES.lines().filter_map(|line| line.strip_prefix("  "));
        let commands: Vec<&str> = lines.filter_map(|line| line.split("  ").next()).collect();
        assert_eq!(commands.len(), 7);
        for line in commands {
            let words = line.split('>').next().unwrap().split_whitespace();
            assert!(Cli::try_parse_from(words).is_ok(), "{line}");
        }
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        for line in [
            "x run",
            "x run smoke --token-key k",
            "x run smoke --dev --token-key k --token-secret s",
            "x run smoke --insecure --ca file",
            "x run smoke --hold 10",
            "x run smoke --users 0",
            "x run smoke --target http://a --server-command b",
            "x run smoke --transport pigeon",
            "x run smoke --adapter pigeon",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }
}
