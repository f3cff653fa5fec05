//! Services and their endpoints in the index.
//!
//! Owns which Service ports stand behind an address and port. Must never decide which pod has an
//! address.

use std::collections::BTreeSet;
use std::net::IpAddr;

use foldhash::HashMap;
use ipnet::IpNet;

use super::ClusterBuilder;
use crate::cluster::brief::PodBrief;
use crate::cluster::entries::EntryWorkload;
use crate::cluster::objects::{self, target_port};
use crate::cluster::tenancy::EndTime;
use crate::cluster::unreadable::Unreadable;
use crate::cluster::{Backing, Cluster, ClusterService};
use crate::model::{Protocol, Time, selects};

impl ClusterBuilder {
    /// Indexes the Services by host and by address. Returns their positions, by namespace and name.
    pub(super) fn services_into(
        &self,
        cluster: &mut Cluster,
        problems: &mut Vec<String>,
    ) -> HashMap<(String, String), u32> {
        let mut by_name = HashMap::default();
        let mut all_cluster_ips = Vec::new();
        for ((namespace, name), object) in &self.services {
            let index = cluster.services.len() as u32;
            let spec = &object.spec;
            let host = format!("{name}.{namespace}.svc.{}", cluster.domain);
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
            all_cluster_ips.extend(cluster_ips.iter().copied());
            cluster.cluster_ips.extend(&cluster_ips);
            let public = spec
                .external_ips
                .iter()
                .chain(object.status.load_balancer.ingress.iter().map(|i| &i.ip));
            let public: Vec<IpAddr> = public
                .filter_map(|a| unreadable.or_read("externalIPs or loadBalancer", a))
                .collect();
            unreadable.report(format_args!("Service {namespace}/{name}"), problems);
            for a in cluster_ips.into_iter().chain(public) {
                let at = cluster.services_by_address.entry(a).or_default();
                if !at.contains(&index) {
                    at.push(index);
                }
            }
            cluster.services_by_host.insert(host.clone(), index);
            by_name.insert((namespace.clone(), name.clone()), index);
            cluster.services.push(ClusterService {
                namespace: namespace.clone(),
                name: name.clone(),
                host,
                ports: spec.ports.iter().map(|p| (p.port, p.protocol.0)).collect(),
                control_plane: is_control_plane(object),
                external_name,
            });
        }
        cluster.service_ranges = covering(&all_cluster_ips);
        by_name
    }

    /// Indexes the endpoints of EndpointSlices.
    pub(super) fn slices_into(
        &self,
        cluster: &mut Cluster,
        by_name: &HashMap<(String, String), u32>,
        problems: &mut Vec<String>,
    ) {
        for (slice, until) in &self.slices {
            let start = Time::MIN;
            // From, until, and whether it was an endpoint then for sure.
            let periods: &[(Time, Time, bool)] = match *until {
                None => &[(start, Time::MAX, true)],
                Some(EndTime::By(until)) => &[(start, until, true)],
                Some(EndTime::Between(known, missed)) => {
                    &[(start, known, true), (known, missed, false)]
                }
            };
            let meta = &slice.metadata;
            let Some(service) = meta.labels.get("kubernetes.io/service-name") else { continue };
            // What cannot be read of a former slice was reported while it was there. Nobody reads
            // the names in a slice of type FQDN.
            if until.is_none() && slice.address_type != "FQDN" {
                let mut unreadable = Unreadable::default();
                for a in slice.endpoints.iter().flat_map(|e| &e.addresses) {
                    unreadable.or_read::<IpAddr>("endpoints", a);
                }
                unreadable.report(
                    format_args!("EndpointSlice {}/{}", meta.namespace, meta.name),
                    problems,
                );
            }
            let Some(&index) = by_name.get(&(meta.namespace.clone(), service.clone())) else {
                problems.push(format!(
                    "EndpointSlice {}/{} belongs to the Service {service}, which is not in the \
                     snapshot: its endpoints are taken for plain pods; add the Service",
                    meta.namespace, meta.name
                ));
                continue;
            };
            let spec = &self.services[&(meta.namespace.clone(), service.clone())].spec;
            for port in &slice.ports {
                let Some(number) = port.port else { continue };
                // Slice and Service share the name of the port. A single unnamed port has the empty
                // name in both.
                let ports = spec
                    .ports
                    .iter()
                    .filter(|p| p.name == port.name && p.protocol.0 == port.protocol.0);
                for service_port in ports {
                    let all = slice.endpoints.iter().flat_map(|e| &e.addresses);
                    for a in all.filter_map(|a| a.parse::<IpAddr>().ok()) {
                        for &(from, until, sure) in periods {
                            let backing = Backing {
                                service: index,
                                port: service_port.port,
                                from,
                                until,
                                sure,
                            };
                            add_backing(cluster, (a, number, port.protocol.0), backing);
                        }
                    }
                }
            }
        }
    }

    /// Derives endpoints from the selectors of Services, where no EndpointSlice is given.
    pub(super) fn endpoints_from_selectors(&self, cluster: &mut Cluster) {
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
                        let backing = Backing::always(i as u32, port.port);
                        add_backing(cluster, (a, number, port.protocol.0), backing);
                    }
                }
            }
        }
    }

    /// Adds WorkloadEntries to the endpoints: Services select them as they do pods
    /// (`pilot/pkg/serviceregistry/kube/controller`, `PILOT_ENABLE_K8S_SELECT_WORKLOAD_ENTRIES`).
    pub(super) fn workload_entries_into(&self, cluster: &mut Cluster) {
        for (i, service) in self.services.values().enumerate() {
            let (namespace, selector) = (&service.metadata.namespace, &service.spec.selector);
            if selector.is_empty() {
                continue;
            }
            let chosen =
                |w: &&EntryWorkload| w.namespace == *namespace && selects(selector, &w.labels);
            for w in self.workload_entries.iter().filter(chosen) {
                let Ok(address) = w.entry.address.parse::<IpAddr>() else { continue };
                for port in &service.spec.ports {
                    let own = w.entry.ports.get(&port.name).copied();
                    let named = w.entry.ports.iter().map(|(name, n)| (name.as_str(), *n));
                    let Some(number) = own.or_else(|| target_port(port, named)) else { continue };
                    let backing = Backing::always(i as u32, port.port);
                    add_backing(cluster, (address, number, port.protocol.0), backing);
                }
            }
        }
    }
}

/// Whether a Service is that of istiod.
fn is_control_plane(service: &objects::ServiceObject) -> bool {
    let (name, labels) = (&service.metadata.name, &service.metadata.labels);
    name == "istiod"
        || name.starts_with("istiod-")
        || labels.get("istio").is_some_and(|v| v == "pilot")
        || labels.get("app").is_some_and(|v| v == "istiod")
}

/// Adds a port of a Service to an endpoint.
fn add_backing(cluster: &mut Cluster, endpoint: (IpAddr, u16, Protocol), backing: Backing) {
    // Most endpoints have one.
    let all = cluster.endpoints.entry(endpoint).or_insert_with(|| Vec::with_capacity(1));
    if !all.contains(&backing) {
        all.push(backing);
    }
}

/// The smallest range per family that contains all given addresses. Addresses of other Services are
/// expected in it. At least a /24 (IPv6 /112), at most a /12 (/96), the usual widths of
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
