//! Pods and nodes in the index.
//!
//! Owns which addresses pods and nodes claim, and the selectors of workloads. Must never give an
//! address to one of several pods that claim it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use foldhash::{HashMap, HashSet};
use ipnet::IpNet;

use super::ClusterBuilder;
use crate::cluster::brief::Interval;
use crate::cluster::owners::Owners;
use crate::cluster::pool::Pool;
use crate::cluster::tenancy::{EndEvidence, EndTime, TenancyLimits, hand_over};
use crate::cluster::unreadable::Unreadable;
use crate::cluster::{Cluster, Pod};
use crate::model::{DataPlane, Labels, Protocol, Time, WorkloadId, selects};

impl ClusterBuilder {
    /// Indexes the addresses of nodes and the ranges of pods' addresses.
    pub(super) fn nodes_into(&self, cluster: &mut Cluster, problems: &mut Vec<String>) {
        for node in &self.nodes {
            let mut unreadable = Unreadable::default();
            // Some of the addresses are names (`Hostname`, `InternalDNS`, `ExternalDNS`).
            let is_name = |kind: &str| kind == "Hostname" || kind.ends_with("DNS");
            for a in node.status.addresses.iter().filter(|a| !is_name(&a.kind)) {
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
            unreadable.report(format_args!("Node {}", node.metadata.name), problems);
        }
        cluster.nodes.extend(self.pods.iter().filter_map(|(p, _)| p.host));
    }

    /// Indexes the pods, and decides which of them has an address when.
    pub(super) fn pods_into(&mut self, cluster: &mut Cluster, problems: &mut Vec<String>) {
        let pods = std::mem::take(&mut self.pods);
        let mut limits = Vec::new();
        cluster.pods.reserve_exact(pods.len());
        for (pod, deleted) in pods {
            if !pod.unreadable.is_empty() && deleted.is_none() {
                let mut unreadable = Unreadable::default();
                pod.unreadable.iter().for_each(|text| unreadable.add(text.clone()));
                unreadable.report(format_args!("Pod {}/{}", pod.namespace, pod.name), problems);
            }
            let (workload, selector) = self.owners.workload(&pod);
            let selector = self.pool.labels(selector);
            let Interval { start, end, exact } = pod.interval(deleted.map(EndTime::last_known));
            let evidence = deleted.map(|d| EndEvidence::of(d, exact));
            limits.push(TenancyLimits { end: evidence, up: pod.up() });
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
        hand_over(cluster, &limits);
        report_contested(cluster, problems);
        // Where no Node states its range, pods are expected near other pods: in the same /24, or
        // /64 in IPv6.
        let near_pods: BTreeSet<IpNet> = cluster
            .pods_by_address
            .keys()
            .filter(|a| !cluster.pod_ranges.iter().any(|n| n.contains(*a)))
            .filter_map(|a| IpNet::new(*a, if a.is_ipv4() { 24 } else { 64 }).ok())
            .map(|n| n.trunc())
            .collect();
        cluster.pod_ranges.extend(near_pods);
    }

    /// Indexes the ports of pods that accept tunnels: a tunnel to such a pod may be for any of
    /// them.
    pub(super) fn ambient_ports_into(cluster: &mut Cluster) {
        let accepts_tunnels = |a: &IpAddr| {
            let holders = cluster.pods_by_address.get(a).into_iter().flatten();
            holders.map(|&i| &cluster.pods[i as usize]).any(supports_tunnels)
        };
        let mut found: HashMap<IpAddr, BTreeSet<u16>> = HashMap::default();
        for (address, port, _) in cluster
            .endpoints
            .keys()
            .filter(|(a, _, protocol)| *protocol == Protocol::Tcp && accepts_tunnels(a))
        {
            found.entry(*address).or_default().insert(*port);
        }
        for pod in cluster.pods.iter().filter(|p| supports_tunnels(p)) {
            for a in &*pod.addresses {
                let ports = cluster.entry_ports(*a);
                if !ports.is_empty() {
                    found.entry(*a).or_default().extend(ports);
                }
            }
        }
        cluster.ambient_ports = found;
    }
}

/// Reduces the selector of each workload to the labels that all its pods have, so that it matches
/// all of them. Also a controller may select by labels that some of the pods lack: the Deployment
/// of a Flink cluster owns the TaskManagers, and selects the JobManager.
fn common_selectors(cluster: &mut Cluster, owners: &Owners, pool: &mut Pool) {
    let mut common: HashMap<WorkloadId, Labels> = HashMap::default();
    let mut changed: HashSet<WorkloadId> = HashSet::default();
    for pod in cluster.pods.iter().filter(|p| p.end == Time::MAX && p.workload.kind != "Pod") {
        let all = common.entry(pod.workload.clone()).or_insert_with(|| pod.selector.clone());
        // The selector of a controller is checked against the labels of the pods. Any other
        // selector is derived from the labels of one pod.
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

/// Whether sidecars reach a pod through a tunnel: ztunnel captures it, or its own proxy accepts
/// tunnels (label `networking.istio.io/tunnel`; `supportTunnel`,
/// `pilot/pkg/xds/endpoints/endpoint_builder.go`).
fn supports_tunnels(pod: &Pod) -> bool {
    pod.data_plane == DataPlane::Ambient
        || pod.labels.get("networking.istio.io/tunnel").is_some_and(|t| t == "http")
}

/// Reports the pods that claim one address at one time.
fn report_contested(cluster: &Cluster, problems: &mut Vec<String>) {
    for (index, pod) in cluster.pods.iter().enumerate() {
        for a in &*pod.addresses {
            let holders = cluster.pods_by_address.get(a).map_or(&[][..], Vec::as_slice);
            // No address of a pod in the host's network is indexed.
            let claiming = if holders.contains(&(index as u32)) { holders } else { &[] };
            for other in claiming
                .iter()
                .map(|&i| i as usize)
                .filter(|&i| i < index)
                .map(|i| &cluster.pods[i])
            {
                if other.start < pod.end && pod.start < other.end {
                    problems.push(format!(
                        "the pods {}/{} and {}/{} both claim the address {a}: connections of it \
                         are not attributed while both do",
                        other.workload.namespace, other.name, pod.workload.namespace, pod.name
                    ));
                }
            }
        }
    }
}
