//! Routes of the Gateway API whose parent is a Service or a ServiceEntry, as the VirtualServices
//! that istiod makes of them (`pilot/pkg/config/kube/gateway/route_collections.go`, the branch
//! `parent.IsMesh()`).
//!
//! Owns the conversion. Must never decide who imports a route.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::service::ExportTo;
use super::virtualservice::VirtualService;
use crate::objects::{
    self, GatewayRoute, GatewayRule, GatewayValue, HttpMatch, HttpRoute, L4Match, L4Route, Mirror,
    ObjectMeta, ObjectReference, Percent, PortSelector, RouteDestination, StringMatch,
    WeightedDestination,
};
use sidecarta_model::Time;

/// The kind of a route of the Gateway API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum GatewayRouteKind {
    Http,
    Grpc,
    Tcp,
    Tls,
}

impl GatewayRouteKind {
    fn name(self) -> &'static str {
        match self {
            Self::Http => "HTTPRoute",
            Self::Grpc => "GRPCRoute",
            Self::Tcp => "TCPRoute",
            Self::Tls => "TLSRoute",
        }
    }
}

/// Makes one VirtualService for each namespace, port and host. Routes with the same three are
/// merged, the oldest first. `entries` are the ServiceEntries that may be parents of routes.
pub(super) fn convert(
    routes: &[(GatewayRouteKind, GatewayRoute)],
    entries: &[objects::ServiceEntry],
    domain: &str,
) -> Vec<VirtualService> {
    let mut sorted: Vec<&(GatewayRouteKind, GatewayRoute)> = routes.iter().collect();
    sorted.sort_by_key(|(k, r)| {
        let m = &r.metadata;
        (m.creation_timestamp.unwrap_or(Time::MIN), m.namespace.clone(), m.name.clone(), *k)
    });
    let mut made: BTreeMap<(String, Option<u16>, String), VirtualService> = BTreeMap::new();
    for (kind, route) in sorted {
        let (meta, spec) = (&route.metadata, route.spec.clone().unwrap_or_default());
        for parent in &spec.parent_refs {
            for host in parent_hosts(parent, meta, entries, domain) {
                let key = (meta.namespace.clone(), parent.port, host.clone());
                let into = made.entry(key).or_insert_with(|| empty(*kind, meta, &host));
                for rule in &spec.rules {
                    match kind {
                        GatewayRouteKind::Http | GatewayRouteKind::Grpc => {
                            into.http.push(http(rule, parent.port, meta, domain));
                        }
                        GatewayRouteKind::Tcp => {
                            into.tcp.push(l4(rule, parent.port, Vec::new(), meta, domain));
                        }
                        GatewayRouteKind::Tls => {
                            let own = || vec![host.clone()];
                            let names = Some(spec.hostnames.clone()).filter(|h| !h.is_empty());
                            let names = names.unwrap_or_else(own);
                            into.tls.push(l4(rule, parent.port, names, meta, domain));
                        }
                    }
                }
            }
        }
    }
    made.into_values().collect()
}

/// The hosts of a route's parent; none where the parent is no Service or ServiceEntry.
fn parent_hosts(
    parent: &ObjectReference,
    meta: &ObjectMeta,
    entries: &[objects::ServiceEntry],
    domain: &str,
) -> BTreeSet<String> {
    let namespace = if parent.namespace.is_empty() { &meta.namespace } else { &parent.namespace };
    let group = parent.group.as_deref().unwrap_or("gateway.networking.k8s.io");
    match (group, parent.kind.as_deref().unwrap_or("Gateway")) {
        ("" | "core", "Service") => [format!("{}.{namespace}.svc.{domain}", parent.name)].into(),
        ("networking.istio.io", "ServiceEntry") => entries
            .iter()
            .filter(|e| e.metadata.namespace == *namespace && e.metadata.name == parent.name)
            .flat_map(|e| e.spec.hosts.iter().cloned())
            .collect(),
        _ => BTreeSet::new(),
    }
}

fn empty(kind: GatewayRouteKind, meta: &ObjectMeta, host: &str) -> VirtualService {
    VirtualService {
        namespace: meta.namespace.clone(),
        name: meta.name.clone(),
        created: meta.creation_timestamp.unwrap_or(Time::MIN),
        hosts: vec![host.to_owned()],
        export: ExportTo::new(vec!["*".to_owned()]),
        order: 0,
        mesh: true,
        route: Some(kind.name()),
        http: Vec::new(),
        tls: Vec::new(),
        tcp: Vec::new(),
    }
}

fn target(reference: &ObjectReference, meta: &ObjectMeta, domain: &str) -> RouteDestination {
    let own = &meta.namespace;
    let namespace = if reference.namespace.is_empty() { own } else { &reference.namespace };
    let host = match reference.kind.as_deref() {
        Some("Hostname") => reference.name.clone(),
        Some("ServiceImport") => format!("{}.{namespace}.svc.clusterset.local", reference.name),
        _ => format!("{}.{namespace}.svc.{domain}", reference.name),
    };
    let port = reference.port.map(|number| PortSelector { number });
    RouteDestination { host, subset: String::new(), port }
}

fn backends(rule: &GatewayRule, meta: &ObjectMeta, domain: &str) -> Vec<WeightedDestination> {
    let backends = rule.backend_refs.iter().filter(|b| b.weight != Some(0));
    let weighted = |b: &ObjectReference| WeightedDestination {
        destination: Some(target(b, meta, domain)),
        weight: b.weight.unwrap_or(1),
    };
    backends.map(weighted).collect()
}

fn http(rule: &GatewayRule, port: Option<u16>, meta: &ObjectMeta, domain: &str) -> HttpRoute {
    let mut out = HttpRoute { route: backends(rule, meta, domain), ..HttpRoute::default() };
    for filter in &rule.filters {
        match filter.kind.as_str() {
            "RequestRedirect" => out.redirect = Some(Value::Bool(true)),
            "RequestMirror" => {
                let Some(mirror) = &filter.request_mirror else { continue };
                let fraction = mirror.fraction.as_ref().map(|f| {
                    let part = |k: &str, or: f64| f.get(k).copied().unwrap_or(or);
                    100.0 * part("numerator", 0.0) / part("denominator", 100.0).max(1.0)
                });
                out.mirrors.get_or_insert_default().push(Mirror {
                    destination: Some(target(&mirror.backend_ref, meta, domain)),
                    percentage: mirror.percent.or(fraction).map(|value| Percent { value }),
                });
            }
            _ => {}
        }
    }
    // Without a backend every request is answered with 500.
    if out.route.is_empty() && out.redirect.is_none() {
        out.direct_response = Some(Value::Bool(true));
    }
    out.matches = rule
        .matches
        .iter()
        .map(|m| HttpMatch {
            uri: match (&m.path, &m.method) {
                (Some(path), _) => Some(compared(path, "PathPrefix")),
                (None, Some(Value::Object(method))) => {
                    let part = |k: &str| method.get(k).and_then(Value::as_str).unwrap_or(".+");
                    let regex = format!("/{}/{}", part("service"), part("method"));
                    Some(StringMatch { regex, ..StringMatch::default() })
                }
                _ => None,
            },
            method: m
                .method
                .as_ref()
                .and_then(Value::as_str)
                .map(|name| StringMatch { exact: name.to_owned(), ..StringMatch::default() }),
            headers: named(&m.headers),
            query_params: named(&m.query_params),
            port: port.unwrap_or(0),
            ..HttpMatch::default()
        })
        .collect();
    if let (true, Some(port)) = (out.matches.is_empty(), port) {
        out.matches.push(HttpMatch { port, ..HttpMatch::default() });
    }
    out
}

fn named(all: &[GatewayValue]) -> BTreeMap<String, StringMatch> {
    all.iter().map(|v| (v.name.clone(), compared(v, "Exact"))).collect()
}

/// A value with its kind of comparison. `absent` is the kind where the route gives none.
fn compared(value: &GatewayValue, absent: &str) -> StringMatch {
    let kind = if value.kind.is_empty() { absent } else { value.kind.as_str() };
    let text = value.value.clone();
    let none = StringMatch::default();
    match kind {
        "PathPrefix" => {
            let prefix = if text.is_empty() { "/".to_owned() } else { text };
            StringMatch { prefix, ..none }
        }
        "RegularExpression" => StringMatch { regex: text, ..none },
        _ => StringMatch { exact: text, ..none },
    }
}

fn l4(
    rule: &GatewayRule,
    port: Option<u16>,
    sni_hosts: Vec<String>,
    meta: &ObjectMeta,
    domain: &str,
) -> L4Route {
    let all = sni_hosts.is_empty() && port.is_none();
    let condition = L4Match { sni_hosts, port: port.unwrap_or(0), ..L4Match::default() };
    L4Route {
        matches: if all { Vec::new() } else { vec![condition] },
        route: backends(rule, meta, domain),
    }
}
