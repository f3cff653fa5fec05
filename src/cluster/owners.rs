//! From a pod to its top controller and to labels that select it across rollouts.
//!
//! Owns the walk along its owners. Must never select by what the next pod will not have.

use std::sync::Arc;

use foldhash::HashMap;

use super::brief::{ControllerBrief, PodBrief};
use super::objects::Labels;
use super::owner::{Owner, lasting, lasting_of, stable};
use crate::model::WorkloadId;

/// Controllers, with their kind, namespace and name.
#[derive(Debug, Default)]
pub(super) struct Owners {
    known: HashMap<(Arc<str>, Owner), Arc<ControllerBrief>>,
}

/// An owner chain longer than this is a loop (the longest real one has three: Pod, Job, CronJob).
const MAX_OWNERS: usize = 8;

impl Owners {
    pub(super) fn add(&mut self, kind: Arc<str>, controller: Arc<ControllerBrief>) {
        let owner = Owner { kind, name: Arc::clone(&controller.name) };
        self.known.insert((Arc::clone(&controller.namespace), owner), controller);
    }

    /// The top controller of a pod, and its selector labels; empty where nothing that lasts selects
    /// its pods.
    pub(super) fn workload(&self, pod: &PodBrief) -> (WorkloadId, Labels) {
        let id = |kind: &str, name: &str| WorkloadId {
            namespace: pod.namespace.to_string(),
            kind: kind.to_owned(),
            name: name.to_owned(),
        };
        let Some(mut owner) = pod.owner.clone() else {
            return (id("Pod", &pod.name), Arc::new(stable(&pod.labels)));
        };
        let mut chain: Vec<Owner> = Vec::new();
        // What the highest controller so far selects by, and whether it says so itself.
        let mut selector: Option<(Labels, bool)> = None;
        let mut guessed = false;
        for _ in 0..MAX_OWNERS {
            chain.push(owner.clone());
            let key = (Arc::clone(&pod.namespace), owner);
            let known = self.known.get(&key);
            owner = key.1;
            match known {
                Some(known) => {
                    let referred = known
                        .refers
                        .as_ref()
                        .and_then(|r| self.known.get(&(Arc::clone(&pod.namespace), r.clone())));
                    let by = referred.unwrap_or(known);
                    if !by.selector.is_empty() {
                        selector = Some((Arc::clone(&by.selector), by.selects));
                    } else if known.owner.is_some() {
                        selector = None;
                    }
                    let Some(next) = &known.owner else { break };
                    // An operator's object above what rolls pods out is no workload: it may have
                    // several.
                    let above = (Arc::clone(&pod.namespace), next.clone());
                    let rolls = rolls_out(&owner.kind) && selector.as_ref().is_some_and(|s| s.1);
                    if rolls && !self.known.get(&above).is_some_and(|n| n.selects) {
                        break;
                    }
                    owner = next.clone();
                }
                None => {
                    // A ReplicaSet that the snapshot lacks: its name is its Deployment's and the
                    // hash that labels the pod.
                    let hash = pod
                        .labels
                        .get("pod-template-hash")
                        .filter(|_| &*owner.kind == "ReplicaSet");
                    match hash.and_then(|h| owner.name.strip_suffix(h.as_str())?.strip_suffix('-'))
                    {
                        Some(deployment) => {
                            guessed = true;
                            owner = Owner { kind: "Deployment".into(), name: deployment.into() }
                        }
                        None => {
                            // A ReplicaSet selects as its Deployment does, but for the hash.
                            let below = chain.iter().rev().nth(1);
                            let by_set = below.is_some_and(|o| &*o.kind == "ReplicaSet");
                            selector = selector.filter(|s| s.1 && by_set && rolls_out(&owner.kind));
                            break;
                        }
                    }
                }
            }
        }
        let labels = match selector {
            Some((labels, _)) => labels,
            // The Deployment is known by its ReplicaSet's name alone.
            None if guessed => Arc::new(lasting(&pod.labels)),
            None => Arc::new(lasting_of(&pod.labels, &pod.name, &chain)),
        };
        (id(&owner.kind, &owner.name), labels)
    }

    /// Whether a controller of the objects says by itself what it selects.
    pub(super) fn selects(&self, id: &WorkloadId) -> bool {
        let owner = Owner { kind: id.kind.as_str().into(), name: id.name.as_str().into() };
        self.known.get(&(id.namespace.as_str().into(), owner)).is_some_and(|c| c.selects)
    }
}

/// Kinds that make new pods of the same workload again and again.
fn rolls_out(kind: &str) -> bool {
    matches!(
        kind,
        "Deployment" | "StatefulSet" | "DaemonSet" | "Rollout" | "CloneSet" | "DeploymentConfig"
    )
}
