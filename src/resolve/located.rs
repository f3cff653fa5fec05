//! The destination of a call to an address that may be anybody's.
//!
//! Owns what the holder of the address and the names of the call say together. Must never choose
//! among candidates that nothing on the wire distinguishes.

use std::net::IpAddr;

use super::candidates::{Candidate, among, collapse};
use super::names::{Clues, ExternalClue, is_strong};
use super::resolution::{CallResolution, external};
use crate::cluster::{Cluster, ClusterService, Holder, IndexedEntry, Pod};
use crate::model::{DataPlane, Destination, Grade, Protocol, Time, Unresolved};
use crate::observed::Call;

/// A call, with what is known of the address that it went to.
pub(super) struct LocatedCall<'a> {
    pub cluster: &'a Cluster,
    /// The caller.
    pub pod: &'a Pod,
    pub call: &'a Call,
    pub at: Time,
    /// What the names of the call say.
    pub clues: &'a Clues<'a>,
    /// Entries of which the address and the port are an endpoint, with their own ports.
    pub entries: &'a [(&'a IndexedEntry, u16)],
}

impl<'a> LocatedCall<'a> {
    /// The address and port that packets went to.
    fn to(&self) -> (IpAddr, u16) {
        (self.call.responder.ip(), self.call.responder.port())
    }

    /// Whether the proxy would have handled the address had its host been in scope. Envoy handles
    /// TCP only, and a call to an excluded port or range is meant to go past it.
    fn is_captured(&self) -> bool {
        let (to, port) = self.to();
        self.call.protocol == Protocol::Tcp && self.pod.captures(to, port, self.at)
    }

    /// The entry that a name on the connection itself states, if it can lead to this address. Such
    /// a name says more than the address: Envoy dials what the entry resolves to, even if that is
    /// the address of a Service.
    pub fn named_entry(&self) -> Option<CallResolution> {
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
        // A name of a Service on the same connection is as strong, and the address speaks for it.
        if self.clues.services.iter().any(|c| is_strong(c.grade)) {
            return None;
        }
        let to = external(&clue.name, Some(&entry.host));
        Some(CallResolution::new(to, number).graded(clue.grade, Some(&clue.name)))
    }

    /// The Service, or the entry, that has the address as its own.
    pub fn own_address(&self, owners: &[&ClusterService]) -> CallResolution {
        let (to, port) = self.to();
        let with_port = owners.iter().filter(|s| s.ports.contains(&(port, self.call.protocol)));
        let mut found: Vec<Candidate<'_>> =
            with_port.map(|s| Candidate::service(s, port)).collect();
        if found.is_empty() && self.entries.is_empty() {
            return CallResolution::new(
                Destination::Unresolved { address: to, host: None, why: Unresolved::NoServicePort },
                port,
            )
            .graded(Grade::Address, None);
        }
        let strong = self.clues.strong();
        // Envoy itself dials the address of a Service that is an endpoint of an entry, after a
        // lookup of its name. Only a name on the connection distinguishes the two.
        let clues = if self.entries.is_empty() { self.clues } else { &strong };
        found.extend(self.entries.iter().map(|(e, p)| Candidate::entry(e, *p)));
        let found = collapse(found, &self.pod.workload.namespace);
        let mut resolution = among(found, Grade::ServiceAddress, true, clues);
        let by_envoy = match &resolution.destination {
            Destination::Service(s) => self.cluster.is_passed_through(&s.host),
            Destination::Ambiguous { .. } => !self.entries.is_empty(),
            _ => true,
        };
        // No proxy has what istiod does not look at.
        let is_discovered = owners.iter().any(|s| !self.cluster.hides(&s.namespace));
        resolution.scope_miss =
            self.is_captured() && self.cluster.is_cluster_ip(to) && !by_envoy && is_discovered;
        resolution
    }

    /// The Services and entries of which the address and port are an endpoint.
    pub fn endpoint(&self, backing: &[(&ClusterService, u16)], sure: bool) -> CallResolution {
        let (to, port) = self.to();
        // The request head has the pod's own address: the application addressed the pod, and no
        // Service.
        if self.clues.authority_address == Some((to, port))
            && let Holder::Pod(target) = self.cluster.holder(to, self.at)
        {
            let name = self.call.authority.as_deref();
            return CallResolution::new(Destination::pod(target.workload.clone()), port)
                .graded(Grade::HttpAuthority, name);
        }
        // An address outside serves many hosts. A name on the connection that is none of the
        // entries' names another one of them.
        let names_other_host = |c: &ExternalClue<'_>| {
            c.is_strong()
                && self.entries.iter().all(|(e, _)| c.entry.is_none_or(|n| n.host != e.host.host))
        };
        if backing.is_empty() && self.clues.externals.iter().any(names_other_host) {
            return self.elsewhere();
        }
        let services = backing.iter().map(|(s, p)| Candidate::service(s, *p));
        let entries = self.entries.iter().map(|(e, p)| Candidate::entry(e, *p));
        let found = collapse(services.chain(entries).collect(), &self.pod.workload.namespace);
        let grade =
            if found.len() == 1 && sure { Grade::Endpoint } else { Grade::EndpointOfSeveral };
        among(found, grade, sure, self.clues)
    }

    /// The address has no endpoint: it is a ServiceEntry's own, that of a pod, outside, or unknown.
    pub fn elsewhere(&self) -> CallResolution {
        let (cluster, (to, port)) = (self.cluster, self.to());
        let holder = cluster.holder(to, self.at);
        let in_cluster = !matches!(holder, Holder::Nobody) || cluster.in_service_range(to);
        let is_vacant = matches!(holder, Holder::NobodyInPodRange);
        let host = self.clues.strong().unknown_mesh_host(cluster, in_cluster, is_vacant);
        if let Holder::Pod(target) = holder {
            // A name on the connection says more than the address: the application addressed a
            // Service that the snapshot lacks.
            if host.is_some() {
                let why = Unresolved::UnknownMeshHost;
                let destination = Destination::Unresolved { address: to, host, why };
                return CallResolution::new(destination, port).graded(Grade::Address, None);
            }
            return CallResolution::new(Destination::pod(target.workload.clone()), port)
                .graded(Grade::Address, None);
        }
        let host = host.or_else(|| self.clues.unknown_mesh_host(cluster, in_cluster, is_vacant));
        let unresolved = |why| {
            let host = host.clone();
            CallResolution::new(Destination::Unresolved { address: to, host, why }, port)
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
        let diverts = |e: &&IndexedEntry| e.has(port) && !e.passes_through && !e.is_open;
        resolution.scope_miss |= self.is_captured() && owning.iter().any(diverts);
        // Only a proxy without the host lets a call through to an address that istiod made up.
        resolution.scope_miss |= self.pod.data_plane == DataPlane::Sidecar
            && self.call.protocol == Protocol::Tcp
            && is_made_up(to);
        resolution
    }

    /// The destination by the names on the connection, else by answers of the DNS. One address
    /// often serves several hosts. Of the entries that were looked up, those that have the port
    /// count.
    fn by_name(&self) -> Option<CallResolution> {
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
            CallResolution::new(external(&clue.name, clue.entry), number)
                .graded(clue.grade, Some(&clue.name)),
        )
    }

    /// The destination by the address alone: the entry that has it as its own, or the address.
    fn by_own_address(&self) -> CallResolution {
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
            let mut resolution =
                CallResolution::new(destination, port).graded(Grade::Address, None);
            // Entries have the address as their own, and none has the port: all are listed.
            resolution.addressed.extend(owning.iter().map(|e| e.host.host.clone()));
            return resolution;
        }
        among(found, Grade::ServiceAddress, true, self.clues)
    }
}

/// Whether istiod made an address up for a ServiceEntry without one. Nothing has such an address,
/// and no node routes it (`pilot/pkg/serviceregistry/serviceentry`, `AutoAllocate`: 240.240.0.0/16
/// and 2001:2::/48).
fn is_made_up(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => a.octets()[..2] == [240, 240],
        IpAddr::V6(a) => a.segments()[..3] == [0x2001, 2, 0],
    }
}
