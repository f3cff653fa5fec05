//! Each counter is raised by what it is for, and by nothing else.

#![allow(clippy::unwrap_used)] // a test that cannot go on should say where

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::iter::once;

use common::{CART, Ip, Packet, SECOND, WEB};
use sidecarta_capture::frame::{Direction, Frame, LinkType};
use sidecarta_capture::loss::CaptureCounters;
use sidecarta_capture::meter::{FlowConfig, ListeningPorts, Meter};
use sidecarta_capture::observation::{InterfaceId, OwnerEvidence};
use sidecarta_testkit::dns;
use sidecarta_testkit::frame::datagram;

/// An interface whose owner the node has evidence of. The owner has none of the addresses in the
/// frames.
const OWNED: u32 = 77;

/// Two nodes, at the port of VXLAN.
const NODES: ((Ip, u16), (Ip, u16)) = (([10, 0, 0, 11], 49_152), ([10, 0, 0, 12], 4789));

/// A header of VXLAN.
const VXLAN: &[u8] = &[8, 0, 0, 0, 0, 0, 1, 0];

/// A frame, with its length on the wire and its interface.
struct Seen {
    time: i64,
    link: LinkType,
    direction: Direction,
    interface: u32,
    wire_len: usize,
    data: Vec<u8>,
}

fn seen(data: Vec<u8>) -> Seen {
    Seen {
        time: 0,
        link: LinkType::ETHERNET,
        direction: Direction::Unknown,
        interface: 0,
        wire_len: data.len(),
        data,
    }
}

fn count(config: FlowConfig, frames: &[Seen]) -> CaptureCounters {
    let known = ListeningPorts { ports: [8080].into(), ..ListeningPorts::default() };
    let mut meter = Meter::new(config, known);
    meter.watch(OWNED, 0);
    meter.set_evidence(OWNED, vec![([10, 244, 9, 9].into(), OwnerEvidence::Route)]);
    for f in frames {
        let frame = Frame {
            time: f.time,
            interface: InterfaceId { source: 0, index: f.interface },
            link: f.link,
            direction: f.direction,
            wire_len: f.wire_len as u32,
            data: &f.data,
        };
        meter.frame(&frame, &mut |_| {});
    }
    meter.finish(&mut |_| {});
    meter.counters().clone()
}

/// A segment from one client to the server.
fn tcp(port: u16, packet: &Packet<'_>) -> Vec<u8> {
    packet.bytes((WEB, port), (CART, 8080))
}

/// The first segment of a request whose head continues.
fn begun(port: u16) -> Seen {
    let payload = b"GET / HTTP/1.1\r\nAccept: */*\r\n";
    seen(tcp(port, &Packet { seq: 8, ack: Some(71), payload, ..Packet::default() }))
}

fn syn(port: u16) -> Vec<u8> {
    tcp(port, &Packet { seq: 7, syn: true, ..Packet::default() })
}

/// An answer of the DNS to `client`: a name and its address.
fn answer(client: u16) -> Seen {
    let message = dns::answer(client, "web", &[[10, 96, 0, 11]]);
    seen(datagram(
        ([10, 96, 0, 10], 53),
        ([10, 244, (client >> 8) as u8, client as u8], 40_000),
        &message,
    ))
}

/// An IPv4 packet whose header has these bytes changed.
fn changed(changes: &[(usize, u8)]) -> Seen {
    let mut data = syn(40_000);
    for (at, byte) in changes {
        data[14 + at] = *byte;
    }
    seen(data)
}

/// A counter's name, limits, frames that raise it, and what they must raise it to.
type Case = (&'static str, FlowConfig, Vec<Seen>, u64);

fn cases() -> Vec<Case> {
    let usual = FlowConfig::default();
    let cut = |data: Vec<u8>, to: usize| {
        let mut f = seen(data);
        f.data.truncate(to);
        f
    };
    let on = |interface, data| Seen { interface, ..seen(data) };
    let request = |n: u32, host: &str| {
        let payload = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let (seq, ack) = (8 + n * 100, Some(71));
        seen(tcp(40_000, &Packet { seq, ack, payload: payload.as_bytes(), ..Packet::default() }))
    };
    let arrives = Seen {
        direction: Direction::Sent,
        ..seen(tcp(40_000, &Packet { seq: 8, ack: Some(9), ..Packet::default() }))
    };
    let forged = Seen { direction: Direction::Received, ..on(OWNED, syn(40_000)) };
    let unasked = Seen { direction: Direction::Sent, ..answer(1) };
    let later = Seen { time: 3_600 * SECOND, ..seen(syn(40_001)) };
    vec![
        ("packets", usual, vec![seen(syn(40_000))], 1),
        ("bytes", usual, vec![seen(syn(40_000))], 54),
        ("used", usual, vec![seen(syn(40_000))], 1),
        ("not-ip", usual, vec![seen([&[2; 12][..], &[0x08, 0x06], &[0; 28]].concat())], 1),
        ("other-transport", usual, vec![changed(&[(9, 1)])], 1),
        ("later-fragments", usual, vec![changed(&[(7, 9)])], 1),
        (
            "unwrapped",
            usual,
            vec![seen(datagram(NODES.0, NODES.1, &[VXLAN, &syn(40_000)].concat()))],
            1,
        ),
        ("encrypted-tunnel", usual, vec![changed(&[(9, 50)])], 1),
        ("bad-link", usual, vec![cut(syn(40_000), 13)], 1),
        ("bad-network", usual, vec![cut(syn(40_000), 20)], 1),
        ("bad-transport", usual, vec![cut(syn(40_000), 36)], 1),
        ("unknown-link-type", usual, vec![Seen { link: LinkType(147), ..seen(vec![0; 60]) }], 1),
        ("not-unicast", usual, vec![changed(&[(16, 224)])], 1),
        ("cut-payload", usual, vec![cut(datagram((WEB, 40_000), (CART, 53), &[0; 99]), 60)], 1),
        ("bad-dns", usual, vec![seen(datagram((WEB, 40_000), (CART, 53), &[7; 5]))], 1),
        ("incomplete-head", usual, vec![begun(40_000), begun(40_001)], 2),
        (
            "evicted-heads",
            FlowConfig { max_heads: 1, ..usual },
            (40_000..40_005).map(begun).collect(),
            4,
        ),
        (
            "dropped-authorities",
            FlowConfig { max_later_hosts: 1, ..usual },
            vec![request(0, "a"), request(1, "b"), request(2, "c"), request(3, "d")],
            2,
        ),
        (
            "evicted-flows",
            FlowConfig { max_flows: 2, ..usual },
            (40_000..40_005).map(|port| seen(syn(port))).collect(),
            3,
        ),
        (
            "evicted-answers",
            FlowConfig { max_answers: 2, ..usual },
            (1..=5).map(answer).collect(),
            3,
        ),
        (
            "evicted-interfaces",
            FlowConfig { max_interfaces: 1, ..usual },
            vec![on(1, syn(40_000)), on(2, syn(40_001)), on(3, syn(40_002))],
            2,
        ),
        ("arriving-connections", usual, once(arrives).chain([later]).collect(), 1),
        ("forged-source", usual, vec![forged], 1),
        ("unasked-answers", usual, vec![unasked], 1),
        ("repeated-sightings", usual, vec![on(1, syn(40_000)), on(2, syn(40_000))], 1),
    ]
}

#[test]
fn each_counter_is_raised_by_what_it_is_for() {
    let mut raised = BTreeSet::new();
    for (name, config, frames, want) in cases() {
        let counters: BTreeMap<_, _> = count(config, &frames).named().into();
        assert_eq!(counters[name], want, "{name}: {counters:?}");
        raised.insert(name);
    }
    let all: BTreeSet<_> =
        CaptureCounters::default().named().into_iter().map(|(name, _)| name).collect();
    assert_eq!(raised, all, "a counter has no input that raises it");
}

#[test]
fn no_loss_is_counted_under_two_causes() {
    const NEVER_A_LOSS: [&str; 3] = ["packets", "bytes", "used"];
    for (name, config, frames, _) in cases() {
        let others: Vec<_> = count(config, &frames)
            .named()
            .into_iter()
            .filter(|(other, n)| *n > 0 && *other != name && !NEVER_A_LOSS.contains(other))
            .collect();
        // With room for one head, that one is joined and never whole. A DNS message that is cut
        // cannot be read.
        let also: &[(&str, u64)] = match name {
            "evicted-heads" => &[("incomplete-head", 1)],
            "cut-payload" => &[("bad-dns", 1)],
            _ => &[],
        };
        assert_eq!(others, also, "{name}");
    }
}
