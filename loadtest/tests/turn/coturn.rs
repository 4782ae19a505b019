//! coturn, as Debian has it, one for each test.

use std::{
    io::{BufRead as _, BufReader},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use switchyard_loadtest::turn::client::Credentials;
use tempfile::TempDir;

const SECRET: &str = "a secret of the test, on loopback";

/// A server of its own, ended when the test ends.
pub(crate) struct Coturn {
    process: Child,
    pub(crate) address: SocketAddr,
    /// For TLS, if it has a certificate.
    pub(crate) tls: SocketAddr,
    _folder: TempDir,
}

impl Coturn {
    pub(crate) fn start() -> Self {
        Self::start_with(&["--no-tls"])
    }

    /// With a certificate and its key, both PEM files.
    pub(crate) fn start_with_tls(certificate: &Path, key: &Path) -> Self {
        let (certificate, key) = (certificate.display(), key.display());
        Self::start_with(&[&format!("--cert={certificate}"), &format!("--pkey={key}")])
    }

    fn start_with(more: &[&str]) -> Self {
        let free = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let (port, tls_port) = (free(), free());
        let folder = tempfile::tempdir().unwrap();
        let mut process = Command::new("turnserver")
            .args(["-n", "--listening-ip=127.0.0.1", "--relay-ip=127.0.0.1", "--allow-loopback-peers"])
            .args(["--no-dtls", "--no-cli", "--use-auth-secret", "--realm=switchyard.test"])
            .args(["--log-file=stdout", "--simple-log"])
            .arg(format!("--static-auth-secret={SECRET}"))
            .arg(format!("--listening-port={port}"))
            .arg(format!("--tls-listening-port={tls_port}"))
            .arg(format!("--userdb={}", folder.path().join("turndb").display()))
            .arg(format!("--pidfile={}", folder.path().join("pid").display()))
            .args(more)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("coturn: apt-get install coturn");
        // Its words are read so that it never waits for a reader.
        let output = BufReader::new(process.stdout.take().unwrap());
        std::thread::spawn(move || output.lines().for_each(drop));
        let [address, tls] = [port, tls_port].map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        let last = if more.contains(&"--no-tls") { address } else { tls };
        let began = Instant::now();
        while TcpStream::connect(last).is_err() {
            assert!(began.elapsed() < Duration::from_secs(10), "coturn does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Self { process, address, tls, _folder: folder }
    }
}

impl Drop for Coturn {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// That it accepts.
pub(crate) fn credentials() -> Vec<Credentials> {
    credentials_with(SECRET)
}

pub(crate) fn credentials_with(secret: &str) -> Vec<Credentials> {
    let unix = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    ["alice", "bob"].map(|user| Credentials::from_secret(secret, user, unix + 600)).into()
}
