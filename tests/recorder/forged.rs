//! What agents may say: forged, late and strange batches, through the real recorder.

#![allow(clippy::unwrap_used)] // a test that cannot go on should say where

use std::io::Write;

use serde_json::{Value, json};
use sidecarta::model::Time;

use super::CART;
use super::cluster::Cluster;
use super::common::{expect, run};
use super::lines::{
    batch, cluster, counters, edge, hours_ago, json_of, now, object, objects, pod_line, records,
    settled, snapshot, watching,
};
use super::running::Recorder;

/// A recorder to which the agent on n1 brought lines about its own pod, said to be one of the
/// victim's workload, in another part of the mesh; about the victim's pod, said to be here; about a
/// pod that is not there; and about one that it says is elsewhere.
fn forging() -> (Cluster, tempfile::TempDir, Recorder) {
    let cluster = cluster(&objects());
    let dir = tempfile::tempdir().unwrap();
    let kubeconfig = Some(cluster.kubeconfig.path());
    let recorder = Recorder::start(&dir.path().join("store"), kubeconfig, &[]);
    let mut renamed = pod_line("shop", "web", "n1");
    renamed["workload"]["kind"] = "Deployment".into();
    renamed["workload"]["name"] = "cart".into();
    renamed["labels"] = json!({"app": "db"});
    renamed["selector"] = json!({"app": "db"});
    renamed["dataPlane"] = "gateway".into();
    let stolen = pod_line("bank", "db", "n1");
    let mut ghost = pod_line("bank", "db-0", "n1");
    ghost["workload"] = json!({"namespace": "bank", "kind": "Pod", "name": "db"});
    let elsewhere = pod_line("bank", "db-1", "n2");
    let at = hours_ago(1);
    let mut lines: Vec<Value> = (0..4).map(|pod| watching(pod, at, now())).collect();
    lines.push(edge(0, CART, 3, at));
    lines.extend((1..4).map(|pod| edge(pod, "10.244.1.10:9999", 1, at)));
    let forged = batch("n1", 0, &[renamed, stolen, ghost, elsewhere], &lines);
    assert_eq!(recorder.post(Some("agent-n1"), &forged).0, 200);
    settled(&recorder, 2);
    (cluster, dir, recorder)
}

/// Runs a command that asks the recorder as `ann`.
fn as_ann(recorder: &Recorder, args: &[&str]) -> std::process::Output {
    let mut token = tempfile::NamedTempFile::new().unwrap();
    token.write_all(b"ann").unwrap();
    let token = token.path().display().to_string();
    run(&[args, &["--recorder", &recorder.url(), "--token-file", &token]].concat())
}

/// What the recorder's status prints.
fn status(recorder: &Recorder, more: &[&str]) -> String {
    let out = as_ann(recorder, &[&["status"], more].concat());
    assert_eq!(out.status.code(), Some(0), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

#[test]
fn an_agent_speaks_for_the_pods_of_its_node_as_the_api_server_knows_them() {
    let (_cluster, _dir, recorder) = forging();
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
    assert_eq!(recorder.kill("TERM").0, Some(0));
}

#[test]
fn lines_about_pods_of_other_nodes_are_counted_and_shown() {
    let (_cluster, _dir, recorder) = forging();
    let counted = counters(&recorder, "n1");
    assert_eq!(counted["lines-of-other-nodes"], 4, "{counted}");
    let status = status(&recorder, &[]);
    assert!(status.contains("lost: n1: lines-of-other-nodes 4"), "{status}");
    assert_eq!(recorder.kill("TERM").0, Some(0));
}

#[test]
fn lines_about_unknown_pods_are_counted_and_shown_to_whoever_sees_all_namespaces() {
    let (_cluster, _dir, recorder) = forging();
    let counted = counters(&recorder, "n1");
    assert_eq!(counted["lines-unverified"], 2, "{counted}");
    let mesh = settled(&recorder, 2);
    assert_eq!(
        (&mesh["unverified"][0]["node"], &mesh["unverified"][0]["pods"]),
        (&"n1".into(), &1.into())
    );
    let all = status(&recorder, &[]);
    assert!(all.contains("unverified: the agent on n1 sent 2 lines about 1 pods"), "{all}");
    let all: Value = serde_json::from_str(&status(&recorder, &["-o", "json"])).unwrap();
    assert_eq!(all["unverified"][0]["lines"], 2, "{all}");
    let of_shop = status(&recorder, &["-n", "shop"]);
    assert!(!of_shop.contains("unverified"), "it is said to be of another namespace: {of_shop}");
    assert_eq!(recorder.kill("TERM").0, Some(0));
}

#[test]
fn no_sidecar_is_written_for_a_workload_of_forged_lines() {
    let (_cluster, dir, recorder) = forging();
    let snapshot = snapshot(dir.path(), &objects()).display().to_string();
    let generate = ["generate", "--include-unready", "--cluster", &snapshot];
    let written = as_ann(&recorder, &generate).stdout;
    let written = String::from_utf8_lossy(&written);
    assert!(
        written.contains("namespace: shop") && !written.contains("namespace: bank"),
        "{written}"
    );
    assert_eq!(recorder.kill("TERM").0, Some(0));
}

#[test]
fn forged_lines_do_not_touch_the_agent_of_another_node() {
    let (_cluster, _dir, recorder) = forging();
    let lines = [edge(0, CART, 5, hours_ago(1))];
    let honest = batch("n2", 0, &[pod_line("bank", "db", "n2")], &lines);
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

/// A recorder that is started again and again, with lines about a pod that it knows (one
/// connection) and about two that it does not: `job` (10 connections, and a watch) and `late`
/// (100).
struct Late {
    cluster: Cluster,
    dir: tempfile::TempDir,
    brought: Vec<u8>,
}

impl Late {
    fn new() -> Self {
        let pods = ["web", "job", "late"].map(|name| pod_line("shop", name, "n1"));
        let at = hours_ago(1);
        let lines = [
            edge(0, CART, 1, at),
            edge(1, CART, 10, at),
            watching(1, at, now()),
            edge(2, CART, 100, at),
        ];
        let (cluster, dir) = (cluster(&objects()), tempfile::tempdir().unwrap());
        Self { cluster, dir, brought: batch("n1", 0, &pods, &lines) }
    }

    fn store(&self) -> String {
        self.dir.path().join("store").display().to_string()
    }

    fn bring(&self, recorder: &Recorder) -> (u16, String) {
        recorder.post(Some("agent-n1"), &self.brought)
    }

    /// The API server tells of a pod.
    fn add(&self, name: &str, node: &str) {
        let pod = object("shop", name, "10.244.1.20", node);
        self.cluster.says.lock().unwrap().objects.get_mut("pods").unwrap().push(pod);
    }

    fn start(&self) -> Recorder {
        let store = self.dir.path().join("store");
        Recorder::start(&store, Some(self.cluster.kubeconfig.path()), &[])
    }

    /// A recorder that is started again has so many unverified lines, so many connections, and
    /// whatever is checked.
    fn restarted(&self, apart: u64, connections: u64, check: impl FnOnce(&Recorder)) {
        let recorder = self.start();
        settled(&recorder, apart);
        recorder.connections(Some("ann"), connections);
        check(&recorder);
        recorder.connections(Some("ann"), connections);
        assert_eq!(recorder.kill("TERM").0, Some(0));
    }

    /// A store tells as much without its recorder.
    fn assert_store_shows_unverified(&self) {
        let path = self.store();
        let status = expect(0, &["status", "--store", &path, "-o", "json"]);
        let status: Value = serde_json::from_str(&status).unwrap();
        assert_eq!(
            (&status["unverified"][0]["lines"], &status["unverified"][0]["pods"]),
            (&3.into(), &2.into())
        );
        assert!(!expect(0, &["export", "--store", &path]).contains("\"late\""));
    }
}

#[test]
fn lines_about_an_unknown_pod_are_learned_once_when_it_is_known() {
    let late = Late::new();
    let recorder = late.start();
    assert_eq!(late.bring(&recorder).0, 200);
    settled(&recorder, 3);
    recorder.connections(Some("ann"), 1);
    recorder.kill("KILL");
    late.assert_store_shows_unverified();
    // A restart changes nothing.
    late.restarted(3, 1, |_| {});
    late.add("job", "n1");
    late.restarted(1, 11, |recorder| {
        assert_eq!(counters(recorder, "n1")["lines-confirmed"], 2);
    });
    // Of another node: its lines are not of this agent.
    late.add("late", "n2");
    late.restarted(0, 11, |recorder| {
        let counted = counters(recorder, "n1");
        let counted = ["lines-of-other-nodes", "lines-unverified", "lines-confirmed"]
            .map(|name| counted[name].as_u64());
        assert_eq!(counted, [Some(1), Some(3), Some(2)]);
        // Brought again, it is held already.
        assert!(late.bring(recorder).1.contains("already-held"));
    });
    late.restarted(0, 11, |_| {});
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
    let strange = json!({"ring-dropped": 7, "lines-of-other-nodes": 99, "lost nothing": 5,
        "x".repeat(1_000): 6});
    let text = text.replacen("\"counters\":{}", &format!("\"counters\":{strange}"), 1);
    assert_eq!(recorder.post(Some("agent-n1"), text.as_bytes()).0, 200);
    settled(&recorder, 1);
    recorder.connections(Some("ann"), 1);
    let want = json!({"lines-of-other-nodes": 1, "lines-unverified": 1, "ring-dropped": 7,
        "unknown-counters": 110});
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
