//! VirtualServices as istiod uses them: short names are qualified, delegates are merged into their
//! roots.
//!
//! Owns the merge (`model/virtualservice.go`, `model/virtualservice_controller.go`) and the
//! destinations of a rule. Must never decide who imports a VirtualService.

use std::collections::{BTreeMap, BTreeSet};

use super::host::qualify;
use super::service::ExportTo;
use crate::objects::{HttpMatch, HttpRoute, L4Route, SpecObject, StringMatch, VirtualServiceSpec};
use sidecarta_model::Time;

/// The gateway that stands for all sidecars.
pub(crate) const MESH_GATEWAY: &str = "mesh";

/// A root VirtualService.
#[derive(Clone, Debug)]
pub struct VirtualService {
    /// Namespace of the VirtualService. Short hosts in it are of this namespace.
    pub namespace: String,
    /// Name of the VirtualService (`metadata.name`).
    pub name: String,
    /// When it was created.
    pub created: Time,
    /// Hosts, fully qualified.
    pub hosts: Vec<String>,
    /// In force, the mesh's default included; `.` is spelled as the namespace.
    pub export: ExportTo,
    /// Its index in istiod's order.
    pub order: u32,
    /// It applies to sidecars: its gateways are absent or have `mesh`.
    pub mesh: bool,
    /// Made of a route of the Gateway API of this kind.
    pub route: Option<&'static str>,
    /// Rules for HTTP, delegates merged in.
    pub(crate) http: Vec<HttpRoute>,
    pub(crate) tls: Vec<L4Route>,
    pub(crate) tcp: Vec<L4Route>,
}

impl VirtualService {
    /// `namespace/name`.
    pub fn id(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// The kind of the object that it stands in.
    pub fn kind(&self) -> &'static str {
        self.route.unwrap_or("VirtualService")
    }

    /// Whether its HTTP rules apply when a client in namespace `client` calls a Service in
    /// `service_namespace`. A route of the Gateway API applies only in the namespace of the Service
    /// (producer route) or of the client (consumer route) (`BuildSidecarVirtualHostWrapper`).
    pub(crate) fn serves(&self, service_namespace: &str, client: &str) -> bool {
        self.route.is_none() || self.namespace == service_namespace || self.namespace == client
    }

    /// Hosts that its rules send traffic to, mirrors included, with the ports; no port means all
    /// (`virtualServiceDestinationsFilteredBySourceNamespace`: rules of another `sourceNamespace`
    /// are left out, rules of other `sourceLabels` are not).
    pub fn destinations(&self, namespace: &str) -> BTreeMap<&str, BTreeSet<Option<u16>>> {
        let mut out: BTreeMap<&str, BTreeSet<Option<u16>>> = BTreeMap::new();
        for rule in &self.http {
            // A rule whose matches name only other namespaces is left out. One match that names
            // this namespace is enough to use the rule.
            let named: Vec<&str> = rule
                .matches
                .iter()
                .map(|m| m.source_namespace.as_str())
                .filter(|n| !n.is_empty())
                .collect();
            if !named.is_empty() && !named.contains(&namespace) {
                continue;
            }
            let mirrors = rule.mirrors.iter().flatten().filter_map(|m| m.destination.as_ref());
            let routes = rule.route.iter().filter_map(|r| r.destination.as_ref());
            for t in routes.chain(&rule.mirror).chain(mirrors) {
                out.entry(t.host.as_str()).or_default().insert(t.port.map(|p| p.number));
            }
        }
        for t in self
            .tcp
            .iter()
            .chain(&self.tls)
            .flat_map(|r| &r.route)
            .filter_map(|r| r.destination.as_ref())
        {
            out.entry(t.host.as_str()).or_default().insert(t.port.map(|p| p.number));
        }
        out
    }
}

/// Resolves and merges all VirtualServices. Faults of delegates are added to `problems`.
pub(super) fn merge_all(
    objects: &[SpecObject<VirtualServiceSpec>],
    default_export: &ExportTo,
    domain: &str,
    problems: &mut Vec<String>,
) -> Vec<VirtualService> {
    let resolved: Vec<VirtualService> =
        objects.iter().map(|o| resolve(o, default_export, domain)).collect();
    let delegates: BTreeMap<(&str, &str), &VirtualService> = resolved
        .iter()
        .filter(|v| v.hosts.is_empty())
        .map(|v| ((v.namespace.as_str(), v.name.as_str()), v))
        .collect();
    let mut roots: Vec<VirtualService> = Vec::new();
    for root in resolved.iter().filter(|v| !v.hosts.is_empty()) {
        let mut merged = root.clone();
        if root.http.iter().any(|r| r.delegate.is_some()) {
            merged.http = root
                .http
                .iter()
                .flat_map(|rule| with_delegate(root, rule, &delegates, problems))
                .collect();
        }
        roots.push(merged);
    }
    roots
}

/// Puts VirtualServices in istiod's order.
pub(super) fn sort(roots: &mut [VirtualService]) {
    roots.sort_by(|a, b| {
        (a.created, &a.name, &a.namespace).cmp(&(b.created, &b.name, &b.namespace))
    });
    for (i, v) in roots.iter_mut().enumerate() {
        v.order = i as u32;
    }
}

fn with_delegate(
    root: &VirtualService,
    rule: &HttpRoute,
    delegates: &BTreeMap<(&str, &str), &VirtualService>,
    problems: &mut Vec<String>,
) -> Vec<HttpRoute> {
    let Some(to) = &rule.delegate else { return vec![rule.clone()] };
    let namespace = if to.namespace.is_empty() { &root.namespace } else { &to.namespace };
    let Some(delegate) = delegates.get(&(namespace.as_str(), to.name.as_str())) else {
        problems.push(format!(
            "VirtualService {}: its delegate {namespace}/{} is not in the mesh; \
             istiod leaves that rule out",
            root.id(),
            to.name
        ));
        return Vec::new();
    };
    // The root's namespace must see it, whatever the client sees.
    if !delegate.export.public() && !delegate.export.lists(&root.namespace) {
        problems.push(format!(
            "VirtualService {}: its delegate {} is not exported to {}; \
             istiod leaves that rule out",
            root.id(),
            delegate.id(),
            root.namespace
        ));
        return Vec::new();
    }
    delegate.http.iter().filter_map(|sub| merge_rule(rule, sub)).collect()
}

/// Qualifies host names, and replaces `.` in `exportTo` by the namespace.
fn resolve(
    object: &SpecObject<VirtualServiceSpec>,
    default_export: &ExportTo,
    domain: &str,
) -> VirtualService {
    let (meta, mut spec) = (&object.metadata, object.spec.clone().unwrap_or_default());
    let full = |host: &mut String| *host = qualify(host, &meta.namespace, domain);
    spec.hosts.iter_mut().for_each(full);
    for rule in &mut spec.http {
        let mirrors = rule.mirrors.iter_mut().flatten().filter_map(|m| m.destination.as_mut());
        let routes = rule.route.iter_mut().filter_map(|r| r.destination.as_mut());
        routes.chain(&mut rule.mirror).chain(mirrors).for_each(|t| full(&mut t.host));
    }
    let l4 = spec.tcp.iter_mut().chain(&mut spec.tls).flat_map(|r| &mut r.route);
    l4.filter_map(|r| r.destination.as_mut()).for_each(|t| full(&mut t.host));
    let own = |e: &String| if e == "." { meta.namespace.clone() } else { e.clone() };
    let export = if spec.export_to.is_empty() { &default_export.0 } else { &spec.export_to };
    VirtualService {
        namespace: meta.namespace.clone(),
        name: meta.name.clone(),
        created: meta.creation_timestamp.unwrap_or(Time::MIN),
        hosts: spec.hosts,
        export: ExportTo::new(export.iter().map(own).collect()),
        order: 0,
        mesh: spec.gateways.is_empty() || spec.gateways.iter().any(|g| g == MESH_GATEWAY),
        route: None,
        http: spec.http,
        tls: spec.tls,
        tcp: spec.tcp,
    }
}

/// Merges a delegate's rule into the root's; `None` when their conditions exclude each other
/// (`mergeHTTPRoute`).
fn merge_rule(root: &HttpRoute, delegate: &HttpRoute) -> Option<HttpRoute> {
    let mut out = delegate.clone();
    out.matches = merge_matches(&root.matches, &delegate.matches)?;
    out.direct_response = out.direct_response.or_else(|| root.direct_response.clone());
    out.mirror = out.mirror.or_else(|| root.mirror.clone());
    out.mirror_percent = out.mirror_percent.or_else(|| root.mirror_percent.clone());
    out.mirror_percentage = out.mirror_percentage.or_else(|| root.mirror_percentage.clone());
    out.mirrors = out.mirrors.or_else(|| root.mirrors.clone());
    Some(out)
}

fn merge_matches(root: &[HttpMatch], delegate: &[HttpMatch]) -> Option<Vec<HttpMatch>> {
    if root.is_empty() {
        return Some(delegate.to_vec());
    }
    if delegate.is_empty() {
        return Some(root.to_vec());
    }
    let mut out = Vec::new();
    for sub in delegate {
        let before = out.len();
        out.extend(root.iter().filter(|r| !conflict(r, sub)).map(|r| merge_match(r, sub)));
        // Each condition of the delegate must lie within one of the root's.
        if out.len() == before {
            return None;
        }
    }
    Some(out)
}

fn merge_match(root: &HttpMatch, delegate: &HttpMatch) -> HttpMatch {
    let mut out = delegate.clone();
    out.uri = out.uri.or_else(|| root.uri.clone());
    out.scheme = out.scheme.or_else(|| root.scheme.clone());
    out.method = out.method.or_else(|| root.method.clone());
    out.authority = out.authority.or_else(|| root.authority.clone());
    // The delegate's value wins where both have one (`maps.MergeCopy`).
    let both = |r: &BTreeMap<String, StringMatch>, d: &BTreeMap<String, StringMatch>| {
        r.iter().chain(d).map(|(k, v)| (k.clone(), v.clone())).collect::<BTreeMap<_, _>>()
    };
    out.headers = both(&root.headers, &delegate.headers);
    out.without_headers = both(&root.without_headers, &delegate.without_headers);
    out.query_params = both(&root.query_params, &delegate.query_params);
    out.source_labels = root
        .source_labels
        .iter()
        .chain(&delegate.source_labels)
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    if out.port == 0 {
        out.port = root.port;
    }
    if out.source_namespace.is_empty() {
        out.source_namespace.clone_from(&root.source_namespace);
    }
    if out.gateways.is_empty() {
        out.gateways.clone_from(&root.gateways);
    }
    out
}

/// `hasConflict`.
fn conflict(root: &HttpMatch, leaf: &HttpMatch) -> bool {
    let pairs = [
        (&root.uri, &leaf.uri),
        (&root.scheme, &leaf.scheme),
        (&root.method, &leaf.method),
        (&root.authority, &leaf.authority),
    ];
    let maps = [
        (&root.headers, &leaf.headers),
        (&root.without_headers, &leaf.without_headers),
        (&root.query_params, &leaf.query_params),
    ];
    pairs.iter().any(|(r, l)| string_conflict(r.as_ref(), l.as_ref()))
        || maps.iter().any(|(r, l)| l.iter().any(|(k, v)| string_conflict(r.get(k), Some(v))))
        || root.ignore_uri_case != leaf.ignore_uri_case
        || (root.port > 0 && leaf.port > 0 && root.port != leaf.port)
        || (!root.source_namespace.is_empty() && leaf.source_namespace != root.source_namespace)
        || leaf.source_labels.iter().any(|(k, v)| root.source_labels.get(k).is_some_and(|r| r != v))
        || (!root.gateways.is_empty()
            && !leaf.gateways.is_empty()
            && (root.gateways.len() < leaf.gateways.len()
                || leaf.gateways.iter().any(|g| !root.gateways.contains(g))))
}

/// `stringMatchConflict`.
fn string_conflict(root: Option<&StringMatch>, leaf: Option<&StringMatch>) -> bool {
    let (Some(root), Some(leaf)) = (root, leaf) else { return false };
    let any = |m: &StringMatch| !m.regex.is_empty() || !m.prefix.is_empty() || !m.exact.is_empty();
    if (!root.regex.is_empty() && any(leaf)) || (!leaf.regex.is_empty() && any(root)) {
        return true;
    }
    if !root.exact.is_empty() {
        return !leaf.prefix.is_empty() || leaf.exact != root.exact;
    }
    if !root.prefix.is_empty() {
        if !leaf.prefix.is_empty() {
            return !leaf.prefix.starts_with(&root.prefix);
        }
        if !leaf.exact.is_empty() {
            return !leaf.exact.starts_with(&root.prefix);
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(p: &str) -> HttpMatch {
        HttpMatch {
            uri: Some(StringMatch { prefix: p.to_owned(), ..StringMatch::default() }),
            ..HttpMatch::default()
        }
    }

    #[test]
    fn a_delegate_that_leaves_the_roots_conditions_is_dropped() {
        assert!(merge_matches(&[prefix("/a")], &[prefix("/a/b")]).is_some());
        assert!(merge_matches(&[prefix("/a/b")], &[prefix("/a")]).is_none());
        assert_eq!(merge_matches(&[prefix("/a"), prefix("/b")], &[]).unwrap().len(), 2);
    }
}
