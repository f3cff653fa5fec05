//! Exports and imports.

use std::collections::BTreeSet;

use sidecarta_testkit::random::Random;

use super::*;

#[test]
fn a_cut_or_altered_export_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(&dir.path().join("a"), Access::CreateOrOpen).unwrap();
    store.apply(&batch("a", vec![workload("w", 5), workload("x", 6)])).unwrap();
    let text = exported(&store);
    let mut other = Store::open(&dir.path().join("b"), Access::CreateOrOpen).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let without_second = [&lines[..1], &lines[2..]].concat().join("\n");
    for bad in
        [&text[..text.len() - 20], "", "{}", "nonsense", without_second.as_str(), &text.repeat(2)]
    {
        let error = other.import(bad.as_bytes()).unwrap_err();
        assert!(error.to_string().contains("nothing was imported"), "{error}");
    }
    assert_eq!(other.workloads(None).unwrap(), []);
    assert_eq!(
        other.import(text.as_bytes()).unwrap(),
        ImportedExport { rows: 2, applied: Applied::New, salvaged: None, twice: 0 }
    );
    assert_eq!(other.import(text.as_bytes()).unwrap().applied, Applied::AlreadyMerged);
    assert_eq!(other.workloads(None).unwrap(), store.workloads(None).unwrap());
}

/// A batch larger than a line ever was, of what hardly compresses, and no text.
fn large(length: u64) -> Vec<u8> {
    let mut random = Random(1);
    (0..length / 8).flat_map(|_| random.number().to_le_bytes()).collect()
}

fn an_alert(id: &WorkloadId, is_ignored: bool) -> crate::model::RaisedAlert {
    let alert = crate::model::Alert {
        kind: crate::model::AlertKind::NewDependency,
        workload: id.clone(),
        destination: None,
        port: 80,
        protocol: None,
        first_seen: Time(1),
        last_seen: Time(2),
        connections: 3,
        dependencies: None,
        raised: Time(3),
        ignored: is_ignored.then(|| "known".to_owned()),
        ignored_by: is_ignored.then(|| "alice".to_owned()),
        ignored_at: is_ignored.then_some(Time(4)),
    };
    crate::model::RaisedAlert { alert, deliveries: Default::default() }
}

/// Fills a store with what each bit of a number stands for: records, queued batches, a baseline, an
/// alert, a view.
fn fill(store: &mut Store, state: u32) {
    let has = |bit: u32| state & (1 << bit) != 0;
    let id = WorkloadId { namespace: "n".into(), kind: "Deployment".into(), name: "w".into() };
    if has(0) {
        let records = vec![workload("w", 5), dependency("w", "s", 3)];
        store.apply(&batch("capture:x", records)).unwrap();
    }
    if has(1) {
        let large = large(if state == 2 { 9 << 20 } else { 50_000 });
        let ids = [0, 1].map(|sequence| BatchId { source: "agent:a:x".into(), sequence });
        store.queue(&[(&ids[0], &large), (&ids[1], b"")]).unwrap();
    }
    if has(2) {
        let baseline = crate::model::Baseline {
            workload: id.clone(),
            accepted: Time(1),
            by: Some("alice".to_owned()),
            dependencies: BTreeSet::new(),
        };
        store.accept(&[baseline], &[]).unwrap();
    }
    if has(3) {
        store.raise(&[an_alert(&id, has(0))]).unwrap();
    }
    if has(4) {
        store.save_view(&[(b"k".to_vec(), b"v".to_vec())], &[]).unwrap();
    }
}

fn assert_same(store: &Store, other: &Store) {
    assert_eq!(other.queued().unwrap(), store.queued().unwrap());
    for id in store.queued().unwrap() {
        assert!(other.read_queued(&id).unwrap() == store.read_queued(&id).unwrap());
    }
    assert_eq!(other.workloads(None).unwrap(), store.workloads(None).unwrap());
    assert_eq!(connections(other), connections(store));
    assert_eq!(other.baselines(None).unwrap(), store.baselines(None).unwrap());
    assert_eq!(other.alerts(None).unwrap(), store.alerts(None).unwrap());
}

/// Everything that a store may contain, in every combination; imported twice.
#[test]
fn an_export_of_every_state_imports() {
    let dir = tempfile::tempdir().unwrap();
    for state in 0..32 {
        let path = |name: &str| dir.path().join(format!("{name}{state}"));
        let mut store = Store::open(&path("a"), Access::CreateOrOpen).unwrap();
        fill(&mut store, state);
        let text = exported(&store);
        let mut other = Store::open(&path("b"), Access::CreateOrOpen).unwrap();
        for _ in 0..2 {
            other.import(text.as_bytes()).unwrap();
            assert_same(&store, &other);
            check_seal(&other);
        }
        assert_eq!(exported(&Store::read(&path("b")).unwrap()), exported(&other));
    }
}
