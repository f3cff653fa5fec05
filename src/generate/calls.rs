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

use super::declared::{Declared, protocol};
use super::known::{Gap, Known};
use super::place::{Place, cluster_name, place};
use crate::mesh::UNSPECIFIED;
use crate::mesh::host::{is_wildcard, matches, qualify};
use crate::mesh::{AppProtocol, Mesh, MeshService, Registry, ServiceResolution};
use crate::model::{Dependency, Destination, Grade, Protocol, Unresolved};
use crate::scope::{CallProtocol, Client, RouteStep, Scope, ScopeCall, Treatment};

/// Stands for an address of the world outside where none is known (TEST-NET-3, RFC 5737).
const SOMEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1));

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
    /// Where from.
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
    full: &'a Scope<'m>,
    client: Client<'a>,
    found: BTreeMap<ScopeCall, (Origin, Option<usize>)>,
    /// Hosts of the mesh that were called or are declared, with their namespaces: a call must reach
    /// each of them.
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
        for call in self.found.keys() {
            let treatment = self.full.treat(&self.client, call);
            let all = treatment.steps.iter().flat_map(RouteStep::all_clusters);
            reached.extend(all.map(|c| c.host.to_string()));
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

    /// Adds the calls behind what was learned.
    pub fn learn(&mut self, known: &Known) {
        let looked_up: BTreeSet<&str> = known.lookups.iter().map(|l| l.host.as_str()).collect();
        for (i, d) in
            known.dependencies.iter().enumerate().filter(|(_, d)| d.key.protocol == Protocol::Tcp)
        {
            match &d.key.destination {
                Destination::Service(s) => {
                    self.called.insert((s.namespace.clone(), s.host.clone()));
                    self.assume(Some(i), &s.namespace, &s.host);
                    self.behind(i, d, &s.host, &looked_up);
                }
                Destination::Ambiguous { candidates } => {
                    for c in candidates {
                        self.called.insert((c.namespace.clone(), c.host.clone()));
                        self.assume(Some(i), &c.namespace, &c.host);
                        self.seen(i, d, &c.host, c.port);
                    }
                }
                Destination::External { host: Some(host), namespace, entry_host, .. } => {
                    match namespace {
                        Some(n) => {
                            let listed = entry_host.as_ref().unwrap_or(host);
                            self.called.insert((n.clone(), listed.clone()));
                            self.assume(Some(i), n, listed);
                        }
                        None => self.assume_named(i, host),
                    }
                    self.behind(i, d, host, &looked_up)
                }
                Destination::Unresolved { host: Some(host), why, .. }
                    if *why == Unresolved::UnknownMeshHost =>
                {
                    // Istio's own name of a cluster: the proxy had it, so the host is one.
                    if self.mesh().has_host(host) {
                        self.behind(i, d, host, &looked_up);
                    } else {
                        self.assume_named(i, host);
                    }
                }
                Destination::Unresolved { address, why: Unresolved::NoServicePort, .. } => {
                    // Its address and port are all that a proxy has to go by.
                    for protocol in [CallProtocol::Http, CallProtocol::Tls, CallProtocol::Tcp] {
                        let (host, port) = (address.to_string(), d.key.port);
                        let call = ScopeCall { host, port, protocol, address: *address };
                        self.add(call, Origin::Learned, Some(i));
                    }
                }
                Destination::External { host: None, address: Some(a), .. } => {
                    let (host, port) = (a.to_string(), d.key.port);
                    let protocol = if d.evidence.contains_key(&Grade::Sni) {
                        CallProtocol::Tls
                    } else {
                        CallProtocol::Tcp
                    };
                    self.add(
                        ScopeCall { host, port, protocol, address: *a },
                        Origin::Learned,
                        Some(i),
                    );
                }
                Destination::Pod { namespace, .. } => {
                    let own = self.mesh().hides(namespace);
                    if own {
                        self.plan.covered.insert(i);
                    }
                    for a in wire_addresses(d) {
                        let call = ScopeCall {
                            host: a.to_string(),
                            port: d.key.port,
                            protocol: CallProtocol::Tcp,
                            address: a,
                        };
                        self.add(call, Origin::Learned, Some(i));
                    }
                }
                Destination::External { .. }
                | Destination::Infrastructure { .. }
                | Destination::Unresolved { .. }
                | Destination::Others { .. } => {}
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

    fn seen(&mut self, i: usize, d: &Dependency, host: &str, port: u16) {
        let named = d.evidence.contains_key(&Grade::Sni);
        let mut calls = self.expand(host, port, named.then_some(CallProtocol::Tls), None);
        // Where a DestinationRule begins TLS, the server name is the proxy's, and the application
        // speaks what the port says.
        if named && self.mesh().services_of(host).any(|s| has_port(s, port)) {
            calls.extend(self.expand(host, port, None, None));
        }
        // Of a headless Service and of an entry without an address, the wire tells addresses.
        for a in wire_addresses(d) {
            calls.extend(
                calls
                    .clone()
                    .into_iter()
                    .filter(|c| c.address == SOMEWHERE)
                    .map(|c| ScopeCall { address: a, ..c }),
            );
        }
        for call in calls {
            self.add(call, Origin::Learned, Some(i));
        }
    }

    /// Adds the calls of another host that end at the dependency; whether there are any.
    fn lead_to(
        &mut self,
        i: usize,
        d: &Dependency,
        other: &str,
        host: &str,
        origin: Origin,
    ) -> bool {
        let mut ports = self.ports(other);
        if ports.is_empty() {
            ports.insert(d.key.port);
        }
        let ends_there = |t: &Treatment| {
            let mut clusters = t.steps.iter().flat_map(RouteStep::all_clusters);
            clusters.any(|c| c.host == host && c.port == d.key.port)
        };
        let mut any = false;
        for port in ports {
            for call in self.expand(other, port, None, None) {
                if ends_there(&self.full.treat(&self.client, &call)) {
                    self.add(call, origin, Some(i));
                    any = true;
                }
            }
        }
        any
    }

    /// Ports of the Kubernetes Service that has this host, or below which it is.
    fn own_ports(&self, host: &str) -> BTreeSet<u16> {
        let of = |host: &str| {
            let all = self.mesh().services_of(host);
            let own =
                all.filter(|s| s.resolution != ServiceResolution::Alias && !is_wildcard(&s.host));
            own.flat_map(|s| s.ports.iter().map(|p| p.number)).collect::<BTreeSet<u16>>()
        };
        let own = of(host);
        match host.split_once('.') {
            Some((_, above)) if own.is_empty() => of(above),
            _ => own,
        }
    }

    /// Ports that the mesh knows of a host.
    fn ports(&self, host: &str) -> BTreeSet<u16> {
        let mut out: BTreeSet<u16> = BTreeSet::new();
        // Its own Service is found at once; whatever else may answer is searched for.
        if let Some(own) = self.full.service(host).filter(|s| !s.ports.is_empty()) {
            let tcp = own.ports.iter().filter(|p| p.protocol != AppProtocol::Udp);
            return tcp.map(|p| p.number).collect();
        }
        for listener in &self.full.listeners {
            let by_name = listener.services.iter().filter(|s| {
                s.service.host == host
                    || is_wildcard(&s.service.host) && matches(&s.service.host, host)
            });
            let by_alias =
                listener.services.iter().filter(|s| s.aliases.iter().any(|(_, h)| h == host));
            // A pod below a headless Service.
            let below = listener.services.iter().filter(|s| {
                s.service.resolution == ServiceResolution::Passthrough
                    && s.service.registry == Registry::Kubernetes
                    && host.strip_suffix(s.service.host.as_str()).is_some_and(|h| h.ends_with('.'))
            });
            let ports = by_name.chain(by_alias).chain(below).flat_map(|s| s.ports.iter());
            out.extend(ports.filter(|p| p.protocol != AppProtocol::Udp).map(|p| p.number));
            if listener.virtual_services.iter().any(|v| v.hosts.iter().any(|h| h == host))
                && out.is_empty()
            {
                // A host that is no Service is routed on port 80.
                out.insert(80);
            }
        }
        out
    }

    /// The calls that a host and port may stand for: every address, and where the protocol is
    /// detected, every protocol.
    fn expand(
        &self,
        host: &str,
        port: u16,
        protocol: Option<CallProtocol>,
        address: Option<IpAddr>,
    ) -> Vec<ScopeCall> {
        let (mesh, full) = (self.mesh(), self.full);
        let mut addresses: BTreeSet<IpAddr> = address.into_iter().collect();
        let mut protocols: BTreeSet<CallProtocol> = protocol.into_iter().collect();
        let named: Vec<_> =
            full.listeners.iter().flat_map(|l| l.index_named(mesh, port, host)).collect();
        // A wildcard stands in only where no name of its own does.
        let exact = named.iter().any(|s| !is_wildcard(&s.service.host));
        for s in named.iter().filter(|s| !exact || !is_wildcard(&s.service.host)) {
            if address.is_none() {
                addresses
                    .extend(self.pod_address(s.service, host).or_else(|| self.address(s.service)));
            }
            if protocol.is_none() {
                let declared = s.port(port).map(|p| p.protocol);
                protocols.extend(declared.map(CallProtocol::of));
                if declared == Some(AppProtocol::Unsupported) {
                    protocols.insert(CallProtocol::Tcp);
                }
            }
        }
        if addresses.is_empty() {
            let hidden = mesh.services_of(host);
            addresses.extend(
                host.parse().ok().into_iter().chain(hidden.filter_map(|s| self.address(s)).take(1)),
            );
        }
        if addresses.is_empty() {
            addresses.insert(SOMEWHERE);
        }
        if protocols.is_empty() {
            let at = self.at_address(host).flat_map(|s| &s.ports).filter(|p| p.number == port);
            protocols.extend(at.map(|p| CallProtocol::of(p.protocol)));
        }
        if protocols.is_empty() {
            protocols.insert(match port {
                443 => CallProtocol::Tls,
                _ if host.parse::<IpAddr>().is_ok() => CallProtocol::Tcp,
                _ => CallProtocol::Http,
            });
        }
        let all = protocols.iter().flat_map(|p| addresses.iter().map(move |a| (*p, *a)));
        all.map(|(protocol, address)| ScopeCall { host: host.to_owned(), port, protocol, address })
            .collect()
    }

    /// Services that have this address, where the host is one.
    fn at_address<'s>(&'s self, host: &'s str) -> impl Iterator<Item = &'m MeshService> + 's {
        let is_address = host.parse::<IpAddr>().is_ok();
        let all = self.mesh().services().iter();
        all.filter(move |s| is_address && s.address == host)
    }

    /// The address of a pod that is named below a headless Service.
    fn pod_address(&self, s: &MeshService, host: &str) -> Option<IpAddr> {
        let name = host.strip_suffix(s.host.as_str())?.strip_suffix('.')?;
        self.mesh().pod(&s.namespace, name)?.addresses.first().copied()
    }

    /// What the host of a Service resolves to: its address, of a headless one an endpoint, else
    /// somewhere outside.
    fn address(&self, s: &MeshService) -> Option<IpAddr> {
        if s.address != UNSPECIFIED {
            return s.address.split('/').next()?.parse().ok();
        }
        let endpoints = self.mesh().endpoints(s).iter().map(|e| e.address.as_str());
        let others = endpoints.filter(|a| Some(*a) != self.client.address);
        others.filter_map(|a| a.parse().ok()).min().or(Some(SOMEWHERE))
    }
}

/// Responders' addresses in the examples of a dependency.
fn wire_addresses(d: &Dependency) -> BTreeSet<IpAddr> {
    d.evidence.values().flat_map(|e| &e.examples).map(|x| x.to.ip()).collect()
}

/// A name made whole as the resolver of a pod in this namespace does.
pub fn full_name(mesh: &Mesh, name: &str, namespace: &str) -> String {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    if mesh.has_host(&name) || name.parse::<IpAddr>().is_ok() {
        return name;
    }
    let domain = &mesh.domain;
    let whole = [
        qualify(&name, namespace, domain),
        format!("{name}.{namespace}.svc.{domain}"),
        format!("{name}.svc.{domain}"),
        format!("{name}.{domain}"),
    ];
    if let Some(found) = whole.into_iter().find(|n| mesh.has_host(n)) {
        return found;
    }
    // The pod of a headless Service, in short: `kafka-0.brokers.data`.
    let below = name.split_once('.').and_then(|(pod, rest)| {
        let found = full_name(mesh, rest, namespace);
        let headless = |s: &MeshService| {
            s.registry == Registry::Kubernetes && s.resolution == ServiceResolution::Passthrough
        };
        mesh.services_of(&found).any(headless).then(|| format!("{pod}.{found}"))
    });
    below.unwrap_or(name)
}

fn has_port(service: &MeshService, port: u16) -> bool {
    service.ports.iter().any(|p| p.number == port)
}

/// What is said of a call that no proxy can have a route for.
fn undiscovered(host: &str, namespace: &str) -> String {
    format!(
        "{host}: istiod does not look at the namespace {namespace} (discoverySelectors), so no \
         host can cover it: the proxy treats the call as one to the outside, with and without the \
         Sidecar"
    )
}

#[cfg(test)]
mod tests;
