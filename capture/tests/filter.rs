//! The filter as the kernel runs it decides on each frame as the rule does, and the rule keeps what calls are learned from.
//!
//! Sockets of a pair accept a packet filter and run it on each datagram, without any privilege. What a frame's protocol is they
//! do not know, so that programs for cooked sockets get it as a constant.

#![allow(clippy::unwrap_used)] // a test that cannot go on should say where

use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;

use etherparse::{IpFragOffset, IpNumber, Ipv4Header, Ipv4Options, TcpHeader, TcpOptions, UdpHeader};
use proptest::prelude::*;
use proptest::test_runner::{Config as Runs, TestRunner};
use sidecarta_capture::decode::decode;
use sidecarta_capture::frame::{Frame, LinkType};
use sidecarta_capture::live::filter::{Config, Instruction, Link, attach, program};
use sidecarta_capture::live::rule::{Verdict, verdict};
use sidecarta_capture::observation::InterfaceId;

use Verdict::{Always, Drop, Sample};

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const VLAN: u16 = 0x8100;
const QINQ: u16 = 0x88a8;
const ARP: u16 = 0x0806;
const TLS_PORT: u16 = 8443;

fn config(sample: u32) -> Config {
    Config { sample, snap: u32::MAX, always_ports: vec![TLS_PORT] }
}

/// A pair of sockets with a filter at its end.
struct Filtered {
    near: UnixDatagram,
    far: UnixDatagram,
}

impl Filtered {
    fn new(program: &[Instruction]) -> Self {
        let (near, far) = UnixDatagram::pair().unwrap();
        far.set_nonblocking(true).unwrap();
        attach(far.as_fd(), program).unwrap();
        Self { near, far }
    }

    /// How many bytes come through.
    fn pass(&self, frame: &[u8]) -> Option<usize> {
        assert_eq!(self.near.send(frame).unwrap(), frame.len());
        match self.far.recv(&mut [0; 4096]) {
            Ok(length) => Some(length),
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(error) => panic!("{error}"),
        }
    }
}

/// What the kernel does with frames of all links.
struct Kernel(Vec<(Link, u16, Filtered, Filtered)>);

impl Kernel {
    fn new(config: &Config) -> Self {
        let kinds = [(Link::Ethernet, 0), (Link::RawIp, 0)];
        let cooked = [IPV4, IPV6, VLAN, QINQ, ARP].map(|ether| (Link::Cooked, ether));
        let filtered = |link, ether: u16, sample| {
            let mut program = program(link, &Config { sample, ..config.clone() });
            // `ld [SKF_AD_OFF + SKF_AD_PROTOCOL]` becomes `ld #ether`.
            for i in program.iter_mut().filter(|i| i.code == 0x20 && i.k == 0xffff_f000) {
                (i.code, i.k) = (0x00, ether.into());
            }
            Filtered::new(&program)
        };
        let of = |(link, ether)| (link, ether, filtered(link, ether, 1), filtered(link, ether, u32::MAX));
        Self(kinds.into_iter().chain(cooked).map(of).collect())
    }

    /// `None` where it cannot be asked: a cooked frame without a header, or of another protocol.
    fn verdict(&self, link: Link, frame: &[u8]) -> Option<Verdict> {
        let (ether, frame) = match link {
            Link::Cooked => (u16::from_be_bytes([*frame.first()?, *frame.get(1)?]), frame.get(20..)?),
            _ => (0, frame),
        };
        let (_, _, all, few) = self.0.iter().find(|(l, e, ..)| (*l, *e) == (link, ether))?;
        Some(match (all.pass(frame), few.pass(frame)) {
            (None, None) => Drop,
            (Some(_), None) => Sample,
            (Some(_), Some(_)) => Always,
            (None, Some(_)) => panic!("sampled more by keeping less"),
        })
    }
}

/// Transport header and payload, their protocol, and what becomes of them.
type Carried = (&'static str, u8, Vec<u8>, Verdict);

fn tcp(ports: (u16, u16), set: impl FnOnce(&mut TcpHeader), payload: &[u8]) -> Vec<u8> {
    let mut header = TcpHeader::new(ports.0, ports.1, 7, 64_000);
    set(&mut header);
    [&header.to_bytes(), payload].concat()
}

fn udp(ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let header = UdpHeader { source_port: ports.0, destination_port: ports.1, length: 8 + payload.len() as u16, checksum: 0 };
    [&header.to_bytes(), payload].concat()
}

fn carried() -> Vec<Carried> {
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
        ("fin", 6, tcp((40_000, 8080), |h| (h.fin, h.ack) = (true, true), b""), Sample),
        ("ack", 6, data(b""), Sample),
        ("data", 6, data(b"abcdefgh"), Sample),
        ("hello", 6, data(&hello), Always),
        ("hello with options", 6, tcp((40_000, 443), |h| (h.ack, h.options) = (true, stamps), &hello), Always),
        ("hello, six bytes", 6, data(&hello[..6]), Always),
        ("hello, five bytes", 6, data(&hello[..5]), Sample),
        ("hello, three bytes", 6, data(&hello[..3]), Sample),
        ("server hello", 6, data(&[0x16, 3, 3, 0, 90, 2, 0]), Sample),
        ("tls data", 6, data(&[0x17, 3, 3, 0, 90, 1, 0]), Sample),
        ("not tls", 6, data(&[0x16, 4, 3, 0, 90, 1, 0]), Sample),
        ("method, three bytes", 6, data(b"GET"), Sample),
        ("lower case", 6, data(b"get / HTTP/1.1"), Sample),
        ("response", 6, data(b"HTTP/1.1 200 OK"), Sample),
        ("http with options", 6, tcp((40_000, 80), |h| (h.ack, h.options) = (true, stamps), b"GET /"), Always),
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
        ("sctp", 132, [&udp((40_000, 3868), &[0; 4])[..], &[1, 0, 0, 20], &[0; 16]].concat(), Sample),
        ("sctp, port of dns", 132, [&udp((40_000, 53), &[0; 4])[..], &[0, 3, 0, 20], &[0; 16]].concat(), Sample),
        ("authentication header", 51, [&[6, 4, 0, 0][..], &[0; 20], &data(b"GET /")].concat(), Sample),
        ("icmp", 1, vec![8, 0, 0, 53, 0, 53, 0, 1], Drop),
        ("icmp for IPv6", 58, vec![128, 0, 0, 53, 0, 53, 0, 1], Drop),
        ("esp", 50, vec![0, 53, 0, 53, 0, 0, 0, 1, 2, 3], Drop),
        ("no next header", 59, vec![0, 53, 0, 53], Drop),
    ];
    for head in ["GET /", "POST /", "PUT /", "HEAD /", "DELETE /", "OPTIONS *", "PATCH /", "CONNECT a:1", "TRACE /"] {
        all.push((head, 6, data(head.as_bytes()), Always));
    }
    all.push(("http/2", 6, data(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), Always));
    all
}

fn ipv4(protocol: u8, transport: &[u8], set: impl FnOnce(&mut Ipv4Header)) -> Vec<u8> {
    let length = transport.len() as u16;
    let mut header = Ipv4Header::new(length, 64, IpNumber(protocol), [10, 0, 0, 1], [10, 0, 0, 2]).unwrap();
    set(&mut header);
    header.total_len = header.header_len() as u16 + length;
    [&header.to_bytes(), transport].concat()
}

/// Extension headers by number and bytes; the first byte of each is set to the number of what follows it.
fn ipv6(extensions: &[(u8, &[u8])], protocol: u8, transport: &[u8]) -> Vec<u8> {
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

const HOP_BY_HOP: (u8, &[u8]) = (0, &[0, 0, 1, 4, 0, 0, 0, 0]);
const ROUTING: (u8, &[u8]) = (43, &[0, 2, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
const DESTINATION: (u8, &[u8]) = (60, &[0, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
const FIRST_FRAGMENT: (u8, &[u8]) = (44, &[0, 0, 0, 1, 0, 0, 0, 9]);
const LATER_FRAGMENT: (u8, &[u8]) = (44, &[0, 0, 0, 8, 0, 0, 0, 9]);

/// IP packets with the verdict that is right for what they carry.
fn packets(protocol: u8, transport: &[u8]) -> Vec<Vec<u8>> {
    let v6 = |extensions: &[(u8, &[u8])]| ipv6(extensions, protocol, transport);
    let mut packets = vec![
        ipv4(protocol, transport, |_| {}),
        ipv4(protocol, transport, |h| h.options = Ipv4Options::try_from(&[1_u8, 1, 1, 1, 1, 1, 1, 0][..]).unwrap()),
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
fn frames(packet: &[u8]) -> Vec<(Link, Vec<u8>)> {
    let ether = if packet[0] >> 4 == 4 { IPV4 } else { IPV6 };
    vec![
        (Link::RawIp, packet.to_vec()),
        (Link::Ethernet, ethernet(&[], ether, packet)),
        (Link::Ethernet, ethernet(&[VLAN], ether, packet)),
        (Link::Ethernet, ethernet(&[QINQ, VLAN], ether, packet)),
        (Link::Cooked, cooked(&[], ether, packet)),
        (Link::Cooked, cooked(&[VLAN], ether, packet)),
        (Link::Cooked, cooked(&[QINQ, VLAN], ether, packet)),
    ]
}

fn tagged(tags: &[u16], ether: u16, packet: &[u8]) -> (u16, Vec<u8>) {
    tags.iter()
        .rev()
        .fold((ether, packet.to_vec()), |(ether, rest), tag| (*tag, [&[0x20, 5][..], &ether.to_be_bytes(), &rest].concat()))
}

fn ethernet(tags: &[u16], ether: u16, packet: &[u8]) -> Vec<u8> {
    let (ether, rest) = tagged(tags, ether, packet);
    [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2][..], &ether.to_be_bytes(), &rest].concat()
}

fn cooked(tags: &[u16], ether: u16, packet: &[u8]) -> Vec<u8> {
    let (ether, rest) = tagged(tags, ether, packet);
    [&ether.to_be_bytes()[..], &[0, 0, 0, 0, 0, 3, 0, 1, 4, 6, 2, 0, 0, 0, 0, 1, 0, 0], &rest].concat()
}

fn all_frames() -> Vec<(&'static str, Link, Vec<u8>, Verdict)> {
    let mut all = Vec::new();
    for (name, protocol, transport, expected) in carried() {
        for packet in packets(protocol, &transport) {
            all.extend(frames(&packet).into_iter().map(|(link, frame)| (name, link, frame, expected)));
        }
    }
    all
}

fn assert_verdict(kernel: &Kernel, name: &str, link: Link, frame: &[u8], expected: Verdict) {
    assert_eq!(verdict(link, frame, &config(1)), expected, "rule: {name}, {link:?}, {frame:02x?}");
    assert_eq!(kernel.verdict(link, frame), Some(expected), "kernel: {name}, {link:?}, {frame:02x?}");
}

#[test]
fn each_kind_of_frame_gets_its_verdict() {
    let kernel = Kernel::new(&config(1));
    let all = all_frames();
    assert!(all.len() > 2000);
    for (name, link, frame, expected) in all {
        assert_verdict(&kernel, name, link, &frame, expected);
    }
}

#[test]
fn what_is_in_the_way_of_ports_decides() {
    let kernel = Kernel::new(&config(1));
    let syn = tcp((40_000, 8080), |h| h.syn = true, b"");
    let four = [HOP_BY_HOP, DESTINATION, ROUTING, DESTINATION];
    let with = |at: usize, byte: u8| {
        let mut packet = ipv4(6, &syn, |_| {});
        packet[at] = byte;
        packet
    };
    let cases = [
        ("later fragment", ipv4(6, &syn, |h| h.fragment_offset = IpFragOffset::try_new(1).unwrap()), Drop),
        ("later fragment, IPv6", ipv6(&[LATER_FRAGMENT], 6, &syn), Drop),
        ("later fragment behind options", ipv6(&[HOP_BY_HOP, ROUTING, LATER_FRAGMENT], 6, &syn), Drop),
        ("three extensions", ipv6(&four[..3], 6, &syn), Always),
        ("four extensions", ipv6(&four, 6, &syn), Sample),
        ("four extensions, nothing behind", ipv6(&four, 59, b""), Drop),
        ("header of 16 bytes", with(0, 0x44), Drop),
        ("header of 60 bytes", with(0, 0x4f), Drop),
        ("total length below the header's", with(3, 7), Always),
    ];
    for (name, packet, expected) in cases {
        for (link, frame) in frames(&packet) {
            assert_verdict(&kernel, name, link, &frame, expected);
        }
    }
    assert_verdict(&kernel, "version 5", Link::RawIp, &with(0, 0x55), Drop);
    let arp = [0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1, 10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 10, 0, 0, 2];
    assert_verdict(&kernel, "arp", Link::Ethernet, &ethernet(&[], ARP, &arp), Drop);
    assert_verdict(&kernel, "arp, tagged", Link::Ethernet, &ethernet(&[VLAN], ARP, &arp), Drop);
    assert_verdict(&kernel, "arp", Link::Cooked, &cooked(&[], ARP, &arp), Drop);
    assert_verdict(&kernel, "three tags", Link::Ethernet, &ethernet(&[QINQ, VLAN, VLAN], IPV4, &with(0, 0x45)), Drop);
}

#[test]
fn padding_is_not_payload_and_a_missing_length_is_the_frames() {
    let kernel = Kernel::new(&config(1));
    let ack = |payload: &[u8]| tcp((40_000, TLS_PORT), |h| h.ack = true, payload);
    let get = tcp((40_000, 8080), |h| h.ack = true, b"GET / HTTP/1.1");
    for mut packet in packets(6, &ack(b"")) {
        packet.extend(b"GET /");
        for (link, frame) in frames(&packet) {
            assert_verdict(&kernel, "padded", link, &frame, Sample);
        }
    }
    for mut packet in packets(6, &get) {
        let length = if packet[0] >> 4 == 4 { 2 } else { 4 };
        packet[length..length + 2].fill(0);
        // Beyond what a socket's buffer has in one piece.
        packet.resize(40_000, 0);
        for (link, frame) in frames(&packet) {
            assert_verdict(&kernel, "no length", link, &frame, Always);
        }
    }
}

#[test]
fn frames_cut_anywhere_get_the_same_verdict_from_both() {
    let (kernel, config) = (Kernel::new(&config(1)), config(1));
    for (name, link, frame, _) in all_frames() {
        for length in 0..frame.len() {
            let cut = &frame[..length];
            let rule = verdict(link, cut, &config);
            if let Some(kernel) = kernel.verdict(link, cut) {
                assert_eq!(kernel, rule, "{name}, {link:?}, {length} bytes of {frame:02x?}");
            }
        }
    }
}

#[test]
fn what_can_be_decoded_is_never_dropped() {
    let config = config(1);
    for (name, link, frame, _) in all_frames() {
        let kind = [LinkType::ETHERNET, LinkType::RAW, LinkType::LINUX_SLL2][link as usize];
        for length in 0..=frame.len() {
            let data = &frame[..length];
            let interface = InterfaceId { source: 0, index: 0 };
            let of = Frame { time: 0, interface, link: kind, wire_len: frame.len() as u32, data };
            let lost = decode(&of).is_ok() && verdict(link, data, &config) == Drop;
            assert!(!lost, "{name}, {link:?}, {length} bytes of {frame:02x?}");
        }
    }
}

#[test]
fn mutated_frames_get_the_same_verdict_from_both() {
    let (kernel, config) = (Kernel::new(&config(1)), config(1));
    let all = all_frames();
    // Mostly within headers, mostly to values that mean something there.
    let byte =
        prop_oneof![any::<u8>(), prop::sample::select(vec![0, 1, 3, 6, 17, 43, 44, 45, 51, 53, 60, 132, 0x45, 0x60, 0x50, 0xff])];
    let changes = prop::collection::vec((prop_oneof![0..80_usize, 0..200_usize], byte), 0..6);
    let tail = prop::collection::vec(any::<u8>(), 0..24);
    let strategy = (0..all.len(), changes, 0..200_usize, tail);
    let mut runner = TestRunner::new(Runs { cases: 60_000, failure_persistence: None, ..Runs::default() });
    let result = runner.run(&strategy, |(index, changes, cut, tail)| {
        let (name, link, mut frame, _) = all[index].clone();
        if cut % 4 == 0 {
            frame.truncate(cut);
        }
        frame.extend(tail);
        let length = frame.len().max(1);
        for (at, byte) in changes {
            if let Some(place) = frame.get_mut(at % length) {
                *place = byte;
            }
        }
        let rule = verdict(link, &frame, &config);
        if let Some(kernel) = kernel.verdict(link, &frame) {
            prop_assert_eq!(kernel, rule, "{}, {:?}, {:02x?}", name, link, frame);
        }
        Ok(())
    });
    result.unwrap();
}

#[test]
fn one_in_sixteen_is_kept() {
    let filtered = Filtered::new(&program(Link::RawIp, &config(16)));
    let frame = ipv4(17, &udp((40_000, 8125), b"x"), |_| {});
    let kept = (0..16_000).filter(|_| filtered.pass(&frame).is_some()).count();
    assert!((16_000 / 24..=16_000 / 12).contains(&kept), "{kept}");
}

#[test]
fn frames_are_cut_to_the_snap_length() {
    let frame = ipv4(17, &udp((40_000, 53), &[7; 300]), |_| {});
    for (snap, expected) in [(0, 1), (1, 1), (96, 96), (4096, frame.len())] {
        let filtered = Filtered::new(&program(Link::RawIp, &Config { snap, ..config(1) }));
        assert_eq!(filtered.pass(&frame), Some(expected));
    }
}

#[test]
fn many_ports_are_reached_by_long_jumps_and_too_many_are_refused() {
    for count in [0, 1, 100, 200, 250, 300, 1900] {
        let ports: Vec<u16> = (0..count).map(|i| 20_000 + 2 * i).collect();
        let config = Config { always_ports: ports.iter().rev().chain(&ports).copied().collect(), ..config(1) };
        let kernel = Kernel::new(&config);
        for port in [20_000, 20_001, 20_100, 20_398, 20_498, 20_598, 20_600, 23_798, 23_800] {
            let frame = ethernet(&[], IPV4, &ipv4(6, &tcp((40_000, port), |h| h.ack = true, b"x"), |_| {}));
            let expected = if ports.contains(&port) { Always } else { Sample };
            assert_eq!(verdict(Link::Ethernet, &frame, &config), expected);
            assert_eq!(kernel.verdict(Link::Ethernet, &frame), Some(expected), "{count} ports, {port}");
        }
    }
    let (near, _far) = UnixDatagram::pair().unwrap();
    let config = Config { always_ports: (0..=u16::MAX).collect(), ..config(1) };
    let error = attach(near.as_fd(), &program(Link::Ethernet, &config)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}
