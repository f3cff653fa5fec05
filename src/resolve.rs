//! Which Service, host or pod a connection went to, and how that is known.
//!
//! Owns the destination side. Pure: a call, its time and the cluster in, a resolution out. Must
//! never choose among candidates that nothing on the wire distinguishes: they stay
//! [`Destination::Ambiguous`].

mod candidates;
mod located;
mod mesh;
mod names;
mod resolution;

use crate::cluster::{Cluster, ClusterService, Pod};
use crate::model::{Destination, Grade, Protocol, Time, Unresolved};
use crate::observed::{Call, is_undirected};
use located::LocatedCall;
use mesh::{by_istio_sni, infrastructure, tunnel};
use names::Clues;

pub use names::{IstioSni, parse_istio_sni};
pub use resolution::CallResolution;

/// Resolves a call that `pod` began at a time.
///
/// The first of these that applies decides: Istio's server name; a tunnel to a pod; the mesh's own
/// machinery; a ServiceEntry that a name on the connection states; the Service that has the address
/// as its own; a node port; the Services and entries of which the address is an endpoint; the
/// holder of the address, or the outside.
pub fn resolve(cluster: &Cluster, pod: &Pod, call: &Call, at: Time) -> CallResolution {
    let (to, port, protocol) = (call.responder.ip(), call.responder.port(), call.protocol);
    if is_undirected(call.responder) {
        let why = Some(Unresolved::Undirected);
        return CallResolution::new(Destination::Others { domain: None, why }, 0);
    }
    if let Some(sni) = call.sni.as_deref().and_then(parse_istio_sni) {
        return by_istio_sni(cluster, pod, call, &sni);
    }
    let owners: Vec<&ClusterService> = cluster.services_at(to).collect();
    let backing: Vec<(&ClusterService, u16)> = cluster.endpoint(to, port, protocol, at).collect();
    let sure = cluster.endpoint_is_sure(to, port, protocol, at);
    let clues = Clues::read(cluster, pod, call);
    if owners.is_empty()
        && backing.is_empty()
        && let Some(tunnelled) = tunnel(cluster, pod, call, at, &clues)
    {
        return tunnelled.addressed_by(&clues.mesh_hosts());
    }
    let sure_backing = if sure { &backing[..] } else { &[] };
    if let Some(own) = infrastructure(cluster, call, at, &owners, sure_backing) {
        return own;
    }
    let is_tcp = protocol == Protocol::Tcp;
    let entries = if is_tcp { cluster.entry_endpoints(to, port, at) } else { Vec::new() };
    let located = LocatedCall { cluster, pod, call, at, clues: &clues, entries: &entries };
    let resolution = if let Some(named) = located.named_entry() {
        named
    } else if !owners.is_empty() {
        located.own_address(&owners)
    } else if let Some((service, port)) = cluster.node_port(to, port, protocol) {
        CallResolution::new(Destination::Service(service.at(port)), port)
            .graded(Grade::ServiceAddress, None)
    } else if !backing.is_empty() || !entries.is_empty() {
        located.endpoint(&backing, sure)
    } else {
        located.elsewhere()
    };
    resolution.addressed_by(&clues.mesh_hosts())
}

#[cfg(test)]
mod kinds;
#[cfg(test)]
mod tests;
