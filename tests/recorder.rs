//! The recorder, as agents, people and their enemies meet it.

#![allow(clippy::unwrap_used)] // a test that cannot go on should say where

#[path = "recorder/access.rs"]
mod access;
#[path = "recorder/attacks.rs"]
mod attacks;
#[path = "recorder/cluster.rs"]
mod cluster;
mod common;
#[path = "recorder/delivery.rs"]
mod delivery;
#[path = "recorder/described.rs"]
mod described;
#[path = "view/fake.rs"]
mod fake;
#[path = "recorder/faults.rs"]
mod faults;
#[path = "recorder/forged.rs"]
mod forged;
#[path = "recorder/front.rs"]
mod front;
#[path = "recorder/hostile.rs"]
mod hostile;
#[path = "recorder/lines.rs"]
mod lines;
#[path = "recorder/reach.rs"]
mod reach;
#[path = "recorder/restart.rs"]
mod restart;
#[path = "recorder/running.rs"]
mod running;
#[path = "recorder/workloads.rs"]
mod workloads;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use cluster::{Cluster, Says};
use running::{Recorder, batch, pod, snapshot};
use serde_json::{Value, json};

/// An endpoint of the Service `cart`.
pub const CART: &str = "10.244.1.11:8080";

#[test]
fn hostile_clients_are_refused_and_block_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = snapshot(dir.path()).display().to_string();
    let recorder =
        Recorder::start(&dir.path().join("store"), None, &["--no-auth", "--cluster", &cluster]);
    // Clients that say nothing, or half a head: they hold connections and no one else.
    let slow: Vec<TcpStream> = (0..50)
        .map(|i| {
            let mut stream = TcpStream::connect(&recorder.address).unwrap();
            if i % 2 == 0 {
                stream.write_all(b"POST /v1/batches HTTP/1.1\r\nHost: r\r\nContent-Le").unwrap();
            }
            stream
        })
        .collect();
    let zstd = "Content-Encoding: zstd\r\n";
    let bomb = zstd::encode_all(std::io::repeat(b' ').take(1 << 30), 19).unwrap();
    assert!(bomb.len() < 1 << 20);
    let deep = format!("{{\"observed\":{}{}}}\n", "[".repeat(100_000), "]".repeat(100_000));
    let cut = batch("n1", "b", 0, CART, 1);
    let cut = &cut[..cut.len() - 10];
    let wrong = String::from_utf8(batch("n1", "b", 0, CART, 1)).unwrap().replace("\"tcp\"", "7");
    let foreign =
        String::from_utf8(batch("n1", "b", 0, CART, 1)).unwrap().replace("agent:n1:b", "capture:x");
    let pods =
        String::from_utf8(batch("n1", "b", 0, CART, 1)).unwrap().replace("\"pod\":0", "\"pod\":5");
    let two = [batch("n1", "b", 0, CART, 1), batch("n1", "b", 1, CART, 1)].concat();
    for (what, headers, body, status) in [
        ("a bomb", zstd, bomb.as_slice(), 413),
        ("no zstd", zstd, b"nothing of the kind".as_slice(), 400),
        ("deep JSON", "", deep.as_bytes(), 400),
        ("a cut batch", "", cut, 400),
        ("a wrong type", "", wrong.as_bytes(), 400),
        ("no agent", "", foreign.as_bytes(), 400),
        ("a pod that is not there", "", pods.as_bytes(), 400),
        ("two batches", "", two.as_slice(), 400),
        ("nothing", "", b"".as_slice(), 400),
        ("another coding", "Content-Encoding: br\r\n", cut, 415),
    ] {
        let (got, answer) = recorder.ask("POST", "/v1/batches", None, headers, body);
        assert_eq!(got, status, "{what}: {answer}");
        assert!(answer.contains("\"error\""), "{what}: {answer}");
    }
    // A body of a gigabyte, announced: refused before it is sent.
    let mut stream = TcpStream::connect(&recorder.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
        .write_all(b"POST /v1/batches HTTP/1.1\r\nHost: r\r\nContent-Length: 1073741824\r\n\r\n")
        .unwrap();
    let chunk = vec![b'x'; 1 << 20];
    while stream.write_all(&chunk).is_ok() {}
    let peak = recorder.peak();
    assert!(peak < 400 * 1024, "{peak} KiB");
    // And the good go on.
    assert_eq!(recorder.post(None, &batch("n1", "b", 0, CART, 3)).0, 200);
    recorder.connections(None, 3);
    drop(slow);
    let (code, log) = recorder.kill("TERM");
    assert_eq!(code, Some(0), "{log}");
}

/// A webhook: gives the bodies that it was sent, and answers with these statuses, the last one for
/// ever.
fn webhook(mut answers: Vec<&'static str>) -> (String, std::sync::mpsc::Receiver<Value>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let (sender, bodies) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            let mut length = 0;
            loop {
                let mut line = String::new();
                if stream.read_line(&mut line).unwrap() <= 2 {
                    break;
                }
                if let Some(n) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = n.trim().parse().unwrap();
                }
            }
            let mut body = vec![0; length];
            stream.read_exact(&mut body).unwrap();
            let answer = if answers.len() > 1 { answers.remove(0) } else { answers[0] };
            let _ = stream.get_mut().write_all(
                format!("HTTP/1.1 {answer}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                    .as_bytes(),
            );
            if sender.send(serde_json::from_slice(&body).unwrap()).is_err() {
                return;
            }
        }
    });
    (url, bodies)
}

#[test]
fn an_alert_is_delivered_through_failures_and_restarts_and_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let (store, cluster) = (dir.path().join("store"), snapshot(dir.path()).display().to_string());
    let (url, bodies) = webhook(vec!["503 Not now", "200 OK"]);
    let options = ["--no-auth", "--cluster", &cluster, "--webhook", &url];
    let recorder = Recorder::start(&store, None, &options);
    recorder.post(None, &batch("n1", "b", 0, CART, 3));
    recorder.connections(None, 3);
    assert_eq!(
        recorder.ask("POST", "/v1/accept", None, "Content-Type: application/json\r\n", b"{}").0,
        200
    );
    let sent = Instant::now();
    recorder.post(None, &batch("n1", "b", 1, "10.244.1.12:5432", 1));
    let refused = bodies.recv_timeout(Duration::from_secs(10)).unwrap();
    assert!(sent.elapsed() < Duration::from_secs(10));
    // Killed before it could be tried again: it is in the outbox.
    recorder.kill("KILL");
    let recorder = Recorder::start(&store, None, &options);
    let taken = bodies.recv_timeout(Duration::from_secs(20)).unwrap();
    assert_eq!(refused["alerts"][0]["id"], taken["alerts"][0]["id"]);
    assert_eq!(
        (taken["alerts"].as_array().unwrap().len(), taken["alerts"][0]["kind"].as_str()),
        (1, Some("new-dependency"))
    );
    // Seen again, it is the same alert; another one is another.
    recorder.post(None, &batch("n1", "b", 2, "10.244.1.12:5432", 7));
    recorder.post(None, &batch("n1", "b", 3, "10.244.1.12:6432", 1));
    let other = bodies.recv_timeout(Duration::from_secs(10)).unwrap();
    assert_eq!(other["alerts"].as_array().unwrap().len(), 1, "{other}");
    assert_eq!(other["alerts"][0]["port"], 6432);
    assert_eq!(recorder.kill("TERM").0, Some(0));
    assert!(bodies.recv_timeout(Duration::from_secs(1)).is_err(), "delivered again");
}

/// A recorder that knows of `shop` and `data`, may not see nodes, and has a batch: `web` was
/// watched from its start, and the agent of its node lost something.
fn watching() -> (Cluster, tempfile::TempDir, Recorder) {
    // When the pod started is what the API server says, not the batch.
    let mut items = running::shop();
    items[0]["status"]["startTime"] = "2026-11-25T08:00:00Z".into();
    let mut elsewhere = pod("db", "10.244.1.12", "n1");
    elsewhere["metadata"]["namespace"] = "data".into();
    items.push(elsewhere);
    let mut says = Says::of(items);
    says.refused.insert("serviceentries".into(), 404);
    says.refused.insert("nodes".into(), 403);
    let cluster = Cluster::start(says);
    let dir = tempfile::tempdir().unwrap();
    let recorder =
        Recorder::start(&dir.path().join("store"), Some(cluster.kubeconfig.path()), &["--no-auth"]);
    let text = String::from_utf8(batch("n1", "b", 0, CART, 3)).unwrap();
    let watching = json!({"watching": {"pod": 0, "packets": 9,
        "spans": [{"from": "2026-11-25T08:00:01Z", "to": "2026-11-25T09:00:01Z"}]}});
    let text = text
        .replace("{\"end\":{\"lines\":3}}", &format!("{watching}\n{{\"end\":{{\"lines\":4}}}}"));
    let text = text.replace("\"learned\":3", "\"learned\":3,\"ring-dropped\":7");
    assert_eq!(recorder.post(None, text.as_bytes()), (200, r#"{"applied":"new"}"#.to_owned()));
    recorder.connections(None, 3);
    (cluster, dir, recorder)
}

fn get(recorder: &Recorder, path: &str) -> Value {
    let (status, body) = recorder.get(path, None);
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

#[test]
fn coverage_lists_when_each_pod_was_watched_and_what_its_agent_lost() {
    let (_cluster, _dir, recorder) = watching();
    let coverage = get(&recorder, "/v1/coverage?namespace=shop");
    let web = &coverage["workloads"][0];
    let pod = &web["pods"][0];
    assert_eq!(
        (&web["workload"]["name"], &pod["pod"], &pod["fromStart"]),
        (&"web".into(), &"web".into(), &true.into()),
        "{web}"
    );
    let span = json!([{"from": "2026-11-25T08:00:01Z", "to": "2026-11-25T09:00:01Z"}]);
    assert_eq!(
        (&pod["spans"], &pod["nanoseconds"]),
        (&span, &3_600_000_000_000u64.into()),
        "{web}"
    );
    assert_eq!(
        (&coverage["sources"][0]["label"], &coverage["sources"][0]["lost"]),
        (&"n1".into(), &json!({"ring-dropped": 7}))
    );
    // One word for both paths.
    let status = get(&recorder, "/v1/workloads?namespace=shop");
    assert_eq!(web["watched"], status["workloads"][0]["watched"]);
    assert_eq!(get(&recorder, "/v1/coverage?namespace=else")["workloads"], json!([]));
    assert_eq!(recorder.kill("TERM").0, Some(0));
}

#[test]
fn the_mesh_shows_what_the_view_lacks() {
    let (_cluster, _dir, recorder) = watching();
    let until = Instant::now() + Duration::from_secs(20);
    let mesh = loop {
        let mesh = get(&recorder, "/v1/mesh");
        // The progress is published a moment after the batch was merged.
        if mesh["batchesWaiting"] == 0 {
            break mesh;
        }
        assert!(Instant::now() < until, "{mesh}");
        std::thread::sleep(Duration::from_millis(20));
    };
    assert_eq!((&mesh["live"], &mesh["synced"]), (&true.into(), &true.into()), "{mesh}");
    assert_eq!(mesh["kinds"]["Pod"], json!({"state": "synced", "objects": 3}));
    assert_eq!(mesh["kinds"]["Node"], json!({"state": "forbidden", "why": "nodes is refused"}));
    assert_eq!(mesh["kinds"]["ServiceEntry"], json!({"state": "absent"}));
    assert_eq!(mesh["limits"].as_array().unwrap().len(), 2, "{mesh}");
    assert_eq!(get(&recorder, "/v1/mesh?namespace=shop")["kinds"]["Pod"]["objects"], 2);
    assert_eq!(recorder.kill("TERM").0, Some(0));
}

#[test]
fn status_prints_what_the_view_lacks_and_what_was_lost() {
    let (_cluster, _dir, recorder) = watching();
    let printed = common::expect(0, &["status", "--recorder", &recorder.url(), "-n", "shop"]);
    assert!(
        printed
            .contains("limited: Node: forbidden: nodes is refused: addresses of nodes may show as"),
        "{printed}"
    );
    assert!(printed.contains("lost: n1: ring-dropped 7"), "{printed}");
    assert_eq!(recorder.kill("TERM").0, Some(0));
}

#[test]
fn commands_ask_the_recorder_as_they_ask_a_store() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = snapshot(dir.path()).display().to_string();
    let store = dir.path().join("store");
    let recorder = Recorder::start(&store, None, &["--no-auth", "--cluster", &cluster]);
    recorder.post(None, &batch("n1", "b", 0, CART, 3));
    recorder.connections(None, 3);
    let url = recorder.url();
    let remote = |args: &[&str]| common::expect(0, &[args, &["--recorder", &url]].concat());
    let generate =
        ["generate", "--include-unready", "--cluster", &cluster, "--workload", "shop/web"];
    let asked = [
        remote(&["dependencies", "-o", "json"]),
        remote(&["status", "-o", "json", "-n", "shop"]),
        remote(&generate),
    ];
    assert!(remote(&["accept", "-n", "shop"]).contains("shop/web: 1 dependencies accepted"));
    recorder.post(None, &batch("n1", "b", 1, "10.244.1.12:5432", 1));
    recorder.connections(None, 4);
    let alerts: Vec<Value> = serde_json::from_str(&remote(&["alerts", "-o", "json"])).unwrap();
    let id = alerts[0]["id"].as_str().unwrap().to_owned();
    remote(&["ignore", &id, "--reason", "a test"]);
    // A backup, while it runs.
    let backup = remote(&["export"]);
    assert!(remote(&["alerts"]).contains("no alerts"));
    let shown = remote(&["alerts", "--all"]);
    assert!(shown.contains("(ignored at 20") && shown.contains(": a test)"), "{shown}");
    assert_eq!(recorder.kill("TERM").0, Some(0));
    let local = store.display().to_string();
    let kept = common::expect(0, &["dependencies", "-o", "json", "--store", &local]);
    assert!(serde_json::from_str::<Vec<Value>>(&kept).unwrap().len() == 2);
    assert_eq!(
        backup,
        common::expect(0, &["export", "--store", &local]),
        "nothing has changed since"
    );
    let (file, fresh) =
        (dir.path().join("backup.ndjson"), dir.path().join("fresh").display().to_string());
    std::fs::write(&file, &backup).unwrap();
    common::expect(0, &["import", file.to_str().unwrap(), "--store", &fresh]);
    assert_eq!(common::expect(0, &["dependencies", "-o", "json", "--store", &fresh]), kept);
    // Without the second call, the store would say the same.
    assert!(
        asked[0].contains("\"cart\"")
            && asked[1].contains("\"web\"")
            && asked[2].contains("shop/cart.shop.svc.cluster.local"),
        "{asked:?}"
    );
    assert_eq!(common::expect(0, &["alerts", "--all", "--store", &local]), shown);
}
