use super::*;
use crate::cluster::Pool;
use crate::view::REMEMBERED;

fn seen(uid: &str, phase: &str) -> Seen {
    let object = serde_json::json!({
        "metadata": {"name": "p", "namespace": "n", "uid": uid}, "status": {"phase": phase, "podIP": "10.0.0.1"},
    });
    let pod = PodBrief::new(&serde_json::from_value(object).unwrap(), &mut Pool::default());
    Seen { key: ("n".into(), "p".into()), uid: uid.into(), object: Ok(Object::Pod(Arc::new(pod))) }
}

fn synced() -> Known {
    let mut known = Known::new(REMEMBERED);
    known.expect("Pod");
    assert!(known.replace("Pod", Vec::new()), "an empty list is awaited as well");
    assert!(!known.replace("Pod", Vec::new()));
    known
}

#[test]
fn a_deleted_pod_is_forgotten_in_time() {
    let mut known = synced();
    assert!(known.put("Pod", seen("a", "Running")));
    assert!(known.delete("Pod", seen("a", "Running")));
    let input = known.input(Instant::now());
    assert_eq!((input.objects.len(), input.gone.len()), (0, 1));
    assert!(input.forget.is_some_and(|f| f > Instant::now() + REMEMBERED / 2));
    let input = known.input(Instant::now() + REMEMBERED);
    assert!(input.gone.is_empty() && input.forget.is_none());
}

#[test]
fn a_version_that_changes_nothing_is_no_reason_to_build() {
    let mut known = synced();
    assert!(known.put("Pod", seen("a", "Running")));
    assert!(!known.put("Pod", seen("a", "Running")));
    assert!(known.put("Pod", seen("a", "Failed")));
    assert!(!known.delete("Pod", seen("b", "Running")), "the last word on another pod of its name");
}

#[test]
fn a_list_from_before_the_deletion_brings_a_pod_back_and_not_twice() {
    let mut known = synced();
    known.put("Pod", seen("a", "Running"));
    known.delete("Pod", seen("a", "Running"));
    assert!(known.replace("Pod", vec![seen("a", "Running")]));
    let input = known.input(Instant::now());
    assert_eq!((input.objects.len(), input.gone.len()), (1, 0));
}

#[test]
fn what_a_new_list_tells_and_is_known_is_not_kept_twice() {
    let mut known = synced();
    known.put("Pod", seen("a", "Running"));
    let same = |seen: &Seen| match (&known.kinds["Pod"].objects[&seen.key].object, &seen.object) {
        (Object::Pod(known), Ok(Object::Pod(listed))) => Arc::ptr_eq(known, listed),
        _ => false,
    };
    assert!(!same(&seen("a", "Running")) && same(&known.familiar("Pod", seen("a", "Running"))));
    assert!(
        !same(&known.familiar("Pod", seen("a", "Failed")))
            && !same(&known.familiar("Pod", seen("b", "Running")))
    );
}

#[test]
fn a_broken_version_leaves_a_pod_as_it_was_and_ends_another() {
    let broken = |uid: &str| Seen { object: Err("wrong type".to_owned()), ..seen(uid, "Running") };
    let mut known = synced();
    known.put("Pod", seen("a", "Running"));
    assert!(!known.put("Pod", broken("a")));
    assert_eq!(known.input(Instant::now()).objects.len(), 1);
    assert!(known.put("Pod", broken("b")));
    let input = known.input(Instant::now());
    assert_eq!((input.objects.len(), input.gone.len()), (0, 1));
    assert_eq!(known.status(None, Instant::now()).broken, 2);
}

#[test]
fn only_what_was_listed_or_cannot_be_is_settled() {
    let failing = || State::failing("away".to_owned());
    let mut known = Known::default();
    known.expect("Node");
    assert!(!known.set("Node", failing()) && !known.input(Instant::now()).settled);
    assert!(known.set("Node", State::Absent) && known.input(Instant::now()).settled);
    assert!(!known.set("Node", failing()) && known.input(Instant::now()).settled);
}

#[test]
fn nothing_is_settled_without_pods() {
    let mut known = Known::default();
    known.expect("Pod");
    for missing in [State::Absent, State::Forbidden("no".to_owned())] {
        assert!(!known.set("Pod", missing) && !known.input(Instant::now()).settled);
    }
    assert!(known.replace("Pod", Vec::new()) && known.input(Instant::now()).settled);
}
