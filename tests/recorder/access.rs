//! Who may bring, read and decide what.

#![allow(clippy::unwrap_used)] // a test that cannot go on should say where

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::CART;
use super::cluster::{Cluster, Says};
use super::lines::json_of;
use super::running::{Recorder, batch, shop};

const JSON: &str = "Content-Type: application/json\r\n";

/// A recorder for agents on n1 and n2, for `ann`, who reads and decides in `shop`, and for `bob`,
/// who reads elsewhere.
struct Guarded {
    recorder: Recorder,
    cluster: Cluster,
    _dir: tempfile::TempDir,
}

impl Guarded {
    fn new() -> Self {
        let mut says = Says::of(shop());
        says.agent("agent-1", Some("n1"), None);
        says.agent("agent-2", Some("n2"), None);
        says.agent("unbound", None, None);
        says.agent("other-audience", Some("n1"), Some("else"));
        says.person("ann", &[("list", "shop"), ("update", "shop")]);
        says.person("bob", &[("list", "other")]);
        let cluster = Cluster::start(says);
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("store");
        let recorder = Recorder::start(&store, Some(cluster.kubeconfig.path()), &[]);
        Self { recorder, cluster, _dir: dir }
    }

    /// Brings so many connections of `web` to an address.
    fn bring(&self, sequence: u64, to: &str, connections: u64) -> (u16, String) {
        self.recorder.post(Some("agent-1"), &batch("n1", "b", sequence, to, connections))
    }

    /// What a path gives `ann`, who may read it.
    fn read(&self, path: &str) -> Value {
        json_of(&self.recorder, path)
    }

    /// The same, as soon as it is so.
    fn eventually(&self, path: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            let read = self.read(path);
            if is_so(&read) {
                return read;
            }
            assert!(Instant::now() < until, "{path} is still {read}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn decide(&self, path: &str, who: &str, what: &Value) -> (u16, String) {
        self.recorder.ask("POST", path, Some(who), JSON, what.to_string().as_bytes())
    }

    /// `shop` is accepted, with a call that is learned. Then another one is brought, twice.
    fn accepted_and_then_new(&self) -> Vec<Value> {
        assert_eq!(self.bring(0, CART, 5).0, 200);
        self.eventually("/v1/dependencies?namespace=shop", |all| all[0].is_object());
        // Lines about pods of another node are refused, those lines alone: see `forged`.
        let foreign = batch("n2", "b", 0, CART, 50);
        assert_eq!(self.recorder.post(Some("agent-2"), &foreign).0, 200);
        assert_eq!(self.decide("/v1/accept", "ann", &json!({"namespace": "shop"})).0, 200);
        self.bring(1, CART, 5);
        self.bring(2, "10.244.1.10:9999", 2);
        self.bring(3, "10.244.1.10:9999", 2);
        let alerts = self.eventually("/v1/alerts?namespace=shop", |all| {
            all.as_array().unwrap().iter().any(|a| a["connections"] == 4)
        });
        alerts.as_array().unwrap().clone()
    }

    /// Ends the recorder, and gives its log.
    fn end(self) -> String {
        let (code, log) = self.recorder.kill("TERM");
        assert_eq!(code, Some(0), "{log}");
        log
    }
}

#[test]
fn an_agent_brings_batches_of_its_own_node_alone() {
    let guarded = Guarded::new();
    let good = batch("n1", "b", 0, CART, 5);
    for (token, status, part) in [
        (None, 401, "no token"),
        (Some("made-up"), 401, "unknown token"),
        (Some("other-audience"), 401, "unknown token"),
        (Some("ann"), 401, "unknown token"),
        (Some("unbound"), 403, "bound to no pod"),
        (Some("agent-2"), 403, "the agent on n2"),
    ] {
        let (got, body) = guarded.recorder.post(token, &good);
        assert_eq!(got, status, "{token:?}: {body}");
        assert!(body.contains(part), "{token:?}: {body}");
    }
    assert_eq!(guarded.bring(0, CART, 5), (200, r#"{"applied":"new"}"#.to_owned()));
    guarded.end();
}

#[test]
fn a_batch_is_applied_once_and_shown_to_whoever_may_read_it() {
    let guarded = Guarded::new();
    assert_eq!(guarded.bring(0, CART, 5), (200, r#"{"applied":"new"}"#.to_owned()));
    assert_eq!(guarded.bring(0, CART, 5), (200, r#"{"applied":"already-held"}"#.to_owned()));
    let all = guarded.eventually("/v1/dependencies?namespace=shop", |all| all[0].is_object());
    assert_eq!(
        (all[0]["destination"]["name"].as_str(), all[0]["connections"].as_u64()),
        (Some("cart"), Some(5))
    );
    guarded.end();
}

#[test]
fn a_person_reads_a_namespace_only_with_the_right_to_list_its_sidecars() {
    let guarded = Guarded::new();
    assert_eq!(guarded.bring(0, CART, 5).0, 200);
    for (path, token, status) in [
        ("/v1/dependencies", None, 401),
        ("/v1/dependencies", Some("ann"), 403),
        ("/v1/dependencies?namespace=shop", Some("bob"), 403),
        ("/v1/alerts?namespace=shop", Some("bob"), 403),
        ("/v1/baselines?namespace=shop", Some("bob"), 403),
        ("/v1/records?namespace=shop", Some("agent-1"), 403),
        ("/v1/workloads?namespace=shop", Some("ann"), 200),
        ("/v1/coverage?namespace=shop", Some("ann"), 200),
        ("/v1/coverage?namespace=shop", Some("bob"), 403),
        ("/v1/coverage", Some("ann"), 403),
        ("/v1/mesh?namespace=shop", Some("ann"), 200),
        ("/v1/mesh?namespace=shop", Some("bob"), 403),
        ("/v1/mesh", Some("ann"), 403),
        ("/v1/mesh", None, 401),
    ] {
        assert_eq!(guarded.recorder.get(path, token).0, status, "{path} {token:?}");
    }
    guarded.end();
}

#[test]
fn a_person_decides_only_with_the_right_to_update_sidecars() {
    let guarded = Guarded::new();
    assert_eq!(guarded.bring(0, CART, 5).0, 200);
    guarded.eventually("/v1/dependencies?namespace=shop", |all| all[0].is_object());
    let shop = json!({"namespace": "shop"});
    assert_eq!(guarded.decide("/v1/accept", "bob", &shop).0, 403);
    let (status, accepted) = guarded.decide("/v1/accept", "ann", &shop);
    assert_eq!((status, accepted.contains("shop/web")), (200, true), "{accepted}");
    guarded.end();
}

#[test]
fn what_is_new_after_it_was_accepted_raises_one_alert() {
    let guarded = Guarded::new();
    let alerts = guarded.accepted_and_then_new();
    assert_eq!(
        (alerts.len(), alerts[0]["kind"].as_str()),
        (1, Some("new-dependency")),
        "{alerts:?}"
    );
    let log = guarded.end();
    assert!(log.contains("which it was never seen to call"), "{log}");
}

#[test]
fn who_decided_is_the_user_of_the_token() {
    let guarded = Guarded::new();
    let id = guarded.accepted_and_then_new()[0]["id"].clone();
    let ignored = guarded.decide("/v1/ignore", "ann", &json!({"id": id, "reason": "moved"}));
    assert_eq!(ignored.0, 200, "{}", ignored.1);
    let all = guarded.read("/v1/alerts?namespace=shop");
    assert_eq!((&all[0]["ignored"], &all[0]["ignoredBy"]), (&json!("moved"), &json!("ann")));
    assert!(all[0]["ignoredAt"].is_string(), "{all}");
    let decided = guarded.read("/v1/baselines?namespace=shop");
    assert_eq!(decided["baselines"][0]["by"], "ann", "{decided}");
    assert_eq!(
        (&decided["namespaces"][0]["namespace"], &decided["namespaces"][0]["by"]),
        (&json!("shop"), &json!("ann"))
    );
    let status = guarded.read("/v1/workloads?namespace=shop");
    assert_eq!(status["workloads"][0]["accepted"]["by"], "ann", "{status}");
    guarded.end();
}

#[test]
fn an_alert_is_ignored_only_with_a_reason() {
    let guarded = Guarded::new();
    let id = guarded.accepted_and_then_new()[0]["id"].clone();
    assert_eq!(guarded.decide("/v1/ignore", "ann", &json!({"id": id, "reason": " "})).0, 400);
    guarded.end();
}

#[test]
fn answers_of_the_api_server_are_remembered() {
    let guarded = Guarded::new();
    for sequence in 0..20 {
        assert_eq!(guarded.bring(sequence, CART, 5).0, 200);
        guarded.read("/v1/alerts?namespace=shop");
        assert_eq!(guarded.recorder.get("/v1/alerts?namespace=shop", Some("bob")).0, 403);
    }
    let reviews = guarded.cluster.says.lock().unwrap().reviews;
    println!("{reviews} reviews");
    assert!(reviews < 10, "{reviews} questions for 60 requests");
    guarded.end();
}
