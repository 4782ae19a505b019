//! Reads the tree into [`Config`] by serde, and says what is wrong where.
//!
//! serde knows the keys and types; this deserializer knows the places. Defaults for messages are taken from
//! `Config::default()`, so they cannot differ from those in force.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{DeserializeSeed, Error as _, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::source::{Entry, Node, Place, Value};
use super::{Config, ConfigError, Key};

pub(super) fn from_tree(tree: &Node) -> Result<Config, ConfigError> {
    Config::deserialize(tree).map_err(Fault::report)
}

/// The default of the setting at `path` as it would be written, if it has one.
pub(super) fn default_of(path: &str) -> Option<String> {
    let defaults = serde_json::to_value(Config::default()).ok()?;
    let value = path.split('.').try_fold(&defaults, |value, key| value.get(key))?;
    match value {
        serde_json::Value::Null | serde_json::Value::Object(_) => None,
        serde_json::Value::String(text) => Some(text.clone()),
        serde_json::Value::Array(items) if items.is_empty() => Some("none".to_owned()),
        serde_json::Value::Array(items) => {
            Some(items.iter().filter_map(|item| item.as_str()).collect::<Vec<_>>().join(", "))
        }
        other => Some(other.to_string()),
    }
}

/// For `deserialize_with`: API keys, by names that an environment variable can spell as well.
pub(super) fn keys<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, Key>, D::Error> {
    let keys = BTreeMap::<KeyName, Key>::deserialize(deserializer)?;
    Ok(keys.into_iter().map(|(name, key)| (name.0, key)).collect())
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct KeyName(String);

impl<'de> Deserialize<'de> for KeyName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        let plain =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-');
        if (1..=64).contains(&name.len()) && name.bytes().all(plain) && !name.contains("__") {
            Ok(Self(name))
        } else {
            Err(D::Error::custom("an API key has 1–64 of the characters a–z, 0–9, `-` and single `_`"))
        }
    }
}

/// What serde found wrong, and where it was found.
#[derive(Debug)]
pub(super) struct Fault {
    /// Keys from the innermost to the outermost.
    path: Vec<String>,
    place: Option<Box<Place>>,
    /// What was written there, where that helps.
    got: Option<String>,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    UnknownKey { key: String, allowed: &'static [&'static str] },
    Missing(&'static str),
    Value(String),
}

impl Fault {
    fn of(kind: Kind) -> Self {
        Self { path: Vec::new(), place: None, got: None, kind }
    }

    /// Notes that the fault lies in what was written in `node`, unless it was found further inside.
    fn in_node(mut self, node: &Node) -> Self {
        if self.place.is_none() {
            self.place = node.place.clone().map(Box::new);
            self.got = Some(describe(&node.value));
        }
        self
    }

    fn beneath(mut self, key: &str) -> Self {
        self.path.push(key.to_owned());
        self
    }

    fn report(self) -> ConfigError {
        let path: Vec<_> = self.path.iter().rev().map(String::as_str).collect();
        let path = path.join(".");
        let problem = match self.kind {
            Kind::UnknownKey { key, allowed } => unknown_key(&path, &key, allowed),
            Kind::Missing(key) => format!("`{path}` lacks the key `{key}`"),
            Kind::Value(expected) => {
                let mut problem = match path.as_str() {
                    "" => expected,
                    path => format!("`{path}`: {expected}"),
                };
                if let Some(got) = self.got.filter(|_| !holds_secrets(&path)) {
                    problem += &format!(", got {got}");
                }
                if let Some(default) = default_of(&path) {
                    problem += &format!("; default {default}");
                }
                problem
            }
        };
        match self.place {
            Some(place) => ConfigError::Written { place: *place, problem },
            None => ConfigError::Refused(problem),
        }
    }
}

/// Whether a secret may stand at `path`, or has been written there in place of the section that holds it.
fn holds_secrets(path: &str) -> bool {
    path.starts_with("keys") || matches!(path, "turn" | "turn.credentials" | "turn.external")
}

fn unknown_key(path: &str, key: &str, allowed: &[&str]) -> String {
    let full = if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    let nearest = allowed
        .iter()
        .map(|candidate| (strsim::osa_distance(candidate, key), candidate))
        .min()
        .filter(|(distance, candidate)| *distance <= 2.max(candidate.len() / 3));
    let allowed = allowed.join(", ");
    match nearest {
        Some((_, nearest)) => {
            format!("unknown key `{full}`; did you mean `{nearest}`? Allowed here: {allowed}")
        }
        None => format!("unknown key `{full}`; allowed here: {allowed}"),
    }
}

fn one_of(names: &[&str]) -> String {
    match names {
        [all_but_last @ .., last] if !all_but_last.is_empty() => {
            format!("{} or {last}", all_but_last.join(", "))
        }
        _ => names.concat(),
    }
}

fn describe(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Scalar(text) => format!("{:?}", text.chars().take(64).collect::<String>()),
        Value::List(_) => "a list".to_owned(),
        Value::Map(_) => "a section".to_owned(),
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.kind, f)
    }
}

impl std::error::Error for Fault {}

impl serde::de::Error for Fault {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::of(Kind::Value(message.to_string()))
    }

    fn unknown_field(key: &str, allowed: &'static [&'static str]) -> Self {
        Self::of(Kind::UnknownKey { key: key.to_owned(), allowed })
    }

    fn missing_field(key: &'static str) -> Self {
        Self::of(Kind::Missing(key))
    }

    fn unknown_variant(_: &str, allowed: &'static [&'static str]) -> Self {
        Self::custom(format_args!("expected {}", one_of(allowed)))
    }

    fn invalid_type(_: serde::de::Unexpected<'_>, expected: &dyn serde::de::Expected) -> Self {
        Self::custom(format_args!("expected {expected}"))
    }
}

impl Node {
    fn text(&self, expected: &str) -> Result<&str, Fault> {
        match &self.value {
            Value::Scalar(text) => Ok(text),
            _ => Err(Fault::custom(format_args!("expected {expected}")).in_node(self)),
        }
    }
}

macro_rules! whole_numbers {
    ($($method:ident, $visit:ident, $type:ty;)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
            let expected = format!("a whole number {}–{}", <$type>::MIN, <$type>::MAX);
            let number = self.text(&expected)?.parse::<$type>();
            match number {
                Ok(number) => visitor.$visit(number),
                Err(_) => Err(Fault::custom(format_args!("expected {expected}")).in_node(self)),
            }
        }
    )*};
}

impl<'de> Deserializer<'de> for &Node {
    type Error = Fault;

    whole_numbers! {
        deserialize_u8, visit_u8, u8;
        deserialize_u16, visit_u16, u16;
        deserialize_u32, visit_u32, u32;
        deserialize_u64, visit_u64, u64;
        deserialize_i8, visit_i8, i8;
        deserialize_i16, visit_i16, i16;
        deserialize_i32, visit_i32, i32;
        deserialize_i64, visit_i64, i64;
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.text("true or false")? {
            "true" => visitor.visit_bool(true),
            "false" => visitor.visit_bool(false),
            _ => Err(Fault::custom("expected true or false").in_node(self)),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_str(self.text("text")?)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    /// A list is written as such in the file, and with commas where there is only text.
    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let in_file = matches!(self.place, Some(Place::File { .. }));
        let items = match &self.value {
            Value::Null => Vec::new(),
            Value::List(items) => items.clone(),
            Value::Scalar(text) if !in_file => text
                .split(',')
                .map(str::trim)
                .filter(|item| !item.is_empty())
                .map(|item| Node { place: self.place.clone(), value: Value::Scalar(item.to_owned()) })
                .collect(),
            _ => return Err(Fault::custom("expected a list").in_node(self)),
        };
        visitor.visit_seq(Items(items.into_iter()))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.value {
            Value::Null => visitor.visit_map(Entries { rest: [].iter(), current: None }),
            Value::Map(entries) => visitor.visit_map(Entries { rest: entries.iter(), current: None }),
            _ => Err(Fault::custom("expected a section of keys").in_node(self)),
        }
        .map_err(|fault| fault.in_node(self))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.deserialize_map(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let text: StrDeserializer<'_, Fault> = self.text(&one_of(variants))?.into_deserializer();
        visitor.visit_enum(text).map_err(|fault| fault.in_node(self))
    }

    /// Every setting has a type; what asks for none is read as text.
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }

    serde::forward_to_deserialize_any! {
        i128 u128 f32 f64 char bytes byte_buf unit unit_struct tuple tuple_struct identifier ignored_any
    }
}

struct Items(std::vec::IntoIter<Node>);

impl<'de> SeqAccess<'de> for Items {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Fault> {
        let Some(node) = self.0.next() else {
            return Ok(None);
        };
        seed.deserialize(&node).map(Some).map_err(|fault| fault.in_node(&node))
    }
}

struct Entries<'a> {
    rest: std::slice::Iter<'a, Entry>,
    current: Option<&'a Entry>,
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Fault> {
        self.current = self.rest.next();
        let Some(entry) = self.current else {
            return Ok(None);
        };
        let key: StrDeserializer<'_, Fault> = entry.key.as_str().into_deserializer();
        seed.deserialize(key).map(Some).map_err(|mut fault| {
            fault.place = entry.place.clone().map(Box::new);
            fault
        })
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Fault> {
        let entry = self.current.take().ok_or_else(|| Fault::custom("expected a key before its value"))?;
        seed.deserialize(&entry.node).map_err(|fault| fault.in_node(&entry.node).beneath(&entry.key))
    }
}
