//! The running pods of a cluster, to be found by the labels of a selector.
//!
//! Owns which pods run. Must never decide which workload a pod belongs to.

use crate::cluster::{Cluster, Pod};
use crate::model::{LabelIndex, Time};

/// Running pods of the cluster, in the cluster's order.
pub type RunningPods<'a> = LabelIndex<'a, &'a Pod>;

/// The running pods of a cluster.
pub fn running_pods(cluster: &Cluster) -> RunningPods<'_> {
    let running = cluster.pods().iter().filter(|p| p.end == Time::MAX);
    LabelIndex::new(running.map(|p| (p.workload.namespace.as_str(), &*p.labels, p)))
}
