//! The system's clock, for the time at which a batch was made, an alert raised, or a baseline
//! accepted.
//!
//! Owns nothing. Must never date what packets show: that is packet time.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::model::Time;

/// The current time of the system's clock. Packets and API objects are dated by the same clock.
pub(crate) fn now() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Time(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}
