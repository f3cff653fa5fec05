//! What the scope decides about incoming requests: the connection pool of each port
//! (`buildInboundCluster` in `networking/core/cluster_builder.go`).
//!
//! A pool comes from the Sidecar, else from the DestinationRule of the workload's own Service, and
//! that only while the Service is in scope. Must never depend on egress listeners.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Scope;
use crate::mesh::{MeshPod, Sidecar, destinationrule};

/// The connection pool of each port of a pod; ports without one are absent.
pub type Pools<'m> = BTreeMap<u16, &'m Value>;

/// The pools of a pod's ports under a scope and the settings of the Sidecar that applied before,
/// which are carried over.
pub fn pools<'m>(scope: &Scope<'m>, pod: &MeshPod, carried: Option<&'m Sidecar>) -> Pools<'m> {
    // In order of the Services' age: the first of several on one port decides.
    let targets = scope
        .mesh
        .targets
        .get(&(pod.namespace.clone(), pod.name.clone()))
        .map_or(&[][..], Vec::as_slice);
    let of_rule = |target: u16| {
        let first = targets.iter().find(|t| t.target == target)?;
        let host = &scope.mesh.services[first.service as usize].host;
        let scoped = scope.service(host)?;
        destinationrule::inbound(&scope.mesh.rules(scope.namespace, scoped.service))?
            .connection_pool(first.port)
    };
    let of_sidecar = carried.and_then(|s| s.inbound_connection_pool.as_ref());
    let ingress = carried.map_or(&[][..], |s| &s.ingress);
    if ingress.is_empty() {
        let ports = targets.iter().map(|t| t.target);
        return ports.filter_map(|p| Some((p, of_sidecar.or_else(|| of_rule(p))?))).collect();
    }
    let mut out = Pools::new();
    for listener in ingress {
        let Some(port) = listener
            .pointer("/port/number")
            .and_then(Value::as_u64)
            .and_then(|p| u16::try_from(p).ok())
        else {
            continue;
        };
        let own = listener.get("connectionPool").filter(|p| !p.is_null());
        if let Some(pool) = own.or(of_sidecar).or_else(|| of_rule(port)) {
            out.entry(port).or_insert(pool);
        }
    }
    out
}

/// The Services in scope that select the pod, as `namespace/host`. A Sidecar that lists them has
/// the connection pools that their DestinationRules set.
pub fn own_services(scope: &Scope<'_>, pod: &MeshPod) -> Vec<String> {
    let targets =
        scope.mesh.targets.get(&(pod.namespace.clone(), pod.name.clone())).into_iter().flatten();
    let mut out: Vec<String> = targets
        .filter_map(|t| {
            Some(scope.service(&scope.mesh.services[t.service as usize].host)?.service.entry())
        })
        .collect();
    out.sort();
    out.dedup();
    out
}
