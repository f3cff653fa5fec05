//! Where a name leads, that the mesh may not have.
//!
//! Owns telling a Service that the snapshot lacks from a name of the world outside. Must never
//! guess a namespace that the name does not hold.

use crate::mesh::host::{is_wildcard, matches};
use crate::mesh::{Mesh, Registry, ServiceResolution};
use crate::scope::Scope;

/// Where a name of the cluster's own domain leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// The mesh knows it, or it lies outside the mesh.
    Known,
    /// It is of a namespace that istiod does not look at: no proxy has it.
    Hidden(String),
    /// It would be a Service of this namespace and host, and the snapshot has none.
    Missing {
        /// Namespace.
        namespace: String,
        /// Fully qualified host.
        host: String,
    },
}

/// Where a name leads that is made whole as far as the mesh allows. `namespace` is the client's.
pub fn place(full: &Scope<'_>, host: &str, namespace: &str) -> Place {
    let mesh = full.mesh;
    if mesh.has_host(host) || host.parse::<std::net::IpAddr>().is_ok() {
        return Place::Known;
    }
    let mut rest = host;
    while let Some((_, parent)) = rest.split_once('.') {
        // A pod below a headless Service, or a name within a wildcard.
        if mesh.has_host(&format!("*.{parent}")) || headless(mesh, parent) {
            return Place::Known;
        }
        rest = parent;
    }
    let of_cluster = cluster_name(mesh, host, namespace);
    match of_cluster {
        Some((namespace, _)) if mesh.hides(&namespace) => Place::Hidden(namespace),
        // A VirtualService alone gives it a route, whatever it is.
        _ if routed(full, host) => Place::Known,
        Some((namespace, host)) => Place::Missing { namespace, host },
        None => Place::Known,
    }
}

fn headless(mesh: &Mesh, host: &str) -> bool {
    mesh.services_of(host).any(|s| {
        s.registry == Registry::Kubernetes && s.resolution == ServiceResolution::Passthrough
    })
}

fn routed(full: &Scope<'_>, host: &str) -> bool {
    let all = full.listeners.iter().flat_map(|l| &l.virtual_services);
    all.into_iter().any(|v| {
        v.hosts.iter().any(|h| h == host || is_wildcard(h) && h != "*" && matches(h, host))
    })
}

/// The namespace and the host that a name would have as a Service of the cluster; `None` for a name
/// of the world outside.
pub(super) fn cluster_name(mesh: &Mesh, host: &str, client: &str) -> Option<(String, String)> {
    let domain = &mesh.domain;
    // Services of several clusters (`serviceregistry/kube/controller/autoserviceexport`).
    if let Some(name) = host.strip_suffix(".svc.clusterset.local") {
        let (_, namespace) = name.rsplit_once('.')?;
        return Some((namespace.to_owned(), host.to_owned()));
    }
    let short = host
        .strip_suffix(&format!(".svc.{domain}"))
        .or_else(|| host.strip_suffix(".svc"))
        .or_else(|| host.strip_suffix(&format!(".{domain}")));
    let of = |name: &str, namespace: &str| {
        (namespace.to_owned(), format!("{name}.{namespace}.svc.{domain}"))
    };
    match short.unwrap_or(host).rsplit_once('.') {
        Some((name, namespace)) if short.is_some() || mesh.has_namespace(namespace) => {
            // Below a Service that is not there: the Service's own name is the last one.
            let name = name.rsplit('.').next().unwrap_or(name);
            Some(of(name, namespace))
        }
        None => Some(of(short.unwrap_or(host), client)),
        // `cart.shpo`: the name of a Service in a namespace that is none.
        Some((name, namespace)) if !name.contains('.') && mesh.names_service(name) => {
            Some(of(name, namespace))
        }
        // `cart.shop.svc.cluster.lcoal`: nothing outside is called so.
        Some(_) => host.split_once(".svc.").and_then(|(name, _)| {
            let (name, namespace) = name.rsplit_once('.')?;
            Some(of(name.rsplit('.').next().unwrap_or(name), namespace))
        }),
    }
}
