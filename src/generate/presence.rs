//! Whether the mesh has a host that was named.
//!
//! Owns the difference between a Service that the snapshot lacks and a name of the world outside.
//! Must never guess a namespace that the name does not have.

use crate::mesh::host::{is_wildcard, matches};
use crate::scope::Scope;

use super::names::{cluster_name, is_headless};

/// What the snapshot says of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum HostPresence {
    /// The mesh has it, or it lies outside the mesh.
    Present,
    /// It is in this namespace, which istiod does not look at. No proxy has it.
    Hidden(String),
    /// It would be a Service of this namespace and host, and the snapshot has none.
    Missing {
        /// Namespace.
        namespace: String,
        /// Fully qualified host.
        host: String,
    },
}

/// Whether the mesh has a host, given in the form of [`full_name`](super::names::full_name).
/// `full` is the scope with all hosts imported, `client` the client's namespace.
pub(super) fn host_presence(full: &Scope<'_>, host: &str, client: &str) -> HostPresence {
    let mesh = full.mesh;
    if mesh.has_host(host) || host.parse::<std::net::IpAddr>().is_ok() {
        return HostPresence::Present;
    }
    let mut rest = host;
    while let Some((_, parent)) = rest.split_once('.') {
        // A name within a wildcard, or of a pod below a headless Service.
        if mesh.has_host(&format!("*.{parent}")) || is_headless(mesh, parent) {
            return HostPresence::Present;
        }
        rest = parent;
    }
    match cluster_name(mesh, host, client) {
        Some((namespace, _)) if mesh.hides(&namespace) => HostPresence::Hidden(namespace),
        // A VirtualService alone gives it a route, whatever it is.
        _ if is_routed(full, host) => HostPresence::Present,
        Some((namespace, host)) => HostPresence::Missing { namespace, host },
        None => HostPresence::Present,
    }
}

/// Whether a VirtualService routes a host: by its name, or by a wildcard other than `*`.
fn is_routed(full: &Scope<'_>, host: &str) -> bool {
    let names = |h: &String| h == host || is_wildcard(h) && h != "*" && matches(h, host);
    let mut all = full.listeners.iter().flat_map(|l| &l.virtual_services);
    all.any(|v| v.hosts.iter().any(names))
}
