//! What agents may say: forged, late and strange batches, through the real recorder.

#![allow(clippy::unwrap_used)] // a test that cannot go on should say where

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use sidecarta::model::Time;

use super::CART;
use super::cluster::{Cluster, Says};
use super::common::{expect, run};
use super::running::{Recorder, service};

const AGENT: &str = "system:serviceaccount:sidecarta:sidecarta-agent";

pub(super) fn now() -> Time {
    Time(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as i64)
}

pub(super) fn hours_ago(hours: i64) -> Time {
    Time((now().0 / 1_000_000_000 - hours * 3_600) * 1_000_000_000)
}

/// A pod as the API server has it; its UID is `uid-NAME`.
pub(super) fn object(namespace: &str, name: &str, address: &str, node: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": namespace, "name": name, "uid": format!("uid-{name}"), "labels": {"app": name}},
        "spec": {"nodeName": node, "containers": [{"name": "app"}, {"name": "istio-proxy", "args": ["proxy", "sidecar"]}]},
        "status": {"phase": "Running", "podIP": address, "startTime": hours_ago(2)}})
}

/// `web` on n1, `cart` and the victim `bank/db` on n2.
pub(super) fn objects() -> Vec<Value> {
    let mut all = vec![
        object("shop", "web", "10.244.1.10", "n1"),
        object("shop", "cart", "10.244.1.11", "n2"),
        object("bank", "db", "10.244.1.12", "n2"),
    ];
    all.extend(service("cart", "10.244.1.11"));
    all
}

fn snapshot(dir: &Path, items: &[Value]) -> PathBuf {
    let path = dir.join("cluster.json");
    std::fs::write(&path, json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string())
        .unwrap();
    path
}

/// A cluster in which the agents of n1 and n2 have tokens, and `ann` may read everything.
pub(super) fn cluster(items: &[Value]) -> Cluster {
    let mut says = Says::default();
    for object in items {
        let plural = format!("{}s", object["kind"].as_str().unwrap().to_lowercase());
        says.objects.entry(plural).or_default().push(object.clone());
    }
    for node in ["n1", "n2"] {
        let audience = Some("sidecarta-recorder".to_owned());
        says.tokens.insert(format!("agent-{node}"), (AGENT.into(), Some(node.into()), audience));
    }
    says.tokens.insert("ann".into(), ("ann".into(), None, None));
    for namespace in ["", "shop", "bank"] {
        says.allowed.insert(("ann".into(), "list".into(), namespace.into()));
    }
    Cluster::start(says)
}

/// A pod in a batch of an agent.
pub(super) fn pod_line(namespace: &str, name: &str, node: &str) -> Value {
    json!({"name": name, "uid": format!("uid-{name}"), "workload": {"namespace": namespace, "kind": "Pod", "name": name},
        "labels": {"app": name}, "selector": {"app": name}, "dataPlane": "sidecar", "start": hours_ago(2),
        "end": "2262-04-11T23:47:16.854775807Z", "addresses": ["10.244.1.10"], "node": node, "capture": {}})
}

pub(super) fn edge(pod: usize, to: &str, connections: u64, at: Time) -> Value {
    json!({"edge": {"pod": pod, "responder": to, "transport": "tcp", "orientation": "handshake", "fromStart": true, "answered": true,
        "refused": false, "content": "unknown", "names": {}, "initiator": "10.244.1.10:40000", "connections": connections,
        "first": at, "lastBegan": at, "last": at, "packets": 9}})
}

fn watching(pod: usize, from: Time, to: Time) -> Value {
    json!({"watching": {"pod": pod, "packets": 9, "spans": [{"from": from, "to": to}]}})
}

/// A batch of these pods and lines.
pub(super) fn batch(node: &str, sequence: u64, pods: &[Value], lines: &[Value]) -> Vec<u8> {
    let header = json!({"observed": {"version": 1, "source": format!("agent:{node}:b"), "sequence": sequence, "node": node,
        "made": now(), "spans": [], "counters": {}}});
    let mut all = vec![header];
    all.extend(pods.iter().map(|p| json!({"pod": p})));
    all.extend_from_slice(lines);
    all.push(json!({"end": {"lines": all.len()}}));
    all.iter().map(|l| format!("{l}\n")).collect::<String>().into_bytes()
}

fn json_of(recorder: &Recorder, path: &str) -> Value {
    let (status, body) = recorder.get(path, Some("ann"));
    assert_eq!(status, 200, "{path}: {body}");
    serde_json::from_str(&body).unwrap()
}

/// Waits until no batch waits to be resolved and so many lines are unverified.
pub(super) fn settled(recorder: &Recorder, apart: u64) -> Value {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let mesh = json_of(recorder, "/v1/mesh");
        let lines: u64 = mesh["unverified"]
            .as_array()
            .unwrap()
            .iter()
            .map(|n| n["lines"].as_u64().unwrap())
            .sum();
        if mesh["batchesWaiting"] == 0 && lines == apart {
            return mesh;
        }
        assert!(Instant::now() < until, "{mesh}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Counters of the agent on a node.
fn counters(recorder: &Recorder, node: &str) -> Value {
    let status = json_of(recorder, "/v1/workloads");
    let sources = status["sources"].as_array().unwrap();
    let of = sources.iter().find(|s| s["label"] == node);
    of.map(|s| s["counters"].clone()).unwrap_or_default()
}

fn records(recorder: &Recorder) -> Vec<Value> {
    let (status, body) = recorder.get("/v1/records", Some("ann"));
    assert_eq!(status, 200, "{body}");
    body.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

#[test]
fn an_agent_speaks_for_the_pods_of_its_node_as_the_api_server_knows_them() {
    let items = objects();
    let cluster = cluster(&items);
    let dir = tempfile::tempdir().unwrap();
    let kubeconfig = Some(cluster.kubeconfig.path());
    let recorder = Recorder::start(&dir.path().join("store"), kubeconfig, &[]);
    let victim = json!({"namespace": "bank", "kind": "Pod", "name": "db"});
    // Its own pod, said to be one of the victim's workload, in another part of the mesh.
    let mut renamed = pod_line("shop", "web", "n1");
    renamed["workload"]["kind"] = "Deployment".into();
    renamed["workload"]["name"] = "cart".into();
    renamed["labels"] = json!({"app": "db"});
    renamed["selector"] = json!({"app": "db"});
    renamed["dataPlane"] = "gateway".into();
    // The victim's pod, said to be here; a pod that is not there; one that says to be elsewhere.
    let stolen = pod_line("bank", "db", "n1");
    let mut ghost = pod_line("bank", "db-0", "n1");
    ghost["workload"] = victim;
    let elsewhere = pod_line("bank", "db-1", "n2");
    let at = hours_ago(1);
    let mut lines: Vec<Value> = (0..4).map(|pod| watching(pod, at, now())).collect();
    lines.push(edge(0, CART, 3, at));
    lines.extend((1..4).map(|pod| edge(pod, "10.244.1.10:9999", 1, at)));
    let forged = batch("n1", 0, &[renamed, stolen, ghost, elsewhere], &lines);
    assert_eq!(recorder.post(Some("agent-n1"), &forged).0, 200);
    let mesh = settled(&recorder, 2);
    assert_eq!(
        (&mesh["unverified"][0]["node"], &mesh["unverified"][0]["pods"]),
        (&"n1".into(), &1.into())
    );
    for record in records(&recorder) {
        assert_ne!(record["workload"]["namespace"], "bank", "{record}");
        assert_ne!(record["namespace"], "bank", "{record}");
        if record["record"] == "workload" {
            assert_eq!((&record["kind"], &record["name"]), (&"Pod".into(), &"web".into()));
            assert_eq!(record["selector"], json!({"app": "web"}));
            assert_eq!(record["dataPlane"], "sidecar");
        }
    }
    let (all, sum) = recorder.dependencies(Some("ann"));
    assert_eq!((all.len(), sum, &all[0]["workload"]["name"]), (1, 3, &"web".into()), "{all:?}");
    let counted = counters(&recorder, "n1");
    assert_eq!(
        (&counted["lines-of-other-nodes"], &counted["lines-unverified"]),
        (&4.into(), &2.into()),
        "{counted}"
    );
    // People see it; and no Sidecar is written for the victim.
    let token = dir.path().join("ann");
    std::fs::write(&token, "ann").unwrap();
    let token = token.display().to_string();
    let url = recorder.url();
    let ask = ["--recorder", &url, "--token-file", &token];
    let status = expect(0, &[&["status"][..], &ask].concat());
    assert!(status.contains("lost: n1: lines-of-other-nodes 4"), "{status}");
    assert!(status.contains("unverified: the agent on n1 sent 2 lines about 1 pods"), "{status}");
    let status = expect(0, &[&["status", "-o", "json"][..], &ask].concat());
    let status: Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["unverified"][0]["lines"], 2, "{status}");
    let of_shop = expect(0, &[&["status", "-n", "shop"][..], &ask].concat());
    assert!(!of_shop.contains("unverified"), "it is said to be of another namespace: {of_shop}");
    let snapshot = snapshot(dir.path(), &items).display().to_string();
    let generate = ["generate", "--include-unready", "--cluster", &snapshot];
    let written = run(&[&generate[..], &ask].concat());
    let written = String::from_utf8_lossy(&written.stdout).into_owned();
    assert!(
        written.contains("namespace: shop") && !written.contains("namespace: bank"),
        "{written}"
    );
    // The agent of the other node is not touched by any of it.
    let honest = batch("n2", 0, &[pod_line("bank", "db", "n2")], &[edge(0, CART, 5, at)]);
    assert_eq!(recorder.post(Some("agent-n2"), &honest).0, 200);
    recorder.connections(Some("ann"), 8);
    assert_eq!(counters(&recorder, "n2")["lines-of-other-nodes"], Value::Null);
    assert_eq!(recorder.kill("TERM").0, Some(0));
}

#[test]
fn a_watch_of_the_far_future_makes_nothing_stale_and_one_of_the_past_covers_nothing() {
    let cluster = cluster(&objects());
    let dir = tempfile::tempdir().unwrap();
    let kubeconfig = Some(cluster.kubeconfig.path());
    let recorder = Recorder::start(&dir.path().join("store"), kubeconfig, &[]);
    let (web, at) = (pod_line("shop", "web", "n1"), hours_ago(1));
    let honest = [edge(0, CART, 3, at), watching(0, at, at)];
    recorder.post(Some("agent-n1"), &batch("n1", 0, std::slice::from_ref(&web), &honest));
    let forged = [
        edge(0, "10.244.1.12:5432", 1, Time::MAX),
        edge(0, "10.244.1.12:5433", 1, Time::MIN),
        watching(0, Time::MIN, Time::MAX),
        watching(0, Time::MAX, Time::MAX),
    ];
    recorder.post(Some("agent-n1"), &batch("n1", 1, &[web], &forged));
    recorder.connections(Some("ann"), 5);
    let latest = Time(now().0 + 600 * 1_000_000_000);
    let (first, last) = (hours_ago(4), latest);
    let within = |time: &Value| {
        let time: Time = time.as_str().unwrap().parse().unwrap();
        assert!(first <= time && time <= last, "{time}");
    };
    for record in records(&recorder) {
        for name in ["firstSeen", "lastSeen"].iter().filter(|n| !record[**n].is_null()) {
            within(&record[*name]);
        }
        for span in record["spans"].as_array().into_iter().flatten() {
            within(&span["from"]);
            within(&span["to"]);
        }
    }
    let watched = &json_of(&recorder, "/v1/coverage")["workloads"][0]["watched"];
    let hours = watched["nanoseconds"].as_u64().unwrap() as f64 / 3.6e12;
    assert!((1.9..2.2).contains(&hours), "from the pod's start until now: {watched}");
    let counted = counters(&recorder, "n1");
    assert_eq!(
        (&counted["times-corrected"], &counted["lines-impossible"]),
        (&3.into(), &1.into()),
        "{counted}"
    );
    assert_eq!(recorder.kill("TERM").0, Some(0));
    let store = dir.path().join("store").display().to_string();
    let table = expect(0, &["dependencies", "--store", &store, "--stale-after", "3h"]);
    assert!(!table.contains("stale"), "{table}");
    let status = expect(0, &["status", "--store", &store]);
    assert!(status.contains("lost: n1: lines-impossible 1, times-corrected 3"), "{status}");
}

#[test]
fn lines_about_an_unknown_pod_are_learned_once_when_it_is_known() {
    let cluster = cluster(&objects());
    let dir = tempfile::tempdir().unwrap();
    let (store, kubeconfig) = (dir.path().join("store"), Some(cluster.kubeconfig.path()));
    let recorder = Recorder::start(&store, kubeconfig, &[]);
    let pods = [
        pod_line("shop", "web", "n1"),
        pod_line("shop", "job", "n1"),
        pod_line("shop", "late", "n1"),
    ];
    let at = hours_ago(1);
    let lines = [
        edge(0, CART, 1, at),
        edge(1, CART, 10, at),
        watching(1, at, now()),
        edge(2, CART, 100, at),
    ];
    let brought = batch("n1", 0, &pods, &lines);
    assert_eq!(recorder.post(Some("agent-n1"), &brought).0, 200);
    settled(&recorder, 3);
    recorder.connections(Some("ann"), 1);
    recorder.kill("KILL");
    // A store tells as much without its recorder.
    let path = store.display().to_string();
    let status = expect(0, &["status", "--store", &path, "-o", "json"]);
    let status: Value = serde_json::from_str(&status).unwrap();
    assert_eq!(
        (&status["unverified"][0]["lines"], &status["unverified"][0]["pods"]),
        (&3.into(), &2.into())
    );
    assert!(!expect(0, &["export", "--store", &path]).contains("\"late\""));
    // A restart changes nothing; then the API server tells of one of the two, on this node, and of
    // the other, on another one.
    let recorder = Recorder::start(&store, kubeconfig, &[]);
    settled(&recorder, 3);
    recorder.connections(Some("ann"), 1);
    assert_eq!(recorder.kill("TERM").0, Some(0));
    let add = |name: &str, node: &str| {
        let pod = object("shop", name, "10.244.1.20", node);
        cluster.says.lock().unwrap().objects.get_mut("pods").unwrap().push(pod);
    };
    add("job", "n1");
    let recorder = Recorder::start(&store, kubeconfig, &[]);
    settled(&recorder, 1);
    recorder.connections(Some("ann"), 11);
    assert_eq!(counters(&recorder, "n1")["lines-confirmed"], 2);
    assert_eq!(recorder.kill("TERM").0, Some(0));
    add("late", "n2");
    let recorder = Recorder::start(&store, kubeconfig, &[]);
    settled(&recorder, 0);
    let counted = counters(&recorder, "n1");
    assert_eq!(
        (
            &counted["lines-of-other-nodes"],
            &counted["lines-unverified"],
            &counted["lines-confirmed"]
        ),
        (&1.into(), &3.into(), &2.into()),
        "{counted}"
    );
    // Brought again, it is held already.
    assert!(recorder.post(Some("agent-n1"), &brought).1.contains("already-held"));
    recorder.connections(Some("ann"), 11);
    assert_eq!(recorder.kill("TERM").0, Some(0));
    let recorder = Recorder::start(&store, kubeconfig, &[]);
    recorder.connections(Some("ann"), 11);
    assert_eq!(recorder.kill("TERM").0, Some(0));
}

#[test]
fn unverified_lines_expire_and_are_counted() {
    let cluster = cluster(&objects());
    let dir = tempfile::tempdir().unwrap();
    let (store, kubeconfig) = (dir.path().join("store"), Some(cluster.kubeconfig.path()));
    let recorder = Recorder::start(&store, kubeconfig, &["--unverified-for", "2s"]);
    let ghost = [pod_line("shop", "ghost", "n1")];
    let lines = [edge(0, CART, 1, hours_ago(1)), watching(0, hours_ago(1), now())];
    assert_eq!(recorder.post(Some("agent-n1"), &batch("n1", 0, &ghost, &lines)).0, 200);
    settled(&recorder, 2);
    settled(&recorder, 0);
    assert_eq!(recorder.dependencies(Some("ann")).1, 0);
    assert_eq!(recorder.kill("TERM").0, Some(0));
    let path = store.display().to_string();
    let status = expect(0, &["status", "--store", &path, "-o", "json"]);
    let status: Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["workloads"], json!([]));
    assert_eq!(status["sources"][0]["counters"]["lines-unverified-expired"], 2, "{status}");
}

#[test]
fn counters_have_known_names_and_old_batches_are_read() {
    let cluster = cluster(&objects());
    let dir = tempfile::tempdir().unwrap();
    let kubeconfig = Some(cluster.kubeconfig.path());
    let recorder = Recorder::start(&dir.path().join("store"), kubeconfig, &[]);
    // Without a UID the pod is known by its name and its start.
    let mut old = [
        pod_line("shop", "web", "n1"),
        pod_line("bank", "db", "n1"),
        pod_line("shop", "web", "n1"),
    ];
    old.iter_mut().for_each(|pod| drop(pod.as_object_mut().unwrap().remove("uid")));
    old[2]["start"] = json!(hours_ago(9));
    let lines: Vec<Value> = (0..3).map(|pod| edge(pod, CART, 1, hours_ago(1))).collect();
    let text = String::from_utf8(batch("n1", 0, &old, &lines)).unwrap();
    let strange = json!({"ring-dropped": 7, "lines-of-other-nodes": 99, "lost nothing": 5, "x".repeat(1_000): 6});
    let text = text.replacen("\"counters\":{}", &format!("\"counters\":{strange}"), 1);
    assert_eq!(recorder.post(Some("agent-n1"), text.as_bytes()).0, 200);
    settled(&recorder, 1);
    recorder.connections(Some("ann"), 1);
    let want = json!({"lines-of-other-nodes": 1, "lines-unverified": 1, "ring-dropped": 7, "unknown-counters": 110});
    assert_eq!(counters(&recorder, "n1"), want);
    assert_eq!(recorder.kill("TERM").0, Some(0));
}

#[test]
fn a_file_of_batches_is_checked_against_the_snapshot_and_the_time_when_it_was_made() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = snapshot(dir.path(), &objects()).display().to_string();
    let pods = [
        pod_line("shop", "web", "n1"),
        pod_line("bank", "db", "n1"),
        pod_line("shop", "job", "n1"),
    ];
    let at = hours_ago(1);
    let lines = [
        edge(0, CART, 1, at),
        edge(1, CART, 10, at),
        edge(2, CART, 100, at),
        watching(0, at, Time::MAX),
    ];
    let file = dir.path().join("observed.ndjson");
    std::fs::write(&file, batch("n1", 0, &pods, &lines)).unwrap();
    let file = file.display().to_string();
    for (more, connections) in [(&[][..], 101), (&["--known-pods-only"][..], 1)] {
        let store = dir.path().join(format!("store-{connections}")).display().to_string();
        let import = ["import", "--store", &store, "--cluster", &cluster, &file];
        let out = run(&[&import[..], more].concat());
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(3), "{said}");
        assert!(
            said.contains("1 lines are about pods that the snapshot has on other nodes"),
            "{said}"
        );
        assert!(said.contains("1 lines have times or counts that cannot be true"), "{said}");
        assert_eq!(said.contains("is believed"), connections == 101, "{said}");
        let all: Vec<Value> =
            serde_json::from_str(&expect(0, &["dependencies", "-o", "json", "--store", &store]))
                .unwrap();
        let sum: u64 = all.iter().map(|d| d["connections"].as_u64().unwrap()).sum();
        assert_eq!(sum, connections, "{all:?}");
        assert!(all.iter().all(|d| d["workload"]["namespace"] == "shop"), "{all:?}");
    }
}
