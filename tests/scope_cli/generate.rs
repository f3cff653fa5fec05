//! What `generate` writes, refuses and says.

#![allow(clippy::unwrap_used)] // a test that cannot go on should say where

use serde_json::{Value, json};

use super::common::{self, expect, run};
use super::lab::{Lab, MESH, documents, hosts, said};

#[test]
fn a_virtual_service_of_a_central_namespace_is_listed_under_its_own() {
    let lab = Lab::new("");
    let found = lab.generate(&[("shop/web", "reviews.prod", 9080)], &[]);
    assert_eq!(found.len(), 1);
    assert_eq!(
        hosts(&found[0]),
        ["central/reviews.prod.svc.cluster.local", "prod/reviews.prod.svc.cluster.local"]
    );
    assert_eq!(found[0]["spec"]["workloadSelector"]["labels"], json!({"app": "web"}));
}

/// A VirtualService alone gives its host a virtual host for the full name. Only the Service's own
/// has the short names, and an application may use them.
#[test]
fn the_service_of_a_host_that_is_led_elsewhere_is_listed_for_its_short_names() {
    let lab = Lab::new(
        "apiVersion: v1\nkind: Service\nmetadata: {namespace: prod, name: sale}\n\
         spec: {clusterIP: 10.96.7.7, ports: [{name: http, port: 80}]}\n---\n\
         apiVersion: networking.istio.io/v1\nkind: VirtualService\n\
         metadata: {namespace: rules, name: sale}\nspec:\n  \
         hosts: [sale.prod.svc.cluster.local]\n  \
         http: [{route: [{destination: {host: ratings.prod.svc.cluster.local}}]}]\n",
    );
    let found = lab.generate(&[("shop/web", "sale.prod", 80)], &[]);
    assert_eq!(
        hosts(&found[0]),
        ["prod/sale.prod.svc.cluster.local", "rules/sale.prod.svc.cluster.local"]
    );
}

#[test]
fn settings_of_the_replaced_sidecar_are_carried_over_and_its_port_is_kept() {
    let default = "apiVersion: networking.istio.io/v1\nkind: Sidecar\n\
                   metadata: {namespace: shop, name: default}\nspec:\n  \
                   outboundTrafficPolicy: {mode: REGISTRY_ONLY}\n  \
                   inboundConnectionPool: {http: {http1MaxPendingRequests: 9}}\n  \
                   ingress: [{port: {number: 8081, protocol: HTTP, name: http}, \
                   defaultEndpoint: '127.0.0.1:8080'}]\n  \
                   egress: [{port: {number: 3306, protocol: MYSQL, name: db}, \
                   hosts: ['data/*']}, {hosts: ['*/*']}]\n";
    let found = Lab::new(default).generate(&[("shop/web", "ratings.prod", 9080)], &[]);
    let spec = &found[0]["spec"];
    assert_eq!(spec["outboundTrafficPolicy"], json!({"mode": "REGISTRY_ONLY"}));
    assert_eq!(spec["inboundConnectionPool"]["http"]["http1MaxPendingRequests"], 9);
    assert_eq!(spec["ingress"][0]["port"]["number"], 8081);
    assert_eq!(spec["egress"][0]["port"]["number"], 3306);
    assert_eq!(hosts(&found[0]), ["prod/ratings.prod.svc.cluster.local"]);
}

#[test]
fn what_the_proxy_itself_calls_is_implied() {
    let lab = Lab::new(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {namespace: istio-system, name: istio}\n\
         data:\n  mesh: |\n    extensionProviders:\n    \
         - {name: zip, zipkin: {service: zipkin.obs.svc.cluster.local, port: 9411}}\n    \
         - {name: authz, envoyExtAuthzGrpc: {service: authz.obs.svc.cluster.local, port: 9000}}\n\
         ---\napiVersion: telemetry.istio.io/v1\nkind: Telemetry\n\
         metadata: {namespace: istio-system, name: mesh}\n\
         spec: {tracing: [{providers: [{name: zip}]}]}\n\
         ---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
         metadata: {namespace: shop, name: ask}\n\
         spec: {action: CUSTOM, provider: {name: authz}, selector: {matchLabels: {app: web}}}\n",
    );
    let found = lab
        .generate(&[("shop/web", "ratings.prod", 9080), ("shop/cart", "ratings.prod", 9080)], &[]);
    let zipkin = "obs/zipkin.obs.svc.cluster.local";
    assert_eq!(
        hosts(&found[0]),
        [zipkin, "prod/ratings.prod.svc.cluster.local"],
        "cart has no authorization policy"
    );
    assert_eq!(
        hosts(&found[1]),
        ["obs/authz.obs.svc.cluster.local", zipkin, "prod/ratings.prod.svc.cluster.local"]
    );
}

/// Two workloads with the same labels, and one with others.
const SHARED: [(&str, &str, u16); 3] = [
    ("shop/twin-a", "ratings.prod", 9080),
    ("shop/twin-b", "reviews.prod", 9080),
    ("shop/cart", "ratings.prod", 9080),
];
/// What they call together.
const UNION: [&str; 3] = [
    "central/reviews.prod.svc.cluster.local",
    "prod/ratings.prod.svc.cluster.local",
    "prod/reviews.prod.svc.cluster.local",
];

#[test]
fn workloads_that_share_labels_share_a_sidecar_with_the_union_of_their_hosts() {
    let found = Lab::new("").generate(&SHARED, &[]);
    assert_eq!(found.len(), 2, "the twins share one");
    assert_eq!(hosts(&found[1]), UNION);
}

#[test]
fn grouped_by_namespace_one_sidecar_without_a_selector_has_the_union() {
    let all = Lab::new("").generate(&SHARED, &["--group-by", "namespace"]);
    assert_eq!(all.len(), 1);
    assert!(all[0]["spec"].get("workloadSelector").is_none());
    assert_eq!(hosts(&all[0]), UNION);
}

#[test]
fn options_add_a_default_for_the_namespace_and_select_workloads() {
    let lab = Lab::new("");
    assert_eq!(lab.generate(&SHARED, &["--namespace-default"]).len(), 3);
    assert_eq!(lab.generate(&SHARED, &["--workload", "shop/cart"]).len(), 1);
    assert_eq!(lab.generate(&SHARED, &["--exclude", "shop/cart"]).len(), 1);
}

/// A Sidecar that somebody wrote for `web`, and a call of `web`.
const OWN: &str = "apiVersion: networking.istio.io/v1\nkind: Sidecar\n\
                   metadata: {namespace: shop, name: mine}\nspec:\n  \
                   workloadSelector: {labels: {app: web}}\n  egress: [{hosts: ['*/*']}]\n";
const CALL: [(&str, &str, u16); 1] = [("shop/web", "ratings.prod", 9080)];

#[test]
fn a_sidecar_that_selects_the_same_pods_is_replaced_under_its_name_where_asked() {
    let found = Lab::new(OWN).generate(&CALL, &["--adopt"]);
    assert_eq!(found[0]["metadata"]["name"], "mine");
}

#[test]
fn a_sidecar_that_selects_the_same_pods_stands_in_the_way() {
    let out = Lab::new(OWN).try_generate(&CALL, &[]);
    let said = said(&out);
    assert!(said.contains("shop/mine") && said.contains("--adopt"), "{said}");
    assert!(out.stdout.is_empty() && out.status.code() == Some(5), "{said}");
}

#[test]
fn a_sidecar_that_selects_more_pods_stands_in_the_way_even_where_asked_to_replace_it() {
    let lab = Lab::new(&OWN.replace("{app: web}", "{tier: front}"));
    let out = lab.try_generate(&CALL, &["--adopt"]);
    let said = said(&out);
    assert!(said.contains("IST0110") && said.contains("shop/cart"), "{said}");
    assert!(out.stdout.is_empty());
}

#[test]
fn what_is_not_ready_is_withheld_with_its_own_exit_code() {
    let case = common::samples().join("d-bookinfo");
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    common::learn(&case, &common::captures(&case), &store);
    let (store, cluster) =
        (store.display().to_string(), case.join("cluster.yaml").display().to_string());
    let source = ["--store", store.as_str(), "--cluster", &cluster, "-n", "bookinfo"];
    let out = run(&[&["generate", "--min-coverage", "7d"], &source[..]].concat());
    assert_eq!(out.status.code(), Some(5));
    assert!(out.stdout.is_empty());
    assert!(String::from_utf8_lossy(&out.stderr).contains("not ready: watched for"));
    let all = expect(
        0,
        &[&["generate", "--min-coverage", "7d", "--include-unready"], &source[..]].concat(),
    );
    let asked = ["generate", "--min-coverage", "0s", "--min-confidence", "0"];
    assert_eq!(all, expect(0, &[&asked[..], &source[..]].concat()));
    // What a careful person would choose is the default.
    assert_eq!(run(&[&["generate"], &source[..]].concat()).status.code(), Some(5));
}

#[test]
fn a_declared_call_of_an_unknown_workload_is_named_with_its_line() {
    let lab = Lab::new("");
    let unknown = lab.file("unknown.jsonl", "{\"workload\": \"shop/nobody\", \"host\": \"a.b\"}\n");
    let calls = unknown.display().to_string();
    let out = run(&["generate", "--cluster", &lab.mesh(), "--calls", &calls]);
    assert_eq!(out.status.code(), Some(3));
    assert!(said(&out).contains("unknown.jsonl:1: no workload"));
}

#[test]
fn lines_that_are_no_calls_are_all_named_and_nothing_is_written() {
    let lab = Lab::new("");
    let bad = lab.file("bad.jsonl", "{\"workload\": \"shop/web\"}\nnot json\n");
    let calls = bad.display().to_string();
    let out = run(&["generate", "--cluster", &lab.mesh(), "--calls", &calls]);
    assert_eq!(out.status.code(), Some(1));
    let said = said(&out);
    for part in [
        "bad.jsonl:1: not a call (missing field `host`",
        "bad.jsonl:2: not a call",
        "nothing is written",
    ] {
        assert!(said.contains(part), "{part} is missing in {said}");
    }
}

/// What `generate` says on this mesh.
fn said_of(mesh: &str) -> String {
    let lab = Lab::new("");
    let mesh = lab.file("given.yaml", mesh).display().to_string();
    let calls = lab.calls(&[("shop/web", "reviews.prod.svc.cluster.local", 80)]);
    said(&run(&["generate", "--include-unready", "--cluster", &mesh, "--calls", &calls]))
}

#[test]
fn a_snapshot_that_lacks_what_the_proof_rests_on_is_reported() {
    let bare: Vec<&str> = MESH.split("\n---\n").filter(|o| !o.contains("istio.io/")).collect();
    let without = said_of(&bare.join("\n---\n"));
    assert!(
        without.contains("has no VirtualService") && without.contains("has no MeshConfig"),
        "{without}"
    );
}

#[test]
fn a_snapshot_that_has_what_the_proof_rests_on_is_not_reported() {
    let config = "apiVersion: v1\nkind: ConfigMap\n\
                  metadata: {namespace: istio-system, name: istio}\ndata: {mesh: ''}\n";
    let with = said_of(&format!("{MESH}\n---\n{config}"));
    assert!(!with.contains("the snapshot has no"), "{with}");
}

/// A store in which `web` called `reviews` until yesterday, and `ratings` two months ago.
fn with_a_stale_dependency(lab: &Lab) -> String {
    let store = lab.dir.path().join("store").display().to_string();
    let web = json!({"namespace": "shop", "kind": "Deployment", "name": "web"});
    let began = "2026-01-01T00:00:00Z";
    let dependency = |host: &str, to: &str, last: &str| {
        let (name, namespace) = host.split_once('.').unwrap();
        let example = json!({"time": last, "from": "10.0.0.1:4000", "to": to});
        let evidence = json!({"connections": 1, "firstSeen": began, "lastSeen": last,
            "examples": [example]});
        json!({"row": {"record": "dependency", "workload": web, "port": 9080, "protocol": "TCP",
            "connections": 1,
            "destination": {"type": "service", "namespace": namespace, "name": name,
                "host": format!("{host}.svc.cluster.local"), "port": 9080},
            "firstSeen": began, "lastSeen": last, "evidence": {"endpoint": evidence}}})
    };
    let lines = [
        json!({"sidecarta": {"version": 1}}),
        json!({"row": {"record": "workload", "namespace": "shop", "kind": "Deployment",
            "name": "web", "selector": {"app": "web"}, "dataPlane": "sidecar",
            "lastSeen": "2026-03-01T00:00:00Z"}}),
        dependency("reviews.prod", "10.1.0.6:9080", "2026-02-28T00:00:00Z"),
        dependency("ratings.prod", "10.1.0.7:9080", began),
        json!({"end": {"rows": 3, "batches": 0}}),
    ];
    let export = lab.file("e.ndjson", &lines.map(|l| format!("{l}\n")).concat());
    expect(0, &["import", "--store", &store, &export.display().to_string()]);
    store
}

#[test]
fn what_was_not_seen_for_long_is_marked() {
    let lab = Lab::new("");
    let store = with_a_stale_dependency(&lab);
    let table = expect(0, &["dependencies", "--store", &store]);
    let marked: Vec<bool> =
        table.lines().filter(|l| l.contains("prod/")).map(|l| l.contains("stale")).collect();
    assert_eq!(marked, [true, false], "{table}");
}

#[test]
fn what_was_not_seen_for_long_is_left_out_only_when_asked() {
    let lab = Lab::new("");
    let (store, mesh) = (with_a_stale_dependency(&lab), lab.mesh());
    let generate = [
        "generate",
        "--include-unready",
        "--store",
        &store,
        "--cluster",
        &mesh,
        "--workload",
        "shop/web",
    ];
    let has_ratings = |all: &[Value]| hosts(&all[0]).iter().any(|h| h.contains("ratings"));
    let all = documents(&expect(0, &generate));
    assert!(has_ratings(&all), "{all:?}");
    let out = run(&[&generate[..], &["--drop-stale", "30d"]].concat());
    let fresh = documents(std::str::from_utf8(&out.stdout).unwrap());
    assert!(!has_ratings(&fresh), "{fresh:?}");
    let said = said(&out);
    assert!(said.contains("prod/ratings:9080 is left out as stale"), "{said}");
}
