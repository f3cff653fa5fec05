//! Addresses that change hands, reported by several agents, late and in any order.

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};
use sidecarta_capture::observation::{
    Connection, ConnectionNames, Content, InterfaceId, Lookup, Observation,
};

use super::*;
use crate::agent::waiting::WaitingObservations;
use crate::cluster::{ClusterBuilder, EndTime, PodBrief, Pool, objects};
use crate::learn;
use crate::model::{Dependency, Destination, Record, Time};
use crate::observed::Gatherer;
use crate::observed::tests::connection;
use crate::store::{Access, Store};

const SECOND: i64 = 1_000_000_000;
/// When the second holders of both addresses began; the first ones were deleted a second before.
const CHANGE_OF_HANDS: i64 = 1_000;

fn parsed<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn pod(name: &str, address: &str, node: &str, start: i64) -> objects::PodObject {
    parsed(json!({
        "metadata": {"name": name, "namespace": "n", "uid": name, "labels": {"app": name}},
        "spec": {"nodeName": node},
        "status": {"phase": "Running", "podIP": address, "startTime": Time(start * SECOND)},
    }))
}

/// A Service of the pods of an application, and its endpoint.
fn service(
    name: &str,
    app: &str,
    address: &str,
) -> (objects::ServiceObject, objects::EndpointSlice) {
    let service = parsed(json!({"metadata": {"name": name, "namespace": "n"},
        "spec": {"selector": {"app": app}, "ports": [{"port": 80, "targetPort": 8080}]}}));
    let slice = parsed(json!({
        "metadata": {
            "name": name, "namespace": "n", "labels": {"kubernetes.io/service-name": name},
        },
        "endpoints": [{"addresses": [address]}], "ports": [{"name": "", "port": 8080}],
    }));
    (service, slice)
}

/// `caller-1` and then `caller-2` have 10.0.1.1 on the node n1, `steady` is on n2. `a` of the
/// Service `a`, then `b` of the Service `b` have 10.0.2.1; `plain`, of no Service, and then `c` of
/// the Service `c` have 10.0.2.2.
fn cluster() -> Cluster {
    let mut builder = ClusterBuilder::default();
    let deleted = EndTime::By(Time((CHANGE_OF_HANDS - 1) * SECOND));
    for (name, address, node) in
        [("caller-1", "10.0.1.1", "n1"), ("a", "10.0.2.1", "n3"), ("plain", "10.0.2.2", "n3")]
    {
        builder.brief(
            Arc::new(PodBrief::new(&pod(name, address, node, 10), &mut Pool::default())),
            Some(deleted),
        );
    }
    for (name, address, node) in
        [("caller-2", "10.0.1.1", "n1"), ("b", "10.0.2.1", "n3"), ("c", "10.0.2.2", "n3")]
    {
        builder.pod(&pod(name, address, node, CHANGE_OF_HANDS));
    }
    builder.pod(&pod("steady", "10.0.1.2", "n2", 10));
    for (name, address) in [("a", "10.0.2.1"), ("b", "10.0.2.1"), ("c", "10.0.2.2")] {
        let (service, slice) = service(name, name, address);
        builder.service(service);
        if name == "a" {
            builder.shared_slice(Arc::new(slice), Some(deleted))
        } else {
            builder.slice(slice)
        }
    }
    let (cluster, problems) = builder.build();
    assert_eq!(problems, [""; 0]);
    cluster
}

/// A connection at so many milliseconds after the address changed hands.
fn call(from: &str, to: &str, millis: i64) -> Observation {
    let first = CHANGE_OF_HANDS * SECOND + millis * 1_000_000;
    Observation::Connection(Connection {
        initiator: SocketAddr::new(from.parse().unwrap(), 40_000),
        responder: SocketAddr::new(to.parse().unwrap(), 8080),
        content: Content::Unknown,
        names: ConnectionNames::default(),
        ..connection(40_000, 8080, first)
    })
}

/// Calls at these times, and who called whom in truth.
fn truth() -> Vec<(usize, Observation, &'static str)> {
    let mut all = Vec::new();
    for (millis, second) in
        [(-900_000, false), (-1_001, false), (1, true), (400, true), (60_000, true)]
    {
        for (to, names) in [("10.0.2.1", ["a", "b"]), ("10.0.2.2", ["pod plain", "c"])] {
            let to_name = names[usize::from(second)];
            let callers = [
                (0, "10.0.1.1", ["caller-1", "caller-2"][usize::from(second)]),
                (1, "10.0.1.2", "steady"),
            ];
            for (agent, from, caller) in callers {
                let truth = match (caller, to_name) {
                    ("caller-1", "a") => "caller-1 a",
                    ("caller-1", _) => "caller-1 pod plain",
                    ("caller-2", "b") => "caller-2 b",
                    ("caller-2", _) => "caller-2 c",
                    (_, "a") => "steady a",
                    (_, "b") => "steady b",
                    (_, "c") => "steady c",
                    _ => "steady pod plain",
                };
                all.push((agent, call(from, to, millis), truth));
            }
        }
    }
    all
}

/// The dependencies of a store, written as in the truth, and the number of connections.
fn stored(store: &Store) -> (BTreeSet<String>, u64) {
    let all = store.dependencies(None).unwrap();
    let name = |d: &Dependency| match &d.key.destination {
        Destination::Service(s) => s.name.clone(),
        Destination::Pod { name, .. } => format!("pod {name}"),
        other => format!("{other:?}"),
    };
    (
        all.iter().map(|d| format!("{} {}", d.key.workload.name, name(d))).collect(),
        all.iter().map(|d| d.tally.connections).sum(),
    )
}

/// One connection to an endpoint of two Services is reported once for each host that it asked for.
#[test]
fn each_host_of_a_connection_is_a_call_of_its_own() {
    let mut builder = ClusterBuilder::default();
    for (name, address) in [("caller", "10.0.1.1"), ("a", "10.0.2.1")] {
        builder.pod(&pod(name, address, "n1", 10));
    }
    for name in ["a", "b"] {
        let (service, slice) = service(name, "a", "10.0.2.1");
        builder.service(service);
        builder.slice(slice);
    }
    let (cluster, problems) = builder.build();
    assert_eq!(problems, [""; 0]);
    let connection_for = |authority: &str, packets| {
        let Observation::Connection(c) = call("10.0.1.1", "10.0.2.1", 0) else {
            unreachable!("it is one")
        };
        let names =
            ConnectionNames { authority: Some(authority.to_owned()), ..ConnectionNames::default() };
        Observation::Connection(Connection { names, packets, content: Content::Http1, ..c })
    };
    let mut out = Gatherer::new("n1", "boot");
    let mut waiting = WaitingObservations::new(std::time::Duration::ZERO, Some("n1".to_owned()));
    waiting.take(
        0,
        vec![connection_for("a", 9), connection_for("b", 0)],
        &cluster,
        true,
        false,
        &mut out,
    );
    let batch = out.take(Time(2 * CHANGE_OF_HANDS * SECOND)).unwrap();
    assert_eq!(
        batch.edges.iter().map(|e| e.call.authority.as_deref()).collect::<Vec<_>>(),
        [Some("a"), Some("b")]
    );
    let records = learn::batch(&cluster, &batch).records;
    let called = records.iter().filter_map(|r| match r {
        Record::Dependency(d) => Some((&d.key.destination, d.tally.connections)),
        _ => None,
    });
    let called: Vec<_> = called
        .map(|(to, n)| if let Destination::Service(s) = to { (&*s.name, n) } else { ("?", n) })
        .collect();
    assert_eq!(called, [("a", 1), ("b", 1)]);
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 48, failure_persistence: None, ..ProptestConfig::default()
    })]

    #[test]
    fn who_called_whom_is_the_same_in_every_order_of_arrival(
        order in Just((0..truth().len()).collect::<Vec<_>>()).prop_shuffle(),
        cuts in prop::collection::vec(any::<[bool; 2]>(), truth().len()),
        rounds in prop::collection::vec(any::<bool>(), 64),
        together in 1..4usize,
        again in any::<bool>(),
    ) {
        let (cluster, truth) = (cluster(), truth());
        // Two agents attribute what they see, in this order, and make batches of it; some are never
        // seen (their numbers are left out).
        let mut batches: [VecDeque<Observed>; 2] = Default::default();
        for agent in 0..2 {
            let node = format!("n{}", agent + 1);
            let mut out = Gatherer::new(&node, "boot");
            let mut waiting = WaitingObservations::new(std::time::Duration::ZERO, Some(node));
            for (i, cut) in order.iter().zip(&cuts) {
                let (of, observation, _) = &truth[*i];
                if *of == agent {
                    waiting.take(0, vec![observation.clone()], &cluster, true, false, &mut out);
                }
                if cut[agent] {
                    batches[agent].extend(out.take(Time(2 * CHANGE_OF_HANDS * SECOND)));
                }
            }
            batches[agent].extend(out.take(Time(2 * CHANGE_OF_HANDS * SECOND)));
            for (i, batch) in batches[agent].iter_mut().enumerate() {
                batch.id.sequence = i as u64 * 3;
            }
            prop_assert!(waiting.is_empty());
        }
        // They arrive interleaved, those of each agent in their order, and are merged some at a
        // time.
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(&dir.path().join("s"), Access::CreateOrOpen).unwrap();
        let mut rounds = rounds.into_iter().cycle();
        let mut arrived = Vec::new();
        while let Some(next) = {
            let first = usize::from(rounds.next().unwrap());
            batches[first].pop_front().or_else(|| batches[1 - first].pop_front())
        } {
            arrived.push(next);
        }
        for some in arrived.chunks(together) {
            let mut learned = Union::default();
            some.iter().for_each(|b| learned.add(learn::batch(&cluster, b)));
            let queued: BTreeSet<BatchId> = some.iter().map(|b| b.id.clone()).collect();
            let rows: Vec<(&BatchId, &[u8])> = queued.iter().map(|id| (id, &b"x"[..])).collect();
            store.queue(&rows).unwrap();
            if again {
                store.queue(&rows).unwrap();
            }
            store.merge_queued(&learned.batch().unwrap(), &queued).unwrap();
        }
        let (found, connections) = stored(&store);
        prop_assert_eq!(found, truth.iter().map(|(.., t)| (*t).to_owned()).collect());
        prop_assert_eq!(connections, truth.len() as u64);
    }
}

#[test]
fn a_lookup_of_a_service_that_the_cluster_lacks_is_learned_where_the_dns_answered() {
    let cluster = cluster();
    let caller = cluster.pods_named("n", "caller-1")[0].clone();
    let learned = |question: &str, answered: bool| {
        let mut gatherer = Gatherer::new("n1", "boot");
        let addresses = if answered { vec![[10, 96, 0, 9].into()] } else { Vec::new() };
        gatherer.lookup(
            &caller,
            &Lookup {
                interface: InterfaceId { source: 0, index: 2 },
                client: [10, 0, 1, 1].into(),
                server: ([10, 96, 0, 10], 53).into(),
                time: SECOND,
                question: question.to_owned(),
                canonical: None,
                addresses,
                rcode: answered.then_some(0),
            },
        );
        let records = learn::batch(&cluster, &gatherer.take(Time(2 * SECOND)).unwrap()).records;
        records.into_iter().find_map(|r| match r {
            Record::Lookups(l) => Some(l.host),
            _ => None,
        })
    };
    let gone = "gone.n.svc.cluster.local";
    assert_eq!(learned(gone, true).as_deref(), Some(gone));
    assert_eq!(learned("db-0.gone.n.svc.cluster.local", true).as_deref(), Some(gone));
    // A step of the search path whose answer was not seen.
    assert_eq!(learned("example.org.n.svc.cluster.local", false), None);
    assert_eq!(learned("example.org", true), None);
}
