//! The kinds of attacks, each one attacker's connection until it is cut or has done its harm.

use std::time::{Duration, Instant};

use bytes::Bytes;
use switchyard_signaling::{frame::Target, limits, message::ServerControl};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UdpSocket,
    time::{sleep_until, timeout},
};
use tokio_tungstenite::tungstenite::Message;

use super::{Attacker, Cut, OPENING, listen, say};
use crate::browser::{Browser, BrowserConfig, Event, Lane, Outgoing, SendError, SocketOutput};

/// Bytes of a flooder's messages.
const FLOOD_BYTES: usize = 512;
/// What a flooder gives its WebSocket in one go.
const GO: u32 = 64;
/// The longest garbage.
const GARBAGE_BYTES: u64 = 1_200;
/// First bytes of STUN, ZRTP, DTLS, TURN channels and RTP (RFC 7983 §7): garbage shall come past the first look.
const FIRST_BYTES: [u8; 8] = [0, 1, 3, 16, 20, 22, 64, 128];
/// How long an oversize message's sender waits to be told.
const TOLD: Duration = Duration::from_secs(1);

/// A member of the attackers' room that sends as much as it can get rid of, up to its rate.
pub(super) async fn flood(attacker: &mut Attacker) -> Cut {
    let token = attacker.token().ok_or("no token for the attackers' room")?.to_owned();
    let mut socket = attacker.open().await?;
    let mut browser = Browser::new(Instant::now(), BrowserConfig::default());
    browser.handle_socket_open(Instant::now());
    browser.join(Instant::now(), &attacker.ground.room, &token);
    let payload = Bytes::from(attacker.bytes(FLOOD_BYTES));
    let (mut room, mut due) = (None, Instant::now());
    loop {
        while let Some(output) = browser.poll_socket() {
            let message = match output {
                SocketOutput::Text(text) => Message::text(text),
                SocketOutput::Binary(frames) => Message::binary(frames),
            };
            say(&mut socket, message).await?;
        }
        let next = browser.poll_timeout().unwrap_or(attacker.until).min(due + attacker.interval * GO);
        listen(&mut socket, next, |message| match message {
            Message::Text(text) => browser.handle_text(Instant::now(), text.as_str()),
            Message::Binary(frames) => browser.handle_binary(Instant::now(), frames),
            _ => {}
        })
        .await?;
        let now = Instant::now();
        browser.handle_timeout(now);
        while let Some(event) = browser.poll_event() {
            match event {
                Event::Control(_, ServerControl::Joined { handle, .. }) => room = Some(handle),
                Event::Control(_, ServerControl::Refused { code, .. }) => attacker.note(code.as_str()),
                Event::Refused(refusal) => attacker.note(refusal.code.as_str()),
                Event::SessionLost => return Err("session lost".to_owned()),
                _ => {}
            }
        }
        let Some(room) = room else { continue };
        while due <= now {
            due += attacker.interval;
            let (lane, target, payload) = (Lane::Reliable, Target::Room, payload.clone());
            match browser.send(now, Outgoing { room, lane, stream: 0, target, text: false, payload }) {
                Ok(()) => attacker.sent(FLOOD_BYTES),
                Err(SendError::BufferFull) => {
                    // The server does not take more: that is an answer too.
                    attacker.note("no room to send");
                    due = now + attacker.interval * GO;
                }
                Err(error) => return Err(error.to_string()),
            }
        }
    }
}

/// Random bytes, as WebSocket messages and, where it is known where to, as datagrams.
pub(super) async fn garbage(attacker: &mut Attacker) -> Cut {
    let mut socket = attacker.open().await?;
    let udp = match attacker.ground.udp {
        Some(server) => {
            let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let udp = UdpSocket::bind(any).await.map_err(|error| error.to_string())?;
            udp.connect(server).await.map_err(|error| error.to_string())?;
            Some(udp)
        }
        None => None,
    };
    let mut due = Instant::now();
    loop {
        let length = attacker.rng.below(GARBAGE_BYTES) as usize;
        let mut bytes = attacker.bytes(length);
        attacker.sent(bytes.len());
        match (&udp, attacker.rng.chance(0.5)) {
            (Some(udp), true) => {
                if let Some(first) = bytes.first_mut() {
                    *first = FIRST_BYTES[attacker.rng.below(FIRST_BYTES.len() as u64) as usize];
                }
                // What the kernel does not take does no harm.
                let _ = udp.send(&bytes).await;
            }
            (_, true) => say(&mut socket, Message::binary(bytes)).await?,
            (_, false) => {
                let text = String::from_utf8_lossy(&bytes).into_owned();
                say(&mut socket, Message::text(text)).await?;
            }
        }
        due += attacker.interval;
        let mut codes = Vec::new();
        let heard = listen(&mut socket, due, |message| codes.extend(code_in(&message))).await;
        codes.iter().for_each(|code| attacker.note(code));
        heard?;
    }
}

/// A message that is larger than any may be.
pub(super) async fn oversize(attacker: &mut Attacker) -> Cut {
    let mut socket = attacker.open().await?;
    let length = limits::SOCKET_MESSAGE_BYTES + 1 + attacker.rng.below(1024 * 1024) as usize;
    let message = Message::binary(vec![0; length]);
    attacker.sent(length);
    let pause = Instant::now() + attacker.interval;
    // The server may well cut it while it is being sent.
    let cut = match say(&mut socket, message).await {
        Ok(()) => listen(&mut socket, Instant::now() + TOLD, |_| {}).await,
        Err(cut) => Err(cut),
    };
    attacker.note(cut.as_ref().map_or_else(String::as_str, |()| "taken without a word"));
    sleep_until(pause.into()).await;
    Ok(())
}

/// A connection that is left at once: half of them before, half of them after the WebSocket is open.
pub(super) async fn storm(attacker: &mut Attacker) -> Cut {
    let pause = Instant::now() + attacker.interval;
    if attacker.rng.chance(0.5) {
        let connected = timeout(OPENING, attacker.ground.target.connect()).await;
        let connected = connected.map_err(|_| "not let in in time".to_owned())?;
        drop(connected.map_err(|error| format!("not let in: {}", error.kind()))?);
        attacker.count(|tally| tally.connections += 1);
    } else {
        drop(attacker.open().await?);
    }
    sleep_until(pause.into()).await;
    Ok(())
}

/// A request that comes a byte at a time and never ends.
pub(super) async fn slowloris(attacker: &mut Attacker) -> Cut {
    let connected = timeout(OPENING, attacker.ground.target.connect()).await;
    let connected = connected.map_err(|_| "not let in in time".to_owned())?;
    let mut stream = connected.map_err(|error| format!("not let in: {}", error.kind()))?;
    attacker.count(|tally| tally.connections += 1);
    let began = Instant::now();
    let request = b"GET /v1/connect HTTP/1.1\r\nhost: localhost\r\nx-a: ".iter().copied();
    let mut answer = [0; 256];
    for byte in request.chain(std::iter::repeat(b'a')) {
        let cut_after = || format!("cut after {} s", began.elapsed().as_secs());
        if stream.write_all(&[byte]).await.is_err() || stream.flush().await.is_err() {
            return Err(cut_after());
        }
        attacker.sent(1);
        // Whatever the server says to this, it is not going on.
        if timeout(attacker.interval, stream.read(&mut answer)).await.is_ok() {
            return Err(cut_after());
        }
    }
    Ok(())
}

/// The code in a refusal of the server.
fn code_in(message: &Message) -> Option<String> {
    let Message::Text(text) = message else { return None };
    let value: serde_json::Value = serde_json::from_str(text.as_str()).ok()?;
    value.get("code")?.as_str().map(str::to_owned)
}
