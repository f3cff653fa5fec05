//! What a recorder still knows of a cluster that changed while it was away.

#![allow(clippy::unwrap_used)] // a test that cannot go on should say where

use std::thread::sleep;
use std::time::Duration;

use serde_json::{Value, json};
use sidecarta::model::Time;

use super::common::kubeconfig;
use super::fake::Server;
use super::lines::now;
use super::running::{Recorder, batch_at, pod, service};

const ADDRESS: &str = "10.244.1.20";
const CALLED: &str = "10.244.1.20:8080";

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

/// A recorder that is killed and started again while the cluster changes.
struct Restarted {
    server: Server,
    dir: tempfile::TempDir,
}

impl Restarted {
    fn new() -> Self {
        let (server, dir) = (Server::start(), tempfile::tempdir().unwrap());
        kubeconfig(&dir.path().join("kubeconfig"), server.address, &json!({}));
        Self { server, dir }
    }

    fn start(&self) -> Recorder {
        let kubeconfig = self.dir.path().join("kubeconfig");
        Recorder::start(&self.dir.path().join("store"), Some(&kubeconfig), &["--no-auth"])
    }
}

/// Brings so many connections to the address, of this time.
fn bring(recorder: &Recorder, boot: &str, at: Time, connections: u64) {
    let batch = batch_at(&at.to_string(), "n1", boot, 0, CALLED, connections);
    assert_eq!(recorder.post(None, &batch).0, 200);
}

/// Kind of destination, name and connections, sorted.
fn resolved(all: &[Value]) -> Vec<(&str, &str, u64)> {
    let of = |d| -> (&str, &str, u64) {
        let d: &Value = d;
        let to = &d["destination"];
        let named = if to["type"] == "ambiguous" { &to["candidates"][0] } else { to };
        (
            to["type"].as_str().unwrap(),
            named["name"].as_str().unwrap(),
            d["connections"].as_u64().unwrap(),
        )
    };
    let mut resolved: Vec<_> = all.iter().map(of).collect();
    resolved.sort_unstable();
    resolved
}

#[test]
fn an_address_that_changed_hands_while_nobody_looked_goes_to_the_right_one_or_to_none() {
    let cluster = Restarted::new();
    let server = &cluster.server;
    server.put("pods", "Pod", pod("web", "10.244.1.10", "n1"));
    deploy(server, "old", "10.96.0.21", seconds_ago(3600));
    let recorder = cluster.start();
    let called = seconds_ago(60);
    bring(&recorder, "first", called, 1);
    recorder.connections(None, 1);
    // What the view knows is noted within a second.
    sleep(Duration::from_secs(3));
    recorder.kill("KILL");

    server.delete("endpointslices", "shop/old", "EndpointSlice", |_| ());
    server.delete("pods", "shop/old", "Pod", |_| ());
    let between = now();
    sleep(Duration::from_millis(1_100));
    deploy(server, "new", "10.96.0.22", now());
    sleep(Duration::from_millis(2_200));
    let late = now();

    let recorder = cluster.start();
    // Agents bring what they have spooled, in no order.
    bring(&recorder, "a", late, 10);
    bring(&recorder, "b", called, 100);
    bring(&recorder, "c", between, 1_000);
    let all = recorder.connections(None, 1_111);
    assert_eq!(
        resolved(&all),
        [("ambiguous", "old", 1_000), ("service", "new", 10), ("service", "old", 101)]
    );
    let unsure = all.iter().find(|d| d["destination"]["type"] == "ambiguous").unwrap();
    assert_eq!(unsure["destination"]["candidates"].as_array().unwrap().len(), 1);

    // And once more: what this run has found out is known to the next, which has seen nothing of
    // it.
    sleep(Duration::from_secs(3));
    recorder.kill("KILL");
    let recorder = cluster.start();
    bring(&recorder, "d", called, 10_000);
    let all = recorder.connections(None, 11_111);
    let old = all.iter().find(|d| d["destination"]["name"] == "old").unwrap();
    assert_eq!(old["connections"], 10_101);
    assert_eq!(recorder.kill("TERM").0, Some(0));
}
