//! What agents say, line by line, to a recorder with an API server; and what it makes of that.

#![allow(clippy::unwrap_used)] // a test that cannot go on should say where

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use sidecarta::model::Time;

use super::cluster::{Cluster, Says};
use super::running::{Recorder, service};

pub fn now() -> Time {
    Time(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as i64)
}

pub fn hours_ago(hours: i64) -> Time {
    Time((now().0 / 1_000_000_000 - hours * 3_600) * 1_000_000_000)
}

/// A pod as the API server has it; its UID is `uid-NAME`.
pub fn object(namespace: &str, name: &str, address: &str, node: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": namespace, "name": name, "uid": format!("uid-{name}"),
            "labels": {"app": name}},
        "spec": {"nodeName": node,
            "containers": [{"name": "app"}, {"name": "istio-proxy", "args": ["proxy", "sidecar"]}]},
        "status": {"phase": "Running", "podIP": address, "startTime": hours_ago(2)}})
}

/// `web` on n1, `cart` and the victim `bank/db` on n2.
pub fn objects() -> Vec<Value> {
    let mut all = vec![
        object("shop", "web", "10.244.1.10", "n1"),
        object("shop", "cart", "10.244.1.11", "n2"),
        object("bank", "db", "10.244.1.12", "n2"),
    ];
    all.extend(service("cart", "10.244.1.11"));
    all
}

pub fn snapshot(dir: &Path, items: &[Value]) -> PathBuf {
    let path = dir.join("cluster.json");
    std::fs::write(&path, json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string())
        .unwrap();
    path
}

/// A cluster in which the agents of n1 and n2 have tokens, and `ann` may read everything.
pub fn cluster(items: &[Value]) -> Cluster {
    let mut says = Says::of(items.iter().cloned());
    for node in ["n1", "n2"] {
        says.agent(&format!("agent-{node}"), Some(node), None);
    }
    says.person("ann", &[("list", ""), ("list", "shop"), ("list", "bank")]);
    Cluster::start(says)
}

/// A pod in a batch of an agent.
pub fn pod_line(namespace: &str, name: &str, node: &str) -> Value {
    json!({"name": name, "uid": format!("uid-{name}"),
        "workload": {"namespace": namespace, "kind": "Pod", "name": name},
        "labels": {"app": name}, "selector": {"app": name}, "dataPlane": "sidecar",
        "start": hours_ago(2),
        "end": "2262-04-11T23:47:16.854775807Z", "addresses": ["10.244.1.10"], "node": node,
        "capture": {}})
}

pub fn edge(pod: usize, to: &str, connections: u64, at: Time) -> Value {
    json!({"edge": {"pod": pod, "responder": to, "transport": "tcp", "orientation": "handshake",
        "fromStart": true, "answered": true,
        "refused": false, "content": "unknown", "names": {}, "initiator": "10.244.1.10:40000",
        "connections": connections,
        "first": at, "lastBegan": at, "last": at, "packets": 9}})
}

pub fn watching(pod: usize, from: Time, to: Time) -> Value {
    json!({"watching": {"pod": pod, "packets": 9, "spans": [{"from": from, "to": to}]}})
}

/// A batch of these pods and lines.
pub fn batch(node: &str, sequence: u64, pods: &[Value], lines: &[Value]) -> Vec<u8> {
    let header = json!({"observed": {"version": 1, "source": format!("agent:{node}:b"),
        "sequence": sequence, "node": node,
        "made": now(), "spans": [], "counters": {}}});
    let mut all = vec![header];
    all.extend(pods.iter().map(|p| json!({"pod": p})));
    all.extend_from_slice(lines);
    all.push(json!({"end": {"lines": all.len()}}));
    all.iter().map(|l| format!("{l}\n")).collect::<String>().into_bytes()
}

/// What a path gives `ann`, who may read it.
pub fn json_of(recorder: &Recorder, path: &str) -> Value {
    let (status, body) = recorder.get(path, Some("ann"));
    assert_eq!(status, 200, "{path}: {body}");
    serde_json::from_str(&body).unwrap()
}

/// Waits until no batch waits to be resolved and so many lines are unverified.
pub fn settled(recorder: &Recorder, apart: u64) -> Value {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let mesh = json_of(recorder, "/v1/mesh");
        let lines: u64 = mesh["unverified"]
            .as_array()
            .unwrap()
            .iter()
            .map(|n| n["lines"].as_u64().unwrap())
            .sum();
        if mesh["batchesWaiting"] == 0 && lines == apart {
            return mesh;
        }
        assert!(Instant::now() < until, "{mesh}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Counters of the agent on a node.
pub fn counters(recorder: &Recorder, node: &str) -> Value {
    let status = json_of(recorder, "/v1/workloads");
    let sources = status["sources"].as_array().unwrap();
    let of = sources.iter().find(|s| s["label"] == node);
    of.map(|s| s["counters"].clone()).unwrap_or_default()
}

pub fn records(recorder: &Recorder) -> Vec<Value> {
    let (status, body) = recorder.get("/v1/records", Some("ann"));
    assert_eq!(status, 200, "{body}");
    body.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}
