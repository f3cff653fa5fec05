//! A recorder that is found through the kubeconfig: an API server that forwards ports as kubelets
//! do, and a recorder behind it.

#![allow(clippy::unwrap_used)] // a test that cannot go on should say where

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use futures_util::{SinkExt, StreamExt};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Message, Role};

use super::CART;
use super::cluster::{Cluster, Says};
use super::faults::certificate;
use super::running::{Recorder, batch, pod, service};

/// The name that the recorder's certificate has.
const NAME: &str = "DNS:sidecarta-recorder.sidecarta.svc";

/// What the API server does.
struct Front {
    /// Where the pod's port leads.
    to: SocketAddr,
    /// Refused by the last part of the path.
    refused: BTreeMap<&'static str, u16>,
    authority: String,
    ready: bool,
    /// Paths that were asked for.
    asked: Vec<String>,
}

async fn answer(State(front): State<Arc<Mutex<Front>>>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let query = request.uri().query().unwrap_or_default().to_owned();
    let mut front = front.lock().unwrap();
    front.asked.push(path.clone());
    let failed = |code: u16| {
        let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code,
            "reason": if code == 404 { "NotFound" } else { "Else" }, "message": "no"});
        (StatusCode::from_u16(code).unwrap(), Json(status)).into_response()
    };
    // Ann by her token or by her password (`ann:x`), as others may come with a client certificate.
    if !request
        .headers()
        .get("authorization")
        .is_some_and(|h| h == "Bearer ann" || h == "Basic YW5uOng=")
    {
        return failed(401);
    }
    let what = path.rsplit('/').next().unwrap().to_owned();
    if let Some(code) = front.refused.get(what.as_str()) {
        return failed(*code);
    }
    let pod = |name: &str, ready: bool| {
        json!({"metadata": {"name": name, "namespace": "sidecarta"},
            "spec": {"containers": [{"name": "recorder", "ports": [{"name": "tls", "containerPort": 25098}]}]},
            "status": {"conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]}})
    };
    let object = match path.strip_prefix("/api/v1/namespaces/sidecarta/").unwrap_or_default() {
        "services/sidecarta-recorder" => {
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "sidecarta-recorder"},
            "spec": {"selector": {"app": "sidecarta-recorder"},
                "ports": [{"name": "other", "port": 1}, {"name": "https", "port": 15098, "targetPort": "tls"}]}})
        }
        "configmaps/sidecarta-ca" => {
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "sidecarta-ca"},
            "data": {"ca.crt": front.authority}})
        }
        "pods" => {
            assert!(query.contains("labelSelector=app%3Dsidecarta-recorder"), "{query}");
            let pods = [pod("recorder-a", false), pod("recorder-b", front.ready)];
            json!({"apiVersion": "v1", "kind": "PodList", "metadata": {}, "items": pods})
        }
        "pods/recorder-b/portforward" => {
            assert!(query.contains("ports=25098"), "{query}");
            return forward(request, front.to, 25098);
        }
        _ => return failed(404),
    };
    Json(object).into_response()
}

/// As kubelets do it over WebSocket (`v4.channel.k8s.io`): the first byte of a message is its
/// channel, 0 for data and 1 for errors, and the first message of each is the port.
fn forward(mut request: Request, to: SocketAddr, port: u16) -> Response {
    let protocols = request.headers()["sec-websocket-protocol"].to_str().unwrap();
    assert!(protocols.split(',').any(|p| p.trim() == "v4.channel.k8s.io"), "{protocols}");
    let accept = derive_accept_key(request.headers()["sec-websocket-key"].as_bytes());
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let upgraded = TokioIo::new(upgrade.await.unwrap());
        let mut socket = WebSocketStream::from_raw_socket(upgraded, Role::Server, None).await;
        let [low, high] = port.to_le_bytes();
        for channel in [0, 1] {
            socket.send(Message::binary(vec![channel, low, high])).await.unwrap();
        }
        let mut stream = match TcpStream::connect(to).await {
            Ok(stream) => stream,
            Err(e) => {
                let _ = socket
                    .send(Message::binary(
                        [b"\x01", format!("error forwarding port: {e}").as_bytes()].concat(),
                    ))
                    .await;
                let _ = socket.close(None).await;
                return;
            }
        };
        let mut buffer = vec![0; 4096];
        loop {
            tokio::select! {
                message = socket.next() => match message {
                    Some(Ok(Message::Binary(bytes))) if bytes[0] == 0 => stream.write_all(&bytes[1..]).await.unwrap(),
                    Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                    Some(Ok(_)) => {}
                },
                read = stream.read(&mut buffer) => match read {
                    Ok(n) if n > 0 => socket.send(Message::binary([&[0], &buffer[..n]].concat())).await.unwrap(),
                    _ => {
                        let _ = socket.close(None).await;
                        return;
                    }
                },
            }
        }
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert("upgrade", HeaderValue::from_static("websocket"));
    headers.insert("connection", HeaderValue::from_static("Upgrade"));
    headers.insert("sec-websocket-protocol", HeaderValue::from_static("v4.channel.k8s.io"));
    headers.insert("sec-websocket-accept", accept.parse().unwrap());
    response
}

/// A kubeconfig of the API server with this user.
fn kubeconfig(dir: &Path, server: SocketAddr, user: &Value) {
    let config = json!({"apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": format!("http://{server}")}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "users": [{"name": "u", "user": user}]});
    std::fs::write(dir.join("kubeconfig"), config.to_string()).unwrap();
}

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

#[test]
fn a_recorder_is_found_through_the_kubeconfig() {
    let dir = tempfile::tempdir().unwrap();
    certificate(dir.path(), "cert.pem", NAME);
    let mut says = Says::default();
    let [service, slice] = service("cart", "10.244.1.11");
    says.objects.insert(
        "pods".into(),
        vec![pod("web", "10.244.1.10", "n1"), pod("cart", "10.244.1.11", "n1")],
    );
    says.objects.insert("services".into(), vec![service]);
    says.objects.insert("endpointslices".into(), vec![slice]);
    says.tokens.insert("ann".into(), ("ann".into(), None, None));
    let agent = "system:serviceaccount:sidecarta:sidecarta-agent".to_owned();
    says.tokens
        .insert("agent".into(), (agent, Some("n1".into()), Some("sidecarta-recorder".into())));
    for (verb, namespace) in [("list", "shop"), ("update", "shop"), ("list", "")] {
        says.allowed.insert(("ann".into(), verb.into(), namespace.into()));
    }
    let cluster = Cluster::start(says);
    // Filled without TLS, for the tests' own client has none.
    let filled = Recorder::start(&dir.path().join("store"), Some(cluster.kubeconfig.path()), &[]);
    assert_eq!(filled.post(Some("agent"), &batch("n1", "b", 0, CART, 5)).0, 200);
    filled.connections(Some("ann"), 5);
    assert_eq!(filled.kill("TERM").0, Some(0));
    let file = |name: &str| dir.path().join(name).display().to_string();
    let tls = ["--tls-cert", &file("cert.pem"), "--tls-key", &file("key.pem")];
    let recorder =
        Recorder::start(&dir.path().join("store"), Some(cluster.kubeconfig.path()), &tls);

    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let authority = std::fs::read_to_string(file("cert.pem")).unwrap();
    let to = recorder.address.parse().unwrap();
    let front = Arc::new(Mutex::new(Front {
        to,
        refused: BTreeMap::new(),
        authority,
        ready: true,
        asked: Vec::new(),
    }));
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let server = listener.local_addr().unwrap();
    let app = Router::new().fallback(answer).with_state(Arc::clone(&front));
    runtime.spawn(async move { axum::serve(listener, app).await });

    let place = tempfile::tempdir().unwrap();
    let here = place.path();
    kubeconfig(here, server, &json!({"token": "ann"}));
    let (code, out, err) = run(here, &[], &["dependencies", "-o", "json"]);
    assert_eq!(code, Some(0), "{err}");
    let all: Vec<Value> = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (&all[0]["destination"]["name"], &all[0]["connections"]),
        (&"cart".into(), &5.into())
    );
    let said = format!(
        "note: asks the Service sidecarta-recorder in the namespace sidecarta of http://{server}/, pod recorder-b\n"
    );
    assert_eq!(err, said);
    // The same for what needs several requests, and for what decides.
    assert!(run(here, &[], &["status", "-n", "shop"]).1.contains("shop/web"));
    assert!(
        run(here, &[], &["accept", "-n", "shop"]).1.contains("shop/web: 1 dependencies accepted")
    );
    assert!(run(here, &[], &["alerts", "-n", "shop"]).1.contains("no alerts"));

    // The token is what the kubeconfig's user has, whatever gives it; or a file's.
    std::fs::write(here.join("token"), "ann").unwrap();
    std::fs::write(here.join("made-up"), "made-up").unwrap();
    let credential = r#"{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{"token":"ann"}}"#;
    let exec = json!({"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "echo", "args": [credential],
        "interactiveMode": "Never"}});
    for user in [json!({"tokenFile": here.join("token")}), exec] {
        kubeconfig(here, server, &user);
        let (code, _, err) = run(here, &[], &["status"]);
        assert_eq!(code, Some(0), "{user}: {err}");
    }
    let (code, _, err) = run(here, &[], &["status", "--token-file", "made-up"]);
    assert!(code == Some(1) && err.contains("the recorder does not know who you are"), "{err}");
    for (user, word) in [
        (json!({"username": "ann", "password": "x"}), "kubectl create token NAME > FILE"),
        (json!({}), "does not know the kubeconfig's user"),
        (json!({"token": "bob"}), "does not know the kubeconfig's user"),
        (
            json!({"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "false"}}),
            "auth exec command",
        ),
    ] {
        kubeconfig(here, server, &user);
        let (code, _, err) = run(here, &[], &["status"]);
        assert!(code == Some(1) && err.contains(word), "{user}: {err}");
    }

    // Each right that is missing is named, with what to do.
    kubeconfig(here, server, &json!({"token": "ann"}));
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
        front.lock().unwrap().refused = BTreeMap::from([(what, status)]);
        let (code, _, err) = run(here, &[], &["status"]);
        assert!(code == Some(1) && err.contains(word), "{what} {status}: {err}");
        assert!(
            err.contains("there is no sidecarta-store here") == (err.lines().count() == 1),
            "{err}"
        );
    }
    front.lock().unwrap().refused.clear();
    front.lock().unwrap().ready = false;
    let (code, _, err) = run(here, &[], &["status"]);
    assert!(code == Some(1) && err.contains("is ready (recorder-a, recorder-b is not)"), "{err}");
    front.lock().unwrap().ready = true;
    let (code, _, err) = run(here, &[], &["status", "--recorder-namespace", "else"]);
    assert!(
        code == Some(1) && err.contains("no Service sidecarta-recorder in the namespace else"),
        "{err}"
    );
    // A certificate of somebody else.
    certificate(dir.path(), "other.pem", NAME);
    let (code, _, err) = run(here, &[], &["status", "--ca-file", &file("other.pem")]);
    assert!(code == Some(1) && err.contains("certificate"), "{err}");
    assert_eq!(run(here, &[], &["status", "--ca-file", &file("cert.pem")]).0, Some(0));

    // A store that is here, or named, is asked as ever, and nobody else; a context that is named is
    // asked whatever is here.
    std::fs::create_dir(here.join("sidecarta-store")).unwrap();
    let before = front.lock().unwrap().asked.len();
    let (code, _, err) = run(here, &[], &["status"]);
    assert!(
        code == Some(1) && err.contains("sidecarta-store") && err.lines().count() == 1,
        "{err}"
    );
    for named in [
        run(here, &[("SIDECARTA_STORE", "none")], &["status"]),
        run(here, &[], &["status", "--store", "none"]),
    ] {
        assert!(named.0 == Some(1) && named.2.contains("there is no store at none"), "{named:?}");
    }
    assert_eq!(front.lock().unwrap().asked.len(), before);
    assert_eq!(run(here, &[], &["status", "--context", "c"]).0, Some(0));
    assert_eq!(run(here, &[], &["status", "--context", "c", "--store", "x"]).0, Some(2));
    let (code, _, err) = run(here, &[], &["status", "--context", "else"]);
    assert!(code == Some(1) && err.contains("cannot use the kubeconfig"), "{err}");
    std::fs::remove_dir(here.join("sidecarta-store")).unwrap();

    // What the node says when nothing listens; an API server that is away; no kubeconfig at all.
    assert_eq!(recorder.kill("TERM").0, Some(0));
    // The client library loses these words now and then, where the stream ends while it is written
    // to: then the end of the stream is all that is said.
    let words = "recorder-b: error forwarding port: Connection refused";
    let mut said = String::new();
    for _ in 0..8 {
        let (code, _, err) = run(here, &[], &["status"]);
        assert!(code == Some(1) && err.contains("does not answer"), "{err}");
        said = err;
        if said.contains(words) {
            break;
        }
    }
    assert!(said.contains(words), "{said}");
    drop(runtime);
    let (code, _, err) = run(here, &[], &["status"]);
    assert!(
        code == Some(1)
            && err.contains("cannot get the Service sidecarta-recorder: the API server"),
        "{err}"
    );
    std::fs::remove_file(here.join("kubeconfig")).unwrap();
    let (code, _, err) = run(here, &[], &["status"]);
    assert!(code == Some(1) && err.contains("there is no store at sidecarta-store"), "{err}");
}
