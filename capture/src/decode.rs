//! From a frame to a segment: link layer, network, transport. Lax about frames that the snap length cut, without allocation.
//!
//! Owns the layout of headers. Must never panic, keep state, or look into payload.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use etherparse::{EtherType, IpNumber, LaxNetSlice, LaxSlicedPacket, TransportSlice};

use crate::frame::{Direction, Frame, LinkType};
use crate::observation::{InterfaceId, Nanos, Transport};

/// What a transport segment is, borrowed from its frame.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    /// Packet time.
    pub time: Nanos,
    /// Where it was seen; with the kernel's index where the link type has it.
    pub interface: InterfaceId,
    /// Which way it passed there.
    pub direction: Direction,
    /// A "cooked" capture of all interfaces: one packet may be seen several times.
    pub cooked: bool,
    /// Sender.
    pub from: SocketAddr,
    /// Receiver.
    pub to: SocketAddr,
    /// Transport protocol.
    pub transport: Transport,
    /// TTL or hop limit.
    pub hops: u8,
    /// TCP header fields; default for other protocols.
    pub tcp: Tcp,
    /// Payload as far as it was captured.
    pub payload: &'a [u8],
    /// The snap length cut some of the payload.
    pub cut: bool,
}

/// TCP header fields that orientation needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tcp {
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgment number.
    pub ack_number: u32,
    /// SYN.
    pub syn: bool,
    /// ACK.
    pub ack: bool,
    /// FIN.
    pub fin: bool,
    /// RST.
    pub rst: bool,
}

/// Why a frame gave no segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skip {
    /// Not IP.
    NotIp,
    /// IP, but neither TCP, UDP nor SCTP.
    OtherTransport,
    /// A fragment after the first.
    LaterFragment,
    /// Link layer cut or malformed.
    BadLink,
    /// Network header cut or malformed.
    BadNetwork,
    /// Transport header cut or malformed.
    BadTransport,
    /// A link type that is not read.
    UnknownLinkType,
    /// Not between two unicast addresses.
    NotUnicast,
}

/// Length of a Linux "cooked" header (LINKTYPE_LINUX_SLL).
const SLL: usize = 16;
/// Length of a Linux "cooked" header, version 2.
const SLL2: usize = 20;

/// Decodes a frame.
///
/// # Errors
/// Why it gives no segment.
pub fn decode<'a>(frame: &Frame<'a>) -> Result<Segment<'a>, Skip> {
    let data = frame.data;
    let mut interface = frame.interface;
    let mut cooked = false;
    let packet = match frame.link {
        LinkType::ETHERNET => LaxSlicedPacket::from_ethernet(data).map_err(|_| Skip::BadLink)?,
        LinkType::LINUX_SLL => {
            cooked = true;
            let ether = data.get(14..SLL).ok_or(Skip::BadLink)?;
            LaxSlicedPacket::from_ether_type(ether_type(ether), &data[SLL..])
        }
        LinkType::LINUX_SLL2 => {
            cooked = true;
            let header = data.get(..SLL2).ok_or(Skip::BadLink)?;
            interface.index = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
            LaxSlicedPacket::from_ether_type(ether_type(&header[..2]), &data[SLL2..])
        }
        LinkType::RAW | LinkType::RAW_DLT | LinkType::IPV4 | LinkType::IPV6 => ip(data)?,
        // Four bytes of address family in the capturing host's byte order: whatever it is, the version nibble follows.
        LinkType::NULL | LinkType::LOOP => ip(data.get(4..).ok_or(Skip::BadLink)?)?,
        _ => return Err(Skip::UnknownLinkType),
    };
    segment(frame, interface, cooked, &packet)
}

fn ether_type(bytes: &[u8]) -> EtherType {
    EtherType(u16::from_be_bytes([bytes[0], bytes[1]]))
}

fn ip(data: &[u8]) -> Result<LaxSlicedPacket<'_>, Skip> {
    match data.first().map(|b| b >> 4) {
        Some(4 | 6) => LaxSlicedPacket::from_ip(data).map_err(|_| Skip::BadNetwork),
        Some(_) => Err(Skip::NotIp),
        None => Err(Skip::BadLink),
    }
}

fn segment<'a>(
    frame: &Frame<'a>,
    interface: InterfaceId,
    cooked: bool,
    packet: &LaxSlicedPacket<'a>,
) -> Result<Segment<'a>, Skip> {
    let (source, destination, hops, payload, offset) = match &packet.net {
        Some(LaxNetSlice::Ipv4(ip)) => {
            let h = ip.header();
            let (s, d) = (IpAddr::V4(h.source_addr()), IpAddr::V4(h.destination_addr()));
            (s, d, h.ttl(), ip.payload(), h.fragments_offset().value())
        }
        Some(LaxNetSlice::Ipv6(ip)) => {
            let h = ip.header();
            let (s, d) = (IpAddr::V6(h.source_addr()), IpAddr::V6(h.destination_addr()));
            let offset = if ip.payload().fragmented { ipv6_fragment_offset(ip.extensions().slice(), h.next_header()) } else { 0 };
            (s, d, h.hop_limit(), ip.payload(), offset)
        }
        Some(LaxNetSlice::Arp(_)) => return Err(Skip::NotIp),
        None => return Err(missing_net(packet)),
    };
    if payload.fragmented && offset != 0 {
        return Err(Skip::LaterFragment);
    }
    let transport = match payload.ip_number {
        IpNumber::TCP => Transport::Tcp,
        IpNumber::UDP => Transport::Udp,
        IpNumber::SCTP => Transport::Sctp,
        _ => return Err(Skip::OtherTransport),
    };
    if !unicast(source) || !unicast(destination) {
        return Err(Skip::NotUnicast);
    }
    let whole = payload.payload;
    let (ports, tcp, data) = match &packet.transport {
        Some(TransportSlice::Tcp(t)) => {
            let flags = Tcp {
                seq: t.sequence_number(),
                ack_number: t.acknowledgment_number(),
                syn: t.syn(),
                ack: t.ack(),
                fin: t.fin(),
                rst: t.rst(),
            };
            ((t.source_port(), t.destination_port()), flags, t.payload())
        }
        Some(TransportSlice::Udp(u)) => ((u.source_port(), u.destination_port()), Tcp::default(), u.payload()),
        // A first fragment, a cut header, or SCTP: the ports are its first four bytes in all three protocols.
        _ => bare(transport, whole)?,
    };
    let cut = payload.incomplete;
    Ok(Segment {
        time: frame.time,
        interface,
        direction: frame.direction,
        cooked,
        from: SocketAddr::new(source, ports.0),
        to: SocketAddr::new(destination, ports.1),
        transport,
        hops,
        tcp,
        payload: data,
        cut,
    })
}

type Bare<'a> = ((u16, u16), Tcp, &'a [u8]);

fn bare(transport: Transport, data: &[u8]) -> Result<Bare<'_>, Skip> {
    let &[a, b, c, d, ..] = data else { return Err(Skip::BadTransport) };
    let ports = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    let mut tcp = Tcp::default();
    let mut rest: &[u8] = &[];
    match (transport, data.get(4..14)) {
        (Transport::Tcp, Some(h)) => {
            tcp.seq = u32::from_be_bytes([h[0], h[1], h[2], h[3]]);
            tcp.ack_number = u32::from_be_bytes([h[4], h[5], h[6], h[7]]);
            let flags = h[9];
            (tcp.fin, tcp.syn, tcp.rst, tcp.ack) = (flags & 1 != 0, flags & 2 != 0, flags & 4 != 0, flags & 16 != 0);
            let header = usize::from(h[8] >> 4) * 4;
            if header < 20 {
                return Err(Skip::BadTransport);
            }
            rest = data.get(header..).unwrap_or(&[]);
        }
        // The ports are there, the flags are not: enough for a midway sighting.
        (Transport::Tcp, None) => {}
        (Transport::Udp, _) => rest = data.get(8..).unwrap_or(&[]),
        (Transport::Sctp, _) => {}
    }
    Ok((ports, tcp, rest))
}

fn missing_net(packet: &LaxSlicedPacket<'_>) -> Skip {
    if packet.stop_err.is_some() { Skip::BadNetwork } else { Skip::NotIp }
}

/// Offset of a fragment (RFC 8200 §4.5), in units of eight bytes; 0 where no fragment header is found.
fn ipv6_fragment_offset(extensions: &[u8], first: IpNumber) -> u16 {
    let (mut next, mut rest) = (first, extensions);
    loop {
        let Some(&[following, length, a, b]) = rest.first_chunk::<4>() else { return 0 };
        let size = match next {
            IpNumber::IPV6_FRAGMENTATION_HEADER => return u16::from_be_bytes([a, b]) >> 3,
            IpNumber::AUTHENTICATION_HEADER => (usize::from(length) + 2) * 4,
            _ => (usize::from(length) + 1) * 8,
        };
        next = IpNumber(following);
        rest = rest.get(size..).unwrap_or(&[]);
    }
}

/// Whether an address can be a pod's, a Service's or an external host's.
fn unicast(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => {
            !(a.is_loopback() || a.is_multicast() || a.is_unspecified() || a == Ipv4Addr::BROADCAST || a.is_link_local())
        }
        IpAddr::V6(a) => {
            let link_local = a.segments()[0] & 0xffc0 == 0xfe80;
            !(a.is_loopback() || a.is_multicast() || a == Ipv6Addr::UNSPECIFIED || link_local)
        }
    }
}
