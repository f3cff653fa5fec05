//! Packet time and the event time of API objects.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use jiff::fmt::temporal::DateTimePrinter;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Nanoseconds since the Unix epoch: packet time, or the event time of an API object. Never "now",
/// except in composers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Time(pub i64);

impl Time {
    /// The earliest time. It stands for a beginning that is not known.
    pub const MIN: Self = Self(i64::MIN);
    /// The latest time. It stands for an end that has not come.
    pub const MAX: Self = Self(i64::MAX);

    /// Whole seconds since the epoch, rounded down.
    pub fn seconds(self) -> i64 {
        self.0.div_euclid(1_000_000_000)
    }

    /// Nanoseconds from `earlier` to `self`, 0 where `earlier` is later.
    pub fn since(self, earlier: Self) -> u64 {
        u64::try_from(i128::from(self.0) - i128::from(earlier.0)).unwrap_or(0)
    }
}

/// Bytes of RFC 3339 in UTC, as long as it can get: `2026-01-01T20:40:00.123456789Z`.
const TEXT: usize = 30;

impl Time {
    /// RFC 3339 in UTC, without the zeros at its end. Every time that fits 64 bits, of the years
    /// 1677 to 2262, has one.
    fn text(self) -> String {
        static PRINTER: DateTimePrinter = DateTimePrinter::new();
        let mut out = String::with_capacity(TEXT);
        if let Ok(time) = Timestamp::from_nanosecond(self.0.into()) {
            // Writing into a string does not fail.
            let _ = PRINTER.print_timestamp(&time, &mut out);
        }
        out
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text())
    }
}

impl FromStr for Time {
    type Err = jiff::Error;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let nanos = s.parse::<Timestamp>()?.as_nanosecond();
        Ok(Self(i64::try_from(nanos).unwrap_or(if nanos < 0 { i64::MIN } else { i64::MAX })))
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.text())
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Text;
        impl de::Visitor<'_> for Text {
            type Value = Time;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a time as in RFC 3339")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Time, E> {
                text.parse().map_err(E::custom)
            }
        }
        d.deserialize_str(Text)
    }
}
