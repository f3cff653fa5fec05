//! What an egress listener imports, with indexes by port, address and host, so that the route of a
//! call is found without visiting all Services.
//!
//! Owns what the proxy's listeners bind to (`buildSidecarOutboundListeners` in
//! `networking/core/listener.go`). Must never depend on a call.

use std::net::IpAddr;
use std::sync::OnceLock;

use foldhash::HashMap;

use super::scoped::{ScopedService, match_port};
use crate::mesh::UNSPECIFIED;
use crate::mesh::host::{HostMap, is_wildcard, subset_of};
use crate::mesh::{
    AppProtocol, Egress, Mesh, MeshPort, Registry, ServiceResolution, VirtualService,
};

/// What one egress listener imports.
#[derive(Debug)]
pub struct ScopeListener<'m> {
    /// As in the Sidecar.
    pub egress: &'m Egress,
    /// Services, in istiod's order.
    pub services: Vec<ScopedService<'m>>,
    /// VirtualServices, in istiod's order.
    pub virtual_services: Vec<&'m VirtualService>,
    /// Indexes for routing, made when they are first needed.
    routing: OnceLock<RoutingIndex<'m>>,
}

/// Indexes of a listener for routing.
#[derive(Debug)]
pub(super) struct RoutingIndex<'m> {
    pub ports: HashMap<u16, PortIndex<'m>>,
    /// VirtualServices by exact host: positions in the listener's list.
    pub exact: HashMap<&'m str, Vec<u32>>,
    /// VirtualServices with wildcard hosts.
    pub wild: Vec<(&'m str, u32)>,
    /// The VirtualService of the most specific host (`computeWildcardHostVirtualServiceIndex`).
    pub most_specific: HostMap<&'m str, u32>,
}

/// Services of a listener that have one port, by what their listeners bind to. Positions in the
/// listener's list.
#[derive(Debug, Default)]
pub(super) struct PortIndex<'m> {
    /// On every address; of HTTP Services the first stands for all.
    pub every: Vec<u32>,
    has_http: bool,
    pub by_address: HashMap<&'m str, Vec<u32>>,
    /// By host, for virtual hosts; the last of several wins.
    pub names: HashMap<&'m str, u32>,
    /// Hosts that are wildcards.
    pub wild_names: Vec<(&'m str, u32)>,
    /// By the host of an alias in scope.
    pub aliases: HashMap<String, Vec<u32>>,
    /// Headless Services: their hosts have names below them.
    pub headless: Vec<u32>,
}

/// What the listener of a Service port binds to.
enum BindAddress<'m> {
    Every,
    Address(&'m str),
    Each(Vec<&'m str>),
}

fn bind<'m>(mesh: &'m Mesh, scoped: &ScopedService<'m>, port: &MeshPort) -> BindAddress<'m> {
    let service = scoped.service;
    if port.protocol.is_http() {
        return BindAddress::Every;
    }
    if service.resolution == ServiceResolution::Passthrough && service.address == UNSPECIFIED {
        let addresses: Vec<&str> =
            mesh.endpoints_by_number(service, port).map(|e| e.address.as_str()).collect();
        if service.registry == Registry::External
            && addresses.is_empty()
            && service.selector.is_empty()
        {
            return BindAddress::Every;
        }
        return BindAddress::Each(
            addresses.into_iter().filter(|a| a.parse::<IpAddr>().is_ok()).collect(),
        );
    }
    // Ranges are matched by a filter chain of the listener on every address.
    if service.address == UNSPECIFIED || service.address.contains('/') {
        BindAddress::Every
    } else {
        BindAddress::Address(&service.address)
    }
}

impl<'m> ScopeListener<'m> {
    pub(super) fn new(
        egress: &'m Egress,
        services: Vec<ScopedService<'m>>,
        virtual_services: Vec<&'m VirtualService>,
    ) -> Self {
        Self { egress, services, virtual_services, routing: OnceLock::new() }
    }

    /// The port that Services must have.
    pub(super) fn match_port(&self) -> Option<u16> {
        match_port(self.egress)
    }

    /// Services with this port that answer to a host: by name, by an alias, by a wildcard, or as a
    /// name below a headless one.
    pub fn index_named(&self, mesh: &'m Mesh, port: u16, host: &str) -> Vec<&ScopedService<'m>> {
        let Some(at) = self.index(mesh).ports.get(&port) else { return Vec::new() };
        let by_name =
            at.names.get(host).into_iter().chain(at.aliases.get(host).into_iter().flatten());
        let below = |s: &&u32| {
            let name = &self.services[**s as usize].service.host;
            host.strip_suffix(name.as_str()).is_some_and(|h| h.ends_with('.'))
        };
        let by_suffix = at.wild_names.iter().filter(|(w, _)| subset_of(host, w)).map(|(_, s)| s);
        let mut out: Vec<u32> =
            by_name.chain(by_suffix).chain(at.headless.iter().filter(below)).copied().collect();
        out.sort_unstable();
        out.dedup();
        out.into_iter().map(|s| &self.services[s as usize]).collect()
    }

    pub(super) fn index(&self, mesh: &'m Mesh) -> &RoutingIndex<'m> {
        self.routing.get_or_init(|| self.make_index(mesh))
    }

    fn make_index(&self, mesh: &'m Mesh) -> RoutingIndex<'m> {
        let mut index = RoutingIndex {
            ports: HashMap::default(),
            exact: HashMap::default(),
            wild: Vec::new(),
            most_specific: HostMap::default(),
        };
        for (i, v) in self.virtual_services.iter().enumerate() {
            let v: &'m VirtualService = v;
            for host in &v.hosts {
                index.most_specific.or_insert(host, i as u32);
                if is_wildcard(host) {
                    index.wild.push((host, i as u32));
                } else {
                    index.exact.entry(host).or_default().push(i as u32);
                }
            }
        }
        // On a listener with a port, the port's protocol is the listener's.
        let declared = self.egress.port.as_ref().map(|p| AppProtocol::parse(&p.protocol));
        for (i, s) in self.services.iter().enumerate() {
            let i = i as u32;
            for port in s.ports.iter() {
                let at = index.ports.entry(port.number).or_default();
                at.add_name(i, s);
                if s.service.resolution == ServiceResolution::Alias {
                    continue;
                }
                let port = MeshPort { protocol: declared.unwrap_or(port.protocol), ..port.clone() };
                match bind(mesh, s, &port) {
                    // Further HTTP Services do not change the listener.
                    BindAddress::Every if port.protocol.is_http() && at.has_http => {}
                    BindAddress::Every => {
                        at.has_http |= port.protocol.is_http();
                        at.every.push(i);
                    }
                    BindAddress::Address(a) => at.by_address.entry(a).or_default().push(i),
                    BindAddress::Each(all) => {
                        for a in all {
                            at.by_address.entry(a).or_default().push(i);
                        }
                    }
                }
            }
        }
        index
    }
}

impl<'m> PortIndex<'m> {
    fn add_name(&mut self, i: u32, s: &ScopedService<'m>) {
        let host: &'m str = &s.service.host;
        self.names.insert(host, i);
        if is_wildcard(host) {
            self.wild_names.retain(|(h, _)| *h != host);
            self.wild_names.push((host, i));
        }
        for (_, alias) in s.aliases.iter() {
            self.aliases.entry(alias.clone()).or_default().push(i);
        }
        if s.service.resolution == ServiceResolution::Passthrough
            && s.service.registry == Registry::Kubernetes
        {
            self.headless.push(i);
        }
    }
}
