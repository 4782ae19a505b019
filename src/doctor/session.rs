//! The doors at the server's URL: HTTP requests, the WebSocket, and a join to a room that nobody else is in.

use std::{io, net::SocketAddr};

use bytes::Bytes;
use switchyard_signaling::{
    Code,
    frame::{Frame, Frames, Kind, Reliable},
    limits::{SOCKET_MESSAGE_BYTES, VERSION},
    message::{ClientText, Description, Ice, ServerControl, ServerText, to_json},
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{
    Access, Trouble, Verdict, ice,
    place::{Io, Place, Trust},
    words,
};

/// Bytes of an answer's head.
const HEAD_BYTES: usize = 16 * 1024;

const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;

/// What a join was told.
#[derive(Debug)]
pub(super) struct Told {
    /// STUN and TURN servers.
    pub(super) ice: Ice,
    /// The answer to the offer, or why there is none.
    pub(super) answer: Result<String, (Code, String)>,
}

/// Asks at a door whether all is well.
pub(super) async fn get(place: &Place, trust: &Trust, address: SocketAddr, path: &str) -> Verdict {
    let (mut stream, certificate) = place.connect(trust, address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", place.authority());
    let head = ask(&mut stream, &request).await.map_err(|error| closed(&error))?;
    match status_of(&head) {
        Some(200) => Ok(certificate),
        Some(503) if path == "/readyz" => {
            Err(Trouble::failed("the server is shutting down: start it anew, or wait"))
        }
        Some(status @ 502..=504) => Err(Trouble::Failed(format!(
            "the proxy answers {status}: it does not reach the server (http.bind, http.port)"
        ))),
        Some(status) => Err(Trouble::Failed(format!(
            "answers {status}: something else than Switchyard, or a proxy that does not pass {path} on"
        ))),
        None => {
            Err(Trouble::failed("answers something that is not HTTP: is the scheme right (http, https)?"))
        }
    }
}

fn closed(error: &io::Error) -> Trouble {
    Trouble::Failed(format!("{}: is the scheme right (http, https)?", words(error)))
}

/// Sends a request and reads the head of the answer.
async fn ask(stream: &mut Box<dyn Io>, request: &str) -> io::Result<String> {
    stream.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && head.len() < HEAD_BYTES {
        head.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

fn status_of(head: &str) -> Option<u16> {
    head.strip_prefix("HTTP/1.1 ").or_else(|| head.strip_prefix("HTTP/1.0 "))?.get(..3)?.parse().ok()
}

/// A WebSocket that has been welcomed.
pub(super) struct Socket(Box<dyn Io>);

impl Socket {
    /// Opens one and says hello.
    pub(super) async fn open(place: &Place, trust: &Trust, address: SocketAddr) -> Result<Self, Trouble> {
        let (mut stream, _) = place.connect(trust, address).await?;
        let request = format!(
            "GET /v1/connect HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: c3dpdGNoeWFyZC1kb2N0b3I=\r\n\r\n",
            place.authority()
        );
        let head = ask(&mut stream, &request).await.map_err(|error| closed(&error))?;
        match status_of(&head) {
            Some(101) => {}
            Some(503) => {
                return Err(Trouble::failed(
                    "the server takes no more connections now (limits.sessions_max), or shuts down",
                ));
            }
            status => {
                let status = status.map_or_else(|| "no HTTP".to_owned(), |status| status.to_string());
                return Err(Trouble::Failed(format!(
                    "answered {status} in place of 101: the proxy does not pass WebSockets on (Upgrade, Connection, HTTP/1.1)"
                )));
            }
        }
        let mut socket = Self(stream);
        let hello =
            ClientText::Hello { v: VERSION, client: Some("switchyard-doctor".to_owned()), resume: None };
        socket.say(&hello).await.map_err(|error| closed(&error))?;
        match socket.hear().await? {
            Heard::Text(ServerText::Welcome { .. }) => Ok(socket),
            _ => Err(Trouble::failed("the server does not answer hello by welcome: is it another version?")),
        }
    }

    /// Joins a room with an offer, and hears what a session is told.
    pub(super) async fn join(&mut self, access: &Access) -> Result<Told, Trouble> {
        let Access { token, room } = access.clone();
        let offer = Some(Description { pc: 1, sdp: ice::offer() });
        let join = ClientText::Join { id: 1, room, token, offer, follow: None, signing_key: None };
        self.say(&join).await.map_err(|error| Trouble::Failed(words(&error)))?;
        let mut ice = Ice::default();
        loop {
            match self.hear().await? {
                Heard::Text(ServerText::Session { ice: told, .. }) => ice = told.unwrap_or_default(),
                Heard::Text(ServerText::Answer(answer)) => return Ok(Told { ice, answer: Ok(answer.sdp) }),
                Heard::Text(ServerText::Error(refusal)) if refusal.id == Some(1) => {
                    return Err(refused(refusal.code, &refusal.message));
                }
                Heard::Text(ServerText::Error(refusal)) => {
                    return Ok(Told { ice, answer: Err((refusal.code, refusal.message)) });
                }
                Heard::Refused(code, sentence) => return Err(refused(code, &sentence)),
                Heard::Text(_) | Heard::Other => {}
            }
        }
    }

    /// Ends the session at once, so that nobody sees it for longer.
    pub(super) async fn bye(mut self) {
        let _ = self.say(&ClientText::Bye).await;
        let _ = self.write(CLOSE, &1000_u16.to_be_bytes()).await;
    }

    async fn say(&mut self, text: &ClientText) -> io::Result<()> {
        self.write(TEXT, to_json(text).as_bytes()).await
    }

    /// A frame with a mask of zeros: nothing is to be hidden.
    async fn write(&mut self, opcode: u8, payload: &[u8]) -> io::Result<()> {
        let mut frame = vec![0x80 | opcode];
        match u16::try_from(payload.len()) {
            Ok(length @ 0..126) => frame.push(0x80 | length as u8),
            Ok(length) => {
                frame.push(0x80 | 126);
                frame.extend_from_slice(&length.to_be_bytes());
            }
            Err(_) => return Err(io::ErrorKind::InvalidInput.into()),
        }
        frame.extend_from_slice(&[0; 4]);
        frame.extend_from_slice(payload);
        self.0.write_all(&frame).await
    }

    async fn hear(&mut self) -> Result<Heard, Trouble> {
        let (opcode, payload) = self.read().await.map_err(|error| Trouble::Failed(words(&error)))?;
        Ok(match opcode {
            TEXT => serde_json::from_slice(&payload).map_or(Heard::Other, Heard::Text),
            BINARY => {
                refusal_in(payload.into()).map_or(Heard::Other, |(code, words)| Heard::Refused(code, words))
            }
            CLOSE => {
                let reason = String::from_utf8_lossy(payload.get(2..).unwrap_or_default());
                return Err(Trouble::Failed(format!("the server closes the WebSocket: {reason}")));
            }
            _ => Heard::Other,
        })
    }

    async fn read(&mut self) -> io::Result<(u8, Vec<u8>)> {
        let opcode = self.0.read_u8().await? & 0x0f;
        let length = match self.0.read_u8().await? {
            126 => self.0.read_u16().await?.into(),
            127 => self.0.read_u64().await?,
            short => short.into(),
        };
        if length > SOCKET_MESSAGE_BYTES as u64 {
            return Err(io::Error::other("a message of the server is too long"));
        }
        let mut payload = vec![0; length as usize];
        self.0.read_exact(&mut payload).await?;
        Ok((opcode, payload))
    }
}

/// What the server says.
enum Heard {
    Text(ServerText),
    /// The room refuses.
    Refused(Code, String),
    Other,
}

fn refusal_in(message: Bytes) -> Option<(Code, String)> {
    Frames::new(message).flatten().find_map(|frame| match frame {
        Frame::Reliable { body: Reliable::Chunk(header, payload), .. } if header.kind == Kind::Control => {
            match serde_json::from_slice(&payload).ok()? {
                ServerControl::Refused { code, message, .. } => Some((code, message)),
                _ => None,
            }
        }
        _ => None,
    })
}

fn refused(code: Code, sentence: &str) -> Trouble {
    let advice = match code {
        Code::TokenUnknownKey => "the server has no such API key (keys)",
        Code::TokenSignature => "the secret is not that of the server's API key (keys)",
        Code::TokenExpired | Code::TokenNotYetValid => "take a fresh token, and compare the clocks",
        Code::TokenOtherRoom => "name the token's room by --room",
        Code::Overloaded | Code::RoomFull => "the server or the room is full (limits)",
        _ => "take another token",
    };
    Trouble::Failed(format!("the join is refused ({code}): {sentence}; {advice}"))
}
