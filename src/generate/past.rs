//! Calls that go past the proxy. No host does anything for them.
//!
//! Owns which dependencies certainly do. Must never count one that the proxy may have sent.

use std::collections::BTreeMap;

use super::learned::Learned;
use crate::cluster::{Cluster, Pod};
use crate::model::{DataPlane, Dependency, Destination, Grade, Protocol, Time, WorkloadId};

/// Moves the dependencies of each workload that go past its proxy from
/// [`dependencies`](Learned::dependencies) to [`past`](Learned::past).
pub fn separate_past_proxy(cluster: &Cluster, learned: &mut BTreeMap<WorkloadId, Learned>) {
    let mut running: BTreeMap<&WorkloadId, Vec<&Pod>> = BTreeMap::new();
    for pod in cluster.pods().iter().filter(|p| p.end == Time::MAX) {
        running.entry(&pod.workload).or_default().push(pod);
    }
    for (id, learned) in learned {
        let Some(pods) = running.get(id) else { continue };
        let all = std::mem::take(&mut learned.dependencies);
        let (past, through): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|d| goes_past(cluster, pods, d));
        learned.dependencies = through;
        learned.past.extend(past);
    }
}

/// Whether all connections of a dependency went to a cluster IP that no pod of the workload
/// redirects to its proxy, because of an excluded port or range (`istio-iptables`). A connection
/// of the proxy itself goes to an endpoint, never to a cluster IP.
fn goes_past(cluster: &Cluster, pods: &[&Pod], d: &Dependency) -> bool {
    let hosts: Vec<&str> = match &d.key.destination {
        Destination::Service(s) => vec![s.host.as_str()],
        Destination::Ambiguous { candidates } => {
            candidates.iter().map(|c| c.host.as_str()).collect()
        }
        _ => return false,
    };
    let Some(by_own_address) = d.evidence.get(&Grade::ServiceAddress) else { return false };
    let port = d.key.port;
    let only_cluster_ips = d.key.protocol == Protocol::Tcp
        && d.scope_miss.is_none()
        && !d.evidence.contains_key(&Grade::IstioSni)
        && by_own_address.tally.connections >= d.tally.connections
        && by_own_address
            .examples
            .iter()
            .all(|e| e.to.port() == port && cluster.is_cluster_ip(e.to.ip()));
    if !only_cluster_ips {
        return false;
    }
    let redirects = |pod: &Pod| {
        hosts.iter().flat_map(|h| cluster.cluster_ips_of(h)).any(|a| pod.redirects(a, port))
    };
    pods.iter().all(|p| p.data_plane == DataPlane::Sidecar && !redirects(p))
}
