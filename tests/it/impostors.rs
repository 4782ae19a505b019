//! Clients that use what is another's, or of another time: a sender's name (SIG4), a room that they are not in, a resume
//! ticket (ACL1), a generation that is over. Each is refused with its code, and whose it was notices nothing.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use serde_json::{Value, json};
use switchyard::Running;
use switchyard_signaling::{
    Code,
    frame::{self, Kind, LossyHeader, Reliable, Target},
    message::{Refusal, ServerControl, ServerText},
};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use crate::{
    api::Backend,
    doors::{Got, Raw, SECOND, server},
};

/// What a client has been told.
#[derive(Debug)]
enum Heard {
    Text(Box<ServerText>),
    Control(u16, Box<ServerControl>),
    Data(Bytes),
    Closed(u16),
}

/// A client with a session.
struct Client {
    raw: Raw,
    heard: VecDeque<Heard>,
    session: String,
    ticket: String,
    member: u32,
}

impl Client {
    async fn join(server: &Running, room: &str, user: &str) -> Self {
        let mut client = Self::greet(server, &json!({"type": "hello", "v": 1})).await;
        client.until(|heard| is_welcome(heard, false)).await;
        client.raw.ask_to_join(room, user).await;
        let session = client.until(|heard| matches!(heard, Heard::Text(_))).await;
        let Heard::Text(text) = session else { unreachable!() };
        let ServerText::Session { session, ticket, .. } = *text else { panic!("{text:?}") };
        (client.session, client.ticket) = (session, ticket);
        client.member = client
            .find(|heard| match heard {
                Heard::Control(1, control) => match **control {
                    ServerControl::Joined { member, .. } => Some(member),
                    _ => None,
                },
                _ => None,
            })
            .await;
        client
    }

    /// Somebody who wants to resume this session with this ticket.
    async fn resume(server: &Running, session: &str, ticket: &str) -> Self {
        let hello = json!({"type": "hello", "v": 1, "resume": {"session": session, "ticket": ticket}});
        Self::greet(server, &hello).await
    }

    async fn greet(server: &Running, hello: &Value) -> Self {
        let mut raw = Raw::connect(server.address, None).await;
        raw.text(&hello.to_string()).await;
        let (session, ticket) = (String::new(), String::new());
        Self { raw, heard: VecDeque::new(), session, ticket, member: 0 }
    }

    async fn find<T>(&mut self, find: impl Fn(&Heard) -> Option<T>) -> T {
        let heard = self.until(|heard| find(heard).is_some()).await;
        find(&heard).unwrap()
    }

    /// The next that is wanted; what comes before it is passed over.
    async fn until(&mut self, wanted: impl Fn(&Heard) -> bool) -> Heard {
        loop {
            let Some(heard) = self.heard.pop_front() else {
                self.listen().await;
                continue;
            };
            if wanted(&heard) {
                return heard;
            }
        }
    }

    async fn listen(&mut self) {
        match timeout(10 * SECOND, self.raw.next()).await.expect("something comes") {
            Got::Text(text) => self.heard.push_back(Heard::Text(serde_json::from_str(&text).unwrap())),
            Got::Close(code) => self.heard.push_back(Heard::Closed(code)),
            Got::Binary(message) => {
                for body in self.raw.reliable(message) {
                    let Reliable::Chunk(header, payload) = body else { continue };
                    self.heard.push_back(match header.kind {
                        Kind::Control => {
                            Heard::Control(header.room, serde_json::from_slice(&payload).unwrap())
                        }
                        _ => Heard::Data(payload),
                    });
                }
            }
            other => panic!("{other:?}"),
        }
    }

    async fn frames(&mut self, put: impl FnOnce(&mut BytesMut)) {
        let mut out = BytesMut::new();
        put(&mut out);
        self.raw.write(2, &out).await.unwrap();
    }

    /// A request in the room with this handle.
    async fn ask(&mut self, room: u16, request: Value) {
        let (request, numbers) = (request.to_string(), (self.raw.seq, self.raw.ack));
        self.raw.seq += 1;
        self.frames(|out| {
            let first = Some((&Target::Room, request.len()));
            frame::put_chunk(out, Kind::Control, true, numbers, room, 0, 0, first, true, request.as_bytes());
        })
        .await;
    }

    /// The refusal on the WebSocket that comes next.
    async fn error(&mut self) -> Refusal {
        self.find(|heard| match heard {
            Heard::Text(text) => match &**text {
                ServerText::Error(refusal) => Some(refusal.clone()),
                _ => None,
            },
            _ => None,
        })
        .await
    }

    /// The code of the refusal in the lane that answers this request.
    async fn refused(&mut self, asked: u32) -> Code {
        self.find(|heard| match heard {
            Heard::Control(_, control) => match **control {
                ServerControl::Refused { id, code, .. } if id == Some(asked) => Some(code),
                _ => None,
            },
            _ => None,
        })
        .await
    }

    /// The next resume ticket, acknowledged.
    async fn renewed(&mut self) -> String {
        let ticket = self
            .find(|heard| match heard {
                Heard::Control(0, control) => match &**control {
                    ServerControl::Ticket { ticket } => Some(ticket.clone()),
                    _ => None,
                },
                _ => None,
            })
            .await;
        self.raw.acknowledge().await.unwrap();
        ticket
    }
}

fn is_welcome(heard: &Heard, is_back: bool) -> bool {
    matches!(heard, Heard::Text(text) if matches!(**text, ServerText::Welcome { resumed, .. } if resumed == is_back))
}

/// What one sends reaches the other.
async fn talk(from: &mut Client, to: &mut Client) {
    from.raw.send(b"still here").await.unwrap();
    to.until(|heard| matches!(heard, Heard::Data(payload) if payload == "still here")).await;
}

/// The metrics come to hold these lines.
async fn counted(server: &Running, lines: &[&str]) {
    let mut metrics = String::new();
    for _ in 0..100 {
        let answer = Backend(server.address).without_key("GET", "/metrics", Value::Null).await;
        metrics = String::from_utf8_lossy(&answer.body).into_owned();
        if lines.iter().all(|line| metrics.contains(line)) {
            return;
        }
        sleep(SECOND / 20).await;
    }
    panic!("{lines:?} are not all in:\n{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_that_was_used_an_invented_one_and_another_sessions_open_nothing() {
    let folder = TempDir::new().unwrap();
    let server = server(&folder).await;
    let mut ann = Client::join(&server, "room", "ann").await;
    let mut ben = Client::join(&server, "room", "ben").await;
    let (session, first) = (ann.session.clone(), ann.ticket.clone());

    // The answer is lost on its way, twice: the same ticket is still good.
    let mut lost = Client::resume(&server, &session, &first).await;
    lost.until(|heard| is_welcome(heard, true)).await;
    ann.until(|heard| matches!(heard, Heard::Closed(4409))).await;
    let mut again = Client::resume(&server, &session, &first).await;
    again.until(|heard| is_welcome(heard, true)).await;
    lost.until(|heard| matches!(heard, Heard::Closed(4409))).await;
    again.raw.seq = ann.raw.seq;
    let second = again.renewed().await;
    talk(&mut again, &mut ben).await;

    for (ticket, code) in [
        (first.as_str(), Code::TicketUsed),
        (ben.ticket.as_str(), Code::UnknownSession),
        ("2.00000000000000000000000000000000", Code::UnknownSession),
        ("", Code::UnknownSession),
    ] {
        let mut stranger = Client::resume(&server, &session, ticket).await;
        let refusal = stranger.error().await;
        assert_eq!(refusal.code, code, "{ticket}: {}", refusal.message);
        stranger.until(|heard| is_welcome(heard, false)).await;
        // It may make a session of its own.
        stranger.raw.ask_to_join("another", "eve").await;
        let text = stranger.until(|heard| matches!(heard, Heard::Text(_))).await;
        let Heard::Text(text) = text else { unreachable!() };
        assert!(matches!(*text, ServerText::Session { session: own, .. } if own != session), "{ticket}");
    }
    counted(
        &server,
        &["switchyard_refusals_total{code=\"ticket_used\"} 1\n", "switchyard_resumes_total 2\n"],
    )
    .await;

    // Nobody was disturbed, and the newest ticket is good.
    talk(&mut again, &mut ben).await;
    let mut third = Client::resume(&server, &session, &second).await;
    third.until(|heard| is_welcome(heard, true)).await;
    assert_ne!(third.renewed().await, second);
    server.drain().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_names_another_as_the_sender_is_refused_and_nobody_hears_it() {
    let folder = TempDir::new().unwrap();
    let server = server(&folder).await;
    let mut ann = Client::join(&server, "room", "ann").await;
    let mut ben = Client::join(&server, "room", "ben").await;
    let mut eve = Client::join(&server, "room", "eve").await;
    let (forged, numbers) = (ann.member, (eve.raw.seq, eve.raw.ack));
    let payload = b"I am ann";
    eve.frames(|out| {
        let first = Some((&Target::Room, payload.len()));
        frame::put_chunk(out, Kind::Data, true, numbers, 1, forged, 1, first, true, payload);
    })
    .await;
    eve.raw.seq += 1;
    assert_eq!(eve.error().await.code, Code::BadFrame);
    eve.frames(|out| {
        let (room, stream, seq, target) = (1, 1, 1, Target::Room);
        frame::put_lossy(
            out,
            &LossyHeader { text: true, room, sender: forged, stream, seq, target },
            payload,
        );
    })
    .await;
    let refusal = eve.error().await;
    assert_eq!(refusal.code, Code::BadFrame);
    assert!(refusal.message.contains("sender"), "{}", refusal.message);
    // The first that ben hears of her is what she says in her own name.
    eve.raw.send(b"I am eve").await.unwrap();
    let said = ben.until(|heard| matches!(heard, Heard::Data(_))).await;
    assert!(matches!(&said, Heard::Data(payload) if payload == "I am eve"), "{said:?}");
    talk(&mut ann, &mut ben).await;
    server.drain().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_stay_in_their_room() {
    let folder = TempDir::new().unwrap();
    let server = server(&folder).await;
    let mut ann = Client::join(&server, "here", "ann").await;
    let mut ben = Client::join(&server, "here", "ben").await;
    let mut cyd = Client::join(&server, "there", "cyd").await;
    // By name and by number, of a room that ann is not in; and in a room that she is not in.
    let foreign = if [ann.member, ben.member].contains(&cyd.member) { 9_999 } else { cyd.member };
    for (id, room, to, code) in [
        (10, 1, json!({"to": "cyd"}), Code::NoSuchUser),
        (11, 1, json!({"to_member": foreign}), Code::NoSuchUser),
        (12, 2, json!({"to": "cyd"}), Code::NotInRoom),
        (13, 0, json!({"to": "cyd"}), Code::NotInRoom),
    ] {
        let mut request = json!({"type": "signal", "id": id, "data": {"sdp": "v=0"}});
        request.as_object_mut().unwrap().extend(to.as_object().unwrap().clone());
        ann.ask(room, request).await;
        assert_eq!(ann.refused(id).await, code, "{id}");
    }
    // The server says who it is, whatever the signal says.
    let data = json!({"from": ben.member, "user": "ben"});
    ann.ask(
        1,
        json!({"type": "signal", "id": 14, "to": "ben", "from": ben.member, "user": "ben", "data": data}),
    )
    .await;
    let signal = |heard: &Heard| match heard {
        Heard::Control(1, control) => match &**control {
            ServerControl::Signal { from, user, .. } => Some((*from, user.clone())),
            _ => None,
        },
        _ => None,
    };
    assert_eq!(ben.find(signal).await, (ann.member, "ann".to_owned()));
    // The first that cyd hears is the answer to what she asks herself.
    cyd.ask(1, json!({"type": "signal", "id": 15, "to": "nobody", "data": null})).await;
    let first = cyd.until(|heard| matches!(heard, Heard::Control(1, _))).await;
    assert_eq!(signal(&first), None, "{first:?}");
    server.drain().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attach_of_a_generation_that_is_over_changes_nothing() {
    let folder = TempDir::new().unwrap();
    let server = server(&folder).await;
    let mut ann = Client::join(&server, "room", "ann").await;
    let mut ben = Client::join(&server, "room", "ben").await;
    let ack = ann.raw.ack;
    ann.frames(|out| frame::put_attach(out, 5, ack)).await;
    for generation in [5, 4, 1, 0] {
        ann.frames(|out| frame::put_attach(out, generation, 0)).await;
        let refusal = ann.error().await;
        assert_eq!((refusal.code, refusal.fatal), (Code::StaleAttach, false), "{}", refusal.message);
    }
    talk(&mut ann, &mut ben).await;
    talk(&mut ben, &mut ann).await;
    server.drain().await.unwrap();
}
