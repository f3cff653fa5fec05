//! Host names as a client spells them, made whole.
//!
//! Owns the search path of a pod's resolver and the form of names of Services. Must never guess a
//! namespace that the name does not have.

use std::net::IpAddr;

use crate::mesh::host::qualify;
use crate::mesh::{Mesh, MeshService, Registry, ServiceResolution};

/// The full form of a name, as the resolver of a pod in this namespace finds it. A name that the
/// mesh does not know stays as it is, in lower case.
pub(super) fn full_name(mesh: &Mesh, name: &str, namespace: &str) -> String {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    if mesh.has_host(&name) || name.parse::<IpAddr>().is_ok() {
        return name;
    }
    let domain = &mesh.domain;
    let whole = [
        qualify(&name, namespace, domain),
        format!("{name}.{namespace}.svc.{domain}"),
        format!("{name}.svc.{domain}"),
        format!("{name}.{domain}"),
    ];
    if let Some(found) = whole.into_iter().find(|n| mesh.has_host(n)) {
        return found;
    }
    // The short name of a pod of a headless Service: `kafka-0.brokers.data`.
    let of_pod = name.split_once('.').and_then(|(pod, rest)| {
        let service = full_name(mesh, rest, namespace);
        is_headless(mesh, &service).then(|| format!("{pod}.{service}"))
    });
    of_pod.unwrap_or(name)
}

/// Whether a host is that of a headless Service.
pub(super) fn is_headless(mesh: &Mesh, host: &str) -> bool {
    let headless = |s: &MeshService| {
        s.registry == Registry::Kubernetes && s.resolution == ServiceResolution::Passthrough
    };
    mesh.services_of(host).any(headless)
}

/// The namespace and the host that a name would have as a Service of the cluster; `None` for a name
/// of the world outside. `client` is the client's namespace.
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
    let service = |name: &str, namespace: &str| {
        (namespace.to_owned(), format!("{name}.{namespace}.svc.{domain}"))
    };
    match short.unwrap_or(host).rsplit_once('.') {
        Some((name, namespace)) if short.is_some() || mesh.has_namespace(namespace) => {
            // The name of a pod below a Service ends in the name of the Service.
            Some(service(last_label(name), namespace))
        }
        None => Some(service(short.unwrap_or(host), client)),
        // `cart.shpo`: a Service of that name exists, a namespace of that name does not.
        Some((name, namespace)) if !name.contains('.') && mesh.names_service(name) => {
            Some(service(name, namespace))
        }
        // `cart.shop.svc.cluster.lcoal`: no name of the world outside has this form.
        Some(_) => host.split_once(".svc.").and_then(|(name, _)| {
            let (name, namespace) = name.rsplit_once('.')?;
            Some(service(last_label(name), namespace))
        }),
    }
}

fn last_label(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}
