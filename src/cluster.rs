//! What is known of the cluster: who held an address when, which Services stand behind an address,
//! and which hosts are in the mesh.
//!
//! Owns the indexes and their builder. Plain structures: no I/O, no client. Must never decide what
//! a connection means; that is `attribute`'s and `resolve`'s part.

mod brief;
mod entries;
mod index;
mod names;
pub(crate) use sidecarta_istio::objects;
mod owner;
mod owners;
mod pool;
mod proxy;
mod turns;
mod unreadable;

use std::collections::{self, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use foldhash::{HashMap, HashSet};
use ipnet::IpNet;

use serde::{Deserialize, Serialize};

use crate::model::{DataPlane, Protocol, ServicePort, Span, Time, WorkloadId};

pub(crate) use brief::{ControllerBrief, PodBrief};
pub use entries::{Entry, EntryHost, EntryPort};
pub use index::Builder;
pub use names::Named;
pub use objects::Labels;
pub(crate) use pool::Pool;
pub(crate) use proxy::dns_domain;
pub(crate) use turns::Ended;

/// A pod, with the interval in which it held its addresses. What it has in common with others is
/// shared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pod {
    /// Name of the pod.
    pub name: Arc<str>,
    /// What tells it from another pod of its name, at another time; empty where the snapshot does
    /// not say, and in batches of old agents.
    #[serde(default = "untold")]
    pub uid: Arc<str>,
    /// Its top controller.
    pub workload: WorkloadId,
    /// Labels of the pod.
    pub labels: Labels,
    /// Labels that select its workload's pods and survive a rollout.
    pub selector: Labels,
    /// How it takes part in the mesh.
    pub data_plane: DataPlane,
    /// When it began to hold its addresses; [`Time::MIN`] where the snapshot does not say.
    pub start: Time,
    /// When it ceased to; [`Time::MAX`] while it runs.
    pub end: Time,
    /// Its addresses.
    pub addresses: Arc<[IpAddr]>,
    /// The node that it runs on; empty where that is not known.
    pub node: Arc<str>,
    /// When its proxy began to run, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) proxy_since: Option<Time>,
    /// Whether its outbound traffic on this port and to this address goes through its proxy.
    pub(crate) capture: Arc<CaptureScope>,
}

fn untold() -> Arc<str> {
    Arc::from("")
}

impl Pod {
    /// Whether its proxy captured connections to this address and port then: it is redirected to
    /// the proxy, and the proxy ran. What init containers send before that goes past it.
    pub fn captures(&self, address: IpAddr, port: u16, at: Time) -> bool {
        self.redirects(address, port) && self.proxy_since.is_none_or(|since| since <= at)
    }

    /// Whether connections to this address and port are redirected to its proxy, as far as its
    /// settings say.
    pub fn redirects(&self, address: IpAddr, port: u16) -> bool {
        self.data_plane == DataPlane::Sidecar && self.capture.includes(address, port)
    }

    /// Whether it takes Istio's mutual TLS (label `security.istio.io/tlsMode`, set by the
    /// injector).
    pub fn takes_mutual_tls(&self) -> bool {
        self.labels.get("security.istio.io/tlsMode").is_some_and(|m| m == "istio")
    }
}

/// Which outbound connections of a pod are redirected to its proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct CaptureScope {
    /// `None`: all ranges.
    pub include_ranges: Option<Vec<IpNet>>,
    pub exclude_ranges: Vec<IpNet>,
    pub exclude_ports: BTreeSet<u16>,
    /// Ports captured whatever the range.
    pub include_ports: BTreeSet<u16>,
}

impl CaptureScope {
    /// How many bytes of memory it takes.
    pub(crate) fn footprint(&self) -> usize {
        let ranges = self.exclude_ranges.len() + self.include_ranges.as_ref().map_or(0, Vec::len);
        let ports = self.exclude_ports.len() + self.include_ports.len();
        // Of a set of ports: half-empty leaves with room for 11, and what the allocator adds.
        size_of::<Self>() + 2 * ranges * size_of::<IpNet>() + ports.next_multiple_of(11) * 12 + 192
    }

    fn includes(&self, address: IpAddr, port: u16) -> bool {
        if self.exclude_ports.contains(&port)
            || self.exclude_ranges.iter().any(|n| n.contains(&address))
        {
            return false;
        }
        self.include_ports.contains(&port)
            || self.include_ranges.as_ref().is_none_or(|r| r.iter().any(|n| n.contains(&address)))
    }
}

/// A Service as resolution sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
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

impl Service {
    /// One of its ports as a destination.
    pub fn at(&self, port: u16) -> ServicePort {
        ServicePort {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            host: self.host.clone(),
            port,
        }
    }
}

/// Who held an address at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder<'a> {
    /// This pod.
    Pod(&'a Pod),
    /// Several live pods claim it.
    Contested,
    /// A node, or a node's own address in its pod range.
    Node,
    /// Nobody known, and it lies where pods' addresses lie.
    NobodyInPodRange,
    /// Nobody known.
    Nobody,
}

/// That a port of a Service has an endpoint, and when it had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Backing {
    service: u32,
    port: u16,
    from: Time,
    until: Time,
    /// False: nobody looked then, and it may have been taken out of the Service already, or its
    /// address given to another pod.
    sure: bool,
}

/// The indexes. Built by [`Builder`]; a live view swaps it whole.
#[derive(Debug, Default)]
pub struct Cluster {
    pods: Vec<Pod>,
    pods_by_address: HashMap<IpAddr, Vec<u32>>,
    nodes: HashSet<IpAddr>,
    services: Vec<Service>,
    services_by_host: HashMap<String, u32>,
    services_by_address: HashMap<IpAddr, Vec<u32>>,
    node_ports: HashMap<(u16, Protocol), (u32, u16)>,
    endpoints: HashMap<(IpAddr, u16, Protocol), Vec<Backing>>,
    /// Addresses of Services that only a proxy or kube-proxy translates: cluster IPs.
    cluster_ips: HashSet<IpAddr>,
    /// Of pods that ztunnel captures, the ports that are endpoints.
    ambient_ports: HashMap<IpAddr, BTreeSet<u16>>,
    entries: entries::Entries,
    /// Hosts that VirtualServices route.
    routed: entries::Hosts,
    /// Hosts that DestinationRules balance with `PASSTHROUGH`.
    passed: entries::Hosts,
    pod_ranges: Vec<IpNet>,
    service_ranges: Vec<IpNet>,
    domain: String,
}

impl Cluster {
    /// All pods, sorted by namespace and name.
    pub fn pods(&self) -> &[Pod] {
        &self.pods
    }

    /// Pods of this name, deleted ones included: those of a StatefulSet follow each other.
    pub fn pods_named(&self, namespace: &str, name: &str) -> &[Pod] {
        let key = |p: &Pod| (p.workload.namespace.as_str(), &*p.name).cmp(&(namespace, name));
        let from = self.pods.partition_point(|p| key(p).is_lt());
        let count = self.pods[from..].partition_point(|p| key(p).is_eq());
        &self.pods[from..from + count]
    }

    /// All Services, sorted by namespace and name.
    pub fn services(&self) -> &[Service] {
        &self.services
    }

    /// The cluster's DNS domain, `cluster.local` unless said otherwise.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// Who held this address then.
    pub fn holder(&self, address: IpAddr, time: Time) -> Holder<'_> {
        let mut found = None;
        for &i in self.pods_by_address.get(&address).map_or(&[][..], Vec::as_slice) {
            let pod = &self.pods[i as usize];
            if pod.start <= time && time < pod.end {
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
    pub fn services_at(&self, address: IpAddr) -> impl Iterator<Item = &Service> {
        let found = self.services_by_address.get(&address).map_or(&[][..], Vec::as_slice);
        found.iter().map(|&i| &self.services[i as usize])
    }

    /// The Service port that a node port leads to, where the address is a node's.
    pub fn node_port(
        &self,
        address: IpAddr,
        port: u16,
        protocol: Protocol,
    ) -> Option<(&Service, u16)> {
        if !self.nodes.contains(&address) {
            return None;
        }
        let &(i, port) = self.node_ports.get(&(port, protocol))?;
        Some((&self.services[i as usize], port))
    }

    /// Service ports that had this address and port among their endpoints then, sorted; those that
    /// may have had it included.
    pub fn endpoint(
        &self,
        address: IpAddr,
        port: u16,
        protocol: Protocol,
        time: Time,
    ) -> impl Iterator<Item = (&Service, u16)> {
        let found = self.endpoints.get(&(address, port, protocol)).into_iter().flatten();
        let then: BTreeSet<(u32, u16)> = found
            .filter(|b| b.from <= time && time < b.until)
            .map(|b| (b.service, b.port))
            .collect();
        then.into_iter().map(|(i, p)| (&self.services[i as usize], p))
    }

    /// Whether what [`endpoint`](Self::endpoint) gives is all that can have been behind the address
    /// then.
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

    /// The time around `time` in which nothing changes of what is known of an address and a port:
    /// who holds it, and which Services it is an endpoint of.
    pub fn steady(&self, address: IpAddr, port: u16, protocol: Protocol, time: Time) -> Span {
        let pods = self.pods_by_address.get(&address).into_iter().flatten();
        let held = pods.map(|&i| &self.pods[i as usize]).map(|p| [p.start, p.end]);
        let backed = self.endpoints.get(&(address, port, protocol)).into_iter().flatten();
        let mut span = Span::ALWAYS;
        // At each of these times something begins, or has just ended.
        for turn in held.chain(backed.map(|b| [b.from, b.until])).flatten() {
            if turn <= time {
                span.from = span.from.max(turn);
            } else {
                span.to = span.to.min(Time(turn.0 - 1));
            }
        }
        span
    }

    /// The Service of this fully qualified host.
    pub fn service(&self, host: &str) -> Option<&Service> {
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

    /// Ports of a pod that ztunnel captures on which it is an endpoint.
    pub(crate) fn ambient_ports(&self, address: IpAddr) -> impl Iterator<Item = u16> {
        self.ambient_ports.get(&address).into_iter().flatten().copied()
    }

    /// Whether it is an address of a node.
    pub fn is_node(&self, address: IpAddr) -> bool {
        self.nodes.contains(&address)
    }

    /// Whether the address lies where Services' addresses lie.
    pub fn in_service_range(&self, address: IpAddr) -> bool {
        self.service_ranges.iter().any(|n| n.contains(&address))
    }

    /// Sockets and ports that are known to listen, for telling initiator from responder.
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

    /// True when an address is known in any role: used to notice a snapshot of another cluster.
    pub fn knows(&self, address: IpAddr) -> bool {
        self.pods_by_address.contains_key(&address)
            || self.services_by_address.contains_key(&address)
            || self.nodes.contains(&address)
            || !self.entries_at(address).is_empty()
    }
}
