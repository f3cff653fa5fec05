use super::*;
use crate::view::object::ObjectVersion;

const HORIZON: Duration = Duration::from_secs(600);

fn seen(name: &str, uid: &str, address: &str) -> ObjectVersion {
    let pod = serde_json::json!({
        "metadata": {"name": name, "namespace": "n", "uid": uid, "labels": {"app": name}},
        "spec": {"containers": [{"name": "app", "ports": [{"containerPort": 80}]}]},
        "status": {"podIP": address},
    });
    let pod = PodBrief::new(&serde_json::from_value(pod).unwrap(), &mut Pool::default());
    ObjectVersion {
        key: ("n".into(), name.into()),
        uid: uid.into(),
        object: Ok(IndexObject::Pod(Arc::new(pod))),
    }
}

fn slice(addresses: &[&str]) -> ObjectVersion {
    let slice = serde_json::json!({
        "metadata": {
            "name": "s-1", "namespace": "n", "uid": "s",
            "labels": {"kubernetes.io/service-name": "s"},
        },
        "endpoints": [{"addresses": addresses}], "ports": [{"name": "", "port": 80}],
    });
    let slice = Pool::default().slice(serde_json::from_value(slice).unwrap());
    ObjectVersion {
        key: ("n".into(), "s-1".into()),
        uid: "s".into(),
        object: Ok(IndexObject::Slice(Arc::new(slice))),
    }
}

/// The rows of a store, in memory.
#[derive(Default)]
struct RowStore(BTreeMap<Vec<u8>, Vec<u8>>);

impl RowStore {
    fn write(&mut self, cache: &mut ObjectCache, saved: &mut SavedView) -> ViewChanges {
        let changes = cache.changes(saved);
        self.0.extend(changes.put.iter().cloned());
        changes.remove.iter().for_each(|k| drop(self.0.remove(k)));
        saved.written(changes.clone());
        changes
    }

    fn started(&self) -> (ObjectCache, SavedView) {
        let mut cache = ObjectCache::new(HORIZON);
        let (saved, unreadable) = cache.recall(
            self.0.clone().into_iter().collect(),
            &mut Pool::default(),
            Instant::now(),
        );
        assert_eq!(unreadable, 0);
        cache.expect(PODS);
        cache.expect(SLICES);
        (cache, saved)
    }
}

fn listed(cache: &mut ObjectCache, pods: Vec<ObjectVersion>, slices: Vec<ObjectVersion>) {
    cache.replace(PODS, pods);
    cache.replace(SLICES, slices);
}

#[test]
fn a_pod_missing_after_a_restart_ended_between_the_last_save_and_the_first_list() {
    let mut disk = RowStore::default();
    let (mut cache, mut saved) = disk.started();
    assert!(disk.write(&mut cache, &mut saved).is_empty(), "nothing is listed yet");
    listed(
        &mut cache,
        vec![seen("a", "1", "10.0.0.1"), seen("b", "2", "10.0.0.2")],
        vec![slice(&["10.0.0.1", "10.0.0.2"])],
    );
    assert_eq!(disk.write(&mut cache, &mut saved).put.len(), 4, "two pods, a slice, the time");
    assert_eq!(disk.write(&mut cache, &mut saved).put.len(), 1, "the time alone");
    // A pod whose deletion was seen is saved as deleted.
    cache.delete(PODS, seen("b", "2", "10.0.0.2"));
    let changes = disk.write(&mut cache, &mut saved);
    assert_eq!((changes.put.len(), changes.remove.len()), (2, 1));
    let listed_at = cache.kinds[PODS].current.unwrap();

    let (mut cache, mut saved) = disk.started();
    let before = cache.input(Instant::now());
    assert_eq!(
        (before.objects.len(), before.deleted.len(), before.synced),
        (2, 1, false),
        "until the first list, the cache is as it was saved"
    );
    // Meanwhile `a` was deleted, its successor of the same name has its address, and the slice has
    // lost an endpoint.
    listed(&mut cache, vec![seen("a", "3", "10.0.0.1")], vec![slice(&["10.0.0.1"])]);
    let ended = |cache: &ObjectCache| -> Vec<(String, EndTime)> {
        cache.deleted.iter().map(|g| (g.pod.uid.to_string(), g.ended)).collect()
    };
    let [(b, by), (a, between)] = &ended(&cache)[..] else { panic!("{:?}", cache.deleted) };
    assert_eq!((a.as_str(), b.as_str()), ("1", "2"));
    assert!(matches!(by, EndTime::By(t) if *t >= listed_at));
    assert!(matches!(between, EndTime::Between(k, m) if *k == listed_at && m > k), "{between:?}");
    let lost: Vec<_> = cache.former.all();
    assert_eq!((lost.len(), &lost[0].0.endpoints[0].addresses), (1, &vec!["10.0.0.2".to_owned()]));
    assert!(matches!(lost[0].1, EndTime::Between(k, _) if k == listed_at || k < now()));
    // From then on deletions are seen.
    cache.delete(PODS, seen("a", "3", "10.0.0.1"));
    assert!(matches!(cache.deleted[2].ended, EndTime::By(_)));

    // The next run recalls the same.
    disk.write(&mut cache, &mut saved);
    let (again, _) = disk.started();
    let sorted = |cache: &ObjectCache| {
        let mut all = ended(cache);
        all.sort_by_key(|(uid, _)| uid.clone());
        all
    };
    assert_eq!(sorted(&again), sorted(&cache));
    assert_eq!(again.former.all().len(), 1);
    assert!(again.kinds[PODS].objects.is_empty());
}

#[test]
fn the_time_between_runs_does_not_count_and_forgotten_pods_leave_the_store() {
    let mut disk = RowStore::default();
    let (mut cache, mut saved) = disk.started();
    listed(&mut cache, vec![seen("a", "1", "10.0.0.1")], Vec::new());
    cache.delete(PODS, seen("a", "1", "10.0.0.1"));
    disk.write(&mut cache, &mut saved);
    // In the next run the pod is remembered for the rest of its time. The time between the runs
    // does not count.
    let (mut cache, mut saved) = disk.started();
    listed(&mut cache, Vec::new(), Vec::new());
    assert_eq!(cache.input(Instant::now() + HORIZON - Duration::from_secs(30)).deleted.len(), 1);
    assert_eq!(cache.input(Instant::now() + HORIZON).deleted.len(), 0);
    assert_eq!(disk.write(&mut cache, &mut saved).remove.len(), 1);
    assert_eq!(disk.0.keys().collect::<Vec<_>>(), [b"c"]);
}

#[test]
fn an_unchanged_pod_and_one_that_cannot_be_read_are_not_written_again() {
    let mut disk = RowStore::default();
    let (mut cache, mut saved) = disk.started();
    listed(&mut cache, vec![seen("a", "1", "10.0.0.1"), seen("b", "2", "10.0.0.2")], Vec::new());
    disk.write(&mut cache, &mut saved);
    let (mut cache, mut saved) = disk.started();
    let broken =
        ObjectVersion { object: Err("wrong type".to_owned()), ..seen("b", "2", "10.0.0.2") };
    listed(&mut cache, vec![seen("a", "1", "10.0.0.1"), broken], Vec::new());
    assert_eq!((cache.kinds[PODS].objects.len(), cache.deleted.len()), (2, 0));
    let changes = disk.write(&mut cache, &mut saved);
    assert_eq!((changes.put.len(), changes.remove.len()), (1, 0), "the time alone");
}

#[test]
fn rows_that_cannot_be_read_are_counted_and_removed() {
    let mut cache = ObjectCache::new(HORIZON);
    let (mut saved, unreadable) =
        cache.recall(vec![(b"px".to_vec(), b"{}".to_vec())], &mut Pool::default(), Instant::now());
    assert_eq!(unreadable, 1);
    cache.expect(PODS);
    cache.replace(PODS, Vec::new());
    let changes = cache.changes(&saved);
    assert_eq!(changes.remove, [b"px"]);
    saved.written(changes);
    assert!(cache.changes(&saved).remove.is_empty());
}

#[test]
fn many_rows_are_written_in_batches_and_removals_come_last() {
    let mut disk = RowStore::default();
    let (mut cache, mut saved) = disk.started();
    let pods = |n: usize| {
        (0..n)
            .map(|i| {
                seen(&format!("p{i}"), &format!("u{i}"), &format!("10.0.{}.{}", i / 250, i % 250))
            })
            .collect()
    };
    listed(&mut cache, pods(ROWS_AT_ONCE + 5), Vec::new());
    let first = disk.write(&mut cache, &mut saved);
    assert!(first.more && first.put.len() == ROWS_AT_ONCE && !disk.0.contains_key(&b"c"[..]));
    assert!(!disk.write(&mut cache, &mut saved).more);
    assert_eq!(disk.0.len(), ROWS_AT_ONCE + 6);
    // All pods are deleted at once: the "ended" rows are written before the "present" rows go.
    cache.replace(PODS, Vec::new());
    assert!(disk.write(&mut cache, &mut saved).remove.is_empty());
    assert_eq!(disk.0.len(), 2 * ROWS_AT_ONCE + 6);
    assert_eq!(disk.write(&mut cache, &mut saved).remove.len(), ROWS_AT_ONCE + 5);
    assert_eq!(disk.0.len(), ROWS_AT_ONCE + 6);
}
