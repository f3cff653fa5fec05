//! The state of the agent, for its metrics and its readiness.
//!
//! Owns the lock that the pipeline and the server share. Must never delay the pipeline.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sidecarta_capture::live::collector::CollectorStatus;

use super::outbox::DeliveryProgress;

/// What the agent has done and what keeps it from its work, as of the pipeline's last report.
#[derive(Clone, Debug, Default)]
pub(super) struct AgentState {
    pub collected: CollectorStatus,
    pub progress: DeliveryProgress,
    /// All counters, by name.
    pub counted: std::collections::BTreeMap<String, u64>,
    /// Observations that wait for the watch of pods.
    pub waiting: usize,
    /// Edges that wait to be delivered.
    pub waiting_edges: usize,
    /// The kinds that are watched, each with the status of its watch.
    pub kinds: Vec<(String, String)>,
    pub synced: bool,
    /// Why the API server delivers no pods.
    pub blind: Option<String>,
    pub draining: bool,
}

/// The agent's state, shared by its threads.
pub(super) type SharedState = Arc<Mutex<AgentState>>;

/// Locks the state, even after a thread panicked: no change of the state can panic half-way, so
/// the state is always whole.
pub(super) fn lock(state: &SharedState) -> MutexGuard<'_, AgentState> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
