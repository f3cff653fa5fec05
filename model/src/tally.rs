//! How often something was seen, and when.
//!
//! Owns the counts and times of connections. Must never read a clock.

use serde::{Deserialize, Serialize};

use super::{Merge, Time};

/// How many connections, and when the first and the last of them was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tally {
    /// Number of connections.
    pub connections: u64,
    /// First packet of the first one.
    pub first_seen: Time,
    /// Last packet of the last one.
    pub last_seen: Time,
}

impl Tally {
    /// One connection (or, with `count` 0, more of one that was counted already).
    pub fn new(count: u64, first: Time, last: Time) -> Self {
        Self { connections: count, first_seen: first, last_seen: last }
    }
}

impl Merge for Tally {
    fn merge(&mut self, other: &Self) {
        self.connections = self.connections.saturating_add(other.connections);
        self.first_seen = self.first_seen.min(other.first_seen);
        self.last_seen = self.last_seen.max(other.last_seen);
    }
}
