//! The mesh's configuration as istiod has it: Services and ServiceEntries in one form,
//! VirtualServices, DestinationRules and Sidecars, each in istiod's order and with its indexes.
//!
//! Owns configuration that is the same for every workload. Must never decide what one workload
//! sees: that is the task of `scope`. No I/O.

mod build;
pub(crate) mod config;
pub(crate) mod destinationrule;
mod discovery;
mod endpoints;
mod gateway;
pub mod host;
mod meshes;
mod provideruse;
mod proxy;
mod registry;
pub(crate) mod service;
mod sidecar;
mod unread;
mod validate;
mod views;
pub(crate) mod virtualservice;

use std::collections::BTreeMap;
use std::net::IpAddr;

use foldhash::HashMap;
use serde_json::Value;
use sidecarta_model::{Time, selects};

use destinationrule::RuleIndex;

pub use crate::objects::{Egress, EgressPort};
pub use build::MeshBuilder;
pub use config::{MeshConfig, Provider, TrafficMode};
pub use destinationrule::MergedRule;
pub use discovery::{DEFAULT_REVISION, Discovery, revision_of};
pub use meshes::{Meshes, SidecarNames};
pub use proxy::NamedCluster;
pub use service::{
    AppProtocol, ExportTo, MeshPort, MeshService, Registry, ServiceResolution, UNSPECIFIED,
};
pub use sidecar::sidecar_from_text;
pub use unread::UnreadObject;
pub use validate::egress_host as validate_egress_host;
pub use virtualservice::VirtualService;

/// A Sidecar resource.
#[derive(Clone, Debug)]
pub struct Sidecar {
    /// Namespace of the object. The root namespace's objects are for all namespaces.
    pub namespace: String,
    /// Name of the object (`metadata.name`).
    pub name: String,
    /// When it was created: of several that match, the oldest wins.
    pub created: Time,
    /// Labels of the pods that it is for; `None`: it is a default.
    pub selector: Option<BTreeMap<String, String>>,
    /// Egress listeners as written.
    pub egress: Vec<Egress>,
    /// `outboundTrafficPolicy` as written.
    pub outbound_traffic_policy: Option<Value>,
    /// `ingress` as written.
    pub ingress: Vec<Value>,
    /// `inboundConnectionPool` as written.
    pub inbound_connection_pool: Option<Value>,
    /// It has the label `app.kubernetes.io/managed-by: sidecarta`, so Sidecarta wrote it and no
    /// user.
    pub generated: bool,
}

impl Sidecar {
    /// Whether its selector matches these labels. A selector without labels matches all.
    pub fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        self.selector.as_ref().is_none_or(|s| selects(s, labels))
    }
}

/// An endpoint of a Service or of a host of a ServiceEntry.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MeshEndpoint {
    /// Address, or a name that the proxy resolves.
    pub address: String,
    /// Name of the Service port that it serves.
    pub port_name: String,
    /// Number of that port; only endpoints of ServiceEntries have it.
    pub port_number: Option<u16>,
    /// Labels of its pod, or of the ServiceEntry's endpoint. Subsets select by them.
    pub labels: std::sync::Arc<BTreeMap<String, String>>,
}

/// A pod as the mesh sees it.
#[derive(Clone, Debug)]
pub struct MeshPod {
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub name: String,
    /// Labels of the pod, by which selectors choose it.
    pub labels: std::sync::Arc<BTreeMap<String, String>>,
    /// All addresses in the pod's status.
    pub addresses: Vec<IpAddr>,
    /// Its condition `Ready` is true.
    pub ready: bool,
    /// The revision of the istiod that its proxy talks to; `None` without a proxy.
    pub revision: Option<std::sync::Arc<str>>,
}

/// An object because of which the proxy itself makes calls. A Telemetry or AuthorizationPolicy
/// names providers, an EnvoyFilter or WasmPlugin names Envoy clusters.
#[derive(Clone, Debug)]
pub struct ProviderUse {
    /// Kind of the object that names them, such as `Telemetry`.
    pub kind: &'static str,
    /// Namespace of the object. The root namespace's objects are for all namespaces.
    pub namespace: String,
    /// Name of the object (`metadata.name`).
    pub name: String,
    /// Labels of the pods that it is for; empty: all.
    pub selector: BTreeMap<String, String>,
    /// By part: `tracing`, `accessLogging`, `metrics`, `authorization`.
    pub providers: Vec<(&'static str, Vec<String>)>,
    /// Clusters that it names itself.
    pub clusters: Vec<NamedCluster>,
}

/// A Service in the index by host and namespace.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IndexedService {
    /// Index of the Service that istiod uses, of several with this host and namespace.
    pub service: u32,
    /// Several have the same rank. Which of them istiod uses can change with its next start.
    pub uncertain: bool,
}

/// The mesh.
#[derive(Debug, Default)]
pub struct Mesh {
    /// The mesh's own settings.
    pub config: MeshConfig,
    /// DNS domain of the cluster, such as `cluster.local`.
    pub domain: String,
    /// The revision of the istiod that has this configuration.
    pub revision: String,
    pub(crate) discovery: Discovery,
    pub(crate) unread: Vec<UnreadObject>,
    /// Names that DNS clusters resolve.
    pub(crate) dns_names: foldhash::HashSet<String>,
    /// See [`Mesh::has_own_view`].
    pub(crate) own_views: foldhash::HashSet<String>,
    pub(crate) services: Vec<MeshService>,
    pub(crate) by_host: HashMap<String, BTreeMap<String, IndexedService>>,
    pub(crate) by_namespace: HashMap<String, Vec<u32>>,
    pub(crate) virtual_services: Vec<VirtualService>,
    pub(crate) virtual_by_namespace: HashMap<String, VirtualIndex>,
    pub(crate) rules: RuleIndex,
    pub(crate) sidecars: Vec<Sidecar>,
    /// Positions in `sidecars`.
    pub(crate) sidecars_by_namespace: HashMap<String, Vec<u32>>,
    pub(crate) endpoints: HashMap<(String, String), Vec<MeshEndpoint>>,
    pub(crate) pods: Vec<MeshPod>,
    pub(crate) provider_uses: Vec<ProviderUse>,
    /// Service ports by the pods behind them: what inbound settings depend on.
    pub(crate) targets: HashMap<(String, String), Vec<ServedPort>>,
}

/// VirtualServices of a namespace by host.
#[derive(Clone, Debug, Default)]
pub(crate) struct VirtualIndex {
    pub all: Vec<u32>,
    pub exact: HashMap<String, Vec<u32>>,
    pub wild: Vec<(String, u32)>,
}

/// A Service port that a pod serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ServedPort {
    pub service: u32,
    /// The Service's port.
    pub port: u16,
    /// The pod's port.
    pub target: u16,
}

impl Mesh {
    /// All Services, in istiod's order.
    pub fn services(&self) -> &[MeshService] {
        &self.services
    }

    /// All root VirtualServices, in istiod's order.
    pub fn virtual_services(&self) -> &[VirtualService] {
        &self.virtual_services
    }

    /// All Sidecars: those with a selector first, each group in order of creation.
    pub fn sidecars(&self) -> &[Sidecar] {
        &self.sidecars
    }

    /// The Sidecars of a namespace, in the order of [`Mesh::sidecars`].
    pub fn sidecars_in<'m>(
        &'m self,
        namespace: &str,
    ) -> impl Iterator<Item = &'m Sidecar> + use<'m> {
        let found = self.sidecars_by_namespace.get(namespace).into_iter().flatten();
        found.map(|&i| &self.sidecars[i as usize])
    }

    /// All pods that have not ended, whether they take part in the mesh or not.
    pub fn pods(&self) -> &[MeshPod] {
        &self.pods
    }

    /// The pod of this name.
    pub fn pod(&self, namespace: &str, name: &str) -> Option<&MeshPod> {
        let at = self
            .pods
            .binary_search_by(|p| (p.namespace.as_str(), p.name.as_str()).cmp(&(namespace, name)));
        at.ok().map(|i| &self.pods[i])
    }

    /// The Services of one host that istiod uses, one for each namespace.
    pub fn services_of(&self, host: &str) -> impl Iterator<Item = &MeshService> {
        self.indexed(host).map(|(_, i)| &self.services[i.service as usize])
    }

    /// Whether a Service has this host.
    pub fn has_host(&self, host: &str) -> bool {
        self.by_host.contains_key(host)
    }

    /// Whether istiod ignores a namespace and all of its objects (`discoverySelectors`).
    pub fn hides(&self, namespace: &str) -> bool {
        self.discovery.hides(namespace)
    }

    /// Whether proxies resolve a name by themselves, because it is an endpoint of a DNS cluster
    /// (`networking/core/cluster.go`).
    pub fn looked_up_by_proxies(&self, name: &str) -> bool {
        self.dns_names.contains(name)
    }

    /// Whether a Kubernetes Service of any namespace has this name.
    pub fn names_service(&self, name: &str) -> bool {
        self.services.iter().any(|s| s.registry == Registry::Kubernetes && s.object == name)
    }

    /// Whether any object shows that the cluster has this namespace.
    pub fn has_namespace(&self, namespace: &str) -> bool {
        self.by_namespace.contains_key(namespace) || self.discovery.has_namespace(namespace)
    }

    /// All objects because of which proxies themselves make calls.
    pub fn provider_uses(&self) -> &[ProviderUse] {
        &self.provider_uses
    }

    /// The Services of one host, by namespace.
    pub(crate) fn indexed(&self, host: &str) -> impl Iterator<Item = (&str, IndexedService)> {
        self.by_host.get(host).into_iter().flatten().map(|(n, i)| (n.as_str(), *i))
    }

    /// The Service of this host in this namespace.
    pub fn service_in(&self, namespace: &str, host: &str) -> Option<&MeshService> {
        let found = self.by_host.get(host)?.get(namespace)?;
        Some(&self.services[found.service as usize])
    }

    /// The Sidecar that applies to a pod (`doGetSidecarScope`): of its namespace the first whose
    /// selector matches, then the namespace's default, then the root namespace's default. Nothing
    /// is merged.
    pub fn applied(&self, namespace: &str, labels: &BTreeMap<String, String>) -> Option<&Sidecar> {
        self.first(namespace, labels, |_| true)
    }

    /// As [`Mesh::applied`], without the Sidecars that Sidecarta generated.
    pub fn applied_before(
        &self,
        namespace: &str,
        labels: &BTreeMap<String, String>,
    ) -> Option<&Sidecar> {
        self.first(namespace, labels, |s| !s.generated)
    }

    fn first(
        &self,
        namespace: &str,
        labels: &BTreeMap<String, String>,
        counts: impl Fn(&Sidecar) -> bool,
    ) -> Option<&Sidecar> {
        let root = &self.config.root_namespace;
        let own = self.sidecars_in(namespace).find(|s| counts(s) && s.selects(labels));
        own.or_else(|| self.sidecars_in(root).find(|s| counts(s) && s.selector.is_none()))
    }

    /// The DestinationRules that a client in this namespace finds for a Service.
    pub fn rules(&self, client: &str, service: &MeshService) -> Vec<&MergedRule> {
        self.rules.lookup(client, &service.host, &service.namespace)
    }

    /// Endpoints of a Service, whatever the port.
    pub fn endpoints(&self, service: &MeshService) -> &[MeshEndpoint] {
        if service.hidden_from_all() && service.registry == Registry::Kubernetes {
            return &[];
        }
        let key = (service.namespace.clone(), service.host.clone());
        self.endpoints.get(&key).map_or(&[], Vec::as_slice)
    }

    /// Endpoints of a port as istiod finds them for DNS clusters and for the listeners of headless
    /// Services: by the number, where they have one (`EndpointShards.CopyEndpoints`; elsewhere the
    /// port's name decides).
    pub(crate) fn endpoints_by_number<'m>(
        &'m self,
        service: &MeshService,
        port: &MeshPort,
    ) -> impl Iterator<Item = &'m MeshEndpoint> {
        let (name, number) = (port.name.clone(), port.number);
        self.endpoints(service)
            .iter()
            .filter(move |e| e.port_number.map_or(e.port_name == name, |n| n == number))
    }
}
