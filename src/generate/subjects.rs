//! The workloads for which Sidecars are generated.
//!
//! Owns how a workload of the snapshot and the same workload in the store become one. Must never
//! decide whether a Sidecar is written for it.

use std::collections::BTreeMap;

use crate::cluster::{Cluster, lasting};
use crate::model::{DataPlane, Time, Workload, WorkloadId};

/// A workload as the snapshot describes it, or as the store does if the snapshot lacks it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The workload.
    pub id: WorkloadId,
    /// Labels that select its pods.
    pub selector: BTreeMap<String, String>,
    /// How its pods take part in the mesh.
    pub data_plane: DataPlane,
    /// The snapshot has a running pod of it.
    pub present: bool,
}

impl Subject {
    /// Why no Sidecar can select its pods, and what to do.
    pub(super) fn no_selector(&self) -> String {
        format!(
            "no label selects the pods of the {} {} for good: those that they have are of one \
             pod, revision or run; add a label of your own to the template of its pods",
            self.id.kind, self.id.name
        )
    }

    fn of_store(workload: &Workload) -> Self {
        let selector = if controller_states_selector(&workload.id) {
            workload.selector.clone()
        } else {
            // An older release stored labels that do not last.
            lasting(&workload.selector)
        };
        Self { id: workload.id.clone(), selector, data_plane: workload.data_plane, present: false }
    }
}

/// All workloads of the snapshot and of the store, sorted.
pub fn subjects(cluster: &Cluster, stored: &[Workload]) -> Vec<Subject> {
    let mut all: BTreeMap<WorkloadId, Subject> =
        stored.iter().map(|w| (w.id.clone(), Subject::of_store(w))).collect();
    for pod in cluster.pods().iter().filter(|p| p.end == Time::MAX) {
        let mut selector = BTreeMap::clone(&pod.selector);
        let old = all.get(&pod.workload);
        if let Some(old) = old.filter(|s| !s.present && !controller_states_selector(&s.id)) {
            // The selector must also match the pods from which the workload was learned.
            selector.retain(|k, v| old.selector.get(k).is_none_or(|was| was == v));
        }
        let new = Subject {
            id: pod.workload.clone(),
            selector,
            data_plane: pod.data_plane,
            present: true,
        };
        match all.get_mut(&pod.workload) {
            // During a rollout some pods may lack the proxy. One pod that has it is reason enough
            // for a Sidecar.
            Some(old) if old.present && old.data_plane == DataPlane::Sidecar => {}
            Some(old) => *old = new,
            None => {
                all.insert(pod.workload.clone(), new);
            }
        }
    }
    all.into_values().collect()
}

/// Whether the controller of a workload of this kind states its selector. For all other kinds the
/// selector is derived from the labels of the pods.
fn controller_states_selector(id: &WorkloadId) -> bool {
    matches!(
        id.kind.as_str(),
        "Deployment"
            | "StatefulSet"
            | "DaemonSet"
            | "ReplicaSet"
            | "Rollout"
            | "CloneSet"
            | "DeploymentConfig"
            | "ReplicationController"
            | "Pod"
    )
}
