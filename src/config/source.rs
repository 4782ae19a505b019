//! One tree of everything that was written, and where.
//!
//! File, environment and flags become [`Node`]s that remember their [`Place`]. Scalars stay text: what they
//! mean is decided by the setting they are given to (`de.rs`). Of YAML the tree takes mappings,
//! sequences and scalars; anchors, aliases and tags have no use in a configuration and are refused, which
//! also keeps a small file from growing into a large tree.

use std::ffi::OsString;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use saphyr_parser::{Event, Parser, ScalarStyle, Span};

use super::{ConfigError, ENVIRONMENT_PREFIX};

/// Deeper than any setting lies.
const MAX_DEPTH: usize = 8;

/// Where a key or value was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In the configuration file; line and column count from 1.
    File {
        /// The file as it was named.
        name: Arc<str>,
        /// Line.
        line: usize,
        /// Column, in characters.
        column: usize,
    },
    /// In this environment variable.
    Environment(Arc<str>),
    /// In this command-line flag.
    Flag(&'static str),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { name, line, column } => write!(f, "{name}:{line}:{column}"),
            Self::Environment(variable) => write!(f, "environment variable {variable}"),
            Self::Flag(flag) => f.write_str(flag),
        }
    }
}

/// A setting given on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flag {
    /// The flag as it is typed, for messages: `--port`.
    pub name: &'static str,
    /// The key it sets, for instance `http.port`.
    pub key: &'static str,
    /// The value as it was typed.
    pub value: String,
}

/// A value and where it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) place: Option<Place>,
    pub(super) value: Value,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    /// Nothing, `~` or `null`.
    Null,
    Scalar(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) key: String,
    /// Where the key, not the value, was written.
    pub(super) place: Option<Place>,
    pub(super) node: Node,
}

impl Node {
    /// The node that `path` (for instance `rtc.udp_port`, or `rooms.0` for the first of a list) leads to, if anybody wrote
    /// one.
    pub(super) fn find(&self, path: &str) -> Option<&Self> {
        path.split('.').try_fold(self, |node, key| match &node.value {
            Value::Map(entries) => entries.iter().find(|entry| entry.key == key).map(|entry| &entry.node),
            Value::List(items) => items.get(key.parse::<usize>().ok()?),
            _ => None,
        })
    }

    /// Puts `value` where `path` leads, in the place of what was there.
    fn put(&mut self, path: &str, place: &Place, value: Value) -> Result<(), ConfigError> {
        let (key, rest) = match path.split_once('.') {
            Some((key, rest)) => (key, Some(rest)),
            None => (path, None),
        };
        if self.value == Value::Null {
            self.value = Value::Map(Vec::new());
        }
        let Value::Map(entries) = &mut self.value else {
            return Err(written(
                self.place.as_ref().unwrap_or(place),
                format!("a value stands here, but {place} sets a key beneath it"),
            ));
        };
        let found = entries.iter().position(|entry| entry.key == key);
        let index = found.unwrap_or_else(|| {
            let node = Self { place: Some(place.clone()), value: Value::Null };
            entries.push(Entry { key: key.to_owned(), place: Some(place.clone()), node });
            entries.len() - 1
        });
        let node = &mut entries[index].node;
        match rest {
            Some(rest) => node.put(rest, place, value),
            None => {
                *node = Self { place: Some(place.clone()), value };
                Ok(())
            }
        }
    }
}

/// The file, overridden by the environment, overridden by the flags.
pub(super) fn merge(
    file: Option<(&Path, &str)>,
    environment: &[(OsString, OsString)],
    flags: &[Flag],
) -> Result<Node, ConfigError> {
    let mut root = match file {
        Some((path, text)) => parse(&path.display().to_string(), text)?,
        None => Node { place: None, value: Value::Null },
    };
    let mut variables: Vec<_> = environment
        .iter()
        .filter(|(name, _)| name.as_encoded_bytes().starts_with(ENVIRONMENT_PREFIX.as_bytes()))
        .collect();
    variables.sort();
    for (name, value) in variables {
        let place = Place::Environment(name.to_string_lossy().into());
        let (Some(name), Some(value)) = (name.to_str(), value.to_str()) else {
            return Err(written(&place, "name and value have to be UTF-8".to_owned()));
        };
        let path = name[ENVIRONMENT_PREFIX.len()..].to_ascii_lowercase().replace("__", ".");
        root.put(&path, &place, Value::Scalar(value.to_owned()))?;
    }
    for flag in flags {
        root.put(flag.key, &Place::Flag(flag.name), Value::Scalar(flag.value.clone()))?;
    }
    Ok(root)
}

fn written(place: &Place, problem: String) -> ConfigError {
    ConfigError::Written { place: place.clone(), problem }
}

fn parse(name: &str, text: &str) -> Result<Node, ConfigError> {
    let mut yaml = Yaml { name: name.into(), parser: Parser::new_from_str(text) };
    let root = yaml.document()?;
    Ok(root)
}

/// Turns the parser's events into nodes.
struct Yaml<'a> {
    name: Arc<str>,
    parser: Parser<'a, saphyr_parser::StrInput<'a>>,
}

impl<'a> Yaml<'a> {
    fn document(&mut self) -> Result<Node, ConfigError> {
        let mut root = None;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamEnd => {
                    return Ok(root.unwrap_or(Node { place: None, value: Value::Null }));
                }
                Event::StreamStart | Event::DocumentEnd | Event::Nothing => {}
                Event::DocumentStart(_) if root.is_some() => {
                    return Err(self.error(span, "a second YAML document begins here; one file holds one"));
                }
                Event::DocumentStart(_) => {
                    let (event, span) = self.next()?;
                    root = Some(self.node(event, span, 0)?);
                }
                _ => return Err(self.error(span, "expected the end of the file")),
            }
        }
    }

    fn node(&mut self, event: Event<'a>, span: Span, depth: usize) -> Result<Node, ConfigError> {
        if depth > MAX_DEPTH {
            return Err(self.error(span, "nested deeper than any setting"));
        }
        let place = Some(self.place(span));
        let value = match event {
            Event::Scalar(_, _, anchor, ref tag) if anchor != 0 || tag.is_some() => {
                return Err(self.fancy(span));
            }
            Event::SequenceStart(anchor, ref tag) | Event::MappingStart(anchor, ref tag)
                if anchor != 0 || tag.is_some() =>
            {
                return Err(self.fancy(span));
            }
            Event::Scalar(text, ScalarStyle::Plain, ..) if matches!(&*text, "" | "~" | "null") => Value::Null,
            Event::Scalar(text, ..) => Value::Scalar(text.into_owned()),
            Event::SequenceStart(..) => self.list(depth)?,
            Event::MappingStart(..) => self.map(depth)?,
            Event::Alias(_) => return Err(self.fancy(span)),
            _ => return Err(self.error(span, "expected a value")),
        };
        Ok(Node { place, value })
    }

    fn list(&mut self, depth: usize) -> Result<Value, ConfigError> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(Value::List(items)),
                (event, span) => items.push(self.node(event, span, depth + 1)?),
            }
        }
    }

    fn map(&mut self, depth: usize) -> Result<Value, ConfigError> {
        let mut entries: Vec<Entry> = Vec::new();
        loop {
            let (event, span) = self.next()?;
            let key = match event {
                Event::MappingEnd => return Ok(Value::Map(entries)),
                Event::Scalar(text, _, 0, None) => text.into_owned(),
                _ => return Err(self.error(span, "expected a key")),
            };
            if entries.iter().any(|entry| entry.key == key) {
                return Err(self.error(span, &format!("`{key}` is given twice in this section")));
            }
            let place = Some(self.place(span));
            let (event, span) = self.next()?;
            let node = self.node(event, span, depth + 1)?;
            entries.push(Entry { key, place, node });
        }
    }

    fn next(&mut self) -> Result<(Event<'a>, Span), ConfigError> {
        match self.parser.next() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => {
                let place = self.place(Span::empty(*error.marker()));
                Err(written(&place, format!("this is not YAML: {}", error.info())))
            }
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn place(&self, span: Span) -> Place {
        Place::File { name: self.name.clone(), line: span.start.line(), column: span.start.col() + 1 }
    }

    fn error(&self, span: Span, problem: &str) -> ConfigError {
        written(&self.place(span), problem.to_owned())
    }

    fn fancy(&self, span: Span) -> ConfigError {
        self.error(span, "anchors, aliases and tags are not understood here")
    }
}
