//! What is accepted and ignored on a store of this machine, by whom, and what is said of it.

#![allow(clippy::unwrap_used)] // a test that cannot go on should say where

mod common;

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

use common::{captures, learn, samples};
use serde_json::Value;

/// Runs the program as a user of this name, which must succeed, and gives its standard output.
fn as_user(user: &str, store: &Path, args: &[&str]) -> String {
    let out = Command::new(env!("CARGO_BIN_EXE_sidecarta"))
        .args(args)
        .args([OsStr::new("--store"), store.as_os_str()])
        .env("USER", user)
        .output()
        .unwrap();
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

#[test]
fn a_new_workload_is_shown_and_so_is_who_accepted_and_who_ignored() {
    let case = samples().join("d-bookinfo");
    let all = captures(&case);
    let of = |name: &str| {
        let named =
            |p: &&std::path::PathBuf| p.file_name().unwrap().to_string_lossy().starts_with(name);
        vec![all.iter().find(named).unwrap().clone()]
    };
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    learn(&case, &of("my-shell"), &store);
    as_user("alice", &store, &["accept"]);
    assert!(as_user("alice", &store, &["alerts"]).starts_with("no alerts"));
    learn(&case, &of("productpage"), &store);

    let alerts: Value =
        serde_json::from_str(&as_user("alice", &store, &["alerts", "-o", "json"])).unwrap();
    let ids: Vec<&str> =
        alerts.as_array().unwrap().iter().map(|a| a["id"].as_str().unwrap()).collect();
    let id = "new-workload/bookinfo/Deployment/productpage-v1";
    assert!(ids.contains(&id), "{ids:?}");
    let status: Value =
        serde_json::from_str(&as_user("alice", &store, &["status", "-o", "json"])).unwrap();
    let of = |name: &str| {
        let all = status["workloads"].as_array().unwrap();
        all.iter().find(|w| w["workload"]["name"] == name).unwrap().clone()
    };
    assert_eq!(of("my-shell")["accepted"]["by"], "alice (local)");
    assert!(of("my-shell")["accepted"]["when"].is_string());
    assert!(of("my-shell").get("notAccepted").is_none());
    assert_eq!(of("productpage-v1")["notAccepted"], true);
    let table = as_user("alice", &store, &["status"]);
    assert!(table.contains("not accepted: bookinfo/productpage-v1"), "{table}");
    let table = as_user("alice", &store, &["dependencies", "-n", "bookinfo"]);
    assert!(table.contains("workload not accepted"), "{table}");

    as_user("bob", &store, &["ignore", id, "--reason", "it is being tried"]);
    let shown = as_user("alice", &store, &["alerts", "--all"]);
    let shown = shown.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(shown.contains("ignored by bob (local) at"), "{shown}");
    assert!(shown.contains(": it is being tried)"), "{shown}");
    let without = common::run(&[
        OsStr::new("ignore"),
        OsStr::new(id),
        OsStr::new("--reason"),
        OsStr::new(""),
        OsStr::new("--store"),
        store.as_os_str(),
    ]);
    assert_eq!(without.status.code(), Some(1), "a reason is needed");

    as_user("bob", &store, &["accept"]);
    assert!(as_user("alice", &store, &["alerts", "--all"]).starts_with("no alerts"));
    let table = as_user("alice", &store, &["status"]);
    assert!(!table.contains("not accepted"), "{table}");
}
