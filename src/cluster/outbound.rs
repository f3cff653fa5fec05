//! Which hosts a proxy refuses, where its policy is REGISTRY_ONLY.
//!
//! Owns the question to the model of istiod whether a host is in the scope of a pod's proxy. Must
//! never answer from a part of the mesh: where no object asks for REGISTRY_ONLY, nothing is refused.

use std::sync::Arc;

use super::objects::{
    AnyObject, ConfigMap, Namespace, ServiceEntry, ServiceObject, SidecarObject,
    VirtualServiceObject,
};
use super::{Cluster, Pod};
use crate::mesh::{Mesh, MeshBuilder, TrafficMode};
use crate::model::DataPlane;
use crate::scope::{Scope, listeners, policy};

/// The objects that decide about outbound traffic.
#[derive(Debug, Default)]
pub(super) struct OutboundObjects<'o> {
    pub config_maps: &'o [ConfigMap],
    pub namespaces: &'o [Namespace],
    pub sidecars: &'o [Arc<SidecarObject>],
    pub services: Vec<&'o ServiceObject>,
    pub entries: &'o [Arc<ServiceEntry>],
    pub virtual_services: &'o [Arc<VirtualServiceObject>],
}

impl OutboundObjects<'_> {
    /// The mesh of these objects, where any proxy of it has the policy REGISTRY_ONLY.
    pub(super) fn mesh(&self, domain: &str) -> Option<Mesh> {
        let (policies, _) = self.policies(domain).build();
        let refuses = |sidecar| policy(&policies, sidecar) == TrafficMode::RegistryOnly;
        if !refuses(None) && !policies.sidecars().iter().any(|sidecar| refuses(Some(sidecar))) {
            return None;
        }
        let mut builder = self.policies(domain);
        for service in &self.services {
            builder.add(AnyObject::Service((*service).clone()));
        }
        for entry in self.entries {
            builder.add(AnyObject::ServiceEntry(ServiceEntry::clone(entry)));
        }
        for rule in self.virtual_services {
            builder.add(AnyObject::VirtualService(VirtualServiceObject::clone(rule)));
        }
        Some(builder.build().0)
    }

    /// A mesh without Services: most meshes have no REGISTRY_ONLY, and need no more.
    fn policies(&self, domain: &str) -> MeshBuilder {
        let mut builder = MeshBuilder::default().domain(domain);
        for map in self.config_maps {
            builder.add(AnyObject::ConfigMap(map.clone()));
        }
        for namespace in self.namespaces {
            builder.add(AnyObject::Namespace(namespace.clone()));
        }
        for sidecar in self.sidecars {
            builder.add(AnyObject::Sidecar(SidecarObject::clone(sidecar)));
        }
        builder
    }
}

impl Cluster {
    /// Whether any proxy has the policy REGISTRY_ONLY.
    pub fn has_registry_only(&self) -> bool {
        self.outbound.is_some()
    }

    /// Those of the hosts that the pod's proxy refuses, as the objects are now: its policy is
    /// REGISTRY_ONLY, and the host, which is a Service's or a ServiceEntry's, is not in its scope.
    pub fn refused_hosts<'h>(&self, pod: &Pod, hosts: &[&'h str]) -> Vec<&'h str> {
        let Some(mesh) = self.outbound.as_deref() else { return Vec::new() };
        let namespace = &pod.workload.namespace;
        let sidecar = mesh.applied(namespace, &pod.labels);
        if pod.data_plane != DataPlane::Sidecar
            || policy(mesh, sidecar) != TrafficMode::RegistryOnly
        {
            return Vec::new();
        }
        let egress = listeners(sidecar);
        let scope = Scope::new(mesh, namespace, &egress, TrafficMode::RegistryOnly);
        // A Service that istiod does not read is known to the cluster alone.
        let is_known = |host: &str| mesh.has_host(host) || self.service(host).is_some();
        let is_refused = |host: &&&str| is_known(host) && scope.service(host).is_none();
        hosts.iter().filter(is_refused).copied().collect()
    }
}
