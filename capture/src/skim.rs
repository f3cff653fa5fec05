//! The fast path: both ends of a plain TCP segment, read from fixed offsets in a few nanoseconds.
//!
//! Owns no decision: what it reads only finds a connection that is known and tells whether the
//! packet can change it, so that what cannot is counted without full decoding. Must agree with
//! `decode` wherever it answers (property-tested), and answer nothing that could matter otherwise:
//! SYN, FIN and RST, options, fragments, VLANs, and everything but TCP over Ethernet go the long
//! way.

use crate::bytes::be16;
use crate::flow::key::{self, FlowKey};
use crate::frame::{Frame, LinkType};
use crate::observation::Transport;

/// What the fast path reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Skim {
    pub key: FlowKey,
    /// The low end sent it.
    pub from_low: bool,
    pub hops: u8,
    /// First bytes of the payload; zeros where it has fewer.
    pub begins: [u8; 4],
}

/// Reads a frame, `None` where it must be decoded in full.
#[inline]
pub(crate) fn skim(frame: &Frame<'_>) -> Option<Skim> {
    if frame.link != LinkType::ETHERNET {
        return None;
    }
    let (_, ip) = frame.data.split_at_checked(14)?;
    match be16(frame.data, 12)? {
        0x0800 => v4(ip),
        0x86dd => v6(ip),
        _ => None,
    }
}

#[inline]
fn v4(ip: &[u8]) -> Option<Skim> {
    let (h, tcp) = ip.split_first_chunk::<20>()?;
    // Version 4, no options, neither fragment offset nor more fragments, TCP.
    if h[0] != 0x45 || (h[6] & 0x3f) != 0 || h[7] != 0 || h[9] != 6 {
        return None;
    }
    let total = usize::from(u16::from_be_bytes([h[2], h[3]]));
    // 0: segmentation offload; shorter than its headers: malformed.
    if total < 40 {
        return None;
    }
    let (source, target, begins) = segment(tcp, total - 20)?;
    let from = key::v4(u32::from_be_bytes([h[12], h[13], h[14], h[15]]), source);
    let to = key::v4(u32::from_be_bytes([h[16], h[17], h[18], h[19]]), target);
    let (key, from_low) = FlowKey::between(from, to, false, Transport::Tcp);
    Some(Skim { key, from_low, hops: h[8], begins })
}

#[inline]
fn v6(ip: &[u8]) -> Option<Skim> {
    let (h, tcp) = ip.split_first_chunk::<40>()?;
    if h[0] >> 4 != 6 || h[6] != 6 {
        return None;
    }
    let payload = usize::from(u16::from_be_bytes([h[4], h[5]]));
    if payload < 20 {
        return None;
    }
    let (source, target, begins) = segment(tcp, payload)?;
    let from = key::v6(u128::from_be_bytes(h[8..24].try_into().ok()?), source);
    let to = key::v6(u128::from_be_bytes(h[24..40].try_into().ok()?), target);
    let (key, from_low) = FlowKey::between(from, to, true, Transport::Tcp);
    Some(Skim { key, from_low, hops: h[7], begins })
}

/// Ports of a segment of `length` bytes, and how its payload begins.
#[inline]
fn segment(tcp: &[u8], length: usize) -> Option<(u16, u16, [u8; 4])> {
    let h = tcp.first_chunk::<14>()?;
    let header = usize::from(h[12] >> 4) * 4;
    // SYN, FIN or RST; a header that lies about its length, or is not wholly there.
    if h[13] & 7 != 0 || header < 20 || header > length || header > tcp.len() {
        return None;
    }
    // Ethernet pads short frames.
    let payload = tcp.get(header..length.min(tcp.len()))?;
    let begins = payload.first_chunk().copied().unwrap_or_default();
    Some((u16::from_be_bytes([h[0], h[1]]), u16::from_be_bytes([h[2], h[3]]), begins))
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
        // Addresses that no connection can have never match a known one: the long way refuses them.
        if let Ok(s) = decode(&frame) {
            assert_eq!((skim.key, skim.from_low), FlowKey::of(s.from, s.to, s.transport));
            assert_eq!(skim.hops, s.hops);
            assert_eq!(skim.begins, s.payload.first_chunk().copied().unwrap_or_default());
            assert!(!s.tcp.syn && !s.tcp.fin && !s.tcp.rst);
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
        fn agrees_with_decoding_on_mutated_frames(at in any::<prop::sample::Index>(), changes in prop::collection::vec((0..70usize, any::<u8>()), 0..4)) {
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
