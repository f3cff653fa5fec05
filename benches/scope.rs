//! Scope of one workload, and Sidecars with proof for a whole mesh: `cargo bench --bench scope`.
//!
//! A synthetic mesh of 10,000 Services and as many workloads, each calling 50 of them; one Service
//! in ten has a VirtualService and one in ten a DestinationRule. Timed beside it, for a ratio:
//! reading the same mesh's JSON.

// A benchmark prints, and ends where it cannot go on.
#![allow(clippy::print_stdout, clippy::expect_used)]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sidecarta::generate::{
    DeclaredCall, GenerateInput, GenerateOptions, Learned, generate, subjects,
};
use sidecarta::mesh::Egress;
use sidecarta::model::WorkloadId;
use sidecarta::scope::{Client, Scope, TrafficMode};
use sidecarta::snapshot::{self, Builders};
use sidecarta_testkit::memory;

const NAMESPACES: usize = 100;
const PER_NAMESPACE: usize = 100;
const HOSTS: usize = 50;

fn host(i: usize) -> String {
    format!("s{}.n{}.svc.cluster.local", i % PER_NAMESPACE, i / PER_NAMESPACE)
}

fn objects() -> Vec<Value> {
    let mut out = Vec::new();
    for i in 0..NAMESPACES * PER_NAMESPACE {
        let (namespace, name) =
            (format!("n{}", i / PER_NAMESPACE), format!("s{}", i % PER_NAMESPACE));
        let ip = format!("10.{}.{}.{}", 64 + i / 65_536, i / 256 % 256, i % 256);
        let vip = format!("10.{}.{}.{}", 96 + i / 65_536, i / 256 % 256, i % 256);
        let created = format!("2026-01-01T{:02}:{:02}:{:02}Z", i / 3600 % 24, i / 60 % 60, i % 60);
        out.push(json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"namespace": namespace, "name": format!("{name}-0"),
                "labels": {"app": name}},
            "spec": {"containers": [{"name": "app"}, {"name": "istio-proxy"}]},
            "status": {"phase": "Running", "podIP": ip}}));
        out.push(json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"namespace": namespace, "name": name, "creationTimestamp": created},
            "spec": {"clusterIP": vip, "selector": {"app": name},
                "ports": [{"name": "http", "port": 80}, {"name": "tcp-db", "port": 5432}]}}));
        out.push(json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"namespace": namespace, "name": format!("{name}-x"),
                "labels": {"kubernetes.io/service-name": name}},
            "endpoints": [{"addresses": [ip]}],
            "ports": [{"name": "http", "port": 80}, {"name": "tcp-db", "port": 5432}]}));
        if i % 10 == 0 {
            // As often in its client's namespace as in its own.
            let owner = if i % 20 == 0 {
                namespace.clone()
            } else {
                format!("n{}", (i / PER_NAMESPACE + 1) % NAMESPACES)
            };
            out.push(json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
                "metadata": {"namespace": owner, "name": format!("v{i}"),
                    "creationTimestamp": created},
                "spec": {"hosts": [host(i)],
                    "http": [{"route": [{"destination": {"host": host(i + 1)}}]}]}}));
        }
        if i % 10 == 5 {
            out.push(json!({"apiVersion": "networking.istio.io/v1", "kind": "DestinationRule",
                "metadata": {"namespace": namespace, "name": format!("d{i}")},
                "spec": {"host": host(i),
                    "trafficPolicy": {"connectionPool": {"tcp": {"maxConnections": 10}}}}}));
        }
    }
    out
}

fn known() -> BTreeMap<WorkloadId, Learned> {
    let total = NAMESPACES * PER_NAMESPACE;
    let of = |i: usize| {
        let id = WorkloadId {
            namespace: format!("n{}", i / PER_NAMESPACE),
            kind: "Pod".to_owned(),
            name: format!("s{}-0", i % PER_NAMESPACE),
        };
        let declared = (0..HOSTS).map(|k| DeclaredCall {
            workload: String::new(),
            host: host((i * 7 + k * 131 + 1) % total),
            port: Some(if k % 5 == 0 { 5432 } else { 80 }),
            ..DeclaredCall::default()
        });
        (id, Learned { declared: declared.collect(), ..Learned::default() })
    };
    (0..total).map(of).collect()
}

fn timed<T>(run: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let out = run();
    (out, start.elapsed())
}

fn main() {
    let text = json!({"apiVersion": "v1", "kind": "List", "items": objects()}).to_string();
    let (value, parse) = timed(|| serde_json::from_str::<Value>(&text).expect("json"));
    drop(black_box(value));
    let (snapshot, index) = timed(|| {
        let (mut builders, mut report) = (Builders::both(None), snapshot::Report::default());
        snapshot::read(Path::new("mesh.json"), text.as_bytes(), &mut builders, &mut report);
        builders.build(report)
    });
    println!(
        "mesh           {} Services, {} MB of JSON",
        NAMESPACES * PER_NAMESPACE,
        text.len() / 1_000_000
    );
    println!("parse (JSON)   {parse:.2?}");
    println!(
        "read and index {index:.2?} = {:.1} x parse",
        index.as_secs_f64() / parse.as_secs_f64()
    );

    let labels = BTreeMap::from([("app".to_owned(), "s1".to_owned())]);
    let client = Client { namespace: "n3", labels: &labels, address: None };
    let hosts = (0..HOSTS)
        .map(|k| format!("n{}/{}", (k * 131) / PER_NAMESPACE % NAMESPACES, host(k * 131 % 10_000)))
        .collect();
    for (name, egress) in [
        ("scope, 50 exact hosts", Egress { hosts, ..Egress::default() }),
        ("scope, */*", Egress { hosts: vec!["*/*".to_owned()], ..Egress::default() }),
    ] {
        let egress = [egress];
        let rounds = 200;
        let (n, time) = timed(|| {
            let scope = || {
                Scope::new(
                    snapshot.meshes.first(),
                    client.namespace,
                    &egress,
                    TrafficMode::AllowAny,
                )
            };
            (0..rounds).map(|_| black_box(scope()).services.len()).max()
        });
        println!("{name:22} {:.3?} each, {} Services", time / rounds, n.unwrap_or_default());
    }

    let known = known();
    let subjects = subjects(&snapshot.cluster, &[]);
    let options = GenerateOptions { include_unready: true, ..GenerateOptions::default() };
    let input = GenerateInput {
        cluster: &snapshot.cluster,
        meshes: &snapshot.meshes,
        learned: &known,
        options: &options,
    };
    let (outcomes, time) = timed(|| generate(&input, &subjects));
    let written = outcomes.iter().filter(|o| o.manifest.is_some()).count();
    let hosts: usize = outcomes.iter().filter_map(|o| Some(o.proof.as_ref()?.hosts.len())).sum();
    let (bytes, write) = timed(|| {
        outcomes
            .iter()
            .filter_map(|o| Some(o.manifest.as_ref()?.to_yaml(&o.remarks).ok()?.len()))
            .sum::<usize>()
    });
    println!(
        "generate       {time:.2?} = {:.1} x parse: {written} Sidecars, {hosts} hosts, each \
         proved; {write:.2?} to write {} MB",
        time.as_secs_f64() / parse.as_secs_f64(),
        bytes / 1_000_000
    );
    let peak = memory::kib(std::process::id(), "VmHWM").unwrap_or(0);
    println!("peak memory    {peak} kB");
    assert_eq!(written, NAMESPACES * PER_NAMESPACE, "every workload has a Sidecar");
}
