//! When the engine merges, and what it has done.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::generate::readiness::Thresholds;
use crate::model::UnverifiedBatch;
use crate::novelty::AlertPatience;
use crate::verify::NodeIdentity;

/// When batches are resolved and merged, and what follows from it.
#[derive(Clone, Copy, Debug)]
pub struct MergePace {
    /// A batch waits at least this long, so that the watches have delivered the pods in it.
    pub delay: Duration,
    /// And at most this long where the API server cannot be watched. Then it is resolved with the
    /// objects that the view has, and counted as merged late.
    pub longest_delay: Duration,
    /// How long unverified lines are stored before they expire.
    pub unverified_for: Duration,
    /// Whether agents prove which node they run on.
    pub node: NodeIdentity,
    /// After how long something is alerted that may pass by itself.
    pub patience: AlertPatience,
    /// What must be known of a workload to accept it automatically; `None`: only people accept.
    pub accept: Option<Thresholds>,
}

/// What the engine has done since it started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EngineProgress {
    /// Batches queued, and so acknowledged.
    pub queued: u64,
    /// Batches sent again that were there already.
    pub repeated: u64,
    /// Batches merged.
    pub merged: u64,
    /// Edges in merged batches.
    pub edges: u64,
    /// Batches merged though the view of the cluster had not passed their time.
    pub merged_late: u64,
    /// Queued batches that could not be read again: a loss.
    pub unreadable: u64,
    /// Batches that wait to be merged.
    pub waiting: u64,
    /// Alerts raised.
    pub alerts: u64,
    /// What checking batches has counted, by the names of
    /// [`CHECK_COUNTERS`](crate::verify::CHECK_COUNTERS).
    pub checked: BTreeMap<&'static str, u64>,
    /// The unverified lines that are stored.
    pub unverified: Arc<Vec<UnverifiedBatch>>,
}
