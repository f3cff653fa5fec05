//! Envoy clusters that a proxy calls by itself because an object names them: EnvoyFilters
//! (`model/envoyfilter.go`, `EnvoyFilters` in `model/push_context.go`), WasmPlugins, and
//! RequestAuthentications with the address of their keys.
//!
//! Owns finding `outbound|PORT|SUBSET|HOST` and key servers in these objects. Must never decide to
//! which pods the objects apply.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::provideruse::has_targets;
use super::{Mesh, ProviderUse};
use crate::objects::{EnvoyFilter, ObjectMeta, RequestAuthentication, WasmPlugin};

/// An Envoy cluster that an object names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NamedCluster {
    /// Host in the cluster's name, fully qualified.
    pub host: String,
    /// Port in the cluster's name.
    pub port: u16,
}

/// The Envoy clusters that an EnvoyFilter needs; `None` where it needs none, or applies to gateways
/// only.
pub(super) fn of_filter(filter: &EnvoyFilter) -> Option<ProviderUse> {
    let spec = filter.spec.clone().unwrap_or_default();
    if has_targets(&spec.target_refs, None) {
        return None;
    }
    let (mut named, mut brought) = (BTreeSet::new(), BTreeSet::new());
    for p in &spec.config_patches {
        if p.matches.as_ref().is_some_and(|m| m.context == "GATEWAY") {
            continue;
        }
        let Some(patch) = &p.patch else { continue };
        let Some(value) = &patch.value else { continue };
        let mut found = BTreeSet::new();
        find(value, &mut found);
        if p.apply_to == "CLUSTER" {
            // The cluster's own name is no call. A cluster that the filter adds itself needs no
            // Service in scope, even if other patches name it.
            let mut own = BTreeSet::new();
            for key in ["name", "alt_stat_name", "altStatName"] {
                value.get(key).into_iter().for_each(|v| find(v, &mut own));
            }
            found.retain(|c| !own.contains(c));
            if patch.operation == "ADD" {
                brought.extend(own);
            }
        }
        named.extend(found);
    }
    named.retain(|c| !brought.contains(c));
    let selector = spec.workload_selector.unwrap_or_default().labels;
    naming("EnvoyFilter", &filter.metadata, selector, named)
}

/// The clusters that a WasmPlugin's settings name.
pub(super) fn of_plugin(plugin: &WasmPlugin) -> Option<ProviderUse> {
    let spec = plugin.spec.clone().unwrap_or_default();
    if has_targets(&spec.target_refs, spec.target_ref.as_ref()) {
        return None;
    }
    let mut named = BTreeSet::new();
    spec.plugin_config.iter().for_each(|v| find(v, &mut named));
    let selector = spec.selector.unwrap_or_default().match_labels;
    naming("WasmPlugin", &plugin.metadata, selector, named)
}

/// The hosts of the mesh that have the keys of a RequestAuthentication. The proxy fetches them
/// itself where istiod runs with `PILOT_JWT_ENABLE_REMOTE_JWKS` (`buildJwtFilter` in
/// `security/authn/policy_applier.go`, `LookupCluster`), which a mesh does not know.
pub(super) fn of_keys(authentication: &RequestAuthentication, mesh: &Mesh) -> Option<ProviderUse> {
    let spec = authentication.spec.clone().unwrap_or_default();
    if has_targets(&spec.target_refs, spec.target_ref.as_ref()) {
        return None;
    }
    let servers = spec.jwt_rules.iter().filter_map(|rule| server_of(&rule.jwks_uri));
    let in_mesh: BTreeSet<NamedCluster> = servers.filter(|s| mesh.has_host(&s.host)).collect();
    let selector = spec.selector.unwrap_or_default().match_labels;
    naming("RequestAuthentication", &authentication.metadata, selector, in_mesh)
}

/// The use of an object that names these clusters; `None` where it names none.
fn naming(
    kind: &'static str,
    object: &ObjectMeta,
    selector: BTreeMap<String, String>,
    named: BTreeSet<NamedCluster>,
) -> Option<ProviderUse> {
    (!named.is_empty()).then(|| ProviderUse {
        clusters: named.into_iter().collect(),
        ..ProviderUse::of_object(kind, object, selector)
    })
}

/// Host and port of a URL (`ParseJwksURI` in `security/model/authentication.go`).
fn server_of(url: &str) -> Option<NamedCluster> {
    let (default, rest) = match url.split_once("://")? {
        ("http", rest) => (80, rest),
        ("https", rest) => (443, rest),
        _ => return None,
    };
    let server = rest.split(['/', '?', '#']).next()?;
    let (host, port) = match server.rsplit_once(':') {
        Some((host, port)) => (host, port.parse().ok()?),
        None => (server, default),
    };
    Some(NamedCluster { host: host.to_ascii_lowercase(), port })
}

/// Collects all Envoy clusters in the strings of a value, keys included.
fn find(value: &Value, out: &mut BTreeSet<NamedCluster>) {
    match value {
        Value::String(text) => in_text(text, out),
        Value::Array(all) => all.iter().for_each(|v| find(v, out)),
        Value::Object(all) => all.iter().for_each(|(k, v)| {
            in_text(k, out);
            find(v, out);
        }),
        _ => {}
    }
}

/// Collects all `outbound|PORT|SUBSET|HOST` in a text. A script may contain several.
fn in_text(text: &str, out: &mut BTreeSet<NamedCluster>) {
    for rest in text.split("outbound|").skip(1) {
        let mut parts = rest.splitn(3, '|');
        let (Some(port), Some(_), Some(host)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        let of_host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '*');
        let host: String = host.chars().take_while(|c| of_host(*c)).collect();
        if let (Ok(port), false) = (port.parse(), host.is_empty()) {
            out.insert(NamedCluster { host: host.trim_end_matches('.').to_lowercase(), port });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clusters_are_found_in_every_string_of_a_value() {
        let value = serde_json::json!({
            "a": [{"cluster": "outbound|80||a.b.svc.cluster.local"}],
            "code": "h:httpCall(\"outbound|8080|v1|c.d.svc.cluster.local\", {})",
            "no": "outbound|x||y", "inbound": "inbound|80||",
        });
        let mut out = BTreeSet::new();
        find(&value, &mut out);
        let got: Vec<_> = out.iter().map(|c| (c.host.as_str(), c.port)).collect();
        assert_eq!(got, [("a.b.svc.cluster.local", 80), ("c.d.svc.cluster.local", 8080)]);
    }

    #[test]
    fn the_server_of_keys_is_that_of_the_url() {
        let of = |url: &str| server_of(url).map(|s| (s.host, s.port));
        let keys = |port| Some(("keys.auth".to_owned(), port));
        assert_eq!(of("http://keys.auth/jwks"), keys(80));
        assert_eq!(of("https://Keys.auth"), keys(443));
        assert_eq!(of("http://keys.auth:8080?a"), keys(8080));
        assert_eq!((of("keys.auth/jwks"), of("http://keys.auth:x/")), (None, None));
    }
}
