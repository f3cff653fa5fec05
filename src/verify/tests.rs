mod any_batch;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::json;

use super::line::MAX_COUNT;
use super::time::{KUBERNETES, MAX_SKEW, SECOND};
use super::*;
use crate::cluster::{ClusterBuilder, Pod, objects};
use crate::learn;
use crate::model::{BatchId, DataPlane, Record, Span, Tally, WorkloadId};
use crate::observed::tests::{connection, pod as some_pod};
use crate::observed::{AskedName, Edge, Gatherer, Opening, WatchedInterface};

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
        "spec": {
            "nodeName": node,
            "containers": [{"name": "istio-proxy", "args": ["proxy", "sidecar"]}],
        },
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

const RULES: CheckRules = CheckRules { now: NOW, node: NodeIdentity::Proven };

fn claim<'a>(namespace: &'a str, name: &'a str, uid: &'a str) -> PodClaim<'a> {
    PodClaim { namespace, name, uid, start: hours_ago(2), node: "n1" }
}

/// What a batch of n1 gives that claims this pod.
fn standing_on_n1(claim: PodClaim<'_>) -> String {
    let cluster = cluster();
    match pod_standing(claim, "n1", &cluster, &RULES) {
        PodStanding::Known(pod) => pod.name.to_string(),
        PodStanding::Elsewhere => "elsewhere".to_owned(),
        PodStanding::Unknown => "unknown".to_owned(),
    }
}

#[test]
fn a_pod_is_found_by_its_uid_on_the_node_of_the_batch() {
    assert_eq!(standing_on_n1(claim("shop", "web", "uid-web")), "web");
    assert_eq!(standing_on_n1(claim("bank", "db", "uid-db")), "elsewhere");
    // Another pod of the same name, such as one of a StatefulSet that has moved since.
    assert_eq!(standing_on_n1(claim("bank", "web-0", "uid-of-before")), "unknown");
    assert_eq!(standing_on_n1(claim("shop", "web", "uid-api")), "unknown");
}

#[test]
fn a_pod_that_the_cluster_lacks_or_has_on_no_node_is_unknown() {
    assert_eq!(standing_on_n1(claim("bank", "ghost", "uid-ghost")), "unknown");
    assert_eq!(standing_on_n1(claim("bank", "pending", "uid-pending")), "unknown");
    let elsewhere = PodClaim { node: "n2", ..claim("bank", "ghost", "uid-ghost") };
    assert_eq!(standing_on_n1(elsewhere), "elsewhere", "the batch itself says so");
}

#[test]
fn a_pod_of_an_old_agent_without_a_uid_is_found_by_its_start() {
    assert_eq!(standing_on_n1(claim("shop", "web", "")), "web");
    assert_eq!(standing_on_n1(claim("bank", "db", "")), "elsewhere");
    let long_before = PodClaim { start: hours_ago(5), ..claim("shop", "web", "") };
    assert_eq!(standing_on_n1(long_before), "unknown");
    let without_start = PodClaim { start: Time::MIN, ..claim("shop", "web", "") };
    assert_eq!(standing_on_n1(without_start), "web");
}

#[test]
fn a_node_that_nobody_has_proved_refuses_no_pod() {
    let cluster = cluster();
    let claimed = CheckRules { node: NodeIdentity::Claimed, ..RULES };
    let found = pod_standing(claim("bank", "db", "uid-db"), "n1", &cluster, &claimed);
    assert!(matches!(found, PodStanding::Known(pod) if &*pod.name == "db"));
}

#[test]
fn a_pod_of_a_snapshot_without_uids_and_nodes_is_found_by_its_name() {
    let mut builder = ClusterBuilder::default();
    builder.pod(&object("shop", "web", "", "", "10.0.0.1"));
    let cluster = builder.build().0;
    let found = pod_standing(claim("shop", "web", "uid-web"), "n1", &cluster, &RULES);
    assert!(matches!(found, PodStanding::Known(_)));
}

fn opening(began: Time) -> Opening {
    Opening { began, from: SocketAddr::from(([10, 0, 0, 1], 40_000)) }
}

/// A batch of n1 about this pod: a connection, a name asked for, a watch.
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
        answered: true,
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
fn the_identity_of_a_known_pod_comes_from_the_cluster() {
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
    let sent = batch(&lie, [hours_ago(1); 3], HONEST);
    let CheckedBatch { batch: checked, unverified } = check(sent, &cluster, &RULES);
    assert_eq!((checked.pods, unverified.is_none()), (vec![web()], true));
    assert_eq!((checked.edges.len(), checked.asked.len(), checked.watching.len()), (1, 1, 1));
    assert_eq!(checked.counters, BTreeMap::new());
}

#[test]
fn each_line_counts_or_not_by_its_own_pod() {
    let cluster = cluster();
    let (db, ghost) = (cluster.pods_named("bank", "db")[0].clone(), some_pod("ghost"));
    let mut sent = batch(&web(), [hours_ago(1); 3], HONEST);
    sent.pods.extend([Pod { node: "n1".into(), ..db }, ghost]);
    for pod in [1, 2, 2] {
        sent.edges.push(Edge { pod, ..sent.edges[0].clone() });
    }
    sent.watching.push(WatchedInterface { pod: 1, ..sent.watching[0].clone() });
    let CheckedBatch { batch, unverified } = check(sent.clone(), &cluster, &RULES);
    assert_eq!((batch.edges.len(), batch.asked.len(), batch.watching.len()), (1, 1, 1));
    let want = [(counter::LINES_ELSEWHERE, 2), (counter::UNVERIFIED, 2)];
    assert_eq!(batch.counters, want.map(|(n, of)| (n.to_owned(), of)).into());
    let unverified = unverified.unwrap();
    assert_eq!((unverified.pods.len(), &*unverified.pods[0].name), (1, "ghost"));
    assert_eq!(unverified.edges.iter().map(|e| e.pod).collect::<Vec<_>>(), [0, 0]);
    assert_eq!(unverified.id, sent.id);
    assert_eq!((unverified.counters.len(), unverified.spans.0.len()), (0, 0));
}

#[test]
fn times_are_checked_against_the_clock_and_the_start_of_the_pod() {
    let cluster = cluster();
    let far = Time(NOW.0 + 24 * HOUR);
    let past = Time(-HOUR);
    let skewed = Time(NOW.0 + MAX_SKEW);
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
        let sent = batch(&web(), times, span);
        let CheckedBatch { batch, .. } = check(sent, &cluster, &RULES);
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
fn a_line_that_contradicts_itself_is_refused() {
    let mut sent = batch(&web(), [NOW, hours_ago(1), NOW], Span { from: NOW, to: hours_ago(1) });
    sent.asked[0].tally = Tally::new(1, NOW, hours_ago(1));
    let CheckedBatch { batch, .. } = check(sent, &cluster(), &RULES);
    assert_eq!((batch.edges.len(), batch.asked.len(), batch.watching.len()), (0, 0, 0));
    assert_eq!(batch.counters[counter::IMPOSSIBLE], 3);
}

#[test]
fn the_counts_of_a_line_are_limited() {
    let mut sent = batch(&web(), [NOW; 3], HONEST);
    (sent.edges[0].connections, sent.edges[0].midway) = (u64::MAX, u64::MAX);
    let CheckedBatch { batch, .. } = check(sent, &cluster(), &RULES);
    let edge = &batch.edges[0];
    assert_eq!((edge.connections, edge.midway), (MAX_COUNT, MAX_COUNT));
}

#[test]
fn a_file_is_checked_against_the_time_when_it_was_made() {
    let mut sent = batch(&web(), [hours_ago(1); 3], HONEST);
    let later = Time(NOW.0 + 1_000 * HOUR);
    assert_eq!(CheckRules::of_file(&sent, later).now, NOW);
    sent.made = Time::MAX;
    assert_eq!(CheckRules::of_file(&sent, later).now, later);
    sent.made = Time(0);
    assert_eq!(CheckRules::of_file(&sent, later).now, later);
}
