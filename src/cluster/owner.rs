//! What an object says of its owner, and of itself across rollouts.
//!
//! Owns reading it. Must never follow an owner.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::objects::Meta;
use super::pool::Pool;

/// Labels that a controller or the injector sets on pods and that a rollout or a new pod changes:
/// never fit for a selector.
fn unstable(label: &str) -> bool {
    matches!(
        label,
        "pod-template-hash"
            | "controller-revision-hash"
            | "pod-template-generation"
            | "statefulset.kubernetes.io/pod-name"
            | "apps.kubernetes.io/pod-index"
            | "controller-uid"
            | "job-name"
            | "batch.kubernetes.io/controller-uid"
            | "batch.kubernetes.io/job-name"
            | "batch.kubernetes.io/job-completion-index"
            | "security.istio.io/tlsMode"
            | "service.istio.io/canonical-name"
            | "service.istio.io/canonical-revision"
            | "istio.io/rev"
            | "sidecar.istio.io/inject"
            | "rollouts-pod-template-hash"
    )
}

/// Those that survive a rollout.
pub(super) fn stable(labels: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    labels.iter().filter(|(k, _)| !unstable(k)).map(|(k, v)| (k.clone(), v.clone())).collect()
}

/// The controller that an object names as its own.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Owner {
    pub(super) kind: Arc<str>,
    pub(super) name: Arc<str>,
}

impl Owner {
    /// The same, with its words shared.
    pub(super) fn pooled(&self, pool: &mut Pool) -> Self {
        Self { kind: pool.word(&self.kind), name: pool.word(&self.name) }
    }
}

/// The controller of an object, else its first owner.
pub(super) fn controller_of(meta: &Meta, pool: &mut Pool) -> Option<Owner> {
    let owner =
        meta.owner_references.iter().find(|o| o.controller).or(meta.owner_references.first())?;
    // A static pod is "owned" by its node, which is no workload.
    (owner.kind != "Node")
        .then(|| Owner { kind: pool.word(&owner.kind), name: pool.word(&owner.name) })
}
