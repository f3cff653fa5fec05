use proptest::prelude::*;

use std::fs;
use std::io;

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
        Imported { rows: 2, applied: Applied::New, salvaged: None, twice: 0 }
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
        drop(store);
        let store = Store::read(&path).unwrap();
        assert_eq!(lines(&exported(&store)), expected);
        assert_eq!(store.damage(), None);
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
        counted(&store);
        assert_eq!(Marker::read(&path).unwrap().as_ref(), Some(&store.marker));
    }
    let lasting = store.seal.lasting();
    drop(store);
    let mut store = Store::open(&path, Access::Existing).unwrap();
    assert_eq!(store.seal.lasting(), lasting);
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
    assert_eq!(store.seal.lasting(), lasting + 1);
    counted(&store);

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

/// That the seal, kept up to date with every write, is what all rows amount to.
fn counted(store: &Store) {
    let found = seal::Found::of(&store.rows).unwrap();
    assert_eq!((&found.rows, &found.row), (&store.seal, &Some(store.seal.clone())));
    assert_eq!(store.marker.lasting, Some(store.seal.lasting()));
    assert_eq!(seal::Seal::read(&store.dir).unwrap().as_ref(), Some(&store.seal));
}

fn waiting(store: &mut Store, n: u64) {
    for sequence in 0..n {
        let id = BatchId { source: "agent:a:x".into(), sequence };
        let bytes: Vec<u8> = (0..9000u64).map(|i| ((i * (sequence + 3)) >> 3) as u8).collect();
        store.keep(&[(&id, &bytes)]).unwrap();
    }
}

#[test]
fn acknowledged_batches_that_a_cut_log_lost_are_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let mut store = Store::open(&path, Access::CreateOrOpen).unwrap();
    waiting(&mut store, 60);
    store.close().unwrap();
    let file = path.join("db/db");
    let whole = fs::read(&file).unwrap();
    let mut lost = 0;
    for part in 0..20 {
        let end = whole.len() * part / 20;
        fs::write(&file, &whole[..end]).unwrap();
        let store = match Store::read(&path) {
            Ok(store) => store,
            // Nothing at all can be read.
            Err(e) => {
                assert!(matches!(e, StoreError::Torn { .. }), "{e}");
                continue;
            }
        };
        let kept = store.kept().unwrap().len();
        match store.damage() {
            Some(why) => {
                let said = format!("{} of 60 waiting batches are missing", 60 - kept);
                assert!(why.contains(&said) || kept == 60, "{why}; {kept} are there");
                lost += 1;
            }
            None => assert_eq!(kept, 60),
        }
        assert!(fs::read(&file).unwrap() == whole[..end], "reading changed it");
        let refused = Store::open(&path, Access::Existing);
        assert_eq!(refused.is_err(), store.damage().is_some());
        if refused.is_err() {
            assert!(fs::read(&file).unwrap() == whole[..end], "a refused opening changed it");
        }
    }
    assert!(lost > 10, "{lost} cuts were noticed");
    fs::write(&file, &whole).unwrap();
    assert_eq!(Store::open(&path, Access::Existing).unwrap().kept().unwrap().len(), 60);
}

#[test]
fn what_an_interrupted_opening_left_is_put_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let mut store = Store::open(&path, Access::CreateOrOpen).unwrap();
    store.apply(&batch("a", (0..200).map(|i| workload(&format!("w{i}"), i)).collect())).unwrap();
    store.close().unwrap();
    // Killed after sled has overwritten the database; also before the first of two renames.
    for gone in [false, true] {
        fs::rename(path.join("db"), path.join("db.before")).unwrap();
        if !gone {
            fs::create_dir(path.join("db")).unwrap();
            fs::write(path.join("db/db"), "torn").unwrap();
        }
        fs::create_dir(path.join("db.copying")).unwrap();
        assert_eq!(Store::read(&path).unwrap().workloads(None).unwrap().len(), 200);
        assert!(path.join("db.before").exists(), "reading changed it");
        let store = Store::open(&path, Access::Existing).unwrap();
        assert_eq!(store.workloads(None).unwrap().len(), 200);
        assert!(!path.join("db.before").exists() && !path.join("db.copying").exists());
    }
}

#[test]
fn readers_beside_a_writer_see_whole_writes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let mut store = Store::open(&path, Access::CreateOrOpen).unwrap();
    let ended = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let (mut reads, mut last) = (0, 0);
            while !ended.load(std::sync::atomic::Ordering::Relaxed) || reads == 0 {
                let store = Store::read(&path).unwrap();
                assert_eq!(store.damage(), None);
                let found = store.workloads(None).unwrap().len();
                assert!(found.is_multiple_of(50) && found >= last, "{found} after {last}");
                (reads, last) = (reads + 1, found);
            }
            reads
        });
        for round in 0..40 {
            let names = (0..50).map(|i| workload(&format!("w{round}-{i}"), i));
            store.apply(&batch(&format!("b{round}"), names.collect())).unwrap();
            waiting(&mut store, round);
        }
        ended.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(reader.join().unwrap() > 0);
    });
}

#[test]
fn a_panic_inside_sled_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let mut store = Store::open(&path, Access::CreateOrOpen).unwrap();
    waiting(&mut store, 60);
    store.close().unwrap();
    // sled asserts that no two segments have the same number.
    let file = path.join("db/db");
    let mut bytes = fs::read(&file).unwrap();
    let segment = 512 * 1024;
    bytes.resize(bytes.len().div_ceil(segment) * segment, 0);
    bytes.extend_from_within(..segment);
    fs::write(&file, &bytes).unwrap();
    for entry in fs::read_dir(path.join("db")).unwrap().map(Result::unwrap) {
        if entry.file_name().to_str().unwrap().starts_with("snap.") {
            fs::remove_file(entry.path()).unwrap();
        }
    }
    for error in [Store::open(&path, Access::Existing), Store::read(&path)] {
        let error = error.unwrap_err();
        assert!(matches!(error, StoreError::Panicked { .. }), "{error}");
        assert!(error.to_string().contains("duplicate segment"), "{error}");
    }
    assert!(fs::read(&file).unwrap() == bytes);
}

/// Everything that a store may hold, in every combination.
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
            let mut x = 1u64;
            let length = if state == 2 { 9 << 20 } else { 50_000 };
            let large: Vec<u8> = (0..length)
                .map(|_| {
                    x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    (x >> 56) as u8
                })
                .collect();
            let ids = [0, 1].map(|sequence| BatchId { source: "agent:a:x".into(), sequence });
            store.keep(&[(&ids[0], &large), (&ids[1], b"")]).unwrap();
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
            store.note(&[(b"k".to_vec(), b"v".to_vec())], &[]).unwrap();
        }
        let text = exported(&store);
        let mut other = Store::open(&to, Access::CreateOrOpen).unwrap();
        for _ in 0..2 {
            other.import(text.as_bytes()).unwrap();
            assert_eq!(other.kept().unwrap(), store.kept().unwrap());
            for id in store.kept().unwrap() {
                assert!(other.read_kept(&id).unwrap() == store.read_kept(&id).unwrap());
            }
            assert_eq!(other.workloads(None).unwrap(), store.workloads(None).unwrap());
            assert_eq!(connections(&other), connections(&store));
            assert_eq!(other.baselines(None).unwrap(), store.baselines(None).unwrap());
            assert_eq!(other.alerts(None).unwrap(), store.alerts(None).unwrap());
            counted(&other);
        }
        assert_eq!(exported(&Store::read(&to).unwrap()), exported(&other));
    }
}

#[test]
fn counters_that_are_as_large_as_can_be_stay_so() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(&dir.path().join("s"), Access::CreateOrOpen).unwrap();
    let records = || {
        let Record::Dependency(mut d) = dependency("w", "s", u64::MAX) else { unreachable!() };
        (d.midway, d.guessed, d.unanswered) = (u64::MAX, u64::MAX, u64::MAX);
        let watch = Watch {
            workload: d.key.workload.clone(),
            pod: "p".into(),
            started: None,
            spans: Default::default(),
            packets: u64::MAX,
            ownership: Default::default(),
            folded: Default::default(),
        };
        let source = Source {
            source: "x".into(),
            label: "x".into(),
            spans: Default::default(),
            counters: [("packets".to_owned(), u64::MAX)].into(),
        };
        vec![Record::Dependency(d), Record::Watch(watch), Record::Source(source)]
    };
    store.apply(&batch("a", records())).unwrap();
    store.apply(&batch("b", records())).unwrap();
    let d = &store.dependencies(None).unwrap()[0];
    let watch = &store.watches(None).unwrap()[0];
    let source = &store.sources().unwrap()[0];
    let all = [d.tally.connections, d.midway, d.guessed, d.unanswered, watch.packets];
    assert_eq!(all, [u64::MAX; 5]);
    assert_eq!(source.counters["packets"], u64::MAX);
    let records = crate::records::Records::of(&store, None).unwrap();
    serde_json::to_string(&crate::present::StatusReport::of(records)).unwrap();
}
