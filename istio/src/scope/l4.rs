//! Filter chains for TLS and TCP (`networking/core/tls.go`, `networkfilter.go`).

use std::collections::HashSet;

use super::call::EnvoyCluster;
use super::chain::{ChainAction, FilterChain};
use super::{Client, Scope, ScopedService};
use crate::mesh::UNSPECIFIED;
use crate::mesh::host::{is_wildcard, matches};
use crate::mesh::virtualservice::MESH_GATEWAY;
use crate::mesh::{AppProtocol, ServiceResolution, VirtualService};
use crate::objects::{L4Match, RouteDestination, WeightedDestination};
use sidecarta_model::selects;

/// The chains of a Service port.
pub(super) fn chains(
    scope: &Scope<'_>,
    listener: usize,
    scoped: &ScopedService<'_>,
    protocol: AppProtocol,
    port: u16,
    on_every: bool,
    client: &Client<'_>,
) -> Vec<FilterChain> {
    let configs = of_host(scope, listener, &scoped.service.host);
    let ranges: Vec<String> = if scoped.service.address.contains('/') && on_every {
        vec![scoped.service.address.clone()]
    } else {
        Vec::new()
    };
    if protocol.is_tls() {
        tls(scope, scoped, port, on_every, client, &configs, ranges)
    } else {
        tcp(scope, scoped, port, client, &configs, ranges)
    }
}

/// `getConfigsForHost`: VirtualServices of the listener with a host that overlaps.
fn of_host<'m>(scope: &Scope<'m>, listener: usize, host: &str) -> Vec<&'m VirtualService> {
    let listener = &scope.listeners[listener];
    if is_wildcard(host) {
        let overlapping =
            listener.virtual_services.iter().filter(|v| v.hosts.iter().any(|h| matches(h, host)));
        return overlapping.copied().collect();
    }
    let index = listener.index(scope.mesh);
    let wild = index.wild.iter().filter(|(h, _)| matches(h, host)).map(|(_, i)| *i);
    let mut found: Vec<u32> =
        index.exact.get(host).into_iter().flatten().copied().chain(wild).collect();
    found.sort_unstable();
    found.dedup();
    found.into_iter().map(|i| listener.virtual_services[i as usize]).collect()
}

/// Whether a match applies, as far as istiod decides it before any connection (`matchTLS`,
/// `matchTCP`).
fn applies(m: &L4Match, client: &Client<'_>, port: u16) -> bool {
    (m.gateways.is_empty() || m.gateways.iter().any(|g| g == MESH_GATEWAY))
        && selects(&m.source_labels, client.labels)
        && (m.port == 0 || m.port == port)
        && (m.source_namespace.is_empty() || m.source_namespace == client.namespace)
}

fn tls(
    scope: &Scope<'_>,
    scoped: &ScopedService<'_>,
    port: u16,
    on_every: bool,
    client: &Client<'_>,
    configs: &[&VirtualService],
    mut ranges: Vec<String>,
) -> Vec<FilterChain> {
    let mut out = Vec::new();
    let mut handled = HashSet::new();
    for v in configs {
        for rule in v.tls.iter().filter(|r| !r.route.is_empty()) {
            for m in rule.matches.iter().filter(|m| applies(m, client, port)) {
                if !m.destination_subnets.is_empty() {
                    ranges.clone_from(&m.destination_subnets);
                }
                // Two matches with the same conditions: the second is never reached, so skip it.
                if handled.insert((m.sni_hosts.join(","), m.destination_subnets.join(","))) {
                    let action = proxy(scope, Some(v.order), &rule.route, port);
                    out.push(FilterChain {
                        sni: m.sni_hosts.clone(),
                        ranges: ranges.clone(),
                        detected_http: false,
                        action,
                        uncertain: false,
                        made_by: 0,
                    });
                }
            }
        }
    }
    if out.is_empty() {
        let service = scoped.service;
        let no_address =
            service.address.contains('/') || (service.address == UNSPECIFIED && on_every);
        let by_name = !ranges.is_empty()
            || no_address
            || (is_wildcard(&service.host) && service.resolution == ServiceResolution::DynamicDns);
        let names =
            std::iter::once(&service.host).chain(scoped.aliases.iter().map(|(_, h)| h)).cloned();
        let sni = if by_name { names.collect() } else { Vec::new() };
        out.push(FilterChain {
            sni,
            ranges,
            detected_http: false,
            action: plain(scoped, port),
            uncertain: false,
            made_by: 0,
        });
    }
    out
}

fn tcp(
    scope: &Scope<'_>,
    scoped: &ScopedService<'_>,
    port: u16,
    client: &Client<'_>,
    configs: &[&VirtualService],
    ranges: Vec<String>,
) -> Vec<FilterChain> {
    let chain = |ranges: Vec<String>, action| FilterChain {
        sni: Vec::new(),
        ranges,
        detected_http: false,
        action,
        uncertain: false,
        made_by: 0,
    };
    let mut out = Vec::new();
    for v in configs {
        for rule in v.tcp.iter().filter(|r| !r.route.is_empty()) {
            let found: Vec<&L4Match> =
                rule.matches.iter().filter(|m| applies(m, client, port)).collect();
            if rule.matches.is_empty() || found.iter().any(|m| m.destination_subnets.is_empty()) {
                out.push(chain(ranges, proxy(scope, Some(v.order), &rule.route, port)));
                return out;
            }
            let mut subnets: Vec<String> =
                found.iter().flat_map(|m| m.destination_subnets.iter().cloned()).collect();
            if !subnets.is_empty() {
                // istiod does not name the VirtualService of such a chain. Its clusters identify
                // it.
                out.push(chain(subnets.clone(), proxy(scope, None, &rule.route, port)));
                subnets.sort();
                if subnets == ranges {
                    return out;
                }
            }
        }
    }
    out.push(chain(ranges, plain(scoped, port)));
    out
}

/// To the Service itself: to its only port, else to the port that was called.
fn plain(scoped: &ScopedService<'_>, port: u16) -> ChainAction {
    let port = if let [only] = &*scoped.ports { only.number } else { port };
    let cluster = EnvoyCluster { port, subset: String::new(), host: scoped.service.host.clone() };
    ChainAction::Tcp { virtual_service: None, clusters: vec![(cluster, 0)] }
}

/// `buildOutboundNetworkFilters`.
fn proxy(
    scope: &Scope<'_>,
    virtual_service: Option<u32>,
    routes: &[WeightedDestination],
    port: u16,
) -> ChainAction {
    let to = |t: &RouteDestination| {
        let found = scope.service(&t.host);
        destination(t, found, port)
    };
    let clusters = match routes {
        [one] => one.destination.iter().map(|t| (to(t), 0)).collect(),
        many => {
            let weighted = many.iter().filter(|w| w.weight > 0);
            weighted.filter_map(|w| Some((to(w.destination.as_ref()?), w.weight))).collect()
        }
    };
    ChainAction::Tcp { virtual_service, clusters }
}

/// `GetDestinationCluster`: an ExternalName Service stands for what it leads to; without a port,
/// the Service's only one.
pub(super) fn destination(
    target: &RouteDestination,
    found: Option<&ScopedService<'_>>,
    port: u16,
) -> EnvoyCluster {
    let host = found.and_then(|s| s.service.external_name.as_ref()).unwrap_or(&target.host);
    let port = match (target.port, found.map(|s| &*s.ports)) {
        (Some(p), _) => p.number,
        (None, Some([only])) => only.number,
        _ => port,
    };
    EnvoyCluster { port, subset: target.subset.clone(), host: host.clone() }
}
