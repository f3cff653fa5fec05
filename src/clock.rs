//! The clock of composers: when something was told, raised or accepted.
//!
//! Owns nothing. Must never date what packets show: that is packet time.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::model::Time;

/// Now, by the system's clock, on which packets and API objects are dated as well.
pub(crate) fn now() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Time(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}
