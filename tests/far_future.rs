//! A capture with packets from the far future: nothing else grows old by it.

#![allow(clippy::unwrap_used)] // a test that cannot go on should say where

mod common;

use std::path::Path;

use common::expect;
use serde_json::{Value, json};
use sidecarta_testkit::{frame, pcap};

/// 2023-11-14T22:13:20Z.
const SEEN: u32 = 1_700_000_000;
/// 2038: as far as libpcap reads the time of a classic capture, which it takes for signed.
const FUTURE: u32 = 2_147_000_000;

/// A classic capture of SYNs from `web`: seconds, and the port of `cart` that is called.
fn capture(path: &Path, syns: &[(u32, u16)]) {
    let frames = (40_000..).zip(syns).map(|(port, (seconds, called))| {
        let frame = frame::syn(([10, 244, 1, 10], port), ([10, 244, 1, 11], *called), 1);
        (u64::from(*seconds) * 1_000_000, frame)
    });
    std::fs::write(path, pcap::capture(frames)).unwrap();
}

fn snapshot(path: &Path) {
    let pod = |name: &str, address: &str| {
        json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"namespace": "shop", "name": name, "labels": {"app": name}},
            "spec": {"nodeName": "n1",
                "containers": [{"name": "app"},
                    {"name": "istio-proxy", "args": ["proxy", "sidecar"]}]},
            "status": {"phase": "Running", "podIP": address}})
    };
    let items = [pod("web", "10.244.1.10"), pod("cart", "10.244.1.11")];
    std::fs::write(path, json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string())
        .unwrap();
}

#[test]
fn packets_of_the_far_future_make_nothing_stale() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    snapshot(&dir.path().join("cluster.json"));
    capture(&dir.path().join("a.pcap"), &[(SEEN, 8080), (SEEN + 60, 8081), (FUTURE, 8082)]);
    let store = path("store");
    let learn = ["replay", "--store", &store, "--cluster", &path("cluster.json"), &path("a.pcap")];
    let told = expect(0, &learn);
    assert!(told.contains("times-corrected"), "{told}");
    let ask = ["dependencies", "--store", &store];
    let table = expect(0, &[&ask[..], &["--stale-after", "1h"]].concat());
    assert!(
        table.contains("8080") && table.contains("8082") && !table.contains("stale"),
        "{table}"
    );
    let all = expect(0, &[&ask[..], &["-o", "json"]].concat());
    let all: Vec<Value> = serde_json::from_str(&all).unwrap();
    // The newest time that can be true.
    let last: Vec<&str> = all.iter().map(|d| d["lastSeen"].as_str().unwrap()).collect();
    assert_eq!(
        last,
        ["2023-11-14T22:13:20Z", "2023-11-14T22:14:20Z", "2023-11-14T22:14:20Z"],
        "{all:?}"
    );
}

#[test]
fn a_store_that_holds_such_a_time_already_makes_nothing_stale_either() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    snapshot(&dir.path().join("cluster.json"));
    capture(&dir.path().join("a.pcap"), &[(SEEN, 8080), (SEEN + 60, 8081)]);
    let store = path("store");
    expect(0, &["replay", "--store", &store, "--cluster", &path("cluster.json"), &path("a.pcap")]);
    // As an older program wrote it: the workload was seen in 2262, and so was one of its calls.
    let export = expect(0, &["export", "--store", &store]);
    let old: String = export
        .lines()
        .map(|l| match l.contains("\"record\":\"workload\"") || l.contains("\"port\":8081") {
            true => {
                l.replace(
                    "\"lastSeen\":\"2023-11-14T22:14:20Z\"",
                    "\"lastSeen\":\"2262-04-11T23:47:16.854775807Z\"",
                ) + "\n"
            }
            false => format!("{l}\n"),
        })
        .collect();
    assert_ne!(old, export);
    std::fs::write(dir.path().join("old.ndjson"), old).unwrap();
    let store = path("old");
    expect(0, &["import", "--store", &store, &path("old.ndjson")]);
    let table = expect(0, &["dependencies", "--store", &store, "--stale-after", "1h"]);
    assert!(table.contains("2262") && !table.contains("stale"), "{table}");
    let stale = expect(0, &["dependencies", "--store", &store, "--stale-after", "30s"]);
    assert!(!stale.contains("stale"), "nothing later can be believed: {stale}");
}
