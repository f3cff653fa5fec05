//! Where flows are kept: slots that keep their number, and an index by key.
//!
//! Owns the memory of flows. What every packet needs of one is a cache line of its own: with more
//! flows than fit the cache, fetching that line *is* the cost of a packet. Must never decide what a
//! flow means, nor give out anything in hash order.

use foldhash::fast::RandomState;
use hashbrown::HashTable;

use super::entry::FlowEntry;
use super::hot::HotFlow;
use super::key::FlowKey;

/// Flows by key and by slot.
pub(crate) struct FlowSlots {
    // Keys come from the network, so the hash is seeded at random; chosen collisions could at most
    // slow a table whose size is bounded. A keyed cryptographic hash costs more than all other work
    // on a packet.
    hasher: RandomState,
    index: HashTable<u32>,
    hot: Vec<HotFlow>,
    cold: Vec<Option<FlowEntry>>,
    free: Vec<u32>,
}

impl FlowSlots {
    /// Room for `expected` flows is reserved, and only used as they come: growing would copy, and
    /// hold both copies. The index grows: it is quick while it is small.
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

    /// Slot of what is probably the flow of this hash, without a look at the flow: the index is
    /// small and stays in the cache, the flows do not.
    #[inline]
    pub(super) fn likely(&self, hash: u64) -> Option<u32> {
        self.index.find(hash, |_| true).copied()
    }

    /// Reads from a flow what nobody needs yet, so that it is near when it is needed.
    #[inline]
    pub(super) fn touch(&self, slot: u32) -> u32 {
        self.hot[slot as usize].packets
    }

    /// What every packet needs of the flow in a slot. A slot that was given up is not settled.
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

    /// Adds a flow that is not there. Its slot may have been another's.
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
        self.hot[slot as usize].settled = false;
        self.free.push(slot);
        Some((hot, entry))
    }

    /// One more than the highest slot.
    pub(super) fn end(&self) -> u32 {
        self.cold.len() as u32
    }

    /// All flows, by slot.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &FlowEntry)> {
        (0..).zip(&self.cold).filter_map(|(slot, cold)| Some((slot, cold.as_ref()?)))
    }
}
