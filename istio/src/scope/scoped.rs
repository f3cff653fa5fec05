//! A Service as one scope has it.
//!
//! Owns which ports of a Service remain on a listener with a port. Must never decide which Service
//! is imported.

use std::borrow::Cow;

use crate::mesh::{AppProtocol, Egress, MeshPort, MeshService};

/// A Service as one scope has it. It may have fewer ports and aliases than in the mesh.
#[derive(Clone, Debug)]
pub struct ScopedService<'m> {
    /// The Service.
    pub service: &'m MeshService,
    /// Its ports in scope.
    pub ports: Cow<'m, [MeshPort]>,
    /// ExternalName Services in scope that lead to it.
    pub aliases: Cow<'m, [(String, String)]>,
    /// istiod may use another Service of this host and namespace after its next start.
    pub uncertain: bool,
}

impl ScopedService<'_> {
    /// The port of this number.
    pub fn port(&self, number: u16) -> Option<&MeshPort> {
        self.ports.iter().find(|p| p.number == number)
    }
}

/// The port that Services must have, on a listener that has one (`needsPortMatch`: not of an HTTP
/// proxy).
pub(super) fn match_port(egress: &Egress) -> Option<u16> {
    let port = egress.port.as_ref().filter(|p| p.number != 0)?;
    let proxy = AppProtocol::parse(&port.protocol) == AppProtocol::HttpProxy;
    (!proxy).then_some(port.number)
}

/// The Service with all of its ports and aliases.
pub(super) fn whole(service: &MeshService) -> ScopedService<'_> {
    ScopedService {
        service,
        ports: (&service.ports[..]).into(),
        aliases: (&service.aliases[..]).into(),
        uncertain: false,
    }
}

/// The Service with those of its ports for which `wanted` is true; `None` where there are none.
pub(super) fn trim_to(
    service: &MeshService,
    wanted: impl Fn(&MeshPort) -> bool,
) -> Option<ScopedService<'_>> {
    let ports: Vec<MeshPort> = service.ports.iter().filter(|p| wanted(p)).cloned().collect();
    let all = ports.len() == service.ports.len();
    if ports.is_empty() && !all {
        return None;
    }
    let mut scoped = whole(service);
    if !all {
        scoped.ports = ports.into();
    }
    Some(scoped)
}
