//! Which pods run.
//!
//! Owns that question for the rules of alerts. Must never read a store.

use std::collections::BTreeMap;

use crate::cluster::{Cluster, Pod};
use crate::model::{Time, WorkloadId};

/// The pods that run at this time, by workload.
pub(super) fn running_pods(cluster: &Cluster, now: Time) -> BTreeMap<&WorkloadId, Vec<&Pod>> {
    let mut out: BTreeMap<&WorkloadId, Vec<&Pod>> = BTreeMap::new();
    for pod in cluster.pods_at(now) {
        out.entry(&pod.workload).or_default().push(pod);
    }
    out
}
