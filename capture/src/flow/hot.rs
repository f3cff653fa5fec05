//! The fields of a flow that every packet reads or writes, in one cache line.
//!
//! Owns their layout. Must never grow beyond a cache line.

use super::key::FlowKey;
use crate::observation::{InterfaceId, Nanos};

/// What a packet reads and writes where it can only change counts.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(crate) struct HotFlow {
    pub key: FlowKey,
    /// Packet time of the last packet.
    pub last: Nanos,
    /// Interface of the first packet. Only packets of this interface are counted.
    pub interface: InterfaceId,
    /// Packets since the last report of the flow.
    pub packets: u32,
    /// Further packets can change only the fields here.
    pub counts_only: bool,
    /// It has something that was not reported.
    pub changed: bool,
    /// It speaks HTTP/1, or nothing readable was seen of it. A segment that begins with a request
    /// may name a later host, even where `counts_only` is set.
    pub requests: bool,
}

const _: () = assert!(size_of::<HotFlow>() == 64, "two lines would double the cost of a packet");

impl HotFlow {
    pub(super) fn new(key: FlowKey, time: Nanos, interface: InterfaceId) -> Self {
        Self {
            key,
            last: time,
            interface,
            packets: 0,
            counts_only: false,
            changed: false,
            requests: false,
        }
    }

    /// Counts a packet. True where it is a repeated sighting, on another interface.
    #[inline]
    pub(super) fn count(&mut self, time: Nanos, interface: InterfaceId) -> bool {
        self.last = self.last.max(time);
        self.changed = true;
        if interface == self.interface {
            self.packets += 1;
            return false;
        }
        true
    }
}
