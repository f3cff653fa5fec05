//! Calls that go past the proxy: no host does anything for them.
//!
//! Owns which dependencies are such for sure. Must never count one that the proxy may have sent.

use std::collections::BTreeMap;

use super::known::Known;
use crate::cluster::{Cluster, Pod};
use crate::model::{DataPlane, Dependency, Destination, Grade, Protocol, Time, WorkloadId};

/// Sets apart, for each workload, what goes past its proxy.
pub fn set_apart(cluster: &Cluster, known: &mut BTreeMap<WorkloadId, Known>) {
    let mut running: BTreeMap<&WorkloadId, Vec<&Pod>> = BTreeMap::new();
    for pod in cluster.pods().iter().filter(|p| p.end == Time::MAX) {
        running.entry(&pod.workload).or_default().push(pod);
    }
    for (id, known) in known {
        let Some(pods) = running.get(id) else { continue };
        let all = std::mem::take(&mut known.dependencies);
        let (past, through) = all.into_iter().partition(|d| goes_past(cluster, pods, d));
        known.dependencies = through;
        known.past.extend::<Vec<Dependency>>(past);
    }
}

/// Whether all connections of a dependency went to a cluster IP that no pod of the workload
/// redirects to its proxy: by settings of `istio-iptables`, an excluded port or range. The proxy
/// itself goes to endpoints.
fn goes_past(cluster: &Cluster, pods: &[&Pod], d: &Dependency) -> bool {
    let hosts: Vec<&str> = match &d.key.destination {
        Destination::Service(s) => vec![s.host.as_str()],
        Destination::Ambiguous { candidates } => {
            candidates.iter().map(|c| c.host.as_str()).collect()
        }
        _ => return false,
    };
    let Some(own) = d.evidence.get(&Grade::ServiceAddress) else { return false };
    let port = d.key.port;
    if d.key.protocol != Protocol::Tcp
        || d.scope_miss.is_some()
        || d.evidence.contains_key(&Grade::IstioSni)
        || own.tally.connections < d.tally.connections
        || own.examples.iter().any(|e| e.to.port() != port || !cluster.is_cluster_ip(e.to.ip()))
    {
        return false;
    }
    let redirected = |pod: &Pod| {
        hosts.iter().flat_map(|h| cluster.cluster_ips_of(h)).any(|a| pod.redirects(a, port))
    };
    pods.iter().all(|p| p.data_plane == DataPlane::Sidecar && !redirected(p))
}
