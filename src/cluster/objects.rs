//! Kubernetes and Istio objects, as far as resolution needs them: slim, lenient about unknown fields, strict about the types of
//! known ones (a wrong type is an error with the field's name, not a silent default).

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Deserializer};

use crate::model::{Protocol, Time};

/// `null` and absent alike give the default: `kubectl` prints both.
fn nullable<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(d: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}

#[derive(Debug, Default, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Meta {
    pub name: String,
    #[serde(default, deserialize_with = "nullable")]
    pub namespace: String,
    #[serde(default, deserialize_with = "nullable")]
    pub labels: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "nullable")]
    pub annotations: BTreeMap<String, String>,
    #[serde(default)]
    pub creation_timestamp: Option<Time>,
    #[serde(default)]
    pub deletion_timestamp: Option<Time>,
    #[serde(default, deserialize_with = "nullable")]
    pub owner_references: Vec<OwnerReference>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct OwnerReference {
    pub kind: String,
    pub name: String,
    #[serde(default, deserialize_with = "nullable")]
    pub controller: bool,
}

#[derive(Debug, Deserialize)]
pub(super) struct Pod {
    pub metadata: Meta,
    #[serde(default, deserialize_with = "nullable")]
    pub spec: PodSpec,
    #[serde(default, deserialize_with = "nullable")]
    pub status: PodStatus,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PodSpec {
    #[serde(default, deserialize_with = "nullable")]
    pub host_network: bool,
    #[serde(default, deserialize_with = "nullable")]
    pub containers: Vec<Container>,
    #[serde(default, deserialize_with = "nullable")]
    pub init_containers: Vec<Container>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Container {
    pub name: String,
    #[serde(default, deserialize_with = "nullable")]
    pub args: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub ports: Vec<ContainerPort>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ContainerPort {
    #[serde(default, deserialize_with = "nullable")]
    pub name: String,
    pub container_port: u16,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PodStatus {
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
}

#[derive(Debug, Deserialize)]
pub(super) struct PodIp {
    #[serde(default, deserialize_with = "nullable")]
    pub ip: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct ContainerStatus {
    #[serde(default, deserialize_with = "nullable")]
    pub state: ContainerState,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct ContainerState {
    #[serde(default)]
    pub terminated: Option<Terminated>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Terminated {
    #[serde(default)]
    pub finished_at: Option<Time>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Service {
    pub metadata: Meta,
    #[serde(default, deserialize_with = "nullable")]
    pub spec: ServiceSpec,
    #[serde(default, deserialize_with = "nullable")]
    pub status: ServiceStatus,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ServiceSpec {
    #[serde(default, rename = "type", deserialize_with = "nullable")]
    pub kind: String,
    #[serde(default, rename = "clusterIP", deserialize_with = "nullable")]
    pub cluster_ip: String,
    #[serde(default, rename = "clusterIPs", deserialize_with = "nullable")]
    pub cluster_ips: Vec<String>,
    #[serde(default, rename = "externalIPs", deserialize_with = "nullable")]
    pub external_ips: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub external_name: String,
    #[serde(default, deserialize_with = "nullable")]
    pub ports: Vec<ServicePortSpec>,
    #[serde(default, deserialize_with = "nullable")]
    pub selector: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ServicePortSpec {
    #[serde(default, deserialize_with = "nullable")]
    pub name: String,
    pub port: u16,
    #[serde(default)]
    pub protocol: ProtocolName,
    #[serde(default)]
    pub target_port: Option<PortRef>,
    #[serde(default)]
    pub node_port: Option<u16>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(super) enum PortRef {
    Number(u16),
    Name(String),
}

/// Kubernetes' protocol, TCP where it is absent.
#[derive(Debug, Clone, Copy)]
pub(super) struct ProtocolName(pub Protocol);

impl Default for ProtocolName {
    fn default() -> Self {
        Self(Protocol::Tcp)
    }
}

impl<'de> Deserialize<'de> for ProtocolName {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Ok(Self(Option::<Protocol>::deserialize(d)?.unwrap_or(Protocol::Tcp)))
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ServiceStatus {
    #[serde(default, deserialize_with = "nullable")]
    pub load_balancer: LoadBalancer,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct LoadBalancer {
    #[serde(default, deserialize_with = "nullable")]
    pub ingress: Vec<Ingress>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Ingress {
    #[serde(default, deserialize_with = "nullable")]
    pub ip: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct EndpointSlice {
    pub metadata: Meta,
    #[serde(default, deserialize_with = "nullable")]
    pub endpoints: Vec<Endpoint>,
    #[serde(default, deserialize_with = "nullable")]
    pub ports: Vec<EndpointPort>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Endpoint {
    #[serde(default, deserialize_with = "nullable")]
    pub addresses: Vec<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct EndpointPort {
    #[serde(default, deserialize_with = "nullable")]
    pub name: String,
    #[serde(default)]
    pub port: Option<u16>,
    #[serde(default)]
    pub protocol: ProtocolName,
}

/// Any controller: only its owner, selector and template labels matter.
#[derive(Debug, Deserialize)]
pub(super) struct Controller {
    pub metadata: Meta,
    #[serde(default, deserialize_with = "nullable")]
    pub spec: ControllerSpec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ControllerSpec {
    #[serde(default, deserialize_with = "nullable")]
    pub selector: Selector,
    #[serde(default, deserialize_with = "nullable")]
    pub template: Template,
    #[serde(default, deserialize_with = "nullable")]
    pub job_template: JobTemplate,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Selector {
    #[serde(default, deserialize_with = "nullable")]
    pub match_labels: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct Template {
    #[serde(default, deserialize_with = "nullable")]
    pub metadata: TemplateMeta,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct TemplateMeta {
    #[serde(default, deserialize_with = "nullable")]
    pub labels: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct JobTemplate {
    #[serde(default, deserialize_with = "nullable")]
    pub spec: JobSpec,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct JobSpec {
    #[serde(default, deserialize_with = "nullable")]
    pub template: Template,
}

#[derive(Debug, Deserialize)]
pub(super) struct Node {
    #[serde(default, deserialize_with = "nullable")]
    pub spec: NodeSpec,
    #[serde(default, deserialize_with = "nullable")]
    pub status: NodeStatus,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct NodeSpec {
    #[serde(default, rename = "podCIDR", deserialize_with = "nullable")]
    pub pod_cidr: String,
    #[serde(default, rename = "podCIDRs", deserialize_with = "nullable")]
    pub pod_cidrs: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct NodeStatus {
    #[serde(default, deserialize_with = "nullable")]
    pub addresses: Vec<NodeAddress>,
}

#[derive(Debug, Deserialize)]
pub(super) struct NodeAddress {
    pub address: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct ServiceEntry {
    pub metadata: Meta,
    #[serde(default, deserialize_with = "nullable")]
    pub spec: ServiceEntrySpec,
    #[serde(default, deserialize_with = "nullable")]
    pub status: ServiceEntryStatus,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct ServiceEntrySpec {
    #[serde(default, deserialize_with = "nullable")]
    pub hosts: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub addresses: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub endpoints: Vec<WorkloadEntry>,
}

#[derive(Debug, Deserialize)]
pub(super) struct WorkloadEntry {
    #[serde(default, deserialize_with = "nullable")]
    pub address: String,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct ServiceEntryStatus {
    #[serde(default, deserialize_with = "nullable")]
    pub addresses: Vec<EntryAddress>,
}

#[derive(Debug, Deserialize)]
pub(super) struct EntryAddress {
    #[serde(default, deserialize_with = "nullable")]
    pub value: String,
}

/// Just enough of any object to name it.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Envelope {
    #[serde(default, deserialize_with = "nullable")]
    pub api_version: String,
    #[serde(default, deserialize_with = "nullable")]
    pub kind: String,
}

/// Parses an address; `None` for the empty string and `None`-like words (`clusterIP: None`).
pub(super) fn address(text: &str) -> Option<IpAddr> {
    text.parse().ok()
}
