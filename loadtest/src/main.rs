//! `switchyard-loadtest`: loads a Switchyard server with simulated browsers and accounts for every message.

use std::{
    net::{SocketAddr, ToSocketAddrs},
    path::PathBuf,
    process::ExitCode,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};
use switchyard_loadtest::{
    account::STAMP_BYTES,
    browser::Lane,
    report::{self, Bounds},
    run::{self, Scenario, Transport},
    token::TokenSource,
};
use switchyard_signaling::limits::Limits;
use tokio::sync::watch;

/// Loads a Switchyard server with simulated browsers and accounts for every message.
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Connects peers, lets some of them send on schedule, and reports what arrived.
    ///
    /// Latency is counted from the time a message was scheduled, so a sender that falls behind shows. All peers live
    /// in this process and share one clock. Progress goes to standard error each second; Ctrl-C ends early and
    /// still reports.
    ///
    /// Exit code: 0 if all bounds held (nothing doubled; on the reliable lane also nothing lost or out of order; no
    /// other trouble; --p95-below), 1 if one was broken (the report says which), 2 if it could not run.
    Run(Box<RunArgs>),
}

#[derive(Args)]
struct RunArgs {
    /// The server's address: http://HOST:PORT
    #[arg(long, default_value = "http://127.0.0.1:7880")]
    target: String,
    /// API key to mint tokens with
    #[arg(long, requires = "token_secret", required_unless_present = "dev")]
    token_key: Option<String>,
    /// Secret of the API key
    #[arg(long, requires = "token_key")]
    token_secret: Option<String>,
    /// Ask a development server for tokens (GET /v1/dev/token) instead of minting them
    #[arg(long, conflicts_with = "token_key")]
    dev: bool,
    /// Simulated peers, 2 to 10000
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(2..=10_000))]
    peers: u32,
    /// Rooms that the peers are spread over evenly
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=5_000), conflicts_with = "per_room")]
    rooms: u32,
    /// Peers in each room, instead of --rooms
    #[arg(long, value_parser = clap::value_parser!(u32).range(2..=10_000))]
    per_room: Option<u32>,
    /// Members of each room that send
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    senders: u32,
    /// What frames go over; mixed: every other member of a room the one, the rest the other
    #[arg(long, value_enum, default_value_t = TransportArg::Udp)]
    transport: TransportArg,
    /// How messages are delivered
    #[arg(long, value_enum, default_value_t = LaneArg::Reliable)]
    lane: LaneArg,
    /// Bytes of each message, 16 to 262144 (15360 on the lossy lane)
    #[arg(long, default_value_t = 64)]
    size: usize,
    /// Messages a second of each sender, 0.01 to 100000
    #[arg(long, default_value_t = 10.0)]
    rate: f64,
    /// How long senders send, such as 500ms, 10s or 2m; at most 24h
    #[arg(long, default_value = "10s", value_parser = parse_duration)]
    duration: Duration,
    /// How long all peers together may take to connect
    #[arg(long, default_value = "60s", value_parser = parse_duration)]
    connect_timeout: Duration,
    /// How long to wait at the end for messages under way
    #[arg(long, default_value = "10s", value_parser = parse_duration)]
    drain_timeout: Duration,
    /// What the rooms' names begin with [default: load-UNIXTIME]
    #[arg(long, value_parser = parse_prefix)]
    room_prefix: Option<String>,
    /// Bound for the 95th percentile of the one-way latency, such as 100ms
    #[arg(long, value_parser = parse_duration)]
    p95_below: Option<Duration>,
    /// Write the figures as JSON to this file
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum TransportArg {
    /// WebRTC data channels over UDP
    Udp,
    /// The WebSocket alone
    Websocket,
    /// Both
    Mixed,
}

#[derive(Clone, Copy, ValueEnum)]
enum LaneArg {
    /// In order, nothing lost
    Reliable,
    /// Once or not at all
    Lossy,
}

const COULD_NOT_RUN: u8 = 2;

fn main() -> ExitCode {
    let Command::Run(args) = Cli::parse().command;
    let result = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("starting the runtime")
        .and_then(|runtime| runtime.block_on(load(&args)));
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("switchyard-loadtest: {error:#}");
            ExitCode::from(COULD_NOT_RUN)
        }
    }
}

/// Runs and reports; whether all bounds held.
async fn load(args: &RunArgs) -> anyhow::Result<bool> {
    let scenario = scenario(args)?;
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            eprintln!("ending early");
            // The run may have ended by itself.
            let _ = stop.send(true);
        }
        // The run watches this end: it must not go away before the run.
        std::future::pending::<()>().await;
    });
    let figures = run::run(&scenario, stopped).await?;
    let bounds = Bounds { p95_below: args.p95_below };
    let broken = report::broken(&scenario, &bounds, &figures);
    print!("{}", report::table(&scenario, &figures, &broken));
    if let Some(path) = &args.json {
        let json = format!("{:#}\n", report::json(&scenario, &figures, &broken));
        std::fs::write(path, json).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(broken.is_empty())
}

fn scenario(args: &RunArgs) -> anyhow::Result<Scenario> {
    let lane = match args.lane {
        LaneArg::Reliable => Lane::Reliable,
        LaneArg::Lossy => Lane::Lossy,
    };
    let limits = Limits::default();
    let most = if lane == Lane::Lossy { limits.max_lossy_bytes } else { limits.max_message_bytes };
    if !(STAMP_BYTES..=most).contains(&args.size) {
        bail!("--size is {}; from {STAMP_BYTES} to {most} are possible on this lane", args.size);
    }
    if !(0.01..=100_000.0).contains(&args.rate) {
        bail!("--rate is {}; from 0.01 to 100000 are possible", args.rate);
    }
    if args.duration.as_secs_f64() * args.rate >= 16_000_000.0 {
        bail!("--rate times --duration is above 16 million messages a sender, more than are told apart");
    }
    let rooms = args.per_room.map_or(args.rooms, |members| args.peers.div_ceil(members));
    if args.peers < 2 * rooms {
        bail!("{} peers in {rooms} rooms leave a room with fewer than two", args.peers);
    }
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    Ok(Scenario {
        server: resolve(&args.target)?,
        tokens: match (&args.token_key, &args.token_secret) {
            (Some(key), Some(secret)) => TokenSource::Key { key: key.clone(), secret: secret.clone() },
            _ => TokenSource::Development,
        },
        prefix: args.room_prefix.clone().unwrap_or_else(|| format!("load-{unix}")),
        peers: args.peers,
        rooms,
        senders: args.senders,
        transport: match args.transport {
            TransportArg::Udp => Transport::Udp,
            TransportArg::Websocket => Transport::WebSocket,
            TransportArg::Mixed => Transport::Mixed,
        },
        lane,
        size: args.size,
        rate: args.rate,
        duration: args.duration,
        connect_timeout: args.connect_timeout,
        drain_timeout: args.drain_timeout,
    })
}

/// The address behind `http://HOST:PORT`.
fn resolve(target: &str) -> anyhow::Result<SocketAddr> {
    let host = target.strip_prefix("http://").map(|rest| rest.trim_end_matches('/'));
    let Some(host) = host else {
        bail!("--target is {target}; http://HOST:PORT is expected (TLS is not spoken)");
    };
    let host = if host.contains(':') { host.to_owned() } else { format!("{host}:80") };
    let mut addresses = host.to_socket_addrs().with_context(|| format!("resolving {host}"))?;
    addresses.next().with_context(|| format!("{host} has no address"))
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let seconds = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err("a number with ms, s, m or h is expected, such as 10s".to_owned()),
    };
    let number: f64 = number.parse().map_err(|_| format!("\"{number}\" is not a number"))?;
    let total = number * seconds;
    if !(0.001..=86_400.0).contains(&total) {
        return Err("from 1ms to 24h are possible".to_owned());
    }
    Ok(Duration::from_secs_f64(total))
}

/// Rooms' names go into URLs as they are.
fn parse_prefix(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if text.is_empty() || text.len() > 64 || !text.chars().all(plain) {
        return Err("1 to 64 letters, digits, hyphens and underscores are expected".to_owned());
    }
    Ok(text.to_owned())
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
    fn durations_have_units_and_bounds() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("1.5m"), Ok(Duration::from_secs(90)));
        for bad in ["", "10", "s", "10 s", "-1s", "1e9s", "25h", "0s", "1.2.3s"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    fn scenario_of(line: &str) -> anyhow::Result<Scenario> {
        let Command::Run(args) = Cli::try_parse_from(line.split(' '))?.command;
        scenario(&args)
    }

    #[test]
    fn a_line_becomes_a_scenario_and_an_impossible_one_is_refused() {
        let built = scenario_of("x run --dev --peers 10 --per-room 4 --lane lossy --size 15360").unwrap();
        assert_eq!((built.rooms, built.lane, built.size), (3, Lane::Lossy, 15_360));
        for bad in [
            "x run",
            "x run --token-key k",
            "x run --dev --token-key k --token-secret s",
            "x run --dev --size 15",
            "x run --dev --lane lossy --size 15361",
            "x run --dev --peers 3 --rooms 2",
            "x run --dev --target https://127.0.0.1:7880",
            "x run --dev --rate 0",
            "x run --dev --room-prefix a/b",
        ] {
            assert!(scenario_of(bad).is_err(), "{bad}");
        }
    }
}
