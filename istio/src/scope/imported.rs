//! What the egress listeners of a scope import, all together.
//!
//! Owns the union of the listeners' Services, with the destinations of their VirtualServices. Must
//! never depend on labels of the client: scopes of several namespaces can share it.

use foldhash::HashMap;

use super::listener::ScopeListener;
use super::scoped::{ScopedService, trim_to, whole};
use crate::mesh::{Mesh, MeshService, Registry};

/// What the egress listeners of a scope import.
#[derive(Debug)]
pub struct ImportedScope<'m> {
    /// Egress listeners, in the Sidecar's order.
    pub listeners: Vec<ScopeListener<'m>>,
    /// The union over the listeners, one per host, with the destinations of imported
    /// VirtualServices.
    pub services: Vec<ScopedService<'m>>,
    by_host: HashMap<&'m str, u32>,
}

impl<'m> ImportedScope<'m> {
    /// Collects the Services of all listeners, and the destinations of their VirtualServices
    /// (`collectImportedServices`).
    pub(super) fn new(mesh: &'m Mesh, namespace: &str, listeners: Vec<ScopeListener<'m>>) -> Self {
        let expected = listeners.iter().map(|l| l.services.len()).sum();
        let mut all =
            Self { listeners: Vec::new(), services: Vec::new(), by_host: HashMap::default() };
        all.services.reserve(expected);
        all.by_host.reserve(expected);
        for listener in &listeners {
            for s in &listener.services {
                all.append(s.clone());
            }
            for v in &listener.virtual_services {
                for (host, ports) in v.destinations(namespace) {
                    let Some(service) = destination(mesh, namespace, host) else { continue };
                    let trimmed = match listener.match_port() {
                        Some(port) => trim_to(service, |p| p.number == port),
                        None if ports.contains(&None) => Some(whole(service)),
                        None => trim_to(service, |p| ports.contains(&Some(p.number))),
                    };
                    if let Some(scoped) = trimmed {
                        all.append(scoped);
                    }
                }
            }
        }
        all.listeners = listeners;
        all
    }

    /// The Service that this host has in scope.
    pub fn service(&self, host: &str) -> Option<&ScopedService<'m>> {
        self.by_host.get(host).map(|&i| &self.services[i as usize])
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

/// The Service that a VirtualService's destination stands for: the client's namespace's (visible
/// or not), else a visible one of Kubernetes, else the oldest visible one
/// (`pickBestVisibleNamespace`).
fn destination<'m>(mesh: &'m Mesh, namespace: &str, host: &str) -> Option<&'m MeshService> {
    let all = || mesh.services_of(host);
    if let Some(own) = mesh.service_in(namespace, host) {
        return Some(own);
    }
    let visible = || all().filter(|s| s.visible_in(namespace));
    visible()
        .find(|s| s.registry == Registry::Kubernetes)
        .or_else(|| visible().min_by_key(|s| (s.created, s.order)))
}

/// `canMergeServices`.
fn mergeable(a: &MeshService, b: &MeshService) -> bool {
    a.namespace == b.namespace
        && a.resolution == b.resolution
        && a.labels == b.labels
        && a.selector == b.selector
        && a.declared_export == b.declared_export
}
