use std::fs::{self, File};
use std::io;
use std::path::Path;

use super::*;
use crate::model::{
    Batch, BatchId, DataPlane, Dependency, Record, Source, Time, Watch, Workload, WorkloadId,
};

mod exports;
mod opening;
mod rows;

fn workload(name: &str, seen: i64) -> Record {
    let id = WorkloadId { namespace: "n".into(), kind: "Deployment".into(), name: name.into() };
    Record::Workload(Workload {
        id,
        selector: Default::default(),
        data_plane: DataPlane::Sidecar,
        last_seen: Time(seen),
    })
}

fn batch(source: &str, records: Vec<Record>) -> Batch {
    Batch { id: BatchId { source: source.into(), sequence: 0 }, records }
}

fn exported(store: &Store) -> String {
    let mut out = Vec::new();
    store.export(&mut out).unwrap();
    String::from_utf8(out).unwrap()
}

fn dependency(workload: &str, to: &str, connections: u64) -> Record {
    use crate::model::{DependencyKey, Destination, Protocol, ServicePort, Tally};
    let workload =
        WorkloadId { namespace: "n".into(), kind: "Deployment".into(), name: workload.into() };
    let host = format!("{to}.n.svc.cluster.local");
    let service = ServicePort { namespace: "n".into(), name: to.into(), host, port: 80 };
    let key = DependencyKey {
        workload,
        destination: Destination::Service(service),
        port: 80,
        protocol: Protocol::Tcp,
    };
    Record::Dependency(Dependency::new(key, Tally::new(connections, Time(1), Time(2))))
}

/// The numbers of connections by workload and Service.
fn connections(store: &Store) -> Vec<(String, u64)> {
    let all = store.dependencies(None).unwrap();
    all.iter()
        .map(|d| (format!("{} {}", d.key.workload, d.key.destination), d.tally.connections))
        .collect()
}

/// Checks that the seal, updated with every write, is the one that all rows give.
fn check_seal(store: &Store) {
    let found = seal::FoundRows::of(&store.rows).unwrap();
    assert_eq!((&found.counted, &found.stored), (&store.seal, &Some(store.seal.clone())));
    assert_eq!(store.marker.lasting, Some(store.seal.lasting()));
    assert_eq!(seal::Seal::read(&store.dir).unwrap().as_ref(), Some(&store.seal));
}

/// Queues batches of one source.
fn queue_batches(store: &mut Store, n: u64) {
    for sequence in 0..n {
        let id = BatchId { source: "agent:a:x".into(), sequence };
        let bytes: Vec<u8> = (0..9000u64).map(|i| ((i * (sequence + 3)) >> 3) as u8).collect();
        store.queue(&[(&id, &bytes)]).unwrap();
    }
}
