//! Batches, queued batches, and the rows that they become.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::store::keys::RowKind;
use crate::store::marker::Marker;

#[test]
fn a_batch_counts_once_and_survives_closing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let b = batch("a", vec![workload("w", 5)]);
    let mut store = Store::open(&path, Access::CreateOrOpen).unwrap();
    assert_eq!(store.apply(&b).unwrap(), Applied::New);
    assert_eq!(store.apply(&b).unwrap(), Applied::AlreadyMerged);
    store.close().unwrap();
    let store = Store::open(&path, Access::Existing).unwrap();
    assert_eq!(store.workloads(None).unwrap().len(), 1);
    assert_eq!(store.workloads(Some("n")).unwrap().len(), 1);
    assert_eq!(store.workloads(Some("other")).unwrap().len(), 0);
    assert!(store.has_merged(&b.id).unwrap());
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 12, failure_persistence: None, ..ProptestConfig::default()
    })]

    #[test]
    fn the_order_and_repetition_of_batches_do_not_show(
        order in Just((0..6usize).collect::<Vec<_>>()).prop_shuffle(),
        again in 0..6usize,
    ) {
        let batches: Vec<Batch> = (0..6i64)
            .map(|i| {
                let second = workload(&format!("w{}", i % 2), i);
                batch(&format!("s{i}"), vec![workload("w", i * 7 % 5), second])
            })
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
    fn keys_of_batches_read_back(
        source in "\\PC{0,12}|[\\x00-\\x03]{0,6}",
        sequence in any::<u64>(),
    ) {
        let id = BatchId { source, sequence };
        prop_assert_eq!(keys::parse_batch(&keys::batch(&id)), Some(id));
    }
}

#[test]
fn dependencies_of_a_workload_share_pages_and_each_is_on_one() {
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
        .scan_prefix(keys::prefix(RowKind::Page, None))
        .map(|r| r.unwrap().1.len())
        .collect();
    assert!((4..20).contains(&pages.len()) && pages.iter().all(|n| *n <= 6 * 1024), "{pages:?}");
    assert_eq!(store.dependencies(Some("other")).unwrap(), []);
}

fn id(source: &str, sequence: u64) -> BatchId {
    BatchId { source: source.into(), sequence }
}

#[test]
fn a_batch_is_queued_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(&dir.path().join("s"), Access::CreateOrOpen).unwrap();
    let long = vec![7u8; 50_000];
    let ids = [id("agent:a:x", 0), id("agent:a:x", 1), id("agent:b:x", 4)];
    let rows: Vec<(&BatchId, &[u8])> = ids.iter().map(|i| (i, long.as_slice())).collect();
    assert_eq!(store.queue(&rows).unwrap(), [Applied::New; 3]);
    assert_eq!(store.queue(&rows[..1]).unwrap(), [Applied::AlreadyMerged]);
    assert_eq!(store.queued().unwrap(), ids);
    assert_eq!(store.read_queued(&ids[0]).unwrap(), long);
}

#[test]
fn a_merged_batch_leaves_the_queue_and_stands_for_those_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let mut store = Store::open(&path, Access::CreateOrOpen).unwrap();
    let ids = [id("agent:a:x", 0), id("agent:a:x", 1), id("agent:b:x", 4)];
    let rows: Vec<(&BatchId, &[u8])> = ids.iter().map(|i| (i, &b"x"[..])).collect();
    store.queue(&rows).unwrap();
    // The identity of what was learned is that of the first batch.
    let learned = Batch { id: ids[0].clone(), records: vec![workload("w", 5)] };
    assert_eq!(store.merge_queued(&learned, &ids.iter().cloned().collect()).unwrap(), Applied::New);
    drop(store);
    let mut store = Store::open(&path, Access::Existing).unwrap();
    assert!(store.queued().unwrap().is_empty());
    assert_eq!(store.queue(&rows).unwrap(), [Applied::AlreadyMerged; 3]);
    assert!(store.has_merged(&ids[1]).unwrap());
    let next = id("agent:a:x", 2);
    assert!(!store.has_merged(&next).unwrap());
    assert_eq!(store.queue(&[(&next, b"x")]).unwrap(), [Applied::New]);
}

#[test]
fn an_export_has_queued_batches_and_the_marks_of_merged_ones() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(&dir.path().join("s"), Access::CreateOrOpen).unwrap();
    let (queued, merged) = (id("agent:c:x", 0), id("agent:a:x", 2));
    let text = zstd::encode_all(&b"lines\n"[..], 1).unwrap();
    store.queue(&[(&queued, &text), (&merged, b"x")]).unwrap();
    let learned = Batch { id: merged.clone(), records: Vec::new() };
    store.merge_queued(&learned, &[merged].into()).unwrap();
    let mut other = Store::open(&dir.path().join("other"), Access::CreateOrOpen).unwrap();
    other.import(exported(&store).as_bytes()).unwrap();
    assert_eq!(other.queued().unwrap(), std::slice::from_ref(&queued));
    let found = other.read_queued(&queued).unwrap();
    assert_eq!(zstd::decode_all(found.as_slice()).unwrap(), b"lines\n");
    assert!(other.has_merged(&id("agent:a:x", 0)).unwrap());
}

/// Applies batches of three workloads, each with 300 dependencies in the end.
fn apply_rounds(store: &mut Store, mut after_each: impl FnMut(&Store)) {
    for round in 0..3u64 {
        let mut records: Vec<Record> = vec![workload("w", 5), workload(&format!("w{round}"), 6)];
        for i in 0..100 * (round + 1) {
            records.extend((0..3).map(|w| dependency(&format!("w{w}"), &format!("s{i:03}"), 1)));
        }
        store.apply(&batch(&format!("s{round}"), records)).unwrap();
        after_each(store);
    }
}

#[test]
fn the_seal_counts_rows_as_they_are_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let mut store = Store::open(&path, Access::CreateOrOpen).unwrap();
    store.queue(&[(&id("agent:a:x", 0), b"x")]).unwrap();
    // There is no lasting row yet; the marker says nevertheless that there are rows.
    assert_eq!((store.marker.rows, store.marker.lasting), (1, Some(0)));
    apply_rounds(&mut store, |store| {
        check_seal(store);
        assert_eq!(Marker::read(&path).unwrap().as_ref(), Some(&store.marker));
    });
    let lasting = store.seal.lasting();
    drop(store);
    let store = Store::open(&path, Access::Existing).unwrap();
    assert_eq!(store.seal.lasting(), lasting);
}

#[test]
fn a_row_that_is_written_again_is_counted_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(&dir.path().join("s"), Access::CreateOrOpen).unwrap();
    store.apply(&batch("a", vec![workload("w", 5)])).unwrap();
    let lasting = store.seal.lasting();
    let baseline = crate::model::Baseline {
        workload: WorkloadId { namespace: "n".into(), kind: "Deployment".into(), name: "w".into() },
        accepted: Time(1),
        by: None,
        dependencies: BTreeSet::new(),
    };
    store.accept(std::slice::from_ref(&baseline), &[]).unwrap();
    store.accept(std::slice::from_ref(&baseline), &[]).unwrap();
    assert_eq!(store.seal.lasting(), lasting + 1);
    check_seal(&store);
}

#[test]
fn dependencies_are_read_some_workloads_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(&dir.path().join("s"), Access::CreateOrOpen).unwrap();
    apply_rounds(&mut store, |_| {});
    let (mut found, mut after, mut reads) = (Vec::new(), None, 0);
    loop {
        let (mut some, last) = store.dependencies_after(after.as_ref(), 301).unwrap();
        found.append(&mut some);
        reads += 1;
        after = last;
        if after.is_none() {
            break;
        }
    }
    found.sort_by(|a, b| a.key.cmp(&b.key));
    assert_eq!(found, store.dependencies(None).unwrap());
    // A workload is read whole: two of 300 each, then the third.
    assert_eq!((found.len(), reads), (900, 2));
}

#[test]
fn counters_do_not_overflow() {
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
            live: Default::default(),
            packets: u64::MAX,
            lost: u64::MAX,
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
