//! Packet time and the event time of API objects.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Nanoseconds since the Unix epoch: packet time, or the event time of an API object. Never "now",
/// except in composers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Time(pub i64);

impl Time {
    /// Before everything.
    pub const MIN: Self = Self(i64::MIN);
    /// After everything.
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

/// RFC 3339 in UTC, as long as it can get: `2026-01-01T20:40:00.123456789Z`.
const TEXT: usize = 30;

impl Time {
    /// Writes it as RFC 3339 in UTC, without the zeros at its end, and gives the length. A store
    /// holds a handful per dependency, so this is quick: the calendar of the nanoseconds that 64
    /// bits hold is that of the years 1677 to 2262.
    fn text(self, out: &mut [u8; TEXT]) -> usize {
        let digits = |out: &mut [u8], mut n: u32| {
            for digit in out.iter_mut().rev() {
                *digit = b'0' + (n % 10) as u8;
                n /= 10;
            }
        };
        let nanos = self.0.rem_euclid(1_000_000_000) as u32;
        let (days, second) =
            (self.seconds().div_euclid(86_400), self.seconds().rem_euclid(86_400) as u32);
        let (year, month, day) = civil(days);
        out.copy_from_slice(b"0000-00-00T00:00:00.000000000Z");
        digits(&mut out[..4], year);
        digits(&mut out[5..7], month);
        digits(&mut out[8..10], day);
        digits(&mut out[11..13], second / 3600);
        digits(&mut out[14..16], second / 60 % 60);
        digits(&mut out[17..19], second % 60);
        digits(&mut out[20..29], nanos);
        let mut length = TEXT - 1;
        while out[length - 1] == b'0' && length > 20 {
            length -= 1;
        }
        if length == 20 {
            length = 19;
        }
        out[length] = b'Z';
        length + 1
    }
}

/// Year, month and day of a day since the epoch, in the proleptic Gregorian calendar. Counted from
/// March, so that the leap day is the last of its year, in eras of 400 years of 146,097 days.
fn civil(days: i64) -> (u32, u32, u32) {
    let days = days + 719_468;
    let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let first = (153 * month + 2) / 5;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    ((era * 400 + year + next) as u32, month as u32, (day - first + 1) as u32)
}

/// Reads what [`Time::text`] writes; `None` for any other form.
fn plain(text: &[u8]) -> Option<Time> {
    let number = |from: usize, to: usize| {
        text[from..to]
            .iter()
            .try_fold(0i64, |n, b| b.is_ascii_digit().then(|| n * 10 + i64::from(b - b'0')))
    };
    let signs = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    if !(20..=TEXT).contains(&text.len())
        || text[text.len() - 1] != b'Z'
        || signs.iter().any(|(at, sign)| text[*at] != *sign)
    {
        return None;
    }
    let nanos = match text.len() {
        20 => 0,
        n if n > 21 && text[19] == b'.' => number(20, n - 1)? * 10i64.pow((TEXT - n) as u32),
        _ => return None,
    };
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    // Far from the ends of what 64 bits hold.
    if !(1700..=2200).contains(&year)
        || !(1..=12).contains(&month)
        || hour > 23
        || minute > 59
        || second > 59
    {
        return None;
    }
    let date = days(year, month, day);
    // A day that the month does not have is one of another month.
    if civil(date) != (year as u32, month as u32, day as u32) {
        return None;
    }
    Some(Time((((date * 24 + hour) * 60 + minute) * 60 + second) * 1_000_000_000 + nanos))
}

/// The reverse of [`civil`].
fn days(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let (era, year) = (year.div_euclid(400), year.rem_euclid(400));
    era * 146_097 + year * 365 + year / 4 - year / 100 + (153 * month + 2) / 5 + day - 1 - 719_468
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = [0; TEXT];
        let length = self.text(&mut out);
        f.pad(std::str::from_utf8(&out[..length]).unwrap_or_default())
    }
}

impl FromStr for Time {
    type Err = jiff::Error;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        if let Some(time) = plain(s.as_bytes()) {
            return Ok(time);
        }
        let nanos = s.parse::<jiff::Timestamp>()?.as_nanosecond();
        Ok(Self(i64::try_from(nanos).unwrap_or(if nanos < 0 { i64::MIN } else { i64::MAX })))
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut out = [0; TEXT];
        let length = self.text(&mut out);
        s.serialize_str(std::str::from_utf8(&out[..length]).unwrap_or_default())
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
