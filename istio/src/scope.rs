//! What istiod selects for a workload: the model of Istio's scoping.
//!
//! Owns, for a namespace and a list of egress listeners, which Services and VirtualServices are
//! imported (`model/sidecar.go`, `model/virtualservice.go`), which DestinationRules apply, which
//! clusters follow, and the route of a call. Pure. Must never decide what a Sidecar should list;
//! that is the task of `generate`.

mod call;
mod chain;
pub mod clusters;
mod http;
mod imports;
pub mod inbound;
mod l4;
mod listener;
pub mod report;
mod route;
mod scoped;
mod select;

use std::collections::BTreeMap;

use foldhash::HashMap;

use crate::mesh::{Egress, MergedRule, Mesh, MeshService, Registry, Sidecar, destinationrule};
use imports::Imports;
use scoped::{trim_to, whole};

pub use crate::mesh::TrafficMode;
pub use call::{
    Address, CallProtocol, EnvoyCluster, Route, RouteKind, RouteStep, ScopeCall, Treatment,
};
pub use listener::ScopeListener;
pub use scoped::ScopedService;

/// The pod that calls. One pod represents its workload.
#[derive(Clone, Copy, Debug)]
pub struct Client<'a> {
    /// Namespace of the pod.
    pub namespace: &'a str,
    /// Labels of the pod.
    pub labels: &'a BTreeMap<String, String>,
    /// The pod's address, where it is known: a headless Service gets no listener for the client
    /// itself.
    pub address: Option<&'a str>,
}

/// The scope of a namespace under a list of egress listeners.
#[derive(Debug)]
pub struct Scope<'m> {
    /// The mesh that it selects from.
    pub mesh: &'m Mesh,
    /// Namespace of the client.
    pub namespace: &'m str,
    /// Applies to calls for which the proxy has no route.
    pub policy: TrafficMode,
    /// Egress listeners, in the Sidecar's order.
    pub listeners: Vec<ScopeListener<'m>>,
    /// The union over the listeners, one per host, with the destinations of imported
    /// VirtualServices.
    pub services: Vec<ScopedService<'m>>,
    by_host: HashMap<&'m str, u32>,
}

/// The egress listener with all hosts (`*/*`): that of a Sidecar without `egress`, and of a
/// namespace without a Sidecar.
pub fn everything() -> Egress {
    Egress { hosts: vec!["*/*".to_owned()], ..Egress::default() }
}

/// The egress listeners in effect: those of the Sidecar, else [`everything`].
pub fn listeners(sidecar: Option<&Sidecar>) -> Vec<Egress> {
    sidecar
        .map(|s| s.egress.clone())
        .filter(|e| !e.is_empty())
        .unwrap_or_else(|| vec![everything()])
}

/// The policy in effect under a Sidecar: its own, else the mesh's.
pub fn policy(mesh: &Mesh, sidecar: Option<&Sidecar>) -> TrafficMode {
    sidecar
        .and_then(|s| s.outbound_traffic_policy.as_ref())
        .map_or(mesh.config.outbound, TrafficMode::of)
}

impl<'m> Scope<'m> {
    /// Computes the scope. `egress` must not be empty: see [`everything`].
    pub fn new(
        mesh: &'m Mesh,
        namespace: &'m str,
        egress: &'m [Egress],
        policy: TrafficMode,
    ) -> Self {
        let listeners = egress
            .iter()
            .map(|e| {
                let imports = Imports::new(&e.hosts, namespace);
                let services = select::services(mesh, namespace, e, &imports);
                ScopeListener::new(e, services, select::virtual_services(mesh, namespace, &imports))
            })
            .collect();
        let mut scope = Self {
            mesh,
            namespace,
            policy,
            listeners,
            services: Vec::new(),
            by_host: HashMap::default(),
        };
        scope.collect();
        scope
    }

    /// The Service that this host has in scope.
    pub fn service(&self, host: &str) -> Option<&ScopedService<'m>> {
        self.by_host.get(host).map(|&i| &self.services[i as usize])
    }

    /// The DestinationRules that apply to a Service of the scope for this client, merged.
    pub fn rule(
        &self,
        service: &MeshService,
        labels: &BTreeMap<String, String>,
    ) -> Option<&'m MergedRule> {
        destinationrule::select(&self.mesh.rules(self.namespace, service), self.namespace, labels)
    }

    /// Collects the Services of all listeners, and the destinations of their VirtualServices
    /// (`collectImportedServices`).
    fn collect(&mut self) {
        let listeners = std::mem::take(&mut self.listeners);
        let expected = listeners.iter().map(|l| l.services.len()).sum();
        self.services.reserve(expected);
        self.by_host.reserve(expected);
        for listener in &listeners {
            for s in &listener.services {
                self.append(s.clone());
            }
            for v in &listener.virtual_services {
                for (host, ports) in v.destinations(self.namespace) {
                    let Some(service) = self.destination(host) else { continue };
                    let trimmed = match listener.match_port() {
                        Some(port) => trim_to(service, |p| p.number == port),
                        None if ports.contains(&None) => Some(whole(service)),
                        None => trim_to(service, |p| ports.contains(&Some(p.number))),
                    };
                    if let Some(scoped) = trimmed {
                        self.append(scoped);
                    }
                }
            }
        }
        self.listeners = listeners;
    }

    /// The Service that a VirtualService's destination stands for: the client's namespace's
    /// (visible or not), else a visible one of Kubernetes, else the oldest visible one
    /// (`pickBestVisibleNamespace`).
    fn destination(&self, host: &str) -> Option<&'m MeshService> {
        let all = || self.mesh.services_of(host);
        if let Some(own) = self.mesh.service_in(self.namespace, host) {
            return Some(own);
        }
        let visible = || all().filter(|s| s.visible_in(self.namespace));
        visible()
            .find(|s| s.registry == Registry::Kubernetes)
            .or_else(|| visible().min_by_key(|s| (s.created, s.order)))
    }

    /// `appendSidecarServices`: one Service per host; a Kubernetes Service before others; ports of
    /// one namespace's are merged.
    fn append(&mut self, new: ScopedService<'m>) {
        let host = new.service.host.as_str();
        let Some(&at) = self.by_host.get(host) else {
            self.by_host.insert(host, self.services.len() as u32);
            self.services.push(new);
            return;
        };
        let old = &mut self.services[at as usize];
        match (old.service.registry, new.service.registry) {
            (Registry::Kubernetes, Registry::External) => {}
            (Registry::External, Registry::Kubernetes) => *old = new,
            _ if old.ports == new.ports || !mergeable(old.service, new.service) => {}
            _ => {
                let present: Vec<u16> = old.ports.iter().map(|p| p.number).collect();
                let more = new.ports.iter().filter(|p| !present.contains(&p.number));
                old.ports = old.ports.iter().chain(more).cloned().collect::<Vec<_>>().into();
            }
        }
    }
}

/// `canMergeServices`.
fn mergeable(a: &MeshService, b: &MeshService) -> bool {
    a.namespace == b.namespace
        && a.resolution == b.resolution
        && a.labels == b.labels
        && a.selector == b.selector
        && a.declared_export == b.declared_export
}
