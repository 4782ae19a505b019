//! The real server, for its relay.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::atomic::{AtomicU16, Ordering},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use switchyard::{
    Running,
    config::{Config, Mode},
};
use switchyard_loadtest::target::{Target, Trust};
use switchyard_turn_config::{
    credentials::{Credential, Keyring},
    settings::{Secret, Turn},
};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// What credentials are made with.
pub(crate) const SECRET: &str = "a secret of the tests, on loopback";
pub(crate) const REALM: &str = "example.org";

/// Relay ports of one server.
const PORTS: u16 = 300;
/// The first of them: none is one that the system gives to sockets which ask for any.
const FIRST_PORT: u16 = 20_000;

/// A server that runs, with its own event loops.
pub(crate) struct Relay {
    runtime: Runtime,
    running: Option<Running>,
    metrics: Target,
    turn: Turn,
    /// PEM file with the certificate, which is its own authority.
    pub(crate) certificate: PathBuf,
    _folder: TempDir,
}

impl Relay {
    /// Starts one that listens on these addresses and relays from the first of each family.
    pub(crate) fn start(addresses: &[IpAddr], change: impl FnOnce(&mut Turn)) -> Self {
        static NEXT_PORT: AtomicU16 = AtomicU16::new(FIRST_PORT);
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config { mode: Some(Mode::Development), ..Config::default() };
        config.http.bind = Some(Ipv4Addr::LOCALHOST.into());
        config.http.port = 0;
        config.rtc.enabled = false;
        config.rtc.shards = Some(1);
        config.store.path = folder.path().join("store.db");
        let turn = &mut config.turn;
        turn.realm = REALM.to_owned();
        turn.credentials.secret = Some(Secret::new(SECRET));
        turn.listen.bind = addresses.to_vec();
        (turn.listen.udp_port, turn.listen.tcp_port, turn.listen.tls_port) = (0, 0, 0);
        for address in addresses.iter().rev() {
            match address {
                IpAddr::V4(ip) => turn.relay.bind_v4 = Some(*ip),
                IpAddr::V6(ip) => turn.relay.bind_v6 = Some(*ip),
            }
        }
        turn.relay.min_port = NEXT_PORT.fetch_add(PORTS, Ordering::Relaxed);
        turn.relay.max_port = turn.relay.min_port + PORTS - 1;
        let certificate = folder.path().join("certificate.pem");
        turn.listen.tls_key = Some(folder.path().join("key.pem"));
        turn.listen.tls_certificate = Some(certificate.clone());
        let names: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        fs::write(&certificate, made.cert.pem()).unwrap();
        fs::write(folder.path().join("key.pem"), made.signing_key.serialize_pem()).unwrap();
        change(turn);
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let running = runtime.block_on(switchyard::start(config)).unwrap();
        let url = format!("http://{}", running.address);
        let metrics = runtime.block_on(Target::open(&url, &Trust::System)).unwrap();
        let turn = running.turn().clone();
        Self { runtime, running: Some(running), metrics, turn, certificate, _folder: folder }
    }

    /// Where it takes datagrams.
    pub(crate) fn udp(&self, ip: IpAddr) -> SocketAddr {
        SocketAddr::new(ip, self.turn.listen.udp_port)
    }

    /// Where it takes TCP.
    pub(crate) fn tcp(&self, ip: IpAddr) -> SocketAddr {
        SocketAddr::new(ip, self.turn.listen.tcp_port)
    }

    /// Where it takes TLS.
    pub(crate) fn tls(&self, ip: IpAddr) -> SocketAddr {
        SocketAddr::new(ip, self.turn.listen.tls_port)
    }

    /// What it has counted under this name and these labels, as `/metrics` writes them.
    pub(crate) fn counted(&self, series: &str) -> u64 {
        let (status, text) = self.runtime.block_on(self.metrics.get("/metrics")).unwrap();
        assert_eq!(status, 200);
        let text = String::from_utf8(text.to_vec()).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {series} in\n{text}")).parse().unwrap()
    }

    /// Waits until that is so many, which shows after half a second; gives what it is in the end.
    pub(crate) fn counted_at_last(&self, series: &str, expected: u64) -> u64 {
        let start = Instant::now();
        loop {
            let counted = self.counted(series);
            if counted == expected || start.elapsed() > Duration::from_secs(10) {
                return counted;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            let drained = self.runtime.block_on(running.drain());
            assert!(std::thread::panicking() || drained.is_ok(), "{drained:?}");
        }
    }
}

/// A credential of this user for an hour.
pub(crate) fn credential(user: &str, secret: &str) -> Credential {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let keyring = Keyring::new(&Secret::new(secret), None, unix, Duration::ZERO);
    keyring.issue(user, unix, Duration::from_secs(3600))
}
