//! From a pod to its top controller and to labels that select it across rollouts.

use std::sync::Arc;

use foldhash::HashMap;

use super::brief::{ControllerBrief, PodBrief};
use super::objects::Labels;
use super::owner::{Owner, stable};
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

    /// The top controller of a pod, and its selector labels.
    pub(super) fn workload(&self, pod: &PodBrief) -> (WorkloadId, Labels) {
        let own = || Arc::new(stable(&pod.labels));
        let Some(mut owner) = pod.owner.clone() else {
            let id = WorkloadId {
                namespace: pod.namespace.to_string(),
                kind: "Pod".to_owned(),
                name: pod.name.to_string(),
            };
            return (id, own());
        };
        let mut selector = None;
        for _ in 0..MAX_OWNERS {
            let key = (Arc::clone(&pod.namespace), owner);
            let known = self.known.get(&key);
            owner = key.1;
            match known {
                Some(known) => {
                    selector = Some(Arc::clone(&known.selector));
                    match &known.owner {
                        Some(next) => owner = next.clone(),
                        None => break,
                    }
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
                            owner = Owner { kind: "Deployment".into(), name: deployment.into() }
                        }
                        None => {
                            selector = None;
                            break;
                        }
                    }
                }
            }
        }
        let Owner { kind, name } = owner;
        let id = WorkloadId {
            namespace: pod.namespace.to_string(),
            kind: kind.to_string(),
            name: name.to_string(),
        };
        (id, selector.filter(|s| !s.is_empty()).unwrap_or_else(own))
    }
}
