//! Switchyard as it is shipped, but for limits that would refuse the load; its shard count is one, so that the work
//! of a delivery is in one thread, as it is for the bare engine.

use std::{net::Ipv4Addr, path::Path};

use switchyard::config::{Config, Key, Mode, Secret};

use super::{Up, hear, say};

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
    config.turn.mode = switchyard_turn_config::settings::Mode::Off;
    config.rtc.shards = Some(1);
    config.limits.participants_per_room = 1000;
    config.limits.messages_per_second = 0;
    config.limits.writes_per_minute = 0;
    config.limits.signals_per_second = 0;
    config
}
