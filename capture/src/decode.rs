//! From a frame to a segment: link layer, network layer, transport layer. Frames that the snap
//! length cut are decoded as far as they go. Nothing is allocated.
//!
//! Owns the decision which frames give a segment. Must never panic, contain state, or read payload.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use etherparse::{
    EtherType, IpNumber, LaxIpSlice, LaxNetSlice, LaxSlicedPacket, TcpSlice, UdpSlice,
};

use crate::bytes::{be16, be32};
use crate::dns;
use crate::frame::{Direction, Frame, LinkType};
use crate::layout::{ethernet, loopback, ports, sll, sll2, tcp, udp};
use crate::observation::{InterfaceId, Nanos, Transport};
use crate::tunnel::{Within, within};

/// The decoded headers of one frame, and its payload, borrowed from the frame.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    /// Packet time, in nanoseconds since the Unix epoch.
    pub time: Nanos,
    /// Interface it was seen on, with the kernel's index where the link type has it.
    pub interface: InterfaceId,
    /// Direction in which it passed the interface.
    pub direction: Direction,
    /// Address and port of the sender.
    pub from: SocketAddr,
    /// Address and port of the receiver.
    pub to: SocketAddr,
    /// Transport protocol of the segment.
    pub transport: Transport,
    /// TTL (IPv4) or hop limit (IPv6).
    pub hops: u8,
    /// TCP header fields; all zero for other protocols.
    pub tcp: Tcp,
    /// Payload, as far as it was captured.
    pub payload: &'a [u8],
    /// Whether the snap length cut some of the payload.
    pub cut: bool,
    /// The ends of the tunnel that it was found in, of the outermost of several.
    pub tunnel: Option<(IpAddr, IpAddr)>,
}

impl Segment<'_> {
    /// Whether it is to or from the port of DNS.
    pub fn is_dns(&self) -> bool {
        self.from.port() == dns::PORT || self.to.port() == dns::PORT
    }
}

/// TCP header fields that orientation needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tcp {
    /// Sequence number (RFC 9293 §3.1).
    pub seq: u32,
    /// Acknowledgment number; meaningful where `ack` is set.
    pub ack_number: u32,
    /// SYN flag: opens a connection.
    pub syn: bool,
    /// ACK flag: the acknowledgment number is valid.
    pub ack: bool,
    /// FIN flag: the sender has no more data.
    pub fin: bool,
    /// RST flag: resets the connection.
    pub rst: bool,
}

/// Why a frame gave no segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skip {
    /// Neither IPv4 nor IPv6.
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
    /// A link type that is not supported.
    UnknownLinkType,
    /// Not between two unicast addresses.
    NotUnicast,
    /// Of a tunnel that only its ends can read.
    Encrypted,
}

/// Tunnels within tunnels that are followed.
const MAX_TUNNELS: u8 = 2;

/// Decodes a frame.
///
/// # Errors
/// The reason why the frame gives no segment.
pub fn decode<'a>(frame: &Frame<'a>) -> Result<Segment<'a>, Skip> {
    let data = frame.data;
    let mut interface = frame.interface;
    let packet = match frame.link {
        LinkType::ETHERNET => linked(data, ethernet::ETHER_TYPE, ethernet::HEADER)?,
        LinkType::LINUX_SLL => linked(data, sll::ETHER_TYPE, sll::HEADER)?,
        LinkType::LINUX_SLL2 => {
            interface.index = sll2::interface(data).ok_or(Skip::BadLink)?;
            linked(data, sll2::ETHER_TYPE, sll2::HEADER)?
        }
        LinkType::RAW | LinkType::RAW_DLT | LinkType::IPV4 | LinkType::IPV6 => by_version(data)?,
        // The address family is in the byte order of the capturing host. The version nibble follows
        // it in any case.
        LinkType::NULL | LinkType::LOOP => {
            by_version(data.get(loopback::HEADER..).ok_or(Skip::BadLink)?)?
        }
        _ => return Err(Skip::UnknownLinkType),
    };
    segment(frame, interface, &packet, MAX_TUNNELS)
}

/// The IP packet after a link-layer header, by the EtherType in that header.
fn linked(data: &[u8], ether_type: usize, header: usize) -> Result<Packet<'_>, Skip> {
    let (header, rest) = data.split_at_checked(header).ok_or(Skip::BadLink)?;
    let ether = be16(header, ether_type).ok_or(Skip::BadLink)?;
    by_ether_type(EtherType(ether), rest)
}

/// An IP packet without its transport.
struct Packet<'a> {
    ip: LaxIpSlice<'a>,
    /// An extension header or the transport header could not be read.
    stopped: bool,
}

fn by_ether_type(ether: EtherType, data: &[u8]) -> Result<Packet<'_>, Skip> {
    // Nearly all frames. Parsing all layers into one value would cost several times as much: that
    // value is large and moved often.
    if matches!(ether, EtherType::IPV4 | EtherType::IPV6) {
        return ip(data);
    }
    let packet = LaxSlicedPacket::from_ether_type(ether, data);
    let stopped = packet.stop_err.is_some();
    match packet.net {
        Some(LaxNetSlice::Ipv4(ip)) => Ok(Packet { ip: LaxIpSlice::Ipv4(ip), stopped }),
        Some(LaxNetSlice::Ipv6(ip)) => Ok(Packet { ip: LaxIpSlice::Ipv6(ip), stopped }),
        None if stopped => Err(Skip::BadNetwork),
        Some(LaxNetSlice::Arp(_)) | None => Err(Skip::NotIp),
    }
}

fn by_version(data: &[u8]) -> Result<Packet<'_>, Skip> {
    match data.first().map(|b| b >> 4) {
        Some(4 | 6) => ip(data),
        Some(_) => Err(Skip::NotIp),
        None => Err(Skip::BadLink),
    }
}

fn ip(data: &[u8]) -> Result<Packet<'_>, Skip> {
    let (ip, stopped) = LaxIpSlice::from_slice(data).map_err(|_| Skip::BadNetwork)?;
    Ok(Packet { ip, stopped: stopped.is_some() })
}

fn segment<'a>(
    frame: &Frame<'a>,
    interface: InterfaceId,
    packet: &Packet<'a>,
    tunnels: u8,
) -> Result<Segment<'a>, Skip> {
    let (source, destination) = (packet.ip.source_addr(), packet.ip.destination_addr());
    let payload = packet.ip.payload();
    let (hops, offset) = match &packet.ip {
        LaxIpSlice::Ipv4(ip) => (ip.header().ttl(), ip.header().fragments_offset().value()),
        LaxIpSlice::Ipv6(ip) if payload.fragmented => (
            ip.header().hop_limit(),
            ipv6_fragment_offset(ip.extensions().slice(), ip.header().next_header()),
        ),
        LaxIpSlice::Ipv6(ip) => (ip.header().hop_limit(), 0),
    };
    if payload.fragmented && offset != 0 {
        return Err(Skip::LaterFragment);
    }
    // What a pod sends through a tunnel of its own is its own on its interface; only captures are
    // taken where an overlay wraps the packets of pods.
    if frame.direction == Direction::Unknown
        && tunnels > 0
        && let Some(what) = within(payload.ip_number, payload.payload)
        && let Some(inner) = inner(frame, interface, what, tunnels - 1)
    {
        return inner.map(|s| Segment { tunnel: Some((source, destination)), ..s });
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
    let readable = !packet.stopped && !payload.fragmented;
    let (ports, tcp, data) = match transport {
        Transport::Tcp if let Some(t) = TcpSlice::from_slice(whole).ok().filter(|_| readable) => {
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
        Transport::Udp
            if let Some(u) = UdpSlice::from_slice_lax(whole).ok().filter(|_| readable) =>
        {
            ((u.source_port(), u.destination_port()), Tcp::default(), u.payload())
        }
        // A first fragment, a cut header, or SCTP. The ports are the first four bytes of all three
        // protocols.
        _ => bare(transport, whole)?,
    };
    let cut = payload.incomplete;
    Ok(Segment {
        time: frame.time,
        interface,
        direction: frame.direction,
        from: SocketAddr::new(source, ports.0),
        to: SocketAddr::new(destination, ports.1),
        transport,
        hops,
        tcp,
        payload: data,
        cut,
        tunnel: None,
    })
}

/// What a tunnel carries; `None` where that is no packet, so that the datagram around it is one of
/// its own.
fn inner<'a>(
    frame: &Frame<'a>,
    interface: InterfaceId,
    what: Within<'a>,
    tunnels: u8,
) -> Option<Result<Segment<'a>, Skip>> {
    let packet = match what {
        Within::Encrypted => return Some(Err(Skip::Encrypted)),
        Within::Frame(data) => linked(data, ethernet::ETHER_TYPE, ethernet::HEADER),
        Within::Packet(ether, data) => by_ether_type(ether, data),
    };
    match packet {
        Ok(packet) => Some(segment(frame, interface, &packet, tunnels)),
        Err(Skip::BadLink | Skip::BadNetwork) => None,
        Err(skip) => Some(Err(skip)),
    }
}

type Bare<'a> = ((u16, u16), Tcp, &'a [u8]);

fn bare(transport: Transport, data: &[u8]) -> Result<Bare<'_>, Skip> {
    let port = |at| be16(data, at).ok_or(Skip::BadTransport);
    let ports = (port(ports::SOURCE)?, port(ports::DESTINATION)?);
    let mut flags = Tcp::default();
    let mut rest: &[u8] = &[];
    match (transport, data.get(..=tcp::FLAGS)) {
        (Transport::Tcp, Some(h)) => {
            flags.seq = be32(h, tcp::SEQUENCE).ok_or(Skip::BadTransport)?;
            flags.ack_number = be32(h, tcp::ACKNOWLEDGMENT).ok_or(Skip::BadTransport)?;
            let set = |flag| h[tcp::FLAGS] & flag != 0;
            (flags.fin, flags.syn, flags.rst, flags.ack) =
                (set(tcp::FIN), set(tcp::SYN), set(tcp::RST), set(tcp::ACK));
            let header = tcp::header_length(h[tcp::DATA_OFFSET]);
            if header < tcp::HEADER {
                return Err(Skip::BadTransport);
            }
            rest = data.get(header..).unwrap_or(&[]);
        }
        // The ports are there and the flags are not. That is enough for a connection joined midway.
        (Transport::Tcp, None) => {}
        (Transport::Udp, _) => rest = data.get(udp::HEADER..).unwrap_or(&[]),
        (Transport::Sctp, _) => {}
    }
    Ok((ports, flags, rest))
}

/// Offset of a fragment (RFC 8200 §4.5), in units of eight bytes; 0 where there is no fragment
/// header.
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

/// Whether an address can belong to a pod, a Service or an external host.
fn unicast(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => {
            !(a.is_loopback()
                || a.is_multicast()
                || a.is_unspecified()
                || a == Ipv4Addr::BROADCAST
                || a.is_link_local())
        }
        IpAddr::V6(a) => {
            let link_local = a.segments()[0] & 0xffc0 == 0xfe80;
            // Unspecified, loopback, and Envoy's own towards the application, `::6`
            // (`InboundPassthroughBindIpv6`, `pilot/pkg/networking/core/cluster.go`).
            let local = a.segments()[..7] == [0; 7];
            !(local || a.is_multicast() || link_local)
        }
    }
}
