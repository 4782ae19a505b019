//! The program: arguments, configuration, logging, and off to [`switchyard::run`].

use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use clap::Parser as _;
use ring::rand::{SecureRandom as _, SystemRandom};
use switchyard::cli::{Cli, Command, Doctor, Health, IceServersOf, Serve, Token, TurnConfig};

fn main() -> ExitCode {
    let done = match Cli::parse().chosen() {
        Command::Serve(args) => serve(&args),
        Command::Token(args) => token(&args),
        Command::Health(args) => health(&args),
        Command::TurnConfig(args) => turn_config(&args),
        Command::IceServers(args) => ice_servers(&args),
        Command::Doctor(args) => doctor(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("switchyard: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn serve(args: &Serve) -> anyhow::Result<()> {
    let config = args.configuration(std::env::vars_os().collect(), &random()?)?;
    switchyard::log::start(&config.log)?;
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    runtime.block_on(async { switchyard::run(config, signal()?).await })
}

fn token(args: &Token) -> anyhow::Result<()> {
    println!("{}", args.mint(std::env::vars_os().collect(), unix_now()?, &random()?)?);
    Ok(())
}

fn turn_config(args: &TurnConfig) -> anyhow::Result<()> {
    print!("{}", args.render(std::env::vars_os().collect())?);
    Ok(())
}

fn ice_servers(args: &IceServersOf) -> anyhow::Result<()> {
    let settle = |config: &_| switchyard::io::settled_turn(config).map_err(|error| format!("{error:#}"));
    println!("{}", args.list(std::env::vars_os().collect(), unix_now()?, settle)?);
    Ok(())
}

fn doctor(args: &Doctor) -> anyhow::Result<()> {
    let options = args.options(unix_now()?, &random()?)?;
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    let report = runtime.block_on(switchyard::doctor::run(&options))?;
    print!("{}", if args.json { report.to_json() + "\n" } else { report.to_text() });
    anyhow::ensure!(report.is_well(), "{} of {} tests failed", report.failures(), report.lines.len());
    Ok(())
}

fn unix_now() -> anyhow::Result<u64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?.as_secs())
}

fn health(args: &Health) -> anyhow::Result<()> {
    let (address, path) = args.door(std::env::vars_os().collect())?;
    Ok(switchyard::health::ask(address, path, args.timeout)?)
}

fn random<const N: usize>() -> anyhow::Result<[u8; N]> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).ok().context("the system has no random numbers")?;
    Ok(bytes)
}

/// Ends when the process is asked to end. Both signals are watched from the call on, not from the first poll.
fn signal() -> anyhow::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
    })
}
