//! Durations and sizes as people write them: `500ms`, `30s`, `5m`, `1h`; `64KiB`, `1MiB`, or plain bytes.
//!
//! They stand here, and not with the server's configuration, because that reads its own by them too, and this crate
//! imports nothing of ours.

use std::time::Duration;

/// Units of time, the largest first, in milliseconds.
const TIMES: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// Units of size, the largest first, in bytes.
const SIZES: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

/// Text that is no duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected a duration such as 500ms, 30s, 5m, 1h or 7d")]
pub struct BadDuration;

/// Reads a whole number with a unit.
///
/// # Errors
/// On anything else, a missing unit included: `30` would leave open thirty of what.
pub fn parse_duration(text: &str) -> Result<Duration, BadDuration> {
    let (number, unit) = split(text).ok_or(BadDuration)?;
    let (_, millis) = TIMES.into_iter().find(|(name, _)| *name == unit).ok_or(BadDuration)?;
    number.checked_mul(millis).map(Duration::from_millis).ok_or(BadDuration)
}

fn parse_size(text: &str) -> Option<u64> {
    let (number, unit) = split(text)?;
    let bytes = match unit {
        "" => 1,
        _ => SIZES.into_iter().find(|(name, _)| *name == unit)?.1,
    };
    number.checked_mul(bytes)
}

/// The digits at the front, and what follows.
fn split(text: &str) -> Option<(u64, &str)> {
    let end = text.bytes().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    Some((text[..end].parse().ok()?, &text[end..]))
}

/// `value` in the largest unit that leaves no remainder.
fn write(value: u64, units: &[(&str, u64)]) -> String {
    match units.iter().find(|(_, unit)| value > 0 && value.is_multiple_of(*unit)) {
        Some((name, unit)) => format!("{}{name}", value / unit),
        None => value.to_string(),
    }
}

/// `value` in the largest unit that leaves no remainder, as [`parse_duration`] reads it.
#[must_use]
pub fn write_duration(value: Duration) -> String {
    match u64::try_from(value.as_millis()) {
        Ok(0) => "0s".to_owned(),
        Ok(millis) => write(millis, &TIMES),
        Err(_) => write(u64::MAX, &TIMES),
    }
}

/// For serde's `with`: a duration.
pub mod duration {
    use serde::{Deserializer, Serializer};

    use super::{BadDuration, Duration, parse_duration, write_duration};
    use crate::settings::values::parsed;

    /// # Errors
    /// [`BadDuration`], in the words of the deserializer.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        parsed(deserializer, &BadDuration.to_string(), |text| parse_duration(text).ok())
    }

    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&write_duration(*value))
    }
}

/// For serde's `with`: a duration that may be left out.
pub mod optional_duration {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::Duration;

    #[derive(Serialize, Deserialize)]
    struct Given(#[serde(with = "super::duration")] Duration);

    /// # Errors
    /// As [`super::duration::deserialize`].
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        Ok(Option::<Given>::deserialize(deserializer)?.map(|given| given.0))
    }

    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(value: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        value.map(Given).serialize(serializer)
    }
}

/// For serde's `with`: a number of bytes.
pub mod size {
    use serde::{Deserializer, Serializer, ser::Error as _};

    use super::{SIZES, parse_size, write};
    use crate::settings::values::parsed;

    /// # Errors
    /// On anything but a whole number, or one with a binary unit, that the type can hold.
    pub fn deserialize<'de, D: Deserializer<'de>, N: TryFrom<u64>>(deserializer: D) -> Result<N, D::Error> {
        parsed(deserializer, "expected a size such as 65536, 64KiB or 1MiB", |text| {
            parse_size(text).and_then(|bytes| bytes.try_into().ok())
        })
    }

    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer, N: Copy + TryInto<u64>>(
        value: &N,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let bytes = (*value).try_into().map_err(|_| S::Error::custom("no number of bytes"))?;
        serializer.serialize_str(&write(bytes, &SIZES))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("7d"), Ok(Duration::from_secs(7 * 86_400)));
        for wrong in [
            "30",
            "",
            "s",
            "-1s",
            "1.5s",
            "30 s",
            "1S",
            "99999999999999999999d",
            "9999999999999999d",
            "+3s",
            "3ü",
        ] {
            assert_eq!(parse_duration(wrong), Err(BadDuration), "{wrong}");
        }
    }

    #[test]
    fn sizes_are_bytes_or_have_a_binary_unit() {
        assert_eq!(parse_size("65536"), Some(65_536));
        assert_eq!(parse_size("64KiB"), Some(65_536));
        for wrong in ["64KB", "64 KiB", "KiB", "-1", "99999999999GiB"] {
            assert_eq!(parse_size(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn values_are_written_in_the_unit_that_reads_best() {
        assert_eq!(write_duration(Duration::from_secs(90)), "90s");
        assert_eq!(write_duration(Duration::from_secs(86_400)), "1d");
        assert_eq!(write_duration(Duration::from_millis(1500)), "1500ms");
        assert_eq!(write_duration(Duration::ZERO), "0s");
        assert_eq!(write(1 << 20, &SIZES), "1MiB");
        assert_eq!(write(1000, &SIZES), "1000");
        assert_eq!(write(0, &SIZES), "0");
    }
}
