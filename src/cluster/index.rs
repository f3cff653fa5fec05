//! Builds the indexes from objects, whatever order they come in.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use foldhash::{HashMap, HashSet};
use ipnet::IpNet;

use super::brief::{ControllerBrief, Interval, PodBrief};
use super::entries::{self, Workload};
use super::objects::{self, target_port};
use super::owners::Owners;
use super::pool::Pool;
use super::turns::{End, Ended, Turn, hand_over, hand_over_endpoints};
use super::unreadable::Unreadable;
use super::{Backing, Cluster, Pod, Service};
use crate::mesh::Discovery;
use crate::model::{DataPlane, Labels, Protocol, Time, WorkloadId, selects};

/// Default DNS domain of a cluster.
const DOMAIN: &str = "cluster.local";

/// Collects objects; [`Builder::build`] makes the indexes. What a live view passes again and again
/// is shared, not copied.
#[derive(Debug, Default)]
pub struct Builder {
    pool: Pool,
    owners: Owners,
    /// With when it was deleted, where it is no more.
    pods: Vec<(Arc<PodBrief>, Option<Ended>)>,
    services: BTreeMap<(String, String), Arc<objects::ServiceObject>>,
    /// With until when it was as it is, where it is no more.
    slices: Vec<(Arc<objects::EndpointSlice>, Option<Ended>)>,
    nodes: Vec<objects::Node>,
    entries: Vec<Arc<objects::ServiceEntry>>,
    workload_entries: Vec<Workload>,
    /// Hosts of VirtualServices, each with the namespace that it is spelled in.
    routed: Vec<(String, String)>,
    config_maps: Vec<objects::ConfigMap>,
    namespaces: Vec<objects::Namespace>,
    /// Hosts that proxies dial as they were called, each with the namespace that it is spelled in.
    passed: Vec<(String, String)>,
    domain: Option<String>,
}

impl Builder {
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

    /// A pod; with an end where it is known to be gone since.
    pub(crate) fn pod_until(&mut self, pod: &objects::PodObject, gone: Option<Ended>) {
        let brief = PodBrief::new(pod, &mut self.pool);
        self.brief(Arc::new(brief), gone);
    }

    /// A pod; with an end where it is known to be deleted: it held its addresses until then at the
    /// latest, and whoever else has one of them now got it afterwards.
    pub(crate) fn brief(&mut self, pod: Arc<PodBrief>, deleted: Option<Ended>) {
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

    /// Endpoints; with an end where they are known to have ceased.
    pub(crate) fn slice_until(&mut self, slice: objects::EndpointSlice, until: Option<Ended>) {
        let slice = self.pool.slice(slice);
        self.shared_slice(Arc::new(slice), until);
    }

    /// Endpoints; with an end where a slice had them until then.
    pub(crate) fn shared_slice(
        &mut self,
        slice: Arc<objects::EndpointSlice>,
        until: Option<Ended>,
    ) {
        self.slices.push((slice, until));
    }

    pub(crate) fn node(&mut self, node: objects::Node) {
        self.nodes.push(node);
    }

    /// Only a MeshConfig's matters: it says which namespaces istiod looks at.
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
        self.workload_entries.extend(Workload::of(entry));
    }

    /// A DestinationRule may let a proxy dial the very address that was called.
    pub(crate) fn destination_rule(&mut self, rule: &objects::DestinationRule) {
        if let Some(host) = rule.passed_through() {
            self.passed.push((host.to_owned(), rule.metadata.namespace.clone()));
        }
    }

    /// Hosts that a VirtualService routes: a look-up of one is a look-up of the mesh, whether it is
    /// a Service's or not.
    pub(crate) fn virtual_service(&mut self, rule: &objects::VirtualServiceObject) {
        self.routed(&rule.metadata.namespace, rule.hosts());
    }

    /// The same of its hosts alone.
    pub(crate) fn routed(&mut self, namespace: &str, hosts: &[String]) {
        self.routed.extend(hosts.iter().map(|h| (h.clone(), namespace.to_owned())));
    }

    pub(crate) fn controller(&mut self, kind: &str, controller: objects::Controller) {
        let brief = ControllerBrief::new(controller, &mut self.pool);
        self.shared_controller(kind, Arc::new(brief));
    }

    pub(crate) fn shared_controller(&mut self, kind: &str, controller: Arc<ControllerBrief>) {
        self.owners.add(self.pool.word(kind), controller);
    }

    /// The indexes, and what in the objects contradicts itself, in words.
    pub fn build(mut self) -> (Cluster, Vec<String>) {
        let mut problems = Vec::new();
        let domain = self.domain.take().or_else(|| self.domain_of_proxies());
        let mut cluster = Cluster {
            domain: domain.unwrap_or_else(|| DOMAIN.to_owned()),
            discovery: Discovery::of_objects(&self.config_maps, &self.namespaces),
            ..Cluster::default()
        };
        for (host, namespace) in self.routed.drain(..) {
            cluster.routed.add(&host, &namespace, &cluster.domain);
        }
        for (host, namespace) in self.passed.drain(..) {
            cluster.passed.add(&host, &namespace, &cluster.domain);
        }
        self.pods.sort_by(|(a, _), (b, _)| key(a).cmp(&key(b)));
        let derived = !self.services.is_empty() && self.slices.is_empty();
        self.nodes_into(&mut cluster, &mut problems);
        let by_name = self.services_into(&mut cluster, &mut problems);
        self.slices_into(&mut cluster, &by_name, &mut problems);
        // What is in the indexes goes as soon as it can: both at once would be twice the memory,
        // which stays with the process.
        self.slices.clear();
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
        self.workload_entries_into(&mut cluster);
        self.pods_into(&mut cluster, &mut problems);
        let services: Vec<&objects::ServiceObject> = self.services.values().map(|s| &**s).collect();
        hand_over_endpoints(&mut cluster, &services);
        entries::fill(&mut cluster, &self.entries, &self.workload_entries, &mut problems);
        ambient_ports(&mut cluster);
        (cluster, problems)
    }

    /// The DNS domain that most of the pods' proxies, or istiod, are started with.
    fn domain_of_proxies(&self) -> Option<String> {
        let mut count: BTreeMap<&str, usize> = BTreeMap::new();
        for domain in self.pods.iter().filter_map(|(p, _)| p.domain.as_deref()) {
            *count.entry(domain).or_default() += 1;
        }
        count.into_iter().max_by_key(|(_, n)| *n).map(|(domain, _)| domain.to_owned())
    }

    /// Services select WorkloadEntries as they do pods
    /// (`pilot/pkg/serviceregistry/kube/controller`, `PILOT_ENABLE_K8S_SELECT_WORKLOAD_ENTRIES`).
    fn workload_entries_into(&self, cluster: &mut Cluster) {
        for (i, service) in self.services.values().enumerate() {
            let (namespace, selector) = (&service.metadata.namespace, &service.spec.selector);
            if selector.is_empty() {
                continue;
            }
            let chosen = |w: &&Workload| w.namespace == *namespace && selects(selector, &w.labels);
            for w in self.workload_entries.iter().filter(chosen) {
                let Ok(address) = w.entry.address.parse::<IpAddr>() else { continue };
                for port in &service.spec.ports {
                    let own = w.entry.ports.get(&port.name).copied();
                    let named = w.entry.ports.iter().map(|(name, n)| (name.as_str(), *n));
                    let Some(number) = own.or_else(|| target_port(port, named)) else { continue };
                    let backing = Backing {
                        service: i as u32,
                        port: port.port,
                        from: Time::MIN,
                        until: Time::MAX,
                        sure: true,
                    };
                    back(cluster, (address, number, port.protocol.0), backing);
                }
            }
        }
    }

    fn nodes_into(&self, cluster: &mut Cluster, problems: &mut Vec<String>) {
        for node in &self.nodes {
            let mut unreadable = Unreadable::default();
            // Names stand among the addresses (`Hostname`, `InternalDNS`, `ExternalDNS`).
            let named = |kind: &str| kind == "Hostname" || kind.ends_with("DNS");
            for a in node.status.addresses.iter().filter(|a| !named(&a.kind)) {
                cluster.nodes.extend(unreadable.or_read::<IpAddr>("status.addresses", &a.address));
            }
            for range in node.spec.pod_cidrs.iter().chain(std::iter::once(&node.spec.pod_cidr)) {
                if let Some(range) = unreadable.or_read::<IpNet>("podCIDR", range) {
                    if !cluster.pod_ranges.contains(&range) {
                        cluster.pod_ranges.push(range);
                    }
                    // By convention of the bridge and point-to-point plugins the first address is
                    // the node's own: probes come from it.
                    cluster.nodes.extend(range.hosts().next());
                }
            }
            unreadable.name(format_args!("Node {}", node.metadata.name), problems);
        }
        cluster.nodes.extend(self.pods.iter().filter_map(|(p, _)| p.host));
    }

    fn services_into(
        &self,
        cluster: &mut Cluster,
        problems: &mut Vec<String>,
    ) -> HashMap<(String, String), u32> {
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
            let mut unreadable = Unreadable::default();
            let cluster_ips = spec
                .cluster_ips
                .iter()
                .chain(std::iter::once(&spec.cluster_ip))
                .filter_map(|a| unreadable.or_read("clusterIP", a));
            let cluster_ips: BTreeSet<IpAddr> = cluster_ips.collect();
            own.extend(cluster_ips.iter().copied());
            cluster.cluster_ips.extend(&cluster_ips);
            let public = spec
                .external_ips
                .iter()
                .chain(object.status.load_balancer.ingress.iter().map(|i| &i.ip));
            let public: Vec<IpAddr> = public
                .filter_map(|a| unreadable.or_read("externalIPs or loadBalancer", a))
                .collect();
            unreadable.name(format_args!("Service {namespace}/{name}"), problems);
            for a in cluster_ips.into_iter().chain(public) {
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

    fn slices_into(
        &self,
        cluster: &mut Cluster,
        by_name: &HashMap<(String, String), u32>,
        problems: &mut Vec<String>,
    ) {
        for (slice, until) in &self.slices {
            let from = Time::MIN;
            let when: &[(Time, Time, bool)] = match *until {
                None => &[(from, Time::MAX, true)],
                Some(Ended::By(until)) => &[(from, until, true)],
                Some(Ended::Between(known, missed)) => {
                    &[(from, known, true), (known, missed, false)]
                }
            };
            let meta = &slice.metadata;
            let Some(service) = meta.labels.get("kubernetes.io/service-name") else { continue };
            // What a slice held before was named while it did. Names are read by nobody.
            if until.is_none() && slice.address_type != "FQDN" {
                let mut unreadable = Unreadable::default();
                for a in slice.endpoints.iter().flat_map(|e| &e.addresses) {
                    unreadable.or_read::<IpAddr>("endpoints", a);
                }
                unreadable
                    .name(format_args!("EndpointSlice {}/{}", meta.namespace, meta.name), problems);
            }
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
                // Slice and Service agree by the port's name; a single unnamed port has the empty
                // name in both.
                let ports = spec
                    .ports
                    .iter()
                    .filter(|p| p.name == port.name && p.protocol.0 == port.protocol.0);
                for service_port in ports {
                    let all = slice.endpoints.iter().flat_map(|e| &e.addresses);
                    for a in all.filter_map(|a| a.parse::<IpAddr>().ok()) {
                        for &(from, until, sure) in when {
                            let backing = Backing {
                                service: index,
                                port: service_port.port,
                                from,
                                until,
                                sure,
                            };
                            back(cluster, (a, number, port.protocol.0), backing);
                        }
                    }
                }
            }
        }
    }

    fn endpoints_from_selectors(&self, cluster: &mut Cluster) {
        for (i, service) in
            self.services.values().enumerate().filter(|(_, s)| !s.spec.selector.is_empty())
        {
            let selector = &service.spec.selector;
            let chosen = |p: &&PodBrief| {
                *p.namespace == *service.metadata.namespace && selects(selector, &p.labels)
            };
            for pod in self
                .pods
                .iter()
                .filter(|(_, deleted)| deleted.is_none())
                .map(|(p, _)| &**p)
                .filter(chosen)
            {
                for port in &service.spec.ports {
                    let Some(number) = target_port(
                        port,
                        pod.ports.iter().map(|(name, number)| (&**name, *number)),
                    ) else {
                        continue;
                    };
                    for &a in &*pod.addresses {
                        let backing = Backing {
                            service: i as u32,
                            port: port.port,
                            from: Time::MIN,
                            until: Time::MAX,
                            sure: true,
                        };
                        back(cluster, (a, number, port.protocol.0), backing);
                    }
                }
            }
        }
    }

    fn pods_into(&mut self, cluster: &mut Cluster, problems: &mut Vec<String>) {
        let pods = std::mem::take(&mut self.pods);
        let mut ended = Vec::new();
        cluster.pods.reserve_exact(pods.len());
        for (pod, deleted) in pods {
            if !pod.unreadable.is_empty() && deleted.is_none() {
                let mut unreadable = Unreadable::default();
                pod.unreadable.iter().for_each(|text| unreadable.add(text.clone()));
                unreadable.name(format_args!("Pod {}/{}", pod.namespace, pod.name), problems);
            }
            let (workload, selector) = self.owners.workload(&pod);
            let selector = self.pool.labels(selector);
            let Interval { start, end, exact } = pod.interval(deleted.map(Ended::known));
            ended.push(Turn { end: deleted.map(|d| End::of(d, exact)), up: pod.up() });
            let index = cluster.pods.len() as u32;
            if !pod.host_network {
                for &a in &*pod.addresses {
                    cluster.pods_by_address.entry(a).or_default().push(index);
                }
            }
            cluster.pods.push(Pod {
                name: Arc::clone(&pod.name),
                uid: Arc::clone(&pod.uid),
                workload,
                labels: Arc::clone(&pod.labels),
                selector,
                data_plane: pod.data_plane,
                proxy_since: pod.proxy_since,
                start,
                end,
                addresses: Arc::clone(&pod.addresses),
                node: Arc::clone(&pod.node),
                capture: Arc::clone(&pod.capture),
            });
        }
        common_selectors(cluster, &self.owners, &mut self.pool);
        hand_over(cluster, &ended);
        contested(cluster, problems);
        // Where no Node tells its range, pods lie where other pods lie: the same /24, or /64 in
        // IPv6.
        let known: BTreeSet<IpNet> = cluster
            .pods_by_address
            .keys()
            .filter(|a| !cluster.pod_ranges.iter().any(|n| n.contains(*a)))
            .filter_map(|a| IpNet::new(*a, if a.is_ipv4() { 24 } else { 64 }).ok())
            .map(|n| n.trunc())
            .collect();
        cluster.pod_ranges.extend(known);
    }
}

/// A selector must meet all pods of its workload: only labels that all of them have stay, whether a
/// controller selects by them or not. Another object may own some of the pods (a Flink cluster's
/// Deployment owns its TaskManagers, and selects the JobManager).
fn common_selectors(cluster: &mut Cluster, owners: &Owners, pool: &mut Pool) {
    let mut common: HashMap<WorkloadId, Labels> = HashMap::default();
    let mut changed: HashSet<WorkloadId> = HashSet::default();
    for pod in cluster.pods.iter().filter(|p| p.end == Time::MAX && p.workload.kind != "Pod") {
        let all = common.entry(pod.workload.clone()).or_insert_with(|| pod.selector.clone());
        // What a controller selects by is held against the pods, all else is a pod's own labels.
        let own = if owners.selects(&pod.workload) { &pod.labels } else { &pod.selector };
        let is_cut = !selects(all, own);
        if is_cut {
            Arc::make_mut(all).retain(|k, v| own.get(k) == Some(v));
        }
        if is_cut || pod.selector != *all {
            changed.insert(pod.workload.clone());
        }
    }
    for pod in &mut cluster.pods {
        if let Some(common) = common.get(&pod.workload).filter(|_| changed.contains(&pod.workload))
        {
            pod.selector = pool.labels(common.clone());
        }
    }
}

/// Puts a port of a Service before an endpoint.
fn back(cluster: &mut Cluster, endpoint: (IpAddr, u16, Protocol), backing: Backing) {
    // Most have one.
    let all = cluster.endpoints.entry(endpoint).or_insert_with(|| Vec::with_capacity(1));
    if !all.contains(&backing) {
        all.push(backing);
    }
}

/// Whether sidecars reach a pod through a tunnel: ztunnel captures it, or its own proxy takes
/// tunnels (label `networking.istio.io/tunnel`; `supportTunnel`,
/// `pilot/pkg/xds/endpoints/endpoint_builder.go`).
fn takes_tunnels(pod: &Pod) -> bool {
    pod.data_plane == DataPlane::Ambient
        || pod.labels.get("networking.istio.io/tunnel").is_some_and(|t| t == "http")
}

/// Ports of pods that take tunnels: a tunnel to one of them may be for any.
fn ambient_ports(cluster: &mut Cluster) {
    let ambient = |a: &IpAddr| {
        let holders = cluster.pods_by_address.get(a).into_iter().flatten();
        holders.map(|&i| &cluster.pods[i as usize]).any(takes_tunnels)
    };
    let mut found: HashMap<IpAddr, BTreeSet<u16>> = HashMap::default();
    for (address, port, _) in
        cluster.endpoints.keys().filter(|(a, _, protocol)| *protocol == Protocol::Tcp && ambient(a))
    {
        found.entry(*address).or_default().insert(*port);
    }
    for pod in cluster.pods.iter().filter(|p| takes_tunnels(p)) {
        for a in &*pod.addresses {
            let ports = cluster.entry_ports(*a);
            if !ports.is_empty() {
                found.entry(*a).or_default().extend(ports);
            }
        }
    }
    cluster.ambient_ports = found;
}

fn key(pod: &PodBrief) -> (&str, &str) {
    (&pod.namespace, &pod.name)
}

/// Names the pods that claim one address at one time.
fn contested(cluster: &Cluster, problems: &mut Vec<String>) {
    for (index, pod) in cluster.pods.iter().enumerate() {
        for a in &*pod.addresses {
            let holders = cluster.pods_by_address.get(a).map_or(&[][..], Vec::as_slice);
            // Of a pod in the host's network, no address is indexed.
            let before = if holders.contains(&(index as u32)) { holders } else { &[] };
            for other in
                before.iter().map(|&i| i as usize).filter(|&i| i < index).map(|i| &cluster.pods[i])
            {
                if other.start < pod.end && pod.start < other.end {
                    problems.push(format!(
                        "the pods {}/{} and {}/{} both claim the address {a}: connections of it are not attributed while both do",
                        other.workload.namespace, other.name, pod.workload.namespace, pod.name
                    ));
                }
            }
        }
    }
}

/// The smallest range per family that holds all given addresses: where other Services' addresses
/// are to be expected. At least a /24 (IPv6 /112), at most a /12 (/96), the usual widths of
/// `--service-cluster-ip-range`.
fn covering(addresses: &[IpAddr]) -> Vec<IpNet> {
    let mut out = Vec::new();
    for (v4, widest, narrowest) in [(true, 12, 24), (false, 96, 112)] {
        let of_family: Vec<IpAddr> =
            addresses.iter().copied().filter(|a| a.is_ipv4() == v4).collect();
        let Some(&first) = of_family.first() else { continue };
        let range = (widest..=narrowest)
            .rev()
            .filter_map(|len| IpNet::new(first, len).ok())
            .find(|net| of_family.iter().all(|a| net.contains(a)));
        match range {
            Some(net) => out.push(net.trunc()),
            None => out.extend(
                of_family.iter().filter_map(|a| Some(IpNet::new(*a, narrowest).ok()?.trunc())),
            ),
        }
    }
    out.sort();
    out.dedup();
    out
}
