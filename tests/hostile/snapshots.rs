//! Hostile snapshots: invalid names, texts that nest too deep, addresses that cannot be read.

#![allow(clippy::unwrap_used)] // a test that cannot go on should say where

use serde_json::{Value, json};

use crate::lab::Lab;

/// An object of each kind with each name that is checked, all of them invalid.
fn odd_objects() -> Vec<Value> {
    let object = |kind: &str, meta: Value, spec: Value| {
        let istio = ["ServiceEntry", "VirtualService", "DestinationRule"].contains(&kind);
        let version = if istio { "networking.istio.io/v1" } else { "v1" };
        json!({"apiVersion": version, "kind": kind, "metadata": meta, "spec": spec})
    };
    let odd = "x\u{2028}y\u{1b}[2J\u{202e}";
    let named = |name: &str| json!({"name": name, "namespace": "shop"});
    let owner = json!({"kind": odd, "name": "p"});
    let pods = [
        named(odd),
        json!({"name": "p", "namespace": odd}),
        json!({"name": "p", "namespace": "shop", "labels": {odd: "x"}}),
        json!({"name": "p", "namespace": "shop", "labels": {"x": odd}}),
        json!({"name": "p", "namespace": "shop", "ownerReferences": [owner]}),
    ];
    let specs = [
        ("Service", "s", json!({"selector": {"a": odd}})),
        ("Deployment", "d", json!({"selector": {"matchLabels": {"a": odd}}})),
        ("ServiceEntry", "e", json!({"hosts": [odd]})),
        ("VirtualService", "v", json!({"hosts": [odd]})),
        ("DestinationRule", "r", json!({"host": odd})),
    ];
    let pods = pods.into_iter().map(|meta| object("Pod", meta, json!({})));
    pods.chain(specs.map(|(kind, name, spec)| object(kind, named(name), spec))).collect()
}

#[test]
fn objects_with_invalid_names_are_named_counted_and_left_out() {
    let lab = Lab::new();
    let all = odd_objects();
    let before = lab.run(&["forecast", "--cluster", "@mesh.yaml", "--calls", "@none.jsonl"]);
    assert_eq!(before.0, 1, "{}", before.2);
    lab.file("none.jsonl", "");
    let before = lab.run(&["forecast", "--cluster", "@mesh.yaml", "--calls", "@none.jsonl"]);
    let list = json!({"apiVersion": "v1", "kind": "List", "items": all});
    lab.file("odd.json", &list.to_string());
    let yaml: String =
        all.iter().map(|o| format!("---\n{}", sidecarta::yaml::to_string(o).unwrap())).collect();
    lab.file("odd.yaml", &yaml);
    for file in ["odd.json", "odd.yaml"] {
        let path = format!("@{file}");
        let args = ["forecast", "--calls", "@none.jsonl", "--cluster", "@mesh.yaml", &path];
        let (code, stdout, stderr) = lab.run(&args);
        assert_eq!(code, 3, "{stderr}");
        assert_eq!(stdout, before.1, "an object that was left out changes nothing");
        assert_eq!(stderr.matches(&format!("{file}:")).count(), all.len(), "{stderr}");
        assert!(
            stderr.contains(&format!("{} objects of the snapshot are left out", all.len())),
            "{stderr}"
        );
        assert!(stderr.contains("\\u{2028}") && stderr.contains("RFC 1123"), "{stderr}");
    }
}

#[test]
fn texts_that_nest_too_deep_are_refused_with_file_and_line() {
    let lab = Lab::new();
    let deep = 100_000;
    let files = [
        ("flow.yaml", format!("kind: Pod\na: {}{}\n", "[".repeat(deep), "]".repeat(deep)), 2),
        ("maps.yaml", format!("kind: Pod\na: {}\n", "{a: ".repeat(deep)), 2),
        ("block.yaml", format!("kind: Pod\na:\n  {}x\n", "- ".repeat(deep)), 3),
        (
            "deep.json",
            format!("{{\"kind\": \"Pod\",\n\"a\": {}{}}}\n", "[".repeat(deep), "]".repeat(deep)),
            2,
        ),
        (
            "item.json",
            format!(
                "{{\"kind\": \"List\", \"items\": [\n{{\"kind\": \"Pod\",\n\"a\": {}{}}}]}}\n",
                "[".repeat(deep),
                "]".repeat(deep)
            ),
            3,
        ),
    ];
    for (name, text, line) in files {
        lab.file(name, &text);
        let path = format!("@{name}");
        let (code, _, stderr) = lab.run(&["scope", "--cluster", "@mesh.yaml", &path, "shop/web"]);
        assert_eq!(code, 3, "{stderr}");
        let position = format!("{name}:{line}: ");
        assert!(
            stderr.contains(&position) && stderr.contains("within each other at column"),
            "{stderr}"
        );
    }
    lab.file("sidecar.yaml", &format!("kind: Sidecar\nspec: {}\n", "[".repeat(deep)));
    let (code, _, stderr) =
        lab.run(&["scope", "--cluster", "@mesh.yaml", "shop/web", "--sidecar", "@sidecar.yaml"]);
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains("within each other") && stderr.contains("of line 2"), "{stderr}");
}

/// Objects with addresses that cannot be read.
const UNREADABLE: &str = r#"
kind: Pod
metadata: {namespace: shop, name: odd-1}
status: {podIP: 10.1.0.300}
---
kind: Pod
metadata: {namespace: shop, name: odd-2}
status: {podIPs: [{ip: x}]}
---
kind: Pod
metadata: {namespace: shop, name: odd-3}
status: {hostIP: 1.2.3}
---
kind: Pod
metadata:
  namespace: shop
  name: odd-4
  annotations: {traffic.sidecar.istio.io/excludeOutboundIPRanges: '10.0.0.0/99'}
---
kind: Service
metadata: {namespace: shop, name: odd}
spec: {clusterIP: '10.2.0.'}
---
kind: Service
metadata: {namespace: shop, name: lb}
spec: {clusterIP: None}
status: {loadBalancer: {ingress: [{ip: "192.0.2.\e"}]}}
---
kind: EndpointSlice
metadata: {namespace: shop, name: odd, labels: {kubernetes.io/service-name: odd}}
endpoints: [{addresses: ['10.1.0']}]
ports: [{port: 1}, {port: 2}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {namespace: shop, name: odd}
spec:
  hosts: [odd.example.com, two.example.com]
  addresses: [192.0.2.0/33]
  resolution: STATIC
  endpoints: [{address: one}]
---
kind: Node
metadata: {name: odd}
spec: {podCIDR: 10.9.0.0/40}
status: {addresses: [{type: InternalIP, address: '10.9'}, {type: Hostname, address: odd}]}
"#;

/// Objects whose addresses are names, or that have none.
const READABLE: &str = "
kind: Service
metadata: {namespace: shop, name: headless}
spec: {clusterIP: None, clusterIPs: [None]}
---
kind: EndpointSlice
addressType: FQDN
metadata: {namespace: shop, name: named, labels: {kubernetes.io/service-name: headless}}
endpoints: [{addresses: [a.b]}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {namespace: shop, name: fine}
spec: {hosts: [fine.example.com], resolution: DNS, endpoints: [{address: a.b}]}
";

#[test]
fn addresses_that_cannot_be_read_are_named_with_their_object() {
    let lab = Lab::new();
    lab.file("fine.yaml", READABLE);
    let (code, _, stderr) =
        lab.run(&["scope", "--cluster", "@mesh.yaml", "@fine.yaml", "shop/web"]);
    assert_eq!(code, 0, "{stderr}");
    lab.file("odd.yaml", UNREADABLE);
    let (code, _, stderr) = lab.run(&["scope", "--cluster", "@mesh.yaml", "@odd.yaml", "shop/web"]);
    assert_eq!(code, 3, "{stderr}");
    for (object, address) in [
        ("Pod shop/odd-1: ", "podIP \"10.1.0.300\""),
        ("Pod shop/odd-2: ", "podIP \"x\""),
        ("Pod shop/odd-3: ", "hostIP \"1.2.3\""),
        ("Pod shop/odd-4: ", "excludeOutboundIPRanges \"10.0.0.0/99\""),
        ("Service shop/odd: ", "clusterIP \"10.2.0.\""),
        ("Service shop/lb: ", "loadBalancer \"192.0.2.\\u{1b}\""),
        ("EndpointSlice shop/odd: ", "endpoints \"10.1.0\""),
        ("ServiceEntry shop/odd: ", "addresses \"192.0.2.0/33\", endpoints \"one\""),
        ("Node odd: ", "podCIDR \"10.9.0.0/40\", status.addresses \"10.9\""),
    ] {
        let named = |l: &&str| l.contains(object) && l.contains("no address can be read");
        let lines: Vec<&str> = stderr.lines().filter(named).collect();
        assert_eq!(lines.len(), 1, "{object}: {stderr}");
        assert!(lines[0].contains(address), "{address}: {}", lines[0]);
    }
}
