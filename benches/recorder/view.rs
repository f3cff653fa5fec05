//! What the view of a large cluster takes: of a snapshot, and of an API server while everything is
//! listed, changed and listed again. Each in a process that does nothing else; it takes less with
//! `MALLOC_TRIM_THRESHOLD_=131072`, as `deploy/recorder.yaml` has it.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};
use sidecarta::cluster::Pod;
use sidecarta::model::Time;
use sidecarta::view::{Extent, View};
use tokio::sync::watch;

use super::fake::Server;
use super::{address, namespace, resident, service, write};

/// Has the view of a snapshot measured.
const SNAPSHOT: &str = "SIDECARTA_BENCH_VIEW";
/// Has the view of an API server measured, the one at this address.
const LIVE: &str = "SIDECARTA_BENCH_VIEW_LIVE";

/// 5,000 Deployments of four pods each, and a Service for each.
fn large() -> Vec<Value> {
    let mut items = Vec::new();
    for w in 0..5_000u32 {
        let (namespace, name) = (namespace(w), format!("service-{w}"));
        let labels = json!({"app": name, "app.kubernetes.io/name": name,
            "app.kubernetes.io/part-of": namespace, "version": "v1"});
        let mut hashed = labels.clone();
        hashed["pod-template-hash"] = json!("6d4cf56db6");
        let set = format!("{name}-6d4cf56db6");
        let addresses: Vec<String> = (0..4).map(|p| address(10, w * 4 + p)).collect();
        items.extend(service(&namespace, w, &addresses));
        items.push(json!({"apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"namespace": namespace, "name": name, "labels": labels},
            "spec": {"selector": {"matchLabels": {"app": name}}}}));
        items.push(json!({"apiVersion": "apps/v1", "kind": "ReplicaSet",
            "metadata": {"namespace": namespace, "name": set, "labels": hashed,
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "Deployment", "name": name,
                "controller": true, "uid": format!("d{w}")}]},
            "spec": {"selector": {"matchLabels": {"app": name,
                "pod-template-hash": "6d4cf56db6"}}}}));
        for (p, address) in addresses.iter().enumerate() {
            let mut labels = hashed.clone();
            labels["security.istio.io/tlsMode"] = json!("istio");
            let injected = r#"{"initContainers":["istio-init"],"containers":["istio-proxy"]}"#;
            items.push(json!({"apiVersion": "v1", "kind": "Pod",
                "metadata": {"namespace": namespace, "name": format!("{set}-{p}x{w:04x}"),
                    "uid": format!("{w:08x}-000{p}-4000-8000-000000000000"),
                    "labels": labels, "annotations": {"sidecar.istio.io/status": injected},
                    "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": set,
                        "controller": true, "uid": format!("r{w}")}]},
                "spec": {"nodeName": format!("node{}", (w * 4 + p as u32) % 500),
                    "containers": [{"name": "app", "image": "registry.example/app:1",
                        "ports": [{"containerPort": 8080}]},
                        {"name": "istio-proxy", "image": "docker.io/istio/proxyv2:1.27.0",
                            "args": ["proxy", "sidecar"]}]},
                "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}],
                    "startTime": "2026-11-25T08:00:00Z"}}));
        }
    }
    items
}

/// Measures in this process, where it was started for that.
pub(super) fn measured() -> bool {
    if let Some(path) = std::env::var_os(SNAPSHOT) {
        snapshot(&PathBuf::from(path));
    } else if let Ok(address) = std::env::var(LIVE) {
        live(&address);
    } else {
        return false;
    }
    true
}

pub(super) fn measure(dir: &Path) {
    let items = large();
    let path = write(&dir.join("large.json"), &items);
    let status =
        Command::new(std::env::current_exe().unwrap()).env(SNAPSHOT, &path).status().unwrap();
    assert!(status.success());

    let server = Server::start();
    for mut item in items {
        let kind = item["kind"].as_str().unwrap().to_owned();
        if kind == "Pod" {
            whole(&mut item);
        }
        server.put(&format!("{}s", kind.to_lowercase()), &kind, item);
    }
    let mut child = Command::new(std::env::current_exe().unwrap())
        .env(LIVE, server.address.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    println!("{}", said.next().unwrap());
    // Each is awaited before the next comes, so that each takes a build of its own.
    for n in 0..CHANGES {
        let mut pod = extra(n);
        whole(&mut pod);
        server.put("pods", "Pod", pod);
        assert_eq!(said.next().unwrap(), extra_name(n));
    }
    println!("{}", said.next().unwrap());
    server.vanish("pods", &format!("ns0/{}", extra_name(0)));
    println!("{}", said.next().unwrap());
    assert!(child.wait().unwrap().success());
}

/// Pods that come while the view is measured.
const CHANGES: u32 = 10;

fn extra_name(n: u32) -> String {
    format!("extra-{n}")
}

fn extra(n: u32) -> Value {
    let address = address(12, n);
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": "ns0", "name": extra_name(n), "uid": format!("extra-uid-{n}")},
        "spec": {"nodeName": "node0", "containers": [{"name": "app"}]},
        "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}],
            "startTime": "2026-11-25T08:00:00Z"}})
}

/// What an API server tells of a pod beside what the view reads: more than half of all.
fn whole(pod: &mut Value) {
    let fields: Map<String, Value> =
        (0..40).map(|n| (format!("f:field-{n}"), json!({"f:value": {}}))).collect();
    pod["metadata"]["managedFields"] =
        json!([{"manager": "kubelet", "operation": "Update", "fieldsV1": fields}]);
    let env: Vec<Value> = (0..10)
        .map(
            |n| json!({"name": format!("VARIABLE_{n}"), "value": format!("value of variable {n}")}),
        )
        .collect();
    pod["spec"]["containers"][0]["env"] = json!(env);
}

/// What a snapshot of 20,000 pods and 5,000 Services becomes.
fn snapshot(path: &Path) {
    let before = resident(std::process::id()).0;
    let start = Instant::now();
    let (cluster, report) = sidecarta::snapshot::load(&[path.to_owned()], None).unwrap();
    let took = start.elapsed();
    let (after, peak) = resident(std::process::id());
    assert_eq!(
        (cluster.pods().len(), cluster.services().len(), report.problems.as_slice()),
        (20_000, 5_000, &[][..])
    );
    println!(
        "view: {} pods, {} Services: built in {took:.2?} of {} MB of JSON; {} MiB more in memory, \
         {} MiB more at its peak",
        cluster.pods().len(),
        cluster.services().len(),
        std::fs::metadata(path).unwrap().len() / 1_000_000,
        (after - before) >> 10,
        (peak - before) >> 10
    );
}

/// The same of an API server, as the recorder has it.
fn live(address: &str) {
    let more = {
        let before = resident(std::process::id()).0;
        move || {
            let (now, peak) = resident(std::process::id());
            format!(
                "{} MiB more in memory, {} MiB more at its peak",
                (now - before) >> 10,
                (peak - before) >> 10
            )
        }
    };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let start = Instant::now();
        let config = kube::Config::new(format!("http://{address}").parse().unwrap());
        let (stop, stopped) = watch::channel(false);
        let (mut view, task) = View::start(
            kube::Client::try_from(config).unwrap(),
            Extent::Cluster,
            None,
            Vec::new(),
            stopped,
        );
        view.ready().await;
        let cluster = view.current();
        println!(
            "  of an API server: {} pods, {} Services: listed and built in {:.2?}; {}",
            cluster.pods().len(),
            cluster.services().len(),
            start.elapsed(),
            more()
        );
        drop(cluster);
        for n in 0..CHANGES {
            until(&mut view, |pods| pods.iter().any(|p| *p.name == *extra_name(n))).await;
            println!("{}", extra_name(n));
        }
        settle().await;
        println!("  after {CHANGES} pods that came one by one: {}", more());
        let start = Instant::now();
        until(&mut view, |pods| {
            pods.iter().any(|p| *p.name == *extra_name(0) && p.end < Time::MAX)
        })
        .await;
        let took = start.elapsed();
        settle().await;
        println!("  listed anew in {took:.2?}: {}", more());
        stop.send(true).unwrap();
        task.await.unwrap();
    });
}

/// The indexes that were replaced are gone a moment after the new ones are there.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(500)).await;
}

async fn until(view: &mut View, so: impl Fn(&[Pod]) -> bool) {
    while !so(view.current().pods()) {
        assert!(
            tokio::time::timeout(Duration::from_secs(60), view.changed()).await.unwrap(),
            "the view has ended"
        );
    }
}
