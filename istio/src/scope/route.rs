//! The route of one call: which listener of the proxy takes it, which filter chain, and where that
//! sends it (`networking/core/listener.go`; Envoy's documentation of `FilterChainMatch` for the
//! choice of a chain).
//!
//! Owns the path from a call to its treatment. Must never build more than the listeners that the
//! call can meet.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::chain::{Action, Chain, Entry};
use super::{Client, Scope, Scoped, http, l4};
use crate::mesh::UNSPECIFIED;
use crate::mesh::{AppProtocol, Mesh, TrafficMode};

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
    /// The proxy's configuration cannot take it (another protocol than declared, no such virtual
    /// host).
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

/// What decides how a call is treated. Two scopes treat a call alike exactly when these are equal
/// and certain: a Service is the same object in both, so are the DestinationRules that are found
/// for it, its settings and its endpoints.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Treatment {
    /// Where it ends.
    pub kind: RouteKind,
    /// The steps, in the order in which the proxy tries them.
    pub steps: Vec<Step>,
    /// For each cluster named, in the order of the steps, mirrors after the rest of a step: the
    /// Service that makes it in this scope, `None` when there is none.
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
        !self.uncertain
            && self.kind == full.kind
            && self.steps == full.steps
            && self.backing == full.backing
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

impl<'m> Scope<'m> {
    /// How this scope treats a call of the client.
    pub fn treat(&self, client: &Client<'_>, call: &Call) -> Treatment {
        let address = call.address.to_string();
        let (exact, every) = self.entries(client, call.port, &address);
        let entry = if exact.protocol.is_some() { exact } else { every };
        let chain = if entry.protocol.is_some() { entry.choose(call) } else { None };
        let Some(chain) = chain else { return self.unknown(client) };
        let mut treatment = match &chain.action {
            Action::Http { .. } if call.protocol != CallProtocol::Http => {
                self.ends(client, RouteKind::None, Vec::new())
            }
            Action::Http { listener, only } => {
                match http::route(self, *listener, client, call, only.as_deref()) {
                    http::Found::Steps(steps) => self.ends(client, RouteKind::Http, steps),
                    http::Found::Unknown => self.unknown(client),
                    http::Found::Nothing => self.ends(client, RouteKind::None, Vec::new()),
                }
            }
            Action::Tcp { virtual_service, clusters } => {
                let step = Step {
                    virtual_service: *virtual_service,
                    rule: (0, 0),
                    clusters: clusters.clone(),
                    mirrors: Vec::new(),
                };
                self.ends(client, RouteKind::Tcp, vec![step])
            }
        };
        treatment.uncertain |= chain.uncertain;
        treatment.taken_by = Some(chain.made_by);
        treatment
    }

    fn unknown(&self, client: &Client<'_>) -> Treatment {
        let refused = self.policy == TrafficMode::RegistryOnly;
        self.ends(
            client,
            if refused { RouteKind::Blackhole } else { RouteKind::Passthrough },
            Vec::new(),
        )
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
                entry.add(protocol, on_every, || {
                    self.chains(n, i, protocol, port, on_every, client)
                });
            };
            let given = listener.egress.bind.as_str();
            if !given.is_empty() {
                // The listener's own address, whatever the Services have.
                let (entry, on_every) =
                    if given == UNSPECIFIED { (&mut every, true) } else { (&mut exact, false) };
                if on_every || given == address {
                    (0..listener.services.len() as u32).for_each(|i| add(entry, i, on_every));
                }
                continue;
            }
            at.every.iter().for_each(|&i| add(&mut every, i, true));
            for &i in at.by_address.get(address).into_iter().flatten() {
                // A headless Service has no listener for the client's own address.
                let own = client.address == Some(address)
                    && listener.services[i as usize].service.address == UNSPECIFIED;
                if !own {
                    add(&mut exact, i, false);
                }
            }
        }
        (exact, every)
    }

    fn chains(
        &self,
        n: usize,
        i: u32,
        protocol: AppProtocol,
        port: u16,
        on_every: bool,
        client: &Client<'_>,
    ) -> Vec<Chain> {
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
