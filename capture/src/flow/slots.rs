//! Where flows are kept: slots that keep their number, and an index by key.
//!
//! Owns the memory of flows. What every packet needs of one is a cache line of its own: with more
//! flows than fit the cache, fetching that line *is* the cost of a packet. Must never decide what a
//! flow means, nor give out anything in hash order.

use foldhash::fast::RandomState;
use hashbrown::HashTable;

use super::entry::Entry;
use super::key::FlowKey;
use crate::observation::{InterfaceId, Nanos};

/// What a packet of a settled flow reads and writes.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(crate) struct Hot {
    pub key: FlowKey,
    /// Time of the last packet.
    pub last: Nanos,
    /// Interface of the first packet, whose packets count.
    pub interface: InterfaceId,
    /// Packets since the flow was last told.
    pub packets: u32,
    /// Its packets can change nothing but these counts.
    pub settled: bool,
    /// There is something to tell.
    pub changed: bool,
    /// It speaks HTTP/1, or has said nothing readable: a segment that begins with a request may
    /// name a host, even though it is settled.
    pub requests: bool,
}

const _: () = assert!(size_of::<Hot>() == 64, "two lines would double the cost of a packet");

impl Hot {
    pub fn new(key: FlowKey, time: Nanos, interface: InterfaceId) -> Self {
        Self {
            key,
            last: time,
            interface,
            packets: 0,
            settled: false,
            changed: false,
            requests: false,
        }
    }

    /// Counts a packet. True: it is a further sighting, on another interface.
    #[inline]
    pub fn count(&mut self, time: Nanos, interface: InterfaceId) -> bool {
        self.last = self.last.max(time);
        self.changed = true;
        if interface == self.interface {
            self.packets += 1;
            return false;
        }
        true
    }
}

/// Flows by key and by slot.
pub(crate) struct Slots {
    // Keys come from the network, so the hash is seeded at random; chosen collisions could at most
    // slow a table whose size is bounded. A keyed cryptographic hash costs more than all other work
    // on a packet.
    hasher: RandomState,
    index: HashTable<u32>,
    hot: Vec<Hot>,
    cold: Vec<Option<Entry>>,
    free: Vec<u32>,
}

impl Slots {
    /// Room for `expected` flows is reserved, and only used as they come: growing would copy, and
    /// hold both copies. The index grows: it is quick while it is small.
    pub fn new(expected: usize) -> Self {
        Self {
            hasher: RandomState::default(),
            index: HashTable::new(),
            hot: Vec::with_capacity(expected),
            cold: Vec::with_capacity(expected),
            free: Vec::new(),
        }
    }

    pub fn len(&self) -> usize {
        self.index.len()
    }

    #[inline]
    pub fn hash(&self, key: &FlowKey) -> u64 {
        key.hash(&self.hasher)
    }

    #[inline]
    pub fn find(&self, hash: u64, key: &FlowKey) -> Option<u32> {
        self.index.find(hash, |slot| self.hot[*slot as usize].key == *key).copied()
    }

    /// Slot of what is probably the flow of this hash, without a look at the flow: the index is
    /// small and stays in the cache, the flows do not.
    #[inline]
    pub fn likely(&self, hash: u64) -> Option<u32> {
        self.index.find(hash, |_| true).copied()
    }

    /// Reads from a flow what nobody needs yet, so that it is near when it is needed.
    #[inline]
    pub fn touch(&self, slot: u32) -> u32 {
        self.hot[slot as usize].packets
    }

    /// What every packet needs of the flow in a slot. A slot that was given up is not settled.
    #[inline]
    pub fn hot(&mut self, slot: u32) -> &mut Hot {
        &mut self.hot[slot as usize]
    }

    pub fn get(&self, slot: u32) -> Option<(&Hot, &Entry)> {
        Some((&self.hot[slot as usize], self.cold[slot as usize].as_ref()?))
    }

    pub fn get_mut(&mut self, slot: u32) -> Option<(&mut Hot, &mut Entry)> {
        Some((&mut self.hot[slot as usize], self.cold[slot as usize].as_mut()?))
    }

    /// Adds a flow that is not there. Its slot may have been another's.
    pub fn insert(&mut self, hash: u64, hot: Hot, entry: Entry) -> u32 {
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

    pub fn remove(&mut self, slot: u32) -> Option<(Hot, Entry)> {
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
    pub fn end(&self) -> u32 {
        self.cold.len() as u32
    }

    /// All flows, by slot.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Entry)> {
        (0..).zip(&self.cold).filter_map(|(slot, cold)| Some((slot, cold.as_ref()?)))
    }
}
