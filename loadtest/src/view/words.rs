//! Figures as people read them: three digits that matter, and a unit.

/// A duration in milliseconds, with the unit that suits it: `0.42 ms`, `12.3 ms`, `1.25 s`, `2 min 5 s`.
pub(super) fn ms(ms: f64) -> String {
    if !ms.is_finite() {
        return "–".to_owned();
    }
    match ms.abs() {
        size if size < 1_000.0 => format!("{} ms", digits(ms)),
        size if size < 60_000.0 => format!("{} s", digits(ms / 1_000.0)),
        _ => seconds(ms / 1_000.0),
    }
}

/// A length of time in seconds: `42 s`, `2 min 5 s`, `1 h 20 min`.
pub(super) fn seconds(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return "–".to_owned();
    }
    if seconds < 10.0 && seconds.fract() != 0.0 {
        return format!("{seconds:.1} s");
    }
    let whole = seconds.round() as u64;
    let (hours, minutes, rest) = (whole / 3_600, whole / 60 % 60, whole % 60);
    match (hours, minutes, rest) {
        (0, 0, _) => format!("{rest} s"),
        (0, _, 0) => format!("{minutes} min"),
        (0, _, _) => format!("{minutes} min {rest} s"),
        (_, 0, _) => format!("{hours} h"),
        _ => format!("{hours} h {minutes} min"),
    }
}

/// A whole number, its thousands apart: `1,234,567`.
pub(super) fn count(count: u64) -> String {
    let plain = count.to_string();
    let mut out = String::with_capacity(plain.len() + plain.len() / 3);
    for (at, digit) in plain.chars().enumerate() {
        if at > 0 && (plain.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A whole number in at most five signs: `950`, `12.3k`, `4.56M`.
pub(super) fn short(value: f64) -> String {
    match value.abs() {
        size if size < 999.5 => digits(value),
        size if size < 999_500.0 => format!("{}k", digits(value / 1e3)),
        size if size < 999_500_000.0 => format!("{}M", digits(value / 1e6)),
        _ => format!("{}G", digits(value / 1e9)),
    }
}

/// Bytes in powers of 1024: `812 B`, `4.20 KiB`, `1.50 GiB`.
pub(super) fn bytes(bytes: f64) -> String {
    let (mut value, mut unit) = (bytes, "B");
    for next in ["KiB", "MiB", "GiB", "TiB"] {
        if value.abs() < 1_023.5 {
            break;
        }
        (value, unit) = (value / 1_024.0, next);
    }
    format!("{} {unit}", digits(value))
}

/// A share of one as percents. Neither all nor nothing is said of what is only nearly so.
pub(super) fn percent(share: f64) -> String {
    let percent = share * 100.0;
    if !percent.is_finite() {
        return "–".to_owned();
    }
    if percent == 0.0 || percent == 100.0 {
        return format!("{percent:.0} %");
    }
    match percent {
        low if low.abs() < 0.01 => "<0.01 %".to_owned(),
        high if high > 99.99 && high < 100.0 => ">99.99 %".to_owned(),
        high if (99.0..100.0).contains(&high) => format!("{high:.2} %"),
        other => format!("{} %", digits(other)),
    }
}

/// Three digits that matter; whole numbers from 100 on, and as they are if they are whole.
pub(super) fn digits(value: f64) -> String {
    // The sum of no numbers is -0.
    let value = value + 0.0;
    if value.fract() == 0.0 && value.abs() < 1_000.0 {
        return format!("{value:.0}");
    }
    match value.abs() {
        size if size < 0.001 => "<0.001".to_owned(),
        size if size < 9.995 => format!("{value:.2}"),
        size if size < 99.95 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

/// A figure that is held against a limit: to four decimals, so that what is just beyond it is not shown as equal.
pub(super) fn exact(value: f64) -> String {
    if value.abs() >= 10_000.0 {
        return format!("{value:.0}");
    }
    let shown = format!("{value:.4}");
    shown.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// `1 user`, `2 users`.
pub(super) fn plural(number: u64, one: &str) -> String {
    format!("{} {one}{}", count(number), if number == 1 { "" } else { "s" })
}

/// A time since 1970 as UTC: `2026-11-20 15:04:05 UTC`.
pub(super) fn utc(unix_ms: u64) -> String {
    let seconds = unix_ms / 1_000;
    let (hour, minute, second) = (seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
    // Years begin in March here, so that the day which some years have more is the last (Hinnant, `civil_from_days`).
    let days = seconds / 86_400 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_the_unit_that_suits_them() {
        let cases = [
            (0.0, "0 ms"),
            (0.4211, "0.42 ms"),
            (12.34, "12.3 ms"),
            (999.4, "999 ms"),
            (1_250.0, "1.25 s"),
            (125_000.0, "2 min 5 s"),
            (4_800_000.0, "1 h 20 min"),
            (f64::NAN, "–"),
        ];
        for (value, words) in cases {
            assert_eq!(ms(value), words);
        }
    }

    #[test]
    fn numbers_are_short_and_none_loses_its_size() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(
            [-0.0, 950.0, 999.6, 12_345.0, 4.56e6].map(short),
            ["0", "950", "1.00k", "12.3k", "4.56M"]
        );
        assert_eq!(
            [0.0, 1_023.0, 4_300.0, 1.5 * 1_073_741_824.0].map(bytes),
            ["0 B", "1023 B", "4.20 KiB", "1.50 GiB"]
        );
    }

    #[test]
    fn nearly_all_is_not_all_and_nearly_nothing_is_something() {
        let cases = [0.0, 0.000_01, 0.012_3, 0.5, 0.995, 0.999_99, 1.0];
        assert_eq!(cases.map(percent), ["0 %", "<0.01 %", "1.23 %", "50 %", "99.50 %", ">99.99 %", "100 %"]);
    }

    #[test]
    fn a_figure_just_beyond_its_limit_is_not_shown_as_equal() {
        let values = [0.0, 0.9896, 0.99, 12.5, 5_000.0, 123_456.7];
        assert_eq!(values.map(exact), ["0", "0.9896", "0.99", "12.5", "5000", "123457"]);
    }

    #[test]
    fn days_are_those_of_the_calendar() {
        assert_eq!(utc(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(utc(951_782_400_000), "2000-02-29 00:00:00 UTC");
        assert_eq!(utc(1_795_187_045_000), "2026-11-20 15:04:05 UTC");
    }
}
