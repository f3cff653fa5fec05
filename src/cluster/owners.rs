//! From a pod to its top controller, and to the labels that select it across rollouts.
//!
//! Owns the walk along its owners. Must never select by a label that the next pod will not have.

use std::sync::Arc;

use foldhash::HashMap;

use super::brief::{ControllerBrief, PodBrief};
use super::objects::Labels;
use super::owner::{Owner, lasting, lasting_of, stable};
use crate::model::WorkloadId;

/// Controllers by namespace, kind and name.
#[derive(Debug, Default)]
pub(super) struct Owners {
    controllers: HashMap<(Arc<str>, Owner), Arc<ControllerBrief>>,
}

/// An owner chain longer than this is a loop (the longest real one has three: Pod, Job, CronJob).
const MAX_OWNERS: usize = 8;

impl Owners {
    pub(super) fn add(&mut self, kind: Arc<str>, controller: Arc<ControllerBrief>) {
        let owner = Owner { kind, name: Arc::clone(&controller.name) };
        self.controllers.insert((Arc::clone(&controller.namespace), owner), controller);
    }

    /// The top controller of a pod, and the labels that select its pods. They are empty if no
    /// lasting label selects them.
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
        // The selector of the highest controller so far, and whether the controller states it
        // itself.
        let mut selector: Option<(Labels, bool)> = None;
        let mut guessed = false;
        for _ in 0..MAX_OWNERS {
            chain.push(owner.clone());
            let key = (Arc::clone(&pod.namespace), owner);
            let known = self.controllers.get(&key);
            owner = key.1;
            match known {
                Some(known) => {
                    let referred = known.refers.as_ref().and_then(|r| {
                        self.controllers.get(&(Arc::clone(&pod.namespace), r.clone()))
                    });
                    let by = referred.unwrap_or(known);
                    if !by.selector.is_empty() {
                        selector = Some((Arc::clone(&by.selector), by.selects));
                    } else if known.owner.is_some() {
                        selector = None;
                    }
                    let Some(next) = &known.owner else { break };
                    // The object of an operator above a Deployment or the like is no workload: it
                    // may own several.
                    let above = (Arc::clone(&pod.namespace), next.clone());
                    let rolls = rolls_out(&owner.kind) && selector.as_ref().is_some_and(|s| s.1);
                    if rolls && !self.controllers.get(&above).is_some_and(|n| n.selects) {
                        break;
                    }
                    owner = next.clone();
                }
                None => {
                    if let Some(above) = self.cron_job_of(&pod.namespace, &owner) {
                        owner = above;
                        continue;
                    }
                    // A ReplicaSet that the snapshot lacks: its name is that of its Deployment and
                    // the hash in a label of the pod.
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
            // The Deployment is known only by the name of its ReplicaSet.
            None if guessed => Arc::new(lasting(&pod.labels)),
            None => Arc::new(lasting_of(&pod.labels, &pod.name, &chain)),
        };
        (id(&owner.kind, &owner.name), labels)
    }

    /// The CronJob of a Job that is not known any more. Its name is that of the CronJob and the
    /// minutes since 1970 (`getJobName` of Kubernetes' cronjob controller). `None` where there is
    /// no such CronJob.
    fn cron_job_of(&self, namespace: &Arc<str>, owner: &Owner) -> Option<Owner> {
        let (name, minutes) = owner.name.rsplit_once('-').filter(|_| &*owner.kind == "Job")?;
        let is_time = minutes.len() == 8 && minutes.bytes().all(|b| b.is_ascii_digit());
        let above = Owner { kind: "CronJob".into(), name: name.into() };
        let key = (Arc::clone(namespace), above);
        (is_time && self.controllers.contains_key(&key)).then_some(key.1)
    }

    /// Whether the controller of a workload states its selector itself.
    pub(super) fn selects(&self, id: &WorkloadId) -> bool {
        let owner = Owner { kind: id.kind.as_str().into(), name: id.name.as_str().into() };
        self.controllers.get(&(id.namespace.as_str().into(), owner)).is_some_and(|c| c.selects)
    }
}

/// Whether a kind creates new pods of the same workload again and again.
fn rolls_out(kind: &str) -> bool {
    matches!(
        kind,
        "Deployment" | "StatefulSet" | "DaemonSet" | "Rollout" | "CloneSet" | "DeploymentConfig"
    )
}
