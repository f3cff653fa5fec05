//! The first law of generation: no known call is missing in a Sidecar that is written. It is
//! checked for any store, and for snapshots that lack any of their objects.

#![allow(clippy::unwrap_used)] // a test that cannot go on should say where

use std::collections::BTreeMap;
use std::path::Path;

use proptest::prelude::*;
use serde_json::{Value, json};
use sidecarta::generate::{Cause, GenerateOptions, GroupOutcome, Learned, generate, subjects};
use sidecarta::model::{Dependency, WorkloadId};
use sidecarta::snapshot::{self, Builders, Report};

const NAMESPACES: [&str; 3] = ["shop", "data", "legacy"];
const NAMES: [&str; 3] = ["cart", "db", "cache"];
const TIME: &str = "2026-01-01T00:00:00Z";

fn object(version: &str, kind: &str, namespace: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": namespace},
        "spec": spec})
}

/// All objects of the cluster except the client. Each of them may be left out.
fn objects() -> Vec<Value> {
    let istio = "networking.istio.io/v1";
    let mut out = Vec::new();
    for (i, namespace) in NAMESPACES.iter().enumerate() {
        out.push(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}));
        for (k, name) in NAMES.iter().enumerate() {
            let ip = format!("10.96.{i}.{}", k + 1);
            let port = if *name == "db" { "tcp" } else { "http" };
            out.push(object(
                "v1",
                "Service",
                namespace,
                name,
                json!({"clusterIP": ip,
                "ports": [{"name": port, "port": 80, "targetPort": 8080}]}),
            ));
        }
    }
    let route = |host: &str| json!([{"route": [{"destination": {"host": host}}]}]);
    out.push(object(
        istio,
        "VirtualService",
        "data",
        "split",
        json!({
        "hosts": ["cart.shop.svc.cluster.local"], "http": route("cache.data.svc.cluster.local")}),
    ));
    out.push(object(
        istio,
        "VirtualService",
        "data",
        "front",
        json!({
        "hosts": ["front.example"], "http": route("cart.data.svc.cluster.local")}),
    ));
    out.push(object(
        "gateway.networking.k8s.io/v1",
        "HTTPRoute",
        "shop",
        "cache",
        json!({
        "parentRefs": [{"group": "", "kind": "Service", "name": "cache", "port": 80}],
        "rules": [{"backendRefs": [{"name": "cart", "port": 80}]}]}),
    ));
    out.push(object(
        istio,
        "ServiceEntry",
        "data",
        "api",
        json!({"hosts": ["api.example.com"],
        "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}], "resolution": "NONE"}),
    ));
    out.push(object(
        istio,
        "EnvoyFilter",
        "shop",
        "limit",
        json!({"configPatches": [{
        "applyTo": "HTTP_FILTER", "patch": {"operation": "INSERT_BEFORE",
            "value": {"cluster_name": "outbound|80||cache.legacy.svc.cluster.local"}}}]}),
    ));
    out
}

fn client() -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web-1", "namespace": "shop",
        "labels": {"app": "web"}}, "spec": {"containers": [{"name": "istio-proxy"}]},
        "status": {"phase": "Running", "podIP": "10.0.0.1"}})
}

/// A destination, and the entry that must be listed if the snapshot lacks it.
fn destination(kind: usize, namespace: usize, name: usize) -> (Value, Option<String>) {
    let (namespace, name) = (NAMESPACES[namespace], NAMES[name]);
    let host = format!("{name}.{namespace}.svc.cluster.local");
    let service = json!({"type": "service", "namespace": namespace, "name": name, "host": host,
        "port": 80});
    let entry = Some(format!("{namespace}/{host}"));
    match kind {
        0 | 1 => (service, entry),
        2 => (
            json!({"type": "unresolved", "address": "10.0.0.9", "host": host,
                "why": "unknown-mesh-host"}),
            entry,
        ),
        3 => (json!({"type": "unresolved", "address": "10.96.0.99", "why": "no-service"}), None),
        4 => (
            json!({"type": "external", "host": "api.example.com", "namespace": "data",
                "name": "api"}),
            Some("data/api.example.com".to_owned()),
        ),
        5 => (json!({"type": "external", "host": "elsewhere.example"}), None),
        _ => (json!({"type": "unresolved", "address": "10.0.0.8", "why": "no-pod-then"}), None),
    }
}

fn dependency(destination: &Value) -> Dependency {
    let evidence = json!({"endpoint": {"connections": 9, "firstSeen": TIME, "lastSeen": TIME,
        "examples": [{"time": TIME, "from": "10.0.0.1:4000", "to": "10.0.0.9:80"}]}});
    serde_json::from_value(
        json!({"workload": {"namespace": "shop", "kind": "Pod", "name": "web-1"},
        "destination": destination, "port": 80, "protocol": "TCP", "connections": 9,
        "firstSeen": TIME, "lastSeen": TIME, "evidence": evidence}),
    )
    .unwrap()
}

fn outcome(cut: &[Value], known: Vec<Dependency>, incomplete: bool) -> GroupOutcome {
    let mut items = cut.to_vec();
    items.push(client());
    let list = json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string();
    let (mut builders, mut report) = (Builders::both(None), Report::default());
    snapshot::read(Path::new("mesh.json"), list.as_bytes(), &mut builders, &mut report);
    assert_eq!(report.problems, Vec::<String>::new());
    let snapshot = builders.build(report);
    let web = WorkloadId { namespace: "shop".into(), kind: "Pod".into(), name: "web-1".into() };
    let all = BTreeMap::from([(web, Learned { dependencies: known, ..Learned::default() })]);
    let options = GenerateOptions {
        include_unready: true,
        include_incomplete: incomplete,
        detail: true,
        ..GenerateOptions::default()
    };
    let (cluster, meshes) = (&snapshot.cluster, &snapshot.meshes);
    let input =
        sidecarta::generate::GenerateInput { cluster, meshes, learned: &all, options: &options };
    let mut out = generate(&input, &subjects(cluster, &[]));
    assert_eq!(out.len(), 1);
    out.remove(0)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]
    #[test]
    fn no_known_call_is_missing_in_a_written_sidecar(
        kept in prop::collection::vec(any::<bool>(), objects().len()),
        calls in prop::collection::btree_set((0..7usize, 0..3usize, 0..3usize), 0..5),
        incomplete in any::<bool>(),
    ) {
        let whole = objects();
        let cut: Vec<Value> =
            whole.iter().zip(&kept).filter(|(_, k)| **k).map(|(o, _)| o.clone()).collect();
        let destinations: Vec<_> = calls.iter().map(|&(k, n, m)| destination(k, n, m)).collect();
        let mut known: Vec<Dependency> = destinations.iter().map(|(d, _)| dependency(d)).collect();
        known.sort_by(|a, b| a.key.cmp(&b.key));
        known.dedup_by(|a, b| a.key == b.key);
        let outcome = outcome(&cut, known, incomplete);
        let vague = calls.iter().any(|(k, ..)| matches!(k, 3 | 6));
        let Some(manifest) = &outcome.manifest else {
            let code = outcome.withheld.as_ref().map(|w| w.code);
            let is_incomplete = vague && !incomplete && code == Some(Cause::Incomplete);
            let is_outside = calls.iter().all(|(k, ..)| *k == 5) && code == Some(Cause::NotWatched);
            prop_assert!(is_incomplete || is_outside, "{:?}", outcome.withheld);
            return Ok(());
        };
        prop_assert!(!vague || incomplete && !outcome.gaps.is_empty(), "{:?}", outcome.remarks);
        let hosts: Vec<&str> = manifest.hosts().collect();
        for (_, entry) in &destinations {
            let Some(entry) = entry else { continue };
            let host = entry.split_once('/').unwrap().1;
            // Where the mesh has the host, the call's treatment equals that with all hosts. The
            // host may also be brought in as the destination of a route.
            let proved = outcome.calls.iter().any(|c| {
                c.planned.call.host == host && c.hosts.iter().all(|h| hosts.contains(&h.as_str()))
                    && (!c.treatment.is_unrouted() || host == "api.example.com")
            });
            prop_assert!(proved || hosts.contains(&entry.as_str()) || hosts.contains(&"*/*"),
                "{entry} is absent from {hosts:?}: {:?}", outcome.remarks);
        }
        // The filter names a Service that the proxy itself calls, whether the snapshot has it or
        // not.
        if cut.iter().any(|o| o["kind"] == "EnvoyFilter") {
            let limit = "legacy/cache.legacy.svc.cluster.local";
            prop_assert!(hosts.contains(&limit) || hosts.contains(&"*/*"), "{hosts:?}");
        }
    }
}
