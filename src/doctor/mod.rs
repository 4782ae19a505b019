//! `switchyard doctor`: a server looked at from outside, as its clients reach it. Every address, port and certificate that it
//! tells of is tried, one line each, and what fails says what to change.
//!
//! It knows nothing of the server's configuration: names of settings in its sentences are advice. Nothing here is used
//! by a server.
//!
//! - [`place`]: the URL, names, connections and certificates; [`session`]: HTTP, the WebSocket, and what a join is told;
//! - [`ice`]: candidates of the answer; [`turn`]: STUN and TURN servers.

mod ice;
mod place;
mod session;
mod turn;

use std::{
    fmt::Write as _,
    io,
    net::IpAddr,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use futures_util::future::join_all;
use ring::rand::{SecureRandom as _, SystemRandom};
use serde::Serialize;
use switchyard_signaling::Code;

use self::{
    place::{Place, Trust},
    session::{Socket, Told},
};

/// What is said of a test that took too long.
const LATE: &str = "no answer in";

/// What to look at.
#[derive(Clone, Debug)]
pub struct Options {
    /// `https://HOST[:PORT]` or `http://HOST[:PORT]`.
    pub url: String,
    /// To see what only a session is told.
    pub access: Option<Access>,
    /// For each test.
    pub patience: Duration,
    /// PEM file of authorities to trust besides the system's.
    pub ca: Option<PathBuf>,
}

/// A token, and the room that it is for.
#[derive(Clone, Debug)]
pub struct Access {
    /// JWT.
    pub token: String,
    /// The room.
    pub room: String,
}

/// How a test went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// As it should.
    Ok,
    /// It may be a mistake.
    Warning,
    /// Clients will fail too.
    Failed,
    /// Not done.
    Skipped,
}

/// One test.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// What is tested.
    pub test: &'static str,
    /// At which address.
    pub target: String,
    /// How it went.
    pub outcome: Outcome,
    /// How long it took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ms: Option<u64>,
    /// What was seen; of a failure, what to change.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub sentence: String,
}

/// All tests, in their order.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// See [`Line`].
    pub lines: Vec<Line>,
}

/// What a test has seen, or what it failed with.
type Verdict = Result<String, Trouble>;

/// Why a test did not succeed.
#[derive(Debug)]
enum Trouble {
    Failed(String),
    Skipped(String),
    Warning(String),
}

impl Trouble {
    fn failed(sentence: impl Into<String>) -> Self {
        Self::Failed(sentence.into())
    }

    /// What did not answer in time says nothing by itself.
    fn if_late(self, advice: &str) -> Self {
        match self {
            Self::Failed(words) if words.starts_with(LATE) => Self::Failed(format!("{words}: {advice}")),
            other => other,
        }
    }
}

impl Report {
    /// Whether nothing has failed.
    #[must_use]
    pub fn is_well(&self) -> bool {
        self.failures() == 0
    }

    /// How many tests have failed.
    #[must_use]
    pub fn failures(&self) -> usize {
        self.lines.iter().filter(|line| line.outcome == Outcome::Failed).count()
    }

    /// For people: a line for each test.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        let width = self.lines.iter().map(|line| line.target.len()).max().unwrap_or(0);
        for Line { test, target, outcome, ms, sentence } in &self.lines {
            let outcome = match outcome {
                Outcome::Ok => "ok",
                Outcome::Warning => "warning",
                Outcome::Failed => "failed",
                Outcome::Skipped => "skipped",
            };
            let ms = ms.map_or_else(String::new, |ms| format!("{ms} ms"));
            let line = format!("{outcome:<8} {test:<12} {target:<width$} {ms:>8}  {sentence}");
            // Writing to a string does not fail.
            let _ = writeln!(text, "{}", line.trim_end());
        }
        text
    }

    /// For programs.
    #[must_use]
    pub fn to_json(&self) -> String {
        let json = serde_json::json!({ "ok": self.is_well(), "tests": self.lines });
        serde_json::to_string_pretty(&json).unwrap_or_default()
    }

    fn skip(&mut self, test: &'static str, target: &str, why: &str) {
        self.add(test, target, None, Err(Trouble::Skipped(why.to_owned())));
    }

    fn add(&mut self, test: &'static str, target: &str, took: Option<Duration>, verdict: Verdict) {
        let (outcome, sentence) = match verdict {
            Ok(sentence) => (Outcome::Ok, sentence),
            Err(Trouble::Warning(sentence)) => (Outcome::Warning, sentence),
            Err(Trouble::Failed(sentence)) => (Outcome::Failed, sentence),
            Err(Trouble::Skipped(sentence)) => (Outcome::Skipped, sentence),
        };
        let ms = took.filter(|_| outcome != Outcome::Skipped).map(|took| took.as_millis() as u64);
        self.lines.push(Line { test, target: target.to_owned(), outcome, ms, sentence });
    }
}

/// Does a test, and says how long it took; what does not end in time has failed.
async fn timed<T>(
    patience: Duration,
    test: impl Future<Output = Result<T, Trouble>>,
) -> (Duration, Result<T, Trouble>) {
    let begin = Instant::now();
    let late = || Err(Trouble::Failed(format!("{LATE} {} s", patience.as_secs_f32())));
    let result = tokio::time::timeout(patience, test).await.unwrap_or_else(|_| late());
    (begin.elapsed(), result)
}

/// Looks at everything.
///
/// # Errors
/// If the options make no sense.
pub async fn run(options: &Options) -> anyhow::Result<Report> {
    let place = Place::parse(&options.url).context("--url is http://HOST[:PORT] or https://HOST[:PORT]")?;
    let trust = Trust::new(options.ca.as_deref())?;
    let mut report = Report::default();
    let Some(socket) = doors(&place, &trust, options, &mut report).await else { return Ok(report) };
    let told = match &options.access {
        None => {
            let why = "needs --token, or --key and --secret: a session is told where else the server is";
            report.skip("session", &place.authority(), why);
            return Ok(report);
        }
        Some(access) => join(socket, &place, access, options.patience, &mut report).await,
    };
    let Some((told, socket)) = told else { return Ok(report) };
    media(&told, options.patience, &mut report).await;
    relays(&told, &trust, options.patience, &mut report).await;
    socket.bye().await;
    Ok(report)
}

/// The name, each address of it, readiness, and the WebSocket.
async fn doors(place: &Place, trust: &Trust, options: &Options, report: &mut Report) -> Option<Socket> {
    let patience = options.patience;
    let (took, found) = timed(patience, place.resolve()).await;
    let addresses = match found {
        Ok(addresses) => addresses,
        Err(trouble) => {
            report.add("name", &place.host, Some(took), Err(trouble));
            return None;
        }
    };
    let list = addresses.iter().map(|address| address.ip().to_string()).collect::<Vec<_>>().join(", ");
    let private = addresses.iter().map(|address| address.ip()).find(is_private);
    let verdict = match private {
        Some(ip) if place.is_name() => Err(Trouble::Warning(format!(
            "{list}; {ip} is private: clients elsewhere do not reach it, so change the DNS record if they are to"
        ))),
        _ => Ok(list),
    };
    report.add("name", &place.host, Some(took), verdict);
    let mut reached = None;
    for address in addresses {
        let (took, verdict) = timed(patience, session::get(place, trust, address, "/healthz")).await;
        if verdict.is_ok() {
            reached.get_or_insert(address);
        }
        let verdict = verdict.map_err(|trouble| trouble.if_late(&place.advice()));
        report.add(place.scheme(), &format!("{address}/healthz"), Some(took), verdict);
    }
    let address = reached?;
    let (took, verdict) = timed(patience, session::get(place, trust, address, "/readyz")).await;
    report.add(place.scheme(), &format!("{address}/readyz"), Some(took), verdict);
    let (took, opened) = timed(patience, Socket::open(place, trust, address)).await;
    let (socket, verdict) = match opened {
        Ok(socket) => (Some(socket), Ok(String::new())),
        Err(trouble) => (None, Err(trouble)),
    };
    report.add("websocket", &format!("{address}/v1/connect"), Some(took), verdict);
    socket
}

async fn join(
    mut socket: Socket,
    place: &Place,
    access: &Access,
    patience: Duration,
    report: &mut Report,
) -> Option<(Told, Socket)> {
    let (took, told) = timed(patience, socket.join(access)).await;
    let (told, verdict) = match told {
        Ok(told) => (Some(told), Ok(format!("room {}", access.room))),
        Err(trouble) => (None, Err(trouble)),
    };
    report.add("session", &place.authority(), Some(took), verdict);
    told.map(|told| (told, socket))
}

/// Candidates, all at once: the server gives a peer connection up that is not finished in time.
async fn media(told: &Told, patience: Duration, report: &mut Report) {
    let answer = match &told.answer {
        Ok(answer) => answer,
        Err((Code::WebrtcDisabled, _)) => {
            return report.skip(
                "ice",
                "",
                "data channels are off (features.webrtc, rtc.enabled, rooms, or the token)",
            );
        }
        Err((code, sentence)) => {
            let words = format!("the server refuses the offer ({code}): {sentence}");
            return report.add("ice", "", None, Err(Trouble::Failed(words)));
        }
    };
    let Some(answer) = ice::Answer::parse(answer) else {
        let words = "the answer has no ICE credentials: this is no Switchyard, or a defect of it";
        return report.add("ice", "", None, Err(Trouble::failed(words)));
    };
    if answer.candidates.is_empty() {
        let words = "the server tells no address of its own: set rtc.advertise_addresses, or rtc.bind";
        return report.add("ice", "", None, Err(Trouble::failed(words)));
    }
    let checks = answer.candidates.iter().map(|candidate| timed(patience, answer.check(candidate)));
    let results = join_all(checks).await;
    let works = |tcp| results.iter().zip(&answer.candidates).any(|((_, r), c)| c.tcp == tcp && r.is_ok());
    let works = [works(false), works(true)];
    for (candidate, (took, result)) in answer.candidates.iter().zip(results) {
        let is_served = works[usize::from(candidate.tcp)];
        let test = if candidate.tcp { "ice-tcp" } else { "ice-udp" };
        report.add(test, &candidate.address.to_string(), Some(took), candidate.judge(result, is_served));
    }
}

async fn relays(told: &Told, trust: &Trust, patience: Duration, report: &mut Report) {
    if told.ice.ice_servers.is_empty() {
        return report.skip(
            "turn",
            "",
            "the server names no STUN and TURN servers (turn.mode, features.relay)",
        );
    }
    let mut is_relayed = false;
    for server in &told.ice.ice_servers {
        for url in &server.urls {
            let credentials = server.username.as_deref().zip(server.credential.as_deref());
            let Some(door) = turn::Door::parse(url) else {
                report.add(
                    "turn",
                    url,
                    None,
                    Err(Trouble::failed("this is no URL of a STUN or TURN server")),
                );
                continue;
            };
            let (took, result) = timed(patience, door.reach(trust, credentials)).await;
            let (relay, verdict) = match result {
                Ok((relay, words)) => (relay, Ok(words)),
                Err(trouble) => (None, Err(door.advise(trouble))),
            };
            report.add(door.test(), url, Some(took), verdict);
            let Some(mut relay) = relay else { continue };
            if !is_relayed {
                is_relayed = true;
                let (took, verdict) = timed(patience, relay.receives()).await;
                report.add(
                    "relay",
                    &relay.address.to_string(),
                    Some(took),
                    verdict.map_err(turn::advise_relay),
                );
            }
            relay.close().await;
        }
    }
}

/// An address that clients elsewhere do not reach.
fn is_private(ip: &IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let [a, b, ..] = ip.octets();
            ip.is_private() || ip.is_loopback() || ip.is_link_local() || (a == 100 && (64..128).contains(&b))
        }
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}

/// What the system says of a connection, in words.
fn words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "nothing listens there".to_owned(),
        io::ErrorKind::TimedOut => "no answer".to_owned(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => {
            "the connection was closed".to_owned()
        }
        _ => error.to_string(),
    }
}

/// A failure to connect. Where this machine has no such network the test says nothing.
fn unreachable(error: &io::Error, advice: &str) -> Trouble {
    match error.kind() {
        io::ErrorKind::NetworkUnreachable | io::ErrorKind::AddrNotAvailable | io::ErrorKind::Unsupported => {
            Trouble::Skipped("this machine has no network for such an address".to_owned())
        }
        _ => Trouble::Failed(format!("{}: {advice}", words(error))),
    }
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // Without random numbers there is no TLS either; what is made of them here need not be secret.
    let _ = SystemRandom::new().fill(&mut bytes);
    bytes
}
