//! From a pod to its top controller and to labels that select it across rollouts.

use std::collections::BTreeMap;

use foldhash::HashMap;

use super::objects::{Container, Controller, Meta, Pod, PodSpec};
use crate::model::{DataPlane, WorkloadId};

/// Labels that a controller or the injector sets on pods and that a rollout or a new pod changes: never fit for a selector.
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

fn stable(labels: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    labels.iter().filter(|(k, _)| !unstable(k)).map(|(k, v)| (k.clone(), v.clone())).collect()
}

/// Controllers by kind, namespace and name.
#[derive(Debug, Default)]
pub(super) struct Owners {
    known: HashMap<(String, String, String), Known>,
}

#[derive(Debug)]
struct Known {
    owner: Option<(String, String)>,
    selector: BTreeMap<String, String>,
}

/// An owner chain longer than this is a loop (the longest real one has three: Pod, Job, CronJob).
const MAX_OWNERS: usize = 8;

impl Owners {
    pub(super) fn add(&mut self, kind: &str, object: Controller) {
        let Controller { metadata, spec } = object;
        let own = stable(&spec.selector.match_labels);
        // A Job selects by its own UID, a CronJob not at all: their pods' stable labels come from the template.
        let selector = if own.is_empty() {
            let template = if spec.template.metadata.labels.is_empty() { spec.job_template.spec.template } else { spec.template };
            stable(&template.metadata.labels)
        } else {
            own
        };
        let owner = controller_of(&metadata).map(|(k, n)| (k.to_owned(), n.to_owned()));
        self.known.insert((kind.to_owned(), metadata.namespace, metadata.name), Known { owner, selector });
    }

    /// The top controller of a pod, and its selector labels.
    pub(super) fn workload(&self, pod: &Meta) -> (WorkloadId, BTreeMap<String, String>) {
        let namespace = pod.namespace.clone();
        let Some((kind, name)) = controller_of(pod) else {
            let id = WorkloadId { namespace, kind: "Pod".to_owned(), name: pod.name.clone() };
            return (id, stable(&pod.labels));
        };
        let (mut kind, mut name) = (kind.to_owned(), name.to_owned());
        let mut selector = None;
        for _ in 0..MAX_OWNERS {
            match self.known.get(&(kind.clone(), namespace.clone(), name.clone())) {
                Some(known) => {
                    selector = Some(known.selector.clone());
                    match &known.owner {
                        Some((k, n)) => (kind, name) = (k.clone(), n.clone()),
                        None => break,
                    }
                }
                None => {
                    // A ReplicaSet that the snapshot lacks: its name is its Deployment's and the hash that labels the pod.
                    let hash = pod.labels.get("pod-template-hash").filter(|_| kind == "ReplicaSet");
                    match hash.and_then(|h| name.strip_suffix(h.as_str())?.strip_suffix('-')) {
                        Some(deployment) => (kind, name) = ("Deployment".to_owned(), deployment.to_owned()),
                        None => {
                            selector = None;
                            break;
                        }
                    }
                }
            }
        }
        let selector = selector.filter(|s| !s.is_empty()).unwrap_or_else(|| stable(&pod.labels));
        (WorkloadId { namespace, kind, name }, selector)
    }
}

fn controller_of(meta: &Meta) -> Option<(&str, &str)> {
    let owner = meta.owner_references.iter().find(|o| o.controller).or(meta.owner_references.first())?;
    // A static pod is "owned" by its node, which is no workload.
    (owner.kind != "Node").then_some((owner.kind.as_str(), owner.name.as_str()))
}

fn proxy(spec: &PodSpec) -> Option<&Container> {
    // Native sidecars stand among the init containers.
    spec.containers.iter().chain(&spec.init_containers).find(|c| c.name == "istio-proxy")
}

/// How a pod takes part in the mesh.
pub(super) fn data_plane(pod: &Pod) -> DataPlane {
    let labels = &pod.metadata.labels;
    if labels.get("gateway.networking.k8s.io/gateway-class-name").is_some_and(|c| c.starts_with("istio-waypoint"))
        || labels.get("gateway.istio.io/managed").is_some_and(|c| c == "istio.io-mesh-controller")
    {
        return DataPlane::Waypoint;
    }
    match proxy(&pod.spec) {
        // `istio-proxy proxy router` is a gateway, `proxy sidecar` a sidecar (pilot-agent's node type).
        Some(c) if c.args.iter().any(|a| a == "router") => DataPlane::Gateway,
        Some(c) if c.args.iter().any(|a| a == "waypoint") => DataPlane::Waypoint,
        _ if pod.spec.host_network => DataPlane::HostNetwork,
        Some(_) => DataPlane::Sidecar,
        None if pod.metadata.annotations.get("ambient.istio.io/redirection").is_some_and(|v| v == "enabled") => {
            DataPlane::Ambient
        }
        None => DataPlane::Uninjected,
    }
}
