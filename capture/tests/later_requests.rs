//! Later requests on a connection: each later host is reported once, and no loss is uncounted.

#![allow(clippy::unwrap_used)] // a test that cannot go on should say where

mod common;

use proptest::prelude::*;
use sidecarta_capture::frame::{Direction, Frame, FrameBatch, LinkType};
use sidecarta_capture::loss::CaptureCounters;
use sidecarta_capture::meter::{FlowConfig, ListeningPorts, Meter};
use sidecarta_capture::observation::{Connection, Content, InterfaceId, Observation};

use common::{CART, Ip, Packet, SECOND, SERVICE, WEB, Wire, new};
use sidecarta_testkit::{dns, frame};

const PORT: u16 = 40_000;
const CALLER: (Ip, u16) = (WEB, PORT);
const CALLED: (Ip, u16) = (CART, 8080);
/// A sequence number far after the first request.
const LATER: u32 = 5_000;

impl Wire {
    fn says(&mut self, time: i64, payload: &[u8]) {
        self.packet(
            time,
            CALLER,
            CALLED,
            Packet { seq: LATER, ack: Some(71), payload, ..Packet::default() },
        );
    }

    fn answers(&mut self, time: i64, payload: &[u8]) {
        self.packet(
            time,
            CALLED,
            CALLER,
            Packet { seq: 71, ack: Some(LATER), payload, ..Packet::default() },
        );
    }

    fn asks(&mut self, time: i64, host: &str) {
        self.says(time, &get(host));
    }

    fn incomplete(&self) -> u64 {
        self.meter.counters().incomplete_head
    }
}

fn get(host: &str) -> Vec<u8> {
    format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").into_bytes()
}

fn hosts(reported: &[Connection]) -> Vec<&str> {
    reported.iter().map(|c| c.names.authority.as_deref().unwrap_or("-")).collect()
}

/// The later hosts, which are reported after the connection.
fn later_hosts(reported: &[Connection]) -> Vec<&str> {
    hosts(reported.get(1..).unwrap())
}

#[test]
fn each_later_host_is_reported_once_more() {
    let mut wire = Wire::replay();
    let message = dns::answer(1, "cart", &[CART]);
    let answer = frame::datagram(([10, 244, 1, 53], 53), (WEB, 40_001), &message);
    wire.frame(0, frame::packet(&answer), 0, Direction::Unknown);
    wire.call(10, PORT);
    for (time, host) in
        [(20, "Reviews:9080"), (30, "cart"), (40, "reviews:9080"), (50, "ratings"), (60, "cart")]
    {
        wire.asks(time, host);
        wire.answers(time + 1, b"HTTP/1.1 200 OK\r\n\r\n");
    }
    let reported: Vec<Connection> =
        wire.finish().into_iter().filter(|c| c.responder.port() == 8080).collect();
    assert_eq!(hosts(&reported), ["cart", "reviews:9080", "ratings"]);
    assert_eq!(
        reported.iter().map(|c| (c.first, c.last, c.packets)).collect::<Vec<_>>(),
        [(10, 61, 13), (20, 40, 0), (50, 50, 0)]
    );
    for c in &reported {
        assert_eq!((c.initiator, c.responder), (reported[0].initiator, reported[0].responder));
        assert!(
            c.is_new
                && c.from_start
                && c.answered
                && c.content == Content::Http1
                && c.names.sni.is_none()
        );
        assert_eq!(c.names.dns.iter().map(|n| &n.question[..]).collect::<Vec<_>>(), ["cart"]);
    }
    assert_eq!(wire.incomplete(), 0);
}

#[test]
fn a_connection_joined_midway_may_name_later_hosts() {
    let mut wire = Wire::replay();
    wire.asks(0, "cart");
    wire.asks(1, "reviews");
    assert_eq!(hosts(&wire.finish()), ["cart", "reviews"]);
}

#[test]
fn a_later_request_may_be_the_first_that_names_a_host() {
    let mut wire = Wire::replay();
    wire.says(0, b"GET / HTTP/1.0\r\n\r\n");
    wire.asks(1, "reviews");
    wire.says(2, b"GET / HTTP/1.0\r\n\r\n");
    assert_eq!(hosts(&wire.finish()), ["-", "reviews"]);
    assert_eq!(wire.incomplete(), 0);
}

/// An upload of any length, and requests after it, the first in two segments.
#[test]
fn a_connection_joined_in_a_long_body_is_named_by_the_next_request() {
    for segments in [1, 31, 32, 33, 100] {
        let mut wire = Wire::replay();
        for i in 0..segments {
            wire.says(i, b"a body without end ");
            wire.answers(i, b"");
        }
        wire.says(segments, b"GET /a HTTP/1.1\r\nAccept: */*\r\n");
        let rest = Packet {
            seq: LATER + 30,
            ack: Some(71),
            payload: b"Host: cart\r\n\r\n",
            ..Packet::default()
        };
        wire.packet(segments, CALLER, CALLED, rest);
        wire.asks(segments + 1, "reviews");
        let reported = wire.finish();
        assert_eq!(hosts(&reported), ["cart", "reviews"], "{segments}");
        assert_eq!((reported[0].content, wire.incomplete()), (Content::Http1, 0));
    }
}

#[test]
fn only_requests_of_the_initiator_are_read() {
    let mut wire = Wire::replay();
    wire.call(0, PORT);
    wire.answers(10, &get("reviews"));
    wire.says(11, &[b"\r\n".as_slice(), &get("reviews")].concat());
    wire.says(12, b"POSTbmV2ZXIgbWluZA==");
    wire.says(13, b"GET up and go\r\n\r\n");
    wire.says(14, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    wire.says(15, b"HEAD");
    assert!(later_hosts(&wire.finish()).is_empty());
    assert_eq!(wire.incomplete(), 0);
}

#[test]
fn a_head_that_is_cut_before_its_authority_is_counted() {
    let long = format!("GET /{}", "x".repeat(1_400));
    for (payload, cut) in [
        (b"POST /a HTTP/1.1\r\nAccept: */*\r\n".as_slice(), 0),
        (b"POST /a HTTP/1.1\r\nHost: revi", 0),
        (b"POST /a HTTP/1.1\r\nHost: reviews\r\n\r\n", 8),
        (long.as_bytes(), 0),
    ] {
        let mut wire = Wire::replay();
        wire.call(0, PORT);
        wire.packet(
            10,
            CALLER,
            CALLED,
            Packet { seq: LATER, ack: Some(71), payload, cut, ..Packet::default() },
        );
        // The head continues, and its first segment is seen again on another interface.
        wire.packet(
            11,
            CALLER,
            CALLED,
            Packet { seq: LATER, ack: Some(71), payload, cut, interface: 1, ..Packet::default() },
        );
        wire.says(12, b"ews\r\n\r\n");
        assert!(later_hosts(&wire.finish()).is_empty());
        assert_eq!(wire.incomplete(), 1, "{}", payload.escape_ascii());
    }
}

#[test]
fn a_retransmitted_first_head_is_no_later_request() {
    let mut wire = Wire::replay();
    wire.packet(0, CALLER, CALLED, Packet { seq: 7, syn: true, ..Packet::default() });
    let first =
        Packet { seq: 8, ack: Some(71), payload: b"GET / HTTP/1.1\r\nHost: ", ..Packet::default() };
    wire.packet(1, CALLER, CALLED, first);
    wire.packet(2, CALLER, CALLED, Packet { seq: 30, payload: b"cart\r\n\r\n", ..first });
    wire.packet(3, CALLER, CALLED, first);
    wire.asks(4, "reviews");
    assert_eq!(hosts(&wire.finish()), ["cart", "reviews"]);
    assert_eq!(wire.incomplete(), 0);
}

#[test]
fn a_connection_has_room_for_16_later_hosts() {
    let mut wire = Wire::replay();
    wire.call(0, PORT);
    for i in 0..20 {
        wire.asks(10 + i, &format!("h{i}"));
        // A host that is there already needs no room.
        wire.asks(10 + i, "h0");
    }
    assert_eq!(later_hosts(&wire.finish()), (0..16).map(|i| format!("h{i}")).collect::<Vec<_>>());
    assert_eq!(wire.meter.counters().dropped_authorities, 4);
}

#[test]
fn later_hosts_of_all_connections_are_limited() {
    let mut wire = Wire::with(
        FlowConfig { max_later_hosts: 2, ..FlowConfig::default() },
        ListeningPorts::default(),
    );
    // Before the last connection, the others are forgotten and make room.
    for (time, port) in [(0, PORT), (0, PORT + 1), (0, PORT + 2), (2_000 * SECOND, PORT + 3)] {
        wire.call(time, port);
        let again =
            Packet { seq: LATER, ack: Some(71), payload: &get("reviews"), ..Packet::default() };
        wire.packet(time + 9, (WEB, port), CALLED, again);
        assert_eq!(wire.meter.counters().dropped_authorities, u64::from(port >= PORT + 2));
    }
    let mut reported = std::mem::take(&mut wire.reported);
    reported.extend(wire.finish());
    assert_eq!(hosts(&reported).iter().filter(|h| **h == "reviews").count(), 3);
}

#[test]
fn bytes_in_a_tunnel_are_not_read() {
    let connect = b"CONNECT cart:443 HTTP/1.1\r\nHost: cart:443\r\n\r\n".as_slice();
    for split in [None, Some(4), Some(20)] {
        let mut wire = Wire::replay();
        wire.packet(0, CALLER, CALLED, Packet { seq: 7, syn: true, ..Packet::default() });
        let (a, b) = connect.split_at(split.unwrap_or(connect.len()));
        let first = Packet { seq: 8, ack: Some(71), payload: a, ..Packet::default() };
        wire.packet(1, CALLER, CALLED, first);
        wire.packet(2, CALLER, CALLED, Packet { seq: 8 + a.len() as u32, payload: b, ..first });
        wire.asks(10, "reviews");
        assert_eq!(hosts(&wire.finish()), ["cart:443"], "{split:?}");
    }
    let mut wire = Wire::replay();
    wire.call(0, PORT);
    wire.says(10, connect);
    wire.asks(20, "reviews");
    assert_eq!(later_hosts(&wire.finish()), ["cart:443"]);
}

#[test]
fn a_later_host_of_a_reported_connection_is_reported_promptly_and_once() {
    let mut wire = Wire::new();
    wire.call(0, PORT);
    assert_eq!(hosts(&wire.report_fresh(SECOND)), ["cart"]);
    wire.asks(2 * SECOND, "reviews");
    wire.asks(2 * SECOND + 1, "cart");
    let reported = wire.report_fresh(2 * SECOND + 2);
    assert_eq!(hosts(&reported), ["reviews"]);
    assert!(
        reported[0].is_new
            && reported[0].packets == 0
            && reported[0].first == 2 * SECOND
            && reported[0].names.dns.is_empty()
    );
    assert!(wire.report_fresh(3 * SECOND).is_empty());
    wire.asks(4 * SECOND, "reviews");
    wire.asks(4 * SECOND, "cart");
    assert!(wire.report_fresh(5 * SECOND).is_empty());
    // Each round reports connections that go on.
    let reported = wire.report_changed(30 * SECOND);
    assert_eq!(hosts(&reported), ["cart", "reviews"]);
    assert!(
        new(&reported).is_empty() && reported.iter().all(|c| c.last == 4 * SECOND),
        "{reported:?}"
    );
    wire.asks(31 * SECOND, "cart");
    assert_eq!(hosts(&wire.report_changed(60 * SECOND)), ["cart"]);
    // A round may come before the tick, and so may the end of the connection.
    wire.asks(61 * SECOND, "ratings");
    let reported = wire.report_changed(62 * SECOND);
    assert_eq!((hosts(&reported), reported[1].is_new), (vec!["cart", "ratings"], true));
    assert!(wire.report_fresh(63 * SECOND).is_empty());
    wire.asks(64 * SECOND, "details");
    let reported = wire.report_fresh(2_000 * SECOND);
    assert_eq!((hosts(&reported), new(&reported).len()), (vec!["cart", "details"], 1));
    assert!(wire.report_changed(2_001 * SECOND).is_empty());
}

#[test]
fn a_new_connection_is_reported_with_all_its_hosts() {
    let mut wire = Wire::new();
    wire.call(0, PORT);
    wire.asks(10, "reviews");
    assert!(wire.report_fresh(100).is_empty());
    let reported = wire.report_fresh(SECOND);
    assert_eq!((hosts(&reported), new(&reported).len()), (vec!["cart", "reviews"], 2));
    assert!(wire.report_fresh(2 * SECOND).is_empty() && wire.report_changed(3 * SECOND).is_empty());
}

#[test]
fn setting_the_clock_shifts_the_times_of_all_hosts() {
    for step in [-3_600 * SECOND, 3_600 * SECOND] {
        let mut wire = Wire::new();
        let start = 7_200 * SECOND;
        wire.call(start, PORT);
        assert_eq!(hosts(&wire.report_fresh(start + SECOND)), ["cart"]);
        wire.asks(start + SECOND, "reviews");
        let now = start + 2 * SECOND + step;
        wire.meter.rebase(now, step);
        let reported = wire.report_fresh(now);
        assert_eq!((hosts(&reported), reported[0].first), (vec!["reviews"], start + SECOND + step));
    }
}

/// The caller's interface shows the address of the Service. That of the called pod shows the pod's.
#[test]
fn a_translated_duplicate_reports_no_host() {
    for swapped in [false, true] {
        let mut wire = Wire::new();
        let mut sightings = [(0, (SERVICE, 80), 1), (5_000, CALLED, 2)];
        if swapped {
            sightings.reverse();
        }
        for (late, to, interface) in sightings {
            let packet = Packet { seq: 8, ack: Some(71), interface, ..Packet::default() };
            wire.packet(late, CALLER, to, Packet { seq: 7, ack: None, syn: true, ..packet });
            wire.packet(
                late + 1,
                to,
                CALLER,
                Packet { seq: 70, ack: Some(8), syn: true, ..packet },
            );
            wire.packet(late + 2, CALLER, to, Packet { payload: &get("cart"), ..packet });
            wire.packet(
                late + 3,
                CALLER,
                to,
                Packet { seq: 99, payload: &get("reviews"), ..packet },
            );
        }
        let reported = wire.report_fresh(SECOND);
        assert_eq!(hosts(&reported), ["cart", "reviews"], "swapped: {swapped}");
        for (_, to, interface) in sightings {
            let packet = Packet {
                seq: 199,
                ack: Some(71),
                payload: &get("ratings"),
                interface,
                ..Packet::default()
            };
            wire.packet(2 * SECOND, CALLER, to, packet);
        }
        let mut reported = reported;
        reported.extend(wire.report_fresh(2 * SECOND + 1));
        reported.extend(wire.report_changed(60 * SECOND).into_iter().filter(|c| c.is_new));
        assert_eq!(hosts(&reported), ["cart", "reviews", "ratings"], "swapped: {swapped}");
        assert!(reported.iter().all(|c| c.responder.port() == 80), "{reported:?}");
    }
}

/// The connection is joined midway. Only the caller's interface counts.
#[test]
fn no_host_is_reported_where_a_call_arrives() {
    let mut wire = Wire::listening_on([80, 8080]);
    for (to, interface, direction) in
        [((SERVICE, 80), 1, Direction::Received), (CALLED, 2, Direction::Sent)]
    {
        let packet = Packet { seq: 8, ack: Some(71), interface, direction, ..Packet::default() };
        wire.packet(0, CALLER, to, Packet { payload: &get("cart"), ..packet });
        wire.packet(1, CALLER, to, Packet { seq: 99, payload: &get("reviews"), ..packet });
    }
    let reported = wire.report_fresh(SECOND);
    assert_eq!(hosts(&reported), ["cart", "reviews"]);
    assert!(reported.iter().all(|c| c.responder.port() == 80), "{reported:?}");
    assert!(wire.report_changed(60 * SECOND).is_empty());
}

/// A frame of one of two connections.
fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let payload = prop_oneof![
        3 => (0..6u8).prop_map(|i| get(&format!("h{i}"))),
        1 => Just(b"CONNECT h:443 HTTP/1.1\r\n\r\n".to_vec()),
        1 => (0..40usize).prop_map(|n| get("h1")[..n.min(get("h1").len())].to_vec()),
        3 => prop::collection::vec(any::<u8>(), 0..8),
        1 => Just(b"\x17\x03\x03\0\x02ab".to_vec()),
    ];
    (
        0..2u16,
        any::<bool>(),
        prop_oneof![1 => Just(true), 12 => Just(false)],
        0..4u32,
        payload,
        0..3usize,
    )
        .prop_map(|(port, up, syn, seq, payload, cut)| {
            let payload = if syn { Vec::new() } else { payload };
            let cut = cut.min(payload.len());
            let packet = Packet {
                seq: 7 + seq,
                ack: Some(8),
                syn,
                payload: &payload,
                cut,
                ..Packet::default()
            };
            let (caller, called) = ((WEB, PORT + port), CALLED);
            if up { packet.bytes(caller, called) } else { packet.bytes(called, caller) }
        })
}

/// How frames are passed to the meter.
#[derive(Clone, Copy, PartialEq)]
enum Feed {
    OneByOne,
    Batch,
}

fn observed(frames: &[Vec<u8>], link: LinkType, feed: Feed) -> (Vec<Observation>, CaptureCounters) {
    let mut meter = Meter::new(FlowConfig::default(), ListeningPorts::default());
    let (mut batch, mut out) = (FrameBatch::default(), Vec::new());
    for (time, data) in (0..).zip(frames) {
        let data = if link == LinkType::RAW { &data[14..] } else { data };
        let interface = InterfaceId { source: 0, index: 0 };
        let frame = Frame {
            time,
            interface,
            link,
            direction: Direction::Unknown,
            wire_len: data.len() as u32,
            data,
        };
        if feed == Feed::Batch {
            batch.push(frame)
        } else {
            meter.frame(&frame, &mut |o| out.push(o))
        }
    }
    meter.batch(&batch, &mut |o| out.push(o));
    meter.finish(&mut |o| out.push(o));
    (out, CaptureCounters { bytes: 0, ..meter.counters().clone() })
}

proptest! {
    /// Frames without a link layer are always decoded in full.
    #[test]
    fn the_fast_path_misses_nothing(frames in prop::collection::vec(any_frame(), 0..80)) {
        let slow = observed(&frames, LinkType::RAW, Feed::OneByOne);
        prop_assert_eq!(&observed(&frames, LinkType::ETHERNET, Feed::OneByOne), &slow);
        prop_assert_eq!(&observed(&frames, LinkType::ETHERNET, Feed::Batch), &slow);
    }

    #[test]
    fn every_cut_gives_the_whole_host_or_none(
        method in prop::sample::select(vec!["GET", "POST", "OPTIONS"]),
        length in 0..60usize,
    ) {
        let head = format!("{method} /reviews HTTP/1.1\r\nAccept: */*\r\nHost: reviews\r\n\r\n");
        let length = length.min(head.len());
        let mut wire = Wire::replay();
        wire.call(0, PORT);
        wire.says(10, &head.as_bytes()[..length]);
        let reported = wire.finish();
        match later_hosts(&reported)[..] {
            [] => prop_assert_eq!(wire.incomplete(), u64::from(length > method.len())),
            ref hosts => prop_assert_eq!((hosts, wire.incomplete()), (&["reviews"][..], 0)),
        }
    }
}
