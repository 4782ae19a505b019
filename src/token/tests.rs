//! Every way in which a token is refused, and the ways in which one is understood.

use serde_json::{Value, json};

use super::*;

const NOW: u64 = 1_800_000_000;
const SECRET: &[u8] = b"6c1f0d9be27a4583b1c2d3e4f5061728";
const OTHER_SECRET: &[u8] = b"9b1f0d9be27a4583b1c2d3e4f5061728";

fn keys() -> Keys {
    Keys::new([("app", SECRET), ("other", OTHER_SECRET)])
}

fn grant() -> Grant {
    Grant {
        user: "ada".to_owned(),
        name: Some("Ada L.".to_owned()),
        room: "lab".to_owned(),
        role: Role::Editor,
        overrides: Overrides::default(),
        features: Features { relay: false, ..Features::default() },
        expires_at: NOW + 60,
        not_before: Some(NOW),
        id: Some("t1".to_owned()),
    }
}

fn claims() -> Value {
    json!({ "iss": "app", "sub": "ada", "exp": NOW + 60, "room": { "name": "lab", "role": "editor" } })
}

/// `claims` with some of them replaced; `null` removes one.
fn but(changes: &Value) -> Value {
    let mut claims = claims();
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => claims.as_object_mut().unwrap().remove(name),
            _ => claims.as_object_mut().unwrap().insert(name.clone(), value.clone()),
        };
    }
    claims
}

fn part(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

/// Signed by hand, so that these tests do not trust what they test.
fn sign(head: &Value, claims: &Value, secret: &[u8]) -> String {
    let message = format!("{}.{}", part(head), part(claims));
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret);
    let signature = URL_SAFE_NO_PAD.encode(ring::hmac::sign(&key, message.as_bytes()));
    format!("{message}.{signature}")
}

fn token(claims: &Value) -> String {
    sign(&json!({ "alg": "HS256", "typ": "JWT" }), claims, SECRET)
}

fn check(token: &str) -> Result<Verified, TokenError> {
    verify(token, &keys(), "lab", NOW)
}

#[track_caller]
fn assert_code(token: &str, code: &str) {
    match check(token) {
        Ok(verified) => panic!("accepted, but expected {code}: {verified:?}"),
        Err(error) => assert_eq!(error.code().as_str(), code, "{error}"),
    }
}

#[test]
fn what_is_minted_is_verified() {
    let token = mint(&keys(), "app", &grant()).unwrap();
    let verified = check(&token).unwrap();
    assert_eq!(
        verified,
        Verified {
            tenant: "app".into(),
            user: "ada".into(),
            name: "Ada L.".into(),
            room: "lab".into(),
            role: Role::Editor,
            overrides: Overrides::default(),
            features: Features { relay: false, ..Features::default() },
            expires_at: NOW + 60 + LEEWAY_SECONDS,
            id: Some("t1".to_owned()),
        }
    );
}

#[test]
fn a_token_signed_elsewhere_is_verified() {
    let verified = check(&token(&claims())).unwrap();
    assert_eq!((&*verified.user, &*verified.name), ("ada", "ada"), "the id serves as name");
}

#[test]
fn overrides_reach_the_permissions() {
    let token = token(&but(&json!({ "room": {
        "name": "lab", "role": "viewer", "permissions": { "allow": ["write", "invite"], "deny": ["read"] },
    }})));
    let permissions = check(&token).unwrap().permissions();
    assert_eq!(permissions.iter().collect::<Vec<_>>(), [Permission::Write, Permission::Invite]);
}

#[test]
fn features_are_switched_off_by_name_and_unknown_ones_are_passed_over() {
    let features = |features: &Value| {
        let room = json!({ "name": "lab", "role": "viewer", "features": features });
        check(&token(&but(&json!({ "room": room })))).map(|verified| verified.features)
    };
    let of = |webrtc, relay, p2p| Ok(Features { webrtc, relay, p2p, tentative: true });
    assert_eq!(features(&json!({})), of(true, true, true));
    assert_eq!(features(&json!({ "webrtc": false })), of(false, true, true));
    assert_eq!(features(&json!({ "relay": false, "telepathy": { "range": 3 } })), of(true, false, true));
    assert_eq!(features(&json!({ "p2p": false })), of(true, true, false));
    assert_eq!(features(&json!({ "tentative": false })), Ok(Features::UNASKED));
    assert_eq!(check(&token(&claims())).unwrap().features, Features::default());
    for wrong in [json!("webrtc"), json!(null), json!({ "webrtc": "off" }), json!({ "relay": 0 }), json!([1])]
    {
        assert!(matches!(features(&wrong), Err(TokenError::Claims(_))), "{wrong}");
    }
}

#[test]
fn a_token_that_is_no_jwt_is_malformed() {
    let good = token(&claims());
    let (head, rest) = good.split_once('.').unwrap();
    let (payload, signature) = rest.split_once('.').unwrap();
    for wrong in [
        String::new(),
        ".".to_owned(),
        "..".to_owned(),
        "not a token".to_owned(),
        format!("{head}.{payload}"),
        format!("{good}.{signature}"),
        format!("{head}=.{payload}.{signature}"),
        format!("{head}.{payload}.{signature}!"),
        format!("{}.{payload}.{signature}", URL_SAFE_NO_PAD.encode("[]")),
        format!("{}.{payload}.{signature}", URL_SAFE_NO_PAD.encode("{}")),
        format!("{}.{payload}.{signature}", URL_SAFE_NO_PAD.encode([0xff, 0xfe])),
        format!("{head}.%%%.{signature}"),
        format!("{head}.{}.{signature}", URL_SAFE_NO_PAD.encode("\"app\"")),
        format!("{head}.{}.{signature}", URL_SAFE_NO_PAD.encode(r#"{"iss":1}"#)),
        format!("{head}.{}.{signature}", URL_SAFE_NO_PAD.encode(r#"{"iss":"app","iss":"other"}"#)),
        sign(&json!({ "alg": "HS256", "crit": ["b64"], "b64": false }), &claims(), SECRET),
    ] {
        assert_code(&wrong, "token_malformed");
    }
}

#[test]
fn alg_none_and_every_other_algorithm_are_refused_whatever_else_is_there() {
    for alg in ["none", "None", "NONE", "", "hs256", "HS384", "HS512", "RS256", "ES256", "EdDSA", "PS256"] {
        let head = json!({ "alg": alg });
        assert_code(&sign(&head, &claims(), SECRET), "token_algorithm");
        assert_code(&format!("{}.{}.", part(&head), part(&claims())), "token_algorithm");
        assert_code(&format!("{}.not base64 at all.", part(&head)), "token_algorithm");
    }
}

#[test]
fn a_key_that_the_server_does_not_have_is_unknown() {
    assert_code(&token(&but(&json!({ "iss": "nobody" }))), "token_unknown_key");
    assert_code(&token(&but(&json!({ "iss": "" }))), "token_unknown_key");
    assert_eq!(mint(&keys(), "nobody", &grant()), Err(TokenError::UnknownKey));
}

#[test]
fn a_signature_by_another_secret_or_over_another_text_does_not_match() {
    let head = json!({ "alg": "HS256" });
    assert_code(&sign(&head, &claims(), OTHER_SECRET), "token_signature");
    assert_code(&sign(&head, &claims(), b""), "token_signature");
    assert_code(&token(&but(&json!({ "iss": "other" }))), "token_signature");
    let good = token(&claims());
    let (message, signature) = good.rsplit_once('.').unwrap();
    let (head, _) = message.split_once('.').unwrap();
    let raised = part(&but(&json!({ "room": { "name": "lab", "role": "admin" } })));
    assert_code(&format!("{head}.{raised}.{signature}"), "token_signature");
    assert_code(&format!("{message}."), "token_signature");
    assert_code(&format!("{message}.{}", &signature[..40]), "token_signature");
}

#[test]
fn a_token_ends_and_begins_with_the_leeway_and_not_a_second_beyond() {
    let keys = keys();
    let token = token(&but(&json!({ "nbf": NOW, "exp": NOW + 60 })));
    for (now, code) in [
        (NOW - 6, Some("token_not_yet_valid")),
        (NOW - 5, None),
        (NOW + 64, None),
        (NOW + 65, Some("token_expired")),
        (u64::MAX, Some("token_expired")),
        (0, Some("token_not_yet_valid")),
    ] {
        let found = verify(&token, &keys, "lab", now).err().map(|error| error.code().as_str());
        assert_eq!(found, code, "at {now}");
    }
}

#[test]
fn times_may_have_fractions_and_may_be_far_away() {
    let verified = check(&token(&but(&json!({ "exp": NOW as f64 + 1.5 })))).unwrap();
    assert_eq!(verified.expires_at, NOW + 1 + LEEWAY_SECONDS);
    let verified = check(&token(&but(&json!({ "exp": u64::MAX })))).unwrap();
    assert_eq!(verified.expires_at, u64::MAX);
}

#[test]
fn a_token_for_another_room_is_refused() {
    assert_code(&token(&but(&json!({ "room": { "name": "Lab", "role": "admin" } }))), "token_other_room");
}

#[test]
fn missing_and_wrong_claims_are_named() {
    let long = "x".repeat(129);
    for (changes, sentence) in [
        (json!({ "iss": null }), "`iss` is missing"),
        (json!({ "sub": null }), "`sub` is missing"),
        (json!({ "sub": "" }), "`sub` is empty"),
        (json!({ "sub": long }), "`sub` is longer than 128 bytes"),
        (json!({ "sub": "a\nb" }), "`sub` has control characters"),
        (json!({ "name": "a\u{1b}[2J" }), "`name` has control characters"),
        (json!({ "exp": null }), "`exp` is missing"),
        (json!({ "aud": "somebody" }), "`aud` does not name `switchyard`"),
        (json!({ "aud": ["a", "b"] }), "`aud` does not name `switchyard`"),
        (json!({ "room": null }), "`room` is missing"),
        (json!({ "room": { "name": "", "role": "editor" } }), "`room.name` is empty"),
        (json!({ "room": null, "video": { "room": "lab" } }), "`video.roomJoin` is not true"),
        (json!({ "room": null, "video": { "roomJoin": true } }), "`video.room` is missing"),
    ] {
        assert_eq!(check(&token(&but(&changes))), Err(TokenError::Claims(sentence.to_owned())), "{changes}");
    }
    for changes in [
        json!({ "sub": 7 }),
        json!({ "exp": "tomorrow" }),
        json!({ "exp": -1 }),
        json!({ "nbf": true }),
        json!({ "room": "lab" }),
        json!({ "room": { "name": "lab" } }),
        json!({ "room": { "name": "lab", "role": "owner" } }),
        json!({ "room": { "name": "lab", "role": "editor", "permisions": { "deny": ["write"] } } }),
        json!({ "room": { "name": "lab", "role": "editor", "permissions": { "denied": ["write"] } } }),
        json!({ "room": { "name": "lab", "role": "editor", "permissions": { "deny": ["wriet"] } } }),
        json!({ "room": null, "video": { "roomJoin": "yes" } }),
    ] {
        assert_code(&token(&but(&changes)), "token_claims");
    }
}

#[test]
fn a_sentence_about_claims_quotes_little_and_breaks_no_line() {
    let role = "\n".repeat(4000);
    let error = check(&token(&but(&json!({ "room": { "name": "lab", "role": role } })))).unwrap_err();
    let sentence = error.to_string();
    assert!(sentence.len() < 500, "{}", sentence.len());
    assert!(!sentence.contains('\n'));
}

#[test]
fn a_token_beyond_the_limit_is_not_looked_at() {
    let fits = token(&but(&json!({ "metadata": "x".repeat(5000) })));
    assert!(fits.len() <= limits::TOKEN_BYTES);
    assert!(check(&fits).is_ok(), "unknown claims are the application's own");
    assert_code(&token(&but(&json!({ "metadata": "x".repeat(7000) }))), "token_too_large");
    assert_code(&"a".repeat(limits::TOKEN_BYTES + 1), "token_too_large");
}

#[test]
fn a_token_may_name_this_server_as_its_audience() {
    assert!(check(&token(&but(&json!({ "aud": "switchyard" })))).is_ok());
    assert!(check(&token(&but(&json!({ "aud": ["a", "switchyard"] })))).is_ok());
}

#[test]
fn the_grants_of_livekit_are_understood() {
    use Permission::{Comment, PublishMedia, React, Read, Write};
    for (video, role, permissions) in [
        (json!({}), Role::Editor, vec![Read, Write, Comment, React, PublishMedia]),
        (json!({ "canPublish": false }), Role::Viewer, vec![Read]),
        (
            json!({ "canPublish": false, "canPublishData": true }),
            Role::Editor,
            vec![Read, Write, Comment, React],
        ),
        (json!({ "canPublishData": false }), Role::Editor, vec![Read, PublishMedia]),
        (json!({ "canSubscribe": false }), Role::Editor, vec![Write, Comment, React, PublishMedia]),
        (json!({ "canPublishSources": ["microphone"] }), Role::Editor, vec![Read, Write, Comment, React]),
    ] {
        let mut grants = json!({ "room": "lab", "roomJoin": true, "roomCreate": true });
        grants.as_object_mut().unwrap().extend(video.as_object().unwrap().clone());
        let verified = check(&token(&but(&json!({ "room": null, "video": grants })))).unwrap();
        assert_eq!(verified.role, role, "{video}");
        assert_eq!(verified.permissions().iter().collect::<Vec<_>>(), permissions, "{video}");
    }
    let admin = json!({ "room": "lab", "roomJoin": true, "roomAdmin": true });
    let verified = check(&token(&but(&json!({ "room": null, "video": admin })))).unwrap();
    assert_eq!(verified.permissions(), Permissions::ALL);
}

#[test]
fn own_grants_win_over_those_of_livekit() {
    let video = json!({ "room": "lab", "roomJoin": true, "roomAdmin": true });
    let verified = check(&token(&but(&json!({ "video": video })))).unwrap();
    assert_eq!(verified.role, Role::Editor);
}

#[test]
fn no_change_of_a_single_byte_is_accepted() {
    let good = token(&claims());
    let signature_ends = good.len() - 1;
    for index in 0..signature_ends {
        for replacement in *b"A_.%=\x00z" {
            let mut changed = good.clone().into_bytes();
            if changed[index] == replacement {
                continue;
            }
            changed[index] = replacement;
            let changed = String::from_utf8(changed).unwrap();
            assert!(check(&changed).is_err(), "{changed}");
        }
        assert!(check(&good[..index]).is_err(), "{index}");
    }
}

#[test]
fn a_grant_that_would_be_refused_is_not_minted() {
    for wrong in [
        Grant { user: String::new(), ..grant() },
        Grant { room: "a\tb".to_owned(), ..grant() },
        Grant { name: Some("x".repeat(200)), ..grant() },
    ] {
        assert_eq!(mint(&keys(), "app", &wrong).unwrap_err().code(), Code::TokenClaims);
    }
}

#[test]
fn debug_output_shows_no_secret() {
    assert_eq!(format!("{:?}", keys()), r#"{"app", "other"}"#);
}
