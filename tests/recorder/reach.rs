//! A recorder that is found through the kubeconfig, by commands that people type.

#![allow(clippy::unwrap_used)] // a test that cannot go on should say where

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::CART;
use super::cluster::{Cluster, Says};
use super::common::kubeconfig;
use super::faults::certificate;
use super::front::Front;
use super::running::{Recorder, batch, shop};

/// The name that the recorder's certificate has.
const NAME: &str = "DNS:sidecarta-recorder.sidecarta.svc";

/// Runs the program in a directory, where its kubeconfig is: the exit code, and what it prints.
fn run(dir: &Path, environment: &[(&str, &str)], args: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sidecarta"));
    for name in ["STORE", "RECORDER", "TOKEN_FILE", "CA_FILE", "RECORDER_NAMESPACE"] {
        command.env_remove(format!("SIDECARTA_{name}"));
    }
    command
        .env("KUBECONFIG", dir.join("kubeconfig"))
        .env("HOME", dir)
        .envs(environment.iter().copied());
    let out = command.args(args).current_dir(dir).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (out.status.code(), text(out.stdout), text(out.stderr))
}

/// A person at a desk, where the kubeconfig is; an API server; and the recorder behind it, which
/// has five connections of `web` to `cart`.
struct Desk {
    place: tempfile::TempDir,
    front: Front,
    recorder: Recorder,
    _cluster: Cluster,
    /// Store and certificates of the recorder.
    dir: tempfile::TempDir,
}

impl Desk {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        certificate(dir.path(), "cert.pem", NAME);
        let mut says = Says::of(shop());
        says.person("ann", &[("list", "shop"), ("update", "shop"), ("list", "")]);
        says.agent("agent", Some("n1"), None);
        let cluster = Cluster::start(says);
        let (store, kubeconfig) = (dir.path().join("store"), Some(cluster.kubeconfig.path()));
        // Filled without TLS, for the tests' own client has none.
        let filled = Recorder::start(&store, kubeconfig, &[]);
        assert_eq!(filled.post(Some("agent"), &batch("n1", "b", 0, CART, 5)).0, 200);
        filled.connections(Some("ann"), 5);
        assert_eq!(filled.kill("TERM").0, Some(0));
        let file = |name: &str| dir.path().join(name).display().to_string();
        let tls = ["--tls-cert", &file("cert.pem"), "--tls-key", &file("key.pem")];
        let recorder = Recorder::start(&store, kubeconfig, &tls);
        let authority = std::fs::read_to_string(file("cert.pem")).unwrap();
        let front = Front::start(recorder.address.parse().unwrap(), authority);
        let desk =
            Self { place: tempfile::tempdir().unwrap(), front, recorder, _cluster: cluster, dir };
        desk.user(&json!({"token": "ann"}));
        desk
    }

    /// The kubeconfig has this user.
    fn user(&self, user: &Value) {
        kubeconfig(&self.place.path().join("kubeconfig"), self.front.address, user);
    }

    /// What a command prints that succeeds, and what it says.
    fn good(&self, args: &[&str]) -> (String, String) {
        let (code, out, err) = run(self.place.path(), &[], args);
        assert_eq!(code, Some(0), "{args:?}: {err}");
        (out, err)
    }

    /// What a command says that fails.
    fn bad(&self, args: &[&str]) -> String {
        let (code, _, err) = run(self.place.path(), &[], args);
        assert_eq!(code, Some(1), "{args:?}: {err}");
        err
    }

    fn end(self) {
        assert_eq!(self.recorder.kill("TERM").0, Some(0));
    }
}

#[test]
fn a_recorder_is_found_through_the_kubeconfig() {
    let desk = Desk::new();
    let (out, err) = desk.good(&["dependencies", "-o", "json"]);
    let all: Vec<Value> = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (&all[0]["destination"]["name"], &all[0]["connections"]),
        (&"cart".into(), &5.into())
    );
    let said = format!(
        "note: asks the Service sidecarta-recorder in the namespace sidecarta of http://{}/, \
         pod recorder-b\n",
        desk.front.address
    );
    assert_eq!(err, said);
    desk.end();
}

#[test]
fn commands_of_several_requests_and_decisions_go_through_the_kubeconfig_too() {
    let desk = Desk::new();
    assert!(desk.good(&["status", "-n", "shop"]).0.contains("shop/web"));
    let accepted = desk.good(&["accept", "-n", "shop"]).0;
    assert!(accepted.contains("shop/web: 1 dependencies accepted"), "{accepted}");
    assert!(desk.good(&["alerts", "-n", "shop"]).0.contains("no alerts"));
    desk.end();
}

#[test]
fn the_token_is_what_the_kubeconfigs_user_has_or_a_files() {
    let desk = Desk::new();
    let here = desk.place.path();
    std::fs::write(here.join("token"), "ann").unwrap();
    std::fs::write(here.join("made-up"), "made-up").unwrap();
    let version = "client.authentication.k8s.io/v1";
    let credential =
        json!({"apiVersion": version, "kind": "ExecCredential", "status": {"token": "ann"}});
    let exec = json!({"exec": {"apiVersion": version, "command": "echo",
        "args": [credential.to_string()], "interactiveMode": "Never"}});
    for user in [json!({"tokenFile": here.join("token")}), exec] {
        desk.user(&user);
        desk.good(&["status"]);
    }
    let err = desk.bad(&["status", "--token-file", "made-up"]);
    assert!(err.contains("the recorder does not know who you are"), "{err}");
    desk.end();
}

#[test]
fn a_user_without_a_good_token_is_told_what_to_do() {
    let desk = Desk::new();
    let exec = json!({"apiVersion": "client.authentication.k8s.io/v1", "command": "false"});
    for (user, word) in [
        (json!({"username": "ann", "password": "x"}), "kubectl create token NAME > FILE"),
        (json!({}), "does not know the kubeconfig's user"),
        (json!({"token": "bob"}), "does not know the kubeconfig's user"),
        (json!({"exec": exec}), "auth exec command"),
    ] {
        desk.user(&user);
        let err = desk.bad(&["status"]);
        assert!(err.contains(word), "{user}: {err}");
    }
    desk.end();
}

#[test]
fn each_right_that_is_missing_is_named_with_what_to_do() {
    let desk = Desk::new();
    for (what, status, word) in [
        ("sidecarta-recorder", 403, "RBAC: get services"),
        (
            "sidecarta-recorder",
            404,
            "there is no Service sidecarta-recorder in the namespace sidecarta",
        ),
        ("sidecarta-ca", 403, "RBAC: get configmaps, or pass --ca-file"),
        ("sidecarta-ca", 404, "certificate"),
        ("pods", 403, "RBAC: list pods"),
        ("pods", 500, "cannot list pods: the API server"),
        ("portforward", 403, "RBAC: get and create pods/portforward"),
    ] {
        desk.front.does.lock().unwrap().refused = BTreeMap::from([(what, status)]);
        let err = desk.bad(&["status"]);
        assert!(err.contains(word), "{what} {status}: {err}");
        assert!(
            err.contains("there is no sidecarta-store here") == (err.lines().count() == 1),
            "{err}"
        );
    }
    desk.end();
}

#[test]
fn a_recorder_that_is_not_ready_or_elsewhere_is_named() {
    let desk = Desk::new();
    desk.front.does.lock().unwrap().ready = false;
    let err = desk.bad(&["status"]);
    assert!(err.contains("is ready (recorder-a, recorder-b is not)"), "{err}");
    desk.front.does.lock().unwrap().ready = true;
    let err = desk.bad(&["status", "--recorder-namespace", "else"]);
    assert!(err.contains("no Service sidecarta-recorder in the namespace else"), "{err}");
    desk.end();
}

#[test]
fn a_certificate_of_somebody_else_is_refused() {
    let desk = Desk::new();
    certificate(desk.dir.path(), "other.pem", NAME);
    let file = |name: &str| desk.dir.path().join(name).display().to_string();
    let err = desk.bad(&["status", "--ca-file", &file("other.pem")]);
    assert!(err.contains("certificate"), "{err}");
    desk.good(&["status", "--ca-file", &file("cert.pem")]);
    desk.end();
}

#[test]
fn a_store_that_is_here_or_named_is_asked_and_nobody_else() {
    let desk = Desk::new();
    std::fs::create_dir(desk.place.path().join("sidecarta-store")).unwrap();
    let err = desk.bad(&["status"]);
    assert!(err.contains("sidecarta-store") && err.lines().count() == 1, "{err}");
    for named in [
        run(desk.place.path(), &[("SIDECARTA_STORE", "none")], &["status"]),
        run(desk.place.path(), &[], &["status", "--store", "none"]),
    ] {
        assert!(named.0 == Some(1) && named.2.contains("there is no store at none"), "{named:?}");
    }
    assert_eq!(desk.front.does.lock().unwrap().asked, [""; 0]);
    desk.end();
}

#[test]
fn a_context_that_is_named_is_asked_whatever_is_here() {
    let desk = Desk::new();
    std::fs::create_dir(desk.place.path().join("sidecarta-store")).unwrap();
    desk.good(&["status", "--context", "c"]);
    let both = run(desk.place.path(), &[], &["status", "--context", "c", "--store", "x"]);
    assert_eq!(both.0, Some(2));
    let err = desk.bad(&["status", "--context", "else"]);
    assert!(err.contains("cannot use the kubeconfig"), "{err}");
    desk.end();
}

#[test]
fn a_pod_where_nothing_listens_is_named_with_what_its_node_says() {
    let desk = Desk::new();
    assert_eq!(desk.recorder.kill("TERM").0, Some(0));
    // The client library loses these words now and then, where the stream ends while it is written
    // to: then the end of the stream is all that is said.
    let words = "recorder-b: error forwarding port: Connection refused";
    let mut said = String::new();
    for _ in 0..8 {
        let (code, _, err) = run(desk.place.path(), &[], &["status"]);
        assert!(code == Some(1) && err.contains("does not answer"), "{err}");
        said = err;
        if said.contains(words) {
            break;
        }
    }
    assert!(said.contains(words), "{said}");
}

#[test]
fn an_api_server_that_is_away_is_named() {
    let desk = Desk::new();
    drop(desk.front);
    let (code, _, err) = run(desk.place.path(), &[], &["status"]);
    assert!(
        code == Some(1)
            && err.contains("cannot get the Service sidecarta-recorder: the API server"),
        "{err}"
    );
    assert_eq!(desk.recorder.kill("TERM").0, Some(0));
}

#[test]
fn without_a_kubeconfig_the_store_that_is_missing_is_named() {
    let desk = Desk::new();
    std::fs::remove_file(desk.place.path().join("kubeconfig")).unwrap();
    let err = desk.bad(&["status"]);
    assert!(err.contains("there is no store at sidecarta-store"), "{err}");
    desk.end();
}
