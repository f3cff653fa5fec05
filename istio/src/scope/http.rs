//! Virtual hosts and HTTP rules (`networking/core/httproute.go`, `networking/core/route/route.go`),
//! for one host at a time.
//!
//! Owns which virtual host takes a call, and the rules of it. Must never choose a listener.

use super::call::{EnvoyCluster, RouteStep, ScopeCall};
use super::l4::destination;
use super::listener::{PortIndex, RoutingIndex};
use super::{Client, Scope, ScopeListener};
use crate::mesh::host::{is_wildcard, matches, subset_of};
use crate::mesh::virtualservice::MESH_GATEWAY;
use crate::mesh::{MeshPort, ServiceResolution, VirtualService};
use crate::objects::{HttpMatch, HttpRoute, Percent, RouteDestination};
use sidecarta_model::selects;

/// What the virtual hosts of a port do with a call.
pub(super) enum HttpOutcome {
    /// The rules, in order.
    Steps(Vec<RouteStep>),
    /// The catch-all virtual host.
    Unrouted,
    /// No virtual host at all.
    Nothing,
}

struct VirtualHosts<'s, 'm> {
    listener: &'s ScopeListener<'m>,
    index: &'s RoutingIndex<'m>,
    at: &'s PortIndex<'m>,
    client: &'s Client<'s>,
    port: u16,
}

/// The rules for a call on a listener; with `only`, the virtual hosts of that Service alone (its
/// protocol is detected).
pub(super) fn route(
    scope: &Scope<'_>,
    listener: usize,
    client: &Client<'_>,
    call: &ScopeCall,
    only: Option<&str>,
) -> HttpOutcome {
    let listener = &scope.listeners[listener];
    let index = listener.index(scope.mesh);
    let Some(at) = index.ports.get(&call.port) else { return HttpOutcome::Unrouted };
    let hosts = VirtualHosts { listener, index, at, client, port: call.port };
    if let Some(host) = only {
        // The one virtual host of the Service takes every authority.
        return hosts.exact(host).map_or(HttpOutcome::Nothing, HttpOutcome::Steps);
    }
    let found = hosts.exact(&call.host).or_else(|| hosts.wildcard(&call.host));
    found.map_or(HttpOutcome::Unrouted, HttpOutcome::Steps)
}

/// Whether a host is no Service of a listener on this port. Where a VirtualService alone gives it a
/// virtual host, its domains are the full name; only those of a Service have the short names too
/// (`generateVirtualHostDomains` in `networking/core/httproute.go`).
pub(super) fn is_full_name_only(scope: &Scope<'_>, listener: usize, call: &ScopeCall) -> bool {
    let listener = &scope.listeners[listener];
    let Some(at) = listener.index(scope.mesh).ports.get(&call.port) else { return false };
    !at.names.contains_key(call.host.as_str()) && !at.aliases.contains_key(&call.host)
}

impl VirtualHosts<'_, '_> {
    /// The virtual host that has exactly this domain. VirtualServices come first, in order. The
    /// first virtual host with a domain has it.
    fn exact(&self, host: &str) -> Option<Vec<RouteStep>> {
        let by_name = self.at.names.get(host).copied().or_else(|| self.by_address(host));
        let by_alias = self.at.aliases.get(host).into_iter().flatten().copied();
        let services: Vec<u32> = by_name.into_iter().chain(by_alias).collect();
        let mut found: Vec<u32> = services.iter().flat_map(|&s| self.routed_by(s)).collect();
        if by_name.is_none() {
            let lists = self.index.exact.get(host).into_iter().flatten().copied();
            found.extend(lists.filter(|&v| self.has_virtual_hosts(v)));
        }
        found.sort_unstable();
        let first = found.into_iter().find_map(|v| self.rules(v));
        first.or_else(|| services.iter().find_map(|&s| self.default_route(s)))
    }

    /// The Service with this address: the addresses of a Service are domains of its virtual host
    /// (`generateVirtualHostDomains`, `networking/core/httproute.go`).
    fn by_address(&self, host: &str) -> Option<u32> {
        host.parse::<std::net::IpAddr>().ok()?;
        let has = |s: &u32| self.listener.services[*s as usize].service.address == host;
        let mut all: Vec<u32> = self.at.names.values().copied().filter(has).collect();
        all.sort_unstable();
        all.first().copied()
    }

    /// The virtual host with the longest wildcard domain that covers the name.
    fn wildcard(&self, host: &str) -> Option<Vec<RouteStep>> {
        let covers = |domain: &str| host.len() >= domain.len() && subset_of(host, domain);
        let mut domains: Vec<(usize, Option<u32>, u32)> = Vec::new();
        for &(domain, v) in self.index.wild.iter().filter(|(d, _)| covers(d)) {
            let matched = self.at.names.keys().any(|s| matches(s, domain));
            if !matched && self.has_virtual_hosts(v) {
                domains.push((domain.len(), Some(v), 0));
            }
        }
        for &(domain, s) in self.at.wild_names.iter().filter(|(d, _)| covers(d)) {
            domains.push((domain.len(), None, s));
        }
        for &s in &self.at.headless {
            let scoped = &self.listener.services[s as usize];
            let names =
                std::iter::once(&scoped.service.host).chain(scoped.aliases.iter().map(|(_, a)| a));
            for name in
                names.filter(|n| host.strip_suffix(n.as_str()).is_some_and(|h| h.ends_with('.')))
            {
                domains.push((name.len() + 2, None, s));
            }
        }
        domains.sort_unstable_by_key(|(len, v, s)| (std::cmp::Reverse(*len), v.is_none(), *v, *s));
        domains.into_iter().find_map(|(_, v, s)| match v {
            Some(v) => self.rules(v),
            None => {
                let mut by = self.routed_by(s);
                by.sort_unstable();
                by.into_iter().find_map(|v| self.rules(v)).or_else(|| self.default_route(s))
            }
        })
    }

    fn port_of(&self, service: u32) -> Option<&MeshPort> {
        self.listener.services[service as usize].port(self.port)
    }

    /// VirtualServices that make a virtual host for this Service: those that list its host, and the
    /// one whose wildcard is the most specific for it (`separateVSHostsAndServices`).
    fn routed_by(&self, service: u32) -> Vec<u32> {
        if !self.port_of(service).is_some_and(|p| p.protocol.is_http_or_sniffed()) {
            return Vec::new();
        }
        let service = self.listener.services[service as usize].service;
        let host = service.host.as_str();
        let mut out: Vec<u32> = self.index.exact.get(host).into_iter().flatten().copied().collect();
        let serves = |v: &u32| {
            let v = self.listener.virtual_services[*v as usize];
            v.serves(&service.namespace, self.client.namespace)
        };
        out.retain(serves);
        if let Some(&v) = self.index.most_specific.most_specific(host) {
            let by_wildcard = self.listener.virtual_services[v as usize]
                .hosts
                .iter()
                .any(|h| is_wildcard(h) && matches(h, host));
            if by_wildcard && !out.contains(&v) {
                out.push(v);
            }
        }
        out
    }

    /// Whether a VirtualService gets virtual hosts on this port for hosts of its own that are no
    /// Service: it must lead a Service that has the port and speaks HTTP, or the port is 80 (and
    /// then no Service of another protocol matters).
    fn has_virtual_hosts(&self, v: u32) -> bool {
        if self.port == 80 {
            return true;
        }
        let leads = |host: &String| {
            if is_wildcard(host) {
                self.at
                    .names
                    .iter()
                    .any(|(name, &s)| matches(name, host) && self.routed_by(s).contains(&v))
            } else {
                self.at.names.get(host.as_str()).is_some_and(|&s| self.routed_by(s).contains(&v))
            }
        };
        self.listener.virtual_services[v as usize].hosts.iter().any(leads)
    }

    fn default_route(&self, service: u32) -> Option<Vec<RouteStep>> {
        let scoped = &self.listener.services[service as usize];
        let speaks = self.port_of(service).is_some_and(|p| p.protocol.is_http_or_sniffed());
        if !speaks || scoped.service.resolution == ServiceResolution::Alias {
            return None;
        }
        // There is no default route once a VirtualService has a virtual host for the Service.
        if self.routed_by(service).iter().any(|&v| self.rules(v).is_some()) {
            return None;
        }
        let cluster = EnvoyCluster {
            port: self.port,
            subset: String::new(),
            host: scoped.service.host.clone(),
        };
        Some(vec![RouteStep {
            virtual_service: None,
            rule: (0, 0),
            clusters: vec![(cluster, 0)],
            mirrors: Vec::new(),
        }])
    }

    /// The rules of a VirtualService for this client and port; `None` when there are none
    /// (`BuildHTTPRoutesForVirtualService`).
    fn rules(&self, v: u32) -> Option<Vec<RouteStep>> {
        let virtual_service = self.listener.virtual_services[v as usize];
        let mut out = Vec::new();
        'rules: for (i, rule) in virtual_service.http.iter().enumerate() {
            if rule.matches.is_empty() {
                out.push(self.step(virtual_service, rule, (i, 0)));
                break;
            }
            for (j, m) in rule.matches.iter().enumerate() {
                if (m.port == 0 || m.port == self.port) && self.of_client(m) {
                    out.push(self.step(virtual_service, rule, (i, j)));
                    if takes_all(m) {
                        break 'rules;
                    }
                }
            }
        }
        (!out.is_empty()).then_some(out)
    }

    /// Whether a match applies to the client (`sourceMatchHTTP`). A match that names gateways is
    /// decided by them alone.
    fn of_client(&self, m: &HttpMatch) -> bool {
        if !m.gateways.is_empty() {
            return m.gateways.iter().any(|g| g == MESH_GATEWAY);
        }
        selects(&m.source_labels, self.client.labels)
            && (m.source_namespace.is_empty() || m.source_namespace == self.client.namespace)
    }

    fn cluster(&self, target: &RouteDestination) -> EnvoyCluster {
        // istiod searches only Services with this port, and of each only this port.
        let found =
            self.at.names.get(target.host.as_str()).map(|&s| &self.listener.services[s as usize]);
        let mut cluster = destination(target, found, self.port);
        if target.port.is_none() {
            cluster.port = self.port;
        }
        cluster
    }

    fn step(&self, v: &VirtualService, rule: &HttpRoute, at: (usize, usize)) -> RouteStep {
        let mut step = RouteStep {
            virtual_service: Some(v.order),
            rule: (at.0 as u16, at.1 as u16),
            clusters: Vec::new(),
            mirrors: Vec::new(),
        };
        if rule.redirect.is_some() || rule.direct_response.is_some() {
            return step;
        }
        let all = |p: Option<&Percent>| p.is_none_or(|p| p.value > 0.0);
        let of_rule = match (&rule.mirror_percentage, &rule.mirror_percent) {
            (Some(p), _) => p.value > 0.0,
            (None, Some(p)) => {
                p.as_f64().or_else(|| p.get("value")?.as_f64()).is_none_or(|p| p > 0.0)
            }
            (None, None) => true,
        };
        step.mirrors.extend(rule.mirror.iter().filter(|_| of_rule).map(|t| self.cluster(t)));
        let several = rule.mirrors.iter().flatten().filter(|m| all(m.percentage.as_ref()));
        step.mirrors
            .extend(several.filter_map(|m| m.destination.as_ref()).map(|t| self.cluster(t)));
        let single = rule.route.len() == 1;
        let routes = rule.route.iter().filter(|w| single || w.weight != 0);
        step.clusters = routes
            .filter_map(|w| Some((self.cluster(w.destination.as_ref()?), w.weight)))
            .collect();
        step
    }
}

/// Whether a match takes every request, so that later rules are never reached
/// (`IsCatchAllRoute`).
fn takes_all(m: &HttpMatch) -> bool {
    let path =
        m.uri.as_ref().is_none_or(|u| u.exact.is_empty() && (u.prefix == "/" || u.regex == ".*"));
    path && m.headers.is_empty()
        && m.without_headers.is_empty()
        && m.query_params.is_empty()
        && m.method.is_none()
        && m.authority.is_none()
        && m.scheme.is_none()
}
