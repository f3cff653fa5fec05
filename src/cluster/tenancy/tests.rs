use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::cluster::{ClusterBuilder, Holder, PodBrief, Pool};
use crate::model::Protocol;

const ADDRESS: &str = "10.0.0.1";

/// Seconds of a day, as the API writes times.
fn at(second: i64) -> Time {
    Time(second * SECOND)
}

fn parsed<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

/// A pod of the Service with its name, with the start of its first container if that has run.
fn pod(name: &str, start: i64, up: Option<i64>) -> objects::PodObject {
    let ran = up.map(|up| json!([{"state": {"running": {"startedAt": at(up)}}}]));
    parsed(json!({
        "metadata": {"name": name, "namespace": "n", "uid": name, "labels": {"app": name}},
        "status": {"phase": "Running", "podIP": ADDRESS, "startTime": at(start),
            "containerStatuses": ran},
    }))
}

fn service(name: &str) -> objects::ServiceObject {
    parsed(json!({
        "metadata": {"name": name, "namespace": "n"},
        "spec": {"selector": {"app": name}, "ports": [{"port": 80, "targetPort": 8080}]},
    }))
}

fn slice(name: &str) -> objects::EndpointSlice {
    parsed(json!({
        "metadata": {"name": name, "namespace": "n",
            "labels": {"kubernetes.io/service-name": name}},
        "endpoints": [{"addresses": [ADDRESS]}], "ports": [{"name": "", "port": 8080}],
    }))
}

/// Adds a deleted pod.
fn add_deleted(builder: &mut ClusterBuilder, pod: objects::PodObject, end: EndTime) {
    builder.brief(Arc::new(PodBrief::new(&pod, &mut Pool::default())), Some(end));
}

/// Who had the address in each of these half seconds; `-`: nobody known.
fn holders(cluster: &Cluster, seconds: &[i64]) -> String {
    let of = |s: &i64| match cluster.holder(ADDRESS.parse().unwrap(), Time(s * SECOND + SECOND / 2))
    {
        Holder::Pod(pod) => pod.name.to_string(),
        Holder::NobodyInPodRange => "-".to_owned(),
        other => panic!("{other:?}"),
    };
    seconds.iter().map(of).collect()
}

/// Which Services were behind the address; `?` where there may have been others.
fn behind(cluster: &Cluster, second: i64) -> String {
    let (address, time) = (ADDRESS.parse().unwrap(), Time(second * SECOND + SECOND / 2));
    let names: String =
        cluster.endpoint(address, 8080, Protocol::Tcp, time).map(|(s, _)| s.name.clone()).collect();
    let sure = cluster.endpoint_is_sure(address, 8080, Protocol::Tcp, time);
    if sure { names } else { names + "?" }
}

#[test]
fn while_nobody_watched_an_address_has_only_a_certain_holder() {
    // `a` existed at 100 and was missed at 200.
    let missed = EndTime::Between(at(100), at(200));
    for (what, b, expected) in [
        ("nobody has it now", None, "aa-----"),
        ("the next pod's status says when it ran", Some((120, Some(140))), "aa--bbb"),
        ("it does not: it had it when it was seen", Some((120, None)), "aa----b"),
        ("it was started before, and got it later", Some((90, Some(140))), "a---bbb"),
        ("it ran before: the watch had been silent", Some((80, Some(90))), "-bbbbbb"),
        ("it came when somebody looked again", Some((230, Some(231))), "aa-----"),
    ] {
        let mut builder = ClusterBuilder::default();
        add_deleted(&mut builder, pod("a", 10, Some(12)), missed);
        if let Some((start, up)) = b {
            builder.pod(&pod("b", start, up));
        }
        let (cluster, problems) = builder.build();
        assert_eq!(holders(&cluster, &[85, 95, 110, 130, 150, 180, 210]), expected, "{what}");
        assert_eq!(problems, [""; 0], "{what}");
    }
}

#[test]
fn the_end_of_the_last_container_is_known_even_if_nobody_watched() {
    let mut a = pod("a", 10, Some(12));
    a.status.phase = "Succeeded".to_owned();
    a.status.container_statuses[0].state =
        parsed(json!({"terminated": {"startedAt": at(12), "finishedAt": at(80)}}));
    let mut builder = ClusterBuilder::default();
    add_deleted(&mut builder, a, EndTime::Between(at(100), at(200)));
    builder.pod(&pod("b", 70, Some(82)));
    assert_eq!(holders(&builder.build().0, &[75, 80, 81, 150]), "aabb");
}

#[test]
fn endpoints_change_hands_with_the_address() {
    let missed = EndTime::Between(at(100), at(200));
    let build = |a: bool, b: Option<&str>| {
        let mut builder = ClusterBuilder::default();
        ["a", "b"].map(service).into_iter().for_each(|s| builder.service(s));
        add_deleted(&mut builder, pod("a", 10, Some(12)), missed);
        if a {
            builder.shared_slice(Arc::new(slice("a")), Some(missed));
        }
        if let Some(b) = b {
            builder.pod(&pod("b", 120, Some(140)));
            builder.slice(slice(b));
        }
        let cluster = builder.build().0;
        [90, 110, 130, 150, 210].map(|t| behind(&cluster, t)).join(" ")
    };
    assert_eq!(build(true, None), "a a? a? a? ", "it may have been one all along");
    assert_eq!(build(true, Some("b")), "a a? a? b b");
    assert_eq!(
        build(true, Some("a")),
        "a a? a? a a",
        "its next pod stands behind the same Service"
    );
    assert_eq!(build(false, Some("b")), "   b b", "a pod without a Service was called directly");
}

#[test]
fn an_endpoint_removed_while_its_pod_stays_is_uncertain_until_it_was_missed() {
    let mut builder = ClusterBuilder::default();
    builder.service(service("a"));
    builder.pod(&pod("a", 10, Some(12)));
    builder.shared_slice(Arc::new(slice("a")), Some(EndTime::Between(at(100), at(200))));
    let cluster = builder.build().0;
    assert_eq!([90, 150, 210].map(|t| behind(&cluster, t)), ["a", "a?", ""]);
    assert_eq!(holders(&cluster, &[90, 150, 210]), "aaa");
}

#[test]
fn a_deletion_that_is_noticed_as_it_happens_leaves_no_gap() {
    let mut builder = ClusterBuilder::default();
    ["a", "b"].map(service).into_iter().for_each(|s| builder.service(s));
    add_deleted(&mut builder, pod("a", 10, Some(12)), EndTime::By(at(101)));
    builder.pod(&pod("b", 102, Some(103)));
    // Only `b` has a slice, because `a` had no Service.
    builder.slice(slice("b"));
    let cluster = builder.build().0;
    assert_eq!(holders(&cluster, &[99, 100, 102, 103]), "aabb");
    assert_eq!([99, 100, 102, 103].map(|t| behind(&cluster, t)), ["", "", "b", "b"]);
}

#[test]
fn an_endpoint_begins_with_its_pod_even_if_no_earlier_pod_is_known() {
    let mut builder = ClusterBuilder::default();
    builder.service(service("b"));
    builder.pod(&pod("b", 102, Some(103)));
    builder.slice(slice("b"));
    let cluster = builder.build().0;
    assert_eq!([101, 102].map(|t| behind(&cluster, t)), ["", "b"]);
    assert_eq!(holders(&cluster, &[101, 102]), "-b");
}
