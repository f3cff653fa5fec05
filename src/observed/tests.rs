use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use proptest::prelude::*;
use sidecarta_capture::observation::{
    Connection, ConnectionNames, Content, DnsName, InterfaceId, InterfaceSpan, Lookup, Orientation,
    Transport,
};

use super::*;
use crate::model::{
    DataPlane, Merge, Pod, Protocol, Span, Spans, Tally, Time, WorkloadId, counter,
};

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
        proxy_since: None,
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
        names: ConnectionNames { authority: Some(format!("s{to}")), ..ConnectionNames::default() },
        interface: InterfaceId { source: 0, index: 2 },
        isn: None,
        closed: false,
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
                owner: None, forged: 0, claimed: Vec::new(),
            }
        )),
    ]
}

fn take(all: &[Taken], gatherer: &mut Gatherer) {
    let pods = ["a", "b", "c"].map(pod);
    for taken in all {
        match taken {
            Taken::Connection(at, c) => {
                gatherer.connection(&pods[*at as usize], c, || Span::ALWAYS);
            }
            Taken::Lookup(at, l) => {
                gatherer.lookup(&pods[*at as usize], l);
            }
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

fn span() -> InterfaceSpan {
    InterfaceSpan {
        interface: InterfaceId { source: 0, index: 2 },
        first: 1,
        last: 5,
        packets: 2,
        common_v4: Vec::new(),
        common_v6: Vec::new(),
        owner: None,
        forged: 0,
        claimed: Vec::new(),
    }
}

/// Two batches, with all kinds of lines.
fn two() -> Vec<Observed> {
    let mut gatherer = Gatherer::new("n1", "boot");
    let mut batches = Vec::new();
    for n in 0..2 {
        gatherer.count("learned", 1);
        gatherer.connection(&pod("a"), &connection(40_000, 80 + n, 5), || Span::ALWAYS);
        let span = InterfaceSpan {
            interface: InterfaceId { source: 0, index: 2 },
            first: 1,
            last: 5,
            packets: 2,
            common_v4: Vec::new(),
            common_v6: Vec::new(),
            owner: None,
            forged: 0,
            claimed: Vec::new(),
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
        let known = errors
            .iter()
            .all(|e| matches!(e, BatchReadError::Cut { .. } | BatchReadError::Malformed { .. }));
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
    gatherer.connection(&pod("a"), &connection(40_000, 80, 5), || Span::ALWAYS);
    assert!(gatherer.is_fresh());
    gatherer.take(Time(9)).unwrap();
    gatherer.connection(&pod("a"), &connection(40_001, 80, 6), || Span::ALWAYS);
    assert!(!gatherer.is_fresh(), "the same call by the same pod");
    gatherer.connection(&pod("b"), &connection(40_001, 80, 6), || Span::ALWAYS);
    assert!(gatherer.is_fresh(), "by another pod");
}

/// What a pod shows in many ways is one edge, where resolution reads the same of it.
#[test]
fn equal_calls_are_one_edge() {
    let mut gatherer = Gatherer::new("n1", "boot");
    let mut seen = 0;
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
            seen += 1;
            gatherer.connection(&pod("a"), &c, || Span::ALWAYS);
        }
    }
    let batch = gatherer.take(Time(99)).unwrap();
    let [edge] = &batch.edges[..] else { panic!("{} edges", batch.edges.len()) };
    assert_eq!((edge.connections, edge.midway, edge.guessed, edge.unanswered), (seen, 16, 16, 16));
    let openings = [10, 11, 25].map(|began| Opening {
        began: Time(began),
        from: ([10, 0, 0, 1], 39_990 + began as u16).into(),
    });
    assert_eq!(edge.openings, openings, "the two first and the last");
    assert_eq!(batch.counters[counter::GUESSED], 16);
}

/// Whoever has the address may have changed: connections before and after are not one edge.
#[test]
fn calls_before_and_after_an_address_changed_hands_are_two_edges() {
    let mut gatherer = Gatherer::new("n1", "boot");
    for first in [5, 30, 10, 40] {
        let turn = Time(20);
        let steady = if Time(first) < turn {
            Span { from: Time::MIN, to: Time(19) }
        } else {
            Span { from: turn, to: Time::MAX }
        };
        gatherer.connection(&pod("a"), &connection(40_000, 80, first), || steady);
    }
    let batch = gatherer.take(Time(99)).unwrap();
    let told: Vec<_> =
        batch.edges.iter().map(|e| (e.connections, e.first().0, e.last_began().0)).collect();
    assert_eq!(told, [(2, 5, 10), (2, 30, 40)]);
}

/// Batches of the first version are read: an edge told each way of connecting apart.
#[test]
fn batches_of_the_first_version_are_read() {
    let edge = |more: &str| {
        format!(
            r#"{{"edge":{{"pod":0,"responder":"10.0.0.2:80","transport":"tcp",
            "orientation":"handshake","fromStart":true,"answered":true,"refused":false,
            "content":"tls","names":{{"sni":"cart","alpn":["h2"],"dns":[{{"question":"cart",
            "canonical":"c","answered":0}}]{more},"initiator":"10.0.0.1:40000","connections":3,
            "first":"1970-01-01T00:00:00.000000005Z","lastBegan":"1970-01-01T00:00:00.000000007Z",
            "last":"1970-01-01T00:00:00.000000009Z","packets":9}}}}"#
        )
        .replace('\n', "")
    };
    let text = with(&edge("}"));
    let batch = Reader::new(&text[..]).next().unwrap().unwrap();
    let read = batch.edges.iter().find(|e| e.call.sni.is_some()).unwrap();
    let call = Call {
        responder: ([10, 0, 0, 2], 80).into(),
        protocol: Protocol::Tcp,
        sni: Some("cart".to_owned()),
        authority: None,
        dns: vec!["cart".to_owned()],
    };
    let from = ([10, 0, 0, 1], 40_000).into();
    let openings = [5, 7].map(|began| Opening { began: Time(began), from });
    assert_eq!((&read.call, &read.openings[..]), (&call, &openings[..]));
    let counts = (read.connections, read.midway, read.guessed, read.unanswered, read.last);
    assert_eq!(counts, (3, 0, 0, 0, Time(9)));
    let text =
        with(&edge(",\"namelessHello\":true}").replace("fromStart\":true", "fromStart\":false"));
    let batch = Reader::new(&text[..]).next().unwrap().unwrap();
    let read = batch.edges.iter().find(|e| e.call.sni.is_some()).unwrap();
    assert_eq!((read.midway, read.call.dns.len()), (3, 0), "the answer was no evidence");
}

/// A batch with one line more, after its pod.
fn with(line: &str) -> Vec<u8> {
    let text = String::from_utf8(written(&two()[..1])).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let end = format!("{{\"end\":{{\"lines\":{}}}}}", lines.len());
    let all = lines[..2].iter().chain([&line]).chain(&lines[2..lines.len() - 1]);
    all.copied().chain([&*end]).map(|l| format!("{l}\n")).collect::<String>().into_bytes()
}

/// An edge, changed.
fn edge_with(change: impl FnOnce(&mut Edge)) -> String {
    let mut edge = two()[0].edges[0].clone();
    change(&mut edge);
    serde_json::json!({"edge": edge}).to_string()
}

#[test]
fn more_than_an_agent_can_have_seen_is_refused_with_the_reason() {
    let dns = |n: usize, question: &str| vec![question.to_owned(); n];
    let long = "x".repeat(1_025);
    let opening = |n: u16| Opening { began: Time(5), from: ([10, 0, 0, 1], n).into() };
    let mut labels = pod("a");
    labels.labels = Arc::new((0..1_025).map(|n| (n.to_string(), String::new())).collect());
    let mut named = pod("a");
    named.workload.name = long.clone();
    for (what, line) in [
        ("openings", edge_with(|e| e.openings = (0..4).map(opening).collect())),
        ("no connection began", edge_with(|e| e.openings.clear())),
        ("DNS answers", edge_with(|e| e.call.dns = dns(17, "a"))),
        ("a name", edge_with(|e| e.call.dns = dns(1, &long))),
        ("a name", edge_with(|e| e.call.sni = Some(long.clone()))),
        ("a name", edge_with(|e| e.call.authority = Some(long.clone()))),
        (
            "a name",
            serde_json::json!({"asked": AskedName { pod: 0, question: long.clone(),
                tally: Tally::new(1, Time(1), Time(1)) }})
            .to_string(),
        ),
        ("labels", serde_json::json!({"pod": labels}).to_string()),
        ("a pod's name", serde_json::json!({"pod": named}).to_string()),
    ] {
        let text = with(&line);
        let read = Reader::new(&text[..]).next().unwrap();
        let why = read.expect_err(what).to_string();
        assert!(why.contains(what) && why.contains("line 3"), "{what}: {why}");
    }
    let most = edge_with(|e| e.call.dns = dns(16, &long[..1_020]));
    assert!(Reader::new(&with(&most)[..]).next().unwrap().is_ok());
}

#[test]
fn memory_is_a_small_multiple_of_the_text_whatever_the_text_is() {
    let honest = |edges: u16| {
        let mut gatherer = Gatherer::new("n1", "boot");
        for port in 0..edges {
            let c = Connection {
                names: ConnectionNames {
                    sni: Some(format!("cart-{port}.shop.svc.cluster.local")),
                    ..ConnectionNames::default()
                },
                ..connection(40_000, port, 5)
            };
            gatherer.connection(&pod(&format!("pod-{}", port % 100)), &c, || Span::ALWAYS);
        }
        gatherer.take(Time(9)).unwrap()
    };
    for edges in [1, 1_000] {
        let batch = honest(edges);
        let text = written(std::slice::from_ref(&batch));
        let memory = allowance(text.len() as u64);
        assert!(batch.footprint() < memory / 2, "{edges}: {} of {memory}", batch.footprint());
        let read = Reader::new(&text[..]).within(memory).next().unwrap().unwrap();
        assert_eq!(read, batch);
        assert!(Reader::new(&text[..]).within(batch.footprint() / 4).next().unwrap().is_err());
    }
    // Pods alone take most.
    let mut gatherer = Gatherer::new("n1", "boot");
    (0..500).for_each(|n| gatherer.watch(&pod(&format!("pod-{n}")), &span()));
    let pods = gatherer.take(Time(9)).unwrap();
    let text = written(std::slice::from_ref(&pods));
    let memory = allowance(text.len() as u64);
    assert!(pods.footprint() < memory * 2 / 3, "{} of {memory}", pods.footprint());
    // An agent's largest batch is within what is read.
    let (one, some) = (honest(1).footprint(), honest(1_001).footprint());
    assert!(one + (some - one) * 100 < MAX_MEMORY, "{some}");
}

#[test]
fn the_text_of_a_compressed_batch_is_bounded() {
    let packed = |n: u64| zstd::encode_all(io::Read::take(io::repeat(b' '), n), 1).unwrap();
    let length = |n: u64| Packed::new(&packed(n)).text_length().unwrap();
    assert_eq!((length(0), length(5)), (0, 5));
    assert_eq!(length(MAX_TEXT + 100), MAX_TEXT + 1);
    assert!(Packed::new(b"nothing of the kind").text_length().is_err());
    // A window that needs a hundred megabytes to unpack a few bytes.
    let mut wide = zstd::Encoder::new(Vec::new(), 1).unwrap();
    wide.window_log(27).unwrap();
    io::Write::write_all(&mut wide, b"x").unwrap();
    assert!(Packed::new(&wide.finish().unwrap()).text_length().is_err());
}

fn named(port: u16, host: &str) -> Connection {
    let names = ConnectionNames { sni: Some(host.to_owned()), ..ConnectionNames::default() };
    Connection { names, ..connection(40_000, port, 5) }
}

#[test]
fn what_a_pod_calls_beyond_its_share_is_folded_and_others_keep_theirs() {
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
    assert_eq!(of("quiet"), taken, "others keep theirs");
    let kept = of("scan");
    assert!(kept > 1_000 && kept * 384 < budget.share, "{kept}");
    let told = batch.watching.iter().find(|w| w.pod == at("scan")).unwrap();
    let folded = &told.folded;
    assert_eq!(kept as u64 + folded.connections(), 200_000, "none is lost from the count");
    assert_eq!(folded.domains["example.com"], folded.connections());
    assert_eq!(batch.counters[counter::FOLDED], folded.connections());
    assert!(told.spans.0.is_empty(), "that it was watched is not said by this");
    assert!(batch.watching.iter().all(|w| w.pod != at("quiet")));
    let mut text = Vec::new();
    write(&batch, &mut text).unwrap();
    let read = Reader::new(&text[..]).next().unwrap().unwrap();
    assert_eq!(read, batch);
}

#[test]
fn each_pod_has_some_room_however_many_take_all_there_is() {
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
    assert!(batches > 1, "they are cut between pods");
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

/// A batch with one edge.
fn one() -> Observed {
    let mut gatherer = Gatherer::new("n1", "boot");
    gatherer.connection(&pod("web"), &connection(40_000, 80, 5), || Span::ALWAYS);
    gatherer.take(Time(9)).unwrap()
}

fn read(batch: &Observed) -> Result<Observed, String> {
    let mut text = Vec::new();
    write(batch, &mut text).unwrap();
    Reader::new(text.as_slice()).next().unwrap().map_err(|e| e.to_string())
}

#[test]
fn a_batch_with_a_name_that_is_none_is_refused_as_a_whole() {
    assert_eq!(read(&one()), Ok(one()));
    let odd = "x\u{2028}kind: ClusterRoleBinding";
    type Spoil = fn(&mut Observed, &str);
    let spoils: [(&str, Spoil); 12] = [
        ("the node", |b, s| b.node = s.to_owned()),
        ("the source", |b, s| b.id.source = s.to_owned()),
        ("the counter", |b, s| {
            b.counters.insert(s.to_owned(), 1);
        }),
        ("the namespace", |b, s| b.pods[0].workload.namespace = s.to_owned()),
        ("the kind", |b, s| b.pods[0].workload.kind = s.to_owned()),
        ("the name", |b, s| b.pods[0].workload.name = s.to_owned()),
        ("the name", |b, s| b.pods[0].name = s.into()),
        ("the key of a label", |b, s| {
            b.pods[0].labels = std::sync::Arc::new([(s.to_owned(), String::new())].into());
        }),
        ("the value of a label", |b, s| {
            b.pods[0].selector = std::sync::Arc::new([("app".to_owned(), s.to_owned())].into());
        }),
        ("the name on the wire", |b, s| b.edges[0].call.sni = Some(s.to_owned())),
        ("the name on the wire", |b, s| b.edges[0].call.authority = Some(s.to_owned())),
        ("the name on the wire", |b, s| b.edges[0].call.dns = vec![s.to_owned()]),
    ];
    for (what, spoil) in spoils {
        let mut spoilt = one();
        spoil(&mut spoilt, odd);
        let why = read(&spoilt).unwrap_err();
        assert!(why.contains(what) && why.contains("\\u{2028}"), "{what}: {why}");
    }
}

#[test]
fn names_that_captures_show_and_that_are_no_hosts_are_taken() {
    let mut odd = one();
    odd.edges[0].call.authority = Some("_srv._tcp.a.b\\032c:80".to_owned());
    assert_eq!(read(&odd), Ok(odd));
}
