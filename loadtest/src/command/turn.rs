//! `turn`: load for a bare TURN server.

use std::{
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, ensure};
use clap::Args;
use serde_json::json;
use switchyard_loadtest::{
    account::{STAMP_BYTES, times},
    observe::process,
    target::Trust,
    turn::{
        client::Credentials,
        run::{Figures, Load, run},
        server::TurnServer,
    },
    units::{Frequency, Time},
};
use tokio::sync::watch;

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
    /// Make short-lived credentials with this secret, which the server has too (the TURN REST API)
    #[arg(long, env = "SWITCHYARD_TURN_SECRET", hide_env_values = true, conflicts_with = "username")]
    secret: Option<String>,
    /// Pairs of allocations; one end of each sends to the other
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=5_000))]
    pairs: u32,
    /// Bytes of each datagram, 24 to 1400
    #[arg(long, default_value_t = 100)]
    size: usize,
    /// Datagrams of each pair: 1000 a second, or 60/min
    #[arg(long, default_value = "100")]
    rate: Frequency,
    /// Datagrams that are sent back to back
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

/// Runs and reports; whether all that was sent has arrived, up to the share that may be lost.
pub(crate) fn turn(args: &TurnArgs) -> anyhow::Result<bool> {
    ensure!(
        (STAMP_BYTES..=MOST).contains(&args.size),
        "--size is {}; from {STAMP_BYTES} to {MOST} are possible",
        args.size
    );
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting the runtime")?;
    runtime.block_on(load(args))
}

async fn load(args: &TurnArgs) -> anyhow::Result<bool> {
    let trust = match (&args.ca, args.insecure) {
        (Some(file), _) => Trust::Authorities(file.clone()),
        (None, true) => Trust::Anything,
        (None, false) => Trust::System,
    };
    let server = TurnServer::open(&args.server, &trust).await?;
    let pid = args.server_pid.or_else(|| process::listener(server.address()));
    let load = Load {
        server,
        credentials: credentials(args)?,
        pairs: args.pairs,
        size: args.size,
        rate: args.rate.0,
        burst: args.burst,
        duration: args.length.0,
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
    let before = pid.and_then(process::usage);
    let figures = run(&load, stopped).await;
    let after = pid.and_then(process::usage);
    let cpu = before.zip(after).map(|(before, after)| after.cpu_s - before.cpu_s);
    let rss = after.map(|usage| usage.rss_bytes);
    if let Some(file) = &args.json {
        super::write(file, &format!("{:#}\n", json(args, &figures, cpu, rss)))?;
    }
    super::print(&table(args, &figures, cpu, rss))?;
    ensure!(figures.ready > 0, "no pair could allocate: {}", causes(&figures));
    Ok(holds(args, &figures))
}

fn credentials(args: &TurnArgs) -> anyhow::Result<Credentials> {
    if let Some(secret) = &args.secret {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        return Ok(Credentials::from_secret(secret, "loadtest", unix + VALID));
    }
    let (Some(username), Some(password)) = (args.username.clone(), args.password.clone()) else {
        anyhow::bail!("--username with --password, or --secret is needed");
    };
    Ok(Credentials { username, password })
}

fn holds(args: &TurnArgs, figures: &Figures) -> bool {
    let lost = figures.lost() as f64 / figures.sent.max(1) as f64;
    figures.ready == args.pairs
        && figures.failures.is_empty()
        && figures.doubled + figures.altered == 0
        && lost <= args.loss_at_most
}

fn causes(figures: &Figures) -> String {
    let causes = figures.failures.iter().map(|(why, count)| format!("{why} ({count} times)"));
    causes.collect::<Vec<_>>().join("; ")
}

fn table(args: &TurnArgs, figures: &Figures, cpu: Option<f64>, rss: Option<u64>) -> String {
    let (allocating, latency) = (times(&figures.allocating), times(&figures.latency));
    let seconds = figures.sending.as_secs_f64().max(1e-9);
    let mut lines = vec![
        format!("{} of {} pairs allocated", figures.ready, args.pairs),
        format!(
            "allocating   p50 {:.2} ms  p95 {:.2} ms  max {:.2} ms",
            allocating.p50_ms, allocating.p95_ms, allocating.max_ms
        ),
        format!(
            "datagrams    {} sent, {} received ({:.0} a second), {} lost, {} doubled, {} altered",
            figures.sent,
            figures.received,
            figures.received as f64 / seconds,
            figures.lost(),
            figures.doubled,
            figures.altered
        ),
        format!(
            "latency      p50 {:.3} ms  p95 {:.3} ms  p99 {:.3} ms  max {:.3} ms, through the server twice",
            latency.p50_ms, latency.p95_ms, latency.p99_ms, latency.max_ms
        ),
    ];
    if let Some(cpu) = cpu {
        let each = cpu * 1e6 / (2 * figures.received.max(1)) as f64;
        lines.push(format!(
            "server       {cpu:.2} s of CPU, {each:.2} µs each time that a datagram was relayed"
        ));
    }
    if let Some(rss) = rss {
        lines.push(format!("             {:.1} MB of memory", rss as f64 / 1e6));
    }
    lines.extend(figures.failures.iter().map(|(why, count)| format!("FAILED       {count} times: {why}")));
    lines.push(if holds(args, figures) { "held" } else { "BROKEN: see above" }.to_owned());
    lines.join("\n") + "\n"
}

fn json(args: &TurnArgs, figures: &Figures, cpu: Option<f64>, rss: Option<u64>) -> serde_json::Value {
    json!({
        "server": args.server,
        "pairs": args.pairs,
        "ready": figures.ready,
        "size_bytes": args.size,
        "rate": args.rate.0,
        "burst": args.burst,
        "sending_s": figures.sending.as_secs_f64(),
        "sent": figures.sent,
        "received": figures.received,
        "lost": figures.lost(),
        "doubled": figures.doubled,
        "altered": figures.altered,
        "allocating": times(&figures.allocating),
        "latency": times(&figures.latency),
        "server_cpu_s": cpu,
        "server_rss_bytes": rss,
        "failures": figures.failures,
        "passed": holds(args, figures),
    })
}
