//! Which Service, host or pod a connection went to, and how that is known.
//!
//! Owns the destination side. Pure: a call, its time and the cluster in, a resolution out.
//! Must never choose among candidates that nothing on the wire tells apart: that is
//! [`Destination::Ambiguous`].

mod candidates;
mod names;
mod resolution;

use std::collections::BTreeSet;
use std::net::IpAddr;

use sidecarta_capture::dns;

use crate::cluster::{Cluster, Entry, EntryHost, Holder, Pod, Service};
use crate::model::{DataPlane, Destination, Grade, Infrastructure, Protocol, Time, Unresolved};
use crate::observed::Call;
use candidates::{Candidate, among, collapse};
use names::{Clue, Clues, ExternalClue};

pub use names::{IstioSni, parse_istio_sni};
pub use resolution::Resolution;

/// Ports of istiod: plaintext and TLS xDS, monitoring, webhook (`pkg/config/constants`,
/// `pilot/cmd`).
const CONTROL_PLANE_PORTS: [u16; 5] = [443, 15010, 15012, 15014, 15017];
/// The proxy's merged metrics, health and Envoy statistics.
const PROXY_PORTS: [u16; 3] = [15020, 15021, 15090];
/// The proxy's own listeners and HBONE.
const INTERNAL_PORTS: [u16; 5] = [15001, 15004, 15006, 15008, 15053];

/// Port of tunnels by HBONE (`pkg/config/constants`, `ZtunnelInboundPort`).
const TUNNEL_PORT: u16 = 15008;

/// Resolves a call that `pod` began at a time.
pub fn resolve(cluster: &Cluster, pod: &Pod, call: &Call, at: Time) -> Resolution {
    let (to, port, protocol) = (call.responder.ip(), call.responder.port(), call.protocol);
    if let Some(sni) = call.sni.as_deref().and_then(parse_istio_sni) {
        return by_istio_sni(cluster, pod, call, &sni);
    }
    let owners: Vec<&Service> = cluster.services_at(to).collect();
    let backing: Vec<(&Service, u16)> = cluster.endpoint(to, port, protocol, at).collect();
    let sure = cluster.endpoint_is_sure(to, port, protocol, at);
    let clues = Clues::read(cluster, pod, call);
    if owners.is_empty()
        && backing.is_empty()
        && let Some(tunnelled) = tunnel(cluster, pod, call, at, &clues)
    {
        return note_addressed(tunnelled, &clues);
    }
    if let Some(what) =
        infrastructure(cluster, call, at, &owners, if sure { &backing } else { &[] })
    {
        return what;
    }
    let is_tcp = protocol == Protocol::Tcp;
    let entries = if is_tcp { cluster.entry_endpoints(to, port, at) } else { Vec::new() };
    let seen = Seen { cluster, pod, call, at, clues: &clues, entries: &entries };
    let resolution = if let Some(named) = seen.named_entry() {
        named
    } else if !owners.is_empty() {
        seen.own_address(&owners)
    } else if let Some((service, port)) = cluster.node_port(to, port, protocol) {
        Resolution::new(Destination::Service(service.at(port)), port)
            .graded(Grade::ServiceAddress, None)
    } else if !backing.is_empty() || !entries.is_empty() {
        seen.endpoint(&backing, sure)
    } else {
        seen.elsewhere()
    };
    note_addressed(resolution, &clues)
}

fn by_istio_sni(cluster: &Cluster, pod: &Pod, call: &Call, sni: &IstioSni<'_>) -> Resolution {
    let (to, name) = (call.responder.ip(), call.sni.as_deref());
    let host = sni.host;
    let entries = cluster.entries_named(host);
    let own = entries.iter().find(|e| e.namespace == pod.workload.namespace);
    let resolution = match cluster.service(host) {
        Some(service) => Resolution::new(Destination::Service(service.at(sni.port)), sni.port),
        None => match own.or(entries.first()) {
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

/// A tunnel to a pod that ztunnel captures carries a call of one of the Services in front of that
/// pod, and does not say of which: its server name names none (`connect_originate`,
/// `pilot/pkg/networking/core/cluster_waypoint.go`).
fn tunnel(
    cluster: &Cluster,
    pod: &Pod,
    call: &Call,
    at: Time,
    clues: &Clues<'_>,
) -> Option<Resolution> {
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
        return Some(Resolution::new(destination, port).graded(Grade::Address, None));
    }
    let found = collapse(found, &pod.workload.namespace);
    let grade = if found.len() == 1 && sure { Grade::Endpoint } else { Grade::EndpointOfSeveral };
    Some(among(found, grade, sure, clues))
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

/// A call with all that is known of its destination.
struct Seen<'a> {
    cluster: &'a Cluster,
    pod: &'a Pod,
    call: &'a Call,
    at: Time,
    clues: &'a Clues<'a>,
    /// Entries of which the address and the port are an endpoint, with their own ports.
    entries: &'a [(&'a Entry, u16)],
}

impl<'a> Seen<'a> {
    fn to(&self) -> (IpAddr, u16) {
        (self.call.responder.ip(), self.call.responder.port())
    }

    /// Whether the proxy would have handled the address had its host been in scope. Only TCP goes
    /// through Envoy; an excluded port or range reaches the address by intention.
    fn captured(&self) -> bool {
        let (to, port) = self.to();
        self.call.protocol == Protocol::Tcp && self.pod.captures(to, port, self.at)
    }

    /// The entry that a name on the connection itself says, where it can lead here: more is known
    /// by it than by the address. Envoy dials what the entry resolves to, be it the address of a
    /// Service.
    fn named_entry(&self) -> Option<Resolution> {
        let port = self.to().1;
        let (clue, entry, number) = self.clues.externals.iter().find_map(|clue| {
            let entry = self.cluster.entry(clue.entry.filter(|_| clue.is_strong())?)?;
            let listed = self.entries.iter().find(|(e, _)| e.host == entry.host);
            let number = match listed {
                Some((_, number)) => *number,
                None if entry.is_open => {
                    clue.port.filter(|p| entry.has(*p)).or_else(|| entry.port_of(port))?
                }
                None => return None,
            };
            Some((clue, entry, number))
        })?;
        // A name of a Service on the same connection is as good, and has the address for it.
        if self.clues.services.iter().any(|c| names::is_strong(c.grade)) {
            return None;
        }
        let to = external(&clue.name, Some(&entry.host));
        Some(Resolution::new(to, number).graded(clue.grade, Some(&clue.name)))
    }

    fn own_address(&self, owners: &[&Service]) -> Resolution {
        let (to, port) = self.to();
        let with_port = owners.iter().filter(|s| s.ports.contains(&(port, self.call.protocol)));
        let mut found: Vec<Candidate<'_>> =
            with_port.map(|s| Candidate::service(s, port)).collect();
        if found.is_empty() && self.entries.is_empty() {
            return Resolution::new(
                Destination::Unresolved { address: to, host: None, why: Unresolved::NoServicePort },
                port,
            )
            .graded(Grade::Address, None);
        }
        let strong = self.clues.strong();
        // Envoy itself dials the address of a Service that is an endpoint of an entry, and has
        // looked its name up: only a name on the connection tells the two apart.
        let clues = if self.entries.is_empty() { self.clues } else { &strong };
        found.extend(self.entries.iter().map(|(e, p)| Candidate::entry(e, *p)));
        let found = collapse(found, &self.pod.workload.namespace);
        let mut resolution = among(found, Grade::ServiceAddress, true, clues);
        let by_envoy = match &resolution.destination {
            Destination::Service(s) => self.cluster.is_passed_through(&s.host),
            Destination::Ambiguous { .. } => !self.entries.is_empty(),
            _ => true,
        };
        // What istiod does not look at is in no proxy's reach.
        let seen = owners.iter().any(|s| !self.cluster.hides(&s.namespace));
        resolution.scope_miss =
            self.captured() && self.cluster.is_cluster_ip(to) && !by_envoy && seen;
        resolution
    }

    fn endpoint(&self, backing: &[(&Service, u16)], sure: bool) -> Resolution {
        let (to, port) = self.to();
        // The request head holds the pod's own address: the application addressed the pod, no
        // Service.
        if self.clues.authority_address == Some((to, port))
            && let Holder::Pod(target) = self.cluster.holder(to, self.at)
        {
            let name = self.call.authority.as_deref();
            return Resolution::new(Destination::pod(target.workload.clone()), port)
                .graded(Grade::HttpAuthority, name);
        }
        // An address outside serves many hosts: a name on the connection is that of its own.
        let other = |c: &ExternalClue<'_>| {
            c.is_strong()
                && self.entries.iter().all(|(e, _)| c.entry.is_none_or(|n| n.host != e.host.host))
        };
        if backing.is_empty() && self.clues.externals.iter().any(other) {
            return self.elsewhere();
        }
        let services = backing.iter().map(|(s, p)| Candidate::service(s, *p));
        let entries = self.entries.iter().map(|(e, p)| Candidate::entry(e, *p));
        let found = collapse(services.chain(entries).collect(), &self.pod.workload.namespace);
        let grade =
            if found.len() == 1 && sure { Grade::Endpoint } else { Grade::EndpointOfSeveral };
        among(found, grade, sure, self.clues)
    }

    /// No endpoint at the address: a ServiceEntry's own, a pod's, the outside's, or unknown.
    fn elsewhere(&self) -> Resolution {
        let (cluster, (to, port)) = (self.cluster, self.to());
        let holder = cluster.holder(to, self.at);
        let within = !matches!(holder, Holder::Nobody) || cluster.in_service_range(to);
        let gone = matches!(holder, Holder::NobodyInPodRange);
        let host = self.clues.strong().unknown_mesh_host(cluster, within, gone);
        if let Holder::Pod(target) = holder {
            // A name on the connection says more than the address: the application addressed a
            // Service that is not there.
            if host.is_some() {
                let why = Unresolved::UnknownMeshHost;
                let destination = Destination::Unresolved { address: to, host, why };
                return Resolution::new(destination, port).graded(Grade::Address, None);
            }
            return Resolution::new(Destination::pod(target.workload.clone()), port)
                .graded(Grade::Address, None);
        }
        let host = host.or_else(|| self.clues.unknown_mesh_host(cluster, within, gone));
        let unresolved = |why| {
            let host = host.clone();
            Resolution::new(Destination::Unresolved { address: to, host, why }, port)
                .graded(Grade::Address, None)
        };
        match holder {
            Holder::Contested => return unresolved(Unresolved::SeveralPods),
            Holder::NobodyInPodRange if self.clues.externals.is_empty() => {
                return unresolved(Unresolved::NoPodThen);
            }
            _ if cluster.in_service_range(to) => return unresolved(Unresolved::NoService),
            _ if host.is_some() => return unresolved(Unresolved::UnknownMeshHost),
            _ => {}
        }
        let mut resolution = match self.by_name() {
            Some(named) => named,
            None => self.by_own_address(),
        };
        // A proxy that has the host sends to the endpoints that the entry lists.
        let owning = cluster.entries_at(to);
        let diverts = |e: &&Entry| e.has(port) && !e.passes_through && !e.is_open;
        resolution.scope_miss |= self.captured() && owning.iter().any(diverts);
        // Nothing but a proxy that lacks the host lets an address through that istiod made up.
        resolution.scope_miss |= self.pod.data_plane == DataPlane::Sidecar
            && self.call.protocol == Protocol::Tcp
            && is_made_up(to);
        resolution
    }

    /// By the names on the connection, then by answers of the DNS. One address often serves several
    /// hosts: of entries that were looked up, those that have the port count.
    fn by_name(&self) -> Option<Resolution> {
        let (cluster, port) = (self.cluster, self.to().1);
        let number_of = |c: &ExternalClue<'_>| {
            let entry = cluster.entry(c.entry?)?;
            c.port.filter(|p| entry.has(*p)).or_else(|| entry.port_of(port))
        };
        let all = &self.clues.externals;
        if !all.iter().any(ExternalClue::is_strong) {
            let fitting = all.iter().filter_map(|c| Some((c, number_of(c)?)));
            let found = fitting.filter_map(|(c, number)| {
                Some(Candidate::entry(cluster.entry(c.entry?)?, number).called(&c.name))
            });
            let found = collapse(found.collect(), &self.pod.workload.namespace);
            if !found.is_empty() {
                return Some(among(found, Grade::DnsAnswer, true, self.clues));
            }
        }
        let clue = all.first()?;
        let number = number_of(clue).unwrap_or(port);
        Some(
            Resolution::new(external(&clue.name, clue.entry), number)
                .graded(clue.grade, Some(&clue.name)),
        )
    }

    /// By the address alone: an entry's own.
    fn by_own_address(&self) -> Resolution {
        let (to, port) = self.to();
        let owning = self.cluster.entries_at(to);
        let found = owning.iter().filter(|e| e.has(port)).map(|e| Candidate::entry(e, port));
        let found = collapse(found.collect(), &self.pod.workload.namespace);
        if found.is_empty() {
            let destination = Destination::External {
                host: None,
                address: Some(to),
                namespace: None,
                name: None,
                entry_host: None,
            };
            let mut resolution = Resolution::new(destination, port).graded(Grade::Address, None);
            // Entries own the address, and none has the port: all are shown.
            resolution.addressed.extend(owning.iter().map(|e| e.host.host.clone()));
            return resolution;
        }
        among(found, Grade::ServiceAddress, true, self.clues)
    }
}

/// Whether istiod made an address up for a ServiceEntry without one: nothing has it, and no node
/// routes it (`pilot/pkg/serviceregistry/serviceentry`, `AutoAllocate`: 240.240.0.0/16 and
/// 2001:2::/48).
fn is_made_up(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => a.octets()[..2] == [240, 240],
        IpAddr::V6(a) => a.segments()[..3] == [0x2001, 2, 0],
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
mod kinds;
#[cfg(test)]
mod tests;
