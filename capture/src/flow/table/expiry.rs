//! Expiry of flows on packet time, and eviction where the table is full.
//!
//! Owns the deadlines and the queues of them. Must never read a clock.

use super::FlowTable;
use super::queue::{ExpiryEntry, ExpiryQueue};
use crate::flow::slots::FlowSlots;
use crate::loss::CaptureCounters;
use crate::observation::{Nanos, Observation, Transport};

/// Flows with the same idle time, so that their queue is nearly sorted by deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ExpiryClass {
    Closed,
    Short,
    Long,
}

impl FlowTable {
    fn deadline(&self, slot: u32) -> Option<(Nanos, ExpiryClass)> {
        let (hot, entry) = self.slots.get(slot)?;
        // Where a call only arrives, it is not reported, and its end need not be awaited.
        let (idle, class) = if entry.closed
            || entry.forged
            || entry.only_arrives()
            || self.config.live && entry.translated_duplicate
        {
            (self.config.linger, ExpiryClass::Closed)
        } else if !entry.answered || hot.key.transport() != Transport::Tcp {
            (self.config.idle_short, ExpiryClass::Short)
        } else {
            (self.config.idle_established, ExpiryClass::Long)
        };
        Some((hot.last.saturating_add(idle), class))
    }

    pub(super) fn schedule(&mut self, slot: u32) {
        let Some((due, class)) = self.deadline(slot) else { return };
        self.stamp = self.stamp.wrapping_add(1);
        let stamp = self.stamp;
        let Some((_, entry)) = self.slots.get_mut(slot) else { return };
        entry.stamp = stamp;
        self.queue(class).0.entries.push_back((due, slot, stamp));
        self.drop_stale_entries(class);
    }

    /// Removes the entries of a queue whose flows are removed or have a later entry. Entries in
    /// front are removed by expiry. Behind an entry that is not due there may be any number of
    /// them.
    fn drop_stale_entries(&mut self, class: ExpiryClass) {
        /// Entries beyond two for each flow, before a queue is searched.
        const SPARE: usize = 1_024;
        if self.queue(class).0.entries.len() <= 2 * self.config.max_flows + SPARE {
            return;
        }
        let (queue, slots) = self.queue(class);
        let is_valid = |slot, stamp| slots.get(slot).is_some_and(|(_, e)| e.stamp == stamp);
        queue.entries.retain(|(_, slot, stamp)| is_valid(*slot, *stamp));
        queue.fetched = 0;
    }

    /// A queue, and the flows of its entries.
    fn queue(&mut self, class: ExpiryClass) -> (&mut ExpiryQueue, &FlowSlots) {
        let queue = match class {
            ExpiryClass::Closed => &mut self.closed,
            ExpiryClass::Short => &mut self.short,
            ExpiryClass::Long => &mut self.long,
        };
        (queue, &self.slots)
    }

    /// The entry at the front of a queue.
    fn front(&mut self, class: ExpiryClass) -> Option<ExpiryEntry> {
        let (queue, slots) = self.queue(class);
        queue.front(slots)
    }

    pub(super) fn expire(
        &mut self,
        counters: &mut CaptureCounters,
        sink: &mut impl FnMut(Observation),
    ) {
        for class in [ExpiryClass::Closed, ExpiryClass::Short, ExpiryClass::Long] {
            while let Some((due, slot, stamp)) = self.front(class) {
                let valid = self.entry(slot).is_some_and(|e| e.stamp == stamp);
                if valid && due > self.high_water {
                    break;
                }
                self.queue(class).0.pop_front();
                if !valid {
                    continue;
                }
                // Later packets may have moved its deadline.
                if self.deadline(slot).is_some_and(|(due, _)| due > self.high_water) {
                    self.schedule(slot);
                } else {
                    self.remove(slot, counters, sink);
                }
            }
        }
    }

    /// Makes room: removes the flow that is due first, a closed one before others.
    pub(super) fn evict(
        &mut self,
        counters: &mut CaptureCounters,
        sink: &mut impl FnMut(Observation),
    ) {
        /// Active flows may be at the front of a queue. So many of them are queued anew before one
        /// is removed.
        const MAX_TRIES: usize = 16;
        let mut tried = 0;
        for class in [ExpiryClass::Closed, ExpiryClass::Short, ExpiryClass::Long] {
            while let Some((due, slot, stamp)) = self.front(class) {
                self.queue(class).0.pop_front();
                if self.entry(slot).is_none_or(|e| e.stamp != stamp) {
                    continue;
                }
                tried += 1;
                let is_over = class == ExpiryClass::Closed;
                if self.deadline(slot).is_some_and(|(now, _)| now > due) && tried < MAX_TRIES {
                    self.schedule(slot);
                    continue;
                }
                counters.evicted_flows += u64::from(!is_over);
                return self.remove(slot, counters, sink);
            }
        }
    }

    pub(super) fn remove(
        &mut self,
        slot: u32,
        counters: &mut CaptureCounters,
        sink: &mut impl FnMut(Observation),
    ) {
        let Some((mut hot, mut entry)) = self.slots.remove(slot) else { return };
        if entry.is_joining() {
            self.heads -= 1;
            counters.incomplete_head += 1;
        }
        self.later_hosts -= entry.later_host_count();
        self.forged -= usize::from(entry.began_forged);
        let is_other_end = entry.is_left_to_caller() || entry.is_initiator_unseen();
        let is_genuine = !entry.translated_duplicate && !entry.forged;
        counters.arriving += u64::from(is_other_end && is_genuine && !entry.reported);
        entry.report(&mut hot, sink);
    }

    /// Removes all flows that are due at packet time `now`.
    pub(crate) fn expire_until(
        &mut self,
        now: Nanos,
        counters: &mut CaptureCounters,
        sink: &mut impl FnMut(Observation),
    ) {
        self.high_water = self.high_water.max(now);
        self.expire(counters, sink);
    }
}
