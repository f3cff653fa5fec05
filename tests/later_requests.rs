//! One connection that asks for the hosts of two Services behind one endpoint gives both
//! dependencies.

#![allow(clippy::unwrap_used)] // a test that cannot go on should say where

mod common;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sidecarta_testkit::frame::Tcp;
use sidecarta_testkit::pcap;

use common::{expect, learn, text};

const CLIENT: ([u8; 4], u16) = ([10, 1, 0, 1], 40_000);
const SERVER: ([u8; 4], u16) = ([10, 1, 0, 2], 8080);

/// `web`, and `shop` behind the Services `cart`, `catalog` and `unused`.
fn snapshot(dir: &Path) {
    let pod = |name: &str, address| {
        json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"namespace": "n", "name": name, "labels": {"app": name}},
            "spec": {"containers": [{"name": "app"}, {"name": "istio-proxy"}]},
            "status": {"phase": "Running", "podIP": address, "startTime": "2026-01-01T00:00:00Z"}})
    };
    let mut items = vec![pod("web", "10.1.0.1"), pod("shop", "10.1.0.2")];
    for (i, name) in ["cart", "catalog", "unused"].into_iter().enumerate() {
        items.push(json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"namespace": "n", "name": name},
            "spec": {"clusterIP": format!("10.96.0.{}", i + 1), "selector": {"app": "shop"},
                "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}}));
        items.push(json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"namespace": "n", "name": name,
                "labels": {"kubernetes.io/service-name": name}},
            "endpoints": [{"addresses": ["10.1.0.2"]}],
            "ports": [{"name": "http", "port": 8080}]}));
    }
    let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
    std::fs::write(dir.join("cluster.yaml"), list.to_string()).unwrap();
}

/// A handshake, then these requests, each with an answer.
fn capture(dir: &Path, requests: &[String]) -> PathBuf {
    let mut frames = Vec::new();
    let mut packet = |up: bool, syn: bool, (seq, ack): (usize, Option<usize>), payload: &[u8]| {
        let (from, to) = if up { (CLIENT, SERVER) } else { (SERVER, CLIENT) };
        let (seq, ack) = (seq as u32, ack.map(|n| n as u32));
        let frame = Tcp { seq, ack, syn, payload, ..Tcp::default() }.frame(from, to);
        frames.push((1_780_000_000_000_000 + frames.len() as u64 + 1, frame));
    };
    let answer = b"HTTP/1.1 204 No Content\r\n\r\n";
    let (mut up, mut down) = (1_001, 7_001);
    packet(true, true, (1_000, None), b"");
    packet(false, true, (7_000, Some(up)), b"");
    packet(true, false, (up, Some(down)), b"");
    for request in requests {
        packet(true, false, (up, Some(down)), request.as_bytes());
        up += request.len();
        packet(false, false, (down, Some(up)), answer);
        down += answer.len();
    }
    let path = dir.join("web.pcap");
    std::fs::write(&path, pcap::capture(frames)).unwrap();
    path
}

/// Names of Services called, with the number of connections and the evidence.
fn called(dependencies: &[Value]) -> Vec<(&str, u64, Vec<&str>)> {
    dependencies
        .iter()
        .map(|d| {
            assert_eq!(
                (text(d, "/workload/name"), text(d, "/destination/type")),
                ("web", "service"),
                "{d}"
            );
            let grades =
                d["evidence"].as_array().unwrap().iter().map(|e| text(e, "/grade")).collect();
            (text(d, "/destination/name"), d["connections"].as_u64().unwrap(), grades)
        })
        .collect()
}

#[test]
fn both_services_behind_one_endpoint_are_dependencies() {
    let dir = tempfile::tempdir().unwrap();
    snapshot(dir.path());
    let get = |host: &str| format!("GET /items HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let requests = [get("cart"), get("cart"), get("catalog.n.svc.cluster.local"), get("cart")];
    let capture = capture(dir.path(), &requests);
    let store = dir.path().join("store");
    let dependencies = learn(dir.path(), &[capture], &store);
    let evidence = vec!["http-authority", "endpoint-of-several"];
    assert_eq!(called(&dependencies), [("cart", 1, evidence.clone()), ("catalog", 1, evidence)]);
    let store = store.to_str().unwrap();
    let sidecars = expect(
        0,
        &[
            "generate",
            "--include-unready",
            "--store",
            store,
            "--cluster",
            dir.path().join("cluster.yaml").to_str().unwrap(),
        ],
    );
    assert!(
        sidecars.contains("n/cart.n.svc")
            && sidecars.contains("n/catalog.n.svc")
            && !sidecars.contains("unused"),
        "{sidecars}"
    );
}

#[test]
fn what_is_not_read_of_a_connection_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    snapshot(dir.path());
    let mut requests = vec![
        "GET / HTTP/1.1\r\nHost: cart\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nAccept: */*\r\n".to_owned(),
    ];
    requests
        .extend((0..18).map(|i| format!("GET / HTTP/1.1\r\nHost: catalog.n:{}\r\n\r\n", 80 + i)));
    let capture = capture(dir.path(), &requests);
    let store = dir.path().join("store");
    learn(dir.path(), &[capture], &store);
    let status = expect(0, &["status", "--store", store.to_str().unwrap()]);
    assert!(status.contains("dropped-authorities 2, incomplete-head 1"), "{status}");
}
