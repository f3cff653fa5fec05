//! A packet socket on one interface, with a ring that the kernel fills and this process reads
//! (packet(7), TPACKET_V3).
//!
//! Owns the socket and the mapping. libpcap makes rings of blocks of 256 KiB, and needs at least
//! two, since the kernel drops packets while the only block is read. That is too much memory for
//! each of some hundred interfaces. Here blocks are small. Must never read a block that the kernel
//! owns.

use std::io;
use std::mem::{offset_of, size_of};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use libc::{
    c_int, sockaddr_ll, tpacket_block_desc, tpacket_hdr_v1, tpacket_req3, tpacket_stats_v3,
    tpacket3_hdr,
};

use super::filter::{self, Instruction};
use crate::frame::Direction;

/// Bytes of a block. The kernel finds so many pages in a row also where memory is fragmented. A
/// block has room for some 100 segments that open a connection.
const BLOCK: u32 = 16 * 1024;
/// Bytes of which a block must be a multiple. The kernel does not use it otherwise in this version
/// (packet_set_ring).
const FRAME: u32 = 4096;
/// Parts of a packet in the ring begin at multiples of so many bytes (TPACKET_ALIGNMENT,
/// include/uapi/linux/if_packet.h).
const ALIGNMENT: usize = 16;
/// Type of an Ethernet device (ARPHRD_ETHER), which veth and netkit devices are.
const ETHERNET: u16 = 1;

/// A packet in the ring.
pub(super) struct RingPacket<'a> {
    /// Packet time, in nanoseconds since the Unix epoch.
    pub time: i64,
    /// Length on the wire, in bytes.
    pub wire_len: u32,
    /// Direction in which it passed the interface.
    pub direction: Direction,
    /// Captured bytes, from the Ethernet header on, without a VLAN tag.
    pub data: &'a [u8],
}

/// A socket with its ring.
#[derive(Debug)]
pub(super) struct Ring {
    socket: OwnedFd,
    map: NonNull<u8>,
    blocks: u32,
    /// Index of the block that is read next.
    at: u32,
    dropped: u64,
    /// A block shows that packets were dropped since the last call of [`Ring::dropped`].
    losing: bool,
}

// SAFETY: only this value uses the mapping, and nothing in it is bound to a thread.
unsafe impl Send for Ring {}

impl Ring {
    /// Opens an interface by its index. `None` where it is no Ethernet device. The filter is
    /// attached before the socket is bound, so that every frame passes it. `received_only`: the
    /// kernel omits frames that the interface sends (from Linux 4.20 on).
    pub(super) fn open(
        index: u32,
        bytes: u32,
        block_timeout_millis: u32,
        received_only: bool,
        program: &[Instruction],
    ) -> io::Result<Option<Self>> {
        let socket = packet_socket()?;
        filter::attach(socket.as_fd(), program)?;
        if received_only {
            set(&socket, libc::PACKET_IGNORE_OUTGOING, &c_int::from(true))?;
        }
        set(&socket, libc::PACKET_VERSION, &(libc::tpacket_versions::TPACKET_V3 as c_int))?;
        let blocks = (bytes / BLOCK).max(2);
        let request = tpacket_req3 {
            tp_block_size: BLOCK,
            tp_block_nr: blocks,
            tp_frame_size: FRAME,
            tp_frame_nr: blocks * (BLOCK / FRAME),
            tp_retire_blk_tov: block_timeout_millis,
            tp_sizeof_priv: 0,
            tp_feature_req_word: 0,
        };
        set(&socket, libc::PACKET_RX_RING, &request)?;
        let length = blocks as usize * BLOCK as usize;
        let (access, shared) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        // SAFETY: a new mapping of the whole ring, wherever the kernel puts it.
        let map = unsafe {
            libc::mmap(std::ptr::null_mut(), length, access, shared, socket.as_raw_fd(), 0)
        };
        if map == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let map = NonNull::new(map.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        let ring = Self { socket, map, blocks, at: 0, dropped: 0, losing: false };
        let ethernet = bind(&ring.socket, index)? == ETHERNET;
        ring.error()?;
        Ok(ethernet.then_some(ring))
    }

    /// The descriptor to wait on.
    pub(super) fn raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// Passes packets to `sink`, in whole blocks, until `limit` is reached. Returns their number.
    ///
    /// # Errors
    /// When there are no packets and the socket has an error. As a rule the interface went down.
    /// The socket returns it once.
    pub(super) fn read(
        &mut self,
        limit: usize,
        sink: &mut impl FnMut(RingPacket<'_>),
    ) -> io::Result<usize> {
        let mut seen = 0;
        let mut any = false;
        while seen < limit {
            // SAFETY: the block is within the mapping, which lives as long as this value.
            let block = unsafe { self.map.add(self.at as usize * BLOCK as usize) };
            let status =
                offset_of!(tpacket_block_desc, hdr) + offset_of!(tpacket_hdr_v1, block_status);
            // SAFETY: the field is aligned, since blocks begin at pages, and both sides access it
            // as a whole only.
            let status = unsafe { AtomicU32::from_ptr(block.add(status).as_ptr().cast()) };
            // Acquire: the packets are read after the kernel has released the block.
            let flags = status.load(Ordering::Acquire);
            if flags & libc::TP_STATUS_USER == 0 {
                break;
            }
            self.losing |= flags & libc::TP_STATUS_LOSING != 0;
            any = true;
            // SAFETY: the kernel does not write to the block before its status is set back.
            let bytes = unsafe { std::slice::from_raw_parts(block.as_ptr(), BLOCK as usize) };
            seen += packets(bytes, sink);
            // Release: the block is returned after its packets were read.
            status.store(libc::TP_STATUS_KERNEL, Ordering::Release);
            self.at = (self.at + 1) % self.blocks;
        }
        if !any {
            self.error()?;
        }
        Ok(seen)
    }

    /// Whether packets were dropped since the last call of [`Ring::dropped`].
    pub(super) fn is_losing(&self) -> bool {
        self.losing
    }

    /// Takes the error of the socket, where it has one.
    fn error(&self) -> io::Result<()> {
        Ok(rustix::net::sockopt::socket_error(&self.socket)??)
    }

    /// Number of packets dropped since it was opened, because the ring was full.
    pub(super) fn dropped(&mut self) -> io::Result<u64> {
        let mut stats = tpacket_stats_v3 { tp_packets: 0, tp_drops: 0, tp_freeze_q_cnt: 0 };
        let mut length = size_of::<tpacket_stats_v3>() as libc::socklen_t;
        let pointer: *mut tpacket_stats_v3 = &mut stats;
        // SAFETY: the kernel writes at most `length` bytes to the pointer.
        let result = unsafe {
            libc::getsockopt(
                self.raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                pointer.cast(),
                &mut length,
            )
        };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        // Reading the kernel's count sets it to 0.
        self.losing = false;
        self.dropped += u64::from(stats.tp_drops);
        Ok(self.dropped)
    }
}

impl AsFd for Ring {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: the mapping was made with this length, and no packet in it is borrowed any more.
        unsafe { libc::munmap(self.map.as_ptr().cast(), self.blocks as usize * BLOCK as usize) };
    }
}

/// Whether a packet socket can be opened and bound to an interface (0: to all), and that interface
/// is up. Nothing is received.
///
/// # Errors
/// The reason, with its errno: EPERM without the right to capture, ENODEV where the interface is
/// gone, ENETDOWN where it is down, EMFILE and others where a resource of the system is used up.
pub(super) fn probe(index: u32) -> io::Result<()> {
    let socket = packet_socket()?;
    filter::attach(socket.as_fd(), &filter::nothing())?;
    bind(&socket, index)?;
    Ok(rustix::net::sockopt::socket_error(&socket)??)
}

/// A packet socket that receives nothing until it is bound.
fn packet_socket() -> io::Result<OwnedFd> {
    // SAFETY: takes no pointers. Without a protocol nothing is received until it is bound.
    let fd = unsafe {
        libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0)
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was just opened and has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Binds to an interface. Returns the type of its device.
fn bind(socket: &OwnedFd, index: u32) -> io::Result<u16> {
    // SAFETY: all fields are integers, for which zero is valid.
    let mut address: sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    address.sll_ifindex = c_int::try_from(index).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut length = size_of::<sockaddr_ll>() as libc::socklen_t;
    let pointer: *mut sockaddr_ll = &mut address;
    // SAFETY: the pointer is valid for `length` bytes.
    if unsafe { libc::bind(socket.as_raw_fd(), pointer.cast(), length) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel writes at most `length` bytes to the pointer.
    if unsafe { libc::getsockname(socket.as_raw_fd(), pointer.cast(), &mut length) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(address.sll_hatype)
}

fn set<T>(socket: &OwnedFd, name: c_int, value: &T) -> io::Result<()> {
    let pointer: *const T = value;
    // SAFETY: the kernel reads at most the size of the value.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            name,
            pointer.cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Passes the packets of a block to `sink`. Returns their number. Packets past the end of the block
/// are omitted.
fn packets(block: &[u8], sink: &mut impl FnMut(RingPacket<'_>)) -> usize {
    let header = offset_of!(tpacket_block_desc, hdr);
    let number = word(block, header + offset_of!(tpacket_hdr_v1, num_pkts)).unwrap_or(0);
    let mut at =
        word(block, header + offset_of!(tpacket_hdr_v1, offset_to_first_pkt)).unwrap_or(0) as usize;
    for _ in 0..number {
        let Some((packet, next)) = packet(block, at) else { break };
        sink(packet);
        at += next;
    }
    number as usize
}

/// The packet at an offset, and the distance to the next one, in bytes.
fn packet(block: &[u8], at: usize) -> Option<(RingPacket<'_>, usize)> {
    let field = |offset| word(block, at + offset);
    let (seconds, nanos) =
        (field(offset_of!(tpacket3_hdr, tp_sec))?, field(offset_of!(tpacket3_hdr, tp_nsec))?);
    let captured_bytes = field(offset_of!(tpacket3_hdr, tp_snaplen))? as usize;
    // The link-layer address (`sockaddr_ll`) is after the header, at the next multiple of
    // TPACKET_ALIGNMENT.
    let kind = *block.get(
        at + size_of::<tpacket3_hdr>().next_multiple_of(ALIGNMENT)
            + offset_of!(sockaddr_ll, sll_pkttype),
    )?;
    let data = block
        .get(at + offset_of!(tpacket3_hdr, tp_mac)..)?
        .first_chunk()
        .map(|b| u16::from_ne_bytes(*b))?;
    let packet = RingPacket {
        time: i64::from(seconds) * 1_000_000_000 + i64::from(nanos),
        wire_len: field(offset_of!(tpacket3_hdr, tp_len))?,
        direction: if kind == libc::PACKET_OUTGOING {
            Direction::Sent
        } else {
            Direction::Received
        },
        data: block.get(at + usize::from(data)..)?.get(..captured_bytes)?,
    };
    Some((packet, field(offset_of!(tpacket3_hdr, tp_next_offset))? as usize))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|b| u32::from_ne_bytes(*b))
}
