//! Kubernetes and Istio objects, as far as the model of istiod and the indexes of addresses need
//! them: slim, lenient about unknown fields, strict about the types of known ones (a wrong type is
//! an error with the field's name, not a silent default).
//!
//! Owns what is read of an object, and which of its names count. Must never decide what an object
//! means. Fields have the names, and the meaning, that the API's reference gives them.

#![allow(missing_docs)] // of fields, see above; every type says what it is

mod check;
mod controller;
mod entry;
mod envelope;
mod gateway;
mod istio;
mod known;
mod meshconfig;
mod meta;
mod pod;
mod proxy;
mod service;

pub use check::CheckNames;
pub use controller::{
    Controller, ControllerSelector, ControllerSpec, JobSpec, JobTemplate, Node, NodeAddress,
    NodeMeta, NodeSpec, NodeStatus, PodTemplate, TemplateMeta,
};
pub use entry::{
    EntryAddress, ServiceEntry, ServiceEntryPort, ServiceEntrySpec, ServiceEntryStatus,
    WorkloadEntry, WorkloadEntryObject, WorkloadSelector,
};
pub use envelope::Envelope;
pub use gateway::{GatewayRoute, GatewayRouteSpec};
pub(crate) use gateway::{GatewayRule, GatewayValue, ObjectReference};
pub use istio::{
    AuthorizationPolicy, AuthorizationPolicySpec, DestinationRule, DestinationRuleSpec, Egress,
    EgressPort, SidecarObject, SidecarSpec, Telemetry, TelemetrySpec, VirtualServiceObject,
    VirtualServiceSpec,
};
pub(crate) use istio::{
    HttpMatch, HttpRoute, L4Match, L4Route, Mirror, Percent, PortSelector, RouteDestination,
    StringMatch, Subset, TelemetryProviders, WeightedDestination,
};
pub use known::{AnyObject, ObjectError, ReadObjectsError, read_checked, read_yaml};
pub use meshconfig::ConfigMap;
#[cfg(test)]
pub(crate) use meshconfig::LabelExpression;
pub(crate) use meshconfig::{LabelSelector, MeshConfigSpec, ProxyConfigSpec};
pub(crate) use meta::nullable;
pub use meta::{ObjectMeta, OwnerReference, SpecObject};
pub use pod::{
    Container, ContainerPort, ContainerRunning, ContainerState, ContainerStatus,
    ContainerTerminated, PodCondition, PodIp, PodObject, PodSpec, PodStatus, addresses,
    named_ports, read,
};
pub use proxy::{
    EnvoyFilter, EnvoyFilterSpec, Namespace, RequestAuthentication, RequestAuthenticationSpec,
    WasmPlugin, WasmPluginSpec,
};
pub use service::{
    EndpointConditions, EndpointPort, EndpointSlice, LoadBalancer, LoadBalancerIngress, PortRef,
    ProtocolName, ServiceObject, ServicePortSpec, ServiceSpec, ServiceStatus, SliceEndpoint,
    TargetRef, target_port,
};

pub use sidecarta_model::Labels;
