//! How good a member's connection is, as the others in its rooms are told and the operator counts.

use serde_json::{Value, json};
use switchyard_signaling::{
    attempt::Rung,
    message::ServerControl,
    quality::{Score, Seen},
};
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};

use crate::{
    api::Backend,
    doors::{Got, Raw, SECOND, server},
};

fn quality(score: &str) -> String {
    let told = json!({
        "type": "quality", "score": score, "rung": "tcp", "rtt_ms": 240, "jitter_ms": 3, "loss_permille": 20, "queue_ms": 0, "bitrate": null,
        "pairs": {"direct": 1, "relay": 0, "server": 0}, "direct_messages": 5,
    });
    told.to_string()
}

/// The next control message that is this.
async fn control<T>(raw: &mut Raw, mut is: impl FnMut(ServerControl) -> Option<T>) -> T {
    let waiting = async {
        loop {
            let Got::Binary(message) = raw.next().await else { continue };
            if let Some(found) = raw.controls(message).into_iter().find_map(&mut is) {
                return found;
            }
        }
    };
    timeout(20 * SECOND, waiting).await.expect("it is told")
}

async fn seen(raw: &mut Raw) -> (u32, Seen) {
    let is = |control| match control {
        ServerControl::Quality { member, quality } => Some((member, quality)),
        _ => None,
    };
    control(raw, is).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_others_in_the_room_are_told_of_a_connection_and_who_comes_later_too() {
    let folder = TempDir::new().unwrap();
    let server = server(&folder).await;
    let (mut ann, mut bob) =
        (Raw::connect(server.address, None).await, Raw::connect(server.address, None).await);
    ann.join("lab", "ann").await;
    bob.join("lab", "bob").await;
    ann.text(&quality("poor")).await;
    let poor = Seen { score: Score::Poor, rung: Some(Rung::Tcp) };
    assert_eq!(seen(&mut bob).await, (1, poor));
    // The same again is nothing new.
    ann.text(&quality("poor")).await;
    ann.text(&quality("good")).await;
    let good = Seen { score: Score::Good, ..poor };
    assert_eq!(seen(&mut bob).await, (1, good));
    let mut carl = Raw::connect(server.address, None).await;
    carl.hello().await;
    carl.ask_to_join("lab", "carl").await;
    let is = |control| if let ServerControl::Joined { members, .. } = control { Some(members) } else { None };
    let members = control(&mut carl, is).await;
    let known: Vec<_> = members.iter().map(|member| (&*member.user, member.quality)).collect();
    assert_eq!(known, [("ann", Some(good)), ("bob", None)]);
    // Without a pipe nobody can tell, and the server does.
    drop(ann);
    assert_eq!(seen(&mut bob).await, (1, Seen { score: Score::Lost, rung: None }));
    drop(bob);
    let metrics = async {
        loop {
            let answer = Backend(server.address).without_key("GET", "/metrics", Value::Null).await;
            let text = String::from_utf8(answer.body).unwrap();
            let has = |line: &str| text.lines().any(|known| known == line);
            // Bob has told nothing; ann's session waits to be resumed.
            if has(r#"switchyard_sessions_quality{score="lost"} 1"#)
                && has(r#"switchyard_sessions_quality{score="good"} 0"#)
                && has("switchyard_direct_messages_total 15")
                && has(r#"switchyard_pairs{way="direct"} 0"#)
                && has(r#"switchyard_rtt_seconds_bucket{rung="tcp",le="0.3"} 3"#)
                && has(r#"switchyard_rtt_seconds_bucket{rung="tcp",le="0.2"} 0"#)
                && has(r#"switchyard_loss_ratio_bucket{le="0.02"} 3"#)
            {
                return;
            }
            sleep(SECOND / 20).await;
        }
    };
    timeout(9 * SECOND, metrics).await.expect("it is counted, while the session of ann is there");
    server.drain().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_changes_its_mind_too_often_disturbs_nobody() {
    let folder = TempDir::new().unwrap();
    let server = server(&folder).await;
    let (mut ann, mut bob) =
        (Raw::connect(server.address, None).await, Raw::connect(server.address, None).await);
    ann.join("lab", "ann").await;
    bob.join("lab", "bob").await;
    let begin = Instant::now();
    for n in 0..200 {
        ann.text(&quality(if n % 2 == 0 { "poor" } else { "good" })).await;
        // Not faster than any signalling may be.
        sleep(SECOND / 100).await;
    }
    ann.text(r#"{"type":"quality","score":"splendid"}"#).await;
    let refused =
        async { while !matches!(ann.next().await, Got::Text(text) if text.contains("malformed")) {} };
    timeout(20 * SECOND, refused).await.expect("a score that does not exist is refused");
    let mut told = 0;
    while let Ok(Got::Binary(message)) = timeout(SECOND / 2, bob.next()).await {
        let is = |control: &ServerControl| matches!(control, ServerControl::Quality { .. });
        told += bob.controls(message).iter().filter(|control| is(control)).count();
    }
    let allowed = 3 + begin.elapsed().as_secs() as usize / 5 + 1;
    assert!((3..=allowed).contains(&told), "{told} of 200 in {:?}", begin.elapsed());
    server.drain().await.unwrap();
}
