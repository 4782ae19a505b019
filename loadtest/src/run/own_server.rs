//! A server that the run has started itself, so that it can end it and start it again: `--server-command`.
//!
//! The command is given free ports, a folder of its own, an API key and what the scenario's `settings` say through
//! Switchyard's environment variables; it listens on loopback. It keeps ports and folder when it is started again.

use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    path::PathBuf,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, kill_process};
use tokio::{
    process::{Child, Command},
    time::{sleep, timeout},
};

use crate::{
    scenario::{Restart, Scenario, Signal},
    target::{Target, Trust},
    token::TokenSource,
};

/// A server of our own. Dropping it kills it and removes its folder.
#[derive(Debug)]
pub struct OwnServer {
    command: String,
    environment: Vec<(String, String)>,
    address: SocketAddr,
    secret: String,
    folder: PathBuf,
    child: Option<Child>,
}

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Ports, folder or process.
    #[error("the server that --server-command names: {0}")]
    Io(#[from] io::Error),
    /// It ended by itself.
    #[error("the server that --server-command names has ended ({status}); its last words:\n{words}")]
    Ended {
        /// How.
        status: ExitStatus,
        /// The end of what it wrote.
        words: String,
    },
    /// It does not answer `/readyz`.
    #[error("the server that --server-command names is not ready after {0:?}; its last words:\n{1}")]
    NotReady(Duration, String),
}

/// Until a server that was started must be ready: a large log may have to be looked through.
const READY: Duration = Duration::from_secs(30);
/// Until a server that was asked to end must have ended.
const END: Duration = Duration::from_secs(20);
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// Lines of its log that are shown when it fails.
const WORDS: usize = 12;
const KEY: &str = "loadtest";

impl OwnServer {
    /// Starts it and waits until it is ready.
    pub async fn start(command: &str, scenario: &Scenario) -> Result<Self, ServerError> {
        let port = free_tcp_port()?;
        let folder = std::env::temp_dir().join(format!("switchyard-loadtest-{}-{port}", std::process::id()));
        fs::create_dir_all(&folder)?;
        let secret = format!("{:032x}", u128::from(port) << 64 | u128::from(std::process::id()));
        let mut environment = vec![
            ("SWITCHYARD__HTTP__PORT".to_owned(), port.to_string()),
            ("SWITCHYARD__RTC__UDP_PORT".to_owned(), free_udp_ports()?.to_string()),
            ("SWITCHYARD__RTC__TCP_PORT".to_owned(), free_tcp_port()?.to_string()),
            ("SWITCHYARD__TURN__MODE".to_owned(), "off".to_owned()),
            ("SWITCHYARD__STORE__PATH".to_owned(), folder.join("store.db").display().to_string()),
            ("SWITCHYARD__MODE".to_owned(), "development".to_owned()),
            (format!("SWITCHYARD__KEYS__{}__SECRET", KEY.to_uppercase()), secret.clone()),
            ("NO_COLOR".to_owned(), "1".to_owned()),
        ];
        environment.extend(scenario.settings.iter().map(|(name, value)| (variable(name), value.to_string())));
        let address = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
        let command = command.to_owned();
        let mut server = Self { command, environment, address, secret, folder, child: None };
        server.launch().await?;
        Ok(server)
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Tokens for it.
    pub fn tokens(&self) -> TokenSource {
        TokenSource::Key { key: KEY.to_owned(), secret: self.secret.clone() }
    }

    /// Its process.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }

    /// Ends it as said, and starts it again after a while.
    pub async fn restart(&mut self, restart: Restart) -> Result<(), ServerError> {
        self.end(restart.signal).await?;
        sleep(restart.down.0).await;
        self.launch().await
    }

    /// Ends it. One that does not go when asked is killed.
    pub async fn end(&mut self, signal: Signal) -> Result<(), ServerError> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        let pid = child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        if let (Signal::Term, Some(pid)) = (signal, pid) {
            kill_process(pid, rustix::process::Signal::TERM).map_err(io::Error::from)?;
            if timeout(END, child.wait()).await.is_ok() {
                return Ok(());
            }
        }
        child.kill().await?;
        Ok(())
    }

    async fn launch(&mut self) -> Result<(), ServerError> {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log())?;
        // The shell reads the command's quotes and becomes the server itself.
        let mut child = Command::new("sh")
            .arg("-c")
            .arg(format!("exec {}", self.command))
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()?;
        let target = Target::open(&self.url(), &Trust::System).await.map_err(io::Error::other)?;
        let ready = async {
            loop {
                if let Some(status) = child.try_wait()? {
                    return Err(ServerError::Ended { status, words: self.words() });
                }
                if target.get("/readyz").await.is_ok_and(|(status, _)| status == 200) {
                    return Ok(());
                }
                sleep(LOOK_AGAIN).await;
            }
        };
        timeout(READY, ready).await.map_err(|_| ServerError::NotReady(READY, self.words()))??;
        self.child = Some(child);
        Ok(())
    }

    fn log(&self) -> PathBuf {
        self.folder.join("server.log")
    }

    fn words(&self) -> String {
        let log = fs::read(self.log()).unwrap_or_default();
        let text = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(WORDS)..].join("\n")
    }
}

impl Drop for OwnServer {
    fn drop(&mut self) {
        // A folder in the system's place for what may go.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// `limits.participants_per_room` is `SWITCHYARD__LIMITS__PARTICIPANTS_PER_ROOM`.
fn variable(setting: &str) -> String {
    format!("SWITCHYARD__{}", setting.replace('.', "__").to_uppercase())
}

fn free_tcp_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// The first of several UDP ports in a row, one for each shard.
fn free_udp_ports() -> io::Result<u16> {
    let shards = std::thread::available_parallelism().map_or(1, usize::from) as u16;
    for _ in 0..100 {
        let first = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        let port = first.local_addr()?.port();
        let others = (1..shards).map(|next| {
            let port = port.checked_add(next).ok_or(io::ErrorKind::AddrNotAvailable)?;
            UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))
        });
        if others.collect::<io::Result<Vec<_>>>().is_ok() {
            return Ok(port);
        }
    }
    Err(io::ErrorKind::AddrInUse.into())
}
