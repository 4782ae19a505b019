//! What holds for every store.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use serde_json::{Value, json};
use switchyard::store::{
    Backend, Batch, Head, KnownMessage, KnownOrigin, Note, OriginMark, Reader, Refused, Retention,
    StoreError, Writer,
    backend::{ORIGIN_AGE, RECENT_BYTES},
};
use switchyard_signaling::{
    Code,
    event::{Content, EventKind, INCOMPLETE, OPAQUE, Origin},
};

use crate::script::{NOW, Script, chat, commit, content, key, load, page, query, text_of};

/// A test for each function of the suite; `with` gives it a store.
macro_rules! suite {
    ($with:expr) => {
        $crate::suite::suite! { $with =>
            a_room_is_made_when_it_is_loaded_and_each_loading_has_a_higher_fence
            what_is_committed_is_read_as_it_was_written
            a_batch_with_an_old_fence_fails_alone
            a_batch_whose_head_moved_fails_alone_and_leaves_no_trace
            batches_of_a_room_follow_each_other_in_one_transaction
            a_batch_that_the_database_refuses_fails_alone
            events_are_cut_by_bytes_but_one_is_there
            a_loaded_room_has_its_newest_events
            an_origin_goes_up_and_never_down
            a_refusal_is_kept_until_its_writer_has_seen_it
            a_raised_epoch_fences_who_was_before
            edits_and_deletions_do_nothing_to_what_is_not_there
            effects_in_one_transaction_are_those_of_many
            a_reaction_is_one_for_each_user_and_emoji
            fields_are_merged_and_null_removes
            bodies_are_what_was_written_byte_by_byte
            pages_go_backwards_to_the_first_message
            a_page_of_a_thread_has_its_replies_and_a_message_their_number
            a_snapshot_counts_nothing_that_comes_as_an_event_behind_it
            a_large_page_is_cut_and_compressed
            the_newest_events_stay_and_messages_go_with_the_others
            old_events_go
            origins_without_events_and_old_refusals_are_forgotten
            text_with_any_character_is_kept
            notes_of_rooms_that_nobody_loaded_are_taken
            what_was_committed_outlives_a_connection_that_was_dropped
            rooms_of_two_tenants_have_nothing_in_common
        }
    };
    ($with:expr => $($name:ident)+) => {
        $(#[test]
        fn $name() {
            $with($crate::suite::$name);
        })+
    };
}
pub(crate) use suite;

fn open(backend: &dyn Backend) -> (Box<dyn Writer>, Box<dyn Reader>) {
    let writer = backend.writer().unwrap();
    (writer, backend.reader().unwrap())
}

pub(crate) fn a_room_is_made_when_it_is_loaded_and_each_loading_has_a_higher_fence(backend: &dyn Backend) {
    let (mut writer, mut reader) = open(backend);
    let loads = writer.load(&[key("a"), key("b"), key("a")]).unwrap();
    assert_eq!(loads.iter().map(|load| load.fence).collect::<Vec<_>>(), [1, 1, 2]);
    assert_eq!((loads[0].head, loads[0].first), (Head::default(), 1));
    assert!(loads[0].recent.is_empty());
    assert_eq!(load(&mut *writer, "a").fence, 3);
    // What was never loaded is empty.
    assert_eq!(reader.events(&key("c"), 0, 9, 100).unwrap(), []);
    assert_eq!(reader.digest(&key("c"), 1).unwrap(), None);
    assert_eq!(reader.origin(&key("c"), Origin(1)).unwrap(), KnownOrigin::default());
    assert_eq!(reader.message(&key("c"), 1).unwrap(), None);
    assert_eq!(page(&mut *reader, &query("c", 10)), json!({ "messages": [], "more": false }));
}

pub(crate) fn what_is_committed_is_read_as_it_was_written(backend: &dyn Backend) {
    let (mut writer, mut reader) = open(backend);
    let mut room = Script::load(&mut *writer, "lab");
    room.by("ada", u64::MAX, 0);
    let custom = Content {
        kind: EventKind::Custom,
        version: 255,
        flags: 255,
        target: u64::from(u32::MAX) * 9,
        body: Bytes::from_static(&[0, 255, 128, 10]),
    };
    let batch = room.batch(vec![chat("one"), custom, chat("three")]);
    assert_eq!(commit(&mut *writer, std::slice::from_ref(&batch)), [Ok(())]);
    let events = reader.events(&key("lab"), 0, u64::MAX, 1 << 20).unwrap();
    assert_eq!(events, batch.events);
    assert_eq!(reader.events(&key("lab"), 1, 2, 1 << 20).unwrap(), batch.events[1..2]);
    assert_eq!(reader.events(&key("lab"), 3, 3, 1 << 20).unwrap(), []);
    assert_eq!(reader.digest(&key("lab"), 2).unwrap(), Some(batch.events[1].digest));
    assert_eq!(reader.digest(&key("lab"), 4).unwrap(), None);
    assert_eq!(reader.digest(&key("lab"), 0).unwrap(), None);
    let known = reader.message(&key("lab"), 1).unwrap();
    assert_eq!(known, Some(KnownMessage { user: "ada".into(), is_deleted: false }));
    assert_eq!(reader.message(&key("lab"), 2).unwrap(), None, "a custom event is no message");
    let loaded = load(&mut *writer, "lab");
    assert_eq!((loaded.head, loaded.recent), (batch.head, batch.events));
}

pub(crate) fn a_batch_with_an_old_fence_fails_alone(backend: &dyn Backend) {
    let (mut writer, mut reader) = open(backend);
    let mut old = Script::load(&mut *writer, "lab");
    let mut other = Script::load(&mut *writer, "hall");
    let mut new = Script::load(&mut *writer, "lab");
    let mut nobody = Script::of(key("never loaded"), &load(&mut *writer, "hall2"));
    let batches = [
        old.batch(vec![chat("old")]),
        other.batch(vec![chat("hall")]),
        new.batch(vec![chat("new")]),
        nobody.batch(vec![chat("nobody")]),
    ];
    let results = commit(&mut *writer, &batches);
    assert_eq!(results, [Err(StoreError::Fenced), Ok(()), Ok(()), Err(StoreError::Fenced)]);
    assert_eq!(reader.events(&key("lab"), 0, 9, 1000).unwrap(), batches[2].events);
    assert_eq!(reader.events(&key("hall"), 0, 9, 1000).unwrap(), batches[1].events);
    assert_eq!(reader.events(&key("never loaded"), 0, 9, 1000).unwrap(), []);
}

pub(crate) fn a_batch_whose_head_moved_fails_alone_and_leaves_no_trace(backend: &dyn Backend) {
    let (mut writer, mut reader) = open(backend);
    let mut room = Script::load(&mut *writer, "lab");
    let mut other = Script::load(&mut *writer, "hall");
    let first = room.batch(vec![chat("one")]);
    let mut twin =
        Script::of(key("lab"), &switchyard::store::Loaded { fence: room.fence, ..Default::default() });
    let twin =
        twin.by("bob", 8, 0).batch(vec![chat("other one"), content(EventKind::Fields, 0, br#"{"a":1}"#)]);
    let mut wrong_digest = room.batch(vec![chat("two")]);
    wrong_digest.expects.digest ^= 1;
    let mut wrong_epoch = wrong_digest.clone();
    wrong_epoch.expects = Head { epoch: 1, ..first.head };
    let hall = other.batch(vec![chat("hall")]);
    let results = commit(&mut *writer, &[first.clone(), twin, wrong_digest, wrong_epoch, hall]);
    let moved = Err(StoreError::HeadMoved);
    assert_eq!(results, [Ok(()), moved.clone(), moved.clone(), moved, Ok(())]);
    assert_eq!(reader.events(&key("lab"), 0, 9, 1000).unwrap(), first.events);
    assert_eq!(reader.origin(&key("lab"), Origin(8)).unwrap(), KnownOrigin::default());
    let shown = page(&mut *reader, &switchyard::store::PageQuery { fields: true, ..query("lab", 9) });
    assert_eq!(shown["fields"], json!({}));
    assert_eq!(shown["messages"].as_array().unwrap().len(), 1);
}

pub(crate) fn batches_of_a_room_follow_each_other_in_one_transaction(backend: &dyn Backend) {
    let (mut writer, mut reader) = open(backend);
    let mut room = Script::load(&mut *writer, "lab");
    let batches: Vec<Batch> = (0..5).map(|n| room.batch(vec![chat(&n.to_string()); 3])).collect();
    assert_eq!(commit(&mut *writer, &batches), vec![Ok(()); 5]);
    let events = reader.events(&key("lab"), 0, u64::MAX, 1 << 20).unwrap();
    assert_eq!(events.len(), 15);
    assert_eq!(load(&mut *writer, "lab").head, room.head);
    // One that is missing holds back those behind it.
    let lost = room.batch(vec![chat("lost")]);
    let next = room.batch(vec![chat("next")]);
    assert_eq!(lost.head, next.expects);
    let fence = load(&mut *writer, "lab").fence;
    let next = Batch { fence, ..next };
    assert_eq!(commit(&mut *writer, &[next]), [Err(StoreError::HeadMoved)]);
}

pub(crate) fn a_batch_that_the_database_refuses_fails_alone(backend: &dyn Backend) {
    let (mut writer, mut reader) = open(backend);
    let mut room = Script::load(&mut *writer, "lab");
    let mut other = Script::load(&mut *writer, "hall");
    room.commit(&mut *writer, vec![chat("one")]);
    let mut fork = Script { key: room.key.clone(), user: room.user.clone(), ..room };
    fork.by("ada", 7, 0);
    let twice = fork.batch(vec![chat("the same number"), chat("two")]);
    let next = fork.batch(vec![chat("behind it")]);
    let mut hole = room.batch(vec![chat("a"), chat("b")]);
    hole.events.remove(0);
    let results = commit(&mut *writer, &[other.batch(vec![chat("hall")]), twice, next, hole]);
    assert_eq!(results[0], Ok(()));
    assert!(matches!(results[1], Err(StoreError::Damaged(_))), "{results:?}");
    assert_eq!(results[2], Err(StoreError::HeadMoved));
    assert!(matches!(results[3], Err(StoreError::Damaged(_))), "{results:?}");
    assert_eq!(reader.events(&key("lab"), 0, 9, 1000).unwrap().len(), 1);
    assert_eq!(reader.events(&key("hall"), 0, 9, 1000).unwrap().len(), 1);
    assert_eq!(page(&mut *reader, &query("lab", 9))["messages"].as_array().unwrap().len(), 1);
}

pub(crate) fn events_are_cut_by_bytes_but_one_is_there(backend: &dyn Backend) {
    let (mut writer, mut reader) = open(backend);
    let mut room = Script::load(&mut *writer, "lab");
    // With "ada" and `ada "L"`: 1,010 bytes each.
    let large = || content(EventKind::Custom, 0, &[b'x'; 1000]);
    room.commit(&mut *writer, (0..1200).map(|_| large()).collect());
    let mut count = |after, bytes| {
        let events = reader.events(&key("lab"), after, u64::MAX, bytes).unwrap();
        assert!(events.iter().zip(after + 1..).all(|(entry, seq)| entry.event.seq == seq));
        events.len()
    };
    assert_eq!(count(0, 0), 1);
    assert_eq!(count(0, 1010), 1);
    assert_eq!(count(0, 2020), 2);
    assert_eq!(count(5, 10_100), 10);
    assert_eq!(count(0, 1 << 30), 1000);
    assert_eq!(count(1199, 1 << 30), 1);
    assert_eq!(count(1200, 1 << 30), 0);
}

pub(crate) fn a_loaded_room_has_its_newest_events(backend: &dyn Backend) {
    let (mut writer, _) = open(backend);
    let mut room = Script::load(&mut *writer, "lab");
    let batch = room.batch((0..600).map(|_| content(EventKind::Custom, 0, &[b'x'; 1000])).collect());
    assert_eq!(commit(&mut *writer, std::slice::from_ref(&batch)), [Ok(())]);
    let loaded = load(&mut *writer, "lab");
    let fit = RECENT_BYTES / 1010;
    assert_eq!(loaded.recent, batch.events[600 - fit..]);
    assert_eq!((loaded.first, loaded.head), (1, batch.head));
}

pub(crate) fn an_origin_goes_up_and_never_down(backend: &dyn Backend) {
    let (mut writer, mut reader) = open(backend);
    let mut room = Script::load(&mut *writer, "lab");
    room.commit(&mut *writer, vec![chat("one"), chat("two"), chat("three")]);
    let events = reader.events(&key("lab"), 0, 9, 1000).unwrap();
    let told: Vec<_> = events.iter().map(|entry| (entry.event.cseq, entry.hash, entry.event.seq)).collect();
    let known = reader.origin(&key("lab"), Origin(7)).unwrap();
    assert_eq!(known, KnownOrigin { user: Some("ada".into()), last: 3, events: told, refused: Vec::new() });
    // A mark alone, lower and of somebody else, changes nothing.
    let mut batch = room.batch(Vec::new());
    batch.origins = vec![OriginMark { user: "eve".into(), last: 1, ..room.mark(1) }];
    assert_eq!(commit(&mut *writer, &[batch]), [Ok(())]);
    assert_eq!(reader.origin(&key("lab"), Origin(7)).unwrap(), known);
    // One with a gap that was lost.
    let mut batch = room.batch(Vec::new());
    batch.origins = vec![OriginMark { last: 9, base: 9, abandoned: Some((4, 9)), ..room.mark(9) }];
    assert_eq!(commit(&mut *writer, &[batch.clone(), batch]), [Ok(()), Ok(())]);
    assert_eq!(reader.origin(&key("lab"), Origin(7)).unwrap().last, 9);
}

pub(crate) fn a_refusal_is_kept_until_its_writer_has_seen_it(backend: &dyn Backend) {
    let (mut writer, mut reader) = open(backend);
    let mut room = Script::load(&mut *writer, "lab");
    let refusal = |cseq, code| Refused { origin: Origin(7), cseq, hash: u64::MAX / 2 + 5, code };
    let mut batch = room.batch(Vec::new());
    batch.refused =
        vec![refusal(1, Code::Forbidden), refusal(2, Code::TooLarge), refusal(3, Code::Forbidden)];
    batch.origins = vec![OriginMark { last: 3, ..room.mark(1) }];
    assert_eq!(commit(&mut *writer, std::slice::from_ref(&batch)), [Ok(())]);
    assert_eq!(reader.origin(&key("lab"), Origin(7)).unwrap().refused, batch.refused);
    let mut next = room.batch(Vec::new());
    next.origins = vec![OriginMark { last: 3, ..room.mark(3) }];
    // A second refusal of one submission does not change what was said; one below `base` was seen.
    next.refused = vec![refusal(3, Code::TooLarge), refusal(2, Code::TooLarge)];
    assert_eq!(commit(&mut *writer, &[next]), [Ok(())]);
    assert_eq!(reader.origin(&key("lab"), Origin(7)).unwrap().refused, batch.refused[2..]);
}

pub(crate) fn a_raised_epoch_fences_who_was_before(backend: &dyn Backend) {
    let (mut writer, _) = open(backend);
    let mut old = Script::load(&mut *writer, "lab");
    old.commit(&mut *writer, vec![chat("one")]);
    let raised = writer.raise_epoch(&key("lab")).unwrap();
    assert_eq!(raised.head, Head { epoch: 1, ..old.head });
    assert_eq!(raised.recent.len(), 1);
    assert_eq!(commit(&mut *writer, &[old.batch(vec![chat("two")])]), [Err(StoreError::Fenced)]);
    let mut new = Script::of(key("lab"), &raised);
    new.by("ada", 7, 1).commit(&mut *writer, vec![chat("two")]);
    assert_eq!(load(&mut *writer, "lab").head, new.head);
}

pub(crate) fn edits_and_deletions_do_nothing_to_what_is_not_there(backend: &dyn Backend) {
    let (mut writer, mut reader) = open(backend);
    let mut room = Script::load(&mut *writer, "lab");
    let edit =
        |target, text: &str| content(EventKind::Edit, target, format!(r#"{{"text":"{text}"}}"#).as_bytes());
    let custom = content(EventKind::Custom, 0, b"1");
    room.commit(&mut *writer, vec![chat("one"), custom, chat("three")]);
    room.commit(
        &mut *writer,
        vec![
            edit(2, "no message"),
            edit(0, "nothing"),
            edit(6, "itself"),
            edit(8, "not yet"),
            content(EventKind::Delete, 99, b""),
            content(EventKind::Delete, 2, b""),
            content(EventKind::React, 2, b"x"),
            content(EventKind::React, 50, b"x"),
            content(EventKind::Unreact, 1, b"x"),
            content(EventKind::React, 1, &[0xff, 0xfe]),
            edit(1, "two"),
            content(EventKind::Delete, 3, b""),
        ],
    );
    let at = NOW + 14;
    let expected = json!([
        { "seq": 1, "kind": "chat", "user": "ada", "name": "ada \"L\"", "at": NOW + 1, "body": { "text": "two" },
          "edited": at },
        { "seq": 3, "kind": "chat", "user": "ada", "name": "ada \"L\"", "at": NOW + 3, "body": {}, "deleted": true },
    ]);
    assert_eq!(page(&mut *reader, &query("lab", 9))["messages"], expected);
    // What is deleted stays so.
    let late = [edit(3, "back"), content(EventKind::React, 3, b"x"), content(EventKind::Delete, 3, b"")];
    room.commit(&mut *writer, late.to_vec());
    assert_eq!(page(&mut *reader, &query("lab", 9))["messages"], expected);
    let known = reader.message(&key("lab"), 3).unwrap();
    assert_eq!(known, Some(KnownMessage { user: "ada".into(), is_deleted: true }));
}

pub(crate) fn effects_in_one_transaction_are_those_of_many(backend: &dyn Backend) {
    let (mut writer, mut reader) = open(backend);
    let contents = || {
        vec![
            chat("one"),
            content(EventKind::Comment, 1, br#"{"text":"a reply"}"#),
            content(EventKind::Edit, 1, br#"{"text":"edited"}"#),
            content(EventKind::React, 1, "🦀".as_bytes()),
            content(EventKind::React, 1, b"+1"),
            content(EventKind::Unreact, 1, "🦀".as_bytes()),
            content(EventKind::React, 1, "🦀".as_bytes()),
            content(EventKind::Edit, 1, br#"{"text":"twice"}"#),
            content(EventKind::Delete, 2, b""),
            content(EventKind::React, 2, b"late"),
            content(EventKind::Edit, 2, br#"{"text":"late"}"#),
            content(EventKind::Chat, 2, br#"{"text":"a reply to what is deleted"}"#),
            content(EventKind::Fields, 0, br#"{"a":1,"b":2}"#),
            content(EventKind::Fields, 0, br#"{"b":null,"c":3}"#),
            content(EventKind::Fields, 0, br#"{"a":null,"a":4}"#),
        ]
    };
    let mut together = Script::load(&mut *writer, "together");
    together.commit(&mut *writer, contents());
    let mut apart = Script::load(&mut *writer, "apart");
    for content in contents() {
        apart.commit(&mut *writer, vec![content]);
    }
    let mut shown = ["together", "apart"]
        .map(|room| page(&mut *reader, &switchyard::store::PageQuery { fields: true, ..query(room, 9) }));
    assert_eq!(shown[0], shown[1]);
    let shown = shown[0].take();
    assert_eq!(shown["fields"], json!({ "a": 4, "c": 3 }));
    assert_eq!(shown["messages"][0]["body"], json!({ "text": "twice" }));
    assert_eq!(shown["messages"][0]["replies"], json!(1));
    let emojis = shown["messages"][0]["reactions"].as_array().unwrap();
    assert_eq!(emojis.iter().map(|emoji| &emoji["emoji"]).collect::<Vec<_>>(), ["+1", "🦀"], "by age");
    assert_eq!(shown["messages"][1]["deleted"], json!(true));
    assert_eq!(shown["messages"][1].get("edited"), None);
}

pub(crate) fn a_reaction_is_one_for_each_user_and_emoji(backend: &dyn Backend) {
    let (mut writer, mut reader) = open(backend);
    let mut room = Script::load(&mut *writer, "lab");
    room.commit(&mut *writer, vec![chat("one")]);
    let react = |emoji: &str| content(EventKind::React, 1, emoji.as_bytes());
    for n in 0..60 {
        let user = format!("user{n}");
        room.by(&user, 100 + n, 0).commit(&mut *writer, vec![react("+1"), react("+1")]);
    }
    room.by("ada", 7, 1).commit(&mut *writer, vec![react("🦀"), react("+1")]);
    let shown = page(&mut *reader, &query("lab", 9))["messages"][0]["reactions"].take();
    assert_eq!(shown[0]["emoji"], "+1");
    assert_eq!(shown[0]["count"], 61);
    let users = shown[0]["users"].as_array().unwrap();
    assert_eq!((users.len(), &users[0], &users[49]), (50, &json!("user0"), &json!("user49")));
    assert_eq!(shown[1], json!({ "emoji": "🦀", "count": 1, "users": ["ada"] }));
    let unreact = |emoji: &str| content(EventKind::Unreact, 1, emoji.as_bytes());
    // Taken back and given again it is the youngest.
    room.by("user0", 100, 9).commit(&mut *writer, vec![unreact("+1"), react("+1")]);
    let shown = page(&mut *reader, &query("lab", 9))["messages"][0]["reactions"].take();
    assert_eq!((&shown[0]["users"][0], &shown[0]["users"][49]), (&json!("user1"), &json!("user50")));
    room.by("ada", 7, 20);
    room.commit(&mut *writer, vec![unreact("🦀"), unreact("never")]);
    let shown = page(&mut *reader, &query("lab", 9))["messages"][0]["reactions"].take();
    assert_eq!(shown.as_array().unwrap().len(), 1);
}

pub(crate) fn fields_are_merged_and_null_removes(backend: &dyn Backend) {
    let (mut writer, mut reader) = open(backend);
    let mut room = Script::load(&mut *writer, "lab");
    let fields = |body: &str| content(EventKind::Fields, 0, body.as_bytes());
    let mut after = |bodies: &[&str]| -> Value {
        room.commit(&mut *writer, bodies.iter().map(|body| fields(body)).collect());
        let query = switchyard::store::PageQuery { fields: true, ..query("lab", 9) };
        page(&mut *reader, &query)["fields"].take()
    };
    assert_eq!(after(&[r#"{"tokens": 10, "state":{"a":1}}"#]), json!({ "tokens": 10, "state": { "a": 1 } }));
    assert_eq!(after(&[r#"{"state":{"b":2}}"#]), json!({ "tokens": 10, "state": { "b": 2 } }), "not deeper");
    assert_eq!(after(&[r#"{"tokens":null,"never":null}"#]), json!({ "state": { "b": 2 } }));
    assert_eq!(after(&["[1]", "17", "not JSON", ""]), json!({ "state": { "b": 2 } }));
    assert_eq!(after(&[r#"{"é\u0000\"":"\u0000"}"#]), json!({ "state": { "b": 2 }, "é\u{0}\"": "\u{0}" }));
}

pub(crate) fn bodies_are_what_was_written_byte_by_byte(backend: &dyn Backend) {
    let (mut writer, mut reader) = open(backend);
    let mut room = Script::load(&mut *writer, "lab");
    let body = r#"{ "text" : "1.0e2 \u00e9",  "meta":{"n":1.10,"n":2} }"#;
    let opaque =
        Content { flags: OPAQUE | INCOMPLETE, version: 3, ..content(EventKind::System, 0, &[0, 255, 7]) };
    room.commit(&mut *writer, vec![content(EventKind::Chat, 0, body.as_bytes()), opaque]);
    // A store that keeps values instead of bytes cannot give them back; the model does.
    let shown =
        reader.page(&switchyard::store::PageQuery { prefix: r#""id":5,"#.to_owned(), ..query("lab", 9) });
    let text = text_of(&shown.unwrap());
    let json: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["id"], 5);
    assert_eq!(
        json["messages"][1],
        json!({ "seq": 2, "kind": "system", "user": "ada", "name": "ada \"L\"", "at": NOW + 2, "body": "AP8H",
                "version": 3, "opaque": true, "incomplete": true })
    );
    if backend.size().is_some() || format!("{backend:?}").contains("Postgres") {
        assert!(text.starts_with(&format!(
            r#"{{"id":5,"messages":[{{"seq":1,"kind":"chat","user":"ada","name":"ada \"L\"","at":{},"body":{body}}},"#,
            NOW + 1
        )));
        assert!(text.ends_with(r#""incomplete":true}],"more":false}"#), "{text}");
    }
    // An edit replaces the body and says anew whether it is opaque.
    room.commit(&mut *writer, vec![content(EventKind::Edit, 2, b"{}")]);
    let edited = page(&mut *reader, &query("lab", 1))["messages"][0].take();
    assert_eq!(
        (edited.get("opaque"), &edited["body"], edited.get("version"), &edited["incomplete"]),
        (None, &json!({}), None, &json!(true))
    );
}

pub(crate) fn pages_go_backwards_to_the_first_message(backend: &dyn Backend) {
    let (mut writer, mut reader) = open(backend);
    let mut room = Script::load(&mut *writer, "lab");
    for n in 0..25 {
        room.commit(&mut *writer, vec![chat(&n.to_string()), content(EventKind::Custom, 0, b"between")]);
    }
    let (mut before, mut seen) = (None, Vec::new());
    loop {
        let shown = page(&mut *reader, &switchyard::store::PageQuery { before, ..query("lab", 10) });
        let messages = shown["messages"].as_array().unwrap();
        let seqs: Vec<u64> = messages.iter().map(|message| message["seq"].as_u64().unwrap()).collect();
        assert!(seqs.is_sorted());
        before = Some(seqs[0]);
        seen.splice(0..0, seqs);
        if shown["more"] == false {
            break;
        }
    }
    assert_eq!(seen, (0..25).map(|n| 2 * n + 1).collect::<Vec<_>>());
    let shown = page(&mut *reader, &switchyard::store::PageQuery { up_to: Some(4), ..query("lab", 10) });
    assert_eq!(shown["messages"].as_array().unwrap().len(), 2);
    let shown = page(&mut *reader, &switchyard::store::PageQuery { before: Some(1), ..query("lab", 10) });
    assert_eq!(shown, json!({ "messages": [], "more": false }));
}

pub(crate) fn a_page_of_a_thread_has_its_replies_and_a_message_their_number(backend: &dyn Backend) {
    let (mut writer, mut reader) = open(backend);
    let mut room = Script::load(&mut *writer, "lab");
    room.commit(&mut *writer, vec![chat("root"), chat("other")]);
    let reply = |target| content(EventKind::Comment, target, br#"{"text":"reply"}"#);
    for _ in 0..7 {
        room.commit(&mut *writer, vec![reply(1), chat("between"), reply(2)]);
    }
    let thread = |limit| switchyard::store::PageQuery { parent: Some(1), ..query("lab", limit) };
    let shown = page(&mut *reader, &thread(5));
    assert_eq!(shown["more"], true);
    let messages = shown["messages"].as_array().unwrap();
    assert_eq!(messages.iter().map(|m| m["seq"].as_u64().unwrap()).collect::<Vec<_>>(), [9, 12, 15, 18, 21]);
    assert!(messages.iter().all(|message| message["parent"] == 1));
    assert_eq!(page(&mut *reader, &thread(7))["more"], false);
    let all = page(&mut *reader, &query("lab", 100));
    assert_eq!((&all["messages"][0]["replies"], &all["messages"][1]["replies"]), (&json!(7), &json!(7)));
    let none = switchyard::store::PageQuery { parent: Some(0), ..query("lab", 5) };
    assert_eq!(page(&mut *reader, &none)["messages"], json!([]));
}

pub(crate) fn a_snapshot_counts_nothing_that_comes_as_an_event_behind_it(backend: &dyn Backend) {
    let (mut writer, mut reader) = open(backend);
    let mut room = Script::load(&mut *writer, "lab");
    let reply = || content(EventKind::Chat, 1, br#"{"text":"reply"}"#);
    let react = |emoji: &[u8]| content(EventKind::React, 1, emoji);
    room.commit(&mut *writer, vec![chat("root"), reply(), react(b"a"), reply(), react(b"b")]);
    let snapshot = switchyard::store::PageQuery { up_to: Some(3), ..query("lab", 9) };
    let shown = page(&mut *reader, &snapshot);
    assert_eq!(shown["messages"].as_array().unwrap().len(), 2);
    assert_eq!(shown["messages"][0]["replies"], 1);
    assert_eq!(shown["messages"][0]["reactions"], json!([{ "emoji": "a", "count": 1, "users": ["ada"] }]));
}

pub(crate) fn a_large_page_is_cut_and_compressed(backend: &dyn Backend) {
    let (mut writer, mut reader) = open(backend);
    let mut room = Script::load(&mut *writer, "lab");
    let large = "x".repeat(60_000);
    for _ in 0..10 {
        room.commit(&mut *writer, vec![chat(&large)]);
    }
    let shown = reader.page(&query("lab", 100)).unwrap();
    let json: Value = serde_json::from_str(&text_of(&shown)).unwrap();
    assert_eq!(json["messages"].as_array().unwrap().len(), 2);
    assert_eq!((&json["messages"][1]["seq"], &json["more"]), (&json!(10), &json!(true)));
    if shown.encoding == 1 {
        assert!(shown.json.len() < 10_000, "{}", shown.json.len());
    }
    let many: Vec<_> = (0..120).map(|n| chat(&n.to_string())).collect();
    room.commit(&mut *writer, many);
    let json = page(&mut *reader, &query("lab", 1000));
    assert_eq!((json["messages"].as_array().unwrap().len(), &json["more"]), (100, &json!(true)));
}

/// Retention has no more to do at once.
fn retain(writer: &mut dyn Writer, retention: Retention, now: u64) {
    for _ in 0..1000 {
        if !writer.retain(&retention, now).unwrap() {
            return;
        }
    }
    panic!("there is always more");
}

pub(crate) fn the_newest_events_stay_and_messages_go_with_the_others(backend: &dyn Backend) {
    let (mut writer, mut reader) = open(backend);
    let mut room = Script::load(&mut *writer, "lab");
    let mut small = Script::load(&mut *writer, "small");
    small.commit(&mut *writer, vec![chat("stays")]);
    room.commit(&mut *writer, (0..1500).map(|n| chat(&n.to_string())).collect());
    room.commit(&mut *writer, vec![content(EventKind::React, 3, b"a"), content(EventKind::Chat, 3, b"{}")]);
    room.commit(&mut *writer, vec![content(EventKind::Fields, 0, br#"{"a":1}"#)]);
    retain(&mut *writer, Retention { max_events: Some(100), max_age: None }, NOW + 1_000_000);
    let loaded = load(&mut *writer, "lab");
    assert_eq!((loaded.first, loaded.head), (1404, room.head));
    assert_eq!(loaded.recent.len(), 100);
    assert_eq!(reader.events(&key("lab"), 0, u64::MAX, 1 << 20).unwrap()[0].event.seq, 1404);
    assert_eq!(reader.message(&key("lab"), 1403).unwrap(), None);
    assert!(reader.message(&key("lab"), 1404).unwrap().is_some());
    let first = switchyard::store::PageQuery { before: Some(1405), fields: true, ..query("lab", 9) };
    let shown = page(&mut *reader, &first);
    assert_eq!((shown["messages"].as_array().unwrap().len(), &shown["more"]), (1, &json!(false)));
    assert_eq!(shown["fields"], json!({ "a": 1 }));
    assert_eq!(load(&mut *writer, "small").first, 1);
    // The log goes on, and what was known of its writer stays known.
    let known = reader.origin(&key("lab"), Origin(7)).unwrap();
    assert_eq!((known.last, known.events.len()), (1503, 100));
    room.fence = loaded.fence;
    room.commit(&mut *writer, vec![content(EventKind::Edit, 3, b"{}"), chat("next")]);
}

pub(crate) fn old_events_go(backend: &dyn Backend) {
    let (mut writer, mut reader) = open(backend);
    let mut room = Script::load(&mut *writer, "lab");
    room.commit(&mut *writer, vec![chat("old"); 700]);
    room.at += 1000;
    room.commit(&mut *writer, vec![chat("new"), chat("newer")]);
    let hour = Retention { max_age: Some(Duration::from_secs(3600)), max_events: None };
    let later = 3_600_000;
    retain(&mut *writer, hour, NOW + later);
    assert_eq!(load(&mut *writer, "lab").first, 1, "none is older than an hour");
    retain(&mut *writer, hour, NOW + later + 900);
    let loaded = load(&mut *writer, "lab");
    assert_eq!((loaded.first, loaded.recent.len()), (701, 2));
    retain(&mut *writer, hour, NOW + later + 3000);
    let loaded = load(&mut *writer, "lab");
    assert_eq!((loaded.first, loaded.head, loaded.recent.len()), (703, room.head, 0));
    assert_eq!(reader.digest(&key("lab"), 702).unwrap(), None);
    assert_eq!(page(&mut *reader, &query("lab", 5)), json!({ "messages": [], "more": false }));
    room.fence = loaded.fence;
    room.commit(&mut *writer, vec![chat("first of a new time")]);
    assert_eq!(load(&mut *writer, "lab").recent.len(), 1);
}

pub(crate) fn origins_without_events_and_old_refusals_are_forgotten(backend: &dyn Backend) {
    let (mut writer, mut reader) = open(backend);
    let mut room = Script::load(&mut *writer, "lab");
    room.commit(&mut *writer, vec![chat("one")]);
    let mut batch = room.by("bob", 8, 0).batch(Vec::new());
    batch.refused = vec![Refused { origin: Origin(8), cseq: 1, hash: 1, code: Code::Forbidden }];
    batch.origins = vec![OriginMark { last: 1, ..room.mark(1) }];
    assert_eq!(commit(&mut *writer, &[batch]), [Ok(())]);
    let age = ORIGIN_AGE.as_millis() as u64;
    retain(&mut *writer, Retention::default(), NOW + age);
    assert_eq!(reader.origin(&key("lab"), Origin(8)).unwrap().refused.len(), 1);
    retain(&mut *writer, Retention::default(), NOW + age + 1);
    assert_eq!(reader.origin(&key("lab"), Origin(8)).unwrap(), KnownOrigin::default());
    assert_eq!(reader.origin(&key("lab"), Origin(7)).unwrap().last, 1, "its event is still there");
}

pub(crate) fn text_with_any_character_is_kept(backend: &dyn Backend) {
    let (mut writer, mut reader) = open(backend);
    let mut room = Script::load(&mut *writer, "räum 🦀 'x' \"y\" %_\\");
    let name = "räum 🦀 'x' \"y\" %_\\";
    let user = "ü'\"\\%_🦀\u{202e}";
    room.by(user, 9, 0)
        .commit(&mut *writer, vec![chat("ü\\n🦀"), content(EventKind::React, 1, "\u{0}'\"".as_bytes())]);
    let shown = page(&mut *reader, &query(name, 5))["messages"][0].take();
    assert_eq!(shown["user"], user);
    assert_eq!(shown["body"], json!({ "text": "ü\n🦀" }));
    assert_eq!(shown["reactions"], json!([{ "emoji": "\u{0}'\"", "count": 1, "users": [user] }]));
    assert_eq!(reader.origin(&key(name), Origin(9)).unwrap().user.as_deref(), Some(user));
}

pub(crate) fn notes_of_rooms_that_nobody_loaded_are_taken(backend: &dyn Backend) {
    let (mut writer, _) = open(backend);
    let joined = |session: &str, at| Note::Joined {
        key: key("hall"),
        session: session.to_owned(),
        user: "ada".into(),
        name: "Ada".into(),
        role: "editor",
        at,
    };
    let left = Note::Left {
        key: key("hall"),
        session: "a".to_owned(),
        user: "ada".into(),
        reason: Code::Left,
        at: NOW + 5,
    };
    writer.note(&[joined("a", NOW), joined("a", NOW), joined("b", NOW + 1), left.clone(), left]).unwrap();
    writer.note(&[joined("b", NOW + 9)]).unwrap();
    writer.note(&[]).unwrap();
    assert_eq!(load(&mut *writer, "hall").fence, 1);
}

pub(crate) fn what_was_committed_outlives_a_connection_that_was_dropped(backend: &dyn Backend) {
    let mut writer = backend.writer().unwrap();
    let mut room = Script::load(&mut *writer, "lab");
    for n in 0..20 {
        room.commit(&mut *writer, vec![chat(&n.to_string()); 3]);
        let mut reader = backend.reader().unwrap();
        assert_eq!(reader.events(&key("lab"), 0, u64::MAX, 1 << 20).unwrap().len(), 3 * (n + 1));
        drop(writer);
        writer = backend.writer().unwrap();
    }
    let loaded = load(&mut *writer, "lab");
    assert_eq!((loaded.head, loaded.fence), (room.head, 2));
    writer.close().unwrap();
    assert_eq!(load(&mut *backend.writer().unwrap(), "lab").head, room.head);
}

pub(crate) fn rooms_of_two_tenants_have_nothing_in_common(backend: &dyn Backend) {
    let (mut writer, mut reader) = open(backend);
    let mut mine = Script::load(&mut *writer, "lab");
    let theirs = switchyard::names::RoomKey { tenant: "other".into(), room: Arc::from("lab") };
    let loaded = writer.load(std::slice::from_ref(&theirs)).unwrap().pop().unwrap();
    let mut their = Script::of(theirs.clone(), &loaded);
    mine.commit(&mut *writer, vec![chat("mine")]);
    assert_eq!(reader.events(&theirs, 0, 9, 1000).unwrap(), []);
    their.commit(&mut *writer, vec![chat("theirs"), chat("too")]);
    assert_eq!(reader.events(&key("lab"), 0, 9, 1000).unwrap().len(), 1);
    assert_eq!(reader.origin(&theirs, Origin(7)).unwrap().last, 2);
}
