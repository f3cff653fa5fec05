//! Opening: what is refused, what is damaged, and who else has the store open.

use super::*;
use crate::store::keys::RowKind;

#[test]
fn a_directory_that_is_no_store_is_refused_and_not_changed() {
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

/// A store of 200 workloads, which nobody has open.
fn closed_store(path: &Path) {
    let mut store = Store::open(path, Access::CreateOrOpen).unwrap();
    store.apply(&batch("a", (0..200).map(|i| workload(&format!("w{i}"), i)).collect())).unwrap();
    store.close().unwrap();
}

/// Makes a store with 60 waiting batches.
fn closed_queue(path: &Path) {
    let mut store = Store::open(path, Access::CreateOrOpen).unwrap();
    queue_batches(&mut store, 60);
    store.close().unwrap();
}

#[test]
fn a_second_opener_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let _store = Store::open(&path, Access::CreateOrOpen).unwrap();
    assert!(matches!(Store::open(&path, Access::Existing), Err(StoreError::Locked(_))));
}

#[test]
fn a_store_of_a_newer_schema_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    closed_store(&path);
    let marker = fs::read_to_string(path.join("sidecarta.json")).unwrap();
    let newer = marker.replace(&format!("\"schema\":{SCHEMA}"), "\"schema\":9");
    fs::write(path.join("sidecarta.json"), newer).unwrap();
    let refused = Store::open(&path, Access::Existing);
    assert!(matches!(refused, Err(StoreError::Newer { found: 9, .. })));
}

#[test]
fn a_cut_database_never_opens_with_fewer_rows() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    closed_store(&path);
    let file = path.join("db/db");
    let whole = fs::read(&file).unwrap();
    for length in [0, 100, whole.len() / 4, whole.len() / 2] {
        fs::write(&file, &whole[..length]).unwrap();
        remove_snapshots(&path);
        match Store::open(&path, Access::Existing) {
            Ok(store) => assert_eq!(store.workloads(None).unwrap().len(), 200, "cut at {length}"),
            Err(e) => assert!(e.to_string().contains("store"), "{e}"),
        }
    }
}

#[test]
fn a_store_without_its_database_is_torn() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    closed_store(&path);
    fs::remove_dir_all(path.join("db")).unwrap();
    assert!(matches!(Store::open(&path, Access::Existing), Err(StoreError::Torn { .. })));
}

/// Removes sled's snapshots, so that it reads the log.
fn remove_snapshots(store: &Path) {
    crate::store::layout::remove_snapshots(&store.join("db")).unwrap();
}

/// `tests/store-1` was written by the program when each dependency had a row, with the export that
/// it made.
#[test]
fn a_store_of_schema_1_is_migrated_with_all_that_it_has() {
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
        assert_eq!(store.rows.scan_prefix(keys::prefix(RowKind::Dependency, None)).count(), 0);
        assert!(store.marker.schema == SCHEMA && store.marker.rows > 10);
        drop(store);
        let store = Store::read(&path).unwrap();
        assert_eq!(lines(&exported(&store)), expected);
        assert_eq!(store.damage(), None);
    }
}

#[test]
fn batches_that_are_lost_with_the_end_of_the_log_are_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    closed_queue(&path);
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
        let queued = store.queued().unwrap().len();
        match store.damage() {
            Some(why) => {
                let said = format!("{} of 60 waiting batches are missing", 60 - queued);
                assert!(why.contains(&said) || queued == 60, "{why}; {queued} are there");
                lost += 1;
            }
            None => assert_eq!(queued, 60),
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
    assert_eq!(Store::open(&path, Access::Existing).unwrap().queued().unwrap().len(), 60);
}

#[test]
fn an_interrupted_opening_is_undone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    closed_store(&path);
    // Killed after sled has overwritten the database; also before the first of two renames.
    for is_removed in [false, true] {
        fs::rename(path.join("db"), path.join("db.before")).unwrap();
        if !is_removed {
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
            queue_batches(&mut store, round);
        }
        ended.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(reader.join().unwrap() > 0);
    });
}

#[test]
fn a_panic_inside_sled_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    closed_queue(&path);
    // sled asserts that no two segments have the same number.
    let file = path.join("db/db");
    let mut bytes = fs::read(&file).unwrap();
    let segment = 512 * 1024;
    bytes.resize(bytes.len().div_ceil(segment) * segment, 0);
    bytes.extend_from_within(..segment);
    fs::write(&file, &bytes).unwrap();
    remove_snapshots(&path);
    for error in [Store::open(&path, Access::Existing), Store::read(&path)] {
        let error = error.unwrap_err();
        assert!(matches!(error, StoreError::Panicked { .. }), "{error}");
        assert!(error.to_string().contains("duplicate segment"), "{error}");
    }
    assert!(fs::read(&file).unwrap() == bytes);
}
