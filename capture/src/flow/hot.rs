//! What every packet of a flow needs of it, in one cache line.
//!
//! Owns the layout. Must never grow beyond a line.

use super::key::FlowKey;
use crate::observation::{InterfaceId, Nanos};

/// What a packet of a settled flow reads and writes.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(crate) struct HotFlow {
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

const _: () = assert!(size_of::<HotFlow>() == 64, "two lines would double the cost of a packet");

impl HotFlow {
    pub(super) fn new(key: FlowKey, time: Nanos, interface: InterfaceId) -> Self {
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
