//! Whatever is gathered in whatever order: batches contain the same together.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use proptest::prelude::*;
use sidecarta_capture::observation::{
    Connection, ConnectionNames, DnsName, InterfaceId, InterfaceSpan, Lookup,
};

use super::samples::{connection, pod, span, written};
use crate::model::{Merge, Span, Spans, Tally, Time};
use crate::observed::{Call, Edge, Gatherer, Observed, Reader};

/// An observation, after the index of its pod.
#[derive(Clone, Debug)]
enum PodObservation {
    Connection(u8, Box<Connection>),
    Lookup(u8, Lookup),
    Span(u8, InterfaceSpan),
}

fn any_connection() -> impl Strategy<Value = Connection> {
    let names = prop_oneof![
        Just(ConnectionNames::default()),
        Just(ConnectionNames {
            sni: Some("cart".to_owned()),
            alpn: vec!["h2".to_owned(), "{h\\\"".to_owned()],
            ..ConnectionNames::default()
        }),
        any::<i64>().prop_map(|answered| ConnectionNames {
            dns: ["b", "a"]
                .map(|n| DnsName {
                    question: n.to_owned(),
                    canonical: Some(n.to_owned()),
                    answered: answered.saturating_abs()
                })
                .into(),
            ..ConnectionNames::default()
        }),
    ];
    (1..4u16, 80..83u16, 0..1_000i64, 0..50i64, any::<[bool; 2]>(), names).prop_map(
        |(port, to, first, took, flags, names)| Connection {
            last: first + took,
            answered: flags[0],
            isn: None,
            closed: false,
            is_new: flags[1],
            names,
            ..connection(port, to, first)
        },
    )
}

fn any_observation() -> impl Strategy<Value = PodObservation> {
    let lookup = |(at, name, time, rcode): (u8, u8, i64, Option<u8>)| {
        let lookup = Lookup {
            interface: InterfaceId { source: 0, index: 2 },
            client: IpAddr::from([10, 0, 0, 1]),
            server: SocketAddr::from(([10, 0, 0, 53], 53)),
            time,
            question: format!("name{name}"),
            canonical: None,
            addresses: Vec::new(),
            rcode,
        };
        PodObservation::Lookup(at, lookup)
    };
    let answers = prop_oneof![Just(None), Just(Some(0)), Just(Some(3))];
    let watched = |(at, first, took, packets): (u8, i64, i64, u64)| {
        PodObservation::Span(at, InterfaceSpan { first, last: first + took, packets, ..span() })
    };
    prop_oneof![
        4 => (0..3u8, any_connection())
            .prop_map(|(at, c)| PodObservation::Connection(at, Box::new(c))),
        1 => (0..3u8, 0..3u8, 0..1_000i64, answers).prop_map(lookup),
        1 => (0..3u8, 0..1_000i64, 0..100i64, 1..9u64).prop_map(watched),
    ]
}

fn gather(all: &[PodObservation], gatherer: &mut Gatherer) {
    let pods = ["a", "b", "c"].map(pod);
    for observation in all {
        match observation {
            PodObservation::Connection(at, c) => {
                gatherer.connection(&pods[*at as usize], c, || Span::ALWAYS);
            }
            PodObservation::Lookup(at, l) => {
                gatherer.lookup(&pods[*at as usize], l);
            }
            PodObservation::Span(at, s) => gatherer.watch(&pods[*at as usize], s),
        }
    }
}

/// What batches contain together, wherever they were cut.
#[derive(Debug, Default, PartialEq)]
struct BatchSum {
    edges: BTreeMap<(String, Call), Edge>,
    asked: BTreeMap<(String, String), Tally>,
    watching: BTreeMap<String, (Spans, u64)>,
    spans: Spans,
}

fn sum(batches: &[Observed]) -> BatchSum {
    let mut sum = BatchSum::default();
    for batch in batches {
        let name = |pod: u32| batch.pods[pod as usize].name.to_string();
        for e in &batch.edges {
            let edge = Edge { pod: 0, ..e.clone() };
            sum.edges
                .entry((name(e.pod), e.call.clone()))
                .and_modify(|sum| sum.merge(&edge))
                .or_insert(edge);
        }
        for a in &batch.asked {
            let key = (name(a.pod), a.question.clone());
            sum.asked.entry(key).and_modify(|sum| sum.merge(&a.tally)).or_insert(a.tally);
        }
        for w in &batch.watching {
            let (spans, packets) = sum.watching.entry(name(w.pod)).or_default();
            spans.merge(&w.spans);
            *packets += w.packets;
        }
        sum.spans.merge(&batch.spans);
    }
    sum
}

/// Observations, and the same in another order.
fn in_two_orders() -> impl Strategy<Value = (Vec<PodObservation>, Vec<PodObservation>)> {
    prop::collection::vec(any_observation(), 0..40)
        .prop_flat_map(|all| (Just(all.clone()), Just(all).prop_shuffle()))
}

proptest! {
    #[test]
    fn batches_sum_to_the_same_in_any_order_and_cut(
        (all, other) in in_two_orders(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
        is_absorbed in any::<bool>(),
    ) {
        let mut whole = Gatherer::new("n1", "boot");
        gather(&all, &mut whole);
        let whole: Vec<Observed> = whole.take(Time(9)).into_iter().collect();

        let mut cuts: Vec<usize> = cuts.iter().map(|c| c.index(other.len() + 1)).collect();
        cuts.extend([0, other.len()]);
        cuts.sort_unstable();
        let mut gatherer = Gatherer::new("n1", "boot");
        let mut cut_batches = Vec::new();
        for cut in cuts.windows(2) {
            if is_absorbed && let Some(pending) = gatherer.pending() {
                // As after a crash, with what is in the spool.
                gatherer = Gatherer::new("n1", "boot");
                gatherer.absorb(&pending);
            }
            gather(&other[cut[0]..cut[1]], &mut gatherer);
            if !is_absorbed {
                cut_batches.extend(gatherer.take(Time(9)));
            }
        }
        cut_batches.extend(gatherer.take(Time(9)));
        prop_assert_eq!(sum(&whole), sum(&cut_batches));
        for (sequence, batch) in cut_batches.iter().enumerate() {
            prop_assert_eq!(batch.id.sequence, sequence as u64);
        }
    }

    #[test]
    fn what_is_written_is_read(
        all in prop::collection::vec(any_observation(), 0..20),
        more in prop::collection::vec(any_observation(), 0..20),
    ) {
        let mut gatherer = Gatherer::new("n1", "boot");
        gatherer.count("learned", 3);
        gather(&all, &mut gatherer);
        let mut batches: Vec<Observed> = gatherer.take(Time(9)).into_iter().collect();
        gather(&more, &mut gatherer);
        batches.extend(gatherer.take(Time(10)));
        let read: Result<Vec<Observed>, _> = Reader::new(&written(&batches)[..]).collect();
        prop_assert_eq!(read.unwrap(), batches);
    }

    #[test]
    fn reading_ends_whatever_the_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        Reader::new(&bytes[..]).for_each(drop);
        let whole = b"{\"observed\":{\"version\":1}}\n{\"end\":{\"lines\":1}}\n";
        let lines = [&whole[..], &bytes].concat();
        Reader::new(&lines[..]).for_each(drop);
    }
}
