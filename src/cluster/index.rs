//! Builds the indexes from objects, whatever order they come in.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use foldhash::HashMap;
use ipnet::IpNet;

use super::objects::{self, Meta, address, addresses, target_port};
use super::owners::{Owners, data_plane};
use super::{CaptureScope, Cluster, EntryHost, Pod, Service};
use crate::model::{Time, selects};

/// Default DNS domain of a cluster.
const DOMAIN: &str = "cluster.local";

/// Collects objects; [`Builder::build`] makes the indexes.
#[derive(Debug, Default)]
pub struct Builder {
    owners: Owners,
    pods: Vec<objects::Pod>,
    services: BTreeMap<(String, String), objects::Service>,
    slices: Vec<objects::EndpointSlice>,
    nodes: Vec<objects::Node>,
    entries: Vec<objects::ServiceEntry>,
    domain: Option<String>,
}

impl Builder {
    /// Uses this DNS domain in place of `cluster.local`.
    #[must_use]
    pub fn domain(mut self, domain: &str) -> Self {
        self.domain = Some(domain.trim_matches('.').to_owned());
        self
    }

    pub(crate) fn pod(&mut self, pod: objects::Pod) {
        self.pods.push(pod);
    }

    pub(crate) fn service(&mut self, service: objects::Service) {
        self.services.insert((service.metadata.namespace.clone(), service.metadata.name.clone()), service);
    }

    pub(crate) fn slice(&mut self, slice: objects::EndpointSlice) {
        self.slices.push(slice);
    }

    pub(crate) fn node(&mut self, node: objects::Node) {
        self.nodes.push(node);
    }

    pub(crate) fn entry(&mut self, entry: objects::ServiceEntry) {
        self.entries.push(entry);
    }

    pub(crate) fn controller(&mut self, kind: &str, controller: objects::Controller) {
        self.owners.add(kind, controller);
    }

    /// The indexes, and what in the objects contradicts itself, in words.
    pub fn build(mut self) -> (Cluster, Vec<String>) {
        let mut problems = Vec::new();
        let mut cluster = Cluster { domain: self.domain.take().unwrap_or_else(|| DOMAIN.to_owned()), ..Cluster::default() };
        self.pods.sort_by(|a, b| key(&a.metadata).cmp(&key(&b.metadata)));
        let derived = !self.services.is_empty() && self.slices.is_empty();
        self.nodes_into(&mut cluster);
        let by_name = self.services_into(&mut cluster);
        self.slices_into(&mut cluster, &by_name, &mut problems);
        if derived {
            self.endpoints_from_selectors(&mut cluster);
            if !cluster.endpoints.is_empty() {
                problems.push(
                    "no EndpointSlice is given: endpoints were derived from the Services' selectors, which cannot tell \
                     what was ready at the time; add `kubectl get endpointslices -A -o yaml`"
                        .to_owned(),
                );
            }
        }
        self.pods_into(&mut cluster, &mut problems);
        self.entries_into(&mut cluster);
        (cluster, problems)
    }

    fn nodes_into(&self, cluster: &mut Cluster) {
        for node in &self.nodes {
            cluster.nodes.extend(node.status.addresses.iter().filter_map(|a| address(&a.address)));
            for range in node.spec.pod_cidrs.iter().chain(std::iter::once(&node.spec.pod_cidr)) {
                if let Ok(range) = range.parse::<IpNet>() {
                    if !cluster.pod_ranges.contains(&range) {
                        cluster.pod_ranges.push(range);
                    }
                    // By convention of the bridge and point-to-point plugins the first address is the node's own:
                    // probes come from it.
                    cluster.nodes.extend(range.hosts().next());
                }
            }
        }
        cluster.nodes.extend(self.pods.iter().filter_map(|p| address(&p.status.host_ip)));
    }

    fn services_into(&self, cluster: &mut Cluster) -> HashMap<(String, String), u32> {
        let mut by_name = HashMap::default();
        let mut own = Vec::new();
        for ((namespace, name), object) in &self.services {
            let index = cluster.services.len() as u32;
            let spec = &object.spec;
            let host = format!("{name}.{namespace}.svc.{}", cluster.domain);
            let labels = &object.metadata.labels;
            let control_plane = name == "istiod"
                || name.starts_with("istiod-")
                || labels.get("istio").is_some_and(|v| v == "pilot")
                || labels.get("app").is_some_and(|v| v == "istiod");
            let external_name = (spec.kind == "ExternalName")
                .then(|| spec.external_name.trim_end_matches('.').to_ascii_lowercase())
                .filter(|n| !n.is_empty());
            for port in &spec.ports {
                if let Some(node_port) = port.node_port.filter(|p| *p != 0) {
                    cluster.node_ports.insert((node_port, port.protocol.0), (index, port.port));
                }
            }
            let cluster_ips = spec.cluster_ips.iter().chain(std::iter::once(&spec.cluster_ip)).filter_map(|a| address(a));
            let cluster_ips: BTreeSet<IpAddr> = cluster_ips.collect();
            own.extend(cluster_ips.iter().copied());
            let public = spec.external_ips.iter().chain(object.status.load_balancer.ingress.iter().map(|i| &i.ip));
            for a in cluster_ips.into_iter().chain(public.filter_map(|a| address(a))) {
                let at = cluster.services_by_address.entry(a).or_default();
                if !at.contains(&index) {
                    at.push(index);
                }
            }
            cluster.services_by_host.insert(host.clone(), index);
            by_name.insert((namespace.clone(), name.clone()), index);
            cluster.services.push(Service {
                namespace: namespace.clone(),
                name: name.clone(),
                host,
                ports: spec.ports.iter().map(|p| (p.port, p.protocol.0)).collect(),
                control_plane,
                external_name,
            });
        }
        cluster.service_ranges = covering(&own);
        by_name
    }

    fn slices_into(&self, cluster: &mut Cluster, by_name: &HashMap<(String, String), u32>, problems: &mut Vec<String>) {
        for slice in &self.slices {
            let meta = &slice.metadata;
            let Some(service) = meta.labels.get("kubernetes.io/service-name") else { continue };
            let Some(&index) = by_name.get(&(meta.namespace.clone(), service.clone())) else {
                problems.push(format!(
                    "EndpointSlice {}/{} belongs to the Service {service}, which is not in the snapshot: its endpoints are \
                     taken for plain pods; add the Service",
                    meta.namespace, meta.name
                ));
                continue;
            };
            let spec = &self.services[&(meta.namespace.clone(), service.clone())].spec;
            for port in &slice.ports {
                let Some(number) = port.port else { continue };
                // Slice and Service agree by the port's name; a single unnamed port has the empty name in both.
                let ports = spec.ports.iter().filter(|p| p.name == port.name && p.protocol.0 == port.protocol.0);
                for service_port in ports {
                    for a in slice.endpoints.iter().flat_map(|e| &e.addresses).filter_map(|a| address(a)) {
                        cluster.endpoints.entry((a, number, port.protocol.0)).or_default().insert((index, service_port.port));
                    }
                }
            }
        }
    }

    fn endpoints_from_selectors(&self, cluster: &mut Cluster) {
        for (i, service) in self.services.values().enumerate().filter(|(_, s)| !s.spec.selector.is_empty()) {
            let selector = &service.spec.selector;
            let chosen =
                |p: &&objects::Pod| p.metadata.namespace == service.metadata.namespace && selects(selector, &p.metadata.labels);
            for pod in self.pods.iter().filter(chosen) {
                for port in &service.spec.ports {
                    let Some(number) = target_port(port, pod) else { continue };
                    for a in addresses(pod) {
                        cluster.endpoints.entry((a, number, port.protocol.0)).or_default().insert((i as u32, port.port));
                    }
                }
            }
        }
    }

    fn pods_into(&self, cluster: &mut Cluster, problems: &mut Vec<String>) {
        for pod in &self.pods {
            let (workload, selector) = self.owners.workload(&pod.metadata);
            let (start, end) = interval(pod);
            let index = cluster.pods.len() as u32;
            let addresses = addresses(pod);
            if !pod.spec.host_network {
                for &a in &addresses {
                    let holders = cluster.pods_by_address.entry(a).or_default();
                    for &other in holders.iter() {
                        let other = &cluster.pods[other as usize];
                        if other.start < end && start < other.end {
                            problems.push(format!(
                                "the pods {}/{} and {}/{} both claim the address {a}: connections of it are not attributed \
                                 while both do",
                                other.workload.namespace, other.name, workload.namespace, pod.metadata.name
                            ));
                        }
                    }
                    holders.push(index);
                }
            }
            cluster.pods.push(Pod {
                name: pod.metadata.name.clone(),
                workload,
                labels: pod.metadata.labels.clone(),
                selector,
                data_plane: if pod.spec.host_network { crate::model::DataPlane::HostNetwork } else { data_plane(pod) },
                start,
                end,
                addresses,
                capture: capture_scope(&pod.metadata),
                node: pod.spec.node_name.clone(),
            });
        }
        // Where no Node tells its range, pods lie where other pods lie: the same /24, or /64 in IPv6.
        let known: BTreeSet<IpNet> = cluster
            .pods_by_address
            .keys()
            .filter(|a| !cluster.pod_ranges.iter().any(|n| n.contains(*a)))
            .filter_map(|a| IpNet::new(*a, if a.is_ipv4() { 24 } else { 64 }).ok())
            .map(|n| n.trunc())
            .collect();
        cluster.pod_ranges.extend(known);
    }

    fn entries_into(&self, cluster: &mut Cluster) {
        for entry in &self.entries {
            for host in &entry.spec.hosts {
                let host = EntryHost {
                    host: host.to_ascii_lowercase(),
                    namespace: entry.metadata.namespace.clone(),
                    name: entry.metadata.name.clone(),
                };
                let listed = entry.spec.addresses.iter().chain(entry.status.addresses.iter().map(|a| &a.value));
                for text in listed {
                    if let Some(a) = address(text) {
                        cluster.entries_by_address.entry(a).or_default().insert(host.clone());
                    } else if let Ok(range) = text.parse::<IpNet>() {
                        cluster.entry_ranges.push((range, host.clone()));
                    }
                }
                for a in entry.spec.endpoints.iter().filter_map(|e| address(&e.address)) {
                    cluster.entry_endpoints.entry(a).or_default().insert(host.clone());
                }
                cluster.entries.entry(host.host.clone()).or_default().insert(host);
            }
        }
        cluster.entry_ranges.sort();
    }
}

fn key(meta: &Meta) -> (&str, &str) {
    (&meta.namespace, &meta.name)
}

/// When a pod held its addresses: from its start to its deletion, or, for one that ended, to the end of its last container.
fn interval(pod: &objects::Pod) -> (Time, Time) {
    let start = pod.status.start_time.or(pod.metadata.creation_timestamp).unwrap_or(Time::MIN);
    let terminal = matches!(pod.status.phase.as_str(), "Succeeded" | "Failed");
    let finished = pod.status.container_statuses.iter().filter_map(|s| s.state.terminated.as_ref()?.finished_at).max();
    let end = match (terminal, finished, pod.metadata.deletion_timestamp) {
        (true, Some(finished), _) => finished,
        // deletionTimestamp is when the grace period ends at the latest.
        (_, _, Some(deleted)) => deleted,
        // It has ended, nobody says when: what it sent before is still its own, as long as nobody else has the address.
        _ => Time::MAX,
    };
    // API times have whole seconds: the last second belongs to the pod.
    let end = if end == Time::MAX { end } else { Time(end.0.saturating_add(1_000_000_000)) };
    (start, end.max(start))
}

/// The smallest range per family that holds all given addresses: where other Services' addresses are to be expected. At least
/// a /24 (IPv6 /112), at most a /12 (/96), the usual widths of `--service-cluster-ip-range`.
fn covering(addresses: &[IpAddr]) -> Vec<IpNet> {
    let mut out = Vec::new();
    for (v4, widest, narrowest) in [(true, 12, 24), (false, 96, 112)] {
        let of_family: Vec<IpAddr> = addresses.iter().copied().filter(|a| a.is_ipv4() == v4).collect();
        let Some(&first) = of_family.first() else { continue };
        let range = (widest..=narrowest)
            .rev()
            .filter_map(|len| IpNet::new(first, len).ok())
            .find(|net| of_family.iter().all(|a| net.contains(a)));
        match range {
            Some(net) => out.push(net.trunc()),
            None => out.extend(of_family.iter().filter_map(|a| Some(IpNet::new(*a, narrowest).ok()?.trunc()))),
        }
    }
    out.sort();
    out.dedup();
    out
}

/// Annotations of `istio-iptables` (`traffic.sidecar.istio.io/…`): what the proxy does not see is no matter of its Sidecar.
fn capture_scope(meta: &Meta) -> CaptureScope {
    let get = |name: &str| meta.annotations.get(&format!("traffic.sidecar.istio.io/{name}")).map(String::as_str);
    let ranges = |text: &str| -> Vec<IpNet> { text.split(',').filter_map(|r| r.trim().parse().ok()).collect() };
    let ports = |text: &str| -> BTreeSet<u16> { text.split(',').filter_map(|p| p.trim().parse().ok()).collect() };
    CaptureScope {
        include_ranges: get("includeOutboundIPRanges").filter(|t| t.trim() != "*").map(ranges),
        exclude_ranges: get("excludeOutboundIPRanges").map(ranges).unwrap_or_default(),
        exclude_ports: get("excludeOutboundPorts").map(ports).unwrap_or_default(),
        include_ports: get("includeOutboundPorts").map(ports).unwrap_or_default(),
    }
}
