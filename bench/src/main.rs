//! Benchmarks of Switchyard, run by `make bench`: what a delivery, a peer, an idle session and a join cost the server,
//! as ratios to other programs doing the same work in the same run.
//!
//! - [`arm`]: what is measured, each in a process of its own: the server itself, the bare engine, and the floor;
//! - [`client`]: those who talk to the arms, all in this process;
//! - [`fanout`], [`idle`], [`join`] and [`log`]: the measurements; [`disk`]: what logs are written to;
//! - [`turn`]: the relay beside coturn, and its state machine in this process;
//! - [`report`]: table and JSON.
//!
//! What the rows mean is written in `docs/benchmarks.md`. Absolute times drift from machine to machine and from
//! minute to minute; so arms are measured in turn, in short rounds, by the CPU time that the kernel accounts to their
//! process, and compared round by round.

mod arm;
mod client;
mod disk;
mod fanout;
mod idle;
mod join;
mod log;
mod report;
mod turn;
mod udp;

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;

/// How much is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Depth {
    /// Every row, several rounds.
    Full,
    /// Few rows and one round, to see that it works; set by `QUICK=1`.
    Quick,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.first().map(String::as_str) {
        Some(arm::SUBCOMMAND) => {
            arm::run(arguments.get(1).map_or("", String::as_str), arguments.get(2).map(Path::new))
        }
        _ => measure(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("switchyard-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether an environment variable asks for something.
fn is_set(variable: &str) -> bool {
    std::env::var_os(variable).is_some_and(|value| !value.is_empty() && value != "0")
}

/// Runs the measurements whose rows begin with one of the given names, or all.
fn measure(only: &[String]) -> anyhow::Result<()> {
    let depth = if is_set("QUICK") { Depth::Quick } else { Depth::Full };
    // Both ways: a row's name selects its group, a group's name its rows.
    let wanted = |name: &str| {
        only.is_empty() || only.iter().any(|only| name.starts_with(only.as_str()) || only.starts_with(name))
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut report = report::Report::new();
    runtime.block_on(async {
        if wanted("data") {
            fanout::data(depth, &wanted, &mut report).await.context("data")?;
        }
        if wanted("websocket") {
            fanout::websocket(depth, &wanted, &mut report).await.context("websocket")?;
        }
        if wanted("overhead") {
            fanout::overhead(depth, &wanted, &mut report).await.context("overhead")?;
        }
        if wanted("idle") {
            idle::measure(depth, &mut report).await.context("idle")?;
        }
        if wanted("join") {
            join::measure(depth, &mut report).await.context("join")?;
        }
        if wanted("log") {
            log::measure(depth, &wanted, &mut report).await.context("log")?;
        }
        if wanted("turn") {
            turn::measure(depth, &wanted, &mut report).await.context("turn")?;
        }
        anyhow::Ok(())
    })?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    report.write(&target.join("bench.json"))
}
