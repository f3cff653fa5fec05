//! The recorder's HTTP interface (`openapi.yaml` describes it).
//!
//! Owns paths, limits and answers. A batch is refused whole, with the reason, or it is on the disk
//! when it is answered; which of its lines count is decided when it is resolved (`verify`). A
//! refusal says whether it is the batch that is refused, or whoever brings it. Must never tell
//! anyone of a namespace that they may not read.

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

use super::app::{App, Refusal, of_batch, token};
use super::asking::{Said, Wanted, Who, body as read_body, identify, not_so, nowhere};
use super::engine::Refused;
use super::places::MAX_BODY;
use crate::clock;
use crate::novelty::{self, Decision};
use crate::observed::{self, MAX_TEXT, Observed, Packed, Reader, VERSION_HEADER, allowance};
use crate::present::{
    Coverage, MeshStatus, NodeUnverified, ShownAlert, ShownDependency, StatusReport,
};
use crate::records::{Decided, Records};
use crate::store::{Applied, Store, StoreError};

/// How hard a backup is packed: hard enough for a twentieth of its size, and as fast as it is read.
const PACKED: i32 = 1;
/// Bytes of a batch's source: the name of a node (253, RFC 1123) and an agent's boot.
const MAX_SOURCE: usize = 400;

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
        .layer(from_fn_with_state(Arc::clone(&app), identify))
        .fallback(nowhere)
        .method_not_allowed_fallback(not_so)
        .layer(map_response(announce))
        .with_state(app)
}

/// Says with each answer which version of batches is read, so that an agent that writes a newer one
/// waits for a newer recorder.
async fn announce(mut answer: Response) -> Response {
    answer.headers_mut().insert(VERSION_HEADER, HeaderValue::from(observed::VERSION));
    answer
}

async fn batches(
    State(app): State<Arc<App>>,
    Extension(who): Extension<Who>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    take(&app, &who, &headers, body).await.map_err(|r| app.refuse(r))
}

async fn take(
    app: &Arc<App>,
    who: &Who,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let node = match &app.gate {
        // Found out already, and remembered.
        Some(gate) => Some(gate.agent(token(headers), None).await?),
        None => None,
    };
    let packed = match headers.get(header::CONTENT_ENCODING).map(|v| v.as_bytes()) {
        Some(b"zstd") => true,
        None | Some(b"identity") => false,
        Some(_) => {
            return Err(of_batch(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "Content-Encoding is zstd, or none".to_owned(),
            ));
        }
    };
    let read = read_body(app, Some(who), body, MAX_BODY).await;
    // One that is too long will be so whenever it is brought.
    let (body, caller) = read.map_err(Refusal::of_long_batch)?;
    let app = Arc::clone(app);
    // A client that goes away does not make room while its batch is still in memory.
    let taken = tokio::spawn(async move {
        let applied = settle(&app, body.bytes, packed, node).await;
        drop((body.room, caller));
        applied
    });
    let applied = taken.await.map_err(unread)??;
    let word = if applied == Applied::New { "new" } else { "already-held" };
    Ok(Json(json!({"applied": word})).into_response())
}

fn unread(error: impl std::fmt::Display) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, format!("the batch cannot be read: {error}"))
}

/// Reads a batch in as much room as it needs, and keeps it.
async fn settle(
    app: &App,
    body: Vec<u8>,
    packed: bool,
    node: Option<String>,
) -> Result<Applied, Refusal> {
    let parsed = app.places.parse().await.ok_or(Refused::Busy)?;
    let bytes = tokio::task::spawn_blocking(move || pack(body, packed)).await;
    let (bytes, text) = bytes.map_err(unread)??;
    let memory = allowance(text);
    let _room = app.places.batch(memory).await.ok_or(Refused::Busy)?;
    let read = tokio::task::spawn_blocking(move || {
        read(&bytes, memory, node.as_deref()).map(|batch| (batch, bytes))
    });
    let (batch, bytes) = read.await.map_err(unread)??;
    drop(parsed);
    Ok(app.engine.keep(batch, bytes).await?)
}

/// A batch as it is kept, compressed, and the bytes of its text.
fn pack(body: Vec<u8>, packed: bool) -> Result<(Vec<u8>, u64), Refusal> {
    let malformed = |e: std::io::Error| of_batch(StatusCode::BAD_REQUEST, format!("not zstd: {e}"));
    let bytes = if packed { body } else { zstd::encode_all(&*body, 1).map_err(malformed)? };
    let text = Packed::new(&bytes).text_length().map_err(malformed)?;
    if text > MAX_TEXT {
        return Err(of_batch(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the batch is longer than {MAX_TEXT} bytes"),
        ));
    }
    Ok((bytes, text))
}

/// Exactly one batch, of this node, which takes no more memory than that.
fn read(bytes: &[u8], memory: usize, node: Option<&str>) -> Result<Observed, Refusal> {
    let malformed = |why: String| of_batch(StatusCode::BAD_REQUEST, why);
    let text = Packed::new(bytes).text().map_err(|e| malformed(format!("not zstd: {e}")))?;
    let mut reader = Reader::new(text).within(memory);
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
    // Both are shown to people as they are.
    let plain = |name: &str| name.len() <= MAX_SOURCE && name.bytes().all(|b| b.is_ascii_graphic());
    if !plain(&batch.id.source) || !plain(&batch.node) {
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
            return Err(of_batch(StatusCode::FORBIDDEN, why));
        }
    }
    Ok(batch)
}

/// What the store says of a namespace, or of all, to somebody who may read it.
async fn read_store<T: Send + 'static>(
    app: &App,
    headers: &HeaderMap,
    wanted: Wanted,
    question: impl FnOnce(&Store, Option<&str>) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, Refusal> {
    let result = async {
        let namespace = wanted.namespace();
        app.may(headers, namespace.as_deref(), false).await?;
        let answer = app.engine.ask(move |store| question(store, namespace.as_deref()));
        answer.await?.map_err(internal)
    };
    result.await.map_err(|r| app.refuse(r))
}

async fn records(
    State(app): State<Arc<App>>,
    wanted: Wanted,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let records = read_store(&app, &headers, wanted, Records::of).await?;
    let mut text = Vec::new();
    for record in records.into_records() {
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
    wanted: Wanted,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let all = read_store(&app, &headers, wanted, Store::dependencies).await?;
    Ok(Json(all.iter().map(ShownDependency::from).collect::<Vec<_>>()).into_response())
}

async fn workloads(
    State(app): State<Arc<App>>,
    wanted: Wanted,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let records = read_store(&app, &headers, wanted, Records::of).await?;
    Ok(Json(StatusReport::of(records)).into_response())
}

async fn coverage(
    State(app): State<Arc<App>>,
    wanted: Wanted,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let covered = read_store(&app, &headers, wanted, |store, namespace| {
        let (workloads, watches) = (store.workloads(namespace)?, store.watches(namespace)?);
        Ok(Coverage::of(workloads, watches, store.sources()?))
    });
    Ok(Json(covered.await?).into_response())
}

async fn mesh(
    State(app): State<Arc<App>>,
    wanted: Wanted,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let result = async {
        let namespace = wanted.namespace();
        app.may(&headers, namespace.as_deref(), false).await?;
        let view = app.view.status_in(namespace.as_deref());
        let progress = app.engine.progress();
        let unverified = NodeUnverified::of(&progress.unverified, namespace.as_deref());
        Ok(Json(MeshStatus::of(&view, progress.waiting, unverified)).into_response())
    };
    result.await.map_err(|r| app.refuse(r))
}

async fn alerts(
    State(app): State<Arc<App>>,
    wanted: Wanted,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let all = read_store(&app, &headers, wanted, Store::alerts).await?;
    Ok(Json(all.iter().map(|r| ShownAlert::from(&r.alert)).collect::<Vec<_>>()).into_response())
}

async fn baselines(
    State(app): State<Arc<App>>,
    wanted: Wanted,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    Ok(Json(read_store(&app, &headers, wanted, Decided::of).await?).into_response())
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
    Said(what): Said<ToAccept>,
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
    Said(what): Said<ToIgnore>,
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
