//! Clients that mean the server ill, on real sockets: floods, garbage, oversize messages, storms of connections, requests
//! that never end.
//!
//! They pass no simulated network and are in nobody's account: what matters is how those fare who are in the same server.
//! Each kind is one function of the same shape in [`kinds`]: one attacker's connection from opening it until it is cut. The
//! rest, here, is the same for all: as many attackers at once as the scenario says, each coming back when it was cut,
//! until the time is over; and the [`Tally`] of what they did and how the server answered.
//!
//! Everything is bounded, in connections, in what each does a second, and in time.

mod kinds;

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures_util::{SinkExt as _, StreamExt as _};
use switchyard_signaling::message::ServerText;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{sleep, sleep_until, timeout},
};
use tokio_tungstenite::tungstenite::{self, Message};

use crate::{
    adapter,
    browser::{Browser, BrowserConfig, SocketOutput},
    figures::AttackFigures,
    rng::Rng,
    scenario::{Attack, AttackKind},
    target::{Target, WebSocket, cause},
};

/// Where the attack takes place.
#[derive(Clone)]
pub struct Ground {
    /// The server.
    pub target: Target,
    /// Where it takes datagrams, if that is known.
    pub udp: Option<SocketAddr>,
    /// The attackers' room.
    pub room: String,
    /// A token for that room for each attacker; those without one say another's.
    pub tokens: Vec<String>,
    /// Decides about random bytes.
    pub seed: u64,
}

/// What attackers did, and how the server answered.
#[derive(Debug, Default)]
pub struct Tally {
    connections: u64,
    sent: u64,
    sent_bytes: u64,
    answers: BTreeMap<String, u64>,
}

/// How an attacker's connection ended, in the words of whoever ended it.
type Cut = Result<(), String>;

/// An attacker that was cut comes back after this.
const BACK: Duration = Duration::from_millis(50);
/// For a connection to open; a server that lets attackers wait longer has defended itself.
const OPENING: Duration = Duration::from_secs(5);
/// Different answers that are told apart.
const ANSWERS: usize = 50;
/// Attackers at most: file descriptors are for the users.
const MOST: u32 = 2_000;

/// Where the server takes datagrams: the first address in its answer to an offer. Nothing if it gives none in time.
pub async fn find_udp(target: &Target, room: &str, token: &str) -> Option<SocketAddr> {
    let looking = async {
        let mut socket = open(target).await.ok()?;
        let now = Instant::now();
        // No check is ever sent: the address only makes it offer.
        let address = Some((Ipv4Addr::LOCALHOST, 9).into());
        let mut browser = Browser::new(now, BrowserConfig { address, ..BrowserConfig::default() });
        browser.handle_socket_open(now);
        browser.join(now, room, token);
        loop {
            while let Some(SocketOutput::Text(text)) = browser.poll_socket() {
                say(&mut socket, Message::text(text)).await.ok()?;
            }
            let Message::Text(text) = socket.next().await?.ok()? else { continue };
            if let Ok(ServerText::Answer(answer)) = serde_json::from_str(text.as_str()) {
                return first_candidate(&answer.sdp);
            }
            browser.handle_text(Instant::now(), text.as_str());
        }
    };
    timeout(OPENING, looking).await.ok().flatten()
}

/// The address of the first UDP candidate (RFC 8839 §5.1): foundation, component, transport, priority, address, port.
fn first_candidate(sdp: &str) -> Option<SocketAddr> {
    sdp.lines().find_map(|line| {
        let mut fields = line.strip_prefix("a=candidate:")?.split_ascii_whitespace().skip(2);
        let is_udp = fields.next()?.eq_ignore_ascii_case("udp");
        let (address, port) = (fields.nth(1)?.parse::<IpAddr>().ok()?, fields.next()?.parse().ok()?);
        is_udp.then(|| SocketAddr::new(address, port))
    })
}

/// Attacks until the time is over, or `stop` becomes true.
pub async fn run(attack: &Attack, ground: &Ground, stop: watch::Receiver<bool>) -> AttackFigures {
    let began = Instant::now();
    let until = began + attack.length.0;
    let tally = Arc::new(Mutex::new(Tally::default()));
    let mut attackers = JoinSet::new();
    for number in 0..attack.connections.min(MOST) {
        let attacker = Attacker {
            number,
            interval: Duration::from_secs_f64(1.0 / attack.rate.0.max(0.001)),
            until,
            ground: ground.clone(),
            rng: Rng::stream(ground.seed, number.into()),
            tally: tally.clone(),
        };
        let (kind, mut stop) = (attack.kind, stop.clone());
        attackers.spawn(async move {
            tokio::select! {
                () = attacker.attack(kind) => {}
                () = sleep_until(until.into()) => {}
                _ = stop.wait_for(|stop| *stop) => {}
            }
        });
    }
    while attackers.join_next().await.is_some() {}
    let tally = std::mem::take(&mut *tally.lock().unwrap_or_else(PoisonError::into_inner));
    AttackFigures {
        kind: attack.kind.name().to_owned(),
        at_s: 0.0,
        for_s: began.elapsed().as_secs_f64(),
        connections: tally.connections,
        sent: tally.sent,
        sent_bytes: tally.sent_bytes,
        answers: tally.answers,
    }
}

/// One of them.
struct Attacker {
    number: u32,
    /// From one thing that it does to the next.
    interval: Duration,
    until: Instant,
    ground: Ground,
    rng: Rng,
    tally: Arc<Mutex<Tally>>,
}

impl Attacker {
    async fn attack(mut self, kind: AttackKind) {
        // Not all at the same instant: they are as many as they are, and not one wave.
        sleep(self.interval.min(BACK).mul_f64(self.rng.unit())).await;
        while Instant::now() < self.until {
            let cut = match kind {
                AttackKind::Flood => kinds::flood(&mut self).await,
                AttackKind::Garbage => kinds::garbage(&mut self).await,
                AttackKind::Oversize => kinds::oversize(&mut self).await,
                AttackKind::ConnectionStorm => kinds::storm(&mut self).await,
                AttackKind::Slowloris => kinds::slowloris(&mut self).await,
            };
            if let Err(answer) = cut {
                self.note(&answer);
                sleep(BACK).await;
            }
        }
    }

    async fn open(&self) -> Result<WebSocket, String> {
        let socket = open(&self.ground.target).await?;
        self.count(|tally| tally.connections += 1);
        Ok(socket)
    }

    fn token(&self) -> Option<&str> {
        let tokens = &self.ground.tokens;
        tokens.get(self.number as usize % tokens.len().max(1)).map(String::as_str)
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        let words = std::iter::repeat_with(|| self.rng.next_u64().to_le_bytes());
        words.take(length.div_ceil(8)).flatten().take(length).collect()
    }

    fn sent(&self, bytes: usize) {
        self.count(|tally| {
            tally.sent += 1;
            tally.sent_bytes += bytes as u64;
        });
    }

    /// Counts an answer of the server.
    fn note(&self, answer: &str) {
        self.count(|tally| {
            let known = tally.answers.contains_key(answer) || tally.answers.len() < ANSWERS;
            *tally.answers.entry(if known { answer } else { "others" }.to_owned()).or_default() += 1;
        });
    }

    fn count(&self, count: impl FnOnce(&mut Tally)) {
        count(&mut self.tally.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// A WebSocket like any client's.
async fn open(target: &Target) -> Result<WebSocket, String> {
    // The room is said later.
    let door = (adapter::switchyard().door)("");
    let opened = timeout(OPENING, target.websocket(&door)).await;
    opened
        .map_err(|_| "not let in in time".to_owned())?
        .map_err(|error| format!("not let in: {}", cause(&error)))
}

/// Sends, and takes what has come meanwhile.
async fn say(socket: &mut WebSocket, message: Message) -> Cut {
    socket.feed(message).await.map_err(|error| in_words(&error))?;
    socket.flush().await.map_err(|error| in_words(&error))
}

/// What the server says until a time; `Err` if it ends the connection.
async fn listen(socket: &mut WebSocket, until: Instant, mut heard: impl FnMut(Message)) -> Cut {
    loop {
        tokio::select! {
            message = socket.next() => match message {
                Some(Ok(Message::Close(frame))) => {
                    let why = frame.map_or_else(String::new, |frame| format!(" {} {}", frame.code, frame.reason));
                    return Err(format!("closed{why}"));
                }
                Some(Ok(message)) => heard(message),
                Some(Err(error)) => return Err(in_words(&error)),
                None => return Err("closed".to_owned()),
            },
            () = sleep_until(until.into()) => return Ok(()),
        }
    }
}

/// The kinds of errors; the system's own have numbers that say nothing.
fn in_words(error: &tungstenite::Error) -> String {
    match error {
        tungstenite::Error::Io(error) => format!("cut: {}", error.kind()),
        tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed => "closed".to_owned(),
        other => format!("cut: {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_udp_candidate_is_found_in_an_answer() {
        let sdp = "v=0\r\na=candidate:1 1 tcp 1000 10.0.0.1 7881 typ host tcptype passive\r\n\
                   a=candidate:2 1 udp 2000 10.0.0.2 7882 typ host\r\na=candidate:3 1 UDP 1 ::1 7883 typ host\r\n";
        assert_eq!(first_candidate(sdp), Some(([10, 0, 0, 2], 7882).into()));
        assert_eq!(first_candidate("v=0\r\na=candidate:1 1 udp x y z\r\n"), None);
    }
}
