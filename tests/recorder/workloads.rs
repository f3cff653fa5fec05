//! A workload that comes after everything was accepted.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::running::{Recorder, batch, snapshot};
use super::{CART, webhook};

/// A batch of `db` in place of `web`.
fn of_db(sequence: u64, to: &str, connections: u64) -> Vec<u8> {
    let text = String::from_utf8(batch("n1", "b", sequence, to, connections)).unwrap();
    text.replace("\"web\"", "\"db\"").replace("10.244.1.10", "10.244.1.12").into_bytes()
}

#[test]
fn a_new_workload_is_alerted_once_also_after_a_crash_until_it_is_accepted() {
    let dir = tempfile::tempdir().unwrap();
    let (store, cluster) = (dir.path().join("store"), snapshot(dir.path()).display().to_string());
    let (url, bodies) = webhook(vec!["503 Not now", "200 OK"]);
    let options = ["--no-auth", "--cluster", &cluster, "--webhook", &url];
    let recorder = Recorder::start(&store, None, &options);
    recorder.post(None, &batch("n1", "b", 0, CART, 3));
    recorder.connections(None, 3);
    let json = "Content-Type: application/json\r\n";
    assert_eq!(recorder.ask("POST", "/v1/accept", None, json, b"{}").0, 200);
    recorder.post(None, &of_db(1, CART, 2));
    let refused = bodies.recv_timeout(Duration::from_secs(10)).unwrap();
    let id = "new-workload/shop/Pod/db";
    assert_eq!(refused["alerts"][0]["id"], id, "{refused}");
    recorder.kill("KILL");
    let recorder = Recorder::start(&store, None, &options);
    let taken = bodies.recv_timeout(Duration::from_secs(20)).unwrap();
    assert_eq!(
        (&taken["alerts"][0]["id"], taken["alerts"].as_array().unwrap().len()),
        (&json!(id), 1)
    );
    // More of it is no other alert, and no other delivery.
    recorder.post(None, &of_db(2, "10.244.1.10:9999", 5));
    let until = Instant::now() + Duration::from_secs(20);
    let alerts = loop {
        let (_, body) = recorder.get("/v1/alerts", None);
        let all: Vec<Value> = serde_json::from_str(&body).unwrap();
        if all.iter().any(|a| a["connections"] == 7) {
            break all;
        }
        assert!(Instant::now() < until, "it is not brought up to date: {body}");
        std::thread::sleep(Duration::from_millis(20));
    };
    assert_eq!((alerts.len(), &alerts[0]["dependencies"]), (1, &json!(2)), "{alerts:?}");
    let body = br#"{"namespace":"shop","workloads":["db"]}"#;
    assert_eq!(recorder.ask("POST", "/v1/accept", None, json, body).0, 200);
    assert_eq!(recorder.get("/v1/alerts", None).1, "[]");
    assert_eq!(recorder.kill("TERM").0, Some(0));
    assert!(bodies.recv_timeout(Duration::from_secs(1)).is_err(), "delivered again");
}
