//! The signalling socket, `/v1/connect`: section 2 of `docs/protocol.md`.
//!
//! One task per WebSocket. It parses and checks the texts that the client sends, verifies tokens, and hands commands to
//! the shard of the session; what the shard has for the client it finds in the socket's [`Outbox`]. It keeps no state of
//! a session beyond which shard has it. Once it knows that shard it goes on by its side, on its thread, and the shard
//! reads the socket: frames go to the session, and what else comes is posted here.

use std::{
    collections::VecDeque,
    future::poll_fn,
    io,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use axum::{
    extract::{Request, State},
    http::{StatusCode, header},
    response::Response,
};
use bytes::Bytes;
use switchyard_signaling::{
    Code, Features, limits,
    message::{self, ClientText, Description, Follow, Refusal, Resume, ServerText},
};
use tokio::{
    sync::watch,
    task::yield_now,
    time::{sleep_until, timeout},
};

use super::{
    App, problem, unix_now,
    upgrade::{self, Upgrade},
};
use crate::{
    engine::{
        Command, JoinRequest, SocketId,
        outbox::{Outbox, Outgoing},
        session::UNKNOWN_SESSION,
        welcome,
    },
    io::{
        Incoming, Wire,
        websocket::{self, Message, Opcode, Reader},
    },
    names::{RoomKey, SessionId, ShardId},
    return_spread,
    room::Grant,
    signing_key::SigningKey,
    token::{self, Verified},
};

/// From connecting to `hello`, and from there to the first `join`.
const PATIENCE: Duration = Duration::from_secs(10);
/// A socket from which nothing came for so long is half open: clients ping every ten seconds.
const SILENCE: Duration = Duration::from_secs(35);
/// A message that the client does not take for so long ends the socket; the session lives on.
const WRITE: Duration = Duration::from_secs(15);
/// For the closing handshake.
const CLOSING: Duration = Duration::from_secs(2);
/// Bytes read at once.
const READ_BUFFER: usize = 4096;
/// Messages of one client after which others have a turn.
const READS: u32 = 16;
/// The subprotocol, for clients that offer one.
const SUBPROTOCOL: &str = "switchyard.v1";
/// Codes of a client that goes: normal closure, and going away, which browsers say for every page that is gone, crashed or
/// not (RFC 6455 §7.4.1).
const NORMAL: u16 = 1000;
const AWAY: u16 = 1001;

/// Upgrades to a WebSocket, unless the page or the server's state forbids it.
pub(super) async fn upgrade(State(app): State<Arc<App>>, mut request: Request) -> Response {
    let text = |name| request.headers().get(name).and_then(|value: &header::HeaderValue| value.to_str().ok());
    if !app.config.allows_origin(text(header::ORIGIN), text(header::HOST)) {
        let sentence = "pages of this origin may not connect; see http.allowed_origins";
        return problem(StatusCode::FORBIDDEN, "forbidden_origin", sentence);
    }
    if app.is_draining() {
        return problem(
            StatusCode::SERVICE_UNAVAILABLE,
            Code::Draining.as_str(),
            "the server is shutting down",
        );
    }
    if app.open_sockets() >= 2 * u64::from(app.config.limits.sessions_max) {
        return problem(StatusCode::SERVICE_UNAVAILABLE, Code::Overloaded.as_str(), "too many connections");
    }
    match upgrade::accept(&mut request, SUBPROTOCOL) {
        Ok((answer, upgrade)) => {
            tokio::spawn(serve(app, upgrade));
            answer
        }
        Err(answer) => *answer,
    }
}

async fn serve(app: Arc<App>, upgrade: Upgrade) {
    let Some((wire, early)) = upgrade.done().await else { return };
    let id = SocketId(app.next_socket.fetch_add(1, Ordering::Relaxed));
    app.sockets.fetch_add(1, Ordering::Relaxed);
    app.metrics.http.websockets.inc();
    let now = Instant::now();
    let limits = &app.config.limits;
    let mut connection = Connection {
        id,
        home: None,
        outbox: Arc::new(Outbox::direct(wire.clone())),
        wire,
        reader: Some(Reader::new(limits::SOCKET_MESSAGE_BYTES)),
        read: VecDeque::new(),
        greeted: false,
        malformed: 0,
        signals: Tokens::new(limits.signals_per_second, limits.signals_burst, now),
        keeps: false,
        deadline: now + PATIENCE,
        app,
    };
    connection.take(&early);
    if let Some(end) = connection.run().await {
        return connection.ended(end).await;
    }
    let (home, reader) = (connection.home, connection.reader.take());
    let runtime = home.and_then(|home| connection.app.shards.runtime(home)).cloned();
    let (Some(home), Some(reader), Some(runtime)) = (home, reader, runtime) else {
        return connection.ended(End::Broken).await;
    };
    if let Err(error) = connection.wire.move_to(&runtime) {
        tracing::debug!(%error, "a WebSocket stays with the runtime that it came by");
    }
    connection.app.shards.read(home, id, connection.wire.clone(), reader).await;
    runtime.spawn(async move {
        let end = connection.run().await.unwrap_or(End::Broken);
        connection.ended(end).await;
    });
}

/// How a socket ended.
enum End {
    /// The client said that it goes away.
    Clean,
    /// We closed it.
    Closed,
    /// It broke.
    Broken,
}

impl End {
    /// By the code of the client's close frame, and whether others would go on with its session.
    fn of(code: Option<u16>, keeps: bool) -> Self {
        match code {
            Some(NORMAL) => Self::Clean,
            Some(AWAY) if !keeps => Self::Clean,
            _ => Self::Broken,
        }
    }
}

/// One WebSocket.
struct Connection {
    app: Arc<App>,
    id: SocketId,
    wire: Arc<Wire>,
    outbox: Arc<Outbox>,
    /// To read the socket with, until the session's shard does.
    reader: Option<Reader>,
    /// What has been read here.
    read: VecDeque<Incoming>,
    /// The shard of the session, once there is one.
    home: Option<ShardId>,
    greeted: bool,
    malformed: u32,
    signals: Tokens,
    /// Whether the session is to outlive the page.
    keeps: bool,
    /// When a socket without a session is closed.
    deadline: Instant,
}

impl Connection {
    /// Serves the socket until it ends, or, with `None`, until it has found its home.
    async fn run(&mut self) -> Option<End> {
        let (mut draining, mut told) = (self.app.draining.subscribe(), false);
        let mut read = 0;
        let silence = sleep_until(self.due().into());
        tokio::pin!(silence);
        while self.reader.is_none() || self.home.is_none() || !self.read.is_empty() {
            if read == READS {
                read = 0;
                yield_now().await;
            }
            let outbox = self.outbox.clone();
            tokio::select! {
                biased;
                outgoing = poll_fn(|cx| outbox.poll(cx.waker())) => {
                    if let Some(end) = self.write(outgoing).await {
                        return Some(end);
                    }
                }
                incoming = self.recv() => {
                    read += 1;
                    if let Some(end) = self.handle(incoming).await {
                        return Some(end);
                    }
                }
                // Whatever comes puts it off, which is looked at only here.
                () = &mut silence => {
                    let due = self.due();
                    if due <= Instant::now() {
                        self.outbox.close(Code::Timeout);
                    }
                    silence.as_mut().reset(due.into());
                }
                // Those that have a session are told by its shard.
                () = until_draining(&mut draining), if self.home.is_none() && !told => {
                    told = true;
                    let spread = return_spread(self.app.open_sockets());
                    self.say(&ServerText::Draining { retry_after_ms: spread.as_millis() as u64 });
                    self.outbox.close(Code::Draining);
                }
            }
        }
        None
    }

    /// When the socket is closed unless something comes before.
    fn due(&self) -> Instant {
        if self.reader.is_some() { self.deadline } else { self.wire.heard() + SILENCE }
    }

    /// The next that comes. It may be given up and asked for again.
    async fn recv(&mut self) -> Incoming {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Incoming> {
        loop {
            if let Some(incoming) = self.read.pop_front() {
                return Poll::Ready(incoming);
            }
            if self.reader.is_none() {
                return self.wire.poll_mail(cx);
            }
            let mut buffer = [0; READ_BUFFER];
            match ready!(self.wire.poll_read(cx, &mut buffer, Instant::now())) {
                Ok(count @ 1..) => self.take(&buffer[..count]),
                Ok(_) | Err(_) => return Poll::Ready(Incoming::End),
            }
        }
    }

    fn take(&mut self, mut bytes: &[u8]) {
        let Some(reader) = &mut self.reader else { return };
        loop {
            match reader.read(&mut bytes) {
                Ok(Some(message)) => self.read.push_back(Incoming::Message(message)),
                Ok(None) => return,
                Err(error) => return self.read.push_back(Incoming::Error(error)),
            }
        }
    }

    async fn handle(&mut self, incoming: Incoming) -> Option<End> {
        match incoming {
            Incoming::Message(Message::Close(code)) => {
                // The client waits for it; one that does not read goes without.
                self.wire.write_close(code);
                Some(End::of(code, self.keeps))
            }
            Incoming::Message(Message::Ping(payload)) => {
                let pong = timeout(WRITE, self.wire.send(Opcode::Pong, &payload)).await;
                (!matches!(pong, Ok(Ok(())))).then_some(End::Broken)
            }
            Incoming::Message(message) => {
                self.read_message(message).await;
                None
            }
            Incoming::Error(error) => {
                tracing::debug!(%error, "a WebSocket broke");
                if error == websocket::Error::TooLarge {
                    self.refuse_too_large().await;
                }
                Some(End::Broken)
            }
            Incoming::End => Some(End::Broken),
        }
    }

    async fn ended(&self, end: End) {
        if let Some(home) = self.home {
            let clean = matches!(end, End::Clean);
            self.app.shards.send(home, Command::Closed { socket: self.id, clean }).await;
        }
        self.app.sockets.fetch_sub(1, Ordering::Relaxed);
        self.app.metrics.http.websockets.dec();
    }

    async fn write(&mut self, outgoing: Outgoing) -> Option<End> {
        if let Outgoing::Close(code) = outgoing {
            self.close(code).await;
            return Some(End::Closed);
        }
        match timeout(WRITE, write(&self.wire, outgoing)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Some(self.last_words().await),
            Err(_) => return Some(End::Broken),
        }
        if self.outbox.written()
            && let Some(home) = self.home
        {
            self.app.shards.send(home, Command::Writable(self.id)).await;
        }
        None
    }

    async fn close(&mut self, code: Code) {
        self.say_close(code).await;
        // Until the client has answered, so that what it was told is not lost in a reset.
        let answer = async {
            while let Incoming::Message(message) = self.recv().await {
                if matches!(message, Message::Close(_)) {
                    return;
                }
            }
        };
        let _ = timeout(CLOSING, answer).await;
    }

    /// Nothing can be made out any more of what the client says: it is read away until it has closed.
    async fn refuse_too_large(&mut self) {
        self.say_close(Code::TooLarge).await;
        self.wire.shut_down();
        let wire = &self.wire;
        let ended = poll_fn(|cx| {
            let mut buffer = [0; READ_BUFFER];
            while let Ok(1..) = ready!(wire.poll_read(cx, &mut buffer, Instant::now())) {}
            Poll::Ready(())
        });
        let _ = timeout(CLOSING, ended).await;
    }

    async fn say_close(&self, code: Code) {
        let payload = [&code.close_code().to_be_bytes(), code.as_str().as_bytes()].concat();
        let _ = timeout(CLOSING, self.wire.send(Opcode::Close, &payload)).await;
    }

    /// What came before it broke. A page that goes says goodbye and closes at once: its words may lie unread when
    /// something is written to it.
    async fn last_words(&mut self) -> End {
        let reading = async {
            loop {
                match self.recv().await {
                    Incoming::Message(Message::Close(code)) => return End::of(code, self.keeps),
                    Incoming::Message(message) => self.read_message(message).await,
                    Incoming::Error(_) | Incoming::End => return End::Broken,
                }
            }
        };
        timeout(CLOSING, reading).await.unwrap_or(End::Broken)
    }

    async fn read_message(&mut self, message: Message) {
        match message {
            Message::Text(text) => self.read_text(&text, Instant::now()).await,
            Message::Binary(frames) => self.read_frames(frames).await,
            Message::Ping(_) | Message::Pong | Message::Close(_) => {}
        }
    }

    async fn read_frames(&mut self, frames: Bytes) {
        let Some(home) = self.home else {
            return self.refuse(None, Code::JoinFirst, "frames need a session: join a room first");
        };
        self.app.shards.send(home, Command::Frames(self.id, frames)).await;
    }

    async fn read_text(&mut self, text: &str, now: Instant) {
        let message = match ClientText::parse(text) {
            Ok(message) => message,
            Err(error) => {
                self.app.metrics.signalling.malformed.inc();
                self.malformed += 1;
                self.refuse(None, error.code(), &error.to_string());
                if self.malformed >= self.app.config.limits.malformed_before_close.max(1) {
                    self.outbox.close(Code::Abuse);
                }
                return;
            }
        };
        self.app.metrics.signalling.message(kind_of(&message));
        if let Err(retry) = self.signals.take(now) {
            let mut refusal =
                Refusal::new(id_of(&message), Code::RateLimited, "too many signalling messages");
            refusal.retry_after_ms = Some(retry.as_millis() as u64 + 1);
            return self.say(&ServerText::Error(refusal));
        }
        if !self.greeted && !matches!(message, ClientText::Hello { .. }) {
            return self.refuse(id_of(&message), Code::HelloFirst, "say hello first");
        }
        match message {
            ClientText::Hello { v, resume, .. } => self.hello(v, resume, now).await,
            ClientText::Join { id, room, token, offer, follow, signing_key } => {
                let wanted = Wanted { offer, follow, signing_key };
                self.join(id, room, &token, wanted, now).await;
            }
            ClientText::Offer(offer) => {
                if let Some(home) = self.session_shard() {
                    self.app.shards.send(home, Command::Offer(self.id, offer)).await;
                }
            }
            // ICE-lite: the client's checks come by themselves; where it expects them from does not matter.
            ClientText::Candidate { .. } => {}
            ClientText::IceServers {} => {
                if let Some(home) = self.session_shard() {
                    self.app.shards.send(home, Command::IceServers(self.id)).await;
                }
            }
            ClientText::Attempt(attempt) => {
                if let Some(home) = self.session_shard() {
                    self.app.shards.send(home, Command::Attempt(self.id, attempt)).await;
                }
            }
            ClientText::Quality(quality) => {
                if let Some(home) = self.session_shard() {
                    self.app.shards.send(home, Command::Quality(self.id, quality)).await;
                }
            }
            ClientText::Keep { on } => self.keeps = on,
            ClientText::Ping { t } => self.say(&ServerText::Pong { t }),
            ClientText::Bye => match self.home {
                Some(home) => {
                    self.app.shards.send(home, Command::Bye(self.id)).await;
                }
                None => self.outbox.close(Code::Bye),
            },
        }
    }

    async fn hello(&mut self, v: u32, resume: Option<Resume>, now: Instant) {
        if v != limits::VERSION {
            let sentence = format!("version {v} is not spoken here; {} is", limits::VERSION);
            self.say(&ServerText::Error(Refusal::new(None, Code::UnsupportedVersion, sentence).fatal()));
            return self.outbox.close(Code::UnsupportedVersion);
        }
        if std::mem::replace(&mut self.greeted, true) {
            return self.refuse(None, Code::Malformed, "hello was said before");
        }
        self.deadline = now + PATIENCE;
        let Some(resume) = resume else {
            return self.say(&welcome(self.app.shards.limits().clone()));
        };
        let session = SessionId::from_wire(&resume.session).filter(|id| id.shard.0 < self.app.shards.count());
        let Some(session) = session else {
            let (code, sentence) = UNKNOWN_SESSION;
            self.app.metrics.rooms.refused(code.as_str(), 1);
            self.refuse(None, code, sentence);
            return self.say(&welcome(self.app.shards.limits().clone()));
        };
        self.home = Some(session.shard);
        let Resume { ticket, takes_over, .. } = resume;
        let (socket, outbox) = (self.id, self.outbox.clone());
        let command = Command::Resume { socket, outbox, session, ticket, takes_over };
        self.app.shards.send(session.shard, command).await;
    }

    async fn join(&mut self, id: u32, room: String, token: &str, wanted: Wanted, now: Instant) {
        if room.is_empty() || room.len() > limits::ROOM_NAME_BYTES || room.chars().any(char::is_control) {
            let sentence =
                format!("a room's name has 1 to {} bytes and no control characters", limits::ROOM_NAME_BYTES);
            return self.refuse(Some(id), Code::RoomName, &sentence);
        }
        let unix = unix_now();
        let verified = match token::verify(token, &self.app.keys, &room, unix) {
            Ok(verified) => verified,
            Err(error) => {
                self.app.metrics.rooms.refused(error.code().as_str(), 1);
                return self.refuse(Some(id), error.code(), &error.to_string());
            }
        };
        let features = self.app.config.features_of(&room).and(verified.features);
        // Where copies of events are off, the key is of no use to anybody.
        let signing_key = wanted.signing_key.as_deref().filter(|_| features.lets_copies());
        let signing_key = match signing_key.map(SigningKey::parse).transpose() {
            Ok(signing_key) => signing_key,
            Err(error) => return self.refuse(Some(id), Code::BadKey, &error.to_string()),
        };
        let mut request = request(id, verified, features, wanted, now, unix);
        request.grant.signing_key = signing_key;
        let home = self.home.unwrap_or_else(|| request.room.shard(self.app.shards.count()));
        self.home = Some(home);
        let command = Command::Join { socket: self.id, outbox: self.outbox.clone(), request };
        self.app.shards.send(home, command).await;
    }

    fn session_shard(&mut self) -> Option<ShardId> {
        if self.home.is_none() {
            self.refuse(None, Code::JoinFirst, "this message needs a session: join a room first");
        }
        self.home
    }

    fn refuse(&self, id: Option<u32>, code: Code, sentence: &str) {
        self.say(&ServerText::Error(Refusal::new(id, code, sentence)));
    }

    fn say(&self, text: &ServerText) {
        self.outbox.push_text(message::to_json(text));
    }
}

/// What comes with a join.
struct Wanted {
    offer: Option<Description>,
    follow: Option<Follow>,
    signing_key: Option<String>,
}

async fn write(wire: &Wire, outgoing: Outgoing) -> io::Result<()> {
    match outgoing {
        Outgoing::Text(text) => wire.send(Opcode::Text, text.as_bytes()).await,
        Outgoing::Frames(frames) => wire.send(Opcode::Binary, &frames).await,
        Outgoing::Drain => poll_fn(|cx| wire.poll_drain(cx)).await,
        Outgoing::Close(_) => Ok(()),
    }
}

/// Ends when the server begins to drain.
async fn until_draining(draining: &mut watch::Receiver<bool>) {
    // It does not fail: the sender lives as long as the doors.
    let _ = draining.wait_for(|is_draining| *is_draining).await;
}

fn request(
    id: u32,
    verified: Verified,
    features: Features,
    Wanted { offer, follow, .. }: Wanted,
    now: Instant,
    unix: u64,
) -> JoinRequest {
    let permissions = verified.permissions();
    let Verified { tenant, user, name, room, role, expires_at, .. } = verified;
    // A token without a sensible end still ends: in a year the server has been restarted.
    let left = Duration::from_secs(expires_at.saturating_sub(unix).min(365 * 24 * 3600));
    let grant = Grant { user, name, role, permissions, expires: now + left, signing_key: None };
    JoinRequest { id, room: RoomKey { tenant, room }, grant, features, offer, follow }
}

fn id_of(message: &ClientText) -> Option<u32> {
    if let ClientText::Join { id, .. } = message { Some(*id) } else { None }
}

fn kind_of(message: &ClientText) -> &'static str {
    match message {
        ClientText::Hello { .. } => "hello",
        ClientText::Join { .. } => "join",
        ClientText::Offer(_) => "offer",
        ClientText::Candidate { .. } => "candidate",
        ClientText::IceServers {} => "ice_servers",
        ClientText::Attempt(_) => "attempt",
        ClientText::Quality(_) => "quality",
        ClientText::Keep { .. } => "keep",
        ClientText::Ping { .. } => "ping",
        ClientText::Bye => "bye",
    }
}

/// A token bucket; a rate of 0 is no limit.
struct Tokens {
    rate: f64,
    most: f64,
    left: f64,
    at: Instant,
}

impl Tokens {
    fn new(rate: u32, burst: u32, now: Instant) -> Self {
        let most = f64::from(burst.max(1));
        Self { rate: rate.into(), most, left: most, at: now }
    }

    fn take(&mut self, now: Instant) -> Result<(), Duration> {
        if self.rate == 0.0 {
            return Ok(());
        }
        self.left = (self.left + now.duration_since(self.at).as_secs_f64() * self.rate).min(self.most);
        self.at = now;
        if self.left < 1.0 {
            return Err(Duration::from_secs_f64((1.0 - self.left) / self.rate));
        }
        self.left -= 1.0;
        Ok(())
    }
}
