//! Input that somebody wrote to be read as something else: names in declared calls, batches, exports
//! and snapshots, and texts that cost more to read than to write.

#![allow(clippy::unwrap_used)] // a test that cannot go on should say where

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use common::{run, samples};
use proptest::prelude::*;
use serde::Deserialize;
use serde_json::{Value, json};
use sidecarta::generate::{
    DeclaredCall, GenerateInput, GenerateOptions, Learned, generate, subjects,
};
use sidecarta::model::{WorkloadId, valid};
use sidecarta::snapshot::{self, Builders, Report};

const MESH: &str = include_str!("mesh/shop.yaml");

/// A host that ends a comment in YAML 1.1, and brings an object with it.
const BREAKOUT: &str = "x\u{2028}apiVersion: rbac.authorization.k8s.io/v1\u{2028}kind: \
                        \"\\x43luster\\x52ole\\x42inding\"\u{2028}metadata: {name: p}\u{2028}---\u{2028}#";

const TIME: &str = "2023-08-30T14:57:06Z";

struct Lab(tempfile::TempDir);

impl Lab {
    fn new() -> Self {
        let lab = Self(tempfile::tempdir().unwrap());
        lab.file("mesh.yaml", MESH);
        lab
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Exit code, standard output, standard error; both in what a terminal shows.
    fn run(&self, args: &[&str]) -> (i32, String, String) {
        let args = args.iter().map(|a| match a.strip_prefix('@') {
            Some(name) => self.path(name).into_os_string(),
            None => (*a).into(),
        });
        let out = run(&args.collect::<Vec<std::ffi::OsString>>());
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let (said, told) = (text(out.stdout), text(out.stderr));
        for shown in [&said, &told] {
            let odd = shown
                .chars()
                .find(|c| c.is_control() && *c != '\n' || "\u{2028}\u{202e}".contains(*c));
            assert_eq!(odd, None, "{shown}");
            assert!(!shown.contains("panicked"), "{shown}");
        }
        (out.status.code().unwrap(), said, told)
    }
}

/// All documents of a stream, by a reader of YAML 1.1 (its line breaks are those of libyaml).
fn by_yaml_1_1(text: &str) -> Vec<Value> {
    let all = serde_yaml::Deserializer::from_str(text);
    all.map(|d| Value::deserialize(d).unwrap()).filter(|v| !v.is_null()).collect()
}

/// All documents of a stream, by a reader of YAML 1.2.
fn by_yaml_1_2(text: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(text).unwrap()
}

#[test]
fn a_declared_host_that_is_none_withholds_its_workload_with_its_line() {
    let lab = Lab::new();
    let good = json!({"workload": "shop/web", "host": "cart.shop", "port": 80});
    let mut lines = vec![good.to_string(), String::new()];
    let spoilt = [
        json!({"workload": "shop/web", "host": BREAKOUT}),
        json!({"workload": "shop/web", "host": "a.b\u{feff}"}),
        json!({"workload": "shop/web", "host": "a\u{85}b.c"}),
        json!({"workload": "shop/web", "host": "_srv._tcp.a.b"}),
        json!({"workload": "shop/web", "host": "a.b", "port": 0}),
        json!({"workload": "shop/web", "host": "a.b", "protocol": "\u{1b}[2J"}),
    ];
    lines.extend(spoilt.iter().map(Value::to_string));
    lab.file("calls.jsonl", &lines.join("\n"));
    let args =
        ["generate", "--include-unready", "--cluster", "@mesh.yaml", "--calls", "@calls.jsonl"];
    let (code, said, told) = lab.run(&args);
    assert_eq!((code, said.as_str()), (5, ""), "{told}");
    for n in 3..9 {
        assert!(told.contains(&format!("calls.jsonl:{n}: ")), "{n}: {told}");
    }
    assert!(told.contains("\\u{2028}") && told.contains("withheld: shop/web"), "{told}");
    // A line that does not say whose call it is could be anybody's.
    lab.file("calls.jsonl", "cart.shop:80");
    let (code, said, told) = lab.run(&args);
    assert_eq!((code, said.as_str()), (1, ""), "{told}");
    assert!(told.contains("nothing is written"), "{told}");
    // A workload that is not there makes no list too short.
    lab.file("calls.jsonl", &format!("{good}\n{}", json!({"workload": BREAKOUT, "host": "a.b"})));
    let (code, said, told) = lab.run(&args);
    assert_eq!(code, 3, "{told}");
    assert_eq!((by_yaml_1_1(&said).len(), by_yaml_1_2(&said).len()), (1, 1));
}

#[test]
fn objects_with_names_that_are_none_are_named_counted_and_left_out() {
    let lab = Lab::new();
    let object = |kind: &str, meta: Value, spec: Value| {
        let istio = ["ServiceEntry", "VirtualService", "DestinationRule"].contains(&kind);
        let version = if istio { "networking.istio.io/v1" } else { "v1" };
        json!({"apiVersion": version, "kind": kind, "metadata": meta, "spec": spec})
    };
    let odd = "x\u{2028}y\u{1b}[2J\u{202e}";
    let none = json!({});
    let all = [
        object("Pod", json!({"name": odd, "namespace": "shop"}), none.clone()),
        object("Pod", json!({"name": "p", "namespace": odd}), none.clone()),
        object(
            "Pod",
            json!({"name": "p", "namespace": "shop", "labels": {odd: "x"}}),
            none.clone(),
        ),
        object(
            "Pod",
            json!({"name": "p", "namespace": "shop", "labels": {"x": odd}}),
            none.clone(),
        ),
        object(
            "Pod",
            json!({"name": "p", "namespace": "shop", "ownerReferences": [{"kind": odd, "name": "p"}]}),
            none.clone(),
        ),
        object(
            "Service",
            json!({"name": "s", "namespace": "shop"}),
            json!({"selector": {"a": odd}}),
        ),
        object(
            "Deployment",
            json!({"name": "d", "namespace": "shop"}),
            json!({"selector": {"matchLabels": {"a": odd}}}),
        ),
        object("ServiceEntry", json!({"name": "e", "namespace": "shop"}), json!({"hosts": [odd]})),
        object(
            "VirtualService",
            json!({"name": "v", "namespace": "shop"}),
            json!({"hosts": [odd]}),
        ),
        object("DestinationRule", json!({"name": "r", "namespace": "shop"}), json!({"host": odd})),
    ];
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
        let (code, said, told) = lab.run(&args);
        assert_eq!(code, 3, "{told}");
        assert_eq!(said, before.1, "an object that was left out changes nothing");
        assert_eq!(told.matches(&format!("{file}:")).count(), all.len(), "{told}");
        assert!(
            told.contains(&format!("{} objects of the snapshot are left out", all.len())),
            "{told}"
        );
        assert!(told.contains("\\u{2028}") && told.contains("RFC 1123"), "{told}");
    }
}

#[test]
fn batches_and_exports_with_names_that_are_none_are_refused() {
    let lab = Lab::new();
    let case = samples().join("a-before");
    let cluster = case.join("cluster.yaml").display().to_string();
    let pod = json!({"pod": {"name": "my-shell", "uid": "", "workload": {"namespace": "default", "kind": "Pod",
        "name": "my-shell"}, "labels": {"run": "my-shell"}, "selector": {"run": "my-shell"}, "dataPlane": "sidecar", "start": TIME, "end": TIME,
        "addresses": ["10.244.2.34"], "node": "", "capture": {}}});
    let head = json!({"observed": {"version": 1, "source": "agent:n:1", "sequence": 0, "node": "n", "made": TIME,
        "spans": [], "counters": {}}});
    let edge = |name: &str| {
        json!({"edge": {"pod": 0, "responder": "203.0.113.9:443", "transport": "tcp", "orientation": "handshake",
            "fromStart": true, "answered": true, "refused": false, "content": "tls", "names": {"sni": name},
            "initiator": "10.244.2.34:4000", "connections": 1, "first": TIME, "lastBegan": TIME, "last": TIME,
            "packets": 3}})
    };
    let batch =
        |name: &str| format!("{head}\n{pod}\n{}\n{}\n", edge(name), json!({"end": {"lines": 3}}));
    let import = ["import", "--store", "@store", "--cluster", &cluster, "@batches.ndjson"];
    // What a packet can show is taken, and is text in every medium.
    lab.file("batches.ndjson", &batch("a.b\"]%%{init:{}}%%<b>&#34;`_srv._tcp"));
    let (code, _, told) = lab.run(&import);
    assert_eq!(code, 0, "{told}");
    let shown = |form: &str| {
        let (code, said, told) = lab.run(&["dependencies", "--store", "@store", "-o", form]);
        assert_eq!(code, 0, "{told}");
        said
    };
    assert!(shown("table").contains("a.b\"]%%{init:{}}%%<b>&#34;`_srv._tcp"));
    let label =
        "a.b#34;#93;#37;#37;#123;init:#123;#125;#125;#37;#37;#60;b#62;#38;#35;34#59;#96;_srv._tcp";
    assert!(
        shown("mermaid").contains(&format!("{{{{\"external: {label}\"}}}}")),
        "{}",
        shown("mermaid")
    );
    let label = "a.b\\\"]%%{init:{}}%%<b>&amp;#34;`_srv._tcp";
    assert!(
        shown("dot").contains(&format!("[label=\"{label}\", shape=hexagon];")),
        "{}",
        shown("dot")
    );
    lab.file("batches.ndjson", &batch(BREAKOUT));
    let (code, _, told) = lab.run(&import);
    assert_eq!(code, 3, "{told}");
    assert!(told.contains("line 1: ") && told.contains("\\u{2028}"), "{told}");

    let captures: Vec<PathBuf> = vec![case.join("veth5f577e0f.pcap")];
    common::learn(&case, &captures, &lab.path("learned"));
    let (code, export, told) = lab.run(&["export", "--store", "@learned"]);
    assert_eq!(code, 0, "{told}");
    lab.file("export.ndjson", &export);
    assert_eq!(lab.run(&["import", "--store", "@whole", "@export.ndjson"]).0, 0);
    for (word, odd) in [
        ("\"my-shell\"", json!("my\u{2028}shell")),
        ("\"bookinfo\"", json!("book\u{1b}[2Jinfo")),
        ("\"reviews.bookinfo.svc.cluster.local\"", json!("reviews\u{85}.bookinfo")),
    ] {
        assert!(export.contains(word), "{word}");
        lab.file("odd.ndjson", &export.replace(word, &odd.to_string()));
        let (code, _, told) = lab.run(&["import", "--store", "@odd", "@odd.ndjson"]);
        assert_eq!(code, 1, "{told}");
        assert!(told.contains("is not valid") && told.contains("\\u{"), "{told}");
    }
}

#[test]
fn texts_that_nest_too_deep_are_refused_with_their_place() {
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
        let (code, _, told) = lab.run(&["scope", "--cluster", "@mesh.yaml", &path, "shop/web"]);
        assert_eq!(code, 3, "{told}");
        let place = format!("{name}:{line}: ");
        assert!(told.contains(&place) && told.contains("within each other at column"), "{told}");
    }
    lab.file("sidecar.yaml", &format!("kind: Sidecar\nspec: {}\n", "[".repeat(deep)));
    let (code, _, told) =
        lab.run(&["scope", "--cluster", "@mesh.yaml", "shop/web", "--sidecar", "@sidecar.yaml"]);
    assert_eq!(code, 1, "{told}");
    assert!(told.contains("within each other") && told.contains("of line 2"), "{told}");
}

/// Objects with addresses that nobody can read.
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
    let (code, _, told) = lab.run(&["scope", "--cluster", "@mesh.yaml", "@fine.yaml", "shop/web"]);
    assert_eq!(code, 0, "{told}");
    lab.file("odd.yaml", UNREADABLE);
    let (code, _, told) = lab.run(&["scope", "--cluster", "@mesh.yaml", "@odd.yaml", "shop/web"]);
    assert_eq!(code, 3, "{told}");
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
        let lines: Vec<&str> = told.lines().filter(named).collect();
        assert_eq!(lines.len(), 1, "{object}: {told}");
        assert!(lines[0].contains(address), "{address}: {}", lines[0]);
    }
}

/// Objects in which each `{n}` is a place for a name: the n-th of [`NAMES`] unless another is put
/// there.
const OBJECTS: &str = r#"
{"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "web-1", "namespace": "a", "labels": {"app": "web"}},
 "spec": {"containers": [{"name": "istio-proxy"}]}, "status": {"phase": "Running", "podIP": "10.0.0.1"}}
{"kind": "Pod", "apiVersion": "v1", "metadata": {"name": {0}, "namespace": {1}, "labels": {{2}: {3}},
 "ownerReferences": [{"kind": {4}, "name": {5}, "controller": true}]}, "spec": {"containers": [{"name": "istio-proxy"}]},
 "status": {"phase": "Running", "podIP": "10.0.0.2"}}
{"kind": "Deployment", "apiVersion": "apps/v1", "metadata": {"name": {5}, "namespace": {1}},
 "spec": {"selector": {"matchLabels": {{2}: {3}}}}}
{"kind": "Service", "apiVersion": "v1", "metadata": {"name": {6}, "namespace": {1}},
 "spec": {"clusterIP": "10.1.0.1", "ports": [{"name": {7}, "port": 80}]}}
{"kind": "ServiceEntry", "apiVersion": "networking.istio.io/v1", "metadata": {"name": {8}, "namespace": "a"},
 "spec": {"hosts": [{9}, "*.wild.example"], "ports": [{"number": 80, "name": {7}, "protocol": "HTTP"}], "resolution": "NONE"}}
{"kind": "VirtualService", "apiVersion": "networking.istio.io/v1", "metadata": {"name": {8}, "namespace": "a"},
 "spec": {"hosts": [{10}, "*.wild.example"], "http": [{"route": [{"destination": {"host": {11}}}]}]}}
{"kind": "Sidecar", "apiVersion": "networking.istio.io/v1", "metadata": {"name": {12}, "namespace": "a"},
 "spec": {"workloadSelector": {"labels": {"app": "web"}}, "ingress": [{"defaultEndpoint": {13}, {14}: 1}],
 "egress": [{"port": {"number": 90, "protocol": "TCP", "name": {15}}, "bind": {16}, "hosts": ["./*"]}, {"hosts": ["./*"]}]}}
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
    let tally = json!({"connections": 1, "firstSeen": "2026-01-01T00:00:00Z", "lastSeen": "2026-01-01T00:00:00Z"});
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
                json!({"type": "external", "host": name(18), "namespace": "a", "name": name(8), "entryHost": "*.wild.example"}),
            ),
            dependency(json!({"type": "external", "host": name(19)})),
            dependency(
                json!({"type": "pod", "namespace": name(1), "kind": name(4), "name": name(22)}),
            ),
            dependency(
                json!({"type": "unresolved", "address": "10.0.0.9", "host": name(18), "why": "no-service"}),
            ),
            dependency(
                json!({"type": "ambiguous", "candidates": [{"namespace": "a", "name": name(22), "host": name(18), "port": 80}]}),
            ),
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
    let odd: Vec<char> = "\n\r\t\0\u{1b}\u{7f}\u{85}\u{9b}\u{a0}\u{2028}\u{2029}\u{202e}\u{feff}\u{fffe}\u{e000}\"'\\#:-?|>%@`[]{},&*!~ é漢"
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
    fn whatever_a_name_is_the_output_holds_the_sidecars_that_were_meant(
        places in prop::collection::btree_map(0..NAMES.len(), hostile(), 1..4),
    ) {
        let name = |i: usize| places.get(&i).cloned().unwrap_or_else(|| NAMES[i].to_owned());
        let text = (0..NAMES.len()).fold(OBJECTS.to_owned(), |text, i| {
            text.replace(&format!("{{{i}}}"), &json!(name(i)).to_string())
        });
        let (mut builders, mut report) = (Builders::both(None), Report::default());
        snapshot::read(Path::new("odd\u{2028}.json"), text.as_bytes(), &mut builders, &mut report);
        let snapshot = builders.build(report);
        let web = WorkloadId { namespace: "a".into(), kind: "Pod".into(), name: "web-1".into() };
        // The pod may be another's by name; the good one is there in any case.
        prop_assert!(snapshot.cluster.pods().iter().any(|p| p.workload == web));
        let all = BTreeMap::from([(web, known(&name))]);
        let options = GenerateOptions { include_unready: true, include_incomplete: true, adopt: true, detail: true, ..GenerateOptions::default() };
        let input = GenerateInput { cluster: &snapshot.cluster, meshes: &snapshot.meshes, learned: &all, options: &options };
        let outcomes = generate(&input, &subjects(&snapshot.cluster, &[]));
        let (mut stream, mut meant) = (String::new(), Vec::new());
        for outcome in &outcomes {
            let Some(manifest) = &outcome.manifest else { continue };
            stream.push_str("---\n");
            stream.push_str(&manifest.to_yaml(&outcome.remarks).unwrap());
            meant.push(serde_json::to_value(manifest).unwrap());
            prop_assert!(valid::object_name(manifest.name()).is_ok());
            prop_assert!(valid::namespace(manifest.namespace()).is_ok());
            let proof = outcome.proof.as_ref().unwrap();
            for (_, host) in proof.hosts.iter().filter_map(|h| h.split_once('/')) {
                prop_assert!(host == "*" || valid::is_wildcard_host(host), "{:?} is listed", host);
            }
        }
        prop_assert!(!meant.is_empty(), "{:?}", outcomes.iter().map(|o| &o.withheld).collect::<Vec<_>>());
        prop_assert!(stream.bytes().all(|b| matches!(b, b'\n' | b' '..=b'~')), "{}", stream);
        prop_assert_eq!(&by_yaml_1_1(&stream), &meant, "{}", stream);
        prop_assert_eq!(&by_yaml_1_2(&stream), &meant, "{}", stream);
    }

    #[test]
    fn any_value_reads_alike_in_yaml_1_1_and_1_2(
        all in prop::collection::btree_map(hostile(), prop::collection::vec(hostile(), 0..3), 0..4),
    ) {
        let text = sidecarta::yaml::to_string(&all).unwrap();
        let meant = serde_json::to_value(&all).unwrap();
        prop_assert!(text.bytes().all(|b| matches!(b, b'\n' | b' '..=b'~')), "{}", text);
        prop_assert_eq!(&by_yaml_1_1(&text)[..], std::slice::from_ref(&meant), "{}", text);
        prop_assert_eq!(&by_yaml_1_2(&text)[..], std::slice::from_ref(&meant), "{}", text);
    }
}
