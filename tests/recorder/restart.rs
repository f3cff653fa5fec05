//! What a recorder still knows of a cluster that changed while it was away.

#![allow(clippy::unwrap_used)] // a test that cannot go on should say where

use std::thread::sleep;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use sidecarta::model::Time;

use super::fake::Server;
use super::running::{Recorder, batch_at, pod, service};

const ADDRESS: &str = "10.244.1.20";
const CALLED: &str = "10.244.1.20:8080";

fn now() -> Time {
    Time(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as i64)
}

fn seconds_ago(seconds: i64) -> Time {
    Time(now().0 - seconds * 1_000_000_000)
}

/// As the API tells a time: in whole seconds.
fn whole(time: Time) -> String {
    Time(time.seconds() * 1_000_000_000).to_string()
}

/// A pod that runs since then, its Service and its endpoint.
fn deploy(server: &Server, name: &str, cluster_ip: &str, since: Time) {
    let mut pod = pod(name, ADDRESS, "n1");
    pod["metadata"]["uid"] = json!(name);
    pod["status"]["startTime"] = json!(whole(since));
    pod["status"]["containerStatuses"] =
        json!([{"name": "app", "state": {"running": {"startedAt": whole(since)}}}]);
    let [mut service, slice] = service(name, ADDRESS);
    service["spec"]["clusterIP"] = json!(cluster_ip);
    server.put("services", "Service", service);
    server.put("pods", "Pod", pod);
    server.put("endpointslices", "EndpointSlice", slice);
}

#[test]
fn an_address_that_changed_hands_while_nobody_looked_goes_to_the_right_one_or_to_none() {
    let server = Server::start();
    let dir = tempfile::tempdir().unwrap();
    let kubeconfig = dir.path().join("kubeconfig");
    let config = json!({"apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": format!("http://{}", server.address)}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "users": [{"name": "u", "user": {}}]});
    std::fs::write(&kubeconfig, config.to_string()).unwrap();
    server.put("pods", "Pod", pod("web", "10.244.1.10", "n1"));
    deploy(&server, "old", "10.96.0.21", seconds_ago(3600));
    let store = dir.path().join("store");
    let recorder = Recorder::start(&store, Some(&kubeconfig), &["--no-auth"]);
    let called = seconds_ago(60);
    assert_eq!(
        recorder.post(None, &batch_at(&called.to_string(), "n1", "first", 0, CALLED, 1)).0,
        200
    );
    recorder.connections(None, 1);
    // What the view knows is noted within a second.
    sleep(Duration::from_secs(3));
    recorder.kill("KILL");

    server.delete("endpointslices", "shop/old", "EndpointSlice", |_| ());
    server.delete("pods", "shop/old", "Pod", |_| ());
    let between = now();
    sleep(Duration::from_millis(1_100));
    deploy(&server, "new", "10.96.0.22", now());
    sleep(Duration::from_millis(2_200));
    let late = now();

    let recorder = Recorder::start(&store, Some(&kubeconfig), &["--no-auth"]);
    // Agents bring what they have spooled, in no order.
    for (boot, at, n) in [("a", late, 10), ("b", called, 100), ("c", between, 1_000)] {
        assert_eq!(
            recorder.post(None, &batch_at(&at.to_string(), "n1", boot, 0, CALLED, n)).0,
            200
        );
    }
    let all = recorder.connections(None, 1_111);
    let resolved: Vec<(&str, &str, u64)> = all
        .iter()
        .map(|d| {
            let to = &d["destination"];
            let named = if to["type"] == "ambiguous" { &to["candidates"][0] } else { to };
            (
                to["type"].as_str().unwrap(),
                named["name"].as_str().unwrap(),
                d["connections"].as_u64().unwrap(),
            )
        })
        .collect();
    let mut sorted = resolved.clone();
    sorted.sort_unstable();
    assert_eq!(
        sorted,
        [("ambiguous", "old", 1_000), ("service", "new", 10), ("service", "old", 101)]
    );
    let unsure: Vec<&Value> =
        all.iter().filter(|d| d["destination"]["type"] == "ambiguous").collect();
    assert_eq!(unsure[0]["destination"]["candidates"].as_array().unwrap().len(), 1);

    // And once more: what this run has found out is known to the next, which has seen nothing of
    // it.
    sleep(Duration::from_secs(3));
    recorder.kill("KILL");
    let recorder = Recorder::start(&store, Some(&kubeconfig), &["--no-auth"]);
    assert_eq!(
        recorder.post(None, &batch_at(&called.to_string(), "n1", "d", 0, CALLED, 10_000)).0,
        200
    );
    let all = recorder.connections(None, 11_111);
    let old = all.iter().find(|d| d["destination"]["name"] == "old").unwrap();
    assert_eq!(old["connections"], 10_101);
    assert_eq!(recorder.kill("TERM").0, Some(0));
}
