//! A room seen from outside: actions in, outputs out.

use std::time::Duration;

use switchyard_signaling::event::{Content, EventKind};

use super::*;
use crate::{
    names::ShardId,
    signing_key,
    store::{KnownOrigin, Loaded},
};

struct World {
    room: Room,
    now: Instant,
}

fn session(slot: u32) -> SessionId {
    SessionId { shard: ShardId((slot % 2) as u16), slot, serial: slot }
}

/// What was delivered: receivers' slots, kind, text of the payload.
type Delivered = (Vec<u32>, Kind, String);

impl World {
    fn new() -> Self {
        let key = RoomKey { tenant: "t".into(), room: "r".into() };
        let (limits, now) = (RoomLimits { participants: 3, topics: 2 }, Instant::now());
        let settings = LogSettings::new(crate::names::WallClock::new(now, 0));
        Self { room: Room::new(key, limits, Arc::new(settings), 1, now), now }
    }

    fn grant(&self, user: &str, role: Role) -> Grant {
        Grant {
            user: user.into(),
            name: user.to_uppercase().into(),
            role,
            permissions: role.permissions(),
            expires: self.now + Duration::from_secs(60),
            signing_key: None,
        }
    }

    fn act(&mut self, slot: u32, action: Action) -> Vec<Delivered> {
        self.room.handle(session(slot), action, self.now);
        self.outputs()
    }

    fn outputs(&mut self) -> Vec<Delivered> {
        let mut delivered = Vec::new();
        while let Some(output) = self.room.poll() {
            if let Output::Deliver(Delivery { receivers, except, message, .. }) = output {
                let to = receivers.iter().filter(|receiver| Some(receiver.session) != except);
                let to = to.map(|receiver| receiver.session.slot).collect();
                delivered.push((to, message.kind, String::from_utf8_lossy(&message.payload).into_owned()));
            }
        }
        delivered
    }

    fn join(&mut self, slot: u32, user: &str, role: Role) -> Vec<Delivered> {
        let grant = self.grant(user, role);
        self.act(slot, Action::Join { handle: 1, id: 9, grant, follow: None })
    }

    fn send(&mut self, slot: u32, target: Target) -> Vec<Delivered> {
        let at = self.now;
        let outbound = Outbound { text: true, stream: 4, target, payload: "hi".into(), at };
        self.act(slot, Action::Send(Lane::Reliable, outbound))
    }

    fn control(&mut self, slot: u32, json: &str) -> Vec<Delivered> {
        self.act(slot, Action::Control(ClientControl::parse(json.as_bytes()).unwrap()))
    }
}

fn is(delivered: &Delivered, to: &[u32], words: &str) -> bool {
    delivered.0 == to && delivered.2.contains(words)
}

#[test]
fn a_joiner_learns_who_is_there_and_they_learn_of_the_joiner() {
    let mut world = World::new();
    world.join(1, "ann", Role::Editor);
    let told = world.join(2, "bob", Role::Viewer);
    assert!(is(&told[0], &[2], r#""type":"joined""#) && told[0].2.contains(r#""user":"ann""#), "{told:?}");
    assert!(
        is(&told[1], &[1], r#""type":"member_joined""#) && told[1].2.contains(r#""user":"bob""#),
        "{told:?}"
    );
}

#[test]
fn a_message_reaches_all_but_its_author() {
    let mut world = World::new();
    for (slot, user) in [(1, "ann"), (2, "bob"), (3, "eve")] {
        world.join(slot, user, Role::Editor);
    }
    assert_eq!(world.send(2, Target::Room), [(vec![1, 3], Kind::Data, "hi".to_owned())]);
}

#[test]
fn named_users_are_reached_on_all_their_sessions_and_nobody_else() {
    let mut world = World::new();
    for (slot, user) in [(1, "ann"), (2, "bob"), (3, "bob"), (4, "eve")] {
        world.join(slot, user, Role::Editor);
    }
    let to_bob = Target::Users(vec!["bob".into()]);
    assert_eq!(world.send(1, to_bob.clone())[0].0, [2, 3]);
    assert_eq!(world.send(2, to_bob)[0].0, [3]);
    let refused = world.send(1, Target::Users(vec!["bob".into(), "nobody".into()]));
    assert!(is(&refused[0], &[1], "no_such_user"));
}

#[test]
fn a_topic_reaches_its_subscribers_until_they_unsubscribe_or_leave() {
    let mut world = World::new();
    for (slot, user) in [(1, "ann"), (2, "bob"), (3, "eve")] {
        world.join(slot, user, Role::Editor);
    }
    let topic = || Target::Topic("cursors".into());
    for slot in [1, 2, 3] {
        world.control(slot, r#"{"type":"subscribe","id":1,"topics":["cursors"]}"#);
    }
    assert_eq!(world.send(1, topic())[0].0, [2, 3]);
    world.control(2, r#"{"type":"unsubscribe","id":2,"topics":["cursors","other"]}"#);
    assert_eq!(world.send(1, topic())[0].0, [3]);
    world.act(3, Action::Leave { reason: Code::Left, tell: false });
    assert!(world.send(1, topic())[0].0.is_empty());
    let refused = world.control(1, r#"{"type":"subscribe","id":3,"topics":["a","b"]}"#);
    assert!(is(&refused[0], &[1], "too_many_topics"));
    let refused = world.control(1, r#"{"type":"subscribe","id":3,"topics":[""]}"#);
    assert!(is(&refused[0], &[1], "bad_topic"));
}

#[test]
fn a_viewer_may_not_write_nor_signal() {
    let mut world = World::new();
    world.join(1, "ann", Role::Editor);
    world.join(2, "bob", Role::Viewer);
    let refused = world.send(2, Target::Room);
    assert!(
        refused.len() == 1 && is(&refused[0], &[2], "forbidden") && refused[0].2.contains(r#""stream":4"#)
    );
    let refused = world.control(2, r#"{"type":"signal","id":3,"to":"ann","data":1}"#);
    assert!(refused.len() == 1 && is(&refused[0], &[2], "forbidden"));
}

#[test]
fn a_signal_reaches_its_user_with_the_true_sender() {
    let mut world = World::new();
    world.join(1, "ann", Role::Editor);
    world.join(2, "bob", Role::Editor);
    let told = world.control(2, r#"{"type":"signal","id":3,"to":"ann","data":{"from":1,"user":"ann"}}"#);
    assert!(is(&told[0], &[1], r#""from":2,"user":"bob""#), "{told:?}");
    assert!(is(
        &world.control(2, r#"{"type":"signal","id":4,"to_member":7,"data":1}"#)[0],
        &[2],
        "no_such_user"
    ));
    assert!(is(&world.control(2, r#"{"type":"signal","id":4,"data":1}"#)[0], &[2], "malformed"));
}

#[test]
fn what_comes_from_a_session_that_is_no_member_reaches_nobody() {
    let mut world = World::new();
    world.join(1, "ann", Role::Editor);
    assert!(world.send(2, Target::Room).is_empty());
    assert!(world.control(2, r#"{"type":"signal","id":4,"to":"ann","data":1}"#).is_empty());
}

#[test]
fn a_full_room_refuses_new_users_but_not_a_further_session_of_one_inside() {
    let mut world = World::new();
    for (slot, user) in [(1, "ann"), (2, "bob"), (3, "eve")] {
        world.join(slot, user, Role::Editor);
    }
    assert!(is(&world.join(4, "mal", Role::Admin)[0], &[4], "room_full"));
    assert!(is(&world.join(5, "ann", Role::Editor)[0], &[5], "joined"));
}

#[test]
fn a_refreshed_grant_keeps_the_member_and_changes_what_it_may_do() {
    let mut world = World::new();
    world.join(1, "ann", Role::Editor);
    world.join(2, "bob", Role::Viewer);
    let told = world.join(2, "bob", Role::Editor);
    assert!(told.len() == 2 && is(&told[0], &[2], r#""member":2"#), "{told:?}");
    assert_eq!(world.send(2, Target::Room)[0].0, [1]);
}

#[test]
fn the_others_know_who_may_not_write_and_learn_when_that_changes() {
    let mut world = World::new();
    world.join(1, "ann", Role::Editor);
    let told = world.join(2, "bob", Role::Commenter);
    assert!(is(&told[1], &[1], r#""role":"commenter","write":false}"#), "{told:?}");
    let told = world.join(2, "bob", Role::Editor);
    assert!(is(&told[1], &[1], r#""member":2,"user":"bob","name":"BOB","role":"editor"}"#), "{told:?}");
    assert_eq!(world.join(2, "bob", Role::Admin).len(), 1, "nothing that concerns the others");
    assert!(is(&world.join(2, "bob", Role::Viewer)[1], &[1], r#""write":false}"#));
    let told = world.join(3, "eve", Role::Editor);
    assert!(told[0].2.contains(r#""role":"viewer","write":false}"#), "{told:?}");
}

#[test]
fn the_keys_of_a_member_are_told_with_it_once_each_and_the_oldest_gives_way() {
    let mut world = World::new();
    world.join(1, "ann", Role::Editor);
    let keys: Vec<SigningKey> = (0..=SIGNING_KEYS).map(|_| signing_key::tests::any()).collect();
    let mut certify = |key: Option<&SigningKey>| {
        let grant = Grant { signing_key: key.cloned(), ..world.grant("ben", Role::Editor) };
        world.act(2, Action::Join { handle: 1, id: 9, grant, follow: None })
    };
    let told = certify(Some(&keys[0]));
    assert!(is(&told[1], &[1], &format!(r#""signing_keys":["{}"]"#, keys[0].as_str())), "{told:?}");
    for again in [None, Some(&keys[0])] {
        assert_eq!(certify(again).len(), 1, "only the answer to who has joined again");
    }
    let mut last = Vec::new();
    for key in &keys[1..] {
        last = certify(Some(key));
        assert_eq!(last.len(), 2);
    }
    let all: Vec<&str> = keys[1..].iter().map(SigningKey::as_str).collect();
    let all = format!(r#""signing_keys":{}"#, serde_json::to_string(&all).unwrap());
    assert!(is(&last[1], &[1], &all), "{last:?}");
    let joined = world.join(3, "cem", Role::Editor);
    assert!(is(&joined[0], &[3], &all), "who comes later is told too: {joined:?}");
}

#[test]
fn a_grant_that_ends_removes_its_member_and_a_refresh_prevents_that() {
    let mut world = World::new();
    world.join(1, "ann", Role::Editor);
    world.join(2, "bob", Role::Editor);
    world.now += Duration::from_secs(59);
    world.join(1, "ann", Role::Editor);
    world.now += Duration::from_secs(1);
    assert_eq!(world.room.poll_timeout(), Some(world.now));
    world.room.handle_timeout(world.now);
    let told = world.outputs();
    assert!(is(&told[0], &[2], "token_expired") && is(&told[1], &[1], "member_left"), "{told:?}");
    assert_eq!(world.room.len(), 1);
}

#[test]
fn the_last_one_out_leaves_nothing_behind() {
    let mut world = World::new();
    world.join(1, "ann", Role::Editor);
    world.control(1, r#"{"type":"subscribe","id":1,"topics":["a"]}"#);
    assert!(is(&world.control(1, r#"{"type":"leave","id":2}"#)[0], &[1], r#""reason":"left""#));
    let Room { members, by_session, by_user, by_topic, expiry, .. } = &world.room;
    assert!(members.is_empty() && by_session.is_empty() && by_user.is_empty());
    assert!(by_topic.is_empty() && expiry.is_empty());
}

#[test]
fn a_room_in_which_only_a_backend_streams_is_not_over_and_asks_for_no_time_that_has_passed() {
    let mut world = World::new();
    let content = Content { kind: EventKind::Chat, version: 0, flags: 0, target: 0, body: "{}".into() };
    let (user, name) = (Arc::from("bot"), Arc::from("Bot"));
    let begin = BackendAct::Begin(BackendWrite { user, name, origin: Origin(7), nonce: 0, content });
    world.room.handle_backend(BackendRequest { request: 1, act: begin }, world.now);
    let mut begun = None;
    while let Some(output) = world.room.poll() {
        match output {
            Output::Store(ticket, Request::Load(_)) => {
                let loaded = Loaded { fence: 1, first: 1, ..Loaded::default() };
                world.room.handle_answer(ticket, Answer::Loaded(Ok(loaded)), world.now);
            }
            Output::Store(ticket, Request::Origin(..)) => {
                world.room.handle_answer(ticket, Answer::Origin(Ok(KnownOrigin::default())), world.now);
            }
            Output::Backend(1, Ok(BackendAnswer::Begun(stream))) => begun = Some(stream),
            _ => {}
        }
    }
    let stream = begun.unwrap();
    let idle = world.room.settings.idle;
    for second in (30..=idle.as_secs() * 2).step_by(30) {
        let now = world.now + Duration::from_secs(second);
        let part = BackendAct::Part { stream, offset: 0, text: "a".into() };
        world.room.log.as_mut().unwrap().backend(
            &world.room.members,
            BackendRequest { request: 2, act: part },
            now,
        );
        world.room.handle_timeout(now);
        while world.room.poll().is_some() {}
        assert!(!world.room.is_over(now));
        assert!(world.room.poll_timeout().is_some_and(|due| due > now), "after {second} s");
    }
    let end = world.now + idle * 3;
    let gone = BackendAct::GiveUp { stream, keep: false };
    world.room.handle_backend(BackendRequest { request: 3, act: gone }, end);
    assert!(!world.room.is_over(end), "it is kept for a while");
    assert_eq!(world.room.poll_timeout(), Some(end + idle));
    assert!(world.room.is_over(end + idle));
}
