//! The recorder's HTTP interface (`openapi.yaml` describes it).
//!
//! Owns paths, limits and answers. A batch is refused whole, with the reason, or it is on the disk
//! when it is answered. Must never tell anyone of a namespace that they may not read.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::Semaphore;

use super::auth::{Denied, Gate};
use super::engine::{Engine, Refused};
use crate::clock;
use crate::cluster::Cluster;
use crate::memory::{Decided, Memory};
use crate::novelty::{self, Decision};
use crate::observed::{Observed, Reader};
use crate::present::{Coverage, Mesh, Shown, ShownAlert, Status};
use crate::store::{Applied, StoreError};
use crate::view::View;

/// Bytes of a request's body. A batch of an agent that was away for days has a tenth of it.
const MAX_BODY: usize = 16 * 1024 * 1024;
/// Bytes of a batch as text: what it is unpacked to.
const MAX_TEXT: u64 = 128 * 1024 * 1024;
/// Largest window of compression, as a power of two: what a decoder may need.
const MAX_WINDOW: u32 = 23;
/// Batches that are read at once.
const AT_ONCE: usize = 4;
/// How long the body of a request may take.
const BODY: Duration = Duration::from_secs(30);
/// How hard a backup is packed: hard enough for a twentieth of its size, and as fast as it is read.
const PACKED: i32 = 1;
/// What those who come too early are told to wait.
const WAIT: u64 = 1;

/// Refusals, by reason.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub unknown: AtomicU64,
    pub forbidden: AtomicU64,
    pub malformed: AtomicU64,
    pub oversized: AtomicU64,
    pub busy: AtomicU64,
    pub unavailable: AtomicU64,
}

/// What requests are answered with.
pub(super) struct App {
    pub engine: Engine,
    /// Absent where everybody may do everything.
    pub gate: Option<Gate>,
    pub view: View,
    pub counters: Counters,
    room: Semaphore,
}

impl App {
    pub fn new(engine: Engine, gate: Option<Gate>, view: View) -> Self {
        Self { engine, gate, view, counters: Counters::default(), room: Semaphore::new(AT_ONCE) }
    }

    /// Whether whoever sent these headers may read, or decide, in a namespace or in all; and who
    /// that is, where anybody is asked.
    async fn may(
        &self,
        headers: &HeaderMap,
        namespace: Option<&str>,
        decide: bool,
    ) -> Result<Option<String>, Denied> {
        let Some(gate) = &self.gate else { return Ok(None) };
        let person = gate.person(token(headers)).await?;
        match decide {
            true => gate.may_decide(&person, namespace).await?,
            false => gate.may_read(&person, namespace).await?,
        }
        Ok(Some(person.name))
    }

    fn refuse(&self, refusal: Refusal) -> Refusal {
        let counter = match refusal.status {
            StatusCode::UNAUTHORIZED => &self.counters.unknown,
            StatusCode::FORBIDDEN => &self.counters.forbidden,
            StatusCode::PAYLOAD_TOO_LARGE => &self.counters.oversized,
            StatusCode::TOO_MANY_REQUESTS => &self.counters.busy,
            StatusCode::SERVICE_UNAVAILABLE => &self.counters.unavailable,
            _ => &self.counters.malformed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        refusal
    }
}

/// All paths, as `openapi.yaml` has them; a test holds the two against each other.
pub(super) fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/v1/batches", post(batches))
        .route("/v1/records", get(records))
        .route("/v1/export", get(export))
        .route("/v1/dependencies", get(dependencies))
        .route("/v1/workloads", get(workloads))
        .route("/v1/coverage", get(coverage))
        .route("/v1/mesh", get(mesh))
        .route("/v1/alerts", get(alerts))
        .route("/v1/baselines", get(baselines))
        .route("/v1/accept", post(accept))
        .route("/v1/ignore", post(ignore))
        .with_state(app)
}

/// Why a request is not answered as it was meant.
#[derive(Debug)]
struct Refusal {
    status: StatusCode,
    why: String,
}

impl Refusal {
    fn new(status: StatusCode, why: impl Into<String>) -> Self {
        Self { status, why: why.into() }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = Json(json!({"error": self.why}));
        match self.status {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                (self.status, [(header::RETRY_AFTER, WAIT.to_string())], body).into_response()
            }
            StatusCode::UNAUTHORIZED => {
                (self.status, [(header::WWW_AUTHENTICATE, "Bearer")], body).into_response()
            }
            _ => (self.status, body).into_response(),
        }
    }
}

impl From<Denied> for Refusal {
    fn from(denied: Denied) -> Self {
        let status = match denied {
            Denied::Unknown(_) => StatusCode::UNAUTHORIZED,
            Denied::Forbidden(_) => StatusCode::FORBIDDEN,
            Denied::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, denied.to_string())
    }
}

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Self {
        let status = match refused {
            Refused::Busy => StatusCode::TOO_MANY_REQUESTS,
            Refused::Closed(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, refused.to_string())
    }
}

fn token(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ").map(str::trim)
}

async fn batches(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    take(&app, &headers, body).await.map_err(|r| app.refuse(r))
}

async fn take(app: &App, headers: &HeaderMap, body: Body) -> Result<Response, Refusal> {
    let node = match &app.gate {
        Some(gate) => Some(gate.agent(token(headers)).await?),
        None => None,
    };
    let _place = app.room.try_acquire().map_err(|_| Refused::Busy)?;
    let body = match tokio::time::timeout(BODY, Limited::new(body, MAX_BODY).collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(e)) if e.is::<LengthLimitError>() => {
            let why = format!("the body is longer than {MAX_BODY} bytes");
            return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, why));
        }
        Ok(Err(e)) => {
            return Err(Refusal::new(
                StatusCode::BAD_REQUEST,
                format!("the body cannot be read: {e}"),
            ));
        }
        Err(_) => {
            return Err(Refusal::new(
                StatusCode::REQUEST_TIMEOUT,
                format!("the body did not come within {BODY:?}"),
            ));
        }
    };
    let packed = match headers.get(header::CONTENT_ENCODING).map(|v| v.as_bytes()) {
        Some(b"zstd") => true,
        None | Some(b"identity") => false,
        Some(_) => {
            return Err(Refusal::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "Content-Encoding is zstd, or none",
            ));
        }
    };
    let read = tokio::task::spawn_blocking(move || read(&body, packed, node.as_deref())).await;
    let (batch, bytes) = read.map_err(|e| {
        Refusal::new(StatusCode::BAD_REQUEST, format!("the batch cannot be read: {e}"))
    })??;
    if app.gate.is_some() {
        truthful(&batch, &app.view.current())?;
    }
    let applied = app.engine.keep(batch, bytes).await?;
    let word = if applied == Applied::New { "new" } else { "already-held" };
    Ok(Json(json!({"applied": word})).into_response())
}

/// Exactly one batch, of this node, and its bytes as they are kept.
fn read(body: &[u8], packed: bool, node: Option<&str>) -> Result<(Observed, Vec<u8>), Refusal> {
    let malformed = |why: String| Refusal::new(StatusCode::BAD_REQUEST, why);
    let text = if packed {
        let mut decoder =
            zstd::Decoder::new(body).map_err(|e| malformed(format!("not zstd: {e}")))?;
        decoder.window_log_max(MAX_WINDOW).map_err(|e| malformed(e.to_string()))?;
        let mut text = Vec::new();
        decoder
            .take(MAX_TEXT + 1)
            .read_to_end(&mut text)
            .map_err(|e| malformed(format!("not zstd: {e}")))?;
        text
    } else {
        body.to_vec()
    };
    if text.len() as u64 > MAX_TEXT {
        return Err(Refusal::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the batch is longer than {MAX_TEXT} bytes"),
        ));
    }
    let mut reader = Reader::new(text.as_slice());
    let batch = match reader.next() {
        Some(Ok(batch)) => batch,
        Some(Err(e)) => return Err(malformed(e.to_string())),
        None => return Err(malformed("the body holds no batch".to_owned())),
    };
    if reader.next().is_some() {
        return Err(malformed("the body holds more than one batch".to_owned()));
    }
    if !batch.id.source.starts_with("agent:") {
        return Err(malformed(format!("the batch is of {}, which is no agent", batch.id.source)));
    }
    if let Some(node) = node {
        let lie = |what: String| {
            Refusal::new(
                StatusCode::FORBIDDEN,
                format!("the token is of the agent on {node}: {what}"),
            )
        };
        let own = format!("agent:{node}:");
        if batch.node != node || !batch.id.source.starts_with(&own) {
            return Err(lie(format!(
                "the batch says that it is of {} ({})",
                batch.node, batch.id.source
            )));
        }
        if let Some(pod) = batch.pods.iter().find(|p| *p.node != *node) {
            return Err(lie(format!(
                "the pod {}/{} is on {:?}",
                pod.workload.namespace, pod.name, pod.node
            )));
        }
    }
    let bytes = if packed {
        body.to_vec()
    } else {
        zstd::encode_all(text.as_slice(), 1).map_err(|e| malformed(e.to_string()))?
    };
    Ok((batch, bytes))
}

/// An agent may say of a pod what it likes; what the API server says of it counts. A pod that is
/// not known yet is the agent's word.
fn truthful(batch: &Observed, cluster: &Cluster) -> Result<(), Refusal> {
    for pod in &batch.pods {
        let known = cluster.pods_named(&pod.workload.namespace, &pod.name);
        if !known.is_empty() && !known.iter().any(|k| *k.node == *batch.node || k.node.is_empty()) {
            let (namespace, name, node) = (&pod.workload.namespace, &pod.name, &batch.node);
            return Err(Refusal::new(
                StatusCode::FORBIDDEN,
                format!("the pod {namespace}/{name} does not run on {node}"),
            ));
        }
    }
    Ok(())
}

#[derive(Debug, Deserialize)]
struct Wanted {
    namespace: Option<String>,
}

/// What is known of what the caller wants and may read.
async fn memory(app: &App, headers: &HeaderMap, wanted: Wanted) -> Result<Memory, Refusal> {
    let result = async {
        let namespace = wanted.namespace.filter(|n| !n.is_empty());
        app.may(headers, namespace.as_deref(), false).await?;
        let known = app.engine.ask(move |store| Memory::of(store, namespace.as_deref())).await?;
        known.map_err(internal)
    };
    result.await.map_err(|r| app.refuse(r))
}

async fn records(
    State(app): State<Arc<App>>,
    Query(wanted): Query<Wanted>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let memory = memory(&app, &headers, wanted).await?;
    let mut text = Vec::new();
    for record in memory.into_records() {
        serde_json::to_writer(&mut text, &record)
            .map_err(|e| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))?;
        text.push(b'\n');
    }
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], text).into_response())
}

/// A backup while the recorder runs. The store does nothing else meanwhile, so that it is of one
/// moment.
async fn export(State(app): State<Arc<App>>, headers: HeaderMap) -> Result<Response, Refusal> {
    let result = async {
        app.may(&headers, None, false).await?;
        let packed = app.engine.ask(|store| {
            let mut out = zstd::Encoder::new(Vec::new(), PACKED)?;
            store.export(&mut out)?;
            Ok::<_, StoreError>(out.finish()?)
        });
        Ok(([(header::CONTENT_TYPE, "application/zstd")], packed.await?.map_err(internal)?)
            .into_response())
    };
    result.await.map_err(|r| app.refuse(r))
}

async fn dependencies(
    State(app): State<Arc<App>>,
    Query(wanted): Query<Wanted>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let result = async {
        let namespace = wanted.namespace.filter(|n| !n.is_empty());
        app.may(&headers, namespace.as_deref(), false).await?;
        let all = app
            .engine
            .ask(move |store| store.dependencies(namespace.as_deref()))
            .await?
            .map_err(internal)?;
        Ok(Json(all.iter().map(Shown::from).collect::<Vec<_>>()).into_response())
    };
    result.await.map_err(|r| app.refuse(r))
}

async fn workloads(
    State(app): State<Arc<App>>,
    Query(wanted): Query<Wanted>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let memory = memory(&app, &headers, wanted).await?;
    Ok(Json(Status::of(memory)).into_response())
}

async fn coverage(
    State(app): State<Arc<App>>,
    Query(wanted): Query<Wanted>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let result = async {
        let namespace = wanted.namespace.filter(|n| !n.is_empty());
        app.may(&headers, namespace.as_deref(), false).await?;
        let covered = app.engine.ask(move |store| {
            let namespace = namespace.as_deref();
            Ok::<_, StoreError>(Coverage::of(
                store.workloads(namespace)?,
                store.watches(namespace)?,
                store.sources()?,
            ))
        });
        Ok(Json(covered.await?.map_err(internal)?).into_response())
    };
    result.await.map_err(|r| app.refuse(r))
}

async fn mesh(
    State(app): State<Arc<App>>,
    Query(wanted): Query<Wanted>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let result = async {
        let namespace = wanted.namespace.filter(|n| !n.is_empty());
        app.may(&headers, namespace.as_deref(), false).await?;
        let view = app.view.status_in(namespace.as_deref());
        Ok(Json(Mesh::of(&view, app.engine.progress().waiting)).into_response())
    };
    result.await.map_err(|r| app.refuse(r))
}

async fn alerts(
    State(app): State<Arc<App>>,
    Query(wanted): Query<Wanted>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let result = async {
        let namespace = wanted.namespace.filter(|n| !n.is_empty());
        app.may(&headers, namespace.as_deref(), false).await?;
        let all = app
            .engine
            .ask(move |store| store.alerts(namespace.as_deref()))
            .await?
            .map_err(internal)?;
        Ok(Json(all.iter().map(|r| ShownAlert::from(&r.alert)).collect::<Vec<_>>()).into_response())
    };
    result.await.map_err(|r| app.refuse(r))
}

async fn baselines(
    State(app): State<Arc<App>>,
    Query(wanted): Query<Wanted>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let result = async {
        let namespace = wanted.namespace.filter(|n| !n.is_empty());
        app.may(&headers, namespace.as_deref(), false).await?;
        let decided = app
            .engine
            .ask(move |store| Decided::of(store, namespace.as_deref()))
            .await?
            .map_err(internal)?;
        Ok(Json(decided).into_response())
    };
    result.await.map_err(|r| app.refuse(r))
}

/// What is to be accepted.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ToAccept {
    namespace: Option<String>,
    /// Names of workloads; all of the namespace without any.
    #[serde(default)]
    workloads: Vec<String>,
}

async fn accept(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    Json(what): Json<ToAccept>,
) -> Result<Response, Refusal> {
    let result = async {
        let by = app.may(&headers, what.namespace.as_deref(), true).await?;
        let accepted = app
            .engine
            .ask(move |store| {
                let decision = Decision { by, at: clock::now() };
                novelty::accept(store, what.namespace.as_deref(), &what.workloads, &decision)
            })
            .await?
            .map_err(internal)?;
        let accepted: BTreeMap<String, usize> =
            accepted.into_iter().map(|(id, n)| (id.to_string(), n)).collect();
        Ok(Json(json!({"accepted": accepted})).into_response())
    };
    result.await.map_err(|r| app.refuse(r))
}

/// What nobody wants to hear of.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ToIgnore {
    id: String,
    reason: String,
}

async fn ignore(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    Json(what): Json<ToIgnore>,
) -> Result<Response, Refusal> {
    let result = async {
        // The identity is kind/namespace/…
        let namespace = what.id.split('/').nth(1).unwrap_or_default().to_owned();
        let by = app.may(&headers, Some(&namespace), true).await?;
        if what.reason.trim().is_empty() {
            let why = "the reason is empty: say why nobody wants to hear of it";
            return Err(Refusal::new(StatusCode::BAD_REQUEST, why));
        }
        let n = app
            .engine
            .ask(move |store| {
                let decision = Decision { by, at: clock::now() };
                novelty::ignore(store, &what.id, &what.reason, &decision)
            })
            .await?
            .map_err(internal)?;
        match n {
            0 => Err(Refusal::new(
                StatusCode::NOT_FOUND,
                "there is no such alert; GET /v1/alerts lists them",
            )),
            _ => Ok(Json(json!({"ignored": n})).into_response()),
        }
    };
    result.await.map_err(|r| app.refuse(r))
}

fn internal(error: impl std::fmt::Display) -> Refusal {
    Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
}
