use super::*;
use crate::cluster::Pool;
use crate::view::REMEMBERED;

fn seen(uid: &str, phase: &str) -> ObjectVersion {
    let object = serde_json::json!({
        "metadata": {"name": "p", "namespace": "n", "uid": uid},
        "status": {"phase": phase, "podIP": "10.0.0.1"},
    });
    let pod = PodBrief::new(&serde_json::from_value(object).unwrap(), &mut Pool::default());
    ObjectVersion {
        key: ("n".into(), "p".into()),
        uid: uid.into(),
        object: Ok(IndexObject::Pod(Arc::new(pod))),
    }
}

fn synced() -> ObjectCache {
    let mut cache = ObjectCache::new(REMEMBERED);
    cache.expect("Pod");
    assert!(cache.replace("Pod", Vec::new()), "the view waits for a list, even an empty one");
    assert!(!cache.replace("Pod", Vec::new()));
    cache
}

#[test]
fn a_deleted_pod_is_forgotten_after_the_given_time() {
    let mut cache = synced();
    assert!(cache.put("Pod", seen("a", "Running")));
    assert!(cache.delete("Pod", seen("a", "Running")));
    let input = cache.input(Instant::now());
    assert_eq!((input.objects.len(), input.deleted.len()), (0, 1));
    assert!(input.forget.is_some_and(|f| f > Instant::now() + REMEMBERED / 2));
    let input = cache.input(Instant::now() + REMEMBERED);
    assert!(input.deleted.is_empty() && input.forget.is_none());
}

#[test]
fn a_version_that_changes_nothing_causes_no_build() {
    let mut cache = synced();
    assert!(cache.put("Pod", seen("a", "Running")));
    assert!(!cache.put("Pod", seen("a", "Running")));
    assert!(cache.put("Pod", seen("a", "Failed")));
    assert!(
        !cache.delete("Pod", seen("b", "Running")),
        "the deletion of an older pod of the same name"
    );
}

#[test]
fn a_pod_in_a_list_from_before_its_deletion_exists_once() {
    let mut cache = synced();
    cache.put("Pod", seen("a", "Running"));
    cache.delete("Pod", seen("a", "Running"));
    assert!(cache.replace("Pod", vec![seen("a", "Running")]));
    let input = cache.input(Instant::now());
    assert_eq!((input.objects.len(), input.deleted.len()), (1, 0));
}

#[test]
fn an_unchanged_object_of_a_new_list_is_stored_once() {
    let mut cache = synced();
    cache.put("Pod", seen("a", "Running"));
    let same = |seen: &ObjectVersion| match (
        &cache.kinds["Pod"].objects[&seen.key].object,
        &seen.object,
    ) {
        (IndexObject::Pod(cache), Ok(IndexObject::Pod(listed))) => Arc::ptr_eq(cache, listed),
        _ => false,
    };
    assert!(!same(&seen("a", "Running")) && same(&cache.reuse_known("Pod", seen("a", "Running"))));
    assert!(
        !same(&cache.reuse_known("Pod", seen("a", "Failed")))
            && !same(&cache.reuse_known("Pod", seen("b", "Running")))
    );
}

#[test]
fn a_broken_version_changes_nothing_of_its_pod_and_ends_an_older_pod_of_the_name() {
    let broken =
        |uid: &str| ObjectVersion { object: Err("wrong type".to_owned()), ..seen(uid, "Running") };
    let mut cache = synced();
    cache.put("Pod", seen("a", "Running"));
    assert!(!cache.put("Pod", broken("a")));
    assert_eq!(cache.input(Instant::now()).objects.len(), 1);
    assert!(cache.put("Pod", broken("b")));
    let input = cache.input(Instant::now());
    assert_eq!((input.objects.len(), input.deleted.len()), (0, 1));
    assert_eq!(cache.status(None, Instant::now()).broken, 2);
}

#[test]
fn a_kind_counts_as_synced_when_it_was_listed_or_is_absent() {
    let failing = || WatchState::failing("away".to_owned());
    let mut cache = ObjectCache::default();
    cache.expect("Node");
    assert!(!cache.set_state("Node", failing()) && !cache.input(Instant::now()).synced);
    assert!(cache.set_state("Node", WatchState::Absent) && cache.input(Instant::now()).synced);
    assert!(!cache.set_state("Node", failing()) && cache.input(Instant::now()).synced);
}

#[test]
fn the_view_is_not_synced_without_pods() {
    let mut cache = ObjectCache::default();
    cache.expect("Pod");
    for missing in [WatchState::Absent, WatchState::Forbidden("no".to_owned())] {
        assert!(!cache.set_state("Pod", missing) && !cache.input(Instant::now()).synced);
    }
    assert!(cache.replace("Pod", Vec::new()) && cache.input(Instant::now()).synced);
}
