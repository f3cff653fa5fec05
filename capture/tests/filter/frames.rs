//! Frames of each kind, with the verdict that is right for them.

use etherparse::{IpNumber, Ipv4Header, Ipv4Options, TcpHeader, TcpOptions, UdpHeader};
use sidecarta_capture::live::filter::FilterLink;
use sidecarta_capture::live::rule::FilterVerdict::{self, Always, Drop, Sample};

pub const IPV4: u16 = 0x0800;
pub const IPV6: u16 = 0x86dd;
pub const VLAN: u16 = 0x8100;
pub const QINQ: u16 = 0x88a8;
pub const ARP: u16 = 0x0806;
/// A port in [`FilterConfig::always_ports`](sidecarta_capture::live::filter::FilterConfig).
pub const TLS_PORT: u16 = 8443;

/// Name, protocol, transport header with payload, and the right verdict.
type Carried = (&'static str, u8, Vec<u8>, FilterVerdict);

pub fn tcp(ports: (u16, u16), set: impl FnOnce(&mut TcpHeader), payload: &[u8]) -> Vec<u8> {
    let mut header = TcpHeader::new(ports.0, ports.1, 7, 64_000);
    set(&mut header);
    [&header.to_bytes(), payload].concat()
}

pub fn udp(ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let header = UdpHeader {
        source_port: ports.0,
        destination_port: ports.1,
        length: 8 + payload.len() as u16,
        checksum: 0,
    };
    [&header.to_bytes(), payload].concat()
}

pub fn carried() -> Vec<Carried> {
    let ack = |h: &mut TcpHeader| (h.ack, h.psh) = (true, true);
    let data = |payload: &[u8]| tcp((40_000, 8080), ack, payload);
    let stamps = TcpOptions::try_from_slice(&[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]).unwrap();
    let hello = [0x16, 3, 1, 0, 200, 1, 0, 0, 196, 3, 3];
    let mut short_header = data(b"GET /");
    short_header[12] = 0x40;
    let mut long_header = data(b"GET /");
    long_header[12] = 0xf0;
    let mut all = vec![
        ("syn", 6, tcp((40_000, 8080), |h| h.syn = true, b""), Always),
        ("syn-ack", 6, tcp((8080, 40_000), |h| (h.syn, h.ack) = (true, true), b""), Always),
        ("rst", 6, tcp((40_000, 8080), |h| h.rst = true, b""), Always),
        ("rst-ack", 6, tcp((40_000, 8080), |h| (h.rst, h.ack) = (true, true), b""), Always),
        ("fin", 6, tcp((40_000, 8080), |h| (h.fin, h.ack) = (true, true), b""), Always),
        ("ack", 6, data(b""), Sample),
        ("data", 6, data(b"abcdefgh"), Sample),
        ("hello", 6, data(&hello), Always),
        (
            "hello with options",
            6,
            tcp((40_000, 443), |h| (h.ack, h.options) = (true, stamps.clone()), &hello),
            Always,
        ),
        ("hello, six bytes", 6, data(&hello[..6]), Always),
        ("hello, five bytes", 6, data(&hello[..5]), Sample),
        ("hello, three bytes", 6, data(&hello[..3]), Sample),
        ("server hello", 6, data(&[0x16, 3, 3, 0, 90, 2, 0]), Sample),
        ("tls data", 6, data(&[0x17, 3, 3, 0, 90, 1, 0]), Sample),
        ("not tls", 6, data(&[0x16, 4, 3, 0, 90, 1, 0]), Sample),
        ("method, three bytes", 6, data(b"GET"), Sample),
        ("lower case", 6, data(b"get / HTTP/1.1"), Sample),
        ("response", 6, data(b"HTTP/1.1 200 OK"), Sample),
        (
            "http with options",
            6,
            tcp((40_000, 80), |h| (h.ack, h.options) = (true, stamps), b"GET /"),
            Always,
        ),
        ("tls port", 6, tcp((40_000, TLS_PORT), ack, b"x"), Always),
        ("tls port, no payload", 6, tcp((40_000, TLS_PORT), ack, b""), Sample),
        ("from tls port", 6, tcp((TLS_PORT, 40_000), ack, b"x"), Sample),
        ("header too short", 6, short_header, Sample),
        ("header too long", 6, long_header, Sample),
        ("ports only", 6, data(b"")[..8].to_vec(), Sample),
        ("dns over tcp", 6, tcp((40_000, 53), ack, b"\0\x1d"), Always),
        ("dns answer over tcp", 6, tcp((53, 40_000), ack, b"\0\x1d"), Always),
        ("dns", 17, udp((40_000, 53), &[7; 30]), Always),
        ("dns answer", 17, udp((53, 40_000), &[7; 30]), Always),
        ("udp", 17, udp((40_000, 8125), b"GET /"), Sample),
        (
            "sctp",
            132,
            [&udp((40_000, 3868), &[0; 4])[..], &[1, 0, 0, 20], &[0; 16]].concat(),
            Sample,
        ),
        (
            "sctp, port of dns",
            132,
            [&udp((40_000, 53), &[0; 4])[..], &[0, 3, 0, 20], &[0; 16]].concat(),
            Sample,
        ),
        (
            "authentication header",
            51,
            [&[6, 4, 0, 0][..], &[0; 20], &data(b"GET /")].concat(),
            Sample,
        ),
        ("icmp", 1, vec![8, 0, 0, 53, 0, 53, 0, 1], Drop),
        ("icmp for IPv6", 58, vec![128, 0, 0, 53, 0, 53, 0, 1], Drop),
        ("esp", 50, vec![0, 53, 0, 53, 0, 0, 0, 1, 2, 3], Drop),
        ("no next header", 59, vec![0, 53, 0, 53], Drop),
    ];
    for head in [
        "GET /",
        "POST /",
        "PUT /",
        "HEAD /",
        "DELETE /",
        "OPTIONS *",
        "PATCH /",
        "CONNECT a:1",
        "TRACE /",
    ] {
        all.push((head, 6, data(head.as_bytes()), Always));
    }
    all.push(("http/2", 6, data(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), Always));
    all
}

pub fn ipv4(protocol: u8, transport: &[u8], set: impl FnOnce(&mut Ipv4Header)) -> Vec<u8> {
    let length = transport.len() as u16;
    let mut header =
        Ipv4Header::new(length, 64, IpNumber(protocol), [10, 0, 0, 1], [10, 0, 0, 2]).unwrap();
    set(&mut header);
    header.total_len = header.header_len() as u16 + length;
    [&header.to_bytes(), transport].concat()
}

/// Extension headers by number and bytes; the first byte of each is set to the number of what
/// follows it.
pub fn ipv6(extensions: &[(u8, &[u8])], protocol: u8, transport: &[u8]) -> Vec<u8> {
    let mut rest = transport.to_vec();
    let mut next = protocol;
    for (number, bytes) in extensions.iter().rev() {
        rest = [&[next], &bytes[1..], &rest].concat();
        next = *number;
    }
    let length = (rest.len() as u16).to_be_bytes();
    let address = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    [&[0x60, 0, 0, 0, length[0], length[1], next, 64][..], &address, &address, &rest].concat()
}

pub const HOP_BY_HOP: (u8, &[u8]) = (0, &[0, 0, 1, 4, 0, 0, 0, 0]);
pub const ROUTING: (u8, &[u8]) =
    (43, &[0, 2, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
pub const DESTINATION: (u8, &[u8]) = (60, &[0, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
pub const FIRST_FRAGMENT: (u8, &[u8]) = (44, &[0, 0, 0, 1, 0, 0, 0, 9]);
pub const LATER_FRAGMENT: (u8, &[u8]) = (44, &[0, 0, 0, 8, 0, 0, 0, 9]);

/// IP packets with the verdict that is right for what they carry.
pub fn packets(protocol: u8, transport: &[u8]) -> Vec<Vec<u8>> {
    let v6 = |extensions: &[(u8, &[u8])]| ipv6(extensions, protocol, transport);
    let mut packets = vec![
        ipv4(protocol, transport, |_| {}),
        ipv4(protocol, transport, |h| {
            h.options = Ipv4Options::try_from(&[1_u8, 1, 1, 1, 1, 1, 1, 0][..]).unwrap()
        }),
        ipv4(protocol, transport, |h| h.more_fragments = true),
    ];
    packets.push(v6(&[]));
    packets.push(v6(&[HOP_BY_HOP]));
    packets.push(v6(&[DESTINATION]));
    packets.push(v6(&[HOP_BY_HOP, ROUTING]));
    packets.push(v6(&[FIRST_FRAGMENT, DESTINATION]));
    packets.push(v6(&[ROUTING, DESTINATION, FIRST_FRAGMENT]));
    packets
}

/// A packet on each link, with up to two VLAN tags.
pub fn frames(packet: &[u8]) -> Vec<(FilterLink, Vec<u8>)> {
    let ether = if packet[0] >> 4 == 4 { IPV4 } else { IPV6 };
    vec![
        (FilterLink::RawIp, packet.to_vec()),
        (FilterLink::Ethernet, ethernet(&[], ether, packet)),
        (FilterLink::Ethernet, ethernet(&[VLAN], ether, packet)),
        (FilterLink::Ethernet, ethernet(&[QINQ, VLAN], ether, packet)),
        (FilterLink::Cooked, cooked(&[], ether, packet)),
        (FilterLink::Cooked, cooked(&[VLAN], ether, packet)),
        (FilterLink::Cooked, cooked(&[QINQ, VLAN], ether, packet)),
    ]
}

pub fn tagged(tags: &[u16], ether: u16, packet: &[u8]) -> (u16, Vec<u8>) {
    tags.iter().rev().fold((ether, packet.to_vec()), |(ether, rest), tag| {
        (*tag, [&[0x20, 5][..], &ether.to_be_bytes(), &rest].concat())
    })
}

pub fn ethernet(tags: &[u16], ether: u16, packet: &[u8]) -> Vec<u8> {
    let (ether, rest) = tagged(tags, ether, packet);
    [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2][..], &ether.to_be_bytes(), &rest].concat()
}

pub fn cooked(tags: &[u16], ether: u16, packet: &[u8]) -> Vec<u8> {
    let (ether, rest) = tagged(tags, ether, packet);
    [&ether.to_be_bytes()[..], &[0, 0, 0, 0, 0, 3, 0, 1, 4, 6, 2, 0, 0, 0, 0, 1, 0, 0], &rest]
        .concat()
}

pub fn all_frames() -> Vec<(&'static str, FilterLink, Vec<u8>, FilterVerdict)> {
    let mut all = Vec::new();
    for (name, protocol, transport, expected) in carried() {
        for packet in packets(protocol, &transport) {
            all.extend(
                frames(&packet).into_iter().map(|(link, frame)| (name, link, frame, expected)),
            );
        }
    }
    all
}
