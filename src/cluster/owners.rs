//! From a pod to its top controller and to labels that select it across rollouts.

use std::collections::BTreeMap;
use std::sync::Arc;

use foldhash::HashMap;
use serde::{Deserialize, Serialize};

use super::brief::{ControllerBrief, PodBrief};
use super::objects::{Container, Labels, Meta, Pod, PodSpec};
use super::pool::Pool;
use crate::model::{DataPlane, WorkloadId};

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
    kind: Arc<str>,
    name: Arc<str>,
}

impl Owner {
    /// The same, with its words shared.
    pub(super) fn pooled(&self, pool: &mut Pool) -> Self {
        Self { kind: pool.word(&self.kind), name: pool.word(&self.name) }
    }
}

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

pub(super) fn controller_of(meta: &Meta, pool: &mut Pool) -> Option<Owner> {
    let owner =
        meta.owner_references.iter().find(|o| o.controller).or(meta.owner_references.first())?;
    // A static pod is "owned" by its node, which is no workload.
    (owner.kind != "Node")
        .then(|| Owner { kind: pool.word(&owner.kind), name: pool.word(&owner.name) })
}

fn proxy(spec: &PodSpec) -> Option<&Container> {
    // Native sidecars stand among the init containers.
    spec.containers.iter().chain(&spec.init_containers).find(|c| c.name == "istio-proxy")
}

/// How a pod takes part in the mesh.
pub(super) fn data_plane(pod: &Pod) -> DataPlane {
    let labels = &pod.metadata.labels;
    if labels
        .get("gateway.networking.k8s.io/gateway-class-name")
        .is_some_and(|c| c.starts_with("istio-waypoint"))
        || labels.get("gateway.istio.io/managed").is_some_and(|c| c == "istio.io-mesh-controller")
    {
        return DataPlane::Waypoint;
    }
    match proxy(&pod.spec) {
        // `istio-proxy proxy router` is a gateway, `proxy sidecar` a sidecar (pilot-agent's node
        // type).
        Some(c) if c.args.iter().any(|a| a == "router") => DataPlane::Gateway,
        Some(c) if c.args.iter().any(|a| a == "waypoint") => DataPlane::Waypoint,
        _ if pod.spec.host_network => DataPlane::HostNetwork,
        Some(_) => DataPlane::Sidecar,
        None if pod
            .metadata
            .annotations
            .get("ambient.istio.io/redirection")
            .is_some_and(|v| v == "enabled") =>
        {
            DataPlane::Ambient
        }
        None => DataPlane::Uninjected,
    }
}
