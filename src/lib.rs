//! Switchyard: one server for live collaboration. The map of the crate is in `docs/architecture.md`.

pub mod cli;
pub mod config;
pub mod engine;
pub mod log;
pub mod metrics;
pub mod names;
pub mod room;
pub mod router;
pub mod token;

/// Runs a server until `shutdown` ends, then drains it.
///
/// # Errors
/// If a port cannot be bound.
pub async fn run(config: config::Config, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
    tracing::info!(address = %config.http_address(), shards = config.shards(), "{}", cli::describe(&config));
    shutdown.await;
    Ok(())
}
