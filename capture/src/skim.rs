//! The fast path: both ends of a TCP segment, read from fixed offsets in a few nanoseconds.
//!
//! Owns what is enough to find a known flow, and to see that a packet cannot change it. Such
//! packets are only counted; all others go to `decode`, with their flow fetched. Must agree with
//! `decode` wherever it answers (property-tested). Must not answer for IP options, fragments,
//! VLANs, and anything but TCP over Ethernet, nor take a SYN, FIN or RST for a plain packet.

use crate::bytes::be16;
use crate::flow::key::{self, FlowKey};
use crate::frame::{Frame, LinkType};
use crate::layout::{ethernet, ipv4, ipv6, ports, protocol, tcp};
use crate::observation::Transport;

/// What the fast path reads of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Skim {
    pub key: FlowKey,
    /// Whether the low end of the key sent it.
    pub from_low: bool,
    pub hops: u8,
    /// It opens and closes nothing: no SYN, FIN or RST.
    pub is_plain: bool,
    /// First four bytes of the payload; zeros where it has fewer.
    pub begins: [u8; 4],
}

/// Reads a frame; `None` where it must be decoded in full.
#[inline]
pub(crate) fn skim(frame: &Frame<'_>) -> Option<Skim> {
    if frame.link != LinkType::ETHERNET {
        return None;
    }
    let (_, ip) = frame.data.split_at_checked(ethernet::HEADER)?;
    match be16(frame.data, ethernet::ETHER_TYPE)? {
        ethernet::IPV4 => v4(ip),
        ethernet::IPV6 => v6(ip),
        _ => None,
    }
}

#[inline]
fn v4(ip: &[u8]) -> Option<Skim> {
    let (h, segment) = ip.split_first_chunk::<{ ipv4::HEADER }>()?;
    let half = |at: usize| u16::from_be_bytes([h[at], h[at + 1]]);
    let word = |at: usize| u32::from_be_bytes([h[at], h[at + 1], h[at + 2], h[at + 3]]);
    if h[0] != ipv4::PLAIN
        || half(ipv4::FRAGMENT) & ipv4::FRAGMENTED != 0
        || h[ipv4::PROTOCOL] != protocol::TCP
    {
        return None;
    }
    let total = usize::from(half(ipv4::TOTAL_LENGTH));
    // A length of 0 means segmentation offload. A length below that of the headers is malformed.
    if total < ipv4::HEADER + tcp::HEADER {
        return None;
    }
    let tcp = tcp_start(segment, total - ipv4::HEADER)?;
    let from = key::v4(word(ipv4::SOURCE), tcp.source);
    let to = key::v4(word(ipv4::DESTINATION), tcp.target);
    let (key, from_low) = FlowKey::between(from, to, false, Transport::Tcp);
    let TcpStart { is_plain, begins, .. } = tcp;
    Some(Skim { key, from_low, hops: h[ipv4::TTL], is_plain, begins })
}

#[inline]
fn v6(ip: &[u8]) -> Option<Skim> {
    let (h, segment) = ip.split_first_chunk::<{ ipv6::HEADER }>()?;
    if h[0] >> 4 != 6 || h[ipv6::NEXT_HEADER] != protocol::TCP {
        return None;
    }
    let payload = usize::from(be16(h, ipv6::PAYLOAD_LENGTH)?);
    if payload < tcp::HEADER {
        return None;
    }
    let tcp = tcp_start(segment, payload)?;
    let address = |at: usize| h.get(at..)?.first_chunk().map(|b| u128::from_be_bytes(*b));
    let from = key::v6(address(ipv6::SOURCE)?, tcp.source);
    let to = key::v6(address(ipv6::DESTINATION)?, tcp.target);
    let (key, from_low) = FlowKey::between(from, to, true, Transport::Tcp);
    let TcpStart { is_plain, begins, .. } = tcp;
    Some(Skim { key, from_low, hops: h[ipv6::HOP_LIMIT], is_plain, begins })
}

/// What is read of a TCP header and its payload.
struct TcpStart {
    source: u16,
    target: u16,
    is_plain: bool,
    begins: [u8; 4],
}

/// Reads a segment of `length` bytes.
#[inline]
fn tcp_start(segment: &[u8], length: usize) -> Option<TcpStart> {
    let h = segment.first_chunk::<{ tcp::FLAGS + 1 }>()?;
    let header = tcp::header_length(h[tcp::DATA_OFFSET]);
    // A header with a wrong length, or that is cut, is decoded in full.
    if header < tcp::HEADER || header > length || header > segment.len() {
        return None;
    }
    // The IP length counts, since Ethernet pads short frames.
    let payload = segment.get(header..length.min(segment.len()))?;
    let begins = payload.first_chunk().copied().unwrap_or_default();
    let port = |at: usize| u16::from_be_bytes([h[at], h[at + 1]]);
    let is_plain = h[tcp::FLAGS] & (tcp::SYN | tcp::FIN | tcp::RST) == 0;
    Some(TcpStart {
        source: port(ports::SOURCE),
        target: port(ports::DESTINATION),
        is_plain,
        begins,
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::decode::decode;
    use crate::frame::Direction;
    use crate::observation::InterfaceId;

    fn frames() -> Vec<Vec<u8>> {
        let path =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../samples/g1-headless/veth5f577e0f.pcap");
        let mut capture = pcap::Capture::from_file(path).unwrap();
        let mut out = Vec::new();
        while let Ok(packet) = capture.next_packet() {
            out.push(packet.data.to_vec());
        }
        out
    }

    fn agree(data: &[u8]) -> bool {
        let interface = InterfaceId { source: 0, index: 0 };
        let frame = Frame {
            time: 0,
            interface,
            link: LinkType::ETHERNET,
            direction: Direction::Unknown,
            wire_len: data.len() as u32,
            data,
        };
        let Some(skim) = skim(&frame) else { return false };
        // Where `decode` refuses the addresses, no flow has this key.
        if let Ok(s) = decode(&frame) {
            assert_eq!((skim.key, skim.from_low), FlowKey::of(s.from, s.to, s.transport));
            assert_eq!(skim.hops, s.hops);
            assert_eq!(skim.begins, s.payload.first_chunk().copied().unwrap_or_default());
            assert_eq!(skim.is_plain, !s.tcp.syn && !s.tcp.fin && !s.tcp.rst);
        }
        true
    }

    #[test]
    fn agrees_with_decoding_on_real_frames_cut_anywhere() {
        let mut answered = 0;
        for frame in frames() {
            answered += usize::from(agree(&frame));
            for n in 0..frame.len().min(120) {
                agree(&frame[..n]);
            }
        }
        assert!(answered > 100, "{answered}");
    }

    proptest! {
        #[test]
        fn agrees_with_decoding_on_mutated_frames(
            at in any::<prop::sample::Index>(),
            changes in prop::collection::vec((0..70usize, any::<u8>()), 0..4),
        ) {
            let all = frames();
            let mut frame = at.get(&all).clone();
            for (i, value) in changes {
                if let Some(byte) = frame.get_mut(i) {
                    *byte = value;
                }
            }
            agree(&frame);
        }
    }
}
