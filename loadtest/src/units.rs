//! Quantities as people write them: `40ms`, `5Mbit/s`, `2%`, `64kB`.

use std::{fmt, str::FromStr, time::Duration};

use serde::{
    Deserialize, Deserializer,
    de::{self, Visitor},
};

/// A number, or a number with its unit.
pub enum Scalar {
    /// Without a unit.
    Number(f64),
    /// With one.
    Text(String),
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl Visitor<'_> for Either {
            type Value = Scalar;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a number, with its unit if it has one")
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Scalar, E> {
                Ok(Scalar::Number(number as f64))
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Scalar, E> {
                Ok(Scalar::Number(number as f64))
            }

            fn visit_f64<E: de::Error>(self, number: f64) -> Result<Scalar, E> {
                Ok(Scalar::Number(number))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Scalar, E> {
                Ok(Scalar::Text(text.to_owned()))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl fmt::Display for Scalar {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(formatter, "{number}"),
            Self::Text(text) => write!(formatter, "{text:?}"),
        }
    }
}

impl Scalar {
    /// The number in the smallest of the units, if it is not negative; without a unit, only 0 means anything.
    fn in_units(&self, units: &[(&str, f64)]) -> Option<f64> {
        let value = match self {
            Self::Number(number) => (*number == 0.0).then_some(0.0)?,
            Self::Text(text) => {
                let end = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
                let (number, unit) = text.split_at(end);
                let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim_start())?;
                number.parse::<f64>().ok()? * factor
            }
        };
        (value.is_finite() && value >= 0.0).then_some(value)
    }
}

/// A length of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Scalar")]
pub struct Time(pub Duration);

/// A day: no simulated network has to do with more, and sums of instants stay representable.
const LONGEST_SECONDS: f64 = 86_400.0;

impl TryFrom<Scalar> for Time {
    type Error = String;

    fn try_from(scalar: Scalar) -> Result<Self, String> {
        scalar
            .in_units(&[("us", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("min", 60.0), ("h", 3600.0)])
            .filter(|seconds| *seconds <= LONGEST_SECONDS)
            .map(|seconds| Self(Duration::from_nanos((seconds * 1e9).round() as u64)))
            .ok_or_else(|| format!("{scalar} is no time of at most a day; allowed is a number with us, ms, s, m or h, such as 40ms"))
    }
}

impl FromStr for Time {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::try_from(Scalar::Text(text.to_owned()))
    }
}

/// How often something happens, each second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(try_from = "Scalar")]
pub struct Frequency(pub f64);

impl TryFrom<Scalar> for Frequency {
    type Error = String;

    fn try_from(scalar: Scalar) -> Result<Self, String> {
        let frequency = match scalar {
            Scalar::Number(number) => Some(number),
            Scalar::Text(_) => scalar.in_units(&[("/s", 1.0), ("/min", 1.0 / 60.0), ("/h", 1.0 / 3600.0)]),
        };
        frequency.filter(|frequency| (0.0..=1e9).contains(frequency)).map(Self).ok_or_else(|| {
            format!("{scalar} is no frequency; allowed is a number each second, or one with /s, /min or /h, such as 6/min")
        })
    }
}

impl FromStr for Frequency {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::try_from(text.parse().map_or_else(|_| Scalar::Text(text.to_owned()), Scalar::Number))
    }
}

/// Bits a second.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "Scalar")]
pub struct Rate(pub u64);

impl TryFrom<Scalar> for Rate {
    type Error = String;

    fn try_from(scalar: Scalar) -> Result<Self, String> {
        scalar
            .in_units(&[("bit/s", 1.0), ("kbit/s", 1e3), ("Mbit/s", 1e6), ("Gbit/s", 1e9)])
            .filter(|rate| (1_000.0..=1e12).contains(rate))
            .map(|rate| Self(rate.round() as u64))
            .ok_or_else(|| {
                format!("{scalar} is no rate from 1kbit/s to 1000Gbit/s; allowed is a number with bit/s, kbit/s, Mbit/s or Gbit/s, such as 5Mbit/s")
            })
    }
}

/// A share or a probability, 0 to 1.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "Scalar")]
pub struct Share(pub f64);

impl TryFrom<Scalar> for Share {
    type Error = String;

    fn try_from(scalar: Scalar) -> Result<Self, String> {
        let share = match scalar {
            Scalar::Number(number) => Some(number),
            Scalar::Text(_) => scalar.in_units(&[("%", 0.01)]),
        };
        share
            .filter(|share| (0.0..=1.0).contains(share))
            .map(Self)
            .ok_or_else(|| format!("{scalar} is no share; allowed is 0 to 1, or 0% to 100%, such as 2%"))
    }
}

/// An amount of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Scalar")]
pub struct Size(pub usize);

impl TryFrom<Scalar> for Size {
    type Error = String;

    fn try_from(scalar: Scalar) -> Result<Self, String> {
        let bytes = match scalar {
            Scalar::Number(number) => Some(number),
            Scalar::Text(_) => scalar.in_units(&[
                ("B", 1.0),
                ("kB", 1e3),
                ("MB", 1e6),
                ("KiB", 1024.0),
                ("MiB", 1_048_576.0),
            ]),
        };
        bytes.filter(|bytes| bytes.fract() == 0.0 && (0.0..=1e9).contains(bytes)).map(|bytes| Self(bytes as usize)).ok_or_else(
            || format!("{scalar} is no size of at most 1000MB; allowed is a whole number, with B, kB, MB, KiB or MiB if it has a unit, such as 64kB"),
        )
    }
}
