//! One real WebSocket of a user: connecting, what waits to be written, and how it ends.

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{Sink, Stream};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

use crate::{
    adapter::{Door, Outbound},
    target::{Target, WebSocket, cause},
};

type Connecting = Pin<Box<dyn Future<Output = Result<WebSocket, String>>>>;

/// TCP, TLS and the upgrade, on the real network.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// What a WebSocket carries, over the model of TCP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Carried {
    Text(String),
    Binary(Bytes),
    Ping(Bytes),
    Pong(Bytes),
    /// The last of its direction, with the reason.
    Closed(String),
}

/// A real WebSocket, from the moment at which the simulated network has let it through.
#[derive(Default)]
pub(super) struct Socket {
    connecting: Option<Connecting>,
    stream: Option<Box<WebSocket>>,
    /// What came out of the simulated network and is not written.
    waiting: VecDeque<Carried>,
    /// Something was given to the stream and has not left it yet.
    unflushed: bool,
    /// The goodbye was given to the stream.
    is_closing: bool,
    /// Why it ended, until that is read.
    ended: Option<String>,
    is_over: bool,
}

impl From<Outbound> for Carried {
    fn from(output: Outbound) -> Self {
        match output {
            Outbound::Text(text) => Self::Text(text),
            Outbound::Binary(message) => Self::Binary(message),
            Outbound::Ping(nonce) => Self::Ping(nonce),
        }
    }
}

impl Carried {
    /// Its size with the header of RFC 6455, section 5.2; masks are counted in either direction.
    pub(super) fn wire_bytes(&self) -> usize {
        let length = match self {
            Self::Text(text) => text.len(),
            Self::Binary(bytes) | Self::Ping(bytes) | Self::Pong(bytes) => bytes.len(),
            Self::Closed(why) => 2 + why.len(),
        };
        length
            + match length {
                0..126 => 6,
                126..65_536 => 8,
                _ => 14,
            }
    }
}

impl Socket {
    pub(super) fn connect(&mut self, target: &Target, door: &Door) {
        let (target, door) = (target.clone(), door.clone());
        self.connecting = Some(Box::pin(async move {
            let opened = timeout(CONNECT_TIMEOUT, target.websocket(&door)).await;
            opened.map_err(|_| "timed out".to_owned())?.map_err(|error| cause(&error))
        }));
    }

    pub(super) fn is_open(&self) -> bool {
        self.stream.is_some()
    }

    /// Whether the user may give more: nothing waits here, so that what it holds back can still go another way.
    pub(super) fn takes_more(&self) -> bool {
        self.stream.is_some() && self.waiting.is_empty() && self.ended.is_none()
    }

    /// Whether it has said goodbye, or can do no more.
    pub(super) fn is_over(&self) -> bool {
        self.is_over
    }

    pub(super) fn give(&mut self, item: Carried) {
        self.waiting.push_back(item);
    }

    /// How connecting ended, once.
    pub(super) fn poll_connected(&mut self, context: &mut Context<'_>) -> Option<Result<(), String>> {
        let connecting = self.connecting.as_mut()?;
        let Poll::Ready(result) = connecting.as_mut().poll(context) else { return None };
        self.connecting = None;
        Some(result.map(|stream| self.stream = Some(Box::new(stream))))
    }

    /// Writes what it can; whether anything was written.
    pub(super) fn poll_write(&mut self, context: &mut Context<'_>) -> bool {
        let Some(stream) = &mut self.stream else { return false };
        let mut has_written = false;
        let mut stream = Pin::new(stream.as_mut());
        loop {
            if self.unflushed {
                match stream.as_mut().poll_flush(context) {
                    Poll::Ready(Ok(())) => self.unflushed = false,
                    Poll::Ready(Err(error)) => {
                        self.ended.get_or_insert_with(|| cause(&error));
                        self.is_over = self.is_closing;
                        self.unflushed = false;
                        self.waiting.clear();
                        return true;
                    }
                    Poll::Pending => return has_written,
                }
            }
            self.is_over |= self.is_closing;
            let Some(item) = self.waiting.pop_front() else { return has_written };
            has_written = true;
            let message = match item {
                Carried::Text(text) => Message::text(text),
                Carried::Binary(message) => Message::binary(message),
                Carried::Ping(nonce) => Message::Ping(nonce),
                Carried::Pong(nonce) => Message::Pong(nonce),
                Carried::Closed(_) => {
                    self.is_closing = true;
                    Message::Close(None)
                }
            };
            self.unflushed = true;
            // An error comes again when it is flushed.
            let _ = stream.as_mut().start_send(message);
        }
    }

    /// The next thing that it has received; after `Closed` nothing more.
    pub(super) fn poll_read(&mut self, context: &mut Context<'_>) -> Option<Carried> {
        let stream = self.stream.as_mut()?;
        if let Some(why) = self.ended.take() {
            self.stream = None;
            return Some(Carried::Closed(why));
        }
        loop {
            let Poll::Ready(read) = Pin::new(stream.as_mut()).poll_next(context) else { return None };
            let why = match read {
                Some(Ok(Message::Text(text))) => return Some(Carried::Text(text.as_str().to_owned())),
                Some(Ok(Message::Binary(message))) => return Some(Carried::Binary(message)),
                Some(Ok(Message::Close(Some(frame)))) => {
                    format!("{} {}", u16::from(frame.code), frame.reason)
                }
                Some(Ok(Message::Close(None))) => "without a code".to_owned(),
                Some(Ok(Message::Pong(nonce))) => return Some(Carried::Pong(nonce)),
                // Answers to the server's pings are the library's business.
                Some(Ok(_)) => continue,
                Some(Err(error)) => cause(&error),
                None => "without a close frame".to_owned(),
            };
            self.stream = None;
            return Some(Carried::Closed(why));
        }
    }
}
