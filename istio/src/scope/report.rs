//! A scope as a report. Its JSON has the shape in which istiod's answers are recorded
//! (`tests/scope-cases/FORMAT.md`).
//!
//! Owns the shape of the report. Must never compute a scope.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::{Client, Scope, ScopedService};
use crate::mesh::{Registry, Sidecar};

/// A namespace and a name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct NamespacedName {
    /// Namespace of the object.
    pub namespace: String,
    /// Name of the object (`metadata.name`).
    pub name: String,
}

/// A Service in scope.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct ServiceReport {
    /// Host of the Service, fully qualified.
    pub host: String,
    /// Namespace of the object that declares the host.
    pub namespace: String,
    /// `Service` or `ServiceEntry`.
    pub kind: &'static str,
    /// Ports of it that the listeners import, ascending.
    pub ports: Vec<u16>,
    /// ExternalName Services in scope that lead to it, `namespace/host`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
}

/// What one egress listener imports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ListenerReport {
    /// Absent on a catch-all listener.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// As in the Sidecar.
    pub hosts: Vec<String>,
    /// Services, sorted.
    pub services: Vec<ServiceReport>,
    /// `namespace/name`, sorted.
    pub virtual_services: Vec<String>,
}

/// What istiod selects for a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ScopeReport {
    /// The Sidecar that applies.
    pub sidecar: Option<NamespacedName>,
    /// Applies to calls for which the proxy has no route.
    pub outbound_traffic_policy: &'static str,
    /// In the Sidecar's order.
    pub listeners: Vec<ListenerReport>,
    /// Services of all listeners, one for each host.
    pub services: Vec<ServiceReport>,
    /// By host: `namespace/name` of the DestinationRules that were merged for it.
    pub destination_rules: BTreeMap<String, Vec<String>>,
    /// Outbound clusters with their endpoints.
    pub clusters: BTreeMap<String, u64>,
}

fn service(s: &ScopedService<'_>) -> ServiceReport {
    let mut ports: Vec<u16> = s.ports.iter().map(|p| p.number).collect();
    ports.sort_unstable();
    ServiceReport {
        host: s.service.host.clone(),
        namespace: s.service.namespace.clone(),
        kind: if s.service.registry == Registry::Kubernetes { "Service" } else { "ServiceEntry" },
        ports,
        aliases: s
            .aliases
            .iter()
            .map(|(n, h)| format!("{n}/{h}"))
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect(),
    }
}

fn services(all: &[ScopedService<'_>]) -> Vec<ServiceReport> {
    let mut out: Vec<ServiceReport> = all.iter().map(service).collect();
    // A host may stand here more than once; then the ports decide, as text.
    let words =
        |numbers: &[u16]| numbers.iter().map(u16::to_string).collect::<Vec<_>>().join(" ") + "]";
    out.sort_by_cached_key(|s| {
        (s.host.clone(), s.namespace.clone(), s.kind, words(&s.ports), s.aliases.clone())
    });
    out
}

impl ScopeReport {
    /// Describes a scope for a client to which this Sidecar applies.
    pub fn new(scope: &Scope<'_>, client: &Client<'_>, sidecar: Option<&Sidecar>) -> Self {
        let listeners = scope.listeners.iter().map(|l| {
            let mut virtual_services: Vec<String> =
                l.virtual_services.iter().map(|v| v.id()).collect();
            virtual_services.sort();
            ListenerReport {
                port: l.egress.port.as_ref().map(|p| p.number).filter(|n| *n != 0),
                hosts: l.egress.hosts.clone(),
                services: services(&l.services),
                virtual_services,
            }
        });
        let rules = scope.services.iter().filter_map(|s| {
            let rule = scope.rule(s.service, client.labels)?;
            Some((s.service.host.clone(), rule.from.clone()))
        });
        Self {
            sidecar: sidecar
                .map(|s| NamespacedName { namespace: s.namespace.clone(), name: s.name.clone() }),
            outbound_traffic_policy: scope.policy.name(),
            listeners: listeners.collect(),
            services: services(&scope.services),
            destination_rules: rules.collect(),
            clusters: scope.clusters(client.labels),
        }
    }
}
