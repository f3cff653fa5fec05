//! Builds the indexes from objects.
//!
//! Owns the order of the steps. The order in which objects are added must never matter.

mod pods;
mod services;

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Cluster;
use super::brief::{ControllerBrief, PodBrief};
use super::entries::{self, EntryWorkload};
use super::objects;
use super::outbound::OutboundPolicies;
use super::owners::Owners;
use super::pool::Pool;
use super::tenancy::{EndTime, hand_over_endpoints};
use crate::mesh::Discovery;

/// Default DNS domain of a cluster.
const DOMAIN: &str = "cluster.local";

/// Collects objects; [`ClusterBuilder::build`] makes the indexes. Objects that a live view adds to
/// each of its builders are shared, not copied.
#[derive(Debug, Default)]
pub struct ClusterBuilder {
    pool: Pool,
    owners: Owners,
    /// Each with the time of its deletion, if it was deleted.
    pods: Vec<(Arc<PodBrief>, Option<EndTime>)>,
    services: BTreeMap<(String, String), Arc<objects::ServiceObject>>,
    /// Each with the time at which it ceased to have these endpoints, if it did.
    slices: Vec<(Arc<objects::EndpointSlice>, Option<EndTime>)>,
    nodes: Vec<objects::Node>,
    entries: Vec<Arc<objects::ServiceEntry>>,
    workload_entries: Vec<EntryWorkload>,
    virtual_services: Vec<Arc<objects::VirtualServiceObject>>,
    sidecars: Vec<Arc<objects::SidecarObject>>,
    config_maps: Vec<objects::ConfigMap>,
    namespaces: Vec<objects::Namespace>,
    /// Hosts whose address proxies dial as it was called, each with the namespace of the
    /// DestinationRule.
    passed_through: Vec<(String, String)>,
    domain: Option<String>,
}

impl ClusterBuilder {
    /// Uses this DNS domain in place of `cluster.local`.
    #[must_use]
    pub fn domain(mut self, domain: &str) -> Self {
        self.domain = Some(domain.trim_matches('.').to_owned());
        self
    }

    #[cfg(test)]
    pub(crate) fn pod(&mut self, pod: &objects::PodObject) {
        self.pod_until(pod, None);
    }

    /// Adds a pod, with the time of its deletion if it was deleted.
    pub(crate) fn pod_until(&mut self, pod: &objects::PodObject, deleted: Option<EndTime>) {
        let brief = PodBrief::new(pod, &mut self.pool);
        self.brief(Arc::new(brief), deleted);
    }

    /// Adds a pod, with the time of its deletion if it was deleted: it had its addresses until then
    /// at the latest, and any other pod that has one of them got it afterwards.
    pub(crate) fn brief(&mut self, pod: Arc<PodBrief>, deleted: Option<EndTime>) {
        self.pods.push((pod, deleted));
    }

    pub(crate) fn service(&mut self, service: objects::ServiceObject) {
        let service = self.pool.service(service);
        self.shared_service(Arc::new(service));
    }

    pub(crate) fn shared_service(&mut self, service: Arc<objects::ServiceObject>) {
        self.services
            .insert((service.metadata.namespace.clone(), service.metadata.name.clone()), service);
    }

    pub(crate) fn slice(&mut self, slice: objects::EndpointSlice) {
        self.slice_until(slice, None);
    }

    /// Adds endpoints, with the time at which they ceased to be endpoints if they did.
    pub(crate) fn slice_until(&mut self, slice: objects::EndpointSlice, until: Option<EndTime>) {
        let slice = self.pool.slice(slice);
        self.shared_slice(Arc::new(slice), until);
    }

    /// The same as [`slice_until`](Self::slice_until), for a shared slice.
    pub(crate) fn shared_slice(
        &mut self,
        slice: Arc<objects::EndpointSlice>,
        until: Option<EndTime>,
    ) {
        self.slices.push((slice, until));
    }

    pub(crate) fn node(&mut self, node: objects::Node) {
        self.nodes.push(node);
    }

    /// Adds a ConfigMap. Only that of a MeshConfig matters: it says which namespaces istiod looks
    /// at.
    pub(crate) fn config_map(&mut self, map: objects::ConfigMap) {
        if map.is_mesh_config() {
            self.config_maps.push(map);
        }
    }

    pub(crate) fn namespace(&mut self, namespace: objects::Namespace) {
        self.namespaces.push(namespace);
    }

    pub(crate) fn entry(&mut self, entry: impl Into<Arc<objects::ServiceEntry>>) {
        self.entries.push(entry.into());
    }

    pub(crate) fn workload_entry(&mut self, entry: objects::WorkloadEntryObject) {
        self.workload_entries.extend(EntryWorkload::of(entry));
    }

    /// Adds a DestinationRule. It may make proxies dial the very address that was called.
    pub(crate) fn destination_rule(&mut self, rule: &objects::DestinationRule) {
        if let Some(host) = rule.passed_through() {
            self.passed_through.push((host.to_owned(), rule.metadata.namespace.clone()));
        }
    }

    /// Adds a VirtualService. A lookup of one of its hosts concerns the mesh, whether the host is a
    /// Service's or not.
    pub(crate) fn virtual_service(&mut self, rule: impl Into<Arc<objects::VirtualServiceObject>>) {
        self.virtual_services.push(rule.into());
    }

    /// Adds a Sidecar. It decides which hosts a proxy refuses.
    pub(crate) fn sidecar(&mut self, sidecar: impl Into<Arc<objects::SidecarObject>>) {
        self.sidecars.push(sidecar.into());
    }

    pub(crate) fn controller(&mut self, kind: &str, controller: objects::Controller) {
        let brief = ControllerBrief::new(controller, &mut self.pool);
        self.shared_controller(kind, Arc::new(brief));
    }

    pub(crate) fn shared_controller(&mut self, kind: &str, controller: Arc<ControllerBrief>) {
        self.owners.add(self.pool.word(kind), controller);
    }

    /// The indexes, and the contradictions in the objects as sentences.
    pub fn build(mut self) -> (Cluster, Vec<String>) {
        let mut problems = Vec::new();
        let domain = self.domain.take().or_else(|| self.domain_of_proxies());
        let mut cluster = Cluster {
            domain: domain.unwrap_or_else(|| DOMAIN.to_owned()),
            discovery: Discovery::of_objects(&self.config_maps, &self.namespaces),
            ..Cluster::default()
        };
        for rule in &self.virtual_services {
            for host in rule.hosts() {
                cluster.routed.add(host, &rule.metadata.namespace, &cluster.domain);
            }
        }
        for (host, namespace) in self.passed_through.drain(..) {
            cluster.passed_through.add(&host, &namespace, &cluster.domain);
        }
        self.pods.sort_by(|(a, _), (b, _)| sort_key(a).cmp(&sort_key(b)));
        let derives_endpoints = !self.services.is_empty() && self.slices.is_empty();
        self.nodes_into(&mut cluster, &mut problems);
        let by_name = self.services_into(&mut cluster, &mut problems);
        self.slices_into(&mut cluster, &by_name, &mut problems);
        // What is in the indexes is dropped as soon as possible: both at once would need twice the
        // memory, and the process would never give it back.
        self.slices.clear();
        if derives_endpoints {
            self.endpoints_from_selectors(&mut cluster);
            if !cluster.endpoints.is_empty() {
                problems.push(
                    "no EndpointSlice is given: endpoints were derived from the Services' \
                     selectors, which cannot tell what was ready at the time; add `kubectl get \
                     endpointslices -A -o yaml`"
                        .to_owned(),
                );
            }
        }
        self.workload_entries_into(&mut cluster);
        self.pods_into(&mut cluster, &mut problems);
        let services: Vec<&objects::ServiceObject> = self.services.values().map(|s| &**s).collect();
        hand_over_endpoints(&mut cluster, &services);
        entries::fill(&mut cluster, &self.entries, &self.workload_entries, &mut problems);
        Self::ambient_ports_into(&mut cluster);
        cluster.outbound = OutboundPolicies {
            config_maps: self.config_maps,
            namespaces: self.namespaces,
            sidecars: self.sidecars,
            services: self.services.into_values().collect(),
            entries: self.entries,
            virtual_services: self.virtual_services,
            ..OutboundPolicies::default()
        };
        (cluster, problems)
    }

    /// The DNS domain with which most proxies, or istiod, are started.
    fn domain_of_proxies(&self) -> Option<String> {
        let mut count: BTreeMap<&str, usize> = BTreeMap::new();
        for domain in self.pods.iter().filter_map(|(p, _)| p.domain.as_deref()) {
            *count.entry(domain).or_default() += 1;
        }
        count.into_iter().max_by_key(|(_, n)| *n).map(|(domain, _)| domain.to_owned())
    }
}

fn sort_key(pod: &PodBrief) -> (&str, &str) {
    (&pod.namespace, &pod.name)
}
