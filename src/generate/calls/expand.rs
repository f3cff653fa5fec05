//! The calls that a host and a port may stand for.
//!
//! Owns which ports, protocols and addresses a host can be called by. Must never leave one out that
//! the mesh has.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use crate::mesh::UNSPECIFIED;
use crate::mesh::host::{is_wildcard, matches};
use crate::mesh::{AppProtocol, MeshService, Registry, ServiceResolution};

use crate::scope::{CallProtocol, Client, Scope, ScopeCall, ScopeListener, ScopedService};

/// Stands for an address of the world outside where none is known (TEST-NET-3, RFC 5737).
pub(super) const OUTSIDE: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1));

/// Finds the calls of one client.
#[derive(Clone, Copy)]
pub(super) struct Expander<'a, 'm> {
    /// The scope with all hosts imported.
    pub full: &'a Scope<'m>,
    pub client: Client<'a>,
}

impl<'a, 'm> Expander<'a, 'm> {
    /// The calls that a host and port may stand for: one for every address, and for every protocol
    /// where the protocol is detected. A protocol or an address that is given decides.
    pub fn calls(
        &self,
        host: &str,
        port: u16,
        protocol: Option<CallProtocol>,
        address: Option<IpAddr>,
    ) -> Vec<ScopeCall> {
        let answering = self.answering(host, port);
        let addresses = match address {
            Some(address) => BTreeSet::from([address]),
            None => self.addresses(host, &answering),
        };
        let protocols = match protocol {
            Some(protocol) => BTreeSet::from([protocol]),
            None => self.protocols(host, port, &answering),
        };
        let all = protocols.iter().flat_map(|p| addresses.iter().map(move |a| (*p, *a)));
        all.map(|(protocol, address)| ScopeCall { host: host.to_owned(), port, protocol, address })
            .collect()
    }

    /// Services that answer for a host and port. A wildcard answers only where no exact name does.
    fn answering(&self, host: &str, port: u16) -> Vec<&'a ScopedService<'m>> {
        let mesh = self.full.mesh;
        let listeners = self.full.listeners.iter();
        let mut named: Vec<_> = listeners.flat_map(|l| l.index_named(mesh, port, host)).collect();
        if named.iter().any(|s| !is_wildcard(&s.service.host)) {
            named.retain(|s| !is_wildcard(&s.service.host));
        }
        named
    }

    /// Addresses that the host may resolve to, at least one.
    fn addresses(&self, host: &str, answering: &[&ScopedService<'_>]) -> BTreeSet<IpAddr> {
        let of_service = |s: &&ScopedService<'_>| {
            self.pod_address(s.service, host).or_else(|| self.address(s.service))
        };
        let mut addresses: BTreeSet<IpAddr> = answering.iter().filter_map(of_service).collect();
        if addresses.is_empty() {
            addresses.extend(host.parse::<IpAddr>().ok());
            // A Service that the client cannot see has an address all the same.
            let of_mesh = self.full.mesh.services_of(host);
            addresses.extend(of_mesh.filter_map(|s| self.address(s)).take(1));
        }
        if addresses.is_empty() {
            addresses.insert(OUTSIDE);
        }
        addresses
    }

    /// Protocols that a call may have, at least one.
    fn protocols(
        &self,
        host: &str,
        port: u16,
        answering: &[&ScopedService<'_>],
    ) -> BTreeSet<CallProtocol> {
        let mut protocols = BTreeSet::new();
        for declared in answering.iter().filter_map(|s| s.port(port)).map(|p| p.protocol) {
            protocols.insert(CallProtocol::of(declared));
            if declared == AppProtocol::Unsupported {
                protocols.insert(CallProtocol::Tcp);
            }
        }
        if protocols.is_empty() {
            let ports = self.services_at(host).flat_map(|s| &s.ports);
            let at_port = ports.filter(|p| p.number == port);
            protocols.extend(at_port.map(|p| CallProtocol::of(p.protocol)));
        }
        if protocols.is_empty() {
            protocols.insert(match port {
                443 => CallProtocol::Tls,
                _ if host.parse::<IpAddr>().is_ok() => CallProtocol::Tcp,
                _ => CallProtocol::Http,
            });
        }
        protocols
    }

    /// Ports of the Kubernetes Service that has this host, or that the host is a pod of.
    pub fn own_ports(&self, host: &str) -> BTreeSet<u16> {
        let ports_of = |host: &str| {
            let all = self.full.mesh.services_of(host);
            let own =
                all.filter(|s| s.resolution != ServiceResolution::Alias && !is_wildcard(&s.host));
            own.flat_map(|s| s.ports.iter().map(|p| p.number)).collect::<BTreeSet<u16>>()
        };
        let own = ports_of(host);
        match host.split_once('.') {
            Some((_, parent)) if own.is_empty() => ports_of(parent),
            _ => own,
        }
    }

    /// Ports, except those for UDP, that the mesh knows of a host.
    pub fn ports(&self, host: &str) -> BTreeSet<u16> {
        // Its own Service is found by the index. Whatever else may answer must be searched for.
        if let Some(own) = self.full.service(host).filter(|s| !s.ports.is_empty()) {
            let no_udp = own.ports.iter().filter(|p| p.protocol != AppProtocol::Udp);
            return no_udp.map(|p| p.number).collect();
        }
        let mut out: BTreeSet<u16> = BTreeSet::new();
        for listener in &self.full.listeners {
            out.extend(ports_in(listener, host));
            let mut rules = listener.virtual_services.iter();
            if out.is_empty() && rules.any(|v| v.hosts.iter().any(|h| h == host)) {
                // A host that is no Service is routed on port 80.
                out.insert(80);
            }
        }
        out
    }

    /// Services of the mesh that have this address, where the host is an address.
    pub fn services_at<'s>(&'s self, host: &'s str) -> impl Iterator<Item = &'m MeshService> + 's {
        let is_address = host.parse::<IpAddr>().is_ok();
        let all = self.full.mesh.services().iter();
        all.filter(move |s| is_address && s.address == host)
    }

    /// The address of a pod that is named below a headless Service.
    fn pod_address(&self, s: &MeshService, host: &str) -> Option<IpAddr> {
        let name = host.strip_suffix(s.host.as_str())?.strip_suffix('.')?;
        self.full.mesh.pod(&s.namespace, name)?.addresses.first().copied()
    }

    /// What the host of a Service resolves to: its own address, that of an endpoint where it has
    /// none, else an address outside.
    fn address(&self, s: &MeshService) -> Option<IpAddr> {
        if s.address != UNSPECIFIED {
            return s.address.split('/').next()?.parse().ok();
        }
        let endpoints = self.full.mesh.endpoints(s).iter().map(|e| e.address.as_str());
        let of_others = endpoints.filter(|a| Some(*a) != self.client.address);
        of_others.filter_map(|a| a.parse().ok()).min().or(Some(OUTSIDE))
    }
}

/// Ports of the Services of a listener that answer for a host: by name, by alias, or as the
/// headless Service that the host is a pod of.
fn ports_in(listener: &ScopeListener<'_>, host: &str) -> BTreeSet<u16> {
    let answers = |s: &&ScopedService<'_>| {
        let own = s.service.host.as_str();
        let by_name = own == host || is_wildcard(own) && matches(own, host);
        let by_alias = s.aliases.iter().any(|(_, alias)| alias == host);
        let is_headless = s.service.resolution == ServiceResolution::Passthrough
            && s.service.registry == Registry::Kubernetes;
        let is_pod_of = is_headless && host.strip_suffix(own).is_some_and(|h| h.ends_with('.'));
        by_name || by_alias || is_pod_of
    };
    let ports = listener.services.iter().filter(answers).flat_map(|s| s.ports.iter());
    ports.filter(|p| p.protocol != AppProtocol::Udp).map(|p| p.number).collect()
}

/// Whether a Service has a port.
pub(super) fn has_port(service: &MeshService, port: u16) -> bool {
    service.ports.iter().any(|p| p.number == port)
}
