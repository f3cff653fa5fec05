//! The memory of the flow table: flows in numbered slots, and an index from keys to slots.
//!
//! Owns that memory. The fields that every packet needs are a cache line of their own
//! ([`HotFlow`]): where there are more flows than the cache has room for, fetching that line is
//! most of the cost of a packet. Must never decide what a flow means, nor return anything in hash
//! order.

use foldhash::fast::RandomState;
use hashbrown::HashTable;

use super::entry::FlowEntry;
use super::hot::HotFlow;
use super::key::FlowKey;

/// Flows by key and by slot.
pub(crate) struct FlowSlots {
    // Keys come from the network, so the hash has a random seed. An attacker who finds collisions
    // could only slow down a table of bounded size. A keyed cryptographic hash would cost more than
    // all other work on a packet.
    hasher: RandomState,
    index: HashTable<u32>,
    hot: Vec<HotFlow>,
    cold: Vec<Option<FlowEntry>>,
    free: Vec<u32>,
}

impl FlowSlots {
    /// Reserves address space for `expected` flows. Memory is used only as flows come. Growing
    /// would copy, and need both copies at a time. The index grows, since a small index is faster.
    pub(super) fn new(expected: usize) -> Self {
        Self {
            hasher: RandomState::default(),
            index: HashTable::new(),
            hot: Vec::with_capacity(expected),
            cold: Vec::with_capacity(expected),
            free: Vec::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.index.len()
    }

    #[inline]
    pub(super) fn hash(&self, key: &FlowKey) -> u64 {
        key.hash(&self.hasher)
    }

    #[inline]
    pub(super) fn find(&self, hash: u64, key: &FlowKey) -> Option<u32> {
        self.index.find(hash, |slot| self.hot[*slot as usize].key == *key).copied()
    }

    /// Slot of a flow whose hash is probably this one. Does not read the flow: the index is small
    /// and stays in the cache, the flows do not.
    #[inline]
    pub(super) fn likely_slot(&self, hash: u64) -> Option<u32> {
        self.index.find(hash, |_| true).copied()
    }

    /// Fetches the cache lines of flows before they are needed: of each its slot, and whether the
    /// packet may change only what is in [`HotFlow`]. Each loop only reads, so that the processor
    /// waits for all of its lines at the same time.
    #[inline]
    pub(super) fn prefetch(&self, packets: impl Iterator<Item = (u32, bool)> + Clone) {
        let hot = packets.clone().fold(0, |sum, (slot, _)| sum ^ self.hot[slot as usize].packets);
        std::hint::black_box(hot);
        let changing = packets
            .filter(|&(slot, may_count)| !(may_count && self.hot[slot as usize].counts_only));
        std::hint::black_box(changing.fold(0, |sum, (slot, _)| sum ^ self.cold_stamp(slot)));
    }

    /// Fetches flows that are about to be removed, with their places in the index.
    pub(super) fn fetch(&self, slots: impl Iterator<Item = u32> + Clone) {
        let read = |slot: u32| self.hot[slot as usize].packets ^ self.cold_stamp(slot);
        std::hint::black_box(slots.clone().fold(0, |sum, slot| sum ^ read(slot)));
        let found = |slot: u32| {
            let hash = self.hash(&self.hot[slot as usize].key);
            self.index.find(hash, |_| true).copied().unwrap_or_default()
        };
        std::hint::black_box(slots.fold(0, |sum, slot| sum ^ found(slot)));
    }

    fn cold_stamp(&self, slot: u32) -> u32 {
        self.cold[slot as usize].as_ref().map_or(0, |entry| entry.stamp)
    }

    /// The fields that every packet needs, of the flow in a slot. In a free slot, `counts_only` is
    /// false.
    #[inline]
    pub(super) fn hot(&mut self, slot: u32) -> &mut HotFlow {
        &mut self.hot[slot as usize]
    }

    pub(super) fn get(&self, slot: u32) -> Option<(&HotFlow, &FlowEntry)> {
        Some((&self.hot[slot as usize], self.cold[slot as usize].as_ref()?))
    }

    pub(super) fn get_mut(&mut self, slot: u32) -> Option<(&mut HotFlow, &mut FlowEntry)> {
        Some((&mut self.hot[slot as usize], self.cold[slot as usize].as_mut()?))
    }

    /// Adds a flow whose key is not in the table. Its slot may have been another flow's.
    pub(super) fn insert(&mut self, hash: u64, hot: HotFlow, entry: FlowEntry) -> u32 {
        let slot = match self.free.pop() {
            Some(slot) => {
                self.hot[slot as usize] = hot;
                self.cold[slot as usize] = Some(entry);
                slot
            }
            None => {
                self.hot.push(hot);
                self.cold.push(Some(entry));
                (self.hot.len() - 1) as u32
            }
        };
        let (hot, hasher) = (&self.hot, &self.hasher);
        self.index.insert_unique(hash, slot, |s| hot[*s as usize].key.hash(hasher));
        slot
    }

    pub(super) fn remove(&mut self, slot: u32) -> Option<(HotFlow, FlowEntry)> {
        let entry = self.cold[slot as usize].take()?;
        let hot = self.hot[slot as usize];
        if let Ok(found) = self.index.find_entry(self.hash(&hot.key), |s| *s == slot) {
            found.remove();
        }
        self.hot[slot as usize].counts_only = false;
        self.free.push(slot);
        Some((hot, entry))
    }

    /// The highest slot, plus one.
    pub(super) fn end(&self) -> u32 {
        self.cold.len() as u32
    }

    /// All flows, by slot.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &FlowEntry)> {
        (0..).zip(&self.cold).filter_map(|(slot, cold)| Some((slot, cold.as_ref()?)))
    }
}
