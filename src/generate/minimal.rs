//! The smallest list of egress hosts that keeps every call, and the proof that it is.
//!
//! Owns the search: candidates from the calls' own routes, widened only as far as the proof asks, then every host taken out that
//! no call misses. Must never list a host that can be left out, nor end without comparing each call's treatment.

use std::collections::{BTreeMap, BTreeSet};

use foldhash::HashMap;

use crate::mesh::host::{is_wildcard, matches, subset_of};
use crate::mesh::{Egress, Mesh, MeshPod, Registry, Resolution, Sidecar};
use crate::scope::clusters::Size;
use crate::scope::inbound::{self, own_services};
use crate::scope::{Call, Client, RouteKind, Scope, Treatment};

/// Imports nothing: what a workload without calls needs (an empty list would mean `*/*`).
pub const SILENT: &str = "~/*";

/// Matches nothing, and being a wildcard makes istiod scan its Services instead of looking exact hosts up. The two differ where
/// one namespace holds several entries of a host, or one entry has several addresses.
pub const FORCE_SCAN: &str = "./*.unused.invalid";

/// A pod of the workload, and what a scope decides for it.
#[derive(Clone, Debug)]
pub struct Instance<'m> {
    /// The pod.
    pub pod: &'m MeshPod,
    address: Option<String>,
    /// The pod makes the calls; else only its incoming requests matter.
    pub calls: bool,
}

impl<'m> Instance<'m> {
    /// Describes a pod.
    pub fn new(pod: &'m MeshPod, calls: bool) -> Self {
        Self { pod, address: pod.addresses.first().map(ToString::to_string), calls }
    }

    /// As the model of scoping asks for it.
    pub fn client(&self) -> Client<'_> {
        Client { namespace: &self.pod.namespace, labels: &self.pod.labels, address: self.address.as_deref() }
    }
}

/// What must stay as it is.
#[derive(Debug)]
pub struct Demand<'a, 'm> {
    /// The scope with all hosts imported.
    pub full: &'a Scope<'m>,
    /// Egress listeners with a port, carried over.
    pub bound: &'a [Egress],
    /// The Sidecar that applied before.
    pub carried: Option<&'m Sidecar>,
    /// Pods.
    pub instances: &'a [Instance<'m>],
    /// Calls.
    pub calls: &'a [Call],
    /// Clusters that the proxy itself sends to: host and port.
    pub implied: &'a [(String, u16)],
}

/// How far the search had to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Widening {
    /// Exact hosts are enough.
    None,
    /// Exact hosts, and istiod must scan.
    Scan,
    /// Hosts of Services that share a port with a call.
    Port,
    /// Everything.
    Everything,
}

/// The answer.
#[derive(Clone, Debug)]
pub struct Minimal {
    /// Hosts, sorted; [`SILENT`] alone where none is needed.
    pub hosts: Vec<String>,
    /// How far the search had to go.
    pub widening: Widening,
    /// For each host: why it cannot be left out.
    pub reasons: BTreeMap<String, Reason>,
    /// Clusters and endpoints with these hosts.
    pub after: Size,
}

/// Why a host cannot be left out.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// This call (its index) would be treated otherwise.
    Call(usize),
    /// The proxy itself sends there.
    Implied(String, u16),
    /// The treatment of incoming requests on this port of this pod would change.
    Inbound(String, u16),
    /// `*/*` where nothing narrower could be proved.
    Unproved,
}

/// What the calls need, computed once.
struct Wanted<'m> {
    treatments: Vec<Vec<Treatment>>,
    pools: Vec<inbound::Pools<'m>>,
    implied: Vec<Option<u32>>,
}

struct Search<'a, 'm> {
    demand: &'a Demand<'a, 'm>,
    wanted: Wanted<'m>,
}

/// Finds the smallest list. With nothing to keep it is [`SILENT`].
pub fn minimal(demand: &Demand<'_, '_>) -> Minimal {
    let search = Search::new(demand);
    let (mut hosts, mut widening) = search.provable();
    let more = search.alternatives(&hosts);
    let mut reasons = search.reduce(&mut hosts);
    if let Some(mut other) = more {
        // Another way in can be cheaper: an entry for a VirtualService brings its destinations with the ports it routes to alone.
        let why = search.reduce(&mut other);
        let (a, b) = (search.size(&other), search.size(&hosts));
        if a.clusters <= b.clusters && a.endpoints <= b.endpoints && a != b {
            (hosts, reasons) = (other, why);
        }
    }
    if hosts.iter().all(|h| h != FORCE_SCAN) && widening == Widening::Scan {
        widening = Widening::None;
    }
    search.answer(hosts, widening, reasons)
}

impl<'a, 'm> Search<'a, 'm> {
    fn new(demand: &'a Demand<'a, 'm>) -> Self {
        let calling = |i: &&Instance<'_>| i.calls;
        let treat = |i: &Instance<'_>| demand.calls.iter().map(|c| demand.full.treat(&i.client(), c)).collect();
        let wanted = Wanted {
            treatments: demand.instances.iter().filter(calling).map(treat).collect(),
            pools: demand.instances.iter().map(|i| inbound::pools(demand.full, i.pod, demand.carried)).collect(),
            implied: demand.implied.iter().map(|(h, p)| backing(demand.full, h, *p)).collect(),
        };
        Self { demand, wanted }
    }

    fn mesh(&self) -> &'m Mesh {
        self.demand.full.mesh
    }

    fn egress(&self, hosts: &[String]) -> Vec<Egress> {
        let hosts = if hosts.is_empty() { vec![SILENT.to_owned()] } else { hosts.to_vec() };
        let mut all = self.demand.bound.to_vec();
        all.push(Egress { hosts, ..Egress::default() });
        all
    }

    /// The first thing that these hosts do not keep; `None` is the proof.
    fn broken(&self, hosts: &[String]) -> Option<Reason> {
        let egress = self.egress(hosts);
        self.broken_in(&self.scope(&egress))
    }

    fn scope<'e>(&self, egress: &'e [Egress]) -> Scope<'e>
    where
        'm: 'e,
        'a: 'e,
    {
        Scope::new(self.mesh(), self.demand.full.namespace, egress, self.demand.full.policy)
    }

    fn broken_in<'e>(&self, scope: &Scope<'e>) -> Option<Reason>
    where
        'm: 'e,
    {
        let calling = self.demand.instances.iter().filter(|i| i.calls);
        for (instance, wanted) in calling.zip(&self.wanted.treatments) {
            let client = instance.client();
            for (i, (call, want)) in self.demand.calls.iter().zip(wanted).enumerate() {
                if !scope.treat(&client, call).keeps(want) {
                    return Some(Reason::Call(i));
                }
            }
        }
        for ((host, port), want) in self.demand.implied.iter().zip(&self.wanted.implied) {
            if backing(scope, host, *port) != *want {
                return Some(Reason::Implied(host.clone(), *port));
            }
        }
        for (instance, want) in self.demand.instances.iter().zip(&self.wanted.pools) {
            let got = inbound::pools(scope, instance.pod, self.demand.carried);
            if got != *want {
                let port = want.iter().find(|(p, v)| got.get(p) != Some(v)).or_else(|| got.iter().next()).map_or(0, |(p, _)| *p);
                return Some(Reason::Inbound(instance.pod.name.clone(), port));
            }
        }
        None
    }

    /// A list that keeps everything, and how far it had to be widened.
    fn provable(&self) -> (Vec<String>, Widening) {
        let mut hosts: BTreeSet<String> = BTreeSet::new();
        for (call, wants) in self.each_wanted() {
            self.candidates(call, wants, &mut hosts);
        }
        for (host, _) in self.demand.implied {
            hosts.extend(self.demand.full.service(host).map(|s| s.service.entry()));
        }
        let no_pools = inbound::Pools::new();
        for (instance, _) in self.demand.instances.iter().zip(&self.wanted.pools).filter(|(_, p)| **p != no_pools) {
            hosts.extend(own_services(self.demand.full, instance.pod));
        }
        let list = |set: &BTreeSet<String>| set.iter().cloned().collect::<Vec<_>>();
        if self.broken(&list(&hosts)).is_none() {
            return (list(&hosts), Widening::None);
        }
        // A VirtualService that has no rule for this client can still keep another one away from its host.
        for call in self.demand.calls {
            let all = self.demand.full.listeners.iter().flat_map(|l| &l.virtual_services);
            for v in all.filter(|v| v.hosts.iter().any(|h| matches(h, &call.host))) {
                hosts.insert(format!("{}/{}", v.namespace, call.host));
            }
        }
        if self.broken(&list(&hosts)).is_none() {
            return (list(&hosts), Widening::None);
        }
        hosts.insert(FORCE_SCAN.to_owned());
        if self.broken(&list(&hosts)).is_none() {
            return (list(&hosts), Widening::Scan);
        }
        let ports: BTreeSet<u16> = self.demand.calls.iter().map(|c| c.port).collect();
        let on_port = self.demand.full.listeners.iter().flat_map(|l| &l.services);
        let on_port = on_port.filter(|s| s.ports.iter().any(|p| ports.contains(&p.number)));
        hosts.extend(on_port.map(|s| s.service.entry()));
        if self.broken(&list(&hosts)).is_none() {
            return (list(&hosts), Widening::Port);
        }
        let own_virtual = self.demand.full.listeners.iter().flat_map(|l| &l.virtual_services);
        hosts.extend(own_virtual.flat_map(|v| v.hosts.iter().map(move |h| format!("{}/{h}", v.namespace))));
        if self.broken(&list(&hosts)).is_none() {
            return (list(&hosts), Widening::Port);
        }
        (vec!["*/*".to_owned()], Widening::Everything)
    }

    /// The list with the exact hosts of all VirtualServices beside it, where they are few enough to try and the list still holds.
    fn alternatives(&self, hosts: &[String]) -> Option<Vec<String>> {
        /// Each is tried by a scope of its own.
        const FEW: usize = 64;
        if self.demand.full.listeners.iter().map(|l| l.virtual_services.len()).sum::<usize>() > FEW {
            return None;
        }
        let all = self.demand.full.listeners.iter().flat_map(|l| &l.virtual_services);
        let exact = all.flat_map(|v| v.hosts.iter().filter(|h| !is_wildcard(h)).map(move |h| format!("{}/{h}", v.namespace)));
        let mut more: BTreeSet<String> = exact.collect();
        more.extend(hosts.iter().cloned());
        let more: Vec<String> = more.into_iter().collect();
        (more.len() > hosts.len() && self.broken(&more).is_none()).then_some(more)
    }

    fn size(&self, hosts: &[String]) -> Size {
        let none = BTreeMap::new();
        let labels = self.demand.instances.first().map_or(&none, |i| &*i.pod.labels);
        self.scope(&self.egress(hosts)).size(labels)
    }

    fn each_wanted(&self) -> impl Iterator<Item = (&'a Call, Vec<&Treatment>)> {
        let calls = self.demand.calls.iter().enumerate();
        calls.map(|(i, c)| (c, self.wanted.treatments.iter().map(|t| &t[i]).collect()))
    }

    /// Entries that a call's route may depend on.
    fn candidates(&self, call: &Call, wants: Vec<&Treatment>, out: &mut BTreeSet<String>) {
        let (mesh, full) = (self.mesh(), self.demand.full);
        for want in wants.iter().filter(|w| !w.unknown()) {
            let taken_by = want.taken_by.map(|s| &mesh.services[s as usize]);
            let backing = want.backing.iter().flatten().map(|&s| &mesh.services[s as usize]);
            out.extend(backing.map(|s| s.entry()));
            let http = want.kind == RouteKind::Http;
            let mut served = false;
            for s in full.listeners.iter().flat_map(|l| l.index_named(mesh, call.port, &call.host)) {
                served = true;
                out.insert(s.service.entry());
                let alias = s.aliases.iter().find(|(_, h)| *h == call.host);
                out.extend(alias.map(|(_, h)| format!("{}/{h}", s.service.namespace)));
            }
            // A TCP listener belongs to the Service that it was made for; of HTTP the virtual host counts, whoever opened the port.
            if let Some(s) = taken_by.filter(|_| !http) {
                out.insert(s.entry());
            } else if http && !served {
                out.extend(self.opener(call.port));
            }
            for v in want.steps.iter().filter_map(|s| s.virtual_service).map(|v| &mesh.virtual_services[v as usize]) {
                let names = std::iter::once(call.host.as_str()).chain(taken_by.map(|s| s.host.as_str()));
                for name in names {
                    for host in v.hosts.iter().filter(|h| matches(h, name)) {
                        // An exact host within a wildcard imports the VirtualService and no Service beside.
                        let host = if is_wildcard(host) { name } else { host };
                        out.insert(format!("{}/{host}", v.namespace));
                    }
                }
            }
        }
    }

    /// The cheapest Service that opens a port for HTTP: a VirtualService whose host is no Service needs one to be listed.
    fn opener(&self, port: u16) -> Option<String> {
        let full = self.demand.full;
        let labels = self.demand.instances.first().map(|i| &i.pod.labels)?;
        let all = full.listeners.iter().flat_map(|l| &l.services);
        let opening = all.filter(|s| s.service.resolution != Resolution::Alias);
        let opening = opening.filter(|s| s.port(port).is_some_and(|p| p.protocol.is_http()));
        let cost = |s: &&crate::scope::Scoped<'_>| {
            let size = full.size_of(s, labels);
            (size.clusters, size.endpoints, s.service.registry == Registry::External, s.service.entry())
        };
        opening.min_by_key(cost).map(|s| s.service.entry())
    }

    /// Takes out every host that nothing misses, the most expensive ones first. For each host that is left: why.
    fn reduce(&self, hosts: &mut Vec<String>) -> BTreeMap<String, Reason> {
        // Hosts that only a rule leads to come in with it: mostly all of them go at once.
        let called: BTreeSet<&str> = self.demand.calls.iter().map(|c| c.host.as_str()).collect();
        let direct = |h: &String| h.split_once('/').is_none_or(|(_, host)| is_wildcard(host) || called.contains(host));
        let rest: Vec<String> = hosts.iter().filter(|h| direct(h)).cloned().collect();
        if rest.len() < hosts.len() && self.broken(&rest).is_none() {
            *hosts = rest;
        }
        let mut needed: BTreeMap<String, Reason> =
            self.directly_needed(hosts).into_iter().map(|(h, call)| (h, Reason::Call(call))).collect();
        needed.retain(|h, _| hosts.contains(h));
        let mut doubtful: Vec<String> = hosts.iter().filter(|h| !needed.contains_key(*h)).cloned().collect();
        doubtful.sort_by_cached_key(|h| (std::cmp::Reverse(self.cost(h)), h.clone()));
        // Round after round, until each one that is left was asked for since the last one went.
        let mut doubtful = std::collections::VecDeque::from(doubtful);
        let mut asked = 0;
        while asked < doubtful.len() {
            let Some(host) = doubtful.pop_front() else { break };
            let rest: Vec<String> = hosts.iter().filter(|h| **h != host).cloned().collect();
            if let Some(reason) = self.broken(&rest) {
                needed.insert(host.clone(), reason);
                doubtful.push_back(host);
                asked += 1;
            } else {
                *hosts = rest;
                needed.remove(&host);
                asked = 0;
            }
        }
        needed
    }

    fn cost(&self, entry: &str) -> (u64, u64) {
        let Some((namespace, host)) = entry.split_once('/') else { return (0, 0) };
        let Some(labels) = self.demand.instances.first().map(|i| &i.pod.labels) else { return (0, 0) };
        let full = self.demand.full;
        let sum = |all: &mut dyn Iterator<Item = &crate::scope::Scoped<'_>>| {
            let mut size = Size::default();
            all.filter(|s| namespace == "*" || s.service.namespace == namespace).for_each(|s| size += full.size_of(s, labels));
            (size.clusters, size.endpoints)
        };
        if is_wildcard(host) {
            return sum(&mut full.services.iter().filter(|s| subset_of(&s.service.host, host)));
        }
        sum(&mut full.service(host).into_iter())
    }

    /// Hosts that are needed for a plain reason: a call's route ends in the host's Service, and nothing else would bring that
    /// Service in. Without the host the route would lack its cluster, so no comparison is necessary.
    fn directly_needed(&self, hosts: &[String]) -> HashMap<String, usize> {
        let egress = self.egress(hosts);
        let scope = self.scope(&egress);
        let by_rules: BTreeSet<&str> = scope
            .listeners
            .iter()
            .flat_map(|l| &l.virtual_services)
            .flat_map(|v| v.destinations(scope.namespace).into_keys())
            .collect();
        let mut listed: HashMap<&str, u32> = HashMap::default();
        let mut wild: Vec<&str> = Vec::new();
        let carried = self.demand.bound.iter().flat_map(|e| &e.hosts);
        for (_, host) in hosts.iter().chain(carried).filter_map(|h| h.split_once('/')) {
            if is_wildcard(host) {
                wild.push(host);
            } else {
                *listed.entry(host).or_default() += 1;
            }
        }
        let mut out = HashMap::default();
        for (i, (_, wants)) in self.each_wanted().enumerate() {
            for s in wants.iter().flat_map(|w| w.backing.iter().flatten()).map(|&s| &self.mesh().services[s as usize]) {
                let alone = listed.get(s.host.as_str()) == Some(&1)
                    && !by_rules.contains(s.host.as_str())
                    && !wild.iter().any(|w| subset_of(&s.host, w));
                if alone {
                    out.entry(s.entry()).or_insert(i);
                }
            }
        }
        out
    }

    fn answer(&self, mut hosts: Vec<String>, widening: Widening, mut reasons: BTreeMap<String, Reason>) -> Minimal {
        hosts.sort();
        if widening == Widening::Everything {
            reasons.values_mut().for_each(|r| *r = Reason::Unproved);
        }
        Minimal {
            widening,
            reasons,
            after: self.size(&hosts),
            hosts: if hosts.is_empty() { vec![SILENT.to_owned()] } else { hosts },
        }
    }
}

fn backing(scope: &Scope<'_>, host: &str, port: u16) -> Option<u32> {
    scope.service(host).filter(|s| s.port(port).is_some()).map(|s| s.service.order)
}

/// Entries that a call's route may depend on, whether they are needed or not.
pub fn entries_of(demand: &Demand<'_, '_>, call: &Call) -> BTreeSet<String> {
    let mut out = BTreeSet::new();
    let treatments: Vec<Treatment> =
        demand.instances.iter().filter(|i| i.calls).map(|i| demand.full.treat(&i.client(), call)).collect();
    let wanted = Wanted { treatments: Vec::new(), pools: Vec::new(), implied: Vec::new() };
    Search { demand, wanted }.candidates(call, treatments.iter().collect(), &mut out);
    out
}
