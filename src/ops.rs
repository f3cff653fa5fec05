//! Metrics, health and readiness over HTTP, for agent and recorder.
//!
//! Owns the three paths. Must never delay the process that it reports on, nor take descriptors that
//! the process needs.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus_client::collector::Collector;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::serve::{self, Door};

/// Serves `/metrics` (names begin with `prefix`), `/healthz` and `/readyz` until `stopped` becomes
/// true. `missing` gives what readiness lacks, one line each. `trouble` gives what only a restart
/// of the program can mend.
///
/// # Errors
/// When the address cannot be bound.
pub(crate) async fn start(
    address: SocketAddr,
    prefix: &str,
    metrics: impl Collector,
    missing: impl Fn() -> Vec<String> + Clone + Send + Sync + 'static,
    trouble: impl Fn() -> Vec<String> + Clone + Send + Sync + 'static,
    stopped: watch::Receiver<bool>,
) -> anyhow::Result<JoinHandle<()>> {
    let listener = TcpListener::bind(address).await.map_err(|e| {
        anyhow::anyhow!(
            "cannot serve metrics and health on {address}: {e}; choose another with --listen, or \
             --listen none"
        )
    })?;
    let mut registry = Registry::with_prefix(prefix);
    registry.register_collector(Box::new(metrics));
    let registry = Arc::new(registry);
    let app = Router::new()
        .route("/healthz", get(async move || answer("ok\n", &trouble())))
        .route("/readyz", get(async move || answer("ready\n", &missing())))
        .route("/metrics", get(async move || metrics_text(&registry)));
    let (_, connections) = serve::limits();
    Ok(tokio::spawn(serve::serve(listener, app, None, Door::new(connections), stopped)))
}

/// 200 with `good` if there are no problems, else 503 with one problem on each line.
fn answer(good: &str, problems: &[String]) -> (StatusCode, String) {
    match problems {
        [] => (StatusCode::OK, good.to_owned()),
        _ => (StatusCode::SERVICE_UNAVAILABLE, problems.join("\n") + "\n"),
    }
}

fn metrics_text(registry: &Registry) -> impl IntoResponse + use<> {
    let mut text = String::new();
    let status = match prometheus_client::encoding::text::encode(&mut text, registry) {
        Ok(()) => StatusCode::OK,
        Err(fmt::Error) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    (
        status,
        [(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")],
        text,
    )
}
