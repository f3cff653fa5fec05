//! All Services of the mesh in istiod's order, with their indexes (`initServiceRegistry` in
//! `model/push_context.go`).
//!
//! Owns the order, the index by host, and which of several Services of one host and namespace
//! istiod uses. Must never decide who imports a Service.

use foldhash::{HashMap, HashMapExt, HashSet};

use super::service::{Registry, ServiceResolution, from_entry, from_kube};
use super::{IndexedService, Mesh, MeshService};
use crate::objects::{ServiceEntry, ServiceObject};

/// Adds all Services to the mesh, in istiod's order.
pub(super) fn add_services(mesh: &mut Mesh, services: &[ServiceObject], entries: &[ServiceEntry]) {
    let of_entries = entries.iter().flat_map(|e| from_entry(e, mesh.config.dns_capture));
    let mut all: Vec<MeshService> =
        services.iter().map(|s| from_kube(s, &mesh.domain)).chain(of_entries).collect();
    all.sort_by(|a, b| {
        a.created
            .cmp(&b.created)
            .then_with(|| (a.sort_name(), &a.namespace).cmp(&(b.sort_name(), &b.namespace)))
            .then_with(|| {
                (a.registry, &a.object, &a.address).cmp(&(b.registry, &b.object, &b.address))
            })
    });
    let aliases = aliases(&all);
    for (i, s) in all.iter_mut().enumerate() {
        s.order = i as u32;
        s.export = if s.declared_export.is_empty() {
            mesh.config.service_export.clone()
        } else {
            s.declared_export.clone()
        };
        if let Some(aliases) = aliases.get(&s.host) {
            s.aliases.clone_from(aliases);
        }
    }
    for (i, s) in all.iter().enumerate() {
        mesh.by_namespace.entry(s.namespace.clone()).or_default().push(i as u32);
        let new = IndexedService { service: i as u32, uncertain: false };
        let by_namespace = mesh.by_host.entry(s.host.clone()).or_default();
        let Some(old) = by_namespace.get_mut(&s.namespace) else {
            by_namespace.insert(s.namespace.clone(), new);
            continue;
        };
        let current = &all[old.service as usize];
        if current.registry == Registry::External && s.registry == Registry::Kubernetes {
            *old = new;
        } else if current.registry == s.registry
            && current.created == s.created
            && current.sort_name() == s.sort_name()
        {
            old.uncertain = true;
        }
    }
    for s in &mut all {
        s.contested = mesh.by_host.get(&s.host).is_some_and(|by_namespace| by_namespace.len() > 1);
    }
    mesh.services = all;
}

/// ExternalName Services by the host at the end of their chain (`resolveServiceAliases`). Services
/// of a circular chain are left out.
fn aliases(services: &[MeshService]) -> HashMap<String, Vec<(String, String)>> {
    let alias = |s: &&MeshService| s.resolution == ServiceResolution::Alias;
    let to: HashMap<&str, &str> = services
        .iter()
        .filter(alias)
        .filter_map(|s| Some((s.host.as_str(), s.external_name.as_deref()?)))
        .collect();
    let mut out: HashMap<String, Vec<(String, String)>> = HashMap::new();
    for s in services.iter().filter(alias) {
        let mut seen: HashSet<&str> = HashSet::default();
        seen.insert(&s.host);
        let mut at = s.external_name.as_deref().unwrap_or_default();
        let concrete = loop {
            if !seen.insert(at) {
                break None;
            }
            match to.get(at) {
                Some(next) => at = next,
                None => break Some(at),
            }
        };
        if let Some(concrete) = concrete {
            out.entry(concrete.to_owned()).or_default().push((s.namespace.clone(), s.host.clone()));
        }
    }
    out.values_mut().for_each(|v| v.sort());
    out
}
