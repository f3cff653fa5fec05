//! Metrics, health and readiness over HTTP.
//!
//! Owns the names of the metrics (`ARCHITECTURE.md` lists them). Must never hold up the agent: it only reads what the pipeline has left.

use std::fmt;
use std::net::SocketAddr;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{Shared, lock};

/// Serves until `stopped` turns true.
pub(super) async fn start(address: SocketAddr, state: Shared, stopped: watch::Receiver<bool>) -> anyhow::Result<JoinHandle<()>> {
    let listener = TcpListener::bind(address).await.map_err(|e| {
        anyhow::anyhow!("cannot serve metrics and health on {address}: {e}; choose another with --listen, or --listen none")
    })?;
    let mut registry = Registry::with_prefix("sidecarta_agent");
    registry.register_collector(Box::new(Metrics(state.clone())));
    let registry = std::sync::Arc::new(registry);
    let app = Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(move || ready(state)))
        .route("/metrics", get(move || metrics(registry)));
    let mut stopped = stopped;
    let server = axum::serve(listener, app).with_graceful_shutdown(async move {
        let _ = stopped.wait_for(|s| *s).await;
    });
    Ok(tokio::spawn(async move {
        if let Err(error) = server.await {
            tracing::error!(%error, "metrics and health are not served any more");
        }
    }))
}

async fn ready(state: Shared) -> (StatusCode, String) {
    let state = lock(&state).clone();
    let mut missing = Vec::new();
    if !state.synced {
        missing.extend(state.kinds.iter().map(|(kind, status)| format!("{kind}: {status}")));
        missing.push("the view of the cluster is not complete".to_owned());
    }
    if let Some(why) = state.blind.filter(|_| state.synced) {
        missing.push(format!("Pod: {why}"));
    }
    if let Some(why) = &state.progress.failing {
        missing.push(format!("batches are not delivered: {why}"));
    }
    if state.draining {
        missing.push("draining".to_owned());
    }
    match missing.is_empty() {
        true => (StatusCode::OK, "ready\n".to_owned()),
        false => (StatusCode::SERVICE_UNAVAILABLE, missing.join("\n") + "\n"),
    }
}

async fn metrics(registry: std::sync::Arc<Registry>) -> impl IntoResponse {
    let mut text = String::new();
    let status = match prometheus_client::encoding::text::encode(&mut text, &registry) {
        Ok(()) => StatusCode::OK,
        Err(fmt::Error) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    (status, [(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
}

struct Metrics(Shared);

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

impl Collector for Metrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let state = lock(&self.0).clone();
        let mut events = encoder.encode_descriptor(
            "events",
            "What was read, used, attributed and lost, by what it is: the names are those of `sidecarta status`",
            None,
            MetricType::Counter,
        )?;
        for (name, n) in &state.counted {
            ConstCounter::new(*n).encode(events.encode_family(&[("event", name.as_str())])?)?;
        }
        let mut counter = |name: &str, help: &str, n: u64| {
            let descriptor = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            ConstCounter::new(n).encode(descriptor)
        };
        counter("batches", "Batches delivered", state.progress.delivered)?;
        counter("edges", "Edges in batches delivered", state.progress.edges)?;
        counter("delivery_failures", "Attempts to deliver a batch that failed", state.progress.failures)?;
        counter("spool_failures", "Times that the spool could not be written", state.progress.spool_failures)?;
        let mut gauge = |name: &str, help: &str, n: usize| {
            let descriptor = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(i64::try_from(n).unwrap_or(i64::MAX)).encode(descriptor)
        };
        gauge("interfaces", "Interfaces watched now", state.collected.watched.len())?;
        gauge("waiting_observations", "Observations that wait for the watch of pods", state.waiting)?;
        gauge("waiting_edges", "Edges that wait to be delivered", state.edges)?;
        gauge("view_synced", "1 when the view of the cluster is complete", usize::from(state.synced))?;
        gauge("delivery_failing", "1 while batches cannot be delivered", usize::from(state.progress.failing.is_some()))
    }
}
