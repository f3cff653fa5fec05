//! Metrics, health and readiness over HTTP, for whatever runs long.
//!
//! Owns the three paths. Must never hold up what it tells of, nor take descriptors that it needs.

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

/// Serves `/metrics` (names begin with `prefix`), `/healthz` and `/readyz` until `stopped` turns
/// true. `missing` says what readiness lacks, one line each, and `trouble` what keeps the program
/// from its work until it is started anew.
///
/// # Errors
/// When the address cannot be had.
pub(crate) async fn start(
    address: SocketAddr,
    prefix: &str,
    metrics: impl Collector,
    missing: impl Fn() -> Vec<String> + Clone + Send + Sync + 'static,
    trouble: impl Fn() -> Vec<String> + Clone + Send + Sync + 'static,
    stopped: watch::Receiver<bool>,
) -> anyhow::Result<JoinHandle<()>> {
    let listener = TcpListener::bind(address).await.map_err(|e| {
        anyhow::anyhow!("cannot serve metrics and health on {address}: {e}; choose another with --listen, or --listen none")
    })?;
    let mut registry = Registry::with_prefix(prefix);
    registry.register_collector(Box::new(metrics));
    let registry = Arc::new(registry);
    let app = Router::new()
        .route("/healthz", get(async move || without("ok\n", &trouble())))
        .route("/readyz", get(async move || without("ready\n", &missing())))
        .route("/metrics", get(async move || text(&registry)));
    let (_, connections) = serve::limits();
    Ok(tokio::spawn(serve::serve(listener, app, None, Door::new(connections), stopped)))
}

/// Well where nothing is the matter.
fn without(well: &str, matters: &[String]) -> (StatusCode, String) {
    match matters {
        [] => (StatusCode::OK, well.to_owned()),
        _ => (StatusCode::SERVICE_UNAVAILABLE, matters.join("\n") + "\n"),
    }
}

fn text(registry: &Registry) -> impl IntoResponse + use<> {
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
