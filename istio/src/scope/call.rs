//! A call, its route and its treatment: types only.
//!
//! Owns when two scopes treat a call alike. Must never compute a treatment.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::mesh::{AppProtocol, Mesh};

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

    /// The protocol that clients of a port with this declaration speak.
    pub fn of(port: AppProtocol) -> Self {
        match port {
            p if p.is_tls() => Self::Tls,
            p if p.is_http_or_sniffed() => Self::Http,
            _ => Self::Tcp,
        }
    }
}

/// The address that a host resolved to.
pub type Address = IpAddr;

/// One call of an application.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ScopeCall {
    /// The host that the application addresses, fully qualified.
    pub host: String,
    /// Port that the application asks for, before any route.
    pub port: u16,
    /// Protocol that the application speaks, which decides the kind of route.
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
    /// The proxy has no route for it and lets it through.
    Passthrough,
    /// The proxy has no route for it and refuses it.
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
pub struct EnvoyCluster {
    /// Port of the Service, not of its endpoints.
    pub port: u16,
    /// Subset; empty for all.
    pub subset: String,
    /// Host of the Service, fully qualified.
    pub host: String,
}

impl EnvoyCluster {
    /// As Istio spells it: `outbound|port|subset|host`.
    pub fn name(&self) -> String {
        format!("outbound|{}|{}|{}", self.port, self.subset, self.host)
    }
}

/// A step of a route: which rule of which VirtualService sends what share where.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RouteStep {
    /// Index of the VirtualService in the mesh; `None` for the default route to a Service.
    pub virtual_service: Option<u32>,
    /// Rule and match within it.
    pub rule: (u16, u16),
    /// Clusters with their weights.
    pub clusters: Vec<(EnvoyCluster, i64)>,
    /// Envoy clusters that get copies of the requests. Their answers are ignored.
    pub mirrors: Vec<EnvoyCluster>,
}

impl RouteStep {
    /// All clusters that it names, mirrors after the rest.
    pub fn all_clusters(&self) -> impl Iterator<Item = &EnvoyCluster> {
        self.clusters.iter().map(|(c, _)| c).chain(&self.mirrors)
    }
}

/// What decides how a call is treated. Two scopes treat a call alike exactly when these are equal
/// and certain: a Service is the same object in both, so are the DestinationRules that are found
/// for it, its settings and its endpoints.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Treatment {
    /// How the call leaves the proxy, or why it does not.
    pub kind: RouteKind,
    /// The steps, in the order in which the proxy tries them.
    pub steps: Vec<RouteStep>,
    /// For each of [`RouteStep::all_clusters`], in the order of the steps: the Service that makes
    /// it in this scope, `None` when there is none.
    pub backing: Vec<Option<u32>>,
    /// The treatment can change when istiod starts again.
    pub uncertain: bool,
    /// Index of the Service whose listener takes the call. [`Treatment::keeps`] ignores it.
    pub taken_by: Option<u32>,
    /// The call has no route, and is handled as HTTP all the same, since the port has a listener
    /// for HTTP Services: with HTTP's access log, metrics and refusal. [`Treatment::keeps`] ignores
    /// it, as the answer is the same.
    pub unrouted_http: bool,
    /// The host has a virtual host for its full name alone, since no Service in this scope has it:
    /// a request to a short name (`cart`, `cart.shop`) has no route.
    pub full_name_only: bool,
}

impl Treatment {
    /// Whether the proxy has no route for the call (unrouted).
    pub fn is_unrouted(&self) -> bool {
        matches!(self.kind, RouteKind::Passthrough | RouteKind::Blackhole | RouteKind::None)
    }

    /// Whether the call is treated as under the baseline scope (`full`), and certainly so.
    pub fn keeps(&self, full: &Self) -> bool {
        !self.uncertain
            && self.kind == full.kind
            && self.steps == full.steps
            && self.backing == full.backing
            // An application may use a short name: under mutual TLS nothing on the wire shows it.
            && (full.full_name_only || !self.full_name_only)
    }
}

/// A route for people and programs.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Route {
    /// How the call leaves the proxy, as a word: that of its [`RouteKind`].
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
            mirrors: steps.iter().flat_map(|s| s.mirrors.iter().map(EnvoyCluster::name)).collect(),
        }
    }
}
