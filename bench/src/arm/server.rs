//! Switchyard as it is shipped, but for limits that would refuse the load; its shard count is one, so that the work
//! of a delivery is in one thread, as it is for the bare engine.

use std::{
    net::{Ipv4Addr, TcpListener, UdpSocket},
    path::Path,
};

use anyhow::Context as _;
use switchyard::config::{Config, Key, Mode, Secret};
use switchyard_signaling::Features;
use switchyard_turn_config::{peers::Cidr, settings};

use super::{OUR_PORTS, PEERS, Up, hear, say};

/// The API key for the clients' tokens.
pub(crate) const KEY: &str = "bench";
/// Its secret; the server listens on loopback alone and ends with the benchmark.
pub(crate) const SECRET: &str = "a secret of the benchmark, on loopback";

pub(super) fn run(store: Option<&Path>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let folder = tempfile::tempdir()?;
    let mut config = config();
    config.store.path = store.map_or_else(|| folder.path().join("store.db"), Path::to_path_buf);
    let running = runtime.block_on(switchyard::start(config))?;
    say(&Up { port: running.address.port() })?;
    while hear::<()>()?.is_some() {}
    Ok(())
}

/// With sockets for WebRTC and for a relay as in its defaults, and all features off.
pub(super) fn run_off() -> anyhow::Result<()> {
    let mut config = config();
    config.rtc.tcp_enabled = true;
    config.rtc.tcp_port = 0;
    let turn = &mut config.turn;
    turn.mode = settings::Mode::Embedded;
    turn.listen.bind = vec![Ipv4Addr::LOCALHOST.into()];
    (turn.listen.udp_port, turn.listen.tcp_port, turn.listen.tls_port) = (0, 0, 0);
    config.features = Features { webrtc: false, relay: false, p2p: false, tentative: false };
    serve(config)
}

/// Without WebRTC and relay: their sockets and threads are not made.
pub(super) fn run_without() -> anyhow::Result<()> {
    let mut config = config();
    config.rtc.enabled = false;
    serve(config)
}

fn serve(mut config: Config) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let folder = tempfile::tempdir()?;
    config.store.path = folder.path().join("store.db");
    let running = runtime.block_on(switchyard::start(config))?;
    say(&Up { port: running.address.port() })?;
    while hear::<()>()?.is_some() {}
    Ok(())
}

/// With a relay whose port is told, and which relays to [`PEERS`].
pub(super) fn run_turn() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let folder = tempfile::tempdir()?;
    let mut config = config();
    config.store.path = folder.path().join("store.db");
    let port = free_port()?;
    let turn = &mut config.turn;
    turn.mode = settings::Mode::Embedded;
    turn.listen.bind = vec![Ipv4Addr::LOCALHOST.into()];
    (turn.listen.udp_port, turn.listen.tcp_port, turn.listen.tls_enabled) = (port, port, false);
    turn.credentials.secret = Some(settings::Secret::new(SECRET));
    turn.relay.bind_v4 = Some(Ipv4Addr::LOCALHOST);
    (turn.relay.min_port, turn.relay.max_port) = OUR_PORTS;
    turn.allow = vec![format!("{PEERS}/32").parse::<Cidr>().map_err(anyhow::Error::msg)?];
    let quotas = &mut turn.quotas;
    quotas.allocations_per_user = quotas.allocations;
    quotas.bytes_per_second = 0;
    (quotas.answers_per_second, quotas.answers_burst) = (1_000_000, 1_000_000);
    let _running = runtime.block_on(switchyard::start(config))?;
    say(&Up { port })?;
    while hear::<()>()?.is_some() {}
    Ok(())
}

/// Of UDP and TCP.
pub(super) fn free_port() -> anyhow::Result<u16> {
    for _ in 0..100 {
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = tcp.local_addr()?.port();
        if UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    Err(anyhow::anyhow!("hundred ports of TCP are none of UDP")).context("a free port")
}

fn config() -> Config {
    let mut config = Config { mode: Some(Mode::Development), ..Config::default() };
    let key = Key { secret: Secret::new(SECRET.to_owned()) };
    config.keys.insert(KEY.to_owned(), key);
    config.http.bind = Some(Ipv4Addr::LOCALHOST.into());
    config.http.port = 0;
    config.rtc.bind = vec![Ipv4Addr::LOCALHOST.into()];
    config.rtc.advertise_addresses = config.rtc.bind.clone();
    config.rtc.udp_port = 0;
    config.rtc.tcp_enabled = false;
    config.turn.mode = settings::Mode::Off;
    config.rtc.shards = Some(1);
    config.limits.participants_per_room = 1000;
    config.limits.messages_per_second = 0;
    config.limits.writes_per_minute = 0;
    config.limits.signals_per_second = 0;
    config
}
