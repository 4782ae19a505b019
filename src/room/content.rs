//! What may stand in an event: the bodies of section 9.7 of the protocol, and who may write which kind (ACL2, ACL8).
//!
//! The sequencer beside ([`super::log`]) never looks into a body; it asks here whether it is one.

use std::{borrow::Cow, collections::BTreeMap};

use serde::Deserialize;
use serde_json::value::RawValue;
use switchyard_signaling::{
    Code,
    event::{Content, EventKind, INCOMPLETE, OPAQUE},
    limits,
};

use super::permission::{Permission, Permissions};

/// Users that one message may mention.
const MENTIONS: usize = 50;
/// Bytes of a file's name, a language and the like.
const NAME_BYTES: usize = 1024;
/// Bytes of the application's own `meta`.
const META_BYTES: usize = 16 * 1024;
/// Fields that one event may change.
const FIELDS: usize = 64;
/// Fields that a room may have.
const ROOM_FIELDS: usize = 256;
/// Bytes of their names and values: they are in every snapshot.
const ROOM_FIELDS_BYTES: usize = 48 * 1024;
/// Bytes of a field's name.
const FIELD_NAME_BYTES: usize = 64;

/// Why something is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal(pub Code, pub &'static str);

const BAD_BODY: Refusal = Refusal(Code::BadBody, "the body is not what this kind of event asks for");

/// What has to be known of an event's target before it can be decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Nothing.
    Nothing,
    /// That it is a message, and not deleted.
    Message,
    /// The fields that the room has.
    Fields,
    /// That it is a message of the author, unless the author has this permission.
    Own(Option<Permission>),
}

/// Checks what can be checked without the target, and tells what is to be known of that.
///
/// # Errors
/// The code and sentence for the author.
pub fn check(content: &Content, permissions: Permissions) -> Result<Needs, Refusal> {
    let needed = match content.kind {
        EventKind::Chat | EventKind::Fields | EventKind::Custom => Permission::Write,
        EventKind::Comment | EventKind::Edit | EventKind::Delete | EventKind::End => Permission::Comment,
        EventKind::React | EventKind::Unreact => Permission::React,
        EventKind::System => {
            return Err(Refusal(Code::Forbidden, "system messages are the application's backend's"));
        }
    };
    if !permissions.contains(needed) {
        return Err(Refusal(Code::Forbidden, "your role in this room does not permit this"));
    }
    well_formed(content)
}

/// The same for the application's backend, which may write every kind.
///
/// # Errors
/// The code and sentence for the author.
pub fn well_formed(content: &Content) -> Result<Needs, Refusal> {
    let Content { kind, flags, target, body, .. } = content;
    if body.len() > limits::EVENT_BYTES {
        return Err(Refusal(Code::TooLarge, "the body of an event has at most 64 KiB"));
    }
    let may_be_opaque = matches!(kind, EventKind::Chat | EventKind::Comment | EventKind::Edit);
    if flags & !OPAQUE != 0 || (flags & OPAQUE != 0 && !may_be_opaque) {
        return Err(Refusal(Code::BadBody, "unknown flags"));
    }
    let message = |needs| {
        if flags & OPAQUE == 0 { message_body(body).map(|()| needs) } else { Ok(needs) }
    };
    match kind {
        EventKind::Chat | EventKind::Comment if *target == 0 => message(Needs::Nothing),
        EventKind::Chat | EventKind::Comment => message(Needs::Message),
        EventKind::System => message_body(body).map(|()| Needs::Nothing),
        EventKind::Edit => message(Needs::Own(None)),
        EventKind::Delete if body.is_empty() => Ok(Needs::Own(Some(Permission::Delete))),
        EventKind::React | EventKind::Unreact if is_emoji(body) => Ok(Needs::Message),
        EventKind::Fields => fields_of(body).map(|_| Needs::Fields),
        EventKind::Custom => Ok(Needs::Nothing),
        EventKind::End if body.len() == 4 => Ok(Needs::Nothing),
        EventKind::Delete | EventKind::React | EventKind::Unreact | EventKind::End => Err(BAD_BODY),
    }
}

/// What a streamed message becomes: its body with the text.
pub fn with_text(content: &Content, text: &str, is_complete: bool) -> Content {
    let mut members: BTreeMap<Cow<'_, str>, &RawValue> =
        serde_json::from_slice(&content.body).unwrap_or_default();
    let text = serde_json::value::to_raw_value(text).expect("a string is JSON");
    members.insert("text".into(), &text);
    let body = serde_json::to_vec(&members).expect("raw values are JSON");
    let flags = if is_complete { content.flags } else { content.flags | INCOMPLETE };
    Content { body: body.into(), flags, ..content.clone() }
}

/// Not what Unicode calls an emoji, which changes every year: something short that is no plain text.
fn is_emoji(body: &[u8]) -> bool {
    let length = (1..=limits::EMOJI_BYTES).contains(&body.len());
    length
        && std::str::from_utf8(body)
            .is_ok_and(|text| !text.chars().any(|c| c.is_control() || c.is_whitespace()))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MessageBody<'a> {
    #[serde(borrow, default)]
    text: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    mentions: Vec<Cow<'a, str>>,
    #[serde(borrow, default)]
    code: Option<CodeReference<'a>>,
    #[serde(borrow, default)]
    annotation: Option<Annotation<'a>>,
    #[serde(borrow, default)]
    meta: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CodeReference<'a> {
    #[serde(borrow)]
    file: Cow<'a, str>,
    #[serde(default)]
    line: Option<u32>,
    #[serde(default)]
    end_line: Option<u32>,
    #[serde(borrow, default)]
    #[expect(dead_code, reason = "bounded by the body, and only its type is asked for")]
    snippet: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    language: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Annotation<'a> {
    #[serde(borrow, default)]
    file: Option<Cow<'a, str>>,
    #[serde(default)]
    from: Option<u64>,
    #[serde(default)]
    to: Option<u64>,
    #[serde(default)]
    message: Option<u64>,
}

fn message_body(body: &[u8]) -> Result<(), Refusal> {
    let body: MessageBody<'_> = serde_json::from_slice(body).map_err(|_| BAD_BODY)?;
    let is_user = |user: &Cow<'_, str>| (1..=limits::USER_BYTES).contains(&user.len());
    let is_name = |name: &Cow<'_, str>| name.len() <= NAME_BYTES;
    let in_order = |from: Option<u64>, to: Option<u64>| from.zip(to).is_none_or(|(from, to)| from <= to);
    let code = body.code.as_ref().is_none_or(|code| {
        let lines = (code.line.map(u64::from), code.end_line.map(u64::from));
        is_name(&code.file) && code.language.as_ref().is_none_or(is_name) && in_order(lines.0, lines.1)
    });
    let annotation = body.annotation.as_ref().is_none_or(|annotation| {
        annotation.file.as_ref().is_none_or(is_name)
            && in_order(annotation.from, annotation.to)
            && (annotation.file.is_some() || annotation.message.is_some())
    });
    let says_something = body.text.is_some() || body.code.is_some() || body.meta.is_some();
    let mentions = body.mentions.len() <= MENTIONS && body.mentions.iter().all(is_user);
    let meta = body.meta.is_none_or(|meta| meta.get().len() <= META_BYTES);
    if code && annotation && says_something && mentions && meta { Ok(()) } else { Err(BAD_BODY) }
}

/// The fields that an event changes.
fn fields_of(body: &[u8]) -> Result<BTreeMap<Cow<'_, str>, &RawValue>, Refusal> {
    let fields: BTreeMap<Cow<'_, str>, &RawValue> = serde_json::from_slice(body).map_err(|_| BAD_BODY)?;
    let is_name = |name: &Cow<'_, str>| (1..=FIELD_NAME_BYTES).contains(&name.len());
    if (1..=FIELDS).contains(&fields.len()) && fields.keys().all(is_name) {
        Ok(fields)
    } else {
        Err(BAD_BODY)
    }
}

/// How many bytes the values of a room's fields have, by their names.
pub type FieldSizes = BTreeMap<String, usize>;

/// What a room has after its fields are changed by an event with this body.
///
/// # Errors
/// If that is more than every new reader should have to take.
pub fn change_fields(sizes: &FieldSizes, body: &[u8]) -> Result<FieldSizes, Refusal> {
    let mut sizes = sizes.clone();
    for (name, value) in fields_of(body)? {
        match value.get() {
            "null" => drop(sizes.remove(&*name)),
            value => drop(sizes.insert(name.into_owned(), value.len())),
        }
    }
    let bytes: usize = sizes.iter().map(|(name, value)| name.len() + value).sum();
    if sizes.len() <= ROOM_FIELDS && bytes <= ROOM_FIELDS_BYTES {
        Ok(sizes)
    } else {
        Err(Refusal(Code::TooLarge, "a room has at most 256 fields, and 48 KiB in them"))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::{super::permission::Role, *};

    fn content(kind: EventKind, body: &str) -> Content {
        Content { kind, version: 0, flags: 0, target: 0, body: Bytes::from(body.to_owned()) }
    }

    fn editor(content: &Content) -> Result<Needs, Code> {
        check(content, Role::Editor.permissions()).map_err(|Refusal(code, _)| code)
    }

    #[test]
    fn a_message_says_something_and_has_no_unknown_members() {
        for good in [
            r#"{"text":""}"#,
            r#"{"text":"hi","mentions":["ann"],"meta":{"a":[1,2]}}"#,
            r#"{"code":{"file":"src/main.rs","line":3,"end_line":9,"snippet":"fn"}}"#,
            r#"{"text":"gr\u00f6\u00dfer","annotation":{"message":4,"from":0,"to":7}}"#,
        ] {
            assert_eq!(editor(&content(EventKind::Chat, good)), Ok(Needs::Nothing), "{good}");
        }
        for bad in [
            "",
            "[]",
            "{}",
            r#"{"text":5}"#,
            r#"{"text":"a","html":"b"}"#,
            r#"{"text":"a","mentions":[""]}"#,
            r#"{"text":"a","code":{"file":"x","line":9,"end_line":3}}"#,
            r#"{"text":"a","annotation":{}}"#,
        ] {
            assert_eq!(editor(&content(EventKind::Chat, bad)), Err(Code::BadBody), "{bad}");
        }
        let meta = format!(r#"{{"meta":"{}"}}"#, "x".repeat(META_BYTES));
        assert_eq!(editor(&content(EventKind::Chat, &meta)), Err(Code::BadBody));
    }

    #[test]
    fn a_body_above_the_limit_is_refused_before_it_is_read() {
        let long = format!(r#"{{"text":"{}"}}"#, "x".repeat(limits::EVENT_BYTES));
        assert_eq!(editor(&content(EventKind::Chat, &long)), Err(Code::TooLarge));
        assert_eq!(editor(&content(EventKind::Custom, &long)), Err(Code::TooLarge));
    }

    #[test]
    fn what_an_opaque_message_says_is_not_looked_at() {
        let mut opaque = content(EventKind::Chat, "\u{1}secret");
        opaque.flags = OPAQUE;
        assert_eq!(editor(&opaque), Ok(Needs::Nothing));
        opaque.kind = EventKind::Fields;
        assert_eq!(editor(&opaque), Err(Code::BadBody));
        opaque.flags = INCOMPLETE;
        assert_eq!(editor(&opaque), Err(Code::BadBody), "only the server says this");
    }

    #[test]
    fn roles_write_what_they_may() {
        let kinds = [
            (EventKind::Chat, r#"{"text":"a"}"#, [false, false, true, true]),
            (EventKind::Comment, r#"{"text":"a"}"#, [false, true, true, true]),
            (EventKind::React, "\u{1f44d}", [false, true, true, true]),
            (EventKind::Fields, r#"{"a":1}"#, [false, false, true, true]),
            (EventKind::System, r#"{"text":"a"}"#, [false; 4]),
        ];
        for (kind, body, allowed) in kinds {
            for (role, allowed) in Role::ALL.into_iter().zip(allowed) {
                let result = check(&content(kind, body), role.permissions());
                assert_eq!(result.is_ok(), allowed, "{role} {kind:?} {result:?}");
            }
        }
    }

    #[test]
    fn a_reaction_is_short_and_no_text_with_spaces() {
        for (body, good) in
            [("\u{1f44d}", true), (":ship_it:", true), ("", false), ("a b", false), ("a\n", false)]
        {
            assert_eq!(editor(&content(EventKind::React, body)).is_ok(), good, "{body:?}");
        }
        assert_eq!(editor(&content(EventKind::React, &"x".repeat(33))), Err(Code::BadBody));
    }

    #[test]
    fn a_streamed_message_gets_its_text() {
        let begin = content(EventKind::Chat, r#"{"meta":{"model":"m"},"text":""}"#);
        let whole = with_text(&begin, "say \"hi\"", true);
        assert_eq!(&whole.body[..], br#"{"meta":{"model":"m"},"text":"say \"hi\""}"#);
        assert_eq!((whole.flags, with_text(&begin, "", false).flags), (0, INCOMPLETE));
        assert!(message_body(&whole.body).is_ok());
    }
}
