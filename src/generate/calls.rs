//! From dependencies to calls: what the application addressed, of which the wire shows only where
//! it ended.
//!
//! Owns the reverse look-up behind VirtualServices and ExternalName Services, and what names,
//! look-ups and addresses say for or against each. Must never drop a possible call without saying
//! so.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

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
    /// Seen: the dependency's own host.
    Learned,
    /// Seen: the application named this host, and it leads to the dependency.
    Addressed,
    /// A VirtualService of this host leads to the dependency, and nothing tells whether the
    /// application used it.
    Possible,
    /// Declared.
    Declared,
    /// Looked up, and no connection to it was seen.
    LookedUp,
}

/// A call with where it comes from.
#[derive(Clone, Debug)]
pub struct Planned {
    /// The call.
    pub call: ScopeCall,
    /// Where from.
    pub origin: Origin,
    /// Index of the dependency, where one is behind it.
    pub dependency: Option<usize>,
}

/// All calls of a workload, and what there is to say about them.
#[derive(Debug, Default)]
pub struct Plan {
    /// Sorted by call, one each.
    pub calls: Vec<Planned>,
    /// For the reviewer.
    pub notes: Vec<String>,
    /// Hosts that could have been addressed and were not, with the reason.
    pub rejected: BTreeMap<String, String>,
    /// Dependencies that have a call, or a host that is listed for them.
    pub covered: BTreeSet<usize>,
    /// Entries that are listed though the snapshot has no such Service: what was learned names its
    /// namespace and host.
    pub assumed: BTreeSet<String>,
    /// Entries that are listed though no call found reaches them: they were called.
    pub unreached: BTreeSet<String>,
    /// What no list is sure to keep.
    pub gaps: BTreeSet<Gap>,
}

/// Turns what is known of a workload into calls.
pub struct Planner<'a, 'm> {
    full: &'a Scope<'m>,
    client: Client<'a>,
    found: BTreeMap<ScopeCall, (Origin, Option<usize>)>,
    /// Hosts of the mesh that were called or are declared, with their namespaces: a call must reach
    /// each of them.
    called: BTreeSet<(String, String)>,
    plan: Plan,
}

impl<'a, 'm> Planner<'a, 'm> {
    /// For a client; `full` is its scope with all hosts imported.
    pub fn new(full: &'a Scope<'m>, client: Client<'a>) -> Self {
        let (found, called) = (BTreeMap::new(), BTreeSet::new());
        Self { full, client, found, called, plan: Plan::default() }
    }

    /// The calls found.
    pub fn finish(mut self) -> Plan {
        self.list_unreached();
        let planned = |(call, (origin, dependency))| Planned { call, origin, dependency };
        self.plan.calls = self.found.into_iter().map(planned).collect();
        self.plan
    }

    fn mesh(&self) -> &'m Mesh {
        self.full.mesh
    }

    fn add(&mut self, call: ScopeCall, origin: Origin, dependency: Option<usize>) {
        let new = (origin, dependency);
        self.plan.covered.extend(dependency);
        let old = self.found.entry(call).or_insert(new);
        *old = (*old).min(new);
    }

    /// Lists by its name each host that was called and that none of the calls found reaches: the
    /// packets show that the proxy had it, or a person says so, and the call that was found for it
    /// is another than the one that was made.
    fn list_unreached(&mut self) {
        self.called.retain(|(_, host)| self.full.service(host).is_some());
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
            // Where another host leads to it, and it was addressed by that one alone.
            if reached.contains(&host) || self.plan.rejected.contains_key(&host) {
                continue;
            }
            self.plan.notes.push(format!(
                "{host} was called, and no call that the model knows reaches it: it is listed by its name"
            ));
            self.plan.unreached.insert(format!("{namespace}/{host}"));
        }
    }

    /// Adds a declared call. A host without a port that the mesh knows is told.
    pub fn declare(&mut self, d: &Declared) {
        let host = full_name(self.mesh(), &d.host, self.client.namespace);
        let known = match d.port {
            Some(_) => self.own_ports(&host),
            None => self.ports(&host),
        };
        let mut gap = |why: String| {
            let port = d.port.map(|p| format!(":{p}")).unwrap_or_default();
            let from = if d.from.is_empty() { String::new() } else { format!(" ({})", d.from) };
            self.plan.gaps.insert(Gap { call: format!("{host}{port}{from}"), why });
        };
        match place(self.full, &host, self.client.namespace) {
            Place::Missing { host: whole, .. } => {
                gap(format!("it is declared, and the snapshot has no Service {whole}"));
            }
            Place::Hidden(namespace) => self.plan.notes.push(undiscovered(&host, &namespace)),
            Place::Known => {
                let lacks = |p: u16| !known.is_empty() && !known.contains(&p);
                let all: Vec<String> = known.iter().map(ToString::to_string).collect();
                match d.port {
                    Some(p) if lacks(p) => {
                        gap(format!(
                            "it is declared, and the Service has no port {p} (it has {}); write the Service's port, not the pod's",
                            all.join(", ")
                        ));
                    }
                    None if known.is_empty() => {
                        gap("it is declared without a port, and the mesh knows none".to_owned());
                    }
                    _ => {}
                }
            }
        }
        let ports: BTreeSet<u16> = d.port.map_or(known, |p| [p].into());
        let protocol = d.protocol.as_deref().and_then(|name| {
            let known = protocol(name);
            if known.is_none() {
                self.plan.notes.push(format!(
                    "{host}: the protocol {name:?} is none of http, tls, tcp: the port decides"
                ));
            }
            known
        });
        for port in ports {
            let below = host.split_once('.').map_or("", |(_, parent)| parent);
            let by_name = self.mesh().services_of(&host).chain(self.mesh().services_of(below));
            let of_mesh = by_name.chain(self.at_address(&host)).find(|s| has_port(s, port));
            self.called.extend(of_mesh.map(|s| (s.namespace.clone(), s.host.clone())));
            for call in self.expand(&host, port, protocol, d.address) {
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
        }
        self.looked_up(known);
    }

    /// A host that was learned with its namespace. Where the snapshot has no such Service (it was
    /// deleted, or its namespace was not listed), it is listed all the same.
    fn assume(&mut self, i: Option<usize>, namespace: &str, host: &str) {
        if self.mesh().has_host(host) {
            return;
        }
        self.plan.covered.extend(i);
        if self.plan.assumed.contains(&format!("{namespace}/{host}")) {
            return;
        }
        if self.mesh().hides(namespace) {
            self.plan.notes.push(undiscovered(host, namespace));
            return;
        }
        self.plan.assumed.insert(format!("{namespace}/{host}"));
        // A VirtualService of another namespace may lead it elsewhere.
        let all = self.full.listeners.iter().flat_map(|l| &l.virtual_services);
        let leading = all.filter(|v| v.hosts.iter().any(|h| matches(h, host)));
        self.plan.assumed.extend(leading.map(|v| format!("{}/{host}", v.namespace)));
    }

    /// The same for a host of which only the name was on the wire.
    fn assume_named(&mut self, i: usize, host: &str) {
        let domain = format!(".{}", self.mesh().domain);
        if !host.ends_with(&domain) && !host.ends_with(".svc.clusterset.local") {
            return;
        }
        if let Some((namespace, host)) = cluster_name(self.mesh(), host, self.client.namespace) {
            self.assume(Some(i), &namespace, &host);
        }
    }

    /// Hosts that were looked up, and that no call explains: the workload may call them, itself
    /// included, where no interface shows it.
    fn looked_up(&mut self, known: &Known) {
        for l in &known.lookups {
            let host = full_name(self.mesh(), &l.host, self.client.namespace);
            let explained = self.found.keys().any(|c| c.host == host)
                || self.plan.rejected.contains_key(&host)
                // A look-up that any proxy makes says nothing of the application.
                || self.mesh().looked_up_by_proxies(&host);
            if explained {
                continue;
            }
            if let Place::Missing { namespace, host } =
                place(self.full, &host, self.client.namespace)
                && host == l.host
            {
                self.assume(None, &namespace, &host);
                continue;
            }
            let ports = self.ports(&host);
            let control_plane = self
                .mesh()
                .services_of(&host)
                .any(|s| s.object == "istiod" || s.object.starts_with("istiod-"));
            if ports.is_empty() || control_plane {
                continue;
            }
            self.plan.notes.push(format!(
                "{host} was looked up and no connection to it was seen (a call of a pod to itself shows none, nor does one that its \
                 proxy refused): it is kept"
            ));
            for port in ports {
                for call in self.expand(&host, port, None, None) {
                    self.add(call, Origin::LookedUp, None);
                }
            }
        }
    }

    /// A host that was seen called, and hosts that lead there.
    fn behind(&mut self, i: usize, d: &Dependency, host: &str, looked_up: &BTreeSet<&str>) {
        let named: Vec<String> = d
            .addressed
            .keys()
            .map(|n| full_name(self.mesh(), n, self.client.namespace))
            .filter(|n| n != host)
            .collect();
        let mut leads: BTreeSet<String> = named
            .iter()
            .filter(|n| self.lead_to(i, d, n, host, Origin::Addressed))
            .cloned()
            .collect();
        // Hosts of VirtualServices that send traffic there.
        let port = d.key.port;
        let routing = self.full.listeners.iter().flat_map(|l| &l.virtual_services).filter(|v| {
            v.destinations(self.client.namespace)
                .get(host)
                .is_some_and(|ports| ports.contains(&None) || ports.contains(&Some(port)))
        });
        let others: BTreeSet<String> =
            routing.flat_map(|v| &v.hosts).filter(|h| *h != host).cloned().collect();
        let aliases = self.full.service(host).map(|s| s.aliases.to_vec()).unwrap_or_default();
        // Look-ups tell which name was used where one of those that lead here was looked up: names
        // are looked up before a capture as well, and kept.
        let mut names = others.iter().chain(aliases.iter().map(|(_, a)| a));
        let used = |name: &str| looked_up.iter().any(|l| *l == name || matches(l, name));
        let tells = used(host) || names.any(|n| used(n));
        for other in others {
            if is_wildcard(&other) {
                let within = looked_up
                    .iter()
                    .copied()
                    .chain(named.iter().map(String::as_str))
                    .filter(|n| matches(n, &other));
                let within: Vec<String> =
                    within.filter(|n| *n != host).map(str::to_owned).collect();
                leads.extend(
                    within.into_iter().filter(|n| self.lead_to(i, d, n, host, Origin::Addressed)),
                );
            } else if looked_up.contains(other.as_str()) {
                if self.lead_to(i, d, &other, host, Origin::Addressed) {
                    leads.insert(other);
                }
            } else if tells {
                self.plan.rejected.insert(
                    other,
                    format!(
                        "a VirtualService leads it to {host}, but the workload never looked it up"
                    ),
                );
            } else if !named.contains(&other) && self.lead_to(i, d, &other, host, Origin::Possible)
            {
                self.plan.notes.push(format!(
                    "{other} leads to {host}:{port} by a VirtualService, and no look-up was seen that tells which of the two was \
                     addressed: both are kept"
                ));
            }
        }
        // ExternalName Services that lead there: nothing of them is on the wire but the look-up.
        for (_, alias) in aliases.into_iter().filter(|(_, a)| !named.contains(a)) {
            if looked_up.contains(alias.as_str())
                && self.lead_to(i, d, &alias, host, Origin::Addressed)
            {
                leads.insert(alias);
            } else if !tells && self.lead_to(i, d, &alias, host, Origin::Possible) {
                self.plan.notes.push(format!(
                    "{alias} is an alias of {host}, and no look-up was seen that tells which of the two was addressed: both are kept"
                ));
            } else {
                self.plan
                    .rejected
                    .insert(alias, format!("an alias of {host} that was never looked up"));
            }
        }
        // Its own name counts unless the look-ups tell that only others were used.
        let own = looked_up.contains(host) || !tells || leads.is_empty();
        if own {
            self.seen(i, d, host, port);
        } else {
            let by: Vec<&str> = leads.iter().map(String::as_str).collect();
            self.plan.rejected.insert(
                host.to_owned(),
                format!("never looked up: it was reached through {}", by.join(", ")),
            );
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
        "{host}: istiod does not look at the namespace {namespace} (discoverySelectors), so no host can cover it: the proxy treats \
         the call as one to the outside, with and without the Sidecar"
    )
}
