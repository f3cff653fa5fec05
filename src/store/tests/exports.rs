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

/// Everything that a store may contain, in every combination.
#[test]
fn an_export_of_every_state_imports() {
    use crate::model::{Alert, AlertKind, Baseline};
    let dir = tempfile::tempdir().unwrap();
    let id = WorkloadId { namespace: "n".into(), kind: "Deployment".into(), name: "w".into() };
    for state in 0..32 {
        let has = |bit: u32| state & (1 << bit) != 0;
        let (from, to) =
            (dir.path().join(format!("a{state}")), dir.path().join(format!("b{state}")));
        let mut store = Store::open(&from, Access::CreateOrOpen).unwrap();
        if has(0) {
            let records = vec![workload("w", 5), dependency("w", "s", 3)];
            store.apply(&batch("capture:x", records)).unwrap();
        }
        if has(1) {
            // Larger than a line ever was, of what hardly compresses, and no text; and of nothing.
            let mut random = Random(1);
            let length = if state == 2 { 9 << 20 } else { 50_000 };
            let large: Vec<u8> = (0..length).map(|_| random.number() as u8).collect();
            let ids = [0, 1].map(|sequence| BatchId { source: "agent:a:x".into(), sequence });
            store.queue(&[(&ids[0], &large), (&ids[1], b"")]).unwrap();
        }
        if has(2) {
            let baseline = Baseline {
                workload: id.clone(),
                accepted: Time(1),
                by: Some("alice".to_owned()),
                dependencies: BTreeSet::new(),
            };
            store.accept(&[baseline], &[]).unwrap();
        }
        if has(3) {
            let alert = Alert {
                kind: AlertKind::NewDependency,
                workload: id.clone(),
                destination: None,
                port: 80,
                protocol: None,
                first_seen: Time(1),
                last_seen: Time(2),
                connections: 3,
                dependencies: None,
                raised: Time(3),
                ignored: has(0).then(|| "known".to_owned()),
                ignored_by: has(0).then(|| "alice".to_owned()),
                ignored_at: has(0).then_some(Time(4)),
            };
            store
                .raise(&[crate::model::RaisedAlert { alert, deliveries: Default::default() }])
                .unwrap();
        }
        if has(4) {
            store.save_view(&[(b"k".to_vec(), b"v".to_vec())], &[]).unwrap();
        }
        let text = exported(&store);
        let mut other = Store::open(&to, Access::CreateOrOpen).unwrap();
        for _ in 0..2 {
            other.import(text.as_bytes()).unwrap();
            assert_eq!(other.queued().unwrap(), store.queued().unwrap());
            for id in store.queued().unwrap() {
                assert!(other.read_queued(&id).unwrap() == store.read_queued(&id).unwrap());
            }
            assert_eq!(other.workloads(None).unwrap(), store.workloads(None).unwrap());
            assert_eq!(connections(&other), connections(&store));
            assert_eq!(other.baselines(None).unwrap(), store.baselines(None).unwrap());
            assert_eq!(other.alerts(None).unwrap(), store.alerts(None).unwrap());
            check_seal(&other);
        }
        assert_eq!(exported(&Store::read(&to).unwrap()), exported(&other));
    }
}
