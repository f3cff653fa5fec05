use proptest::prelude::*;

use super::*;
use crate::model::{BatchId, DataPlane, Time, WorkloadId};

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
    assert!(matches!(
        Store::open(&dir.path().join("none"), Access::Existing),
        Err(StoreError::Missing(_))
    ));
    assert!(!dir.path().join("none").exists());
    std::fs::write(dir.path().join("file"), "x").unwrap();
    assert!(matches!(Store::open(dir.path(), Access::CreateOrOpen), Err(StoreError::NotAStore(_))));
    assert!(matches!(
        Store::open(&dir.path().join("file"), Access::CreateOrOpen),
        Err(StoreError::Io { .. })
    ));
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
    std::fs::write(
        path.join("sidecarta.json"),
        marker.replace(&format!("\"schema\":{SCHEMA}"), "\"schema\":9"),
    )
    .unwrap();
    assert!(matches!(
        Store::open(&path, Access::Existing),
        Err(StoreError::Newer { found: 9, .. })
    ));
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
    for bad in
        [&text[..text.len() - 20], "", "{}", "nonsense", without_second.as_str(), &text.repeat(2)]
    {
        let error = other.import(bad.as_bytes()).unwrap_err();
        assert!(error.to_string().contains("nothing was imported"), "{error}");
    }
    assert_eq!(other.workloads(None).unwrap(), []);
    assert_eq!(
        other.import(text.as_bytes()).unwrap(),
        Imported { rows: 2, applied: Applied::New, twice: 0 }
    );
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

#[test]
fn dependencies_of_a_workload_share_rows_and_each_stands_on_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(&dir.path().join("s"), Access::CreateOrOpen).unwrap();
    let odd = (0..200).filter(|i| i % 2 == 1);
    let records = |i: u64| {
        [dependency("w", &format!("s{i:03}"), i), dependency("w1", &format!("s{i:03}"), 1)]
    };
    store.apply(&batch("odd", odd.flat_map(records).collect())).unwrap();
    store.apply(&batch("all", (0..200).flat_map(records).collect())).unwrap();
    let found = connections(&store);
    assert_eq!(found.len(), 400);
    for (i, (name, n)) in (0..).zip(&found[..200]) {
        let sightings = if i % 2 == 1 { 2 } else { 1 };
        assert_eq!((name.as_str(), *n), (format!("n/w n/s{i:03}").as_str(), i * sightings));
    }
    // Pages are neither many nor long.
    let pages: Vec<usize> = store
        .rows
        .scan_prefix(keys::prefix(Kind::Page, None))
        .map(|r| r.unwrap().1.len())
        .collect();
    assert!((4..20).contains(&pages.len()) && pages.iter().all(|n| *n <= 6 * 1024), "{pages:?}");
    assert_eq!(store.dependencies(Some("other")).unwrap(), []);
}

/// `tests/store-1` was written by the program when each dependency had a row, with the export that
/// it made.
#[test]
fn a_store_of_schema_1_becomes_one_of_pages_with_all_that_it_held() {
    let old = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/store-1");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    fs::create_dir_all(path.join("db")).unwrap();
    fs::copy(old.join("sidecarta.json"), path.join("sidecarta.json")).unwrap();
    fs::copy(old.join("conf"), path.join("db/conf")).unwrap();
    let mut packed = flate2::read::GzDecoder::new(File::open(old.join("db.gz")).unwrap());
    io::copy(&mut packed, &mut File::create(path.join("db/db")).unwrap()).unwrap();

    let lines = |text: &str| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let expected = lines(&fs::read_to_string(old.join("export.ndjson")).unwrap());
    for _ in 0..2 {
        let store = Store::open(&path, Access::Existing).unwrap();
        assert_eq!(lines(&exported(&store)), expected);
        assert_eq!(store.rows.scan_prefix(keys::prefix(Kind::Dependency, None)).count(), 0);
        assert!(store.marker.schema == SCHEMA && store.marker.rows > 10);
    }
}

#[test]
fn kept_batches_are_settled_once_and_stand_for_those_before_them() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let id = |source: &str, sequence| BatchId { source: source.into(), sequence };
    let mut store = Store::open(&path, Access::CreateOrOpen).unwrap();
    let long = vec![7u8; 50_000];
    let ids = [id("agent:a:x", 0), id("agent:a:x", 1), id("agent:b:x", 4)];
    let rows: Vec<(&BatchId, &[u8])> = ids.iter().map(|i| (i, long.as_slice())).collect();
    assert_eq!(store.keep(&rows).unwrap(), [Applied::New; 3]);
    assert_eq!(store.keep(&rows[..1]).unwrap(), [Applied::AlreadyHeld]);
    assert_eq!(store.kept().unwrap(), ids);
    // The identity of the merged batch is that of an early one.
    let taught = Batch { id: ids[0].clone(), records: vec![workload("w", 5)] };
    assert_eq!(store.settle(&taught, &ids.iter().cloned().collect()).unwrap(), Applied::New);
    drop(store);
    let mut store = Store::open(&path, Access::Existing).unwrap();
    assert!(store.kept().unwrap().is_empty());
    assert_eq!(store.keep(&rows).unwrap(), [Applied::AlreadyHeld; 3]);
    assert!(store.holds(&ids[1]).unwrap() && !store.holds(&id("agent:a:x", 2)).unwrap());
    let next = id("agent:a:x", 2);
    assert_eq!(store.keep(&[(&next, &long)]).unwrap(), [Applied::New]);
    // A backup holds what waits as well.
    let text = zstd::encode_all(&b"lines\n"[..], 1).unwrap();
    let waiting = id("agent:c:x", 0);
    store.keep(&[(&waiting, &text)]).unwrap();
    store.settle(&Batch { id: next.clone(), records: Vec::new() }, &[next].into()).unwrap();
    let mut other = Store::open(&dir.path().join("other"), Access::CreateOrOpen).unwrap();
    other.import(exported(&store).as_bytes()).unwrap();
    assert_eq!(other.kept().unwrap(), std::slice::from_ref(&waiting));
    assert_eq!(
        zstd::decode_all(other.read_kept(&waiting).unwrap().as_slice()).unwrap(),
        b"lines\n"
    );
    assert!(other.holds(&ids[0]).unwrap());
}

#[test]
fn rows_are_counted_as_they_are_written_and_dependencies_are_read_by_workload() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let mut store = Store::open(&path, Access::CreateOrOpen).unwrap();
    let id = BatchId { source: "agent:a:x".into(), sequence: 0 };
    store.keep(&[(&id, b"x")]).unwrap();
    // Nothing lasts yet; that the database was written to is known all the same.
    assert_eq!((store.marker.rows, store.marker.lasting), (1, Some(0)));
    for round in 0..3u64 {
        let mut records: Vec<Record> = vec![workload("w", 5), workload(&format!("w{round}"), 6)];
        for i in 0..100 * (round + 1) {
            records.extend((0..3).map(|w| dependency(&format!("w{w}"), &format!("s{i:03}"), 1)));
        }
        store
            .apply(&Batch { id: BatchId { source: format!("s{round}"), sequence: 0 }, records })
            .unwrap();
        assert_eq!(
            (store.lasting, store.marker.lasting),
            (store.count().unwrap(), Some(store.lasting))
        );
        assert_eq!(Marker::read(&path).unwrap().as_ref(), Some(&store.marker));
    }
    let lasting = store.lasting;
    drop(store);
    let mut store = Store::open(&path, Access::Existing).unwrap();
    assert_eq!(store.lasting, lasting);
    let workload =
        WorkloadId { namespace: "n".into(), kind: "Deployment".into(), name: "w".into() };
    let baseline = crate::model::Baseline {
        workload,
        accepted: Time(1),
        by: None,
        dependencies: BTreeSet::new(),
    };
    store.accept(std::slice::from_ref(&baseline), &[]).unwrap();
    store.accept(std::slice::from_ref(&baseline), &[]).unwrap();
    assert_eq!((store.lasting, store.count().unwrap()), (lasting + 1, lasting + 1));

    let (mut found, mut after, mut parts) = (Vec::new(), None, 0);
    loop {
        let (mut some, last) = store.dependencies_after(after.as_ref(), 301).unwrap();
        found.append(&mut some);
        parts += 1;
        after = last;
        if after.is_none() {
            break;
        }
    }
    found.sort_by(|a, b| a.key.cmp(&b.key));
    assert_eq!(found, store.dependencies(None).unwrap());
    // A workload is read whole: two of 300 each, then the third.
    assert_eq!((found.len(), parts), (900, 2));
}
