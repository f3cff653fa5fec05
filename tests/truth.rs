//! Every capture of the running mesh gives exactly the calls that are in the access logs of the
//! sidecars.

#![allow(clippy::unwrap_used)] // a test that cannot go on should say where

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use common::{captures, cases, learn, text};
use serde_json::Value;

/// Who calls what: pod or workload, then `host:port`.
type Calls = BTreeSet<(String, String)>;

/// Workload of a pod, by the naming scheme of the laboratory.
fn workload(pod: &str) -> String {
    match pod {
        "web-0" | "web-1" => "web".to_owned(),
        p if p.matches('-').count() >= 2 && p != "my-shell-plain" => {
            p.rsplitn(3, '-').last().unwrap_or(p).to_owned()
        }
        p => p.to_owned(),
    }
}

/// Hosts of Services by their own address, from the snapshot. The access log has the address if
/// Envoy had no cluster for a call.
fn own_addresses(case: &Path) -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(case.join("cluster.yaml")).unwrap();
    let mut out = BTreeMap::new();
    for document in serde_yaml::Deserializer::from_str(&text) {
        let value: Value = serde::Deserialize::deserialize(document).unwrap();
        let items =
            value.get("items").and_then(Value::as_array).cloned().unwrap_or_else(|| vec![value]);
        for s in items.iter().filter(|i| i["kind"] == "Service") {
            let (name, namespace) = (
                s["metadata"]["name"].as_str().unwrap(),
                s["metadata"]["namespace"].as_str().unwrap(),
            );
            if let Some(ip) = s["spec"]["clusterIP"].as_str() {
                out.insert(ip.to_owned(), format!("{name}.{namespace}.svc.cluster.local"));
            }
        }
    }
    out
}

/// The logged calls of the pods whose interface is in this capture: calls of Services and
/// ServiceEntries, and addresses of calls that the proxy passed through. Refused calls (`-`,
/// BlackHoleCluster) never reached the wire.
fn logged_calls(
    case: &Path,
    watched: &BTreeSet<String>,
) -> (Calls, BTreeMap<String, BTreeSet<String>>) {
    let truth: Value =
        serde_json::from_str(&std::fs::read_to_string(case.join("truth.json")).unwrap()).unwrap();
    let own = own_addresses(case);
    let mut calls = Calls::new();
    let mut passed: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (pod, upstream) in truth.as_object().unwrap() {
        if !watched.contains(pod) {
            continue;
        }
        for u in upstream.as_array().unwrap() {
            let cluster = u["cluster"].as_str().unwrap();
            let who = workload(pod);
            if let [_, port, _, host] = cluster.split('|').collect::<Vec<_>>()[..] {
                calls.insert((who, format!("{host}:{port}")));
            } else if cluster == "PassthroughCluster" {
                let address = u["address"].as_str().unwrap();
                let (ip, port) = address.rsplit_once(':').unwrap();
                match own.get(ip) {
                    Some(host) => {
                        calls.insert((who, format!("{host}:{port}")));
                    }
                    None => {
                        passed.entry(who).or_default().insert(address.to_owned());
                    }
                }
            } else {
                assert!(cluster == "-" || cluster == "BlackHoleCluster", "{cluster}");
            }
        }
    }
    (calls, passed)
}

/// Pods whose own interface a capture shows: by its name, or all of the node for `any`.
fn watched(case: &Path, capture: &Path) -> BTreeSet<String> {
    let name = capture.file_name().unwrap().to_string_lossy().into_owned();
    let rows: Vec<Vec<String>> = std::fs::read_to_string(case.join("veths.tsv"))
        .unwrap()
        .lines()
        .map(|l| l.split('\t').map(str::to_owned).collect())
        .collect();
    let on_node = |node: &str| rows.iter().filter(|r| r[2] == node).map(|r| r[1].clone()).collect();
    match name.as_str() {
        n if n.starts_with("any-kind-worker2") => on_node("sc-w2"),
        n if n.starts_with("any") => on_node("sc-w1"),
        n => {
            let of: BTreeSet<String> =
                rows.iter().filter(|r| n.contains(&r[3])).map(|r| r[1].clone()).collect();
            // q-formats: several formats of my-shell's interface.
            if of.is_empty() { BTreeSet::from(["my-shell".to_owned()]) } else { of }
        }
    }
}

fn check(case: &Path, files: &[PathBuf]) {
    let name = format!(
        "{} {:?}",
        case.display(),
        files.iter().map(|f| f.file_name().unwrap()).collect::<Vec<_>>()
    );
    let dir = tempfile::tempdir().unwrap();
    let found = learn(case, files, &dir.path().join("store"));
    let pods: BTreeSet<String> = files.iter().flat_map(|f| watched(case, f)).collect();
    let who: BTreeSet<String> = pods.iter().map(|p| workload(p)).collect();
    let (mut calls, passed) = logged_calls(case, &pods);
    if case.ends_with("c-plain") {
        // The only caller has no proxy, so no log. Its calls are listed in notes.md.
        for call in ["reviews.bookinfo.svc.cluster.local:9080", "web.data.svc.cluster.local:8080"] {
            calls.insert(("my-shell-plain".to_owned(), call.to_owned()));
        }
    }
    let mut got = Calls::new();
    let mut outside: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for d in &found {
        let caller = text(d, "/workload/name").to_owned();
        // The control plane has no proxy that logs.
        if !who.contains(&caller) || caller == "istiod" {
            continue;
        }
        let kind = text(d, "/destination/type");
        let port = d["port"].as_u64().unwrap();
        let host = text(d, "/destination/host");
        match kind {
            "service" => {
                got.insert((caller, format!("{host}:{port}")));
            }
            "external"
                if !text(d, "/destination/namespace").is_empty()
                    && in_log(&calls, &caller, host, port) =>
            {
                got.insert((caller, format!("{host}:{port}")));
            }
            "external" | "pod" => {
                let examples = d["evidence"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .flat_map(|e| e["examples"].as_array().unwrap());
                outside
                    .entry(caller)
                    .or_default()
                    .extend(examples.map(|e| e["to"].as_str().unwrap().to_owned()));
            }
            "infrastructure" => {
                // A call of istiod's own port by an application is logged, and is still no
                // dependency.
                let at = passed
                    .get(&caller)
                    .into_iter()
                    .flatten()
                    .filter(|a| a.starts_with("10.244.1.2:"))
                    .cloned();
                outside.entry(caller).or_default().extend(at);
            }
            other => panic!("{name}: unexpected {other}: {d}"),
        }
    }
    outside.retain(|_, v| !v.is_empty());
    assert_eq!(got, calls, "{name}");
    assert_eq!(outside, passed, "{name}: calls that the proxy passed through");
}

/// Whether the log has a call. A listed host and an unlisted one may share an address, and the log
/// shows which of the two was called.
fn in_log(calls: &Calls, caller: &str, host: &str, port: u64) -> bool {
    calls.contains(&(caller.to_owned(), format!("{host}:{port}")))
}

#[test]
fn each_capture_gives_the_calls_of_the_access_logs() {
    let mut checked = 0;
    for case in cases().iter().filter(|c| c.join("truth.json").exists()) {
        let all = captures(case);
        for capture in &all {
            check(case, std::slice::from_ref(capture));
            checked += 1;
        }
        if all.len() > 1 {
            check(case, &all);
        }
    }
    assert!(checked >= 40, "only {checked} captures were checked");
}
