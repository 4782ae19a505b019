//! A PostgreSQL server that the tests start and stop; `tests/crash` has it too.
//!
//! It runs as the user `postgres` where the tests run as root, since it refuses to be root itself. It listens on
//! a socket in a folder of its own, and each test has a database of its own.

use std::{
    fs,
    os::unix::fs::chown,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

/// A server that runs, and stops when the last test that uses it has ended.
#[derive(Debug)]
pub(crate) struct Server {
    folder: TempDir,
    process: Mutex<Option<Child>>,
    /// While it is held the thread that started the server lives, and so does the server.
    keeper: Mutex<Option<mpsc::Sender<()>>>,
    is_durable: bool,
    databases: AtomicU32,
}

/// Runs a program of PostgreSQL as somebody who is not root.
fn command(program: &str) -> Command {
    let path = binaries().join(program);
    let is_root = fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0);
    // The server ends with the thread that started it, so that a test run that is killed leaves none behind.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "QUIT"]);
    if is_root {
        command.args(["--reuid", "postgres", "--regid", "postgres", "--clear-groups"]);
    }
    command.arg(path).env("LC_ALL", "C.UTF-8").current_dir("/").stdin(Stdio::null());
    command
}

/// Debian keeps them apart for each version.
fn binaries() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").map(|versions| {
        versions.filter_map(|version| Some(version.ok()?.path().join("bin"))).collect::<Vec<_>>()
    });
    let newest = versions.unwrap_or_default().into_iter().filter(|bin| bin.join("initdb").exists()).max();
    newest.expect("PostgreSQL is installed: apt-get install postgresql")
}

impl Server {
    /// The server that the tests share: started by the first, stopped by the last.
    pub(crate) fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<Server>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let server = Arc::new(Server::start(false));
            *shared = Arc::downgrade(&server);
            server
        })
    }

    /// A new server; `is_durable` if it waits for the disk.
    pub(crate) fn start(is_durable: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let owner = Command::new("id").args(["-u", "postgres"]).output().unwrap();
        if let Ok(owner) = String::from_utf8(owner.stdout).unwrap().trim().parse() {
            // Fails where the tests are not root, and then is not needed.
            let _ = chown(folder.path(), Some(owner), None);
        }
        let data = folder.path().join("data");
        let made = command("initdb")
            .args(["--auth=trust", "--username=postgres", "--encoding=UTF8", "--no-sync", "-D"])
            .arg(&data)
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let server = Self {
            folder,
            process: Mutex::default(),
            keeper: Mutex::default(),
            is_durable,
            databases: AtomicU32::new(0),
        };
        server.run();
        server
    }

    /// Starts the process and waits until it answers.
    pub(crate) fn run(&self) {
        let (keeper, kept) = mpsc::channel();
        let (started, start) = mpsc::channel();
        let mut server = command("postgres");
        server.arg("-D").arg(self.folder.path().join("data")).arg("-k").arg(self.folder.path());
        server.args(["-c", "listen_addresses=", "-c", "max_connections=60", "-c", "shared_buffers=32MB"]);
        if !self.is_durable {
            server.args(["-c", "fsync=off", "-c", "full_page_writes=off"]);
        }
        // To a file: nobody would read a pipe, and a server that cannot say what it has to say stands still.
        let log = self.folder.path().join("log");
        server.stdout(Stdio::null()).stderr(fs::File::create(&log).unwrap());
        thread::spawn(move || {
            started.send(server.spawn()).unwrap();
            let _: Result<(), _> = kept.recv();
        });
        *self.process.lock().unwrap() = Some(start.recv().unwrap().unwrap());
        *self.keeper.lock().unwrap() = Some(keeper);
        let deadline = Instant::now() + Duration::from_secs(30);
        while !self.sql("postgres", "SELECT 1") {
            let mut process = self.process.lock().unwrap();
            let process = process.as_mut().unwrap();
            if Instant::now() > deadline || process.try_wait().unwrap().is_some() {
                let _ = process.kill();
                panic!("PostgreSQL does not start: {}", fs::read_to_string(log).unwrap());
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Stops the process: `INT` as an operator would, `KILL` as a crash does, with all its children.
    pub(crate) fn stop(&self, signal: &str) {
        let Some(mut process) = self.process.lock().unwrap().take() else { return };
        let sent = Command::new("kill").args(["-s", signal, &process.id().to_string()]).status();
        assert!(sent.unwrap().success());
        let deadline = Instant::now() + Duration::from_secs(10);
        while process.try_wait().unwrap().is_none() {
            if Instant::now() > deadline {
                let _ = process.kill();
            }
            thread::sleep(Duration::from_millis(10));
        }
        self.keeper.lock().unwrap().take();
    }

    fn sql(&self, database: &str, sql: &str) -> bool {
        let mut psql = command("psql");
        psql.args(["-X", "-q", "-U", "postgres", "-h"]).arg(self.folder.path());
        let done = psql.args(["-c", sql, database]).stdout(Stdio::null()).stderr(Stdio::null()).status();
        done.unwrap().success()
    }

    /// A new, empty database, as its URL.
    pub(crate) fn database(&self) -> String {
        let name = format!("test{}", self.databases.fetch_add(1, Ordering::Relaxed));
        assert!(self.sql("postgres", &format!("CREATE DATABASE {name}")));
        self.url(&name)
    }

    pub(crate) fn url(&self, database: &str) -> String {
        let host = self.folder.path().to_str().unwrap().replace('/', "%2F");
        format!("postgres://postgres@{host}/{database}")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop("INT");
    }
}
