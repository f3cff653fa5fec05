//! Implied hosts: those that the proxy itself sends to, for tracing, access logs, metrics and
//! external authorization (`model/telemetry.go`, `model/authorization.go`). No packet of the
//! application shows them.
//!
//! Owns which providers apply to a pod. Must never add one that nothing selects.

use std::collections::{BTreeMap, BTreeSet};

use super::names::full_name;
use crate::mesh::{Mesh, MeshPod, NamedCluster, ProviderUse, Sidecar};
use crate::model::selects;

/// A host and port that the proxy itself sends to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ImpliedHost {
    /// The host, in full.
    pub host: String,
    /// The port.
    pub port: u16,
    /// For people: which provider it is, and which object selects it.
    pub why: String,
}

/// How specific a Telemetry is to a pod. The most specific one that names providers wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Specificity {
    Mesh,
    Namespace,
    Workload,
}

/// The providers that one Telemetry names for a part: tracing, metrics or access logging.
struct ChosenProviders<'m> {
    specificity: Specificity,
    providers: BTreeSet<&'m str>,
    /// The object that names them.
    by: String,
}

/// The hosts that apply to a pod. `carried` is the Sidecar whose settings are carried over: its
/// policy may have an egress proxy.
pub fn implied_hosts(
    mesh: &Mesh,
    pod: &MeshPod,
    carried: Option<&Sidecar>,
) -> BTreeSet<ImpliedHost> {
    let mut out = BTreeSet::new();
    let mut chosen: BTreeMap<&str, ChosenProviders<'_>> = BTreeMap::new();
    for u in mesh.provider_uses() {
        let Some(specificity) = specificity(mesh, pod, u) else { continue };
        let by = format!("{} {}/{}", u.kind, u.namespace, u.name);
        out.extend(u.clusters.iter().map(|NamedCluster { host, port }| ImpliedHost {
            host: host.clone(),
            port: *port,
            why: by.clone(),
        }));
        for (part, providers) in &u.providers {
            if u.kind != "Telemetry" {
                providers.iter().for_each(|p| out.extend(hosts_of_provider(mesh, p, &by)));
                continue;
            }
            let is_overruled = chosen.get(part).is_some_and(|old| old.specificity >= specificity);
            if !is_overruled {
                let providers = providers.iter().map(String::as_str).collect();
                chosen.insert(part, ChosenProviders { specificity, providers, by: by.clone() });
            }
        }
    }
    for ChosenProviders { providers, by, .. } in chosen.values() {
        providers.iter().for_each(|p| out.extend(hosts_of_provider(mesh, p, by)));
    }
    for (part, defaults) in &mesh.config.default_providers {
        if !chosen.contains_key(part) {
            let hosts =
                defaults.iter().flat_map(|p| hosts_of_provider(mesh, p, "the mesh's default"));
            out.extend(hosts);
        }
    }
    if !chosen.contains_key("tracing") {
        let root = &mesh.config.root_namespace;
        out.extend(mesh.config.default_tracing.iter().map(|(host, port)| ImpliedHost {
            host: full_name(mesh, host, root),
            port: *port,
            why: "tracing, the mesh's default".to_owned(),
        }));
    }
    out.extend(carried.and_then(|s| egress_proxy(mesh, pod, s)));
    out
}

/// How specific the use of a provider is to a pod; `None` where it does not apply.
fn specificity(mesh: &Mesh, pod: &MeshPod, u: &ProviderUse) -> Option<Specificity> {
    let is_own = u.namespace == pod.namespace;
    let is_root = u.namespace == mesh.config.root_namespace;
    if !is_own && !is_root || !selects(&u.selector, &pod.labels) {
        return None;
    }
    // Objects of the root namespace apply in every namespace, with their selectors
    // (`ListAuthorizationPolicies`, `isSelected`; `EnvoyFilters`). Of Telemetries only those
    // without a selector do (`applicableTelemetries`).
    match (is_own, u.selector.is_empty()) {
        (true, false) => Some(Specificity::Workload),
        (true, true) => Some(Specificity::Namespace),
        (false, false) if u.kind == "Telemetry" => None,
        (false, _) => Some(Specificity::Mesh),
    }
}

/// The hosts of the providers with this name. `by` says who selects them.
fn hosts_of_provider(mesh: &Mesh, name: &str, by: &str) -> Vec<ImpliedHost> {
    let providers = mesh.config.providers.iter().filter(|p| p.name == name);
    let implied = providers.map(|p| {
        let host = p.service.split_once('/').map_or(p.service.as_str(), |(_, h)| h);
        ImpliedHost {
            host: full_name(mesh, host, &mesh.config.root_namespace),
            port: p.port,
            why: format!("{} provider {name}, {by}", p.kind),
        }
    });
    implied.collect()
}

/// The egress proxy of a Sidecar's policy.
fn egress_proxy(mesh: &Mesh, pod: &MeshPod, sidecar: &Sidecar) -> Option<ImpliedHost> {
    let proxy = sidecar.outbound_traffic_policy.as_ref()?.get("egressProxy")?;
    let host = proxy.get("host")?.as_str()?;
    let number = proxy.pointer("/port/number").and_then(serde_json::Value::as_u64);
    Some(ImpliedHost {
        host: full_name(mesh, host, &pod.namespace),
        port: number.and_then(|n| u16::try_from(n).ok()).unwrap_or(0),
        why: "the policy's egressProxy".to_owned(),
    })
}

#[cfg(test)]
mod tests;
