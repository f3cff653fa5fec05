//! Calls whose destination the mesh itself decides: Istio's server names, tunnels, and the mesh's
//! own machinery.
//!
//! Owns their ports and names. Must never take a call of an application for the mesh's own.

use sidecarta_capture::dns;

use super::candidates::{Candidate, among, collapse};
use super::names::{Clues, IstioSni};
use super::resolution::{CallResolution, external};
use crate::cluster::{Cluster, ClusterService, Holder, Pod};
use crate::model::{DataPlane, Destination, Grade, Infrastructure, Protocol, Time, Unresolved};
use crate::observed::Call;

/// Ports of istiod: plaintext and TLS xDS, monitoring, webhook (`pkg/config/constants`,
/// `pilot/cmd`).
const CONTROL_PLANE_PORTS: [u16; 5] = [443, 15010, 15012, 15014, 15017];
/// The proxy's merged metrics, health and Envoy statistics.
const PROXY_PORTS: [u16; 3] = [15020, 15021, 15090];
/// The proxy's own listeners and HBONE.
const INTERNAL_PORTS: [u16; 5] = [15001, 15004, 15006, 15008, 15053];

/// Port of tunnels by HBONE (`pkg/config/constants`, `ZtunnelInboundPort`).
const TUNNEL_PORT: u16 = 15008;

/// The destination that Istio's server name states.
pub(super) fn by_istio_sni(
    cluster: &Cluster,
    pod: &Pod,
    call: &Call,
    sni: &IstioSni<'_>,
) -> CallResolution {
    let (to, name) = (call.responder.ip(), call.sni.as_deref());
    let host = sni.host;
    let entries = cluster.entries_named(host);
    let own = entries.iter().find(|e| e.namespace == pod.workload.namespace);
    let resolution = match cluster.service(host) {
        Some(service) => CallResolution::new(Destination::Service(service.at(sni.port)), sni.port),
        None => match own.or(entries.first()) {
            Some(entry) => CallResolution::new(external(host, Some(entry)), sni.port),
            None => {
                let why = Unresolved::UnknownMeshHost;
                CallResolution::new(
                    Destination::Unresolved { address: to, host: Some(host.to_owned()), why },
                    sni.port,
                )
            }
        },
    };
    resolution.graded(Grade::IstioSni, name)
}

/// The Services that a tunnel to a pod may be for. It carries a call of one of the Services in
/// front of the pod, and does not say which: its server name names none (`connect_originate`,
/// `pilot/pkg/networking/core/cluster_waypoint.go`). `None` for any other call.
pub(super) fn tunnel(
    cluster: &Cluster,
    pod: &Pod,
    call: &Call,
    at: Time,
    clues: &Clues<'_>,
) -> Option<CallResolution> {
    let (to, port) = (call.responder.ip(), call.responder.port());
    if port != TUNNEL_PORT || call.protocol != Protocol::Tcp {
        return None;
    }
    let Holder::Pod(target) = cluster.holder(to, at) else { return None };
    let mut found = Vec::new();
    let mut sure = true;
    for port in cluster.ambient_ports(to) {
        found.extend(
            cluster.endpoint(to, port, Protocol::Tcp, at).map(|(s, p)| Candidate::service(s, p)),
        );
        sure &= cluster.endpoint_is_sure(to, port, Protocol::Tcp, at);
        found.extend(
            cluster.entry_endpoints(to, port, at).into_iter().map(|(e, p)| Candidate::entry(e, p)),
        );
    }
    if found.is_empty() {
        if target.data_plane != DataPlane::Ambient {
            return None;
        }
        let why = Unresolved::NoService;
        let destination = Destination::Unresolved { address: to, host: None, why };
        return Some(CallResolution::new(destination, port).graded(Grade::Address, None));
    }
    let found = collapse(found, &pod.workload.namespace);
    let grade = if found.len() == 1 && sure { Grade::Endpoint } else { Grade::EndpointOfSeveral };
    Some(among(found, grade, sure, clues))
}

/// The mesh's own machinery: istiod, DNS, and ports of proxies. The destination *and* the port
/// decide, because an application may have a Service on any of these ports.
pub(super) fn infrastructure(
    cluster: &Cluster,
    call: &Call,
    at: Time,
    owners: &[&ClusterService],
    backing: &[(&ClusterService, u16)],
) -> Option<CallResolution> {
    let (to, port) = (call.responder.ip(), call.responder.port());
    let service = owners.first().copied().or(backing.first().map(|(s, _)| *s));
    let what = if service.is_some_and(|s| s.control_plane) && CONTROL_PLANE_PORTS.contains(&port) {
        Infrastructure::ControlPlane
    } else if call.protocol == Protocol::Udp && port == dns::PORT {
        Infrastructure::Dns
    } else if PROXY_PORTS.contains(&port) && matches!(cluster.holder(to, at), Holder::Pod(_)) {
        Infrastructure::ProxyPort
    } else if INTERNAL_PORTS.contains(&port) && matches!(cluster.holder(to, at), Holder::Pod(_)) {
        Infrastructure::MeshInternal
    } else {
        return None;
    };
    let destination = Destination::Infrastructure {
        what,
        namespace: service.map(|s| s.namespace.clone()),
        name: service.map(|s| s.name.clone()),
    };
    let grade = if owners.is_empty() { Grade::Endpoint } else { Grade::ServiceAddress };
    let grade = if service.is_none() { Grade::Address } else { grade };
    Some(CallResolution::new(destination, port).graded(grade, None))
}
