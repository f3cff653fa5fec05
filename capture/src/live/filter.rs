//! The filter that the kernel runs on each frame of a pod's interface, before it copies the frame.
//!
//! Owns the program: the rule of [`super::rule`] in classic BPF. Must never contain state, as it
//! sees one frame at a time. So of a ClientHello over several segments it passes the first one, and
//! the last one at ports of TLS or of [`FilterConfig::always_ports`]. Must never lose a workload's
//! call for good: TCP, UDP and SCTP that it cannot read is sampled.
//!
//! How the kernel runs it: net/core/filter.c (`bpf_check_classic`, `bpf_convert_filter`),
//! net/packet/af_packet.c (`run_filter`).

mod asm;
mod program;

use std::io;
use std::os::fd::BorrowedFd;

use socket2::{SockFilter, SockRef};

pub use asm::Instruction;
pub use program::program;

/// Where the frames that the filter reads begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FilterLink {
    /// At an Ethernet header (DLT_EN10MB, 1).
    Ethernet,
    /// At an IP header (DLT_RAW, 12 or 101).
    RawIp,
    /// At the network header, with the protocol from the kernel. So are sockets of type SOCK_DGRAM,
    /// whose frames libpcap delivers as DLT_LINUX_SLL or DLT_LINUX_SLL2 (276).
    Cooked,
}

/// How many datagrams the filter passes of those that a pod sends and that are not DNS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatagramRule {
    /// All: nothing marks the first datagram to a destination.
    All,
    /// Sampled, as the datagrams that a pod receives are.
    Sampled,
}

/// Which frames the filter passes, and how much of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterConfig {
    /// Of the frames that are neither always passed nor always dropped, one in this many is passed.
    /// 1 and 0 pass all.
    pub sample: u32,
    /// Bytes captured of a frame, from where it begins by [`FilterLink`]. At least 1.
    pub snap_bytes: u32,
    /// Bytes captured of a sampled frame, which shows that a connection goes on and contains no
    /// name. At least 1. Unused where all frames are passed.
    pub sampled_snap_bytes: u32,
    /// TCP destination ports whose payload is always passed, so that a ClientHello over several
    /// segments is read. Some 1,900 different ports are possible. [`attach`] refuses more.
    pub always_ports: Vec<u16>,
    /// Which datagrams are passed.
    pub datagrams: DatagramRule,
    /// The interface is the host side of a pod's veth. Of calls that the pod makes, all TCP
    /// segments that open, close or name something are passed. Of calls that it receives, the SYN
    /// is passed and the rest is sampled: the caller's interface shows the same, before a Service's
    /// address is translated.
    pub callers_only: bool,
}

/// Instructions that the kernel accepts, at most (BPF_MAXINSNS, include/uapi/linux/bpf_common.h).
const MAX_INSTRUCTIONS: usize = 4096;

/// The program that drops all frames.
pub fn nothing() -> Vec<Instruction> {
    vec![Instruction { code: asm::RETURN, jt: 0, jf: 0, k: 0 }]
}

/// Attaches a program to a packet socket, in place of the one before. It does not see frames that
/// are in the socket's buffer already.
///
/// # Errors
/// The program is too long, the descriptor is not a socket, or the socket's filter is locked.
pub fn attach(fd: BorrowedFd<'_>, program: &[Instruction]) -> io::Result<()> {
    // Checked here, since the length for the kernel has 16 bits and would wrap.
    if program.len() > MAX_INSTRUCTIONS {
        let message =
            format!("filter of {} instructions, {MAX_INSTRUCTIONS} are possible", program.len());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    let program: Vec<SockFilter> =
        program.iter().map(|i| SockFilter::new(i.code, i.jt, i.jf, i.k)).collect();
    SockRef::from(&fd).attach_filter(&program)
}
