use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use proptest::prelude::*;
use sidecarta_capture::observation::{DnsName, InterfaceSpan, Lookup};

use super::*;
use crate::model::{DataPlane, WorkloadId};

pub(crate) fn pod(name: &str) -> Pod {
    Pod {
        name: name.into(),
        uid: format!("uid-{name}").into(),
        workload: WorkloadId {
            namespace: "shop".to_owned(),
            kind: "Deployment".to_owned(),
            name: name.to_owned(),
        },
        labels: Arc::new(BTreeMap::from([("app".to_owned(), name.to_owned())])),
        selector: Arc::default(),
        data_plane: DataPlane::Sidecar,
        start: Time(1),
        end: Time::MAX,
        addresses: [IpAddr::from([10, 0, 0, 1])].into(),
        node: "n1".into(),
        capture: Arc::default(),
    }
}

pub(crate) fn connection(port: u16, to: u16, first: i64) -> Connection {
    Connection {
        initiator: SocketAddr::from(([10, 0, 0, 1], port)),
        responder: SocketAddr::from(([10, 0, 0, 2], to)),
        transport: Transport::Tcp,
        orientation: Orientation::Handshake,
        from_start: true,
        answered: true,
        refused: false,
        first,
        last: first + 5,
        packets: 3,
        content: Content::Http1,
        names: Names { authority: Some(format!("s{to}")), ..Names::default() },
        interface: InterfaceId { source: 0, index: 2 },
        is_new: true,
    }
}

#[derive(Clone, Debug)]
enum Taken {
    Connection(u8, Box<Connection>),
    Lookup(u8, Lookup),
    Span(u8, InterfaceSpan),
}

fn any_connection() -> impl Strategy<Value = Connection> {
    let names = prop_oneof![
        Just(Names::default()),
        Just(Names {
            sni: Some("cart".to_owned()),
            alpn: vec!["h2".to_owned(), "{h\\\"".to_owned()],
            ..Names::default()
        }),
        any::<i64>().prop_map(|answered| Names {
            dns: ["b", "a"]
                .map(|n| DnsName {
                    question: n.to_owned(),
                    canonical: Some(n.to_owned()),
                    answered: answered.saturating_abs()
                })
                .into(),
            ..Names::default()
        }),
    ];
    (1..4u16, 80..83u16, 0..1_000i64, 0..50i64, any::<[bool; 2]>(), names).prop_map(
        |(port, to, first, took, flags, names)| Connection {
            last: first + took,
            answered: flags[0],
            is_new: flags[1],
            names,
            ..connection(port, to, first)
        },
    )
}

fn any_taken() -> impl Strategy<Value = Taken> {
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
        Taken::Lookup(at, lookup)
    };
    prop_oneof![
        4 => (0..3u8, any_connection()).prop_map(|(at, c)| Taken::Connection(at, Box::new(c))),
        1 => (0..3u8, 0..3u8, 0..1_000i64, prop_oneof![Just(None), Just(Some(0)), Just(Some(3))]).prop_map(lookup),
        1 => (0..3u8, 0..1_000i64, 0..100i64, 1..9u64).prop_map(|(at, first, took, packets)| Taken::Span(
            at,
            InterfaceSpan {
                interface: InterfaceId { source: 0, index: 2 },
                first,
                last: first + took,
                packets,
                common_v4: Vec::new(), common_v6: Vec::new(),
            }
        )),
    ]
}

fn take(all: &[Taken], gatherer: &mut Gatherer) {
    let pods = ["a", "b", "c"].map(pod);
    for taken in all {
        match taken {
            Taken::Connection(at, c) => gatherer.connection(&pods[*at as usize], c),
            Taken::Lookup(at, l) => gatherer.lookup(&pods[*at as usize], l),
            Taken::Span(at, s) => gatherer.watch(&pods[*at as usize], s),
        }
    }
}

/// All that batches tell, whatever they are cut into.
#[derive(Debug, Default, PartialEq)]
struct Sum {
    edges: BTreeMap<(String, Call), Edge>,
    asked: BTreeMap<(String, String), Tally>,
    watching: BTreeMap<String, (Spans, u64)>,
    spans: Spans,
}

fn sum(batches: &[Observed]) -> Sum {
    let mut sum = Sum::default();
    for batch in batches {
        let name = |pod: u32| batch.pods[pod as usize].name.to_string();
        for e in &batch.edges {
            let edge = Edge { pod: 0, ..e.clone() };
            sum.edges
                .entry((name(e.pod), e.call.clone()))
                .and_modify(|known| known.merge(&edge))
                .or_insert(edge);
        }
        for a in &batch.asked {
            let key = (name(a.pod), a.question.clone());
            sum.asked.entry(key).and_modify(|known| known.merge(&a.tally)).or_insert(a.tally);
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

fn written(batches: &[Observed]) -> Vec<u8> {
    let mut text = Vec::new();
    batches.iter().for_each(|b| write(b, &mut text).unwrap());
    text
}

proptest! {
    #[test]
    fn the_same_is_told_in_any_order_and_cut(
        (all, other) in prop::collection::vec(any_taken(), 0..40).prop_flat_map(|v| (Just(v.clone()), Just(v).prop_shuffle())),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
        absorbed in any::<bool>(),
    ) {
        let mut whole = Gatherer::new("n1", "boot");
        take(&all, &mut whole);
        let whole: Vec<Observed> = whole.take(Time(9)).into_iter().collect();

        let mut cuts: Vec<usize> = cuts.iter().map(|c| c.index(other.len() + 1)).collect();
        cuts.extend([0, other.len()]);
        cuts.sort_unstable();
        let mut gatherer = Gatherer::new("n1", "boot");
        let mut parts = Vec::new();
        for cut in cuts.windows(2) {
            if absorbed && let Some(pending) = gatherer.pending() {
                // As after a crash, of what the spool held.
                gatherer = Gatherer::new("n1", "boot");
                gatherer.absorb(&pending);
            }
            take(&other[cut[0]..cut[1]], &mut gatherer);
            if !absorbed {
                parts.extend(gatherer.take(Time(9)));
            }
        }
        parts.extend(gatherer.take(Time(9)));
        prop_assert_eq!(sum(&whole), sum(&parts));
        for (sequence, part) in parts.iter().enumerate() {
            prop_assert_eq!(part.id.sequence, sequence as u64);
        }
    }

    #[test]
    fn what_is_written_is_read(all in prop::collection::vec(any_taken(), 0..20), more in prop::collection::vec(any_taken(), 0..20)) {
        let mut gatherer = Gatherer::new("n1", "boot");
        gatherer.count("learned", 3);
        take(&all, &mut gatherer);
        let mut batches: Vec<Observed> = gatherer.take(Time(9)).into_iter().collect();
        take(&more, &mut gatherer);
        batches.extend(gatherer.take(Time(10)));
        let read: Result<Vec<Observed>, _> = Reader::new(&written(&batches)[..]).collect();
        prop_assert_eq!(read.unwrap(), batches);
    }

    #[test]
    fn whatever_is_read_ends(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        Reader::new(&bytes[..]).for_each(drop);
        let lines = [&b"{\"observed\":{\"version\":1}}\n{\"end\":{\"lines\":1}}\n"[..], &bytes].concat();
        Reader::new(&lines[..]).for_each(drop);
    }
}

/// Two batches, with all kinds of lines.
fn two() -> Vec<Observed> {
    let mut gatherer = Gatherer::new("n1", "boot");
    let mut batches = Vec::new();
    for n in 0..2 {
        gatherer.count("learned", 1);
        gatherer.connection(&pod("a"), &connection(40_000, 80 + n, 5));
        let span = InterfaceSpan {
            interface: InterfaceId { source: 0, index: 2 },
            first: 1,
            last: 5,
            packets: 2,
            common_v4: Vec::new(),
            common_v6: Vec::new(),
        };
        gatherer.watch(&pod("a"), &span);
        batches.extend(gatherer.take(Time(9)));
    }
    batches
}

#[test]
fn a_file_that_is_cut_anywhere_tells_whole_batches_and_that_it_is_cut() {
    let batches = two();
    let (first, text) = (written(&batches[..1]).len(), written(&batches));
    for cut in 0..=text.len() {
        let mut whole = Vec::new();
        let mut errors = Vec::new();
        for read in Reader::new(&text[..cut]) {
            match read {
                Ok(batch) => whole.push(batch),
                Err(e) => errors.push(e),
            }
        }
        // The end of the last line is no part of it.
        let want = usize::from(cut + 1 >= first) + usize::from(cut + 1 >= text.len());
        assert_eq!(whole[..], batches[..want], "at {cut}");
        let between = [0, first - 1, first, text.len() - 1, text.len()].contains(&cut);
        assert_eq!(errors.is_empty(), between, "at {cut}: {errors:?}");
        let known =
            errors.iter().all(|e| matches!(e, ReadError::Cut { .. } | ReadError::Malformed { .. }));
        assert!(known && errors.len() <= 1, "at {cut}: {errors:?}");
        // What the next run of the agent writes is read.
        let mut after = text[..cut].to_vec();
        if after.last().is_some_and(|b| *b != b'\n') {
            after.push(b'\n');
        }
        after.extend_from_slice(&text[first..]);
        let last = Reader::new(&after[..]).filter_map(Result::ok).last();
        assert_eq!(last.as_ref(), batches.last(), "at {cut}");
    }
}

#[test]
fn a_line_less_is_noticed() {
    let text = String::from_utf8(written(&two())).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    for without in 0..lines.len() {
        let text: String = lines
            .iter()
            .enumerate()
            .filter(|(n, _)| *n != without)
            .map(|(_, l)| format!("{l}\n"))
            .collect();
        let whole = Reader::new(text.as_bytes()).filter_map(Result::ok).count();
        assert_eq!(whole, 1, "without line {without}");
    }
}

#[test]
fn what_was_told_is_not_fresh_again() {
    let mut gatherer = Gatherer::new("n1", "boot");
    gatherer.connection(&pod("a"), &connection(40_000, 80, 5));
    assert!(gatherer.is_fresh());
    gatherer.take(Time(9)).unwrap();
    gatherer.connection(&pod("a"), &connection(40_001, 80, 6));
    assert!(!gatherer.is_fresh(), "the same call by the same pod");
    gatherer.connection(&pod("b"), &connection(40_001, 80, 6));
    assert!(gatherer.is_fresh(), "by another pod");
}
