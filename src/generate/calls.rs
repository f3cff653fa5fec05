//! From dependencies to calls: what the application addressed, of which packets show only the end.
//!
//! Owns which calls a workload's dependencies, declared calls and lookups stand for, and what
//! names, lookups and addresses say for or against each. Must never drop a possible call without
//! saying so.

mod ending;
mod expand;
mod reverse;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::Serialize;

use super::declared::{DeclaredCall, protocol_named};
use super::learned::{Gap, Learned};
use super::names::{cluster_name, full_name};
use super::presence::{HostPresence, host_presence};
use crate::mesh::Mesh;
use crate::mesh::host::matches;
use crate::model::{Dependency, Destination, Grade, Protocol, Unresolved};
use crate::scope::{CallProtocol, Client, RouteStep, Scope, ScopeCall};
use ending::Ending;
use expand::{Expander, has_port};

/// Where a call comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// It was seen, to the dependency's own host.
    Learned,
    /// It was seen: the application named this host, which leads to the dependency.
    Addressed,
    /// A VirtualService of this host leads to the dependency. Nothing shows whether the application
    /// used it.
    Possible,
    /// It is declared.
    Declared,
    /// The host was looked up, and no connection to it was seen.
    LookedUp,
}

/// A call with where it comes from.
#[derive(Clone, Debug)]
pub struct PlannedCall {
    /// The call.
    pub call: ScopeCall,
    /// Where it comes from.
    pub origin: Origin,
    /// Index of the dependency behind it, in [`Learned::dependencies`].
    pub dependency: Option<usize>,
}

/// All calls of a workload, and what there is to say about them.
#[derive(Debug, Default)]
pub struct CallPlan {
    /// The calls, sorted, each once.
    pub calls: Vec<PlannedCall>,
    /// Sentences for the reviewer.
    pub remarks: Vec<String>,
    /// Hosts that could have been addressed and were not, each with the reason.
    pub rejected: BTreeMap<String, String>,
    /// Indices of the dependencies that have a call, or a host that is listed for them.
    pub covered: BTreeSet<usize>,
    /// Assumed entries `namespace/host`: the snapshot has no such Service, and what was learned
    /// names its namespace and host.
    pub assumed: BTreeSet<String>,
    /// Entries that are listed because their host was called, though no call of the plan reaches
    /// it.
    pub unreached: BTreeSet<String>,
    /// What no list is sure to keep.
    pub gaps: BTreeSet<Gap>,
}

/// Makes the plan of one workload.
pub struct Planner<'a, 'm> {
    expander: Expander<'a, 'm>,
    calls: BTreeMap<ScopeCall, (Origin, Option<usize>)>,
    /// Namespaces and hosts of the mesh that were called or are declared. A call must reach each of
    /// them.
    called: BTreeSet<(String, String)>,
    plan: CallPlan,
}

impl<'a, 'm> Planner<'a, 'm> {
    /// Begins a plan for a client; `full` is its scope with all hosts imported.
    pub fn new(full: &'a Scope<'m>, client: Client<'a>) -> Self {
        Self {
            expander: Expander { full, client },
            calls: BTreeMap::new(),
            called: BTreeSet::new(),
            plan: CallPlan::default(),
        }
    }

    /// The plan, with all calls found.
    pub fn finish(mut self) -> CallPlan {
        self.list_unreached();
        let planned = |(call, (origin, dependency))| PlannedCall { call, origin, dependency };
        self.plan.calls = self.calls.into_iter().map(planned).collect();
        self.plan
    }

    fn mesh(&self) -> &'m Mesh {
        self.expander.full.mesh
    }

    /// A name as the resolver of the client finds it.
    fn full_name(&self, name: &str) -> String {
        full_name(self.mesh(), name, self.expander.client.namespace)
    }

    /// Whether the mesh has a host.
    fn presence(&self, host: &str) -> HostPresence {
        host_presence(self.expander.full, host, self.expander.client.namespace)
    }

    fn add(&mut self, call: ScopeCall, origin: Origin, dependency: Option<usize>) {
        let new = (origin, dependency);
        self.plan.covered.extend(dependency);
        let old = self.calls.entry(call).or_insert(new);
        *old = (*old).min(new);
    }

    /// Lists by its name each host that was called and that no call of the plan reaches. The
    /// packets show that the proxy had the host, or a person declares it. So the call that was made
    /// is another than the one that was found.
    fn list_unreached(&mut self) {
        let Expander { full, client } = self.expander;
        self.called.retain(|(_, host)| full.service(host).is_some());
        if self.called.is_empty() {
            return;
        }
        let mut reached: BTreeSet<String> = BTreeSet::new();
        for call in self.calls.keys() {
            let treatment = full.treat(&client, call);
            let clusters = treatment.steps.iter().flat_map(RouteStep::all_clusters);
            reached.extend(clusters.map(|c| c.host.to_string()));
        }
        for (namespace, host) in std::mem::take(&mut self.called) {
            // A rejected host was reached through another one, which alone was addressed.
            if reached.contains(&host) || self.plan.rejected.contains_key(&host) {
                continue;
            }
            self.plan.remarks.push(format!(
                "{host} was called, and no call that the model knows reaches it: it is listed by \
                 its name"
            ));
            self.plan.unreached.insert(format!("{namespace}/{host}"));
        }
    }

    /// Adds a declared call. A host, port or protocol that the mesh does not have becomes a gap or
    /// a remark.
    pub fn declare(&mut self, d: &DeclaredCall) {
        let host = self.full_name(&d.host);
        let known_ports = match d.port {
            Some(_) => self.expander.own_ports(&host),
            None => self.expander.ports(&host),
        };
        self.check_declared(d, &host, &known_ports);
        let protocol = self.declared_protocol(d, &host);
        let ports = d.port.map_or(known_ports, |p| BTreeSet::from([p]));
        for port in ports {
            let parent = host.split_once('.').map_or("", |(_, parent)| parent);
            let by_name = self.mesh().services_of(&host).chain(self.mesh().services_of(parent));
            let mut all = by_name.chain(self.expander.services_at(&host));
            let service = all.find(|s| has_port(s, port));
            let called = service.map(|s| (s.namespace.clone(), s.host.clone()));
            drop(all);
            self.called.extend(called);
            for call in self.expander.calls(&host, port, protocol, d.address) {
                self.add(call, Origin::Declared, None);
            }
        }
    }

    /// Adds what is wrong with the host or the port of a declared call.
    fn check_declared(&mut self, d: &DeclaredCall, host: &str, known_ports: &BTreeSet<u16>) {
        let why = match self.presence(host) {
            HostPresence::Missing { host: whole, .. } => {
                format!("it is declared, and the snapshot has no Service {whole}")
            }
            HostPresence::Hidden(namespace) => {
                self.plan.remarks.push(undiscovered(host, &namespace));
                return;
            }
            HostPresence::Present => match d.port {
                Some(p) if !known_ports.is_empty() && !known_ports.contains(&p) => {
                    let all: Vec<String> = known_ports.iter().map(ToString::to_string).collect();
                    format!(
                        "it is declared, and the Service has no port {p} (it has {}); write the \
                         Service's port, not the pod's",
                        all.join(", ")
                    )
                }
                None if known_ports.is_empty() => {
                    "it is declared without a port, and the mesh knows none".to_owned()
                }
                _ => return,
            },
        };
        let port = d.port.map(|p| format!(":{p}")).unwrap_or_default();
        let from = if d.from.is_empty() { String::new() } else { format!(" ({})", d.from) };
        self.plan.gaps.insert(Gap { call: format!("{host}{port}{from}"), why });
    }

    /// The protocol of a declared call; `None` if it has none, or one that nobody knows.
    fn declared_protocol(&mut self, d: &DeclaredCall, host: &str) -> Option<CallProtocol> {
        let name = d.protocol.as_deref()?;
        let protocol = protocol_named(name);
        if protocol.is_none() {
            self.plan.remarks.push(format!(
                "{host}: the protocol {name:?} is none of http, tls, tcp: the port decides"
            ));
        }
        protocol
    }

    /// Adds the calls behind what was learned.
    pub fn learn(&mut self, learned: &Learned) {
        let looked_up: BTreeSet<&str> = learned.lookups.iter().map(|l| l.host.as_str()).collect();
        for (index, d) in learned.dependencies.iter().enumerate() {
            if d.key.protocol == Protocol::Tcp {
                self.learn_dependency(index, d, &looked_up);
            }
        }
        self.learn_lookups(learned);
    }

    fn learn_dependency(&mut self, index: usize, d: &Dependency, looked_up: &BTreeSet<&str>) {
        let port = d.key.port;
        match &d.key.destination {
            Destination::Service(s) => {
                self.add_called(index, &s.namespace, &s.host);
                self.add_behind(Ending { index, dependency: d, host: &s.host }, looked_up);
            }
            Destination::Ambiguous { candidates } => {
                for c in candidates {
                    self.add_called(index, &c.namespace, &c.host);
                    self.add_seen(index, d, &c.host, c.port);
                }
            }
            Destination::External { host: Some(host), namespace, entry_host, .. } => {
                match namespace {
                    Some(namespace) => {
                        let listed = entry_host.as_ref().unwrap_or(host);
                        self.add_called(index, namespace, listed);
                    }
                    None => self.assume_named(index, host),
                }
                self.add_behind(Ending { index, dependency: d, host }, looked_up);
            }
            Destination::Unresolved { host: Some(host), why, .. }
                if *why == Unresolved::UnknownMeshHost =>
            {
                // Istio's own name of an Envoy cluster: the proxy had the cluster, so the host
                // exists.
                if self.mesh().has_host(host) {
                    self.add_behind(Ending { index, dependency: d, host }, looked_up);
                } else {
                    self.assume_named(index, host);
                }
            }
            Destination::Unresolved { address, why: Unresolved::NoServicePort, .. } => {
                // A proxy has nothing but its address and port to decide by.
                for protocol in [CallProtocol::Http, CallProtocol::Tls, CallProtocol::Tcp] {
                    self.add(by_address(*address, port, protocol), Origin::Learned, Some(index));
                }
            }
            Destination::External { host: None, address: Some(address), .. } => {
                let has_sni = d.evidence.contains_key(&Grade::Sni);
                let protocol = if has_sni { CallProtocol::Tls } else { CallProtocol::Tcp };
                self.add(by_address(*address, port, protocol), Origin::Learned, Some(index));
            }
            Destination::Pod { namespace, .. } => {
                if self.mesh().hides(namespace) {
                    self.plan.covered.insert(index);
                }
                for address in wire_addresses(d) {
                    let call = by_address(address, port, CallProtocol::Tcp);
                    self.add(call, Origin::Learned, Some(index));
                }
            }
            Destination::External { .. }
            | Destination::Infrastructure { .. }
            | Destination::Unresolved { .. }
            | Destination::Others { .. } => {}
        }
    }

    /// Adds a host of the mesh that a dependency called.
    fn add_called(&mut self, index: usize, namespace: &str, host: &str) {
        self.called.insert((namespace.to_owned(), host.to_owned()));
        self.assume(Some(index), namespace, host);
    }

    /// Assumes a host that was learned with its namespace, where the snapshot has no such Service:
    /// it was deleted, or its namespace was not listed.
    fn assume(&mut self, dependency: Option<usize>, namespace: &str, host: &str) {
        if self.mesh().has_host(host) {
            return;
        }
        self.plan.covered.extend(dependency);
        let entry = format!("{namespace}/{host}");
        if self.plan.assumed.contains(&entry) {
            return;
        }
        if self.mesh().hides(namespace) {
            self.plan.remarks.push(undiscovered(host, namespace));
            return;
        }
        self.plan.assumed.insert(entry);
        // A VirtualService of another namespace may lead it elsewhere.
        let rules = self.expander.full.listeners.iter().flat_map(|l| &l.virtual_services);
        let leading = rules.filter(|v| v.hosts.iter().any(|h| matches(h, host)));
        self.plan.assumed.extend(leading.map(|v| format!("{}/{host}", v.namespace)));
    }

    /// Assumes a host of which only the name was on the wire, where the name is one of the cluster.
    fn assume_named(&mut self, index: usize, host: &str) {
        let domain = format!(".{}", self.mesh().domain);
        if !host.ends_with(&domain) && !host.ends_with(".svc.clusterset.local") {
            return;
        }
        let client_namespace = self.expander.client.namespace;
        if let Some((namespace, host)) = cluster_name(self.mesh(), host, client_namespace) {
            self.assume(Some(index), &namespace, &host);
        }
    }

    /// Adds hosts that were looked up and that no call explains. The workload may call them where
    /// no watched interface shows it, itself included.
    fn learn_lookups(&mut self, learned: &Learned) {
        for lookup in &learned.lookups {
            let host = self.full_name(&lookup.host);
            let is_explained = self.calls.keys().any(|c| c.host == host)
                || self.plan.rejected.contains_key(&host)
                // A lookup that every proxy makes says nothing of the application.
                || self.mesh().looked_up_by_proxies(&host);
            if is_explained {
                continue;
            }
            if let HostPresence::Missing { namespace, host } = self.presence(&host)
                && host == lookup.host
            {
                self.assume(None, &namespace, &host);
                continue;
            }
            let ports = self.expander.ports(&host);
            if ports.is_empty() || self.is_istiod(&host) {
                continue;
            }
            self.plan.remarks.push(format!(
                "{host} was looked up and no connection to it was seen (a call of a pod to itself \
                 shows none, nor does one that its proxy refused): it is kept"
            ));
            for port in ports {
                for call in self.expander.calls(&host, port, None, None) {
                    self.add(call, Origin::LookedUp, None);
                }
            }
        }
    }

    fn is_istiod(&self, host: &str) -> bool {
        let mut services = self.mesh().services_of(host);
        services.any(|s| s.object == "istiod" || s.object.starts_with("istiod-"))
    }
}

/// A call to an address by that address.
fn by_address(address: IpAddr, port: u16, protocol: CallProtocol) -> ScopeCall {
    ScopeCall { host: address.to_string(), port, protocol, address }
}

/// Responders' addresses in the examples of a dependency.
fn wire_addresses(d: &Dependency) -> BTreeSet<IpAddr> {
    d.evidence.values().flat_map(|e| &e.examples).map(|x| x.to.ip()).collect()
}

/// The remark on a call that no proxy can have a route for.
fn undiscovered(host: &str, namespace: &str) -> String {
    format!(
        "{host}: istiod does not look at the namespace {namespace} (discoverySelectors), so no \
         host can cover it: the proxy treats the call as one to the outside, with and without the \
         Sidecar"
    )
}

#[cfg(test)]
mod tests;
