//! A device that writes to a room's log and reads it over a real WebSocket, whatever becomes of the server.

use std::{
    net::SocketAddr,
    time::{Duration, Instant, SystemTime},
};

use futures_util::{SinkExt as _, StreamExt as _};
use switchyard_loadtest::{
    browser::{Browser, BrowserConfig, Event, LogEvent, RoomLog, SocketOutput},
    token,
};
use switchyard_signaling::{
    event::{Content, EventKind},
    message::{ClientControl, ServerControl},
};
use tokio::{net::TcpStream, sync::watch, time::timeout};
use tokio_tungstenite::{WebSocketStream, client_async, tungstenite::Message};

use super::history::{History, Note, Role};

pub(crate) const KEY: &str = "crash";
pub(crate) const SECRET: &str = "0f1e2d3c4b5a69788796a5b4c3d2e1f0";
const ROOM: &str = "room";
/// Between two messages of one device.
const PAUSE: Duration = Duration::from_millis(5);
/// Submissions that may wait: a user does not write on for ever without seeing anything arrive.
const WAITING: usize = 200;
/// When everybody has stopped writing, all must be answered within this.
const ANSWERED: Duration = Duration::from_secs(60);

type Socket = WebSocketStream<TcpStream>;

pub(crate) struct Device {
    number: u32,
    began: Instant,
    token: String,
    history: History,
    log: Option<RoomLog>,
    written: u32,
    /// Of an observer: the request, and the next event to ask for.
    replayed: u64,
    is_replayed: bool,
}

impl Device {
    pub(crate) fn new(number: u32, began: Instant) -> Self {
        let user = format!("user{number}");
        let token = token::mint(KEY, SECRET, ROOM, &user, SystemTime::now());
        let mut history = History::new(&user);
        history.note(Duration::ZERO, Note::Asked(Role::Editor));
        let log = Some(RoomLog::default());
        Self { number, began, token, history, log, written: 0, replayed: 0, is_replayed: false }
    }

    /// Writes as long as it is told to, and goes when everything is answered and read.
    pub(crate) async fn run(
        mut self,
        server: SocketAddr,
        writing: watch::Receiver<bool>,
    ) -> Result<History, String> {
        let mut stopped = None;
        loop {
            if let Ok(Ok(socket)) = timeout(Duration::from_secs(1), connect(server)).await
                && self.session(socket, &writing, &mut stopped).await
            {
                return Ok(self.history);
            }
            if stopped.is_some_and(|at: Instant| at.elapsed() > ANSWERED) {
                let left = self.log.as_ref().map_or(0, RoomLog::unanswered);
                return Err(format!("device {}: {left} submissions without an answer", self.number));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Has the whole log replayed.
    pub(crate) async fn observe(mut self, server: SocketAddr) -> Result<History, String> {
        let (_never, quiet) = watch::channel(false);
        let socket = connect(server).await.map_err(|error| error.to_string())?;
        self.replayed = 1;
        let mut stopped = None;
        if timeout(ANSWERED, self.session(socket, &quiet, &mut stopped)).await == Ok(true) {
            return Ok(self.history);
        }
        Err("the observer did not get the log".to_owned())
    }

    /// One session. Returns whether there is nothing left to do.
    async fn session(
        &mut self,
        socket: Socket,
        writing: &watch::Receiver<bool>,
        stopped: &mut Option<Instant>,
    ) -> bool {
        let (mut sink, mut stream) = socket.split();
        let now = Instant::now();
        let mut browser = Browser::new(now, BrowserConfig::default());
        browser.handle_socket_open(now);
        browser.join_log(now, ROOM, &self.token, self.log.take().unwrap_or_default());
        let mut handle = None;
        let mut next_write = now;
        let is_done = loop {
            let now = Instant::now();
            browser.handle_timeout(now);
            while let Some(event) = browser.poll_event() {
                self.take(now, event, &mut handle, &mut browser);
            }
            let is_writing = *writing.borrow();
            if !is_writing {
                stopped.get_or_insert(now);
            }
            let log = browser.room_log(ROOM).expect("it was joined with one");
            let is_settled = log.unanswered() == 0 && log.is_up_to_date() && handle.is_some();
            let is_observer = self.replayed > 0;
            if !is_writing && is_settled && (!is_observer || self.is_replayed) {
                // What the others have written last comes to everybody who waits a little.
                if is_observer || stopped.is_some_and(|at| at.elapsed() > Duration::from_secs(3)) {
                    break true;
                }
            } else if is_writing && next_write <= now && log.unanswered() < WAITING {
                next_write = now + PAUSE;
                self.write(now, &mut browser);
            }
            let mut outputs = Vec::new();
            while let Some(output) = browser.poll_socket() {
                outputs.push(match output {
                    SocketOutput::Text(text) => Message::text(text),
                    SocketOutput::Binary(message) => Message::binary(message),
                });
            }
            let sending = async {
                for message in outputs {
                    sink.feed(message).await?;
                }
                sink.flush().await
            };
            if !matches!(timeout(Duration::from_secs(2), sending).await, Ok(Ok(()))) {
                break false;
            }
            match timeout(PAUSE, stream.next()).await {
                Err(_) => {}
                Ok(Some(Ok(Message::Text(text)))) => browser.handle_text(Instant::now(), text.as_str()),
                Ok(Some(Ok(Message::Binary(message)))) => browser.handle_binary(Instant::now(), message),
                Ok(Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)))) => {}
                Ok(Some(Ok(Message::Close(_)) | Err(_)) | None) => break false,
            }
        };
        self.log = browser.take_logs().remove(ROOM);
        is_done
    }

    fn write(&mut self, now: Instant, browser: &mut Browser) {
        self.written += 1;
        let id = self.number << 24 | self.written;
        let body = format!(r#"{{"text":"{} of {}"}}"#, self.written, self.number);
        let content = Content { kind: EventKind::Chat, version: 0, flags: 0, target: 0, body: body.into() };
        self.note(now, Note::Submitted { id, content: content.clone(), wrong: None });
        browser.log(now, ROOM, |log| log.submit(id, content));
    }

    fn take(&mut self, now: Instant, event: Event, handle: &mut Option<u16>, browser: &mut Browser) {
        match event {
            Event::Control(_, ServerControl::Joined { handle: given, .. }) => {
                *handle = Some(given);
                self.note(now, Note::Confirmed(Role::Editor));
                if self.replayed > 0 {
                    self.replay(now, given, browser);
                }
            }
            Event::Log(_, event) => match event {
                LogEvent::Event(event) => self.note(now, Note::Event(event)),
                LogEvent::Snapshot(snapshot) => self.note(now, Note::Snapshot(snapshot)),
                LogEvent::Accepted { nonce: id, origin, cseq, seq } => {
                    self.note(now, Note::Accepted { id, origin, cseq, seq });
                }
                LogEvent::Refused { nonce: id, code } => self.note(now, Note::Refused { id, code }),
                LogEvent::Conflict(_) => self.note(now, Note::Conflict),
                LogEvent::Answered { last, events, .. } => {
                    self.replayed = events.last().map_or(self.replayed, |event| event.seq + 1);
                    self.note(now, Note::Replayed(events));
                    self.is_replayed = last;
                    if let Some(handle) = handle.filter(|_| !last) {
                        self.replay(now, handle, browser);
                    }
                }
                _ => {}
            },
            _ => {}
        }
    }

    fn replay(&mut self, now: Instant, handle: u16, browser: &mut Browser) {
        let id = browser.request();
        let replay = ClientControl::Replay { id, from: self.replayed, to: None };
        browser.control(now, handle, &replay).expect("there is room for a request");
    }

    fn note(&mut self, now: Instant, note: Note) {
        self.history.note(now - self.began, note);
    }
}

async fn connect(server: SocketAddr) -> Result<Socket, tokio_tungstenite::tungstenite::Error> {
    let stream = TcpStream::connect(server).await?;
    let _ = stream.set_nodelay(true);
    let (socket, _) = client_async(format!("ws://{server}/v1/connect"), stream).await?;
    Ok(socket)
}
