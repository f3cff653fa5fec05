//! Metrics, health and readiness over HTTP, for whatever runs long.
//!
//! Owns the three paths. Must never hold up what it tells of.

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

/// Serves `/metrics` (names begin with `prefix`), `/healthz` and `/readyz` until `stopped` turns
/// true. `missing` says what readiness lacks, one line each.
///
/// # Errors
/// When the address cannot be had.
pub(crate) async fn start(
    address: SocketAddr,
    prefix: &str,
    metrics: impl Collector,
    missing: impl Fn() -> Vec<String> + Clone + Send + Sync + 'static,
    mut stopped: watch::Receiver<bool>,
) -> anyhow::Result<JoinHandle<()>> {
    let listener = TcpListener::bind(address).await.map_err(|e| {
        anyhow::anyhow!("cannot serve metrics and health on {address}: {e}; choose another with --listen, or --listen none")
    })?;
    let mut registry = Registry::with_prefix(prefix);
    registry.register_collector(Box::new(metrics));
    let registry = Arc::new(registry);
    let app = Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(async move || ready(&missing())))
        .route("/metrics", get(async move || text(&registry)));
    let server = axum::serve(listener, app).with_graceful_shutdown(async move {
        let _ = stopped.wait_for(|s| *s).await;
    });
    Ok(tokio::spawn(async move {
        if let Err(error) = server.await {
            tracing::error!(%error, "metrics and health are not served any more");
        }
    }))
}

fn ready(missing: &[String]) -> (StatusCode, String) {
    match missing {
        [] => (StatusCode::OK, "ready\n".to_owned()),
        _ => (StatusCode::SERVICE_UNAVAILABLE, missing.join("\n") + "\n"),
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
