//! The route of one call: which listener of the proxy takes it, which filter chain, and where that sends it
//! (`networking/core/listener.go`; Envoy's documentation of `FilterChainMatch` for the choice of a chain).
//!
//! Owns the path from a call to its treatment. Must never build more than the listeners that the call can meet.

use std::collections::BTreeSet;
use std::net::IpAddr;

use foldhash::HashMap;
use ipnet::IpNet;

use super::{Client, Listener, Scope, Scoped, http, l4};
use crate::mesh::host::HostMap;
use crate::mesh::service::UNSPECIFIED;
use crate::mesh::{AppProtocol, Mesh, Port, Registry, Resolution, TrafficMode, VirtualService};

/// What an application speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CallProtocol {
    /// HTTP in plain text: the authority is the host.
    Http,
    /// TLS of the application: the server name is the host.
    Tls,
    /// Anything else over TCP.
    Tcp,
}

impl CallProtocol {
    /// As the command line and JSON spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Tls => "tls",
            Self::Tcp => "tcp",
        }
    }

    /// What a client of such a port speaks.
    pub fn of(port: AppProtocol) -> Self {
        match port {
            p if p.is_tls() => Self::Tls,
            p if p.is_http_or_sniffed() => Self::Http,
            _ => Self::Tcp,
        }
    }
}

/// What a host resolved to.
pub type Address = IpAddr;

/// One call of an application.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Call {
    /// The host that the application addresses, fully qualified.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Protocol.
    pub protocol: CallProtocol,
    /// What the host resolved to.
    pub address: Address,
}

/// Where a call ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RouteKind {
    /// Routed by HTTP rules.
    Http,
    /// Routed as a TCP connection.
    Tcp,
    /// The proxy does not know it and lets it through.
    Passthrough,
    /// The proxy does not know it and refuses it.
    Blackhole,
    /// The proxy's configuration cannot take it (another protocol than declared, no such virtual host).
    None,
}

impl RouteKind {
    /// As JSON spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Tcp => "tcp",
            Self::Passthrough => "passthrough",
            Self::Blackhole => "blackhole",
            Self::None => "none",
        }
    }
}

/// A cluster that a route points to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cluster {
    /// Port.
    pub port: u16,
    /// Subset; empty for all.
    pub subset: String,
    /// Host.
    pub host: String,
}

impl Cluster {
    /// As Istio spells it: `outbound|port|subset|host`.
    pub fn name(&self) -> String {
        format!("outbound|{}|{}|{}", self.port, self.subset, self.host)
    }
}

/// A step of a route: which rule of which VirtualService sends what share where.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Step {
    /// Index of the VirtualService in the mesh; `None` for the default route to a Service.
    pub virtual_service: Option<u32>,
    /// Rule and match within it.
    pub rule: (u16, u16),
    /// Clusters with their weights.
    pub clusters: Vec<(Cluster, i64)>,
    /// Mirrors.
    pub mirrors: Vec<Cluster>,
}

/// What decides how a call is treated. Two scopes treat a call alike exactly when these are equal and certain: a Service is the
/// same object in both, so are the DestinationRules that are found for it, its settings and its endpoints.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Treatment {
    /// Where it ends.
    pub kind: RouteKind,
    /// The steps, in the order in which the proxy tries them.
    pub steps: Vec<Step>,
    /// For each cluster named, in the order of the steps, mirrors after the rest of a step: the Service that makes it in this scope,
    /// `None` when there is none.
    pub backing: Vec<Option<u32>>,
    /// istiod may give another answer after its next start.
    pub uncertain: bool,
    /// The Service whose listener took the call; it decides nothing by itself.
    pub taken_by: Option<u32>,
}

impl Treatment {
    /// Not known to the proxy.
    pub fn unknown(&self) -> bool {
        matches!(self.kind, RouteKind::Passthrough | RouteKind::Blackhole | RouteKind::None)
    }

    /// Whether this scope keeps what `full` does.
    pub fn keeps(&self, full: &Self) -> bool {
        !self.uncertain && self.kind == full.kind && self.steps == full.steps && self.backing == full.backing
    }
}

/// A route for people and programs.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Route {
    /// Where it ends.
    pub kind: &'static str,
    /// `namespace/name` of the VirtualServices that shape it.
    pub virtual_services: BTreeSet<String>,
    /// Clusters that requests may go to.
    pub clusters: BTreeSet<String>,
    /// Clusters that get copies.
    pub mirrors: BTreeSet<String>,
}

impl Route {
    /// The names in a treatment.
    pub fn of(treatment: &Treatment, mesh: &Mesh) -> Self {
        let steps = &treatment.steps;
        Self {
            kind: treatment.kind.name(),
            virtual_services: steps
                .iter()
                .filter_map(|s| Some(mesh.virtual_services[s.virtual_service? as usize].id()))
                .collect(),
            clusters: steps.iter().flat_map(|s| s.clusters.iter().map(|(c, _)| c.name())).collect(),
            mirrors: steps.iter().flat_map(|s| s.mirrors.iter().map(Cluster::name)).collect(),
        }
    }
}

/// Indexes of a listener for routing.
#[derive(Debug)]
pub(super) struct Index<'m> {
    pub ports: HashMap<u16, PortIndex<'m>>,
    /// VirtualServices by exact host: positions in the listener's list.
    pub exact: HashMap<&'m str, Vec<u32>>,
    /// VirtualServices with wildcard hosts.
    pub wild: Vec<(&'m str, u32)>,
    /// The VirtualService of the most specific host (`computeWildcardHostVirtualServiceIndex`).
    pub most_specific: HostMap<'m, u32>,
}

/// Services of a listener that have one port, by what their listeners bind to. Positions in the listener's list.
#[derive(Debug, Default)]
pub(super) struct PortIndex<'m> {
    /// On every address; of HTTP Services the first stands for all.
    every: Vec<u32>,
    has_http: bool,
    by_address: HashMap<&'m str, Vec<u32>>,
    /// By host, for virtual hosts; the last of several wins.
    pub names: HashMap<&'m str, u32>,
    /// Hosts that are wildcards.
    pub wild_names: Vec<(&'m str, u32)>,
    /// By the host of an alias in scope.
    pub aliases: HashMap<String, Vec<u32>>,
    /// Headless Services: their hosts have names below them.
    pub headless: Vec<u32>,
}

/// What the listener of a Service port binds to.
enum Bind<'m> {
    Every,
    Address(&'m str),
    Each(Vec<&'m str>),
}

fn bind<'m>(mesh: &'m Mesh, scoped: &Scoped<'m>, port: &Port) -> Bind<'m> {
    let service = scoped.service;
    if port.protocol.is_http() {
        return Bind::Every;
    }
    if service.resolution == Resolution::Passthrough && service.address == UNSPECIFIED {
        let addresses: Vec<&str> = mesh.endpoints_by_number(service, port).map(|e| e.address.as_str()).collect();
        if service.registry == Registry::External && addresses.is_empty() && service.selector.is_empty() {
            return Bind::Every;
        }
        return Bind::Each(addresses.into_iter().filter(|a| a.parse::<IpAddr>().is_ok()).collect());
    }
    // Ranges are matched by a filter chain of the listener on every address.
    if service.address == UNSPECIFIED || service.address.contains('/') { Bind::Every } else { Bind::Address(&service.address) }
}

impl<'m> Listener<'m> {
    /// Services with this port that answer to a host: by name, by an alias, by a wildcard, or as a name below a headless one.
    pub fn index_named(&self, mesh: &'m Mesh, port: u16, host: &str) -> Vec<&Scoped<'m>> {
        let Some(at) = self.index(mesh).ports.get(&port) else { return Vec::new() };
        let by_name = at.names.get(host).into_iter().chain(at.aliases.get(host).into_iter().flatten());
        let below = |s: &&u32| {
            let name = &self.services[**s as usize].service.host;
            host.strip_suffix(name.as_str()).is_some_and(|h| h.ends_with('.'))
        };
        let by_suffix = at.wild_names.iter().filter(|(w, _)| crate::mesh::host::subset_of(host, w)).map(|(_, s)| s);
        let mut out: Vec<u32> = by_name.chain(by_suffix).chain(at.headless.iter().filter(below)).copied().collect();
        out.sort_unstable();
        out.dedup();
        out.into_iter().map(|s| &self.services[s as usize]).collect()
    }

    pub(super) fn index(&self, mesh: &'m Mesh) -> &Index<'m> {
        self.routing.get_or_init(|| self.make_index(mesh))
    }

    fn make_index(&self, mesh: &'m Mesh) -> Index<'m> {
        let mut index =
            Index { ports: HashMap::default(), exact: HashMap::default(), wild: Vec::new(), most_specific: HostMap::default() };
        for (i, v) in self.virtual_services.iter().enumerate() {
            let v: &'m VirtualService = v;
            for host in &v.hosts {
                index.most_specific.insert_first(host, i as u32);
                if crate::mesh::host::is_wildcard(host) {
                    index.wild.push((host, i as u32));
                } else {
                    index.exact.entry(host).or_default().push(i as u32);
                }
            }
        }
        // On a listener with a port, the port's protocol is the listener's.
        let declared = self.egress.port.as_ref().map(|p| AppProtocol::parse(&p.protocol));
        for (i, s) in self.services.iter().enumerate() {
            let i = i as u32;
            for port in s.ports.iter() {
                let at = index.ports.entry(port.number).or_default();
                at.add_name(i, s);
                if s.service.resolution == Resolution::Alias {
                    continue;
                }
                let port = Port { protocol: declared.unwrap_or(port.protocol), ..port.clone() };
                match bind(mesh, s, &port) {
                    // More HTTP Services change nothing about the listener.
                    Bind::Every if port.protocol.is_http() && at.has_http => {}
                    Bind::Every => {
                        at.has_http |= port.protocol.is_http();
                        at.every.push(i);
                    }
                    Bind::Address(a) => at.by_address.entry(a).or_default().push(i),
                    Bind::Each(all) => {
                        for a in all {
                            at.by_address.entry(a).or_default().push(i);
                        }
                    }
                }
            }
        }
        index
    }
}

impl<'m> PortIndex<'m> {
    fn add_name(&mut self, i: u32, s: &Scoped<'m>) {
        let host: &'m str = &s.service.host;
        self.names.insert(host, i);
        if crate::mesh::host::is_wildcard(host) {
            self.wild_names.retain(|(h, _)| *h != host);
            self.wild_names.push((host, i));
        }
        for (_, alias) in s.aliases.iter() {
            self.aliases.entry(alias.clone()).or_default().push(i);
        }
        if s.service.resolution == Resolution::Passthrough && s.service.registry == Registry::Kubernetes {
            self.headless.push(i);
        }
    }
}

/// What a filter chain does.
#[derive(Clone, Debug)]
pub(super) enum Action {
    /// HTTP; with a host, the virtual hosts of that Service alone.
    Http { listener: usize, only: Option<String> },
    /// A TCP proxy.
    Tcp { virtual_service: Option<u32>, clusters: Vec<(Cluster, i64)> },
}

/// A filter chain of a listener of the proxy.
#[derive(Clone, Debug)]
pub(super) struct Chain {
    pub sni: Vec<String>,
    pub ranges: Vec<String>,
    /// Only for plain text in which HTTP was detected.
    pub detected_http: bool,
    pub action: Action,
    pub uncertain: bool,
    /// The Service that it was made for.
    pub made_by: u32,
}

impl Chain {
    fn matches_all(&self) -> bool {
        (self.sni.is_empty() || self.sni.iter().any(|s| s == "*")) && !self.detected_http && self.ranges.is_empty()
    }

    /// `conflictsWith`: the same conditions, so the second can never be reached.
    fn conflicts(&self, other: &Self) -> bool {
        let sni = |c: &Self| c.sni.iter().filter(|s| *s != "*").cloned().collect::<BTreeSet<_>>();
        let ranges = |c: &Self| c.ranges.iter().filter_map(|r| range(r)).collect::<BTreeSet<_>>();
        self.detected_http == other.detected_http && sni(self) == sni(other) && ranges(self) == ranges(other)
    }
}

fn range(text: &str) -> Option<IpNet> {
    let net = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))?;
    (!net.addr().is_unspecified()).then(|| net.trunc())
}

/// A listener of the proxy, being built.
#[derive(Debug, Default)]
struct Entry {
    /// `Unsupported` once HTTP and TCP are mixed.
    protocol: Option<AppProtocol>,
    chains: Vec<Chain>,
    locked: bool,
}

impl Entry {
    /// Adds a Service's chains (`buildSidecarOutboundListener`).
    fn add(&mut self, port: AppProtocol, on_every: bool, chains: impl FnOnce() -> Vec<Chain>) {
        let Some(old) = self.protocol.filter(|_| !self.locked) else {
            if !self.locked {
                self.protocol = Some(if port.is_http() && on_every { AppProtocol::Unsupported } else { port });
                self.chains = chains();
            }
            return;
        };
        let mut merged = AppProtocol::Unsupported;
        if port.is_http() {
            if !old.is_tcp() {
                return;
            }
        } else if port.is_tcp() {
            if !old.is_http() {
                merged = old;
            }
        } else if old.is_http() {
            self.chains.clear();
        } else if !old.is_tcp() {
            return;
        }
        // Detection breaks protocols in which the server speaks first.
        let server_first = |p| matches!(p, AppProtocol::Mongo | AppProtocol::MySql);
        if (server_first(port) || server_first(old)) && port != old {
            return;
        }
        self.protocol = Some(merged);
        for chain in chains() {
            if !self.chains.iter().any(|c| c.conflicts(&chain)) {
                self.chains.push(chain);
            }
        }
    }

    /// The chain that Envoy takes: each criterion in turn keeps the chains that match it best.
    fn choose(&self, call: &Call) -> Option<&Chain> {
        let tls = call.protocol == CallProtocol::Tls && self.chains.iter().any(|c| !c.sni.is_empty());
        let sni = if tls { call.host.as_str() } else { "" };
        let alpn = call.protocol == CallProtocol::Http && self.chains.iter().any(|c| c.detected_http);
        let single = self.chains.len() == 1;
        let mut left: Vec<&Chain> = self.chains.iter().filter(|c| single || !c.matches_all()).collect();
        narrow(&mut left, |c| {
            if c.ranges.is_empty() {
                return Some(0);
            }
            let holding = c.ranges.iter().filter_map(|r| range(r)).filter(|n| n.contains(&call.address));
            holding.map(|n| usize::from(n.prefix_len()) + 1).max()
        });
        narrow(&mut left, |c| {
            if c.sni.is_empty() || c.sni.iter().any(|s| s == "*") {
                return Some(0);
            }
            let fits = c.sni.iter().filter_map(|s| match s.strip_prefix('*') {
                _ if s == sni => Some(usize::MAX),
                Some(rest) if rest.starts_with('.') && sni.ends_with(rest) => Some(s.len()),
                _ => None,
            });
            fits.max()
        });
        narrow(&mut left, |c| match (c.detected_http, tls) {
            (false, _) => Some(0),
            (true, false) => Some(1),
            (true, true) => None,
        });
        narrow(&mut left, |c| match (c.detected_http, alpn) {
            (false, _) => Some(0),
            (true, true) => Some(1),
            (true, false) => None,
        });
        left.first().copied().or_else(|| self.chains.iter().rev().find(|c| !single && c.matches_all()))
    }
}

fn narrow(chains: &mut Vec<&Chain>, rank: impl Fn(&Chain) -> Option<usize>) {
    let best = chains.iter().filter_map(|c| rank(c)).max();
    chains.retain(|c| rank(c).is_some() && rank(c) == best);
}

impl<'m> Scope<'m> {
    /// How this scope treats a call of the client.
    pub fn treat(&self, client: &Client<'_>, call: &Call) -> Treatment {
        let address = call.address.to_string();
        let (exact, every) = self.entries(client, call.port, &address);
        let entry = if exact.protocol.is_some() { exact } else { every };
        let chain = if entry.protocol.is_some() { entry.choose(call) } else { None };
        let Some(chain) = chain else { return self.unknown(client) };
        let mut treatment = match &chain.action {
            Action::Http { .. } if call.protocol != CallProtocol::Http => self.ends(client, RouteKind::None, Vec::new()),
            Action::Http { listener, only } => match http::route(self, *listener, client, call, only.as_deref()) {
                http::Found::Steps(steps) => self.ends(client, RouteKind::Http, steps),
                http::Found::Unknown => self.unknown(client),
                http::Found::Nothing => self.ends(client, RouteKind::None, Vec::new()),
            },
            Action::Tcp { virtual_service, clusters } => {
                let step =
                    Step { virtual_service: *virtual_service, rule: (0, 0), clusters: clusters.clone(), mirrors: Vec::new() };
                self.ends(client, RouteKind::Tcp, vec![step])
            }
        };
        treatment.uncertain |= chain.uncertain;
        treatment.taken_by = Some(chain.made_by);
        treatment
    }

    fn unknown(&self, client: &Client<'_>) -> Treatment {
        let refused = self.policy == TrafficMode::RegistryOnly;
        self.ends(client, if refused { RouteKind::Blackhole } else { RouteKind::Passthrough }, Vec::new())
    }

    fn ends(&self, client: &Client<'_>, kind: RouteKind, steps: Vec<Step>) -> Treatment {
        let named = steps.iter().flat_map(|s| s.clusters.iter().map(|(c, _)| c).chain(&s.mirrors));
        let backing = named.map(|c| {
            let found = self.service(&c.host).filter(|s| s.port(c.port).is_some());
            // A subset that no rule defines has no cluster.
            let defined = |s: &&Scoped<'_>| {
                let rule = self.rule(s.service, client.labels);
                rule.is_some_and(|r| r.subsets.iter().any(|x| x.name == c.subset))
            };
            found.filter(|s| c.subset.is_empty() || defined(s)).map(|s| s.service.order)
        });
        let backing = backing.collect();
        Treatment { kind, steps, backing, uncertain: false, taken_by: None }
    }

    /// The proxy's listeners on this port: at this address, and at every address.
    fn entries(&self, client: &Client<'_>, port: u16, address: &str) -> (Entry, Entry) {
        let (mut exact, mut every) = (Entry::default(), Entry::default());
        for (n, listener) in self.listeners.iter().enumerate() {
            let bound = listener.egress.port.as_ref().filter(|p| p.number != 0);
            let declared = bound.map(|p| AppProtocol::parse(&p.protocol));
            if bound.is_some_and(|p| p.number != port) || declared == Some(AppProtocol::HttpProxy) {
                continue;
            }
            if bound.is_none() {
                exact.locked = exact.protocol.is_some();
                every.locked = every.protocol.is_some();
            }
            let Some(at) = listener.index(self.mesh).ports.get(&port) else { continue };
            let add = |entry: &mut Entry, i: u32, on_every: bool| {
                let scoped = &listener.services[i as usize];
                let Some(own) = scoped.port(port) else { return };
                let protocol = declared.unwrap_or(own.protocol);
                entry.add(protocol, on_every, || self.chains(n, i, protocol, port, on_every, client));
            };
            let given = listener.egress.bind.as_str();
            if !given.is_empty() {
                // The listener's own address, whatever the Services have.
                let (entry, on_every) = if given == UNSPECIFIED { (&mut every, true) } else { (&mut exact, false) };
                if on_every || given == address {
                    (0..listener.services.len() as u32).for_each(|i| add(entry, i, on_every));
                }
                continue;
            }
            at.every.iter().for_each(|&i| add(&mut every, i, true));
            for &i in at.by_address.get(address).into_iter().flatten() {
                // A headless Service has no listener for the client's own address.
                let own = client.address == Some(address) && listener.services[i as usize].service.address == UNSPECIFIED;
                if !own {
                    add(&mut exact, i, false);
                }
            }
        }
        (exact, every)
    }

    fn chains(&self, n: usize, i: u32, protocol: AppProtocol, port: u16, on_every: bool, client: &Client<'_>) -> Vec<Chain> {
        let scoped = &self.listeners[n].services[i as usize];
        let mut out = Vec::new();
        if !protocol.is_http() {
            out = l4::chains(self, n, scoped, protocol, port, on_every, client);
        }
        if protocol.is_http_or_sniffed() {
            let only = (!protocol.is_http() && !on_every).then(|| scoped.service.host.clone());
            out.push(Chain {
                sni: Vec::new(),
                ranges: Vec::new(),
                detected_http: on_every || !protocol.is_http(),
                action: Action::Http { listener: n, only },
                uncertain: false,
                made_by: 0,
            });
        }
        for chain in &mut out {
            chain.uncertain = scoped.uncertain;
            chain.made_by = scoped.service.order;
        }
        out
    }
}
