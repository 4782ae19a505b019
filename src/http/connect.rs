//! The signalling socket, `/v1/connect`: section 2 of `docs/protocol.md`.
//!
//! One task per WebSocket. It parses and checks what the client says, verifies tokens, and hands commands to the shard
//! of the session; what the shard has for the client it finds in the socket's [`Outbox`]. It keeps no state of a
//! session beyond which shard has it. Once it knows that shard it goes on by its side, on its thread, so that what a
//! client sends wakes one thread and not two.

use std::{
    future::poll_fn,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use axum::{
    Extension,
    extract::{
        State,
        ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code},
    },
    http::{HeaderMap, StatusCode, header},
    response::Response,
};
use bytes::Bytes;
use switchyard_signaling::{
    Code, limits,
    message::{self, ClientText, Description, Follow, Refusal, Resume, ServerText},
};
use tokio::{
    sync::watch,
    task::yield_now,
    time::{sleep_until, timeout},
};

use super::{
    App, problem, unix_now,
    wire::{ConnectionWire, Wire},
};
use crate::{
    RETRY_AFTER,
    engine::{
        Command, JoinRequest, SocketId,
        outbox::{Outbox, Outgoing},
        welcome,
    },
    names::{RoomKey, SessionId, ShardId},
    room::Grant,
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
/// Bytes that an idle socket holds for reading; longer messages get room while they come.
const READ_BUFFER: usize = 2048;
/// Messages of one client after which others have a turn.
const READS: u32 = 16;
/// The subprotocol, for clients that offer one.
const SUBPROTOCOL: &str = "switchyard.v1";

/// Upgrades to a WebSocket, unless the page or the server's state forbids it.
pub(super) async fn upgrade(
    State(app): State<Arc<App>>,
    Extension(ConnectionWire(wire)): Extension<ConnectionWire>,
    headers: HeaderMap,
    socket: WebSocketUpgrade,
) -> Response {
    let text = |name| headers.get(name).and_then(|value: &header::HeaderValue| value.to_str().ok());
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
    socket
        .protocols([SUBPROTOCOL])
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(0)
        .max_message_size(limits::SOCKET_MESSAGE_BYTES)
        .max_frame_size(limits::SOCKET_MESSAGE_BYTES)
        .on_upgrade(move |socket| serve(app, wire, socket))
}

async fn serve(app: Arc<App>, wire: Arc<Wire>, mut socket: WebSocket) {
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
        greeted: false,
        malformed: 0,
        signals: Tokens::new(limits.signals_per_second, limits.signals_burst, now),
        deadline: now + PATIENCE,
        app,
    };
    if let Some(end) = connection.run(&mut socket).await {
        return connection.ended(end).await;
    }
    let Some(runtime) = connection.home.and_then(|home| connection.app.shards.runtime(home)).cloned() else {
        return connection.ended(End::Broken).await;
    };
    if let Err(error) = connection.wire.move_to(&runtime) {
        tracing::debug!(%error, "a WebSocket stays with the runtime that it came by");
    }
    runtime.spawn(async move {
        let end = connection.run(&mut socket).await.unwrap_or(End::Broken);
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
    /// By the client's close frame.
    fn of(frame: Option<&CloseFrame>) -> Self {
        match frame.map(|frame| frame.code) {
            Some(close_code::NORMAL | close_code::AWAY) => Self::Clean,
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
    /// The shard of the session, once there is one.
    home: Option<ShardId>,
    greeted: bool,
    malformed: u32,
    signals: Tokens,
    /// When the socket is closed unless something comes before.
    deadline: Instant,
}

impl Connection {
    /// Serves the socket until it ends, or, with `None`, until it has found its home.
    async fn run(&mut self, socket: &mut WebSocket) -> Option<End> {
        let (mut draining, mut told) = (self.app.draining.subscribe(), false);
        let is_home = self.home.is_some();
        let mut read = 0;
        let silence = sleep_until(self.deadline.into());
        tokio::pin!(silence);
        while is_home || self.home.is_none() {
            if read == READS {
                read = 0;
                yield_now().await;
            }
            let outbox = self.outbox.clone();
            tokio::select! {
                biased;
                outgoing = poll_fn(|cx| outbox.poll(cx.waker())) => {
                    if let Some(end) = self.write(socket, outgoing).await {
                        return Some(end);
                    }
                }
                incoming = socket.recv() => {
                    let now = Instant::now();
                    read += 1;
                    match incoming {
                        Some(Ok(Message::Close(frame))) => return Some(End::of(frame.as_ref())),
                        Some(Ok(message)) => self.read(message, now).await,
                        Some(Err(error)) => {
                            tracing::debug!(%error, "a WebSocket broke");
                            if is_too_large(error) {
                                close(socket, Code::TooLarge).await;
                            }
                            return Some(End::Broken);
                        }
                        None => return Some(End::Broken),
                    }
                }
                // Every message puts it off, which is looked at only here.
                () = &mut silence => {
                    if self.deadline <= Instant::now() {
                        self.outbox.close(Code::Timeout);
                    }
                    silence.as_mut().reset(self.deadline.into());
                }
                // Those that have a session are told by its shard.
                () = until_draining(&mut draining), if self.home.is_none() && !told => {
                    told = true;
                    self.say(&ServerText::Draining { retry_after_ms: RETRY_AFTER.as_millis() as u64 });
                    self.outbox.close(Code::Draining);
                }
            }
        }
        None
    }

    async fn ended(&self, end: End) {
        if let Some(home) = self.home {
            let clean = matches!(end, End::Clean);
            self.app.shards.send(home, Command::Closed { socket: self.id, clean }).await;
        }
        self.app.sockets.fetch_sub(1, Ordering::Relaxed);
        self.app.metrics.http.websockets.dec();
    }

    async fn write(&mut self, socket: &mut WebSocket, outgoing: Outgoing) -> Option<End> {
        let message = match outgoing {
            Outgoing::Text(text) => Some(Message::Text(text.into())),
            Outgoing::Frames(frames) => Some(Message::Binary(frames.freeze())),
            Outgoing::Drain => None,
            Outgoing::Close(code) => {
                close(socket, code).await;
                return Some(End::Closed);
            }
        };
        let writing = async {
            match message {
                Some(message) => socket.send(message).await.is_ok(),
                None => poll_fn(|cx| self.wire.poll_drain(cx)).await.is_ok(),
            }
        };
        match timeout(WRITE, writing).await {
            Ok(true) => {}
            Ok(false) => return Some(self.last_words(socket).await),
            Err(_) => return Some(End::Broken),
        }
        if self.outbox.written()
            && let Some(home) = self.home
        {
            self.app.shards.send(home, Command::Writable(self.id)).await;
        }
        None
    }

    /// What came before it broke. A page that goes says goodbye and closes at once: its words may lie unread when
    /// something is written to it.
    async fn last_words(&mut self, socket: &mut WebSocket) -> End {
        let reading = async {
            loop {
                match socket.recv().await {
                    Some(Ok(Message::Close(frame))) => return End::of(frame.as_ref()),
                    Some(Ok(message)) => self.read(message, Instant::now()).await,
                    Some(Err(_)) | None => return End::Broken,
                }
            }
        };
        timeout(CLOSING, reading).await.unwrap_or(End::Broken)
    }

    async fn read(&mut self, message: Message, now: Instant) {
        match message {
            Message::Text(text) => self.read_text(text.as_str(), now).await,
            Message::Binary(frames) => self.read_frames(frames, now).await,
            Message::Ping(_) | Message::Pong(_) | Message::Close(_) => {}
        }
    }

    async fn read_frames(&mut self, frames: Bytes, now: Instant) {
        let Some(home) = self.home else {
            return self.refuse(None, Code::JoinFirst, "frames need a session: join a room first");
        };
        self.deadline = now + SILENCE;
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
        if self.home.is_some() {
            self.deadline = now + SILENCE;
        }
        if !self.greeted && !matches!(message, ClientText::Hello { .. }) {
            return self.refuse(id_of(&message), Code::HelloFirst, "say hello first");
        }
        match message {
            ClientText::Hello { v, resume, .. } => self.hello(v, resume, now).await,
            ClientText::Join { id, room, token, offer, follow } => {
                self.join(id, room, &token, (offer, follow), now).await;
            }
            ClientText::Offer(offer) => {
                if let Some(home) = self.session_shard() {
                    self.app.shards.send(home, Command::Offer(self.id, offer)).await;
                }
            }
            // ICE-lite: the client's checks come by themselves; where it expects them from does not matter.
            ClientText::Candidate { .. } => {}
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
            return self.say(&welcome(false, self.app.shards.limits().clone()));
        };
        let session = SessionId::from_wire(&resume.session).filter(|id| id.shard.0 < self.app.shards.count());
        let Some(session) = session else {
            self.refuse(None, Code::UnknownSession, "the session to resume is gone; join anew");
            return self.say(&welcome(false, self.app.shards.limits().clone()));
        };
        self.home = Some(session.shard);
        let command =
            Command::Resume { socket: self.id, outbox: self.outbox.clone(), session, key: resume.key };
        self.app.shards.send(session.shard, command).await;
    }

    async fn join(
        &mut self,
        id: u32,
        room: String,
        token: &str,
        wanted: (Option<Description>, Option<Follow>),
        now: Instant,
    ) {
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
        let request = request(id, verified, wanted, now, unix);
        let home = self.home.unwrap_or_else(|| request.room.shard(self.app.shards.count()));
        self.home = Some(home);
        self.deadline = now + SILENCE;
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

async fn close(socket: &mut WebSocket, code: Code) {
    let frame = CloseFrame { code: code.close_code(), reason: code.as_str().into() };
    let _ = timeout(CLOSING, socket.send(Message::Close(Some(frame)))).await;
    // Until the client has answered, so that what it was told is not lost in a reset.
    let _ = timeout(CLOSING, async { while let Some(Ok(_)) = socket.recv().await {} }).await;
}

fn is_too_large(error: axum::Error) -> bool {
    let error = error.into_inner().downcast::<tungstenite::Error>();
    error.is_ok_and(|error| matches!(*error, tungstenite::Error::Capacity(_)))
}

/// Ends when the server begins to drain.
async fn until_draining(draining: &mut watch::Receiver<bool>) {
    // It does not fail: the sender lives as long as the doors.
    let _ = draining.wait_for(|is_draining| *is_draining).await;
}

fn request(
    id: u32,
    verified: Verified,
    (offer, follow): (Option<Description>, Option<Follow>),
    now: Instant,
    unix: u64,
) -> JoinRequest {
    let permissions = verified.permissions();
    let Verified { tenant, user, name, room, role, expires_at, .. } = verified;
    // A token without a sensible end still ends: in a year the server has been restarted.
    let left = Duration::from_secs(expires_at.saturating_sub(unix).min(365 * 24 * 3600));
    let grant = Grant { user, name, role, permissions, expires: now + left };
    JoinRequest { id, room: RoomKey { tenant, room }, grant, offer, follow }
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
