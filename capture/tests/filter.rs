//! The kernel's filter gives each frame the same verdict as the rule, and the rule passes the
//! frames that calls are learned from.
//!
//! A pair of datagram sockets accepts a packet filter without any privilege, and runs it on each
//! datagram. These sockets have no EtherType, so programs for cooked sockets get it as a constant.

#![allow(clippy::unwrap_used)] // a test that cannot go on should say where

#[path = "filter/frames.rs"]
mod frames;

use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;

use etherparse::IpFragOffset;
use proptest::prelude::*;
use proptest::test_runner::{Config as Runs, TestRunner};
use sidecarta_capture::decode::decode;
use sidecarta_capture::frame::{Direction, Frame, LinkType};
use sidecarta_capture::live::filter::{
    DatagramRule, FilterConfig, FilterLink, Instruction, attach, program,
};
use sidecarta_capture::live::rule::FilterVerdict::{Always, Drop, Sample};
use sidecarta_capture::live::rule::{FilterVerdict, verdict};
use sidecarta_capture::observation::InterfaceId;

use frames::*;

fn config(sample: u32) -> FilterConfig {
    FilterConfig {
        sample,
        snap_bytes: u32::MAX,
        sampled_snap_bytes: u32::MAX,
        always_ports: vec![TLS_PORT],
        datagrams: DatagramRule::Sampled,
        callers_only: false,
    }
}

/// Configurations and directions, which are all that the rule depends on besides the frame.
fn modes() -> [(FilterConfig, Direction); 5] {
    let pods = FilterConfig { callers_only: true, ..config(1) };
    let datagrams = FilterConfig { datagrams: DatagramRule::All, ..pods.clone() };
    [
        (config(1), Direction::Received),
        (pods.clone(), Direction::Received),
        (pods, Direction::Sent),
        (datagrams.clone(), Direction::Received),
        (datagrams, Direction::Sent),
    ]
}

/// A pair of sockets with a filter at one end.
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

    /// Sends a frame. Returns how many bytes of it are passed.
    fn pass(&self, frame: &[u8]) -> Option<usize> {
        assert_eq!(self.near.send(frame).unwrap(), frame.len());
        match self.far.recv(&mut [0; 4096]) {
            Ok(length) => Some(length),
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(error) => panic!("{error}"),
        }
    }
}

/// The kernel's filters for frames of all links.
struct Kernel(Vec<(FilterLink, u16, Filtered, Filtered)>);

impl Kernel {
    fn new(config: &FilterConfig) -> Self {
        Self::of(config, Direction::Received)
    }

    fn of(config: &FilterConfig, direction: Direction) -> Self {
        let kinds = [(FilterLink::Ethernet, 0), (FilterLink::RawIp, 0)];
        let cooked = [IPV4, IPV6, VLAN, QINQ, ARP].map(|ether| (FilterLink::Cooked, ether));
        let filtered = |link, ether: u16, sample| {
            let mut program = program(link, &FilterConfig { sample, ..config.clone() });
            // `ld [SKF_AD_OFF + SKF_AD_PROTOCOL]` becomes `ld #ether`.
            for i in program.iter_mut().filter(|i| i.code == 0x20 && i.k == 0xffff_f000) {
                (i.code, i.k) = (0x00, ether.into());
            }
            // As does `ld [SKF_AD_OFF + SKF_AD_PKTTYPE]`: PACKET_OUTGOING or PACKET_HOST.
            for i in program.iter_mut().filter(|i| i.code == 0x20 && i.k == 0xffff_f004) {
                (i.code, i.k) = (0x00, if direction == Direction::Sent { 4 } else { 0 });
            }
            Filtered::new(&program)
        };
        let of = |(link, ether)| {
            (link, ether, filtered(link, ether, 1), filtered(link, ether, u32::MAX))
        };
        Self(kinds.into_iter().chain(cooked).map(of).collect())
    }

    /// `None` where it cannot be asked: a cooked frame without a header, or of another protocol.
    fn verdict(&self, link: FilterLink, frame: &[u8]) -> Option<FilterVerdict> {
        let (ether, frame) = match link {
            FilterLink::Cooked => {
                (u16::from_be_bytes([*frame.first()?, *frame.get(1)?]), frame.get(20..)?)
            }
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

fn assert_verdict(
    kernel: &Kernel,
    name: &str,
    link: FilterLink,
    frame: &[u8],
    expected: FilterVerdict,
) {
    assert_eq!(
        verdict(link, Direction::Received, frame, &config(1)),
        expected,
        "rule: {name}, {link:?}, {frame:02x?}"
    );
    assert_eq!(
        kernel.verdict(link, frame),
        Some(expected),
        "kernel: {name}, {link:?}, {frame:02x?}"
    );
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
fn on_a_pods_interface_calls_by_the_pod_are_passed_and_calls_to_it_are_sampled() {
    let (caller, called) = ((40_000, 8080), (8080, 40_000));
    let segment = |ports, flags: &str, payload: &[u8]| {
        let has = |f| flags.contains(f);
        tcp(
            ports,
            |h| {
                (h.syn, h.ack, h.fin, h.rst, h.psh) =
                    (has('s'), has('a'), has('f'), has('r'), has('p'))
            },
            payload,
        )
    };
    let cases = [
        ("syn", segment(caller, "s", b""), Always, Always),
        ("syn-ack", segment(called, "sa", b""), Sample, Always),
        ("fin of the caller", segment(caller, "fa", b""), Always, Sample),
        ("fin of the called", segment(called, "fa", b""), Sample, Sample),
        ("fin, equal ports", segment((8080, 8080), "fa", b""), Sample, Sample),
        ("fin with a request", segment(called, "fa", b"GET / HTTP/1.1"), Always, Sample),
        ("rst", segment(caller, "ra", b""), Always, Always),
        ("syn and rst", segment(called, "sr", b""), Always, Always),
        ("request", segment(caller, "a", b"GET / HTTP/1.1"), Always, Sample),
        ("hello", segment(caller, "a", &[0x16, 3, 1, 0, 200, 1, 0, 0, 196, 3, 3]), Always, Sample),
        ("always port", segment((40_000, TLS_PORT), "a", b"x"), Always, Sample),
        ("data", segment(caller, "ap", b"abcdefgh"), Sample, Sample),
        ("rest of a hello", segment((40_000, 443), "ap", b"\0\x0a\0\0"), Always, Sample),
        ("as long as can be", segment((40_000, 443), "ap", &[7; 1460]), Always, Sample),
        ("too long for a segment", segment((40_000, 443), "ap", &[7; 1461]), Sample, Sample),
        ("in the middle of it", segment((40_000, 443), "a", &[7; 1460]), Sample, Sample),
        ("a byte", segment((40_000, 443), "ap", b"x"), Sample, Sample),
        ("record", segment((40_000, 443), "ap", &[0x17, 3, 3, 0, 90, 1, 0]), Sample, Sample),
        ("alert", segment((40_000, 443), "ap", &[0x15, 3]), Sample, Sample),
    ];
    let [_, received, sent, ..] =
        modes().map(|(config, direction)| (Kernel::of(&config, direction), config, direction));
    for (name, transport, by_pod, to_pod) in cases {
        for (link, frame) in packets(6, &transport).iter().flat_map(|p| frames(p)) {
            for ((kernel, config, direction), expected) in [(&received, by_pod), (&sent, to_pod)] {
                assert_eq!(
                    verdict(link, *direction, &frame, config),
                    expected,
                    "rule: {name}, {link:?}, {direction:?}"
                );
                assert_eq!(
                    kernel.verdict(link, &frame),
                    Some(expected),
                    "kernel: {name}, {link:?}, {direction:?}"
                );
            }
        }
    }
}

/// Names are learned at either end. Where only frames that pods send are visible, they are learned
/// at the interface of the DNS server.
#[test]
fn on_a_pods_interface_dns_is_passed_in_both_directions() {
    let [_, received, sent, ..] = modes().map(|(config, direction)| Kernel::of(&config, direction));
    for (link, frame) in packets(17, &udp((53, 40_000), &[7; 30])).iter().flat_map(|p| frames(p)) {
        assert_eq!(
            [&received, &sent].map(|kernel| kernel.verdict(link, &frame)),
            [Some(Always); 2]
        );
    }
}

#[test]
fn headers_before_the_ports_decide() {
    let kernel = Kernel::new(&config(1));
    let syn = tcp((40_000, 8080), |h| h.syn = true, b"");
    let with = |at: usize, byte: u8| {
        let mut packet = ipv4(6, &syn, |_| {});
        packet[at] = byte;
        packet
    };
    let cases = [
        (
            "later fragment",
            ipv4(6, &syn, |h| h.fragment_offset = IpFragOffset::try_new(1).unwrap()),
            Drop,
        ),
        ("later fragment, IPv6", ipv6(&[LATER_FRAGMENT], 6, &syn), Drop),
        (
            "later fragment behind options",
            ipv6(&[HOP_BY_HOP, ROUTING, LATER_FRAGMENT], 6, &syn),
            Drop,
        ),
        ("header of 16 bytes", with(0, 0x44), Drop),
        ("header of 60 bytes", with(0, 0x4f), Drop),
        ("total length below the header's", with(3, 7), Always),
    ];
    for (name, packet, expected) in cases {
        for (link, frame) in frames(&packet) {
            assert_verdict(&kernel, name, link, &frame, expected);
        }
    }
    assert_verdict(&kernel, "version 5", FilterLink::RawIp, &with(0, 0x55), Drop);
    let arp =
        [0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1, 10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 10, 0, 0, 2];
    assert_verdict(&kernel, "arp", FilterLink::Ethernet, &ethernet(&[], ARP, &arp), Drop);
    assert_verdict(
        &kernel,
        "arp, tagged",
        FilterLink::Ethernet,
        &ethernet(&[VLAN], ARP, &arp),
        Drop,
    );
    assert_verdict(&kernel, "arp", FilterLink::Cooked, &cooked(&[], ARP, &arp), Drop);
    assert_verdict(
        &kernel,
        "three tags",
        FilterLink::Ethernet,
        &ethernet(&[QINQ, VLAN, VLAN], IPV4, &with(0, 0x45)),
        Drop,
    );
}

#[test]
fn extension_headers_are_skipped_in_any_order() {
    let kernel = Kernel::new(&config(1));
    let syn = tcp((40_000, 8080), |h| h.syn = true, b"");
    let kinds = [HOP_BY_HOP, ROUTING, DESTINATION, FIRST_FRAGMENT, LATER_FRAGMENT];
    let mut chains: Vec<Vec<_>> = vec![Vec::new()];
    for length in 0..=4 {
        for chain in &chains {
            assert_eq!(chain.len(), length);
            assert_chain(&kernel, chain, &syn);
        }
        chains = chains.iter().flat_map(|c| kinds.map(|kind| [&c[..], &[kind]].concat())).collect();
    }
}

fn assert_chain(kernel: &Kernel, chain: &[(u8, &[u8])], syn: &[u8]) {
    let expected = match (chain.iter().take(3).any(|e| *e == LATER_FRAGMENT), chain.len()) {
        (true, _) => Drop,
        (false, 0..=3) => Always,
        (false, _) => Sample,
    };
    for (link, frame) in frames(&ipv6(chain, 6, syn)) {
        assert_verdict(kernel, "chain", link, &frame, expected);
    }
}

#[test]
fn padding_is_not_payload_and_without_a_length_the_frames_length_counts() {
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
    for (config, direction) in modes() {
        let kernel = Kernel::of(&config, direction);
        for (name, link, frame, _) in all_frames() {
            for length in 0..frame.len() {
                let cut = &frame[..length];
                let rule = verdict(link, direction, cut, &config);
                if let Some(kernel) = kernel.verdict(link, cut) {
                    assert_eq!(
                        kernel, rule,
                        "{name}, {link:?}, {direction:?}, {length} bytes of {frame:02x?}"
                    );
                }
            }
        }
    }
}

#[test]
fn no_frame_that_can_be_decoded_is_dropped() {
    let config = config(1);
    for (name, link, frame, _) in all_frames() {
        let kind = [LinkType::ETHERNET, LinkType::RAW, LinkType::LINUX_SLL2][link as usize];
        for length in 0..=frame.len() {
            let data = &frame[..length];
            let interface = InterfaceId { source: 0, index: 0 };
            let of = Frame {
                time: 0,
                interface,
                link: kind,
                direction: Direction::Unknown,
                wire_len: frame.len() as u32,
                data,
            };
            let lost =
                decode(&of).is_ok() && verdict(link, Direction::Received, data, &config) == Drop;
            assert!(!lost, "{name}, {link:?}, {length} bytes of {frame:02x?}");
        }
    }
}

#[test]
fn mutated_frames_get_the_same_verdict_from_both() {
    let modes =
        modes().map(|(config, direction)| (Kernel::of(&config, direction), config, direction));
    let all = all_frames();
    // Mostly within headers, mostly to values that mean something there.
    let byte = prop_oneof![
        any::<u8>(),
        prop::sample::select(vec![
            0, 1, 3, 6, 17, 43, 44, 45, 51, 53, 60, 132, 0x45, 0x60, 0x50, 0xff
        ])
    ];
    let changes = prop::collection::vec((prop_oneof![0..80_usize, 0..200_usize], byte), 0..6);
    let tail = prop::collection::vec(any::<u8>(), 0..24);
    let strategy = (0..all.len(), changes, 0..200_usize, tail, 0..modes.len());
    let mut runner =
        TestRunner::new(Runs { cases: 60_000, failure_persistence: None, ..Runs::default() });
    let result = runner.run(&strategy, |(index, changes, cut, tail, mode)| {
        let (kernel, config, direction) = &modes[mode];
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
        let rule = verdict(link, *direction, &frame, config);
        if let Some(kernel) = kernel.verdict(link, &frame) {
            prop_assert_eq!(kernel, rule, "{}, {:?}, {:?}, {:02x?}", name, link, direction, frame);
        }
        Ok(())
    });
    result.unwrap();
}

#[test]
fn one_sampled_frame_in_sixteen_is_passed() {
    let filtered = Filtered::new(&program(FilterLink::RawIp, &config(16)));
    let frame = ipv4(17, &udp((40_000, 8125), b"x"), |_| {});
    let kept = (0..16_000).filter(|_| filtered.pass(&frame).is_some()).count();
    assert!((16_000 / 24..=16_000 / 12).contains(&kept), "{kept}");
}

#[test]
fn frames_are_cut_to_the_snap_length() {
    let frame = ipv4(17, &udp((40_000, 53), &[7; 300]), |_| {});
    for (snap_bytes, expected) in [(0, 1), (1, 1), (96, 96), (4096, frame.len())] {
        let filtered = Filtered::new(&program(
            FilterLink::RawIp,
            &FilterConfig { snap_bytes, sampled_snap_bytes: 7, ..config(1) },
        ));
        assert_eq!(filtered.pass(&frame), Some(expected));
    }
}

#[test]
fn sampled_frames_are_cut_to_a_length_of_their_own_unless_all_are_passed() {
    let frame = ipv4(17, &udp((40_000, 53), &[7; 300]), |_| {});
    let sampled = ipv4(17, &udp((40_000, 8125), &[7; 300]), |_| {});
    for (sample, expected) in [(1, sampled.len()), (2, 96), (3, 96)] {
        let filtered = Filtered::new(&program(
            FilterLink::RawIp,
            &FilterConfig { sampled_snap_bytes: 96, ..config(sample) },
        ));
        let kept: Vec<usize> = (0..200).filter_map(|_| filtered.pass(&sampled)).collect();
        assert!(kept.len() > 20 && kept.iter().all(|n| *n == expected), "{sample}: {kept:?}");
        assert_eq!(filtered.pass(&frame), Some(frame.len()));
    }
}

#[test]
fn the_program_has_fewer_than_250_instructions() {
    let pods = FilterConfig { always_ports: Vec::new(), callers_only: true, ..config(32) };
    let length = program(FilterLink::Ethernet, &pods).len();
    assert!(length < 250, "{length}");
}

#[test]
fn jumps_to_far_labels_reach_them() {
    for count in [0, 1, 100, 200, 250, 300, 1900] {
        let ports: Vec<u16> = (0..count).map(|i| 20_000 + 2 * i).collect();
        let config = FilterConfig {
            always_ports: ports.iter().rev().chain(&ports).copied().collect(),
            ..config(1)
        };
        let kernel = Kernel::new(&config);
        for port in [20_000, 20_001, 20_100, 20_398, 20_498, 20_598, 20_600, 23_798, 23_800] {
            let frame =
                ethernet(&[], IPV4, &ipv4(6, &tcp((40_000, port), |h| h.ack = true, b"x"), |_| {}));
            let expected = if ports.contains(&port) { Always } else { Sample };
            assert_eq!(
                verdict(FilterLink::Ethernet, Direction::Received, &frame, &config),
                expected
            );
            assert_eq!(
                kernel.verdict(FilterLink::Ethernet, &frame),
                Some(expected),
                "{count} ports, {port}"
            );
        }
    }
}

#[test]
fn a_program_that_is_too_long_is_refused() {
    let (near, _far) = UnixDatagram::pair().unwrap();
    let config = FilterConfig { always_ports: (0..=u16::MAX).collect(), ..config(1) };
    let error = attach(near.as_fd(), &program(FilterLink::Ethernet, &config)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}
