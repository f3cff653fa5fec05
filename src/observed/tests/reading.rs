//! Reading a batch: versions, damage, limits and invalid names.

use std::io;
use std::sync::Arc;

use super::samples::{named, one_edge, pod, span, two_batches, written};
use crate::model::{Protocol, Span, Tally, Time};
use crate::observed::{
    AskedName, BatchReadError, Call, Edge, Gatherer, MAX_MEMORY, MAX_TEXT, Observed, Opening,
    Packed, Reader, allowance, write,
};

#[test]
fn a_file_that_is_cut_anywhere_gives_its_whole_batches_and_one_error() {
    let batches = two_batches();
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
        // The last line is whole without its line feed.
        let want = usize::from(cut + 1 >= first) + usize::from(cut + 1 >= text.len());
        assert_eq!(whole[..], batches[..want], "at {cut}");
        let between = [0, first - 1, first, text.len() - 1, text.len()].contains(&cut);
        assert_eq!(errors.is_empty(), between, "at {cut}: {errors:?}");
        let is_cut = errors
            .iter()
            .all(|e| matches!(e, BatchReadError::Cut { .. } | BatchReadError::Malformed { .. }));
        assert!(is_cut && errors.len() <= 1, "at {cut}: {errors:?}");
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
fn a_missing_line_is_an_error() {
    let text = String::from_utf8(written(&two_batches())).unwrap();
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

/// An edge of the first version has more fields, and times for each kind of connection.
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
    let text = batch_with(&edge("}"));
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
    let text = batch_with(
        &edge(",\"namelessHello\":true}").replace("fromStart\":true", "fromStart\":false"),
    );
    let batch = Reader::new(&text[..]).next().unwrap().unwrap();
    let read = batch.edges.iter().find(|e| e.call.sni.is_some()).unwrap();
    assert_eq!((read.midway, read.call.dns.len()), (3, 0), "the answer was no evidence");
}

/// A batch with an additional line after its pod.
fn batch_with(line: &str) -> Vec<u8> {
    let text = String::from_utf8(written(&two_batches()[..1])).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let end = format!("{{\"end\":{{\"lines\":{}}}}}", lines.len());
    let all = lines[..2].iter().chain([&line]).chain(&lines[2..lines.len() - 1]);
    all.copied().chain([&*end]).map(|l| format!("{l}\n")).collect::<String>().into_bytes()
}

/// The line of an edge that was changed.
fn edge_with(change: impl FnOnce(&mut Edge)) -> String {
    let mut edge = two_batches()[0].edges[0].clone();
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
            serde_json::json!({"asked": AskedName { pod: 0, question: long.clone(), answered: false,
                tally: Tally::new(1, Time(1), Time(1)) }})
            .to_string(),
        ),
        ("labels", serde_json::json!({"pod": labels}).to_string()),
        ("a pod's name", serde_json::json!({"pod": named}).to_string()),
    ] {
        let text = batch_with(&line);
        let read = Reader::new(&text[..]).next().unwrap();
        let why = read.expect_err(what).to_string();
        assert!(why.contains(what) && why.contains("line 3"), "{what}: {why}");
    }
    let most = edge_with(|e| e.call.dns = dns(16, &long[..1_020]));
    assert!(Reader::new(&batch_with(&most)[..]).next().unwrap().is_ok());
}

/// A batch with so many edges of 100 pods.
fn honest(edges: u16) -> Observed {
    let mut gatherer = Gatherer::new("n1", "boot");
    for port in 0..edges {
        let c = named(port, &format!("cart-{port}.shop.svc.cluster.local"));
        gatherer.connection(&pod(&format!("pod-{}", port % 100)), &c, || Span::ALWAYS);
    }
    gatherer.take(Time(9)).unwrap()
}

#[test]
fn memory_is_a_small_multiple_of_the_text() {
    for edges in [1, 1_000] {
        let batch = honest(edges);
        let text = written(std::slice::from_ref(&batch));
        let memory = allowance(text.len() as u64);
        assert!(batch.footprint() < memory / 2, "{edges}: {} of {memory}", batch.footprint());
        let read = Reader::new(&text[..]).within(memory).next().unwrap().unwrap();
        assert_eq!(read, batch);
        assert!(Reader::new(&text[..]).within(batch.footprint() / 4).next().unwrap().is_err());
    }
}

#[test]
fn pods_without_edges_take_most_memory_for_their_text() {
    let mut gatherer = Gatherer::new("n1", "boot");
    (0..500).for_each(|n| gatherer.watch(&pod(&format!("pod-{n}")), &span()));
    let pods = gatherer.take(Time(9)).unwrap();
    let text = written(std::slice::from_ref(&pods));
    let memory = allowance(text.len() as u64);
    assert!(pods.footprint() < memory * 2 / 3, "{} of {memory}", pods.footprint());
}

#[test]
fn the_largest_batch_of_an_agent_may_be_read() {
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

fn read(batch: &Observed) -> Result<Observed, String> {
    let mut text = Vec::new();
    write(batch, &mut text).unwrap();
    Reader::new(text.as_slice()).next().unwrap().map_err(|e| e.to_string())
}

#[test]
fn a_batch_with_an_invalid_name_is_refused_whole() {
    assert_eq!(read(&one_edge()), Ok(one_edge()));
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
        let mut spoilt = one_edge();
        spoil(&mut spoilt, odd);
        let why = read(&spoilt).unwrap_err();
        assert!(why.contains(what) && why.contains("\\u{2028}"), "{what}: {why}");
    }
}

#[test]
fn wire_names_that_are_no_hosts_are_accepted() {
    let mut odd = one_edge();
    odd.edges[0].call.authority = Some("_srv._tcp.a.b\\032c:80".to_owned());
    assert_eq!(read(&odd), Ok(odd));
}
