//! The real program as a child process, and where it keeps what survives.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
    time::timeout,
};

use super::{
    client::{KEY, SECRET},
    disk::Unsynced,
};

/// How long a server may take to come up.
const START: Duration = Duration::from_secs(20);

/// Where a server keeps what survives.
pub(crate) struct Storage {
    settings: Vec<(String, String)>,
    path: PathBuf,
    disk: Option<Unsynced>,
}

impl Storage {
    pub(crate) fn sqlite(folder: &Path) -> Self {
        let path = folder.join("store").join("store.db");
        let settings = vec![("SWITCHYARD__STORE__PATH".to_owned(), path.display().to_string())];
        Self { settings, path, disk: None }
    }

    pub(crate) fn postgres(url: &str) -> Self {
        let settings = vec![("SWITCHYARD__STORE__URL".to_owned(), url.to_owned())];
        Self { settings, path: PathBuf::new(), disk: None }
    }

    pub(crate) fn on(mut self, disk: Unsynced) -> Self {
        self.settings.extend(disk.settings(self.path.parent().expect("it is in a folder")));
        self.disk = Some(disk);
        self
    }

    /// The planted fault: the database is told not to sync.
    pub(crate) fn without_sync(mut self) -> Self {
        self.settings.push(("SWITCHYARD_PLANT".to_owned(), "unsynced".to_owned()));
        self
    }

    /// The server has crashed, and the machine with it if the disk says so.
    pub(crate) fn crashed(&self) {
        if let Some(disk) = &self.disk {
            disk.crash();
        }
    }
}

/// A server that runs.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Server {
    /// Starts it; `port` 0 is any.
    pub(crate) async fn start(storage: &Storage, port: u16) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_switchyard"));
        let inherited =
            std::env::vars_os().filter(|(name, _)| !name.to_string_lossy().starts_with("SWITCHYARD"));
        command.env_clear().envs(inherited).envs(storage.settings.iter().map(|(name, value)| (name, value)));
        command.envs([
            ("SWITCHYARD__MODE", "development"),
            ("SWITCHYARD__HTTP__PORT", &port.to_string()),
            ("SWITCHYARD__RTC__ENABLED", "false"),
            ("SWITCHYARD__RTC__SHARDS", "2"),
            ("SWITCHYARD__TURN__MODE", "off"),
            ("SWITCHYARD__LOG__FORMAT", "json"),
            ("SWITCHYARD__LIMITS__WRITES_PER_MINUTE", "0"),
            ("SWITCHYARD__LIMITS__MESSAGES_PER_SECOND", "0"),
            ("SWITCHYARD__LIMITS__SIGNALS_PER_SECOND", "0"),
        ]);
        command.env(format!("SWITCHYARD__KEYS__{}__SECRET", KEY.to_uppercase()), SECRET);
        command
            .arg("serve")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn().expect("the server starts");
        let mut lines = BufReader::new(child.stderr.take().expect("it is piped")).lines();
        let mut seen = Vec::new();
        let listening = async {
            while let Ok(Some(line)) = lines.next_line().await {
                let json: Value = serde_json::from_str(&line).unwrap_or_default();
                if let Some(address) = json["fields"]["address"].as_str() {
                    return address.parse().ok();
                }
                seen.push(line);
            }
            None
        };
        let address = timeout(START, listening).await.ok().flatten();
        let Some(address) = address else { panic!("no server: {seen:#?}") };
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Self { child, address }
    }

    /// SIGKILL.
    pub(crate) async fn kill(mut self) {
        self.child.start_kill().expect("it runs");
        self.child.wait().await.expect("it ends");
    }

    pub(crate) async fn stop(self) {
        self.kill().await;
    }
}
