//! Calls that a proxy probably refused.
//!
//! Owns the rule of that alert. Where the policy is REGISTRY_ONLY, a proxy refuses a connection to
//! a host that is not in its scope, and nothing of it leaves the pod but the lookup of the name. So
//! the alert says "probably": an application may look a name up and never call it. Must never count
//! a host that the workload has reached.

use std::collections::{BTreeMap, BTreeSet};

use super::changes::{AlertChanges, AlertNumbers};
use super::running::running_pods;
use crate::cluster::{Cluster, Pod};
use crate::model::{
    Alert, AlertKind, Dependency, Destination, Lookups, ServicePort, Tally, Time, WorkloadId,
};
use crate::store::{Store, StoreError};

/// A connection follows its lookup at once, but may be in a later batch, in nanoseconds.
const CONNECTION_FOLLOWS: u64 = 30_000_000_000;

/// Raises alerts about hosts that workloads looked up, never reached, and that their proxies refuse
/// as the cluster is now. Removes those about hosts that are refused no longer. Returns the alerts
/// that are new.
///
/// # Errors
/// When the store fails.
pub(super) fn review(
    store: &mut Store,
    cluster: &Cluster,
    now: Time,
) -> Result<Vec<Alert>, StoreError> {
    let mut refused: Vec<Alert> = Vec::new();
    if cluster.has_registry_only() {
        let mut by_workload: BTreeMap<WorkloadId, Vec<Lookups>> = BTreeMap::new();
        for lookups in store.lookups(None)? {
            by_workload.entry(lookups.workload.clone()).or_default().push(lookups);
        }
        let running = running_pods(cluster, now);
        for (workload, lookups) in by_workload {
            let Some(pods) = running.get(&workload) else { continue };
            for (host, tally) in blocked_hosts(store, cluster, pods, &lookups, now)? {
                refused.push(Alert {
                    destination: Some(destination(cluster, host)),
                    ..Alert::about(AlertKind::BlockedCall, &workload, tally, now)
                });
            }
        }
    }
    let current: BTreeSet<String> = refused.iter().map(Alert::id).collect();
    let stored = store.alerts(None)?.into_iter().map(|raised| raised.alert);
    let over: Vec<Alert> =
        stored.filter(|a| a.kind == AlertKind::BlockedCall && !current.contains(&a.id())).collect();
    let mut alerts = AlertChanges::default();
    for alert in refused {
        alerts.add(store, alert, AlertNumbers::OfStore)?;
    }
    let new = alerts.write(store)?;
    store.drop_alerts(&over)?;
    Ok(new)
}

/// Hosts that a workload looked up and never reached, and that the proxy of one of its running pods
/// refuses.
fn blocked_hosts<'l>(
    store: &Store,
    cluster: &Cluster,
    pods: &[&Pod],
    lookups: &'l [Lookups],
    now: Time,
) -> Result<Vec<(&'l str, Tally)>, StoreError> {
    let is_old_enough = |l: &&Lookups| now.since(l.tally.first_seen) >= CONNECTION_FOLLOWS;
    let names: Vec<&str> = lookups.iter().filter(is_old_enough).map(|l| l.host.as_str()).collect();
    let refused = cluster.refused_hosts(pods, &names);
    let Some(pod) = pods.first().filter(|_| !refused.is_empty()) else { return Ok(Vec::new()) };
    let dependencies = store.dependencies_of(&pod.workload)?;
    let reached: BTreeSet<&str> = dependencies.iter().flat_map(hosts).collect();
    let is_blocked = |l: &&Lookups| {
        let host = l.host.as_str();
        refused.contains(&host) && !reached.contains(host)
    };
    Ok(lookups.iter().filter(is_blocked).map(|l| (l.host.as_str(), l.tally)).collect())
}

/// The hosts that a dependency reached, or may have reached.
fn hosts(d: &Dependency) -> Vec<&str> {
    let mut out: Vec<&str> = d.addressed.keys().map(String::as_str).collect();
    match &d.key.destination {
        Destination::Service(service) => out.push(&service.host),
        Destination::Ambiguous { candidates } => {
            out.extend(candidates.iter().map(|c| c.host.as_str()));
        }
        Destination::External { host, entry_host, .. } => {
            out.extend(host.iter().chain(entry_host).map(String::as_str));
        }
        Destination::Unresolved { host, .. } => out.extend(host.iter().map(String::as_str)),
        _ => {}
    }
    out
}

/// A host as a destination. The port is not known.
fn destination(cluster: &Cluster, host: &str) -> Destination {
    match cluster.service(host) {
        Some(service) => Destination::Service(ServicePort {
            namespace: service.namespace.clone(),
            name: service.name.clone(),
            host: host.to_owned(),
            port: 0,
        }),
        None => Destination::External {
            host: Some(host.to_owned()),
            address: None,
            namespace: None,
            name: None,
            entry_host: None,
        },
    }
}

#[cfg(test)]
mod tests;
