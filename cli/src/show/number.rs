//! Numbers as people read them.
//!
//! Owns: thousands separators, the units of measures, changes in percent, and ages.
//! Does not own: which numbers there are.

/// What a measure's number is a number of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Things.
    Count,
    /// Milliseconds.
    Milliseconds,
    /// Bytes.
    Bytes,
}

impl Unit {
    /// The unit that a measure's name tells: `load_ms.p95` is in milliseconds, `load_ms.count` is a count.
    pub(crate) fn of(measure: &str) -> Self {
        let (name, reading) = measure.split_once('.').unwrap_or((measure, ""));
        match name {
            _ if reading == "count" => Self::Count,
            name if name.ends_with("_ms") => Self::Milliseconds,
            name if name == "bytes" || name.ends_with("_bytes") => Self::Bytes,
            _ => Self::Count,
        }
    }
}

/// `1,234,567`
pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A whole number of a unit: `1,234`, `180 ms`, `1.2 MiB`.
pub(crate) fn integer(number: u64, unit: Unit) -> String {
    match unit {
        Unit::Count => thousands(number),
        Unit::Milliseconds => format!("{} ms", thousands(number)),
        Unit::Bytes => bytes(number as f64),
    }
}

/// A number of a unit, to one digit: `1,234.5`, `180.3 ms`.
pub(crate) fn decimal(number: f64, unit: Unit) -> String {
    match unit {
        Unit::Count => tenths(number),
        Unit::Milliseconds => format!("{} ms", tenths(number)),
        Unit::Bytes => bytes(number),
    }
}

fn tenths(number: f64) -> String {
    // Floats beyond 2^53 have no tenths; the cast saturates.
    let in_tenths = (number.abs() * 10.0).round() as u64;
    let sign = if number < 0.0 && in_tenths > 0 { "-" } else { "" };
    format!("{sign}{}.{}", thousands(in_tenths / 10), in_tenths % 10)
}

fn bytes(number: f64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if number < 1024.0 {
        return format!("{number:.0} B");
    }
    let (mut left, mut unit) = (number / 1024.0, 0);
    // 1,023.96 would be written as 1,024.0.
    while left >= 1023.95 && unit + 1 < UNITS.len() {
        left /= 1024.0;
        unit += 1;
    }
    format!("{left:.1} {}", UNITS[unit])
}

/// The change from `then` to `now`: `+12.3%`, `-4.0%`, `new` where there was nothing, `=` where nothing changed.
pub(crate) fn change(now: f64, then: f64) -> String {
    if now == then {
        return "=".to_owned();
    }
    if then == 0.0 {
        return "new".to_owned();
    }
    let percent = (now - then) / then * 100.0;
    match percent.abs() < 999.95 {
        true => format!("{percent:+.1}%"),
        false => {
            format!("{}{}%", if percent < 0.0 { '-' } else { '+' }, thousands(percent.abs().round() as u64))
        }
    }
}

/// A share as a percentage: `0.81 %`, `33 %`.
pub(crate) fn percentage(share: f64) -> String {
    let percent = share * 100.0;
    let text = if percent < 10.0 { format!("{percent:.2}") } else { format!("{percent:.0}") };
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text} %")
}

/// A length of time: `40 ms`, `1.2 s`, `3 min`, `5 h`, `2 days`.
pub(crate) fn age(ms: u64) -> String {
    const SECOND: u64 = 1_000;
    const MINUTE: u64 = 60 * SECOND;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    match ms {
        _ if ms < SECOND => format!("{ms} ms"),
        _ if ms < MINUTE => format!("{:.1} s", (ms - ms % 100) as f64 / 1000.0),
        _ if ms < HOUR => format!("{} min", ms / MINUTE),
        _ if ms < 2 * DAY => format!("{} h", ms / HOUR),
        _ => format!("{} days", thousands(ms / DAY)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_separated() {
        for (number, text) in [
            (0, "0"),
            (999, "999"),
            (1_000, "1,000"),
            (12_345, "12,345"),
            (u64::MAX, "18,446,744,073,709,551,615"),
        ] {
            assert_eq!(thousands(number), text);
        }
    }

    #[test]
    fn the_unit_of_a_measure_is_in_its_name() {
        for (name, unit) in [
            ("views", Unit::Count),
            ("load_ms.p95", Unit::Milliseconds),
            ("load_ms.count", Unit::Count),
            ("engaged_ms", Unit::Milliseconds),
            ("bytes", Unit::Bytes),
            ("body_bytes.p99", Unit::Bytes),
            ("items", Unit::Count),
        ] {
            assert_eq!(Unit::of(name), unit, "{name}");
        }
    }

    #[test]
    fn numbers_have_their_unit() {
        assert_eq!(integer(1_234, Unit::Count), "1,234");
        assert_eq!(integer(1_234, Unit::Milliseconds), "1,234 ms");
        assert_eq!(decimal(1_234.56, Unit::Milliseconds), "1,234.6 ms");
        assert_eq!(decimal(-0.01, Unit::Count), "0.0");
        for (number, text) in [
            (0, "0 B"),
            (1_023, "1023 B"),
            (1_024, "1.0 KiB"),
            (1_536, "1.5 KiB"),
            ((1 << 20) - 1, "1.0 MiB"),
            (5 << 40, "5.0 TiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(integer(number, Unit::Bytes), text);
        }
    }

    #[test]
    fn a_change_is_signed_and_says_when_there_was_nothing_before() {
        for (now, then, text) in [
            (110.0, 100.0, "+10.0%"),
            (96.0, 100.0, "-4.0%"),
            (0.0, 100.0, "-100.0%"),
            (5.0, 0.0, "new"),
            (0.0, 0.0, "="),
            (5.0, 5.0, "="),
            (1_250.0, 100.0, "+1,150%"),
        ] {
            assert_eq!(change(now, then), text);
        }
    }

    #[test]
    fn shares_and_ages_are_short() {
        for (share, text) in [(0.0081, "0.81 %"), (0.01, "1 %"), (0.328, "33 %"), (1.0, "100 %")] {
            assert_eq!(percentage(share), text);
        }
        for (ms, text) in [
            (40, "40 ms"),
            (1_290, "1.2 s"),
            (59_999, "59.9 s"),
            (200_000, "3 min"),
            (7_200_000, "2 h"),
            (400_000_000, "4 days"),
        ] {
            assert_eq!(age(ms), text);
        }
    }
}
