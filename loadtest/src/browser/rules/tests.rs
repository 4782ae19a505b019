//! The vectors to which the browser client is held as well.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{
    probe::Probe,
    reconnect::Reconnect,
    suspicion::{Suspicion, Verdict},
    trial::{Hold, Trial},
};

const VECTORS: &str = include_str!("../../../../signaling/vectors/rules.json");

/// Plays each case of a subject: `player` gives a closure for each case, which says what a step gives.
fn play<P>(subject: &str, player: impl Fn(Instant, &Value) -> P)
where
    P: FnMut(Instant, &str, &Value) -> Value,
{
    let vectors: Value = serde_json::from_str(VECTORS).unwrap();
    let start = Instant::now();
    for case in vectors[subject].as_array().unwrap() {
        let mut step = player(start, case);
        let (steps, says) = (case["steps"].as_array().unwrap(), case["says"].as_array().unwrap());
        assert!(!steps.is_empty() && steps.len() == says.len());
        for (index, (given, says)) in steps.iter().zip(says).enumerate() {
            let said = step(start + millis(&given[0]), given[1].as_str().unwrap(), &given[2]);
            assert!(
                is_same(&said, says),
                "{subject}, {}, step {index} {given}: {said}, not {says}",
                case["name"]
            );
        }
    }
}

fn millis(value: &Value) -> Duration {
    Duration::from_secs_f64(value.as_f64().unwrap() / 1000.0)
}

fn ms(span: Duration) -> Value {
    json!(span.as_secs_f64() * 1000.0)
}

/// Times agree to a few microseconds: the client has fractions of milliseconds, these rules whole nanoseconds.
fn is_same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| is_same(one, other))
        }
        (Value::Number(one), Value::Number(other)) => {
            (one.as_f64().unwrap() - other.as_f64().unwrap()).abs() < 0.005
        }
        _ => one == other,
    }
}

#[test]
fn suspicions_are_those_of_the_client() {
    play("suspicion", |start, _| {
        let mut suspicion = Suspicion::new(start);
        let mut nonces = Vec::new();
        move |now, what, argument| {
            match what {
                "look" => {}
                "ping" => nonces.push(suspicion.ping(now)),
                "pong" => _ = suspicion.pong(nonces[argument.as_u64().unwrap() as usize], now),
                "heard" => suspicion.heard(now),
                "answered" => suspicion.answered(now, Some(millis(argument))),
                "expect" => suspicion.expect(now, argument.as_bool().unwrap()),
                "hint" => suspicion.hint(now),
                "acquit" => suspicion.acquit(now),
                other => panic!("{other}"),
            }
            let verdict = match suspicion.verdict(now) {
                Verdict::Trusted => "trusted",
                Verdict::Suspected => "suspected",
            };
            let doubts = suspicion.doubts(now);
            let at = |at: Option<Instant>| at.map(|at| ms(at - start));
            json!([
                verdict,
                at(suspicion.probe_at()),
                at(suspicion.next_at()),
                suspicion.rtt().map(ms),
                ms(suspicion.answer()),
                ms(suspicion.quiet_for(now)),
                at(suspicion.doubt_at()),
                doubts,
            ])
        }
    });
}

#[test]
fn trials_and_holds_are_those_of_the_client() {
    play("trial", |start, case| {
        let mut trial = Trial::new(start, millis(&case["hold"]));
        move |now, what, argument| {
            match what {
                "look" => {}
                "answered" => trial.answered(now, argument.as_bool().unwrap()),
                "probed" => trial.probed(now),
                "failed" => trial.failed(),
                other => panic!("{other}"),
            }
            let probe = match trial.probe_at() {
                Some(at) if at <= now => json!("due"),
                at => json!(at.map(|at| ms(at - start))),
            };
            json!([trial.is_proven(now), trial.wants_ordered(), probe])
        }
    });
    play("hold", |_, _| {
        let mut hold = Hold::default();
        move |now, what, _| {
            if what == "false_alarm" {
                hold.false_alarm(now);
            }
            ms(hold.span(now))
        }
    });
}

#[test]
fn waits_for_websockets_are_those_of_the_client() {
    play("reconnect", |start, _| {
        let mut reconnect = Reconnect::default();
        move |now, what, argument| match what {
            "patience" => ms(reconnect.patience(now, (!argument.is_null()).then(|| millis(argument)))),
            "reset" => {
                reconnect.reset();
                Value::Null
            }
            "found" => {
                reconnect.found();
                Value::Null
            }
            "asks" => json!(reconnect.asks(now, argument.as_bool().unwrap())),
            "asks_on" => json!(reconnect.asks_on()),
            "stale" => {
                let rtt = (!argument["rtt"].is_null()).then(|| millis(&argument["rtt"]));
                json!(Reconnect::is_stale(millis(&argument["age"]), rtt))
            }
            _ => {
                let (began, random) =
                    (start + millis(&argument["began"]), argument["random"].as_f64().unwrap());
                ms(reconnect.failed(now, began, argument["silent"].as_bool().unwrap(), random))
            }
        }
    });
}

#[test]
fn probes_are_those_of_the_client() {
    play("probe", |start, _| {
        let mut probe = Probe::new(start);
        let mut nonces = Vec::new();
        move |now, what, argument| {
            let given = match what {
                "ping" => {
                    nonces.push(probe.ping(now));
                    json!(true)
                }
                "pong" => json!(probe.pong(nonces[argument.as_u64().unwrap() as usize], now)),
                "silent" => json!(probe.is_silent(now, millis(argument))),
                "heard" => {
                    probe.heard(now);
                    Value::Null
                }
                _ => {
                    probe.wake(now);
                    Value::Null
                }
            };
            json!([given, probe.rtt().map(ms), probe.is_due(now, Duration::from_millis(500))])
        }
    });
}
