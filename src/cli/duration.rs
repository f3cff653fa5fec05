//! Lengths of time as people write them, read in the same way for all options.

use std::time::Duration;

use jiff::{Span, SpanRelativeTo};

/// Reads a length of time: `30s`, `1h30m`, `7d` (days have 24 hours), `1.5h`, `500ms`. A number
/// without a unit means seconds.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let help = |why: &dyn std::fmt::Display| format!("{why}; write 30s, 5m, 1h30m or 7d");
    let text = text.trim();
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).map_err(|e| help(&e));
    }
    let span: Span = text.parse().map_err(|e| help(&e))?;
    let signed = span.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(|e| help(&e))?;
    Duration::try_from(signed).map_err(|_| help(&"a time is not negative"))
}

/// The same in nanoseconds, at most 584 years.
pub(super) fn nanoseconds(text: &str) -> Result<u64, String> {
    duration(text).map(|d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_of_time_is_read_or_refused_with_an_example() {
        for (text, millis) in [
            ("0s", 0),
            ("0", 0),
            ("90", 90_000),
            ("0.5", 500),
            ("10ms", 10),
            ("30s", 30_000),
            ("5m", 300_000),
            ("1h30m", 5_400_000),
            ("1.5h", 5_400_000),
            ("1h 30m", 5_400_000),
            ("30d", 30 * 86_400_000),
            ("1d12h", 36 * 3_600_000),
            ("2w", 14 * 86_400_000),
            ("PT1H", 3_600_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
            assert_eq!(nanoseconds(text), Ok(millis * 1_000_000), "{text}");
        }
        for text in
            ["", "s", "5 parsecs", "-5s", "-1", "1mo", "nan", "inf", "1e300", "99999999999d", "5m6"]
        {
            let why = duration(text).unwrap_err();
            assert!(why.ends_with("; write 30s, 5m, 1h30m or 7d"), "{text}: {why}");
        }
    }
}
