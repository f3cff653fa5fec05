//! Which Services and VirtualServices one egress listener imports (`convertIstioListenerToWrapper`,
//! `selectServices`, `servicesForExactHosts` in `model/sidecar.go`; `SelectVirtualServices` in
//! `model/virtualservice.go`).

use std::borrow::Cow;

use foldhash::{HashMap, HashMapExt};

use super::imports::{HostClass, Imports};
use super::scoped::{ScopedService, match_port, trim_to, whole};
use crate::mesh::{Egress, Mesh, Registry, VirtualService};

/// Services, in istiod's order.
pub(super) fn services<'m>(
    mesh: &'m Mesh,
    client: &str,
    egress: &Egress,
    imports: &Imports<'_>,
) -> Vec<ScopedService<'m>> {
    let any = imports.any();
    let port = match_port(egress);
    let mut out: Vec<ScopedService<'m>> = Vec::new();
    for (i, uncertain) in candidates(mesh, client, imports) {
        let service = &mesh.services[i as usize];
        let own = imports.classes.get(service.namespace.as_str());
        if own.is_some_and(|c| c.excludes(&service.host))
            || any.is_some_and(|c| c.excludes(&service.host))
        {
            continue;
        }
        let found = own
            .and_then(|c| import(mesh, i, c, port))
            .or_else(|| any.and_then(|c| import(mesh, i, c, port)));
        if let Some(mut scoped) = found {
            scoped.uncertain = uncertain;
            out.push(scoped);
        }
    }
    // Each exact host was found in one namespace, so no host can appear twice.
    if imports.all_exact && !imports.repeated { out } else { one_namespace_per_host(out, client) }
}

/// A Service as a list of hosts imports it: with the listener's port only, and with the aliases
/// that are listed as well.
fn import<'m>(
    mesh: &'m Mesh,
    i: u32,
    class: &HostClass<'_>,
    port: Option<u16>,
) -> Option<ScopedService<'m>> {
    let service = &mesh.services[i as usize];
    if !class.service(&service.host) {
        return None;
    }
    let mut scoped = match port {
        Some(number) => trim_to(service, |p| p.number == number)?,
        None => whole(service),
    };
    if !service.aliases.iter().all(|(_, host)| class.service(host)) {
        scoped.aliases = Cow::Owned(
            service.aliases.iter().filter(|(_, host)| class.service(host)).cloned().collect(),
        );
    }
    // A listener's port must exist; a Service without ports has none.
    (port.is_none() || !scoped.ports.is_empty()).then_some(scoped)
}

/// Services that may match the listener's hosts, in the order in which istiod reads them.
fn candidates(mesh: &Mesh, client: &str, imports: &Imports<'_>) -> Vec<(u32, bool)> {
    if imports.all_exact {
        let mut out: Vec<(u32, bool)> = Vec::new();
        for (namespace, class) in &imports.classes {
            for host in &class.exact {
                let found = mesh.by_host.get(*host).and_then(|by| by.get(*namespace));
                // istiod reads only one of several Services of one host and namespace, whether it
                // is visible or not.
                let found = found.filter(|f| mesh.services[f.service as usize].visible_in(client));
                out.extend(found.map(|f| (f.service, f.uncertain)));
            }
        }
        out.sort_unstable();
        return out;
    }
    let scan_all = imports.any().is_some_and(|c| !c.wild.is_empty());
    let mut out: Vec<u32> = Vec::new();
    if scan_all {
        out.extend(0..mesh.services.len() as u32);
    } else {
        for (namespace, _) in
            imports.classes.iter().filter(|(_, c)| !c.exact.is_empty() || !c.wild.is_empty())
        {
            out.extend(mesh.by_namespace.get(*namespace).into_iter().flatten());
        }
        for host in imports.any().into_iter().flat_map(|c| &c.exact) {
            for (namespace, _) in mesh.indexed(host) {
                let of_namespace = mesh.by_namespace.get(namespace).into_iter().flatten();
                out.extend(of_namespace.filter(|&&i| mesh.services[i as usize].host == **host));
            }
        }
    }
    // `~` beside other names hides a Service here, but not where exact hosts are found by index.
    let visible = |s: &crate::mesh::MeshService| {
        s.visible_in(client) && (s.export.public() || !s.export.lists("~"))
    };
    out.retain(|&i| visible(&mesh.services[i as usize]));
    // Those exported by name come before public ones.
    out.sort_unstable_by_key(|&i| (mesh.services[i as usize].export.public(), i));
    out.dedup();
    out.into_iter().map(|i| (i, false)).collect()
}

/// Selects one namespace for each host that several namespaces have: the client's, else that of a
/// Kubernetes Service, else the first.
fn one_namespace_per_host<'m>(
    mut imported: Vec<ScopedService<'m>>,
    client: &str,
) -> Vec<ScopedService<'m>> {
    let mut chosen: HashMap<&'m str, (&'m str, bool)> = HashMap::new();
    for s in imported.iter().filter(|s| s.service.contested) {
        let new = (s.service.namespace.as_str(), s.service.registry == Registry::Kubernetes);
        let old = chosen.entry(&s.service.host).or_insert(new);
        let better = new.0 == client || (!old.1 && new.1 && old.0 != client);
        if better {
            *old = new;
        }
    }
    imported.retain(|s| {
        chosen.get(s.service.host.as_str()).is_none_or(|(n, _)| *n == s.service.namespace)
    });
    imported
}

/// VirtualServices, in istiod's order: private ones, those exported by name, public ones.
pub(super) fn virtual_services<'m>(
    mesh: &'m Mesh,
    client: &str,
    imports: &Imports<'_>,
) -> Vec<&'m VirtualService> {
    let any = imports.any();
    let mut found: Vec<u32> = Vec::new();
    if any.is_some_and(|c| !c.wild.is_empty() || !c.exact.is_empty()) {
        found.extend(mesh.virtual_by_namespace.values().flat_map(|i| &i.all));
    } else {
        for (namespace, class) in &imports.classes {
            let Some(index) = mesh.virtual_by_namespace.get(*namespace) else { continue };
            if class.wild.is_empty() {
                found.extend(class.exact.iter().filter_map(|h| index.exact.get(*h)).flatten());
                found.extend(index.wild.iter().map(|(_, i)| *i));
            } else {
                found.extend(&index.all);
            }
        }
    }
    let rank = |v: &VirtualService| match () {
        // Routes of the Gateway API in the client's own namespace come first.
        () if v.route.is_some() && v.namespace == client => Some(0),
        () if v.export.public() => Some(3),
        () if v.export.lists("~") => None,
        () if v.export.lists(client) => Some(if v.namespace == client { 1 } else { 2 }),
        () => None,
    };
    let mut ranked: Vec<(u8, u32)> = found
        .into_iter()
        .filter_map(|i| Some((rank(&mesh.virtual_services[i as usize])?, i)))
        .collect();
    ranked.sort_unstable();
    ranked.dedup();
    let imported = |v: &&VirtualService| {
        let own = imports.classes.get(v.namespace.as_str());
        let excluded =
            |h: &str| own.is_some_and(|c| c.excludes(h)) || any.is_some_and(|c| c.excludes(h));
        // One made of a route of the Gateway API is imported as a Service is (`VSMatches`,
        // `useGatewaySemantics`).
        let by = |c: &HostClass<'_>, h: &str| match v.route {
            Some(_) => c.service(h),
            None => c.virtual_service(h),
        };
        let listed = |h: &str| own.is_some_and(|c| by(c, h)) || any.is_some_and(|c| by(c, h));
        v.hosts.iter().any(|h| listed(h) && !excluded(h))
    };
    ranked.into_iter().map(|(_, i)| &mesh.virtual_services[i as usize]).filter(imported).collect()
}
