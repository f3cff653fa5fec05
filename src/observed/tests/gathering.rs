//! What becomes one edge, what is fresh, and what is folded.

use std::net::{IpAddr, SocketAddr};

use sidecarta_capture::observation::{
    Connection, ConnectionNames, Content, DnsName, InterfaceId, Lookup, Orientation, Transport,
};

use super::samples::{connection, named, pod};
use crate::model::{Span, Time, counter};
use crate::observed::{Budget, Gatherer, Opening, Reader, write};

#[test]
fn a_call_that_was_sent_is_not_fresh_again() {
    let mut gatherer = Gatherer::new("n1", "boot");
    gatherer.connection(&pod("a"), &connection(40_000, 80, 5), || Span::ALWAYS);
    assert!(gatherer.is_fresh());
    gatherer.take(Time(9)).unwrap();
    gatherer.connection(&pod("a"), &connection(40_001, 80, 6), || Span::ALWAYS);
    assert!(!gatherer.is_fresh(), "the same call by the same pod");
    gatherer.connection(&pod("b"), &connection(40_001, 80, 6), || Span::ALWAYS);
    assert!(gatherer.is_fresh(), "by another pod");
}

/// Connections are one edge where all that resolution reads of them is equal.
#[test]
fn equal_calls_are_one_edge() {
    let mut gatherer = Gatherer::new("n1", "boot");
    let mut connections = 0;
    for orientation in [Orientation::Handshake, Orientation::Guessed] {
        for flags in 0..16 {
            let is = |bit: i32| flags & 1 << bit != 0;
            let c = Connection {
                orientation,
                from_start: is(0),
                answered: is(1),
                refused: is(2),
                content: if is(3) { Content::Http1 } else { Content::Unknown },
                names: ConnectionNames {
                    alpn: if is(3) { vec!["h2".to_owned()] } else { Vec::new() },
                    dns: vec![DnsName {
                        question: "cart".to_owned(),
                        canonical: is(2).then(|| "cart.shop".to_owned()),
                        answered: i64::from(flags),
                    }],
                    ..ConnectionNames::default()
                },
                ..connection(40_000 + flags as u16, 80, 10 + i64::from(flags))
            };
            connections += 1;
            gatherer.connection(&pod("a"), &c, || Span::ALWAYS);
        }
    }
    let batch = gatherer.take(Time(99)).unwrap();
    let [edge] = &batch.edges[..] else { panic!("{} edges", batch.edges.len()) };
    assert_eq!(
        (edge.connections, edge.midway, edge.guessed, edge.unanswered),
        (connections, 16, 16, 16)
    );
    let openings = [10, 11, 25].map(|began| Opening {
        began: Time(began),
        from: ([10, 0, 0, 1], 39_990 + began as u16).into(),
    });
    assert_eq!(edge.openings, openings, "the two first and the last");
    assert_eq!(batch.counters[counter::GUESSED], 16);
}

/// The destination address may belong to another pod after the change.
#[test]
fn calls_before_and_after_an_address_changed_hands_are_two_edges() {
    let mut gatherer = Gatherer::new("n1", "boot");
    for first in [5, 30, 10, 40] {
        let change = Time(20);
        let steady = if Time(first) < change {
            Span { from: Time::MIN, to: Time(19) }
        } else {
            Span { from: change, to: Time::MAX }
        };
        gatherer.connection(&pod("a"), &connection(40_000, 80, first), || steady);
    }
    let batch = gatherer.take(Time(99)).unwrap();
    let edges: Vec<_> =
        batch.edges.iter().map(|e| (e.connections, e.first().0, e.last_began().0)).collect();
    assert_eq!(edges, [(2, 5, 10), (2, 30, 40)]);
}

#[test]
fn calls_beyond_a_pods_share_are_folded_and_other_pods_lose_none() {
    let mut gatherer = Gatherer::new("n1", "boot");
    let mut taken = 0;
    for n in 0..200_000u32 {
        let mut c = named(443, &format!("h{n}.d{}.example.com", n % 7));
        c.responder = (IpAddr::from((0x0b00_0000 + n).to_be_bytes()), 443).into();
        gatherer.connection(&pod("scan"), &c, || Span::ALWAYS);
        if n % 1_000 == 0 {
            gatherer.connection(
                &pod("quiet"),
                &named(1 + (n / 1_000) as u16, "cart.shop.svc"),
                || Span::ALWAYS,
            );
            taken += 1;
        }
    }
    let budget = Budget::default();
    let batch = gatherer.take(Time(9)).unwrap();
    let at = |name: &str| batch.pods.iter().position(|p| *p.name == *name).unwrap() as u32;
    let of = |name: &str| batch.edges.iter().filter(|e| e.pod == at(name)).count();
    assert_eq!(of("quiet"), taken, "other pods lose none");
    let listed = of("scan");
    assert!(listed > 1_000 && listed * 384 < budget.share, "{listed}");
    let watched = batch.watching.iter().find(|w| w.pod == at("scan")).unwrap();
    let folded = &watched.folded;
    assert_eq!(listed as u64 + folded.connections(), 200_000, "none is lost from the count");
    assert_eq!(folded.domains["example.com"], folded.connections());
    assert_eq!(batch.counters[counter::FOLDED], folded.connections());
    assert!(watched.spans.0.is_empty(), "folding does not say that it was watched");
    assert!(batch.watching.iter().all(|w| w.pod != at("quiet")));
    let mut text = Vec::new();
    write(&batch, &mut text).unwrap();
    let read = Reader::new(&text[..]).next().unwrap().unwrap();
    assert_eq!(read, batch);
}

#[test]
fn each_pod_has_some_room_when_others_take_all_they_can() {
    let mut gatherer = Gatherer::new("n1", "boot");
    for p in 0..30 {
        for n in 0..4_000u32 {
            let mut c = connection(40_000, 443, 5);
            c.responder = (IpAddr::from((0x0b00_0000 + n).to_be_bytes()), 443).into();
            gatherer.connection(&pod(&format!("scan{p}")), &c, || Span::ALWAYS);
        }
    }
    for n in 0..50 {
        gatherer.connection(&pod("quiet"), &connection(40_000, 1 + n, 5), || Span::ALWAYS);
    }
    let mut quiet = 0;
    let mut batches = 0;
    while let Some(batch) = gatherer.take(Time(9)) {
        let mut text = Vec::new();
        write(&batch, &mut text).unwrap();
        // Far below what a recorder takes, in each of them.
        assert!(text.len() < 16 << 20, "{}", text.len());
        quiet +=
            batch.edges.iter().filter(|e| *batch.pods[e.pod as usize].name == *"quiet").count();
        batches += 1;
    }
    assert_eq!(quiet, 50);
    assert!(batches > 1, "batches are cut between pods");
}

#[test]
fn names_beyond_a_share_are_counted_and_take_no_room_of_calls() {
    let mut gatherer = Gatherer::new("n1", "boot");
    let lookup = |n: u32| Lookup {
        interface: InterfaceId { source: 0, index: 2 },
        client: IpAddr::from([10, 0, 0, 1]),
        server: SocketAddr::from(([10, 0, 0, 53], 53)),
        time: 5,
        question: format!("{n}.{}", "x".repeat(200)),
        canonical: None,
        addresses: Vec::new(),
        rcode: None,
    };
    for n in 0..50_000 {
        gatherer.lookup(&pod("a"), &lookup(n));
    }
    for n in 0..1_000 {
        gatherer.connection(&pod("a"), &connection(40_000, 1 + n, 5), || Span::ALWAYS);
    }
    let batch = gatherer.take(Time(9)).unwrap();
    assert_eq!(batch.edges.len(), 1_000);
    let folded = &batch.watching[0].folded;
    assert_eq!((batch.asked.len() as u64 + folded.names, folded.connections()), (50_000, 0));
}

#[test]
fn datagrams_of_which_nothing_shows_who_calls_are_one_edge() {
    let mut gatherer = Gatherer::new("n1", "boot");
    for port in 40_000..50_000 {
        let undecided = Connection {
            transport: Transport::Udp,
            orientation: Orientation::Undecided,
            content: Content::Unknown,
            ..connection(40_001, port, 5)
        };
        gatherer.connection(&pod("a"), &undecided, || Span::ALWAYS);
    }
    let batch = gatherer.take(Time(9)).unwrap();
    let [edge] = &batch.edges[..] else { panic!("{}", batch.edges.len()) };
    assert_eq!((edge.connections, edge.guessed), (10_000, 10_000));
}
