//! Durations as people write them, for serde's `with`: a whole number and `s`, `m`, `h` or `d`.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

/// The largest first, in seconds.
const UNITS: [(char, u64); 4] = [('d', 86_400), ('h', 3600), ('m', 60), ('s', 1)];

pub(super) fn write(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let unit = UNITS.into_iter().find(|(_, unit)| seconds > 0 && seconds.is_multiple_of(*unit));
    let (name, unit) = unit.unwrap_or(('s', 1));
    format!("{}{name}", seconds / unit)
}

fn read(text: &str) -> Option<Duration> {
    let name = text.chars().next_back()?;
    let (_, unit) = UNITS.into_iter().find(|(known, _)| *known == name)?;
    let number = &text[..text.len() - 1];
    let is_whole = number.bytes().all(|digit| digit.is_ascii_digit());
    let seconds = number.parse::<u64>().ok().filter(|_| is_whole)?.checked_mul(unit)?;
    Some(Duration::from_secs(seconds))
}

pub(super) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&write(*duration))
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    read(&text).ok_or_else(|| D::Error::custom("expected a duration such as 30s, 5m, 1h or 7d"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_written() {
        for (text, seconds) in
            [("0s", 0), ("30s", 30), ("90s", 90), ("5m", 300), ("1h", 3600), ("7d", 604_800)]
        {
            assert_eq!(read(text), Some(Duration::from_secs(seconds)));
            assert_eq!(write(Duration::from_secs(seconds)), text);
        }
        for text in ["", "s", "30", "+3s", "3 s", "3ms", "99999999999999999999s", "ü"] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
