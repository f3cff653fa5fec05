//! Several captures in one meter.

#![allow(clippy::unwrap_used)] // a test that cannot go on should say where

mod common;

use common::{CART, Ip, Packet, SERVICE, WEB};
use sidecarta_capture::frame::{Direction, Frame, LinkType};
use sidecarta_capture::meter::{FlowConfig, ListeningPorts, Meter};
use sidecarta_capture::observation::{InterfaceId, Observation};

struct Captures {
    meter: Meter,
    reported: Vec<Observation>,
}

impl Captures {
    fn new() -> Self {
        let meter = Meter::new(FlowConfig::default(), ListeningPorts::default());
        Self { meter, reported: Vec::new() }
    }

    fn frame(&mut self, source: u32, time: i64, data: &[u8]) {
        let frame = Frame {
            time,
            interface: InterfaceId { source, index: 0 },
            link: LinkType::ETHERNET,
            direction: Direction::Unknown,
            wire_len: data.len() as u32,
            data,
        };
        let reported = &mut self.reported;
        self.meter.frame(&frame, &mut |o| reported.push(o));
    }

    fn syn(&mut self, source: u32, time: i64, to: Ip, seq: u32) {
        let packet = Packet { seq, syn: true, ..Packet::default() };
        self.frame(source, time, &packet.bytes((WEB, 40_000), (to, 8080)));
    }
}

#[test]
fn each_capture_has_its_own_counters() {
    let mut captures = Captures::new();
    captures.syn(0, 1, CART, 7);
    captures.frame(2, 2, &[0; 4]);
    captures.syn(0, 3, CART, 7);
    captures.frame(2, 4, &[0; 20]);
    captures.syn(1, 5, CART, 7);
    let of = |source| {
        let c = captures.meter.counters_of(source);
        (c.packets, c.used, c.bad_link + c.not_ip)
    };
    assert_eq!([of(0), of(1), of(2), of(3)], [(2, 2, 0), (1, 1, 0), (2, 0, 2), (0, 0, 0)]);
    let all = captures.meter.counters();
    assert_eq!((all.packets, all.used, all.bad_link + all.not_ip), (5, 3, 2));
}

/// The capture of the caller shows the Service's address, that of the callee the pod's.
#[test]
fn a_call_that_is_translated_between_two_captures_is_one_connection() {
    let mut captures = Captures::new();
    captures.syn(0, 1_000, SERVICE, 7);
    captures.syn(1, 2_000, CART, 7);
    let reported = &mut captures.reported;
    captures.meter.finish(&mut |o| reported.push(o));
    let connections: Vec<_> = reported
        .iter()
        .filter_map(|o| match o {
            Observation::Connection(c) => Some((c.responder.ip(), c.isn, c.closed)),
            _ => None,
        })
        .collect();
    assert_eq!(connections, [(SERVICE.into(), Some(7), false)]);
    assert_eq!(captures.meter.counters_of(1).repeated_sightings, 1);
}
