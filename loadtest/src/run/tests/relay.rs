//! A relay for one room on real sockets, everybody's messages to everybody else, with a fault that tests plant.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use switchyard_signaling::limits;
use tokio::{
    net::{TcpListener, TcpStream, UdpSocket},
    time::{interval, sleep},
};
use tokio_tungstenite::{
    accept_hdr_async,
    tungstenite::{
        Message,
        handshake::server::{ErrorResponse, Request, Response},
    },
};

use crate::{
    account::Stamp,
    answerer::Session,
    browser::{Incoming, Pipe},
    netsim::Datagram,
    peer::Channel,
};

/// What the relay does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    None,
    /// Every so many messages, one reaches nobody.
    Drop(u64),
    /// Every so many messages, one reaches everybody twice.
    Double(u64),
    /// One message comes behind the next of the same sender.
    Swap(u64),
    /// Every so many messages, one has another last byte.
    Alter(u64),
    /// Messages of this user of the run take so much longer.
    Late(u32, Duration),
}

pub(super) struct Relay {
    fault: Fault,
    passed: AtomicU64,
    held: Mutex<Option<(u32, Incoming)>>,
    sessions: Mutex<HashMap<u32, Arc<Mutex<Session>>>>,
}

impl Relay {
    pub(super) async fn start(fault: Fault) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (passed, held, sessions) = Default::default();
        let relay = Arc::new(Self { fault, passed, held, sessions });
        tokio::spawn(async move {
            for member in 1.. {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(relay.clone().serve(stream, member));
            }
        });
        address
    }

    /// One client: its WebSocket and a UDP socket of its own.
    async fn serve(self: Arc<Self>, stream: TcpStream, member: u32) {
        // What is no WebSocket looks whether anybody is there, or wants figures.
        let Ok(mut socket) = accept_hdr_async(stream, select_subprotocol).await else { return };
        let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = udp.local_addr().unwrap();
        let session = Arc::new(Mutex::new(Session::new()));
        self.sessions.lock().unwrap().insert(member, session.clone());
        let mut buffer = [0; 2048];
        let mut ticks = interval(Duration::from_millis(2));
        loop {
            let mut incoming = Vec::new();
            tokio::select! {
                message = socket.next() => match message {
                    Some(Ok(Message::Text(text))) => {
                        session.lock().unwrap().take_text(Instant::now(), text.as_str(), member, address);
                    }
                    Some(Ok(Message::Binary(frames))) => {
                        let mut session = session.lock().unwrap();
                        incoming = session.take_frames(Instant::now(), Pipe::Socket, frames);
                    }
                    _ => break,
                },
                Ok((length, from)) = udp.recv_from(&mut buffer) => {
                    let payload = buffer[..length].to_vec().into();
                    let mut session = session.lock().unwrap();
                    if let Some(answerer) = &mut session.answerer {
                        answerer.handle_datagram(Instant::now(), &Datagram { from, to: address, payload });
                    }
                }
                _ = ticks.tick() => {
                    if let Some(answerer) = &mut session.lock().unwrap().answerer {
                        answerer.handle_timeout(Instant::now());
                    }
                }
            }
            let (texts, frames, datagrams) = {
                let mut session = session.lock().unwrap();
                let messages =
                    session.answerer.as_mut().map(|answerer| std::mem::take(&mut answerer.messages));
                for (_, frames) in messages.into_iter().flatten() {
                    incoming.extend(session.take_frames(Instant::now(), Pipe::Channel, frames));
                }
                outputs(&mut session)
            };
            let messages =
                texts.into_iter().map(Message::text).chain(frames.into_iter().map(Message::binary));
            for message in messages {
                if socket.send(message).await.is_err() {
                    break;
                }
            }
            for datagram in datagrams {
                let _ = udp.send_to(&datagram.payload, datagram.to).await;
            }
            for message in incoming {
                self.relay(member, message);
            }
        }
        self.sessions.lock().unwrap().remove(&member);
    }

    fn relay(self: &Arc<Self>, author: u32, mut message: Incoming) {
        let number = self.passed.fetch_add(1, Ordering::Relaxed) + 1;
        let is_nth = |every: u64| number.is_multiple_of(every);
        match self.fault {
            Fault::Drop(every) if is_nth(every) => return,
            Fault::Double(every) if is_nth(every) => self.pass_on(author, &message),
            Fault::Swap(at) if number == at => {
                *self.held.lock().unwrap() = Some((author, message));
                return;
            }
            Fault::Alter(every) if is_nth(every) => {
                let mut payload = message.payload.to_vec();
                *payload.last_mut().unwrap() ^= 1;
                message.payload = Bytes::from(payload);
            }
            Fault::Late(user, delay) if Stamp::of(&message.payload).unwrap().sender == user => {
                let relay = self.clone();
                tokio::spawn(async move {
                    sleep(delay).await;
                    relay.pass_on(author, &message);
                });
                return;
            }
            _ => {}
        }
        self.pass_on(author, &message);
        // The one held back goes behind the next of the same author.
        let held = self.held.lock().unwrap().take_if(|(held_author, _)| *held_author == author);
        if let Some((_, earlier)) = held {
            self.pass_on(author, &earlier);
        }
    }

    fn pass_on(&self, author: u32, message: &Incoming) {
        for (member, session) in self.sessions.lock().unwrap().iter() {
            if *member != author {
                session.lock().unwrap().deliver(Instant::now(), author, message);
            }
        }
    }
}

/// Texts, frames for the WebSocket, and datagrams.
fn outputs(session: &mut Session) -> (Vec<String>, Vec<Bytes>, Vec<Datagram>) {
    let now = Instant::now();
    let texts = std::mem::take(&mut session.texts);
    let mut frames: Vec<Bytes> =
        std::iter::from_fn(|| session.fill(now, Pipe::Socket, limits::SOCKET_MESSAGE_BYTES)).collect();
    let lossy = std::mem::take(&mut session.lossy);
    let mut datagrams = Vec::new();
    if let Some(mut answerer) = session.answerer.take() {
        while let Some(frames) = session.fill(now, Pipe::Channel, limits::CHANNEL_MESSAGE_BYTES) {
            answerer.send(now, Channel::Reliable, &frames);
        }
        if session.attached == Some(Pipe::Channel) {
            lossy.iter().for_each(|frame| answerer.send(now, Channel::Lossy, frame));
        }
        answerer.drain();
        datagrams.extend(std::iter::from_fn(|| answerer.poll_datagram()));
        session.answerer = Some(answerer);
    }
    if session.attached == Some(Pipe::Socket) {
        frames.extend(lossy);
    }
    (texts, frames, datagrams)
}

#[expect(clippy::result_large_err, reason = "the library's callback")]
#[expect(clippy::unnecessary_wraps, reason = "the library's callback")]
fn select_subprotocol(request: &Request, mut response: Response) -> Result<Response, ErrorResponse> {
    assert_eq!(request.uri().path(), "/v1/connect");
    let offered = request.headers()["sec-websocket-protocol"].clone();
    response.headers_mut().insert("sec-websocket-protocol", offered);
    Ok(response)
}
