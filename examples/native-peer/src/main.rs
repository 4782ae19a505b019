//! A native peer: a program that joins a room over a WebRTC data channel and sends every message back to its author.
//!
//! It uses the crates `webrtc` (ICE, DTLS, SCTP, data channels), `tokio-tungstenite` (the WebSocket) and
//! `switchyard-signaling` (the protocol). `docs/native-peers.md` goes through it.

mod peer;
mod session;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use futures_util::{SinkExt as _, StreamExt as _};
use peer::Peer;
use session::{Event, Pipe, Session};
use switchyard_signaling::{
    frame::Target,
    limits,
    message::{ClientText, Description, ServerControl, ServerText, to_json},
};
use tokio::{
    net::TcpStream,
    time::{interval, sleep_until},
};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async, tungstenite};
use webrtc::data_channel::DataChannelEvent;

/// Joins a room and echoes what it is sent.
#[derive(Parser)]
struct Arguments {
    /// Where the server is
    #[arg(long, default_value = "http://127.0.0.1:7880")]
    url: String,
    /// Which room to join
    #[arg(long, default_value = "lobby")]
    room: String,
    /// The token to join with; without one a development server is asked
    #[arg(long)]
    token: Option<String>,
    /// Who to be, where a development server is asked
    #[arg(long, default_value = "echo")]
    user: String,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let token = match &arguments.token {
        Some(token) => token.clone(),
        None => development_token(&arguments)?,
    };
    tokio::runtime::Runtime::new()?.block_on(echo(&arguments, token))
}

fn development_token(Arguments { url, room, user, .. }: &Arguments) -> Result<String> {
    let request = ureq::get(format!("{url}/v1/dev/token")).query("room", room).query("user", user);
    let mut answer = request.call().context("no token; outside development, pass one with --token")?;
    let answer: serde_json::Value = serde_json::from_str(&answer.body_mut().read_to_string()?)?;
    Ok(answer["token"].as_str().context("the answer has no token")?.to_owned())
}

async fn echo(arguments: &Arguments, token: String) -> Result<()> {
    // The WebSocket says hello …
    let url = arguments.url.replacen("http", "ws", 1) + "/v1/connect";
    let (mut socket, _) = connect_async(&url).await.with_context(|| format!("cannot connect to {url}"))?;
    let client = Some("native-peer".to_owned());
    send_text(&mut socket, &ClientText::Hello { v: limits::VERSION, client, resume: None }).await?;
    let welcome = socket.next().await.context("the server closed the WebSocket")??;
    let ServerText::Welcome { limits, ping_interval_ms, .. } = serde_json::from_str(welcome.to_text()?)?
    else {
        bail!("the server refuses: {welcome}");
    };

    // … and joins, with the offer of a peer connection. From here on the room's frames go over the WebSocket.
    let mut number = 1;
    let (mut peer, sdp) = Peer::new().await?;
    let (room, offer) = (arguments.room.clone(), Some(Description { pc: number, sdp }));
    send_text(&mut socket, &ClientText::Join { id: 1, room, token, offer, follow: None, signing_key: None })
        .await?;
    let mut session = Session::new(Instant::now(), &limits);
    let mut users = BTreeMap::new();
    let mut ping = interval(Duration::from_millis(ping_interval_ms.max(1)));
    let mut interrupt = std::pin::pin!(tokio::signal::ctrl_c());

    loop {
        while let Some(event) = session.poll_event() {
            react(event, &mut session, &mut users)?;
        }
        while let Some(message) = session.poll_message(Pipe::Socket) {
            socket.send(message.freeze().into()).await?;
        }
        while let Some((pipe, message)) = session.poll_lossy() {
            match pipe {
                Pipe::Socket => socket.send(message.freeze().into()).await?,
                // What finds the buffer full is lost, as the lane's name says.
                Pipe::Channel => drop(peer.lossy.try_send(message).await),
            }
        }
        tokio::select! {
            message = socket.next() => match message.context("the server closed the WebSocket")?? {
                tungstenite::Message::Binary(message) => session.handle_message(Instant::now(), Pipe::Socket, message)?,
                tungstenite::Message::Text(text) => match serde_json::from_str(&text)? {
                    ServerText::Answer(answer) if answer.pc == number => peer.answer(answer.sdp).await?,
                    // The server has given the peer connection up. Another one may find a way.
                    ServerText::Renegotiate { .. } => {
                        session.leave_channel();
                        peer.connection.close().await?;
                        let (next, sdp) = Peer::new().await?;
                        (peer, number) = (next, number + 1);
                        send_text(&mut socket, &ClientText::Offer(Description { pc: number, sdp })).await?;
                    }
                    // What names a request is about the join; there is no other.
                    ServerText::Error(refusal) if refusal.id.is_some() => bail!("refused: {}", refusal.message),
                    ServerText::Error(refusal) => eprintln!("refused: {}", refusal.message),
                    ServerText::Draining { .. } => bail!("the server is shutting down"),
                    _ => {}
                },
                tungstenite::Message::Close(frame) => bail!("the server closed the WebSocket: {frame:?}"),
                _ => {}
            },
            Some(event) = peer.reliable.poll() => match event {
                DataChannelEvent::OnOpen => session.move_to(Pipe::Channel),
                DataChannelEvent::OnMessage(message) => {
                    session.handle_message(Instant::now(), Pipe::Channel, message.data.freeze())?;
                }
                DataChannelEvent::OnClose => session.leave_channel(),
                _ => {}
            },
            Some(event) = peer.lossy.poll() => if let DataChannelEvent::OnMessage(message) = event {
                session.handle_message(Instant::now(), Pipe::Channel, message.data.freeze())?;
            },
            // What the channel has no room for stays in the session, where it can still take the WebSocket.
            Ok(()) = peer.reliable.writable(), if session.has_message(Pipe::Channel) => {
                if let Some(message) = session.poll_message(Pipe::Channel)
                    && peer.reliable.send(message).await.is_err()
                {
                    session.leave_channel();
                }
            },
            () = sleep_until(session.poll_timeout().into()) => session.handle_timeout(Instant::now()),
            _ = ping.tick() => send_text(&mut socket, &ClientText::Ping { t: 0 }).await?,
            _ = &mut interrupt => break,
        }
    }

    // With this the session ends at once, and the others see that it left.
    send_text(&mut socket, &ClientText::Bye).await?;
    peer.connection.close().await?;
    Ok(socket.close(None).await?)
}

/// What this program does with what comes from the room: the only part that is about echoing.
fn react(event: Event, session: &mut Session, users: &mut BTreeMap<u32, String>) -> Result<()> {
    match event {
        Event::Attached(pipe) => eprintln!("attached: {pipe:?}"),
        Event::Control(ServerControl::Joined { room, members, .. }) => {
            eprintln!("joined {room}, where {} others are", members.len());
            users.extend(members.into_iter().map(|member| (member.member, member.user)));
        }
        Event::Control(ServerControl::MemberJoined { member }) => {
            drop(users.insert(member.member, member.user))
        }
        Event::Control(ServerControl::MemberLeft { member, .. }) => drop(users.remove(&member)),
        Event::Control(ServerControl::Left { reason }) => bail!("out of the room: {reason:?}"),
        Event::Control(ServerControl::Refused { id: Some(_), message, .. }) => bail!("refused: {message}"),
        Event::Control(ServerControl::Refused { message, .. }) => eprintln!("refused: {message}"),
        Event::Control(_) => {}
        Event::Data { reliable, message } => {
            // The last messages of a member may come after its leaving.
            let Some(user) = users.get(&message.sender) else { return Ok(()) };
            let (room, stream, text, target) =
                (message.room, message.stream, message.text, Target::Users(vec![user.clone()]));
            if !reliable {
                session.send_lossy(room, stream, target, text, &message.payload);
            } else if !session.send(Instant::now(), room, stream, target, text, message.payload) {
                eprintln!("a message of {user} is not echoed: the server does not keep up");
            }
        }
    }
    Ok(())
}

async fn send_text(socket: &mut WebSocketStream<MaybeTlsStream<TcpStream>>, text: &ClientText) -> Result<()> {
    Ok(socket.send(to_json(text).into()).await?)
}
