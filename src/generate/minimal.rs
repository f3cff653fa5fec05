//! The smallest list of egress hosts that keeps every call, and the proof that it is.
//!
//! Owns the search: candidates from the calls' own routes, widened only as far as the proof needs,
//! then without every host that no call misses. Must never list a host that can be left out, nor
//! end without comparing each call's treatment.

mod needed;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::mesh::host::{is_wildcard, matches, subset_of};
use crate::mesh::{Egress, Mesh, VirtualService};
use crate::model::valid;
use crate::scope::clusters::ProxySize;
use crate::scope::inbound::{self, own_services};
use crate::scope::{Scope, ScopeCall, ScopedService, Treatment};

pub use super::demand::{Demand, Instance, UnroutedHttp};

/// Imports nothing. It is listed for a workload without calls: istiod takes an empty list for
/// `*/*`.
pub const SILENT: &str = "~/*";

/// Matches nothing. As a wildcard it makes istiod scan its Services instead of finding exact hosts
/// in a map. The two differ where a namespace has several ServiceEntries of one host, or where one
/// ServiceEntry has several addresses.
pub const FORCE_SCAN: &str = "./*.unused.invalid";

/// How far the list had to be widened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Widening {
    /// Exact hosts are enough.
    None,
    /// Exact hosts and [`FORCE_SCAN`].
    Scan,
    /// Hosts of all Services that share a port with a call, too.
    Port,
    /// All hosts, `*/*`.
    Everything,
}

/// The smallest list of hosts, with its proof.
#[derive(Clone, Debug)]
pub struct Minimal {
    /// Hosts, sorted; [`SILENT`] alone where none is needed.
    pub hosts: Vec<String>,
    /// How far the list had to be widened.
    pub widening: Widening,
    /// For each host: why it cannot be left out.
    pub reasons: BTreeMap<String, Reason>,
    /// Size of the scope with these hosts.
    pub after: ProxySize,
    /// Calls without a route that the proxy handles as HTTP with all hosts imported, and as plain
    /// TCP with these: their positions. Empty with [`UnroutedHttp::Stays`].
    pub become_tcp: Vec<usize>,
}

/// Why a host cannot be left out.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// The call with this index would have another treatment.
    Call(usize),
    /// The proxy itself sends to this host and port.
    Implied(String, u16),
    /// Incoming requests to this pod on this port would have another treatment.
    Inbound(String, u16),
    /// The snapshot lacks its Service, and what was learned names it.
    Assumed,
    /// `*/*` where nothing narrower could be proved.
    Unproved,
}

/// What the baseline scope decides. A list is compared with it.
struct BaselineDecisions<'m> {
    /// For each calling instance, the treatment of each call.
    treatments: Vec<Vec<Treatment>>,
    /// For each instance, the connection pools of its incoming requests.
    pools: Vec<inbound::Pools<'m>>,
    /// For each implied host, its Service.
    implied: Vec<Option<u32>>,
}

struct Search<'a, 'm> {
    demand: &'a Demand<'a, 'm>,
    baseline: BaselineDecisions<'m>,
}

/// Finds the smallest list. If there is nothing to keep, it is [`SILENT`].
pub fn minimal(demand: &Demand<'_, '_>) -> Minimal {
    let search = Search::new(demand);
    let (mut hosts, mut widening) = search.provable();
    let alternative = search.with_virtual_services(&hosts);
    search.drop_destinations(&mut hosts);
    let mut reasons = search.reduce(&mut hosts);
    if let Some(mut other) = alternative {
        // It can be cheaper: the host of a VirtualService brings its destinations in with no more
        // than the ports that it routes to.
        let other_reasons = search.reduce(&mut other);
        let (other_size, size) = (search.size(&other), search.size(&hosts));
        let is_smaller =
            other_size.clusters <= size.clusters && other_size.endpoints <= size.endpoints;
        if is_smaller && other_size != size {
            (hosts, reasons) = (other, other_reasons);
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
        let baseline = BaselineDecisions {
            treatments: demand.instances.iter().filter(calling).map(treat).collect(),
            pools: demand
                .instances
                .iter()
                .map(|i| inbound::pools(demand.full, i.pod, demand.carried))
                .collect(),
            implied: demand
                .implied
                .iter()
                .map(|(h, p)| service_behind(demand.full, h, *p))
                .collect(),
        };
        Self { demand, baseline }
    }

    fn mesh(&self) -> &'m Mesh {
        self.demand.full.mesh
    }

    /// VirtualServices of the baseline scope.
    fn virtual_services(&self) -> impl Iterator<Item = &'m VirtualService> + use<'a, 'm> {
        self.demand.full.listeners.iter().flat_map(|l| l.virtual_services.iter().copied())
    }

    /// The egress listeners of a Sidecar with these hosts.
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

    /// The first thing that these hosts do not leave as it is; `None` proves the list.
    fn first_change(&self, hosts: &[String]) -> Option<Reason> {
        let egress = self.egress(hosts);
        let scope = self.scope(&egress);
        let calling = self.demand.instances.iter().filter(|i| i.calls);
        for (instance, treatments) in calling.zip(&self.baseline.treatments) {
            let client = instance.client();
            for (i, (call, treatment)) in self.demand.calls.iter().zip(treatments).enumerate() {
                let now = scope.treat(&client, call);
                let stays_http = self.demand.unrouted_http == UnroutedHttp::MayBecomeTcp
                    || now.unrouted_http == treatment.unrouted_http;
                if !now.keeps(treatment) || !stays_http {
                    return Some(Reason::Call(i));
                }
            }
        }
        for ((host, port), service) in self.demand.implied.iter().zip(&self.baseline.implied) {
            if service_behind(&scope, host, *port) != *service {
                return Some(Reason::Implied(host.clone(), *port));
            }
        }
        for (instance, expected) in self.demand.instances.iter().zip(&self.baseline.pools) {
            let pools = inbound::pools(&scope, instance.pod, self.demand.carried);
            if pools != *expected {
                let differing = expected.iter().find(|(port, v)| pools.get(port) != Some(v));
                let port = differing.or_else(|| pools.iter().next()).map_or(0, |(port, _)| *port);
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

    /// A list that keeps everything, not yet the smallest, and how far it had to be widened.
    fn provable(&self) -> (Vec<String>, Widening) {
        let mut hosts: BTreeSet<String> = BTreeSet::new();
        for (call, wants) in self.calls_with_treatments() {
            self.demand.candidates(call, &wants, &mut hosts);
        }
        for (host, _) in self.demand.implied {
            hosts.extend(self.demand.full.service(host).map(|s| s.service.entry()));
        }
        let no_pools = inbound::Pools::new();
        for (instance, _) in
            self.demand.instances.iter().zip(&self.baseline.pools).filter(|(_, p)| **p != no_pools)
        {
            hosts.extend(own_services(self.demand.full, instance.pod));
        }
        // What is no host is not listed. The proof decides whether the calls do without.
        let list = |set: &BTreeSet<String>| {
            set.iter().filter(|e| listable(e)).cloned().collect::<Vec<_>>()
        };
        if self.first_change(&list(&hosts)).is_none() {
            return (list(&hosts), Widening::None);
        }
        // A VirtualService without a rule for this client can still prevent that another one
        // routes its host.
        for call in self.demand.calls {
            let all = self.virtual_services();
            for v in all.filter(|v| v.hosts.iter().any(|h| matches(h, &call.host))) {
                hosts.insert(format!("{}/{}", v.namespace, call.host));
            }
        }
        if self.first_change(&list(&hosts)).is_none() {
            return (list(&hosts), Widening::None);
        }
        hosts.insert(FORCE_SCAN.to_owned());
        if self.first_change(&list(&hosts)).is_none() {
            return (list(&hosts), Widening::Scan);
        }
        let ports: BTreeSet<u16> = self.demand.calls.iter().map(|c| c.port).collect();
        let on_port = self.demand.full.listeners.iter().flat_map(|l| &l.services);
        let on_port = on_port.filter(|s| s.ports.iter().any(|p| ports.contains(&p.number)));
        hosts.extend(on_port.map(|s| s.service.entry()));
        if self.first_change(&list(&hosts)).is_none() {
            return (list(&hosts), Widening::Port);
        }
        let of_rule =
            |v: &'m VirtualService| v.hosts.iter().map(move |h| format!("{}/{h}", v.namespace));
        hosts.extend(self.virtual_services().flat_map(of_rule));
        if self.first_change(&list(&hosts)).is_none() {
            return (list(&hosts), Widening::Port);
        }
        (vec!["*/*".to_owned()], Widening::Everything)
    }

    /// The list with the exact hosts of all VirtualServices added, if they are few enough to try
    /// and the longer list still keeps everything.
    fn with_virtual_services(&self, hosts: &[String]) -> Option<Vec<String>> {
        /// Each is tried with a scope of its own.
        const FEW: usize = 64;
        if self.virtual_services().count() > FEW {
            return None;
        }
        let exact_of = |v: &'m VirtualService| {
            let hosts = v.hosts.iter().filter(|h| !is_wildcard(h));
            hosts.map(move |h| format!("{}/{h}", v.namespace))
        };
        let exact = self.virtual_services().flat_map(exact_of);
        let mut more: BTreeSet<String> = exact.filter(|e| listable(e)).collect();
        more.extend(hosts.iter().cloned());
        let more: Vec<String> = more.into_iter().collect();
        (more.len() > hosts.len() && self.first_change(&more).is_none()).then_some(more)
    }

    fn size(&self, hosts: &[String]) -> ProxySize {
        self.scope(&self.egress(hosts)).size(self.demand.labels().unwrap_or(&BTreeMap::new()))
    }

    /// Each call with its treatment for every calling instance.
    fn calls_with_treatments(&self) -> impl Iterator<Item = (&'a ScopeCall, Vec<&Treatment>)> {
        let calls = self.demand.calls.iter().enumerate();
        calls.map(|(i, c)| (c, self.baseline.treatments.iter().map(|t| &t[i]).collect()))
    }

    /// Takes out all hosts that only a rule leads to, at once: a rule brings its destinations in.
    fn drop_destinations(&self, hosts: &mut Vec<String>) {
        let called: BTreeSet<&str> = self.demand.calls.iter().map(|c| c.host.as_str()).collect();
        let is_called = |h: &String| {
            h.split_once('/').is_none_or(|(_, host)| is_wildcard(host) || called.contains(host))
        };
        let rest: Vec<String> = hosts.iter().filter(|h| is_called(h)).cloned().collect();
        if rest.len() < hosts.len() && self.first_change(&rest).is_none() {
            *hosts = rest;
        }
    }

    /// Takes out every host that nothing misses, the most expensive ones first. Returns the reason
    /// for each host that is left.
    fn reduce(&self, hosts: &mut Vec<String>) -> BTreeMap<String, Reason> {
        let direct = self.directly_needed(hosts).into_iter();
        let mut needed: BTreeMap<String, Reason> =
            direct.map(|(h, call)| (h, Reason::Call(call))).collect();
        needed.retain(|h, _| hosts.contains(h));
        let mut doubtful: Vec<String> =
            hosts.iter().filter(|h| !needed.contains_key(*h)).cloned().collect();
        doubtful.sort_by_cached_key(|h| (Reverse(self.cost(h)), h.clone()));
        // Round after round, until each host that is left was tried since the last one was taken
        // out.
        let mut doubtful = VecDeque::from(doubtful);
        let mut tried = 0;
        while tried < doubtful.len() {
            let Some(host) = doubtful.pop_front() else { break };
            let rest: Vec<String> = hosts.iter().filter(|h| **h != host).cloned().collect();
            if let Some(reason) = self.first_change(&rest) {
                needed.insert(host.clone(), reason);
                doubtful.push_back(host);
                tried += 1;
            } else {
                *hosts = rest;
                needed.remove(&host);
                tried = 0;
            }
        }
        needed
    }

    /// Envoy clusters and endpoints that an entry brings in.
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

    /// The calls without a route that are HTTP in the baseline scope alone.
    fn becoming_tcp(&self, hosts: &[String]) -> Vec<usize> {
        let was_http = |i: &usize| self.baseline.treatments.iter().any(|t| t[*i].unrouted_http);
        let candidates: Vec<usize> = (0..self.demand.calls.len()).filter(was_http).collect();
        if candidates.is_empty() {
            return candidates;
        }
        let egress = self.egress(hosts);
        let scope = self.scope(&egress);
        let calling = || self.demand.instances.iter().filter(|i| i.calls);
        let becomes_tcp = |i: &usize| {
            calling().zip(&self.baseline.treatments).any(|(instance, treatments)| {
                treatments[*i].unrouted_http
                    && !scope.treat(&instance.client(), &self.demand.calls[*i]).unrouted_http
            })
        };
        candidates.into_iter().filter(becomes_tcp).collect()
    }

    /// The result: the hosts, the assumed ones among them, each with its reason.
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
            become_tcp: self.becoming_tcp(&hosts),
            hosts: if hosts.is_empty() { vec![SILENT.to_owned()] } else { hosts },
        }
    }
}

/// Whether an entry may be listed. A name from a packet need not be a valid host, and istiod
/// refuses a Sidecar with an invalid one.
fn listable(entry: &str) -> bool {
    let Some((namespace, host)) = entry.split_once('/') else { return false };
    let name = host.strip_prefix("*.").unwrap_or(host);
    let has_namespace = matches!(namespace, "." | "*" | "~") || valid::namespace(namespace).is_ok();
    has_namespace && (host == "*" || valid::is_host(name))
}

/// Position in the mesh of the Service that has this host and port in a scope.
fn service_behind(scope: &Scope<'_>, host: &str, port: u16) -> Option<u32> {
    scope.service(host).filter(|s| s.port(port).is_some()).map(|s| s.service.order)
}
