//! The smallest list of egress hosts that keeps every call, and the proof that it is.
//!
//! Owns the search: candidates from the calls' own routes, widened only as far as the proof asks,
//! then every host taken out that no call misses. Must never list a host that can be left out, nor
//! end without comparing each call's treatment.

use std::collections::{BTreeMap, BTreeSet};

use foldhash::HashMap;

use crate::mesh::host::{is_wildcard, matches, subset_of};
use crate::mesh::{Egress, Mesh, MeshPod, Sidecar};
use crate::model::valid;
use crate::scope::clusters::ProxySize;
use crate::scope::inbound::{self, own_services};
use crate::scope::{Client, Scope, ScopeCall, ScopedService, Treatment};

/// Imports nothing: what a workload without calls needs (an empty list would mean `*/*`).
pub const SILENT: &str = "~/*";

/// Matches nothing, and being a wildcard makes istiod scan its Services instead of looking exact
/// hosts up. The two differ where one namespace holds several entries of a host, or one entry has
/// several addresses.
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
        Client {
            namespace: &self.pod.namespace,
            labels: &self.pod.labels,
            address: self.address.as_deref(),
        }
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
    pub calls: &'a [ScopeCall],
    /// Clusters that the proxy itself sends to: host and port.
    pub implied: &'a [(String, u16)],
    /// Entries that are listed whatever the proof says: the snapshot lacks their Services.
    pub assumed: &'a [String],
}

impl Demand<'_, '_> {
    /// Labels of the pod that sizes are told for.
    pub(super) fn labels(&self) -> Option<&BTreeMap<String, String>> {
        self.instances.first().map(|i| &*i.pod.labels)
    }
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
    pub after: ProxySize,
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
    /// The snapshot lacks its Service, and what was learned names it.
    Assumed,
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
    search.drop_led_to(&mut hosts);
    let mut reasons = search.reduce(&mut hosts);
    if let Some(mut other) = more {
        // Another way in can be cheaper: an entry for a VirtualService brings its destinations with
        // the ports it routes to alone.
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
        let treat = |i: &Instance<'_>| {
            demand.calls.iter().map(|c| demand.full.treat(&i.client(), c)).collect()
        };
        let wanted = Wanted {
            treatments: demand.instances.iter().filter(calling).map(treat).collect(),
            pools: demand
                .instances
                .iter()
                .map(|i| inbound::pools(demand.full, i.pod, demand.carried))
                .collect(),
            implied: demand.implied.iter().map(|(h, p)| backing(demand.full, h, *p)).collect(),
        };
        Self { demand, wanted }
    }

    fn mesh(&self) -> &'m Mesh {
        self.demand.full.mesh
    }

    fn egress(&self, hosts: &[String]) -> Vec<Egress> {
        let hosts: Vec<String> = hosts
            .iter()
            .chain(self.demand.assumed.iter().filter(|a| !hosts.contains(a)))
            .cloned()
            .collect();
        let hosts = if hosts.is_empty() { vec![SILENT.to_owned()] } else { hosts };
        let mut all = self.demand.bound.to_vec();
        all.push(Egress { hosts, ..Egress::default() });
        all
    }

    /// The first thing that these hosts do not keep; `None` is the proof.
    fn broken(&self, hosts: &[String]) -> Option<Reason> {
        let egress = self.egress(hosts);
        let scope = self.scope(&egress);
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
            if backing(&scope, host, *port) != *want {
                return Some(Reason::Implied(host.clone(), *port));
            }
        }
        for (instance, want) in self.demand.instances.iter().zip(&self.wanted.pools) {
            let got = inbound::pools(&scope, instance.pod, self.demand.carried);
            if got != *want {
                let port = want
                    .iter()
                    .find(|(p, v)| got.get(p) != Some(v))
                    .or_else(|| got.iter().next())
                    .map_or(0, |(p, _)| *p);
                return Some(Reason::Inbound(instance.pod.name.clone(), port));
            }
        }
        None
    }

    fn scope<'e>(&self, egress: &'e [Egress]) -> Scope<'e>
    where
        'm: 'e,
        'a: 'e,
    {
        Scope::new(self.mesh(), self.demand.full.namespace, egress, self.demand.full.policy)
    }

    /// A list that keeps everything, and how far it had to be widened.
    fn provable(&self) -> (Vec<String>, Widening) {
        let mut hosts: BTreeSet<String> = BTreeSet::new();
        for (call, wants) in self.each_wanted() {
            self.demand.candidates(call, &wants, &mut hosts);
        }
        for (host, _) in self.demand.implied {
            hosts.extend(self.demand.full.service(host).map(|s| s.service.entry()));
        }
        let no_pools = inbound::Pools::new();
        for (instance, _) in
            self.demand.instances.iter().zip(&self.wanted.pools).filter(|(_, p)| **p != no_pools)
        {
            hosts.extend(own_services(self.demand.full, instance.pod));
        }
        // What is no host is not listed; whether the calls do without is for the proof to tell.
        let list = |set: &BTreeSet<String>| {
            set.iter().filter(|e| listable(e)).cloned().collect::<Vec<_>>()
        };
        if self.broken(&list(&hosts)).is_none() {
            return (list(&hosts), Widening::None);
        }
        // A VirtualService that has no rule for this client can still keep another one away from
        // its host.
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
        hosts.extend(
            own_virtual.flat_map(|v| v.hosts.iter().map(move |h| format!("{}/{h}", v.namespace))),
        );
        if self.broken(&list(&hosts)).is_none() {
            return (list(&hosts), Widening::Port);
        }
        (vec!["*/*".to_owned()], Widening::Everything)
    }

    /// The list with the exact hosts of all VirtualServices beside it, where they are few enough to
    /// try and the list still holds.
    fn alternatives(&self, hosts: &[String]) -> Option<Vec<String>> {
        /// Each is tried by a scope of its own.
        const FEW: usize = 64;
        if self.demand.full.listeners.iter().map(|l| l.virtual_services.len()).sum::<usize>() > FEW
        {
            return None;
        }
        let all = self.demand.full.listeners.iter().flat_map(|l| &l.virtual_services);
        let exact = all.flat_map(|v| {
            v.hosts.iter().filter(|h| !is_wildcard(h)).map(move |h| format!("{}/{h}", v.namespace))
        });
        let mut more: BTreeSet<String> = exact.filter(|e| listable(e)).collect();
        more.extend(hosts.iter().cloned());
        let more: Vec<String> = more.into_iter().collect();
        (more.len() > hosts.len() && self.broken(&more).is_none()).then_some(more)
    }

    fn size(&self, hosts: &[String]) -> ProxySize {
        self.scope(&self.egress(hosts)).size(self.demand.labels().unwrap_or(&BTreeMap::new()))
    }

    fn each_wanted(&self) -> impl Iterator<Item = (&'a ScopeCall, Vec<&Treatment>)> {
        let calls = self.demand.calls.iter().enumerate();
        calls.map(|(i, c)| (c, self.wanted.treatments.iter().map(|t| &t[i]).collect()))
    }

    /// Takes out what only a rule leads to, all at once: it comes in with the rule.
    fn drop_led_to(&self, hosts: &mut Vec<String>) {
        let called: BTreeSet<&str> = self.demand.calls.iter().map(|c| c.host.as_str()).collect();
        let direct = |h: &String| {
            h.split_once('/').is_none_or(|(_, host)| is_wildcard(host) || called.contains(host))
        };
        let rest: Vec<String> = hosts.iter().filter(|h| direct(h)).cloned().collect();
        if rest.len() < hosts.len() && self.broken(&rest).is_none() {
            *hosts = rest;
        }
    }

    /// Takes out every host that nothing misses, the most expensive ones first. For each host that
    /// is left: why.
    fn reduce(&self, hosts: &mut Vec<String>) -> BTreeMap<String, Reason> {
        let mut needed: BTreeMap<String, Reason> = self
            .directly_needed(hosts)
            .into_iter()
            .map(|(h, call)| (h, Reason::Call(call)))
            .collect();
        needed.retain(|h, _| hosts.contains(h));
        let mut doubtful: Vec<String> =
            hosts.iter().filter(|h| !needed.contains_key(*h)).cloned().collect();
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
        let Some(labels) = self.demand.labels() else { return (0, 0) };
        let full = self.demand.full;
        let sum = |all: &mut dyn Iterator<Item = &ScopedService<'_>>| {
            let mut size = ProxySize::default();
            all.filter(|s| namespace == "*" || s.service.namespace == namespace)
                .for_each(|s| size += full.size_of(s, labels));
            (size.clusters, size.endpoints)
        };
        if is_wildcard(host) {
            return sum(&mut full.services.iter().filter(|s| subset_of(&s.service.host, host)));
        }
        sum(&mut full.service(host).into_iter())
    }

    /// Hosts that are needed for a plain reason, so that no comparison is necessary: a call's route
    /// ends in the host's Service, and nothing else would bring that Service in (the route would
    /// lack its cluster); or a step of the route is a rule of a VirtualService that no other host
    /// imports.
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
            for s in wants
                .iter()
                .flat_map(|w| w.backing.iter().flatten())
                .map(|&s| &self.mesh().services()[s as usize])
            {
                let alone = listed.get(s.host.as_str()) == Some(&1)
                    && !by_rules.contains(s.host.as_str())
                    && !wild.iter().any(|w| subset_of(&s.host, w));
                if alone {
                    out.entry(s.entry()).or_insert(i);
                }
            }
        }
        // A listener with a port may import the VirtualService as well.
        if self.demand.bound.is_empty() {
            let mut by_namespace: HashMap<&str, Vec<(&String, &str)>> = HashMap::default();
            for entry in hosts {
                let Some((namespace, host)) = entry.split_once('/') else { continue };
                by_namespace.entry(namespace).or_default().push((entry, host));
            }
            for (i, (_, wants)) in self.each_wanted().enumerate() {
                let rules = wants.iter().flat_map(|w| &w.steps).filter_map(|s| s.virtual_service);
                for v in rules.map(|v| &self.mesh().virtual_services()[v as usize]) {
                    let near = [v.namespace.as_str(), "*", "."]
                        .into_iter()
                        .filter_map(|n| by_namespace.get(n))
                        .flatten();
                    let mut importing =
                        near.filter(|(_, host)| v.hosts.iter().any(|h| matches(h, host)));
                    if let (Some((entry, _)), None) = (importing.next(), importing.next()) {
                        out.entry((*entry).clone()).or_insert(i);
                    }
                }
            }
        }
        out
    }

    fn answer(
        &self,
        mut hosts: Vec<String>,
        widening: Widening,
        mut reasons: BTreeMap<String, Reason>,
    ) -> Minimal {
        let assumed = self.demand.assumed.iter().filter(|a| !hosts.contains(a) && listable(a));
        for entry in assumed.cloned().collect::<Vec<_>>() {
            reasons.insert(entry.clone(), Reason::Assumed);
            hosts.push(entry);
        }
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

/// Whether an egress list may hold an entry: what packets name need be no host, and istiod refuses
/// a Sidecar with one that is none.
fn listable(entry: &str) -> bool {
    let Some((namespace, host)) = entry.split_once('/') else { return false };
    let name = host.strip_prefix("*.").unwrap_or(host);
    let of_a_namespace =
        matches!(namespace, "." | "*" | "~") || valid::namespace(namespace).is_ok();
    of_a_namespace && (host == "*" || valid::is_host(name))
}

fn backing(scope: &Scope<'_>, host: &str, port: u16) -> Option<u32> {
    scope.service(host).filter(|s| s.port(port).is_some()).map(|s| s.service.order)
}
