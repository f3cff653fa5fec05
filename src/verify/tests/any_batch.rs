//! Whatever a batch says, it changes nothing that is not its node's.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use super::*;

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
            ..some_pod(workload)
        })
}

fn any_time() -> impl Strategy<Value = Time> {
    prop_oneof![
        any::<i64>().prop_map(Time),
        (-200_000..200_000i64).prop_map(|s| Time(NOW.0 + s * SECOND)),
    ]
}

/// Pod, whether midway and unanswered, connections; when it began first and last, and was last
/// seen.
type AnyEdge = (usize, [bool; 2], u64, [Time; 3]);
/// Pod, and spans.
type AnyWatch = (usize, Vec<(Time, Time)>);

/// Lines that an agent sends.
#[derive(Debug, Clone)]
struct AnyLines {
    pods: Vec<Pod>,
    edges: Vec<AnyEdge>,
    watching: Vec<AnyWatch>,
    counters: BTreeMap<String, u64>,
}

fn any_lines() -> impl Strategy<Value = AnyLines> {
    let times = || [any_time(), any_time(), any_time()];
    (
        prop::collection::vec(any_claim(), 1..5),
        prop::collection::vec((0..5usize, any::<[bool; 2]>(), any::<u64>(), times()), 0..12),
        prop::collection::vec(
            (0..5usize, prop::collection::vec((any_time(), any_time()), 0..4)),
            0..6,
        ),
        prop::collection::btree_map("[a-z-]{1,20}", any::<u64>(), 0..5),
    )
        .prop_map(|(pods, edges, watching, counters)| AnyLines {
            pods,
            edges,
            watching,
            counters,
        })
}

impl AnyLines {
    /// As a batch of the agent on n1.
    fn batch(self) -> Observed {
        let Self { pods, edges, watching, counters } = self;
        let at = |n: usize| (n % pods.len()) as u32;
        let one = batch(&web(), [NOW; 3], HONEST).edges[0].clone();
        let edge = |(pod, flags, connections, [first, began, last]): &AnyEdge| Edge {
            pod: at(*pod),
            connections: *connections,
            midway: connections.wrapping_mul(u64::from(flags[0])),
            unanswered: connections.wrapping_mul(2 * u64::from(flags[1])),
            openings: vec![opening(*first), opening(*began)],
            last: *last,
            ..one.clone()
        };
        let asked = |(pod, _, n, [first, _, last]): &AnyEdge| AskedName {
            pod: at(*pod),
            question: "db.bank.svc.cluster.local".into(),
            answered: true,
            tally: Tally::new(*n, *first, *last),
        };
        let watched = |(pod, spans): &AnyWatch| WatchedInterface {
            spans: Spans(spans.iter().map(|(from, to)| Span { from: *from, to: *to }).collect()),
            packets: 1,
            ..WatchedInterface::of(at(*pod))
        };
        Observed {
            id: BatchId { source: "agent:n1:boot".into(), sequence: 3 },
            node: "n1".into(),
            made: NOW,
            spans: Spans::default(),
            counters,
            edges: edges.iter().map(edge).collect(),
            asked: edges.iter().map(asked).collect(),
            watching: watching.iter().map(watched).collect(),
            pods: pods.clone(),
        }
    }
}

fn lines_of(batch: &Observed) -> u64 {
    (batch.edges.len() + batch.asked.len() + batch.watching.len()) as u64
}

/// Each line is counted somewhere.
fn each_line_is_counted(lines: u64, checked: &CheckedBatch) -> Result<(), TestCaseError> {
    let count = |name: &str| checked.batch.counters.get(name).copied().unwrap_or(0);
    let left = checked.unverified.as_ref().map_or(0, lines_of);
    let dropped = count(counter::LINES_ELSEWHERE) + count(counter::IMPOSSIBLE);
    prop_assert_eq!(lines, lines_of(&checked.batch) + left + dropped);
    prop_assert_eq!(left, count(counter::UNVERIFIED));
    Ok(())
}

/// The same cluster knows as little of unverified lines as before.
fn unverified_lines_stay_so(unverified: &Observed, cluster: &Cluster) -> Result<(), TestCaseError> {
    let CheckedBatch { batch, unverified: still } = check(unverified.clone(), cluster, &RULES);
    prop_assert!(batch.is_empty());
    prop_assert_eq!(still.as_ref(), Some(unverified));
    Ok(())
}

/// A record is about a pod of n1 as the cluster knows it, and about times that can be true.
fn record_is_of_n1(record: &Record, cluster: &Cluster) -> Result<(), TestCaseError> {
    let own: BTreeMap<&WorkloadId, &Pod> =
        cluster.pods().iter().filter(|p| &*p.node == "n1").map(|p| (&p.workload, p)).collect();
    let latest = latest(NOW);
    match record {
        Record::Source(s) => prop_assert_eq!(&s.source, "agent:n1:boot"),
        Record::Workload(w) => {
            let pod = own.get(&w.id);
            let is_same = |p: &&Pod| *p.selector == w.selector && p.data_plane == w.data_plane;
            prop_assert!(pod.is_some_and(is_same), "{w:?}");
            prop_assert!(w.last_seen <= latest);
        }
        Record::Watch(w) => {
            let is_own = own.values().any(|p| *p.name == *w.pod);
            prop_assert!(own.contains_key(&w.workload) && is_own, "{w:?}");
            prop_assert!(!w.watched().is_empty());
            let is_possible = |s: &Span| hours_ago(2) <= s.from && s.from <= s.to && s.to <= latest;
            prop_assert!(w.watched().0.iter().all(is_possible), "{w:?}");
        }
        Record::Lookups(l) => {
            prop_assert!(own.contains_key(&l.workload), "{l:?}");
            prop_assert!(l.tally.last_seen <= latest, "{l:?}");
        }
        Record::Dependency(d) => {
            prop_assert!(own.contains_key(&d.key.workload), "{d:?}");
            let Tally { first_seen, last_seen, .. } = d.tally;
            prop_assert!(KUBERNETES <= first_seen && first_seen <= last_seen);
            prop_assert!(last_seen <= latest);
        }
    }
    Ok(())
}

proptest! {
    /// Whatever the agent on n1 sends, no record is about a pod of another node, about a workload
    /// without a pod on n1, or about a time that cannot be true.
    #[test]
    fn no_batch_of_a_node_changes_a_record_of_another_nodes_pod(
        lines in any_lines(),
        again in any::<bool>(),
    ) {
        let (cluster, sent) = (cluster(), lines.batch());
        let lines = lines_of(&sent);
        let checked = check(sent, &cluster, &RULES);
        each_line_is_counted(lines, &checked)?;
        if let (Some(unverified), true) = (&checked.unverified, again) {
            unverified_lines_stay_so(unverified, &cluster)?;
        }
        for record in learn::batch(&cluster, &checked.batch).records {
            record_is_of_n1(&record, &cluster)?;
        }
    }
}
