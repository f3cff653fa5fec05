//! An API server as far as a recorder needs one: lists and watches that hold still, TokenReviews,
//! SubjectAccessReviews.

#![allow(clippy::unwrap_used)] // a test that cannot go on should say where

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use http_body_util::BodyExt;
use serde_json::{Value, json};

/// What it answers.
#[derive(Default)]
pub struct Says {
    /// Objects by the last part of their path (`pods`, `services`…).
    pub objects: BTreeMap<String, Vec<Value>>,
    /// Users by token: name, node (of the pod that the token is bound to), audience.
    pub tokens: BTreeMap<String, (String, Option<String>, Option<String>)>,
    /// Who may do what with Sidecars where: user, verb, namespace (empty: all).
    pub allowed: BTreeSet<(String, String, String)>,
    /// What is answered with this status in place of a list.
    pub refused: BTreeMap<String, u16>,
    /// Questions that were asked.
    pub reviews: u64,
}

/// The user of all agents' tokens, and for whom these are.
const AGENT: &str = "system:serviceaccount:sidecarta:sidecarta-agent";
const AUDIENCE: &str = "sidecarta-recorder";

impl Says {
    /// These objects, and nobody who may ask.
    pub fn of(objects: impl IntoIterator<Item = Value>) -> Self {
        let mut says = Self::default();
        for object in objects {
            let plural = format!("{}s", object["kind"].as_str().unwrap().to_lowercase());
            says.objects.entry(plural).or_default().push(object);
        }
        says
    }

    /// Adds a token of an agent: the node of its pod, and another audience than the recorder.
    pub fn agent(&mut self, token: &str, node: Option<&str>, other: Option<&str>) {
        let audience = other.unwrap_or(AUDIENCE).to_owned();
        let user = (AGENT.to_owned(), node.map(str::to_owned), Some(audience));
        self.tokens.insert(token.to_owned(), user);
    }

    /// Adds a person, whose token is the name, with rights on Sidecars: verb, and namespace (empty:
    /// all).
    pub fn person(&mut self, name: &str, rights: &[(&str, &str)]) {
        self.tokens.insert(name.to_owned(), (name.to_owned(), None, None));
        let named = |(verb, namespace): &(&str, &str)| {
            (name.to_owned(), (*verb).to_owned(), (*namespace).to_owned())
        };
        self.allowed.extend(rights.iter().map(named));
    }
}

/// A running one.
pub struct Cluster {
    pub says: Arc<Mutex<Says>>,
    pub kubeconfig: tempfile::NamedTempFile,
    _runtime: tokio::runtime::Runtime,
}

impl Cluster {
    pub fn start(says: Says) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let says = Arc::new(Mutex::new(says));
        let app = Router::new().fallback(answer).with_state(Arc::clone(&says));
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(async move { axum::serve(listener, app).await });
        let kubeconfig = tempfile::NamedTempFile::new().unwrap();
        super::common::kubeconfig(kubeconfig.path(), address, &json!({}));
        Self { says, kubeconfig, _runtime: runtime }
    }
}

async fn answer(State(says): State<Arc<Mutex<Says>>>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let watches = request.uri().query().unwrap_or_default().contains("watch=");
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let what = path.rsplit('/').next().unwrap().to_owned();
    if watches {
        // Nothing ever changes here.
        std::future::pending::<()>().await;
    }
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let mut says = says.lock().unwrap();
    match what.as_str() {
        "tokenreviews" => {
            says.reviews += 1;
            let wanted: Vec<String> =
                serde_json::from_value(body["spec"]["audiences"].clone()).unwrap_or_default();
            let known =
                says.tokens.get(body["spec"]["token"].as_str().unwrap_or_default()).cloned();
            let good = known.filter(|(.., audience)| {
                wanted.is_empty() || audience.as_ref().is_some_and(|a| wanted.contains(a))
            });
            let status = match good {
                None => json!({"authenticated": false, "error": "unknown token"}),
                Some((user, node, audience)) => {
                    let extra = node
                        .map(|n| json!({"authentication.kubernetes.io/node-name": [n]}))
                        .unwrap_or(json!({}));
                    json!({"authenticated": true,
                        "audiences": audience.into_iter().collect::<Vec<_>>(),
                        "user": {"username": user, "groups": ["system:authenticated"],
                            "extra": extra}})
                }
            };
            Json(json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
                "metadata": {}, "spec": {}, "status": status}))
            .into_response()
        }
        "subjectaccessreviews" => {
            says.reviews += 1;
            let of = |name: &str| {
                body["spec"]["resourceAttributes"][name].as_str().unwrap_or_default().to_owned()
            };
            assert_eq!(
                (of("group"), of("resource")),
                ("networking.istio.io".to_owned(), "sidecars".to_owned())
            );
            let asked =
                (body["spec"]["user"].as_str().unwrap().to_owned(), of("verb"), of("namespace"));
            let allowed = says.allowed.contains(&asked);
            Json(json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
                "metadata": {}, "spec": {},
                "status": {"allowed": allowed}}))
            .into_response()
        }
        kind if says.refused.contains_key(kind) => {
            let status = StatusCode::from_u16(says.refused[kind]).unwrap();
            let reason = if status == StatusCode::FORBIDDEN { "Forbidden" } else { "NotFound" };
            let body = json!({"apiVersion": "v1", "kind": "Status", "status": "Failure",
                "metadata": {}, "code": status.as_u16(),
                "reason": reason, "message": format!("{kind} is refused")});
            (status, Json(body)).into_response()
        }
        kind => {
            let items = says.objects.get(kind).cloned().unwrap_or_default();
            Json(json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": "1"},
                "items": items}))
            .into_response()
        }
    }
}
