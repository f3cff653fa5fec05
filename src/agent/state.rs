//! What the agent does, for those who ask.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sidecarta_capture::live::collector::Status as Collected;

use super::outbox::Progress;

/// What the agent does, for those who ask.
#[derive(Clone, Debug, Default)]
pub(super) struct State {
    pub collected: Collected,
    pub progress: Progress,
    /// All counters, by name.
    pub counted: std::collections::BTreeMap<String, u64>,
    pub waiting: usize,
    pub edges: usize,
    pub kinds: Vec<(String, String)>,
    pub synced: bool,
    /// Why pods will not be told of.
    pub blind: Option<String>,
    pub draining: bool,
}

/// The state, of all threads.
pub(super) type Shared = Arc<Mutex<State>>;

/// Whole even where somebody panicked: nothing panics half-way through a change.
pub(super) fn lock(state: &Shared) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
