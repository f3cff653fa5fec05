use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::cluster::{ClusterBuilder, objects};
use crate::learn;
use crate::model::{BatchId, DataPlane, Record, WorkloadId};
use crate::observed::Gatherer;
use crate::observed::Opening;
use crate::observed::tests::{connection, pod as told_pod};

/// 2026-11-25T10:00:00Z.
const NOW: Time = Time(1_795_600_800 * SECOND);
const HOUR: i64 = 3_600 * SECOND;

fn hours_ago(hours: i64) -> Time {
    Time(NOW.0 - hours * HOUR)
}

fn object(namespace: &str, name: &str, uid: &str, node: &str, address: &str) -> objects::PodObject {
    let start = hours_ago(2);
    serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": namespace, "uid": uid, "labels": {"app": name}},
        "spec": {"nodeName": node, "containers": [{"name": "istio-proxy", "args": ["proxy", "sidecar"]}]},
        "status": {"phase": "Running", "podIP": address, "startTime": start},
    }))
    .unwrap()
}

/// `web` and `api` run on n1, `db` and `web-0` on n2; `pending` is on no node yet.
fn cluster() -> Cluster {
    let mut builder = ClusterBuilder::default();
    builder.pod(&object("shop", "web", "uid-web", "n1", "10.0.0.1"));
    builder.pod(&object("shop", "api", "uid-api", "n1", "10.0.0.2"));
    builder.pod(&object("bank", "db", "uid-db", "n2", "10.0.0.3"));
    builder.pod(&object("bank", "web-0", "uid-web-0", "n2", "10.0.0.4"));
    builder.pod(&object("bank", "pending", "uid-pending", "", ""));
    builder.build().0
}

const RULES: Rules = Rules { now: NOW, nodes: true };

fn claim<'a>(namespace: &'a str, name: &'a str, uid: &'a str) -> Claim<'a> {
    Claim { namespace, name, uid, start: hours_ago(2), node: "n1" }
}

#[test]
fn a_pod_is_known_by_its_uid_and_speaks_through_the_agent_of_its_node() {
    let cluster = cluster();
    let of = |claim: Claim<'_>| match standing(claim, "n1", &cluster, &RULES) {
        Standing::Known(pod) => pod.name.to_string(),
        Standing::Elsewhere => "elsewhere".to_owned(),
        Standing::Unknown => "unknown".to_owned(),
    };
    assert_eq!(of(claim("shop", "web", "uid-web")), "web");
    assert_eq!(of(claim("bank", "db", "uid-db")), "elsewhere");
    // Another pod of the same name, such as one of a StatefulSet that has moved since.
    assert_eq!(of(claim("bank", "web-0", "uid-of-before")), "unknown");
    assert_eq!(of(claim("shop", "web", "uid-api")), "unknown");
    assert_eq!(of(claim("bank", "ghost", "uid-ghost")), "unknown");
    assert_eq!(of(claim("bank", "pending", "uid-pending")), "unknown");
    let elsewhere = Claim { node: "n2", ..claim("bank", "ghost", "uid-ghost") };
    assert_eq!(of(elsewhere), "elsewhere", "it says so itself");
    // Old agents tell no UID: the start decides.
    assert_eq!(of(claim("shop", "web", "")), "web");
    assert_eq!(of(claim("bank", "db", "")), "elsewhere");
    assert_eq!(of(Claim { start: hours_ago(5), ..claim("shop", "web", "") }), "unknown");
    assert_eq!(of(Claim { start: Time::MIN, ..claim("shop", "web", "") }), "web");
    // Where nobody proves which node is theirs, the node says nothing.
    let open = Rules { nodes: false, ..RULES };
    let found = standing(claim("bank", "db", "uid-db"), "n1", &cluster, &open);
    assert!(matches!(found, Standing::Known(pod) if &*pod.name == "db"));
}

#[test]
fn a_snapshot_without_uids_and_nodes_is_believed_as_far_as_it_goes() {
    let mut builder = ClusterBuilder::default();
    builder.pod(&object("shop", "web", "", "", "10.0.0.1"));
    let cluster = builder.build().0;
    let found = standing(claim("shop", "web", "uid-web"), "n1", &cluster, &RULES);
    assert!(matches!(found, Standing::Known(_)));
}

fn opening(began: Time) -> Opening {
    Opening { began, from: SocketAddr::from(([10, 0, 0, 1], 40_000)) }
}

/// A batch of n1 that tells of this pod: a connection, a name asked for, a watch.
fn batch(pod: &Pod, times: [Time; 3], span: Span) -> Observed {
    let mut gatherer = Gatherer::new("n1", "boot");
    gatherer.connection(pod, &connection(40_000, 80, 1), || Span::ALWAYS);
    let mut batch = gatherer.take(NOW).unwrap();
    batch.counters.clear();
    let edge = &mut batch.edges[0];
    edge.openings = vec![opening(times[0]), opening(times[1])];
    edge.last = times[2];
    batch.asked = vec![AskedName {
        pod: 0,
        question: "cart.shop".into(),
        tally: Tally::new(1, times[0], times[2]),
    }];
    batch.watching =
        vec![WatchedInterface { spans: span.alone(), packets: 9, ..WatchedInterface::of(0) }];
    batch.spans = span.alone();
    batch
}

fn web() -> Pod {
    let known = cluster();
    known.pods_named("shop", "web")[0].clone()
}

const HONEST: Span = Span { from: Time(NOW.0 - HOUR), to: NOW };

#[test]
fn the_identity_of_a_known_pod_is_never_the_batchs() {
    let cluster = cluster();
    let workload =
        WorkloadId { namespace: "shop".into(), kind: "Deployment".into(), name: "victim".into() };
    let labels = Arc::new(BTreeMap::from([("app".to_owned(), "victim".to_owned())]));
    let lie = Pod {
        workload,
        labels: Arc::clone(&labels),
        selector: labels,
        data_plane: DataPlane::Gateway,
        start: Time::MIN,
        ..web()
    };
    let told = batch(&lie, [hours_ago(1); 3], HONEST);
    let Checked { batch: checked, unknown } = check(told, &cluster, &RULES);
    assert_eq!((checked.pods, unknown.is_none()), (vec![web()], true));
    assert_eq!((checked.edges.len(), checked.asked.len(), checked.watching.len()), (1, 1, 1));
    assert_eq!(checked.counters, BTreeMap::new());
}

#[test]
fn lines_are_refused_or_kept_apart_one_by_one() {
    let cluster = cluster();
    let (db, ghost) = (cluster.pods_named("bank", "db")[0].clone(), told_pod("ghost"));
    let mut told = batch(&web(), [hours_ago(1); 3], HONEST);
    told.pods.extend([Pod { node: "n1".into(), ..db }, ghost]);
    for pod in [1, 2, 2] {
        told.edges.push(Edge { pod, ..told.edges[0].clone() });
    }
    told.watching.push(WatchedInterface { pod: 1, ..told.watching[0].clone() });
    let Checked { batch, unknown } = check(told.clone(), &cluster, &RULES);
    assert_eq!((batch.edges.len(), batch.asked.len(), batch.watching.len()), (1, 1, 1));
    let want = [(counter::LINES_ELSEWHERE, 2), (counter::UNVERIFIED, 2)];
    assert_eq!(batch.counters, want.map(|(n, of)| (n.to_owned(), of)).into());
    let unknown = unknown.unwrap();
    assert_eq!((unknown.pods.len(), &*unknown.pods[0].name), (1, "ghost"));
    assert_eq!(unknown.edges.iter().map(|e| e.pod).collect::<Vec<_>>(), [0, 0]);
    assert_eq!((unknown.id, unknown.counters.len(), unknown.spans.0.len()), (told.id, 0, 0));
}

#[test]
fn times_are_held_against_the_clock_and_the_pods_start() {
    let cluster = cluster();
    let far = Time(NOW.0 + 24 * HOUR);
    let past = Time(-HOUR);
    let skewed = Time(NOW.0 + SKEW);
    for (what, times, span, want, want_span, corrected) in [
        ("honest", [hours_ago(1); 3], HONEST, [hours_ago(1); 3], Some(HONEST), 0),
        (
            "a clock that is a little ahead",
            [skewed; 3],
            Span { to: skewed, ..HONEST },
            [skewed; 3],
            Some(Span { to: skewed, ..HONEST }),
            0,
        ),
        (
            "the future",
            [hours_ago(1), far, Time::MAX],
            Span { from: hours_ago(1), to: Time::MAX },
            [hours_ago(1), NOW, NOW],
            Some(HONEST),
            4,
        ),
        ("nothing but the future", [far; 3], Span { from: far, to: Time::MAX }, [NOW; 3], None, 3),
        (
            "long before the pod",
            [past, past, hours_ago(1)],
            Span { from: Time::MIN, to: NOW },
            [hours_ago(2), hours_ago(2), hours_ago(1)],
            Some(Span { from: hours_ago(2), to: NOW }),
            4,
        ),
    ] {
        let told = batch(&web(), times, span);
        let Checked { batch, .. } = check(told, &cluster, &RULES);
        let edge = &batch.edges[0];
        assert_eq!([edge.first(), edge.last_began(), edge.last], want, "{what}");
        let tally = batch.asked[0].tally;
        assert_eq!([tally.first_seen, tally.last_seen], [want[0], want[2]], "{what}");
        let spans: Vec<Span> = batch.watching.iter().flat_map(|w| w.spans.0.clone()).collect();
        assert_eq!(spans, want_span.into_iter().collect::<Vec<_>>(), "{what}");
        let count = |name: &str| batch.counters.get(name).copied().unwrap_or(0);
        assert_eq!(count(counter::CORRECTED), corrected, "{what}");
        let refused = u64::from(want_span.is_none());
        assert_eq!(count(counter::IMPOSSIBLE), refused, "{what}");
    }
}

#[test]
fn what_contradicts_itself_is_refused_and_counts_stay_small() {
    let cluster = cluster();
    let mut told = batch(&web(), [NOW, hours_ago(1), NOW], Span { from: NOW, to: hours_ago(1) });
    told.asked[0].tally = Tally::new(1, NOW, hours_ago(1));
    told.edges.push(Edge {
        connections: u64::MAX,
        midway: u64::MAX,
        openings: vec![opening(NOW)],
        ..told.edges[0].clone()
    });
    let Checked { batch, .. } = check(told, &cluster, &RULES);
    assert_eq!((batch.edges.len(), batch.asked.len(), batch.watching.len()), (1, 0, 0));
    assert_eq!(batch.counters[counter::IMPOSSIBLE], 3);
    let edge = &batch.edges[0];
    assert_eq!((edge.connections, edge.midway), (MAX_COUNT, MAX_COUNT));
}

#[test]
fn a_file_is_held_against_when_it_was_made() {
    let mut told = batch(&web(), [hours_ago(1); 3], HONEST);
    let later = Time(NOW.0 + 1_000 * HOUR);
    assert_eq!(Rules::of_file(&told, later).now, NOW);
    told.made = Time::MAX;
    assert_eq!(Rules::of_file(&told, later).now, later);
    told.made = Time(0);
    assert_eq!(Rules::of_file(&told, later).now, later);
}

/// A pod as an agent may claim it to be, true or not.
fn any_claim() -> impl Strategy<Value = Pod> {
    let word = |words: &'static [&'static str]| prop::sample::select(words);
    (
        word(&["shop", "bank", "else"]),
        word(&["web", "api", "db", "web-0", "pending", "ghost"]),
        word(&["", "uid-web", "uid-api", "uid-db", "uid-web-0", "uid-pending", "uid-else"]),
        word(&["", "n1", "n2"]),
        word(&["web", "db", "web-0", "victim"]),
        prop_oneof![Just(Time::MIN), Just(hours_ago(2)), Just(hours_ago(90)), Just(Time::MAX)],
    )
        .prop_map(|(namespace, name, uid, node, workload, start)| Pod {
            name: name.into(),
            uid: uid.into(),
            workload: WorkloadId {
                namespace: namespace.into(),
                kind: "Deployment".into(),
                name: workload.into(),
            },
            node: node.into(),
            start,
            ..told_pod(workload)
        })
}

fn any_time() -> impl Strategy<Value = Time> {
    prop_oneof![
        any::<i64>().prop_map(Time),
        (-200_000..200_000i64).prop_map(|s| Time(NOW.0 + s * SECOND)),
    ]
}

proptest! {
    /// Whatever the agent on n1 tells, it says nothing of a pod of another node, nor of a workload
    /// that has no pod on n1, and nothing of a time that cannot be.
    #[test]
    fn no_batch_of_a_node_changes_a_record_of_another_nodes_pod(
        pods in prop::collection::vec(any_claim(), 1..5),
        edges in prop::collection::vec((0..5usize, any::<[bool; 2]>(), any::<u64>(), any_time(), any_time(), any_time()), 0..12),
        watching in prop::collection::vec((0..5usize, prop::collection::vec((any_time(), any_time()), 0..4)), 0..6),
        counters in prop::collection::btree_map("[a-z-]{1,20}", any::<u64>(), 0..5),
        again in any::<bool>(),
    ) {
        let cluster = cluster();
        let at = |n: usize| (n % pods.len()) as u32;
        let one = batch(&web(), [NOW; 3], HONEST).edges[0].clone();
        let told = Observed {
            id: BatchId { source: "agent:n1:boot".into(), sequence: 3 },
            node: "n1".into(),
            made: NOW,
            spans: Spans::default(),
            counters,
            edges: edges.iter().map(|(pod, flags, connections, first, began, last)| Edge {
                pod: at(*pod),
                connections: *connections,
                midway: connections.wrapping_mul(u64::from(flags[0])),
                unanswered: connections.wrapping_mul(2 * u64::from(flags[1])),
                openings: vec![opening(*first), opening(*began)],
                last: *last,
                ..one.clone()
            }).collect(),
            asked: edges.iter().map(|(pod, _, n, first, _, last)| AskedName {
                pod: at(*pod), question: "db.bank.svc.cluster.local".into(), tally: Tally::new(*n, *first, *last),
            }).collect(),
            watching: watching.iter().map(|(pod, spans)| WatchedInterface {
                spans: Spans(spans.iter().map(|(from, to)| Span { from: *from, to: *to }).collect()),
                packets: 1,
                ..WatchedInterface::of(at(*pod))
            }).collect(),
            pods: pods.clone(),
        };
        let lines = (told.edges.len() + told.asked.len() + told.watching.len()) as u64;
        let Checked { batch, unknown } = check(told, &cluster, &RULES);
        let count = |name: &str| batch.counters.get(name).copied().unwrap_or(0);
        let apart = unknown.as_ref().map_or(0, |u| u.edges.len() + u.asked.len() + u.watching.len()) as u64;
        let counted = (batch.edges.len() + batch.asked.len() + batch.watching.len()) as u64;
        // No line goes without being counted.
        prop_assert_eq!(lines, counted + apart + count(counter::LINES_ELSEWHERE) + count(counter::IMPOSSIBLE));
        prop_assert_eq!(apart, count(counter::UNVERIFIED));
        if let (Some(unknown), true) = (unknown, again) {
            // Held against the same cluster it is as unknown as before.
            let Checked { batch, unknown: still } = check(unknown.clone(), &cluster, &RULES);
            prop_assert!(batch.is_empty());
            prop_assert_eq!(still, Some(unknown));
        }
        let own: BTreeMap<&WorkloadId, &Pod> = cluster.pods().iter()
            .filter(|p| &*p.node == "n1").map(|p| (&p.workload, p)).collect();
        let names: BTreeSet<&str> = own.values().map(|p| &*p.name).collect();
        let latest = latest(NOW);
        for record in learn::batch(&cluster, &batch).records {
            match &record {
                Record::Source(s) => prop_assert_eq!(&s.source, "agent:n1:boot"),
                Record::Workload(w) => {
                    let pod = own.get(&w.id);
                    prop_assert!(pod.is_some_and(|p| *p.selector == w.selector && p.data_plane == w.data_plane), "{w:?}");
                    prop_assert!(w.last_seen <= latest);
                }
                Record::Watch(w) => {
                    prop_assert!(own.contains_key(&w.workload) && names.contains(&*w.pod), "{w:?}");
                    prop_assert!(!w.spans.0.is_empty());
                    prop_assert!(w.spans.0.iter().all(|s| hours_ago(2) <= s.from && s.from <= s.to && s.to <= latest), "{w:?}");
                }
                Record::Lookups(l) => {
                    prop_assert!(own.contains_key(&l.workload) && l.tally.last_seen <= latest, "{l:?}");
                }
                Record::Dependency(d) => {
                    prop_assert!(own.contains_key(&d.key.workload), "{d:?}");
                    prop_assert!(KUBERNETES <= d.tally.first_seen && d.tally.first_seen <= d.tally.last_seen && d.tally.last_seen <= latest);
                }
            }
        }
    }
}
