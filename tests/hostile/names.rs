//! Hostile names in every field that can reach a Sidecar.

#![allow(clippy::unwrap_used)] // a test that cannot go on should say where

use std::collections::BTreeMap;
use std::path::Path;

use proptest::prelude::*;
use serde_json::{Value, json};
use sidecarta::generate::{
    DeclaredCall, GenerateInput, GenerateOptions, Learned, generate, subjects,
};
use sidecarta::model::{WorkloadId, valid};
use sidecarta::snapshot::{self, Builders, Report};

use crate::lab::{by_yaml_1_1, by_yaml_1_2};

/// Objects in which each `{n}` stands for the n-th of [`NAMES`], or for a hostile one.
const OBJECTS: &str = r#"
{"kind": "Pod", "apiVersion": "v1",
 "metadata": {"name": "web-1", "namespace": "a", "labels": {"app": "web"}},
 "spec": {"containers": [{"name": "istio-proxy"}]},
 "status": {"phase": "Running", "podIP": "10.0.0.1"}}
{"kind": "Pod", "apiVersion": "v1",
 "metadata": {"name": {0}, "namespace": {1}, "labels": {{2}: {3}},
  "ownerReferences": [{"kind": {4}, "name": {5}, "controller": true}]},
 "spec": {"containers": [{"name": "istio-proxy"}]},
 "status": {"phase": "Running", "podIP": "10.0.0.2"}}
{"kind": "Deployment", "apiVersion": "apps/v1", "metadata": {"name": {5}, "namespace": {1}},
 "spec": {"selector": {"matchLabels": {{2}: {3}}}}}
{"kind": "Service", "apiVersion": "v1", "metadata": {"name": {6}, "namespace": {1}},
 "spec": {"clusterIP": "10.1.0.1", "ports": [{"name": {7}, "port": 80}]}}
{"kind": "ServiceEntry", "apiVersion": "networking.istio.io/v1",
 "metadata": {"name": {8}, "namespace": "a"},
 "spec": {"hosts": [{9}, "*.wild.example"],
  "ports": [{"number": 80, "name": {7}, "protocol": "HTTP"}], "resolution": "NONE"}}
{"kind": "VirtualService", "apiVersion": "networking.istio.io/v1",
 "metadata": {"name": {8}, "namespace": "a"},
 "spec": {"hosts": [{10}, "*.wild.example"],
  "http": [{"route": [{"destination": {"host": {11}}}]}]}}
{"kind": "Sidecar", "apiVersion": "networking.istio.io/v1",
 "metadata": {"name": {12}, "namespace": "a"},
 "spec": {"workloadSelector": {"labels": {"app": "web"}},
  "ingress": [{"defaultEndpoint": {13}, {14}: 1}],
  "egress": [
   {"port": {"number": 90, "protocol": "TCP", "name": {15}}, "bind": {16}, "hosts": ["./*"]},
   {"hosts": ["./*"]}]}}
"#;

const NAMES: [&str; 23] = [
    "cart-1",
    "a",
    "app",
    "cart",
    "Deployment",
    "cart",
    "cart",
    "http",
    "entry",
    "www.example.com",
    "rule.example.com",
    "cart.a.svc.cluster.local",
    "old",
    "127.0.0.1:80",
    "port",
    "tcp-x",
    "127.0.0.1",
    // Not in objects: a declared host, hosts of dependencies, names that were seen, and a reason.
    "cart.a",
    "x.wild.example",
    "www.example.com",
    "cart.a",
    "y.wild.example",
    "cart",
];

fn known(name: &dyn Fn(usize) -> String) -> Learned {
    let tally = json!({"connections": 1, "firstSeen": "2026-01-01T00:00:00Z",
        "lastSeen": "2026-01-01T00:00:00Z"});
    let dependency = |destination: Value| {
        let mut d = json!({
            "workload": {"namespace": "a", "kind": "Pod", "name": "web-1"},
            "destination": destination, "port": 80, "protocol": "TCP",
            "evidence": {"http-authority": {"connections": 1, "firstSeen": "2026-01-01T00:00:00Z",
                "lastSeen": "2026-01-01T00:00:00Z", "examples": [{"time": "2026-01-01T00:00:00Z",
                "from": "10.0.0.1:4000", "to": "192.0.2.1:80", "name": name(20)}]}},
            "addressed": {name(20): tally.clone(), name(21): tally.clone()},
            "scopeMiss": tally.clone(),
        });
        d.as_object_mut().unwrap().extend(tally.as_object().unwrap().clone());
        serde_json::from_value(d).unwrap()
    };
    Learned {
        dependencies: vec![
            dependency(
                json!({"type": "external", "host": name(18), "namespace": "a", "name": name(8),
                    "entryHost": "*.wild.example"}),
            ),
            dependency(json!({"type": "external", "host": name(19)})),
            dependency(
                json!({"type": "pod", "namespace": name(1), "kind": name(4), "name": name(22)}),
            ),
            dependency(json!({"type": "unresolved", "address": "10.0.0.9", "host": name(18),
                    "why": "no-service"})),
            dependency(json!({"type": "ambiguous",
                    "candidates": [{"namespace": "a", "name": name(22), "host": name(18),
                        "port": 80}]})),
        ],
        declared: vec![DeclaredCall {
            workload: "a/web-1".to_owned(),
            host: name(17),
            port: Some(80),
            protocol: Some(name(7)),
            ..DeclaredCall::default()
        }],
        ..Learned::default()
    }
}

fn hostile() -> impl Strategy<Value = String> {
    let odd: Vec<char> = "\n\r\t\0\u{1b}\u{7f}\u{85}\u{9b}\u{a0}\u{2028}\u{2029}\u{202e}\
                          \u{feff}\u{fffe}\u{e000}\"'\\#:-?|>%@`[]{},&*!~ é漢"
        .chars()
        .collect();
    let piece = prop_oneof![
        prop::sample::select(odd).prop_map(String::from),
        any::<char>().prop_map(String::from),
        "[ -~]{1,4}",
        Just("\n---\n".to_owned()),
        Just("\u{2028}---\u{2028}kind: X\u{2028}".to_owned()),
        Just(" # ".to_owned()),
        Just(": ".to_owned()),
        Just(".wild.example".to_owned()),
    ];
    prop::collection::vec(piece, 0..6).prop_map(|all| all.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]
    #[test]
    fn with_any_names_the_output_has_exactly_the_generated_sidecars(
        replaced in prop::collection::btree_map(0..NAMES.len(), hostile(), 1..4),
    ) {
        let name = |i: usize| replaced.get(&i).cloned().unwrap_or_else(|| NAMES[i].to_owned());
        let text = (0..NAMES.len()).fold(OBJECTS.to_owned(), |text, i| {
            text.replace(&format!("{{{i}}}"), &json!(name(i)).to_string())
        });
        let (mut builders, mut report) = (Builders::both(None), Report::default());
        snapshot::read(Path::new("odd\u{2028}.json"), text.as_bytes(), &mut builders, &mut report);
        let snapshot = builders.build(report);
        let web = WorkloadId { namespace: "a".into(), kind: "Pod".into(), name: "web-1".into() };
        // A hostile name may equal that of the first pod; that pod is in the snapshot in any case.
        prop_assert!(snapshot.cluster.pods().iter().any(|p| p.workload == web));
        let all = BTreeMap::from([(web, known(&name))]);
        let options = GenerateOptions { include_unready: true, include_incomplete: true,
            adopt: true, detail: true, ..GenerateOptions::default() };
        let input = GenerateInput { cluster: &snapshot.cluster, meshes: &snapshot.meshes,
            learned: &all, options: &options };
        let outcomes = generate(&input, &subjects(&snapshot.cluster, &[]));
        let (mut stream, mut expected) = (String::new(), Vec::new());
        for outcome in &outcomes {
            let Some(manifest) = &outcome.manifest else { continue };
            stream.push_str("---\n");
            stream.push_str(&manifest.to_yaml(&outcome.remarks).unwrap());
            expected.push(serde_json::to_value(manifest).unwrap());
            prop_assert!(valid::object_name(manifest.name()).is_ok());
            prop_assert!(valid::namespace(manifest.namespace()).is_ok());
            let proof = outcome.proof.as_ref().unwrap();
            for (_, host) in proof.hosts.iter().filter_map(|h| h.split_once('/')) {
                prop_assert!(host == "*" || valid::is_wildcard_host(host), "{:?} is listed", host);
            }
        }
        prop_assert!(!expected.is_empty(), "{:?}",
            outcomes.iter().map(|o| &o.withheld).collect::<Vec<_>>());
        prop_assert!(stream.bytes().all(|b| matches!(b, b'\n' | b' '..=b'~')), "{}", stream);
        prop_assert_eq!(&by_yaml_1_1(&stream), &expected, "{}", stream);
        prop_assert_eq!(&by_yaml_1_2(&stream), &expected, "{}", stream);
    }

    #[test]
    fn any_value_is_the_same_in_yaml_1_1_and_1_2(
        all in prop::collection::btree_map(hostile(), prop::collection::vec(hostile(), 0..3), 0..4),
    ) {
        let text = sidecarta::yaml::to_string(&all).unwrap();
        let expected = serde_json::to_value(&all).unwrap();
        prop_assert!(text.bytes().all(|b| matches!(b, b'\n' | b' '..=b'~')), "{}", text);
        prop_assert_eq!(&by_yaml_1_1(&text)[..], std::slice::from_ref(&expected), "{}", text);
        prop_assert_eq!(&by_yaml_1_2(&text)[..], std::slice::from_ref(&expected), "{}", text);
    }
}
