use serde_json::json;

use super::*;
use crate::cluster::Pool;
use crate::cluster::objects::Controller;
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

/// A Job of the CronJob `report`, or that CronJob.
fn controller(kind: &str, name: &str, owner: serde_json::Value) -> ObjectVersion {
    let object: Controller = serde_json::from_value(json!({
        "kind": kind,
        "metadata": {"namespace": "n", "name": name, "uid": name, "ownerReferences": owner},
    }))
    .unwrap();
    let brief = ControllerBrief::new(object, &mut Pool::default());
    ObjectVersion {
        key: ("n".into(), name.into()),
        uid: name.into(),
        object: Ok(IndexObject::Controller(Arc::new(brief))),
    }
}

#[test]
fn a_pod_of_a_job_that_is_deleted_is_still_one_of_its_cron_job() {
    let mut cache = synced();
    ["Job", "CronJob"].iter().for_each(|kind| cache.expect(kind));
    let job = "report-29000000";
    let by_cron_job = json!([{"kind": "CronJob", "name": "report", "controller": true}]);
    cache.put("CronJob", controller("CronJob", "report", json!([])));
    cache.put("Job", controller("Job", "other-job", by_cron_job.clone()));
    let of_job = |name: &str, job: &str| {
        let pod = serde_json::from_value(json!({
            "metadata": {"namespace": "n", "name": name, "uid": name,
                "ownerReferences": [{"kind": "Job", "name": job, "controller": true}]},
            "status": {"phase": "Running", "podIP": "10.0.0.1"},
        }));
        let pod = PodBrief::new(&pod.unwrap(), &mut Pool::default());
        ObjectVersion {
            key: ("n".into(), name.into()),
            uid: name.into(),
            object: Ok(IndexObject::Pod(Arc::new(pod))),
        }
    };
    // One Job is deleted, the other one was never seen: its name is that of a run.
    for (name, job) in [("a", "other-job"), ("b", job), ("c", "reporter-29000000")] {
        cache.put("Pod", of_job(name, job));
    }
    cache.delete("Job", controller("Job", "other-job", by_cron_job));
    let mut builder = ClusterBuilder::default();
    cache.input(Instant::now()).feed(&mut builder);
    let (cluster, _) = builder.build();
    let workload = |pod: &str| cluster.pods_named("n", pod)[0].workload.to_string();
    assert_eq!(workload("a"), "n/report (CronJob)");
    assert_eq!(workload("b"), "n/report (CronJob)");
    assert_eq!(workload("c"), "n/reporter-29000000 (Job)");
}
