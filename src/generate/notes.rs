//! What a reviewer must know beside the hosts: words for ambiguity, gaps and calls that no host
//! covers.

use std::collections::BTreeMap;

use super::known::Known;
use crate::cluster::{Cluster, Named};
use crate::model::{Dependency, Destination, Protocol, valid};
use crate::scope::Scope;

/// Whether a dependency is reason for a host: it leads to a Service or a ServiceEntry over TCP.
pub(super) fn needs_a_host(d: &Dependency) -> bool {
    d.key.protocol == Protocol::Tcp
        && match &d.key.destination {
            Destination::Service(_) | Destination::Ambiguous { .. } => true,
            Destination::External { namespace, .. } => namespace.is_some(),
            Destination::Pod { .. }
            | Destination::Infrastructure { .. }
            | Destination::Unresolved { .. }
            | Destination::Others { .. } => false,
        }
}

/// Of what was learned.
pub(super) fn of_dependencies(known: &Known, notes: &mut Vec<String>) {
    for d in &known.past {
        let (to, port, n) = (&d.key.destination, d.key.port, d.tally.connections);
        notes.push(format!(
            "{n} connections to {to}:{port} went past the proxy, by a port or range that its pods exclude: no host does anything \
             for them"
        ));
    }
    // Envoy captures TCP only.
    for d in known.dependencies.iter().filter(|d| d.key.protocol == Protocol::Tcp) {
        let (port, n, to) = (d.key.port, d.tally.connections, &d.key.destination);
        match to {
            Destination::Service(_) | Destination::Infrastructure { .. } => {}
            Destination::Ambiguous { .. } => {
                notes.push(format!("{n} connections went to one of {to}: nothing on the wire told which, so all are listed"))
            }
            Destination::External { namespace: Some(_), .. } => {}
            Destination::External { .. } => {
                notes.push(format!("{to}:{port} is outside the mesh and no ServiceEntry holds it: there is no host to list"));
            }
            Destination::Pod { .. } => {
                notes.push(format!("{n} connections called pods of {to} directly on port {port}: no host covers a pod address"))
            }
            Destination::Others { why: None, .. } => notes.push(format!(
                "{n} connections went to {to}: more hosts outside the mesh than are listed one by one; a ServiceEntry that \
                 was made for one of them since is not looked for"
            )),
            Destination::Others { why: Some(why), .. } => notes.push(format!(
                "{n} connections to {to} could not be resolved ({why}): what they need is missing here"
            )),
            Destination::Unresolved { why, .. } => notes
                .push(format!("{n} connections to {to}:{port} could not be resolved ({why}): what they need is missing here")),
        }
        let named = match to {
            Destination::External { host, namespace: Some(_), .. } => host.as_ref(),
            _ => None,
        };
        for name in
            named.into_iter().chain(d.addressed.keys()).filter(|n| !valid::is_wildcard_host(n))
        {
            notes.push(format!(
                "{name} was named on the wire and is no valid host name: it is never listed, and what is listed keeps its route"
            ));
        }
        if let Some(missed) = d.scope_miss {
            notes.push(format!(
                "scope miss: {} connections reached {to}:{port} at the Service's own address, outside the mesh",
                missed.connections
            ));
        }
    }
}

/// Hosts that were looked up and not called.
pub(super) fn never_called(
    cluster: &Cluster,
    known: &Known,
    full: &Scope<'_>,
    hosts: &[String],
    rejected: &BTreeMap<String, String>,
    notes: &mut Vec<String>,
) {
    let listed =
        |namespace: &str, host: &str| hosts.iter().any(|h| *h == format!("{namespace}/{host}"));
    let mut by_proxies: Vec<&str> = Vec::new();
    for l in &known.lookups {
        let covered = match cluster.named(&l.host, "") {
            Named::Service { service, .. } => {
                service.control_plane || listed(&service.namespace, &service.host)
            }
            Named::Entry(entries) => entries.iter().any(|e| listed(&e.namespace, &e.host)),
            Named::Unknown => true,
        };
        // A VirtualService may have led it elsewhere, and is listed under its own namespace then.
        let by_rule = full
            .listeners
            .iter()
            .flat_map(|l| &l.virtual_services)
            .any(|v| v.hosts.contains(&l.host) && listed(&v.namespace, &l.host));
        if !covered && !by_rule && cluster.proxies_resolve(&l.host) {
            by_proxies.push(&l.host);
        } else if !covered && !by_rule && !rejected.contains_key(&l.host) {
            notes.push(format!(
                "{} was looked up and no connection to it was seen: a VirtualService may lead it elsewhere, or the proxy refused \
                 the call",
                l.host
            ));
        }
    }
    if !by_proxies.is_empty() {
        notes.push(format!(
            "{} were looked up and no connection to them was seen: a proxy looks up by itself what a ServiceEntry leaves to the DNS, \
             called or not",
            by_proxies.join(", ")
        ));
    }
}
