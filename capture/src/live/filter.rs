//! The filter that runs in the kernel on each frame of a pod's interface, before a copy of the
//! frame is made.
//!
//! Owns the program, which says in classic BPF what [`super::rule`] says in Rust. Must never keep
//! state: it sees one frame at a time, so of a ClientHello over several segments it keeps the
//! first, and the last at ports of TLS or of [`FilterConfig::always_ports`]. Must never lose a workload's
//! call for good: what it does not understand of TCP, UDP and SCTP is sampled.
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

/// Where the frames that the filter sees begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FilterLink {
    /// At an Ethernet header (DLT_EN10MB, 1).
    Ethernet,
    /// At an IP header (DLT_RAW, 12 or 101).
    RawIp,
    /// At the network header, with the protocol told by the kernel: sockets of type SOCK_DGRAM,
    /// which libpcap hands out as DLT_LINUX_SLL or DLT_LINUX_SLL2 (276).
    Cooked,
}

/// What the filter keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterConfig {
    /// One in this many frames is kept of those that are neither always kept nor always dropped. 1
    /// keeps all, as 0 does.
    pub sample: u32,
    /// Bytes kept of a frame, counted from where [`FilterLink`] says it begins. At least 1.
    pub snap: u32,
    /// The same of a frame that is only kept as a sample: it tells that a connection goes on, and
    /// has no name that is looked for. At least 1; means nothing where all are kept.
    pub sampled_snap: u32,
    /// TCP destination ports all of whose payload is kept, so that a ClientHello over several
    /// segments is read. Some 1,900 different ports are possible; [`attach`] refuses more.
    pub always_ports: Vec<u16>,
    /// The interface is the host side of a pod's: of TCP, what belongs to calls of the pod is
    /// always kept, and what follows the SYN of calls to it is sampled as the rest. The caller's
    /// interface shows the same, and shows it before a Service's address is translated.
    pub callers_only: bool,
}

/// Instructions the kernel accepts (BPF_MAXINSNS, include/uapi/linux/bpf_common.h).
const MAX_INSTRUCTIONS: usize = 4096;

/// The program that keeps nothing.
pub fn nothing() -> Vec<Instruction> {
    vec![Instruction { code: asm::RETURN, jt: 0, jf: 0, k: 0 }]
}

/// Attaches a program to a packet socket; it replaces the one that was there. Frames that wait in
/// the socket's buffer were not seen by it.
///
/// # Errors
/// The program is too long, the descriptor is not a socket, or the socket's filter is locked.
pub fn attach(fd: BorrowedFd<'_>, program: &[Instruction]) -> io::Result<()> {
    // Said here, as the length that the kernel gets has 16 bits and would wrap.
    if program.len() > MAX_INSTRUCTIONS {
        let message =
            format!("filter of {} instructions, {MAX_INSTRUCTIONS} are possible", program.len());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    let program: Vec<SockFilter> =
        program.iter().map(|i| SockFilter::new(i.code, i.jt, i.jf, i.k)).collect();
    SockRef::from(&fd).attach_filter(&program)
}
