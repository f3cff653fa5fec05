//! Operands of the filter's program: offsets in headers, words of scratch memory, and the labels of
//! its blocks.
//!
//! Owns which word of scratch memory has what. Must never emit an instruction.

use super::super::asm::{Assembler, Label};
use crate::layout::{ipv4, ipv6, ports, tcp as layout};

// Offsets, with the type of operands.
pub(super) const TCP_HEADER: u32 = layout::HEADER as u32;
pub(super) const TCP_FLAGS: u32 = layout::FLAGS as u32;
pub(super) const TCP_DATA_OFFSET: u32 = layout::DATA_OFFSET as u32;
pub(super) const SOURCE: u32 = ports::SOURCE as u32;
pub(super) const DESTINATION: u32 = ports::DESTINATION as u32;
pub(super) const IPV4_HEADER: u32 = ipv4::HEADER as u32;
pub(super) const IPV4_LENGTH: u32 = ipv4::TOTAL_LENGTH as u32;
pub(super) const IPV4_FRAGMENT: u32 = ipv4::FRAGMENT as u32;
pub(super) const IPV4_PROTOCOL: u32 = ipv4::PROTOCOL as u32;
pub(super) const IPV4_OFFSET: u32 = ipv4::FRAGMENT_OFFSET as u32;
pub(super) const IPV6_HEADER: u32 = ipv6::HEADER as u32;

/// The frame's EtherType from the kernel (SKF_AD_OFF + SKF_AD_PROTOCOL).
pub(super) const AD_PROTOCOL: u32 = 0xffff_f000;
/// Direction of the frame (SKF_AD_OFF + SKF_AD_PKTTYPE).
pub(super) const AD_PACKET_TYPE: u32 = 0xffff_f000 + 4;
/// Packet type of a frame that the interface sends (PACKET_OUTGOING,
/// include/uapi/linux/if_packet.h).
pub(super) const OUTGOING: u32 = 4;
/// A random number of 32 bits (SKF_AD_OFF + SKF_AD_RANDOM).
pub(super) const AD_RANDOM: u32 = 0xffff_f000 + 56;

/// Scratch: protocol of the payload of the IP packet.
pub(super) const PROTOCOL: u32 = 0;
/// Scratch: end of the IP packet by its own header, in bytes from the beginning of the frame. May
/// be past the frame's end.
pub(super) const END: u32 = 1;
/// Scratch: destination port.
pub(super) const TO: u32 = 2;
/// Scratch: beginning of the TCP payload, in bytes from the beginning of the frame.
pub(super) const PAYLOAD: u32 = 3;
/// Scratch: length of the TCP payload, in bytes.
pub(super) const LENGTH: u32 = 4;
/// Scratch: TCP flags.
pub(super) const FLAGS: u32 = 5;
/// Scratch: beginning of the TCP header, in bytes from the beginning of the frame.
pub(super) const HEADER: u32 = 6;

/// Labels of the program's blocks.
pub(super) struct ProgramLabels {
    pub network: Label,
    pub transport: Label,
    /// TCP that the interface sends, with FLAGS stored.
    pub sent: Label,
    /// TCP that neither opens nor closes, with X at its payload, and END, TO and FLAGS stored.
    pub payload: Label,
    pub unread: Label,
    /// UDP that is not DNS.
    pub datagram: Label,
    pub sample: Label,
    pub pass: Label,
    pub drop: Label,
}

impl ProgramLabels {
    /// A label for each block, without a place yet.
    pub(super) fn new(a: &mut Assembler) -> Self {
        Self {
            network: a.label(),
            transport: a.label(),
            sent: a.label(),
            payload: a.label(),
            unread: a.label(),
            datagram: a.label(),
            sample: a.label(),
            pass: a.label(),
            drop: a.label(),
        }
    }
}
