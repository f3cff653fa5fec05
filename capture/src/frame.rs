//! Frames as a source delivers them, and batches of them.
//!
//! Owns the layout of a batch. Must never read the bytes of a frame.

use crate::observation::{InterfaceId, Nanos};

/// Link type of a frame: its number in the registry of tcpdump.org (`LINKTYPE_…`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkType(pub u16);

impl LinkType {
    /// BSD loopback: 4 bytes of address family in the byte order of the capturing host.
    pub const NULL: Self = Self(0);
    /// Ethernet II (IEEE 802.3).
    pub const ETHERNET: Self = Self(1);
    /// Raw IP, with the number of `DLT_RAW` on most systems.
    pub const RAW_DLT: Self = Self(12);
    /// Raw IP, of either version.
    pub const RAW: Self = Self(101);
    /// OpenBSD loopback: as [`Self::NULL`], big-endian.
    pub const LOOP: Self = Self(108);
    /// Linux "cooked" capture.
    pub const LINUX_SLL: Self = Self(113);
    /// Raw IP, version 4 only.
    pub const IPV4: Self = Self(228);
    /// Raw IP, version 6 only.
    pub const IPV6: Self = Self(229);
    /// Linux "cooked" capture, version 2: with the interface index.
    pub const LINUX_SLL2: Self = Self(276);
}

/// Direction in which a frame passed the interface on which it was seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Direction {
    /// Unknown. Capture files do not record it, and on an uplink the direction does not identify a
    /// pod.
    #[default]
    Unknown,
    /// The interface received it. On the host side of a pod's veth, the pod sent it.
    Received,
    /// The interface sent it. On the host side of a pod's veth, the pod receives it.
    Sent,
}

/// A frame, borrowed from its batch.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// Packet time, in nanoseconds since the Unix epoch.
    pub time: Nanos,
    /// Capture and interface it came from. For SLL2 the decoder replaces `index` by the kernel's.
    pub interface: InterfaceId,
    /// How `data` begins.
    pub link: LinkType,
    /// Direction in which it passed the interface.
    pub direction: Direction,
    /// Length on the wire, in bytes. More than `data.len()` where the snap length cut it.
    pub wire_len: u32,
    /// The captured bytes, from where `link` says that they begin.
    pub data: &'a [u8],
}

#[derive(Clone, Copy, Debug)]
struct FrameRecord {
    time: Nanos,
    interface: InterfaceId,
    link: LinkType,
    direction: Direction,
    wire_len: u32,
    offset: u32,
    len: u32,
}

/// Frames in the order of the source, in one allocation that is reused.
#[derive(Debug, Default)]
pub struct FrameBatch {
    records: Vec<FrameRecord>,
    bytes: Vec<u8>,
}

impl FrameBatch {
    /// Removes all frames. The memory stays allocated.
    pub fn clear(&mut self) {
        self.records.clear();
        self.bytes.clear();
    }

    /// Adds a copy of a frame.
    pub fn push(&mut self, frame: Frame<'_>) {
        let offset = self.bytes.len() as u32;
        self.bytes.extend_from_slice(frame.data);
        self.records.push(FrameRecord {
            time: frame.time,
            interface: frame.interface,
            link: frame.link,
            direction: frame.direction,
            wire_len: frame.wire_len,
            offset,
            len: frame.data.len() as u32,
        });
    }

    /// Number of frames in the batch.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether it contains no frame.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Bytes of frame data in it.
    pub fn byte_len(&self) -> usize {
        self.bytes.len()
    }

    /// Bytes of memory allocated for it, used or not.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.bytes.capacity() + self.records.capacity() * size_of::<FrameRecord>()
    }

    /// The frame at an index; `None` past the end.
    pub fn get(&self, index: usize) -> Option<Frame<'_>> {
        self.records.get(index).map(|r| self.frame(r))
    }

    /// The frames in order.
    pub fn frames(&self) -> impl ExactSizeIterator<Item = Frame<'_>> {
        self.records.iter().map(|r| self.frame(r))
    }

    fn frame(&self, r: &FrameRecord) -> Frame<'_> {
        Frame {
            time: r.time,
            interface: r.interface,
            link: r.link,
            direction: r.direction,
            wire_len: r.wire_len,
            data: &self.bytes[r.offset as usize..(r.offset + r.len) as usize],
        }
    }
}
