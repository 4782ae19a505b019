//! Switchyard: one server for live collaboration.
//!
//! Three questions, three folders. *Who is in the room and who gets it?* [`room`]. *What is the connection doing?*
//! [`engine`]. *How do bytes move?* [`io`] and [`http`]. Between them the [`router`] carries messages from rooms to
//! sessions across shards, and the [`store`] keeps what survives. [`config`], [`token`], [`tls`], [`metrics`], [`cli`], [`log`],
//! [`health`], [`doctor`], [`ice_servers`], [`attempts`] and [`bucket`] are what their names say; the wire
//! format is the crate `switchyard_signaling`, and the whole picture is in `docs/architecture.md`.
//!
//! [`run`] is the server; [`start`] is the same for who needs the address it got, such as a test.

pub mod attempts;
pub mod bucket;
pub mod cli;
pub mod config;
pub mod doctor;
pub mod engine;
pub mod health;
pub mod http;
pub mod ice_servers;
pub mod io;
pub mod log;
pub mod metrics;
pub mod names;
pub mod room;
pub mod router;
pub mod signing_key;
pub mod store;
pub mod tls;
pub mod token;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context as _;
use switchyard_signaling::Features;
use switchyard_turn_config::settings::Turn;
use tokio::{net::TcpListener, sync::watch, task::JoinHandle, time::Instant};

use crate::{
    config::{Config, LogFormat, Mode},
    http::App,
    io::Shards,
    metrics::Metrics,
};

/// When to ask again over HTTP after a shutdown.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// Over how long so many clients are asked to spread their return after a shutdown: a millisecond each, for a join costs
/// less, and so much at least that their connections do not all come at one moment.
fn return_spread(clients: u64) -> Duration {
    Duration::from_millis(clients).clamp(Duration::from_millis(500), Duration::from_secs(30))
}

/// A server that is up.
#[derive(Debug)]
pub struct Running {
    /// Where HTTP listens.
    pub address: SocketAddr,
    app: Arc<App>,
    stop_http: watch::Sender<bool>,
    http: JoinHandle<()>,
}

/// Runs a server until `shutdown` ends, then drains it.
///
/// # Errors
/// If a port cannot be bound.
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
    let running = start(config).await?;
    let app = &running.app;
    tracing::info!(address = %running.address, shards = app.shards.count(), "{}", cli::describe(&app.config));
    let Features { webrtc, relay, p2p, tentative } = app.config.features;
    if app.config.features.and(Features::UNASKED) != Features::UNASKED {
        tracing::warn!(
            webrtc,
            relay,
            p2p,
            tentative,
            "features are switched off (section `features` of the configuration)"
        );
    }
    if app.config.mode() == Mode::Development && app.config.log.format == LogFormat::Text {
        // For whoever has just typed `cargo run`; an operator's log collector asks for JSON.
        println!("\n  Switchyard is up: open http://{}/ in two browser windows.\n", running.address);
    }
    shutdown.await;
    running.drain().await
}

/// Starts a server: when this returns, every port is bound.
///
/// # Errors
/// If a port cannot be bound.
pub async fn start(config: Config) -> anyhow::Result<Running> {
    let metrics = Arc::new(Metrics::new());
    let address = config.http_address();
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address} (http.bind, http.port)"))?;
    let address = listener.local_addr().context("cannot ask for the address of HTTP")?;
    let shards = Shards::start(&config, &metrics)?;
    let app = Arc::new(App::new(config, metrics, shards));
    let (stop_http, stopped) = watch::channel(false);
    let sockets = 2 * app.config.limits.sessions_max as usize;
    let sources = http::Sources { listener, https: app.shards.take_https() };
    let http = tokio::spawn(http::serve(sources, http::routes(app.clone()), sockets, stopped));
    Ok(Running { address, app, stop_http, http })
}

impl Running {
    /// How clients reach the relay: as configured, with the addresses and ports that were taken.
    #[must_use]
    pub fn turn(&self) -> &Turn {
        self.app.shards.turn()
    }

    /// Tells every client, lets them take their leave within `drain.timeout`, and ends.
    ///
    /// # Errors
    /// If HTTP had failed before.
    pub async fn drain(self) -> anyhow::Result<()> {
        let Self { app, stop_http, http, .. } = self;
        tracing::info!(sockets = app.open_sockets(), "draining");
        app.begin_drain();
        app.shards.drain(return_spread(app.open_sockets())).await;
        let deadline = Instant::now() + app.config.drain.timeout;
        while app.open_sockets() > 0 && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let _ = stop_http.send(true);
        let aborting = http.abort_handle();
        match tokio::time::timeout_at(deadline + Duration::from_millis(500), http).await {
            Ok(ended) => ended.context("HTTP ended badly")?,
            Err(_) => aborting.abort(),
        }
        app.shards.stop().await;
        tracing::info!("ended");
        Ok(())
    }
}
