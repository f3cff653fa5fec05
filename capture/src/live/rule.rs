//! The rule which frames the filter passes, as plain code over bytes.
//!
//! Owns the rule and its constants. [`super::filter`] has the same rule in classic BPF, and a test
//! compares both. Must never need more than a filter can do: no state between frames, and of the
//! frame only its bytes and its direction.

use super::filter::{DatagramRule, FilterConfig, FilterLink};
use crate::bytes::be16;
use crate::dns::PORT as DNS;
use crate::frame::Direction;
use crate::http::REQUESTS;
use crate::layout::protocol::{AUTHENTICATION, SCTP, TCP, UDP};
use crate::layout::tcp::{ACK, FIN, PSH, RST, SYN};
use crate::layout::{ethernet, ipv4, ipv6, ports, sll2, tcp, tls};

/// What the filter does with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FilterVerdict {
    /// Never passed: neither a name nor a call can be learned from it.
    Drop,
    /// Passed once in [`FilterConfig::sample`].
    Sample,
    /// Always passed: it opens or closes a connection, may contain a name, or is a datagram, which
    /// may be the only one to its destination.
    Always,
}

/// VLAN tags that are read in a frame (QinQ), at most.
pub(super) const MAX_TAGS: usize = 2;
/// IPv6 extension headers that are skipped, in any order: two of options and a fragment header.
/// Packets with more of them, or with an authentication header, are sampled, since they may contain
/// TCP.
pub(super) const MAX_EXTENSIONS: usize = 3;

/// First bytes of a TLS record with a handshake message.
pub(super) const HANDSHAKE: [u8; 2] = [tls::HANDSHAKE, tls::MAJOR];
/// Offset of the type of the handshake message in the record, in bytes.
pub(super) const HANDSHAKE_TYPE: usize = tls::RECORD_HEADER;
/// First bytes of TLS records of all types.
pub(super) const RECORDS: [[u8; 2]; 4] = {
    let [a, b, c, d] = tls::RECORD_TYPES;
    [[a, tls::MAJOR], [b, tls::MAJOR], [c, tls::MAJOR], [d, tls::MAJOR]]
};

/// Ports of TLS: HTTPS, its usual alternative, and Istio's port between clusters.
pub(super) const TLS_PORTS: [u16; 3] = [443, 8443, 15443];
/// Longest payload of a segment on links of 1,500 bytes, in bytes. A device splits longer ones. A
/// ClientHello is whole in them, and any other payload of that length is a body.
pub(super) const SEGMENT: usize = 1460;

/// What the filter does with a frame.
///
/// A frame of [`FilterLink::Cooked`] has the LINKTYPE_LINUX_SLL2 header that libpcap delivers. Only
/// the protocol in it is read.
pub fn verdict(
    link: FilterLink,
    direction: Direction,
    frame: &[u8],
    config: &FilterConfig,
) -> FilterVerdict {
    // Where bytes are missing that the rule needs, the kernel ends the program with "drop".
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
        UDP if config.datagrams == DatagramRule::All && direction != Direction::Sent => {
            Some(FilterVerdict::Always)
        }
        UDP | SCTP | AUTHENTICATION => Some(FilterVerdict::Sample),
        deeper if carried.v6 && is_extension(deeper) => Some(FilterVerdict::Sample),
        _ => None,
    }
}

/// The IP packet after VLAN tags. From most frames, the kernel removes the outer tag before a
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

/// The payload of an IP packet.
struct IpPayload<'a> {
    v6: bool,
    protocol: u8,
    /// From the transport header to the end of the frame, padding included.
    bytes: &'a [u8],
    /// Number of these bytes that belong to the packet.
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
        // A jumbogram (RFC 2675), as in "BIG TCP".
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
    // A first fragment may contain the ports only.
    let Some(header) = carried.bytes.get(..tcp::HEADER) else { return FilterVerdict::Sample };
    let flags = header[tcp::FLAGS];
    if flags & RST != 0 || !config.callers_only && flags & (SYN | FIN) != 0 {
        return FilterVerdict::Always;
    }
    if config.callers_only {
        // Of a call that the pod makes: the segments that open it, the answers to these, and the
        // first bytes of the pod. Of a call that it receives: only the SYN, since the interface of
        // a new caller may not be watched yet.
        let by_them = direction != Direction::Sent;
        if flags & SYN != 0 {
            let answer_of_theirs = by_them && flags & ACK != 0;
            return if answer_of_theirs { FilterVerdict::Sample } else { FilterVerdict::Always };
        }
        if !by_them {
            return FilterVerdict::Sample;
        }
        // Both ends send a FIN. As a rule the caller has the higher port. Other connections that
        // end are forgotten after a while.
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

/// Whether a payload may be the rest of a ClientHello with the server name: it begins within a
/// record, and is no body.
fn ends_hello(payload: &[u8]) -> bool {
    payload.len() <= SEGMENT
        && payload.first_chunk::<2>().is_some_and(|head| !RECORDS.contains(head))
}
