//! Endpoints of each Service, and the Service ports that each pod serves.
//!
//! Owns which addresses stand behind a Service. Must never decide which of them a client uses.

use std::collections::BTreeMap;
use std::sync::Arc;

use foldhash::{HashMap, HashMapExt, HashSet};

use super::service::{Registry, ServiceResolution, from_entry};
use super::{Mesh, MeshEndpoint, MeshPod, ServedPort};
use crate::objects::{
    EndpointSlice, PodObject, ServiceEntry, ServiceObject, named_ports, target_port,
};
use sidecarta_model::LabelIndex;

/// Adds the endpoints of EndpointSlices and ServiceEntries. The mesh's pods must be there already.
pub(super) fn add_endpoints(
    mesh: &mut Mesh,
    services: &[ServiceObject],
    slices: &[EndpointSlice],
    entries: &[ServiceEntry],
) {
    let by_name: HashMap<(&str, &str), &MeshPod> =
        mesh.pods.iter().map(|p| ((p.namespace.as_str(), p.name.as_str()), p)).collect();
    let by_address: HashMap<String, &MeshPod> = mesh
        .pods
        .iter()
        .flat_map(|p| p.addresses.iter().map(move |a| (a.to_string(), p)))
        .collect();
    let ready_anyway: HashSet<(&str, &str)> = services
        .iter()
        .filter(|s| s.spec.publish_not_ready_addresses)
        .map(|s| (s.metadata.namespace.as_str(), s.metadata.name.as_str()))
        .collect();
    let no_labels = Arc::new(BTreeMap::new());
    let mut all: HashMap<(String, String), Vec<MeshEndpoint>> = HashMap::new();
    for slice in slices {
        let meta = &slice.metadata;
        let Some(service) = meta.labels.get("kubernetes.io/service-name") else { continue };
        let anyway = ready_anyway.contains(&(meta.namespace.as_str(), service.as_str()));
        let into = all
            .entry((
                meta.namespace.clone(),
                format!("{service}.{}.svc.{}", meta.namespace, mesh.domain),
            ))
            .or_default();
        for e in slice.endpoints.iter().filter(|e| anyway || e.conditions.ready != Some(false)) {
            for a in &e.addresses {
                let named = e.target_ref.as_ref().filter(|t| t.kind == "Pod");
                let pod =
                    named.and_then(|t| by_name.get(&(meta.namespace.as_str(), t.name.as_str())));
                let labels = pod.or_else(|| by_address.get(a)).map_or(&no_labels, |p| &p.labels);
                for port in &slice.ports {
                    let new = MeshEndpoint {
                        address: a.clone(),
                        port_name: port.name.clone(),
                        port_number: None,
                        labels: Arc::clone(labels),
                    };
                    if !into.contains(&new) {
                        into.push(new);
                    }
                }
            }
        }
    }
    // Of pods that an entry selects, only ready ones count (`controller/pod.go`).
    let ready = mesh.pods.iter().filter(|p| p.ready);
    let ready = LabelIndex::new(ready.map(|p| (p.namespace.as_str(), &*p.labels, p)));
    for entry in entries {
        let spec = &entry.spec;
        // istiod makes a Service for each address. Each of them adds the same endpoints again.
        let addresses = from_entry(entry, mesh.config.dns_capture).len() / spec.hosts.len().max(1);
        for host in spec.hosts.iter().flat_map(|h| std::iter::repeat_n(h, addresses)) {
            let into = all.entry((entry.metadata.namespace.clone(), host.clone())).or_default();
            let mut add = |address: &str, labels: &Arc<BTreeMap<String, String>>| {
                for port in &spec.ports {
                    into.push(MeshEndpoint {
                        address: address.to_owned(),
                        port_name: port.name.clone(),
                        port_number: Some(port.number),
                        labels: Arc::clone(labels),
                    });
                }
            };
            let dns = matches!(spec.resolution.as_str(), "DNS" | "DNS_ROUND_ROBIN");
            if let Some(selector) = &spec.workload_selector {
                for p in ready.selected(&entry.metadata.namespace, Some(&selector.labels)) {
                    if let Some(a) = p.addresses.first() {
                        add(&a.to_string(), &p.labels);
                    }
                }
            } else if spec.endpoints.is_empty() && dns {
                add(host, &no_labels);
            } else {
                for e in &spec.endpoints {
                    add(&e.address, &Arc::new(e.labels.clone()));
                }
            }
        }
    }
    mesh.endpoints = all;
}

/// Adds the Service ports that each pod serves, the oldest Service first.
pub(super) fn add_served_ports(mesh: &mut Mesh, services: &[ServiceObject], pods: &[PodObject]) {
    let by_name: HashMap<(&str, &str), &ServiceObject> = services
        .iter()
        .map(|s| ((s.metadata.namespace.as_str(), s.metadata.name.as_str()), s))
        .collect();
    let labelled = LabelIndex::new(
        pods.iter().map(|p| (p.metadata.namespace.as_str(), &*p.metadata.labels, p)),
    );
    for (i, s) in mesh.services.iter().enumerate().filter(|(_, s)| !s.selector.is_empty()) {
        if s.resolution == ServiceResolution::Alias {
            continue;
        }
        for p in labelled.selected(&s.namespace, Some(&s.selector)) {
            let object = by_name.get(&(s.namespace.as_str(), s.object.as_str()));
            for port in &s.ports {
                let spec = object.filter(|_| s.registry == Registry::Kubernetes).and_then(|o| {
                    o.spec.ports.iter().find(|x| x.port == port.number && x.name == port.name)
                });
                let target = spec.map_or(Some(port.number), |x| target_port(x, named_ports(p)));
                let Some(target) = target else { continue };
                let key = (s.namespace.clone(), p.metadata.name.clone());
                mesh.targets.entry(key).or_default().push(ServedPort {
                    service: i as u32,
                    port: port.number,
                    target,
                });
            }
        }
    }
}
