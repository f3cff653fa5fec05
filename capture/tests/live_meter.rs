//! Reports of a source that does not end: each connection is new once, whatever the clock does, and
//! however little of a connection is seen.

#![allow(clippy::unwrap_used)] // a test that cannot go on should say where

mod common;

use sidecarta_capture::frame::Direction;
use sidecarta_capture::meter::ListeningPorts;
use sidecarta_capture::observation::Orientation;

use common::{CART, Ip, Packet, SECOND, SERVICE, WEB, Wire, new};
use sidecarta_testkit::dns;
use sidecarta_testkit::frame::{self, packet};
use sidecarta_testkit::tls::client_hello;

const HOUR: i64 = 3_600 * SECOND;

#[test]
fn setting_the_clock_reports_nothing_twice_and_nothing_too_late() {
    for step in [-HOUR, HOUR] {
        let mut live = Wire::new();
        let start = 10 * HOUR;
        live.call(start, 40_000);
        assert_eq!(new(&live.report_fresh(start + SECOND)), [40_000]);
        // Begun, and not reported yet.
        live.call(start + SECOND, 40_001);
        let now = start + SECOND + 10 + step;
        live.meter.rebase(now, step);
        live.request(now + 10, 40_000);
        live.call(now + 20, 40_002);
        let reported = live.report_fresh(now + SECOND);
        assert_eq!(new(&reported), [40_001, 40_002], "{step}");
        assert!(
            reported.iter().all(|c| c.first <= c.last && (c.first - now).abs() < SECOND),
            "{reported:?}"
        );
        // Deadlines of the old clock are not due at once, and not in the far future.
        let reported = live.report_changed(now + 30 * SECOND);
        assert!(
            new(&reported).is_empty() && reported.iter().any(|c| c.initiator.port() == 40_000),
            "{reported:?}"
        );
        live.request(now + 31 * SECOND, 40_000);
        live.request(now + 31 * SECOND, 40_001);
        assert!(new(&live.report_changed(now + 60 * SECOND)).is_empty());
        // An hour later they are forgotten.
        assert!(live.report_changed(now + HOUR).is_empty());
        live.request(now + HOUR + SECOND, 40_000);
        assert_eq!(new(&live.report_fresh(now + HOUR + 3 * SECOND)), [40_000]);
    }
}

#[test]
fn one_direction_of_a_connection_is_enough() {
    let mut live = Wire::new();
    let (web, cart) = ((WEB, 40_000), (CART, 8080));
    live.packet(0, web, cart, Packet { seq: 7, syn: true, ..Packet::default() });
    live.packet(1, web, cart, Packet { seq: 8, ack: Some(71), ..Packet::default() });
    live.request(2, 40_000);
    let reported = live.report_fresh(SECOND);
    assert_eq!(reported.len(), 1);
    let c = &reported[0];
    assert!(c.is_new && c.from_start && c.answered && !c.refused);
    assert_eq!(
        (c.orientation, c.names.authority.as_deref()),
        (Orientation::Handshake, Some("cart"))
    );
    assert_eq!((c.initiator.port(), c.responder.port()), (40_000, 8080));
}

#[test]
fn a_syn_alone_is_reported_as_unanswered() {
    let mut live = Wire::new();
    live.packet(0, (WEB, 40_000), (CART, 8080), Packet { seq: 7, syn: true, ..Packet::default() });
    assert!(live.report_fresh(SECOND).is_empty(), "more may be learned of it");
    let reported = live.report_fresh(3 * SECOND);
    assert!(reported.len() == 1 && !reported[0].answered, "{reported:?}");
}

/// The client's interface shows the address of the Service. The server's shows the server's own.
/// Either may be read first.
#[test]
fn a_translated_connection_is_reported_with_the_address_that_was_called() {
    for swapped in [false, true] {
        let mut live = Wire::new();
        let (web, service, cart) = ((WEB, 40_000), (SERVICE, 80), (CART, 8080));
        let payload = b"GET / HTTP/1.1\r\nHost: cart\r\n\r\n";
        let mut sightings = [(0, service, 1), (5_000, cart, 2)];
        if swapped {
            sightings.reverse();
        }
        for (late, to, interface) in sightings {
            live.packet(
                late,
                web,
                to,
                Packet { seq: 7, syn: true, interface, ..Packet::default() },
            );
            let answer =
                Packet { seq: 70, ack: Some(8), syn: true, interface, ..Packet::default() };
            live.packet(late + 10_000, to, web, answer);
            live.packet(
                late + 20_000,
                web,
                to,
                Packet { seq: 8, ack: Some(71), payload, interface, ..Packet::default() },
            );
            assert!(
                live.report_fresh(200_000_000).is_empty(),
                "another interface may show the address that was called"
            );
            assert!(live.report_changed(200_000_000).is_empty());
        }
        let reported = live.report_fresh(SECOND);
        assert_eq!(reported.len(), 1, "{reported:?}");
        assert_eq!(
            (reported[0].responder.ip(), reported[0].responder.port()),
            (SERVICE.into(), 80),
            "swapped: {swapped}"
        );
        assert!(live.report_changed(60 * SECOND).is_empty());
    }
}

/// On interfaces that lead to one pod each, only the caller's counts, in any order of reading. The
/// other one shows the translated address, and only some packets.
#[test]
fn a_call_is_reported_from_the_interface_of_its_caller() {
    let records = [0x17, 3, 3, 0, 90, 1, 0];
    let (web, service, cart) = ((WEB, 40_000), (SERVICE, 80), (CART, 8080));
    for (to, swapped) in [(service, false), (service, true), (cart, false), (cart, true)] {
        let mut live = Wire::listening_on([80, 8080]);
        let caller = Packet {
            ack: Some(71),
            payload: &records,
            interface: 1,
            direction: Direction::Received,
            ..Packet::default()
        };
        let called = Packet { interface: 2, direction: Direction::Sent, ..caller };
        let mut sightings = [(to, caller), (cart, called)];
        if swapped {
            sightings.reverse();
        }
        for (to, packet) in sightings {
            for i in 0..3 {
                live.packet(i, web, to, Packet { seq: 8 + 7 * i as u32, ..packet });
                let direction = if packet.direction == Direction::Sent {
                    Direction::Received
                } else {
                    Direction::Sent
                };
                live.packet(
                    i,
                    to,
                    web,
                    Packet { seq: 70, ack: Some(8), payload: b"x", direction, ..packet },
                );
            }
        }
        let reported = live.report_fresh(SECOND);
        assert_eq!(reported.len(), 1, "{swapped}: {reported:?}");
        assert_eq!((reported[0].responder.ip(), reported[0].responder.port()), (to.0.into(), to.1));
        assert_eq!((reported[0].interface.index, reported[0].initiator.port()), (1, 40_000));
        assert!(live.report_changed(60 * SECOND).is_empty());
    }
}

/// Rings are read one after the other. Where the called pod's is read first, a sampled packet of it
/// comes before the caller's SYN and ClientHello.
#[test]
fn a_sampled_record_that_is_read_before_the_client_hello_hides_no_name() {
    let hello = client_hello("cart.shop");
    let record = [0x17, 3, 3, 0, 90, 1, 0];
    let (web, cart) = ((WEB, 40_000), (CART, 8080));
    let next = 8 + hello.len() as u32;
    for syn_of_called in [true, false] {
        for records in [1u32, 3] {
            let mut live = Wire::listening_on([8080]);
            let called = Packet { interface: 2, direction: Direction::Sent, ..Packet::default() };
            let caller =
                Packet { interface: 1, direction: Direction::Received, ..Packet::default() };
            if syn_of_called {
                live.packet(5, web, cart, Packet { seq: 7, syn: true, ..called });
            }
            for i in 0..records {
                let (seq, payload) = (next + 7 * i, &record);
                let packet = Packet { seq, ack: Some(71), payload, ..called };
                live.packet(30 + i64::from(i), web, cart, packet);
            }
            live.packet(1, web, cart, Packet { seq: 7, syn: true, ..caller });
            let first = Packet { seq: 8, ack: Some(71), payload: &hello, ..caller };
            live.packet(10, web, cart, first);
            let reported = live.report_fresh(3 * SECOND);
            assert_eq!(reported.len(), 1, "{syn_of_called} {records}: {reported:?}");
            let c = &reported[0];
            assert_eq!(c.names.sni.as_deref(), Some("cart.shop"), "{syn_of_called} {records}");
            assert!(c.from_start, "{syn_of_called} {records}");
        }
    }
}

#[test]
fn datagrams_to_a_translated_address_are_reported_once() {
    for swapped in [false, true] {
        let mut live = Wire::listening_on([8125, 9125]);
        let datagram =
            |to: (Ip, u16)| packet(&frame::datagram((WEB, 40_000), to, b"metric:1|c")).to_vec();
        let mut sightings =
            [((SERVICE, 8125), 1, Direction::Received), ((CART, 9125), 2, Direction::Sent)];
        if swapped {
            sightings.reverse();
        }
        for (to, interface, direction) in sightings {
            live.frame(1, &datagram(to), interface, direction);
        }
        let reported: Vec<_> = live
            .report_fresh(3 * SECOND)
            .iter()
            .map(|c| (c.responder.ip(), c.responder.port()))
            .collect();
        assert_eq!(reported, [(SERVICE.into(), 8125)]);
    }
}

/// The caller is on another node, or its interface is not watched.
#[test]
fn a_connection_that_only_arrives_is_counted_and_soon_forgotten() {
    let mut live = Wire::listening_on([8080]);
    let arrives = Packet {
        seq: 8,
        ack: Some(9),
        interface: 2,
        direction: Direction::Sent,
        ..Packet::default()
    };
    for port in 40_000..40_010 {
        live.packet(i64::from(port), (WEB, port), (CART, 8080), arrives);
    }
    assert!(live.report_fresh(3 * SECOND).is_empty() && live.report_changed(4 * SECOND).is_empty());
    assert!(live.report_changed(30 * SECOND).is_empty());
    assert_eq!(live.meter.counters().arriving, 10);
}

/// A guessed initiator may be wrong. A caller may be so new that its interface is not watched yet.
#[test]
fn guesses_and_syns_are_reported_where_they_arrive() {
    let mut live = Wire::listening_on([8080]);
    let arrives = Packet {
        seq: 8,
        ack: Some(9),
        interface: 2,
        direction: Direction::Sent,
        ..Packet::default()
    };
    live.packet(31 * SECOND, (WEB, 41_000), (CART, 9000), arrives);
    live.packet(
        31 * SECOND,
        (WEB, 41_001),
        (CART, 8080),
        Packet { syn: true, ack: None, ..arrives },
    );
    assert_eq!(new(&live.report_fresh(34 * SECOND)), [41_000, 41_001]);
}

/// The interface of a new pod was opened after its SYN, which the other end's interface shows.
#[test]
fn a_syn_that_is_read_late_begins_no_other_connection() {
    let mut live = Wire::new();
    live.request(10, 40_000);
    live.packet(
        8,
        (WEB, 40_000),
        (CART, 8080),
        Packet { seq: 7, syn: true, interface: 2, ..Packet::default() },
    );
    let reported = live.report_fresh(SECOND);
    assert_eq!(reported.len(), 1, "{reported:?}");
    assert!(
        reported[0].from_start && reported[0].first == 8 && reported[0].names.authority.is_some()
    );
    // A SYN that comes after the connection begins another one.
    live.packet(
        2 * SECOND,
        (WEB, 40_000),
        (CART, 8080),
        Packet { seq: 900, syn: true, ..Packet::default() },
    );
    assert_eq!(new(&live.report_fresh(5 * SECOND)), [40_000]);
}

/// A port is reused at once, and the interface of the called pod is read later.
#[test]
fn syns_that_are_read_late_report_no_connection_twice() {
    let mut live = Wire::new();
    let syns = |interface, late: i64, direction| {
        [(0i64, 7), (50_000_000, 900)].map(move |(time, seq)| {
            (time + late, Packet { seq, syn: true, interface, direction, ..Packet::default() })
        })
    };
    for (time, syn) in
        syns(1, 0, Direction::Received).into_iter().chain(syns(2, 5_000, Direction::Sent))
    {
        live.packet(time, (WEB, 40_000), (CART, 8080), syn);
    }
    let reported = live.report_fresh(5 * SECOND);
    assert_eq!(new(&reported), [40_000, 40_000], "{reported:?}");
    assert_eq!(reported.iter().map(|c| c.first).collect::<Vec<_>>(), [0, 50_000_000]);
}

/// The server's interface is read before the client's, which shows the DNS answer.
#[test]
fn an_answer_that_is_read_late_names_a_connection() {
    let mut live = Wire::new();
    live.call(1_000_000, 40_000);
    let message = dns::answer(1, "cart", &[CART]);
    let answer = frame::datagram(([10, 244, 1, 53], 53), (WEB, 40_001), &message);
    live.frame(0, packet(&answer), 1, Direction::Unknown);
    let reported = live.report_fresh(SECOND);
    let named = reported.iter().find(|c| c.responder.port() == 8080).unwrap();
    assert_eq!(named.names.dns.iter().map(|n| &n.question[..]).collect::<Vec<_>>(), ["cart"]);
}

#[test]
fn listening_ports_that_come_late_orient_a_connection_before_its_report() {
    let mut live = Wire::new();
    let payload = b"pong";
    // Joined midway, and the listening port is the higher one.
    let (cart, web) = ((CART, 61_000), (WEB, 40_000));
    live.packet(0, cart, web, Packet { seq: 700, ack: Some(80), payload, ..Packet::default() });
    live.meter.set_listening(ListeningPorts {
        sockets: [(CART.into(), 61_000)].into(),
        ports: [61_000].into(),
    });
    let reported = live.report_fresh(3 * SECOND);
    assert_eq!(reported.len(), 1);
    assert_eq!(
        (reported[0].responder.port(), reported[0].orientation),
        (61_000, Orientation::ListeningPort)
    );
    assert!(reported[0].answered && !reported[0].from_start);
}

/// A datagram from CART to WEB, the first that is seen between these ports. Returns the initiator's
/// port and how it was determined.
fn datagram(from: u16, to: u16) -> (u16, Orientation) {
    let mut live = Wire::new();
    live.ethernet(0, &frame::datagram((CART, from), (WEB, to), b"x"));
    let all = live.report_fresh(3 * SECOND);
    assert_eq!(all.len(), 1, "{all:?}");
    (all[0].initiator.port(), all[0].orientation)
}

#[test]
fn ports_tell_who_calls_with_datagrams_whichever_was_seen_first() {
    let client = (40_000, Orientation::Guessed);
    assert_eq!(datagram(8125, 40_000), client, "an answer");
    assert_eq!(datagram(40_000, 8125), client);
    for (from, to) in [(8125, 9000), (40_000, 50_000)] {
        assert_eq!(datagram(from, to), (from, Orientation::Undecided));
    }
}
