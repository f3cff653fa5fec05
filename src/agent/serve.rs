//! Metrics and readiness of the agent over HTTP.
//!
//! Owns the names of its metrics (`docs/metrics.md` lists them). Must never change the state that
//! the pipeline publishes.

use std::fmt;
use std::net::SocketAddr;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::state::{SharedState, lock};
use crate::ops;

/// Serves until `stopped` becomes true.
pub(super) async fn start(
    address: SocketAddr,
    state: SharedState,
    stopped: watch::Receiver<bool>,
) -> anyhow::Result<JoinHandle<()>> {
    let metrics = AgentMetrics(state.clone());
    ops::start(address, "sidecarta_agent", metrics, move || missing(&state), Vec::new, stopped)
        .await
}

/// What readiness lacks, one line for each reason; empty when the agent is ready.
fn missing(state: &SharedState) -> Vec<String> {
    let state = lock(state).clone();
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
    missing
}

struct AgentMetrics(SharedState);

impl fmt::Debug for AgentMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AgentMetrics")
    }
}

impl Collector for AgentMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let state = lock(&self.0).clone();
        let mut events = encoder.encode_descriptor(
            "events",
            "What was read, used, attributed and lost, by what it is: the names are those of \
             `sidecarta status`",
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
        counter("batches_refused", "Batches that were refused for good", state.progress.refused)?;
        counter(
            "batches_discarded",
            "Of these, batches that are nowhere any more",
            state.progress.discarded,
        )?;
        counter(
            "delivery_failures",
            "Attempts to deliver a batch that failed",
            state.progress.failures,
        )?;
        counter(
            "spool_failures",
            "Times that the spool could not be written",
            state.progress.spool_failures,
        )?;
        let mut gauge = |name: &str, help: &str, n: usize| {
            let descriptor = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(i64::try_from(n).unwrap_or(i64::MAX)).encode(descriptor)
        };
        let set_aside = usize::try_from(state.progress.set_aside).unwrap_or(usize::MAX);
        gauge("batches_set_aside", "Refused batches that are in the spool", set_aside)?;
        gauge("interfaces", "Interfaces watched now", state.collected.watched.len())?;
        gauge(
            "waiting_observations",
            "Observations that wait for the watch of pods",
            state.waiting,
        )?;
        gauge("waiting_edges", "Edges that wait to be delivered", state.waiting_edges)?;
        gauge(
            "view_synced",
            "1 when the view of the cluster is complete",
            usize::from(state.synced),
        )?;
        gauge(
            "delivery_failing",
            "1 while batches cannot be delivered",
            usize::from(state.progress.failing.is_some()),
        )
    }
}
