//! Controllers of pods, and nodes.
//!
//! Owns which of their fields are read. Must never decide which controller owns a pod.

use std::collections::BTreeMap;

use serde::Deserialize;

use sidecarta_model::Time;

use super::meta::{ObjectMeta, nullable};
use super::service::TargetRef;

/// Any controller: only its owner, selector and template labels matter.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Controller {
    pub metadata: ObjectMeta,
    #[serde(default, deserialize_with = "nullable")]
    pub spec: ControllerSpec,
}

/// What a controller makes.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ControllerSpec {
    #[serde(default, deserialize_with = "nullable")]
    pub selector: ControllerSelector,
    #[serde(default, deserialize_with = "nullable")]
    pub template: PodTemplate,
    #[serde(default, deserialize_with = "nullable")]
    pub job_template: JobTemplate,
    /// The Deployment whose template a Rollout uses.
    #[serde(default)]
    pub workload_ref: Option<TargetRef>,
}

/// Labels of the pods that a controller counts as its own. A DeploymentConfig and a
/// ReplicationController have them without `matchLabels`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ControllerSelector {
    #[serde(default, deserialize_with = "nullable")]
    pub match_labels: BTreeMap<String, String>,
    #[serde(flatten)]
    others: BTreeMap<String, serde_json::Value>,
}

impl ControllerSelector {
    /// The labels, in whichever form they stand.
    pub fn labels(self) -> BTreeMap<String, String> {
        if !self.match_labels.is_empty() || self.others.contains_key("matchExpressions") {
            return self.match_labels;
        }
        let text = |v: serde_json::Value| v.as_str().map(str::to_owned);
        self.others.into_iter().filter_map(|(k, v)| Some((k, text(v)?))).collect()
    }
}

/// What a pod of a controller is made from.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct PodTemplate {
    #[serde(default, deserialize_with = "nullable")]
    pub metadata: TemplateMeta,
}

/// The metadata of a template.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct TemplateMeta {
    #[serde(default, deserialize_with = "nullable")]
    pub labels: BTreeMap<String, String>,
}

/// What a Job of a CronJob is made from.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct JobTemplate {
    #[serde(default, deserialize_with = "nullable")]
    pub spec: JobSpec,
}

/// What a Job of a CronJob makes.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct JobSpec {
    #[serde(default, deserialize_with = "nullable")]
    pub template: PodTemplate,
}

/// A node (`core/v1`).
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Node {
    #[serde(default, deserialize_with = "nullable")]
    pub metadata: NodeMeta,
    #[serde(default, deserialize_with = "nullable")]
    pub spec: NodeSpec,
    #[serde(default, deserialize_with = "nullable")]
    pub status: NodeStatus,
}

/// Of a node, its name and its version are enough.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeMeta {
    #[serde(default, deserialize_with = "nullable")]
    pub name: String,
    #[serde(default, deserialize_with = "nullable")]
    pub uid: String,
    #[serde(default, deserialize_with = "nullable")]
    pub resource_version: String,
    #[serde(default)]
    pub creation_timestamp: Option<Time>,
}

/// Ranges of a node's pods.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct NodeSpec {
    #[serde(default, rename = "podCIDR", deserialize_with = "nullable")]
    pub pod_cidr: String,
    #[serde(default, rename = "podCIDRs", deserialize_with = "nullable")]
    pub pod_cidrs: Vec<String>,
}

/// Addresses of a node.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct NodeStatus {
    #[serde(default, deserialize_with = "nullable")]
    pub addresses: Vec<NodeAddress>,
}

/// An address of a node.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct NodeAddress {
    #[serde(default, rename = "type", deserialize_with = "nullable")]
    pub kind: String,
    pub address: String,
}
