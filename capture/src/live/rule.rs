//! Which frames are worth keeping, as plain code over bytes: what the filter in the kernel does,
//! for reading and for checking it.
//!
//! Owns the rule and its constants; [`super::filter`] says the same in classic BPF, and a test
//! holds both against each other. Must never be more than the filter can do: no state between
//! frames, nothing from outside the frame but which way it passes.

use super::filter::{FilterConfig, FilterLink};
use crate::bytes::be16;
use crate::dns::PORT as DNS;
use crate::frame::Direction;
use crate::http::REQUESTS;
use crate::layout::protocol::{AUTHENTICATION, SCTP, TCP, UDP};
use crate::layout::tcp::{ACK, FIN, PSH, RST, SYN};
use crate::layout::{ethernet, ipv4, ipv6, ports, sll2, tcp, tls};

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FilterVerdict {
    /// Never kept: no name and no call can be learned from it.
    Drop,
    /// Kept once in [`FilterConfig::sample`].
    Sample,
    /// Always kept: it opens or ends a connection, or may carry a name.
    Always,
}

/// VLAN tags that are read in a frame (QinQ).
pub(super) const MAX_TAGS: usize = 2;
/// IPv6 extension headers that are walked, in any order: two of options and a fragment header.
/// Deeper ones are sampled, as what is behind an authentication header is: TCP may be.
pub(super) const MAX_EXTENSIONS: usize = 3;

/// How a TLS record with a handshake begins.
pub(super) const HANDSHAKE: [u8; 2] = [tls::HANDSHAKE, tls::MAJOR];
/// Where in the record the type of the handshake message is, bytes.
pub(super) const HANDSHAKE_TYPE: usize = tls::RECORD_HEADER;
/// How TLS records of any kind begin.
pub(super) const RECORDS: [[u8; 2]; 4] = {
    let [a, b, c, d] = tls::RECORD_TYPES;
    [[a, tls::MAJOR], [b, tls::MAJOR], [c, tls::MAJOR], [d, tls::MAJOR]]
};

/// Ports that TLS is spoken at: HTTPS, its usual alternative, and Istio's port between clusters.
pub(super) const TLS_PORTS: [u16; 3] = [443, 8443, 15443];
/// Longest payload of a segment on links of 1,500 bytes. Longer ones are cut by a device: a
/// ClientHello is whole in them, and what else is as long is a body.
pub(super) const SEGMENT: usize = 1460;

/// What the filter does with a frame.
///
/// A frame of [`FilterLink::Cooked`] is as libpcap hands it out: with its LINKTYPE_LINUX_SLL2 header, of
/// which the protocol counts.
pub fn verdict(
    link: FilterLink,
    direction: Direction,
    frame: &[u8],
    config: &FilterConfig,
) -> FilterVerdict {
    // Where bytes are missing that the rule must see, the kernel ends the program with "drop".
    judge(link, direction, frame, config).unwrap_or(FilterVerdict::Drop)
}

fn judge(
    link: FilterLink,
    direction: Direction,
    frame: &[u8],
    config: &FilterConfig,
) -> Option<FilterVerdict> {
    let packet = match link {
        FilterLink::Ethernet => {
            untag(be16(frame, ethernet::ETHER_TYPE)?, frame.get(ethernet::HEADER..)?)?
        }
        FilterLink::Cooked => untag(be16(frame, sll2::ETHER_TYPE)?, frame.get(sll2::HEADER..)?)?,
        FilterLink::RawIp => frame,
    };
    let carried = match packet.first()? >> 4 {
        4 => v4(packet)?,
        6 => v6(packet)?,
        _ => return None,
    };
    let from = be16(carried.bytes, ports::SOURCE)?;
    let to = be16(carried.bytes, ports::DESTINATION)?;
    match carried.protocol {
        TCP | UDP if from == DNS || to == DNS => Some(FilterVerdict::Always),
        TCP => Some(segment(&carried, direction, (from, to), config)),
        UDP | SCTP | AUTHENTICATION => Some(FilterVerdict::Sample),
        deeper if carried.v6 && is_extension(deeper) => Some(FilterVerdict::Sample),
        _ => None,
    }
}

/// The IP packet behind VLAN tags. The kernel takes the outer one out of most frames before a
/// filter sees them.
fn untag(mut ether: u16, mut rest: &[u8]) -> Option<&[u8]> {
    for _ in 0..MAX_TAGS {
        if ethernet::VLAN.contains(&ether) {
            ether = be16(rest, ethernet::VLAN_ETHER_TYPE)?;
            rest = rest.get(ethernet::VLAN_TAG..)?;
        }
    }
    [ethernet::IPV4, ethernet::IPV6].contains(&ether).then_some(rest)
}

/// What an IP packet carries.
struct IpPayload<'a> {
    v6: bool,
    protocol: u8,
    /// From the transport header to the end of the frame, padding included.
    bytes: &'a [u8],
    /// How many of these belong to the packet.
    own: usize,
}

fn v4(packet: &[u8]) -> Option<IpPayload<'_>> {
    let header = usize::from(packet.first()? & 0xf) * 4;
    let later_fragment = be16(packet, ipv4::FRAGMENT)? & ipv4::FRAGMENT_OFFSET != 0;
    if header < ipv4::HEADER || later_fragment {
        return None;
    }
    let end = match usize::from(be16(packet, ipv4::TOTAL_LENGTH)?) {
        // Segmentation is left to the device, and the packet is beyond 65,535 bytes ("BIG TCP").
        0 => packet.len(),
        total => total.min(packet.len()),
    };
    Some(IpPayload {
        v6: false,
        protocol: *packet.get(ipv4::PROTOCOL)?,
        bytes: packet.get(header..)?,
        own: end.saturating_sub(header),
    })
}

fn v6(packet: &[u8]) -> Option<IpPayload<'_>> {
    let end = match usize::from(be16(packet, ipv6::PAYLOAD_LENGTH)?) {
        // A jumbogram (RFC 2675), which "BIG TCP" is too.
        0 => packet.len(),
        payload => (ipv6::HEADER + payload).min(packet.len()),
    };
    let mut protocol = *packet.get(ipv6::NEXT_HEADER)?;
    let mut at = ipv6::HEADER;
    for _ in 0..MAX_EXTENSIONS {
        let header = packet.get(at..)?;
        if protocol == ipv6::FRAGMENT {
            let later_fragment = be16(header, 2)? & ipv6::FRAGMENT_OFFSET != 0;
            if later_fragment {
                return None;
            }
            protocol = *header.first()?;
            at += ipv6::FRAGMENT_HEADER;
        } else if ipv6::OPTIONS.contains(&protocol) {
            protocol = *header.first()?;
            at += (usize::from(*header.get(1)?) + 1) * 8;
        }
    }
    Some(IpPayload { v6: true, protocol, bytes: packet.get(at..)?, own: end.saturating_sub(at) })
}

fn is_extension(protocol: u8) -> bool {
    protocol == ipv6::FRAGMENT || ipv6::OPTIONS.contains(&protocol)
}

fn segment(
    carried: &IpPayload<'_>,
    direction: Direction,
    (from, to): (u16, u16),
    config: &FilterConfig,
) -> FilterVerdict {
    // A first fragment may have the ports only.
    let Some(header) = carried.bytes.get(..tcp::HEADER) else { return FilterVerdict::Sample };
    let flags = header[tcp::FLAGS];
    if flags & RST != 0 || !config.callers_only && flags & (SYN | FIN) != 0 {
        return FilterVerdict::Always;
    }
    if config.callers_only {
        // Of a call of those behind the interface: what opens it, what that is answered with, and
        // what they begin to say. Of a call to them, only what opens it: who calls may be so new
        // that its own interface is not watched yet.
        let by_them = direction != Direction::Sent;
        if flags & SYN != 0 {
            let answer_of_theirs = by_them && flags & ACK != 0;
            return if answer_of_theirs { FilterVerdict::Sample } else { FilterVerdict::Always };
        }
        if !by_them {
            return FilterVerdict::Sample;
        }
        // Both ends send a FIN. Whose port is the higher one is the caller, as a rule; what else
        // ends is forgotten after a while.
        if flags & FIN != 0 && from > to {
            return FilterVerdict::Always;
        }
    }
    let length = tcp::header_length(header[tcp::DATA_OFFSET]);
    if length < tcp::HEADER {
        return FilterVerdict::Sample;
    }
    let payload = carried.bytes.get(length..carried.own).unwrap_or(&[]);
    let of_port = !payload.is_empty() && config.always_ports.contains(&to);
    let request = payload.first_chunk::<4>().is_some_and(|head| REQUESTS.contains(head));
    let client_hello =
        payload.starts_with(&HANDSHAKE) && payload.get(HANDSHAKE_TYPE) == Some(&tls::CLIENT_HELLO);
    let rest =
        config.callers_only && flags & PSH != 0 && TLS_PORTS.contains(&to) && ends_hello(payload);
    if of_port || request || client_hello || rest {
        FilterVerdict::Always
    } else {
        FilterVerdict::Sample
    }
}

/// Whether it may be the rest of a ClientHello, whose server name is in it: it begins within a
/// record, and is no body.
fn ends_hello(payload: &[u8]) -> bool {
    payload.len() <= SEGMENT
        && payload.first_chunk::<2>().is_some_and(|head| !RECORDS.contains(head))
}
