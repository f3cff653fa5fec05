//! Which hosts a proxy refuses, where its policy is REGISTRY_ONLY.
//!
//! Owns the question to the model of istiod whether a host is in the scope of a pod's proxy. Must
//! never answer from a part of the mesh: where no object asks for REGISTRY_ONLY, nothing is
//! refused.

use std::sync::{Arc, OnceLock};

use super::objects::{
    AnyObject, ConfigMap, Namespace, ServiceEntry, ServiceObject, SidecarObject,
    VirtualServiceObject,
};
use super::{Cluster, Pod};
use crate::mesh::{Mesh, MeshBuilder, Sidecar, TrafficMode};
use crate::model::DataPlane;
use crate::scope::{Scope, listeners, policy};

/// The objects that decide about outbound traffic, and their mesh as soon as somebody asks.
#[derive(Debug, Default)]
pub(super) struct OutboundPolicies {
    pub config_maps: Vec<ConfigMap>,
    pub namespaces: Vec<Namespace>,
    pub sidecars: Vec<Arc<SidecarObject>>,
    pub services: Vec<Arc<ServiceObject>>,
    pub entries: Vec<Arc<ServiceEntry>>,
    pub virtual_services: Vec<Arc<VirtualServiceObject>>,
    /// Computed once: most clusters are never asked, and each change makes a new one.
    pub mesh: OnceLock<Option<Mesh>>,
}

impl OutboundPolicies {
    /// The mesh of the objects, where any proxy of it has the policy REGISTRY_ONLY.
    fn mesh(&self, domain: &str) -> Option<&Mesh> {
        self.mesh.get_or_init(|| self.build(domain)).as_ref()
    }

    fn build(&self, domain: &str) -> Option<Mesh> {
        let (policies, _) = self.policies(domain).build();
        let refuses = |sidecar| policy(&policies, sidecar) == TrafficMode::RegistryOnly;
        if !refuses(None) && !policies.sidecars().iter().any(|sidecar| refuses(Some(sidecar))) {
            return None;
        }
        let mut builder = self.policies(domain);
        for service in &self.services {
            builder.add(AnyObject::Service(ServiceObject::clone(service)));
        }
        for entry in &self.entries {
            builder.add(AnyObject::ServiceEntry(ServiceEntry::clone(entry)));
        }
        for rule in &self.virtual_services {
            builder.add(AnyObject::VirtualService(VirtualServiceObject::clone(rule)));
        }
        Some(builder.build().0)
    }

    /// A mesh without Services: most meshes have no REGISTRY_ONLY, and need no more.
    fn policies(&self, domain: &str) -> MeshBuilder {
        let mut builder = MeshBuilder::default().domain(domain);
        for map in &self.config_maps {
            builder.add(AnyObject::ConfigMap(map.clone()));
        }
        for namespace in &self.namespaces {
            builder.add(AnyObject::Namespace(namespace.clone()));
        }
        for sidecar in &self.sidecars {
            builder.add(AnyObject::Sidecar(SidecarObject::clone(sidecar)));
        }
        builder
    }
}

impl Cluster {
    /// Whether any proxy has the policy REGISTRY_ONLY.
    pub fn has_registry_only(&self) -> bool {
        self.outbound.mesh(&self.domain).is_some()
    }

    /// Those of the hosts that the proxy of any of these pods refuses, as the objects are now: its
    /// policy is REGISTRY_ONLY, and the host, which is a Service's or a ServiceEntry's, is not in
    /// its scope. The pods are of one namespace.
    pub fn refused_hosts<'h>(&self, pods: &[&Pod], hosts: &[&'h str]) -> Vec<&'h str> {
        let Some(mesh) = self.outbound.mesh(&self.domain) else { return Vec::new() };
        // Pods with the same Sidecar have the same scope.
        let proxied = pods.iter().filter(|pod| pod.data_plane == DataPlane::Sidecar);
        let mut applied: Vec<(&str, Option<&Sidecar>)> = proxied
            .map(|pod| (pod.workload.namespace.as_str(), pod))
            .map(|(namespace, pod)| (namespace, mesh.applied(namespace, &pod.labels)))
            .filter(|(_, sidecar)| policy(mesh, *sidecar) == TrafficMode::RegistryOnly)
            .collect();
        applied.sort_unstable_by_key(|(_, sidecar)| sidecar.map(std::ptr::from_ref));
        applied.dedup_by_key(|(_, sidecar)| sidecar.map(std::ptr::from_ref));
        let egress: Vec<_> = applied.iter().map(|(_, sidecar)| listeners(*sidecar)).collect();
        let scopes: Vec<Scope<'_>> = applied
            .iter()
            .zip(&egress)
            .map(|((namespace, _), e)| Scope::new(mesh, namespace, e, TrafficMode::RegistryOnly))
            .collect();
        // A Service that istiod does not read is known to the cluster alone.
        let is_known = |host: &str| mesh.has_host(host) || self.service(host).is_some();
        let is_refused =
            |host: &&&str| is_known(host) && scopes.iter().any(|s| s.service(host).is_none());
        hosts.iter().filter(is_refused).copied().collect()
    }
}
