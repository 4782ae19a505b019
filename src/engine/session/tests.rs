//! What a session does with its pipes, a frame at a time.

use super::{
    super::doubt::{PATIENCE, PATIENCE_SEVERAL, REQUESTED, RTT_MOST, SEVERAL},
    *,
};
use crate::names::ShardId;

fn session(start: Instant) -> Session {
    let limits = SessionLimits {
        announced: Limits::default(),
        lossy_queue_bytes: 0,
        messages_per_second: 0,
        message_burst: 1,
        problems: 1,
    };
    let id = SessionId { shard: ShardId(0), slot: 0, serial: 1 };
    Session::new(id, ("t".into(), "u".into()), b"secret", Arc::new(limits), start)
}

fn something() -> ServerControl {
    ServerControl::Refused {
        id: None,
        stream: None,
        code: Code::RateLimited,
        message: String::new(),
        retry_after_ms: None,
    }
}

/// The client sends one frame.
fn takes(session: &mut Session, came: Came, now: Instant, put: impl FnOnce(&mut BytesMut)) -> Vec<Event> {
    let (mut message, mut events) = (BytesMut::new(), Vec::new());
    put(&mut message);
    session.handle_message(came, message.freeze(), now, &mut events);
    events
}

#[test]
fn a_probe_on_the_unordered_channel_is_answered_there() {
    let now = Instant::now();
    let mut session = session(now);
    takes(&mut session, Came::Ordered, now, |out| frame::put_attach(out, 2, 0));
    session.fill((1000, 1000), now, &mut BytesMut::new());
    let events = takes(&mut session, Came::Unordered, now, |out| frame::put_ping(out, 7));
    assert!(matches!(events[..], [Event::Pong(7)]), "{events:?}");
    assert!(!session.is_ready(), "nothing for the lane's way");
    assert!(takes(&mut session, Came::Ordered, now, |out| frame::put_ping(out, 8)).is_empty());
    assert!(session.is_ready());
}

#[test]
fn a_client_that_acknowledges_nothing_over_the_channel_is_asked_over_the_websocket() {
    let ms = Duration::from_millis;
    let start = Instant::now();
    let mut session = session(start);
    assert_eq!(session.doubt_at(start), None, "on the WebSocket");
    takes(&mut session, Came::Ordered, start, |out| frame::put_attach(out, 2, 0));
    assert_eq!(session.doubt_at(start), None, "nothing waits");
    let sent = start + ms(5_000);
    session.tell(0, &something(), sent).unwrap();
    session.fill((1000, 1000), sent, &mut BytesMut::new());
    assert_eq!(session.doubt_at(start), Some(sent + PATIENCE));
    // Packets come: the frames are only not acknowledged yet.
    let heard = sent + ms(200);
    assert_eq!(session.doubt_at(heard), Some(heard + PATIENCE));
    session.round_trip.set(ms(100));
    assert_eq!(session.doubt_at(heard), Some(heard + PATIENCE + ms(25)));
    session.round_trip.set(ms(60_000));
    let due = sent + PATIENCE + RTT_MOST + RTT_MOST / 4;
    assert_eq!(session.doubt_at(heard), Some(due));
    let mut out = BytesMut::new();
    session.ask(due, &mut out);
    let asked = Frames::new(out.freeze()).next();
    assert!(matches!(asked, Some(Ok(Frame::Ping(DOUBT_NONCE)))), "{asked:?}");
    assert_eq!((session.doubt_at(heard), session.counts.doubts), (Some(due + PATIENCE), 1));
    // The answer is no sample of the round trip on the attached pipe.
    takes(&mut session, Came::Socket, due, |out| frame::put_pong(out, DOUBT_NONCE));
    assert_eq!(session.round_trip.smoothed(), Some(ms(60_000)));
    takes(&mut session, Came::Socket, due, |out| frame::put_ack(out, 1));
    assert_eq!(session.doubt_at(heard), None);
}

#[test]
fn a_client_that_answers_nothing_of_several_messages_is_doubted_sooner() {
    let ms = Duration::from_millis;
    let start = Instant::now();
    let mut session = session(start);
    takes(&mut session, Came::Ordered, start, |out| frame::put_attach(out, 2, 0));
    session.fill((1000, 1000), start, &mut BytesMut::new());
    let heard = start + ms(10);
    let mut sent = heard;
    for several in 0..SEVERAL {
        let patience = if several == 0 { None } else { Some(heard + ms(1) + PATIENCE) };
        assert_eq!(session.doubt_at(heard), patience);
        sent += ms(1);
        session.tell(0, &something(), sent).unwrap();
        session.fill((1000, 1000), sent, &mut BytesMut::new());
    }
    assert_eq!(session.doubt_at(heard), Some(heard + ms(1) + PATIENCE_SEVERAL));
    assert_eq!(session.doubt_at(sent), Some(sent + PATIENCE), "that was an answer");
}

#[test]
fn where_answers_often_take_longer_the_channel_is_doubted_later() {
    let ms = Duration::from_millis;
    let start = Instant::now();
    let mut session = session(start);
    takes(&mut session, Came::Ordered, start, |out| frame::put_attach(out, 2, 0));
    let mut now = start + ms(5_000);
    session.tell(0, &something(), now).unwrap();
    session.fill((1000, 1000), now, &mut BytesMut::new());
    session.heard(now);
    for late in [40, 360, 20, 300, 60, 340] {
        now += ms(late);
        session.heard(now);
        session.heard(now);
    }
    let due = session.doubt_at(now).unwrap();
    assert!((ms(350)..=ms(400)).contains(&(due - now)), "{:?}", due - now);
    // They are soon again.
    for _ in 0..40 {
        now += ms(40);
        session.heard(now);
    }
    assert_eq!(session.doubt_at(now), Some(now + PATIENCE));
}

#[test]
fn what_is_not_acknowledged_is_copied_to_the_websocket_while_the_channel_is_doubted() {
    let start = Instant::now();
    let mut session = session(start);
    takes(&mut session, Came::Ordered, start, |out| frame::put_attach(out, 2, 0));
    let send = |session: &mut Session| {
        session.tell(0, &something(), start).unwrap();
        session.fill((1000, 1000), start, &mut BytesMut::new());
    };
    (0..3).for_each(|_| send(&mut session));
    takes(&mut session, Came::Ordered, start, |out| frame::put_ack(out, 1));
    let copied = |session: &mut Session, heard, room| {
        let mut out = BytesMut::new();
        let waits = session.fill_copies(heard, heard, room, &mut out);
        let seq = |frame| match frame {
            Ok(Frame::Reliable { lane_seq, .. }) => lane_seq,
            other => panic!("{other:?}"),
        };
        (Frames::new(out.freeze()).map(seq).collect::<Vec<_>>(), waits)
    };
    let heard = start;
    assert_eq!(copied(&mut session, heard, 1000), (vec![], false), "nobody doubts it");
    let due = session.doubt_at(heard).unwrap();
    session.ask(due, &mut BytesMut::new());
    assert_eq!(copied(&mut session, heard, 10), (vec![], true), "no room");
    assert_eq!(copied(&mut session, heard, 1000), (vec![2, 3], false));
    assert_eq!(copied(&mut session, heard, 1000), (vec![], false), "once");
    send(&mut session);
    takes(&mut session, Came::Socket, due, |out| frame::put_ack(out, 2));
    assert_eq!(copied(&mut session, heard, 1000), (vec![4], false), "what is new, too");
    session.ask(due + PATIENCE, &mut BytesMut::new());
    assert_eq!(copied(&mut session, heard, 1000), (vec![], false), "a doubt that goes on");
    send(&mut session);
    assert_eq!(copied(&mut session, due + PATIENCE, 1000), (vec![], false), "something has come");
    session.ask(due + 2 * PATIENCE, &mut BytesMut::new());
    assert_eq!(copied(&mut session, due + PATIENCE, 1000), (vec![3, 4, 5], false), "another doubt");
    // Its packets come, but it says that ours do not.
    send(&mut session);
    let heard = due + 2 * PATIENCE;
    assert_eq!(copied(&mut session, heard, 1000), (vec![], false));
    takes(&mut session, Came::Socket, heard, |out| frame::put_ping(out, 7));
    assert_eq!(copied(&mut session, heard, 1000), (vec![], false), "a probe that was late");
    takes(&mut session, Came::Socket, heard, |out| frame::put_ping(out, DOUBT_NONCE));
    assert_eq!(copied(&mut session, heard, 1000), (vec![3, 4, 5, 6], false));
    send(&mut session);
    assert_eq!(copied(&mut session, heard + REQUESTED, 1000), (vec![], false), "that was long ago");
    session.ask(heard + PATIENCE, &mut BytesMut::new());
    takes(&mut session, Came::Socket, due, |out| frame::put_attach(out, 3, 5));
    assert_eq!(copied(&mut session, due + PATIENCE, 1000), (vec![], false), "it has been left");
    assert_eq!(session.counts.copies, 10);
}

#[test]
fn a_client_is_probed_every_two_seconds_at_most_however_often_it_acknowledges() {
    let start = Instant::now();
    let mut session = session(start);
    let control = something();
    let mut probed = Vec::new();
    for step in 0..100 {
        let now = start + Duration::from_millis(100) * step;
        // Two messages, and only then the acknowledgement of both.
        for _ in 0..2 {
            session.tell(0, &control, now).unwrap();
            let mut out = BytesMut::new();
            session.fill((1000, 1000), now, &mut out);
            let mut frames = Frames::new(out.freeze());
            probed.extend(frames.by_ref().filter(|frame| matches!(frame, Ok(Frame::Ping(_)))).map(|_| now));
        }
        let mut ack = BytesMut::new();
        frame::put_ack(&mut ack, 2 * (step + 1));
        session.handle_message(Came::Socket, ack.freeze(), now, &mut Vec::new());
    }
    assert_eq!(probed.len(), 5);
    assert!(probed.windows(2).all(|two| two[1] - two[0] >= round_trip::INTERVAL));
}

#[test]
fn what_is_on_its_way_over_a_new_websocket_is_not_sent_there_twice() {
    let now = Instant::now();
    let mut session = session(now);
    let numbers = |session: &mut Session| {
        let mut out = BytesMut::new();
        session.fill((10_000, 10_000), now, &mut out);
        let numbers: Vec<u32> = Frames::new(out.freeze())
            .filter_map(|frame| match frame {
                Ok(Frame::Reliable { lane_seq, .. }) => Some(lane_seq),
                _ => None,
            })
            .collect();
        numbers
    };
    for _ in 0..3 {
        session.tell(0, &something(), now).unwrap();
    }
    assert_eq!(numbers(&mut session), [1, 2, 3]);
    // Another WebSocket resumes the session; the client had the first.
    session.fall_back(Via::Socket);
    assert_eq!(numbers(&mut session), [1, 2, 3]);
    takes(&mut session, Came::Socket, now, |out| frame::put_attach(out, 2, 1));
    assert_eq!(numbers(&mut session), [0_u32; 0]);
    assert_eq!(session.out.unacknowledged(), 2);
    // Where another pipe was in use, what that has not brought is sent again.
    takes(&mut session, Came::Ordered, now, |out| frame::put_attach(out, 3, 1));
    assert_eq!(numbers(&mut session), [2, 3]);
    takes(&mut session, Came::Socket, now, |out| frame::put_attach(out, 4, 2));
    assert_eq!(numbers(&mut session), [3]);
}
