//! `scope`, `generate`, `explain` and `forecast` as a user types them, on a small mesh with a bit
//! of everything.

#![allow(clippy::unwrap_used)] // a test that cannot go on should say where

mod common;

use std::path::PathBuf;

use common::{expect, run};
use serde_json::{Value, json};

const MESH: &str = include_str!("mesh/shop.yaml");

struct Lab {
    dir: tempfile::TempDir,
}

impl Lab {
    fn new(extra: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("mesh.yaml"), format!("{MESH}\n---\n{extra}")).unwrap();
        Self { dir }
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn mesh(&self) -> String {
        self.dir.path().join("mesh.yaml").display().to_string()
    }

    /// Declared calls: workload, host, port.
    fn calls(&self, calls: &[(&str, &str, u16)]) -> String {
        let lines =
            calls.iter().map(|(w, h, p)| json!({"workload": w, "host": h, "port": p}).to_string());
        self.file("calls.jsonl", &lines.collect::<Vec<_>>().join("\n")).display().to_string()
    }

    fn generate(&self, calls: &[(&str, &str, u16)], more: &[&str]) -> Vec<Value> {
        let (mesh, calls) = (self.mesh(), self.calls(calls));
        let base = ["generate", "--include-unready", "--cluster", &mesh, "--calls", &calls];
        let args = [&base[..], more].concat();
        documents(&expect(0, &args))
    }
}

fn documents(text: &str) -> Vec<Value> {
    let parts = text.split("---\n").filter(|d| !d.trim().is_empty());
    parts.map(|d| sidecarta::yaml::from_str(d).unwrap()).collect()
}

fn hosts(sidecar: &Value) -> Vec<&str> {
    let last = sidecar["spec"]["egress"].as_array().unwrap().last().unwrap();
    last["hosts"].as_array().unwrap().iter().map(|h| h.as_str().unwrap()).collect()
}

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

#[test]
fn settings_of_the_replaced_sidecar_are_carried_over_and_its_port_is_kept() {
    let default = "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {namespace: shop, name: default}\nspec:\n  \
                   outboundTrafficPolicy: {mode: REGISTRY_ONLY}\n  inboundConnectionPool: {http: {http1MaxPendingRequests: 9}}\n  \
                   ingress: [{port: {number: 8081, protocol: HTTP, name: http}, defaultEndpoint: '127.0.0.1:8080'}]\n  \
                   egress: [{port: {number: 3306, protocol: MYSQL, name: db}, hosts: ['data/*']}, {hosts: ['*/*']}]\n";
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
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {namespace: istio-system, name: istio}\ndata:\n  mesh: |\n    extensionProviders:\n    \
         - {name: zip, zipkin: {service: zipkin.obs.svc.cluster.local, port: 9411}}\n    - {name: authz, envoyExtAuthzGrpc: {service: \
         authz.obs.svc.cluster.local, port: 9000}}\n---\napiVersion: telemetry.istio.io/v1\nkind: Telemetry\nmetadata: {namespace: \
         istio-system, name: mesh}\nspec: {tracing: [{providers: [{name: zip}]}]}\n---\napiVersion: \
         security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {namespace: shop, name: ask}\nspec: {action: CUSTOM, provider: {name: \
         authz}, selector: {matchLabels: {app: web}}}\n",
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

#[test]
fn workloads_that_share_labels_share_a_sidecar_and_groups_hold_the_union() {
    let lab = Lab::new("");
    let calls = [
        ("shop/twin-a", "ratings.prod", 9080),
        ("shop/twin-b", "reviews.prod", 9080),
        ("shop/cart", "ratings.prod", 9080),
    ];
    let found = lab.generate(&calls, &[]);
    assert_eq!(found.len(), 2, "the twins share one");
    let union = [
        "central/reviews.prod.svc.cluster.local",
        "prod/ratings.prod.svc.cluster.local",
        "prod/reviews.prod.svc.cluster.local",
    ];
    assert_eq!(hosts(&found[1]), union);
    let all = lab.generate(&calls, &["--group-by", "namespace"]);
    assert_eq!(all.len(), 1);
    assert!(all[0]["spec"].get("workloadSelector").is_none());
    assert_eq!(hosts(&all[0]), union);
    assert_eq!(lab.generate(&calls, &["--namespace-default"]).len(), 3);
    assert_eq!(lab.generate(&calls, &["--workload", "shop/cart"]).len(), 1);
    assert_eq!(lab.generate(&calls, &["--exclude", "shop/cart"]).len(), 1);
}

#[test]
fn a_sidecar_that_selects_the_same_pods_is_replaced_or_stands_in_the_way() {
    let own = "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {namespace: shop, name: mine}\nspec:\n  workloadSelector: \
               {labels: {app: web}}\n  egress: [{hosts: ['*/*']}]\n";
    let lab = Lab::new(own);
    let found = lab.generate(&[("shop/web", "ratings.prod", 9080)], &["--adopt"]);
    assert_eq!(found[0]["metadata"]["name"], "mine");
    let (mesh, calls) = (lab.mesh(), lab.calls(&[("shop/web", "ratings.prod", 9080)]));
    let out = run(&["generate", "--include-unready", "--cluster", &mesh, "--calls", &calls]);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(said.contains("shop/mine") && said.contains("--adopt"), "{said}");
    assert!(out.stdout.is_empty() && out.status.code() == Some(5), "{said}");
    let wide = own.replace("{app: web}", "{tier: front}");
    let lab = Lab::new(&wide);
    let (mesh, calls) = (lab.mesh(), lab.calls(&[("shop/web", "ratings.prod", 9080)]));
    let out =
        run(&["generate", "--adopt", "--include-unready", "--cluster", &mesh, "--calls", &calls]);
    let printed = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(printed.contains("IST0110") && printed.contains("shop/cart"), "{printed}");
    assert!(out.stdout.is_empty());
}

#[test]
fn scope_tells_what_a_pod_sees_and_why_not() {
    let lab = Lab::new("");
    let sidecar = lab.file(
        "try.yaml",
        "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {namespace: shop, name: try}\nspec:\n  egress: [{hosts: \
         ['prod/reviews.prod.svc.cluster.local']}]\n",
    );
    let sidecar = sidecar.display().to_string();
    let mesh = lab.mesh();
    let args = [
        "scope",
        "--cluster",
        &mesh,
        "shop/web-1",
        "--sidecar",
        &sidecar,
        "--call",
        "reviews.prod:9080",
        "-o",
        "json",
    ];
    let got: Value = serde_json::from_str(&expect(0, &args)).unwrap();
    assert_eq!(got["sidecar"], json!({"namespace": "shop", "name": "try"}));
    assert_eq!(got["calls"][0]["route"]["virtualServices"], json!([]));
    assert_eq!(
        got["calls"][0]["route"]["clusters"],
        json!(["outbound|9080||reviews.prod.svc.cluster.local"])
    );
    let missing = got["virtualServicesNotInScope"].as_array().unwrap();
    assert!(missing.iter().any(|m| m["virtualService"] == "central/reviews"
        && m["why"].as_str().unwrap().contains("central/reviews.prod")));
    let without: Value = serde_json::from_str(&expect(
        0,
        &[
            "scope",
            "--cluster",
            &mesh,
            "shop/web",
            "--call",
            "http://reviews.prod:9080",
            "-o",
            "json",
        ],
    ))
    .unwrap();
    assert_eq!(without["sidecar"], Value::Null);
    assert_eq!(without["calls"][0]["route"]["virtualServices"], json!(["central/reviews"]));
    let table =
        expect(0, &["scope", "--cluster", &mesh, "shop/web", "--call", "reviews.prod:9080"]);
    assert!(table.contains("by central/reviews"), "{table}");
}

#[test]
fn forecast_and_explain_agree_with_what_is_generated() {
    let lab = Lab::new("");
    let (mesh, calls) = (
        lab.mesh(),
        lab.calls(&[("shop/web", "reviews.prod", 9080), ("shop/web", "nowhere.example.test", 80)]),
    );
    let source = ["--cluster", &mesh, "--calls", &calls];
    let got: Value =
        serde_json::from_str(&expect(0, &[&["forecast", "-o", "json"], &source[..]].concat()))
            .unwrap();
    let totals = &got["totals"];
    assert!(
        totals["after"]["clusters"].as_u64() < totals["before"]["clusters"].as_u64(),
        "{totals}"
    );
    assert_eq!(totals["today"], totals["before"], "nothing applies today");
    let text = expect(0, &[&["explain"], &source[..], &["shop/web"]].concat());
    assert!(
        text.contains("central/reviews.prod.svc.cluster.local")
            && text.contains("VirtualService central/reviews"),
        "{text}"
    );
    assert!(text.contains("not covered") && text.contains("nowhere.example.test"), "{text}");
    let one = expect(
        0,
        &[&["explain"], &source[..], &["shop/web", "reviews.prod.svc.cluster.local"]].concat(),
    );
    assert!(one.contains("central/reviews.prod") && !one.contains("nowhere"), "{one}");
    let none = run(&[&["explain"], &source[..], &["shop/web", "details"]].concat());
    assert_eq!(none.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&none.stderr).contains("concerns details"));
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
fn odd_input_gives_one_clear_message() {
    let lab = Lab::new("");
    let mesh = lab.mesh();
    let unknown = lab.file("unknown.jsonl", "{\"workload\": \"shop/nobody\", \"host\": \"a.b\"}\n");
    let out = run(&["generate", "--cluster", &mesh, "--calls", &unknown.display().to_string()]);
    assert_eq!(out.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&out.stderr).contains("unknown.jsonl:1: no workload"));
    let bad = lab.file("bad.jsonl", "{\"workload\": \"shop/web\"}\nnot json\n");
    let out = run(&["generate", "--cluster", &mesh, "--calls", &bad.display().to_string()]);
    assert_eq!(out.status.code(), Some(1));
    let printed = String::from_utf8_lossy(&out.stderr).into_owned();
    for part in [
        "bad.jsonl:1: not a call (missing field `host`",
        "bad.jsonl:2: not a call",
        "nothing is written",
    ] {
        assert!(printed.contains(part), "{part} is missing in {printed}");
    }
    for (args, part) in [
        (vec!["scope", "--cluster", &mesh, "web"], "write NAMESPACE/POD"),
        (vec!["scope", "--cluster", &mesh, "shop/none"], "of shop there are"),
        (vec!["scope", "--cluster", &mesh, "shop/web", "--call", "reviews"], "is no call"),
        (vec!["scope", "--cluster", &mesh, "shop/web", "--sidecar", &mesh], "is no Sidecar"),
    ] {
        let out = run(&args);
        assert_eq!(out.status.code(), Some(1), "{args:?}");
        let printed = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(printed.contains(part), "{part} is missing in {printed}");
    }
}

#[test]
fn objects_that_istiod_refuses_are_named_with_the_rule() {
    let odd = "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {namespace: data, name: odd}\nspec:\n  egress: [{hosts: \
               ['prod/reviews', 'a/b/c.d', 'prod/rev.*.x', 'prod/ratings.prod.svc.cluster.local']}]\n";
    let lab = Lab::new(odd);
    let out = run(&["scope", "--cluster", &lab.mesh(), "data/db"]);
    assert_eq!(out.status.code(), Some(0));
    let printed = String::from_utf8_lossy(&out.stderr).into_owned();
    for part in [
        "Sidecar data/odd: istiod's validation refuses it",
        "short names",
        "exactly one slash",
        "left-most label",
    ] {
        assert!(printed.contains(part), "{part} is missing in {printed}");
    }
    // Treated as istiod treats it: the entries that mean something count.
    assert!(String::from_utf8_lossy(&out.stdout).contains("ratings.prod.svc.cluster.local"));
}

#[test]
fn a_snapshot_that_lacks_what_the_proof_rests_on_is_reported() {
    let printed = |mesh: &str| {
        let lab = Lab::new("");
        let (mesh, calls) = (
            lab.file("given.yaml", mesh),
            lab.calls(&[("shop/web", "reviews.prod.svc.cluster.local", 80)]),
        );
        let mesh = mesh.display().to_string();
        let out = run(&["generate", "--include-unready", "--cluster", &mesh, "--calls", &calls]);
        String::from_utf8_lossy(&out.stderr).into_owned()
    };
    let bare: Vec<&str> = MESH.split("\n---\n").filter(|o| !o.contains("istio.io/")).collect();
    let without = printed(&bare.join("\n---\n"));
    assert!(
        without.contains("has no VirtualService") && without.contains("has no MeshConfig"),
        "{without}"
    );
    let config = "apiVersion: v1\nkind: ConfigMap\nmetadata: {namespace: istio-system, name: istio}\ndata: {mesh: ''}\n";
    let with = printed(&format!("{MESH}\n---\n{config}"));
    assert!(!with.contains("the snapshot has no"), "{with}");
}

#[test]
fn what_was_not_seen_for_long_is_marked_and_left_out_only_when_asked() {
    let lab = Lab::new("");
    let (store, mesh) = (lab.dir.path().join("store").display().to_string(), lab.mesh());
    let web = json!({"namespace": "shop", "kind": "Deployment", "name": "web"});
    let dependency = |host: &str, to: &str, last: &str| {
        let (name, namespace) = host.split_once('.').unwrap();
        json!({"row": {"record": "dependency", "workload": web, "port": 9080, "protocol": "TCP", "connections": 1,
            "destination": {"type": "service", "namespace": namespace, "name": name, "host": format!("{host}.svc.cluster.local"), "port": 9080},
            "firstSeen": "2026-01-01T00:00:00Z", "lastSeen": last, "evidence": {"endpoint": {"connections": 1,
                "firstSeen": "2026-01-01T00:00:00Z", "lastSeen": last, "examples": [{"time": last, "from": "10.0.0.1:4000", "to": to}]}}}})
    };
    let lines = [
        json!({"sidecarta": {"version": 1}}),
        json!({"row": {"record": "workload", "namespace": "shop", "kind": "Deployment", "name": "web", "selector": {"app": "web"},
            "dataPlane": "sidecar", "lastSeen": "2026-03-01T00:00:00Z"}}),
        dependency("reviews.prod", "10.1.0.6:9080", "2026-02-28T00:00:00Z"),
        dependency("ratings.prod", "10.1.0.7:9080", "2026-01-01T00:00:00Z"),
        json!({"end": {"rows": 3, "batches": 0}}),
    ];
    let export =
        lab.file("e.ndjson", &lines.map(|l| format!("{l}\n")).concat()).display().to_string();
    expect(0, &["import", "--store", &store, &export]);
    let table = expect(0, &["dependencies", "--store", &store]);
    let marked: Vec<bool> =
        table.lines().filter(|l| l.contains("prod/")).map(|l| l.contains("stale")).collect();
    assert_eq!(marked, [true, false], "{table}");
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
    let all = documents(&expect(0, &generate));
    assert!(hosts(&all[0]).iter().any(|h| h.contains("ratings")), "{all:?}");
    let out = run(&[&generate[..], &["--drop-stale", "30d"]].concat());
    let fresh = documents(&String::from_utf8(out.stdout).unwrap());
    assert!(!hosts(&fresh[0]).iter().any(|h| h.contains("ratings")), "{fresh:?}");
    let printed = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(printed.contains("prod/ratings:9080 is left out as stale"), "{printed}");
}
