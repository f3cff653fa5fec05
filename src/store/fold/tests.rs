use std::net::IpAddr;

use super::*;
use crate::model::{BatchId, Protocol, Tally, Time, Unresolved};
use crate::store::{Access, Applied};

fn workload(name: &str) -> WorkloadId {
    WorkloadId { namespace: "n".into(), kind: "Deployment".into(), name: name.into() }
}

fn dependency(name: &str, destination: Destination, port: u16) -> Dependency {
    let key =
        DependencyKey { workload: workload(name), destination, port, protocol: Protocol::Tcp };
    Dependency::new(key, Tally::new(2, Time(1), Time(5)))
}

fn host(host: &str) -> Destination {
    Destination::External {
        host: Some(host.to_owned()),
        address: None,
        namespace: None,
        name: None,
        entry_host: None,
    }
}

fn batch(sequence: u64, all: impl IntoIterator<Item = Dependency>) -> Batch {
    let mut records: Vec<Record> = all.into_iter().map(Record::Dependency).collect();
    records.sort_by(|a, b| a.key().cmp(&b.key()));
    Batch { id: BatchId { source: "s".into(), sequence }, records }
}

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("s"), Access::CreateOrOpen).unwrap();
    (dir, store)
}

fn sum(all: &[Dependency]) -> u64 {
    all.iter().map(|d| d.tally.connections).sum()
}

/// Batches that are merged into [`crawled`].
const BATCHES: u64 = 30;

/// Hosts of many domains, of one, addresses, and what nothing resolves: 100 of each.
fn crawled_in(n: u64) -> impl Iterator<Item = Destination> {
    (0..100).flat_map(move |i| {
        let one = n * 100 + i;
        [
            host(&format!("h{one}.site{one}.com")),
            host(&format!("h{one}.example.org")),
            Destination::External {
                host: None,
                address: Some(IpAddr::from([9, 9, n as u8, i as u8])),
                namespace: None,
                name: None,
                entry_host: None,
            },
            Destination::Unresolved {
                address: IpAddr::from([10, 9, n as u8, i as u8]),
                host: None,
                why: Unresolved::NoPodThen,
            },
        ]
    })
}

/// What the mesh bounds: a host of a ServiceEntry.
fn entry(n: u64) -> Destination {
    Destination::External {
        host: Some(format!("e{n}.example.org")),
        address: None,
        namespace: Some("mesh".to_owned()),
        name: Some("entry".to_owned()),
        entry_host: None,
    }
}

/// A store with a crawler beside `web`, which calls one host; and how many connections they made.
fn crawled() -> (tempfile::TempDir, Store, u64) {
    let (dir, mut store) = store();
    let mut connections = 0;
    for n in 0..BATCHES {
        let b = batch(
            n,
            crawled_in(n).map(|to| dependency("crawler", to, 443)).chain([
                dependency("web", entry(n), 443),
                dependency("crawler", entry(n), 443),
                dependency("web", host("api.example.org"), 443),
            ]),
        );
        connections += 2 * b.records.len() as u64;
        assert_eq!(store.apply(&b).unwrap(), Applied::New);
    }
    (dir, store, connections)
}

/// The dependencies of a workload on destinations of a kind.
fn of<'a>(
    all: &'a [Dependency],
    name: &str,
    is_expected: fn(&Destination) -> bool,
) -> Vec<&'a Dependency> {
    let all = all.iter();
    all.filter(|d| d.key.workload.name == name && is_expected(&d.key.destination)).collect()
}

#[test]
fn a_workload_has_a_share_over_all_batches_and_every_sum_stays_true() {
    let (_dir, store, connections) = crawled();
    let all = store.dependencies(None).unwrap();
    assert_eq!(sum(&all), connections);
    assert_eq!(of(&all, "crawler", is_unbounded).len(), LISTED);
    assert_eq!(of(&all, "crawler", is_domain).len(), DOMAINS);
    let rest = |d: &Destination| matches!(d, Destination::Others { domain: None, .. });
    assert_eq!(of(&all, "crawler", rest).len(), 2, "outside, and not resolved");
    let org = all.iter().find(|d| {
        d.key.destination == Destination::Others { domain: Some("example.org".into()), why: None }
    });
    assert!(org.unwrap().tally.connections > 2_000);
    let keys: BTreeSet<&DependencyKey> = all.iter().map(|d| &d.key).collect();
    assert_eq!(keys.len(), all.len(), "no key is there twice");
}

#[test]
fn what_the_mesh_bounds_and_what_another_workload_calls_is_not_folded() {
    let (_dir, store, _) = crawled();
    let all = store.dependencies(None).unwrap();
    let entries = |d: &Destination| matches!(d, Destination::External { namespace: Some(_), .. });
    assert_eq!(of(&all, "crawler", entries).len(), BATCHES as usize);
    assert_eq!(of(&all, "web", entries).len(), BATCHES as usize);
    assert_eq!(of(&all, "web", is_unbounded).len(), 1);
}

#[test]
fn listed_destinations_are_still_counted_when_the_share_is_used_up() {
    let (_dir, mut store, _) = crawled();
    let all = store.dependencies(None).unwrap();
    let listed = of(&all, "crawler", is_unbounded)[0].clone();
    store.apply(&batch(BATCHES, [listed.clone()])).unwrap();
    let after = store.dependencies(None).unwrap();
    assert_eq!(after.len(), all.len());
    let counted = after.iter().find(|d| d.key == listed.key).unwrap().tally.connections;
    assert_eq!(counted, 2 * listed.tally.connections);
}

#[test]
fn folding_again_changes_nothing() {
    let (_dir, mut store) = store();
    let many = |n: u64| {
        batch(n, (0..700).map(|i| dependency("c", host(&format!("h{i}.site{n}.com")), 443)))
    };
    store.apply(&many(0)).unwrap();
    let once = store.fold(many(1)).unwrap();
    assert_eq!(once.records.len(), 301);
    assert_eq!(store.fold(once.clone()).unwrap(), once);
    store.apply(&once).unwrap();
    // The same with what was folded already, and with more of it.
    let twice = store.fold(batch(2, [dependency("c", host("new.site1.com"), 443)])).unwrap();
    let Some(Record::Dependency(d)) = twice.records.first() else { panic!() };
    assert_eq!(d.key.destination.to_string(), "(others of site1.com)");
}

#[test]
fn hosts_that_come_again_do_not_use_up_the_share() {
    let (_dir, mut store) = store();
    for n in 0..500 {
        let few = (0..5).map(|i| dependency("w", host(&format!("h{i}.example.com")), 443));
        store.apply(&batch(n, few)).unwrap();
    }
    assert_eq!(store.dependencies(None).unwrap().len(), 5);
}

#[test]
fn a_store_from_before_the_limit_is_folded() {
    let (dir, mut store) = store();
    let old: Vec<Dependency> = (0..3_000u64)
        .map(|i| {
            let mut d = dependency("c", host(&format!("h{i}.site{}.com", i % 700)), 443);
            d.tally.connections = 1 + i % 7;
            d
        })
        .collect();
    // As older programs wrote them.
    let mut changes = RowChanges::default();
    let workload = workload("c");
    let new = BTreeMap::from([(&workload, old.iter().collect::<Vec<_>>())]);
    store.merge_dependencies(&new, &mut changes).unwrap();
    store.commit(changes).unwrap();
    let before = sum(&old);
    store.apply(&batch(0, [dependency("c", host("new.example.com"), 443)])).unwrap();
    let all = store.dependencies(None).unwrap();
    assert_eq!(sum(&all), before + 2);
    assert_eq!(all.len(), LISTED + DOMAINS + 1);
    let listed = all.iter().filter(|d| is_unbounded(&d.key.destination));
    assert!(listed.map(|d| d.tally.connections).min().unwrap() >= 5, "those called most stay");
    // It opens again: no row is missing.
    drop(store);
    let store = Store::open(&dir.path().join("s"), Access::Existing).unwrap();
    assert_eq!(sum(&store.dependencies(None).unwrap()), before + 2);
}
