//! coturn as Debian has it, with its own defaults but for what keeps it on loopback. It relays with one thread, which is
//! its default where there is one core: on the one that it gets, more would only take turns.

use std::{
    io::{BufRead as _, BufReader, ErrorKind},
    net::{Ipv4Addr, TcpStream},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use tempfile::TempDir;

use super::{COTURNS_PORTS, SECRET, server::free_port};

/// A server that is up, and ends with this.
pub(crate) struct Coturn {
    process: Child,
    /// Where it listens on loopback, by UDP and TCP.
    pub(crate) port: u16,
    _folder: TempDir,
}

const PATIENCE: Duration = Duration::from_secs(10);

impl Coturn {
    /// Starts one; none if it is not installed.
    pub(crate) fn start() -> anyhow::Result<Option<Self>> {
        let (port, folder) = (free_port()?, tempfile::tempdir()?);
        let (first, last) = COTURNS_PORTS;
        let spawned = Command::new("turnserver")
            .args(["-n", "--listening-ip=127.0.0.1", "--relay-ip=127.0.0.1", "--allow-loopback-peers"])
            .args(["--no-tls", "--no-dtls", "--no-cli", "--use-auth-secret", "--realm=switchyard"])
            .arg("--relay-threads=1")
            .args(["--log-file=stdout", "--simple-log"])
            .arg(format!("--static-auth-secret={SECRET}"))
            .arg(format!("--listening-port={port}"))
            .args([format!("--min-port={first}"), format!("--max-port={last}")])
            .arg(format!("--userdb={}", folder.path().join("turndb").display()))
            .arg(format!("--pidfile={}", folder.path().join("pid").display()))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let mut process = match spawned {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            spawned => spawned.context("cannot start coturn")?,
        };
        // Its words are read so that it never waits for a reader.
        let output = BufReader::new(process.stdout.take().context("coturn without output")?);
        std::thread::spawn(move || output.lines().for_each(drop));
        let coturn = Self { process, port, _folder: folder };
        let began = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            if began.elapsed() > PATIENCE {
                bail!("coturn does not listen after {PATIENCE:?}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(Some(coturn))
    }

    /// Its process.
    pub(crate) fn process(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Coturn {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
