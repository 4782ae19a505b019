//! What is measured: child processes of this program, so that the CPU time and memory of one are its own.
//!
//! An arm prints one line of JSON when it is up, answers each line on its standard input by one on its standard
//! output, and ends when its input does.

mod appends;
mod coturn;
mod engine;
mod floor;
mod server;

use std::{
    ffi::OsString,
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::Ipv4Addr,
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

pub(crate) use appends::{EVENT_BYTES, HEAD_BYTES, SUBMIT_BYTES, SUBMIT_HEAD_BYTES};
pub(crate) use coturn::Coturn;
pub(crate) use server::{KEY, SECRET};

/// The first argument of a child.
pub(crate) const SUBCOMMAND: &str = "arm";

/// Where peers outside are, for [`Kind::Turn`] and [`Coturn`]: on loopback, and not where those are.
pub(crate) const PEERS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 9);
/// Their relay ports: below those that the kernel gives to clients, and apart from each other's.
const OUR_PORTS: (u16, u16) = (10_000, 20_999);
const COTURNS_PORTS: (u16, u16) = (21_000, 31_999);

/// Which program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Switchyard itself.
    Switchyard,
    /// Switchyard itself, for its relay.
    Turn,
    /// Switchyard itself, with everything there but the WebSocket switched off.
    Off,
    /// Switchyard itself, without everything but the WebSocket: it is never started.
    Without,
    /// The engine and a socket: no rooms, sessions, lanes or frames.
    Engine,
    /// A datagram sealed and sent for each receiver, without any protocol.
    Datagrams,
    /// One write on a TCP socket for each delivery.
    Writes,
    /// Messages that are appended to a file, synced, and then written to the members of a room.
    Appends,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Switchyard => "switchyard",
            Self::Turn => "turn",
            Self::Off => "off",
            Self::Without => "without",
            Self::Engine => "engine",
            Self::Datagrams => "datagrams",
            Self::Writes => "writes",
            Self::Appends => "appends",
        }
    }
}

/// What an arm says when it is up.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Up {
    /// Where it listens on loopback.
    pub(crate) port: u16,
}

/// A peer to be, for [`Kind::Engine`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Offer {
    /// Messages go to all others of the group.
    pub(crate) group: usize,
    /// Its offer; the answer is an [`Answer`].
    pub(crate) sdp: String,
}

/// See [`Offer`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Answer {
    /// The answer.
    pub(crate) sdp: String,
}

/// A client of [`Kind::Datagrams`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Register {
    /// Datagrams go to all others of the group.
    pub(crate) group: usize,
    /// Its port on loopback.
    pub(crate) port: u16,
}

/// Runs as a child.
pub(crate) fn run(kind: &str, store: Option<&Path>) -> anyhow::Result<()> {
    match kind {
        "switchyard" => server::run(store),
        "turn" => server::run_turn(),
        "off" => server::run_off(),
        "without" => server::run_without(),
        "engine" => engine::run(),
        "datagrams" => floor::datagrams(),
        "writes" => floor::writes(),
        "appends" => appends::run(store.context("where to?")?),
        _ => bail!("{kind:?} is no arm"),
    }
}

/// A child that is up.
pub(crate) struct Arm {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    /// Which program it is.
    pub(crate) kind: Kind,
    /// Where it listens.
    pub(crate) port: u16,
}

impl Arm {
    /// Starts one and waits until it is up.
    pub(crate) fn start(kind: Kind) -> anyhow::Result<Self> {
        Self::start_on(kind, None, None)
    }

    /// Starts one that keeps what it writes in this file, on a disk that is slowed by `disk`: see [`crate::disk`].
    pub(crate) fn start_on(kind: Kind, store: Option<&Path>, disk: Option<&Path>) -> anyhow::Result<Self> {
        let preload = disk.map(|disk| ("LD_PRELOAD", OsString::from(disk)));
        let mut child = Command::new(std::env::current_exe()?)
            .args([SUBCOMMAND, kind.name()])
            .args(store)
            .envs(preload)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start an arm")?;
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().context("an arm without output")?);
        let mut arm = Self { child, input, output, kind, port: 0 };
        let up: Up = arm.answer()?;
        arm.port = up.port;
        Ok(arm)
    }

    /// Asks something and waits for the answer.
    pub(crate) fn ask<A: DeserializeOwned>(&mut self, question: &impl Serialize) -> anyhow::Result<A> {
        let line = serde_json::to_string(question)? + "\n";
        let input = self.input.as_mut().context("the arm is ending")?;
        input.write_all(line.as_bytes())?;
        self.answer()
    }

    /// CPU time of all its threads so far, exact for those that sleep.
    pub(crate) fn cpu(&self) -> anyhow::Result<Duration> {
        cpu_of(self.child.id())
    }

    /// Bytes of memory that are resident.
    pub(crate) fn resident(&self) -> anyhow::Result<u64> {
        resident_of(self.child.id())
    }

    /// Its process.
    pub(crate) fn process(&self) -> u32 {
        self.child.id()
    }

    fn answer<A: DeserializeOwned>(&mut self) -> anyhow::Result<A> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        serde_json::from_str(&line).with_context(|| format!("an arm says {line:?}"))
    }
}

impl Drop for Arm {
    fn drop(&mut self) {
        // The end of its input ends it; one that does not end is ended.
        self.input = None;
        for _ in 0..50 {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// CPU time of this process, which is that of all clients.
pub(crate) fn own_cpu() -> anyhow::Result<Duration> {
    cpu_of(std::process::id())
}

/// CPU time of all threads of a process so far.
pub(crate) fn cpu_of(process: u32) -> anyhow::Result<Duration> {
    let mut nanoseconds = 0;
    for task in fs::read_dir(format!("/proc/{process}/task"))? {
        let text = fs::read_to_string(task?.path().join("schedstat"))?;
        let first = text.split(' ').next().context("an empty schedstat")?;
        nanoseconds += first.parse::<u64>().context("schedstat")?;
    }
    Ok(Duration::from_nanos(nanoseconds))
}

/// Bytes of memory of a process that are resident.
pub(crate) fn resident_of(process: u32) -> anyhow::Result<u64> {
    let text = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kilobytes = line.trim().trim_end_matches(" kB").parse::<u64>()?;
    Ok(kilobytes * 1024)
}

/// Says a line to whoever started this arm.
fn say(what: &impl Serialize) -> anyhow::Result<()> {
    let mut output = std::io::stdout().lock();
    output.write_all((serde_json::to_string(what)? + "\n").as_bytes())?;
    Ok(output.flush()?)
}

/// The next question; `None` at the end.
fn hear<Q: DeserializeOwned>() -> anyhow::Result<Option<Q>> {
    let mut line = String::new();
    if std::io::stdin().lock().read_line(&mut line)? == 0 {
        return Ok(None);
    }
    Ok(Some(serde_json::from_str(&line)?))
}
