//! Queues of flows in the order in which they expire.
//!
//! Owns the order, and fetching flows before they are removed. Must never decide when a flow is
//! due.

use std::collections::VecDeque;

use crate::flow::slots::FlowSlots;
use crate::observation::Nanos;

/// Entries at the front of a queue whose flows are fetched together. Most of them were not read
/// for a long time: one by one, waiting for memory would be most of the cost of removing them.
const FETCHED_TOGETHER: usize = 32;

/// Deadline, slot and stamp of a flow in a queue.
pub(super) type ExpiryEntry = (Nanos, u32, u32);

/// Flows in the order in which they expire.
#[derive(Debug, Default)]
pub(super) struct ExpiryQueue {
    pub entries: VecDeque<ExpiryEntry>,
    /// Entries at the front whose flows were fetched.
    pub fetched: usize,
}

impl ExpiryQueue {
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// The entry at the front. Fetches its flow, and those of the next entries.
    pub(super) fn front(&mut self, slots: &FlowSlots) -> Option<ExpiryEntry> {
        if self.fetched == 0 && !self.entries.is_empty() {
            self.fetched = self.entries.len().min(FETCHED_TOGETHER);
            slots.fetch(self.entries.range(..self.fetched).map(|(_, slot, _)| *slot));
        }
        self.entries.front().copied()
    }

    pub(super) fn pop_front(&mut self) {
        self.entries.pop_front();
        self.fetched = self.fetched.saturating_sub(1);
    }
}
