//! ServiceEntries as resolution sees them: which connections on the wire may be theirs.
//!
//! Owns their index: by host, by their own addresses, and by their endpoints, whatever these are
//! named by. Must never choose among several.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use foldhash::{HashMap, HashSet};
use ipnet::IpNet;

use super::Cluster;
use super::objects::{self, Labels};
use super::unreadable::Unreadable;
use crate::model::{Time, selects};

/// A host of a ServiceEntry.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryHost {
    /// The host as listed; it may be a wildcard.
    pub host: String,
    /// Namespace of the ServiceEntry.
    pub namespace: String,
    /// Name of the ServiceEntry.
    pub name: String,
}

/// A port of a ServiceEntry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryPort {
    /// Its number, which the application calls.
    pub number: u16,
    /// The ports that packets of a call to it have: `targetPort`, or the port that an endpoint has
    /// instead.
    pub wire: BTreeSet<u16>,
}

/// A host of a ServiceEntry, with how a proxy reaches it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexedEntry {
    /// Its host, and the ServiceEntry that lists it.
    pub host: EntryHost,
    /// Ports for TCP.
    pub ports: Vec<EntryPort>,
    /// The proxy finds its endpoints by lookups of its own (`resolution: DNS`,
    /// `DNS_ROUND_ROBIN`, `DYNAMIC_DNS`).
    pub by_dns: bool,
    /// The proxy sends to the address that was called (`resolution: NONE`).
    pub passes_through: bool,
    /// It can lead to addresses that the index does not list: to those of names that the cluster
    /// does not know, or to any address that was called.
    pub is_open: bool,
}

impl IndexedEntry {
    /// The port that an application called, if packets have this port. An entry without ports has
    /// all ports.
    pub fn port_of(&self, wire: u16) -> Option<u16> {
        if self.ports.is_empty() {
            return Some(wire);
        }
        self.ports.iter().find(|p| p.wire.contains(&wire)).map(|p| p.number)
    }

    /// Whether an application can call this port of it.
    pub fn has(&self, number: u16) -> bool {
        self.ports.is_empty() || self.ports.iter().any(|p| p.number == number)
    }
}

/// An endpoint of an entry, valid in a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct EntryEndpoint {
    entry: u32,
    wire: u16,
    number: u16,
    from: Time,
    until: Time,
}

/// The index of entries: by host, by own address, and by endpoint.
#[derive(Debug, Default)]
pub(super) struct Entries {
    all: Vec<IndexedEntry>,
    by_host: BTreeMap<String, Vec<u32>>,
    by_address: HashMap<IpAddr, Vec<u32>>,
    ranges: Vec<(IpNet, u32)>,
    endpoints: HashMap<IpAddr, Vec<EntryEndpoint>>,
}

/// A set of hosts that rules name, in full.
#[derive(Debug, Default)]
pub(super) struct HostSet {
    exact: HashSet<String>,
    /// Without the star.
    wild: BTreeSet<String>,
}

impl HostSet {
    pub(super) fn add(&mut self, host: &str, namespace: &str, domain: &str) {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        match host.strip_prefix('*') {
            // `*` says nothing of any one host.
            Some("") => {}
            Some(suffix) => {
                self.wild.insert(suffix.to_owned());
            }
            // A name without a dot is one of its own namespace.
            None if !host.contains('.') => {
                self.exact.insert(format!("{host}.{namespace}.svc.{domain}"));
            }
            None => {
                self.exact.insert(host);
            }
        }
    }

    fn contains(&self, host: &str) -> bool {
        self.exact.contains(host) || self.wild.iter().any(|suffix| host.ends_with(suffix.as_str()))
    }
}

impl Cluster {
    /// The host that a VirtualService routes and that this name means to a pod of `namespace`,
    /// where it is one. It need not be a Service's.
    pub fn routed(&self, name: &str, namespace: &str) -> Option<String> {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        self.spellings(&name, namespace).into_iter().find(|host| self.routed.contains(host))
    }

    /// Whether proxies may dial the address of this host as it was called.
    pub fn is_passed_through(&self, host: &str) -> bool {
        self.passed_through.contains(host)
    }

    /// Hosts that a name may stand for, in the order of the search path: as it is, then completed.
    pub(super) fn spellings(&self, name: &str, namespace: &str) -> [String; 4] {
        let domain = &self.domain;
        [
            name.to_owned(),
            format!("{name}.{namespace}.svc.{domain}"),
            format!("{name}.svc.{domain}"),
            format!("{name}.{domain}"),
        ]
    }

    /// A host of an entry, with its ports.
    pub fn entry(&self, host: &EntryHost) -> Option<&IndexedEntry> {
        let found = self.entries.by_host.get(&host.host)?;
        found.iter().map(|&i| &self.entries.all[i as usize]).find(|e| e.host == *host)
    }

    pub(super) fn entries_listed(&self, host: &str) -> Option<BTreeSet<&EntryHost>> {
        let found = self.entries.by_host.get(host)?;
        Some(found.iter().map(|&i| &self.entries.all[i as usize].host).collect())
    }

    /// Entries that own this address: listed, allocated, or within a listed range.
    pub fn entries_at(&self, address: IpAddr) -> Vec<&IndexedEntry> {
        let entries = &self.entries;
        let exact = entries.by_address.get(&address).into_iter().flatten().copied();
        let ranges = entries.ranges.iter().filter(|(n, _)| n.contains(&address)).map(|(_, i)| *i);
        let all: BTreeSet<u32> = exact.chain(ranges).collect();
        all.into_iter().map(|i| &entries.all[i as usize]).collect()
    }

    /// Entries that had this address and port among their endpoints then, each with its own port.
    pub fn entry_endpoints(
        &self,
        address: IpAddr,
        port: u16,
        at: Time,
    ) -> Vec<(&IndexedEntry, u16)> {
        let found = self.entries.endpoints.get(&address).into_iter().flatten();
        let then: BTreeSet<(u32, u16)> = found
            .filter(|e| e.wire == port && e.from <= at && at < e.until)
            .map(|e| (e.entry, e.number))
            .collect();
        then.into_iter().map(|(i, number)| (&self.entries.all[i as usize], number)).collect()
    }

    /// Ports of an endpoint of any entry on this address.
    pub(super) fn entry_ports(&self, address: IpAddr) -> BTreeSet<u16> {
        self.entries.endpoints.get(&address).into_iter().flatten().map(|e| e.wire).collect()
    }
}

/// A WorkloadEntry: what selectors choose among, beside pods (`ConvertWorkloadEntry`,
/// `pilot/pkg/serviceregistry/serviceentry/conversion.go`: its own labels and those of its object).
#[derive(Clone, Debug)]
pub(super) struct EntryWorkload {
    pub namespace: String,
    pub labels: Labels,
    pub entry: objects::WorkloadEntry,
}

impl EntryWorkload {
    pub(super) fn of(object: objects::WorkloadEntryObject) -> Option<Self> {
        let entry = object.spec?;
        let mut labels = BTreeMap::clone(&object.metadata.labels);
        labels.extend(entry.labels.clone());
        Some(Self { namespace: object.metadata.namespace, labels: labels.into(), entry })
    }
}

/// Adds the index of entries to a cluster that has its pods and Services.
pub(super) fn fill(
    cluster: &mut Cluster,
    objects: &[std::sync::Arc<objects::ServiceEntry>],
    workloads: &[EntryWorkload],
    problems: &mut Vec<String>,
) {
    let mut entries = Entries::default();
    for object in objects {
        let mut unreadable = Unreadable::default();
        add_entry(cluster, object, workloads, &mut entries, &mut unreadable);
        let meta = &object.metadata;
        unreadable.report(format_args!("ServiceEntry {}/{}", meta.namespace, meta.name), problems);
    }
    entries.ranges.sort_unstable();
    cluster.entries = entries;
}

/// The address of an endpoint, valid in a time.
struct EndpointAddress<'a> {
    address: IpAddr,
    /// Ports that the endpoint has instead of those of the entry, by the port's name.
    ports: Option<&'a BTreeMap<String, u16>>,
    from: Time,
    until: Time,
}

/// Adds the hosts of one ServiceEntry.
fn add_entry(
    cluster: &Cluster,
    object: &objects::ServiceEntry,
    workloads: &[EntryWorkload],
    entries: &mut Entries,
    unreadable: &mut Unreadable,
) {
    let (meta, spec) = (&object.metadata, &object.spec);
    let by_dns = spec.resolution.contains("DNS") || ["2", "3", "4"].contains(&&*spec.resolution);
    let passes_through = !by_dns && !matches!(spec.resolution.as_str(), "STATIC" | "1");
    let always =
        |address| EndpointAddress { address, ports: None, from: Time::MIN, until: Time::MAX };
    let mut addresses: Vec<EndpointAddress<'_>> = Vec::new();
    let mut names: Vec<(&str, Option<&BTreeMap<String, u16>>)> = Vec::new();
    let selected = spec.workload_selector.iter().flat_map(|s| {
        workloads
            .iter()
            .filter(|w| w.namespace == meta.namespace && selects(&s.labels, &w.labels))
            .map(|w| &w.entry)
    });
    for e in spec.endpoints.iter().chain(selected) {
        let text = e.address.as_str();
        // An endpoint that the proxy finds by DNS may be a name. A socket of the host is no
        // address.
        let address = if by_dns || text.starts_with("unix://") {
            text.parse().ok()
        } else {
            unreadable.or_read("endpoints", text)
        };
        match address {
            Some(address) => {
                addresses.push(EndpointAddress { ports: Some(&e.ports), ..always(address) })
            }
            None if by_dns && !text.is_empty() => names.push((text, Some(&e.ports))),
            None => {}
        }
    }
    if let Some(selector) = &spec.workload_selector {
        for pod in cluster.pods.iter().filter(|p| {
            p.workload.namespace == meta.namespace && selects(&selector.labels, &p.labels)
        }) {
            addresses.extend(pod.addresses.iter().map(|&address| EndpointAddress {
                from: pod.start,
                until: pod.end,
                ..always(address)
            }));
        }
    }
    for host in &spec.hosts {
        let host = host.to_ascii_lowercase();
        let index = entries.all.len() as u32;
        let mut own_names = names.clone();
        if by_dns && spec.endpoints.is_empty() && spec.workload_selector.is_none() {
            own_names.push((&host, None));
        }
        let mut is_open = passes_through && spec.addresses.is_empty();
        let mut looked_up: Vec<EndpointAddress<'_>> = Vec::new();
        for (name, ports) in &own_names {
            let found = cluster.addresses_named(name, &meta.namespace);
            is_open |= found.is_empty();
            looked_up.extend(
                found
                    .into_iter()
                    .map(|address| EndpointAddress { ports: *ports, ..always(address) }),
            );
        }
        let mut ports: Vec<EntryPort> = Vec::new();
        for port in spec.ports.iter().filter(|p| !p.protocol.eq_ignore_ascii_case("UDP")) {
            let target = port.target_port.filter(|p| *p != 0).unwrap_or(port.number);
            let wire_of = |ports: Option<&BTreeMap<String, u16>>| {
                ports.and_then(|p| p.get(&port.name)).copied().unwrap_or(target)
            };
            let mut wire = BTreeSet::from([target]);
            for endpoint in addresses.iter().chain(&looked_up) {
                let at = wire_of(endpoint.ports);
                wire.insert(at);
                let indexed = EntryEndpoint {
                    entry: index,
                    wire: at,
                    number: port.number,
                    from: endpoint.from,
                    until: endpoint.until,
                };
                entries.endpoints.entry(endpoint.address).or_default().push(indexed);
            }
            wire.extend(own_names.iter().map(|(_, ports)| wire_of(*ports)));
            ports.push(EntryPort { number: port.number, wire });
        }
        let listed = spec.addresses.iter().chain(object.status.addresses.iter().map(|a| &a.value));
        for text in listed {
            if let Ok(a) = text.parse() {
                entries.by_address.entry(a).or_default().push(index);
            } else if let Some(range) = unreadable.or_read::<IpNet>("addresses", text) {
                entries.ranges.push((range, index));
            }
        }
        entries.by_host.entry(host.clone()).or_default().push(index);
        let host = EntryHost { host, namespace: meta.namespace.clone(), name: meta.name.clone() };
        entries.all.push(IndexedEntry { host, ports, by_dns, passes_through, is_open });
    }
}
