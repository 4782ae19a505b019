//! Bounds: what a scenario demands of the figures, such as `lanes.reliable.lost == 0` or
//! `windows.attack.latency.p99_ms <= 2 * windows.calm.latency.p99_ms`.
//!
//! A bound compares two sums of products of numbers and paths into the report's JSON ([`crate::figures::Report`]).
//! A path whose names have other characters than letters, digits, `_` and `-` quotes them:
//! `server.metrics."drops{cause=receiver_slow}".1`. A path that leads to nothing, or to something that is not a
//! number, breaks the bound, and the sentence says so: a scenario that measures nothing has shown nothing.

use std::fmt;

use serde::Deserialize;
use serde_json::Value;

use crate::figures;

/// A bound that parsed.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "String")]
pub struct Bound {
    text: String,
    left: Sum,
    comparison: Comparison,
    right: Sum,
}

/// Why a text is no bound.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{text}\" is no bound: {expected} is expected {place}; an example is `lanes.messages.latency.p95_ms < 100`"
)]
pub struct BoundError {
    text: String,
    expected: &'static str,
    place: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Less,
    AtMost,
    More,
    AtLeast,
    Equal,
}

/// Products, each with whether it is subtracted.
#[derive(Clone, Debug, PartialEq)]
struct Sum(Vec<(bool, Product)>);

/// Factors, each with whether it divides.
#[derive(Clone, Debug, PartialEq)]
struct Product(Vec<(bool, Factor)>);

#[derive(Clone, Debug, PartialEq)]
enum Factor {
    Number(f64),
    Path(Path),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Path(Vec<String>);

/// What a path leads to nothing of.
type Missing = String;

impl Bound {
    /// Parses a bound.
    pub fn parse(text: &str) -> Result<Self, BoundError> {
        let mut parser = Parser { text, at: 0 };
        let left = parser.sum()?;
        let comparison = parser.comparison()?;
        let right = parser.sum()?;
        if parser.peek().is_some() {
            return Err(parser.error("the end"));
        }
        Ok(Self { text: text.trim().to_owned(), left, comparison, right })
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Holds it against a report's JSON.
    pub fn judge(&self, report: &Value) -> figures::Bound {
        let (left, right) = (self.left.value(report), self.right.value(report));
        let value = left.as_ref().ok().copied();
        let limit = right.as_ref().ok().copied();
        let (held, sentence) = match (&left, &right) {
            (Err(missing), _) | (_, Err(missing)) => {
                (false, format!("broken: {}: the run has no figure {missing}", self.text))
            }
            (Ok(value), Ok(limit)) => {
                let held = self.comparison.holds(*value, *limit);
                let word = if held { "held" } else { "broken" };
                let shown = Shown(*value);
                let against = match self.right.is_number() {
                    true => String::new(),
                    false => format!(" against {}", Shown(*limit)),
                };
                (held, format!("{word}: {}: it is {shown}{against}", self.text))
            }
        };
        figures::Bound { bound: self.text.clone(), value, limit, held, sentence }
    }
}

impl TryFrom<String> for Bound {
    type Error = BoundError;

    fn try_from(text: String) -> Result<Self, BoundError> {
        Self::parse(&text)
    }
}

impl Comparison {
    fn holds(self, left: f64, right: f64) -> bool {
        match self {
            Self::Less => left < right,
            Self::AtMost => left <= right,
            Self::More => left > right,
            Self::AtLeast => left >= right,
            // Counts are exact in a double; what is measured is not compared like this.
            Self::Equal => (left - right).abs() < f64::EPSILON,
        }
    }
}

impl Sum {
    fn value(&self, report: &Value) -> Result<f64, Missing> {
        let mut sum = 0.0;
        for (minus, product) in &self.0 {
            let value = product.value(report)?;
            sum += if *minus { -value } else { value };
        }
        Ok(sum)
    }

    fn is_number(&self) -> bool {
        matches!(&self.0[..], [(false, Product(factors))] if matches!(&factors[..], [(false, Factor::Number(_))]))
    }
}

impl Product {
    fn value(&self, report: &Value) -> Result<f64, Missing> {
        let mut product = 1.0;
        for (divides, factor) in &self.0 {
            let value = match factor {
                Factor::Number(number) => *number,
                Factor::Path(path) => path.value(report)?,
            };
            product = if *divides { product / value } else { product * value };
        }
        Ok(product)
    }
}

impl Path {
    fn value(&self, report: &Value) -> Result<f64, Missing> {
        let mut value = report;
        for name in &self.0 {
            value = match value {
                Value::Array(entries) => name.parse().ok().and_then(|at: usize| entries.get(at)),
                other => other.get(name),
            }
            .ok_or_else(|| self.to_string())?;
        }
        value.as_f64().ok_or_else(|| self.to_string())
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("."))
    }
}

/// A figure with as many digits as help.
struct Shown(f64);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.fract().abs() < f64::EPSILON {
            write!(f, "{:.0}", self.0)
        } else if self.0.abs() < 1.0 {
            write!(f, "{:.4}", self.0)
        } else {
            write!(f, "{:.2}", self.0)
        }
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl Parser<'_> {
    fn sum(&mut self) -> Result<Sum, BoundError> {
        let mut products = vec![(self.take("-"), self.product()?)];
        loop {
            let minus = match self.peek() {
                Some('+') => false,
                Some('-') => true,
                _ => return Ok(Sum(products)),
            };
            self.at += 1;
            products.push((minus, self.product()?));
        }
    }

    fn product(&mut self) -> Result<Product, BoundError> {
        let mut factors = vec![(false, self.factor()?)];
        loop {
            let divides = match self.peek() {
                Some('*') => false,
                Some('/') => true,
                _ => return Ok(Product(factors)),
            };
            self.at += 1;
            factors.push((divides, self.factor()?));
        }
    }

    fn factor(&mut self) -> Result<Factor, BoundError> {
        const EXPECTED: &str = "a number or the path of a figure";
        match self.peek() {
            Some(c) if c.is_ascii_digit() => {
                let number = self.while_in(|c| c.is_ascii_digit() || c == '.' || c == '_').replace('_', "");
                number.parse().map(Factor::Number).map_err(|_| self.error(EXPECTED))
            }
            Some(c) if c.is_ascii_alphabetic() => {
                let mut names = Vec::new();
                loop {
                    names.push(self.name()?);
                    if !self.text[self.at..].starts_with('.') {
                        return Ok(Factor::Path(Path(names)));
                    }
                    self.at += 1;
                }
            }
            _ => Err(self.error(EXPECTED)),
        }
    }

    fn name(&mut self) -> Result<String, BoundError> {
        const EXPECTED: &str = "the name of a figure";
        if self.text[self.at..].starts_with('"') {
            let rest = &self.text[self.at + 1..];
            let end = rest.find('"').ok_or_else(|| self.error("a closing quote"))?;
            self.at += end + 2;
            return Ok(rest[..end].to_owned());
        }
        let name = self.while_in(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
        if name.is_empty() { Err(self.error(EXPECTED)) } else { Ok(name.to_owned()) }
    }

    fn comparison(&mut self) -> Result<Comparison, BoundError> {
        self.peek();
        for (sign, comparison) in [
            ("<=", Comparison::AtMost),
            (">=", Comparison::AtLeast),
            ("==", Comparison::Equal),
            ("<", Comparison::Less),
            (">", Comparison::More),
        ] {
            if self.take(sign) {
                return Ok(comparison);
            }
        }
        Err(self.error("one of <, <=, >, >= and =="))
    }

    /// The next character that is not a space, which stays.
    fn peek(&mut self) -> Option<char> {
        let rest = &self.text[self.at..];
        self.at += rest.len() - rest.trim_start().len();
        self.text[self.at..].chars().next()
    }

    fn take(&mut self, sign: &str) -> bool {
        self.peek();
        let taken = self.text[self.at..].starts_with(sign);
        self.at += if taken { sign.len() } else { 0 };
        taken
    }

    fn while_in(&mut self, belongs: impl Fn(char) -> bool) -> &str {
        let rest = &self.text[self.at..];
        let length = rest.find(|c| !belongs(c)).unwrap_or(rest.len());
        self.at += length;
        &rest[..length]
    }

    fn error(&self, expected: &'static str) -> BoundError {
        let rest = self.text[self.at..].trim();
        let place = if rest.is_empty() { "at the end".to_owned() } else { format!("before \"{rest}\"") };
        BoundError { text: self.text.to_owned(), expected, place }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn report() -> Value {
        json!({
            "lanes": { "reliable": { "lost": 3, "latency": { "p95_ms": 12.5 } } },
            "windows": {
                "calm": { "latency": { "p99_ms": 10.0 } },
                "attack": { "latency": { "p99_ms": 25.0 } },
            },
            "server": { "pid": null, "metrics": { "drops{cause=slow}": [1.0, 4.0] } },
        })
    }

    fn judged(text: &str) -> figures::Bound {
        Bound::parse(text).unwrap().judge(&report())
    }

    #[test]
    fn figures_are_compared_with_numbers_and_with_each_other() {
        for (text, held) in [
            ("lanes.reliable.lost == 3", true),
            ("lanes.reliable.lost == 0", false),
            ("lanes.reliable.lost<=2", false),
            ("lanes.reliable.latency.p95_ms < 100", true),
            ("lanes.reliable.latency.p95_ms > 12.5", false),
            ("lanes.reliable.latency.p95_ms >= 12.5", true),
            ("windows.attack.latency.p99_ms <= 2 * windows.calm.latency.p99_ms", false),
            ("windows.attack.latency.p99_ms <= 2 * windows.calm.latency.p99_ms + 5", true),
            ("windows.attack.latency.p99_ms / windows.calm.latency.p99_ms - 1 < 1.6", true),
            ("-1 < lanes.reliable.lost", true),
            ("server.metrics.\"drops{cause=slow}\".1 - server.metrics.\"drops{cause=slow}\".0 == 3", true),
        ] {
            assert_eq!(judged(text).held, held, "{text}: {:?}", judged(text));
        }
    }

    #[test]
    fn the_sentence_says_what_was_measured_and_against_what() {
        assert_eq!(judged("lanes.reliable.lost == 0").sentence, "broken: lanes.reliable.lost == 0: it is 3");
        let sentence = judged("windows.attack.latency.p99_ms <= 2 * windows.calm.latency.p99_ms").sentence;
        assert!(sentence.ends_with("it is 25 against 20"), "{sentence}");
    }

    #[test]
    fn what_is_not_there_breaks_a_bound_and_is_named() {
        for text in
            ["lanes.lossy.lost == 0", "lanes.reliable.lots == 0", "server.pid > 0", "lanes.reliable < 1"]
        {
            let judged = judged(text);
            assert!(!judged.held, "{text}");
            let path = text.split(' ').next().unwrap();
            assert_eq!(judged.sentence, format!("broken: {text}: the run has no figure {path}"));
        }
    }

    #[test]
    fn a_division_by_nothing_breaks_a_bound() {
        assert!(!judged("lanes.reliable.lost / 0 < 5").held);
        assert!(!judged("0 / 0 < 5").held);
    }

    #[test]
    fn what_is_no_bound_is_refused_with_what_is_expected_where() {
        for (text, expected) in [
            ("", "a number or the path of a figure is expected at the end"),
            ("lanes.reliable.lost", "one of <, <=, >, >= and == is expected at the end"),
            ("lanes.reliable.lost = 0", "one of <, <=, >, >= and == is expected before \"= 0\""),
            ("lanes.reliable.lost == ", "a number or the path of a figure is expected at the end"),
            ("lanes.reliable.lost == 0 0", "the end is expected before \"0\""),
            ("lanes..lost == 0", "the name of a figure is expected before \".lost == 0\""),
            ("a.\"b == 0", "a closing quote is expected"),
            ("1.2.3 == 0", "a number or the path"),
            ("lanes.löst == 0", "one of <"),
        ] {
            let error = Bound::parse(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
