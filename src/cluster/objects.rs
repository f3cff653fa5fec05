//! Kubernetes and Istio objects, as far as resolution needs them: slim, lenient about unknown
//! fields, strict about the types of known ones (a wrong type is an error with the field's name,
//! not a silent default).

mod check;
mod entry;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::de::{Error as _, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::pool::Labels;
use crate::model::{Protocol, Time};
pub(crate) use check::Check;
pub(crate) use entry::{ServiceEntry, WorkloadSelector};

/// `null` and absent alike give the default: `kubectl` prints both.
pub(crate) fn nullable<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    d: D,
) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}

#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Meta {
    pub name: String,
    #[serde(default, deserialize_with = "nullable")]
    pub namespace: String,
    #[serde(default, deserialize_with = "nullable")]
    pub uid: String,
    #[serde(default, deserialize_with = "nullable")]
    pub labels: Labels,
    #[serde(default, deserialize_with = "nullable")]
    pub annotations: BTreeMap<String, String>,
    #[serde(default)]
    pub creation_timestamp: Option<Time>,
    #[serde(default)]
    pub deletion_timestamp: Option<Time>,
    #[serde(default, deserialize_with = "nullable")]
    pub owner_references: Vec<OwnerReference>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct OwnerReference {
    pub kind: String,
    pub name: String,
    #[serde(default, deserialize_with = "nullable")]
    pub controller: bool,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(crate) struct Pod {
    pub metadata: Meta,
    #[serde(default, deserialize_with = "nullable")]
    pub spec: PodSpec,
    #[serde(default, deserialize_with = "nullable")]
    pub status: PodStatus,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PodSpec {
    #[serde(default, deserialize_with = "nullable")]
    pub node_name: String,
    #[serde(default, deserialize_with = "nullable")]
    pub host_network: bool,
    #[serde(default, deserialize_with = "nullable")]
    pub containers: Vec<Container>,
    #[serde(default, deserialize_with = "nullable")]
    pub init_containers: Vec<Container>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(crate) struct Container {
    pub name: String,
    #[serde(default, deserialize_with = "nullable")]
    pub args: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub ports: Vec<ContainerPort>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ContainerPort {
    #[serde(default, deserialize_with = "nullable")]
    pub name: String,
    pub container_port: u16,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PodStatus {
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
    pub conditions: Vec<PodCondition>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(crate) struct PodCondition {
    #[serde(rename = "type", default, deserialize_with = "nullable")]
    pub kind: String,
    #[serde(default, deserialize_with = "nullable")]
    pub status: String,
}

impl Pod {
    /// Whether its condition `Ready` is true.
    pub fn is_ready(&self) -> bool {
        self.status.conditions.iter().any(|c| c.kind == "Ready" && c.status == "True")
    }
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(crate) struct PodIp {
    #[serde(default, deserialize_with = "nullable")]
    pub ip: String,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(crate) struct ContainerStatus {
    #[serde(default, deserialize_with = "nullable")]
    pub state: ContainerState,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub(crate) struct ContainerState {
    #[serde(default)]
    pub running: Option<Running>,
    #[serde(default)]
    pub terminated: Option<Terminated>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Running {
    #[serde(default)]
    pub started_at: Option<Time>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Terminated {
    #[serde(default)]
    pub started_at: Option<Time>,
    #[serde(default)]
    pub finished_at: Option<Time>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(crate) struct Service {
    pub metadata: Meta,
    #[serde(default, deserialize_with = "nullable")]
    pub spec: ServiceSpec,
    #[serde(default, deserialize_with = "nullable")]
    pub status: ServiceStatus,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ServiceSpec {
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
    pub selector: Labels,
    #[serde(default, deserialize_with = "nullable")]
    pub publish_not_ready_addresses: bool,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ServicePortSpec {
    #[serde(default, deserialize_with = "nullable")]
    pub name: String,
    pub port: u16,
    #[serde(default)]
    pub protocol: ProtocolName,
    #[serde(default)]
    pub app_protocol: Option<String>,
    #[serde(default)]
    pub target_port: Option<PortRef>,
    #[serde(default)]
    pub node_port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged)]
pub(crate) enum PortRef {
    Number(u16),
    Name(String),
}

/// Kubernetes' protocol, TCP where it is absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProtocolName(pub Protocol);

impl Default for ProtocolName {
    fn default() -> Self {
        Self(Protocol::Tcp)
    }
}

impl Serialize for ProtocolName {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(s)
    }
}

impl<'de> Deserialize<'de> for ProtocolName {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Ok(Self(Option::<Protocol>::deserialize(d)?.unwrap_or(Protocol::Tcp)))
    }
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ServiceStatus {
    #[serde(default, deserialize_with = "nullable")]
    pub load_balancer: LoadBalancer,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub(crate) struct LoadBalancer {
    #[serde(default, deserialize_with = "nullable")]
    pub ingress: Vec<Ingress>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(crate) struct Ingress {
    #[serde(default, deserialize_with = "nullable")]
    pub ip: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EndpointSlice {
    pub metadata: Meta,
    /// `IPv4`, `IPv6` or `FQDN`; in what was kept before, absent.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub address_type: String,
    #[serde(default, deserialize_with = "nullable")]
    pub endpoints: Vec<Endpoint>,
    #[serde(default, deserialize_with = "nullable")]
    pub ports: Vec<EndpointPort>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Endpoint {
    #[serde(default, deserialize_with = "nullable")]
    pub addresses: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub conditions: Conditions,
    #[serde(default)]
    pub target_ref: Option<TargetRef>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct TargetRef {
    #[serde(default, deserialize_with = "nullable")]
    pub kind: String,
    #[serde(default, deserialize_with = "nullable")]
    pub name: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Conditions {
    /// Absent means ready (`discovery.k8s.io/v1`).
    #[serde(default)]
    pub ready: Option<bool>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EndpointPort {
    #[serde(default, deserialize_with = "nullable")]
    pub name: String,
    #[serde(default)]
    pub port: Option<u16>,
    #[serde(default)]
    pub protocol: ProtocolName,
}

/// Any controller: only its owner, selector and template labels matter.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(crate) struct Controller {
    pub metadata: Meta,
    #[serde(default, deserialize_with = "nullable")]
    pub spec: ControllerSpec,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ControllerSpec {
    #[serde(default, deserialize_with = "nullable")]
    pub selector: Selector,
    #[serde(default, deserialize_with = "nullable")]
    pub template: Template,
    #[serde(default, deserialize_with = "nullable")]
    pub job_template: JobTemplate,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Selector {
    #[serde(default, deserialize_with = "nullable")]
    pub match_labels: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub(crate) struct Template {
    #[serde(default, deserialize_with = "nullable")]
    pub metadata: TemplateMeta,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub(crate) struct TemplateMeta {
    #[serde(default, deserialize_with = "nullable")]
    pub labels: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub(crate) struct JobTemplate {
    #[serde(default, deserialize_with = "nullable")]
    pub spec: JobSpec,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub(crate) struct JobSpec {
    #[serde(default, deserialize_with = "nullable")]
    pub template: Template,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(crate) struct Node {
    #[serde(default, deserialize_with = "nullable")]
    pub metadata: NodeMeta,
    #[serde(default, deserialize_with = "nullable")]
    pub spec: NodeSpec,
    #[serde(default, deserialize_with = "nullable")]
    pub status: NodeStatus,
}

/// Of a node, the name is enough.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub(crate) struct NodeMeta {
    #[serde(default, deserialize_with = "nullable")]
    pub name: String,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub(crate) struct NodeSpec {
    #[serde(default, rename = "podCIDR", deserialize_with = "nullable")]
    pub pod_cidr: String,
    #[serde(default, rename = "podCIDRs", deserialize_with = "nullable")]
    pub pod_cidrs: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub(crate) struct NodeStatus {
    #[serde(default, deserialize_with = "nullable")]
    pub addresses: Vec<NodeAddress>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(crate) struct NodeAddress {
    #[serde(default, rename = "type", deserialize_with = "nullable")]
    pub kind: String,
    pub address: String,
}

/// Just enough of any object to name it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Envelope {
    #[serde(default, deserialize_with = "nullable")]
    pub api_version: String,
    #[serde(default, deserialize_with = "nullable")]
    pub kind: String,
}

impl Envelope {
    /// Whether both words are there.
    pub fn complete(&self) -> bool {
        !self.api_version.is_empty() && !self.kind.is_empty()
    }

    /// Fills it from the first keys of an object, and fails as soon as it is complete.
    pub fn find<'de, D: Deserializer<'de>>(
        deserializer: D,
        into: &mut Self,
    ) -> Result<(), D::Error> {
        struct Find<'a>(&'a mut Envelope);
        impl<'de> Visitor<'de> for Find<'_> {
            type Value = ();

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
                while !self.0.complete() {
                    let Some(key) = map.next_key::<Cow<'de, str>>()? else { return Ok(()) };
                    match key.as_ref() {
                        "apiVersion" => self.0.api_version = map.next_value()?,
                        "kind" => self.0.kind = map.next_value()?,
                        _ => drop(map.next_value::<IgnoredAny>()?),
                    }
                }
                Err(A::Error::custom("enough"))
            }
        }
        deserializer.deserialize_map(Find(into))
    }
}

/// Reads an address or a range. What is none is given to `refuse`, but for the empty string and
/// the word that stands for no address (`clusterIP: None`).
pub(crate) fn read<T: FromStr>(text: &str, refuse: impl FnOnce(&str)) -> Option<T> {
    let read = text.parse().ok();
    if read.is_none() && !text.is_empty() && text != "None" {
        refuse(text);
    }
    read
}

/// A pod's addresses, the first one first. What is no address is given to `refuse`.
pub(crate) fn addresses(pod: &Pod, mut refuse: impl FnMut(&str)) -> Vec<IpAddr> {
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
pub(crate) fn named_ports(pod: &Pod) -> impl Iterator<Item = (&str, u16)> {
    let ports = pod.spec.containers.iter().chain(&pod.spec.init_containers).flat_map(|c| &c.ports);
    ports.filter(|p| !p.name.is_empty()).map(|p| (p.name.as_str(), p.container_port))
}

/// The port of a pod with these named ports that a Service port leads to; `None` when it has a name
/// that the pod does not know.
pub(crate) fn target_port<'a>(
    port: &ServicePortSpec,
    mut named: impl Iterator<Item = (&'a str, u16)>,
) -> Option<u16> {
    match &port.target_port {
        None | Some(PortRef::Number(0)) => Some(port.port),
        Some(PortRef::Number(n)) => Some(*n),
        Some(PortRef::Name(name)) => {
            named.find(|(known, _)| known == name).map(|(_, number)| number)
        }
    }
}
