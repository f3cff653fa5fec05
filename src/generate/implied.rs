//! Clusters that the proxy itself sends to: tracing, access-log, metrics and external-authorization
//! providers (`model/telemetry.go`, `model/authorization.go`). No packet of the application shows
//! them.
//!
//! Owns which providers apply to a pod. Must never add one that nothing selects.

use std::collections::{BTreeMap, BTreeSet};

use super::calls::full_name;
use crate::mesh::{Mesh, MeshPod, NamedCluster, Sidecar};
use crate::model::selects;

/// A provider in force: why, and the host and port that it needs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Implied {
    /// Host.
    pub host: String,
    /// Port.
    pub port: u16,
    /// For people: which provider, and who selects it.
    pub why: String,
}

/// The providers that apply to a pod, and the egress proxy of the policy that is carried over.
pub fn implied(mesh: &Mesh, pod: &MeshPod, carried: Option<&Sidecar>) -> BTreeSet<Implied> {
    let mut out = BTreeSet::new();
    let mut use_provider = |name: &str, by: &str| {
        let all = mesh.config.providers.iter().filter(|p| p.name == name);
        out.extend(all.map(|p| {
            let host = p.service.split_once('/').map_or(p.service.as_str(), |(_, h)| h);
            let host = full_name(mesh, host, &mesh.config.root_namespace);
            Implied { host, port: p.port, why: format!("{} provider {name}, {by}", p.kind) }
        }));
    };
    let root = &mesh.config.root_namespace;
    // Per kind the most specific Telemetry that names providers wins: the workload's, the
    // namespace's, the mesh's.
    let mut chosen: BTreeMap<&str, (u8, BTreeSet<&str>, String)> = BTreeMap::new();
    let mut named: BTreeSet<Implied> = BTreeSet::new();
    for u in mesh.provider_uses() {
        // Those of the root namespace hold in every namespace, with their selectors
        // (`ListAuthorizationPolicies`, `isSelected`; `EnvoyFilters`). Of Telemetries only those
        // without one do (`applicableTelemetries`).
        let own = u.namespace == pod.namespace;
        if !own && u.namespace != *root || !selects(&u.selector, &pod.labels) {
            continue;
        }
        let rank = match () {
            () if own && !u.selector.is_empty() => 2,
            () if u.kind == "Telemetry" && !u.selector.is_empty() => continue,
            () => u8::from(own),
        };
        let by = format!("{} {}/{}", u.kind, u.namespace, u.name);
        named.extend(u.clusters.iter().map(|NamedCluster { host, port }| Implied {
            host: host.clone(),
            port: *port,
            why: by.clone(),
        }));
        for (part, providers) in &u.providers {
            let providers: BTreeSet<&str> = providers.iter().map(String::as_str).collect();
            if u.kind != "Telemetry" {
                providers.iter().for_each(|p| use_provider(p, &by));
                continue;
            }
            match chosen.get(part) {
                Some((old, ..)) if *old >= rank => {}
                _ => {
                    chosen.insert(part, (rank, providers, by.clone()));
                }
            }
        }
    }
    for (part, defaults) in &mesh.config.default_providers {
        if !chosen.contains_key(part) {
            defaults.iter().for_each(|p| use_provider(p, "the mesh's default"));
        }
    }
    for (_, providers, by) in chosen.values() {
        providers.iter().for_each(|p| use_provider(p, by));
    }
    out.extend(named);
    if !chosen.contains_key("tracing") {
        out.extend(mesh.config.default_tracing.iter().map(|(host, port)| Implied {
            host: full_name(mesh, host, root),
            port: *port,
            why: "tracing, the mesh's default".to_owned(),
        }));
    }
    let proxy =
        carried.and_then(|s| s.outbound_traffic_policy.as_ref()).and_then(|p| p.get("egressProxy"));
    if let Some(host) = proxy.and_then(|p| p.get("host")?.as_str()) {
        let port = proxy
            .and_then(|p| u16::try_from(p.pointer("/port/number")?.as_u64()?).ok())
            .unwrap_or(0);
        out.insert(Implied {
            host: full_name(mesh, host, &pod.namespace),
            port,
            why: "the policy's egressProxy".to_owned(),
        });
    }
    out
}
