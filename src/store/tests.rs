use proptest::prelude::*;

use super::*;
use crate::model::{BatchId, DataPlane, Time, WorkloadId};

fn workload(name: &str, seen: i64) -> Record {
    let id = WorkloadId { namespace: "n".into(), kind: "Deployment".into(), name: name.into() };
    Record::Workload(Workload { id, selector: Default::default(), data_plane: DataPlane::Sidecar, last_seen: Time(seen) })
}

fn batch(source: &str, records: Vec<Record>) -> Batch {
    Batch { id: BatchId { source: source.into(), sequence: 0 }, records }
}

fn exported(store: &Store) -> String {
    let mut out = Vec::new();
    store.export(&mut out).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn a_batch_counts_once_and_survives_closing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let b = batch("a", vec![workload("w", 5)]);
    let mut store = Store::open(&path, Access::CreateOrOpen).unwrap();
    assert_eq!(store.apply(&b).unwrap(), Applied::New);
    assert_eq!(store.apply(&b).unwrap(), Applied::AlreadyHeld);
    store.close().unwrap();
    let store = Store::open(&path, Access::Existing).unwrap();
    assert_eq!(store.workloads(None).unwrap().len(), 1);
    assert_eq!(store.workloads(Some("n")).unwrap().len(), 1);
    assert_eq!(store.workloads(Some("other")).unwrap().len(), 0);
    assert!(store.holds(&b.id).unwrap());
}

#[test]
fn what_is_no_store_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(Store::open(&dir.path().join("none"), Access::Existing), Err(StoreError::Missing(_))));
    assert!(!dir.path().join("none").exists());
    std::fs::write(dir.path().join("file"), "x").unwrap();
    assert!(matches!(Store::open(dir.path(), Access::CreateOrOpen), Err(StoreError::NotAStore(_))));
    assert!(matches!(Store::open(&dir.path().join("file"), Access::CreateOrOpen), Err(StoreError::Io { .. })));
}

#[test]
fn a_second_opener_a_newer_store_and_a_torn_one_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let mut store = Store::open(&path, Access::CreateOrOpen).unwrap();
    store.apply(&batch("a", (0..200).map(|i| workload(&format!("w{i}"), i)).collect())).unwrap();
    assert!(matches!(Store::open(&path, Access::Existing), Err(StoreError::Locked(_))));
    store.close().unwrap();
    let marker = std::fs::read_to_string(path.join("sidecarta.json")).unwrap();
    std::fs::write(path.join("sidecarta.json"), marker.replace("\"schema\":1", "\"schema\":9")).unwrap();
    assert!(matches!(Store::open(&path, Access::Existing), Err(StoreError::Newer { found: 9, .. })));
    std::fs::write(path.join("sidecarta.json"), &marker).unwrap();
    // Cut the database anywhere: never an empty store without a word.
    let file = path.join("db").join("db");
    let whole = std::fs::read(&file).unwrap();
    for keep in [0, 100, whole.len() / 4, whole.len() / 2] {
        std::fs::write(&file, &whole[..keep]).unwrap();
        for entry in std::fs::read_dir(path.join("db")).unwrap() {
            let entry = entry.unwrap().path();
            if entry.file_name().unwrap().to_string_lossy().starts_with("snap") {
                std::fs::remove_file(entry).unwrap();
            }
        }
        match Store::open(&path, Access::Existing) {
            Ok(store) => assert_eq!(store.workloads(None).unwrap().len(), 200, "cut at {keep}"),
            Err(e) => assert!(e.to_string().contains("store"), "{e}"),
        }
    }
    std::fs::remove_dir_all(path.join("db")).unwrap();
    assert!(matches!(Store::open(&path, Access::Existing), Err(StoreError::Torn { .. })));
}

#[test]
fn a_cut_or_altered_export_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(&dir.path().join("a"), Access::CreateOrOpen).unwrap();
    store.apply(&batch("a", vec![workload("w", 5), workload("x", 6)])).unwrap();
    let text = exported(&store);
    let mut other = Store::open(&dir.path().join("b"), Access::CreateOrOpen).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let without_second = [&lines[..1], &lines[2..]].concat().join("\n");
    for bad in [&text[..text.len() - 20], "", "{}", "nonsense", without_second.as_str(), &text.repeat(2)] {
        let error = other.import(bad.as_bytes()).unwrap_err();
        assert!(error.to_string().contains("nothing was imported"), "{error}");
    }
    assert_eq!(other.workloads(None).unwrap(), []);
    assert_eq!(other.import(text.as_bytes()).unwrap(), Imported { rows: 2, applied: Applied::New });
    assert_eq!(other.import(text.as_bytes()).unwrap().applied, Applied::AlreadyHeld);
    assert_eq!(other.workloads(None).unwrap(), store.workloads(None).unwrap());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_order_and_repetition_of_batches_do_not_show(order in Just((0..6usize).collect::<Vec<_>>()).prop_shuffle(), again in 0..6usize) {
        let batches: Vec<Batch> = (0..6i64)
            .map(|i| batch(&format!("s{i}"), vec![workload("w", i * 7 % 5), workload(&format!("w{}", i % 2), i)]))
            .collect();
        let dir = tempfile::tempdir().unwrap();
        let mut straight = Store::open(&dir.path().join("a"), Access::CreateOrOpen).unwrap();
        let mut shuffled = Store::open(&dir.path().join("b"), Access::CreateOrOpen).unwrap();
        for b in &batches {
            straight.apply(b).unwrap();
        }
        for i in order.into_iter().chain([again]) {
            shuffled.apply(&batches[i]).unwrap();
        }
        prop_assert_eq!(exported(&straight), exported(&shuffled));
    }

    #[test]
    fn keys_of_batches_read_back(source in "\\PC{0,12}|[\\x00-\\x03]{0,6}", sequence in any::<u64>()) {
        let id = BatchId { source, sequence };
        prop_assert_eq!(keys::parse_batch(&keys::batch(&id)), Some(id));
    }
}
