//! Kubernetes and Istio objects, as far as the model of istiod and the indexes of addresses need
//! them: slim, lenient about unknown fields, strict about the types of known ones (a wrong type is
//! an error with the field's name, not a silent default).
//!
//! Owns what is read of an object, and which of its names count. Must never decide what an object
//! means. Fields have the names, and the meaning, that the API's reference gives them.

#![allow(missing_docs)] // of fields, see above; every type says what it is

mod check;
mod entry;
mod gateway;
pub(crate) mod istio;
mod known;
mod proxy;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::de::{Error as _, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use sidecarta_model::{Protocol, Time};

pub use check::CheckNames;
pub use entry::{
    EntryAddress, ServiceEntry, ServiceEntryPort, ServiceEntrySpec, ServiceEntryStatus,
    WorkloadEntry, WorkloadEntryObject, WorkloadSelector,
};
pub use gateway::{GatewayRoute, GatewayRouteSpec};
pub(crate) use gateway::{GatewayRule, GatewayValue, ObjectReference};
pub use istio::{
    AuthorizationPolicy, AuthorizationPolicySpec, ConfigMap, DestinationRule, DestinationRuleSpec,
    Egress, EgressPort, SidecarObject, SidecarSpec, SpecObject, Telemetry, TelemetrySpec,
    VirtualServiceObject, VirtualServiceSpec,
};
pub(crate) use istio::{
    HttpMatch, HttpRoute, L4Match, L4Route, LabelSelector, MeshConfigSpec, Mirror, Percent,
    PortSelector, ProxyConfigSpec, RouteDestination, StringMatch, Subset, TelemetryProviders,
    WeightedDestination,
};
pub use known::{AnyObject, ObjectError, ReadObjectsError, read_checked, read_yaml};
pub use proxy::{EnvoyFilter, EnvoyFilterSpec, Namespace, WasmPlugin, WasmPluginSpec};

pub use sidecarta_model::Labels;

/// `null` and absent alike give the default: `kubectl` prints both.
pub(crate) fn nullable<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    d: D,
) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}

/// What every object says of itself (`ObjectMeta` of `meta/v1`).
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectMeta {
    pub name: String,
    #[serde(default, deserialize_with = "nullable")]
    pub namespace: String,
    #[serde(default, deserialize_with = "nullable")]
    pub uid: String,
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub resource_version: String,
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

/// An object that another belongs to (`OwnerReference` of `meta/v1`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OwnerReference {
    pub kind: String,
    pub name: String,
    #[serde(default, deserialize_with = "nullable")]
    pub controller: bool,
}

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

/// A Service (`core/v1`).
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct ServiceObject {
    pub metadata: ObjectMeta,
    #[serde(default, deserialize_with = "nullable")]
    pub spec: ServiceSpec,
    #[serde(default, deserialize_with = "nullable")]
    pub status: ServiceStatus,
}

/// What a Service is to be.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceSpec {
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

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServicePortSpec {
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

/// A port of a pod, by number or by the name that its container gives it (`IntOrString`).
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum PortRef {
    Number(u16),
    Name(String),
}

/// Kubernetes' protocol, TCP where it is absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProtocolName(pub Protocol);

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

/// What became of a Service.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceStatus {
    #[serde(default, deserialize_with = "nullable")]
    pub load_balancer: LoadBalancer,
}

/// What a load balancer gave a Service.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct LoadBalancer {
    #[serde(default, deserialize_with = "nullable")]
    pub ingress: Vec<LoadBalancerIngress>,
}

/// An address of a load balancer.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct LoadBalancerIngress {
    #[serde(default, deserialize_with = "nullable")]
    pub ip: String,
}

/// Endpoints of a Service (`discovery.k8s.io/v1`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointSlice {
    pub metadata: ObjectMeta,
    /// `IPv4`, `IPv6` or `FQDN`; in what was kept before, absent.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub address_type: String,
    #[serde(default, deserialize_with = "nullable")]
    pub endpoints: Vec<SliceEndpoint>,
    #[serde(default, deserialize_with = "nullable")]
    pub ports: Vec<EndpointPort>,
}

/// One endpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SliceEndpoint {
    #[serde(default, deserialize_with = "nullable")]
    pub addresses: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub conditions: EndpointConditions,
    #[serde(default)]
    pub target_ref: Option<TargetRef>,
}

/// The object behind an endpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TargetRef {
    #[serde(default, deserialize_with = "nullable")]
    pub kind: String,
    #[serde(default, deserialize_with = "nullable")]
    pub name: String,
}

/// Whether an endpoint takes connections.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EndpointConditions {
    /// Absent means ready (`discovery.k8s.io/v1`).
    #[serde(default)]
    pub ready: Option<bool>,
}

/// A port of all endpoints of a slice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointPort {
    #[serde(default, deserialize_with = "nullable")]
    pub name: String,
    #[serde(default)]
    pub port: Option<u16>,
    #[serde(default)]
    pub protocol: ProtocolName,
}

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
    /// Of a Rollout: the Deployment whose template it takes.
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

/// Just enough of any object to name it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Envelope {
    #[serde(default, deserialize_with = "nullable")]
    pub api_version: String,
    #[serde(default, deserialize_with = "nullable")]
    pub kind: String,
}

impl Envelope {
    /// The group of its API; empty for the core's.
    pub fn group(&self) -> &str {
        self.api_version.rsplit_once('/').map_or("", |(group, _)| group)
    }

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
pub fn read<T: FromStr>(text: &str, refuse: impl FnOnce(&str)) -> Option<T> {
    let read = text.parse().ok();
    if read.is_none() && !text.is_empty() && text != "None" {
        refuse(text);
    }
    read
}

/// A pod's addresses, the first one first. What is no address is given to `refuse`.
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

/// The port of a pod with these named ports that a Service port leads to; `None` when it has a name
/// that the pod does not know.
pub fn target_port<'a>(
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
