//! Which Service, host or pod a connection went to, and how that is known.
//!
//! Owns the destination side. Pure: a call, its time and the cluster in, a resolution out.
//! Must never choose among candidates that nothing on the wire tells apart: that is
//! [`Destination::Ambiguous`].

mod names;

use std::collections::{BTreeMap, BTreeSet};

use sidecarta_capture::dns;

use crate::cluster::{Cluster, EntryHost, Holder, Pod, Service};
use crate::model::{Destination, Grade, Infrastructure, Protocol, ServicePort, Time, Unresolved};
use crate::observed::Call;
use names::{Clue, Clues};

pub use names::{IstioSni, parse_istio_sni};

/// What a connection resolved to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolution {
    /// Where it went.
    pub destination: Destination,
    /// The Service's port where there is a Service, else the port on the wire.
    pub port: u16,
    /// Every grade of evidence for it, with the name that was the evidence.
    pub grades: BTreeMap<Grade, Option<String>>,
    /// Mesh hosts by which the application addressed it, other than the destination's own host.
    pub addressed: BTreeSet<String>,
    /// An injected pod reached a Service's own address on a port that its proxy captures.
    pub scope_miss: bool,
}

impl Resolution {
    fn new(destination: Destination, port: u16) -> Self {
        Self {
            destination,
            port,
            grades: BTreeMap::new(),
            addressed: BTreeSet::new(),
            scope_miss: false,
        }
    }

    fn graded(mut self, grade: Grade, name: Option<&str>) -> Self {
        self.grades.entry(grade).or_insert_with(|| name.map(str::to_owned));
        self
    }
}

/// Ports of istiod: plaintext and TLS xDS, monitoring, webhook (`pkg/config/constants`,
/// `pilot/cmd`).
const CONTROL_PLANE_PORTS: [u16; 5] = [443, 15010, 15012, 15014, 15017];
/// The proxy's merged metrics, health and Envoy statistics.
const PROXY_PORTS: [u16; 3] = [15020, 15021, 15090];
/// The proxy's own listeners and HBONE.
const INTERNAL_PORTS: [u16; 5] = [15001, 15004, 15006, 15008, 15053];

/// Resolves a call that `pod` began at a time.
pub fn resolve(cluster: &Cluster, pod: &Pod, call: &Call, at: Time) -> Resolution {
    let (to, port, protocol) = (call.responder.ip(), call.responder.port(), call.protocol);
    if let Some(sni) = call.sni.as_deref().and_then(parse_istio_sni) {
        return by_istio_sni(cluster, call, &sni);
    }
    let owners: Vec<&Service> = cluster.services_at(to).collect();
    let backing: Vec<(&Service, u16)> = cluster.endpoint(to, port, protocol, at).collect();
    let sure = cluster.endpoint_is_sure(to, port, protocol, at);
    if let Some(what) =
        infrastructure(cluster, call, at, &owners, if sure { &backing } else { &[] })
    {
        return what;
    }
    let clues = Clues::read(cluster, pod, call);
    let resolution = if !owners.is_empty() {
        own_address(cluster, &owners, pod, call, &clues)
    } else if let Some((service, port)) = cluster.node_port(to, port, protocol) {
        Resolution::new(Destination::Service(service.at(port)), port)
            .graded(Grade::ServiceAddress, None)
    } else if !backing.is_empty() {
        endpoint(cluster, call, at, &backing, sure, &clues)
    } else {
        elsewhere(cluster, call, at, &clues)
    };
    note_addressed(resolution, &clues)
}

fn by_istio_sni(cluster: &Cluster, call: &Call, sni: &IstioSni<'_>) -> Resolution {
    let (to, name) = (call.responder.ip(), call.sni.as_deref());
    let host = sni.host;
    let resolution = match cluster.service(host) {
        Some(service) => Resolution::new(Destination::Service(service.at(sni.port)), sni.port),
        None => match cluster.entries_named(host).first() {
            Some(entry) => Resolution::new(external(host, Some(entry)), sni.port),
            None => {
                let why = Unresolved::UnknownMeshHost;
                Resolution::new(
                    Destination::Unresolved { address: to, host: Some(host.to_owned()), why },
                    sni.port,
                )
            }
        },
    };
    resolution.graded(Grade::IstioSni, name)
}

/// By destination *and* port: an application may have a Service on any of these ports.
fn infrastructure(
    cluster: &Cluster,
    call: &Call,
    at: Time,
    owners: &[&Service],
    backing: &[(&Service, u16)],
) -> Option<Resolution> {
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
    Some(Resolution::new(destination, port).graded(grade, None))
}

fn own_address(
    cluster: &Cluster,
    owners: &[&Service],
    pod: &Pod,
    call: &Call,
    clues: &Clues<'_>,
) -> Resolution {
    let (to, port) = (call.responder.ip(), call.responder.port());
    // Only TCP goes through Envoy; an excluded port or range reaches the address by intention.
    // What istiod does not look at is in no proxy's reach.
    let missed = call.protocol == Protocol::Tcp
        && pod.captures(to, port)
        && owners.iter().any(|s| !cluster.hides(&s.namespace));
    let with_port: Vec<&&Service> =
        owners.iter().filter(|s| s.ports.contains(&(port, call.protocol))).collect();
    let mut resolution = match with_port.as_slice() {
        [] => Resolution::new(
            Destination::Unresolved { address: to, host: None, why: Unresolved::NoServicePort },
            port,
        )
        .graded(Grade::Address, None),
        [service] => {
            let resolution = Resolution::new(Destination::Service(service.at(port)), port);
            clues.supporting(&service.host, resolution.graded(Grade::ServiceAddress, None))
        }
        several => {
            // One external address shared by several Services (a load balancer's): as ambiguous as
            // shared endpoints.
            let candidates: BTreeSet<ServicePort> = several.iter().map(|s| s.at(port)).collect();
            among(candidates, Grade::ServiceAddress, true, clues)
        }
    };
    resolution.scope_miss =
        missed && !matches!(resolution.destination, Destination::Unresolved { .. });
    resolution
}

fn endpoint(
    cluster: &Cluster,
    call: &Call,
    at: Time,
    backing: &[(&Service, u16)],
    sure: bool,
    clues: &Clues<'_>,
) -> Resolution {
    let (to, port) = (call.responder.ip(), call.responder.port());
    // The request head holds the pod's own address: the application addressed the pod, no Service.
    if clues.authority_address == Some((to, port))
        && let Holder::Pod(target) = cluster.holder(to, at)
    {
        let name = call.authority.as_deref();
        return Resolution::new(Destination::pod(target.workload.clone()), port)
            .graded(Grade::HttpAuthority, name);
    }
    let candidates: BTreeSet<ServicePort> = backing.iter().map(|(s, p)| s.at(*p)).collect();
    let grade =
        if candidates.len() == 1 && sure { Grade::Endpoint } else { Grade::EndpointOfSeveral };
    among(candidates, grade, sure, clues)
}

/// Chooses among candidates by names only; without a name that is one of them, all stay. `sure`:
/// there is no other, so that a single one needs no name.
fn among(
    candidates: BTreeSet<ServicePort>,
    grade: Grade,
    sure: bool,
    clues: &Clues<'_>,
) -> Resolution {
    let named = |c: &&ServicePort| {
        clues.services.iter().any(|clue| clue.host == c.host && clue.port_fits(c.port))
    };
    let chosen: Vec<&ServicePort> = candidates.iter().filter(named).collect();
    // One Service under two ports with one target port is still told apart by the port of an
    // authority.
    let only = match (chosen.as_slice(), candidates.len()) {
        ([one], _) => Some((*one).clone()),
        ([], 1) if sure => candidates.first().cloned(),
        _ => None,
    };
    match only {
        Some(service) => {
            let port = service.port;
            let host = service.host.clone();
            clues.supporting(
                &host,
                Resolution::new(Destination::Service(service), port).graded(grade, None),
            )
        }
        None => {
            let candidates: BTreeSet<ServicePort> =
                if chosen.len() > 1 { chosen.into_iter().cloned().collect() } else { candidates };
            let port = candidates.first().map_or(0, |c| c.port);
            Resolution::new(Destination::Ambiguous { candidates }, port).graded(grade, None)
        }
    }
}

/// No Service behind the address: a ServiceEntry's, a pod's, the outside's, or unknown.
fn elsewhere(cluster: &Cluster, call: &Call, at: Time, clues: &Clues<'_>) -> Resolution {
    let (to, port) = (call.responder.ip(), call.responder.port());
    let holder = cluster.holder(to, at);
    if let Holder::Pod(target) = holder {
        return Resolution::new(Destination::pod(target.workload.clone()), port)
            .graded(Grade::Address, None);
    }
    let unresolved = |why| {
        Resolution::new(Destination::Unresolved { address: to, host: None, why }, port)
            .graded(Grade::Address, None)
    };
    match holder {
        Holder::Contested => return unresolved(Unresolved::SeveralPods),
        Holder::NobodyInPodRange if clues.best_external().is_none() => {
            return unresolved(Unresolved::NoPodThen);
        }
        _ if cluster.in_service_range(to) => return unresolved(Unresolved::NoService),
        _ => {}
    }
    if let Some(clue) = clues.best_external() {
        let entry = clue.entry;
        return Resolution::new(external(&clue.name, entry), port)
            .graded(clue.grade, Some(&clue.name));
    }
    let mut entries = cluster.entries_at(to);
    let grade = if entries.is_empty() { Grade::Endpoint } else { Grade::ServiceAddress };
    if entries.is_empty() {
        entries = cluster.entry_endpoints(to).collect();
    }
    match entries.iter().copied().collect::<Vec<_>>().as_slice() {
        [entry] => Resolution::new(external(&entry.host, Some(entry)), port).graded(grade, None),
        _ => {
            let destination = Destination::External {
                host: None,
                address: Some(to),
                namespace: None,
                name: None,
                entry_host: None,
            };
            let mut resolution = Resolution::new(destination, port).graded(Grade::Address, None);
            // Several entries own the address and no name tells which: all are shown.
            resolution.addressed.extend(entries.iter().map(|e| e.host.clone()));
            resolution
        }
    }
}

fn external(host: &str, entry: Option<&EntryHost>) -> Destination {
    Destination::External {
        host: Some(host.to_owned()),
        address: None,
        namespace: entry.map(|e| e.namespace.clone()),
        name: entry.map(|e| e.name.clone()),
        entry_host: entry.map(|e| e.host.clone()).filter(|h| h != host),
    }
}

/// Keeps the mesh hosts that the application named, where they are not the destination itself: a
/// VirtualService or an alias may stand between.
fn note_addressed(mut resolution: Resolution, clues: &Clues<'_>) -> Resolution {
    let own = match &resolution.destination {
        Destination::Service(s) => Some(s.host.as_str()),
        Destination::External { host, .. } => host.as_deref(),
        _ => None,
    };
    let hosts = clues.services.iter().flat_map(|c: &Clue| std::iter::once(&c.host).chain(&c.via));
    let entries = clues.externals.iter().filter(|e| e.entry.is_some()).map(|e| &e.name);
    let named: BTreeSet<String> =
        hosts.chain(entries).filter(|h| Some(h.as_str()) != own).cloned().collect();
    resolution.addressed.extend(named);
    resolution
}

#[cfg(test)]
mod tests;
