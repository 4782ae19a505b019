//! A WebSocket of a world: in order, lossless, bounded, through the real [`Outbox`]; and what `src/http/connect.rs`
//! does with its messages, for tokens that a world understands.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    task::{Poll, Waker},
    time::{Duration, Instant},
};

use bytes::Bytes;
use switchyard::{
    engine::{
        Command, JoinRequest, SocketId,
        outbox::{Direct, Outbox, Outgoing, Taken},
        welcome,
    },
    names::{SessionId, ShardId},
    room::{Grant, permission::Role},
};
use switchyard_loadtest::{
    browser::{Browser, SocketOutput},
    netsim::{Link, LinkConfig},
};
use switchyard_signaling::{
    Code, Features,
    message::{self, ClientText, Description, Refusal, ServerText},
};

use super::{Setup, room_key};

/// What a WebSocket is like.
#[derive(Clone, Debug)]
pub(crate) struct WireConfig {
    pub(crate) delay: Duration,
    pub(crate) jitter: Duration,
    /// Bytes that are on their way in one direction at most: TCP's buffers.
    pub(crate) capacity: usize,
    /// What the client's offers are changed to.
    pub(crate) edit_offer: Option<fn(String) -> String>,
    /// Whether the shard writes past the task while it can.
    pub(crate) direct: bool,
}

impl Default for WireConfig {
    fn default() -> Self {
        Self {
            delay: Duration::from_millis(20),
            jitter: Duration::ZERO,
            capacity: 256 * 1024,
            edit_offer: None,
            direct: false,
        }
    }
}

/// What is at the other end of a WebSocket: the browser, or what lies between.
pub(crate) trait Far {
    fn poll_socket(&mut self) -> Option<SocketOutput>;
    fn reads_socket(&self) -> bool;
    fn handle_text(&mut self, now: Instant, text: &str);
    fn handle_binary(&mut self, now: Instant, message: Bytes);
}

impl Far for Browser {
    fn poll_socket(&mut self) -> Option<SocketOutput> {
        self.poll_socket()
    }

    fn reads_socket(&self) -> bool {
        self.reads_socket()
    }

    fn handle_text(&mut self, now: Instant, text: &str) {
        self.handle_text(now, text);
    }

    fn handle_binary(&mut self, now: Instant, message: Bytes) {
        self.handle_binary(now, message);
    }
}

#[derive(Clone, Debug)]
enum ToClient {
    Text(String),
    Binary(Bytes),
    /// What was written directly and did not find room.
    Kept,
    Close(Code),
}

/// The way past the task: as much as there is room for, and one message of which a part has left.
#[derive(Debug, Default)]
struct Past(Mutex<PastState>);

#[derive(Debug, Default)]
struct PastState {
    room: usize,
    written: VecDeque<Bytes>,
    kept: Option<Bytes>,
}

impl Direct for Past {
    fn write_message(&self, parts: &[&[u8]]) -> Taken {
        let mut past = self.0.lock().unwrap();
        if past.room == 0 || past.kept.is_some() {
            return Taken::Nothing;
        }
        let message = Bytes::from(parts.concat());
        let fits = message.len() <= past.room;
        past.room = past.room.saturating_sub(message.len());
        if fits {
            past.written.push_back(message);
            return Taken::Written;
        }
        past.kept = Some(message);
        Taken::Kept
    }
}

impl ToClient {
    fn len(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Binary(message) => message.len(),
            Self::Kept => 0,
            Self::Close(_) => 2,
        }
    }
}

pub(crate) struct Wire {
    pub(crate) id: SocketId,
    /// The shard of the session.
    pub(crate) home: Option<ShardId>,
    outbox: Arc<Outbox>,
    past: Arc<Past>,
    up: Link<SocketOutput>,
    down: Link<ToClient>,
    up_bytes: usize,
    down_bytes: usize,
    /// Taken from the outbox, and the pipe is full.
    writing: Option<ToClient>,
    capacity: usize,
    is_closing: bool,
    edit_offer: Option<fn(String) -> String>,
    /// Answers that the browser is not to see, if they are kept from it.
    pub(crate) answers: Option<Vec<String>>,
    /// The last offer and answer.
    pub(crate) offer: Option<Description>,
    pub(crate) answer: Option<String>,
}

impl Wire {
    pub(crate) fn new(id: SocketId, config: &WireConfig, seed: u64) -> Self {
        let link = LinkConfig { delay: config.delay, jitter: config.jitter.into(), ..LinkConfig::default() };
        let past = Arc::new(Past::default());
        let outbox = if config.direct { Outbox::direct(past.clone()) } else { Outbox::default() };
        Self {
            id,
            home: None,
            outbox: Arc::new(outbox),
            past,
            up: Link::new(link.clone(), seed),
            down: Link::new(link, seed ^ 1),
            up_bytes: 0,
            down_bytes: 0,
            writing: None,
            capacity: config.capacity,
            is_closing: false,
            edit_offer: config.edit_offer,
            answers: None,
            offer: None,
            answer: None,
        }
    }

    /// When something arrives, given whether the client reads.
    pub(crate) fn due(&self, reads: bool) -> Option<Instant> {
        let down = self.down.poll_timeout().filter(|_| reads);
        [self.up.poll_timeout(), down].into_iter().flatten().min()
    }

    /// Moves what can move in both directions. Returns whether the browser has to do with it, and how the WebSocket
    /// was closed, if it was.
    pub(crate) fn carry(
        &mut self,
        browser: &mut impl Far,
        (now, start): (Instant, Instant),
        setup: &Setup,
        touched: bool,
        commands: &mut Vec<(ShardId, Command)>,
    ) -> (bool, Option<Code>) {
        let mut moved = false;
        while touched
            && self.up_bytes < self.capacity
            && let Some(output) = browser.poll_socket()
        {
            let length = len(&output);
            self.up_bytes += length;
            self.up.send(now, length, output);
            moved = true;
        }
        while let Some(output) = self.up.poll(now) {
            self.up_bytes -= len(&output);
            if !self.is_closing {
                self.receive(output, start, setup, commands);
            }
            moved = true;
        }
        let written: Vec<Bytes> = self.past.0.lock().unwrap().written.drain(..).collect();
        for message in written {
            self.down_bytes += message.len();
            self.down.send(now, message.len(), ToClient::Binary(message));
        }
        while let Some(mut message) = self.next_outgoing() {
            if let (ToClient::Kept, Some(kept)) = (&message, self.past.0.lock().unwrap().kept.take()) {
                message = ToClient::Binary(kept);
            }
            let length = message.len();
            let fits = self.down_bytes == 0 || self.down_bytes + length <= self.capacity;
            if !fits {
                self.writing = Some(message);
                break;
            }
            self.down_bytes += length;
            if let ToClient::Close(_) = message {
                self.is_closing = true;
                if let Some(home) = self.home {
                    let socket = self.id;
                    commands.push((home, Command::Closed { socket, clean: false }));
                }
            } else if self.outbox.written()
                && let Some(home) = self.home
            {
                commands.push((home, Command::Writable(self.id)));
            }
            if !matches!(message, ToClient::Kept) {
                self.down.send(now, length, message);
            }
        }
        while browser.reads_socket()
            && let Some(message) = self.down.poll(now)
        {
            moved = true;
            self.down_bytes -= message.len();
            match message {
                ToClient::Text(text) => {
                    if let Ok(ServerText::Answer(answer)) = serde_json::from_str(&text) {
                        self.answer = Some(answer.sdp.clone());
                        if let Some(answers) = &mut self.answers {
                            answers.push(answer.sdp);
                            continue;
                        }
                    }
                    browser.handle_text(now, &text);
                }
                ToClient::Binary(message) => browser.handle_binary(now, message),
                ToClient::Kept => {}
                ToClient::Close(code) => return (true, Some(code)),
            }
        }
        self.past.0.lock().unwrap().room = self.capacity.saturating_sub(self.down_bytes);
        (moved, None)
    }

    fn next_outgoing(&mut self) -> Option<ToClient> {
        if let Some(message) = self.writing.take() {
            return Some(message);
        }
        if self.is_closing {
            return None;
        }
        let Poll::Ready(outgoing) = self.outbox.poll(Waker::noop()) else {
            return None;
        };
        Some(match outgoing {
            Outgoing::Text(text) => ToClient::Text(text),
            Outgoing::Frames(frames) => ToClient::Binary(frames.freeze()),
            Outgoing::Drain => ToClient::Kept,
            Outgoing::Close(code) => ToClient::Close(code),
        })
    }

    fn receive(
        &mut self,
        output: SocketOutput,
        start: Instant,
        setup: &Setup,
        commands: &mut Vec<(ShardId, Command)>,
    ) {
        let text = match (output, self.home) {
            (SocketOutput::Binary(frames), Some(home)) => {
                return commands.push((home, Command::Frames(self.id, frames)));
            }
            (SocketOutput::Binary(_), None) => return self.refuse(Code::JoinFirst),
            (SocketOutput::Text(text), _) => text,
        };
        let announced = setup.limits.announced.clone();
        match (ClientText::parse(&text).unwrap(), self.home) {
            (ClientText::Hello { resume: None, .. }, _) => self.say(&welcome(announced)),
            (ClientText::Hello { resume: Some(resume), .. }, _) => {
                let session = SessionId::from_wire(&resume.session).unwrap();
                self.home = Some(session.shard);
                let command = Command::Resume {
                    socket: self.id,
                    outbox: self.outbox.clone(),
                    session,
                    ticket: resume.ticket,
                    takes_over: resume.takes_over,
                };
                commands.push((session.shard, command));
            }
            (ClientText::Join { id, room, token, mut offer, follow, .. }, home) => {
                if let (Some(edit), Some(offer)) = (self.edit_offer, &mut offer) {
                    offer.sdp = edit(std::mem::take(&mut offer.sdp));
                }
                self.offer = offer.clone().or(self.offer.take());
                let room = room_key(&room);
                let home = *self.home.insert(home.unwrap_or_else(|| room.shard(setup.shards)));
                let (grant, features) = (grant(&token, start), features(&token));
                let request = JoinRequest { id, room, grant, features, offer, follow };
                let command = Command::Join { socket: self.id, outbox: self.outbox.clone(), request };
                commands.push((home, command));
            }
            (ClientText::Ping { t }, _) => self.say(&ServerText::Pong { t }),
            (ClientText::Candidate { .. } | ClientText::Keep { .. }, _) => {}
            (ClientText::Quality(quality), Some(home)) => {
                commands.push((home, Command::Quality(self.id, quality)))
            }
            (ClientText::Attempt(attempt), Some(home)) => {
                commands.push((home, Command::Attempt(self.id, attempt)))
            }
            (ClientText::Offer(offer), Some(home)) => commands.push((home, Command::Offer(self.id, offer))),
            (ClientText::Bye, Some(home)) => commands.push((home, Command::Bye(self.id))),
            (ClientText::IceServers {}, Some(home)) => commands.push((home, Command::IceServers(self.id))),
            (
                ClientText::Offer(_)
                | ClientText::IceServers {}
                | ClientText::Attempt(_)
                | ClientText::Quality(_)
                | ClientText::Bye,
                None,
            ) => self.refuse(Code::JoinFirst),
        }
    }

    fn refuse(&self, code: Code) {
        self.say(&ServerText::Error(Refusal::new(None, code, "refused by the world's door")));
    }

    fn say(&self, text: &ServerText) {
        self.outbox.push_text(message::to_json(text));
    }
}

/// A token as worlds have it.
pub(crate) fn token(user: &str, role: &str, expires: Duration) -> String {
    format!("{user} {role} {}", expires.as_micros())
}

fn grant(token: &str, start: Instant) -> Grant {
    let words: Vec<&str> = token.split(' ').collect();
    let role: Role = words[1].parse().unwrap();
    Grant {
        user: words[0].into(),
        name: words[0].into(),
        role,
        permissions: role.permissions(),
        expires: start + Duration::from_micros(words[2].parse().unwrap()),
        signing_key: None,
    }
}

/// What follows the three words of a token is switched off.
fn features(token: &str) -> Features {
    let is_off = |name| token.split(' ').skip(3).any(|word| word == name);
    Features { webrtc: !is_off("webrtc"), relay: !is_off("relay"), p2p: !is_off("p2p"), tentative: false }
}

fn len(output: &SocketOutput) -> usize {
    match output {
        SocketOutput::Text(text) => text.len(),
        SocketOutput::Binary(message) => message.len(),
    }
}
