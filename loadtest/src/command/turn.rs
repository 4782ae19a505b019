//! `turn`: load for a bare TURN server.

use std::{
    net::IpAddr,
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, ensure};
use clap::{Args, ValueEnum};
use serde_json::json;
use switchyard_loadtest::{
    account::{STAMP_BYTES, times},
    observe::process,
    target::Trust,
    turn::{
        client::Credentials,
        crowd::{Far, Pairs},
        run::{Figures, run},
        server::TurnServer,
        traffic::{Direction, Pace, Traffic},
    },
    units::{Frequency, Time},
};
use tokio::sync::watch;

/// The other end of each pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Peer {
    /// A second allocation: each datagram passes the server twice
    Relay,
    /// A plain UDP socket of this program
    Outside,
}

/// Who sends to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Way {
    /// The TURN client, or the first of two
    ToPeer,
    /// Its peer
    ToClient,
    /// Each to the other
    Both,
}

#[derive(Debug, Args)]
pub(crate) struct TurnArgs {
    /// The server: turn:HOST[:PORT][?transport=udp|tcp] or turns:HOST[:PORT]
    server: String,
    /// User name
    #[arg(long, requires = "password", required_unless_present = "secret")]
    username: Option<String>,
    /// Its password
    #[arg(long, requires = "username", env = "SWITCHYARD_TURN_PASSWORD", hide_env_values = true)]
    password: Option<String>,
    /// Make short-lived credentials with this secret, which the server has too (the TURN REST API); each pair is a user
    #[arg(long, env = "SWITCHYARD_TURN_SECRET", hide_env_values = true, conflicts_with = "username")]
    secret: Option<String>,
    /// Pairs that send through the server
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=5_000))]
    pairs: u32,
    /// The other end of each pair
    #[arg(long, value_enum, default_value_t = Peer::Relay)]
    peer: Peer,
    /// This machine's address that peers outside have, where it is not the one towards the server
    #[arg(long, value_name = "IP")]
    peer_address: Option<IpAddr>,
    /// Who sends
    #[arg(long, value_enum, default_value_t = Way::ToPeer)]
    direction: Way,
    /// Send indications in place of channel data
    #[arg(long)]
    no_channels: bool,
    /// Bytes of each datagram, 24 to 1400
    #[arg(long, default_value_t = 100)]
    size: usize,
    /// Datagrams of each end that sends: 1000 a second, or 60/min
    #[arg(long, default_value = "100")]
    rate: Frequency,
    /// Send within microseconds of when it was due; takes a whole core
    #[arg(long, conflicts_with = "window")]
    precise: bool,
    /// Send as fast as datagrams arrive: so many of all pairs together are on their way; takes a whole core
    #[arg(long, value_name = "DATAGRAMS", conflicts_with = "rate")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=65_536))]
    window: Option<u32>,
    /// Datagrams that are sent back to back, over UDP in one system call
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    burst: u32,
    /// How long
    #[arg(long = "for", value_name = "TIME", default_value = "10s")]
    length: Time,
    /// The server's process, for its CPU and memory, where it is not found by its port
    #[arg(long, value_name = "PID")]
    server_pid: Option<u32>,
    /// Trust the certificate authorities in this PEM file, in place of the system's
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Trust any certificate
    #[arg(long, conflicts_with = "ca")]
    insecure: bool,
    /// A larger share of lost datagrams breaks the bound
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    loss_at_most: f64,
    /// Write the figures as JSON to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// How long credentials last that are made with a secret.
const VALID: u64 = 3600;
/// The longest datagram that passes common networks with what TURN adds.
const MOST: usize = 1400;
const PATIENCE: Duration = Duration::from_secs(15);
/// For second copies.
const GRACE: Duration = Duration::from_millis(200);

/// What the server's process has used.
#[derive(Clone, Copy, Debug, Default)]
struct Used {
    cpu_s: Option<f64>,
    rss_bytes: Option<u64>,
}

/// Runs and reports; whether all that was sent has arrived, up to the share that may be lost.
pub(crate) fn turn(args: &TurnArgs) -> anyhow::Result<bool> {
    ensure!(
        (STAMP_BYTES..=MOST).contains(&args.size),
        "--size is {}; from {STAMP_BYTES} to {MOST} are possible",
        args.size
    );
    // One thread: whoever measures a server beside it knows which core is taken.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("starting the runtime")?.block_on(load(args))
}

async fn load(args: &TurnArgs) -> anyhow::Result<bool> {
    let trust = match (&args.ca, args.insecure) {
        (Some(file), _) => Trust::Authorities(file.clone()),
        (None, true) => Trust::Anything,
        (None, false) => Trust::System,
    };
    let server = TurnServer::open(&args.server, &trust).await?;
    let pid = args.server_pid.or_else(|| process::listener(server.address()));
    let pairs = Pairs {
        server,
        credentials: credentials(args)?,
        count: args.pairs,
        far: match args.peer {
            Peer::Relay => Far::Relay,
            Peer::Outside => Far::Outside(args.peer_address),
        },
        channels: !args.no_channels,
        patience: PATIENCE,
    };
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            eprintln!("ending early");
            stop.send_replace(true);
        }
        // The run watches this end.
        std::future::pending::<()>().await;
    });
    eprintln!("{} pairs allocate at {}, then send for {:?}", args.pairs, args.server, args.length.0);
    let mut before = None;
    let figures = run(&pairs, &traffic(args), stopped, || before = pid.and_then(process::usage)).await;
    let figures = figures.map_err(anyhow::Error::msg)?;
    let after = pid.and_then(process::usage);
    let used = Used {
        cpu_s: before.zip(after).map(|(before, after)| after.cpu_s - before.cpu_s),
        rss_bytes: after.map(|usage| usage.rss_bytes),
    };
    if let Some(file) = &args.json {
        super::write(file, &format!("{:#}\n", json(args, &figures, used)))?;
    }
    super::print(&table(args, &figures, used))?;
    ensure!(figures.ready > 0, "no pair could allocate: {}", causes(&figures));
    Ok(holds(args, &figures))
}

fn traffic(args: &TurnArgs) -> Traffic {
    Traffic {
        direction: match args.direction {
            Way::ToPeer => Direction::ToPeer,
            Way::ToClient => Direction::ToClient,
            Way::Both => Direction::Both,
        },
        size: args.size,
        burst: args.burst,
        pace: match args.window {
            Some(window) => Pace::Window(window),
            None => Pace::Rate { rate: args.rate.0, is_precise: args.precise },
        },
        duration: args.length.0,
        grace: GRACE,
    }
}

fn credentials(args: &TurnArgs) -> anyhow::Result<Vec<Credentials>> {
    if let Some(secret) = &args.secret {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let user = |number| Credentials::from_secret(secret, &format!("loadtest-{number}"), unix + VALID);
        return Ok((0..args.pairs).map(user).collect());
    }
    let (Some(username), Some(password)) = (args.username.clone(), args.password.clone()) else {
        anyhow::bail!("--username with --password, or --secret is needed");
    };
    Ok(vec![Credentials { username, password }])
}

fn holds(args: &TurnArgs, figures: &Figures) -> bool {
    let round = &figures.round;
    let lost = round.lost() as f64 / round.sent.max(1) as f64;
    figures.ready == args.pairs
        && figures.failures().next().is_none()
        && round.doubled + round.altered == 0
        && lost <= args.loss_at_most
}

fn causes(figures: &Figures) -> String {
    let causes = figures.failures().map(|(why, count)| format!("{why} ({count} times)"));
    causes.collect::<Vec<_>>().join("; ")
}

/// How often the server relays a datagram on its way.
fn passes(args: &TurnArgs) -> u32 {
    if args.peer == Peer::Relay { 2 } else { 1 }
}

fn table(args: &TurnArgs, figures: &Figures, used: Used) -> String {
    let round = &figures.round;
    let (allocating, latency) = (times(&figures.opening.allocating), times(&round.latency));
    let seconds = round.sending.as_secs_f64().max(1e-9);
    let twice = if passes(args) == 2 { ", through the server twice" } else { "" };
    let mut lines = vec![
        format!("{} of {} pairs allocated", figures.ready, args.pairs),
        format!(
            "allocating   p50 {:.2} ms  p95 {:.2} ms  max {:.2} ms",
            allocating.p50_ms, allocating.p95_ms, allocating.max_ms
        ),
        format!(
            "datagrams    {} sent, {} received ({:.0} a second), {} lost, {} doubled, {} altered",
            round.sent,
            round.received,
            round.received as f64 / seconds,
            round.lost(),
            round.doubled,
            round.altered
        ),
        format!(
            "latency      p50 {:.3} ms  p95 {:.3} ms  p99 {:.3} ms  max {:.3} ms{twice}",
            latency.p50_ms, latency.p95_ms, latency.p99_ms, latency.max_ms
        ),
    ];
    if round.late.count() > 0 {
        let late = times(&round.late);
        lines.push(format!(
            "             sent later than due: p50 {:.3} ms  p95 {:.3} ms",
            late.p50_ms, late.p95_ms
        ));
    }
    if let Some(cpu) = used.cpu_s {
        let each = cpu * 1e6 / (u64::from(passes(args)) * round.received.max(1)) as f64;
        lines.push(format!(
            "server       {cpu:.2} s of CPU, {each:.2} µs each time that a datagram was relayed"
        ));
    }
    if let Some(rss) = used.rss_bytes {
        lines.push(format!("             {:.1} MB of memory", rss as f64 / 1e6));
    }
    lines.extend(figures.failures().map(|(why, count)| format!("FAILED       {count} times: {why}")));
    lines.push(if holds(args, figures) { "held" } else { "BROKEN: see above" }.to_owned());
    lines.join("\n") + "\n"
}

fn json(args: &TurnArgs, figures: &Figures, used: Used) -> serde_json::Value {
    let round = &figures.round;
    let name = |value: clap::builder::PossibleValue| value.get_name().to_owned();
    json!({
        "server": args.server,
        "peer": args.peer.to_possible_value().map(name),
        "direction": args.direction.to_possible_value().map(name),
        "channels": !args.no_channels,
        "pairs": args.pairs,
        "ready": figures.ready,
        "size_bytes": args.size,
        "rate": if args.window.is_some() { None } else { Some(args.rate.0) },
        "window": args.window,
        "burst": args.burst,
        "sending_s": round.sending.as_secs_f64(),
        "sent": round.sent,
        "received": round.received,
        "lost": round.lost(),
        "doubled": round.doubled,
        "altered": round.altered,
        "relayed": u64::from(passes(args)) * round.received,
        "allocating": times(&figures.opening.allocating),
        "latency": times(&round.latency),
        "late": times(&round.late),
        "server_cpu_s": used.cpu_s,
        "server_rss_bytes": used.rss_bytes,
        "failures": figures.failures().map(|(why, count)| (why.to_owned(), count.into()))
            .collect::<serde_json::Map<_, _>>(),
        "passed": holds(args, figures),
    })
}
