use proptest::prelude::*;

use super::*;

fn time() -> impl Strategy<Value = Time> {
    (0..400i64).prop_map(|s| Time(s * 1_000_000_000))
}

fn tally() -> impl Strategy<Value = Tally> {
    (0..5u64, time(), time()).prop_map(|(n, a, b)| Tally::new(n, a.min(b), a.max(b)))
}

fn evidence() -> impl Strategy<Value = Evidence> {
    (tally(), prop::collection::vec((time(), 1..4u16), 1..4)).prop_map(|(tally, examples)| {
        let socket = |port| std::net::SocketAddr::from(([10, 0, 0, 1], port));
        let example =
            |(time, port)| Example { time, from: socket(port), to: socket(80), name: None };
        let mut whole = Evidence { tally, examples: Vec::new() };
        // Only merging makes an Evidence: its examples are sorted and few.
        whole.merge(&Evidence {
            tally: Tally { connections: 0, ..tally },
            examples: examples.into_iter().map(example).collect(),
        });
        whole
    })
}

fn dependency() -> impl Strategy<Value = Dependency> {
    let grade = prop::sample::select(vec![Grade::IstioSni, Grade::DnsAnswer, Grade::Endpoint]);
    (
        tally(),
        prop::collection::btree_map(grade, evidence(), 0..3),
        prop::collection::btree_map("[a-f]{1,2}", tally(), 0..30),
        prop::option::of(tally()),
        0..9u64,
    )
        .prop_map(|(tally, evidence, addressed, scope_miss, midway)| {
            let workload =
                WorkloadId { namespace: "n".into(), kind: "Deployment".into(), name: "w".into() };
            let service = ServicePort {
                namespace: "n".into(),
                name: "s".into(),
                host: "s.n.svc.cluster.local".into(),
                port: 80,
            };
            let key = DependencyKey {
                workload,
                destination: Destination::Service(service),
                port: 80,
                protocol: Protocol::Tcp,
            };
            let mut d = Dependency::new(key, tally);
            (d.evidence, d.addressed, d.scope_miss, d.midway) =
                (evidence, addressed, scope_miss, midway);
            d
        })
}

fn spans() -> impl Strategy<Value = Spans> {
    prop::collection::vec((time(), time()), 0..6).prop_map(|all| {
        let mut out = Spans::default();
        for (a, b) in all {
            out.merge(&Span { from: a.min(b), to: a.max(b) }.alone());
        }
        out
    })
}

fn merged<T: Merge + Clone>(all: &[&T]) -> T {
    let mut out = all[0].clone();
    all[1..].iter().for_each(|x| out.merge(x));
    out
}

proptest! {
    #[test]
    fn dependencies_merge_in_any_order_and_grouping(
        a in dependency(),
        b in dependency(),
        c in dependency(),
    ) {
        let left = merged(&[&a, &b, &c]);
        prop_assert_eq!(&left, &merged(&[&a, &merged(&[&b, &c])]));
        prop_assert_eq!(&left, &merged(&[&c, &a, &b]));
        let connections = [&a, &b, &c].map(|d| d.tally.connections).iter().sum::<u64>();
        prop_assert_eq!(left.tally.connections, connections);
    }

    #[test]
    fn times_read_as_the_calendar_has_them(
        nanos in prop_oneof![
            any::<i64>(),
            (0..4_000_000_000i64).prop_map(|s| s * 1_000_000_000),
        ],
    ) {
        let expected = jiff::Timestamp::from_nanosecond(i128::from(nanos)).unwrap().to_string();
        prop_assert_eq!(Time(nanos).to_string(), expected.clone());
        prop_assert_eq!(expected.parse::<Time>().unwrap(), Time(nanos));
    }

    #[test]
    fn spans_merge_in_any_order_and_once(a in spans(), b in spans(), c in spans()) {
        let left = merged(&[&a, &b, &c]);
        prop_assert_eq!(&left, &merged(&[&c, &merged(&[&b, &a])]));
        prop_assert_eq!(&left, &merged(&[&left, &b]));
        prop_assert!(left.0.windows(2).all(|w| w[0].to < w[1].from));
    }

    #[test]
    fn records_survive_json(d in dependency()) {
        let record = Record::Dependency(d);
        let text = serde_json::to_string(&record).unwrap();
        prop_assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), record);
    }
}

#[test]
fn the_ends_of_time_are_written_and_read() {
    for time in [Time::MIN, Time::MAX, Time(0), Time(-1), Time(951_782_400_000_000_000)] {
        assert_eq!(time.to_string().parse::<Time>().unwrap(), time);
    }
    assert_eq!(Time(951_782_400_000_000_000).to_string(), "2000-02-29T00:00:00Z");
}

fn seconds(from: i64, to: i64) -> Spans {
    Span { from: Time(from * 1_000_000_000), to: Time(to * 1_000_000_000) }.alone()
}

/// A watch of one pod: its spans in captures and those of an agent, in seconds.
fn watch(captured: &Spans, live: &Spans) -> Watch {
    Watch {
        workload: WorkloadId { namespace: "n".into(), kind: "Pod".into(), name: "w".into() },
        pod: "w".into(),
        started: Some(Time(0)),
        spans: captured.clone(),
        live: live.clone(),
        packets: 1,
        lost: 0,
        ownership: Ownership::default(),
        folded: Folded::default(),
    }
}

#[test]
fn a_gap_of_more_than_a_minute_is_a_gap_between_captures() {
    let none = Spans::default();
    let all = |a: Spans, b: Spans| merged(&[&watch(&a, &none), &watch(&b, &none)]).watched();
    assert_eq!(all(seconds(0, 10), seconds(70, 80)), seconds(0, 80));
    assert_eq!(all(seconds(0, 10), seconds(71, 80)).0.len(), 2);
}

#[test]
fn any_gap_of_an_agent_is_a_gap() {
    let none = Spans::default();
    let all = |a: Spans, b: Spans| merged(&[&watch(&none, &a), &watch(&none, &b)]);
    assert_eq!(all(seconds(0, 10), seconds(10, 20)).watched(), seconds(0, 20));
    let both = all(seconds(0, 10), seconds(11, 20));
    assert_eq!(both.watched().gaps(), seconds(10, 11));
    assert_eq!(both.span_from_start(), Some(seconds(0, 10).0[0]));
    assert_eq!(watch(&none, &seconds(6, 9)).span_from_start(), None);
}

proptest! {
    #[test]
    fn watches_merge_in_any_order_and_grouping(
        a in (spans(), spans()),
        b in (spans(), spans()),
        c in (spans(), spans()),
    ) {
        let [a, b, c] = [a, b, c].map(|(captured, live)| watch(&captured, &live));
        let left = merged(&[&a, &b, &c]);
        prop_assert_eq!(&left, &merged(&[&c, &merged(&[&b, &a])]));
    }
}
