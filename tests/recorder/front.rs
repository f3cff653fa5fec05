//! An API server that shows a recorder's Service, and forwards ports to it as kubelets do.

#![allow(clippy::unwrap_used)] // a test that cannot go on should say where

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use futures_util::{SinkExt, StreamExt};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Message, Role};

/// A running one. It ends when it is dropped.
pub struct Front {
    pub does: Arc<Mutex<FrontState>>,
    pub address: SocketAddr,
    _runtime: tokio::runtime::Runtime,
}

impl Front {
    /// One that leads to a recorder, whose certificate is of this authority.
    pub fn start(to: SocketAddr, authority: String) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let does = Arc::new(Mutex::new(FrontState {
            to,
            refused: BTreeMap::new(),
            authority,
            ready: true,
            asked: Vec::new(),
        }));
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let app = Router::new().fallback(answer).with_state(Arc::clone(&does));
        runtime.spawn(async move { axum::serve(listener, app).await });
        Self { does, address, _runtime: runtime }
    }
}

/// What the API server does.
pub struct FrontState {
    /// Where the pod's port leads.
    pub to: SocketAddr,
    /// Refused by the last part of the path.
    pub refused: BTreeMap<&'static str, u16>,
    authority: String,
    pub ready: bool,
    /// Paths that were asked for.
    pub asked: Vec<String>,
}

async fn answer(State(front): State<Arc<Mutex<FrontState>>>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let query = request.uri().query().unwrap_or_default().to_owned();
    let mut front = front.lock().unwrap();
    front.asked.push(path.clone());
    let failed = |code: u16| {
        let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {},
            "status": "Failure", "code": code,
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
            "spec": {"containers": [{"name": "recorder",
                "ports": [{"name": "tls", "containerPort": 25098}]}]},
            "status": {"conditions": [{"type": "Ready",
                "status": if ready { "True" } else { "False" }}]}})
    };
    let object = match path.strip_prefix("/api/v1/namespaces/sidecarta/").unwrap_or_default() {
        "services/sidecarta-recorder" => {
            json!({"apiVersion": "v1", "kind": "Service",
                "metadata": {"name": "sidecarta-recorder"},
            "spec": {"selector": {"app": "sidecarta-recorder"},
                "ports": [{"name": "other", "port": 1},
                    {"name": "https", "port": 15098, "targetPort": "tls"}]}})
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
                    Some(Ok(Message::Binary(bytes))) if bytes[0] == 0 => {
                        stream.write_all(&bytes[1..]).await.unwrap();
                    }
                    Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                    Some(Ok(_)) => {}
                },
                read = stream.read(&mut buffer) => match read {
                    Ok(n) if n > 0 => {
                        let message = [&[0], &buffer[..n]].concat();
                        socket.send(Message::binary(message)).await.unwrap();
                    }
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
