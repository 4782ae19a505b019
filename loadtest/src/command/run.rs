//! `run`: a scenario with what the command line changes of it, where it runs, and what is written of it.

use std::{
    path::PathBuf,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, bail};
use clap::Args;
use switchyard_loadtest::{
    adapter::{self, Adapter},
    figures::Report,
    run::{self, Interrupt, Progress, Setup, own_server::OwnServer},
    scenario::{Networks, Scenario, Transport},
    target::{Target, Trust},
    token::{TokenError, TokenSource},
    units::Time,
    view::{self, live::Live, terminal::Screen},
};
use tokio::sync::watch;

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// A scenario that comes with this program (see `list`), or a file
    scenario: String,

    /// The server: http://HOST[:PORT] or https://HOST[:PORT]
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:7880", help_heading = "Server")]
    target: String,
    /// The kind of server (see `list`)
    ///
    /// With broadcast it is any WebSocket server that passes binary messages on to all others at the same path, /ROOM. Its users
    /// have WebSocket alone and need no tokens; it carries data on the reliable lane, and nothing else.
    #[arg(
        long,
        value_name = "NAME",
        default_value = "switchyard",
        value_parser = adapter::find,
        help_heading = "Server"
    )]
    adapter: &'static Adapter,
    /// Start this server, load it, restart it if the scenario says so, and end it
    ///
    /// It is given free ports on loopback, a folder, an API key and the scenario's settings in Switchyard's environment
    /// variables. A shell reads the command.
    #[arg(long, value_name = "COMMAND", conflicts_with_all = ["target", "dev", "token_key"], help_heading = "Server")]
    server_command: Option<String>,
    /// The server's process, for its CPU and memory, where it is not found by its port
    #[arg(long, value_name = "PID", help_heading = "Server")]
    server_pid: Option<u32>,
    /// API key to mint tokens with
    #[arg(long, value_name = "KEY", requires = "token_secret", help_heading = "Server")]
    token_key: Option<String>,
    /// Secret of the API key; better in the environment, where other users of the machine do not see it
    #[arg(
        long,
        value_name = "SECRET",
        env = "SWITCHYARD_LOADTEST_SECRET",
        hide_env_values = true,
        help_heading = "Server"
    )]
    token_secret: Option<String>,
    /// Ask a development server for tokens; so it is anyway on loopback without a key
    #[arg(long, conflicts_with = "token_key", help_heading = "Server")]
    dev: bool,
    /// Trust the certificate authorities in this PEM file, in place of the system's
    #[arg(long, value_name = "FILE", help_heading = "Server")]
    ca: Option<PathBuf>,
    /// Trust any certificate
    #[arg(long, conflicts_with = "ca", help_heading = "Server")]
    insecure: bool,

    /// Put everybody into this network: a name (see `list`), or a file
    #[arg(long, value_name = "NAME|FILE", help_heading = "Scenario")]
    network: Option<String>,
    /// Have so many users, in the groups' proportions
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), help_heading = "Scenario")]
    users: Option<u32>,
    /// Hold for so long; events and windows stay where they are
    #[arg(long, value_name = "TIME", help_heading = "Scenario")]
    hold: Option<Time>,
    /// Arrive over this time
    #[arg(long, value_name = "TIME", help_heading = "Scenario")]
    ramp: Option<Time>,
    /// Connect everybody like this: udp, websocket or mixed
    #[arg(long, value_name = "TRANSPORT", help_heading = "Scenario")]
    transport: Option<Transport>,
    /// Decides about everything that chance decides
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = "Scenario")]
    seed: u64,

    /// Write the report as JSON to this file
    #[arg(long, value_name = "FILE", help_heading = "Report")]
    json: Option<PathBuf>,
    /// Write the report as a page with charts to this file
    #[arg(long, value_name = "FILE", help_heading = "Report")]
    html: Option<PathBuf>,
    /// Show no progress
    #[arg(long, short, help_heading = "Report")]
    quiet: bool,
    /// Threads that drive users [default: one for each core]
    #[arg(long, value_name = "N", help_heading = "Report")]
    threads: Option<usize>,
}

/// Runs and reports; whether all bounds held.
pub(crate) fn run(args: &RunArgs) -> anyhow::Result<bool> {
    let scenario = scenario(args)?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting the runtime")?;
    let report = runtime.block_on(load(args, scenario))?;
    if let Some(file) = &args.json {
        let json = serde_json::to_string_pretty(&report).context("the report as JSON")?;
        super::write(file, &(json + "\n"))?;
    }
    if let Some(file) = &args.html {
        super::write(file, &view::html(&report))?;
    }
    super::print(&view::text(&report))?;
    Ok(report.verdict.passed)
}

async fn load(args: &RunArgs, scenario: Scenario) -> anyhow::Result<Report> {
    let setup = setup(args, scenario).await?;
    let (interrupt, interrupted) = watch::channel(Interrupt::None);
    tokio::spawn(async move {
        for urgency in [Interrupt::Early, Interrupt::Now] {
            if tokio::signal::ctrl_c().await.is_ok() {
                interrupt.send_replace(urgency);
            }
        }
        // The run watches this end.
        std::future::pending::<()>().await;
    });
    let mut live = Live::new(&run::summary(&setup, Vec::new()));
    let mut screen = (!args.quiet).then(Screen::stderr);
    let shown = move |progress| {
        let Some(screen) = &mut screen else { return };
        // What cannot be shown is in the report.
        let _ = match progress {
            Progress::Note(line) => screen.note(&line),
            Progress::Second(snapshot) => {
                live.update(*snapshot);
                screen.show(&live)
            }
        };
    };
    Ok(run::run(setup, interrupted, shown).await?)
}

async fn setup(args: &RunArgs, scenario: Scenario) -> anyhow::Result<Setup> {
    if args.insecure {
        eprintln!("switchyard-loadtest: warning: --insecure: whoever answers is taken for the server");
    }
    let trust = match (&args.ca, args.insecure) {
        (Some(file), _) => Trust::Authorities(file.clone()),
        (None, true) => Trust::Anything,
        (None, false) => Trust::System,
    };
    if !args.adapter.is_switchyard && (args.server_command.is_some() || args.token_key.is_some() || args.dev)
    {
        bail!("--server-command, --token-key and --dev are for the adapter switchyard");
    }
    let own_server = match &args.server_command {
        Some(command) => Some(OwnServer::start(command, &scenario).await?),
        None => None,
    };
    let url = own_server.as_ref().map_or_else(|| args.target.clone(), OwnServer::url);
    let target = Target::open(&url, &trust).await?;
    let tokens = match (&own_server, &args.token_key, &args.token_secret) {
        _ if !args.adapter.is_switchyard => TokenSource::Nowhere,
        (Some(own), ..) => own.tokens(),
        (None, Some(key), Some(secret)) => TokenSource::Key { key: key.clone(), secret: secret.clone() },
        _ if args.dev || target.is_loopback() => development(&target).await?,
        _ => bail!("{url} is not on this machine: give --token-key and --token-secret, or --dev"),
    };
    let threads = args.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    // A name of its own, so that a run finds no messages of another one.
    let prefix = format!("load-{unix}-{}", std::process::id());
    let (adapter, seed, server_pid) = (args.adapter, args.seed, args.server_pid);
    Ok(Setup { scenario, target, adapter, tokens, seed, prefix, threads, server_pid, own_server })
}

/// A development server's tokens, if it is one.
async fn development(target: &Target) -> anyhow::Result<TokenSource> {
    match TokenSource::Development.token(target, "load-probe", "probe").await {
        Ok(_) => {
            eprintln!("switchyard-loadtest: tokens come from the development server");
            Ok(TokenSource::Development)
        }
        Err(error @ TokenError::Refused(_)) => Err(error)
            .context("without --token-key and --token-secret, tokens are asked of a development server"),
        Err(error) => Err(error).with_context(|| format!("nothing to load at {}", target.url("http"))),
    }
}

/// The scenario with what the command line changes.
fn scenario(args: &RunArgs) -> anyhow::Result<Scenario> {
    let mut scenario = Scenario::load(&args.scenario)?;
    scenario.hold = args.hold.unwrap_or(scenario.hold);
    scenario.ramp = args.ramp.unwrap_or(scenario.ramp);
    if let Some(users) = args.users {
        scenario.scale(users);
    }
    for group in &mut scenario.groups {
        let transport = args.transport.or(args.adapter.only_transport());
        group.transport = transport.unwrap_or(group.transport);
        if let Some(network) = &args.network {
            group.network = Networks::One(network.clone());
        }
    }
    scenario.check()?;
    Ok(scenario)
}
