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

#[test]
fn a_workload_has_a_share_over_all_batches_and_every_sum_stays_true() {
    let (_dir, mut store) = store();
    let (mut connections, batches) = (0, 30);
    for n in 0..batches {
        // A crawler: hosts of many domains, of one, addresses, what nothing resolves.
        let hosts = (0..100).flat_map(|i| {
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
        });
        let crawler = hosts.map(|to| dependency("crawler", to, 443));
        // Another workload has a share of its own, and what the mesh bounds is never folded.
        let entry = Destination::External {
            host: Some(format!("e{n}.example.org")),
            address: None,
            namespace: Some("mesh".to_owned()),
            name: Some("entry".to_owned()),
            entry_host: None,
        };
        let b = batch(
            n,
            crawler.chain([dependency("web", entry.clone(), 443)]).chain([
                dependency("crawler", entry, 443),
                dependency("web", host("api.example.org"), 443),
            ]),
        );
        connections += 2 * b.records.len() as u64;
        assert_eq!(store.apply(&b).unwrap(), Applied::New);
    }
    let all = store.dependencies(None).unwrap();
    assert_eq!(sum(&all), connections);
    let of = |name: &str, is_expected: fn(&Destination) -> bool| {
        all.iter()
            .filter(|d| d.key.workload.name == name && is_expected(&d.key.destination))
            .collect::<Vec<_>>()
    };
    assert_eq!(of("crawler", is_unbounded).len(), LISTED);
    assert_eq!(of("crawler", is_domain).len(), DOMAINS);
    let rest = |d: &Destination| matches!(d, Destination::Others { domain: None, .. });
    assert_eq!(of("crawler", rest).len(), 2, "outside, and not resolved");
    let entries = |d: &Destination| matches!(d, Destination::External { namespace: Some(_), .. });
    assert_eq!(of("crawler", entries).len(), batches as usize);
    assert_eq!((of("web", entries).len(), of("web", is_unbounded).len()), (batches as usize, 1));
    let org = all.iter().find(|d| {
        d.key.destination == Destination::Others { domain: Some("example.org".into()), why: None }
    });
    assert!(org.unwrap().tally.connections > 2_000);
    // No key is there twice, and listed destinations are still counted.
    let keys: BTreeSet<&DependencyKey> = all.iter().map(|d| &d.key).collect();
    assert_eq!(keys.len(), all.len());
    let listed = of("crawler", is_unbounded)[0].clone();
    store.apply(&batch(batches, [listed.clone()])).unwrap();
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
