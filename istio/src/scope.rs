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
mod imported;
mod imports;
pub mod inbound;
mod l4;
mod listener;
pub mod report;
mod route;
mod scoped;
mod select;

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;

use crate::mesh::{Egress, MergedRule, Mesh, MeshService, Sidecar, destinationrule};
use imports::Imports;

pub use crate::mesh::TrafficMode;
pub use call::{
    Address, CallProtocol, EnvoyCluster, Route, RouteKind, RouteStep, ScopeCall, Treatment,
};
pub use imported::ImportedScope;
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
    imported: Arc<ImportedScope<'m>>,
}

impl<'m> Deref for Scope<'m> {
    type Target = ImportedScope<'m>;

    fn deref(&self) -> &ImportedScope<'m> {
        &self.imported
    }
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
        let imported = Arc::new(ImportedScope::new(mesh, namespace, listeners));
        Self { mesh, namespace, policy, imported }
    }

    /// The scope of the same egress listeners for a client in another namespace, or under another
    /// policy, without computing it anew. `None` where istiod could select something else there.
    pub fn for_namespace(&self, namespace: &'m str, policy: TrafficMode) -> Option<Self> {
        let is_same = self.namespace == namespace
            || !self.mesh.has_own_view(self.namespace)
                && !self.mesh.has_own_view(namespace)
                && !self.listeners.iter().any(|l| l.egress.depends_on_client());
        let imported = || Arc::clone(&self.imported);
        is_same.then(|| Self { mesh: self.mesh, namespace, policy, imported: imported() })
    }

    /// The DestinationRules that apply to a Service of the scope for this client, merged.
    pub fn rule(
        &self,
        service: &MeshService,
        labels: &BTreeMap<String, String>,
    ) -> Option<&'m MergedRule> {
        destinationrule::select(&self.mesh.rules(self.namespace, service), self.namespace, labels)
    }
}
