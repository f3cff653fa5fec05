//! The indexes of a cluster: which pod has an address when, which Services stand behind an address,
//! and which hosts are in the mesh.
//!
//! Owns the indexes and their builder. Plain structures: no I/O, no client. Must never decide what
//! a connection means: `attribute` and `resolve` do.

mod brief;
mod entries;
mod index;
mod names;
mod outbound;
pub(crate) use sidecarta_istio::objects;
mod owner;
mod owners;
mod pool;
mod proxy;
mod tenancy;
mod unreadable;

use std::collections::{self, BTreeSet};
use std::net::IpAddr;

use foldhash::{HashMap, HashSet};
use ipnet::IpNet;

use crate::mesh::Discovery;
use crate::model::{Protocol, ServicePort, Span, Time};

pub(crate) use crate::model::CaptureScope;
pub use crate::model::{Labels, Pod};
pub(crate) use brief::{ControllerBrief, PodBrief};
pub use entries::{EntryHost, EntryPort, IndexedEntry};
pub use index::ClusterBuilder;
pub use names::NameTarget;
pub(crate) use owner::lasting;
pub(crate) use pool::Pool;
pub(crate) use proxy::dns_domain;
pub(crate) use tenancy::EndTime;

/// A Service as resolution sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterService {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Fully qualified host.
    pub host: String,
    /// Ports, by number and protocol.
    pub ports: BTreeSet<(u16, Protocol)>,
    /// Part of Istio's control plane.
    pub control_plane: bool,
    /// For an ExternalName Service, the host it stands for.
    pub external_name: Option<String>,
}

impl ClusterService {
    /// A port of it as a destination.
    pub fn at(&self, port: u16) -> ServicePort {
        ServicePort {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            host: self.host.clone(),
            port,
        }
    }
}

/// Who has an address at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder<'a> {
    /// This pod.
    Pod(&'a Pod),
    /// Several pods claim it at that time.
    Contested,
    /// A node, or a node's own address in its pod range.
    Node,
    /// Nobody known, and the address is in a range of pods.
    NobodyInPodRange,
    /// Nobody known.
    Nobody,
}

/// A port of a Service behind an endpoint, valid in a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Backing {
    service: u32,
    port: u16,
    from: Time,
    until: Time,
    /// False if nobody watched in that time: the endpoint may have been removed from the Service
    /// already, or another pod may have had its address.
    sure: bool,
}

impl Backing {
    /// The Service port had the endpoint at all times.
    fn always(service: u32, port: u16) -> Self {
        Self { service, port, from: Time::MIN, until: Time::MAX, sure: true }
    }
}

/// The indexes, built by [`ClusterBuilder`]; a live view replaces them as a whole.
#[derive(Debug, Default)]
pub struct Cluster {
    pods: Vec<Pod>,
    pods_by_address: HashMap<IpAddr, Vec<u32>>,
    nodes: HashSet<IpAddr>,
    services: Vec<ClusterService>,
    services_by_host: HashMap<String, u32>,
    services_by_address: HashMap<IpAddr, Vec<u32>>,
    node_ports: HashMap<(u16, Protocol), (u32, u16)>,
    endpoints: HashMap<(IpAddr, u16, Protocol), Vec<Backing>>,
    /// Cluster IPs: addresses of Services that only a proxy or kube-proxy translates.
    cluster_ips: HashSet<IpAddr>,
    /// Ports on which pods that accept tunnels are endpoints, by address.
    ambient_ports: HashMap<IpAddr, BTreeSet<u16>>,
    entries: entries::Entries,
    /// Hosts that VirtualServices route.
    routed: entries::HostSet,
    /// Hosts that DestinationRules balance with `PASSTHROUGH`.
    passed_through: entries::HostSet,
    pod_ranges: Vec<IpNet>,
    service_ranges: Vec<IpNet>,
    domain: String,
    discovery: Discovery,
    outbound: outbound::OutboundPolicies,
}

impl Cluster {
    /// All pods, sorted by namespace and name.
    pub fn pods(&self) -> &[Pod] {
        &self.pods
    }

    /// The pods that run at this time, in the order of all.
    pub fn pods_at(&self, time: Time) -> impl Iterator<Item = &Pod> {
        self.pods.iter().filter(move |pod| pod.runs_at(time))
    }

    /// Pods of this name, deleted ones included: those of a StatefulSet follow each other.
    pub fn pods_named(&self, namespace: &str, name: &str) -> &[Pod] {
        let key = |p: &Pod| (p.workload.namespace.as_str(), &*p.name).cmp(&(namespace, name));
        let from = self.pods.partition_point(|p| key(p).is_lt());
        let count = self.pods[from..].partition_point(|p| key(p).is_eq());
        &self.pods[from..from + count]
    }

    /// All Services, sorted by namespace and name.
    pub fn services(&self) -> &[ClusterService] {
        &self.services
    }

    /// Whether istiod does not look at a namespace. No proxy can have what is in it.
    pub fn hides(&self, namespace: &str) -> bool {
        self.discovery.hides(namespace)
    }

    /// Whether anything of this namespace is known.
    pub fn has_namespace(&self, namespace: &str) -> bool {
        self.pods.iter().any(|p| p.workload.namespace == namespace)
            || self.services.iter().any(|s| s.namespace == namespace)
    }

    /// The cluster's DNS domain, `cluster.local` unless said otherwise.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// Who had this address at this time.
    pub fn holder(&self, address: IpAddr, time: Time) -> Holder<'_> {
        let mut found = None;
        for &i in self.pods_by_address.get(&address).map_or(&[][..], Vec::as_slice) {
            let pod = &self.pods[i as usize];
            if pod.runs_at(time) {
                if found.is_some() {
                    return Holder::Contested;
                }
                found = Some(pod);
            }
        }
        match found {
            Some(pod) => Holder::Pod(pod),
            None if self.nodes.contains(&address) => Holder::Node,
            None if self.pod_ranges.iter().any(|n| n.contains(&address)) => {
                Holder::NobodyInPodRange
            }
            None => Holder::Nobody,
        }
    }

    /// Services whose own address (ClusterIP, external or load-balancer address) this is, sorted.
    pub fn services_at(&self, address: IpAddr) -> impl Iterator<Item = &ClusterService> {
        let found = self.services_by_address.get(&address).map_or(&[][..], Vec::as_slice);
        found.iter().map(|&i| &self.services[i as usize])
    }

    /// The Service port that a node port leads to, where the address is a node's.
    pub fn node_port(
        &self,
        address: IpAddr,
        port: u16,
        protocol: Protocol,
    ) -> Option<(&ClusterService, u16)> {
        if !self.nodes.contains(&address) {
            return None;
        }
        let &(i, port) = self.node_ports.get(&(port, protocol))?;
        Some((&self.services[i as usize], port))
    }

    /// Service ports that had this address and port among their endpoints at this time, sorted.
    /// Those that may have had it are included.
    pub fn endpoint(
        &self,
        address: IpAddr,
        port: u16,
        protocol: Protocol,
        time: Time,
    ) -> impl Iterator<Item = (&ClusterService, u16)> {
        let found = self.endpoints.get(&(address, port, protocol)).into_iter().flatten();
        let then: BTreeSet<(u32, u16)> = found
            .filter(|b| b.from <= time && time < b.until)
            .map(|b| (b.service, b.port))
            .collect();
        then.into_iter().map(|(i, p)| (&self.services[i as usize], p))
    }

    /// Whether [`endpoint`](Self::endpoint) returns all that can have been behind the address at
    /// this time, for sure.
    pub fn endpoint_is_sure(
        &self,
        address: IpAddr,
        port: u16,
        protocol: Protocol,
        time: Time,
    ) -> bool {
        let found = self.endpoints.get(&(address, port, protocol)).into_iter().flatten();
        found.filter(|b| b.from <= time && time < b.until).all(|b| b.sure)
    }

    /// The time around `time` in which a call of a pod always resolves the same way. Nothing
    /// changes in it: not the holder of the address that is called, not the Services of which it is
    /// an endpoint, and not whether the pod's proxy runs.
    pub fn steady(&self, pod: &Pod, to: (IpAddr, u16), protocol: Protocol, time: Time) -> Span {
        let (address, port) = to;
        let pods = self.pods_by_address.get(&address).into_iter().flatten();
        let tenancies = pods.map(|&i| &self.pods[i as usize]).map(|p| [p.start, p.end]);
        let backed = self.endpoints.get(&(address, port, protocol)).into_iter().flatten();
        let mut span = Span::ALWAYS;
        // At each of these times something begins, or has just ended.
        let all = tenancies.chain(backed.map(|b| [b.from, b.until])).flatten();
        for change in all.chain(pod.proxy_since) {
            if change <= time {
                span.from = span.from.max(change);
            } else {
                span.to = span.to.min(Time(change.0 - 1));
            }
        }
        span
    }

    /// The Service of this fully qualified host.
    pub fn service(&self, host: &str) -> Option<&ClusterService> {
        self.services_by_host.get(host).map(|&i| &self.services[i as usize])
    }

    /// Whether it is the cluster IP of a Service: the proxy has a listener or a route for it if the
    /// Service is in its scope. It has none for addresses of load balancers and external addresses
    /// (`pilot/pkg/model/service.go`, `GetAddressForProxy`).
    pub fn is_cluster_ip(&self, address: IpAddr) -> bool {
        self.cluster_ips.contains(&address)
    }

    /// The cluster IPs of the Service of this host.
    pub fn cluster_ips_of(&self, host: &str) -> Vec<IpAddr> {
        let Some(index) = self.services_by_host.get(host) else { return Vec::new() };
        let own = self.services_by_address.iter().filter(|(_, s)| s.contains(index));
        own.map(|(a, _)| *a).filter(|a| self.is_cluster_ip(*a)).collect()
    }

    /// Ports on which a pod that accepts tunnels is an endpoint.
    pub(crate) fn ambient_ports(&self, address: IpAddr) -> impl Iterator<Item = u16> {
        self.ambient_ports.get(&address).into_iter().flatten().copied()
    }

    /// Whether the address is in a range of Services.
    pub fn in_service_range(&self, address: IpAddr) -> bool {
        self.service_ranges.iter().any(|n| n.contains(&address))
    }

    /// Sockets and ports on which something listens. They help to distinguish initiator and
    /// responder.
    pub fn listening(&self) -> (collections::HashSet<(IpAddr, u16)>, collections::HashSet<u16>) {
        let mut sockets: collections::HashSet<(IpAddr, u16)> =
            self.endpoints.keys().map(|&(a, p, _)| (a, p)).collect();
        for (address, services) in &self.services_by_address {
            for &i in services {
                sockets.extend(self.services[i as usize].ports.iter().map(|&(p, _)| (*address, p)));
            }
        }
        let mut ports: collections::HashSet<u16> = sockets.iter().map(|&(_, p)| p).collect();
        // Ports of the proxy itself: probes and metrics reach every injected pod on them.
        ports.extend([15020, 15021, 15090]);
        (sockets, ports)
    }

    /// Whether the cluster has an address in any role. If it has few of those that packets show,
    /// the snapshot is of another cluster.
    pub fn has_address(&self, address: IpAddr) -> bool {
        self.pods_by_address.contains_key(&address)
            || self.services_by_address.contains_key(&address)
            || self.nodes.contains(&address)
            || !self.entries_at(address).is_empty()
    }
}
