//! Which frames are worth keeping, as plain code over bytes: what the filter in the kernel does,
//! for reading and for checking it.
//!
//! Owns the rule and its constants; [`super::filter`] says the same in classic BPF, and a test
//! holds both against each other. Must never be more than the filter can do: no state between
//! frames, nothing from outside the frame but which way it passes.

use super::filter::{Config, Link};
use crate::dns::PORT as DNS;
use crate::frame::Direction;
use crate::http::REQUESTS;

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Never kept: no name and no call can be learned from it.
    Drop,
    /// Kept once in [`Config::sample`].
    Sample,
    /// Always kept: it opens or ends a connection, or may carry a name.
    Always,
}

/// EtherType of IPv4 (RFC 894).
pub(super) const ETHER_IPV4: u16 = 0x0800;
/// EtherType of IPv6 (RFC 2464).
pub(super) const ETHER_IPV6: u16 = 0x86dd;
/// EtherTypes of a VLAN tag: IEEE 802.1Q, and 802.1ad outside of it.
pub(super) const ETHER_VLAN: [u16; 2] = [0x8100, 0x88a8];
/// VLAN tags that are read in a frame (QinQ).
pub(super) const MAX_TAGS: usize = 2;

/// Protocol number of TCP (RFC 9293).
pub(super) const TCP: u8 = 6;
/// Protocol number of UDP (RFC 768).
pub(super) const UDP: u8 = 17;
/// Protocol number of SCTP (RFC 9260).
pub(super) const SCTP: u8 = 132;
/// IPv6 fragment header (RFC 8200 §4.5).
pub(super) const FRAGMENT: u8 = 44;
/// Authentication header (RFC 4302): TCP may be behind it. Not walked, but not lost for good
/// either.
pub(super) const AUTHENTICATION: u8 = 51;
/// IPv6 hop-by-hop options, routing and destination options (RFC 8200 §4.3, §4.4, §4.6): next
/// header, then length in units of eight bytes without the first eight.
pub(super) const OPTIONS: [u8; 3] = [0, 43, 60];
/// IPv6 extension headers that are walked, in any order: two of options and a fragment header.
/// Deeper ones are sampled.
pub(super) const MAX_EXTENSIONS: usize = 3;

/// FIN (RFC 9293 §3.1): without the end of a connection a flow table would fill with those that are
/// over.
pub(super) const FIN: u8 = 0x01;
/// SYN.
pub(super) const SYN: u8 = 0x02;
/// RST.
pub(super) const RST: u8 = 0x04;
/// PSH: the last segment of what was written at once.
pub(super) const PSH: u8 = 0x08;
/// ACK.
pub(super) const ACK: u8 = 0x10;
/// Length of a TCP header without options, bytes.
pub(super) const TCP_HEADER: usize = 20;
/// How a TLS record with a handshake begins: type 22, major version 3 (RFC 8446 §5.1).
pub(super) const HANDSHAKE: [u8; 2] = [0x16, 0x03];
/// Where in the record the type of the handshake message is, bytes.
pub(super) const HANDSHAKE_TYPE: usize = 5;
/// Type of a ClientHello (RFC 8446 §4).
pub(super) const CLIENT_HELLO: u8 = 1;

/// Ports that TLS is spoken at: HTTPS, its usual alternative, and Istio's port between clusters.
pub(super) const TLS_PORTS: [u16; 3] = [443, 8443, 15443];
/// How TLS records of any kind begin: type 20 to 23, major version 3 (RFC 8446 §5.1).
pub(super) const RECORDS: [[u8; 2]; 4] = [[0x14, 3], [0x15, 3], [0x16, 3], [0x17, 3]];
/// Longest payload of a segment on links of 1,500 bytes. Longer ones are cut by a device: a
/// ClientHello is whole in them, and what else is as long is a body.
pub(super) const SEGMENT: usize = 1460;

/// Length of a Linux "cooked" header, version 2, bytes (LINKTYPE_LINUX_SLL2).
const SLL2: usize = 20;

/// What the filter does with a frame.
///
/// A frame of [`Link::Cooked`] is as libpcap hands it out: with its LINKTYPE_LINUX_SLL2 header, of
/// which the protocol counts.
pub fn verdict(link: Link, direction: Direction, frame: &[u8], config: &Config) -> Verdict {
    // Where bytes are missing that the rule must see, the kernel ends the program with "drop".
    judge(link, direction, frame, config).unwrap_or(Verdict::Drop)
}

fn judge(link: Link, direction: Direction, frame: &[u8], config: &Config) -> Option<Verdict> {
    let packet = match link {
        Link::Ethernet => untag(half(frame, 12)?, frame.get(14..)?)?,
        Link::Cooked => untag(half(frame, 0)?, frame.get(SLL2..)?)?,
        Link::RawIp => frame,
    };
    let carried = match packet.first()? >> 4 {
        4 => ipv4(packet)?,
        6 => ipv6(packet)?,
        _ => return None,
    };
    let from = half(carried.bytes, 0)?;
    let to = half(carried.bytes, 2)?;
    match carried.protocol {
        TCP | UDP if from == DNS || to == DNS => Some(Verdict::Always),
        TCP => Some(tcp(&carried, direction, (from, to), config)),
        UDP | SCTP | AUTHENTICATION => Some(Verdict::Sample),
        deeper if carried.v6 && is_extension(deeper) => Some(Verdict::Sample),
        _ => None,
    }
}

/// The IP packet behind VLAN tags. The kernel takes the outer one out of most frames before a
/// filter sees them.
fn untag(mut ether: u16, mut rest: &[u8]) -> Option<&[u8]> {
    for _ in 0..MAX_TAGS {
        if ETHER_VLAN.contains(&ether) {
            ether = half(rest, 2)?;
            rest = rest.get(4..)?;
        }
    }
    [ETHER_IPV4, ETHER_IPV6].contains(&ether).then_some(rest)
}

/// What an IP packet carries.
struct Carried<'a> {
    v6: bool,
    protocol: u8,
    /// From the transport header to the end of the frame, padding included.
    bytes: &'a [u8],
    /// How many of these belong to the packet.
    own: usize,
}

fn ipv4(packet: &[u8]) -> Option<Carried<'_>> {
    let header = usize::from(packet.first()? & 0xf) * 4;
    let later_fragment = half(packet, 6)? & 0x1fff != 0;
    if header < 20 || later_fragment {
        return None;
    }
    let end = match usize::from(half(packet, 2)?) {
        // Segmentation is left to the device, and the packet is beyond 65,535 bytes ("BIG TCP").
        0 => packet.len(),
        total => total.min(packet.len()),
    };
    Some(Carried {
        v6: false,
        protocol: *packet.get(9)?,
        bytes: packet.get(header..)?,
        own: end.saturating_sub(header),
    })
}

fn ipv6(packet: &[u8]) -> Option<Carried<'_>> {
    let end = match usize::from(half(packet, 4)?) {
        // A jumbogram (RFC 2675), which "BIG TCP" is too.
        0 => packet.len(),
        payload => (40 + payload).min(packet.len()),
    };
    let mut protocol = *packet.get(6)?;
    let mut at = 40;
    for _ in 0..MAX_EXTENSIONS {
        let header = packet.get(at..)?;
        if protocol == FRAGMENT {
            let later_fragment = half(header, 2)? & 0xfff8 != 0;
            if later_fragment {
                return None;
            }
            protocol = *header.first()?;
            at += 8;
        } else if OPTIONS.contains(&protocol) {
            protocol = *header.first()?;
            at += (usize::from(*header.get(1)?) + 1) * 8;
        }
    }
    Some(Carried { v6: true, protocol, bytes: packet.get(at..)?, own: end.saturating_sub(at) })
}

fn is_extension(protocol: u8) -> bool {
    protocol == FRAGMENT || OPTIONS.contains(&protocol)
}

fn tcp(
    carried: &Carried<'_>,
    direction: Direction,
    (from, to): (u16, u16),
    config: &Config,
) -> Verdict {
    // A first fragment may have the ports only.
    let Some(header) = carried.bytes.get(..TCP_HEADER) else { return Verdict::Sample };
    let flags = header[13];
    if flags & RST != 0 || !config.callers_only && flags & (SYN | FIN) != 0 {
        return Verdict::Always;
    }
    if config.callers_only {
        // Of a call of those behind the interface: what opens it, what that is answered with, and
        // what they begin to say. Of a call to them, only what opens it: who calls may be so new
        // that its own interface is not watched yet.
        let by_them = direction != Direction::Sent;
        if flags & SYN != 0 {
            let answer_of_theirs = by_them && flags & ACK != 0;
            return if answer_of_theirs { Verdict::Sample } else { Verdict::Always };
        }
        if !by_them {
            return Verdict::Sample;
        }
        // Both ends send a FIN. Whose port is the higher one is the caller, as a rule; what else
        // ends is forgotten after a while.
        if flags & FIN != 0 && from > to {
            return Verdict::Always;
        }
    }
    let length = usize::from(header[12] >> 4) * 4;
    if length < TCP_HEADER {
        return Verdict::Sample;
    }
    let payload = carried.bytes.get(length..carried.own).unwrap_or(&[]);
    let of_port = !payload.is_empty() && config.always_ports.contains(&to);
    let request = payload.first_chunk::<4>().is_some_and(|head| REQUESTS.contains(head));
    let client_hello =
        payload.starts_with(&HANDSHAKE) && payload.get(HANDSHAKE_TYPE) == Some(&CLIENT_HELLO);
    let rest =
        config.callers_only && flags & PSH != 0 && TLS_PORTS.contains(&to) && ends_hello(payload);
    if of_port || request || client_hello || rest { Verdict::Always } else { Verdict::Sample }
}

/// Whether it may be the rest of a ClientHello, whose server name is in it: it begins within a
/// record, and is no body.
fn ends_hello(payload: &[u8]) -> bool {
    payload.len() <= SEGMENT
        && payload.first_chunk::<2>().is_some_and(|head| !RECORDS.contains(head))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|b| u16::from_be_bytes(*b))
}
