//! The recorder's HTTP interface (`openapi.yaml` describes it).
//!
//! Owns paths, limits and answers. A batch is refused whole, with the reason, or it is on the disk
//! when it is answered. Which of its lines count is decided when it is resolved (`verify`). A
//! refusal says whether the batch is refused for good. Must never show anyone a namespace that they
//! may not read.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{from_fn_with_state, map_response};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use serde::Deserialize;
use serde_json::json;

use super::agents::SILENT_AFTER;
use super::app::{App, RequestRefusal, token};
use super::auth::Right;
use super::engine::EngineUnavailable;
use super::request::{
    CallerName, JsonBody, NamespaceQuery, identify, no_such_method, no_such_path, read_body,
};
use super::slots::MAX_BODY;
use crate::clock;
use crate::novelty::{self, Decision};
use crate::observed::{self, MAX_TEXT, Observed, Packed, Reader, VERSION_HEADER, allowance};
use crate::present::{
    Coverage, MeshStatus, NodeUnverified, ShownAlert, ShownDependency, StatusReport,
};
use crate::records::{Decided, Records};
use crate::store::{Applied, Store, StoreError};

/// Compression level of an export: it makes a twentieth of the size, as fast as the store is read.
const EXPORT_LEVEL: i32 = 1;
/// Bytes of a batch's source: the name of a node (253, RFC 1123) and the boot of its agent.
const MAX_SOURCE: usize = 400;

/// All paths, as `openapi.yaml` has them: a test compares the two.
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
        .layer(from_fn_with_state(Arc::clone(&app), identify))
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .layer(map_response(add_version))
        .with_state(app)
}

/// Adds to each answer which version of batches is read, so that an agent that writes a newer one
/// waits for a newer recorder.
async fn add_version(mut answer: Response) -> Response {
    answer.headers_mut().insert(VERSION_HEADER, HeaderValue::from(observed::VERSION));
    answer
}

async fn batches(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<CallerName>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, RequestRefusal> {
    take_batch(&app, &caller, &headers, body).await.map_err(|r| app.refuse(r))
}

async fn take_batch(
    app: &Arc<App>,
    caller: &CallerName,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, RequestRefusal> {
    let node = match &app.authorizer {
        // The answer is in the cache: the request was identified before.
        Some(authorizer) => Some(authorizer.agent(token(headers), None).await?),
        None => None,
    };
    let coding = match headers.get(header::CONTENT_ENCODING).map(|v| v.as_bytes()) {
        Some(b"zstd") => ContentCoding::Zstd,
        None | Some(b"identity") => ContentCoding::Identity,
        Some(_) => {
            let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            return Err(RequestRefusal::of_batch(status, "Content-Encoding is zstd, or none"));
        }
    };
    let body = read_body(app, Some(caller), body, MAX_BODY).await;
    let (body, slot) = body.map_err(RequestRefusal::of_batch_if_too_long)?;
    let app = Arc::clone(app);
    // A task of its own: when the client closes the connection, the room stays taken as long as the
    // batch is in memory.
    let queued = tokio::spawn(async move {
        let applied = queue_batch(&app, body.bytes, coding, node).await;
        drop((body.room, slot));
        applied
    });
    let applied = queued.await.map_err(not_readable)??;
    let word = if applied == Applied::New { "new" } else { "already-held" };
    Ok(Json(json!({"applied": word})).into_response())
}

/// How a body is encoded (`Content-Encoding`, RFC 9110).
#[derive(Clone, Copy, PartialEq, Eq)]
enum ContentCoding {
    Identity,
    Zstd,
}

fn not_readable(error: impl std::fmt::Display) -> RequestRefusal {
    RequestRefusal::new(StatusCode::BAD_REQUEST, format!("the batch cannot be read: {error}"))
}

/// Reads a batch in as much memory as it needs, and queues it.
async fn queue_batch(
    app: &App,
    body: Vec<u8>,
    coding: ContentCoding,
    node: Option<String>,
) -> Result<Applied, RequestRefusal> {
    let parsing = app.slots.parse().await.ok_or(EngineUnavailable::Busy)?;
    let packed = tokio::task::spawn_blocking(move || pack(body, coding)).await;
    let (bytes, text_length) = packed.map_err(not_readable)??;
    let memory = allowance(text_length);
    let _room = app.slots.batch(memory).await.ok_or(EngineUnavailable::Busy)?;
    let read = tokio::task::spawn_blocking(move || {
        read_batch(&bytes, memory, node.as_deref()).map(|batch| (batch, bytes))
    });
    let (batch, bytes) = read.await.map_err(not_readable)??;
    drop(parsing);
    let node = batch.node.clone();
    let applied = app.engine.queue(batch, bytes).await?;
    app.agents.heard(&node);
    Ok(applied)
}

/// A batch as it is queued, compressed, and the length of its text in bytes.
fn pack(body: Vec<u8>, coding: ContentCoding) -> Result<(Vec<u8>, u64), RequestRefusal> {
    let malformed = |e: std::io::Error| {
        RequestRefusal::of_batch(StatusCode::BAD_REQUEST, format!("not zstd: {e}"))
    };
    let bytes = match coding {
        ContentCoding::Zstd => body,
        ContentCoding::Identity => zstd::encode_all(&*body, 1).map_err(malformed)?,
    };
    let text_length = Packed::new(&bytes).text_length().map_err(malformed)?;
    if text_length > MAX_TEXT {
        return Err(RequestRefusal::of_batch(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the batch is longer than {MAX_TEXT} bytes"),
        ));
    }
    Ok((bytes, text_length))
}

/// Reads exactly one batch, within so many bytes of memory. It must be of this node, where the node
/// is proven.
fn read_batch(bytes: &[u8], memory: usize, node: Option<&str>) -> Result<Observed, RequestRefusal> {
    let malformed = |why: String| RequestRefusal::of_batch(StatusCode::BAD_REQUEST, why);
    let text = Packed::new(bytes).text().map_err(|e| malformed(format!("not zstd: {e}")))?;
    let mut reader = Reader::new(text).within(memory);
    let batch = match reader.next() {
        Some(Ok(batch)) => batch,
        Some(Err(e)) => return Err(malformed(e.to_string())),
        None => return Err(malformed("the body contains no batch".to_owned())),
    };
    if reader.next().is_some() {
        return Err(malformed("the body contains more than one batch".to_owned()));
    }
    if !batch.id.source.starts_with("agent:") {
        return Err(malformed(format!("the batch is of {}, which is no agent", batch.id.source)));
    }
    // People are shown both as they are.
    let is_plain =
        |name: &str| name.len() <= MAX_SOURCE && name.bytes().all(|b| b.is_ascii_graphic());
    if !is_plain(&batch.id.source) || !is_plain(&batch.node) {
        let why = format!("its source and its node are up to {MAX_SOURCE} printable characters");
        return Err(malformed(why));
    }
    if let Some(node) = node {
        let own = format!("agent:{node}:");
        if batch.node != node || !batch.id.source.starts_with(&own) {
            let why = format!(
                "the token is of the agent on {node}: the batch says that it is of {} ({})",
                batch.node, batch.id.source
            );
            return Err(RequestRefusal::of_batch(StatusCode::FORBIDDEN, why));
        }
    }
    Ok(batch)
}

/// Reads the store for a namespace, or for all, if the sender may read it.
async fn read_store<T: Send + 'static>(
    app: &App,
    headers: &HeaderMap,
    query: NamespaceQuery,
    question: impl FnOnce(&Store, Option<&str>) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, RequestRefusal> {
    let result = async {
        let namespace = query.namespace();
        app.check_right(headers, Right::Read, namespace.as_deref()).await?;
        let answer = app.engine.ask(move |store| question(store, namespace.as_deref()));
        answer.await?.map_err(internal)
    };
    result.await.map_err(|r| app.refuse(r))
}

async fn records(
    State(app): State<Arc<App>>,
    query: NamespaceQuery,
    headers: HeaderMap,
) -> Result<Response, RequestRefusal> {
    let records = read_store(&app, &headers, query, Records::of).await?;
    let mut text = Vec::new();
    for record in records.into_records() {
        serde_json::to_writer(&mut text, &record)
            .map_err(|e| RequestRefusal::new(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))?;
        text.push(b'\n');
    }
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], text).into_response())
}

/// An export while the recorder runs. The store does nothing else meanwhile, so that the export is
/// of one moment.
async fn export(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
) -> Result<Response, RequestRefusal> {
    let result = async {
        app.check_right(&headers, Right::Read, None).await?;
        let packed = app.engine.ask(|store| {
            let mut out = zstd::Encoder::new(Vec::new(), EXPORT_LEVEL)?;
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
    query: NamespaceQuery,
    headers: HeaderMap,
) -> Result<Response, RequestRefusal> {
    let all = read_store(&app, &headers, query, Store::dependencies).await?;
    Ok(Json(all.iter().map(ShownDependency::from).collect::<Vec<_>>()).into_response())
}

async fn workloads(
    State(app): State<Arc<App>>,
    query: NamespaceQuery,
    headers: HeaderMap,
) -> Result<Response, RequestRefusal> {
    let read = |store: &Store, namespace: Option<&str>| {
        Ok((Records::of(store, namespace)?, store.alerts(namespace)?))
    };
    let (records, alerts) = read_store(&app, &headers, query, read).await?;
    let mut status = StatusReport::of(records);
    status.add_blocked_calls(alerts.into_iter().map(|raised| raised.alert).collect());
    Ok(Json(status).into_response())
}

async fn coverage(
    State(app): State<Arc<App>>,
    query: NamespaceQuery,
    headers: HeaderMap,
) -> Result<Response, RequestRefusal> {
    let covered = read_store(&app, &headers, query, |store, namespace| {
        let (workloads, watches) = (store.workloads(namespace)?, store.watches(namespace)?);
        Ok(Coverage::of(workloads, watches, store.sources()?))
    });
    Ok(Json(covered.await?).into_response())
}

async fn mesh(
    State(app): State<Arc<App>>,
    query: NamespaceQuery,
    headers: HeaderMap,
) -> Result<Response, RequestRefusal> {
    let result = async {
        let namespace = query.namespace();
        app.check_right(&headers, Right::Read, namespace.as_deref()).await?;
        let view = app.view.status_in(namespace.as_deref());
        let progress = app.engine.progress();
        let unverified = NodeUnverified::of(&progress.unverified, namespace.as_deref());
        let mesh = MeshStatus::of(&view, progress.waiting, unverified);
        Ok(Json(mesh.with_agents(app.agent_ages(), SILENT_AFTER)).into_response())
    };
    result.await.map_err(|r| app.refuse(r))
}

async fn alerts(
    State(app): State<Arc<App>>,
    query: NamespaceQuery,
    headers: HeaderMap,
) -> Result<Response, RequestRefusal> {
    let all = read_store(&app, &headers, query, Store::alerts).await?;
    Ok(Json(all.iter().map(|r| ShownAlert::from(&r.alert)).collect::<Vec<_>>()).into_response())
}

async fn baselines(
    State(app): State<Arc<App>>,
    query: NamespaceQuery,
    headers: HeaderMap,
) -> Result<Response, RequestRefusal> {
    Ok(Json(read_store(&app, &headers, query, Decided::of).await?).into_response())
}

/// The body of `/v1/accept`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AcceptRequest {
    namespace: Option<String>,
    /// Names of workloads. Without any, all workloads of the namespace are accepted.
    #[serde(default)]
    workloads: Vec<String>,
}

async fn accept(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    JsonBody(what): JsonBody<AcceptRequest>,
) -> Result<Response, RequestRefusal> {
    let result = async {
        let by = app.check_right(&headers, Right::Decide, what.namespace.as_deref()).await?;
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

/// The body of `/v1/ignore`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct IgnoreRequest {
    id: String,
    reason: String,
}

async fn ignore(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    JsonBody(what): JsonBody<IgnoreRequest>,
) -> Result<Response, RequestRefusal> {
    let result = async {
        // The id of an alert is KIND/NAMESPACE/…
        let namespace = what.id.split('/').nth(1).unwrap_or_default().to_owned();
        let by = app.check_right(&headers, Right::Decide, Some(&namespace)).await?;
        if what.reason.trim().is_empty() {
            let why = "the reason is empty: say why nobody wants to hear of it";
            return Err(RequestRefusal::new(StatusCode::BAD_REQUEST, why));
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
            0 => Err(RequestRefusal::new(
                StatusCode::NOT_FOUND,
                "there is no such alert; GET /v1/alerts lists them",
            )),
            _ => Ok(Json(json!({"ignored": n})).into_response()),
        }
    };
    result.await.map_err(|r| app.refuse(r))
}

fn internal(error: impl std::fmt::Display) -> RequestRefusal {
    RequestRefusal::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
}
