//! Classic pcap, read in pieces, each from where the last one ended.
//!
//! Owns what a position in such a file means, which is a few numbers. libpcap, in contrast, reads
//! an open file from its beginning to its end. Must agree with libpcap (sf-pcap.c) wherever it
//! reads at all. Rare variants are left to libpcap.

use std::io::Read;

use pcap_parser::pcap::{parse_pcap_frame, parse_pcap_frame_be, parse_pcap_header};

use super::outcome::{ReadLimit, ReadOutcome};
use crate::frame::{Direction, Frame, LinkType};
use crate::observation::InterfaceId;

/// Length of the file's header, bytes.
pub(super) const HEADER: usize = 24;
/// Length of a packet's header, bytes.
const RECORD: usize = 16;
/// Longest packet that libpcap accepts, in bytes (`MAXIMUM_SNAPLEN`, pcap-int.h).
const MAX_PACKET: usize = 262_144;

/// A position in a file, and the values of the file's header.
#[derive(Clone, Copy, Debug)]
pub(super) struct ClassicPosition {
    /// Bytes from the beginning of the file to the next packet's header.
    pub offset: u64,
    link: LinkType,
    snap: usize,
    big_endian: bool,
    /// Nanoseconds in a unit of the fraction of a packet time.
    unit: i64,
}

impl ClassicPosition {
    /// The first position of a file that begins with this header. `None` where it is not version
    /// 2.4 with packet headers of 16 bytes, or where its link type is not supported.
    pub(super) fn new(header: &[u8; HEADER]) -> Option<Self> {
        let (_, h) = parse_pcap_header(header).ok()?;
        if (h.version_major, h.version_minor) != (2, 4) || h.is_modified_format() {
            return None;
        }
        let link = LinkType(u16::try_from(h.network.0).ok()?);
        // In a file the number of the link type is the same on all systems. libpcap delivers the
        // number of this system (pcap-common.c).
        let link = match link {
            LinkType::RAW => LinkType::RAW_DLT,
            LinkType::NULL
            | LinkType::ETHERNET
            | LinkType::LOOP
            | LinkType::LINUX_SLL
            | LinkType::IPV4
            | LinkType::IPV6
            | LinkType::LINUX_SLL2 => link,
            _ => return None,
        };
        let big_endian = h.is_bigendian();
        let snap = match h.snaplen as usize {
            0 => MAX_PACKET,
            snap => snap.min(MAX_PACKET),
        };
        let unit = if h.is_nanosecond_precision() { 1 } else { 1_000 };
        Some(Self { offset: HEADER as u64, link, snap, big_endian, unit })
    }

    /// Reads frames from the bytes at this position, until a limit is reached.
    pub(super) fn read(
        &mut self,
        mut from: impl Read,
        limit: ReadLimit,
        take: &mut impl FnMut(Frame<'_>),
    ) -> ReadOutcome {
        let (mut bytes, mut wanted) = (Vec::new(), limit.bytes.max(RECORD));
        loop {
            let missing = (wanted - bytes.len()) as u64;
            if let Err(e) = from.by_ref().take(missing).read_to_end(&mut bytes) {
                return ReadOutcome::Damaged(format!("it cannot be read further ({e})"));
            }
            let at_end = bytes.len() < wanted;
            let (frames, used) = self.frames(&bytes, limit.frames, take);
            self.offset += used as u64;
            if frames > 0 {
                return ReadOutcome::More;
            }
            let rest = &bytes[used..];
            match self.length(rest) {
                _ if at_end && rest.is_empty() => return ReadOutcome::End,
                Some(length) if length > MAX_PACKET => {
                    return ReadOutcome::Damaged(format!(
                        "it is cut or damaged (a packet of it has {length} bytes)"
                    ));
                }
                _ if at_end => {
                    return ReadOutcome::Damaged(
                        "it is cut or damaged (it ends within a packet)".to_owned(),
                    );
                }
                Some(length) => wanted = RECORD + length,
                None => wanted = RECORD,
            }
        }
    }

    /// Captured bytes of the packet whose header begins here.
    fn length(&self, bytes: &[u8]) -> Option<usize> {
        let field = bytes.get(8..)?.first_chunk().copied()?;
        Some(match self.big_endian {
            false => u32::from_le_bytes(field),
            true => u32::from_be_bytes(field),
        } as usize)
    }

    /// Passes whole frames to `take`. Returns their number and their bytes.
    fn frames(
        &self,
        bytes: &[u8],
        most: usize,
        take: &mut impl FnMut(Frame<'_>),
    ) -> (usize, usize) {
        let parse = if self.big_endian { parse_pcap_frame_be } else { parse_pcap_frame };
        // In the byte order of the machine, libpcap reads both parts as signed numbers.
        let part = |n: u32| if self.big_endian { i64::from(n) } else { i64::from(n as i32) };
        let (mut frames, mut rest) = (0, bytes);
        while frames < most
            && self.length(rest).is_some_and(|length| length <= MAX_PACKET)
            && let Ok((behind, packet)) = parse(rest)
        {
            let small = part(packet.ts_usec).saturating_mul(self.unit);
            take(Frame {
                time: part(packet.ts_sec).saturating_mul(1_000_000_000).saturating_add(small),
                interface: InterfaceId { source: 0, index: 0 },
                link: self.link,
                direction: Direction::Unknown,
                wire_len: packet.origlen,
                data: &packet.data[..packet.data.len().min(self.snap)],
            });
            (frames, rest) = (frames + 1, behind);
        }
        (frames, bytes.len() - rest.len())
    }
}
