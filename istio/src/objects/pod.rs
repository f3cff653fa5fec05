//! Pods: containers, addresses and conditions.
//!
//! Owns which fields of a pod are read. Must never decide which workload a pod belongs to.

use std::net::IpAddr;
use std::str::FromStr;

use serde::Deserialize;

use sidecarta_model::Time;

use super::meta::{ObjectMeta, nullable};

/// A pod (`core/v1`).
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct PodObject {
    pub metadata: ObjectMeta,
    #[serde(default, deserialize_with = "nullable")]
    pub spec: PodSpec,
    #[serde(default, deserialize_with = "nullable")]
    pub status: PodStatus,
}

/// What a pod is to be.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodSpec {
    #[serde(default, deserialize_with = "nullable")]
    pub node_name: String,
    #[serde(default, deserialize_with = "nullable")]
    pub host_network: bool,
    #[serde(default, deserialize_with = "nullable")]
    pub containers: Vec<Container>,
    #[serde(default, deserialize_with = "nullable")]
    pub init_containers: Vec<Container>,
}

/// A container of a pod.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Container {
    pub name: String,
    #[serde(default, deserialize_with = "nullable")]
    pub command: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub args: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub ports: Vec<ContainerPort>,
}

/// A port that a container names.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerPort {
    #[serde(default, deserialize_with = "nullable")]
    pub name: String,
    pub container_port: u16,
}

/// What became of a pod.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodStatus {
    #[serde(default, deserialize_with = "nullable")]
    pub phase: String,
    #[serde(default, rename = "podIP", deserialize_with = "nullable")]
    pub pod_ip: String,
    #[serde(default, rename = "podIPs", deserialize_with = "nullable")]
    pub pod_ips: Vec<PodIp>,
    #[serde(default, rename = "hostIP", deserialize_with = "nullable")]
    pub host_ip: String,
    #[serde(default)]
    pub start_time: Option<Time>,
    #[serde(default, deserialize_with = "nullable")]
    pub container_statuses: Vec<ContainerStatus>,
    #[serde(default, deserialize_with = "nullable")]
    pub init_container_statuses: Vec<ContainerStatus>,
    #[serde(default, deserialize_with = "nullable")]
    pub conditions: Vec<PodCondition>,
}

/// A condition of a pod: `Ready` among them.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct PodCondition {
    #[serde(rename = "type", default, deserialize_with = "nullable")]
    pub kind: String,
    #[serde(default, deserialize_with = "nullable")]
    pub status: String,
}

impl PodObject {
    /// Whether its condition `Ready` is true.
    pub fn is_ready(&self) -> bool {
        self.status.conditions.iter().any(|c| c.kind == "Ready" && c.status == "True")
    }
}

/// One of the addresses of a pod.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct PodIp {
    #[serde(default, deserialize_with = "nullable")]
    pub ip: String,
}

/// What became of a container.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerStatus {
    #[serde(default, deserialize_with = "nullable")]
    pub name: String,
    #[serde(default, deserialize_with = "nullable")]
    pub restart_count: u32,
    #[serde(default, deserialize_with = "nullable")]
    pub state: ContainerState,
}

/// Whether a container runs.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct ContainerState {
    #[serde(default)]
    pub running: Option<ContainerRunning>,
    #[serde(default)]
    pub terminated: Option<ContainerTerminated>,
}

/// A container runs.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerRunning {
    #[serde(default)]
    pub started_at: Option<Time>,
}

/// A container has ended.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerTerminated {
    #[serde(default)]
    pub started_at: Option<Time>,
    #[serde(default)]
    pub finished_at: Option<Time>,
}

/// Reads an address or a range. Calls `refuse` with a text that is neither. The empty string and
/// `None` (as in `clusterIP: None`) mean "no address" and are not refused.
pub fn read<T: FromStr>(text: &str, refuse: impl FnOnce(&str)) -> Option<T> {
    let read = text.parse().ok();
    if read.is_none() && !text.is_empty() && text != "None" {
        refuse(text);
    }
    read
}

/// A pod's addresses, its primary one (`podIP`) first. Calls `refuse` with a text that is no
/// address.
pub fn addresses(pod: &PodObject, mut refuse: impl FnMut(&str)) -> Vec<IpAddr> {
    let all = std::iter::once(&pod.status.pod_ip).chain(pod.status.pod_ips.iter().map(|p| &p.ip));
    let mut out: Vec<IpAddr> = Vec::new();
    for a in all.filter_map(|a| read(a, &mut refuse)) {
        if !out.contains(&a) {
            out.push(a);
        }
    }
    out
}

/// The ports of a pod that have a name.
pub fn named_ports(pod: &PodObject) -> impl Iterator<Item = (&str, u16)> {
    let ports = pod.spec.containers.iter().chain(&pod.spec.init_containers).flat_map(|c| &c.ports);
    ports.filter(|p| !p.name.is_empty()).map(|p| (p.name.as_str(), p.container_port))
}
